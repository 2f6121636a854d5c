/* SPDX-License-Identifier: MIT */
/*
 * How a conversation begins and ends, in each direction by itself.
 *
 * Begins: the using half of one end sends Tversion to the serving half of the other. We offer
 * P9_VERSION_OWN, and when that is refused one dialect after the other, to the oldest. An end that
 * was called does not know what called it, and a plain client must not be sent a request: so it
 * waits for the caller's Tversion, which tells (p9_use). An end that called and only serves has
 * nothing to say; but when the other says nothing for a while either, it may be one of us that
 * waits so, and is told (hello_silence).
 *
 * Ends: one of us sends Tend when its using half has had all its answers, and the other end drops
 * the fids and answers Rend. When both directions have ended in this way the channel is closed, by
 * each end when it has both sent and got its Rend. An end without a using half goes through
 * Tversion and Tend by itself, so that each end always knows of both directions. A plain peer just
 * closes.
 *
 * A new Tversion amid a session cancels what is under way, and drops it; it is answered when the
 * last handler has returned and handler->reset has run. Tend does the same, less the dropping.
 */
#include "p9/priv.h"
#include <errno.h>
#include <string.h>
#include <strings.h>

enum { GIVEN_WAIT_MS = 200 };

/* ---- the serving half ---- */

static void auto_use(struct p9_conn *c);

static bool is_version(const struct p9_str *s, const char *version)
{
    return s->len == strlen(version) && !memcmp(s->s, version, s->len);
}

/* True of a version, and of one with any suffix after a further dot, which can do without it. */
static bool is_like(const struct p9_str *s, const char *version)
{
    size_t n = strlen(version);
    return s->len >= n && !memcmp(s->s, version, n) && (s->len == n || s->s[n] == '.');
}

/* From the best to the oldest. */
enum { OWN, NVERSIONS = 4 };
static const struct {
    const char *name;
    enum p9_dialect dialect;
} versions[NVERSIONS] = {
    [OWN] = {P9_VERSION_OWN, P9_L},
    {P9_VERSION_L, P9_L},
    {P9_VERSION_U, P9_U},
    {P9_VERSION, P9_BASE},
};

/* What a client that offers this is answered, or NVERSIONS. As version(5) has it, a suffix that is
 * not known is left off, and a later number than ours is answered with ours. */
static int version_for(const struct p9_str *s)
{
    if (is_version(s, P9_VERSION_OWN))
        return OWN;
    for (int i = OWN + 1; i < NVERSIONS; i++)
        if (is_like(s, versions[i].name))
            return i;
    size_t n = s->len > 2 && !memcmp(s->s, "9P", 2) ? 2 : 0;
    unsigned long year = 0;
    for (; n && n < s->len && s->s[n] >= '0' && s->s[n] <= '9' && year < 1000000; n++)
        year = year * 10 + (unsigned long)(s->s[n] - '0');
    return year > 2000 && (n == s->len || s->s[n] == '.') ? NVERSIONS - 1 : NVERSIONS;
}

static void answer_version(struct p9_conn *c, struct req *req)
{
    const struct p9_msg *t = &req->pub.in;
    struct p9_msg *r = &req->pub.out;
    uint32_t msize = t->msize < c->opts.msize ? t->msize : c->opts.msize;
    int v = version_for(&t->version);
    bool own = v == OWN;
    *r = (struct p9_msg){.type = P9_Rversion, .msize = msize, .version = p9_str("unknown")};
    c->session = c->serve_ext = c->serve_done = false;
    if (msize >= LIMIT_MSIZE_MIN && v < NVERSIONS) {
        r->version = p9_str(versions[v].name);
        c->session = true;
        conn_done(c, DUE_HELLO);
        c->serve_dialect = versions[v].dialect;
        c->serve_ext = own;
        c->smsize = msize;
        c->peer_plain = !own;
        c->peer_spoke = true;
    }
    serve_answer(c, req);
    if (c->serve_ext && !c->said_end && (c->use == USE_DONE || (!c->opts.use && !c->use)))
        auto_use(c);
    use_wake_all(c);
}

