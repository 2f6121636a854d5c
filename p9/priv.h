/* SPDX-License-Identifier: MIT */
/*
 * Inside the engine.
 *
 *   wire.c   the channel: reads and writes that do not block the wrong thread
 *   out.c    messages on their way out: one queue, one writer at a time
 *   read.c   the reader: its role, framing, who gets a message
 *   serve.c  the serving half: requests, their order, their answers, Tflush
 *   hello.c  Tversion and Tend in both directions; p9_use, p9_use_end
 *   use.c    the using half: tags, callers that wait; use_cancel.c: those who give up
 *   fids.c   numbers for fids, which may outlive a connection
 *   conn.c   the life of a connection, and its end
 *   crew.c   threads
 *   due.c    what a peer has to do in time
 *
 * Locks. conn->lock guards everything in struct p9_conn that is not marked otherwise. crew->lock
 * guards the crew. Order: crew->active_lock, then conn->lock, then crew->lock. A pl_call's own lock
 * comes before conn->lock (its wake function takes that), so no call is ever cancelled or blocked
 * with conn->lock held. No lock is held during I/O or in a handler.
 *
 * The role of the reader. `rd` (the framing state) belongs to who holds the role and needs no lock
 * beyond that, but is only changed with conn->lock held, except by the bytes that the wire puts
 * into its buffers. A thread holds the role when role is ROLE_HELD and role_gen is the number it
 * was given; the tick may take it away while the holder runs an op, and only then.
 *
 * The link. What stands between the engine and the wire and outlives a broken channel is told in
 * link_priv.h. The engine knows of it by the functions below (link_read for wire_read, and so on),
 * which without a link are those of the wire; by LINK_STALL, which is neither an error nor a full
 * channel, but that nothing moves until somebody says so; and by conn->down: then nobody can have
 * the reader's role.
 */
#ifndef P9_PRIV_H
#define P9_PRIV_H

#include "base/futex.h"
#include "base/limits.h"
#include "p9/conn.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/uio.h>
#include <uthash.h>

struct p9_conn;

/* ---- crew.c ---- */

/* Something for a worker to do; embedded in what it is about. Queued at most once at a time. */
struct task {
    struct task *next;
    void (*run)(struct p9_conn *conn, struct task *task);
    struct p9_conn *conn;
    bool op; /* a request: may take long, and is bound by the connection's share of the workers */
    bool queued; /* guarded by crew->lock */
};

/* The connection's place in its crew. */
struct crew_place {
    UT_hash_handle hh;
    uint64_t id;   /* in epoll events, so that a stale one finds nobody */
    unsigned pins; /* this and the next three guarded by crew->lock: tasks and events under way */
    atomic_uint runs;                    /* threads that work for it, less those that wait */
    struct task *tasks, **tasks_tail;    /* queued; those that are no ops come first */
    struct p9_conn *next_q, *prev_q;     /* in crew->queue: those with tasks */
    struct p9_conn *next_act, *prev_act; /* guarded by crew->active_lock */
    bool active;                         /* guarded by crew->active_lock */
    bool pollable;                       /* its `in` can be in an epoll */
    uint64_t tick_seq;                   /* the tick's */
    int64_t look_at;                     /* guarded by crew->lock: when link_look is due, or 0 */
    size_t look_pos;                     /* where that is in crew->looks */
};

int crew_add(struct p9_crew *crew, struct p9_conn *conn, int fd);
/* Events of another descriptor, and none any more. With conn->lock held. */
void crew_watch(struct p9_crew *crew, struct p9_conn *conn, int fd);
void crew_unwatch(struct p9_crew *crew, struct p9_conn *conn, int fd);
/* A worker is to run conn->look_task at `at` (CLOCK_MONOTONIC ns), or sooner. */
void crew_clock(struct p9_crew *crew, struct p9_conn *conn, int64_t at);
/* A thread with the crew's signal mask and stack. */
int crew_thread(pthread_t *ret, void *(*run)(void *), void *arg);
/* Waits until no task or event of the connection is queued or runs. */
void crew_del(struct p9_crew *crew, struct p9_conn *conn);
/* One event, then none until armed again: `data` also when there is something to read. */
void crew_arm(struct p9_crew *crew, struct p9_conn *conn, int fd, bool data);
/* False when every thread is busy and no more may be started; the task is queued all the same. */
bool crew_submit(struct p9_crew *crew, struct task *task);
/* The thread, which works for `conn`, is about to wait, and is not counted until crew_unblock.
 * False at the hard limit. */
