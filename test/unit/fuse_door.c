/* SPDX-License-Identifier: MIT */
/* The FUSE door with a scripted kernel: a socket pair that keeps messages apart stands in for
 * /dev/fuse, so that every opcode, and what no kernel would send, comes in a known order. */
#include "doors/fuse.h"
#include "doors/fuse_msg.h"
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
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

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
    size_t got; /* bytes of the last reply after its header */
    char reply[1 << 17] __attribute__((aligned(8)));
};

static void is_up(void *arg)
{
    ((struct kernel *)arg)->up++;
}

static void *serve(void *arg)
{
    struct kernel *k = arg;
    k->result = fuse_serve(k->theirs, k->tree, k->aname, &k->opts, &k->stats, is_up, k, &k->err);
    return NULL;
}

/* A door over `tree` (the reference stays the caller's) that has not been greeted. */
static struct kernel *kernel_start(struct pl_tree *tree, const struct fuse_opts *opts)
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
static int kernel_end(struct kernel *k)
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
static uint64_t post(struct kernel *k, uint32_t op, uint64_t node, struct part a, struct part b,
                     struct part c)
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
    assert_int_equal(writev(k->fd, iov, 4), h.len);
    return h.unique;
}

/* The next message: its error; its unique, and length in k->got. */
static int take(struct kernel *k, uint64_t *unique)
{
    struct fuse_out_header h;
    struct pollfd p = {.fd = k->fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 20000), 1);
    struct iovec iov[2] = {{&h, sizeof(h)}, {k->reply, sizeof(k->reply)}};
    ssize_t n = readv(k->fd, iov, 2);
    assert_true(n >= (ssize_t)sizeof(h));
    assert_int_equal(h.len, n);
    k->got = (size_t)n - sizeof(h);
    *unique = h.unique;
    if (h.unique)
        assert_true(h.error <= 0 && (h.error == 0 || k->got == 0));
    return h.error;
}

static bool silent(struct kernel *k)
{
    struct pollfd p = {.fd = k->fd, .events = POLLIN};
    return poll(&p, 1, 0) == 0;
}

static int ask3(struct kernel *k, uint32_t op, uint64_t node, struct part a, struct part b,
                struct part c)
{
    uint64_t got, unique = post(k, op, node, a, b, c);
    int error = take(k, &got);
    assert_int_equal(got, unique);
    return error;
}

static int ask(struct kernel *k, uint32_t op, uint64_t node, struct part a, struct part b)
{
    return ask3(k, op, node, a, b, NONE);
}

#define REPLY(k, type) ((const struct type *)(const void *)(k)->reply)

static void kernel_greet(struct kernel *k)
{
    struct fuse_init_in in = {7, 45, 1 << 20, OFFERED, 0xffffffff, {0}};
    assert_int_equal(ask(k, FUSE_INIT, 0, ARG(in), NONE), 0);
    assert_int_equal(k->got, sizeof(struct fuse_init_out));
    k->init = *REPLY(k, fuse_init_out);
    assert_int_equal(k->init.major, 7);
}

/* A greeted door over `tree`. */
static struct kernel *kernel_over(struct pl_tree *tree, const struct fuse_opts *opts)
{
    struct kernel *k = kernel_start(tree, opts);
    kernel_greet(k);
    return k;
}

static struct pl_tree *mem(void)
{
    struct pl_tree *t;
    assert_int_equal(pl_mem_new(0, &t, NULL), 0);
    return t;
}

static int setup(void **state)
{
    *state = kernel_over(mem(), NULL);
    return 0;
}

static int teardown(void **state)
{
    struct kernel *k = *state;
    struct pl_tree *t = k->tree;
    assert_int_equal(kernel_end(k), 0);
    assert_int_equal(t->refs, 1);
    pl_tree_unref(t);
    return 0;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static uint64_t lookup(struct kernel *k, uint64_t dir, const char *name)
{
    assert_int_equal(ask(k, FUSE_LOOKUP, dir, STR(name), NONE), 0);
    assert_int_equal(k->got, sizeof(struct fuse_entry_out));
    return REPLY(k, fuse_entry_out)->nodeid;
}

static void forget(struct kernel *k, uint64_t node, uint64_t n)
{
    struct fuse_forget_in in = {n};
    post(k, FUSE_FORGET, node, ARG(in), NONE, NONE);
}

static int getattr(struct kernel *k, uint64_t node)
{
    struct fuse_getattr_in in = {0};
    return ask(k, FUSE_GETATTR, node, ARG(in), NONE);
}

/* Is the node forgotten? A FORGET is not answered, and may be overtaken by what follows. */
static bool gone(struct kernel *k, uint64_t node)
{
    for (int i = 0; i < 100000; i++) {
        int error = getattr(k, node);
        if (error == -ESTALE)
            return true;
        assert_int_equal(error, 0);
    }
    return false;
}

static uint64_t mkdir_(struct kernel *k, uint64_t dir, const char *name)
{
    struct fuse_mkdir_in in = {0755, 022};
    assert_int_equal(ask(k, FUSE_MKDIR, dir, ARG(in), STR(name)), 0);
    return REPLY(k, fuse_entry_out)->nodeid;
}

static uint64_t create(struct kernel *k, uint64_t dir, const char *name, uint32_t flags,
                       uint64_t *fh)
{
    struct fuse_create_in in = {flags | O_CREAT, S_IFREG | 0644, 022, 0};
    assert_int_equal(ask(k, FUSE_CREATE, dir, ARG(in), STR(name)), 0);
    assert_int_equal(k->got, sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out));
    struct fuse_open_out open;
    memcpy(&open, k->reply + sizeof(struct fuse_entry_out), sizeof(open));
    *fh = open.fh;
    return REPLY(k, fuse_entry_out)->nodeid;
}

static int open_(struct kernel *k, uint32_t op, uint64_t node, uint32_t flags, uint64_t *fh)
{
    struct fuse_open_in in = {flags, 0};
    int error = ask(k, op, node, ARG(in), NONE);
    if (error == 0)
        *fh = REPLY(k, fuse_open_out)->fh;
    return error;
}

static int release(struct kernel *k, uint32_t op, uint64_t node, uint64_t fh)
{
    struct fuse_release_in in = {.fh = fh};
    return ask(k, op, node, ARG(in), NONE);
}

/* `flags`: those of the open file, which fcntl(2) may have changed since. */
static int write_as(struct kernel *k, uint64_t node, uint64_t fh, const char *s, uint64_t off,
                    uint32_t flags)
{
    struct fuse_write_in in = {
        .fh = fh, .offset = off, .size = (uint32_t)strlen(s), .flags = flags};
    int error = ask(k, FUSE_WRITE, node, ARG(in), BYTES(s, strlen(s)));
    return error ? error : (int)REPLY(k, fuse_write_out)->size;
}

static int write_(struct kernel *k, uint64_t node, uint64_t fh, const char *s, uint64_t off)
{
    return write_as(k, node, fh, s, off, 0);
}

static int read_(struct kernel *k, uint64_t node, uint64_t fh, uint64_t off, uint32_t size)
{
    struct fuse_read_in in = {.fh = fh, .offset = off, .size = size};
    return ask(k, FUSE_READ, node, ARG(in), NONE);
}

static int setlk(struct kernel *k, uint32_t op, uint64_t node, uint64_t fh, uint64_t owner,
                 uint32_t type)
{
    struct fuse_lk_in in = {.fh = fh, .owner = owner, .lk = {0, 99, type, 42}};
    return ask(k, op, node, ARG(in), NONE);
}

/* ---- greeting -------------------------------------------------------------------------------- */

