/* SPDX-License-Identifier: MIT */
/*
 * TLS over a socket pair: bytes under pressure from both sides, ends, and handshakes at a listener.
 * Both ends have the keys of one directory, and trust themselves.
 */
#include "channel/tls.h"
#include "base/limits.h"
#include "channel/cert.h"
#include <errno.h>
#include <openssl/err.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/unit-tls-XXXXXX";

/* ---- keys ---- */

static void trust(const char *text)
{
    struct pl_err err;
    assert_int_equal(keys_write("trusted", text, strlen(text), &err), 0);
}

static void trust_self(const char *name)
{
    char text[KEYS_PRINT_TEXT], line[256];
    uint8_t print[KEYS_PRINT];
    X509 *cert;
    assert_int_equal(tls_own(&cert, NULL), 0);
    cert_print(cert, print);
    X509_free(cert);
    snprintf(line, sizeof(line), "# ours\n%s %s # it is\n", name, keys_print_text(print, text));
    trust(line);
}

static int make_keys(void **state)
{
    char *pem;
    size_t n;
    struct pl_err err;
    if (!mkdtemp(dir) || setenv("PLENUM_KEYS", dir, 1) < 0)
        return -1;
    if (cert_make("me", &pem, &n, &err) < 0 || keys_write("id.pem", pem, n, &err) < 0)
        return -1;
    OPENSSL_clear_free(pem, n);
    trust_self("here");
    return 0;
}

static int drop_keys(void **state)
{
    static const char *const files[] = {"id.pem", "trusted", "psk", ".lock", "ca.pem"};
    char path[128];
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
        unlink(path);
    }
    return rmdir(dir);
}

static void names(void **state)
{
    assert_true(keys_name_ok("alice@host-1.example!5640", 25));
    assert_true(keys_name_ok("fe80::1%eth0", 12));
    assert_false(keys_name_ok("", 0));
    assert_false(keys_name_ok("-x", 2));
    assert_false(keys_name_ok("a b", 3));
    assert_false(keys_name_ok("a\0b", 3));
    assert_false(keys_name_ok("a*", 2));
    assert_false(keys_name_ok("../x", 4));
    char longest[KEYS_NAME + 2];
    memset(longest, 'a', sizeof(longest));
    assert_true(keys_name_ok(longest, KEYS_NAME));
    assert_false(keys_name_ok(longest, KEYS_NAME + 1));
}

static void lines(void **state)
{
    struct keys_psk k;
    struct keys_trust t;
    char good[] = "host bob 00112233445566778899aabbccddeeff # x", small[] = "a b 0011",
         odd[] = "a b 00112233445566778899aabbccddeeff0", empty[] = "  # x",
         trusted[] = "a SHA256:"
                     "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:"
                     "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF",
         cut[] = "a sha256:0011", more[] = "a b c d";
    assert_int_equal(keys_psk_line(good, &k), 1);
    assert_int_equal(k.nkey, 16);
    assert_string_equal(k.id, "bob");
    assert_int_equal(k.key[15], 0xff);
    assert_int_equal(keys_psk_line(small, &k), -EINVAL);
    assert_int_equal(keys_psk_line(odd, &k), -EINVAL);
    assert_int_equal(keys_psk_line(empty, &k), 0);
    assert_int_equal(keys_psk_line(more, &k), -EINVAL);
    assert_int_equal(keys_trust_line(trusted, &t), 1);
    assert_int_equal(t.print[31], 0xff);
    assert_int_equal(keys_trust_line(cut, &t), -EINVAL);
}

static void files_of_others(void **state)
{
    char path[128], *text;
    struct pl_err err;
    snprintf(path, sizeof(path), "%s/id.pem", dir);
    chmod(path, 0640);
    assert_int_equal(keys_read("id.pem", true, &text, &err), -EACCES);
    assert_non_null(strstr(err.text, "chmod 600"));
    assert_int_equal(keys_read("id.pem", false, &text, &err) > 0, 1);
    free(text);
    chmod(path, 0622);
    assert_int_equal(keys_read("id.pem", false, &text, &err), -EACCES);
    chmod(path, 0600);
    assert_int_equal(keys_read("none", false, &text, &err), -ENOENT);
}

/* ---- two ends ---- */

struct ends {
    int fd[2];
    struct tls_ctx *ctx[2];
    struct tls *tls[2];
    struct chan chan[2]; /* 0 the client */
};

