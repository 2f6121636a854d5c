/* SPDX-License-Identifier: MIT */
/* The calls that make, move, remove and change. In a tree they are the tree's ops; on the host,
 * where the kernel would not find the same by itself, they are done here as the caller. */
#include "doors/trap_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <utime.h>

/* A system call on the host as the caller. */
#define AS_CALLER(c, r, call)                                                                      \
    do {                                                                                           \
        as_caller(c);                                                                              \
        r = (call) < 0 ? -errno : 0;                                                               \
        as_self();                                                                                 \
    } while (0)

/* ---- new names ---- */

static int64_t make(struct tcall *c, int dirfd, uint64_t addr, const struct pl_make *m)
{
    struct target t;
    struct pl_node *node;
    struct pl_attr attr;
    int r = walk(c, dirfd, addr, WALK_PARENT, &t);
    if (r == -ENOTDIR && t.top && t.dir && t.slash)
        r = -EEXIST; /* "file/" */
    if (r == 0 && t.native) {
        r = TRAP_NATIVE;
    } else if (r == 0 && !t.top) {
        if (S_ISDIR(m->mode))
            AS_CALLER(c, r, mkdir(t.path, m->mode & 07777));
        else if (S_ISLNK(m->mode))
            AS_CALLER(c, r, symlink(m->target, t.path));
        else
            AS_CALLER(c, r, mknod(t.path, m->mode, makedev(m->rdev_major, m->rdev_minor)));
    } else if (r == 0 && (t.node || !t.dir)) {
        r = -EEXIST;
    } else if (r == 0 && t.slash && !S_ISDIR(m->mode)) {
        r = -ENOENT;
    } else if (r == 0) {
        r = pl_make(t.top->tree, &c->call, t.dir, t.name, m, &node, &attr);
        if (r == 0)
            pl_node_unref(node);
    }
    target_done(&t);
    return r;
}

static int64_t mkdir_at(struct tcall *c, int dirfd, uint64_t addr, uint64_t mode)
{
    return make(c, dirfd, addr, &(struct pl_make){.mode = S_IFDIR | (mode & 01777)});
}

CALL(mkdir, mkdir_at(c, AT_FDCWD, ADDR(0), ADDR(1)))
CALL(mkdirat, mkdir_at(c, ARG(0), ADDR(1), ADDR(2)))

static int64_t mknod_at(struct tcall *c, int dirfd, uint64_t addr, uint64_t mode, uint64_t dev)
{
    /* the number as the kernel's calls have it */
    struct pl_make m = {.mode = (uint32_t)mode,
                        .rdev_major = (dev >> 8) & 0xfff,
                        .rdev_minor = (dev & 0xff) | ((dev >> 12) & 0xfff00)};
    if (!(m.mode & S_IFMT))
        m.mode |= S_IFREG;
    if (S_ISDIR(m.mode))
        return -EPERM;
    if (S_ISLNK(m.mode))
        return -EINVAL;
    return make(c, dirfd, addr, &m);
}

CALL(mknod, mknod_at(c, AT_FDCWD, ADDR(0), ADDR(1), ADDR(2)))
CALL(mknodat, mknod_at(c, ARG(0), ADDR(1), ADDR(2), ADDR(3)))

static int64_t symlink_at(struct tcall *c, uint64_t target, int dirfd, uint64_t addr)
{
    char link[PATH_MAX];
    int r = peek_string(c, target, link, sizeof(link));
    if (r == 0)
        return -ENOENT;
    if (r < 0)
        return r;
    return make(c, dirfd, addr, &(struct pl_make){.mode = S_IFLNK | 0777, .target = link});
}

CALL(symlink, symlink_at(c, ADDR(0), AT_FDCWD, ADDR(1)))
CALL(symlinkat, symlink_at(c, ADDR(0), ARG(1), ADDR(2)))

