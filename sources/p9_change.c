/* SPDX-License-Identifier: MIT */
/* What changes attributes and the hierarchy, through the 9P source. */
#include "sources/p9_again.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static struct p9_setattr set_out(const struct pl_setattr *set)
{
    static const struct {
        uint32_t here, wire;
    } map[] = {
        {PL_SET_MODE, P9_SETATTR_MODE},
        {PL_SET_UID, P9_SETATTR_UID},
        {PL_SET_GID, P9_SETATTR_GID},
        {PL_SET_SIZE, P9_SETATTR_SIZE},
        {PL_SET_ATIME, P9_SETATTR_ATIME | P9_SETATTR_ATIME_SET},
        {PL_SET_MTIME, P9_SETATTR_MTIME | P9_SETATTR_MTIME_SET},
        {PL_SET_ATIME_NOW, P9_SETATTR_ATIME},
        {PL_SET_MTIME_NOW, P9_SETATTR_MTIME},
        {PL_SET_CTIME, P9_SETATTR_CTIME},
    };
    struct p9_setattr out = {.mode = set->mode & 07777,
                             .uid = set->uid,
                             .gid = set->gid,
                             .size = set->size,
                             .atime_sec = (uint64_t)set->atime.tv_sec,
                             .atime_nsec = (uint64_t)set->atime.tv_nsec,
                             .mtime_sec = (uint64_t)set->mtime.tv_sec,
                             .mtime_nsec = (uint64_t)set->mtime.tv_nsec};
    for (size_t i = 0; i < sizeof(map) / sizeof(*map); i++)
        if (set->valid & map[i].here)
            out.valid |= map[i].wire;
    return out;
}

/* Which fid to change a node through: the caller's own, but for what an open file allows whoever
 * holds it (ftruncate), and where the file has no name any more. */
static int fid_to_set(struct p9s_tree *t, struct pl_call *call, struct pl_node *node,
                      struct p9s_file *file, uint32_t valid, uint32_t *ret)
{
    const struct p9s_user *user;
    int r = p9s_user(t, call, &user);
    if (r < 0)
        return r;
    struct pl_attr
        attr; /* not to change whatever has the file's name now, that is looked at first */
    if (file && (file->user == user || (valid & PL_SET_SIZE)) &&
        !p9s_left_behind(t, call, file, &attr)) {
        *ret = file->fid;
        return 0;
    }
    return p9s_fid(t, call, (struct p9s_node *)node, user, ret);
}

/* One of us sets first what was sent first; another is asked when it has. */
static int set_and_get(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node,
                       struct p9_msg *set, struct pl_attr *attr)
{
    if (!t->ext) {
        int r = p9s_stale(t, node, p9s_tell(t, call, set));
        return r < 0 ? r : p9s_getattr_fid(t, call, node, set->fid, attr);
    }
    struct p9s_batch b = {0};
    struct p9_msg get = {.type = P9_Tgetattr, .fid = set->fid, .mask = P9_GETATTR_ALL};
    p9s_start(t, call, &b, set, NULL, 0);
    p9s_start(t, call, &b, &get, NULL, 0);
    int r = p9s_finish(t, call, &b);
    if (r == 0)
        r = p9s_take_attr(node, &b.a[1].r.attr, attr);
    p9s_batch_free(&b);
    return r;
}

static int old_set_and_get(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node,
                           uint32_t fid, const struct pl_setattr *set, struct pl_attr *attr)
{
    int r = p9s_stale(t, node, p9s_old_set(t, call, fid, set));
    return r < 0 ? r : p9s_getattr_fid(t, call, node, fid, attr);
}

int p9s_setattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                struct pl_file *file, const struct pl_setattr *set, struct pl_attr *attr)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_file *f = (struct p9s_file *)file;
    struct p9_msg m = {.type = P9_Tsetattr, .set = set_out(set)};
    p9s_touch(t, node);
    if (p9s_behind_set(t, call, (struct p9s_node *)node, set, &m.set, attr) == 0)
        return 0;
    int r = fid_to_set(t, call, node, f, set->valid, &m.fid);
    if (r == 0)
        r = p9s_settle(t, call, (struct p9s_node *)node);
    if (r == 0 && t->dialect == P9_L)
        r = set_and_get(t, call, (struct p9s_node *)node, &m, attr);
    else if (r == 0)
        r = old_set_and_get(t, call, (struct p9s_node *)node, m.fid, set, attr);
    p9s_touch(t, node);
    if (r == 0)
        p9s_behind_known(t, (struct p9s_node *)node, attr);
    return r;
}

