/* SPDX-License-Identifier: MIT */
/*
 * The serving half: requests from the moment they are read until their answer is written.
 *
 * A request is in c->reqs by its tag until its answer is queued; that and the queueing are one step
 * under the lock, so that an Rflush, which is queued in the same way, never overtakes the answer of
 * what it flushes. It counts against the limits until its answer is written.
 *
 * Every request is answered, a flushed one too (its op heeds the cancelled call and the answer is
 * -EINTR, or the op was done already and the answer says so); only those of a session that a new
 * Tversion ended are dropped. A tag that is used twice at once ends the connection: no answer could
 * be told from the other.
 *
 * Order: a request that names a fid waits for earlier ones that make, free or open that fid; from
 * one of us also for those that change it (docs/9p-extensions.md, Order).
 */
#include "p9/priv.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SPARES = 2, HEAVY = 32768, LARGE_PART = 8 };

struct req_mem {
    struct req_mem *next;
    max_align_t data[];
};

/* ---- memory ---- */

static void hold_bytes(struct p9_conn *c, struct req *req, size_t n)
{
    if (n == req->inall)
        return;
    atomic_fetch_add_explicit(crew_bytes(c->crew), n - req->inall, memory_order_relaxed);
    req->inall = n;
}

/* What a connection may hold is what is free of what all may hold, and for large messages but a
 * part of that: so there is always some for those that hold little, however many hold much. */
bool serve_room(const struct p9_conn *c, size_t large)
{
    size_t all = atomic_load_explicit(crew_bytes(c->crew), memory_order_relaxed);
    size_t left = all < LIMIT_BYTES_ALL ? LIMIT_BYTES_ALL - all : 0;
    return large ? c->bytes_serving + large <= left / LARGE_PART : c->bytes_serving < left;
}

struct req *req_new(struct p9_conn *c, size_t size)
{
    struct req *req = c->spares;
    if (req) {
        c->spares = req->next_spare;
        c->nspares--;
    } else if (!(req = malloc(sizeof(*req)))) {
        conn_lost(c, -ENOMEM, "out of memory");
        return NULL;
    }
    memset((char *)req + offsetof(struct req, out), 0,
           offsetof(struct req, small) - offsetof(struct req, out));
    req->pub.conn = c;
    req->refs = 1;
    req->task.conn = c;
    req->nraw = size;
    req->raw = size <= sizeof(req->small) ? req->small : crew_buf(c->crew, size);
    if (req->raw)
        hold_bytes(c, req, size);
    if (!req->raw) {
        free(req);
        conn_lost(c, -ENOMEM, "out of memory");
        return NULL;
    }
    return req;
}

static void req_free(struct p9_conn *c, struct req *req)
{
    if (req->called)
        pl_call_done(&req->pub.call);
    if (req->raw != req->small)
        crew_buf_free(c->crew, req->raw, req->nraw);
    if (req->payload)
        crew_buf_free(c->crew, req->payload, req->npayload);
    free(req->long_head);
    if (req->lends)
        close(req->lent);
    for (struct req_mem *m = req->mem, *next; m; m = next) {
        next = m->next;
        free(m);
    }
    hold_bytes(c, req, 0);
    if (c->nspares < SPARES && c->state == LIVE) {
        req->next_spare = c->spares;
        c->spares = req;
        c->nspares++;
    } else {
        free(req);
    }
}

void req_unref(struct p9_conn *c, struct req *req)
{
    if (--req->refs == 0)
        req_free(c, req);
}

void serve_purge_spares(struct p9_conn *c)
{
    while (c->spares) {
        struct req *req = c->spares;
        c->spares = req->next_spare;
        free(req);
    }
    c->nspares = 0;
}

void *p9_req_payload(struct p9_req *pub, size_t n)
{
    struct req *req = (struct req *)pub;
    if (n > pub->conn->smsize - P9_RREADHDR || req->payload)
        return NULL;
    req->payload = crew_buf(pub->conn->crew, n);
    req->npayload = n;
    return req->payload;
}

int p9_req_lend(struct p9_req *pub, int fd)
{
    struct req *req = (struct req *)pub;
    struct p9_conn *c = pub->conn;
    if (!c->wire.lends || link_there(c))
        return -EOPNOTSUPP;
    assert(!req->lends);
    req->lent = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    req->lends = req->lent >= 0;
    return req->lends ? 0 : -errno;
}

size_t p9_req_payload_max(const struct p9_req *pub)
{
    return pub->conn->smsize - P9_RREADHDR;
}

bool p9_req_extended(const struct p9_req *pub)
{
    return pub->conn->serve_ext;
}

enum p9_dialect p9_req_dialect(const struct p9_req *pub)
{
    return pub->conn->serve_dialect;
}

