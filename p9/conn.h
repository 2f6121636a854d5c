/* SPDX-License-Identifier: MIT */
/*
 * The 9P engine: one channel, two halves.
 *
 * The *serving half* takes T-messages and answers them; the *using half* sends T-messages and takes
 * the answers. Messages are told apart by parity of their type. A plain server has no using half, a
 * plain client no serving half, a duct has both; either end may lack either half.
 *
 * Threads. At any time at most one thread reads the channel (the *reader*). A worker that reads a
 * T-message runs it and answers it itself, still being the reader: no hand-over. It gives the role
 * up when the op says that it waits (pl_call_block), when the answer cannot be written at once, or
 * when a tick (which exists only while there is work) finds it stuck in one op. A caller that waits
 * for an answer becomes the reader if there is none, delivers what is for others, and passes the
 * role on when its own answer came. The reader never blocks in a write. So both halves may
 * saturate over a channel with a small buffer.
 *
 * Memory. A connection that is idle holds no message buffer and no thread (sockets: it waits in the
 * crew's epoll). All limits are in base/limits.h.
 */
#ifndef P9_CONN_H
#define P9_CONN_H

#include "base/stats.h"
#include "channel/channel.h"
#include "p9/link.h"
#include "p9/msg.h"
#include <plenum/call.h>

/* The threads that work for any number of connections. */
struct p9_crew;
struct p9_crew *p9_crew_new(unsigned max_threads); /* NULL: no memory */
void p9_crew_free(struct p9_crew *crew);           /* after its connections are freed */

struct p9_conn;

/* A T-message being served. `call` has cancellation and blocks() set up by the engine, credentials
 * by the handler. */
struct p9_req {
    struct p9_conn *conn;
    struct p9_msg in;  /* strings and data point into the request's buffer */
    struct p9_msg out; /* to be filled: type and fields; strings must live until the handler returns
                          (or be in memory from p9_req_alloc) */
    struct pl_call call;
};
/* Room for `n` bytes of answer payload (Rread, Rreaddir data), laid out so that it is sent without
 * a copy; NULL when n would pass the msize. One a request. Set out.data to it. */
void *p9_req_payload(struct p9_req *req, size_t n);
/* The largest n for p9_req_payload: what the msize leaves to Rread and Rreaddir. */
size_t p9_req_payload_max(const struct p9_req *req);
/* A copy of the descriptor `fd` goes to the peer along with the answer, which is to be Rlend. Once
 * a request. 0; -EOPNOTSUPP: this channel cannot carry any (it is no unix socket, or a link, which
 * would have to send it again); or why there is no copy. */
int p9_req_lend(struct p9_req *req, int fd);
/* The session agreed on our own messages. */
bool p9_req_extended(const struct p9_req *req);
/* What the session speaks; so do req->in and req->out. */
enum p9_dialect p9_req_dialect(const struct p9_req *req);
/* Memory that lives until the answer is sent; NULL when out of memory. */
void *p9_req_alloc(struct p9_req *req, size_t n);
/* Makes the answer an Rlerror, or in an older dialect an Rerror. */
void p9_req_error(struct p9_req *req, int error /* negative errno */);

/* What serves. The engine itself answers Tversion (negotiation), Tflush and Tend. */
struct p9_handler {
    /* Fills req->out. Runs in a worker thread; may block. Requests of one connection run in
     * parallel, except that a request naming a fid is started only after earlier ones that would
     * have made, opened or freed that fid are done (the engine sees to it). */
    void (*handle)(void *arg, struct p9_req *req);
    /* The session is over (new Tversion, the peer's Tend, link lost): every request has been
     * answered or cancelled and its handler has returned; drop all fids. May be followed by another
     * session, after Tversion. */
    void (*reset)(void *arg);
    /* Just before reset, when it was the peer's Tend: it has all that it wanted, and does not come
     * back for more. May be NULL. */
    void (*end)(void *arg);
};

