/* SPDX-License-Identifier: MIT */
/*
 * mem: a read-write tree in memory, with the behaviour of Linux's tmpfs. The memory is this
 * process's own: the tree ends with it (it is not PL_TREE_LASTING).
 *
 * A name holds a reference to its node, so a node is released when no name, no file and no client
 * is left; nodes are found by their keys in `nodes`.
 *
 * Locks: mem.names guards which names there are (node.dir, parent, home, linkable); node.lock
 * guards the node's attributes, xattrs and pages. Order: names, then one node's lock at a time.
 */
#include "sources/mem.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <plenum/sources.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* ---- nodes ---- */

static void touch(struct node *n, uint32_t times, int links)
{
    pthread_rwlock_wrlock(&n->lock);
    n->attr.nlink += (uint64_t)(int64_t)links;
    if (S_ISDIR(n->attr.mode))
        n->attr.size = names_count(&n->dir) * 20;
    pl_attr_touch(&n->attr, times);
    pthread_rwlock_unlock(&n->lock);
}

/* As relatime: only when it would be older than the last change, or than a day. */
static void accessed(struct node *n, const struct pl_file *file)
{
    struct timespec now;
    struct pl_attr a = attr_of(n);
    clock_gettime(CLOCK_REALTIME, &now);
    if (file->flags & O_NOATIME ||
        (a.atime.tv_sec > a.mtime.tv_sec && a.atime.tv_sec > a.ctime.tv_sec &&
         now.tv_sec - a.atime.tv_sec < 86400))
        return;
    pthread_rwlock_wrlock(&n->lock);
    n->attr.atime = now;
    pthread_rwlock_unlock(&n->lock);
}

/* With n's lock held for writing, or nobody else to see it. */
static void truncate_to(struct mem *m, struct node *n, uint64_t size)
{
    pages_zero(&n->pages, &m->pool, size, PL_OFF_MAX + 1ull, false);
    n->attr.blocks = n->pages.count * (PAGES_SIZE / 512);
}

static void mem_release(struct pl_tree *tree, struct pl_node *node)
{
    struct mem *m = mem_of(tree);
    struct node *n = node_of(node);
    pl_nodes_del(m->nodes, &n->h);
    truncate_to(m, n, 0);
    pl_xattrs_done(&n->xattrs);
    pl_locks_done(&n->locks);
    pthread_rwlock_destroy(&n->lock);
    free(n->target);
    free(n);
}

static int new_node(struct mem *m, struct pl_call *call, struct node *dir,
                    const struct pl_make *make, struct node **ret)
{
    if (pl_nodes_count(m->nodes) >= m->max_nodes)
        return -ENOSPC;
    struct node *n = calloc(1, sizeof(*n));
    if (!n || (S_ISLNK(make->mode) && !(n->target = strdup(make->target)))) {
        free(n);
        return -ENOMEM;
    }
    struct pl_attr up = dir ? attr_of(dir) : (struct pl_attr){0};
    pl_attr_init(&n->attr, call, dir ? &up : NULL, make->mode);
    n->attr.ino = n->h.id.lo = atomic_fetch_add(&m->next_ino, 1);
    n->attr.rdev_major = make->rdev_major;
    n->attr.rdev_minor = make->rdev_minor;
    n->attr.size = n->target ? strlen(n->target) : 0;
    n->parent = S_ISDIR(make->mode) ? dir : NULL;
    pthread_rwlock_init(&n->lock, NULL);
    pl_locks_init(&n->locks);
    pl_node_init(&n->h.node, &m->tree, make->mode);
    pl_nodes_put(m->nodes, &n->h);
    *ret = n;
    return 0;
}

