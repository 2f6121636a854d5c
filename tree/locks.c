/* SPDX-License-Identifier: MIT */
/*
 * Advisory locks of one node: POSIX byte ranges and BSD whole-file locks, which do not see each
 * other. The list is sorted by nothing; files with many locks are rare. `mutex` guards the list;
 * `cond` is broadcast whenever something is unlocked.
 */
#include <errno.h>
#include <fcntl.h>
#include <plenum/tree.h>
#include <stdlib.h>

struct pl_lock_range {
    struct pl_lock_range *next;
    struct pl_lock lock;
};

void pl_locks_init(struct pl_locks *l)
{
    pthread_mutex_init(&l->mutex, NULL);
    pl_cond_init(&l->cond);
    l->head = NULL;
}

void pl_locks_done(struct pl_locks *l)
{
    while (l->head) {
        struct pl_lock_range *r = l->head;
        l->head = r->next;
        free(r);
    }
    pthread_cond_destroy(&l->cond);
    pthread_mutex_destroy(&l->mutex);
}

static bool same_owner(const struct pl_lock *a, const struct pl_lock *b)
{
    return a->flock == b->flock && a->owner == b->owner;
}

static const struct pl_lock *conflict(struct pl_locks *l, const struct pl_lock *want)
{
    for (struct pl_lock_range *r = l->head; r; r = r->next)
        if (r->lock.flock == want->flock && r->lock.owner != want->owner &&
            (r->lock.type == F_WRLCK || want->type == F_WRLCK) && r->lock.start <= want->end &&
            want->start <= r->lock.end)
            return &r->lock;
    return NULL;
}

/* Cuts the owner's ranges where `want` lies, then enters it. `spare` are two allocated nodes: one
 * for the new range, one for the second half of a range that is cut in the middle. */
static void apply(struct pl_locks *l, const struct pl_lock *want, struct pl_lock_range *spare[2])
{
    struct pl_lock_range **p = &l->head;
    while (*p) {
        struct pl_lock_range *r = *p;
        if (!same_owner(&r->lock, want) || r->lock.end < want->start || r->lock.start > want->end) {
            p = &r->next;
            continue;
        }
        bool left = r->lock.start<want->start, right = r->lock.end> want->end;
        if (left && right) {
            *spare[1] = *r;
            spare[1]->lock.start = want->end + 1;
            r->next = spare[1];
            spare[1] = NULL;
        }
        if (left) {
            r->lock.end = want->start - 1;
            p = &r->next;
        } else if (right) {
            r->lock.start = want->end + 1;
            p = &r->next;
        } else {
            *p = r->next;
            free(r);
        }
    }
    if (want->type != F_UNLCK) {
        spare[0]->lock = *want;
        spare[0]->next = l->head;
        l->head = spare[0];
        spare[0] = NULL;
    }
}

/* Joins the owner's neighbours of one type, so that the list does not grow with use. */
static void merge(struct pl_locks *l, const struct pl_lock *want)
{
    for (struct pl_lock_range *a = l->head; a; a = a->next) {
        if (!same_owner(&a->lock, want))
            continue;
        struct pl_lock_range **p = &l->head;
        while (*p) {
            struct pl_lock_range *b = *p;
            if (b != a && same_owner(&b->lock, want) && b->lock.type == a->lock.type &&
                b->lock.start == a->lock.end + 1) {
                a->lock.end = b->lock.end;
                *p = b->next;
                free(b);
                p = &l->head;
            } else {
                p = &b->next;
            }
        }
    }
}

static void wake(void *arg)
{
    struct pl_locks *l = arg;
    pthread_mutex_lock(&l->mutex);
    pthread_cond_broadcast(&l->cond);
    pthread_mutex_unlock(&l->mutex);
}

