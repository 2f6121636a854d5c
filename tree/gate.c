/* SPDX-License-Identifier: MIT */
/*
 * The gate: the one way into a tree's table.
 *
 * Each function checks its arguments, finds the first tree from the top down that has the op or
 * watches, lets the watcher see it go by, and checks the result. Layers that do neither cost one
 * comparison. No state of its own, no locks.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <plenum/tree.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

/* ---- passing an op ---- */

static bool watches(struct pl_tree *t)
{
    return (t->ops->before || t->ops->after) && (!t->ops->watching || t->ops->watching(t));
}

static int64_t before(struct pl_tree *t, struct pl_call *c, struct pl_event *ev, bool watched)
{
    return watched && t->ops->before ? t->ops->before(t, c, ev) : 0;
}

/* Whether the op gives out a node or a file, which could not be taken back. */
static bool gives(enum pl_op op)
{
    switch (op) {
    case PL_OP_attach:
    case PL_OP_lookup:
    case PL_OP_make:
    case PL_OP_open:
    case PL_OP_create:
    case PL_OP_tmpfile:
    case PL_OP_find:
        return true;
    default:
        return false;
    }
}

/* What the caller is told: the result, unless the watcher has another word for it. */
static int64_t after(struct pl_tree *t, struct pl_call *c, struct pl_event *ev, int64_t r,
                     bool watched)
{
    int told = 0;
    if (!watched || !t->ops->after)
        return r;
    ev->told = r >= 0 && !gives(ev->op) ? &told : NULL;
    t->ops->after(t, c, ev, r);
    return told < 0 ? told : r;
}

/* A result that no door could pass on is a bug in the source: caught here in a debug build. */
static int64_t checked(int64_t r, int64_t max)
{
    if (r == -ENOSYS)
        r = -EOPNOTSUPP;
    assert(r >= -4095 && r <= max);
    return r;
}

#define EV(...) (&(struct pl_event){__VA_ARGS__})

/*
 * Runs op `name` of tree `t`: the tree's own, else the lower one's through the gate, else
 * `otherwise` (evaluated with `t` being the source). `args` is the parenthesized list after (t, c).
 */
#define UNPAREN(...)               __VA_ARGS__
#define CALL_OP(name, args)        t->ops->name(t, c, UNPAREN args)
#define CALL_LOWER(name, args)     pl_##name(t->lower, c, UNPAREN args)
#define OWN(name, args, otherwise) (t->ops->name ? CALL_OP(name, args) : (otherwise))
#define PASS(name, max, event, args, otherwise)                                                    \
    ({                                                                                             \
        int64_t r_;                                                                                \
        bool watched_;                                                                             \
        while (!(watched_ = watches(t)) && !t->ops->name && t->lower)                              \
            t = t->lower;                                                                          \
        if (!watched_) {                                                                           \
            r_ = OWN(name, args, otherwise);                                                       \
        } else {                                                                                   \
            struct pl_event *ev_ = event;                                                          \
            ev_->op = PL_OP_##name;                                                                \
            r_ = before(t, c, ev_, true);                                                          \
            if (r_ == 0)                                                                           \
                r_ = !t->ops->name && t->lower ? CALL_LOWER(name, args)                            \
                                               : OWN(name, args, otherwise);                       \
            r_ = after(t, c, ev_, r_, true);                                                       \
        }                                                                                          \
        checked(r_, max);                                                                          \
    })

static struct pl_tree *source_of(struct pl_tree *t)
{
    while (t->lower)
        t = t->lower;
    return t;
}

/* A node given to the wrong tree is a bug in the door or layer. */
static void mine(struct pl_tree *t, const struct pl_node *node)
{
    assert(node && node->tree == source_of(t));
    (void)t, (void)node;
}

static int got_node(int r, struct pl_node *const *ret, const struct pl_attr *attr)
{
    if (r == 0) {
        assert(*ret && attr->ino && (attr->mode & S_IFMT) == (*ret)->fmt);
        (void)ret, (void)attr;
    }
    return r;
}

