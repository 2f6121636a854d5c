/* SPDX-License-Identifier: MIT */
/* The host source through the gate: files of all types, names, content, attributes, keys. */
#include "host_fixture.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

static struct pl_file *opened(struct pl_node *n, int flags)
{
    struct pl_file *f = NULL;
    int r = pl_open(t, c, n, flags, &f);
    if (r < 0)
        fail_msg("open: %s", strerror(-r));
    return f;
}

static void shows(struct pl_file *f, const char *text)
{
    char buf[200];
    ssize_t n = pl_read(t, c, f, buf, sizeof(buf), 0);
    assert_int_equal(n, strlen(text));
    assert_memory_equal(buf, text, (size_t)n);
}

static void sentences(void **state)
{
    struct pl_tree *x;
    struct pl_err err;
    put(host("file"), "");
    assert_int_equal(pl_host_open(host("none"), &x, &err), -ENOENT);
    assert_non_null(strstr(err.text, "no such directory"));
    assert_int_equal(pl_host_open(host("file"), &x, &err), -ENOTDIR);
    assert_non_null(strstr(err.text, "not a directory"));
}

static void types(void **state)
{
    static const struct {
        const char *name;
        uint32_t mode;
    } all[] = {{"reg", S_IFREG}, {"dir", S_IFDIR},   {"lnk", S_IFLNK}, {"fifo", S_IFIFO},
               {"chr", S_IFCHR}, {"sock", S_IFSOCK}, {"blk", S_IFBLK}};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        struct pl_make mk = {
            .mode = all[i].mode | 0640, .target = "else/where", .rdev_major = 1, .rdev_minor = 3};
        struct pl_node *n, *again;
        struct pl_file *f;
        int r = pl_make(t, c, root, all[i].name, &mk, &n, &at);
        if (geteuid() && r == -EPERM)
            continue;
        assert_int_equal(r, 0);
        assert_int_equal(at.mode & S_IFMT, all[i].mode);
        assert_int_equal(pl_make(t, c, root, all[i].name, &mk, &again, &at), -EEXIST);
        assert_int_equal(pl_lookup(t, c, root, all[i].name, &again, &at), 0);
        assert_ptr_equal(again, n);
        pl_node_unref(again);
        r = pl_open(t, c, n, O_RDONLY, &f);
        if (S_ISREG(all[i].mode) || S_ISDIR(all[i].mode)) {
            assert_int_equal(r, 0);
            assert_int_equal(f->fd >= 0, S_ISREG(all[i].mode));
            pl_close(t, c, f);
        } else {
            assert_int_equal(r, S_ISLNK(all[i].mode) ? -ELOOP : -ENXIO);
        }
        if (S_ISCHR(all[i].mode))
            assert_int_equal(makedev(at.rdev_major, at.rdev_minor), makedev(1, 3));
        if (S_ISLNK(all[i].mode)) {
            char buf[100];
            assert_int_equal(pl_readlink(t, c, n, buf, sizeof(buf)), 10);
            assert_memory_equal(buf, "else/where", 10);
            assert_int_equal(pl_readlink(t, c, n, buf, 4), 4);
        }
        pl_node_unref(n);
        assert_int_equal(
            pl_remove(t, c, root, all[i].name, S_ISDIR(all[i].mode) ? 0 : AT_REMOVEDIR),
            S_ISDIR(all[i].mode) ? -EISDIR : -ENOTDIR);
        assert_int_equal(
            pl_remove(t, c, root, all[i].name, S_ISDIR(all[i].mode) ? AT_REMOVEDIR : 0), 0);
        assert_int_equal(pl_lookup(t, c, root, all[i].name, &n, &at), -ENOENT);
    }
}

