/* SPDX-License-Identifier: MIT */
/* The levels of a stack. */
#ifndef CONFORM_STACK_H
#define CONFORM_STACK_H

#include "conform.h"
#include "p9/conn.h"

enum level_kind {
    S_MEM,
    S_HOST,
    S_NULL,
    S_TRACE,
    S_DELAY,
    S_MAP,
    S_UNION,
    S_WHITE, /* a union on top of names that have all been removed */
    S_SPACE, /* a directory of a space at which something is bound, and more behind */
    S_VERSION,
    S_P9,
    S_CUT,
    S_P9U,
    S_P9BASE,
    S_CUT_P9U,
    S_CUT_P9BASE,
    S_FUSE,
    S_NOOPEN,
    S_COUNT
};

struct p9_level;

/* What the kernel is to seem to lack, for all FUSE levels; see fuse_opts. */
extern uint64_t fuse_mask;
extern uint32_t fuse_mask_minor;

struct level {
    enum level_kind kind;
    char dir[4096];       /* host: where the files are; fuse: the mount point */
    struct pl_tree *tree; /* what this level made; not a reference */
    FILE *trace;
    struct p9_level *p9;
    pid_t server; /* fuse */
    struct level *inner;
    struct level *behind; /* union: the second tree */
};

/* union.c: the union, or the space, of two trees, whose references it takes over. */
int level_union(struct level *l, struct pl_tree *front, struct pl_tree *behind,
                struct pl_tree **ret, struct pl_err *err);

int level_open(struct level *l, const char *scratch, struct pl_tree **ret, struct pl_err *err);
int level_close(struct level *l, struct pl_err *err);

/* doors.c: a 9P server over a tree (whose reference it takes over) and a client of it; one more
 * client; the end of the server, when its clients are gone. */
int level_serve(struct level *l, struct pl_tree *inner, struct pl_tree **ret, struct pl_err *err);
int level_dial(struct level *l, struct pl_tree **ret, struct pl_err *err);
int level_connect(struct level *l, struct pl_call *call, struct p9_conn **ret, struct pl_err *err);
/* cut.c: one more client, whose connection breaks again and again. */
int level_cut(struct level *l, struct pl_tree **ret, struct pl_err *err);
void level_cut_free(void);
bool level_is_cut(const struct level *l);
int level_unserve(struct level *l, struct pl_err *err);
/* doors.c: mounts the inner stack from a process of its own, and opens the mount as a tree. */
int level_mount(struct level *l, const char *scratch, struct pl_tree **ret, struct pl_err *err);
int level_unmount(struct level *l, struct pl_err *err);

#endif
