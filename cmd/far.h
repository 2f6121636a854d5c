/* SPDX-License-Identifier: MIT */
/*
 * The far end: dialed, and dialed again.
 *
 * What outlives a break of the channel is told in docs/links.md. Here is who dials: for a link that
 * is down (p9/link.h: the same connection goes on over another channel), and for a tree whose
 * connection was lost for good (sources/p9.h: another connection, to the same server or the next).
 * A far end is some addresses, in order, or an ssh.
 *
 *     far_new -> far_dial (or far_take) -> far_use -> far_tree, for each tree -> far_end
 *
 * A far end of one tree belongs to that tree, with its connections, and goes with it. One that is
 * shared keeps its connections itself, and is freed by who made it.
 *
 * Which address. A link belongs to one server. When that one refuses, or has said nothing for
 * LIMIT_FAILOVER seconds, and another address does answer, then the link is given up for it; as
 * long as none answers the network is at fault, and the link is kept. A new connection goes to the
 * first address that takes it.
 *
 * Nothing is dialed again, and a break is the end, if linger is 0. If it is not said it is so
 * unless there is a network (or an ssh) in between: a unix socket, a command or a descriptor does
 * not break without its server. stdio and fd! cannot be dialed again at all.
 */
#ifndef CMD_FAR_H
#define CMD_FAR_H

#include "cmd/mountopt.h"
#include "cmd/sshlink.h"
#include "sources/p9.h"
#include <stdatomic.h>

struct far;

struct far_how {
    char *const *addrs; /* NULL-terminated; or NULL: ssh */
    const struct sshlink *ssh;
    const char *version;   /* p9_conn_opts.version */
    atomic_bool *redialed; /* set when the first ssh is dropped for another; or NULL */
    void *own;             /* memory for free(3), when the far end goes; or NULL */
    struct linkopt opts;
    bool shared; /* by several trees, or by nobody: connections are the far end's */
    /* Makes a connection of a channel, which it takes over unless it fails, with this link; its
     * `over` is to tell far_over(). NULL: one that only uses. */
    int (*connect)(void *arg, struct chan *chan, const struct p9_link_opts *link,
                   struct p9_conn **ret, struct pl_err *err);
    /* The end: nothing is dialed any more. Once; any thread; must not wait. May be NULL. */
    void (*lost)(void *arg, const char *sentence);
    /* It is down (why), or up again (NULL): one after the other, in some thread. While it is down,
     * once more for each other reason that somebody has to mend: who answers is not who it was, or
     * does not trust us. May be NULL. */
    void (*changed)(void *arg, const char *down);
    /* A connection is ready to be used. May be NULL. */
    void (*ready)(void *arg, const struct far *far, struct p9_conn *conn);
    const char *left; /* a link of ours whose process was killed: the other end is told, at the
                         first connection, that it need not keep it; "" or NULL: none */
    void *arg;
};

/* What `how` points to is copied, but for ssh, which must outlive it. -ENOMEM. */
int far_new(const struct far_how *how, struct far **ret);
/* Whether a break is not the end. */
bool far_again(const struct far *f);
/* The options as they turned out: none of them is -1. */
const struct linkopt *far_linkopt(const struct far *f);

/* What struct chan says of the other end. */
struct far_peer {
    char name[128];
    const char *note;
};
/* The first connection. Unless it is shared, it is the caller's until it has a tree. `peer` may be
 * NULL. */
int far_dial(struct far *f, struct far_peer *peer, struct p9_conn **ret, struct pl_err *err);
/* The same over a channel that is there, and that it takes over or closes: that of
 * sshlink_start_as() with `token`, whose ssh remains the caller's to wait for; or (NULL) of any
 * other origin. */
int far_take(struct far *f, struct chan *chan, const char *token, struct p9_conn **ret,
             struct pl_err *err);
/* p9_use(), and `ready` is told. */
int far_use(struct far *f, struct p9_conn *conn, struct pl_call *call, struct pl_err *err);
/* What the end of a connection that how.connect made is to be told (p9_conn_opts.over). */
void far_over(struct far *f, int error, const char *sentence);
/* The engine's sentence without the words that those who quote it say themselves. */
const char *far_reason(const char *sentence);
/* pl_p9_open() with what a tree needs to go on over another connection: fills in all of `opts` but
 * aname and uname. A far end that is not shared is the tree's if this succeeds. */
int far_tree(struct far *f, struct p9_conn *conn, struct pl_p9_opts *opts, struct pl_tree **ret,
             struct pl_err *err);
/* We end: what ends from now on is no loss, and a link that is down is given up. */
void far_end(struct far *f);
/* The connection in use; shared only. */
struct p9_conn *far_conn(struct far *f);
/* After its trees are gone, if it is shared or never had one, and before the crew. NULL is fine. */
void far_free(struct far *f);

#endif