static void init(void **state)
{
    struct kernel *k = *state;
    assert_int_equal(getattr(k, 1), 0);
    assert_int_equal(k->up, 1);
    assert_int_equal(k->init.minor, 45);
    assert_int_equal(k->init.max_write, 1 << 20);
    assert_int_equal(k->init.max_pages, 256);
    uint32_t want = FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_DONT_MASK | FUSE_ATOMIC_O_TRUNC |
                    FUSE_DO_READDIRPLUS | FUSE_MAX_PAGES | FUSE_INIT_EXT;
    assert_int_equal(k->init.flags & want, want);
    assert_int_equal(k->init.flags & FUSE_WRITEBACK_CACHE, 0);
    assert_int_equal(k->init.flags2, FUSE_DIRECT_IO_ALLOW_MMAP >> 32);
}

static void init_by_flags(void **state)
{
    struct pl_tree *t = pl_null_new(mem());
    struct fuse_opts opts;
    t->flags = PL_TREE_GENERATED | PL_TREE_REMOTE;
    fuse_opts_init(&opts);
    opts.writeback = true;
    opts.max_write = 10000;
    struct kernel *k = kernel_over(t, &opts);
    uint32_t not = FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_DO_READDIRPLUS | FUSE_POSIX_ACL |
                   FUSE_CACHE_SYMLINKS;
    assert_int_equal(k->init.flags & not, 0);
    assert_true(k->init.flags & FUSE_WRITEBACK_CACHE);
    assert_int_equal(k->init.max_write, 10000);
    assert_int_equal(k->init.max_pages, 3);
    struct fuse_entry_out *e = (struct fuse_entry_out *)(void *)k->reply;
    mkdir_(k, 1, "d");
    assert_int_equal(e->entry_valid | e->attr_valid | e->attr_valid_nsec, 0);
    assert_int_equal(ask(k, FUSE_LOOKUP, 1, STR("none"), NONE), -ENOENT);
    assert_int_equal(kernel_end(k), 0);
    pl_tree_unref(t);
}

static void init_old(void **state)
{
    struct pl_tree *t = mem();
    struct kernel *k = kernel_start(t, NULL);
    struct fuse_init_in in = {7, 30, 65536, OFFERED, 0, {0}};
    assert_int_equal(ask(k, FUSE_INIT, 0, BYTES(&in, 16), NONE), -EPROTO);
    pthread_join(k->thread, NULL);
    assert_int_equal(k->result, -EPROTO);
    assert_string_equal(k->err.text, "the kernel speaks FUSE 7.30, older than 7.31 (use Linux 5.4 "
                                     "or newer)");
    assert_int_equal(k->up, 0);
    close(k->fd);
    close(k->theirs);
    free(k);
    pl_tree_unref(t);
}

static void init_variants(void **state)
{
    struct pl_tree *t = mem();
    struct kernel *k = kernel_start(t, NULL);
    /* too early, then a kernel of the future that comes down to us, then an older one's size */
    assert_int_equal(getattr(k, 1), -EIO);
    struct fuse_init_in in = {8, 0, 65536, OFFERED, 0, {0}};
    assert_int_equal(ask(k, FUSE_INIT, 0, ARG(in), NONE), 0);
    assert_int_equal(REPLY(k, fuse_init_out)->major, 7);
    assert_int_equal(k->up, 0);
    in = (struct fuse_init_in){7, 31, 65536, OFFERED & ~(uint32_t)FUSE_INIT_EXT, 0, {0}};
    assert_int_equal(ask(k, FUSE_INIT, 0, BYTES(&in, 16), NONE), 0);
    assert_int_equal(REPLY(k, fuse_init_out)->flags2, 0);
    assert_int_equal(getattr(k, 1), 0);
    assert_int_equal(k->up, 1);
    assert_int_equal(kernel_end(k), 0);
    /* gone before it was greeted */
    k = kernel_start(t, NULL);
    assert_int_equal(kernel_end(k), 0);
    pl_tree_unref(t);
}

static void subtree(void **state)
{
    struct pl_tree *t = mem();
    struct kernel *k = kernel_over(t, NULL);
    mkdir_(k, mkdir_(k, 1, "a"), "b");
    kernel_end(k);
    k = calloc(1, sizeof(*k));
    struct pl_err err = {0};
    assert_int_equal(fuse_serve(-1, t, "a/none", NULL, &k->stats, NULL, NULL, &err), -ENOENT);
    assert_string_equal(err.text, "a/none: No such file or directory");
    free(k);
    k = kernel_start(t, NULL);
    kernel_end(k);

    k = calloc(1, sizeof(*k));
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    *k = (struct kernel){.fd = fds[0], .theirs = fds[1], .tree = t, .aname = "a"};
    fuse_opts_init(&k->opts);
    pthread_create(&k->thread, NULL, serve, k);
    kernel_greet(k);
    assert_true(lookup(k, 1, "b") > 1);
    assert_int_equal(lookup(k, 1, ".."), 1); /* not to the tree's root */
    assert_int_equal(kernel_end(k), 0);
    pl_tree_unref(t);
}

/* ---- names ----------------------------------------------------------------------------------- */

static void names(void **state)
{
    struct kernel *k = *state;
    uint64_t fh, d = mkdir_(k, 1, "d"), f = create(k, d, "f", O_RDWR, &fh);
    assert_int_equal(REPLY(k, fuse_entry_out)->attr.mode, S_IFREG | 0644);
    assert_int_equal(lookup(k, d, "f"), f);
    assert_int_equal(lookup(k, d, ".."), 1);
    assert_int_equal(lookup(k, d, "."), d);

    struct fuse_link_in link = {f};
    assert_int_equal(ask(k, FUSE_LINK, 1, ARG(link), STR("hard")), 0);
    assert_int_equal(REPLY(k, fuse_entry_out)->nodeid, f);
    assert_int_equal(REPLY(k, fuse_entry_out)->attr.nlink, 2);
    assert_int_equal(lookup(k, 1, "hard"), f);
    link.oldnodeid = 12345;
    assert_int_equal(ask(k, FUSE_LINK, 1, ARG(link), STR("hard2")), -ESTALE);

    struct fuse_mknod_in nod = {S_IFCHR | 0666, 0x34500u << 12 | 0x12 << 8 | 0x67, 022, 0};
    assert_int_equal(ask(k, FUSE_MKNOD, 1, ARG(nod), STR("dev")), 0);
    assert_int_equal(REPLY(k, fuse_entry_out)->attr.mode, S_IFCHR | 0644);
    assert_int_equal(REPLY(k, fuse_entry_out)->attr.rdev, nod.rdev);
    nod = (struct fuse_mknod_in){S_IFREG | 0666, 0, 077, 0};
    assert_int_equal(ask(k, FUSE_MKNOD, 1, ARG(nod), STR("reg")), 0);
    assert_int_equal(REPLY(k, fuse_entry_out)->attr.mode, S_IFREG | 0600);

    assert_int_equal(ask(k, FUSE_SYMLINK, 1, STR("link"), STR("some/where")), 0);
    uint64_t l = REPLY(k, fuse_entry_out)->nodeid;
    assert_int_equal(ask(k, FUSE_READLINK, l, NONE, NONE), 0);
    assert_int_equal(k->got, 10);
    assert_memory_equal(k->reply, "some/where", 10);

    assert_int_equal(ask(k, FUSE_RMDIR, 1, STR("d"), NONE), -ENOTEMPTY);
    assert_int_equal(ask(k, FUSE_UNLINK, 1, STR("d"), NONE), -EISDIR);
    assert_int_equal(ask(k, FUSE_UNLINK, d, STR("f"), NONE), 0);
    assert_int_equal(ask(k, FUSE_RMDIR, 1, STR("d"), NONE), 0);
    assert_int_equal(ask(k, FUSE_LOOKUP, f, STR("x"), NONE), -ENOTDIR);
    assert_int_equal(release(k, FUSE_RELEASE, f, fh), 0);
}

