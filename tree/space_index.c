/* SPDX-License-Identifier: MIT */
/*
 * Names of one file behind stay names of one file when it is copied up. The copy gets one more
 * name, the number of its origin, in a hidden directory at the root of the top's layer; a lookup
 * that meets a file with several names behind asks there first. How many names are still only
 * behind is noted in the copy (user.plenum.links), for its link count, and for the day when none is
 * left. Names that were removed before there was a copy are counted by a symlink beside it,
 * "-NUMBER". Where the top has no links or no xattrs there is no index, and each name gets a copy
 * of its own. All is done as the owner of the space.
 */
#include "tree/space.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INDEX ".wh..index"
#define LINKS "user.plenum.links"

static void entry_name(uint64_t ino, char name[32])
{
    snprintf(name, 32, "%llx", (unsigned long long)ino);
}

/* The directory of the index, a reference. */
static int index_dir(struct space *s, struct pl_call *call, struct space_point *p, bool make,
                     struct pl_node **ret)
{
    const struct pl_make dir = {.mode = S_IFDIR | 0700};
    struct pl_tree *in = space_tree(p, p->top);
    struct pl_node *root;
    struct pl_attr attr;
    int r = space_layer_root(s, call, p, p->top, make, &root, &attr);
    if (r < 0)
        return r;
    r = root->fmt == S_IFDIR ? pl_lookup(in, call, root, INDEX, ret, &attr) : -ENOTDIR;
    if (r == -ENOENT && make) {
        struct pl_attr up;
        r = pl_getattr(in, call, root, NULL, &up);
        if (r == 0)
            r = pl_make(in, call, root, INDEX, &dir, ret, &attr);
        const struct pl_setattr times = {
            .valid = PL_SET_ATIME | PL_SET_MTIME, .atime = up.atime, .mtime = up.mtime};
        if (r == 0)
            pl_setattr(in, call, root, NULL, &times, &up);
        else if (r == -EEXIST)
            r = pl_lookup(in, call, root, INDEX, ret, &attr);
    }
    pl_node_unref(root);
    return r;
}

int space_index_find(struct space *s, struct pl_call *call, struct space_point *p, uint64_t ino,
                     struct pl_node **ret, struct pl_attr *attr)
{
    char name[32];
    struct pl_node *dir;
    struct space_as as = space_self(s, call);
    int r = index_dir(s, call, p, false, &dir);
    if (r == 0) {
        entry_name(ino, name);
        r = pl_lookup(space_tree(p, p->top), call, dir, name, ret, attr);
        pl_node_unref(dir);
    }
    space_back(call, &as);
    return r;
}

int64_t space_index_links(struct pl_call *call, struct pl_tree *tree, struct pl_node *node)
{
    char value[24];
    if (!(tree->flags & PL_TREE_XATTR) || node->fmt != S_IFREG)
        return -1;
    bool own = call->own;
    call->own = true;
    ssize_t n = pl_getxattr(tree, call, node, LINKS, value, sizeof(value) - 1);
    call->own = own;
    if (n <= 0)
        return -1;
    value[n] = 0;
    return (int64_t)strtoull(value, NULL, 10);
}

static int note_links(struct pl_call *call, struct pl_tree *tree, struct pl_node *node,
                      uint64_t links)
{
    char value[24];
    snprintf(value, sizeof(value), "%llu", (unsigned long long)links);
    return space_put(call, tree, node, LINKS, value);
}

int space_index_add(struct space *s, struct pl_call *call, struct space_point *p,
                    struct pl_node *copy, uint64_t ino, uint64_t links)
{
    struct pl_tree *in = space_tree(p, p->top);
    char name[32];
    struct pl_node *dir;
    struct pl_attr attr;
    if (!(in->flags & PL_TREE_XATTR) || copy->fmt != S_IFREG || !pl_tree_has(in, PL_OP_link))
        return -EOPNOTSUPP;
    int r = note_links(call, in, copy, links);
    if (r == 0)
        r = index_dir(s, call, p, true, &dir);
    if (r < 0)
        return r;
    entry_name(ino, name);
    r = pl_link(in, call, copy, dir, name, &attr);
    pl_node_unref(dir);
    return r;
}

