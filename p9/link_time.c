/* SPDX-License-Identifier: MIT */
/*
 * What happens to a connection when nothing else does: each has one time at which a worker looks
 * after it (crew_clock), set by whoever starts something that may come to nothing. While a link is
 * in use that is once in LINK_QUIET; when it has been quiet for as long, what was taken in is
 * acknowledged, memory is given back, and the next look is for the keepalive.
 */
#include "p9/link_priv.h"
#include <errno.h>
#include <poll.h>
#include <string.h>

static int64_t sooner(int64_t a, int64_t b)
{
    return !a || (b && b < a) ? b : a;
}

/* Nobody has looked at what has come: the other end is not to blame for its silence. */
static bool unread(struct p9_conn *c)
{
    struct pollfd p = {.fd = c->wire.in, .events = POLLIN};
    return poll(&p, 1, 0) > 0 && !(p.revents & (POLLHUP | POLLERR));
}

/* Asks when nothing was heard for long. When to look again, or -1: it was asked and said nothing.
 */
static int64_t keepalive(struct p9_conn *c, int64_t now, int64_t heard, int64_t *asked)
{
    int64_t period = c->opts.link.keepalive;
    if (*asked && heard >= *asked)
        *asked = 0;
    if (now < heard + period)
        return heard + period;
    if (!*asked) {
        *asked = now;
        return now + period;
    }
    if (now < *asked + period)
        return *asked + period;
    return unread(c) ? now + period : -1;
}

static int64_t look_up(struct p9_conn *c, struct link *l, int64_t now)
{
    int64_t at = 0;
    pthread_mutex_lock(&l->lock);
    if (l->state == LINK_UP && l->stirred) {
        l->stirred = l->moved;
        l->moved = false;
        if (l->stirred)
            at = now + LINK_QUIET;
        else {
            l->ack |= l->taken > l->told;
            kept_trim(&l->kept, c->crew);
        }
    }
    if (l->state == LINK_UP && c->opts.link.keepalive) {
        int64_t was = l->asked;
        int64_t next = keepalive(c, now, l->heard, &l->asked);
        l->ping |= l->asked && l->asked != was;
        if (next < 0)
            link_broke(l, "nothing was heard from the other end for %lld s",
                       (long long)((now - l->heard) / 1000000000));
        else
            at = sooner(at, next);
    }
    bool quiet = !l->stirred;
    pthread_mutex_unlock(&l->lock);
    if (quiet) {
        read_rest(c);
        role_check(c);
    }
    if (link_wants(c))
        out_push(c);
    return at;
}

static int64_t look_down(struct p9_conn *c, struct link *l, int64_t now)
{
    int64_t linger = l->linger, soft = c->opts.link.soft, brief = LIMIT_HELLO * 1000000000LL;
    if (linger > brief && (!l->any || link_may_end(c)))
        linger = brief; /* the other end may not even know of it, or has no need of it */
    if (now >= c->down_since + linger) {
        link_over(c, l->last[0] ? l->last : "it did not come back in time");
        return 0;
    }
    if (!soft || c->down_soft)
        return c->down_since + linger;
    if (now < c->down_since + soft)
        return sooner(c->down_since + linger, c->down_since + soft);
    c->down_soft = true;
    use_fail_soft(c);
    return c->down_since + linger;
}

/* The first message is bounded from when some of it has come. */
static int64_t look_listening(struct p9_conn *c, struct link *l, int64_t now)
{
    int64_t hello = LIMIT_HELLO * 1000000000LL;
    pthread_mutex_lock(&l->lock);
    bool listens = l->state == LINK_LISTENS, half = l->in && l->in_end, slow = half && l->half;
    l->half = half;
    if (listens && !half && !c->opts.handler) /* nor do we, if we wait */
        l->state = LINK_PLAIN;
    pthread_mutex_unlock(&l->lock);
    if (!listens)
        return 0;
    if (slow)
        conn_lost(c, -ETIMEDOUT, "the other end said half a message in %d s", LIMIT_HELLO);
    else if (!c->opts.handler)
        out_push(c);
    return now + hello;
}

static int64_t look_plain(struct p9_conn *c, int64_t now)
{
    if (!c->opts.link.keepalive || (c->use != USE_OPEN && c->use != USE_ENDING))
        return 0;
    int64_t was = c->keep_asked;
    int64_t next = keepalive(c, now, c->heard, &c->keep_asked);
    if (next < 0)
        conn_lost(c, -ETIMEDOUT,
                  "the link was lost: nothing was heard from the other end for "
                  "%lld s",
                  (long long)((now - c->heard) / 1000000000));
    else if (c->keep_asked && c->keep_asked != was)
        use_keep(c);
    return next;
}

void link_look(struct p9_conn *c, struct task *task)
{
    struct link *l = c->link;
    int64_t now = mono_now(), at = 0;
    pthread_mutex_lock(&c->lock);
    enum link_state state = l ? l->state : LINK_PLAIN;
    if (c->state != LIVE)
        ;
    else if (c->down)
        at = look_down(c, l, now);
    else if (state == LINK_UP)
        at = look_up(c, l, now);
    else if (state == LINK_LISTENS)
        at = look_listening(c, l, now);
    else if (state == LINK_PLAIN)
        at = look_plain(c, now);
    if (at > 0 && c->state == LIVE)
        crew_clock(c->crew, c, at);
    conn_unlock(c);
}

void link_watch_plain(struct p9_conn *c)
{
    if (!c->opts.link.keepalive || (c->link && c->link->state != LINK_PLAIN))
        return;
    c->heard = mono_now();
    crew_clock(c->crew, c, c->heard + c->opts.link.keepalive);
}
