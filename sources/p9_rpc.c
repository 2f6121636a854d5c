/* SPDX-License-Identifier: MIT */
/*
 * Requests of the 9P source: one, or several under way at once. Whatever is asked of the peer goes
 * through here, where the end of a connection is survived (p9_again.h).
 */
#include "sources/p9_again.h"

/* An answer that did not come because the connection is over, and another is to be had. */
static bool lost(struct p9s_tree *t, int r)
{
    return r == -ECONNABORTED && p9s_lost(t);
}

/* May it be sent now, after it may have been carried out at a server that was lost? */
static bool harmless(struct p9s_tree *t, const struct p9s_sent *s)
{
    if (!s->maybe || (p9s_repeat(s->m) != P9S_ONCE && !s->once))
        return true;
    return s->m->op && t->again->knows;
}

/* A write that must be done once, to a peer that can see to it. */
static bool by_identity(const struct p9s_sent *s)
{
    return s->once && s->m->type == P9_Twrite;
}

/* The identity that the message is to have at the peer that is there now. With a pin. */
static void fit_op(struct p9s_tree *t, struct p9_msg *m)
{
    if (t->again->remembers || !m->op)
        return;
    p9s_op_end(t, m);
    m->op = 0;
    if (m->type == P9_Twrite2)
        m->type = P9_Twrite;
}

static int begin_op(struct p9s_tree *t, struct pl_call *call, struct p9s_sent *s, bool wait)
{
    if (!t->again || s->m->op)
        return 0;
    if (by_identity(s))
        s->m->type = P9_Twrite2;
    int r = p9s_op_begin(t, call, s->m, wait);
    if (s->m->type == P9_Twrite2 && !s->m->op)
        s->m->type = P9_Twrite;
    return r;
}

/* One attempt, waiting for a connection and for the answer. */
static int attempt(struct p9s_tree *t, struct pl_call *call, struct p9s_sent *s,
                   struct p9_answer *a)
{
    int r = begin_op(t, call, s, true);
    if (r == 0)
        r = p9s_pin(t, call);
    if (r < 0)
        return r;
    a->sent = false;
    if (!harmless(t, s)) {
        r = -EREMOTEIO;
    } else {
        fit_op(t, s->m);
        r = p9s_ensure(t, call, s->m);
        if (r == 0 && s->keep) /* if it cannot be, it is lost already */
            p9s_ensure_fid(t, call, s->keep->first.fid);
    }
    if (r == 0) {
        p9s_note_sent(t, s->m);
        r = p9_rpc(t->conn, call, s->m, a, s->into, s->size);
        s->maybe |= a->sent;
    }
    if (lost(t, r))
        r = P9S_LOST;
    else if (r == 0)
        p9s_note_done(t, s->m, a);
    if (r == 0 && s->done)
        s->done(t, s, a);
    p9s_unpin(t);
    return r;
}

int p9s_send_again(struct p9s_tree *t, struct pl_call *call, struct p9s_sent *s,
                   struct p9_answer *a)
{
    int r;
    do {
        a->buf = NULL;
        r = attempt(t, call, s, a);
    } while (r == P9S_LOST);
    if (r != -ERESTART) /* else it comes again, as it was */
        p9s_op_end(t, s->m);
    return p9s_why(call, r);
}

int p9s_ask_into(struct p9s_tree *t, struct pl_call *call, struct p9s_sent *s, struct p9_answer *a)
{
    a->buf = NULL;
    if (t->again)
        return p9s_send_again(t, call, s, a);
    int r = p9_rpc(t->conn, call, s->m, a, s->into, s->size);
    if (r == 0 && s->done)
        s->done(t, s, a);
    return p9s_why(call, r);
}

int p9s_ask(struct p9s_tree *t, struct pl_call *call, struct p9_msg *m, struct p9_answer *a)
{
    struct p9s_sent s = {.m = m};
    return p9s_ask_into(t, call, &s, a);
}

int p9s_tell(struct p9s_tree *t, struct pl_call *call, struct p9_msg *m)
{
    struct p9_answer a;
    int r = p9s_ask(t, call, m, &a);
    p9_answer_free(&a);
    return r;
}

/* ---- several ---- */

