/* SPDX-License-Identifier: MIT */
/* Attributes: what new objects have, what setattr changes and what it leaves alone. */
#include "conform.h"

#include <unistd.h>

CASE(attrs, root)
{
    struct pl_attr a = attr(top);
    TRUE(S_ISDIR(a.mode));
    IS(a.mode & 07777, 0755);
    TRUE(a.nlink >= 1);
    IS(a.uid, geteuid());
    TRUE(a.blksize > 0);
}

CASE(attrs, attach)
{
    struct pl_node *n, *d, *f;
    struct pl_attr a;
    d = mk_dir(top, "a");
    f = mk_file(mk_dir(d, "b"), "c");
    mk_symlink(top, "l", "a");
    OK(pl_attach(tree, me, "/", &n, &a));
    TRUE(same(keep(n), top));
    OK(pl_attach(tree, me, "a", &n, &a));
    TRUE(same(keep(n), d));
    OK(pl_attach(tree, me, "a/b/c", &n, &a));
    TRUE(same(keep(n), f));
    IS(a.ino, attr(f).ino);
    OK(pl_attach(tree, me, "l", &n, &a));
    TRUE(S_ISLNK(keep(n)->fmt));
    IS(pl_attach(tree, me, "a/none", &n, &a), -ENOENT);
    IS(pl_attach(tree, me, "none/b", &n, &a), -ENOENT);
    IS(pl_attach(tree, me, "a/b/c/d", &n, &a), -ENOTDIR);
    ONE_OF(pl_attach(tree, me, "l/b", &n, &a), -ENOTDIR, -ELOOP);
}

CASE(attrs, new_file)
{
    struct timespec now;
    struct pl_node *f = mk_file(top, "f");
    struct pl_attr a = attr(f);
    IS(a.mode, S_IFREG | 0644);
    IS(a.size, 0);
    IS(a.nlink, 1);
    IS(a.uid, geteuid());
    IS(a.gid, getegid());
    IS(a.blocks, 0);
    TRUE(a.blksize > 0);
    clock_gettime(CLOCK_REALTIME, &now);
    TRUE(a.mtime.tv_sec <= now.tv_sec && a.mtime.tv_sec > now.tv_sec - 300);
    TRUE(a.ctime.tv_sec <= now.tv_sec && a.ctime.tv_sec > now.tv_sec - 300);
    TRUE(a.atime.tv_sec <= now.tv_sec && a.atime.tv_sec > now.tv_sec - 300);
    TRUE(a.mtime.tv_nsec >= 0 && a.mtime.tv_nsec < 1000000000);
}

CASE(attrs, new_directory)
{
    struct pl_attr a = attr(mk_mode(top, "d", S_IFDIR | 0710));
    IS(a.mode, S_IFDIR | 0710);
    IS(a.uid, geteuid());
    TRUE(a.nlink == 2 || a.nlink == 1);
}

CASE(attrs, made_regular_file)
{
    struct pl_node *f = mk_mode(top, "f", S_IFREG | 0640);
    IS(attr(f).mode, S_IFREG | 0640);
    say(open_(f, O_WRONLY), 0, "written");
    content(top, "f", "written");
    IS(t_make(top, "f", S_IFREG | 0640), -EEXIST);
}

static void equal(const struct pl_attr *a, const struct pl_attr *b)
{
    IS(a->ino, b->ino);
    IS(a->mode, b->mode);
    IS(a->size, b->size);
    IS(a->nlink, b->nlink);
    IS(a->uid, b->uid);
    IS(a->gid, b->gid);
    IS(a->mtime.tv_sec, b->mtime.tv_sec);
    IS(a->mtime.tv_nsec, b->mtime.tv_nsec);
    IS(a->btime.tv_sec, b->btime.tv_sec);
}

CASE(attrs, every_way_the_same)
{
    struct pl_node *n, *f = mk_text(top, "f", "some text");
    struct pl_attr a = attr(f), b;
    OK(pl_lookup(tree, me, top, "f", &n, &b));
    keep(n);
    equal(&a, &b);
    b = fattr(open_(f, O_RDONLY));
    equal(&a, &b);
    OK(pl_setattr(tree, me, f, NULL, &(struct pl_setattr){PL_SET_MODE, .mode = 0600}, &b));
    a = attr(f);
    equal(&a, &b);
    OK(pl_link(tree, me, f, top, "g", &b));
    a = attr(f);
    equal(&a, &b);
}

