/* SPDX-License-Identifier: MIT */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <pthread.h>
#include <stddef.h>

/* A thread for work, with a stack of so many bytes (0: the usual size): signals are for the main
 * thread, and it blocks all but CONFINE_SIGNAL. 0 or a negative errno. */
int thread_start(pthread_t *ret, size_t stack, void *(*run)(void *arg), void *arg);

#endif
