/* SPDX-License-Identifier: MIT */
/*
 * Making one tree, the replica, like another, the source: the paths that records name, or all.
 *
 * A path is made what it is in the source now: made, linked, renamed (an object that is noted
 * elsewhere and is not there any more is moved, with its content), its content changed where blocks
 * differ, its attributes set. What is gone from the source is removed at the end of a batch, when
 * it has not turned up elsewhere. Nothing at the replica is changed or removed that does not look
 * as it was noted: that is a divergence (docs/services.md says what is looked at, and when). What
 * was carried out is on the replica's disk before it is noted as carried out.
 */
#ifndef SYNC_REPLICA_H
#define SYNC_REPLICA_H

#include "sync/journal.h"
#include "sync/notes.h"
#include <plenum/tree.h>

enum replica_resolve {
    REPLICA_FAIL, /* what diverged is left alone, and told */
    REPLICA_OURS, /* it is made like the source */
    REPLICA_KEEP, /* it is renamed (NAME.kept-DATE), and the source's put in its place */
};

enum replica_kind {
    REPLICA_MAKES, /* of what is told: done, or (dry) to be done */
    REPLICA_RENAMES,
    REPLICA_LINKS,
    REPLICA_WRITES,
    REPLICA_REMOVES,
    REPLICA_DIVERGED,
    REPLICA_KEPT,
    REPLICA_CANNOT, /* an object that could not be made so; the rest goes on */
    REPLICA_KINDS
};

struct replica_count {
    _Atomic uint64_t n[REPLICA_KINDS];
    _Atomic uint64_t bytes; /* of content, sent */
    _Atomic uint64_t files; /* looked at */
};

struct replica {
    /* set by the caller */
    struct pl_tree *src, *dst; /* not owned */
    struct pl_call *call;
    struct notes *notes;
    enum replica_resolve resolve;
    bool dry;     /* nothing is changed, and everything told */
    bool check;   /* contents are compared whatever times say */
    bool no_sync; /* the replica is not synced to its disk */
    void (*tell)(void *arg, enum replica_kind kind, const char *path, const char *detail);
    void *arg;
    struct replica_count *count;
    _Atomic uint64_t *seen, *seen_files; /* bytes and files gone by, for a progress line; or NULL */
    /* private */
    struct replica_state *p;
};

/* Begins: attaches both trees. -errno. */
int replica_open(struct replica *r);
void replica_close(struct replica *r);

/* Carries out records up to number recs[n-1].seq, and notes that. 0; a negative errno when the
 * replica (or the source as a whole) is not to be used now: then nothing is noted, and they are
 * carried out again some time. `more`: others are waiting already. */
int replica_apply(struct replica *r, const struct journal_record *recs, size_t n, bool more);
/* Makes all of it the same; what was recorded up to `seq` is in it then. */
int replica_compare(struct replica *r, uint64_t seq);

#endif
