/* SPDX-License-Identifier: MIT */
/*
 * What changes the hierarchy.
 *
 * Tremove and Trename name a file by its fid alone, a tree by directory and name. So a fid keeps
 * the directory and the name by which it was walked: the directory's node is shared by all that is
 * in it, the name is a few bytes, and the alternative (".." and a search of the directory) does not
 * exist for anything but directories. Others may have renamed the file meanwhile: that the name
 * still means this node is checked first, and a directory is then searched for.
 */
#include "doors/p9_door.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* A name that came from the peer, NUL-terminated whatever its length. */
static const char *text(const struct p9_str *s)
{
    return s->len ? s->s : "";
}

static int make(struct p9d_op *op, const struct pl_make *make)
{
    struct pl_node *node;
    struct pl_attr attr;
    const char *name = text(&op->in->name);
    int r = p9d_dir_ok(op->fid);
    if (r == 0)
        r = p9d_name_ok(name);
    if (r < 0)
        return r;
    p9d_act_to_create(op);
    r = pl_make(op->fid->at->tree, op->call, op->fid->node, name, make, &node, &attr);
    if (r == 0) {
        op->out->qid = p9d_qid(&attr);
        pl_node_unref(node);
    }
    return r;
}

int p9d_mkdir(struct p9d_op *op)
{
    return make(op, &(struct pl_make){.mode = S_IFDIR | (op->in->mode & 07777)});
}

int p9d_symlink(struct p9d_op *op)
{
    const char *target = text(&op->in->target);
    return make(op, &(struct pl_make){.mode = S_IFLNK | 0777, .target = target});
}

int p9d_mknod(struct p9d_op *op)
{
    uint32_t mode = op->in->mode & (S_IFMT | 07777);
    if (!(mode & S_IFMT))
        mode |= S_IFREG;
    if (S_ISDIR(mode) || S_ISLNK(mode))
        return S_ISDIR(mode) ? -EPERM : -EINVAL;
    return make(op, &(struct pl_make){
                        .mode = mode, .rdev_major = op->in->major, .rdev_minor = op->in->minor});
}

/* Both fids must be of one tree. */
static int same_tree(const struct p9d_op *op)
{
    if (p9d_xattr(op->fid) || p9d_xattr(op->fid2))
        return -EBADF;
    return op->fid->at->tree == op->fid2->at->tree ? 0 : -EXDEV;
}

int p9d_link(struct p9d_op *op)
{
    struct pl_attr attr;
    const char *name = text(&op->in->name);
    int r = p9d_dir_ok(op->fid);
    if (r == 0)
        r = same_tree(op);
    if (r == 0)
        r = p9d_name_ok(name);
    if (r < 0)
        return r;
    return pl_link(op->fid->at->tree, op->call, op->fid2->node, op->fid->node, name, &attr);
}

/* ---- by fid ---- */

/* What a search of a directory for a node's name is looking for. */
struct search {
    uint64_t ino;
    char name[LIMIT_NAME + 1];
};

static int search_fill(void *arg, const struct pl_dirent *ent)
{
    struct search *s = arg;
    if (ent->ino != s->ino || !strcmp(ent->name, ".") || !strcmp(ent->name, ".."))
        return 0;
    strncpy(s->name, ent->name, LIMIT_NAME);
    return 1;
}

/* The name of directory `node` in its parent, which ".." finds. */
static int find_dir(struct pl_call *call, struct pl_tree *tree, struct pl_node *node,
                    struct pl_node **ret_parent, char name[LIMIT_NAME + 1])
{
    struct search s = {0};
    struct pl_attr attr, up_attr;
    struct pl_node *parent;
    struct pl_file *dir;
    int r = pl_getattr(tree, call, node, NULL, &attr);
    if (r == 0)
        r = pl_lookup(tree, call, node, "..", &parent, &up_attr);
    if (r < 0)
        return r;
    s.ino = attr.ino;
    r = pl_open(tree, call, parent, O_RDONLY | O_DIRECTORY, &dir);
    if (r == 0) {
        r = pl_readdir(tree, call, dir, 0, search_fill, &s);
        pl_close(tree, call, dir);
    }
    if (r == 0 && !*s.name)
        r = -ESTALE;
    if (r < 0) {
        pl_node_unref(parent);
        return r;
    }
    *ret_parent = parent;
    strcpy(name, s.name);
    return 0;
}

