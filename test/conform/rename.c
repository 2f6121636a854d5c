/* SPDX-License-Identifier: MIT */
/* rename: every pair of types, the flags, and objects that are held while they move. */
#include "conform.h"

#include <linux/fs.h>

CASE(rename, to_a_new_name)
{
    struct pl_node *f = mk_text(top, "f", "text"), *d = mk_dir(top, "d");
    OK(t_rename(top, "f", top, "g", 0));
    absent(top, "f");
    TRUE(same(look(top, "g"), f));
    OK(t_rename(top, "g", d, "h", 0));
    absent(top, "g");
    TRUE(same(look(d, "h"), f));
    content(d, "h", "text");
    IS(attr(f).nlink, 1);
}

CASE(rename, file_over_file)
{
    struct pl_node *a = mk_text(top, "a", "a"), *b = mk_text(top, "b", "b");
    OK(t_rename(top, "a", top, "b", 0));
    absent(top, "a");
    content(top, "b", "a");
    TRUE(same(look(top, "b"), a));
    IS(attr(b).nlink, 0);
    struct entries l = entries_of(top);
    IS(l.n, 1);
    entries_free(&l);
}

CASE(rename, file_over_directory)
{
    mk_text(top, "f", "text");
    mk_symlink(top, "l", "x");
    mk_file(mk_dir(top, "full"), "x");
    mk_dir(top, "d");
    IS(t_rename(top, "f", top, "d", 0), -EISDIR);
    IS(t_rename(top, "l", top, "d", 0), -EISDIR);
    IS(t_rename(top, "f", top, "full", 0), -EISDIR);
    content(top, "f", "text");
}

CASE(rename, directory_over_file)
{
    mk_dir(top, "d");
    mk_text(top, "f", "text");
    mk_symlink(top, "l", "x");
    IS(t_rename(top, "d", top, "f", 0), -ENOTDIR);
    IS(t_rename(top, "d", top, "l", 0), -ENOTDIR);
    content(top, "f", "text");
}

CASE(rename, directory_over_directory)
{
    struct pl_node *a = mk_dir(top, "a"), *b = mk_dir(top, "b"), *full = mk_dir(top, "full");
    mk_text(a, "x", "x");
    mk_file(full, "y");
    ONE_OF(t_rename(top, "a", top, "full", 0), -ENOTEMPTY, -EEXIST);
    OK(t_rename(top, "a", top, "b", 0));
    absent(top, "a");
    TRUE(same(look(top, "b"), a));
    content(look(top, "b"), "x", "x");
    IS(t_lookup(b, "x"), -ENOENT);
    IS(attr(b).nlink, 0);
}

CASE(rename, symlinks_are_not_followed)
{
    struct pl_node *l = mk_symlink(top, "l", "f");
    mk_text(top, "f", "text");
    OK(t_rename(top, "l", top, "m", 0));
    TRUE(same(look(top, "m"), l));
    content(top, "f", "text");
    mk_text(top, "g", "other");
    OK(t_rename(top, "g", top, "m", 0));
    content(top, "m", "other");
    content(top, "f", "text");
    IS(attr(l).nlink, 0);
}

CASE(rename, special_files)
{
    NEED(special, t_make(top, "p", S_IFIFO | 0600));
    struct pl_node *p = look(top, "p");
    OK(t_rename(top, "p", top, "q", 0));
    TRUE(same(look(top, "q"), p));
    mk_text(top, "f", "text");
    OK(t_rename(top, "f", top, "q", 0));
    content(top, "q", "text");
}

CASE(rename, into_its_own_descendant)
{
    struct pl_node *a = mk_dir(top, "a"), *b = mk_dir(a, "b"), *c = mk_dir(b, "c");
    IS(t_rename(top, "a", a, "x", 0), -EINVAL);
    IS(t_rename(top, "a", b, "x", 0), -EINVAL);
    IS(t_rename(top, "a", c, "x", 0), -EINVAL);
    IS(t_rename(top, "a", b, "c", 0), -EINVAL);
    IS(t_rename(a, "b", b, "x", 0), -EINVAL);
    TRUE(same(look(look(look(top, "a"), "b"), "c"), c));
}

CASE(rename, over_its_own_ancestor)
{
    struct pl_node *a = mk_dir(top, "a"), *b = mk_dir(a, "b");
    mk_file(b, "f");
    mk_dir(b, "d");
    ONE_OF(t_rename(b, "d", top, "a", 0), -ENOTEMPTY, -EEXIST);
    ONE_OF(t_rename(b, "d", a, "b", 0), -ENOTEMPTY, -EEXIST);
    IS(t_rename(b, "f", top, "a", 0), -ENOTEMPTY); /* an ancestor comes before the types */
}

