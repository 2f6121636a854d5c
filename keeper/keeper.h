/* SPDX-License-Identifier: MIT */
/*
 * The keeper: the small process that makes the mounts and holds what the kernel knows of them,
 * while another process, the server, does the work and may die.
 *
 *     user's process --fork (unless foreground)--> keeper --fork--> nursery --clone--> server
 *
 * Three processes. The *keeper* holds the /dev/fuse descriptors, the mounts and the ledgers. The
 * *nursery* is a fork of the keeper from before anything was opened; it sleeps in a read. It makes
 * the servers: by clone(2) with CLONE_FILES, so that it shares the server's table of descriptors
 * and what is open outlives the server, and CLONE_PARENT, so that they are the keeper's children.
 * (A job that cannot last, with the ends of channels in its server, has no nursery: what a dead
 * server held must close with it.)
 *
 *  1. keeper checks the mount points, makes the nursery and through it the first server, which runs
 *     job->prepare (open the tree, dial, shake hands) and reports, and whether it can last.
 *  2. keeper mounts each directory, keeps the /dev/fuse descriptor and sends a copy to the server
 *     over their socket pair (SCM_RIGHTS). The server runs job->serve for each, in a thread each.
 *  3. when every mount has answered INIT the user's process returns 0. From here the keeper waits.
 *
 * Server dies (by whatever signal or exit that was not asked for) -> if it lasts, the nursery makes
 * the next one at once: prepare, then serve with the same ledger. One that dies before it has
 * answered anything is tried again after 10, 100, 500, 2000 and 5000 ms, then given up. Every
 * request that was in flight is asked again by the kernel; no caller sees an error.
 * Server hangs (does not take requests that wait, for job->hang seconds; stopped ones too) -> it is
 * killed, and so on. Until then, and whenever there is no server, interrupted callers are let go by
 * the keeper, which reads the device itself then (keeper/stand_in.c).
 * Given up, or cannot last -> keeper takes the mounts away, exits 1 with a sentence. If something
 * else is mounted below one, it stands in until that is gone: errors for most, true attributes for
 * the directories on the way, so that all can be listed and unmounted, innermost first.
 * Upgrade (MSG_UPGRADE from `plenum upgrade`, over a socket in the registry's directory) -> keeper
 * has the nursery fork a child that execs the installed program with the same arguments and all
 * kept descriptors, as a new nursery (environment PLENUM_NURSERY); when that one is ready the old
 * server is killed and the new nursery makes the next. If it does not get ready, the old one does.
 *
 * Ends: unmounted from outside (serve returns 0 for each mount) -> server calls job->finish, exits
 * 0, keeper exits 0. One of several mounts unmounted: the others go on. SIGINT, SIGTERM, SIGHUP to
 * the keeper -> unmounts all (a busy one: aborted and detached), tells the server (stop), exits 0;
 * a second signal forces (the server is killed), and so does a server that does not end within 10
 * s. Keeper dies -> the sockets close; the nursery (or, if there is none, the server) takes the
 * mounts away, and both exit.
 */
#ifndef KEEPER_KEEPER_H
#define KEEPER_KEEPER_H

#include "base/stats.h"
#include "fuse/ledger.h"
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
    uint32_t nodes;         /* in its ledger at most, 0: LEDGER_NODES */
    struct ledger ledger;   /* out, if job->lasts: what its servers share, mapped in each */
    /* It is mounted already, on `dir` (absolute) in a namespace that the keeper is not in: `fd` is
     * its /dev/fuse descriptor, which becomes the keeper's, `dev` its device number. It is neither
     * checked nor taken away here, and ends with its namespace. */
    bool given;
    int fd;
    dev_t dev; /* out, if it was not given: known when serve runs */
};

struct keeper_job {
    const char *kind;   /* "mount", "duct": for status */
    const char *prefix; /* of its messages: "plenum: mount" */
    size_t nmounts;
    struct keeper_mount *mounts;
    bool foreground;
    bool lasts;    /* the job may outlive its server: prepare says whether it does */
    unsigned hang; /* seconds; 0: a server that hangs is left alone */
    int argc;      /* the program's own arguments, for an upgrade; 0: there is none */
    char *const *argv;
    void *arg;
    /* All run in the server process. */
    /* Before anything is mounted. A failure's sentence reaches the user's standard error and the
     * exit status is 1. It may set the peer in the pages. A result above 0: after all, nothing is
     * to be mounted; only finish runs. In a successor it runs again, in the same memory as it was
     * before the first server was made: what it does to `arg` must come out the same, and relative
     * paths must have been made absolute before. *lasts, false at first, is set when a successor
     * can carry on. SIGTERM has its default action in the server, and ends it when the keeper is
     * told to end before this has returned. SIGINT, SIGHUP and SIGPIPE are ignored in the server.
     */
    int (*prepare)(void *arg, bool *lasts, struct pl_err *err);
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

/* Has the keeper of what is mounted at `dir` (absolute) replace the server by the installed
 * program; waits until that is done. 0 and what was done in `text`, or a negative errno and
 * sentence: then the old program goes on. */
int keeper_upgrade(const char *dir, char text[200], struct pl_err *err);

#endif
