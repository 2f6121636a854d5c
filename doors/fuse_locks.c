/* SPDX-License-Identifier: MIT */
/*
 * The locks that were set through the mount, noted in the ledger. They are the source's; but one
 * that keeps them in its own memory has lost them when it is opened again in another process. So a
 * successor sets them all once more, before anybody can ask for them: where the source holds them
 * still, this changes nothing.
 *
 * Each range is a record; s->lock_lock guards them. A record is put in before others are cut, so
 * that a server that is killed in between leaves too much rather than too little: the request comes
 * again. When the table is full, further locks end with the server.
 */
#include "doors/fuse_door.h"
#include <fcntl.h>

static bool overlaps(const struct ledger_lock *l, uint64_t start, uint64_t end)
{
    return l->start <= end && l->end >= start;
}

static void put(struct fuse_sess *s, const struct ledger_lock *from)
{
    for (uint32_t i = 0; i < LEDGER_LOCKS; i++) {
        struct ledger_lock *l = &s->ledger->lock[i];
        if (atomic_load_explicit(&l->fh, memory_order_relaxed))
            continue;
        uint64_t fh = from->fh;
        *l = *from;
        atomic_store(&l->fh, fh);
        s->nlocks++;
        return;
    }
}

static void drop(struct fuse_sess *s, struct ledger_lock *l)
{
    atomic_store(&l->fh, 0);
    s->nlocks--;
}

/* Takes the range out of the record. */
static void cut(struct fuse_sess *s, struct ledger_lock *l, uint64_t start, uint64_t end)
{
    if (l->start < start && l->end > end) {
        struct ledger_lock rest = *l;
        rest.start = end + 1;
        put(s, &rest);
        l->end = start - 1;
    } else if (l->start < start) {
        l->end = start - 1;
    } else if (l->end > end) {
        l->start = end + 1;
    } else {
        drop(s, l);
    }
}

void fuse_locks_set(struct fuse_sess *s, uint64_t nodeid, uint64_t fh, const struct pl_lock *lock)
{
    struct ledger_lock new = {.fh = fh,
                              .nodeid = nodeid,
                              .owner = lock->owner,
                              .start = lock->start,
                              .end = lock->end,
                              .type = (uint32_t)lock->type,
                              .flock = lock->flock,
                              .pid = lock->pid};
    if (!fuse_lasts(s))
        return;
    pthread_mutex_lock(&s->lock_lock);
    uint32_t left = s->nlocks;
    struct ledger_lock *l = s->ledger->lock;
    for (uint32_t i = 0; i < LEDGER_LOCKS && left > 0; i++, l++) {
        if (!l->fh)
            continue;
        left--;
        if (l->nodeid == nodeid && l->owner == new.owner &&
            l->flock == new.flock &&overlaps(l, new.start, new.end))
            cut(s, l, new.start, new.end);
    }
    if (lock->type != F_UNLCK)
        put(s, &new);
    pthread_mutex_unlock(&s->lock_lock);
}

void fuse_locks_end(struct fuse_sess *s, uint64_t nodeid, uint64_t fh, uint64_t owner)
{
    if (!fuse_lasts(s))
        return;
    pthread_mutex_lock(&s->lock_lock);
    struct ledger_lock *l = s->ledger->lock;
    for (uint32_t i = 0; i < LEDGER_LOCKS && s->nlocks > 0; i++, l++)
        if (l->fh && (fh ? l->fh == fh : !l->flock && l->nodeid == nodeid && l->owner == owner))
            drop(s, l);
    pthread_mutex_unlock(&s->lock_lock);
}

void fuse_locks_again(struct fuse_sess *s)
{
    struct pl_call call;
    pl_call_init_self(&call);
    call.own = true;
    for (uint32_t i = 0; i < LEDGER_LOCKS; i++) {
        const struct ledger_lock *l = &s->ledger->lock[i];
        struct fuse_file *f = l->fh ? fuse_files_get(s->files, l->fh) : NULL;
        s->nlocks += l->fh != 0;
        if (!f)
            continue;
        struct pl_lock lock = {.type = (int)l->type,
                               .flock = l->flock,
                               .owner = l->owner,
                               .start = l->start,
                               .end = l->end,
                               .pid = l->pid};
        pl_lock(s->tree, &call, f->file, &lock);
    }
    pl_call_done(&call);
}
