/* SPDX-License-Identifier: MIT */
/* Finding files and asking about them. */
#include "doors/p9_door.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

struct p9_qid p9d_qid(const struct pl_attr *attr)
{
    uint64_t v = attr->version;
    if (!v)
        v = (uint64_t)attr->mtime.tv_sec * 1000000000u + (uint64_t)attr->mtime.tv_nsec + attr->size;
    return (struct p9_qid){
        .type = S_ISDIR(attr->mode)   ? P9_QTDIR
                : S_ISLNK(attr->mode) ? P9_QTSYMLINK
                                      : P9_QTFILE,
        .version = (uint32_t)(v ^ v >> 32),
        .path = attr->ino,
    };
}

void p9d_fill_attr(struct p9_attr *out, const struct pl_attr *a)
{
    *out = (struct p9_attr){
        .valid = P9_GETATTR_BASIC,
        .qid = p9d_qid(a),
        .mode = a->mode,
        .uid = a->uid,
        .gid = a->gid,
        .nlink = a->nlink,
        .rdev = makedev(a->rdev_major, a->rdev_minor),
        .size = a->size,
        .blksize = a->blksize,
        .blocks = a->blocks,
        .atime_sec = (uint64_t)a->atime.tv_sec,
        .atime_nsec = (uint64_t)a->atime.tv_nsec,
        .mtime_sec = (uint64_t)a->mtime.tv_sec,
        .mtime_nsec = (uint64_t)a->mtime.tv_nsec,
        .ctime_sec = (uint64_t)a->ctime.tv_sec,
        .ctime_nsec = (uint64_t)a->ctime.tv_nsec,
    };
    if (a->btime.tv_sec || a->btime.tv_nsec) {
        out->valid |= P9_GETATTR_BTIME;
        out->btime_sec = (uint64_t)a->btime.tv_sec;
        out->btime_nsec = (uint64_t)a->btime.tv_nsec;
    }
    if (a->version) {
        out->valid |= P9_GETATTR_DATA_VERSION;
        out->data_version = a->version;
    }
}

void p9d_say_xattrs(struct p9d_op *op, struct pl_node *node, struct p9_attr *out)
{
    struct pl_tree *tree = op->fid->at->tree;
    if (p9d_own(op) && (tree->flags & PL_TREE_XATTR) && !(tree->flags & PL_TREE_GENERATED) &&
        pl_listxattr(tree, op->call, node, NULL, 0) == 0)
        out->valid |= P9_GETATTR_NO_XATTR;
}

int p9d_name_ok(const char *name)
{
    size_t n = name ? strlen(name) : 0;
    if (n == 0)
        return -ENOENT;
    if (n > LIMIT_NAME)
        return -ENAMETOOLONG;
    return strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, "..") ? -EINVAL : 0;
}

int p9d_dir_ok(const struct p9d_fid *fid)
{
    if (p9d_xattr((struct p9d_fid *)fid))
        return -EBADF;
    return S_ISDIR(fid->node->fmt) ? 0 : -ENOTDIR;
}

/* ---- walking ---- */

/* A walk under way: the node reached so far, with a reference, and how. */
struct walk {
    struct pl_node *node, *parent;
    struct pl_node *link; /* which led to node, and has the name; or NULL */
    const char *name;     /* in parent; NULL when it was reached by ".." */
    bool moved;           /* false: still at the fid, or no further than "." */
};

static void walk_end(struct walk *w)
{
    pl_node_unref(w->node);
    pl_node_unref(w->parent);
    pl_node_unref(w->link);
}

/* A directory that was moved out of what is exported would lead up and out of it: what ".." found
 * must have the root above it. */
static int check_beneath(struct p9d_op *op, struct p9d_attach *at, struct pl_node *found)
{
    struct pl_node *node = pl_node_ref(found), *up;
    struct pl_attr attr;
    int r = 0;
    while (r == 0 && node != at->root) {
        r = pl_lookup(at->tree, op->call, node, "..", &up, &attr);
        if (r == 0) {
            if (up == node)
                r = -EACCES;
            pl_node_unref(node);
            node = up;
        }
    }
    pl_node_unref(node);
    return r;
}