/* Who has others under way must not wait here, neither for a connection nor for an identity. */
static int send_pinned(struct p9s_tree *t, struct pl_call *call, struct p9s_sent *s)
{
    int r = 0;
    if (t->again) {
        fit_op(t, s->m);
        r = p9s_ensure(t, call, s->m);
        if (r == 0)
            p9s_note_sent(t, s->m);
    }
    if (r == 0)
        r = p9_rpc_start(t->conn, call, s->m, s->into, s->size, &s->pending);
    return lost(t, r) ? P9S_LOST : r;
}

void p9s_send(struct p9s_tree *t, struct pl_call *call, struct p9s_sent *s)
{
    s->pending = NULL;
    s->maybe = false;
    s->r = P9S_LOST;
    if (begin_op(t, call, s, false) < 0 || !p9s_try_pin(t))
        return;
    s->r = send_pinned(t, call, s);
    if (s->r < 0) {
        s->pending = NULL;
        p9s_unpin(t);
    }
}

int p9s_wait(struct p9s_tree *t, struct pl_call *call, struct p9s_sent *s, struct p9_answer *a)
{
    a->buf = NULL;
    if (s->pending) {
        s->r = p9_rpc_finish(t->conn, call, s->pending, a);
        s->pending = NULL;
        if (lost(t, s->r)) {
            s->maybe = a->sent;
            s->r = P9S_LOST;
        } else if (s->r == 0 && t->again) {
            p9s_note_done(t, s->m, a);
        }
        p9s_unpin(t);
    }
    if (s->r != P9S_LOST)
        p9s_op_end(t, s->m);
    return p9s_why(call, s->r);
}

void p9s_start(struct p9s_tree *t, struct pl_call *call, struct p9s_batch *b, struct p9_msg *m,
               void *into, size_t size)
{
    unsigned i = b->n++;
    struct p9s_sent *s = &b->sent[i];
    *s = (struct p9s_sent){.m = m, .into = into, .size = size};
    b->a[i].buf = NULL;
    if (i > 0 && !b->sent[i - 1].pending)
        s->r = b->sent[i - 1].r;
    else
        p9s_send(t, call, s);
}

int p9s_finish(struct p9s_tree *t, struct pl_call *call, struct p9s_batch *b)
{
    int first = 0;
    for (unsigned i = 0; i < b->n; i++)
        b->r[i] = p9s_wait(t, call, &b->sent[i], &b->a[i]);
    for (unsigned i = 0; i < b->n; i++) {
        if (b->r[i] == P9S_LOST && first == 0)
            b->r[i] = p9s_send_again(t, call, &b->sent[i], &b->a[i]);
        else if (b->r[i] == P9S_LOST) /* what comes before it has failed */
            b->r[i] = -ECONNABORTED, p9s_op_end(t, b->sent[i].m);
        if (b->r[i] < 0 && first == 0)
            first = b->r[i];
    }
    return first;
}

void p9s_batch_free(struct p9s_batch *b)
{
    for (unsigned i = 0; i < b->n; i++)
        p9_answer_free(&b->a[i]);
}

/* ---- what nobody waits for ---- */

int p9s_try(struct p9s_tree *t, struct p9_msg *m, struct p9_pending **ret)
{
    if (!p9s_try_pin(t))
        return -EAGAIN;
    int r = t->again && !p9s_there(t, m) ? -EAGAIN : p9_rpc_try(t->conn, m, ret);
    if (r < 0)
        p9s_unpin(t);
    return r;
}

bool p9s_try_ready(struct p9s_tree *t, struct p9_pending *p)
{
    return p9_rpc_ready(t->conn, p);
}

int p9s_try_wait(struct p9s_tree *t, struct pl_call *call, struct p9_pending *p,
                 pthread_mutex_t *mutex)
{
    if (p9_rpc_ready(t->conn, p) || !p9s_try_pin(t)) /* without a server all has been answered */
        return 0;
    int r = p9_rpc_wait(t->conn, call, p, mutex);
    p9s_unpin(t);
    pthread_mutex_lock(mutex);
    return call ? p9s_why(call, r) : r;
}

int p9s_try_finish(struct p9s_tree *t, struct p9_pending *p, struct p9_answer *a)
{
    int r = p9_rpc_finish(t->conn, NULL, p, a);
    if (lost(t, r))
        r = P9S_LOST;
    p9s_unpin(t);
    return r;
}

