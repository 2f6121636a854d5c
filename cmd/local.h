/* SPDX-License-Identifier: MIT */
/* The local side of get and put: a path as a host tree around it. */
#ifndef CMD_LOCAL_H
#define CMD_LOCAL_H

#include "cmd/cmd.h"
#include <plenum/tree.h>

struct local {
    struct pl_tree *tree; /* handed to walk_start */
    char *name;           /* in the tree's root; NULL: the root itself is meant */
};
/* Where to copy to: a directory that is there (name NULL), else a new name in one that is there;
 * `several` sources need the former. The exit status, told. */
int local_target(struct local *l, const struct cmd *cmd, const char *path, bool several);
/* What to copy: the name in its directory, or the directory itself for "." and the like. */
int local_source(struct local *l, const struct cmd *cmd, const char *path);
void local_free(struct local *l); /* the name */

#endif
