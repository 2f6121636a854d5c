/* SPDX-License-Identifier: MIT */
/* The layers over a memory tree, and what the gate does on the way through them. */
#include "base/keep.h"
#include "layers/trace.h"
#include <errno.h>
#include <fcntl.h>
#include <plenum/sources.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct env {
    struct pl_call call;
    struct pl_tree *mem;
    struct pl_node *root;
    struct pl_attr attr;
};

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));
    pl_call_init_self(&e->call);
    assert_int_equal(pl_mem_new(0, &e->mem, NULL), 0);
    assert_int_equal(pl_attach(e->mem, &e->call, "", &e->root, &e->attr), 0);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;
    pl_node_unref(e->root);
    pl_tree_unref(e->mem);
    pl_call_done(&e->call);
    free(e);
    return 0;
}

/* Creates NAME with some content through `t`: 0 or the first error. */
static int put(struct env *e, struct pl_tree *t, const char *name)
{
    struct pl_node *n;
    struct pl_file *f;
    int r = pl_create(t, &e->call, e->root, name, O_WRONLY, 0600, &n, &e->attr, &f);
    if (r < 0)
        return r;
    ssize_t w = pl_write(t, &e->call, f, "content", 7, 0);
    r = pl_close(t, &e->call, f);
    pl_node_unref(n);
    return w < 0 ? (int)w : r;
}

static void null_passes(void **state)
{
    struct env *e = *state;
    struct pl_tree *t = pl_null_new(pl_null_new(pl_tree_ref(e->mem)));
    struct pl_node *n;
    assert_int_equal(put(e, t, "a"), 0);
    assert_int_equal(pl_lookup(t, &e->call, e->root, "a", &n, &e->attr), 0);
    assert_int_equal(e->attr.size, 7);
    assert_int_equal(pl_tree_has(t, PL_OP_fallocate), true);
    pl_node_unref(n);
    pl_tree_unref(t);
}

static void ro_refuses(void **state)
{
    struct env *e = *state;
    struct pl_tree *t = pl_ro_new(pl_tree_ref(e->mem));
    struct pl_node *n, *x;
    struct pl_file *f;
    struct pl_attr a;
    struct pl_make mk = {.mode = S_IFDIR | 0755};
    assert_int_equal(put(e, e->mem, "a"), 0);
    assert_int_equal(pl_lookup(t, &e->call, e->root, "a", &n, &a), 0);
    assert_int_equal(pl_open(t, &e->call, n, O_WRONLY, &f), -EROFS);
    assert_int_equal(pl_open(t, &e->call, n, O_RDONLY | O_TRUNC, &f), -EROFS);
    assert_int_equal(pl_create(t, &e->call, e->root, "b", O_RDONLY, 0600, &x, &a, &f), -EROFS);
    assert_int_equal(pl_create(t, &e->call, e->root, "a", O_RDONLY | O_EXCL, 0, &x, &a, &f),
                     -EEXIST);
    assert_int_equal(pl_create(t, &e->call, e->root, "a", O_RDWR, 0, &x, &a, &f), -EROFS);
    assert_int_equal(pl_create(t, &e->call, e->root, "a", O_RDONLY, 0, &x, &a, &f), 0);
    assert_int_equal(pl_close(t, &e->call, f), 0);
    pl_node_unref(x);
    assert_int_equal(pl_make(t, &e->call, e->root, "d", &mk, &x, &a), -EROFS);
    assert_int_equal(pl_remove(t, &e->call, e->root, "a", 0), -EROFS);
    assert_int_equal(pl_rename(t, &e->call, e->root, "a", e->root, "b", 0), -EROFS);
    assert_int_equal(pl_link(t, &e->call, n, e->root, "l", &a), -EROFS);
    assert_int_equal(pl_setxattr(t, &e->call, n, "user.x", "1", 1, 0), -EROFS);
    assert_int_equal(pl_removexattr(t, &e->call, n, "user.x"), -EROFS);
    struct pl_setattr set = {.valid = PL_SET_MODE, .mode = 0};
    assert_int_equal(pl_setattr(t, &e->call, n, NULL, &set, &a), -EROFS);
    assert_int_equal(pl_access(t, &e->call, n, R_OK), 0);
    assert_int_equal(pl_access(t, &e->call, n, W_OK), -EROFS);
    pl_node_unref(n);
    pl_tree_unref(t);
}

