/* SPDX-License-Identifier: MIT */
/* The using half against servers that speak by script. */
#include "p9_peer.h"
#include <signal.h>

struct fix {
    struct p9_crew *crew;
    struct served s;
    struct p9_conn *c;
    struct peer p;
    struct pl_err err;
    pthread_t thread;
    struct pl_call call;
    /* what the thread is to do, and did */
    struct p9_msg t;
    void *into;
    size_t into_size;
    struct p9_answer a;
    int result;
};

static enum kind kind;

static struct fix *start(void)
{
    struct fix *f = calloc(1, sizeof(*f));
    struct chan ours;
    served_init(&f->s);
    pl_call_init(&f->call, 0, 0);
    f->crew = p9_crew_new(0);
    make_pair(kind, &ours, &f->p.ch);
    f->c = conn_over(f->crew, &ours, &f->s, false, true);
    return f;
}

static void stop(struct fix *f)
{
    p9_conn_free(f->c);
    assert_int_equal(f->s.overs, 1);
    p9_crew_free(f->crew);
    peer_close(&f->p);
    pl_call_done(&f->call);
    free(f);
}

static void *use_thread(void *arg)
{
    struct fix *f = arg;
    f->result = p9_use(f->c, &f->call, &f->err);
    return NULL;
}

static void begin_use(struct fix *f)
{
    pthread_create(&f->thread, NULL, use_thread, f);
}

static int joined(struct fix *f)
{
    pthread_join(f->thread, NULL);
    return f->result;
}

static struct fix *start_using(const char *version)
{
    struct fix *f = start();
    begin_use(f);
    peer_agree(&f->p, version);
    assert_int_equal(joined(f), 0);
    assert_int_equal(p9_msize(f->c), 65536);
    assert_int_equal(p9_extended(f->c), !strcmp(version, P9_VERSION_OWN));
    return f;
}

static void *rpc_thread(void *arg)
{
    struct fix *f = arg;
    f->result = p9_rpc(f->c, &f->call, &f->t, &f->a, f->into, f->into_size);
    return NULL;
}

static void begin_rpc(struct fix *f, struct p9_msg t)
{
    f->t = t;
    pthread_create(&f->thread, NULL, rpc_thread, f);
}

static struct p9_msg getattr(uint32_t fid)
{
    return (struct p9_msg){.type = P9_Tgetattr, .fid = fid};
}

static struct p9_msg rgetattr(uint16_t tag, uint64_t size)
{
    return (struct p9_msg){.type = P9_Rgetattr, .tag = tag, .attr.size = size};
}

static void test_hello(void **state)
{
    struct fix *f = start_using(P9_VERSION_OWN);
    assert_int_equal(p9_use(f->c, NULL, &f->err), 0); /* again: it stands */
    stop(f);
    f = start_using(P9_VERSION_L); /* after ours was refused */
    struct p9_answer a;
    struct p9_msg t = {.type = P9_Tsyncfs};
    assert_int_equal(p9_rpc(f->c, NULL, &t, &a, NULL, 0), -EOPNOTSUPP);
    stop(f);
}

static void test_hello_refused(void **state)
{
    static const uint8_t rerror[] = {13, 0, 0, 0, 107, 255, 255, 4, 0, 'o', 'o', 'p', 's'};
    struct fix *f = start();
    begin_use(f);
    static const char *const offers[] = {P9_VERSION_OWN, P9_VERSION_L, P9_VERSION_U, P9_VERSION};
    for (int i = 0; i < 4; i++) {
        peer_expect(&f->p, P9_Tversion, P9_NOTAG);
        assert_string_equal(f->p.m.version.s, offers[i]);
        if (i % 2)
            peer_raw(&f->p, rerror, sizeof(rerror)); /* as old dialects do */
        else
            peer_send(&f->p, (struct p9_msg){.type = P9_Rversion,
                                             .tag = P9_NOTAG,
                                             .msize = 8192,
                                             .version = p9_str("9P1999")});
    }
    assert_int_equal(joined(f), -EPROTONOSUPPORT);
    assert_non_null(strstr(f->err.text, "test-a: the other end speaks 9P, but none that we know"));
    stop(f);
    uint32_t sizes[] = {100, 1 << 21};
    for (int i = 0; i < 2; i++) {
        f = start();
        begin_use(f);
        peer_expect(&f->p, P9_Tversion, P9_NOTAG);
        peer_send(&f->p, (struct p9_msg){.type = P9_Rversion,
                                         .tag = P9_NOTAG,
                                         .msize = sizes[i],
                                         .version = p9_str(P9_VERSION_L)});
        assert_int_equal(joined(f), -EMSGSIZE);
        stop(f);
    }
}

