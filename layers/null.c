/* SPDX-License-Identifier: MIT */
/*
 * The null layer: passes everything through. Copy it to start a layer: give `struct null_tree` the
 * state that you need, and set in the table the ops that you change, or before and after to watch.
 */
#include <plenum/sources.h>
#include <stdlib.h>

struct null_tree {
    struct pl_tree tree;
};

static const struct pl_ops null_ops = {
    .name = "null",
};

struct pl_tree *pl_null_new(struct pl_tree *lower)
{
    struct null_tree *l = lower ? calloc(1, sizeof(*l)) : NULL;
    if (!l) {
        pl_tree_unref(lower);
        return NULL;
    }
    pl_tree_init(&l->tree, &null_ops, lower);
    return &l->tree;
}
