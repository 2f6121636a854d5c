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
};

static inline void stats_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

#endif
