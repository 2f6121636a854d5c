/* SPDX-License-Identifier: MIT */
/* One lock guards it all; it is held for a few table accesses. */
#include "layers/places.h"
#define HASH_NONFATAL_OOM 1
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

struct place {
    struct place *parent;  /* NULL: the root, or a name that is gone */
    struct known *node;    /* NULL: only kept for what is beneath */
    struct place *sibling; /* the next name of the same node */
    unsigned beneath;
    bool hashed;
    char *key; /* the parent's address and the name */
    size_t nkey;
    UT_hash_handle hh;
};

struct known {
    struct pl_node *node;
    uint64_t ino;
    uint32_t fmt;
    struct place *first;
    UT_hash_handle hh;
};

struct places {
    pthread_mutex_t lock;
    struct place *root, *names;
    struct known *nodes;
};

struct places *places_new(void)
{
    struct places *p = calloc(1, sizeof(*p));
    if (p)
        pthread_mutex_init(&p->lock, NULL);
    return p;
}

static size_t make_key(char *buf, const struct place *parent, const char *name)
{
    size_t n = strlen(name);
    memcpy(buf, &parent, sizeof(parent));
    memcpy(buf + sizeof(parent), name, n);
    return sizeof(parent) + n;
}

static struct place *find(struct places *p, const struct place *parent, const char *name)
{
    char key[sizeof(parent) + PL_NAME_MAX + 1];
    struct place *pl;
    if (!parent || strlen(name) > PL_NAME_MAX)
        return NULL;
    size_t n = make_key(key, parent, name);
    HASH_FIND(hh, p->names, key, n, pl);
    return pl;
}

/* Frees what nothing is known of and nothing is beneath, and what that was beneath. */
static void prune(struct places *p, struct place *pl)
{
    while (pl && !pl->node && !pl->beneath && pl != p->root) {
        struct place *up = pl->parent;
        if (pl->hashed)
            HASH_DEL(p->names, pl);
        if (up)
            up->beneath--;
        free(pl->key);
        free(pl);
        pl = up;
    }
}

/* The name stands for nothing any more; what is beneath is nowhere until it is found again. */
static void unhash(struct places *p, struct place *pl)
{
    struct place *up = pl->parent;
    if (!pl->hashed)
        return;
    HASH_DEL(p->names, pl);
    pl->hashed = false;
    pl->parent = NULL;
    up->beneath--;
    prune(p, up);
}

static bool hash(struct places *p, struct place *pl, struct place *parent, const char *name)
{
    char *key = malloc(sizeof(parent) + strlen(name) + 1);
    if (!key)
        return false;
    free(pl->key);
    pl->key = key;
    pl->nkey = make_key(key, parent, name);
    HASH_ADD_KEYPTR(hh, p->names, pl->key, pl->nkey, pl);
    if (!pl->hh.tbl)
        return false;
    pl->hashed = true;
    pl->parent = parent;
    parent->beneath++;
    return true;
}

static void detach(struct places *p, struct place *pl)
{
    if (pl->node) {
        struct place **at = &pl->node->first;
        while (*at != pl)
            at = &(*at)->sibling;
        *at = pl->sibling;
        pl->node = NULL;
        pl->sibling = NULL;
    }
    prune(p, pl);
}

static void attach(struct place *pl, struct known *k)
{
    pl->node = k;
    pl->sibling = k->first;
    k->first = pl;
}

static struct known *known(struct places *p, struct pl_node *node)
{
    struct known *k;
    HASH_FIND_PTR(p->nodes, &node, k);
    return k;
}

static struct known *know(struct places *p, struct pl_node *node, uint64_t ino)
{
    struct known *k = known(p, node);
    if (!k && (k = calloc(1, sizeof(*k)))) {
        k->node = node;
        HASH_ADD_PTR(p->nodes, node, k);
        if (!k->hh.tbl) {
            free(k);
            return NULL;
        }
    }
    if (k) {
        k->ino = ino ? ino : k->ino;
        k->fmt = node->fmt;
    }
    return k;
}

static struct place *place_of(struct places *p, struct pl_node *dir)
{
    struct known *k = known(p, dir);
    return k && k->first && (k->first->hashed || k->first == p->root) ? k->first : NULL;
}

static bool is_beneath(const struct place *pl, const struct place *top)
{
    while (pl && pl != top)
        pl = pl->parent;
    return pl;
}

void places_root(struct places *p, struct pl_node *root)
{
    pthread_mutex_lock(&p->lock);
    struct known *k = know(p, root, 0);
    if (!p->root)
        p->root = calloc(1, sizeof(*p->root));
    if (k && p->root && p->root->node != k) {
        detach(p, p->root);
        attach(p->root, k);
    }
    pthread_mutex_unlock(&p->lock);
}

/* Takes the name away from its node, too. */
static void drop(struct places *p, struct place *pl)
{
    unhash(p, pl);
    detach(p, pl);
}

