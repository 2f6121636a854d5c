/* SPDX-License-Identifier: MIT */
/* The bindings of a space, as spots, points and layers: see space.h. */
#include "tree/space.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- bindings ---- */

static void bind_unref(struct space_bind *b)
{
    if (!b || atomic_fetch_sub(&b->refs, 1) != 1)
        return;
    pl_tree_unref(b->tree);
    free(b->path);
    free(b->sub);
    free(b);
}

/* A path without slashes that do nothing; NULL: not absolute, or it goes up; or out of memory. */
static char *clean(const char *path)
{
    if (!path || *path != '/')
        return NULL;
    char *out = malloc(strlen(path) + 2), *to = out;
    while (out && *path) {
        path += strspn(path, "/");
        size_t n = strcspn(path, "/");
        if (n > PL_NAME_MAX || (n == 1 && path[0] == '.') ||
            (n == 2 && path[0] == '.' && path[1] == '.')) {
            free(out);
            return NULL;
        }
        if (n) {
            *to++ = '/';
            memcpy(to, path, n);
        }
        to += n;
        path += n;
    }
    if (out && to == out)
        *to++ = '/';
    if (out)
        *to = 0;
    return out;
}

/* The tree stands on the space, or is it. Spaces within spaces are looked through. */
static bool contains(struct pl_tree *t, const struct space *s)
{
    for (; t; t = t->lower) {
        if (t == &s->tree)
            return true;
        if (t->ops != s->tree.ops)
            continue;
        struct space *in = space_of(t);
        pthread_mutex_lock(&in->names);
        struct space_table *table = in->table ? space_table_ref(in->table) : NULL;
        pthread_mutex_unlock(&in->names);
        bool found = false;
        for (size_t i = 0; table && i < table->n && !found; i++)
            found = contains(table->bind[i]->tree, s);
        space_table_unref(table);
        if (found)
            return true;
    }
    return false;
}

/* The binding, the old table's if it has the same: then its nodes stay the same. */
static int bind_new(struct space *s, const struct pl_binding *b, struct space_table *old,
                    struct space_bind **ret, struct pl_err *err)
{
    char *path = clean(b->path), *sub = clean(b->sub ? b->sub : "/");
    struct space_bind *n = NULL;
    int r = 0;
    if (!path || !sub)
        r = pl_fail(err, -EINVAL, "%s: not an absolute path without \".\" and \"..\"",
                    path      ? b->sub
                    : b->path ? b->path
                              : "(none)");
    else if (!b->tree || b->how & ~7u || (b->how & 3) == 3)
        r = pl_fail(err, -EINVAL,
                    "%s: bound to no tree, or in no known way (PL_BIND_REPLACE, _BEFORE or _AFTER, "
                    "with or without _CREATE)",
                    path);
    else if (contains(b->tree, s))
        r = pl_fail(err, -ELOOP,
                    "%s: the space would be in itself (bind the trees that it is made of)", path);
    for (size_t i = 0; r == 0 && old && i < old->n && !n; i++) {
        struct space_bind *o = old->bind[i];
        if (o->tree == b->tree && o->how == b->how && !strcmp(o->path, path) &&
            !strcmp(o->sub, sub))
            atomic_fetch_add(&(n = o)->refs, 1);
    }
    if (r == 0 && !n && (n = calloc(1, sizeof(*n)))) {
        *n = (struct space_bind){.refs = 1, .how = b->how, .path = path, .sub = sub};
        n->tree = pl_tree_ref(b->tree);
        path = sub = NULL;
    }
    free(path);
    free(sub);
    *ret = n;
    return r == 0 && !n ? pl_fail(err, -ENOMEM, "out of memory") : r;
}

/* ---- points ---- */

static void point_unref(struct space_point *p)
{
    if (!p || atomic_fetch_sub(&p->refs, 1) != 1)
        return;
    point_unref(atomic_load(&p->behind));
    for (int i = 0; i < p->n; i++)
        bind_unref(p->layer[i].bind);
    free(p);
}

static bool put_layer(struct space_point *p, int at, struct space_bind *b, bool own)
{
    if (p->n == PL_SPACE_STACK)
        return false;
    memmove(&p->layer[at + 1], &p->layer[at], (size_t)(p->n - at) * sizeof(p->layer[0]));
    atomic_fetch_add(&b->refs, 1);
    p->layer[at] = (struct space_layer){.bind = b, .own = own};
    p->n++;
    return true;
}

