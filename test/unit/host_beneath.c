/* SPDX-License-Identifier: MIT */
/*
 * What must never happen to a host tree: leaving the root, taking one object for another, holding a
 * descriptor for every node, walking into a mount that this process serves itself.
 */
#include "host_fixture.h"

#include "base/own.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>

static void symlinks(void **state)
{
    char outside[300];
    struct pl_node *n, *m;
    struct pl_file *f;
    snprintf(outside, sizeof(outside), "%s/secret", top);
    put(outside, "secret");
    assert_int_equal(symlink(outside, host("abs")), 0);
    assert_int_equal(symlink("../secret", host("rel")), 0);
    assert_int_equal(symlink("..", host("up")), 0);
    assert_int_equal(symlink("/proc/self/root", host("magic")), 0);
    static const char *names[] = {"abs", "rel", "up", "magic"};
    for (int i = 0; i < 4; i++) {
        n = node(names[i]);
        assert_true(S_ISLNK(at.mode));
        assert_int_equal(pl_lookup(t, c, n, "secret", &m, &at), -ENOTDIR);
        assert_int_equal(pl_open(t, c, n, O_RDONLY, &f), -ELOOP);
        assert_int_equal(pl_create(t, c, root, names[i], O_RDWR | O_TRUNC, 0600, &m, &at, &f),
                         -ELOOP);
        struct pl_setattr set = {.valid = PL_SET_SIZE};
        assert_int_equal(pl_setattr(t, c, n, NULL, &set, &at), -EINVAL);
        pl_node_unref(n);
    }
    assert_int_equal(pl_attach(t, c, "up/secret", &n, &at), -ENOTDIR);
    static const char *bad[] = {"../secret", "/etc/passwd", ".", "a/b", ""};
    for (int i = 0; i < 5; i++)
        assert_true(pl_lookup(t, c, root, bad[i], &n, &at) < 0);
    struct stat st;
    assert_int_equal(stat(outside, &st), 0);
    assert_int_equal(st.st_size, 6);
}

/* ---- a race: a directory goes out of the tree and comes back ---- */

static atomic_bool stop;
static char inside_path[4096], outside_path[300];

static void *mover(void *arg)
{
    while (!stop)
        if (rename(inside_path, outside_path) == 0 && rename(outside_path, inside_path) < 0)
            return arg;
    return NULL;
}

static void moving_out(void **state)
{
    struct pl_attr top_at, a;
    struct pl_tree *whole;
    struct pl_node *n, *m, *up;
    assert_int_equal(pl_host_open(top, &whole, NULL), 0);
    assert_int_equal(pl_attach(whole, c, "", &n, &top_at), 0);
    pl_node_unref(n);
    pl_tree_unref(whole);
    assert_int_equal(mkdir(host("a"), 0755), 0);
    assert_int_equal(mkdir(host("a/b"), 0755), 0);
    assert_int_equal(mkdir(host("a/b/c"), 0755), 0);
    snprintf(inside_path, sizeof(inside_path), "%s", host("a/b"));
    snprintf(outside_path, sizeof(outside_path), "%s/b", top);
    pthread_t thread;
    stop = false;
    assert_int_equal(pthread_create(&thread, NULL, mover, NULL), 0);
    int reached = 0, refused = 0;
    for (int i = 0; i < 20000; i++) {
        if (pl_attach(t, c, "a/b", &n, &a) < 0) {
            refused++;
            continue;
        }
        /* up from b is a or nothing, however often we try */
        if (pl_lookup(t, c, n, "..", &up, &a) == 0) {
            assert_true(a.ino != top_at.ino);
            if (pl_lookup(t, c, up, "..", &m, &a) == 0) {
                assert_ptr_equal(m, root);
                pl_node_unref(m);
            }
            pl_node_unref(up);
            reached++;
        } else {
            refused++;
        }
        if (pl_lookup(t, c, n, "c", &m, &a) == 0)
            pl_node_unref(m);
        pl_node_unref(n);
    }
    stop = true;
    void *failed;
    assert_int_equal(pthread_join(thread, &failed), 0);
    assert_null(failed);
    assert_int_equal(reached + refused, 20000);
    assert_true(reached > 0);
    /* out for good */
    n = node("a/b");
    assert_int_equal(rename(inside_path, outside_path), 0);
    assert_int_equal(pl_lookup(t, c, n, "..", &up, &a), -ESTALE);
    pl_node_unref(n);
}

/* A name that is a directory one moment and a symlink out of the tree the next. */
static char link_path[4096], dir_path[4096];

static void *swapper(void *arg)
{
    while (!stop)
        if (renameat2(AT_FDCWD, link_path, AT_FDCWD, dir_path, RENAME_EXCHANGE) < 0)
            return arg;
    return NULL;
}

