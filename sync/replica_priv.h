/* SPDX-License-Identifier: MIT */
/* Between replica.c (which objects) and replica_data.c (their content and attributes). */
#ifndef SYNC_REPLICA_PRIV_H
#define SYNC_REPLICA_PRIV_H

#include "sync/replica.h"

#define PATH_SIZE 8192
#define RANGES    16

/* The directory that was used last. */
struct spot {
    char *path;
    struct pl_node *node;
    uint64_t ino;
};

/* What was written of an object: of the records that are carried out. */
struct written {
    uint64_t ino;
    size_t n;
    struct {
        uint64_t from, to;
    } range[RANGES];
    bool done; /* it was carried out */
    UT_hash_handle hh;
};

struct ids {
    uint32_t *v;
    size_t n, room;
};

struct replica_state {
    struct pl_node *sroot, *droot;
    struct spot sdir, ddir;
    struct written *written;
    struct ids doomed, touched, deep; /* notes: to be removed, to get times, to be listed */
    uint32_t generation;
    bool comparing, no_owners;
    bool moved; /* dry: not everything is where it would be by now */
};

/* An object in both. */
struct pair {
    const char *path;
    struct note *note;
    struct pl_node *src, *dst;
    struct pl_attr sattr, dattr;
    bool fresh;     /* the replica's was just made, or is to be taken over: nothing is noted */
    bool untrusted; /* what is noted of its content may not be so */
};

/* True if the error is of this object alone. */
bool replica_minor(int error);
void replica_tell(struct replica *r, enum replica_kind kind, const char *path, const char *detail);

/* Content and attributes as in the source; notes what came of it. 0, or an error of either kind. */
int replica_fill(struct replica *r, struct pair *p);
/* Is the replica's content what was noted? 1 yes, 0 no, or an error. */
int replica_same(struct replica *r, struct pair *p);
/* Is the replica's content the source's? Likewise. */
int replica_equal(struct replica *r, struct pair *p);
/* A symlink's target or a device's number, as a checksum. */
int replica_extra(struct replica *r, struct pl_tree *tree, struct pl_node *node,
                  const struct pl_attr *attr, uint64_t *ret);

#endif
