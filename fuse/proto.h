/* SPDX-License-Identifier: MIT */
/*
 * The FUSE protocol as the kernel speaks it, 7.31 to 7.45: our own declarations, since the system's
 * <linux/fuse.h> may end earlier. All integers are in the machine's byte order; every struct is
 * free of holes, so that it can be copied to and from the wire.
 */
#ifndef FUSE_PROTO_H
#define FUSE_PROTO_H

#include <stdint.h>
#include <sys/ioctl.h>

#define FUSE_MAJOR     7
#define FUSE_MINOR     45
#define FUSE_MINOR_MIN 31
#define FUSE_ROOT_ID   1

/*
 * X(number, NAME, argument struct, its least size, strings after it, what comes after those).
 * N: nothing, D: data to the end of the message. Opcodes that a file system does not implement
 * (BMAP, CUSE, DAX) are absent: they are answered with ENOSYS like those of the future.
 */
#define FUSE_OPS(X)                                                                                \
    X(1, LOOKUP, none, 0, 1, N)                                                                    \
    X(2, FORGET, forget, 8, 0, N)                                                                  \
    X(3, GETATTR, getattr, 16, 0, N)                                                               \
    X(4, SETATTR, setattr, 88, 0, N)                                                               \
    X(5, READLINK, none, 0, 0, N)                                                                  \
    X(6, SYMLINK, none, 0, 2, N)                                                                   \
    X(8, MKNOD, mknod, 16, 1, N)                                                                   \
    X(9, MKDIR, mkdir, 8, 1, N)                                                                    \
    X(10, UNLINK, none, 0, 1, N)                                                                   \
    X(11, RMDIR, none, 0, 1, N)                                                                    \
    X(12, RENAME, rename, 8, 2, N)                                                                 \
    X(13, LINK, link, 8, 1, N)                                                                     \
    X(14, OPEN, open, 8, 0, N)                                                                     \
    X(15, READ, read, 40, 0, N)                                                                    \
    X(16, WRITE, write, 40, 0, D)                                                                  \
    X(17, STATFS, none, 0, 0, N)                                                                   \
    X(18, RELEASE, release, 24, 0, N)                                                              \
    X(20, FSYNC, fsync, 16, 0, N)                                                                  \
    X(21, SETXATTR, setxattr, 8, 1, D)                                                             \
    X(22, GETXATTR, getxattr, 8, 1, N)                                                             \
    X(23, LISTXATTR, getxattr, 8, 0, N)                                                            \
    X(24, REMOVEXATTR, none, 0, 1, N)                                                              \
    X(25, FLUSH, flush, 24, 0, N)                                                                  \
    X(26, INIT, init, 16, 0, N)                                                                    \
    X(27, OPENDIR, open, 8, 0, N)                                                                  \
    X(28, READDIR, read, 40, 0, N)                                                                 \
    X(29, RELEASEDIR, release, 24, 0, N)                                                           \
    X(30, FSYNCDIR, fsync, 16, 0, N)                                                               \
    X(31, GETLK, lk, 48, 0, N)                                                                     \
    X(32, SETLK, lk, 48, 0, N)                                                                     \
    X(33, SETLKW, lk, 48, 0, N)                                                                    \
    X(34, ACCESS, access, 8, 0, N)                                                                 \
    X(35, CREATE, create, 16, 1, N)                                                                \
    X(36, INTERRUPT, interrupt, 8, 0, N)                                                           \
    X(38, DESTROY, none, 0, 0, N)                                                                  \
    X(39, IOCTL, ioctl, 32, 0, D)                                                                  \
    X(40, POLL, poll, 24, 0, N)                                                                    \
    X(41, NOTIFY_REPLY, none, 0, 0, D)                                                             \
    X(42, BATCH_FORGET, batch_forget, 8, 0, D)                                                     \
    X(43, FALLOCATE, fallocate, 32, 0, N)                                                          \
    X(44, READDIRPLUS, read, 40, 0, N)                                                             \
    X(45, RENAME2, rename, 16, 2, N)                                                               \
    X(46, LSEEK, lseek, 24, 0, N)                                                                  \
    X(47, COPY_FILE_RANGE, copy, 56, 0, N)                                                         \
    X(50, SYNCFS, none, 8, 0, N)                                                                   \
    X(51, TMPFILE, create, 16, 1, N)                                                               \
    X(52, STATX, statx, 24, 0, N)                                                                  \
    X(53, COPY_FILE_RANGE_64, copy, 56, 0, N)

