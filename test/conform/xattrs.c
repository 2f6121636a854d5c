/* SPDX-License-Identifier: MIT */
/* Extended attributes and, where the tree says it has them, POSIX ACLs. */
#include "conform.h"

#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <stdlib.h>
#include <sys/xattr.h>
#include <unistd.h>

static int t_set(struct pl_node *n, const char *name, const void *value, size_t size, int flags)
{
    return pl_setxattr(tree, me, n, name, value, size, flags);
}

static ssize_t t_get(struct pl_node *n, const char *name, void *buf, size_t size)
{
    return pl_getxattr(tree, me, n, name, buf, size);
}

static struct pl_node *with_xattrs(void)
{
    need_flag(PL_TREE_XATTR, F_xattr);
    struct pl_node *f = mk_file(top, "f");
    NEED(xattr, t_set(f, "user.probe", "x", 1, 0));
    OK(pl_removexattr(tree, me, f, "user.probe"));
    return f;
}

static void is_value(struct pl_node *n, const char *name, const void *want, size_t size)
{
    static char buf[70000];
    IS(t_get(n, name, NULL, 0), size);
    IS(t_get(n, name, buf, sizeof(buf)), size);
    TRUE(!memcmp(buf, want, size));
    if (size) {
        memset(buf, 0, size);
        IS(t_get(n, name, buf, size), size);
        TRUE(!memcmp(buf, want, size));
    }
}

/* How many of the names begin with "user."; `has` is among them or not. */
static int listed(struct pl_node *n, const char *has)
{
    static char buf[70000];
    int count = 0;
    bool seen = false;
    ssize_t size = OK(pl_listxattr(tree, me, n, buf, sizeof(buf)));
    for (char *p = buf; p < buf + size; p += strlen(p) + 1) {
        count += !strncmp(p, "user.", 5);
        seen |= has && !strcmp(p, has);
    }
    if (has && !seen)
        FAIL("%s is not listed", has);
    return count;
}

CASE(xattrs, set_and_get)
{
    struct pl_node *n[] = {with_xattrs(), mk_dir(top, "d")};
    for (int i = 0; i < 2; i++) {
        OK(t_set(n[i], "user.a", "value", 5, 0));
        is_value(n[i], "user.a", "value", 5);
        OK(t_set(n[i], "user.a", "longer value", 12, 0));
        is_value(n[i], "user.a", "longer value", 12);
        OK(t_set(n[i], "user.a", "s", 1, 0));
        is_value(n[i], "user.a", "s", 1);
        OK(t_set(n[i], "user.b", "\0\xff\n\0", 4, 0));
        is_value(n[i], "user.b", "\0\xff\n\0", 4);
        is_value(n[i], "user.a", "s", 1);
        IS(listed(n[i], "user.b"), 2);
        OK(pl_removexattr(tree, me, n[i], "user.a"));
        IS(t_get(n[i], "user.a", NULL, 0), -ENODATA);
        IS(pl_removexattr(tree, me, n[i], "user.a"), -ENODATA);
        IS(listed(n[i], "user.b"), 1);
    }
}

CASE(xattrs, create_and_replace)
{
    struct pl_node *f = with_xattrs();
    IS(t_set(f, "user.a", "x", 1, XATTR_REPLACE), -ENODATA);
    OK(t_set(f, "user.a", "one", 3, XATTR_CREATE));
    IS(t_set(f, "user.a", "two", 3, XATTR_CREATE), -EEXIST);
    is_value(f, "user.a", "one", 3);
    OK(t_set(f, "user.a", "three", 5, XATTR_REPLACE));
    is_value(f, "user.a", "three", 5);
    IS(t_set(f, "user.a", "x", 1, 0x100), -EINVAL);
}

CASE(xattrs, empty_value)
{
    struct pl_node *f = with_xattrs();
    OK(t_set(f, "user.a", "", 0, 0));
    is_value(f, "user.a", "", 0);
    IS(listed(f, "user.a"), 1);
    OK(t_set(f, "user.a", "x", 1, XATTR_REPLACE));
    OK(t_set(f, "user.a", "", 0, XATTR_REPLACE)); /* empty, not removed */
    is_value(f, "user.a", "", 0);
    IS(t_set(f, "user.a", "", 0, XATTR_CREATE), -EEXIST);
    OK(pl_removexattr(tree, me, f, "user.a"));
    OK(t_set(f, "user.a", "", 0, XATTR_CREATE));
}

