/* SPDX-License-Identifier: MIT */
/*
 * Giving up: callers that are cancelled, or whose deadline is over, or that a link which is down
 * has let down.
 *
 * A cancelled call sends Tflush and goes on waiting: for the answer, which is then returned, or for
 * Rflush, which means -EINTR. It does not wait longer than LIMIT_FLUSH, and not at all while the
 * link is down: then its request becomes an *orphan*, which has memory of its own, and nobody who
 * waits. An orphan has its tag until the answer or Rflush has come, as those may come yet. What
 * nothing was sent of is just taken back.
 */
#include "p9/priv.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

static void poke(struct p9_conn *c)
{
    if (c->poke >= 0)
        eventfd_write(c->poke, 1);
}

/* ---- Tflush ---- */

static void flush_gone(struct p9_conn *c, struct out *out)
{
    struct tag_slot *s = (struct tag_slot *)((char *)out - offsetof(struct tag_slot, flush));
    s->flush_queued = false;
    pthread_cond_broadcast(&c->cond);
    use_free_tag(c, (uint16_t)(s - c->tags));
}

static void send_flush(struct p9_conn *c, uint16_t tag)
{
    struct tag_slot *s = &c->tags[tag];
    struct p9_msg t = {.type = P9_Tflush, .oldtag = tag};
    t.tag = (uint16_t)(tag + LIMIT_REQUESTS_USED);
    s->flushing = s->flush_queued = true;
    int n = p9_encode(&t, s->head, sizeof(s->head));
    assert(n == sizeof(s->head));
    s->flush = (struct out){.head = s->head, .nhead = (uint32_t)n, .gone = flush_gone};
    out_add(c, &s->flush);
    out_push(c);
}

static void answered(struct p9_conn *c, struct p9_pending *p, int why)
{
    p->answered = true;
    p->result = why;
    use_complete(c, p);
}

/* Nothing of it has gone out. Over a bare channel that cannot be known of what its io was shown. */
static bool take_back(struct p9_conn *c, struct p9_pending *p)
{
    if (!c->down || !p->queued || !out_remove(c, &p->out))
        return false;
    p->queued = false;
    return true;
}

void use_cancel(struct p9_conn *c, struct p9_pending *p, int why)
{
    if (p->answered || p->cancelled)
        return;
    p->cancelled = true;
    p->why = why;
    if (!p->sent) {
        use_leave_room(c, p);
        answered(c, p, why);
        return;
    }
    if (c->state != LIVE)
        return;
    if (take_back(c, p)) {
        answered(c, p, why);
        return;
    }
    p->flush_by = mono_now() + LIMIT_FLUSH * 1000000000LL;
    if (!use_wake(p))
        poke(c); /* it may be the reader */
    send_flush(c, p->tag);
}

bool use_flushed(struct p9_conn *c, uint16_t tag)
{
    if (tag == TAG_KEEP && c->keep_sent && !c->keep_queued) {
        c->keep_sent = false;
        c->rd.answered = true;
        return true;
    }
    tag = (uint16_t)(tag - LIMIT_REQUESTS_USED);
    if (tag >= LIMIT_REQUESTS_USED || !c->tags || !c->tags[tag].flushing)
        return false;
    while (c->tags[tag].flush_queued && c->writing && !c->write_reads)
        conn_wait(c);
    if (c->tags[tag].flush_queued)
        return false;
    struct p9_pending *p = c->tags[tag].pend;
    c->tags[tag].flushing = false;
    if (!p)
        use_free_tag(c, tag);
    else if (!p->answered)
        answered(c, p, p->why);
    return true;
}

/* ---- heeding a call ---- */

static void cancel_call(void *arg)
{
    struct p9_pending *p = arg;
    struct p9_conn *c = p->conn;
    pthread_mutex_lock(&c->lock);
    use_cancel(c, p, -EINTR);
    conn_unlock(c);
}

bool use_heed(struct p9_conn *c, struct pl_call *call, struct p9_pending *p)
{
    if (!call || p->cancelled)
        return false;
    conn_unlock(c);
    int r = pl_call_block(call, cancel_call, p);
    pthread_mutex_lock(&c->lock);
    if (r < 0)
        use_cancel(c, p, r);
    return r == 0;
}

void use_unheed(struct p9_conn *c, struct pl_call *call)
{
    conn_unlock(c);
    pl_call_unblock(call);
    pthread_mutex_lock(&c->lock);
}

