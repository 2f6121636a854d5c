/* SPDX-License-Identifier: MIT */
/* mem, through the gate: what the conformance suite does not reach, sizes, limits and threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <plenum/sources.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

static struct pl_tree *t;
static struct pl_node *root;
static struct pl_call *c, calls[3]; /* c: who asks; calls[0]: root, [1]: uid 1000, [2]: uid 1001 */
static struct pl_attr at;

static void as(int i)
{
    c = &calls[i];
}

static int setup_limited(uint64_t max)
{
    struct pl_err err;
    for (int i = 0; i < 3; i++)
        pl_call_init(&calls[i], i ? 999 + (uid_t)i : 0, i ? 999 + (gid_t)i : 0);
    as(0);
    assert_int_equal(pl_mem_new(max, &t, &err), 0);
    assert_int_equal(pl_attach(t, c, "", &root, &at), 0);
    struct pl_setattr set = {.valid = PL_SET_MODE | PL_SET_UID | PL_SET_GID, .mode = 0777};
    assert_int_equal(pl_setattr(t, c, root, NULL, &set, &at), 0);
    return 0;
}

static int setup(void **state)
{
    return setup_limited(0);
}

static int setup_small(void **state)
{
    return setup_limited(16 * 4096);
}

static int teardown(void **state)
{
    pl_node_unref(root);
    pl_tree_unref(t);
    for (int i = 0; i < 3; i++)
        pl_call_done(&calls[i]);
    return 0;
}

static struct pl_node *at_path(const char *path)
{
    struct pl_node *n;
    int r = pl_attach(t, &calls[0], path, &n, &at);
    return r == 0 ? n : NULL;
}

static bool exists(const char *path)
{
    struct pl_node *n = at_path(path);
    pl_node_unref(n);
    return n != NULL;
}

/* Splits "a/b/c": the node of a/b, and c. */
static struct pl_node *parent_of(const char *path, const char **name)
{
    char buf[4096];
    const char *slash = strrchr(path, '/');
    snprintf(buf, sizeof(buf), "%.*s", slash ? (int)(slash - path) : 0, path);
    *name = slash ? slash + 1 : path;
    struct pl_node *n = at_path(buf);
    assert_non_null(n);
    return n;
}

static int make(const char *path, uint32_t mode)
{
    const char *name;
    struct pl_node *dir = parent_of(path, &name), *n;
    struct pl_make mk = {.mode = mode, .target = S_ISLNK(mode) ? "target" : NULL};
    int r = pl_make(t, c, dir, name, &mk, &n, &at);
    if (r == 0)
        pl_node_unref(n);
    pl_node_unref(dir);
    return r;
}

static int rm(const char *path, int flags)
{
    const char *name;
    struct pl_node *dir = parent_of(path, &name);
    int r = pl_remove(t, c, dir, name, flags);
    pl_node_unref(dir);
    return r;
}

static int mv(const char *from, const char *to, unsigned flags)
{
    const char *n1, *n2;
    struct pl_node *d1 = parent_of(from, &n1), *d2 = parent_of(to, &n2);
    int r = pl_rename(t, c, d1, n1, d2, n2, flags);
    pl_node_unref(d1);
    pl_node_unref(d2);
    return r;
}

static int open_at(const char *path, int flags, mode_t mode, struct pl_file **f)
{
    const char *name;
    struct pl_node *dir = parent_of(path, &name), *n;
    int r;
    if (flags & O_CREAT) {
        r = pl_create(t, c, dir, name, flags, mode, &n, &at, f);
    } else {
        r = pl_lookup(t, c, dir, name, &n, &at);
        if (r == 0 && (r = pl_open(t, c, n, flags, f)) < 0)
            pl_node_unref(n);
    }
    if (r == 0)
        pl_node_unref(n);
    pl_node_unref(dir);
    return r;
}

static int stat_at(const char *path)
{
    struct pl_node *n = at_path(path);
    pl_node_unref(n);
    return n ? 0 : -ENOENT;
}

