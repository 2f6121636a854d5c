/* SPDX-License-Identifier: MIT */
/*
 * The supervisor's side of the preload: what it tells programs about a view
 * (doors/preload/shared.h).
 *
 * Of a directory in which a name was looked up it notes what it is made of, if that is usual: in
 * all trees the directory of the same path, without a mark (whiteout, opaque, redirect) on the way.
 * What others change there is seen by the times of the directories, so a directory that has just
 * changed is not noted yet. Any thread; nothing here waits for anything but the host's files.
 */
#ifndef DOORS_PRELOAD_TABLE_H
#define DOORS_PRELOAD_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct preload;
struct preload_table;

/* Of a packed view (view/pack.h), which is copied. -EINVAL: there is something in it that is for
 * the trap alone (versions, trace, other trees in a top); -E2BIG, -ENOMEM, or why there is no such
 * memory.
 */
int preload_table_new(const void *pack, size_t size, struct preload_table **ret);
void preload_table_free(struct preload_table *t); /* NULL is fine, here and below */

/* What the programs must know of the run; then a descriptor that can only be read, which stays the
 * table's, or a negative errno. */
int preload_table_fd(struct preload_table *t, int state_fd, uintptr_t pass, const uint64_t dev[2]);

/* For finding in it what programs find (doors/preload/look.h): its block and its pack, as long as
 * the table is there. False: it answers nothing. */
bool preload_table_reader(const struct preload_table *t, struct preload *ret);

/* Top number i, or NULL. */
const char *preload_top(const struct preload_table *t, uint32_t i);

/* Kept as long as the view: where a directory of a tree was renamed to, of which a part stays where
 * it is. */
void preload_renamed(struct preload_table *t, const char *from, const char *to, bool exchanged);
void preload_note_place(struct preload_table *t, uint64_t dev, uint64_t ino, const char *path);
/* A directory was renamed: paths of places may be wrong. */
void preload_moved(struct preload_table *t);
/* The directory `path` (`n` bytes, absolute, canonical) exists in the view. From now on it may be
 * lent. */
void preload_note_dir(struct preload_table *t, const char *path, size_t n);
/* From now on the table answers nothing. */
void preload_stale(struct preload_table *t);

/* Where in the view what is at the physical `path` may be seen, guess number i, into `size` bytes.
 * False: there is none. */
bool preload_seen_at(struct preload_table *t, const char *path, unsigned i, char *ret, size_t size);

#endif
