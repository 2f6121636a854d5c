/* SPDX-License-Identifier: MIT */
/* What random operations are done to: a stack through the tree interface, or a directory. */
#ifndef FSX_H
#define FSX_H

#include <plenum/tree.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HANDLES 4 /* open files at once */

/* All results as in the tree interface: a count or 0, or a negative errno. Handles are 0 to
 * HANDLES - 1; the caller knows which are open. */
struct target {
    int (*open)(int h, const char *name, int flags); /* O_CREAT as in open(2) */
    int (*close)(int h);
    ssize_t (*read)(int h, void *buf, size_t n, uint64_t off);
    ssize_t (*write)(int h, const void *buf, size_t n, uint64_t off);
    int (*truncate)(int h, const char *name, uint64_t size); /* by name when that is not NULL */
    int (*fallocate)(int h, int mode, uint64_t off, uint64_t len);
    ssize_t (*copy)(int in, uint64_t off_in, int out, uint64_t off_out, size_t n);
    int64_t (*seek)(int h, uint64_t off, int whence);
    int (*sync)(int h, bool data_only);
    int (*stat)(int h, const char *name, uint64_t *size, uint64_t *nlink);
    int (*rename)(const char *from, const char *to, unsigned flags);
    int (*link)(const char *from, const char *to);
    int (*remove)(const char *name);
    /* Only where there is a path: the bytes through a shared mapping, and what the cache holds let
     * go of. NULL otherwise. */
    int (*map)(int h, bool store, void *buf, size_t n, uint64_t off);
    int (*forget)(int h);
};

extern const struct target tree_target, path_target;

/* Set up and taken down by fsx.c. */
int tree_target_open(const char *stack, const char *scratch, struct pl_err *err);
int tree_target_close(struct pl_err *err);
int path_target_open(const char *dir, struct pl_err *err);
void path_target_close(void);

#endif
