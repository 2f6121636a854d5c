/* SPDX-License-Identifier: MIT */
/* The FUSE door: serves a tree to the kernel over /dev/fuse, which somebody has mounted. */
#ifndef DOORS_FUSE_H
#define DOORS_FUSE_H

#include "base/stats.h"
#include <plenum/tree.h>

struct fuse_opts {
    int64_t entry_timeout, attr_timeout, negative_timeout; /* ns; -1: by the tree's flags (generated
                         and remote-with-others: 0 and 1 s; host: 1 s; private: 1 h) */
    bool direct_io;                                        /* never cache content in the kernel */
    bool writeback;     /* the kernel may gather writes (single-user trees only) */
    bool kernel_checks; /* the mount has default_permissions */
    unsigned max_write; /* bytes, 0: 1 MiB */
    unsigned threads;   /* at most so many run at once; those that wait are not counted, up to
                           1024: then SETLKW is -ENOLCK and streams do not wait. 0: 16 */
};
void fuse_opts_init(struct fuse_opts *opts);

/* Serves `tree` (its sub-tree at `aname`) on `fd` until it is unmounted or aborted, in this thread
 * and others that it starts and joins: 0 when unmounted, a negative errno with a sentence else
 * (-EPROTO: a kernel too old). `up(arg)` is called when the kernel's INIT was answered. Neither the
 * tree nor fd is closed. All nodes and files that the kernel held are released on return. */
int fuse_serve(int fd, struct pl_tree *tree, const char *aname, const struct fuse_opts *opts,
               struct stats *stats, void (*up)(void *), void *up_arg, struct pl_err *err);

#endif
