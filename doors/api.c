/* SPDX-License-Identifier: MIT */
/*
 * The door for calls from within a program (plenum/client.h): paths and positions over the gate.
 *
 * `lock` of a pl_fd guards its position, over the call that moves it. A name space has no lock of
 * its own: the space has.
 */
#include "base/futex.h"
#include <errno.h>
#include <fcntl.h>
#include <plenum/client.h>
#include <plenum/walk.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct pl_ns {
    struct pl_tree *tree;
    struct pl_node *root;
    _Atomic int64_t timeout;
};

struct pl_fd {
    struct pl_ns *ns;
    struct pl_file *file;
    struct pl_node *node; /* a reference */
    pthread_mutex_t lock;
    uint64_t pos;
};

static mode_t own_umask(void)
{
    mode_t mask = umask(077);
    umask(mask);
    return mask;
}

static void begin(struct pl_ns *ns, struct pl_call *call)
{
    int64_t timeout = atomic_load_explicit(&ns->timeout, memory_order_relaxed);
    pl_call_init_self(call);
    if (timeout)
        call->deadline = mono_now() + timeout;
}

/* ---- name spaces ---- */

int pl_ns_new(struct pl_tree *root, struct pl_ns **ret, struct pl_err *err)
{
    struct pl_binding b = {.path = "/", .tree = root, .sub = "/", .how = PL_BIND_CREATE};
    struct pl_ns *ns = calloc(1, sizeof(*ns));
    if (!ns)
        return pl_fail(err, -ENOMEM, "a name space: out of memory");
    int r = pl_space_new(&b, root ? 1 : 0, 0, &ns->tree, err);
    if (r == 0) {
        struct pl_call call;
        begin(ns, &call);
        r = pl_attach(ns->tree, &call, "", &ns->root, &(struct pl_attr){0});
        pl_call_done(&call);
        if (r < 0)
            pl_fail(err, r, "the root of the name space: %s", strerror(-r));
    }
    if (r < 0) {
        pl_ns_free(ns);
        return r;
    }
    *ret = ns;
    return 0;
}

void pl_ns_free(struct pl_ns *ns)
{
    if (!ns)
        return;
    pl_node_unref(ns->root);
    pl_tree_unref(ns->tree);
    free(ns);
}

int pl_ns_bind(struct pl_ns *ns, struct pl_tree *tree, const char *sub, const char *path,
               uint32_t how, struct pl_err *err)
{
    struct pl_binding b = {.path = path, .tree = tree, .sub = sub, .how = how};
    return pl_space_bind(ns->tree, &b, err);
}

int pl_ns_unbind(struct pl_ns *ns, const char *path, struct pl_err *err)
{
    return pl_space_unbind(ns->tree, path, NULL, err);
}

struct pl_tree *pl_ns_tree(struct pl_ns *ns)
{
    return ns->tree;
}

void pl_ns_timeout(struct pl_ns *ns, int64_t ns_each)
{
    atomic_store_explicit(&ns->timeout, ns_each, memory_order_relaxed);
}

/* ---- what paths stand for ---- */

static int find(struct pl_ns *ns, struct pl_call *call, const char *path, int flags,
                struct pl_node **ret, struct pl_attr *attr)
{
    return pl_walk(ns->tree, call, ns->root, NULL, path, flags, ret, attr);
}

static int stat_of(struct pl_ns *ns, const char *path, int flags, struct pl_attr *ret)
{
    struct pl_call call;
    struct pl_node *node;
    begin(ns, &call);
    int r = find(ns, &call, path, flags, &node, ret);
    if (r == 0)
        pl_node_unref(node);
    pl_call_done(&call);
    return r;
}

int pl_ns_stat(struct pl_ns *ns, const char *path, struct pl_attr *ret)
{
    return stat_of(ns, path, 0, ret);
}

int pl_ns_lstat(struct pl_ns *ns, const char *path, struct pl_attr *ret)
{
    return stat_of(ns, path, PL_WALK_NOFOLLOW, ret);
}

