/* SPDX-License-Identifier: MIT */
/* Permission: the suite, as root, acts for others. uid 1000 and up own things here. */
#include "conform.h"

#include <unistd.h>

enum { ALICE = 1000, BOB = 1001, STAFF = 2000, GUEST = 65534 };

/* A file or directory of that mode, uid and gid. */
static struct pl_node *owned(struct pl_node *dir, const char *name, uint32_t mode, int uid, int gid)
{
    need_root();
    struct pl_node *n = mk_mode(dir, name, (mode & S_IFMT) | 0600);
    OK(t_chown(n, uid, gid));
    OK(t_chmod(n, mode));
    return n;
}

/* Where the caller's gid and supplementary groups count. */
static void need_groups(void)
{
    struct pl_node *f = owned(top, "probe", S_IFREG | 0060, ALICE, STAFF);
    int r = 0;
    AS (USER(BOB, 1, STAFF)) {
        r = t_open(f, O_RDWR);
    }
    if (r == -EACCES)
        SKIP(groups, "open by a member: -EACCES");
    OK(r);
    rm(top, "probe");
}

static int open_for(struct pl_node *n, int mask)
{
    if ((mask & (R_OK | W_OK)) == (R_OK | W_OK))
        return t_open(n, O_RDWR);
    return t_open(n, mask & W_OK ? O_WRONLY : O_RDONLY);
}

/* Every mode of `f` for one class of callers: open and access agree with it. */
static void every_mode(struct pl_node *f, struct pl_call *who, int shift)
{
    for (uint32_t bits = 0; bits < 8; bits++) {
        /* with no bit of the class, the others have all, so that the wrong class shows */
        uint32_t mode = bits << shift | ((0777 & ~(7u << shift)) * !bits);
        OK(t_chmod(f, mode));
        for (int mask = 1; mask < 8; mask++) {
            int want = (mask & ~bits & 7) ? -EACCES : 0;
            AS (who) {
                if (t_access(f, mask) != want)
                    FAIL("access %o of mode %o: should be %d", mask, mode, want);
                if (!(mask & X_OK) && open_for(f, mask) != want)
                    FAIL("open %o of mode %o: should be %d", mask, mode, want);
            }
        }
    }
}

CASE(perms, owner_and_others)
{
    struct pl_node *f = owned(top, "f", S_IFREG | 0600, ALICE, STAFF);
    every_mode(f, USER(ALICE, 1), 6);
    every_mode(f, USER(BOB, 1), 0);
}

CASE(perms, groups)
{
    need_groups();
    struct pl_node *f = owned(top, "f", S_IFREG | 0600, ALICE, STAFF);
    every_mode(f, USER(BOB, STAFF), 3);
    every_mode(f, USER(BOB, 1, 7, STAFF, 9), 3);
    every_mode(f, USER(BOB, 1, 7, 9), 0);
    every_mode(f, USER(ALICE, STAFF, STAFF), 6);
}

CASE(perms, root_may)
{
    struct pl_node *d = owned(top, "d", S_IFDIR | 0700, ALICE, STAFF);
    struct pl_node *f = owned(d, "f", S_IFREG | 0, ALICE, STAFF);
    OK(t_open(f, O_RDWR));
    OK(t_access(f, R_OK | W_OK));
    OK(t_chmod(d, 0));
    OK(t_lookup(d, "f"));
    OK(t_create(d, "g", O_CREAT | O_RDWR, 0600));
    rm(d, "g");
}

CASE(perms, search)
{
    struct pl_node *d = owned(top, "d", S_IFDIR | 0700, ALICE, STAFF);
    mk_file(d, "f");
    AS (USER(BOB, 1)) {
        IS(t_lookup(d, "f"), -EACCES);
        IS(t_lookup(d, "none"), -EACCES);
        IS(t_open(d, O_RDONLY | O_DIRECTORY), -EACCES);
    }
    OK(t_chmod(d, 0701));
    AS (USER(BOB, 1)) {
        OK(t_lookup(d, "f"));
        IS(t_lookup(d, "none"), -ENOENT);
        IS(t_open(d, O_RDONLY | O_DIRECTORY), -EACCES);
    }
    OK(t_chmod(d, 0704));
    AS (USER(BOB, 1)) {
        IS(t_lookup(d, "f"), -EACCES);
        OK(t_open(d, O_RDONLY | O_DIRECTORY));
    }
}

