/* SPDX-License-Identifier: MIT */
/*
 * What has to happen by a certain time: a peer says Tversion, ends the message that it began, takes
 * the answers that it asked for. One timer of the crew rings when the first of these times has come
 * for any of its connections; while none is awaited it is not set, and nobody wakes.
 *
 * conn->lock guards conn->due, which says when what is due; the clock's own lock, which comes after
 * it, the list of the connections for which something is, each with the soonest.
 */
#include "p9/priv.h"
#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <utlist.h>

int64_t clock_second = 1000000000;

int clock_init(struct clock *k)
{
    pthread_mutex_init(&k->lock, NULL);
    k->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    return k->fd < 0 ? -errno : 0;
}

void clock_done(struct clock *k)
{
    if (k->fd >= 0)
        close(k->fd);
    pthread_mutex_destroy(&k->lock);
}

/* Lock held. */
static void set_alarm(struct clock *k, int64_t at)
{
    struct itimerspec t = {.it_value = {at / 1000000000, at % 1000000000}};
    timerfd_settime(k->fd, TFD_TIMER_ABSTIME, &t, NULL);
    k->alarm = at;
}

static void list(struct clock *k, struct p9_conn *c, int64_t at)
{
    struct crew_link *l = &c->link;
    pthread_mutex_lock(&k->lock);
    if (l->due)
        DL_DELETE2(k->conns, c, link.prev_due, link.next_due);
    l->due = at;
    if (at)
        DL_APPEND2(k->conns, c, link.prev_due, link.next_due);
    if (at && (!k->alarm || at < k->alarm))
        set_alarm(k, at);
    pthread_mutex_unlock(&k->lock);
}

static int64_t soonest(const struct p9_conn *c)
{
    int64_t at = 0;
    for (int i = 0; i < NDUES; i++)
        if (c->due[i] && (!at || c->due[i] < at))
            at = c->due[i];
    return at;
}

void conn_due(struct p9_conn *c, enum due what, int64_t at)
{
    if (c->due[what] == at || (at && c->state != LIVE))
        return;
    c->due[what] = at;
    if (soonest(c) != c->due_listed)
        list(crew_clock(c->crew), c, c->due_listed = soonest(c));
}

void conn_due_none(struct p9_conn *c)
{
    for (int i = 0; i < NDUES; i++)
        c->due[i] = 0;
    if (c->due_listed)
        list(crew_clock(c->crew), c, c->due_listed = 0);
}

/* What it has not done by now. */
static void late(struct p9_conn *c)
{
    static const char *const sentences[NDUES] = {
        [DUE_HELLO] = "the other end said nothing that makes sense for too long",
        [DUE_WHOLE] = "the other end began a message and did not end it in time",
        [DUE_TAKEN] = "the other end does not take its answers"};
    int64_t now = mono_now();
    pthread_mutex_lock(&c->lock);
    c->due_listed = 0; /* clock_ring has taken it off */
    for (int i = 0; i < NDUES && c->state == LIVE; i++)
        if (c->due[i] && c->due[i] <= now && sentences[i])
            conn_lost(c, -ETIMEDOUT, "%s", sentences[i]);
    if (c->due[DUE_ROOM] && c->due[DUE_ROOM] <= now) {
        c->due[DUE_ROOM] = 0;
        if (c->role == ROLE_STOPPED && serve_full(c))
            role_stop(c);
        else
            role_check(c);
    }
    if (c->state != LIVE)
        conn_due_none(c);
    else if (soonest(c) && !c->due_listed)
        list(crew_clock(c->crew), c, c->due_listed = soonest(c));
    conn_unlock(c);
}

void clock_ring(struct clock *k, struct p9_crew *crew)
{
    uint64_t times;
    int64_t now = mono_now(), next = 0;
    struct p9_conn *ring = NULL, *c, *tmp;
    (void)!read(k->fd, &times, sizeof(times));
    pthread_mutex_lock(&k->lock);
    k->alarm = 0;
    DL_FOREACH_SAFE2(k->conns, c, tmp, link.next_due)
    {
        if (c->link.due > now) {
            next = !next || c->link.due < next ? c->link.due : next;
        } else if (crew_pin(crew, c)) {
            DL_DELETE2(k->conns, c, link.prev_due, link.next_due);
            c->link.due = 0;
            c->link.next_late = ring;
            ring = c;
        }
    }
    if (next)
        set_alarm(k, next);
    pthread_mutex_unlock(&k->lock);
    while ((c = ring)) {
        ring = c->link.next_late;
        late(c);
        crew_unpin(crew, c);
    }
}
