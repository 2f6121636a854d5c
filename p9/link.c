/* SPDX-License-Identifier: MIT */
/*
 * Reading and writing through a link: what the engine calls instead of the wire.
 *
 * Writing. What the engine hands over is first copied to what is kept, and only as much of it as
 * can be sent soon: when nothing that was copied before is waiting to be sent. Then it is sent from
 * there, a head and its bytes with one system call. A frame that was begun is ended before anything
 * else is said; a pure head is sent only when there is no data to carry what it says.
 *
 * Reading. Heads are taken out of a small buffer. The rest of a frame is read to where the engine
 * wants it, and what follows it lands in the small buffer with the same system call. Before the
 * link is agreed on the buffer collects the first message, and the engine is told that nothing
 * came.
 */
#include "p9/link_priv.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IN_SIZE = 8192, PARTS = 24, CONTROLS = 64 };

static struct p9_crew *crew_of(const struct link *l)
{
    return l->conn->crew;
}

/* ---- inside ---- */

void link_broke(struct link *l, const char *fmt, ...)
{
    if (l->state != LINK_UP)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(l->why, sizeof(l->why), fmt, ap);
    va_end(ap);
    l->state = LINK_DOWN;
    wire_cut(&l->conn->wire);
    crew_submit(l->conn->crew, &l->conn->link_task);
}

void link_enter(struct link *l)
{
    l->inside++;
    pthread_mutex_unlock(&l->lock);
}

void link_leave(struct link *l)
{
    pthread_mutex_lock(&l->lock);
    if (--l->inside == 0 && l->state == LINK_DOWN)
        crew_submit(l->conn->crew, &l->conn->link_task);
}

void link_reset(struct link *l)
{
    l->head_at = l->head_len = l->frame_left = 0;
    l->ack = l->pong = l->ping = l->bye = false;
    l->in_at = l->in_end = l->in_left = 0;
    l->told = l->taken;
    l->asked = 0;
    l->heard = mono_now();
}

/* Something moves: there will be something to look after when it stops. */
static void stir(struct link *l)
{
    l->moved = true;
    if (l->stirred)
        return;
    l->stirred = true;
    crew_clock(crew_of(l), l->conn, mono_now() + LINK_QUIET);
}

/* ---- writing ---- */

void link_acked(struct link *l)
{
    uint64_t to = l->acked < l->sent ? l->acked : l->sent;
    if (to > l->kept.start)
        kept_drop(&l->kept, crew_of(l), to);
}

/* What the writer is to send next; false if nothing. */
static bool next_frame(struct link *l)
{
    struct frame f = {.acked = l->taken};
    if (l->head_at < l->head_len || l->frame_left)
        return true;
    if (l->state != LINK_UP)
        return false;
    if (l->kept.end > l->sent) {
        f.size = (uint32_t)(l->kept.end - l->sent < FRAME_MAX ? l->kept.end - l->sent : FRAME_MAX);
        l->tried = l->sent + f.size > l->tried ? l->sent + f.size : l->tried;
    } else if (l->ping) {
        f.kind = FRAME_PING;
        l->ping = false;
    } else if (l->pong || l->ack) {
        f.kind = FRAME_ACK;
    } else {
        return false;
    }
    frame_encode(&f, l->head);
    l->head_at = 0;
    l->head_len = FRAME_HEAD;
    l->frame_left = f.size;
    l->told = l->taken;
    l->ack = false;
    if (f.kind != FRAME_PING)
        l->pong = false;
    return true;
}