/* Goes through both handshakes: the client's result, the server's in *ret. */
static int shake(struct ends *e, const char *host, int *ret, struct pl_err err[2])
{
    int r[2] = {-EAGAIN, -EAGAIN};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, e->fd), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tls_ctx_new(i, &e->ctx[i], &err[i]), 0);
        assert_int_equal(tls_new(e->ctx[i], e->fd[i], i ? "client" : "server", i ? NULL : host,
                                 i ? NULL : "564", &e->tls[i], &err[i]),
                         0);
    }
    while (r[0] == -EAGAIN || r[1] == -EAGAIN) {
        int before = r[0] == -EAGAIN ? 0 : 1;
        for (int i = 0; i < 2; i++)
            if (r[i] == -EAGAIN && (r[i] = tls_step(e->tls[i], &err[i])) < 0 && r[i] != -EAGAIN)
                shutdown(e->fd[i], SHUT_WR);
        struct pollfd p = {.fd = e->fd[before], .events = POLLIN};
        poll(&p, 1, 20);
    }
    *ret = r[1];
    return r[0];
}

static void open_ends(struct ends *e)
{
    struct pl_err err[2] = {{0}};
    int server;
    *e = (struct ends){0};
    if (shake(e, "here", &server, err) < 0 || server < 0)
        fail_msg("%s; %s", err[0].text, err[1].text);
    for (int i = 0; i < 2; i++) {
        e->chan[i] = (struct chan){.in = e->fd[i], .out = e->fd[i]};
        tls_into(e->tls[i], &e->chan[i]);
        e->tls[i] = NULL;
    }
    assert_string_equal(e->chan[0].who, "cert:here");
    assert_string_equal(e->chan[1].who, "cert:here");
}

static void close_ends(struct ends *e)
{
    for (int i = 0; i < 2; i++) {
        if (e->tls[i]) {
            tls_free(e->tls[i]);
            close(e->fd[i]);
        } else {
            chan_close(&e->chan[i]);
        }
        tls_ctx_free(e->ctx[i]);
    }
}

static ssize_t get(struct chan *c, void *buf, size_t n)
{
    struct iovec iov = {buf, n};
    return c->io->read(c, &iov, 1);
}

static ssize_t put(struct chan *c, const void *buf, size_t n)
{
    struct iovec iov = {(void *)buf, n};
    return c->io->write(c, &iov, 1);
}

static void wait_for(struct chan *c, short events)
{
    struct pollfd p = {.fd = c->in, .events = events};
    if (events == POLLOUT || !c->io->pending(c))
        assert_int_equal(poll(&p, 1, 30000), 1);
}

/* Bytes that are told by where they are. */
static uint8_t byte_at(size_t at)
{
    return (uint8_t)(at * 2654435761u >> 13);
}

enum { TOTAL = 8 << 20 };

/* Writes in pieces of all shapes, and offers again what was not taken. */
static void *writer(void *arg)
{
    struct chan *c = arg;
    uint8_t *all = malloc(TOTAL);
    for (size_t i = 0; i < TOTAL; i++)
        all[i] = byte_at(i);
    unsigned seed = 1;
    for (size_t at = 0; at < TOTAL;) {
        struct iovec iov[3];
        size_t off = at;
        for (int i = 0; i < 3; i++) {
            size_t n = rand_r(&seed) % 7 ? 1 + rand_r(&seed) % 100 : 1 + rand_r(&seed) % 70000;
            n = n < TOTAL - off ? n : TOTAL - off;
            iov[i] = (struct iovec){all + off, n};
            off += n;
        }
        ssize_t r = c->io->write(c, iov, 3);
        if (r == -EAGAIN)
            wait_for(c, POLLOUT);
        else if (r <= 0)
            break;
        else
            at += (size_t)r;
    }
    free(all);
    return NULL;
}

static void *reader(void *arg)
{
    struct chan *c = arg;
    static _Thread_local uint8_t buf[50000];
    size_t at = 0, bad = 0;
    unsigned seed = 2;
    while (at < TOTAL) {
        ssize_t r = get(c, buf, 1 + rand_r(&seed) % sizeof(buf));
        if (r == -EAGAIN) {
            wait_for(c, POLLIN);
            continue;
        }
        if (r <= 0)
            break;
        for (ssize_t i = 0; i < r; i++)
            bad += buf[i] != byte_at(at + (size_t)i);
        at += (size_t)r;
    }
    return (void *)(bad + (TOTAL - at));
}

