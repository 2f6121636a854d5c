/* SPDX-License-Identifier: MIT */
/* Nodes of the 9P source: what the peer's objects are here, their fids, and finding them. */
#include "base/futex.h"
#include "sources/p9_again.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

/* ---- attributes ---- */

static struct timespec get_time(uint64_t sec, uint64_t nsec)
{
    return (struct timespec){(time_t)sec, nsec < 1000000000 ? (long)nsec : 0};
}

int p9s_attr(const struct p9_attr *in, struct pl_attr *out)
{
    switch (in->mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFLNK:
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK:
        break;
    default:
        return -EIO;
    }
    if (!(in->valid & P9_GETATTR_MODE) || !S_ISDIR(in->mode) != !(in->qid.type & P9_QTDIR) ||
        in->size > PL_OFF_MAX)
        return -EIO;
    *out = (struct pl_attr){
        .ino = in->qid.path ? in->qid.path : UINT64_MAX,
        .size = in->size,
        .blocks = in->valid & P9_GETATTR_BLOCKS ? in->blocks : (in->size + 511) / 512,
        .nlink = in->valid & P9_GETATTR_NLINK ? in->nlink : 1,
        .mode = in->mode & (S_IFMT | 07777),
        .uid = in->uid,
        .gid = in->gid,
        .rdev_major = major(in->rdev),
        .rdev_minor = minor(in->rdev),
        .blksize = in->blksize >= 512 && in->blksize <= 1 << 24 ? (uint32_t)in->blksize : 4096,
        .atime = get_time(in->atime_sec, in->atime_nsec),
        .mtime = get_time(in->mtime_sec, in->mtime_nsec),
        .ctime = get_time(in->ctime_sec, in->ctime_nsec),
    };
    if (in->valid & P9_GETATTR_BTIME)
        out->btime = get_time(in->btime_sec, in->btime_nsec);
    if (in->valid & P9_GETATTR_DATA_VERSION)
        out->version = in->data_version;
    return 0;
}

static struct pl_id id_of(const struct p9_attr *in)
{
    uint64_t birth = 0;
    if (in->valid & P9_GETATTR_BTIME)
        birth = in->btime_sec * 1000000000u + in->btime_nsec;
    return (struct pl_id){.hi = (uint64_t)(in->mode & S_IFMT) << 48 ^ birth, .lo = in->qid.path};
}

bool p9s_same(const struct p9s_node *node, const struct p9_attr *in)
{
    struct pl_id id = id_of(in);
    return id.hi == node->h.id.hi && id.lo == node->h.id.lo;
}

bool p9s_is(const struct p9s_node *node, const struct p9_qid *qid)
{
    return qid->path == node->h.id.lo && !S_ISDIR(node->h.node.fmt) == !(qid->type & P9_QTDIR);
}

int p9s_take_attr(struct p9s_node *node, const struct p9_attr *in, struct pl_attr *attr)
{
    int r = p9s_is(node, &in->qid) ? p9s_attr(in, attr) : -ESTALE;
    if (r == 0 && (attr->mode & S_IFMT) != node->h.node.fmt)
        r = -ESTALE;
    if (r == 0)
        atomic_store(&node->size, attr->size);
    return r;
}

static int ask_attr(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node, uint32_t fid,
                    struct pl_attr *attr)
{
    struct p9_attr in;
    int r = p9s_settle(t, call, node);
    if (r == 0)
        r = p9s_ask_attr(t, call, fid, &in);
    if (r == 0)
        r = p9s_take_attr(node, &in, attr);
    return r;
}

int p9s_getattr_fid(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node, uint32_t fid,
                    struct pl_attr *attr)
{
    return p9s_stale(t, node, ask_attr(t, call, node, fid, attr));
}

bool p9s_left_behind(struct p9s_tree *t, struct pl_call *call, struct p9s_file *file,
                     struct pl_attr *attr)
{
    if (t->ext)
        return false;
    int r = ask_attr(t, call, (struct p9s_node *)file->file.node, file->fid, attr);
    return r == -ENOENT || r == -ESTALE;
}

/* ---- the nodes and their fids ---- */