enum fuse_opcode {
#define X(num, name, arg, size, strings, tail) FUSE_##name = num,
    FUSE_OPS(X)
#undef X
        FUSE_OPCODE_END
};

/* ---- INIT ---- */
/* X(bit, NAME, name, the minor version that brought it). */
#define FUSE_FEATURES(X)                                                                           \
    X(0, ASYNC_READ, async_read, 6)                                                                \
    X(1, POSIX_LOCKS, posix_locks, 7)                                                              \
    X(3, ATOMIC_O_TRUNC, atomic_o_trunc, 9)                                                        \
    X(4, EXPORT_SUPPORT, export_support, 10)                                                       \
    X(5, BIG_WRITES, big_writes, 9)                                                                \
    X(6, DONT_MASK, dont_mask, 12)                                                                 \
    X(10, FLOCK_LOCKS, flock_locks, 17)                                                            \
    X(11, HAS_IOCTL_DIR, has_ioctl_dir, 18)                                                        \
    X(12, AUTO_INVAL_DATA, auto_inval_data, 20)                                                    \
    X(13, DO_READDIRPLUS, do_readdirplus, 21)                                                      \
    X(14, READDIRPLUS_AUTO, readdirplus_auto, 21)                                                  \
    X(15, ASYNC_DIO, async_dio, 22)                                                                \
    X(16, WRITEBACK_CACHE, writeback_cache, 23)                                                    \
    X(17, NO_OPEN_SUPPORT, no_open_support, 23)                                                    \
    X(18, PARALLEL_DIROPS, parallel_dirops, 25)                                                    \
    X(19, HANDLE_KILLPRIV, handle_killpriv, 26)                                                    \
    X(20, POSIX_ACL, posix_acl, 26)                                                                \
    X(21, ABORT_ERROR, abort_error, 27)                                                            \
    X(22, MAX_PAGES, max_pages, 28)                                                                \
    X(23, CACHE_SYMLINKS, cache_symlinks, 28)                                                      \
    X(24, NO_OPENDIR_SUPPORT, no_opendir_support, 29)                                              \
    X(25, EXPLICIT_INVAL_DATA, explicit_inval_data, 30)                                            \
    X(28, HANDLE_KILLPRIV_V2, handle_killpriv_v2, 33)                                              \
    X(29, SETXATTR_EXT, setxattr_ext, 33)                                                          \
    X(30, INIT_EXT, init_ext, 36)                                                                  \
    X(34, CREATE_SUPP_GROUP, create_supp_group, 38)                                                \
    X(35, HAS_EXPIRE_ONLY, has_expire_only, 38)                                                    \
    X(36, DIRECT_IO_ALLOW_MMAP, direct_io_allow_mmap, 39)                                          \
    X(37, PASSTHROUGH, passthrough, 40)                                                            \
    X(38, NO_EXPORT_SUPPORT, no_export_support, 40)                                                \
    X(39, HAS_RESEND, has_resend, 40)                                                              \
    X(40, ALLOW_IDMAP, allow_idmap, 41)                                                            \
    X(41, OVER_IO_URING, over_io_uring, 42)                                                        \
    X(42, REQUEST_TIMEOUT, request_timeout, 43)

enum fuse_feature {
#define X(bit, name, lower, since) FUSE_##name = (int64_t)1 << bit,
    FUSE_FEATURES(X)
#undef X
};

/* Of the device: hands the kernel the file that `fd` has open, for bytes to be moved through it; an
 * id > 0 for FOPEN_PASSTHROUGH. And takes it back: the files opened with it go on. */
struct fuse_backing_map {
    int32_t fd;
    uint32_t flags;
    uint64_t padding;
};
#define FUSE_DEV_IOC_BACKING_OPEN  _IOW(229, 1, struct fuse_backing_map)
#define FUSE_DEV_IOC_BACKING_CLOSE _IOW(229, 2, uint32_t)

struct fuse_init_in {
    uint32_t major, minor, max_readahead, flags;
    uint32_t flags2, unused[11]; /* from 7.36 */
};

struct fuse_init_out {
    uint32_t major, minor, max_readahead, flags;
    uint16_t max_background, congestion_threshold;
    uint32_t max_write, time_gran;
    uint16_t max_pages, map_alignment;
    uint32_t flags2, max_stack_depth;
    uint16_t request_timeout, unused[11];
};

/* ---- headers ---- */
struct fuse_in_header {
    uint32_t len, opcode;
    uint64_t unique, nodeid;
    uint32_t uid, gid, pid;
    uint16_t extlen /* of extensions at the end, in units of 8 bytes */, padding;
};

