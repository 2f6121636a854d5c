/* SPDX-License-Identifier: MIT */
/* Opens that never leave the kernel, with a scripted kernel: what it is told to spare, and how what
 * names the node alone is answered. And the features of the kernel, by name. */
#include "fuse/features.h"
#include "fuse_kernel.h"
#include <sys/stat.h>

static struct fuse_opts noopen_opts(void)
{
    struct fuse_opts opts;
    fuse_opts_init(&opts);
    opts.kernel_checks = true;
    opts.opens = FUSE_OFF;
    return opts;
}

static int setup_noopen(void **state)
{
    struct fuse_opts opts = noopen_opts();
    *state = kernel_over(mem(), &opts);
    return 0;
}

/* A host directory, removed at the end. */
static char dir[] = "/tmp/noopen-XXXXXX";

static int setup_host(void **state)
{
    struct fuse_opts opts = noopen_opts();
    struct pl_tree *t;
    strcpy(dir + sizeof(dir) - 7, "XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(pl_host_open(dir, &t, NULL), 0);
    *state = t->flags & PL_TREE_STATELESS ? kernel_over(t, &opts) : NULL;
    if (!*state)
        pl_tree_unref(t); /* not root, or no ACLs there */
    return 0;
}

static int teardown_host(void **state)
{
    if (*state)
        teardown(state);
    char cmd[64];
    snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    return system(cmd);
}

/* How many descriptors of this process are open on something whose path begins so. */
static size_t open_on(const char *prefix)
{
    size_t n = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char path[300], to[300];
        snprintf(path, sizeof(path), "/proc/self/fd/%.20s", e->d_name);
        ssize_t len = readlink(path, to, sizeof(to) - 1);
        char flags[64] = "";
        snprintf(path, sizeof(path), "/proc/self/fdinfo/%.20s", e->d_name);
        FILE *f = len > 0 ? fopen(path, "re") : NULL;
        while (f && fgets(flags, sizeof(flags), f) && strncmp(flags, "flags:", 6) != 0)
            ;
        if (f)
            fclose(f);
        bool path_only = strtoul(flags + 6, NULL, 8) & O_PATH;
        n += len >= (ssize_t)strlen(prefix) && !strncmp(to, prefix, strlen(prefix)) && !path_only;
    }
    closedir(d);
    return n;
}

static void is(struct kernel *k, uint64_t node, const char *text)
{
    assert_int_equal(read_(k, node, 0, 0, 4096), 0);
    assert_int_equal(k->got, strlen(text));
    assert_memory_equal(k->reply, text, strlen(text));
}

/* ---- the tests ------------------------------------------------------------------------------- */

static void negotiates(void **state)
{
    struct kernel *k = *state;
    uint32_t want = FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT;
    uint32_t not = FUSE_ATOMIC_O_TRUNC | FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS;
    assert_int_equal(k->init.flags & want, want);
    assert_int_equal(k->init.flags & not, 0);
}

static void declines(void **state)
{
    struct kernel *k = *state;
    uint64_t fh, f = create(k, 1, "f", O_RDWR, &fh);
    struct fuse_flush_in flush = {0};
    struct fuse_poll_in poll = {0};
    assert_int_equal(fh, 0);
    assert_int_equal(open_(k, FUSE_OPEN, f, O_RDONLY, &fh), -ENOSYS);
    assert_int_equal(open_(k, FUSE_OPENDIR, 1, O_RDONLY, &fh), -ENOSYS);
    assert_int_equal(ask(k, FUSE_FLUSH, f, ARG(flush), NONE), -ENOSYS);
    assert_int_equal(ask(k, FUSE_POLL, f, ARG(poll), NONE), -ENOSYS);
    /* of what was created before the kernel had learnt it */
    assert_int_equal(release(k, FUSE_RELEASE, f, 0), 0);
    assert_int_equal(release(k, FUSE_RELEASEDIR, 1, 0), 0);
}