static void renames(void **state)
{
    struct kernel *k = *state;
    uint64_t d = mkdir_(k, 1, "d"), e = mkdir_(k, 1, "e");
    struct fuse_rename_in in = {d, 0, 0};
    assert_int_equal(ask3(k, FUSE_RENAME, 1, BYTES(&in, 8), STR("e"), STR("e2")), 0);
    assert_int_equal(lookup(k, d, "e2"), e);
    in = (struct fuse_rename_in){1, RENAME_NOREPLACE, 0};
    assert_int_equal(ask3(k, FUSE_RENAME2, d, ARG(in), STR("e2"), STR("d")), -EEXIST);
    uint64_t fh, f = create(k, 1, "f", O_WRONLY, &fh);
    in = (struct fuse_rename_in){1, RENAME_EXCHANGE, 0};
    assert_int_equal(ask3(k, FUSE_RENAME2, d, ARG(in), STR("e2"), STR("f")), 0);
    assert_int_equal(lookup(k, 1, "f"), e);
    assert_int_equal(lookup(k, d, "e2"), f);
    in = (struct fuse_rename_in){1, 0x100, 0};
    assert_int_equal(ask3(k, FUSE_RENAME2, d, ARG(in), STR("e2"), STR("x")), -EINVAL);
    in = (struct fuse_rename_in){99, 0, 0};
    assert_int_equal(ask3(k, FUSE_RENAME2, d, ARG(in), STR("e2"), STR("x")), -ESTALE);
}

static void negative(void **state)
{
    struct kernel *k = *state;
    /* mem is private: what is not there will not come but through us */
    assert_int_equal(lookup(k, 1, "none"), 0);
    assert_int_equal(REPLY(k, fuse_entry_out)->entry_valid, 3600);
    assert_int_equal(k->stats.errors, 0);

    struct pl_tree *t = mem();
    struct fuse_opts opts;
    fuse_opts_init(&opts);
    opts.entry_timeout = 1500000000;
    opts.attr_timeout = 20000000;
    opts.negative_timeout = 0;
    k = kernel_over(t, &opts);
    assert_int_equal(ask(k, FUSE_LOOKUP, 1, STR("none"), NONE), -ENOENT);
    mkdir_(k, 1, "d");
    const struct fuse_entry_out *e = REPLY(k, fuse_entry_out);
    assert_int_equal(e->entry_valid, 1);
    assert_int_equal(e->entry_valid_nsec, 500000000);
    assert_int_equal(e->attr_valid, 0);
    assert_int_equal(e->attr_valid_nsec, 20000000);
    assert_int_equal(kernel_end(k), 0);
    pl_tree_unref(t);
}

