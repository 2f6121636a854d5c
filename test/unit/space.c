/* SPDX-License-Identifier: MIT */
/* A union of two trees: what is seen, and what a change does to each. */
#include "space_fixture.h"

static int setup(void **state)
{
    trees_open();
    put(low, "f", "below");
    put(low, "both", "below");
    put(up, "both", "above");
    put(up, "top", "above");
    mkdirs(low, "d");
    mkdirs(up, "d");
    put(low, "d/x", "below");
    put(low, "d/y", "below");
    put(up, "d/y", "above");
    put(up, "d/z", "above");
    mkdirs(low, "only");
    mkdirs(low, "only/sub");
    put(low, "only/sub/deep", "below");
    open_union(0);
    return 0;
}

static int teardown(void **state)
{
    trees_close();
    return 0;
}

static void is_merged(void **state)
{
    has(u, "f", "below");
    has(u, "both", "above");
    assert_string_equal(list(u, ""), "both d f only top");
    assert_string_equal(list(u, "d"), "x y z");
    has(u, "d/y", "above");
    assert_int_equal(attr_of(u, "d").nlink, 1);
    assert_int_equal(attr_of(u, "only").nlink, 3);
}

static void is_live(void **state)
{
    put(low, "d/new", "below");
    has(u, "d/new", "below");
    assert_int_equal(rm(low, "d/new", 0), 0);
    assert_false(is_there(u, "d/new"));
    put(up, "f", "above");
    has(u, "f", "above");
    assert_int_equal(rm(up, "f", 0), 0);
    has(u, "f", "below");
    mkdirs(up, "only");
    put(up, "only/new", "above");
    assert_string_equal(list(u, "only"), "new sub");
}

/* Something else in front than a directory ends the merging; so does it behind. */
static void first_entry_decides(void **state)
{
    put(up, "only", "a file");
    has(u, "only", "a file");
    assert_int_equal(rm(up, "only", 0), 0);
    mkdirs(up, "f");
    assert_string_equal(list(u, "f"), "");
    assert_true(S_ISDIR(attr_of(u, "f").mode));
}

static void writing_copies_up(void **state)
{
    struct pl_attr was = attr_of(u, "only/sub/deep"), now;
    assert_int_equal(try_write(u, "only/sub/deep", "AB", 0), 0);
    has(u, "only/sub/deep", "ABlow");
    has(up, "only/sub/deep", "ABlow");
    has(low, "only/sub/deep", "below");
    now = attr_of(u, "only/sub/deep");
    if (kind != PLAIN) /* else only as long as it is known */
        assert_int_equal(was.ino, now.ino);
    assert_string_equal(list(u, "only/sub"), "deep");
    open_union(0); /* and nothing is known any more but what is noted */
    if (kind != PLAIN)
        assert_int_equal(attr_of(u, "only/sub/deep").ino, now.ino);
    assert_string_equal(list(u, "only/sub"), "deep");
}

static void reading_does_not(void **state)
{
    has(u, "f", "below");
    list(u, "only");
    assert_false(is_there(up, "f"));
    assert_false(is_there(up, "only"));
}

static void truncating_does_not_copy_content(void **state)
{
    put(u, "f", "x");
    has(up, "f", "x");
    has(low, "f", "below");
}

/* Times to the nanosecond, owner, mode, xattrs, also of the directories above; the directory in
 * which nothing changed keeps its own. */
