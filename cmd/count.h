/* SPDX-License-Identifier: MIT */
/* Counts what there is to copy, beside the copying: the totals of a progress line. */
#ifndef CMD_COUNT_H
#define CMD_COUNT_H

#include "cmd/progress.h"
#include "cmd/walk.h"
#include <semaphore.h>

struct count {
    struct walk walk; /* the source's, with a call of the thread's own */
    char *const *paths;
    size_t n;
    struct progress *progress;
    sem_t stop;
    atomic_bool stopped;
    bool up;
    pthread_t thread;
};
/* Does nothing when nobody looks. `paths` as in copy_path; they stay until count_stop. */
void count_start(struct count *c, const struct walk *src, char *const *paths, size_t n,
                 struct progress *progress);
void count_stop(struct count *c);

#endif
