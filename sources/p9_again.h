/* SPDX-License-Identifier: MIT */
/*
 * How a tree over 9P outlives its connection.
 *
 * Generations. Each connection of a tree is a generation, from 1. A thread of the tree's own
 * (p9_again.c) waits for the end of the connection, asks for another, makes there what must be
 * there at once, and only then lets callers go on. A caller *pins* the generation for as long as it
 * has a request under way; the thread changes nothing before the last pin is gone. So who holds a
 * pin never waits for the next generation: it finishes all that it has under way, and then sends
 * again, one request after the other (p9_rpc.c).
 *
 * Fids. Their numbers are the tree's and outlive the connection, so that a request can be sent
 * again as it was. Each has a record of how it is made again (p9_remake.c), and of the generation
 * in which it was last there. Before a message is sent, the fids that it names are made sure of.
 * Attaches and open files are made again at once, fids of nodes when they are next used: a million
 * known nodes do not mean a million messages.
 *
 * Finding the object. By its key, where the peer has keys and it was learned (with the first open
 * of the file); else by its place: the directory and the name under which it was last seen, and so
 * on up to a fid that is there (p9_place.c). What is found must have the same qid.path, type and
 * birth time; else -ESTALE, upon which the kernel looks the name up anew.
 *
 * Twice. What was under way when the connection was lost is sent again if that does no harm: which
 * messages these are is said by the table in p9_repeat.c. The others carry an operation identity
 * where the peer remembers operations; trees that share a connection are one client there, and
 * share the numbers (p9/conn.h). Where it does not, and some of the message had gone out, the
 * answer is -EREMOTEIO.
 *
 * Locks. again.mutex guards the state, pins, the list of open files and `busy` of the
 * records. A record is otherwise written by who makes the fid, before others know the number, or by
 * who has set `busy`. tree.mutex guards places and what is held of locks. Neither is taken with the
 * other held.
 */
#ifndef SOURCES_P9_AGAIN_H
#define SOURCES_P9_AGAIN_H

#include "sources/p9_tree.h"

enum p9s_state { P9S_UP, P9S_DOWN, P9S_DEAD };

/* How a fid is made again. */
enum p9s_how {
    P9S_FREE,
    P9S_ATTACH, /* more.name is the user's name, more.n_uname its number */
    P9S_OBJECT, /* `node` as `user`; or, with more.name, that entry of the directory `node` */
    P9S_STEP,   /* not by itself: -ERESTART, the op is to be done again from its start */
};

struct p9s_more {
    char *name;
    uint32_t n_uname;
    struct p9_qid qid; /* of the named entry, once learned */
    bool known, open;
    uint32_t flags;        /* of Tlopen; the mode of Topen */
    struct p9s_file *file; /* whose fid it is */
};

struct p9s_rec {
    _Atomic uint32_t gen; /* it is there in this one; 0: in none */
    uint8_t how;
    bool busy; /* it is being made again */
    const struct p9s_user *user;
    struct p9s_node *node;
    struct p9s_more *more;
};

enum { P9S_RECS = 4096 }; /* a page of records */

struct p9s_again {
    int (*again)(void *arg, struct pl_call *call, struct p9_conn *old, struct p9_conn **ret,
                 struct pl_err *err);
    void (*changed)(void *arg, const char *sentence);
    void *arg;
    int64_t soft;
    bool live; /* the thread runs: from here on the end of a connection is waited out */
    pthread_t thread;
    struct pl_call call; /* the thread's, cancelled at the tree's end */

    pthread_mutex_t mutex;
    pthread_cond_t cond; /* broadcast: state, pins, busy */
    enum p9s_state state;
    uint32_t gen; /* changed only while nobody pins it */
    unsigned pins;
    int64_t down_since, relock_until;
    bool remembers, knows;  /* the peer, of operations in general; of our earlier ones */
    struct p9s_file *files; /* open ones */
    struct orphan {
        uint32_t fid, gen;
    } * orphans;
    size_t norphans, cap_orphans;
    _Atomic(struct p9s_rec *) recs[LIMIT_FIDS / P9S_RECS];
};

/* ---- p9_again.c ---- */
struct p9s_again *p9s_again_new(const struct pl_p9_opts *opts);
int p9s_again_start(struct p9s_tree *t); /* the thread; when all else is ready */
void p9s_again_stop(struct p9s_tree *t); /* from here on nothing is waited for */
void p9s_again_free(struct p9s_again *a);
/* Waits until there is a server, and pins the connection: 0, -EINTR, -ETIMEDOUT (of the call, or
 * soft), -ECONNABORTED when there will be none. Without `again` always 0. */