CASE(attrs, numbers)
{
    struct pl_node *f = mk_file(top, "f"), *g = mk_file(top, "g"), *d = mk_dir(top, "d");
    struct pl_node *again = look(top, "f");
    TRUE(same(f, again));
    TRUE(!same(f, g));
    TRUE(!same(f, d));
    TRUE(!same(d, top));
    TRUE(same(look(d, ".."), top));
    uint64_t ino = attr(f).ino;
    OK(t_rename(top, "f", d, "h", 0));
    IS(attr(f).ino, ino);
    IS(attr(look(d, "h")).ino, ino);
}

CASE(attrs, readdir_numbers)
{
    mk_file(top, "f");
    mk_dir(top, "d");
    mk_symlink(top, "l", "f");
    struct entries l = entries_of(top);
    IS(l.n, 3);
    for (size_t i = 0; i < l.n; i++)
        if (l.ent[i].ino)
            IS(l.ent[i].ino, attr(look(top, l.ent[i].name)).ino);
    entries_free(&l);
}

CASE(attrs, chmod_every_bit)
{
    struct pl_node *f = mk_file(top, "f"), *d = mk_dir(top, "d");
    for (uint32_t bit = 1; bit < 010000; bit <<= 1) {
        if (bit == S_ISGID && geteuid())
            continue; /* may be taken away again, from one who is not in the group */
        OK(t_chmod(f, bit | 0400));
        IS(attr(f).mode, S_IFREG | bit | 0400);
        OK(t_chmod(d, bit | 0700));
        IS(attr(d).mode, S_IFDIR | bit | 0700);
    }
    OK(t_chmod(f, S_IFDIR | 0600)); /* the type stays */
    IS(attr(f).mode, S_IFREG | 0600);
}

CASE(attrs, chmod_leaves_the_rest)
{
    struct pl_node *f = mk_text(top, "f", "text");
    OK(t_utimens(f, 1000000000, 1100000000));
    struct pl_attr a = attr(f);
    OK(t_chmod(f, 0711));
    struct pl_attr b = attr(f);
    IS(b.size, a.size);
    IS(b.uid, a.uid);
    IS(b.mtime.tv_sec, 1100000000);
    IS(b.atime.tv_sec, 1000000000);
}

CASE(attrs, chown)
{
    need_root();
    struct pl_node *f = mk_file(top, "f");
    OK(t_chown(f, 12, -1));
    IS(attr(f).uid, 12);
    IS(attr(f).gid, getegid());
    OK(t_chown(f, -1, 34));
    IS(attr(f).uid, 12);
    IS(attr(f).gid, 34);
    OK(t_chown(f, 4000000000, 4000000001)); /* beyond 2^31 */
    IS(attr(f).uid, 4000000000);
    IS(attr(f).gid, 4000000001);
}

CASE(attrs, several_at_once)
{
    need_root();
    struct pl_node *f = mk_text(top, "f", "0123456789");
    struct pl_attr a;
    struct pl_setattr s = {PL_SET_MODE | PL_SET_UID | PL_SET_GID | PL_SET_SIZE | PL_SET_MTIME,
                           .mode = 0606,
                           .uid = 7,
                           .gid = 8,
                           .size = 4,
                           .mtime = {1234567890, 987654321}};
    OK(pl_setattr(tree, me, f, NULL, &s, &a));
    a = attr(f);
    IS(a.mode, S_IFREG | 0606);
    IS(a.uid, 7);
    IS(a.gid, 8);
    IS(a.size, 4);
    IS(a.mtime.tv_sec, 1234567890);
    IS(a.mtime.tv_nsec, 987654321);
}

CASE(attrs, nothing_to_set)
{
    struct pl_node *f = mk_text(top, "f", "text");
    struct pl_attr a = attr(f), b;
    OK(pl_setattr(tree, me, f, NULL, &(struct pl_setattr){0}, &b));
    equal(&a, &b);
}

CASE(attrs, truncate)
{
    struct pl_node *f = mk_text(top, "f", "0123456789");
    struct pl_file *o = open_(f, O_RDWR);
    OK(t_truncate(f, 4));
    reads(o, "0123");
    OK(t_truncate(f, 8)); /* what was cut off does not come back */
    IS(attr(f).size, 8);
    holds(o, 0, "0123\0\0\0\0", 8);
    OK(t_truncate(f, 0));
    reads(o, "");
    OK(t_truncate(f, 100000));
    zeroes(o, 0, 100000);
    OK(t_truncate(f, 100000));
    IS(attr(f).size, 100000);
}

