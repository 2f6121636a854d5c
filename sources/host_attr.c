/* SPDX-License-Identifier: MIT */
/* Attributes, extended attributes, and what the file system tells of itself. */
#include "base/cred.h"
#include "sources/host.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

static int look(struct host *h, struct host_node *n, struct pl_file *file, struct statx *stx)
{
    int r = file ? host_statx(file_of(file)->fd, stx) : host_statx_open(h, n, stx);
    if (r != -EAGAIN)
        return r;
    int fd = host_fd(h, n);
    if (fd < 0)
        return fd;
    r = host_statx(fd, stx);
    host_fd_done(h, n);
    return r;
}

int host_getattr(HOST_T, struct pl_node *node, struct pl_file *file, struct pl_attr *attr)
{
    struct host *h = host_of(tree);
    struct host_node *n = node_of(node);
    struct statx stx;
    unsigned moment = atomic_load(&h->moment);
    int r = look(h, n, file, &stx);
    if (moment & 1 || moment != atomic_load(&h->moment)) {
        pthread_mutex_lock(&h->modes);
        r = look(h, n, file, &stx);
        pthread_mutex_unlock(&h->modes);
    }
    if (r == 0)
        host_attr(n, &stx, attr);
    return r;
}

bool host_grant(struct host *h, int path, uint32_t need, mode_t *ret_was)
{
    struct statx stx;
    if (host_statx(path, &stx) < 0 || stx.stx_uid != geteuid())
        return false;
    mode_t mode = stx.stx_mode & 07777;
    /* chmod takes set-group-ID away where its owner is not in the group, as writing does. */
    bool member = stx.stx_gid == getegid() || group_member(stx.stx_gid);
    bool lost = mode & S_ISGID && !member && !(need & S_IWUSR && S_ISREG(stx.stx_mode));
    if ((mode & need) == need || lost)
        return false;
    atomic_fetch_add(&h->moment, 1);
    *ret_was = mode;
    if (host_chmod(path, mode | need) == 0)
        return true;
    atomic_fetch_add(&h->moment, 1);
    return false;
}

void host_restore(struct host *h, int path, mode_t was)
{
    int error = errno;
    host_chmod(path, was);
    atomic_fetch_add(&h->moment, 1);
    errno = error;
}

/* What to give to utimensat for one of the times. */
static struct timespec time_for(uint32_t valid, uint32_t set, uint32_t now, struct timespec t)
{
    if (valid & now)
        return (struct timespec){.tv_nsec = UTIME_NOW};
    return valid & set ? t : (struct timespec){.tv_nsec = UTIME_OMIT};
}

#define SET_TIMES (PL_SET_ATIME | PL_SET_MTIME | PL_SET_ATIME_NOW | PL_SET_MTIME_NOW)

int host_chmod(int fd, mode_t mode)
{
    enum { FCHMODAT2 = 452 };
    int r = (int)syscall(FCHMODAT2, fd, "", mode, AT_EMPTY_PATH);
    return r < 0 && errno == ENOSYS ? chmod(host_proc(fd).path, mode) : r;
}

/* Size first, for it may fail for most reasons and moves mtime; the owner before the mode, for a
 * change of owner clears set-user-ID; the times last. `real`: fd is no O_PATH descriptor. */
static int set_all(int fd, bool real, bool symlink, const struct pl_setattr *set)
{
    struct host_proc p = host_proc(fd);
    uint32_t v = set->valid;
    int r = 0;
    if (v & PL_SET_SIZE)
        r = real ? ftruncate(fd, (off_t)set->size) : truncate(p.path, (off_t)set->size);
    if (r == 0 && (v & (PL_SET_UID | PL_SET_GID)))
        r = fchownat(fd, "", v & PL_SET_UID ? set->uid : (uid_t)-1,
                     v & PL_SET_GID ? set->gid : (gid_t)-1, AT_EMPTY_PATH);
    if (r == 0 && (v & PL_SET_MODE)) {
        if (symlink)
            return -EOPNOTSUPP;
        r = real ? fchmod(fd, set->mode & 07777) : host_chmod(fd, set->mode & 07777);
    }
    if (r == 0 && (v & SET_TIMES)) {
        struct timespec t[2] = {
            time_for(v, PL_SET_ATIME, PL_SET_ATIME_NOW, set->atime),
            time_for(v, PL_SET_MTIME, PL_SET_MTIME_NOW, set->mtime),
        };
        r = real ? futimens(fd, t) : (int)syscall(SYS_utimensat, fd, "", t, AT_EMPTY_PATH);
        if (r < 0 && errno == EINVAL && !real && !symlink) /* Linux before 5.8 */
            r = utimensat(AT_FDCWD, p.path, t, 0);
    }
    return r < 0 ? -errno : 0;
}

int host_setattr(HOST_T, struct pl_node *node, struct pl_file *file, const struct pl_setattr *set,
                 struct pl_attr *attr)
{
    struct host *h = host_of(tree);
    struct host_node *n = node_of(node);
    struct statx stx;
    int fd = file ? file_of(file)->fd : host_fd(h, n);
    if (fd < 0)
        return fd;
    int r = host_act(h, call);
    bool mode = set->valid & PL_SET_MODE && !h->acts;
    if (mode)
        pthread_mutex_lock(&h->modes);
    if (r == 0)
        r = set_all(fd, file, S_ISLNK(node->fmt), set);
    host_end();
    if (r == 0 && (r = host_statx(fd, &stx)) == 0)
        host_attr(n, &stx, attr);
    if (mode)
        pthread_mutex_unlock(&h->modes);
    if (!file)
        host_fd_done(h, n);
    return r;
}

