/* SPDX-License-Identifier: MIT */
/* The calls that only look; and the working directory. */
#include "doors/trap_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* ---- stat ---- */

static void attr_to_stat(const struct pl_attr *a, dev_t dev, struct stat *st)
{
    *st = (struct stat){
        .st_dev = dev,
        .st_ino = a->ino,
        .st_nlink = a->nlink,
        .st_mode = a->mode,
        .st_uid = a->uid,
        .st_gid = a->gid,
        .st_rdev = makedev(a->rdev_major, a->rdev_minor),
        .st_size = (off_t)a->size,
        .st_blksize = a->blksize ? a->blksize : 4096,
        .st_blocks = (blkcnt_t)a->blocks,
        .st_atim = a->atime,
        .st_mtim = a->mtime,
        .st_ctim = a->ctime,
    };
}

/* What fstat(2) says of a descriptor of the file, if it is on the host; but a name that is only the
 * tree's, and links that are none of its names, the tree alone knows. */
static int node_stat(struct tcall *c, const struct top *top, struct pl_node *node, struct stat *st)
{
    char path[PATH_MAX];
    struct pl_attr attr;
    bool host = node_host(c, top, node, path) == 0 && lstat(path, st) == 0;
    if (host && (S_ISDIR(st->st_mode) || st->st_nlink == 1))
        return 0;
    int r = pl_getattr(top->tree, &c->call, node, NULL, &attr);
    if (r == 0 && host)
        st->st_nlink = attr.nlink;
    else if (r == 0)
        attr_to_stat(&attr, top->dev, st);
    if (r == 0 && atomic_load(&c->t->nbodies))
        body_stat(c->t, node, st);
    return r;
}

static int target_stat(struct tcall *c, const struct target *t, struct stat *st)
{
    if (t->top)
        return t->node ? node_stat(c, t->top, t->node, st) : -ENOENT;
    as_caller(c);
    int r = lstat(t->path, st) < 0 ? -errno : 0;
    as_self();
    return r;
}

static int64_t stat_at(struct tcall *c, int dirfd, uint64_t path, uint64_t buf, unsigned flags)
{
    struct target t;
    struct stat st;
    int r = walk(c, dirfd, path, flags | WALK_TABLE | WALK_LOOKS, &t), f = LOOK_WALK;
    if (r == 0 && t.plain && (f = look_stat(c, t.path, flags, &st)) == LOOK_WALK)
        r = walk_on(c, flags, &t);
    if (r == 0 && t.native)
        r = TRAP_NATIVE;
    else if (r == 0 && (r = f == LOOK_WALK ? target_stat(c, &t, &st) : f) == 0)
        r = poke(c, buf, &st, sizeof(st));
    target_done(&t);
    return r;
}

CALL(stat, stat_at(c, AT_FDCWD, ADDR(0), ADDR(1), WALK_FOLLOW))
CALL(lstat, stat_at(c, AT_FDCWD, ADDR(0), ADDR(1), 0))

static unsigned at_flags(int flags)
{
    return (flags & AT_SYMLINK_NOFOLLOW ? 0u : WALK_FOLLOW) |
           (flags & AT_EMPTY_PATH ? (unsigned)WALK_EMPTY : 0u);
}

/* The item of a node that the descriptor stands for, with a reference; NULL: the kernel's. */
static struct item *node_of_fd(struct tcall *c, int fd)
{
    struct item *it = item_of(c, fd, NULL);
    if (it && it->kind != ITEM_STATE)
        return it;
    item_put(c->t, it);
    return NULL;
}

int64_t call_fstat(struct tcall *c)
{
    struct stat st;
    if (ARG(0) == c->t->state_fd)
        return -EBADF;
    struct item *it = node_of_fd(c, ARG(0));
    if (!it)
        return TRAP_NATIVE;
    int r = node_stat(c, it->place->top, it->place->node, &st);
    if (r == 0)
        r = poke(c, ADDR(1), &st, sizeof(st));
    item_put(c->t, it);
    return r;
}

int path_is_empty(struct tcall *c, uint64_t path, int flags)
{
    char first = 0;
    if (!(flags & AT_EMPTY_PATH))
        return 0;
    if (!path)
        return 1;
    return peek_raw(c, path, &first, 1) ? first == 0 : -EFAULT;
}

