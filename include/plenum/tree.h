/* SPDX-License-Identifier: MIT */
/*
 * The contract of trees.
 *
 * A tree is a table of operations and its state. A *source* holds files itself; a *layer* stands
 * over another tree (`lower`). Doors call trees only through the functions at the end of this
 * page, the gate, which validates arguments, calls the op, and asserts its result.
 *
 * Rules for every op
 *  - It is straight-line code that returns when it is done: 0 or a count, or a negative errno that
 *    Linux's own file systems would give. It may block; if it may wait long, it heeds the call
 *    (plenum/call.h). It is called from many threads at once.
 *  - A NULL op means: in a layer, "the lower tree's"; in a source, what this page says for the op,
 *    -EOPNOTSUPP where it says nothing. An op never returns -ENOSYS.
 *  - A node given as argument stays valid during the call. A node returned carries a reference that
 *    the caller drops with pl_node_unref(). A file returned is ended with pl_close().
 *  - Results named ret_x are set only on success. An `attr` result is always filled by the op.
 *  - The gate has checked: names are 1..255 bytes without '/' or NUL, and not "." or ".." (lookup
 *    alone may be asked for ".."); directory arguments are directories; offsets and lengths are
 *    not negative and their sum does not pass 2^63-1.
 *  - Permission is the source's to check, with call->cred; the FUSE door has the kernel check too.
 *
 * Layers. A layer that does not change which objects there are (ro, trace, delay, fault) shares the
 * nodes and files of its lower tree; its ops call the gate functions with `tree->lower`. If all it
 * wants is to see each op go by, it sets `before` and `after` and no op at all. A layer with
 * objects of its own (union, cache) is built as a source that holds other trees.
 */
#ifndef PLENUM_TREE_H
#define PLENUM_TREE_H

#include <plenum/call.h>
#include <plenum/keep.h>
#include <plenum/node.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>

#define PL_NAME_MAX  255
#define PL_KEY_MAX   64
#define PL_PATH_MAX  4095 /* a symlink's target */
#define PL_OFF_MAX   INT64_MAX
#define PL_XATTR_MAX 65536

/* ---- values ---------------------------------------------------------------------------------- */

/* Attributes, as statx(2) means them. */
struct pl_attr {
    uint64_t ino; /* unique in the tree for the life of the object; never 0 */
    uint64_t size, blocks /* of 512 bytes */, nlink;
    uint32_t mode; /* type and permissions */
    uint32_t uid, gid;
    uint32_t rdev_major, rdev_minor;
    uint32_t blksize;
    struct timespec atime, mtime, ctime, btime; /* btime {0,0}: unknown */
    bool guess; /* of a setattr: what it will come to, as far as can be told before it is done */
    uint64_t version; /* changes whenever content or attributes do; 0: unknown */
    bool told; /* a watcher will be told when these change, or the name under which they were found
                  (see pl_watch). Of a lookup's -ENOENT nothing can be said: the directory's counts
                */
};

enum pl_set {
    PL_SET_MODE = 1 << 0, /* permission bits of mode; the type bits are ignored */
    PL_SET_UID = 1 << 1,
    PL_SET_GID = 1 << 2,
    PL_SET_SIZE = 1 << 3,
    PL_SET_ATIME = 1 << 4, /* to the given time; with _NOW to the server's clock */
    PL_SET_MTIME = 1 << 5,
    PL_SET_ATIME_NOW = 1 << 6, /* _NOW stands alone: without PL_SET_ATIME */
    PL_SET_MTIME_NOW = 1 << 7,
    PL_SET_CTIME = 1 << 8, /* a hint; a source may leave it to its own clock */
};

struct pl_setattr {
    uint32_t valid; /* of enum pl_set */
    uint32_t mode, uid, gid;
    uint64_t size;
    struct timespec atime, mtime, ctime;
};

/* What `make` makes: the type bits of mode say which of mkdir, mknod, symlink it is. */
struct pl_make {
    uint32_t mode; /* call->umask is still to be applied (not to a symlink) */
    uint32_t rdev_major, rdev_minor;
    const char *target; /* of a symlink, 1..4095 bytes */
};

