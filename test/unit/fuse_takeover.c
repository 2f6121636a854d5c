/* SPDX-License-Identifier: MIT */
/* The FUSE door's servers are killed at every point of the journal, in every op that it notes: what
 * was asked is done once, and its answer is the right one. */
#include "fuse_line.h"
#include <sys/stat.h>

static char path_buf[4][256];

/* The host's path of a name. */
static const char *at(const char *name)
{
    static unsigned i;
    char *p = path_buf[i++ % 4];
    snprintf(p, sizeof(path_buf[0]), "%s/%s", line.dir, name);
    return p;
}

static struct stat on_host(const char *name)
{
    struct stat st;
    assert_int_equal(lstat(at(name), &st), 0);
    return st;
}

static void host_has(const char *name, const char *text)
{
    char buf[256];
    int fd = open(at(name), O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    ssize_t n = read(fd, buf, sizeof(buf) - 1);
    close(fd);
    assert_true(n >= 0);
    buf[n] = 0;
    assert_string_equal(buf, text);
}

static void host_file(const char *name, const char *text)
{
    int fd = open(at(name), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666);
    assert_true(fd >= 0);
    assert_int_equal(fchmod(fd, 0666), 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static bool absent(const char *name)
{
    return access(at(name), F_OK) < 0 && errno == ENOENT;
}

/* The name is that node, and the kernel owes exactly `n` lookups of it. */
static void owes(struct kernel *k, const char *name, uint64_t id, uint64_t n)
{
    assert_int_equal(lookup(k, 1, name), id);
    forget(k, id, n);
    assert_int_equal(getattr(k, id), 0);
    forget(k, id, 1);
    assert_true(gone(k, id));
}

/* ---- the ops: each is prepared, then done with the server dying on the way ------------------- */

struct deed {
    const char *name;
    void (*prepare)(struct kernel *k);
    void (*run)(struct kernel *k);
    void (*check)(struct kernel *k);
};

static uint64_t node, fh, fh2;

static void no_preparation(struct kernel *k) {}

static void run_mkdir(struct kernel *k)
{
    node = mkdir_(k, 1, "d");
}

static void check_mkdir(struct kernel *k)
{
    assert_true(S_ISDIR(on_host("d").st_mode));
    owes(k, "d", node, 1);
}

static void run_mknod(struct kernel *k)
{
    struct fuse_mknod_in in = {S_IFREG | 0600, 0, 022, 0};
    assert_int_equal(ask(k, FUSE_MKNOD, 1, ARG(in), STR("n")), 0);
    node = REPLY(k, fuse_entry_out)->nodeid;
}

static void check_mknod(struct kernel *k)
{
    assert_int_equal(on_host("n").st_mode, S_IFREG | 0600);
    owes(k, "n", node, 1);
}

static void run_symlink(struct kernel *k)
{
    assert_int_equal(ask(k, FUSE_SYMLINK, 1, STR("l"), STR("some/where")), 0);
    node = REPLY(k, fuse_entry_out)->nodeid;
}

static void check_symlink(struct kernel *k)
{
    assert_int_equal(ask(k, FUSE_READLINK, node, NONE, NONE), 0);
    assert_memory_equal(k->reply, "some/where", 10);
    owes(k, "l", node, 1);
}

static void prepare_file(struct kernel *k)
{
    host_file("f", "hello");
    node = lookup(k, 1, "f");
}

static void run_link(struct kernel *k)
{
    struct fuse_link_in in = {node};
    assert_int_equal(ask(k, FUSE_LINK, 1, ARG(in), STR("hard")), 0);
    assert_int_equal(REPLY(k, fuse_entry_out)->nodeid, node);
    assert_int_equal(REPLY(k, fuse_entry_out)->attr.nlink, 2);
}

static void check_link(struct kernel *k)
{
    assert_int_equal(on_host("hard").st_ino, on_host("f").st_ino);
    owes(k, "f", node, 2);
}

static void run_unlink(struct kernel *k)
{
    assert_int_equal(ask(k, FUSE_UNLINK, 1, STR("f"), NONE), 0);
}

static void check_unlink(struct kernel *k)
{
    assert_true(absent("f"));
    assert_int_equal(getattr(k, node), 0); /* the kernel still knows it */
    forget(k, node, 1);
    assert_true(gone(k, node));
}

static void prepare_dir(struct kernel *k)
{
    node = mkdir_(k, 1, "d");
}

static void run_rmdir(struct kernel *k)
{
    assert_int_equal(ask(k, FUSE_RMDIR, 1, STR("d"), NONE), 0);
}

static void check_rmdir(struct kernel *k)
{
    assert_true(absent("d"));
}

static void prepare_rename(struct kernel *k)
{
    prepare_file(k);
    host_file("g", "other");
    fh = mkdir_(k, 1, "d"); /* a nodeid */
}

static void rename_as(struct kernel *k, uint64_t dir, const char *from, const char *to,
                      uint32_t flags)
{
    struct fuse_rename_in in = {dir, flags, 0};
    assert_int_equal(ask3(k, FUSE_RENAME2, 1, ARG(in), STR(from), STR(to)), 0);
}

static void run_rename(struct kernel *k)
{
    rename_as(k, fh, "f", "moved", 0);
}

static void check_rename(struct kernel *k)
{
    assert_true(absent("f"));
    host_has("d/moved", "hello");
    assert_int_equal(getattr(k, node), 0);
    line_kill(k); /* and it is found there */
    assert_int_equal(getattr(k, node), 0);
}

static void run_rename_over(struct kernel *k)
{
    rename_as(k, 1, "f", "g", 0);
}

static void check_rename_over(struct kernel *k)
{
    assert_true(absent("f"));
    host_has("g", "hello");
    assert_int_equal(lookup(k, 1, "g"), node);
}

static void run_exchange(struct kernel *k)
{
    rename_as(k, 1, "f", "g", RENAME_EXCHANGE);
}

static void check_exchange(struct kernel *k)
{
    host_has("g", "hello");
    host_has("f", "other");
    assert_int_equal(lookup(k, 1, "g"), node);
}

static void run_create(struct kernel *k)
{
    struct fuse_create_in in = {O_RDWR | O_CREAT | O_EXCL, S_IFREG | 0400, 022, 0};
    struct fuse_open_out open;
    assert_int_equal(ask(k, FUSE_CREATE, 1, ARG(in), STR("c")), 0);
    node = REPLY(k, fuse_entry_out)->nodeid;
    memcpy(&open, k->reply + sizeof(struct fuse_entry_out), sizeof(open));
    fh = open.fh;
}

static void check_create(struct kernel *k)
{
    assert_int_equal(on_host("c").st_mode, S_IFREG | 0400);
    assert_int_equal(write_(k, node, fh, "text", 0), 4);
    line_kill(k);
    assert_int_equal(write_(k, node, fh, "more", 4), 4);
    host_has("c", "textmore");
    assert_int_equal(release(k, FUSE_RELEASE, node, fh), 0);
    owes(k, "c", node, 1);
}

static void run_create_there(struct kernel *k)
{
    node = create(k, 1, "f", O_RDWR | O_TRUNC, &fh);
}

static void check_create_there(struct kernel *k)
{
    host_has("f", "");
    assert_int_equal(release(k, FUSE_RELEASE, node, fh), 0);
    owes(k, "f", node, 2);
}

static void run_tmpfile(struct kernel *k)
{
    struct fuse_create_in in = {O_RDWR, S_IFREG | 0600, 0, 0};
    struct fuse_open_out open;
    assert_int_equal(ask(k, FUSE_TMPFILE, 1, ARG(in), STR("/")), 0);
    node = REPLY(k, fuse_entry_out)->nodeid;
    memcpy(&open, k->reply + sizeof(struct fuse_entry_out), sizeof(open));
    fh = open.fh;
}

static void check_tmpfile(struct kernel *k)
{
    assert_int_equal(write_(k, node, fh, "text", 0), 4);
    line_kill(k);
    assert_int_equal(read_(k, node, fh, 0, 10), 0);
    assert_memory_equal(k->reply, "text", 4);
    struct fuse_link_in in = {node};
    assert_int_equal(ask(k, FUSE_LINK, 1, ARG(in), STR("named")), 0);
    host_has("named", "text");
    assert_int_equal(release(k, FUSE_RELEASE, node, fh), 0);
    owes(k, "named", node, 2);
}

static void run_open(struct kernel *k)
{
    assert_int_equal(open_(k, FUSE_OPEN, node, O_RDWR, &fh), 0);
}

static void check_open(struct kernel *k)
{
    assert_int_equal(read_(k, node, fh, 0, 10), 0);
    assert_memory_equal(k->reply, "hello", 5);
    assert_int_equal(release(k, FUSE_RELEASE, node, fh), 0);
    assert_int_equal(read_(k, node, fh, 0, 10), -EBADF);
}

static void run_truncate_open(struct kernel *k)
{
    assert_int_equal(open_(k, FUSE_OPEN, node, O_WRONLY | O_TRUNC, &fh), 0);
}

static void check_truncate_open(struct kernel *k)
{
    host_has("f", "");
    assert_int_equal(write_(k, node, fh, "new", 0), 3);
    host_has("f", "new");
    assert_int_equal(release(k, FUSE_RELEASE, node, fh), 0);
}

static void run_opendir(struct kernel *k)
{
    assert_int_equal(open_(k, FUSE_OPENDIR, 1, O_RDONLY, &fh), 0);
}

/* Positions in a directory hold over a death. */
static void check_opendir(struct kernel *k)
{
    struct fuse_read_in in = {.fh = fh, .size = 100};
    char name[16];
    unsigned n = 0;
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof(name), "entry%d", i);
        host_file(name, "");
    }
    for (;;) {
        assert_int_equal(ask(k, FUSE_READDIR, 1, ARG(in), NONE), 0);
        if (k->got == 0)
            break;
        for (size_t p = 0; p < k->got; n++) {
            struct fuse_dirent e;
            memcpy(&e, k->reply + p, sizeof(e));
            in.offset = e.off;
            p += FUSE_PAD(sizeof(e) + e.namelen);
        }
        if (n == 8)
            line_kill(k);
    }
    assert_int_equal(n, 23);
    assert_int_equal(release(k, FUSE_RELEASEDIR, 1, fh), 0);
}

static void run_lookup(struct kernel *k)
{
    node = lookup(k, 1, "f");
}

static void prepare_host_file(struct kernel *k)
{
    host_file("f", "hello");
}

static void check_lookup(struct kernel *k)
{
    owes(k, "f", node, 1);
}

static void run_chmod(struct kernel *k)
{
    struct fuse_setattr_in in = {.valid = FATTR_SIZE, .size = 2};
    assert_int_equal(ask(k, FUSE_SETATTR, node, ARG(in), NONE), 0);
    assert_int_equal(REPLY(k, fuse_attr_out)->attr.size, 2);
}

static void check_chmod(struct kernel *k)
{
    host_has("f", "he");
}

static void run_setxattr(struct kernel *k)
{
    struct fuse_setxattr_in in = {5, XATTR_CREATE, 0, 0};
    assert_int_equal(ask(k, FUSE_SETXATTR, node, ARG(in), BYTES("user.a\0value", 12)), 0);
}

static void check_setxattr(struct kernel *k)
{
    char buf[10];
    assert_int_equal(getxattr(at("f"), "user.a", buf, sizeof(buf)), 5);
    assert_memory_equal(buf, "value", 5);
}

static void prepare_xattr(struct kernel *k)
{
    prepare_file(k);
    assert_int_equal(setxattr(at("f"), "user.a", "value", 5, 0), 0);
}

static void run_removexattr(struct kernel *k)
{
    assert_int_equal(ask(k, FUSE_REMOVEXATTR, node, STR("user.a"), NONE), 0);
}

static void check_removexattr(struct kernel *k)
{
    assert_int_equal(getxattr(at("f"), "user.a", NULL, 0), -1);
}

static void prepare_append(struct kernel *k)
{
    prepare_file(k);
    assert_int_equal(open_(k, FUSE_OPEN, node, O_WRONLY | O_APPEND, &fh), 0);
    assert_int_equal(write_as(k, node, fh, "hello", 5, O_APPEND), 5); /* equal to what is there */
}

static void run_append(struct kernel *k)
{
    assert_int_equal(write_as(k, node, fh, "hello", 10, O_APPEND), 5);
}

static void check_append(struct kernel *k)
{
    host_has("f", "hellohellohello");
    assert_int_equal(release(k, FUSE_RELEASE, node, fh), 0);
}

static void prepare_open(struct kernel *k)
{
    prepare_file(k);
    assert_int_equal(open_(k, FUSE_OPEN, node, O_RDWR, &fh), 0);
    assert_int_equal(ask(k, FUSE_UNLINK, 1, STR("f"), NONE), 0);
}

static void run_write(struct kernel *k)
{
    assert_int_equal(write_(k, node, fh, "J", 0), 1);
}

static void run_read(struct kernel *k)
{
    assert_int_equal(read_(k, node, fh, 0, 10), 0);
    assert_int_equal(k->got, 5);
    assert_memory_equal(k->reply + 1, "ello", 4);
}

static void check_unlinked(struct kernel *k)
{
    assert_true(absent("f"));
    line_kill(k);
    run_read(k);
    assert_int_equal(release(k, FUSE_RELEASE, node, fh), 0);
    forget(k, node, 1);
    assert_true(gone(k, node));
}

static void run_release(struct kernel *k)
{
    assert_int_equal(release(k, FUSE_RELEASE, node, fh), 0);
}

static void check_release(struct kernel *k)
{
    assert_int_equal(read_(k, node, fh, 0, 10), -EBADF);
    forget(k, node, 1);
    assert_true(gone(k, node));
}

static void prepare_lock(struct kernel *k)
{
    prepare_file(k);
    assert_int_equal(open_(k, FUSE_OPEN, node, O_RDWR, &fh), 0);
    assert_int_equal(open_(k, FUSE_OPEN, node, O_RDWR, &fh2), 0);
}

static void run_lock(struct kernel *k)
{
    assert_int_equal(setlk(k, FUSE_SETLKW, node, fh, 1, F_WRLCK), 0);
}

static void check_lock(struct kernel *k)
{
    line_kill(k);
    assert_int_equal(setlk(k, FUSE_SETLK, node, fh2, 2, F_RDLCK), -EAGAIN);
    struct fuse_flush_in flush = {.fh = fh, .lock_owner = 1};
    assert_int_equal(ask(k, FUSE_FLUSH, node, ARG(flush), NONE), 0);
    assert_int_equal(setlk(k, FUSE_SETLK, node, fh2, 2, F_RDLCK), 0);
    line_kill(k);
    assert_int_equal(setlk(k, FUSE_SETLK, node, fh, 1, F_WRLCK), -EAGAIN);
    assert_int_equal(release(k, FUSE_RELEASE, node, fh2), 0);
    assert_int_equal(setlk(k, FUSE_SETLK, node, fh, 1, F_WRLCK), 0);
    assert_int_equal(release(k, FUSE_RELEASE, node, fh), 0);
}

static const struct deed deeds[] = {
    {"mkdir", no_preparation, run_mkdir, check_mkdir},
    {"mknod", no_preparation, run_mknod, check_mknod},
    {"symlink", no_preparation, run_symlink, check_symlink},
    {"link", prepare_file, run_link, check_link},
    {"unlink", prepare_file, run_unlink, check_unlink},
    {"rmdir", prepare_dir, run_rmdir, check_rmdir},
    {"rename", prepare_rename, run_rename, check_rename},
    {"rename over", prepare_rename, run_rename_over, check_rename_over},
    {"exchange", prepare_rename, run_exchange, check_exchange},
    {"create", no_preparation, run_create, check_create},
    {"create there", prepare_file, run_create_there, check_create_there},
    {"tmpfile", no_preparation, run_tmpfile, check_tmpfile},
    {"open", prepare_file, run_open, check_open},
    {"truncate open", prepare_file, run_truncate_open, check_truncate_open},
    {"opendir", prepare_host_file, run_opendir, check_opendir},
    {"lookup", prepare_host_file, run_lookup, check_lookup},
    {"setattr", prepare_file, run_chmod, check_chmod},
    {"setxattr", prepare_file, run_setxattr, check_setxattr},
    {"removexattr", prepare_xattr, run_removexattr, check_removexattr},
    {"append", prepare_append, run_append, check_append},
    {"write", prepare_open, run_write, check_unlinked},
    {"read", prepare_open, run_read, check_unlinked},
    {"release", prepare_open, run_release, check_release},
    {"lock", prepare_lock, run_lock, check_lock},
};
#define DEEDS (sizeof(deeds) / sizeof(*deeds))

static void clear_dir(void)
{
    char cmd[128];
    snprintf(cmd, sizeof(cmd), "rm -rf %s/*", line.dir);
    assert_int_equal(system(cmd), 0);
}

static bool has_xattrs(void)
{
    host_file("x", "");
    return setxattr(at("x"), "user.a", "v", 1, 0) == 0;
}

/* Each deed, with servers that die at `first`, and their successors at `then` (0: they live). */
static void die_at(struct kernel *k, unsigned first, unsigned then)
{
    bool xattrs = has_xattrs();
    for (size_t i = 0; i < DEEDS; i++) {
        if (!xattrs && strstr(deeds[i].name, "xattr"))
            continue;
        clear_dir();
        deeds[i].prepare(k);
        line.again = then;
        unsigned deaths = line.deaths;
        arm(first, 1);
        deeds[i].run(k);
        arm(LEDGER_NOWHERE, 0);
        line.again = 0;
        if (getenv("VERBOSE"))
            fprintf(stderr, "%s at %s, %s: %u deaths\n", deeds[i].name, ledger_point_name(first),
                    ledger_point_name(then), line.deaths - deaths);
        deeds[i].check(k);
    }
    clear_dir();
}

static const unsigned points[] = {LEDGER_AT_taken,  LEDGER_AT_begun, LEDGER_AT_deed,
                                  LEDGER_AT_tables, LEDGER_AT_done,  LEDGER_AT_replied,
                                  LEDGER_AT_release};
#define POINTS (sizeof(points) / sizeof(*points))

static void at_each_point(void **state)
{
    struct kernel *k = line_begin("/dev/shm", 0);
    k->uid = getuid() == 0 ? 7001 : getuid();
    for (size_t i = 0; i < POINTS; i++) {
        unsigned deaths = line.deaths;
        die_at(k, points[i], 0);
        assert_true(line.deaths > deaths);
    }
    line_end(k);
}

static void at_each_point_twice(void **state)
{
    struct kernel *k = line_begin("/dev/shm", 0);
    k->uid = getuid() == 0 ? 7001 : getuid();
    static const unsigned thens[] = {LEDGER_AT_begun, LEDGER_AT_deed,   LEDGER_AT_tables,
                                     LEDGER_AT_done,  LEDGER_AT_resume, LEDGER_AT_resent};
    for (size_t i = 1; i < POINTS; i++) /* not `taken`, which leaves nothing */
        for (size_t j = 0; j < sizeof(thens) / sizeof(*thens); j++)
            die_at(k, points[i], thens[j]);
    line_end(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(at_each_point),
        cmocka_unit_test(at_each_point_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
