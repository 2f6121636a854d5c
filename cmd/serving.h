/* SPDX-License-Identifier: MIT */
/* A tree at addresses: what `plenum serve` and pl_main do. */
#ifndef CMD_SERVING_H
#define CMD_SERVING_H

#include "channel/channel.h"
#include <plenum/tree.h>

struct serving {
    const char *prefix; /* of what is printed: "plenum: serve" */
    const char *text;   /* the SPEC, for status and messages */
    struct pl_tree *tree;
    char *const *addrs;
    size_t n;
    struct chan_listen_opts listen;
    /* Operations of clients are remembered beyond this process, if that can be: where (NULL: the
     * usual place; "none": nowhere), and what is served, the same in every run (NULL: nobody serves
     * it again). */
    const char *state, *what;
    const char *access; /* the access file, read again on SIGHUP; or NULL */
    const char *marker; /* printed on standard output before the first connection; or NULL */
    bool remote;        /* the far end of an ssh, which may come back: `marker` is its token */
    int64_t linger;     /* ns; so long a link that is down is waited for at most; 0: no links */
    bool once;          /* ends after the first connection */
    bool quiet;
    bool confine; /* to what the tree needs (base/confine.h): no program of its own is behind it */
};

/* Serves until SIGINT, SIGTERM or (without an access file) SIGHUP, until the one connection ended
 * (once), or until all did when none of the addresses is one to listen at. The exit status; what
 * went wrong is printed. Drops `tree`. */
int serving_run(const struct serving *s);

/* p9_door_remember() for what is the same in every run, at `state` (NULL: the usual place). */
struct p9_door;
int serving_remember(struct p9_door *door, const char *state, const char *what);

#endif