bool use_given_up(struct p9_conn *c, struct p9_pending *p)
{
    return p->cancelled && p->sent && !p->done && !p->answered &&
           (c->down || mono_now() >= p->flush_by);
}

int use_patience(struct p9_conn *c, struct pl_call *call, struct p9_pending *p)
{
    int64_t now = mono_now();
    if (call && call->deadline && !p->cancelled && now >= call->deadline)
        use_cancel(c, p, -ETIMEDOUT);
    int64_t until = p->cancelled ? p->flush_by : call ? call->deadline : 0;
    if (!until)
        return -1;
    return until <= now                  ? 0
           : until - now > 1000000000000 ? 1000000
                                         : (int)((until - now) / 1000000 + 1);
}

/* ---- orphans ---- */

static void orphan_done(struct p9_conn *c, struct p9_pending *p)
{
    c->norphans--;
    free(p->copy);
    pend_free(p);
}

/* Waits until no thread has its hands on the memory of `p`; each comes out soon. */
static void hands_off(struct p9_conn *c, struct p9_pending *p)
{
    while (c->state == LIVE && !p->done &&
           ((p->queued && c->in_write) || (c->rd.pend == p && c->rd.reading))) {
        poke(c);
        c->hands++;
        conn_wait(c);
        c->hands--;
    }
}

/* What of the caller's memory is yet to be written to or read into: copied, or room of our own. */
static bool take_over(struct p9_conn *c, const struct p9_pending *p, struct p9_pending *q)
{
    bool reads = c->rd.pend == p && c->rd.kind == RD_INTO;
    size_t size = p->queued ? p->out.ndata : 0;
    if (reads)
        size = p->into_n > size ? p->into_n : size;
    if (size && !(q->copy = malloc(size)))
        return false;
    if (p->queued && p->out.ndata) {
        memcpy(q->copy, p->out.data, p->out.ndata);
        q->out.data = q->copy;
    }
    q->into = NULL;
    if (reads) { /* it is answered, so the other end had it all */
        q->into = q->copy;
        c->rd.dst = q->into + (c->rd.dst - p->into);
    }
    return true;
}

bool use_orphan(struct p9_conn *c, struct p9_pending *p)
{
    struct p9_pending *q = malloc(sizeof(*q));
    if (!q)
        return false;
    hands_off(c, p);
    if (p->done || p->answered || c->state != LIVE) {
        free(q);
        return p->done;
    }
    memcpy(q, p, sizeof(*q));
    q->copy = NULL;
    if (!take_over(c, p, q)) {
        free(q);
        return false;
    }
    bool small = p->buf == p->small;
    bool in_small = small && c->rd.pend == p && c->rd.kind == RD_ANSWER;
    if (!q->long_head)
        q->out.head = q->small_head;
    if (small)
        q->buf = q->small;
    if (in_small)
        c->rd.dst = q->small + (c->rd.dst - p->small);
    if (p->queued)
        out_replace(c, &p->out, &q->out);
    if (c->rd.pend == p)
        c->rd.pend = q;
    c->tags[p->tag].pend = q;
    q->then = orphan_done;
    c->norphans++;
    if (c->use == USE_ENDING)
        use_wake_all(c);
    p->long_head = NULL; /* theirs now */
    p->buf = NULL;
    p->answered = p->done = true;
    p->result = p->why;
    return true;
}

/* ---- a link that is down, a peer that is silent ---- */

void use_fail_soft(struct p9_conn *c)
{
    while (c->room)
        use_cancel(c, c->room, -ETIMEDOUT);
    for (unsigned i = 0; c->tags && i < LIMIT_REQUESTS_USED; i++) {
        struct p9_pending *p = c->tags[i].pend;
        if (p && !p->then)
            use_cancel(c, p, -ETIMEDOUT);
    }
    use_wake_all(c);
}

static void keep_gone(struct p9_conn *c, struct out *out)
{
    c->keep_queued = false;
}

void use_keep(struct p9_conn *c)
{
    struct p9_msg t = {.type = P9_Tflush, .tag = TAG_KEEP, .oldtag = TAG_UNUSED};
    if (c->keep_sent || c->state != LIVE)
        return;
    int n = p9_encode(&t, c->keep_head, sizeof(c->keep_head));
    assert(n == sizeof(c->keep_head));
    c->keep_out = (struct out){.head = c->keep_head, .nhead = (uint32_t)n, .gone = keep_gone};
    c->keep_sent = c->keep_queued = true;
    out_add(c, &c->keep_out);
    out_push(c);
    role_check(c); /* somebody must read the answer */
}
