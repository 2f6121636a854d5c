/* SPDX-License-Identifier: MIT */
/* Peers that keep a server waiting, or holding memory: what they get. A second of the limits is
 * shorter here. */
#include "p9/priv.h"
#include "p9_peer.h"
#include <signal.h>
#include <sys/resource.h>

enum { MANY = 520 /* more messages of 1 MiB than LIMIT_BYTES_ALL */ };

static struct p9_crew *crew;
static struct served s;

struct client {
    struct peer peer;
    struct p9_conn *conn;
};

static struct client *client_new(enum kind kind)
{
    struct client *c = calloc(1, sizeof(*c));
    struct chan ours;
    assert_non_null(c);
    make_pair(kind, &c->peer.ch, &ours);
    c->conn = conn_over(crew, &ours, &s, true, false);
    return c;
}

static void client_free(struct client *c)
{
    peer_close(&c->peer);
    p9_conn_wait(c->conn, NULL);
    p9_conn_free(c->conn);
    free(c);
}

static void begin(int64_t second)
{
    due_second = second;
    served_init(&s);
    crew = p9_crew_new(8);
    assert_non_null(crew);
}

static void end(void)
{
    assert_int_equal(atomic_load(crew_bytes(crew)), 0);
    p9_crew_free(crew);
    due_second = 1000000000;
}

static void ask(struct client *c)
{
    peer_send(&c->peer, (struct p9_msg){.type = P9_Tgetattr, .tag = 1, .fid = 3});
    peer_expect(&c->peer, P9_Rgetattr, 1);
}

static void expect_late(struct client *c, const char *why)
{
    struct pl_err err;
    assert_int_equal(p9_conn_wait(c->conn, &err), -ETIMEDOUT);
    if (!strstr(err.text, why))
        fail_msg("\"%s\" is not why: %s", why, err.text);
    client_free(c);
}

/* Who says nothing, or nothing that is agreed on, goes; who has said it may be silent for ever. */
static void test_hello(void **state)
{
    for (enum kind kind = SOCKETS; kind <= PIPES; kind++) {
        begin(1000000);
        struct client *idle = client_new(kind), *silent, *unknown;
        peer_hello(&idle->peer, P9_VERSION_L);
        silent = client_new(kind);
        unknown = client_new(kind);
        peer_send(&unknown->peer, (struct p9_msg){.type = P9_Tversion,
                                                  .tag = P9_NOTAG,
                                                  .msize = 8192,
                                                  .version = p9_str("9Q")});
        expect_late(silent, "nothing that makes sense");
        expect_late(unknown, "nothing that makes sense");
        ask(idle);
        client_free(idle);
        end();
    }
}

static void *drip(void *arg)
{
    struct client *c = arg;
    uint8_t byte = 0;
    while (write(c->peer.ch.out, &byte, 1) == 1)
        usleep(1000);
    return NULL;
}

static void expect_drip_ends(struct client *c, uint8_t type, const char *why)
{
    uint8_t head[P9_HDRSZ] = {0, 0, 1, 0, type, 1, 0};
    pthread_t t;
    struct pl_err err;
    peer_raw(&c->peer, head, sizeof(head));
    pthread_create(&t, NULL, drip, c);
    assert_int_equal(p9_conn_wait(c->conn, &err), -ETIMEDOUT);
    pthread_join(t, NULL);
    expect_late(c, why);
}

/* A message that comes byte by byte is waited for no longer than the slowest link takes; the first
 * one no longer than for who says nothing. */
static void test_drip(void **state)
{
    signal(SIGPIPE, SIG_IGN);
    for (enum kind kind = SOCKETS; kind <= PIPES; kind++) {
        begin(1000000);
        struct client *c = client_new(kind), *idle = client_new(kind);
        peer_hello(&c->peer, P9_VERSION_L);
        peer_hello(&idle->peer, P9_VERSION_L);
        expect_drip_ends(c, P9_Twrite, "did not end it");
        expect_drip_ends(client_new(kind), P9_Tversion, "nothing that makes sense");
        ask(idle);
        client_free(idle);
        end();
    }
}

/* Answers that nobody takes. */
static void test_never_reads(void **state)
{
    begin(1000000);
    struct client *c = client_new(TIGHT_SOCKETS), *idle = client_new(SOCKETS);
    peer_hello(&c->peer, P9_VERSION_L);
    peer_hello(&idle->peer, P9_VERSION_L);
    for (uint16_t tag = 0; tag < 40; tag++)
        peer_send(&c->peer, (struct p9_msg){.type = P9_Tread, .tag = tag, .count = 60000});
    expect_late(c, "does not take its answers");
    ask(idle);
    client_free(idle);
    end();
}

static void begin_big(struct client *c)
{
    uint8_t head[P9_HDRSZ] = {0, 0, 16, 0, P9_Twrite, 1, 0};
    peer_send(&c->peer, (struct p9_msg){.type = P9_Tversion,
                                        .tag = P9_NOTAG,
                                        .msize = LIMIT_MSIZE_MAX,
                                        .version = p9_str(P9_VERSION_L)});
    peer_expect(&c->peer, P9_Rversion, P9_NOTAG);
    peer_raw(&c->peer, head, sizeof(head));
}

/* Large messages that are begun and not ended: no more is set aside for them than for all, small
 * ones of others are served meanwhile, and a large one when there is room again. */
static void test_bytes_of_all(void **state)
{
    static struct client *big[MANY];
    struct rlimit lim = {3 * MANY, 3 * MANY};
    if (setrlimit(RLIMIT_NOFILE, &lim) < 0)
        skip();
    begin(1000000000);
    struct client *small = client_new(SOCKETS);
    peer_hello(&small->peer, P9_VERSION_L);
    for (int i = 0; i < MANY; i++) {
        big[i] = client_new(SOCKETS);
        begin_big(big[i]);
        if (i % 16 == 0)
            ask(small);
        assert_in_range(atomic_load(crew_bytes(crew)), 0, LIMIT_BYTES_ALL);
    }
    ask(small);
    struct client *late = big[MANY - 1];
    for (int i = 0; i < MANY - 1; i++)
        client_free(big[i]);
    static uint8_t rest[LIMIT_MSIZE_MAX - P9_HDRSZ]; /* which is no Twrite that makes sense */
    peer_raw(&late->peer, rest, sizeof(rest));
    peer_expect_error(&late->peer, 1, EPROTO);
    client_free(late);
    client_free(small);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello),
        cmocka_unit_test(test_drip),
        cmocka_unit_test(test_never_reads),
        cmocka_unit_test(test_bytes_of_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