static int set_at(const char *path, struct pl_setattr set)
{
    struct pl_node *n = at_path(path);
    int r = pl_setattr(t, c, n, NULL, &set, &at);
    pl_node_unref(n);
    return r;
}

/* ---- content ---- */

/* Random writes, truncations, holes and allocations, compared with a plain buffer. */
static void test_shadow(void **state)
{
    enum { SIZE = 3 << 20, STEPS = 3000 };
    struct pl_file *f;
    uint8_t *shadow = calloc(1, SIZE), *buf = malloc(SIZE);
    size_t size = 0;
    srand(42);
    assert_int_equal(open_at("f", O_CREAT | O_RDWR, 0644, &f), 0);
    for (int i = 0; i < STEPS; i++) {
        size_t off = (size_t)rand() % SIZE, n = 1 + (size_t)rand() % (rand() % 4 ? 9000 : 200000);
        n = n < SIZE - off ? n : SIZE - off;
        struct pl_setattr set = {.valid = PL_SET_SIZE, .size = off};
        int mode = rand() % 2 ? FALLOC_FL_KEEP_SIZE : 0;
        switch (rand() % 6) {
        case 0:
            assert_int_equal(pl_setattr(t, c, f->node, f, &set, &at), 0);
            if (off < size)
                memset(shadow + off, 0, size - off);
            size = off;
            break;
        case 1:
            assert_int_equal(
                pl_fallocate(t, c, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, n), 0);
            memset(shadow + off, 0, n);
            break;
        case 2:
            if (rand() % 2) {
                mode |= FALLOC_FL_ZERO_RANGE;
                memset(shadow + off, 0, n);
            }
            assert_int_equal(pl_fallocate(t, c, f, mode, off, n), 0);
            if (!(mode & FALLOC_FL_KEEP_SIZE) && off + n > size)
                size = off + n;
            break;
        case 3:
            memset(buf, i + 1, n);
            assert_int_equal(pl_write(t, c, f, buf, n, off), n);
            memset(shadow + off, i + 1, n);
            size = off + n > size ? off + n : size;
            break;
        default: {
            ssize_t want = off >= size ? 0 : (ssize_t)(n < size - off ? n : size - off);
            assert_int_equal(pl_read(t, c, f, buf, n, off), want);
            assert_memory_equal(buf, shadow + off, (size_t)want);
        }
        }
        assert_int_equal(pl_getattr(t, c, f->node, f, &at), 0);
        assert_int_equal(at.size, size);
    }
    pl_close(t, c, f);
    free(shadow);
    free(buf);
}

static void test_sparse(void **state)
{
    const uint64_t tib = 1ull << 40;
    struct pl_file *f;
    struct statfs st;
    char b[2] = "x";
    assert_int_equal(open_at("big", O_CREAT | O_RDWR, 0600, &f), 0);
    struct pl_setattr set = {.valid = PL_SET_SIZE, .size = tib};
    assert_int_equal(pl_setattr(t, c, f->node, f, &set, &at), 0);
    assert_int_equal(at.blocks, 0);
    assert_int_equal(pl_seek(t, c, f, 0, SEEK_DATA), -ENXIO);
    assert_int_equal(pl_seek(t, c, f, 5, SEEK_HOLE), 5);
    assert_int_equal(pl_seek(t, c, f, tib, SEEK_HOLE), -ENXIO);
    assert_int_equal(pl_write(t, c, f, b, 1, tib / 2 + 10), 1);
    assert_int_equal(pl_seek(t, c, f, 0, SEEK_DATA), tib / 2);
    assert_int_equal(pl_seek(t, c, f, tib / 2 + 7, SEEK_DATA), tib / 2 + 7);
    assert_int_equal(pl_seek(t, c, f, tib / 2 + 7, SEEK_HOLE), tib / 2 + 4096);
    assert_int_equal(pl_seek(t, c, f, tib / 2 + 4096, SEEK_DATA), -ENXIO);
    assert_int_equal(pl_getattr(t, c, f->node, f, &at), 0);
    assert_int_equal(at.blocks, 8);
    /* the very end, and past it */
    assert_int_equal(pl_write(t, c, f, b, 1, PL_OFF_MAX - 1), 1);
    assert_int_equal(pl_read(t, c, f, b, 1, PL_OFF_MAX - 1), 1);
    assert_int_equal(b[0], 'x');
    assert_int_equal(pl_write(t, c, f, b, 2, PL_OFF_MAX - 1), -EFBIG);
    pl_close(t, c, f);
    assert_int_equal(open_at("big", O_RDWR | O_APPEND, 0, &f), 0);
    assert_int_equal(pl_write(t, c, f, b, 1, 0), -EFBIG);
    set.size = 3;
    assert_int_equal(pl_setattr(t, c, f->node, f, &set, &at), 0);
    assert_int_equal(at.blocks, 0);
    assert_int_equal(pl_write(t, c, f, b, 1, 0), 1); /* appended */
    assert_int_equal(pl_getattr(t, c, f->node, f, &at), 0);
    assert_int_equal(at.size, 4);
    assert_int_equal(pl_statfs(t, c, root, &st), 0);
    assert_int_equal(st.f_blocks - st.f_bfree, 1);
    pl_close(t, c, f);
    assert_int_equal(rm("big", 0), 0);
    assert_int_equal(pl_statfs(t, c, root, &st), 0);
    assert_int_equal(st.f_blocks, st.f_bfree);
}

