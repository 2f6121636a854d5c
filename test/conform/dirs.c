/* SPDX-License-Identifier: MIT */
/* Directories: made, removed, and read while they change. */
#include "conform.h"

#include <dirent.h>
#include <stdlib.h>

CASE(dirs, mkdir_over_something)
{
    mk_file(top, "f");
    mk_dir(top, "d");
    mk_symlink(top, "l", "d");
    mk_symlink(top, "dangling", "nowhere");
    IS(t_make(top, "f", S_IFDIR | 0755), -EEXIST);
    IS(t_make(top, "d", S_IFDIR | 0755), -EEXIST);
    IS(t_make(top, "l", S_IFDIR | 0755), -EEXIST);
    IS(t_make(top, "dangling", S_IFDIR | 0755), -EEXIST);
    absent(top, "nowhere");
}

CASE(dirs, remove_errors)
{
    struct pl_node *d = mk_dir(top, "d");
    mk_file(d, "f");
    mk_symlink(top, "l", "d");
    IS(t_remove(top, "d", AT_REMOVEDIR), -ENOTEMPTY);
    IS(t_remove(top, "d", 0), -EISDIR);
    IS(t_remove(d, "f", AT_REMOVEDIR), -ENOTDIR);
    IS(t_remove(top, "l", AT_REMOVEDIR), -ENOTDIR);
    rm(d, "f");
    rmdir_(top, "d");
    absent(top, "d");
}

CASE(dirs, flags_of_remove)
{
    mk_file(top, "f");
    TRUE(t_remove(top, "f", 0x40000000) < 0);
    content(top, "f", "");
}

CASE(dirs, links_of_parents)
{
    uint64_t was = attr(top).nlink;
    if (was < 2)
        SKIP(parent_nlink, "the root has %d", (int)was);
    mk_dir(top, "a");
    mk_dir(top, "b");
    mk_file(top, "f");
    IS(attr(top).nlink, was + 2);
    rmdir_(top, "a");
    IS(attr(top).nlink, was + 1);
    rmdir_(top, "b");
    IS(attr(top).nlink, was);
}

CASE(dirs, in_a_removed_one)
{
    struct pl_node *d = mk_dir(top, "d"), *f = mk_file(top, "f");
    rmdir_(top, "d");
    IS(t_make(d, "x", S_IFDIR | 0755), -ENOENT);
    IS(t_make(d, "x", S_IFREG | 0644), -ENOENT);
    IS(t_create(d, "x", O_CREAT | O_RDWR, 0644), -ENOENT);
    IS(t_symlink(d, "x", "y"), -ENOENT);
    IS(t_link(f, d, "x"), -ENOENT);
    IS(t_rename(top, "f", d, "x", 0), -ENOENT);
    IS(t_lookup(d, "x"), -ENOENT);
    IS(t_remove(d, "x", 0), -ENOENT);
}

CASE(dirs, made_again_is_another)
{
    struct pl_node *old = mk_dir(top, "d");
    rmdir_(top, "d");
    struct pl_node *new = mk_dir(top, "d");
    TRUE(old != new);
    mk_file(new, "f");
    IS(t_lookup(old, "f"), -ENOENT);
    TRUE(same(look(top, "d"), new));
}

CASE(dirs, read_an_empty_one)
{
    struct pl_file *d = open_(mk_dir(top, "d"), O_RDONLY | O_DIRECTORY);
    struct entries l = entries_read(d, 0, 0, 0);
    IS(l.n, 2);
    IS(entries_count(&l, "."), 1);
    IS(entries_count(&l, ".."), 1);
    IS(l.ent[0].type, DT_DIR);
    IS(l.ent[1].type, DT_DIR);
    entries_free(&l);
}

static uint32_t type_of(const struct entries *l, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (!strcmp(l->ent[i].name, name))
            return l->ent[i].type;
    FAIL("%s is not among the names", name);
}

CASE(dirs, types)
{
    mk_file(top, "file");
    mk_dir(top, "dir");
    mk_symlink(top, "symlink", "file");
    NEED(special, t_make(top, "fifo", S_IFIFO | 0644));
    NEED(special, t_make(top, "socket", S_IFSOCK | 0644));
    struct entries l = entries_of(top);
    IS(type_of(&l, "file"), DT_REG);
    IS(type_of(&l, "dir"), DT_DIR);
    IS(type_of(&l, "symlink"), DT_LNK);
    IS(type_of(&l, "fifo"), DT_FIFO);
    IS(type_of(&l, "socket"), DT_SOCK);
    entries_free(&l);
}

/* ---- many entries ---------------------------------------------------------------------------- */

static const char *numbered(int i)
{
    static _Thread_local char name[32];
    snprintf(name, sizeof(name), "entry-%d", i);
    return name;
}