int p9s_pin(struct p9s_tree *t, struct pl_call *call);
/* The same without waiting. */
bool p9s_try_pin(struct p9s_tree *t);
/* The connection's number, as it is just now; without `again` always 0. */
uint32_t p9s_generation(struct p9s_tree *t);
void p9s_unpin(struct p9s_tree *t);
/* A request got -ECONNABORTED, and the caller has its pin yet: true when it may wait for the next
 * connection. */
bool p9s_lost(struct p9s_tree *t);
/* Waits on again.cond, with the mutex, for a condition that the caller looks at; until the call
 * ends or `until` (0: never). The call must know how to wake us: see p9s_block(). */
void p9s_wait_cond(struct p9s_again *a, struct pl_call *call, int64_t until);
int p9s_block(struct p9s_again *a, struct pl_call *call);
/* An identity for the message, if the peer would remember it; waits for the window. */
int p9s_op_begin(struct p9s_tree *t, struct pl_call *call, struct p9_msg *m, bool wait);
void p9s_op_end(struct p9s_tree *t, const struct p9_msg *m);

/* ---- p9_repeat.c ---- */
enum p9s_repeat {
    P9S_FREELY, /* it changes nothing, or nothing that outlives the connection */
    P9S_SAME,   /* done twice is as done once */
    P9S_ONCE,   /* only where the server knows whether it was done */
};
enum p9s_repeat p9s_repeat(const struct p9_msg *m);
/* It may carry an identity. */
bool p9s_has_op(const struct p9_msg *m);
/* The fids that it names as being there: their number. */
int p9s_names(const struct p9_msg *m, uint32_t fids[3]);

/* ---- p9_remake.c ---- */
/* The record of a fid's number; NULL: no memory (once it was there, it always is). */
struct p9s_rec *p9s_rec(struct p9s_tree *t, uint32_t fid);
/* Makes sure of the fids that a message names. With a pin. */
int p9s_ensure(struct p9s_tree *t, struct pl_call *call, const struct p9_msg *m);
int p9s_ensure_fid(struct p9s_tree *t, struct pl_call *call, uint32_t fid);
/* They are all there already. With a pin. */
bool p9s_there(struct p9s_tree *t, const struct p9_msg *m);
/* The message is about to be sent, was answered: what it makes of fids. */
void p9s_note_sent(struct p9s_tree *t, const struct p9_msg *m);
void p9s_note_done(struct p9s_tree *t, const struct p9_msg *m, const struct p9_answer *a);
/* The fid is from now on that of a node, of an open file. */
void p9s_rec_node(struct p9s_tree *t, uint32_t fid, const struct p9s_user *user,
                  struct p9s_node *node);
void p9s_rec_file(struct p9s_tree *t, struct p9s_file *f, struct p9s_node *node, int flags);
void p9s_rec_user(struct p9s_tree *t, uint32_t fid, const struct p9s_user *user,
                  struct p9s_node *root);
/* Forgets it: true if it is there, at the server that is there now. With a pin or without. */
bool p9s_rec_drop(struct p9s_tree *t, uint32_t fid);
/* It is there, or is not, at a connection that is not ready yet: to be clunked when it is. */
void p9s_orphan(struct p9s_tree *t, uint32_t fid);
/* At a new connection: attaches and open files. */
int p9s_remake_all(struct p9s_tree *t, struct pl_call *call, struct pl_err *err);

/* It is there at the server that is there now. With a pin. */
bool p9s_fid_is_there(struct p9s_tree *t, uint32_t fid);
/* The number is to be free at the server, whatever it is there. */
void p9s_fid_clear(struct p9s_tree *t, uint32_t fid);
/* A negative errno when an open file had what no server can give it again. */
int p9s_gone_with_it(struct p9s_file *f);
/* Opens a fid that was made again as it was open. */
struct p9_msg p9s_reopen_msg(const struct p9s_tree *t, uint32_t fid, const struct p9s_more *more);

/* ---- p9_reopen.c ---- */
int p9s_reopen_all(struct p9s_tree *t, struct pl_call *call);

/* ---- p9_relock.c: what is held of locks ---- */
void p9s_held_set(struct p9s_tree *t, struct p9s_file *f, const struct pl_lock *lock);
void p9s_held_close(struct p9s_tree *t, struct p9s_file *f);
/* Takes them again through the file's fid: -EIO when one is lost. */
int p9s_relock(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f);

#endif
