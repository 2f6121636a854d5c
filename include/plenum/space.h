/* SPDX-License-Identifier: MIT */
/*
 * Spaces: a namespace made of other trees.
 *
 * A space is a table of bindings, each of a directory (or file) of some tree at a path of the
 * space. It is itself a tree, so it is mounted, exported and bound into others like any tree.
 * Plan 9's bind(2), a union mount and n-DFS's vpath are all this one table (docs/spaces.md).
 *
 *     struct pl_binding b[] = {
 *         {.path = "/", .tree = host, .sub = "/", .how = PL_BIND_CREATE},
 *         {.path = "/src", .tree = host, .sub = "/net/src", .how = PL_BIND_AFTER},
 *     };
 *     pl_space_new(b, 2, 0, &space, &err);
 *
 * What a directory of the space consists of: its *stack*, the directories of other trees that are
 * merged in it, first come first. A directory below inherits its parents' stack (of each, the
 * directory of that name, as long as no earlier one has something else there, a whiteout, or is
 * opaque), and a binding at its path replaces that, goes before it, or after it. So a union is as
 * deep as the trees, as overlayfs's and n-DFS's; where trees have no directories in common it is
 * Plan 9's.
 *
 * Where changes go. The first tree of the stack that was bound with PL_BIND_CREATE takes what is
 * new. What is found before it, or in it, is changed in place, if its tree lets it be; what is
 * found behind it is copied up into it first (content with its holes, attributes, times, xattrs),
 * with the directories above it. Where no tree of a path was bound with PL_BIND_CREATE all changes
 * are -EROFS, unless it is one tree alone: that is what it is without the space. What is removed
 * and still exists behind is hidden by a whiteout.
 *
 * Who may. What a tree does for a caller it judges itself. Looking behind the first tree, copying
 * up and whiteouts are done as the process that made the space, after the caller's right to the
 * change was judged by the first tree. Unless that is root, what lies behind is his to change as
 * far as he may read it: for him it is judged by its mode as if it were his, since the copy will
 * be. He alone gains by it, and nothing that he could not have by a copy of his own.
 *
 * Live: nothing of the trees is remembered that they do not say they would tell of. A change in a
 * tree below is seen as soon as that tree shows it.
 */
#ifndef PLENUM_SPACE_H
#define PLENUM_SPACE_H

#include <plenum/tree.h>

enum pl_bind {
    PL_BIND_REPLACE = 0, /* the path is this and nothing else */
    PL_BIND_BEFORE = 1,  /* in front of what was there */
    PL_BIND_AFTER = 2,   /* behind what was there */
    PL_BIND_CREATE = 4,  /* or'ed to one of these: new files are made here */
};

struct pl_binding {
    const char *path;     /* in the space: absolute, without "." and ".."; "/" is the root */
    struct pl_tree *tree; /* whose reference stays the caller's: the space takes its own */
    const char *sub;      /* the directory or file in it: absolute; "/" is its root. It need not
                             exist yet: it is made when the first file is to be created there */
    uint32_t how;         /* enum pl_bind */
};

enum pl_space_flags {
    /* n-DFS's way to delete: a name removed from the front shows what is behind it again, and what
     * exists only behind cannot be removed (-EROFS). Without it, whiteouts. */
    PL_SPACE_CLASSIC = 1 << 0,
    /* "..." in a directory is the next lower view of it: what its bindings have without the first
     * of them, read-only. It is not listed. */
    PL_SPACE_DOTS = 1 << 1,
};

/* A new space of `n` bindings, applied in order. A path that exists in nothing bound before it is
 * shown all the same, with the directories leading to it (read-only, mode 0555). May block (looking
 * the directories up). 0; -ENOTDIR (a path, or a sub, leads through a file; or a file is not alone
 * at its path), -ELOOP (a space in itself), -EINVAL (a path that is not absolute, or goes up),
 * -E2BIG (more than PL_SPACE_STACK trees at one path), -ENOMEM, or what a tree says, each with the
 * sentence. */
PL_API int pl_space_new(const struct pl_binding *bindings, size_t n, uint32_t flags,
                        struct pl_tree **ret, struct pl_err *err);
#define PL_SPACE_STACK 32

/* Replaces the whole table: what is open stays open, what is looked up from now on is found by the
 * new one. Errors as above; then the old table stands. */
PL_API int pl_space_set(struct pl_tree *space, const struct pl_binding *bindings, size_t n,
                        struct pl_err *err);

/* Other flags (enum pl_space_flags), from the next operation on: what was hidden stays hidden.
 * -EINVAL. */
PL_API int pl_space_set_flags(struct pl_tree *space, uint32_t flags);

/* One binding more, behind those there are, or (`unbind`) the last one of that path and tree (NULL:
 * all of that path) less: -ENOENT if there is none. */
PL_API int pl_space_bind(struct pl_tree *space, const struct pl_binding *binding,
                         struct pl_err *err);
PL_API int pl_space_unbind(struct pl_tree *space, const char *path, struct pl_tree *tree,
                           struct pl_err *err);

/* The bindings as they stand, in order, each valid during the call of `each`, which may not change
 * the space. Its result, if it is not 0, ends it and is returned. -EINVAL: it is no space. */
PL_API int pl_space_each(struct pl_tree *space, int (*each)(void *arg, const struct pl_binding *),
                         void *arg);

/* Where the bytes of `node` are: the tree and the path in it ("/a/b", at most `size` bytes with the
 * NUL). Of a merged directory the first. -ENOENT: it has no name there any more; -ERANGE; -EXDEV:
 * no tree holds it (a directory that leads to a binding), or one has its content and another the
 * rest (overlayfs's metacopy). */
PL_API int pl_space_where(struct pl_tree *space, struct pl_call *call, struct pl_node *node,
                          struct pl_tree **ret_tree, char *path, size_t size);

/* A union: a space with `n` trees bound at its root, the first in front; `how` of the first is
 * PL_BIND_CREATE if `writable`, else the whole is read-only. */
PL_API int pl_union_new(struct pl_tree *const *trees, size_t n, bool writable, uint32_t flags,
                        struct pl_tree **ret, struct pl_err *err);

#endif