bool crew_block(struct p9_crew *crew, struct p9_conn *conn);
void crew_unblock(struct p9_crew *crew, struct p9_conn *conn);
/* True if others wait while all threads work: who could go on for ever gives way. */
bool crew_crowded(struct p9_crew *crew);
/* True if the worker that asks may run an op itself; else it is to be submitted. */
bool crew_may(struct p9_crew *crew, const struct p9_conn *conn);
/* True if the thread may wait for a while for more from one connection. */
bool crew_dwell(struct p9_crew *crew);
void crew_undwell(struct p9_crew *crew);
/* The tick looks at connections that are active. */
void crew_active(struct p9_crew *crew, struct p9_conn *conn, bool active);
/* An op starts in the reader: see that the tick runs. */
void crew_tick(struct p9_crew *crew);
/* Buffers for messages, with a small pool for large ones. NULL: no memory. */
void *crew_buf(struct p9_crew *crew, size_t n);
void crew_buf_free(struct p9_crew *crew, void *buf, size_t n);

/* Bytes of requests and answers of all connections, against LIMIT_BYTES_ALL. */
atomic_size_t *crew_bytes(struct p9_crew *crew);
/* ---- due.c ---- */

enum due {
    DUE_HELLO, /* a peer that called says Tversion, and we agree */
    DUE_WHOLE, /* the message that has begun is whole */
    DUE_TAKEN, /* an answer is taken */
    DUE_ROOM,  /* see whether there is room again */
    NDUES
};
/* With conn->lock held: `what` is due in that time, or not any more. */
void conn_due(struct p9_conn *c, enum due what, int64_t ns);
void conn_done(struct p9_conn *c, enum due what);
/* The same: ends the connection if it is late; when to look again, or 0. */
int64_t conn_look(struct p9_conn *c, int64_t now);
extern int64_t due_second; /* of the limits in base/limits.h, in ns: shorter for tests */

/* The time that `n` bytes get, at least. */
static inline int64_t due_for(int64_t seconds, uint64_t n)
{
    return (seconds + (int64_t)(n / LIMIT_SLOWEST)) * due_second;
}

/* ---- wire.c ---- */

struct wire {
    struct chan chan;
    int in, out; /* of it */
    bool in_sock, out_sock, timed;
    int out_nonblock; /* `out` opened anew with O_NONBLOCK, for what knows no RWF_NOWAIT; or -1 */
    bool no_nowait;
    bool dry; /* chan.io had nothing when it was last read */
    int cut;  /* an eventfd that becomes readable when the link is cut; -1 with sockets */
    int poke; /* another's, that becomes readable when who waits is to come out; or -1 */
    struct timeval old_timeout;
    bool lends;          /* a unix socket: descriptors can go along */
    atomic_bool borrows; /* they are wanted; the next are the reader's: */
    int lent[4];         /* those that have come, in order */
    unsigned nlent;
};
/* Takes the channel over (a copy of it), but does not close it. */
int wire_init(struct wire *w, const struct chan *chan, bool timed, int poke);
void wire_done(struct wire *w);
/* Some bytes; 0 the end; -EAGAIN when nothing came for `timeout` ms (-1: wait for ever); -EINTR
 * when poked: sockets heed that only after WIRE_DWELL, and if `timed`. */
ssize_t wire_read(struct wire *w, const struct iovec *iov, int n, int timeout);
/* There is something to read of which no poll or epoll tells. For the reader, or nobody reads. */
bool wire_pending(const struct wire *w);
/* What can be written without waiting, -EAGAIN when nothing. `lend`: NULL, or a descriptor that
 * goes along with the first byte; or does not, where the kernel will have no more of them. */
ssize_t wire_write(struct wire *w, const struct iovec *iov, int n, const int *lend);
/* The first descriptor that has come and was not taken, the caller's; or -1. For the reader. */
int wire_borrow(struct wire *w);
/* Waits until something can be written (or the wire is cut), or (if wanted) read: WIRE_OUT,
 * WIRE_IN; or WIRE_POKED, if `poke` is to be heeded; 0 after `timeout` ms. */