static int step_up(struct p9d_op *op, struct walk *w, struct pl_attr *attr)
{
    struct p9d_attach *at = op->fid->at;
    struct pl_node *up;
    int r;
    if (w->node == at->root) {
        if ((r = pl_getattr(at->tree, op->call, w->node, NULL, attr)) < 0)
            return r;
        up = pl_node_ref(w->node);
    } else {
        r = pl_lookup(at->tree, op->call, w->node, "..", &up, attr);
        if (r == 0 && at->beneath && (r = check_beneath(op, at, up)) < 0)
            pl_node_unref(up);
        if (r < 0)
            return r;
    }
    walk_end(w);
    *w = (struct walk){.node = up, .moved = true};
    return 0;
}

static int step(struct p9d_op *op, struct walk *w, const char *name, struct pl_attr *attr)
{
    struct pl_node *next;
    if (!S_ISDIR(w->node->fmt))
        return -ENOTDIR;
    if (!strcmp(name, ".."))
        return step_up(op, w, attr);
    if (!strcmp(name, ".")) /* no client has to, but diodls(8) does, with what it finds listed */
        return pl_getattr(op->fid->at->tree, op->call, w->node, NULL, attr);
    int r = p9d_name_ok(name);
    if (r == 0)
        r = pl_lookup(op->fid->at->tree, op->call, w->node, name, &next, attr);
    if (r < 0)
        return r;
    pl_node_unref(w->parent);
    pl_node_unref(w->link);
    *w = (struct walk){.node = next, .parent = w->node, .name = name, .moved = true};
    return 0;
}

/* 9P2000 knows no symlinks: its users see what they lead to, as u9fs shows it. One that leads
 * nowhere stays what it is, so that it can be seen and removed. */
static void see_through(struct p9d_op *op, struct walk *w, struct pl_attr *attr)
{
    struct pl_node *to;
    struct pl_attr to_attr;
    if (p9d_dialect(op) != P9_BASE || !S_ISLNK(w->node->fmt) || !w->parent ||
        p9d_follow(op, w->parent, w->node, &to, &to_attr) < 0)
        return;
    w->link = w->node;
    w->node = to;
    *attr = to_attr;
}

/* The fid of where the walk ended becomes what the op made. */
static int make_fid(struct p9d_op *op, const struct walk *w)
{
    op->made = w->moved ? p9d_fid_new(op->session, op->fid->at, w->node, w->parent, w->name)
                        : p9d_fid_clone(op->fid);
    if (op->made && w->link)
        op->made->link = pl_node_ref(w->link);
    return op->made ? 0 : -ENOMEM;
}

/* ---- symlinks, followed for those who know none ---- */

enum { LINKS_MAX = 40 /* as Linux follows at most */ };

/* The target of `link` and what was still to be walked behind it. */
static int expand(struct p9d_op *op, struct pl_node *link, const char *rest, char **path)
{
    size_t n = strlen(rest);
    char *more = n > PL_PATH_MAX ? NULL : malloc(PL_PATH_MAX + 1 + n + 1);
    if (!more)
        return n > PL_PATH_MAX ? -ENAMETOOLONG : -ENOMEM;
    int r = pl_readlink(op->fid->at->tree, op->call, link, more, PL_PATH_MAX);
    if (r < 0) {
        free(more);
        return r;
    }
    sprintf(more + r, "/%s", rest);
    free(*path);
    *path = more;
    return 0;
}

static void go_to_root(struct p9d_op *op, struct walk *w)
{
    struct pl_node *root = pl_node_ref(op->fid->at->root);
    walk_end(w);
    *w = (struct walk){.node = root};
}