static void mem_done(struct pl_tree *tree)
{
    struct mem *m = mem_of(tree);
    struct node *todo = m->root; /* directories still to be emptied, linked through parent */
    if (todo)
        todo->parent = NULL;
    while (todo) {
        struct node *dir = todo;
        struct name *name = names_from(&dir->dir, 0);
        struct node *n = name ? name->value : dir;
        if (!name)
            todo = dir->parent;
        else
            names_del(&dir->dir, name);
        if (name && S_ISDIR(n->attr.mode)) {
            n->parent = todo;
            todo = n;
        } else {
            pl_node_unref(&n->h.node);
        }
    }
    pl_nodes_free(m->nodes);
    pthread_rwlock_destroy(&m->names);
}

static int mem_root(struct pl_tree *tree, struct pl_call *call, struct pl_node **ret)
{
    *ret = pl_node_ref(&mem_of(tree)->root->h.node);
    return 0;
}

static int mem_getattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                       struct pl_file *file, struct pl_attr *attr)
{
    *attr = attr_of(node_of(node));
    return 0;
}

static int mem_setattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                       struct pl_file *file, const struct pl_setattr *set, struct pl_attr *attr)
{
    struct node *n = node_of(node);
    if (set->valid & PL_SET_SIZE && node->fmt != S_IFREG)
        return node->fmt == S_IFDIR ? -EISDIR : -EINVAL;
    pthread_rwlock_wrlock(&n->lock);
    bool writable = file && (file->flags & O_ACCMODE) != O_RDONLY;
    int r = pl_may_set(call, &n->attr, set, writable);
    /* As tmpfs: truncate(2), not ftruncate(2), to the size that a file of holes has, changes it
     * not. */
    bool same = set->valid == PL_SET_SIZE && set->size == n->attr.size && !file && !n->pages.count;
    if (r == 0 && !same) {
        if (set->valid & PL_SET_SIZE)
            truncate_to(mem_of(tree), n, set->size);
        if (set->valid & (PL_SET_SIZE | PL_SET_UID | PL_SET_GID) && node->fmt != S_IFDIR)
            pl_xattrs_remove(&n->xattrs, "security.capability");
        pl_attr_set(&n->attr, call, set);
    }
    *attr = n->attr;
    pthread_rwlock_unlock(&n->lock);
    return r;
}

static int mem_readlink(struct pl_tree *tree, struct pl_call *call, struct pl_node *node, char *buf,
                        size_t size)
{
    struct node *n = node_of(node);
    if (!n->target)
        return -EINVAL;
    size_t len = strlen(n->target);
    memcpy(buf, n->target, len < size ? len : size);
    return (int)(len < size ? len : size);
}

/* ---- names ---- */

static int mem_lookup(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir,
                      const char *name, struct pl_node **ret, struct pl_attr *attr)
{
    struct mem *m = mem_of(tree);
    struct node *d = node_of(dir), *n;
    int r = may(call, d, X_OK);
    if (r < 0)
        return r;
    pthread_rwlock_rdlock(&m->names);
    struct name *e = names_find(&d->dir, name);
    n = !strcmp(name, "..") ? d->parent : e ? e->value : NULL;
    if (n)
        pl_node_ref(&n->h.node);
    pthread_rwlock_unlock(&m->names);
    if (!n)
        return -ENOENT;
    *ret = &n->h.node;
    *attr = attr_of(n);
    return 0;
}

/* May a name be added to the directory? With mem.names held. */
static int may_add(struct pl_call *call, struct node *dir)
{
    return !dir->parent ? -ENOENT : may(call, dir, W_OK | X_OK);
}

/* Makes a node and its name; `ret` gets a reference of its own. With mem.names held. */
static int add_new(struct mem *m, struct pl_call *call, struct node *dir, const char *name,
                   const struct pl_make *make, struct node **ret)
{
    int r = may_add(call, dir);
    if (r == 0 && (S_ISBLK(make->mode) || S_ISCHR(make->mode)) && call->cred.uid != 0)
        r = -EPERM;
    if (r < 0 || (r = new_node(m, call, dir, make, ret)) < 0)
        return r;
    if (!names_add(&dir->dir, name, *ret)) {
        pl_node_unref(&(*ret)->h.node);
        return -ENOMEM;
    }
    (*ret)->home = dir;
    pl_node_ref(&(*ret)->h.node);
    touch(dir, PL_SET_MTIME_NOW, S_ISDIR(make->mode));
    return 0;
}