int pl_ns_readlink(struct pl_ns *ns, const char *path, char *buf, size_t size)
{
    char target[PL_PATH_MAX + 1];
    struct pl_call call;
    struct pl_node *node;
    begin(ns, &call);
    int r = find(ns, &call, path, PL_WALK_NOFOLLOW, &node, NULL);
    if (r == 0) {
        r = pl_readlink(ns->tree, &call, node, target, PL_PATH_MAX);
        pl_node_unref(node);
    }
    pl_call_done(&call);
    if (r < 0)
        return r;
    if ((size_t)r >= size)
        return -ERANGE;
    memcpy(buf, target, (size_t)r);
    buf[r] = 0;
    return r;
}

int pl_ns_set(struct pl_ns *ns, const char *path, const struct pl_setattr *set)
{
    struct pl_call call;
    struct pl_node *node;
    begin(ns, &call);
    int r = find(ns, &call, path, 0, &node, NULL);
    if (r == 0) {
        r = pl_setattr(ns->tree, &call, node, NULL, set, &(struct pl_attr){0});
        pl_node_unref(node);
    }
    pl_call_done(&call);
    return r;
}

/* ---- names ---- */

/* A call that concerns a name: the directory that it is in, and the name. */
struct place {
    struct pl_call call;
    struct pl_node *dir;
    char name[PL_NAME_MAX + 1];
    bool slash;
};

static int place_find(struct pl_ns *ns, struct place *p, const char *path)
{
    begin(ns, &p->call);
    p->dir = NULL;
    return pl_walk_parent(ns->tree, &p->call, ns->root, NULL, path, 0, &p->dir, p->name, &p->slash);
}

static int place_done(struct place *p, int r)
{
    pl_node_unref(p->dir);
    pl_call_done(&p->call);
    return r;
}

static int make(struct pl_ns *ns, const char *path, struct pl_make *m)
{
    struct place p;
    struct pl_node *node;
    int r = place_find(ns, &p, path);
    if (r == -EINVAL) /* "/", ".", "..": there already */
        r = -EEXIST;
    if (r == 0 && p.slash && !S_ISDIR(m->mode))
        r = -ENOENT;
    if (r == 0) {
        p.call.umask = own_umask();
        r = pl_make(ns->tree, &p.call, p.dir, p.name, m, &node, &(struct pl_attr){0});
    }
    if (r == 0)
        pl_node_unref(node);
    return place_done(&p, r);
}

int pl_ns_mkdir(struct pl_ns *ns, const char *path, mode_t mode)
{
    return make(ns, path, &(struct pl_make){.mode = S_IFDIR | (mode & 07777)});
}

int pl_ns_symlink(struct pl_ns *ns, const char *target, const char *path)
{
    size_t n = strlen(target);
    if (!n || n > PL_PATH_MAX)
        return n ? -ENAMETOOLONG : -ENOENT;
    return make(ns, path, &(struct pl_make){.mode = S_IFLNK | 0777, .target = target});
}

int pl_ns_remove(struct pl_ns *ns, const char *path)
{
    struct place p;
    int r = place_find(ns, &p, path);
    if (r == 0) {
        r = p.slash ? -EISDIR : pl_remove(ns->tree, &p.call, p.dir, p.name, 0);
        if (r == -EISDIR)
            r = pl_remove(ns->tree, &p.call, p.dir, p.name, AT_REMOVEDIR);
    }
    return place_done(&p, r);
}

int pl_ns_link(struct pl_ns *ns, const char *old, const char *path)
{
    struct place p;
    struct pl_node *node;
    int r = place_find(ns, &p, path);
    if (r == -EINVAL)
        r = -EEXIST;
    if (r == 0 && p.slash)
        r = -ENOENT;
    if (r == 0)
        r = find(ns, &p.call, old, PL_WALK_NOFOLLOW, &node, NULL);
    if (r == 0) {
        r = S_ISDIR(node->fmt)
                ? -EPERM
                : pl_link(ns->tree, &p.call, node, p.dir, p.name, &(struct pl_attr){0});
        pl_node_unref(node);
    }
    return place_done(&p, r);
}

