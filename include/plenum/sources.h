/* SPDX-License-Identifier: MIT */
/*
 * The sources and layers that come with plenum. Each returns a new tree with one reference, or
 * NULL / a negative errno with the sentence in `err`. Layers take over the reference of `lower`,
 * also when they fail.
 */
#ifndef PLENUM_SOURCES_H
#define PLENUM_SOURCES_H

#include <plenum/tree.h>
#include <stdio.h>

/* ---- sources ---- */
/* The host directory `dir` and all beneath it, other file systems mounted there included.
 * Resolution never leaves it. As root, acts with the caller's credentials; else as this user.
 * Between ops a thread other than the main one keeps the file-system credentials and the umask of
 * the last caller. FIFOs, sockets and devices can be made and removed, but not opened (-ENXIO). */
PL_API int pl_host_open(const char *dir, struct pl_tree **ret, struct pl_err *err);
/* An empty read-write tree in memory whose root belongs to this process's user; it holds at most
 * `max_bytes` of file content (0: half of the machine's memory), then -ENOSPC. */
PL_API int pl_mem_new(uint64_t max_bytes, struct pl_tree **ret, struct pl_err *err);

/* ---- layers ---- */
/* Passes everything through: the pattern to start a layer from. */
PL_API struct pl_tree *pl_null_new(struct pl_tree *lower);
/* Everything is this process's user's and main group's, and what belongs to others has as its
 * owner's permissions what the caller may do with it: for a mount in a user namespace in which
 * there is nobody but that user. */
PL_API struct pl_tree *pl_mine_new(struct pl_tree *lower);
/* What would modify the tree is -EROFS. */
PL_API struct pl_tree *pl_ro_new(struct pl_tree *lower);
/* Writes a line for each op to `out` (not closed), names escaped; see plenum-trace(1). */
PL_API struct pl_tree *pl_trace_new(FILE *out, struct pl_tree *lower);
/* Each op takes `ns` nanoseconds longer; can be cancelled meanwhile. */
PL_API struct pl_tree *pl_delay_new(int64_t ns, struct pl_tree *lower);
/* Callers are others beneath it and owners others above, by a map as in plenum-spec(7): "squash",
 * "uid=100000:0:65536,gid=100000:0:65536", "file=PATH", "as=USER". May look users up. pl_map_new
 * takes the reference of `map` over. */
struct pl_map;
PL_API int pl_map_parse(const char *items, struct pl_map **ret, struct pl_err *err);
PL_API struct pl_map *pl_map_ref(struct pl_map *map);
PL_API void pl_map_unref(struct pl_map *map);
PL_API struct pl_tree *pl_map_new(struct pl_map *map, struct pl_tree *lower);
/* The same for a door that has looked its callers up itself: only owners are mapped. Who a client's
 * user or group is at the server; false: nobody. */
PL_API struct pl_tree *pl_map_owners_new(struct pl_map *map, struct pl_tree *lower);
PL_API bool pl_map_user(const struct pl_map *map, uid_t client, uid_t *ret);
PL_API bool pl_map_group(const struct pl_map *map, gid_t client, gid_t *ret);
/* The op `op` (PL_OP_COUNT: any but close and flush) fails with `error` (a negative errno): let
 * `skip` of them pass, then fail `count` (UINT64_MAX: all that follow). */
PL_API struct pl_tree *pl_fault_new(enum pl_op op, int error, uint64_t skip, uint64_t count,
                                    struct pl_tree *lower);

#endif
