/* SPDX-License-Identifier: MIT */
/*
 * What the tests of trees that outlive their connection share: a server of ours, reached through
 * relays that break where they are told to, and an `again` that gets the next.
 *
 * A relay stands in for a server that remembers operations, too: it keeps the answer to each, and
 * after a break reads on until all that it has passed on is answered, as a server would.
 */
#ifndef UNIT_P9_AGAIN_FIXTURE_H
#define UNIT_P9_AGAIN_FIXTURE_H

#include "p9_source_fixture.h"

enum when {
    NEVER,
    BEFORE, /* the request is not passed on */
    MIDDLE, /* it is passed on, and nothing waited for */
    AFTER,  /* it is passed on and answered, and the answer is dropped */
    WHENS
};

struct line { /* one connection */
    struct line *next;
    atomic_bool over;
    struct broken *w;
    int client, server;
    pthread_t thread;
    struct p9_conn *conn; /* the serving end */
    bool joined;
    struct asked {
        uint8_t type;
        uint64_t op;
        bool there, drop, was_write2, as_before;
    } asked[65536];
    unsigned nops; /* operations passed on and not answered */
    atomic_uint requests;
};

struct broken {
    const char *version; /* that the client offers; NULL: the best */
    bool plain, remembers;
    bool real;           /* the server remembers, and has keys; not the relay */
    bool unreal;         /* it does not */
    struct pl_tree *mem; /* what is served */
    struct pl_node *root;
    struct p9_crew *crew;
    struct p9_door *door;
    struct p9_conn *first;
    struct pl_tree *far; /* the client's tree */
    struct pl_node *top;

    pthread_mutex_t mutex; /* guards the rest */
    pthread_cond_t cond;
    struct line *line; /* the last; behind it those before */
    unsigned lines;    /* made so far */
    uint8_t type;      /* the next request of this type ... */
    unsigned skip;     /* after so many */
    enum when when;    /* is where to break */
    unsigned one_in;   /* or anywhere, at one of so many */
    unsigned seed, cuts;
    bool refuse;          /* no new connection is to be had */
    struct broken *other; /* ... or one to what this one serves */
    unsigned waiting;
    bool known;
    bool down;
    unsigned downs;
    char said[600];
    struct {
        uint64_t op;
        uint8_t type, *r;
        size_t n;
    } memory[LIMIT_SESSION_OPS];
};

/* ---- the relay ---- */

static inline void put_msg(int fd, struct p9_msg *m)
{
    uint8_t *buf = malloc(p9_encode_size(m) + 1);
    int n = p9_encode(m, buf, p9_encode_size(m));
    assert_true(n > 0);
    put(fd, buf, (size_t)n);
    free(buf);
}

/* A whole message, in `buf`; 0 at the end. */
static inline size_t get_msg(int fd, uint8_t *buf)
{
    if (!get(fd, buf, 4) || !get(fd, buf + 4, size_of(buf) - 4))
        return 0;
    return size_of(buf);
}

static inline enum when decide(struct broken *w, uint8_t type)
{
    enum when when = NEVER;
    pthread_mutex_lock(&w->mutex);
    if (w->when && w->type == type) {
        if (w->skip == 0) {
            when = w->when;
            w->when = NEVER;
        } else {
            w->skip--;
        }
    } else if (w->one_in && rand_r(&w->seed) / 7 % w->one_in == 0) {
        when = (enum when)(1 + rand_r(&w->seed) / 7 % (WHENS - 1));
    }
    w->cuts += when != NEVER;
    pthread_mutex_unlock(&w->mutex);
    return when;
}

/* Answers what is remembered; false: it is to be passed on (perhaps changed a little). */
static inline bool remembered(struct line *l, struct p9_msg *m, struct asked *q)
{
    struct broken *w = l->w;
    bool is = false;
    pthread_mutex_lock(&w->mutex);
    unsigned i = m->op % LIMIT_SESSION_OPS;
    if (m->op && !w->real && w->memory[i].op == m->op) {
        assert_int_equal(w->memory[i].type, m->type); /* the same message */
        uint8_t *r = w->memory[i].r;
        r[5] = (uint8_t)m->tag;
        r[6] = (uint8_t)(m->tag >> 8);
        bool failed = r[4] == P9_Rlerror;
        if (!failed && (m->type == P9_Tlcreate || m->type == P9_Tlopen)) {
            m->flags &= ~(uint32_t)(P9_EXCL | P9_TRUNC); /* only the fid is wanted */
            m->op = 0;
        } else if (m->type == P9_Tclunk) {
            q->as_before = true;
        } else {
            put(l->client, r, w->memory[i].n);
            is = true;
        }
    }
    pthread_mutex_unlock(&w->mutex);
    return is;
}