static void test_full(void **state)
{
    struct pl_file *f, *g;
    struct statfs st;
    char *buf = calloc(1, 20 * 4096);
    assert_int_equal(open_at("f", O_CREAT | O_RDWR, 0600, &f), 0);
    assert_int_equal(pl_write(t, c, f, buf, 20 * 4096, 0), 16 * 4096); /* what fits */
    assert_int_equal(pl_write(t, c, f, buf, 1, 17 * 4096), -ENOSPC);
    assert_int_equal(pl_write(t, c, f, buf, 4096, 4096), 4096); /* over what is there */
    assert_int_equal(open_at("g", O_CREAT | O_RDWR, 0600, &g), 0);
    assert_int_equal(pl_write(t, c, g, buf, 1, 0), -ENOSPC);
    assert_int_equal(pl_fallocate(t, c, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 2 * 4096),
                     0);
    assert_int_equal(pl_fallocate(t, c, g, 0, 0, 3 * 4096), -ENOSPC); /* all or nothing */
    assert_int_equal(pl_fallocate(t, c, g, 0, 0, 1ull << 60), -ENOSPC);
    assert_int_equal(pl_statfs(t, c, root, &st), 0);
    assert_int_equal(st.f_bfree, 2);
    assert_int_equal(pl_fallocate(t, c, g, 0, 0, 2 * 4096), 0);
    assert_int_equal(pl_fallocate(t, c, g, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), -EOPNOTSUPP);
    pl_close(t, c, f);
    pl_close(t, c, g);
    free(buf);
}

static void test_unlinked(void **state)
{
    struct pl_file *f;
    struct pl_node *n;
    char b[3] = "";
    assert_int_equal(open_at("f", O_CREAT | O_RDWR, 0600, &f), 0);
    assert_int_equal(rm("f", 0), 0);
    assert_int_equal(pl_write(t, c, f, "ab", 2, 0), 2);
    assert_int_equal(pl_read(t, c, f, b, 2, 0), 2);
    assert_string_equal(b, "ab");
    assert_int_equal(pl_getattr(t, c, f->node, f, &at), 0);
    assert_int_equal(at.nlink, 0);
    assert_int_equal(pl_link(t, c, f->node, root, "back", &at), -ENOENT);
    pl_close(t, c, f);
    assert_int_equal(pl_tmpfile(t, c, root, O_RDWR, 0600, &n, &at, &f), 0);
    assert_int_equal(at.nlink, 0);
    assert_int_equal(pl_write(t, c, f, "ab", 2, 0), 2);
    assert_int_equal(pl_link(t, c, n, root, "named", &at), 0);
    assert_int_equal(at.nlink, 1);
    pl_close(t, c, f);
    pl_node_unref(n);
    assert_int_equal(stat_at("named"), 0);
    assert_int_equal(at.size, 2);
    assert_int_equal(pl_tmpfile(t, c, root, O_RDWR | O_EXCL, 0600, &n, &at, &f), 0);
    assert_int_equal(pl_link(t, c, n, root, "never", &at), -ENOENT);
    pl_close(t, c, f);
    pl_node_unref(n);
}

