/* SPDX-License-Identifier: MIT */
/*
 * Copying from tree to tree: what get and put do, the local side being a host tree.
 *
 * Kept: types, modes, times, owners (as root), symlinks, holes, hard links within what is copied,
 * extended attributes where the target takes them. A file is written under another name and renamed
 * when it is whole, so that nothing half done is ever in the place of what was there.
 */
#ifndef CMD_COPY_H
#define CMD_COPY_H

#include "cmd/count.h"
#include "cmd/walk.h"

struct copy_link; /* an object with several names, and its copy */

struct copier {
    struct walk *src, *dst;
    struct copy_link *links;
    struct pl_node *into; /* the directory that copies go into: not to be copied itself */
    uint64_t into_ino;
    struct progress *progress;
    struct count count;
};
/* `paths` are those that copy_path is going to be called for. */
void copy_begin(struct copier *c, struct walk *src, struct walk *dst, char *const *paths, size_t n,
                struct progress *progress);
/* Copies `path` of the source to `name` in the directory `dir`, or, when it has no name of its own
 * ("/", ".", "x/..") or `name` is NULL, what is in it into `dir`. `show` is the target's path for
 * messages. Goes on after errors, which are told and remembered in the walks. */
void copy_path(struct copier *c, const char *path, struct pl_node *dir, const char *name,
               const char *show);
void copy_end(struct copier *c);

/* The last name of a path, or NULL if it has none; to be freed. */
char *copy_last_name(const char *path);

#endif
