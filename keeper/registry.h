/* SPDX-License-Identifier: MIT */
/*
 * What is running: one file for each mount, duct and server of this user, in a private directory
 * (/run/plenum for root, $XDG_RUNTIME_DIR/plenum, else /tmp/plenum-UID, mode 0700, owner checked;
 * the first that can be written is used, all are read). The file is mapped shared by the process
 * that does the work and holds fixed facts, live counters and a ring of trace lines; whoever reads
 * it asks nobody. The keeper and its server (or the server alone) hold an flock on it for as long
 * as one of them lives: a file that can be locked is a wreck, and readers remove it.
 *
 * In a user namespace UID is the user outside, so that status finds the mount from there too.
 */
#ifndef KEEPER_REGISTRY_H
#define KEEPER_REGISTRY_H

#include "base/stats.h"
#include <plenum/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define REG_TRACE_SIZE (1u << 20)
#define REG_LINE_MAX   1024 /* a trace line with its newline; longer ones are cut */

/* The way to the other end (docs/links.md), for status and for the keeper. */
enum reg_link_kind {
    REG_LINK_NONE,  /* there is no other end, or the first break is the end */
    REG_LINK_AGAIN, /* who dialed dials again, and what was open is made anew */
    REG_LINK_KEPT,  /* nothing is lost: both ends have agreed on a link */
};
struct reg_link {
    _Atomic uint32_t kind;
    _Atomic uint32_t peers;                  /* connections, up and down */
    _Atomic uint32_t down;                   /* of those, without a channel now */
    _Atomic uint32_t breaks;                 /* how often one went down, so far */
    _Atomic int64_t since;                   /* CLOCK_REALTIME seconds: down, if it is */
    _Atomic int64_t linger, soft, keepalive; /* ns; soft 0: hard */
    char why[160];                           /* it went down the last time; escaped */
    char id[40]; /* of a mount's link, for who follows the process that has it: a secret */
};

/* A view (plenum-run(1)), for status. */
struct reg_view {
    _Atomic uint64_t ns;    /* inode number of its mount namespace; 0: it has none of its own */
    _Atomic int32_t first;  /* the process that was run in it */
    _Atomic uint32_t depth; /* 1; a view in a view has one more */
    char door[16];          /* "mount", "trap", "preload" */
    char table[4096];       /* its text form (view/view.h), cut */
};

/* Strings are written by one process while others read: each ends with a NUL at the latest in its
 * last byte, which is never written. A reader may see a mixture of old and new for a moment. */
struct reg_page {
    _Atomic uint32_t magic; /* set last */
    uint32_t version;
    char kind[8];                 /* "mount", "duct", "serve", "view" */
    char dir[4096];               /* absolute; empty if nothing is mounted */
    char spec[1024];              /* as given (cut): escape it for a terminal */
    char peer[128];               /* escaped */
    char state[160];              /* "starting", "up", "ending", "restarting" (no server, the next
                                     one comes), "stopped" and "hangs" (one, which takes nothing),
                                     "failed: SENTENCE", or */
#define REG_UNMOUNTED "unmounted" /* served no more, while others of the same server go on */
    char control[32];             /* name of the keeper's socket in this directory; empty: none */
    int64_t started;              /* CLOCK_REALTIME seconds */
    _Atomic int32_t keeper, server, nursery; /* pids, 0: none */
    _Atomic uint32_t restarts;               /* servers that have followed the first */
    struct stats stats;
    struct reg_link link;
    struct reg_view view; /* of kind "view" */
    /* The trace: a tracer sets trace_until (CLOCK_MONOTONIC ns) again and again; while it lies in
     * the future the server appends lines to the ring, newline-terminated, at trace_head modulo the
     * size (trace_head only grows; a reader that falls behind by more than the size lost lines). */
    _Atomic int64_t trace_until;
    _Atomic uint64_t trace_head;
    _Atomic char trace[REG_TRACE_SIZE]; /* sparse until it is used */
};

