/* SPDX-License-Identifier: MIT */
/*
 * Inside the trap door.
 *
 * A *place* is a directory as a program knows it: a path, and if it lies in a tree, the node. An
 * *item* is what one of our descriptors in a program stands for, found by the inode that it has
 * open: a state (view and working directory), a node of a tree (a directory, or anything opened
 * with O_PATH, which the kernel does not let us hand over), or the body of a file whose tree has no
 * descriptors. Each inode is made for one item, and its closing, of which inotify tells, ends the
 * item. A *who* is a thread that calls, with what is known of it as long as it lives.
 *
 * Threads. Workers take calls (trap_crew.c). Locks, none of which is held during an op of a tree or
 * while something may be waited for:
 *   t->lock       the tables of items and bodies, places' paths
 *   t->who_lock   the table of callers, pending views
 *   t->wait_lock  those that wait for something in a caller's name
 *   crew->lock    the workers
 *   item->lock    the listing of one directory (held during its readdir)
 */
#ifndef DOORS_TRAP_PRIV_H
#define DOORS_TRAP_PRIV_H

#include "doors/preload/table.h"
#include "doors/trap.h"
#include <limits.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <uthash.h>

#define TRAP_LINKS  40      /* symbolic links in one path, as the kernel has it */
#define TRAP_WHOS   512     /* callers remembered, each with a descriptor */
#define TRAP_KNOWN  4096    /* files handed out whose paths are remembered */
#define TRAP_FORMER 32      /* views kept after nobody has them */
#define TRAP_TAG    64      /* F_SETSIG of a file handed out: what it has open came from a tree */
#define TRAP_NATIVE (-4100) /* a handler's result: the kernel is to go on with the call */
#define TRAP_DONE   (-4101) /* ... it was answered already */
#define LOOK_WALK   (-4102) /* the table does not know */

struct top {
    char *path;
    size_t len; /* of path; 0: it is "/" */
    struct pl_tree *tree;
    struct pl_node *root;
    dev_t dev; /* what st_dev says of files that are nowhere on the host */
};

struct item_id {
    uint64_t dev, ino;
};

struct trap_view {
    atomic_uint refs;
    struct top *tops;
    size_t n;
    trap_where_fn *where;
    void *where_arg;
    struct preload_table *preload; /* NULL: all is for the trap */
};

struct place {
    atomic_uint refs;
    struct trap_view *view;
    const struct top *top; /* NULL: on the host */
    struct pl_node *node;  /* NULL on the host, and of a file not asked for (t->lock) */
    char *path;            /* t->lock: a rename may change it */
    bool gone;             /* t->lock: by the path something else is found, or nothing */
    struct place *prev, *next;
};

enum item_kind { ITEM_STATE, ITEM_NODE, ITEM_BODY };

struct item {
    UT_hash_handle hh, hh_wd;
    atomic_uint refs; /* one is the table's */
    enum item_kind kind;
    struct item_id id;
    bool listed; /* t->lock: it is found by its id */
    int wd;
    struct trap_view *view;
    struct place *place; /* of a state NULL: the kernel's working directory */
    struct place *root;  /* of a state after chroot(2), else NULL */
    pthread_mutex_t lock;
    struct pl_tree *tree;  /* of file and node */
    struct pl_file *file;  /* the listing; or the file that a body is to be written to */
    int fd;                /* a body's content; -1 */
    bool named_only;       /* opened with O_PATH */
    bool lent;             /* made for one call, of a directory that the preload has opened */
    _Atomic int64_t stamp; /* when that was last as in the tree */
};

struct who {
    UT_hash_handle hh;
    unsigned refs; /* who_lock */
    bool gone;     /* not in the table any more */
    pid_t tid, tgid;
    int pidfd;
    bool exact; /* the pidfd is the thread's, not its process's */
    uint64_t used;
    struct item_id state; /* who_lock: what its state was while t->states was `states` */
    uint64_t states;
    atomic_bool stale; /* credentials are to be read again */
    uid_t uid;
    gid_t gid;
    uint32_t ngroups;
    gid_t groups[64];
    atomic_uint umask;
};

/* A file that was handed out: by which path, and what it is in its tree. */
struct known {
    struct item_id id;
    char *path;
    struct place *place;
};

