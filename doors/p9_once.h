/* SPDX-License-Identifier: MIT */
/*
 * Operations that are done once, of the 9P door (docs/9p-extensions.md, "Operations").
 *
 * A client that said Tsession has a memory here: a slot for each of its last LIMIT_SESSION_OPS
 * operations. Before an operation is carried out its slot says what was asked, and the tree notes
 * in it what is there before the deed (struct pl_intent); after it the slot has the answer. So a
 * message that comes again is
 *
 *   answered, if the slot is DONE; what the fids were to become they become (p9d_again);
 *   judged by the evidence, if it is BEGUN by a server that is dead (p9d_redo);
 *   carried out, if it is CALLED OFF or not known.
 *
 * The memory of a client is a file, named by its id, which is mapped shared while the client is
 * connected: what is stored there outlives this process, at the price of a store. It does not
 * outlive the machine (it says in which boot it was made), because nothing here is ever flushed.
 * An flock tells that a server has it; another server of the same tree that meets the client
 * meanwhile gives it a memory of its own. Where there is no directory for files, or the tree itself
 * ends with the process, the memory is private.
 *
 * Everything in a file is written by plain stores in an order that makes sense at every instant
 * (`state` last), and checked by sums when it is found again; nothing in it is used as an index or
 * a length.
 *
 * Locks. `once.judging` is held while one operation is judged, so that what it takes for its own is
 * no other's. `once.mutex` guards the table of clients, which session each has, and all work on
 * files. `client.mutex` guards which slots are in use, and of a slot that is not what is in it; one
 * that is in use is its request's. Order: judging, once.mutex, client.mutex; and once.mutex before
 * a connection's own lock: p9_conn_drop() is called with it, which takes no lock of a handler's.
 */
#ifndef DOORS_P9_ONCE_H
#define DOORS_P9_ONCE_H

#include "doors/p9_door.h"
#include <uthash.h>

#define ONCE_WHO 96 /* of chan.who */

/* ---- the file ---- */

enum once_state {
    ONCE_FREE,
    ONCE_BEGUN,      /* it may have been done */
    ONCE_DONE,       /* the answer stands */
    ONCE_CALLED_OFF, /* it was not done, and is to be done when it comes again */
};

struct once_slot {
    uint64_t op;
    _Atomic uint8_t state; /* of enum once_state; set last */
    _Atomic uint8_t xattr; /* what was there: of enum once_there */
    uint8_t type, qid_type;
    int32_t error;  /* answered */
    uint64_t hash;  /* p9_msg_hash() of what was asked */
    uint64_t began; /* just before the deed, of redo_now() */
    uint64_t from;  /* the same, CLOCK_MONOTONIC ns */
    uint64_t name;  /* a hash of the name that it is about */
    uint64_t asked; /* sum of the above, less the state */
    struct pl_intent intent;
    /* The rest of the answer. */
    uint32_t qid_version, iounit;
    uint64_t qid_path;
    uint64_t count;
    uint64_t to;       /* when it was done, CLOCK_MONOTONIC ns: before the `from` of another op,
                          of whatever client and server, means that it was over before that */
    uint64_t answered; /* sum of the answer */
};
enum once_there { ONCE_ABSENT = 1, ONCE_THERE };

struct once_head {
    _Atomic uint32_t magic; /* set last */
    uint32_t version;
    uint64_t what; /* a hash of what is served */
    char boot[40];
    uint64_t id[2];
    char who[ONCE_WHO];
    uint64_t sum; /* of the above */
    _Atomic uint32_t connected;
    _Atomic uint64_t newest; /* the highest op that is over; 0: none is */
};

struct once_file {
    struct once_head head;
    struct once_slot slot[LIMIT_SESSION_OPS];
};

/* Where the files of one served tree are. */
struct once_store {
    int dir; /* -1: nowhere, memory is private */
    uint64_t what;
    char boot[40];
};
/* A directory beneath `parent` for what is served. A negative errno when there can be none. */
int once_store_open(struct once_store *st, int parent, const char *what);
void once_store_close(struct once_store *st);
/* The memory of a client, mapped and locked: 1 it was there, 0 it is new; -EBUSY: another server
 * has it; -EPERM: it is another's; or why there can be none. */
