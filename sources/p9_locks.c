/* SPDX-License-Identifier: MIT */
/*
 * Locks through the 9P source. 9P knows an owner by a string and a process id. One of us is given
 * the 64-bit owner in hexadecimal, and told which locks are flock's; another gets a string that
 * holds owner and kind, so that the two kinds at least never look like one owner.
 */
#include "sources/p9_again.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#define WAIT_FIRST_NS 10000000LL   /* before asking again for a lock that another holds ... */
#define WAIT_LAST_NS  1000000000LL /* ... growing to this */

struct p9_lock p9s_wire_lock(const struct p9s_tree *t, const struct pl_lock *lock,
                             struct p9s_owner *buf)
{
    if (t->ext)
        snprintf(buf->text, sizeof(buf->text), "%016" PRIx64, lock->owner);
    else
        snprintf(buf->text, sizeof(buf->text), "plenum-%016" PRIx64 "-%c%016" PRIx64, t->tag,
                 lock->flock ? 'f' : 'p', lock->owner);
    uint64_t start = lock->flock ? 0 : lock->start, end = lock->flock ? PL_OFF_MAX : lock->end;
    return (struct p9_lock){
        .type = lock->type == F_WRLCK   ? P9_LOCK_WR
                : lock->type == F_RDLCK ? P9_LOCK_RD
                                        : P9_LOCK_UN,
        .flags = (lock->wait ? P9_LOCK_BLOCK : 0) | (t->ext && lock->flock ? P9_LOCK_FLOCK : 0),
        .start = start,
        .length = end >= PL_OFF_MAX ? 0 : end - start + 1,
        /* to another it is part of who the owner is, and whoever unlocks may be another process */
        .proc_id = t->ext ? lock->pid : (uint32_t)(lock->owner ^ lock->owner >> 32),
        .client_id = p9_str(buf->text),
    };
}

/* What is held is noted before another connection can come, at which it would be taken again. */
struct locking {
    struct p9s_sent s;
    struct p9s_file *f;
    const struct pl_lock *lock;
};

static void locked(struct p9s_tree *t, struct p9s_sent *s, const struct p9_answer *a)
{
    struct locking *l = (struct locking *)s;
    if (a->r.status == P9_LOCK_SUCCESS)
        p9s_held_set(t, l->f, l->lock);
}

static int ask(struct p9s_tree *t, struct pl_call *call, struct locking *l, uint8_t *status)
{
    struct p9_answer a;
    if (l->lock->type == F_UNLCK) /* whatever comes of it, it is not wanted any more */
        p9s_held_set(t, l->f, l->lock);
    int r = p9s_ask_into(t, call, &l->s, &a);
    if (r == 0)
        *status = a.r.status;
    p9_answer_free(&a);
    return r;
}

int p9s_lock(struct pl_tree *tree, struct pl_call *call, struct pl_file *file,
             const struct pl_lock *lock)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_file *f = (struct p9s_file *)file;
    struct p9s_node *node = (struct p9s_node *)file->node;
    struct p9s_owner owner;
    struct p9_msg m = {.type = P9_Tlock, .fid = f->fid, .lock = p9s_wire_lock(t, lock, &owner)};
    struct locking l = {.s = {.m = &m, .done = locked}, .f = f, .lock = lock};
    if (lock->type == F_UNLCK && !atomic_load(&node->locked))
        return 0;                            /* there is none of ours on it */
    int settled = p9s_settle(t, call, node); /* whoever has it next is to see what was written */
    if (settled < 0)
        return settled;
    p9s_touch(t, file->node); /* and we what others have */
    atomic_store(&node->locked, true);
    if (lock->flock && lock->type != F_UNLCK)
        atomic_store(&f->locked, true);
    for (int64_t wait = WAIT_FIRST_NS;; wait = wait * 2 < WAIT_LAST_NS ? wait * 2 : WAIT_LAST_NS) {
        uint8_t status = P9_LOCK_ERROR;
        int r = ask(t, call, &l, &status);
        if (r < 0)
            return r;
        if (status != P9_LOCK_BLOCKED)
            return status == P9_LOCK_SUCCESS ? 0 : -ENOLCK;
        if (!lock->wait)
            return -EAGAIN;
        if ((r = pl_call_sleep(call, wait)) < 0)
            return r;
    }
}

int p9s_getlock(struct pl_tree *tree, struct pl_call *call, struct pl_file *file,
                struct pl_lock *lock)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_owner owner;
    struct p9_msg m = {.type = P9_Tgetlock,
                       .fid = ((struct p9s_file *)file)->fid,
                       .lock = p9s_wire_lock(t, lock, &owner)};
    struct p9_answer a;
    int r = p9s_ask(t, call, &m, &a);
    const struct p9_lock *in = &a.r.lock;
    if (r == 0 && in->type == P9_LOCK_UN) {
        lock->type = F_UNLCK;
    } else if (r == 0 && (in->type > P9_LOCK_UN || in->start > PL_OFF_MAX ||
                          (in->length && in->length - 1 > PL_OFF_MAX - in->start))) {
        r = -EIO;
    } else if (r == 0) {
        lock->type = in->type == P9_LOCK_WR ? F_WRLCK : F_RDLCK;
        lock->start = in->start;
        lock->end = in->length ? in->start + in->length - 1 : PL_OFF_MAX;
        lock->pid = in->proc_id;
    }
    p9_answer_free(&a);
    return r;
}
