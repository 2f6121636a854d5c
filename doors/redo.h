/* SPDX-License-Identifier: MIT */
/*
 * What a server that was killed with a request in hand has left behind: the evidence that the doors
 * judge by, each from a memory of its own that outlives the process.
 *
 * The source notes, just before the deed, what is about to change (struct pl_intent); what has
 * changed since tells whether the deed was done. All is asked in our own name: the caller's
 * permission was judged by what was there before.
 */
#ifndef DOORS_REDO_H
#define DOORS_REDO_H

#include <plenum/tree.h>

struct redo {
    struct pl_tree *tree;
    const struct pl_intent *intent;
    uint64_t began; /* just before the op, of redo_now() */
    uid_t uid;      /* the caller */
};

/* The time by the clock that dates files at the earliest, in ns. */
uint64_t redo_now(void);

/* What `name` in `dir` stands for now; `node` may be NULL, else it gets a reference. */
int redo_there(const struct redo *r, struct pl_node *dir, const char *name, struct pl_node **node,
               struct pl_attr *attr);
/* Is it what was noted? One that was born at another time has only got the number of one that is
 * gone. */
bool redo_is(const struct redo *r, const struct pl_attr *attr);
/* Does the name stand for it? */
bool redo_is_still(const struct redo *r, struct pl_node *dir, const char *name);

/* By so much a file's date may differ from CLOCK_REALTIME_COARSE, which goes by ticks, in ns. */
uint64_t redo_grain(void);
/* Not before the op was begun, as far as clocks tell. */
bool redo_since(const struct redo *r, struct timespec t);
/* Can an object of that type have been made for it? */
bool redo_ours(const struct redo *r, const struct pl_attr *attr, uint32_t type);
bool redo_same_target(const struct redo *r, struct pl_node *node, const char *target);

/* By what was noted: it is done; false too if nothing was noted. */
bool redo_removed(const struct redo *r, struct pl_node *dir, const char *name);
bool redo_renamed(const struct redo *r, struct pl_node *olddir, const char *oldname,
                  struct pl_node *newdir, const char *newname, unsigned flags);
bool redo_truncated(const struct redo *r, struct pl_node *node);

/* The file's size, or a negative errno. */
int64_t redo_size(const struct redo *r, struct pl_node *node);
/* How many of the bytes are in the file at `at`: they may be all, a part (then the file ends
 * there), or none. */
size_t redo_written(const struct redo *r, struct pl_node *node, uint64_t at, const void *data,
                    size_t n);

#endif
