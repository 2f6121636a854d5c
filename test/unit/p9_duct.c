/* SPDX-License-Identifier: MIT */
/* Two engines over one channel: both directions, their ends in every order, and saturation. */
#include "p9/priv.h"
#include "p9_peer.h"

struct end {
    struct served s;
    struct p9_conn *c;
    struct pl_err err;
    pthread_t thread;
    int result;
};

struct fix {
    struct p9_crew *crew[2];
    struct end a, b; /* a dialed */
    struct chan cha, chb;
};

static enum kind kind;

enum { SERVE = 1, USE = 2, BOTH = 3 };

static struct fix *start(int a, int b)
{
    struct fix *f = calloc(1, sizeof(*f));
    f->crew[0] = p9_crew_new(0);
    f->crew[1] = p9_crew_new(0);
    served_init(&f->a.s);
    served_init(&f->b.s);
    make_pair(kind, &f->cha, &f->chb);
    f->a.c = conn_over(f->crew[0], &f->cha, &f->a.s, a & SERVE, a & USE);
    f->b.c = conn_over(f->crew[1], &f->chb, &f->b.s, b & SERVE, b & USE);
    return f;
}

static void stop(struct fix *f, int error)
{
    assert_int_equal(p9_conn_wait(f->a.c, NULL), error);
    assert_int_equal(p9_conn_wait(f->b.c, NULL), error);
    assert_int_equal(f->a.s.overs, 1);
    assert_int_equal(f->b.s.overs, 1);
    assert_int_equal(f->a.s.over_error, error);
    p9_conn_free(f->a.c);
    p9_conn_free(f->b.c);
    p9_crew_free(f->crew[0]);
    p9_crew_free(f->crew[1]);
    free(f);
}

static void *use_thread(void *arg)
{
    struct end *e = arg;
    e->result = p9_use(e->c, NULL, &e->err);
    return NULL;
}

static void use_both(struct fix *f)
{
    pthread_create(&f->a.thread, NULL, use_thread, &f->a);
    pthread_create(&f->b.thread, NULL, use_thread, &f->b);
    pthread_join(f->a.thread, NULL);
    pthread_join(f->b.thread, NULL);
    assert_int_equal(f->a.result, 0);
    assert_int_equal(f->b.result, 0);
    assert_true(p9_extended(f->a.c) && p9_extended(f->b.c));
}

static int ask(struct end *e, uint32_t fid)
{
    struct p9_msg t = {.type = P9_Tgetattr, .fid = fid};
    struct p9_answer a;
    int r = p9_rpc(e->c, NULL, &t, &a, NULL, 0);
    if (r == 0)
        assert_int_equal(a.r.attr.size, fid);
    return r;
}

static void *end_thread(void *arg)
{
    struct end *e = arg;
    e->result = p9_use_end(e->c, NULL);
    return NULL;
}

/* One side ends, and the other direction goes on; then the other. */
static void test_ends(void **state)
{
    for (int order = 0; order < 4; order++) {
        struct fix *f = start(BOTH, BOTH);
        use_both(f);
        struct end *first = order & 1 ? &f->b : &f->a, *second = order & 1 ? &f->a : &f->b;
        for (uint32_t i = 0; i < 5; i++) {
            assert_int_equal(ask(first, i), 0);
            assert_int_equal(ask(second, i), 0);
        }
        if (order & 2) { /* at once */
            pthread_create(&first->thread, NULL, end_thread, first);
            pthread_create(&second->thread, NULL, end_thread, second);
            pthread_join(first->thread, NULL);
            pthread_join(second->thread, NULL);
            assert_int_equal(first->result, 0);
            assert_int_equal(second->result, 0);
        } else {
            assert_int_equal(p9_use_end(first->c, NULL), 0);
            assert_int_equal(ask(first, 1), -ECONNABORTED);
            assert_int_equal(second->s.resets, 1); /* all fids of `first` are dropped */
            for (uint32_t i = 0; i < 5; i++)
                assert_int_equal(ask(second, i), 0);
            assert_int_equal(first->s.overs + second->s.overs, 0);
            assert_int_equal(p9_use_end(second->c, NULL), 0);
        }
        assert_int_equal(p9_conn_wait(f->a.c, NULL), 0);
        assert_int_equal(f->a.s.resets, 1);
        stop(f, 0);
    }
}

