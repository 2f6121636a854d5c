/* SPDX-License-Identifier: MIT */
/*
 * Extended attributes, which in 9P are fids: Txattrwalk makes one that is read, Txattrcreate turns
 * one into a value that is written, once and in order, and set when the fid is clunked.
 *
 * The memory of all values of a session is limited; session.mutex guards the sum.
 */
#include "doors/p9_door.h"
#include "doors/p9_once.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

static struct p9d_xattr *xattr_new(struct p9d_session *s, size_t size)
{
    pthread_mutex_lock(&s->mutex);
    bool fits = s->xattr_bytes + size <= LIMIT_XATTR_BYTES;
    if (fits)
        s->xattr_bytes += size;
    pthread_mutex_unlock(&s->mutex);
    struct p9d_xattr *x = fits ? calloc(1, sizeof(*x) + size) : NULL;
    if (!x) {
        if (fits) {
            pthread_mutex_lock(&s->mutex);
            s->xattr_bytes -= size;
            pthread_mutex_unlock(&s->mutex);
        }
        return NULL;
    }
    pthread_mutex_init(&x->mutex, NULL);
    x->size = size;
    return x;
}

void p9d_xattr_free(struct p9d_session *s, struct p9d_xattr *x)
{
    pthread_mutex_lock(&s->mutex);
    s->xattr_bytes -= x->size;
    pthread_mutex_unlock(&s->mutex);
    pthread_mutex_destroy(&x->mutex);
    free(x);
}

static ssize_t get(struct p9d_op *op, const char *name, void *buf, size_t size)
{
    struct p9d_fid *fid = op->fid;
    return *name ? pl_getxattr(fid->at->tree, op->call, fid->node, name, buf, size)
                 : pl_listxattr(fid->at->tree, op->call, fid->node, buf, size);
}

int p9d_xattrwalk(struct p9d_op *op)
{
    const char *name = op->in->name.len ? op->in->name.s : "";
    struct p9d_fid *fid = op->fid;
    if (p9d_xattr(fid))
        return -EBADF;
    char *value = malloc(LIMIT_XATTR_VALUE);
    if (!value)
        return -ENOMEM;
    ssize_t n = get(op, name, value, LIMIT_XATTR_VALUE);
    if (n < 0) {
        free(value);
        return n == -ERANGE ? -E2BIG : (int)n;
    }
    struct p9d_xattr *x = xattr_new(op->session, (size_t)n);
    if (x) {
        memcpy(x->value, value, (size_t)n);
        x->filled = (size_t)n;
        op->made = p9d_fid_new(op->session, fid->at, fid->node, NULL, NULL);
        if (op->made)
            atomic_store_explicit(&op->made->xattr, x, memory_order_release);
        else
            p9d_xattr_free(op->session, x);
    }
    free(value);
    op->out->size = (uint64_t)n;
    return op->made ? 0 : -ENOMEM;
}

int p9d_xattrcreate(struct p9d_op *op)
{
    struct p9d_fid *fid = op->fid;
    const struct p9_str *name = &op->in->name;
    if (p9d_xattr(fid))
        return -EBADF;
    if (p9d_file(fid) || (op->in->flags & ~(uint32_t)(XATTR_CREATE | XATTR_REPLACE)))
        return -EINVAL;
    if (name->len == 0)
        return -ERANGE;
    if (op->in->size > LIMIT_XATTR_VALUE)
        return -E2BIG;
    struct p9d_xattr *x = xattr_new(op->session, (size_t)op->in->size);
    if (!x)
        return -ENOMEM;
    x->write = true;
    x->flags = (int)op->in->flags;
    memcpy(x->name, name->s, name->len); /* LIMIT_NAME at most, and calloc put the NUL */
    atomic_store_explicit(&fid->xattr, x, memory_order_release);
    return 0;
}

ssize_t p9d_xattr_read(struct p9d_op *op, struct p9d_xattr *x)
{
    if (x->write)
        return -EBADF;
    uint64_t off = op->in->offset < x->size ? op->in->offset : x->size;
    uint64_t left = x->size - off;
    size_t n = p9d_payload(op, left < op->in->count ? (uint32_t)left : op->in->count);
    if (!op->out->data)
        return -ENOMEM;
    memcpy(op->out->data, x->value + off, n);
    return (ssize_t)n;
}

ssize_t p9d_xattr_write(struct p9d_op *op, struct p9d_xattr *x)
{
    ssize_t r = op->in->count;
    if (!x->write)
        return -EBADF;
    pthread_mutex_lock(&x->mutex);
    if (op->in->offset != x->filled) {
        r = -EINVAL;
    } else if (op->in->count > x->size - x->filled) {
        r = -ENOSPC;
    } else if (op->in->count) {
        memcpy(x->value + x->filled, op->in->data, op->in->count);
        x->filled += op->in->count;
    }
    pthread_mutex_unlock(&x->mutex);
    return r;
}

uint32_t p9d_xattr_there(struct p9d_op *op, struct p9d_fid *fid, const struct p9d_xattr *x)
{
    ssize_t n = pl_getxattr(fid->at->tree, op->call, fid->node, x->name, NULL, 0);
    return n >= 0 ? ONCE_THERE : n == -ENODATA ? ONCE_ABSENT : 0;
}

int p9d_xattr_commit(struct p9d_op *op, struct p9d_fid *fid, struct p9d_xattr *x)
{
    struct pl_tree *tree = fid->at->tree;
    pthread_mutex_lock(&x->mutex);
    bool whole = x->filled == x->size;
    pthread_mutex_unlock(&x->mutex);
    if (!whole)
        return -EINVAL;
    bool remove = x->size == 0 && x->flags == XATTR_REPLACE;
    if (op->slot && (remove || x->flags == XATTR_CREATE)) /* to do it again is not the same */
        atomic_store(&op->slot->xattr, p9d_xattr_there(op, fid, x));
    if (remove)
        return pl_removexattr(tree, op->call, fid->node, x->name);
    return pl_setxattr(tree, op->call, fid->node, x->name, x->value, x->size, x->flags);
}
