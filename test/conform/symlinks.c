/* SPDX-License-Identifier: MIT */
/* Symlinks: made, read, never followed. */
#include "conform.h"

#include <stdlib.h>

static void points(struct pl_node *l, const char *target)
{
    static char buf[8192];
    size_t n = strlen(target);
    memset(buf, 'x', sizeof(buf));
    IS(pl_readlink(tree, me, l, buf, sizeof(buf)), n);
    IS(memcmp(buf, target, n), 0);
    IS(attr(l).size, n);
}

CASE(symlinks, targets)
{
    static const char *const target[] = {"f",        "..", ".",       "/",       "/etc/passwd",
                                         "a/b/c",    "//", "a//b///", "../../x", "\x01",
                                         "\xff\xfe", "\n", " "};
    for (size_t i = 0; i < sizeof(target) / sizeof(*target); i++) {
        char name[16];
        snprintf(name, sizeof(name), "l%zu", i);
        NEED(symlink, t_symlink(top, name, target[i]));
        points(look(top, name), target[i]);
    }
}

CASE(symlinks, of_every_length)
{
    static const size_t length[] = {1,   2,    15,   16,   59,   60,   61,   100,  255,
                                    256, 1000, 1023, 1024, 2048, 4000, 4071, 4072, 4094};
    char target[5000], name[16];
    for (size_t i = 0; i < sizeof(length) / sizeof(*length); i++) {
        memset(target, 'a' + (int)i, length[i]);
        target[length[i]] = 0;
        snprintf(name, sizeof(name), "l%zu", length[i]);
        int r = t_symlink(top, name, target);
        if (r == -ENAMETOOLONG)
            SKIP(symlink_long, "%zu bytes", length[i]);
        OK(r);
        points(look(top, name), target);
    }
}

CASE(symlinks, of_4095_bytes)
{
    char target[5000];
    memset(target, 't', 4095);
    target[4095] = 0;
    int r = t_symlink(top, "l", target);
    if (r == -ENAMETOOLONG)
        SKIP(symlink_long, "4095 bytes");
    OK(r);
    points(look(top, "l"), target);
}

CASE(symlinks, errors)
{
    char target[5000];
    memset(target, 't', 4096);
    target[4096] = 0;
    IS(t_symlink(top, "l", target), -ENAMETOOLONG);
    IS(t_symlink(top, "l", ""), -ENOENT);
    mk_file(top, "f");
    mk_dir(top, "d");
    mk_symlink(top, "l", "x");
    IS(t_symlink(top, "f", "x"), -EEXIST);
    IS(t_symlink(top, "d", "x"), -EEXIST);
    IS(t_symlink(top, "l", "x"), -EEXIST);
}

CASE(symlinks, read_in_part)
{
    struct pl_node *l = mk_symlink(top, "l", "0123456789");
    char buf[16] = "abcdefghijklmno";
    IS(pl_readlink(tree, me, l, buf, 4), 4);
    IS(memcmp(buf, "0123efgh", 8), 0);
    IS(pl_readlink(tree, me, l, buf, 10), 10);
    IS(buf[10], 'k');
}

CASE(symlinks, read_what_is_none)
{
    char buf[16];
    IS(pl_readlink(tree, me, mk_file(top, "f"), buf, 16), -EINVAL);
    IS(pl_readlink(tree, me, mk_dir(top, "d"), buf, 16), -EINVAL);
    IS(pl_readlink(tree, me, mk_symlink(top, "l", "x"), buf, 0), -EINVAL);
}

CASE(symlinks, are_not_followed)
{
    struct pl_node *d = mk_dir(top, "d");
    mk_text(d, "f", "text");
    struct pl_node *l = mk_symlink(top, "l", "d"), *up = mk_symlink(d, "up", "..");
    TRUE(S_ISLNK(look(top, "l")->fmt));
    TRUE(!same(l, d));
    IS(t_lookup(l, "f"), -ENOTDIR);
    IS(t_lookup(up, "d"), -ENOTDIR);
    OK(t_utimens(l, 1000000000, 1000000000));
    TRUE(attr(d).mtime.tv_sec != 1000000000);
    rm(top, "l");
    content(d, "f", "text");
}

/* Whatever links say and names try, nothing outside is reached. */
CASE(symlinks, out_of_the_tree)
{
    static const char *const out[] = {
        "/", "/etc", "..", "../..", "../../../../../../etc", "/proc/self/root", "/proc/self/cwd"};
    for (size_t i = 0; i < sizeof(out) / sizeof(*out); i++) {
        char name[16], path[64];
        struct pl_node *n;
        struct pl_attr a;
        snprintf(name, sizeof(name), "l%zu", i);
        mk_symlink(top, name, out[i]);
        IS(t_lookup(look(top, name), "passwd"), -ENOTDIR);
        snprintf(path, sizeof(path), "%s/passwd", name);
        ONE_OF(pl_attach(tree, me, path, &n, &a), -ENOTDIR, -ELOOP);
        IS(t_open(look(top, name), O_RDONLY | O_DIRECTORY), -ELOOP);
        TRUE(t_create(top, name, O_CREAT | O_WRONLY | O_TRUNC, 0644) < 0);
    }
    IS(t_lookup(top, "passwd"), -ENOENT);
    TRUE(same(look(top, ".."), top));
}