/* One end only uses or only serves: the ends are known all the same. */
static void test_half(void **state)
{
    static const struct {
        int a, b;
    } halves[] = {{USE, SERVE}, {USE, BOTH}, {BOTH, SERVE}, {SERVE, BOTH}, {SERVE, USE}};
    for (size_t i = 0; i < sizeof(halves) / sizeof(*halves); i++) {
        int a = halves[i].a, b = halves[i].b;
        struct fix *f = start(a, b);
        pthread_t t[2];
        if (a & USE)
            pthread_create(&t[0], NULL, use_thread, &f->a);
        if (b & USE)
            pthread_create(&t[1], NULL, use_thread, &f->b);
        if (a & USE)
            pthread_join(t[0], NULL);
        if (b & USE)
            pthread_join(t[1], NULL);
        assert_int_equal(f->a.result, 0);
        assert_int_equal(f->b.result, 0);
        if (a & USE)
            assert_int_equal(ask(&f->a, 3), b & SERVE ? 0 : -EOPNOTSUPP);
        if (b & USE)
            assert_int_equal(ask(&f->b, 3), a & SERVE ? 0 : -EOPNOTSUPP);
        if (a & USE)
            assert_int_equal(p9_use_end(f->a.c, NULL), 0);
        if (b & USE)
            assert_int_equal(p9_use_end(f->b.c, NULL), 0);
        stop(f, 0);
    }
}

/* Nobody knows who called: both wait a moment, then speak. */
static void test_given(void **state)
{
    struct fix *f = calloc(1, sizeof(*f));
    f->crew[0] = p9_crew_new(0);
    f->crew[1] = p9_crew_new(0);
    served_init(&f->a.s);
    served_init(&f->b.s);
    make_pair(kind, &f->cha, &f->chb);
    f->cha.role = f->chb.role = CHAN_GIVEN;
    f->a.c = conn_over(f->crew[0], &f->cha, &f->a.s, true, true);
    f->b.c = conn_over(f->crew[1], &f->chb, &f->b.s, true, true);
    use_both(f);
    assert_int_equal(ask(&f->a, 1), 0);
    assert_int_equal(ask(&f->b, 1), 0);
    assert_int_equal(p9_use_end(f->a.c, NULL), 0);
    assert_int_equal(p9_use_end(f->b.c, NULL), 0);
    stop(f, 0);
}

/* A plain client at a duct that was called: it is served, and the duct knows that it serves
 * nothing. */
static void test_plain_client(void **state)
{
    struct fix *f = calloc(1, sizeof(*f));
    struct peer *p = calloc(1, sizeof(*p));
    f->crew[0] = p9_crew_new(0);
    served_init(&f->b.s);
    make_pair(kind, &p->ch, &f->chb);
    f->b.c = conn_over(f->crew[0], &f->chb, &f->b.s, true, true);
    pthread_create(&f->b.thread, NULL, use_thread, &f->b);
    peer_hello(p, P9_VERSION_L);
    pthread_join(f->b.thread, NULL);
    assert_int_equal(f->b.result, -ENOTCONN);
    assert_non_null(strstr(f->b.err.text, "only uses, it serves nothing"));
    peer_send(p, (struct p9_msg){.type = P9_Tgetattr, .tag = 1, .fid = 4});
    assert_int_equal(peer_expect(p, P9_Rgetattr, 1)->attr.size, 4);
    assert_int_equal(p9_use_end(f->b.c, NULL), 0);
    peer_send(p, (struct p9_msg){.type = P9_Tgetattr, .tag = 1, .fid = 4}); /* is served on */
    peer_expect(p, P9_Rgetattr, 1);
    peer_close(p);
    assert_int_equal(p9_conn_wait(f->b.c, NULL), 0);
    p9_conn_free(f->b.c);
    p9_crew_free(f->crew[0]);
    free(p);
    free(f);
}

/* A duct at a plain server: it uses, and when done closes. */
static void test_plain_server(void **state)
{
    struct fix *f = calloc(1, sizeof(*f));
    struct peer *p = calloc(1, sizeof(*p));
    f->crew[0] = p9_crew_new(0);
    served_init(&f->a.s);
    make_pair(kind, &f->cha, &p->ch);
    f->a.c = conn_over(f->crew[0], &f->cha, &f->a.s, true, true);
    pthread_create(&f->a.thread, NULL, use_thread, &f->a);
    peer_agree(p, P9_VERSION_L);
    pthread_join(f->a.thread, NULL);
    assert_int_equal(f->a.result, 0);
    assert_int_equal(p9_use_end(f->a.c, NULL), 0);
    peer_expect_end(p);
    assert_int_equal(p9_conn_wait(f->a.c, NULL), 0);
    p9_conn_free(f->a.c);
    p9_crew_free(f->crew[0]);
    peer_close(p);
    free(p);
    free(f);
}

