/* SPDX-License-Identifier: MIT */
/*
 * Locks. A lock's owner is (connection, client_id, proc_id), hashed with a key of the door's own;
 * with one of us it is (connection, the 64-bit owner that client_id spells in hexadecimal), so that
 * Tflushfile can name it too. A fid remembers who holds locks through it: they go when it does, and
 * so a dead client's locks go with its fids.
 *
 * A blocking lock waits here for a moment, and then tells the client to ask again: a client that
 * dies silently, or never asks again, costs a thread for no longer than that.
 */
#include "base/futex.h"
#include "doors/p9_door.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#define LOCK_WAIT_NS 1000000000LL

static uint64_t mix(uint64_t h, uint64_t v)
{
    h ^= v;
    h *= 0x9e3779b97f4a7c15u;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9u;
    return h ^ h >> 32;
}

uint64_t p9d_lock_owner(struct p9d_session *s, const void *id, size_t n, uint32_t proc_id)
{
    uint64_t h = mix(s->door->seed[0], s->id);
    const uint8_t *p = id;
    for (size_t i = 0; i < n; i += 8) {
        uint64_t v = 0;
        for (size_t k = 0; k < 8 && i + k < n; k++)
            v |= (uint64_t)p[i + k] << (8 * k);
        h = mix(h, v);
    }
    return mix(h, (uint64_t)proc_id << 32 ^ n ^ s->door->seed[1]);
}

static uint64_t owner_of(struct p9d_op *op)
{
    const struct p9_lock *l = &op->in->lock;
    if (p9d_own(op) && l->client_id.len) {
        uint64_t owner = strtoull(l->client_id.s, NULL, 16);
        return p9d_lock_owner(op->session, &owner, sizeof(owner), 0);
    }
    return p9d_lock_owner(op->session, l->client_id.len ? l->client_id.s : "", l->client_id.len,
                          l->proc_id);
}

/* ---- who holds locks through a fid ---- */

/* Notes the owner before it gets a lock, so that none is forgotten: -ENOLCK when there are too
 * many. */
static int remember(struct p9d_fid *fid, const struct pl_lock *lock)
{
    struct p9d_session *s = fid->session;
    struct p9d_owner *add = malloc(sizeof(*add)), *o;
    int r = 0;
    if (!add)
        return -ENOLCK;
    pthread_mutex_lock(&s->mutex);
    for (o = fid->owners; o; o = o->next)
        if (o->owner == lock->owner && o->flock == lock->flock)
            break;
    if (!o && s->owners >= LIMIT_LOCK_OWNERS) {
        r = -ENOLCK;
    } else if (!o) {
        *add = (struct p9d_owner){fid->owners, lock->owner, lock->flock};
        fid->owners = add;
        s->owners++;
        add = NULL;
    }
    pthread_mutex_unlock(&s->mutex);
    free(add);
    return r;
}

void p9d_lock_forget(struct p9d_fid *fid, uint64_t owner, bool flock)
{
    struct p9d_session *s = fid->session;
    pthread_mutex_lock(&s->mutex);
    struct p9d_owner **p = &fid->owners, *gone;
    while (*p && ((*p)->owner != owner || (*p)->flock != flock))
        p = &(*p)->next;
    if ((gone = *p)) {
        *p = gone->next;
        s->owners--;
    }
    pthread_mutex_unlock(&s->mutex);
    free(gone);
}

void p9d_unlock_all(struct pl_call *call, struct p9d_fid *fid, struct pl_file *file)
{
    struct p9d_session *s = fid->session;
    pthread_mutex_lock(&s->mutex);
    struct p9d_owner *all = fid->owners;
    fid->owners = NULL;
    for (struct p9d_owner *o = all; o; o = o->next)
        s->owners--;
    pthread_mutex_unlock(&s->mutex);
    while (all) {
        struct p9d_owner *o = all;
        struct pl_lock un = {
            .type = F_UNLCK, .flock = o->flock, .owner = o->owner, .end = PL_OFF_MAX};
        all = o->next;
        pl_lock(fid->at->tree, call, file, &un);
        free(o);
    }
}