static void swapping(void **state)
{
    struct pl_node *n, *m;
    struct pl_attr a;
    char outside[300];
    snprintf(outside, sizeof(outside), "%s/secret", top);
    put(outside, "secret");
    assert_int_equal(mkdir(host("d"), 0755), 0);
    assert_int_equal(symlink(top, host("l")), 0);
    snprintf(dir_path, sizeof(dir_path), "%s", host("d"));
    snprintf(link_path, sizeof(link_path), "%s", host("l"));
    pthread_t thread;
    stop = false;
    assert_int_equal(pthread_create(&thread, NULL, swapper, NULL), 0);
    int dirs = 0, links = 0;
    for (int i = 0; i < 20000; i++) {
        assert_int_equal(pl_lookup(t, c, root, "d", &n, &a), 0);
        dirs += S_ISDIR(a.mode);
        links += S_ISLNK(a.mode);
        assert_true(pl_lookup(t, c, n, "secret", &m, &a) < 0);
        pl_node_unref(n);
    }
    stop = true;
    void *failed;
    assert_int_equal(pthread_join(thread, &failed), 0);
    if (failed)
        skip(); /* the file system cannot exchange */
    assert_int_equal(dirs + links, 20000);
}

/* ---- many nodes, few descriptors ---- */

#define MANY 20000

static void many(void **state)
{
    static struct pl_node *n[MANY];
    static uint64_t ino[MANY];
    char name[40];
    struct rlimit old, lim = {1024, 1024};
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    shut();
    lim.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
    reopen();
    int before = fds();
    for (int i = 0; i < MANY; i++) {
        if (i % 200 == 0) {
            snprintf(name, sizeof(name), "d%d", i / 200);
            assert_int_equal(mkdir(host(name), 0755), 0);
        }
        snprintf(name, sizeof(name), "d%d/f%d", i / 200, i);
        put(host(name), "");
        n[i] = node(name);
        ino[i] = at.ino;
    }
    assert_true(fds() - before <= 512);
    for (int i = 0; i < MANY; i += 7) { /* most have lost their descriptor by now */
        assert_int_equal(pl_getattr(t, c, n[i], NULL, &at), 0);
        assert_int_equal(at.ino, ino[i]);
    }
    /* through us and by others: they are found again */
    snprintf(name, sizeof(name), "d%d", 0);
    struct pl_node *d0 = node(name), *x;
    assert_int_equal(pl_rename(t, c, root, "d0", root, "moved", 0), 0);
    assert_int_equal(rename(host("moved/f1"), host("moved/g1")), 0);
    for (int i = 2000; i < 6000; i++)
        assert_int_equal(pl_getattr(t, c, n[i], NULL, &at), 0);
    assert_int_equal(pl_getattr(t, c, n[0], NULL, &at), 0);
    assert_int_equal(at.ino, ino[0]);
    assert_int_equal(pl_getattr(t, c, n[1], NULL, &at), 0);
    assert_int_equal(at.ino, ino[1]);
    assert_int_equal(pl_lookup(t, c, d0, "f2", &x, &at), 0);
    assert_ptr_equal(x, n[2]);
    pl_node_unref(x);
    pl_node_unref(d0);
    /* what was removed while nothing held it is stale, and never another object */
    assert_int_equal(unlink(host("d1/f200")), 0);
    put(host("d1/f200"), "another");
    int r = pl_getattr(t, c, n[200], NULL, &at);
    assert_true(r == -ESTALE || (r == 0 && at.ino == ino[200] && at.size == 0));
    assert_true(fds() - before <= 512);
    for (int i = 0; i < MANY; i++)
        pl_node_unref(n[i]);
    shut();
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    reopen();
}

/* All descriptors gone: the idle ones are given up. */
static void exhausted(void **state)
{
    struct rlimit old, lim;
    struct pl_node *n[300], *x;
    struct pl_file *f;
    char name[20];
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        put(host(name), "");
        n[i] = node(name);
    }
    lim = (struct rlimit){(rlim_t)fds() + 1, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
    int spare[4], k = 0;
    while (k < 4 && (spare[k] = dup(0)) >= 0)
        k++;
    assert_int_equal(pl_open(t, c, n[5], O_RDONLY, &f), 0);
    x = node("f7");
    assert_ptr_equal(x, n[7]);
    pl_node_unref(x);
    pl_close(t, c, f);
    while (k > 0)
        close(spare[--k]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    for (int i = 0; i < 300; i++)
        pl_node_unref(n[i]);
}

/* Numbers of removed inodes come back at once; a node must not become another file. */
static void reused_numbers(void **state)
{
    struct pl_node *old[200], *n;
    char name[20];
    int same = 0, met = 0;
    uint64_t ino[200];
    shut(); /* with a bound that makes nodes lose their descriptors quickly */
    struct rlimit was, lim;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    lim = (struct rlimit){64, was.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
    reopen();
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        put(host(name), "old");
        old[i] = node(name);
        ino[i] = at.ino;
        assert_int_equal(unlink(host(name)), 0);
    }
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "g%d", i);
        put(host(name), "newer");
        n = node(name);
        assert_int_equal(at.size, 5);
        for (int j = 0; j < 200; j++)
            same += n == old[j], met += at.ino == ino[j];
        pl_node_unref(n);
    }
    print_message("%d numbers came back\n", met);
    if (!by_name || !strcmp(where, "/dev/shm"))
        assert_int_equal(same,
                         0); /* without handles, births within one tick cannot be told apart */
    for (int i = 0; i < 200; i++) {
        int r = pl_getattr(t, c, old[i], NULL, &at);
        assert_true(by_name || r == -ESTALE || (r == 0 && at.size == 3));
        pl_node_unref(old[i]);
    }
    shut();
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    reopen();
}

