/* SPDX-License-Identifier: MIT */
/* The serving half against clients that speak by script. */
#include "p9_peer.h"

struct fix {
    struct p9_crew *crew;
    struct served s;
    struct p9_conn *c;
    struct peer p;
};

static enum kind kind;

static struct fix *start(void)
{
    struct fix *f = calloc(1, sizeof(*f));
    struct chan ours;
    served_init(&f->s);
    f->crew = p9_crew_new(0);
    make_pair(kind, &f->p.ch, &ours);
    f->c = conn_over(f->crew, &ours, &f->s, true, false);
    return f;
}

static void stop(struct fix *f)
{
    p9_conn_free(f->c);
    assert_int_equal(f->s.overs, 1);
    p9_crew_free(f->crew);
    free(f);
}

/* The client closes: the server is over, with what error. */
static void stop_closing(struct fix *f, int error)
{
    peer_close(&f->p);
    assert_int_equal(p9_conn_wait(f->c, NULL), error);
    assert_int_equal(f->s.over_error, error);
    stop(f);
}

static struct p9_msg getattr(uint16_t tag, uint32_t fid)
{
    return (struct p9_msg){.type = P9_Tgetattr, .tag = tag, .fid = fid};
}

static struct p9_msg lock(uint16_t tag)
{
    return (struct p9_msg){.type = P9_Tlock, .tag = tag, .fid = 1};
}

static struct p9_msg flush(uint16_t tag, uint16_t old)
{
    return (struct p9_msg){.type = P9_Tflush, .tag = tag, .oldtag = old};
}

static void test_versions(void **state)
{
    static const struct {
        const char *asked, *answered;
        uint32_t msize, msize_answered;
    } v[] = {{"9P1999", "unknown", 8192, 8192},
             {"9P2", "unknown", 8192, 8192},
             {"9Pfish", "unknown", 8192, 8192},
             {"9P2000L", "unknown", 8192, 8192},
             {"plenum.other", "unknown", 8192, 8192},
             {"9P2000.L", "9P2000.L", 100, 100}, /* refused below */
             {"9P2000.L", "9P2000.L", 8192, 8192},
             {"9P2000.L.other", "9P2000.L", 8192, 8192},
             {"9P2000.L", "9P2000.L", 1u << 30, 1 << 20}};
    struct fix *f = start();
    for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
        peer_send(&f->p, (struct p9_msg){.type = P9_Tversion,
                                         .tag = P9_NOTAG,
                                         .msize = v[i].msize,
                                         .version = p9_str(v[i].asked)});
        peer_expect(&f->p, P9_Rversion, P9_NOTAG);
        assert_string_equal(f->p.m.version.s, v[i].msize == 100 ? "unknown" : v[i].answered);
        assert_int_equal(f->p.m.msize, v[i].msize_answered);
        peer_send(&f->p, getattr(1, 5));
        if (!strcmp(f->p.m.version.s, "unknown"))
            peer_expect_error(&f->p, 1, EPROTO);
        else
            assert_int_equal(peer_expect(&f->p, P9_Rgetattr, 1)->attr.size, 5);
    }
    /* "9P2000.L" twice, between them ".other", and the next Tversion each end a session */
    assert_int_equal(f->s.resets, 2);
    stop_closing(f, 0);
}

/* A suffix that is not known is left off, and so are years that are to come. */
static void test_old_versions(void **state)
{
    static const char *const v[][2] = {
        {"9P2000", "9P2000"},   {"9P2000.u", "9P2000.u"},   {"9P2000.u.x", "9P2000.u"},
        {"9P2000.x", "9P2000"}, {"9P2000.Large", "9P2000"}, {"9P2000.ux", "9P2000"},
        {"9P2001", "9P2000"},   {"9P2010.plus", "9P2000"},  {"9P2000.", "9P2000"},
    };
    struct fix *f = start();
    for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
        peer_send(&f->p, (struct p9_msg){.type = P9_Tversion,
                                         .tag = P9_NOTAG,
                                         .msize = 8192,
                                         .version = p9_str(v[i][0])});
        peer_expect(&f->p, P9_Rversion, P9_NOTAG);
        assert_string_equal(f->p.m.version.s, v[i][1]);
        /* in these 9P2000.L's requests are none, and errors are sentences */
        static const uint8_t getattr[] = {19, 0, 0, 0, 24, 1, 0, 5, 0, 0,
                                          0,  1, 0, 0, 0,  0, 0, 0, 0};
        bool u = !strcmp(v[i][1], "9P2000.u");
        uint8_t answer[64];
        const char *text = p9_error_text(EOPNOTSUPP);
        size_t n = P9_HDRSZ + 2 + strlen(text) + (u ? 4 : 0);
        peer_raw(&f->p, getattr, sizeof(getattr));
        assert_int_equal(peer_get(&f->p, answer, n), n);
        assert_int_equal(answer[0], n);
        assert_int_equal(answer[4], P9_Rerror);
        assert_memory_equal(answer + 9, text, strlen(text));
        if (u)
            assert_int_equal(answer[n - 4], EOPNOTSUPP);
    }
    stop_closing(f, 0);
}

