/* SPDX-License-Identifier: MIT */
/*
 * Running programs. Where the kernel would find another file than the view has, the caller gets a
 * descriptor of the right one, close-on-exec, and its call becomes execveat(fd, "", argv, envp,
 * AT_EMPTY_PATH): it is stopped by ptrace for the moment between the answer and its own code, and
 * its registers are set. The "" is the end of the path that it gave, so that nothing is written to
 * its memory, which a process after vfork(2) shares with its parent. Only a script needs room, for
 * the new list of arguments: it is written below the stack.
 */
#include "doors/trap_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define HOPS        5      /* interpreters of interpreters, as the kernel has it */
#define MAX_ARGS    262144 /* of a script */
#define LINE        256    /* of "#!" that count */
#define BELOW_STACK 512    /* bytes, that any stack has: Go's have not many more */

struct run {
    struct tcall *c;
    uint64_t path, argv, envp; /* the caller's */
    size_t path_len;
    char given[PATH_MAX];
    char *words[2 * HOPS + 1]; /* what comes before the caller's arguments, if it is a script */
    size_t nwords;
    int fd; /* what is to run */
};

/* Of a "#!" line: the interpreter, and what follows it, in `line`. False: it is none. */
static bool parse(char *line, ssize_t n, char **interp, char **arg)
{
    if (n < 3 || line[0] != '#' || line[1] != '!')
        return false;
    line[n < LINE ? n : LINE - 1] = 0;
    line[strcspn(line, "\n")] = 0;
    char *p = line + 2 + strspn(line + 2, " \t");
    *interp = p;
    p += strcspn(p, " \t");
    *arg = NULL;
    if (*p) {
        *p++ = 0;
        p += strspn(p, " \t");
        size_t len = strlen(p);
        while (len && (p[len - 1] == ' ' || p[len - 1] == '\t'))
            p[--len] = 0;
        *arg = len ? p : NULL;
    }
    return **interp != 0;
}

/* A file of a tree without descriptors, as something that can run. */
static int run_body(struct tcall *c, const struct target *t)
{
    struct pl_file *file;
    int fd, r = pl_access(t->top->tree, &c->call, t->node, X_OK);
    if (r == 0)
        r = pl_open(t->top->tree, &c->call, t->node, O_RDONLY, &file);
    if (r == 0)
        r = open_body(c, t, file, O_RDONLY, &fd);
    return r < 0 ? r : fd;
}

/* A descriptor of the file, and what it begins with: the length, 0 if it cannot be read. */
static int open_program(struct tcall *c, const struct target *t, char line[LINE], ssize_t *n)
{
    char path[PATH_MAX];
    struct stat st;
    *n = 0;
    if (t->top && !t->node)
        return -ENOENT;
    if (t->top && !S_ISREG(t->node->fmt))
        return S_ISLNK(t->node->fmt) ? -ELOOP : -EACCES;
    int r = target_host(c, t, path);
    if (r < 0) {
        int fd = run_body(c, t);
        *n = fd < 0 ? 0 : pread(fd, line, LINE - 1, 0);
        return fd;
    }
    as_caller(c);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    r = fd < 0 ? -errno : fd;
    as_self();
    if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
        close(fd);
        return -EACCES;
    }
    if (fd >= 0)
        *n = pread(fd, line, LINE - 1, 0);
    if (r >= 0 && t->top)
        known_add(c, fd, t);
    return r;
}

static int add_words(struct run *x, const char *interp, const char *arg)
{
    if (x->nwords + 2 >= sizeof(x->words) / sizeof(*x->words))
        return -ELOOP;
    size_t n = arg ? 2 : 1;
    memmove(x->words + n, x->words, x->nwords * sizeof(*x->words));
    x->nwords += n;
    x->words[0] = strdup(interp);
    if (arg)
        x->words[1] = strdup(arg);
    return x->words[0] && (!arg || x->words[1]) ? 0 : -ENOMEM;
}

