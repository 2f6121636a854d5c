/* SPDX-License-Identifier: MIT */
/* Links with a scripted other end: plain peers, liars, strangers, silence. */
#include "p9_link_script.h"

/* ---- without a link ---- */

static void test_plain_server(void **state)
{
    static const char *const versions[] = {"unknown", "9P2000.L", "plenum.link", "plenum.linkage 0",
                                           NULL};
    for (int i = 0; i < 5; i++) {
        struct one *o = one_new();
        struct use u;
        one_start(o, true, false, true);
        use_start(&u, o);
        peer_expect(&o->p, P9_Tversion, P9_NOTAG);
        if (versions[i])
            say_version(&o->p, P9_Rversion, versions[i]);
        else
            peer_send(&o->p, (struct p9_msg){.type = P9_Rlerror, .tag = P9_NOTAG, .ecode = EPROTO});
        peer_agree(&o->p, P9_VERSION_L);
        assert_int_equal(use_end(&u), 0);
        assert_string_equal(p9_conn_link(o->c), "");
        peer_close(&o->p);
        expect_lost(o, -ECONNRESET, "closed it");
        assert_int_equal(o->dials, 0);
        one_free(o);
    }
}

/* A plain client's first message is not a byte late or different for it, however it comes. */
static void test_plain_client(void **state)
{
    static const char *const versions[] = {P9_VERSION_L, P9_VERSION_OWN};
    for (int i = 0; i < 4; i++) {
        struct one *o = one_new();
        one_start(o, false, true, false);
        if (i & 1) { /* byte by byte */
            uint8_t buf[100];
            struct p9_msg t = {.type = P9_Tversion,
                               .tag = P9_NOTAG,
                               .msize = 65536,
                               .version = p9_str(versions[i / 2])};
            int n = p9_encode(&t, buf, sizeof(buf));
            for (int k = 0; k < n; k++)
                peer_raw(&o->p, buf + k, 1);
            peer_expect(&o->p, P9_Rversion, P9_NOTAG);
            assert_string_equal(o->p.m.version.s, versions[i / 2]);
        } else {
            peer_hello(&o->p, versions[i / 2]);
        }
        if (i / 2 == 0) {
            peer_send(&o->p, (struct p9_msg){.type = P9_Tgetattr, .tag = 1, .fid = 3});
            peer_expect(&o->p, P9_Rgetattr, 1);
        }
        peer_close(&o->p);
        p9_conn_wait(o->c, NULL);
        one_free(o);
    }
}

/* What looks like a question but is none, or cannot be granted, is a version like any other. */
static void test_refused(void **state)
{
    static const char *const versions[] = {"plenum.link",
                                           "plenum.link new",
                                           "plenum.link new ",
                                           "plenum.link new 1 ",
                                           "plenum.link new x",
                                           "plenum.link new 99999999999999999999",
                                           "plenum.link new 0",
                                           "plenum.link 0123 4",
                                           "plenum.link 0123456789abcdef0123456789abcdeF 4",
                                           "plenum.link 0123456789abcdef0123456789abcdef",
                                           "plenum.link gone"};
    for (size_t i = 0; i < sizeof(versions) / sizeof(*versions); i++) {
        struct one *o = one_new();
        one_start(o, false, true, false);
        say_version(&o->p, P9_Tversion, versions[i]);
        peer_expect(&o->p, P9_Rversion, P9_NOTAG);
        assert_string_equal(o->p.m.version.s, "unknown");
        peer_hello(&o->p, P9_VERSION_L);
        peer_close(&o->p);
        assert_int_equal(p9_conn_wait(o->c, NULL), 0);
        one_free(o);
    }
}

static void test_garbage(void **state)
{
    struct one *o = one_new();
    one_start(o, false, true, false);
    peer_raw(&o->p, "GET / HTTP/1.0\r\n\r\n", 18);
    expect_lost(o, -EPROTO, "GET / HTTP");
    peer_close(&o->p);
    one_free(o);
}

/* ---- liars ---- */

