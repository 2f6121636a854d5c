/* SPDX-License-Identifier: MIT */
/* A space used by many threads at once, and calls that are given up while they wait. */
#include "space_fixture.h"

#include <pthread.h>

#define THREADS 6

static int setup(void **state)
{
    trees_open();
    mkdirs(low, "d");
    mkdirs(low, "d/e");
    put(low, "d/e/f", "0123456789");
    open_union(0);
    return 0;
}

static int teardown(void **state)
{
    trees_close();
    return 0;
}

static void run(void *(*fn)(void *))
{
    pthread_t t[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, fn, (void *)i), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
}

/* ---- one file, copied up once ---- */

static void *write_one(void *arg)
{
    size_t i = (size_t)arg;
    char byte = (char)('a' + i);
    struct pl_call call;
    struct pl_node *n;
    struct pl_attr attr;
    struct pl_file *f;
    pl_call_init_self(&call);
    assert_int_equal(pl_attach(u, &call, "d/e/f", &n, &attr), 0);
    assert_int_equal(pl_open(u, &call, n, O_RDWR, &f), 0);
    assert_int_equal(pl_write(u, &call, f, &byte, 1, i), 1);
    pl_close(u, &call, f);
    pl_node_unref(n);
    pl_call_done(&call);
    return NULL;
}

static void all_write_at_once(void **state)
{
    run(write_one);
    has(u, "d/e/f", "abcdef6789");
    has(low, "d/e/f", "0123456789");
    assert_string_equal(list(up, "d/e"), "f");
}

/* ---- everything at once ---- */

static int any_name(void *arg, const struct pl_dirent *e)
{
    return 0;
}

static void one_op(struct pl_call *call, struct pl_node *dir[2], unsigned *seed)
{
    static const struct pl_make sub = {.mode = S_IFDIR | 0755};
    const char *const names[] = {"a", "b", "c", "f"};
    struct pl_node *a = dir[rand_r(seed) % 2], *b = dir[rand_r(seed) % 2], *n;
    const char *x = names[rand_r(seed) % 4], *y = names[rand_r(seed) % 4];
    const struct pl_setattr mode = {.valid = PL_SET_MODE, .mode = 0700};
    struct pl_attr attr;
    struct pl_file *f;
    switch (rand_r(seed) % 8) {
    case 0:
        if (pl_create(u, call, a, x, O_RDWR, 0644, &n, &attr, &f) == 0) {
            pl_write(u, call, f, "text", 4, 0);
            pl_close(u, call, f);
            pl_node_unref(n);
        }
        break;
    case 1:
        pl_remove(u, call, a, x, 0);
        break;
    case 2:
        pl_remove(u, call, a, x, AT_REMOVEDIR);
        break;
    case 3:
        if (pl_make(u, call, a, x, &sub, &n, &attr) == 0)
            pl_node_unref(n);
        break;
    case 4:
        pl_rename(u, call, a, x, b, y, 0);
        break;
    case 5:
        if (pl_open(u, call, a, O_RDONLY | O_DIRECTORY, &f) == 0) {
            assert_int_equal(pl_readdir(u, call, f, 0, any_name, NULL), 0);
            pl_close(u, call, f);
        }
        break;
    default:
        if (pl_lookup(u, call, a, x, &n, &attr) == 0) {
            if (rand_r(seed) % 2)
                pl_setattr(u, call, n, NULL, &mode, &attr);
            else if (n->fmt == S_IFREG)
                pl_link(u, call, n, b, y, &attr);
            pl_node_unref(n);
        }
    }
}

static void *anything(void *arg)
{
    unsigned seed = (unsigned)(size_t)arg + 1;
    struct pl_call call;
    struct pl_node *dir[2];
    struct pl_attr attr;
    pl_call_init_self(&call);
    assert_int_equal(pl_attach(u, &call, "d", &dir[0], &attr), 0);
    assert_int_equal(pl_attach(u, &call, "d/e", &dir[1], &attr), 0);
    for (int i = 0; i < 400; i++)
        one_op(&call, dir, &seed);
    pl_node_unref(dir[0]);
    pl_node_unref(dir[1]);
    pl_call_done(&call);
    return NULL;
}

static void anything_at_once(void **state)
{
    char was[4096];
    run(anything);
    snprintf(was, sizeof(was), "%s", list(u, "d"));
    open_union(0);
    assert_string_equal(list(u, "d"), was);
    has(low, "d/e/f", "0123456789");
}

/* ---- the table changes meanwhile ---- */

static atomic_int looking;

