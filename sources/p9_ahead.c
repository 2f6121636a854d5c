/* SPDX-License-Identifier: MIT */
/*
 * Reading ahead through the 9P source. Who reads a file from one end to the other finds what comes
 * next already here, or on its way: *chunks* of the file, in order, each a Tread. At the second
 * read that begins where the one before ended a few are asked for; while they turn out to be wanted
 * they become more, up to LIMIT_AHEAD for a file and all files of a tree together.
 *
 * What was read ahead is only used by who goes on reading there through the same open file, at most
 * P9S_BELIEF after it was asked for (but by who was waiting for it in any case, as in an ordinary
 * read), and not when this tree has changed the file since. Else it is dropped, and asked for
 * again; if that was for its age, less will be read ahead. The end of a file is never taken from a
 * chunk, but asked for.
 *
 * `mutex` guards the rest; nobody waits with it. A chunk that somebody waits for (`users`) is freed
 * by the last of them when it was dropped meanwhile.
 */
#include "base/futex.h"
#include "sources/p9_again.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 256 << 10, CHUNKS = LIMIT_AHEAD / CHUNK, FIRST = 4 * CHUNK };
/* Reads that are under way together come in any order (the kernel has several MiB of them): this
 * far from where the farthest ended one still goes on there. */
enum { SLACK = LIMIT_AHEAD };

struct chunk {
    uint64_t off;
    uint32_t size; /* asked for */
    uint32_t have; /* once it is done */
    uint32_t used; /* bytes that were read */
    unsigned users;
    bool done, dropped, awaited;
    int error;
    int64_t asked;
    uint64_t since; /* the tree's clock then */
    struct p9_pending *pending;
    struct p9_answer answer;
};

struct p9s_ahead {
    struct p9s_aside aside;
    pthread_mutex_t mutex;
    uint64_t next;   /* where the reader goes on */
    unsigned streak; /* reads that did */
    uint32_t window; /* bytes to have ahead of it */
    uint64_t end;    /* of what was asked for */
    unsigned n;
    struct chunk *chunk[CHUNKS]; /* in the order of the file */
};

/* ---- chunks ---- */

static void chunk_free(struct p9s_tree *t, struct chunk *c)
{
    if (c->pending)
        p9s_try_abandon(t, c->pending);
    p9_answer_free(&c->answer);
    atomic_fetch_sub(&t->ahead, c->size);
    free(c);
}

static void drop(struct p9s_tree *t, struct p9s_ahead *a, unsigned i)
{
    struct chunk *c = a->chunk[i];
    memmove(a->chunk + i, a->chunk + i + 1, (--a->n - i) * sizeof(*a->chunk));
    c->dropped = true;
    if (c->users == 0)
        chunk_free(t, c);
}

static void drop_all(struct p9s_tree *t, struct p9s_ahead *a)
{
    while (a->n)
        drop(t, a, a->n - 1);
    a->end = 0;
}

void p9s_ahead_free(struct p9s_tree *t, struct p9s_ahead *a)
{
    if (!a)
        return;
    p9s_aside_del(t, &a->aside);
    drop_all(t, a);
    pthread_mutex_destroy(&a->mutex);
    free(a);
}

/* Asks for more, as long as it goes without waiting. */
static void ask(struct p9s_tree *t, struct p9s_file *f, struct p9s_ahead *a)
{
    uint64_t size = atomic_load(&((struct p9s_node *)f->file.node)->size);
    uint32_t most = t->chunk < CHUNK ? t->chunk : CHUNK;
    if (a->end < a->next)
        a->end = a->next;
    while (a->n < CHUNKS && a->end < size && a->end - a->next < a->window) {
        uint32_t n = size - a->end < most ? (uint32_t)(size - a->end) : most;
        if (atomic_fetch_add(&t->ahead, n) + n > LIMIT_AHEAD) {
            atomic_fetch_sub(&t->ahead, n);
            return;
        }
        struct chunk *c = calloc(1, sizeof(*c));
        struct p9_msg m = {.type = P9_Tread, .fid = f->fid, .offset = a->end, .count = n};
        if (c) {
            *c = (struct chunk){
                .off = a->end, .size = n, .asked = mono_now(), .since = atomic_load(&t->clock)};
        }
        if (!c || p9s_try(t, &m, &c->pending) < 0) {
            atomic_fetch_sub(&t->ahead, n);
            free(c);
            return;
        }
        a->chunk[a->n++] = c;
        a->end += n;
    }
}

static void finish(struct p9s_tree *t, struct chunk *c)
{
    c->error = p9s_try_finish(t, c->pending, &c->answer);
    c->pending = NULL;
    c->have = c->error ? 0 : c->answer.r.count;
    if (c->have > c->size)
        c->error = -EIO;
    c->done = true;
}