/* ---- names ---- */

static void test_rename(void **state)
{
    assert_int_equal(make("d", S_IFDIR | 0755), 0);
    assert_int_equal(make("d/e", S_IFDIR | 0755), 0);
    assert_int_equal(make("x", S_IFDIR | 0755), 0);
    assert_int_equal(make("f", S_IFREG | 0644), 0);
    assert_int_equal(make("g", S_IFREG | 0644), 0);
    assert_int_equal(mv("d", "d/e/sub", 0), -EINVAL);
    assert_int_equal(mv("d", "d/sub", 0), -EINVAL);
    assert_int_equal(mv("d/e", "d", 0), -ENOTEMPTY);
    assert_int_equal(mv("d/e", "d", RENAME_EXCHANGE), -EINVAL);
    assert_int_equal(mv("nope", "y", 0), -ENOENT);
    assert_int_equal(mv("f", "x", 0), -EISDIR);
    assert_int_equal(mv("x", "f", 0), -ENOTDIR);
    assert_int_equal(mv("x", "d", 0), -ENOTEMPTY);
    assert_int_equal(mv("f", "g", RENAME_NOREPLACE), -EEXIST);
    assert_int_equal(mv("f", "nope", RENAME_EXCHANGE), -ENOENT);
    assert_int_equal(mv("f", "g", RENAME_EXCHANGE | RENAME_NOREPLACE), -EINVAL);
    assert_int_equal(mv("d/e", "x", 0), 0); /* over an empty directory */
    assert_false(exists("d/e"));
    assert_int_equal(stat_at("d"), 0);
    assert_int_equal(at.nlink, 2);
    assert_int_equal(stat_at(""), 0);
    assert_int_equal(at.nlink, 4);
    assert_int_equal(mv("x", "d/x", 0), 0);
    assert_int_equal(stat_at(""), 0);
    assert_int_equal(at.nlink, 3);
    assert_int_equal(mv("d/x", "f", RENAME_EXCHANGE), 0);
    assert_int_equal(stat_at("f"), 0);
    assert_true(S_ISDIR(at.mode));
    assert_int_equal(stat_at(""), 0);
    assert_int_equal(at.nlink, 4);
    assert_int_equal(stat_at("d"), 0);
    assert_int_equal(at.nlink, 2);
    struct pl_node *f = at_path("f"), *up; /* its ".." went with it */
    assert_int_equal(pl_lookup(t, c, f, "..", &up, &at), 0);
    assert_ptr_equal(up, root);
    pl_node_unref(up);
    pl_node_unref(f);
    assert_int_equal(mv("g", "h", RENAME_WHITEOUT), 0);
    assert_int_equal(stat_at("g"), 0);
    assert_true(S_ISCHR(at.mode) && at.rdev_major == 0 && at.rdev_minor == 0);
    struct pl_node *h = at_path("h");
    assert_int_equal(pl_link(t, c, h, root, "h2", &at), 0);
    assert_int_equal(at.nlink, 2);
    assert_int_equal(mv("h", "h2", 0), 0); /* two names of one file: nothing happens */
    assert_true(exists("h") && exists("h2"));
    struct pl_node *h2 = at_path("h2");
    assert_ptr_equal(h, h2);
    pl_node_unref(h);
    pl_node_unref(h2);
}