struct reg_entry; /* a registered file, held */
/* Registers; to be called by the longest-living process, before it forks the server (the mapping
 * and the lock are shared). `keeper` and `server` are 0, state is "starting". A negative errno when
 * there is no place to register: not fatal, *ret and *page are then a private page, which works the
 * same and nobody sees. Only for -ENOMEM are they NULL. */
int reg_add(const char *kind, const char *dir, const char *spec, struct reg_entry **ret,
            struct reg_page **page);
void reg_del(struct reg_entry *e); /* unlinks and unmaps; NULL is fine */

/* The entry of another process, from what reg_fds() gave there: for who takes its place. Takes the
 * descriptors over, also when it fails. -EPROTO: of another version. */
int reg_adopt(int fd, int dir, const char *name, struct reg_entry **ret, struct reg_page **page);
/* The entry's file, its directory and its name there; false for a private page. */
bool reg_fds(const struct reg_entry *e, int *fd, int *dir, const char **name);

/* A socket (unix, SOCK_SEQPACKET, close-on-exec, non-blocking) in the entry's directory, for this
 * user and root, on which its keeper takes orders: the listening descriptor, or a negative errno.
 * It goes with the entry. */
int reg_listen(struct reg_entry *e);
/* The keeper of what is mounted at `dir` (absolute): a connected descriptor; -ENOENT: no such mount
 * of this user, or it takes no orders. */
int reg_dial(const char *dir);

/* A meeting point by name, for two processes of this user that know it (SOCK_SEQPACKET,
 * close-on-exec). In a directory that stays when the user's last login session ends; it stays open,
 * since who is confined by then could not open it again to take the name away. */
struct reg_meeting {
    int fd; /* listens (non-blocking); -1: there is none */
    int dir;
    uint64_t ino; /* of the name, which another may have taken over */
};
/* 0 or a negative errno. Who has had the name is not met any more. */
int reg_meet(const char *name, struct reg_meeting *ret);
void reg_meet_end(const char *name, struct reg_meeting *meeting); /* nothing if there is none */
/* Connected to who listens there; -ENOENT: nobody does. */
int reg_meet_dial(const char *name);
/* A directory for what a server's successor needs, as private as the registry's, beside the
 * entries: its descriptor, or a negative errno. */
int reg_dir(const char *name);

void reg_set_state(struct reg_page *page, const char *state);
/* The link went down (with the sentence), still is (for another reason), or is up again (NULL). */
void reg_link_changed(struct reg_page *page, const char *down);
void reg_set_peer(struct reg_page *page, const char *peer); /* escaped already */
void reg_set_table(struct reg_page *page, const char *table);

/* Calls fn for each live entry (page mapped read-write so that a tracer can set trace_until; it is
 * unmapped when fn returns); stops when fn returns non-zero and returns that. Removes wrecks. */
int reg_each(int (*fn)(void *arg, struct reg_page *page), void *arg);
/* Maps the live entry whose dir is `dir` (absolute; the youngest, if several); NULL if there is
 * none. It stays readable after the entry is gone. */
struct reg_page *reg_find(const char *dir);
void reg_put(struct reg_page *page); /* of reg_find; NULL is fine */

/* ---- the trace ---- */

/* Is anybody listening? Cheap: a load when nobody is. */
bool reg_traced(struct reg_page *page);
/* Appends one line (the newline is added, control characters are the caller's to escape) if anybody
 * listens. Safe from any number of threads of the one process that writes to the page. */
void reg_trace(struct reg_page *page, const char *fmt, ...) PL_PRINTF(2, 3);
/* For the tracer: asks for lines for the next `ns`. Call it again well before that is over. */
void reg_trace_ask(struct reg_page *page, int64_t ns);
/* Copies whole lines from position *pos on (begin with the page's trace_head) into buf; their
 * bytes, 0 if there are none yet. *lost is set when lines in between were overwritten. `size` must
 * be at least REG_LINE_MAX. */
size_t reg_trace_read(struct reg_page *page, uint64_t *pos, char *buf, size_t size, bool *lost);

#endif
