/* SPDX-License-Identifier: MIT */
/* What the tests of spaces share: trees, a space over them, and short words for what is done. */
#ifndef SPACE_FIXTURE_H
#define SPACE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <plenum/sources.h>
#include <plenum/space.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct pl_tree *u, *up, *low, *low2; /* the space, and what is in it */
static struct pl_call call_, *c = &call_;
static struct pl_err err;
static struct pl_attr at;

/* The node at a path, a reference; NULL: errno_ says why. */
static int why;
static struct pl_node *get(struct pl_tree *t, const char *path)
{
    struct pl_node *n = NULL;
    why = pl_attach(t, c, path, &n, &at);
    return why == 0 ? n : NULL;
}

static struct pl_node *must(struct pl_tree *t, const char *path)
{
    struct pl_node *n = get(t, path);
    if (!n)
        fail_msg("%s: %s", path, strerror(-why));
    return n;
}

static bool is_there(struct pl_tree *t, const char *path)
{
    struct pl_node *n = get(t, path);
    pl_node_unref(n);
    return n != NULL;
}

static __attribute__((unused)) struct pl_attr attr_of(struct pl_tree *t, const char *path)
{
    pl_node_unref(must(t, path));
    return at;
}

/* "a/b/c": the node of a/b, and c. */
static struct pl_node *parent(struct pl_tree *t, const char *path, const char **name)
{
    char buf[4096];
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    snprintf(buf, sizeof(buf), "%.*s", slash ? (int)(slash - path) : 0, path);
    return must(t, buf);
}

static __attribute__((unused)) int mk(struct pl_tree *t, const char *path, uint32_t mode)
{
    struct pl_make make = {.mode = mode, .target = "target"};
    const char *name;
    struct pl_node *dir = parent(t, path, &name), *n;
    int r = pl_make(t, c, dir, name, &make, &n, &at);
    if (r == 0)
        pl_node_unref(n);
    pl_node_unref(dir);
    return r;
}

static __attribute__((unused)) void mkdirs(struct pl_tree *t, const char *path)
{
    int r = mk(t, path, S_IFDIR | 0755);
    if (r < 0 && r != -EEXIST)
        fail_msg("mkdir %s: %s", path, strerror(-r));
}

static int try_write(struct pl_tree *t, const char *path, const char *text, int flags)
{
    const char *name;
    struct pl_node *dir = parent(t, path, &name), *n;
    struct pl_file *f;
    int r = pl_create(t, c, dir, name, O_RDWR | flags, 0644, &n, &at, &f);
    pl_node_unref(dir);
    if (r < 0)
        return r;
    ssize_t w = pl_write(t, c, f, text, strlen(text), 0);
    r = w < 0 ? (int)w : pl_flush(t, c, f, 1);
    pl_close(t, c, f);
    pl_node_unref(n);
    return r;
}

static __attribute__((unused)) void put(struct pl_tree *t, const char *path, const char *text)
{
    int r = try_write(t, path, text, O_TRUNC);
    if (r < 0)
        fail_msg("write %s: %s", path, strerror(-r));
}

static char *text_of(struct pl_tree *t, struct pl_file *f, char buf[256])
{
    ssize_t r = pl_read(t, c, f, buf, 255, 0);
    assert_true(r >= 0);
    buf[r] = 0;
    return buf;
}

static __attribute__((unused)) void has(struct pl_tree *t, const char *path, const char *text)
{
    char buf[256];
    struct pl_node *n = must(t, path);
    struct pl_file *f;
    assert_int_equal(pl_open(t, c, n, O_RDONLY, &f), 0);
    assert_string_equal(text_of(t, f, buf), text);
    pl_close(t, c, f);
    pl_node_unref(n);
}

static __attribute__((unused)) int rm(struct pl_tree *t, const char *path, int flags)
{
    const char *name;
    struct pl_node *dir = parent(t, path, &name);
    int r = pl_remove(t, c, dir, name, flags);
    pl_node_unref(dir);
    return r;
}

static __attribute__((unused)) int mv(struct pl_tree *t, const char *from, const char *to,
                                      unsigned flags)
{
    const char *old, *new;
    struct pl_node *a = parent(t, from, &old), *b = parent(t, to, &new);
    int r = pl_rename(t, c, a, old, b, new, flags);
    pl_node_unref(a);
    pl_node_unref(b);
    return r;
}

static __attribute__((unused)) int ln(struct pl_tree *t, const char *from, const char *to)
{
    const char *name;
    struct pl_node *n = must(t, from), *dir = parent(t, to, &name);
    int r = pl_link(t, c, n, dir, name, &at);
    pl_node_unref(dir);
    pl_node_unref(n);
    return r;
}

static __attribute__((unused)) int set(struct pl_tree *t, const char *path,
                                       const struct pl_setattr *how)
{
    struct pl_node *n = must(t, path);
    int r = pl_setattr(t, c, n, NULL, how, &at);
    pl_node_unref(n);
    return r;
}

