/* SPDX-License-Identifier: MIT */
/* The FUSE door: serves a tree to the kernel over /dev/fuse, which somebody has mounted. */
#ifndef DOORS_FUSE_H
#define DOORS_FUSE_H

#include "base/stats.h"
#include "fuse/ledger.h"
#include <plenum/tree.h>
#include <pthread.h>

/* Something the kernel offers, or that needs a privilege: used when it is there, unless told. */
enum fuse_choice { FUSE_AUTO, FUSE_ON, FUSE_OFF };

/* For a tree that becomes another one at once, by order (a space whose table is replaced). Zeroed
 * but for the lock. */
struct fuse_anew {
    pthread_mutex_t lock; /* guards `sess`, and that it is there */
    struct fuse_sess *sess;
};
/* The kernel is to ask again for all names and attributes that it knows: to be called before the
 * tree changes and after it, by no thread that serves. Nothing happens while nothing is served. */
void fuse_anew_ask(struct fuse_anew *anew);

struct fuse_opts {
    int64_t entry_timeout, attr_timeout, negative_timeout; /* ns; -1: by the tree's flags (generated
                         0; what the tree tells of by itself: 1 min; private: 1 h; else 1 s) */
    bool direct_io;                                        /* never cache content in the kernel */
    bool writeback;               /* the kernel may gather writes (single-user trees only) */
    bool kernel_checks;           /* the mount has default_permissions */
    enum fuse_choice passthrough; /* open files that have a descriptor are the kernel's own */
    enum fuse_choice watch;       /* the tree tells of changes, and timeouts are long */
    enum fuse_choice opens;       /* FUSE_OFF: opens never leave the kernel (NO_OPEN) */
    bool uring;                   /* requests over io_uring; not with a ledger that is to last */
    uint64_t mask;                /* tests: features (FUSE_* of INIT) that the kernel has not got */
    struct ledger *ledger;        /* shared by all servers of the mount, one after the other: if its
                         head says `agreed`, a predecessor has served it and this call carries on where
                         that one was killed, instead of waiting for INIT. NULL: a private one */
    unsigned max_write;           /* bytes, 0: 1 MiB */
    unsigned threads; /* at most so many run at once; those that wait are not counted, up to
                         1024: then SETLKW is -ENOLCK and streams do not wait. 0: 16 */
    /* Unmounted or aborted: nobody asks for anything any more, and what the kernel held is about to
     * be released. May be NULL. */
    void (*gone)(void *gone_arg);
    void *gone_arg;
    struct fuse_anew *anew; /* may be NULL; must outlive the call */
    bool elsewhere;         /* mounted in namespaces that this process does not see: what is mounted
                               within the mount there must stay */
    uint32_t mask_minor; /* tests: the kernel speaks no newer 7.N than this; 0: as new as it likes
                          */
};
void fuse_opts_init(struct fuse_opts *opts);

/* What the door takes of what the kernel offers at INIT, for a tree of these flags: FUSE_*. */
uint64_t fuse_wants(uint32_t tree_flags, const struct fuse_opts *opts);

/* Serves `tree` (its sub-tree at `aname`) on `fd` until it is unmounted or aborted, in this thread
 * and others that it starts and joins: 0 when unmounted, a negative errno with a sentence else
 * (-EPROTO: a kernel too old). `up(arg)` is called when the kernel's INIT was answered. Neither the
 * tree nor fd is closed. All nodes and files that the kernel held are released on return. */
int fuse_serve(int fd, struct pl_tree *tree, const char *aname, const struct fuse_opts *opts,
               struct stats *stats, void (*up)(void *), void *up_arg, struct pl_err *err);

#endif