/* What is to run in the end. `t` is what the caller named: 0, TRAP_NATIVE if the kernel finds all
 * of it by itself, or an error. */
static int find(struct run *x, struct target *t)
{
    char line[LINE], *interp, *arg, path[PATH_MAX];
    bool native = t->native || (t->top && strcmp(t->path, x->given) == 0 && t->links == 0 &&
                                target_host(x->c, t, path) == 0 && strcmp(path, t->path) == 0);
    struct target next = {.top = NULL};
    int r = 0;
    for (int hop = 0; r == 0 && hop <= HOPS; hop++) {
        ssize_t n;
        if (x->fd >= 0)
            close(x->fd);
        x->fd = open_program(x->c, hop ? &next : t, line, &n);
        target_done(&next);
        if (x->fd < 0)
            return native ? TRAP_NATIVE : x->fd;
        if (!parse(line, n, &interp, &arg))
            return native ? TRAP_NATIVE : 0;
        if (hop == 0 && (r = add_words(x, x->given, NULL)) < 0)
            return r;
        r = add_words(x, interp, arg);
        if (r == 0)
            r = walk_text(x->c, AT_FDCWD, interp, WALK_FOLLOW, &next);
        native = native && next.native;
    }
    target_done(&next);
    return r < 0 ? r : -ELOOP;
}

/* ---- the call is made another ---- */

#ifdef __x86_64__

/* The caller's arguments without the first, behind room for our words: how many there are in all, 0
 * if they cannot be read. */
static size_t read_args(struct run *x, uint64_t **ret)
{
    size_t n = x->nwords;
    uint64_t *list = *ret = calloc(n + MAX_ARGS + 512, sizeof(*list)), first = 0;
    if (!list || (x->argv && !peek_raw(x->c, x->argv, &first, 8)))
        return 0;
    for (uint64_t at = x->argv + 8; first && n < MAX_ARGS;) {
        /* what lies behind the page may not be mapped */
        size_t can = at % 8 ? 1 : (4096 - at % 4096) / 8;
        if (!peek_raw(x->c, at, &list[n], can * 8))
            return 0;
        for (size_t i = 0; i < can; i++, n++)
            if (!list[n])
                return n;
        at += can * 8;
    }
    return n < MAX_ARGS ? n : 0;
}

/* Lets the caller, which is stopped, map memory: the address; 0 if that cannot be, and then a
 * signal that came meanwhile may be in *sig, to be given back. */
static uint64_t map_memory(pid_t tid, const struct user_regs_struct *regs, size_t size, int *sig)
{
    struct user_regs_struct r = *regs;
    int status;
    r.rax = SYS_mmap;
    r.orig_rax = (uint64_t)-1;
    r.rip -= 2;
    r.rdi = r.r9 = 0;
    r.rsi = size;
    r.rdx = PROT_READ | PROT_WRITE;
    r.r10 = MAP_PRIVATE | MAP_ANONYMOUS;
    r.r8 = (uint64_t)-1;
    if (ptrace(PTRACE_SETREGS, tid, NULL, &r) < 0 ||
        ptrace(PTRACE_SINGLESTEP, tid, NULL, NULL) < 0 || waitpid(tid, &status, __WALL) != tid ||
        !WIFSTOPPED(status))
        return 0;
    *sig = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
    if (*sig || ptrace(PTRACE_GETREGS, tid, NULL, &r) < 0 || (int64_t)r.rax < 0)
        return 0;
    return r.rax;
}

/* The list of arguments of a script: its address, 0 if there is no room. A short one is written
 * below the stack (where a process after vfork(2) disturbs nobody), a long one to memory of its
 * own. */
