/* SPDX-License-Identifier: MIT */
/* The evidence by which what a dead server had begun is judged: what its clocks tell. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "doors/redo.h"
#include <fcntl.h>
#include <plenum/sources.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { MS = 1000000 };

/* An object may be younger than the clock that goes by ticks said when the op was begun, and have
 * been there all the same: ticks come late on a machine that is busy. */
static void late_ticks(void **state)
{
    char dir[] = "/tmp/plenum-redo-XXXXXX", path[64];
    struct pl_call call;
    struct pl_tree *tree;
    struct pl_node *top;
    struct pl_attr attr;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/f", dir);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    pl_call_init_self(&call);
    assert_int_equal(pl_host_open(dir, &tree, NULL), 0);
    assert_int_equal(pl_attach(tree, &call, "", &top, &attr), 0);
    struct pl_intent intent = {0};
    struct redo r = {.tree = tree, .intent = &intent};
    assert_int_equal(redo_there(&r, top, "f", NULL, &attr), 0);
    uint64_t born = (uint64_t)attr.btime.tv_sec * 1000000000 + (uint64_t)attr.btime.tv_nsec;
    if (born) {
        r.began = born - 50 * MS;
        assert_false(redo_is_still(&r, top, "f", attr.ino)); /* another has its number now */
        r.lag = 50 * MS;
        assert_true(redo_is_still(&r, top, "f", attr.ino));
        assert_false(redo_is_still(&r, top, "f", attr.ino + 1));
    }
    pl_node_unref(top);
    pl_tree_unref(tree);
    pl_call_done(&call);
    unlink(path);
    rmdir(dir);
    if (!born)
        skip();
}

static void now(void **state)
{
    for (int i = 0; i < 1000; i++) {
        struct timespec before, after;
        uint32_t lag;
        clock_gettime(CLOCK_REALTIME, &before);
        uint64_t t = redo_now(&lag) + lag;
        clock_gettime(CLOCK_REALTIME, &after);
        assert_true(t >= (uint64_t)before.tv_sec * 1000000000 + (uint64_t)before.tv_nsec);
        assert_true(t <= (uint64_t)after.tv_sec * 1000000000 + (uint64_t)after.tv_nsec);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(late_ticks), cmocka_unit_test(now)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