/* ---- ops on the node's descriptor, as the caller ---- */

/* Runs `expr`, which may use `fd` and `path`; its result, or the negative errno. */
#define WITH_FD(expr)                                                                              \
    ({                                                                                             \
        struct host *h_ = host_of(tree);                                                           \
        struct host_node *n_ = node_of(node);                                                      \
        int fd = host_fd(h_, n_);                                                                  \
        int64_t r_ = fd;                                                                           \
        if (fd >= 0) {                                                                             \
            struct host_proc p_ = host_proc(fd);                                                   \
            const char *path = p_.path;                                                            \
            (void)path;                                                                            \
            r_ = host_act(h_, call);                                                               \
            if (r_ == 0 && (r_ = (expr)) < 0)                                                      \
                r_ = -errno;                                                                       \
            host_end();                                                                            \
            host_fd_done(h_, n_);                                                                  \
        }                                                                                          \
        r_;                                                                                        \
    })

int host_access(HOST_T, struct pl_node *node, int mask)
{
    return (int)WITH_FD(syscall(SYS_faccessat2, fd, "", mask, AT_EACCESS | AT_EMPTY_PATH));
}

static bool has_xattr(const char *path, const char *name)
{
    char list[1024];
    ssize_t n = listxattr(path, list, sizeof(list));
    bool has = n < 0 && errno == ERANGE;
    for (char *p = list; !has && n > 0 && p < list + n; p += strlen(p) + 1)
        has = !strcmp(p, name);
    return has;
}

/* A mark of somebody above that its owner may not read: as of open_again(). */
static ssize_t get_own(struct host *h, int fd, const char *path, const char *name, void *buf,
                       size_t size)
{
    mode_t was;
    ssize_t r = getxattr(path, name, buf, size);
    if (r >= 0 || errno != EACCES || !has_xattr(path, name))
        return r;
    pthread_mutex_lock(&h->modes);
    if (host_grant(h, fd, S_IRUSR, &was)) {
        r = getxattr(path, name, buf, size);
        host_restore(h, fd, was);
    }
    pthread_mutex_unlock(&h->modes);
    return r;
}

static int set_own(struct host *h, int fd, const char *path, const char *name, const void *buf,
                   size_t size, int flags)
{
    mode_t was;
    int r = setxattr(path, name, buf, size, flags);
    if (r >= 0 || errno != EACCES)
        return r;
    pthread_mutex_lock(&h->modes);
    if (host_grant(h, fd, S_IWUSR, &was)) {
        r = setxattr(path, name, buf, size, flags);
        host_restore(h, fd, was);
    }
    pthread_mutex_unlock(&h->modes);
    return r;
}

static bool own_way(struct pl_tree *tree, const struct pl_call *call)
{
    return call->own && !host_of(tree)->acts;
}

ssize_t host_getxattr(HOST_T, struct pl_node *node, const char *name, void *buf, size_t size)
{
    if (own_way(tree, call))
        return WITH_FD(get_own(host_of(tree), fd, path, name, buf, size));
    return WITH_FD(getxattr(path, name, buf, size));
}

int host_setxattr(HOST_T, struct pl_node *node, const char *name, const void *buf, size_t size,
                  int flags)
{
    if (own_way(tree, call))
        return (int)WITH_FD(set_own(host_of(tree), fd, path, name, buf, size, flags));
    return (int)WITH_FD(setxattr(path, name, buf, size, flags));
}

int host_removexattr(HOST_T, struct pl_node *node, const char *name)
{
    return (int)WITH_FD(removexattr(path, name));
}

ssize_t host_listxattr(HOST_T, struct pl_node *node, char *buf, size_t size)
{
    return WITH_FD(listxattr(path, buf, size));
}

/* ---- the rest needs no permission that was not needed to get the node ---- */

int host_readlink(HOST_T, struct pl_node *node, char *buf, size_t n)
{
    struct host *h = host_of(tree);
    int fd = host_fd(h, node_of(node));
    if (fd < 0)
        return fd;
    ssize_t r = readlinkat(fd, "", buf, n);
    int e = -errno;
    host_fd_done(h, node_of(node));
    return r < 0 ? e : (int)r;
}

int host_statfs(HOST_T, struct pl_node *node, struct statfs *st)
{
    struct host *h = host_of(tree);
    int fd = host_fd(h, node_of(node));
    if (fd < 0)
        return fd;
    int r = fstatfs(fd, st) < 0 ? -errno : 0;
    host_fd_done(h, node_of(node));
    return r;
}

/* Any descriptor of the file system will do that is not O_PATH. */
int host_syncfs(HOST_T, struct pl_node *node)
{
    struct host *h = host_of(tree);
    struct host_node *n = node_of(node);
    if (n->mount->fd >= 0)
        return syncfs(n->mount->fd) < 0 ? -errno : 0;
    struct host_node *up = S_ISDIR(node->fmt) || S_ISREG(node->fmt) ? NULL : host_parent(h, n);
    struct host_node *of = up ? up : n;
    int r = host_fd(h, of);
    if (r >= 0) {
        cred_reset();
        int fd = open(host_proc(r).path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        r = fd < 0 || syncfs(fd) < 0 ? -errno : 0;
        if (fd >= 0)
            close(fd);
        host_fd_done(h, of);
    }
    if (up)
        pl_node_unref(&up->h.node);
    return r;
}