static int mem_make(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir,
                    const char *name, const struct pl_make *make, struct pl_node **ret,
                    struct pl_attr *attr)
{
    struct mem *m = mem_of(tree);
    struct node *d = node_of(dir), *n;
    pthread_rwlock_wrlock(&m->names);
    int r = may(call, d, X_OK);
    if (r == 0)
        r = names_find(&d->dir, name) ? -EEXIST : add_new(m, call, d, name, make, &n);
    pthread_rwlock_unlock(&m->names);
    if (r < 0)
        return r;
    *ret = &n->h.node;
    *attr = attr_of(n);
    return 0;
}

static int mem_link(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                    struct pl_node *dir, const char *name, struct pl_attr *attr)
{
    struct mem *m = mem_of(tree);
    struct node *d = node_of(dir), *n = node_of(node);
    pthread_rwlock_wrlock(&m->names);
    int r = may(call, d, X_OK);
    if (r == 0)
        r = names_find(&d->dir, name) ? -EEXIST : may_add(call, d);
    if (r == 0 && attr_of(n).nlink == 0 && !n->linkable)
        r = -ENOENT;
    if (r == 0 && !names_add(&d->dir, name, n))
        r = -ENOMEM;
    if (r == 0) {
        n->linkable = false;
        n->home = d;
        pl_node_ref(node);
        touch(n, 0, 1);
        touch(d, PL_SET_MTIME_NOW, 0);
        *attr = attr_of(n);
    }
    pthread_rwlock_unlock(&m->names);
    return r;
}

/* May n be taken out of dir, as a directory or as something else? With mem.names held. */
static int may_take(struct pl_call *call, struct node *dir, struct node *n, bool as_dir)
{
    struct pl_attr up = attr_of(dir), attr = attr_of(n);
    int r = pl_may_remove(call, &up, &attr);
    if (r < 0)
        return r;
    return as_dir == S_ISDIR(attr.mode) ? 0 : as_dir ? -ENOTDIR : -EISDIR;
}

/* n has lost a name in `dir`, which is touched by the caller. */
static void lost_name(struct node *n, const struct node *dir)
{
    bool is_dir = n->h.node.fmt == S_IFDIR;
    touch(n, 0, is_dir ? -2 : -1);
    if (is_dir)
        n->parent = NULL;
    if (n->home == dir)
        n->home = NULL;
}

static int mem_remove(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir,
                      const char *name, int flags)
{
    struct mem *m = mem_of(tree);
    struct node *d = node_of(dir), *n = NULL;
    pthread_rwlock_wrlock(&m->names);
    int r = may(call, d, X_OK);
    struct name *e = names_find(&d->dir, name);
    if (r == 0)
        r = e ? may_take(call, d, n = e->value, flags & AT_REMOVEDIR) : -ENOENT;
    if (r == 0 && names_count(&n->dir))
        r = -ENOTEMPTY;
    if (r == 0) {
        names_del(&d->dir, e);
        lost_name(n, d);
        touch(d, PL_SET_MTIME_NOW, flags & AT_REMOVEDIR ? -1 : 0);
    }
    pthread_rwlock_unlock(&m->names);
    if (r == 0)
        pl_node_unref(&n->h.node);
    return r;
}

static bool is_under(struct node *n, struct node *top)
{
    while (n && n != top && n->parent != n)
        n = n->parent;
    return n == top;
}

/* Whether rename may be done, after both names were looked up; `to` NULL: there is none. */
static int may_rename(struct pl_call *call, struct node *od, struct node *from, struct node *nd,
                      struct node *to, unsigned flags)
{
    bool dir = from->h.node.fmt == S_IFDIR, swap = flags & RENAME_EXCHANGE;
    bool to_dir = to && to->h.node.fmt == S_IFDIR;
    if (dir && is_under(nd, from))
        return -EINVAL;
    if (to_dir && is_under(od, to))
        return swap ? -EINVAL : -ENOTEMPTY;
    int r = may_take(call, od, from, dir);
    if (r == 0)
        r = to ? may_take(call, nd, to, swap ? to_dir : dir) : may_add(call, nd);
    if (r == 0 && dir && od != nd)
        r = may(call, from, W_OK); /* its ".." changes */
    if (r == 0 && swap && to_dir && od != nd)
        r = may(call, to, W_OK);
    return r == 0 && to && !swap && names_count(&to->dir) ? -ENOTEMPTY : r;
}