int p9s_stale(struct p9s_tree *t, struct p9s_node *node, int r)
{
    if (t->ext || (r != -ENOENT && r != -ESTALE))
        return r;
    atomic_store(&node->stale, true);
    return -ESTALE;
}

struct p9s_fid *p9s_fid_of(struct p9s_node *node, const struct p9s_user *user)
{
    struct p9s_fid *f = &node->first;
    while (f && f->user != user)
        f = f->next;
    return f;
}

/* The fid becomes the user's of this node, unless there is a good one: then it is clunked. One that
 * has gone stale is clunked with the node, for until then somebody may be about to use it. */
static uint32_t keep_fid(struct p9s_tree *t, struct p9s_node *node, const struct p9s_user *user,
                         uint32_t fid)
{
    struct p9s_fid *add = NULL, *f;
    if (node->first.user != user || atomic_load(&node->stale))
        add = malloc(sizeof(*add));
    p9s_rec_node(t, fid, user, node);
    pthread_mutex_lock(&t->mutex);
    f = p9s_fid_of(node, user);
    if (f && atomic_load(&f->fid) == P9_NOFID) {
        atomic_store(&f->fid, fid);
        atomic_fetch_sub(&t->fidless, 1);
    }
    if (add && (!f || atomic_load(&node->stale))) {
        add->next = node->first.next;
        add->user = f ? NULL : user;
        atomic_init(&add->fid, f ? atomic_exchange(&f->fid, fid) : fid);
        atomic_store(&node->stale, false);
        node->first.next = add;
        f = f ? f : add;
        add = NULL;
    }
    uint32_t kept = f ? atomic_load(&f->fid) : P9_NOFID;
    pthread_mutex_unlock(&t->mutex);
    free(add);
    if (kept != fid)
        p9s_clunk(t, fid);
    return kept;
}

int p9s_node(struct p9s_tree *t, const struct p9s_user *user, uint32_t fid,
             const struct p9_attr *in, struct p9s_node *dir, const char *name, struct pl_node **ret,
             struct pl_attr *attr)
{
    int r = p9s_attr(in, attr);
    struct pl_id id = id_of(in);
    struct p9s_node *node = NULL, *made = NULL;
    if (r == 0)
        node = (struct p9s_node *)pl_nodes_get(t->nodes, id);
    if (r == 0 && !node) {
        made = calloc(1, sizeof(*made));
        r = made ? 0 : -ENOMEM;
    }
    if (r < 0) {
        p9s_clunk(t, fid);
        return r;
    }
    if (made) {
        pl_node_init(&made->h.node, &t->tree, attr->mode);
        made->h.id = id;
        made->first.user = user;
        atomic_init(&made->first.fid, fid);
        if (t->root && fid != P9_NOFID) /* that one's is an attach */
            p9s_rec_node(t, fid, user, made);
        node = (struct p9s_node *)pl_nodes_put(t->nodes, &made->h);
        if (node != made)
            free(made);
        else if (fid == P9_NOFID)
            atomic_fetch_add(&t->fidless, 1);
    }
    if (node == t->root && node != made) /* every user has one by its attach */
        p9s_clunk(t, fid);
    else if (node != made && fid != P9_NOFID)
        keep_fid(t, node, user, fid);
    p9s_place_set(t, node, dir, name);
    attr->size = p9s_behind_size(node, attr->size);
    atomic_store(&node->size, attr->size);
    *ret = &node->h.node;
    return 0;
}

/* What the tree still has to know of a node that is released, and what is on its way to it. */
static void retire(struct p9s_tree *t, struct p9s_node *node)
{
    uint64_t change = atomic_load(&node->change), lost = atomic_load(&t->lost);
    while (lost < change && !atomic_compare_exchange_weak(&t->lost, &lost, change))
        ;
    if (node->first.fid == P9_NOFID)
        atomic_fetch_sub(&t->fidless, 1);
    p9s_behind_free(t, node);
}

