/* SPDX-License-Identifier: MIT */
/* What the tests of the 9P source share: our own server, with and without our own messages. */
#ifndef UNIT_P9_SOURCE_FIXTURE_H
#define UNIT_P9_SOURCE_FIXTURE_H

#include "../raw9p.h"
#include "sources/p9.h"
#include <plenum/made.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/xattr.h>

static struct pl_call call; /* our own */

/* ---- a connection ---- */

static inline struct p9_conn *use(struct p9_crew *crew, int fd)
{
    struct chan chan = {
        .in = fd, .out = fd, .role = CHAN_DIALED, .uid = (uid_t)-1, .peer = "server"};
    struct p9_conn_opts opts = {.crew = crew, .use = true};
    struct p9_conn *conn;
    struct pl_err err = {0};
    assert_int_equal(p9_conn_new(&chan, &opts, &conn, &err), 0);
    if (p9_use(conn, &call, &err) < 0)
        fail_msg("%s", err.text);
    return conn;
}

/* ---- our own server, perhaps without our own messages ---- */

/* Passes bytes on, but answers an offer of our own version itself, as a server that does not know
 * it. */
struct relay {
    int client, server;
    pthread_t thread;
};

static inline bool get(int fd, void *buf, size_t n)
{
    for (size_t have = 0; have < n;) {
        ssize_t r = read(fd, (char *)buf + have, n - have);
        if (r <= 0)
            return false;
        have += (size_t)r;
    }
    return true;
}

static inline void put(int fd, const void *buf, size_t n)
{
    while (n) {
        ssize_t w = send(fd, buf, n, MSG_NOSIGNAL);
        if (w <= 0)
            return;
        buf = (const char *)buf + w;
        n -= (size_t)w;
    }
}

static inline uint32_t size_of(const uint8_t *head)
{
    return head[0] | (uint32_t)head[1] << 8 | (uint32_t)head[2] << 16 | (uint32_t)head[3] << 24;
}

static inline void *relay(void *arg)
{
    struct relay *r = arg;
    static const uint8_t no[] = {20, 0, 0, 0,   101, 255, 255, 0,   0,   1,
                                 0,  7, 0, 'u', 'n', 'k', 'n', 'o', 'w', 'n'};
    uint8_t *buf = malloc(1 << 21);
    if (get(r->client, buf, 4) && get(r->client, buf + 4, size_of(buf) - 4)) {
        if (size_of(buf) == 13 + strlen(P9_VERSION_OWN))
            put(r->client, no, sizeof(no));
        else
            put(r->server, buf, size_of(buf));
    }
    struct pollfd p[2] = {{r->client, POLLIN, 0}, {r->server, POLLIN, 0}};
    for (bool on = true; on;) {
        poll(p, 2, -1);
        for (int i = 0; i < 2 && on; i++) {
            if (!p[i].revents)
                continue;
            ssize_t n = read(p[i].fd, buf, 1 << 20);
            on = n > 0;
            if (on)
                put(p[!i].fd, buf, (size_t)n);
        }
    }
    shutdown(r->client, SHUT_RDWR);
    shutdown(r->server, SHUT_RDWR);
    free(buf);
    return NULL;
}

struct world {
    struct counting *tree;
    struct pl_node *root; /* of the tree served */
    struct p9_crew *crew;
    struct p9_door *door;
    struct p9_conn *conn[8];
    struct relay relay[8];
    unsigned n;
    bool plain;
    int64_t near;        /* pl_p9_opts.near */
    struct pl_tree *far; /* the first client's tree */
    struct pl_node *top;
};

static inline struct pl_tree *dial(struct world *w)
{
    int fds[2], more[2];
    struct pl_tree *t;
    struct pl_err err = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct chan chan = {
        .in = fds[0], .out = fds[0], .role = CHAN_ACCEPTED, .uid = geteuid(), .peer = "client"};
    assert_int_equal(p9_door_conn(w->door, &chan, false, NULL, NULL, &w->conn[w->n], &err), 0);
    int fd = fds[1];
    if (w->plain) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, more), 0);
        w->relay[w->n] = (struct relay){more[0], fds[1]};
        pthread_create(&w->relay[w->n].thread, NULL, relay, &w->relay[w->n]);
        fd = more[1];
    }
    w->n++;
    struct p9_conn *conn = use(w->crew, fd);
    assert_int_equal(p9_extended(conn), !w->plain);
    assert_int_equal(pl_p9_open(conn, &(struct pl_p9_opts){.own = true, .near = w->near}, &t, &err),
                     0);
    return t;
}

static inline int setup_as(void **state, bool plain)
{
    struct world *w = calloc(1, sizeof(*w));
    struct pl_tree *mem;
    struct pl_attr attr;
    w->plain = plain;
    pl_call_init_self(&call);
    assert_int_equal(pl_mem_new(256 << 20, &mem, NULL), 0);
    w->tree = counting_new(mem);
    assert_int_equal(pl_attach(&w->tree->tree, &call, "", &w->root, &attr), 0);
    w->crew = p9_crew_new(4);
    struct p9_export e = {"", &w->tree->tree};
    assert_int_equal(p9_door_new(&e, 1, w->crew, NULL, &w->door), 0);
    w->far = dial(w);
    assert_int_equal(pl_attach(w->far, &call, "", &w->top, &attr), 0);
    *state = w;
    return 0;
}

static inline int setup_own(void **state)
{
    return setup_as(state, false);
}

static inline int setup_plain(void **state)
{
    return setup_as(state, true);
}

static inline int teardown(void **state)
{
    struct world *w = *state;
    pl_node_unref(w->top);
    pl_tree_unref(w->far);
    for (unsigned i = 0; i < w->n; i++) {
        if (w->plain) {
            pthread_join(w->relay[i].thread, NULL);
            close(w->relay[i].client);
            close(w->relay[i].server);
        }
        p9_conn_wait(w->conn[i], NULL);
        p9_conn_free(w->conn[i]);
    }
    p9_door_free(w->door);
    p9_crew_free(w->crew);
    assert_int_equal(atomic_load(&w->tree->files), 0);
    pl_node_unref(w->root);
    assert_int_equal(atomic_load(&w->tree->tree.refs), 1);
    pl_tree_unref(&w->tree->tree);
    pl_call_done(&call);
    free(w);
    return 0;
}

#define OWN_AND_PLAIN(f)                                                                           \
    cmocka_unit_test_setup_teardown(f, setup_own, teardown),                                       \
        cmocka_unit_test_setup_teardown(f, setup_plain, teardown)

/* ---- helpers ---- */

static inline struct pl_file *create(struct pl_tree *t, struct pl_node *dir, const char *name,
                                     int flags, struct pl_node **ret)
{
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *file;
    assert_int_equal(pl_create(t, &call, dir, name, flags, 0644, &node, &attr, &file), 0);
    if (ret)
        *ret = node;
    else
        pl_node_unref(node);
    return file;
}

static inline struct pl_node *look(struct pl_tree *t, struct pl_node *dir, const char *name)
{
    struct pl_node *node;
    struct pl_attr attr;
    assert_int_equal(pl_lookup(t, &call, dir, name, &node, &attr), 0);
    return node;
}

static inline void *pattern(size_t n, unsigned seed)
{
    uint32_t *p = malloc(n + 4);
    for (size_t i = 0; i < n / 4 + 1; i++)
        p[i] = (uint32_t)i * 2654435761u + seed;
    return p;
}

#endif
