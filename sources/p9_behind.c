/* SPDX-License-Identifier: MIT */
/*
 * Writing behind through the 9P source. A write returns when its bytes are on their way; at most
 * LIMIT_BEHIND of them, for a file and for all files of a tree together. They belong to the node:
 * whatever else is asked of it through this tree waits until they have arrived (p9s_settle), and so
 * do writes that overlap them. fsync and flush wait too, and tell how it went.
 *
 * Errors, as on Linux's own file systems: the first of them is told once through each file that was
 * open when it happened, by the next write, fsync or flush. A file opened later is told it if
 * nobody was yet. What could be written only in part is tried again from there, which tells why.
 *
 * A node's `behind` is made at its first write and lives as long as the node. Its mutex guards the
 * rest; nobody waits with it, but see p9s_behind_free.
 */
#include "sources/p9_again.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 512 << 10 };
/* A write this far behind the end may be too far for the file system, which is to be heard at once.
 */
#define FAR (1ull << 30)

struct late {
    struct late *next;
    uint64_t off;
    uint32_t n, done; /* of data */
    bool sets;        /* not a write: attributes, which are the data */
    uint32_t fid;
    unsigned users; /* threads that wait for it */
    bool gone;      /* not in the list any more */
    bool resent;    /* somebody sends it again, and waits */
    struct p9_pending *pending;
    uint8_t data[];
};

struct p9s_behind {
    struct p9s_aside aside;
    struct p9s_node *node;
    pthread_mutex_t mutex;
    pthread_cond_t cond;        /* one that was sent again has been answered */
    struct late *first, **last; /* in the order of the writes */
    struct p9s_file *maker;     /* who has made the file, and has it open; or NULL */
    size_t bytes;
    int error;        /* the last */
    unsigned retries; /* writes that went only in part */
    unsigned errors;  /* how many there were */
    bool told;        /* somebody has heard of the last */
};

/* ---- what is under way ---- */

static void late_free(struct late *w)
{
    if (w->users == 0)
        free(w);
}

static struct p9_msg late_msg(struct late *w)
{
    if (w->sets) {
        struct p9_msg m = {.type = P9_Tsetattr, .fid = w->fid};
        memcpy(&m.set, w->data, sizeof(m.set));
        return m;
    }
    return (struct p9_msg){.type = P9_Twrite,
                           .fid = w->fid,
                           .offset = w->off + w->done,
                           .count = w->n - w->done,
                           .data = w->data + w->done};
}

/* The first has been answered, with r or a->r.count: takes it off the list, unless there is more of
 * it to write. */
static void answered(struct p9s_tree *t, struct p9s_behind *b, int r, const struct p9_answer *a)
{
    struct late *w = b->first;
    if (r == 0 && !w->sets && (a->r.count == 0 || a->r.count > w->n - w->done))
        r = -EIO;
    if (r == 0 && !w->sets && (w->done += a->r.count) < w->n) {
        struct p9_msg m = late_msg(w);
        b->retries++;
        r = p9s_try(t, &m, &w->pending);
        if (r == 0 || r == -EAGAIN) /* that is left to who waits next */
            return;
    }
    if (r < 0) {
        b->error = r;
        b->errors++;
        b->told = false;
    }
    b->bytes -= w->n;
    atomic_fetch_sub(&t->behind, w->n);
    if (!(b->first = w->next))
        b->last = &b->first;
    w->gone = true;
    late_free(w);
    p9s_touch(t, &b->node->h.node);
}

/* One that was lost with its connection stays, without a pending request. */
static void reap(struct p9s_tree *t, struct p9s_behind *b)
{
    struct late *w = b->first;
    struct p9_answer a = {0};
    int r = p9s_try_finish(t, w->pending, &a);
    w->pending = NULL;
    if (r != P9S_LOST)
        answered(t, b, r, &a);
    p9_answer_free(&a);
}

static void wake(void *arg)
{
    struct p9s_behind *b = arg;
    pthread_mutex_lock(&b->mutex);
    pthread_cond_broadcast(&b->cond);
    pthread_mutex_unlock(&b->mutex);
}