void p9s_release(struct pl_tree *tree, struct pl_node *n)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_node *node = (struct p9s_node *)n, *dir;
    /* The directory that it was in may go with it, and the one above; not by recursion. */
    for (bool last = true; last; node = dir) {
        pl_nodes_del(t->nodes, &node->h);
        if (node != t->root) /* that one is its user's */
            p9s_clunk(t, node->first.fid);
        for (struct p9s_fid *f = node->first.next, *next; f; f = next) {
            next = f->next;
            p9s_clunk(t, f->fid);
            free(f);
        }
        retire(t, node);
        dir = p9s_place_leave(t, node);
        free(atomic_load(&node->key));
        free(node);
        last = dir && atomic_fetch_sub_explicit(&dir->h.node.refs, 1, memory_order_acq_rel) == 1;
    }
}

/* ---- what was said before a change of ours ---- */

void p9s_touch(struct p9s_tree *t, struct pl_node *node)
{
    atomic_store(&((struct p9s_node *)node)->change, atomic_fetch_add(&t->clock, 1) + 1);
}

bool p9s_untouched(struct p9s_tree *t, const struct p9s_node *node, uint64_t since)
{
    return atomic_load(&node->change) <= since && atomic_load(&t->lost) <= since;
}

int p9s_freshen(struct p9s_tree *t, struct pl_call *call, struct pl_node **ret, uint64_t since,
                struct pl_attr *attr)
{
    struct p9s_node *node = (struct p9s_node *)*ret;
    uint32_t fid;
    if (!S_ISREG((*ret)->fmt) || (p9s_settled(node) && p9s_untouched(t, node, since)))
        return 0;
    int r = p9s_any_fid(t, call, node, &fid);
    if (r == 0)
        r = p9s_getattr_fid(t, call, node, fid, attr);
    if (r < 0) {
        pl_node_unref(*ret);
        *ret = NULL;
    }
    return r;
}

void p9s_note_xattrs(struct p9s_tree *t, struct p9s_node *node, const struct p9_attr *in,
                     uint64_t since)
{
    bool none = (in->valid & P9_GETATTR_NO_XATTR) && p9s_untouched(t, node, since);
    atomic_store(&node->no_xattrs, none ? mono_now() + P9S_BELIEF : 0);
}

/* ---- a fid for another user: from the root by name ---- */

/* Walks the path into a new fid; a name that is gone means that we know old ones: -ESTALE. */
static int walk_path(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node,
                     struct p9s_way *p, uint32_t *ret)
{
    bool there = false;
    uint32_t from = p->fid;
    int r = p9s_new_fid(t, ret);
    if (r < 0)
        return r;
    for (size_t left = p->n; r == 0 && left > 0;) {
        struct p9_msg m = p9s_walk_msg(from, *ret, NULL);
        while (left > 0 && m.nwname < LIMIT_WALK)
            m.wname[m.nwname++] = p9_str(p->names[--left]);
        struct p9_answer a;
        r = p9s_walk(t, call, &m, &a);
        there |= r == 0;
        if (r == 0 && left == 0 && !p9s_is(node, &a.r.wqid[m.nwname - 1]))
            r = -ESTALE;
        if (r == -ENOENT || r == -ENOTDIR)
            r = -ESTALE;
        p9_answer_free(&a);
        from = *ret;
    }
    if (r < 0)
        p9s_drop_fid(t, *ret, there ? 0 : r);
    return r;
}

int p9s_fid(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node,
            const struct p9s_user *user, uint32_t *ret)
{
    struct p9s_way p;
    if (node == t->root) {
        *ret = user->root;
        return 0;
    }
    if (node->first.user == user && (*ret = atomic_load(&node->first.fid)) != P9_NOFID)
        return 0;
    int r = p9s_way(t, node, user, NULL, &p);
    if (r < 0)
        return r;
    if (p.n == 0) {
        *ret = p.fid;
    } else {
        while ((r = walk_path(t, call, node, &p, ret)) == -ERESTART)
            ; /* another server: not from half-way */
    }
    if (r == 0 && p.n > 0) {
        *ret = keep_fid(t, node, user, *ret);
        r = *ret == P9_NOFID ? -ENOMEM : 0;
    }
    p9s_way_free(&p);
    return r;
}

int p9s_any_fid(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node, uint32_t *ret)
{
    *ret = atomic_load(&node->first.fid);
    return *ret != P9_NOFID ? 0 : p9s_fid(t, call, node, node->first.user, ret);
}