static void fault_counts_down(void **state)
{
    struct env *e = *state;
    struct pl_tree *t = pl_fault_new(PL_OP_write, -ENOSPC, 2, 2, pl_tree_ref(e->mem));
    static const int want[] = {0, 0, -ENOSPC, -ENOSPC, 0};
    for (int i = 0; i < 5; i++) {
        char name[] = {'f', (char)('0' + i), 0};
        assert_int_equal(put(e, t, name), want[i]);
    }
    pl_tree_unref(t);
    t = pl_fault_new(PL_OP_COUNT, -EIO, 0, UINT64_MAX, pl_tree_ref(e->mem));
    assert_int_equal(pl_getattr(t, &e->call, e->root, NULL, &e->attr), -EIO);
    assert_int_equal(put(e, t, "g"), -EIO);
    pl_tree_unref(t);
}

static void close_happens_anyway(void **state)
{
    struct env *e = *state;
    struct pl_tree *t = pl_fault_new(PL_OP_close, -EIO, 0, 1, pl_tree_ref(e->mem));
    unsigned refs;
    assert_int_equal(put(e, t, "a"), -EIO);
    refs = atomic_load(&e->root->refs);
    assert_int_equal(put(e, t, "b"), 0);
    assert_int_equal(atomic_load(&e->root->refs), refs);
    pl_tree_unref(t);
}

static void delay_is_cancelled(void **state)
{
    struct env *e = *state;
    struct pl_tree *t = pl_delay_new(3600000000000, pl_tree_ref(e->mem));
    pl_call_cancel(&e->call);
    assert_int_equal(pl_getattr(t, &e->call, e->root, NULL, &e->attr), -EINTR);
    pl_tree_unref(t);
}

static char lines[4096];

static void keep(void *arg, const char *line)
{
    strncat(lines, line, sizeof(lines) - strlen(lines) - 2);
    strcat(lines, "\n");
}

static void trace_escapes(void **state)
{
    struct env *e = *state;
    struct trace_sink sink = {.line = keep};
    struct pl_tree *t = trace_new_sink(&sink, pl_tree_ref(e->mem));
    struct pl_node *n;
    lines[0] = 0;
    assert_int_equal(pl_lookup(t, &e->call, e->root, "evil\033[2J\n", &n, &e->attr), -ENOENT);
    assert_int_equal(put(e, t, "plain"), 0);
    assert_non_null(strstr(lines, " lookup dir "));
    assert_non_null(strstr(lines, "\"evil\\033[2J\\012\" = ENOENT"));
    assert_non_null(strstr(lines, " create dir "));
    assert_non_null(strstr(lines, " len 7"));
    assert_non_null(strstr(lines, " close node "));
    assert_null(strchr(lines, '\033'));
    pl_tree_unref(t);
}