/* The link is cut while both sides have callers waiting and calls that wait. */
static void *lock_thread(void *arg)
{
    struct end *e = arg;
    struct p9_msg t = {.type = P9_Tlock};
    struct p9_answer a;
    e->result = p9_rpc(e->c, NULL, &t, &a, NULL, 0);
    return NULL;
}

static void test_cut(void **state)
{
    for (int how = 0; how < 2; how++) {
        struct fix *f = start(BOTH, BOTH);
        use_both(f);
        pthread_create(&f->a.thread, NULL, lock_thread, &f->a);
        pthread_create(&f->b.thread, NULL, lock_thread, &f->b);
        served_await(&f->a.s, &f->a.s.waiting, 1);
        served_await(&f->b.s, &f->b.s.waiting, 1);
        p9_conn_abort(how ? f->a.c : f->b.c);
        pthread_join(f->a.thread, NULL);
        pthread_join(f->b.thread, NULL);
        assert_int_equal(f->a.result, -ECONNABORTED);
        assert_int_equal(f->b.result, -ECONNABORTED);
        assert_int_equal(p9_conn_wait(how ? f->a.c : f->b.c, NULL), -ECONNABORTED);
        assert_int_equal(p9_conn_wait(how ? f->b.c : f->a.c, NULL), -ECONNRESET);
        assert_int_equal(f->a.s.cancelled + f->b.s.cancelled, 2);
        assert_int_equal(f->a.s.resets + f->b.s.resets, 2);
        p9_conn_free(f->a.c);
        p9_conn_free(f->b.c);
        p9_crew_free(f->crew[0]);
        p9_crew_free(f->crew[1]);
        free(f);
    }
}

/* A cancelled call reaches the other end's op, and comes back. */
struct canceller {
    struct end *e;
    struct pl_call call;
    int result;
};

static void *cancel_thread(void *arg)
{
    struct canceller *k = arg;
    struct p9_msg t = {.type = P9_Tlock};
    struct p9_answer a;
    k->result = p9_rpc(k->e->c, &k->call, &t, &a, NULL, 0);
    return NULL;
}

static void test_cancel(void **state)
{
    enum { N = 30 };
    struct fix *f = start(BOTH, BOTH);
    use_both(f);
    struct canceller k[N];
    pthread_t t[N];
    for (int i = 0; i < N; i++) {
        k[i].e = i % 2 ? &f->a : &f->b;
        pl_call_init(&k[i].call, 0, 0);
        pthread_create(&t[i], NULL, cancel_thread, &k[i]);
    }
    served_await(&f->a.s, &f->a.s.waiting, N / 2);
    served_await(&f->b.s, &f->b.s.waiting, N / 2);
    assert_int_equal(ask(&f->a, 1), 0);
    for (int i = 0; i < N; i++)
        pl_call_cancel(&k[i].call);
    for (int i = 0; i < N; i++) {
        pthread_join(t[i], NULL);
        assert_int_equal(k[i].result, -EINTR);
        pl_call_done(&k[i].call);
    }
    assert_int_equal(f->a.s.cancelled + f->b.s.cancelled, N);
    assert_int_equal(ask(&f->b, 2), 0);
    assert_int_equal(p9_use_end(f->a.c, NULL), 0);
    assert_int_equal(p9_use_end(f->b.c, NULL), 0);
    stop(f, 0);
}

/* A caller reads its answer itself: when nothing comes but answers, no worker stays to read them.
 */