/* Another sends the first again: waits for that. */
static int wait_resent(struct pl_call *call, struct p9s_behind *b, struct late *w)
{
    int r = 0;
    pthread_mutex_unlock(&b->mutex);
    if (call && (r = pl_call_block(call, wake, b)) < 0) {
        pthread_mutex_lock(&b->mutex);
        return r;
    }
    pthread_mutex_lock(&b->mutex);
    while (!w->gone && w->resent && !(r = call ? pl_call_over(call) : 0)) {
        if (call)
            pl_call_wait(call, &b->cond, &b->mutex);
        else
            pthread_cond_wait(&b->cond, &b->mutex);
    }
    pthread_mutex_unlock(&b->mutex);
    if (call)
        pl_call_unblock(call);
    pthread_mutex_lock(&b->mutex);
    return r;
}

/* Sends the first again in the ordinary way, which waits for a server. */
static int resend(struct p9s_tree *t, struct pl_call *call, struct p9s_behind *b, struct late *w)
{
    struct p9_answer a = {0};
    struct p9_msg m = late_msg(w);
    struct pl_call own;
    if (!call)
        pl_call_init_self(&own);
    w->resent = true;
    pthread_mutex_unlock(&b->mutex);
    int r = p9s_ask(t, call ? call : &own, &m, &a);
    pthread_mutex_lock(&b->mutex);
    w->resent = false;
    if (r != -EINTR && r != -ETIMEDOUT)
        answered(t, b, r, &a);
    else if (!call)
        answered(t, b, -EIO, &a);
    pthread_cond_broadcast(&b->cond);
    p9_answer_free(&a);
    if (!call)
        pl_call_done(&own);
    return r == -EINTR || r == -ETIMEDOUT ? r : 0;
}

/* Waits for the first; 0, or why the caller must not wait any more. `again`: what was lost is sent
 * again; else it is -EAGAIN. */
static int wait_first(struct p9s_tree *t, struct pl_call *call, struct p9s_behind *b, bool again)
{
    struct late *w = b->first;
    struct p9_pending *p = w->pending;
    int r = 0;
    w->users++;
    if (p)
        r = p9s_try_wait(t, call, p, &b->mutex);
    else if (!again)
        r = -EAGAIN;
    else if (w->resent)
        r = wait_resent(call, b, w);
    else
        r = resend(t, call, b, w);
    w->users--;
    if (w->gone)
        late_free(w);
    else if (r == 0 && p && w->pending == p)
        reap(t, b);
    return r;
}

/* The connection is over: so is what was under way. */
static void let_go(struct p9s_tree *t, struct p9s_aside *aside)
{
    struct p9s_behind *b = (struct p9s_behind *)aside;
    if (pthread_mutex_trylock(&b->mutex) != 0)
        return;
    for (struct late *w = b->first; w; w = w->next) {
        struct p9_answer a = {0};
        if (w->pending) /* even if it was answered just before: it may be sent twice */
            p9s_try_finish(t, w->pending, &a);
        w->pending = NULL;
        p9_answer_free(&a);
    }
    pthread_mutex_unlock(&b->mutex);
}

static struct p9s_behind *behind_of(struct p9s_tree *t, struct p9s_node *node, bool make)
{
    struct p9s_behind *b = atomic_load_explicit(&node->behind, memory_order_acquire), *none = NULL;
    if (b || !make || !(b = calloc(1, sizeof(*b))))
        return b;
    pthread_mutex_init(&b->mutex, NULL);
    pl_cond_init(&b->cond);
    b->last = &b->first;
    b->node = node;
    if (!atomic_compare_exchange_strong(&node->behind, &none, b)) {
        free(b);
        return none;
    }
    p9s_aside_add(t, &b->aside, let_go);
    return b;
}

static int settle(struct p9s_tree *t, struct pl_call *call, struct p9s_behind *b, bool again)
{
    int r = 0;
    while (r == 0 && b->first)
        r = wait_first(t, call, b, again);
    return r;
}

/* Takes off the list what has been answered. */
static void tidy(struct p9s_tree *t, struct p9s_behind *b)
{
    while (b->first && b->first->pending && p9s_try_ready(t, b->first->pending))
        reap(t, b);
}

bool p9s_settled(struct p9s_node *node)
{
    struct p9s_behind *b = atomic_load_explicit(&node->behind, memory_order_acquire);
    if (!b)
        return true;
    pthread_mutex_lock(&b->mutex);
    bool settled = !b->first;
    pthread_mutex_unlock(&b->mutex);
    return settled;
}

