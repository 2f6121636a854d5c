/* SPDX-License-Identifier: MIT */
/*
 * Nodes by nodeid.
 *
 * An entry is a struct ledger_node in the ledger and, beside it, a struct known of our own: 104
 * bytes (40 without the key), 16, and 4 to 8 for the hash. `tab->lock` guards all of both; a node
 * is found with a reference taken under the lock, so that no FORGET pulls it from under a running
 * op. Nodes are let go of, woken and asked for their keys outside the lock, since a source may do
 * much.
 *
 * What finds no room in the ledger goes into a second one, which is private: `extra`. A successor
 * knows nothing of that. So that it gives none of those nodeids to something else, which the kernel
 * would take for the old, each server has nodeids of its own there: its number is in the upper
 * half. What is open is found all the same, by the open file; for the rest the kernel, which is
 * told that it is stale, asks again by name. That does not help who works in a directory: so the
 * second half of the ledger is for directories alone.
 */
#include "doors/fuse_table.h"
#include "fuse/proto.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define DIRS_ONLY 2 /* this part of the ledger, as 1 / N */

struct known {
    struct pl_node *node; /* NULL: it sleeps, or the entry is free */
    uint32_t told;        /* the stamp of what the kernel believes, 0: unknown */
    uint32_t same : 1;    /* that has not changed since the last open */
    uint32_t lost : 1;    /* it sleeps, and could not be woken */
    uint32_t watched : 1; /* a directory: changes of its names are told */
    uint32_t stale : 1;   /* a directory: there are other names in it, and its mtime says nothing */
    uint32_t more : 28;   /* a directory: a digest of its mtime; else open files with which it may
                             be mapped unseen */
};

struct half {
    struct ledger *l;
    struct known *known; /* [l->head->nnodes + 1] */
    uint64_t base;       /* nodeid of entry 0 */
};

struct fuse_nodes {
    pthread_mutex_t lock;
    struct half main, more; /* more.l: NULL until it is needed */
    struct ledger extra;
    const struct fuse_nodes_ops *ops;
    void *arg;
};

/* An entry that is in use. */
struct at {
    struct half *half;
    uint32_t i;
    struct ledger_node *n;
    struct known *k;
};

/* ---- entries --------------------------------------------------------------------------------- */

