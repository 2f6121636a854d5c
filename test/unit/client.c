/* SPDX-License-Identifier: MIT */
/* Files used from within a program: plenum/client.h over memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <plenum/client.h>
#include <plenum/sources.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct pl_tree *mem;
static struct pl_ns *ns;
static struct pl_err err;

static int setup(void **state)
{
    return pl_mem_new(0, &mem, &err) || pl_ns_new(mem, &ns, &err);
}

static int teardown(void **state)
{
    pl_ns_free(ns);
    pl_tree_unref(mem);
    return 0;
}

static void put(const char *path, const char *text)
{
    struct pl_fd *fd;
    assert_int_equal(pl_ns_open(ns, path, O_WRONLY | O_CREAT | O_TRUNC, 0644, &fd), 0);
    assert_int_equal(pl_fd_write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(pl_fd_close(fd), 0);
}

static void holds(const char *path, const char *text)
{
    char buf[100];
    struct pl_fd *fd;
    assert_int_equal(pl_ns_open(ns, path, O_RDONLY, 0, &fd), 0);
    ssize_t n = pl_fd_read(fd, buf, sizeof(buf));
    assert_int_equal(n, strlen(text));
    assert_memory_equal(buf, text, strlen(text));
    assert_int_equal(pl_fd_read(fd, buf, sizeof(buf)), 0);
    assert_int_equal(pl_fd_close(fd), 0);
}

static int open_error(const char *path, int flags)
{
    struct pl_fd *fd;
    int r = pl_ns_open(ns, path, flags, 0600, &fd);
    if (r == 0)
        pl_fd_close(fd);
    return r;
}

static void test_files(void **state)
{
    struct pl_attr attr;
    mode_t old = umask(027);
    put("/a", "hello");
    umask(old);
    holds("/a", "hello");
    holds("a", "hello");
    assert_int_equal(pl_ns_stat(ns, "a", &attr), 0);
    assert_int_equal(attr.mode, S_IFREG | 0640);
    assert_int_equal(attr.size, 5);
    assert_int_equal(open_error("a", O_CREAT | O_EXCL | O_RDWR), -EEXIST);
    assert_int_equal(open_error("a/", O_RDONLY), -ENOTDIR);
    assert_int_equal(open_error("a", O_RDONLY | O_DIRECTORY), -ENOTDIR);
    assert_int_equal(open_error("b/", O_CREAT | O_RDWR), -EISDIR);
    assert_int_equal(open_error("/", O_RDWR), -EISDIR);
    assert_int_equal(open_error("/", O_RDONLY | O_CREAT), -EISDIR);
    assert_int_equal(open_error("", O_RDONLY | O_CREAT), -ENOENT);
    assert_int_equal(open_error("x/y", O_RDWR | O_CREAT), -ENOENT);
    assert_int_equal(open_error("a", O_RDONLY | O_TMPFILE), -EINVAL);
}

static void test_positions(void **state)
{
    struct pl_fd *fd, *end;
    char buf[10];
    assert_int_equal(pl_ns_open(ns, "p", O_RDWR | O_CREAT, 0600, &fd), 0);
    assert_int_equal(pl_fd_write(fd, "0123456789", 10), 10);
    assert_int_equal(pl_fd_seek(fd, -4, SEEK_CUR), 6);
    assert_int_equal(pl_fd_read(fd, buf, 2), 2);
    assert_memory_equal(buf, "67", 2);
    assert_int_equal(pl_fd_pread(fd, buf, 10, 8), 2);
    assert_int_equal(pl_fd_seek(fd, 0, SEEK_CUR), 8);
    assert_int_equal(pl_fd_seek(fd, -1, SEEK_SET), -EINVAL);
    assert_int_equal(pl_fd_seek(fd, 0, 77), -EINVAL);
    assert_int_equal(pl_fd_seek(fd, INT64_MAX, SEEK_END), -EOVERFLOW);
    assert_int_equal(pl_fd_seek(fd, 0, SEEK_CUR), 8); /* an error moves nothing */
    assert_int_equal(pl_fd_seek(fd, 3, SEEK_DATA), 3);
    assert_int_equal(pl_fd_seek(fd, 11, SEEK_HOLE), -ENXIO);
    assert_int_equal(pl_ns_open(ns, "p", O_WRONLY | O_APPEND, 0, &end), 0);
    assert_int_equal(pl_fd_write(end, "ab", 2), 2);
    assert_int_equal(pl_fd_seek(end, 0, SEEK_CUR), 12);
    assert_int_equal(pl_fd_read(end, buf, 1), -EBADF);
    assert_int_equal(pl_fd_set(fd, &(struct pl_setattr){.valid = PL_SET_SIZE, .size = 4}), 0);
    assert_int_equal(pl_fd_pread(fd, buf, 10, 0), 4);
    assert_int_equal(pl_fd_sync(fd), 0);
    assert_int_equal(pl_fd_close(end), 0);
    assert_int_equal(pl_fd_close(fd), 0);
    assert_int_equal(pl_fd_close(NULL), 0);
}