static void test_removed_dir(void **state)
{
    struct pl_make mk = {.mode = S_IFREG | 0600};
    struct pl_node *n;
    assert_int_equal(make("d", S_IFDIR | 0755), 0);
    assert_int_equal(make("d/f", S_IFREG | 0644), 0);
    assert_int_equal(rm("d", AT_REMOVEDIR), -ENOTEMPTY);
    assert_int_equal(rm("d", 0), -EISDIR);
    assert_int_equal(rm("d/f", AT_REMOVEDIR), -ENOTDIR);
    assert_int_equal(rm("d/f", 0), 0);
    struct pl_node *d = at_path("d");
    assert_int_equal(rm("d", AT_REMOVEDIR), 0);
    assert_int_equal(pl_make(t, c, d, "x", &mk, &n, &at), -ENOENT);
    assert_int_equal(pl_lookup(t, c, d, "..", &n, &at), -ENOENT);
    assert_int_equal(pl_getattr(t, c, d, NULL, &at), 0);
    assert_int_equal(at.nlink, 0);
    pl_node_unref(d);
}

/* 100,000 entries: cheap lookups, and one listing while others come and go. */
struct seen {
    uint8_t *count;
    uint64_t next;
    int room;
};

static int see(void *arg, const struct pl_dirent *e)
{
    struct seen *s = arg;
    if (s->room-- == 0)
        return 1;
    s->next = e->next;
    if (e->name[0] == 'n')
        s->count[atoi(e->name + 1)]++;
    return 0;
}

static void test_readdir(void **state)
{
    enum { N = 100000 };
    char name[32];
    struct pl_file *dir;
    struct seen s = {calloc(1, 2 * N), 0, 0};
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        assert_int_equal(make(name, S_IFREG | 0644), 0);
    }
    assert_int_equal(pl_open(t, c, root, O_RDONLY | O_DIRECTORY, &dir), 0);
    uint64_t was = 1;
    for (int step = 0; was != s.next; step++) {
        was = s.next;
        s.room = 100;
        assert_int_equal(pl_readdir(t, c, dir, s.next, see, &s), 0);
        /* away with odd ones, before and after the reader, and new ones in */
        for (int i = 0; i < 20 && step < 1000; i++) {
            snprintf(name, sizeof(name), "n%d", 1 + 2 * (rand() % (N / 2)));
            rm(name, 0);
            snprintf(name, sizeof(name), "n%d", N + step * 20 + i);
            make(name, S_IFREG | 0644);
        }
    }
    for (int i = 0; i < N; i += 2)
        assert_int_equal(s.count[i], 1);
    for (int i = 1; i < 2 * N; i += 2)
        assert_true(s.count[i] <= 1);
    pl_close(t, c, dir);
    free(s.count);
}

/* ---- who may ---- */

static void test_permissions(void **state)
{
    struct pl_file *f;
    as(1);
    assert_int_equal(open_at("mine", O_CREAT | O_RDWR, 0400, &f), 0); /* whatever the mode */
    pl_close(t, c, f);
    assert_int_equal(open_at("mine", O_RDWR, 0, &f), -EACCES);
    assert_int_equal(open_at("mine", O_RDONLY | O_TRUNC, 0, &f), -EACCES);
    assert_int_equal(make("dev", S_IFCHR | 0600), -EPERM);
    assert_int_equal(make("pipe", S_IFIFO | 0600), 0);
    assert_int_equal(set_at("mine", (struct pl_setattr){.valid = PL_SET_UID, .uid = 7}), -EPERM);
    assert_int_equal(set_at("mine", (struct pl_setattr){.valid = PL_SET_GID, .gid = 7}), -EPERM);
    assert_int_equal(set_at("mine", (struct pl_setattr){.valid = PL_SET_SIZE}), -EACCES);
    as(2);
    assert_int_equal(open_at("mine", O_RDONLY, 0, &f), -EACCES);
    assert_int_equal(set_at("mine", (struct pl_setattr){.valid = PL_SET_MODE}), -EPERM);
    assert_int_equal(set_at("mine", (struct pl_setattr){.valid = PL_SET_MTIME}), -EPERM);
    assert_int_equal(set_at("mine", (struct pl_setattr){.valid = PL_SET_MTIME_NOW}), -EACCES);
    as(0);
    assert_int_equal(set_at("", (struct pl_setattr){.valid = PL_SET_MODE, .mode = 01777}), 0);
    as(2);
    assert_int_equal(rm("mine", 0), -EPERM); /* the sticky bit */
    assert_int_equal(mv("mine", "taken", 0), -EPERM);
    as(1);
    assert_int_equal(rm("mine", 0), 0);
    as(0);
    assert_int_equal(set_at("", (struct pl_setattr){.valid = PL_SET_MODE, .mode = 0755}), 0);
    as(1);
    assert_int_equal(make("no", S_IFREG | 0600), -EACCES);
}

