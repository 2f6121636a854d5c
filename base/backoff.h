/* SPDX-License-Identifier: MIT */
/* How long to wait before something is tried again: twice as long each time, and never in step with
 * others who wait for the same. */
#ifndef BASE_BACKOFF_H
#define BASE_BACKOFF_H

#include <stdint.h>
#include <sys/random.h>

#define BACKOFF_FIRST 50000000LL /* ns */
#define BACKOFF_LAST  10000000000LL

/* The pause after `pause` (0: the first), in ns. */
static inline int64_t backoff_next(int64_t pause)
{
    return !pause ? BACKOFF_FIRST : 2 * pause < BACKOFF_LAST ? 2 * pause : BACKOFF_LAST;
}

/* What to wait of it: from half to one and a half. */
static inline int64_t backoff_jitter(int64_t pause)
{
    uint32_t chance = 0;
    if (getrandom(&chance, sizeof(chance), GRND_NONBLOCK) != sizeof(chance))
        chance = 512;
    return pause / 2 + pause * (chance % 1024) / 1024;
}

#endif
