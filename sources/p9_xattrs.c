/* SPDX-License-Identifier: MIT */
/* Extended attributes through the 9P source: a fid that is read, or written once and clunked. */
#include "base/futex.h"
#include "sources/p9_again.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

static struct p9_msg read_msg(uint32_t fid, uint64_t off, size_t n)
{
    return (struct p9_msg){.type = P9_Tread, .fid = fid, .offset = off, .count = (uint32_t)n};
}

/* Bytes that a Rread brought into `into`, of at most n. */
static int got(const struct p9_answer *a, size_t n)
{
    return a->r.count > n ? -EIO : (int)a->r.count;
}

/* What is left of a value of `size` bytes when `have` are there. */
static int read_rest(struct p9s_tree *t, struct pl_call *call, uint32_t fid, char *buf, size_t have,
                     size_t size)
{
    int r = 0;
    while (r == 0 && have < size) {
        size_t n = size - have < t->chunk ? size - have : t->chunk;
        struct p9_msg m = read_msg(fid, have, n);
        struct p9s_sent s = {.m = &m, .into = buf + have, .size = n};
        struct p9_answer a;
        r = p9s_ask_into(t, call, &s, &a);
        if (r == 0)
            r = got(&a, n);
        p9_answer_free(&a);
        if (r == 0)
            return -EIO; /* the value ends before its size */
        if (r > 0) {
            have += (size_t)r;
            r = 0;
        }
    }
    return r;
}

/* The value (or with "" the list of names): its size; with size 0 only that. */
static ssize_t get_once(struct p9s_tree *t, struct pl_call *call, struct pl_node *node,
                        const char *name, char *buf, size_t size)
{
    struct p9_msg m = {.type = P9_Txattrwalk, .name = p9_str(name)}, rd;
    struct p9s_batch b = {0};
    int r = p9s_my_fid(t, call, node, &m.fid);
    if (r == 0)
        r = p9s_new_fid(t, &m.newfid);
    if (r < 0)
        return r;
    /* one of us keeps the order, and so the read need not wait for the size */
    size_t first = t->ext ? (size < t->chunk ? size : t->chunk) : 0;
    p9s_start(t, call, &b, &m, NULL, 0);
    if (first) {
        rd = read_msg(m.newfid, 0, first);
        p9s_start(t, call, &b, &rd, buf, first);
    }
    p9s_finish(t, call, &b);
    ssize_t n = -1;
    r = b.r[0];
    if (r == 0 && b.a[0].r.size > PL_XATTR_MAX)
        r = -EIO;
    if (r == 0) {
        n = (ssize_t)b.a[0].r.size;
        if (size && (size_t)n > size)
            r = -ERANGE;
    }
    if (r == 0 && size) {
        int have = 0;
        if (first)
            have = r = b.r[1] < 0 ? b.r[1] : got(&b.a[1], first);
        if (r >= 0)
            r = have > n ? -EIO : read_rest(t, call, m.newfid, buf, (size_t)have, (size_t)n);
    }
    p9s_drop_fid(t, m.newfid, b.r[0]);
    p9s_batch_free(&b);
    return r < 0 ? p9s_stale(t, (struct p9s_node *)node, r) : n;
}

/* Whether the peer has just said that the node has none, which answers for those that anybody may
 * see. */
static bool has_none(struct pl_node *node)
{
    int64_t until = atomic_load(&((struct p9s_node *)node)->no_xattrs);
    return until && mono_now() < until;
}

/* Not a namespace with nothing behind it, which is no name (EINVAL). */
static bool plain_name(const char *name)
{
    const char *dot = strchr(name, '.');
    if (!dot || !dot[1])
        return false;
    return !strncmp(name, "user.", 5) || !strncmp(name, "security.", 9) ||
           !strncmp(name, "system.posix_acl_", 17);
}

/* A value that was half read when its server was lost is read from the start. */
static ssize_t get(struct p9s_tree *t, struct pl_call *call, struct pl_node *node, const char *name,
                   char *buf, size_t size)
{
    ssize_t r;
    while ((r = get_once(t, call, node, name, buf, size)) == -ERESTART)
        ;
    return r;
}

ssize_t p9s_getxattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                     const char *name, void *buf, size_t size)
{
    if (has_none(node) && plain_name(name))
        return -ENODATA;
    return get(p9s_of(tree), call, node, name, buf, size);
}

