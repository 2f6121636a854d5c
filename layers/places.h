/* SPDX-License-Identifier: MIT */
/*
 * Where the nodes of a tree are: what a layer that shares them has seen of their names go by.
 *
 * A place is a name in a directory; it stays one object while its directory is renamed, so that
 * what is beneath moves with it. A node has the places under which it was seen (hard links), the
 * last one first. It is forgotten when the node goes, except while something known is beneath it:
 * so there are about as many places as nodes in use. What others rename behind the tree's back is
 * put right by the next lookup. Any thread; out of memory, something is not known.
 */
#ifndef LAYERS_PLACES_H
#define LAYERS_PLACES_H

#include <plenum/tree.h>

#define PLACES_PATH 8192 /* bytes of a path with its NUL; a longer one is not known */

struct places;
struct places *places_new(void);
void places_free(struct places *p);

void places_root(struct places *p, struct pl_node *root);
/* `node`, of that number, is `name` in `dir` (a lookup, something made, a link). */
void places_found(struct places *p, struct pl_node *dir, const char *name, struct pl_node *node,
                  uint64_t ino);
/* Has a number, its names are not known: found by its key, or a file without one. */
void places_known(struct places *p, struct pl_node *node, uint64_t ino);
void places_removed(struct places *p, struct pl_node *dir, const char *name);
void places_renamed(struct places *p, struct pl_node *olddir, const char *oldname,
                    struct pl_node *newdir, const char *newname, bool exchange);
/* pl_leaver.left */
void places_left(struct places *p, struct pl_node *node);

struct place_found {
    uint64_t ino; /* 0: not known */
    uint32_t fmt; /* S_IFMT bits; 0: not known */
};
/* The path of `node`, or (name not NULL) of `name` in the directory `node`, into `path`: "" where
 * it is not known; and what is known of the object there. */
void places_path(struct places *p, struct pl_node *node, const char *name, char path[PLACES_PATH],
                 struct place_found *ret);
size_t places_count(struct places *p);

#endif