static void bytes(void **state)
{
    struct kernel *k = *state;
    uint64_t fh, f = create(k, 1, "f", O_WRONLY, &fh), g = create(k, 1, "g", O_RDONLY, &fh);
    assert_int_equal(write_(k, f, 0, "hello", 0), 5);
    is(k, f, "hello");
    assert_int_equal(write_(k, g, 0, "0123456789", 0), 10);
    struct fuse_copy_in copy = {.off_in = 2, .nodeid_out = f, .off_out = 5, .len = 3};
    assert_int_equal(ask(k, FUSE_COPY_FILE_RANGE, g, ARG(copy), NONE), 0);
    is(k, f, "hello234");
    copy.nodeid_out = 99;
    assert_int_equal(ask(k, FUSE_COPY_FILE_RANGE, g, ARG(copy), NONE), -ESTALE);
    struct fuse_setattr_in set = {.valid = FATTR_SIZE | FATTR_FH, .size = 4};
    assert_int_equal(ask(k, FUSE_SETATTR, f, ARG(set), NONE), 0);
    is(k, f, "hell");
    struct fuse_lseek_in seek = {.offset = 1, .whence = SEEK_HOLE};
    assert_int_equal(ask(k, FUSE_LSEEK, f, ARG(seek), NONE), 0);
    struct fuse_fallocate_in alloc = {.offset = 0, .length = 6};
    assert_int_equal(ask(k, FUSE_FALLOCATE, f, ARG(alloc), NONE), 0);
    assert_int_equal(getattr(k, f), 0);
    assert_int_equal(REPLY(k, fuse_attr_out)->attr.size, 6);
    /* a node that is none of ours, and what is no file */
    assert_int_equal(read_(k, 77, 0, 0, 10), -ESTALE);
    assert_int_equal(read_(k, 1, 0, 0, 10), -EISDIR);
}

/* By default, directories only. */
static void directories(void **state)
{
    struct fuse_opts opts = noopen_opts();
    struct pl_tree *t = mem();
    opts.opens = FUSE_AUTO;
    struct kernel *k = kernel_over(t, &opts);
    assert_int_equal(k->init.flags & FUSE_NO_OPEN_SUPPORT, 0);
    assert_true(k->init.flags & FUSE_NO_OPENDIR_SUPPORT);
    assert_true(k->init.flags & FUSE_POSIX_LOCKS);
    uint64_t fh, f = create(k, 1, "f", O_RDWR, &fh);
    assert_int_not_equal(fh, 0);
    assert_int_equal(write_(k, f, fh, "text", 0), 4);
    assert_int_equal(read_(k, f, 0, 0, 10), -EBADF);
    assert_int_equal(open_(k, FUSE_OPENDIR, 1, O_RDONLY, &fh), -ENOSYS);
    struct fuse_read_in in = {.size = 4096};
    assert_int_equal(ask(k, FUSE_READDIR, 1, ARG(in), NONE), 0);
    assert_int_not_equal(k->got, 0);
    struct fuse_fsync_in sync = {0};
    assert_int_equal(ask(k, FUSE_FSYNCDIR, 1, ARG(sync), NONE), -ENOSYS); /* mem has none */
    assert_int_equal(open_(k, FUSE_OPEN, f, O_RDONLY, &fh), 0);
    assert_int_equal(kernel_end(k), 0);
    /* not where the kernel is to believe nothing, nor where it checks nothing, nor if not wanted */
    for (int i = 0; i < 4; i++) {
        opts = noopen_opts();
        opts.opens = i == 0 ? FUSE_ON : FUSE_AUTO;
        opts.attr_timeout = i == 1 ? 0 : -1;
        opts.kernel_checks = i != 2;
        if (i == 3)
            t->flags &= ~(uint32_t)PL_TREE_STATELESS;
        k = kernel_over(t, &opts);
        assert_int_equal(k->init.flags & FUSE_NO_OPENDIR_SUPPORT, 0);
        assert_int_equal(open_(k, FUSE_OPENDIR, 1, O_RDONLY, &fh), 0);
        assert_int_equal(release(k, FUSE_RELEASEDIR, 1, fh), 0);
        assert_int_equal(kernel_end(k), 0);
    }
    pl_tree_unref(t);
}

/* Where the kernel believes the end to be does not matter, but for pages and others' flags. */
static void appends(void **state)
{
    struct kernel *k = *state;
    uint64_t fh, f = create(k, 1, "f", O_WRONLY | O_APPEND, &fh);
    assert_int_equal(write_as(k, f, 0, "one", 0, O_WRONLY | O_APPEND), 3);
    assert_int_equal(write_as(k, f, 0, "two", 1, O_WRONLY | O_APPEND), 3);
    is(k, f, "onetwo");
    assert_int_equal(write_as(k, f, 0, "X", 0, O_WRONLY), 1);
    is(k, f, "Xnetwo");
    struct fuse_write_in in = {
        .offset = 1, .size = 1, .flags = O_WRONLY | O_APPEND, .write_flags = FUSE_WRITE_CACHE};
    assert_int_equal(ask(k, FUSE_WRITE, f, ARG(in), BYTES("Y", 1)), 0);
    is(k, f, "XYetwo");
}

