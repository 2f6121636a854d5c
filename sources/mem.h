/* SPDX-License-Identifier: MIT */
/* What the files of the mem source share: see mem.c, which says who locks what. */
#ifndef SOURCES_MEM_H
#define SOURCES_MEM_H

#include "base/names.h"
#include "base/pages.h"
#include <plenum/tree.h>

struct node {
    struct pl_hnode h;
    pthread_rwlock_t lock;
    struct pl_attr attr;
    struct pl_xattrs xattrs;
    struct pl_locks locks;
    struct pages pages;  /* of a file */
    char *target;        /* of a symlink */
    struct names dir;    /* of a directory: struct node *, each a reference */
    struct node *parent; /* of a directory that has a name (no reference); of the root, itself */
    struct node *home;   /* of anything else: a directory where it has a name; NULL: unknown */
    bool linkable;       /* a tmpfile that may get a name */
};

struct file {
    struct pl_file file;
    struct pl_lock_owners owners;
};

struct mem {
    struct pl_tree tree;
    pthread_rwlock_t names;
    struct pl_nodes *nodes;
    struct node *root;
    uint64_t run; /* tells our keys from those of another run */
    uint64_t max_nodes;
    atomic_uint_fast64_t next_ino;
    struct page_pool pool;
};

static inline struct mem *mem_of(struct pl_tree *tree)
{
    return (struct mem *)tree;
}

static inline struct node *node_of(struct pl_node *node)
{
    return (struct node *)node;
}

static inline struct pl_attr attr_of(struct node *n)
{
    pthread_rwlock_rdlock(&n->lock);
    struct pl_attr attr = n->attr;
    pthread_rwlock_unlock(&n->lock);
    return attr;
}

static inline int may(struct pl_call *call, struct node *n, int mask)
{
    struct pl_attr attr = attr_of(n);
    return pl_may(call, &attr, mask);
}

/* ---- mem_key.c ---- */
int mem_key(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
            uint8_t key[PL_KEY_MAX]);
int mem_find(struct pl_tree *tree, struct pl_call *call, const uint8_t *key, size_t len,
             struct pl_node **ret, struct pl_attr *attr);

#endif
