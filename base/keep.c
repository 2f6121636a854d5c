/* SPDX-License-Identifier: MIT */
/*
 * Records are claimed and let go of by one atomic word each, `state`: free, being written, valid.
 * Whoever is killed while writing one leaves it unusable until a successor's keep_over() sweeps it:
 * it was not valid yet, so nobody has relied on it.
 */
#include "base/keep.h"
#include <stdatomic.h>
#include <string.h>

enum { FREE, WRITING, VALID };

struct record {
    _Atomic uint32_t state;
    int32_t fd;
    uint32_t n, pad;
    uint8_t data[PL_KEEP_DATA];
};

struct pl_keep {
    uint32_t n;
    _Atomic uint32_t hint, used; /* where to look for a free one; records ever used */
    uint32_t pad;
    struct record record[];
};

size_t keep_size(unsigned n)
{
    return sizeof(struct pl_keep) + n * sizeof(struct record);
}

struct pl_keep *keep_over(void *mem, unsigned n)
{
    struct pl_keep *k = mem;
    k->n = n;
    atomic_store(&k->hint, 0);
    if (atomic_load(&k->used) > n)
        atomic_store(&k->used, n);
    for (uint32_t i = 0; i < k->used; i++)
        if (atomic_load(&k->record[i].state) != VALID)
            atomic_store(&k->record[i].state, FREE);
    return k;
}

static void raise_to(_Atomic uint32_t *v, uint32_t to)
{
    uint32_t was = atomic_load(v);
    while (was < to && !atomic_compare_exchange_weak(v, &was, to))
        ;
}

uint32_t pl_keep_add(struct pl_keep *k, int fd, const void *data, size_t n)
{
    if (!k || n > PL_KEEP_DATA)
        return 0;
    uint32_t start = atomic_load_explicit(&k->hint, memory_order_relaxed);
    for (uint32_t tried = 0; tried < k->n; tried++) {
        uint32_t i = (start + tried) % k->n, was = FREE;
        struct record *r = &k->record[i];
        if (!atomic_compare_exchange_strong(&r->state, &was, WRITING))
            continue;
        raise_to(&k->used, i + 1);
        r->fd = fd;
        r->n = (uint32_t)n;
        if (n)
            memcpy(r->data, data, n);
        atomic_store_explicit(&r->state, VALID, memory_order_release);
        atomic_store_explicit(&k->hint, i + 1, memory_order_relaxed);
        return i + 1;
    }
    return 0;
}

void pl_keep_del(struct pl_keep *k, uint32_t record)
{
    if (!k || record == 0 || record > k->n)
        return;
    atomic_store_explicit(&k->record[record - 1].state, FREE, memory_order_release);
    atomic_store_explicit(&k->hint, record - 1, memory_order_relaxed);
}

bool pl_keep_next(struct pl_keep *k, uint32_t after, struct pl_kept *ret)
{
    for (uint32_t i = after; k && i < atomic_load(&k->used); i++) {
        struct record *r = &k->record[i];
        if (atomic_load_explicit(&r->state, memory_order_acquire) != VALID)
            continue;
        ret->record = i + 1;
        ret->fd = r->fd;
        ret->n = r->n < PL_KEEP_DATA ? r->n : PL_KEEP_DATA;
        memcpy(ret->data, r->data, ret->n);
        return true;
    }
    return false;
}
