/* SPDX-License-Identifier: MIT */
/* Many threads at one host tree whose descriptors are scarce: each finds its own objects. */
#include "host_fixture.h"

#include <pthread.h>
#include <sys/resource.h>

#define THREADS 4
#define ROUNDS  400

/* Makes a file, writes a number, renames it into another directory, finds it by both nodes and
 * names, and removes it. The directories are shared with the others and also move. */
static long life(struct pl_call *me, struct pl_node *d[2], int id, int round)
{
    struct pl_attr a;
    struct pl_node *n, *m;
    struct pl_file *f;
    char name[40], other[40];
    int value = id * 100000 + round, got = 0;
    long bad = 0;
    snprintf(name, sizeof(name), "t%d-%d", id, round % 5);
    snprintf(other, sizeof(other), "o%d-%d", id, round % 5);
    if (pl_create(t, me, d[0], name, O_RDWR | O_EXCL, 0600, &n, &a, &f) < 0)
        return 1;
    uint64_t ino = a.ino;
    bad += pl_write(t, me, f, &value, sizeof(value), 0) != sizeof(value);
    bad += pl_close(t, me, f) != 0;
    bad += pl_rename(t, me, d[0], name, d[1], other, 0) != 0;
    bad += pl_lookup(t, me, d[0], name, &m, &a) != -ENOENT;
    if (pl_lookup(t, me, d[1], other, &m, &a) < 0)
        return bad + 10;
    bad += m != n || a.ino != ino;
    pl_node_unref(m);
    if (pl_open(t, me, n, O_RDONLY, &f) < 0)
        return bad + 100;
    bad += pl_remove(t, me, d[1], other, 0) != 0;
    bad += pl_read(t, me, f, &got, sizeof(got), 0) != sizeof(got) || got != value;
    bad += pl_getattr(t, me, n, f, &a) != 0 || a.nlink != 0 || a.ino != ino;
    bad += pl_close(t, me, f) != 0;
    pl_node_unref(n);
    return bad;
}

static void *lives(void *arg)
{
    int id = (int)(intptr_t)arg;
    struct pl_call me;
    struct pl_attr a;
    struct pl_node *d[2], *x;
    char name[20];
    long bad = 0;
    pl_call_init(&me, geteuid(), getegid());
    for (int i = 0; i < ROUNDS; i++) {
        bad += pl_attach(t, &me, i & 1 ? "a" : "b", &d[0], &a) != 0;
        bad += pl_attach(t, &me, i & 1 ? "b" : "a", &d[1], &a) != 0;
        bad += life(&me, d, id, i);
        for (int k = 0; k < 10; k++) { /* others push our descriptors out */
            snprintf(name, sizeof(name), "f%d", (i * 7 + id * 13 + k) % 100);
            bad += pl_lookup(t, &me, root, name, &x, &a) != 0;
            bad += pl_getattr(t, &me, x, NULL, &a) != 0;
            pl_node_unref(x);
        }
        bad += pl_lookup(t, &me, d[0], "..", &x, &a) != 0;
        bad += x != root;
        pl_node_unref(x);
        pl_node_unref(d[0]);
        pl_node_unref(d[1]);
    }
    pl_call_done(&me);
    return (void *)bad;
}

static void together(void **state)
{
    struct rlimit was, lim;
    pthread_t thread[THREADS];
    struct pl_node *kept[50];
    char name[20];
    shut();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    lim = (struct rlimit){64, was.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
    reopen();
    int before = fds();
    assert_int_equal(mkdir(host("a"), 0755), 0);
    assert_int_equal(mkdir(host("b"), 0755), 0);
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        put(host(name), "");
        if (i < 50)
            kept[i] = node(name);
    }
    for (intptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, lives, (void *)i), 0);
    for (int i = 0; i < THREADS; i++) {
        void *bad;
        assert_int_equal(pthread_join(thread[i], &bad), 0);
        assert_int_equal((long)bad, 0);
    }
    assert_true(fds() - before <= 16);
    for (int i = 0; i < 50; i++)
        pl_node_unref(kept[i]);
    shut();
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    reopen();
}

static int group(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(together, setup, teardown)};
    return cmocka_run_group_tests_name("host_threads", tests, NULL, NULL);
}

int main(void)
{
    return run_variants(group);
}
