/* SPDX-License-Identifier: MIT */
/*
 * Handshakes at a listener.
 *
 * All are driven by who accepts, as far as each can go without waiting, so that a client which is
 * slow, or says nothing, costs a place and no thread. There are LIMIT_HANDSHAKES places. When all
 * are taken, the oldest gives its up, once it has had a second; an honest client over any line
 * needs less, so it gets in even while strangers hold as many places as they can.
 *
 * `lock` guards everything. A handshake is entered in the epoll with its socket, found again by its
 * number in `by_fd`, and in a list by age, which is the order of the deadlines too.
 */
#include "base/futex.h"
#include "base/limits.h"
#include "channel/tls.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#define FAIR_MS 1000

struct hand {
    struct hand *prev, *next;
    UT_hash_handle hh;
    int fd;
    short events;
    int64_t begun; /* ms */
    struct tls *tls;
    char peer[128];
};

struct tls_pool {
    pthread_mutex_t lock;
    struct tls_ctx *ctx;
    int epoll, timer, ms;
    bool closed; /* nobody is accepted now */
    struct hand *oldest, *by_fd;
    size_t n;
};

static bool full(const struct tls_pool *p)
{
    return p->n >= LIMIT_HANDSHAKES && mono_ms() - p->oldest->begun < FAIR_MS;
}

/* For when the oldest is out of time, or of its right to a place that others wait for. */
static void set_timer(struct tls_pool *p)
{
    struct itimerspec when = {{0}};
    if (p->oldest) {
        int64_t at = p->oldest->begun + (full(p) ? FAIR_MS : p->ms);
        when.it_value.tv_sec = at / 1000;
        when.it_value.tv_nsec = at % 1000 * 1000000;
    }
    timerfd_settime(p->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Takes it out; its socket is the caller's. */
static void leave(struct tls_pool *p, struct hand *h)
{
    epoll_ctl(p->epoll, EPOLL_CTL_DEL, h->fd, NULL);
    HASH_DEL(p->by_fd, h);
    DL_DELETE(p->oldest, h);
    p->n--;
    set_timer(p);
}

static void drop(struct tls_pool *p, struct hand *h)
{
    leave(p, h);
    tls_free(h->tls);
    close(h->fd);
    free(h);
}

int tls_pool_new(int epoll, int ms, struct tls_pool **ret, struct pl_err *err)
{
    struct tls_pool *p = calloc(1, sizeof(*p));
    if (!p)
        return pl_fail(err, -ENOMEM, "out of memory");
    pthread_mutex_init(&p->lock, NULL);
    p->epoll = epoll;
    p->ms = ms ? ms : LIMIT_HELLO * 1000;
    p->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = p->timer};
    int r = p->timer < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, p->timer, &ev) < 0
                ? pl_fail(err, -errno, "cannot make a timer: %s", strerror(errno))
                : tls_ctx_new(true, &p->ctx, err);
    if (r < 0) {
        tls_pool_free(p);
        return r;
    }
    *ret = p;
    return 0;
}

void tls_pool_free(struct tls_pool *p)
{
    if (!p)
        return;
    while (p->oldest)
        drop(p, p->oldest);
    if (p->timer >= 0)
        close(p->timer);
    tls_ctx_free(p->ctx);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void tls_pool_gate(struct tls_pool *p, const int *fds, int n)
{
    pthread_mutex_lock(&p->lock);
    if (p->closed != full(p)) {
        p->closed = !p->closed;
        for (int i = 0; i < n; i++) {
            struct epoll_event ev = {.events = p->closed ? 0 : EPOLLIN, .data.fd = fds[i]};
            epoll_ctl(p->epoll, EPOLL_CTL_MOD, fds[i], &ev);
        }
    }
    pthread_mutex_unlock(&p->lock);
}

static int enter(struct tls_pool *p, struct hand *h)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = h->fd};
    h->events = EPOLLIN;
    if (p->n >= LIMIT_HANDSHAKES)
        drop(p, p->oldest);
    if (epoll_ctl(p->epoll, EPOLL_CTL_ADD, h->fd, &ev) < 0)
        return -errno;
    HASH_ADD_INT(p->by_fd, fd, h);
    if (!h->hh.tbl) {
        epoll_ctl(p->epoll, EPOLL_CTL_DEL, h->fd, NULL);
        return -ENOMEM;
    }
    DL_APPEND(p->oldest, h);
    p->n++;
    set_timer(p);
    return 0;
}

int tls_pool_add(struct tls_pool *p, int fd, const char *peer, struct pl_err *err)
{
    struct hand *h = calloc(1, sizeof(*h));
    int r = h ? 0 : pl_fail(err, -ENOMEM, "%s: out of memory", peer);
    pthread_mutex_lock(&p->lock);
    if (h) {
        h->fd = fd;
        h->begun = mono_ms();
        snprintf(h->peer, sizeof(h->peer), "%s", peer);
        r = tls_new(p->ctx, fd, peer, NULL, NULL, &h->tls, err);
        if (r == 0 && (r = enter(p, h)) < 0) {
            tls_free(h->tls);
            pl_fail(err, r, "%s: %s", peer, strerror(-r));
        }
    }
    pthread_mutex_unlock(&p->lock);
    if (r < 0) {
        free(h);
        close(fd);
    }
    return r;
}

/* One that is out of time. The timer tells again if there are more. */
static int expire(struct tls_pool *p, struct pl_err *err)
{
    uint64_t ticks;
    int r = -EAGAIN;
    if (read(p->timer, &ticks, sizeof(ticks)) < 0 && errno != EAGAIN)
        return -EAGAIN;
    if (p->oldest && mono_ms() - p->oldest->begun >= p->ms) {
        r = pl_fail(err, -EACCES, "%s: no TLS handshake within %d s", p->oldest->peer,
                    p->ms / 1000);
        drop(p, p->oldest);
    }
    set_timer(p);
    return r;
}

static int go_on(struct tls_pool *p, struct hand *h, struct chan *ret, struct pl_err *err)
{
    int r = tls_step(h->tls, err);
    if (r == -EAGAIN) {
        short events = tls_events(h->tls); /* POLLIN is EPOLLIN, POLLOUT EPOLLOUT */
        struct epoll_event ev = {.events = (uint32_t)events, .data.fd = h->fd};
        if (events != h->events && epoll_ctl(p->epoll, EPOLL_CTL_MOD, h->fd, &ev) == 0)
            h->events = events;
        return r;
    }
    if (r < 0) {
        drop(p, h);
        return r == -EMFILE || r == -ENFILE || r == -ENOMEM ? r : -EACCES;
    }
    leave(p, h);
    ret->in = ret->out = h->fd;
    ret->role = CHAN_ACCEPTED;
    memcpy(ret->peer, h->peer, sizeof(ret->peer));
    tls_into(h->tls, ret);
    free(h);
    return 0;
}

int tls_pool_event(struct tls_pool *p, int fd, struct chan *ret, struct pl_err *err)
{
    struct hand *h;
    int r = -EAGAIN;
    pthread_mutex_lock(&p->lock);
    if (fd == p->timer) {
        r = expire(p, err);
    } else {
        HASH_FIND_INT(p->by_fd, &fd, h);
        if (h)
            r = go_on(p, h, ret, err);
    }
    pthread_mutex_unlock(&p->lock);
    return r;
}