/* The source made an open file: completes it. */
static void opened(struct pl_tree *t, struct pl_file *file, struct pl_node *node, int flags)
{
    if (!file->node) {
        file->tree = source_of(t);
        file->node = pl_node_ref(node);
        file->flags = (uint32_t)flags;
    }
}

/* ---- arguments ---- */

static int name_ok(const char *name)
{
    size_t n = strlen(name);
    if (n > PL_NAME_MAX)
        return -ENAMETOOLONG;
    if (n == 0)
        return -ENOENT;
    return memchr(name, '/', n) || !strcmp(name, ".") || !strcmp(name, "..") ? -EINVAL : 0;
}

static int entry_ok(const struct pl_node *dir, const char *name)
{
    return S_ISDIR(dir->fmt) ? name_ok(name) : -ENOTDIR;
}

static int xattr_ok(const char *name)
{
    size_t n = strlen(name);
    return n == 0 || n > XATTR_NAME_MAX ? -ERANGE : 0;
}

static int readable(const struct pl_file *f)
{
    if (S_ISDIR(f->node->fmt))
        return -EISDIR;
    return (f->flags & O_ACCMODE) == O_WRONLY ? -EBADF : 0;
}

static int writable(const struct pl_file *f)
{
    return S_ISDIR(f->node->fmt) || (f->flags & O_ACCMODE) == O_RDONLY ? -EBADF : 0;
}

static bool range_ok(uint64_t off, uint64_t n)
{
    return off <= PL_OFF_MAX && n <= PL_OFF_MAX - off;
}

/* ---- finding ---- */

static int root_of(struct pl_tree *t, struct pl_call *c, struct pl_node **ret, const char *path)
{
    struct pl_event ev = {.op = PL_OP_attach, .name = path, .found = ret};
    bool watched = watches(t);
    int r = (int)before(t, c, &ev, watched);
    if (r == 0)
        r = t->ops->root ? t->ops->root(t, c, ret) : root_of(t->lower, c, ret, path);
    after(t, c, &ev, r, watched);
    return (int)checked(r, 0);
}

int pl_attach(struct pl_tree *t, struct pl_call *c, const char *path, struct pl_node **ret,
              struct pl_attr *attr)
{
    struct pl_node *node, *next;
    int r = root_of(t, c, &node, path);
    if (r == 0)
        r = pl_getattr(t, c, node, NULL, attr);
    else
        return r;
    while (r == 0) {
        char name[PL_NAME_MAX + 2];
        path += strspn(path, "/");
        size_t n = strcspn(path, "/");
        if (n == 0) {
            *ret = node;
            return 0;
        }
        snprintf(name, sizeof(name), "%.*s", (int)(n < sizeof(name) ? n : sizeof(name) - 1), path);
        path += n;
        r = !strcmp(name, "..") ? -EINVAL : pl_lookup(t, c, node, name, &next, attr);
        if (r == 0) {
            pl_node_unref(node);
            node = next;
        }
    }
    pl_node_unref(node);
    return r;
}

int pl_lookup(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, const char *name,
              struct pl_node **ret, struct pl_attr *attr)
{
    mine(t, dir);
    int r = entry_ok(dir, name);
    if (r < 0 && (r != -EINVAL || strcmp(name, "..")))
        return r;
    r = (int)PASS(lookup, 0, EV(.node = dir, .name = name, .found = ret, .attr = attr),
                  (dir, name, ret, attr), -EOPNOTSUPP);
    return got_node(r, ret, attr);
}

int pl_getattr(struct pl_tree *t, struct pl_call *c, struct pl_node *node, struct pl_file *file,
               struct pl_attr *attr)
{
    mine(t, node);
    int r = (int)PASS(getattr, 0, EV(.node = node, .file = file, .attr = attr), (node, file, attr),
                      -EOPNOTSUPP);
    return got_node(r, &node, attr);
}