static int settle_all(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node, bool again)
{
    struct p9s_behind *b = atomic_load_explicit(&node->behind, memory_order_acquire);
    if (!b)
        return 0;
    pthread_mutex_lock(&b->mutex);
    int r = settle(t, call, b, again);
    pthread_mutex_unlock(&b->mutex);
    return r;
}

int p9s_settle(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node)
{
    return settle_all(t, call, node, true);
}

/* The nodes that something may be on its way to, with references. One that is being released waits
 * for that itself. */
static int unsettled(struct p9s_tree *t, struct p9s_node ***ret, size_t *n)
{
    size_t most = 0;
    *n = 0;
    pthread_mutex_lock(&t->aside_mutex);
    for (struct p9s_aside *a = t->asides; a; a = a->next)
        most += a->let_go == let_go;
    *ret = malloc((most + 1) * sizeof(**ret));
    for (struct p9s_aside *a = t->asides; *ret && a; a = a->next) {
        struct p9s_node *node = ((struct p9s_behind *)a)->node;
        if (a->let_go == let_go && pl_node_tryref(&node->h.node))
            (*ret)[(*n)++] = node;
    }
    pthread_mutex_unlock(&t->aside_mutex);
    return *ret ? 0 : -ENOMEM;
}

int p9s_settle_tree(struct p9s_tree *t, struct pl_call *call)
{
    struct p9s_node **nodes;
    size_t n;
    int r = 0;
    if (atomic_load(&t->behind) == 0)
        return 0;
    if ((r = unsettled(t, &nodes, &n)) < 0)
        return r;
    for (size_t i = 0; i < n; i++) {
        if (r == 0)
            r = p9s_settle(t, call, nodes[i]);
        pl_node_unref(&nodes[i]->h.node);
    }
    free(nodes);
    return r;
}

uint64_t p9s_behind_size(struct p9s_node *node, uint64_t size)
{
    struct p9s_behind *b = atomic_load_explicit(&node->behind, memory_order_acquire);
    if (!b)
        return size;
    pthread_mutex_lock(&b->mutex);
    for (struct late *w = b->first; w; w = w->next)
        if (!w->sets && w->off + w->n > size)
            size = w->off + w->n;
    pthread_mutex_unlock(&b->mutex);
    return size;
}

void p9s_behind_free(struct p9s_tree *t, struct p9s_node *node)
{
    struct p9s_behind *b = atomic_load(&node->behind);
    if (!b)
        return;
    pthread_mutex_lock(&b->mutex);
    settle(t, NULL, b, true); /* nothing, unless a close was interrupted */
    pthread_mutex_unlock(&b->mutex);
    p9s_aside_del(t, &b->aside);
    pthread_cond_destroy(&b->cond);
    pthread_mutex_destroy(&b->mutex);
    free(b);
}

/* ---- errors ---- */

void p9s_behind_open(struct p9s_file *f, struct p9s_node *node)
{
    struct p9s_behind *b = atomic_load(&node->behind);
    if (!b)
        return;
    pthread_mutex_lock(&b->mutex);
    f->heard = b->errors - (b->errors && !b->told);
    pthread_mutex_unlock(&b->mutex);
}

static int tell(struct p9s_file *f, struct p9s_behind *b)
{
    if (f->heard == b->errors)
        return 0;
    f->heard = b->errors;
    b->told = true;
    return b->error;
}

int p9s_behind_tell(struct p9s_file *f)
{
    struct p9s_behind *b =
        atomic_load_explicit(&((struct p9s_node *)f->file.node)->behind, memory_order_acquire);
    if (!b)
        return 0;
    pthread_mutex_lock(&b->mutex);
    int r = tell(f, b);
    pthread_mutex_unlock(&b->mutex);
    return r;
}

/* Whether all that is on its way went through this fid, and so comes before what is sent next. */
static bool in_order(const struct p9s_behind *b, uint32_t fid)
{
    for (const struct late *w = b->first; w; w = w->next)
        if (w->fid != fid)
            return false;
    return true;
}