static void hard_links(void **state)
{
    put(host("a"), "one");
    struct pl_node *a = node("a"), *b, *d;
    assert_int_equal(pl_link(t, c, a, root, "b", &at), 0);
    assert_int_equal(at.nlink, 2);
    assert_int_equal(mkdir(host("d"), 0755), 0);
    assert_int_equal(link(host("a"), host("d/c")), 0);
    b = node("b");
    assert_ptr_equal(a, b);
    d = node("d/c");
    assert_ptr_equal(a, d);
    assert_int_equal(at.nlink, 3);
    /* all names but the last known gone: the node goes on */
    assert_int_equal(pl_remove(t, c, root, "a", 0), 0);
    assert_int_equal(pl_remove(t, c, root, "b", 0), 0);
    assert_int_equal(pl_getattr(t, c, a, NULL, &at), 0);
    assert_int_equal(at.nlink, 1);
    pl_node_unref(a);
    pl_node_unref(b);
    pl_node_unref(d);
    /* a hard link of a symlink is one of the symlink itself */
    assert_int_equal(symlink("nowhere", host("s")), 0);
    a = node("s");
    assert_int_equal(pl_link(t, c, a, root, "s2", &at), 0);
    b = node("s2");
    assert_ptr_equal(a, b);
    assert_true(S_ISLNK(at.mode));
    pl_node_unref(a);
    pl_node_unref(b);
}

static void dotdot(void **state)
{
    assert_int_equal(mkdir(host("a"), 0755), 0);
    assert_int_equal(mkdir(host("a/b"), 0755), 0);
    assert_int_equal(mkdir(host("z"), 0755), 0);
    struct pl_node *a = node("a"), *b = node("a/b"), *up;
    assert_int_equal(pl_lookup(t, c, b, "..", &up, &at), 0);
    assert_ptr_equal(up, a);
    pl_node_unref(up);
    assert_int_equal(pl_lookup(t, c, root, "..", &up, &at), 0);
    assert_ptr_equal(up, root);
    pl_node_unref(up);
    /* moved by another process: its parent is where it is now */
    assert_int_equal(rename(host("a/b"), host("z/b")), 0);
    struct pl_node *z = node("z");
    assert_int_equal(pl_lookup(t, c, b, "..", &up, &at), 0);
    assert_ptr_equal(up, z);
    pl_node_unref(up);
    /* upside down: a beneath what was beneath it */
    assert_int_equal(rename(host("a"), host("z/b/a")), 0);
    up = node("z/b/a");
    assert_ptr_equal(up, a);
    pl_node_unref(up);
    assert_int_equal(pl_lookup(t, c, a, "..", &up, &at), 0);
    assert_ptr_equal(up, b);
    pl_node_unref(up);
    pl_node_unref(a);
    pl_node_unref(b);
    pl_node_unref(z);
}

static void create(void **state)
{
    struct pl_node *n, *m;
    struct pl_file *f, *g;
    c->umask = 027;
    assert_int_equal(pl_create(t, c, root, "f", O_RDWR | O_EXCL, 0666, &n, &at, &f), 0);
    c->umask = 0;
    assert_int_equal(at.mode & 07777, 0640);
    assert_int_equal(pl_write(t, c, f, "hello", 5, 0), 5);
    shows(f, "hello");
    assert_int_equal(pl_create(t, c, root, "f", O_RDWR | O_EXCL, 0666, &m, &at, &g), -EEXIST);
    assert_int_equal(pl_create(t, c, root, "f", O_RDWR | O_APPEND, 0666, &m, &at, &g), 0);
    assert_ptr_equal(m, n);
    assert_int_equal(at.size, 5);
    assert_int_equal(pl_write(t, c, g, "+", 1, 0), 1);
    shows(f, "hello+");
    pl_close(t, c, g);
    pl_node_unref(m);
    assert_int_equal(pl_create(t, c, root, "f", O_WRONLY | O_TRUNC, 0666, &m, &at, &g), 0);
    assert_int_equal(at.size, 0);
    shows(f, "");
    pl_close(t, c, g);
    pl_node_unref(m);
    pl_close(t, c, f);
    pl_node_unref(n);
    /* what is there is not opened unless it is a file */
    assert_int_equal(mkfifo(host("fifo"), 0600), 0);
    assert_int_equal(symlink("f", host("s")), 0);
    assert_int_equal(mkdir(host("d"), 0700), 0);
    assert_int_equal(pl_create(t, c, root, "fifo", O_WRONLY, 0600, &m, &at, &g), -ENXIO);
    assert_int_equal(pl_create(t, c, root, "s", O_WRONLY, 0600, &m, &at, &g), -ELOOP);
    assert_int_equal(pl_create(t, c, root, "d", O_WRONLY, 0600, &m, &at, &g), -EISDIR);
    /* the mode does not matter for the descriptor that made it */
    assert_int_equal(pl_create(t, c, root, "zero", O_RDWR, 0, &m, &at, &g), 0);
    assert_int_equal(pl_write(t, c, g, "x", 1, 0), 1);
    pl_close(t, c, g);
    pl_node_unref(m);
}

