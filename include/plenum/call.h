/* SPDX-License-Identifier: MIT */
/*
 * A call: who asks, and until when.
 *
 * Every op of a tree gets a `struct pl_call`. The door that took the request makes it, on its own
 * stack, and it lives exactly as long as the op. It is an argument, never thread-local.
 *
 * Cancellation: the door may cancel a call from another thread (Tflush, FUSE_INTERRUPT, a client
 * that died). An op that can wait long must heed it:
 *
 *     static void wake(void *arg) { struct thing *t = arg; lock; broadcast; unlock; }
 *
 *     int r = pl_call_block(call, wake, t);        // not holding t's lock
 *     if (r < 0) return r;                         // cancelled already
 *     lock(t);
 *     while (!t->ready && !(r = pl_call_over(call)))
 *         pl_call_wait(call, &t->cond, &t->mutex); // until signalled or the deadline
 *     unlock(t);
 *     pl_call_unblock(call);                       // wake() will not run after this
 *     return r;
 *
 * Telling the door by pl_call_block() that this thread is about to wait also lets the door put
 * another thread in its place; a wait without it stalls others for up to a few milliseconds.
 */
#ifndef PLENUM_CALL_H
#define PLENUM_CALL_H

#include <plenum/error.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

struct pl_cred {
    uid_t uid;
    gid_t gid;
    uint32_t ngroups; /* supplementary groups; read them through pl_call_groups() */
    const gid_t *groups;
};

/*
 * What an op leaves behind for a successor that has to know whether it was done: the server may be
 * killed between the deed and the word of it. A source that can notes it just before the deed; it
 * is in memory that outlives the process.
 */
struct pl_intent {
    _Atomic uint64_t ino;   /* remove: of what is about to lose the name; rename: of what moves;
                               make, link, create: of what has the name already, or PL_NOTHING */
    _Atomic uint64_t ino2;  /* rename: of what the new name stood for, 0: nothing */
    _Atomic uint32_t born;  /* pl_birth() of what `ino` is, which tells it from another that gets
                               the number later; noted before `ino`; 0: not known */
    _Atomic uint32_t born2; /* the same of what `ino2` is */
    _Atomic uint64_t size1; /* an appending write, and an open with O_TRUNC: the file's size
                               before, plus 1; 0: not noted */
};

/* A time of birth (pl_attr.btime) as an intent has it: 0 only when it is not known. */
static inline uint32_t pl_birth(struct timespec t)
{
    uint64_t ns = (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
    return ns ? (uint32_t)(ns * 0x9e3779b97f4a7c15u >> 32) | 1 : 0;
}

#define PL_NOTHING UINT64_MAX /* there is nothing of that name; 0: not noted */

struct pl_node;

struct pl_call {
    struct pl_cred cred;
    pid_t pid;        /* the calling process in our pid namespace, 0 when unknown or elsewhere */
    mode_t umask;     /* not yet applied to the modes of created files; 0 when the peer did */
    int64_t deadline; /* CLOCK_MONOTONIC nanoseconds, 0: none */
    /* What the door may set before it starts the op. */
    void (*blocks)(struct pl_call *);     /* the op is about to wait: let others have the thread */
    int (*load_groups)(struct pl_call *); /* fills cred.groups on first use; see pl_call_groups */
    void *door;                           /* the door's own */
    struct pl_intent *intent;             /* or NULL: nobody wants to know */
    bool own;  /* asked by the door for itself: a key that is to be found comes from its own ledger,
                  not from a client who may have made it up; what is to be opened somebody has open
                  already, as far as he knows, and what an xattr is to be read or set of is for it:
                  a source that is its owner gives itself the right if the mode has none */
    bool plus; /* readdir: the entries are wanted with their attributes */
    struct pl_node *beneath; /* what a key finds must be this directory or below it; NULL: anywhere
                                in the tree */
    /* Private to call.c. */
    atomic_int cancelled;
    bool told, groups_loaded;
    pthread_mutex_t lock; /* guards wake, wake_arg against pl_call_cancel */
    void (*wake)(void *);
    void *wake_arg;
};

/* Prepares a call on behalf of uid:gid, with no groups, no deadline, not cancelled. */
PL_API void pl_call_init(struct pl_call *call, uid_t uid, gid_t gid);
/* A call on behalf of this process itself: effective uid, gid and supplementary groups. */
PL_API void pl_call_init_self(struct pl_call *call);
PL_API void pl_call_done(struct pl_call *call);

/* The caller's supplementary groups, fetched from the door on first use.
 * Returns 0, or a negative errno when the door cannot tell (then there are none). */
PL_API int pl_call_groups(struct pl_call *call);

/* -EINTR when cancelled, -ETIMEDOUT when past the deadline, else 0. Never blocks. */
PL_API int pl_call_over(struct pl_call *call);

/* Cancels: sets the flag and runs the registered wake function. Any thread; idempotent. */
PL_API void pl_call_cancel(struct pl_call *call);

/* The op is about to wait: registers `wake(arg)`, to be run if the call is cancelled.
 * Returns 0, or -EINTR / -ETIMEDOUT when it is over already (then nothing is registered).
 * Call it without holding a lock that wake() takes. */
PL_API int pl_call_block(struct pl_call *call, void (*wake)(void *), void *arg);
/* Ends the registration; when it returns, wake() is not running and will not run. */
PL_API void pl_call_unblock(struct pl_call *call);

/* pthread_cond_wait on a condition made with pl_cond_init, but no longer than the deadline. */
PL_API void pl_call_wait(struct pl_call *call, pthread_cond_t *cond, pthread_mutex_t *mutex);
/* A condition variable whose timed waits use CLOCK_MONOTONIC. */
PL_API void pl_cond_init(pthread_cond_t *cond);

/* Sleeps for `ns` nanoseconds unless the call ends first: 0, -EINTR or -ETIMEDOUT. */
PL_API int pl_call_sleep(struct pl_call *call, int64_t ns);

#endif
