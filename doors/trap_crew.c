/* SPDX-License-Identifier: MIT */
/*
 * The workers: threads that take calls and answer them, each once.
 *
 * One worker at a time waits for a call, serves it, and waits again: the kernel wakes all who wait
 * for every call, and a hand-over would cost more than most calls do. The foreman looks once a
 * tick, as long as calls come, whether all workers are held up (by a tree that waits for something,
 * a FIFO): then it brings another. Those that are too many later leave the field one by one.
 */
#include "doors/trap_priv.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum {
    TICK = 1000000,       /* ns */
    LONG_TICK = 20000000, /* of the foreman when no calls come, but some are held up */
    QUIET = 20,           /* ticks without a call, after which that is so */
    BEHIND = 3,  /* ticks in which calls waited, after which another processor is to help */
    ENOUGH = 50, /* ticks in which nobody was missed, after which there is one less */
};

/* 0: the last process with the filter is gone. */
static int receive(struct trap *t, struct seccomp_notif *n)
{
    for (;;) {
        if (t->poll_first) {
            struct pollfd p = {.fd = t->listener, .events = POLLIN};
            if (poll(&p, 1, -1) > 0 && p.revents & POLLHUP && !(p.revents & POLLIN))
                return 0;
        }
        memset(n, 0, t->sizes.seccomp_notif);
        if (ioctl(t->listener, SECCOMP_IOCTL_NOTIF_RECV, n) == 0)
            return 1;
        if (errno == ENOENT) { /* the caller was killed just now, or there is none left */
            struct pollfd p = {.fd = t->listener};
            if (poll(&p, 1, 0) > 0 && p.revents & POLLHUP)
                return 0;
        } else if (errno != EINTR) {
            return 0;
        }
    }
}

/* Leaves the field until one more is wanted; false: this is the end. */
static bool rest(struct trap *t)
{
    struct crew *k = &t->crew;
    pthread_mutex_lock(&k->lock);
    if (k->out > k->want) {
        k->out--;
        k->resting++;
        while (!k->called && !k->over)
            pthread_cond_wait(&k->wanted, &k->lock);
        k->resting--;
        if (k->called)
            k->called--; /* who called has counted this one */
    }
    bool on = !k->over;
    pthread_mutex_unlock(&k->lock);
    return on;
}

/* The thread `me` ends. */
static void leave(struct worker *me)
{
    struct crew *k = &me->t->crew;
    pthread_mutex_lock(&k->lock);
    for (struct worker **w = &k->workers; *w; w = &(*w)->next) {
        if (*w == me) {
            *w = me->next;
            break;
        }
    }
    pthread_mutex_destroy(&me->lock);
    free(me);
    k->over = true;
    k->nthreads--;
    atomic_store(&k->asleep, false);
    pthread_cond_broadcast(&k->wanted);
    pthread_cond_broadcast(&k->watch);
    pthread_cond_broadcast(&k->gone);
    pthread_mutex_unlock(&k->lock);
}

static void wake_foreman(struct crew *k)
{
    pthread_mutex_lock(&k->lock);
    atomic_store(&k->asleep, false);
    pthread_cond_signal(&k->watch);
    pthread_mutex_unlock(&k->lock);
}

static void *work(void *arg)
{
    struct worker *me = arg;
    struct trap *t = me->t;
    struct crew *k = &t->crew;
    size_t size = t->sizes.seccomp_notif > sizeof(struct seccomp_notif)
                      ? t->sizes.seccomp_notif
                      : sizeof(struct seccomp_notif);
    struct seccomp_notif *n = calloc(1, size);
    for (bool on = n != NULL; on;) {
        atomic_fetch_add(&k->receiving, 1);
        on = receive(t, n);
        atomic_fetch_sub(&k->receiving, 1);
        if (!on)
            break;
        atomic_fetch_add(&t->calls, 1);
        if (atomic_load(&k->asleep))
            wake_foreman(k);
        trap_serve(me, n);
        if (atomic_load(&k->out) > atomic_load(&k->want))
            on = rest(t);
    }
    free(n);
    leave(me);
    return NULL;
}

/* Called with the lock. */
static bool engage(struct trap *t)
{
    struct crew *k = &t->crew;
    pthread_t id;
    struct worker *w = k->over || k->nthreads >= t->opts.threads ? NULL : calloc(1, sizeof(*w));
    if (!w)
        return false;
    w->t = t;
    pthread_mutex_init(&w->lock, NULL);
    if (pthread_create(&id, NULL, work, w) != 0) {
        pthread_mutex_destroy(&w->lock);
        free(w);
        return false;
    }
    pthread_detach(id);
    w->next = k->workers;
    k->workers = w;
    k->nthreads++;
    return true;
}

/* One more that takes calls; false: there are as many as there may be. */
static bool bring(struct trap *t)
{
    struct crew *k = &t->crew;
    pthread_mutex_lock(&k->lock);
    bool rests = k->resting > k->called, can = rests || engage(t);
    if (rests) {
        k->called++;
        pthread_cond_signal(&k->wanted);
    }
    if (can)
        k->out++;
    if (k->want < k->out)
        k->want = k->out;
    pthread_mutex_unlock(&k->lock);
    return can;
}

