/* SPDX-License-Identifier: MIT */
/* Numbers for fids: what was given back last is given out first, so that they stay small. And
 * numbers for operations, which are given out in order and never again. */
#include "base/futex.h"
#include "base/limits.h"
#include "p9/conn.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/random.h>

struct p9_fids {
    atomic_uint refs;
    pthread_mutex_t mutex; /* guards these; comes after the lock of a connection */
    uint32_t *free, nfree, cap, next;
    pthread_mutex_t op_mutex; /* guards these */
    pthread_cond_t op_over;
    uint64_t id[2]; /* whose operations they are; 0 until somebody asks */
    uint64_t next_op;
    bool op_busy[LIMIT_SESSION_OPS];
};

struct p9_fids *p9_fids_new(void)
{
    struct p9_fids *f = calloc(1, sizeof(*f));
    if (!f)
        return NULL;
    atomic_init(&f->refs, 1);
    pthread_mutex_init(&f->mutex, NULL);
    pthread_mutex_init(&f->op_mutex, NULL);
    pl_cond_init(&f->op_over);
    f->next_op = 1;
    return f;
}

struct p9_fids *p9_fids_ref(struct p9_fids *f)
{
    atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
    return f;
}

void p9_fids_unref(struct p9_fids *f)
{
    if (!f || atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_destroy(&f->mutex);
    pthread_mutex_destroy(&f->op_mutex);
    pthread_cond_destroy(&f->op_over);
    free(f->free);
    free(f);
}

bool p9_fids_untouched(struct p9_fids *f)
{
    pthread_mutex_lock(&f->mutex);
    bool none = f->next == 0;
    pthread_mutex_unlock(&f->mutex);
    return none;
}

uint32_t p9_fids_get(struct p9_fids *f)
{
    uint32_t fid = P9_NOFID;
    pthread_mutex_lock(&f->mutex);
    if (f->nfree)
        fid = f->free[--f->nfree];
    else if (f->next < LIMIT_FIDS)
        fid = f->next++;
    pthread_mutex_unlock(&f->mutex);
    return fid;
}

void p9_fids_put(struct p9_fids *f, uint32_t fid)
{
    if (fid == P9_NOFID)
        return;
    pthread_mutex_lock(&f->mutex);
    if (f->nfree == f->cap) {
        uint32_t cap = f->cap ? 2 * f->cap : 16;
        uint32_t *more = realloc(f->free, cap * sizeof(*more));
        if (!more) {
            pthread_mutex_unlock(&f->mutex);
            return; /* the number is lost, no more */
        }
        f->free = more;
        f->cap = cap;
    }
    f->free[f->nfree++] = fid;
    pthread_mutex_unlock(&f->mutex);
}

/* ---- operations ---- */

int p9_ops_id(struct p9_fids *f, uint64_t ret[2])
{
    int r = 0;
    pthread_mutex_lock(&f->op_mutex);
    /* One that another could guess would let it take our answers. */
    if (!f->id[0] && !f->id[1] && getrandom(f->id, sizeof(f->id), 0) != sizeof(f->id))
        r = -EIO;
    ret[0] = f->id[0];
    ret[1] = f->id[1];
    pthread_mutex_unlock(&f->op_mutex);
    return r;
}

static uint64_t op_next(struct p9_fids *f)
{
    bool *busy = &f->op_busy[f->next_op % LIMIT_SESSION_OPS];
    if (*busy)
        return 0;
    *busy = true;
    return f->next_op++;
}

uint64_t p9_op_try(struct p9_fids *f)
{
    pthread_mutex_lock(&f->op_mutex);
    uint64_t op = op_next(f);
    pthread_mutex_unlock(&f->op_mutex);
    return op;
}

static void op_wake(void *arg)
{
    struct p9_fids *f = arg;
    pthread_mutex_lock(&f->op_mutex);
    pthread_cond_broadcast(&f->op_over);
    pthread_mutex_unlock(&f->op_mutex);
}

int p9_op_get(struct p9_fids *f, struct pl_call *call, uint64_t *ret)
{
    if ((*ret = p9_op_try(f)))
        return 0;
    int r = pl_call_block(call, op_wake, f);
    if (r < 0)
        return r;
    pthread_mutex_lock(&f->op_mutex);
    while (!(*ret = op_next(f)) && !(r = pl_call_over(call)))
        pl_call_wait(call, &f->op_over, &f->op_mutex);
    pthread_mutex_unlock(&f->op_mutex);
    pl_call_unblock(call);
    return *ret ? 0 : r;
}

void p9_op_put(struct p9_fids *f, uint64_t op)
{
    pthread_mutex_lock(&f->op_mutex);
    f->op_busy[op % LIMIT_SESSION_OPS] = false;
    pthread_cond_broadcast(&f->op_over);
    pthread_mutex_unlock(&f->op_mutex);
}