static uint64_t write_args(struct run *x, pid_t tid, const struct user_regs_struct *regs, int *sig)
{
    uint64_t *list;
    size_t n = read_args(x, &list), size = (n + 1) * 8;
    for (size_t i = 0; i < x->nwords; i++)
        size += strlen(x->words[i]) + 1;
    uint64_t at = (regs->rsp - 128 - size) & ~(uint64_t)15;
    if (n && size > BELOW_STACK)
        at = map_memory(tid, regs, size, sig);
    uint64_t strings = at + (n + 1) * 8;
    bool ok = n && at;
    for (size_t i = 0; ok && i < x->nwords; i++) {
        size_t len = strlen(x->words[i]) + 1;
        list[i] = strings;
        ok = poke_raw(x->c, strings, x->words[i], len);
        strings += len;
    }
    ok = ok && poke_raw(x->c, at, list, (n + 1) * 8);
    free(list);
    return ok ? at : 0;
}

/* The caller is stopped behind its call: it will make this one. A signal that it is to get. */
static int set_call(struct run *x, pid_t tid, int fd)
{
    struct user_regs_struct regs;
    int sig = 0;
    if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0)
        return 0;
    uint64_t argv = x->argv;
    if (x->nwords && !(argv = write_args(x, tid, &regs, &sig))) {
        regs.rax = (uint64_t)-E2BIG;
    } else {
        regs.rax = SYS_execveat;
        regs.rip -= 2; /* the syscall instruction */
        regs.rdi = (uint64_t)fd;
        regs.rsi = x->path + x->path_len;
        regs.rdx = argv;
        regs.r10 = x->envp;
        regs.r8 = AT_EMPTY_PATH;
    }
    regs.orig_rax = (uint64_t)-1; /* it is not in a call that could be begun again */
    ptrace(PTRACE_SETREGS, tid, NULL, &regs);
    return sig;
}

static int64_t make_call(struct run *x)
{
    struct tcall *c = x->c;
    pid_t tid = (pid_t)c->n->pid;
    int status, fd = add_fd(c, x->fd, true);
    if (fd < 0)
        return fd;
    if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) < 0)
        return errno == ESRCH ? -ESRCH : -EPERM; /* it is traced by somebody else */
    ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
    trap_answer(c, -EACCES); /* what it gets if anything goes wrong from here on */
    if (waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status)) {
        long sig = set_call(x, tid, fd);
        ptrace(PTRACE_DETACH, tid, NULL, sig);
    }
    return TRAP_DONE;
}

#else
#error "this processor's registers are not known here"
#endif

static int64_t run(struct run *x, int dirfd, unsigned how)
{
    struct target t;
    int64_t r = peek_string(x->c, x->path, x->given, sizeof(x->given));
    if (r < 0)
        return r;
    x->path_len = (size_t)r;
    if (r == 0 && how & WALK_EMPTY) {
        struct item *it = item_of(x->c, dirfd, NULL);
        bool ours = it && it->named_only; /* else it reads as the program */
        item_put(x->c->t, it);
        if (!ours)
            return TRAP_NATIVE;
    }
    r = walk_text(x->c, dirfd, x->given, how, &t);
    if (r == 0)
        r = find(x, &t);
    target_done(&t);
    if (r == 0)
        r = make_call(x);
    return r;
}

static int64_t exec_at(struct tcall *c, int dirfd, int at, unsigned how)
{
    struct run *x = calloc(1, sizeof(*x));
    if (!x)
        return -ENOMEM;
    x->c = c;
    x->fd = -1;
    x->path = ADDR(at);
    x->argv = ADDR(at + 1);
    x->envp = ADDR(at + 2);
    int64_t r = run(x, dirfd, how);
    if (x->fd >= 0)
        close(x->fd);
    for (size_t i = 0; i < x->nwords; i++)
        free(x->words[i]);
    free(x);
    return r;
}

int64_t call_execve(struct tcall *c)
{
    return exec_at(c, AT_FDCWD, 0, WALK_FOLLOW);
}

int64_t call_execveat(struct tcall *c)
{
    int flags = (int)ADDR(4);
    return exec_at(c, (int)ADDR(0), 1,
                   (flags & AT_SYMLINK_NOFOLLOW ? 0u : (unsigned)WALK_FOLLOW) |
                       (flags & AT_EMPTY_PATH ? (unsigned)WALK_EMPTY : 0u));
}
