/* SPDX-License-Identifier: MIT */
/* The 9P door: serves trees over 9P connections. */
#ifndef DOORS_P9_H
#define DOORS_P9_H

#include "base/stats.h"
#include "channel/channel.h"
#include "p9/conn.h"
#include <plenum/tree.h>

/* What is exported: trees by attach name. An aname finds the export of exactly that name, else the
 * export named "" with the aname as a path beneath it. Trees are referenced, not taken over. */
struct p9_export {
    const char *aname;
    struct pl_tree *tree;
};

struct p9_door; /* exports, crew, counters; serves any number of connections */
int p9_door_new(const struct p9_export *exports, size_t n, struct p9_crew *crew,
                struct stats *stats, struct p9_door **ret);
void p9_door_free(struct p9_door *door); /* after its connections are freed */
/* Of all connections made from now on (p9/link.h); what it points to must outlive them. */
void p9_door_link(struct p9_door *door, const struct p9_link_opts *link);

/* Serves one connection; with `use`, its using half is the caller's to drive (a duct). `uid`: what
 * the channel proved about the peer ((uid_t)-1: nothing): a peer that is not root and not us may
 * act only as that uid. When this process is not root everything happens as its own user anyway. */
int p9_door_conn(struct p9_door *door, struct chan *chan, bool use,
                 void (*over)(void *arg, int error, const char *sentence), void *over_arg,
                 struct p9_conn **ret, struct pl_err *err);

#endif