struct pl_dirent {
    uint64_t ino;  /* as in pl_attr; 0 when not known without a lookup */
    uint64_t next; /* the position after this entry: below 2^63, not 0, meaningful to the source */
    uint32_t type; /* DT_* */
    const char *name;
    /* Where call->plus asked for them and they are at hand (PL_TREE_PLUS): what a lookup of the
     * name would give; both or neither. Who keeps the node takes a reference. */
    struct pl_node *node;
    const struct pl_attr *attr;
};
/* Takes an entry: 0 go on, 1 full (the entry was not taken; the op returns 0). */
typedef int pl_fill_fn(void *arg, const struct pl_dirent *ent);

/* A byte-range (POSIX) or whole-file (BSD) advisory lock. */
struct pl_lock {
    int type; /* F_RDLCK, F_WRLCK, F_UNLCK */
    bool flock, wait;
    uint64_t owner;      /* whose lock; locks of one owner never conflict. flock: the open file's */
    uint64_t start, end; /* inclusive; end INT64_MAX: to the end of the file, however it grows */
    uint32_t pid;        /* for the answer of getlock */
};

/* An open node. A source embeds it first in its own. */
struct pl_file {
    struct pl_tree *tree; /* the source that made it */
    struct pl_node *node; /* a reference, dropped by the gate after `close` */
    uint32_t flags;       /* O_ACCMODE, O_APPEND, O_DIRECT, O_SYNC ... as opened */
    bool direct; /* content (or positions, of a directory) differs from open to open: do not
                    cache it */
    bool stream; /* no offsets, no size: each read takes what comes next */
    int fd; /* a descriptor of a regular file that holds the very bytes (open decided so), or -1.
               Owned by the source, valid until close. See pl_file_fd(). */
    bool moves; /* fd may stop being that file: it is good for this open only, and not where the
                   next one may be mixed with it */
    int kept;   /* a descriptor from which `resume` makes this file again in a successor; 0: none.
                   Often the same as fd; a directory may have one too */
};

/* What a watcher is told of; see pl_watch(). The functions run in a thread of the source, one at a
 * time; they may block, and may call the tree. What the tree's own callers do is not told, except
 * where the source cannot tell the difference. */
enum pl_changed { PL_CHANGED_ATTR = 1, PL_CHANGED_DATA = 2 };
struct pl_watcher {
    /* `node`, whose pl_attr.ino is `ino`, has changed: `what` of enum pl_changed. */
    void (*changed)(struct pl_watcher *, struct pl_node *node, uint64_t ino, uint32_t what);
    /* `name` in `dir`, whose pl_attr.ino is `ino`, may stand for something else now, or for
     * nothing. */
    void (*renamed)(struct pl_watcher *, struct pl_node *dir, uint64_t ino, const char *name);
    /* Changes went by unseen: all that was `told` is in doubt. `sentence`: why. */
    void (*lost)(struct pl_watcher *, const char *sentence);
    /* May be NULL. The few words that pl_watch() gave are others now: not all can be watched, or
     * all can again. */
    void (*how)(struct pl_watcher *, const char *words);
};

/* Wants to know when an open file may be ready; one a file. */
struct pl_poller {
    void (*ready)(struct pl_poller *);
};

/* ---- the table ------------------------------------------------------------------------------- */

/* X(name, flags): every op that passes the gate. M: it modifies the tree. */
#define PL_OP_M 1
/* clang-format off */
#define PL_OPS(X)                                                                                  \
    X(attach, 0) X(lookup, 0) X(getattr, 0) X(setattr, PL_OP_M) X(access, 0) X(readlink, 0)        \
    X(make, PL_OP_M) X(link, PL_OP_M) X(remove, PL_OP_M) X(rename, PL_OP_M) X(open, 0)             \
    X(create, PL_OP_M) X(tmpfile, PL_OP_M) X(close, 0) X(flush, 0) X(read, 0) X(write, PL_OP_M)    \
    X(readdir, 0) X(seek, 0) X(fsync, 0) X(fallocate, PL_OP_M) X(copy, PL_OP_M) X(getxattr, 0)     \
    X(setxattr, PL_OP_M) X(removexattr, PL_OP_M) X(listxattr, 0) X(lock, 0) X(getlock, 0)          \
    X(poll, 0) X(ioctl, PL_OP_M) X(statfs, 0) X(syncfs, 0) X(key, 0) X(find, 0)