int wire_wait(struct wire *w, bool in, bool poke, int timeout);
enum { WIRE_IN = 1, WIRE_OUT = 2, WIRE_POKED = 4 };
/* Wakes all who wait; reads and writes fail from now on. */
void wire_cut(struct wire *w);
#define WIRE_DWELL 200 /* ms */

/* ---- the link ---- */

struct link;
#define LINK_STALL (-ENOLINK)
#define LINK_QUIET 1000000000LL /* ns */

/* As those of the wire. Also LINK_STALL: reading, the link is down (or its channel belongs to
 * another: link_move); writing, it is down or not yet agreed on, or what is not acknowledged is too
 * much: who changes that calls out_push. */
ssize_t link_read(struct p9_conn *c, const struct iovec *iov, int n, int timeout);
ssize_t link_write(struct p9_conn *c, const struct iovec *iov, int n, const int *lend);
int link_wait(struct p9_conn *c, bool in, bool poke, int timeout);
bool link_pending(const struct p9_conn *c);

/* With conn->lock held. Writing would be LINK_STALL; there is something to write of the link's own;
 * not all that was handed to it is on its way. */
bool link_stalled(struct p9_conn *c);
bool link_wants(struct p9_conn *c);
bool link_unsent(const struct p9_conn *c);
bool link_there(const struct p9_conn *c); /* or may be soon */
/* Somebody must read even when nobody waits. Not between the requests of a caller: arming an epoll
 * for each would cost more than all else that a link does; soon somebody looks (link_look). */
bool link_reads(const struct p9_conn *c);
/* Reading was LINK_STALL: the engine knows of it from now on; the channel is given away. */
void link_note(struct p9_conn *c);
void link_move(struct p9_conn *c);
/* The connection ends: cuts. */
void link_finish(struct p9_conn *c);
/* Nothing of the connection is wanted any more: it may as well have ended. */
bool link_may_end(const struct p9_conn *c);
/* The link is lost. */
void link_over(struct p9_conn *c, const char *what);
/* Something of the link's own is under way. */
bool link_busy(const struct p9_conn *c);
/* A frame is being written, so that no goodbye can be said now. */
bool link_amid(struct p9_conn *c);
/* Memory that is not needed while nothing moves. */
void link_rest(struct p9_conn *c);
/* The keepalive of a connection without a link begins. */
void link_watch_plain(struct p9_conn *c);

/* Without. link_new makes one if there is to be one. */
int link_new(struct p9_conn *c);
void link_final(struct p9_conn *c); /* closes what is open */
void link_free(struct p9_conn *c);
void link_task(struct p9_conn *c, struct task *task);
void link_look(struct p9_conn *c, struct task *task);

/* ---- out.c ---- */

/* A message on its way out. `gone` is called with conn->lock held, once, when it has been written
 * or will never be. */
struct out {
    struct out *next;
    const uint8_t *head, *data;
    uint32_t nhead, ndata, done;
    const int *lend; /* a descriptor that goes along (not over a link), or NULL */
    void (*gone)(struct p9_conn *conn, struct out *out);
};
/* What is to be sent for `m`, but for `gone`: its head is put to `small`, or if that is too small
 * to *ret_long, which is malloc()ed. Needs no lock. As p9_encode_head, or -ENOMEM. */
int out_encode(struct out *o, const struct p9_msg *m, uint8_t *small, size_t size,
               uint8_t **ret_long);
/* All with conn->lock held. */
void out_add(struct p9_conn *c, struct out *o);
/* Writes what is queued unless another thread does. Gives the lock up meanwhile. Never waits: what
 * cannot be written at once is left to a worker, which waits. */
void out_push(struct p9_conn *c);
/* The same, but a thread that is a worker waits itself: first hands the role over. */
void out_push_worker(struct p9_conn *c, uint64_t gen);
/* The same for a caller whose message is in the queue as long as p->queued: reads while it waits,
 * with the role that it holds (p->held, else 0). */
void out_push_caller(struct p9_conn *c, struct pl_call *call, struct p9_pending *p);
/* Takes a message out of the queue of which nothing is written. False: it is too late. */
bool out_remove(struct p9_conn *c, struct out *o);
/* Puts `to`, a copy, in the place of `from`. Nobody writes from it. */
void out_replace(struct p9_conn *c, struct out *from, struct out *to);
bool out_idle(const struct p9_conn *c);
void out_flush(struct p9_conn *c, struct task *task);