/* A process that is to have another view. */
struct pending {
    UT_hash_handle hh;
    pid_t tgid;
    int pidfd;
    struct trap_view *view;
};

/* A worker, and the call that it serves just now. */
struct worker {
    struct worker *next; /* crew->lock */
    struct trap *t;
    pthread_mutex_t lock;
    struct tcall *now; /* lock */
    uint64_t seen;     /* lock: the id of the call when the foreman last looked */
};

/* The workers. A field is guarded by `lock`, or atomic. */
struct crew {
    pthread_mutex_t lock;
    pthread_cond_t gone, wanted, watch;
    pthread_t foreman;
    struct worker *workers;
    bool watched, over;
    unsigned nthreads, resting, called; /* `called` of those that rest are to come */
    atomic_uint out, want;              /* that do not rest; how many there should be of those */
    atomic_uint receiving;              /* of them, that wait for a call */
    atomic_bool asleep;                 /* the foreman, until a call comes */
    unsigned processors;
};

/* A worker that waits for the other end of something in the caller's name. */
struct waiting {
    struct waiting *next, **at;
    struct tcall *c;
    pthread_t thread;
};

struct trap {
    int listener, inotify, scratch;
    int wd_fd;
    uint64_t scratch_dev, memfd_dev;
    int state_fd; /* the number */
    pid_t child;
    struct trap_opts opts;
    bool poll_first; /* RECV does not end by itself */
    int stop[2];     /* a pipe to the closer: 's', it is to end; 'w', somebody waits */
    pthread_mutex_t wait_lock;
    struct waiting *waiting; /* wait_lock */
    pthread_t closer;
    bool closing;
    pthread_mutex_t closed_lock; /* one at a time hears of what was closed; before t->lock */
    pthread_mutex_t lock;
    struct item *items, *items_wd;
    struct place places; /* head of a ring */
    atomic_uint nbodies, serial;
    atomic_uint nitems;   /* without states */
    atomic_ullong states; /* that have been set, from 1 */
    struct known known[TRAP_KNOWN];
    uint16_t known_at[TRAP_KNOWN]; /* by the hash of a path: where it may be known */
    pthread_mutex_t who_lock;
    struct who *whos;
    struct pending *pending;
    atomic_uint npending;
    uint64_t clock;
    struct crew crew;
    struct trap_view *view;                /* of a process without a state */
    struct trap_view *former[TRAP_FORMER]; /* who_lock: of directories that were lent by them */
    size_t nformer;
    atomic_ullong calls, native, done;
    struct seccomp_notif_sizes sizes;
};

/* One trapped call. */
struct tcall {
    struct trap *t;
    struct worker *worker;
    struct seccomp_notif *n;
    const struct seccomp_data *d;
    struct who *w;
    struct item *state;
    struct trap_view *view;
    struct pl_call call;
    int broken; /* why we cannot tell what a descriptor is: the call fails with it */
};

/* What a path leads to. */
struct target {
    char path[PATH_MAX];     /* canonical; on the host perhaps with what could not be followed */
    const struct top *top;   /* NULL: on the host */
    struct pl_node *dir;     /* in a tree: the parent; NULL: the object is the tree's root */
    struct pl_node *node;    /* in a tree: the object; NULL: there is none */
    char name[NAME_MAX + 1]; /* in dir */
    bool slash;              /* a directory is meant */
    bool native;             /* the kernel finds the same by itself */
    bool plain;              /* in a tree by the letters, and not looked for (WALK_TABLE) */
    unsigned links;
};

enum walk_flags {
    WALK_FOLLOW = 1, /* the last name too */
    WALK_EMPTY = 2,  /* "" is the descriptor itself */
    WALK_PARENT = 4, /* the last name is to be made, renamed or removed: "." is no name */
    WALK_BENEATH = 8,
    WALK_IN_ROOT = 16,
    WALK_NO_LINKS = 32,
    WALK_NO_MAGIC = 64,
    WALK_TABLE = 128, /* where the table may know, it is asked first: see walk_on() */
    WALK_LOOKS = 256, /* nothing is changed, but for what is told the caller */
};

