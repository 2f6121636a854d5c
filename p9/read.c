/* SPDX-License-Identifier: MIT */
/*
 * The reader: who has the role, and what it does with the bytes.
 *
 * Small messages are taken from a buffer of RBUF_SIZE bytes. Of a larger one the rest is read to
 * where it will be used: the request's own buffer, the caller's `into`, or the answer's buffer;
 * what follows it lands in the small buffer with the same system call. The state (c->rd) can stop
 * at any byte, so that the role can be passed on at any time.
 *
 * T-messages go to serve_take, R-messages to the caller that waits for them. A reader that makes no
 * sense of what it reads ends the connection.
 */
#include "base/text.h"
#include "p9/priv.h"
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

enum { EAGER = 32, TURN = 32 /* requests, after which others may have their turn */ };

/* ---- the role ---- */

bool role_mine(const struct p9_conn *c, uint64_t gen)
{
    return c->role == ROLE_HELD && c->role_gen == gen;
}

/* Each event disarms. */
static void arm(struct p9_conn *c, enum armed armed)
{
    if (c->armed != armed && c->place.pollable)
        crew_arm(c->crew, c, c->wire.in, armed == ARMED_DATA);
    c->armed = armed;
}

uint64_t role_take(struct p9_conn *c)
{
    if (c->state != LIVE || c->at_eof || c->down || c->role == ROLE_HELD || c->role == ROLE_STOPPED)
        return 0;
    if (c->armed == ARMED_DATA)
        arm(c, ARMED_HUP);
    c->role = ROLE_HELD;
    return ++c->role_gen;
}

static void give(struct p9_conn *c, struct p9_pending *p)
{
    use_unwait(c, p);
    c->role = ROLE_HELD;
    p->gen = ++c->role_gen;
    atomic_store(&p->state, PEND_READ);
    conn_wake(c, &p->state);
}

/* Somebody must read even when no caller does: there may be requests, or a goodbye to come. */
static bool background(const struct p9_conn *c)
{
    return c->opts.handler || (c->use_ext && !c->serve_done) || c->use == USE_DONE || c->hup ||
           c->keep_sent || link_reads(c);
}

static uint32_t buffered(const struct p9_conn *c)
{
    return c->rd.end - c->rd.start;
}

