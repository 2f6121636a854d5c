/* SPDX-License-Identifier: MIT */
/* What the pairs come to: for each top its directories, and the bindings of a space. */
#include "view/priv.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The directories of one top, as they are found. */
struct chain {
    const struct view *view;
    const char *top;
    char *dirs[VIEW_CHAIN];
    const struct view_map *by[VIEW_CHAIN]; /* the map that led to each; of the first NULL */
    size_t n;
    struct pl_err *err;
};

static int add_lower(struct chain *c, const struct view_map *map, const char *rest);

/* A directory over one in itself is over that one's own files alone. */
static bool followed(const struct chain *c, const struct view_map *map)
{
    for (size_t i = 0; i < c->n; i++)
        if (c->by[i] == map)
            return true;
    return false;
}

/* Adds what directory `dir` is over, and what that is over in turn: of each top that it is in, the
 * outer ones first, as directories inherit. */
static int follow(struct chain *c, const char *dir)
{
    const struct view *v = c->view;
    const char *at = NULL; /* the top that was the last, all others are deeper */
    for (;;) {
        const struct view_map *next = NULL;
        const char *rest = NULL;
        for (size_t i = 0; i < v->nmaps; i++) {
            const struct view_map *m = &v->maps[i];
            if (view_beneath(dir, m->top, NULL) && (!at || strlen(m->top) > strlen(at)) &&
                (!next || strlen(m->top) < strlen(next->top)))
                next = m;
        }
        if (!next)
            return 0;
        at = next->top;
        view_beneath(dir, at, &rest);
        int r = followed(c, next) ? 0 : add_lower(c, next, rest);
        if (r < 0)
            return r;
    }
}

static int add_lower(struct chain *c, const struct view_map *map, const char *rest)
{
    const char *lower = map->lower;
    char *dir;
    if (asprintf(&dir, "%s%s", *rest && !lower[1] ? "" : lower, rest) < 0)
        return pl_fail(c->err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < c->n; i++)
        if (!strcmp(c->dirs[i], dir)) {
            free(dir);
            return pl_fail(c->err, -ELOOP,
                           "%s: would be over itself, by way of %s (take a pair out with vpath "
                           "DIR -)",
                           c->top, c->dirs[c->n - 1]);
        }
    if (c->n == VIEW_CHAIN || strlen(dir) >= VIEW_PATH) {
        free(dir);
        return pl_fail(
            c->err, -E2BIG,
            "%s: more than %d directories over one another (take a pair out with vpath DIR -)",
            c->top, VIEW_CHAIN);
    }
    c->by[c->n] = map;
    c->dirs[c->n++] = dir;
    return follow(c, dir);
}

static void chain_done(struct chain *c)
{
    for (size_t i = 0; i < c->n; i++)
        free(c->dirs[i]);
}