struct fuse_out_header {
    uint32_t len;
    int32_t error; /* negative errno; in a notification its code, with unique 0 */
    uint64_t unique;
};

enum {
    FUSE_NOTIFY_POLL = 1,
    FUSE_NOTIFY_INVAL_INODE = 2,
    FUSE_NOTIFY_INVAL_ENTRY = 3,
    FUSE_NOTIFY_RESEND = 7,    /* with FUSE_HAS_RESEND; no argument */
    FUSE_NOTIFY_INC_EPOCH = 8, /* from 7.44; no argument. Detaches all mounts within this one */
    FUSE_NOTIFY_PRUNE = 9,     /* from 7.45 */
};
#define FUSE_MINOR_EPOCH 44
#define FUSE_MINOR_PRUNE 45

struct fuse_notify_inval_inode_out {
    uint64_t ino;
    int64_t off; /* negative: only the attributes */
    int64_t len;
};
enum { FUSE_EXPIRE_ONLY = 1 };
struct fuse_notify_inval_entry_out { /* the name and a NUL follow */
    uint64_t parent;
    uint32_t namelen, flags;
};
struct fuse_notify_prune_out { /* nodeids follow */
    uint32_t count, padding;
    uint64_t spare;
};
#define FUSE_INT_REQ_BIT   1            /* set in the unique of the INTERRUPT of a request */
#define FUSE_UNIQUE_RESEND (1ull << 63) /* set in that of a request that comes again */

/* ---- attributes ---- */
struct fuse_attr {
    uint64_t ino, size, blocks, atime, mtime, ctime;
    uint32_t atimensec, mtimensec, ctimensec;
    uint32_t mode, nlink, uid, gid, rdev, blksize, flags;
};

struct fuse_entry_out {
    uint64_t nodeid, generation, entry_valid, attr_valid;
    uint32_t entry_valid_nsec, attr_valid_nsec;
    struct fuse_attr attr;
};

struct fuse_attr_out {
    uint64_t attr_valid;
    uint32_t attr_valid_nsec, dummy;
    struct fuse_attr attr;
};

struct fuse_sx_time {
    int64_t sec;
    uint32_t nsec;
    int32_t reserved;
};

struct fuse_statx {
    uint32_t mask, blksize;
    uint64_t attributes;
    uint32_t nlink, uid, gid;
    uint16_t mode, spare0;
    uint64_t ino, size, blocks, attributes_mask;
    struct fuse_sx_time atime, btime, ctime, mtime;
    uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
    uint64_t spare2[14];
};

struct fuse_statx_out {
    uint64_t attr_valid;
    uint32_t attr_valid_nsec, flags;
    uint64_t spare[2];
    struct fuse_statx stat;
};

enum {
    FATTR_MODE = 1 << 0,
    FATTR_UID = 1 << 1,
    FATTR_GID = 1 << 2,
    FATTR_SIZE = 1 << 3,
    FATTR_ATIME = 1 << 4,
    FATTR_MTIME = 1 << 5,
    FATTR_FH = 1 << 6,
    FATTR_ATIME_NOW = 1 << 7, /* beside FATTR_ATIME */
    FATTR_MTIME_NOW = 1 << 8,
    FATTR_CTIME = 1 << 10,
    FATTR_KILL_SUIDGID = 1 << 11,
};

