/* SPDX-License-Identifier: MIT */
/*
 * Big documents that a program gives in ranges. What was read once is kept in a file of the tree's
 * memory, block by block; when it is complete, later opens have that file's descriptor, and the
 * program is not asked any more. A document of another size is another one, and begins anew; open
 * files go on with the one that they have.
 *
 * Locks: `lock` guards bits and have; it is not held while the program's function runs, so that two
 * readers may ask for the same block at once.
 */
#include "base/limits.h"
#include "sources/made.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK (128u << 10)

struct made_range {
    atomic_uint refs;
    uint64_t size;
    int fd; /* -1: nothing is kept */
    pthread_mutex_t lock;
    uint64_t nblocks, have; /* blocks in all; those in fd */
    uint8_t bits[];         /* which */
};

static struct made_range *range_new(struct pl_made *m, uint64_t size)
{
    bool keep = size <= LIMIT_DOCUMENTS;
    uint64_t nblocks = keep ? (size + BLOCK - 1) / BLOCK : 0;
    struct made_range *g = calloc(1, sizeof(*g) + nblocks / 8 + 1);
    if (!g)
        return NULL;
    atomic_init(&g->refs, 1);
    pthread_mutex_init(&g->lock, NULL);
    g->size = size;
    g->nblocks = nblocks;
    g->fd = keep ? made_memory_file(m, "") : -1;
    return g;
}

struct made_range *made_range_ref(struct made_range *g)
{
    atomic_fetch_add(&g->refs, 1);
    return g;
}

void made_range_unref(struct made_range *g)
{
    if (!g || atomic_fetch_sub(&g->refs, 1) != 1)
        return;
    if (g->fd >= 0)
        close(g->fd);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

int made_range_open(struct made_node *n, struct pl_call *call, struct made_range **ret)
{
    struct pl_made *m = made_of(n->node.tree);
    struct pl_made_req req;
    struct made_range *fresh = NULL, *old = NULL;
    char name[PL_NAME_MAX + 1];
    int r = made_request(n, call, &req, name);
    int64_t size = r == 0 ? n->size(&req) : r;
    if (size < 0)
        return (int)size;
    for (;;) {
        pthread_mutex_lock(&m->lock);
        if (fresh) {
            old = n->range;
            n->range = made_range_ref(fresh);
        }
        struct made_range *g = n->range && n->range->size == (uint64_t)size ? n->range : NULL;
        if (g)
            *ret = made_range_ref(g);
        n->attr.size = (uint64_t)size;
        pthread_mutex_unlock(&m->lock);
        made_range_unref(old);
        made_range_unref(fresh);
        if (g)
            return 0;
        fresh = range_new(m, (uint64_t)size);
        if (!fresh)
            return -ENOMEM;
    }
}

uint64_t made_range_size(const struct made_range *g)
{
    return g->size;
}

static bool has(const struct made_range *g, uint64_t block)
{
    return g->bits[block / 8] >> block % 8 & 1;
}

int made_range_fd(const struct made_range *g)
{
    pthread_mutex_lock((pthread_mutex_t *)&g->lock);
    bool complete = g->have == g->nblocks;
    pthread_mutex_unlock((pthread_mutex_t *)&g->lock);
    return complete ? g->fd : -1;
}

/* From the program, fewer only at the end. */
static ssize_t ask(struct made_node *n, struct pl_call *call, char *buf, size_t size, uint64_t off)
{
    struct pl_made_req req;
    char name[PL_NAME_MAX + 1];
    size_t got = 0;
    int r = made_request(n, call, &req, name);
    while (r == 0 && got < size) {
        ssize_t k = n->read(&req, buf + got, size - got, off + got);
        if (k <= 0)
            return got ? (ssize_t)got : k;
        if ((size_t)k > size - got)
            return -EIO;
        got += (size_t)k;
        r = pl_call_over(call);
    }
    return r < 0 ? r : (ssize_t)got;
}

/* Reads within one block, which is kept if there is room for it. */
static ssize_t read_block(struct made_node *n, struct pl_call *call, struct made_range *g,
                          uint64_t block, char *buf, size_t size, size_t at)
{
    uint64_t begin = block * BLOCK;
    pthread_mutex_lock(&g->lock);
    bool there = has(g, block);
    pthread_mutex_unlock(&g->lock);
    if (there) {
        ssize_t r = pread(g->fd, buf, size, (off_t)(begin + at));
        return r < 0 ? -errno : r;
    }
    size_t whole = g->size - begin < BLOCK ? (size_t)(g->size - begin) : BLOCK;
    char *all = malloc(whole);
    ssize_t got = all ? ask(n, call, all, whole, begin) : -ENOMEM;
    if (got == (ssize_t)whole && pwrite(g->fd, all, whole, (off_t)begin) == got) {
        pthread_mutex_lock(&g->lock);
        if (!has(g, block)) {
            g->bits[block / 8] |= (uint8_t)(1u << block % 8);
            g->have++;
        }
        pthread_mutex_unlock(&g->lock);
    }
    if (got >= 0) {
        got = (size_t)got > at ? got - (ssize_t)at : 0;
        got = got < (ssize_t)size ? got : (ssize_t)size;
        memcpy(buf, all + at, (size_t)got);
    }
    free(all);
    return got;
}

ssize_t made_range_read(struct made_node *n, struct pl_call *call, struct made_range *g, void *buf,
                        size_t size, uint64_t off)
{
    size_t done = 0;
    if (off >= g->size)
        return 0;
    if (size > g->size - off)
        size = (size_t)(g->size - off);
    if (g->fd < 0)
        return ask(n, call, buf, size, off);
    while (done < size) {
        size_t at = (size_t)((off + done) % BLOCK), want = size - done;
        want = want < BLOCK - at ? want : BLOCK - at;
        ssize_t r = read_block(n, call, g, (off + done) / BLOCK, (char *)buf + done, want, at);
        if (r < 0)
            return done ? (ssize_t)done : r;
        done += (size_t)r;
        if ((size_t)r < want)
            break;
    }
    return (ssize_t)done;
}

/* ---- progress -------------------------------------------------------------------------------- */

#define PROGRESS "user.plenum.progress"

ssize_t made_getxattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                      const char *name, void *buf, size_t size)
{
    struct pl_made *m = made_of(tree);
    struct made_node *n = made_node_of(node);
    char text[48];
    if (n->kind != MADE_RANGED || strcmp(name, PROGRESS))
        return -ENODATA;
    pthread_mutex_lock(&m->lock);
    struct made_range *g = n->range;
    uint64_t have = 0, all = g ? g->size : n->attr.size;
    if (g) {
        pthread_mutex_lock(&g->lock);
        have = g->have * BLOCK < all ? g->have * BLOCK : all;
        pthread_mutex_unlock(&g->lock);
    }
    pthread_mutex_unlock(&m->lock);
    int len = snprintf(text, sizeof(text), "%llu/%llu", (unsigned long long)have,
                       (unsigned long long)all);
    if (size && (size_t)len > size)
        return -ERANGE;
    if (size)
        memcpy(buf, text, (size_t)len);
    return len;
}

ssize_t made_listxattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node, char *buf,
                       size_t size)
{
    if (made_node_of(node)->kind != MADE_RANGED)
        return 0;
    if (size && size < sizeof(PROGRESS))
        return -ERANGE;
    if (size)
        memcpy(buf, PROGRESS, sizeof(PROGRESS));
    return sizeof(PROGRESS);
}
