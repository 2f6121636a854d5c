/* SPDX-License-Identifier: MIT */
/* Attributes and extended attributes of a space: those of the first of the stack. */
#include "tree/space.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* Of a copy that is in the index: that name does not count, those that are only behind do. */
static void count_links(struct space *s, struct pl_call *call, const struct space_stack *st,
                        struct pl_attr *attr)
{
    struct space_as as = space_self(s, call);
    int64_t links = space_index_links(call, space_tree(st->point, st->e[0].k), st->e[0].node);
    space_back(call, &as);
    if (links >= 0)
        attr->nlink += (uint64_t)links - 1;
}

uint64_t space_version(struct space *s, struct pl_call *call, const struct space_stack *st)
{
    uint64_t h = 0;
    struct space_as as = space_self(s, call);
    for (int i = 1; i < st->n; i++) {
        struct pl_attr attr;
        if (pl_getattr(space_tree(st->point, st->e[i].k), call, st->e[i].node, NULL, &attr) == 0)
            h = space_mixed(h, &attr);
    }
    space_back(call, &as);
    return h;
}

void space_attr(struct space *s, struct pl_call *call, struct snode *n,
                const struct space_stack *st, struct pl_attr *attr)
{
    attr->told = space_told(s, n, st, attr);
    if (st->n > 1 || n->rises) /* one tree's versions say nothing of another's */
        attr->version = 0;
    if (st->n == 1 && S_ISREG(attr->mode) && attr->nlink && st->e[0].k == st->point->top &&
        n->ino != space_number(st->point, st->e[0].k, attr->ino))
        count_links(s, call, st, attr);
    attr->ino = n->ino;
    unsigned hidden = atomic_load_explicit(&n->hidden, memory_order_relaxed);
    if (st->n > 1) /* as overlayfs: how many directories are in it is not known */
        attr->nlink = 1;
    else if (hidden && st->n && !space_in_place(st->point, st->e[0].k))
        attr->nlink -= hidden < attr->nlink ? hidden : attr->nlink;
    if (n->node.fmt == S_IFDIR && n->gone)
        attr->nlink = 0;
}

/* The open file, if it is of what the node is now. */
static struct pl_file *lower_file(struct pl_file *file, const struct space_stack *st)
{
    struct sfile *f = file ? sfile_of(file) : NULL;
    return f && f->lower && st->n && f->lower->node == st->e[0].node &&
                   f->tree == space_tree(st->point, st->e[0].k)
               ? f->lower
               : NULL;
}

void space_spot_attr(const struct space *s, const struct space_point *point,
                     const struct space_spot *spot, struct pl_attr *attr)
{
    bool fills = spot->here && point->top >= 0;
    *attr = (struct pl_attr){.ino = spot->ino,
                             .nlink = 1,
                             .mode = S_IFDIR | (fills ? 0755 : 0555),
                             .uid = s->self.uid,
                             .gid = s->self.gid,
                             .blksize = 4096,
                             .atime = s->born,
                             .mtime = s->born,
                             .ctime = s->born};
}

static int attr_of(struct space *s, struct pl_call *call, const struct space_stack *st,
                   struct pl_file *file, struct pl_attr *attr)
{
    if (st->n == 0) {
        space_spot_attr(s, st->point, st->spot, attr);
        return 0;
    }
    return pl_getattr(space_tree(st->point, st->e[0].k), call, st->e[0].node, lower_file(file, st),
                      attr);
}

int space_getattr(SPACE_T, struct pl_node *node, struct pl_file *file, struct pl_attr *attr)
{
    struct space *s = space_of(tree);
    struct snode *n = snode_of(node);
    struct space_stack *st = space_stack(s, n);
    int r = attr_of(s, call, st, file, attr);
    if (r == 0)
        space_attr(s, call, n, st, attr);
    if (r == 0 && st->n > 1 && !attr->told)
        attr->version = space_version(s, call, st);
    space_stack_unref(st);
    return r;
}

bool space_is_mine(const struct space *s, const struct pl_call *call, const struct space_point *p,
                   int k)
{
    bool owner = call->cred.uid == s->self.uid || call->own;
    return s->self.uid && owner && p->top >= 0 && !space_in_place(p, k);
}

/* Of what is to be copied into the owner's own: he must be able to read it, and the mode that the
 * copy will have must let its owner write. */
static int may_mine(struct space *s, struct pl_call *call, const struct space_stack *st, int mask)
{
    struct pl_tree *tree = space_tree(st->point, st->e[0].k);
    struct pl_attr attr;
    int ask = (mask & ~W_OK) | (mask & W_OK && st->e[0].node->fmt == S_IFREG ? R_OK : 0);
    int r = ask || !mask ? pl_access(tree, call, st->e[0].node, ask) : 0;
    if (r < 0 || !(mask & W_OK))
        return r;
    r = pl_getattr(tree, call, st->e[0].node, NULL, &attr);
    return r < 0 ? r : call->own || attr.mode & S_IWUSR ? 0 : -EACCES;
}