/* No name is left but the index's. */
static void forget_entry(struct space *s, struct pl_call *call, struct space_point *p,
                         struct pl_node *copy)
{
    struct pl_tree *in = space_tree(p, p->top);
    char name[32];
    struct pl_node *dir;
    uint64_t ino = space_origin(call, in, copy);
    if (!ino || index_dir(s, call, p, false, &dir) < 0)
        return;
    entry_name(ino, name);
    pl_remove(in, call, dir, name, 0);
    pl_node_unref(dir);
}

void space_index_less(struct space *s, struct pl_call *call, struct space_point *p,
                      struct pl_node *copy)
{
    struct pl_tree *in = space_tree(p, p->top);
    struct pl_attr attr;
    bool held = space_hold(s, call, &s->counting) == 0; /* who is cancelled does it all the same */
    struct space_as as = space_self(s, call);
    int64_t links = space_index_links(call, in, copy);
    if (links > 0)
        note_links(call, in, copy, (uint64_t)--links);
    if (links == 0 && pl_getattr(in, call, copy, NULL, &attr) == 0 && attr.nlink == 1)
        forget_entry(s, call, p, copy);
    space_back(call, &as);
    if (held)
        space_let(s, &s->counting);
}

static void gone_name(uint64_t ino, char name[32])
{
    snprintf(name, 32, "-%llx", (unsigned long long)ino);
}

/* How many names have been removed while there was no copy. `dir`: the index. */
static unsigned read_gone(struct pl_call *call, struct pl_tree *in, struct pl_node *dir,
                          const char *name)
{
    char value[24];
    struct pl_node *n;
    struct pl_attr attr;
    if (pl_lookup(in, call, dir, name, &n, &attr) < 0)
        return 0;
    int len = n->fmt == S_IFLNK ? pl_readlink(in, call, n, value, sizeof(value) - 1) : 0;
    pl_node_unref(n);
    value[len > 0 ? len : 0] = 0;
    return (unsigned)strtoul(value, NULL, 10);
}

unsigned space_index_gone(struct space *s, struct pl_call *call, struct space_point *p,
                          uint64_t ino)
{
    char name[32];
    struct pl_node *dir;
    unsigned n = 0;
    struct space_as as = space_self(s, call);
    gone_name(ino, name);
    if (index_dir(s, call, p, false, &dir) == 0) {
        n = read_gone(call, space_tree(p, p->top), dir, name);
        pl_node_unref(dir);
    }
    space_back(call, &as);
    return n;
}

/* One more; with the last of `names` there is nothing to count. */
static void one_gone(struct space *s, struct pl_call *call, struct space_point *p, uint64_t ino,
                     uint64_t names)
{
    struct pl_tree *in = space_tree(p, p->top);
    char name[32], temp[64], value[24];
    struct pl_node *dir, *n;
    struct pl_attr attr;
    if (index_dir(s, call, p, true, &dir) < 0)
        return;
    gone_name(ino, name);
    snprintf(value, sizeof(value), "%u", read_gone(call, in, dir, name) + 1);
    const struct pl_make link = {.mode = S_IFLNK, .target = value};
    space_temp_name(s, temp);
    if (strtoull(value, NULL, 10) >= names) {
        pl_remove(in, call, dir, name, 0);
    } else if (pl_make(in, call, dir, temp, &link, &n, &attr) == 0) {
        pl_node_unref(n);
        if (pl_rename(in, call, dir, temp, dir, name, 0) < 0)
            pl_remove(in, call, dir, temp, 0);
    }
    pl_node_unref(dir);
}

void space_index_dropped(struct space *s, struct pl_call *call, struct space_found *f)
{
    struct space_point *p = f->point;
    int k = f->e[0].k;
    if (f->indexed) {
        space_index_less(s, call, p, f->e[0].node);
    } else if (f->fmt == S_IFREG && !space_in_place(p, k) && f->attr.nlink > 1) {
        bool held = space_hold(s, call, &s->counting) == 0;
        struct space_as as = space_self(s, call);
        one_gone(s, call, p, space_number(p, k, f->attr.ino), f->attr.nlink);
        space_back(call, &as);
        if (held)
            space_let(s, &s->counting);
    } else if (f->fmt == S_IFREG && f->e[0].k == p->top && p->n > 1 && f->attr.nlink == 2) {
        struct space_as as = space_self(s, call);
        if (space_index_links(call, space_tree(p, p->top), f->e[0].node) == 0)
            forget_entry(s, call, p, f->e[0].node);
        space_back(call, &as);
    }
}