static void test_direct(void **state)
{
    for (int duct = 0; duct < 2; duct++) {
        struct fix *f = start(duct ? BOTH : USE, duct ? BOTH : SERVE);
        enum role role = ROLE_HELD;
        bool goodbye = duct;
        if (duct)
            use_both(f);
        else
            assert_int_equal(p9_use(f->a.c, NULL, NULL), 0);
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        time_t end = t.tv_sec + PATIENCE / 1000;
        while ((role != (duct ? ROLE_ARMED : ROLE_NONE) || !goodbye) && t.tv_sec < end) {
            assert_int_equal(ask(&f->a, 1), 0);
            pthread_mutex_lock(&f->a.c->lock);
            role = f->a.c->role;
            goodbye = duct || f->a.c->serve_done;
            pthread_mutex_unlock(&f->a.c->lock);
            clock_gettime(CLOCK_MONOTONIC, &t);
        }
        assert_true(goodbye);
        for (uint32_t i = 0; i < 100; i++) {
            uint64_t gen = f->a.c->role_gen;
            assert_int_equal(ask(&f->a, i), 0);
            pthread_mutex_lock(&f->a.c->lock);
            assert_int_equal(f->a.c->role, duct ? ROLE_ARMED : ROLE_NONE);
            assert_int_equal(f->a.c->role_gen, gen + 1);
            pthread_mutex_unlock(&f->a.c->lock);
        }
        assert_int_equal(p9_use_end(f->a.c, NULL), 0);
        if (duct)
            assert_int_equal(p9_use_end(f->b.c, NULL), 0);
        stop(f, 0);
    }
}

/* ---- saturation ---- */

enum { THREADS = 16, ROUNDS = 64, SIZE = 65536 - 64, AHEAD = 3 };

struct load {
    struct end *e;
    pthread_t thread;
    unsigned seed;
    const char *wrong;
};

static void check(struct load *l, bool ok, const char *what)
{
    if (!ok && !l->wrong)
        l->wrong = what;
}

static void *load_thread(void *arg)
{
    struct load *l = arg;
    uint8_t *in[AHEAD], *out = malloc(SIZE);
    for (int k = 0; k < AHEAD; k++)
        in[k] = malloc(SIZE);
    for (unsigned i = 0; i < ROUNDS && !l->wrong; i++) {
        uint64_t off = (uint64_t)(l->seed * 1000003 + i) * 977;
        struct p9_pending *p[AHEAD];
        struct p9_answer a;
        struct p9_msg t = {.type = P9_Tread, .offset = off, .count = SIZE};
        int n = 0;
        while (n < AHEAD && p9_rpc_start(l->e->c, NULL, &t, in[n], SIZE, &p[n]) == 0)
            n++;
        check(l, n == AHEAD, "start");
        for (uint32_t k = 0; k < SIZE; k++)
            out[k] = pattern(off + k);
        t = (struct p9_msg){.type = P9_Twrite, .offset = off, .count = SIZE, .data = out};
        check(l, p9_rpc(l->e->c, NULL, &t, &a, NULL, 0) == 0 && a.r.count == SIZE, "write");
        p9_answer_free(&a);
        while (n-- > 0) {
            check(l, p9_rpc_finish(l->e->c, NULL, p[n], &a) == 0 && a.r.count == SIZE, "read");
            for (uint32_t k = 0; k < SIZE; k += 61)
                check(l, in[n][k] == pattern(off + k), "bytes");
            p9_answer_free(&a);
        }
    }
    for (int k = 0; k < AHEAD; k++)
        free(in[k]);
    free(out);
    return NULL;
}

static void test_saturation(void **state)
{
    struct fix *f = start(BOTH, BOTH);
    use_both(f);
    struct load l[2 * THREADS];
    for (unsigned i = 0; i < 2 * THREADS; i++) {
        l[i] = (struct load){.e = i % 2 ? &f->a : &f->b, .seed = i};
        pthread_create(&l[i].thread, NULL, load_thread, &l[i]);
    }
    for (unsigned i = 0; i < 2 * THREADS; i++) {
        pthread_join(l[i].thread, NULL);
        if (l[i].wrong)
            fail_msg("%s (%s %s)", l[i].wrong, f->a.s.sentence, f->b.s.sentence);
    }
    assert_int_equal(p9_use_end(f->a.c, NULL), 0);
    assert_int_equal(p9_use_end(f->b.c, NULL), 0);
    stop(f, 0);
}

int main(void)
{
    static const char *names[] = {"sockets", "pipes", "sockets of 4 KiB", "pipes of 4 KiB",
                                  "an io over sockets"};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ends),         cmocka_unit_test(test_half),
        cmocka_unit_test(test_given),        cmocka_unit_test(test_plain_client),
        cmocka_unit_test(test_plain_server), cmocka_unit_test(test_cut),
        cmocka_unit_test(test_cancel),       cmocka_unit_test(test_direct),
        cmocka_unit_test(test_saturation),
    };
    int failed = 0;
    for (kind = SOCKETS; kind < NKINDS; kind++)
        failed += cmocka_run_group_tests_name(names[kind], tests, NULL, NULL);
    return failed;
}