int pl_setattr(struct pl_tree *t, struct pl_call *c, struct pl_node *node, struct pl_file *file,
               const struct pl_setattr *set, struct pl_attr *attr)
{
    mine(t, node);
    if (set->valid & PL_SET_SIZE) {
        if (S_ISDIR(node->fmt))
            return -EISDIR;
        if (!S_ISREG(node->fmt))
            return -EINVAL;
        if (set->size > PL_OFF_MAX)
            return -EFBIG;
        if (file && writable(file) < 0)
            return -EINVAL;
    }
    if (!(set->valid & ~(uint32_t)PL_SET_CTIME))
        return pl_getattr(t, c, node, file, attr);
    return (int)PASS(
        setattr, 0,
        EV(.node = node, .file = file, .flags = set->valid, .len = set->size, .attr = attr),
        (node, file, set, attr), -EOPNOTSUPP);
}

static int default_access(struct pl_tree *t, struct pl_call *c, struct pl_node *node, int mask)
{
    struct pl_attr attr;
    int r = pl_getattr(t, c, node, NULL, &attr);
    return r < 0 ? r : pl_may(c, &attr, mask);
}

int pl_access(struct pl_tree *t, struct pl_call *c, struct pl_node *node, int mask)
{
    mine(t, node);
    if (mask & ~(R_OK | W_OK | X_OK))
        return -EINVAL;
    return (int)PASS(access, 0, EV(.node = node, .flags = (uint32_t)mask), (node, mask),
                     default_access(t, c, node, mask));
}

int pl_readlink(struct pl_tree *t, struct pl_call *c, struct pl_node *node, char *buf, size_t n)
{
    mine(t, node);
    if (!S_ISLNK(node->fmt) || n == 0)
        return -EINVAL;
    n = n < PL_PATH_MAX ? n : PL_PATH_MAX;
    return (int)PASS(readlink, (int64_t)n, EV(.node = node), (node, buf, n), -EINVAL);
}

/* ---- changing the hierarchy ---- */

int pl_make(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, const char *name,
            const struct pl_make *make, struct pl_node **ret, struct pl_attr *attr)
{
    mine(t, dir);
    int r = entry_ok(dir, name);
    if (r < 0)
        return r == -EINVAL ? -EEXIST : r;
    switch (make->mode & S_IFMT) {
    case S_IFLNK: {
        size_t n = make->target ? strlen(make->target) : 0;
        if (n == 0 || n > PL_PATH_MAX)
            return n ? -ENAMETOOLONG : -ENOENT;
        break;
    }
    case S_IFREG:
    case S_IFDIR:
    case S_IFIFO:
    case S_IFSOCK:
    case S_IFCHR:
    case S_IFBLK:
        break;
    default:
        return -EINVAL;
    }
    r = (int)PASS(make, 0,
                  EV(.node = dir, .name = name, .name2 = make->target, .flags = make->mode,
                     .found = ret, .attr = attr),
                  (dir, name, make, ret, attr), -EPERM);
    return got_node(r, ret, attr);
}

int pl_link(struct pl_tree *t, struct pl_call *c, struct pl_node *node, struct pl_node *dir,
            const char *name, struct pl_attr *attr)
{
    mine(t, node);
    mine(t, dir);
    int r = entry_ok(dir, name);
    if (r < 0)
        return r == -EINVAL ? -EEXIST : r;
    if (S_ISDIR(node->fmt))
        return -EPERM;
    return (int)PASS(link, 0, EV(.node = node, .node2 = dir, .name = name, .attr = attr),
                     (node, dir, name, attr), -EPERM);
}

int pl_remove(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, const char *name,
              int flags)
{
    mine(t, dir);
    if (flags & ~AT_REMOVEDIR)
        return -EINVAL;
    int r = entry_ok(dir, name);
    if (r < 0)
        return r;
    return (int)PASS(remove, 0, EV(.node = dir, .name = name, .flags = (uint32_t)flags),
                     (dir, name, flags), -EPERM);
}

