/* SPDX-License-Identifier: MIT */
/* Modes, owners, times, extended attributes; what else than bytes an object consists of. */
#include "sync/replica_priv.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

void replica_busy(struct replica *r, struct note *note)
{
    if (r->dry || ((note->o->flags & NOTE_BUSY) && !(note->flags & NOTE_NEW)))
        return;
    note->flags &= ~(uint32_t)NOTE_NEW;
    note->o->flags |= NOTE_BUSY;
    notes_put(r->notes, note);
}

int replica_extra(struct replica *r, struct pl_tree *tree, struct pl_node *node,
                  const struct pl_attr *attr, uint64_t *ret)
{
    char target[PL_PATH_MAX];
    *ret = (uint64_t)attr->rdev_major << 32 | attr->rdev_minor;
    if (!S_ISLNK(attr->mode))
        return 0;
    int n = pl_readlink(tree, r->call, node, target, sizeof(target));
    if (n < 0)
        return n;
    *ret = XXH3_64bits(target, (size_t)n);
    return 0;
}

/* Each name with its value, to be given to `each`; trees without xattrs have none. */
static void each_xattr(struct pl_tree *t, struct pl_call *c, struct pl_node *node,
                       void (*each)(void *, const char *, const char *, size_t), void *arg)
{
    ssize_t n = pl_listxattr(t, c, node, NULL, 0);
    char *names = n > 0 ? malloc((size_t)n) : NULL, *value = names ? malloc(PL_XATTR_MAX) : NULL;
    n = value ? pl_listxattr(t, c, node, names, (size_t)n) : -1;
    for (char *p = names; n > 0 && p < names + n; p += strlen(p) + 1) {
        ssize_t len = pl_getxattr(t, c, node, p, value, PL_XATTR_MAX);
        if (len >= 0)
            each(arg, p, value, (size_t)len);
    }
    free(names);
    free(value);
}

static void digest_one(void *arg, const char *name, const char *value, size_t n)
{
    uint64_t h = XXH3_64bits(name, strlen(name));
    *(uint64_t *)arg ^= XXH3_64bits_withSeed(value, n, h);
}

struct target {
    struct replica *r;
    struct pl_node *from, *to;
};

/* Where the replica does not take one (another kind of tree, no right) it is left out, as cp -a. */
static void set_one(void *arg, const char *name, const char *value, size_t n)
{
    struct target *t = arg;
    pl_setxattr(t->r->dst, t->r->call, t->to, name, value, n, 0);
}

static void drop_one(void *arg, const char *name, const char *value, size_t n)
{
    struct target *t = arg;
    if (pl_getxattr(t->r->src, t->r->call, t->from, name, NULL, 0) == -ENODATA)
        pl_removexattr(t->r->dst, t->r->call, t->to, name);
}

static void xattrs(struct replica *r, struct pair *p)
{
    struct target t = {r, p->src, p->dst};
    uint64_t digest = 0;
    each_xattr(r->src, r->call, p->src, digest_one, &digest);
    if (!p->fresh && !p->untrusted && digest == p->note->o->extra)
        return;
    each_xattr(r->src, r->call, p->src, set_one, &t);
    if (!p->fresh)
        each_xattr(r->dst, r->call, p->dst, drop_one, &t);
    p->note->o->extra = digest;
}

static int set_attrs(struct replica *r, struct pair *p, uint32_t valid)
{
    const struct pl_attr *a = &p->sattr;
    struct pl_setattr set = {.valid = valid,
                             .mode = a->mode & 07777,
                             .uid = a->uid,
                             .gid = a->gid,
                             .atime = a->atime,
                             .mtime = a->mtime};
    int e = pl_setattr(r->dst, r->call, p->dst, NULL, &set, &p->dattr);
    if (e == -EPERM && (valid & (PL_SET_UID | PL_SET_GID))) {
        r->p->no_owners = true; /* as cp -a: where permitted */
        set.valid &= ~(uint32_t)(PL_SET_UID | PL_SET_GID);
        e = pl_setattr(r->dst, r->call, p->dst, NULL, &set, &p->dattr);
    }
    if (e == 0 && !p->dattr.guess)
        return 0;
    e = e == -EOPNOTSUPP && S_ISLNK(a->mode) ? 0 : e;
    if (e == 0)
        e = pl_getattr(r->dst, r->call, p->dst, NULL, &p->dattr);
    return replica_dst_gone(r, p, e);
}

int replica_attributes(struct replica *r, struct pair *p)
{
    struct note *n = p->note;
    const struct pl_attr *a = &p->sattr;
    bool link = S_ISLNK(a->mode), all = p->fresh || p->untrusted;
    uint32_t valid = PL_SET_ATIME | PL_SET_MTIME;
    int e = 0;
    if (geteuid() == 0 && !r->p->no_owners && (all || n->o->uid != a->uid || n->o->gid != a->gid))
        valid |= PL_SET_UID | PL_SET_GID;
    if (!link && (all || n->o->mode != (a->mode & 07777) || (valid & PL_SET_UID)))
        valid |= PL_SET_MODE;
    if (valid & (PL_SET_MODE | PL_SET_UID))
        replica_busy(r, n);
    if (link || !(S_ISREG(a->mode) || S_ISDIR(a->mode)))
        e = replica_extra(r, r->src, p->src, a, &n->o->extra);
    else if (!r->dry)
        xattrs(r, p);
    if (e == 0 && !r->dry)
        e = set_attrs(r, p, valid);
    if (e != 0)
        return e;
    n->o->mode = a->mode & 07777;
    n->o->uid = a->uid;
    n->o->gid = a->gid;
    return 0;
}