/* Nodes are known exactly as long as lookups are owed. */
static void counts(void **state)
{
    struct pl_tree *t = mem();
    struct fuse_opts opts;
    fuse_opts_init(&opts);
    opts.threads = 1; /* one after the other */
    struct kernel *k = kernel_over(t, &opts);
    uint64_t d = mkdir_(k, 1, "d");
    uint64_t generation = REPLY(k, fuse_entry_out)->generation;
    assert_int_equal(lookup(k, 1, "d"), d);
    assert_int_equal(lookup(k, 1, "d"), d);
    forget(k, d, 2);
    assert_int_equal(getattr(k, d), 0);
    forget(k, d, 1);
    assert_int_equal(getattr(k, d), -ESTALE);
    forget(k, d, 1); /* nothing is owed */
    forget(k, 777, 1);
    forget(k, 1, 1000); /* the root stays */
    assert_int_equal(getattr(k, 1), 0);
    uint64_t again = lookup(k, 1, "d");
    assert_int_equal(again, d);
    assert_true(REPLY(k, fuse_entry_out)->generation != generation);

    uint64_t e = mkdir_(k, 1, "e"), f = mkdir_(k, 1, "f");
    struct fuse_batch_forget_in in = {2, 0};
    struct fuse_forget_one one[2] = {{e, 1}, {d, 1}};
    post(k, FUSE_BATCH_FORGET, 0, ARG(in), ARG(one), NONE);
    assert_int_equal(getattr(k, e), -ESTALE);
    assert_int_equal(getattr(k, d), -ESTALE);
    assert_int_equal(getattr(k, f), 0);
    assert_true(silent(k)); /* none of these is answered */
    /* a count that wraps would keep a node for ever */
    assert_int_equal(lookup(k, 1, "f"), f);
    forget(k, f, UINT64_MAX);
    assert_int_equal(getattr(k, f), -ESTALE);
    assert_int_equal(kernel_end(k), 0);
    pl_tree_unref(t);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void bytes(void **state)
{
    struct kernel *k = *state;
    uint64_t fh, f = create(k, 1, "f", O_RDWR, &fh);
    assert_int_equal(write_(k, f, fh, "hello world", 0), 11);
    assert_int_equal(read_(k, f, fh, 6, 100), 0);
    assert_int_equal(k->got, 5);
    assert_memory_equal(k->reply, "world", 5);
    assert_int_equal(read_(k, f, fh, 11, 100), 0);
    assert_int_equal(k->got, 0);
    assert_int_equal(read_(k, f, fh, 1ull << 63, 100), -EINVAL);
    assert_int_equal(read_(k, f, fh, 0, 2 << 20), -EINVAL); /* more than was agreed */
    assert_int_equal(read_(k, f, fh + 1, 0, 100), -EBADF);
    assert_int_equal(read_(k, f, 0, 0, 100), -EBADF);
    assert_int_equal(write_(k, f, fh, "x", 1ull << 63), -EINVAL);
    assert_int_equal(k->stats.bytes_written, 11);
    assert_int_equal(k->stats.bytes_read, 5);

    struct fuse_fsync_in sync = {fh, 0, 0};
    int fsynced = ask(k, FUSE_FSYNC, f, ARG(sync), NONE);
    assert_true(fsynced == 0 || fsynced == -ENOSYS);
    struct fuse_flush_in flush = {.fh = fh, .lock_owner = 5};
    assert_int_equal(ask(k, FUSE_FLUSH, f, ARG(flush), NONE), 0);

    struct fuse_lseek_in seek = {fh, 0, SEEK_HOLE, 0};
    assert_int_equal(ask(k, FUSE_LSEEK, f, ARG(seek), NONE), 0);
    assert_int_equal(REPLY(k, fuse_lseek_out)->offset, 11);
    seek.offset = 11;
    assert_int_equal(ask(k, FUSE_LSEEK, f, ARG(seek), NONE), -ENXIO);
    seek.whence = SEEK_SET;
    assert_int_equal(ask(k, FUSE_LSEEK, f, ARG(seek), NONE), -EINVAL);

    uint64_t rfh;
    assert_int_equal(open_(k, FUSE_OPEN, f, O_RDONLY, &rfh), 0);
    assert_int_equal(write_(k, f, rfh, "x", 0), -EBADF);
    assert_int_equal(open_(k, FUSE_OPEN, f, O_WRONLY | O_APPEND, &fh), 0);
    assert_int_equal(write_as(k, f, fh, "!", 0, O_WRONLY | O_APPEND), 1);
    assert_int_equal(getattr(k, f), 0);
    assert_int_equal(REPLY(k, fuse_attr_out)->attr.size, 12);
    assert_int_equal(write_as(k, f, fh, "H", 0, O_WRONLY), 1); /* it appends no longer */
    assert_int_equal(getattr(k, f), 0);
    assert_int_equal(REPLY(k, fuse_attr_out)->attr.size, 12);
    uint64_t tfh;
    assert_int_equal(open_(k, FUSE_OPEN, f, O_WRONLY | O_TRUNC, &tfh), 0);
    assert_int_equal(getattr(k, f), 0);
    assert_int_equal(REPLY(k, fuse_attr_out)->attr.size, 0);
    assert_int_equal(release(k, FUSE_RELEASE, f, tfh), 0);
    assert_int_equal(release(k, FUSE_RELEASE, f, tfh), -EBADF);
    assert_int_equal(read_(k, f, tfh, 0, 1), -EBADF);
}

/* The largest write and read that the socket carries go through the large buffer. */
static void large(void **state)
{
    struct kernel *k = *state;
    uint64_t fh, f = create(k, 1, "f", O_RDWR, &fh);
    enum { N = 120000 };
    char *data = malloc(N);
    for (size_t i = 0; i < N; i++)
        data[i] = (char)(i * 7 + i / 251);
    struct fuse_write_in w = {.fh = fh, .offset = 3, .size = N};
    assert_int_equal(ask(k, FUSE_WRITE, f, ARG(w), BYTES(data, N)), 0);
    assert_int_equal(REPLY(k, fuse_write_out)->size, N);
    assert_int_equal(read_(k, f, fh, 3, N), 0);
    assert_int_equal(k->got, N);
    assert_memory_equal(k->reply, data, N);
    free(data);
}

static void copies(void **state)
{
    struct kernel *k = *state;
    uint64_t fa, a = create(k, 1, "a", O_RDWR, &fa), fb, b = create(k, 1, "b", O_RDWR, &fb);
    assert_int_equal(write_(k, a, fa, "0123456789", 0), 10);
    struct fuse_copy_in in = {fa, 2, b, fb, 1, 5, 0};
    assert_int_equal(ask(k, FUSE_COPY_FILE_RANGE, a, ARG(in), NONE), 0);
    assert_int_equal(k->got, sizeof(struct fuse_write_out));
    assert_int_equal(REPLY(k, fuse_write_out)->size, 5);
    in.len = UINT64_MAX >> 1;
    in.off_in = in.off_out = 8;
    assert_int_equal(ask(k, FUSE_COPY_FILE_RANGE_64, a, ARG(in), NONE), 0);
    assert_int_equal(k->got, sizeof(struct fuse_copy_out));
    assert_int_equal(REPLY(k, fuse_copy_out)->bytes, 2);
    assert_int_equal(read_(k, b, fb, 0, 100), 0);
    assert_int_equal(k->got, 10);
    assert_memory_equal(k->reply, "\00023456\000\00089", 10);
    in.flags = 1;
    assert_int_equal(ask(k, FUSE_COPY_FILE_RANGE, a, ARG(in), NONE), -EINVAL);
    in.fh_out = 77;
    assert_int_equal(ask(k, FUSE_COPY_FILE_RANGE, a, ARG(in), NONE), -EBADF);

    struct fuse_fallocate_in fall = {.fh = fb, .offset = 0, .length = 4096};
    int r = ask(k, FUSE_FALLOCATE, b, ARG(fall), NONE);
    assert_true(r == 0 || r == -ENOSYS || r == -EOPNOTSUPP);
}

static void attributes(void **state)
{
    struct kernel *k = *state;
    uint64_t fh, f = create(k, 1, "f", O_RDWR, &fh);
    struct fuse_setattr_in in = {.valid = FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE |
                                          FATTR_ATIME | FATTR_MTIME,
                                 .mode = S_IFREG | 0600,
                                 .uid = 12,
                                 .gid = 34,
                                 .size = 1ull << 33,
                                 .atime = 1000,
                                 .atimensec = 1,
                                 .mtime = (uint64_t)-5,
                                 .mtimensec = 999999999};
    assert_int_equal(ask(k, FUSE_SETATTR, f, ARG(in), NONE), 0);
    const struct fuse_attr *a = &REPLY(k, fuse_attr_out)->attr;
    assert_int_equal(a->mode, S_IFREG | 0600);
    assert_int_equal(a->uid, 12);
    assert_int_equal(a->gid, 34);
    assert_int_equal(a->size, 1ull << 33);
    assert_int_equal(a->atime, 1000);
    assert_int_equal(a->atimensec, 1);
    assert_int_equal((int64_t)a->mtime, -5);
    assert_int_equal(a->mtimensec, 999999999);

    in = (struct fuse_setattr_in){.valid = FATTR_ATIME | FATTR_ATIME_NOW | FATTR_MTIME |
                                           FATTR_MTIME_NOW | FATTR_CTIME,
                                  .atime = 7,
                                  .mtime = 7};
    assert_int_equal(ask(k, FUSE_SETATTR, f, ARG(in), NONE), 0);
    assert_true(a->atime > 1000000000 && a->mtime > 1000000000);
    in = (struct fuse_setattr_in){.valid = FATTR_SIZE | FATTR_FH, .fh = fh, .size = 5};
    assert_int_equal(ask(k, FUSE_SETATTR, f, ARG(in), NONE), 0);
    assert_int_equal(a->size, 5);
    in.fh = 99;
    assert_int_equal(ask(k, FUSE_SETATTR, f, ARG(in), NONE), -EBADF);
    in = (struct fuse_setattr_in){.valid = FATTR_SIZE, .size = 1ull << 63};
    assert_int_equal(ask(k, FUSE_SETATTR, f, ARG(in), NONE), -EFBIG);

    /* an unlinked file is still there for those who have it open */
    assert_int_equal(ask(k, FUSE_UNLINK, 1, STR("f"), NONE), 0);
    struct fuse_getattr_in get = {.flags = FUSE_GETATTR_FH, .fh = fh};
    assert_int_equal(ask(k, FUSE_GETATTR, f, ARG(get), NONE), 0);
    assert_int_equal(a->nlink, 0);
    struct fuse_statx_in sx = {.sx_mask = 0xfff};
    assert_int_equal(ask(k, FUSE_STATX, f, ARG(sx), NONE), 0);
    const struct fuse_statx *x = &REPLY(k, fuse_statx_out)->stat;
    assert_true(x->mask & STATX_BTIME);
    assert_true(x->btime.sec > 1000000000);
    assert_int_equal(x->size, 5);
    assert_int_equal(x->uid, 12);
    assert_int_equal(x->mode, S_IFREG | 0600);
}

/* Someone without CAP_FSETID writes: suid and sgid must go even if the writer may not chmod. */
static void killpriv(void **state)
{
    struct kernel *k = *state;
    uint64_t fh, f = create(k, 1, "f", O_RDWR, &fh);
    struct fuse_setattr_in mode = {.valid = FATTR_MODE, .mode = 06777};
    assert_int_equal(ask(k, FUSE_SETATTR, f, ARG(mode), NONE), 0);
    k->uid = 0; /* the tree itself would leave them to root */
    struct fuse_write_in w = {.fh = fh, .size = 1, .write_flags = FUSE_WRITE_KILL_SUIDGID};
    assert_int_equal(ask(k, FUSE_WRITE, f, ARG(w), BYTES("x", 1)), 0);
    assert_int_equal(getattr(k, f), 0);
    assert_int_equal(REPLY(k, fuse_attr_out)->attr.mode & 07777, 0777);

    assert_int_equal(ask(k, FUSE_SETATTR, f, ARG(mode), NONE), 0);
    struct fuse_setattr_in cut = {.valid = FATTR_SIZE | FATTR_KILL_SUIDGID, .size = 0};
    assert_int_equal(ask(k, FUSE_SETATTR, f, ARG(cut), NONE), 0);
    assert_int_equal(REPLY(k, fuse_attr_out)->attr.mode & 07777, 0777);

    mode.mode = 02766; /* sgid without group execution is no privilege: it stays */
    assert_int_equal(ask(k, FUSE_SETATTR, f, ARG(mode), NONE), 0);
    assert_int_equal(ask(k, FUSE_WRITE, f, ARG(w), BYTES("x", 1)), 0);
    assert_int_equal(getattr(k, f), 0);
    assert_int_equal(REPLY(k, fuse_attr_out)->attr.mode & 07777, 02766);

    mode.mode = 04777;
    assert_int_equal(ask(k, FUSE_SETATTR, f, ARG(mode), NONE), 0);
    struct fuse_open_in in = {O_WRONLY | O_TRUNC, FUSE_OPEN_KILL_SUIDGID};
    assert_int_equal(ask(k, FUSE_OPEN, f, ARG(in), NONE), 0);
    assert_int_equal(getattr(k, f), 0);
    assert_int_equal(REPLY(k, fuse_attr_out)->attr.mode & 07777, 0777);
}

static void cache_flags(void **state)
{
    struct kernel *k = *state;
    uint64_t fh, w, f = create(k, 1, "f", O_RDWR, &w);
    assert_int_equal(open_(k, FUSE_OPEN, f, O_RDONLY, &fh), 0);
    /* nothing but what we said when it was created; and nobody has locks */
    assert_int_equal(REPLY(k, fuse_open_out)->open_flags, FOPEN_KEEP_CACHE | FOPEN_NOFLUSH);
    write_(k, f, w, "x", 0);
    assert_int_equal(getattr(k, f), 0); /* now the kernel learns that it changed */
    assert_int_equal(open_(k, FUSE_OPEN, f, O_RDWR, &fh), 0);
    assert_int_equal(REPLY(k, fuse_open_out)->open_flags, 0);
    assert_int_equal(open_(k, FUSE_OPEN, f, O_RDWR, &fh), 0);
    assert_int_equal(REPLY(k, fuse_open_out)->open_flags, FOPEN_KEEP_CACHE);
    /* where there are locks, closing must be told */
    assert_int_equal(setlk(k, FUSE_SETLK, f, fh, 1, F_WRLCK), 0);
    assert_int_equal(open_(k, FUSE_OPEN, f, O_RDONLY, &fh), 0);
    assert_int_equal(REPLY(k, fuse_open_out)->open_flags, FOPEN_KEEP_CACHE);

    uint64_t d = mkdir_(k, 1, "d");
    assert_int_equal(open_(k, FUSE_OPENDIR, d, O_RDONLY, &fh), 0);
    assert_int_equal(REPLY(k, fuse_open_out)->open_flags, FOPEN_CACHE_DIR);
    assert_int_equal(open_(k, FUSE_OPENDIR, d, O_RDONLY, &fh), 0);
    assert_int_equal(REPLY(k, fuse_open_out)->open_flags, FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE);
    mkdir_(k, d, "sub");
    assert_int_equal(getattr(k, d), 0);
    assert_int_equal(open_(k, FUSE_OPENDIR, d, O_RDONLY, &fh), 0);
    assert_int_equal(REPLY(k, fuse_open_out)->open_flags, FOPEN_CACHE_DIR);
}

static void tmpfile_(void **state)
{
    struct kernel *k = *state;
    struct fuse_create_in in = {O_RDWR, S_IFREG | 0600, 0, 0};
    int r = ask(k, FUSE_TMPFILE, 1, ARG(in), STR("/"));
    if (!pl_tree_has(k->tree, PL_OP_tmpfile)) {
        assert_int_equal(r, -ENOSYS);
        return;
    }
    assert_int_equal(r, 0);
    uint64_t f = REPLY(k, fuse_entry_out)->nodeid;
    assert_int_equal(REPLY(k, fuse_entry_out)->attr.nlink, 0);
    struct fuse_link_in link = {f};
    assert_int_equal(ask(k, FUSE_LINK, 1, ARG(link), STR("named")), 0);
    assert_int_equal(lookup(k, 1, "named"), f);
}

/* ---- directories ----------------------------------------------------------------------------- */

/* Reads the directory in pieces of `size` bytes; marks each entry that begins with 'f' in `seen`
 * and notes nodeids. The number of entries. */
static unsigned list(struct kernel *k, uint64_t d, bool plus, uint32_t size, unsigned n,
                     unsigned char *seen, uint64_t *ids)
{
    uint64_t fh, off = 0;
    unsigned count = 0;
    size_t head = plus ? sizeof(struct fuse_entry_out) : 0;
    assert_int_equal(open_(k, FUSE_OPENDIR, d, O_RDONLY, &fh), 0);
    for (;;) {
        struct fuse_read_in in = {.fh = fh, .offset = off, .size = size};
        assert_int_equal(ask(k, plus ? FUSE_READDIRPLUS : FUSE_READDIR, d, ARG(in), NONE), 0);
        assert_true(k->got <= size);
        if (k->got == 0)
            break;
        for (size_t at = 0; at < k->got;) {
            struct fuse_dirent e;
            struct fuse_entry_out out = {0};
            memcpy(&out, k->reply + at, head);
            memcpy(&e, k->reply + at + head, sizeof(e));
            const char *name = k->reply + at + head + sizeof(e);
            unsigned i;
            if (*name == 'f' && sscanf(name, "f%u", &i) == 1) {
                assert_true(i < n);
                assert_int_equal(e.type, DT_REG);
                seen[i]++;
                ids[i] = out.nodeid;
                if (plus) {
                    assert_true(out.nodeid > 1);
                    assert_int_equal(out.attr.ino, e.ino);
                }
            } else {
                assert_int_equal(out.nodeid, 0);
                assert_true(*name == '.' && e.namelen <= 2);
            }
            off = e.off;
            at += FUSE_PAD(head + sizeof(e) + e.namelen);
            assert_true(at <= k->got);
            count++;
        }
    }
    assert_int_equal(release(k, FUSE_RELEASEDIR, d, fh), 0);
    return count;
}

static void directories(void **state)
{
    struct kernel *k = *state;
    enum { N = 1000 };
    static unsigned char seen[N];
    static uint64_t ids[N];
    uint64_t d = mkdir_(k, 1, "d"), fh;
    for (unsigned i = 0; i < N; i++) {
        char name[16];
        snprintf(name, sizeof(name), "f%u", i);
        uint64_t f = create(k, d, name, O_RDWR, &fh);
        assert_int_equal(release(k, FUSE_RELEASE, f, fh), 0);
        forget(k, f, 1);
    }
    static const uint32_t sizes[] = {4096, 400, 70000};
    for (unsigned s = 0; s < 3; s++) {
        for (int plus = 0; plus < 2; plus++) {
            memset(seen, 0, sizeof(seen));
            assert_int_equal(list(k, d, plus, sizes[s], N, seen, ids), N + 2);
            for (unsigned i = 0; i < N; i++)
                assert_int_equal(seen[i], 1);
            /* Each entry with attributes is owed once, also where a piece ended. */
            for (unsigned i = 0; plus && i < N; i++) {
                assert_int_equal(getattr(k, ids[i]), 0);
                forget(k, ids[i], 1);
                assert_true(gone(k, ids[i]));
            }
        }
    }
    struct fuse_fsync_in sync = {0, 0, 0};
    assert_int_equal(open_(k, FUSE_OPENDIR, d, O_RDONLY, &sync.fh), 0);
    int r = ask(k, FUSE_FSYNCDIR, d, ARG(sync), NONE);
    assert_true(r == 0 || r == -ENOSYS);
    struct fuse_read_in in = {.fh = sync.fh, .offset = 0, .size = 100};
    assert_int_equal(ask(k, FUSE_READDIR, d, ARG(in), NONE), 0);
    in.size = 8 << 20;
    assert_int_equal(ask(k, FUSE_READDIR, d, ARG(in), NONE), -EINVAL);
    in = (struct fuse_read_in){.fh = 4711, .size = 100};
    assert_int_equal(ask(k, FUSE_READDIR, d, ARG(in), NONE), -EBADF);
}

/* Lists the directory once: how many entries come with attributes. */
static unsigned with_attributes(struct kernel *k, uint64_t d)
{
    uint64_t fh;
    unsigned n = 0;
    assert_int_equal(open_(k, FUSE_OPENDIR, d, O_RDONLY, &fh), 0);
    struct fuse_read_in in = {.fh = fh, .size = 32768};
    assert_int_equal(ask(k, FUSE_READDIRPLUS, d, ARG(in), NONE), 0);
    for (size_t at = 0; at < k->got;) {
        struct fuse_entry_out out;
        struct fuse_dirent e;
        memcpy(&out, k->reply + at, sizeof(out));
        memcpy(&e, k->reply + at + sizeof(out), sizeof(e));
        n += out.nodeid != 0;
        at += FUSE_PAD(sizeof(out) + sizeof(e) + e.namelen);
    }
    assert_int_equal(release(k, FUSE_RELEASEDIR, d, fh), 0);
    return n;
}

/* Who walks a tree for names alone is soon spared the attributes; who wants them is not. */
static void listers(void **state)
{
    struct kernel *k = *state;
    uint64_t dirs[6], fh;
    for (int i = 0; i < 6; i++) {
        char name[] = {(char)('a' + i), 0};
        dirs[i] = mkdir_(k, 1, name);
        mkdir_(k, dirs[i], "sub");
        for (int j = 0; j < 3; j++) {
            char file[] = {'f', (char)('0' + j), 0};
            create(k, dirs[i], file, O_RDWR, &fh);
        }
    }
    for (k->pid = 1001; k->pid <= 1002; k->pid++) {
        assert_int_equal(with_attributes(k, dirs[0]), 4);
        assert_int_equal(with_attributes(k, dirs[1]), 4);
        assert_int_equal(with_attributes(k, dirs[2]), 1); /* the test: only what is a directory */
        if (k->pid == 1002)
            lookup(k, dirs[2], "f1"); /* this one wants them */
        lookup(k, dirs[2], "sub");    /* which is no sign of it */
        assert_int_equal(with_attributes(k, dirs[3]), k->pid == 1002 ? 4 : 1);
        assert_int_equal(with_attributes(k, dirs[4]), k->pid == 1002 ? 4 : 1);
    }
    k->pid = 1001; /* and changes his mind */
    lookup(k, dirs[4], "f2");
    assert_int_equal(with_attributes(k, dirs[5]), 4);
    k->pid = 1003;
    assert_int_equal(with_attributes(k, dirs[5]), 4);
    k->pid = 0;
}

/* ---- extended attributes --------------------------------------------------------------------- */

static void xattrs(void **state)
{
    struct kernel *k = *state;
    uint64_t d = mkdir_(k, 1, "d");
    struct fuse_setxattr_in set = {5, 0, 0, 0};
    char value[2][20] = {"user.a\0value", "user.b\0"};
    assert_int_equal(ask(k, FUSE_SETXATTR, d, ARG(set), BYTES(value[0], 12)), 0);
    set = (struct fuse_setxattr_in){5, XATTR_CREATE, 0, 0};
    assert_int_equal(ask(k, FUSE_SETXATTR, d, ARG(set), BYTES(value[0], 12)), -EEXIST);
    set = (struct fuse_setxattr_in){0, 0, 0, 0};
    assert_int_equal(ask(k, FUSE_SETXATTR, d, ARG(set), BYTES(value[1], 7)), 0);

    struct fuse_getxattr_in get = {0, 0};
    assert_int_equal(ask(k, FUSE_GETXATTR, d, ARG(get), STR("user.a")), 0);
    assert_int_equal(k->got, sizeof(struct fuse_getxattr_out));
    assert_int_equal(REPLY(k, fuse_getxattr_out)->size, 5);
    get.size = 3;
    assert_int_equal(ask(k, FUSE_GETXATTR, d, ARG(get), STR("user.a")), -ERANGE);
    get.size = 65536;
    assert_int_equal(ask(k, FUSE_GETXATTR, d, ARG(get), STR("user.a")), 0);
    assert_int_equal(k->got, 5);
    assert_memory_equal(k->reply, "value", 5);
    assert_int_equal(ask(k, FUSE_GETXATTR, d, ARG(get), STR("user.none")), -ENODATA);
    assert_int_equal(ask(k, FUSE_LISTXATTR, d, ARG(get), NONE), 0);
    assert_int_equal(k->got, 14);
    get.size = 0;
    assert_int_equal(ask(k, FUSE_LISTXATTR, d, ARG(get), NONE), 0);
    assert_int_equal(REPLY(k, fuse_getxattr_out)->size, 14);
    get.size = 5;
    assert_int_equal(ask(k, FUSE_LISTXATTR, d, ARG(get), NONE), -ERANGE);
    assert_int_equal(ask(k, FUSE_REMOVEXATTR, d, STR("user.a"), NONE), 0);
    assert_int_equal(ask(k, FUSE_REMOVEXATTR, d, STR("user.a"), NONE), -ENODATA);

    /* a value as large as there may be, which is in the large buffer */
    char *big = malloc(65536 + 7);
    memset(big, 'v', 65536 + 7);
    memcpy(big, "user.b", 7);
    set = (struct fuse_setxattr_in){65536, 0, 0, 0};
    assert_int_equal(ask(k, FUSE_SETXATTR, d, ARG(set), BYTES(big, 65536 + 7)), 0);
    get.size = 65536;
    assert_int_equal(ask(k, FUSE_GETXATTR, d, ARG(get), STR("user.b")), 0);
    assert_int_equal(k->got, 65536);
    assert_memory_equal(k->reply, big + 7, 65536);
    free(big);
}

/* What a tree does not have the kernel is told once and for all, and only that. */
static void without(void **state)
{
    struct pl_made *m = pl_made_new();
    pl_made_text(m, "f", "text");
    struct pl_tree *t = pl_made_tree(m);
    struct kernel *k = kernel_over(t, NULL);
    assert_false(t->flags & PL_TREE_XATTR);
    struct fuse_getxattr_in get = {100, 0};
    struct fuse_setxattr_in set = {1, 0, 0, 0};
    assert_int_equal(ask(k, FUSE_GETXATTR, 1, ARG(get), STR("user.a")), -ENOSYS);
    assert_int_equal(ask(k, FUSE_LISTXATTR, 1, ARG(get), NONE), -ENOSYS);
    assert_int_equal(ask(k, FUSE_SETXATTR, 1, ARG(set), BYTES("user.a\0v", 8)), -ENOSYS);
    assert_int_equal(ask(k, FUSE_REMOVEXATTR, 1, STR("user.a"), NONE), -ENOSYS);
    struct fuse_create_in tmp = {O_RDWR, S_IFREG | 0600, 0, 0};
    assert_int_equal(ask(k, FUSE_TMPFILE, 1, ARG(tmp), STR("/")), -ENOSYS);
    assert_int_equal(k->stats.errors, 0);
    struct fuse_mkdir_in dir = {0755, 0};
    int r = ask(k, FUSE_MKDIR, 1, ARG(dir), STR("d"));
    assert_true(r < 0 && r != -ENOSYS);
    assert_int_equal(kernel_end(k), 0);
    pl_tree_unref(t);
}

/* ---- locks ----------------------------------------------------------------------------------- */

static void interrupt(struct kernel *k, uint64_t unique)
{
    struct fuse_interrupt_in in = {unique};
    struct fuse_in_header h = {.len = sizeof(h) + sizeof(in),
                               .opcode = FUSE_INTERRUPT,
                               .unique = unique | FUSE_INT_REQ_BIT};
    struct iovec iov[2] = {{&h, sizeof(h)}, {&in, sizeof(in)}};
    assert_int_equal(writev(k->fd, iov, 2), h.len);
}

/* As the kernel does, until the request has ended: asks again on EAGAIN. Its error. */
static int interrupted(struct kernel *k, uint64_t unique)
{
    interrupt(k, unique);
    for (;;) {
        uint64_t got;
        int error = take(k, &got);
        if (got == unique)
            return error;
        assert_int_equal(got, unique | FUSE_INT_REQ_BIT);
        assert_int_equal(error, -EAGAIN);
        interrupt(k, unique);
    }
}

static void locks(void **state)
{
    struct kernel *k = *state;
    uint64_t fh, f = create(k, 1, "f", O_RDWR, &fh), got;
    assert_int_equal(setlk(k, FUSE_SETLK, f, fh, 1, F_WRLCK), 0);
    assert_int_equal(setlk(k, FUSE_SETLK, f, fh, 2, F_RDLCK), -EAGAIN);
    struct fuse_lk_in in = {.fh = fh, .owner = 2, .lk = {0, INT64_MAX, F_RDLCK, 7}};
    assert_int_equal(ask(k, FUSE_GETLK, f, ARG(in), NONE), 0);
    struct fuse_file_lock lk = REPLY(k, fuse_lk_out)->lk;
    assert_int_equal(lk.type, F_WRLCK);
    assert_int_equal(lk.start, 0);
    assert_int_equal(lk.end, 99);
    assert_int_equal(lk.pid, 42);

    /* one waits until the other unlocks */
    in.lk = (struct fuse_file_lock){0, 99, F_WRLCK, 7};
    uint64_t waiting = post(k, FUSE_SETLKW, f, ARG(in), NONE, NONE);
    assert_int_equal(getattr(k, f), 0);
    struct fuse_lk_in un = {.fh = fh, .owner = 1, .lk = {0, 99, F_UNLCK, 42}};
    uint64_t unlock = post(k, FUSE_SETLK, f, ARG(un), NONE, NONE);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(take(k, &got), 0);
        assert_true(got == waiting || got == unlock);
    }
    /* one is interrupted */
    in.owner = 3;
    waiting = post(k, FUSE_SETLKW, f, ARG(in), NONE, NONE);
    assert_int_equal(interrupted(k, waiting), -EINTR);
    /* a close ends the locks of its owner, an unknown request cannot be interrupted */
    struct fuse_flush_in flush = {.fh = fh, .lock_owner = 2};
    assert_int_equal(ask(k, FUSE_FLUSH, f, ARG(flush), NONE), 0);
    assert_int_equal(setlk(k, FUSE_SETLK, f, fh, 3, F_WRLCK), 0);
    interrupt(k, 1234568);
    assert_int_equal(take(k, &got), -EAGAIN);
    assert_int_equal(got, 1234569);
    in.lk.type = 77;
    assert_int_equal(ask(k, FUSE_SETLK, f, ARG(in), NONE), -EINVAL);
    in.fh = 99;
    assert_int_equal(ask(k, FUSE_SETLK, f, ARG(in), NONE), -EBADF);
}

