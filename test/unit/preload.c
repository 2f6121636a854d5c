/* SPDX-License-Identifier: MIT */
/*
 * What the preload answers by itself is what the space says: the same object, or the same error, on
 * random trees that are changed behind its back. It may leave everything to the trap, but not all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "doors/preload/look.h"
#include "doors/preload/table.h"
#include "doors/trap.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <plenum/sources.h>
#include <plenum/space.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { TREES = 40, CHANGES = 6, NAMES = 4, DEPTH = 3 };

static char base[PATH_MAX / 4];
static struct pl_tree *host, *space;
static struct preload_table *table;
static struct preload pre;
static unsigned answered, trapped, listed;

static unsigned rnd(unsigned n)
{
    static uint64_t x = 88172645463325252u;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (unsigned)(x >> 20) % n;
}

static long plain_call(long nr, long a, long b, long c, long d, long e)
{
    long r = syscall(nr, a, b, c, d, e);
    return r < 0 ? -errno : r;
}

/* ---- trees ---- */

/* "/a/c", one to DEPTH names. */
static void some_path(char path[32])
{
    unsigned n = 1 + rnd(DEPTH);
    *path = 0;
    for (unsigned i = 0; i < n; i++)
        sprintf(path + strlen(path), "/%c", 'a' + rnd(NAMES));
}

/* One thing in one of the trees; many fail, for something else is there. */
static void change(const char *tree)
{
    char rel[32], path[PATH_MAX], other[PATH_MAX];
    some_path(rel);
    snprintf(path, sizeof(path), "%s/%s%s", base, tree, rel);
    some_path(rel);
    snprintf(other, sizeof(other), "%s/%s%s", base, tree, rel);
    char *name = strrchr(path, '/');
    int fd = -1;
    switch (rnd(10)) {
    case 0:
    case 1:
    case 2:
        mkdir(path, 0755);
        break;
    case 3:
    case 4:
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
        break;
    case 5:
        if (symlink(rnd(2) ? "a" : "../b", path) < 0)
            return;
        break;
    case 6: /* whiteouts of both forms */
        if (rnd(2)) {
            mknod(path, S_IFCHR | 0600, makedev(0, 0));
        } else {
            memmove(name + 5, name + 1, strlen(name));
            memcpy(name + 1, ".wh.", 4);
            fd = open(path, O_WRONLY | O_CREAT, 0644);
        }
        break;
    case 7:
        if (rename(path, other) < 0)
            remove(path);
        break;
    case 8:
        strcpy(name, "/.wh..opq");
        fd = rnd(3) ? -1 : open(path, O_WRONLY | O_CREAT, 0644);
        break;
    default:
        if (link(path, other) < 0)
            remove(path);
    }
    if (fd >= 0)
        close(fd);
}

static void show_trees(void)
{
    char cmd[PATH_MAX + 64];
    snprintf(cmd, sizeof(cmd), "cd %s && find up low third | sort", base);
    assert_int_equal(system(cmd), 0);
}

static void clear_trees(void)
{
    char cmd[PATH_MAX + 64];
    snprintf(cmd, sizeof(cmd),
             "cd %s && mkdir -p up low third && find up low third -mindepth 1 -delete", base);
    assert_int_equal(system(cmd), 0);
}

/* ---- both answers ---- */

/* What the space has at `rel`, not following a link at the end: where it is, and its stat. */
static int by_space(const char *rel, char path[PATH_MAX], struct stat *st)
{
    struct pl_call call;
    struct pl_node *node, *next;
    struct pl_attr attr;
    char name[2] = "";
    struct pl_tree *in;
    pl_call_init_self(&call);
    int r = pl_attach(space, &call, "", &node, &attr);
    for (; r == 0 && *rel; rel += 2) {
        name[0] = rel[1];
        r = pl_lookup(space, &call, node, name, &next, &attr);
        pl_node_unref(node);
        node = r < 0 ? NULL : next;
    }
    if (r == 0) {
        r = pl_space_where(space, &call, node, &in, path, PATH_MAX);
        assert_int_equal(r, 0);
        r = lstat(path, st) < 0 ? -errno : 0;
    }
    pl_node_unref(node);
    pl_call_done(&call);
    return r;
}

