/* SPDX-License-Identifier: MIT */
#include "base/thread.h"
#include "base/confine.h"
#include <signal.h>

int thread_start(pthread_t *ret, size_t stack, void *(*run)(void *arg), void *arg)
{
    pthread_attr_t attr;
    sigset_t all, old;
    sigfillset(&all);
    sigdelset(&all, CONFINE_SIGNAL);
    pthread_attr_init(&attr);
    if (stack)
        pthread_attr_setstacksize(&attr, stack);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(ret, &attr, run, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return -error;
}
