/* SPDX-License-Identifier: MIT */
/* Between the parts of the library that lives in programs: lib.c, dir.c. */
#ifndef DOORS_PRELOAD_LIB_H
#define DOORS_PRELOAD_LIB_H

#include "doors/preload/look.h"

#include <errno.h>

extern struct preload here; /* written once, before the program begins */

/* The functions have names of their own here, since headers give those of the library to others. */
#define AS(name) __asm__(name) __attribute__((visibility("default")))

static inline long told(long r)
{
    if (r >= 0)
        return r;
    errno = (int)-r;
    return -1;
}

/* The C library's own, into the pointer to a function at `ret`. False: ENOSYS. */
bool next_of(const char *name, void *ret);
/* As openat(2): here, or by the trap. */
int open_any(int dirfd, const char *path, int flags, mode_t mode);

#endif