/* ---- listings ---- */

struct names {
    unsigned n;
    char name[64][16];
};

static int add_name(void *arg, const struct pl_dirent *ent)
{
    struct names *l = arg;
    assert_true(l->n < 64);
    snprintf(l->name[l->n++], sizeof(l->name[0]), "%s", ent->name);
    return 0;
}

static void list_by_space(const char *rel, struct names *l)
{
    struct pl_call call;
    struct pl_node *node, *next;
    struct pl_attr attr;
    struct pl_file *file;
    pl_call_init_self(&call);
    assert_int_equal(pl_attach(space, &call, "", &node, &attr), 0);
    for (; *rel; rel += 2) {
        char name[2] = {rel[1], 0};
        assert_int_equal(pl_lookup(space, &call, node, name, &next, &attr), 0);
        pl_node_unref(node);
        node = next;
    }
    assert_int_equal(pl_open(space, &call, node, O_RDONLY | O_DIRECTORY, &file), 0);
    assert_int_equal(pl_readdir(space, &call, file, 0, add_name, l), 0);
    pl_close(space, &call, file);
    pl_node_unref(node);
    pl_call_done(&call);
}

/* What is open as `fd`, which was lent, has the names that the space has there, each once. */
static void check_list(const char *rel, int fd)
{
    struct preload_where where;
    struct names want = {0};
    char buf[4096] __attribute__((aligned(8)));
    unsigned n = 0;
    if (preload_listing(&pre, fd, &where) != 1)
        return;
    long size = preload_list(&pre, &where, buf, sizeof(buf));
    if (size == PRELOAD_TRAP)
        return;
    assert_true(size > 0);
    assert_int_equal(preload_list(&pre, &where, buf, 40), -E2BIG);
    assert_int_equal(preload_list(&pre, &where, buf, sizeof(buf)), size); /* it begins anew */
    list_by_space(rel, &want);
    for (long at = 0; at < size; n++) {
        struct dirent *e = (struct dirent *)(buf + at);
        unsigned found = 0;
        for (unsigned i = 0; i < want.n; i++)
            found += strcmp(want.name[i], e->d_name) == 0;
        if (found != 1) {
            show_trees();
            fail_msg("%s: the preload lists %s", rel, e->d_name);
        }
        at += e->d_reclen;
        assert_int_equal(e->d_off, at);
    }
    assert_int_equal(n, want.n);
    listed++;
}