static void *sparse(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static size_t known_size(const struct ledger *l)
{
    return (l->head->nnodes + 1ul) * sizeof(struct known);
}

static bool half_init(struct half *h, struct ledger *l, uint64_t base)
{
    h->known = sparse(known_size(l));
    if (h->known) {
        h->l = l;
        h->base = base;
    }
    return h->known;
}

static struct at entry(struct half *h, uint32_t i)
{
    return (struct at){h, i, &h->l->node[i], &h->known[i]};
}

static bool find(struct fuse_nodes *tab, uint64_t nodeid, struct at *ret)
{
    struct half *h = nodeid <= UINT32_MAX ? &tab->main : &tab->more;
    if (!h->l || nodeid < h->base || nodeid - h->base > UINT32_MAX ||
        !ledger_node(h->l, nodeid - h->base))
        return false;
    *ret = entry(h, (uint32_t)(nodeid - h->base));
    return true;
}

static struct fuse_dormant dormant(const struct at *at)
{
    struct fuse_dormant d = {.nodeid = at->half->base + at->i};
    d.n = *at->n;
    return d;
}

/* Is the entry still that of the dormant? */
static bool is_still(const struct at *at, const struct fuse_dormant *d)
{
    return at->n->generation == d->n.generation && at->n->ino == d->n.ino;
}

static void set_where(struct at *at, uint64_t dir, const char *name)
{
    if (dir == 0 || dir > UINT32_MAX || !name)
        return;
    /* Between the two stores the name is nobody's: then it is looked for by its number alone. */
    atomic_store_explicit(&at->n->parent, 0, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&at->n->name_hash, ledger_hash(name), memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&at->n->parent, (uint32_t)dir, memory_order_relaxed);
}

static void set_key(struct ledger_node *n, const uint8_t *key, int len)
{
    atomic_store_explicit(&n->keylen, 0, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    if (len <= 0 || len > PL_KEY_MAX)
        return;
    memcpy(n->key, key, (size_t)len);
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&n->keylen, (uint8_t)len, memory_order_relaxed);
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0xd6e8feb86659fd93u;
    return h ^ h >> 32;
}

static void tell(struct at *at, const struct pl_attr *attr)
{
    uint32_t stamp = fuse_stamp(attr);
    if (at->k->told != stamp)
        at->k->same = 0;
    if (S_ISDIR(attr->mode)) {
        uint32_t mtime = mix((uint64_t)attr->mtime.tv_sec, (uint64_t)attr->mtime.tv_nsec) >> 36;
        if (at->k->told && at->k->told != stamp && at->k->more == mtime)
            at->k->stale = 1;
        at->k->more = mtime;
    }
    at->k->told = stamp;
    at->n->mode = (uint16_t)attr->mode;
    at->n->uid = attr->uid;
    at->n->gid = attr->gid;
}

/* ---- the table ------------------------------------------------------------------------------- */

/* A private one needs no keys: nobody will look. */
static bool shared(const struct half *h)
{
    return h->l->fd >= 0;
}

static bool enter_root(struct fuse_nodes *tab, struct pl_node *root, const struct pl_attr *attr)
{
    struct ledger_node n = {
        .ino = attr->ino, .mode = (uint16_t)attr->mode, .uid = attr->uid, .gid = attr->gid};
    if (!ledger_node(tab->main.l, FUSE_ROOT_ID) && ledger_node_add(tab->main.l, &n) != FUSE_ROOT_ID)
        return false;
    tab->main.known[FUSE_ROOT_ID].node = root;
    return true;
}

struct fuse_nodes *fuse_nodes_new(struct ledger *ledger, struct pl_node *root,
                                  const struct pl_attr *attr, const struct fuse_nodes_ops *ops,
                                  void *arg)
{
    struct fuse_nodes *tab = calloc(1, sizeof(*tab));
    if (tab) {
        pthread_mutex_init(&tab->lock, NULL);
        tab->ops = ops;
        tab->arg = arg;
        ledger_mend(ledger);
        if (half_init(&tab->main, ledger, 0) && enter_root(tab, root, attr))
            return tab;
        fuse_nodes_free(tab);
    }
    pl_node_unref(root);
    return NULL;
}

static void half_done(struct half *h)
{
    if (!h->l)
        return;
    uint32_t used = h->l->head->nodes_used;
    for (uint32_t i = 1; i <= used && i <= h->l->head->nnodes; i++)
        pl_node_unref(h->known[i].node);
    munmap(h->known, known_size(h->l));
}

void fuse_nodes_free(struct fuse_nodes *tab)
{
    half_done(&tab->main);
    half_done(&tab->more);
    if (tab->more.l)
        ledger_unmap(&tab->extra);
    pthread_mutex_destroy(&tab->lock);
    free(tab);
}

/* ---- finding and waking ---------------------------------------------------------------------- */

/* The dormant `d` was woken as `node` (takes over the reference), or could not be. What it is now,
 * with a reference; called with the lock. */
static struct pl_node *settle(struct fuse_nodes *tab, const struct fuse_dormant *d,
                              struct pl_node *node, struct pl_node **drop)
{
    struct at at;
    bool there = find(tab, d->nodeid, &at) && is_still(&at, d);
    *drop = node;
    if (!there)
        return NULL;
    if (!at.k->node && node) {
        at.k->node = node;
        at.k->lost = 0;
        *drop = NULL;
    } else if (!at.k->node) {
        at.k->lost = 1;
    }
    return at.k->node ? pl_node_ref(at.k->node) : NULL;
}

static struct pl_node *wake(struct fuse_nodes *tab, const struct fuse_dormant *d, unsigned depth)
{
    struct pl_node *drop, *node = tab->ops->wake(tab->arg, d, depth);
    pthread_mutex_lock(&tab->lock);
    node = settle(tab, d, node, &drop);
    pthread_mutex_unlock(&tab->lock);
    pl_node_unref(drop);
    return node;
}

struct pl_node *fuse_nodes_get_at(struct fuse_nodes *tab, uint64_t nodeid, unsigned depth)
{
    struct at at;
    struct fuse_dormant d;
    struct pl_node *node = NULL;
    pthread_mutex_lock(&tab->lock);
    bool sleeps = false, there = find(tab, nodeid, &at);
    if (there) {
        sleeps = !at.k->node;
        if (sleeps)
            d = dormant(&at);
        else
            node = pl_node_ref(at.k->node);
    }
    pthread_mutex_unlock(&tab->lock);
    if (!there && nodeid > UINT32_MAX)
        return tab->ops->orphan(tab->arg, nodeid);
    return sleeps ? wake(tab, &d, depth) : node;
}

struct pl_node *fuse_nodes_get(struct fuse_nodes *tab, uint64_t nodeid)
{
    return fuse_nodes_get_at(tab, nodeid, 0);
}

struct pl_node *fuse_nodes_peek(struct fuse_nodes *tab, uint64_t nodeid)
{
    struct at at;
    pthread_mutex_lock(&tab->lock);
    bool awake = find(tab, nodeid, &at) && at.k->node;
    struct pl_node *node = awake ? pl_node_ref(at.k->node) : NULL;
    pthread_mutex_unlock(&tab->lock);
    return node;
}

bool fuse_nodes_entry(struct fuse_nodes *tab, uint64_t nodeid, struct fuse_dormant *ret)
{
    struct at at;
    pthread_mutex_lock(&tab->lock);
    bool there = find(tab, nodeid, &at);
    if (there)
        *ret = dormant(&at);
    pthread_mutex_unlock(&tab->lock);
    return there;
}

void fuse_nodes_woken(struct fuse_nodes *tab, uint64_t nodeid, struct pl_node *node)
{
    struct at at;
    pthread_mutex_lock(&tab->lock);
    if (find(tab, nodeid, &at) && !at.k->node) {
        at.k->node = pl_node_ref(node);
        at.k->lost = 0;
    }
    pthread_mutex_unlock(&tab->lock);
}

/* ---- learning -------------------------------------------------------------------------------- */

/* What learning needs beside the lock: the key, asked for once. */
struct learning {
    const struct fuse_found *f;
    uint64_t counted; /* nodeid of which the lookup is counted already, 0: none */
    uint8_t key[PL_KEY_MAX];
    int keylen;
    bool has_key; /* or it has none, as keylen tells */
};

/* Is the dormant entry this node? By the key, or where the object has none by its number, which is
 * its own as long as it lives. 1 yes, 0 no, -1: ask the dormant itself. */
static int is_it(const struct at *at, const struct learning *g)
{
    if ((at->n->mode & S_IFMT) != g->f->node->fmt)
        return 0;
    if (at->n->keylen == 0)
        return 1;
    if (at->n->keylen == g->keylen && !memcmp(at->n->key, g->key, (size_t)g->keylen))
        return 1;
    return at->k->lost ? 0 : -1;
}

/* The entry of the node in this half, called with the lock: 1 found; 0 it has none; -1 the lock was
 * let go of: look again. */
static int search(struct fuse_nodes *tab, struct half *h, struct learning *g, struct at *ret)
{
    uint32_t i = 0;
    while ((i = ledger_node_find(h->l, g->f->attr->ino, i))) {
        *ret = entry(h, i);
        if (ret->k->node == g->f->node)
            return 1;
        if (ret->k->node)
            continue; /* another object had this number, and is gone but for the kernel */
        if (!g->has_key)
            return -1;
        int same = is_it(ret, g);
        if (same > 0) {
            ret->k->node = pl_node_ref(g->f->node);
            ret->k->lost = 0;
            return 1;
        }
        if (same < 0) {
            struct fuse_dormant d = dormant(ret);
            pthread_mutex_unlock(&tab->lock);
            pl_node_unref(wake(tab, &d, 0));
            pthread_mutex_lock(&tab->lock);
            return -1;
        }
    }
    return 0;
}

/* A second table for what the ledger has no room for. */
static struct half *overflow(struct fuse_nodes *tab)
{
    struct half *h = &tab->more;
    struct ledger_head *head = tab->main.l->head;
    if (!h->l && ledger_new(&tab->extra, 0, false) == 0 &&
        !half_init(h, &tab->extra, (head->epoch + 1ull) << 32))
        ledger_unmap(&tab->extra);
    if (h->l)
        atomic_fetch_add(&head->overflow, 1);
    return h->l ? h : NULL;
}

/* A new entry: takes over the reference. Called with the lock. */
static bool add(struct fuse_nodes *tab, const struct learning *g, struct at *ret)
{
    const struct pl_attr *attr = g->f->attr;
    struct ledger_node n = {.ino = attr->ino};
    struct half *h = &tab->main;
    uint32_t most = h->l->head->nnodes, i = 0;
    set_key(&n, g->key, g->keylen);
    if (!shared(h) || S_ISDIR(attr->mode) || h->l->head->nodes_known < most - most / DIRS_ONLY)
        i = ledger_node_add(h->l, &n);
    if (!i && (h = overflow(tab)))
        i = ledger_node_add(h->l, &n);
    if (!i)
        return false;
    *ret = entry(h, i);
    *ret->k = (struct known){.node = g->f->node};
    return true;
}

/* Asks for the node's key. Called with the lock, which is let go of meanwhile. */
static void ask_key(struct fuse_nodes *tab, struct learning *g)
{
    pthread_mutex_unlock(&tab->lock);
    g->keylen = tab->ops->key(tab->arg, g->f->node, g->key);
    g->has_key = true;
    pthread_mutex_lock(&tab->lock);
}

void fuse_nodes_meet(struct fuse_nodes *tab, struct pl_node *node, const struct pl_attr *attr)
{
    struct fuse_found f = {.node = node, .attr = attr};
    struct learning g = {.f = &f};
    struct at at;
    pthread_mutex_lock(&tab->lock);
    while (search(tab, &tab->main, &g, &at) < 0)
        if (!g.has_key)
            ask_key(tab, &g);
    pthread_mutex_unlock(&tab->lock);
}

/* The node's entry, found (with its lookup counted) or made; called with the lock. */
static bool enter(struct fuse_nodes *tab, struct learning *g, struct at *at, bool *made)
{
    for (;;) {
        int r = search(tab, &tab->main, g, at);
        if (r == 0 && tab->more.l)
            r = search(tab, &tab->more, g, at);
        *made = false;
        if (r > 0) {
            if (at->half->base + at->i != g->counted &&
                atomic_load_explicit(&at->n->nlookup, memory_order_relaxed) < UINT32_MAX)
                atomic_fetch_add_explicit(&at->n->nlookup, 1, memory_order_relaxed);
            return true;
        }
        if (r == 0 && (g->has_key || !shared(&tab->main)))
            return *made = add(tab, g, at);
        if (!g->has_key)
            ask_key(tab, g);
    }
}

uint64_t fuse_nodes_learn(struct fuse_nodes *tab, const struct fuse_found *f,
                          uint64_t *ret_generation, bool *ret_sure, _Atomic uint64_t *note)
{
    struct learning g = {.f = f, .counted = note ? atomic_load(note) : 0};
    struct at at;
    bool made = false;
    uint64_t nodeid = 0;
    pthread_mutex_lock(&tab->lock);
    if (enter(tab, &g, &at, &made)) {
        nodeid = at.half->base + at.i;
        if (note)
            atomic_store_explicit(note, nodeid, memory_order_relaxed);
        *ret_generation = at.n->generation;
        *ret_sure = S_ISDIR(f->attr->mode) || !at.k->more;
        tell(&at, f->attr);
        if (shared(at.half))
            set_where(&at, f->dir, f->name);
    }
    pthread_mutex_unlock(&tab->lock);
    if (!made)
        pl_node_unref(f->node);
    return nodeid;
}

bool fuse_nodes_forget(struct fuse_nodes *tab, uint64_t nodeid, uint64_t n)
{
    struct pl_node *drop = NULL;
    struct at at;
    if (nodeid == FUSE_ROOT_ID)
        return false;
    pthread_mutex_lock(&tab->lock);
    bool gone = false, there = find(tab, nodeid, &at);
    if (there && !at.k->node && (at.n->flags & LEDGER_NAMELESS) && !at.k->lost &&
        n >= at.n->nlookup) {
        /* Its source may hold a descriptor for it: by being let go of it learns that it need not.
         */
        struct fuse_dormant d = dormant(&at);
        pthread_mutex_unlock(&tab->lock);
        pl_node_unref(wake(tab, &d, 0));
        pthread_mutex_lock(&tab->lock);
        there = find(tab, nodeid, &at) && is_still(&at, &d);
    }
    uint32_t has = there ? atomic_load_explicit(&at.n->nlookup, memory_order_relaxed) : 0;
    if (has > n) {
        if (has < UINT32_MAX)
            atomic_store_explicit(&at.n->nlookup, has - (uint32_t)n, memory_order_relaxed);
    } else if (has) {
        drop = at.k->node;
        gone = true;
        ledger_node_del(at.half->l, at.i);
        *at.k = (struct known){0};
    }
    pthread_mutex_unlock(&tab->lock);
    pl_node_unref(drop);
    return gone;
}

/* Calls fn for each entry of the inode number, with the lock. */
static void each(struct fuse_nodes *tab, uint64_t ino, void (*fn)(struct at *, void *), void *arg)
{
    struct half *halves[2] = {&tab->main, &tab->more};
    pthread_mutex_lock(&tab->lock);
    for (int h = 0; h < 2 && halves[h]->l; h++) {
        uint32_t i = 0;
        while ((i = ledger_node_find(halves[h]->l, ino, i))) {
            struct at at = entry(halves[h], i);
            fn(&at, arg);
        }
    }
    pthread_mutex_unlock(&tab->lock);
}

struct move {
    uint64_t dir;
    const char *name;
    struct pl_node *node; /* one that is awake, with a reference */
    uint8_t key[PL_KEY_MAX];
    int keylen;
};

static void move_it(struct at *at, void *arg)
{
    struct move *m = arg;
    set_where(at, m->dir, m->name);
    if (at->k->node && !m->node)
        m->node = pl_node_ref(at->k->node);
}

static void rekey(struct at *at, void *arg)
{
    struct move *m = arg;
    if (at->k->node == m->node)
        set_key(at->n, m->key, m->keylen);
}

void fuse_nodes_moved(struct fuse_nodes *tab, uint64_t ino, uint64_t dir, const char *name)
{
    struct move m = {.dir = dir, .name = name};
    if (!shared(&tab->main))
        return;
    each(tab, ino, move_it, &m);
    if (m.node) { /* a key may tell of the way to the object */
        m.keylen = tab->ops->key(tab->arg, m.node, m.key);
        if (m.keylen > 0)
            each(tab, ino, rekey, &m);
        pl_node_unref(m.node);
    }
}

static void lose_name(struct at *at, void *arg)
{
    atomic_fetch_or_explicit(&at->n->flags, LEDGER_NAMELESS, memory_order_relaxed);
}

void fuse_nodes_nameless(struct fuse_nodes *tab, uint64_t ino)
{
    if (shared(&tab->main))
        each(tab, ino, lose_name, NULL);
}

/* ---- what the kernel believes ---------------------------------------------------------------- */

uint32_t fuse_stamp(const struct pl_attr *a)
{
    uint64_t h = mix(a->version, a->size);
    h = mix(h, (uint64_t)a->mtime.tv_sec);
    h = mix(h, (uint64_t)a->mtime.tv_nsec << 32 ^ (uint64_t)a->ctime.tv_nsec);
    h = mix(h, (uint64_t)a->ctime.tv_sec);
    return (uint32_t)h ? (uint32_t)h : 1;
}

bool fuse_nodes_told(struct fuse_nodes *tab, uint64_t nodeid, const struct pl_attr *attr)
{
    struct at at;
    bool sure = true;
    pthread_mutex_lock(&tab->lock);
    if (find(tab, nodeid, &at)) {
        tell(&at, attr);
        sure = S_ISDIR(attr->mode) || !at.k->more;
    }
    pthread_mutex_unlock(&tab->lock);
    return sure;
}

struct fuse_opened fuse_nodes_opened(struct fuse_nodes *tab, uint64_t nodeid)
{
    struct fuse_opened o = {false, false};
    struct at at;
    pthread_mutex_lock(&tab->lock);
    if (find(tab, nodeid, &at)) {
        o.same = at.k->told && at.k->same;
        o.locked = at.n->flags & LEDGER_LOCKED;
        at.k->same = 1;
    }
    pthread_mutex_unlock(&tab->lock);
    return o;
}

void fuse_nodes_unsure(struct fuse_nodes *tab, uint64_t nodeid)
{
    struct at at;
    pthread_mutex_lock(&tab->lock);
    if (find(tab, nodeid, &at))
        at.k->same = 0;
    pthread_mutex_unlock(&tab->lock);
}

bool fuse_nodes_mapped(struct fuse_nodes *tab, uint64_t nodeid, int more)
{
    struct at at;
    pthread_mutex_lock(&tab->lock);
    bool there = find(tab, nodeid, &at), first = there && !at.k->more;
    if (there)
        at.k->more = (at.k->more + (uint32_t)more) & 0xfffffff;
    pthread_mutex_unlock(&tab->lock);
    return first;
}

void fuse_nodes_lock(struct fuse_nodes *tab, uint64_t nodeid)
{
    struct at at;
    pthread_mutex_lock(&tab->lock);
    if (find(tab, nodeid, &at))
        atomic_fetch_or_explicit(&at.n->flags, LEDGER_LOCKED, memory_order_relaxed);
    pthread_mutex_unlock(&tab->lock);
}

/* ---- who is told ----------------------------------------------------------------------------- */

struct seek {
    const struct pl_node *node;
    uint64_t nodeid;
};

static void seek_it(struct at *at, void *arg)
{
    struct seek *s = arg;
    if (at->k->node == s->node)
        s->nodeid = at->half->base + at->i;
}

uint64_t fuse_nodes_id(struct fuse_nodes *tab, const struct pl_node *node, uint64_t ino)
{
    struct seek s = {node, 0};
    each(tab, ino, seek_it, &s);
    return s.nodeid;
}

void fuse_nodes_set_watched(struct fuse_nodes *tab, uint64_t nodeid, bool watched)
{
    struct at at;
    pthread_mutex_lock(&tab->lock);
    if (find(tab, nodeid, &at))
        at.k->watched = watched;
    pthread_mutex_unlock(&tab->lock);
}

bool fuse_nodes_watched(struct fuse_nodes *tab, uint64_t nodeid)
{
    struct at at;
    pthread_mutex_lock(&tab->lock);
    bool watched = find(tab, nodeid, &at) && at.k->watched;
    pthread_mutex_unlock(&tab->lock);
    return watched;
}

bool fuse_nodes_stale(struct fuse_nodes *tab, uint64_t nodeid)
{
    struct at at;
    bool stale = false;
    pthread_mutex_lock(&tab->lock);
    if (find(tab, nodeid, &at)) {
        stale = at.k->stale;
        at.k->stale = 0;
    }
    pthread_mutex_unlock(&tab->lock);
    return stale;
}

uint64_t fuse_nodes_next(struct fuse_nodes *tab, uint64_t nodeid)
{
    struct at at;
    uint64_t found = 0;
    pthread_mutex_lock(&tab->lock);
    if (nodeid <= UINT32_MAX) {
        uint32_t used = tab->main.l->head->nodes_used;
        while (!found && ++nodeid <= used)
            found = find(tab, nodeid, &at) ? nodeid : 0;
        nodeid = tab->more.base;
    }
    if (!found && tab->more.l) {
        uint64_t last = tab->more.base + tab->extra.head->nodes_used;
        while (!found && ++nodeid <= last)
            found = find(tab, nodeid, &at) ? nodeid : 0;
    }
    pthread_mutex_unlock(&tab->lock);
    return found;
}
