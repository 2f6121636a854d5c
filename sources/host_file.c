/* SPDX-License-Identifier: MIT */
/*
 * Open files. A file is opened through the O_PATH descriptor of its node, so that the kernel judges
 * the caller's permission and no name is resolved again. What only moves bytes through a descriptor
 * that was opened so needs no credentials; what writes does, for set-user-ID bits and quotas.
 */
#include "base/cred.h"
#include "sources/host.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What a caller may ask of open; the rest is ours to decide. */
#define OPEN_TAKES                                                                                 \
    (O_ACCMODE | O_APPEND | O_TRUNC | O_DIRECT | O_SYNC | O_DSYNC | O_NOATIME | O_NONBLOCK |       \
     O_DIRECTORY)
#define OPEN_ADDS (O_CLOEXEC | O_NOCTTY)

/* Takes over `fd`, also when it fails. */
static int new_file(struct host *h, struct host_node *n, int fd, struct pl_file **ret)
{
    struct host_file *f = calloc(1, sizeof(*f));
    if (f)
        f->fd = f->f.kept = fd;
    if (!f || (S_ISDIR(n->h.node.fmt) && host_dir_new(f) < 0)) {
        free(f);
        close(fd);
        return -ENOMEM;
    }
    f->f.fd = S_ISREG(n->h.node.fmt) && n->mount->lends ? fd : -1;
    host_file_add(h, n, f);
    *ret = &f->f;
    return 0;
}

/* The kernel opens a program to run it with this flag (FMODE_EXEC), and a FUSE client passes it on:
 * then the right to execute is enough to read. */
#define OPEN_EXEC 0x20

/* Opens the object that `path` has open, as the caller; a descriptor or a negative errno. */
static int open_as(struct host *h, struct pl_call *call, int path, int flags)
{
    struct host_proc p = host_proc(path);
    int how = (flags & OPEN_TAKES) | OPEN_ADDS;
    int r = host_act(h, call);
    if (r < 0)
        return r;
    int fd = open(p.path, how);
    if (fd < 0 && errno == EMFILE) {
        host_fds_drop(h);
        fd = open(p.path, how);
    }
    if (fd >= 0 || errno != EACCES || (flags & (O_ACCMODE | O_TRUNC | OPEN_EXEC)) != OPEN_EXEC)
        return fd < 0 ? -errno : fd;
    if (syscall(SYS_faccessat2, path, "", X_OK, AT_EACCESS | AT_EMPTY_PATH) < 0)
        return -EACCES;
    cred_reset();
    fd = open(p.path, how);
    return fd < 0 ? -errno : fd;
}

/* What a door has been asked for by somebody who has it open already (call->own): he may go on
 * whatever its mode has become, as he can where he has made it read-only. Root may open it anew;
 * its owner gives himself the right for a moment. */
static int open_again(struct host *h, struct pl_call *call, int path, int flags)
{
    int acc = flags & O_ACCMODE;
    uint32_t need = (acc != O_WRONLY ? S_IRUSR : 0u) | (acc != O_RDONLY ? S_IWUSR : 0u);
    mode_t was;
    pthread_mutex_lock(&h->modes);
    int fd = open_as(h, call, path, flags); /* it may have been such a moment */
    if (fd == -EACCES && host_grant(h, path, need, &was)) {
        fd = open_as(h, call, path, flags);
        host_restore(h, path, was);
    }
    pthread_mutex_unlock(&h->modes);
    return fd;
}

/* For root, who may use file handles, opens the object by its own: that takes half as long, and no
 * other descriptor. A negative errno where that does not do. */
static int open_handle(struct host *h, struct pl_call *call, struct host_node *n, int flags)
{
    if (!h->acts || call->cred.uid != 0 || !n->handle_len || n->mount->fd < 0)
        return -EOPNOTSUPP;
    int r = host_act(h, call);
    if (r == 0)
        r = host_open_handle(n->mount, n->handle_type, n->handle, n->handle_len,
                             (flags & OPEN_TAKES) | O_NOCTTY);
    host_end();
    return r;
}

/* What a successor may conclude of an open that truncates: nothing was noted, or the file still has
 * this size: it was not done. */
static void note_truncate(struct pl_tree *tree, struct pl_call *call, struct pl_node *node)
{
    struct pl_attr attr;
    if (call->intent && host_getattr(tree, call, node, NULL, &attr) == 0)
        atomic_store(&call->intent->size1, attr.size + 1);
}