/* ---- trap_crew.c ---- */
void crew_init(struct trap *t);
/* Calls are taken from now on; false: no thread can be started. */
bool crew_start(struct trap *t);
/* Waits until the last process with the filter is gone. */
void crew_end(struct trap *t);
/* The op of a call that begins here and ends there is cancelled when its caller is killed. */
void crew_begins(struct tcall *c);
void crew_ends(struct tcall *c);
/* Carries out a call and answers it (trap.c). */
void trap_serve(struct worker *w, struct seccomp_notif *n);

/* ---- trap_who.c ---- */
struct who *who_get(struct trap *t, pid_t tid);
void who_put(struct trap *t, struct who *w);
void who_drop(struct trap *t, struct who *w);
void who_umask(struct trap *t, pid_t tgid, mode_t mask);
void who_done(struct trap *t);
/* The state of the caller as it was found before, with a reference: as long as the thread lives and
 * nobody has set one since. NULL: it is to be found. */
struct item *who_state(struct trap *t, struct who *w);
/* That is what was found, while t->states was `states`. */
void who_note(struct trap *t, struct who *w, const struct item *state, uint64_t states);
/* A descriptor of the caller, or a negative errno. */
int who_fd(struct who *w, int fd);
/* Forgets those that do not call just now: each has a descriptor. */
void who_spare(struct trap *t);
/* From memory of the caller: 0 or the length, -EFAULT, -ENAMETOOLONG, -ESRCH when the caller is
 * gone, which may be another's memory by now: peek() finds that out, and walk() where more than
 * looking is to be done; who reads strings for something else asks still_there(). */
int peek(struct tcall *c, uint64_t addr, void *buf, size_t n);
int peek_string(struct tcall *c, uint64_t addr, char *buf, size_t size);
int poke(struct tcall *c, uint64_t addr, const void *buf, size_t n);
/* The same of a caller that is stopped, its call being answered. */
bool peek_raw(struct tcall *c, uint64_t addr, void *buf, size_t n);
bool poke_raw(struct tcall *c, uint64_t addr, const void *buf, size_t n);
/* Between these, what this thread does is done as the caller. */
int as_caller(struct tcall *c);
void as_self(void);

/* ---- trap_item.c ---- */
int items_init(struct trap *t, struct pl_err *err);
/* Enters an item for the inode that `fd` has open; inotify's `mask` tells its end. */
int item_add(struct trap *t, struct item *it, int fd, uint32_t mask);
struct item *item_new(enum item_kind kind, struct trap_view *view, struct place *place);
void items_done(struct trap *t);
/* A new item and the descriptor that stands for it (to be closed; the item lives until the last
 * copy is closed). `file`, the directory opened for listing (NULL: O_PATH), is taken over. */
int item_state(struct trap *t, struct trap_view *view, struct place *place, struct place *root,
               int *ret_fd);
int item_node(struct trap *t, struct place *place, struct pl_file *file, int flags, int *ret_fd);
/* The same for `fd`, what such a file reads as. */
int item_copy(struct trap *t, struct place *place, int fd);
/* The item that the caller's descriptor stands for, with a reference; NULL: it is the kernel's. The
 * copy of the descriptor in *ret_fd, if that is not NULL, is to be closed. */
struct item *item_of(struct tcall *c, int fd, int *ret_fd);
/* By a descriptor of our own; by what it has open. */
struct item *item_find(struct trap *t, int fd);
struct item *item_by_id(struct trap *t, const struct item_id *id);
void item_put(struct trap *t, struct item *it);
/* The same, also of a directory that was lent (trap_preload.c). */
struct item *item_at(struct tcall *c, int fd);
/* Takes it out of the tables, whose reference is the caller's then. With t->lock. */
void item_leaves(struct trap *t, struct item *it);
/* Takes note of what was closed; and writes bodies back. */
void items_closed(struct trap *t);
struct place *place_new(struct trap *t, struct trap_view *view, const struct top *top,
                        struct pl_node *node, const char *path);
