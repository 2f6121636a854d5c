/* SPDX-License-Identifier: MIT */
/*
 * The 9P source where the peer speaks 9P2000 or 9P2000.u: attributes by Tstat and Twstat, making by
 * Tcreate. What these cannot say is refused as Linux's file systems that cannot keep it do: -EPERM
 * for symlinks, links, devices and owners, -EXDEV for a rename to another directory, -EOPNOTSUPP
 * for extended attributes and the rest.
 */
#include "sources/p9_again.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>

enum { NOBODY = 65534 };

/* ---- attributes ---- */

static uint32_t mode_of(const struct p9s_tree *t, const struct p9_stat *st)
{
    uint32_t mode = st->mode & 0777;
    if (st->mode & P9_DMDIR)
        mode |= S_IFDIR;
    if (t->dialect == P9_BASE)
        return mode & S_IFMT ? mode : mode | S_IFREG;
    mode |= (st->mode & P9_DMSETUID ? S_ISUID : 0) | (st->mode & P9_DMSETGID ? S_ISGID : 0) |
            (st->mode & P9_DMSETVTX ? S_ISVTX : 0);
    if (mode & S_IFMT)
        return mode;
    if (st->mode & P9_DMSYMLINK)
        return mode | S_IFLNK;
    if (st->mode & P9_DMNAMEDPIPE)
        return mode | S_IFIFO;
    if (st->mode & P9_DMSOCKET)
        return mode | S_IFSOCK;
    if (st->mode & P9_DMDEVICE)
        return mode | (st->extension.len && *st->extension.s == 'b' ? S_IFBLK : S_IFCHR);
    return mode | S_IFREG;
}

static uint32_t id_of(struct p9s_tree *t, bool group, const struct p9_str *name, uint32_t number)
{
    uint32_t id;
    if (number != P9_NONUNAME)
        return number;
    return name->len && people_number(t->people, group, name->s, &id) == 0 ? id : NOBODY;
}

static void attr_of(struct p9s_tree *t, const struct p9_stat *st, struct p9_attr *out)
{
    unsigned links, major, minor;
    *out = (struct p9_attr){
        .valid = P9_GETATTR_MODE | P9_GETATTR_UID | P9_GETATTR_GID | P9_GETATTR_ATIME |
                 P9_GETATTR_MTIME | P9_GETATTR_CTIME | P9_GETATTR_INO | P9_GETATTR_SIZE,
        .qid = st->qid,
        .mode = mode_of(t, st),
        .uid = id_of(t, false, &st->uid, st->n_uid),
        .gid = id_of(t, true, &st->gid, st->n_gid),
        .size = st->length,
        .atime_sec = st->atime,
        .mtime_sec = st->mtime,
        .ctime_sec = st->mtime,
    };
    if (!st->extension.len)
        return;
    if (sscanf(st->extension.s, "HARDLINKCOUNT %u", &links) == 1) {
        out->valid |= P9_GETATTR_NLINK;
        out->nlink = links;
    } else if ((S_ISCHR(out->mode) || S_ISBLK(out->mode)) &&
               sscanf(st->extension.s, "%*c %u %u", &major, &minor) == 2) {
        out->rdev = makedev(major, minor);
    }
    if (S_ISLNK(out->mode))
        out->size = st->extension.len;
}

struct p9_msg p9s_attr_msg(const struct p9s_tree *t, uint32_t fid)
{
    if (t->dialect != P9_L)
        return (struct p9_msg){.type = P9_Tstat, .fid = fid};
    return (struct p9_msg){.type = P9_Tgetattr, .fid = fid, .mask = P9_GETATTR_ALL};
}

void p9s_attr_told(struct p9s_tree *t, const struct p9_msg *answer, struct p9_attr *ret)
{
    if (t->dialect != P9_L)
        attr_of(t, &answer->stat, ret);
    else
        *ret = answer->attr;
}