/* ---- read.c ---- */

#define RBUF_SIZE 8192

enum role {
    ROLE_NONE,    /* nobody reads */
    ROLE_ARMED,   /* the crew's epoll will tell */
    ROLE_OFFERED, /* a worker will come; who needs the role sooner takes it */
    ROLE_HELD,
    ROLE_STOPPED, /* too many requests are being served; goes on when one is answered */
};

struct req;
struct p9_pending;

enum rd_kind { RD_SMALL, RD_REQ, RD_ANSWER, RD_INTO };
struct rd {
    uint8_t *buf; /* RBUF_SIZE bytes, or NULL while idle */
    uint32_t start, end;
    uint32_t got;      /* by the last read */
    enum rd_kind kind; /* of the large message that is being read, whose rest goes to dst */
    uint8_t *dst;
    size_t left;
    struct req *req;
    struct p9_pending *pend;
    bool reading;  /* the wire has its hands on dst */
    bool any;      /* a message has come: the peer speaks 9P */
    bool answered; /* an answer was among what was read last */
};

/* With conn->lock held. */
uint64_t role_take(struct p9_conn *c); /* 0: it is not to be had */
bool role_mine(const struct p9_conn *c, uint64_t gen);
/* The holder gives it to who needs it. */
void role_pass(struct p9_conn *c);
/* The same, preferring a worker: the holder is about to wait. */
void role_offer(struct p9_conn *c);
/* After something changed: see that somebody reads where one must. */
void role_check(struct p9_conn *c);
/* The holder reads no more, until there is room for what it reads. */
void role_stop(struct p9_conn *c);
/* A reader in an op gives the role up: the op waits. */
void read_yield(struct p9_conn *c);
typedef bool ready_fn(struct p9_conn *c, void *arg);
/* The reader of a caller, until done(); gives the lock up meanwhile, and the role in the end. A
 * deadline (0: none) that passes ends it too. */
void read_call(struct p9_conn *c, uint64_t gen, ready_fn *done, void *arg, int64_t deadline);
/* Reads what is there, as reader; never waits. */
void read_ready(struct p9_conn *c);
/* Gives back what memory it can while nothing moves. */
void read_rest(struct p9_conn *c);
/* Drops what was half read; nobody holds the role. */
void read_drop(struct p9_conn *c);
/* Ends the connection with a sentence that quotes the few bytes that came. */
void read_garbage(struct p9_conn *c);

/* Without locks. A worker as reader, until the role is gone; as a task, if it is still offered. */
void read_serve(struct p9_conn *c, uint64_t gen);
void read_task(struct p9_conn *c, struct task *task);
/* The epoll told; the tick finds the reader in op number `seq` for long. */
void crew_event(struct p9_conn *c);
void read_stuck(struct p9_conn *c, uint64_t seq);

/* ---- serve.c ---- */

#define REQ_INLINE 512
#define TAG_CHAINS 64

struct req {
    struct p9_req pub;
    struct out out;                   /* from here to `small` zeroed for each */
    struct task task;                 /* to be run by a worker */
    struct req *chain;                /* in conn->reqs, by tag */
    struct req *flushes, *next_flush; /* Tflushes waiting for this one, in order */
    struct req *held, *next_held;     /* requests that name a fid which this one makes or frees */
    struct req *holder;               /* the other way round: it is not to be started yet */
    struct req *next_maker, *next_spare;
    struct req_mem *mem;
    uint64_t gen, seq; /* the role its thread had when it started; its place in arrival */
    uint32_t fids[1];  /* that it makes, frees or opens */
    int nfids, refs;
    uint32_t cost; /* against LIMIT_BYTES_SERVED */
    size_t inall;  /* in crew_bytes */
    bool called;   /* pub.call is set up: it goes to the handler */
    bool counted;  /* in conn->nserving */
    bool linked;   /* in conn->reqs */
    bool dropped;  /* its session is over: no answer */
    bool heavy;    /* it takes long enough to wake another thread for what comes after */
    bool cancelled;
    bool blocked, uncounted; /* in conn->nblocked; in the crew's */
    uint8_t *raw, *long_head;
    void *payload;
    size_t nraw, npayload;
    int lent; /* goes along with the answer, if `lends` */
    bool lends;
    uint8_t small[REQ_INLINE]; /* the message, if it fits */
    uint8_t head[256];
};