/* One binding more at the point. */
static bool apply(struct space_point *p, struct space_bind *b)
{
    if ((b->how & 3) == PL_BIND_REPLACE) {
        while (p->n)
            bind_unref(p->layer[--p->n].bind);
        p->above = p->nabove = 0;
    }
    bool before = b->how & PL_BIND_BEFORE;
    if (!put_layer(p, before ? 0 : p->n, b, true))
        return false;
    p->above += before;
    return true;
}

/* Which layer takes what is new, and numbers: those of a layer whose objects stay what they are in
 * another point are as there. */
static void settle(const struct space *s, struct space_point *p, const struct space_point *up,
                   uint32_t *slots)
{
    p->top = -1;
    for (int i = 0; i < p->n && p->top < 0; i++)
        if (p->layer[i].bind->how & PL_BIND_CREATE)
            p->top = i;
    if (p->n == 1 && !s->ro)
        p->top = 0;
    for (int i = 0; i < p->n; i++) {
        int k = i - p->above;
        bool same = !p->layer[i].own && space_in_place(p, i) && space_in_place(up, k);
        p->layer[i].slot = same ? up->layer[k].slot : (*slots)++;
    }
}

static bool same_point(const struct space_point *a, const struct space_point *b)
{
    bool same = a->n == b->n && a->top == b->top && a->above == b->above && a->nabove == b->nabove;
    for (int i = 0; same && i < a->n; i++)
        same = a->layer[i].bind == b->layer[i].bind && a->layer[i].own == b->layer[i].own &&
               a->layer[i].slot == b->layer[i].slot;
    return same;
}

struct space_point *space_behind(struct space_point *p)
{
    struct space_point *have = atomic_load(&p->behind);
    if (have || p->n < 2)
        return have;
    struct space_point *b = calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    b->refs = 1;
    b->top = -1;
    for (int i = 1; i < p->n; i++) {
        put_layer(b, i - 1, p->layer[i].bind, p->layer[i].own);
        b->layer[i - 1].slot = p->layer[i].slot | 128; /* what is copied up in front is another */
    }
    if (!atomic_compare_exchange_strong(&p->behind, &have, b)) {
        point_unref(b);
        b = have;
    }
    return b;
}

/* ---- spots ---- */

struct space_spot *space_spot(const struct space_spot *in, const char *name)
{
    for (struct space_spot *c = in ? in->child : NULL; c; c = c->next)
        if (!strcmp(c->name, name))
            return c;
    return NULL;
}

const char *space_spot_path(const struct space_spot *sp, char path[SPACE_SAID])
{
    size_t n = 0;
    path[0] = 0;
    if (sp->parent && sp->parent->parent)
        n = strlen(space_spot_path(sp->parent, path));
    snprintf(path + n, SPACE_SAID - n, "%s%s", sp->parent ? "/" : "", sp->name);
    return path;
}

static void spot_free(struct space_spot *sp)
{
    while (sp) {
        struct space_spot *next = sp->next;
        spot_free(sp->child);
        if (sp->here)
            point_unref(sp->point);
        free(sp->name);
        free(sp);
        sp = next;
    }
}

/* A number where no tree has one: of the path (FNV), high up. */
static uint64_t path_ino(const struct space_spot *parent, const char *name)
{
    uint64_t h = parent ? parent->ino : 0xcbf29ce484222325u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 0x100000001b3u;
    return h | (uint64_t)1 << 62;
}

static struct space_spot *spot_add(struct space_spot *parent, const char *name)
{
    struct space_spot *sp = calloc(1, sizeof(*sp));
    if (!sp || !(sp->name = strdup(name))) {
        free(sp);
        return NULL;
    }
    sp->parent = parent;
    sp->ino = path_ino(parent, name);
    if (parent) {
        struct space_spot **end = &parent->child;
        while (*end)
            end = &(*end)->next;
        *end = sp;
    }
    return sp;
}

/* The spot of a path, made with those that lead to it. */
static struct space_spot *spot_at(struct space_spot *sp, const char *path)
{
    char name[PL_NAME_MAX + 1];
    while (sp && *(path += strspn(path, "/"))) {
        size_t n = strcspn(path, "/");
        memcpy(name, path, n);
        name[n] = 0;
        path += n;
        struct space_spot *c = space_spot(sp, name);
        sp = c ? c : spot_add(sp, name);
    }
    return sp;
}

