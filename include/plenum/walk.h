/* SPDX-License-Identifier: MIT */
/*
 * Paths in a tree, with symlinks followed: path_resolution(7) for who has no kernel to do it.
 *
 * `root` is where absolute paths and absolute symlinks begin, and what ".." does not leave; `dir`
 * (NULL: the root) is where others begin. A path of more than PL_PATH_MAX bytes is -ENAMETOOLONG,
 * the 41st symlink -ELOOP. The caller's right to search each directory is judged by the tree. These
 * block as lookups do, and heed the call.
 */
#ifndef PLENUM_WALK_H
#define PLENUM_WALK_H

#include <plenum/tree.h>

enum pl_walk_flags {
    PL_WALK_NOFOLLOW =
        1 << 0, /* a symlink at the very end is what is meant, unless a slash follows */
    /* Any symlink is -ELOOP (RESOLVE_NO_SYMLINKS of openat2(2)). */
    PL_WALK_NOLINKS = 1 << 1,
};

/* What `path` stands for, with a reference, and its attributes (`attr` may be NULL). An empty path
 * is -ENOENT. */
PL_API int pl_walk(struct pl_tree *tree, struct pl_call *call, struct pl_node *root,
                   struct pl_node *dir, const char *path, int flags, struct pl_node **ret,
                   struct pl_attr *attr);

/* The directory in which the last name of `path` is, or is to be, and that name; symlinks before it
 * are followed, it itself is not looked at. `slash` (may be NULL): a slash stood behind it. -ENOENT
 * for "", -EINVAL where the path ends in no name of its own ("/", "a/..", "."). */
PL_API int pl_walk_parent(struct pl_tree *tree, struct pl_call *call, struct pl_node *root,
                          struct pl_node *dir, const char *path, int flags, struct pl_node **ret,
                          char name[PL_NAME_MAX + 1], bool *slash);

#endif
