/* SPDX-License-Identifier: MIT */
/*
 * Raw 9P for tests: a client that says exactly what it is told to, and a tree that counts what is
 * open in the tree below. Everything asserts.
 */
#ifndef TEST_RAW9P_H
#define TEST_RAW9P_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "doors/p9.h"
#include <errno.h>
#include <fcntl.h>
#include <plenum/sources.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- a tree that counts ---- */

struct counting {
    struct pl_tree tree;
    atomic_int files; /* open now */
    atomic_int reads; /* that have begun */
    atomic_bool hold; /* reads wait until this is false, or they are cancelled */
    atomic_int what;  /* enum pl_op: not reads but these; 0: reads */
    atomic_int error; /* what those end with instead, if not 0 */
    pthread_mutex_t mutex;
    pthread_cond_t cond;
};

static void counting_wake(void *arg)
{
    struct counting *c = arg;
    pthread_mutex_lock(&c->mutex);
    pthread_cond_broadcast(&c->cond);
    pthread_mutex_unlock(&c->mutex);
}

static int counting_before(struct pl_tree *t, struct pl_call *call, const struct pl_event *ev)
{
    struct counting *c = (struct counting *)t;
    int what = atomic_load(&c->what);
    if ((int)ev->op != (what ? what : PL_OP_read))
        return 0;
    if (!atomic_load(&c->hold))
        return atomic_load(&c->error);
    int r = pl_call_block(call, counting_wake, c);
    if (r < 0)
        return r;
    pthread_mutex_lock(&c->mutex);
    atomic_fetch_add(&c->reads, 1);
    pthread_cond_broadcast(&c->cond);
    while (atomic_load(&c->hold) && !(r = pl_call_over(call)))
        pl_call_wait(call, &c->cond, &c->mutex);
    pthread_mutex_unlock(&c->mutex);
    pl_call_unblock(call);
    return r;
}

static void counting_after(struct pl_tree *t, struct pl_call *call, const struct pl_event *ev,
                           int64_t result)
{
    struct counting *c = (struct counting *)t;
    if (result == 0 && (ev->op == PL_OP_open || ev->op == PL_OP_create || ev->op == PL_OP_tmpfile))
        atomic_fetch_add(&c->files, 1);
    if (ev->op == PL_OP_close)
        atomic_fetch_sub(&c->files, 1);
}

static const struct pl_ops counting_ops = {
    .name = "counting", .before = counting_before, .after = counting_after};

static inline struct counting *counting_new(struct pl_tree *lower)
{
    struct counting *c = calloc(1, sizeof(*c));
    assert_non_null(c);
    pthread_mutex_init(&c->mutex, NULL);
    pl_cond_init(&c->cond);
    pl_tree_init(&c->tree, &counting_ops, lower);
    return c;
}

static inline void counting_wait_read(struct counting *c)
{
    pthread_mutex_lock(&c->mutex);
    while (atomic_load(&c->reads) == 0)
        pthread_cond_wait(&c->cond, &c->mutex);
    pthread_mutex_unlock(&c->mutex);
}

static inline void counting_release(struct counting *c)
{
    pthread_mutex_lock(&c->mutex);
    atomic_store(&c->hold, false);
    pthread_cond_broadcast(&c->cond);
    pthread_mutex_unlock(&c->mutex);
}

/* ---- a client ---- */

struct raw {
    int fd;
    uint32_t msize;
    uint16_t tag;
    enum p9_dialect dialect;
    uint8_t *buf; /* the last answer: strings and data of it point here */
    struct p9_msg r;
};

enum { RAW_MAX = 1 << 20 };

static inline void raw_bytes(struct raw *c, const void *p, size_t n)
{
    while (n) {
        ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL);
        assert_true(w > 0);
        p = (const char *)p + w;
        n -= (size_t)w;
    }
}

