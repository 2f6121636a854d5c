/* SPDX-License-Identifier: MIT */
/* A scripted kernel for the tests of the FUSE door: a socket pair that keeps messages apart stands
 * in for /dev/fuse, so that every opcode, and what no kernel would send, comes in a known order. */
#ifndef UNIT_FUSE_KERNEL_H
#define UNIT_FUSE_KERNEL_H

#include "doors/fuse.h"
#include "fuse/msg.h"
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <plenum/plenum.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#define UNUSED __attribute__((unused)) /* each test uses some of these */

#define OFFERED 0xffffffffu /* everything */

struct kernel {
    int fd, theirs;
    pthread_t thread;
    struct pl_tree *tree;
    const char *aname;
    struct fuse_opts opts;
    struct stats stats;
    struct pl_err err;
    int result;
    _Atomic int up;
    uint64_t unique;
    uint32_t uid, pid;
    struct fuse_init_out init;
    /* Of kernels whose servers die: all that is sent; before each wait; what was answered. */
    void (*posted)(struct kernel *k, const struct iovec *iov, int n);
    void (*await)(struct kernel *k);
    void (*answered)(struct kernel *k, uint64_t unique);
    int notes, note; /* notifications so far, and the code of the last */
    char noted[512] __attribute__((aligned(8)));
    size_t got; /* bytes of the last reply after its header */
    char reply[1 << 17] __attribute__((aligned(8)));
};

UNUSED static void is_up(void *arg)
{
    ((struct kernel *)arg)->up++;
}

UNUSED static void *serve(void *arg)
{
    struct kernel *k = arg;
    k->result = fuse_serve(k->theirs, k->tree, k->aname, &k->opts, &k->stats, is_up, k, &k->err);
    return NULL;
}

/* A door over `tree` (the reference stays the caller's) that has not been greeted. */
UNUSED static struct kernel *kernel_start(struct pl_tree *tree, const struct fuse_opts *opts)
{
    struct kernel *k = calloc(1, sizeof(*k));
    int fds[2], room = 1 << 20;
    assert_non_null(k);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    for (int i = 0; i < 2; i++)
        if (setsockopt(fds[i], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) < 0)
            setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    k->fd = fds[0];
    k->theirs = fds[1];
    k->tree = tree;
    k->aname = "";
    if (opts)
        k->opts = *opts;
    else
        fuse_opts_init(&k->opts);
    assert_int_equal(pthread_create(&k->thread, NULL, serve, k), 0);
    return k;
}

/* Unmounts; fuse_serve's result. */
UNUSED static int kernel_end(struct kernel *k)
{
    close(k->fd);
    pthread_join(k->thread, NULL);
    close(k->theirs);
    int r = k->result;
    assert_int_equal(k->stats.waiting, 0);
    free(k);
    return r;
}

struct part {
    const void *p;
    size_t n;
};
#define ARG(a)      ((struct part){&(a), sizeof(a)})
#define STR(s)      ((struct part){(s), strlen(s) + 1})
#define NONE        ((struct part){NULL, 0})
#define BYTES(p, n) ((struct part){(p), (n)})

/* Sends a request; its unique. */
UNUSED static uint64_t post(struct kernel *k, uint32_t op, uint64_t node, struct part a,
                            struct part b, struct part c)
{
    struct fuse_in_header h = {.len = (uint32_t)(sizeof(h) + a.n + b.n + c.n),
                               .opcode = op,
                               .unique = k->unique += 2,
                               .nodeid = node,
                               .uid = k->uid,
                               .gid = k->uid,
                               .pid = k->pid};
    struct iovec iov[4] = {
        {&h, sizeof(h)}, {(void *)a.p, a.n}, {(void *)b.p, b.n}, {(void *)c.p, c.n}};
    if (k->posted)
        k->posted(k, iov, 4);
    assert_int_equal(writev(k->fd, iov, 4), h.len);
    return h.unique;
}