/* Waits until nothing is in the way; called and returns with the mutex held when 0. */
static int wait_free(struct pl_locks *l, struct pl_call *call, const struct pl_lock *want)
{
    pthread_mutex_unlock(&l->mutex);
    int r = pl_call_block(call, wake, l);
    pthread_mutex_lock(&l->mutex);
    if (r < 0)
        return r;
    while (conflict(l, want) && !(r = pl_call_over(call)))
        pl_call_wait(call, &l->cond, &l->mutex);
    /* unblock takes the call's lock, which comes before ours: let go of ours meanwhile */
    pthread_mutex_unlock(&l->mutex);
    pl_call_unblock(call);
    pthread_mutex_lock(&l->mutex);
    return r;
}

int pl_locks_set(struct pl_locks *l, struct pl_call *call, const struct pl_lock *lock)
{
    struct pl_lock want = *lock;
    if (want.flock) {
        want.start = 0;
        want.end = PL_OFF_MAX;
    }
    struct pl_lock_range *spare[2] = {malloc(sizeof(*spare[0])), malloc(sizeof(*spare[1]))};
    int r = spare[0] && spare[1] ? 0 : -ENOLCK;
    pthread_mutex_lock(&l->mutex);
    while (r == 0 && want.type != F_UNLCK && conflict(l, &want))
        r = want.wait ? wait_free(l, call, &want) : -EAGAIN;
    if (r == 0) {
        apply(l, &want, spare);
        merge(l, &want);
        pthread_cond_broadcast(&l->cond); /* an unlock, or a downgrade */
    }
    pthread_mutex_unlock(&l->mutex);
    free(spare[0]);
    free(spare[1]);
    return r;
}

static const struct pl_lock *held(struct pl_locks *l, const struct pl_lock *by)
{
    for (struct pl_lock_range *r = l->head; r; r = r->next)
        if (same_owner(&r->lock, by) && r->lock.start <= by->end && by->start <= r->lock.end)
            return &r->lock;
    return NULL;
}

int pl_locks_get(struct pl_locks *l, struct pl_lock *lock)
{
    pthread_mutex_lock(&l->mutex);
    const struct pl_lock *c = lock->type == F_UNLCK ? held(l, lock) : conflict(l, lock);
    if (c)
        *lock = *c;
    else
        lock->type = F_UNLCK;
    pthread_mutex_unlock(&l->mutex);
    return 0;
}

static int note(struct pl_locks *l, struct pl_lock_owners *by, const struct pl_lock *lock)
{
    size_t i = 0;
    pthread_mutex_lock(&l->mutex);
    struct pl_lock *list = by->list;
    while (i < by->n && !same_owner(&by->list[i], lock))
        i++;
    if (i == by->n && (list = realloc(by->list, (i + 1) * sizeof(*list)))) {
        by->list = list;
        by->list[by->n++] = (struct pl_lock){
            .type = F_UNLCK, .flock = lock->flock, .owner = lock->owner, .end = PL_OFF_MAX};
    }
    pthread_mutex_unlock(&l->mutex);
    return list ? 0 : -ENOLCK;
}

/* It holds nothing any more: what it locks later through another open file stays when this one is
 * closed. */
static void unnote(struct pl_locks *l, struct pl_lock_owners *by, const struct pl_lock *lock)
{
    pthread_mutex_lock(&l->mutex);
    for (size_t i = 0; i < by->n; i++)
        if (same_owner(&by->list[i], lock))
            by->list[i--] = by->list[--by->n];
    pthread_mutex_unlock(&l->mutex);
}

int pl_locks_set_by(struct pl_locks *l, struct pl_call *call, struct pl_lock_owners *by,
                    const struct pl_lock *lock)
{
    if (lock->type == F_UNLCK && lock->start == 0 && lock->end >= PL_OFF_MAX)
        unnote(l, by, lock);
    int r = lock->type == F_UNLCK ? 0 : note(l, by, lock);
    return r < 0 ? r : pl_locks_set(l, call, lock);
}

void pl_locks_undo(struct pl_locks *l, struct pl_call *call, struct pl_lock_owners *by)
{
    while (by->n)
        pl_locks_set(l, call, &by->list[--by->n]);
    free(by->list);
    *by = (struct pl_lock_owners){0};
}