static void answer_ending(struct p9_conn *c)
{
    struct req *req = c->ending;
    c->ending = NULL;
    if (c->state != LIVE) {
        serve_drop(c, req);
        return;
    }
    if (req->pub.in.type == P9_Tversion) {
        answer_version(c, req);
        return;
    }
    c->session = false;
    c->serve_done = true;
    req->pub.out = (struct p9_msg){.type = P9_Rend};
    serve_answer(c, req);
}

void hello_quiet(struct p9_conn *c)
{
    if (c->resetting)
        return;
    if (c->session && c->opts.handler && c->opts.handler->reset) {
        c->resetting = true;
        crew_submit(c->crew, &c->reset_task);
    } else {
        answer_ending(c);
    }
}

void hello_reset_task(struct p9_conn *c, struct task *task)
{
    /* c->ending stays as it is while c->resetting */
    if (c->opts.handler->end && c->ending && c->ending->pub.in.type == P9_Tend)
        c->opts.handler->end(c->opts.handler_arg);
    c->opts.handler->reset(c->opts.handler_arg);
    pthread_mutex_lock(&c->lock);
    c->resetting = c->session = false;
    if (c->ending)
        answer_ending(c);
    out_push(c);
    conn_settle(c);
    conn_unlock(c);
}

static void end_session(struct p9_conn *c, struct req *req)
{
    c->ending = req;
    serve_cancel_all(c);
    if (c->nserving == 0)
        hello_quiet(c);
}

void hello_version(struct p9_conn *c, struct req *req)
{
    if (c->ending) {
        conn_lost(c, -EPROTO, "the other end sent Tversion before the last one was answered");
        req_unref(c, req);
        return;
    }
    for (int i = 0; i < TAG_CHAINS; i++)
        for (struct req *r = c->reqs[i]; r; r = r->chain)
            r->dropped = true;
    end_session(c, req);
}

void hello_end(struct p9_conn *c, struct req *req)
{
    serve_uncount(c, req); /* it does not wait for itself */
    end_session(c, req);
}

/* ---- the using half ---- */

static void ended(struct p9_conn *c, struct p9_pending *p)
{
    pend_free(p);
    if (c->state != LIVE)
        return;
    c->use = USE_DONE; /* whatever the answer was */
    use_wake_all(c);
    conn_maybe_end(c);
}

static void say_end(struct p9_conn *c)
{
    struct p9_msg t = {.type = P9_Tend, .tag = TAG_END};
    c->said_end = true; /* all may be over before the push returns */
    int r = use_async(c, &t, TAG_END, ended);
    if (r < 0)
        conn_lost(c, r, "out of memory");
}

/* What our Tversion was answered: which of `versions`, or -EPROTONOSUPPORT when it was refused. */
static int agreed(struct p9_conn *c, struct p9_pending *p)
{
    struct p9_answer a;
    int r = use_decode(p, &a);
    if (r == -ECONNABORTED)
        return r;
    if (r < 0)
        return -EPROTONOSUPPORT;
    for (r = 0; r < NVERSIONS && !is_version(&a.r.version, versions[r].name); r++)
        ;
    if (r == NVERSIONS)
        r = -EPROTONOSUPPORT;
    else if (a.r.msize > c->opts.msize || a.r.msize < LIMIT_MSIZE_MIN)
        r = -EMSGSIZE;
    else
        c->umsize = a.r.msize;
    p9_answer_free(&a);
    return r;
}

static int say_version(struct p9_conn *c, const char *version,
                       void (*then)(struct p9_conn *, struct p9_pending *))
{
    struct p9_msg t = {
        .type = P9_Tversion, .tag = P9_NOTAG, .msize = c->opts.msize, .version = p9_str(version)};
    return use_async(c, &t, P9_NOTAG, then);
}