/* The same of an open file, and how often one went only in part. */
static bool all_mine(struct p9s_file *f, struct p9s_behind *b, unsigned *retries)
{
    pthread_mutex_lock(&b->mutex);
    bool mine = in_order(b, f->fid);
    *retries = b->retries;
    pthread_mutex_unlock(&b->mutex);
    return mine;
}

/* One of us does not start it before the writes of that fid are done, so it may go out now. */
static int then_at_once(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f,
                        struct p9s_behind *b, struct p9_msg *m)
{
    struct p9s_batch batch = {0};
    unsigned before, after;
    if (!t->ext || !all_mine(f, b, &before))
        return -EAGAIN;
    p9s_start(t, call, &batch, m, NULL, 0);
    int settled = settle_all(t, call, (struct p9s_node *)f->file.node, false);
    int r = p9s_finish(t, call, &batch);
    p9s_batch_free(&batch);
    all_mine(f, b, &after);
    if (settled < 0)
        return settled;
    return after == before ? r : -EAGAIN; /* the rest of a write went out behind it */
}

int p9s_behind_then(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f, struct p9_msg *m)
{
    struct p9s_node *node = (struct p9s_node *)f->file.node;
    struct p9s_behind *b = behind_of(t, node, false);
    int r = b && !p9s_settled(node) ? then_at_once(t, call, f, b, m) : -EAGAIN;
    if (r == -EAGAIN && (r = p9s_settle(t, call, node)) == 0)
        r = p9s_tell(t, call, m);
    if (r == -EINTR || r == -ETIMEDOUT)
        return r;
    int late = p9s_behind_tell(f);
    return late < 0 ? late : r;
}

/* ---- writing ---- */

/* Whether a write through `fid` must not overtake what is on its way: bytes that it overlaps, and
 * attributes (given times, which it changes), unless they went through the same fid. */
static bool overlaps(const struct p9s_behind *b, uint32_t fid, uint64_t off, size_t n)
{
    for (const struct late *w = b->first; w; w = w->next)
        if (w->sets ? w->fid != fid : w->off < off + n && off < w->off + w->n)
            return true;
    return false;
}

/* Sends one message, whose n bytes are data, or attributes: its bytes, or -EAGAIN when it cannot be
 * sent now. */
static ssize_t send_late(struct p9s_tree *t, struct p9s_file *f, struct p9s_behind *b, bool sets,
                         const void *buf, size_t n, uint64_t off)
{
    size_t most = t->chunk < CHUNK ? t->chunk : CHUNK;
    n = n < most ? n : most;
    struct late *w = malloc(sizeof(*w) + n);
    if (!w)
        return -EAGAIN;
    *w = (struct late){.off = off, .n = (uint32_t)n, .sets = sets, .fid = f->fid};
    memcpy(w->data, buf, n);
    struct p9_msg m = late_msg(w);
    if (atomic_fetch_add(&t->behind, n) + n > LIMIT_BEHIND || p9s_try(t, &m, &w->pending) < 0) {
        atomic_fetch_sub(&t->behind, n);
        free(w);
        return -EAGAIN;
    }
    *b->last = w;
    b->last = &w->next;
    b->bytes += n;
    return (ssize_t)n;
}

/* A peer that is not one of us cannot say that a file is made up, where each write is a command:
 * then it had no size, and we have not made it. */
static bool may(const struct p9s_tree *t, const struct pl_file *file)
{
    const struct p9s_file *f = (const struct p9s_file *)file;
    if (!t->ext && !f->created && atomic_load(&((struct p9s_node *)file->node)->size) == 0)
        return false;
    return !t->sync && !file->direct && !file->stream &&
           !(file->flags & (O_APPEND | O_DIRECT | O_SYNC | O_DSYNC)) &&
           !(t->tree.flags & PL_TREE_GENERATED);
}

