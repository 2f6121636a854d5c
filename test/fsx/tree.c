/* SPDX-License-Identifier: MIT */
/* The operations through the tree interface. */
#include "fsx.h"
#include "test/conform/conform.h"

_Thread_local struct pl_call *me; /* for stack.c */
static struct pl_call call;
static struct pl_tree *t;
static struct pl_node *root;
static struct pl_file *file[HANDLES];

int tree_target_open(const char *stack, const char *scratch, struct pl_err *err)
{
    struct pl_attr a;
    pl_call_init_self(&call);
    me = &call;
    int r = stack_open(stack, scratch, &t, err);
    if (r == 0 && (r = pl_attach(t, &call, "", &root, &a)) < 0)
        pl_fail(err, r, "the root: %s", strerror(-r));
    return r;
}

int tree_target_close(struct pl_err *err)
{
    pl_node_unref(root);
    pl_tree_unref(t);
    int r = stack_close(err);
    pl_call_done(&call);
    return r;
}

static int find(const char *name, struct pl_node **ret)
{
    struct pl_attr a;
    return pl_lookup(t, &call, root, name, ret, &a);
}

static int tree_open(int h, const char *name, int flags)
{
    struct pl_node *n;
    struct pl_attr a;
    int r = flags & O_CREAT ? pl_create(t, &call, root, name, flags, 0644, &n, &a, &file[h])
                            : find(name, &n);
    if (r < 0)
        return r;
    if (!(flags & O_CREAT))
        r = pl_open(t, &call, n, flags, &file[h]);
    pl_node_unref(n);
    return r;
}

static int tree_close(int h)
{
    int r = pl_flush(t, &call, file[h], 0);
    pl_close(t, &call, file[h]);
    return r;
}

static ssize_t tree_read(int h, void *buf, size_t n, uint64_t off)
{
    return pl_read(t, &call, file[h], buf, n, off);
}

static ssize_t tree_write(int h, const void *buf, size_t n, uint64_t off)
{
    return pl_write(t, &call, file[h], buf, n, off);
}

static int tree_truncate(int h, const char *name, uint64_t size)
{
    struct pl_setattr set = {PL_SET_SIZE, .size = size};
    struct pl_attr a;
    struct pl_node *n;
    if (!name)
        return pl_setattr(t, &call, file[h]->node, file[h], &set, &a);
    int r = find(name, &n);
    if (r == 0) {
        r = pl_setattr(t, &call, n, NULL, &set, &a);
        pl_node_unref(n);
    }
    return r;
}

static int tree_fallocate(int h, int mode, uint64_t off, uint64_t len)
{
    return pl_fallocate(t, &call, file[h], mode, off, len);
}

static ssize_t tree_copy(int in, uint64_t off_in, int out, uint64_t off_out, size_t n)
{
    return pl_copy(t, &call, file[in], off_in, file[out], off_out, n);
}

static int64_t tree_seek(int h, uint64_t off, int whence)
{
    return pl_seek(t, &call, file[h], off, whence);
}

static int tree_sync(int h, bool data_only)
{
    return pl_fsync(t, &call, file[h], data_only);
}

static int tree_stat(int h, const char *name, uint64_t *size, uint64_t *nlink)
{
    struct pl_attr a;
    struct pl_node *n;
    int r = name ? pl_lookup(t, &call, root, name, &n, &a)
                 : pl_getattr(t, &call, file[h]->node, file[h], &a);
    if (r < 0)
        return r;
    if (name)
        pl_node_unref(n);
    *size = a.size;
    *nlink = a.nlink;
    return 0;
}

static int tree_rename(const char *from, const char *to, unsigned flags)
{
    return pl_rename(t, &call, root, from, root, to, flags);
}

static int tree_link(const char *from, const char *to)
{
    struct pl_attr a;
    struct pl_node *n;
    int r = find(from, &n);
    if (r == 0) {
        r = pl_link(t, &call, n, root, to, &a);
        pl_node_unref(n);
    }
    return r;
}

static int tree_remove(const char *name)
{
    return pl_remove(t, &call, root, name, 0);
}

const struct target tree_target = {
    tree_open,      tree_close, tree_read,   tree_write, tree_truncate,
    tree_fallocate, tree_copy,  tree_seek,   tree_sync,  tree_stat,
    tree_rename,    tree_link,  tree_remove, NULL,       NULL,
};
