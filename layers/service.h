/* SPDX-License-Identifier: MIT */
/*
 * The service layer: operations that pass are sent, in order, to an external server that watches or
 * answers for the tree (docs/services.md).
 *
 * It shares the nodes of its lower tree and watches them by `before` and `after`. What it is told
 * goes through service_link, which owns the connection and one thread; layers/places knows the
 * paths.
 */
#ifndef LAYERS_SERVICE_H
#define LAYERS_SERVICE_H

#include "base/service_attrs.h"
#include <plenum/tree.h>

/* How the server is reached: what a layer may not know. */
struct service_dialer {
    /* Plain descriptors of a connection (may be the same one), owned by the caller; *ret_pid is the
     * process at the other end, 0: unknown. Blocks; given up when `cancel` becomes readable. */
    int (*dial)(void *arg, int cancel, int *ret_in, int *ret_out, pid_t *ret_pid,
                struct pl_err *err);
    void (*hung_up)(void *arg); /* the descriptors are closed; may be NULL */
    /* The server is gone (the sentence), or is there again (NULL). May be NULL. */
    void (*changed)(void *arg, const char *sentence);
    void (*done)(void *arg); /* frees arg; may be NULL */
    void *arg;
};

/* `spec` says to the server what `lower` is; "": nothing does.
 * Takes over the reference of `lower` and the dialer's arg, also when it fails (NULL: out of
 * memory, no thread). The server need not be there yet. */
struct pl_tree *service_new(const char *name, const char *spec, const struct service_attrs *attrs,
                            const struct service_dialer *dialer, struct pl_tree *lower);
/* Switches it without breaking the connection; the server is told. */
void service_switch(struct pl_tree *tree, bool on);

/* Waits until everything told so far was taken by the server (kept, or written, if it does not say
 * what it keeps): 0, -EINTR, -ETIMEDOUT. */
int service_drain(struct pl_tree *tree, struct pl_call *call);

#endif
