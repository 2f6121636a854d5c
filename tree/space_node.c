/* SPDX-License-Identifier: MIT */
/* Nodes of a space, their stacks and places, and who holds them: see space.h. */
#include "tree/space.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- acting as the owner ---- */

struct space_as space_self(struct space *s, struct pl_call *call)
{
    struct space_as as = {call->cred,          call->umask, call->intent,
                          call->groups_loaded, call->plus,  call->own};
    call->cred = s->self;
    call->own = false;
    call->umask = 0;
    call->intent = NULL;
    call->groups_loaded = true;
    call->plus = false;
    return as;
}

void space_back(struct pl_call *call, const struct space_as *as)
{
    call->cred = as->cred;
    call->umask = as->umask;
    call->intent = as->intent;
    call->groups_loaded = as->loaded;
    call->plus = as->plus;
    call->own = as->own;
}

/* ---- holds ---- */

static void wake(void *arg)
{
    struct space *s = arg;
    pthread_mutex_lock(&s->holds);
    pthread_cond_broadcast(&s->freed);
    pthread_mutex_unlock(&s->holds);
}

int space_hold(struct space *s, struct pl_call *call, bool *held)
{
    pthread_mutex_lock(&s->holds);
    bool got = !*held;
    *held = true;
    pthread_mutex_unlock(&s->holds);
    if (got)
        return 0;
    int r = pl_call_block(call, wake, s);
    if (r < 0)
        return r;
    pthread_mutex_lock(&s->holds);
    s->waiting++;
    while (*held && (r = pl_call_over(call)) == 0)
        pl_call_wait(call, &s->freed, &s->holds);
    s->waiting--;
    if (r == 0)
        *held = true;
    pthread_mutex_unlock(&s->holds);
    pl_call_unblock(call);
    return r;
}

void space_let(struct space *s, bool *held)
{
    pthread_mutex_lock(&s->holds);
    *held = false;
    if (s->waiting)
        pthread_cond_broadcast(&s->freed);
    pthread_mutex_unlock(&s->holds);
}

int space_hold_both(struct space *s, struct pl_call *call, struct snode *a, struct snode *b)
{
    struct snode *first = a < b ? a : b, *second = a < b ? b : a;
    int r = space_hold(s, call, &first->held);
    if (r == 0 && first != second && (r = space_hold(s, call, &second->held)) < 0)
        space_let(s, &first->held);
    return r;
}

void space_let_both(struct space *s, struct snode *a, struct snode *b)
{
    space_let(s, &a->held);
    if (a != b)
        space_let(s, &b->held);
}

/* ---- stacks ---- */

void space_found_done(struct space_found *f)
{
    while (f->n)
        pl_node_unref(f->e[--f->n].node);
    space_table_unref(f->table);
    f->table = NULL;
}

void space_stack_unref(struct space_stack *st)
{
    if (!st || atomic_fetch_sub(&st->refs, 1) != 1)
        return;
    for (int i = 0; i < st->n; i++)
        pl_node_unref(st->e[i].node);
    space_table_unref(st->table); /* last: it holds the trees */
    free(st);
}

void space_found_dup(struct space_found *to, const struct space_found *f)
{
    *to = *f;
    space_table_ref(f->table);
    for (int i = 0; i < f->n; i++)
        pl_node_ref(f->e[i].node);
}

static struct space_stack *stack_alloc(int n)
{
    size_t size = sizeof(struct space_stack) + (size_t)n * sizeof(struct space_entry);
    struct space_stack *st = malloc(size + (size_t)n * sizeof(struct space_key));
    if (!st)
        return NULL;
    atomic_init(&st->refs, 1);
    st->seen = (struct space_key *)((char *)st + size);
    return st;
}

struct space_stack *space_stack_new(const struct space_found *f)
{
    struct space_stack *st = stack_alloc(f->n);
    if (!st)
        return NULL;
    st->n = f->n;
    st->table = f->table;
    st->point = f->point;
    st->spot = f->spot;
    atomic_init(&st->told, f->told);
    memcpy(st->e, f->e, (size_t)f->n * sizeof(f->e[0]));
    return st;
}

static bool same_stack(const struct space_stack *st, const struct space_found *f)
{
    bool same = st->n == f->n && st->table == f->table && st->point == f->point &&
                st->spot == f->spot && (atomic_load(&st->told) == f->told || f->fmt != S_IFDIR);
    for (int i = 0; same && i < f->n; i++)
        same = st->e[i].k == f->e[i].k && st->e[i].node == f->e[i].node;
    return same;
}