int p9d_find_name(struct pl_call *call, struct p9d_fid *fid, struct pl_node **ret_parent,
                  char name[LIMIT_NAME + 1])
{
    struct pl_tree *tree = fid->at->tree;
    struct pl_node *parent = NULL, *node, *named = fid->link ? fid->link : fid->node;
    struct pl_attr attr;
    if (p9d_xattr(fid))
        return -EBADF;
    if (named == fid->at->root)
        return -EBUSY;
    pthread_mutex_lock(&fid->session->mutex);
    if (fid->name) {
        parent = pl_node_ref(fid->parent);
        strcpy(name, fid->name);
    }
    pthread_mutex_unlock(&fid->session->mutex);
    if (parent) {
        int r = pl_lookup(tree, call, parent, name, &node, &attr);
        if (r == 0)
            pl_node_unref(node);
        if (r == 0 && node == named) {
            *ret_parent = parent;
            return 0;
        }
        pl_node_unref(parent);
        if (r < 0 && r != -ENOENT)
            return r;
    }
    if (!S_ISDIR(named->fmt))
        return -ESTALE;
    return find_dir(call, tree, named, ret_parent, name);
}

void p9d_set_name(struct p9d_fid *fid, struct pl_node *parent, const char *name)
{
    char *copy = strdup(name);
    if (!copy)
        return; /* the fid merely keeps a name that is not its own any more */
    pthread_mutex_lock(&fid->session->mutex);
    struct pl_node *was = fid->parent;
    char *was_name = fid->name;
    fid->parent = pl_node_ref(parent);
    fid->name = copy;
    pthread_mutex_unlock(&fid->session->mutex);
    pl_node_unref(was);
    free(was_name);
}

int p9d_remove_fid(struct pl_call *call, struct p9d_fid *fid)
{
    char name[LIMIT_NAME + 1];
    struct pl_node *parent;
    int r = p9d_find_name(call, fid, &parent, name);
    if (r < 0)
        return r;
    r = pl_remove(fid->at->tree, call, parent, name,
                  S_ISDIR(fid->node->fmt) && !fid->link ? AT_REMOVEDIR : 0);
    pl_node_unref(parent);
    if (r == 0 && !fid->link)
        p9d_special_set(fid->session->door, fid->node, 0);
    return r;
}

int p9d_remove(struct p9d_op *op)
{
    int r = p9d_remove_fid(op->call, op->fid);
    return r == -ESTALE && p9d_dialect(op) != P9_L ? -ENOENT : r;
}

int p9d_rename(struct p9d_op *op)
{
    char old[LIMIT_NAME + 1];
    const char *name = text(&op->in->name);
    struct pl_node *parent;
    struct p9d_fid *fid = op->fid, *dir = op->fid2;
    int r = p9d_dir_ok(dir);
    if (r == 0)
        r = same_tree(op);
    if (r == 0)
        r = p9d_name_ok(name);
    if (r == 0)
        r = p9d_find_name(op->call, fid, &parent, old);
    if (r < 0)
        return r;
    r = pl_rename(fid->at->tree, op->call, parent, old, dir->node, name, 0);
    pl_node_unref(parent);
    if (r == 0)
        p9d_set_name(fid, dir->node, name);
    return r;
}

/* ---- by directory and name ---- */

static int rename_at(struct p9d_op *op, unsigned flags)
{
    const char *from = text(&op->in->name), *to = text(&op->in->name2);
    int r = p9d_dir_ok(op->fid);
    if (r == 0)
        r = p9d_dir_ok(op->fid2);
    if (r == 0)
        r = same_tree(op);
    if (r == 0)
        r = p9d_name_ok(from);
    if (r == 0)
        r = p9d_name_ok(to);
    if (r < 0)
        return r;
    return pl_rename(op->fid->at->tree, op->call, op->fid->node, from, op->fid2->node, to, flags);
}

int p9d_renameat(struct p9d_op *op)
{
    return rename_at(op, 0);
}

int p9d_rename2(struct p9d_op *op)
{
    return rename_at(op, op->in->flags);
}

int p9d_unlinkat(struct p9d_op *op)
{
    const char *name = text(&op->in->name);
    int r = p9d_dir_ok(op->fid);
    if (r == 0)
        r = op->in->flags & ~(uint32_t)P9_AT_REMOVEDIR ? -EINVAL : p9d_name_ok(name);
    if (r < 0)
        return r;
    return pl_remove(op->fid->at->tree, op->call, op->fid->node, name,
                     op->in->flags & P9_AT_REMOVEDIR ? AT_REMOVEDIR : 0);
}