/* ---- what is held up ---- */

/* An op is about to wait: somebody else is to take the next call. */
static void waits(struct pl_call *call)
{
    struct trap *t = call->door;
    if (!atomic_load(&t->crew.receiving))
        bring(t);
}

void crew_begins(struct tcall *c)
{
    c->call.door = c->t;
    c->call.blocks = waits;
    pthread_mutex_lock(&c->worker->lock);
    c->worker->now = c;
    pthread_mutex_unlock(&c->worker->lock);
}

void crew_ends(struct tcall *c)
{
    pthread_mutex_lock(&c->worker->lock);
    c->worker->now = NULL;
    pthread_mutex_unlock(&c->worker->lock);
}

/* Cancels the calls that were there at the last look already, and whose callers have been killed.
 */
static void look_after(struct crew *k)
{
    pthread_mutex_lock(&k->lock);
    for (struct worker *w = k->workers; w; w = w->next) {
        pthread_mutex_lock(&w->lock);
        uint64_t id = w->now ? w->now->n->id : 0;
        if (id && id == w->seen && !still_there(w->now))
            pl_call_cancel(&w->now->call);
        w->seen = id;
        pthread_mutex_unlock(&w->lock);
    }
    pthread_mutex_unlock(&k->lock);
}

/* ---- the foreman ---- */

struct look {
    uint64_t calls;
    unsigned quiet, behind, enough, ticks;
};

static void look(struct trap *t, struct look *l)
{
    struct crew *k = &t->crew;
    uint64_t calls = atomic_load(&t->calls);
    unsigned receiving = atomic_load(&k->receiving);
    struct pollfd p = {.fd = t->listener, .events = POLLIN};
    bool still = calls == l->calls;
    bool waits = receiving == 0 && !still && atomic_load(&k->out) < k->processors &&
                 poll(&p, 1, 0) > 0 && p.revents & POLLIN;
    l->calls = calls;
    l->quiet = still ? l->quiet + 1 : 0;
    if (++l->ticks % QUIET == 0 || l->quiet > QUIET)
        look_after(k);
    l->behind = waits ? l->behind + 1 : 0;
    if ((receiving == 0 && still) || l->behind == BEHIND) {
        if (bring(t))
            l->quiet = 0;
        l->behind = l->enough = 0;
    } else if (++l->enough == ENOUGH) { /* one that is needed all the same is brought again */
        if (atomic_load(&k->want) > 1)
            atomic_fetch_sub(&k->want, 1);
        l->enough = 0;
    }
}

/* Called with the lock: is the last call over, too? */
static bool is_over(const struct crew *k)
{
    return k->over && !k->nthreads;
}

/* Until the next tick; when no calls come, a longer one, or if nothing is held up none at all,
 * until one comes. False: the end. */
static bool doze(struct trap *t, const struct look *l)
{
    struct crew *k = &t->crew;
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += l->quiet >= QUIET ? LONG_TICK : TICK;
    at.tv_sec += at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    pthread_mutex_lock(&k->lock);
    atomic_store(&k->asleep, l->quiet >= QUIET && !k->over);
    /* A call that came before that has not woken us. */
    for (int r = 0; r == 0 && atomic_load(&k->asleep) && atomic_load(&t->calls) == l->calls;)
        r = atomic_load(&k->receiving) < atomic_load(&k->out)
                ? pthread_cond_timedwait(&k->watch, &k->lock, &at)
                : pthread_cond_wait(&k->watch, &k->lock);
    if (!is_over(k) && (k->over || l->quiet < QUIET))
        pthread_cond_timedwait(&k->watch, &k->lock, &at);
    atomic_store(&k->asleep, false);
    bool on = !is_over(k);
    pthread_mutex_unlock(&k->lock);
    return on;
}

static void *foreman(void *arg)
{
    struct trap *t = arg;
    struct look l = {0};
    while (doze(t, &l))
        look(t, &l);
    return NULL;
}

/* ---- all of them ---- */

void crew_init(struct trap *t)
{
    struct crew *k = &t->crew;
    pthread_condattr_t attr;
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->gone, NULL);
    pthread_cond_init(&k->wanted, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&k->watch, &attr);
    pthread_condattr_destroy(&attr);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    k->processors = n > 1 ? (unsigned)n : 1;
}

bool crew_start(struct trap *t)
{
    struct crew *k = &t->crew;
    k->watched = pthread_create(&k->foreman, NULL, foreman, t) == 0;
    return k->watched && bring(t);
}

void crew_end(struct trap *t)
{
    struct crew *k = &t->crew;
    pthread_mutex_lock(&k->lock);
    k->over = k->over || !k->nthreads;
    while (k->nthreads)
        pthread_cond_wait(&k->gone, &k->lock);
    pthread_cond_broadcast(&k->watch);
    pthread_mutex_unlock(&k->lock);
    if (k->watched)
        pthread_join(k->foreman, NULL);
}
