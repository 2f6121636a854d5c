/* SPDX-License-Identifier: MIT */
/* For tests of the 9P engine: channels of several kinds, a peer that speaks by script, a handler
 * whose ops wait for the test. Waiting never decides a test: what does not come in PATIENCE ms
 * fails it. */
#ifndef TEST_P9_PEER_H
#define TEST_P9_PEER_H

#include "p9/conn.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { PATIENCE = 20000 };

/* ---- channels ---- */

enum kind { SOCKETS, PIPES, TIGHT_SOCKETS, TIGHT_PIPES, IO_SOCKETS /* with an io */, NKINDS };
static bool make_ahead;

/* An io as TLS has it: takes more off the descriptor than it is asked for, and gives it away in
 * pieces, so that there is often something that no poll knows of. */
struct ahead {
    size_t start, end;
    char buf[1500];
};

static inline ssize_t ahead_read(struct chan *ch, const struct iovec *iov, int n)
{
    struct ahead *a = ch->io_state;
    if (a->start == a->end) {
        ssize_t r = recv(ch->in, a->buf, sizeof(a->buf), MSG_DONTWAIT);
        if (r <= 0)
            return r < 0 ? -errno : 0;
        a->start = 0;
        a->end = (size_t)r;
    }
    size_t len = a->end - a->start;
    if (len > 700)
        len = 700;
    if (len > iov->iov_len)
        len = iov->iov_len;
    memcpy(iov->iov_base, a->buf + a->start, len);
    a->start += len;
    return (ssize_t)len;
}

static inline ssize_t ahead_write(struct chan *ch, const struct iovec *iov, int n)
{
    ssize_t r = send(ch->out, iov->iov_base, iov->iov_len, MSG_DONTWAIT | MSG_NOSIGNAL);
    return r < 0 ? -errno : r;
}

static inline bool ahead_pending(const struct chan *ch)
{
    const struct ahead *a = ch->io_state;
    return a->start < a->end;
}

static inline void ahead_close(struct chan *ch)
{
    free(ch->io_state);
    ch->io_state = NULL;
}

static const struct chan_io ahead_io = {ahead_read, ahead_write, ahead_pending, ahead_close};

static inline void make_pair(enum kind kind, struct chan *a, struct chan *b)
{
    int p[2], q[2], size = 4096;
    *a = *b = (struct chan){.role = CHAN_GIVEN, .uid = (uid_t)-1};
    make_ahead = kind == IO_SOCKETS;
    if (kind == SOCKETS || kind == TIGHT_SOCKETS || kind == IO_SOCKETS) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p), 0);
        a->in = a->out = p[0];
        b->in = b->out = p[1];
        for (int i = 0; i < 2 && kind == TIGHT_SOCKETS; i++)
            setsockopt(p[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    } else {
        assert_int_equal(pipe2(p, O_CLOEXEC) | pipe2(q, O_CLOEXEC), 0);
        if (kind == TIGHT_PIPES) {
            assert_int_equal(fcntl(p[1], F_SETPIPE_SZ, size), size);
            assert_int_equal(fcntl(q[1], F_SETPIPE_SZ, size), size);
        }
        a->in = p[0];
        b->out = p[1];
        b->in = q[0];
        a->out = q[1];
    }
    a->role = CHAN_DIALED;
    b->role = CHAN_ACCEPTED;
    strcpy(a->peer, "test-a");
    strcpy(b->peer, "test-b");
}

/* ---- the script's end ---- */

struct peer {
    struct chan ch;
    uint8_t buf[70000];
    struct p9_msg m; /* the last one got */
};

static inline void peer_raw(struct peer *p, const void *bytes, size_t n)
{
    while (n) {
        ssize_t r = send(p->ch.out, bytes, n, MSG_NOSIGNAL);
        if (r < 0 && errno == ENOTSOCK)
            r = write(p->ch.out, bytes, n);
        assert_true(r > 0); /* else the other end has closed it */
        bytes = (const char *)bytes + r;
        n -= (size_t)r;
    }
}

static inline void peer_send(struct peer *p, struct p9_msg m)
{
    static __thread uint8_t buf[70000];
    int n = p9_encode(&m, buf, sizeof(buf));
    assert_true(n > 0);
    peer_raw(p, buf, (size_t)n);
}