static void attributes_come_along(void **state)
{
    const struct pl_setattr how = {.valid = PL_SET_MODE | PL_SET_UID | PL_SET_GID | PL_SET_ATIME |
                                            PL_SET_MTIME,
                                   .mode = 01640,
                                   .uid = getuid() ? getuid() : 1234,
                                   .gid = getuid() ? getgid() : 4321,
                                   .atime = {1000000001, 123456789},
                                   .mtime = {1000000002, 987654321}};
    const char *paths[] = {"only/sub/deep", "only/sub", "only"};
    struct pl_node *n = must(low, "only/sub/deep");
    assert_int_equal(pl_setxattr(low, c, n, "user.colour", "red", 3, 0), 0);
    pl_node_unref(n);
    for (int i = 0; i < 3; i++)
        assert_int_equal(set(low, paths[i], &how), 0);
    n = must(u, "only/sub/deep");
    char value[16];
    if (kind != PLAIN) {
        assert_int_equal(pl_setxattr(u, c, n, "user.shape", "round", 5, 0), 0);
        assert_int_equal(pl_getxattr(u, c, n, "user.colour", value, sizeof(value)), 3);
        assert_int_equal(pl_listxattr(u, c, n, NULL, 0),
                         sizeof("user.colour") + sizeof("user.shape"));
    }
    assert_int_equal(try_write(u, "only/sub/deep", "", 0), 0);
    pl_node_unref(n);
    for (int i = 0; i < 3; i++) {
        struct pl_attr a = attr_of(up, paths[i]);
        assert_int_equal(a.mode & 07777, 01640);
        assert_int_equal(a.uid, how.uid);
        assert_int_equal(a.gid, how.gid);
        assert_int_equal(a.mtime.tv_sec, how.mtime.tv_sec);
        assert_int_equal(a.mtime.tv_nsec, how.mtime.tv_nsec);
        assert_int_equal(a.atime.tv_nsec, how.atime.tv_nsec);
    }
}

static void holes_stay_holes(void **state)
{
    struct pl_node *n, *root = must(low, "");
    struct pl_file *f;
    assert_int_equal(pl_create(low, c, root, "holes", O_RDWR, 0600, &n, &at, &f), 0);
    assert_int_equal(pl_write(low, c, f, "x", 1, 1 << 20), 1);
    struct pl_setattr size = {.valid = PL_SET_SIZE, .size = 5 << 20};
    assert_int_equal(pl_setattr(low, c, n, f, &size, &at), 0);
    pl_close(low, c, f);
    pl_node_unref(n);
    pl_node_unref(root);
    uint64_t blocks = at.blocks;
    const struct pl_setattr how = {.valid = PL_SET_MODE, .mode = 0640};
    assert_int_equal(set(u, "holes", &how), 0);
    struct pl_attr a = attr_of(up, "holes");
    assert_int_equal(a.size, 5 << 20);
    assert_int_equal(a.blocks, blocks);
}

static void special_files(void **state)
{
    const struct pl_setattr how = {.valid = PL_SET_MTIME, .mtime = {5, 5}};
    assert_int_equal(mk(low, "fifo", S_IFIFO | 0600), 0);
    assert_int_equal(mk(low, "link", S_IFLNK), 0);
    assert_int_equal(set(u, "fifo", &how), 0);
    assert_int_equal(set(u, "link", &how), 0);
    assert_true(S_ISFIFO(attr_of(up, "fifo").mode));
    assert_int_equal(attr_of(up, "link").mtime.tv_sec, 5);
    assert_int_equal(attr_of(low, "link").mtime.tv_sec != 5, 1);
}

static void removed_is_hidden(void **state)
{
    assert_int_equal(rm(u, "f", 0), 0);
    assert_false(is_there(u, "f"));
    assert_string_equal(list(u, ""), "both d only top");
    has(low, "f", "below");
    assert_int_equal(rm(u, "both", 0), 0);
    assert_false(is_there(u, "both"));
    put(u, "f", "again");
    has(u, "f", "again");
    open_union(0);
    assert_false(is_there(u, "both"));
    has(u, "f", "again");
}

static void removed_directory(void **state)
{
    assert_int_equal(rm(u, "only", AT_REMOVEDIR), -ENOTEMPTY);
    assert_int_equal(rm(u, "only/sub", 0), -EISDIR);
    assert_int_equal(rm(u, "only/sub/deep", 0), 0);
    assert_int_equal(rm(u, "only/sub", AT_REMOVEDIR), 0);
    assert_string_equal(list(u, "only"), "");
    mkdirs(u, "only/sub");
    assert_string_equal(list(u, "only/sub"), "");
    open_union(0);
    assert_string_equal(list(u, "only/sub"), "");
    assert_int_equal(rm(u, "only/sub", AT_REMOVEDIR), 0);
    assert_int_equal(rm(u, "only", AT_REMOVEDIR), 0);
    assert_false(is_there(u, "only"));
    put(u, "only", "a file");
    has(u, "only", "a file");
}