static void test_modes(void **state)
{
    struct pl_file *f;
    calls[1].umask = 027;
    as(1);
    assert_int_equal(make("d", S_IFDIR | 0777), 0);
    assert_int_equal(at.mode, S_IFDIR | 0750);
    as(0);
    struct pl_setattr set = {.valid = PL_SET_GID | PL_SET_MODE, .gid = 55, .mode = 02777};
    assert_int_equal(set_at("d", set), 0);
    as(1);
    assert_int_equal(make("d/sub", S_IFDIR | 0777), 0); /* group and bit are inherited */
    assert_int_equal(at.mode, S_IFDIR | S_ISGID | 0750);
    assert_int_equal(at.gid, 55);
    assert_int_equal(make("d/f", S_IFREG | 02777), 0); /* not in group 55: no setgid file */
    assert_int_equal(at.mode, S_IFREG | 0750);
    assert_int_equal(at.gid, 55);
    set = (struct pl_setattr){.valid = PL_SET_MODE, .mode = 06755};
    assert_int_equal(set_at("d/f", set), 0);
    assert_int_equal(at.mode, S_IFREG | 04755);
    assert_int_equal(open_at("d/f", O_WRONLY, 0, &f), 0);
    assert_int_equal(pl_write(t, c, f, "x", 1, 0), 1); /* a write takes suid away */
    assert_int_equal(pl_getattr(t, c, f->node, f, &at), 0);
    assert_int_equal(at.mode, S_IFREG | 0755);
    pl_close(t, c, f);
    assert_int_equal(set_at("d/f", set), 0);
    as(0);
    assert_int_equal(set_at("d/f", (struct pl_setattr){.valid = PL_SET_UID, .uid = 3}), 0);
    assert_int_equal(at.mode, S_IFREG | 0755); /* and so does chown, even root's */
}

static void test_times(void **state)
{
    struct timespec then = {1000, 999999999};
    uint64_t version;
    assert_int_equal(make("f", S_IFREG | 0644), 0);
    version = at.version;
    assert_int_equal(set_at("f", (struct pl_setattr){.valid = PL_SET_ATIME | PL_SET_MTIME,
                                                     .atime = then,
                                                     .mtime = then}),
                     0);
    assert_int_equal(at.mtime.tv_sec, 1000);
    assert_int_equal(at.mtime.tv_nsec, 999999999);
    assert_true(at.ctime.tv_sec > 1000 && at.version != version);
    version = at.version;
    assert_int_equal(set_at("f", (struct pl_setattr){.valid = PL_SET_MTIME_NOW}), 0);
    assert_true(at.mtime.tv_sec > 1000 && at.atime.tv_sec == 1000);
    assert_true(at.version != version);
}