static void direct(void **state)
{
    put(host("f"), "some text");
    struct pl_node *n = node("f");
    struct pl_file *f;
    int r = pl_open(t, c, n, O_RDONLY | O_DIRECT, &f);
    if (r == 0) {
        void *buf = NULL;
        assert_int_equal(posix_memalign(&buf, 4096, 8192), 0);
        assert_int_equal(pl_read(t, c, f, buf, 4096, 0), 9);
        if (!strcmp(where, "/tmp"))
            assert_int_equal(pl_read(t, c, f, (char *)buf + 1, 4096, 0), -EINVAL);
        free(buf);
        pl_close(t, c, f);
    }
    pl_node_unref(n);
}

static void tmpfile_link(void **state)
{
    struct pl_node *n, *m;
    struct pl_file *f;
    char proc[64];
    assert_int_equal(pl_tmpfile(t, c, root, O_RDWR, 0600, &n, &at, &f), 0);
    assert_int_equal(at.nlink, 0);
    assert_int_equal(pl_write(t, c, f, "new", 3, 0), 3);
    assert_int_equal(pl_link(t, c, n, root, "named", &at), 0);
    assert_int_equal(at.nlink, 1);
    m = node("named");
    assert_ptr_equal(m, n);
    pl_close(t, c, f);
    assert_int_equal(pl_getattr(t, c, n, NULL, &at), 0);
    assert_int_equal(at.size, 3);
    pl_node_unref(m);
    pl_node_unref(n);
    assert_int_equal(pl_tmpfile(t, c, root, O_RDWR | O_EXCL, 0600, &n, &at, &f), 0);
    assert_int_equal(pl_link(t, c, n, root, "not", &at), -ENOENT);
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", pl_file_fd(t, f));
    assert_int_equal(access(proc, F_OK), 0);
    pl_close(t, c, f);
    pl_node_unref(n);
}

static void unlinked(void **state)
{
    put(host("f"), "still here");
    struct pl_node *n = node("f");
    struct pl_file *f = opened(n, O_RDWR), *g;
    uint64_t ino = at.ino;
    assert_int_equal(pl_remove(t, c, root, "f", 0), 0);
    /* another takes the name, maybe even the number */
    put(host("f"), "other");
    struct pl_node *m = node("f");
    assert_ptr_not_equal(m, n);
    shows(f, "still here");
    assert_int_equal(pl_getattr(t, c, n, f, &at), 0);
    assert_int_equal(at.nlink, 0);
    assert_int_equal(at.ino, ino);
    /* the node itself works by its open file, whatever becomes of other descriptors */
    struct pl_setattr set = {.valid = PL_SET_SIZE, .size = 5};
    assert_int_equal(pl_setattr(t, c, n, NULL, &set, &at), 0);
    g = opened(n, O_RDONLY);
    shows(g, "still");
    pl_close(t, c, g);
    pl_close(t, c, f);
    pl_node_unref(n);
    pl_node_unref(m);
}

/* What has no name and is not open: whatever becomes of other descriptors. */
static void nameless(void **state)
{
    struct pl_node *n[4], *x;
    struct pl_file *f;
    char name[32];
    put(host("f"), "removed");
    put(host("g"), "replaced");
    put(host("h"), "new");
    assert_int_equal(mkdir(host("d"), 0755), 0);
    n[0] = node("f");
    n[1] = node("g");
    n[2] = node("d");
    int r = pl_tmpfile(t, c, root, O_RDWR, 0600, &n[3], &at, &f);
    assert_int_equal(r, 0);
    assert_int_equal(pl_write(t, c, f, "tmpfile", 7, 0), 7);
    pl_close(t, c, f);
    assert_int_equal(pl_remove(t, c, root, "f", 0), 0);
    assert_int_equal(pl_rename(t, c, root, "h", root, "g", 0), 0);
    assert_int_equal(pl_remove(t, c, root, "d", AT_REMOVEDIR), 0);
    for (int i = 0; i < 1000; i++) { /* more than it keeps */
        snprintf(name, sizeof(name), "other%d", i);
        put(host(name), "");
        x = node(name);
        pl_node_unref(x);
    }
    static const char *const text[] = {"removed", "replaced", NULL, "tmpfile"};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pl_getattr(t, c, n[i], NULL, &at), 0);
        assert_int_equal(at.nlink, 0);
        if (text[i]) {
            f = opened(n[i], O_RDONLY);
            shows(f, text[i]);
            pl_close(t, c, f);
        }
        pl_node_unref(n[i]);
    }
}