static void renamed(void **state)
{
    struct pl_attr was = attr_of(u, "f");
    assert_int_equal(mv(u, "f", "g", 0), 0);
    has(u, "g", "below");
    assert_false(is_there(u, "f"));
    if (kind != PLAIN)
        assert_int_equal(attr_of(u, "g").ino, was.ino);
    assert_string_equal(list(u, ""), "both d g only top");
    assert_int_equal(mv(u, "g", "d/x", RENAME_NOREPLACE), -EEXIST);
    assert_int_equal(mv(u, "g", "d/x", 0), 0);
    has(u, "d/x", "below");
    open_union(0);
    assert_string_equal(list(u, "d"), "x y z");
    if (kind != PLAIN)
        assert_int_equal(attr_of(u, "d/x").ino, was.ino);
    assert_int_equal(mv(u, "both", "top", RENAME_EXCHANGE), kind == PLAIN ? -EINVAL : 0);
    assert_int_equal(mv(u, "d/x", "f", RENAME_NOREPLACE), 0);
    assert_string_equal(list(u, ""), "both d f only top");
}

static void renamed_directory(void **state)
{
    struct pl_attr was = attr_of(u, "d");
    assert_int_equal(mv(u, "d", "e", 0), 0);
    assert_string_equal(list(u, "e"), "x y z");
    assert_string_equal(list(u, ""), "both e f only top");
    assert_int_equal(attr_of(u, "e").ino, was.ino);
    assert_int_equal(is_there(up, "e/x"), kind == PLAIN); /* it need not be copied */
    mkdirs(u, "d");
    assert_string_equal(list(u, "d"), "");
    assert_int_equal(mv(u, "e", "d", 0), 0);
    assert_string_equal(list(u, "d"), "x y z");
    assert_int_equal(mv(u, "only/sub", "d/s", 0), 0);
    has(u, "d/s/deep", "below");
    open_union(0);
    assert_string_equal(list(u, "d"), "s x y z");
    has(u, "d/s/deep", "below");
    assert_int_equal(mv(u, "d/s", "s", 0), 0);
    assert_int_equal(mv(u, "d", "s/d", 0), 0);
    has(u, "s/d/x", "below");
    has(u, "s/deep", "below");
    assert_int_equal(mv(u, "s", "s/d/s", 0), -EINVAL);
    mkdirs(u, "new"); /* in which nothing is behind */
    assert_int_equal(mv(u, "s", "new/s", 0), 0);
    has(u, "new/s/deep", "below");
    assert_int_equal(mv(u, "new/s", "s", 0), 0);
    assert_int_equal(rm(u, "new", AT_REMOVEDIR), 0);
    open_union(0);
    has(u, "s/d/y", "above");
    assert_string_equal(list(u, ""), "both f only s top");
    assert_string_equal(list(u, "only"), "");
}

static void renamed_over_what_is_empty(void **state)
{
    mkdirs(u, "new");
    put(u, "new/n", "new");
    assert_int_equal(mv(u, "new", "only", 0), -ENOTEMPTY);
    assert_int_equal(rm(u, "only/sub/deep", 0), 0);
    assert_int_equal(mv(u, "new", "only/sub", 0), 0);
    assert_string_equal(list(u, "only/sub"), "n");
    open_union(0);
    assert_string_equal(list(u, "only/sub"), "n");
    if (kind == PLAIN)
        return;
    assert_int_equal(mv(u, "d", "only", RENAME_EXCHANGE), 0);
    assert_string_equal(list(u, "d"), "sub");
    assert_string_equal(list(u, "only"), "x y z");
    open_union(0);
    assert_string_equal(list(u, "d/sub"), "n");
    assert_string_equal(list(u, "only"), "x y z");
}

static void links(void **state)
{
    assert_int_equal(ln(u, "f", "d/f2"), 0);
    has(u, "d/f2", "below");
    assert_int_equal(attr_of(u, "f").ino, attr_of(u, "d/f2").ino);
    assert_int_equal(attr_of(u, "f").nlink, 2);
    assert_int_equal(try_write(u, "d/f2", "X", 0), 0);
    has(u, "f", "Xelow");
    assert_string_equal(list(u, "d"), "f2 x y z");
}

