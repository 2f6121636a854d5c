/* SPDX-License-Identifier: MIT */
/* Times: set as told, to the nanosecond, and moved by what changes an object. */
#include "conform.h"

#include <linux/falloc.h>
#include <unistd.h>

static struct pl_attr set(struct pl_node *n, struct pl_setattr s)
{
    struct pl_attr a;
    OK(pl_setattr(tree, me, n, NULL, &s, &a));
    return attr(n);
}

static int cmp(struct timespec a, struct timespec b)
{
    if (a.tv_sec != b.tv_sec)
        return a.tv_sec < b.tv_sec ? -1 : 1;
    return (a.tv_nsec > b.tv_nsec) - (a.tv_nsec < b.tv_nsec);
}

static void is_time(struct timespec got, int64_t sec, long nsec)
{
    if (got.tv_sec != sec || got.tv_nsec != nsec)
        FAIL("%lld.%09ld, should be %lld.%09ld", (long long)got.tv_sec, got.tv_nsec, (long long)sec,
             nsec);
}

CASE(times, to_the_nanosecond)
{
    struct pl_node *n[] = {mk_file(top, "f"), mk_dir(top, "d"), mk_symlink(top, "l", "x")};
    for (int i = 0; i < 3; i++) {
        struct pl_attr a = set(n[i], (struct pl_setattr){PL_SET_ATIME | PL_SET_MTIME,
                                                         .atime = {1234567890, 123456789},
                                                         .mtime = {1034567890, 999999999}});
        is_time(a.atime, 1234567890, 123456789);
        is_time(a.mtime, 1034567890, 999999999);
        a = set(n[i], (struct pl_setattr){PL_SET_ATIME | PL_SET_MTIME, .mtime = {0, 1}});
        is_time(a.atime, 0, 0);
        is_time(a.mtime, 0, 1);
    }
}

CASE(times, one_alone)
{
    struct pl_node *f = mk_file(top, "f");
    OK(t_utimens(f, 1000, 2000));
    struct pl_attr a = set(f, (struct pl_setattr){PL_SET_ATIME, .atime = {3000, 5}});
    is_time(a.atime, 3000, 5);
    is_time(a.mtime, 2000, 0);
    a = set(f, (struct pl_setattr){PL_SET_MTIME, .mtime = {4000, 6}});
    is_time(a.atime, 3000, 5);
    is_time(a.mtime, 4000, 6);
    a = set(f, (struct pl_setattr){PL_SET_MTIME_NOW | PL_SET_ATIME, .atime = {1, 2}});
    is_time(a.atime, 1, 2);
    TRUE(a.mtime.tv_sec > 1000000);
}

CASE(times, now)
{
    struct timespec before, after;
    struct pl_node *f = mk_file(top, "f");
    OK(t_utimens(f, 1000, 2000));
    clock_gettime(CLOCK_REALTIME_COARSE, &before);
    struct pl_attr a = set(f, (struct pl_setattr){PL_SET_MTIME_NOW});
    is_time(a.atime, 1000, 0);
    TRUE(cmp(a.mtime, before) >= 0);
    a = set(f, (struct pl_setattr){PL_SET_ATIME_NOW});
    clock_gettime(CLOCK_REALTIME, &after);
    TRUE(cmp(a.atime, before) >= 0);
    TRUE(cmp(a.atime, after) <= 0);
    TRUE(cmp(a.mtime, after) <= 0);
}

CASE(times, long_ago_and_far_ahead)
{
    static const int64_t sec[] = {-1,           -1000000,   -2147483647ll, 2147483646,
                                  2147483648ll, 4294967295, 4294967296,    8589934592ll};
    struct pl_node *f = mk_file(top, "f");
    for (size_t i = 0; i < sizeof(sec) / sizeof(*sec); i++) {
        struct pl_attr a =
            set(f, (struct pl_setattr){PL_SET_ATIME | PL_SET_MTIME, .atime = {sec[i], 7},
                                       .mtime = {sec[i], 999999998}});
        is_time(a.atime, sec[i], 7);
        is_time(a.mtime, sec[i], 999999998);
        drop(look(top, "f"));
    }
}

CASE(times, of_an_open_file)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    struct pl_attr a;
    struct pl_setattr s = {PL_SET_MTIME, .mtime = {5000, 5}};
    say(o, 0, "x");
    OK(pl_setattr(tree, me, o->node, o, &s, &a));
    is_time(fattr(o).mtime, 5000, 5);
    is_time(attr(o->node).mtime, 5000, 5);
    OK(pl_flush(tree, me, o, 0));
    close_(o);
    is_time(attr(look(top, "f")).mtime, 5000, 5); /* nothing comes late */
}

/* ---- what moves which time ------------------------------------------------------------------- */

/* The state before an op: modified in 1970, changed at a moment that is over. */
static struct pl_attr before(struct pl_node *n)
{
    OK(t_utimens(n, 1000, 2000));
    struct pl_attr a = attr(n);
    tick();
    return a;
}

enum { C = 1, M = 2 };

static void moved_at(const char *file, int line, struct pl_node *n, const struct pl_attr *was,
                     int want)
{
    struct pl_attr a = attr(n);
    int got = (cmp(a.ctime, was->ctime) > 0 ? C : 0) | (cmp(a.mtime, was->mtime) > 0 ? M : 0);
    if (cmp(a.ctime, was->ctime) < 0)
        fail_at(file, line, "ctime went back");
    if (got != want)
        fail_at(file, line, "ctime %s, mtime %s; should: ctime %s, mtime %s",
                got & C ? "moved" : "stayed", got & M ? "moved" : "stayed",
                want & C ? "move" : "stay", want & M ? "move" : "stay");
}
#define MOVED(n, was, want) moved_at(__FILE__, __LINE__, n, &(was), want)