static void flocks(void **state)
{
    struct kernel *k = *state;
    uint64_t a, f = create(k, 1, "f", O_RDWR, &a), b;
    assert_int_equal(open_(k, FUSE_OPEN, f, O_RDONLY, &b), 0);
    struct fuse_lk_in in = {
        .fh = a, .owner = 10, .lk = {0, INT64_MAX, F_WRLCK, 1}, .lk_flags = FUSE_LK_FLOCK};
    assert_int_equal(ask(k, FUSE_SETLK, f, ARG(in), NONE), 0);
    in.fh = b;
    in.owner = 11;
    in.lk.type = F_RDLCK;
    assert_int_equal(ask(k, FUSE_SETLK, f, ARG(in), NONE), -EAGAIN);
    struct fuse_release_in rel = {
        .fh = a, .release_flags = FUSE_RELEASE_FLOCK_UNLOCK, .lock_owner = 10};
    assert_int_equal(ask(k, FUSE_RELEASE, f, ARG(rel), NONE), 0);
    assert_int_equal(ask(k, FUSE_SETLK, f, ARG(in), NONE), 0);
}

/* Many wait, with one thread to run: the next request is served all the same, and the end comes. */
static void crowd(void **state)
{
    struct pl_tree *t = mem();
    struct fuse_opts opts;
    fuse_opts_init(&opts);
    opts.threads = 1;
    struct kernel *k = kernel_over(t, &opts);
    enum { N = 200 };
    uint64_t fh, f = create(k, 1, "f", O_RDWR, &fh), got;
    uint64_t waiting[N];
    bool answered[N] = {false};
    assert_int_equal(setlk(k, FUSE_SETLK, f, fh, 1, F_WRLCK), 0);
    struct fuse_lk_in in = {.fh = fh, .lk = {0, 99, F_RDLCK, 7}};
    for (unsigned i = 0; i < N; i++) {
        in.owner = 100 + i;
        waiting[i] = post(k, FUSE_SETLKW, f, ARG(in), NONE, NONE);
    }
    assert_int_equal(getattr(k, f), 0);
    assert_int_equal(interrupted(k, waiting[17]), -EINTR);
    answered[17] = true;
    struct fuse_lk_in un = {.fh = fh, .owner = 1, .lk = {0, 99, F_UNLCK, 42}};
    uint64_t unlock = post(k, FUSE_SETLK, f, ARG(un), NONE, NONE);
    for (int n = 0; n < N; n++) {
        assert_int_equal(take(k, &got), 0);
        unsigned i = 0;
        while (i < N && waiting[i] != got)
            i++;
        assert_true(i < N ? !answered[i] : got == unlock);
        if (i < N)
            answered[i] = true;
    }
    assert_int_equal(kernel_end(k), 0);
    pl_tree_unref(t);
}

