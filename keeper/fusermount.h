/* SPDX-License-Identifier: MIT */
/* fusermount3, the set-user-id helper that mounts for ordinary users. Inside keeper/. */
#ifndef KEEPER_FUSERMOUNT_H
#define KEEPER_FUSERMOUNT_H

#include <plenum/error.h>
#include <stdbool.h>

#define FUSE_DENIED                                                                                \
    "/dev/fuse: not permitted to open it (its mode should be 0666: as root, chmod 666 /dev/fuse)"

/* `options` as for its -o. */
int fusermount_mount(const char *dir, const char *options, int *ret_fd, struct pl_err *err);
/* -EBUSY, -EPERM, -ENOENT (no fusermount3), each with a sentence. `lazy`: -z. */
int fusermount_end(const char *dir, bool lazy, struct pl_err *err);

#endif