int p9s_ask_attr(struct p9s_tree *t, struct pl_call *call, uint32_t fid, struct p9_attr *ret)
{
    struct p9_msg m = p9s_attr_msg(t, fid);
    struct p9_answer a;
    int r = p9s_ask(t, call, &m, &a);
    if (r == 0)
        p9s_attr_told(t, &a.r, ret);
    p9_answer_free(&a);
    return r;
}

int p9s_old_readlink(struct pl_tree *tree, struct pl_call *call, struct pl_node *node, char *buf,
                     size_t size)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9_msg m = {.type = P9_Tstat, .fid = ((struct p9s_node *)node)->first.fid};
    struct p9_answer a;
    int r = p9s_stale(t, (struct p9s_node *)node, p9s_ask(t, call, &m, &a));
    if (r == 0) {
        size_t n = a.r.stat.extension.len < size ? a.r.stat.extension.len : size;
        if (n)
            memcpy(buf, a.r.stat.extension.s, n);
        r = n ? (int)n : -EIO;
    }
    p9_answer_free(&a);
    return r;
}

/* ---- changing them ---- */

static uint32_t dm_of_bits(uint32_t mode)
{
    return (mode & S_ISUID ? P9_DMSETUID : 0) | (mode & S_ISGID ? P9_DMSETGID : 0) |
           (mode & S_ISVTX ? P9_DMSETVTX : 0);
}

/* The mode as a whole is set: what it has besides permissions stays. */
static int set_mode(struct p9s_tree *t, const struct p9_stat *now, uint32_t mode,
                    struct p9_stat *st)
{
    const uint32_t bits = P9_DMSETUID | P9_DMSETGID | P9_DMSETVTX;
    if (t->dialect == P9_BASE && (mode & 07000))
        return -EPERM;
    st->mode = (now->mode & ~0777u) | (mode & 0777);
    if (t->dialect == P9_U)
        st->mode = (st->mode & ~bits) | dm_of_bits(mode);
    return 0;
}

/* 9P2000 can give a file to another group, by name, and to no other user. */
static int set_owner(struct p9s_tree *t, const struct p9_stat *now, const struct pl_setattr *set,
                     char group[PEOPLE_NAME], struct p9_stat *st)
{
    if (t->dialect == P9_U) {
        st->n_uid = set->valid & PL_SET_UID ? set->uid : st->n_uid;
        st->n_gid = set->valid & PL_SET_GID ? set->gid : st->n_gid;
        return 0;
    }
    if ((set->valid & PL_SET_UID) && set->uid != id_of(t, false, &now->uid, P9_NONUNAME))
        return -EPERM;
    if ((set->valid & PL_SET_GID) && set->gid != id_of(t, true, &now->gid, P9_NONUNAME)) {
        people_name(t->people, true, set->gid, group);
        st->gid = p9_str(group);
    }
    return 0;
}

/* What seconds after 1970 can say; ~0 is none. */
static uint32_t clamped(time_t sec)
{
    return sec < 0 ? 0 : sec >= UINT32_MAX ? UINT32_MAX - 1 : (uint32_t)sec;
}

static void set_rest(const struct pl_setattr *set, struct p9_stat *st)
{
    if (set->valid & PL_SET_SIZE)
        st->length = set->size;
    if (set->valid & (PL_SET_ATIME | PL_SET_ATIME_NOW))
        st->atime = clamped(set->valid & PL_SET_ATIME ? set->atime.tv_sec : time(NULL));
    if (set->valid & (PL_SET_MTIME | PL_SET_MTIME_NOW))
        st->mtime = clamped(set->valid & PL_SET_MTIME ? set->mtime.tv_sec : time(NULL));
}

static int wstat(struct p9s_tree *t, struct pl_call *call, uint32_t fid, const struct p9_stat *st)
{
    struct p9_msg m = {.type = P9_Twstat, .fid = fid, .stat = *st};
    return p9s_tell(t, call, &m);
}