/* Those that wait when the mount ends are let go. */
static void end_while_waiting(void **state)
{
    struct pl_tree *t = mem();
    struct kernel *k = kernel_over(t, NULL);
    uint64_t fh, f = create(k, 1, "f", O_RDWR, &fh);
    assert_int_equal(setlk(k, FUSE_SETLK, f, fh, 1, F_WRLCK), 0);
    struct fuse_lk_in in = {.fh = fh, .lk = {0, 99, F_RDLCK, 7}};
    for (unsigned i = 0; i < 50; i++) {
        in.owner = 100 + i;
        post(k, FUSE_SETLKW, f, ARG(in), NONE, NONE);
    }
    assert_int_equal(kernel_end(k), 0);
    pl_tree_unref(t);
}

/* ---- streams --------------------------------------------------------------------------------- */

static void streams(void **state)
{
    struct pl_made *m = pl_made_new();
    struct pl_stream *s = pl_made_stream(m, "events", 4096);
    struct pl_tree *t = pl_made_tree(m);
    struct kernel *k = kernel_over(t, NULL);
    uint64_t fh, got, f = lookup(k, 1, "events");
    assert_int_equal(open_(k, FUSE_OPEN, f, O_RDONLY, &fh), 0);
    uint32_t flags = REPLY(k, fuse_open_out)->open_flags;
    assert_true(flags & FOPEN_STREAM && flags & FOPEN_NONSEEKABLE && flags & FOPEN_DIRECT_IO);

    /* poll: nothing yet; told once when there is */
    struct fuse_poll_in p = {fh, 4242, FUSE_POLL_SCHEDULE_NOTIFY, POLLIN};
    assert_int_equal(ask(k, FUSE_POLL, f, ARG(p), NONE), 0);
    assert_int_equal(REPLY(k, fuse_poll_out)->revents & POLLIN, 0);
    pl_stream_send(s, "one\n", 4);
    assert_int_equal(take(k, &got), FUSE_NOTIFY_POLL);
    assert_int_equal(got, 0);
    assert_int_equal(k->got, sizeof(struct fuse_notify_poll_out));
    assert_int_equal(REPLY(k, fuse_notify_poll_out)->kh, 4242);
    pl_stream_send(s, "two\n", 4);
    assert_int_equal(ask(k, FUSE_POLL, f, ARG(p), NONE), 0);
    assert_true(REPLY(k, fuse_poll_out)->revents & POLLIN);

    /* read: what there is; then it waits; then it is interrupted */
    assert_int_equal(read_(k, f, fh, 0, 100), 0);
    assert_int_equal(k->got, 8);
    p.flags = 0;
    assert_int_equal(ask(k, FUSE_POLL, f, ARG(p), NONE), 0);
    assert_int_equal(REPLY(k, fuse_poll_out)->revents & POLLIN, 0);
    struct fuse_read_in in = {.fh = fh, .size = 100};
    uint64_t waiting = post(k, FUSE_READ, f, ARG(in), NONE, NONE);
    assert_int_equal(interrupted(k, waiting), -EINTR);
    in.flags = O_NONBLOCK;
    assert_int_equal(ask(k, FUSE_READ, f, ARG(in), NONE), -EAGAIN);
    in.flags = 0;
    waiting = post(k, FUSE_READ, f, ARG(in), NONE, NONE);
    assert_int_equal(getattr(k, f), 0);
    pl_stream_send(s, "three\n", 6);
    uint64_t unique;
    int error;
    do /* the poll above may still be owed a word */
        error = take(k, &unique);
    while (unique == 0);
    assert_int_equal(unique, waiting);
    assert_int_equal(error, 0);
    assert_memory_equal(k->reply, "three\n", 6);
    post(k, FUSE_READ, f, ARG(in), NONE, NONE); /* waits when the mount ends */
    assert_int_equal(kernel_end(k), 0);
    pl_tree_unref(t);
}

