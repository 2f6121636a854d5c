/* SPDX-License-Identifier: MIT */
#include "base/pages.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE   PAGES_SIZE
#define FANOUT 512 /* 9 bits a level */

static uint64_t min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Pages that a tree of that height has room for. */
static uint64_t span(unsigned height)
{
    return 1ull << 9 * height;
}

static int charge(struct page_pool *pool, uint64_t n)
{
    if (n > pool->max)
        return -ENOSPC;
    if (atomic_fetch_add(&pool->used, n) <= pool->max - n)
        return 0;
    atomic_fetch_sub(&pool->used, n);
    return -ENOSPC;
}

/* Where the page is or belongs; NULL when it is not there (or, to `make` it, no memory is). */
static void **slot_of(struct pages *p, uint64_t page, bool make)
{
    while (page >= span(p->height)) {
        void **table = make ? calloc(FANOUT, sizeof(*table)) : NULL;
        if (!table)
            return NULL;
        table[0] = p->root;
        p->root = table;
        p->height++;
    }
    void **slot = &p->root;
    for (unsigned h = p->height; h--; slot = (void **)*slot + (page >> 9 * h) % FANOUT)
        if (!*slot && !(make && (*slot = calloc(FANOUT, sizeof(void *)))))
            return NULL;
    return slot;
}

/* A page to write to; `charged`: the pool knows of it already. */
static int get(struct pages *p, struct page_pool *pool, uint64_t page, bool charged, char **ret)
{
    void **slot = slot_of(p, page, true);
    if (!slot)
        return -ENOMEM;
    if (!*slot) {
        int r = charged ? 0 : charge(pool, 1);
        if (r < 0)
            return r;
        *slot = calloc(1, PAGE);
        if (!*slot) {
            atomic_fetch_sub(&pool->used, !charged);
            return -ENOMEM;
        }
        p->count++;
    }
    *ret = *slot;
    return 0;
}

void pages_read(struct pages *p, void *buf, size_t n, uint64_t off)
{
    for (size_t done = 0, part; done < n; done += part) {
        uint64_t at = off + done;
        part = min(PAGE - at % PAGE, n - done);
        void **slot = slot_of(p, at / PAGE, false);
        if (slot && *slot)
            memcpy((char *)buf + done, (char *)*slot + at % PAGE, part);
        else
            memset((char *)buf + done, 0, part);
    }
}

ssize_t pages_write(struct pages *p, struct page_pool *pool, const void *buf, size_t n,
                    uint64_t off)
{
    size_t done = 0;
    for (size_t part; done < n; done += part) {
        uint64_t at = off + done;
        char *page;
        part = min(PAGE - at % PAGE, n - done);
        int r = get(p, pool, at / PAGE, false, &page);
        if (r < 0)
            return done ? (ssize_t)done : r;
        memcpy(page + at % PAGE, (const char *)buf + done, part);
    }
    return (ssize_t)done;
}

/* Frees or clears pages from..to (not included) of a subtree; returns how many it freed. */
static uint64_t drop(void **slot, unsigned h, uint64_t from, uint64_t to, bool keep)
{
    uint64_t n = 0, sub = span(h) / FANOUT;
    if (!*slot || from >= to)
        return 0;
    if (h == 0 && keep)
        memset(*slot, 0, PAGE);
    else if (h == 0)
        n = 1;
    else
        for (uint64_t i = from / sub, last = (to - 1) / sub; i <= last; i++)
            n += drop((void **)*slot + i, h - 1, i == from / sub ? from % sub : 0,
                      i == last ? (to - 1) % sub + 1 : sub, keep);
    if (!keep && from == 0 && to == span(h)) {
        free(*slot);
        *slot = NULL;
    }
    return n;
}

static void clear(struct pages *p, uint64_t off, uint64_t end)
{
    void **slot = off < end ? slot_of(p, off / PAGE, false) : NULL;
    if (slot && *slot)
        memset((char *)*slot + off % PAGE, 0, end - off);
}

void pages_zero(struct pages *p, struct page_pool *pool, uint64_t off, uint64_t end, bool keep)
{
    uint64_t from = off / PAGE + (off % PAGE != 0), to = end / PAGE, all = span(p->height);
    bool rest = end > INT64_MAX;
    clear(p, off, min(end, from * PAGE));
    if (to >= from)
        clear(p, to * PAGE, end);
    uint64_t gone = drop(&p->root, p->height, from, rest ? all : min(to, all), keep);
    p->count -= gone;
    atomic_fetch_sub(&pool->used, gone);
    if (!p->root)
        p->height = 0;
}

/* The first page >= from that is there (`data`) or is not, in a subtree of height h; the size of
 * the subtree when there is none. */
static uint64_t scan(void **t, unsigned h, uint64_t from, bool data)
{
    uint64_t sub = span(h) / FANOUT;
    if (!t || h == 0)
        return (t != NULL) == data ? from : span(h);
    for (uint64_t i = from / sub, at = from % sub; i < FANOUT; i++, at = 0) {
        uint64_t r = scan(t[i], h - 1, at, data);
        if (r < sub)
            return i * sub + r;
    }
    return span(h);
}

static uint64_t next_page(struct pages *p, uint64_t from, bool data)
{
    uint64_t all = span(p->height);
    uint64_t r = from < all ? scan(p->root, p->height, from, data) : from;
    return r >= all && data ? PAGES_NONE : r;
}

uint64_t pages_next(struct pages *p, uint64_t off, bool data)
{
    uint64_t page = next_page(p, off / PAGE, data);
    if (page == PAGES_NONE)
        return PAGES_NONE;
    return page * PAGE > off ? page * PAGE : off;
}

int pages_fill(struct pages *p, struct page_pool *pool, uint64_t off, uint64_t end)
{
    uint64_t from = off / PAGE, to = end / PAGE + (end % PAGE != 0), need = 0;
    for (uint64_t at = next_page(p, from, false), next; at < to; at = next_page(p, next, false)) {
        next = min(next_page(p, at, true), to);
        need += next - at;
    }
    int r = charge(pool, need);
    if (r < 0)
        return r;
    uint64_t was = p->count;
    for (char *page; r == 0 && from < to; from++)
        r = get(p, pool, from, true, &page);
    atomic_fetch_sub(&pool->used, need - (p->count - was));
    return r;
}