int p9s_my_fid(struct p9s_tree *t, struct pl_call *call, struct pl_node *node, uint32_t *ret)
{
    const struct p9s_user *user;
    int r = p9s_user(t, call, &user);
    return r < 0 ? r : p9s_fid(t, call, (struct p9s_node *)node, user, ret);
}

/* ---- ops ---- */

int p9s_root(struct pl_tree *tree, struct pl_call *call, struct pl_node **ret)
{
    *ret = pl_node_ref(&p9s_of(tree)->root->h.node);
    return 0;
}

/* One of us walks and tells the attributes in one answer; another is asked twice, and not both at
 * once, as it may take requests in any order. */
static int find(struct p9s_tree *t, struct pl_call *call, uint32_t dfid, uint32_t fid,
                const char *name, struct p9_attr *ret)
{
    struct p9_answer a;
    int r;
    if (t->ext) {
        struct p9_msg m = {.type = P9_Tlookup, .dfid = dfid, .newfid = fid, .name = p9_str(name)};
        r = p9s_ask(t, call, &m, &a);
    } else {
        struct p9_msg m = p9s_walk_msg(dfid, fid, name);
        r = p9s_walk(t, call, &m, &a);
    }
    if (r < 0 || t->ext) {
        if (r < 0)
            p9s_drop_fid(t, fid, r);
        else
            *ret = a.r.attr;
        p9_answer_free(&a);
        return r;
    }
    p9_answer_free(&a);
    r = p9s_ask_attr(t, call, fid, ret);
    if (r < 0)
        p9s_clunk(t, fid);
    return r;
}

int p9s_lookup(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir, const char *name,
               struct pl_node **ret, struct pl_attr *attr)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_node *d = (struct p9s_node *)dir;
    const struct p9s_user *user;
    uint64_t since = atomic_load(&t->clock);
    uint32_t dfid, fid;
    struct p9_attr in;
    if (d == t->root && !strcmp(name, "..")) {
        int r = p9s_getattr(tree, call, dir, NULL, attr);
        if (r == 0)
            *ret = pl_node_ref(dir);
        return r;
    }
    int r = p9s_user(t, call, &user);
    if (r == 0)
        r = p9s_fid(t, call, d, user, &dfid);
    if (r == 0)
        r = p9s_new_fid(t, &fid);
    if (r == 0)
        r = find(t, call, dfid, fid, name, &in);
    if (r == 0)
        r = p9s_node(t, user, fid, &in, d, name, ret, attr);
    if (r == 0)
        r = p9s_freshen(t, call, ret, since, attr);
    if (r == 0)
        p9s_note_xattrs(t, (struct p9s_node *)*ret, &in, since);
    return r;
}

void p9s_hold(struct p9s_tree *t, struct pl_call *call, struct p9s_batch *b, struct p9_msg *m,
              struct p9s_node *dir, uint32_t dfid, const char *name)
{
    *m = (struct p9_msg){.type = P9_Tlookup, .dfid = dfid, .name = p9_str(name)};
    if (t->ext && p9s_place_fidless(t, dir, name) && p9s_new_fid(t, &m->newfid) == 0)
        p9s_start(t, call, b, m, NULL, 0);
}

void p9s_held(struct p9s_tree *t, const struct p9s_user *user, struct p9s_batch *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct p9s_node *node = NULL;
        if (b->r[i] == 0)
            node = (struct p9s_node *)pl_nodes_get(t->nodes, id_of(&b->a[i].r.attr));
        if (node && node->first.user == user && node->first.fid == P9_NOFID)
            keep_fid(t, node, user, b->sent[i].m->newfid);
        else
            p9s_drop_fid(t, b->sent[i].m->newfid, b->r[i]);
        if (node)
            pl_node_unref(&node->h.node);
    }
}

bool p9s_renames(struct p9s_tree *t)
{
    pthread_mutex_lock(&t->mutex);
    bool others = t->users != NULL;
    pthread_mutex_unlock(&t->mutex);
    return !t->ext || others;
}

