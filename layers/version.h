/* SPDX-License-Identifier: MIT */
/*
 * The version layer: a directory that holds versions of a file (NAME/1, NAME/2) is seen as one of
 * them. Which one is the chooser's word. Where it has none, or there is no such version, the name
 * is the directory that it is.
 *
 * What is done to the name is done to the version: it is written, replaced by a rename, removed
 * (then the next one is seen).
 */
#ifndef LAYERS_VERSION_H
#define LAYERS_VERSION_H

#include <plenum/tree.h>

struct version_chooser {
    bool (*active)(void *arg); /* is there any choice to be made? cheap; asked at each lookup */
    /* The n-th version, from 0, that `name` in `dir` may be, into PL_NAME_MAX + 1 bytes; false:
     * there are no more. It may call `lower`. Any thread. */
    bool (*choose)(void *arg, struct pl_tree *lower, struct pl_call *call, struct pl_node *dir,
                   const char *name, size_t n, char *ret);
    void (*done)(void *arg); /* the tree is freed; may be NULL */
    void *arg;
};

/* Takes over `lower`; NULL: no memory. */
struct pl_tree *version_new(const struct version_chooser *chooser, struct pl_tree *lower);

#endif