int pl_ns_rename(struct pl_ns *ns, const char *old, const char *path)
{
    struct place from, to;
    struct pl_node *node;
    int r = place_find(ns, &from, old), r2 = place_find(ns, &to, path);
    r = r ? r : r2;
    if (r == -EINVAL)
        r = -EBUSY;
    if (r == 0 && (from.slash || to.slash)) {
        r = pl_lookup(ns->tree, &from.call, from.dir, from.name, &node, &(struct pl_attr){0});
        if (r == 0) {
            r = S_ISDIR(node->fmt) ? 0 : -ENOTDIR;
            pl_node_unref(node);
        }
    }
    if (r == 0)
        r = pl_rename(ns->tree, &from.call, from.dir, from.name, to.dir, to.name, 0);
    return place_done(&to, place_done(&from, r));
}

/* ---- opening ---- */

#define OPEN_FLAGS                                                                                 \
    (O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC | O_APPEND | O_DIRECTORY | O_NOFOLLOW | O_SYNC |       \
     O_DSYNC | OPEN_OURS)
#define OPEN_OURS (O_CLOEXEC | O_LARGEFILE) /* of a descriptor, not of a file */

static int openable(struct pl_node *node, int flags)
{
    bool dir = S_ISDIR(node->fmt);
    if (S_ISLNK(node->fmt))
        return -ELOOP;
    if (!dir && (flags & O_DIRECTORY))
        return -ENOTDIR;
    if (dir && ((flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT)))
        return -EISDIR;
    return dir || S_ISREG(node->fmt) ? 0 : -ENXIO;
}

static int open_there(struct pl_ns *ns, struct pl_call *call, const char *path, int flags,
                      struct pl_fd *fd)
{
    struct pl_node *node;
    int r = find(ns, call, path, flags & O_NOFOLLOW ? PL_WALK_NOFOLLOW : 0, &node, NULL);
    if (r < 0)
        return r;
    int how = flags & ~(O_CREAT | O_EXCL | O_NOFOLLOW | O_DIRECTORY | OPEN_OURS);
    r = openable(node, flags);
    if (r == 0)
        r = pl_open(ns->tree, call, node, S_ISDIR(node->fmt) ? how | O_DIRECTORY : how, &fd->file);
    if (r < 0)
        pl_node_unref(node);
    else
        fd->node = node;
    return r;
}

/* The directory and the name where the file is to be made: of a symlink to nothing its target's, as
 * in the kernel, unless O_EXCL or O_NOFOLLOW forbid it. */
static int place_new(struct pl_ns *ns, struct pl_call *call, const char *path, int flags,
                     struct pl_node **ret, char name[PL_NAME_MAX + 1])
{
    char target[PL_PATH_MAX + 1];
    struct pl_node *from = NULL, *dir, *link;
    bool slash;
    int r;
    for (int links = 0;; links++) {
        r = pl_walk_parent(ns->tree, call, ns->root, from, path, 0, &dir, name, &slash);
        pl_node_unref(from);
        if (r < 0)
            return r == -EINVAL ? -EISDIR : r;
        from = dir;
        r = slash ? -EISDIR : 0;
        if (r < 0 || (flags & O_EXCL) ||
            pl_lookup(ns->tree, call, dir, name, &link, &(struct pl_attr){0}) < 0)
            break; /* making it tells what is wrong */
        if (S_ISLNK(link->fmt))
            r = (flags & O_NOFOLLOW) || links == 40
                    ? -ELOOP
                    : pl_readlink(ns->tree, call, link, target, PL_PATH_MAX);
        bool follow = S_ISLNK(link->fmt);
        pl_node_unref(link);
        if (r < 0 || !follow)
            break;
        target[r] = 0;
        path = target;
    }
    if (r < 0)
        pl_node_unref(dir);
    else
        *ret = dir;
    return r;
}