int pl_rename(struct pl_tree *t, struct pl_call *c, struct pl_node *olddir, const char *oldname,
              struct pl_node *newdir, const char *newname, unsigned flags)
{
    mine(t, olddir);
    mine(t, newdir);
    int r = entry_ok(olddir, oldname);
    if (r == 0)
        r = entry_ok(newdir, newname);
    if (r < 0)
        return r == -EINVAL ? -EBUSY : r; /* "." and "..", as rename(2) */
    if ((flags & ~7u) || ((flags & RENAME_EXCHANGE) && (flags & ~(unsigned)RENAME_EXCHANGE)))
        return -EINVAL;
    return (int)PASS(
        rename, 0,
        EV(.node = olddir, .name = oldname, .node2 = newdir, .name2 = newname, .flags = flags),
        (olddir, oldname, newdir, newname, flags), -EPERM);
}

/* ---- opening ---- */

static int open_ok(const struct pl_node *node, int flags)
{
    if (S_ISLNK(node->fmt))
        return -ELOOP;
    if (S_ISDIR(node->fmt))
        return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) ? -EISDIR : 0;
    if (flags & O_DIRECTORY)
        return -ENOTDIR;
    /* pipes, sockets and devices are the client's to interpret */
    return S_ISREG(node->fmt) ? 0 : -ENXIO;
}

#define OPEN_DROPS (O_CREAT | O_EXCL | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC)

int pl_open(struct pl_tree *t, struct pl_call *c, struct pl_node *node, int flags,
            struct pl_file **ret)
{
    mine(t, node);
    int r = open_ok(node, flags);
    if (r < 0)
        return r;
    flags &= ~OPEN_DROPS;
    if (S_ISDIR(node->fmt))
        flags |= O_DIRECTORY;
    r = (int)PASS(open, 0, EV(.node = node, .flags = (uint32_t)flags), (node, flags, ret),
                  -EOPNOTSUPP);
    if (r == 0)
        opened(t, *ret, node, flags);
    return r;
}

int pl_create(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, const char *name,
              int flags, mode_t mode, struct pl_node **ret, struct pl_attr *attr,
              struct pl_file **ret_file)
{
    mine(t, dir);
    int r = entry_ok(dir, name);
    if (r < 0)
        return r == -EINVAL ? -EISDIR : r;
    flags = (flags & ~OPEN_DROPS) | (flags & O_EXCL);
    if (flags & O_DIRECTORY)
        return -EINVAL;
    mode &= 07777;
    r = (int)PASS(
        create, 0,
        EV(.node = dir, .name = name, .flags = (uint32_t)flags, .found = ret, .attr = attr),
        (dir, name, flags, mode, ret, attr, ret_file), -EPERM);
    if (r == 0)
        opened(t, *ret_file, *ret, flags & ~O_EXCL);
    return got_node(r, ret, attr);
}

int pl_tmpfile(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, int flags, mode_t mode,
               struct pl_node **ret, struct pl_attr *attr, struct pl_file **ret_file)
{
    mine(t, dir);
    if (!S_ISDIR(dir->fmt))
        return -ENOTDIR;
    if ((flags & O_ACCMODE) == O_RDONLY)
        return -EINVAL;
    flags = (flags & ~(OPEN_DROPS | __O_TMPFILE | O_DIRECTORY)) | (flags & O_EXCL);
    mode &= 07777;
    int r =
        (int)PASS(tmpfile, 0, EV(.node = dir, .flags = (uint32_t)flags, .found = ret, .attr = attr),
                  (dir, flags, mode, ret, attr, ret_file), -EOPNOTSUPP);
    if (r == 0)
        opened(t, *ret_file, *ret, flags & ~O_EXCL);
    return got_node(r, ret, attr);
}

/* close and flush happen whatever a watcher says; it may only change what the caller is told. */
int pl_close(struct pl_tree *t, struct pl_call *c, struct pl_file *file)
{
    struct pl_node *node = file->node;
    struct pl_event ev = {.op = PL_OP_close, .node = node, .file = file, .flags = file->flags};
    bool watched = watches(t);
    if (watched)
        pl_node_ref(node); /* for `after`: below, the file's reference goes */
    int said = (int)before(t, c, &ev, watched);
    bool source = !t->lower;
    int r = t->ops->close ? t->ops->close(t, c, file) : pl_close(t->lower, c, file);
    ev.file = NULL;
    if (said < 0)
        r = said;
    r = (int)after(t, c, &ev, r, watched);
    if (watched)
        pl_node_unref(node);
    if (source)
        pl_node_unref(node);
    return (int)checked(r, 0);
}