int host_room(struct tcall *c, const struct target *t, char path[PATH_MAX])
{
    struct pl_node *node;
    struct pl_attr attr;
    if (!t->top)
        return target_host(c, t, path);
    if (t->node || !t->dir)
        return -EEXIST;
    struct pl_make m = {.mode = S_IFREG | 0600};
    int r = pl_make(t->top->tree, &c->call, t->dir, t->name, &m, &node, &attr);
    if (r < 0)
        return r;
    r = node_host(c, t->top, node, path);
    if (r < 0)
        pl_remove(t->top->tree, &c->call, t->dir, t->name, 0);
    else
        AS_CALLER(c, r, unlink(path));
    pl_node_unref(node);
    return r < 0 ? -EOPNOTSUPP : 0;
}

/* A file that has no name in a tree (a nameless one, by its descriptor) gets one. */
static int link_host(struct tcall *c, const struct target *from, const struct target *to)
{
    char path[PATH_MAX];
    int r;
    bool magic = strncmp(from->path, "/proc/", 6) == 0;
    if (to->top && !magic)
        return -EXDEV;
    r = host_room(c, to, path);
    if (r == 0)
        AS_CALLER(c, r,
                  linkat(AT_FDCWD, from->path, AT_FDCWD, path, magic ? AT_SYMLINK_FOLLOW : 0));
    return r;
}

/* `from` as linkat(2) has it, by an empty path: the descriptor. */
static int link_from(struct tcall *c, int dirfd, uint64_t addr, int flags, struct target *t)
{
    unsigned how = (flags & AT_SYMLINK_FOLLOW ? (unsigned)WALK_FOLLOW : 0u) |
                   (flags & AT_EMPTY_PATH ? (unsigned)WALK_EMPTY : 0u);
    char first = 0;
    int r = walk(c, dirfd, addr, how, t);
    if (r == 0 && t->native && flags & AT_EMPTY_PATH && dirfd >= 0 &&
        peek(c, addr, &first, 1) == 0 && !first)
        snprintf(t->path, sizeof(t->path), "/proc/%d/fd/%d", c->w->tid, dirfd);
    return r;
}

/* What the kernel has not been asked yet. */
static int is_there(struct tcall *c, const struct target *t)
{
    struct stat st;
    int r;
    AS_CALLER(c, r, lstat(t->path, &st));
    return r;
}

static int64_t link_at(struct tcall *c, int fd1, uint64_t addr1, int fd2, uint64_t addr2, int flags)
{
    struct target from, to;
    struct pl_attr attr;
    if (flags & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH))
        return -EINVAL;
    int r = link_from(c, fd1, addr1, flags, &from), r2 = walk(c, fd2, addr2, WALK_PARENT, &to);
    r = r < 0 ? r : r2;
    if (r == 0 && from.native && to.native)
        r = TRAP_NATIVE;
    else if (r == 0 && from.top && !from.node)
        r = -ENOENT;
    else if (r == 0 && !from.top && (r = is_there(c, &from)) < 0)
        ;
    else if (r == 0 && to.top && (to.node || !to.dir))
        r = -EEXIST;
    else if (r == 0 && !from.top)
        r = link_host(c, &from, &to);
    else if (r == 0 && from.top != to.top)
        r = -EXDEV;
    else if (r == 0 && S_ISDIR(from.node->fmt))
        r = -EPERM;
    else if (r == 0 && to.slash)
        r = -ENOENT;
    else if (r == 0)
        r = pl_link(to.top->tree, &c->call, from.node, to.dir, to.name, &attr);
    target_done(&from);
    target_done(&to);
    return r;
}

CALL(link, link_at(c, AT_FDCWD, ADDR(0), AT_FDCWD, ADDR(1), 0))
CALL(linkat, link_at(c, ARG(0), ADDR(1), ARG(2), ADDR(3), ARG(4)))

/* ---- names taken away, and moved ---- */

/* What is named is a root, or by "." or "..". */
static int no_name(const struct target *t, int busy, int dot)
{
    return strcmp(t->name, ".") == 0                      ? dot
           : strcmp(t->name, "..") == 0 && dot == -EINVAL ? -ENOTEMPTY
           : strcmp(t->name, "..") == 0                   ? dot
                                                          : busy;
}