static void renames(void **state)
{
    put(host("a"), "A");
    put(host("b"), "B");
    assert_int_equal(mkdir(host("d"), 0755), 0);
    struct pl_node *a = node("a"), *b = node("b"), *d = node("d"), *x;
    struct pl_file *f = opened(a, O_RDONLY);
    assert_int_equal(pl_rename(t, c, root, "a", root, "b", RENAME_NOREPLACE), -EEXIST);
    assert_int_equal(pl_rename(t, c, root, "a", root, "b", RENAME_EXCHANGE), 0);
    x = node("a");
    assert_ptr_equal(x, b);
    pl_node_unref(x);
    /* open while renamed, and found again by its new name */
    assert_int_equal(pl_rename(t, c, root, "b", d, "c", 0), 0);
    shows(f, "A");
    x = node("d/c");
    assert_ptr_equal(x, a);
    pl_node_unref(x);
    assert_int_equal(pl_rename(t, c, d, "c", root, "c", RENAME_EXCHANGE), -ENOENT);
    int r = pl_rename(t, c, d, "c", root, "w", RENAME_WHITEOUT);
    if (r == 0) {
        x = node("d/c");
        assert_true(S_ISCHR(at.mode));
        pl_node_unref(x);
    } else {
        assert_true(r == -EINVAL || r == -EPERM);
        assert_int_equal(pl_rename(t, c, d, "c", root, "w", 0), 0);
    }
    x = node("w");
    assert_ptr_equal(x, a);
    pl_node_unref(x);
    assert_int_equal(pl_rename(t, c, root, "d", d, "into-itself", 0), -EINVAL);
    pl_close(t, c, f);
    pl_node_unref(a);
    pl_node_unref(b);
    pl_node_unref(d);
}

static void sparse(void **state)
{
    struct pl_node *n;
    struct pl_file *f;
    assert_int_equal(pl_create(t, c, root, "f", O_RDWR, 0600, &n, &at, &f), 0);
    uint64_t far = 5ull << 30;
    assert_int_equal(pl_write(t, c, f, "end", 3, far), 3);
    assert_int_equal(pl_seek(t, c, f, 0, SEEK_DATA), (int64_t)far);
    assert_int_equal(pl_seek(t, c, f, far + 1, SEEK_HOLE), (int64_t)far + 3);
    assert_int_equal(pl_seek(t, c, f, far + 3, SEEK_DATA), -ENXIO);
    assert_int_equal(pl_fallocate(t, c, f, 0, 0, 65536), 0);
    assert_int_equal(pl_fallocate(t, c, f, FALLOC_FL_KEEP_SIZE, far, 1 << 20), 0);
    assert_int_equal(pl_getattr(t, c, n, f, &at), 0);
    assert_int_equal(at.size, far + 3);
    assert_true(at.blocks * 512 >= 65536 && at.blocks * 512 < far);
    assert_int_equal(pl_write(t, c, f, "0123456789", 10, 0), 10);
    assert_int_equal(pl_fallocate(t, c, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2, 3), 0);
    char buf[10];
    assert_int_equal(pl_read(t, c, f, buf, 10, 0), 10);
    assert_memory_equal(buf,
                        "01\0\0\0"
                        "56789",
                        10);
    int r = pl_fallocate(t, c, f, FALLOC_FL_COLLAPSE_RANGE, 0, 4096);
    assert_true(r == 0 || r == -EOPNOTSUPP);
    pl_close(t, c, f);
    pl_node_unref(n);
}