int p9d_follow(struct p9d_op *op, struct pl_node *dir, struct pl_node *link, struct pl_node **ret,
               struct pl_attr *attr)
{
    struct walk w = {.node = pl_node_ref(dir)};
    char *path = NULL;
    int r = expand(op, link, "", &path);
    int links = 1;
    if (r == 0 && *path == '/') /* the root is what is attached, as for u9fs */
        go_to_root(op, &w);
    for (char *p = path, *name; r == 0 && *(name = p + strspn(p, "/"));) {
        char step_name[LIMIT_NAME + 1];
        size_t n = strcspn(name, "/");
        if (n > LIMIT_NAME) {
            r = -ENAMETOOLONG;
            break;
        }
        memcpy(step_name, name, n);
        step_name[n] = 0;
        p = name + n;
        struct pl_node *from = pl_node_ref(w.node);
        r = step(op, &w, step_name, attr);
        if (r == 0 && S_ISLNK(w.node->fmt)) {
            r = ++links > LINKS_MAX ? -ELOOP : expand(op, w.node, p, &path);
            p = path;
            walk_end(&w);
            w = (struct walk){.node = pl_node_ref(from)};
            if (r == 0 && *p == '/')
                go_to_root(op, &w);
        }
        pl_node_unref(from);
    }
    free(path);
    if (r == 0)
        r = pl_getattr(op->fid->at->tree, op->call, w.node, NULL, attr);
    if (r == 0)
        *ret = pl_node_ref(w.node);
    walk_end(&w);
    return r;
}

int p9d_walk(struct p9d_op *op)
{
    const struct p9_msg *in = op->in;
    struct walk w = {.node = pl_node_ref(op->fid->node)};
    struct pl_attr attr;
    int r = p9d_xattr(op->fid) ? -EBADF : 0;
    uint16_t i = 0;
    for (; r == 0 && i < in->nwname; i++) {
        r = step(op, &w, in->wname[i].len ? in->wname[i].s : "", &attr);
        if (r < 0)
            break;
        see_through(op, &w, &attr);
        op->out->wqid[i] = p9d_qid(&attr);
        if (p9d_dialect(op) == P9_BASE)
            op->out->wqid[i].type &= (uint8_t)~P9_QTSYMLINK;
    }
    op->out->nwqid = i;
    if (r == 0)
        r = make_fid(op, &w);
    else if (i > 0)
        r = 0; /* a later name: the qids so far, and no fid */
    walk_end(&w);
    return r;
}

int p9d_lookup(struct p9d_op *op)
{
    struct walk w = {.node = pl_node_ref(op->fid->node)};
    struct pl_attr attr;
    int r = p9d_dir_ok(op->fid);
    if (r == 0)
        r = step(op, &w, op->in->name.len ? op->in->name.s : "", &attr);
    if (r == 0) {
        p9d_fill_attr(&op->out->attr, &attr);
        p9d_say_xattrs(op, w.node, &op->out->attr);
        if (op->in->newfid != P9_NOFID)
            r = make_fid(op, &w);
    }
    walk_end(&w);
    return r;
}

/* ---- attributes ---- */

int p9d_getattr(struct p9d_op *op)
{
    struct pl_attr attr;
    struct p9d_fid *fid = op->fid;
    if (p9d_xattr(fid))
        return -EBADF;
    int r = pl_getattr(fid->at->tree, op->call, fid->node, p9d_file(fid), &attr);
    if (r == 0)
        p9d_fill_attr(&op->out->attr, &attr);
    if (r == 0 && (op->in->mask & P9_GETATTR_NO_XATTR))
        p9d_say_xattrs(op, fid->node, &op->out->attr);
    return r;
}

static int get_time(struct timespec *ret, uint64_t sec, uint64_t nsec)
{
    if (nsec >= 1000000000)
        return -EINVAL; /* or it might pass for UTIME_NOW */
    *ret = (struct timespec){(time_t)sec, (long)nsec};
    return 0;
}

