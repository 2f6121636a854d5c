/* SPDX-License-Identifier: MIT */
/* The FUSE door with a scripted kernel: extended attributes, locks, streams, and the rest. */
#include "fuse_kernel.h"

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

static void late(void **state)
{
    late_release(*state);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        EACH(xattrs),
        cmocka_unit_test(without),
        EACH(locks),
        EACH(flocks),
        EACH(late),
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
