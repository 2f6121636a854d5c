/* SPDX-License-Identifier: MIT */
/*
 * The conformance suite: what a tree must do, whoever holds it and through whichever door.
 *
 * A case is a function: CASE(rename, file_over_dir) { ... }. It runs in a process of its own, on a
 * fresh and empty tree, and fails at the first check that does not hold. Nodes, files and callers
 * that come from the helpers below belong to the case and are dropped at its end, so that a case
 * says only what it is about. Anything left over then is a leak of the tree's.
 *
 * The expected results are those of Linux's own file systems: `conform host:DIR` proves the suite,
 * every other stack is proved by it.
 */
#ifndef CONFORM_H
#define CONFORM_H

#include <errno.h>
#include <fcntl.h>
#include <plenum/plenum.h>
#include <stdio.h>
#include <string.h>

/* ---- what a stack may lack (see expect.c) ---------------------------------------------------- */

#define FEATURES(X)                                                                                \
    X(root, "acts for several users; the suite must run as root")                                  \
    X(groups, "the caller's groups")                                                               \
    X(device, "device nodes")                                                                      \
    X(link, "hard links")                                                                          \
    X(special, "fifos and sockets")                                                                \
    X(symlink, "symlinks")                                                                         \
    X(symlink_long, "symlinks of 4095 bytes")                                                      \
    X(xattr, "extended attributes")                                                                \
    X(xattr_big, "extended attributes of 64 KiB")                                                  \
    X(trusted, "trusted.* attributes")                                                             \
    X(acl, "POSIX ACLs")                                                                           \
    X(locks, "POSIX locks")                                                                        \
    X(flock, "whole-file locks")                                                                   \
    X(key, "keys")                                                                                 \
    X(key_moved, "keys of files that were moved to another directory")                             \
    X(noreplace, "RENAME_NOREPLACE")                                                               \
    X(exchange, "RENAME_EXCHANGE")                                                                 \
    X(whiteout, "RENAME_WHITEOUT")                                                                 \
    X(tmpfile, "O_TMPFILE")                                                                        \
    X(direct, "O_DIRECT")                                                                          \
    X(fallocate, "fallocate")                                                                      \
    X(punch, "FALLOC_FL_PUNCH_HOLE")                                                               \
    X(zero, "FALLOC_FL_ZERO_RANGE")                                                                \
    X(shift, "FALLOC_FL_COLLAPSE_RANGE and INSERT_RANGE")                                          \
    X(holes, "SEEK_DATA and SEEK_HOLE that know the holes")                                        \
    X(copy, "copy_file_range")                                                                     \
    X(btime, "birth times")                                                                        \
    X(version, "versions in the attributes")                                                       \
    X(parent_nlink, "directories that count their subdirectories")                                 \
    X(clients, "several clients on one tree")

enum feature {
#define X(name, what) F_##name,
    FEATURES(X)
#undef X
        F_COUNT
};

/* ---- cases ----------------------------------------------------------------------------------- */

struct kase {
    const char *group, *name, *file;
    int line;
    void (*run)(void);
    struct kase *next;
};
void case_add(struct kase *k);

