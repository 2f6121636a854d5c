/* SPDX-License-Identifier: MIT */
/*
 * The trap door: a program and all that it starts see trees at some paths, without a mount and
 * without a privilege.
 *
 * A seccomp filter stops the calls that take paths (and those few on descriptors that must know of
 * directories in a tree). This process, the supervisor, looks what they name up: what does not
 * touch a tree goes on natively; what does is done here, with the caller's rights, and real
 * descriptors of the very files are handed back. So read, write, mmap, locks and the like never
 * come here. docs/spaces.md, "Trap", says what works, what is refused, and which races remain: a
 * view is a convenience, not a jail.
 *
 *     struct trap_top top = {.path = "/src", .tree = tree};
 *     trap_view_new(&top, 1, NULL, NULL, &view, &err);
 *     trap_start(view, NULL, argv, &trap, &err);
 *     trap_wait(trap, &status);
 *     trap_end(trap);
 *
 * Which view a process has, and its working directory in it, travels by inheritance: through an
 * open file at a fixed number (TRAP_FD or a little less) that the filter keeps the program from
 * closing, replacing, reading or handing on.
 */
#ifndef DOORS_TRAP_H
#define DOORS_TRAP_H

#include <plenum/tree.h>

#define TRAP_FD 1023 /* or one less than the soft limit of descriptors, if that is lower */

/* A tree, and the path at which it is seen. No two of a view lie in each other. At "/" it is seen
 * everywhere but in /proc, /dev and /sys, which stay the kernel's. */
struct trap_top {
    const char *path; /* absolute; of its parent, symbolic links are resolved once, here. It need
                         not exist */
    struct pl_tree *tree; /* its root is seen there; the view takes a reference */
    const char *at;       /* not the root, but this, a path in it, perhaps a file; NULL: the root */
};

/* Where the bytes of `node`, found in `tree`, are on the host: an absolute path, at most `size`
 * bytes with the NUL, by which all that the door wants of it natively is asked of the kernel:
 * attributes, special files, sockets, programs. 0, or a negative errno: nowhere. Any thread. */
typedef int trap_where_fn(void *arg, struct pl_tree *tree, struct pl_call *call,
                          struct pl_node *node, char *path, size_t size);

struct trap_view;
/* A view of these; counted, and never changed. `where` may be NULL: no file is on the host. 0, or
 * with the sentence: -EINVAL (a path that is not absolute, or within another), -ENOMEM, or why a
 * tree has no root. May block as trees may. */
int trap_view_new(const struct trap_top *tops, size_t n, trap_where_fn *where, void *where_arg,
                  struct trap_view **ret, struct pl_err *err);
struct trap_view *trap_view_ref(struct trap_view *view);
void trap_view_unref(struct trap_view *view); /* NULL is fine */

/* Lets the preload (doors/preload/) answer by itself what it can find in `pack`, the same view as
 * view_pack() has made it, `size` bytes, copied; its outermost tops must be those of `view`. Before
 * trap_start(). 0; -EINVAL: there is something in it that is for the trap alone, and nothing is
 * changed; -E2BIG, -ENOMEM. */
int trap_view_preload(struct trap_view *view, const void *pack, size_t size);

struct trap;
struct trap_opts {
    unsigned threads; /* at most so many calls are served at once; 0: 64. */
    const char *cwd;  /* where the program begins; NULL: where this process is */
    int fd_max;       /* the number of the state; 0: TRAP_FD. Tests */
    /* mount(2) was called with these strings (each "" when it was NULL or cannot be read): -ENOSYS
     * lets the kernel see to it, 0 or another negative errno is the call's result, and a
     * descriptor (above 0) is handed on, close-on-exec, and closed here. `pid` is the caller; the
     * function may call trap_set_view. NULL: the kernel's. Any thread. */
    int (*mount)(void *arg, struct trap *trap, pid_t pid, const char *source, const char *target,
                 const char *type, const char *data);
    void *mount_arg;
    /* Calls from code at these addresses that look at files or open them are let through: the
     * preload's own, in one page. 0, 0: none. */
    uintptr_t pass_from, pass_to;
    char *const *env; /* of the program; NULL: this process's */
};

/* Starts `argv` (argv[0] is looked for in PATH, in the view) with that view; the supervisor's
 * threads run when this returns. The caller becomes the reaper of what the program leaves behind
 * (PR_SET_CHILD_SUBREAPER), its soft limit of descriptors becomes the hard one, and SIGRTMAX, if
 * nobody has it, a signal that does nothing. `opts` may be NULL; what it points to is used until
 * trap_end(). 0, or with the sentence: -ENOSYS (the kernel has no such filters), -EPERM, -EBUSY
 * (this process is itself under a supervisor's filter), what exec said of the program (-ENOENT,
 * -EACCES), -EMFILE, -ENOMEM.
 * A signal from the terminal reaches the supervisor too: one that dies of it leaves the program
 * without calls. */
int trap_start(struct trap_view *view, const struct trap_opts *opts, char *const argv[],
               struct trap **ret, struct pl_err *err);

/* Waits for the program itself, not for what it left behind: its status as of waitpid(2). To be
 * called by the thread that called trap_start(), once; reaps whatever other children that thread
 * has meanwhile, orphans that came to it among them. 0 or a negative errno. */
int trap_wait(struct trap *trap, int *status);

/* Is the last process that has the filter gone? Then trap_end() does not wait. Any thread. */
bool trap_is_over(const struct trap *trap);

/* The pid of the program. */
pid_t trap_pid(const struct trap *trap);

/* `pid` and its descendants have `view` from now on: each from its next call that is trapped, and
 * what they start from the beginning. Working directories and open files stay what they are.
 * 0; -ESRCH: none of them is ours. Any thread. */
int trap_set_view(struct trap *trap, pid_t pid, struct trap_view *view);
/* The view of a process, with a reference. -ESRCH. */
int trap_get_view(struct trap *trap, pid_t pid, struct trap_view **ret);

/* How many calls came, were let on natively, and were done here. */
struct trap_counts {
    uint64_t calls, native, done;
};
void trap_count(struct trap *trap, struct trap_counts *ret);

/* Waits until the last process that has the filter is gone, then frees everything. From the moment
 * the supervisor is gone (killed, say) the calls of those left fail with ENOSYS. */
void trap_end(struct trap *trap);

#endif