/* With conn->lock held, by the reader. */
bool serve_full(const struct p9_conn *c);
struct req *req_new(struct p9_conn *c, size_t size);
/* Takes a whole message in. What the engine answers itself is done; else the request is returned if
 * it can be run now (NULL: it waits for an earlier one, or was refused). */
struct req *serve_take(struct p9_conn *c, struct req *req);
/* Runs and answers; gives the lock up meanwhile. gen: as reader, else 0. */
void serve_run(struct p9_conn *c, struct req *req, uint64_t gen);
/* Leaves it to a worker. */
void serve_submit(struct p9_conn *c, struct req *req);
/* The answer is in pub.out: queues it (unless dropped), and what waited for it. */
void serve_answer(struct p9_conn *c, struct req *req);
/* There is memory for another request; one of `large` bytes, if not 0. */
bool serve_room(const struct p9_conn *c, size_t large);
/* The end of the session does not wait for it. */
void serve_uncount(struct p9_conn *c, struct req *req);
/* It gets no answer; who waited for it goes on. */
void serve_drop(struct p9_conn *c, struct req *req);
void serve_cancel_all(struct p9_conn *c); /* by a worker, soon */
void serve_cancel_task(struct p9_conn *c, struct task *task);
void req_unref(struct p9_conn *c, struct req *req);
void serve_purge_spares(struct p9_conn *c);

/* ---- use.c ---- */

enum pend_state { PEND_IDLE, PEND_SLEEPS, PEND_READ /* you are the reader */ };

struct p9_pending {
    struct out out;
    atomic_uint state;              /* a futex: enum pend_state */
    struct p9_pending *next, *prev; /* in conn->waiters: callers that sleep */
    struct p9_pending *next_room;   /* in conn->room: those without a tag */
    struct p9_conn *conn;
    uint64_t gen;  /* with PEND_READ: the role */
    uint64_t held; /* the role, taken before sending */
    uint16_t tag;
    uint8_t expect; /* the R type */
    bool waits;     /* in conn->waiters */
    bool tagged;    /* has a tag and room */
    bool sent;      /* is or was in the out queue */
    bool queued;    /* is in the out queue */
    bool answered;  /* `result` or `buf` stands */
    bool done;      /* and nobody else uses its memory */
    bool cancelled;
    bool later;        /* nobody waits for room: it is sent when there is some */
    bool sync;         /* p9_rpc: its thread will wait at once */
    int result, why;   /* why: -EINTR or -ETIMEDOUT */
    int64_t flush_by;  /* cancelled: the Tflush is to be answered by then */
    int lent;          /* came along with the answer; or -1 */
    void *copy;        /* an orphan's own payload */
    uint32_t cost;     /* against LIMIT_BYTES_USED */
    uint32_t fid;      /* of a clunk */
    bool abandoned;    /* by all but watchers */
    unsigned watchers; /* threads in p9_rpc_wait */
    uint8_t *into;
    size_t into_size, into_n; /* into_n: SIZE_MAX when the payload is in buf */
    uint8_t *buf;             /* the whole answer: `small` or from malloc */
    size_t nbuf;
    /* Nobody waits: called when done, with the lock; frees it. */
    void (*then)(struct p9_conn *, struct p9_pending *);
    uint8_t *long_head; /* NULL: in small_head */
    uint8_t small_head[320], small[320];
};

enum {
    TAG_END = 2 * LIMIT_REQUESTS_USED, /* of Tend */
    TAG_KEEP,                          /* of the Tflush that asks whether anybody is there */
    TAG_UNUSED,
};
/* The Tflush for tag t has tag t + LIMIT_REQUESTS_USED. */
struct tag_slot {
    struct p9_pending *pend;
    bool flushing;     /* Tflush is out: the tag is taken until Rflush */
    bool flush_queued; /* its message is in the out queue */
    struct out flush;
    uint8_t head[9];
};

/* All with conn->lock held. */
int use_open(struct p9_conn *c);
struct p9_pending *use_find(struct p9_conn *c, uint16_t tag);
/* The answer has come whole, in p->buf. */
void use_answer(struct p9_conn *c, struct p9_pending *p);
void use_complete(struct p9_conn *c, struct p9_pending *p); /* if it is done by now */
void use_leave_room(struct p9_conn *c, struct p9_pending *p);
void use_free_tag(struct p9_conn *c, uint16_t tag);
void use_fail_all(struct p9_conn *c); /* the link is lost */
/* Sends Tversion (tag NOTAG) or Tend (TAG_END), which nobody waits for. */
int use_async(struct p9_conn *c, struct p9_msg *t, uint16_t tag,
              void (*then)(struct p9_conn *, struct p9_pending *));