static void moved(struct node *n, struct node *to)
{
    if (n->h.node.fmt == S_IFDIR)
        n->parent = to;
    n->home = to;
    touch(n, 0, 0);
}

static int mem_rename(struct pl_tree *tree, struct pl_call *call, struct pl_node *olddir,
                      const char *oldname, struct pl_node *newdir, const char *newname,
                      unsigned flags)
{
    const struct pl_make white = {.mode = S_IFCHR};
    struct mem *m = mem_of(tree);
    struct node *od = node_of(olddir), *nd = node_of(newdir), *to = NULL, *w = NULL, *gone = NULL;
    if (flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT) ||
        (flags & RENAME_EXCHANGE && flags != RENAME_EXCHANGE))
        return -EINVAL;
    bool swap = flags & RENAME_EXCHANGE;
    pthread_rwlock_wrlock(&m->names);
    int r = may(call, od, X_OK);
    r = r < 0 ? r : may(call, nd, X_OK);
    struct name *e = names_find(&od->dir, oldname), *t = names_find(&nd->dir, newname);
    if (r == 0)
        r = !e || (swap && !t) ? -ENOENT : t && flags & RENAME_NOREPLACE ? -EEXIST : 0;
    struct node *from = r == 0 ? e->value : NULL;
    if (r < 0 || (t && t->value == from))
        goto out;
    to = t ? t->value : NULL;
    r = may_rename(call, od, from, nd, to, flags);
    if (r == 0 && flags & RENAME_WHITEOUT)
        r = new_node(m, call, od, &white, &w);
    if (r == 0 && w)
        w->home = od;
    if (r == 0 && !t && !(t = names_add(&nd->dir, newname, NULL))) {
        pl_node_unref(w ? &w->h.node : NULL);
        r = -ENOMEM;
    }
    if (r < 0)
        goto out;
    t->value = from;
    if (swap || w)
        e->value = swap ? to : w;
    else
        names_del(&od->dir, e);
    bool dir = from->h.node.fmt == S_IFDIR, to_dir = to && to->h.node.fmt == S_IFDIR;
    moved(from, nd);
    if (swap)
        moved(to, od);
    else if (to)
        lost_name(gone = to, nd);
    touch(od, PL_SET_MTIME_NOW, (swap && to_dir) - dir);
    touch(nd, PL_SET_MTIME_NOW, dir - to_dir);
out:
    pthread_rwlock_unlock(&m->names);
    pl_node_unref(gone ? &gone->h.node : NULL);
    return r;
}

/* ---- files ---- */

/* Opens what the caller may open; `made`: just now, so that its mode does not matter. */
static int open_node(struct mem *m, struct pl_call *call, struct node *n, int flags, bool made,
                     struct pl_file **ret)
{
    struct file *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->file.fd = -1;
    pthread_rwlock_wrlock(&n->lock);
    int r = made ? 0 : pl_may_open(call, &n->attr, flags);
    if (r == 0 && flags & O_TRUNC && !made) {
        const struct pl_setattr zero = {.valid = PL_SET_SIZE};
        truncate_to(m, n, 0);
        pl_attr_set(&n->attr, call, &zero);
    }
    pthread_rwlock_unlock(&n->lock);
    if (r == 0)
        *ret = &f->file;
    else
        free(f);
    return r;
}

static int mem_open(struct pl_tree *tree, struct pl_call *call, struct pl_node *node, int flags,
                    struct pl_file **ret)
{
    return open_node(mem_of(tree), call, node_of(node), flags, false, ret);
}

