/* SPDX-License-Identifier: MIT */
/*
 * What is running: one file for each mount, duct and server of this user, in a private directory
 * (/run/plenum for root, $XDG_RUNTIME_DIR/plenum, else /tmp/plenum-UID, mode 0700, owner checked).
 * The file is mapped shared by the process that does the work and holds fixed facts, live counters
 * and a ring of trace lines; whoever reads it asks nobody. The keeper (or server) holds an flock on
 * it for as long as it lives: a file that can be locked is a wreck, and readers remove it.
 */
#ifndef KEEPER_REGISTRY_H
#define KEEPER_REGISTRY_H

#include "base/stats.h"
#include <plenum/error.h>
#include <stdbool.h>
#include <sys/types.h>

#define REG_TRACE_SIZE (1u << 20)

struct reg_page {
    uint32_t magic, version;
    char kind[8];         /* "mount", "duct", "serve" */
    char dir[4096];       /* absolute; empty if nothing is mounted */
    char spec[1024];
    char peer[128];       /* escaped */
    char state[32];       /* "starting", "up", "ending" */
    int64_t started;      /* CLOCK_REALTIME seconds */
    _Atomic int32_t keeper, server; /* pids, 0: none */
    struct stats stats;
    /* The trace: a tracer sets trace_until (CLOCK_MONOTONIC ns) again and again; while it lies in
     * the future the server appends lines to the ring, newline-terminated, at trace_head modulo the
     * size (trace_head only grows; a reader that falls behind by more than the size lost lines). */
    _Atomic int64_t trace_until;
    _Atomic uint64_t trace_head;
    char trace[REG_TRACE_SIZE]; /* sparse until it is used */
};

struct reg_entry; /* a registered file, held */
/* Registers; to be called by the longest-living process, before it forks the server (the mapping is
 * shared). Failing is not fatal to a mount: -errno, and the caller goes on with a private page. */
int reg_add(const char *kind, const char *dir, const char *spec, struct reg_entry **ret,
            struct reg_page **page);
void reg_del(struct reg_entry *e); /* unlinks and unmaps */

/* Calls fn for each live entry (page mapped read-write so that a tracer can set trace_until); stops
 * when fn returns non-zero and returns that. */
int reg_each(int (*fn)(void *arg, struct reg_page *page), void *arg);

#endif