struct place *place_ref(struct place *p);
void place_unref(struct trap *t, struct place *p);
/* False: it is not there any more. */
bool place_path(struct trap *t, struct place *p, char path[PATH_MAX]);
/* Something was renamed. */
void places_moved(struct trap *t, const char *from, const char *to, bool exchanged);
/* The directory `path` was removed. */
void places_gone(struct trap *t, const char *path);
/* `fd` is of what the target is. */
void known_add(struct tcall *c, int fd, const struct target *target);
/* `fd` is of what the table has at the path, whose node has not been asked for. */
void known_path(struct tcall *c, int fd, const char *path);
/* What is known in this view is forgotten, so that it does not keep the view. */
void known_forget(struct trap *t, const struct trap_view *view);
/* The target, a node, is going to be changed: what is known by its path has that node. */
void known_node(struct trap *t, const struct target *target);
/* The same of a file that the preload has opened, which `fd`, a copy of the caller's descriptor, is
 * of: found by where it is on the host. */
bool known_back(struct tcall *c, int fd, const struct stat *st, char path[PATH_MAX],
                struct place **place);
/* Its path, and (unless that is NULL) its place, which has a node, with a reference. */
bool known_find(struct trap *t, const struct stat *st, char path[PATH_MAX], struct place **place);

/* ---- trap_preload.c ---- */
/* An item for one call, if our `fd` is a directory that the preload has lent. NULL: it is none; or
 * one that is not in the view any more, and *broken is -ENOENT. */
struct item *lent_item(struct tcall *c, int fd, int *broken);
/* Makes it an item that can be listed, in place of the caller's descriptor number `at`; which is
 * put at *it, its descriptor at *fd. */
int lent_take(struct tcall *c, int at, struct item **it, int *fd);
/* Nobody gets this view any more. */
void lent_former(struct trap *t, struct trap_view *view);
void lent_done(struct trap *t);

/* ---- trap_walk.c ---- */
/* Where the path at `addr` leads, from the working directory (AT_FDCWD) or `dirfd`. 0, or what the
 * call fails with. The target is to be freed by target_done(), also then. */
int walk(struct tcall *c, int dirfd, uint64_t addr, unsigned flags, struct target *ret);
int walk_text(struct tcall *c, int dirfd, const char *path, unsigned flags, struct target *ret);
/* Where an absolute path of the view leads, whatever the caller's root is. */
int walk_view(struct tcall *c, const char *path, struct target *ret);
/* What was plain, and the table does not know, in its tree. */
int walk_on(struct tcall *c, unsigned flags, struct target *t);
void target_done(struct target *t);
/* The host path of it: 0, or a negative errno; -ENOENT where there is nothing. */
int target_host(struct tcall *c, const struct target *t, char path[PATH_MAX]);
int node_host(struct tcall *c, const struct top *top, struct pl_node *node, char path[PATH_MAX]);
/* A place for a directory that was found. */
struct place *target_place(struct tcall *c, const struct target *t);
const struct top *view_top_at(const struct trap_view *view, const char *path, bool exact);

/* ---- trap_proc.c ---- */
/* What /proc/PID/... says of a process of ours: the target into buf, its length; -EAGAIN: the
 * kernel's answer is right. `opens`: not to be read, but for what it leads to. */
int proc_link(struct tcall *c, const char *path, bool opens, char buf[PATH_MAX]);
/* Is it such a link? */
bool proc_is_link(const char *path);

/* ---- trap_look.c ---- */
/* What the call is answered with, by the path of a target that is plain; or LOOK_WALK. */
int look_stat(struct tcall *c, const char *path, unsigned flags, struct stat *st);
int look_statx(struct tcall *c, const char *path, unsigned flags, unsigned mask, struct statx *sx);
int look_access(struct tcall *c, const char *path, int mode);
int look_readlink(struct tcall *c, const char *path, char *buf, size_t size);
/* A descriptor of it that is open to be read, with O_CLOEXEC. */
int look_open(struct tcall *c, const char *path, int flags);

/* ---- trap_wait.c ---- */
/* Between these a system call that waits is interrupted (EINTR) when the caller was killed, or has
 * a signal to handle. */
void wait_begin(struct tcall *c, struct waiting *w);
void wait_end(struct waiting *w);
/* Looks after those that wait: true if there are any. */
bool wait_look(struct trap *t);
void wait_init(void);

/* ---- answers (trap.c) ---- */
/* Gives the caller a copy of fd, whose number is the result of the call. */
int64_t give_fd(struct tcall *c, int fd, bool cloexec);
/* At a number of the kernel's choice, the call being still to be answered; the number. */
int add_fd(struct tcall *c, int fd, bool cloexec);
bool still_there(struct tcall *c);
int trap_answer(struct tcall *c, int64_t result);
/* The caller's state from now on. */
int set_state(struct tcall *c, struct trap_view *view, struct place *place, struct place *root);