struct p9_conn_opts {
    struct p9_crew *crew;             /* required, also without a serving half */
    const struct p9_handler *handler; /* NULL: no serving half (T-messages get Rlerror) */
    void *handler_arg;
    bool use;                 /* there is a using half */
    const char *version;      /* the best to offer, of those of p9/msg.h; NULL: the best there is */
    uint32_t msize;           /* proposed and accepted at most; 0: 1 MiB - see limits.h */
    struct stats *stats;      /* may be NULL: requests served, bytes on the channel */
    struct p9_link_opts link; /* all 0: the connection is lost with its channel */
    /* Called once when the connection is over, in some engine thread (error 0: both ends said
     * goodbye, or a plain peer closed when nothing was in the way; else negative errno and the
     * sentence). Afterwards no handler runs. It may free nothing itself. May be NULL. */
    void (*over)(void *arg, int error, const char *sentence);
    void *over_arg;
};

/* Takes the channel over (unless it fails) and starts the serving half (if any). */
int p9_conn_new(struct chan *chan, const struct p9_conn_opts *opts, struct p9_conn **ret,
                struct pl_err *err);
/* Ends at once if it has not ended, waits for handlers, frees. */
void p9_conn_free(struct p9_conn *conn);
/* Waits until the connection is over (see `over`): its error, with the sentence. */
int p9_conn_wait(struct p9_conn *conn, struct pl_err *err);
/* The same, heeding the call: 0 when it is over (*error: why), or -EINTR, -ETIMEDOUT. */
int p9_conn_watch(struct p9_conn *conn, struct pl_call *call, int *error, struct pl_err *err);
/* It is over, or about to be: what is asked now gets -ECONNABORTED. */
bool p9_conn_over(struct p9_conn *conn);
/* The other end has said that it wants no more of us (its Tend). */
bool p9_conn_served(struct p9_conn *conn);
/* Breaks the connection now: callers get -ECONNABORTED. Any thread. A link whose writer is amid a
 * frame gets at most 100 ms to come to its end, behind which the other end can be told not to
 * linger. p9_conn_free does not wait for that: who frees many of them, as a server that ends, would
 * wait for each peer that does not read, and a client that was not told dials in vain once. */
void p9_conn_abort(struct p9_conn *conn);
/* The same at once, for an other end that is not there any more: waits for nothing but the
 * connection's own lock, and calls nobody (handlers are cancelled, and `over` is told, by engine
 * threads), so that it may be done with locks held that those take. */
void p9_conn_drop(struct p9_conn *conn);
/* For people: the channel's peer. */
const char *p9_conn_peer(const struct p9_conn *conn);
/* The link's name, as redial is given it; "" when there is none (not yet, or never). */
const char *p9_conn_link(const struct p9_conn *conn);
/* How long the link has been down, in ns; 0: it is up (or there is none). */
int64_t p9_conn_down(struct p9_conn *conn);
/* For tests, drills and `plenum status`: closes the channel as if it had broken. */
void p9_conn_break(struct p9_conn *conn);

/* ---- the using half ---- */

/* Negotiates: offers "9P2000.L.plenum", then as these are refused "9P2000.L", "9P2000.u", "9P2000".
 * When the channel was accepted, it first waits for the peer to speak (a plain client
 * must not be sent a T-message: then -ENOTCONN "the other end only uses, it serves nothing"); when
 * it is not known who called it waits a moment for that. Blocks until done. */
int p9_use(struct p9_conn *conn, struct pl_call *call, struct pl_err *err);
uint32_t p9_msize(const struct p9_conn *conn); /* as negotiated by the using half */
/* Tlend may bring a descriptor: over a unix socket without a link, from who runs as the same user
 * as we, or as root. (Another could lend us one on which we wait for ever.) */
bool p9_borrows(struct p9_conn *conn);
bool p9_extended(const struct p9_conn *conn);           /* the peer knows our own messages */
enum p9_dialect p9_dialect(const struct p9_conn *conn); /* what p9_rpc sends is encoded in it */

/* One request: sends `t`, waits for the answer, fills `r` (strings and data point into a buffer
 * that p9_answer_free drops; the payload of Rread goes straight to `into` when that is not NULL).
 * 0, or the peer's error as a negative errno, -ECONNABORTED when the link is lost, -EPROTO for an
 * answer of the wrong type, -EINTR when `call` was cancelled (a Tflush went out and was answered;
 * an answer that overtook it is returned as success), -ETIMEDOUT when its deadline is over or the
 * link has been down for long (link.h, `soft`). When the Tflush is not answered in LIMIT_FLUSH, or
 * the link is down, -EINTR and -ETIMEDOUT come all the same: then what was asked may yet happen.
 * Tags are the engine's. Blocks; heeds the call. */
