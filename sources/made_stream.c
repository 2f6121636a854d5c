/* SPDX-License-Identifier: MIT */
/*
 * Streams: a queue of records that all readers share. A record stays as long as a reader has not
 * had it, and no longer than the backlog allows: then those who have not had it have lost it.
 *
 * Locks: `pollers` guards who is in the list and their pollers, and is held while pollers are told,
 * so that none is after its reader left; `lock`, taken after it, guards all else. A poller may ask
 * for the state of its file, but not give a new poller, from within ready().
 */
#include "sources/made.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOTE_MAX 32         /* "(lost 18446744073709551615)\n" */
#define UNKNOWN  UINT64_MAX /* how many were lost with another server */

struct made_record {
    struct made_record *next;
    size_t n, refs; /* readers that have yet to pass it */
    char bytes[];
};

struct pl_stream {
    struct pl_made *made;
    struct pl_stream *next, **link; /* in made->streams, until the end */
    pthread_mutex_t pollers, lock;
    pthread_cond_t cond;
    unsigned refs; /* the program's, until the end, and the node's */
    size_t backlog, bytes;
    struct made_record *first, **last;
    struct made_reader *readers;
    unsigned nreaders;
    bool ended;
};

struct pl_stream *made_stream_new(struct pl_made *m, size_t backlog)
{
    struct pl_stream *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->made = m;
    s->backlog = backlog;
    s->refs = 2;
    s->last = &s->first;
    pthread_mutex_init(&s->pollers, NULL);
    pthread_mutex_init(&s->lock, NULL);
    pl_cond_init(&s->cond);
    pthread_mutex_lock(&m->lock);
    s->next = m->streams;
    s->link = &m->streams;
    if (s->next)
        s->next->link = &s->next;
    m->streams = s;
    pthread_mutex_unlock(&m->lock);
    return s;
}

void made_stream_unref(struct pl_stream *s)
{
    pthread_mutex_lock(&s->lock);
    bool last = --s->refs == 0;
    pthread_mutex_unlock(&s->lock);
    if (!last)
        return;
    pthread_cond_destroy(&s->cond);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->pollers);
    free(s);
}

void made_streams_free(struct pl_made *m)
{
    while (m->streams) {
        struct pl_stream *s = m->streams;
        m->streams = s->next;
        made_stream_unref(s);
    }
}

/* ---- readers ---- */

/* The oldest record goes, had or not. */
static void drop_first(struct pl_stream *s)
{
    struct made_record *rec = s->first;
    for (struct made_reader *r = s->readers; rec->refs && r; r = r->next) {
        if (r->pos == rec) {
            r->pos = rec->next;
            r->lost += r->lost != UNKNOWN;
        }
    }
    s->first = rec->next;
    if (!s->first)
        s->last = &s->first;
    s->bytes -= rec->n;
    free(rec);
}

/* The reader is done with the record at its position. */
static void pass(struct pl_stream *s, struct made_reader *r)
{
    r->pos->refs--;
    r->pos = r->pos->next;
    while (s->first && s->first->refs == 0)
        drop_first(s);
}

void made_stream_join(struct pl_stream *s, struct made_reader *r)
{
    pthread_mutex_lock(&s->pollers);
    pthread_mutex_lock(&s->lock);
    r->next = s->readers;
    r->link = &s->readers;
    if (r->next)
        r->next->link = &r->next;
    s->readers = r;
    s->nreaders++;
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_unlock(&s->pollers);
}

void made_stream_resumed(struct pl_stream *s, struct made_reader *r)
{
    pthread_mutex_lock(&s->lock);
    r->lost = UNKNOWN;
    pthread_mutex_unlock(&s->lock);
}

void made_stream_leave(struct pl_stream *s, struct made_reader *r)
{
    pthread_mutex_lock(&s->pollers);
    pthread_mutex_lock(&s->lock);
    *r->link = r->next;
    if (r->next)
        r->next->link = r->link;
    s->nreaders--;
    while (r->pos)
        pass(s, r);
    free(r->now);
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_unlock(&s->pollers);
}

static struct made_record *record(const void *bytes, size_t n)
{
    struct made_record *rec = malloc(sizeof(*rec) + n);
    if (rec) {
        *rec = (struct made_record){.n = n};
        memcpy(rec->bytes, bytes, n);
    }
    return rec;
}

/* Moves the start of the reader's next record, or what it must be told, to r->now. */
static int begin(struct pl_stream *s, struct made_reader *r)
{
    char text[NOTE_MAX];
    if (r->lost) {
        int n = r->lost == UNKNOWN
                    ? snprintf(text, sizeof(text), "(lost ?)\n")
                    : snprintf(text, sizeof(text), "(lost %llu)\n", (unsigned long long)r->lost);
        r->now = record(text, (size_t)n);
    } else {
        r->now = record(r->pos->bytes, r->pos->n);
    }
    r->at = 0;
    if (!r->now)
        return -ENOMEM;
    if (r->lost)
        r->lost = 0;
    else
        pass(s, r);
    return 0;
}

