/* SPDX-License-Identifier: MIT */
/* Making, linking, renaming and removing names in directories of the host. */
#include "sources/host.h"

#include <errno.h>
#include <linux/fs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int make_at(int dirfd, const char *name, const struct pl_make *make)
{
    mode_t mode = make->mode & 07777;
    int r;
    if (S_ISDIR(make->mode))
        r = mkdirat(dirfd, name, mode);
    else if (S_ISLNK(make->mode))
        r = symlinkat(make->target, dirfd, name);
    else
        r = mknodat(dirfd, name, (make->mode & S_IFMT) | mode,
                    makedev(make->rdev_major, make->rdev_minor));
    return r < 0 ? -errno : 0;
}

/* As attributes tell it. */
static uint64_t ino_of(struct host *h, const struct statx *stx)
{
    return host_ino(host_slot(h, host_id(stx).hi), stx->stx_ino);
}

static uint32_t born_of(const struct statx *stx)
{
    bool known = stx->stx_mask & STATX_BTIME;
    return known ? pl_birth((struct timespec){stx->stx_btime.tv_sec, stx->stx_btime.tv_nsec}) : 0;
}

static int stat_name(int dirfd, const char *name, struct statx *stx)
{
    int how = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
    unsigned want = STATX_INO | STATX_TYPE | STATX_BTIME;
    return statx(dirfd, name, how, want, stx) < 0 ? -errno : 0;
}

/* What a successor may conclude: 0, nothing was done yet. A number: the name was taken. Nothing:
 * what has the name now came after this. */
void host_note_new(struct host *h, struct pl_call *call, int dirfd, const char *name)
{
    struct statx stx;
    if (!call->intent)
        return;
    int r = stat_name(dirfd, name, &stx);
    if (r == 0 || r == -ENOENT)
        atomic_store(&call->intent->ino, r == 0 ? ino_of(h, &stx) : PL_NOTHING);
}

int host_make(HOST_T, struct pl_node *dir, const char *name, const struct pl_make *make,
              struct pl_node **ret, struct pl_attr *attr)
{
    struct host *h = host_of(tree);
    struct host_node *d = node_of(dir), *n;
    int dirfd = host_fd(h, d), fd = -1;
    if (dirfd < 0)
        return dirfd;
    bool crossed = false;
    int r = host_act_create(h, call);
    host_note_new(h, call, dirfd, name);
    if (r == 0)
        r = make_at(dirfd, name, make);
    if (r == 0) {
        fd = host_open_child(dirfd, name, &crossed);
        if (fd == -EMFILE) {
            host_fds_drop(h);
            fd = host_open_child(dirfd, name, &crossed);
        }
        r = fd < 0 ? fd : 0;
    }
    host_end();
    host_fd_done(h, d);
    if (r == 0)
        r = host_adopt(h, d, name, fd, true, crossed, &n, attr);
    if (r == 0)
        *ret = &n->h.node;
    return r;
}

