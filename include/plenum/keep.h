/* SPDX-License-Identifier: MIT */
/*
 * What outlives a server.
 *
 * The server of a mount may be killed at any instant, and a successor carries on (keeper/keeper.h).
 * Two things survive it at no cost: memory that is shared with the keeper, and *descriptors*: the
 * server shares its descriptor table with a process that never touches the tree, so that what is
 * open stays open, under the same number, with its locks and its position. The successor closes all
 * that nobody claims.
 *
 * A source claims descriptors by records: a few bytes of its own that say what the descriptor is.
 * The open files of a door need none (pl_file.kept). host notes here the descriptors that hold
 * locks, and those of files that have lost their last name while the kernel still knows them.
 *
 * All functions take NULL for `keep`, which keeps nothing. Any thread; none blocks.
 */
#ifndef PLENUM_KEEP_H
#define PLENUM_KEEP_H

#include <plenum/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PL_KEEP_DATA 104 /* bytes of a record at most */

struct pl_keep;

/* Keeps a record and (if not -1) a descriptor, which stays the caller's to close. Returns the
 * record's number, or 0 when there is no room or nothing is kept: then a successor does without. */
PL_API uint32_t pl_keep_add(struct pl_keep *keep, int fd, const void *data, size_t n);
/* Drops a record (0: none). Before the descriptor is closed: else a successor might find another
 * file under that number. */
PL_API void pl_keep_del(struct pl_keep *keep, uint32_t record);

/* A record that a predecessor left. `fd` is its descriptor, open and now the caller's, or -1. */
struct pl_kept {
    uint32_t record;
    int fd;
    size_t n;
    uint8_t data[PL_KEEP_DATA];
};
/* The next record after number `after` (0: the first); false: there are no more. */
PL_API bool pl_keep_next(struct pl_keep *keep, uint32_t after, struct pl_kept *ret);

#endif