/* As many whole records as fit; of one that does not fit alone, the next part. */
static ssize_t take(struct pl_stream *s, struct made_reader *r, char *buf, size_t n)
{
    size_t done = 0;
    while (done < n && (r->now || r->lost || r->pos)) {
        if (!r->now && !r->lost && r->pos->n <= n - done) {
            memcpy(buf + done, r->pos->bytes, r->pos->n);
            done += r->pos->n;
            pass(s, r);
            continue;
        }
        if (!r->now && done && !(r->lost && n - done >= NOTE_MAX))
            break;
        int e = r->now ? 0 : begin(s, r);
        if (e < 0)
            return e;
        size_t part = r->now->n - r->at < n - done ? r->now->n - r->at : n - done;
        memcpy(buf + done, r->now->bytes + r->at, part);
        done += part;
        r->at += part;
        if (r->at < r->now->n)
            break;
        free(r->now);
        r->now = NULL;
    }
    return (ssize_t)done;
}

static bool ready(const struct pl_stream *s, const struct made_reader *r)
{
    return r->now || r->lost || r->pos || s->ended;
}

static void wake(void *arg)
{
    struct pl_stream *s = arg;
    pthread_mutex_lock(&s->lock);
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
}

static int wait_ready(struct pl_stream *s, struct pl_call *call, struct made_reader *r)
{
    int e = pl_call_block(call, wake, s);
    if (e < 0)
        return e;
    pthread_mutex_lock(&s->lock);
    while (!ready(s, r) && !(e = pl_call_over(call)))
        pl_call_wait(call, &s->cond, &s->lock);
    pthread_mutex_unlock(&s->lock);
    pl_call_unblock(call);
    return e;
}

ssize_t made_stream_read(struct pl_stream *s, struct pl_call *call, struct made_reader *r,
                         bool wait, void *buf, size_t n)
{
    if (n == 0)
        return 0;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        bool now = ready(s, r);
        ssize_t got = now ? take(s, r, buf, n) : -EAGAIN;
        pthread_mutex_unlock(&s->lock);
        int e = now || !wait ? 0 : wait_ready(s, call, r);
        if (now || !wait || e < 0)
            return e < 0 ? e : got;
    }
}

int made_stream_poll(struct pl_stream *s, struct made_reader *r, struct pl_poller *poller)
{
    if (poller) {
        pthread_mutex_lock(&s->pollers);
        r->poller = poller;
        pthread_mutex_unlock(&s->pollers);
    }
    pthread_mutex_lock(&s->lock);
    int events = ready(s, r) ? POLLIN | POLLRDNORM : 0;
    if (s->ended && !r->now && !r->lost && !r->pos)
        events |= POLLHUP;
    pthread_mutex_unlock(&s->lock);
    return events;
}

/* ---- the program's side ---- */

/* Wakes the readers. With `pollers` held, and not `lock`. */
static void tell(struct pl_stream *s)
{
    for (struct made_reader *r = s->readers; r; r = r->next)
        if (r->poller)
            r->poller->ready(r->poller);
}

int pl_stream_send(struct pl_stream *s, const void *bytes, size_t n)
{
    if (n == 0)
        return 0;
    struct made_record *rec = record(bytes, n);
    if (!rec)
        return -ENOMEM;
    pthread_mutex_lock(&s->pollers);
    pthread_mutex_lock(&s->lock);
    int r = s->ended ? -EPIPE : 0;
    if (r < 0 || !s->nreaders) {
        free(rec);
    } else {
        rec->refs = s->nreaders;
        *s->last = rec;
        s->last = &rec->next;
        s->bytes += n;
        for (struct made_reader *reader = s->readers; reader; reader = reader->next)
            if (!reader->pos)
                reader->pos = rec;
        while (s->bytes > s->backlog && s->first != rec)
            drop_first(s);
        pthread_cond_broadcast(&s->cond);
    }
    pthread_mutex_unlock(&s->lock);
    tell(s);
    pthread_mutex_unlock(&s->pollers);
    return r;
}

void pl_stream_end(struct pl_stream *s)
{
    struct pl_made *m = s->made;
    pthread_mutex_lock(&s->pollers);
    pthread_mutex_lock(&s->lock);
    bool was = s->ended;
    s->ended = true;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
    if (!was)
        tell(s);
    pthread_mutex_unlock(&s->pollers);
    if (was)
        return;
    pthread_mutex_lock(&m->lock);
    *s->link = s->next;
    if (s->next)
        s->next->link = s->link;
    pthread_mutex_unlock(&m->lock);
    made_stream_unref(s);
}