enum pl_op {
#define X(name, flags) PL_OP_##name,
    PL_OPS(X)
#undef X
    PL_OP_COUNT
};
/* clang-format on */
PL_API const char *pl_op_name(enum pl_op op); /* "lookup" */
PL_API int pl_op_find(const char *name);      /* the op of that name, or -1 */
PL_API bool pl_op_modifies(enum pl_op op);

/* An op on its way through the gate, for layers that watch. What does not apply is NULL or 0. */
struct pl_event {
    enum pl_op op;
    struct pl_node *node, *node2; /* node2: the target directory of rename and link */
    struct pl_file *file;
    const char *name, *name2; /* a name in node; of rename the new name; an xattr's name */
    uint64_t off, len;
    uint32_t flags;   /* open, rename, remove, fallocate, setattr's valid, make's mode */
    const void *data; /* the bytes of write and setxattr, `len` of them */
    struct pl_node *const
        *found;                 /* where the op puts its node, and what its attributes are: to be */
    const struct pl_attr *attr; /* looked at by `after`, when the result is 0 */
    /* In `after`, of an op that succeeded and gave out no node and no file: a negative errno put
     * here is what the caller is told, though the op is done. Else NULL. */
    int *told;
};

struct pl_ops {
    const char *name; /* "host", "ro" */

    /* Layers only. `before` may end the op by returning a negative errno (the op is not done, and
     * `after` still sees that result). Neither may keep what the event points to. close and flush
     * cannot be stopped: their `before` result replaces what the caller is told, and the op is done
     * all the same. */
    int (*before)(struct pl_tree *, struct pl_call *, const struct pl_event *);
    void (*after)(struct pl_tree *, struct pl_call *, const struct pl_event *, int64_t result);

    /* Whether before and after want to see ops now; NULL: always. Asked at each op: cheap, and free
     * to change at any time. While it is false the layer is as good as absent. */
    bool (*watching)(struct pl_tree *);
    /* What before and after see of bytes does not matter: they may go by the descriptor. */
    bool by_fd;

    /* Frees the tree's own state; the tree has no nodes and no files any more. The gate unrefs
     * `lower` and frees the struct pl_tree itself after it. Required in a source. */
    void (*done)(struct pl_tree *);

    /* -- objects -- */
    /* The root, with a reference. Required in a source. */
    int (*root)(struct pl_tree *, struct pl_call *, struct pl_node **ret);
    /* The last reference to `node` is gone: frees it (or, where nodes are the storage, forgets that
     * others know it). Never fails, has no call: it may run at any time. Required in a source. */
    void (*release)(struct pl_tree *, struct pl_node *node);
    /* The child `name` of a directory. ".." is the parent; of the root, the root.
     * A symlink is returned, not followed. -ENOENT, -EACCES. Required in a source. */
    int (*lookup)(struct pl_tree *, struct pl_call *, struct pl_node *dir, const char *name,
                  struct pl_node **ret, struct pl_attr *attr);
    /* `file`, when not NULL, is an open file of `node` (works after unlink). Required. */
    int (*getattr)(struct pl_tree *, struct pl_call *, struct pl_node *node, struct pl_file *file,
                   struct pl_attr *attr);
    /* All that set->valid names, or nothing where that can be helped; `attr` is the new state. */
    int (*setattr)(struct pl_tree *, struct pl_call *, struct pl_node *node, struct pl_file *file,
                   const struct pl_setattr *set, struct pl_attr *attr);
    /* access(2): mask of R_OK, W_OK, X_OK. NULL: judged from getattr's mode, uid and gid. */
    int (*access)(struct pl_tree *, struct pl_call *, struct pl_node *node, int mask);
    /* The target into buf, without NUL; its length (cut to `size` as readlink(2) does). */
    int (*readlink)(struct pl_tree *, struct pl_call *, struct pl_node *node, char *buf,
                    size_t size);
    /* mkdir, mknod, symlink. A regular file may be made too (mknod S_IFREG). -EEXIST. */
    int (*make)(struct pl_tree *, struct pl_call *, struct pl_node *dir, const char *name,
                const struct pl_make *make, struct pl_node **ret, struct pl_attr *attr);
    /* A new name for a node that is not a directory (which may have no name: a tmpfile). */
    int (*link)(struct pl_tree *, struct pl_call *, struct pl_node *node, struct pl_node *dir,
                const char *name, struct pl_attr *attr);
    /* unlink, or rmdir when flags is AT_REMOVEDIR. -EISDIR, -ENOTDIR, -ENOTEMPTY.
     * Open files of the node, and the node itself while it is referenced, go on working. */
    int (*remove)(struct pl_tree *, struct pl_call *, struct pl_node *dir, const char *name,
                  int flags);
    /* renameat2(2); flags of RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT; -EINVAL for one
     * that it does not know. */
    int (*rename)(struct pl_tree *, struct pl_call *, struct pl_node *olddir, const char *oldname,
                  struct pl_node *newdir, const char *newname, unsigned flags);