static void copies(void **state)
{
    struct pl_node *n, *m;
    struct pl_file *f, *g;
    char buf[4];
    put(host("a"), "0123456789");
    n = node("a");
    f = opened(n, O_RDONLY);
    assert_int_equal(pl_create(t, c, root, "b", O_RDWR, 0600, &m, &at, &g), 0);
    assert_int_equal(pl_copy(t, c, f, 2, g, 1, 4), 4);
    assert_int_equal(pl_copy(t, c, f, 8, g, 5, 100), 2);
    assert_int_equal(pl_copy(t, c, f, 10, g, 7, 100), 0);
    assert_int_equal(pl_read(t, c, g, buf, 4, 3), 4);
    assert_memory_equal(buf, "4589", 4);
    pl_close(t, c, f);
    pl_close(t, c, g);
    pl_node_unref(n);
    pl_node_unref(m);
}

static void attributes(void **state)
{
    put(host("f"), "x");
    assert_int_equal(symlink("f", host("s")), 0);
    struct pl_node *n = node("f"), *s = node("s");
    struct timespec a = {1000000000, 123456789}, m = {1700000000, 987654321};
    uint64_t version = at.version;
    struct pl_setattr set = {.valid = PL_SET_MODE | PL_SET_ATIME | PL_SET_MTIME | PL_SET_SIZE,
                             .mode = 04711,
                             .size = 3,
                             .atime = a,
                             .mtime = m};
    assert_int_equal(pl_setattr(t, c, n, NULL, &set, &at), 0);
    assert_int_equal(at.mode, S_IFREG | 04711);
    assert_int_equal(at.size, 3);
    assert_memory_equal(&at.atime, &a, sizeof(a));
    assert_memory_equal(&at.mtime, &m, sizeof(m));
    assert_true(at.version != 0 && version != 0);
    assert_true(at.btime.tv_sec != 0);
    set = (struct pl_setattr){.valid = PL_SET_ATIME_NOW};
    assert_int_equal(pl_setattr(t, c, n, NULL, &set, &at), 0);
    assert_true(at.atime.tv_sec > m.tv_sec);
    assert_memory_equal(&at.mtime, &m, sizeof(m));
    /* a symlink's own times and owner, not its target's */
    set = (struct pl_setattr){.valid = PL_SET_MTIME, .mtime = a};
    assert_int_equal(pl_setattr(t, c, s, NULL, &set, &at), 0);
    assert_memory_equal(&at.mtime, &a, sizeof(a));
    assert_int_equal(pl_getattr(t, c, n, NULL, &at), 0);
    assert_memory_equal(&at.mtime, &m, sizeof(m));
    set = (struct pl_setattr){.valid = PL_SET_MODE, .mode = 0600};
    assert_int_equal(pl_setattr(t, c, s, NULL, &set, &at), -EOPNOTSUPP);
    if (geteuid() == 0) {
        set = (struct pl_setattr){.valid = PL_SET_UID | PL_SET_GID, .uid = 5, .gid = 6};
        assert_int_equal(pl_setattr(t, c, s, NULL, &set, &at), 0);
        assert_int_equal(at.uid, 5);
        assert_int_equal(at.gid, 6);
        assert_int_equal(pl_getattr(t, c, n, NULL, &at), 0);
        assert_int_equal(at.uid, 0);
    }
    assert_int_equal(pl_access(t, c, n, X_OK), 0);
    struct pl_file *f = opened(n, O_RDWR);
    set = (struct pl_setattr){.valid = PL_SET_SIZE | PL_SET_MODE, .size = 1, .mode = 0600};
    assert_int_equal(pl_setattr(t, c, n, f, &set, &at), 0);
    assert_int_equal(at.size, 1);
    assert_int_equal(pl_access(t, c, n, X_OK), -EACCES);
    struct statfs st;
    assert_int_equal(pl_statfs(t, c, n, &st), 0);
    assert_true(st.f_blocks > 0 && st.f_namelen == 255);
    assert_int_equal(pl_fsync(t, c, f, true), 0);
    assert_int_equal(pl_syncfs(t, c, s), 0);
    pl_close(t, c, f);
    pl_node_unref(n);
    pl_node_unref(s);
}

