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
 * 0, keeper exits 0. One of several mounts unmounted: the others go on. Server dies, or one serve
 * fails -> keeper takes all mounts away (abort, detach), exits 1 with a sentence. SIGINT, SIGTERM,
 * SIGHUP to the keeper -> unmounts all (a busy one: aborted and detached), tells the server (stop),
 * exits 0; a second signal forces (the server is killed), and so does a server that does not end
 * within 10 s. Keeper dies -> the server's socket closes; it takes the mounts away itself and
 * exits.
 *
 * This is the seam of decision 5: later the keeper starts a successor instead of giving up.
 */
#ifndef KEEPER_KEEPER_H
#define KEEPER_KEEPER_H

#include "base/stats.h"
#include "keeper/mount.h"
#include "keeper/registry.h"
#include <plenum/error.h>
#include <stdbool.h>

struct keeper_mount {
    const char *dir;        /* where; the keeper makes it absolute for itself and the registry */
    const char *spec;       /* for status and as the mount's source, e.g. "ro(host:/srv)" */
    struct mount_opts opts; /* what the kernel is told at mount time; source NULL: spec */
    struct reg_page *page;  /* out: this mount's page in the registry, set before prepare runs;
                               &page->stats is what serve gets */
};

struct keeper_job {
    const char *kind;   /* "mount", "duct": for status */
    const char *prefix; /* of its messages: "plenum: mount" */
    size_t nmounts;
    struct keeper_mount *mounts;
    bool foreground;
    void *arg;
    /* All run in the server process. */
    /* Before anything is mounted. A failure's sentence reaches the user's standard error and the
     * exit status is 1. It may set the peer in the pages. A result above 0: after all, nothing is
     * to be mounted; only finish runs. SIGTERM has its default action in the server, and ends it
     * when the keeper is told to end before this has returned. SIGINT, SIGHUP and SIGPIPE are
     * ignored in the server. */
    int (*prepare)(void *arg, struct pl_err *err);
    /* Serves mount number i on the /dev/fuse descriptor until it is unmounted: 0, or a negative
     * errno and sentence (link lost). Calls up(up_arg) once when INIT was answered. One thread
     * each. All the job's mounts are known to base/own.h before the first call. The descriptor
     * stays the keeper's: it is closed after this returned. */
    int (*serve)(void *arg, size_t i, int fuse_fd, struct stats *stats, void (*up)(void *),
                 void *up_arg, struct pl_err *err);
    /* Runs once whenever prepare succeeded, after every serve has returned (or none was called: a
     * mount failed). All mounts are gone: says goodbye to peers, waits for what must end with it (a
     * duct whose other direction goes on). Its result and sentence are the job's. May be NULL. */
    int (*finish)(void *arg, struct pl_err *err);
    /* Something outside wants an end now (signal): make finish and serve return soon. Runs in a
     * thread of the server, at most once, never before prepare has returned. May be NULL. */
    void (*stop)(void *arg);
};

/* Runs the job; returns the process's exit status (0, 1) after printing the sentence, if any, as
 * "PREFIX: sentence" on standard error. When not foreground it returns in the user's process
 * as soon as the mounts work; the keeper and the server have left the terminal by then (setsid, cwd
 * /, stdio /dev/null: what prepare opened must not be looked up by a relative path later), and late
 * failures go to syslog. It must be called while the process is single-threaded.
 *
 * The calling process becomes the keeper in the foreground: its standard input and output become
 * /dev/null once the server has them, and all its other descriptors but standard error are closed,
 * so that the ends of channels are held by the server alone. */
int keeper_run(const struct keeper_job *job);

#endif
