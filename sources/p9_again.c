/* SPDX-License-Identifier: MIT */
/* The thread that gets a tree another connection, and those who wait for it: see p9_again.h. */
#include "sources/p9_again.h"
#include "base/backoff.h"
#include "base/futex.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_NS 50000000LL /* between two looks whether all are done with a connection */
#define RELOCK_NS                                                                                  \
    2000000000LL /* so long a server may hold our locks for the connection that is                 \
                    over */

/* ---- waiting ---- */

static void wake(void *arg)
{
    struct p9s_again *a = arg;
    pthread_mutex_lock(&a->mutex);
    pthread_cond_broadcast(&a->cond);
    pthread_mutex_unlock(&a->mutex);
}

int p9s_block(struct p9s_again *a, struct pl_call *call)
{
    return pl_call_block(call, wake, a);
}

void p9s_wait_cond(struct p9s_again *a, struct pl_call *call, int64_t until)
{
    if (call->deadline && (!until || call->deadline < until))
        until = call->deadline;
    struct timespec ts = {until / 1000000000, until % 1000000000};
    if (until)
        pthread_cond_timedwait(&a->cond, &a->mutex, &ts);
    else
        pthread_cond_wait(&a->cond, &a->mutex);
}

static int64_t soft_end(const struct p9s_again *a)
{
    return a->soft ? a->down_since + a->soft : 0;
}

bool p9s_try_pin(struct p9s_tree *t)
{
    struct p9s_again *a = t->again;
    if (!a)
        return true;
    pthread_mutex_lock(&a->mutex);
    bool up = a->state == P9S_UP;
    a->pins += up;
    pthread_mutex_unlock(&a->mutex);
    return up;
}

uint32_t p9s_generation(struct p9s_tree *t)
{
    struct p9s_again *a = t->again;
    if (!a)
        return 0;
    pthread_mutex_lock(&a->mutex);
    uint32_t gen = a->gen;
    pthread_mutex_unlock(&a->mutex);
    return gen;
}

int p9s_pin(struct p9s_tree *t, struct pl_call *call)
{
    struct p9s_again *a = t->again;
    if (p9s_try_pin(t))
        return 0;
    int r = p9s_block(a, call);
    if (r < 0)
        return r;
    pthread_mutex_lock(&a->mutex);
    while (a->state == P9S_DOWN && !(r = pl_call_over(call))) {
        if (a->soft && mono_now() >= soft_end(a)) {
            r = -ETIMEDOUT;
            break;
        }
        p9s_wait_cond(a, call, soft_end(a));
    }
    if (a->state == P9S_UP) {
        a->pins++;
        r = 0;
    } else if (a->state == P9S_DEAD) {
        r = -ECONNABORTED;
    }
    pthread_mutex_unlock(&a->mutex);
    pl_call_unblock(call);
    return r;
}

void p9s_unpin(struct p9s_tree *t)
{
    struct p9s_again *a = t->again;
    if (!a)
        return;
    pthread_mutex_lock(&a->mutex);
    if (--a->pins == 0 && a->state != P9S_UP)
        pthread_cond_broadcast(&a->cond);
    pthread_mutex_unlock(&a->mutex);
}

static void set_state(struct p9s_again *a, enum p9s_state state)
{
    pthread_mutex_lock(&a->mutex);
    if (state == P9S_DOWN && a->state == P9S_UP)
        a->down_since = mono_now();
    a->state = state;
    pthread_cond_broadcast(&a->cond);
    pthread_mutex_unlock(&a->mutex);
}

bool p9s_lost(struct p9s_tree *t)
{
    struct p9s_again *a = t->again;
    if (!a || !a->live || !p9_conn_over(t->conn))
        return false;
    pthread_mutex_lock(&a->mutex);
    if (a->state == P9S_UP) {
        a->state = P9S_DOWN;
        a->down_since = mono_now();
        pthread_cond_broadcast(&a->cond);
    }
    pthread_mutex_unlock(&a->mutex);
    return true;
}

/* ---- operations ---- */

int p9s_op_begin(struct p9s_tree *t, struct pl_call *call, struct p9_msg *m, bool wait)
{
    struct p9s_again *a = t->again;
    if (!a || m->op || !p9s_has_op(m))
        return 0;
    pthread_mutex_lock(&a->mutex);
    bool may = a->remembers;
    pthread_mutex_unlock(&a->mutex);
    if (!may)
        return 0;
    if (wait)
        return p9_op_get(t->fids, call, &m->op);
    m->op = p9_op_try(t->fids);
    return m->op ? 0 : -EAGAIN;
}