CASE(attrs, truncate_open)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    struct pl_attr a;
    say(o, 0, "0123456789");
    OK(pl_setattr(tree, me, o->node, o, &(struct pl_setattr){PL_SET_SIZE, .size = 3}, &a));
    IS(a.size, 3);
    reads(o, "012");
    rm(top, "f");
    OK(pl_setattr(tree, me, o->node, o, &(struct pl_setattr){PL_SET_SIZE, .size = 1}, &a));
    reads(o, "0");
}

CASE(attrs, truncate_far)
{
    struct pl_node *f = mk_file(top, "f");
    OK(t_truncate(f, 5ull << 32));
    IS(attr(f).size, 5ull << 32);
    ONE_OF(t_truncate(f, PL_OFF_MAX + 1ull), -EINVAL, -EFBIG);
    ONE_OF(t_truncate(f, UINT64_MAX), -EINVAL, -EFBIG);
    ONE_OF(t_truncate(f, PL_OFF_MAX), 0, -EFBIG);
    TRUE(attr(f).size == PL_OFF_MAX || attr(f).size == 5ull << 32);
}

CASE(attrs, truncate_what_has_no_size)
{
    IS(t_truncate(mk_dir(top, "d"), 0), -EISDIR);
    TRUE(t_truncate(mk_symlink(top, "l", "d"), 0) < 0);
    NEED(special, t_make(top, "p", S_IFIFO | 0644));
    IS(t_truncate(look(top, "p"), 0), -EINVAL);
}

CASE(attrs, size_and_blocks)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    char buf[8192];
    memset(buf, 'x', sizeof(buf));
    write_(o, buf, sizeof(buf), 0);
    OK(pl_fsync(tree, me, o, false));
    IS(fattr(o).size, sizeof(buf));
    TRUE(fattr(o).blocks >= 16);
    TRUE(fattr(o).blocks < 1024);
}

CASE(attrs, symlink)
{
    struct pl_node *l = mk_symlink(top, "l", "target");
    struct pl_attr a = attr(l);
    IS(a.mode, S_IFLNK | 0777);
    IS(a.size, 6);
    IS(a.nlink, 1);
    ONE_OF(t_chmod(l, 0600), 0, -EOPNOTSUPP);
    if (geteuid() == 0) {
        OK(t_chown(l, 5, 6));
        IS(attr(l).uid, 5);
        IS(attr(l).gid, 6);
    }
    OK(t_utimens(l, 1000000001, 1000000002));
    IS(attr(l).mtime.tv_sec, 1000000002);
    absent(top, "target");
}

CASE(attrs, of_an_unlinked_open_file)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    struct pl_attr a;
    uint64_t ino = fattr(o).ino;
    say(o, 0, "text");
    rm(top, "f");
    IS(fattr(o).nlink, 0);
    IS(fattr(o).size, 4);
    IS(fattr(o).ino, ino);
    OK(pl_setattr(tree, me, o->node, o, &(struct pl_setattr){PL_SET_MODE, .mode = 0600}, &a));
    IS(a.mode, S_IFREG | 0600);
}

CASE(attrs, of_an_unlinked_node)
{
    struct pl_node *f = mk_text(top, "f", "text"), *d = mk_dir(top, "d");
    uint64_t ino = attr(f).ino;
    rm(top, "f");
    rmdir_(top, "d");
    IS(attr(f).nlink, 0);
    IS(attr(f).size, 4);
    IS(attr(f).ino, ino);
    OK(t_chmod(f, 0600));
    IS(attr(f).mode, S_IFREG | 0600);
    reads(open_(f, O_RDONLY), "text");
    IS(attr(d).nlink, 0);
}

CASE(attrs, access)
{
    struct pl_node *f = mk_file(top, "f");
    OK(t_access(f, F_OK));
    OK(t_access(f, R_OK | W_OK));
    IS(t_access(f, X_OK), -EACCES); /* root too: no x bit at all */
    OK(t_chmod(f, 0744));
    OK(t_access(f, R_OK | W_OK | X_OK));
    OK(t_access(top, R_OK | W_OK | X_OK));
}

CASE(attrs, version)
{
    struct pl_node *f = mk_file(top, "f");
    uint64_t v = attr(f).version;
    if (!v)
        SKIP(version, "the attributes have none");
    IS(attr(f).version, v);
    say(open_(f, O_WRONLY), 0, "x");
    uint64_t w = attr(f).version;
    TRUE(w != v);
    OK(t_chmod(f, 0600));
    TRUE(attr(f).version != w);
}
