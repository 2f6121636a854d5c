/* SPDX-License-Identifier: MIT */
/*
 * Tables in chunks: an entry never moves, and its index finds it in two steps. Chunks are kept
 * until the end; free entries are linked by index.
 *
 * Nodes: 48 bytes an entry and 4 to 8 a hash bucket. `tab->lock` guards everything; a node is found
 * with a reference taken under the lock, so that no FORGET pulls it from under a running op.
 * Nodes are let go of outside the lock, since a source's release may do much.
 */
#include "doors/fuse_table.h"
#include "fuse/proto.h"
#include <stdlib.h>
#include <string.h>

#define CHUNK_BITS 10
#define CHUNK      (1u << CHUNK_BITS)

/* ---- chunks ---------------------------------------------------------------------------------- */

struct chunks {
    char **chunk;
    uint32_t nchunks, used; /* entries ever used; entry 0 is not */
    uint32_t free;          /* the first free entry, 0: none */
    size_t size;            /* of an entry */
};

static void *entry(const struct chunks *c, uint32_t i)
{
    return c->chunk[i >> CHUNK_BITS] + (i & (CHUNK - 1)) * c->size;
}

/* The next entry that was never used, zeroed; 0 when out of memory. */
static uint32_t grow(struct chunks *c)
{
    if (c->used == UINT32_MAX)
        return 0;
    if (c->used == 0)
        c->used = 1;
    if (c->used >> CHUNK_BITS >= c->nchunks) {
        if ((c->nchunks & (c->nchunks - 1)) == 0) { /* a power of two: full */
            size_t n = c->nchunks ? c->nchunks * 2ul : 1;
            char **p = realloc(c->chunk, n * sizeof(*p));
            if (!p)
                return 0;
            c->chunk = p;
        }
        char *fresh = calloc(CHUNK, c->size);
        if (!fresh)
            return 0;
        c->chunk[c->nchunks++] = fresh;
    }
    return c->used++;
}

static void chunks_done(struct chunks *c)
{
    for (uint32_t i = 0; i < c->nchunks; i++)
        free(c->chunk[i]);
    free(c->chunk);
}

/* ---- nodes ----------------------------------------------------------------------------------- */

struct known {
    struct pl_node *node;     /* NULL: a free entry */
    uint64_t nlookup;         /* of the root: not counted */
    uint32_t generation : 31; /* counts the uses of the entry */
    uint32_t locked : 1;      /* POSIX locks have been set */
    uint32_t next;            /* in the hash chain, or the next free entry */
    uint32_t told, opened;    /* stamps */
    int32_t backing;          /* 0: none */
    uint32_t mapped;          /* open files with which it may be mapped unseen */
};

struct fuse_nodes {
    pthread_mutex_t lock;
    struct chunks c;
    uint32_t *bucket, mask;
    size_t count;
};

static uint32_t *bucket_of(struct fuse_nodes *tab, const struct pl_node *node)
{
    uint64_t h = (uint64_t)(uintptr_t)node * 0x9e3779b97f4a7c15u;
    return &tab->bucket[h >> 32 & tab->mask];
}

static struct known *known(struct fuse_nodes *tab, uint64_t id)
{
    struct known *k = id && id < tab->c.used ? entry(&tab->c, (uint32_t)id) : NULL;
    return k && k->node ? k : NULL;
}

/* Twice as many buckets; without memory for them, longer chains will do. */
static void rehash(struct fuse_nodes *tab)
{
    uint32_t mask = tab->mask * 2 + 1;
    uint32_t *bucket = calloc((size_t)mask + 1, sizeof(*bucket));
    if (!bucket)
        return;
    free(tab->bucket);
    tab->bucket = bucket;
    tab->mask = mask;
    for (uint32_t i = 1; i < tab->c.used; i++) {
        struct known *k = entry(&tab->c, i);
        if (!k->node)
            continue;
        uint32_t *b = bucket_of(tab, k->node);
        k->next = *b;
        *b = i;
    }
}

static uint32_t add(struct fuse_nodes *tab, struct pl_node *node)
{
    uint32_t i = tab->c.free;
    if (i)
        tab->c.free = ((struct known *)entry(&tab->c, i))->next;
    else if (!(i = grow(&tab->c)))
        return 0;
    if (++tab->count > tab->mask && tab->mask < UINT32_MAX / 2)
        rehash(tab);
    struct known *k = entry(&tab->c, i);
    uint32_t *b = bucket_of(tab, node);
    *k = (struct known){.node = node, .generation = (k->generation + 1) & 0x7fffffff, .next = *b};
    *b = i;
    return i;
}

