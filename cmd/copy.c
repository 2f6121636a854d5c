/* SPDX-License-Identifier: MIT */
#include "cmd/copy.h"
#include "cmd/copydata.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <uthash.h>

struct copy_link {
    uint64_t ino;
    uint64_t left; /* names of it still to come */
    struct pl_node *copy;
    UT_hash_handle hh;
};

static void tree(struct copier *c, struct pl_node *node, const struct pl_attr *attr,
                 const char *path, struct pl_node *dir, const char *name, const char *show);

char *copy_last_name(const char *path)
{
    size_t end = strlen(path);
    while (end && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start && path[start - 1] != '/')
        start--;
    if (start == end || (end - start == 1 && path[start] == '.') ||
        (end - start == 2 && !strncmp(path + start, "..", 2)))
        return NULL;
    return strndup(path + start, end - start);
}

/* A name that nobody has, for what is not whole yet. */
static void part_name(char name[64])
{
    uint64_t r = 0;
    if (getrandom(&r, sizeof(r), 0) != sizeof(r))
        r = (uint64_t)getpid();
    snprintf(name, 64, ".plenum-%016llx.part", (unsigned long long)r);
}

/* Also after an interruption, which has cancelled the walk's own call. */
static void discard(struct copier *c, struct pl_node *dir, const char *name)
{
    struct pl_call call;
    pl_call_init_self(&call);
    pl_remove(c->dst->tree, &call, dir, name, 0);
    pl_call_done(&call);
}

/* ---- attributes ---- */

static void xattrs(struct copier *c, struct pl_node *from, struct pl_node *to)
{
    struct walk *s = c->src, *d = c->dst;
    ssize_t n = pl_listxattr(s->tree, &s->call, from, NULL, 0);
    char *names = n > 0 ? malloc((size_t)n) : NULL;
    char *value = names ? malloc(PL_XATTR_MAX) : NULL;
    n = value ? pl_listxattr(s->tree, &s->call, from, names, (size_t)n) : -1;
    for (char *p = names; n > 0 && p < names + n; p += strlen(p) + 1) {
        ssize_t len = pl_getxattr(s->tree, &s->call, from, p, value, PL_XATTR_MAX);
        /* Where the target does not take one (another kind of tree, no right) it is left out. */
        if (len >= 0)
            pl_setxattr(d->tree, &d->call, to, p, value, (size_t)len, 0);
    }
    free(names);
    free(value);
}

/* Owner, mode, xattrs, times: each before what it would change again. */
static int attributes(struct copier *c, struct pl_node *from, const struct pl_attr *a,
                      struct pl_node *to, struct pl_file *file)
{
    struct walk *d = c->dst;
    struct pl_attr after;
    struct pl_setattr set = {.valid = PL_SET_UID | PL_SET_GID, .uid = a->uid, .gid = a->gid};
    bool link = S_ISLNK(to->fmt);
    if (geteuid() == 0)
        pl_setattr(d->tree, &d->call, to, file, &set, &after); /* as cp -a: where permitted */
    set = (struct pl_setattr){.valid = PL_SET_MODE, .mode = a->mode & 07777};
    int r = link ? 0 : pl_setattr(d->tree, &d->call, to, file, &set, &after);
    if (!link)
        xattrs(c, from, to);
    set = (struct pl_setattr){
        .valid = PL_SET_ATIME | PL_SET_MTIME, .atime = a->atime, .mtime = a->mtime};
    int t = pl_setattr(d->tree, &d->call, to, file, &set, &after);
    if (t == -EOPNOTSUPP && link)
        t = 0;
    return r ? r : t;
}

/* ---- one object each ---- */

/* Puts what was made as `part` in the place of `name`. */
static int settle(struct copier *c, struct pl_node *dir, const char *part, const char *name)
{
    struct walk *d = c->dst;
    int r = pl_rename(d->tree, &d->call, dir, part, dir, name, 0);
    if (r < 0)
        discard(c, dir, part);
    return r;
}

