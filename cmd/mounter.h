/* SPDX-License-Identifier: MIT */
/* One tree on one directory: what `plenum mount` and pl_main do with the keeper. */
#ifndef CMD_MOUNTER_H
#define CMD_MOUNTER_H

#include "cmd/mountopt.h"
#include "cmd/spec.h"

struct mounter {
    const char *prefix;   /* of messages: "plenum: mount" */
    const char *text;     /* for status */
    struct spec *spec;    /* opened in the server process; or NULL */
    struct pl_tree *tree; /* a tree that is there already; the reference is taken over */
    const char *dir;
    struct mountopt opts;
    bool foreground;
};

/* Mounts; in the foreground until it is unmounted. The process's exit status; what went wrong has
 * been printed. */
int mounter_run(const struct mounter *m);

#endif
