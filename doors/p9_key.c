/* SPDX-License-Identifier: MIT */
/*
 * Durable names: a client whose server is new finds its files again by them.
 *
 * Whoever presents a key may have made it up. So it opens nothing that its user could not walk to
 * from where it has attached: the source sees to that (pl_find, with call->own false).
 */
#include "doors/p9_door.h"
#include <errno.h>

int p9d_key(struct p9d_op *op)
{
    struct p9d_fid *fid = op->fid;
    if (p9d_xattr(fid))
        return -EBADF;
    if (p9d_payload(op, PL_KEY_MAX) < PL_KEY_MAX)
        return op->out->data ? -EMSGSIZE : -ENOMEM;
    int n = pl_key(fid->at->tree, op->call, fid->node, op->out->data);
    if (n < 0)
        return n;
    op->out->count = (uint32_t)n;
    return 0;
}

int p9d_find(struct p9d_op *op)
{
    struct p9d_fid *fid = op->fid;
    struct p9d_attach *at = fid->at;
    struct pl_node *node;
    struct pl_attr attr;
    if (p9d_xattr(fid))
        return -EBADF;
    op->call->beneath = at->root;
    int r = pl_find(at->tree, op->call, op->in->data, op->in->count, &node, &attr);
    op->call->beneath = NULL;
    if (r < 0)
        return r;
    p9d_fill_attr(&op->out->attr, &attr);
    op->made = p9d_fid_new(op->session, at, node, NULL, NULL);
    pl_node_unref(node);
    return op->made ? 0 : -ENOMEM;
}
