/* SPDX-License-Identifier: MIT */
/*
 * Programs under the trap door. A test program is its own program: "trap case NAME DIR" does what
 * the case says in DIR and prints results and errno. Each case runs natively in a plain directory,
 * in a view that is a union (all it finds is in the lower directory), and in a tree in memory: what
 * is printed must be the same.
 */
#ifndef UNIT_TRAP_FIXTURE_H
#define UNIT_TRAP_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "doors/trap.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <plenum/sources.h>
#include <plenum/space.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum seen { PLAIN, UNION, MEM, KINDS };
static const char *const seen_names[] = {"plain", "union", "mem"};

struct program {
    const char *name;
    void (*run)(const char *dir);
    bool not_mem; /* what a tree without descriptors cannot be asked */
};

static char base[64], self[PATH_MAX];
static struct pl_tree *host;

/* ---- in the program ---- */

/* Prints what a call has come to. */
#define R(expr)                                                                                    \
    do {                                                                                           \
        errno = 0;                                                                                 \
        long long r_ = (long long)(expr);                                                          \
        if (r_ < 0)                                                                                \
            printf("%s: %s\n", #expr, strerrorname_np(errno));                                     \
        else                                                                                       \
            printf("%s: %lld\n", #expr, r_);                                                       \
    } while (0)
/* The same where the number does not matter. */
#define OK(expr)                                                                                   \
    do {                                                                                           \
        errno = 0;                                                                                 \
        printf("%s: %s\n", #expr, (expr) < 0 ? strerrorname_np(errno) : "ok");                     \
    } while (0)

static inline int put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, text, strlen(text));
    return close(fd) < 0 || n != (ssize_t)strlen(text) ? -1 : 0;
}

static inline void show(const char *path)
{
    char buf[256];
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf));
    printf("%s: %.*s\n", path, n < 0 ? 5 : (int)n, n < 0 ? strerrorname_np(errno) : buf);
    if (fd >= 0)
        close(fd);
}

/* What every case finds. */
static inline void fill(const char *dir)
{
    if (chdir(dir) < 0 || put("f", "hello") < 0 || mkdir("d", 0755) < 0 || put("d/x", "x") < 0 ||
        put("d/y", "y") < 0 || symlink("f", "l") < 0 || symlink("loop", "loop") < 0 ||
        symlink("d", "ld") < 0 || symlink("nothing", "dangling") < 0 || mkdir("empty", 0755) < 0)
        perror("fill");
}

static inline int program(const struct program *all, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(argv[2], "fill") == 0) {
        fill(argv[3]);
        return 0;
    }
    for (; all->name; all++) {
        if (strcmp(all->name, argv[2]) != 0)
            continue;
        if (chdir(argv[3]) < 0)
            perror(argv[3]);
        else
            all->run(argv[3]);
        return 0;
    }
    return 2;
}

/* ---- in the test ---- */

static inline int where(void *arg, struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                        char *path, size_t size)
{
    struct pl_tree *t;
    int r = strcmp(tree->ops->name, "mem") == 0 ? -EXDEV
                                                : pl_space_where(tree, call, node, &t, path, size);
    return r < 0 ? r : t == host ? 0 : -EXDEV;
}

/* A path in the fixture's directory; good until the eighth call after. */
static inline char *in_base(const char *name)
{
    static char buf[8][PATH_MAX];
    static int i;
    i = (i + 1) % 8;
    snprintf(buf[i], sizeof(buf[i]), "%s/%s", base, name);
    return buf[i];
}

static inline struct trap_view *new_view(const char *at, struct pl_tree *tree)
{
    struct trap_view *v;
    struct pl_err err;
    struct trap_top top = {.path = at, .tree = tree};
    if (trap_view_new(&top, 1, where, NULL, &v, &err) < 0)
        fail_msg("%s", err.text);
    pl_tree_unref(tree);
    return v;
}

static inline struct trap_view *mem_view(void)
{
    struct pl_tree *tree;
    assert_int_equal(pl_mem_new(0, &tree, NULL), 0);
    return new_view(in_base("mem"), tree);
}

