/* SPDX-License-Identifier: MIT */
/*
 * The host source, inside.
 *
 * A node stands for an object of the host, found by (st_dev, st_ino). It does not hold a
 * descriptor; it knows how to get one again: by the object's file handle where the kernel allows
 * that, else by its name in its parent, checked against the identity. Descriptors (O_PATH) are a
 * cache: host_fd() takes the use of one, host_fd_done() ends it, and those not in use are kept in
 * an idle list of bounded length.
 *
 * Locks, in the order in which they may be taken together (call->lock before all):
 *   names    parents and names of nodes
 *   locks    lock owners of nodes (host_lock.c)
 *   cache    descriptors, the idle list, the lists of open files, what is kept for a successor
 *   mounts   the list of mounts, the devices that are kept
 *   marks    what is watched (host_watch.h)
 * None is held across a system call that may wait for a disk, but for `cache` in the rare case of
 * a node that is reopened through an open file.
 */
#ifndef SOURCES_HOST_H
#define SOURCES_HOST_H

#include <fcntl.h>
#include <plenum/sources.h>
#include <stdio.h>
#include <sys/stat.h>

#define HOST_FDS    512 /* idle descriptors at most */
#define HOST_MOUNTS 64  /* mounts that hold a descriptor; objects of others are found by name */
#define HOST_SLOTS  32768
#define HOST_HANDLE 128 /* MAX_HANDLE_SZ */

/* A mount in which nodes live; counted by them. */
struct host_mount {
    struct host_mount *next; /* this and refs: guarded by `mounts` */
    unsigned refs;
    uint64_t id;   /* as statx tells */
    int fd;        /* for open_by_handle_at; -1: not possible here */
    uint64_t fsid; /* tells file systems apart in keys; 0: unknown */
    dev_t dev;
    int fsid_raw[2];       /* statfs's f_fsid, by which events name the file system */
    _Atomic uint32_t inos; /* the words of file handles there (bit i: bytes 4i to 4i+3) that have
                              held the inode number's lower half in every handle seen */
    bool close_tells, lends;
    bool tells; /* all changes are made by this kernel, which tells of them */
};

struct host_owner;
struct host_dir;
struct host_watch;

struct host_link {
    struct host_link *prev, *next;
};

struct host_node {
    struct pl_hnode h;
    struct host_mount *mount;
    struct host_node *_Atomic parent; /* counted; NULL: the root, or unknown. Guarded by `names` */
    char *name;                       /* in parent, unless host_by_handle(). Guarded by `names` */
    struct host_link link;            /* in the idle list; next NULL: not in it */
    struct host_file *files;          /* open files of it. Guarded by `cache` */
    struct host_owner *owners;        /* who has locks here. Guarded by `locks` */
    int64_t btime;                    /* nanoseconds, 0: unknown */
    int fd;                           /* -1: none. Guarded by `cache` */
    unsigned users;                   /* of fd */
    uint32_t record;                  /* of pl_keep: it has no name. This and the next three:
                                         guarded by `cache` */
    bool pinned;                      /* it has no name, and a use of fd is for that */
    uint16_t leaving;                 /* ops under way that may take its last name */
    bool claimed;                     /* in the list of claims */
    atomic_uchar watched;             /* of HOST_MARKED ...; host_watch.c */
    uint16_t slot;                    /* of its device, see host_ino() */
    atomic_bool young;                /* seen within the grain of btime: see same_object() */
    uint8_t handle_len;               /* 0: it has none */
    int handle_type;
    int wd; /* inotify's number for it. Guarded by `marks` */
    uint8_t handle[];
};

/* A regular file or directory that is open. */
struct host_file {
    struct pl_file f;
    int fd;
    struct host_file *prev, *next; /* of the node's open files */
    struct host_dir *dir;          /* of a directory: host_dir.c */
    uint64_t *owners;              /* who locked through it, until their flush; `locks` */
    size_t nowners;
};