CASE(xattrs, buffer_too_small)
{
    struct pl_node *f = with_xattrs();
    char buf[64];
    OK(t_set(f, "user.name", "0123456789", 10, 0));
    IS(t_get(f, "user.name", buf, 9), -ERANGE);
    IS(t_get(f, "user.name", buf, 1), -ERANGE);
    IS(t_get(f, "user.name", buf, 10), 10);
    ssize_t n = OK(pl_listxattr(tree, me, f, NULL, 0));
    TRUE(n >= 10);
    IS(pl_listxattr(tree, me, f, buf, (size_t)n - 1), -ERANGE);
    IS(pl_listxattr(tree, me, f, buf, (size_t)n), n);
}

CASE(xattrs, missing)
{
    struct pl_node *f = with_xattrs();
    char buf[16];
    IS(t_get(f, "user.none", buf, sizeof(buf)), -ENODATA);
    IS(t_get(f, "user.none", NULL, 0), -ENODATA);
    IS(pl_removexattr(tree, me, f, "user.none"), -ENODATA);
    IS(listed(f, NULL), 0);
}

CASE(xattrs, names)
{
    struct pl_node *f = with_xattrs();
    char name[300];
    memset(name, 'n', sizeof(name));
    memcpy(name, "user.", 5);
    name[255] = 0;
    OK(t_set(f, name, "long", 4, 0));
    is_value(f, name, "long", 4);
    IS(listed(f, name), 1);
    name[255] = 'n';
    name[256] = 0;
    ONE_OF(t_set(f, name, "x", 1, 0), -ERANGE, -ENAMETOOLONG);
    ONE_OF(t_get(f, name, NULL, 0), -ERANGE, -ENAMETOOLONG);
    ONE_OF(t_set(f, "", "x", 1, 0), -ERANGE, -EINVAL);
    ONE_OF(t_set(f, "nonsense.x", "x", 1, 0), -EOPNOTSUPP);
    OK(t_set(f, "user.\xff \n/", "odd", 3, 0));
    is_value(f, "user.\xff \n/", "odd", 3);
    OK(t_set(f, "user.A", "upper", 5, 0));
    IS(t_get(f, "user.a", NULL, 0), -ENODATA);
}

CASE(xattrs, large_values)
{
    struct pl_node *f = with_xattrs();
    char *value = malloc(70000);
    for (int i = 0; i < 70000; i++)
        value[i] = (char)(i * 7 + i / 256);
    for (size_t n = 1; n <= 2000; n = n * 3 + 1) {
        OK(t_set(f, "user.a", value, n, 0));
        is_value(f, "user.a", value, n);
    }
    IS(t_set(f, "user.a", value, 65537, 0), -E2BIG);
    free(value);
}

CASE(xattrs, of_64_kib)
{
    struct pl_node *f = with_xattrs();
    char *value = malloc(65536);
    for (int i = 0; i < 65536; i++)
        value[i] = (char)(i * 11 + i / 256);
    int r = t_set(f, "user.a", value, 65536, 0);
    if (r == -ENOSPC || r == -E2BIG)
        SKIP(xattr_big, "setxattr: %d", r);
    OK(r);
    is_value(f, "user.a", value, 65536);
    free(value);
}

CASE(xattrs, many)
{
    struct pl_node *f = with_xattrs();
    char name[32];
    for (int i = 0; i < 30; i++) {
        snprintf(name, sizeof(name), "user.number%d", i);
        OK(t_set(f, name, name, strlen(name), 0));
    }
    IS(listed(f, "user.number7"), 30);
    for (int i = 0; i < 30; i += 2) {
        snprintf(name, sizeof(name), "user.number%d", i);
        OK(pl_removexattr(tree, me, f, name));
    }
    IS(listed(f, "user.number7"), 15);
    for (int i = 1; i < 30; i += 2) {
        snprintf(name, sizeof(name), "user.number%d", i);
        is_value(f, name, name, strlen(name));
    }
}