CASE(perms, search_by_group)
{
    need_groups();
    struct pl_node *d = owned(top, "d", S_IFDIR | 0710, ALICE, STAFF);
    mk_file(d, "f");
    AS (USER(BOB, 1, STAFF)) {
        OK(t_lookup(d, "f"));
        IS(t_open(d, O_RDONLY | O_DIRECTORY), -EACCES);
    }
}

static void no_changes(struct pl_node *d, struct pl_node *f, struct pl_node *mine)
{
    IS(t_create(d, "x", O_CREAT | O_RDWR, 0644), -EACCES);
    IS(t_make(d, "x", S_IFDIR | 0755), -EACCES);
    IS(t_make(d, "x", S_IFREG | 0644), -EACCES);
    IS(t_symlink(d, "x", "y"), -EACCES);
    IS(t_remove(d, "f", 0), -EACCES);
    IS(t_rename(d, "f", d, "g", 0), -EACCES);
    IS(t_rename(d, "f", mine, "g", 0), -EACCES);
    IS(t_rename(mine, "m", d, "g", 0), -EACCES);
    ONE_OF(t_link(f, mine, "g"), 0, -EPERM); /* fs.protected_hardlinks */
    IS(t_link(look(mine, "m"), d, "g"), -EACCES);
    OK(t_create(d, "f", O_CREAT | O_RDONLY, 0644)); /* only opens */
}

CASE(perms, changes_to_a_directory)
{
    struct pl_node *d = owned(top, "d", S_IFDIR | 0755, ALICE, STAFF);
    struct pl_node *f = mk_file(d, "f"), *mine = owned(top, "mine", S_IFDIR | 0755, BOB, 1);
    owned(mine, "m", S_IFREG | 0644, BOB, 1);
    AS (USER(BOB, 1)) {
        no_changes(d, f, mine);
    }
    OK(t_chmod(d, 0757));
    AS (USER(BOB, 1)) {
        OK(t_create(d, "x", O_CREAT | O_RDWR, 0644));
        rm(d, "f"); /* of others, in a directory that one may write */
        OK(t_rename(mine, "m", d, "y", 0));
    }
    IS(attr(look(d, "x")).uid, BOB);
    IS(attr(look(d, "x")).gid, 1);
}

/* Existence is told before permission. */
CASE(perms, exists_before_denied)
{
    struct pl_node *d = owned(top, "d", S_IFDIR | 0755, ALICE, STAFF);
    mk_file(d, "f");
    AS (USER(BOB, 1)) {
        IS(t_make(d, "f", S_IFDIR | 0755), -EEXIST);
        IS(t_remove(d, "none", 0), -ENOENT);
        IS(t_remove(d, "none", AT_REMOVEDIR), -ENOENT);
    }
}

CASE(perms, sticky)
{
    struct pl_node *d = owned(top, "d", S_IFDIR | 01777, ALICE, STAFF);
    owned(d, "bobs", S_IFREG | 0666, BOB, 1);
    owned(d, "bobs2", S_IFREG | 0666, BOB, 1);
    owned(d, "bobsdir", S_IFDIR | 0777, BOB, 1);
    AS (USER(GUEST, GUEST)) {
        OK(t_create(d, "mine", O_CREAT | O_RDWR, 0644));
        IS(t_remove(d, "bobs", 0), -EPERM);
        IS(t_remove(d, "bobsdir", AT_REMOVEDIR), -EPERM);
        IS(t_rename(d, "bobs", d, "x", 0), -EPERM);
        IS(t_rename(d, "mine", d, "bobs", 0), -EPERM);
        OK(t_rename(d, "mine", d, "mine2", 0));
        rm(d, "mine2");
    }
    AS (USER(BOB, 1)) {
        rm(d, "bobs");
        rmdir_(d, "bobsdir");
    }
    AS (USER(ALICE, 1)) {
        rm(d, "bobs2"); /* the directory's owner */
    }
}