/* Devices and their slots, as many as a record takes. */
#define HOST_DEVICES 10
struct host_devices {
    uint8_t kind, n;
    uint16_t slot[HOST_DEVICES];
    uint64_t dev[HOST_DEVICES];
};

struct host {
    struct pl_tree tree;
    struct pl_nodes *nodes;
    struct host_node *root;
    bool acts; /* with the callers' credentials */
    pthread_mutex_t names, cache, mounts_lock;
    pthread_mutex_t modes;  /* whoever changes a mode, where one may be another for a moment */
    atomic_uint moment;     /* odd: it is such a moment */
    struct host_link idle;  /* head of the ring, the latest used first */
    unsigned nfds, max_fds; /* descriptors of nodes */
    struct host_mount *mounts;
    unsigned nmounts;
    int mountinfo; /* -1 until it is needed. This and points: guarded by `mounts_lock` */
    char *points;  /* mount points beneath the root, each with its NUL, then one more; or NULL */
    dev_t root_dev;
    _Atomic uint64_t *slots;          /* device + 1 by slot, entries 1..HOST_SLOTS-1 */
    struct host_watch *_Atomic watch; /* NULL until it was first asked for */
    atomic_uint dirs;                 /* known directories */
    struct {
        pthread_mutex_t mutex;
        pthread_cond_t cond; /* a lock of ours was dropped */
        uint64_t gen;        /* counts that */
        atomic_uint owners;  /* entries in all nodes */
    } locks;
    /* host_last.c */
    struct pl_keep *keep;      /* NULL: nothing is kept. Set before the tree is used */
    struct host_node **claims; /* taken over from a predecessor, each a reference, until somebody
                                  asks for them. Guarded by `cache` */
    size_t nclaims;
    uint32_t root_record;
    int root_fd;                 /* its descriptor, if it is a predecessor's; -1 */
    struct host_devices devices; /* the last record of devices. Guarded by `mounts_lock` */
    uint32_t devices_record;
};

static inline struct host *host_of(struct pl_tree *tree)
{
    return (struct host *)tree;
}

static inline struct host_node *node_of(struct pl_node *node)
{
    return (struct host_node *)node;
}

static inline struct host_file *file_of(struct pl_file *file)
{
    return (struct host_file *)file;
}

/* A descriptor of it can be had by its handle, at any time. */
static inline bool host_by_handle(const struct host_node *n)
{
    return n->handle_len && n->mount->fd >= 0;
}

/* The path by which a descriptor of this process is opened or named again. */
struct host_proc {
    char path[40];
};
static inline struct host_proc host_proc(int fd)
{
    struct host_proc p;
    snprintf(p.path, sizeof(p.path), "/proc/self/fd/%d", fd);
    return p;
}

/* ---- host_node.c ---- */
/* The use of an O_PATH descriptor of the node, or a negative errno (-ESTALE: it is gone). May act
 * as the process itself: switch credentials after it. */
int host_fd(struct host *h, struct host_node *n);
void host_fd_done(struct host *h, struct host_node *n);
/* Closes all idle descriptors: the process has run out of them. */
void host_fds_drop(struct host *h);
/* Enters an open file of the node. */
void host_file_add(struct host *h, struct host_node *n, struct host_file *f);
void host_file_del(struct host *h, struct host_node *n, struct host_file *f);
/* Opens a child as O_PATH without leaving the tree. *crossed: it lies in another mount, and not one
 * of our own (-ELOOP). */
int host_open_child(int dirfd, const char *name, bool *crossed);
/* The node of the object that `fd` has open, new or known. `fd` is O_PATH and taken over when
 * `keep`, else only looked at. `dir` (may be NULL: unknown) and `name` say where it was found. */
int host_adopt(struct host *h, struct host_node *dir, const char *name, int fd, bool keep,
               bool crossed, struct host_node **ret, struct pl_attr *attr);