static uint32_t peek32(const uint8_t *p)
{
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

/* A whole message, or what cannot become one, is in the buffer, or bytes are off the descriptor: no
 * event will tell of it. */
static bool more_buffered(const struct p9_conn *c)
{
    return link_pending(c) || (c->rd.kind == RD_SMALL && buffered(c) >= P9_HDRSZ &&
                               peek32(c->rd.buf + c->rd.start) <= buffered(c));
}

static void over_here(struct p9_conn *c)
{
    c->role = ROLE_NONE;
    read_drop(c);
    use_fail_all(c);
    conn_settle(c);
}

static void drop_buffer(struct p9_conn *c)
{
    if (c->rd.start == c->rd.end) {
        free(c->rd.buf);
        c->rd.buf = NULL;
    }
}

void role_pass(struct p9_conn *c)
{
    if (c->state != LIVE) {
        over_here(c);
    } else if (c->at_eof || c->down) {
        c->role = ROLE_NONE;
    } else if (c->waiters) {
        give(c, c->waiters);
    } else if (!background(c)) {
        c->role = ROLE_NONE; /* but the end of the link is to be noticed */
        arm(c, ARMED_HUP);
    } else if (c->hup || more_buffered(c) || !c->place.pollable) {
        c->role = ROLE_OFFERED;
        crew_submit(c->crew, &c->read_task);
    } else {
        c->role = ROLE_ARMED;
        arm(c, ARMED_DATA);
    }
}

void role_offer(struct p9_conn *c)
{
    if (c->state != LIVE || c->at_eof || c->down || !background(c)) {
        role_pass(c);
        return;
    }
    c->role = ROLE_OFFERED;
    if (!crew_submit(c->crew, &c->read_task) && c->waiters)
        give(c, c->waiters);
}

void role_check(struct p9_conn *c)
{
    if (c->role == ROLE_NONE || (c->role == ROLE_STOPPED && !serve_full(c)))
        role_pass(c);
}

void read_drop(struct p9_conn *c)
{
    struct rd *rd = &c->rd;
    if (rd->req)
        req_unref(c, rd->req);
    free(rd->buf);
    *rd = (struct rd){.any = rd->any};
}

/* ---- framing ---- */

/* Whatever has come so far, for people. */
static void nonsense(struct p9_conn *c)
{
    char text[200];
    const char *s = (const char *)c->rd.buf + c->rd.start;
    size_t n = strnlen(s, buffered(c) < 48 ? buffered(c) : 48);
    if (n < 3) {
        conn_lost(c, -EPROTO, "the other end does not speak 9P");
        return;
    }
    text_escape(text, sizeof(text), s, n);
    conn_lost(c, -EPROTO, "the other end does not speak 9P: it said \"%s\"", text);
}

static bool sensible(const struct p9_conn *c, uint32_t size, uint8_t type)
{
    if (size < P9_HDRSZ || size > LIMIT_MSIZE_MAX)
        return false;
    return c->rd.any || type == P9_Tversion || type == P9_Rversion || type == P9_Rlerror ||
           type == P9_Rerror || type % 2 == 0;
}

/* The rest of a message of `size` bytes goes to dst; `have` bytes of it are taken from the buffer.
 */
static void go_on_at(struct rd *rd, enum rd_kind kind, uint8_t *dst, size_t size)
{
    size_t have = rd->end - rd->start;
    if (have > size)
        have = size;
    memcpy(dst, rd->buf + rd->start, have);
    rd->start += (uint32_t)have;
    rd->kind = kind;
    rd->dst = dst + have;
    rd->left = size - have;
}

static int take_request(struct p9_conn *c, uint32_t size)
{
    struct rd *rd = &c->rd;
    if (size > (c->session ? c->smsize : c->opts.msize)) {
        conn_lost(c, -EPROTO, "the other end sent a request of %u bytes, more than was agreed",
                  size);
        return -1;
    }
    if (size <= RBUF_SIZE && buffered(c) < size)
        return 0;
    rd->req = req_new(c, size);
    if (!rd->req)
        return -1;
    go_on_at(rd, RD_REQ, rd->req->raw, size);
    return 1;
}

/* Where the answer goes. 1: set up; 0: more bytes are needed to know; -1: it makes no sense. */
static int take_answer(struct p9_conn *c, uint32_t size, uint8_t type, uint16_t tag)
{
    struct rd *rd = &c->rd;
    struct p9_pending *p = use_find(c, tag);
    if (!p || p->answered || (type != p->expect && type != P9_Rlerror && type != P9_Rerror)) {
        const char *name = p9_type_name(type);
        conn_lost(c, -EPROTO, "the other end answered what was not asked (%s, tag %u)",
                  name ? name : "an unknown message", tag);
        return -1;
    }
    if (size > (c->umsize ? c->umsize : c->opts.msize)) {
        conn_lost(c, -EPROTO, "the other end sent an answer of %u bytes, more than was agreed",
                  size);
        return -1;
    }
    if (p->into && type == p->expect) {
        if (buffered(c) < P9_RREADHDR)
            return 0;
        if (size < P9_RREADHDR || size - P9_RREADHDR > p->into_size) {
            conn_lost(c, -EPROTO, "the other end answered with more than was asked for");
            return -1;
        }
        memcpy(p->small, rd->buf + rd->start, P9_RREADHDR);
        rd->start += P9_RREADHDR;
        p->buf = p->small;
        p->nbuf = P9_RREADHDR;
        p->into_n = size - P9_RREADHDR;
        rd->pend = p;
        go_on_at(rd, RD_INTO, p->into, p->into_n);
        return 1;
    }
    if (size <= RBUF_SIZE && buffered(c) < size)
        return 0;
    p->into_n = SIZE_MAX; /* it is not there */
    p->buf = size <= sizeof(p->small) && !p9_has_refs(type) ? p->small : malloc(size);
    if (!p->buf) {
        conn_lost(c, -ENOMEM, "out of memory");
        return -1;
    }
    p->nbuf = size;
    rd->pend = p;
    go_on_at(rd, RD_ANSWER, p->buf, size);
    return 1;
}

static int take_flushed(struct p9_conn *c, uint32_t size, uint16_t tag)
{
    if (size != P9_HDRSZ || !use_flushed(c, tag)) {
        conn_lost(c, -EPROTO, "the other end answered what was not asked (Rflush, tag %u)", tag);
        return -1;
    }
    c->rd.start += P9_HDRSZ;
    return 1;
}

static int take_small(struct p9_conn *c)
{
    struct rd *rd = &c->rd;
    uint8_t *h = rd->buf + rd->start;
    if (buffered(c) < P9_HDRSZ)
        return 0;
    uint32_t size = peek32(h);
    uint8_t type = h[4];
    uint16_t tag = (uint16_t)(h[5] | h[6] << 8);
    if (!sensible(c, size, type)) {
        if (rd->any)
            conn_lost(c, -EPROTO, "the other end sent a message of %u bytes", size);
        else
            nonsense(c);
        return -1;
    }
    rd->any = true;
    if (type % 2 == 0)
        return take_request(c, size);
    if (type == P9_Rflush)
        return take_flushed(c, size, tag);
    return take_answer(c, size, type, tag);
}

/* Takes messages out of what has been read, until one is a request to be run (*ret). 1: one is;
 * 0: more bytes are needed, or the connection is over. */
static int parse(struct p9_conn *c, struct req **ret)
{
    struct rd *rd = &c->rd;
    while (c->state == LIVE && !c->at_eof && rd->buf) {
        if (rd->kind == RD_SMALL && take_small(c) <= 0)
            break;
        if (rd->kind != RD_SMALL && rd->left)
            break;
        struct req *req = rd->req;
        struct p9_pending *p = rd->pend;
        rd->kind = RD_SMALL;
        rd->req = NULL;
        if (p) {
            use_answer(c, p);
            rd->answered = true;
        }
        if (req && (*ret = serve_take(c, req)))
            return 1;
        if (req)
            out_push(c);
    }
    return 0;
}

/* ---- reading ---- */

/* What the wire said that is not bytes. True if the connection ends. */
static bool no_bytes(struct p9_conn *c, ssize_t r)
{
    eventfd_t v;
    if (r == -EINTR)
        eventfd_read(c->poke, &v);
    if (r == -EINTR || r == -EAGAIN)
        return false;
    if (r == LINK_STALL) {
        link_note(c); /* unless it is up again by now */
        link_move(c);
        return c->state != LIVE;
    }
    conn_eof(c, r < 0 ? (int)r : 0, buffered(c) || c->rd.left);
    return true;
}

static void got(struct p9_conn *c, size_t n)
{
    struct rd *rd = &c->rd;
    size_t direct = n < rd->left ? n : rd->left;
    if (direct)
        rd->dst += direct;
    rd->left -= direct;
    rd->end += (uint32_t)(n - direct);
    if (c->opts.stats)
        stats_add(&c->opts.stats->received, n);
    if (c->opts.link.keepalive && !link_there(c))
        c->heard = mono_now();
}

/* Some bytes more. False when nothing came for `timeout` ms, or the reader is to look up, or there
 * is nothing to read from. Gives the lock up meanwhile. */
static bool fill(struct p9_conn *c, int timeout)
{
    struct rd *rd = &c->rd;
    struct iovec iov[2];
    int n = 0;
    if (!rd->buf && !(rd->buf = malloc(RBUF_SIZE))) {
        conn_lost(c, -ENOMEM, "out of memory");
        return true;
    }
    if (rd->start) {
        memmove(rd->buf, rd->buf + rd->start, buffered(c));
        rd->end -= rd->start;
        rd->start = 0;
    }
    if (rd->left)
        iov[n++] = (struct iovec){rd->dst, rd->left};
    iov[n++] = (struct iovec){rd->buf + rd->end, RBUF_SIZE - rd->end};
    conn_unlock(c);
    rd->reading = true;
    ssize_t r = link_read(c, iov, n, timeout);
    pthread_mutex_lock(&c->lock);
    rd->reading = false;
    if (c->hands)
        pthread_cond_broadcast(&c->cond);
    if (c->state != LIVE)
        return true;
    bool some = r > 0 || no_bytes(c, r);
    if (r > 0)
        got(c, (size_t)r);
    if (c->link)
        out_push(c); /* what it has to say, or may say again */
    return some || c->state != LIVE;
}

void read_garbage(struct p9_conn *c)
{
    nonsense(c);
}

/* ---- a worker as reader ---- */

void read_rest(struct p9_conn *c)
{
    if (c->role == ROLE_HELD)
        return;
    drop_buffer(c);
    link_rest(c);
}

/* Nothing comes. True if the role is gone. */
static bool park(struct p9_conn *c, uint64_t gen)
{
    if (!c->place.pollable)
        return false;
    conn_unlock(c);
    crew_active(c->crew, c, false);
    pthread_mutex_lock(&c->lock);
    if (!role_mine(c, gen))
        return true;
    c->hup = false; /* if it was the end, we would know */
    hello_silence(c);
    drop_buffer(c);
    link_rest(c);
    serve_purge_spares(c);
    role_pass(c);
    return true;
}

/* Whether the worker stays for more. Not when there were but answers of late: then it is for the
 * callers to read, who would have to be woken. */
static bool fill_or_park(struct p9_conn *c, uint64_t gen, bool served)
{
    int timeout = 0;
    if (c->rd.answered && !served) {
        c->rd.answered = false;
        if (park(c, gen))
            return false;
    }
    c->rd.answered = false;
    bool dwell = crew_dwell(c->crew);
    if (dwell)
        timeout = WIRE_DWELL;
    bool some = fill(c, timeout);
    if (dwell)
        crew_undwell(c->crew);
    return some || !park(c, gen);
}

/* Runs a request while being the reader, unless there is reason to hand the role over first: ops
 * have waited of late, or there is more to do at once than one thread can. */
static void run_reading(struct p9_conn *c, struct req *req, uint64_t gen)
{
    if (!crew_may(c->crew, c)) { /* it has its share: others can be read and flushed, not run */
        serve_submit(c, req);
        return;
    }
    if (c->eager > 0 || (more_buffered(c) && req->heavy)) {
        c->eager -= c->eager > 0;
        role_offer(c);
        gen = 0;
    } else {
        atomic_fetch_add(&c->op_seq, 1);
        atomic_store(&c->op_running, true);
        crew_tick(c->crew);
    }
    serve_run(c, req, gen);
}

void read_serve(struct p9_conn *c, uint64_t gen)
{
    bool served = false;
    unsigned turn = 0;
    crew_active(c->crew, c, true);
    pthread_mutex_lock(&c->lock);
    for (;;) {
        if (c->role == ROLE_OFFERED) /* nobody came while we ran an op */
            gen = role_take(c);
        if (!role_mine(c, gen))
            break;
        struct req *req = NULL;
        if (c->state != LIVE || c->at_eof || c->down) {
            role_pass(c);
            break;
        } else if (serve_full(c)) {
            c->role = ROLE_STOPPED;
            break;
        } else if (parse(c, &req)) {
            run_reading(c, req, gen);
            served = true;
            if (++turn % TURN == 0 && role_mine(c, gen) && crew_crowded(c->crew)) {
                role_offer(c);
                break;
            }
        } else if (c->state == LIVE && !c->at_eof && !serve_full(c)) {
            if (!fill_or_park(c, gen, served))
                break;
            served = false;
        }
    }
    conn_unlock(c);
}

void read_task(struct p9_conn *c, struct task *task)
{
    pthread_mutex_lock(&c->lock);
    uint64_t gen = c->role == ROLE_OFFERED ? role_take(c) : 0;
    conn_unlock(c);
    if (gen)
        read_serve(c, gen);
}

void crew_event(struct p9_conn *c)
{
    pthread_mutex_lock(&c->lock);
    c->armed = ARMED_NOT;
    c->hup |= c->role != ROLE_ARMED;
    uint64_t gen = role_take(c);
    conn_unlock(c);
    if (gen)
        read_serve(c, gen);
}

void read_stuck(struct p9_conn *c, uint64_t seq)
{
    pthread_mutex_lock(&c->lock);
    if (c->role == ROLE_HELD && atomic_load(&c->op_running) && atomic_load(&c->op_seq) == seq)
        read_yield(c);
    conn_unlock(c);
}

void read_yield(struct p9_conn *c)
{
    atomic_store(&c->op_running, false);
    c->eager = EAGER;
    role_offer(c);
}

/* ---- a caller as reader ---- */

void read_ready(struct p9_conn *c)
{
    for (int i = 0; i < 2; i++) {
        struct req *req = NULL;
        while (parse(c, &req))
            serve_submit(c, req);
        if (i == 0 && c->state == LIVE)
            fill(c, 0);
    }
}

void read_call(struct p9_conn *c, uint64_t gen, ready_fn *done, void *arg, int64_t deadline)
{
    while (role_mine(c, gen) && c->state == LIVE && !c->at_eof && !c->down) {
        struct req *req = NULL;
        if (serve_full(c)) {
            c->role = ROLE_STOPPED;
            return;
        }
        if (parse(c, &req)) {
            serve_submit(c, req);
            continue;
        }
        if (done(c, arg) || c->state != LIVE)
            break;
        int timeout = -1;
        if (deadline) {
            int64_t ms = (deadline - mono_now() + 999999) / 1000000;
            if (ms <= 0)
                break;
            timeout = ms > 1000000 ? 1000000 : (int)ms;
        }
        fill(c, timeout);
    }
    if (role_mine(c, gen))
        role_pass(c);
}