static void both_ways_at_once(void **state)
{
    struct ends e;
    pthread_t t[4];
    int small = 4096; /* so that a record seldom fits */
    open_ends(&e);
    for (int i = 0; i < 2; i++)
        setsockopt(e.fd[i], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    for (int i = 0; i < 2; i++) {
        pthread_create(&t[2 * i], NULL, writer, &e.chan[i]);
        pthread_create(&t[2 * i + 1], NULL, reader, &e.chan[i]);
    }
    for (int i = 0; i < 4; i++) {
        void *bad;
        pthread_join(t[i], &bad);
        assert_null(bad);
    }
    close_ends(&e);
}

/* A writer that has nothing more to say has said everything: nothing is left in our hands. */
static void nothing_stays_behind(void **state)
{
    struct ends e;
    int small = 4096;
    static uint8_t data[100000], got[sizeof(data)];
    size_t sent = 0, have = 0;
    open_ends(&e);
    setsockopt(e.fd[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = byte_at(i);
    while (sent < sizeof(data)) {
        ssize_t r = put(&e.chan[0], data + sent, sizeof(data) - sent);
        sent += r > 0 ? (size_t)r : 0;
        r = get(&e.chan[1], got + have, sizeof(got) - have);
        have += r > 0 ? (size_t)r : 0;
    }
    while (have < sizeof(got)) { /* without another write */
        ssize_t r = get(&e.chan[1], got + have, sizeof(got) - have);
        assert_true(r > 0);
        have += (size_t)r;
    }
    assert_memory_equal(got, data, sizeof(data));
    close_ends(&e);
}

/* Several records come with one read of the socket: `pending` tells of those that are left. */
static void pending(void **state)
{
    struct ends e;
    char c;
    open_ends(&e);
    assert_int_equal(get(&e.chan[1], &c, 1), -EAGAIN);
    assert_false(e.chan[1].io->pending(&e.chan[1]));
    assert_int_equal(put(&e.chan[0], "a", 1), 1);
    assert_int_equal(put(&e.chan[0], "b", 1), 1);
    assert_int_equal(put(&e.chan[0], "cd", 2), 2);
    for (const char *want = "abcd"; *want; want++) {
        assert_int_equal(get(&e.chan[1], &c, 1), 1);
        assert_int_equal(c, *want);
        assert_int_equal(e.chan[1].io->pending(&e.chan[1]), want[1] != 0);
    }
    assert_int_equal(get(&e.chan[1], &c, 1), -EAGAIN);
    close_ends(&e);
}

static void ends(void **state)
{
    struct ends e;
    char c;
    open_ends(&e);
    assert_int_equal(put(&e.chan[0], "x", 1), 1);
    chan_close(&e.chan[0]);
    assert_int_equal(get(&e.chan[1], &c, 1), 1);
    assert_int_equal(get(&e.chan[1], &c, 1), 0); /* goodbye */
    assert_int_equal(get(&e.chan[1], &c, 1), 0);
    close_ends(&e);

    open_ends(&e);
    shutdown(e.fd[0], SHUT_RDWR); /* without goodbye: anybody could have done that */
    assert_int_equal(get(&e.chan[1], &c, 1), -ECONNRESET);
    assert_int_equal(put(&e.chan[1], "x", 1), -ECONNRESET);
    close_ends(&e);

    open_ends(&e);
    assert_int_equal(send(e.fd[0], "\27\3\3\0\5hello", 10, 0), 10); /* not from us */
    assert_true(get(&e.chan[1], &c, 1) < 0);
    close_ends(&e);
}

static void check_refused(const char *host, const char *says, const char *server_says)
{
    struct ends e = {0};
    struct pl_err err[2] = {{0}};
    int server;
    assert_true(shake(&e, host, &server, err) < 0);
    assert_true(server < 0);
    if (!strstr(err[0].text, says) || !strstr(err[1].text, server_says))
        fail_msg("%s; %s", err[0].text, err[1].text);
    close_ends(&e);
}

static void refusals(void **state)
{
    char zeros[128] = "here sha256:";
    check_refused("there", "the server is here, which was not dialed", "does not trust our");
    for (int i = 0; i < 64; i++)
        strcat(zeros, "0");
    strcat(zeros, "\n");
    trust(zeros);
    check_refused("here", "HAS CHANGED", "does not trust our");
    trust("");
    check_refused("here", "plenum key trust here sha256:", "does not trust our");
    trust("here nonsense\n");
    check_refused("here", "line 1 makes no sense", "does not trust our");
    trust_self("here");
}

static void by_key(void **state)
{
    static const char line[] =
        "bob bob 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n"
        "far bob 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
    struct ends e = {0};
    struct pl_err err[2] = {{0}};
    int server;
    assert_int_equal(keys_write("psk", line, strlen(line), &err[0]), 0);
    assert_int_equal(shake(&e, "far", &server, err), 0);
    assert_int_equal(server, 0);
    for (int i = 0; i < 2; i++) {
        e.chan[i] = (struct chan){.in = e.fd[i], .out = e.fd[i]};
        tls_into(e.tls[i], &e.chan[i]);
        e.tls[i] = NULL;
    }
    assert_string_equal(e.chan[0].who, "key:far");
    assert_string_equal(e.chan[1].who, "key:bob");
    close_ends(&e);
    assert_int_equal(keys_write("psk", "", 0, &err[0]), 0);
}

/* ---- a pool ---- */

static int pool_client(struct tls_pool *pool)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(tls_pool_add(pool, fds[1], "slow", NULL), 0);
    return fds[0];
}

static void *dialer(void *arg)
{
    struct pl_err err;
    struct tls *tls = NULL;
    if (tls_connect((int)(intptr_t)arg, "server", "here", "564", 60000, &tls, &err) < 0)
        print_error("%s\n", err.text);
    return tls;
}

/* All places are taken by clients that say nothing; one that speaks gets in, at the cost of the
 * oldest. */
static void slow_clients(void **state)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC), *slow = calloc(LIMIT_HANDSHAKES, sizeof(int)), r;
    struct tls_pool *pool;
    struct chan chan = {0};
    struct pl_err err;
    pthread_t thread;
    void *tls;
    char c;
    assert_int_equal(tls_pool_new(epoll, 0, &pool, &err), 0);
    for (int i = 0; i < LIMIT_HANDSHAKES; i++)
        slow[i] = pool_client(pool);
    int fd = pool_client(pool);
    pthread_create(&thread, NULL, dialer, (void *)(intptr_t)fd);
    do {
        struct epoll_event ev;
        assert_int_equal(epoll_wait(epoll, &ev, 1, 30000), 1);
        r = tls_pool_event(pool, ev.data.fd, &chan, &err);
    } while (r == -EAGAIN);
    assert_int_equal(r, 0);
    assert_string_equal(chan.who, "cert:here");
    pthread_join(thread, &tls);
    assert_non_null(tls);
    assert_int_equal(read(slow[0], &c, 1), 0); /* the oldest */
    assert_int_equal(recv(slow[1], &c, 1, MSG_DONTWAIT), -1);
    tls_free(tls);
    chan_close(&chan);
    tls_pool_free(pool);
    for (int i = 0; i < LIMIT_HANDSHAKES; i++)
        close(slow[i]);
    free(slow);
    close(fd);
    close(epoll);
}