static inline size_t peer_get(struct peer *p, void *buf, size_t n)
{
    size_t got = 0;
    while (got < n) {
        struct pollfd f = {.fd = p->ch.in, .events = POLLIN};
        assert_int_equal(poll(&f, 1, PATIENCE), 1);
        ssize_t r = read(p->ch.in, (char *)buf + got, n - got);
        if (r <= 0)
            break;
        got += (size_t)r;
    }
    return got;
}

/* The next message; type 0 at the end of the stream. */
static inline struct p9_msg *peer_recv(struct peer *p)
{
    uint32_t size = 0;
    p->m.type = 0;
    if (peer_get(p, p->buf, 4) < 4)
        return &p->m;
    memcpy(&size, p->buf, 4); /* the machine of the tests is little-endian, as the wire is */
    assert_in_range(size, P9_HDRSZ, sizeof(p->buf));
    assert_int_equal(peer_get(p, p->buf + 4, size - 4), size - 4);
    assert_int_equal(p9_decode(p->buf, size, &p->m), 0);
    return &p->m;
}

static inline struct p9_msg *peer_expect(struct peer *p, uint8_t type, uint16_t tag)
{
    char text[256];
    peer_recv(p);
    if (p->m.type != type || p->m.tag != tag)
        fail_msg("wanted %s tag %u, got %s", p9_type_name(type), tag,
                 p->m.type ? p9_print(&p->m, text, sizeof(text)) : "the end");
    return &p->m;
}

static inline void peer_expect_error(struct peer *p, uint16_t tag, int error)
{
    assert_int_equal(peer_expect(p, P9_Rlerror, tag)->ecode, error);
}

static inline void peer_expect_end(struct peer *p)
{
    peer_recv(p);
    assert_int_equal(p->m.type, 0);
}

static inline void peer_close(struct peer *p)
{
    close(p->ch.in);
    if (p->ch.out != p->ch.in)
        close(p->ch.out);
}

/* As a client: negotiates `version`. */
static inline void peer_hello(struct peer *p, const char *version)
{
    peer_send(
        p, (struct p9_msg){
               .type = P9_Tversion, .tag = P9_NOTAG, .msize = 65536, .version = p9_str(version)});
    peer_expect(p, P9_Rversion, P9_NOTAG);
    assert_string_equal(p->m.version.s, version);
}

/* As a server: agrees to `version` (and refuses others first). */
static inline void peer_agree(struct peer *p, const char *version)
{
    peer_expect(p, P9_Tversion, P9_NOTAG);
    if (strcmp(p->m.version.s, version)) {
        peer_send(p, (struct p9_msg){.type = P9_Rversion,
                                     .tag = P9_NOTAG,
                                     .msize = 65536,
                                     .version = p9_str("unknown")});
        peer_expect(p, P9_Tversion, P9_NOTAG);
    }
    assert_string_equal(p->m.version.s, version);
    peer_send(
        p, (struct p9_msg){
               .type = P9_Rversion, .tag = P9_NOTAG, .msize = 65536, .version = p9_str(version)});
}

/* ---- the handler ---- */

struct served {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool open;          /* ops that wait may go on */
    atomic_int waiting; /* ops that wait now */
    atomic_int started, cancelled, resets, overs;
    int over_error;
    char sentence[256];
};

static inline void served_init(struct served *s)
{
    memset(s, 0, sizeof(*s));
    pthread_mutex_init(&s->mutex, NULL);
    pl_cond_init(&s->cond);
}

static inline void served_add(struct served *s, atomic_int *what, int n)
{
    pthread_mutex_lock(&s->mutex);
    *what += n;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->mutex);
}

/* Waits until *what is at least n. */
static inline void served_await(struct served *s, atomic_int *what, int n)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += PATIENCE / 1000;
    int r = 0;
    pthread_mutex_lock(&s->mutex);
    while (*what < n && r == 0)
        r = pthread_cond_timedwait(&s->cond, &s->mutex, &t);
    pthread_mutex_unlock(&s->mutex);
    assert_int_equal(r, 0);
}

static inline void served_open(struct served *s)
{
    pthread_mutex_lock(&s->mutex);
    s->open = true;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->mutex);
}