static void test_hello_garbage(void **state)
{
    static const struct {
        const char *said, *sentence;
    } g[] = {{"SSH-2.0-OpenSSH_9.2\r\n", "it said \"SSH-2.0-OpenSSH_9.2\\015\\012\""},
             {"HTTP/1.1 400 Bad Request\r\n", "it said \"HTTP/1.1 400 Bad Request"},
             {"+OK\r\n", "it said \"+OK\\015\\012\""},
             {"", "without a word of 9P"}};
    for (size_t i = 0; i < sizeof(g) / sizeof(*g); i++) {
        struct fix *f = start();
        begin_use(f);
        peer_expect(&f->p, P9_Tversion, P9_NOTAG);
        peer_raw(&f->p, g[i].said, strlen(g[i].said));
        if (strlen(g[i].said) < P9_HDRSZ)
            shutdown(f->p.ch.out, SHUT_RDWR);
        if (strlen(g[i].said) < P9_HDRSZ && kind == PIPES) {
            close(f->p.ch.out);
            f->p.ch.out = dup(f->p.ch.in);
        }
        assert_true(joined(f) < 0);
        if (!strstr(f->err.text, g[i].sentence))
            fail_msg("%s", f->err.text);
        stop(f);
    }
}

static void test_hello_cancelled(void **state)
{
    struct fix *f = start();
    begin_use(f);
    peer_expect(&f->p, P9_Tversion, P9_NOTAG);
    pl_call_cancel(&f->call);
    assert_int_equal(joined(f), -EINTR);
    stop(f);
}

static void test_rpc(void **state)
{
    struct fix *f = start_using(P9_VERSION_L);
    begin_rpc(f, getattr(7));
    peer_expect(&f->p, P9_Tgetattr, 0);
    assert_int_equal(f->p.m.fid, 7);
    peer_send(&f->p, rgetattr(0, 99));
    assert_int_equal(joined(f), 0);
    assert_int_equal(f->a.r.attr.size, 99);
    p9_answer_free(&f->a);
    static const struct {
        uint32_t ecode;
        int result;
    } e[] = {{2, -ENOENT}, {0, -EIO}, {4095, -4095}, {4096, -EIO}, {UINT32_MAX, -EIO}};
    for (size_t i = 0; i < sizeof(e) / sizeof(*e); i++) {
        begin_rpc(f, getattr(7));
        peer_expect(&f->p, P9_Tgetattr, 0);
        peer_send(&f->p, (struct p9_msg){.type = P9_Rlerror, .ecode = e[i].ecode});
        assert_int_equal(joined(f), e[i].result);
        p9_answer_free(&f->a);
    }
    /* As NFS-Ganesha says it: 11 bytes by the type of Rerror. */
    const uint8_t enoent[] = {11, 0, 0, 0, P9_Rerror, 0, 0, ENOENT, 0, 0, 0};
    begin_rpc(f, getattr(7));
    peer_expect(&f->p, P9_Tgetattr, 0);
    peer_raw(&f->p, enoent, sizeof(enoent));
    assert_int_equal(joined(f), -ENOENT);
    p9_answer_free(&f->a);
    stop(f);
}

/* Payloads in pieces, into the caller's memory and not; strings. */
static void test_payloads(void **state)
{
    static const uint32_t sizes[] = {0, 1, 300, 8181, 8192, 8193, 65000};
    static uint8_t data[70000], into[70000], wire[70000];
    struct fix *f = start_using(P9_VERSION_L);
    for (uint32_t i = 0; i < sizeof(data); i++)
        data[i] = pattern(i);
    for (size_t i = 0; i < 2 * sizeof(sizes) / sizeof(*sizes); i++) {
        uint32_t n = sizes[i / 2];
        f->into = i % 2 ? into : NULL;
        f->into_size = n;
        memset(into, 0xee, sizeof(into));
        begin_rpc(f, (struct p9_msg){.type = P9_Tread, .count = n});
        peer_expect(&f->p, P9_Tread, 0);
        struct p9_msg m = {.type = P9_Rread, .count = n, .data = data};
        int len = p9_encode(&m, wire, sizeof(wire)), cut = len / 2;
        peer_raw(&f->p, wire, 9); /* amid count */
        peer_raw(&f->p, wire + 9, (size_t)(cut > 9 ? cut - 9 : 0));
        cut = cut > 9 ? cut : 9;
        peer_raw(&f->p, wire + cut, (size_t)(len - cut));
        assert_int_equal(joined(f), 0);
        assert_int_equal(f->a.r.count, n);
        assert_memory_equal(f->a.r.data, data, n);
        if (i % 2)
            assert_ptr_equal(f->a.r.data, into);
        assert_int_equal(into[n], 0xee);
        p9_answer_free(&f->a);
    }
    f->into = NULL;
    begin_rpc(f, (struct p9_msg){.type = P9_Treadlink});
    peer_expect(&f->p, P9_Treadlink, 0);
    peer_send(&f->p, (struct p9_msg){.type = P9_Rreadlink, .target = p9_str("over/there")});
    assert_int_equal(joined(f), 0);
    assert_string_equal(f->a.r.target.s, "over/there");
    p9_answer_free(&f->a);
    stop(f);
}