static void out_of_time(void **state)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC), r;
    struct tls_pool *pool;
    struct chan chan;
    struct pl_err err;
    char c;
    assert_int_equal(tls_pool_new(epoll, 1, &pool, &err), 0);
    int fds[2] = {pool_client(pool), pool_client(pool)};
    for (int i = 0; i < 2; i++) {
        do {
            struct epoll_event ev;
            assert_int_equal(epoll_wait(epoll, &ev, 1, 30000), 1);
            r = tls_pool_event(pool, ev.data.fd, &chan, &err);
        } while (r == -EAGAIN);
        assert_int_equal(r, -EACCES);
        assert_non_null(strstr(err.text, "slow: no TLS handshake"));
        assert_int_equal(read(fds[i], &c, 1), 0);
        close(fds[i]);
    }
    tls_pool_free(pool);
    close(epoll);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(lines),
        cmocka_unit_test(files_of_others),
        cmocka_unit_test(both_ways_at_once),
        cmocka_unit_test(nothing_stays_behind),
        cmocka_unit_test(pending),
        cmocka_unit_test(ends),
        cmocka_unit_test(refusals),
        cmocka_unit_test(by_key),
        cmocka_unit_test(slow_clients),
        cmocka_unit_test(out_of_time),
    };
    return cmocka_run_group_tests(tests, make_keys, drop_keys);
}