static void test_names(void **state)
{
    char buf[100];
    struct pl_attr a, b;
    put("f", "x");
    assert_int_equal(pl_ns_mkdir(ns, "dir/", 0755), 0);
    assert_int_equal(pl_ns_mkdir(ns, "dir", 0755), -EEXIST);
    assert_int_equal(pl_ns_mkdir(ns, "/", 0755), -EEXIST);
    assert_int_equal(pl_ns_link(ns, "f", "dir/g"), 0);
    assert_int_equal(pl_ns_stat(ns, "f", &a) | pl_ns_stat(ns, "dir/g", &b), 0);
    assert_int_equal(a.ino, b.ino);
    assert_int_equal(b.nlink, 2);
    assert_int_equal(pl_ns_link(ns, "dir", "h"), -EPERM);
    assert_int_equal(pl_ns_symlink(ns, "../f", "dir/s"), 0);
    holds("dir/s", "x");
    assert_int_equal(pl_ns_readlink(ns, "dir/s", buf, sizeof(buf)), 4);
    assert_string_equal(buf, "../f");
    assert_int_equal(pl_ns_readlink(ns, "dir/s", buf, 4), -ERANGE);
    assert_int_equal(pl_ns_readlink(ns, "f", buf, sizeof(buf)), -EINVAL);
    assert_int_equal(pl_ns_lstat(ns, "dir/s", &a), 0);
    assert_true(S_ISLNK(a.mode));
    assert_int_equal(pl_ns_rename(ns, "f", "dir/f"), 0);
    assert_int_equal(pl_ns_rename(ns, "dir/f/", "f"), -ENOTDIR);
    assert_int_equal(pl_ns_rename(ns, "/", "f"), -EBUSY);
    assert_int_equal(open_error("dir/s", O_RDONLY), -ENOENT);
    put("dir/s", "made through the link");
    holds("f", "made through the link");
    assert_int_equal(pl_ns_symlink(ns, "loop", "loop"), 0);
    assert_int_equal(open_error("loop", O_WRONLY | O_CREAT), -ELOOP);
    assert_int_equal(open_error("dir/s", O_RDONLY | O_NOFOLLOW), -ELOOP);
    assert_int_equal(pl_ns_remove(ns, "dir"), -ENOTEMPTY);
    assert_int_equal(pl_ns_remove(ns, "dir/f") | pl_ns_remove(ns, "dir/g") |
                         pl_ns_remove(ns, "dir/s") | pl_ns_remove(ns, "dir/"),
                     0);
    assert_int_equal(pl_ns_remove(ns, "f/"), -ENOTDIR);
    assert_int_equal(pl_ns_remove(ns, "."), -EINVAL);
    struct pl_setattr set = {.valid = PL_SET_MODE | PL_SET_MTIME, .mode = 04711};
    set.mtime.tv_sec = 1234;
    assert_int_equal(pl_ns_set(ns, "f", &set) | pl_ns_stat(ns, "f", &a), 0);
    assert_int_equal(a.mode & 07777, 04711);
    assert_int_equal(a.mtime.tv_sec, 1234);
}

static int count(void *arg, const struct pl_dirent *ent)
{
    int *n = arg;
    assert_int_equal(ent->name[0], 'n');
    return ++*n == 250 ? 77 : 0;
}

static void test_list(void **state)
{
    char path[32];
    int n = 0;
    assert_int_equal(pl_ns_mkdir(ns, "many", 0755), 0);
    for (int i = 0; i < 300; i++) {
        snprintf(path, sizeof(path), "many/n%d", i);
        put(path, "");
    }
    assert_int_equal(pl_ns_list(ns, "many", count, &n), 77);
    assert_int_equal(n, 250);
    n = 1000;
    assert_int_equal(pl_ns_list(ns, "many", count, &n), 0);
    assert_int_equal(n, 1300);
    assert_int_equal(pl_ns_list(ns, "a", count, &n), -ENOTDIR);
}