/* What no server may answer ends the connection, with a sentence. */
static void test_nonsense(void **state)
{
    static uint8_t data[1000], into[1000];
    struct p9_msg m[] = {
        {.type = P9_Rwalk},                              /* another type */
        {.type = P9_Rgetattr, .tag = 5},                 /* a tag not asked */
        {.type = P9_Rflush, .tag = LIMIT_REQUESTS_USED}, /* nothing was flushed */
        {.type = P9_Rread, .count = 501, .data = data},  /* more than asked */
    };
    const char *sentence[] = {"was not asked (Rwalk, tag 0)", "was not asked (Rgetattr, tag 5)",
                              "was not asked (Rflush, tag 128)", "more than was asked for"};
    for (size_t i = 0; i < sizeof(m) / sizeof(*m); i++) {
        struct fix *f = start_using(P9_VERSION_L);
        f->into = into;
        f->into_size = sizeof(into);
        begin_rpc(f, (struct p9_msg){.type = P9_Tread, .count = 500});
        peer_expect(&f->p, P9_Tread, 0);
        peer_send(&f->p, m[i]);
        assert_int_equal(joined(f), -ECONNABORTED);
        assert_int_equal(p9_conn_wait(f->c, NULL), -EPROTO);
        if (!strstr(f->s.sentence, sentence[i]))
            fail_msg("%s", f->s.sentence);
        stop(f);
    }
    /* whole, of the right type, but torn inside; and longer than msize */
    static const uint8_t torn[] = {9, 0, 0, 0, P9_Rgetattr, 0, 0, 1, 2};
    static const uint8_t longer[] = {1, 0, 1, 0, P9_Rgetattr, 0, 0, 1, 2};
    for (int i = 0; i < 2; i++) {
        struct fix *f = start_using(P9_VERSION_L);
        begin_rpc(f, getattr(1));
        peer_expect(&f->p, P9_Tgetattr, 0);
        peer_raw(&f->p, i ? longer : torn, 9);
        assert_int_equal(joined(f), i ? -ECONNABORTED : -EPROTO);
        assert_int_equal(p9_conn_wait(f->c, NULL), -EPROTO);
        stop(f);
    }
}

static void test_cancel(void **state)
{
    struct fix *f = start_using(P9_VERSION_L);
    begin_rpc(f, getattr(1));
    peer_expect(&f->p, P9_Tgetattr, 0);
    pl_call_cancel(&f->call);
    peer_expect(&f->p, P9_Tflush, LIMIT_REQUESTS_USED);
    assert_int_equal(f->p.m.oldtag, 0);
    peer_send(&f->p, (struct p9_msg){.type = P9_Rflush, .tag = LIMIT_REQUESTS_USED});
    assert_int_equal(joined(f), -EINTR);
    /* An answer overtakes: it counts, and the tag stays taken until Rflush. */
    pl_call_done(&f->call);
    pl_call_init(&f->call, 0, 0);
    begin_rpc(f, getattr(1));
    peer_expect(&f->p, P9_Tgetattr, 0);
    pl_call_cancel(&f->call);
    peer_expect(&f->p, P9_Tflush, LIMIT_REQUESTS_USED);
    peer_send(&f->p, rgetattr(0, 5));
    assert_int_equal(joined(f), 0);
    assert_int_equal(f->a.r.attr.size, 5);
    pl_call_done(&f->call);
    pl_call_init(&f->call, 0, 0);
    begin_rpc(f, getattr(1));
    peer_expect(&f->p, P9_Tgetattr, 1);
    peer_send(&f->p, (struct p9_msg){.type = P9_Rflush, .tag = LIMIT_REQUESTS_USED});
    peer_send(&f->p, rgetattr(1, 6));
    assert_int_equal(joined(f), 0);
    /* Cancelled before it began: asked all the same, and flushed at once. */
    pl_call_cancel(&f->call);
    begin_rpc(f, getattr(1));
    uint16_t tag = peer_recv(&f->p)->tag;
    assert_int_equal(f->p.m.type, P9_Tgetattr);
    peer_expect(&f->p, P9_Tflush, (uint16_t)(tag + LIMIT_REQUESTS_USED));
    peer_send(&f->p,
              (struct p9_msg){.type = P9_Rflush, .tag = (uint16_t)(tag + LIMIT_REQUESTS_USED)});
    assert_int_equal(joined(f), -EINTR);
    stop(f);
}