struct fuse_nodes *fuse_nodes_new(struct pl_node *root)
{
    struct fuse_nodes *tab = calloc(1, sizeof(*tab));
    if (tab) {
        pthread_mutex_init(&tab->lock, NULL);
        tab->c.size = sizeof(struct known);
        tab->mask = 1023;
        tab->bucket = calloc(tab->mask + 1, sizeof(*tab->bucket));
        if (tab->bucket && add(tab, root) == FUSE_ROOT_ID)
            return tab;
        fuse_nodes_free(tab);
    }
    pl_node_unref(root);
    return NULL;
}

void fuse_nodes_free(struct fuse_nodes *tab)
{
    for (uint32_t i = 1; i < tab->c.used; i++)
        pl_node_unref(((struct known *)entry(&tab->c, i))->node);
    chunks_done(&tab->c);
    free(tab->bucket);
    pthread_mutex_destroy(&tab->lock);
    free(tab);
}

struct pl_node *fuse_nodes_get(struct fuse_nodes *tab, uint64_t nodeid)
{
    pthread_mutex_lock(&tab->lock);
    struct known *k = known(tab, nodeid);
    struct pl_node *node = k ? pl_node_ref(k->node) : NULL;
    pthread_mutex_unlock(&tab->lock);
    return node;
}

uint64_t fuse_nodes_learn(struct fuse_nodes *tab, struct pl_node *node, uint32_t stamp,
                          uint64_t *ret_generation, bool *ret_sure)
{
    pthread_mutex_lock(&tab->lock);
    uint32_t i = *bucket_of(tab, node);
    while (i && ((struct known *)entry(&tab->c, i))->node != node)
        i = ((struct known *)entry(&tab->c, i))->next;
    bool extra = i; /* the table has its reference already */
    if (!i && !(i = add(tab, node)))
        extra = true;
    if (i) {
        struct known *k = entry(&tab->c, i);
        k->nlookup++;
        k->told = stamp;
        *ret_generation = k->generation;
        *ret_sure = !k->mapped;
    }
    pthread_mutex_unlock(&tab->lock);
    if (extra)
        pl_node_unref(node);
    return i;
}

bool fuse_nodes_forget(struct fuse_nodes *tab, uint64_t nodeid, uint64_t n)
{
    struct pl_node *drop = NULL;
    pthread_mutex_lock(&tab->lock);
    struct known *k = nodeid != FUSE_ROOT_ID ? known(tab, nodeid) : NULL;
    if (k && (k->nlookup -= n < k->nlookup ? n : k->nlookup) == 0) {
        uint32_t *p = bucket_of(tab, k->node);
        while (*p != nodeid)
            p = &((struct known *)entry(&tab->c, *p))->next;
        *p = k->next;
        drop = k->node;
        k->node = NULL;
        k->next = tab->c.free;
        tab->c.free = (uint32_t)nodeid;
        tab->count--;
    }
    pthread_mutex_unlock(&tab->lock);
    pl_node_unref(drop);
    return drop;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0xd6e8feb86659fd93u;
    return h ^ h >> 32;
}

uint32_t fuse_stamp(const struct pl_attr *a)
{
    uint64_t h = mix(a->version, a->size);
    h = mix(h, (uint64_t)a->mtime.tv_sec);
    h = mix(h, (uint64_t)a->mtime.tv_nsec << 32 ^ (uint64_t)a->ctime.tv_nsec);
    h = mix(h, (uint64_t)a->ctime.tv_sec);
    return (uint32_t)h ? (uint32_t)h : 1;
}

bool fuse_nodes_told(struct fuse_nodes *tab, uint64_t nodeid, uint32_t stamp)
{
    pthread_mutex_lock(&tab->lock);
    struct known *k = known(tab, nodeid);
    bool sure = k && !k->mapped;
    if (k)
        k->told = stamp;
    pthread_mutex_unlock(&tab->lock);
    return sure;
}

bool fuse_nodes_mapped(struct fuse_nodes *tab, uint64_t nodeid, int more)
{
    pthread_mutex_lock(&tab->lock);
    struct known *k = known(tab, nodeid);
    bool first = k && !k->mapped;
    if (k)
        k->mapped += (uint32_t)more;
    pthread_mutex_unlock(&tab->lock);
    return first;
}