int host_open(HOST_T, struct pl_node *node, int flags, struct pl_file **ret)
{
    struct host *h = host_of(tree);
    struct host_node *n = node_of(node);
    if (!S_ISREG(node->fmt) && !S_ISDIR(node->fmt))
        return -ENXIO; /* FIFOs, sockets and devices are the client's to interpret */
    if (flags & O_TRUNC)
        note_truncate(tree, call, node);
    int direct = open_handle(h, call, n, flags);
    if (direct >= 0)
        return new_file(h, n, direct, ret);
    int path = host_fd(h, n);
    if (path < 0)
        return path;
    int fd = open_as(h, call, path, flags);
    if (fd == -EACCES && call->own && !h->acts)
        fd = open_again(h, call, path, flags);
    host_end();
    host_fd_done(h, n);
    return fd < 0 ? fd : new_file(h, n, fd, ret);
}

/* The file that a predecessor had open, and lost: again, as whoever we are. */
static int reopen(struct host *h, struct host_node *n, int flags)
{
    int path = host_fd(h, n);
    if (path < 0)
        return path;
    cred_reset();
    int fd = open(host_proc(path).path, (flags & OPEN_TAKES & ~O_TRUNC) | OPEN_ADDS);
    fd = fd < 0 ? -errno : fd;
    host_fd_done(h, n);
    return fd;
}

/* A descriptor brings its position, its flags and its flock with it. */
int host_resume(HOST_T, struct pl_node *node, int flags, int kept, struct pl_file **ret)
{
    struct host *h = host_of(tree);
    struct host_node *n = node ? node_of(pl_node_ref(node)) : NULL;
    struct pl_attr attr;
    int r = 0;
    cred_reset();
    if (kept > 0 && n)
        r = host_is(n, kept) ? 0 : -ESTALE;
    else if (kept > 0)
        r = host_open_node(h, kept, &n, &attr);
    else
        r = kept = n ? reopen(h, n, flags) : -ESTALE;
    if (r >= 0 && !S_ISREG(n->h.node.fmt) && !S_ISDIR(n->h.node.fmt))
        r = -ESTALE;
    if (r >= 0)
        r = new_file(h, n, kept, ret);
    else if (kept > 0)
        close(kept);
    host_end();
    if (r < 0) {
        pl_node_unref(n ? &n->h.node : NULL);
        return r;
    }
    (*ret)->tree = tree;
    (*ret)->node = &n->h.node;
    (*ret)->flags = (uint32_t)flags;
    host_lock_resume(h, n, file_of(*ret));
    host_claim_over(h, n);
    return 0;
}

/* The file that create found to be there already. */
static int open_there(struct host *h, struct pl_call *call, struct pl_node *dir, const char *name,
                      int flags, struct pl_node **ret, struct pl_attr *attr,
                      struct pl_file **ret_file)
{
    struct pl_node *n;
    int r = h->tree.ops->lookup(&h->tree, call, dir, name, &n, attr);
    if (r < 0)
        return r;
    if (S_ISLNK(n->fmt))
        r = -ELOOP;
    else if (S_ISDIR(n->fmt))
        r = -EISDIR;
    else
        r = host_open(&h->tree, call, n, flags, ret_file);
    if (r == 0 && (flags & O_TRUNC)) {
        struct statx stx;
        if (host_statx(file_of(*ret_file)->fd, &stx) == 0)
            host_attr(node_of(n), &stx, attr);
    }
    if (r < 0)
        pl_node_unref(n);
    else
        *ret = n;
    return r;
}

/* The node of a file just made, and the open file. Takes over `fd`. */
static int made(struct host *h, struct host_node *dir, const char *name, int fd,
                struct pl_node **ret, struct pl_attr *attr, struct pl_file **ret_file)
{
    struct host_node *n;
    int r = host_adopt(h, dir, name, fd, false, false, &n, attr);
    if (r < 0) {
        close(fd);
        return r;
    }
    r = new_file(h, n, fd, ret_file);
    if (r < 0)
        pl_node_unref(&n->h.node);
    else
        *ret = &n->h.node;
    if (r == 0 && !name && host_fd(h, n) >= 0) { /* born without a name */
        host_leaving(h, n);
        host_left(h, n);
        host_fd_done(h, n);
    }
    return r;
}