/* Only what maps at this very path say: what it is in is inherited, and not repeated. */
static int make_chain(struct chain *c)
{
    c->dirs[c->n++] = strdup(c->top);
    if (!c->dirs[0])
        return pl_fail(c->err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < c->view->nmaps; i++)
        if (!strcmp(c->view->maps[i].top, c->top))
            return add_lower(c, &c->view->maps[i], "");
    return 0;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The paths of all maps and puts, sorted, each once; NULL: no memory. */
static const char **paths(const struct view *v, size_t *ret_n)
{
    size_t n = 0, kept = 0;
    const char **p = calloc(v->nmaps + v->nputs + 1, sizeof(*p));
    if (!p)
        return NULL;
    for (size_t i = 0; i < v->nmaps; i++)
        p[n++] = v->maps[i].top;
    for (size_t i = 0; i < v->nputs; i++)
        p[n++] = v->puts[i].dir;
    qsort(p, n, sizeof(*p), by_path);
    for (size_t i = 0; i < n; i++)
        if (!kept || strcmp(p[kept - 1], p[i]) != 0)
            p[kept++] = p[i];
    *ret_n = kept;
    return p;
}

/* Into one piece of memory: the tops, their pointers, their strings. */
static int lay_out(struct view *v, struct chain *chains, size_t n)
{
    size_t words = 0, bytes = 0;
    for (size_t i = 0; i < n; i++) {
        words += chains[i].n;
        for (size_t k = 0; k < chains[i].n; k++)
            bytes += strlen(chains[i].dirs[k]) + 1;
    }
    v->tops = malloc(n * sizeof(*v->tops) + words * sizeof(char *) + bytes + 1);
    if (!v->tops)
        return -ENOMEM;
    const char **word = (const char **)(v->tops + n);
    char *text = (char *)(word + words);
    for (size_t i = 0; i < n; i++) {
        v->tops[i] = (struct view_top){text, word, chains[i].n};
        for (size_t k = 0; k < chains[i].n; k++) {
            *word++ = text;
            text = stpcpy(text, chains[i].dirs[k]) + 1;
        }
    }
    v->ntops = n;
    return 0;
}

/* No path may be made of more trees than a space holds at one. */
static int check_nested(const struct view *v, struct pl_err *err)
{
    for (size_t i = 0; i < v->ntops; i++) {
        size_t all = 1;
        for (size_t k = 0; k <= i; k++)
            if (view_beneath(v->tops[i].path, v->tops[k].path, NULL))
                all += v->tops[k].n - 1;
        if (all > PL_SPACE_STACK)
            return pl_fail(err, -E2BIG,
                           "%s: more than %d directories at one path, with what it lies in (take a "
                           "pair out with vpath DIR -)",
                           v->tops[i].path, PL_SPACE_STACK);
    }
    return 0;
}

int view_flatten(struct view *v, struct pl_err *err)
{
    size_t n = 0;
    const char **path = paths(v, &n);
    struct chain *chains = path ? calloc(n + 1, sizeof(*chains)) : NULL;
    int r = chains ? 0 : pl_fail(err, -ENOMEM, "out of memory");
    size_t made = 0;
    while (r == 0 && made < n) {
        chains[made] = (struct chain){.view = v, .top = path[made], .err = err};
        r = make_chain(&chains[made++]);
    }
    if (r == 0)
        r = lay_out(v, chains, n) < 0 ? pl_fail(err, -ENOMEM, "out of memory") : 0;
    for (size_t i = 0; i < made; i++)
        chain_done(&chains[i]);
    free(chains);
    free(path);
    return r < 0 ? r : check_nested(v, err);
}

/* ---- bindings ---- */

/* Counts, or (with `b`) writes. */
struct out {
    struct pl_binding *b;
    char *text;
    size_t n, bytes;
};

static const char *put_text(struct out *o, const char *dir, const char *rest)
{
    const char *at = o->text;
    dir = *rest && !dir[1] ? "" : dir;
    o->bytes += strlen(dir) + strlen(rest) + 1;
    if (o->b)
        o->text = stpcpy(stpcpy(o->text, dir), rest) + 1;
    return at;
}

/* Binding of dir + rest at the path `at`. */
static void put(struct out *o, struct pl_tree *tree, const char *at, const char *dir,
                const char *rest, uint32_t how)
{
    const char *path = put_text(o, *at ? at : "/", ""), *sub = put_text(o, dir, rest);
    if (o->b)
        o->b[o->n] = (struct pl_binding){.path = path, .tree = tree, .sub = sub, .how = how};
    o->n++;
}

static void walk(const struct view *v, const char *base, struct pl_tree *tree, struct out *o)
{
    put(o, tree, "/", base, "", PL_BIND_REPLACE | PL_BIND_CREATE);
    for (size_t i = 0; i < v->ntops; i++) {
        const struct view_top *t = &v->tops[i];
        const char *rest = "", *at = "/";
        if (!view_beneath(base, t->path, &rest)) {
            rest = "";
            if (!view_beneath(t->path, base, &at))
                continue;
        }
        for (size_t k = 1; k < t->n; k++)
            put(o, tree, at, t->dirs[k], rest, PL_BIND_AFTER);
    }
}

int view_bindings(const struct view *view, const char *base, struct pl_tree *tree,
                  struct pl_binding **ret, size_t *ret_n)
{
    struct out size = {0}, o = {0};
    walk(view, base, tree, &size);
    o.b = malloc(size.n * sizeof(*o.b) + size.bytes);
    if (!o.b)
        return -ENOMEM;
    o.text = (char *)(o.b + size.n);
    walk(view, base, tree, &o);
    *ret = o.b;
    *ret_n = o.n;
    return 0;
}