static void file(struct copier *c, struct pl_node *node, const struct pl_attr *attr,
                 const char *path, struct pl_node *dir, const char *name, const char *show,
                 struct pl_node **ret)
{
    struct walk *s = c->src, *d = c->dst;
    struct pl_file *in, *out;
    struct pl_node *to;
    struct pl_attr made;
    char part[64];
    int r = pl_open(s->tree, &s->call, node, O_RDONLY, &in);
    if (r < 0) {
        walk_fail(s, path, r);
        return;
    }
    part_name(part);
    r = pl_create(d->tree, &d->call, dir, part, O_RDWR | O_CREAT | O_EXCL, 0600, &to, &made, &out);
    if (r < 0) {
        walk_fail(d, show, r);
        pl_close(s->tree, &s->call, in);
        return;
    }
    bool reading = false;
    r = copy_data(c, in, attr, out, &reading);
    if (r < 0)
        walk_fail(reading ? s : d, reading ? path : show, r);
    pl_close(s->tree, &s->call, in);
    int a = r < 0 ? 0 : attributes(c, node, attr, to, out);
    int f = pl_flush(d->tree, &d->call, out, 0);
    pl_close(d->tree, &d->call, out);
    if (r == 0 && (a < 0 || f < 0)) {
        r = f < 0 ? f : a;
        walk_fail(d, show, r);
        /* The content is whole: only what could not be set is missing. */
        r = f;
    }
    if (r < 0) {
        discard(c, dir, part);
        pl_node_unref(to);
        return;
    }
    r = settle(c, dir, part, name);
    if (r < 0) {
        walk_fail(d, show, r);
        pl_node_unref(to);
        return;
    }
    *ret = to;
}

/* A symlink, fifo, socket or device. */
static void special(struct copier *c, struct pl_node *node, const struct pl_attr *attr,
                    const char *path, struct pl_node *dir, const char *name, const char *show,
                    struct pl_node **ret)
{
    struct walk *s = c->src, *d = c->dst;
    char target[PL_PATH_MAX + 1], part[64];
    struct pl_make make = {
        .mode = attr->mode, .rdev_major = attr->rdev_major, .rdev_minor = attr->rdev_minor};
    struct pl_node *to;
    struct pl_attr made;
    if (S_ISLNK(node->fmt)) {
        int n = pl_readlink(s->tree, &s->call, node, target, PL_PATH_MAX);
        if (n < 0) {
            walk_fail(s, path, n);
            return;
        }
        target[n] = 0;
        make.target = target;
    }
    part_name(part);
    int r = pl_make(d->tree, &d->call, dir, part, &make, &to, &made);
    if (r == 0) {
        r = attributes(c, node, attr, to, NULL);
        if (r < 0)
            walk_fail(d, show, r);
        r = settle(c, dir, part, name);
        if (r < 0)
            pl_node_unref(to);
        else
            *ret = to;
    }
    if (r < 0)
        walk_fail(d, show, r);
}

/* ---- directories ---- */

/* True, having said so, for the directory that copies go into, met again in the source: copying it
 * would not end. Either tree may be far away and know the other's files by nothing but their
 * numbers, which files of different machines can share; but what is made in the one is seen only
 * there. */
static bool into_itself(struct copier *c, struct pl_node *node, const struct pl_attr *attr,
                        const char *path)
{
    struct walk *s = c->src, *d = c->dst;
    struct pl_make make = {.mode = S_IFREG | 0600};
    struct pl_node *made, *seen;
    struct pl_attr a;
    char part[64];
    if (c->into_ino != attr->ino)
        return false;
    part_name(part);
    if (pl_make(d->tree, &d->call, c->into, part, &make, &made, &a) < 0)
        return false;
    bool same = pl_lookup(s->tree, &s->call, node, part, &seen, &a) == 0;
    discard(c, c->into, part);
    pl_node_unref(made);
    if (!same)
        return false;
    pl_node_unref(seen);
    walk_say(s, *path ? path : "/", "not copied into itself");
    return true;
}

static void directory(struct copier *c, struct pl_node *node, const struct pl_attr *attr,
                      const char *path, struct pl_node *to, const char *show)
{
    struct walk_list names;
    if (!walk_down(c->src, path))
        return;
    int r = walk_list(c->src, node, &names);
    if (r < 0)
        walk_fail(c->src, path, r);
    for (size_t i = 0; i < names.n && !walk_interrupted(); i++) {
        char *sub = walk_join(path, names.v[i].name), *subshow = walk_join(show, names.v[i].name);
        struct pl_node *child;
        struct pl_attr a;
        r = pl_lookup(c->src->tree, &c->src->call, node, names.v[i].name, &child, &a);
        if (r < 0) {
            walk_fail(c->src, sub, r);
        } else {
            tree(c, child, &a, sub, to, names.v[i].name, subshow);
            pl_node_unref(child);
        }
        free(sub);
        free(subshow);
    }
    walk_list_free(&names);
    walk_up(c->src);
}