/* `low` (NULL: nothing) behind `up`, seen at `up`. */
static inline struct trap_view *union_view(const char *up, const char *low)
{
    struct pl_tree *tree;
    struct pl_err err;
    struct pl_binding b[] = {
        {.path = "/", .tree = host, .sub = up, .how = PL_BIND_CREATE},
        {.path = "/", .tree = host, .sub = low, .how = PL_BIND_AFTER},
    };
    if (pl_space_new(b, low ? 2 : 1, 0, &tree, &err) < 0)
        fail_msg("%s", err.text);
    return new_view(up, tree);
}

/* Standard output goes to the file; what it was before. */
static inline int redirect(const char *path)
{
    fflush(stdout);
    int old = dup(1), fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    dup2(fd, 1);
    close(fd);
    return old;
}

static inline struct trap *begin(struct trap_view *view, char *const argv[], const char *out)
{
    struct trap *t;
    struct pl_err err;
    int old = redirect(out);
    int r = trap_start(view, NULL, argv, &t, &err);
    dup2(old, 1);
    close(old);
    if (r == -ENOSYS || r == -EBUSY) { /* no such kernel, or in a view already */
        printf("skipped: %s\n", err.text);
        exit(77);
    }
    if (r < 0)
        fail_msg("%s", err.text);
    return t;
}

static inline int end(struct trap *t)
{
    int status;
    assert_int_equal(trap_wait(t, &status), 0);
    trap_end(t);
    return status;
}

static inline void run_native(const char *name, const char *dir, const char *out)
{
    int status, old = redirect(out);
    pid_t pid = fork();
    if (pid == 0) {
        execl(self, self, "case", name, dir, NULL);
        _exit(126);
    }
    dup2(old, 1);
    close(old);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static inline void run_trapped(struct trap_view *view, const char *name, const char *dir,
                               const char *out)
{
    char *argv[] = {self, "case", (char *)name, (char *)dir, NULL};
    assert_int_equal(end(begin(view, argv, out)), 0);
}

static inline char *text_of(const char *path)
{
    char *buf = calloc(1, 1 << 18);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && read(fd, buf, (1 << 18) - 1) >= 0);
    close(fd);
    return buf;
}

static inline void remove_all(const char *dir)
{
    char cmd[PATH_MAX + 20];
    snprintf(cmd, sizeof(cmd), "chmod -Rf u+rwx %s; rm -rf %s", dir, dir);
    assert_int_equal(system(cmd), 0);
}

/* Runs the case all three ways. The output names what differs. */
static inline void compare(const struct program *p)
{
    static const char *const dirs[] = {"plain", "up", "low", "mem"};
    for (size_t i = 0; i < 4; i++) {
        remove_all(in_base(dirs[i]));
        assert_int_equal(mkdir(in_base(dirs[i]), 0755), 0);
    }
    run_native("fill", in_base("plain"), in_base("fill"));
    run_native(p->name, in_base("plain"), in_base("out.plain"));
    run_native("fill", in_base("low"), in_base("fill"));
    struct trap_view *v = union_view(in_base("up"), in_base("low"));
    run_trapped(v, p->name, in_base("up"), in_base("out.union"));
    trap_view_unref(v);
    v = mem_view();
    run_trapped(v, "fill", in_base("mem"), in_base("fill"));
    run_trapped(v, p->name, in_base("mem"), in_base("out.mem"));
    trap_view_unref(v);
    char *plain = text_of(in_base("out.plain"));
    assert_true(*plain); /* it has said something */
    for (int k = UNION; k < KINDS; k++) {
        char file[16];
        snprintf(file, sizeof(file), "out.%s", seen_names[k]);
        char *text = text_of(in_base(file));
        if (strcmp(plain, text) != 0 && !(k == MEM && p->not_mem)) {
            size_t i = 0;
            while (plain[i] == text[i])
                i++;
            while (i && plain[i - 1] != '\n')
                i--;
            fail_msg("%s: %s differs: natively\n%.300s\nin the view\n%.300s", p->name,
                     seen_names[k], plain + i, text + i);
        }
        free(text);
    }
    free(plain);
}

static inline void fixture_start(void)
{
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* of the programs: they leave it to exit() */
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    assert_true(n > 0);
    strcpy(base, "/tmp/trap.XXXXXX");
    assert_non_null(mkdtemp(base));
    assert_int_equal(chmod(base, 0755), 0);
    assert_int_equal(pl_host_open("/", &host, NULL), 0);
}

static inline void fixture_end(void)
{
    pl_tree_unref(host);
    remove_all(base);
}

#endif