static void test_bind(void **state)
{
    struct pl_tree *other, *late;
    struct pl_fd *fd;
    char buf[8];
    assert_int_equal(pl_mem_new(0, &other, &err), 0);
    assert_int_equal(pl_ns_bind(ns, other, "/", "/mnt/be", PL_BIND_REPLACE | PL_BIND_CREATE, &err),
                     0);
    put("/mnt/be/file", "at the back");
    holds("/mnt/be/../be/file", "at the back");
    assert_int_equal(pl_ns_open(ns, "/mnt/be/file", O_RDONLY, 0, &fd), 0);
    assert_int_equal(pl_ns_unbind(ns, "/mnt/be", &err), 0);
    assert_int_equal(open_error("/mnt/be/file", O_RDONLY), -ENOENT);
    assert_int_equal(pl_fd_read(fd, buf, 6), 6); /* what is open stays open */
    assert_memory_equal(buf, "at the", 6);
    assert_int_equal(pl_fd_close(fd), 0);
    assert_int_equal(pl_ns_unbind(ns, "/mnt/be", &err), -ENOENT);
    pl_tree_unref(other);
    /* No call takes longer than it may. */
    late = pl_delay_new(100000000, pl_tree_ref(mem));
    assert_int_equal(pl_ns_bind(ns, late, "/", "/late", PL_BIND_REPLACE, &err), 0);
    pl_tree_unref(late);
    pl_ns_timeout(ns, 1000000);
    assert_int_equal(open_error("/late/a", O_RDONLY), -ETIMEDOUT);
    pl_ns_timeout(ns, 0);
    assert_int_equal(pl_ns_unbind(ns, "/late", &err), 0);
}

/* Each sentence begins with what it is about, and says what to do. */
static void bind_fails(struct pl_tree *tree, const char *sub, const char *path, uint32_t how,
                       int want, const char *begin, const char *remedy)
{
    assert_int_equal(pl_ns_bind(ns, tree, sub, path, how, &err), want);
    if (strncmp(err.text, begin, strlen(begin)) != 0 || !strstr(err.text, remedy))
        fail_msg("\"%s\" does not begin \"%s\" or say \"%s\"", err.text, begin, remedy);
}

static void test_bind_errors(void **state)
{
    struct pl_tree *both;
    assert_int_equal(pl_ns_mkdir(ns, "/e", 0755), 0);
    put("/e/file", "x");
    bind_fails(mem, "/", "relative", 0, -EINVAL, "relative: ", "absolute path");
    bind_fails(mem, "/", "/e/..", 0, -EINVAL, "/e/..: ", "absolute path");
    bind_fails(mem, "/", "/e/file/below", 0, -ENOTDIR, "/e/file: ", "bind a directory");
    bind_fails(mem, "/", "/e/file", PL_BIND_BEFORE, -ENOTDIR, "/e/file: ", "bind a directory");
    bind_fails(mem, "/e/file", "/e", PL_BIND_AFTER, -ENOTDIR, "/e: /e/file ", "bound alone");
    bind_fails(mem, "/", "/e", 3, -EINVAL, "/e: ", "PL_BIND_");
    bind_fails(NULL, "/", "/e", 0, -EINVAL, "/e: ", "PL_BIND_");
    bind_fails(pl_ns_tree(ns), "/", "/e", 0, -ELOOP, "/e: ", "bind the trees");
    assert_int_equal(
        pl_union_new((struct pl_tree *[]){mem, pl_ns_tree(ns)}, 2, true, 0, &both, &err), 0);
    bind_fails(both, "/", "/e", 0, -ELOOP, "/e: ", "bind the trees");
    pl_tree_unref(both);
    for (int i = 1; i < PL_SPACE_STACK; i++)
        assert_int_equal(pl_ns_bind(ns, mem, "/", "/", PL_BIND_AFTER, &err), 0);
    bind_fails(mem, "/", "/", PL_BIND_AFTER, -E2BIG, "/: ", "make a union");
    holds("/e/file", "x"); /* the old table stands */
    assert_int_equal(pl_ns_unbind(ns, "/none", &err), -ENOENT);
    assert_true(strstr(err.text, "/none: nothing is bound there") != NULL);
}

static void test_errors(void **state)
{
    struct pl_channel *chan;
    assert_true(pl_dial("unix!/nonexistent/socket", &chan, &err) < 0);
    assert_true(strstr(err.text, "/nonexistent/socket") != NULL);
    pl_hangup(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files),       cmocka_unit_test(test_positions),
        cmocka_unit_test(test_names),       cmocka_unit_test(test_list),
        cmocka_unit_test(test_bind),        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_bind_errors),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