void p9s_op_end(struct p9s_tree *t, const struct p9_msg *m)
{
    if (t->again && m->op)
        p9_op_put(t->fids, m->op);
}

/* Says whose operations are to come; each tree for itself, where several have one connection. One
 * that does not know the question remembers nothing. */
static int session(struct p9s_tree *t, struct pl_call *call)
{
    struct p9s_again *a = t->again;
    struct p9_msg m = {.type = P9_Tsession};
    struct p9_answer ans;
    if (!t->ext)
        return 0;
    int r = p9_ops_id(t->fids, m.id);
    if (r < 0)
        return r;
    r = p9_rpc(t->conn, call, &m, &ans, NULL, 0);
    uint32_t flags = r == 0 ? ans.r.flags : 0;
    p9_answer_free(&ans);
    pthread_mutex_lock(&a->mutex);
    a->remembers = flags & 1;
    a->knows = (flags & 3) == 3;
    pthread_mutex_unlock(&a->mutex);
    return r == -ECONNABORTED || r == -EINTR ? r : 0;
}

/* ---- fids that nobody wants any more, at a connection that is not ready yet ---- */

void p9s_orphan(struct p9s_tree *t, uint32_t fid)
{
    struct p9s_again *a = t->again;
    pthread_mutex_lock(&a->mutex);
    if (a->norphans == a->cap_orphans) {
        size_t cap = a->cap_orphans ? 2 * a->cap_orphans : 16;
        struct orphan *more = realloc(a->orphans, cap * sizeof(*more));
        if (more) {
            a->orphans = more;
            a->cap_orphans = cap;
        }
    }
    if (a->norphans < a->cap_orphans) /* else the number is lost, no more */
        a->orphans[a->norphans++] = (struct orphan){fid, a->gen};
    pthread_mutex_unlock(&a->mutex);
}

/* With a pin, or when nobody has any. */
static void clunk_orphans(struct p9s_tree *t)
{
    struct p9s_again *a = t->again;
    pthread_mutex_lock(&a->mutex);
    struct orphan *list = a->orphans;
    size_t n = a->norphans;
    a->orphans = NULL;
    a->norphans = a->cap_orphans = 0;
    pthread_mutex_unlock(&a->mutex);
    for (size_t i = 0; i < n; i++) {
        if (list[i].gen == a->gen)
            p9_clunk_later(t->conn, list[i].fid);
        else
            p9_fids_put(t->fids, list[i].fid);
    }
    free(list);
}

/* ---- another connection ---- */

/* Whether what we have can go on at this server. */
static int fits(struct p9s_tree *t, struct p9_conn *conn, struct pl_err *err)
{
    const char *peer = p9_conn_peer(conn);
    if (t->dialect != p9_dialect(conn))
        return pl_fail(err, -EPROTO, "%s: speaks another dialect than the server before it", peer);
    if (t->ext && !p9_extended(conn))
        return pl_fail(err, -EPROTO, "%s: speaks plain 9P2000.L, unlike the server before it",
                       peer);
    if (p9_msize(conn) - P9_IOHDRSZ < t->chunk)
        return pl_fail(err, -EPROTO, "%s: takes smaller messages than the server before it", peer);
    if (p9_conn_share_fids(conn, t->fids) < 0)
        return pl_fail(err, -EBUSY, "%s: the connection is in use by others already", peer);
    return 0;
}

/* The new connection takes the old one's place, which nobody uses any more. */
static void replace(struct p9s_tree *t, struct p9_conn *conn)
{
    struct p9s_again *a = t->again;
    pthread_mutex_lock(&a->mutex);
    struct p9_conn *old = t->conn;
    t->conn = conn;
    a->gen++;
    a->relock_until = mono_now() + RELOCK_NS;
    pthread_mutex_unlock(&a->mutex);
    if (t->own)
        p9_conn_free(old);
}

