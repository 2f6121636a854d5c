/* SPDX-License-Identifier: MIT */
/*
 * Opening through the 9P source. An open file has a fid of its own, cloned from the node's; what is
 * created needs one more, for the node. One of us runs requests that name a fid in the order in
 * which it got them, so all of them go out at once; another is asked step by step.
 */
#include "sources/p9_again.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

uint32_t p9s_wire_flags(int flags)
{
    static const struct {
        int here;
        uint32_t wire;
    } map[] = {{O_EXCL, P9_EXCL},         {O_TRUNC, P9_TRUNC},         {O_APPEND, P9_APPEND},
               {O_NONBLOCK, P9_NONBLOCK}, {O_DSYNC, P9_DSYNC},         {O_SYNC, P9_SYNC},
               {O_NOATIME, P9_NOATIME},   {O_DIRECTORY, P9_DIRECTORY}, {O_NOFOLLOW, P9_NOFOLLOW}};
    uint32_t wire = (uint32_t)(flags & O_ACCMODE);
    for (size_t i = 0; i < sizeof(map) / sizeof(*map); i++)
        if ((flags & map[i].here) == map[i].here)
            wire |= map[i].wire;
    return wire;
}

/* The open file; `fid` and the memory are taken over. */
static struct pl_file *opened(struct p9s_tree *t, struct p9s_file *f, const struct p9s_user *user,
                              struct p9s_node *node, uint32_t fid, int flags,
                              const struct p9_qid *qid)
{
    p9s_behind_open(f, node);
    atomic_init(&f->user, user);
    f->fid = fid;
    f->file.fd = -1;
    atomic_init(&f->lent, P9S_NOT_ASKED);
    if (t->ext) {
        f->file.direct = qid->type & P9_QTDIRECT;
        f->file.stream = qid->type & P9_QTSTREAM;
    }
    /* a document that was emptied is changed */
    atomic_init(&f->dirty, (flags & O_TRUNC) && p9s_is_document(t, &f->file));
    p9s_rec_file(t, f, node, flags);
    return &f->file;
}

/* A file of no size that is opened to be read may have content all the same (as in /proc): a peer
 * that is not one of us cannot say so. */
static bool looks_generated(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node,
                            int flags)
{
    struct pl_attr attr;
    uint32_t fid;
    return !t->ext && S_ISREG(node->h.node.fmt) && (flags & O_ACCMODE) == O_RDONLY &&
           p9s_any_fid(t, call, node, &fid) == 0 &&
           p9s_getattr_fid(t, call, node, fid, &attr) == 0 && attr.size == 0;
}

/* Linux's client does not rely on O_TRUNC, so that some servers heed it in no Tlopen (NFS-Ganesha).
 * `attr` was asked for since, or NULL. */
static int see_emptied(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node,
                       uint32_t fid, int flags, struct pl_attr *attr)
{
    struct pl_setattr empty = {.valid = PL_SET_SIZE};
    struct pl_attr now;
    if (t->ext || t->dialect != P9_L || !(flags & O_TRUNC) || !S_ISREG(node->h.node.fmt))
        return 0;
    if (!attr && p9s_getattr_fid(t, call, node, fid, &now) < 0)
        return 0; /* a server by path, whose name for it is gone: it was asked, and that is all */
    if (!attr)
        attr = &now;
    return attr->size ? p9s_setattr(&t->tree, call, &node->h.node, NULL, &empty, attr) : 0;
}

/* What nobody will get, and the gate has not completed. */
static void unopen(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                   struct pl_file *file)
{
    file->node = node;
    p9s_close(tree, call, file);
}

/* In a tree that lives on, the first to open a file asks for its key, in the same breath. */
static bool wants_key(struct p9s_tree *t, struct p9s_node *node)
{
    return t->again && t->ext && !atomic_load(&t->no_keys) && !atomic_load(&node->key);
}