static int mem_create(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir,
                      const char *name, int flags, mode_t mode, struct pl_node **ret,
                      struct pl_attr *attr, struct pl_file **ret_file)
{
    const struct pl_make make = {.mode = S_IFREG | (mode & 07777)};
    struct mem *m = mem_of(tree);
    struct node *d = node_of(dir), *n = NULL;
    pthread_rwlock_wrlock(&m->names);
    int r = may(call, d, X_OK);
    struct name *e = r == 0 ? names_find(&d->dir, name) : NULL;
    if (e && flags & O_EXCL)
        r = -EEXIST;
    else if (e)
        pl_node_ref(&(n = e->value)->h.node);
    else if (r == 0)
        r = add_new(m, call, d, name, &make, &n);
    pthread_rwlock_unlock(&m->names);
    if (r == 0 && n->h.node.fmt != S_IFREG)
        r = n->h.node.fmt == S_IFDIR ? -EISDIR : n->h.node.fmt == S_IFLNK ? -ELOOP : -ENXIO;
    if (r == 0)
        r = open_node(m, call, n, flags, !e, ret_file);
    if (r < 0) {
        pl_node_unref(n ? &n->h.node : NULL);
        return r;
    }
    *ret = &n->h.node;
    *attr = attr_of(n);
    return 0;
}

static int mem_tmpfile(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir, int flags,
                       mode_t mode, struct pl_node **ret, struct pl_attr *attr,
                       struct pl_file **ret_file)
{
    const struct pl_make make = {.mode = S_IFREG | (mode & 07777)};
    struct mem *m = mem_of(tree);
    struct node *n;
    int r = may(call, node_of(dir), W_OK | X_OK);
    if (r < 0 || (r = new_node(m, call, node_of(dir), &make, &n)) < 0)
        return r;
    n->attr.nlink = 0;
    n->linkable = !(flags & O_EXCL);
    r = open_node(m, call, n, flags, true, ret_file);
    if (r < 0) {
        pl_node_unref(&n->h.node);
        return r;
    }
    *ret = &n->h.node;
    *attr = attr_of(n);
    return 0;
}

static int mem_close(struct pl_tree *tree, struct pl_call *call, struct pl_file *file)
{
    struct file *f = (struct file *)file;
    pl_locks_undo(&node_of(file->node)->locks, call, &f->owners);
    free(f);
    return 0;
}

static ssize_t mem_read(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, void *buf,
                        size_t n, uint64_t off)
{
    struct node *node = node_of(file->node);
    pthread_rwlock_rdlock(&node->lock);
    uint64_t left = off < node->attr.size ? node->attr.size - off : 0;
    n = n < left ? n : left;
    pages_read(&node->pages, buf, n, off);
    pthread_rwlock_unlock(&node->lock);
    accessed(node, file);
    return (ssize_t)n;
}

/* The file's bytes up to `end` have changed. With the node's lock held. */
static void written(struct pl_call *call, struct node *n, uint64_t end)
{
    if (end > n->attr.size)
        n->attr.size = end;
    n->attr.blocks = n->pages.count * (PAGES_SIZE / 512);
    pl_attr_written(&n->attr, call);
    pl_xattrs_remove(&n->xattrs, "security.capability");
}

static ssize_t mem_write(struct pl_tree *tree, struct pl_call *call, struct pl_file *file,
                         const void *buf, size_t n, uint64_t off)
{
    struct node *node = node_of(file->node);
    ssize_t r = -EFBIG;
    pthread_rwlock_wrlock(&node->lock);
    if (file->flags & O_APPEND)
        off = node->attr.size;
    if (off < PL_OFF_MAX || n == 0)
        r = pages_write(&node->pages, &mem_of(tree)->pool, buf,
                        n < PL_OFF_MAX - off ? n : PL_OFF_MAX - off, off);
    if (r > 0)
        written(call, node, off + (uint64_t)r);
    pthread_rwlock_unlock(&node->lock);
    return r;
}

