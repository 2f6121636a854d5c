/* SPDX-License-Identifier: MIT */
/* The FUSE door's extended attributes, locks, ioctl and poll. */
#include "doors/fuse_door.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

/* ---- extended attributes --------------------------------------------------------------------- */

static bool no_xattrs(const struct fuse_req *r)
{
    return !(r->s->tree->flags & PL_TREE_XATTR);
}

/* A value or a list of names that was put into the request's buffer, or its length. */
static int reply_xattr(struct fuse_req *r, ssize_t n)
{
    if (n < 0)
        return (int)n;
    struct fuse_getxattr_out out = {(uint32_t)n, 0};
    if (r->m.a.getxattr.size == 0)
        fuse_reply(r, &out, sizeof(out));
    else
        fuse_reply(r, r->buf, (size_t)n);
    return 0;
}

int fuse_op_getxattr(struct fuse_req *r)
{
    uint32_t size = r->m.a.getxattr.size;
    if (no_xattrs(r))
        return FUSE_NEVER;
    if (size > r->bufsize)
        return -EINVAL;
    r->buf_used = true;
    return reply_xattr(
        r, pl_getxattr(r->s->tree, &r->call, r->node, r->m.name, size ? r->buf : NULL, size));
}

int fuse_op_listxattr(struct fuse_req *r)
{
    uint32_t size = r->m.a.getxattr.size;
    if (no_xattrs(r))
        return FUSE_NEVER;
    if (size > r->bufsize)
        return -EINVAL;
    r->buf_used = true;
    return reply_xattr(r, pl_listxattr(r->s->tree, &r->call, r->node, size ? r->buf : NULL, size));
}

/* Whether there is such an attribute decides what the op makes of it: noted beforehand, it tells a
 * successor what was done. */
static void note_xattr(struct fuse_req *r)
{
    struct pl_call call;
    if (!r->journal || atomic_load(&r->slot->xattr))
        return;
    pl_call_init_self(&call);
    bool there = pl_getxattr(r->s->tree, &call, r->node, r->m.name, NULL, 0) >= 0;
    pl_call_done(&call);
    atomic_store(&r->slot->xattr, there ? LEDGER_THERE : LEDGER_ABSENT);
}

int fuse_op_setxattr(struct fuse_req *r)
{
    const struct fuse_setxattr_in *in = &r->m.a.setxattr;
    if (no_xattrs(r))
        return FUSE_NEVER;
    if (in->flags & XATTR_CREATE)
        note_xattr(r);
    int error =
        pl_setxattr(r->s->tree, &r->call, r->node, r->m.name, r->m.data, r->m.size, (int)in->flags);
    /* The kernel asks for it with a default ACL too, which does not touch the mode. */
    if (error == 0 && (in->setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID) &&
        !strcmp(r->m.name, "system.posix_acl_access"))
        fuse_kill_priv(r, NULL, true);
    return fuse_done(r, error);
}

int fuse_op_removexattr(struct fuse_req *r)
{
    if (no_xattrs(r))
        return FUSE_NEVER;
    note_xattr(r);
    if (strcmp(r->m.name, "security.capability") != 0)
        return fuse_done(r, pl_removexattr(r->s->tree, &r->call, r->node, r->m.name));
    /* The kernel takes them away whoever writes to the file, and lets none but the privileged ask
     * for it: so it is not in the caller's name. */
    struct pl_call call;
    pl_call_init(&call, 0, 0);
    int error = pl_removexattr(r->s->tree, &call, r->node, r->m.name);
    pl_call_done(&call);
    return fuse_done(r, error);
}

/* ---- locks ----------------------------------------------------------------------------------- */

/* The owner of a whole-file lock is the open file. The kernel's own name for it is an address,
 * which the next open file may have before the release of this one, which nobody waits for, has
 * run. */
static struct pl_lock map_lock(const struct fuse_lk_in *in)
{
    bool flock = in->lk_flags & FUSE_LK_FLOCK;
    return (struct pl_lock){
        .type = (int)in->lk.type,
        .flock = flock,
        .owner = flock ? in->fh : in->owner,
        .start = in->lk.start,
        .end = in->lk.end < INT64_MAX ? in->lk.end : INT64_MAX,
        .pid = in->lk.pid,
    };
}

int fuse_op_getlk(struct fuse_req *r)
{
    struct pl_file *file = fuse_req_file(r, r->m.a.lk.fh);
    struct pl_lock lock = map_lock(&r->m.a.lk);
    if (!file)
        return -EBADF;
    int error = pl_getlock(r->s->tree, &r->call, file, &lock);
    if (error < 0)
        return error;
    struct fuse_lk_out out = {{lock.start, lock.end, (uint32_t)lock.type, lock.pid}};
    fuse_reply(r, &out, sizeof(out));
    return 0;
}