    /* -- open files -- */
    /* Opens a regular file or a directory (flags has O_DIRECTORY then). O_TRUNC may be there,
     * O_CREAT, O_EXCL and O_NOFOLLOW never. Opening decides how bytes travel: see pl_file.fd.
     * Required in a source. */
    int (*open)(struct pl_tree *, struct pl_call *, struct pl_node *node, int flags,
                struct pl_file **ret);
    /* open(2) with O_CREAT: makes a regular file, or without O_EXCL opens the one there.
     * NULL: -EPERM. */
    int (*create)(struct pl_tree *, struct pl_call *, struct pl_node *dir, const char *name,
                  int flags, mode_t mode, struct pl_node **ret, struct pl_attr *attr,
                  struct pl_file **ret_file);
    /* open(2) with O_TMPFILE: a file with no name. */
    int (*tmpfile)(struct pl_tree *, struct pl_call *, struct pl_node *dir, int flags, mode_t mode,
                   struct pl_node **ret, struct pl_attr *attr, struct pl_file **ret_file);
    /* The last use of the file is over: frees it. Its result reaches nobody but trace; what the
     * user must hear belongs in flush. Locks of the file are gone after it. Required. */
    int (*close)(struct pl_tree *, struct pl_call *, struct pl_file *file);
    /* One close(2) of perhaps many: its error is what close(2) returns. POSIX locks of `owner` on
     * the node are dropped here. NULL: 0 (and with a lock op: the gate unlocks the owner). */
    int (*flush)(struct pl_tree *, struct pl_call *, struct pl_file *file, uint64_t owner);
    /* Bytes read, 0 at the end, fewer than asked only at the end or in a stream. */
    ssize_t (*read)(struct pl_tree *, struct pl_call *, struct pl_file *file, void *buf, size_t n,
                    uint64_t off);
    /* Bytes written; fewer only when out of space or the like. With O_APPEND, at the end. */
    ssize_t (*write)(struct pl_tree *, struct pl_call *, struct pl_file *file, const void *buf,
                     size_t n, uint64_t off);
    /* Entries from position `off` (0: the first), "." and ".." included, until fill returns 1.
     * Positions stay valid while the directory is open: an entry that is neither added nor removed
     * meanwhile comes exactly once. */
    int (*readdir)(struct pl_tree *, struct pl_call *, struct pl_file *dir, uint64_t off,
                   pl_fill_fn *fill, void *arg);
    /* SEEK_DATA or SEEK_HOLE: the offset, or -ENXIO. NULL: all data, one hole at the end. */
    int64_t (*seek)(struct pl_tree *, struct pl_call *, struct pl_file *file, uint64_t off,
                    int whence);
    /* On a directory too. NULL: 0 (nothing is held back). */
    int (*fsync)(struct pl_tree *, struct pl_call *, struct pl_file *file, bool data_only);
    /* fallocate(2) with its mode bits. */
    int (*fallocate)(struct pl_tree *, struct pl_call *, struct pl_file *file, int mode,
                     uint64_t off, uint64_t len);
    /* copy_file_range(2) between two open files of this tree: bytes copied, 0 at the end.
     * NULL: the gate reads and writes. */
    ssize_t (*copy)(struct pl_tree *, struct pl_call *, struct pl_file *in, uint64_t off_in,
                    struct pl_file *out, uint64_t off_out, size_t n);

    /* -- extended attributes, as getxattr(2) etc.: size 0 asks for the length; -ENODATA, -ERANGE */
    ssize_t (*getxattr)(struct pl_tree *, struct pl_call *, struct pl_node *node, const char *name,
                        void *buf, size_t size);
    int (*setxattr)(struct pl_tree *, struct pl_call *, struct pl_node *node, const char *name,
                    const void *buf, size_t size, int flags);
    int (*removexattr)(struct pl_tree *, struct pl_call *, struct pl_node *node, const char *name);
    /* Names, each with its NUL. */
    ssize_t (*listxattr)(struct pl_tree *, struct pl_call *, struct pl_node *node, char *buf,
                         size_t size);