ssize_t p9s_behind_write(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f,
                         const void *buf, size_t n, uint64_t off)
{
    struct p9s_node *node = (struct p9s_node *)f->file.node;
    uint64_t size = p9s_behind_size(node, atomic_load(&node->size));
    bool late = may(t, &f->file) && off + n <= size + FAR;
    struct p9s_behind *b = behind_of(t, node, late);
    size_t sent = 0;
    if (!b)
        return 0;
    pthread_mutex_lock(&b->mutex);
    tidy(t, b);
    int r = tell(f, b);
    if (r == 0 && (!late || overlaps(b, f->fid, off, n)))
        r = settle(t, call, b, true);
    while (late && r == 0 && sent < n) {
        ssize_t some = send_late(t, f, b, false, (const uint8_t *)buf + sent, n - sent, off + sent);
        if (some > 0)
            sent += (size_t)some;
        else if (b->first)
            r = wait_first(t, call, b, true);
        else
            break; /* the caller writes it, and waits */
    }
    if (sent && off + sent > size)
        atomic_store(&node->size, off + sent);
    pthread_mutex_unlock(&b->mutex);
    return sent ? (ssize_t)sent : r;
}

/* ---- attributes ---- */

/* Whether it is certain that the owner may, and what it comes to. */
static bool certain(struct pl_call *call, const struct pl_attr *is, const struct pl_setattr *set)
{
    uint32_t known = PL_SET_MODE | PL_SET_UID | PL_SET_GID | PL_SET_ATIME | PL_SET_MTIME;
    bool root = call->cred.uid == 0;
    if ((set->valid & ~(known | PL_SET_CTIME)) || is->uid != call->cred.uid)
        return false;
    if (is->mode & (S_ISUID | S_ISGID) || ((set->valid & PL_SET_MODE) && set->mode & 07000))
        return false;
    return root || ((!(set->valid & PL_SET_UID) || set->uid == is->uid) &&
                    (!(set->valid & PL_SET_GID) || set->gid == is->gid));
}

int p9s_behind_set(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node,
                   const struct pl_setattr *set, const struct p9_setattr *wire,
                   struct pl_attr *attr)
{
    struct p9s_behind *b = behind_of(t, node, false);
    ssize_t r = -EAGAIN;
    if (!b)
        return -EAGAIN;
    pthread_mutex_lock(&b->mutex);
    struct p9s_file *f = b->maker;
    if (f && may(t, &f->file) && in_order(b, f->fid) && certain(call, f->made, set))
        r = send_late(t, f, b, true, wire, sizeof(*wire), 0);
    if (r > 0) {
        struct pl_attr *is = f->made;
        if (set->valid & PL_SET_MODE)
            is->mode = (is->mode & S_IFMT) | (set->mode & 07777);
        is->uid = set->valid & PL_SET_UID ? set->uid : is->uid;
        is->gid = set->valid & PL_SET_GID ? set->gid : is->gid;
        is->atime = set->valid & PL_SET_ATIME ? set->atime : is->atime;
        is->mtime = set->valid & PL_SET_MTIME ? set->mtime : is->mtime;
        clock_gettime(CLOCK_REALTIME, &is->ctime);
        *attr = *is;
        atomic_store(&f->dirty, true);
    }
    pthread_mutex_unlock(&b->mutex);
    if (r < 0)
        return -EAGAIN;
    attr->size = p9s_behind_size(node, atomic_load(&node->size));
    attr->blocks = (attr->size + 511) / 512;
    attr->guess = true;
    return 0;
}

void p9s_behind_known(struct p9s_tree *t, struct p9s_node *node, const struct pl_attr *attr)
{
    struct p9s_behind *b = behind_of(t, node, false);
    if (!b)
        return;
    pthread_mutex_lock(&b->mutex);
    if (b->maker)
        *b->maker->made = *attr;
    pthread_mutex_unlock(&b->mutex);
}

void p9s_behind_made(struct p9s_tree *t, struct p9s_file *f, struct p9s_node *node,
                     const struct pl_attr *attr)
{
    struct p9s_behind *b = t->ext && !t->sync ? behind_of(t, node, true) : NULL;
    if (!b || !(f->made = malloc(sizeof(*f->made))))
        return;
    *f->made = *attr;
    pthread_mutex_lock(&b->mutex);
    b->maker = f;
    pthread_mutex_unlock(&b->mutex);
}

void p9s_behind_close(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f)
{
    struct p9s_behind *b = behind_of(t, (struct p9s_node *)f->file.node, false);
    if (!b)
        return;
    pthread_mutex_lock(&b->mutex);
    settle(t, call, b, true);
    if (b->maker == f)
        b->maker = NULL;
    pthread_mutex_unlock(&b->mutex);
    free(f->made);
}
