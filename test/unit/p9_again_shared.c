/* SPDX-License-Identifier: MIT */
/* Two trees on one connection, which is neither's: each goes on at the next, and what both had
 * asked for is done once, as of one client. */
#include "p9_again_fixture.h"

enum { TREES = 2, CONNS = 512, ROUNDS = 60 };

static struct kind ours = {.remembers = true}, stock = {.plain = true};
static struct kind real = {.remembers = true, .real = true};

struct shared {
    struct broken *w;
    pthread_mutex_t mutex;
    struct p9_conn *conn[CONNS];
    unsigned n;
    struct pl_tree *t[TREES];
    struct pl_node *top[TREES];
};

/* The first to come makes the next connection, the other is given the same. */
static int next_shared(void *arg, struct pl_call *c, struct p9_conn *old, struct p9_conn **ret,
                       struct pl_err *err)
{
    struct shared *s = arg;
    pthread_mutex_lock(&s->mutex);
    if (s->conn[s->n - 1] == old) {
        line_join(s->w->line); /* the old server is done with what it had */
        assert_true(s->n < CONNS);
        s->conn[s->n] = line_new(s->w, c);
        s->n++;
    }
    *ret = s->conn[s->n - 1];
    pthread_mutex_unlock(&s->mutex);
    return 0;
}

static void share(struct shared *s, void **state)
{
    struct pl_attr attr;
    *s = (struct shared){.w = new_of(state), .n = 1};
    pthread_mutex_init(&s->mutex, NULL);
    s->conn[0] = line_new(s->w, &call);
    for (int i = 0; i < TREES; i++) {
        struct pl_p9_opts opts = {.again = next_shared, .again_arg = s};
        assert_int_equal(pl_p9_open(s->conn[0], &opts, &s->t[i], NULL), 0);
        assert_int_equal(pl_attach(s->t[i], &call, "", &s->top[i], &attr), 0);
    }
}

static void end_share(struct shared *s)
{
    calm(s->w);
    for (int i = 0; i < TREES; i++) {
        pl_node_unref(s->top[i]);
        pl_tree_unref(s->t[i]);
    }
    for (unsigned i = 0; i < s->n; i++)
        p9_conn_free(s->conn[i]);
    pthread_mutex_destroy(&s->mutex);
    broken_free(s->w);
}

static void both_go_on(void **state)
{
    struct shared s;
    struct pl_node *node[TREES];
    struct pl_attr attr;
    struct pl_file *f[TREES];
    char buf[8];
    share(&s, state);
    for (int i = 0; i < TREES; i++) {
        f[i] = create(s.t[i], s.top[i], i ? "b" : "a", O_RDWR, &node[i]);
        assert_int_equal(pl_write(s.t[i], &call, f[i], i ? "B" : "A", 1, 0), 1);
    }
    for (int round = 0; round < 3; round++) {
        p9_conn_abort(s.conn[s.n - 1]);
        for (int i = 0; i < TREES; i++) {
            assert_int_equal(pl_read(s.t[i], &call, f[i], buf, 8, 0), 1);
            assert_int_equal(buf[0], i ? 'B' : 'A');
            assert_int_equal(pl_getattr(s.t[i], &call, node[i], NULL, &attr), 0);
        }
    }
    assert_int_equal(s.n, 4);
    for (int i = 0; i < TREES; i++) {
        pl_close(s.t[i], &call, f[i]);
        pl_node_unref(node[i]);
    }
    end_share(&s);
}

/* Where the peer remembers neither tree is left in doubt. */
static void each_once(void **state)
{
    struct shared s;
    share(&s, state);
    for (int i = 0; i < 2 * TREES; i++) {
        for (enum when when = BEFORE; when < WHENS; when++) {
            struct pl_node *node;
            struct pl_attr attr;
            struct pl_make make = {.mode = S_IFDIR | 0755};
            char name[32];
            snprintf(name, sizeof(name), "%d-%u", i, when);
            cut_at(s.w, P9_Tmkdir, 0, when);
            int r = pl_make(s.t[i % TREES], &call, s.top[i % TREES], name, &make, &node, &attr);
            assert_int_equal(r, s.w->plain ? -EREMOTEIO : 0);
            if (r == 0)
                pl_node_unref(node);
            assert_int_equal(s.w->when, NEVER);
        }
    }
    end_share(&s);
}

struct worker {
    struct shared *s;
    int i;
    pthread_t thread;
};

/* What is exclusive, of either tree at once with the other's. */
static void *work(void *arg)
{
    struct worker *k = arg;
    struct pl_tree *t = k->s->t[k->i];
    struct pl_node *top = k->s->top[k->i], *node;
    struct pl_attr attr;
    struct pl_file *f;
    struct pl_call c;
    char name[32], other[32];
    pl_call_init_self(&c);
    for (int i = 0; i < ROUNDS; i++) {
        snprintf(name, sizeof(name), "f%d-%d", k->i, i);
        snprintf(other, sizeof(other), "g%d-%d", k->i, i);
        assert_int_equal(
            pl_create(t, &c, top, name, O_RDWR | O_EXCL | O_APPEND, 0600, &node, &attr, &f), 0);
        assert_int_equal(pl_write(t, &c, f, "once", 4, 0), 4);
        assert_int_equal(pl_write(t, &c, f, "more", 4, 0), 4);
        assert_int_equal(pl_getattr(t, &c, node, f, &attr), 0);
        assert_int_equal(attr.size, 8);
        pl_close(t, &c, f);
        pl_node_unref(node);
        assert_int_equal(pl_rename(t, &c, top, name, top, other, 0), 0);
        assert_int_equal(pl_remove(t, &c, top, other, 0), 0);
    }
    pl_call_done(&c);
    return NULL;
}

static void side_by_side(void **state)
{
    struct shared s;
    struct worker k[TREES];
    share(&s, state);
    pthread_mutex_lock(&s.w->mutex);
    s.w->one_in = 20;
    pthread_mutex_unlock(&s.w->mutex);
    for (int i = 0; i < TREES; i++) {
        k[i] = (struct worker){.s = &s, .i = i};
        pthread_create(&k[i].thread, NULL, work, &k[i]);
    }
    for (int i = 0; i < TREES; i++)
        pthread_join(k[i].thread, NULL);
    assert_true(s.n > 10);
    end_share(&s);
}

#define TEST(test, kind)                                                                           \
    {                                                                                              \
#test " (" #kind ")", test, NULL, NULL, &kind                                              \
    }

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        TEST(both_go_on, ours),   TEST(both_go_on, real),   TEST(both_go_on, stock),
        TEST(each_once, ours),    TEST(each_once, real),    TEST(each_once, stock),
        TEST(side_by_side, ours), TEST(side_by_side, real),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