void *p9_req_alloc(struct p9_req *pub, size_t n)
{
    struct req *req = (struct req *)pub;
    struct req_mem *m = malloc(sizeof(*m) + n);
    if (!m)
        return NULL;
    m->next = req->mem;
    req->mem = m;
    return m->data;
}

void p9_req_error(struct p9_req *req, int error)
{
    memset(&req->out, 0, sizeof(req->out));
    req->out.type = req->conn->serve_dialect == P9_L ? P9_Rlerror : P9_Rerror;
    req->out.ecode = error < 0 && error >= -4095 ? (uint32_t)-error : EIO;
    req->out.ename = p9_str(p9_error_text((int)req->out.ecode));
}

/* ---- answers ---- */

static void req_gone(struct p9_conn *c, struct out *out)
{
    struct req *req = (struct req *)((char *)out - offsetof(struct req, out));
    if (req->counted) {
        c->nserving--;
        c->bytes_serving -= req->cost;
        if (c->opts.stats && req->called)
            atomic_fetch_sub_explicit(&c->opts.stats->waiting, 1, memory_order_relaxed);
    }
    req_unref(c, req);
    if (c->role == ROLE_STOPPED)
        role_check(c);
    if (c->ending && c->nserving == 0)
        hello_quiet(c);
    conn_settle(c);
}

static int encode(struct req *req)
{
    size_t limit = req->pub.conn->smsize ? req->pub.conn->smsize : LIMIT_MSIZE_MIN;
    int r = out_encode(&req->out, &req->pub.out, req->head, sizeof(req->head), &req->long_head);
    if (req->lends && req->pub.out.type == P9_Rlend)
        req->out.lend = &req->lent;
    return r == 0 && req->out.nhead + req->out.ndata > limit ? -EMSGSIZE : r;
}

static bool is_error(const struct p9_msg *m)
{
    return m->type == P9_Rlerror || m->type == P9_Rerror;
}

/* Makes bytes of pub.out. Needs no lock. */
static void seal(struct req *req)
{
    struct p9_msg *m = &req->pub.out;
    assert(is_error(m) || m->type == req->pub.in.type + 1);
    m->tag = req->pub.in.tag;
    m->dialect = (uint8_t)req->pub.conn->serve_dialect;
    int r = encode(req);
    if (r == 0)
        return;
    p9_req_error(&req->pub, r == -EMSGSIZE ? r : -EIO);
    m->tag = req->pub.in.tag;
    m->dialect = (uint8_t)req->pub.conn->serve_dialect;
    r = encode(req);
    assert(r == 0);
}

static void count(struct p9_conn *c, const struct req *req)
{
    struct stats *s = c->opts.stats;
    const struct p9_msg *m = &req->pub.out;
    if (!s)
        return;
    stats_add(&s->requests, 1);
    if (is_error(m) && m->ecode != ENOENT && m->ecode != ENODATA)
        stats_add(&s->errors, 1);
    else if (m->type == P9_Rread)
        stats_add(&s->bytes_read, m->count);
    else if (m->type == P9_Rwrite || m->type == P9_Rwrite2)
        stats_add(&s->bytes_written, m->count);
}

static struct req **find(struct p9_conn *c, uint16_t tag)
{
    struct req **p = &c->reqs[tag % TAG_CHAINS];
    while (*p && (*p)->pub.in.tag != tag)
        p = &(*p)->chain;
    return p;
}

/* ---- the order of requests ---- */

/* Writes of one fid run side by side, and beside reads. */
static bool beside(const struct req *maker, const struct req *req)
{
    uint8_t type = req->pub.in.type;
    return (maker->pub.in.type == P9_Twrite || maker->pub.in.type == P9_Twrite2) &&
           (type == P9_Twrite || type == P9_Twrite2 || type == P9_Tread);
}

/* A name is taken away only after earlier walks to it. */
static bool takes_away(const struct p9_msg *maker, const struct p9_msg *m)
{
    if (maker->type != P9_Tlookup)
        return false;
    bool renames = m->type == P9_Trenameat || m->type == P9_Trename2;
    return (maker->dfid == m->dfid && (renames || m->type == P9_Tunlinkat)) ||
           (maker->dfid == m->newdfid && renames);
}

static bool conflicts(const struct req *maker, const struct req *req)
{
    if (beside(maker, req))
        return false;
    if (takes_away(&maker->pub.in, &req->pub.in))
        return true;
    for (int i = 0; i < maker->nfids; i++)
        if (p9_names_fid(&req->pub.in, maker->fids[i]))
            return true;
    return false;
}

/* True if it must wait for an earlier one. */
static bool hold(struct p9_conn *c, struct req *req)
{
    for (struct req *m = c->makers; m; m = m->next_maker) {
        if (m->seq < req->seq && conflicts(m, req)) {
            req->holder = m;
            req->next_held = m->held;
            m->held = req;
            return true;
        }
    }
    return false;
}

