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

/* Who asks to attach, and for what. */
struct p9_asking {
    const char *who;          /* what the channel proved of it (struct chan); "": nothing */
    uid_t uid;                /* the same for a unix socket's, else (uid_t)-1 */
    const char *aname, *name; /* `name` in the tree of export `aname`: what was asked for is both */
};
enum p9_as {
    P9_AS_CLAIMED, /* by the door's own rule, below */
    P9_AS_USER,    /* `uid` */
    P9_AS_CALLER,  /* whom the client says, but root only if the channel proved that; else nobody */
    P9_AS_ROOT,    /* whom the client says, root too */
    P9_AS_MAP,     /* the user of the server that `map` says */
};
struct p9_admitted {
    struct pl_tree *tree; /* a reference; the export's own, or one over it, with the same nodes */
    enum p9_as as;
    uid_t uid;
    struct pl_map *map; /* a reference, or NULL */
};
/* Decides at every Tattach, before there is a fid, and at every Tauth. 0, or -EACCES and the like,
 * which is the answer. Any thread. NULL: all may attach, by the rule below. */
typedef int p9_admit_fn(void *arg, const struct p9_asking *asking, struct pl_tree *tree,
                        struct p9_admitted *ret);
void p9_door_admit(struct p9_door *door, p9_admit_fn *admit, void *arg);
/* Operations of clients are remembered (docs/9p-extensions.md) in files beneath the directory
 * `dir`, which nobody else may write to, so that they outlive this process: whoever serves the same
 * (`what` says what, the same in every run) finds them there. Before the first connection. Without
 * it, and where there can be none (a negative errno; -ENOTSUP: a tree does not outlive the process
 * either), they are remembered for as long as the door lives. `dir` stays the caller's. */
int p9_door_remember(struct p9_door *door, int dir, const char *what);

/* Serves one connection; with `use`, its using half is the caller's to drive (a duct). `uid`: what
 * the channel proved about the peer ((uid_t)-1: nothing): a peer that is not root and not us may
 * act only as that uid; one that came with a certificate or a key (chan->who) as nobody. When this
 * process is not root everything happens as its own user anyway. */
int p9_door_conn(struct p9_door *door, struct chan *chan, bool use,
                 void (*over)(void *arg, int error, const char *sentence), void *over_arg,
                 struct p9_conn **ret, struct pl_err *err);

#endif
