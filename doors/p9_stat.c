/* SPDX-License-Identifier: MIT */
/*
 * Tstat and Twstat, as stat(5) has them: names instead of numbers, whole seconds, and changes that
 * happen all or not at all. In 9P2000.u numbers go along, and types that Plan 9 has not.
 */
#include "doors/p9_door.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* ---- stat ---- */

static uint32_t dm_of(const struct p9d_op *op, const struct pl_attr *a)
{
    uint32_t dm = (a->mode & 0777) | (S_ISDIR(a->mode) ? P9_DMDIR : 0);
    if (p9d_dialect(op) == P9_BASE)
        return S_ISLNK(a->mode) ? 0 : dm; /* one that leads nowhere */
    return dm | (S_ISLNK(a->mode) ? P9_DMSYMLINK : 0) |
           (S_ISCHR(a->mode) || S_ISBLK(a->mode) ? P9_DMDEVICE : 0) |
           (S_ISFIFO(a->mode) ? P9_DMNAMEDPIPE : 0) | (S_ISSOCK(a->mode) ? P9_DMSOCKET : 0) |
           (a->mode & S_ISUID ? P9_DMSETUID : 0) | (a->mode & S_ISGID ? P9_DMSETGID : 0) |
           (a->mode & S_ISVTX ? P9_DMSETVTX : 0);
}

/* What 9P2000.u says beyond the fixed fields. Linux takes the link count from there. */
static int extension(struct p9d_op *op, struct pl_node *node, const struct pl_attr *a,
                     char buf[PL_PATH_MAX + 1])
{
    *buf = 0;
    if (S_ISLNK(a->mode) && node) {
        int n = pl_readlink(op->fid->at->tree, op->call, node, buf, PL_PATH_MAX);
        buf[n > 0 ? n : 0] = 0;
        return n < 0 ? n : 0;
    }
    if (S_ISCHR(a->mode) || S_ISBLK(a->mode))
        snprintf(buf, PL_PATH_MAX, "%c %u %u", S_ISCHR(a->mode) ? 'c' : 'b', a->rdev_major,
                 a->rdev_minor);
    else if (!S_ISLNK(a->mode) && a->nlink != 1)
        snprintf(buf, PL_PATH_MAX, "HARDLINKCOUNT %u", (uint32_t)a->nlink);
    return 0;
}

static uint32_t seconds(const struct timespec *t)
{
    return t->tv_sec < 0 ? 0 : t->tv_sec >= UINT32_MAX ? UINT32_MAX - 1 : (uint32_t)t->tv_sec;
}

int p9d_fill_stat(struct p9d_op *op, struct pl_node *node, const struct pl_attr *a,
                  const char *name, struct p9d_stat_text *text, struct p9_stat *out)
{
    struct p9_door *door = op->session->door;
    bool u = p9d_dialect(op) == P9_U;
    uint32_t special = node ? p9d_special(door, node) : 0;
    people_name(door->people, false, a->uid, text->uid);
    people_name(door->people, true, a->gid, text->gid);
    *out = (struct p9_stat){
        .qid = p9d_qid(a),
        .mode = dm_of(op, a) | special,
        .atime = seconds(&a->atime),
        .mtime = seconds(&a->mtime),
        .length = S_ISREG(a->mode) || (u && S_ISLNK(a->mode)) ? a->size : 0,
        .name = p9_str(name),
        .uid = p9_str(text->uid),
        .gid = p9_str(text->gid),
        .n_uid = a->uid,
        .n_gid = a->gid,
        .n_muid = P9_NONUNAME, /* who changed it last is not known */
    };
    out->qid.type |= (uint8_t)(special >> 24);
    if (!u) {
        out->qid.type &= (uint8_t)~P9_QTSYMLINK;
        return 0;
    }
    int r = extension(op, node, a, text->extension);
    out->extension = p9_str(text->extension);
    return r;
}

/* The name by which the fid is known; "/" for the root. */
static int name_of(struct p9d_op *op, char name[LIMIT_NAME + 1])
{
    struct p9d_fid *fid = op->fid;
    struct pl_node *parent = NULL;
    pthread_mutex_lock(&fid->session->mutex);
    bool known = fid->name != NULL;
    if (known)
        strcpy(name, fid->name);
    pthread_mutex_unlock(&fid->session->mutex);
    if (known)
        return 0;
    strcpy(name, "/");
    int r = p9d_find_name(op->call, fid, &parent, name);
    pl_node_unref(parent);
    return r == -EBUSY ? 0 : r;
}

int p9d_stat(struct p9d_op *op)
{
    struct p9d_fid *fid = op->fid;
    struct p9d_stat_text *text = p9_req_alloc(op->req, sizeof(*text));
    struct pl_attr attr;
    if (!text)
        return -ENOMEM;
    int r = pl_getattr(fid->at->tree, op->call, fid->node, p9d_file(fid), &attr);
    if (r == 0)
        r = name_of(op, text->name);
    return r < 0 ? r : p9d_fill_stat(op, fid->node, &attr, text->name, text, &op->out->stat);
}