static int open_new(struct pl_ns *ns, struct pl_call *call, const char *path, int flags,
                    mode_t mode, struct pl_fd *fd)
{
    char name[PL_NAME_MAX + 1];
    struct pl_node *dir;
    int r = place_new(ns, call, path, flags, &dir, name);
    if (r < 0)
        return r;
    r = pl_create(ns->tree, call, dir, name, flags & ~(O_CREAT | O_NOFOLLOW | OPEN_OURS),
                  mode & 07777, &fd->node, &(struct pl_attr){0}, &fd->file);
    pl_node_unref(dir);
    return r;
}

int pl_ns_open(struct pl_ns *ns, const char *path, int flags, mode_t mode, struct pl_fd **ret)
{
    struct pl_call call;
    if ((flags & ~OPEN_FLAGS) || (flags & O_ACCMODE) == O_ACCMODE ||
        ((flags & O_CREAT) && (flags & O_DIRECTORY)))
        return -EINVAL;
    struct pl_fd *fd = calloc(1, sizeof(*fd));
    if (!fd)
        return -ENOMEM;
    pthread_mutex_init(&fd->lock, NULL);
    fd->ns = ns;
    begin(ns, &call);
    int r = -ENOENT;
    if (!((flags & O_CREAT) && (flags & O_EXCL)))
        r = open_there(ns, &call, path, flags, fd);
    if (r == -ENOENT && (flags & O_CREAT) && *path) {
        call.umask = own_umask();
        r = open_new(ns, &call, path, flags, mode, fd);
    }
    pl_call_done(&call);
    if (r < 0) {
        pthread_mutex_destroy(&fd->lock);
        free(fd);
        return r;
    }
    *ret = fd;
    return 0;
}

int pl_fd_close(struct pl_fd *fd)
{
    struct pl_call call;
    if (!fd)
        return 0;
    begin(fd->ns, &call);
    int r = pl_flush(fd->ns->tree, &call, fd->file, (uintptr_t)fd);
    pl_close(fd->ns->tree, &call, fd->file);
    pl_call_done(&call);
    pl_node_unref(fd->node);
    pthread_mutex_destroy(&fd->lock);
    free(fd);
    return r;
}

/* ---- bytes ---- */

static bool may(struct pl_fd *fd, int mode)
{
    int access = (int)fd->file->flags & O_ACCMODE;
    return access == O_RDWR || access == mode;
}

ssize_t pl_fd_pread(struct pl_fd *fd, void *buf, size_t n, uint64_t off)
{
    struct pl_call call;
    if (!may(fd, O_RDONLY))
        return -EBADF;
    if (S_ISDIR(fd->node->fmt))
        return -EISDIR;
    begin(fd->ns, &call);
    ssize_t r = pl_read(fd->ns->tree, &call, fd->file, buf, n, off);
    pl_call_done(&call);
    return r;
}

ssize_t pl_fd_pwrite(struct pl_fd *fd, const void *buf, size_t n, uint64_t off)
{
    struct pl_call call;
    size_t done = 0;
    ssize_t r = 0;
    if (!may(fd, O_WRONLY))
        return -EBADF;
    begin(fd->ns, &call);
    do {
        r = pl_write(fd->ns->tree, &call, fd->file, (const char *)buf + done, n - done, off + done);
        done += r > 0 ? (size_t)r : 0;
    } while (r > 0 && done < n);
    pl_call_done(&call);
    return done ? (ssize_t)done : r;
}

ssize_t pl_fd_read(struct pl_fd *fd, void *buf, size_t n)
{
    pthread_mutex_lock(&fd->lock);
    ssize_t r = pl_fd_pread(fd, buf, n, fd->pos);
    fd->pos += r > 0 ? (uint64_t)r : 0;
    pthread_mutex_unlock(&fd->lock);
    return r;
}

ssize_t pl_fd_write(struct pl_fd *fd, const void *buf, size_t n)
{
    struct pl_attr attr;
    pthread_mutex_lock(&fd->lock);
    ssize_t r = pl_fd_pwrite(fd, buf, n, fd->pos);
    if (r > 0 && (fd->file->flags & O_APPEND))
        fd->pos = pl_fd_stat(fd, &attr) == 0 ? attr.size : fd->pos + (uint64_t)r;
    else if (r > 0)
        fd->pos += (uint64_t)r;
    pthread_mutex_unlock(&fd->lock);
    return r;
}