/* Who may open is the kernel's to say: what it asks later is answered whatever the mode. */
static void modes(void **state)
{
    struct kernel *k = *state;
    if (!k)
        skip();
    struct fuse_setattr_in set = {.valid = FATTR_MODE, .mode = S_IFREG};
    uint64_t fh, f = create(k, 1, "f", O_WRONLY, &fh);
    assert_int_equal(ask(k, FUSE_SETATTR, f, ARG(set), NONE), 0);
    k->uid = 4242;
    while (open_on(dir) > 1) /* but that of the tree's mount: the one of CREATE is closed too */
        ;
    assert_int_equal(write_(k, f, 0, "text", 0), 4);
    is(k, f, "text");
    k->uid = 0;
}

/* Files are open for a moment only, and never too many. */
static void bounded(void **state)
{
    struct kernel *k = *state;
    if (!k)
        skip();
    char name[20];
    size_t before = open_on(dir), most = 0;
    for (int i = 0; i < 600; i++) {
        uint64_t fh;
        snprintf(name, sizeof(name), "f%d", i);
        create(k, 1, name, O_RDWR, &fh);
        if (i % 50 == 49 && open_on(dir) > most)
            most = open_on(dir);
    }
    assert_true(most <= before + 256);
    while (open_on(dir) > before)
        ;
}

/* A directory is read on where it was left, by whatever open file. */
static void positions(void **state)
{
    struct kernel *k = *state;
    if (!k)
        skip();
    size_t before = open_on(dir), count = 0;
    char name[20];
    uint64_t d = mkdir_(k, 1, "d"), fh;
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "entry%d", i);
        create(k, d, name, O_RDWR, &fh);
    }
    struct fuse_read_in in = {.size = 500};
    for (int round = 0;; round++) {
        assert_int_equal(ask(k, FUSE_READDIR, d, ARG(in), NONE), 0);
        if (!k->got)
            break;
        for (size_t at = 0; at < k->got; count++) {
            struct fuse_dirent e;
            memcpy(&e, k->reply + at, sizeof(e));
            at += FUSE_PAD(sizeof(e) + e.namelen);
            in.offset = e.off;
        }
        while (round % 4 == 0 && open_on(dir) > before)
            ; /* it is closed: the next read opens it anew */
    }
    assert_int_equal(count, 102);
}

static void unlinked(void **state)
{
    struct kernel *k = *state;
    if (!k)
        skip();
    size_t before = open_on(dir);
    uint64_t fh, f = create(k, 1, "f", O_RDWR, &fh), g = create(k, 1, "g", O_RDWR, &fh);
    uint64_t d = mkdir_(k, 1, "d");
    struct fuse_create_in in = {O_RDWR, S_IFREG | 0600, 022, 0};
    assert_int_equal(write_(k, f, 0, "kept", 0), 4);
    assert_int_equal(write_(k, g, 0, "over", 0), 4);
    assert_int_equal(ask3(k, FUSE_TMPFILE, 1, ARG(in), STR("/"), NONE), 0);
    uint64_t t = REPLY(k, fuse_entry_out)->nodeid;
    assert_int_equal(write_(k, t, 0, "nameless", 0), 8);
    struct fuse_rename_in to = {.newdir = 1};
    create(k, 1, "h", O_RDWR, &fh);
    assert_int_equal(ask3(k, FUSE_RENAME, 1, BYTES(&to, 8), STR("h"), STR("g")), 0);
    assert_int_equal(ask(k, FUSE_UNLINK, 1, STR("f"), NONE), 0);
    assert_int_equal(ask(k, FUSE_RMDIR, 1, STR("d"), NONE), 0);
    while (open_on(dir) > before)
        ;
    is(k, f, "kept");
    is(k, g, "over");
    is(k, t, "nameless");
    assert_int_equal(write_(k, f, 0, "!", 4), 1);
    is(k, f, "kept!");
    assert_int_equal(getattr(k, d), 0);
    assert_int_equal(REPLY(k, fuse_attr_out)->attr.nlink, 0);
    forget(k, f, 1);
    assert_true(gone(k, f));
}

static void removed_behind(void **state)
{
    struct kernel *k = *state;
    if (!k)
        skip();
    size_t before = open_on(dir);
    char path[64];
    uint64_t fh, f = create(k, 1, "f", O_RDWR, &fh);
    assert_int_equal(write_(k, f, 0, "text", 0), 4);
    while (open_on(dir) > before)
        ;
    snprintf(path, sizeof(path), "%s/f", dir);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(read_(k, f, 0, 0, 10), -ESTALE);
    assert_int_equal(write_(k, f, 0, "text", 0), -ESTALE);
}

