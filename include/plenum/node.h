/* SPDX-License-Identifier: MIT */
/*
 * Nodes: the objects of a tree, counted.
 *
 * A source embeds `struct pl_node` first in its own node. There is one node per object, hard
 * links included: two names of one file look up to the same pointer. The count is the number of
 * pointers that others hold; when it falls to zero the source's `release` op runs.
 * A source whose objects live elsewhere (a host file, a far one) keeps what it knows in a
 * `struct pl_nodes`, a table by a 128-bit identity, so that it finds the node again.
 */
#ifndef PLENUM_NODE_H
#define PLENUM_NODE_H

#include <plenum/error.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct pl_tree;

struct pl_node {
    struct pl_tree *tree; /* the source that made it (layers above share its nodes) */
    atomic_uint refs;
    uint32_t fmt; /* S_IFMT bits of its mode: a node never changes its type */
};

/* Sets up a node with one reference, the caller's. */
PL_API void pl_node_init(struct pl_node *node, struct pl_tree *tree, uint32_t fmt);
PL_API struct pl_node *pl_node_ref(struct pl_node *node);
/* Drops a reference (NULL is fine); at zero the source's `release` runs in this thread. */
PL_API void pl_node_unref(struct pl_node *node);
/* Takes a reference unless the count is zero (the node is being released): true if taken. */
PL_API _Bool pl_node_tryref(struct pl_node *node);

/* The identity of an object within one source: device and inode number, a qid path, ... */
struct pl_id {
    uint64_t hi, lo;
};

/* An intrusive table of nodes by identity; safe from any thread. The nodes are linked through
 * `struct pl_hnode`, which a source embeds right after its `struct pl_node`. */
struct pl_hnode {
    struct pl_node node;
    struct pl_id id;
    struct pl_hnode *next; /* the chain; guarded by the table */
};

struct pl_nodes;
PL_API struct pl_nodes *pl_nodes_new(void); /* NULL when out of memory */
PL_API void pl_nodes_free(struct pl_nodes *tab);
/* The node of that identity with a reference added, or NULL. */
PL_API struct pl_hnode *pl_nodes_get(struct pl_nodes *tab, struct pl_id id);
/* Enters `node` (its id set, one reference). If a live node of that identity is there already,
 * that one is returned with a reference added, and `node` is untouched: the caller frees it. */
PL_API struct pl_hnode *pl_nodes_put(struct pl_nodes *tab, struct pl_hnode *node);
/* Takes `node` out, from the source's `release`. Harmless when another took its place. */
PL_API void pl_nodes_del(struct pl_nodes *tab, struct pl_hnode *node);
PL_API size_t pl_nodes_count(struct pl_nodes *tab);

#endif