CASE(perms, sticky_exchange)
{
    struct pl_node *d = owned(top, "d", S_IFDIR | 01777, ALICE, STAFF);
    owned(d, "bobs", S_IFREG | 0666, BOB, 1);
    owned(d, "mine", S_IFREG | 0666, GUEST, GUEST);
    int r = t_rename(d, "bobs", d, "bobs", RENAME_EXCHANGE);
    if (r == -EINVAL || r == -EOPNOTSUPP)
        SKIP(exchange, "rename: %d", r);
    AS (USER(GUEST, GUEST)) {
        IS(t_rename(d, "mine", d, "bobs", RENAME_EXCHANGE), -EPERM);
        IS(t_rename(d, "bobs", d, "mine", RENAME_EXCHANGE), -EPERM);
    }
}

/* Moving a directory changes its "..": needs write permission on it. */
CASE(perms, moving_a_directory)
{
    struct pl_node *a = owned(top, "a", S_IFDIR | 0777, BOB, 1);
    struct pl_node *b = owned(top, "b", S_IFDIR | 0777, BOB, 1);
    owned(a, "d", S_IFDIR | 0555, ALICE, STAFF);
    AS (USER(BOB, 1)) {
        IS(t_rename(a, "d", b, "d", 0), -EACCES);
        OK(t_rename(a, "d", a, "e", 0));
    }
}

CASE(perms, new_files_belong_to_the_caller)
{
    need_root();
    OK(t_chmod(top, 0777));
    struct pl_call *who = USER(ALICE, STAFF, 7, 8);
    AS (who) {
        mk_file(top, "f");
        mk_dir(top, "d");
        mk_symlink(top, "l", "x");
        OK(t_make(top, "m", S_IFREG | 0644));
    }
    static const char *const name[] = {"f", "d", "l", "m"};
    for (int i = 0; i < 4; i++) {
        IS(attr(look(top, name[i])).uid, ALICE);
        IS(attr(look(top, name[i])).gid, STAFF);
    }
}

CASE(perms, setgid_directory)
{
    struct pl_node *d = owned(top, "d", S_IFDIR | 02777, ALICE, STAFF);
    AS (USER(BOB, 1)) {
        mk_file(d, "f");
        mk_dir(d, "sub");
        mk_symlink(d, "l", "x");
    }
    IS(attr(look(d, "f")).gid, STAFF);
    IS(attr(look(d, "f")).mode, S_IFREG | 0644);
    IS(attr(look(d, "sub")).gid, STAFF);
    IS(attr(look(d, "sub")).mode, S_IFDIR | 02755); /* handed down */
    IS(attr(look(d, "l")).gid, STAFF);
    AS (USER(BOB, 1)) {
        mk_mode(d, "g", S_IFREG | 02771); /* not a member: no setgid executables */
    }
    IS(attr(look(d, "g")).mode, S_IFREG | 0771);
}

CASE(perms, setgid_directory_of_members)
{
    need_groups();
    struct pl_node *d = owned(top, "d", S_IFDIR | 02777, ALICE, STAFF);
    AS (USER(BOB, 1, STAFF)) {
        mk_mode(d, "f", S_IFREG | 02771);
    }
    IS(attr(look(d, "f")).mode, S_IFREG | 02771);
}

CASE(perms, umask)
{
    need_root();
    OK(t_chmod(top, 0777));
    struct pl_call *who = USER(ALICE, STAFF);
    who->umask = 027;
    AS (who) {
        OK(t_create(top, "f", O_CREAT | O_RDWR, 0666));
        OK(t_make(top, "d", S_IFDIR | 0777));
        OK(t_make(top, "m", S_IFREG | 0666));
        OK(t_symlink(top, "l", "x"));
    }
    IS(attr(look(top, "f")).mode, S_IFREG | 0640);
    IS(attr(look(top, "d")).mode, S_IFDIR | 0750);
    IS(attr(look(top, "m")).mode, S_IFREG | 0640);
    IS(attr(look(top, "l")).mode, S_IFLNK | 0777);
}