int host_create(HOST_T, struct pl_node *dir, const char *name, int flags, mode_t mode,
                struct pl_node **ret, struct pl_attr *attr, struct pl_file **ret_file)
{
    struct host *h = host_of(tree);
    struct host_node *d = node_of(dir);
    int r = -ENOENT;
    /* Always exclusively first: opening what is there might open a device or follow a symlink. */
    for (int tries = 0; r == -ENOENT && tries < 8; tries++) {
        int dirfd = host_fd(h, d), fd = -1;
        if (dirfd < 0)
            return dirfd;
        r = host_act_create(h, call);
        int how = (flags & OPEN_TAKES & ~O_TRUNC) | OPEN_ADDS | O_CREAT | O_EXCL;
        host_note_new(h, call, dirfd, name);
        if (r == 0 && (fd = openat(dirfd, name, how, mode)) < 0 && errno == EMFILE) {
            host_fds_drop(h);
            fd = openat(dirfd, name, how, mode);
        }
        if (r == 0 && fd < 0)
            r = -errno;
        host_end();
        host_fd_done(h, d);
        if (fd >= 0)
            return made(h, d, name, fd, ret, attr, ret_file);
        if (r != -EEXIST || (flags & O_EXCL))
            return r;
        r = open_there(h, call, dir, name, flags, ret, attr, ret_file);
    }
    return r;
}

int host_tmpfile(HOST_T, struct pl_node *dir, int flags, mode_t mode, struct pl_node **ret,
                 struct pl_attr *attr, struct pl_file **ret_file)
{
    struct host *h = host_of(tree);
    struct host_node *d = node_of(dir);
    int dirfd = host_fd(h, d);
    if (dirfd < 0)
        return dirfd;
    int how = (flags & (OPEN_TAKES | O_EXCL)) | OPEN_ADDS | O_TMPFILE, fd = -1;
    int r = host_act_create(h, call);
    if (r == 0 && (fd = openat(dirfd, ".", how, mode)) < 0)
        r = -errno;
    host_end();
    host_fd_done(h, d);
    return r < 0 ? r : made(h, d, NULL, fd, ret, attr, ret_file);
}

int host_close(HOST_T, struct pl_file *file)
{
    struct host *h = host_of(tree);
    struct host_file *f = file_of(file);
    struct host_node *n = node_of(file->node);
    host_unlock_file(h, n, f);
    host_file_del(h, n, f);
    if (f->dir)
        host_dir_free(f);
    int r = close(f->fd) < 0 ? -errno : 0;
    free(f);
    return r == -EINTR ? 0 : r;
}

int host_flush(HOST_T, struct pl_file *file, uint64_t owner)
{
    struct host *h = host_of(tree);
    if (atomic_load_explicit(&h->locks.owners, memory_order_acquire))
        host_unlock_by(h, file_of(file), owner);
    if ((file->flags & O_ACCMODE) == O_RDONLY || !node_of(file->node)->mount->close_tells)
        return 0;
    /* Network file systems report late write errors at close, of any descriptor of the file. */
    int fd = fcntl(file_of(file)->fd, F_DUPFD_CLOEXEC, 0);
    return fd >= 0 && close(fd) < 0 && errno != EINTR ? -errno : 0;
}

ssize_t host_read(HOST_T, struct pl_file *file, void *buf, size_t n, uint64_t off)
{
    ssize_t r;
    do /* a file's short read is the end of the file */
        r = pread(file_of(file)->fd, buf, n, (off_t)off);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : r;
}

/*
 * What a successor may conclude of an appending write: nothing was noted: nothing was written. Else
 * what lies in the file from that size on is ours as far as it agrees with what was to be written
 * (the kernel lets one of the mount append at a time; one killed on the way writes the first part):
 * the rest is still to be appended, and the result is the whole.
 */
static void note_append(struct pl_call *call, struct pl_file *file)
{
    struct stat st;
    if (call->intent && file->flags & O_APPEND && fstat(file_of(file)->fd, &st) == 0)
        atomic_store(&call->intent->size1, (uint64_t)st.st_size + 1);
}