static void auto_agreed(struct p9_conn *c, struct p9_pending *p)
{
    int r = agreed(c, p);
    pend_free(p);
    c->use_ext = r == OWN;
    if (c->use_ext) {
        c->use = USE_ENDING;
        say_end(c);
    } else {
        c->use = USE_DONE;
        conn_maybe_end(c);
    }
}

/* The peer is one of us, and this end will use nothing: tell it so. */
static void auto_use(struct p9_conn *c)
{
    c->use = USE_HELLO;
    int r = say_version(c, P9_VERSION_OWN, auto_agreed);
    if (r < 0)
        conn_lost(c, r, "out of memory");
}

void hello_silence(struct p9_conn *c)
{
    if (c->rd.any || c->opts.use || c->chan.role != CHAN_DIALED || c->use != USE_NONE)
        return;
    auto_use(c);
    out_push(c);
}

static void hello_agreed(struct p9_conn *c, struct p9_pending *p)
{
    c->hello_result = agreed(c, p);
    pend_free(p);
    /* Before the reader gives its role up: whether somebody must go on reading depends on it. */
    c->use_ext = c->hello_result == OWN;
    use_wake_all(c);
}

static bool no_hello(struct p9_conn *c, void *arg)
{
    return !c->hello;
}

static int offer(struct p9_conn *c, struct pl_call *call, const char *version)
{
    int r = say_version(c, version, hello_agreed);
    if (r == 0)
        r = use_wait_event(c, call, no_hello, NULL, 0);
    if (r < 0)
        conn_lost(c, r, "the negotiation was broken off");
    return r < 0 ? r : c->state != LIVE ? -ECONNABORTED : c->hello_result;
}

/* Offers versions from the best on. A server that answers with one below the next has only left off
 * a suffix that it does not know: it may know the next. */
static int offer_all(struct p9_conn *c, struct pl_call *call)
{
    int r = -EPROTONOSUPPORT, first = OWN;
    while (c->opts.version && strcasecmp(c->opts.version, versions[first].name) &&
           first < NVERSIONS - 1)
        first++;
    for (int v = first; v < NVERSIONS; v++) {
        r = offer(c, call, versions[v].name);
        if (r >= 0 ? r <= v + 1 : r != -EPROTONOSUPPORT)
            break;
    }
    if (r < 0)
        return r;
    c->use_dialect = versions[r].dialect;
    return use_open(c);
}

static bool spoke(struct p9_conn *c, void *arg)
{
    return c->peer_spoke;
}

static int hello(struct p9_conn *c, struct pl_call *call, struct pl_err *err)
{
    const char *peer = c->chan.peer;
    int r = 0;
    if (c->opts.handler && c->chan.role != CHAN_DIALED) {
        bool given = c->chan.role == CHAN_GIVEN;
        r = use_wait_event(c, call, spoke, NULL,
                           given ? mono_now() + GIVEN_WAIT_MS * 1000000LL : 0);
        if (r < 0)
            return pl_fail(err, r, "%s: interrupted while waiting for the other end", peer);
    }
    if (c->peer_spoke && c->peer_plain)
        return pl_fail(err, -ENOTCONN, "%s: the other end only uses, it serves nothing", peer);
    /* It may have ended during the wait: nothing that is sent then is ever answered. */
    r = c->state == LIVE ? offer_all(c, call) : -ECONNABORTED;
    if (r == 0)
        return 0;
    if (c->state != LIVE)
        return pl_fail(err, c->error ? c->error : -ECONNABORTED, "%s: %s", peer,
                       c->sentence ? c->sentence : "the other end closed the connection");
    if (r == -EPROTONOSUPPORT)
        return pl_fail(err, r, "%s: the other end speaks 9P, but none that we know", peer);
    if (r == -EMSGSIZE)
        return pl_fail(err, r, "%s: the other end wants messages of a size that cannot be", peer);
    return pl_fail(err, r, "%s: %s", peer, strerror(-r));
}