void p9s_try_abandon(struct p9s_tree *t, struct p9_pending *p)
{
    p9_rpc_abandon(t->conn, p);
    p9s_unpin(t);
}

void p9s_aside_add(struct p9s_tree *t, struct p9s_aside *a,
                   void (*let_go)(struct p9s_tree *, struct p9s_aside *))
{
    a->let_go = let_go;
    pthread_mutex_lock(&t->aside_mutex);
    a->prev = NULL;
    a->next = t->asides;
    if (a->next)
        a->next->prev = a;
    t->asides = a;
    pthread_mutex_unlock(&t->aside_mutex);
}

void p9s_aside_del(struct p9s_tree *t, struct p9s_aside *a)
{
    pthread_mutex_lock(&t->aside_mutex);
    if (a->prev)
        a->prev->next = a->next;
    else
        t->asides = a->next;
    if (a->next)
        a->next->prev = a->prev;
    pthread_mutex_unlock(&t->aside_mutex);
}

void p9s_aside_let_go(struct p9s_tree *t)
{
    pthread_mutex_lock(&t->aside_mutex);
    for (struct p9s_aside *a = t->asides; a; a = a->next)
        a->let_go(t, a);
    pthread_mutex_unlock(&t->aside_mutex);
}

/* ---- fids ---- */

int p9s_new_fid(struct p9s_tree *t, uint32_t *ret)
{
    *ret = p9_fids_get(t->fids);
    if (*ret == P9_NOFID)
        return -ENFILE;
    if (t->again && !p9s_rec(t, *ret)) {
        p9_fids_put(t->fids, *ret);
        return -ENOMEM;
    }
    return 0;
}

void p9s_put_fid(struct p9s_tree *t, uint32_t fid)
{
    if (fid == P9_NOFID)
        return;
    if (t->again)
        p9s_rec_drop(t, fid);
    p9_fids_put(t->fids, fid);
}

void p9s_clunk(struct p9s_tree *t, uint32_t fid)
{
    if (fid == P9_NOFID)
        return;
    if (!t->again) {
        p9_clunk_later(t->conn, fid);
        return;
    }
    bool pinned = p9s_try_pin(t);
    if (!p9s_rec_drop(t, fid))
        p9_fids_put(t->fids, fid);
    else if (pinned)
        p9_clunk_later(t->conn, fid);
    else
        p9s_orphan(t, fid);
    if (pinned)
        p9s_unpin(t);
}

void p9s_clunk_now(struct p9s_tree *t, struct pl_call *call, uint32_t fid)
{
    struct p9_msg m = {.type = P9_Tclunk, .fid = fid};
    struct p9_answer a = {0};
    if (!p9s_try_pin(t)) {
        p9s_clunk(t, fid);
        return;
    }
    bool there = !t->again || p9s_rec_drop(t, fid);
    int r = there ? p9_rpc(t->conn, call, &m, &a, NULL, 0) : 0;
    p9_answer_free(&a);
    if (r == -EINTR || r == -ETIMEDOUT) /* the clunk itself may have been cancelled */
        p9_clunk_later(t->conn, fid);
    else
        p9_fids_put(t->fids, fid);
    p9s_unpin(t);
}

void p9s_drop_fid(struct p9s_tree *t, uint32_t fid, int r)
{
    /* An answer that was not waited for, or not understood, leaves open whether there is a fid:
     * clunking one that is not does no harm. */
    if (r == -EINTR || r == -ETIMEDOUT || r == -EPROTO || r >= 0)
        p9s_clunk(t, fid);
    else
        p9s_put_fid(t, fid);
}

struct p9_msg p9s_walk_msg(uint32_t fid, uint32_t newfid, const char *name)
{
    struct p9_msg m = {.type = P9_Twalk, .fid = fid, .newfid = newfid};
    if (name) {
        m.nwname = 1;
        m.wname[0] = p9_str(name);
    }
    return m;
}

int p9s_walk(struct p9s_tree *t, struct pl_call *call, struct p9_msg *m, struct p9_answer *a)
{
    int r = p9s_ask(t, call, m, a);
    if (r == 0 && a->r.nwqid != m->nwname)
        r = a->r.nwqid < m->nwname ? -ENOENT : -EPROTO;
    return r;
}