int once_file_open(struct once_store *st, const uint64_t id[2], const char *who,
                   struct once_file **ret, int *ret_fd);
/* Lets go of it; `forget`: for good. */
void once_file_close(struct once_store *st, struct once_file *file, int fd, bool forget);
/* Removes what has been there for too long and, when there are more than `max`, the oldest; before
 * them those without any operation: a stranger who may not attach does not drive others out. */
void once_store_prune(struct once_store *st, unsigned max);
/* A copy of each file of the store. Its slots are not checked. */
void once_store_each(struct once_store *st, void (*fn)(void *arg, const struct once_file *),
                     void *arg);
bool once_slot_ok(const struct once_slot *s, unsigned i);
struct once_file *once_file_private(struct once_store *st, const uint64_t id[2], const char *who);
uint64_t once_sum_asked(const struct once_slot *s);
uint64_t once_sum_answered(const struct once_slot *s);

/* ---- clients ---- */

struct once_client {
    UT_hash_handle hh; /* in once.clients */
    uint64_t id[2];
    struct once_file *file;
    int fd;                      /* -1: private */
    uint64_t had;                /* CLOCK_REALTIME ns: since when no other server has it */
    struct p9d_session *session; /* NULL: not connected */
    unsigned claims, waiting;    /* connections that came for it; those that wait for the last */
    int64_t left;                /* when it was last connected, if it is not */
    char who[ONCE_WHO];
    pthread_mutex_t mutex;
    pthread_cond_t over; /* an operation is over */
    bool running[LIMIT_SESSION_OPS];
};

struct once {
    pthread_mutex_t mutex;
    pthread_cond_t left; /* a session is over, or a claim */
    struct once_store store;
    struct once_client *clients;
    pthread_mutex_t judging;     /* one at a time: what one has claimed the next must not */
    pthread_mutex_t appends[64]; /* by node: see p9d_write2() */
    unsigned crash_point;
    atomic_uint crash_count;
};

int once_new(struct once **ret);
void once_free(struct once *once);
/* The session is over; forget: for good. No request of it runs. */
void p9d_once_leave(struct p9d_session *s, bool forget);
/* The request, which has an op. As of a handler. */
int p9d_once(struct p9d_op *op);
/* Before the deed, when all else is ready. */
void p9d_once_begun(struct p9d_op *op);
/* Has another operation that is remembered, and was not over when this one was begun, made the
 * object of that number under the same name; taken away that name of it; or appended as much to a
 * file of that size (plus 1)? Waits for those that are at it. */
enum once_claim { ONCE_MADE, ONCE_REMOVED, ONCE_APPENDED };
bool p9d_once_claimed(struct p9d_op *op, enum once_claim what, uint64_t number);
uint64_t once_name_hash(const char *name);

static inline pthread_mutex_t *once_append_lock(struct once *once, const struct pl_node *node)
{
    size_t n = sizeof(once->appends) / sizeof(*once->appends);
    return &once->appends[(uintptr_t)node / 64 % n];
}

/* Is there such an attribute? Of enum once_there, or 0. (p9_xattr.c) */
uint32_t p9d_xattr_there(struct p9d_op *op, struct p9d_fid *fid, const struct p9d_xattr *x);

/* ---- p9_redo.c ---- */
/* What is in a DONE slot is answered again, and its effects on fids are made anew. */
int p9d_again(struct p9d_op *op);
/* What a dead server had begun: the answer, or -EREMOTEIO when it cannot be told. */
int p9d_redo(struct p9d_op *op);

/* ---- tests: PLENUM_CRASH=POINT:N dies by SIGKILL the N-th time that it comes to the point ---- */
#define ONCE_POINTS(X) X(session) X(known) X(begun) X(deed) X(answered) X(redo)
enum once_point {
    ONCE_NOWHERE,
#define X(name) ONCE_AT_##name,
    ONCE_POINTS(X)
#undef X
        ONCE_POINT_COUNT
};
void once_point_slow(struct once *once);
static inline void once_point(struct once *once, unsigned point)
{
    if (__builtin_expect(once->crash_point == point, 0))
        once_point_slow(once);
}

#endif