static inline void served_wake(void *arg)
{
    struct served *s = arg;
    pthread_mutex_lock(&s->mutex);
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->mutex);
}

/* Waits until the test opens, or the call is cancelled; says so beforehand or not. */
static inline int served_wait(struct served *s, struct pl_call *call, bool announce)
{
    int r = announce ? pl_call_block(call, served_wake, s) : 0;
    if (r < 0) {
        served_add(s, &s->cancelled, 1);
        return r;
    }
    pthread_mutex_lock(&s->mutex);
    s->waiting++;
    pthread_cond_broadcast(&s->cond);
    while (!s->open && !(r = pl_call_over(call)))
        if (announce) {
            pl_call_wait(call, &s->cond, &s->mutex);
        } else { /* as an op that nobody can wake */
            struct timespec t;
            clock_gettime(CLOCK_MONOTONIC, &t);
            t.tv_nsec += 2000000;
            t.tv_sec += t.tv_nsec / 1000000000;
            t.tv_nsec %= 1000000000;
            pthread_cond_timedwait(&s->cond, &s->mutex, &t);
        }
    s->waiting--;
    s->cancelled += r < 0;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->mutex);
    if (announce)
        pl_call_unblock(call);
    return r;
}

static inline uint8_t pattern(uint64_t off)
{
    return (uint8_t)(off * 167 >> 3);
}

/* Tgetattr answers its fid as size; Tread and Twrite a pattern; Tlock waits and says so, Tfsync and
 * Tlopen wait and do not. */
static inline void served_handle(void *arg, struct p9_req *req)
{
    struct served *s = arg;
    const struct p9_msg *in = &req->in;
    uint8_t *data;
    int r = 0;
    served_add(s, &s->started, 1);
    req->out.type = in->type + 1;
    switch (in->type) {
    case P9_Tgetattr:
        req->out.attr.size = in->fid;
        break;
    case P9_Tread:
        data = p9_req_payload(req, in->count);
        assert_non_null(data);
        for (uint32_t i = 0; i < in->count; i++)
            data[i] = pattern(in->offset + i);
        req->out.data = data;
        req->out.count = in->count;
        break;
    case P9_Twrite:
        for (uint32_t i = 0; i < in->count; i++)
            if (((uint8_t *)in->data)[i] != pattern(in->offset + i))
                r = -EILSEQ;
        req->out.count = in->count;
        break;
    case P9_Tlock:
        r = served_wait(s, &req->call, true);
        break;
    case P9_Tfsync:
    case P9_Tlopen:
        r = served_wait(s, &req->call, false);
        break;
    case P9_Treadlink:
        data = p9_req_alloc(req, 1000);
        memset(data, 't', 1000);
        req->out.target = (struct p9_str){1000, (char *)data};
        break;
    case P9_Tclunk:
    case P9_Tattach:
        break;
    default:
        r = -EOPNOTSUPP;
    }
    if (r < 0)
        p9_req_error(req, r);
}

static inline void served_reset(void *arg)
{
    struct served *s = arg;
    assert_int_equal(s->waiting, 0);
    served_add(s, &s->resets, 1);
}

static inline void served_over(void *arg, int error, const char *sentence)
{
    struct served *s = arg;
    pthread_mutex_lock(&s->mutex);
    snprintf(s->sentence, sizeof(s->sentence), "%s", sentence);
    s->over_error = error;
    s->overs++;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->mutex);
}

static const struct p9_handler served_handler = {served_handle, served_reset};

/* A connection over one end; use and serve as wanted. */
static inline struct p9_conn *conn_over(struct p9_crew *crew, struct chan *ch, struct served *s,
                                        bool serve, bool use)
{
    struct p9_conn_opts o = {.crew = crew,
                             .handler = serve ? &served_handler : NULL,
                             .handler_arg = s,
                             .use = use,
                             .over = served_over,
                             .over_arg = s};
    struct p9_conn *c = NULL;
    struct pl_err err;
    if (make_ahead) {
        ch->io = &ahead_io;
        ch->io_state = calloc(1, sizeof(struct ahead));
    }
    if (p9_conn_new(ch, &o, &c, &err) < 0)
        fail_msg("%s", err.text);
    return c;
}

#endif