static void test_deadline(void **state)
{
    struct fix *f = start_using(P9_VERSION_L);
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    f->call.deadline = t.tv_sec * 1000000000LL + t.tv_nsec + 30000000;
    begin_rpc(f, getattr(1));
    peer_expect(&f->p, P9_Tgetattr, 0);
    peer_expect(&f->p, P9_Tflush, LIMIT_REQUESTS_USED);
    peer_send(&f->p, (struct p9_msg){.type = P9_Rflush, .tag = LIMIT_REQUESTS_USED});
    assert_int_equal(joined(f), -ETIMEDOUT);
    stop(f);
}

/* The server is gone amid everything: callers hear of it. */
static void test_lost(void **state)
{
    enum { N = 20 };
    struct fix *f = start_using(P9_VERSION_L);
    struct p9_pending *p[N];
    struct p9_answer a;
    static uint8_t into[60000];
    for (int i = 0; i < N; i++) {
        struct p9_msg t = {.type = P9_Tread, .count = 60000};
        assert_int_equal(p9_rpc_start(f->c, NULL, &t, into, sizeof(into), &p[i]), 0);
        peer_recv(&f->p);
    }
    static const uint8_t part[] = {11 + 100, 0, 0, 0, P9_Rread, 3, 0, 100, 0, 0, 0, 'p', 'a', 'r'};
    peer_raw(&f->p, part, sizeof(part));
    begin_rpc(f, getattr(1));
    peer_recv(&f->p);
    peer_close(&f->p);
    f->p.ch.in = f->p.ch.out = -1;
    assert_int_equal(joined(f), -ECONNABORTED);
    for (int i = 0; i < N; i++)
        assert_int_equal(p9_rpc_finish(f->c, NULL, p[i], &a), -ECONNABORTED);
    assert_int_equal(p9_conn_wait(f->c, NULL), -ECONNRESET);
    struct p9_msg t = getattr(1);
    assert_int_equal(p9_rpc(f->c, NULL, &t, &a, NULL, 0), -ECONNABORTED);
    stop(f);
}

/* Nobody uses the connection; its loss is noticed all the same, data in the way or not. */
static void test_watch(void **state)
{
    for (int data = 0; data < 2; data++) {
        struct fix *f = start_using(P9_VERSION_L);
        if (data) {
            p9_clunk_later(f->c, p9_fid_get(f->c));
            peer_expect(&f->p, P9_Tclunk, 0);
            peer_send(&f->p, (struct p9_msg){.type = P9_Rclunk});
        }
        peer_close(&f->p);
        f->p.ch.in = f->p.ch.out = -1;
        assert_int_equal(p9_conn_wait(f->c, NULL), -ECONNRESET);
        assert_non_null(strstr(f->s.sentence, "link was lost"));
        stop(f);
    }
}

/* More requests than tags: they wait for room, in order; a cancelled one goes without a word. */
static void test_room(void **state)
{
    struct fix *f = start_using(P9_VERSION_L);
    struct p9_pending *p[LIMIT_REQUESTS_USED];
    struct p9_answer a;
    for (uint32_t i = 0; i < LIMIT_REQUESTS_USED; i++) {
        struct p9_msg t = getattr(i);
        assert_int_equal(p9_rpc_start(f->c, NULL, &t, NULL, 0, &p[i]), 0);
    }
    begin_rpc(f, getattr(1000));
    for (uint32_t i = 0; i < LIMIT_REQUESTS_USED; i++)
        assert_int_equal(peer_recv(&f->p)->fid, i);
    pl_call_cancel(&f->call);
    assert_int_equal(joined(f), -EINTR);
    pl_call_done(&f->call);
    pl_call_init(&f->call, 0, 0);
    begin_rpc(f, getattr(1001));
    peer_send(&f->p, rgetattr(9, 9));
    peer_expect(&f->p, P9_Tgetattr, 9); /* in the room that this made */
    assert_int_equal(f->p.m.fid, 1001);
    for (uint16_t i = LIMIT_REQUESTS_USED; i-- > 0;)
        peer_send(&f->p, rgetattr(i, i));
    assert_int_equal(joined(f), 0);
    for (uint32_t i = 0; i < LIMIT_REQUESTS_USED; i++) {
        assert_int_equal(p9_rpc_finish(f->c, NULL, p[i], &a), 0);
        assert_int_equal(a.r.attr.size, i);
    }
    stop(f);
}