/* A head that makes no sense ends the connection, at once and for good. */
static void test_bad_frames(void **state)
{
    struct {
        int kind;
        uint32_t size;
        uint64_t acked;
    } bad[] = {{0, 0, 28}, {4, 0, 28},         {255, 9, 28},
               {1, 1, 28}, {3, 7, 28},         {0, LIMIT_LINK_FRAME + 1, 28},
               {1, 0, 29}, {1, 0, UINT64_MAX}, {1, 0, 27}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct one *o = one_new();
        agree_as_called(o);
        say_frame(&o->p, FRAME_ACK, 0, received);
        say_frame(&o->p, bad[i].kind, bad[i].size, bad[i].acked);
        expect_lost(o, -ECONNRESET, "Protocol error");
        assert_int_equal(o->dials, 0);
        peer_close(&o->p);
        one_free(o);
    }
}

/* The called end lies about what it has taken in, or is another server. */
static void test_bad_return(void **state)
{
    static const struct {
        const char *version;
        const char *says;
    } answers[] = {
        {"plenum.link gone", "does not know it"},
        {"unknown", "does not know it"},
        {"plenum.link 0123456789abcdef0123456789abcdee 28", "does not know it"},
        {"plenum.link 0123456789abcdef0123456789abcdef 27", "never sent"},
        {"plenum.link 0123456789abcdef0123456789abcdef 29", "never sent"},
        {"plenum.link 0123456789abcdef0123456789abcdef 99999999999", "never sent"},
    };
    for (size_t i = 0; i < sizeof(answers) / sizeof(*answers); i++) {
        char text[80];
        struct one *o = one_new();
        agree_as_called(o);
        say_frame(&o->p, FRAME_PING, 0, received); /* it is heeded: 27 is too little from now on */
        assert_int_equal(get_frame(&o->p).kind, FRAME_ACK);
        peer_close(&o->p);
        one_accept(o);
        peer_expect(&o->p, P9_Tversion, P9_NOTAG);
        snprintf(text, sizeof(text), "plenum.link %s %d", an_id, VERSION_SIZE);
        assert_string_equal(o->p.m.version.s, text);
        say_version(&o->p, P9_Rversion, answers[i].version);
        expect_lost(o, -ECONNRESET, answers[i].says);
        assert_int_equal(o->dials, 1);
        peer_close(&o->p);
        one_free(o);
    }
}

/* ---- strangers, at the called end ---- */

static void agree_as_dialing(struct one *o, char id[P9_LINK_ID + 1])
{
    unsigned linger;
    one_start(o, false, true, false);
    say_version(&o->p, P9_Tversion, "plenum.link new 5000");
    peer_expect(&o->p, P9_Rversion, P9_NOTAG);
    assert_int_equal(sscanf(o->p.m.version.s, "plenum.link %32s 0 %u", id, &linger), 2);
    assert_int_equal(linger, FOREVER);
    assert_string_equal(p9_conn_link(o->c), id);
    received = nstream = 0;
    say_in_frame(
        &o->p,
        (struct p9_msg){
            .type = P9_Tversion, .tag = P9_NOTAG, .msize = 65536, .version = p9_str(P9_VERSION_L)},
        0);
    get_message(&o->p, P9_Rversion);
}

enum { VERSION_L_SIZE = 21 };

/* Another channel that asks for the link; what it is answered is in p->m. */
static struct p9_conn *come_back(struct one *o, struct peer *p, const char *who,
                                 const char *version)
{
    struct chan ours;
    make_pair(SOCKETS, &p->ch, &ours);
    strcpy(ours.who, who);
    struct p9_link_opts opts = o->opts;
    opts.changed = NULL;
    struct p9_conn *c = conn_linked(o->crew, &ours, NULL, true, false, &opts);
    say_version(p, P9_Tversion, version);
    return c;
}

