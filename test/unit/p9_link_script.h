/* SPDX-License-Identifier: MIT */
/* For tests of links: an end under test, and a scripted other end that speaks frames. */
#ifndef UNIT_P9_LINK_SCRIPT_H
#define UNIT_P9_LINK_SCRIPT_H

#include "p9_link_fixture.h"
#include <signal.h>

/* ---- the script speaks frames ---- */

static const char *const an_id = "0123456789abcdef0123456789abcdef";

static inline void say_version(struct peer *p, uint8_t type, const char *version)
{
    peer_send(p, (struct p9_msg){
                     .type = type, .tag = P9_NOTAG, .msize = 65536, .version = p9_str(version)});
}

static inline void say_frame(struct peer *p, int kind, uint32_t size, uint64_t acked)
{
    uint8_t head[FRAME_HEAD] = {(uint8_t)size, (uint8_t)(size >> 8), (uint8_t)(size >> 16),
                                (uint8_t)kind};
    for (int i = 0; i < 8; i++)
        head[4 + i] = (uint8_t)(acked >> (8 * i));
    peer_raw(p, head, sizeof(head));
}

static inline void say_in_frame(struct peer *p, struct p9_msg m, uint64_t acked)
{
    uint8_t buf[1024];
    int n = p9_encode(&m, buf, sizeof(buf));
    assert_true(n > 0);
    say_frame(p, FRAME_DATA, (uint32_t)n, acked);
    peer_raw(p, buf, (size_t)n);
}

static uint8_t stream[1 << 20]; /* of 9P that has come */
static size_t nstream;
static uint64_t received; /* bytes of messages that were taken out of it */

static inline struct frame get_frame(struct peer *p)
{
    uint8_t head[FRAME_HEAD];
    struct frame f = {.kind = 99};
    if (peer_get(p, head, sizeof(head)) < sizeof(head))
        return f;
    assert_int_equal(frame_decode(head, &f), 0);
    assert_in_range(f.size, 0, sizeof(stream) - nstream);
    assert_int_equal(peer_get(p, stream + nstream, f.size), f.size);
    nstream += f.size;
    return f;
}

/* The next message, of any type if that is 0. */
static inline struct p9_msg *get_message(struct peer *p, uint8_t type)
{
    uint32_t size = 0;
    for (;; get_frame(p)) {
        memcpy(&size, stream, 4);
        if (nstream >= 4 && nstream >= size)
            break;
    }
    assert_in_range(size, P9_HDRSZ, sizeof(p->buf));
    memcpy(p->buf, stream, size);
    nstream -= size;
    memmove(stream, stream + size, nstream);
    received += size;
    assert_int_equal(p9_decode(p->buf, size, &p->m), 0);
    if (type)
        assert_int_equal(p->m.type, type);
    return &p->m;
}

/* ---- an end under test, and the script's ---- */

struct one {
    struct p9_crew *crew;
    struct p9_links *links;
    struct served s;
    struct p9_conn *c;
    struct p9_link_opts opts;
    struct peer p;
    atomic_int dials, refuse, block;
    int next; /* the script's end of what was dialed last, handed over by a pipe */
    int pipe[2];
    atomic_int downs;
};

static inline int one_redial(void *arg, const char *id, int cancel, struct chan *ret,
                             struct pl_err *err)
{
    struct one *o = arg;
    struct chan theirs;
    served_add(&o->s, &o->dials, 1);
    if (o->block) {
        struct pollfd f = {.fd = cancel, .events = POLLIN};
        assert_int_equal(poll(&f, 1, PATIENCE), 1);
        return pl_fail(err, -EINTR, "cancelled");
    }
    if (o->refuse)
        return pl_fail(err, o->refuse, "the test refuses");
    make_pair(SOCKETS, ret, &theirs);
    assert_int_equal(write(o->pipe[1], &theirs, sizeof(theirs)), sizeof(theirs));
    return 0;
}

static inline void one_changed(void *arg, const char *down)
{
    struct one *o = arg;
    served_add(&o->s, &o->downs, down ? 1 : 0);
}

static inline struct one *one_new(void)
{
    struct one *o = calloc(1, sizeof(*o));
    o->crew = p9_crew_new(0);
    o->links = p9_links_new(FOREVER * SECOND, 0);
    served_init(&o->s);
    assert_int_equal(pipe2(o->pipe, O_CLOEXEC), 0);
    o->opts = (struct p9_link_opts){.linger = FOREVER * SECOND,
                                    .redial = one_redial,
                                    .links = o->links,
                                    .changed = one_changed,
                                    .arg = o};
    make_ahead = false;
    return o;
}

static inline void one_start(struct one *o, bool dials, bool serve, bool use)
{
    struct chan a, b;
    make_pair(SOCKETS, &a, &b);
    strcpy(b.who, "key:a");
    o->p.ch = dials ? b : a;
    o->c = conn_linked(o->crew, dials ? &a : &b, &o->s, serve, use, &o->opts);
}

/* The script's end of the next channel that is dialed. */
static inline void one_accept(struct one *o)
{
    struct pollfd f = {.fd = o->pipe[0], .events = POLLIN};
    assert_int_equal(poll(&f, 1, PATIENCE), 1);
    assert_int_equal(read(o->pipe[0], &o->p.ch, sizeof(o->p.ch)), sizeof(o->p.ch));
}

static inline void one_free(struct one *o)
{
    p9_conn_free(o->c);
    p9_links_free(o->links);
    p9_crew_free(o->crew);
    close(o->pipe[0]);
    close(o->pipe[1]);
    free(o);
}

static inline void expect_lost(struct one *o, int error, const char *says)
{
    struct pl_err err;
    assert_int_equal(p9_conn_wait(o->c, &err), error);
    if (!strstr(err.text, says))
        fail_msg("\"%s\" does not say \"%s\"", err.text, says);
}

struct use {
    struct one *o;
    pthread_t thread;
    struct pl_call call;
    int result;
    uint8_t type;
};

static inline void *use_thread(void *arg)
{
    struct use *u = arg;
    struct pl_err err;
    u->result = p9_use(u->o->c, NULL, &err);
    return NULL;
}

static inline void use_start(struct use *u, struct one *o)
{
    *u = (struct use){.o = o};
    pthread_create(&u->thread, NULL, use_thread, u);
}

static inline int use_end(struct use *u)
{
    pthread_join(u->thread, NULL);
    return u->result;
}

/* Dials, agrees on a link as the called end, and on the dialect. */
static inline void agree_as_called(struct one *o)
{
    struct use u;
    char text[80];
    one_start(o, true, false, true);
    use_start(&u, o);
    peer_expect(&o->p, P9_Tversion, P9_NOTAG);
    assert_string_equal(o->p.m.version.s, "plenum.link new 1000");
    snprintf(text, sizeof(text), "plenum.link %s 0 900", an_id);
    say_version(&o->p, P9_Rversion, text);
    received = nstream = 0;
    get_message(&o->p, P9_Tversion);
    say_in_frame(&o->p,
                 (struct p9_msg){.type = P9_Rversion,
                                 .tag = P9_NOTAG,
                                 .msize = 65536,
                                 .version = p9_str(P9_VERSION_OWN)},
                 received);
    assert_int_equal(use_end(&u), 0);
    assert_string_equal(p9_conn_link(o->c), an_id);
}

enum { VERSION_SIZE = 28 }; /* of that Rversion */

#endif
