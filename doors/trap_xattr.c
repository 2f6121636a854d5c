/* SPDX-License-Identifier: MIT */
/* Extended attributes: by path, of a link, and by descriptor. */
#include "doors/trap_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

enum how { BY_PATH, BY_LINK, BY_FD };

struct xattr_call {
    struct target t;
    char name[XATTR_NAME_MAX + 2];
    bool host;
    char path[PATH_MAX];
};

static int read_name(struct tcall *c, struct xattr_call *x)
{
    int r = peek_string(c, ADDR(1), x->name, sizeof(x->name));
    return r == -ENAMETOOLONG || r == 0 || r > XATTR_NAME_MAX ? -ERANGE : r < 0 ? r : 0;
}

/* What it is about: 0, TRAP_NATIVE, or an error. What is in a tree is the tree's to answer: it may
 * keep notes of its own there. */
static int about(struct tcall *c, enum how how, bool writes, struct xattr_call *x)
{
    int r = how == BY_FD ? target_of_fd(c, (int)ADDR(0), writes, &x->t)
                         : walk(c, AT_FDCWD, ADDR(0), how == BY_PATH ? WALK_FOLLOW : 0, &x->t);
    if (r == 0 && x->t.native)
        return TRAP_NATIVE;
    if (r < 0)
        return r;
    if (x->t.top && !x->t.node)
        return -ENOENT;
    x->host = !x->t.top && target_host(c, &x->t, x->path) == 0;
    return 0;
}

static int64_t get(struct tcall *c, enum how how, bool list)
{
    struct xattr_call x = {.host = false};
    uint64_t at = list ? ADDR(1) : ADDR(2);
    size_t size = list ? ADDR(2) : ADDR(3);
    size = size > PL_XATTR_MAX ? PL_XATTR_MAX : size;
    int64_t r = list ? 0 : read_name(c, &x);
    if (r == 0)
        r = about(c, how, false, &x);
    char *buf = r == 0 ? malloc(size + 1) : NULL;
    if (r == 0 && !buf)
        r = -ENOMEM;
    if (r == 0 && x.host) {
        as_caller(c);
        r = list ? llistxattr(x.path, buf, size) : lgetxattr(x.path, x.name, buf, size);
        r = r < 0 ? -errno : r;
        as_self();
    } else if (r == 0) {
        struct pl_tree *tree = x.t.top->tree;
        r = list ? pl_listxattr(tree, &c->call, x.t.node, buf, size)
                 : pl_getxattr(tree, &c->call, x.t.node, x.name, buf, size);
    }
    if (r > 0 && size > 0) {
        int p = poke(c, at, buf, (size_t)r);
        r = p < 0 ? p : r;
    }
    free(buf);
    target_done(&x.t);
    return r;
}

static int64_t set(struct tcall *c, enum how how)
{
    struct xattr_call x = {.host = false};
    size_t size = ADDR(3);
    int flags = (int)ADDR(4);
    if (flags & ~(XATTR_CREATE | XATTR_REPLACE))
        return -EINVAL;
    int r = read_name(c, &x);
    if (r == 0 && size > PL_XATTR_MAX)
        r = -E2BIG;
    char *buf = r == 0 ? malloc(size + 1) : NULL;
    if (r == 0)
        r = !buf ? -ENOMEM : size ? peek(c, ADDR(2), buf, size) : 0;
    if (r == 0)
        r = about(c, how, true, &x);
    if (r == 0 && x.host) {
        as_caller(c);
        r = lsetxattr(x.path, x.name, buf, size, flags) < 0 ? -errno : 0;
        as_self();
    } else if (r == 0) {
        r = pl_setxattr(x.t.top->tree, &c->call, x.t.node, x.name, buf, size, flags);
    }
    free(buf);
    target_done(&x.t);
    return r;
}

static int64_t take(struct tcall *c, enum how how)
{
    struct xattr_call x = {.host = false};
    int r = read_name(c, &x);
    if (r == 0)
        r = about(c, how, true, &x);
    if (r == 0 && x.host) {
        as_caller(c);
        r = lremovexattr(x.path, x.name) < 0 ? -errno : 0;
        as_self();
    } else if (r == 0) {
        r = pl_removexattr(x.t.top->tree, &c->call, x.t.node, x.name);
    }
    target_done(&x.t);
    return r;
}

CALL(getxattr, get(c, BY_PATH, false))
CALL(lgetxattr, get(c, BY_LINK, false))
CALL(fgetxattr, get(c, BY_FD, false))
CALL(listxattr, get(c, BY_PATH, true))
CALL(llistxattr, get(c, BY_LINK, true))
CALL(flistxattr, get(c, BY_FD, true))
CALL(setxattr, set(c, BY_PATH))
CALL(lsetxattr, set(c, BY_LINK))
CALL(fsetxattr, set(c, BY_FD))
CALL(removexattr, take(c, BY_PATH))
CALL(lremovexattr, take(c, BY_LINK))
CALL(fremovexattr, take(c, BY_FD))
