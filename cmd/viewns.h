/* SPDX-License-Identifier: MIT */
/* The namespaces of a view: a mount namespace, and for whoever is not root a user namespace around
 * it, in which the user is who he was. */
#ifndef CMD_VIEWNS_H
#define CMD_VIEWNS_H

#include <plenum/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* May this process make one, and mount FUSE in it? 0, or a negative errno and the sentence why not.
 * Tried in a child. */
int viewns_possible(struct pl_err *err);

/* This process is in namespaces of its own from now on. Mounts that are made outside later on are
 * seen, those made here are not seen there. *ret_user: there is a user namespace too. */
int viewns_enter(bool *ret_user, struct pl_err *err);

/* From now on the mount(2) of view/call.h that this process and its descendants make is told to the
 * descriptor that is returned; -EBUSY: to somebody else already (a view that this one is in). */
int viewns_filter(void);

struct viewns_mount {
    const char *top; /* absolute */
    int slot;        /* at "PLACE/SLOT" */
};

/* What is at the slots of `place` comes over the tops. */
int viewns_mount(const char *place, const struct viewns_mount *m, size_t n, struct pl_err *err);

/* Mounts so, or (`make` false) unmounts what lies over the tops and is of device `dev`, in the
 * mount namespace with number `ns`. By a child that enters it by way of a process that is in there.
 * -ESRCH: there is none; others with a sentence. */
int viewns_change(uint64_t ns, const char *place, dev_t dev, const struct viewns_mount *m, size_t n,
                  bool make, struct pl_err *err);

/* Calls `each` for every process that is in the mount namespace with this number, until it does not
 * return 0, and returns that. */
int viewns_each(uint64_t ns, int (*each)(void *arg, pid_t pid), void *arg);

/* The same for every process that descends from `pid`. */
int viewns_below(pid_t pid, int (*each)(void *arg, pid_t pid), void *arg);

#endif
