/* SPDX-License-Identifier: MIT */
/* The fault layer: a chosen op fails with a chosen errno, by countdown: lets `skip` pass, fails
 * `count`, lets the rest pass. */
#include <plenum/sources.h>
#include <stdlib.h>

struct fault_tree {
    struct pl_tree tree;
    enum pl_op op;
    int error;
    uint64_t skip, count;
    _Atomic uint64_t seen;
};

static int before(struct pl_tree *t, struct pl_call *c, const struct pl_event *ev)
{
    struct fault_tree *f = (struct fault_tree *)t;
    bool any = f->op == PL_OP_COUNT && ev->op != PL_OP_close && ev->op != PL_OP_flush;
    if (ev->op != f->op && !any)
        return 0;
    uint64_t n = atomic_fetch_add(&f->seen, 1);
    return n >= f->skip && n - f->skip < f->count ? f->error : 0;
}

static const struct pl_ops fault_ops = {
    .name = "fault",
    .before = before,
};

struct pl_tree *pl_fault_new(enum pl_op op, int error, uint64_t skip, uint64_t count,
                             struct pl_tree *lower)
{
    struct fault_tree *l = lower ? calloc(1, sizeof(*l)) : NULL;
    if (!l) {
        pl_tree_unref(lower);
        return NULL;
    }
    pl_tree_init(&l->tree, &fault_ops, lower);
    l->op = op;
    l->error = error;
    l->skip = skip;
    l->count = count;
    return &l->tree;
}