/* How often each number below n came; fails for another name. */
static unsigned char *counted(const struct entries *l, int n)
{
    unsigned char *seen = calloc((size_t)n, 1);
    for (size_t i = 0; i < l->n; i++) {
        int k;
        if (l->ent[i].name[0] == '.')
            continue;
        if (sscanf(l->ent[i].name, "entry-%d", &k) != 1 || k < 0 || k >= n)
            FAIL("a name that nobody made: %.64s", l->ent[i].name);
        seen[k]++;
    }
    return seen;
}

static void exactly_once(const struct entries *l, int n)
{
    unsigned char *seen = counted(l, n);
    for (int i = 0; i < n; i++)
        if (seen[i] != 1)
            FAIL("%s came %d times", numbered(i), seen[i]);
    free(seen);
}

CASE(dirs, ten_thousand_entries)
{
    const int n = 10000;
    static const size_t batch[] = {0, 1, 2, 3, 7, 113, 1000, 4097};
    struct pl_node *d = mk_dir(top, "d");
    for (int i = 0; i < n; i++)
        OK(t_make(d, numbered(i), S_IFREG | 0644));
    for (size_t b = 0; b < sizeof(batch) / sizeof(*batch); b++) {
        size_t max = batch[b] == 1 ? 500 : 0; /* one at a time would take all day */
        struct pl_file *f = open_(d, O_RDONLY | O_DIRECTORY);
        struct entries l = entries_read(f, 0, batch[b], max);
        if (!max) {
            IS(l.n, n + 2);
            exactly_once(&l, n);
        } else {
            struct entries rest = entries_read(f, l.ent[l.n - 1].next, 0, 0);
            IS(l.n + rest.n, n + 2);
            entries_free(&rest);
        }
        entries_free(&l);
        close_(f);
    }
    for (int i = 0; i < n; i++)
        rm(d, numbered(i));
    struct entries l = entries_of(d);
    IS(l.n, 0);
    entries_free(&l);
    rmdir_(top, "d");
}

/* In the middle of reading, every odd entry goes and others come. */
CASE(dirs, stable_entries_come_once)
{
    const int n = 3000;
    struct pl_node *d = mk_dir(top, "d");
    for (int i = 0; i < n; i++)
        OK(t_make(d, numbered(i), S_IFREG | 0644));
    struct pl_file *f = open_(d, O_RDONLY | O_DIRECTORY);
    struct entries a = entries_read(f, 0, 50, (size_t)n / 2);
    for (int i = 1; i < n; i += 2)
        rm(d, numbered(i));
    for (int i = n; i < 2 * n; i += 2)
        OK(t_make(d, numbered(i), S_IFREG | 0644));
    struct entries b = entries_read(f, a.ent[a.n - 1].next, 50, 0);
    unsigned char *in_a = counted(&a, 2 * n), *in_b = counted(&b, 2 * n);
    for (int i = 0; i < n; i += 2)
        if (in_a[i] + in_b[i] != 1)
            FAIL("%s came %d times", numbered(i), in_a[i] + in_b[i]);
    for (int i = 0; i < 2 * n; i++)
        TRUE(in_a[i] + in_b[i] <= 1);
    free(in_a);
    free(in_b);
    entries_free(&a);
    entries_free(&b);
}

/* As rm -r does it: read some, remove those, read on. */
CASE(dirs, remove_while_reading)
{
    const int n = 2000;
    struct pl_node *d = mk_dir(top, "d");
    for (int i = 0; i < n; i++)
        OK(t_make(d, numbered(i), S_IFREG | 0644));
    struct pl_file *f = open_(d, O_RDONLY | O_DIRECTORY);
    int removed = 0;
    for (uint64_t off = 0;;) {
        struct entries l = entries_read(f, off, 100, 100);
        if (!l.n)
            break;
        off = l.ent[l.n - 1].next;
        for (size_t i = 0; i < l.n; i++) {
            if (l.ent[i].name[0] == '.')
                continue;
            rm(d, l.ent[i].name);
            removed++;
        }
        entries_free(&l);
    }
    IS(removed, n);
    rmdir_(top, "d");
}

