/* SPDX-License-Identifier: MIT */
/*
 * The nodes of the ledger by inode number: a hash that grows by one bucket at a time (linear
 * hashing), so that there never is a moment where all of it is being moved, and a list of free
 * entries. Both lie in the ledger, so that a successor has them at once, whatever their size.
 *
 * A server may be killed between any two stores. So before an entry is taken out of or put into a
 * chain or the list, `moving` names it, and while a bucket is being divided `splitting` says so.
 * Where the entry belongs follows from `nlookup` alone: ledger_mend() puts it there. Nothing else
 * is ever in between, since one lock guards it all.
 *
 * Stores are made in the order in which they stand here. Indices are checked and walks are bounded,
 * whatever is in the memory.
 */
#include "fuse/ledger.h"
#include "fuse/proto.h"

#define GET(p) atomic_load_explicit(p, memory_order_relaxed)
/* What the processor has done it has done, whoever is killed: only the compiler must be told. */
#define SET(p, v)                                                                                  \
    do {                                                                                           \
        atomic_signal_fence(memory_order_seq_cst);                                                 \
        atomic_store_explicit(p, v, memory_order_relaxed);                                         \
        atomic_signal_fence(memory_order_seq_cst);                                                 \
    } while (0)

static uint32_t hash(uint64_t ino)
{
    return (uint32_t)(ino * 0x9e3779b97f4a7c15u >> 32);
}

/* The greatest power of two that is at most n. */
static uint32_t floor2(uint32_t n)
{
    return 1u << (31 - __builtin_clz(n));
}

static uint32_t nbuckets(const struct ledger *l)
{
    uint32_t n = GET(&l->head->nbuckets);
    return n == 0 ? 1 : n <= l->head->nnodes ? n : l->head->nnodes;
}

/* Which of `n` buckets. */
static _Atomic uint32_t *bucket(const struct ledger *l, uint64_t ino, uint32_t n)
{
    uint32_t half = floor2(n), b = hash(ino) & (half * 2 - 1);
    return &l->bucket[b < n ? b : b & (half - 1)];
}

/* What follows in a chain, 0 at its end or where it makes no sense. */
static uint32_t follow(const struct ledger *l, const _Atomic uint32_t *p)
{
    uint32_t i = GET(p);
    return i <= GET(&l->head->nodes_used) && i <= l->head->nnodes ? i : 0;
}

static void unlink_from(struct ledger *l, _Atomic uint32_t *chain, uint32_t id)
{
    uint32_t i, left = GET(&l->head->nodes_used);
    for (_Atomic uint32_t *p = chain; (i = follow(l, p)) && left-- > 0; p = &l->node[i].next) {
        if (i == id) {
            SET(p, GET(&l->node[i].next));
            return;
        }
    }
}

static void push(struct ledger *l, _Atomic uint32_t *chain, uint32_t id)
{
    SET(&l->node[id].next, GET(chain));
    SET(chain, id);
}

/* Divides the next bucket in two: goes on with it if a predecessor has begun. */
static void split(struct ledger *l)
{
    uint32_t n = nbuckets(l), half = floor2(n), i, next, left = GET(&l->head->nodes_used);
    if (n >= l->head->nnodes) {
        SET(&l->head->splitting, 0);
        return;
    }
    SET(&l->head->splitting, 1);
    _Atomic uint32_t *from = &l->bucket[n - half], *to = &l->bucket[n];
    for (i = follow(l, from); i && left-- > 0; i = next) {
        next = follow(l, &l->node[i].next);
        if ((hash(l->node[i].ino) & (half * 2 - 1)) != n)
            continue;
        SET(&l->head->moving, i);
        unlink_from(l, from, i);
        push(l, to, i);
        SET(&l->head->moving, 0);
    }
    SET(&l->head->nbuckets, n + 1);
    SET(&l->head->splitting, 0);
}

uint32_t ledger_node_find(const struct ledger *l, uint64_t ino, uint32_t after)
{
    const _Atomic uint32_t *p = after ? &l->node[after].next : bucket(l, ino, nbuckets(l));
    uint32_t i, left = GET(&l->head->nodes_used);
    for (; (i = follow(l, p)) && left-- > 0; p = &l->node[i].next)
        if (l->node[i].ino == ino && GET(&l->node[i].nlookup))
            return i;
    return 0;
}

uint32_t ledger_node_add(struct ledger *l, const struct ledger_node *from)
{
    struct ledger_head *h = l->head;
    uint32_t i = follow(l, &h->free);
    if (!i && (i = GET(&h->nodes_used) + 1) > h->nnodes)
        return 0;
    if (GET(&h->nodes_known) >= nbuckets(l))
        split(l);
    struct ledger_node *n = &l->node[i];
    SET(&h->moving, i);
    if (GET(&h->free) == i)
        SET(&h->free, GET(&n->next));
    else
        SET(&h->nodes_used, i);
    uint32_t generation = n->generation + 1;
    *n = *from;
    SET(&n->nlookup, 0);
    n->generation = generation ? generation : 1;
    push(l, bucket(l, n->ino, nbuckets(l)), i);
    SET(&n->nlookup, 1);
    SET(&h->nodes_known, GET(&h->nodes_known) + 1);
    SET(&h->moving, 0);
    return i;
}

void ledger_node_del(struct ledger *l, uint32_t id)
{
    struct ledger_head *h = l->head;
    struct ledger_node *n = &l->node[id];
    SET(&h->moving, id);
    SET(&n->nlookup, 0);
    unlink_from(l, bucket(l, n->ino, nbuckets(l)), id);
    push(l, &h->free, id);
    if (GET(&h->nodes_known)) /* a server that was killed may have miscounted by one */
        SET(&h->nodes_known, GET(&h->nodes_known) - 1);
    SET(&h->moving, 0);
}

void ledger_mend(struct ledger *l)
{
    struct ledger_head *h = l->head;
    uint32_t id = follow(l, &h->moving), n = nbuckets(l), half = floor2(n);
    if (id) {
        struct ledger_node *e = &l->node[id];
        bool splitting = GET(&h->splitting) && n < h->nnodes;
        bool upper = splitting && (hash(e->ino) & (half * 2 - 1)) == n;
        unlink_from(l, bucket(l, e->ino, n), id);
        if (upper)
            unlink_from(l, &l->bucket[n], id);
        if (GET(&h->free) == id)
            SET(&h->free, GET(&e->next));
        if (GET(&e->nlookup) == 0)
            push(l, &h->free, id);
        else
            push(l, upper ? &l->bucket[n] : bucket(l, e->ino, n), id);
    }
    SET(&h->moving, 0);
    if (GET(&h->splitting))
        split(l);
}

void ledger_forget(struct ledger *l, uint64_t nodeid, uint64_t n)
{
    const struct ledger_node *e = ledger_node(l, nodeid);
    if (!e || nodeid == FUSE_ROOT_ID)
        return;
    ledger_mend(l);
    uint32_t has = GET(&e->nlookup);
    if (n >= has)
        ledger_node_del(l, (uint32_t)nodeid);
    else if (has < UINT32_MAX)
        SET(&l->node[nodeid].nlookup, has - (uint32_t)n);
}
