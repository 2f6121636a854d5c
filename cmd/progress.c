/* SPDX-License-Identifier: MIT */
#include "cmd/progress.h"
#include "base/text.h"
#include <plenum/call.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define EVERY_NS 200000000ll

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void show(struct progress *p)
{
    char done[16], total[16], rate[16], left[32] = "";
    uint64_t bytes = atomic_load(&p->bytes), all = atomic_load(&p->total_bytes);
    double seconds = (double)(now() - p->started) / 1e9;
    double speed = seconds > 0 ? (double)bytes / seconds : 0;
    bool counted = atomic_load(&p->counted);
    if (counted && speed > 0 && all >= bytes) {
        uint64_t s = (uint64_t)((double)(all - bytes) / speed + 0.5);
        snprintf(left, sizeof(left), ", %llu:%02llu left", (unsigned long long)s / 60,
                 (unsigned long long)s % 60);
    }
    int cells = all && counted ? (int)(20.0 * (double)bytes / (double)all) : 0;
    cells = cells > 20 ? 20 : cells;
    fprintf(stderr, "\r[%.*s%.*s] %s of %s%s, %llu of %llu files, %s/s%s\033[K", cells,
            "####################", 20 - cells, "                    ", text_bytes(done, bytes),
            text_bytes(total, all), counted ? "" : "+", (unsigned long long)atomic_load(&p->files),
            (unsigned long long)atomic_load(&p->total_files), text_bytes(rate, (uint64_t)speed),
            left);
    fflush(stderr);
}

static void *run(void *arg)
{
    struct progress *p = arg;
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        int64_t until = now() + EVERY_NS;
        struct timespec t = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
        pthread_cond_timedwait(&p->cond, &p->lock, &t);
        if (!p->stop)
            show(p);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

void progress_start(struct progress *p)
{
    memset(p, 0, sizeof(*p));
    pthread_mutex_init(&p->lock, NULL);
    pl_cond_init(&p->cond);
    p->started = now();
    p->shown = isatty(2) && pthread_create(&p->thread, NULL, run, p) == 0;
}

void progress_stop(struct progress *p)
{
    if (!p->shown)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    show(p);
    fputc('\n', stderr);
}
