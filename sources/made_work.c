/* SPDX-License-Identifier: MIT */
/* The thread of a made tree: started when a client first enters, told to end by `over`. */
#include "sources/made.h"
#include <errno.h>
#include <time.h>

int pl_made_work(struct pl_made *m, void (*work)(void *), void *arg)
{
    if (!m)
        return -EINVAL;
    if (m->work) {
        m->failed = m->failed ? m->failed : -EEXIST;
        return -EEXIST;
    }
    m->work = work;
    m->work_arg = arg;
    return 0;
}

static void *run(void *arg)
{
    struct pl_made *m = arg;
    m->work(m->work_arg);
    return NULL;
}

int made_work_start(struct pl_made *m)
{
    int r = 0;
    pthread_mutex_lock(&m->lock);
    if (!m->working)
        r = -pthread_create(&m->worker, NULL, run, m);
    if (r == 0)
        m->working = true;
    pthread_mutex_unlock(&m->lock);
    return r;
}

void made_work_end(struct pl_made *m)
{
    pthread_mutex_lock(&m->lock);
    m->over = true;
    pthread_cond_broadcast(&m->over_cond);
    pthread_mutex_unlock(&m->lock);
    if (m->working)
        pthread_join(m->worker, NULL);
}

int pl_made_wait(struct pl_made *m, int64_t ns)
{
    struct timespec until;
    int r = 0;
    clock_gettime(CLOCK_MONOTONIC, &until);
    if (ns >= 0) {
        until.tv_sec += ns / 1000000000;
        until.tv_nsec += ns % 1000000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
    }
    pthread_mutex_lock(&m->lock);
    while (!m->over && r != ETIMEDOUT)
        r = ns < 0 ? pthread_cond_wait(&m->over_cond, &m->lock)
                   : pthread_cond_timedwait(&m->over_cond, &m->lock, &until);
    r = m->over ? -ESHUTDOWN : 0;
    pthread_mutex_unlock(&m->lock);
    return r;
}