struct space_stack *space_stack(struct space *s, struct snode *n)
{
    pthread_mutex_lock(&s->names);
    struct space_stack *st = n->stack;
    atomic_fetch_add(&st->refs, 1);
    pthread_mutex_unlock(&s->names);
    return st;
}

static struct space_stack *put_stack(struct space *s, struct snode *n, struct space_stack *st);

bool space_stack_set(struct space *s, struct snode *n, struct space_stack *st, uint64_t before)
{
    pthread_mutex_lock(&s->names);
    bool sure = atomic_load(&s->changes) == before;
    struct space_stack *old = sure ? put_stack(s, n, st) : st;
    pthread_mutex_unlock(&s->names);
    space_stack_unref(old);
    return sure;
}

struct pl_node *space_entry(const struct space_stack *st, int k)
{
    for (int i = 0; i < st->n; i++)
        if (st->e[i].k == k)
            return st->e[i].node;
    return NULL;
}

/* ---- the table of nodes: all with `names` held ---- */

static struct space_key **slot_of(struct space *s, const void *a, const void *b, uint64_t c)
{
    uint64_t h = (uint64_t)(uintptr_t)a * 0x9e3779b97f4a7c15u ^
                 (uint64_t)(uintptr_t)b * 0xc2b2ae3d27d4eb4fu ^ c * 0xd6e8feb86659fd93u;
    h ^= h >> 32;
    return &s->slot[(h * 0xd6e8feb86659fd93u >> 20) & s->mask];
}

static void grow(struct space *s)
{
    size_t mask = s->mask * 2 + 1, was = s->mask;
    struct space_key **old = s->slot, **slot = (struct space_key **)calloc(mask + 1, sizeof(*slot));
    if (!slot)
        return;
    s->slot = slot;
    s->mask = mask;
    for (size_t i = 0; i <= was; i++) {
        for (struct space_key *k = old[i], *next; k; k = next) {
            struct space_key **to = slot_of(s, k->a, k->b, k->c);
            next = k->next;
            k->next = *to;
            *to = k;
        }
    }
    free((void *)old);
}

static void key_put(struct space *s, struct space_key *k, struct snode *n, const void *a,
                    const void *b, uint64_t c)
{
    if (++s->nkeys > s->mask)
        grow(s);
    struct space_key **to = slot_of(s, a, b, c);
    *k = (struct space_key){.next = *to, .node = n, .a = a, .b = b, .c = c};
    *to = k;
}

static void key_add(struct space *s, struct snode *n, const void *a, const void *b, uint64_t c)
{
    key_put(s, &n->key[n->nkeys++], n, a, b, c);
}

static void key_del(struct space *s, struct space_key *k)
{
    struct space_key **p = slot_of(s, k->a, k->b, k->c);
    while (*p != k)
        p = &(*p)->next;
    *p = k->next;
    s->nkeys--;
}

static void key_del_all(struct space *s, struct snode *n)
{
    while (n->nkeys)
        key_del(s, &n->key[--n->nkeys]);
}

/* `a` of the keys by which a node is found by any entry of its stack. */
static const char seen;

/* The node has this stack now, NULL: none; returns the one that it had, with its reference. */
static struct space_stack *put_stack(struct space *s, struct snode *n, struct space_stack *st)
{
    struct space_stack *old = n->stack;
    for (int i = 0; old && i < old->n; i++)
        key_del(s, &old->seen[i]);
    for (int i = 0; st && i < st->n; i++)
        key_put(s, &st->seen[i], n, &seen, st->e[i].node, 0);
    n->stack = st;
    return old;
}

static uint64_t name_hash(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 0x100000001b3u;
    return h;
}

/* `a` of a key of a lower node: what may be copied up is another thing at another point. */
static const void *key_of(const struct space_point *p, int k)
{
    return space_in_place(p, k) ? (const void *)p->layer[k].bind : (const void *)&p->layer[k];
}

static struct snode *find_lower(struct space *s, const struct space_point *p, int k,
                                const struct pl_node *lower)
{
    const void *a = key_of(p, k);
    for (struct space_key *e = *slot_of(s, a, lower, 0); e; e = e->next)
        if (e->a == a && e->b == lower && e->c == 0 && pl_node_tryref(&e->node->node))
            return e->node;
    return NULL;
}

static struct snode *find_dir(struct space *s, const struct snode *parent, const char *name)
{
    uint64_t h = name_hash(name);
    for (struct space_key *e = *slot_of(s, parent, NULL, h); e; e = e->next)
        if (e->a == parent && !e->b && e->c == h && !strcmp(e->node->name, name) &&
            pl_node_tryref(&e->node->node))
            return e->node;
    return NULL;
}

