/* SPDX-License-Identifier: MIT */
#include "cmd/progress.h"
#include "base/futex.h"
#include "base/text.h"
#include <plenum/call.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long long ull;

/* `screen` guards `drawn`: the line is there, with the cursor behind it. */
static pthread_mutex_t screen = PTHREAD_MUTEX_INITIALIZER;
static bool drawn;

static void wipe(void)
{
    if (drawn)
        fputs("\r\033[K", stderr);
    drawn = false;
}

void progress_pause(void)
{
    pthread_mutex_lock(&screen);
    wipe();
}

void progress_resume(void)
{
    pthread_mutex_unlock(&screen);
}

/* A line that wraps could not be taken back. */
static int columns(void)
{
    struct winsize w;
    return ioctl(2, TIOCGWINSZ, &w) == 0 && w.ws_col > 1 ? w.ws_col - 1 : 79;
}

static void show(struct progress *p)
{
    char done[16], total[16], rate[16], left[48] = "", line[256];
    uint64_t bytes = atomic_load(&p->bytes), all = atomic_load(&p->total_bytes);
    double seconds = (double)(mono_now() - p->started) / 1e9;
    double speed = seconds > 0 ? (double)bytes / seconds : 0;
    bool counted = atomic_load(&p->counted);
    if (counted && speed > 0 && all >= bytes) {
        uint64_t s = (uint64_t)((double)(all - bytes) / speed + 0.5);
        snprintf(left, sizeof(left), ", %llu:%02llu left", (ull)s / 60, (ull)s % 60);
    }
    int cells = all && counted ? (int)(20.0 * (double)bytes / (double)all) : 0;
    cells = cells > 20 ? 20 : cells;
    snprintf(line, sizeof(line), "[%.*s%.*s] %s of %s%s, %llu of %llu files, %s/s%s", cells,
             "####################", 20 - cells, "                    ", text_bytes(done, bytes),
             text_bytes(total, all), counted ? "" : "+", (ull)atomic_load(&p->files),
             (ull)atomic_load(&p->total_files), text_bytes(rate, (uint64_t)speed), left);
    pthread_mutex_lock(&screen);
    fprintf(stderr, "\r%.*s\033[K", columns(), line);
    drawn = true;
    fflush(stderr);
    pthread_mutex_unlock(&screen);
}

static void *run(void *arg)
{
    struct progress *p = arg;
    bool shown = false;
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        int64_t until = mono_now() + PROGRESS_NS;
        struct timespec t = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
        int r = 0;
        while (!p->stop && r == 0)
            r = pthread_cond_timedwait(&p->cond, &p->lock, &t);
        if (!p->stop) {
            show(p);
            shown = true;
        }
    }
    pthread_mutex_unlock(&p->lock);
    if (shown) {
        char done[16], rate[16];
        double seconds = (double)(mono_now() - p->started) / 1e9;
        uint64_t bytes = atomic_load(&p->bytes);
        ull files = atomic_load(&p->files);
        progress_pause();
        fprintf(stderr, "%s, %llu file%s, %.1f s, %s/s\n", text_bytes(done, bytes), files,
                files == 1 ? "" : "s", seconds,
                text_bytes(rate, (uint64_t)((double)bytes / seconds)));
        progress_resume();
    }
    return NULL;
}

void progress_start(struct progress *p)
{
    memset(p, 0, sizeof(*p));
    pthread_mutex_init(&p->lock, NULL);
    pl_cond_init(&p->cond);
    p->started = mono_now();
    p->wanted = isatty(2) && pthread_create(&p->thread, NULL, run, p) == 0;
}

void progress_stop(struct progress *p)
{
    if (p->wanted) {
        pthread_mutex_lock(&p->lock);
        p->stop = true;
        pthread_cond_signal(&p->cond);
        pthread_mutex_unlock(&p->lock);
        pthread_join(p->thread, NULL);
    }
    pthread_cond_destroy(&p->cond);
    pthread_mutex_destroy(&p->lock);
}
