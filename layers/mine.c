/* SPDX-License-Identifier: MIT */
/*
 * The mine layer: everything is this process's user's, with the rights that he has.
 *
 * In a user namespace of an ordinary user there is nobody else, and the kernel lets nobody change,
 * rename or remove what belongs to whom it does not know there. So all is shown as his. What is
 * his to do with another's file the tree says: the owner's bits of the mode become that, and
 * a kernel that judges by them judges as the tree does. Set-user-ID bits of others are not shown,
 * for they would not make anybody be those.
 */
#include <errno.h>
#include <plenum/sources.h>
#include <stdlib.h>
#include <unistd.h>

struct mine_tree {
    struct pl_tree tree;
    uid_t uid;
    gid_t gid;
};

/* What the caller may do with what is not his, as the bits of an owner. */
static uint32_t rights(struct pl_tree *t, struct pl_call *call, struct pl_node *node, uint32_t mode)
{
    uint32_t may = 0;
    int likely = R_OK | (mode & S_IWUSR ? W_OK : 0) | (mode & 0111 ? X_OK : 0);
    if (pl_access(t->lower, call, node, likely) == 0)
        return (uint32_t)likely << 6;
    for (int bit = X_OK; bit <= R_OK; bit <<= 1) {
        int r = likely & bit ? pl_access(t->lower, call, node, bit) : -EACCES;
        if (r == 0 || (r == -EROFS && S_ISDIR(mode))) /* whoever tries is to hear that */
            may |= (uint32_t)bit << 6;
    }
    return may;
}

static void show(struct pl_tree *t, struct pl_call *call, struct pl_node *node,
                 struct pl_attr *attr)
{
    const struct mine_tree *m = (const struct mine_tree *)t;
    bool his = attr->uid == m->uid;
    if (!his && !S_ISLNK(attr->mode))
        attr->mode = (attr->mode & ~(uint32_t)S_IRWXU) | rights(t, call, node, attr->mode);
    if (!S_ISDIR(attr->mode) && !his)
        attr->mode &= ~(uint32_t)S_ISUID;
    if (!S_ISDIR(attr->mode) && (!his || attr->gid != m->gid))
        attr->mode &= ~(uint32_t)S_ISGID;
    attr->uid = m->uid;
    attr->gid = m->gid;
}

static int mine_lookup(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, const char *name,
                       struct pl_node **ret, struct pl_attr *attr)
{
    int r = pl_lookup(t->lower, c, dir, name, ret, attr);
    if (r == 0)
        show(t, c, *ret, attr);
    return r;
}

static int mine_getattr(struct pl_tree *t, struct pl_call *c, struct pl_node *node,
                        struct pl_file *file, struct pl_attr *attr)
{
    int r = pl_getattr(t->lower, c, node, file, attr);
    if (r == 0)
        show(t, c, node, attr);
    return r;
}

static int mine_setattr(struct pl_tree *t, struct pl_call *c, struct pl_node *node,
                        struct pl_file *file, const struct pl_setattr *set, struct pl_attr *attr)
{
    int r = pl_setattr(t->lower, c, node, file, set, attr);
    if (r == 0)
        show(t, c, node, attr);
    return r;
}

static int mine_make(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, const char *name,
                     const struct pl_make *make, struct pl_node **ret, struct pl_attr *attr)
{
    int r = pl_make(t->lower, c, dir, name, make, ret, attr);
    if (r == 0)
        show(t, c, *ret, attr);
    return r;
}

static int mine_link(struct pl_tree *t, struct pl_call *c, struct pl_node *node,
                     struct pl_node *dir, const char *name, struct pl_attr *attr)
{
    int r = pl_link(t->lower, c, node, dir, name, attr);
    if (r == 0)
        show(t, c, node, attr);
    return r;
}

static int mine_create(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, const char *name,
                       int flags, mode_t mode, struct pl_node **ret, struct pl_attr *attr,
                       struct pl_file **ret_file)
{
    int r = pl_create(t->lower, c, dir, name, flags, mode, ret, attr, ret_file);
    if (r == 0)
        show(t, c, *ret, attr);
    return r;
}

static int mine_tmpfile(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, int flags,
                        mode_t mode, struct pl_node **ret, struct pl_attr *attr,
                        struct pl_file **ret_file)
{
    int r = pl_tmpfile(t->lower, c, dir, flags, mode, ret, attr, ret_file);
    if (r == 0)
        show(t, c, *ret, attr);
    return r;
}

static int mine_find(struct pl_tree *t, struct pl_call *c, const uint8_t *key, size_t len,
                     struct pl_node **ret, struct pl_attr *attr)
{
    int r = pl_find(t->lower, c, key, len, ret, attr);
    if (r == 0)
        show(t, c, *ret, attr);
    return r;
}

static const struct pl_ops mine_ops = {
    .name = "mine",
    .lookup = mine_lookup,
    .getattr = mine_getattr,
    .setattr = mine_setattr,
    .make = mine_make,
    .link = mine_link,
    .create = mine_create,
    .tmpfile = mine_tmpfile,
    .find = mine_find,
};

struct pl_tree *pl_mine_new(struct pl_tree *lower)
{
    struct mine_tree *m = lower ? calloc(1, sizeof(*m)) : NULL;
    if (!m) {
        pl_tree_unref(lower);
        return NULL;
    }
    pl_tree_init(&m->tree, &mine_ops, lower);
    m->uid = geteuid();
    m->gid = getegid();
    /* There is nobody else, and the mode says what he may. */
    if (m->tree.flags & PL_TREE_STATELESS_SELF)
        m->tree.flags |= PL_TREE_STATELESS;
    /* The entries that a listing brings along are not shown so. */
    m->tree.flags &= ~(uint32_t)PL_TREE_PLUS;
    return &m->tree;
}
