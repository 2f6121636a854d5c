/* SPDX-License-Identifier: MIT */
/* The 9P door: operations that come again, on the same connection and on another, while the server
 * lives; what it refuses; and keys. */
#include "p9_door_fixture.h"

enum { ME = 0x1234, OTHER = 0x5678 };

static int introduce(struct raw *c, uint64_t id)
{
    int r = RPC(c, .type = P9_Tsession, .id = {id, ~id});
    return r < 0 ? r : (int)c->r.flags;
}

static void dial_me(struct world *w, struct raw *c, uint64_t id, int flags)
{
    dial_as(w, c, P9_VERSION_OWN);
    assert_int_equal(introduce(c, id), flags);
}

static void sessions(void **state)
{
    struct world *w = *state;
    struct raw a, b;
    dial_as(w, &a, P9_VERSION_OWN);
    assert_int_equal(RPC(&a, .type = P9_Tsession), -EINVAL);
    assert_int_equal(
        RPC(&a, .type = P9_Tmkdir, .dfid = 0, .name = p9_str("x"), .mode = 0755, .op = 1),
        -EPROTO); /* whose? */
    assert_int_equal(introduce(&a, ME), P9_SESSION_REMEMBERS);
    assert_int_equal(introduce(&a, ME), -EPROTO);
    dial_me(w, &b, OTHER, P9_SESSION_REMEMBERS);
    raw_close(&b);
    raw_close(&a);
    dial_me(w, &a, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    raw_close(&a);
}

static void again(void **state)
{
    struct world *w = *state;
    struct raw c, d;
    dial_me(w, &c, ME, P9_SESSION_REMEMBERS);
    struct p9_msg mk = {.type = P9_Tmkdir,
                        .dfid = 0,
                        .name = p9_str("new"),
                        .mode = 0755,
                        .gid = getegid(),
                        .op = 1};
    assert_int_equal(raw_rpc(&c, mk), 0);
    struct p9_qid qid = c.r.qid;
    assert_int_equal(raw_rpc(&c, mk), 0);
    assert_int_equal(c.r.qid.path, qid.path);
    struct p9_msg bad = mk;
    bad.mode = 0700;
    assert_int_equal(raw_rpc(&c, bad), -EPROTO);
    bad = mk;
    bad.op = 2;
    assert_int_equal(raw_rpc(&c, bad), -EEXIST);
    dial_me(w, &d, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    assert_int_equal(raw_rpc(&d, mk), 0);
    assert_int_equal(raw_rpc(&d, bad), -EEXIST);
    raw_close(&d);
    raw_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sessions, setup, teardown),
        cmocka_unit_test_setup_teardown(again, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