static void test_return(void **state)
{
    static const char *const whos[] = {"", "key:b", "uid:0", "key:a", "key:a"};
    char id[P9_LINK_ID + 1], text[80];
    struct one *o = one_new();
    struct peer *p = calloc(1, sizeof(*p));
    agree_as_dialing(o, id);
    snprintf(text, sizeof(text), "plenum.link %s %d", id, (int)received);
    for (int i = 0; i < 5; i++) { /* it has its channel yet: this is replaced */
        char other[80];
        memcpy(other, text, sizeof(other));
        if (i == 3)
            other[12] = (char)(other[12] == '0' ? '1' : '0');
        struct p9_conn *c = come_back(o, p, whos[i], other);
        peer_expect(p, P9_Rversion, P9_NOTAG);
        assert_int_equal(p9_conn_wait(c, NULL), i < 4 ? -ENOLINK : 0);
        p9_conn_free(c);
        if (i < 4) {
            assert_string_equal(p->m.version.s, "plenum.link gone");
            peer_expect_end(p);
            peer_close(p);
        }
    }
    snprintf(text, sizeof(text), "plenum.link %s %d", id, VERSION_L_SIZE);
    assert_string_equal(p->m.version.s, text);
    peer_expect_end(&o->p); /* the stale channel */
    peer_close(&o->p);
    for (uint16_t i = 0; i < 3; i++) {
        say_in_frame(p, (struct p9_msg){.type = P9_Tgetattr, .tag = i, .fid = 7}, received);
        assert_int_equal(get_message(p, P9_Rgetattr)->attr.size, 7);
    }
    say_frame(p, FRAME_BYE, 0, received);
    assert_int_equal(p9_conn_wait(o->c, NULL), 0);
    peer_close(p);
    /* And it is not found again. */
    struct p9_conn *c = come_back(o, p, "key:a", text);
    peer_expect(p, P9_Rversion, P9_NOTAG);
    assert_string_equal(p->m.version.s, "plenum.link gone");
    peer_close(p);
    p9_conn_free(c);
    one_free(o);
    free(p);
}

static void test_taken_lies(void **state)
{
    for (int i = 0; i < 2; i++) {
        char id[P9_LINK_ID + 1], text[80];
        struct one *o = one_new();
        struct peer *p = calloc(1, sizeof(*p));
        agree_as_dialing(o, id);
        say_frame(&o->p, FRAME_PING, 0, received);
        assert_int_equal(get_frame(&o->p).kind, FRAME_ACK);
        snprintf(text, sizeof(text), "plenum.link %s %d", id, (int)received + (i ? 1 : -1));
        struct p9_conn *c = come_back(o, p, "key:a", text);
        expect_lost(o, -ECONNRESET, "never sent");
        p9_conn_free(c);
        peer_close(p);
        peer_close(&o->p);
        one_free(o);
        free(p);
    }
}

static void test_limit(void **state)
{
    struct one *o = one_new();
    char id[P9_LINK_ID + 1];
    p9_links_free(o->links);
    o->opts.links = o->links = p9_links_new(FOREVER * SECOND, 1);
    agree_as_dialing(o, id);
    struct peer *p = calloc(1, sizeof(*p));
    struct p9_conn *c = come_back(o, p, "key:a", "plenum.link new 10");
    peer_expect(p, P9_Rversion, P9_NOTAG);
    assert_string_equal(p->m.version.s, "unknown");
    peer_close(p);
    p9_conn_free(c);
    peer_close(&o->p);
    one_free(o);
    free(p);
}

/* ---- time ---- */

static void test_linger(void **state)
{
    for (int dials = 0; dials < 2; dials++) {
        struct one *o = one_new();
        o->refuse = -ECONNREFUSED;
        o->opts.linger = SECOND / 5;
        if (dials) {
            struct use u;
            char text[80];
            one_start(o, true, false, true);
            use_start(&u, o);
            peer_expect(&o->p, P9_Tversion, P9_NOTAG);
            assert_string_equal(o->p.m.version.s, "plenum.link new 1");
            snprintf(text, sizeof(text), "plenum.link %s 0 1", an_id);
            say_version(&o->p, P9_Rversion, text);
            get_message(&o->p, P9_Tversion);
            peer_close(&o->p);
            assert_int_equal(use_end(&u), -ECONNRESET);
            expect_lost(o, -ECONNRESET, "the test refuses");
            assert_true(o->dials > 1);
        } else {
            p9_links_free(o->links);
            o->opts.links = o->links = p9_links_new(SECOND / 10, 0);
            one_start(o, false, true, false);
            say_version(&o->p, P9_Tversion, "plenum.link new 5000");
            peer_expect(&o->p, P9_Rversion, P9_NOTAG);
            assert_non_null(strstr(o->p.m.version.s, " 0 1"));
            peer_close(&o->p);
            expect_lost(o, -ECONNRESET, "did not come back");
        }
        one_free(o);
    }
}