ssize_t host_write(HOST_T, struct pl_file *file, const void *buf, size_t n, uint64_t off)
{
    ssize_t w;
    int r = host_act(host_of(tree), call);
    if (r < 0)
        return r;
    note_append(call, file);
    do
        w = pwrite(file_of(file)->fd, buf, n, (off_t)off);
    while (w < 0 && errno == EINTR);
    w = w < 0 ? -errno : w;
    host_end();
    return w;
}

int64_t host_seek(HOST_T, struct pl_file *file, uint64_t off, int whence)
{
    off_t at = lseek(file_of(file)->fd, (off_t)off, whence);
    return at < 0 ? -errno : at;
}

int host_fsync(HOST_T, struct pl_file *file, bool data_only)
{
    int fd = file_of(file)->fd;
    return (data_only ? fdatasync(fd) : fsync(fd)) < 0 ? -errno : 0;
}

int host_fallocate(HOST_T, struct pl_file *file, int mode, uint64_t off, uint64_t len)
{
    int r = host_act(host_of(tree), call);
    if (r == 0 && fallocate(file_of(file)->fd, mode, (off_t)off, (off_t)len) < 0)
        r = -errno;
    host_end();
    return r;
}

/* Where the kernel will not copy between two files (of different file systems), we do. */
static ssize_t copy_by_hand(struct pl_call *call, int in, off_t at, int out, off_t to, size_t n)
{
    enum { CHUNK = 256 << 10 };
    char *buf = malloc(CHUNK);
    size_t done = 0;
    ssize_t r = buf ? 0 : -ENOMEM;
    while (buf && done < n && pl_call_over(call) == 0) {
        size_t want = n - done < CHUNK ? n - done : CHUNK;
        ssize_t got = pread(in, buf, want, at + (off_t)done);
        ssize_t put = got > 0 ? pwrite(out, buf, (size_t)got, to + (off_t)done) : got;
        if (put <= 0) {
            r = put < 0 ? -errno : 0;
            break;
        }
        done += (size_t)put;
    }
    free(buf);
    return done ? (ssize_t)done : r;
}

ssize_t host_copy(HOST_T, struct pl_file *in, uint64_t off_in, struct pl_file *out,
                  uint64_t off_out, size_t n)
{
    int from = file_of(in)->fd, to = file_of(out)->fd;
    off64_t at = (off64_t)off_in, put = (off64_t)off_out;
    ssize_t r = host_act(host_of(tree), call);
    if (r == 0) {
        r = copy_file_range(from, &at, to, &put, n, 0);
        r = r < 0 ? -errno : r;
        if (r == -EXDEV || r == -EOPNOTSUPP || r == -ENOSYS)
            r = copy_by_hand(call, from, (off_t)off_in, to, (off_t)off_out, n);
    }
    host_end();
    return r;
}

/* The ioctls of file attributes. Their numbers say "long", the kernel moves an int. */
static int sizes(unsigned cmd, size_t *in, size_t *out)
{
    *in = *out = 0;
    if (cmd == FS_IOC_GETFLAGS || cmd == FS_IOC32_GETFLAGS)
        *out = sizeof(int);
    else if (cmd == FS_IOC_SETFLAGS || cmd == FS_IOC32_SETFLAGS)
        *in = sizeof(int);
    else if (cmd == FS_IOC_FSGETXATTR)
        *out = sizeof(struct fsxattr);
    else if (cmd == FS_IOC_FSSETXATTR)
        *in = sizeof(struct fsxattr);
    else
        return -ENOTTY;
    return 0;
}

int host_ioctl(HOST_T, struct pl_file *file, unsigned cmd, void *buf, size_t in_size,
               size_t out_size)
{
    size_t in, out;
    union {
        int flags;
        struct fsxattr attr;
    } arg = {0};
    int r = sizes(cmd, &in, &out);
    if (r < 0)
        return r;
    if (in_size < in || out_size < out)
        return -EINVAL;
    if (in)
        memcpy(&arg, buf, in);
    cmd = cmd == FS_IOC32_GETFLAGS ? FS_IOC_GETFLAGS : cmd;
    cmd = cmd == FS_IOC32_SETFLAGS ? FS_IOC_SETFLAGS : cmd;
    r = host_act(host_of(tree), call);
    if (r == 0)
        r = ioctl(file_of(file)->fd, cmd, &arg) < 0 ? -errno : 0;
    host_end();
    if (r == 0 && out) {
        memset(buf, 0, out_size);
        memcpy(buf, &arg, out);
    }
    return r;
}