static int default_flush(struct pl_tree *t, struct pl_call *c, struct pl_file *file, uint64_t owner)
{
    if (!t->ops->lock || !S_ISREG(file->node->fmt))
        return 0;
    struct pl_lock un = {.type = F_UNLCK, .owner = owner, .end = PL_OFF_MAX};
    pl_lock(t, c, file, &un);
    return 0;
}

int pl_flush(struct pl_tree *t, struct pl_call *c, struct pl_file *file, uint64_t owner)
{
    struct pl_event ev = {.op = PL_OP_flush, .node = file->node, .file = file};
    bool watched = watches(t);
    int said = (int)before(t, c, &ev, watched);
    int r = t->ops->flush ? t->ops->flush(t, c, file, owner)
            : t->lower    ? pl_flush(t->lower, c, file, owner)
                          : default_flush(t, c, file, owner);
    if (said < 0)
        r = said;
    r = (int)after(t, c, &ev, r, watched);
    return (int)checked(r, 0);
}

/* ---- content ---- */

int pl_file_fd(struct pl_tree *t, struct pl_file *file)
{
    for (; t; t = t->lower)
        if ((!t->ops->by_fd && watches(t)) || (t->lower && (t->ops->read || t->ops->write)))
            return -1;
    return file->fd;
}

ssize_t pl_read(struct pl_tree *t, struct pl_call *c, struct pl_file *file, void *buf, size_t n,
                uint64_t off)
{
    int r = readable(file);
    if (r < 0)
        return r;
    if (!range_ok(off, n))
        return -EINVAL;
    return PASS(read, (int64_t)n, EV(.node = file->node, .file = file, .off = off, .len = n),
                (file, buf, n, off), -EINVAL);
}

ssize_t pl_write(struct pl_tree *t, struct pl_call *c, struct pl_file *file, const void *buf,
                 size_t n, uint64_t off)
{
    int r = writable(file);
    if (r < 0)
        return r;
    if (!range_ok(off, n))
        return off > PL_OFF_MAX ? -EINVAL : -EFBIG;
    return PASS(write, (int64_t)n,
                EV(.node = file->node, .file = file, .off = off, .len = n, .data = buf),
                (file, buf, n, off), -EINVAL);
}

int pl_readdir(struct pl_tree *t, struct pl_call *c, struct pl_file *dir, uint64_t off,
               pl_fill_fn *fill, void *arg)
{
    if (!S_ISDIR(dir->node->fmt))
        return -ENOTDIR;
    if (off > PL_OFF_MAX)
        return -EINVAL;
    return (int)PASS(readdir, 0, EV(.node = dir->node, .file = dir, .off = off),
                     (dir, off, fill, arg), -EOPNOTSUPP);
}

static int64_t default_seek(struct pl_tree *t, struct pl_call *c, struct pl_file *file,
                            uint64_t off, int whence)
{
    struct pl_attr attr;
    int r = pl_getattr(t, c, file->node, file, &attr);
    if (r < 0)
        return r;
    if (off >= attr.size)
        return -ENXIO;
    return (int64_t)(whence == SEEK_DATA ? off : attr.size);
}

int64_t pl_seek(struct pl_tree *t, struct pl_call *c, struct pl_file *file, uint64_t off,
                int whence)
{
    if (whence != SEEK_DATA && whence != SEEK_HOLE)
        return -EINVAL;
    if (off > PL_OFF_MAX)
        return -ENXIO;
    return PASS(seek, INT64_MAX,
                EV(.node = file->node, .file = file, .off = off, .flags = (uint32_t)whence),
                (file, off, whence), default_seek(t, c, file, off, whence));
}