/* What reaches a source has passed the gate. */
static void gate_refuses(void **state)
{
    struct env *e = *state;
    struct pl_tree *t = e->mem;
    struct pl_node *n, *f_node;
    struct pl_file *f;
    struct pl_attr a;
    char longname[PL_NAME_MAX + 2];
    memset(longname, 'x', sizeof(longname));
    longname[PL_NAME_MAX + 1] = 0;
    assert_int_equal(pl_lookup(t, &e->call, e->root, longname, &n, &a), -ENAMETOOLONG);
    assert_int_equal(pl_lookup(t, &e->call, e->root, "a/b", &n, &a), -EINVAL);
    assert_int_equal(pl_lookup(t, &e->call, e->root, "", &n, &a), -ENOENT);
    assert_int_equal(pl_remove(t, &e->call, e->root, "..", AT_REMOVEDIR), -EINVAL);
    assert_int_equal(pl_attach(t, &e->call, "../x", &n, &a), -EINVAL);
    assert_int_equal(pl_create(t, &e->call, e->root, "f", O_RDWR, 0600, &f_node, &a, &f), 0);
    char byte = 0;
    assert_int_equal(pl_lookup(t, &e->call, f_node, "x", &n, &a), -ENOTDIR);
    assert_int_equal(pl_write(t, &e->call, f, &byte, 1, PL_OFF_MAX), -EFBIG);
    assert_int_equal(pl_write(t, &e->call, f, &byte, 1, 1ull << 63), -EINVAL);
    assert_int_equal(pl_read(t, &e->call, f, &byte, 1, UINT64_MAX), -EINVAL);
    assert_int_equal(pl_fallocate(t, &e->call, f, 0, PL_OFF_MAX, 1), -EFBIG);
    struct pl_setattr set = {.valid = PL_SET_SIZE, .size = 1ull << 63};
    assert_int_equal(pl_setattr(t, &e->call, f_node, f, &set, &a), -EFBIG);
    assert_int_equal(pl_setattr(t, &e->call, e->root, NULL, &set, &a), -EISDIR);
    assert_int_equal(pl_rename(t, &e->call, e->root, "f", e->root, "g", 8), -EINVAL);
    assert_int_equal(pl_setxattr(t, &e->call, f_node, "", "", 0, 0), -ERANGE);
    assert_int_equal(pl_close(t, &e->call, f), 0);
    assert_int_equal(pl_open(t, &e->call, f_node, O_RDONLY, &f), 0);
    assert_int_equal(pl_write(t, &e->call, f, &byte, 1, 0), -EBADF);
    assert_int_equal(pl_close(t, &e->call, f), 0);
    assert_int_equal(pl_open(t, &e->call, e->root, O_RDWR, &f), -EISDIR);
    pl_node_unref(f_node);
}

/* What a tree leaves to a successor goes through layers to the source; so does what it is. */
static void lasting(void **state)
{
    struct env *e = *state;
    struct pl_tree *host, *t, *m = pl_ro_new(pl_tree_ref(e->mem));
    struct pl_node *root;
    struct pl_file *f;
    struct pl_kept k = {0};
    struct pl_keep *keep = keep_over(calloc(1, keep_size(4)), 4);
    assert_int_equal(m->flags & PL_TREE_LASTING, 0);
    assert_int_equal(pl_resume(m, &e->call, e->root, O_RDONLY | O_DIRECTORY, 0, &f), 0);
    assert_int_equal(pl_close(m, &e->call, f), 0);
    int fd = dup(0);
    assert_int_equal(pl_resume(m, &e->call, NULL, O_RDONLY, fd, &f), -ESTALE);
    assert_int_equal(close(fd), -1);
    pl_keep(m, keep);
    assert_false(pl_keep_next(keep, 0, &k));
    assert_int_equal(pl_host_open("/", &host, NULL), 0);
    t = pl_fault_new(PL_OP_open, -EIO, 0, 1, pl_ro_new(pl_delay_new(0, host)));
    assert_true(t->flags & PL_TREE_LASTING);
    pl_keep(t, keep);
    assert_true(pl_keep_next(keep, 0, &k));
    assert_int_equal(pl_attach(t, &e->call, "", &root, &e->attr), 0);
    fd = open("/", O_RDONLY | O_DIRECTORY);
    assert_int_equal(pl_resume(t, &e->call, root, O_RDONLY | O_DIRECTORY, fd, &f), 0);
    assert_int_equal(pl_close(t, &e->call, f), 0);
    pl_node_unref(root);
    pl_tree_unref(t);
    pl_tree_unref(m);
    assert_false(pl_keep_next(keep, 0, &k));
    free(keep);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(null_passes),        T(ro_refuses),    T(fault_counts_down), T(close_happens_anyway),
        T(delay_is_cancelled), T(trace_escapes), T(gate_refuses),      T(lasting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