/* One of us is told the umask. Another is told the mode with the umask applied, unless the
 * directory has a default ACL, which stands in its place. */
int p9s_mode(struct p9s_tree *t, struct pl_call *call, struct pl_node *dir, uint32_t mode,
             uint32_t *ret)
{
    *ret = mode;
    if (t->ext) {
        *ret = mode | (uint32_t)(call->umask & 0777) << P9_UMASK_SHIFT;
        return 0;
    }
    if (call->umask && (t->tree.flags & PL_TREE_POSIX_ACL)) {
        ssize_t n = p9s_getxattr(&t->tree, call, dir, "system.posix_acl_default", NULL, 0);
        if (n >= 0)
            return 0;
        if (n != -ENODATA && n != -EOPNOTSUPP)
            return (int)n;
    }
    *ret = mode & ~(uint32_t)(call->umask & 0777);
    return 0;
}

/* One of us looks for it when it has been made. */
static int make_and_find(struct p9s_tree *t, struct pl_call *call, struct p9s_node *dir,
                         struct p9_msg *make, struct pl_node **ret, struct pl_attr *attr)
{
    struct p9s_batch b = {0};
    struct p9_msg find = {.type = P9_Tlookup, .dfid = make->dfid, .name = make->name};
    const struct p9s_user *user;
    int r = p9s_user(t, call, &user);
    if (r == 0)
        r = p9s_new_fid(t, &find.newfid);
    if (r < 0)
        return r;
    p9s_start(t, call, &b, make, NULL, 0);
    p9s_start(t, call, &b, &find, NULL, 0);
    r = p9s_finish(t, call, &b);
    if (r == 0)
        r = p9s_node(t, user, find.newfid, &b.a[1].r.attr, dir, make->name.s, ret, attr);
    else
        p9s_drop_fid(t, find.newfid, b.r[1]);
    p9s_batch_free(&b);
    return r;
}

/* NFS-Ganesha makes no regular files by Tmknod. */
static int make_file(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir,
                     const char *name, mode_t mode, struct pl_node **ret, struct pl_attr *attr)
{
    struct pl_file *file;
    int flags = O_CREAT | O_EXCL | O_RDONLY;
    int r = pl_create(tree, call, dir, name, flags, mode & 07777, ret, attr, &file);
    if (r == 0)
        pl_close(tree, call, file);
    return r;
}

int p9s_make(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir, const char *name,
             const struct pl_make *make, struct pl_node **ret, struct pl_attr *attr)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9_msg m = {.name = p9_str(name), .gid = call->cred.gid};
    uint32_t mode;
    if (S_ISREG(make->mode) && !t->ext && t->dialect == P9_L)
        return make_file(tree, call, dir, name, make->mode, ret, attr);
    int r = p9s_my_fid(t, call, dir, &m.dfid);
    if (r == 0 && !S_ISLNK(make->mode))
        r = p9s_mode(t, call, dir, make->mode, &mode);
    if (r < 0)
        return r;
    switch (make->mode & S_IFMT) {
    case S_IFDIR:
        m.type = P9_Tmkdir;
        m.mode = mode & ~(uint32_t)S_IFMT;
        break;
    case S_IFLNK:
        m.type = P9_Tsymlink;
        m.target = p9_str(make->target);
        break;
    default:
        m.type = P9_Tmknod;
        m.mode = mode;
        m.major = make->rdev_major;
        m.minor = make->rdev_minor;
    }
    p9s_touch(t, dir);
    if (t->ext) {
        r = make_and_find(t, call, (struct p9s_node *)dir, &m, ret, attr);
        p9s_touch(t, dir);
        return r;
    }
    r = p9s_tell(t, call, &m);
    p9s_touch(t, dir);
    if (r == 0)
        r = p9s_lookup(tree, call, dir, name, ret, attr);
    return r;
}