void p9s_refresh(struct p9s_tree *t, struct pl_call *call, struct pl_node *dir, const char *name)
{
    const struct p9s_user *user;
    uint32_t dfid, fid;
    struct p9_attr in;
    if (p9s_user(t, call, &user) < 0 || p9s_fid(t, call, (struct p9s_node *)dir, user, &dfid) < 0 ||
        p9s_new_fid(t, &fid) < 0 || find(t, call, dfid, fid, name, &in) < 0)
        return;
    struct p9s_node *node = (struct p9s_node *)pl_nodes_get(t->nodes, id_of(&in));
    if (node && node != t->root) {
        if (!t->ext)
            atomic_store(&node->stale, true);
        keep_fid(t, node, user, fid);
        p9s_place_set(t, node, (struct p9s_node *)dir, name);
    } else {
        p9s_clunk(t, fid);
    }
    if (node)
        pl_node_unref(&node->h.node);
}

int p9s_getattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                struct pl_file *file, struct pl_attr *attr)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_node *n = (struct p9s_node *)node;
    if (file) {
        int r = ask_attr(t, call, n, ((struct p9s_file *)file)->fid, attr);
        if (t->ext || (r != -ENOENT && r != -ESTALE))
            return r;
    }
    uint32_t fid;
    int r = p9s_any_fid(t, call, n, &fid);
    return r < 0 ? r : p9s_getattr_fid(t, call, n, fid, attr);
}

int p9s_readlink(struct pl_tree *tree, struct pl_call *call, struct pl_node *node, char *buf,
                 size_t size)
{
    struct p9_msg m = {.type = P9_Treadlink};
    struct p9_answer a = {0};
    int r = p9s_any_fid(p9s_of(tree), call, (struct p9s_node *)node, &m.fid);
    if (r == 0)
        r = p9s_ask(p9s_of(tree), call, &m, &a);
    r = p9s_stale(p9s_of(tree), (struct p9s_node *)node, r);
    if (r == 0) {
        size_t n = a.r.target.len;
        if (n > size)
            n = size;
        if (n)
            memcpy(buf, a.r.target.s, n);
        r = n ? (int)n : -EIO;
    }
    p9_answer_free(&a);
    return r;
}

int p9s_access(struct pl_tree *tree, struct pl_call *call, struct pl_node *node, int mask)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9_msg m = {.type = P9_Taccess, .mask = (uint64_t)mask};
    int r = p9s_my_fid(t, call, node, &m.fid);
    return r < 0 ? r : p9s_tell(t, call, &m);
}

int p9s_statfs(struct pl_tree *tree, struct pl_call *call, struct pl_node *node, struct statfs *st)
{
    struct p9_msg m = {.type = P9_Tstatfs};
    struct p9_answer a = {0};
    int r = p9s_any_fid(p9s_of(tree), call, (struct p9s_node *)node, &m.fid);
    if (r == 0)
        r = p9s_ask(p9s_of(tree), call, &m, &a);
    if (r == 0) {
        const struct p9_statfs *in = &a.r.statfs;
        st->f_type = in->type;
        st->f_bsize = st->f_frsize = in->bsize >= 512 ? in->bsize : 4096;
        st->f_blocks = in->blocks;
        st->f_bfree = in->bfree;
        st->f_bavail = in->bavail;
        st->f_files = in->files;
        st->f_ffree = in->ffree;
        memcpy(&st->f_fsid, &in->fsid,
               sizeof(in->fsid) < sizeof(st->f_fsid) ? sizeof(in->fsid) : sizeof(st->f_fsid));
        st->f_namelen = in->namelen && in->namelen < PL_NAME_MAX ? in->namelen : PL_NAME_MAX;
    }
    p9_answer_free(&a);
    return p9s_stale(p9s_of(tree), (struct p9s_node *)node, r);
}

int p9s_syncfs(struct pl_tree *tree, struct pl_call *call, struct pl_node *node)
{
    struct p9_msg m = {.type = P9_Tsyncfs};
    struct p9s_tree *t = p9s_of(tree);
    int r = p9s_settle_tree(t, call);
    if (r < 0 || !t->ext) /* 9P2000.L cannot say more */
        return r;
    r = p9s_any_fid(t, call, (struct p9s_node *)node, &m.fid);
    return r < 0 ? r : p9s_tell(t, call, &m);
}