struct fuse_opened fuse_nodes_opened(struct fuse_nodes *tab, uint64_t nodeid)
{
    struct fuse_opened o = {false, false};
    pthread_mutex_lock(&tab->lock);
    struct known *k = known(tab, nodeid);
    if (k) {
        o.same = k->told && k->opened == k->told;
        o.locked = k->locked;
        k->opened = k->told;
    }
    pthread_mutex_unlock(&tab->lock);
    return o;
}

void fuse_nodes_unsure(struct fuse_nodes *tab, uint64_t nodeid)
{
    pthread_mutex_lock(&tab->lock);
    struct known *k = known(tab, nodeid);
    if (k)
        k->opened = 0;
    pthread_mutex_unlock(&tab->lock);
}

void fuse_nodes_backing(struct fuse_nodes *tab, uint64_t nodeid, int32_t id)
{
    pthread_mutex_lock(&tab->lock);
    struct known *k = known(tab, nodeid);
    if (k)
        k->backing = id;
    pthread_mutex_unlock(&tab->lock);
}

void fuse_nodes_lock(struct fuse_nodes *tab, uint64_t nodeid)
{
    pthread_mutex_lock(&tab->lock);
    struct known *k = known(tab, nodeid);
    if (k)
        k->locked = 1;
    pthread_mutex_unlock(&tab->lock);
}

/* ---- open files ------------------------------------------------------------------------------ */

/* A handle is the index and, above it, the generation; `lock` guards the table, not the entries,
 * which the kernel lets go of (RELEASE) only after all that uses them. */
struct fuse_files {
    pthread_mutex_t lock;
    struct chunks c;
};

struct fuse_files *fuse_files_new(void)
{
    struct fuse_files *tab = calloc(1, sizeof(*tab));
    if (!tab)
        return NULL;
    pthread_mutex_init(&tab->lock, NULL);
    tab->c.size = sizeof(struct fuse_file);
    return tab;
}

void fuse_files_free(struct fuse_files *tab)
{
    chunks_done(&tab->c);
    pthread_mutex_destroy(&tab->lock);
    free(tab);
}

uint64_t fuse_files_add(struct fuse_files *tab, struct pl_file *file, enum fuse_how how,
                        const struct pl_cred *opener)
{
    pthread_mutex_lock(&tab->lock);
    struct fuse_file *f = NULL;
    uint32_t i = tab->c.free;
    if (i)
        tab->c.free = ((struct fuse_file *)entry(&tab->c, i))->next_free;
    else
        i = grow(&tab->c);
    if (i) {
        f = entry(&tab->c, i);
        f->file = file;
        f->poll = NULL;
        f->how = how;
        f->locked = false;
        f->uid = opener->uid;
        f->gid = opener->gid;
        f->generation++;
    }
    uint64_t fh = f ? (uint64_t)f->generation << 32 | i : 0;
    pthread_mutex_unlock(&tab->lock);
    return fh;
}

static struct fuse_file *find(struct fuse_files *tab, uint64_t fh)
{
    uint32_t i = (uint32_t)fh;
    struct fuse_file *f = i && i < tab->c.used ? entry(&tab->c, i) : NULL;
    return f && f->file && f->generation == fh >> 32 ? f : NULL;
}

struct fuse_file *fuse_files_get(struct fuse_files *tab, uint64_t fh)
{
    pthread_mutex_lock(&tab->lock);
    struct fuse_file *f = find(tab, fh);
    pthread_mutex_unlock(&tab->lock);
    return f;
}

static void take_out(struct fuse_files *tab, struct fuse_file *f, uint32_t i, struct fuse_file *ret)
{
    *ret = *f;
    f->file = NULL;
    f->poll = NULL;
    f->next_free = tab->c.free;
    tab->c.free = i;
}

bool fuse_files_del(struct fuse_files *tab, uint64_t fh, struct fuse_file *ret)
{
    pthread_mutex_lock(&tab->lock);
    struct fuse_file *f = find(tab, fh);
    if (f)
        take_out(tab, f, (uint32_t)fh, ret);
    pthread_mutex_unlock(&tab->lock);
    return f;
}

bool fuse_files_pop(struct fuse_files *tab, uint32_t *cursor, struct fuse_file *ret)
{
    bool found = false;
    pthread_mutex_lock(&tab->lock);
    while (!found && ++*cursor < tab->c.used) {
        struct fuse_file *f = entry(&tab->c, *cursor);
        if ((found = f->file))
            take_out(tab, f, *cursor, ret);
    }
    pthread_mutex_unlock(&tab->lock);
    return found;
}