int fuse_op_setlk(struct fuse_req *r)
{
    struct fuse_file *f = fuse_files_get(r->s->files, r->m.a.lk.fh);
    struct pl_lock lock = map_lock(&r->m.a.lk);
    if (!f)
        return -EBADF;
    f->locked = true;
    if (!lock.flock && lock.type != F_UNLCK)
        fuse_nodes_lock(r->s->nodes, r->m.h.nodeid);
    /* Rather a refusal than that nobody is left to take the unlock. */
    lock.wait = r->m.h.opcode == FUSE_SETLKW && !r->crowded;
    /* Once it is unlocked another may have it: a successor must not set it again then. */
    if (lock.type == F_UNLCK)
        fuse_locks_set(r->s, r->m.h.nodeid, r->m.a.lk.fh, &lock);
    int error = pl_lock(r->s->tree, &r->call, f->file, &lock);
    if (error == 0 && lock.type != F_UNLCK)
        fuse_locks_set(r->s, r->m.h.nodeid, r->m.a.lk.fh, &lock);
    if (error == -EAGAIN && r->m.h.opcode == FUSE_SETLKW)
        error = -ENOLCK;
    /* Who takes a lock must not be shown what was cached before it: the kernel asks for the
     * attributes anew, and what it has of a file that changed meanwhile goes. */
    if (error == 0 && lock.type != F_UNLCK && !(r->s->tree->flags & PL_TREE_PRIVATE))
        fuse_told_attr(r->s, r->m.h.nodeid);
    return fuse_done(r, error);
}

/* ---- ioctl ----------------------------------------------------------------------------------- */

int fuse_op_ioctl(struct fuse_req *r)
{
    const struct fuse_ioctl_in *in = &r->m.a.ioctl;
    struct pl_file *file = fuse_req_file(r, in->fh);
    if (!file)
        return -EBADF;
    /* Unrestricted ones, which carry addresses, are for character devices only. */
    if (in->flags & FUSE_IOCTL_UNRESTRICTED)
        return -ENOTTY;
    if (r->m.size > r->bufsize || in->out_size > r->bufsize)
        return -EINVAL;
    r->buf_used = true;
    memmove(r->buf, r->m.data, r->m.size); /* a large request is in the same buffer */
    if (in->out_size > r->m.size)
        memset(r->buf + r->m.size, 0, in->out_size - r->m.size);
    int result = pl_ioctl(r->s->tree, &r->call, file, in->cmd, r->buf, r->m.size, in->out_size);
    if (result < 0)
        return result;
    if (r->m.size) /* what was handed in may have been set, as chattr(1) does */
        fuse_told_attr(r->s, r->m.h.nodeid);
    struct fuse_ioctl_out out = {.result = result};
    fuse_reply2(r, &out, sizeof(out), r->buf, in->out_size);
    return 0;
}

/* ---- poll ------------------------------------------------------------------------------------ */

/* The kernel waits for an open file; it is told once for each time that it asked. */
struct fuse_poll {
    struct pl_poller poller; /* first */
    struct fuse_sess *s;
    _Atomic uint64_t kh; /* the kernel's name for the file */
    atomic_bool armed;
};

static void ready(struct pl_poller *poller)
{
    struct fuse_poll *p = (struct fuse_poll *)poller;
    if (!atomic_exchange(&p->armed, false))
        return;
    struct fuse_notify_poll_out out = {atomic_load(&p->kh)};
    struct fuse_out_header h = {sizeof(h) + sizeof(out), FUSE_NOTIFY_POLL, 0};
    struct iovec iov[2] = {{&h, sizeof(h)}, {&out, sizeof(out)}};
    p->s->notify(p->s, iov, 2);
}

/* The file's poll, made on first use; NULL when out of memory. */
static struct fuse_poll *poll_of(struct fuse_sess *s, struct fuse_file *f)
{
    pthread_mutex_lock(&s->poll_lock);
    struct fuse_poll *p = f->poll;
    if (!p && (p = calloc(1, sizeof(*p)))) {
        p->poller.ready = ready;
        p->s = s;
        f->poll = p;
    }
    pthread_mutex_unlock(&s->poll_lock);
    return p;
}

void fuse_poll_free(struct fuse_poll *poll)
{
    free(poll);
}

int fuse_op_poll(struct fuse_req *r)
{
    const struct fuse_poll_in *in = &r->m.a.poll;
    struct fuse_poll *p = NULL;
    if (!pl_tree_has(r->s->tree, PL_OP_poll))
        return FUSE_NEVER;
    struct fuse_file *f = fuse_files_get(r->s->files, in->fh);
    if (!f)
        return -EBADF;
    if (in->flags & FUSE_POLL_SCHEDULE_NOTIFY) {
        p = poll_of(r->s, f);
        if (!p)
            return -ENOMEM;
        atomic_store(&p->kh, in->kh);
        fuse_files_polled(r->s->files, in->fh, in->kh);
        atomic_store(&p->armed, true);
    }
    /* Each time anew, so that when this returns the tree has the poller, whoever came first. */
    int events = pl_poll(r->s->tree, &r->call, f->file, p ? &p->poller : NULL);
    if (events < 0)
        return events;
    struct fuse_poll_out out = {(uint32_t)events, 0};
    fuse_reply(r, &out, sizeof(out));
    return 0;
}