static int64_t remove_at(struct tcall *c, int dirfd, uint64_t addr, int flags)
{
    struct target t;
    bool rmdir = flags & AT_REMOVEDIR;
    if (flags & ~AT_REMOVEDIR)
        return -EINVAL;
    int r = walk(c, dirfd, addr, WALK_PARENT, &t);
    if (r == 0 && t.native)
        r = TRAP_NATIVE;
    else if (r == 0 && !t.top)
        AS_CALLER(c, r, unlinkat(AT_FDCWD, t.path, flags));
    else if (r == 0 && !t.dir && !S_ISDIR(t.node->fmt))
        r = rmdir ? -ENOTDIR : -EBUSY;
    else if (r == 0 && !t.dir)
        r = no_name(&t, rmdir ? -EBUSY : -EISDIR, rmdir ? -EINVAL : -EISDIR);
    else if (r == 0 && !t.node)
        r = -ENOENT;
    else if (r == 0)
        r = pl_remove(t.top->tree, &c->call, t.dir, t.name, flags);
    if (r == 0 && rmdir && t.top)
        places_gone(c->t, t.path);
    target_done(&t);
    return r;
}

CALL(rmdir, remove_at(c, AT_FDCWD, ADDR(0), AT_REMOVEDIR))
CALL(unlink, remove_at(c, AT_FDCWD, ADDR(0), 0))
CALL(unlinkat, remove_at(c, ARG(0), ADDR(1), ARG(2)))

static int move(struct tcall *c, const struct target *from, const struct target *to, unsigned flags)
{
    if (from->top != to->top && !(from->top && !from->dir))
        return -EXDEV;
    if (!from->dir || !to->dir)
        return no_name(from->dir ? to : from, -EBUSY, -EBUSY);
    if (!from->node)
        return -ENOENT;
    if (to->slash && !S_ISDIR(from->node->fmt))
        return -ENOTDIR;
    size_t n = strlen(from->path);
    if (S_ISDIR(from->node->fmt) && strncmp(to->path, from->path, n) == 0 && to->path[n] == '/')
        return -EINVAL;
    int r = pl_rename(from->top->tree, &c->call, from->dir, from->name, to->dir, to->name, flags);
    if (r == 0 && to->node && S_ISDIR(to->node->fmt) && !(flags & RENAME_EXCHANGE))
        places_gone(c->t, to->path);
    if (r == 0)
        places_moved(c->t, from->path, to->path, flags & RENAME_EXCHANGE);
    if (r == 0 && (S_ISDIR(from->node->fmt) || flags & RENAME_EXCHANGE))
        preload_renamed(c->view->preload, from->path, to->path, flags & RENAME_EXCHANGE);
    return r;
}

static int64_t rename_at(struct tcall *c, int fd1, uint64_t addr1, int fd2, uint64_t addr2,
                         unsigned flags)
{
    struct target from, to;
    if (flags & ~7u || (flags & RENAME_EXCHANGE && flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)))
        return -EINVAL;
    int r = walk(c, fd1, addr1, WALK_PARENT, &from), r2 = walk(c, fd2, addr2, WALK_PARENT, &to);
    r = r < 0 ? r : r2;
    if (r == 0 && from.native && to.native)
        r = TRAP_NATIVE;
    else if (r == 0 && !from.top && !to.top)
        AS_CALLER(c, r, renameat2(AT_FDCWD, from.path, AT_FDCWD, to.path, flags));
    else if (r == 0)
        r = move(c, &from, &to, flags);
    target_done(&from);
    target_done(&to);
    return r;
}

CALL(rename, rename_at(c, AT_FDCWD, ADDR(0), AT_FDCWD, ADDR(1), 0))
CALL(renameat, rename_at(c, ARG(0), ADDR(1), ARG(2), ADDR(3), 0))
CALL(renameat2, rename_at(c, ARG(0), ADDR(1), ARG(2), ADDR(3), (unsigned)ADDR(4)))

/* ---- attributes ---- */