static inline bool own_business(struct line *l, struct p9_msg *m)
{
    struct broken *w = l->w;
    if (m->type == P9_Tversion && w->plain && m->version.len == strlen(P9_VERSION_OWN)) {
        put_msg(l->client, &(struct p9_msg){.type = P9_Rversion,
                                            .tag = P9_NOTAG,
                                            .msize = m->msize,
                                            .version = p9_str("unknown")});
        return true;
    }
    if (w->real || (m->type != P9_Tsession && m->type != P9_Tkey))
        return false;
    if (w->remembers && m->type == P9_Tsession)
        put_msg(l->client,
                &(struct p9_msg){.type = P9_Rsession, .tag = m->tag, .flags = w->known ? 3 : 1});
    else
        put_msg(l->client,
                &(struct p9_msg){.type = P9_Rlerror, .tag = m->tag, .ecode = EOPNOTSUPP});
    w->known |= m->type == P9_Tsession;
    return true;
}

static inline enum p9_dialect dialect_of(const struct broken *w)
{
    if (!w->version)
        return P9_L;
    return strcmp(w->version, P9_VERSION) ? P9_U : P9_BASE;
}

/* A message from the client: false when the line is to break. */
static inline bool pass_on(struct line *l, uint8_t *buf, size_t n)
{
    struct p9_msg m;
    uint8_t *copy = malloc(n);
    memcpy(copy, buf, n);
    int r = p9_decode_as(dialect_of(l->w), copy, n, &m);
    assert_true(r == 0 || r == -EOPNOTSUPP);
    enum when when = NEVER;
    if (m.type % 2) {
        put(l->server, buf, n);
    } else if (!own_business(l, &m)) {
        struct asked *q = &l->asked[m.tag];
        atomic_fetch_add(&l->requests, 1);
        when = m.type == P9_Tversion || m.type == P9_Tend ? NEVER : decide(l->w, m.type);
        *q = (struct asked){.type = m.type, .op = m.op, .there = true, .drop = when == AFTER};
        if (when == BEFORE || remembered(l, &m, q)) {
            q->there = false;
        } else {
            l->nops += q->op != 0;
            if (m.type == P9_Twrite2 && !l->w->real) {
                m.type = P9_Twrite;
                q->was_write2 = true;
            }
            if (!l->w->real) /* the server was told of no session */
                m.op = 0;
            put_msg(l->server, &m);
        }
    }
    free(copy);
    return when != BEFORE && when != MIDDLE;
}

/* A message from the server. */
static inline bool pass_back(struct line *l, uint8_t *buf, size_t n, bool broken)
{
    struct broken *w = l->w;
    struct asked *q = &l->asked[buf[5] | buf[6] << 8];
    bool drop = false;
    if (buf[4] % 2 && q->there) {
        if (q->was_write2 && buf[4] == P9_Rwrite)
            buf[4] = P9_Rwrite2;
        drop = q->drop;
        pthread_mutex_lock(&w->mutex);
        w->unreal |= q->type == P9_Tsession && buf[4] == P9_Rlerror;
        unsigned i = q->op % LIMIT_SESSION_OPS;
        if (q->op) {
            l->nops--;
            if (q->as_before) { /* it says what it said */
                memcpy(buf, w->memory[i].r, w->memory[i].n);
                n = w->memory[i].n;
            } else {
                free(w->memory[i].r);
                w->memory[i].r = malloc(n);
                memcpy(w->memory[i].r, buf, n);
                w->memory[i].n = n;
                w->memory[i].op = q->op;
                w->memory[i].type = q->was_write2 ? P9_Twrite2 : q->type;
            }
        }
        pthread_mutex_unlock(&w->mutex);
        q->there = false;
    }
    if (!drop && !broken)
        put(l->client, buf, n);
    return !drop;
}