int host_link(HOST_T, struct pl_node *node, struct pl_node *dir, const char *name,
              struct pl_attr *attr)
{
    struct host *h = host_of(tree);
    struct host_node *d = node_of(dir), *n = node_of(node);
    struct statx stx;
    int fd = host_fd(h, n), dirfd = fd < 0 ? fd : host_fd(h, d);
    if (dirfd < 0) {
        if (fd >= 0)
            host_fd_done(h, n);
        return dirfd;
    }
    /* By way of /proc, for AT_EMPTY_PATH wants a capability; it names files that had no name too.*/
    int r = host_act(h, call);
    host_note_new(h, call, dirfd, name);
    if (r == 0)
        r = linkat(AT_FDCWD, host_proc(fd).path, dirfd, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
    host_end();
    if (r == 0 && (r = host_statx(fd, &stx)) == 0) {
        host_moved(h, n, d, name);
        if (host_watch_cover(h, n, fd, &stx)) /* it has several names now */
            r = host_statx(fd, &stx);
        host_attr(n, &stx, attr);
    }
    if (r == 0)
        host_named(h, n);
    host_fd_done(h, d);
    host_fd_done(h, n);
    return r;
}

/* What has a name, for the call's intent; ino 0: nothing. */
struct holder {
    uint64_t ino;
    uint32_t born;
};

/* The node of that name, if it is known, with the use of a descriptor: what loses its last name is
 * found neither by name nor, if nobody has it open, by handle. *is: what it is, known or not. Done
 * as the caller; may switch credentials. */
static struct host_node *hold(struct host *h, int dirfd, const char *name, struct holder *is)
{
    struct statx stx;
    *is = (struct holder){0};
    int r = stat_name(dirfd, name, &stx);
    if (r < 0)
        return NULL;
    *is = (struct holder){ino_of(h, &stx), born_of(&stx)};
    struct host_node *n = (struct host_node *)pl_nodes_get(h->nodes, host_id(&stx));
    if (n && host_fd(h, n) < 0) {
        pl_node_unref(&n->h.node);
        n = NULL;
    }
    return n;
}

static void hold_done(struct host *h, struct host_node *n)
{
    if (!n)
        return;
    host_fd_done(h, n);
    pl_node_unref(&n->h.node);
}

/*
 * What a successor may conclude. The name's number is noted when all else is ready, so 0 means that
 * nothing was done yet, or that there was nothing to remove: to do it (again) is right. Else, if
 * the name stands for that number now, it was not done: do it. If it stands for another, or for
 * nothing, it was done, with result 0; or somebody beside us took the name away in that very
 * instant, which comes to the same. (The time of birth tells an object from one that gets its
 * number later.)
 */

int host_remove(HOST_T, struct pl_node *dir, const char *name, int flags)
{
    struct host *h = host_of(tree);
    struct host_node *d = node_of(dir);
    int dirfd = host_fd(h, d);
    if (dirfd < 0)
        return dirfd;
    struct holder is = {0};
    int r = host_act(h, call);
    struct host_node *victim = r < 0 ? NULL : hold(h, dirfd, name, &is);
    host_leaving(h, victim);
    if (call->intent) {
        atomic_store(&call->intent->born, is.born);
        atomic_store(&call->intent->ino, is.ino);
    }
    if (r == 0)
        r = host_act(h, call);
    if (r == 0 && unlinkat(dirfd, name, flags) < 0)
        r = -errno;
    host_end();
    host_left(h, victim);
    hold_done(h, victim);
    host_fd_done(h, d);
    return r;
}

/* What now has this name, if it is known, is told so. */
static void note_name(struct host *h, struct host_node *dir, int dirfd, const char *name)
{
    struct statx stx;
    if (stat_name(dirfd, name, &stx) < 0)
        return;
    struct host_node *n = (struct host_node *)pl_nodes_get(h->nodes, host_id(&stx));
    if (!n)
        return;
    if ((stx.stx_mode & S_IFMT) == n->h.node.fmt)
        host_moved(h, n, dir, name);
    pl_node_unref(&n->h.node);
}

/*
 * What a successor may conclude: `ino`, noted last, is 0: nothing was done. Else it was done, with
 * result 0, if the new name stands for `ino` and the old one does not (of an exchange: the old name
 * for `ino2`). If both stand for `ino` they were links of one file to begin with (ino2 says so, and
 * rename does nothing then), and in every other case it was not done: do it (again).
 */
static void note_rename(struct host *h, struct pl_call *call, int fromfd, const char *oldname,
                        const struct holder *to)
{
    struct statx stx;
    if (!call->intent)
        return;
    bool there = stat_name(fromfd, oldname, &stx) == 0;
    atomic_store(&call->intent->born2, to->born);
    atomic_store(&call->intent->ino2, to->ino);
    atomic_store(&call->intent->born, there ? born_of(&stx) : 0);
    atomic_store(&call->intent->ino, there ? ino_of(h, &stx) : 0);
}

int host_rename(HOST_T, struct pl_node *olddir, const char *oldname, struct pl_node *newdir,
                const char *newname, unsigned flags)
{
    struct host *h = host_of(tree);
    struct host_node *from = node_of(olddir), *to = node_of(newdir);
    int fromfd = host_fd(h, from), tofd = fromfd < 0 ? fromfd : host_fd(h, to);
    if (tofd < 0) {
        if (fromfd >= 0)
            host_fd_done(h, from);
        return tofd;
    }
    struct holder is = {0};
    int r = host_act(h, call);
    struct host_node *victim = r < 0 ? NULL : hold(h, tofd, newname, &is);
    struct host_node *leaves = flags & (RENAME_EXCHANGE | RENAME_NOREPLACE) ? NULL : victim;
    host_leaving(h, leaves);
    if (r == 0)
        r = host_act(h, call);
    note_rename(h, call, fromfd, oldname, &is);
    if (r == 0 && renameat2(fromfd, oldname, tofd, newname, flags) < 0)
        r = -errno;
    if (r == 0) {
        note_name(h, to, tofd, newname);
        if (flags & RENAME_EXCHANGE)
            note_name(h, from, fromfd, oldname);
    }
    host_end();
    host_left(h, leaves);
    hold_done(h, victim);
    host_fd_done(h, to);
    host_fd_done(h, from);
    return r;
}
