/* SPDX-License-Identifier: MIT */
/*
 * The using half: callers, their tags, and how they wait.
 *
 * A caller that waits is the reader if the role is to be had; else it sleeps in c->waiters until it
 * is given the role or its answer has come. What it waits for is said by a ready_fn.
 *
 * A request is done when its answer has come (or will not come) *and* its message has left the
 * queue, because that refers to the caller's memory. Its tag is free when moreover the Tflush, if
 * one was sent, has been answered. How a call is given up is in use_cancel.c.
 *
 * Room (a tag, and bytes in LIMIT_BYTES_USED) is given in order of arrival.
 */
#include "p9/priv.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- waiting ---- */

static void wait_in(struct p9_conn *c, struct p9_pending *p)
{
    p->waits = true;
    p->prev = NULL;
    p->next = c->waiters;
    if (c->waiters)
        c->waiters->prev = p;
    c->waiters = p;
}

void use_unwait(struct p9_conn *c, struct p9_pending *p)
{
    if (!p->waits)
        return;
    p->waits = false;
    if (p->prev)
        p->prev->next = p->next;
    else
        c->waiters = p->next;
    if (p->next)
        p->next->prev = p->prev;
}

bool use_wake(struct p9_pending *p)
{
    unsigned sleeps = PEND_SLEEPS;
    if (!atomic_compare_exchange_strong(&p->state, &sleeps, PEND_IDLE))
        return false;
    conn_wake(p->conn, &p->state);
    return true;
}

void use_wake_all(struct p9_conn *c)
{
    for (struct p9_pending *p = c->waiters; p; p = p->next)
        use_wake(p);
    pthread_cond_broadcast(&c->cond);
}

/* Sleeps until woken, or given the role: then its number, else 0. */
static uint64_t nap(struct p9_conn *c, struct p9_pending *p, int64_t deadline)
{
    wait_in(c, p);
    atomic_store(&p->state, PEND_SLEEPS);
    conn_unlock(c);
    while (atomic_load(&p->state) == PEND_SLEEPS && (!deadline || mono_now() < deadline))
        futex_wait(&p->state, PEND_SLEEPS, deadline);
    pthread_mutex_lock(&c->lock);
    use_unwait(c, p);
    return atomic_exchange(&p->state, PEND_IDLE) == PEND_READ ? p->gen : 0;
}

/* Waits until ready(arg), reading if nobody else does, or until the connection is over, or (if not
 * 0) the deadline. With the lock, which it gives up meanwhile. */
void use_wait(struct p9_conn *c, struct p9_pending *p, ready_fn *ready, void *arg, int64_t deadline)
{
    while (!ready(c, arg) && c->state == LIVE && (!deadline || mono_now() < deadline)) {
        uint64_t gen = role_take(c);
        if (!gen)
            gen = nap(c, p, deadline);
        if (gen)
            read_call(c, gen, ready, arg, deadline);
    }
}

/* A thread is in the connection, which is not freed before it has left. */
void use_enter(struct p9_conn *c)
{
    c->users++;
}

void use_leave(struct p9_conn *c)
{
    if (--c->users == 0)
        pthread_cond_broadcast(&c->cond);
}

/* ---- tags and room ---- */

static void send_tagged(struct p9_conn *c, struct p9_pending *p)
{
    uint8_t *head = p->long_head ? p->long_head : p->small_head;
    head[5] = (uint8_t)p->tag;
    head[6] = (uint8_t)(p->tag >> 8);
    p->queued = p->sent = true;
    out_add(c, &p->out);
}

/* Room was made in the midst of something else: a worker writes. */
static void send_later(struct p9_conn *c, struct p9_pending *p)
{
    send_tagged(c, p);
    if (c->writing)
        return;
    c->writing = true;
    crew_submit(c->crew, &c->flush_task);
}

static void give_room(struct p9_conn *c)
{
    struct p9_pending *p;
    while ((p = c->room) && c->nfree_tags &&
           (c->bytes_used == 0 || c->bytes_used + p->cost <= LIMIT_BYTES_USED)) {
        c->room = p->next_room;
        if (!c->room)
            c->room_tail = &c->room;
        p->tag = c->free_tags[--c->nfree_tags];
        p->tagged = true;
        c->tags[p->tag].pend = p;
        c->npending++;
        c->bytes_used += p->cost;
        if (p->later)
            send_later(c, p);
        else
            use_wake(p);
    }
}