static inline void *line_run(void *arg)
{
    struct line *l = arg;
    uint8_t *buf = malloc(1 << 21);
    struct pollfd p[2] = {{l->client, POLLIN, 0}, {l->server, POLLIN, 0}};
    for (bool on = true; on;) {
        poll(p, 2, -1);
        for (int i = 0; i < 2 && on; i++) {
            if (!p[i].revents)
                continue;
            size_t n = get_msg(p[i].fd, buf);
            on = n && (i ? pass_back(l, buf, n, false) : pass_on(l, buf, n));
        }
    }
    shutdown(l->client, SHUT_RDWR);
    for (size_t n; l->nops && (n = get_msg(l->server, buf));)
        pass_back(l, buf, n, true);
    shutdown(l->server, SHUT_RDWR);
    free(buf);
    atomic_store(&l->over, true);
    return NULL;
}

/* ---- connections ---- */

static inline void line_join(struct line *l)
{
    if (!l->joined)
        pthread_join(l->thread, NULL);
    l->joined = true;
}

static inline void line_free(struct line *l)
{
    if (!l)
        return;
    line_join(l);
    close(l->client);
    close(l->server);
    p9_conn_wait(l->conn, NULL);
    p9_conn_free(l->conn);
    free(l);
}

/* Frees those that are over, but for the last; or all. */
static inline void lines_free(struct broken *w, bool all)
{
    struct line *gone = NULL, *l;
    pthread_mutex_lock(&w->mutex);
    for (struct line **p = w->line && !all ? &w->line->next : &w->line; (l = *p);) {
        if (all || atomic_load(&l->over)) {
            *p = l->next;
            l->next = gone;
            gone = l;
        } else {
            p = &l->next;
        }
    }
    pthread_mutex_unlock(&w->mutex);
    while ((l = gone)) {
        gone = l->next;
        line_free(l);
    }
}

static inline struct p9_conn *line_new(struct broken *w, struct pl_call *c)
{
    struct line *l = calloc(1, sizeof(*l));
    int fds[2], more[2];
    struct pl_err err = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, more), 0);
    struct chan chan = {
        .in = fds[0], .out = fds[0], .role = CHAN_ACCEPTED, .uid = geteuid(), .peer = "client"};
    assert_int_equal(p9_door_conn(w->door, &chan, false, NULL, NULL, &l->conn, &err), 0);
    l->w = w;
    l->server = fds[1];
    l->client = more[0];
    pthread_create(&l->thread, NULL, line_run, l);
    pthread_mutex_lock(&w->mutex);
    l->next = w->line;
    w->line = l;
    w->lines++;
    pthread_mutex_unlock(&w->mutex);
    lines_free(w, false);
    struct chan here = {
        .in = more[1], .out = more[1], .role = CHAN_DIALED, .uid = (uid_t)-1, .peer = "server"};
    struct p9_conn_opts opts = {.crew = w->crew, .use = true, .version = w->version};
    struct p9_conn *conn;
    assert_int_equal(p9_conn_new(&here, &opts, &conn, &err), 0);
    assert_int_equal(p9_use(conn, c, &err), 0);
    return conn;
}

static inline void broken_wake(void *arg)
{
    struct broken *w = arg;
    pthread_mutex_lock(&w->mutex);
    pthread_cond_broadcast(&w->cond);
    pthread_mutex_unlock(&w->mutex);
}

static inline int next_line(void *arg, struct pl_call *c, struct p9_conn *old, struct p9_conn **ret,
                            struct pl_err *err)
{
    struct broken *w = arg;
    assert_true(p9_conn_over(old));
    int r = pl_call_block(c, broken_wake, w);
    if (r < 0)
        return r;
    pthread_mutex_lock(&w->mutex);
    w->waiting++;
    pthread_cond_broadcast(&w->cond);
    while (w->refuse && !(r = pl_call_over(c)))
        pl_call_wait(c, &w->cond, &w->mutex);
    pthread_mutex_unlock(&w->mutex);
    pl_call_unblock(c);
    if (r == 0) {
        line_join(w->line); /* the old server is done with what it had */
        pthread_mutex_lock(&w->mutex);
        struct broken *to = w->other ? w->other : w;
        pthread_mutex_unlock(&w->mutex);
        *ret = line_new(to, c);
    }
    return r;
}

static inline void changed(void *arg, const char *sentence)
{
    struct broken *w = arg;
    pthread_mutex_lock(&w->mutex);
    if (sentence) {
        w->downs += !w->down; /* it may be told more than once why */
        w->down = true;
        snprintf(w->said, sizeof(w->said), "%s", sentence);
    } else {
        w->down = false;
    }
    pthread_cond_broadcast(&w->cond);
    pthread_mutex_unlock(&w->mutex);
}

/* ---- a world ---- */

static unsigned worlds; /* that there are */

/* What a world is: which requests it has, and what it remembers. */
struct kind {
    bool plain, remembers, real;
    const char *version;
};