CASE(xattrs, belong_to_the_object)
{
    struct pl_node *f = with_xattrs();
    OK(t_set(f, "user.a", "x", 1, 0));
    NEED(link, t_link(f, top, "g"));
    is_value(look(top, "g"), "user.a", "x", 1);
    OK(t_rename(top, "f", top, "h", 0));
    is_value(look(top, "h"), "user.a", "x", 1);
    IS(listed(mk_file(top, "f"), NULL), 0);
}

CASE(xattrs, not_on_links_and_fifos)
{
    with_xattrs();
    IS(t_set(mk_symlink(top, "l", "f"), "user.a", "x", 1, 0), -EPERM);
    NEED(special, t_make(top, "p", S_IFIFO | 0666));
    IS(t_set(look(top, "p"), "user.a", "x", 1, 0), -EPERM);
    IS(listed(look(top, "f"), NULL), 0); /* the link was not followed */
}

CASE(xattrs, permission)
{
    need_root();
    struct pl_node *f = with_xattrs();
    OK(t_set(f, "user.a", "x", 1, 0));
    OK(t_chmod(f, 0604));
    AS (USER(65534, 65534)) {
        IS(t_set(f, "user.a", "y", 1, 0), -EACCES);
        IS(pl_removexattr(tree, me, f, "user.a"), -EACCES);
        is_value(f, "user.a", "x", 1);
    }
    OK(t_chmod(f, 0602));
    AS (USER(65534, 65534)) {
        IS(t_get(f, "user.a", NULL, 0), -EACCES);
        OK(t_set(f, "user.a", "y", 1, 0));
    }
    is_value(f, "user.a", "y", 1);
}

CASE(xattrs, trusted)
{
    need_root();
    struct pl_node *f = with_xattrs();
    int r = t_set(f, "trusted.a", "x", 1, 0);
    if (r == -EOPNOTSUPP || r == -EPERM)
        SKIP(trusted, "setxattr: %d", r);
    OK(r);
    is_value(f, "trusted.a", "x", 1);
    listed(f, "trusted.a");
    OK(t_chmod(f, 0666));
    AS (USER(65534, 65534)) {
        IS(t_set(f, "trusted.a", "y", 1, 0), -EPERM);
        IS(t_get(f, "trusted.a", NULL, 0), -ENODATA);
    }
}

/* ---- ACLs ------------------------------------------------------------------------------------ */

#define ACL_ACCESS  "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"

struct acl {
    struct posix_acl_xattr_header h;
    struct posix_acl_xattr_entry e[5];
};

/* owner rwx, user `uid` with `perm`, group r, mask, other nothing. */
static struct acl acl_of(uint16_t owner, uint32_t uid, uint16_t perm, uint16_t mask)
{
    return (struct acl){{POSIX_ACL_XATTR_VERSION},
                        {{ACL_USER_OBJ, owner, (uint32_t)ACL_UNDEFINED_ID},
                         {ACL_USER, perm, uid},
                         {ACL_GROUP_OBJ, 4, (uint32_t)ACL_UNDEFINED_ID},
                         {ACL_MASK, mask, (uint32_t)ACL_UNDEFINED_ID},
                         {ACL_OTHER, 0, (uint32_t)ACL_UNDEFINED_ID}}};
}

static void need_acl(void)
{
    need_flag(PL_TREE_POSIX_ACL, F_acl);
    struct acl a = acl_of(7, 1000, 4, 4);
    mk_dir(top, "probe");
    NEED(acl, t_set(look(top, "probe"), ACL_ACCESS, &a, sizeof(a), 0));
    rmdir_(top, "probe");
}

