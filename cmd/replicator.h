/* SPDX-License-Identifier: MIT */
/*
 * The runner of replication: a thread for each replica, one for each mount whose service this is,
 * the journal, and the state on the disk. What is done next is for sync/step.h to say.
 *
 * In the state directory: `lock`, `journal`, a `notes-HASH` and a `client-HASH` for each replica,
 * `status.json`.
 */
#ifndef CMD_REPLICATOR_H
#define CMD_REPLICATOR_H

#include "channel/channel.h"
#include "cmd/cmd.h"
#include "cmd/spec.h"
#include "sync/journal.h"
#include "sync/replica.h"
#include "sync/step.h"
#include <json-c/json.h>

#define REPLICATOR_TOLD 100 /* paths that a status shows of what diverged */

struct replicator;

struct replicator_worker {
    struct replicator *r;
    size_t i;
    struct spec *spec;
    struct notes notes;
    struct spec_watch watch;
    uint64_t client[2]; /* who we are to its server, as our predecessors were */
    int followed;       /* the server has not let go of what they have left: why, -errno */
    struct pl_tree *tree;
    struct pl_call call;
    struct replica replica;
    struct replica_count count;
    pthread_t thread;
    bool running;
    size_t at_once; /* records that are carried out together; the thread's */
    /* guarded by the replicator's lock */
    bool has_job;
    enum step_do job;
    char why[256]; /* it is out */
    char *told[REPLICATOR_TOLD];
    size_t ntold, untold; /* what diverged or could not be done; and how much more */
};

struct replicator {
    const struct cmd *cmd;
    struct replicator *next; /* of another source, served at the same addresses; or NULL */
    struct spec *source;
    struct pl_tree *src;
    char *dir;
    bool opened; /* by replicator_open(), for good or ill: to be closed */
    int lock_fd;
    enum replica_resolve resolve;
    size_t least;
    uint64_t bound;
    bool dry, check, no_sync, verbose;
    struct replicator_worker w[STEP_REPLICAS];
    size_t n;

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t cond;  /* a job, the end */
    struct step step;
    struct journal journal;
    struct replicator_conn *conns;
    uint64_t next_conn;
    int64_t wake;    /* when the step wants to be called */
    int wake_fd;     /* the main thread is to look at that, and at the status; one for all */
    int64_t written; /* when the status was, last; the main thread's */
    bool stopping, changed;
};

/* Opens the state (made if need be), the source and the notes: EXIT_OK or the exit status. */
int replicator_open(struct replicator *r);
void replicator_close(struct replicator *r);

/* Compares each replica as a whole, one after the other, with a progress line. */
int replicator_once(struct replicator *r);
/* Serves the mounts that call at the listeners until a signal comes, for all of the list. */
int replicator_serve(struct replicator *r, struct chan_listener *const *listeners, size_t n);

/* A mount calls the first of the list. Starts a thread for the connection, which is closed in any
 * case. */
void replicator_accept(struct replicator *r, struct chan *chan);
/* Waits for those threads. */
void replicator_hang_up(struct replicator *r);
/* Under the lock: to a connection (0: all of them), a message of the server. */
struct service_msg;
void replicator_say(struct replicator *r, uint64_t conn, const struct service_msg *msg);
/* Under the lock: something happened. */
void replicator_event(struct replicator *r, struct step_event ev);

/* Under the lock: how all is, as JSON; written to the state directory. */
void replicator_status(struct replicator *r);
/* `plenum replicate --status`: prints what the state directory says. */
int replicator_print_status(const struct cmd *cmd, const char *dir, bool json);

/* The state directory of a source, to be freed. */
char *replicator_dir(const char *source_text);

#endif