static void take_key(struct p9s_tree *t, struct p9s_node *node, int r, const struct p9_msg *ans)
{
    struct p9s_key *none = NULL, *key;
    if (r == -EOPNOTSUPP)
        atomic_store(&t->no_keys, true);
    if (r < 0 || ans->count == 0 || ans->count > PL_KEY_MAX || !(key = malloc(sizeof(*key))))
        return;
    key->len = ans->count;
    memcpy(key->bytes, ans->data, ans->count);
    if (!atomic_compare_exchange_strong(&node->key, &none, key))
        free(key);
}

/* Walks to a new fid and opens it: the answer's qid. *walked: what came of the walk. */
static int open_fid(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node, uint32_t from,
                    struct p9_msg *lopen, int *walked, struct p9_qid *qid)
{
    struct p9s_batch b = {0};
    struct p9_msg walk = p9s_walk_msg(from, lopen->fid, NULL);
    struct p9_msg key = {.type = P9_Tkey, .fid = lopen->fid};
    int r = 0;
    if (t->ext)
        p9s_start(t, call, &b, &walk, NULL, 0);
    else
        *walked = r = p9s_tell(t, call, &walk);
    if (r < 0)
        return r;
    unsigned opens = b.n;
    p9s_start(t, call, &b, lopen, NULL, 0);
    bool keyed = wants_key(t, node);
    if (keyed)
        p9s_start(t, call, &b, &key, NULL, 0);
    p9s_finish(t, call, &b);
    if (t->ext)
        *walked = b.r[0];
    r = *walked < 0 ? *walked : b.r[opens];
    if (r == 0)
        *qid = b.a[opens].r.qid;
    if (r == 0 && keyed)
        take_key(t, node, b.r[opens + 1], &b.a[opens + 1].r);
    p9s_batch_free(&b);
    return r;
}

int p9s_open(struct pl_tree *tree, struct pl_call *call, struct pl_node *n, int flags,
             struct pl_file **ret)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_node *node = (struct p9s_node *)n;
    const struct p9s_user *user;
    struct p9_msg lopen = {.fid = P9_NOFID};
    struct p9_qid qid;
    uint32_t from;
    int walked = 0;
    struct p9s_file *f = calloc(1, sizeof(*f));
    int r = f ? p9s_user(t, call, &user) : -ENOMEM;
    if (r == 0)
        r = p9s_fid(t, call, node, user, &from);
    if (r == 0)
        r = p9s_new_fid(t, &lopen.fid);
    if (r < 0) {
        free(f);
        return r;
    }
    lopen = p9s_open_msg(t, lopen.fid, flags);
    if (flags & O_TRUNC) {
        r = p9s_settle(t, call, node);
        p9s_touch(t, n);
    }
    if (r == 0)
        r = open_fid(t, call, node, from, &lopen, &walked, &qid);
    else
        walked = -ENOENT; /* not even asked for */
    if (flags & O_TRUNC)
        p9s_touch(t, n);
    if (r == 0 && !p9s_is(node, &qid))
        r = -ESTALE;
    if (r < 0) {
        p9s_drop_fid(t, lopen.fid, walked);
        free(f);
        return p9s_stale(t, node, r);
    }
    *ret = opened(t, f, user, node, lopen.fid, flags, &qid);
    r = see_emptied(t, call, node, lopen.fid, flags, NULL);
    if (r < 0) {
        unopen(tree, call, n, *ret);
        return r;
    }
    f->file.direct |= looks_generated(t, call, node, flags);
    /* positions in a directory are good for this open of it */
    f->file.direct |= t->dialect != P9_L && S_ISDIR(n->fmt);
    return 0;
}

/* ---- creating ---- */

/* A file being made: its open fid, and the fid that its node will have. */
struct making {
    struct p9s_tree *t;
    struct pl_call *call;
    const struct p9s_user *user;
    struct p9s_node *dir;
    const char *name; /* NULL: it has none */
    uint32_t dfid, fid, nfid;
    bool fid_made, nfid_made;
    uint64_t since; /* the tree's clock at the beginning */
    struct p9_qid qid;
    struct p9_attr attr;
    struct p9s_key key; /* len 0: not known */
};