/* The known node of the object that `fd` has open, with a reference, or NULL. */
struct host_node *host_known(struct host *h, int fd, const struct statx *stx);
/* An O_PATH descriptor of the child of this identity, and its name, or -ESTALE. */
int host_search(int dirfd, struct pl_id id, char name[PL_NAME_MAX + 1]);
/* True when that is what `fd` has open. */
bool host_is(const struct host_node *n, int fd);
/* The node `n` is now found as `name` in `dir`. */
void host_moved(struct host *h, struct host_node *n, struct host_node *dir, const char *name);
/* The parent as far as known, with a reference, or NULL. */
struct host_node *host_parent(struct host *h, struct host_node *n);
void host_release(struct pl_tree *tree, struct pl_node *node);
int host_statx(int fd, struct statx *stx);
/* Of a node that has no descriptor but an open file, by that: -EAGAIN where this does not do. */
int host_statx_open(struct host *h, struct host_node *n, struct statx *stx);
/* chmod of an O_PATH descriptor: without the way through /proc where the kernel can (6.6). -1. */
int host_chmod(int fd, mode_t mode);
/* With h->modes held, for a process that is not root: has it, the owner, not the right `need` (of
 * S_IRUSR and S_IWUSR) to what the O_PATH descriptor has open, it has it from here to
 * host_restore(). False: nothing is to be done, or can be. */
bool host_grant(struct host *h, int path, uint32_t need, mode_t *ret_was);
void host_restore(struct host *h, int path, mode_t was); /* errno stays */
struct pl_id host_id(const struct statx *stx);
void host_attr(struct host_node *n, const struct statx *stx, struct pl_attr *attr);
uint64_t host_ino(unsigned slot, uint64_t ino);
int64_t host_btime(const struct statx *stx);
/* The file handle of what fd has open into h->handle; false: it has none. */
struct host_handle {
    unsigned bytes;
    int type;
    uint8_t data[HOST_HANDLE];
};
bool host_handle(int fd, struct host_handle *hd);
bool host_same_handle(const struct host_node *n, int type, const void *data, unsigned bytes);
int host_open_handle(struct host_mount *m, int type, const uint8_t *data, unsigned n, int flags);

/* ---- host_mount.c ---- */
unsigned host_slot(struct host *h, dev_t dev);
/* The mount that `fd` (O_PATH, its attributes in stx) lies in, with a reference; NULL: no memory.
 */
struct host_mount *host_mount_of(struct host *h, int fd, const struct statx *stx);
struct host_mount *host_mount_ref(struct host *h, struct host_mount *m);
/* One of the known mounts of that file system in which handles can be opened, or NULL. */
struct host_mount *host_mount_find(struct host *h, uint64_t fsid);
void host_mount_unref(struct host *h, struct host_mount *m);
/* Calls each(arg, path from the root) for each mount point beneath the root until it says true. */
int host_each_point(struct host *h, bool (*each)(void *arg, const char *rel), void *arg);
/* The mount points beneath the root, as paths from there, each with its NUL, then one more NUL; to
 * be freed. NULL: none. */
char *host_points(struct host *h);
/* The names in a directory that are mount points, each with its NUL, then one more NUL; to be
 * freed. NULL: none. */
char *host_points_in(struct host *h, int fd);

/* ---- host_key.c ---- */
/* True when the directory or file is beneath the root now; its path from there into `rel`. */
bool host_beneath(struct host *h, int fd, char *rel, size_t size);
/* The node at `rel` beneath the root, as the process itself; every node on the way is known then.*/
int host_walk(struct host *h, const char *rel, struct host_node **ret, struct pl_attr *attr);
int host_key(struct pl_tree *, struct pl_call *, struct pl_node *, uint8_t key[PL_KEY_MAX]);
int host_find(struct pl_tree *, struct pl_call *, const uint8_t *key, size_t len,
              struct pl_node **ret, struct pl_attr *attr);