static int mem_readdir(struct pl_tree *tree, struct pl_call *call, struct pl_file *dir,
                       uint64_t off, pl_fill_fn *fill, void *arg)
{
    struct mem *m = mem_of(tree);
    struct node *d = node_of(dir->node);
    int full = 0;
    accessed(d, dir);
    pthread_rwlock_rdlock(&m->names);
    for (; off < 2 && !full; off += !full) {
        struct node *n = off && d->parent ? d->parent : d;
        full = fill(arg, &(struct pl_dirent){n->attr.ino, off + 1, DT_DIR, off ? ".." : "."});
    }
    for (struct name *e; !full && (e = names_from(&d->dir, off - 1)); off = e->pos + 2) {
        struct node *n = e->value;
        full =
            fill(arg, &(struct pl_dirent){n->attr.ino, e->pos + 2, IFTODT(n->h.node.fmt), e->text});
    }
    pthread_rwlock_unlock(&m->names);
    return 0;
}

static int64_t mem_seek(struct pl_tree *tree, struct pl_call *call, struct pl_file *file,
                        uint64_t off, int whence)
{
    struct node *n = node_of(file->node);
    pthread_rwlock_rdlock(&n->lock);
    uint64_t size = n->attr.size, at = pages_next(&n->pages, off, whence == SEEK_DATA);
    pthread_rwlock_unlock(&n->lock);
    if (off >= size || (whence == SEEK_DATA && at >= size))
        return -ENXIO;
    return (int64_t)(at < size ? at : size);
}

static int mem_fallocate(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, int mode,
                         uint64_t off, uint64_t len)
{
    struct mem *m = mem_of(tree);
    struct node *n = node_of(file->node);
    bool hole = mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    if (!hole && mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE))
        return -EOPNOTSUPP;
    pthread_rwlock_wrlock(&n->lock);
    int r = hole ? 0 : pages_fill(&n->pages, &m->pool, off, off + len);
    if (r == 0 && mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        pages_zero(&n->pages, &m->pool, off, off + len, !hole);
    if (r == 0)
        written(call, n, mode & FALLOC_FL_KEEP_SIZE ? 0 : off + len);
    pthread_rwlock_unlock(&n->lock);
    return r;
}

static int mem_lock(struct pl_tree *tree, struct pl_call *call, struct pl_file *file,
                    const struct pl_lock *lock)
{
    struct file *f = (struct file *)file;
    return pl_locks_set_by(&node_of(file->node)->locks, call, &f->owners, lock);
}

static int mem_getlock(struct pl_tree *tree, struct pl_call *call, struct pl_file *file,
                       struct pl_lock *lock)
{
    return pl_locks_get(&node_of(file->node)->locks, lock);
}

/* ---- extended attributes ---- */

/* Locks the node if the caller may do that; 0, or what stands against it (not locked). */
static int lock_xattr(struct pl_call *call, struct node *n, const char *name, bool write)
{
    pthread_rwlock_wrlock(&n->lock);
    int r = pl_may_xattr(call, &n->attr, name, write);
    if (r < 0)
        pthread_rwlock_unlock(&n->lock);
    return r;
}

static ssize_t mem_getxattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                            const char *name, void *buf, size_t size)
{
    struct node *n = node_of(node);
    ssize_t r = lock_xattr(call, n, name, false);
    if (r < 0)
        return r;
    r = pl_xattrs_get(&n->xattrs, name, buf, size);
    pthread_rwlock_unlock(&n->lock);
    return r;
}

static int mem_setxattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                        const char *name, const void *buf, size_t size, int flags)
{
    struct node *n = node_of(node);
    int r = lock_xattr(call, n, name, true);
    if (r < 0)
        return r;
    r = pl_xattrs_set(&n->xattrs, name, buf, size, flags);
    if (r == 0)
        pl_attr_touch(&n->attr, 0);
    pthread_rwlock_unlock(&n->lock);
    return r;
}

