/* SPDX-License-Identifier: MIT */
/*
 * Opening. A file of a tree that has it on the host comes as the very descriptor that the tree
 * opened; everything else on the host is opened here as the caller would; a directory of a tree is
 * an item; and a file that the tree has no descriptor for has a body (trap_body.c).
 */
#include "doors/preload/shared.h"
#include "doors/trap_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What a tree's open is told: the rest is about names, and done by the time. */
#define TREE_FLAGS                                                                                 \
    (O_ACCMODE | O_APPEND | O_TRUNC | O_DIRECT | O_SYNC | O_DSYNC | O_NOATIME | O_NONBLOCK)

/* The descriptor becomes the program's; `drop` lets go of ours. Of one that can be written it does
 * so before the program goes on: a file that it has closed again is to be closed by all, so that it
 * can be run. */
static int64_t hand(struct tcall *c, int fd, int flags, struct pl_tree *tree, struct pl_file *drop)
{
    bool reads = (flags & O_ACCMODE) == O_RDONLY;
    int64_t r = reads ? give_fd(c, fd, flags & O_CLOEXEC) : add_fd(c, fd, flags & O_CLOEXEC);
    if (drop)
        pl_close(tree, &c->call, drop);
    else
        close(fd);
    return r;
}

static int64_t hand_over(struct tcall *c, int fd, int flags)
{
    return hand(c, fd, flags, NULL, NULL);
}

static int64_t open_host(struct tcall *c, const char *path, int flags, mode_t mode)
{
    if (flags & O_PATH) /* such descriptors cannot be handed over: the next best */
        flags = (flags & ~O_PATH) | O_RDONLY | O_NONBLOCK;
    struct waiting w; /* perhaps, for a FIFO's other end */
    as_caller(c);
    if (!(flags & O_NONBLOCK))
        wait_begin(c, &w);
    int fd = open(path, flags | O_CLOEXEC | O_NOCTTY, mode);
    int r = fd < 0 ? -errno : 0;
    if (!(flags & O_NONBLOCK))
        wait_end(&w);
    as_self();
    return r < 0 ? r : hand_over(c, fd, flags);
}

/* What is open for nothing but to be named by its descriptor, or listed by `file`. */
static int64_t open_node(struct tcall *c, const struct target *t, struct pl_file *file, int flags)
{
    int fd;
    struct place *place = target_place(c, t);
    int r = place ? item_node(c->t, place, file, flags, &fd) : -ENOMEM;
    if (!place && file)
        pl_close(t->top->tree, &c->call, file);
    place_unref(c->t, place);
    return r < 0 ? r : hand_over(c, fd, flags);
}

static int64_t open_dir(struct tcall *c, const struct target *t, int flags)
{
    struct pl_file *file;
    if (flags & O_CREAT || flags & O_ACCMODE || flags & O_TRUNC)
        return -EISDIR;
    int r = pl_open(t->top->tree, &c->call, t->node, O_RDONLY | O_DIRECTORY, &file);
    if (r == 0)
        preload_note_dir(c->view->preload, t->path, strlen(t->path));
    return r < 0 ? r : open_node(c, t, file, flags);
}

/* Gives the program the file that the tree has opened. */
static int64_t pass(struct tcall *c, const struct target *t, struct pl_file *file, int flags)
{
    int fd = pl_file_fd(t->top->tree, file);
    if (fd >= 0) {
        fcntl(fd, F_SETSIG, TRAP_TAG);
        known_add(c, fd, t);
        return hand(c, fd, flags, t->top->tree, file);
    }
    int64_t r = open_body(c, t, file, flags, &fd); /* takes the file over */
    return r < 0 ? r : hand_over(c, fd, flags);
}

static int64_t open_regular(struct tcall *c, const struct target *t, int flags)
{
    struct pl_file *file;
    int r = pl_open(t->top->tree, &c->call, t->node, flags & TREE_FLAGS, &file);
    return r < 0 ? r : pass(c, t, file, flags);
}

/* FIFOs, sockets, devices and links. */
static int64_t open_special(struct tcall *c, const struct target *t, int flags)
{
    char path[PATH_MAX];
    if (S_ISLNK(t->node->fmt))
        return -ELOOP;
    int r = node_host(c, t->top, t->node, path);
    return r < 0 ? -ENXIO : open_host(c, path, flags & ~(O_CREAT | O_EXCL), 0);
}