/* The next message: its error; its unique, and length in k->got. */
UNUSED static int take(struct kernel *k, uint64_t *unique)
{
    struct fuse_out_header h;
    struct pollfd p = {.fd = k->fd, .events = POLLIN};
    if (k->await)
        k->await(k);
    assert_int_equal(poll(&p, 1, 20000), 1);
    struct iovec iov[2] = {{&h, sizeof(h)}, {k->reply, sizeof(k->reply)}};
    ssize_t n = readv(k->fd, iov, 2);
    assert_true(n >= (ssize_t)sizeof(h));
    assert_int_equal(h.len, n);
    k->got = (size_t)n - sizeof(h);
    *unique = h.unique & ~FUSE_UNIQUE_RESEND;
    if (k->answered && *unique)
        k->answered(k, *unique);
    if (h.unique)
        assert_true(h.error <= 0 && (h.error == 0 || k->got == 0));
    return h.error;
}

/* A notification has come, and is the one to be looked at. */
UNUSED static void note(struct kernel *k, int code)
{
    k->notes++;
    k->note = code;
    memcpy(k->noted, k->reply, k->got < sizeof(k->noted) ? k->got : sizeof(k->noted));
}

/* Waits for the next one: its code. */
UNUSED static int await_note(struct kernel *k)
{
    uint64_t unique;
    int code = take(k, &unique);
    assert_int_equal(unique, 0);
    note(k, code);
    return code;
}

UNUSED static bool silent(struct kernel *k)
{
    struct pollfd p = {.fd = k->fd, .events = POLLIN};
    return poll(&p, 1, 0) == 0;
}

UNUSED static int ask3(struct kernel *k, uint32_t op, uint64_t node, struct part a, struct part b,
                       struct part c)
{
    uint64_t got, unique = post(k, op, node, a, b, c);
    int error = take(k, &got);
    for (; got == 0; error = take(k, &got)) /* a notification may come first */
        note(k, error);
    assert_int_equal(got, unique);
    return error;
}

UNUSED static int ask(struct kernel *k, uint32_t op, uint64_t node, struct part a, struct part b)
{
    return ask3(k, op, node, a, b, NONE);
}

#define REPLY(k, type) ((const struct type *)(const void *)(k)->reply)

UNUSED static void kernel_greet(struct kernel *k)
{
    struct fuse_init_in in = {7, 45, 1 << 20, OFFERED, 0xffffffff, {0}};
    assert_int_equal(ask(k, FUSE_INIT, 0, ARG(in), NONE), 0);
    assert_int_equal(k->got, sizeof(struct fuse_init_out));
    k->init = *REPLY(k, fuse_init_out);
    assert_int_equal(k->init.major, 7);
}

/* A greeted door over `tree`. */
UNUSED static struct kernel *kernel_over(struct pl_tree *tree, const struct fuse_opts *opts)
{
    struct kernel *k = kernel_start(tree, opts);
    kernel_greet(k);
    return k;
}

UNUSED static struct pl_tree *mem(void)
{
    struct pl_tree *t;
    assert_int_equal(pl_mem_new(0, &t, NULL), 0);
    return t;
}

UNUSED static int setup(void **state)
{
    *state = kernel_over(mem(), NULL);
    return 0;
}

UNUSED static int teardown(void **state)
{
    struct kernel *k = *state;
    struct pl_tree *t = k->tree;
    assert_int_equal(kernel_end(k), 0);
    assert_int_equal(t->refs, 1);
    pl_tree_unref(t);
    return 0;
}

/* ---- steps ----------------------------------------------------------------------------------- */

UNUSED static uint64_t lookup(struct kernel *k, uint64_t dir, const char *name)
{
    assert_int_equal(ask(k, FUSE_LOOKUP, dir, STR(name), NONE), 0);
    assert_int_equal(k->got, sizeof(struct fuse_entry_out));
    return REPLY(k, fuse_entry_out)->nodeid;
}

UNUSED static void forget(struct kernel *k, uint64_t node, uint64_t n)
{
    struct fuse_forget_in in = {n};
    post(k, FUSE_FORGET, node, ARG(in), NONE, NONE);
}

UNUSED static int getattr(struct kernel *k, uint64_t node)
{
    struct fuse_getattr_in in = {0};
    return ask(k, FUSE_GETATTR, node, ARG(in), NONE);
}