/* Sends until nothing is left to send: 0, or -EAGAIN, or that the channel is broken. */
static int flush(struct link *l)
{
    struct iovec iov[PARTS];
    while (next_frame(l)) {
        uint32_t nhead = l->head_len - l->head_at;
        iov[0] = (struct iovec){l->head + l->head_at, nhead};
        int first = nhead ? 0 : 1;
        int n = 1 + kept_find(&l->kept, l->sent, l->frame_left, iov + 1, PARTS - 1);
        link_enter(l);
        ssize_t r = wire_write(&l->conn->wire, iov + first, n - first, NULL);
        link_leave(l);
        if (l->state == LINK_PLAIN) /* our question was out before we could note it */
            return 0;
        if (l->state != LINK_UP && l->state != LINK_ASKS)
            return LINK_STALL;
        if (r == -EAGAIN)
            return -EAGAIN;
        if (r < 0) {
            link_broke(l, "%s", strerror((int)-r));
            return l->state == LINK_DOWN ? LINK_STALL : (int)r;
        }
        uint32_t part = r < nhead ? (uint32_t)r : nhead;
        l->head_at += part;
        l->frame_left -= (uint32_t)r - part;
        l->sent += (uint32_t)r - part;
        link_acked(l);
    }
    return 0;
}

static size_t room(const struct link *l)
{
    uint64_t kept = l->kept.end - l->kept.start;
    return kept < LIMIT_LINK_KEPT ? (size_t)(LIMIT_LINK_KEPT - kept) : 0;
}

static ssize_t write_up(struct link *l, const struct iovec *iov, int n)
{
    size_t total = 0, done = 0;
    for (int i = 0; i < n; i++)
        total += iov[i].iov_len;
    for (;;) {
        int r = flush(l);
        if (r < 0)
            return done ? (ssize_t)done : r;
        if (done == total)
            return (ssize_t)done;
        l->stalled = l->state == LINK_UP && !room(l);
        if (l->state != LINK_UP || l->stalled)
            return done ? (ssize_t)done : LINK_STALL;
        size_t max = room(l) < FRAME_MAX ? room(l) : FRAME_MAX;
        size_t some = kept_add(&l->kept, crew_of(l), iov, n, done, max);
        if (!some)
            return done ? (ssize_t)done : -ENOMEM;
        done += some;
        stir(l);
    }
}

ssize_t link_write(struct p9_conn *c, const struct iovec *iov, int n, const int *lend)
{
    struct link *l = c->link;
    ssize_t r = LINK_STALL;
    if (!l || l->state == LINK_PLAIN)
        return wire_write(&c->wire, iov, n, lend);
    pthread_mutex_lock(&l->lock);
    l->writes = true;
    if (l->state == LINK_UP || l->state == LINK_ASKS)
        r = write_up(l, iov, n);
    l->writes = false;
    pthread_mutex_unlock(&l->lock);
    return r;
}

bool link_stalled(struct p9_conn *c)
{
    struct link *l = c->link;
    if (!l || l->state == LINK_PLAIN)
        return false;
    pthread_mutex_lock(&l->lock);
    bool stalled = l->state != LINK_UP || (!room(l) && l->kept.end == l->sent);
    pthread_mutex_unlock(&l->lock);
    return stalled;
}

bool link_wants(struct p9_conn *c)
{
    struct link *l = c->link;
    if (!l || l->state == LINK_PLAIN)
        return false;
    pthread_mutex_lock(&l->lock);
    bool wants = l->head_at < l->head_len && (l->state == LINK_ASKS || l->state == LINK_UP);
    wants |= l->state == LINK_UP &&
             (l->frame_left || l->kept.end > l->sent || l->ack || l->pong || l->ping);
    pthread_mutex_unlock(&l->lock);
    return wants;
}

bool link_unsent(const struct p9_conn *c)
{
    struct link *l = c->link;
    if (!l)
        return false;
    pthread_mutex_lock(&l->lock);
    bool unsent = l->kept.end > l->sent || l->frame_left || l->head_at < l->head_len;
    pthread_mutex_unlock(&l->lock);
    return unsent;
}

/* ---- reading ---- */

static uint32_t buffered(const struct link *l)
{
    return l->in_end - l->in_at;
}