int p9s_link(struct pl_tree *tree, struct pl_call *call, struct pl_node *node, struct pl_node *dir,
             const char *name, struct pl_attr *attr)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9_msg m = {.type = P9_Tlink, .name = p9_str(name)};
    const struct p9s_user *user;
    int r = p9s_user(t, call, &user);
    if (r == 0)
        r = p9s_fid(t, call, (struct p9s_node *)dir, user, &m.dfid);
    if (r == 0)
        r = p9s_fid(t, call, (struct p9s_node *)node, user, &m.fid);
    if (r == -ESTALE) { /* a file without a name has only the fid of who made it */
        m.fid = ((struct p9s_node *)node)->first.fid;
        r = 0;
    }
    p9s_touch(t, dir);
    p9s_touch(t, node);
    if (r == 0)
        r = p9s_tell(t, call, &m);
    p9s_touch(t, dir);
    p9s_touch(t, node);
    return r < 0 ? r : p9s_getattr_fid(t, call, (struct p9s_node *)node, m.fid, attr);
}

/* For servers without the *at requests: a fid of the named file. */
static int walk_to(struct p9s_tree *t, struct pl_call *call, uint32_t dfid, const char *name,
                   uint32_t *ret, struct p9_qid *qid)
{
    struct p9_answer a;
    int r = p9s_new_fid(t, ret);
    if (r < 0)
        return r;
    struct p9_msg m = p9s_walk_msg(dfid, *ret, name);
    r = p9s_walk(t, call, &m, &a);
    if (r < 0)
        p9s_drop_fid(t, *ret, r);
    else
        *qid = a.r.wqid[0];
    p9_answer_free(&a);
    return r;
}

/* `keep`: as in struct p9s_sent, or NULL. */
static int old_remove(struct p9s_tree *t, struct pl_call *call, uint32_t dfid, const char *name,
                      int flags, struct p9s_node *keep)
{
    struct p9_msg m = {.type = P9_Tremove};
    struct p9s_sent s = {.m = &m, .keep = keep};
    struct p9_answer a;
    struct p9_qid qid;
    int r = walk_to(t, call, dfid, name, &m.fid, &qid);
    if (r < 0)
        return r;
    bool isdir = qid.type & P9_QTDIR;
    if (isdir != !!(flags & AT_REMOVEDIR)) {
        p9s_clunk(t, m.fid);
        return isdir ? -EISDIR : -ENOTDIR;
    }
    r = p9s_ask_into(t, call, &s, &a);
    p9_answer_free(&a);
    /* the fid is gone whatever the answer */
    if (r == -EINTR || r == -ETIMEDOUT)
        p9s_clunk(t, m.fid);
    else
        p9s_put_fid(t, m.fid);
    return r;
}

/* A request that takes a name away. What that stands for may still be wanted, and can be had by
 * this name only: `keep` is there before it goes, and if it has no fid yet a walk that gets it one
 * is sent ahead (p9s_hold). Where things are is noted before they are looked for at another server.
 */
struct moving {
    struct p9s_sent s;
    struct p9s_node *olddir, *newdir;
    const char *oldname, *newname;
    bool exchange;
};

static void moved(struct p9s_tree *t, struct p9s_sent *s, const struct p9_answer *a)
{
    struct moving *mv = (struct moving *)s;
    if (mv->newdir)
        p9s_place_moved(t, mv->olddir, mv->oldname, mv->newdir, mv->newname, mv->exchange);
    else
        p9s_place_gone(t, mv->olddir, mv->oldname);
}

static int move(struct p9s_tree *t, struct pl_call *call, const struct p9s_user *user,
                struct moving *mv)
{
    struct p9_answer a;
    struct p9s_batch ahead = {0};
    struct p9_msg hold;
    struct p9s_node *dir = mv->newdir ? mv->newdir : mv->olddir;
    const char *name = mv->newdir ? mv->newname : mv->oldname;
    mv->s.done = moved;
    mv->s.keep = p9s_place_node(t, dir, name);
    p9s_hold(t, call, &ahead, &hold, dir, mv->newdir ? mv->s.m->newdfid : mv->s.m->dfid, name);
    int r = p9s_ask_into(t, call, &mv->s, &a);
    p9_answer_free(&a);
    if (ahead.n) {
        p9s_finish(t, call, &ahead);
        p9s_held(t, user, &ahead, ahead.n);
        p9s_batch_free(&ahead);
    }
    if (mv->s.keep)
        pl_node_unref(&mv->s.keep->h.node);
    return r;
}

