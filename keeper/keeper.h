/* SPDX-License-Identifier: MIT */
/*
 * The keeper: the small process that makes the mounts and holds what the kernel knows of them,
 * while a child process, the server, does the work.
 *
 *     user's process --fork (unless foreground)--> keeper --fork--> server
 *
 *  1. keeper checks the mount points and forks the server, which runs job->prepare (open the tree,
 *     dial, shake hands) and reports.
 *  2. keeper mounts each directory, keeps the /dev/fuse descriptor and sends a copy to the server
 *     over their socket pair (SCM_RIGHTS). The server runs job->serve for each, in a thread each.
 *  3. when every mount has answered INIT the user's process returns 0. From here the keeper waits.
 *
 * Ends: unmounted from outside (serve returns 0 for each mount) -> server calls job->finish, exits
 * 0, keeper exits 0. Server dies or fails -> keeper takes all mounts away (abort, detach), exits 1
 * with a sentence. SIGINT, SIGTERM, SIGHUP to the keeper -> unmounts all (lazily when busy), tells
 * the server, exits 0. Keeper dies -> the server's socket closes and it ends likewise.
 *
 * This is the seam of decision 5: later the keeper starts a successor instead of giving up.
 */
#ifndef KEEPER_KEEPER_H
#define KEEPER_KEEPER_H

#include "base/stats.h"
#include "keeper/mount.h"
#include <plenum/error.h>
#include <stdbool.h>

struct keeper_mount {
    const char *dir;        /* where; made absolute by the keeper */
    const char *spec;       /* for status and as the mount's source, e.g. "ro(host:/srv)" */
    struct mount_opts opts; /* what the kernel is told at mount time */
    const char *wait_note;  /* optional */
};

struct keeper_job {
    const char *kind; /* "mount", "duct": for status */
    size_t nmounts;
    struct keeper_mount *mounts;
    bool foreground;
    void *arg;
    /* All run in the server process. */
    /* Before anything is mounted. A failure's sentence reaches the user's standard error and the
     * exit status is 1. It may set keeper-visible facts through registry (peer). */
    int (*prepare)(void *arg, struct pl_err *err);
    /* Serves mount number i on the /dev/fuse descriptor until it is unmounted: 0, or a negative
     * errno and sentence (link lost). Calls up(up_arg) once when INIT was answered. */
    int (*serve)(void *arg, size_t i, int fuse_fd, struct stats *stats, void (*up)(void *),
                 void *up_arg, struct pl_err *err);
    /* All mounts are gone: says goodbye to peers, waits for what must end with it (a duct whose
     * other direction goes on). Its result and sentence are the job's. May be NULL. */
    int (*finish)(void *arg, struct pl_err *err);
    /* Something outside wants an end now (signal): make finish and serve return soon. Runs in a
     * thread of the server. May be NULL. */
    void (*stop)(void *arg);
};

/* Runs the job; returns the process's exit status (0, 1) after printing the sentence, if any, as
 * "plenum: KIND: sentence" on standard error. When not foreground it returns in the user's process
 * as soon as the mounts work; the keeper has left the terminal (setsid, cwd /, stdio /dev/null)
 * and its late failures go to syslog. It must be called while the process is single-threaded. */
int keeper_run(const struct keeper_job *job);

#endif