static void join_room(struct p9_conn *c, struct p9_pending *p)
{
    p->next_room = NULL;
    *c->room_tail = p;
    c->room_tail = &p->next_room;
    give_room(c);
}

void use_leave_room(struct p9_conn *c, struct p9_pending *p)
{
    struct p9_pending **q = &c->room;
    while (*q && *q != p)
        q = &(*q)->next_room;
    if (!*q)
        return;
    *q = p->next_room;
    if (!c->room) {
        c->room_tail = &c->room;
    } else if (!p->next_room) {
        for (q = &c->room; *q; q = &(*q)->next_room)
            ;
        c->room_tail = q;
    }
}

void use_free_tag(struct p9_conn *c, uint16_t tag)
{
    struct tag_slot *s = &c->tags[tag];
    if (s->pend || s->flushing || s->flush_queued)
        return;
    c->free_tags[c->nfree_tags++] = tag;
    give_room(c);
}

int use_open(struct p9_conn *c)
{
    c->tags = calloc(LIMIT_REQUESTS_USED, sizeof(*c->tags));
    c->free_tags = calloc(LIMIT_REQUESTS_USED, sizeof(*c->free_tags));
    if (!c->tags || !c->free_tags)
        return -ENOMEM;
    for (unsigned i = 0; i < LIMIT_REQUESTS_USED; i++)
        c->free_tags[i] = (uint16_t)(LIMIT_REQUESTS_USED - 1 - i);
    c->nfree_tags = LIMIT_REQUESTS_USED;
    c->use = USE_OPEN;
    link_watch_plain(c);
    return 0;
}

/* ---- requests ---- */

struct p9_pending *use_find(struct p9_conn *c, uint16_t tag)
{
    if (tag == P9_NOTAG)
        return c->hello;
    if (tag == TAG_END)
        return c->bye;
    return c->tags && tag < LIMIT_REQUESTS_USED ? c->tags[tag].pend : NULL;
}

static bool is_done(struct p9_conn *c, void *p)
{
    return ((struct p9_pending *)p)->done;
}

static bool is_tagged(struct p9_conn *c, void *p)
{
    return ((struct p9_pending *)p)->tagged || ((struct p9_pending *)p)->done;
}

void use_complete(struct p9_conn *c, struct p9_pending *p)
{
    if (p->done || !p->answered || p->queued || c->rd.pend == p)
        return;
    p->done = true;
    if (p == c->hello) {
        c->hello = NULL;
    } else if (p == c->bye) {
        c->bye = NULL;
    } else if (p->tagged) {
        c->npending--;
        c->bytes_used -= p->cost;
        c->tags[p->tag].pend = NULL;
        use_free_tag(c, p->tag);
        if (c->npending == 0 && c->use == USE_ENDING)
            use_wake_all(c);
    }
    if (p->watchers)
        use_wake_all(c);
    if (p->then)
        p->then(c, p);
    else
        use_wake(p);
}

static void pend_gone(struct p9_conn *c, struct out *out)
{
    struct p9_pending *p = (struct p9_pending *)((char *)out - offsetof(struct p9_pending, out));
    p->queued = false;
    pthread_cond_broadcast(&c->cond);
    use_complete(c, p);
}

/* The answer may come before the writer has noted that the request is out. As the reader would not
 * look again before the next message, it waits for the writer here, which is just about to. */
void use_answer(struct p9_conn *c, struct p9_pending *p)
{
    while (p->queued && c->writing && !c->write_reads)
        conn_wait(c);
    if (p->queued) { /* and the writer are we, or it waits for the other end too */
        c->rd.pend = NULL;
        conn_lost(c, -EPROTO, "the other end answered a request before it had it");
        return;
    }
    if (p->expect == P9_Rlend && p->buf[4] == P9_Rlend)
        p->lent = wire_borrow(&c->wire);
    c->rd.pend = NULL; /* until now nobody may complete it but us */
    p->answered = true;
    use_complete(c, p);
}

