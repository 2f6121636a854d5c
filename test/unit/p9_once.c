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
    assert_int_equal(introduce(&a, ME), P9_SESSION_REMEMBERS); /* another tree of the same */
    assert_int_equal(introduce(&a, OTHER), -EPROTO);
    dial_me(w, &b, OTHER, P9_SESSION_REMEMBERS);
    raw_close(&b);
    raw_close(&a);
    dial_me(w, &a, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    assert_int_equal(introduce(&a, ME), P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
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

static struct p9_msg append(uint64_t op, const char *text)
{
    return (struct p9_msg){.type = P9_Twrite2,
                           .fid = 1,
                           .op = op,
                           .count = (uint32_t)strlen(text),
                           .data = (void *)text};
}

static void open_log(struct raw *c)
{
    assert_int_equal(raw_walk(c, 0, 1, "file"), 0);
    assert_int_equal(RPC(c, .type = P9_Tlopen, .fid = 1, .flags = P9_RDWR | P9_APPEND), 0);
}

static uint64_t size_of(struct raw *c)
{
    assert_int_equal(RPC(c, .type = P9_Tgetattr, .fid = 1, .mask = P9_GETATTR_ALL), 0);
    return c->r.attr.size;
}

/* Two trees say whose their connection is while another still has it: both wait for that. */
static void both_ask(void **state)
{
    struct world *w = *state;
    struct raw a, b;
    dial_me(w, &a, ME, P9_SESSION_REMEMBERS);
    open_log(&a);
    atomic_store(&w->tree->hold, true);
    raw_send(&a, (struct p9_msg){.type = P9_Tread, .fid = 1, .count = 10});
    counting_wait_read(w->tree);
    dial_as(w, &b, P9_VERSION_OWN);
    uint16_t tags = 0;
    for (int i = 0; i < 2; i++)
        tags += raw_send(&b, (struct p9_msg){.type = P9_Tsession, .id = {ME, ~(uint64_t)ME}});
    for (int i = 0; i < 2; i++) {
        assert_int_equal(raw_recv(&b), 0);
        assert_int_equal(b.r.flags, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
        tags -= b.r.tag;
    }
    assert_int_equal(tags, 0);
    assert_int_equal(atomic_load(&w->tree->files), 0);
    atomic_store(&w->tree->hold, false);
    raw_close(&a);
    raw_close(&b);
}

/* The last so many are known, and what is older is refused, not done. */
static void window(void **state)
{
    struct world *w = *state;
    struct raw c;
    dial_me(w, &c, ME, P9_SESSION_REMEMBERS);
    open_log(&c);
    uint64_t size = size_of(&c), n = LIMIT_SESSION_OPS + 10;
    for (uint64_t op = 1; op <= n; op++)
        assert_int_equal(raw_rpc(&c, append(op, "x")), 0);
    assert_int_equal(size_of(&c), size + n);
    for (uint64_t op = 1; op <= n; op++) {
        bool known = op + LIMIT_SESSION_OPS > n;
        assert_int_equal(raw_rpc(&c, append(op, "x")), known ? 0 : -EPROTO);
        if (known)
            assert_int_equal(c.r.count, 1);
    }
    assert_int_equal(size_of(&c), size + n);
    assert_int_equal(raw_rpc(&c, append(UINT64_MAX, "x")), 0);
    assert_int_equal(raw_rpc(&c, append(n, "x")), 0);           /* it is still there */
    assert_int_equal(raw_rpc(&c, append(n + 1, "x")), -EPROTO); /* and never was */
    assert_int_equal(raw_rpc(&c, append(UINT64_MAX, "x")), 0);
    assert_int_equal(size_of(&c), size + n + 1);
    assert_int_equal(raw_rpc(&c, append(0, "x")), 0); /* no op: as a write */
    assert_int_equal(raw_rpc(&c, append(0, "x")), 0);
    assert_int_equal(size_of(&c), size + n + 3);
    raw_close(&c);
}

static void two_clients(void **state)
{
    struct world *w = *state;
    struct raw a, b;
    dial_me(w, &a, ME, P9_SESSION_REMEMBERS);
    dial_me(w, &b, OTHER, P9_SESSION_REMEMBERS);
    open_log(&a);
    open_log(&b);
    uint64_t size = size_of(&a);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(raw_rpc(&a, append(1, "aa")), 0);
        assert_int_equal(raw_rpc(&b, append(1, "b")), 0);
        assert_int_equal(b.r.count, 1);
    }
    assert_int_equal(size_of(&a), size + 3);
    raw_close(&a);
    raw_close(&b);
}

/* A client that has said goodbye is not known, one that begins anew is. */
static void goodbye(void **state)
{
    struct world *w = *state;
    struct raw c;
    dial_me(w, &c, ME, P9_SESSION_REMEMBERS);
    raw_version(&c, P9_VERSION_OWN);
    assert_int_equal(introduce(&c, ME), P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    assert_int_equal(RPC(&c, .type = P9_Tend), 0);
    raw_close(&c);
    dial_me(w, &c, ME, P9_SESSION_REMEMBERS);
    raw_close(&c);
}

/* So many are remembered, the last ones. */
static void many(void **state)
{
    struct world *w = *state;
    struct raw c, live;
    uint64_t n = LIMIT_SESSIONS + 20;
    dial_me(w, &live, OTHER, P9_SESSION_REMEMBERS);
    for (uint64_t i = 0; i < n; i++) {
        dial_me(w, &c, 100000 + i, P9_SESSION_REMEMBERS);
        hang_up(w, &c);
        p9_conn_free(w->conn[--w->nconns]);
    }
    dial_me(w, &c, 100000 + n - 1, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    raw_close(&c);
    unsigned known = 0;
    for (uint64_t i = 0; i < 30; i++) {
        dial_as(w, &c, P9_VERSION_OWN);
        known += (introduce(&c, 100000 + i) & P9_SESSION_KNOWN) != 0;
        hang_up(w, &c);
        p9_conn_free(w->conn[--w->nconns]);
    }
    assert_in_range(known, 0, 12); /* each of the others took the place of one */
    assert_int_equal(
        raw_rpc(&live,
                (struct p9_msg){.type = P9_Tmkdir, .name = p9_str("d"), .mode = 0755, .op = 1}),
        0); /* who is connected is never forgotten */
    raw_close(&live);
    dial_me(w, &c, OTHER, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    raw_close(&c);
}

/* ---- two connections of one client ---- */

static int lock(struct raw *c, uint8_t type)
{
    int r = RPC(c, .type = P9_Tlock, .fid = 1,
                .lock = {.type = type, .proc_id = 1, .client_id = p9_str("1")});
    return r < 0 ? r : c->r.status;
}

static void expect_end(struct raw *c)
{
    char b[100];
    struct pollfd p = {c->fd, POLLIN, 0};
    do
        assert_int_equal(poll(&p, 1, 20000), 1);
    while (read(c->fd, b, sizeof(b)) > 0);
}

/* The second ends the first, with what it has open and has locked, before it is told so. */
static void comes_again(void **state)
{
    struct world *w = *state;
    struct raw a, b;
    dial_me(w, &a, ME, P9_SESSION_REMEMBERS);
    open_log(&a);
    assert_int_equal(lock(&a, P9_LOCK_WR), P9_LOCK_SUCCESS);
    dial_as(w, &b, P9_VERSION_OWN);
    open_log(&b);
    assert_int_equal(lock(&b, P9_LOCK_WR), P9_LOCK_BLOCKED);
    atomic_store(&w->tree->hold, true); /* and it has something under way */
    raw_send(&a, (struct p9_msg){.type = P9_Tread, .fid = 1, .count = 10});
    counting_wait_read(w->tree);
    assert_int_equal(introduce(&b, ME), P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    assert_int_equal(atomic_load(&w->tree->files), 1);
    assert_int_equal(lock(&b, P9_LOCK_WR), P9_LOCK_SUCCESS);
    atomic_store(&w->tree->hold, false);
    expect_end(&a);
    raw_close(&a);
    raw_close(&b);
}

static void dial_who(struct world *w, struct raw *c, const char *who, uid_t uid)
{
    int fds[2];
    struct pl_err err;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct chan chan = {
        .in = fds[0], .out = fds[0], .role = CHAN_ACCEPTED, .uid = uid, .peer = "x"};
    strcpy(chan.who, who);
    assert_int_equal(p9_door_conn(w->door, &chan, false, NULL, NULL, &w->conn[w->nconns++], &err),
                     0);
    raw_init(c, fds[1]);
    raw_version(c, P9_VERSION_OWN);
}

static void not_as_another(void **state)
{
    struct world *w = *state;
    struct raw a, b, c, d;
    dial_who(w, &a, "cert:alice", (uid_t)-1);
    dial_who(w, &b, "cert:bob", (uid_t)-1);
    dial_who(w, &c, "", 12345);
    dial_who(w, &d, "cert:alice", (uid_t)-1);
    assert_int_equal(introduce(&a, ME), P9_SESSION_REMEMBERS);
    assert_int_equal(introduce(&b, ME), -EPERM);
    assert_int_equal(introduce(&c, ME), -EPERM);
    assert_int_equal(raw_attach(&a, 0, ""), 0); /* it lives */
    assert_int_equal(introduce(&b, OTHER), P9_SESSION_REMEMBERS);
    assert_int_equal(introduce(&d, ME), P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    expect_end(&a);
    raw_close(&a);
    raw_close(&b);
    raw_close(&c);
    raw_close(&d);
}

/* ---- while it is carried out ---- */

/* The same message twice on one connection: the second waits for the answer of the first. */
static void at_once(void **state)
{
    struct world *w = *state;
    struct raw c;
    dial_me(w, &c, ME, P9_SESSION_REMEMBERS);
    open_log(&c);
    uint64_t size = size_of(&c);
    w->tree->what = PL_OP_write;
    atomic_store(&w->tree->hold, true);
    uint16_t tags = 0;
    tags += raw_send(&c, append(1, "once"));
    counting_wait_read(w->tree);
    tags += raw_send(&c, append(1, "once"));
    counting_release(w->tree);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(raw_recv(&c), 0);
        assert_int_equal(c.r.count, 4);
        tags -= c.r.tag;
    }
    assert_int_equal(tags, 0);
    assert_int_equal(size_of(&c), size + 4);
    raw_close(&c);
}

/* What was called off when the connection broke is done when it comes again. */
static void called_off(void **state)
{
    struct world *w = *state;
    struct raw a, b;
    dial_me(w, &a, ME, P9_SESSION_REMEMBERS);
    open_log(&a);
    uint64_t size = size_of(&a);
    w->tree->what = PL_OP_write;
    atomic_store(&w->tree->hold, true);
    raw_send(&a, append(1, "once"));
    counting_wait_read(w->tree);
    raw_close(&a);
    dial_me(w, &b, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    counting_release(w->tree);
    open_log(&b);
    assert_int_equal(size_of(&b), size);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(raw_rpc(&b, append(1, "once")), 0);
        assert_int_equal(b.r.count, 4);
        assert_int_equal(size_of(&b), size + 4);
    }
    raw_close(&b);
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
        cmocka_unit_test_setup_teardown(both_ask, setup, teardown),
        cmocka_unit_test_setup_teardown(again, setup, teardown),
        cmocka_unit_test_setup_teardown(window, setup, teardown),
        cmocka_unit_test_setup_teardown(two_clients, setup, teardown),
        cmocka_unit_test_setup_teardown(goodbye, setup, teardown),
        cmocka_unit_test_setup_teardown(many, setup, teardown),
        cmocka_unit_test_setup_teardown(comes_again, setup, teardown),
        cmocka_unit_test_setup_teardown(not_as_another, setup, teardown),
        cmocka_unit_test_setup_teardown(at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(called_off, setup, teardown),
        cmocka_unit_test_setup_teardown(keys, setup, teardown),
        cmocka_unit_test_setup_teardown(keys_of_others, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