static void test_refused(void **state)
{
    struct fix *f = start();
    static const uint8_t unknown[] = {7, 0, 0, 0, 126, 9, 0};
    static const uint8_t torn[] = {9, 0, 0, 0, P9_Tgetattr, 9, 0, 1, 2};
    peer_send(&f->p, getattr(3, 1));
    peer_expect_error(&f->p, 3, EPROTO); /* before Tversion */
    peer_hello(&f->p, P9_VERSION_L);
    peer_raw(&f->p, unknown, sizeof(unknown));
    peer_expect_error(&f->p, 9, EOPNOTSUPP);
    peer_raw(&f->p, torn, sizeof(torn));
    peer_expect_error(&f->p, 9, EPROTO);
    peer_send(&f->p, (struct p9_msg){.type = P9_Tsyncfs, .tag = 4}); /* ours, not agreed */
    peer_expect_error(&f->p, 4, EOPNOTSUPP);
    peer_send(&f->p, (struct p9_msg){.type = P9_Tend, .tag = 4});
    peer_expect_error(&f->p, 4, EOPNOTSUPP);
    peer_send(&f->p, getattr(4, 7)); /* it goes on */
    peer_expect(&f->p, P9_Rgetattr, 4);
    stop_closing(f, 0);
}

/* A message comes byte by byte; several come at once. */
static void test_framing(void **state)
{
    struct fix *f = start();
    uint8_t buf[4096];
    size_t n = 0;
    struct p9_msg m;
    peer_hello(&f->p, P9_VERSION_L);
    m = getattr(1, 77);
    int len = p9_encode(&m, buf, sizeof(buf));
    for (int i = 0; i < len; i++)
        peer_raw(&f->p, buf + i, 1);
    assert_int_equal(peer_expect(&f->p, P9_Rgetattr, 1)->attr.size, 77);
    for (uint16_t i = 0; i < 20; i++) {
        m = getattr(i, i);
        n += (size_t)p9_encode(&m, buf + n, sizeof(buf) - n);
    }
    peer_raw(&f->p, buf, n);
    bool seen[20] = {false};
    for (int i = 0; i < 20; i++) {
        peer_recv(&f->p);
        assert_int_equal(f->p.m.type, P9_Rgetattr);
        assert_in_range(f->p.m.tag, 0, 19);
        assert_false(seen[f->p.m.tag]);
        seen[f->p.m.tag] = true;
        assert_int_equal(f->p.m.attr.size, f->p.m.tag);
    }
    stop_closing(f, 0);
}

