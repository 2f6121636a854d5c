/* SPDX-License-Identifier: MIT */
#include "sync/step.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void act(step_fn *todo, void *arg, struct step_action a)
{
    todo(arg, &a);
}

void step_init(struct step *s, size_t n, size_t least, uint64_t last, const uint64_t *has,
               const bool *behind)
{
    *s = (struct step){.n = n, .least = least, .last = last};
    for (size_t i = 0; i < n; i++)
        s->v[i] = (struct step_replica){
            .out = true, .behind = behind[i], .has = has[i], .backoff = STEP_BACKOFF_LO};
}

void step_done(struct step *s)
{
    free(s->waits);
    *s = (struct step){0};
}

static bool is_in(const struct step_replica *r)
{
    return !r->out && !r->behind;
}

static size_t count_in(const struct step *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++)
        n += is_in(&s->v[i]);
    return n;
}

/* What a replica that nobody works at has to do next. */
static void set_to_work(struct step *s, int64_t now, step_fn *todo, void *arg)
{
    int64_t wake = 0;
    for (size_t i = 0; i < s->n; i++) {
        struct step_replica *r = &s->v[i];
        if (r->working)
            continue;
        if (r->out && r->retry > now) {
            wake = !wake || r->retry < wake ? r->retry : wake;
        } else if (r->out || r->behind || r->has < s->last) {
            r->working = true;
            act(todo, arg,
                (struct step_action){.what = r->out      ? STEP_OPEN
                                             : r->behind ? STEP_COMPARE
                                                         : STEP_APPLY,
                                     .replica = i,
                                     .seq = r->has});
        }
    }
    if (wake)
        act(todo, arg, (struct step_action){.what = STEP_WAKE, .time = wake});
}

static void answer(struct step *s, step_fn *todo, void *arg)
{
    size_t in = count_in(s), kept = 0;
    uint64_t all = s->last; /* what every replica that is in has */
    for (size_t i = 0; i < s->n; i++)
        if (is_in(&s->v[i]) && s->v[i].has < all)
            all = s->v[i].has;
    for (size_t i = 0; i < s->nwaits; i++) {
        const struct step_wait *w = &s->waits[i];
        if (in >= s->least && w->seq > all) {
            s->waits[kept++] = *w;
            continue;
        }
        act(todo, arg,
            (struct step_action){.what = STEP_ANSWER,
                                 .conn = w->conn,
                                 .cseq = w->cseq,
                                 .result = in >= s->least ? 0 : -EIO});
    }
    s->nwaits = kept;
    bool refuse = in < s->least;
    if (refuse != s->refusing) {
        s->refusing = refuse;
        act(todo, arg, (struct step_action){.what = refuse ? STEP_REFUSE : STEP_ACCEPT});
    }
}

/* The journal has what some replica lacks; one that is compared as a whole lacks what comes after
 * the comparison began, which it says itself. */
static void trim(struct step *s, uint64_t before, step_fn *todo, void *arg)
{
    uint64_t all = s->last;
    for (size_t i = 0; i < s->n; i++)
        if (s->v[i].has < all)
            all = s->v[i].has;
    if (all > before)
        act(todo, arg, (struct step_action){.what = STEP_TRIM, .seq = all});
}

static uint64_t least_has(const struct step *s)
{
    uint64_t all = s->last;
    for (size_t i = 0; i < s->n; i++)
        all = s->v[i].has < all ? s->v[i].has : all;
    return all;
}

static int record(struct step *s, const struct step_event *ev)
{
    if (ev->conn) {
        if (s->nwaits == s->room) {
            size_t room = s->room ? 2 * s->room : 16;
            struct step_wait *v = reallocarray(s->waits, room, sizeof(*v));
            if (!v)
                return -ENOMEM;
            s->waits = v;
            s->room = room;
        }
        s->waits[s->nwaits++] = (struct step_wait){ev->seq, ev->conn, ev->cseq};
    }
    s->last = ev->seq > s->last ? ev->seq : s->last;
    return 0;
}

static void left(struct step *s, uint64_t conn)
{
    size_t kept = 0;
    for (size_t i = 0; i < s->nwaits; i++)
        if (s->waits[i].conn != conn)
            s->waits[kept++] = s->waits[i];
    s->nwaits = kept;
}

static void failed(struct step_replica *r, int64_t now)
{
    r->working = false;
    r->out = true;
    r->failures++;
    r->retry = now + r->backoff;
    r->backoff = r->backoff * 2 > STEP_BACKOFF_HI ? STEP_BACKOFF_HI : r->backoff * 2;
}

static void succeeded(struct step_replica *r, uint64_t seq)
{
    r->working = false;
    r->failures = 0;
    r->backoff = STEP_BACKOFF_LO;
    r->has = seq > r->has ? seq : r->has;
}

int step_event(struct step *s, const struct step_event *ev, step_fn *todo, void *arg)
{
    struct step_replica *r = ev->replica < s->n ? &s->v[ev->replica] : NULL;
    uint64_t before = least_has(s);
    int e = 0;
    switch (ev->what) {
    case STEP_RECORD:
        e = record(s, ev);
        break;
    case STEP_GAP:
        for (size_t i = 0; i < s->n; i++) {
            s->v[i].behind = true;
            s->v[i].gap = ev->seq;
        }
        break;
    case STEP_REACHED:
        r->working = r->out = false;
        break;
    case STEP_DONE:
        succeeded(r, ev->seq);
        break;
    case STEP_SYNCED:
        /* A gap that came while it was compared is not in it. */
        r->behind = r->gap > ev->seq;
        succeeded(r, ev->seq);
        break;
    case STEP_FAILED:
        failed(r, ev->now);
        break;
    case STEP_LEFT:
        left(s, ev->conn);
        break;
    case STEP_TICK:
        break;
    }
    if (e < 0)
        return e;
    answer(s, todo, arg);
    trim(s, before, todo, arg);
    set_to_work(s, ev->now, todo, arg);
    return 0;
}
