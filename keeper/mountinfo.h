/* SPDX-License-Identifier: MIT */
/* /proc/PID/mountinfo. Reading it never touches a mounted file system. Inside keeper/. */
#ifndef KEEPER_MOUNTINFO_H
#define KEEPER_MOUNTINFO_H

#include <sys/types.h>

/* One mount; the strings are unescaped and live as long as the call back. */
struct mountinfo {
    int id, parent;
    dev_t dev;
    char *point, *type, *source;
};

/* Calls fn for each mount, the later mounted after the earlier; stops when it returns non-zero and
 * returns that; a negative errno when the file cannot be read. */
int mountinfo_each(int (*fn)(void *arg, const struct mountinfo *m), void *arg);
/* The same as process `pid` sees them ("self", or a number). */
int mountinfo_of(const char *pid, int (*fn)(void *arg, const struct mountinfo *m), void *arg);

#endif
