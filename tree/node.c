/* SPDX-License-Identifier: MIT */
/*
 * Counted nodes and the table that finds them again.
 *
 * The table is 64 shards, each an open hash of chains under its own mutex. A node whose count has
 * reached zero may still be in a chain until its source's release takes it out: a lookup meanwhile
 * fails to take a reference, and a put takes its place.
 *
 * `leaving` guards all lists of leavers; it is taken for reading where one is told.
 */
#include <assert.h>
#include <plenum/tree.h>
#include <stdlib.h>

void pl_node_init(struct pl_node *node, struct pl_tree *tree, uint32_t fmt)
{
    node->tree = tree;
    node->fmt = fmt & S_IFMT;
    atomic_init(&node->refs, 1);
}

struct pl_node *pl_node_ref(struct pl_node *node)
{
    unsigned was = atomic_fetch_add_explicit(&node->refs, 1, memory_order_relaxed);
    assert(was > 0);
    (void)was;
    return node;
}

bool pl_node_tryref(struct pl_node *node)
{
    unsigned n = atomic_load_explicit(&node->refs, memory_order_relaxed);
    while (n)
        if (atomic_compare_exchange_weak(&node->refs, &n, n + 1))
            return true;
    return false;
}

static pthread_rwlock_t leaving = PTHREAD_RWLOCK_INITIALIZER;

static void tell_leavers(struct pl_node *node)
{
    pthread_rwlock_rdlock(&leaving);
    for (struct pl_leaver *l = atomic_load(&node->tree->leavers); l; l = l->next)
        l->left(l, node);
    pthread_rwlock_unlock(&leaving);
}

static struct pl_tree *bottom(struct pl_tree *tree)
{
    while (tree->lower)
        tree = tree->lower;
    return tree;
}

void pl_leaver_add(struct pl_tree *tree, struct pl_leaver *leaver)
{
    tree = bottom(tree);
    pthread_rwlock_wrlock(&leaving);
    leaver->next = atomic_load(&tree->leavers);
    atomic_store_explicit(&tree->leavers, leaver, memory_order_release);
    pthread_rwlock_unlock(&leaving);
}

void pl_leaver_del(struct pl_tree *tree, struct pl_leaver *leaver)
{
    tree = bottom(tree);
    pthread_rwlock_wrlock(&leaving);
    struct pl_leaver *l = atomic_load(&tree->leavers);
    if (l == leaver) {
        atomic_store(&tree->leavers, leaver->next);
    } else {
        while (l && l->next != leaver)
            l = l->next;
        if (l)
            l->next = leaver->next;
    }
    pthread_rwlock_unlock(&leaving);
}

void pl_node_unref(struct pl_node *node)
{
    if (!node)
        return;
    unsigned was = atomic_fetch_sub_explicit(&node->refs, 1, memory_order_acq_rel);
    assert(was > 0);
    if (was == 1) {
        if (atomic_load_explicit(&node->tree->leavers, memory_order_acquire))
            tell_leavers(node);
        node->tree->ops->release(node->tree, node);
    }
}

#define SHARDS 64

struct shard {
    pthread_mutex_t mutex; /* guards all below, and the `next` of the nodes in it */
    struct pl_hnode **chain;
    size_t mask, count;
};

struct pl_nodes {
    _Atomic size_t count; /* of all shards */
    struct shard shard[SHARDS];
};

static uint64_t mix(struct pl_id id)
{
    uint64_t h = id.lo * 0x9e3779b97f4a7c15u ^ id.hi * 0xc2b2ae3d27d4eb4fu;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    return h ^ h >> 29;
}

static struct shard *shard_of(struct pl_nodes *tab, uint64_t h)
{
    return &tab->shard[h % SHARDS];
}

static struct pl_hnode **slot_of(struct shard *s, uint64_t h)
{
    return &s->chain[h / SHARDS & s->mask];
}

struct pl_nodes *pl_nodes_new(void)
{
    struct pl_nodes *tab = calloc(1, sizeof(*tab));
    if (!tab)
        return NULL;
    for (int i = 0; i < SHARDS; i++) {
        struct shard *s = &tab->shard[i];
        pthread_mutex_init(&s->mutex, NULL);
        s->mask = 3;
        s->chain = calloc(s->mask + 1, sizeof(*s->chain));
        if (!s->chain) {
            pl_nodes_free(tab);
            return NULL;
        }
    }
    return tab;
}

void pl_nodes_free(struct pl_nodes *tab)
{
    if (!tab)
        return;
    for (int i = 0; i < SHARDS; i++)
        free(tab->shard[i].chain);
    free(tab);
}

static struct pl_hnode *find(struct shard *s, uint64_t h, struct pl_id id)
{
    for (struct pl_hnode *n = *slot_of(s, h); n; n = n->next)
        if (n->id.lo == id.lo && n->id.hi == id.hi && pl_node_tryref(&n->node))
            return n;
    return NULL;
}

struct pl_hnode *pl_nodes_get(struct pl_nodes *tab, struct pl_id id)
{
    uint64_t h = mix(id);
    struct shard *s = shard_of(tab, h);
    pthread_mutex_lock(&s->mutex);
    struct pl_hnode *n = find(s, h, id);
    pthread_mutex_unlock(&s->mutex);
    return n;
}

/* Twice as many chains; when there is no memory for them, longer chains will do. */
static void grow(struct shard *s)
{
    size_t mask = s->mask * 2 + 1;
    struct pl_hnode **chain = calloc(mask + 1, sizeof(*chain));
    if (!chain)
        return;
    for (size_t i = 0; i <= s->mask; i++) {
        for (struct pl_hnode *n = s->chain[i], *next; n; n = next) {
            next = n->next;
            struct pl_hnode **slot = &chain[mix(n->id) / SHARDS & mask];
            n->next = *slot;
            *slot = n;
        }
    }
    free(s->chain);
    s->chain = chain;
    s->mask = mask;
}

struct pl_hnode *pl_nodes_put(struct pl_nodes *tab, struct pl_hnode *node)
{
    uint64_t h = mix(node->id);
    struct shard *s = shard_of(tab, h);
    pthread_mutex_lock(&s->mutex);
    struct pl_hnode *there = find(s, h, node->id);
    if (!there) {
        if (++s->count > s->mask)
            grow(s);
        struct pl_hnode **slot = slot_of(s, h);
        node->next = *slot;
        *slot = node;
        atomic_fetch_add(&tab->count, 1);
    }
    pthread_mutex_unlock(&s->mutex);
    return there ? there : node;
}

void pl_nodes_del(struct pl_nodes *tab, struct pl_hnode *node)
{
    uint64_t h = mix(node->id);
    struct shard *s = shard_of(tab, h);
    pthread_mutex_lock(&s->mutex);
    for (struct pl_hnode **p = slot_of(s, h); *p; p = &(*p)->next) {
        if (*p == node) {
            *p = node->next;
            s->count--;
            atomic_fetch_sub(&tab->count, 1);
            break;
        }
    }
    pthread_mutex_unlock(&s->mutex);
}

size_t pl_nodes_count(struct pl_nodes *tab)
{
    return atomic_load(&tab->count);
}