int use_decode(struct p9_pending *p, struct p9_answer *ret);
void pend_init(struct p9_conn *c, struct p9_pending *p);
void pend_free(struct p9_pending *p);
/* Waits until ready(arg), reading if nobody else does, or until the connection is over, or (if not
 * 0) the deadline. Gives the lock up meanwhile. */
void use_wait(struct p9_conn *c, struct p9_pending *p, ready_fn *ready, void *arg,
              int64_t deadline);
/* The same for an event that use_wake_all tells of, heeding the call: 0, -EINTR, -ETIMEDOUT. */
int use_wait_event(struct p9_conn *c, struct pl_call *call, ready_fn *ready, void *arg,
                   int64_t deadline);
void use_unwait(struct p9_conn *c, struct p9_pending *p);
bool use_wake(struct p9_pending *p); /* false: it does not sleep */
void use_wake_all(struct p9_conn *c);
void use_enter(struct p9_conn *c);
void use_leave(struct p9_conn *c);

/* ---- use_cancel.c ---- */

/* With conn->lock held. The caller of `p` wants it no more: sends Tflush. */
void use_cancel(struct p9_conn *c, struct p9_pending *p, int why);
/* The Tflush of `tag` (its own tag) was answered. False when there was none. */
bool use_flushed(struct p9_conn *c, uint16_t tag);
/* Cancels `p` when the call is cancelled, until use_unheed; both give the lock up meanwhile. */
bool use_heed(struct p9_conn *c, struct pl_call *call, struct p9_pending *p);
void use_unheed(struct p9_conn *c, struct pl_call *call);
/* Cancelled, and neither an answer nor Rflush is to be waited for. */
bool use_given_up(struct p9_conn *c, struct p9_pending *p);
/* How long (in ms, -1: for ever) the writer of `p` may wait before it asks this again; cancels it
 * when the call's deadline is over. */
int use_patience(struct p9_conn *c, struct pl_call *call, struct p9_pending *p);
/* Lets the caller of `p`, which is given up, go: what the peer and the threads of the connection
 * still need of it is theirs from now on. False when there is no memory for that. */
bool use_orphan(struct p9_conn *c, struct p9_pending *p);
/* The link has been down for so long that callers do not wait. */
void use_fail_soft(struct p9_conn *c);
/* Asks a plain peer whether it is there. */
void use_keep(struct p9_conn *c);

/* ---- hello.c ---- */

enum use_state { USE_NONE, USE_HELLO, USE_OPEN, USE_ENDING, USE_DONE };

/* With conn->lock held. */
void hello_version(struct p9_conn *c, struct req *req);
void hello_end(struct p9_conn *c, struct req *req);
/* The ending session's last request is gone. */
void hello_quiet(struct p9_conn *c);
/* Nothing has come for WIRE_DWELL ms. */
void hello_silence(struct p9_conn *c);
void hello_reset_task(struct p9_conn *c, struct task *task);

/* ---- conn.c ---- */

enum conn_state { LIVE, ENDED /* or lost; `error` says */, OVER };

struct p9_conn {
    pthread_mutex_t lock;
    pthread_cond_t cond; /* broadcast: over, no users */
    struct chan chan;    /* as it was at first: who the peer is */
    struct wire wire;
    struct p9_conn_opts opts;
    struct p9_crew *crew;
    struct crew_place place;
    atomic_uint *wakes[8]; /* to be woken when the lock is free */
    unsigned nwakes;
    enum conn_state state;
    int error;
    char *sentence;
    bool finalising;
    unsigned users; /* threads inside p9_rpc and the like */
    unsigned hands; /* threads that wait for the reader or the writer to come out */
    struct task read_task, flush_task, cancel_task, reset_task, final_task, link_task, look_task;