static int making_init(struct making *m, struct pl_tree *tree, struct pl_call *call,
                       struct pl_node *dir, const char *name)
{
    *m = (struct making){.t = p9s_of(tree),
                         .call = call,
                         .dir = (struct p9s_node *)dir,
                         .name = name,
                         .fid = P9_NOFID,
                         .nfid = P9_NOFID};
    p9s_touch(m->t, dir);
    m->since = atomic_load(&m->t->clock);
    int r = p9s_user(m->t, call, &m->user);
    if (r == 0)
        r = p9s_fid(m->t, call, m->dir, m->user, &m->dfid);
    if (r == 0)
        r = p9s_new_fid(m->t, &m->fid);
    if (r == 0)
        r = p9s_new_fid(m->t, &m->nfid);
    return r;
}

static void making_drop(struct making *m)
{
    if (m->fid != P9_NOFID)
        p9s_drop_fid(m->t, m->fid, m->fid_made ? 0 : -ENOENT);
    if (m->nfid != P9_NOFID)
        p9s_drop_fid(m->t, m->nfid, m->nfid_made ? 0 : -ENOENT);
}

/* A fid may be there unless its request came back with the peer's own refusal. */
static bool perhaps(int r)
{
    return r >= 0 || r == -EINTR || r == -ETIMEDOUT || r == -EPROTO;
}

/* All at once, for one of us; `walk` (NULL for a tmpfile) and `make` as they are. */
static int make_at_once(struct making *m, struct p9_msg *walk, struct p9_msg *make)
{
    struct p9s_batch b = {0};
    struct p9_msg clone = p9s_walk_msg(m->fid, m->nfid, NULL);
    struct p9_msg get = {
        .type = P9_Tgetattr, .fid = m->fid, .mask = P9_GETATTR_ALL | P9_GETATTR_NO_XATTR};
    struct p9_msg key = {.type = P9_Tkey, .fid = m->fid};
    if (walk)
        p9s_start(m->t, m->call, &b, walk, NULL, 0);
    unsigned made = b.n;
    p9s_start(m->t, m->call, &b, make, NULL, 0);
    p9s_start(m->t, m->call, &b, &clone, NULL, 0);
    p9s_start(m->t, m->call, &b, &get, NULL, 0);
    unsigned last = b.n;
    if (m->t->again && !atomic_load(&m->t->no_keys))
        p9s_start(m->t, m->call, &b, &key, NULL, 0);
    int r = 0;
    p9s_finish(m->t, m->call, &b);
    for (unsigned i = 0; i < last && r == 0; i++)
        r = b.r[i];
    m->fid_made = perhaps(b.r[0]);
    m->nfid_made = perhaps(b.r[made + 1]);
    if (r == 0 && b.n > last && b.r[last] == 0 && b.a[last].r.count <= PL_KEY_MAX) {
        m->key.len = b.a[last].r.count;
        memcpy(m->key.bytes, b.a[last].r.data, m->key.len);
    } else if (b.n > last && b.r[last] == -EOPNOTSUPP) {
        atomic_store(&m->t->no_keys, true);
    }
    if (r == 0) {
        m->qid = b.a[made].r.qid;
        m->attr = b.a[made + 2].r.attr;
    }
    p9s_batch_free(&b);
    return r;
}

/* One after the other. The node's fid is walked to by name, which another may have replaced. */
static int make_in_steps(struct making *m, struct p9_msg *walk, struct p9_msg *make)
{
    struct p9_answer a;
    int r = p9s_tell(m->t, m->call, walk);
    m->fid_made = perhaps(r);
    if (r < 0)
        return r;
    r = p9s_ask(m->t, m->call, make, &a);
    if (r == 0)
        m->qid = a.r.qid;
    p9_answer_free(&a);
    if (r < 0)
        return r;
    struct p9_msg again = p9s_walk_msg(m->dfid, m->nfid, m->name);
    r = p9s_walk(m->t, m->call, &again, &a);
    m->nfid_made = perhaps(r);
    p9_answer_free(&a);
    if (r < 0)
        return r == -ENOENT ? -ESTALE : r;
    return p9s_ask_attr(m->t, m->call, m->nfid, &m->attr);
}

