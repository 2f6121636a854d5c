/* SPDX-License-Identifier: MIT */
/*
 * Places: in which directory and under which name a node was last seen. From them a node is walked
 * to as another user, or at another server. What others rename is not heard of; so whatever is
 * found by a place is checked to be the node that was meant.
 *
 * A node holds a reference on its directory's, so that the way up from it stays known. The chain
 * never closes to a ring: a place that would (two directories that others have moved, seen at
 * different times) takes the place of the older knowledge that it contradicts.
 *
 * The table finds a node by its place, for what this tree itself renames and removes. tree.mutex
 * guards it and all places.
 */
#include "sources/p9_tree.h"
#include <stdlib.h>
#include <string.h>

static uint64_t hash(const struct p9s_node *dir, const char *name)
{
    uint64_t h = (uintptr_t)dir * 0x9e3779b97f4a7c15u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 0x100000001b3u;
    return h ^ h >> 32;
}

static struct p9s_node **slot(struct p9s_places *p, const struct p9s_node *dir, const char *name)
{
    struct p9s_node **s = &p->chain[hash(dir, name) & (p->size - 1)];
    while (*s && ((*s)->parent != dir || strcmp((*s)->name, name)))
        s = &(*s)->next_place;
    return s;
}

static bool grow(struct p9s_places *p)
{
    if (p->count < p->size)
        return true;
    struct p9s_places more = {.size = p->size ? 2 * p->size : 64, .count = p->count};
    more.chain = calloc(more.size, sizeof(*more.chain));
    if (!more.chain)
        return p->size > 0; /* it is only slower */
    for (size_t i = 0; i < p->size; i++) {
        for (struct p9s_node *n = p->chain[i], *next; n; n = next) {
            struct p9s_node **s = &more.chain[hash(n->parent, n->name) & (more.size - 1)];
            next = n->next_place;
            n->next_place = *s;
            *s = n;
        }
    }
    free(p->chain);
    *p = more;
    return true;
}

/* The node has no place any more. Its directory's reference becomes the caller's. */
static struct p9s_node *leave(struct p9s_places *p, struct p9s_node *node)
{
    struct p9s_node *dir = node->parent;
    if (!dir)
        return NULL;
    struct p9s_node **s = &p->chain[hash(dir, node->name) & (p->size - 1)];
    while (*s != node)
        s = &(*s)->next_place;
    *s = node->next_place;
    p->count--;
    free(node->name);
    node->name = NULL;
    node->parent = NULL;
    return dir;
}

/* The node whose place must be forgotten if `node` is in `dir`: `dir` itself when node is above it,
 * or NULL. */
static struct p9s_node *contradicts(const struct p9s_node *node, struct p9s_node *dir)
{
    for (const struct p9s_node *up = dir; up; up = up->parent)
        if (up == node)
            return dir;
    return NULL;
}

/* Directories that are no longer held, to be let go without the lock. */
struct gone {
    struct p9s_node *node[4];
    unsigned n;
};

static void put_in(struct p9s_tree *t, struct p9s_node *node, struct p9s_node *dir, char *name,
                   struct gone *g)
{
    struct p9s_places *p = &t->places;
    if (node == t->root || !grow(p)) {
        free(name);
        return;
    }
    struct p9s_node *other = *slot(p, dir, name);
    if (other && other != node)
        g->node[g->n++] = leave(p, other);
    if (contradicts(node, dir) && dir->parent)
        g->node[g->n++] = leave(p, dir);
    g->node[g->n++] = leave(p, node);
    if (node == dir) {
        free(name);
        return;
    }
    pl_node_ref(&dir->h.node);
    node->parent = dir;
    node->name = name;
    struct p9s_node **s = &p->chain[hash(dir, name) & (p->size - 1)];
    node->next_place = *s;
    *s = node;
    p->count++;
}

static void let_go(struct gone *g)
{
    for (unsigned i = 0; i < g->n; i++)
        if (g->node[i])
            pl_node_unref(&g->node[i]->h.node);
}

void p9s_place_set(struct p9s_tree *t, struct p9s_node *node, struct p9s_node *dir,
                   const char *name)
{
    struct gone g = {0};
    bool wanted = t->many || t->again || atomic_load(&node->first.fid) == P9_NOFID;
    if (!wanted || !dir || !name || !strcmp(name, ".."))
        return;
    pthread_mutex_lock(&t->mutex);
    bool same = node->parent == dir && !strcmp(node->name, name);
    pthread_mutex_unlock(&t->mutex);
    char *copy = same ? NULL : strdup(name);
    if (!copy)
        return;
    pthread_mutex_lock(&t->mutex);
    put_in(t, node, dir, copy, &g);
    pthread_mutex_unlock(&t->mutex);
    let_go(&g);
}

