/* SPDX-License-Identifier: MIT */
/*
 * Control of a running view: takes what vpath asks for, and does it.
 * What it does is the door's.
 *
 * Who asks comes by a mount(2) that the view's filter intercepted (a *notice*), or by the meeting
 * point of the view's namespace. A notice of a process in a view within this one is handed on to
 * that view's meeting point: a process has one such filter at most, the outermost.
 */
#ifndef CMD_VIEWCTL_H
#define CMD_VIEWCTL_H

#include "keeper/registry.h"
#include "view/view.h"
#include <plenum/tree.h>

struct viewctl;

/* What a door does for its control; one at a time, by a thread of the control. `pid` is the process
 * that was named, 0: none was. */
struct viewctl_door {
    const char *name;
    /* The view of that process, or of the whole run; with a reference. -ESRCH. */
    int (*view_of)(void *arg, pid_t pid, struct view **ret);
    /* It has `view` from now on, in place of `was`. Nothing has changed when it fails. */
    int (*apply)(void *arg, pid_t pid, struct view *was, struct view *view, struct pl_err *err);
    /* Where `path` is physically, PATH_MAX bytes. */
    int (*where)(void *arg, pid_t pid, const char *path, char *ret, struct pl_err *err);
    void *arg;
};

struct viewctl_setup {
    const struct viewctl_door *door;
    uint64_t ns;       /* the mount namespace of the view; who is in another is in another view */
    int notices, meet; /* descriptors, or -1; they stay the caller's */
    unsigned depth;
    struct reg_page *page; /* may be NULL */
    int err;               /* standard error of the program that was run, or -1 */
};

/* In threads of its own, until viewctl_free(). -errno. */
int viewctl_new(const struct viewctl_setup *setup, struct viewctl **ret);
void viewctl_free(struct viewctl *ctl); /* waits for what is under way; NULL is fine */

/* A connection for the process `pid`, which asks for one: to this control, or to that of the view
 * within this one that it is in. A descriptor, or a negative errno. */
int viewctl_line(struct viewctl *ctl, pid_t pid);
/* A layer over `lower` (taken over) that tells what is done, as long as the view has the option
 * trace. NULL: no memory. */
struct pl_tree *viewctl_trace(struct viewctl *ctl, struct pl_tree *lower);

#endif
