/* SPDX-License-Identifier: MIT */
/* Trees themselves: how they begin and end, and which ops they have. */
#include <assert.h>
#include <plenum/tree.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

void pl_tree_init(struct pl_tree *tree, const struct pl_ops *ops, struct pl_tree *lower)
{
    assert(lower || (ops->root && ops->release && ops->lookup && ops->getattr && ops->open &&
                     ops->close && ops->done));
    tree->ops = ops;
    tree->lower = lower;
    tree->flags = lower ? lower->flags : 0;
    atomic_init(&tree->leavers, NULL);
    atomic_init(&tree->refs, 1);
}

struct pl_tree *pl_tree_ref(struct pl_tree *tree)
{
    atomic_fetch_add(&tree->refs, 1);
    return tree;
}

void pl_tree_unref(struct pl_tree *tree)
{
    while (tree && atomic_fetch_sub(&tree->refs, 1) == 1) {
        struct pl_tree *lower = tree->lower;
        if (tree->ops->done)
            tree->ops->done(tree);
        free(tree);
        tree = lower;
    }
}

/* Where an op stands in the table. */
static const size_t slots[PL_OP_COUNT] = {
#define attach         root /* the op's own part of an attach */
#define X(name, flags) [PL_OP_##name] = offsetof(struct pl_ops, name),
    PL_OPS(X)
#undef X
#undef attach
};

static bool has_slot(const struct pl_ops *ops, enum pl_op op)
{
    void *fn;
    memcpy(&fn, (const char *)ops + slots[op], sizeof(fn));
    return fn;
}

bool pl_tree_has(const struct pl_tree *tree, enum pl_op op)
{
    if (op >= PL_OP_COUNT)
        return false;
    for (; tree; tree = tree->lower) {
        if (has_slot(tree->ops, op))
            return true;
        /* what the gate makes of other ops: a copy of reads and writes, the unlock of a flush */
        if ((op == PL_OP_copy && tree->ops->write) || (op == PL_OP_flush && tree->ops->lock))
            return true;
    }
    return false;
}
