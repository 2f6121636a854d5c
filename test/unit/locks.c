/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <plenum/tree.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct pl_locks locks;
static struct pl_call call;

static int set(int type, uint64_t owner, uint64_t start, uint64_t end)
{
    return pl_locks_set(
        &locks, &call, &(struct pl_lock){.type = type, .owner = owner, .start = start, .end = end});
}

/* What stands in the way of a write lock of a stranger at one byte: the owner, or 0. */
static uint64_t holder(uint64_t at, int *type)
{
    struct pl_lock l = {.type = F_WRLCK, .owner = 999, .start = at, .end = at};
    assert_int_equal(pl_locks_get(&locks, &l), 0);
    if (type)
        *type = l.type;
    return l.type == F_UNLCK ? 0 : l.owner;
}

static int setup(void **state)
{
    pl_locks_init(&locks);
    pl_call_init(&call, 0, 0);
    return 0;
}

static int teardown(void **state)
{
    pl_locks_done(&locks);
    pl_call_done(&call);
    return 0;
}

static void ranges(void **state)
{
    int type;
    assert_int_equal(set(F_WRLCK, 1, 0, 99), 0);
    assert_int_equal(set(F_WRLCK, 2, 50, 60), -EAGAIN);
    assert_int_equal(set(F_UNLCK, 1, 40, 49), 0); /* split */
    assert_int_equal(set(F_WRLCK, 2, 40, 49), 0);
    assert_int_equal(holder(39, NULL), 1);
    assert_int_equal(holder(45, NULL), 2);
    assert_int_equal(holder(50, NULL), 1);
    assert_int_equal(set(F_RDLCK, 1, 50, 99), 0); /* downgrade */
    assert_int_equal(set(F_RDLCK, 2, 90, 99), 0); /* shared */
    holder(60, &type);
    assert_int_equal(type, F_RDLCK);
    assert_int_equal(set(F_WRLCK, 1, 50, 99), -EAGAIN); /* upgrade with another reader */
    assert_int_equal(set(F_UNLCK, 2, 0, PL_OFF_MAX), 0);
    assert_int_equal(set(F_WRLCK, 1, 0, PL_OFF_MAX), 0);
    assert_int_equal(holder(PL_OFF_MAX, NULL), 1);
    assert_int_equal(set(F_UNLCK, 1, 0, PL_OFF_MAX), 0);
    assert_null(locks.head);
}

static void flocks_apart(void **state)
{
    struct pl_lock f = {.type = F_WRLCK, .flock = true, .owner = 1};
    assert_int_equal(pl_locks_set(&locks, &call, &f), 0);
    assert_int_equal(set(F_WRLCK, 2, 0, 10), 0);
    f.owner = 2;
    assert_int_equal(pl_locks_set(&locks, &call, &f), -EAGAIN);
}

static void *waiter(void *arg)
{
    struct pl_call *c = arg;
    return (void *)(intptr_t)pl_locks_set(
        &locks, c, &(struct pl_lock){.type = F_WRLCK, .owner = 2, .end = 10, .wait = true});
}

static void waits(void **state)
{
    pthread_t t;
    void *r;
    struct pl_call c;
    for (int i = 0; i < 50; i++) {
        pl_call_init(&c, 0, 0);
        assert_int_equal(set(F_WRLCK, 1, 5, 5), 0);
        assert_int_equal(pthread_create(&t, NULL, waiter, &c), 0);
        if (i % 2)
            pl_call_cancel(&c); /* before, while or after it begins to wait */
        else
            assert_int_equal(set(F_UNLCK, 1, 5, 5), 0);
        pthread_join(t, &r);
        assert_int_equal((intptr_t)r, i % 2 ? -EINTR : 0);
        set(F_UNLCK, 1, 0, PL_OFF_MAX);
        set(F_UNLCK, 2, 0, PL_OFF_MAX);
        pl_call_done(&c);
    }
}

static void deadline(void **state)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    assert_int_equal(set(F_WRLCK, 1, 5, 5), 0);
    call.deadline = now.tv_sec * 1000000000LL + now.tv_nsec + 10000000;
    assert_int_equal((intptr_t)waiter(&call), -ETIMEDOUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ranges, setup, teardown),
        cmocka_unit_test_setup_teardown(flocks_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(waits, setup, teardown),
        cmocka_unit_test_setup_teardown(deadline, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
