/* SPDX-License-Identifier: MIT */
/*
 * What a tree that outlives its connection holds of locks, to take it again at the next server: of
 * each node a list of ranges, none of which overlaps another of the same owner and kind.
 */
#include "base/futex.h"
#include "base/log.h"
#include "sources/p9_again.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

/* The server may not have noticed yet that our last connection is over, and hold for it what we ask
 * for: so long it is asked again, for all files together. */
#define ASK_AGAIN_NS 20000000LL

struct p9s_held {
    struct p9s_held *next;
    struct p9s_file *file; /* through whose fid it was taken */
    struct pl_lock lock;
};

static bool same_owner(const struct pl_lock *a, const struct pl_lock *b)
{
    return a->owner == b->owner && a->flock == b->flock;
}

static uint64_t start_of(const struct pl_lock *l)
{
    return l->flock ? 0 : l->start;
}

static uint64_t end_of(const struct pl_lock *l)
{
    return l->flock ? PL_OFF_MAX : l->end;
}

/* Takes [start, end] out of what the owner holds. `spare` is used when that splits a range. */
static void cut(struct p9s_node *node, const struct pl_lock *lock, struct p9s_held **spare)
{
    uint64_t start = start_of(lock), end = end_of(lock);
    for (struct p9s_held **p = &node->held, *h; (h = *p);) {
        struct pl_lock *l = &h->lock;
        if (!same_owner(l, lock) || l->end < start || l->start > end) {
            p = &h->next;
        } else if (l->start < start && l->end > end) { /* one in two: it can be only one range */
            struct p9s_held *rest = *spare;
            *spare = NULL;
            *rest = *h;
            rest->lock.start = end + 1;
            h->next = rest;
            l->end = start - 1;
            p = &rest->next;
        } else if (l->start < start) {
            l->end = start - 1;
            p = &h->next;
        } else if (l->end > end) {
            l->start = end + 1;
            p = &h->next;
        } else {
            *p = h->next;
            free(h);
        }
    }
}

void p9s_held_set(struct p9s_tree *t, struct p9s_file *f, const struct pl_lock *lock)
{
    if (!t->again)
        return;
    struct p9s_held *add = malloc(sizeof(*add)), *spare = malloc(sizeof(*spare));
    pthread_mutex_lock(&t->mutex);
    if (add && spare) { /* else it is not taken again, as if another had been quicker */
        cut(f->node, lock, &spare);
        if (lock->type != F_UNLCK) {
            *add = (struct p9s_held){f->node->held, f, *lock};
            add->lock.start = start_of(lock);
            add->lock.end = end_of(lock);
            add->lock.wait = false;
            f->node->held = add;
            add = NULL;
        }
    }
    pthread_mutex_unlock(&t->mutex);
    free(add);
    free(spare);
}

void p9s_held_close(struct p9s_tree *t, struct p9s_file *f)
{
    pthread_mutex_lock(&t->mutex);
    for (struct p9s_held **p = &f->node->held, *h; (h = *p);) {
        if (h->file == f) {
            *p = h->next;
            free(h);
        } else {
            p = &h->next;
        }
    }
    pthread_mutex_unlock(&t->mutex);
}

/* The i-th lock that was taken through the file. */
static bool nth(struct p9s_tree *t, struct p9s_file *f, unsigned i, struct pl_lock *ret)
{
    pthread_mutex_lock(&t->mutex);
    struct p9s_held *h = f->node->held;
    for (; h; h = h->next)
        if (h->file == f && i-- == 0)
            break;
    if (h)
        *ret = h->lock;
    pthread_mutex_unlock(&t->mutex);
    return h != NULL;
}

static int take(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f,
                const struct pl_lock *lock, int64_t until)
{
    for (;;) {
        struct p9s_owner owner;
        struct p9_msg m = {.type = P9_Tlock, .fid = f->fid, .lock = p9s_wire_lock(t, lock, &owner)};
        struct p9_answer a;
        int r = p9s_why(call, p9_rpc(t->conn, call, &m, &a, NULL, 0));
        uint8_t status = a.r.status;
        p9_answer_free(&a);
        if (r < 0)
            return r;
        if (status == P9_LOCK_SUCCESS)
            return 0;
        if (status == P9_LOCK_ERROR || mono_now() >= until)
            return -EIO;
        if ((r = pl_call_sleep(call, ASK_AGAIN_NS)) < 0)
            return r;
    }
}

int p9s_relock(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f)
{
    struct pl_lock lock;
    int r = 0;
    for (unsigned i = 0; r == 0 && nth(t, f, i, &lock); i++)
        r = take(t, call, f, &lock, t->again->relock_until);
    if (r == -EIO) {
        atomic_store(&f->lost, -EIO);
        log_say(true,
                "%s: another took a lock that we held before the server was lost: what is done to "
                "that open file (inode %llu) is refused",
                p9_conn_peer(t->conn), (unsigned long long)f->node->h.id.lo);
    }
    return r;
}