static void unhold(struct req *req)
{
    struct req **p = &req->holder->held;
    while (*p != req)
        p = &(*p)->next_held;
    *p = req->next_held;
    req->holder = NULL;
}

static void note_fids(struct p9_conn *c, struct req *req)
{
    const struct p9_msg *m = &req->pub.in;
    switch (m->type) {
    case P9_Twalk:
    case P9_Txattrwalk:
    case P9_Tlookup:
    case P9_Ttmpfile:
    case P9_Tfind:
        req->fids[req->nfids++] = m->newfid;
        break;
    case P9_Tauth:
        req->fids[req->nfids++] = m->afid;
        break;
    case P9_Tattach:
    case P9_Tclunk:
    case P9_Tremove:
    case P9_Tlopen:
    case P9_Tlcreate:
    case P9_Topen:
    case P9_Tcreate:
    case P9_Txattrcreate:
        req->fids[req->nfids++] = m->fid;
        break;
    case P9_Twrite:
    case P9_Twrite2:
    case P9_Tsetattr:
    case P9_Tlist:
        if (c->serve_ext) /* a plain peer waits for what it depends on */
            req->fids[req->nfids++] = m->fid;
        break;
    case P9_Tmkdir:
    case P9_Tsymlink:
    case P9_Tmknod:
        if (c->serve_ext)
            req->fids[req->nfids++] = m->dfid;
        break;
    }
    if (req->nfids) {
        req->next_maker = c->makers;
        c->makers = req;
    }
}

static void made(struct p9_conn *c, struct req *req)
{
    struct req **p = &c->makers;
    while (*p != req)
        p = &(*p)->next_maker;
    *p = req->next_maker;
    while (req->held) {
        struct req *h = req->held;
        unhold(h);
        if (!hold(c, h))
            serve_submit(c, h);
    }
}

/* ---- finishing ---- */

/* The answer is sealed: queues it (unless dropped), and what waited for it. */
static void serve_finish(struct p9_conn *c, struct req *req)
{
    if (req->linked) {
        *find(c, req->pub.in.tag) = req->chain;
        req->linked = false;
        c->nlinked--;
    }
    if (req->nfids)
        made(c, req);
    struct req *flushes = req->flushes;
    req->out.gone = req_gone;
    if (req->dropped || c->state != LIVE)
        req_gone(c, &req->out);
    else
        out_add(c, &req->out);
    while (flushes) {
        struct req *f = flushes;
        flushes = f->next_flush;
        serve_finish(c, f);
    }
}

static void finish_error(struct p9_conn *c, struct req *req, int error)
{
    p9_req_error(&req->pub, error);
    seal(req);
    serve_finish(c, req);
}

void serve_drop(struct p9_conn *c, struct req *req)
{
    req->dropped = true;
    serve_finish(c, req);
}

void serve_answer(struct p9_conn *c, struct req *req)
{
    seal(req);
    serve_finish(c, req);
}

/* ---- running ---- */

static void blocks(struct pl_call *call)
{
    struct req *req = (struct req *)((char *)call - offsetof(struct req, pub.call));
    struct p9_conn *c = req->pub.conn;
    pthread_mutex_lock(&c->lock);
    req->blocked = true;
    c->nblocked++;
    if (role_mine(c, req->gen))
        read_yield(c);
    else if (c->role == ROLE_STOPPED)
        role_check(c);
    conn_unlock(c);
    req->uncounted = crew_block(c->crew, c);
}

void serve_run(struct p9_conn *c, struct req *req, uint64_t gen)
{
    req->gen = gen;
    if (!req->dropped && c->state == LIVE && pl_call_over(&req->pub.call) == 0) {
        conn_unlock(c);
        c->opts.handler->handle(c->opts.handler_arg, &req->pub);
        count(c, req);
        seal(req);
        if (req->uncounted)
            crew_unblock(c->crew, c);
        pthread_mutex_lock(&c->lock);
        c->nblocked -= req->blocked;
    } else {
        p9_req_error(&req->pub, -EINTR);
        seal(req);
    }
    if (role_mine(c, gen))
        atomic_store(&c->op_running, false);
    serve_finish(c, req);
    out_push_worker(c, gen);
}

static void run_task(struct p9_conn *c, struct task *task)
{
    struct req *req = (struct req *)((char *)task - offsetof(struct req, task));
    pthread_mutex_lock(&c->lock);
    serve_run(c, req, 0);
    conn_unlock(c);
}

void serve_submit(struct p9_conn *c, struct req *req)
{
    req->task.run = run_task;
    req->task.op = true;
    crew_submit(c->crew, &req->task);
}

/* ---- taking requests in ---- */