/* ---- the calls; each returns its result, a negative errno, TRAP_NATIVE or TRAP_DONE ---- */
typedef int64_t trap_fn(struct tcall *c);
trap_fn *trap_handler(int nr);
/* The numbers of all calls that are trapped, -1 after the last. */
const int *trap_numbers(void);

/* clang-format off */
#define CALL_FNS(X)                                                                                \
    X(open) X(creat) X(openat) X(openat2) X(stat) X(lstat) X(fstat) X(newfstatat) X(statx)         \
    X(access) X(faccessat) X(faccessat2) X(readlink) X(readlinkat) X(mkdir) X(mkdirat) X(rmdir)    \
    X(unlink) X(unlinkat) X(rename) X(renameat) X(renameat2) X(link) X(linkat) X(symlink)          \
    X(symlinkat) X(mknod) X(mknodat) X(chmod) X(fchmod) X(fchmodat) X(fchmodat2) X(chown)          \
    X(lchown) X(fchown) X(fchownat) X(utime) X(utimes) X(futimesat) X(utimensat) X(truncate)       \
    X(statfs) X(fstatfs) X(getxattr) X(lgetxattr) X(fgetxattr) X(setxattr) X(lsetxattr)            \
    X(fsetxattr) X(listxattr) X(llistxattr) X(flistxattr) X(removexattr) X(lremovexattr)           \
    X(fremovexattr) X(chdir) X(fchdir) X(getcwd) X(chroot) X(mount) X(inotify_add_watch)           \
    X(fanotify_mark) X(name_to_handle_at) X(bind) X(connect) X(sendto) X(execve) X(execveat)       \
    X(getdents64) X(umask) X(setuid) X(setgid) X(setreuid) X(setregid) X(setresuid) X(setresgid)   \
    X(setgroups) X(setfsuid) X(setfsgid) X(clone) X(clone3) X(fork) X(vfork) X(setrlimit)          \
    X(prlimit64)
/* clang-format on */
#define X(name) int64_t call_##name(struct tcall *c);
CALL_FNS(X)
#undef X

/* The arguments of the call `c`, and the handler of one that is a single expression. */
#define ARG(i)  ((int)c->d->args[i])
#define ADDR(i) (c->d->args[i])
#define CALL(name, expr)                                                                           \
    int64_t call_##name(struct tcall *c)                                                           \
    {                                                                                              \
        return expr;                                                                               \
    }

/* ---- shared by the calls ---- */
/* The descriptor itself is meant, as fstat(2) of most C libraries asks for it: 1, or 0 for a path.
 */
int path_is_empty(struct tcall *c, uint64_t path, int flags);
int open_body(struct tcall *c, const struct target *t, struct pl_file *file, int flags,
              int *ret_fd);
/* What a file that is being written has come to. */
void body_stat(struct trap *t, struct pl_node *node, struct stat *st);
/* Writes to the tree what changed. */
void body_sync(struct item *it);
/* One descriptor of it was closed: what changed is written to the tree. True: it was the last, and
 * the item is out of the tables. */
bool body_closed(struct trap *t, struct item *it);
/* Room for a name that only the kernel can make (a socket, a link to a nameless file): nothing is
 * there, and `path` is where on the host it belongs. */
int host_room(struct tcall *c, const struct target *t, char path[PATH_MAX]);
/* What a descriptor has open, if it is a directory of a tree or, for one who `writes` attributes, a
 * file of one that was opened to be read: 0, and `ret` is it. TRAP_NATIVE: the kernel's to do. */
int target_of_fd(struct tcall *c, int fd, bool writes, struct target *ret);

/* ---- trap_filter.c ---- */
/* The filter as the kernel takes it: its instructions, to be freed. It is made before the fork, for
 * it takes memory, which the child of a process with threads should not ask for. The number of
 * them, or a negative errno. */
struct sock_filter;
int trap_filter_new(int state_fd, uintptr_t pass_from, uintptr_t pass_to, struct sock_filter **ret);
/* Installs it in this process, which the program is to become: the listener or a negative errno. */
int trap_filter_install(struct sock_filter *filter, int n);

#endif