int64_t call_newfstatat(struct tcall *c)
{
    if (ARG(3) & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE))
        return -EINVAL;
    int r = path_is_empty(c, ADDR(1), ARG(3));
    if (r == 1 && ARG(0) >= 0) {
        struct seccomp_data d = *c->d;
        d.args[1] = d.args[2];
        struct tcall f = *c;
        f.d = &d;
        return call_fstat(&f);
    }
    return r < 0 ? r : stat_at(c, ARG(0), ADDR(1), ADDR(2), at_flags(ARG(3)));
}

static void stat_to_statx(const struct stat *st, struct statx *sx)
{
    *sx = (struct statx){
        .stx_mask = STATX_BASIC_STATS,
        .stx_blksize = (uint32_t)st->st_blksize,
        .stx_nlink = (uint32_t)st->st_nlink,
        .stx_uid = st->st_uid,
        .stx_gid = st->st_gid,
        .stx_mode = (uint16_t)st->st_mode,
        .stx_ino = st->st_ino,
        .stx_size = (uint64_t)st->st_size,
        .stx_blocks = (uint64_t)st->st_blocks,
        .stx_atime = {.tv_sec = st->st_atim.tv_sec, .tv_nsec = (uint32_t)st->st_atim.tv_nsec},
        .stx_mtime = {.tv_sec = st->st_mtim.tv_sec, .tv_nsec = (uint32_t)st->st_mtim.tv_nsec},
        .stx_ctime = {.tv_sec = st->st_ctim.tv_sec, .tv_nsec = (uint32_t)st->st_ctim.tv_nsec},
        .stx_dev_major = major(st->st_dev),
        .stx_dev_minor = minor(st->st_dev),
        .stx_rdev_major = major(st->st_rdev),
        .stx_rdev_minor = minor(st->st_rdev),
    };
}

static int target_statx(struct tcall *c, const struct target *t, int flags, unsigned mask,
                        struct statx *sx)
{
    char path[PATH_MAX];
    struct stat st;
    int r = -ENOENT;
    if (target_host(c, t, path) == 0) {
        as_caller(c);
        r = statx(AT_FDCWD, path, (flags & AT_STATX_SYNC_TYPE) | AT_SYMLINK_NOFOLLOW, mask, sx) < 0
                ? -errno
                : 0;
        as_self();
        if (!t->top || (r == 0 && (S_ISDIR(sx->stx_mode) || sx->stx_nlink == 1)))
            return r;
    }
    bool host = r == 0;
    r = target_stat(c, t, &st); /* see node_stat() */
    if (r == 0 && host)
        sx->stx_nlink = (uint32_t)st.st_nlink;
    else if (r == 0)
        stat_to_statx(&st, sx);
    return r;
}

int64_t call_statx(struct tcall *c)
{
    struct target t;
    struct statx sx;
    int flags = ARG(2), f = LOOK_WALK;
    unsigned how = at_flags(flags), mask = (unsigned)ARG(3);
    int r = walk(c, ARG(0), ADDR(1), how | WALK_TABLE | WALK_LOOKS, &t);
    if (r == 0 && t.plain && (f = look_statx(c, t.path, how, mask, &sx)) == LOOK_WALK)
        r = walk_on(c, how, &t);
    if (r == 0 && t.native)
        r = TRAP_NATIVE;
    else if (r == 0)
        r = f == LOOK_WALK ? target_statx(c, &t, flags, mask, &sx) : f;
    if (r == 0)
        r = poke(c, ADDR(4), &sx, sizeof(sx));
    target_done(&t);
    return r;
}

/* ---- access, readlink, statfs ---- */