/* Payloads of all sizes around the reader's buffer, in several pieces, with a message behind. */
static void test_payloads(void **state)
{
    static const uint32_t sizes[] = {0,    1,    480,  490,  500,   8150,
                                     8168, 8169, 8170, 8192, 60000, 65000};
    static uint8_t data[65536], buf[70000];
    struct fix *f = start();
    peer_hello(&f->p, P9_VERSION_L);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        for (uint32_t k = 0; k < sizes[i]; k++)
            data[k] = pattern(1000 + k);
        struct p9_msg w = {.type = P9_Twrite,
                           .tag = 1,
                           .offset = 1000,
                           .count = sizes[i],
                           .data = data},
                      g = getattr(2, 5);
        size_t n = (size_t)p9_encode(&w, buf, sizeof(buf));
        n += (size_t)p9_encode(&g, buf + n, sizeof(buf) - n);
        size_t cut = n / 3;
        peer_raw(&f->p, buf, cut);
        peer_raw(&f->p, buf + cut, n - cut);
        bool wrote = false, got = false;
        for (int k = 0; k < 2; k++) {
            peer_recv(&f->p);
            if (f->p.m.type == P9_Rwrite)
                wrote = f->p.m.tag == 1 && f->p.m.count == sizes[i];
            else
                got = f->p.m.type == P9_Rgetattr && f->p.m.tag == 2;
        }
        assert_true(wrote && got);
        peer_send(&f->p,
                  (struct p9_msg){.type = P9_Tread, .tag = 3, .offset = 9, .count = sizes[i]});
        peer_expect(&f->p, P9_Rread, 3);
        assert_int_equal(f->p.m.count, sizes[i]);
        for (uint32_t k = 0; k < sizes[i]; k++)
            assert_int_equal(((uint8_t *)f->p.m.data)[k], pattern(9 + k));
    }
    peer_send(&f->p, (struct p9_msg){.type = P9_Treadlink, .tag = 3});
    assert_int_equal(peer_expect(&f->p, P9_Rreadlink, 3)->target.len, 1000);
    stop_closing(f, 0);
}

static void test_flush(void **state)
{
    struct fix *f = start();
    peer_hello(&f->p, P9_VERSION_L);
    peer_send(&f->p, flush(1, 99)); /* of nothing */
    peer_expect(&f->p, P9_Rflush, 1);
    peer_send(&f->p, flush(1, 1)); /* of itself */
    peer_expect(&f->p, P9_Rflush, 1);
    peer_send(&f->p, lock(2));
    served_await(&f->s, &f->s.waiting, 1);
    peer_send(&f->p, getattr(3, 1)); /* others go on meanwhile */
    peer_expect(&f->p, P9_Rgetattr, 3);
    peer_send(&f->p, flush(4, 2));
    peer_expect_error(&f->p, 2, EINTR);
    peer_expect(&f->p, P9_Rflush, 4);
    assert_int_equal(f->s.cancelled, 1);
    peer_send(&f->p, flush(4, 2)); /* of what was answered */
    peer_expect(&f->p, P9_Rflush, 4);
    peer_send(&f->p, lock(2)); /* the tag is free again */
    served_await(&f->s, &f->s.waiting, 1);
    served_open(&f->s);
    peer_expect(&f->p, P9_Rlock, 2);
    stop_closing(f, 0);
}

/* Flushes of one request are answered in order, and after it; a flush of a flush after that. */
static void test_flushes(void **state)
{
    struct fix *f = start();
    peer_hello(&f->p, P9_VERSION_L);
    peer_send(&f->p, (struct p9_msg){.type = P9_Tfsync, .tag = 1}); /* heeds nothing at once */
    served_await(&f->s, &f->s.waiting, 1);
    peer_send(&f->p, flush(2, 1));
    peer_send(&f->p, flush(3, 1));
    peer_send(&f->p, flush(4, 2));
    peer_expect_error(&f->p, 1, EINTR);
    peer_expect(&f->p, P9_Rflush, 2);
    peer_expect(&f->p, P9_Rflush, 4);
    peer_expect(&f->p, P9_Rflush, 3);
    stop_closing(f, 0);
}

static void test_duplicate_tag(void **state)
{
    struct fix *f = start();
    peer_hello(&f->p, P9_VERSION_L);
    peer_send(&f->p, lock(2));
    peer_send(&f->p, getattr(2, 1));
    peer_expect_end(&f->p);
    assert_int_equal(p9_conn_wait(f->c, NULL), -EPROTO);
    assert_non_null(strstr(f->s.sentence, "tag 2 for two requests"));
    assert_int_equal(f->s.resets, 1);
    assert_int_equal(f->s.waiting, 0);
    stop_closing(f, -EPROTO);
}

/* A new Tversion cancels all, which is not answered, and is answered last. */
static void test_version_again(void **state)
{
    struct fix *f = start();
    peer_hello(&f->p, P9_VERSION_L);
    for (uint16_t i = 0; i < 5; i++)
        peer_send(&f->p, lock(i));
    served_await(&f->s, &f->s.waiting, 5);
    peer_send(&f->p, (struct p9_msg){.type = P9_Tfsync, .tag = 9});
    served_await(&f->s, &f->s.waiting, 6);
    peer_hello(&f->p, P9_VERSION_L);
    assert_int_equal(f->s.cancelled, 6);
    assert_int_equal(f->s.resets, 1);
    peer_send(&f->p, getattr(1, 1));
    peer_expect(&f->p, P9_Rgetattr, 1);
    stop_closing(f, 0);
}