/* Until nobody has anything under way; also not those who are not here to see that it is over. */
static void wait_for_pins(struct p9s_tree *t)
{
    struct p9s_again *a = t->again;
    pthread_mutex_lock(&a->mutex);
    while (a->pins) {
        pthread_mutex_unlock(&a->mutex);
        p9s_aside_let_go(t);
        int64_t until = mono_now() + LOOK_NS;
        struct timespec ts = {until / 1000000000, until % 1000000000};
        pthread_mutex_lock(&a->mutex);
        if (a->pins)
            pthread_cond_timedwait(&a->cond, &a->mutex, &ts);
    }
    pthread_mutex_unlock(&a->mutex);
}

static int come_back(struct p9s_tree *t, struct pl_err *err)
{
    struct p9s_again *a = t->again;
    int64_t pause = 0; /* after a server that let us in, but is not what we had */
    wait_for_pins(t);
    for (;;) {
        struct p9_conn *conn;
        int r = a->again(a->arg, &a->call, t->conn, &conn, err);
        if (r < 0)
            return r;
        replace(t, conn);
        r = pl_call_over(&a->call);
        if (r == 0)
            r = fits(t, conn, err);
        if (r == 0)
            r = session(t, &a->call);
        if (r == 0)
            r = p9s_remake_all(t, &a->call, err);
        if (r == 0 || (r = pl_call_over(&a->call)) < 0)
            return r;
        if (!p9_conn_over(conn)) { /* it lives, but is of no use to us; perhaps the next one is */
            p9_conn_abort(conn);
            if (a->changed)
                a->changed(a->arg, err->text);
            pause = backoff_next(pause);
            if ((r = pl_call_sleep(&a->call, backoff_jitter(pause))) < 0)
                return r;
        }
        p9_conn_wait(conn, NULL);
    }
}

static void *watch(void *arg)
{
    struct p9s_tree *t = arg;
    struct p9s_again *a = t->again;
    for (;;) {
        struct pl_err err = {0};
        int error;
        if (p9_conn_watch(t->conn, &a->call, &error, &err) < 0)
            break;
        set_state(a, P9S_DOWN);
        if (error == 0)
            pl_fail(&err, -ECONNRESET, "%s: the server closed the connection",
                    p9_conn_peer(t->conn));
        if (a->changed)
            a->changed(a->arg, err.text);
        int r = come_back(t, &err);
        set_state(a, r == 0 ? P9S_UP : P9S_DEAD);
        if (r == 0) /* what comes after this is clunked at once; only we change t->conn */
            clunk_orphans(t);
        if (pl_call_over(&a->call) < 0)
            break;
        if (a->changed)
            a->changed(a->arg, r == 0 ? NULL : err.text);
        if (r < 0)
            break;
    }
    return NULL;
}

/* ---- beginning and end ---- */

struct p9s_again *p9s_again_new(const struct pl_p9_opts *opts)
{
    struct p9s_again *a = calloc(1, sizeof(*a));
    if (!a)
        return NULL;
    a->again = opts->again;
    a->changed = opts->changed;
    a->arg = opts->again_arg;
    a->soft = opts->soft;
    a->gen = 1;
    pl_call_init_self(&a->call);
    pthread_mutex_init(&a->mutex, NULL);
    pl_cond_init(&a->cond);
    return a;
}

int p9s_again_start(struct p9s_tree *t)
{
    struct p9s_again *a = t->again;
    int r = session(t, &a->call);
    if (r < 0)
        return r;
    a->live = true;
    r = -pthread_create(&a->thread, NULL, watch, t);
    if (r < 0)
        a->live = false;
    return r;
}

void p9s_again_stop(struct p9s_tree *t)
{
    struct p9s_again *a = t->again;
    if (!a || !a->live)
        return;
    pl_call_cancel(&a->call);
    pthread_mutex_lock(&a->mutex);
    if (a->state != P9S_UP && t->own) /* a server that does not answer us is not waited for */
        p9_conn_abort(t->conn);
    pthread_mutex_unlock(&a->mutex);
    pthread_join(a->thread, NULL);
    a->live = false;
}

void p9s_again_free(struct p9s_again *a)
{
    if (!a)
        return;
    for (size_t i = 0; i < sizeof(a->recs) / sizeof(*a->recs); i++)
        free(atomic_load(&a->recs[i]));
    free(a->orphans);
    pl_call_done(&a->call);
    pthread_mutex_destroy(&a->mutex);
    pthread_cond_destroy(&a->cond);
    free(a);
}
