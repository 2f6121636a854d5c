/* SPDX-License-Identifier: MIT */
/* Requests of our own, for what 9P2000.L cannot say (docs/9p-extensions.md). */
#include "doors/p9_door.h"
#include "doors/p9_once.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

/* A copy is bounded, so that it neither holds a thread for long nor can be cancelled only late. */
#define COPY_MAX (64u << 20)

static struct pl_file *open_file(struct p9d_fid *fid)
{
    return p9d_xattr(fid) ? NULL : p9d_file(fid);
}

int p9d_fallocate(struct p9d_op *op)
{
    struct pl_file *file = open_file(op->fid);
    if (!file)
        return -EBADF;
    if (op->slot && (op->in->mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE))) {
        struct pl_attr attr; /* what tells whether it was done: no source notes it */
        if (pl_getattr(op->fid->at->tree, op->call, op->fid->node, file, &attr) == 0)
            atomic_store(&op->slot->intent.size1, attr.size + 1);
    }
    return pl_fallocate(op->fid->at->tree, op->call, file, (int)op->in->mode, op->in->offset,
                        op->in->length);
}

int p9d_seek(struct p9d_op *op)
{
    struct pl_file *file = open_file(op->fid);
    if (!file)
        return -EBADF;
    int64_t r = pl_seek(op->fid->at->tree, op->call, file, op->in->offset, (int)op->in->whence);
    if (r < 0)
        return (int)r;
    op->out->offset = (uint64_t)r;
    return 0;
}

int p9d_copy(struct p9d_op *op)
{
    struct pl_file *in = open_file(op->fid), *out = open_file(op->fid2);
    if (!in || !out)
        return -EBADF;
    if (op->fid->at->tree != op->fid2->at->tree)
        return -EXDEV;
    uint64_t n = op->in->length < COPY_MAX ? op->in->length : COPY_MAX;
    ssize_t r = pl_copy(op->fid->at->tree, op->call, in, op->in->offset, out, op->in->offset2, n);
    if (r < 0)
        return (int)r;
    op->out->length = (uint64_t)r;
    return 0;
}

int p9d_access(struct p9d_op *op)
{
    if (p9d_xattr(op->fid))
        return -EBADF;
    if (op->in->mask > 7)
        return -EINVAL;
    return pl_access(op->fid->at->tree, op->call, op->fid->node, (int)op->in->mask);
}

int p9d_flushfile(struct p9d_op *op)
{
    struct pl_file *file = open_file(op->fid);
    if (!file)
        return -EBADF;
    uint64_t owner = p9d_lock_owner(op->session, &op->in->owner, sizeof(op->in->owner), 0);
    /* It drops what the owner has locked: a clunk of this fid that comes late is not to drop what
     * the owner has locked anew by then. */
    p9d_lock_forget(op->fid, owner, false);
    return pl_flush(op->fid->at->tree, op->call, file, owner);
}

int p9d_syncfs(struct p9d_op *op)
{
    return pl_syncfs(op->fid->at->tree, op->call, op->fid->node);
}

int p9d_ioctl(struct p9d_op *op)
{
    struct pl_file *file = open_file(op->fid);
    size_t in = op->in->count, out = op->in->out_size;
    if (!file)
        return -EBADF;
    if (in > LIMIT_IOCTL || out > LIMIT_IOCTL)
        return -EINVAL;
    size_t n = in > out ? in : out;
    size_t room = p9d_payload(op, (uint32_t)n);
    if (!op->out->data)
        return -ENOMEM;
    if (room < n)
        return -EINVAL;
    if (in)
        memcpy(op->out->data, op->in->data, in);
    if (n > in)
        memset((char *)op->out->data + in, 0, n - in);
    int r = pl_ioctl(op->fid->at->tree, op->call, file, op->in->cmd, op->out->data, in, out);
    if (r < 0)
        return r;
    op->out->result = (uint32_t)r;
    op->out->count = (uint32_t)out;
    return 0;
}