/* Any number of ops that wait, said or not, do not keep others from being served. */
static void test_waiting(void **state)
{
    struct fix *f = start();
    peer_hello(&f->p, P9_VERSION_L);
    for (uint16_t i = 0; i < 100; i++) {
        peer_send(&f->p, i % 4 ? lock(i) : (struct p9_msg){.type = P9_Tfsync, .tag = i});
        served_await(&f->s, &f->s.waiting, i + 1);
        peer_send(&f->p, getattr(200, i));
        assert_int_equal(peer_expect(&f->p, P9_Rgetattr, 200)->attr.size, i);
    }
    served_open(&f->s);
    for (int i = 0; i < 100; i++)
        peer_recv(&f->p);
    peer_send(&f->p, getattr(200, 3));
    peer_expect(&f->p, P9_Rgetattr, 200);
    stop_closing(f, 0);
}

/* What names a fid waits for an earlier request that opens it, others do not. */
static void test_order(void **state)
{
    struct fix *f = start();
    peer_hello(&f->p, P9_VERSION_L);
    peer_send(&f->p, (struct p9_msg){.type = P9_Tlopen, .tag = 1, .fid = 5});
    peer_send(&f->p, getattr(2, 5));
    peer_send(&f->p, (struct p9_msg){.type = P9_Tclunk, .tag = 3, .fid = 5});
    peer_send(&f->p, getattr(4, 5));
    peer_send(&f->p, getattr(5, 6));
    peer_expect(&f->p, P9_Rgetattr, 5);
    served_await(&f->s, &f->s.waiting, 1);
    assert_int_equal(f->s.started, 2);
    peer_send(&f->p, flush(6, 4)); /* not started: answered at once */
    peer_expect_error(&f->p, 4, EINTR);
    peer_expect(&f->p, P9_Rflush, 6);
    served_open(&f->s);
    peer_expect(&f->p, P9_Rlopen, 1);
    peer_recv(&f->p); /* these two in any order */
    peer_recv(&f->p);
    assert_int_equal(f->s.started, 4);
    stop_closing(f, 0);
}

/* The client dies after each byte of a conversation: everything ends, nothing is left running. */
static void test_death(void **state)
{
    static uint8_t talk[1024];
    size_t n = 0, bounds[8], nbounds = 0;
    struct p9_msg m[] = {
        {.type = P9_Tversion, .tag = P9_NOTAG, .msize = 8192, .version = p9_str(P9_VERSION_L)},
        getattr(1, 2),
        lock(2),
        {.type = P9_Tfsync, .tag = 3},
        {.type = P9_Twrite, .tag = 4, .count = 5, .data = "abcde"}};
    for (size_t i = 0; i < sizeof(m) / sizeof(*m); i++) {
        n += (size_t)p9_encode(&m[i], talk + n, sizeof(talk) - n);
        bounds[nbounds++] = n;
    }
    for (size_t cut = 0; cut <= n; cut++) {
        struct fix *f = start();
        peer_raw(&f->p, talk, cut);
        if (cut >= bounds[0])
            peer_expect(&f->p, P9_Rversion, P9_NOTAG);
        if (cut >= bounds[1])
            peer_expect(&f->p, P9_Rgetattr, 1);
        if (cut >= bounds[2])
            served_await(&f->s, &f->s.waiting, 1);
        peer_close(&f->p);
        int r = p9_conn_wait(f->c, NULL);
        bool clean = cut == 0 || cut == bounds[0] || cut == bounds[1];
        if (clean)
            assert_int_equal(r, 0);
        else
            assert_true(r == -ECONNRESET || r == -EPROTO); /* EPROTO: too few bytes to be 9P */
        assert_int_equal(f->s.waiting, 0);
        assert_int_equal(f->s.resets, cut >= bounds[0]);
        stop(f);
    }
}