struct p9_answer {
    struct p9_msg r;
    void *buf; /* private */
    int lent;  /* the descriptor that came along with an Rlend: the caller's; or -1 */
    bool sent; /* with -ECONNABORTED: some of the request has gone out, and it may be carried out */
};
int p9_rpc(struct p9_conn *conn, struct pl_call *call, struct p9_msg *t, struct p9_answer *ret,
           void *into, size_t into_size);
void p9_answer_free(struct p9_answer *a);
/* The same in two steps, so that several can be under way: start never waits for the answer (but
 * may wait for room), finish must be called once for each started, in any order. Until then t->data
 * and `into` must stay. What is started and not waited for does not move: answers are read by those
 * who wait, and room is made by answers. */
struct p9_pending;
int p9_rpc_start(struct p9_conn *conn, struct pl_call *call, struct p9_msg *t, void *into,
                 size_t into_size, struct p9_pending **ret);
int p9_rpc_finish(struct p9_conn *conn, struct pl_call *call, struct p9_pending *p,
                  struct p9_answer *ret);

/* Starts without waiting for anything: -EAGAIN when there is no room now. */
int p9_rpc_try(struct p9_conn *conn, struct p9_msg *t, struct p9_pending **ret);
/* Would finish return at once? */
bool p9_rpc_ready(struct p9_conn *conn, struct p9_pending *p);
/* Waits until finish would return at once, and leaves the request alone if the call is over before:
 * 0, -EINTR, -ETIMEDOUT. Any number of threads, for the same request: `mutex` is what guards it
 * from being finished by another of them; it is let go of. Who finishes the request lets those go
 * first that wait. */
int p9_rpc_wait(struct p9_conn *conn, struct pl_call *call, struct p9_pending *p,
                pthread_mutex_t *mutex);
/* Instead of finish: nobody wants the answer. Not with an `into`, and not of what has data. */
void p9_rpc_abandon(struct p9_conn *conn, struct p9_pending *p);

/* The using half is done: to one of us sends Tend and waits for Rend (it drops all our fids); the
 * connection is over when the serving half has ended too. To a plain server: closes when there is
 * no serving half. Idempotent. Also sent by p9_conn_new's engine on our behalf when opts.use is
 * false and the peer turns out to be one of us. */
int p9_use_end(struct p9_conn *conn, struct pl_call *call);

/* ---- fids of the using half ---- */
uint32_t p9_fid_get(struct p9_conn *conn); /* NOFID when the limit is reached */
void p9_fid_put(struct p9_conn *conn, uint32_t fid);
/* Clunks without making the caller wait for the answer, and puts the fid back when it came. */
void p9_clunk_later(struct p9_conn *conn, uint32_t fid);

/* Where the numbers come from. Who carries on at a new connection what it had at another keeps its
 * numbers, and sees to it that none is given out twice: the new connection shares the old one's
 * source. Counted; thread-safe. */
struct p9_fids;
struct p9_fids *p9_fids_new(void); /* NULL: no memory */
struct p9_fids *p9_fids_ref(struct p9_fids *fids);
void p9_fids_unref(struct p9_fids *fids);
uint32_t p9_fids_get(struct p9_fids *fids); /* NOFID when the limit is reached */
void p9_fids_put(struct p9_fids *fids, uint32_t fid);
bool p9_fids_untouched(struct p9_fids *fids); /* none was ever given out */
struct p9_fids *p9_conn_fids(struct p9_conn *conn);
/* Before the connection's first fid is given out (-EBUSY otherwise). */
int p9_conn_share_fids(struct p9_conn *conn, struct p9_fids *fids);

/* Who has the same numbers for fids is one client, and has its operations numbered together
 * (docs/9p-extensions.md, Operations). The client's id, random: 0, or -EIO when there is none. */
int p9_ops_id(struct p9_fids *fids, uint64_t ret[2]);
/* The next number, from 1 on; 0 while the one that is LIMIT_SESSION_OPS below is under way. */
uint64_t p9_op_try(struct p9_fids *fids);
/* The same, waiting: 0, -EINTR, -ETIMEDOUT. */
int p9_op_get(struct p9_fids *fids, struct pl_call *call, uint64_t *ret);
/* It is over, and not asked for again. */
void p9_op_put(struct p9_fids *fids, uint64_t op);

#endif