static void fail(struct p9_conn *c, struct p9_pending *p)
{
    if (!p)
        return;
    if (!p->answered && c->rd.pend != p) {
        p->answered = true;
        p->result = -ECONNABORTED;
    }
    use_complete(c, p);
}

void use_fail_all(struct p9_conn *c)
{
    while (c->room) {
        struct p9_pending *p = c->room;
        use_leave_room(c, p);
        p->answered = true;
        p->result = -ECONNABORTED;
        use_complete(c, p);
    }
    fail(c, c->hello);
    fail(c, c->bye);
    for (unsigned i = 0; c->tags && i < LIMIT_REQUESTS_USED; i++)
        fail(c, c->tags[i].pend);
    use_wake_all(c);
}

static int encode(struct p9_pending *p, struct p9_msg *t)
{
    t->dialect = (uint8_t)p->conn->use_dialect;
    int r = out_encode(&p->out, t, p->small_head, sizeof(p->small_head), &p->long_head);
    if (r < 0)
        return r;
    p->out.gone = pend_gone;
    p->expect = (uint8_t)(t->type + 1);
    /* What the answer may take at the other end counts too, as it counts there. */
    p->cost = p->out.nhead + p->out.ndata;
    if (t->type == P9_Tread || t->type == P9_Treaddir || t->type == P9_Tlist)
        p->cost += t->count;
    return 0;
}

void pend_init(struct p9_conn *c, struct p9_pending *p)
{
    memset(p, 0, offsetof(struct p9_pending, small_head));
    p->conn = c;
    p->lent = -1;
}

static void pend_done(struct p9_pending *p)
{
    free(p->long_head);
    if (p->buf != p->small)
        free(p->buf);
    if (p->lent >= 0)
        close(p->lent);
}

void pend_free(struct p9_pending *p)
{
    pend_done(p);
    free(p);
}

int use_async(struct p9_conn *c, struct p9_msg *t, uint16_t tag,
              void (*then)(struct p9_conn *, struct p9_pending *))
{
    struct p9_pending *p = malloc(sizeof(*p));
    if (!p)
        return -ENOMEM;
    pend_init(c, p);
    p->then = then;
    p->tag = tag;
    int r = encode(p, t);
    if (r < 0) {
        pend_free(p);
        return r;
    }
    *(tag == P9_NOTAG ? &c->hello : &c->bye) = p;
    send_tagged(c, p);
    out_push(c);
    return 0;
}

/* ---- waiting for a request ---- */

struct step {
    struct p9_pending *p;
    ready_fn *ready;
    bool cancelled; /* as it was when the wait began */
};

static bool step_ready(struct p9_conn *c, void *arg)
{
    struct step *s = arg;
    return s->ready(c, s->p) || s->p->cancelled != s->cancelled || use_given_up(c, s->p);
}

/* Waits for one step of a request, and heeds the call. With the lock. */
static void wait_heeding(struct p9_conn *c, struct pl_call *call, struct p9_pending *p,
                         ready_fn *ready)
{
    if (ready(c, p) || c->state != LIVE)
        return;
    bool heeds = use_heed(c, call, p);
    while (!ready(c, p) && !use_given_up(c, p) && c->state == LIVE) {
        struct step step = {p, ready, p->cancelled};
        int64_t deadline = call && !p->cancelled ? call->deadline : p->flush_by, until = deadline;
        if (call && !p->sent) { /* a reader cannot be woken, and no Tflush will do it */
            int64_t slice = mono_now() + WIRE_DWELL * 1000000LL;
            until = deadline && deadline < slice ? deadline : slice;
        }
        uint64_t held = p->held;
        p->held = 0;
        if (held)
            read_call(c, held, step_ready, &step, until);
        else
            use_wait(c, p, step_ready, &step, until);
        if (deadline && !p->cancelled && !ready(c, p) && mono_now() >= deadline)
            use_cancel(c, p, -ETIMEDOUT);
    }
    if (heeds)
        use_unheed(c, call);
}

