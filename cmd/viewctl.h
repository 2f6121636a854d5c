/* SPDX-License-Identifier: MIT */
/*
 * Control of a running view: takes what vpath asks for, and does it.
 *
 * Who asks comes by a mount(2) that the view's filter intercepted (a *notice*), or by the meeting
 * point of the view's namespace. A notice of a process in a view within this one is handed on to
 * that view's meeting point: a process has one such filter at most, the outermost.
 */
#ifndef CMD_VIEWCTL_H
#define CMD_VIEWCTL_H

#include "cmd/viewspace.h"
#include "doors/fuse.h"
#include "keeper/registry.h"

struct viewctl;

struct viewctl_setup {
    struct viewspace *space; /* guarded by the control from now on */
    const char *door;
    uint64_t ns;       /* the mount namespace of the view */
    const char *place; /* where the whole space is mounted in it */
    dev_t dev;         /* ... and its device number */
    int notices, meet; /* descriptors, or -1; they stay the caller's */
    unsigned depth;
    struct reg_page *page;  /* may be NULL */
    struct fuse_anew *anew; /* the kernel is told by it when the space is another one */
    int err;                /* standard error of the program that was run, or -1 */
};

/* In threads of its own, until viewctl_free(). -errno. */
int viewctl_new(const struct viewctl_setup *setup, struct viewctl **ret);
void viewctl_free(struct viewctl *ctl); /* waits for what is under way; NULL is fine */

/* A layer over `lower` (taken over) that tells what is done, as long as the view has the option
 * trace. NULL: no memory. */
struct pl_tree *viewctl_trace(struct viewctl *ctl, struct pl_tree *lower);

#endif