/* ---- the rest -------------------------------------------------------------------------------- */

static void odds(void **state)
{
    struct kernel *k = *state;
    assert_int_equal(ask(k, FUSE_STATFS, 1, NONE, NONE), 0);
    assert_int_equal(k->got, sizeof(struct fuse_statfs_out));
    assert_int_equal(REPLY(k, fuse_statfs_out)->namelen, 255);
    assert_true(REPLY(k, fuse_statfs_out)->bsize > 0);
    struct fuse_access_in acc = {R_OK | W_OK, 0};
    assert_int_equal(ask(k, FUSE_ACCESS, 1, ARG(acc), NONE), 0);
    k->uid = 4711;
    assert_int_equal(ask(k, FUSE_ACCESS, 1, ARG(acc), NONE), -EACCES);
    k->uid = 0;
    struct fuse_none_in none = {0};
    assert_int_equal(ask(k, FUSE_SYNCFS, 1, ARG(none), NONE), 0);

    uint64_t fh, f = create(k, 1, "f", O_RDWR, &fh);
    struct fuse_ioctl_in io = {.fh = fh, .cmd = 0x5401, .in_size = 4, .out_size = 4};
    assert_int_equal(ask(k, FUSE_IOCTL, f, ARG(io), BYTES("1234", 4)), -ENOTTY);
    io.flags = FUSE_IOCTL_UNRESTRICTED;
    assert_int_equal(ask(k, FUSE_IOCTL, f, ARG(io), BYTES("1234", 4)), -ENOTTY);
    io = (struct fuse_ioctl_in){.fh = fh, .out_size = 0x7fffffff};
    assert_int_equal(ask(k, FUSE_IOCTL, f, ARG(io), NONE), -EINVAL);
    struct fuse_poll_in p = {fh, 1, FUSE_POLL_SCHEDULE_NOTIFY, POLLIN};
    int r = ask(k, FUSE_POLL, f, ARG(p), NONE);
    assert_true(r == 0 || r == -ENOSYS);

    assert_int_equal(ask(k, 37, f, NONE, NONE), -ENOSYS);                       /* BMAP */
    assert_int_equal(ask(k, 48, f, NONE, NONE), -ENOSYS);                       /* SETUPMAPPING */
    assert_int_equal(ask(k, 4096, f, NONE, NONE), -ENOSYS);                     /* CUSE_INIT */
    assert_int_equal(ask(k, FUSE_INIT, 0, BYTES(k->reply, 16), NONE), -ENOSYS); /* again */
    assert_int_equal(ask(k, FUSE_LOOKUP, 1, BYTES("no end", 6), NONE), -EINVAL);
    assert_int_equal(ask(k, FUSE_LOOKUP, 1, BYTES("", 1), NONE), -EINVAL);
    assert_int_equal(ask(k, FUSE_LOOKUP, 1, STR("a/b"), NONE), -EINVAL);
    assert_int_equal(ask(k, FUSE_GETATTR, 1, NONE, NONE), -EINVAL);
    post(k, FUSE_NOTIFY_REPLY, 0, BYTES("xyz", 3), NONE, NONE);
    assert_int_equal(ask(k, FUSE_DESTROY, 0, NONE, NONE), 0);
    assert_int_equal(getattr(k, 1), 0);
    assert_true(silent(k));
}

