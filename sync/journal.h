/* SPDX-License-Identifier: MIT */
/*
 * The journal of a replicator: which paths have changed, in order, until every replica has them.
 *
 * A record says that something is to be looked at, not what it became: a replica is made like the
 * source as it is when the record is carried out. So records may be carried out twice, late, or
 * merged, and the result is the same. What is not carried out yet is in memory too; both are
 * bounded. Not locked.
 */
#ifndef SYNC_JOURNAL_H
#define SYNC_JOURNAL_H

#include "sync/log.h"
#include <stdbool.h>

/* The length of what goes from `off` to the end, wherever that is. */
#define JOURNAL_END(off) ((uint64_t)INT64_MAX - (off))

struct journal_record {
    uint64_t seq;       /* 1, 2, ...; its number */
    uint64_t ino;       /* of the object at `path` then; 0: not known */
    uint64_t off, len;  /* bytes that were written; len 0: none were */
    int64_t time;       /* when it was made, CLOCK_REALTIME ns */
    char *path, *path2; /* "": none */
    bool gap;           /* something went by unseen: everything is to be looked at */
};

/* Up to which record a client of the service has been heard. */
struct journal_session {
    uint64_t id, seq;
};
#define JOURNAL_SESSIONS 16

struct journal {
    struct synclog log;
    struct journal_record *v; /* sorted by seq; from `first` on they are alive */
    size_t first, n, room;
    uint64_t last;  /* the number of the last record there ever was */
    uint64_t bytes; /* of those that are alive */
    uint64_t bound;
    struct journal_session sessions[JOURNAL_SESSIONS]; /* the last used first */
    size_t nsessions;
};

/* Opens or makes the file, for at most `bound` bytes. */
int journal_open(struct journal *j, const char *path, uint64_t bound, struct pl_err *err);
void journal_close(struct journal *j);

/* Adds a record (seq is filled in) that came as number `cseq` of `session`. Full: what can be
 * merged is; if that does not help, all is dropped and one gap stands in its place (*ret_gap). */
int journal_add(struct journal *j, struct journal_record *rec, uint64_t session, uint64_t cseq,
                bool *ret_gap);
/* The power may go: -errno. */
int journal_sync(struct journal *j);
/* Everybody has all up to `seq`. */
int journal_trim(struct journal *j, uint64_t seq);
/* The first record behind `seq`; NULL: none. Followed in memory by the others, up to *ret_n. */
const struct journal_record *journal_after(const struct journal *j, uint64_t seq, size_t *ret_n);
/* How far the session was heard; false: never. */
bool journal_heard(const struct journal *j, uint64_t session, uint64_t *ret_seq);

#endif