static int mem_removexattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                           const char *name)
{
    struct node *n = node_of(node);
    int r = lock_xattr(call, n, name, true);
    if (r < 0)
        return r;
    r = pl_xattrs_remove(&n->xattrs, name);
    if (r == 0)
        pl_attr_touch(&n->attr, 0);
    pthread_rwlock_unlock(&n->lock);
    return r;
}

static ssize_t mem_listxattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                             char *buf, size_t size)
{
    struct node *n = node_of(node);
    pthread_rwlock_rdlock(&n->lock);
    ssize_t r = pl_xattrs_list(&n->xattrs, call->cred.uid == 0, buf, size);
    pthread_rwlock_unlock(&n->lock);
    return r;
}

/* ---- the tree ---- */

static int mem_statfs(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                      struct statfs *st)
{
    struct mem *m = mem_of(tree);
    uint64_t used = atomic_load(&m->pool.used), nodes = pl_nodes_count(m->nodes);
    *st = (struct statfs){.f_type = TMPFS_MAGIC,
                          .f_bsize = PAGES_SIZE,
                          .f_frsize = PAGES_SIZE,
                          .f_blocks = m->pool.max,
                          .f_bfree = m->pool.max - (used < m->pool.max ? used : m->pool.max),
                          .f_files = m->max_nodes,
                          .f_ffree = m->max_nodes - (nodes < m->max_nodes ? nodes : m->max_nodes),
                          .f_namelen = PL_NAME_MAX};
    st->f_bavail = st->f_bfree;
    return 0;
}

static const struct pl_ops mem_ops = {
    .name = "mem",
    .done = mem_done,
    .root = mem_root,
    .release = mem_release,
    .lookup = mem_lookup,
    .getattr = mem_getattr,
    .setattr = mem_setattr,
    .readlink = mem_readlink,
    .make = mem_make,
    .link = mem_link,
    .remove = mem_remove,
    .rename = mem_rename,
    .open = mem_open,
    .create = mem_create,
    .tmpfile = mem_tmpfile,
    .close = mem_close,
    .read = mem_read,
    .write = mem_write,
    .readdir = mem_readdir,
    .seek = mem_seek,
    .fallocate = mem_fallocate,
    .getxattr = mem_getxattr,
    .setxattr = mem_setxattr,
    .removexattr = mem_removexattr,
    .listxattr = mem_listxattr,
    .lock = mem_lock,
    .getlock = mem_getlock,
    .statfs = mem_statfs,
    .key = mem_key,
    .find = mem_find,
};

int pl_mem_new(uint64_t max_bytes, struct pl_tree **ret, struct pl_err *err)
{
    const struct pl_make root = {.mode = S_IFDIR | 0755};
    uint64_t half =
        (uint64_t)sysconf(_SC_PHYS_PAGES) / 2 * ((uint64_t)sysconf(_SC_PAGESIZE) / 4096);
    struct mem *m = calloc(1, sizeof(*m));
    if (!m || !(m->nodes = pl_nodes_new())) {
        free(m);
        return pl_fail(err, -ENOMEM, "mem: out of memory");
    }
    pl_tree_init(&m->tree, &mem_ops, NULL);
    m->tree.flags = PL_TREE_PRIVATE | PL_TREE_LOCKS | PL_TREE_XATTR | PL_TREE_STATELESS |
                    PL_TREE_STATELESS_SELF;
    pthread_rwlock_init(&m->names, NULL);
    m->pool.max = max_bytes ? max_bytes / PAGES_SIZE : half;
    m->max_nodes = half;
    m->next_ino = 1;
    if (getrandom(&m->run, sizeof(m->run), GRND_NONBLOCK) < 0)
        m->run = (uint64_t)time(NULL);
    struct pl_call self;
    pl_call_init_self(&self);
    int r = new_node(m, &self, NULL, &root, &m->root);
    pl_call_done(&self);
    if (r < 0) {
        pl_tree_unref(&m->tree);
        return pl_fail(err, r, "mem: out of memory");
    }
    m->root->parent = m->root;
    *ret = &m->tree;
    return 0;
}