int target_of_fd(struct tcall *c, int fd, bool writes, struct target *ret)
{
    char path[PATH_MAX];
    struct stat st;
    memset(ret, 0, sizeof(*ret));
    if (fd == c->t->state_fd)
        return -EBADF;
    int copy = who_fd(c->w, fd), r = TRAP_NATIVE;
    if (copy < 0)
        return TRAP_NATIVE;
    struct item *it = item_at(c, copy);
    if (it && it->kind != ITEM_STATE) {
        place_path(c->t, it->place, ret->path);
        ret->top = it->place->top;
        ret->node = pl_node_ref(it->place->node);
        r = it->named_only ? -EBADF : 0;
        if (it->kind == ITEM_BODY)
            body_sync(it); /* times that are set now are not to be those of the writing */
    } else if (writes && fcntl(copy, F_GETSIG) == TRAP_TAG &&
               (fcntl(copy, F_GETFL) & O_ACCMODE) == O_RDONLY && fstat(copy, &st) == 0) {
        /* It may be what a lower tree holds, which is not to be changed. One that is open for
         * writing was copied up, if it had to be, when it was opened. */
        struct place *place;
        r = st.st_nlink == 0 ? TRAP_NATIVE : -EROFS;
        if (st.st_nlink > 0 &&
            (known_find(c->t, &st, path, &place) || known_back(c, copy, &st, path, &place))) {
            ret->top = place->top;
            ret->node = pl_node_ref(place->node);
            place_unref(c->t, place);
            r = 0;
        }
    }
    item_put(c->t, it);
    close(copy);
    return r;
}

/* What a change of attributes is to the host. */
static int set_host(struct tcall *c, const char *path, const struct pl_setattr *s,
                    const struct timespec tv[2], bool follow)
{
    int r, flags = follow ? 0 : AT_SYMLINK_NOFOLLOW;
    if (s->valid & PL_SET_MODE)
        AS_CALLER(c, r, fchmodat(AT_FDCWD, path, s->mode, flags));
    else if (s->valid & PL_SET_SIZE)
        AS_CALLER(c, r, truncate(path, (off_t)s->size));
    else if (tv)
        AS_CALLER(c, r, utimensat(AT_FDCWD, path, tv, flags));
    else
        AS_CALLER(c, r,
                  fchownat(AT_FDCWD, path, s->valid & PL_SET_UID ? s->uid : (uid_t)-1,
                           s->valid & PL_SET_GID ? s->gid : (gid_t)-1, flags));
    return r;
}

static int set_tree(struct tcall *c, const struct target *t, const struct pl_setattr *s)
{
    struct pl_attr attr;
    if (!t->node)
        return -ENOENT;
    if (s->valid & PL_SET_MODE && S_ISLNK(t->node->fmt))
        return -EOPNOTSUPP;
    if (s->valid & PL_SET_SIZE && !S_ISREG(t->node->fmt))
        return S_ISDIR(t->node->fmt) ? -EISDIR : -EINVAL;
    return s->valid ? pl_setattr(t->top->tree, &c->call, t->node, NULL, s, &attr) : 0;
}

static int64_t set_at(struct tcall *c, int dirfd, uint64_t addr, struct pl_setattr s,
                      const struct timespec tv[2], int flags)
{
    struct target t;
    if (flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))
        return -EINVAL;
    unsigned how = (flags & AT_SYMLINK_NOFOLLOW ? 0u : (unsigned)WALK_FOLLOW) |
                   (flags & AT_EMPTY_PATH ? (unsigned)WALK_EMPTY : 0u);
    int r = walk(c, dirfd, addr, how, &t);
    if (r == 0 && t.native)
        r = TRAP_NATIVE;
    else if (r == 0)
        r = t.top ? set_tree(c, &t, &s)
                  : set_host(c, t.path, &s, tv, !(flags & AT_SYMLINK_NOFOLLOW));
    target_done(&t);
    return r;
}

static int64_t set_fd(struct tcall *c, int fd, struct pl_setattr s)
{
    struct target t;
    int r = target_of_fd(c, fd, true, &t);
    if (r == 0)
        r = set_tree(c, &t, &s);
    target_done(&t);
    return r;
}

static struct pl_setattr with_mode(uint64_t mode)
{
    return (struct pl_setattr){.valid = PL_SET_MODE, .mode = mode & 07777};
}

CALL(chmod, set_at(c, AT_FDCWD, ADDR(0), with_mode(ADDR(1)), NULL, 0))
CALL(fchmod, set_fd(c, ARG(0), with_mode(ADDR(1))))
CALL(fchmodat, set_at(c, ARG(0), ADDR(1), with_mode(ADDR(2)), NULL, 0))
CALL(fchmodat2, set_at(c, ARG(0), ADDR(1), with_mode(ADDR(2)), NULL, ARG(3)))