/* The point of a spot with bindings: what is above first, then they, in order. */
static int make_point(struct space *s, struct space_table *t, struct space_spot *sp,
                      uint32_t *slots, struct pl_err *err)
{
    const struct space_point *up = sp->parent ? sp->parent->point : NULL;
    struct space_point *p = NULL;
    char path[SPACE_SAID];
    bool room = true;
    for (size_t i = 0; i < t->n && room; i++) {
        if (spot_at(t->root, t->bind[i]->path) != sp)
            continue;
        if (!p && !(p = calloc(1, sizeof(*p))))
            return pl_fail(err, -ENOMEM, "out of memory");
        if (!p->refs) {
            p->refs = 1;
            p->nabove = up ? up->n : 0;
            for (int k = 0; k < p->nabove; k++)
                put_layer(p, k, up->layer[k].bind, false);
        }
        room = apply(p, t->bind[i]);
    }
    if (!p && !up) { /* nothing at the root: it only leads to others */
        if (!(p = calloc(1, sizeof(*p))))
            return pl_fail(err, -ENOMEM, "out of memory");
        p->refs = 1;
    }
    sp->here = p;
    sp->point = p ? p : (struct space_point *)up;
    if (!room)
        return pl_fail(err, -E2BIG, "%s: more than %d trees (make a union of some of them)",
                       space_spot_path(sp, path), PL_SPACE_STACK);
    if (p)
        settle(s, p, up, slots);
    return 0;
}

/* An old point that is the same goes on: so do the nodes of its files. */
static void keep_old(struct space_spot *sp, const struct space_spot *old)
{
    if (!old || !old->here || !same_point(sp->point, old->point))
        return;
    point_unref(sp->point);
    sp->point = old->point;
    atomic_fetch_add(&sp->point->refs, 1);
}

static int make_points(struct space *s, struct space_table *t, struct space_spot *sp,
                       const struct space_spot *old, uint32_t *slots, struct pl_err *err)
{
    int r = make_point(s, t, sp, slots, err);
    if (r == 0 && sp->here)
        keep_old(sp, old);
    for (struct space_spot *c = sp->child; r == 0 && c; c = c->next)
        r = make_points(s, t, c, old ? space_spot(old, c->name) : NULL, slots, err);
    return r;
}

/* ---- the table ---- */

struct space_table *space_table_ref(struct space_table *t)
{
    atomic_fetch_add(&t->refs, 1);
    return t;
}

void space_table_unref(struct space_table *t)
{
    if (!t || atomic_fetch_sub(&t->refs, 1) != 1)
        return;
    spot_free(t->root);
    for (size_t i = 0; i < t->n; i++)
        bind_unref(t->bind[i]);
    free((void *)t->bind);
    free(t);
}

int space_layer_root(struct space *s, struct pl_call *call, struct space_point *p, int k, bool make,
                     struct pl_node **ret, struct pl_attr *attr)
{
    const struct pl_make dir = {.mode = S_IFDIR | 0755};
    struct space_bind *b = p->layer[k].bind;
    const char *at = b->sub;
    struct space_as as = space_self(s, call);
    struct pl_node *node = NULL, *next;
    int r = pl_attach(b->tree, call, "/", &node, attr);
    while (r == 0 && *(at += strspn(at, "/"))) {
        char name[PL_NAME_MAX + 1];
        size_t n = strcspn(at, "/");
        memcpy(name, at, n);
        name[n] = 0;
        at += n;
        r = pl_lookup(b->tree, call, node, name, &next, attr);
        if (r == -ENOENT && make)
            r = pl_make(b->tree, call, node, name, &dir, &next, attr);
        if (r == 0) {
            pl_node_unref(node);
            node = next;
        }
    }
    space_back(call, &as);
    if (r < 0)
        pl_node_unref(node);
    else
        *ret = node;
    return r;
}

int space_table_new(struct space *s, const struct pl_binding *b, size_t n, struct space_table *old,
                    struct space_table **ret, struct pl_err *err)
{
    struct space_table *t = calloc(1, sizeof(*t));
    int r = 0;
    if (!t || !(t->bind = (struct space_bind **)calloc(n + 1, sizeof(*t->bind))) ||
        !(t->root = spot_add(NULL, "/"))) {
        free(t ? (void *)t->bind : NULL);
        free(t);
        return pl_fail(err, -ENOMEM, "out of memory");
    }
    t->refs = 1;
    for (size_t i = 0; r == 0 && i < n; i++) {
        r = bind_new(s, &b[i], old, &t->bind[i], err);
        if (r == 0)
            t->n++;
        if (r == 0 && !spot_at(t->root, t->bind[i]->path))
            r = pl_fail(err, -ENOMEM, "out of memory");
    }
    uint32_t slots = 0;
    if (r == 0)
        r = make_points(s, t, t->root, old ? old->root : NULL, &slots, err);
    if (r < 0)
        space_table_unref(t);
    else
        *ret = t;
    return r;
}