/* ---- host_last.c: what outlives this process ---- */
/* pl_host_open(), but the root is the directory that a predecessor served, wherever `dir` leads by
 * now (onto our own mount, perhaps). HOST_READS: nothing is changed through it (there is an ro
 * layer above), and a process that gives up rights gives up those too (base/confine.h). */
enum host_use { HOST_CHANGES, HOST_READS };
int host_open_kept(const char *dir, enum host_use use, struct pl_keep *keep, struct pl_tree **ret,
                   struct pl_err *err);
void host_keep(struct pl_tree *tree, struct pl_keep *keep);
/* A descriptor of the predecessor's root, or -1. */
int host_kept_root(struct pl_keep *keep);
/* What a record is about. */
struct host_kept_id {
    uint64_t dev, ino;
    int64_t btime;
};
struct host_kept_id host_kept_id(const struct host_node *n);
/* The node of a descriptor that a predecessor kept, with a reference; -ESTALE: it is not what the
 * record says. `fd` stays the caller's. */
int host_kept_node(struct host *h, int fd, struct host_kept_id id, struct host_node **ret,
                   struct pl_attr *attr);
/* The node of whatever `fd` has open, known or made; names or none. `fd` stays the caller's. */
int host_open_node(struct host *h, int fd, struct host_node **ret, struct pl_attr *attr);
/* Keeps the caller's reference until somebody asks for the node. */
void host_claim(struct host *h, struct host_node *n);
/* Somebody has. */
void host_claim_over(struct host *h, struct host_node *n);
/* The tree is over: lets go of all that nobody has asked for, and of the root. */
void host_keep_done(struct host *h);
/* Before something gets that name: is there anything? (call->intent; done as the caller.) */
void host_note_new(struct host *h, struct pl_call *call, int dirfd, const char *name);
/* Around what may take the last name of a known node (NULL: of nothing), whose descriptor is in
 * use: without a name a successor finds it by that descriptor only. */
void host_leaving(struct host *h, struct host_node *n);
void host_left(struct host *h, struct host_node *n);
/* It has got a name (and its descriptor is in use). */
void host_named(struct host *h, struct host_node *n);
/* The device has got that slot. */
void host_keep_device(struct host *h, unsigned slot, dev_t dev);
/* ---- host_watch.c: changes that others make ---- */
int host_watch(struct pl_tree *tree, struct pl_watcher *to, char how[64]);
void host_watch_free(struct host *h);
/* Events are being taken now. */
bool host_watching(struct host *h);
/* Moves on before an event is looked at: a node that was not known then missed it, and what was
 * read of it before is out of date. */
uint64_t host_watch_seq(struct host *h);
/* The node was found in `dir` (NULL: not known). */
void host_watch_found(struct host *h, struct host_node *n, struct host_node *dir);
/* Watches the node itself (`fd` has it open) if it must be and is not yet. True when it was not:
 * then `stx` is to be asked for anew. Acts as the process itself. */
bool host_watch_cover(struct host *h, struct host_node *n, int fd, const struct statx *stx);
/* Will there be an event when its attributes, or the name by which it was found, change? */
bool host_told(struct host_node *n, const struct statx *stx);
/* The node goes. */
void host_watch_forget(struct host *h, struct host_node *n);

/* ---- credentials (host_cred.c) ---- */
/* From here to host_end() this thread's accesses are the caller's. */
int host_act(struct host *h, struct pl_call *call);
/* The same, for what creates: the caller's umask too. */
int host_act_create(struct host *h, struct pl_call *call);
void host_end(void);

/* ---- ops, by file ---- */
#define HOST_T struct pl_tree *tree, struct pl_call *call
/* host_name.c */
int host_make(HOST_T, struct pl_node *dir, const char *name, const struct pl_make *make,
              struct pl_node **ret, struct pl_attr *attr);
int host_link(HOST_T, struct pl_node *node, struct pl_node *dir, const char *name,
              struct pl_attr *attr);