static void make_directory(struct copier *c, struct pl_node *node, const struct pl_attr *attr,
                           const char *path, struct pl_node *dir, const char *name,
                           const char *show)
{
    struct walk *d = c->dst;
    struct pl_make make = {.mode = S_IFDIR | 0700};
    struct pl_node *to;
    struct pl_attr a;
    if (c->into && into_itself(c, node, attr, path))
        return;
    int r = pl_make(d->tree, &d->call, dir, name, &make, &to, &a);
    if (r == -EEXIST) {
        r = pl_lookup(d->tree, &d->call, dir, name, &to, &a);
        if (r == 0 && !S_ISDIR(to->fmt)) {
            pl_node_unref(to);
            r = -ENOTDIR;
        }
    }
    if (r < 0) {
        walk_fail(d, show, r);
        return;
    }
    bool top = !c->into;
    if (top) {
        c->into = to;
        c->into_ino = a.ino;
    }
    if (!top || !into_itself(c, node, attr, path))
        directory(c, node, attr, path, to, show);
    if (top)
        c->into = NULL;
    r = walk_interrupted() ? 0 : attributes(c, node, attr, to, NULL);
    if (r < 0)
        walk_fail(d, show, r);
    pl_node_unref(to);
}

/* ---- hard links ---- */

/* Another name of what is copied already: true if that was made. */
static bool linked(struct copier *c, const struct pl_attr *attr, struct pl_node *dir,
                   const char *name, const char *show)
{
    struct walk *d = c->dst;
    struct copy_link *l;
    char part[64];
    HASH_FIND(hh, c->links, &attr->ino, sizeof(attr->ino), l);
    if (!l)
        return false;
    part_name(part);
    int r = pl_link(d->tree, &d->call, l->copy, dir, part, &(struct pl_attr){0});
    if (r == -EOPNOTSUPP || r == -EPERM || r == -EMLINK)
        return false; /* a copy of its own, then */
    if (r == 0) {
        r = settle(c, dir, part, name);
        /* Renaming to another name of the same file does nothing. */
        if (r == 0)
            discard(c, dir, part);
    }
    if (r < 0)
        walk_fail(d, show, r);
    if (--l->left == 0) {
        HASH_DEL(c->links, l);
        pl_node_unref(l->copy);
        free(l);
    }
    return true;
}

/* Takes over `copy`. */
static void remember(struct copier *c, const struct pl_attr *attr, struct pl_node *copy)
{
    struct copy_link *l = attr->nlink > 1 ? calloc(1, sizeof(*l)) : NULL;
    if (!l) {
        pl_node_unref(copy);
        return;
    }
    l->ino = attr->ino;
    l->left = attr->nlink - 1;
    l->copy = copy;
    HASH_ADD(hh, c->links, ino, sizeof(l->ino), l);
}

static void tree(struct copier *c, struct pl_node *node, const struct pl_attr *attr,
                 const char *path, struct pl_node *dir, const char *name, const char *show)
{
    struct pl_node *copy = NULL;
    if (S_ISDIR(node->fmt)) {
        make_directory(c, node, attr, path, dir, name, show);
        return;
    }
    if (attr->nlink > 1 && linked(c, attr, dir, name, show)) {
        atomic_fetch_add(&c->progress->files, 1);
        return;
    }
    if (S_ISREG(node->fmt))
        file(c, node, attr, path, dir, name, show, &copy);
    else
        special(c, node, attr, path, dir, name, show, &copy);
    atomic_fetch_add(&c->progress->files, 1);
    if (copy)
        remember(c, attr, copy);
}

void copy_path(struct copier *c, const char *path, struct pl_node *dir, const char *name,
               const char *show)
{
    struct pl_node *node;
    struct pl_attr attr;
    int r = walk_path(c->src, path, !name, &node, &attr);
    if (r < 0) {
        walk_fail(c->src, path, r);
        return;
    }
    if (name) {
        tree(c, node, &attr, path, dir, name, show);
    } else if (S_ISDIR(node->fmt)) {
        struct pl_attr into;
        r = pl_getattr(c->dst->tree, &c->dst->call, dir, NULL, &into);
        c->into = dir;
        c->into_ino = into.ino;
        if (r < 0)
            walk_fail(c->dst, show, r);
        else if (!into_itself(c, node, &attr, path))
            directory(c, node, &attr, path, dir, show);
        c->into = NULL;
    } else {
        walk_fail(c->src, path, -ENOTDIR);
    }
    pl_node_unref(node);
}

void copy_begin(struct copier *c, struct walk *src, struct walk *dst, char *const *paths, size_t n,
                struct progress *progress)
{
    *c = (struct copier){.src = src, .dst = dst, .progress = progress};
    count_start(&c->count, src, paths, n, progress);
}

void copy_end(struct copier *c)
{
    struct copy_link *l, *next;
    HASH_ITER (hh, c->links, l, next) {
        HASH_DEL(c->links, l);
        pl_node_unref(l->copy);
        free(l);
    }
    count_stop(&c->count);
}