/* Bytes are room too: what is asked for counts. */
static void test_room_bytes(void **state)
{
    enum { COUNT = 300000, FIT = LIMIT_BYTES_USED / (COUNT + 23) };
    struct fix *f = start_using(P9_VERSION_L);
    static uint8_t into[COUNT];
    struct p9_pending *p[LIMIT_REQUESTS_USED];
    struct p9_answer a;
    uint32_t n = FIT;
    assert_in_range(n, 1, LIMIT_REQUESTS_USED - 1);
    for (uint32_t i = 0; i < n; i++) {
        struct p9_msg t = {.type = P9_Tread, .count = COUNT};
        assert_int_equal(p9_rpc_start(f->c, NULL, &t, into, COUNT, &p[i]), 0);
        peer_recv(&f->p);
    }
    begin_rpc(f, (struct p9_msg){.type = P9_Tread, .count = COUNT});
    struct pollfd poll_in = {.fd = f->p.ch.in, .events = POLLIN};
    assert_int_equal(poll(&poll_in, 1, 20), 0); /* it waits */
    for (uint32_t i = 0; i < n; i++)
        peer_send(&f->p,
                  (struct p9_msg){.type = P9_Rread, .tag = (uint16_t)i, .count = 1, .data = "x"});
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(p9_rpc_finish(f->c, NULL, p[i], &a), 0);
    uint16_t tag = peer_recv(&f->p)->tag;
    assert_int_equal(f->p.m.type, P9_Tread);
    peer_send(&f->p, (struct p9_msg){.type = P9_Rread, .tag = tag, .count = 1, .data = "x"});
    assert_int_equal(joined(f), 0);
    p9_answer_free(&f->a);
    stop(f);
}

static void test_fids(void **state)
{
    struct fix *f = start_using(P9_VERSION_L);
    uint32_t a = p9_fid_get(f->c), b = p9_fid_get(f->c);
    assert_int_not_equal(a, b);
    p9_clunk_later(f->c, a);
    peer_expect(&f->p, P9_Tclunk, 0);
    assert_int_equal(f->p.m.fid, a);
    assert_int_not_equal(p9_fid_get(f->c), a); /* not before the answer */
    peer_send(&f->p, (struct p9_msg){.type = P9_Rlerror, .ecode = EIO});
    begin_rpc(f, getattr(b)); /* reads that too */
    peer_expect(&f->p, P9_Tgetattr, 1);
    peer_send(&f->p, rgetattr(1, 1));
    assert_int_equal(joined(f), 0);
    assert_int_equal(p9_fid_get(f->c), a);
    p9_fid_put(f->c, b);
    assert_int_equal(p9_fid_get(f->c), b);
    while (p9_fid_get(f->c) != P9_NOFID)
        ;
    p9_fid_put(f->c, 77);
    assert_int_equal(p9_fid_get(f->c), 77);
    assert_int_equal(p9_fid_get(f->c), P9_NOFID);
    stop(f);
}

/* Numbers go on at another connection: but not at one that has given out its own. */
static void test_fids_shared(void **state)
{
    struct fix *f = start_using(P9_VERSION_L);
    struct p9_fids *fids = p9_fids_new();
    uint32_t a = p9_fids_get(fids), b = p9_fids_get(fids);
    assert_true(p9_fids_untouched(p9_conn_fids(f->c)));
    assert_int_equal(p9_conn_share_fids(f->c, fids), 0);
    assert_int_equal(p9_conn_share_fids(f->c, fids), 0);
    uint32_t c = p9_fid_get(f->c);
    assert_true(c != a && c != b);
    p9_fids_put(fids, a);
    assert_int_equal(p9_fid_get(f->c), a);
    struct p9_fids *other = p9_fids_new();
    assert_int_equal(p9_conn_share_fids(f->c, other), -EBUSY);
    p9_fids_unref(other);
    p9_fids_unref(fids);
    stop(f);
}