    /* -- locks: set, unlock and test; -EAGAIN when held by another and not lock->wait; waits can be
     * cancelled. getlock answers with type F_UNLCK, or with the lock in the way; asked
     * with type F_UNLCK, with one that the owner itself holds there. */
    int (*lock)(struct pl_tree *, struct pl_call *, struct pl_file *file,
                const struct pl_lock *lock);
    int (*getlock)(struct pl_tree *, struct pl_call *, struct pl_file *file, struct pl_lock *lock);

    /* POLLIN etc. that hold now. A poller that is not NULL replaces the former one of this file and
     * is told of every change from now on, until close. NULL op: always ready. */
    int (*poll)(struct pl_tree *, struct pl_call *, struct pl_file *file, struct pl_poller *poller);
    /* An ioctl whose argument is data: in_size bytes of buf go in, up to out_size come back;
     * returns ioctl's result. Unknown: -ENOTTY. NULL: -ENOTTY. */
    int (*ioctl)(struct pl_tree *, struct pl_call *, struct pl_file *file, unsigned cmd, void *buf,
                 size_t in_size, size_t out_size);

    int (*statfs)(struct pl_tree *, struct pl_call *, struct pl_node *node, struct statfs *st);
    /* syncfs(2). NULL: 0. */
    int (*syncfs)(struct pl_tree *, struct pl_call *, struct pl_node *node);

    /* -- keys: a durable name of a node, at most PL_KEY_MAX bytes, and the node again from it, even
     * in a later run of the program. -EOPNOTSUPP where the source has none; -ESTALE: it is gone, or
     * (unless call->own) not what the caller could walk to now, at or below call->beneath. */
    int (*key)(struct pl_tree *, struct pl_call *, struct pl_node *node, uint8_t key[PL_KEY_MAX]);
    int (*find)(struct pl_tree *, struct pl_call *, const uint8_t *key, size_t len,
                struct pl_node **ret, struct pl_attr *attr);

    /* -- lasting and telling. These do not pass watching layers; a layer without the op passes them
     * to its lower tree. See pl_keep(), pl_resume(), pl_watch() below. */
    void (*keep)(struct pl_tree *, struct pl_keep *keep);
    int (*resume)(struct pl_tree *, struct pl_call *, struct pl_node *node, int flags, int kept,
                  struct pl_file **ret);
    int (*watch)(struct pl_tree *, struct pl_watcher *watcher, char how[64]);
};

/* Properties that a door wants to know beforehand. */
enum pl_tree_flags {
    PL_TREE_GENERATED = 1 << 0, /* content and attributes change by themselves: cache nothing */
    PL_TREE_REMOTE = 1 << 1,    /* an op may take a round trip over a network */
    PL_TREE_POSIX_ACL = 1 << 2, /* system.posix_acl_* xattrs are honoured by the source */
    PL_TREE_LOCKS = 1 << 3,     /* lock and getlock work */
    PL_TREE_XATTR = 1 << 4,     /* the xattr ops work */
    PL_TREE_PRIVATE = 1 << 5,   /* nothing but its own doors changes it (mem) */
    PL_TREE_LASTING = 1 << 6,   /* opened anew by another process it has the same objects, with the
                                   same inode numbers: a mount of it outlives its server */
    PL_TREE_STATELESS = 1 << 7, /* reading needs no open file: any later open of the node reads the
                                   same, positions in directories included (not: generated at open,
                                   streams); who may open is all in the mode and the ACL, so that
                                   uid 0 may open in anybody's name */
    PL_TREE_NOTES = 1 << 8, /* ops note what they are about to do in call->intent, and time tells
                               which objects are new: its clock is this machine's */
    PL_TREE_PLUS = 1 << 9,  /* readdir has attributes along with names, at no round trips of their
                               own */
    PL_TREE_STATELESS_SELF = 1 << 10, /* as PL_TREE_STATELESS, where nobody but this process's user
                                         opens; set in each that is stateless */
};

