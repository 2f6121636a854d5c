/* SPDX-License-Identifier: MIT */
/* The far end of a 9P connection as a tree. */
#ifndef SOURCES_P9_H
#define SOURCES_P9_H

#include "p9/conn.h"
#include <plenum/tree.h>

/*
 * Attaches at `aname` over a connection whose using half is ready (p9_use). When this fails the
 * connection remains the caller's. Several trees may share one connection.
 *
 * Without `again` the tree is as dead as its connection when that is lost. With it the tree lives
 * on: at the end of its connection (the server was restarted; a link was given up; a stock server's
 * channel broke) it asks for another, attaches there, and has again at the new server what it had
 * at the old: attaches at once, then locks and open files (opened without O_CREAT, O_EXCL,
 * O_TRUNC), then, each when it is next used, the fids of nodes: by key, or by walking to the name
 * under which they were last seen and checking that it is the same object (-ESTALE when it is not).
 * Locks that another has taken meanwhile are lost: I/O on such an open file is -EIO from then on,
 * and the log says so.
 *
 * What was under way: requests that change nothing are sent again. One that changes something
 * carries an identity (docs/9p-extensions.md, Operations), and is sent again as it was: the server
 * answers what it answered before, or carries it out. If the server cannot know (a stock server;
 * one of ours that has lost its memory) the request fails with -EREMOTEIO, which means: it may or
 * may not have been done.
 *
 * Until the new connection is there callers wait, heeding their call; after `soft` all get
 * -ETIMEDOUT at once, until it is there. When `again` fails for good the tree is dead.
 */
struct pl_p9_opts {
    const char *aname; /* NULL: "" */
    /* NULL or our own: as this user, and if we are root as each caller (an attach for every uid
     * that calls). The name of another: everything happens as that user. */
    const char *uname;
    bool own; /* the tree owns the connection: its end says goodbye (p9_use_end) and frees it */
    /* Another connection to the same server (or to the next that serves the same), its using half
     * ready; it is the tree's if `own`. `old` is over, and the caller's to free if not `own`.
     * Blocks, and dials again until it has one; heeds the call (a tree that ends cancels it). A
     * negative result is final. One call at a time for a tree; trees that share a connection each
     * call. */
    int (*again)(void *arg, struct pl_call *call, struct p9_conn *old, struct p9_conn **ret,
                 struct pl_err *err);
    void *again_arg;
    /* May be NULL: the tree has ended, and its connection too if it was its own. */
    void (*done)(void *again_arg);
    int64_t soft; /* ns; 0: hard */
    bool sync;    /* nothing is read ahead, and nothing written behind (docs/far.md) */
    /* ns; the same if a round trip is found to be shorter than this while attaching: then it costs
     * more, a copy of every byte, than it gains. 0: however short. */
    int64_t near;
    /* May be NULL: the tree is without a server (with the sentence), or has one again (NULL). */
    void (*changed)(void *again_arg, const char *sentence);
};
/* `near` that suits most: any socket of this machine, and no network's. */
#define PL_P9_NEAR 100000
int pl_p9_open(struct p9_conn *conn, const struct pl_p9_opts *opts, struct pl_tree **ret,
               struct pl_err *err);

#endif