struct snode *space_node_at(struct space *s, struct snode *dir, const char *name,
                            const struct space_found *f)
{
    pthread_mutex_lock(&s->names);
    struct snode *n = f->fmt == S_IFDIR ? find_dir(s, dir, name)
                                        : find_lower(s, f->point, f->e[0].k, f->e[0].node);
    pthread_mutex_unlock(&s->names);
    return n;
}

size_t space_seen(struct space *s, const struct pl_node *lower, struct snode **ret, size_t max)
{
    size_t n = 0;
    pthread_mutex_lock(&s->names);
    for (struct space_key *e = *slot_of(s, &seen, lower, 0); e && n < max; e = e->next)
        if (e->a == &seen && e->b == lower && pl_node_tryref(&e->node->node))
            ret[n++] = e->node;
    pthread_mutex_unlock(&s->names);
    return n;
}

struct snode *space_known(struct space *s, struct snode *dir, const char *name)
{
    pthread_mutex_lock(&s->names);
    struct snode *n = find_dir(s, dir, name);
    pthread_mutex_unlock(&s->names);
    return n;
}

/* ---- places ---- */

bool space_place(struct space *s, struct snode *n, struct snode **parent,
                 char name[PL_NAME_MAX + 1])
{
    pthread_mutex_lock(&s->names);
    *parent = n->parent;
    if (n->parent) {
        pl_node_ref(&n->parent->node);
        strcpy(name, n->name);
    }
    pthread_mutex_unlock(&s->names);
    return *parent;
}

int space_moved(struct space *s, struct snode *n, struct snode *dir, const char *name)
{
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    bool is_dir = n->node.fmt == S_IFDIR;
    atomic_fetch_add(&s->changes, 1);
    pl_node_ref(&dir->node);
    pthread_mutex_lock(&s->names);
    struct snode *old = n->parent;
    char *old_name = n->name;
    if (is_dir) {
        key_del_all(s, n);
        n->parent = dir;
        n->name = copy;
        key_add(s, n, dir, NULL, name_hash(name));
        if (n->stack->n > 1) /* what is behind is elsewhere: that is found anew */
            atomic_store(&n->stack->told, 0);
    } else {
        n->parent = dir;
        n->name = copy;
    }
    n->gone = false;
    pthread_mutex_unlock(&s->names);
    free(old_name);
    pl_node_unref(old ? &old->node : NULL);
    return 0;
}

void space_lost(struct space *s, struct snode *n, struct snode *dir, const char *name)
{
    pthread_mutex_lock(&s->names);
    if (n->parent == dir && !strcmp(n->name, name)) {
        if (n->node.fmt == S_IFDIR)
            key_del_all(s, n);
        n->gone = true;
    }
    pthread_mutex_unlock(&s->names);
}

bool space_is_under(struct space *s, struct snode *n, const struct snode *top)
{
    pthread_mutex_lock(&s->names);
    while (n && n != top)
        n = n->parent;
    pthread_mutex_unlock(&s->names);
    return n;
}

/* ---- nodes ---- */

uint64_t space_number(const struct space_point *p, int k, uint64_t ino)
{
    uint64_t n = ino ^ (uint64_t)p->layer[k].slot << 40;
    return n ? n : ino;
}

uint64_t space_found_number(struct space *s, struct pl_call *call, const struct space_found *f)
{
    if (f->n == 0)
        return f->spot->ino;
    uint64_t origin = 0;
    if (f->e[0].k == f->point->top && f->point->n > 1) {
        struct space_as as = space_self(s, call);
        origin = space_origin(call, space_tree(f->point, f->e[0].k), f->e[0].node);
        space_back(call, &as);
    }
    return origin ? origin : space_number(f->point, f->e[0].k, f->attr.ino);
}

/* What was found is the directory that has been known there. */
static bool is_still(const struct snode *n, const struct space_found *f, uint64_t ino)
{
    const struct space_stack *st = n->stack;
    if (st->n && f->n && st->e[0].node == f->e[0].node)
        return true;
    return n->ino == ino;
}

/* The known node of what was found. `ino` 0: not known yet. With `names` held. */
static struct snode *find(struct space *s, struct snode *dir, const char *name,
                          const struct space_found *f, uint64_t ino)
{
    if (f->fmt != S_IFDIR)
        return find_lower(s, f->point, f->e[0].k, f->e[0].node);
    struct snode *n = find_dir(s, dir, name);
    if (!n || is_still(n, f, ino))
        return n;
    if (ino) /* another one is there now */
        key_del_all(s, n);
    /* The reference is not the last one while its place is its parent's: but it may be. */
    return n;
}