/* Copies at most `max` buffered bytes to iov, behind `done`. */
static size_t copy_out(struct link *l, const struct iovec *iov, int n, size_t done, size_t max)
{
    size_t skip = done, sum = 0;
    if (max > buffered(l))
        max = buffered(l);
    for (int i = 0; i < n && sum < max; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        size_t part = iov[i].iov_len - skip < max - sum ? iov[i].iov_len - skip : max - sum;
        memcpy((uint8_t *)iov[i].iov_base + skip, l->in + l->in_at, part);
        l->in_at += (uint32_t)part;
        sum += part;
        skip = 0;
    }
    return sum;
}

static int take_head(struct link *l)
{
    struct frame f;
    int r = frame_decode(l->in + l->in_at, &f);
    if (r < 0 || f.acked < l->acked || f.acked > l->tried)
        return -EPROTO;
    l->in_at += FRAME_HEAD;
    l->in_left = f.size;
    l->any = true;
    l->backoff = 0;
    if (f.acked > l->acked) {
        l->acked = f.acked;
        link_acked(l);
    }
    l->pong |= f.kind == FRAME_PING;
    l->bye |= f.kind == FRAME_BYE;
    return 0;
}

/* What is buffered: heads are heeded, bytes copied to iov, until that is full or more is needed. */
static ssize_t take_frames(struct link *l, const struct iovec *iov, int n)
{
    size_t done = 0;
    int controls = 0;
    for (;;) {
        if (l->in_left && buffered(l)) {
            size_t part = copy_out(l, iov, n, done, l->in_left);
            if (!part)
                break;
            l->in_left -= (uint32_t)part;
            done += part;
        } else if (l->in_left || l->bye || buffered(l) < FRAME_HEAD) {
            break;
        } else if (take_head(l) < 0) {
            return done ? (ssize_t)done : -EPROTO;
        } else if (!l->in_left && ++controls == CONTROLS) {
            return done ? (ssize_t)done : -EAGAIN;
        }
    }
    return (ssize_t)done;
}

static void took(struct link *l, size_t n)
{
    l->taken += n;
    l->ack |= l->taken - l->told >= LIMIT_LINK_KEPT / 4;
    stir(l);
}

/* iov, cut to `max` bytes, and the free part of the small buffer. The number of parts. */
static int into(struct link *l, const struct iovec *iov, int n, size_t max, struct iovec *ret)
{
    int k = 0;
    for (int i = 0; i < n && max; i++) {
        size_t len = iov[i].iov_len < max ? iov[i].iov_len : max;
        if (len)
            ret[k++] = (struct iovec){iov[i].iov_base, len};
        max -= len;
    }
    if (!max) /* else the frame does not end here */
        ret[k++] = (struct iovec){l->in + l->in_end, IN_SIZE - l->in_end};
    return k;
}

static void compact(struct link *l)
{
    if (l->in_at)
        memmove(l->in, l->in + l->in_at, buffered(l));
    l->in_end -= l->in_at;
    l->in_at = 0;
}

/* Some more from the channel: how much of it went to iov (0: it is all in the buffer), or -EAGAIN,
 * or that it has ended (-EPIPE) or failed. */
static ssize_t more(struct link *l, const struct iovec *iov, int n, int timeout)
{
    struct iovec parts[8];
    compact(l);
    n = into(l, iov, n < 7 ? n : 7, l->in_left, parts);
    link_enter(l);
    ssize_t r = wire_read(&l->conn->wire, parts, n, timeout);
    link_leave(l);
    if (l->state == LINK_DOWN || l->state == LINK_OVER)
        return LINK_STALL;
    if (r <= 0)
        return r == 0 ? -EPIPE : r;
    if (l->state == LINK_UP)
        l->heard = mono_now();
    size_t direct = (size_t)r < l->in_left ? (size_t)r : l->in_left;
    l->in_left -= (uint32_t)direct;
    l->in_end += (uint32_t)((size_t)r - direct);
    return (ssize_t)direct;
}

