/* SPDX-License-Identifier: MIT */
/*
 * Messages on their way out: one queue in order, and at most one thread that writes (c->writing).
 * It takes along what others have queued meanwhile, several messages with one system call.
 *
 * No one who might be needed elsewhere waits for the channel to take more: a worker hands the
 * reader's role over before it waits; a caller takes the role and does both, or, when another has
 * it, leaves the rest to a worker and goes on to wait for its answer. So there is always a reader,
 * whatever the writer does.
 * The queue is bounded by the limits on requests, served and used.
 */
#include "p9/priv.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

enum { BATCH = 16, OTHERS = 64 };

int out_encode(struct out *o, const struct p9_msg *m, uint8_t *small, size_t size,
               uint8_t **ret_long)
{
    uint8_t *head = small;
    uint32_t ndata = p9_has_data(m->type) ? m->count : 0;
    int n = p9_encode_head(m, head, size);
    if (n == -EMSGSIZE && (size = p9_encode_size(m) - ndata) <= LIMIT_MSIZE_MAX) {
        free(*ret_long);
        head = *ret_long = malloc(size);
        n = head ? p9_encode_head(m, head, size) : -ENOMEM;
    }
    if (n < 0)
        return n;
    *o = (struct out){.head = head, .nhead = (uint32_t)n, .data = m->data, .ndata = ndata};
    return 0;
}

void out_add(struct p9_conn *c, struct out *o)
{
    o->next = NULL;
    o->done = 0;
    *c->out_tail = o;
    c->out_tail = &o->next;
}

bool out_idle(const struct p9_conn *c)
{
    return !c->writing && !c->out_head && !link_unsent(c);
}

/* *lend: the descriptor that goes along, which is with the first of the messages. */
static int gather(const struct p9_conn *c, struct iovec iov[2 * BATCH], const int **lend)
{
    int n = 0;
    *lend = NULL;
    for (struct out *o = c->out_head; o && n < 2 * BATCH - 1; o = o->next) {
        uint32_t skip = o->done;
        if (o->lend && skip == 0 && n)
            break;
        if (o->lend && skip == 0)
            *lend = o->lend;
        if (skip < o->nhead) {
            iov[n++] = (struct iovec){(void *)(o->head + skip), o->nhead - skip};
            skip = 0;
        } else {
            skip -= o->nhead;
        }
        if (skip < o->ndata)
            iov[n++] = (struct iovec){(void *)(o->data + skip), o->ndata - skip};
    }
    return n;
}

static void pop(struct p9_conn *c)
{
    struct out *o = c->out_head;
    c->out_head = o->next;
    if (!c->out_head)
        c->out_tail = &c->out_head;
    o->gone(c, o);
}

bool out_remove(struct p9_conn *c, struct out *o)
{
    struct out **p = &c->out_head;
    if (o->done || c->in_write)
        return false;
    while (*p != o)
        p = &(*p)->next;
    *p = o->next;
    if (!*p)
        c->out_tail = p;
    return true;
}

void out_replace(struct p9_conn *c, struct out *from, struct out *to)
{
    struct out **p = &c->out_head;
    while (*p != from)
        p = &(*p)->next;
    *p = to;
    if (!to->next)
        c->out_tail = &to->next;
}

static unsigned advance(struct p9_conn *c, size_t n)
{
    unsigned popped = 0;
    while (c->out_head) {
        struct out *o = c->out_head;
        size_t rest = (size_t)o->nhead + o->ndata - o->done;
        if (n < rest) {
            o->done += (uint32_t)n;
            break;
        }
        n -= rest;
        o->done += (uint32_t)rest; /* so that it is known to have gone out */
        pop(c);
        popped++;
    }
    return popped;
}