/* ---- wstat ---- */

/* What a Twstat asks for. */
struct change {
    struct pl_setattr set;
    bool special; /* append-only and exclusive change: to dm */
    uint32_t dm;
    const char *name; /* or NULL */
};

static bool unchanged(const struct p9_stat *s)
{
    const struct p9_stat same = P9_STAT_SAME;
    return s->type == same.type && s->dev == same.dev && s->qid.type == same.qid.type &&
           s->qid.version == same.qid.version && s->qid.path == same.qid.path &&
           s->mode == same.mode && s->atime == same.atime && s->mtime == same.mtime &&
           s->length == same.length && !s->name.len && !s->uid.len && !s->gid.len && !s->muid.len &&
           s->n_uid == same.n_uid && s->n_gid == same.n_gid && s->n_muid == same.n_muid;
}

/* The commit of a file: what a Twstat that changes nothing asks for. */
static int commit(struct p9d_op *op)
{
    struct p9d_fid *fid = op->fid;
    struct pl_file *file = p9d_file(fid);
    struct pl_tree *tree = fid->at->tree;
    if (file)
        return pl_fsync(tree, op->call, file, false);
    if (!S_ISREG(fid->node->fmt) && !S_ISDIR(fid->node->fmt))
        return 0;
    int r = pl_open(tree, op->call, fid->node,
                    S_ISDIR(fid->node->fmt) ? O_RDONLY | O_DIRECTORY : O_RDONLY, &file);
    if (r < 0) /* whoever wrote it may have it committed; this one may not even read it */
        return r == -EACCES ? 0 : r;
    r = pl_fsync(tree, op->call, file, false);
    pl_close(tree, op->call, file);
    return r;
}

/* What no Twstat can change may be given as it is: some clients send a stat back whole. Who changed
 * the file last is nobody's to say, but Linux's client says it in each rename: it is not looked at.
 */
static int check_fixed(const struct p9_stat *in, const struct pl_attr *now)
{
    struct p9_qid q = p9d_qid(now);
    bool ok = (in->type == UINT16_MAX || in->type == 0) && (in->dev == UINT32_MAX || in->dev == 0);
    if (in->qid.path != UINT64_MAX || in->qid.type != UINT8_MAX || in->qid.version != UINT32_MAX)
        ok = ok && in->qid.path == q.path && !(in->qid.type & P9_QTDIR) == !(q.type & P9_QTDIR);
    return ok ? 0 : -EPERM;
}

static int want_mode(struct p9d_op *op, const struct pl_attr *now, struct change *ch)
{
    const struct p9_stat *in = &op->in->stat;
    const uint32_t keep = P9_DMAPPEND | P9_DMEXCL;
    uint32_t old = p9d_special(op->session->door, op->fid->node), dm = dm_of(op, now);
    if (in->mode == UINT32_MAX)
        return 0;
    if ((in->mode ^ dm) & P9_DMDIR)
        return -EPERM;
    uint32_t mode = in->mode & 0777;
    if (p9d_dialect(op) == P9_U)
        mode |= (in->mode & P9_DMSETUID ? S_ISUID : 0) | (in->mode & P9_DMSETGID ? S_ISGID : 0) |
                (in->mode & P9_DMSETVTX ? S_ISVTX : 0);
    else
        mode |= now->mode & 07000; /* which it does not know */
    ch->dm = in->mode & keep;
    ch->special = ch->dm != (old & keep);
    if (ch->special && !S_ISREG(now->mode))
        return -EPERM;
    ch->set.valid |= PL_SET_MODE;
    ch->set.mode = mode;
    return 0;
}

/* -EINVAL: nobody of that name. */
static int want_owner(struct p9d_op *op, const struct pl_attr *now, struct change *ch)
{
    const struct p9_stat *in = &op->in->stat;
    struct people *people = op->session->door->people;
    uint32_t uid = in->n_uid, gid = in->n_gid;
    if (uid == UINT32_MAX && in->uid.len && people_number(people, false, in->uid.s, &uid) < 0)
        return -EINVAL;
    if (gid == UINT32_MAX && in->gid.len && people_number(people, true, in->gid.s, &gid) < 0)
        return -EINVAL;
    if (in->n_uid == UINT32_MAX && uid == now->uid) /* a name that is given back as it was */
        uid = UINT32_MAX;
    if (in->n_gid == UINT32_MAX && gid == now->gid)
        gid = UINT32_MAX;
    if (uid != UINT32_MAX) {
        if (p9d_dialect(op) == P9_BASE)
            return -EPERM; /* stat(5): it cannot be changed */
        ch->set.valid |= PL_SET_UID;
        ch->set.uid = uid;
    }
    if (gid != UINT32_MAX) {
        ch->set.valid |= PL_SET_GID;
        ch->set.gid = gid;
    }
    return 0;
}