void p9s_place_moved(struct p9s_tree *t, struct p9s_node *olddir, const char *oldname,
                     struct p9s_node *newdir, const char *newname, bool exchange)
{
    struct gone g = {0}, g2 = {0};
    if (!t->places.size)
        return;
    char *to = strdup(newname), *back = exchange ? strdup(oldname) : NULL;
    pthread_mutex_lock(&t->mutex);
    struct p9s_node *a = *slot(&t->places, olddir, oldname);
    struct p9s_node *b = *slot(&t->places, newdir, newname);
    if (a != b && to) {
        if (b)
            g.node[g.n++] = leave(&t->places, b);
        if (a) {
            put_in(t, a, newdir, to, &g);
            to = NULL;
        }
        if (b && back) {
            put_in(t, b, olddir, back, &g2);
            back = NULL;
        }
    }
    pthread_mutex_unlock(&t->mutex);
    free(to);
    free(back);
    let_go(&g);
    let_go(&g2);
}

bool p9s_place_fidless(struct p9s_tree *t, struct p9s_node *dir, const char *name)
{
    if (!atomic_load(&t->fidless))
        return false;
    pthread_mutex_lock(&t->mutex);
    struct p9s_node *node = t->places.size ? *slot(&t->places, dir, name) : NULL;
    bool fidless = node && atomic_load(&node->first.fid) == P9_NOFID;
    pthread_mutex_unlock(&t->mutex);
    return fidless;
}

void p9s_place_gone(struct p9s_tree *t, struct p9s_node *dir, const char *name)
{
    if (!t->places.size)
        return;
    pthread_mutex_lock(&t->mutex);
    struct p9s_node *node = *slot(&t->places, dir, name);
    struct p9s_node *held = node ? leave(&t->places, node) : NULL;
    pthread_mutex_unlock(&t->mutex);
    if (held)
        pl_node_unref(&held->h.node);
}

struct p9s_node *p9s_place_node(struct p9s_tree *t, struct p9s_node *dir, const char *name)
{
    struct p9s_node *node = NULL;
    if (!t->again || !t->places.size)
        return NULL;
    pthread_mutex_lock(&t->mutex);
    node = *slot(&t->places, dir, name);
    if (node && !pl_node_tryref(&node->h.node))
        node = NULL;
    pthread_mutex_unlock(&t->mutex);
    return node;
}

struct p9s_node *p9s_place_leave(struct p9s_tree *t, struct p9s_node *node)
{
    pthread_mutex_lock(&t->mutex);
    struct p9s_node *dir = leave(&t->places, node);
    pthread_mutex_unlock(&t->mutex);
    return dir;
}

/* ---- ways ---- */

enum { DEEP = 4096 };

void p9s_way_free(struct p9s_way *w)
{
    for (size_t i = 0; i < w->n; i++)
        free(w->names[i]);
    free(w->names);
    if (w->base)
        pl_node_unref(&w->base->h.node);
    *w = (struct p9s_way){0};
}

static int add(struct p9s_way *w, const char *name)
{
    if (w->n % 16 == 0) {
        char **more = realloc(w->names, (w->n + 16) * sizeof(*more));
        if (!more)
            return -ENOMEM;
        w->names = more;
    }
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    w->names[w->n++] = copy;
    return 0;
}

int p9s_way(struct p9s_tree *t, struct p9s_node *node, const struct p9s_user *user,
            bool (*good)(struct p9s_tree *t, uint32_t fid), struct p9s_way *w)
{
    int r = 0;
    *w = (struct p9s_way){.fid = P9_NOFID};
    pthread_mutex_lock(&t->mutex);
    for (struct p9s_node *at = node; r == 0; at = at->parent) {
        struct p9s_fid *f = p9s_fid_of(at, user);
        if (at == t->root)
            w->fid = user->root;
        else if (f && f->fid != P9_NOFID && (!good || good(t, f->fid)))
            w->fid = f->fid;
        if (w->fid != P9_NOFID) {
            w->base = at;
            pl_node_ref(&at->h.node);
            break;
        }
        r = !at->parent || w->n == DEEP ? -ESTALE : add(w, at->name);
    }
    pthread_mutex_unlock(&t->mutex);
    if (r < 0)
        p9s_way_free(w);
    return r;
}
