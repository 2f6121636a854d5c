/* SPDX-License-Identifier: MIT */
/*
 * Counters of a running mount, duct or server. They live in memory shared with `plenum status`
 * (keeper/registry.h), so that status never has to ask a server that may hang. All are only ever
 * added to with relaxed atomics; `waiting` goes up and down.
 */
#ifndef BASE_STATS_H
#define BASE_STATS_H

#include <stdatomic.h>
#include <stdint.h>

struct stats {
    _Atomic uint64_t requests;   /* taken from clients (kernel or 9P) */
    _Atomic uint64_t errors;     /* of those, answered with an error other than ENOENT, ENODATA */
    _Atomic uint64_t bytes_read; /* handed to clients by read */
    _Atomic uint64_t bytes_written;  /* taken from clients by write */
    _Atomic int64_t waiting;         /* requests taken and not yet answered */
    _Atomic uint64_t sent, received; /* bytes on the channel, both directions of a duct */
    _Atomic uint64_t passed;         /* opens whose bytes the kernel moves by itself */
    _Atomic uint64_t invalidated;    /* what the kernel was told to forget */
    /* How a mount runs, and why so, in a few words each: written by the server when it starts (and
     * when it changes); the last byte stays 0. */
    char bytes[80]; /* "by the kernel", "by messages: ..." */
    char told[80];  /* "fanotify", "inotify", "asked again after 1 s: ..." */
    char lasts[80]; /* "outlives its server", "ends with its server: ..." */
};

static inline void stats_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

#endif