static int want_rest(struct p9d_op *op, const struct pl_attr *now, struct change *ch)
{
    const struct p9_stat *in = &op->in->stat;
    if (in->length != UINT64_MAX && !(S_ISDIR(now->mode) && in->length == 0)) {
        if (!S_ISREG(now->mode))
            return S_ISDIR(now->mode) ? -EISDIR : -EINVAL;
        ch->set.valid |= PL_SET_SIZE;
        ch->set.size = in->length;
    }
    if (in->atime != UINT32_MAX) {
        ch->set.valid |= PL_SET_ATIME;
        ch->set.atime.tv_sec = in->atime;
    }
    if (in->mtime != UINT32_MAX) {
        ch->set.valid |= PL_SET_MTIME;
        ch->set.mtime.tv_sec = in->mtime;
    }
    return 0;
}

/* By directory and name: where they are known the fid goes along. 9P2000 never puts a file in the
 * place of another; Linux users of 9P2000.u expect rename(2). */
static int rename_to(struct p9d_op *op, struct pl_node *dir, const char *from, const char *to)
{
    struct pl_tree *tree = op->fid->at->tree;
    unsigned flags = p9d_dialect(op) == P9_BASE ? RENAME_NOREPLACE : 0;
    int r = pl_rename(tree, op->call, dir, from, dir, to, flags);
    if (r == -EINVAL && flags) { /* a tree that does not know the flag: look first */
        struct pl_node *there;
        struct pl_attr attr;
        r = pl_lookup(tree, op->call, dir, to, &there, &attr);
        if (r == 0)
            pl_node_unref(there);
        r = r == 0 ? -EEXIST : r == -ENOENT ? pl_rename(tree, op->call, dir, from, dir, to, 0) : r;
    }
    return r;
}

static int change_attr(struct p9d_op *op, struct change *ch)
{
    struct p9d_fid *fid = op->fid;
    uint32_t was = p9d_special(op->session->door, fid->node);
    int r = ch->special ? p9d_special_set(op->session->door, fid->node, ch->dm) : 0;
    if (r < 0 || !ch->set.valid)
        return r;
    r = p9d_set_attr(op, &ch->set, PL_SET_MTIME | PL_SET_MODE);
    if (r < 0 && ch->special)
        p9d_special_set(op->session->door, fid->node, was);
    return r;
}

/* All or nothing: what is asked for in attributes is one op of the tree; the name is changed first,
 * and changed back if they cannot be. */
static int apply(struct p9d_op *op, struct change *ch)
{
    struct p9d_fid *fid = op->fid;
    struct pl_tree *tree = fid->at->tree;
    char old[LIMIT_NAME + 1];
    struct pl_node *dir = NULL, *victim = NULL;
    struct pl_attr attr;
    if (!ch->name)
        return change_attr(op, ch);
    int r = p9d_name_ok(ch->name);
    if (r == 0)
        r = p9d_find_name(op->call, fid, &dir, old);
    if (r < 0)
        return r == -EBUSY ? -EPERM : r;
    bool more = ch->set.valid || ch->special;
    if (!strcmp(old, ch->name)) {
        r = change_attr(op, ch);
    } else if (more && pl_lookup(tree, op->call, dir, ch->name, &victim, &attr) == 0) {
        pl_node_unref(victim); /* what is replaced could not be put back */
        r = -EEXIST;
    } else if ((r = rename_to(op, dir, old, ch->name)) == 0) {
        r = change_attr(op, ch);
        if (r == 0)
            p9d_set_name(fid, dir, ch->name);
        else
            pl_rename(tree, op->call, dir, ch->name, dir, old, 0);
    }
    pl_node_unref(dir);
    return r;
}

int p9d_wstat(struct p9d_op *op)
{
    const struct p9_stat *in = &op->in->stat;
    struct p9d_fid *fid = op->fid;
    struct change ch = {0};
    struct pl_attr now;
    if (unchanged(in))
        return commit(op);
    int r = pl_getattr(fid->at->tree, op->call, fid->node, p9d_file(fid), &now);
    if (r == 0)
        r = check_fixed(in, &now);
    if (r == 0)
        r = want_mode(op, &now, &ch);
    if (r == 0)
        r = want_owner(op, &now, &ch);
    if (r == 0)
        r = want_rest(op, &now, &ch);
    if (r < 0)
        return r;
    if (in->name.len && !(fid->node == fid->at->root && !strcmp(in->name.s, "/")))
        ch.name = in->name.s;
    return apply(op, &ch);
}