/* The link is lost, but a thread may still read into or write from our memory. */
static void wait_let_go(struct p9_conn *c, struct p9_pending *p)
{
    while (!p->done) {
        fail(c, p);
        uint64_t gen = p->done ? 0 : nap(c, p, 0);
        if (gen)
            read_call(c, gen, is_done, p, 0);
    }
}

static void wake_event(void *arg)
{
    struct p9_pending *p = arg;
    pthread_mutex_lock(&p->conn->lock);
    p->cancelled = true;
    use_wake(p);
    conn_unlock(p->conn);
}

_Static_assert(LIMIT_FLUSHES_USED > LIMIT_REQUESTS_USED + 1, "a Tflush for each, Tend, keepalive");

struct event {
    struct p9_pending p; /* stands for the thread */
    ready_fn *ready;
    void *arg;
};

static bool event_ready(struct p9_conn *c, void *arg)
{
    struct event *e = arg;
    return e->p.cancelled || e->ready(c, e->arg);
}

int use_wait_event(struct p9_conn *c, struct pl_call *call, ready_fn *ready, void *arg,
                   int64_t deadline)
{
    struct event e = {.ready = ready, .arg = arg};
    int r = 0;
    pend_init(c, &e.p);
    if (call) {
        conn_unlock(c);
        r = pl_call_block(call, wake_event, &e.p);
        pthread_mutex_lock(&c->lock);
        if (r < 0)
            return r;
        if (call->deadline && (!deadline || call->deadline < deadline))
            deadline = call->deadline;
    }
    /* A reader cannot be woken: one that may be cancelled looks up now and then. These waits are
     * those of beginning and end, and for what others have asked; one's own request is cancelled by
     * its Tflush, whose answer wakes. */
    for (int64_t slice = 0; c->state == LIVE && !event_ready(c, &e) && !c->down_soft;) {
        slice = mono_now() + WIRE_DWELL * 1000000LL;
        use_wait(c, &e.p, event_ready, &e,
                 call && (!deadline || slice < deadline) ? slice : deadline);
        if (deadline && mono_now() >= deadline)
            break;
    }
    if (call) {
        conn_unlock(c);
        pl_call_unblock(call);
        pthread_mutex_lock(&c->lock);
        r = ready(c, arg) ? 0 : pl_call_over(call);
    }
    if (r == 0 && c->state == LIVE && c->down_soft && !ready(c, arg))
        r = -ETIMEDOUT;
    return r;
}

/* ---- the calls ---- */

/* Why the message, which is encoded, cannot be sent; 0: it can. */
static int refuse(const struct p9_conn *c, const struct p9_pending *p)
{
    if (c->state != LIVE || c->use != USE_OPEN)
        return c->state == LIVE && c->use == USE_NONE ? -ENOTCONN : -ECONNABORTED;
    if (c->down_soft)
        return -ETIMEDOUT;
    if (p9_is_own((uint8_t)(p->expect - 1)) && !c->use_ext)
        return -EOPNOTSUPP;
    return p->out.nhead + p->out.ndata > c->umsize ? -EMSGSIZE : 0;
}

/* A caller's thread takes the lock, and gives it up. */
static void come_in(struct p9_conn *c)
{
    pthread_mutex_lock(&c->lock);
    use_enter(c);
}

static void go_out(struct p9_conn *c)
{
    use_leave(c);
    conn_unlock(c);
}

/* Sends what is encoded. With the lock. With a negative result nothing is under way. */
static int begin(struct p9_conn *c, struct pl_call *call, struct p9_pending *p)
{
    int r = refuse(c, p);
    if (r < 0)
        return r;
    if (p->expect == P9_Rlend)
        c->wire.borrows = true;
    join_room(c, p);
    wait_heeding(c, call, p, is_tagged);
    if (p->done || c->state != LIVE) {
        wait_let_go(c, p);
        return p->result;
    }
    if (p->sync) /* before an event can tell a worker of the answer */
        p->held = role_take(c);
    send_tagged(c, p);
    out_push_caller(c, call, p);
    return 0;
}

