/* SPDX-License-Identifier: MIT */
/* Paths with symlinks, as path_resolution(7) says; what a kernel says of the same is the yardstick.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <plenum/sources.h>
#include <plenum/walk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct pl_tree *t;
static struct pl_call c;
static struct pl_node *root, *sub;
static char top[] = "/tmp/plenum-walk.XXXXXX";

static void must(int r)
{
    assert_int_equal(r, 0);
}

/* top/d/e/f, links of all kinds, a chain of 45 links. */
static int setup(void **state)
{
    struct pl_err err;
    char name[16], target[16];
    if (!mkdtemp(top) || chdir(top) < 0)
        return -1;
    must(mkdir("d", 0755) || mkdir("d/e", 0755) || symlink("e/f", "d/f") ||
         symlink("../d", "d/e/up"));
    must(close(creat("d/e/f", 0644)));
    must(symlink("d/e", "dir") || symlink("/d/e/f", "abs") || symlink("gone", "dangling"));
    must(symlink("loop", "loop") || symlink("d/e/f", "file") || symlink("dir/", "slashed"));
    must(symlink(".", "link0"));
    for (int i = 1; i <= 45; i++) {
        snprintf(name, sizeof(name), "link%d", i);
        snprintf(target, sizeof(target), "link%d", i - 1);
        must(symlink(target, name));
    }
    pl_call_init_self(&c);
    must(pl_host_open(top, &t, &err));
    must(pl_attach(t, &c, "", &root, &(struct pl_attr){0}));
    must(pl_lookup(t, &c, root, "d", &sub, &(struct pl_attr){0}));
    return 0;
}

static int teardown(void **state)
{
    char cmd[64];
    pl_node_unref(sub);
    pl_node_unref(root);
    pl_tree_unref(t);
    pl_call_done(&c);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", top);
    return chdir("/") || system(cmd);
}

static int walk(struct pl_node *dir, const char *path, int flags, uint64_t *ino)
{
    struct pl_node *node;
    struct pl_attr attr;
    int r = pl_walk(t, &c, root, dir, path, flags, &node, &attr);
    if (r < 0)
        return r;
    *ino = attr.ino;
    assert_int_equal(node->fmt, attr.mode & S_IFMT);
    pl_node_unref(node);
    return 0;
}

/* The kernel in the same directory; it has no chroot here, so nothing absolute and nothing above.
 */
static void test_as_kernel(void **state)
{
    static const char *const paths[] = {
        "d",         "d/",        "d//e///f",   "d/e/f/",   "d/f",       "d/f/",     "d/e/up/e/f",
        "dir",       "dir/",      "dir/f",      "dir/f/x",  "dir/..",    "dir/../e", "dangling",
        "dangling/", "loop",      "loop/x",     "file/",    "file/.",    "file/..",  "slashed",
        "slashed/f", "slashed/.", "d/./e/./f",  "d/x",      "d/x/..",    "d/x/y",    "",
        ".",         "./",        "d/e/../e/f", "link39",   "link40",    "link41",   "link45/d",
        "d/e/f/..",  "dir/.",     "link10/dir", "link0/d/", "slashed//", "file",
    };
    for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++) {
        for (int nofollow = 0; nofollow < 2; nofollow++) {
            struct stat st;
            uint64_t ino = 0;
            int want = fstatat(AT_FDCWD, paths[i], &st, nofollow ? AT_SYMLINK_NOFOLLOW : 0);
            want = want < 0 ? -errno : 0;
            int got = walk(NULL, paths[i], nofollow ? PL_WALK_NOFOLLOW : 0, &ino);
            if (got != want || (got == 0 && ino != st.st_ino))
                fail_msg("\"%s\"%s: %d, the kernel has %d", paths[i],
                         nofollow ? ", not followed" : "", got, want);
        }
    }
}

static void test_root(void **state)
{
    uint64_t ino, want;
    must(walk(NULL, "/", 0, &want));
    must(walk(NULL, "..", 0, &ino));
    assert_int_equal(ino, want);
    must(walk(sub, "../../../..", 0, &ino));
    assert_int_equal(ino, want);
    must(walk(sub, "e/f", 0, &want));
    must(walk(NULL, "abs", 0, &ino)); /* begins at the tree's root */
    assert_int_equal(ino, want);
    must(walk(sub, "/d/e/f", 0, &ino));
    assert_int_equal(ino, want);
    assert_int_equal(walk(NULL, "file", PL_WALK_NOLINKS, &ino), -ELOOP);
    assert_int_equal(walk(NULL, "dir/f", PL_WALK_NOLINKS, &ino), -ELOOP);
    must(walk(NULL, "d/e/f", PL_WALK_NOLINKS, &ino));
}

static void test_long(void **state)
{
    char path[PL_PATH_MAX + 2];
    uint64_t ino;
    memset(path, '/', sizeof(path));
    path[PL_PATH_MAX + 1] = 0;
    assert_int_equal(walk(NULL, path, 0, &ino), -ENAMETOOLONG);
    path[PL_PATH_MAX] = 0;
    must(walk(NULL, path, 0, &ino));
    memcpy(path, "slashed", 7); /* longer with the link's target in it, which is no matter */
    must(walk(NULL, path, 0, &ino));
    memset(path, 'x', 256);
    path[256] = 0;
    assert_int_equal(walk(NULL, path, 0, &ino), -ENAMETOOLONG);
}

static int parent(const char *path, char *name, bool *slash, const char *want)
{
    struct pl_node *dir;
    uint64_t a = 0;
    int r = pl_walk_parent(t, &c, root, NULL, path, 0, &dir, name, slash);
    if (r == 0) {
        struct pl_attr attr;
        must(walk(NULL, want, 0, &a));
        must(pl_getattr(t, &c, dir, NULL, &attr));
        assert_int_equal(attr.ino, a);
        pl_node_unref(dir);
    }
    return r;
}

static void test_parent(void **state)
{
    char name[PL_NAME_MAX + 1];
    bool slash;
    must(parent("new", name, &slash, "/"));
    assert_string_equal(name, "new");
    assert_false(slash);
    must(parent("dir/new//", name, &slash, "d/e"));
    assert_string_equal(name, "new");
    assert_true(slash);
    must(parent("dangling", name, NULL, "/")); /* the name itself is not looked at */
    assert_int_equal(parent("", name, NULL, ""), -ENOENT);
    assert_int_equal(parent("/", name, NULL, ""), -EINVAL);
    assert_int_equal(parent("d/..", name, NULL, ""), -EINVAL);
    assert_int_equal(parent("d/.", name, NULL, ""), -EINVAL);
    assert_int_equal(parent("file/x", name, NULL, ""), -ENOTDIR);
    assert_int_equal(parent("gone/x", name, NULL, ""), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_kernel),
        cmocka_unit_test(test_root),
        cmocka_unit_test(test_long),
        cmocka_unit_test(test_parent),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
