/* SPDX-License-Identifier: MIT */
/*
 * A box: a process of its own, in its own process group, with a scratch directory of its own. What
 * hangs in it is killed; what it mounted is taken away by force, what it started with it.
 */
#ifndef CONFORM_BOX_H
#define CONFORM_BOX_H

#include <stddef.h>
#include <stdint.h>

/* Runs fn(arg, scratch, fd) with the scratch directory made in `dir`; what it writes to fd, as much
 * as fits, is in `text`. Returns the wait status (0 when fn returned), or -1: it hung for that many
 * seconds and was killed, or could not be started (then text says why). The caller must have no
 * threads. */
int box_run(const char *dir, int seconds, void (*fn)(void *arg, const char *scratch, int fd),
            void *arg, char *text, size_t size);

int64_t box_ms(void); /* CLOCK_MONOTONIC in milliseconds */

#endif
