/* SPDX-License-Identifier: MIT */
/* Open files: opening, bytes, and the end. */
#include "doors/p9_door.h"
#include "doors/p9_once.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Flags that mean something at the far end of a wire. Creating is said by the message; O_DIRECT
 * speaks of the client's memory, which is not here. */
int p9d_open_flags(uint32_t wire)
{
    static const struct {
        uint32_t wire;
        int here;
    } map[] = {{P9_EXCL, O_EXCL},         {P9_TRUNC, O_TRUNC},         {P9_APPEND, O_APPEND},
               {P9_NONBLOCK, O_NONBLOCK}, {P9_DSYNC, O_DSYNC},         {P9_SYNC, O_SYNC},
               {P9_NOATIME, O_NOATIME},   {P9_DIRECTORY, O_DIRECTORY}, {P9_NOFOLLOW, O_NOFOLLOW}};
    int flags = (int)(wire & O_ACCMODE);
    for (size_t i = 0; i < sizeof(map) / sizeof(*map); i++)
        if (wire & map[i].wire)
            flags |= map[i].here;
    return flags;
}

static bool good_mode(uint32_t wire)
{
    return (wire & O_ACCMODE) != O_ACCMODE;
}

/* The answer to what opened a file. One of us is told in the qid's type what it cannot see in the
 * attributes. */
static void say_open(struct p9d_op *op, const struct pl_attr *attr, const struct pl_file *file)
{
    op->out->qid = p9d_qid(attr);
    op->out->iounit = 0;
    if (p9d_own(op))
        op->out->qid.type |= (file->direct ? P9_QTDIRECT : 0) | (file->stream ? P9_QTSTREAM : 0);
}

int p9d_lopen(struct p9d_op *op)
{
    return p9d_open_fid(op, op->call, op->in->flags);
}

int p9d_open_fid(struct p9d_op *op, struct pl_call *call, uint32_t flags)
{
    struct p9d_fid *fid = op->fid;
    struct pl_tree *tree = fid->at->tree;
    struct pl_file *file;
    struct pl_attr attr;
    if (p9d_xattr(fid))
        return -EBADF;
    if (p9d_file(fid) || !good_mode(flags))
        return -EINVAL;
    if (!S_ISREG(fid->node->fmt) && !S_ISDIR(fid->node->fmt))
        return S_ISLNK(fid->node->fmt) ? -ELOOP
                                       : -ENXIO; /* devices and the like open at the client */
    int r = pl_open(tree, call, fid->node, p9d_open_flags(flags), &file);
    if (r < 0)
        return r;
    r = pl_getattr(tree, call, fid->node, file, &attr);
    if (r < 0) {
        pl_close(tree, call, file);
        return r;
    }
    say_open(op, &attr, file);
    atomic_store_explicit(&fid->file, file, memory_order_release);
    return 0;
}

int p9d_made_open(struct p9d_op *op, struct pl_node *node, struct pl_node *parent, const char *name,
                  struct pl_file *file, const struct pl_attr *attr)
{
    struct p9d_attach *at = op->fid->at;
    op->made = p9d_fid_new(op->session, at, node, parent, name);
    pl_node_unref(node);
    if (!op->made) {
        pl_close(at->tree, op->call, file);
        return -ENOMEM;
    }
    atomic_store_explicit(&op->made->file, file, memory_order_release);
    say_open(op, attr, file);
    return 0;
}

int p9d_lcreate(struct p9d_op *op)
{
    const char *name = op->in->name.len ? op->in->name.s : "";
    struct p9d_fid *dir = op->fid;
    struct pl_node *node;
    struct pl_file *file;
    struct pl_attr attr;
    int r = p9d_dir_ok(dir);
    if (r == 0)
        r = p9d_name_ok(name);
    if (r == 0 && (p9d_file(dir) || !good_mode(op->in->flags)))
        r = -EINVAL;
    if (r < 0)
        return r;
    p9d_act_to_create(op);
    r = pl_create(dir->at->tree, op->call, dir->node, name,
                  p9d_open_flags(op->in->flags & ~(uint32_t)P9_DIRECTORY), op->in->mode & 07777,
                  &node, &attr, &file);
    return r < 0 ? r : p9d_made_open(op, node, dir->node, name, file, &attr);
}

int p9d_tmpfile(struct p9d_op *op)
{
    struct p9d_fid *dir = op->fid;
    struct pl_node *node;
    struct pl_file *file;
    struct pl_attr attr;
    int r = p9d_dir_ok(dir);
    if (r == 0 && !good_mode(op->in->flags))
        r = -EINVAL;
    if (r < 0)
        return r;
    p9d_act_to_create(op);
    r = pl_tmpfile(dir->at->tree, op->call, dir->node, p9d_open_flags(op->in->flags),
                   op->in->mode & 07777, &node, &attr, &file);
    return r < 0 ? r : p9d_made_open(op, node, NULL, NULL, file, &attr);
}