static struct pl_setattr with_owner(uint64_t uid, uint64_t gid)
{
    struct pl_setattr s = {.uid = (uid_t)uid, .gid = (gid_t)gid};
    if (s.uid != (uid_t)-1)
        s.valid |= PL_SET_UID;
    if (s.gid != (gid_t)-1)
        s.valid |= PL_SET_GID;
    return s;
}

CALL(chown, set_at(c, AT_FDCWD, ADDR(0), with_owner(ADDR(1), ADDR(2)), NULL, 0))
CALL(lchown, set_at(c, AT_FDCWD, ADDR(0), with_owner(ADDR(1), ADDR(2)), NULL, AT_SYMLINK_NOFOLLOW))
CALL(fchown, set_fd(c, ARG(0), with_owner(ADDR(1), ADDR(2))))
CALL(fchownat, set_at(c, ARG(0), ADDR(1), with_owner(ADDR(2), ADDR(3)), NULL, ARG(4)))

/* ---- times ---- */

static int time_of(const struct timespec *t, uint32_t set, uint32_t now, uint32_t *valid,
                   struct timespec *ret)
{
    if (t->tv_nsec == UTIME_OMIT)
        return 0;
    if (t->tv_nsec != UTIME_NOW && (t->tv_nsec < 0 || t->tv_nsec > 999999999))
        return -EINVAL;
    *valid |= t->tv_nsec == UTIME_NOW ? now : set;
    *ret = *t;
    return 0;
}

static int64_t utimens(struct tcall *c, int dirfd, uint64_t addr, const struct timespec tv[2],
                       int flags)
{
    struct pl_setattr s = {0};
    int r = time_of(&tv[0], PL_SET_ATIME, PL_SET_ATIME_NOW, &s.valid, &s.atime);
    if (r == 0)
        r = time_of(&tv[1], PL_SET_MTIME, PL_SET_MTIME_NOW, &s.valid, &s.mtime);
    if (r < 0)
        return r;
    if (!addr && dirfd >= 0)
        return set_fd(c, dirfd, s);
    return set_at(c, dirfd, addr, s, tv, flags);
}

static const struct timespec now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};

int64_t call_utimensat(struct tcall *c)
{
    struct timespec tv[2];
    int r = ADDR(2) ? peek(c, ADDR(2), tv, sizeof(tv)) : 0;
    return r < 0 ? r : utimens(c, ARG(0), ADDR(1), ADDR(2) ? tv : now, ARG(3));
}

static int64_t with_timeval(struct tcall *c, int dirfd, uint64_t addr, uint64_t at)
{
    struct timeval v[2];
    int r = at ? peek(c, at, v, sizeof(v)) : 0;
    if (r < 0)
        return r;
    if (!at)
        return utimens(c, dirfd, addr, now, 0);
    if (v[0].tv_usec < 0 || v[0].tv_usec > 999999 || v[1].tv_usec < 0 || v[1].tv_usec > 999999)
        return -EINVAL;
    struct timespec tv[2] = {{v[0].tv_sec, v[0].tv_usec * 1000},
                             {v[1].tv_sec, v[1].tv_usec * 1000}};
    return utimens(c, dirfd, addr, tv, 0);
}

CALL(utimes, with_timeval(c, AT_FDCWD, ADDR(0), ADDR(1)))
CALL(futimesat, with_timeval(c, ARG(0), ADDR(1), ADDR(2)))

int64_t call_utime(struct tcall *c)
{
    struct utimbuf b = {0};
    int r = ADDR(1) ? peek(c, ADDR(1), &b, sizeof(b)) : 0;
    if (r < 0)
        return r;
    struct timespec tv[2] = {{b.actime, 0}, {b.modtime, 0}};
    return utimens(c, AT_FDCWD, ADDR(0), ADDR(1) ? tv : now, 0);
}

int64_t call_truncate(struct tcall *c)
{
    struct pl_setattr s = {.valid = PL_SET_SIZE, .size = ADDR(1)};
    if ((int64_t)ADDR(1) < 0)
        return -EINVAL;
    return set_at(c, AT_FDCWD, ADDR(0), s, NULL, 0);
}