/* What was made becomes node and file, or nothing. */
static int making_end(struct making *m, int r, int flags, struct pl_node **ret,
                      struct pl_attr *attr, struct pl_file **ret_file)
{
    struct p9s_file *f = r == 0 ? calloc(1, sizeof(*f)) : NULL;
    p9s_touch(m->t, &m->dir->h.node);
    if (r == 0 && !f)
        r = -ENOMEM;
    if (r == 0 && (m->attr.qid.path != m->qid.path || !S_ISREG(m->attr.mode)))
        r = -ESTALE;
    if (r < 0) {
        making_drop(m);
        free(f);
        return r;
    }
    r = p9s_node(m->t, m->user, m->nfid, &m->attr, m->name ? m->dir : NULL, m->name, ret, attr);
    if (r == 0)
        r = p9s_freshen(m->t, m->call, ret, m->since, attr);
    if (r < 0) {
        m->nfid = P9_NOFID;
        making_drop(m);
        free(f);
        return r;
    }
    p9s_note_xattrs(m->t, (struct p9s_node *)*ret, &m->attr, m->since);
    p9s_touch(m->t, *ret);
    f->created = true;
    if (flags & O_EXCL) /* it is new, no doubt */
        p9s_behind_made(m->t, f, (struct p9s_node *)*ret, attr);
    struct p9s_node *node = (struct p9s_node *)*ret;
    if (m->key.len)
        take_key(m->t, node, 0, &(struct p9_msg){.count = m->key.len, .data = m->key.bytes});
    *ret_file = opened(m->t, f, m->user, node, m->fid, flags | O_TRUNC, &m->qid);
    return 0;
}

static int create_new(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir,
                      const char *name, int flags, mode_t mode, struct pl_node **ret,
                      struct pl_attr *attr, struct pl_file **ret_file)
{
    struct making m;
    int r = making_init(&m, tree, call, dir, name);
    struct p9_msg walk = p9s_walk_msg(m.dfid, m.fid, NULL);
    struct p9_msg make = {.type = P9_Tlcreate,
                          .fid = m.fid,
                          .name = p9_str(name),
                          .flags = p9s_wire_flags(flags) | P9_CREATE,
                          .gid = call->cred.gid};
    if (r == 0 && (flags & O_TRUNC) && !(flags & O_EXCL)) /* of which file is not known yet */
        r = p9s_settle_tree(m.t, call);
    if (r == 0)
        r = p9s_mode(m.t, call, dir, mode, &make.mode);
    if (m.t->dialect != P9_L)
        make = p9s_create_msg(m.t, m.fid, name, flags, make.mode);
    if (r == 0)
        r = m.t->ext ? make_at_once(&m, &walk, &make) : make_in_steps(&m, &walk, &make);
    return making_end(&m, r, flags, ret, attr, ret_file);
}

/* Tcreate only makes what is not there (and some servers do not look). */
static int old_create(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir,
                      const char *name, int flags, mode_t mode, struct pl_node **ret,
                      struct pl_attr *attr, struct pl_file **ret_file)
{
    struct pl_node *node;
    int r = p9s_lookup(tree, call, dir, name, &node, attr);
    if (r == -ENOENT)
        return create_new(tree, call, dir, name, flags, mode, ret, attr, ret_file);
    if (r < 0)
        return r;
    r = flags & O_EXCL ? -EEXIST : S_ISREG(node->fmt) ? 0 : S_ISDIR(node->fmt) ? -EISDIR : -ELOOP;
    if (r == 0)
        r = p9s_open(tree, call, node, flags, ret_file);
    if (r == 0 && (flags & O_TRUNC) && (r = p9s_getattr(tree, call, node, NULL, attr)) < 0)
        unopen(tree, call, node, *ret_file);
    if (r < 0)
        pl_node_unref(node);
    else
        *ret = node;
    return r;
}

