/* SPDX-License-Identifier: MIT */
/* Which of the host's files a process may still open, by the kernel's landlock. */
#ifndef BASE_PATHS_H
#define BASE_PATHS_H

#include <stdbool.h>

/* The rules for what confine_path() was told: a descriptor, or a negative errno (the kernel has no
 * landlock). `changes`: only what changes something is ruled, anything may be read. */
int paths_rules(bool changes);
/* The calling thread, and those it starts, keep to the rules from now on. Needs no_new_privs.
 * Signal-safe. */
void paths_keep(int rules);

#endif