bool serve_full(const struct p9_conn *c)
{
    return c->nserving - c->nblocked >= LIMIT_REQUESTS_SERVED ||
           c->nserving >= LIMIT_REQUESTS_HELD || c->nlinked >= LIMIT_REQUESTS_HELD ||
           !serve_room(c, c->wants) || c->bytes_serving >= LIMIT_BYTES_SERVED;
}

static void cancel(struct p9_conn *c, struct req *req)
{
    req->refs++;
    conn_unlock(c);
    pl_call_cancel(&req->pub.call);
    pthread_mutex_lock(&c->lock);
    req_unref(c, req);
}

/* Cancelled before it was started: answers at once. */
static bool drop_held(struct p9_conn *c, struct req *req)
{
    if (!req->holder)
        return false;
    unhold(req);
    finish_error(c, req, -EINTR);
    return true;
}

void serve_uncount(struct p9_conn *c, struct req *req)
{
    c->nserving--;
    c->bytes_serving -= req->cost;
    req->counted = false;
}

static void take_flush(struct p9_conn *c, struct req *f)
{
    f->pub.out.type = P9_Rflush;
    seal(f);
    struct req *target = *find(c, f->pub.in.oldtag);
    if (!target || target == f) {
        serve_finish(c, f);
        return;
    }
    struct req **p = &target->flushes;
    while (*p)
        p = &(*p)->next_flush;
    *p = f;
    if (!target->counted) /* a Tend, which must not wait for who waits for it */
        serve_uncount(c, f);
    if (target->called && !drop_held(c, target))
        cancel(c, target);
}

static void admit(struct p9_conn *c, struct req *req)
{
    const struct p9_msg *m = &req->pub.in;
    struct req **chain = &c->reqs[m->tag % TAG_CHAINS];
    req->chain = *chain;
    *chain = req;
    req->linked = req->counted = true;
    req->seq = ++c->next_seq;
    req->cost = (uint32_t)req->nraw;
    if (m->type == P9_Tread || m->type == P9_Treaddir || m->type == P9_Tlist)
        req->cost += m->count < c->smsize ? m->count : c->smsize;
    req->heavy = req->cost >= HEAVY || m->type == P9_Tfsync;
    c->nserving++;
    c->nlinked++;
    c->bytes_serving += req->cost;
    hold_bytes(c, req, req->cost);
}

struct req *serve_take(struct p9_conn *c, struct req *req)
{
    struct p9_msg *m = &req->pub.in;
    int status = p9_decode_as(c->serve_dialect, req->raw, req->nraw, m);
    memset(&req->pub.out, 0, sizeof(req->pub.out));
    if (m->type == P9_Tversion && status == 0) {
        hello_version(c, req);
        return NULL;
    }
    if (*find(c, m->tag)) {
        conn_lost(c, -EPROTO, "the other end used tag %u for two requests at once", m->tag);
        req_unref(c, req);
        return NULL;
    }
    admit(c, req);
    if (status == 0 && p9_is_own(m->type) && !c->serve_ext)
        status = -EOPNOTSUPP;
    if (status == 0 && m->op && !c->serve_ext)
        status = -EPROTO; /* of a plain peer: bytes behind its message */
    if (status == 0 && m->type != P9_Tflush && (!c->session || c->ending))
        status = -EPROTO;
    if (status == 0 && m->type == P9_Tflush)
        take_flush(c, req);
    else if (status == 0 && m->type == P9_Tend)
        hello_end(c, req);
    else if (status < 0 || !c->opts.handler)
        finish_error(c, req, status < 0 ? status : -EOPNOTSUPP);
    else {
        pl_call_init(&req->pub.call, (uid_t)-1, (gid_t)-1);
        req->pub.call.blocks = blocks;
        req->called = true;
        if (c->opts.stats)
            atomic_fetch_add_explicit(&c->opts.stats->waiting, 1, memory_order_relaxed);
        bool wait = c->makers && hold(c, req);
        note_fids(c, req);
        return wait ? NULL : req;
    }
    return NULL;
}

/* ---- cancelling all ---- */

void serve_cancel_all(struct p9_conn *c)
{
    if (c->nserving)
        crew_submit(c->crew, &c->cancel_task);
}

static struct req *uncancelled(struct p9_conn *c)
{
    for (int i = 0; i < TAG_CHAINS; i++)
        for (struct req *r = c->reqs[i]; r; r = r->chain)
            if (r->called && !r->cancelled)
                return r;
    return NULL;
}

void serve_cancel_task(struct p9_conn *c, struct task *task)
{
    struct req *req;
    pthread_mutex_lock(&c->lock);
    while ((req = uncancelled(c))) {
        req->cancelled = true;
        if (!drop_held(c, req))
            cancel(c, req);
    }
    out_push(c);
    conn_unlock(c);
}