/* A source or layer embeds it first in its own struct. */
struct pl_tree {
    const struct pl_ops *ops;
    struct pl_tree *lower; /* a layer's; owned. NULL in a source */
    atomic_uint refs;
    uint32_t flags; /* enum pl_tree_flags; a layer starts with its lower tree's */
    struct pl_leaver *_Atomic leavers; /* a source's: see pl_leaver_add() */
};

/* A layer that knows things of the nodes it shares is told when one goes: `left` runs when nobody
 * holds `node` any more, before the source's `release`. It may compare and forget the pointer, and
 * look at node->refs (not 0: the source has given it out again meanwhile), and call nothing of the
 * tree. Threads of anybody who drops a reference. */
struct pl_leaver {
    void (*left)(struct pl_leaver *, struct pl_node *node);
    struct pl_leaver *next;
};
/* From now on; of the source below `tree`. When pl_leaver_del() returns, `left` runs no more. */
PL_API void pl_leaver_add(struct pl_tree *tree, struct pl_leaver *leaver);
PL_API void pl_leaver_del(struct pl_tree *tree, struct pl_leaver *leaver);

/* Sets up the embedded tree with one reference, the caller's; takes over `lower`'s. */
PL_API void pl_tree_init(struct pl_tree *tree, const struct pl_ops *ops, struct pl_tree *lower);
PL_API struct pl_tree *pl_tree_ref(struct pl_tree *tree);
/* Drops a reference (NULL is fine). At zero: ops->done, lower unref'd, the memory free()d. */
PL_API void pl_tree_unref(struct pl_tree *tree);
/* True when the op would reach an implementation (or a default that does work). */
PL_API bool pl_tree_has(const struct pl_tree *tree, enum pl_op op);

/* ---- the gate -------------------------------------------------------------------------------- */
/*
 * What doors, layers and clients call. Each is the op of the same name, with the rules above
 * enforced: bad arguments never reach an op (-EINVAL, -ENAMETOOLONG, -ENOTDIR, -EISDIR, -EBADF,
 * -EFBIG), impossible results are bugs and abort in a debug build.
 */
/* The root, or the node at `path` ("a/b", "" or "/" the root) beneath it, symlinks not followed. */
PL_API int pl_attach(struct pl_tree *, struct pl_call *, const char *path, struct pl_node **ret,
                     struct pl_attr *attr);
PL_API int pl_lookup(struct pl_tree *, struct pl_call *, struct pl_node *dir, const char *name,
                     struct pl_node **ret, struct pl_attr *attr);
PL_API int pl_getattr(struct pl_tree *, struct pl_call *, struct pl_node *, struct pl_file *,
                      struct pl_attr *attr);
PL_API int pl_setattr(struct pl_tree *, struct pl_call *, struct pl_node *, struct pl_file *,
                      const struct pl_setattr *set, struct pl_attr *attr);
PL_API int pl_access(struct pl_tree *, struct pl_call *, struct pl_node *, int mask);
PL_API int pl_readlink(struct pl_tree *, struct pl_call *, struct pl_node *, char *buf, size_t n);
PL_API int pl_make(struct pl_tree *, struct pl_call *, struct pl_node *dir, const char *name,
                   const struct pl_make *make, struct pl_node **ret, struct pl_attr *attr);
PL_API int pl_link(struct pl_tree *, struct pl_call *, struct pl_node *, struct pl_node *dir,
                   const char *name, struct pl_attr *attr);
PL_API int pl_remove(struct pl_tree *, struct pl_call *, struct pl_node *dir, const char *name,
                     int flags);
PL_API int pl_rename(struct pl_tree *, struct pl_call *, struct pl_node *olddir,
                     const char *oldname, struct pl_node *newdir, const char *newname,
                     unsigned flags);
PL_API int pl_open(struct pl_tree *, struct pl_call *, struct pl_node *, int flags,
                   struct pl_file **ret);
PL_API int pl_create(struct pl_tree *, struct pl_call *, struct pl_node *dir, const char *name,
                     int flags, mode_t mode, struct pl_node **ret, struct pl_attr *attr,
                     struct pl_file **ret_file);
PL_API int pl_tmpfile(struct pl_tree *, struct pl_call *, struct pl_node *dir, int flags,
                      mode_t mode, struct pl_node **ret, struct pl_attr *attr,
                      struct pl_file **ret_file);