/* A directory has one place: it moves. Anything else gets one more. */
static void put(struct places *p, struct place *dir, const char *name, struct known *k)
{
    struct place *old = find(p, dir, name);
    if (old && old->node == k && k->first == old)
        return;
    if (old && !old->node) { /* was kept for what is beneath, and is back */
        attach(old, k);
        return;
    }
    if (old && old->node != k) {
        if (S_ISDIR(old->node->fmt))
            unhash(p, old); /* with what is beneath, to be found elsewhere */
        else
            drop(p, old);
        old = NULL;
    }
    if (S_ISDIR(k->fmt) && k->first) {
        if (!is_beneath(dir, k->first)) {
            unhash(p, k->first);
            hash(p, k->first, dir, name);
        }
        return;
    }
    if (old && old->node == k) {
        detach(p, old); /* to the front; frees it unless something is beneath */
        old = find(p, dir, name);
    }
    struct place *pl = calloc(1, sizeof(*pl));
    if (pl && hash(p, pl, dir, name)) {
        attach(pl, k);
    } else if (pl) {
        free(pl->key);
        free(pl);
    }
}

void places_found(struct places *p, struct pl_node *dir, const char *name, struct pl_node *node,
                  uint64_t ino)
{
    pthread_mutex_lock(&p->lock);
    struct known *k = know(p, node, ino);
    struct place *at = place_of(p, dir);
    if (k && at && (!k->first || k->first != p->root) && strcmp(name, ".."))
        put(p, at, name, k);
    pthread_mutex_unlock(&p->lock);
}

void places_known(struct places *p, struct pl_node *node, uint64_t ino)
{
    pthread_mutex_lock(&p->lock);
    know(p, node, ino);
    pthread_mutex_unlock(&p->lock);
}

void places_removed(struct places *p, struct pl_node *dir, const char *name)
{
    pthread_mutex_lock(&p->lock);
    struct place *pl = find(p, place_of(p, dir), name);
    if (pl)
        drop(p, pl);
    pthread_mutex_unlock(&p->lock);
}

void places_renamed(struct places *p, struct pl_node *olddir, const char *oldname,
                    struct pl_node *newdir, const char *newname, bool exchange)
{
    pthread_mutex_lock(&p->lock);
    struct place *from = place_of(p, olddir), *to = place_of(p, newdir);
    struct place *a = find(p, from, oldname), *b = find(p, to, newname);
    /* Two names of one file: rename(2) does nothing. */
    if (a && a == b) {
        pthread_mutex_unlock(&p->lock);
        return;
    }
    bool linked = !exchange && a && b && a->node && a->node == b->node;
    if (a && !linked)
        unhash(p, a);
    if (b && !linked) {
        if (exchange) {
            unhash(p, b);
            if (!from || !hash(p, b, from, oldname))
                detach(p, b);
        } else {
            drop(p, b);
        }
    }
    if (a && !linked && (!to || !hash(p, a, to, newname)))
        detach(p, a);
    pthread_mutex_unlock(&p->lock);
}

void places_left(struct places *p, struct pl_node *node)
{
    pthread_mutex_lock(&p->lock);
    struct known *k = known(p, node);
    if (k && atomic_load(&node->refs) == 0) {
        while (k->first)
            detach(p, k->first);
        HASH_DEL(p->nodes, k);
        free(k);
    }
    pthread_mutex_unlock(&p->lock);
}

/* Writes the path from the end of buf backwards; NULL: not known, too long. */
static const char *path_of(const struct places *p, const struct place *pl, char *buf, char *end)
{
    for (; pl != p->root; pl = pl->parent) {
        if (!pl || !pl->hashed)
            return NULL;
        size_t n = pl->nkey - sizeof(pl->parent);
        if ((size_t)(end - buf) < n + 1)
            return NULL;
        end -= n;
        memcpy(end, pl->key + sizeof(pl->parent), n);
        *--end = '/';
    }
    return end;
}

void places_path(struct places *p, struct pl_node *node, const char *name, char path[PLACES_PATH],
                 struct place_found *ret)
{
    char buf[PLACES_PATH], *end = buf + sizeof(buf) - 1;
    *end = 0;
    *ret = (struct place_found){0};
    pthread_mutex_lock(&p->lock);
    struct known *k = known(p, node);
    struct place *at = k ? k->first : NULL;
    const char *dir = at ? path_of(p, at, buf, end) : NULL;
    if (name) {
        struct place *pl = find(p, at, name);
        k = pl ? pl->node : NULL;
    }
    if (k)
        *ret = (struct place_found){.ino = k->ino, .fmt = k->fmt};
    else if (!name)
        ret->fmt = node->fmt;
    pthread_mutex_unlock(&p->lock);
    int n = dir ? snprintf(path, PLACES_PATH, "%s%s%s", dir,
                           name    ? "/"
                           : !*dir ? "/"
                                   : "",
                           name ? name : "")
                : -1;
    if (n < 0 || n >= PLACES_PATH)
        *path = 0;
}

size_t places_count(struct places *p)
{
    pthread_mutex_lock(&p->lock);
    size_t n = HASH_COUNT(p->names);
    pthread_mutex_unlock(&p->lock);
    return n;
}

void places_free(struct places *p)
{
    struct known *k, *next;
    if (!p)
        return;
    HASH_ITER (hh, p->nodes, k, next) {
        while (k->first && k->first != p->root)
            detach(p, k->first);
        if (k->first)
            k->first->node = NULL;
        HASH_DEL(p->nodes, k);
        free(k);
    }
    free(p->root);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