/* What an Rlerror or Rerror says. */
static int error_of(const struct p9_msg *r)
{
    uint32_t e = r->ecode;
    if (r->type == P9_Rerror && (r->dialect != P9_U || e == 0))
        e = (uint32_t)p9_error_number(&r->ename);
    return e > 0 && e < 4096 ? -(int)e : -EIO;
}

static bool is_error(const struct p9_msg *r)
{
    return r->type == P9_Rlerror || r->type == P9_Rerror;
}

/* In 9P2000.L there is no Rerror; NFS-Ganesha sends Rlerror's body by that name, and Linux's client
 * takes it. */
static void name_error(struct p9_pending *p)
{
    if (p->conn->use_dialect == P9_L && p->buf[4] == P9_Rerror && p->nbuf == P9_HDRSZ + 4)
        p->buf[4] = P9_Rlerror;
}

/* What the peer said, as a result. */
int use_decode(struct p9_pending *p, struct p9_answer *ret)
{
    ret->buf = NULL;
    ret->lent = -1;
    ret->r.type = 0;
    if (p->result < 0)
        return p->result;
    name_error(p);
    int r = p->into_n != SIZE_MAX && p->into && p->buf[4] == p->expect
                ? p9_decode_split(p->buf, p->nbuf, p->into, p->into_n, &ret->r)
                : p9_decode_as(p->conn->use_dialect, p->buf, p->nbuf, &ret->r);
    if (r < 0) {
        ret->r.type = 0;
        return -EPROTO;
    }
    if (is_error(&ret->r))
        return error_of(&ret->r);
    if (p->buf != p->small) {
        ret->buf = p->buf;
        p->buf = NULL;
    }
    ret->lent = p->lent;
    p->lent = -1;
    return 0;
}

/* Waits for the answer. With the lock. */
static int end(struct p9_conn *c, struct pl_call *call, struct p9_pending *p, struct p9_answer *ret)
{
    do
        wait_heeding(c, call, p, is_done);
    while (!p->done && c->state == LIVE && !use_orphan(c, p));
    if (p->held)
        role_pass(c);
    wait_let_go(c, p);
    while (p->watchers) /* woken already */
        conn_wait(c);
    int r = use_decode(p, ret);
    ret->sent = p->out.done > 0;
    if (r < 0 && p->result == 0 && !is_error(&ret->r))
        conn_lost(c, -EPROTO, "the other end sent an answer that makes no sense (to %s)",
                  p9_type_name((uint8_t)(p->expect - 1)));
    return r;
}

static void set_into(struct p9_pending *p, const struct p9_msg *t, void *into, size_t size)
{
    if (into && (t->type == P9_Tread || t->type == P9_Treaddir)) {
        p->into = into;
        p->into_size = size < t->count ? size : t->count;
    }
}

int p9_rpc(struct p9_conn *c, struct pl_call *call, struct p9_msg *t, struct p9_answer *ret,
           void *into, size_t into_size)
{
    struct p9_pending p;
    ret->buf = NULL;
    ret->sent = false;
    pend_init(c, &p);
    set_into(&p, t, into, into_size);
    p.sync = true;
    int r = encode(&p, t);
    if (r == 0) {
        come_in(c);
        r = begin(c, call, &p);
        if (r == 0)
            r = end(c, call, &p, ret);
        go_out(c);
    }
    pend_done(&p);
    return r;
}

int p9_rpc_start(struct p9_conn *c, struct pl_call *call, struct p9_msg *t, void *into,
                 size_t into_size, struct p9_pending **ret)
{
    struct p9_pending *p = malloc(sizeof(*p));
    if (!p)
        return -ENOMEM;
    pend_init(c, p);
    set_into(p, t, into, into_size);
    int r = encode(p, t);
    if (r == 0) {
        come_in(c);
        r = begin(c, call, p);
        go_out(c);
    }
    if (r == 0)
        *ret = p;
    else
        pend_free(p);
    return r;
}

int p9_rpc_try(struct p9_conn *c, struct p9_msg *t, struct p9_pending **ret)
{
    struct p9_pending *p = malloc(sizeof(*p));
    if (!p)
        return -ENOMEM;
    pend_init(c, p);
    int r = encode(p, t);
    pthread_mutex_lock(&c->lock);
    if (r == 0)
        r = refuse(c, p);
    if (r == 0) {
        join_room(c, p);
        if (p->tagged) {
            send_tagged(c, p);
            out_push(c);
        } else {
            use_leave_room(c, p);
            r = -EAGAIN;
        }
    }
    conn_unlock(c);
    if (r == 0)
        *ret = p;
    else
        pend_free(p);
    return r;
}

