/* SPDX-License-Identifier: MIT */
/* Hard links: several names, one object; and objects without a name that go on. */
#include "conform.h"

CASE(links, one_object)
{
    struct pl_node *f = mk_text(top, "f", "text"), *d = mk_dir(top, "d");
    NEED(link, t_link(f, d, "g"));
    TRUE(same(look(top, "f"), f));
    TRUE(same(look(d, "g"), f));
    IS(attr(f).nlink, 2);
    say(open_(look(d, "g"), O_WRONLY), 0, "TE");
    content(top, "f", "TExt");
    OK(t_chmod(look(d, "g"), 0600));
    IS(attr(look(top, "f")).mode, S_IFREG | 0600);
    rm(top, "f");
    IS(attr(f).nlink, 1);
    content(d, "g", "TExt");
    rm(d, "g");
    IS(attr(f).nlink, 0);
}

/* Found by each name first, by nobody holding a node. */
CASE(links, found_again)
{
    struct pl_node *f = mk_file(top, "f");
    NEED(link, t_link(f, top, "g"));
    uint64_t ino = attr(f).ino;
    drop(f);
    struct pl_node *g = look(top, "g");
    IS(attr(g).ino, ino);
    TRUE(same(look(top, "f"), g));
}

CASE(links, errors)
{
    struct pl_node *f = mk_file(top, "f"), *d = mk_dir(top, "d");
    mk_symlink(top, "l", "nowhere");
    NEED(link, t_link(f, top, "ok"));
    IS(t_link(f, top, "f"), -EEXIST);
    IS(t_link(f, top, "d"), -EEXIST);
    IS(t_link(f, top, "l"), -EEXIST);
    IS(t_link(d, top, "e"), -EPERM);
    IS(attr(f).nlink, 2);
}

CASE(links, of_a_symlink)
{
    struct pl_node *l = mk_symlink(top, "l", "nowhere");
    char buf[16];
    NEED(link, t_link(l, top, "m"));
    TRUE(same(look(top, "m"), l));
    IS(attr(l).nlink, 2);
    IS(pl_readlink(tree, me, look(top, "m"), buf, sizeof(buf)), 7);
    rm(top, "l");
    IS(pl_readlink(tree, me, look(top, "m"), buf, sizeof(buf)), 7);
}

CASE(links, of_a_fifo)
{
    NEED(special, t_make(top, "p", S_IFIFO | 0600));
    struct pl_node *p = look(top, "p");
    NEED(link, t_link(p, top, "q"));
    TRUE(same(look(top, "q"), p));
}

CASE(links, of_what_has_no_name)
{
    struct pl_node *f = mk_text(top, "f", "text");
    NEED(link, t_link(f, top, "probe"));
    rm(top, "probe");
    struct pl_file *o = open_(f, O_RDWR);
    rm(top, "f");
    IS(t_link(f, top, "g"), -ENOENT);
    reads(o, "text");
    absent(top, "g");
}

CASE(links, unlinked_but_open)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644), *r = open_(o->node, O_RDONLY);
    say(o, 0, "some ");
    rm(top, "f");
    say(o, 5, "text");
    reads(r, "some text");
    struct pl_node *other = mk_text(top, "f", "other");
    TRUE(!same(other, o->node));
    say(o, 0, "S");
    reads(r, "Some text");
    content(top, "f", "other");
    OK(pl_fsync(tree, me, o, false));
    reads(open_(o->node, O_RDONLY), "Some text"); /* opened once more, by its node */
    close_(r);
    reads(o, "Some text");
}

CASE(links, replaced_but_open)
{
    struct pl_file *o = mk_open(top, "f", O_RDWR, 0644);
    say(o, 0, "old");
    mk_text(top, "g", "new");
    OK(t_rename(top, "g", top, "f", 0));
    reads(o, "old");
    IS(fattr(o).nlink, 0);
    say(o, 3, "er");
    content(top, "f", "new");
    reads(o, "older");
}

CASE(links, a_thousand)
{
    struct pl_node *f = mk_text(top, "f", "text"), *d = mk_dir(top, "d");
    char name[32];
    uint64_t n = 1;
    for (int i = 0; i < 1000; i++, n++) {
        snprintf(name, sizeof(name), "link%d", i);
        int r = t_link(f, d, name);
        if (r == -EMLINK)
            break;
        NEED(link, r);
    }
    IS(attr(f).nlink, n);
    struct entries l = entries_of(d);
    IS(l.n, n - 1);
    for (size_t i = 0; i < l.n; i++) {
        if (l.ent[i].ino)
            IS(l.ent[i].ino, attr(f).ino);
        if (i % 100 == 0)
            content(d, l.ent[i].name, "text");
        rm(d, l.ent[i].name);
    }
    entries_free(&l);
    IS(attr(f).nlink, 1);
}

/* A new file may get the number of one that is gone, but never its node or content. */
CASE(links, numbers_used_again)
{
    for (int i = 0; i < 200; i++) {
        struct pl_file *o = mk_open(top, "f", O_RDWR | O_EXCL, 0644);
        reads(o, "");
        IS(fattr(o).nlink, 1);
        say(o, 0, "text");
        if (i % 3) /* sometimes the open file outlives its name */
            close_(o);
        rm(top, "f");
    }
}