#define CASE(g, n)                                                                                 \
    static void g##_##n(void);                                                                     \
    static struct kase kase_##g##_##n = {#g, #n, __FILE__, __LINE__, g##_##n, NULL};               \
    __attribute__((constructor)) static void add_##g##_##n(void)                                   \
    {                                                                                              \
        case_add(&kase_##g##_##n);                                                                 \
    }                                                                                              \
    static void g##_##n(void)

/* The tree under test, its root (an empty directory, 0755, of the suite's user), and the caller
 * in whose name this thread acts: at first the suite itself, with umask 0. */
extern _Thread_local struct pl_tree *tree;
extern _Thread_local struct pl_node *top;
extern _Thread_local struct pl_call *me;

/* ---- checks: a failure ends the case --------------------------------------------------------- */

_Noreturn void fail_at(const char *file, int line, const char *fmt, ...) PL_PRINTF(3, 4);
_Noreturn void skip_at(enum feature f, const char *fmt, ...) PL_PRINTF(2, 3);
void note(const char *fmt, ...) PL_PRINTF(1, 2); /* shown with -v */

int64_t check_ok(const char *file, int line, const char *what, int64_t got);
int64_t check_is(const char *file, int line, const char *what, int64_t got, int64_t want);
int64_t check_of(const char *file, int line, const char *what, int64_t got, const int64_t *want);
int64_t check_need(const char *file, int line, const char *what, enum feature f, int64_t got);

#define FAIL(...)    fail_at(__FILE__, __LINE__, __VA_ARGS__)
#define SKIP(f, ...) skip_at(F_##f, __VA_ARGS__)
#define OK(e)        check_ok(__FILE__, __LINE__, #e, (e))
#define IS(e, want)  check_is(__FILE__, __LINE__, #e, (int64_t)(e), (int64_t)(want))
#define TRUE(e)      ((e) ? (void)0 : FAIL("not so: %s", #e))
/* One of several results; the list ends with the macro's own 1. */
#define ONE_OF(e, ...)                                                                             \
    check_of(__FILE__, __LINE__, #e, (int64_t)(e), (const int64_t[]){__VA_ARGS__, 1})
/* -EOPNOTSUPP skips the case for want of the feature; another error fails it. */
#define NEED(f, e) check_need(__FILE__, __LINE__, #e, F_##f, (e))

void need_root(void); /* the case acts for other users */
void need_flag(uint32_t tree_flag, enum feature f);

/* ---- callers --------------------------------------------------------------------------------- */

/* A caller of uid, gid and the groups that follow, up to -1; lives to the end of the case. */
struct pl_call *user_of(uid_t uid, gid_t gid, ...);
#define USER(uid, ...) user_of(uid, __VA_ARGS__, -1)
/* AS(caller) { ... }: the block acts in that name (do not leave it by break or goto). */
#define AS(who) for (struct pl_call *was_ = me, *go_ = (me = (who)); go_; go_ = NULL, me = was_)

/* A thread that acts as the suite, on the tree of the thread that starts it; the case joins it. */
typedef void thread_fn(void *arg);
struct thread;
struct thread *thread_begin(thread_fn *fn, void *arg);
void thread_join(struct thread *th);
/* Waits until the clock by which file systems stamp has moved on. */
void tick(void);
unsigned rnd(unsigned *state, unsigned n); /* 0..n-1, reproducible */

/* ---- ops in the name of `me`: the raw result ------------------------------------------------- */

int t_make(struct pl_node *dir, const char *name, uint32_t mode);
int t_mknod(struct pl_node *dir, const char *name, uint32_t mode, unsigned major, unsigned minor);
int t_symlink(struct pl_node *dir, const char *name, const char *target);
int t_create(struct pl_node *dir, const char *name, int flags, mode_t mode); /* and closes */
int t_lookup(struct pl_node *dir, const char *name);
int t_open(struct pl_node *node, int flags); /* and closes */
int t_link(struct pl_node *node, struct pl_node *dir, const char *name);
int t_remove(struct pl_node *dir, const char *name, int flags);
int t_rename(struct pl_node *od, const char *on, struct pl_node *nd, const char *nn, unsigned fl);
int t_chmod(struct pl_node *node, uint32_t mode);
int t_chown(struct pl_node *node, int64_t uid, int64_t gid); /* -1: leave */
int t_truncate(struct pl_node *node, uint64_t size);
int t_utimens(struct pl_node *node, int64_t atime, int64_t mtime); /* whole seconds */
int t_access(struct pl_node *node, int mask);

/* ---- ops that must work; what they return belongs to the case -------------------------------- */

struct pl_node *mk_file(struct pl_node *dir, const char *name); /* 0644 */
struct pl_node *mk_text(struct pl_node *dir, const char *name, const char *text);
struct pl_node *mk_dir(struct pl_node *dir, const char *name); /* 0755 */
struct pl_node *mk_mode(struct pl_node *dir, const char *name, uint32_t mode);
struct pl_node *mk_symlink(struct pl_node *dir, const char *name, const char *target);
struct pl_file *mk_open(struct pl_node *dir, const char *name, int flags, mode_t mode);
struct pl_node *look(struct pl_node *dir, const char *name);
struct pl_node *keep(struct pl_node *node);      /* drops the reference at the end */
struct pl_file *keep_file(struct pl_file *file); /* closes it at the end */
void drop(struct pl_node *node);                 /* now instead */
struct pl_attr attr(struct pl_node *node);
struct pl_attr fattr(struct pl_file *file);
struct pl_file *open_(struct pl_node *node, int flags);
void close_(struct pl_file *file); /* flush, and close now instead of at the end */
void write_(struct pl_file *file, const void *buf, size_t n, uint64_t off);
void say(struct pl_file *file, uint64_t off, const char *text);
/* The file holds exactly `text`; n bytes at off are these; ... are zero; the name's content. */
void reads(struct pl_file *file, const char *text);
void holds(struct pl_file *file, uint64_t off, const void *want, size_t n);
void zeroes(struct pl_file *file, uint64_t off, uint64_t n);
void content(struct pl_node *dir, const char *name, const char *text);
void absent(struct pl_node *dir, const char *name);
void rm(struct pl_node *dir, const char *name);
void rmdir_(struct pl_node *dir, const char *name);
bool same(struct pl_node *a, struct pl_node *b); /* one object: by ino, and by address */

/* A directory's names, "." and ".." left out, in the order they came; free with entries_free. */
struct entries {
    size_t n;
    struct {
        char *name;
        uint64_t ino, next;
        uint32_t type;
    } * ent;
};
/* Reads on from `off`, `batch` entries a call (0: all in one), at most `max` (0: all). */
struct entries entries_read(struct pl_file *dir, uint64_t off, size_t batch, size_t max);
struct entries entries_of(struct pl_node *dir);
void entries_free(struct entries *l);
size_t entries_count(const struct entries *l, const char *name);

/* Another client's view of the same files: its tree and root. SKIPs where there is none.
 * IN(view) { ... }: the block's `tree` and `top` are that client's. view_close() takes the client
 * away at once, with whatever it still holds. */
struct view {
    struct pl_tree *tree;
    struct pl_node *top;
};
struct view *view_open(void);
void view_close(struct view *v);
struct view *view_swap(struct view *v);
#define IN(v) for (struct view *old_ = view_swap(v), *in_ = (v); in_; in_ = NULL, view_swap(old_))

/* ---- how stacks are built: stack.c ----------------------------------------------------------- */

/* Builds what `spec` says, in and below the empty directory `scratch`. */
int stack_open(const char *spec, const char *scratch, struct pl_tree **ret, struct pl_err *err);
/* Another client of the same stack; -EOPNOTSUPP where that means nothing. */
int stack_again(struct pl_tree **ret, struct pl_err *err);
/* Takes it down again after all trees were dropped: 0, or what is wrong. */
int stack_close(struct pl_err *err);
/* The shape, without directories: "fuse(host)"; -EINVAL for no stack. */
int stack_shape(const char *spec, char *buf, size_t size, struct pl_err *err);
/* Where the stack that was built is a directory: a mount point, or the host's own; else NULL. */
const char *stack_path(void);
/* The directory in which scratch directories are to be made. */
const char *stack_dir(const char *spec, char *buf, size_t size);

/* ---- expect.c -------------------------------------------------------------------------------- */

extern const char *const feature_name[F_COUNT], *const feature_what[F_COUNT];
/* May a case skip for want of the feature on a stack of this shape, its files in `dir`? */
bool may_lack(const char *shape, const char *dir, bool root, enum feature f);
/* Why a case ("xattrs.acl_is_obeyed") cannot pass when the kernel lacks these features (FUSE_* of
 * INIT), or NULL. */
const char *why_not(uint64_t lacking, const char *name);
/* The same on a stack of this shape. */
const char *why_not_here(const char *shape, const char *name);

#endif
