/* SPDX-License-Identifier: MIT */
/*
 * Unions of two trees. "white": behind lie the names that the cases use, as files and as
 * directories with something in them, and all have been removed through the union: whatever a case
 * makes takes the place of a whiteout, and must be as if nothing had ever been there.
 */
#include "stack.h"

#include <dirent.h>
#include <plenum/space.h>
#include <stdlib.h>

static const char *const names[] = {"a",    "b",    "c",    "d",   "e",   "f",   "g",
                                    "dir",  "file", "link", "x",   "y",   "old", "new",
                                    "from", "to",   "one",  "two", "sub", "name"};
#define NAMES (sizeof(names) / sizeof(*names))

/* Every other one is a directory, with some of them once more in it. */
static int litter(struct pl_tree *t, struct pl_node *dir, int depth)
{
    struct pl_node *n;
    struct pl_attr attr;
    int r = 0;
    for (size_t i = 0; i < (depth ? 7 : NAMES) && r == 0; i++) {
        bool is_dir = (i + (size_t)depth) % 2;
        struct pl_make make = {.mode = is_dir ? S_IFDIR | 0755 : S_IFREG | 0644};
        r = pl_make(t, me, dir, names[i], &make, &n, &attr);
        if (r == 0 && is_dir && depth == 0)
            r = litter(t, n, 1);
        if (r == 0)
            pl_node_unref(n);
    }
    return r;
}

static int clear(struct pl_tree *t, struct pl_node *dir)
{
    struct pl_node *n;
    struct pl_attr attr;
    int r = 0;
    for (size_t i = 0; i < NAMES && r == 0; i++) {
        r = pl_lookup(t, me, dir, names[i], &n, &attr);
        if (r < 0)
            return r == -ENOENT ? 0 : r;
        bool is_dir = S_ISDIR(attr.mode);
        r = is_dir ? clear(t, n) : 0;
        pl_node_unref(n);
        if (r == 0)
            r = pl_remove(t, me, dir, names[i], is_dir ? AT_REMOVEDIR : 0);
    }
    return r;
}

static int each(struct pl_tree *t, int (*fn)(struct pl_tree *, struct pl_node *),
                struct pl_err *err)
{
    struct pl_node *root;
    struct pl_attr attr;
    int r = pl_attach(t, me, "/", &root, &attr);
    if (r == 0) {
        r = fn(t, root);
        pl_node_unref(root);
    }
    return r < 0 ? pl_fail(err, r, "what lies behind: %s", strerror(-r)) : 0;
}

static int litter_root(struct pl_tree *t, struct pl_node *root)
{
    return litter(t, root, 0);
}

/* ---- a space ---- */

/* What is bound at /in of a space, as a tree of its own. */
struct in {
    struct pl_tree tree;
    struct pl_node *root;
};

static int in_root(struct pl_tree *t, struct pl_call *call, struct pl_node **ret)
{
    *ret = pl_node_ref(((struct in *)t)->root);
    return 0;
}

static int in_lookup(struct pl_tree *t, struct pl_call *call, struct pl_node *dir, const char *name,
                     struct pl_node **ret, struct pl_attr *attr)
{
    if (dir != ((struct in *)t)->root || strcmp(name, "..") != 0)
        return pl_lookup(t->lower, call, dir, name, ret, attr);
    int r = pl_getattr(t->lower, call, dir, NULL, attr);
    if (r == 0)
        *ret = pl_node_ref(dir);
    return r;
}

static void in_done(struct pl_tree *t)
{
    pl_node_unref(((struct in *)t)->root);
}

static const struct pl_ops in_ops = {
    .name = "in", .root = in_root, .lookup = in_lookup, .done = in_done};

/* Bindings at the root and below it, where there is one behind that is not there yet. */
static int space_open(struct pl_tree *front, struct pl_tree *behind, struct pl_tree **ret,
                      struct pl_err *err)
{
    const struct pl_binding b[] = {
        {"/", behind, "/", PL_BIND_CREATE},
        {"/in", front, "/", PL_BIND_REPLACE | PL_BIND_CREATE},
        {"/in", behind, "/behind", PL_BIND_AFTER},
    };
    struct pl_tree *space;
    struct pl_attr attr;
    int r = pl_space_new(b, 3, 0, &space, err);
    if (r < 0)
        return r;
    struct in *in = calloc(1, sizeof(*in));
    r = in ? pl_attach(space, me, "in", &in->root, &attr) : -ENOMEM;
    if (r < 0) {
        free(in);
        pl_tree_unref(space);
        return pl_fail(err, r, "/in: %s", strerror(-r));
    }
    pl_tree_init(&in->tree, &in_ops, space);
    *ret = &in->tree;
    return 0;
}

int level_union(struct level *l, struct pl_tree *front, struct pl_tree *behind,
                struct pl_tree **ret, struct pl_err *err)
{
    int r = l->kind == S_WHITE ? each(behind, litter_root, err) : 0;
    if (l->kind == S_SPACE)
        r = space_open(front, behind, ret, err);
    else if (r == 0)
        r = pl_union_new((struct pl_tree *const[]){front, behind}, 2, true, 0, ret, err);
    pl_tree_unref(front);
    pl_tree_unref(behind);
    if (r == 0 && l->kind == S_WHITE && (r = each(*ret, clear, err)) < 0)
        pl_tree_unref(*ret);
    return r;
}