static int64_t seek_to(struct pl_fd *fd, struct pl_call *call, int64_t off, int whence)
{
    struct pl_attr attr;
    int64_t from = whence == SEEK_CUR ? (int64_t)fd->pos : 0, to;
    if (whence == SEEK_DATA || whence == SEEK_HOLE)
        return off < 0 ? -ENXIO : pl_seek(fd->ns->tree, call, fd->file, (uint64_t)off, whence);
    if (whence != SEEK_SET && whence != SEEK_CUR && whence != SEEK_END)
        return -EINVAL;
    if (whence == SEEK_END) {
        int r = pl_getattr(fd->ns->tree, call, fd->node, fd->file, &attr);
        if (r < 0)
            return r;
        from = (int64_t)attr.size;
    }
    if (__builtin_add_overflow(from, off, &to))
        return -EOVERFLOW;
    return to < 0 ? -EINVAL : to;
}

int64_t pl_fd_seek(struct pl_fd *fd, int64_t off, int whence)
{
    struct pl_call call;
    begin(fd->ns, &call);
    pthread_mutex_lock(&fd->lock);
    int64_t r = seek_to(fd, &call, off, whence);
    if (r >= 0)
        fd->pos = (uint64_t)r;
    pthread_mutex_unlock(&fd->lock);
    pl_call_done(&call);
    return r;
}

/* ---- open files: the rest ---- */

int pl_fd_stat(struct pl_fd *fd, struct pl_attr *ret)
{
    struct pl_call call;
    begin(fd->ns, &call);
    int r = pl_getattr(fd->ns->tree, &call, fd->node, fd->file, ret);
    pl_call_done(&call);
    return r;
}

int pl_fd_set(struct pl_fd *fd, const struct pl_setattr *set)
{
    struct pl_call call;
    if ((set->valid & PL_SET_SIZE) && !may(fd, O_WRONLY))
        return -EINVAL; /* ftruncate(2) */
    begin(fd->ns, &call);
    int r = pl_setattr(fd->ns->tree, &call, fd->node, fd->file, set, &(struct pl_attr){0});
    pl_call_done(&call);
    return r;
}

int pl_fd_sync(struct pl_fd *fd)
{
    struct pl_call call;
    begin(fd->ns, &call);
    int r = pl_fsync(fd->ns->tree, &call, fd->file, false);
    pl_call_done(&call);
    return r;
}

struct listing {
    int (*each)(void *, const struct pl_dirent *);
    void *arg;
    uint64_t next;
    size_t taken;
    int result;
};

static int list_fill(void *arg, const struct pl_dirent *ent)
{
    struct listing *l = arg;
    if (l->result)
        return 1;
    l->next = ent->next;
    l->taken++;
    if (strcmp(ent->name, ".") && strcmp(ent->name, ".."))
        l->result = l->each(l->arg, ent);
    return 0;
}

int pl_fd_list(struct pl_fd *fd, int (*each)(void *arg, const struct pl_dirent *), void *arg)
{
    struct pl_call call;
    struct listing l = {.each = each, .arg = arg};
    int r;
    if (!S_ISDIR(fd->node->fmt))
        return -ENOTDIR;
    begin(fd->ns, &call);
    do {
        l.taken = 0;
        r = pl_readdir(fd->ns->tree, &call, fd->file, l.next, list_fill, &l);
    } while (r == 0 && l.taken && !l.result);
    pl_call_done(&call);
    return l.result ? l.result : r;
}

int pl_ns_list(struct pl_ns *ns, const char *path, int (*each)(void *arg, const struct pl_dirent *),
               void *arg)
{
    struct pl_fd *fd;
    int r = pl_ns_open(ns, path, O_RDONLY | O_DIRECTORY, 0, &fd);
    if (r < 0)
        return r;
    r = pl_fd_list(fd, each, arg);
    pl_fd_close(fd);
    return r;
}