CASE(xattrs, acl_and_mode)
{
    need_acl();
    struct pl_node *f = mk_file(top, "f");
    struct acl a = acl_of(6, 1000, 6, 6), b;
    OK(t_set(f, ACL_ACCESS, &a, sizeof(a), 0));
    IS(attr(f).mode, S_IFREG | 0660); /* the mask stands for the group */
    IS(t_get(f, ACL_ACCESS, &b, sizeof(b)), sizeof(b));
    IS(memcmp(&a, &b, sizeof(a)), 0);
    OK(t_chmod(f, 0640));
    IS(t_get(f, ACL_ACCESS, &b, sizeof(b)), sizeof(b));
    IS(b.e[3].e_perm, 4);
    IS(b.e[1].e_perm, 6);
    listed(f, ACL_ACCESS);
    OK(pl_removexattr(tree, me, f, ACL_ACCESS));
    IS(t_get(f, ACL_ACCESS, NULL, 0), -ENODATA);
}

CASE(xattrs, acl_is_obeyed)
{
    need_root();
    need_acl();
    struct pl_node *f = mk_file(top, "f");
    struct acl a = acl_of(6, 65534, 4, 7);
    OK(t_chmod(f, 0600));
    AS (USER(65534, 65534)) {
        IS(t_open(f, O_RDONLY), -EACCES);
    }
    OK(t_set(f, ACL_ACCESS, &a, sizeof(a), 0));
    AS (USER(65534, 65534)) {
        OK(t_open(f, O_RDONLY));
        IS(t_open(f, O_RDWR), -EACCES);
        OK(t_access(f, R_OK));
        IS(t_access(f, W_OK), -EACCES);
    }
    AS (USER(65533, 65533)) {
        IS(t_open(f, O_RDONLY), -EACCES);
        IS(t_set(f, ACL_ACCESS, &a, sizeof(a), 0), -EPERM);
    }
    a = acl_of(6, 65534, 7, 2);
    OK(t_set(f, ACL_ACCESS, &a, sizeof(a), 0));
    AS (USER(65534, 65534)) {
        IS(t_open(f, O_RDONLY), -EACCES);
        OK(t_open(f, O_WRONLY));
    }
}

CASE(xattrs, default_acl)
{
    need_acl();
    struct pl_node *d = mk_dir(top, "d");
    struct acl a = acl_of(7, 1000, 6, 7), b;
    struct pl_call *caller = USER(geteuid(), getegid());
    OK(t_set(d, ACL_DEFAULT, &a, sizeof(a), 0));
    IS(attr(d).mode, S_IFDIR | 0755); /* of what is made in it, not of itself */
    caller->umask = 077;
    AS (caller) {
        OK(t_create(d, "f", O_CREAT | O_RDWR, 0666));
        OK(t_make(d, "sub", S_IFDIR | 0777));
    }
    struct pl_node *f = look(d, "f"), *sub = look(d, "sub");
    IS(attr(f).mode, S_IFREG | 0660); /* the umask does not count where there is an ACL */
    IS(attr(sub).mode, S_IFDIR | 0770);
    IS(t_get(f, ACL_ACCESS, &b, sizeof(b)), sizeof(b));
    IS(b.e[1].e_id, 1000);
    IS(b.e[3].e_perm, 6);
    IS(t_get(sub, ACL_DEFAULT, &b, sizeof(b)), sizeof(b));
    IS(memcmp(&a, &b, sizeof(a)), 0);
    OK(pl_removexattr(tree, me, d, ACL_DEFAULT));
    AS (caller) {
        OK(t_create(d, "g", O_CREAT | O_RDWR, 0666));
    }
    IS(attr(look(d, "g")).mode, S_IFREG | 0600);
}

CASE(xattrs, acl_that_is_none)
{
    need_acl();
    struct pl_node *f = mk_file(top, "f");
    struct acl a = acl_of(6, 1000, 6, 6);
    ONE_OF(t_set(f, ACL_ACCESS, &a, 7, 0), -EINVAL, -EOPNOTSUPP);
    a.e[2].e_tag = ACL_MASK; /* no group */
    IS(t_set(f, ACL_ACCESS, &a, sizeof(a), 0), -EINVAL);
    a = acl_of(6, 1000, 6, 6);
    TRUE(t_set(f, ACL_DEFAULT, &a, sizeof(a), 0) < 0); /* not on files */
    IS(attr(f).mode, S_IFREG | 0644);
}