/* Names of one file behind stay that: its count goes with them, and nothing is left at the end. */
static void hard_links_behind(void **state)
{
    assert_int_equal(ln(low, "f", "d/f2"), 0);
    assert_int_equal(ln(low, "f", "only/f3"), 0);
    uint64_t ino = attr_of(u, "f").ino;
    assert_int_equal(at.nlink, 3);
    assert_int_equal(attr_of(u, "d/f2").ino, ino);
    assert_int_equal(try_write(u, "d/f2", "X", 0), 0);
    if (kind == PLAIN) { /* there is no index */
        has(u, "f", "below");
        return;
    }
    for (int again = 0; again < 2; again++) {
        has(u, "f", "Xelow");
        has(u, "only/f3", "Xelow");
        assert_int_equal(attr_of(u, "only/f3").ino, ino);
        assert_int_equal(at.nlink, 3);
        assert_string_equal(list(u, "only"), "f3 sub");
        open_union(0);
    }
    has(low, "f", "below");
    assert_int_equal(mv(u, "f", "g", 0), 0);
    assert_int_equal(try_write(u, "g", "Y", 0), 0);
    has(u, "only/f3", "Yelow");
    assert_int_equal(attr_of(u, "g").nlink, 3);
    assert_int_equal(rm(u, "only/f3", 0), 0);
    assert_false(is_there(u, "only/f3"));
    assert_int_equal(attr_of(u, "g").nlink, 2);
    open_union(0);
    assert_int_equal(attr_of(u, "g").nlink, 2);
    assert_string_equal(list(u, ""), "both d g only top");
    assert_int_equal(rm(u, "g", 0), 0);
    assert_int_equal(mv(u, "top", "d/f2", 0), 0);
    assert_string_equal(list(up, ".wh..index"), "");
}

static void mark(struct pl_tree *t, const char *path, const char *name, const char *value)
{
    struct pl_node *n = must(t, path);
    assert_int_equal(pl_setxattr(t, c, n, name, value, strlen(value), 0), 0);
    pl_node_unref(n);
}

/* A file of `size` without its content, as overlayfs leaves it. */
static void hollow(struct pl_tree *t, const char *path, uint64_t size, const char *redirect)
{
    const struct pl_setattr cut = {.valid = PL_SET_SIZE, .size = size};
    put(t, path, "");
    assert_int_equal(set(t, path, &cut), 0);
    mark(t, path, "user.overlay.metacopy", "");
    if (redirect)
        mark(t, path, "user.overlay.redirect", redirect);
}

static void content_behind(void **state)
{
    const struct pl_setattr how = {.valid = PL_SET_MODE, .mode = 0640};
    static const char *const names[] = {"a", "b", "c", "e", "g", "h"};
    char buf[256];
    if (kind == PLAIN)
        skip();
    hollow(up, "f", 5, NULL);
    hollow(up, "d/r", 5, "x");
    for (int i = 0; i < 6; i++)
        hollow(up, names[i], 5, "/only/sub/deep");
    hollow(up, "gone", 5, "/only/none");
    hollow(up, "dir", 5, "/only");
    has(u, "f", "below");
    has(u, "d/r", "below");
    has(u, "a", "below");
    assert_int_equal(try_write(u, "gone", "x", 0), -EIO);
    assert_int_equal(try_write(u, "dir", "x", 0), -EIO);
    /* Who reads it while it is changed reads the change; the first change brings the rest along. */
    struct pl_node *n = must(u, "f");
    struct pl_file *r;
    assert_int_equal(pl_open(u, c, n, O_RDONLY, &r), 0);
    assert_string_equal(text_of(u, r, buf), "below");
    assert_int_equal(try_write(u, "f", "AB", 0), 0);
    assert_string_equal(text_of(u, r, buf), "ABlow");
    pl_close(u, c, r);
    pl_node_unref(n);
    put(u, "a", "x"); /* O_TRUNC: there is nothing to bring */
    assert_int_equal(set(u, "b", &how), 0);
    assert_int_equal(mv(u, "c", "d/c", 0), 0);
    assert_int_equal(ln(u, "e", "e2"), 0);
    assert_int_equal(mv(u, "g", "h", RENAME_EXCHANGE), 0);
    has(up, "f", "ABlow");
    has(up, "a", "x");
    has(up, "b", "below");
    has(up, "d/c", "below");
    has(up, "e2", "below");
    has(up, "g", "below");
    has(up, "h", "below");
    open_union(0);
    has(u, "h", "below");
    has(u, "d/r", "below");
    has(low, "only/sub/deep", "below");
    assert_int_equal(rm(u, "d/r", 0), 0);
    assert_string_equal(list(u, "d"), "c x y z");
}