int pl_fsync(struct pl_tree *t, struct pl_call *c, struct pl_file *file, bool data_only)
{
    return (int)PASS(fsync, 0, EV(.node = file->node, .file = file, .flags = data_only),
                     (file, data_only), 0);
}

int pl_fallocate(struct pl_tree *t, struct pl_call *c, struct pl_file *file, int mode, uint64_t off,
                 uint64_t len)
{
    int r = writable(file);
    if (r < 0)
        return r;
    if (!S_ISREG(file->node->fmt))
        return -ENODEV;
    if (off > PL_OFF_MAX || len > PL_OFF_MAX || len == 0)
        return -EINVAL;
    if (!range_ok(off, len))
        return -EFBIG;
    return (int)PASS(
        fallocate, 0,
        EV(.node = file->node, .file = file, .off = off, .len = len, .flags = (uint32_t)mode),
        (file, mode, off, len), -EOPNOTSUPP);
}

static ssize_t default_copy(struct pl_tree *t, struct pl_call *c, struct pl_file *in,
                            uint64_t off_in, struct pl_file *out, uint64_t off_out, size_t n)
{
    enum { CHUNK = 128 << 10 };
    char *buf = malloc(CHUNK);
    if (!buf)
        return -ENOMEM;
    size_t done = 0;
    ssize_t r = 0;
    while (done < n) {
        size_t want = n - done < CHUNK ? n - done : CHUNK;
        ssize_t got = pl_read(t, c, in, buf, want, off_in + done);
        r = got > 0 ? pl_write(t, c, out, buf, (size_t)got, off_out + done) : got;
        if (r <= 0)
            break;
        done += (size_t)r;
        if (r < got || pl_call_over(c) < 0)
            break;
    }
    free(buf);
    return done ? (ssize_t)done : r;
}

ssize_t pl_copy(struct pl_tree *t, struct pl_call *c, struct pl_file *in, uint64_t off_in,
                struct pl_file *out, uint64_t off_out, size_t n)
{
    int r = readable(in);
    if (r == 0)
        r = S_ISDIR(out->node->fmt) ? -EISDIR : writable(out);
    if (r == 0 && (out->flags & O_APPEND))
        r = -EBADF;
    if (r < 0)
        return r;
    if (!range_ok(off_in, n) || !range_ok(off_out, n))
        return -EOVERFLOW;
    if (in->node == out->node) { /* only what is there can overlap, or be copied */
        struct pl_attr attr;
        if ((r = pl_getattr(t, c, in->node, in, &attr)) < 0)
            return r;
        n = off_in >= attr.size ? 0 : attr.size - off_in < n ? attr.size - off_in : n;
        if (off_in < off_out + n && off_out < off_in + n)
            return -EINVAL;
    }
    return PASS(copy, (int64_t)n, EV(.node = in->node, .file = out, .off = off_out, .len = n),
                (in, off_in, out, off_out, n), default_copy(t, c, in, off_in, out, off_out, n));
}

/* ---- extended attributes ---- */

ssize_t pl_getxattr(struct pl_tree *t, struct pl_call *c, struct pl_node *node, const char *name,
                    void *buf, size_t size)
{
    mine(t, node);
    int r = xattr_ok(name);
    if (r < 0)
        return r;
    return PASS(getxattr, PL_XATTR_MAX, EV(.node = node, .name = name, .len = size),
                (node, name, buf, size), -EOPNOTSUPP);
}

int pl_setxattr(struct pl_tree *t, struct pl_call *c, struct pl_node *node, const char *name,
                const void *buf, size_t size, int flags)
{
    mine(t, node);
    if (flags & ~(XATTR_CREATE | XATTR_REPLACE))
        return -EINVAL;
    int r = xattr_ok(name);
    if (r < 0)
        return r;
    if (size > PL_XATTR_MAX)
        return -E2BIG;
    return (int)PASS(
        setxattr, 0,
        EV(.node = node, .name = name, .len = size, .flags = (uint32_t)flags, .data = buf),
        (node, name, buf, size, flags), -EOPNOTSUPP);
}