static int64_t open_new(struct tcall *c, const struct target *t, int flags, mode_t mode)
{
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *file;
    if (!(flags & O_CREAT))
        return -ENOENT;
    if (t->slash)
        return -EISDIR;
    int r = pl_create(t->top->tree, &c->call, t->dir, t->name,
                      flags & (TREE_FLAGS | O_CREAT | O_EXCL), mode & 07777, &node, &attr, &file);
    if (r < 0)
        return r;
    struct target made = *t;
    made.node = node;
    int64_t res = pass(c, &made, file, flags);
    pl_node_unref(node);
    return res;
}

static int64_t open_nameless(struct tcall *c, const struct target *t, int flags, mode_t mode)
{
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *file;
    if (!t->node)
        return -ENOENT;
    if (!S_ISDIR(t->node->fmt))
        return -ENOTDIR;
    int r = pl_tmpfile(t->top->tree, &c->call, t->node, flags & (TREE_FLAGS | O_EXCL), mode & 07777,
                       &node, &attr, &file);
    if (r < 0)
        return r;
    int fd = pl_file_fd(t->top->tree, file);
    int64_t res = -EOPNOTSUPP;
    if (fd >= 0)
        res = hand(c, fd, flags, t->top->tree, file);
    else
        pl_close(t->top->tree, &c->call, file);
    pl_node_unref(node);
    return res;
}

static int64_t open_target(struct tcall *c, const struct target *t, int flags, mode_t mode)
{
    if (!t->top)
        return open_host(c, t->path, flags, mode);
    if ((flags & O_TMPFILE) == O_TMPFILE)
        return open_nameless(c, t, flags, mode);
    if (!t->node)
        return open_new(c, t, flags, mode);
    if (flags & O_CREAT && flags & O_EXCL)
        return -EEXIST;
    if (flags & O_DIRECTORY && !S_ISDIR(t->node->fmt))
        return -ENOTDIR;
    if (flags & O_PATH)
        return open_node(c, t, NULL, flags);
    if (S_ISDIR(t->node->fmt))
        return open_dir(c, t, flags);
    return S_ISREG(t->node->fmt) ? open_regular(c, t, flags) : open_special(c, t, flags);
}

#define TMPFILE_BIT (O_TMPFILE & ~O_DIRECTORY)

/* What the kernel says of flags before it looks at the path. */
static bool flags_ok(int flags)
{
    if (flags & O_PATH)
        return true;
    if ((flags & (O_DIRECTORY | O_CREAT)) == (O_DIRECTORY | O_CREAT))
        return false;
    return !(flags & TMPFILE_BIT) || ((flags & O_TMPFILE) == O_TMPFILE && flags & O_ACCMODE);
}

/* What the preload asks for, when a program begins. */
static int64_t open_table(struct tcall *c, int flags)
{
    const uint64_t dev[2] = {c->t->scratch_dev, c->t->memfd_dev};
    int fd = preload_table_fd(c->view->preload, c->t->state_fd, c->t->opts.pass_from, dev);
    if (flags & ~(O_CLOEXEC | O_LARGEFILE))
        return -EACCES;
    return fd < 0 ? fd : give_fd(c, fd, flags & O_CLOEXEC);
}

static int64_t open_at(struct tcall *c, int dirfd, uint64_t addr, int flags, mode_t mode,
                       unsigned how)
{
    struct target t;
    if (!flags_ok(flags))
        return -EINVAL;
    if (flags & O_PATH)
        flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    if (!(flags & O_NOFOLLOW) && !(flags & O_CREAT && flags & O_EXCL))
        how |= WALK_FOLLOW;
    bool reads = !(flags & (O_ACCMODE | O_CREAT | O_TRUNC));
    unsigned quick = reads ? WALK_LOOKS | (how & ~(unsigned)WALK_FOLLOW ? 0 : WALK_TABLE) : 0;
    int64_t r = walk(c, dirfd, addr, how | quick, &t);
    if (r == 0 && t.plain) {
        int fd = look_open(c, t.path, flags);
        if (fd != LOOK_WALK)
            return fd < 0 ? fd : hand_over(c, fd, flags);
        r = walk_on(c, how, &t);
    }
    if (r == 0 && t.native && strcmp(t.path, PRELOAD_NAME) == 0)
        r = open_table(c, flags);
    else if (r == -ENOTDIR && t.node && flags & O_CREAT) /* "file/" */
        r = -EISDIR;
    if (r == 0)
        r = t.native ? TRAP_NATIVE : open_target(c, &t, flags, mode);
    target_done(&t);
    return r;
}

CALL(open, open_at(c, AT_FDCWD, ADDR(0), ARG(1), (mode_t)ADDR(2), 0))
CALL(creat, open_at(c, AT_FDCWD, ADDR(0), O_CREAT | O_WRONLY | O_TRUNC, (mode_t)ADDR(1), 0))
CALL(openat, open_at(c, ARG(0), ADDR(1), ARG(2), (mode_t)ADDR(3), 0))

