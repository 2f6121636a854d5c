/* SPDX-License-Identifier: MIT */
/*
 * The host source: a directory of this machine as a tree. See host.h for how it hangs together.
 *
 * Resolution stays beneath the root because every lookup is one component, opened by openat2 with
 * RESOLVE_BENEATH and never following a symlink; ".." is answered from what is known of parents and
 * checked against the root.
 */
#include "sources/host.h"
#include "base/confine.h"
#include "base/cred.h"
#include "base/own.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

static int host_root(struct pl_tree *tree, struct pl_call *call, struct pl_node **ret)
{
    *ret = pl_node_ref(&host_of(tree)->root->h.node);
    return 0;
}

/* The parent directory: the one known if it still is that, else wherever the directory is now. */
static int lookup_up(struct host *h, struct pl_call *call, struct host_node *n,
                     struct pl_node **ret, struct pl_attr *attr)
{
    struct host_node *found = h->root;
    if (n == h->root) {
        pl_node_ref(&found->h.node);
        *ret = &found->h.node;
        return host_getattr(&h->tree, call, *ret, NULL, attr);
    }
    int fd = host_fd(h, n);
    if (fd < 0)
        return fd;
    int r = host_act(h, call);
    int up = r < 0 ? r : openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
    up = up == -1 ? -errno : up;
    host_end();
    host_fd_done(h, n);
    if (up < 0)
        return up;

    struct statx stx;
    struct host_node *parent = host_parent(h, n);
    r = host_statx(up, &stx);
    if (r == 0 && parent && parent->h.id.lo == stx.stx_ino &&
        parent->h.id.hi == makedev(stx.stx_dev_major, stx.stx_dev_minor)) {
        host_attr(parent, &stx, attr);
        *ret = &parent->h.node;
        parent = NULL;
    } else if (r == 0) {
        char rel[4096];
        r = host_beneath(h, up, rel, sizeof(rel)) ? host_walk(h, rel, &found, attr) : -ESTALE;
        if (r == 0)
            *ret = &found->h.node;
    }
    close(up);
    if (parent)
        pl_node_unref(&parent->h.node);
    return r;
}

static int host_lookup(HOST_T, struct pl_node *dir, const char *name, struct pl_node **ret,
                       struct pl_attr *attr)
{
    struct host *h = host_of(tree);
    struct host_node *d = node_of(dir), *n = NULL;
    if (!strcmp(name, ".."))
        return lookup_up(h, call, d, ret, attr);
    int dirfd = host_fd(h, d);
    if (dirfd < 0)
        return dirfd;
    bool crossed = false;
    int r = host_act(h, call);
    int fd = r < 0 ? r : host_open_child(dirfd, name, &crossed);
    if (fd == -EMFILE) {
        host_fds_drop(h);
        fd = host_open_child(dirfd, name, &crossed);
    }
    host_end();
    host_fd_done(h, d);
    if (fd < 0)
        return fd;
    r = host_adopt(h, d, name, fd, true, crossed, &n, attr);
    if (r == 0)
        *ret = &n->h.node;
    return r;
}

static void host_done(struct pl_tree *tree)
{
    struct host *h = host_of(tree);
    host_keep_done(h);
    host_watch_free(h);
    pl_node_unref(&h->root->h.node);
    pl_nodes_free(h->nodes);
    free((void *)h->slots);
    free(h->points);
    if (h->mountinfo >= 0)
        close(h->mountinfo);
    pthread_mutex_destroy(&h->names);
    pthread_mutex_destroy(&h->cache);
    pthread_mutex_destroy(&h->mounts_lock);
    pthread_mutex_destroy(&h->locks.mutex);
    pthread_cond_destroy(&h->locks.cond);
}

static const struct pl_ops host_ops = {
    .name = "host",
    .done = host_done,
    .root = host_root,
    .release = host_release,
    .lookup = host_lookup,
    .getattr = host_getattr,
    .setattr = host_setattr,
    .access = host_access,
    .readlink = host_readlink,
    .make = host_make,
    .link = host_link,
    .remove = host_remove,
    .rename = host_rename,
    .open = host_open,
    .create = host_create,
    .tmpfile = host_tmpfile,
    .close = host_close,
    .flush = host_flush,
    .read = host_read,
    .write = host_write,
    .readdir = host_readdir,
    .seek = host_seek,
    .fsync = host_fsync,
    .fallocate = host_fallocate,
    .copy = host_copy,
    .getxattr = host_getxattr,
    .setxattr = host_setxattr,
    .removexattr = host_removexattr,
    .listxattr = host_listxattr,
    .lock = host_lock,
    .getlock = host_getlock,
    .ioctl = host_ioctl,
    .statfs = host_statfs,
    .syncfs = host_syncfs,
    .key = host_key,
    .find = host_find,
    .keep = host_keep,
    .resume = host_resume,
    .watch = host_watch,
};

/* ---- opening the tree ---- */

static int open_dir(const char *dir, struct pl_err *err)
{
    int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    int r = -errno;
    switch (-r) {
    case ENOENT:
        return pl_fail(err, r, "%s: no such directory", dir);
    case ENOTDIR:
        return pl_fail(err, r, "%s: not a directory", dir);
    case EACCES:
        return pl_fail(err, r, "%s: no permission to enter it (as uid %u)", dir,
                       (unsigned)geteuid());
    default:
        return pl_fail(err, r, "%s: cannot be opened: %s", dir, strerror(-r));
    }
}