static int get_setattr(const struct p9_setattr *in, struct pl_setattr *set)
{
    uint32_t v = in->valid;
    int r = 0;
    *set = (struct pl_setattr){
        .mode = in->mode & 07777, .uid = in->uid, .gid = in->gid, .size = in->size};
    if (v & ~(uint32_t)0x1ff)
        return -EINVAL;
    if (v & P9_SETATTR_MODE)
        set->valid |= PL_SET_MODE;
    if (v & P9_SETATTR_UID)
        set->valid |= PL_SET_UID;
    if (v & P9_SETATTR_GID)
        set->valid |= PL_SET_GID;
    if (v & P9_SETATTR_SIZE)
        set->valid |= PL_SET_SIZE;
    if (v & P9_SETATTR_CTIME) {
        set->valid |= PL_SET_CTIME;
        clock_gettime(CLOCK_REALTIME, &set->ctime);
    }
    if (v & P9_SETATTR_ATIME)
        set->valid |= v & P9_SETATTR_ATIME_SET ? PL_SET_ATIME : PL_SET_ATIME_NOW;
    if (v & P9_SETATTR_MTIME)
        set->valid |= v & P9_SETATTR_MTIME_SET ? PL_SET_MTIME : PL_SET_MTIME_NOW;
    if (set->valid & PL_SET_ATIME)
        r = get_time(&set->atime, in->atime_sec, in->atime_nsec);
    if (r == 0 && (set->valid & PL_SET_MTIME))
        r = get_time(&set->mtime, in->mtime_sec, in->mtime_nsec);
    return r;
}

/* Is that a truncation, with no more than comes of it: the times, and the mode without set-id bits?
 */
static bool only_truncates(const struct pl_setattr *set, uint32_t implied, uint32_t mode)
{
    return (set->valid & PL_SET_SIZE) && !(set->valid & ~(implied | PL_SET_SIZE)) &&
           (!(set->valid & PL_SET_MODE) || set->mode == (mode & 07777) ||
            set->mode == (mode & 01777) || set->mode == (mode & 03777));
}

int p9d_set_attr(struct p9d_op *op, struct pl_setattr *set, uint32_t implied)
{
    struct p9d_fid *fid = op->fid;
    struct pl_attr attr, now;
    /* A file that is open for reading is no help in truncating it, and need not stand in the way:
     * Linux sends truncate(2) on whatever fid it has. */
    struct pl_file *file = p9d_file(fid);
    if (file && (set->valid & PL_SET_SIZE) && (file->flags & O_ACCMODE) == O_RDONLY)
        file = NULL;
    int r = pl_setattr(fid->at->tree, op->call, fid->node, file, set, &attr);
    /* Who may write to it but does not own it may truncate it, and set nothing of that. */
    if (r != -EPERM || pl_getattr(fid->at->tree, op->call, fid->node, file, &now) < 0 ||
        !only_truncates(set, implied, now.mode))
        return r;
    set->valid = PL_SET_SIZE;
    return pl_setattr(fid->at->tree, op->call, fid->node, file, set, &attr);
}

int p9d_setattr(struct p9d_op *op)
{
    struct pl_setattr set;
    if (p9d_xattr(op->fid))
        return -EBADF;
    int r = get_setattr(&op->in->set, &set);
    return r < 0 ? r : p9d_set_attr(op, &set, PL_SET_MTIME_NOW | PL_SET_CTIME | PL_SET_MODE);
}

int p9d_readlink(struct p9d_op *op)
{
    char *target = p9_req_alloc(op->req, PL_PATH_MAX + 1);
    if (!target)
        return -ENOMEM;
    if (p9d_xattr(op->fid))
        return -EBADF;
    int n = pl_readlink(op->fid->at->tree, op->call, op->fid->node, target, PL_PATH_MAX);
    if (n < 0)
        return n;
    op->out->target = (struct p9_str){(uint16_t)n, target};
    return 0;
}

int p9d_statfs(struct p9d_op *op)
{
    struct statfs st;
    if (p9d_xattr(op->fid))
        return -EBADF;
    int r = pl_statfs(op->fid->at->tree, op->call, op->fid->node, &st);
    if (r < 0)
        return r;
    uint64_t fsid = 0;
    memcpy(&fsid, &st.f_fsid, sizeof(fsid) < sizeof(st.f_fsid) ? sizeof(fsid) : sizeof(st.f_fsid));
    op->out->statfs = (struct p9_statfs){
        .type = (uint32_t)st.f_type,
        .bsize = (uint32_t)st.f_bsize,
        .blocks = st.f_blocks,
        .bfree = st.f_bfree,
        .bavail = st.f_bavail,
        .files = st.f_files,
        .ffree = st.f_ffree,
        .fsid = fsid,
        .namelen = (uint32_t)st.f_namelen,
    };
    return 0;
}
