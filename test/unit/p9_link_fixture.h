/* SPDX-License-Identifier: MIT */
/* Two engines with a link between them, whose channels the test makes, breaks, and relays. */
#ifndef TEST_P9_LINK_FIXTURE_H
#define TEST_P9_LINK_FIXTURE_H

#include "p9/link_priv.h"
#include "p9_peer.h"
#include <sys/eventfd.h>

enum { FOREVER = 1000 }; /* seconds: longer than any test */
#define SECOND 1000000000LL

struct net;

struct end {
    struct net *net;
    struct served s;
    struct p9_conn *c;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    atomic_int downs, ups;
    char why[256];
};

struct net {
    enum kind kind;
    struct p9_crew *crew[2];
    struct p9_links *links;
    struct end a, b; /* a dials */
    struct p9_link_opts la, lb;
    struct p9_conn *called[64]; /* by b, for links that come back; they are over soon */
    int ncalled;
    atomic_int dials;
    atomic_int refuse; /* redial fails with it */
    char who[16];      /* what the next channel proves to b */
    pthread_mutex_t mutex;
    /* The test may stand between: the ends get what it makes of a new pair. */
    void (*relay)(struct net *n, struct chan *a, struct chan *b);
    void *arg;
};

static inline void end_changed(void *arg, const char *down)
{
    struct end *e = arg;
    pthread_mutex_lock(&e->mutex);
    if (down) {
        e->downs++;
        snprintf(e->why, sizeof(e->why), "%s", down);
    } else {
        e->ups++;
    }
    pthread_cond_broadcast(&e->cond);
    pthread_mutex_unlock(&e->mutex);
}

static inline void end_await(struct end *e, atomic_int *what, int n)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += PATIENCE / 1000;
    int r = 0;
    pthread_mutex_lock(&e->mutex);
    while (*what < n && r == 0)
        r = pthread_cond_timedwait(&e->cond, &e->mutex, &t);
    pthread_mutex_unlock(&e->mutex);
    assert_int_equal(r, 0);
}

static inline struct p9_conn *conn_linked(struct p9_crew *crew, struct chan *ch, struct served *s,
                                          bool serve, bool use, const struct p9_link_opts *link)
{
    struct p9_conn_opts o = {.crew = crew,
                             .handler = serve ? &served_handler : NULL,
                             .handler_arg = s,
                             .use = use,
                             .link = *link,
                             .over = s ? served_over : NULL,
                             .over_arg = s};
    struct p9_conn *c = NULL;
    struct pl_err err;
    if (make_ahead && !ch->io) {
        ch->io = &ahead_io;
        ch->io_state = calloc(1, sizeof(struct ahead));
    }
    if (p9_conn_new(ch, &o, &c, &err) < 0)
        fail_msg("%s", err.text);
    return c;
}

/* What the called end does with a channel that it accepted. */
static inline void net_call(struct net *n, struct chan *ch)
{
    struct p9_link_opts o = n->lb;
    o.changed = NULL;
    pthread_mutex_lock(&n->mutex);
    int i = n->ncalled++ % 64;
    struct p9_conn *old = n->called[i];
    n->called[i] = NULL;
    pthread_mutex_unlock(&n->mutex);
    p9_conn_free(old);
    struct p9_conn *c = conn_linked(n->crew[1], ch, NULL, true, true, &o);
    pthread_mutex_lock(&n->mutex);
    n->called[i] = c;
    pthread_mutex_unlock(&n->mutex);
}

static inline int net_redial(void *arg, const char *id, int cancel, struct chan *ret,
                             struct pl_err *err)
{
    struct end *e = arg;
    struct net *n = e->net;
    struct chan b;
    n->dials++;
    if (n->refuse)
        return pl_fail(err, n->refuse, "the test refuses");
    make_pair(n->kind, ret, &b);
    if (make_ahead) {
        ret->io = &ahead_io;
        ret->io_state = calloc(1, sizeof(struct ahead));
    }
    pthread_mutex_lock(&n->mutex);
    strcpy(b.who, n->who);
    pthread_mutex_unlock(&n->mutex);
    if (n->relay)
        n->relay(n, ret, &b);
    net_call(n, &b);
    return 0;
}

static inline void end_init(struct end *e, struct net *n)
{
    e->net = n;
    served_init(&e->s);
    pthread_mutex_init(&e->mutex, NULL);
    pl_cond_init(&e->cond);
}

static inline struct net *net_new(enum kind kind)
{
    struct net *n = calloc(1, sizeof(*n));
    n->kind = kind;
    make_ahead = kind == IO_SOCKETS;
    n->crew[0] = p9_crew_new(0);
    n->crew[1] = p9_crew_new(0);
    n->links = p9_links_new(FOREVER * SECOND, 0);
    pthread_mutex_init(&n->mutex, NULL);
    strcpy(n->who, "key:a");
    end_init(&n->a, n);
    end_init(&n->b, n);
    n->la = (struct p9_link_opts){
        .linger = FOREVER * SECOND, .redial = net_redial, .changed = end_changed, .arg = &n->a};
    n->lb = (struct p9_link_opts){
        .linger = FOREVER * SECOND, .links = n->links, .changed = end_changed, .arg = &n->b};
    return n;
}

enum { SERVE = 1, USE = 2, BOTH = 3 };

static inline void net_start(struct net *n, int a, int b)
{
    struct chan ca, cb;
    make_pair(n->kind, &ca, &cb);
    strcpy(cb.who, n->who);
    if (n->relay)
        n->relay(n, &ca, &cb);
    n->b.c = conn_linked(n->crew[1], &cb, &n->b.s, b & SERVE, b & USE, &n->lb);
    n->a.c = conn_linked(n->crew[0], &ca, &n->a.s, a & SERVE, a & USE, &n->la);
}

static inline void *net_use_thread(void *arg)
{
    struct end *e = arg;
    struct pl_err err;
    if (p9_use(e->c, NULL, &err) < 0)
        fail_msg("%s", err.text);
    return NULL;
}

static inline void net_use(struct net *n, int who)
{
    pthread_t t[2];
    if (who & 1)
        pthread_create(&t[0], NULL, net_use_thread, &n->a);
    if (who & 2)
        pthread_create(&t[1], NULL, net_use_thread, &n->b);
    if (who & 1)
        pthread_join(t[0], NULL);
    if (who & 2)
        pthread_join(t[1], NULL);
}

static inline void net_free(struct net *n)
{
    p9_conn_free(n->a.c);
    p9_conn_free(n->b.c);
    for (int i = 0; i < 64; i++)
        p9_conn_free(n->called[i]);
    p9_links_free(n->links);
    p9_crew_free(n->crew[0]);
    p9_crew_free(n->crew[1]);
    free(n);
}

static inline int ask_as(struct p9_conn *c, struct pl_call *call, uint32_t fid)
{
    struct p9_msg t = {.type = P9_Tgetattr, .fid = fid};
    struct p9_answer a;
    int r = p9_rpc(c, call, &t, &a, NULL, 0);
    if (r == 0)
        assert_int_equal(a.r.attr.size, fid);
    return r;
}

static inline int ask(struct end *e, uint32_t fid)
{
    return ask_as(e->c, NULL, fid);
}

#endif
