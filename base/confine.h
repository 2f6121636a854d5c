/* SPDX-License-Identifier: MIT */
/*
 * What a server that takes requests has no use for is given up before the first request comes, so
 * that a fault in it, or a peer that found one, gets hold of no more than the files it serves.
 *
 *  - Capabilities: those of the needs below stay, as far as the process had them; the others go,
 *    for good, from every set.
 *  - no_new_privs: set-user-ID programs and file capabilities give nothing to what it starts.
 *  - System calls that no file server makes (base/filter.h) fail with EPERM.
 *
 * All of it holds for every thread that there is and will be, and for every process that is
 * started from then on. What a tree started before (the ssh or the command that it speaks to) is as
 * it was. A process started later, to dial again, has what the server has left, so a tree that
 * needs more for that is opened anew by a new server.
 */
#ifndef BASE_CONFINE_H
#define BASE_CONFINE_H

#include <signal.h>
#include <stdint.h>

enum confine_need {
    /* Reaches the host's files with its callers' rights, or any: CHOWN, DAC_OVERRIDE,
     * DAC_READ_SEARCH (file handles too), FOWNER, FSETID, LINUX_IMMUTABLE, MKNOD, SETFCAP, SETGID,
     * SETUID, SYS_RESOURCE (what is reserved for root, quotas). */
    CONFINE_FILES = 1 << 0,
    /* SYS_ADMIN: trusted.* attributes, fanotify, descriptors for the kernel to read and write by
     * itself. Stays in the initial user namespace only, where alone it is of use for these. */
    CONFINE_ADMIN = 1 << 1,
    /* Nothing is given up. */
    CONFINE_NOTHING = 1 << 2,
};

/* Whoever opens something that needs more than its descriptors says so, before confine_server().
 * Any thread; needs add up. */
void confine_need(unsigned needs);

/* The capabilities that such needs keep, bit n for capability n, of those that `have` has. */
uint64_t confine_keep(unsigned needs, uint64_t have);

/* Threads that are there when confine_server() is called must not block this signal, which is its
 * own from then on. */
#define CONFINE_SIGNAL SIGRTMAX

/* Gives all the rest up, in all threads, and prepares the process to make progress without memory
 * (base/memory.h). May be called with other threads at work. What the kernel does not support is
 * left out. Blocks for a few milliseconds. 0, or -EBUSY: a thread has kept what it had, since it
 * blocks CONFINE_SIGNAL. */
int confine_server(void);

#endif