/* It was found once more: its stack and its place are these. What is not needed any more is given
 * back for the caller to drop without the lock. With `names` held. */
struct left {
    struct space_stack *stack;
    struct snode *parent;
    char *name;
};

static void settle(struct space *s, struct snode *n, struct snode *dir, char **name,
                   struct space_stack **st, struct left *left)
{
    if (st && *st) {
        left->stack = put_stack(s, n, *st);
        *st = NULL;
    }
    if (dir && *name) {
        left->parent = n->parent;
        left->name = n->name;
        pl_node_ref(&dir->node);
        n->parent = dir;
        n->name = *name;
        n->gone = false;
        *name = NULL;
    }
}

static void drop(struct left *left)
{
    space_stack_unref(left->stack);
    pl_node_unref(left->parent ? &left->parent->node : NULL);
    free(left->name);
}

static bool is_at(const struct snode *n, const struct snode *dir, const char *name)
{
    return n->parent == dir && !n->gone && (!dir || !strcmp(n->name, name));
}

/* Does the known node need anything of what was found? A file that has been copied up meanwhile
 * has a newer stack. */
static bool fits(const struct snode *n, struct snode *dir, const char *name,
                 const struct space_found *f)
{
    if (f->fmt == S_IFDIR)
        return same_stack(n->stack, f);
    return is_at(n, dir, name) || !dir;
}

static struct snode *alloc_node(struct space *s, const struct space_found *f, uint64_t ino)
{
    struct snode *n = calloc(1, sizeof(*n));
    if (!n)
        return NULL;
    pl_node_init(&n->node, &s->tree, f->fmt);
    n->ino = ino;
    n->hidden = f->hidden;
    n->hollow = f->hollow;
    n->rises = f->hollow || (f->n && !space_in_place(f->point, f->e[0].k));
    return n;
}

/* It has been copied up, and yet what was found is not the copy: that was before it, or the copy is
 * not there any more, or (of a file) this is another of its names. With `names` held. */
static bool overtaken(const struct snode *n, const struct space_found *f)
{
    const struct space_stack *st = n->stack;
    if (f->fmt != S_IFDIR)
        return n->nkeys == 2 && n->key[0].b == f->e[0].node;
    return st->table == f->table && st->point == f->point && st->n &&
           st->e[0].k == st->point->top && f->n && f->e[0].k != st->point->top;
}

/* Enters what is new, or takes what is there meanwhile. All given are taken over. */
static struct snode *enter(struct space *s, struct snode *fresh, struct snode *dir,
                           const char *name, struct space_found *f, char *copy,
                           struct space_stack *st, uint64_t ino)
{
    struct left left = {0};
    struct snode *stale = NULL;
    pthread_mutex_lock(&s->names);
    struct snode *n = dir || f->fmt != S_IFDIR ? find(s, dir, name, f, ino) : NULL;
    if (n && f->fmt == S_IFDIR && !is_still(n, f, ino)) {
        stale = n;
        n = NULL;
    }
    if (n) {
        bool past = overtaken(n, f) && (!f->again || f->changes != atomic_load(&s->changes));
        settle(s, n, is_at(n, dir, name) ? NULL : dir, &copy,
               f->fmt == S_IFDIR && !past ? &st : NULL, &left);
    } else {
        n = fresh;
        fresh = NULL;
        settle(s, n, dir, &copy, &st, &left);
        if (f->fmt != S_IFDIR)
            key_add(s, n, key_of(f->point, f->e[0].k), f->e[0].node, 0);
        else if (dir)
            key_add(s, n, dir, NULL, name_hash(name));
    }
    pthread_mutex_unlock(&s->names);
    drop(&left);
    pl_node_unref(stale ? &stale->node : NULL);
    free(fresh);
    free(copy);
    space_stack_unref(st);
    return n;
}

/* The lower one is an object of its own again. With `names` held. */
static void part(struct space *s, struct snode *n)
{
    struct space_key copy = n->key[1];
    key_del_all(s, n);
    key_add(s, n, copy.a, copy.b, copy.c);
}