/* The names of a directory, sorted, with spaces between them; the number and the type of each are
 * compared with what a lookup says. */
struct names {
    char name[64][64];
    uint64_t ino[64];
    uint32_t type[64];
    size_t n;
};
static int one_name(void *arg, const struct pl_dirent *e)
{
    struct names *l = arg;
    assert_true(l->n < 64);
    if (strcmp(e->name, ".") != 0 && strcmp(e->name, "..") != 0) {
        snprintf(l->name[l->n], 64, "%s", e->name);
        l->type[l->n] = e->type;
        l->ino[l->n++] = e->ino;
    }
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

static __attribute__((unused)) char *list(struct pl_tree *t, const char *path)
{
    static char out[4096];
    struct names l = {.n = 0};
    struct pl_node *dir = must(t, path), *n;
    struct pl_file *f;
    assert_int_equal(pl_open(t, c, dir, O_RDONLY | O_DIRECTORY, &f), 0);
    assert_int_equal(pl_readdir(t, c, f, 0, one_name, &l), 0);
    for (size_t i = 0; i < l.n; i++) {
        assert_int_equal(pl_lookup(t, c, dir, l.name[i], &n, &at), 0);
        assert_int_equal(l.ino[i], at.ino);
        assert_int_equal(l.type[i], (at.mode & S_IFMT) >> 12);
        pl_node_unref(n);
    }
    qsort(l.name, l.n, sizeof(l.name[0]), by_name);
    out[0] = 0;
    for (size_t i = 0; i < l.n; i++) {
        assert_true(i == 0 || strcmp(l.name[i], l.name[i - 1]) != 0);
        strcat(strcat(out, i ? " " : ""), l.name[i]);
    }
    pl_close(t, c, f);
    pl_node_unref(dir);
    return out;
}

/* A top that can do the least: no devices, no xattrs, no files without names, no flags of rename.
 */
static int plain_make(struct pl_tree *t, struct pl_call *call, struct pl_node *dir,
                      const char *name, const struct pl_make *make, struct pl_node **ret,
                      struct pl_attr *attr)
{
    return S_ISCHR(make->mode) ? -EPERM : pl_make(t->lower, call, dir, name, make, ret, attr);
}

static int plain_rename(struct pl_tree *t, struct pl_call *call, struct pl_node *olddir,
                        const char *oldname, struct pl_node *newdir, const char *newname,
                        unsigned flags)
{
    return flags ? -EINVAL : pl_rename(t->lower, call, olddir, oldname, newdir, newname, 0);
}

static int plain_tmpfile(struct pl_tree *t, struct pl_call *call, struct pl_node *dir, int flags,
                         mode_t mode, struct pl_node **ret, struct pl_attr *attr,
                         struct pl_file **ret_file)
{
    return -EOPNOTSUPP;
}

static const struct pl_ops plain_ops = {
    .name = "plain", .make = plain_make, .rename = plain_rename, .tmpfile = plain_tmpfile};

/* What the trees are: memory, memory that can do the least in front, host directories. */
static enum { MEM, PLAIN, HOST } kind;
static char dirs[3][64];

static struct pl_tree *tree_open(int i)
{
    struct pl_tree *t, *l;
    if (kind == HOST) {
        snprintf(dirs[i], sizeof(dirs[i]), "/tmp/plenum-space.XXXXXX");
        assert_non_null(mkdtemp(dirs[i]));
        assert_int_equal(pl_host_open(dirs[i], &t, &err), 0);
        return t;
    }
    assert_int_equal(pl_mem_new(0, &t, &err), 0);
    if (kind == PLAIN && i == 0) {
        assert_non_null(l = calloc(1, sizeof(*l)));
        pl_tree_init(l, &plain_ops, t);
        l->flags &= ~(uint32_t)PL_TREE_XATTR;
        t = l;
    }
    return t;
}

static __attribute__((unused)) void trees_open(void)
{
    pl_call_init_self(c);
    up = tree_open(0);
    low = tree_open(1);
    low2 = tree_open(2);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    return remove(path);
}

static void remove_all(const char *dir)
{
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void trees_close(void)
{
    pl_tree_unref(u);
    pl_tree_unref(up);
    pl_tree_unref(low);
    pl_tree_unref(low2);
    u = up = low = low2 = NULL;
    pl_call_done(c);
    for (int i = 0; i < 3 && kind == HOST; i++)
        remove_all(dirs[i]);
}

/* The union of up and low, as it was opened first, or anew. */
static __attribute__((unused)) void open_union(uint32_t flags)
{
    struct pl_tree *both[] = {up, low};
    pl_tree_unref(u);
    u = NULL;
    assert_int_equal(pl_union_new(both, 2, true, flags, &u, &err), 0);
}

#endif
