/* SPDX-License-Identifier: MIT */
/* Access files, and the 9P door behind one: who may attach, before there is a fid. */
#include "doors/p9_access.h"
#include "p9_door_fixture.h"
#include <plenum/sources.h>

static struct p9_access *rules(const char *text)
{
    struct p9_access *a;
    struct pl_err err = {0};
    char *copy = strdup(text);
    if (p9_access_parse(copy, "access", true, &a, &err) < 0)
        fail_msg("%s", err.text);
    free(copy);
    return a;
}

/* Asks; what is given is dropped, but for what it says. */
static int ask(struct p9_access *a, const char *who, const char *aname, const char *name,
               struct p9_admitted *ret)
{
    struct pl_tree *mem;
    struct p9_asking asking = {.who = who, .uid = (uid_t)-1, .aname = aname, .name = name};
    *ret = (struct p9_admitted){0};
    assert_int_equal(pl_mem_new(0, &mem, NULL), 0);
    int r = p9_access_admit(a, &asking, mem, ret);
    if (r == 0)
        assert_true((ret->tree == mem) || ret->tree->lower == mem);
    pl_tree_unref(ret->tree);
    pl_map_unref(ret->map);
    pl_tree_unref(mem);
    return r;
}

static void first_match(void **state)
{
    struct p9_admitted r;
    struct p9_access *a = rules("cert:alice /pub ro caller\n"
                                "cert:alice / rw caller+root # all\n"
                                "  key:web-*\t/www//x/ ro caller\r\n"
                                "\n# nothing\n"
                                "uid:0 /a\\040b rw caller\n"
                                "* /open ro caller\n");
    assert_int_equal(ask(a, "cert:alice", "", "pub", &r), 0);
    assert_int_equal(r.as, P9_AS_CALLER);
    assert_int_equal(ask(a, "cert:alice", "", "/pub/x", &r), 0);
    assert_int_equal(r.as, P9_AS_CALLER);
    assert_int_equal(ask(a, "cert:alice", "", "public", &r), 0);
    assert_int_equal(r.as, P9_AS_ROOT);
    assert_int_equal(ask(a, "cert:alice", "", "", &r), 0);
    assert_int_equal(r.as, P9_AS_ROOT);
    assert_int_equal(ask(a, "cert:alicex", "", "", &r), -EACCES);
    assert_int_equal(ask(a, "key:alice", "", "", &r), -EACCES);
    assert_int_equal(ask(a, "key:web-1", "", "www/x", &r), 0);
    assert_int_equal(ask(a, "key:web-1", "www", "x/y", &r), 0);
    assert_int_equal(ask(a, "key:web-1", "", "www", &r), -EACCES);
    assert_int_equal(ask(a, "key:web", "", "www/x", &r), -EACCES);
    assert_int_equal(ask(a, "uid:0", "", "a b/c", &r), 0);
    assert_int_equal(ask(a, "uid:00", "", "a b/c", &r), -EACCES);
    assert_int_equal(ask(a, "", "", "open", &r), 0);
    assert_int_equal(ask(a, "", "", "", &r), -EACCES);
    p9_access_free(a);
}

static void views_are_made_once(void **state)
{
    struct p9_access *a = rules("* / ro caller\n");
    struct p9_admitted r[2] = {{0}};
    struct p9_asking asking = {.who = "", .aname = "", .name = ""};
    struct pl_tree *mem;
    assert_int_equal(pl_mem_new(0, &mem, NULL), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(p9_access_admit(a, &asking, mem, &r[i]), 0);
    assert_ptr_equal(r[0].tree, r[1].tree);
    assert_ptr_not_equal(r[0].tree, mem);
    p9_access_free(a);
    for (int i = 0; i < 2; i++)
        pl_tree_unref(r[i].tree);
    pl_tree_unref(mem);
}

static void bad_rules(void **state)
{
    static const char *const bad[][2] = {
        {"a", "line 1: too few"},
        {"\n\n* / ro caller x", "line 3: too many"},
        {"* / RO caller", "neither ro"},
        {"* x ro caller", "not a path"},
        {"a: / ro caller", "not somebody"},
        {"* / ro map:x", "whole path"},
        {"uid:99999999999 / ro caller", "no such user"},
        {"* / ro 4294967295", "no such user"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct p9_access *a;
        struct pl_err err = {0};
        char *copy = strdup(bad[i][0]);
        assert_int_equal(p9_access_parse(copy, "access", true, &a, &err), -EINVAL);
        if (!strstr(err.text, bad[i][1]))
            fail_msg("%s: %s", bad[i][0], err.text);
        free(copy);
    }
}

/* ---- the door ---- */

struct guarded {
    struct p9_crew *crew;
    struct p9_door *door;
    struct p9_access *access;
    struct pl_tree *mem;
    struct p9_conn *conn;
};

static void guard(struct guarded *g, struct raw *c, const char *text, const char *who)
{
    int fds[2];
    struct pl_err err = {0};
    *g = (struct guarded){.crew = p9_crew_new(0), .access = rules(text)};
    assert_int_equal(pl_mem_new(0, &g->mem, NULL), 0);
    struct p9_export export = {"", g->mem};
    assert_int_equal(p9_door_new(&export, 1, g->crew, NULL, &g->door), 0);
    p9_door_admit(g->door, p9_access_admit, g->access);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct chan chan = {
        .in = fds[0], .out = fds[0], .role = CHAN_ACCEPTED, .uid = (uid_t)-1, .peer = "client"};
    snprintf(chan.who, sizeof(chan.who), "%s", who);
    assert_int_equal(p9_door_conn(g->door, &chan, false, NULL, NULL, &g->conn, &err), 0);
    raw_init(c, fds[1]);
    raw_version(c, P9_VERSION_L);
}

static void unguard(struct guarded *g, struct raw *c)
{
    raw_close(c);
    p9_conn_wait(g->conn, NULL);
    p9_conn_free(g->conn);
    p9_door_free(g->door);
    p9_access_free(g->access);
    p9_crew_free(g->crew);
    pl_tree_unref(g->mem);
}

static int auth(struct raw *c)
{
    struct p9_msg t = {.type = P9_Tauth, .afid = 9, .n_uname = P9_NONUNAME};
    return raw_rpc(c, t);
}

static void refused_before_a_fid(void **state)
{
    struct guarded g;
    struct raw c;
    guard(&g, &c, "cert:bob / rw caller\n", "cert:alice");
    assert_int_equal(raw_attach(&c, 0, ""), -EACCES);
    assert_int_equal(auth(&c), -EACCES);
    struct p9_msg t = {.type = P9_Tgetattr, .fid = 0};
    assert_int_equal(raw_rpc(&c, t), -EBADF);
    unguard(&g, &c);
}

static void read_only(void **state)
{
    struct guarded g;
    struct raw c;
    guard(&g, &c, "cert:alice / ro caller\n", "cert:alice");
    assert_int_equal(auth(&c), -ENOENT); /* none is needed */
    assert_int_equal(raw_attach(&c, 0, ""), 0);
    struct p9_msg t = {.type = P9_Tmkdir, .fid = 0, .dfid = 0, .name = p9_str("d"), .mode = 0755};
    assert_int_equal(raw_rpc(&c, t), -EROFS);
    unguard(&g, &c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_match), cmocka_unit_test(views_are_made_once),
        cmocka_unit_test(bad_rules),   cmocka_unit_test(refused_before_a_fid),
        cmocka_unit_test(read_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