CASE(times, of_a_file)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    struct pl_node *f = o->node;
    char buf[8];
    say(o, 0, "some text");
    struct pl_attr a = before(f);
    say(o, 0, "S");
    MOVED(f, a, C | M);
    a = before(f);
    OK(t_truncate(f, 3));
    MOVED(f, a, C | M);
    a = before(f);
    OK(t_open(f, O_WRONLY | O_TRUNC));
    MOVED(f, a, C | M);
    say(o, 0, "text");
    a = before(f);
    OK(t_chmod(f, 0600));
    MOVED(f, a, C);
    a = before(f);
    OK(t_open(f, O_RDWR));
    OK(pl_read(tree, me, o, buf, 8, 0));
    OK(t_lookup(top, "f"));
    OK(pl_fsync(tree, me, o, false));
    MOVED(f, a, 0);
    a = before(f);
    IS(pl_write(tree, me, o, "", 0, 0), 0);
    MOVED(f, a, 0);
    if (geteuid() == 0) {
        a = before(f);
        OK(t_chown(f, 5, 6));
        MOVED(f, a, C);
    }
    a = before(f);
    tick();
    set(f, (struct pl_setattr){PL_SET_ATIME, .atime = {1, 1}});
    MOVED(f, a, C);
}

CASE(times, of_a_file_linked)
{
    struct pl_node *f = mk_file(top, "f");
    struct pl_attr a = before(f);
    NEED(link, t_link(f, top, "g"));
    MOVED(f, a, C);
    a = before(f);
    rm(top, "g");
    MOVED(f, a, C);
    a = before(f);
    OK(t_rename(top, "f", top, "h", 0));
    MOVED(f, a, C);
    a = before(f);
    rm(top, "h");
    MOVED(f, a, C);
}

CASE(times, of_directories)
{
    struct pl_node *d = mk_dir(top, "d"), *e = mk_dir(top, "e"), *f = mk_file(top, "f");
    struct pl_attr a = before(d), b;
    mk_file(d, "f");
    MOVED(d, a, C | M);
    a = before(d);
    mk_dir(d, "sub");
    MOVED(d, a, C | M);
    a = before(d);
    mk_symlink(d, "l", "x");
    MOVED(d, a, C | M);
    a = before(d);
    OK(t_link(f, d, "g"));
    MOVED(d, a, C | M);
    a = before(d), b = before(e);
    OK(t_rename(d, "g", e, "g", 0));
    MOVED(d, a, C | M);
    MOVED(e, b, C | M);
    a = before(d);
    rm(d, "l");
    MOVED(d, a, C | M);
    a = before(d);
    rmdir_(d, "sub");
    MOVED(d, a, C | M);
}

CASE(times, of_directories_left_alone)
{
    struct pl_node *d = mk_dir(top, "d"), *f = mk_file(d, "f");
    struct pl_attr a = before(d);
    say(open_(f, O_WRONLY), 0, "text");
    OK(t_chmod(f, 0600));
    IS(t_lookup(d, "none"), -ENOENT);
    IS(t_make(d, "f", S_IFDIR | 0755), -EEXIST);
    IS(t_remove(d, "none", 0), -ENOENT);
    IS(t_rename(d, "none", d, "x", 0), -ENOENT);
    OK(t_create(d, "f", O_CREAT | O_RDWR, 0644));
    struct entries l = entries_of(d);
    entries_free(&l);
    MOVED(d, a, 0);
    a = before(d);
    OK(t_chmod(d, 0700));
    MOVED(d, a, C);
}

CASE(times, of_replaced_files)
{
    struct pl_node *a = mk_file(top, "a"), *b = mk_file(top, "b");
    struct pl_attr ba = before(a), bb = before(b);
    OK(t_rename(top, "a", top, "b", 0));
    MOVED(a, ba, C);
    MOVED(b, bb, C);
}

CASE(times, by_xattrs)
{
    need_flag(PL_TREE_XATTR, F_xattr);
    struct pl_node *f = mk_file(top, "f");
    struct pl_attr a = before(f);
    NEED(xattr, pl_setxattr(tree, me, f, "user.x", "y", 1, 0));
    MOVED(f, a, C);
    a = before(f);
    OK(pl_removexattr(tree, me, f, "user.x"));
    MOVED(f, a, C);
}

CASE(times, by_fallocate)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    say(o, 0, "text");
    struct pl_attr a = before(o->node);
    NEED(fallocate, pl_fallocate(tree, me, o, 0, 0, 100000));
    MOVED(o->node, a, C | M);
    a = before(o->node);
    NEED(punch, pl_fallocate(tree, me, o, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 8192));
    MOVED(o->node, a, C | M);
}

CASE(times, by_copy)
{
    struct pl_file *in = mk_open(top, "in", O_RDWR, 0644), *o = mk_open(top, "f", O_RDWR, 0644);
    say(in, 0, "text");
    struct pl_attr a = before(o->node), b = before(in->node);
    NEED(copy, pl_copy(tree, me, in, 0, o, 0, 4));
    MOVED(o->node, a, C | M);
    MOVED(in->node, b, 0);
}

CASE(times, birth)
{
    struct pl_node *f = mk_file(top, "f");
    struct pl_attr a = attr(f);
    if (!a.btime.tv_sec && !a.btime.tv_nsec)
        SKIP(btime, "the attributes have none");
    TRUE(a.btime.tv_sec > 1000000000);
    tick();
    say(open_(f, O_WRONLY), 0, "text");
    OK(t_utimens(f, 1000, 1000));
    OK(t_rename(top, "f", top, "g", 0));
    TRUE(cmp(attr(f).btime, a.btime) == 0);
}