/* Who was dialed over a network answers soon, or is no 9P server; a command may first have to ask
 * its user for a password, and an accepted end may take its time. */
static int hello_in_time(struct p9_conn *c, struct pl_call *call, struct pl_err *err)
{
    if (!call || call->deadline || c->chan.role != CHAN_DIALED || c->chan.child)
        return hello(c, call, err);
    call->deadline = mono_now() + LIMIT_HELLO * 1000000000LL;
    int r = hello(c, call, err);
    call->deadline = 0;
    if (r == -ETIMEDOUT)
        pl_fail(err, r, "%s: no answer in %d s (is it a 9P server?)", c->chan.peer, LIMIT_HELLO);
    return r;
}

int p9_use(struct p9_conn *c, struct pl_call *call, struct pl_err *err)
{
    int r;
    pthread_mutex_lock(&c->lock);
    use_enter(c);
    if (c->state != LIVE) {
        r = pl_fail(err, c->error ? c->error : -ECONNABORTED, "%s: %s", c->chan.peer,
                    c->sentence ? c->sentence : "the other end closed the connection");
    } else if (!c->opts.use || c->use > USE_OPEN) {
        r = pl_fail(err, -ENOTCONN, "%s: this end uses nothing", c->chan.peer);
    } else if (c->use == USE_OPEN) {
        r = 0;
    } else if (c->use == USE_HELLO) {
        r = pl_fail(err, -EBUSY, "%s: the negotiation is under way", c->chan.peer);
    } else {
        c->use = USE_HELLO;
        r = hello_in_time(c, call, err);
        if (r < 0)
            c->use = USE_NONE;
    }
    use_leave(c);
    conn_unlock(c);
    return r;
}

/* ---- the end of the using half ---- */

static bool nothing_pending(struct p9_conn *c, void *arg)
{
    /* A plain server may never answer what was given up. */
    return c->npending == (c->use_ext ? 0 : c->norphans) && !c->room;
}

static bool use_is_done(struct p9_conn *c, void *arg)
{
    return c->use == USE_DONE;
}

static int end_open(struct p9_conn *c, struct pl_call *call)
{
    c->use = USE_ENDING;
    int r = use_wait_event(c, call, nothing_pending, NULL, 0);
    if (r < 0 || c->state != LIVE) {
        c->use = USE_OPEN;
        return r;
    }
    if (c->use_ext) {
        say_end(c);
        return 0;
    }
    c->use = USE_DONE;
    if (!c->opts.handler || !c->peer_spoke)
        conn_end(c); /* a plain server, which has no use for us */
    return 0;
}

int p9_use_end(struct p9_conn *c, struct pl_call *call)
{
    int r = 0;
    pthread_mutex_lock(&c->lock);
    use_enter(c);
    if (c->state == LIVE && c->use == USE_OPEN) {
        r = end_open(c, call);
    } else if (c->state == LIVE && c->use == USE_NONE) {
        if (c->serve_ext)
            auto_use(c);
        else
            c->use = USE_DONE;
        if (!c->opts.handler && !c->serve_ext)
            conn_end(c);
    }
    if (r == 0 && c->state == LIVE)
        r = use_wait_event(c, call, use_is_done, NULL, 0);
    if (r == 0 && c->state != LIVE && c->use != USE_DONE)
        r = c->error;
    if (c->state == LIVE) {
        out_push(c);
        conn_maybe_end(c);
        role_check(c); /* from now on a worker reads what is left to read */
    }
    use_leave(c);
    conn_unlock(c);
    return r;
}

/* ---- */

uint32_t p9_msize(const struct p9_conn *c)
{
    return c->umsize;
}

bool p9_extended(const struct p9_conn *c)
{
    return c->use_ext;
}

enum p9_dialect p9_dialect(const struct p9_conn *c)
{
    return c->use_dialect;
}