static void refused(void **state)
{
    struct pl_tree *t = mem();
    struct fuse_opts opts = noopen_opts();
    struct pl_err err;
    opts.kernel_checks = false;
    assert_int_equal(fuse_serve(-1, t, "", &opts, NULL, NULL, NULL, &err), -EINVAL);
    assert_non_null(strstr(err.text, "-o noopen: the kernel must check permissions"));
    opts = noopen_opts();
    opts.direct_io = true;
    assert_int_equal(fuse_serve(-1, t, "", &opts, NULL, NULL, NULL, &err), -EINVAL);
    opts = noopen_opts();
    t->flags &= ~(uint32_t)PL_TREE_STATELESS;
    assert_int_equal(fuse_serve(-1, t, "", &opts, NULL, NULL, NULL, &err), -EINVAL);
    assert_non_null(strstr(err.text, "depends on each open"));
    pl_tree_unref(t);
}

/* A kernel that cannot do it, or would not ask for ACLs, opens as ever. */
static void not_offered(void **state)
{
    static const uint64_t lacks[] = {FUSE_NO_OPEN_SUPPORT, FUSE_NO_OPENDIR_SUPPORT, FUSE_POSIX_ACL};
    for (size_t i = 0; i < sizeof(lacks) / sizeof(*lacks); i++) {
        struct pl_tree *t = mem();
        struct fuse_opts opts = noopen_opts();
        opts.mask = lacks[i];
        t->flags |= PL_TREE_POSIX_ACL;
        struct kernel *k = kernel_over(t, &opts);
        assert_true(k->init.flags & FUSE_POSIX_LOCKS);
        uint64_t fh, f = create(k, 1, "f", O_RDWR, &fh);
        assert_int_not_equal(fh, 0);
        assert_int_equal(release(k, FUSE_RELEASE, f, fh), 0);
        assert_int_equal(open_(k, FUSE_OPEN, f, O_RDONLY, &fh), 0);
        assert_int_equal(release(k, FUSE_RELEASE, f, fh), 0);
        assert_int_equal(kernel_end(k), 0);
        pl_tree_unref(t);
    }
}

static void features(void **state)
{
    uint64_t mask = 1;
    uint32_t minor = 1;
    char bad[64];
    assert_int_equal(fuse_features_parse("posix_acl", &mask, &minor, bad), 0);
    assert_int_equal(mask, FUSE_POSIX_ACL);
    assert_int_equal(minor, 0);
    assert_int_equal(fuse_features_parse("minor36:passthrough:async_read", &mask, &minor, bad), 0);
    assert_int_equal(mask, FUSE_PASSTHROUGH | FUSE_ASYNC_READ);
    assert_int_equal(minor, 36);
    static const char *const wrong[] = {"",       "x",        "posix_acl:", ":posix_acl", "minor",
                                        "minor0", "minor36x", "minor-3",    "POSIX_ACL"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        assert_int_equal(fuse_features_parse(wrong[i], &mask, &minor, bad), -EINVAL);
    assert_int_equal(mask, FUSE_PASSTHROUGH | FUSE_ASYNC_READ);
    assert_true(fuse_features_after(36) & FUSE_PASSTHROUGH);
    assert_false(fuse_features_after(36) & FUSE_INIT_EXT);
}

static void masked(void **state)
{
    struct pl_tree *t = mem();
    struct fuse_opts opts;
    fuse_opts_init(&opts);
    opts.mask = FUSE_POSIX_LOCKS;
    opts.mask_minor = 35;
    struct kernel *k = kernel_over(t, &opts);
    assert_int_equal(k->init.minor, 35);
    assert_int_equal(k->init.flags & (FUSE_POSIX_LOCKS | FUSE_INIT_EXT), 0);
    assert_int_equal(k->init.flags2, 0);
    assert_true(k->init.flags & FUSE_FLOCK_LOCKS);
    assert_int_equal(kernel_end(k), 0);
    opts.mask = FUSE_HANDLE_KILLPRIV_V2;
    opts.mask_minor = 0;
    k = kernel_over(t, &opts);
    assert_true(k->init.flags & FUSE_HANDLE_KILLPRIV);
    assert_int_equal(kernel_end(k), 0);
    k = kernel_over(t, NULL);
    assert_false(k->init.flags & FUSE_HANDLE_KILLPRIV);
    assert_int_equal(kernel_end(k), 0);
    pl_tree_unref(t);
}

#define NOOPEN(f) cmocka_unit_test_setup_teardown(f, setup_noopen, teardown)
#define HOST(f)   cmocka_unit_test_setup_teardown(f, setup_host, teardown_host)

int main(void)
{
    const struct CMUnitTest tests[] = {
        NOOPEN(negotiates),
        NOOPEN(declines),
        NOOPEN(bytes),
        NOOPEN(appends),
        cmocka_unit_test(directories),
        HOST(modes),
        HOST(bounded),
        HOST(positions),
        HOST(unlinked),
        HOST(removed_behind),
        cmocka_unit_test(refused),
        cmocka_unit_test(not_offered),
        cmocka_unit_test(features),
        cmocka_unit_test(masked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
