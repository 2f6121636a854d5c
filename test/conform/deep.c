/* SPDX-License-Identifier: MIT */
/* Deep trees: paths longer than any PATH_MAX, since nodes have none. */
#include "conform.h"

enum { LEVELS = 300 };

static const char *level_name(int i)
{
    static char name[256];
    memset(name, 'a' + i % 26, 200);
    snprintf(name + 200, sizeof(name) - 200, "%d", i);
    return name;
}

CASE(deep, three_hundred_levels)
{
    static struct pl_node *d[LEVELS + 1];
    d[0] = top;
    for (int i = 0; i < LEVELS; i++)
        d[i + 1] = mk_dir(d[i], level_name(i));
    struct pl_node *bottom = d[LEVELS];
    struct pl_node *f = mk_text(bottom, "f", "deep");
    content(bottom, "f", "deep");
    OK(t_rename(bottom, "f", bottom, "g", 0));
    NEED(symlink, t_symlink(bottom, "l", "g"));
    struct pl_node *n = bottom;
    for (int i = LEVELS; i > 0; i--) {
        n = look(n, "..");
        TRUE(same(n, d[i - 1]));
    }
    for (int i = 0; i < LEVELS; i++)
        n = look(n, level_name(i));
    TRUE(same(n, bottom));
    OK(t_rename(d[0], level_name(0), top, "renamed", 0)); /* all paths change */
    content(bottom, "g", "deep");
    OK(t_chmod(f, 0600));
    OK(t_rename(bottom, "g", top, "up", 0));
    content(top, "up", "deep");
    rm(bottom, "l");
    for (int i = LEVELS - 1; i > 0; i--)
        rmdir_(d[i], level_name(i));
    rmdir_(top, "renamed");
}

/* The same with nothing held between: every step has to be found again. */
CASE(deep, nothing_held)
{
    struct pl_node *n = top;
    for (int i = 0; i < LEVELS; i++) {
        struct pl_node *next = mk_dir(n, level_name(i));
        if (n != top)
            drop(n);
        n = next;
    }
    mk_text(n, "f", "deep");
    struct pl_file *o = open_(look(n, "f"), O_RDWR);
    drop(n);
    reads(o, "deep");
    n = top;
    for (int i = 0; i < LEVELS; i++) {
        struct pl_node *next = look(n, level_name(i));
        if (n != top)
            drop(n);
        n = next;
    }
    content(n, "f", "deep");
}