int p9s_create(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir, const char *name,
               int flags, mode_t mode, struct pl_node **ret, struct pl_attr *attr,
               struct pl_file **ret_file)
{
    if (p9s_of(tree)->dialect == P9_L) {
        int r = create_new(tree, call, dir, name, flags, mode, ret, attr, ret_file);
        if (r < 0 || (flags & O_EXCL))
            return r;
        r = see_emptied(p9s_of(tree), call, (struct p9s_node *)*ret, P9_NOFID, flags, attr);
        if (r < 0) {
            unopen(tree, call, *ret, *ret_file);
            pl_node_unref(*ret);
        }
        return r;
    }
    int r = -EEXIST; /* another may come to be there between looking and making */
    for (int i = 0; i < 4 && (i == 0 || (r == -EEXIST && !(flags & O_EXCL))); i++)
        r = old_create(tree, call, dir, name, flags, mode, ret, attr, ret_file);
    return r;
}

int p9s_tmpfile(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir, int flags,
                mode_t mode, struct pl_node **ret, struct pl_attr *attr, struct pl_file **ret_file)
{
    struct making m;
    int r = making_init(&m, tree, call, dir, NULL);
    struct p9_msg make = {.type = P9_Ttmpfile,
                          .dfid = m.dfid,
                          .newfid = m.fid,
                          .flags = p9s_wire_flags(flags),
                          .gid = call->cred.gid};
    if (r == 0)
        r = p9s_mode(m.t, call, dir, mode, &make.mode);
    while (r == 0 && (r = make_at_once(&m, NULL, &make)) == -ERESTART)
        r = 0; /* what was made is gone with its server */
    return making_end(&m, r, flags, ret, attr, ret_file);
}

/* ---- the end ---- */

/* Out of the list of open files: true when nobody makes its fid again just now. */
static bool unlist(struct p9s_again *a, struct p9s_file *f)
{
    pthread_mutex_lock(&a->mutex);
    if (f->prev)
        f->prev->next = f->next;
    else
        a->files = f->next;
    if (f->next)
        f->next->prev = f->prev;
    bool last = --f->refs == 0;
    pthread_mutex_unlock(&a->mutex);
    return last;
}

void p9s_file_unref(struct p9s_tree *t, struct p9s_file *f)
{
    pthread_mutex_lock(&t->again->mutex);
    bool last = --f->refs == 0;
    pthread_mutex_unlock(&t->again->mutex);
    if (last) {
        p9s_clunk(t, f->fid);
        free(f);
    }
}

int p9s_close(struct pl_tree *tree, struct pl_call *call, struct pl_file *file)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_file *f = (struct p9s_file *)file;
    p9s_behind_close(t, call, f);
    p9s_lent_close(t, f);
    p9s_dir_free(t, f->dir);
    p9s_ahead_free(t, f->ahead);
    p9s_old_dir_free(f->old_dir);
    if (t->again) {
        p9s_held_close(t, f);
        if (!unlist(t->again, f))
            return 0;
    }
    if (atomic_load(&f->locked)) /* who asks for the lock next must find it free */
        p9s_clunk_now(t, call, f->fid);
    else
        p9s_clunk(t, f->fid);
    free(f);
    return 0;
}

/* Only what was written or locked is worth a round trip. A peer that is not one of us has nothing
 * but locks to be told of: it writes when it is told to write. */
int p9s_flush(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, uint64_t owner)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_file *f = (struct p9s_file *)file;
    struct p9s_node *node = (struct p9s_node *)file->node;
    bool dirty = atomic_exchange(&f->dirty, false), locked = atomic_load(&node->locked);
    if (locked && t->again) {
        struct pl_lock un = {.type = F_UNLCK, .owner = owner, .end = PL_OFF_MAX};
        p9s_held_set(t, f, &un);
    }
    if (t->ext && (dirty || locked)) {
        struct p9_msg m = {.type = P9_Tflushfile, .fid = f->fid, .owner = owner};
        int r = p9s_behind_then(t, call, f, &m);
        if (r == -EINTR || r == -ETIMEDOUT)
            atomic_store(&f->dirty, dirty);
        return r;
    }
    int r = p9s_settle(t, call, node);
    if (r == 0)
        r = p9s_behind_tell(f);
    if (locked) {
        struct pl_lock un = {.type = F_UNLCK, .owner = owner, .end = PL_OFF_MAX};
        p9s_lock(tree, call, file, &un);
    }
    return r;
}