/* We are the writer. 0: all is written and we are it no more; -EAGAIN: we still are. */
static int write_all(struct p9_conn *c, unsigned others)
{
    struct iovec iov[2 * BATCH];
    unsigned popped = 0;
    while (c->state == LIVE && (c->out_head || link_wants(c))) {
        if (popped > others)
            return -EAGAIN;
        const int *lend;
        int n = gather(c, iov, &lend);
        c->in_write = true;
        conn_unlock(c);
        ssize_t r = link_write(c, iov, n, lend);
        pthread_mutex_lock(&c->lock);
        c->in_write = false;
        if (c->hands)
            pthread_cond_broadcast(&c->cond);
        if (r == -EAGAIN)
            return -EAGAIN;
        if (r == LINK_STALL && c->state == LIVE && link_stalled(c)) {
            c->writing = false;
            pthread_cond_broadcast(&c->cond);
            return 0;
        }
        if (r == LINK_STALL)
            continue;
        if (r < 0) {
            conn_lost(c, -ECONNRESET, "the link was lost: %s", strerror((int)-r));
            break;
        }
        if (c->opts.stats)
            stats_add(&c->opts.stats->sent, (uint64_t)r);
        c->written += (uint64_t)r;
        popped += advance(c, (size_t)r);
    }
    c->writing = false;
    while (c->out_head) /* only when it is over */
        pop(c);
    conn_maybe_end(c);
    conn_settle(c);
    return 0;
}

void out_push(struct p9_conn *c)
{
    if (c->writing || (!c->out_head && !link_wants(c)))
        return;
    c->writing = true;
    if (write_all(c, OTHERS) == -EAGAIN)
        crew_submit(c->crew, &c->flush_task);
}

/* The caller is the writer and the reader, and waits for both until its message is out. */
static void push_reading(struct p9_conn *c, struct pl_call *call, struct p9_pending *p)
{
    int r = -EAGAIN;
    bool heeds = use_heed(c, call, p);
    c->write_reads = true;
    while (r == -EAGAIN && p->queued && !use_given_up(c, p)) {
        int timeout = use_patience(c, call, p);
        bool full = serve_full(c);
        eventfd_t v;
        conn_unlock(c);
        int what = link_wait(c, !full, true, timeout);
        pthread_mutex_lock(&c->lock);
        if (what & WIRE_POKED)
            eventfd_read(c->poke, &v);
        if (what & WIRE_IN && c->state == LIVE)
            read_ready(c);
        if (what & WIRE_OUT || c->state != LIVE)
            r = write_all(c, OTHERS);
    }
    c->write_reads = false;
    if (r == -EAGAIN)
        crew_submit(c->crew, &c->flush_task);
    if (heeds)
        use_unheed(c, call);
}

void out_push_caller(struct p9_conn *c, struct pl_call *call, struct p9_pending *p)
{
    if (c->writing || !c->out_head)
        return;
    c->writing = true;
    if (write_all(c, OTHERS) != -EAGAIN)
        return;
    uint64_t gen = !p->queued ? 0 : p->held ? p->held : role_take(c);
    if (!gen) {
        crew_submit(c->crew, &c->flush_task);
        return;
    }
    push_reading(c, call, p);
    if (!p->held)
        role_pass(c);
}

static size_t queued(const struct p9_conn *c)
{
    size_t n = 0;
    for (struct out *o = c->out_head; o; o = o->next)
        n += (size_t)o->nhead + o->ndata - o->done;
    return n;
}

/* Writes to the end, waiting: for as long as what is queued takes on the slowest link, and so again
 * when that is written. */
static void drain(struct p9_conn *c)
{
    bool blocked = crew_block(c->crew, c);
    uint64_t goal = 0;
    if (!blocked)
        conn_lost(c, -EBUSY,
                  "the other end takes no answers, and too many others take none either");
    do {
        if (c->opts.handler && c->written >= goal) {
            goal = c->written + queued(c);
            conn_due(c, DUE_TAKEN, due_for(LIMIT_STALLED, goal - c->written));
        }
        conn_unlock(c);
        if (blocked)
            link_wait(c, false, false, -1);
        pthread_mutex_lock(&c->lock);
    } while (write_all(c, UINT32_MAX) == -EAGAIN);
    conn_done(c, DUE_TAKEN);
    if (blocked)
        crew_unblock(c->crew, c);
}

void out_push_worker(struct p9_conn *c, uint64_t gen)
{
    if (c->writing || !c->out_head)
        return;
    c->writing = true;
    if (write_all(c, OTHERS) != -EAGAIN)
        return;
    if (role_mine(c, gen))
        role_offer(c);
    drain(c);
}

/* The task of a worker: the writer's part comes with it. */
void out_flush(struct p9_conn *c, struct task *task)
{
    pthread_mutex_lock(&c->lock);
    drain(c);
    conn_unlock(c);
}