static void whiteouts_by_mark(void **state)
{
    if (kind == PLAIN)
        skip();
    put(low, "d/w", "below");
    put(up, "d/w", "");
    put(up, "both", "");
    mark(up, "d/w", "user.overlay.whiteout", "y");
    mark(up, "both", "user.overlay.whiteout", "y");
    assert_string_equal(list(u, "d"), "w x y z"); /* the directory does not say that it has such */
    mark(up, "d", "user.overlay.opaque", "x");
    assert_string_equal(list(u, "d"), "x y z");
    assert_false(is_there(u, "d/w"));
    assert_true(is_there(u, "both"));
    put(u, "d/w", "again");
    has(u, "d/w", "again");
    assert_int_equal(rm(u, "d/w", 0), 0);
    assert_false(is_there(u, "d/w"));
    put(up, "d/x", "");
    mark(up, "d/x", "user.overlay.whiteout", "");
    assert_int_equal(rm(u, "d/y", 0), 0);
    assert_int_equal(rm(u, "d/z", 0), 0);
    assert_string_equal(list(u, "d"), "");
    assert_int_equal(rm(u, "d", AT_REMOVEDIR), 0);
    mkdirs(u, "d");
    assert_string_equal(list(u, "d"), "");
}

/* Who has it open when it is copied up reads the new bytes; by the descriptor, the old ones. */
static void readers_go_on(void **state)
{
    char buf[256];
    struct pl_node *n = must(u, "f");
    struct pl_file *r, *w, *r2;
    assert_int_equal(pl_open(u, c, n, O_RDONLY, &r), 0);
    assert_int_equal(pl_open(u, c, n, O_WRONLY, &w), 0);
    assert_int_equal(pl_write(u, c, w, "ABOVE!", 6, 0), 6);
    assert_int_equal(pl_open(u, c, n, O_RDONLY, &r2), 0);
    int fd = pl_file_fd(u, r);
    assert_int_equal(fd >= 0, kind == HOST);
    assert_true(r->moves && !w->moves);
    if (fd >= 0) {
        assert_int_equal(pread(fd, buf, 5, 0), 5);
        assert_memory_equal(buf, "below", 5);
    }
    assert_string_equal(text_of(u, r, buf), "ABOVE!");
    assert_string_equal(text_of(u, r2, buf), "ABOVE!");
    assert_int_equal(pl_getattr(u, c, n, r, &at), 0);
    assert_int_equal(at.size, 6);
    pl_close(u, c, r2);
    pl_close(u, c, w);
    pl_close(u, c, r);
    pl_node_unref(n);
}

/* What lost its name before it was changed is changed all the same, and leaves nothing. */
static void nameless(void **state)
{
    struct pl_node *n = must(u, "f");
    struct pl_file *w;
    char buf[256];
    assert_int_equal(rm(u, "f", 0), 0);
    assert_int_equal(pl_open(u, c, n, O_RDWR, &w), 0);
    assert_int_equal(pl_write(u, c, w, "X", 1, 0), 1);
    assert_string_equal(text_of(u, w, buf), "Xelow");
    pl_close(u, c, w);
    pl_node_unref(n);
    assert_false(is_there(u, "f"));
    assert_string_equal(list(u, ""), "both d only top");
}

static void locks_outlive_a_copy(void **state)
{
    struct pl_node *n = must(u, "f");
    struct pl_file *r, *w;
    struct pl_lock lock = {.type = F_RDLCK, .owner = 1, .end = 10};
    assert_int_equal(pl_open(u, c, n, O_RDONLY, &r), 0);
    assert_int_equal(pl_lock(u, c, r, &lock), 0);
    assert_int_equal(pl_open(u, c, n, O_RDWR, &w), 0);
    lock = (struct pl_lock){.type = F_WRLCK, .owner = 2, .end = 10};
    assert_int_equal(pl_lock(u, c, w, &lock), -EAGAIN);
    assert_int_equal(pl_getlock(u, c, w, &lock), 0);
    assert_int_equal(lock.owner, 1);
    pl_flush(u, c, r, 1);
    pl_close(u, c, r);
    lock = (struct pl_lock){.type = F_WRLCK, .owner = 2, .end = 10};
    assert_int_equal(pl_lock(u, c, w, &lock), 0);
    pl_close(u, c, w);
    pl_node_unref(n);
}