CASE(rename, to_itself)
{
    struct pl_node *f = mk_text(top, "f", "text"), *d = mk_dir(top, "d");
    OK(t_rename(top, "f", top, "f", 0));
    OK(t_rename(top, "d", top, "d", 0));
    TRUE(same(look(top, "f"), f));
    TRUE(same(look(top, "d"), d));
}

/* Two names of one file: nothing happens, both stay. */
CASE(rename, to_another_name_of_it)
{
    struct pl_node *f = mk_text(top, "f", "text"), *d = mk_dir(top, "d");
    NEED(link, t_link(f, top, "g"));
    OK(t_link(f, d, "h"));
    OK(t_rename(top, "f", top, "g", 0));
    OK(t_rename(top, "f", d, "h", 0));
    IS(attr(f).nlink, 3);
    content(top, "f", "text");
    content(top, "g", "text");
    content(d, "h", "text");
}

CASE(rename, of_one_of_several_names)
{
    struct pl_node *f = mk_text(top, "f", "text"), *d = mk_dir(top, "d");
    NEED(link, t_link(f, top, "g"));
    OK(t_rename(top, "g", d, "h", 0));
    IS(attr(f).nlink, 2);
    TRUE(same(look(top, "f"), look(d, "h")));
    mk_text(top, "x", "x");
    OK(t_rename(top, "x", d, "h", 0)); /* replaces one of the two */
    IS(attr(f).nlink, 1);
    content(top, "f", "text");
}

CASE(rename, moves_a_directory)
{
    struct pl_node *a = mk_dir(top, "a"), *b = mk_dir(top, "b"), *d = mk_dir(a, "d");
    struct pl_node *f = mk_text(d, "f", "text");
    uint64_t na = attr(a).nlink, nb = attr(b).nlink;
    OK(t_rename(a, "d", b, "e", 0));
    TRUE(same(look(d, ".."), b));
    TRUE(same(look(look(b, "e"), "f"), f));
    if (na >= 3) {
        IS(attr(a).nlink, na - 1);
        IS(attr(b).nlink, nb + 1);
    }
    rmdir_(top, "a");
    IS(t_remove(top, "b", AT_REMOVEDIR), -ENOTEMPTY);
}

/* Nodes know their objects, not their paths. */
CASE(rename, above_nodes_in_use)
{
    struct pl_node *a = mk_dir(top, "a"), *b = mk_dir(a, "b"), *c = mk_dir(b, "c");
    struct pl_node *f = mk_text(c, "f", "text");
    struct pl_file *o = open_(f, O_RDWR), *od = open_(c, O_RDONLY | O_DIRECTORY);
    OK(t_rename(top, "a", top, "z", 0));
    OK(t_rename(a, "b", top, "y", 0));
    mk_file(mk_dir(mk_dir(mk_dir(top, "a"), "b"), "c"), "f"); /* others where they were */
    reads(o, "text");
    IS(attr(f).size, 4);
    OK(t_chmod(f, 0600));
    say(open_(f, O_WRONLY), 0, "T");
    reads(o, "Text");
    mk_text(c, "g", "g");
    content(c, "f", "Text");
    TRUE(same(look(c, ".."), b));
    TRUE(same(look(b, ".."), top));
    OK(t_rename(c, "f", c, "h", 0));
    struct entries l = entries_read(od, 0, 0, 0);
    IS(l.n, 4);
    IS(entries_count(&l, "g"), 1);
    IS(entries_count(&l, "h"), 1);
    entries_free(&l);
    rm(c, "g");
    rm(c, "h");
    rmdir_(b, "c");
    rmdir_(top, "y");
    rmdir_(top, "z");
}

CASE(rename, of_an_open_file)
{
    struct pl_node *d = mk_dir(top, "d");
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    say(o, 0, "one");
    OK(t_rename(top, "f", d, "g", 0));
    say(o, 3, "two");
    content(d, "g", "onetwo");
    OK(t_rename(d, "g", top, "f", 0));
    struct pl_attr a;
    OK(pl_setattr(tree, me, o->node, o, &(struct pl_setattr){PL_SET_SIZE, .size = 3}, &a));
    content(top, "f", "one");
}

/* An editor's save, again and again. */
CASE(rename, over_save)
{
    char text[32];
    mk_text(top, "f", "first");
    for (int i = 0; i < 100; i++) {
        snprintf(text, sizeof(text), "version %d", i);
        struct pl_file *old = open_(look(top, "f"), O_RDONLY);
        uint64_t size = fattr(old).size;
        mk_text(top, "f.new", text);
        OK(t_rename(top, "f.new", top, "f", 0));
        content(top, "f", text);
        IS(fattr(old).size, size);
        close_(old);
    }
}

/* ---- flags ----------------------------------------------------------------------------------- */

static void need_flags(enum feature f, unsigned flags)
{
    mk_file(top, "probe");
    if (flags & RENAME_EXCHANGE)
        mk_file(top, "probe2");
    int r = t_rename(top, "probe", top, "probe2", flags);
    if (r == -EINVAL || r == -EOPNOTSUPP)
        skip_at(f, "rename: %d", r);
    OK(r);
    rm(top, "probe2");
    if (flags & (RENAME_EXCHANGE | RENAME_WHITEOUT))
        rm(top, "probe");
}

