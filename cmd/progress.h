/* SPDX-License-Identifier: MIT */
/* A progress line on standard error, if that is a terminal: bytes, files, rate, time left. */
#ifndef CMD_PROGRESS_H
#define CMD_PROGRESS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct progress {
    _Atomic uint64_t bytes, files;             /* done */
    _Atomic uint64_t total_bytes, total_files; /* found so far */
    atomic_bool counted;                       /* the totals are whole */
    pthread_mutex_t lock;                      /* guards stop */
    pthread_cond_t cond;
    bool shown, stop;
    pthread_t thread;
    int64_t started;
};
void progress_start(struct progress *p);
void progress_stop(struct progress *p); /* leaves the last state */

#endif
