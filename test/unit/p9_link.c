/* SPDX-License-Identifier: MIT */
/* Links: agreed on or not, broken, come back, given up. */
#include "p9_link_fixture.h"

static enum kind kind;

static void test_agree(void **state)
{
    struct net *n = net_new(kind);
    net_start(n, BOTH, BOTH);
    net_use(n, 3);
    assert_int_equal(strlen(p9_conn_link(n->a.c)), P9_LINK_ID);
    assert_string_equal(p9_conn_link(n->a.c), p9_conn_link(n->b.c));
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(ask(&n->a, i), 0);
        assert_int_equal(ask(&n->b, i), 0);
    }
    assert_int_equal(p9_use_end(n->a.c, NULL), 0);
    assert_int_equal(p9_use_end(n->b.c, NULL), 0);
    assert_int_equal(p9_conn_wait(n->a.c, NULL), 0);
    assert_int_equal(p9_conn_wait(n->b.c, NULL), 0);
    assert_int_equal(n->a.downs + n->b.downs + n->dials, 0);
    net_free(n);
}

static void test_break(void **state)
{
    struct net *n = net_new(kind);
    net_start(n, BOTH, BOTH);
    net_use(n, 3);
    for (uint32_t i = 0; i < 20; i++) {
        p9_conn_break(i % 2 ? n->a.c : n->b.c);
        assert_int_equal(ask(&n->a, i), 0);
        assert_int_equal(ask(&n->b, i), 0);
    }
    assert_int_equal(n->dials, 20);
    end_await(&n->a, &n->a.ups, n->a.downs);
    assert_int_equal(p9_conn_down(n->a.c), 0);
    assert_int_equal(p9_use_end(n->a.c, NULL), 0);
    assert_int_equal(p9_use_end(n->b.c, NULL), 0);
    assert_int_equal(p9_conn_wait(n->a.c, NULL), 0);
    assert_int_equal(p9_conn_wait(n->b.c, NULL), 0);
    net_free(n);
}

int main(void)
{
    static const char *names[] = {"sockets", "pipes", "sockets of 4 KiB", "pipes of 4 KiB",
                                  "an io over sockets"};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_agree),
        cmocka_unit_test(test_break),
    };
    int failed = 0;
    for (kind = SOCKETS; kind < NKINDS; kind++)
        failed += cmocka_run_group_tests_name(names[kind], tests, NULL, NULL);
    return failed;
}
