/* SPDX-License-Identifier: MIT */
/*
 * What a link takes from its peer: heads of frames, the messages that agree on it, and the reader
 * over both, fed by an io that gives the input away in pieces. The first byte of the input says
 * what: 0 a message, 1 a head, 2 the reader of a link that is up, 3 of an end that was called, 4 of
 * one that dialed; its upper half how long the pieces are. What the reader of a link delivers is
 * compared with what a simple one makes of the same bytes.
 */
#include "p9/link_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

/* ---- decoders ---- */

static void message(const uint8_t *data, size_t size)
{
    struct agree a, b;
    uint8_t again[AGREE_MAX];
    agree_decode(data, size, &a);
    if (a.kind == AGREE_NO)
        return;
    check(size <= AGREE_MAX && (a.kind != AGREE_LINK || strlen(a.id) == P9_LINK_ID));
    uint32_t msize = data[7] | data[8] << 8 | data[9] << 16 | (uint32_t)data[10] << 24;
    size_t n = agree_encode(&a, data[4], msize, again);
    check(n == size && !memcmp(again, data, n));
    agree_decode(again, n, &b);
    check(b.kind == a.kind && b.taken == a.taken && b.linger == a.linger);
}

static void head(const uint8_t *data, size_t size)
{
    struct frame f;
    uint8_t again[FRAME_HEAD];
    if (size < FRAME_HEAD || frame_decode(data, &f) < 0)
        return;
    check(f.size <= LIMIT_LINK_FRAME && f.kind <= FRAME_BYE);
    frame_encode(&f, again);
    check(!memcmp(again, data, FRAME_HEAD));
}

/* ---- the reader ---- */

enum { TRIED = 1000 };

struct feed {
    const uint8_t *data;
    size_t size, at, piece;
    bool pause; /* every other time nothing comes */
};

static ssize_t feed_read(struct chan *ch, const struct iovec *iov, int n)
{
    struct feed *f = ch->io_state;
    size_t done = 0, max = f->size - f->at < f->piece ? f->size - f->at : f->piece;
    f->pause = !f->pause;
    if (f->pause)
        return -EAGAIN;
    for (int i = 0; i < n && done < max; i++) {
        size_t part = iov[i].iov_len < max - done ? iov[i].iov_len : max - done;
        memcpy(iov[i].iov_base, f->data + f->at, part);
        f->at += part;
        done += part;
    }
    return (ssize_t)done;
}

static ssize_t feed_write(struct chan *ch, const struct iovec *iov, int n)
{
    return -EAGAIN;
}

static bool feed_pending(const struct chan *ch)
{
    return true;
}

static void feed_close(struct chan *ch) {}

static const struct chan_io feed_io = {feed_read, feed_write, feed_pending, feed_close};

static void nothing(struct p9_conn *c, struct task *task) {}

/* What 9P there is in the frames of the input; *ends: the offset at which they make no sense, or
 * goodbye is said. */
static size_t expected(const uint8_t *data, size_t size, uint8_t *out, bool *ends)
{
    size_t at = 0, n = 0;
    uint64_t acked = 0;
    *ends = false;
    while (size - at >= FRAME_HEAD) {
        struct frame f;
        if (frame_decode(data + at, &f) < 0 || f.acked < acked || f.acked > TRIED ||
            f.kind == FRAME_BYE) {
            *ends = true;
            return n;
        }
        acked = f.acked;
        at += FRAME_HEAD;
        size_t part = f.size < size - at ? f.size : size - at;
        memcpy(out + n, data + at, part);
        n += part;
        at += part;
    }
    return n;
}

/* Reads to the end, into buffers of changing sizes. */
static size_t drain(struct p9_conn *c, const struct feed *feed, uint8_t *out, size_t size,
                    ssize_t *last)
{
    size_t n = 0, at = 0;
    unsigned turn = 0;
    for (int idle = 0; idle < 8;) {
        uint8_t a[300], b[64];
        struct iovec iov[2] = {{a, 1 + turn % sizeof(a)}, {b, sizeof(b)}};
        ssize_t r = link_read(c, iov, 2, 0);
        turn = turn * 31 + 7;
        *last = r;
        if (r == -EAGAIN) {
            idle = feed->at == at ? idle + 1 : 0;
            at = feed->at;
            continue;
        }
        if (r <= 0)
            break;
        idle = 0;
        size_t first = (size_t)r < iov[0].iov_len ? (size_t)r : iov[0].iov_len;
        check((size_t)r <= iov[0].iov_len + iov[1].iov_len && n + (size_t)r <= size);
        memcpy(out + n, a, first);
        memcpy(out + n + first, b, (size_t)r - first);
        n += (size_t)r;
    }
    return n;
}

static struct p9_crew *crew;
static struct p9_links *links;

static void reader(const uint8_t *data, size_t size, enum link_state state, size_t piece)
{
    struct feed feed = {data, size, 0, piece, false};
    struct p9_conn *c = calloc(1, sizeof(*c));
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    c->chan = (struct chan){.in = null, .out = null, .io = &feed_io, .io_state = &feed};
    c->chan.role = CHAN_ACCEPTED;
    c->crew = crew;
    c->opts.msize = 65536;
    c->opts.link.links = links;
    c->opts.link.linger = 1000000000;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->cond, NULL);
    c->link_task = c->look_task = (struct task){.run = nothing, .conn = c};
    check(wire_init(&c->wire, &c->chan, false, -1) == 0 && crew_add(crew, c, null) == 0);
    check(link_new(c) == 0 && c->link);
    struct link *l = c->link;
    l->state = state;
    if ((l->dialed = state == LINK_ASKS))
        l->linger = c->opts.link.linger;
    l->tried = l->sent = l->kept.start = l->kept.end = state == LINK_UP ? TRIED : 0;
    uint8_t *out = malloc(size + 1), *want = malloc(size + 1);
    bool ends;
    ssize_t last = 0;
    size_t n = drain(c, &feed, out, size, &last), nwant = expected(data, size, want, &ends);
    if (state == LINK_UP) {
        check(n == nwant && !memcmp(out, want, n));
        check(ends || last == LINK_STALL); /* the input ends without goodbye */
        check(l->taken == n);
    } else if (l->state == LINK_PLAIN && state == LINK_LISTENS) {
        check(n == size && !memcmp(out, data, n)); /* not a byte is lost */
    }
    links_del(l);
    crew_unwatch(crew, c, null);
    crew_del(crew, c);
    link_free(c);
    wire_done(&c->wire);
    close(null);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->cond);
    free(c);
    free(out);
    free(want);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum link_state states[] = {LINK_UP, LINK_LISTENS, LINK_ASKS};
    if (size < 1)
        return 0;
    if (!crew) {
        crew = p9_crew_new(1);
        links = p9_links_new(1000000000, 0);
    }
    unsigned what = data[0] & 15, piece = 1u << (data[0] >> 4);
    uint8_t *copy = malloc(size);
    memcpy(copy, data + 1, size - 1);
    if (what == 0)
        message(copy, size - 1);
    else if (what == 1)
        head(copy, size - 1);
    else if (what < 5)
        reader(copy, size - 1, states[what - 2], piece);
    free(copy);
    return 0;
}
