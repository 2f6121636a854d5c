/* SPDX-License-Identifier: MIT */
/*
 * What a server that takes requests has no use for is given up before the first request comes, so
 * that a fault in it, or a peer that found one, gets hold of no more than the files it serves.
 *
 *  - Capabilities: those of the needs below stay, as far as the process had them; the others go,
 *    for good, from every set.
 *  - no_new_privs: set-user-ID programs and file capabilities give nothing to what it starts.
 *  - System calls that no file server makes (base/filter.h) fail with EPERM; where all that is
 *    reached of the host's files is only read, so do those that change their attributes.
 *
 * All of it holds for every thread that there is and will be, and for every process that is
 * started from then on. What a tree started before (the ssh or the command that it speaks to) is as
 * it was. A process started later, to dial again, has what the server has left, so a tree that
 * needs more for that is opened anew by a new server.
 */
#ifndef BASE_CONFINE_H
#define BASE_CONFINE_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

enum confine_need {
    /* Reaches the host's files with its callers' rights, or any: CHOWN, DAC_OVERRIDE,
     * DAC_READ_SEARCH (file handles too), FOWNER, FSETID, LINUX_IMMUTABLE, MKNOD, SETFCAP, SETGID,
     * SETUID, SYS_RESOURCE (what is reserved for root, quotas). */
    CONFINE_FILES = 1 << 0,
    /* The same, but changes nothing: DAC_OVERRIDE (to tell what root could execute),
     * DAC_READ_SEARCH, FOWNER (O_NOATIME), SETGID, SETUID. */
    CONFINE_READS = 1 << 4,
    /* SYS_ADMIN: trusted.* attributes, fanotify, descriptors for the kernel to read and write by
     * itself. Stays in the initial user namespace only, where alone it is of use for these. */
    CONFINE_ADMIN = 1 << 1,
    /* Nothing is given up. */
    CONFINE_NOTHING = 1 << 2,
    /* Starts commands later on, which may open anything: not confined to paths. */
    CONFINE_COMMANDS = 1 << 3,
};

/* Whoever opens something that needs more than its descriptors says so, before confine_server().
 * Any thread; needs add up. */
void confine_need(unsigned needs);

/* The capabilities that such needs keep, bit n for capability n, of those that `have` has. */
uint64_t confine_keep(unsigned needs, uint64_t have);

/* Threads that are there when confine_server() is called must not block this signal, which is its
 * own from then on. */
#define CONFINE_SIGNAL SIGRTMAX

/* Paths that an exporter may open once it is confined, with all beneath them; whoever opens, reads
 * again or removes a file later on says so beforehand (the tree that is exported; a directory of
 * state; a file that is read again on SIGHUP; the directory of a socket that is unlinked in the
 * end). What is open already needs no rule. Any thread; rules add up. 0 or -ENOMEM. */
enum confine_path {
    CONFINE_READ = 1 << 0,
    CONFINE_CHANGE = 1 << 1, /* write, make, rename, remove */
    CONFINE_REMOVE = 1 << 2, /* files in it */
    CONFINE_LOAD = 1 << 3,   /* read, execute */
};
int confine_path(const char *path, unsigned what);
int confine_path_of(int fd, unsigned what);          /* where that is now */
int confine_parent(const char *path, unsigned what); /* the directory that it is in */

/* Gives all the rest up, in all threads, and prepares the process to make progress without memory
 * (base/memory.h). May be called with other threads at work. What the kernel does not support is
 * left out. Blocks for a few milliseconds. 0, or -EBUSY: a thread has kept what it had, since it
 * blocks CONFINE_SIGNAL. */
int confine_server(void);

/* The same for a process that exports trees and mounts none: its memory is as it was, and it can
 * open no file but by confine_path(), as far as the kernel has landlock. Not so when a tree starts
 * commands, nor when it reaches the host's files with CAP_DAC_READ_SEARCH: then it opens them by
 * their handles, and landlock refuses what has no name in memory. With CONFINE_READS alone such a
 * process can still open what it likes, but change only what confine_path() says. */
enum confine_paths { CONFINED_NOT, CONFINED_CHANGES, CONFINED_ALL };
int confine_exporter(enum confine_paths *ret);

#endif