static ssize_t read_up(struct link *l, const struct iovec *iov, int n, int timeout)
{
    for (;;) {
        ssize_t r = take_frames(l, iov, n);
        if (r > 0)
            took(l, (size_t)r);
        if (r != 0)
            return r;
        if (l->bye && !l->in_left)
            return 0;
        r = more(l, iov, n, timeout);
        if (r > 0)
            took(l, (size_t)r);
        if (r > 0 || r == -EAGAIN || r == -EINTR || r == LINK_STALL)
            return r;
        if (r < 0) {
            if (r == -EPIPE)
                link_broke(l, "the other end closed it");
            else
                link_broke(l, "%s", strerror((int)-r));
            return LINK_STALL;
        }
        if (l->pong || l->ack || l->stalled) /* which the engine sees to */
            timeout = 0;
    }
}

/* ---- agreeing ---- */

/* The first message is another's: what has come is the engine's. */
static void plain(struct link *l)
{
    l->head_at = l->head_len = 0;
    l->state = LINK_PLAIN;
}

static uint32_t size_at(const uint8_t *p)
{
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static void say(struct link *l, const struct agree *a, uint8_t type)
{
    l->head_at = 0;
    l->head_len = (uint32_t)agree_encode(a, type, l->conn->opts.msize, l->head);
}

static void up(struct link *l, const struct agree *a)
{
    int64_t s = a->linger > LIMIT_LINGER ? LIMIT_LINGER : (int64_t)a->linger;
    if (s * 1000000000 < l->linger)
        l->linger = s * 1000000000;
    l->state = LINK_UP;
    l->heard = mono_now();
    atomic_store(&l->conn->linked, true);
    stir(l);
}

/* The end that dialed: what its question was answered. A called end that wanted to speak first (and
 * knows no links) may have asked something itself meanwhile: that stays for the engine. 0: more
 * bytes are needed. */
static int heed_answer(struct link *l)
{
    uint32_t at = 0, size;
    const uint8_t *m = l->in;
    for (;; at += size) {
        if (l->in_end - at < P9_HDRSZ)
            return l->in_end < IN_SIZE ? 0 : -EPROTO;
        m = l->in + at;
        size = size_at(m);
        if (size < P9_HDRSZ || size > IN_SIZE - at) {
            plain(l); /* and no 9P */
            return 1;
        }
        if (l->in_end - at < size)
            return 0;
        if (m[4] % 2)
            break;
    }
    struct agree a;
    agree_decode(m, size, &a);
    memmove(l->in + at, l->in + at + size, l->in_end - at - size);
    l->in_end -= size;
    if (a.kind != AGREE_LINK || a.taken != 0 || a.linger == UINT64_MAX || a.linger == 0) {
        plain(l);
        return a.kind == AGREE_NO ? 1 : -EPROTO;
    }
    if (at) /* it was asked in plain 9P */
        return -EPROTO;
    memcpy(l->id, a.id, sizeof(l->id));
    up(l, &a);
    return 1;
}

/* The end that was called. */
static int heed_question(struct link *l)
{
    struct p9_links *links = l->conn->opts.link.links;
    uint32_t size = l->in_end < 4 ? 0 : size_at(l->in);
    struct agree a;
    if (l->in_end < 5)
        return 0;
    if (l->in[4] != P9_Tversion || size < P9_HDRSZ || size > AGREE_MAX) {
        plain(l);
        return 1;
    }
    if (l->in_end < size)
        return 0;
    agree_decode(l->in, size, &a);
    if (a.kind == AGREE_NEW && a.linger) {
        int64_t most = links_linger(links);
        pthread_mutex_unlock(&l->lock);
        int r = links_add(links, l);
        pthread_mutex_lock(&l->lock);
        if (l->state != LINK_LISTENS)
            return LINK_STALL;
        if (r == 0) {
            l->in_at = size;
            l->linger = l->linger < most ? l->linger : most;
            up(l, &a);
            a.kind = AGREE_LINK;
            a.linger = link_seconds(l->linger);
            memcpy(a.id, l->id, sizeof(a.id));
            say(l, &a, P9_Rversion);
            return 1;
        }
    } else if (a.kind == AGREE_LINK && a.linger == UINT64_MAX) {
        memcpy(l->id, a.id, sizeof(l->id));
        l->in_at = size;
        l->next_taken = a.taken;
        l->state = LINK_MOVES;
        return LINK_STALL;
    }
    plain(l); /* the engine says that it does not know this version */
    return 1;
}

/* Until it is decided the engine gets nothing. */
static ssize_t agree(struct link *l, int timeout)
{
    for (;;) {
        ssize_t r = more(l, NULL, 0, timeout);
        if (r == -EAGAIN || r == -EINTR || r == LINK_STALL)
            return r;
        if (r < 0) { /* what little has come is the engine's, and then the end */
            plain(l);
            return 1;
        }
        if (l->state == LINK_PLAIN) /* it was waited for long enough */
            return 1;
        r = l->dialed ? heed_answer(l) : heed_question(l);
        if (r != 0)
            return r;
    }
}

ssize_t link_read(struct p9_conn *c, const struct iovec *iov, int n, int timeout)
{
    struct link *l = c->link;
    ssize_t r;
    if (!l || (l->state == LINK_PLAIN && !l->in))
        return wire_read(&c->wire, iov, n, timeout);
    pthread_mutex_lock(&l->lock);
    if (!l->in && !(l->in = malloc(IN_SIZE))) {
        pthread_mutex_unlock(&l->lock);
        return -ENOMEM;
    }
    r = 1;
    if (l->state == LINK_ASKS || l->state == LINK_LISTENS) {
        r = agree(l, timeout);
        timeout = 0; /* the engine may write from now on */
    }
    if (r <= 0)
        ;
    else if (l->state == LINK_UP)
        r = read_up(l, iov, n, timeout);
    else if (l->state == LINK_PLAIN)
        r = (ssize_t)copy_out(l, iov, n, 0, IN_SIZE);
    else
        r = LINK_STALL;
    bool bare = l->state == LINK_PLAIN && r >= 0 && !buffered(l);
    if (bare) {
        free(l->in);
        l->in = NULL;
    }
    pthread_mutex_unlock(&l->lock);
    return r == 0 && bare ? wire_read(&c->wire, iov, n, timeout) : r;
}

bool link_pending(const struct p9_conn *c)
{
    const struct link *l = c->link;
    if (!l)
        return wire_pending(&c->wire);
    if (l->state == LINK_PLAIN || l->state == LINK_ASKS || l->state == LINK_LISTENS)
        return (l->state == LINK_PLAIN && l->in) || wire_pending(&c->wire);
    return l->state == LINK_UP && ((l->in_left ? buffered(l) > 0 : buffered(l) >= FRAME_HEAD) ||
                                   l->bye || wire_pending(&c->wire));
}

bool link_there(const struct p9_conn *c)
{
    return c->link && c->link->state != LINK_PLAIN;
}

bool link_reads(const struct p9_conn *c)
{
    return link_there(c) && (c->link->state != LINK_UP || !c->link->stirred);
}

void link_rest(struct p9_conn *c)
{
    struct link *l = c->link;
    if (!l || l->state == LINK_PLAIN)
        return;
    pthread_mutex_lock(&l->lock);
    if (!buffered(l)) {
        free(l->in);
        l->in = NULL;
        l->in_at = l->in_end = 0;
    }
    pthread_mutex_unlock(&l->lock);
}

/* ---- waiting ---- */

int link_wait(struct p9_conn *c, bool in, bool poke, int timeout)
{
    struct link *l = c->link;
    int r = WIRE_OUT;
    if (!l || (l->state == LINK_PLAIN && !(in && l->in)))
        return wire_wait(&c->wire, in, poke, timeout);
    if (in && link_pending(c))
        return WIRE_IN;
    pthread_mutex_lock(&l->lock);
    if (l->state == LINK_UP || l->state == LINK_ASKS) {
        link_enter(l);
        r = wire_wait(&c->wire, in, poke, timeout);
        link_leave(l);
    }
    pthread_mutex_unlock(&l->lock);
    return r;
}