static void xattrs(void **state)
{
    put(host("f"), "");
    assert_int_equal(symlink("f", host("s")), 0);
    struct pl_node *n = node("f"), *s = node("s");
    char buf[256];
    assert_true(t->flags & PL_TREE_XATTR);
    int r = pl_setxattr(t, c, n, "user.color", "blue", 4, XATTR_CREATE);
    if (r == -EOPNOTSUPP) /* tmpfs before Linux 6.6 */
        goto out;
    assert_int_equal(r, 0);
    assert_int_equal(pl_setxattr(t, c, n, "user.color", "blue", 4, XATTR_CREATE), -EEXIST);
    assert_int_equal(pl_getxattr(t, c, n, "user.color", NULL, 0), 4);
    assert_int_equal(pl_getxattr(t, c, n, "user.color", buf, 2), -ERANGE);
    assert_int_equal(pl_getxattr(t, c, n, "user.color", buf, sizeof(buf)), 4);
    assert_memory_equal(buf, "blue", 4);
    ssize_t len = pl_listxattr(t, c, n, buf, sizeof(buf));
    assert_true(len >= 11 && memmem(buf, (size_t)len, "user.color", 11));
    assert_int_equal(pl_removexattr(t, c, n, "user.color"), 0);
    assert_int_equal(pl_getxattr(t, c, n, "user.color", buf, sizeof(buf)), -ENODATA);
    /* a symlink's are its own: the kernel refuses user.*, allows trusted.* */
    assert_int_equal(pl_setxattr(t, c, s, "user.x", "1", 1, 0), -EPERM);
    if (geteuid() == 0) {
        assert_int_equal(pl_setxattr(t, c, s, "trusted.x", "1", 1, 0), 0);
        assert_int_equal(lgetxattr(host("s"), "trusted.x", buf, sizeof(buf)), 1);
        assert_int_equal(getxattr(host("f"), "trusted.x", buf, sizeof(buf)), -1);
    }
out:
    pl_node_unref(n);
    pl_node_unref(s);
}

static const uint8_t acl_7[] = {/* u::rwx u:7:rwx g::--- m::rwx o::--- */
                                2, 0, 0,   0,   1,   0,   7,  0, 255, 255, 255, 255, 2,   0,  7,
                                0, 7, 0,   0,   0,   4,   0,  0, 0,   255, 255, 255, 255, 16, 0,
                                7, 0, 255, 255, 255, 255, 32, 0, 0,   0,   255, 255, 255, 255};

static void acls(void **state)
{
    if (!(t->flags & PL_TREE_POSIX_ACL))
        skip();
    assert_int_equal(mkdir(host("d"), 0700), 0);
    struct pl_node *d = node("d"), *n;
    struct pl_file *f;
    char buf[256];
    const char *name = "system.posix_acl_default";
    assert_int_equal(pl_setxattr(t, c, d, name, acl_7, sizeof(acl_7), 0), 0);
    /* the default ACL decides instead of the umask */
    c->umask = 077;
    assert_int_equal(pl_create(t, c, d, "f", O_RDWR, 0666, &n, &at, &f), 0);
    c->umask = 0;
    assert_int_equal(at.mode & 0777, 0660);
    assert_int_equal(pl_getxattr(t, c, n, "system.posix_acl_access", buf, sizeof(buf)),
                     (ssize_t)sizeof(acl_7));
    pl_close(t, c, f);
    if (geteuid() == 0) {
        struct pl_call seven;
        assert_int_equal(chmod(host("d"), 0755), 0);
        pl_call_init(&seven, 7, 7);
        assert_int_equal(pl_access(t, &seven, n, R_OK | W_OK), 0);
        pl_call_done(&seven);
        pl_call_init(&seven, 8, 8);
        assert_int_equal(pl_access(t, &seven, n, R_OK), -EACCES);
        pl_call_done(&seven);
    }
    pl_node_unref(n);
    pl_node_unref(d);
}