static void check(const char *rel)
{
    char path[PATH_MAX], at[PATH_MAX], link[64], want_link[64];
    struct stat want, got;
    snprintf(path, sizeof(path), "%s/up%s", base, rel);
    int r = by_space(rel, at, &want);
    long p = preload_stat(&pre, AT_FDCWD, path, &got, AT_SYMLINK_NOFOLLOW);
    if (p == PRELOAD_TRAP) {
        trapped++;
        return;
    }
    answered++;
    if (p != r) {
        show_trees();
        fail_msg("%s: the preload says %s, the space %s", path, strerror((int)-p), strerror(-r));
    }
    if (r < 0)
        return;
    assert_int_equal(got.st_ino, want.st_ino);
    assert_int_equal(got.st_dev, want.st_dev);
    assert_int_equal(got.st_mode, want.st_mode);
    long fd = preload_open(&pre, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (S_ISREG(want.st_mode)) {
        assert_true(fd >= 0);
        assert_int_equal(fstat((int)fd, &got), 0);
        assert_int_equal(got.st_ino, want.st_ino);
        close((int)fd);
    } else if (S_ISDIR(want.st_mode) && fd >= 0) { /* lent */
        assert_int_equal(fstat((int)fd, &got), 0);
        assert_int_equal(got.st_ino, want.st_ino);
        check_list(rel, (int)fd);
        close((int)fd);
    } else {
        assert_int_equal(fd, PRELOAD_TRAP);
    }
    long n = preload_readlink(&pre, AT_FDCWD, path, link, sizeof(link));
    if (S_ISLNK(want.st_mode)) {
        assert_int_equal(n, readlink(at, want_link, sizeof(want_link)));
        assert_memory_equal(link, want_link, (size_t)n);
    } else {
        assert_int_equal(n, -EINVAL);
    }
}

/* Every path there may be; with `note`, its directory is told to the table first, as the trap does.
 */
static void each_path(char *rel, unsigned depth, bool note)
{
    char dir[PATH_MAX], at[PATH_MAX];
    struct stat st;
    int n = snprintf(dir, sizeof(dir), "%s/up%s", base, rel);
    if (note && by_space(rel, at, &st) == 0 && S_ISDIR(st.st_mode))
        preload_note_dir(table, dir, (size_t)n);
    for (char c = 'a'; depth && c < 'a' + NAMES; c++) {
        size_t len = strlen(rel);
        sprintf(rel + len, "/%c", c);
        if (!note)
            check(rel);
        each_path(rel, depth - 1, note);
        rel[len] = 0;
    }
}

static void random_trees(const char *const trees[4])
{
    char rel[32] = "";
    answered = listed = trapped = 0;
    for (int i = 0; i < TREES; i++) {
        clear_trees();
        for (int k = 0; k < 40; k++)
            change(trees[k % 4]);
        usleep(50000); /* what has just changed is not noted */
        each_path(rel, DEPTH - 1, true);
        each_path(rel, DEPTH, false);
        for (int k = 0; k < CHANGES; k++) { /* what was noted may be wrong now */
            change(trees[rnd(4)]);
            each_path(rel, DEPTH, false);
        }
    }
    printf("%u answered, %u listed, %u left to the trap\n", answered, listed, trapped);
    assert_true(answered > 1000);
}

static void test_random_trees(void **state)
{
    static const char *const trees[4] = {"up", "low", "up", "low"};
    random_trees(trees);
    assert_true(listed > 100);
}

static void test_nested(void **state)
{
    static const char *const trees[4] = {"up", "low", "third", "third"};
    random_trees(trees);
}

/* ---- what is for the trap, and what is not ---- */

static void test_letters(void **state)
{
    char path[PATH_MAX], real[PRELOAD_PATH];
    struct stat st;
    clear_trees();
    static const char *const traps[] = {"/up/.",     "/up/..",     "/up/a/",
                                        "/up/.../a", "/up/../low", "/up"};
    for (size_t i = 0; i < sizeof(traps) / sizeof(*traps); i++) {
        snprintf(path, sizeof(path), "%s%s", base, traps[i]);
        assert_int_equal(preload_stat(&pre, AT_FDCWD, path, &st, 0), PRELOAD_TRAP);
    }
    assert_int_equal(preload_stat(&pre, AT_FDCWD, "", &st, 0), PRELOAD_TRAP);
    assert_int_equal(preload_stat(&pre, AT_FDCWD, "/proc/self/exe", &st, 0), PRELOAD_TRAP);
    assert_int_equal(preload_stat(&pre, AT_FDCWD, "/dev/fd/0", &st, 0), PRELOAD_TRAP); /* links */
    assert_int_equal(preload_stat(&pre, AT_FDCWD, "/dev/null", &st, 0), 0);
    assert_true(S_ISCHR(st.st_mode));
    snprintf(path, sizeof(path), "%s/low/../nothing", base);
    assert_int_equal(preload_stat(&pre, AT_FDCWD, path, &st, 0), -ENOENT);
    snprintf(path, sizeof(path), "%s/low/.././/low/../low", base);
    assert_int_equal(preload_realpath(&pre, path, real), 0);
    snprintf(path, sizeof(path), "%s/low", base);
    assert_string_equal(real, path);
    preload_stale(table);
    assert_int_equal(preload_stat(&pre, AT_FDCWD, "/dev/null", &st, 0), PRELOAD_TRAP);
}

/* Where a physical file is seen. */
static void test_back(void **state)
{
    char path[PATH_MAX], seen[PATH_MAX], want[PATH_MAX];
    snprintf(path, sizeof(path), "%s/low/x/y", base);
    snprintf(want, sizeof(want), "%s/up/x/y", base);
    assert_true(preload_seen_at(table, path, 0, seen, sizeof(seen)));
    assert_string_equal(seen, want);
    assert_false(preload_seen_at(table, path, 1, seen, sizeof(seen)));
    assert_false(preload_seen_at(table, "/etc/passwd", 0, seen, sizeof(seen)));
}

/* What is seen at up: that over low; and, if it is to be nested, up/a over third. */
static void make_view(bool nested, struct view **ret)
{
    struct view *none, *one;
    struct pl_err err;
    char up[PATH_MAX], low[PATH_MAX], a[PATH_MAX], third[PATH_MAX];
    snprintf(up, sizeof(up), "%s/up", base);
    snprintf(low, sizeof(low), "%s/low", base);
    snprintf(a, sizeof(a), "%s/up/a", base);
    snprintf(third, sizeof(third), "%s/third", base);
    const char *words[] = {up, low, a, third};
    assert_int_equal(view_new(&none), 0);
    assert_int_equal(view_change(none, "/", words, 2, NULL, NULL, &one, &err), 0);
    if (nested)
        assert_int_equal(view_change(one, "/", words + 2, 2, NULL, NULL, ret, &err), 0);
    else
        *ret = view_ref(one);
    view_unref(one);
    view_unref(none);
}

static void make_space(const struct view *view)
{
    struct pl_err err;
    struct pl_binding *b;
    size_t n;
    char up[PATH_MAX];
    snprintf(up, sizeof(up), "%s/up", base);
    assert_int_equal(view_bindings(view, up, host, &b, &n), 0);
    assert_int_equal(pl_space_new(b, n, 0, &space, &err), 0);
    free(b);
}

static void make_table(const struct view *view)
{
    void *pack;
    size_t size;
    assert_int_equal(view_pack(view, NULL, 0, &pack, &size), 0);
    assert_int_equal(preload_table_new(pack, size, &table), 0);
    free(pack);
    const uint64_t dev[2] = {0, 0};
    int fd = preload_table_fd(table, 1023, 0x300000000000, dev);
    assert_true(fd >= 0);
    const struct preload_block *b = mmap(NULL, sizeof(*b), PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(b, MAP_FAILED);
    assert_ptr_equal(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    assert_int_equal(view_pack_open(b->pack, b->pack_size, &pre.pack), 0);
    pre.block = b;
    pre.call = plain_call;
}

static int start(void **state)
{
    char made[] = "/tmp/preload.XXXXXX";
    if (!mkdtemp(made) || !realpath(made, base))
        return -1;
    clear_trees();
    assert_int_equal(pl_host_open("/", &host, NULL), 0);
    return 0;
}

static int make(bool nested)
{
    struct view *view;
    make_view(nested, &view);
    make_space(view);
    make_table(view);
    view_unref(view);
    return 0;
}

static int make_plain(void **state)
{
    return make(false);
}

static int make_nested(void **state)
{
    return make(true);
}

static int unmake(void **state)
{
    preload_table_free(table);
    munmap((void *)pre.block, sizeof(*pre.block));
    pl_tree_unref(space);
    return 0;
}

static int finish(void **state)
{
    char cmd[PATH_MAX + 16];
    pl_tree_unref(host);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", base);
    return system(cmd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_random_trees, make_plain, unmake),
        cmocka_unit_test_setup_teardown(test_nested, make_nested, unmake),
        cmocka_unit_test_setup_teardown(test_back, make_plain, unmake),
        cmocka_unit_test_setup_teardown(test_letters, make_plain, unmake),
    };
    return cmocka_run_group_tests(tests, start, finish);
}