CASE(rename, noreplace)
{
    need_flags(F_noreplace, RENAME_NOREPLACE);
    struct pl_node *a = mk_text(top, "a", "a");
    mk_text(top, "b", "b");
    mk_dir(top, "d");
    mk_symlink(top, "l", "nowhere");
    IS(t_rename(top, "a", top, "b", RENAME_NOREPLACE), -EEXIST);
    IS(t_rename(top, "a", top, "d", RENAME_NOREPLACE), -EEXIST);
    IS(t_rename(top, "a", top, "l", RENAME_NOREPLACE), -EEXIST);
    IS(t_rename(top, "a", top, "a", RENAME_NOREPLACE), -EEXIST);
    IS(t_rename(top, "none", top, "x", RENAME_NOREPLACE), -ENOENT);
    content(top, "b", "b");
    OK(t_rename(top, "a", top, "c", RENAME_NOREPLACE));
    TRUE(same(look(top, "c"), a));
    NEED(link, t_link(a, top, "c2"));
    IS(t_rename(top, "c", top, "c2", RENAME_NOREPLACE), -EEXIST);
}

CASE(rename, exchange)
{
    need_flags(F_exchange, RENAME_EXCHANGE);
    struct pl_node *d = mk_dir(top, "d"), *e = mk_dir(d, "e");
    struct pl_node *a = mk_text(top, "a", "a"), *b = mk_text(d, "b", "b");
    mk_text(e, "x", "x");
    OK(t_rename(top, "a", d, "b", RENAME_EXCHANGE));
    TRUE(same(look(top, "a"), b));
    TRUE(same(look(d, "b"), a));
    uint64_t nt = attr(top).nlink, nd = attr(d).nlink;
    OK(t_rename(top, "a", d, "e", RENAME_EXCHANGE)); /* file and directory that is not empty */
    TRUE(same(look(top, "a"), e));
    TRUE(same(look(d, "e"), b));
    content(look(top, "a"), "x", "x");
    TRUE(same(look(e, ".."), top));
    if (nt > 1) {
        IS(attr(top).nlink, nt + 1);
        IS(attr(d).nlink, nd - 1);
    }
    OK(t_rename(top, "a", top, "d", RENAME_EXCHANGE)); /* two directories */
    TRUE(same(look(top, "a"), d));
    TRUE(same(look(top, "d"), e));
}

CASE(rename, exchange_errors)
{
    need_flags(F_exchange, RENAME_EXCHANGE);
    struct pl_node *a = mk_dir(top, "a"), *b = mk_dir(a, "b");
    mk_text(top, "f", "f");
    IS(t_rename(top, "f", top, "none", RENAME_EXCHANGE), -ENOENT);
    IS(t_rename(top, "none", top, "f", RENAME_EXCHANGE), -ENOENT);
    IS(t_rename(top, "a", a, "b", RENAME_EXCHANGE), -EINVAL);
    IS(t_rename(a, "b", top, "a", RENAME_EXCHANGE), -EINVAL);
    OK(t_rename(top, "f", top, "f", RENAME_EXCHANGE));
    TRUE(same(look(a, "b"), b));
    content(top, "f", "f");
}

CASE(rename, exchange_while_open)
{
    need_flags(F_exchange, RENAME_EXCHANGE);
    struct pl_file *a = mk_open(top, "a", O_RDWR, 0644), *b = mk_open(top, "b", O_RDWR, 0644);
    say(a, 0, "a");
    say(b, 0, "b");
    OK(t_rename(top, "a", top, "b", RENAME_EXCHANGE));
    say(a, 1, "1");
    content(top, "b", "a1");
    content(top, "a", "b");
}

CASE(rename, whiteout)
{
    need_root();
    need_flags(F_whiteout, RENAME_WHITEOUT);
    mk_text(top, "f", "text");
    OK(t_rename(top, "f", top, "g", RENAME_WHITEOUT));
    content(top, "g", "text");
    struct pl_attr a = attr(look(top, "f"));
    IS(a.mode & S_IFMT, S_IFCHR);
    IS(a.rdev_major, 0);
    IS(a.rdev_minor, 0);
}

CASE(rename, flags_that_do_not_go)
{
    mk_text(top, "f", "f");
    mk_text(top, "g", "g");
    IS(t_rename(top, "f", top, "x", RENAME_NOREPLACE | RENAME_EXCHANGE), -EINVAL);
    IS(t_rename(top, "f", top, "g", RENAME_EXCHANGE | RENAME_WHITEOUT), -EINVAL);
    IS(t_rename(top, "f", top, "x", 0x80), -EINVAL);
    content(top, "f", "f");
    content(top, "g", "g");
}