static void ioctls(void **state)
{
    put(host("f"), "");
    struct pl_node *n = node("f");
    struct pl_file *f = opened(n, O_RDWR);
    uint64_t word = 0;
    struct fsxattr x;
    assert_int_equal(pl_ioctl(t, c, f, FIONREAD, &word, 0, 8), -ENOTTY);
    assert_int_equal(pl_ioctl(t, c, f, FS_IOC_GETFLAGS, &word, 0, 2), -EINVAL);
    int r = pl_ioctl(t, c, f, FS_IOC_GETFLAGS, &word, 0, sizeof(word));
    if (r == 0) {
        assert_false(word & FS_NODUMP_FL);
        word |= FS_NODUMP_FL;
        assert_int_equal(pl_ioctl(t, c, f, FS_IOC_SETFLAGS, &word, sizeof(word), 0), 0);
        assert_int_equal(pl_ioctl(t, c, f, FS_IOC_FSGETXATTR, &x, 0, sizeof(x)), 0);
        assert_true(x.fsx_xflags & FS_XFLAG_NODUMP);
        x.fsx_xflags &= ~(uint32_t)FS_XFLAG_NODUMP;
        assert_int_equal(pl_ioctl(t, c, f, FS_IOC_FSSETXATTR, &x, sizeof(x), 0), 0);
        assert_int_equal(pl_ioctl(t, c, f, FS_IOC_GETFLAGS, &word, 0, sizeof(word)), 0);
        assert_false(word & FS_NODUMP_FL);
    }
    pl_close(t, c, f);
    pl_node_unref(n);
}

/* ---- directories ---- */

struct listing {
    int max, n;    /* stop after max */
    uint64_t next; /* of the last taken */
    uint8_t seen[3000];
    bool dots[2];
};

static int take(void *arg, const struct pl_dirent *e)
{
    struct listing *l = arg;
    if (l->max-- == 0)
        return 1;
    assert_true(e->next != 0 && e->next <= PL_OFF_MAX);
    l->next = e->next;
    l->n++;
    if (e->name[0] == '.') {
        assert_int_equal(e->type, DT_DIR);
        l->dots[e->name[1] == '.'] = true;
        return 0;
    }
    struct pl_node *n;
    assert_int_equal(pl_lookup(t, c, root, e->name, &n, &at), 0);
    assert_int_equal(at.ino, e->ino);
    assert_int_equal(e->type, DT_REG);
    pl_node_unref(n);
    l->seen[atoi(e->name + 1)]++;
    return 0;
}

static void directories(void **state)
{
    struct listing l = {0};
    char name[20];
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        put(host(name), "");
    }
    struct pl_file *d = opened(root, O_RDONLY | O_DIRECTORY);
    /* in pieces, and two removed that were listed */
    for (int before = -1; before != l.n;) {
        before = l.n;
        l.max = 77;
        assert_int_equal(pl_readdir(t, c, d, l.next, take, &l), 0);
        if (before == 0)
            assert_int_equal(l.n, 77);
    }
    assert_int_equal(l.n, 3002);
    assert_true(l.dots[0] && l.dots[1]);
    for (int i = 0; i < 3000; i++)
        assert_int_equal(l.seen[i], 1);
    /* from the start again, and from a position in the middle */
    memset(&l, 0, sizeof(l));
    l.max = 1500;
    assert_int_equal(pl_readdir(t, c, d, 0, take, &l), 0);
    uint64_t middle = l.next;
    l.max = 10;
    assert_int_equal(pl_readdir(t, c, d, middle, take, &l), 0);
    for (int i = 0; i < 3000; i++)
        l.seen[i] = l.seen[i] > 1 ? l.seen[i] : 0;
    l.max = 5000;
    l.n = 0;
    assert_int_equal(pl_readdir(t, c, d, middle, take, &l), 0);
    assert_int_equal(l.n, 1502);
    assert_int_equal(pl_fsync(t, c, d, false), 0);
    pl_close(t, c, d);
}

static void removed_directory(void **state)
{
    struct listing l = {.max = 100};
    assert_int_equal(mkdir(host("d"), 0755), 0);
    struct pl_node *d = node("d"), *n;
    struct pl_file *f = opened(d, O_RDONLY | O_DIRECTORY);
    assert_int_equal(pl_remove(t, c, root, "d", AT_REMOVEDIR), 0);
    assert_int_equal(pl_readdir(t, c, f, 0, take, &l), 0);
    assert_true(l.n == 0 || l.n == 2);
    assert_int_equal(pl_lookup(t, c, d, "x", &n, &at), -ENOENT);
    struct pl_make mk = {.mode = S_IFDIR | 0755};
    assert_int_equal(pl_make(t, c, d, "x", &mk, &n, &at), -ENOENT);
    pl_close(t, c, f);
    pl_node_unref(d);
}