int space_may(struct space *s, struct pl_call *call, const struct space_stack *st, int mask)
{
    struct pl_attr attr;
    if (st->n && space_is_mine(s, call, st->point, st->e[0].k))
        return may_mine(s, call, st, mask);
    if (st->n) {
        int r = pl_access(space_tree(st->point, st->e[0].k), call, st->e[0].node, mask);
        if (r != -EROFS || st->e[0].k == st->point->top) /* it is changed there, or not at all */
            return r;
    }
    if (st->point->top < 0 && mask & W_OK)
        return -EROFS;
    int r = attr_of(s, call, st, NULL, &attr);
    return r < 0 ? r : pl_may(call, &attr, mask);
}

int space_access(SPACE_T, struct pl_node *node, int mask)
{
    struct space *s = space_of(tree);
    struct space_stack *st = space_stack(s, snode_of(node));
    int r = space_may(s, call, st, mask);
    if (r == 0 && mask & W_OK && st->point->top < 0)
        r = -EROFS;
    space_stack_unref(st);
    return r;
}

/* As attr_of(), of what is behind, for judging who may change it. */
static int owned_attr(struct space *s, struct pl_call *call, const struct space_stack *st,
                      struct pl_attr *attr)
{
    int r = attr_of(s, call, st, NULL, attr);
    if (r == 0 && st->n && space_is_mine(s, call, st->point, st->e[0].k)) {
        attr->uid = s->self.uid;
        attr->gid = s->self.gid;
    }
    return r;
}

/* The node is where it can be changed, and the stack that it has there (a reference). */
static int raised(struct space *s, struct pl_call *call, struct snode *n, bool content,
                  struct space_stack **ret)
{
    int r = space_up(s, call, n, content);
    if (r == 0)
        *ret = space_stack(s, n);
    return r;
}

static bool needs_write(struct pl_call *call, const struct pl_attr *attr,
                        const struct pl_setattr *set)
{
    bool owns = call->cred.uid == 0 || call->cred.uid == attr->uid;
    return set->valid & PL_SET_SIZE ||
           (set->valid & (PL_SET_ATIME_NOW | PL_SET_MTIME_NOW) && !owns);
}

int space_setattr(SPACE_T, struct pl_node *node, struct pl_file *file, const struct pl_setattr *set,
                  struct pl_attr *attr)
{
    struct space *s = space_of(tree);
    struct snode *n = snode_of(node);
    struct space_stack *st = space_stack(s, n);
    bool writable = file && (file->flags & O_ACCMODE) != O_RDONLY;
    int r = 0;
    if (!st->n || !space_in_place(st->point, st->e[0].k)) {
        r = owned_attr(s, call, st, attr);
        if (r == 0 && st->point->top < 0)
            r = -EROFS;
        if (r == 0 && !writable && needs_write(call, attr, set))
            r = space_may(s, call, st, W_OK); /* its tree knows its ACL */
        if (r == 0)
            r = pl_may_set(call, attr, set, true);
    }
    space_stack_unref(st);
    bool cut = set->valid & PL_SET_SIZE && set->size == 0;
    if (r == 0)
        r = raised(s, call, n, !cut, &st);
    if (r < 0)
        return r;
    r = pl_setattr(space_tree(st->point, st->e[0].k), call, st->e[0].node, lower_file(file, st),
                   set, attr);
    if (r == 0)
        space_attr(s, call, n, st, attr);
    space_stack_unref(st);
    return r;
}

/* ---- what is read of the first ---- */