CASE(perms, chmod)
{
    struct pl_node *f = owned(top, "f", S_IFREG | 0666, ALICE, STAFF);
    AS (USER(BOB, STAFF)) {
        IS(t_chmod(f, 0777), -EPERM);
    }
    AS (USER(ALICE, 1)) {
        OK(t_chmod(f, 04755));
    }
    IS(attr(f).mode, S_IFREG | 04755);
    AS (USER(ALICE, 1)) { /* the owner, not in the group: setgid is dropped in silence */
        OK(t_chmod(f, 02755));
    }
    IS(attr(f).mode, S_IFREG | 0755);
}

CASE(perms, setgid_by_a_member)
{
    need_groups();
    struct pl_node *f = owned(top, "f", S_IFREG | 0666, ALICE, STAFF);
    AS (USER(ALICE, 1, STAFF)) {
        OK(t_chmod(f, 02755));
    }
    IS(attr(f).mode, S_IFREG | 02755);
}

CASE(perms, chown)
{
    struct pl_node *f = owned(top, "f", S_IFREG | 0666, ALICE, STAFF);
    AS (USER(ALICE, STAFF, 7)) {
        IS(t_chown(f, BOB, -1), -EPERM);
        IS(t_chown(f, -1, 8), -EPERM);
        OK(t_chown(f, ALICE, -1));
    }
    AS (USER(BOB, STAFF, 7)) {
        IS(t_chown(f, BOB, -1), -EPERM);
        IS(t_chown(f, -1, 7), -EPERM);
    }
    IS(attr(f).uid, ALICE);
    IS(attr(f).gid, STAFF);
}

CASE(perms, chgrp_by_the_owner)
{
    need_groups();
    struct pl_node *f = owned(top, "f", S_IFREG | 06755, ALICE, STAFF);
    AS (USER(ALICE, STAFF, 7)) {
        OK(t_chown(f, -1, 7));
        OK(t_chown(f, ALICE, 7));
    }
    IS(attr(f).gid, 7);
    IS(attr(f).mode, S_IFREG | 0755);
    AS (USER(ALICE, 1, 8)) {
        IS(t_chown(f, -1, STAFF), -EPERM);
    }
}

CASE(perms, chown_clears_setuid)
{
    struct pl_node *f = owned(top, "f", S_IFREG | 06755, ALICE, STAFF);
    OK(t_chown(f, BOB, -1));
    IS(attr(f).mode, S_IFREG | 0755); /* by root too */
    OK(t_chmod(f, 06755));
    OK(t_chown(f, ALICE, 7));
    IS(attr(f).mode, S_IFREG | 0755);
    struct pl_node *d = owned(top, "d", S_IFDIR | 06755, ALICE, STAFF);
    OK(t_chown(d, BOB, -1));
    IS(attr(d).mode, S_IFDIR | 06755); /* means something else there */
}

CASE(perms, write_clears_setuid)
{
    struct pl_node *f = owned(top, "f", S_IFREG | 06777, ALICE, STAFF);
    say(open_(f, O_WRONLY), 0, "by root");
    IS(attr(f).mode, S_IFREG | 06777);
    AS (USER(BOB, 1)) {
        struct pl_file *o = open_(f, O_RDWR);
        say(o, 0, "by bob");
        close_(o);
    }
    IS(attr(f).mode, S_IFREG | 0777);
    OK(t_chmod(f, 06777));
    AS (USER(BOB, 1)) {
        OK(t_truncate(f, 2));
    }
    IS(attr(f).mode, S_IFREG | 0777);
    OK(t_chmod(f, 06777));
    AS (USER(BOB, 1)) {
        OK(t_open(f, O_WRONLY | O_TRUNC));
    }
    IS(attr(f).mode, S_IFREG | 0777);
}

CASE(perms, truncate)
{
    struct pl_node *f = owned(top, "f", S_IFREG | 0644, ALICE, STAFF);
    AS (USER(BOB, 1)) {
        IS(t_truncate(f, 0), -EACCES);
        IS(t_open(f, O_RDONLY | O_TRUNC), -EACCES);
        IS(t_open(f, O_WRONLY | O_TRUNC), -EACCES);
        IS(t_create(top, "f", O_CREAT | O_TRUNC | O_RDWR, 0644), -EACCES);
    }
    AS (USER(ALICE, 1)) {
        OK(t_truncate(f, 0));
    }
}