int pl_removexattr(struct pl_tree *t, struct pl_call *c, struct pl_node *node, const char *name)
{
    mine(t, node);
    int r = xattr_ok(name);
    if (r < 0)
        return r;
    return (int)PASS(removexattr, 0, EV(.node = node, .name = name), (node, name), -EOPNOTSUPP);
}

ssize_t pl_listxattr(struct pl_tree *t, struct pl_call *c, struct pl_node *node, char *buf,
                     size_t size)
{
    mine(t, node);
    return PASS(listxattr, size ? (int64_t)size : INT32_MAX, EV(.node = node, .len = size),
                (node, buf, size), -EOPNOTSUPP);
}

/* ---- the rest ---- */

static int lock_ok(const struct pl_file *f, const struct pl_lock *l)
{
    if (l->type != F_RDLCK && l->type != F_WRLCK && l->type != F_UNLCK)
        return -EINVAL;
    if (l->start > l->end || l->end > PL_OFF_MAX)
        return -EINVAL;
    if (l->flock || l->type == F_UNLCK)
        return 0;
    int acc = (int)(f->flags & O_ACCMODE);
    return acc == (l->type == F_RDLCK ? O_WRONLY : O_RDONLY) ? -EBADF : 0;
}

int pl_lock(struct pl_tree *t, struct pl_call *c, struct pl_file *file, const struct pl_lock *lock)
{
    int r = lock_ok(file, lock);
    if (r < 0)
        return r;
    return (int)PASS(lock, 0,
                     EV(.node = file->node, .file = file, .off = lock->start,
                        .len = lock->end - lock->start, .flags = (uint32_t)lock->type),
                     (file, lock), -EOPNOTSUPP);
}

int pl_getlock(struct pl_tree *t, struct pl_call *c, struct pl_file *file, struct pl_lock *lock)
{
    if (lock->start > lock->end || lock->end > PL_OFF_MAX)
        return -EINVAL;
    return (int)PASS(getlock, 0,
                     EV(.node = file->node, .file = file, .off = lock->start,
                        .len = lock->end - lock->start, .flags = (uint32_t)lock->type),
                     (file, lock), -EOPNOTSUPP);
}

int pl_poll(struct pl_tree *t, struct pl_call *c, struct pl_file *file, struct pl_poller *poller)
{
    return (int)PASS(poll, INT16_MAX, EV(.node = file->node, .file = file), (file, poller),
                     POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM);
}

int pl_ioctl(struct pl_tree *t, struct pl_call *c, struct pl_file *file, unsigned cmd, void *buf,
             size_t in_size, size_t out_size)
{
    return (int)PASS(ioctl, INT32_MAX,
                     EV(.node = file->node, .file = file, .len = in_size, .flags = cmd),
                     (file, cmd, buf, in_size, out_size), -ENOTTY);
}

int pl_statfs(struct pl_tree *t, struct pl_call *c, struct pl_node *node, struct statfs *st)
{
    mine(t, node);
    memset(st, 0, sizeof(*st));
    st->f_namelen = PL_NAME_MAX;
    st->f_bsize = st->f_frsize = 4096;
    return (int)PASS(statfs, 0, EV(.node = node), (node, st), 0);
}

int pl_syncfs(struct pl_tree *t, struct pl_call *c, struct pl_node *node)
{
    mine(t, node);
    return (int)PASS(syncfs, 0, EV(.node = node), (node), 0);
}

int pl_key(struct pl_tree *t, struct pl_call *c, struct pl_node *node, uint8_t key[PL_KEY_MAX])
{
    mine(t, node);
    return (int)PASS(key, PL_KEY_MAX, EV(.node = node), (node, key), -EOPNOTSUPP);
}

int pl_find(struct pl_tree *t, struct pl_call *c, const uint8_t *key, size_t len,
            struct pl_node **ret, struct pl_attr *attr)
{
    if (len == 0 || len > PL_KEY_MAX)
        return -EINVAL;
    int r = (int)PASS(find, 0, EV(.len = len, .found = ret, .attr = attr), (key, len, ret, attr),
                      -EOPNOTSUPP);
    return got_node(r, ret, attr);
}