int host_remove(HOST_T, struct pl_node *dir, const char *name, int flags);
int host_rename(HOST_T, struct pl_node *olddir, const char *oldname, struct pl_node *newdir,
                const char *newname, unsigned flags);
/* host_file.c */
int host_open(HOST_T, struct pl_node *node, int flags, struct pl_file **ret);
int host_resume(HOST_T, struct pl_node *node, int flags, int kept, struct pl_file **ret);
int host_create(HOST_T, struct pl_node *dir, const char *name, int flags, mode_t mode,
                struct pl_node **ret, struct pl_attr *attr, struct pl_file **ret_file);
int host_tmpfile(HOST_T, struct pl_node *dir, int flags, mode_t mode, struct pl_node **ret,
                 struct pl_attr *attr, struct pl_file **ret_file);
int host_close(HOST_T, struct pl_file *file);
int host_flush(HOST_T, struct pl_file *file, uint64_t owner);
ssize_t host_read(HOST_T, struct pl_file *file, void *buf, size_t n, uint64_t off);
ssize_t host_write(HOST_T, struct pl_file *file, const void *buf, size_t n, uint64_t off);
int64_t host_seek(HOST_T, struct pl_file *file, uint64_t off, int whence);
int host_fsync(HOST_T, struct pl_file *file, bool data_only);
int host_fallocate(HOST_T, struct pl_file *file, int mode, uint64_t off, uint64_t len);
ssize_t host_copy(HOST_T, struct pl_file *in, uint64_t off_in, struct pl_file *out,
                  uint64_t off_out, size_t n);
int host_ioctl(HOST_T, struct pl_file *file, unsigned cmd, void *buf, size_t in_size,
               size_t out_size);
/* host_dir.c */
int host_dir_new(struct host_file *f);
void host_dir_free(struct host_file *f);
int host_readdir(HOST_T, struct pl_file *dir, uint64_t off, pl_fill_fn *fill, void *arg);
/* host_attr.c */
int host_getattr(HOST_T, struct pl_node *node, struct pl_file *file, struct pl_attr *attr);
int host_setattr(HOST_T, struct pl_node *node, struct pl_file *file, const struct pl_setattr *set,
                 struct pl_attr *attr);
int host_access(HOST_T, struct pl_node *node, int mask);
int host_readlink(HOST_T, struct pl_node *node, char *buf, size_t n);
ssize_t host_getxattr(HOST_T, struct pl_node *node, const char *name, void *buf, size_t size);
int host_setxattr(HOST_T, struct pl_node *node, const char *name, const void *buf, size_t size,
                  int flags);
int host_removexattr(HOST_T, struct pl_node *node, const char *name);
ssize_t host_listxattr(HOST_T, struct pl_node *node, char *buf, size_t size);
int host_statfs(HOST_T, struct pl_node *node, struct statfs *st);
int host_syncfs(HOST_T, struct pl_node *node);
/* host_lock.c */
int host_lock(HOST_T, struct pl_file *file, const struct pl_lock *lock);
int host_getlock(HOST_T, struct pl_file *file, struct pl_lock *lock);
/* Drops the locks of one owner on the node; of all who locked through `file`, before its close. */
void host_unlock_owner(struct host *h, struct host_node *n, uint64_t owner);
/* The same at the flush of an open file by which it may have come. */
void host_unlock_by(struct host *h, struct host_file *f, uint64_t owner);
void host_unlock_file(struct host *h, struct host_node *n, struct host_file *f);
/* Of everybody: nobody knows the node any more. */
void host_unlock_all(struct host *h, struct host_node *n);
/* Takes over the descriptor of a predecessor's lock owner; a negative errno: it is of no use. */
#define HOST_KEPT_LOCK 'L'
int host_lock_take(struct host *h, const struct pl_kept *kept);
/* The file was open in a predecessor: who had locked through it. */
void host_lock_resume(struct host *h, struct host_node *n, struct host_file *f);

#endif