static int check_root(const char *dir, int fd, struct pl_err *err)
{
    struct statx stx;
    struct statfs fs;
    int r = statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &stx) < 0 ? -errno : 0;
    if (r < 0)
        return pl_fail(err, r, "%s: its attributes cannot be read: %s", dir, strerror(-r));
    if (own_mount_has(makedev(stx.stx_dev_major, stx.stx_dev_minor)))
        return pl_fail(err, -ELOOP, "%s: a mount of this very process (serve what it shows)", dir);
    if (statfs("/proc/self/fd", &fs) < 0)
        return pl_fail(err, -ENOENT,
                       "%s: cannot be served without /proc (mount -t proc proc /proc)", dir);
    if (access(host_proc(fd).path, X_OK) < 0)
        return pl_fail(err, -errno, "%s: no permission to search it (as uid %u)", dir,
                       (unsigned)geteuid());
    return 0;
}

/* As many idle descriptors as leave most of the process's for open files and connections. */
static unsigned fd_bound(void)
{
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) < 0 || lim.rlim_cur / 4 > HOST_FDS)
        return HOST_FDS;
    return lim.rlim_cur < 64 ? 16 : (unsigned)(lim.rlim_cur / 4);
}

/* Makes the table of descriptors large at once: in a process with threads each doubling waits for
 * an RCU grace period, which holds up an open for tens of milliseconds. */
static void reserve_fds(int any)
{
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
        return;
    int last = lim.rlim_cur > 4096 ? 4095 : (int)lim.rlim_cur - 1;
    int fd = fcntl(any, F_DUPFD_CLOEXEC, last);
    if (fd >= 0)
        close(fd);
}

static struct host *new_host(dev_t root_dev, enum host_use use)
{
    struct host *h = calloc(1, sizeof(*h));
    if (!h)
        return NULL;
    h->nodes = pl_nodes_new();
    h->slots = calloc(HOST_SLOTS, sizeof(*h->slots));
    if (!h->nodes || !h->slots) {
        pl_nodes_free(h->nodes);
        free((void *)h->slots);
        free(h);
        return NULL;
    }
    pl_tree_init(&h->tree, &host_ops, NULL);
    pthread_mutex_init(&h->names, NULL);
    pthread_mutex_init(&h->cache, NULL);
    pthread_mutex_init(&h->mounts_lock, NULL);
    pthread_mutex_init(&h->modes, NULL);
    pthread_mutex_init(&h->locks.mutex, NULL);
    pl_cond_init(&h->locks.cond);
    h->idle.prev = h->idle.next = &h->idle;
    h->max_fds = fd_bound();
    h->acts = cred_able();
    confine_need(CONFINE_ADMIN | (use == HOST_READS ? CONFINE_READS : CONFINE_FILES));
    h->root_dev = root_dev;
    h->mountinfo = h->root_fd = -1;
    return h;
}

static uint32_t flags_of(int fd)
{
    uint32_t flags = PL_TREE_LOCKS | PL_TREE_LASTING | PL_TREE_NOTES;
    struct host_proc p = host_proc(fd);
    if (getxattr(p.path, "system.posix_acl_access", NULL, 0) >= 0 || errno == ENODATA)
        flags |= PL_TREE_POSIX_ACL;
    if (listxattr(p.path, NULL, 0) >= 0)
        flags |= PL_TREE_XATTR;
    return flags;
}

int pl_host_open(const char *dir, struct pl_tree **ret, struct pl_err *err)
{
    return host_open_kept(dir, HOST_CHANGES, NULL, ret, err);
}

int host_open_kept(const char *dir, enum host_use use, struct pl_keep *keep, struct pl_tree **ret,
                   struct pl_err *err)
{
    int fd = host_kept_root(keep);
    if (fd < 0)
        fd = open_dir(dir, err);
    if (fd < 0)
        return fd;
    struct statx stx;
    int r = check_root(dir, fd, err);
    if (r == 0)
        confine_path_of(fd, CONFINE_READ | (use == HOST_READS ? 0u : CONFINE_CHANGE));
    if (r == 0 && (r = host_statx(fd, &stx)) < 0)
        r = pl_fail(err, r, "%s: its attributes cannot be read: %s", dir, strerror(-r));
    if (r < 0) {
        close(fd);
        return r;
    }
    reserve_fds(fd);
    struct host *h = new_host(makedev(stx.stx_dev_major, stx.stx_dev_minor), use);
    struct pl_attr attr;
    r = h ? host_adopt(h, NULL, NULL, fd, true, true, &h->root, &attr) : -ENOMEM;
    if (r == 0) {
        /* The root keeps its descriptor in use for good. */
        r = host_fd(h, h->root);
        h->tree.flags |= flags_of(r);
        /* Positions of network file systems may be another open's. */
        if (!h->root->mount->close_tells && (h->tree.flags & PL_TREE_POSIX_ACL))
            h->tree.flags |= PL_TREE_STATELESS_SELF | (h->acts ? PL_TREE_STATELESS : 0u);
        *ret = &h->tree;
        return 0;
    }
    if (h) {
        pl_nodes_free(h->nodes);
        free((void *)h->slots);
        free(h);
    } else {
        close(fd);
    }
    return pl_fail(err, r, "%s: out of memory", dir);
}
