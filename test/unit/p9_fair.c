/* SPDX-License-Identifier: MIT */
/* One client cannot starve the others: what a crew gives to each of its connections. */
#include "base/limits.h"
#include "p9_peer.h"

enum { CREW = 8, SHARE_OF_ONE = 6 /* three of four */, SLOW = 400, FLOODERS = 2 * CREW };

static struct p9_crew *crew;
static struct served s, quick /* of clients that come and go while ops of others wait */;

struct client {
    struct peer peer;
    struct p9_conn *conn;
    pthread_t thread;
};

static struct client *client_of(struct served *served)
{
    struct client *c = calloc(1, sizeof(*c));
    struct chan ours;
    make_pair(SOCKETS, &c->peer.ch, &ours);
    c->conn = conn_over(crew, &ours, served, true, false);
    peer_hello(&c->peer, P9_VERSION_L);
    return c;
}

static struct client *client_new(void)
{
    return client_of(&s);
}

static void client_free(struct client *c)
{
    peer_close(&c->peer);
    p9_conn_wait(c->conn, NULL);
    p9_conn_free(c->conn);
    free(c);
}

static void begin(unsigned threads)
{
    served_init(&s);
    served_init(&quick);
    crew = p9_crew_new(threads);
    assert_non_null(crew);
}

static void ask(struct client *c, uint16_t tag)
{
    peer_send(&c->peer, (struct p9_msg){.type = P9_Tgetattr, .tag = tag, .fid = 3});
    peer_expect(&c->peer, P9_Rgetattr, tag);
}

/* Ops that block and do not say so hold threads; what one client sends holds no more than its
 * share, and it can still be heard when it gives up. */
static void test_slow_ops(void **state)
{
    begin(CREW);
    struct client *slow = client_new(), *other = client_of(&quick);
    for (uint16_t tag = 0; tag < SLOW; tag++)
        peer_send(&slow->peer, (struct p9_msg){.type = P9_Tfsync, .tag = tag});
    served_await(&s, &s.waiting, SHARE_OF_ONE);
    for (uint16_t tag = 0; tag < 100; tag++)
        ask(other, tag);
    assert_int_equal(s.waiting, SHARE_OF_ONE);
    /* A second such client has its share of what is left, and a third still finds a thread. */
    struct client *slow2 = client_new();
    for (uint16_t tag = 0; tag < SLOW; tag++)
        peer_send(&slow2->peer, (struct p9_msg){.type = P9_Tfsync, .tag = tag});
    served_await(&s, &s.waiting, SHARE_OF_ONE + 1);
    for (uint16_t tag = 0; tag < 100; tag++)
        ask(other, tag);
    assert_int_equal(s.waiting, SHARE_OF_ONE + 1);
    /* Nor is the thread theirs that has waited for more of the third. */
    client_free(other);
    other = client_of(&quick);
    for (uint16_t tag = 0; tag < 100; tag++)
        ask(other, tag);
    assert_int_equal(s.waiting, SHARE_OF_ONE + 1);
    /* The first op that runs, and one that has not begun. */
    peer_send(&slow->peer, (struct p9_msg){.type = P9_Tflush, .tag = 1000, .oldtag = 0});
    peer_expect_error(&slow->peer, 0, EINTR);
    peer_expect(&slow->peer, P9_Rflush, 1000);
    served_open(&s);
    for (int i = 1; i < SLOW; i++) {
        peer_recv(&slow->peer);
        assert_int_equal(slow->peer.m.type, P9_Rfsync);
    }
    for (int i = 0; i < SLOW; i++) {
        peer_recv(&slow2->peer);
        assert_int_equal(slow2->peer.m.type, P9_Rfsync);
    }
    client_free(slow);
    client_free(slow2);
    client_free(other);
    p9_crew_free(crew);
}

/* So few threads that three of four would be all. */
static void test_small_crews(void **state)
{
    for (unsigned threads = 2; threads <= 4; threads++) {
        begin(threads);
        struct client *slow = client_new();
        for (uint16_t tag = 0; tag < SLOW; tag++)
            peer_send(&slow->peer, (struct p9_msg){.type = P9_Tfsync, .tag = tag});
        served_await(&s, &s.waiting, (int)threads - 1);
        struct client *other = client_new();
        for (uint16_t tag = 0; tag < 100; tag++)
            ask(other, tag);
        assert_int_equal(s.waiting, threads - 1);
        client_free(slow);
        client_free(other);
        p9_crew_free(crew);
    }
}

/* A client that goes away gives back what it held, though it had its share. */
static void test_share_is_given_back(void **state)
{
    begin(CREW);
    struct client *slow = client_new();
    for (uint16_t tag = 0; tag < SLOW; tag++)
        peer_send(&slow->peer, (struct p9_msg){.type = P9_Tfsync, .tag = tag});
    served_await(&s, &s.waiting, SHARE_OF_ONE);
    client_free(slow);
    assert_int_equal(s.waiting, 0);
    assert_int_equal(s.resets, 1);
    p9_crew_free(crew);
}

/* ---- clients that never stop ---- */

static atomic_bool enough;

static void *flood(void *arg)
{
    struct client *c = arg;
    uint16_t tags[64]; /* not in use; answers come in any order */
    unsigned n = 0;
    while (n < 64) {
        tags[n] = (uint16_t)n;
        n++;
    }
    while (!atomic_load(&enough)) {
        while (n)
            peer_send(&c->peer, (struct p9_msg){.type = P9_Tgetattr, .tag = tags[--n]});
        while (n < 32) {
            peer_recv(&c->peer);
            tags[n++] = c->peer.m.tag;
        }
    }
    for (; n < 64; n++)
        peer_recv(&c->peer);
    return NULL;
}

/* More of them than there are threads, each with requests at hand whenever one is answered. */
static void test_floods(void **state)
{
    begin(CREW);
    struct client *flooders[FLOODERS], *other = client_new();
    atomic_store(&enough, false);
    for (int i = 0; i < FLOODERS; i++) {
        flooders[i] = client_new();
        pthread_create(&flooders[i]->thread, NULL, flood, flooders[i]);
    }
    served_await(&s, &s.started, 1000);
    for (uint16_t tag = 0; tag < 20; tag++)
        ask(other, tag);
    struct client *late = client_new();
    ask(late, 1);
    atomic_store(&enough, true);
    for (int i = 0; i < FLOODERS; i++) {
        pthread_join(flooders[i]->thread, NULL);
        client_free(flooders[i]);
    }
    client_free(other);
    client_free(late);
    p9_crew_free(crew);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slow_ops),
        cmocka_unit_test(test_small_crews),
        cmocka_unit_test(test_share_is_given_back),
        cmocka_unit_test(test_floods),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
