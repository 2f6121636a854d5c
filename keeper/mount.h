/* SPDX-License-Identifier: MIT */
/*
 * Mounting and unmounting FUSE file systems: directly where permitted (root, or root of a user
 * namespace), through fusermount3 for ordinary users.
 *
 * Nothing here ever waits for a server: directories are looked at through O_PATH descriptors and
 * /proc/self/mountinfo, which ask no file system anything. All may be called by any thread, and by
 * the process that serves the mount.
 */
#ifndef KEEPER_MOUNT_H
#define KEEPER_MOUNT_H

#include <plenum/error.h>
#include <stdbool.h>
#include <sys/types.h>

struct mount_opts {
    bool ro, noexec, nosuid, nodev, noatime; /* nosuid and nodev: pl's default is true, see
                                                mount_opts_init */
    bool allow_other;         /* other users may enter; default: true when root mounts */
    bool default_permissions; /* the kernel checks modes; default true */
    bool nonempty;            /* the directory may have something in it */
    const char *source;       /* shown in /proc/mounts, cut to 255 bytes; NULL: "plenum". The type
                                 is always fuse.plenum */
};
void mount_opts_init(struct mount_opts *opts);

/* The absolute path of an existing directory, symlinks resolved, whatever is mounted on it.
 * `ret_path` has PATH_MAX bytes. */
int mount_path(const char *dir, char *ret_path, struct pl_err *err);

/* Is `dir` fit to be mounted on? One sentence each for: missing, not a directory, not empty
 * (allowed with `nonempty`), already a mount of ours, a dead mount in the way (which says how to
 * clear it; a wreck of ours whose keeper is gone is cleared by this function itself), not
 * permitted. Never blocks on a dead mount. `ret_path` (PATH_MAX) gets the absolute path. */
int mount_check(const char *dir, bool nonempty, char *ret_path, struct pl_err *err);

/* Opens /dev/fuse (close-on-exec) and mounts it on `dir`, an absolute path. The server may not read
 * from the descriptor before this returns, and no request is lost. */
int mount_fuse(const char *dir, const struct mount_opts *opts, int *ret_fd, struct pl_err *err);

/* Unmounts `dir`, which must be a mount of ours (-EINVAL with a sentence for anything else):
 * umount2, or fusermount3 -u. `force`: detaches and aborts the FUSE connection, so that it
 * ends also when the server is dead or hung, and with open files. -EBUSY with a sentence that says
 * so. Never touches the mounted tree itself. Without force it writes back what the kernel still
 * holds, and waits for the server to take it. */
int mount_end(const char *dir, bool force, struct pl_err *err);
/* The same for one certain mount: -ENOENT unless `dev` is what is mounted, topmost, at `path`
 * (absolute), so that a mount made there since is never taken away by mistake. */
int mount_end_dev(const char *path, dev_t dev, bool force, struct pl_err *err);

/* Aborts the FUSE connection of a mount by its device number (stat's st_dev minor), through
 * /sys/fs/fuse/connections (mounting fusectl privately if need be); 0 or a negative errno. */
int mount_abort(dev_t dev);
/* Opens now what mount_abort(dev) takes, and keeps it: for a process that will not be allowed to.
 */
void mount_abort_keep(dev_t dev);
/* The device number of the FUSE file system mounted at `dir` (topmost), from mountinfo. -ENOENT:
 * nothing of FUSE is mounted there. */
int mount_dev(const char *dir, dev_t *ret);
/* Is the file system with this number still mounted anywhere that this process can see? */
bool mount_present(dev_t dev);
/* A process in another mount namespace that has the file system mounted still, as far as /proc lets
 * this user look (root sees all): its id, or 0. */
pid_t mount_elsewhere(dev_t dev);

#endif
