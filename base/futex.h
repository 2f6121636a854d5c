/* SPDX-License-Identifier: MIT */
/* A word that one thread of this process sleeps on. */
#ifndef BASE_FUTEX_H
#define BASE_FUTEX_H

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Sleeps while *word is `value`, until CLOCK_MONOTONIC `deadline` nanoseconds (0: no end). May
 * return early; look at the word again. */
static inline void futex_wait(atomic_uint *word, unsigned value, int64_t deadline)
{
    struct timespec t = {deadline / 1000000000, deadline % 1000000000};
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, value, deadline ? &t : NULL, NULL,
            FUTEX_BITSET_MATCH_ANY);
}

static inline void futex_wake(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static inline int64_t mono_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static inline int64_t mono_ms(void)
{
    return mono_now() / 1000000;
}

#endif