/* Is the node forgotten? A FORGET is not answered, and may be overtaken by what follows. */
UNUSED static bool gone(struct kernel *k, uint64_t node)
{
    for (int i = 0; i < 100000; i++) {
        int error = getattr(k, node);
        if (error == -ESTALE)
            return true;
        assert_int_equal(error, 0);
    }
    return false;
}

UNUSED static uint64_t mkdir_(struct kernel *k, uint64_t dir, const char *name)
{
    struct fuse_mkdir_in in = {0755, 022};
    assert_int_equal(ask(k, FUSE_MKDIR, dir, ARG(in), STR(name)), 0);
    return REPLY(k, fuse_entry_out)->nodeid;
}

UNUSED static uint64_t create(struct kernel *k, uint64_t dir, const char *name, uint32_t flags,
                              uint64_t *fh)
{
    *fh = 0;
    struct fuse_create_in in = {flags | O_CREAT, S_IFREG | 0644, 022, 0};
    assert_int_equal(ask(k, FUSE_CREATE, dir, ARG(in), STR(name)), 0);
    assert_int_equal(k->got, sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out));
    struct fuse_open_out open;
    memcpy(&open, k->reply + sizeof(struct fuse_entry_out), sizeof(open));
    *fh = open.fh;
    return REPLY(k, fuse_entry_out)->nodeid;
}

UNUSED static int open_(struct kernel *k, uint32_t op, uint64_t node, uint32_t flags, uint64_t *fh)
{
    *fh = 0;
    struct fuse_open_in in = {flags, 0};
    int error = ask(k, op, node, ARG(in), NONE);
    if (error == 0)
        *fh = REPLY(k, fuse_open_out)->fh;
    return error;
}

UNUSED static int release(struct kernel *k, uint32_t op, uint64_t node, uint64_t fh)
{
    struct fuse_release_in in = {.fh = fh};
    return ask(k, op, node, ARG(in), NONE);
}

/* `flags`: those of the open file, which fcntl(2) may have changed since. */
UNUSED static int write_as(struct kernel *k, uint64_t node, uint64_t fh, const char *s,
                           uint64_t off, uint32_t flags)
{
    struct fuse_write_in in = {
        .fh = fh, .offset = off, .size = (uint32_t)strlen(s), .flags = flags};
    int error = ask(k, FUSE_WRITE, node, ARG(in), BYTES(s, strlen(s)));
    return error ? error : (int)REPLY(k, fuse_write_out)->size;
}

UNUSED static int write_(struct kernel *k, uint64_t node, uint64_t fh, const char *s, uint64_t off)
{
    return write_as(k, node, fh, s, off, 0);
}

UNUSED static int read_(struct kernel *k, uint64_t node, uint64_t fh, uint64_t off, uint32_t size)
{
    struct fuse_read_in in = {.fh = fh, .offset = off, .size = size};
    return ask(k, FUSE_READ, node, ARG(in), NONE);
}

UNUSED static int setlk(struct kernel *k, uint32_t op, uint64_t node, uint64_t fh, uint64_t owner,
                        uint32_t type)
{
    struct fuse_lk_in in = {.fh = fh, .owner = owner, .lk = {0, 99, type, 42}};
    return ask(k, op, node, ARG(in), NONE);
}

/* An owner locks through one open file, closes it, and locks through another: the release of the
 * first, which nobody waits for, leaves that alone. */
UNUSED static void late_release(struct kernel *k)
{
    uint64_t a, b, f = create(k, 1, "late", O_RDWR, &a);
    assert_int_equal(setlk(k, FUSE_SETLK, f, a, 1, F_WRLCK), 0);
    struct fuse_flush_in flush = {.fh = a, .lock_owner = 1};
    assert_int_equal(ask(k, FUSE_FLUSH, f, ARG(flush), NONE), 0);
    assert_int_equal(open_(k, FUSE_OPEN, f, O_RDWR, &b), 0);
    assert_int_equal(setlk(k, FUSE_SETLK, f, b, 1, F_WRLCK), 0);
    assert_int_equal(release(k, FUSE_RELEASE, f, a), 0);
    assert_int_equal(setlk(k, FUSE_SETLK, f, b, 2, F_WRLCK), -EAGAIN);
    assert_int_equal(release(k, FUSE_RELEASE, f, b), 0);
}

#define EACH(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
