/* SPDX-License-Identifier: MIT */
/*
 * Calls. `lock` guards the wake registration: pl_call_cancel runs wake() under it, so that after
 * pl_call_unblock() it cannot be running. Order of locks: call->lock, then whatever wake() takes.
 */
#include "base/futex.h"
#include <errno.h>
#include <plenum/call.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void pl_call_init(struct pl_call *call, uid_t uid, gid_t gid)
{
    memset(call, 0, sizeof(*call));
    call->cred.uid = uid;
    call->cred.gid = gid;
    pthread_mutex_init(&call->lock, NULL);
}

static int own_groups(struct pl_call *call)
{
    int n = getgroups(0, NULL);
    gid_t *g = n > 0 ? malloc((size_t)n * sizeof(*g)) : NULL;
    if (!g)
        return n > 0 ? -ENOMEM : 0;
    n = getgroups(n, g);
    call->cred.groups = call->door = g;
    call->cred.ngroups = n < 0 ? 0 : (uint32_t)n;
    return 0;
}

void pl_call_init_self(struct pl_call *call)
{
    pl_call_init(call, geteuid(), getegid());
    call->load_groups = own_groups;
}

void pl_call_done(struct pl_call *call)
{
    if (call->load_groups == own_groups)
        free(call->door);
    pthread_mutex_destroy(&call->lock);
}

int pl_call_groups(struct pl_call *call)
{
    if (call->groups_loaded || !call->load_groups)
        return 0;
    int r = call->load_groups(call);
    if (r < 0)
        call->cred.ngroups = 0;
    else
        call->groups_loaded = true;
    return r;
}

int pl_call_over(struct pl_call *call)
{
    if (atomic_load_explicit(&call->cancelled, memory_order_acquire))
        return -EINTR;
    return call->deadline && mono_now() >= call->deadline ? -ETIMEDOUT : 0;
}

void pl_call_cancel(struct pl_call *call)
{
    pthread_mutex_lock(&call->lock);
    if (!atomic_exchange(&call->cancelled, 1) && call->wake)
        call->wake(call->wake_arg);
    pthread_mutex_unlock(&call->lock);
}

int pl_call_block(struct pl_call *call, void (*wake)(void *), void *arg)
{
    if (call->blocks && !call->told) {
        call->told = true;
        call->blocks(call);
    }
    pthread_mutex_lock(&call->lock);
    int r = pl_call_over(call);
    if (r == 0) {
        call->wake = wake;
        call->wake_arg = arg;
    }
    pthread_mutex_unlock(&call->lock);
    return r;
}

void pl_call_unblock(struct pl_call *call)
{
    pthread_mutex_lock(&call->lock);
    call->wake = NULL;
    pthread_mutex_unlock(&call->lock);
}

void pl_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

void pl_call_wait(struct pl_call *call, pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    if (!call->deadline) {
        pthread_cond_wait(cond, mutex);
        return;
    }
    struct timespec t = {call->deadline / 1000000000, call->deadline % 1000000000};
    pthread_cond_timedwait(cond, mutex, &t);
}

struct sleeper {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
};

static void wake_sleeper(void *arg)
{
    struct sleeper *s = arg;
    pthread_mutex_lock(&s->mutex);
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->mutex);
}

int pl_call_sleep(struct pl_call *call, int64_t ns)
{
    struct sleeper s = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    pl_cond_init(&s.cond);
    int r = pl_call_block(call, wake_sleeper, &s);
    if (r == 0) {
        int64_t until = mono_now() + ns;
        int64_t wait = call->deadline && call->deadline < until ? call->deadline : until;
        struct timespec t = {wait / 1000000000, wait % 1000000000};
        pthread_mutex_lock(&s.mutex);
        while (!(r = pl_call_over(call)) && mono_now() < until)
            pthread_cond_timedwait(&s.cond, &s.mutex, &t);
        pthread_mutex_unlock(&s.mutex);
        pl_call_unblock(call);
    }
    pthread_cond_destroy(&s.cond);
    return r;
}