ssize_t p9s_listxattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node, char *buf,
                      size_t size)
{
    if (has_none(node) && (call->cred.uid != 0 || !p9s_of(tree)->many))
        return 0;
    ssize_t n = get(p9s_of(tree), call, node, "", buf, size);
    return n > 0 && size && buf[n - 1] ? -EIO : n; /* every name has its NUL */
}

/* The rest of the value after `done` bytes, in order. */
static int write_rest(struct p9s_tree *t, struct pl_call *call, uint32_t fid, const char *buf,
                      size_t done, size_t size)
{
    int r = 0;
    while (r == 0 && done < size) {
        size_t n = size - done < t->chunk ? size - done : t->chunk;
        struct p9_msg m = {.type = P9_Twrite,
                           .fid = fid,
                           .offset = done,
                           .count = (uint32_t)n,
                           .data = (char *)buf + done};
        struct p9_answer a;
        r = p9s_ask(t, call, &m, &a);
        if (r == 0 && (a.r.count == 0 || a.r.count > n))
            r = -EIO;
        else if (r == 0)
            done += a.r.count;
        p9_answer_free(&a);
    }
    return r;
}

/* The value is collected by a new fid, at whose clunk the deed is done. */
static int collect(struct p9s_tree *t, struct pl_call *call, uint32_t fid, struct p9_msg *create,
                   const void *buf)
{
    struct p9s_batch b = {0};
    struct p9_msg walk = p9s_walk_msg(fid, create->fid, NULL);
    int r = 0;
    p9s_start(t, call, &b, &walk, NULL, 0);
    if (!t->ext && (r = p9s_finish(t, call, &b)) == 0) {
        p9s_batch_free(&b);
        b.n = 0;
    }
    if (r == 0) {
        p9s_start(t, call, &b, create, NULL, 0);
        r = p9s_finish(t, call, &b);
    }
    int walked = b.r[0];
    p9s_batch_free(&b);
    if (r == 0)
        r = write_rest(t, call, create->fid, buf, 0, (size_t)create->size);
    if (r < 0 && r != -ERESTART)
        p9s_drop_fid(t, create->fid, t->ext ? walked : -EINTR);
    return r;
}

static int set_it(struct p9s_tree *t, struct pl_call *call, struct pl_node *node, const char *name,
                  const void *buf, size_t size, int flags)
{
    uint32_t fid;
    struct p9_msg create = {
        .type = P9_Txattrcreate, .name = p9_str(name), .size = size, .flags = (uint32_t)flags};
    struct p9_msg clunk = {.type = P9_Tclunk};
    struct p9s_sent s = {.m = &clunk, .once = flags != 0};
    struct p9_answer a;
    int r = p9s_my_fid(t, call, node, &fid);
    if (r == 0)
        r = p9s_new_fid(t, &create.fid);
    if (r < 0)
        return r;
    clunk.fid = create.fid;
    do { /* until it is not another server's clunk */
        r = collect(t, call, fid, &create, buf);
        if (r < 0 && r != -ERESTART) {
            p9s_op_end(t, &clunk);
            return r;
        }
        if (r == 0) {
            r = p9s_ask_into(t, call, &s, &a);
            p9_answer_free(&a);
        }
    } while (r == -ERESTART);
    if (r == -EINTR || r == -ETIMEDOUT)
        p9s_clunk(t, create.fid); /* the clunk itself may have been cancelled */
    else
        p9s_put_fid(t, create.fid);
    return r;
}

static int set(struct p9s_tree *t, struct pl_call *call, struct pl_node *node, const char *name,
               const void *buf, size_t size, int flags)
{
    struct p9s_node *n = (struct p9s_node *)node;
    p9s_touch(t, node);
    int r = set_it(t, call, node, name, buf, size, flags);
    p9s_touch(t, node);
    atomic_store(&n->no_xattrs, 0);
    return r;
}

int p9s_setxattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node, const char *name,
                 const void *buf, size_t size, int flags)
{
    struct p9s_tree *t = p9s_of(tree);
    if (size == 0 && flags == XATTR_REPLACE) { /* on the wire this removes: look, then set */
        ssize_t n = get(t, call, node, name, NULL, 0);
        if (n < 0)
            return (int)n;
        flags = 0;
    }
    return set(t, call, node, name, buf, size, flags);
}

int p9s_removexattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                    const char *name)
{
    return set(p9s_of(tree), call, node, name, NULL, 0, XATTR_REPLACE);
}