static void our_names(void **state)
{
    assert_int_equal(try_write(u, ".wh.x", "", 0), -EINVAL);
    assert_int_equal(mk(u, ".wh.d", S_IFDIR | 0755), -EINVAL);
    assert_int_equal(mv(u, "f", ".wh.f", 0), -EINVAL);
    assert_int_equal(ln(u, "f", ".wh.f"), -EINVAL);
    put(up, ".wh.f", "");
    assert_false(is_there(u, "f"));
    assert_false(is_there(u, ".wh.f"));
    put(up, "d/.wh..opq", "");
    assert_string_equal(list(u, "d"), "y z");
    assert_string_equal(list(u, ""), "both d only top");
    struct pl_node *n = must(u, "top");
    assert_int_equal(pl_setxattr(u, c, n, "user.plenum.origin", "1", 1, 0), -EOPNOTSUPP);
    pl_node_unref(n);
}

static void classic(void **state)
{
    open_union(PL_SPACE_CLASSIC);
    assert_int_equal(rm(u, "f", 0), -EROFS);
    assert_int_equal(rm(u, "both", 0), 0);
    has(u, "both", "below");
    assert_int_equal(rm(u, "both", 0), -EROFS);
    assert_int_equal(mv(u, "f", "g", 0), -EROFS);
    put(u, "f", "above");
    assert_int_equal(mv(u, "f", "g", 0), 0);
    has(u, "f", "below");
    has(u, "g", "above");
}

static void read_only(void **state)
{
    struct pl_tree *both[] = {up, low};
    pl_tree_unref(u);
    assert_int_equal(pl_union_new(both, 2, false, 0, &u, &err), 0);
    const struct pl_setattr how = {.valid = PL_SET_MODE, .mode = 0600};
    has(u, "f", "below");
    assert_int_equal(try_write(u, "new", "", 0), -EROFS);
    assert_int_equal(try_write(u, "top", "", 0), -EROFS);
    assert_int_equal(set(u, "top", &how), -EROFS);
    assert_int_equal(set(u, "f", &how), -EROFS);
    assert_int_equal(rm(u, "top", 0), -EROFS);
    assert_int_equal(mv(u, "top", "t", 0), -EROFS);
    assert_int_equal(ln(u, "top", "t"), -EROFS);
    assert_int_equal(mk(u, "d2", S_IFDIR | 0755), -EROFS);
}

/* No room for the copy: nothing is left behind, and the old one is there. */
static void no_space(void **state)
{
    if (kind != MEM)
        skip();
    pl_tree_unref(up);
    assert_int_equal(pl_mem_new(16 * 4096, &up, &err), 0);
    char *big = malloc(40 * 4096 + 1);
    memset(big, 'x', 40 * 4096);
    big[40 * 4096] = 0;
    put(low, "big", big);
    free(big);
    open_union(0);
    assert_int_equal(try_write(u, "big", "y", 0), -ENOSPC);
    assert_int_equal(attr_of(u, "big").size, 40 * 4096);
    assert_string_equal(list(up, ""), "");
    put(u, "d/x", "small");
    has(u, "d/x", "small");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(is_merged),
        TEST(is_live),
        TEST(first_entry_decides),
        TEST(writing_copies_up),
        TEST(reading_does_not),
        TEST(truncating_does_not_copy_content),
        TEST(attributes_come_along),
        TEST(holes_stay_holes),
        TEST(special_files),
        TEST(removed_is_hidden),
        TEST(removed_directory),
        TEST(renamed),
        TEST(renamed_directory),
        TEST(renamed_over_what_is_empty),
        TEST(links),
        TEST(hard_links_behind),
        TEST(content_behind),
        TEST(whiteouts_by_mark),
        TEST(readers_go_on),
        TEST(nameless),
        TEST(locks_outlive_a_copy),
        TEST(our_names),
        TEST(classic),
        TEST(read_only),
        TEST(no_space),
    };
    static const char *const names[] = {"space of memory", "space with a plain top",
                                        "space of host"};
    int failed = 0;
    for (kind = MEM; kind <= HOST; kind++)
        failed += cmocka_run_group_tests_name(names[kind], tests, NULL, NULL);
    return failed;
}