int64_t call_openat2(struct tcall *c)
{
    struct open_how how = {0};
    if (ADDR(3) != sizeof(how))
        return ADDR(3) < sizeof(how) ? -EINVAL : -E2BIG;
    int r = peek(c, ADDR(2), &how, sizeof(how));
    if (r < 0)
        return r;
    uint64_t known = RESOLVE_BENEATH | RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS |
                     RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV | RESOLVE_CACHED;
    bool makes = how.flags & (O_CREAT | TMPFILE_BIT);
    uint64_t scopes = RESOLVE_BENEATH | RESOLVE_IN_ROOT;
    if (how.resolve & ~known || how.flags >> 32 || (how.resolve & scopes) == scopes ||
        how.mode & ~(uint64_t)(makes ? 07777 : 0) ||
        (how.flags & O_PATH &&
         how.flags & ~(uint64_t)(O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)))
        return -EINVAL;
    if (how.resolve & RESOLVE_CACHED) /* callers ask again without */
        return -EAGAIN;
    unsigned w = (how.resolve & RESOLVE_BENEATH ? (unsigned)WALK_BENEATH : 0u) |
                 (how.resolve & RESOLVE_IN_ROOT ? (unsigned)WALK_IN_ROOT : 0u) |
                 (how.resolve & RESOLVE_NO_SYMLINKS ? (unsigned)WALK_NO_LINKS : 0u) |
                 (how.resolve & RESOLVE_NO_MAGICLINKS ? (unsigned)WALK_NO_MAGIC : 0u);
    return open_at(c, ARG(0), ADDR(1), (int)how.flags, (mode_t)how.mode, w);
}

/* ---- listing ---- */

struct dirent64 {
    uint64_t ino;
    int64_t off;
    unsigned short reclen;
    unsigned char type;
    char name[];
};

struct listing {
    char *buf;
    size_t n, size;
    uint64_t next;
};

static uint64_t some_number(const char *name)
{
    uint64_t h = 14695981039346656037u;
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 1099511628211u;
    return h | 1;
}

static int fill(void *arg, const struct pl_dirent *ent)
{
    struct listing *l = arg;
    size_t len = strlen(ent->name), n = offsetof(struct dirent64, name) + len + 1;
    n = (n + 7) & ~(size_t)7;
    if (l->n + n > l->size)
        return 1;
    struct dirent64 *d = (struct dirent64 *)(l->buf + l->n);
    d->ino = ent->ino ? ent->ino : some_number(ent->name);
    d->off = (int64_t)ent->next;
    d->reclen = (unsigned short)n;
    d->type = (unsigned char)ent->type;
    memset(d->name, 0, n - offsetof(struct dirent64, name));
    memcpy(d->name, ent->name, len);
    l->n += n;
    l->next = ent->next;
    return 0;
}

static int64_t list(struct tcall *c, struct item *it, int fd)
{
    struct listing l = {.size = (uint32_t)ADDR(2)};
    if (!it->file)
        return -EBADF;
    if (l.size > 1 << 20)
        l.size = 1 << 20;
    if (!(l.buf = malloc(l.size + 1)))
        return -ENOMEM;
    off_t at = lseek(fd, 0, SEEK_CUR);
    pthread_mutex_lock(&it->lock);
    int64_t r = at < 0 ? -errno : pl_readdir(it->tree, &c->call, it->file, (uint64_t)at, fill, &l);
    pthread_mutex_unlock(&it->lock);
    if (r == 0 && l.n == 0 && l.size < 280) /* the next may not have fitted */
        r = l.size < 24 ? -EINVAL : 0;
    if (r == 0 && l.n > 0 && (r = poke(c, ADDR(1), l.buf, l.n)) == 0) {
        lseek(fd, (off_t)l.next, SEEK_SET);
        r = (int64_t)l.n;
    }
    free(l.buf);
    return r;
}

int64_t call_getdents64(struct tcall *c)
{
    int fd;
    if (ARG(0) == c->t->state_fd)
        return -EBADF;
    struct item *it = item_of(c, ARG(0), &fd);
    int64_t r = it && it->lent ? lent_take(c, ARG(0), &it, &fd) : 0;
    if (r == 0)
        r = it && it->kind == ITEM_NODE ? list(c, it, fd) : TRAP_NATIVE;
    if (fd >= 0)
        close(fd);
    item_put(c->t, it);
    return r;
}
