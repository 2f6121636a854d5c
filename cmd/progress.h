/* SPDX-License-Identifier: MIT */
/*
 * A progress line on standard error, if that is a terminal: bytes, files, rate, time left. It
 * appears when something takes long, and gives way to a summary at the end.
 */
#ifndef CMD_PROGRESS_H
#define CMD_PROGRESS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PROGRESS_NS 200000000ll /* so long until the line appears, and between its changes */

struct progress {
    _Atomic uint64_t bytes, files;             /* done */
    _Atomic uint64_t total_bytes, total_files; /* found so far */
    atomic_bool counted;                       /* the totals are whole */
    pthread_mutex_t lock;                      /* guards stop */
    pthread_cond_t cond;
    bool wanted; /* there is a terminal to show it on */
    bool stop;
    pthread_t thread;
    int64_t started;
};
void progress_start(struct progress *p);
void progress_stop(struct progress *p);

/* Around what else is printed on the terminal meanwhile. */
void progress_pause(void);
void progress_resume(void);

#endif
