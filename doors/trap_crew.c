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
    TICK = 1000000, /* ns */
    QUIET = 20,     /* ticks without a call, after which the foreman sleeps */
    BEHIND = 3,     /* ticks in which calls waited, after which another processor is to help */
    LONG = 50,      /* ticks in which none was missed, after which there is one less */
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

static void leave(struct trap *t)
{
    struct crew *k = &t->crew;
    pthread_mutex_lock(&k->lock);
    k->over = true;
    k->nthreads--;
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

static void *worker(void *arg)
{
    struct trap *t = arg;
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
        trap_serve(t, n);
        if (atomic_load(&k->out) > atomic_load(&k->want))
            on = rest(t);
    }
    free(n);
    leave(t);
    return NULL;
}

/* One more that takes calls; false: there are as many as there may be. */
static bool bring(struct trap *t)
{
    struct crew *k = &t->crew;
    pthread_t id;
    bool can = true;
    pthread_mutex_lock(&k->lock);
    if (k->resting > k->called) {
        k->called++;
        pthread_cond_signal(&k->wanted);
    } else if (k->nthreads < t->opts.threads && !k->over &&
               pthread_create(&id, NULL, worker, t) == 0) {
        pthread_detach(id);
        k->nthreads++;
    } else {
        can = false;
    }
    if (can)
        k->out++;
    if (k->want < k->out)
        k->want = k->out;
    pthread_mutex_unlock(&k->lock);
    return can;
}

/* ---- the foreman ---- */

struct look {
    uint64_t calls;
    unsigned quiet, behind, enough;
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
    l->quiet = still && receiving ? l->quiet + 1 : 0;
    l->behind = waits ? l->behind + 1 : 0;
    if ((receiving == 0 && still) || l->behind == BEHIND) {
        bring(t);
        l->behind = l->enough = 0;
    } else if (++l->enough == LONG) { /* one that is needed all the same is brought again */
        if (atomic_load(&k->want) > 1)
            atomic_fetch_sub(&k->want, 1);
        l->enough = 0;
    }
}

/* Until the next tick; of one that has nothing to look after, until a call comes. False: the end.
 */
static bool doze(struct trap *t, const struct look *l)
{
    struct crew *k = &t->crew;
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += TICK;
    at.tv_sec += at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    pthread_mutex_lock(&k->lock);
    if (l->quiet >= QUIET) {
        atomic_store(&k->asleep, true);
        /* A call that came before that has not woken us. */
        while (!k->over && atomic_load(&k->asleep) && atomic_load(&t->calls) == l->calls)
            pthread_cond_wait(&k->watch, &k->lock);
        atomic_store(&k->asleep, false);
    } else if (!k->over) {
        pthread_cond_timedwait(&k->watch, &k->lock, &at);
    }
    bool on = !k->over;
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