int p9s_old_set(struct p9s_tree *t, struct pl_call *call, uint32_t fid,
                const struct pl_setattr *set)
{
    struct p9_stat st = P9_STAT_SAME;
    struct p9_msg m = {.type = P9_Tstat, .fid = fid};
    struct p9_answer a = {0};
    char group[PEOPLE_NAME];
    int r = 0;
    if (set->valid & (PL_SET_MODE | PL_SET_UID | PL_SET_GID))
        r = p9s_ask(t, call, &m, &a);
    if (r == 0 && (set->valid & PL_SET_MODE))
        r = set_mode(t, &a.r.stat, set->mode, &st);
    if (r == 0 && (set->valid & (PL_SET_UID | PL_SET_GID)))
        r = set_owner(t, &a.r.stat, set, group, &st);
    set_rest(set, &st);
    bool any = st.mode != UINT32_MAX || st.atime != UINT32_MAX || st.mtime != UINT32_MAX ||
               st.length != UINT64_MAX || st.gid.len || st.n_uid != UINT32_MAX ||
               st.n_gid != UINT32_MAX;
    if (r == 0 && any)
        r = wstat(t, call, fid, &st);
    p9_answer_free(&a);
    return r;
}

struct p9_msg p9s_rename_msg(uint32_t fid, const struct p9_str *name)
{
    struct p9_msg m = {.type = P9_Twstat, .fid = fid, .stat = P9_STAT_SAME};
    m.stat.name = *name;
    return m;
}

int p9s_old_fsync(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, bool data_only)
{
    return wstat(p9s_of(tree), call, ((struct p9s_file *)file)->fid, &P9_STAT_SAME);
}

/* ---- making ---- */

struct p9_msg p9s_open_msg(const struct p9s_tree *t, uint32_t fid, int flags)
{
    if (t->dialect == P9_L)
        return (struct p9_msg){.type = P9_Tlopen, .fid = fid, .flags = p9s_wire_flags(flags)};
    uint8_t m = (uint8_t)(flags & O_ACCMODE);
    if (flags & O_TRUNC)
        m |= P9_OTRUNC;
    if ((flags & O_APPEND) && t->dialect == P9_U)
        m |= P9_OAPPEND;
    return (struct p9_msg){.type = P9_Topen, .fid = fid, .omode = m};
}

struct p9_msg p9s_create_msg(const struct p9s_tree *t, uint32_t fid, const char *name, int flags,
                             uint32_t mode)
{
    struct p9_msg m = p9s_open_msg(t, fid, flags & ~O_TRUNC);
    m.type = P9_Tcreate;
    m.name = p9_str(name);
    m.mode = (mode & 0777) | (t->dialect == P9_U ? dm_of_bits(mode) : 0);
    return m;
}

int p9s_old_there(struct p9s_tree *t, struct pl_call *call, struct pl_node *dir, const char *name)
{
    struct pl_node *node;
    struct pl_attr attr;
    int r = p9s_lookup(&t->tree, call, dir, name, &node, &attr);
    if (r == 0)
        pl_node_unref(node);
    return r == 0 ? -EEXIST : r == -ENOENT ? 0 : r;
}

/* Tcreate makes of a fid of the directory one of what is made, which nobody needs. That there is
 * nothing of the name is seen first: not every server does. */
static int make(struct p9s_tree *t, struct pl_call *call, struct pl_node *dir, struct p9_msg *m)
{
    uint32_t dfid;
    int r = p9s_old_there(t, call, dir, m->name.s);
    if (r == 0)
        r = p9s_my_fid(t, call, dir, &dfid);
    if (r == 0)
        r = p9s_new_fid(t, &m->fid);
    if (r < 0)
        return r;
    struct p9_msg walk = p9s_walk_msg(dfid, m->fid, NULL);
    r = p9s_tell(t, call, &walk);
    if (r < 0) {
        p9s_drop_fid(t, m->fid, r);
        return r;
    }
    r = p9s_tell(t, call, m);
    p9s_clunk(t, m->fid);
    return r;
}

