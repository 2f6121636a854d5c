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

/* ---- keys ---- */

static int find_at(struct raw *c, uint32_t fid, uint32_t newfid, const void *key, uint32_t n)
{
    return RPC(c, .type = P9_Tfind, .fid = fid, .newfid = newfid, .data = (void *)key, .count = n);
}

static uint32_t key_of(struct raw *c, uint32_t fid, uint8_t key[PL_KEY_MAX])
{
    assert_int_equal(RPC(c, .type = P9_Tkey, .fid = fid), 0);
    assert_in_range(c->r.count, 1, PL_KEY_MAX);
    memcpy(key, c->r.data, c->r.count);
    return c->r.count;
}

static void keys(void **state)
{
    struct world *w = *state;
    struct raw c, plain;
    uint8_t file[PL_KEY_MAX], in[PL_KEY_MAX];
    dial_as(w, &c, P9_VERSION_OWN);
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(raw_walk(&c, 0, 2, "dir"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tmkdir, .dfid = 2, .name = p9_str("in"), .mode = 0755), 0);
    assert_int_equal(raw_walk(&c, 2, 3, "in"), 0);
    uint32_t nfile = key_of(&c, 1, file), nin = key_of(&c, 3, in);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 1, .mask = P9_GETATTR_ALL), 0);
    struct p9_attr attr = c.r.attr;
    assert_int_equal(find_at(&c, 0, 10, file, nfile), 0);
    assert_memory_equal(&c.r.attr, &attr, sizeof(attr));
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 10), 0);
    assert_int_equal(find_at(&c, 3, 11, in, nin), 0); /* from any fid of the attach */
    assert_int_equal(raw_walk(&c, 11, 12, ".."), 0);
    assert_int_equal(find_at(&c, 0, 10, file, nfile), -EBADF); /* it is taken */
    assert_int_equal(find_at(&c, 99, 13, file, nfile), -EBADF);
    assert_int_equal(find_at(&c, 0, 13, file, 0), -EINVAL);
    file[0] ^= 1;
    assert_int_equal(find_at(&c, 0, 13, file, nfile), -ESTALE);
    file[0] ^= 1;
    /* who has attached to a part finds nothing outside */
    assert_int_equal(raw_attach(&c, 20, "dir"), 0);
    assert_int_equal(find_at(&c, 20, 21, file, nfile), -ESTALE);
    assert_int_equal(find_at(&c, 20, 21, in, nin), 0);
    /* what was moved is found, what is gone is not */
    assert_int_equal(RPC(&c, .type = P9_Trenameat, .dfid = 0, .name = p9_str("file"), .newdfid = 2,
                         .name2 = p9_str("moved")),
                     0);
    assert_int_equal(find_at(&c, 20, 22, file, nfile), 0);
    assert_int_equal(RPC(&c, .type = P9_Tunlinkat, .dfid = 2, .name = p9_str("moved")), 0);
    assert_int_equal(find_at(&c, 0, 23, file, nfile), -ESTALE);
    dial_plain(w, &plain);
    assert_int_equal(RPC(&plain, .type = P9_Tkey, .fid = 0), -EOPNOTSUPP);
    raw_close(&plain);
    raw_close(&c);
}

/* A key is no way past a directory that its user may not search. */
static void keys_of_others(void **state)
{
    struct world *w = *state;
    struct raw c;
    uint8_t key[PL_KEY_MAX];
    if (geteuid() != 0)
        skip();
    dial_as(w, &c, P9_VERSION_OWN);
    assert_int_equal(RPC(&c, .type = P9_Tmkdir, .dfid = 0, .name = p9_str("mine"), .mode = 0700),
                     0);
    assert_int_equal(raw_walk(&c, 0, 1, "mine"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlcreate, .fid = 1, .name = p9_str("f"), .mode = 0666), 0);
    uint32_t n = key_of(&c, 1, key);
    assert_int_equal(RPC(&c, .type = P9_Tattach, .fid = 2, .afid = P9_NOFID, .n_uname = 1000), 0);
    assert_int_equal(find_at(&c, 2, 3, key, n), -ESTALE);
    assert_int_equal(find_at(&c, 0, 3, key, n), 0);
    raw_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sessions, setup, teardown),
        cmocka_unit_test_setup_teardown(again, setup, teardown),
        cmocka_unit_test_setup_teardown(keys, setup, teardown),
        cmocka_unit_test_setup_teardown(keys_of_others, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