int p9s_remove(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir, const char *name,
               int flags)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9_msg m = {.type = P9_Tunlinkat,
                       .name = p9_str(name),
                       .flags = flags & AT_REMOVEDIR ? P9_AT_REMOVEDIR : 0};
    const struct p9s_user *user;
    int r = p9s_user(t, call, &user);
    if (r == 0)
        r = p9s_fid(t, call, (struct p9s_node *)dir, user, &m.dfid);
    struct moving mv = {.s.m = &m, .olddir = (struct p9s_node *)dir, .oldname = name};
    p9s_touch(t, dir);
    if (r == 0)
        r = move(t, call, user, &mv);
    if (r == -EOPNOTSUPP && !t->ext) {
        struct p9s_node *keep = p9s_place_node(t, mv.olddir, name);
        r = old_remove(t, call, m.dfid, name, flags, keep);
        if (keep)
            pl_node_unref(&keep->h.node);
        if (r == 0)
            moved(t, &mv.s, NULL);
    }
    p9s_touch(t, dir);
    return r;
}

static int old_rename(struct p9s_tree *t, struct pl_call *call, const struct p9_msg *at,
                      struct p9s_node *keep)
{
    struct p9_msg m = {.type = P9_Trename, .dfid = at->newdfid, .name = at->name2};
    struct p9s_sent s = {.m = &m, .keep = keep};
    struct p9_answer a;
    struct p9_qid qid;
    if (t->dialect != P9_L && at->dfid != at->newdfid)
        return -EXDEV; /* Twstat changes the name, and no more */
    int r = walk_to(t, call, at->dfid, at->name.s, &m.fid, &qid);
    if (r < 0)
        return r;
    if (t->dialect != P9_L)
        m = p9s_rename_msg(m.fid, &at->name2);
    r = p9s_ask_into(t, call, &s, &a);
    p9_answer_free(&a);
    p9s_clunk(t, m.fid);
    return r;
}

int p9s_rename(struct pl_tree *tree, struct pl_call *call, struct pl_node *olddir,
               const char *oldname, struct pl_node *newdir, const char *newname, unsigned flags)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9_msg m = {.type = flags ? P9_Trename2 : P9_Trenameat,
                       .name = p9_str(oldname),
                       .name2 = p9_str(newname),
                       .flags = flags};
    if (t->dialect == P9_BASE && flags == RENAME_NOREPLACE)
        flags = 0, m.type = P9_Trenameat; /* it never replaces */
    if (flags && !t->ext)
        return -EINVAL; /* 9P2000.L cannot say it, and doing it in steps would not be it */
    const struct p9s_user *user;
    int r = p9s_user(t, call, &user);
    if (r == 0)
        r = p9s_fid(t, call, (struct p9s_node *)olddir, user, &m.dfid);
    if (r == 0)
        r = p9s_fid(t, call, (struct p9s_node *)newdir, user, &m.newdfid);
    struct moving mv = {.s.m = &m,
                        .olddir = (struct p9s_node *)olddir,
                        .oldname = oldname,
                        .newdir = (struct p9s_node *)newdir,
                        .newname = newname,
                        .exchange = flags & RENAME_EXCHANGE};
    p9s_touch(t, olddir);
    p9s_touch(t, newdir);
    if (r == 0)
        r = move(t, call, user, &mv);
    if (r == -EOPNOTSUPP && !t->ext) {
        struct p9s_node *keep = p9s_place_node(t, mv.newdir, newname);
        r = old_rename(t, call, &m, keep);
        if (keep)
            pl_node_unref(&keep->h.node);
        if (r == 0)
            moved(t, &mv.s, NULL);
    }
    p9s_touch(t, olddir);
    p9s_touch(t, newdir);
    if (r == -EREMOTEIO && t->again) { /* done or not: what it was done to is found again */
        p9s_refresh(t, call, newdir, newname);
        p9s_refresh(t, call, olddir, oldname);
    }
    if (r < 0 || !p9s_renames(t))
        return r;
    p9s_refresh(t, call, newdir, newname);
    if (flags & RENAME_EXCHANGE)
        p9s_refresh(t, call, olddir, oldname);
    return 0;
}