/* ---- requests ---- */

static int get_lock(struct p9d_op *op, struct pl_lock *lock)
{
    static const int types[] = {
        [P9_LOCK_RD] = F_RDLCK, [P9_LOCK_WR] = F_WRLCK, [P9_LOCK_UN] = F_UNLCK};
    const struct p9_lock *in = &op->in->lock;
    if (in->type > P9_LOCK_UN || in->start > PL_OFF_MAX ||
        (in->length && in->length - 1 > PL_OFF_MAX - in->start))
        return -EINVAL;
    *lock = (struct pl_lock){
        .type = types[in->type],
        .flock = p9d_own(op) && (in->flags & P9_LOCK_FLOCK),
        .owner = owner_of(op),
        .start = in->start,
        .end = in->length ? in->start + in->length - 1 : PL_OFF_MAX,
        .pid = in->proc_id,
    };
    return 0;
}

static bool may_wait(struct p9d_session *s)
{
    pthread_mutex_lock(&s->mutex);
    bool may = s->lock_waits < LIMIT_LOCK_WAITS;
    s->lock_waits += may;
    pthread_mutex_unlock(&s->mutex);
    return may;
}

static void waited(struct p9d_session *s)
{
    pthread_mutex_lock(&s->mutex);
    s->lock_waits--;
    pthread_mutex_unlock(&s->mutex);
}

/* Sets the lock; first without waiting, for that needs no place among those who wait. */
static int set_lock(struct p9d_op *op, struct pl_file *file, struct pl_lock *lock, bool wait)
{
    struct pl_tree *tree = op->fid->at->tree;
    int r = pl_lock(tree, op->call, file, lock);
    if (r != -EAGAIN || !wait || !may_wait(op->session))
        return r;
    int64_t before = op->call->deadline;
    op->call->deadline = mono_now() + LOCK_WAIT_NS;
    lock->wait = true;
    r = pl_lock(tree, op->call, file, lock);
    op->call->deadline = before;
    waited(op->session);
    return r == -ETIMEDOUT ? -EAGAIN : r;
}

int p9d_lock(struct p9d_op *op)
{
    struct pl_file *file = p9d_file(op->fid);
    struct pl_lock lock;
    if (!file || p9d_xattr(op->fid))
        return -EBADF;
    int r = get_lock(op, &lock);
    if (r == 0 && lock.type != F_UNLCK)
        r = remember(op->fid, &lock);
    if (r < 0)
        return r;
    r = set_lock(op, file, &lock, op->in->lock.flags & P9_LOCK_BLOCK);
    if (r == 0 && lock.type == F_UNLCK && lock.start == 0 && lock.end == PL_OFF_MAX)
        p9d_lock_forget(op->fid, lock.owner, lock.flock);
    op->out->status = r == -EAGAIN ? P9_LOCK_BLOCKED : P9_LOCK_SUCCESS;
    return r == -EAGAIN ? 0 : r;
}

int p9d_getlock(struct p9d_op *op)
{
    struct pl_file *file = p9d_file(op->fid);
    struct pl_lock lock;
    if (!file || p9d_xattr(op->fid))
        return -EBADF;
    int r = get_lock(op, &lock);
    if (r == 0)
        r = pl_getlock(op->fid->at->tree, op->call, file, &lock);
    if (r < 0)
        return r;
    op->out->lock = op->in->lock;
    if (lock.type == F_UNLCK) {
        op->out->lock.type = P9_LOCK_UN;
        return 0;
    }
    op->out->lock.type = lock.type == F_WRLCK ? P9_LOCK_WR : P9_LOCK_RD;
    op->out->lock.start = lock.start;
    op->out->lock.length = lock.end >= PL_OFF_MAX ? 0 : lock.end - lock.start + 1;
    op->out->lock.proc_id = lock.pid;
    return 0;
}