/* ---- keys ---- */

static void keys(void **state)
{
    static const char *paths[] = {"", "d", "d/e", "d/e/f", "d/e/s", "d/l"};
    uint8_t key[6][PL_KEY_MAX];
    int len[6];
    struct pl_node *n, *m;
    assert_int_equal(mkdir(host("d"), 0755), 0);
    assert_int_equal(mkdir(host("d/e"), 0755), 0);
    put(host("d/e/f"), "content");
    put(host("gone"), "");
    assert_int_equal(link(host("d/e/f"), host("d/l")), 0);
    assert_int_equal(symlink("f", host("d/e/s")), 0);
    for (int i = 0; i < 6; i++) {
        n = node(paths[i]);
        len[i] = pl_key(t, c, n, key[i]);
        assert_true(len[i] > 0 && len[i] <= PL_KEY_MAX);
        assert_int_equal(key[i][0], by_name ? 'N' : 'F');
        assert_int_equal(pl_find(t, c, key[i], (size_t)len[i], &m, &at), 0);
        assert_ptr_equal(m, n);
        pl_node_unref(n);
        pl_node_unref(m);
    }
    uint8_t lost[PL_KEY_MAX];
    n = node("gone");
    int lost_len = pl_key(t, c, n, lost);
    pl_node_unref(n);
    assert_int_equal(unlink(host("gone")), 0);
    /* a later run of the program, and nothing in the kernel's caches */
    shut();
    if (geteuid() == 0) {
        int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
        if (fd >= 0 && write(fd, "2", 1) < 0)
            print_message("caches not dropped\n");
        if (fd >= 0)
            close(fd);
    }
    reopen();
    for (int i = 5; i >= 0; i--) {
        assert_int_equal(pl_find(t, c, key[i], (size_t)len[i], &m, &at), 0);
        n = node(paths[i]);
        assert_ptr_equal(m, n);
        pl_node_unref(n);
        pl_node_unref(m);
    }
    assert_int_equal(pl_find(t, c, lost, (size_t)lost_len, &m, &at), -ESTALE);
    for (int i = 0; i < len[3]; i++) { /* nothing is assumed of what a peer sends */
        assert_true(pl_find(t, c, key[3], (size_t)i, &m, &at) < 0 || (pl_node_unref(m), 1));
        key[3][i] ^= 0x5a;
        if (pl_find(t, c, key[3], (size_t)len[3], &m, &at) == 0)
            pl_node_unref(m);
        key[3][i] ^= 0x5a;
    }
}

static void foreign_key(void **state)
{
    char outside[300];
    uint8_t key[PL_KEY_MAX];
    struct pl_tree *other;
    struct pl_node *n, *m, *oroot;
    snprintf(outside, sizeof(outside), "%s/secret", top);
    put(outside, "not for all");
    assert_int_equal(pl_host_open(top, &other, NULL), 0);
    struct pl_attr a;
    assert_int_equal(pl_attach(other, c, "", &oroot, &a), 0);
    assert_int_equal(pl_attach(other, c, "secret", &n, &a), 0);
    int len = pl_key(other, c, n, key);
    assert_true(len > 0);
    assert_int_equal(pl_find(t, c, key, (size_t)len, &m, &at), -ESTALE);
    pl_node_unref(n);
    len = pl_key(other, c, oroot, key);
    assert_int_equal(pl_find(t, c, key, (size_t)len, &m, &at), -ESTALE);
    pl_node_unref(oroot);
    pl_tree_unref(other);
}

static int group(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(sentences), T(types),        T(hard_links),        T(dotdot),   T(create),
        T(direct),    T(tmpfile_link), T(unlinked),          T(nameless), T(renames),
        T(sparse),    T(copies),       T(attributes),        T(xattrs),   T(acls),
        T(ioctls),    T(directories),  T(removed_directory), T(keys),     T(foreign_key),
    };
    return cmocka_run_group_tests_name("host", tests, NULL, NULL);
}

int main(void)
{
    return run_variants(group);
}
