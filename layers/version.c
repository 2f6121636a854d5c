/* SPDX-License-Identifier: MIT */
#include "layers/version.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct version_tree {
    struct pl_tree tree;
    struct version_chooser by;
};

static bool active(struct pl_tree *t)
{
    struct version_tree *v = (struct version_tree *)t;
    return v->by.active(v->by.arg);
}

static bool plain(const char *name)
{
    return strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && strcmp(name, "...") != 0;
}

/* Where a name really is: in a directory of versions, under `text`, or as it was asked for. */
struct place {
    struct pl_node *dir; /* a reference, or NULL: the one that was given */
    char text[PL_NAME_MAX + 1];
};

/* The version that `name`, which is the directory `node`, is seen as: 0 with a reference in *ret,
 * or -ENOENT. */
static int choose(struct version_tree *v, struct pl_call *call, struct pl_node *dir,
                  const char *name, struct pl_node *node, char *text, struct pl_node **ret,
                  struct pl_attr *attr)
{
    for (size_t n = 0; v->by.choose(v->by.arg, v->tree.lower, call, dir, name, n, text); n++) {
        int r = pl_lookup(v->tree.lower, call, node, text, ret, attr);
        if (r != -ENOENT)
            return r;
    }
    return -ENOENT;
}

static int version_lookup(struct pl_tree *t, struct pl_call *call, struct pl_node *dir,
                          const char *name, struct pl_node **ret, struct pl_attr *attr)
{
    struct version_tree *v = (struct version_tree *)t;
    struct pl_node *node, *version;
    char text[PL_NAME_MAX + 1];
    struct pl_attr its;
    int r = pl_lookup(t->lower, call, dir, name, &node, attr);
    if (r < 0)
        return r;
    if (node->fmt == S_IFDIR && plain(name) && active(t)) {
        if (choose(v, call, dir, name, node, text, &version, &its) == 0) {
            pl_node_unref(node);
            node = version;
            *attr = its;
        }
        attr->told = false; /* of versions that come and go nobody tells */
    }
    *ret = node;
    return 0;
}

/* The place of a name that is about to be changed. */
static struct place place_of(struct pl_tree *t, struct pl_call *call, struct pl_node *dir,
                             const char *name)
{
    struct version_tree *v = (struct version_tree *)t;
    struct place p = {NULL, ""};
    struct pl_node *node, *version;
    struct pl_attr attr;
    if (!active(t) || !plain(name) || pl_lookup(t->lower, call, dir, name, &node, &attr) < 0)
        return p;
    if (node->fmt == S_IFDIR && choose(v, call, dir, name, node, p.text, &version, &attr) == 0) {
        pl_node_unref(version);
        p.dir = node;
        return p;
    }
    pl_node_unref(node);
    return p;
}

static int version_remove(struct pl_tree *t, struct pl_call *call, struct pl_node *dir,
                          const char *name, int flags)
{
    struct place p = place_of(t, call, dir, name);
    int r = pl_remove(t->lower, call, p.dir ? p.dir : dir, p.dir ? p.text : name, flags);
    pl_node_unref(p.dir);
    return r;
}

static int version_rename(struct pl_tree *t, struct pl_call *call, struct pl_node *olddir,
                          const char *oldname, struct pl_node *newdir, const char *newname,
                          unsigned flags)
{
    struct place from = place_of(t, call, olddir, oldname), to = place_of(t, call, newdir, newname);
    int r = pl_rename(t->lower, call, from.dir ? from.dir : olddir, from.dir ? from.text : oldname,
                      to.dir ? to.dir : newdir, to.dir ? to.text : newname, flags);
    pl_node_unref(from.dir);
    pl_node_unref(to.dir);
    return r;
}

struct filling {
    pl_fill_fn *fill;
    void *arg;
};

/* What is a directory below may be seen as something else: that is for a lookup to say. */
static int fill(void *arg, const struct pl_dirent *ent)
{
    const struct filling *f = arg;
    struct pl_dirent e = *ent;
    if (e.type == DT_DIR && plain(e.name)) {
        e.type = DT_UNKNOWN;
        e.node = NULL;
        e.attr = NULL;
    }
    return f->fill(f->arg, &e);
}

static int version_readdir(struct pl_tree *t, struct pl_call *call, struct pl_file *dir,
                           uint64_t off, pl_fill_fn *to, void *arg)
{
    struct filling f = {to, arg};
    return active(t) ? pl_readdir(t->lower, call, dir, off, fill, &f)
                     : pl_readdir(t->lower, call, dir, off, to, arg);
}

static void version_done(struct pl_tree *t)
{
    struct version_tree *v = (struct version_tree *)t;
    if (v->by.done)
        v->by.done(v->by.arg);
}

static const struct pl_ops version_ops = {
    .name = "version",
    .done = version_done,
    .lookup = version_lookup,
    .remove = version_remove,
    .rename = version_rename,
    .readdir = version_readdir,
};

struct pl_tree *version_new(const struct version_chooser *chooser, struct pl_tree *lower)
{
    struct version_tree *v = lower ? calloc(1, sizeof(*v)) : NULL;
    if (!v) {
        pl_tree_unref(lower);
        return NULL;
    }
    pl_tree_init(&v->tree, &version_ops, lower);
    v->by = *chooser;
    return &v->tree;
}