PL_API int pl_close(struct pl_tree *, struct pl_call *, struct pl_file *);
PL_API int pl_flush(struct pl_tree *, struct pl_call *, struct pl_file *, uint64_t owner);
PL_API ssize_t pl_read(struct pl_tree *, struct pl_call *, struct pl_file *, void *buf, size_t n,
                       uint64_t off);
PL_API ssize_t pl_write(struct pl_tree *, struct pl_call *, struct pl_file *, const void *buf,
                        size_t n, uint64_t off);
PL_API int pl_readdir(struct pl_tree *, struct pl_call *, struct pl_file *, uint64_t off,
                      pl_fill_fn *fill, void *arg);
PL_API int64_t pl_seek(struct pl_tree *, struct pl_call *, struct pl_file *, uint64_t off,
                       int whence);
PL_API int pl_fsync(struct pl_tree *, struct pl_call *, struct pl_file *, bool data_only);
PL_API int pl_fallocate(struct pl_tree *, struct pl_call *, struct pl_file *, int mode,
                        uint64_t off, uint64_t len);
PL_API ssize_t pl_copy(struct pl_tree *, struct pl_call *, struct pl_file *in, uint64_t off_in,
                       struct pl_file *out, uint64_t off_out, size_t n);
PL_API ssize_t pl_getxattr(struct pl_tree *, struct pl_call *, struct pl_node *, const char *name,
                           void *buf, size_t size);
PL_API int pl_setxattr(struct pl_tree *, struct pl_call *, struct pl_node *, const char *name,
                       const void *buf, size_t size, int flags);
PL_API int pl_removexattr(struct pl_tree *, struct pl_call *, struct pl_node *, const char *name);
PL_API ssize_t pl_listxattr(struct pl_tree *, struct pl_call *, struct pl_node *, char *buf,
                            size_t size);
PL_API int pl_lock(struct pl_tree *, struct pl_call *, struct pl_file *, const struct pl_lock *);
PL_API int pl_getlock(struct pl_tree *, struct pl_call *, struct pl_file *, struct pl_lock *);
PL_API int pl_poll(struct pl_tree *, struct pl_call *, struct pl_file *, struct pl_poller *);
PL_API int pl_ioctl(struct pl_tree *, struct pl_call *, struct pl_file *, unsigned cmd, void *buf,
                    size_t in_size, size_t out_size);
PL_API int pl_statfs(struct pl_tree *, struct pl_call *, struct pl_node *, struct statfs *);
PL_API int pl_syncfs(struct pl_tree *, struct pl_call *, struct pl_node *);
PL_API int pl_key(struct pl_tree *, struct pl_call *, struct pl_node *, uint8_t key[PL_KEY_MAX]);
PL_API int pl_find(struct pl_tree *, struct pl_call *, const uint8_t *key, size_t len,
                   struct pl_node **ret, struct pl_attr *attr);

/* ---- lasting and telling --------------------------------------------------------------------- */

/* Tells the tree, before anything else is asked of it, that it may have to last longer than this
 * process, and where to keep what a successor needs. Takes over what a predecessor kept. `keep`
 * lives as long as the tree. May block as opening the tree may. */
PL_API void pl_keep(struct pl_tree *, struct pl_keep *keep);

/* An open file as it was before a restart. `flags`: as it was opened (never O_TRUNC, O_CREAT,
 * O_EXCL); `kept`: pl_file.kept as it was then, the same open descriptor, or 0. The source owns it
 * from here on, also when it fails. `node` may be NULL: whatever `kept` is, which may have lost its
 * name; the op sets the file's tree, node (with a reference) and flags itself. Permission was
 * judged when it was opened: it is not asked again. Results as of pl_open(); of a source without
 * the op, `node` is opened again in the name of `call`. */
PL_API int pl_resume(struct pl_tree *, struct pl_call *, struct pl_node *node, int flags, int kept,
                     struct pl_file **ret);

/* From now on `watcher` is told of changes that others make behind the tree's back, of all objects
 * whose pl_attr.told was set; one watcher a tree. NULL ends it: when that returns, no function of
 * it runs or will. `how` gets a few words for status ("fanotify", "inotify"), also with an error.
 * -EOPNOTSUPP: this tree cannot tell. */
PL_API int pl_watch(struct pl_tree *, struct pl_watcher *watcher, char how[64]);

