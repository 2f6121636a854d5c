/* SPDX-License-Identifier: MIT */
/* The FUSE door with a scripted kernel: greeting, names, files and directories. */
#include "fuse_kernel.h"

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
    assert_true(k->init.flags2 & FUSE_DIRECT_IO_ALLOW_MMAP >> 32);
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