/* ---- bytes ---- */

/* Where `open` gave a descriptor what is read comes through it, without the tree. (What is written
 * does not: who writes decides whether the file stays set-uid, and the tree acts as that one.) */
static int direct_fd(struct p9d_op *op, struct pl_file *file)
{
    if ((file->flags & O_ACCMODE) == O_WRONLY || op->in->offset > PL_OFF_MAX - LIMIT_MSIZE_MAX)
        return -1; /* the gate has the right error */
    return pl_file_fd(op->fid->at->tree, file);
}

int p9d_read(struct p9d_op *op)
{
    struct p9d_fid *fid = op->fid;
    struct p9d_xattr *x = p9d_xattr(fid);
    struct pl_file *file = p9d_file(fid);
    ssize_t n;
    if (x) {
        n = p9d_xattr_read(op, x);
    } else if (!file) {
        return -EBADF;
    } else if (S_ISDIR(fid->node->fmt)) {
        return p9d_dialect(op) == P9_L ? -EISDIR : p9d_read_stats(op);
    } else {
        size_t want = p9d_payload(op, op->in->count);
        if (!op->out->data)
            return -ENOMEM;
        int fd = direct_fd(op, file);
        if (fd >= 0 && (n = pread(fd, op->out->data, want, (off_t)op->in->offset)) < 0)
            n = -errno;
        else if (fd < 0)
            n = pl_read(fid->at->tree, op->call, file, op->out->data, want, op->in->offset);
    }
    if (n < 0)
        return (int)n;
    op->out->count = (uint32_t)n;
    return 0;
}

/* Who has a descriptor can do more with it than read and write, with rights of its own, and no
 * layer sees it. */
static bool may_borrow(const struct p9d_op *op)
{
    const struct p9d_attach *at = op->fid->at;
    for (const struct pl_tree *t = at->tree; t; t = t->lower)
        if (t->ops->before || t->ops->after)
            return false;
    return !at->map && at->uid == op->session->peer;
}

int p9d_lend(struct p9d_op *op)
{
    struct pl_file *file = p9d_file(op->fid);
    if (!file || p9d_xattr(op->fid))
        return -EBADF;
    if (!may_borrow(op))
        return -EPERM;
    int fd = pl_file_fd(op->fid->at->tree, file);
    if (fd < 0 || (fcntl(fd, F_GETFL) & O_ACCMODE) != (int)(file->flags & O_ACCMODE))
        return -EPERM;
    return p9_req_lend(op->req, fd);
}

int p9d_write(struct p9d_op *op)
{
    struct p9d_fid *fid = op->fid;
    struct p9d_xattr *x = p9d_xattr(fid);
    struct pl_file *file = p9d_file(fid);
    ssize_t n;
    if (x) {
        n = p9d_xattr_write(op, x);
    } else if (!file) {
        return -EBADF;
    } else {
        n = pl_write(fid->at->tree, op->call, file, op->in->data, op->in->count, op->in->offset);
    }
    if (n < 0)
        return (int)n;
    op->out->count = (uint32_t)n;
    return 0;
}

/* To the end of a file that is open for appending: one at a time, of those who want to know what
 * became of it, so that what one notes of the end still holds when it writes. Through the tree,
 * which notes it. */
int p9d_write2(struct p9d_op *op)
{
    struct p9d_fid *fid = op->fid;
    struct pl_file *file = p9d_file(fid);
    if (p9d_xattr(fid) || !file)
        return -EBADF;
    pthread_mutex_t *lock = once_append_lock(op->session->door->once, fid->node);
    pthread_mutex_lock(lock);
    ssize_t n =
        pl_write(fid->at->tree, op->call, file, op->in->data, op->in->count, op->in->offset);
    pthread_mutex_unlock(lock);
    if (n < 0)
        return (int)n;
    op->out->count = (uint32_t)n;
    return 0;
}

int p9d_fsync(struct p9d_op *op)
{
    struct pl_file *file = p9d_file(op->fid);
    if (!file || p9d_xattr(op->fid))
        return -EBADF;
    return pl_fsync(op->fid->at->tree, op->call, file, op->in->datasync != 0);
}

/* The fid is out of the table already; what is in flight may still be using it. A plain client says
 * close(2) by this alone, so what must be heard of a written file is said here. */
int p9d_clunk(struct p9d_op *op)
{
    struct p9d_fid *fid = op->fid;
    struct p9d_xattr *x = p9d_xattr(fid);
    struct pl_file *file = p9d_file(fid);
    if (x && x->write)
        return p9d_xattr_commit(op, fid, x);
    if (!file || !S_ISREG(fid->node->fmt) || (file->flags & O_ACCMODE) == O_RDONLY)
        return 0;
    return pl_flush(fid->at->tree, op->call, file,
                    p9d_lock_owner(op->session, &fid, sizeof(fid), 0));
}