/* The file's descriptor, if bytes may be moved through it without this tree seeing them: no layer
 * from `tree` down to the source watches or replaces read or write. Else -1. */
PL_API int pl_file_fd(struct pl_tree *tree, struct pl_file *file);

/* ---- help for sources ------------------------------------------------------------------------ */

/* access(2) by mode, uid, gid and the call's groups, as generic_permission() in the kernel does
 * without ACLs; root (uid 0) may all but execute a file that has no x bit. 0 or -EACCES. */
PL_API int pl_may(struct pl_call *call, const struct pl_attr *attr, int mask);
/* Is it the call's group, or one of its supplementary ones? Those are loaded, and are none where
 * that fails. Does not block. */
PL_API bool pl_in_group(struct pl_call *call, gid_t gid);

/* The other rules of Linux, for sources that keep attributes themselves. 0, -EACCES or -EPERM. */
PL_API int pl_may_open(struct pl_call *call, const struct pl_attr *attr, int flags);
/* `writable`: asked through a file that is open for writing. */
PL_API int pl_may_set(struct pl_call *call, const struct pl_attr *attr,
                      const struct pl_setattr *set, bool writable);
/* To take `victim` out of `dir` (unlink, rename), by W_OK, X_OK and the sticky bit. */
PL_API int pl_may_remove(struct pl_call *call, const struct pl_attr *dir,
                         const struct pl_attr *victim);
/* By the prefix of the name; -ENODATA: not for this caller to see; -EOPNOTSUPP: no such prefix. */
PL_API int pl_may_xattr(struct pl_call *call, const struct pl_attr *attr, const char *name,
                        bool write);
/* The attributes of a new object of `mode` in `dir` (NULL: none): owner, umask, setgid, times. */
PL_API void pl_attr_init(struct pl_attr *attr, struct pl_call *call, const struct pl_attr *dir,
                         uint32_t mode);
/* Does what pl_may_set() allowed, the suid and sgid bits that must go included. */
PL_API void pl_attr_set(struct pl_attr *attr, struct pl_call *call, const struct pl_setattr *set);
/* Content was written: mtime, ctime, version, and the suid and sgid bits go. */
PL_API void pl_attr_written(struct pl_attr *attr, struct pl_call *call);
/* ctime and version, and those of PL_SET_ATIME_NOW, PL_SET_MTIME_NOW that are given. */
PL_API void pl_attr_touch(struct pl_attr *attr, uint32_t times);

/* A table of advisory locks of one node, for sources that keep their own (zeroed is empty). */
struct pl_locks {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    struct pl_lock_range *head;
};
PL_API void pl_locks_init(struct pl_locks *);
PL_API void pl_locks_done(struct pl_locks *);
PL_API int pl_locks_set(struct pl_locks *, struct pl_call *, const struct pl_lock *);
PL_API int pl_locks_get(struct pl_locks *, struct pl_lock *);
/* Who has locked through an open file (zeroed: nobody), for its close: a client that died says no
 * flush. pl_locks_set_by() notes the owner, or is -ENOLCK; pl_locks_undo() unlocks for all of them.
 */
struct pl_lock_owners {
    struct pl_lock *list; /* guarded by the table's mutex */
    size_t n;
};
PL_API int pl_locks_set_by(struct pl_locks *, struct pl_call *, struct pl_lock_owners *,
                           const struct pl_lock *);
PL_API void pl_locks_undo(struct pl_locks *, struct pl_call *, struct pl_lock_owners *);

/* The extended attributes of one node, for sources that keep their own (zeroed is empty). Not
 * locked. Results as of the ops; a value of more than PL_XATTR_MAX is -E2BIG, twice as much in all
 * -ENOSPC. `trusted`: list the names that only root may see. */
struct pl_xattrs {
    struct pl_xattr *head;
    size_t bytes;
};
PL_API ssize_t pl_xattrs_get(struct pl_xattrs *, const char *name, void *buf, size_t size);
PL_API int pl_xattrs_set(struct pl_xattrs *, const char *name, const void *buf, size_t size,
                         int flags);
PL_API int pl_xattrs_remove(struct pl_xattrs *, const char *name);
PL_API ssize_t pl_xattrs_list(struct pl_xattrs *, bool trusted, char *buf, size_t size);
PL_API void pl_xattrs_done(struct pl_xattrs *);

#endif
