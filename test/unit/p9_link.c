/* SPDX-License-Identifier: MIT */
/* Links: agreed on or not, broken, come back, given up. */
#include "p9_link_fixture.h"
#include "sanitizer.h"
#include <signal.h>
#include <sys/wait.h>

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

/* One end only uses or only serves: the ends are known all the same, over several channels. */
static void test_half(void **state)
{
    static const struct {
        int a, b;
    } halves[] = {{USE, SERVE}, {USE, BOTH}, {BOTH, SERVE}, {SERVE, BOTH}, {SERVE, USE}};
    for (size_t i = 0; i < sizeof(halves) / sizeof(*halves); i++) {
        int a = halves[i].a, b = halves[i].b;
        struct net *n = net_new(kind);
        net_start(n, a, b);
        net_use(n, (a & USE ? 1 : 0) | (b & USE ? 2 : 0));
        for (uint32_t k = 0; k < 6; k++) {
            if (a & USE && b & SERVE)
                assert_int_equal(ask(&n->a, k), 0);
            if (b & USE && a & SERVE)
                assert_int_equal(ask(&n->b, k), 0);
            if (k % 3 == 1)
                p9_conn_break(k == 1 ? n->a.c : n->b.c);
        }
        assert_int_equal(n->dials, 2);
        if (a & USE)
            assert_int_equal(p9_use_end(n->a.c, NULL), 0);
        if (b & USE)
            assert_int_equal(p9_use_end(n->b.c, NULL), 0);
        assert_int_equal(p9_conn_wait(n->a.c, NULL), 0);
        assert_int_equal(p9_conn_wait(n->b.c, NULL), 0);
        net_free(n);
    }
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

/* ---- a break at every byte ---- */

struct cut {
    size_t budget[2]; /* of bytes from a to b, from b to a; then the channel is closed */
    size_t total[2];
    struct chan side[2]; /* of the relay: to a, to b */
    pthread_t thread;
    bool runs, only_first;
};

/* Passes on what it may. False at the end. */
static bool pass(struct cut *cut, int from)
{
    char buf[4096];
    size_t max = cut->budget[from] < sizeof(buf) ? cut->budget[from] : sizeof(buf);
    ssize_t r = max ? read(cut->side[from].in, buf, max) : 0;
    if (r <= 0)
        return false;
    cut->budget[from] -= (size_t)r;
    cut->total[from] += (size_t)r;
    for (ssize_t at = 0, w; at < r; at += w)
        if ((w = write(cut->side[!from].out, buf + at, (size_t)(r - at))) < 0)
            return false;
    return cut->budget[from] > 0;
}

static void *cut_thread(void *arg)
{
    struct cut *cut = arg;
    for (bool ok = true; ok;) {
        struct pollfd p[2] = {{.fd = cut->side[0].in, .events = POLLIN},
                              {.fd = cut->side[1].in, .events = POLLIN}};
        assert_true(poll(p, 2, PATIENCE) > 0);
        for (int i = 0; i < 2 && ok; i++)
            ok = !p[i].revents || pass(cut, i);
    }
    chan_close(&cut->side[0]);
    chan_close(&cut->side[1]);
    return NULL;
}

/* Only the first channel runs through the relay. */
static void cut_relay(struct net *n, struct chan *a, struct chan *b)
{
    struct cut *cut = n->arg;
    struct chan spare;
    if (cut->runs)
        return;
    cut->runs = true;
    spare = *b;
    cut->side[0] = spare; /* b's end of a's pair is the relay's */
    make_pair(n->kind, &cut->side[1], b);
    strcpy(b->who, spare.who);
    pthread_create(&cut->thread, NULL, cut_thread, cut);
}

static void end_well(struct end *e, int r)
{
    struct pl_err err = {.text = ""};
    int over = p9_conn_wait(e->c, &err);
    if (r < 0 || over < 0)
        fail_msg("the end: %d, %d: %s (%s); there: %s", r, over, err.text, e->why,
                 e == &e->net->a ? e->net->b.s.sentence : e->net->a.s.sentence);
}

/* Some of each kind, with answers of several sizes. */
static void converse(struct net *n)
{
    uint8_t data[700];
    struct p9_answer ans;
    net_use(n, 1);
    for (uint32_t i = 0; i < 2; i++)
        if (ask(&n->a, i) < 0)
            end_well(&n->a, -EIO);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = pattern(i);
    struct p9_msg w = {.type = P9_Twrite, .fid = 1, .count = sizeof(data), .data = data};
    assert_int_equal(p9_rpc(n->a.c, NULL, &w, &ans, NULL, 0), 0);
    p9_answer_free(&ans);
    struct p9_msg r = {.type = P9_Tread, .fid = 1, .count = sizeof(data)};
    memset(data, 0, sizeof(data));
    assert_int_equal(p9_rpc(n->a.c, NULL, &r, &ans, data, sizeof(data)), 0);
    assert_int_equal(ans.r.count, sizeof(data));
    p9_answer_free(&ans);
    for (size_t i = 0; i < sizeof(data); i++)
        assert_int_equal(data[i], pattern(i));
    end_well(&n->a, p9_use_end(n->a.c, NULL));
    end_well(&n->b, 0);
}

/* How many bytes went each way, of an undisturbed conversation or one cut after `budget`. */
static void cut_run(size_t to_b, size_t to_a, size_t total[2])
{
    struct net *n = net_new(kind);
    struct cut cut = {.budget = {to_b, to_a}};
    n->relay = cut_relay;
    n->arg = &cut;
    net_start(n, USE, SERVE);
    converse(n);
    assert_int_equal(n->b.s.resets, 1);
    assert_int_equal(n->b.s.started, 4); /* nothing came twice */
    net_free(n);
    pthread_join(cut.thread, NULL);
    if (total)
        memcpy(total, cut.total, sizeof(cut.total));
}

/* The question and the answer that make the link are 33 and 64 bytes; a break amid those is no
 * break of a link. */
static void test_every_byte(void **state)
{
    enum { ASK = 33, ANSWER = 64 };
    size_t total[2], step = kind == SOCKETS ? 1 : 29;
    cut_run(SIZE_MAX, SIZE_MAX, total);
    print_message("%zu and %zu bytes\n", total[0], total[1]);
    for (size_t at = ASK + 1; at < total[0]; at += step)
        cut_run(at, SIZE_MAX, NULL);
    for (size_t at = ANSWER; at < total[1]; at += step)
        cut_run(SIZE_MAX, at, NULL);
}

/* ---- load ---- */

struct load {
    struct end *e;
    atomic_bool *stop;
    unsigned seed;
    unsigned done;
    pthread_t thread;
};

static void *load_thread(void *arg)
{
    struct load *ld = arg;
    enum { MAX = 60000 };
    uint8_t *data = malloc(MAX);
    while (!*ld->stop) {
        uint64_t off = (uint64_t)rand_r(&ld->seed);
        uint32_t count = (uint32_t)rand_r(&ld->seed) % (rand_r(&ld->seed) % 4 ? 500 : MAX);
        struct p9_answer ans;
        struct p9_msg m = {.type = P9_Tread, .fid = 1, .offset = off, .count = count};
        bool writes = rand_r(&ld->seed) % 2;
        memset(data, 0, count);
        if (writes) {
            m.type = P9_Twrite;
            m.data = data;
            for (uint32_t i = 0; i < count; i++)
                data[i] = pattern(off + i);
        }
        int r = p9_rpc(ld->e->c, NULL, &m, &ans, writes ? NULL : data, count);
        assert_int_equal(r, 0);
        assert_int_equal(ans.r.count, count);
        p9_answer_free(&ans);
        for (uint32_t i = 0; i < count; i++)
            assert_int_equal(data[i], pattern(off + i));
        ld->done++;
    }
    free(data);
    return NULL;
}

static void test_load(void **state)
{
    enum { THREADS = 3 };
    int breaks = kind == SOCKETS ? 1000 : 250;
#if ADDRESS_SANITIZER || THREAD_SANITIZER
    breaks /= 5;
#endif
    struct net *n = net_new(kind);
    struct load load[2 * THREADS];
    atomic_bool stop = false;
    unsigned seed = (unsigned)kind, done = 0;
    net_start(n, BOTH, BOTH);
    net_use(n, 3);
    for (int i = 0; i < 2 * THREADS; i++) {
        load[i] = (struct load){i % 2 ? &n->a : &n->b, &stop, (unsigned)i, 0, 0};
        pthread_create(&load[i].thread, NULL, load_thread, &load[i]);
    }
    while (n->b.downs < breaks) {
        int was = n->b.ups;
        usleep((unsigned)rand_r(&seed) % 3000); /* a time to break at, whatever it is */
        p9_conn_break(rand_r(&seed) % 2 ? n->a.c : n->b.c);
        end_await(&n->b, &n->b.ups, was + (n->b.downs > was));
    }
    stop = true;
    for (int i = 0; i < 2 * THREADS; i++) {
        pthread_join(load[i].thread, NULL);
        done += load[i].done;
    }
    print_message("%d breaks, %u requests\n", n->b.downs, done);
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
        cmocka_unit_test(test_agree), cmocka_unit_test(test_half),
        cmocka_unit_test(test_break), cmocka_unit_test(test_every_byte),
        cmocka_unit_test(test_load),
    };
    int failed = 0;
    signal(SIGPIPE, SIG_IGN); /* of the relay */
    /* A process each: TSan finds races where there is a lock after 28,000 threads in one. */
    for (kind = SOCKETS; kind < NKINDS; kind++) {
        int status = 0;
        pid_t pid = fork();
        if (pid == 0)
            exit(cmocka_run_group_tests_name(names[kind], tests, NULL, NULL));
        failed += pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0;
    }
    return failed;
}
