/* SPDX-License-Identifier: MIT */
/*
 * The C client: files of any trees, used from within a program, without a mount.
 *
 *     pl_dial("tcp!be!564", &chan, &err);                      // establish the connection
 *     pl_fsmount(chan, NULL, &root, &err);                     // version, attach
 *     pl_ns_new(NULL, &ns, &err);
 *     pl_ns_bind(ns, root, "/", "/mnt/be", PL_BIND_REPLACE, &err);
 *     pl_ns_open(ns, "/mnt/be/some/path/file", O_RDONLY, 0, &fd);
 *     n = pl_fd_read(fd, buf, sizeof(buf));
 *
 * (examples/client.c is whole.) A tree from pl_tree_open("9p:...") in the place of the first two
 * has a connection that is dialed again when it breaks (docs/links.md).
 *
 * A name space is a space (plenum/space.h) and a caller: this process's user. Paths are walked as
 * path_resolution(7) says, symlinks included; those that are not absolute begin at the root. Every
 * function may be called from any thread, blocks until it is done, and returns 0 or a count, or
 * the negative errno that the system call named with it would give. With pl_ns_timeout() none
 * takes longer than that: -ETIMEDOUT. The program ignores SIGPIPE (signal(2)).
 */
#ifndef PLENUM_CLIENT_H
#define PLENUM_CLIENT_H

#include <plenum/space.h>

/* ---- connections ---- */

/* A channel to a server, as plenum-addr(7): "tcp!HOST!PORT", "unix!PATH", "exec!COMMAND", ... */
struct pl_channel;
/* Dials. 0, or the errno of connect(2) with the sentence. */
PL_API int pl_dial(const char *addr, struct pl_channel **ret, struct pl_err *err);
/* What a careful user should be warned of ("neither encrypted nor ..."), or NULL. */
PL_API const char *pl_channel_note(const struct pl_channel *chan);
/* Closes one that pl_fsmount() has not taken. NULL is fine. */
PL_API void pl_hangup(struct pl_channel *chan);
/* Attaches at `aname` (NULL: the server's default) over the channel with 9P: version, attach. Takes
 * the channel over, also when it fails. The tree is as dead as the channel, once that ends: -EIO.
 */
PL_API int pl_fsmount(struct pl_channel *chan, const char *aname, struct pl_tree **ret,
                      struct pl_err *err);

/* ---- name spaces ---- */

struct pl_ns;
/* With `root` bound at "/", to create (its reference stays the caller's); NULL: empty. */
PL_API int pl_ns_new(struct pl_tree *root, struct pl_ns **ret, struct pl_err *err);
/* Nothing of it may be open or under way. Drops its trees. NULL is fine. */
PL_API void pl_ns_free(struct pl_ns *ns);
/* What is `sub` in the tree is at `path` from now on; `how` is enum pl_bind, and errors those of
 * pl_space_bind(). The tree's reference stays the caller's. */
PL_API int pl_ns_bind(struct pl_ns *ns, struct pl_tree *tree, const char *sub, const char *path,
                      uint32_t how, struct pl_err *err);
PL_API int pl_ns_unbind(struct pl_ns *ns, const char *path, struct pl_err *err);
/* The space, to be mounted, exported or bound elsewhere; the reference is the name space's. */
PL_API struct pl_tree *pl_ns_tree(struct pl_ns *ns);
/* No call that begins from now on takes longer than `ns_each` nanoseconds; 0: as long as it takes.
 */
PL_API void pl_ns_timeout(struct pl_ns *ns, int64_t ns_each);

/* stat(2), lstat(2). */
PL_API int pl_ns_stat(struct pl_ns *ns, const char *path, struct pl_attr *ret);
PL_API int pl_ns_lstat(struct pl_ns *ns, const char *path, struct pl_attr *ret);
/* readlink(2): the target, with a NUL behind it; its length. -ERANGE: it does not fit. */
PL_API int pl_ns_readlink(struct pl_ns *ns, const char *path, char *buf, size_t size);
/* mkdir(2), symlink(2), link(2), rename(2). */
PL_API int pl_ns_mkdir(struct pl_ns *ns, const char *path, mode_t mode);
PL_API int pl_ns_symlink(struct pl_ns *ns, const char *target, const char *path);
PL_API int pl_ns_link(struct pl_ns *ns, const char *old, const char *path);
PL_API int pl_ns_rename(struct pl_ns *ns, const char *old, const char *path);
/* unlink(2), or rmdir(2) of a directory: remove(3). */
PL_API int pl_ns_remove(struct pl_ns *ns, const char *path);
/* chmod(2), chown(2), utimensat(2), truncate(2) in one: all that set->valid names, or nothing where
 * that can be helped. Symlinks are followed. */
PL_API int pl_ns_set(struct pl_ns *ns, const char *path, const struct pl_setattr *set);

/* ---- open files ---- */

struct pl_fd;
/* open(2): access modes, O_CREAT, O_EXCL, O_TRUNC, O_APPEND, O_DIRECTORY, O_NOFOLLOW, O_SYNC,
 * O_DSYNC; `mode` as there, with the process's umask. Closed by pl_fd_close(). */
PL_API int pl_ns_open(struct pl_ns *ns, const char *path, int flags, mode_t mode,
                      struct pl_fd **ret);
/* read(2), write(2): at the file's position, which moves; calls on one pl_fd from several threads
 * go one after the other. pread(2), pwrite(2): at `off`, beside each other. write and pwrite write
 * all of it, or return an error, or fewer bytes if some had been written before the error. */
PL_API ssize_t pl_fd_read(struct pl_fd *fd, void *buf, size_t n);
PL_API ssize_t pl_fd_write(struct pl_fd *fd, const void *buf, size_t n);
PL_API ssize_t pl_fd_pread(struct pl_fd *fd, void *buf, size_t n, uint64_t off);
PL_API ssize_t pl_fd_pwrite(struct pl_fd *fd, const void *buf, size_t n, uint64_t off);
/* lseek(2), SEEK_DATA and SEEK_HOLE included: the new position. */
PL_API int64_t pl_fd_seek(struct pl_fd *fd, int64_t off, int whence);
/* fstat(2), fsync(2); pl_fd_set: as pl_ns_set(). */
PL_API int pl_fd_stat(struct pl_fd *fd, struct pl_attr *ret);
PL_API int pl_fd_set(struct pl_fd *fd, const struct pl_setattr *set);
PL_API int pl_fd_sync(struct pl_fd *fd);
/* The entries of a directory, without "." and "..", until `each` returns something else than 0,
 * which is returned. The entry is valid during the call. */
PL_API int pl_fd_list(struct pl_fd *fd, int (*each)(void *arg, const struct pl_dirent *),
                      void *arg);
PL_API int pl_ns_list(struct pl_ns *ns, const char *path,
                      int (*each)(void *arg, const struct pl_dirent *), void *arg);
/* close(2): the file is closed also if this returns an error (of what was written before). NULL is
 * fine. */
PL_API int pl_fd_close(struct pl_fd *fd);

#endif