CASE(dirs, seek_and_rewind)
{
    const int n = 300;
    struct pl_node *d = mk_dir(top, "d");
    for (int i = 0; i < n; i++)
        OK(t_make(d, numbered(i), S_IFREG | 0644));
    struct pl_file *f = open_(d, O_RDONLY | O_DIRECTORY);
    struct entries all = entries_read(f, 0, 0, 0);
    IS(all.n, n + 2);
    const int step[] = {250, 10, 301, 0, 100, 99, 98, 300};
    for (size_t i = 0; i < sizeof(step) / sizeof(*step); i++) {
        struct entries l = entries_read(f, all.ent[step[i]].next, 0, 1);
        if (step[i] + 1 == n + 2) {
            IS(l.n, 0);
        } else {
            IS(l.n, 1);
            if (strcmp(l.ent[0].name, all.ent[step[i] + 1].name))
                FAIL("%s after position %d, should be %s", l.ent[0].name, step[i],
                     all.ent[step[i] + 1].name);
        }
        entries_free(&l);
    }
    entries_free(&all);
    OK(t_make(d, numbered(n), S_IFREG | 0644));
    rm(d, numbered(0));
    struct entries l = entries_read(f, 0, 0, 0); /* from the start, with what is new */
    IS(l.n, n + 2);
    IS(entries_count(&l, numbered(n)), 1);
    IS(entries_count(&l, numbered(0)), 0);
    entries_free(&l);
}

CASE(dirs, two_readers)
{
    struct pl_node *d = mk_dir(top, "d");
    for (int i = 0; i < 100; i++)
        OK(t_make(d, numbered(i), S_IFREG | 0644));
    struct pl_file *f = open_(d, O_RDONLY | O_DIRECTORY), *g = open_(d, O_RDONLY | O_DIRECTORY);
    struct entries a = entries_read(f, 0, 10, 50);
    struct entries b = entries_read(g, 0, 0, 0);
    exactly_once(&b, 100);
    struct entries c = entries_read(f, a.ent[a.n - 1].next, 10, 0);
    IS(a.n + c.n, 102);
    entries_free(&a);
    entries_free(&b);
    entries_free(&c);
}

CASE(dirs, read_a_removed_one)
{
    struct pl_node *d = mk_dir(top, "d");
    struct pl_file *f = open_(d, O_RDONLY | O_DIRECTORY);
    struct entries l;
    rmdir_(top, "d");
    l = entries_read(f, 0, 0, 0);
    for (size_t i = 0; i < l.n; i++)
        TRUE(l.ent[i].name[0] == '.');
    entries_free(&l);
}

static int none(void *arg, const struct pl_dirent *e)
{
    return 1;
}

/* Asked first for what comes after the last entry: the file system below may keep that in mind. */
CASE(dirs, from_the_end_to_the_start)
{
    const int n = 300;
    struct pl_node *d = mk_dir(top, "d");
    for (int i = 0; i < n; i++)
        OK(t_make(d, numbered(i), S_IFREG | 0644));
    struct entries all = entries_read(open_(d, O_RDONLY | O_DIRECTORY), 0, 0, 0);
    struct pl_file *f = open_(d, O_RDONLY | O_DIRECTORY);
    pl_readdir(tree, me, f, all.ent[all.n - 1].next, none, NULL);
    struct entries l = entries_read(f, 0, 0, 0);
    IS(l.n, n + 2);
    entries_free(&l);
    entries_free(&all);
}

CASE(dirs, positions_that_nobody_gave)
{
    struct pl_node *d = mk_dir(top, "d");
    struct pl_file *f = open_(d, O_RDONLY | O_DIRECTORY);
    unsigned seed = 9;
    for (int i = 0; i < 50; i++)
        OK(t_make(d, numbered(i), S_IFREG | 0644));
    for (int i = 0; i < 200; i++) {
        uint64_t off = (uint64_t)rnd(&seed, 1u << 31) << rnd(&seed, 33);
        int r = pl_readdir(tree, me, f, off, none, NULL);
        ONE_OF(r, 0, -EINVAL, -ENOENT);
    }
    TRUE(pl_readdir(tree, me, f, UINT64_MAX, none, NULL) < 0);
    struct entries l = entries_read(f, 0, 0, 0);
    IS(l.n, 52);
    entries_free(&l);
}

CASE(dirs, opened_as_something_else)
{
    struct pl_node *d = mk_dir(top, "d"), *f = mk_file(top, "f");
    char buf[16];
    IS(t_open(d, O_WRONLY), -EISDIR);
    IS(t_open(d, O_RDWR), -EISDIR);
    IS(t_open(f, O_RDONLY | O_DIRECTORY), -ENOTDIR);
    struct pl_file *o = open_(d, O_RDONLY | O_DIRECTORY);
    IS(pl_read(tree, me, o, buf, sizeof(buf), 0), -EISDIR);
    ONE_OF(pl_write(tree, me, o, buf, sizeof(buf), 0), -EISDIR, -EBADF);
    ONE_OF(pl_readdir(tree, me, open_(f, O_RDONLY), 0, none, NULL), -ENOTDIR, -EBADF);
    OK(pl_fsync(tree, me, o, false));
    OK(t_open(d, O_RDONLY)); /* O_DIRECTORY is understood */
}