int p9_rpc_finish(struct p9_conn *c, struct pl_call *call, struct p9_pending *p,
                  struct p9_answer *ret)
{
    come_in(c);
    int r = end(c, call, p, ret);
    go_out(c);
    pend_free(p);
    return r;
}

bool p9_rpc_ready(struct p9_conn *c, struct p9_pending *p)
{
    pthread_mutex_lock(&c->lock);
    bool ready = p->done || c->state != LIVE;
    conn_unlock(c);
    return ready;
}

int p9_rpc_wait(struct p9_conn *c, struct pl_call *call, struct p9_pending *p,
                pthread_mutex_t *mutex)
{
    int r = 0;
    pthread_mutex_lock(&c->lock);
    use_enter(c);
    p->watchers++;
    pthread_mutex_unlock(mutex);
    if (!p->done && c->state == LIVE)
        r = use_wait_event(c, call, is_done, p, 0);
    if (p->done || c->state != LIVE)
        r = 0;
    else if (r == 0)
        r = call ? pl_call_over(call) : 0;
    if (--p->watchers == 0 && p->abandoned)
        pend_free(p);
    else if (p->watchers == 0)
        pthread_cond_broadcast(&c->cond);
    use_leave(c);
    conn_unlock(c);
    return r;
}

static void abandoned(struct p9_conn *c, struct p9_pending *p)
{
    p->abandoned = true;
    if (p->watchers == 0) /* else that is left to the last of them */
        pend_free(p);
}

void p9_rpc_abandon(struct p9_conn *c, struct p9_pending *p)
{
    pthread_mutex_lock(&c->lock);
    if (p->done)
        abandoned(c, p);
    else
        p->then = abandoned;
    conn_unlock(c);
}

void p9_answer_free(struct p9_answer *a)
{
    free(a->buf);
    a->buf = NULL;
}

bool p9_borrows(struct p9_conn *c)
{
    return p9_extended(c) && c->wire.lends && !link_there(c) &&
           (c->chan.uid == 0 || c->chan.uid == geteuid());
}

/* ---- fids ---- */

struct p9_fids *p9_conn_fids(struct p9_conn *c)
{
    return c->fids;
}

int p9_conn_share_fids(struct p9_conn *c, struct p9_fids *fids)
{
    pthread_mutex_lock(&c->lock);
    struct p9_fids *old = c->fids;
    bool may = old == fids || p9_fids_untouched(old);
    if (may)
        c->fids = p9_fids_ref(fids);
    conn_unlock(c);
    if (may)
        p9_fids_unref(old);
    return may ? 0 : -EBUSY;
}

uint32_t p9_fid_get(struct p9_conn *c)
{
    return p9_fids_get(c->fids);
}

void p9_fid_put(struct p9_conn *c, uint32_t fid)
{
    p9_fids_put(c->fids, fid);
}

static void clunked(struct p9_conn *c, struct p9_pending *p)
{
    p9_fids_put(c->fids, p->fid);
    pend_free(p);
}

void p9_clunk_later(struct p9_conn *c, uint32_t fid)
{
    struct p9_msg t = {.type = P9_Tclunk, .fid = fid};
    struct p9_pending *p = malloc(sizeof(*p));
    if (!p)
        return; /* the fid stays taken, at both ends */
    pend_init(c, p);
    p->fid = fid;
    p->then = clunked;
    int r = encode(p, &t);
    pthread_mutex_lock(&c->lock);
    if (r == 0 && c->state == LIVE && c->use == USE_OPEN) {
        use_enter(c);
        join_room(c, p);
        p->later = !p->tagged;
        if (p->tagged) { /* it may be gone before the push returns */
            send_tagged(c, p);
            out_push(c);
        }
        use_leave(c);
    } else {
        clunked(c, p);
    }
    conn_unlock(c);
}