/* A far end that says nothing is asked, and then given up; over a new channel all goes on. */
static void test_keepalive(void **state)
{
    struct one *o = one_new();
    char text[80];
    o->opts.keepalive = SECOND * 3 / 2; /* the script has so long to answer */
    agree_as_called(o);
    struct frame f;
    while ((f = get_frame(&o->p)).kind == FRAME_ACK)
        ;
    assert_int_equal(f.kind, FRAME_PING);
    one_accept(o); /* the first channel is open yet, and leaks into the process: no matter */
    peer_expect(&o->p, P9_Tversion, P9_NOTAG);
    snprintf(text, sizeof(text), "plenum.link %s %d", an_id, VERSION_SIZE);
    assert_string_equal(o->p.m.version.s, text);
    snprintf(text, sizeof(text), "plenum.link %s %d", an_id, VERSION_SIZE);
    say_version(&o->p, P9_Rversion, text);
    for (int i = 0; i < 2; i++) { /* who answers is not given up */
        while ((f = get_frame(&o->p)).kind == FRAME_ACK)
            ;
        assert_int_equal(f.kind, FRAME_PING);
        say_frame(&o->p, FRAME_ACK, 0, received);
    }
    assert_int_equal(o->downs, 1);
    say_frame(&o->p, FRAME_BYE, 0, received);
    expect_lost(o, -ECONNRESET, "closed it");
    peer_close(&o->p);
    one_free(o);
}

/* Without a link the question is a Tflush. */
static void test_keepalive_plain(void **state)
{
    struct one *o = one_new();
    struct use u;
    o->opts = (struct p9_link_opts){.keepalive = SECOND * 3 / 2};
    one_start(o, true, false, true);
    use_start(&u, o);
    peer_agree(&o->p, P9_VERSION_L);
    assert_int_equal(use_end(&u), 0);
    for (int i = 0; i < 2; i++) {
        peer_expect(&o->p, P9_Tflush, TAG_KEEP);
        assert_int_equal(o->p.m.oldtag, TAG_UNUSED);
        peer_send(&o->p, (struct p9_msg){.type = P9_Rflush, .tag = TAG_KEEP});
    }
    peer_expect(&o->p, P9_Tflush, TAG_KEEP);
    expect_lost(o, -ETIMEDOUT, "nothing was heard");
    peer_close(&o->p);
    one_free(o);
}

/* ---- what is kept ---- */

/* Nobody acknowledges: so much is sent and no more, until somebody does; over another channel it is
 * sent again from where it is wanted. When all is quiet nothing is kept. */
static void test_kept(void **state)
{
    enum { EACH = 60000, N = 600 };
    _Static_assert(N * EACH > LIMIT_LINK_KEPT + EACH, "more than is kept");
    char id[P9_LINK_ID + 1], text[80];
    struct one *o = one_new();
    struct peer *p = calloc(1, sizeof(*p));
    agree_as_dialing(o, id);
    uint64_t before = received, all = before + N * (uint64_t)(EACH + P9_RREADHDR);
    for (uint16_t i = 0; i < N; i++)
        say_in_frame(&o->p, (struct p9_msg){.type = P9_Tread, .tag = i, .fid = 1, .count = EACH},
                     before);
    while (received + nstream < before + LIMIT_LINK_KEPT) {
        get_frame(&o->p);
        while (nstream >= EACH + P9_RREADHDR)
            get_message(&o->p, P9_Rread);
    }
    assert_int_equal(received + nstream, before + LIMIT_LINK_KEPT);
    served_await(&o->s, &o->s.started, N); /* the others are served, and wait for room */
    struct pollfd in = {.fd = o->p.ch.in, .events = POLLIN};
    say_frame(&o->p, FRAME_PING, 0, before);
    assert_int_equal(get_frame(&o->p).kind, FRAME_ACK); /* it speaks, but says no more of it */
    assert_int_equal(poll(&in, 1, 0), 0);
    snprintf(text, sizeof(text), "plenum.link %s %d", id, (int)received);
    struct p9_conn *c = come_back(o, p, "key:a", text);
    peer_expect(p, P9_Rversion, P9_NOTAG);
    nstream = 0; /* half a message: it comes again */
    while (received < all) {
        get_message(p, P9_Rread);
        assert_int_equal(p->m.count, EACH);
        for (size_t i = 0; i < EACH; i++)
            assert_int_equal(((const uint8_t *)p->m.data)[i], pattern(i));
        say_frame(p, FRAME_ACK, 0, received);
    }
    for (int i = 0;; i++) {
        struct link *l = o->c->link;
        pthread_mutex_lock(&l->lock);
        bool quiet = !l->kept.first && !l->in && l->kept.end == l->kept.start;
        pthread_mutex_unlock(&l->lock);
        if (quiet)
            break;
        assert_true(i < PATIENCE / 10);
        usleep(10000);
    }
    say_frame(p, FRAME_BYE, 0, received);
    assert_int_equal(p9_conn_wait(o->c, NULL), 0);
    p9_conn_free(c);
    peer_close(p);
    peer_close(&o->p);
    one_free(o);
    free(p);
}