#define FRONT(name, none, ...)                                                                     \
    ({                                                                                             \
        struct space_stack *st_ = space_stack(space_of(tree), snode_of(node));                     \
        int64_t r_ = !st_->n ? (none)                                                              \
                             : name(space_tree(st_->point, st_->e[0].k), call, st_->e[0].node,     \
                                    ##__VA_ARGS__);                                                \
        space_stack_unref(st_);                                                                    \
        r_;                                                                                        \
    })

int space_readlink(SPACE_T, struct pl_node *node, char *buf, size_t size)
{
    return (int)FRONT(pl_readlink, -EINVAL, buf, size);
}

static bool is_acl(const char *name)
{
    return !strncmp(name, "system.posix_acl_", 17);
}

ssize_t space_getxattr(SPACE_T, struct pl_node *node, const char *name, void *buf, size_t size)
{
    char below[PL_NAME_MAX + 1];
    ssize_t r = space_xattr_in(name, below, &name);
    if (r == 0)
        r = FRONT(pl_getxattr, -ENODATA, name, buf, size);
    /* A tree that knows no ACLs, among others that do: a kernel that asks has been told so. */
    return r == -EOPNOTSUPP && tree->flags & PL_TREE_POSIX_ACL && is_acl(name) ? -ENODATA : r;
}

/* Takes our own out of a list; its new length. */
static ssize_t without_own(char *list, ssize_t n)
{
    char *to = list;
    for (char *p = list, *next; p < list + n; p = next) {
        next = p + strlen(p) + 1;
        if (space_xattr_out(p)) {
            size_t len = strlen(p) + 1;
            memmove(to, p, len);
            to += len;
        }
    }
    return to - list;
}

ssize_t space_listxattr(SPACE_T, struct pl_node *node, char *buf, size_t size)
{
    char some[1024], *list = some, *more = NULL;
    ssize_t n = FRONT(pl_listxattr, 0, some, sizeof(some));
    if (n == -ERANGE) {
        if (!(list = more = malloc(PL_XATTR_MAX)))
            return -ENOMEM;
        n = FRONT(pl_listxattr, 0, more, PL_XATTR_MAX);
    }
    if (n > 0)
        n = without_own(list, n);
    if (n > 0 && size)
        n = (size_t)n > size ? -ERANGE : n;
    if (n > 0 && size)
        memcpy(buf, list, (size_t)n);
    free(more);
    return n;
}

/* ---- what changes it ---- */

/* Before it is copied up for that: may the caller? */
static int may_xattr(struct space *s, struct pl_call *call, struct snode *n, const char *name)
{
    struct pl_attr attr;
    struct space_stack *st = space_stack(s, n);
    int r = 0;
    if (!st->n || !space_in_place(st->point, st->e[0].k)) {
        r = st->point->top < 0 ? -EROFS : owned_attr(s, call, st, &attr);
        if (r == 0)
            r = pl_may_xattr(call, &attr, name, true);
        if ((r == 0 || r == -EACCES) && !strncmp(name, "user.", 5))
            r = space_may(s, call, st, W_OK);
        if (r == -EOPNOTSUPP && is_acl(name)) /* the owner's */
            r = call->cred.uid == 0 || call->cred.uid == attr.uid ? 0 : -EPERM;
    }
    space_stack_unref(st);
    return r;
}

int space_setxattr(SPACE_T, struct pl_node *node, const char *name, const void *buf, size_t size,
                   int flags)
{
    struct space *s = space_of(tree);
    struct space_stack *st = NULL;
    char below[PL_NAME_MAX + 1];
    int r = space_xattr_in(name, below, &name) < 0 ? -EOPNOTSUPP : 0;
    if (r == 0)
        r = may_xattr(s, call, snode_of(node), name);
    if (r == 0)
        r = raised(s, call, snode_of(node), true, &st);
    if (r < 0)
        return r;
    r = pl_setxattr(space_tree(st->point, st->e[0].k), call, st->e[0].node, name, buf, size, flags);
    space_stack_unref(st);
    return r;
}

/* -ENODATA: what would have to be copied up does not have that xattr. */
static int is_there(struct space *s, struct pl_call *call, struct snode *n, const char *name)
{
    struct space_stack *st = space_stack(s, n);
    ssize_t r = 0;
    if (st->n && !space_in_place(st->point, st->e[0].k)) {
        struct space_as as = space_self(s, call);
        r = pl_getxattr(space_tree(st->point, st->e[0].k), call, st->e[0].node, name, NULL, 0);
        space_back(call, &as);
    }
    space_stack_unref(st);
    return r < 0 ? (int)r : 0;
}

int space_removexattr(SPACE_T, struct pl_node *node, const char *name)
{
    struct space *s = space_of(tree);
    struct space_stack *st = NULL;
    char below[PL_NAME_MAX + 1];
    int r = space_xattr_in(name, below, &name) < 0 ? -EOPNOTSUPP : 0;
    if (r == 0)
        r = may_xattr(s, call, snode_of(node), name);
    if (r == 0)
        r = is_there(s, call, snode_of(node), name);
    if (r == -ENODATA && is_acl(name))
        return 0; /* no ACL is one without entries */
    if (r == 0)
        r = raised(s, call, snode_of(node), true, &st);
    if (r < 0)
        return r;
    r = pl_removexattr(space_tree(st->point, st->e[0].k), call, st->e[0].node, name);
    space_stack_unref(st);
    return r;
}

/* ---- the file system ---- */

/* Of the top, where what is new would go. */
int space_statfs(SPACE_T, struct pl_node *node, struct statfs *buf)
{
    struct space_stack *st = space_stack(space_of(tree), snode_of(node));
    int r = 0;
    if (st->n) {
        struct pl_node *top = st->point->top < 0 ? NULL : space_entry(st, st->point->top);
        int k = top ? st->point->top : st->e[0].k;
        r = pl_statfs(space_tree(st->point, k), call, top ? top : st->e[0].node, buf);
    }
    space_stack_unref(st);
    return r;
}

int space_syncfs(SPACE_T, struct pl_node *node)
{
    struct space_stack *st = space_stack(space_of(tree), snode_of(node));
    int r = 0;
    for (int i = 0; i < st->n && r == 0; i++)
        if (space_in_place(st->point, st->e[i].k))
            r = pl_syncfs(space_tree(st->point, st->e[i].k), call, st->e[i].node);
    space_stack_unref(st);
    return r;
}