static void test_garbage(void **state)
{
    static const struct {
        const char *said, *sentence;
    } g[] = {{"SSH-2.0-OpenSSH_9.2\r\n", "it said \"SSH-2.0-OpenSSH_9.2\\015\\012\""},
             {"GET / HTTP/1.1\r\n\r\n", "it said \"GET / HTTP/1.1\\015"},
             {"+OK\r\n", "it said \"+OK\\015\\012\""},
             {"\033[2Jhello, world", "it said \"\\033[2Jhello, world\""}};
    for (size_t i = 0; i < sizeof(g) / sizeof(*g); i++) {
        struct fix *f = start();
        peer_raw(&f->p, g[i].said, strlen(g[i].said));
        if (i == 2) /* too short to be sure before the end */
            peer_close(&f->p);
        assert_int_equal(p9_conn_wait(f->c, NULL), -EPROTO);
        if (!strstr(f->s.sentence, g[i].sentence))
            fail_msg("%s", f->s.sentence);
        if (i != 2)
            peer_close(&f->p);
        stop(f);
    }
    static const uint8_t bad[][7] = {
        {6, 0, 0, 0, 24, 1, 0},  {0, 0, 0, 0, 24, 1, 0},        {255, 255, 255, 255, 24, 1, 0},
        {1, 0, 16, 0, 24, 1, 0}, {7, 0, 0, 0, P9_Rclunk, 1, 0}, {7, 0, 0, 0, P9_Rflush, 128, 0}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct fix *f = start();
        peer_hello(&f->p, P9_VERSION_L);
        peer_raw(&f->p, bad[i], 7);
        peer_expect_end(&f->p);
        assert_int_equal(p9_conn_wait(f->c, NULL), -EPROTO);
        stop_closing(f, -EPROTO);
    }
}

/* A client that sends and never reads is not read from for ever, and costs no more than the limits;
 * when it reads again all is answered. */
static void test_not_reading(void **state)
{
    struct fix *f = start();
    peer_hello(&f->p, P9_VERSION_L);
    fcntl(f->p.ch.out, F_SETFL, O_NONBLOCK);
    int sent = 0;
    for (int quiet = 0; quiet < 20 && sent < 60000;) {
        uint8_t buf[64];
        struct p9_msg m = {.type = P9_Tread, .tag = (uint16_t)sent, .count = 30000};
        int n = p9_encode(&m, buf, sizeof(buf));
        int r = (int)write(f->p.ch.out, buf, (size_t)n);
        assert_true(r == n || (r < 0 && errno == EAGAIN) || kind == TIGHT_SOCKETS);
        if (r == n)
            sent++;
        quiet = r == n ? 0 : quiet + 1;
        if (r != n)
            usleep(5000);
    }
    assert_true(sent >= LIMIT_REQUESTS_SERVED / 2 && sent < 60000);
    for (int i = 0; i < sent; i++)
        assert_int_equal(peer_recv(&f->p)->type, P9_Rread);
    stop_closing(f, 0);
}

static void test_abort(void **state)
{
    struct fix *f = start();
    peer_hello(&f->p, P9_VERSION_L);
    peer_send(&f->p, lock(1));
    served_await(&f->s, &f->s.waiting, 1);
    p9_conn_abort(f->c);
    assert_int_equal(p9_conn_wait(f->c, NULL), -ECONNABORTED);
    assert_int_equal(f->s.cancelled, 1);
    stop(f);
    f = start();
    stop(f); /* freed without a word */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_versions),      cmocka_unit_test(test_old_versions),
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_framing),
        cmocka_unit_test(test_payloads),      cmocka_unit_test(test_flush),
        cmocka_unit_test(test_flushes),       cmocka_unit_test(test_duplicate_tag),
        cmocka_unit_test(test_version_again), cmocka_unit_test(test_waiting),
        cmocka_unit_test(test_order),         cmocka_unit_test(test_death),
        cmocka_unit_test(test_garbage),       cmocka_unit_test(test_not_reading),
        cmocka_unit_test(test_abort),
    };
    int failed = 0;
    failed += cmocka_run_group_tests_name("sockets", tests, NULL, NULL);
    kind = PIPES;
    failed += cmocka_run_group_tests_name("pipes", tests, NULL, NULL);
    kind = IO_SOCKETS;
    failed += cmocka_run_group_tests_name("an io over sockets", tests, NULL, NULL);
    return failed;
}