/* Sends without waiting; the tag it got. */
static inline uint16_t raw_send(struct raw *c, struct p9_msg m)
{
    uint8_t *out = malloc(RAW_MAX + 64);
    m.dialect = c->dialect;
    m.tag = m.type == P9_Tversion ? P9_NOTAG : ++c->tag;
    int n = p9_encode(&m, out, RAW_MAX + 64);
    assert_true(n > 0);
    raw_bytes(c, out, (size_t)n);
    free(out);
    return m.tag;
}

/* The next message into c->buf, decoded into c->r. */
static inline void raw_next(struct raw *c)
{
    size_t have = 0, size = 4;
    while (have < size) {
        struct pollfd p = {c->fd, POLLIN, 0};
        assert_int_equal(poll(&p, 1, 20000), 1);
        ssize_t r = read(c->fd, c->buf + have, size - have);
        assert_true(r > 0);
        have += (size_t)r;
        if (have == 4 && size == 4) {
            size = c->buf[0] | (size_t)c->buf[1] << 8 | (size_t)c->buf[2] << 16 |
                   (size_t)c->buf[3] << 24;
            assert_true(size >= P9_HDRSZ && size <= RAW_MAX);
        }
    }
    assert_int_equal(p9_decode_as(c->dialect, c->buf, size, &c->r), 0);
}

/* The next answer into c->r: 0 or its errno, negative. A server that is told that we are one of its
 * kind ends its own, unused direction at once: that is answered as it expects. */
static inline int raw_recv(struct raw *c)
{
    for (;;) {
        raw_next(c);
        if (c->r.type == P9_Rerror && c->dialect == P9_BASE)
            return -p9_error_number(&c->r.ename);
        if (c->r.type % 2)
            return c->r.type == P9_Rlerror || c->r.type == P9_Rerror ? -(int)c->r.ecode : 0;
        assert_true(c->r.type == P9_Tversion || c->r.type == P9_Tend);
        struct p9_msg m = {.type = (uint8_t)(c->r.type + 1), .tag = c->r.tag};
        uint8_t out[100];
        m.msize = c->r.msize;
        m.version = c->r.version;
        int n = p9_encode(&m, out, sizeof(out));
        assert_true(n > 0);
        raw_bytes(c, out, (size_t)n);
    }
}

static inline int raw_rpc(struct raw *c, struct p9_msg m)
{
    uint16_t tag = raw_send(c, m);
    int r = raw_recv(c);
    assert_int_equal(c->r.tag, tag);
    if (r == 0)
        assert_int_equal(c->r.type, m.type + 1);
    return r;
}

#define RPC(c, ...) raw_rpc((c), (struct p9_msg){__VA_ARGS__})

static inline void raw_init(struct raw *c, int fd)
{
    *c = (struct raw){.fd = fd, .msize = 65536, .buf = malloc(RAW_MAX)};
}

static inline void raw_version(struct raw *c, const char *version)
{
    assert_int_equal(RPC(c, .type = P9_Tversion, .msize = c->msize, .version = p9_str(version)), 0);
    assert_string_equal(c->r.version.s, version);
    c->dialect = !strcmp(version, P9_VERSION)     ? P9_BASE
                 : !strcmp(version, P9_VERSION_U) ? P9_U
                                                  : P9_L;
}

static inline void raw_close(struct raw *c)
{
    if (c->fd >= 0)
        close(c->fd);
    free(c->buf);
    c->fd = -1;
    c->buf = NULL;
}

static inline int raw_attach(struct raw *c, uint32_t fid, const char *aname)
{
    return RPC(c, .type = P9_Tattach, .fid = fid, .afid = P9_NOFID, .uname = p9_str("root"),
               .aname = p9_str(aname), .n_uname = geteuid());
}

/* A walk to names separated by '/'; "" clones. */
static inline int raw_walk(struct raw *c, uint32_t fid, uint32_t newfid, const char *path)
{
    char copy[4096], *save, *p;
    struct p9_msg m = {.type = P9_Twalk, .fid = fid, .newfid = newfid};
    strcpy(copy, path);
    for (p = strtok_r(copy, "/", &save); p; p = strtok_r(NULL, "/", &save))
        m.wname[m.nwname++] = p9_str(p);
    return raw_rpc(c, m);
}

#endif