    /* the link */
    struct link *link;  /* NULL: there is none and never was */
    atomic_bool linked; /* it is agreed on */
    bool down;          /* it has no channel; role_take and writing stop */
    bool down_soft;     /* for so long that callers do not wait */
    int64_t down_since;
    int poke;           /* an eventfd that gets a reading caller to look up, or -1 */
    int64_t heard;      /* without a link, for the keepalive */
    int64_t keep_asked; /* a Tflush of no request went out, or 0 */
    struct out keep_out;
    uint8_t keep_head[9];
    bool keep_queued, keep_sent;

    /* the reader */
    enum role role;
    enum armed { ARMED_NOT, ARMED_HUP, ARMED_DATA } armed;
    uint64_t role_gen;
    struct rd rd;
    bool at_eof;             /* a plain client has closed; what is left is to write */
    bool hup;                /* the epoll told of the end while it could not be looked at */
    uint32_t wants;          /* the size of a message that there is no room for */
    int64_t due[NDUES];      /* when; 0: never */
    int eager;               /* so many more requests hand the role over before they run */
    _Atomic bool op_running; /* the reader is in an op: for the tick */
    _Atomic uint64_t op_seq;

    /* out */
    struct out *out_head, **out_tail;
    bool writing;
    bool in_write;    /* and has its hands on the messages */
    bool write_reads; /* the writer is the reader */
    uint64_t written; /* bytes */

    /* the serving half */
    struct req *reqs[TAG_CHAINS];
    struct req *makers; /* requests that make, free or open a fid */
    struct req *spares;
    struct req *ending; /* Tversion or Tend that waits for the session to be quiet */
    unsigned nserving;  /* requests that are not answered, or whose answer is not written */
    unsigned nlinked;   /* of those, not answered */
    unsigned nblocked, nspares;
    size_t bytes_serving;
    uint64_t next_seq;
    uint32_t smsize;
    bool session, resetting;
    enum p9_dialect serve_dialect; /* of the session */
    bool serve_ext;                /* the peer's using half speaks our own messages */
    bool serve_done;               /* and has said goodbye */
    bool peer_spoke, peer_plain;   /* its Tversion came; it was the plain one */

    /* the using half */
    enum use_state use;
    enum p9_dialect use_dialect;
    bool use_ext, said_end;
    uint32_t umsize;
    int hello_result; /* of our Tversion */
    struct tag_slot *tags;
    struct p9_pending *hello, *bye; /* our Tversion, our Tend */
    unsigned nfree_tags, npending, norphans;
    uint16_t *free_tags;
    size_t bytes_used;
    struct p9_pending *room, **room_tail; /* those who want room, in order */
    struct p9_pending *waiters;           /* those who sleep, any of whom can be made the reader */
    struct p9_fids *fids;                 /* has a lock of its own */
};

/* The lock is given up with these, so that who is woken does not wait for it at once. (That the
 * word may be gone by then does no harm: a stray wake is one that nobody hears, or looks again at.)
 */
static inline void conn_wake(struct p9_conn *c, atomic_uint *word)
{
    if (c->nwakes == sizeof(c->wakes) / sizeof(*c->wakes))
        futex_wake(word);
    else
        c->wakes[c->nwakes++] = word;
}

static inline void conn_unlock(struct p9_conn *c)
{
    atomic_uint *wakes[sizeof(c->wakes) / sizeof(*c->wakes)];
    unsigned n = c->nwakes;
    for (unsigned i = 0; i < n; i++)
        wakes[i] = c->wakes[i];
    c->nwakes = 0;
    pthread_mutex_unlock(&c->lock);
    for (unsigned i = 0; i < n; i++)
        futex_wake(wakes[i]);
}

static inline void conn_wait(struct p9_conn *c) /* for c->cond */
{
    while (c->nwakes)
        futex_wake(c->wakes[--c->nwakes]);
    pthread_cond_wait(&c->cond, &c->lock);
}

/* All with conn->lock held. The link is lost, or what the peer says makes no sense. First wins. */
void conn_lost(struct p9_conn *c, int error, const char *fmt, ...) PL_PRINTF(3, 4);
/* Ends it well. */
void conn_end(struct p9_conn *c);
/* The peer closed (0) or the read failed; `partial`: amid a message. */
void conn_eof(struct p9_conn *c, int error, bool partial);
/* Both ends have said goodbye. */
bool conn_both_done(const struct p9_conn *c);
/* Ends it then. */
void conn_maybe_end(struct p9_conn *c);
/* Ends it for good when nothing of it is under way any more. */
void conn_settle(struct p9_conn *c);

#endif