static int64_t access_at(struct tcall *c, int dirfd, uint64_t addr, int mode, int flags)
{
    struct target t;
    char path[PATH_MAX];
    if (flags & ~(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) || mode & ~7)
        return -EINVAL;
    unsigned how = at_flags(flags);
    unsigned table = flags & ~AT_EACCESS ? 0 : WALK_TABLE;
    int r = walk(c, dirfd, addr, how | table | WALK_LOOKS, &t), f = LOOK_WALK;
    if (r == 0 && t.plain && (f = look_access(c, t.path, mode)) == LOOK_WALK)
        r = walk_on(c, how, &t);
    if (r == 0 && t.native) {
        r = TRAP_NATIVE;
    } else if (f != LOOK_WALK) {
        r = f;
    } else if (r == 0 && t.top && !t.node) {
        r = -ENOENT;
    } else if (r == 0 && t.top && !S_ISLNK(t.node->fmt)) {
        r = mode == F_OK ? 0 : pl_access(t.top->tree, &c->call, t.node, mode);
    } else if (r == 0 && (r = target_host(c, &t, path)) == 0) {
        as_caller(c);
        r = faccessat(AT_FDCWD, path, mode, AT_EACCESS | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
        as_self();
    }
    target_done(&t);
    return r;
}

CALL(access, access_at(c, AT_FDCWD, ADDR(0), ARG(1), 0))
CALL(faccessat, access_at(c, ARG(0), ADDR(1), ARG(2), 0))
CALL(faccessat2, access_at(c, ARG(0), ADDR(1), ARG(2), ARG(3)))

static int64_t readlink_at(struct tcall *c, int dirfd, uint64_t addr, uint64_t buf, int size)
{
    struct target t;
    char path[PATH_MAX], link[PATH_MAX];
    if (size <= 0)
        return -EINVAL;
    unsigned how = dirfd == AT_FDCWD ? 0 : WALK_EMPTY;
    int r = walk(c, dirfd, addr, how | WALK_TABLE | WALK_LOOKS, &t), f = LOOK_WALK;
    if (r == 0 && t.plain && (f = look_readlink(c, t.path, link, sizeof(link))) == LOOK_WALK)
        r = walk_on(c, how, &t);
    if (f != LOOK_WALK) {
        r = f;
    } else if (r == 0 && !t.top && strncmp(t.path, "/proc/", 6) == 0) {
        r = proc_link(c, t.path, false, link);
        if (r == -EAGAIN)
            r = t.native ? TRAP_NATIVE : (int)readlink(t.path, link, sizeof(link));
        if (r == -1)
            r = -errno;
    } else if (r == 0 && t.native) {
        r = TRAP_NATIVE;
    } else if (r == 0 && t.top && !t.node) {
        r = -ENOENT;
    } else if (r == 0 && t.top) {
        r = S_ISLNK(t.node->fmt) ? pl_readlink(t.top->tree, &c->call, t.node, link, sizeof(link))
                                 : -EINVAL;
    } else if (r == 0 && (r = target_host(c, &t, path)) == 0) {
        as_caller(c);
        r = (int)readlink(path, link, sizeof(link));
        r = r < 0 ? -errno : r;
        as_self();
    }
    if (r >= 0) {
        r = r > size ? size : r;
        int p = poke(c, buf, link, (size_t)r);
        r = p < 0 ? p : r;
    }
    target_done(&t);
    return r;
}

CALL(readlink, readlink_at(c, AT_FDCWD, ADDR(0), ADDR(1), ARG(2)))
CALL(readlinkat, readlink_at(c, ARG(0), ADDR(1), ADDR(2), ARG(3)))

static int node_statfs(struct tcall *c, const struct top *top, struct pl_node *node,
                       struct statfs *st)
{
    char path[PATH_MAX];
    if (node_host(c, top, node, path) == 0)
        return statfs(path, st) < 0 ? -errno : 0;
    return pl_statfs(top->tree, &c->call, node, st);
}

int64_t call_statfs(struct tcall *c)
{
    struct target t;
    struct statfs st;
    memset(&st, 0, sizeof(st));
    int r = walk(c, AT_FDCWD, ADDR(0), WALK_FOLLOW, &t);
    if (r == 0 && t.native)
        r = TRAP_NATIVE;
    else if (r == 0 && t.top)
        r = t.node ? node_statfs(c, t.top, t.node, &st) : -ENOENT;
    else if (r == 0 && (r = as_caller(c)) == 0)
        r = statfs(t.path, &st) < 0 ? -errno : 0;
    if (r == 0)
        r = poke(c, ADDR(1), &st, sizeof(st));
    target_done(&t);
    return r;
}

int64_t call_fstatfs(struct tcall *c)
{
    struct statfs st;
    memset(&st, 0, sizeof(st));
    if (ARG(0) == c->t->state_fd)
        return -EBADF;
    struct item *it = node_of_fd(c, ARG(0));
    if (!it)
        return TRAP_NATIVE;
    int r = node_statfs(c, it->place->top, it->place->node, &st);
    if (r == 0)
        r = poke(c, ADDR(1), &st, sizeof(st));
    item_put(c->t, it);
    return r;
}

/* ---- the working directory ---- */

int64_t call_getcwd(struct tcall *c)
{
    char path[PATH_MAX], root[PATH_MAX];
    if (!c->state || !c->state->place)
        return TRAP_NATIVE;
    place_path(c->t, c->state->place, path);
    if (c->state->root) {
        const char *rest = path;
        place_path(c->t, c->state->root, root);
        size_t len = strlen(root) > 1 ? strlen(root) : 0;
        if (strncmp(path, root, len) == 0 && (path[len] == '/' || !path[len]))
            rest = path[len] ? path + len : "/";
        memmove(path, rest, strlen(rest) + 1);
    }
    size_t n = strlen(path) + 1;
    if (n > ADDR(1))
        return -ERANGE;
    int r = poke(c, ADDR(0), path, n);
    return r < 0 ? r : (int64_t)n;
}

static struct place *root_of(struct tcall *c)
{
    return c->state ? c->state->root : NULL;
}

/* May the caller go there? In a tree, or on the host. */
static int may_enter(struct tcall *c, const struct target *t)
{
    struct stat st;
    if (t->top)
        return !t->node                 ? -ENOENT
               : !S_ISDIR(t->node->fmt) ? -ENOTDIR
                                        : pl_access(t->top->tree, &c->call, t->node, X_OK);
    as_caller(c);
    int r = stat(t->path, &st) < 0 ? -errno : S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
    if (r == 0 && faccessat(AT_FDCWD, t->path, X_OK, AT_EACCESS) < 0)
        r = -errno;
    as_self();
    return r;
}

/* To a place in a tree, or to one on the host that the kernel would not find by itself. */
static int64_t go_to(struct tcall *c, const struct target *t)
{
    struct place *place = target_place(c, t);
    int r = place ? set_state(c, c->view, place, root_of(c)) : -ENOMEM;
    place_unref(c->t, place);
    return r;
}

/* To where the kernel goes by itself: its working directory counts again. */
static int64_t go_native(struct tcall *c)
{
    int r = c->state && c->state->place ? set_state(c, c->view, NULL, root_of(c)) : 0;
    return r < 0 ? r : TRAP_NATIVE;
}

int64_t call_chdir(struct tcall *c)
{
    struct target t;
    int64_t r = walk(c, AT_FDCWD, ADDR(0), WALK_FOLLOW, &t);
    if (r == 0 && t.native && !(c->state && c->state->place))
        r = TRAP_NATIVE;
    else if (r == 0 && (r = may_enter(c, &t)) == 0)
        r = t.native ? go_native(c) : go_to(c, &t);
    target_done(&t);
    return r;
}

int64_t call_fchdir(struct tcall *c)
{
    struct stat st;
    int fd;
    if (ARG(0) == c->t->state_fd)
        return -EBADF;
    struct item *it = item_of(c, ARG(0), &fd);
    if (it && it->kind != ITEM_STATE) {
        struct place *p = it->place;
        int r =
            !S_ISDIR(p->node->fmt) ? -ENOTDIR : pl_access(p->top->tree, &c->call, p->node, X_OK);
        if (r == 0)
            r = set_state(c, c->view, p, root_of(c));
        close(fd);
        item_put(c->t, it);
        return r;
    }
    if (fd >= 0)
        close(fd);
    item_put(c->t, it);
    fd = who_fd(c->w, ARG(0));
    if (fd < 0)
        return TRAP_NATIVE;
    bool goes = fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
    close(fd);
    return goes ? go_native(c) : TRAP_NATIVE;
}

/* The kernel's root stays what it is: from now on absolute paths are looked up here. */
int64_t call_chroot(struct tcall *c)
{
    struct target t;
    if (c->w->uid != 0)
        return -EPERM;
    int64_t r = walk(c, AT_FDCWD, ADDR(0), WALK_FOLLOW, &t);
    if (r == 0)
        r = may_enter(c, &t);
    struct place *root = r == 0 ? target_place(c, &t) : NULL;
    if (c->t->opts.pass_from) /* programs that go by it do not know of roots */
        preload_stale(c->view->preload);
    if (r == 0)
        r = root ? set_state(c, c->view, c->state ? c->state->place : NULL, root) : -ENOMEM;
    place_unref(c->t, root);
    target_done(&t);
    return r;
}