/* Who dials again is told when it is not wanted any more. */
static void test_cancelled_redial(void **state)
{
    struct one *o = one_new();
    agree_as_called(o);
    o->block = true;
    peer_close(&o->p);
    served_await(&o->s, &o->dials, 1);
    one_free(o);
}

/* A new channel over which nothing is answered is not waited for as long as a stranger. */
static void test_silent_redial(void **state)
{
    _Static_assert(PATIENCE < LIMIT_HELLO * 1000, "else this cannot fail");
    struct one *o = one_new();
    o->opts.keepalive = SECOND;
    agree_as_called(o);
    peer_close(&o->p);
    one_accept(o);
    struct chan silent = o->p.ch;
    served_await(&o->s, &o->dials, 2);
    chan_close(&silent);
    one_accept(o);
    peer_close(&o->p);
    one_free(o);
}

/* A client that has another server to go to gives up at once. */
static void test_no_redial(void **state)
{
    struct one *o = one_new();
    agree_as_called(o);
    o->refuse = -ENOLINK;
    peer_close(&o->p);
    expect_lost(o, -ECONNRESET, "the test refuses");
    assert_int_equal(o->dials, 1);
    one_free(o);
}

/* Requests go on while the link is down, and their session stays. */
static void test_served_while_down(void **state)
{
    char id[P9_LINK_ID + 1], text[80];
    struct one *o = one_new();
    struct peer *p = calloc(1, sizeof(*p));
    agree_as_dialing(o, id);
    say_in_frame(&o->p, (struct p9_msg){.type = P9_Tlock, .tag = 1, .fid = 1}, received);
    served_await(&o->s, &o->s.waiting, 1);
    peer_close(&o->p);
    served_await(&o->s, &o->downs, 1);
    assert_int_equal(o->s.cancelled + o->s.resets, 0);
    served_open(&o->s);
    snprintf(text, sizeof(text), "plenum.link %s %d", id, (int)received);
    struct p9_conn *c = come_back(o, p, "key:a", text);
    peer_expect(p, P9_Rversion, P9_NOTAG);
    assert_int_equal(get_message(p, P9_Rlock)->tag, 1);
    assert_int_equal(o->s.resets, 0);
    say_frame(p, FRAME_BYE, 0, received);
    assert_int_equal(p9_conn_wait(o->c, NULL), 0);
    assert_int_equal(o->s.resets, 1);
    p9_conn_free(c);
    peer_close(p);
    one_free(o);
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_server),
        cmocka_unit_test(test_plain_client),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_bad_frames),
        cmocka_unit_test(test_bad_return),
        cmocka_unit_test(test_return),
        cmocka_unit_test(test_taken_lies),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_linger),
        cmocka_unit_test(test_keepalive),
        cmocka_unit_test(test_keepalive_plain),
        cmocka_unit_test(test_kept),
        cmocka_unit_test(test_served_while_down),
        cmocka_unit_test(test_cancelled_redial),
        cmocka_unit_test(test_silent_redial),
        cmocka_unit_test(test_no_redial),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