/* The errors of a tree reach the kernel, and ENOSYS, which it would remember, does not. */
static void errors(void **state)
{
    static const struct {
        int given, sent;
    } cases[] = {{-EIO, -EIO}, {-EOPNOTSUPP, -EOPNOTSUPP}, {-ENOSYS, -EOPNOTSUPP}, {-3000, -EIO}};
    for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct pl_tree *t = pl_fault_new(PL_OP_getattr, cases[i].given, 2, UINT64_MAX, mem());
        struct kernel *k = kernel_over(t, NULL); /* attaching takes one getattr */
        int last = 0;
        for (int n = 0; n < 3; n++)
            last = getattr(k, 1);
        assert_int_equal(last, cases[i].sent);
        assert_true(k->stats.errors > 0);
        assert_int_equal(kernel_end(k), 0);
        pl_tree_unref(t);
    }
    /* what was made but cannot be opened leaves nothing known */
    struct pl_tree *t = pl_fault_new(PL_OP_open, -EIO, 0, UINT64_MAX, mem());
    struct kernel *k = kernel_over(t, NULL);
    uint64_t fh;
    struct fuse_open_in in = {O_RDONLY, 0};
    mkdir_(k, 1, "d");
    assert_int_equal(ask(k, FUSE_OPENDIR, lookup(k, 1, "d"), ARG(in), NONE), -EIO);
    assert_int_equal(open_(k, FUSE_OPENDIR, 1, 0, &fh), -EIO);
    assert_int_equal(kernel_end(k), 0);
    pl_tree_unref(t);
}

/* The groups of the caller come from /proc, the umask from the request. */
static void groups(void **state)
{
    struct kernel *k = *state;
    struct fuse_setattr_in in = {.valid = FATTR_GID | FATTR_MODE, .gid = 0, .mode = 0770};
    uint64_t d = mkdir_(k, 1, "d");
    /* a process of another user that has group 7008 */
    gid_t list[] = {7001, 7008};
    int ready[2];
    if (getuid() != 0)
        skip();
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        if (setgroups(2, list) == 0 && write(ready[1], "r", 1) == 1)
            pause();
        _exit(1);
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    in.gid = 7008;
    assert_int_equal(ask(k, FUSE_SETATTR, d, ARG(in), NONE), 0);
    k->uid = 4711; /* and gid */
    struct fuse_access_in acc = {W_OK, 0};
    k->pid = 0;
    assert_int_equal(ask(k, FUSE_ACCESS, d, ARG(acc), NONE), -EACCES);
    k->pid = 0x7ffffff0;
    assert_int_equal(ask(k, FUSE_ACCESS, d, ARG(acc), NONE), -EACCES);
    k->pid = (uint32_t)child;
    assert_int_equal(ask(k, FUSE_ACCESS, d, ARG(acc), NONE), 0);
    k->uid = k->pid = 0;
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(ready[0]);
    close(ready[1]);
}

/* Hundreds of requests at once, with as many answers as requests. */
static void flood(void **state)
{
    struct kernel *k = *state;
    enum { N = 300 };
    uint64_t seen[N] = {0}, first = k->unique + 2;
    struct fuse_getattr_in in = {0};
    for (int i = 0; i < N; i++)
        post(k, FUSE_GETATTR, 1, ARG(in), NONE, NONE);
    for (int i = 0; i < N; i++) {
        uint64_t u;
        assert_int_equal(take(k, &u), 0);
        assert_true(u >= first && (u - first) / 2 < N);
        seen[(u - first) / 2]++;
    }
    for (int i = 0; i < N; i++)
        assert_int_equal(seen[i], 1);
}

#define EACH(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        EACH(init),
        cmocka_unit_test(init_by_flags),
        cmocka_unit_test(init_old),
        cmocka_unit_test(init_variants),
        cmocka_unit_test(subtree),
        EACH(names),
        EACH(renames),
        EACH(negative),
        cmocka_unit_test(counts),
        EACH(bytes),
        EACH(large),
        EACH(copies),
        EACH(attributes),
        EACH(killpriv),
        EACH(cache_flags),
        EACH(listers),
        EACH(tmpfile_),
        EACH(directories),
        EACH(xattrs),
        cmocka_unit_test(without),
        EACH(locks),
        EACH(flocks),
        cmocka_unit_test(crowd),
        cmocka_unit_test(end_while_waiting),
        cmocka_unit_test(streams),
        EACH(odds),
        cmocka_unit_test(errors),
        EACH(groups),
        EACH(flood),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