static void test_xattrs(void **state)
{
    char buf[64];
    assert_int_equal(make("f", S_IFREG | 0666), 0);
    assert_int_equal(make("l", S_IFLNK), 0);
    struct pl_node *f = at_path("f"), *l = at_path("l");
    assert_int_equal(pl_setxattr(t, c, f, "user.a", "1234", 4, XATTR_REPLACE), -ENODATA);
    assert_int_equal(pl_setxattr(t, c, f, "user.a", "1234", 4, 0), 0);
    assert_int_equal(pl_setxattr(t, c, f, "user.a", "1", 1, XATTR_CREATE), -EEXIST);
    assert_int_equal(pl_setxattr(t, c, f, "user.", "1", 1, 0), -EINVAL);
    assert_int_equal(pl_setxattr(t, c, f, "system.posix_acl_access", "1", 1, 0), -EOPNOTSUPP);
    assert_int_equal(pl_setxattr(t, c, f, "trusted.t", "", 0, 0), 0);
    assert_int_equal(pl_setxattr(t, c, l, "user.a", "", 0, 0), -EPERM);
    assert_int_equal(pl_setxattr(t, c, f, "security.capability", "x", 1, 0), 0);
    assert_int_equal(pl_getxattr(t, c, f, "user.a", buf, 0), 4);
    assert_int_equal(pl_getxattr(t, c, f, "user.a", buf, 3), -ERANGE);
    assert_int_equal(pl_getxattr(t, c, f, "user.a", buf, sizeof(buf)), 4);
    assert_memory_equal(buf, "1234", 4);
    assert_int_equal(pl_listxattr(t, c, f, buf, 0), 7 + 10 + 20);
    as(1);
    assert_int_equal(pl_listxattr(t, c, f, buf, sizeof(buf)), 7 + 20); /* trusted is root's */
    assert_int_equal(pl_getxattr(t, c, f, "trusted.t", buf, 1), -ENODATA);
    assert_int_equal(pl_setxattr(t, c, f, "security.x", "", 0, 0), -EPERM);
    struct pl_file *w;
    assert_int_equal(pl_open(t, c, f, O_WRONLY, &w), 0);
    assert_int_equal(pl_write(t, c, w, "x", 1, 0), 1);
    assert_int_equal(pl_getxattr(t, c, f, "security.capability", buf, 1), -ENODATA);
    pl_close(t, c, w);
    as(0);
    assert_int_equal(pl_removexattr(t, c, f, "user.a"), 0);
    assert_int_equal(pl_removexattr(t, c, f, "user.a"), -ENODATA);
    pl_node_unref(f);
    pl_node_unref(l);
}

static void test_locks_end_with_the_file(void **state)
{
    struct pl_file *f, *g;
    struct pl_lock lock = {.type = F_WRLCK, .owner = 1, .end = PL_OFF_MAX};
    struct pl_lock other = {.type = F_WRLCK, .owner = 2, .start = 5, .end = 9};
    struct pl_lock flock = {.type = F_WRLCK, .owner = 1, .flock = true, .end = PL_OFF_MAX};
    assert_int_equal(open_at("f", O_CREAT | O_RDWR, 0600, &f), 0);
    assert_int_equal(open_at("f", O_RDWR, 0, &g), 0);
    assert_int_equal(pl_lock(t, c, f, &lock), 0);
    assert_int_equal(pl_lock(t, c, f, &flock), 0);
    assert_int_equal(pl_lock(t, c, g, &other), -EAGAIN);
    flock.owner = 2;
    assert_int_equal(pl_lock(t, c, g, &flock), -EAGAIN);
    pl_close(t, c, f); /* nobody said flush: a client died */
    assert_int_equal(pl_lock(t, c, g, &other), 0);
    assert_int_equal(pl_lock(t, c, g, &flock), 0);
    pl_close(t, c, g);
}

static void test_keys(void **state)
{
    uint8_t key[PL_KEY_MAX];
    struct pl_node *n, *again;
    assert_int_equal(make("f", S_IFREG | 0600), 0);
    n = at_path("f");
    int len = pl_key(t, c, n, key);
    assert_true(len > 0);
    assert_int_equal(pl_find(t, c, key, (size_t)len, &again, &at), 0);
    assert_ptr_equal(n, again);
    pl_node_unref(n);
    pl_node_unref(again);
    assert_int_equal(rm("f", 0), 0);
    assert_int_equal(pl_find(t, c, key, (size_t)len, &again, &at), -ESTALE);
    assert_int_equal(pl_find(t, c, key, 3, &again, &at), -ESTALE);
}

