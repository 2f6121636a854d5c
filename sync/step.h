/* SPDX-License-Identifier: MIT */
/*
 * What a replicator does next: a pure function of what happened. It looks at no clock, waits for
 * nothing, and knows no files; cmd/replicator.c runs it.
 *
 * A replica is *out* (could not be reached; tried again ever later), *behind* (has to be compared
 * as a whole) or *in*: carries out records as they come. What waits for an acknowledgement gets it
 * when every replica that is in has its record, if at least `least` are in; else it gets EIO, and
 * what modifies the tree is refused from then on.
 */
#ifndef SYNC_STEP_H
#define SYNC_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STEP_REPLICAS   16
#define STEP_BACKOFF_LO 100000000ll   /* ns until the first new try */
#define STEP_BACKOFF_HI 30000000000ll /* and at most */

enum step_what {
    STEP_RECORD,  /* `seq` is in the journal; `conn` waits for an answer to its `cseq` (or 0) */
    STEP_GAP,     /* something went by unseen, before record `seq` */
    STEP_REACHED, /* replica is open */
    STEP_DONE,    /* replica has carried out all up to `seq` */
    STEP_SYNCED,  /* replica was compared as a whole; what came after `seq` may not be in it */
    STEP_FAILED,  /* replica is out */
    STEP_LEFT,    /* connection `conn` is gone */
    STEP_TICK,    /* time has passed */
};

struct step_event {
    enum step_what what;
    size_t replica;
    uint64_t seq, conn, cseq;
    int64_t now; /* ns, of any clock that does not go back */
};

struct step_replica {
    bool out, behind, working;
    uint64_t has; /* all records up to this one */
    uint64_t gap; /* behind because of what was before this record */
    int64_t retry, backoff;
    unsigned failures; /* in a row */
};

struct step_wait {
    uint64_t seq, conn, cseq;
};

struct step {
    struct step_replica v[STEP_REPLICAS];
    size_t n, least;
    uint64_t last; /* the last record */
    struct step_wait *waits;
    size_t nwaits, room;
    bool refusing;
};

/* What is to be done. */
enum step_do {
    STEP_OPEN,    /* replica: open it */
    STEP_APPLY,   /* replica: carry out what is behind `seq` */
    STEP_COMPARE, /* replica: compare it as a whole */
    STEP_ANSWER,  /* conn, cseq: `result` */
    STEP_REFUSE,  /* all connections: from now on */
    STEP_ACCEPT,
    STEP_TRIM, /* the journal, up to `seq` */
    STEP_WAKE, /* a tick at `time`, unless something happens before */
};
struct step_action {
    enum step_do what;
    size_t replica;
    uint64_t seq, conn, cseq;
    int result;
    int64_t time;
};
typedef void step_fn(void *arg, const struct step_action *action);

/* `has[i]`: what replica i has of a journal that goes to `last`; behind[i]: it is to be compared.
 */
void step_init(struct step *s, size_t n, size_t least, uint64_t last, const uint64_t *has,
               const bool *behind);
void step_done(struct step *s);
/* Takes an event and gives out what is to be done. -ENOMEM: nothing was taken in. */
int step_event(struct step *s, const struct step_event *ev, step_fn *todo, void *arg);

#endif
