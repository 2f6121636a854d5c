/* SPDX-License-Identifier: MIT */
/* The system calls that no file server makes, denied by a seccomp filter. */
#ifndef BASE_FILTER_H
#define BASE_FILTER_H

#include <stdbool.h>

/* From now on they fail with EPERM in all threads, and in processes started later; `attributes`:
 * also what changes modes, owners, times (but to now) and extended attributes of files. Sets
 * no_new_privs. 0, or a negative errno: the kernel has no filters, or a thread has filters of its
 * own; nothing has changed then. */
int filter_load(bool attributes);

#endif
