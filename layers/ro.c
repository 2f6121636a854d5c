/* SPDX-License-Identifier: MIT */
/* The ro layer: what would modify the tree is -EROFS. */
#include <errno.h>
#include <fcntl.h>
#include <plenum/sources.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int before(struct pl_tree *t, struct pl_call *c, const struct pl_event *ev)
{
    bool modifies = pl_op_modifies(ev->op) && ev->op != PL_OP_create;
    if (ev->op == PL_OP_open)
        modifies = (ev->flags & O_ACCMODE) != O_RDONLY || (ev->flags & O_TRUNC);
    else if (ev->op == PL_OP_access)
        modifies = ev->flags & W_OK;
    return modifies ? -EROFS : 0;
}

/* Creating without O_EXCL what is there already is opening it. */
static int ro_create(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, const char *name,
                     int flags, mode_t mode, struct pl_node **ret, struct pl_attr *attr,
                     struct pl_file **ret_file)
{
    int r = pl_lookup(t->lower, c, dir, name, ret, attr);
    if (r < 0)
        return r == -ENOENT ? -EROFS : r;
    r = (flags & O_EXCL) ? -EEXIST : pl_open(t, c, *ret, flags, ret_file);
    if (r < 0)
        pl_node_unref(*ret);
    return r;
}

/* The statfs of a read-only tree says so. */
static int ro_statfs(struct pl_tree *t, struct pl_call *c, struct pl_node *node, struct statfs *st)
{
    int r = pl_statfs(t->lower, c, node, st);
    if (r == 0)
        st->f_flags |= ST_RDONLY;
    return r;
}

static const struct pl_ops ro_ops = {
    .name = "ro",
    .before = before,
    .create = ro_create,
    .statfs = ro_statfs,
};

struct pl_tree *pl_ro_new(struct pl_tree *lower)
{
    struct pl_tree *l = lower ? calloc(1, sizeof(*l)) : NULL;
    if (!l) {
        pl_tree_unref(lower);
        return NULL;
    }
    pl_tree_init(l, &ro_ops, lower);
    return l;
}