static void *look(void *arg)
{
    struct pl_call call;
    struct pl_node *root, *n;
    struct pl_attr attr;
    pl_call_init_self(&call);
    assert_int_equal(pl_attach(u, &call, "", &root, &attr), 0);
    for (int i = 0; i < 300; i++) {
        int r = pl_attach(u, &call, i % 2 ? "d/m/x" : "d/e/f", &n, &attr);
        assert_true(r == 0 || (i % 2 && r == -ENOENT));
        if (r == 0)
            pl_node_unref(n);
    }
    pl_node_unref(root);
    pl_call_done(&call);
    atomic_fetch_sub(&looking, 1);
    return NULL;
}

static void *rebind(void *arg)
{
    const struct pl_binding b = {"/d/m", low2, "/", PL_BIND_REPLACE};
    while (atomic_load(&looking)) {
        assert_int_equal(pl_space_bind(u, &b, NULL), 0);
        assert_int_equal(pl_space_unbind(u, "/d/m", low2, NULL), 0);
    }
    return NULL;
}

static void bound_meanwhile(void **state)
{
    pthread_t t;
    put(low2, "x", "bound");
    atomic_store(&looking, THREADS);
    assert_int_equal(pthread_create(&t, NULL, rebind, NULL), 0);
    run(look);
    pthread_join(t, NULL);
    assert_false(is_there(u, "d/m"));
}

/* ---- giving up ---- */

/* A layer in which a read waits until it is let go, or given up. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond;
static int reading;
static bool let_go;

static void wake(void *arg)
{
    pthread_mutex_lock(&mutex);
    pthread_cond_broadcast(&cond);
    pthread_mutex_unlock(&mutex);
}

static ssize_t slow_read(struct pl_tree *t, struct pl_call *call, struct pl_file *f, void *buf,
                         size_t n, uint64_t off)
{
    int r = pl_call_block(call, wake, NULL);
    if (r < 0)
        return r;
    pthread_mutex_lock(&mutex);
    reading++;
    pthread_cond_broadcast(&cond);
    while (!let_go && (r = pl_call_over(call)) == 0)
        pl_call_wait(call, &cond, &mutex);
    pthread_mutex_unlock(&mutex);
    pl_call_unblock(call);
    return r < 0 ? r : pl_read(t->lower, call, f, buf, n, off);
}

static const struct pl_ops slow_ops = {.name = "slow", .read = slow_read};

struct opener {
    struct pl_call call;
    struct pl_node *n;
    int r;
};

static void *open_it(void *arg)
{
    struct opener *o = arg;
    struct pl_file *f;
    o->r = pl_open(u, &o->call, o->n, O_RDWR, &f);
    if (o->r == 0)
        pl_close(u, &o->call, f);
    return NULL;
}

/* Who copies gives up: nothing is left. Who waits for another's copying gives up, and that goes on.
 */
static void given_up(void **state)
{
    struct pl_tree *slow = calloc(1, sizeof(*slow));
    struct opener o[2];
    pthread_t t[2];
    pl_cond_init(&cond);
    pl_tree_init(slow, &slow_ops, low);
    low = slow;
    open_union(0);
    for (int round = 0; round < 2; round++) {
        pthread_mutex_lock(&mutex);
        reading = 0;
        let_go = false;
        pthread_mutex_unlock(&mutex);
        for (int i = 0; i < 2; i++) {
            pl_call_init_self(&o[i].call);
            o[i].n = must(u, "d/e/f");
        }
        pthread_create(&t[0], NULL, open_it, &o[0]);
        pthread_mutex_lock(&mutex);
        while (!reading)
            pthread_cond_wait(&cond, &mutex);
        pthread_mutex_unlock(&mutex);
        if (round == 0) {
            pl_call_cancel(&o[0].call);
            pthread_join(t[0], NULL);
            assert_int_equal(o[0].r, -EINTR);
            assert_string_equal(list(up, "d/e"), "");
        } else {
            pthread_create(&t[1], NULL, open_it, &o[1]);
            pl_call_cancel(&o[1].call);
            pthread_join(t[1], NULL);
            assert_int_equal(o[1].r, -EINTR);
            pthread_mutex_lock(&mutex);
            let_go = true;
            pthread_cond_broadcast(&cond);
            pthread_mutex_unlock(&mutex);
            pthread_join(t[0], NULL);
            assert_int_equal(o[0].r, 0);
            has(up, "d/e/f", "0123456789");
        }
        for (int i = 0; i < 2; i++) {
            pl_node_unref(o[i].n);
            pl_call_done(&o[i].call);
        }
    }
    pthread_cond_destroy(&cond);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(all_write_at_once),
        TEST(anything_at_once),
        TEST(bound_meanwhile),
        TEST(given_up),
    };
    int failed = 0;
    for (kind = MEM; kind <= HOST; kind++)
        failed += cmocka_run_group_tests_name("threads in a space", tests, NULL, NULL);
    return failed;
}