static void test_deep(void **state)
{
    enum { DEPTH = 200000 }; /* no recursion may depend on it */
    struct pl_node *dir = pl_node_ref(root), *n;
    struct pl_make mk = {.mode = S_IFDIR | 0755};
    for (int i = 0; i < DEPTH; i++) {
        assert_int_equal(pl_make(t, c, dir, "d", &mk, &n, &at), 0);
        pl_node_unref(dir);
        dir = n;
    }
    pl_node_unref(dir);
}

/* ---- threads ---- */

static void *stress(void *arg)
{
    struct pl_call call;
    unsigned seed = (unsigned)(uintptr_t)arg;
    char buf[5000], a[16], b[16];
    pl_call_init(&call, 0, 0);
    for (int i = 0; i < 3000; i++) {
        struct pl_node *n;
        struct pl_file *f;
        struct pl_attr attr;
        struct pl_make mk = {.mode = S_IFDIR | 0755};
        struct seen s = {.room = 10};
        snprintf(a, sizeof(a), "s%d", rand_r(&seed) % 8);
        snprintf(b, sizeof(b), "s%d", rand_r(&seed) % 8);
        switch (rand_r(&seed) % 7) {
        case 0:
            if (pl_make(t, &call, root, a, &mk, &n, &attr) == 0)
                pl_node_unref(n);
            break;
        case 1:
            pl_remove(t, &call, root, a, rand_r(&seed) % 2 ? AT_REMOVEDIR : 0);
            break;
        case 2:
            pl_rename(t, &call, root, a, root, b, rand_r(&seed) % 3 ? 0 : RENAME_EXCHANGE);
            break;
        case 3:
            if (pl_lookup(t, &call, root, a, &n, &attr) == 0) {
                if (!S_ISDIR(attr.mode))
                    pl_link(t, &call, n, root, b, &attr);
                pl_setxattr(t, &call, n, "user.x", a, 2, 0);
                pl_node_unref(n);
            }
            break;
        case 4:
            if (pl_open(t, &call, root, O_RDONLY | O_DIRECTORY, &f) == 0) {
                assert_int_equal(pl_readdir(t, &call, f, 0, see, &s), 0);
                pl_close(t, &call, f);
            }
            break;
        default:
            if (pl_create(t, &call, root, a, O_CREAT | O_RDWR, 0644, &n, &attr, &f) == 0) {
                memset(buf, 'x', sizeof(buf));
                pl_write(t, &call, f, buf, sizeof(buf), (uint64_t)(rand_r(&seed) % 100000));
                pl_read(t, &call, f, buf, sizeof(buf), (uint64_t)(rand_r(&seed) % 100000));
                pl_close(t, &call, f);
                pl_node_unref(n);
            }
        }
    }
    pl_call_done(&call);
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t th[4];
    struct statfs st;
    char name[16];
    for (uintptr_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&th[i], NULL, stress, (void *)(i + 1)), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(th[i], NULL);
    for (int i = 0; i < 8; i++) {
        snprintf(name, sizeof(name), "s%d", i);
        if (rm(name, 0) == -EISDIR)
            assert_int_equal(rm(name, AT_REMOVEDIR), 0);
    }
    /* nothing is left over: no page, no node but the root, no link */
    assert_int_equal(pl_statfs(t, c, root, &st), 0);
    assert_int_equal(st.f_bfree, st.f_blocks);
    assert_int_equal(st.f_ffree, st.f_files - 1);
    assert_int_equal(stat_at(""), 0);
    assert_int_equal(at.nlink, 2);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(shadow),
        TEST(sparse),
        cmocka_unit_test_setup_teardown(test_full, setup_small, teardown),
        TEST(unlinked),
        TEST(rename),
        TEST(removed_dir),
        TEST(readdir),
        TEST(permissions),
        TEST(modes),
        TEST(times),
        TEST(xattrs),
        TEST(locks_end_with_the_file),
        TEST(keys),
        TEST(deep),
        TEST(threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
