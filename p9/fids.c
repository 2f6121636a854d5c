/* SPDX-License-Identifier: MIT */
/* Numbers for fids: what was given back last is given out first, so that they stay small. */
#include "base/limits.h"
#include "p9/conn.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct p9_fids {
    atomic_uint refs;
    pthread_mutex_t mutex; /* guards the rest; comes after the lock of a connection */
    uint32_t *free, nfree, cap, next;
};

struct p9_fids *p9_fids_new(void)
{
    struct p9_fids *f = calloc(1, sizeof(*f));
    if (!f)
        return NULL;
    atomic_init(&f->refs, 1);
    pthread_mutex_init(&f->mutex, NULL);
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
