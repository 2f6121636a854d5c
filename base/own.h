/* SPDX-License-Identifier: MIT */
/*
 * The devices of the FUSE mounts that this process itself serves. Whoever walks the host's files
 * asks here before it steps into a mount: a request to our own server from the thread that ought
 * to answer it never ends.
 */
#ifndef BASE_OWN_H
#define BASE_OWN_H

#include <stdbool.h>
#include <sys/types.h>

/* Enters a mount's device (st_dev of its root). It may be entered several times. -ENOMEM. */
int own_mount_add(dev_t dev);
/* Takes out one entry of it; harmless when there is none. */
void own_mount_del(dev_t dev);
bool own_mount_has(dev_t dev);

#endif