int space_node(struct space *s, struct pl_call *call, struct snode *dir, const char *name,
               struct space_found *f, struct snode **ret)
{
    struct snode *apart = NULL;
    pthread_mutex_lock(&s->names);
    struct snode *n = f->fmt == S_IFDIR && !dir ? NULL
                      : f->fmt == S_IFDIR       ? find_dir(s, dir, name)
                                                : find_lower(s, f->point, f->e[0].k, f->e[0].node);
    bool again = n && overtaken(n, f) && !f->again;
    if (n && !again && f->fmt != S_IFDIR && overtaken(n, f)) {
        part(s, n);
        apart = n;
        n = NULL;
    }
    bool good = n && fits(n, dir, name, f);
    pthread_mutex_unlock(&s->names);
    pl_node_unref(apart ? &apart->node : NULL);
    if (again) {
        space_found_done(f);
        pl_node_unref(&n->node);
        return -EAGAIN;
    }
    if (good) {
        space_found_done(f);
        *ret = n;
        return 0;
    }
    uint64_t ino = n && f->fmt != S_IFDIR ? n->ino : space_found_number(s, call, f);
    struct snode *fresh = alloc_node(s, f, ino);
    char *copy = dir ? strdup(name) : NULL;
    struct space_stack *st = space_stack_new(f);
    if (!fresh || (dir && !copy) || !st) {
        free(fresh);
        free(copy);
        free(st);
        space_found_done(f);
        pl_node_unref(n ? &n->node : NULL);
        return -ENOMEM;
    }
    *ret = enter(s, fresh, dir, name, f, copy, st, ino);
    pl_node_unref(n ? &n->node : NULL);
    return 0;
}

int space_child(struct space *s, struct pl_call *call, struct snode *dir,
                const struct space_stack *st, const char *name, struct snode **ret,
                struct pl_attr *attr)
{
    struct space_found f;
    bool again = false;
    for (int tries = 0;; tries++) {
        uint64_t before = atomic_load(&s->changes);
        struct space_stack *now = tries ? space_stack(s, dir) : NULL; /* it may be more by then */
        int r = space_find(s, call, dir, now ? now : st, name, 0, &f);
        space_stack_unref(now);
        if (r < 0)
            return r;
        *attr = f.attr;
        if (f.n > 1)
            attr->version = f.version;
        f.again = again || tries > 16;
        f.changes = before;
        r = space_node(s, call, dir, name, &f, ret);
        bool past = r == 0 && (*ret)->rises && !(*ret)->raised && tries < 16 &&
                    atomic_load(&s->changes) != before;
        if (r != -EAGAIN && !past)
            return r;
        again = r == -EAGAIN && atomic_load(&s->changes) == before;
        if (past)
            pl_node_unref(&(*ret)->node);
    }
}

/* The entries of the stack, with one more: a reference of each. NULL: out of memory. */
static struct space_stack *stack_with(const struct space_stack *st, int k, struct pl_node *lower,
                                      bool alone)
{
    struct space_stack *new = stack_alloc(st->n + 1);
    if (!new)
        return NULL;
    new->table = space_table_ref(st->table);
    new->point = st->point;
    new->spot = st->spot;
    atomic_init(&new->told, atomic_load(&st->told) & ~(UINT32_C(1) << k)); /* until it is found */
    new->n = 0;
    bool put = false;
    for (int i = 0; i < st->n && !alone; i++) {
        if (!put && st->e[i].k >= k) {
            new->e[new->n++] = (struct space_entry){k, lower};
            put = true;
        }
        if (st->e[i].k != k) {
            new->e[new->n] = st->e[i];
            pl_node_ref(new->e[new->n++].node);
        }
    }
    if (!put)
        new->e[new->n++] = (struct space_entry){k, lower};
    return new;
}

int space_stack_add(struct space *s, struct snode *n, int k, struct pl_node *lower)
{
    struct space_stack *st = space_stack(s, n);
    bool alone = n->node.fmt != S_IFDIR;
    struct space_stack *new = stack_with(st, k, lower, alone);
    atomic_fetch_add(&s->changes, 1);
    int r = new ? 0 : -ENOMEM;
    if (new) {
        pthread_mutex_lock(&s->names);
        struct space_stack *old = put_stack(s, n, new);
        n->raised = true;
        if (alone && n->nkeys && n->nkeys < 2)
            key_add(s, n, key_of(st->point, k), lower, 0);
        pthread_mutex_unlock(&s->names);
        space_stack_unref(old);
        space_raised(s, n);
    } else {
        pl_node_unref(lower);
    }
    space_stack_unref(st);
    return r;
}

void space_release(struct pl_tree *tree, struct pl_node *node)
{
    struct space *s = space_of(tree);
    struct snode *n = snode_of(node);
    pthread_mutex_lock(&s->names);
    key_del_all(s, n);
    struct space_stack *st = put_stack(s, n, NULL);
    pthread_mutex_unlock(&s->names);
    space_stack_unref(st);
    pl_node_unref(n->parent ? &n->parent->node : NULL);
    free(n->name);
    if (n->locks) {
        pl_locks_done(n->locks);
        free(n->locks);
    }
    free(n);
}