/* The connection is over: so is what was under way. */
static void let_go(struct p9s_tree *t, struct p9s_aside *aside)
{
    struct p9s_ahead *a = (struct p9s_ahead *)aside;
    if (pthread_mutex_trylock(&a->mutex) != 0)
        return;
    for (unsigned i = 0; i < a->n; i++)
        if (!a->chunk[i]->done)
            finish(t, a->chunk[i]);
    pthread_mutex_unlock(&a->mutex);
}

/* Waits for the chunk, without the lock. 0, or why the caller must not wait any more. */
static int await(struct p9s_tree *t, struct pl_call *call, struct p9s_ahead *a, struct chunk *c)
{
    int r;
    if (c->done)
        return 0;
    c->users++;
    c->awaited = true;
    r = p9s_try_wait(t, call, c->pending, &a->mutex);
    if (r == 0 && !c->done)
        finish(t, c);
    if (--c->users == 0 && c->dropped) {
        chunk_free(t, c);
        return r < 0 ? r : -EAGAIN;
    }
    return r < 0 ? r : c->dropped ? -EAGAIN : 0;
}

/* ---- reading ---- */

/* The chunk where the byte at `off` is, or will be; its place in *i. */
static struct chunk *find(struct p9s_ahead *a, uint64_t off, unsigned *i)
{
    for (*i = 0; *i < a->n; ++*i) {
        struct chunk *c = a->chunk[*i];
        if (off >= c->off && off < c->off + c->size)
            return c;
    }
    return NULL;
}

/* Notes where a read is, and whether it goes on where others were. */
static void note(struct p9s_tree *t, struct p9s_ahead *a, uint64_t off, size_t n)
{
    bool near = off <= a->next + SLACK && a->next <= off + SLACK;
    if (!near) {
        drop_all(t, a);
        a->streak = 0;
        a->window = FIRST;
        a->next = off + n;
        return;
    }
    a->streak += off + n > a->next;
    if (off + n > a->next)
        a->next = off + n;
    while (a->n && a->chunk[0]->off + a->chunk[0]->size + SLACK < a->next)
        drop(t, a, 0);
}

/* True if the chunk may be used; else all that was read ahead is dropped. */
static bool fresh(struct p9s_tree *t, struct p9s_file *f, struct p9s_ahead *a, struct chunk *c)
{
    bool old = !c->awaited && mono_now() - c->asked > P9S_BELIEF;
    if (!old && c->error == 0 && p9s_untouched(t, (struct p9s_node *)f->file.node, c->since))
        return true;
    if (old && a->window > 2 * CHUNK)
        a->window /= 2;
    if (!old)
        a->streak = 0;
    drop_all(t, a);
    return false;
}

/* What of the read is there, or on its way: its bytes, from the start; or why not to wait. */
static ssize_t take(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f,
                    struct p9s_ahead *a, uint8_t *buf, size_t n, uint64_t off)
{
    size_t got = 0;
    unsigned i;
    struct chunk *c;
    while (got < n && (c = find(a, off + got, &i))) {
        bool waits = !c->done;
        int r = await(t, call, a, c);
        if (r == -EAGAIN)
            continue;
        if (r < 0)
            return got ? (ssize_t)got : r;
        if (!fresh(t, f, a, c))
            break;
        size_t at = off + got - c->off;
        if (at >= c->have)
            break;
        size_t some = c->have - at < n - got ? c->have - at : n - got;
        memcpy(buf + got, (uint8_t *)c->answer.r.data + at, some);
        got += some;
        c->used += (uint32_t)some;
        if (c->used >= c->size && find(a, c->off, &i) == c)
            drop(t, a, i);
        if (waits && a->window < LIMIT_AHEAD) /* it should have been asked for earlier */
            a->window = a->window < LIMIT_AHEAD / 4 ? 4 * a->window : LIMIT_AHEAD;
        ask(t, f, a);
    }
    return (ssize_t)got;
}

static struct p9s_ahead *ahead_of(struct p9s_tree *t, struct p9s_file *f)
{
    struct p9s_ahead *a = atomic_load_explicit(&f->ahead, memory_order_acquire), *none = NULL;
    if (a || !(a = calloc(1, sizeof(*a))))
        return a;
    pthread_mutex_init(&a->mutex, NULL);
    a->window = FIRST;
    p9s_aside_add(t, &a->aside, let_go);
    if (atomic_compare_exchange_strong(&f->ahead, &none, a))
        return a;
    p9s_ahead_free(t, a);
    return none;
}

ssize_t p9s_ahead_read(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f, void *buf,
                       size_t n, uint64_t off)
{
    const struct pl_file *file = &f->file;
    struct p9s_ahead *a = NULL;
    if (!t->sync && !file->direct && !file->stream && !(file->flags & O_DIRECT) &&
        !(t->tree.flags & PL_TREE_GENERATED))
        a = ahead_of(t, f);
    if (!a)
        return 0;
    pthread_mutex_lock(&a->mutex);
    note(t, a, off, n);
    if (a->streak >= 2 || off == 0)
        ask(t, f, a);
    ssize_t got = take(t, call, f, a, buf, n, off);
    pthread_mutex_unlock(&a->mutex);
    return got;
}