/* What says the kind of a special file; -EPERM where there are none. */
static int special(const struct p9s_tree *t, const struct pl_make *what, char ext[64],
                   struct p9_msg *m)
{
    if (t->dialect == P9_BASE)
        return -EPERM;
    switch (what->mode & S_IFMT) {
    case S_IFLNK:
        m->mode = P9_DMSYMLINK | 0777;
        m->extension = p9_str(what->target);
        return 0;
    case S_IFIFO:
        m->mode |= P9_DMNAMEDPIPE;
        return 0;
    case S_IFSOCK:
        m->mode |= P9_DMSOCKET;
        return 0;
    default:
        snprintf(ext, 64, "%c %u %u", S_ISBLK(what->mode) ? 'b' : 'c', what->rdev_major,
                 what->rdev_minor);
        m->mode |= P9_DMDEVICE;
        m->extension = p9_str(ext);
        return 0;
    }
}

int p9s_old_make(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir, const char *name,
                 const struct pl_make *what, struct pl_node **ret, struct pl_attr *attr)
{
    struct p9s_tree *t = p9s_of(tree);
    char ext[64];
    uint32_t mode;
    int r = p9s_mode(t, call, dir, what->mode, &mode);
    if (r < 0)
        return r;
    struct p9_msg m = p9s_create_msg(t, P9_NOFID, name, O_RDONLY, mode);
    if (S_ISDIR(what->mode))
        m.mode |= P9_DMDIR;
    else if (!S_ISREG(what->mode))
        r = special(t, what, ext, &m);
    if (r == 0)
        r = make(t, call, dir, &m);
    return r < 0 ? r : p9s_lookup(tree, call, dir, name, ret, attr);
}

int p9s_old_link(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                 struct pl_node *dir, const char *name, struct pl_attr *attr)
{
    struct p9s_tree *t = p9s_of(tree);
    char ext[16];
    uint32_t fid;
    if (t->dialect == P9_BASE)
        return -EPERM;
    int r = p9s_my_fid(t, call, node, &fid);
    if (r < 0)
        return r;
    snprintf(ext, sizeof(ext), "%u", fid);
    struct p9_msg m = {.type = P9_Tcreate,
                       .name = p9_str(name),
                       .mode = P9_DMLINK,
                       .extension = p9_str(ext),
                       .fid2 = fid};
    r = make(t, call, dir, &m);
    return r < 0 ? r : p9s_getattr_fid(t, call, (struct p9s_node *)node, fid, attr);
}

/* ---- bytes ---- */

static void wake(void *arg)
{
    struct p9s_tree *t = arg;
    pthread_mutex_lock(&t->mutex);
    pthread_cond_broadcast(&t->appended);
    pthread_mutex_unlock(&t->mutex);
}

/* An appending write: the dialects have no word for it that all servers know, so the end is asked
 * for. Ours do not overwrite one another's: one at a time. */
int p9s_append_begin(struct p9s_tree *t, struct pl_call *call, struct pl_file *file, uint64_t *off)
{
    struct pl_attr attr;
    int r = pl_call_block(call, wake, t);
    if (r < 0)
        return r;
    pthread_mutex_lock(&t->mutex);
    while (t->appending && !(r = pl_call_over(call)))
        pl_call_wait(call, &t->appended, &t->mutex);
    if (r == 0)
        t->appending = true;
    pthread_mutex_unlock(&t->mutex);
    pl_call_unblock(call);
    if (r < 0)
        return r;
    r = p9s_getattr(&t->tree, call, file->node, file, &attr);
    if (r == 0)
        *off = attr.size;
    else
        p9s_append_end(t);
    return r;
}

void p9s_append_end(struct p9s_tree *t)
{
    pthread_mutex_lock(&t->mutex);
    t->appending = false;
    pthread_cond_broadcast(&t->appended);
    pthread_mutex_unlock(&t->mutex);
}