/* A plain server: when all is answered we close, and that is a good end. */
static void *end_thread(void *arg)
{
    struct fix *f = arg;
    f->result = p9_use_end(f->c, &f->call);
    return NULL;
}

static void test_end_plain(void **state)
{
    struct fix *f = start_using(P9_VERSION_L);
    p9_clunk_later(f->c, p9_fid_get(f->c));
    peer_expect(&f->p, P9_Tclunk, 0);
    pthread_create(&f->thread, NULL, end_thread, f);
    peer_send(&f->p, (struct p9_msg){.type = P9_Rclunk});
    assert_int_equal(joined(f), 0);
    peer_expect_end(&f->p);
    assert_int_equal(p9_conn_wait(f->c, NULL), 0);
    assert_int_equal(p9_use_end(f->c, NULL), 0); /* again */
    stop(f);
}

/* One of us, which serves only: Tend, Rend; and it says by itself that it uses nothing. */
static void test_end_own(void **state)
{
    struct fix *f = start_using(P9_VERSION_OWN);
    peer_send(&f->p, (struct p9_msg){.type = P9_Tversion,
                                     .tag = P9_NOTAG,
                                     .msize = 8192,
                                     .version = p9_str(P9_VERSION_OWN)});
    pthread_create(&f->thread, NULL, end_thread, f);
    bool rversion = false, tend = false;
    while (!rversion || !tend) {
        peer_recv(&f->p);
        rversion |= f->p.m.type == P9_Rversion;
        if (f->p.m.type == P9_Tend) {
            tend = true;
            peer_send(&f->p, (struct p9_msg){.type = P9_Rend, .tag = f->p.m.tag});
        }
    }
    assert_int_equal(joined(f), 0);
    peer_send(&f->p, (struct p9_msg){.type = P9_Tclunk, .tag = 1}); /* it serves nothing */
    peer_expect_error(&f->p, 1, EOPNOTSUPP);
    peer_send(&f->p, (struct p9_msg){.type = P9_Tend, .tag = 2});
    peer_expect(&f->p, P9_Rend, 2);
    peer_expect_end(&f->p);
    assert_int_equal(p9_conn_wait(f->c, NULL), 0);
    stop(f);
}

/* Without its goodbye the closing of one of us is a loss, at every stage. */
static void test_end_cut(void **state)
{
    for (int stage = 0; stage < 3; stage++) {
        struct fix *f = start_using(P9_VERSION_OWN);
        pthread_create(&f->thread, NULL, end_thread, f);
        peer_expect(&f->p, P9_Tend, 256);
        if (stage > 0)
            peer_send(&f->p, (struct p9_msg){.type = P9_Rend, .tag = 256});
        if (stage > 1) {
            assert_int_equal(joined(f), 0);
            peer_send(&f->p, (struct p9_msg){.type = P9_Tversion,
                                             .tag = P9_NOTAG,
                                             .msize = 8192,
                                             .version = p9_str(P9_VERSION_OWN)});
            peer_expect(&f->p, P9_Rversion, P9_NOTAG);
        }
        peer_close(&f->p);
        f->p.ch.in = f->p.ch.out = -1;
        if (stage < 2)
            assert_int_equal(joined(f), stage ? 0 : -ECONNRESET);
        assert_int_equal(p9_conn_wait(f->c, NULL), -ECONNRESET);
        stop(f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello),         cmocka_unit_test(test_hello_refused),
        cmocka_unit_test(test_hello_garbage), cmocka_unit_test(test_hello_cancelled),
        cmocka_unit_test(test_rpc),           cmocka_unit_test(test_payloads),
        cmocka_unit_test(test_nonsense),      cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_deadline),      cmocka_unit_test(test_lost),
        cmocka_unit_test(test_watch),         cmocka_unit_test(test_room),
        cmocka_unit_test(test_room_bytes),    cmocka_unit_test(test_fids),
        cmocka_unit_test(test_fids_shared),   cmocka_unit_test(test_end_plain),
        cmocka_unit_test(test_end_own),       cmocka_unit_test(test_end_cut),
    };
    int failed = 0;
    signal(SIGPIPE, SIG_DFL); /* the engine keeps it off by itself */
    for (kind = SOCKETS; kind <= PIPES; kind++)
        failed +=
            cmocka_run_group_tests_name(kind == SOCKETS ? "sockets" : "pipes", tests, NULL, NULL);
    return failed;
}
