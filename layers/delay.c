/* SPDX-License-Identifier: MIT */
/* The delay layer: each op takes a while longer, as over a long line. Never delays what cannot be
 * cancelled by its caller (close). */
#include <plenum/sources.h>
#include <stdlib.h>

struct delay_tree {
    struct pl_tree tree;
    int64_t ns;
};

static int before(struct pl_tree *t, struct pl_call *c, const struct pl_event *ev)
{
    return ev->op == PL_OP_close ? 0 : pl_call_sleep(c, ((struct delay_tree *)t)->ns);
}

static const struct pl_ops delay_ops = {
    .name = "delay",
    .before = before,
};

struct pl_tree *pl_delay_new(int64_t ns, struct pl_tree *lower)
{
    struct delay_tree *l = lower ? calloc(1, sizeof(*l)) : NULL;
    if (!l) {
        pl_tree_unref(lower);
        return NULL;
    }
    pl_tree_init(&l->tree, &delay_ops, lower);
    l->ns = ns;
    return &l->tree;
}