static void deep(void **state)
{
    enum { DEPTH = 3000 };
    struct pl_node *n = pl_node_ref(root), *next, *middle = NULL;
    uint64_t middle_ino = 0;
    struct pl_make mk = {.mode = S_IFDIR | 0755};
    for (int i = 0; i < DEPTH; i++) {
        int r = pl_make(t, c, n, "deep", &mk, &next, &at);
        assert_int_equal(r, 0);
        pl_node_unref(n);
        n = next;
        if (i == DEPTH / 2) {
            middle = pl_node_ref(n);
            middle_ino = at.ino;
        }
    }
    uint64_t ino = at.ino;
    assert_int_equal(pl_getattr(t, c, middle, NULL, &at), 0); /* a thousand names up and down */
    assert_int_equal(at.ino, middle_ino);
    pl_node_unref(middle);
    assert_int_equal(pl_getattr(t, c, n, NULL, &at), 0);
    assert_int_equal(at.ino, ino);
    assert_int_equal(pl_lookup(t, c, n, "..", &next, &at), 0);
    pl_node_unref(next);
    pl_node_unref(n);
}

/* ---- mounts ---- */

static void mounts(void **state)
{
    struct pl_node *n, *f;
    struct stat st;
    struct pl_file *d;
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        skip();
    shut(); /* the old root is in the old namespace */
    reopen();
    assert_int_equal(mkdir(host("m"), 0755), 0);
    assert_int_equal(mount("test", host("m"), "tmpfs", 0, NULL), 0);
    put(host("m/f"), "beyond");
    put(host("f"), "");
    assert_int_equal(stat(host("m/f"), &st), 0);
    n = node("m");
    uint64_t m_ino = at.ino;
    f = node("m/f");
    assert_int_equal(at.size, 6);
    assert_true(at.ino != st.st_ino && at.ino != m_ino);
    struct pl_node *up;
    assert_int_equal(pl_lookup(t, c, n, "..", &up, &at), 0);
    assert_ptr_equal(up, root);
    pl_node_unref(up);
    uint8_t key[PL_KEY_MAX];
    int len = pl_key(t, c, f, key);
    assert_true(len > 0);
    assert_int_equal(pl_rename(t, c, root, "f", n, "g", 0), -EXDEV);
    assert_int_equal(pl_remove(t, c, root, "m", AT_REMOVEDIR), -EBUSY);
    assert_int_equal(pl_open(t, c, n, O_RDONLY | O_DIRECTORY, &d), 0);
    pl_close(t, c, d);
    pl_node_unref(f);
    pl_node_unref(n);
    shut();
    reopen();
    if (pl_find(t, c, key, (size_t)len, &f, &at) == 0) {
        assert_int_equal(at.size, 6);
        pl_node_unref(f);
    } else {
        fail_msg("a key in a mount is not found again");
    }
    /* now one of ours */
    assert_int_equal(stat(host("m"), &st), 0);
    assert_int_equal(own_mount_add(st.st_dev), 0);
    shut();
    reopen();
    assert_int_equal(pl_lookup(t, c, root, "m", &n, &at), -ELOOP);
    struct pl_tree *x;
    struct pl_err err;
    assert_int_equal(pl_host_open(host("m"), &x, &err), -ELOOP);
    own_mount_del(st.st_dev);
    assert_int_equal(pl_lookup(t, c, root, "m", &n, &at), 0);
    pl_node_unref(n);
    shut();
    assert_int_equal(umount(host("m")), 0);
    reopen();
}

static int group(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(symlinks),  T(moving_out),     T(swapping), T(many),
        T(exhausted), T(reused_numbers), T(deep),     T(mounts),
    };
    return cmocka_run_group_tests_name("host_beneath", tests, NULL, NULL);
}

int main(void)
{
    return run_variants(group);
}