/* ---- arguments ---- */
struct fuse_none_in {
    uint64_t unused;
};
struct fuse_forget_in {
    uint64_t nlookup;
};
struct fuse_forget_one {
    uint64_t nodeid, nlookup;
};
struct fuse_batch_forget_in {
    uint32_t count, dummy;
};
enum { FUSE_GETATTR_FH = 1 };
struct fuse_getattr_in {
    uint32_t flags, dummy;
    uint64_t fh;
};
struct fuse_statx_in {
    uint32_t flags, reserved;
    uint64_t fh;
    uint32_t sx_flags, sx_mask;
};
struct fuse_setattr_in {
    uint32_t valid, padding;
    uint64_t fh, size, lock_owner, atime, mtime, ctime;
    uint32_t atimensec, mtimensec, ctimensec;
    uint32_t mode, unused4, uid, gid, unused5;
};
struct fuse_mknod_in {
    uint32_t mode, rdev, umask, padding;
};
struct fuse_mkdir_in {
    uint32_t mode, umask;
};
struct fuse_rename_in {
    uint64_t newdir;
    uint32_t flags, padding; /* RENAME2 only */
};
struct fuse_link_in {
    uint64_t oldnodeid;
};
enum { FUSE_OPEN_KILL_SUIDGID = 1 };
struct fuse_open_in {
    uint32_t flags, open_flags;
};
struct fuse_create_in {
    uint32_t flags, mode, umask, open_flags;
};
enum {
    FOPEN_DIRECT_IO = 1 << 0,
    FOPEN_KEEP_CACHE = 1 << 1,
    FOPEN_NONSEEKABLE = 1 << 2,
    FOPEN_CACHE_DIR = 1 << 3,
    FOPEN_STREAM = 1 << 4,
    FOPEN_NOFLUSH = 1 << 5, /* from 7.35 */
    FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6,
    FOPEN_PASSTHROUGH = 1 << 7, /* from 7.40; goes with DIRECT_IO (but for mmap), NOFLUSH */
};
struct fuse_open_out {
    uint64_t fh;
    uint32_t open_flags;
    int32_t backing_id; /* with FOPEN_PASSTHROUGH, from 7.40 */
};
enum { FUSE_RELEASE_FLOCK_UNLOCK = 1 << 1 };
struct fuse_release_in {
    uint64_t fh;
    uint32_t flags, release_flags;
    uint64_t lock_owner;
};
struct fuse_flush_in {
    uint64_t fh;
    uint32_t unused, padding;
    uint64_t lock_owner;
};
struct fuse_read_in {
    uint64_t fh, offset;
    uint32_t size, read_flags;
    uint64_t lock_owner;
    uint32_t flags, padding;
};
enum { FUSE_WRITE_CACHE = 1 << 0, FUSE_WRITE_KILL_SUIDGID = 1 << 2 };
struct fuse_write_in {
    uint64_t fh, offset;
    uint32_t size, write_flags;
    uint64_t lock_owner;
    uint32_t flags, padding;
};
struct fuse_write_out {
    uint32_t size, padding;
};
struct fuse_copy_in {
    uint64_t fh_in, off_in, nodeid_out, fh_out, off_out, len, flags;
};
struct fuse_copy_out {
    uint64_t bytes;
};
struct fuse_statfs_out {
    uint64_t blocks, bfree, bavail, files, ffree;
    uint32_t bsize, namelen, frsize, padding, spare[6];
};
enum { FUSE_FSYNC_FDATASYNC = 1 };
struct fuse_fsync_in {
    uint64_t fh;
    uint32_t flags, padding;
};
struct fuse_setxattr_in {
    uint32_t size, flags;
    uint32_t setxattr_flags, padding; /* with FUSE_SETXATTR_EXT */
};
enum { FUSE_SETXATTR_ACL_KILL_SGID = 1 };
struct fuse_getxattr_in {
    uint32_t size, padding;
};
struct fuse_getxattr_out {
    uint32_t size, padding;
};
struct fuse_file_lock {
    uint64_t start, end;
    uint32_t type, pid;
};
enum { FUSE_LK_FLOCK = 1 };
struct fuse_lk_in {
    uint64_t fh, owner;
    struct fuse_file_lock lk;
    uint32_t lk_flags, padding;
};
struct fuse_lk_out {
    struct fuse_file_lock lk;
};
struct fuse_access_in {
    uint32_t mask, padding;
};
struct fuse_interrupt_in {
    uint64_t unique;
};
enum { FUSE_IOCTL_UNRESTRICTED = 1 << 1 };
struct fuse_ioctl_in {
    uint64_t fh;
    uint32_t flags, cmd;
    uint64_t arg;
    uint32_t in_size, out_size;
};
struct fuse_ioctl_out {
    int32_t result;
    uint32_t flags, in_iovs, out_iovs;
};
enum { FUSE_POLL_SCHEDULE_NOTIFY = 1 };
struct fuse_poll_in {
    uint64_t fh, kh;
    uint32_t flags, events;
};
struct fuse_poll_out {
    uint32_t revents, padding;
};
struct fuse_notify_poll_out {
    uint64_t kh;
};
struct fuse_fallocate_in {
    uint64_t fh, offset, length;
    uint32_t mode, padding;
};
struct fuse_lseek_in {
    uint64_t fh, offset;
    uint32_t whence, padding;
};
struct fuse_lseek_out {
    uint64_t offset;
};

/* ---- directories: an entry is padded to 8 bytes; a "plus" one has a fuse_entry_out before it ----
 */
struct fuse_dirent {
    uint64_t ino, off;
    uint32_t namelen, type;
};
#define FUSE_PAD(n) (((n) + 7) & ~(size_t)7)

#endif