static inline struct broken *broken_over(struct pl_tree *mem, const struct kind *kind, int64_t soft)
{
    struct broken *w = calloc(1, sizeof(*w));
    struct pl_attr attr;
    struct pl_err err = {0};
    w->version = kind->version;
    w->plain = kind->plain;
    w->remembers = kind->remembers;
    w->real = kind->real;
    w->seed = 1;
    w->mem = mem;
    pthread_mutex_init(&w->mutex, NULL);
    pl_cond_init(&w->cond);
    if (worlds++ == 0)
        pl_call_init_self(&call);
    assert_int_equal(pl_attach(mem, &call, "", &w->root, &attr), 0);
    w->crew = p9_crew_new(8);
    struct p9_export e = {"", mem};
    assert_int_equal(p9_door_new(&e, 1, w->crew, NULL, &w->door), 0);
    struct p9_conn *conn = line_new(w, &call);
    assert_int_equal(p9_extended(conn), !kind->plain);
    struct pl_p9_opts opts = {
        .own = true, .again = next_line, .again_arg = w, .changed = changed, .soft = soft};
    assert_int_equal(pl_p9_open(conn, &opts, &w->far, &err), 0);
    assert_int_equal(pl_attach(w->far, &call, "", &w->top, &attr), 0);
    return w;
}

/* No new break, and none under way. */
static inline void calm(struct broken *w)
{
    pthread_mutex_lock(&w->mutex);
    w->when = NEVER;
    w->one_in = 0;
    pthread_mutex_unlock(&w->mutex);
}

static inline void broken_free(struct broken *w)
{
    calm(w);
    pl_node_unref(w->top);
    pl_tree_unref(w->far);
    lines_free(w, true);
    p9_door_free(w->door);
    p9_crew_free(w->crew);
    pl_node_unref(w->root);
    pl_tree_unref(w->mem);
    for (unsigned i = 0; i < LIMIT_SESSION_OPS; i++)
        free(w->memory[i].r);
    if (--worlds == 0)
        pl_call_done(&call);
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->cond);
    free(w);
}

/* The world that the test's state describes, over memory. */
static inline struct broken *new_of(void **state)
{
    struct pl_tree *mem;
    assert_int_equal(pl_mem_new(256 << 20, &mem, NULL), 0);
    struct broken *w = broken_over(mem, *state, 0);
    if (w->unreal) {
        broken_free(w);
        skip();
    }
    return w;
}

/* The next `type` breaks the line. */
static inline void cut_at(struct broken *w, uint8_t type, unsigned skip, enum when when)
{
    pthread_mutex_lock(&w->mutex);
    w->type = type;
    w->skip = skip;
    w->when = when;
    pthread_mutex_unlock(&w->mutex);
}

/* The connection breaks now; returns when the tree knows. */
static inline void cut_now(struct broken *w)
{
    pthread_mutex_lock(&w->mutex);
    while (w->down) /* the last break is not over */
        pthread_cond_wait(&w->cond, &w->mutex);
    unsigned downs = w->downs;
    shutdown(w->line->client, SHUT_RDWR);
    while (w->downs == downs)
        pthread_cond_wait(&w->cond, &w->mutex);
    pthread_mutex_unlock(&w->mutex);
}

static inline void refuse(struct broken *w, bool yes)
{
    pthread_mutex_lock(&w->mutex);
    w->refuse = yes;
    pthread_cond_broadcast(&w->cond);
    pthread_mutex_unlock(&w->mutex);
}

/* ---- a directory that is read on ---- */

enum { ENTRIES = 1000 };

struct names {
    unsigned n, stop;
    uint64_t next;
    bool seen[ENTRIES + 10];
};

static inline int take(void *arg, const struct pl_dirent *ent)
{
    struct names *l = arg;
    int i;
    if (l->n == l->stop)
        return 1;
    l->n++;
    l->next = ent->next;
    if (sscanf(ent->name, "e%d", &i) == 1) {
        assert_false(l->seen[i]);
        l->seen[i] = true;
    }
    return 0;
}

static inline void add_entry(struct broken *w, int i)
{
    char name[200];
    snprintf(name, sizeof(name), "e%d-%0180d", i, i);
    pl_close(w->mem, &call, create(w->mem, w->root, name, O_RDWR, NULL));
}

static inline void add_entries(struct broken *w)
{
    for (int i = 0; i < ENTRIES; i++)
        add_entry(w, i);
}

#endif
