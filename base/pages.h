/* SPDX-License-Identifier: MIT */
/*
 * Pages: sparse content in memory, a radix tree of pages, so that holes cost nothing. What is not
 * there reads as zeros. Not locked: the caller guards each `struct pages`; a pool is safe from any
 * thread. Zeroed structs are empty.
 */
#ifndef BASE_PAGES_H
#define BASE_PAGES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PAGES_SIZE 4096
#define PAGES_NONE UINT64_MAX

/* How many pages there may be among all that draw from it. */
struct page_pool {
    uint64_t max;
    atomic_uint_fast64_t used;
};

struct pages {
    void *root;      /* tables of tables ... of pages */
    unsigned height; /* levels of tables; 0: one page or none */
    uint64_t count;
};

void pages_read(struct pages *p, void *buf, size_t n, uint64_t off);
/* Bytes written, fewer when the pool or the memory ends; -ENOSPC, -ENOMEM: none. */
ssize_t pages_write(struct pages *p, struct page_pool *pool, const void *buf, size_t n,
                    uint64_t off);
/* Makes off..end (not included) read as zeros; whole pages are freed, or with `keep` cleared.
 * An end past 2^63-1: all the rest. */
void pages_zero(struct pages *p, struct page_pool *pool, uint64_t off, uint64_t end, bool keep);
/* Pages for off..end, or -ENOSPC (nothing has changed) or -ENOMEM. */
int pages_fill(struct pages *p, struct page_pool *pool, uint64_t off, uint64_t end);
/* The first offset >= off that is in a page (`data`) or in a hole; PAGES_NONE: no such data. */
uint64_t pages_next(struct pages *p, uint64_t off, bool data);

#endif