/* An open file goes on, whatever becomes of the mode. */
CASE(perms, once_opened)
{
    struct pl_node *f = owned(top, "f", S_IFREG | 0666, ALICE, STAFF);
    struct pl_attr a;
    AS (USER(BOB, 1)) {
        struct pl_file *o = open_(f, O_RDWR);
        me = USER(ALICE, 1);
        OK(t_chmod(f, 0));
        me = USER(BOB, 1);
        say(o, 0, "text");
        reads(o, "text");
        OK(pl_setattr(tree, me, f, o, &(struct pl_setattr){PL_SET_SIZE, .size = 2}, &a));
        IS(t_open(f, O_RDONLY), -EACCES);
        close_(o);
    }
}

static int set_times(struct pl_node *n, uint32_t valid)
{
    struct pl_attr a;
    struct pl_setattr s = {valid, .atime = {1000, 0}, .mtime = {1000, 0}};
    return pl_setattr(tree, me, n, NULL, &s, &a);
}

CASE(perms, times)
{
    struct pl_node *f = owned(top, "f", S_IFREG | 0666, ALICE, STAFF);
    struct pl_node *g = owned(top, "g", S_IFREG | 0644, ALICE, STAFF);
    AS (USER(BOB, 1)) {
        IS(set_times(f, PL_SET_ATIME | PL_SET_MTIME), -EPERM);
        IS(set_times(f, PL_SET_MTIME), -EPERM);
        OK(set_times(f, PL_SET_ATIME_NOW | PL_SET_MTIME_NOW)); /* who may write may touch */
        IS(set_times(g, PL_SET_ATIME_NOW | PL_SET_MTIME_NOW), -EACCES);
    }
    AS (USER(ALICE, 1)) {
        OK(set_times(g, PL_SET_ATIME | PL_SET_MTIME));
        OK(set_times(g, PL_SET_ATIME_NOW | PL_SET_MTIME_NOW));
    }
}

CASE(perms, new_file_of_no_mode)
{
    need_root();
    OK(t_chmod(top, 0777));
    AS (USER(ALICE, STAFF)) {
        struct pl_file *o = mk_open(top, "f", O_RDWR | O_EXCL, 0);
        say(o, 0, "text");
        reads(o, "text");
        IS(t_open(o->node, O_RDONLY), -EACCES);
        close_(o);
        IS(t_create(top, "f", O_CREAT | O_RDWR, 0), -EACCES);
    }
}

CASE(perms, link)
{
    struct pl_node *d = owned(top, "d", S_IFDIR | 0777, ALICE, STAFF);
    struct pl_node *f = owned(d, "f", S_IFREG | 0600, ALICE, STAFF);
    AS (USER(ALICE, 1)) {
        NEED(link, t_link(f, d, "g"));
    }
    OK(t_chmod(d, 0555));
    AS (USER(ALICE, 1)) {
        IS(t_link(f, d, "h"), -EACCES);
    }
}

CASE(perms, many_groups)
{
    need_groups();
    struct pl_node *f = owned(top, "f", S_IFREG | 0060, ALICE, 70012);
    AS (USER(BOB, 1, 70000, 70001, 70002, 70003, 70004, 70005, 70006, 70007, 70008, 70009, 70010,
             70011, 70012, 70013, 70014, 70015)) {
        OK(t_open(f, O_RDWR));
    }
    AS (USER(BOB, 1, 70000, 70001, 70011, 70013)) {
        IS(t_open(f, O_RDWR), -EACCES);
    }
    AS (USER(BOB, 70012)) {
        OK(t_open(f, O_RDWR));
    }
}

CASE(perms, parallel_callers)
{
    struct pl_node *a = owned(top, "a", S_IFREG | 0600, ALICE, STAFF);
    struct pl_node *b = owned(top, "b", S_IFREG | 0600, BOB, STAFF);
    struct pl_call *alice = USER(ALICE, 1), *bob = USER(BOB, 1);
    for (int i = 0; i < 200; i++) {
        AS (alice) {
            OK(t_open(a, O_RDWR));
            IS(t_open(b, O_RDWR), -EACCES);
        }
        AS (bob) {
            OK(t_open(b, O_RDWR));
            IS(t_open(a, O_RDWR), -EACCES);
        }
        OK(t_open(a, O_RDWR));
    }
}
