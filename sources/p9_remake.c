/* SPDX-License-Identifier: MIT */
/* How fids are made again at another server: see p9_again.h. */
#include "sources/p9_again.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- records ---- */

struct p9s_rec *p9s_rec(struct p9s_tree *t, uint32_t fid)
{
    struct p9s_again *a = t->again;
    if (fid >= LIMIT_FIDS)
        return NULL;
    _Atomic(struct p9s_rec *) *page = &a->recs[fid / P9S_RECS];
    struct p9s_rec *recs = atomic_load(page), *made;
    if (!recs && (made = calloc(P9S_RECS, sizeof(*made)))) {
        if (atomic_compare_exchange_strong(page, &recs, made))
            recs = made;
        else
            free(made);
    }
    return recs ? &recs[fid % P9S_RECS] : NULL;
}

static void more_free(struct p9s_more *more)
{
    if (more)
        free(more->name);
    free(more);
}

static void rec_set(struct p9s_rec *rec, enum p9s_how how, const struct p9s_user *user,
                    struct p9s_node *node, struct p9s_more *more)
{
    if (rec->more != more)
        more_free(rec->more);
    rec->how = (uint8_t)how;
    rec->user = user;
    rec->node = node;
    rec->more = more;
}

static struct p9s_more *more_new(const char *name, size_t n)
{
    struct p9s_more *more = calloc(1, sizeof(*more));
    if (more && name && !(more->name = strndup(name, n))) {
        free(more);
        return NULL;
    }
    return more;
}

void p9s_rec_node(struct p9s_tree *t, uint32_t fid, const struct p9s_user *user,
                  struct p9s_node *node)
{
    if (t->again)
        rec_set(p9s_rec(t, fid), P9S_OBJECT, user, node, NULL);
}

void p9s_rec_user(struct p9s_tree *t, uint32_t fid, const struct p9s_user *user,
                  struct p9s_node *root)
{
    struct p9s_rec *rec = t->again ? p9s_rec(t, fid) : NULL;
    if (rec)
        rec_set(rec, P9S_ATTACH, user, root, rec->more);
}

void p9s_rec_file(struct p9s_tree *t, struct p9s_file *f, struct p9s_node *node, int flags)
{
    struct p9s_again *a = t->again;
    if (!a)
        return;
    struct p9s_rec *rec = p9s_rec(t, f->fid);
    f->node = node;
    f->refs = 1;
    if (rec->more) { /* else out of memory: it is lost with its connection */
        free(rec->more->name);
        rec->more->name = NULL;
        rec->more->file = f;
        rec_set(rec, P9S_OBJECT, f->user, node, rec->more);
    } else {
        rec_set(rec, P9S_STEP, NULL, NULL, NULL);
    }
    pthread_mutex_lock(&a->mutex);
    f->prev = NULL;
    f->next = a->files;
    if (f->next)
        f->next->prev = f;
    a->files = f;
    pthread_mutex_unlock(&a->mutex);
}

bool p9s_rec_drop(struct p9s_tree *t, uint32_t fid)
{
    struct p9s_again *a = t->again;
    struct p9s_rec *rec = p9s_rec(t, fid);
    if (!rec)
        return false;
    pthread_mutex_lock(&a->mutex);
    bool there = atomic_load(&rec->gen) == a->gen;
    pthread_mutex_unlock(&a->mutex);
    atomic_store(&rec->gen, 0);
    rec_set(rec, P9S_FREE, NULL, NULL, NULL);
    return there;
}

/* ---- what messages make of fids ---- */

static void made(struct p9s_tree *t, struct p9s_rec *rec, enum p9s_how how,
                 const struct p9s_user *user, struct p9s_node *node, struct p9s_more *more)
{
    rec_set(rec, how, user, node, more);
    atomic_store(&rec->gen, t->again->gen);
}

static void note_walk(struct p9s_tree *t, const struct p9_msg *m)
{
    struct p9s_rec *from = p9s_rec(t, m->fid), *to = p9s_rec(t, m->newfid);
    struct p9s_more *more = NULL;
    if (m->fid == m->newfid)
        return;
    bool simple = from->node && (from->how == P9S_ATTACH || !from->more || !from->more->name);
    if (simple && m->nwname == 1)
        more = more_new(m->wname[0].s, m->wname[0].len);
    if (simple && (m->nwname == 0 || (m->nwname == 1 && more)))
        made(t, to, P9S_OBJECT, from->user, from->node, more);
    else
        made(t, to, P9S_STEP, NULL, NULL, NULL);
}

void p9s_note_sent(struct p9s_tree *t, const struct p9_msg *m)
{
    switch (m->type) {
    case P9_Tattach: {
        struct p9s_more *more = more_new(m->uname.s, m->uname.len);
        if (more)
            more->n_uname = m->n_uname;
        made(t, p9s_rec(t, m->fid), more ? P9S_ATTACH : P9S_STEP, NULL, NULL, more);
        break;
    }
    case P9_Twalk:
        note_walk(t, m);
        break;
    case P9_Tlookup:
    case P9_Txattrwalk:
    case P9_Ttmpfile:
        if (m->newfid != P9_NOFID)
            made(t, p9s_rec(t, m->newfid), P9S_STEP, NULL, NULL, NULL);
        break;
    case P9_Txattrcreate:
        made(t, p9s_rec(t, m->fid), P9S_STEP, NULL, NULL, NULL);
        break;
    default:
        break;
    }
}

/* What makes or empties nothing the second time. */
static uint32_t open_again(const struct p9_msg *m)
{
    if (m->type == P9_Topen || m->type == P9_Tcreate)
        return m->omode & ~(uint32_t)P9_OTRUNC;
    return m->flags & ~(uint32_t)(P9_TRUNC | P9_EXCL | P9_CREATE);
}

void p9s_note_done(struct p9s_tree *t, const struct p9_msg *m, const struct p9_answer *a)
{
    struct p9s_rec *rec;
    switch (m->type) {
    case P9_Twalk:
        rec = p9s_rec(t, m->newfid);
        if (rec->more && a->r.nwqid == 1) {
            rec->more->qid = a->r.wqid[0];
            rec->more->known = true;
        }
        break;
    case P9_Tlopen:
    case P9_Topen:
        rec = p9s_rec(t, m->fid);
        if (!rec->more && rec->how == P9S_OBJECT)
            rec->more = more_new(NULL, 0);
        if (rec->more) {
            rec->more->open = true;
            rec->more->flags = open_again(m);
        }
        break;
    case P9_Tcreate:
    case P9_Tlcreate: {
        rec = p9s_rec(t, m->fid);
        struct p9s_more *more = more_new(m->name.s, m->name.len);
        if (more) {
            more->open = more->known = true;
            more->qid = a->r.qid;
            more->flags = open_again(m);
        }
        rec_set(rec, more ? P9S_OBJECT : P9S_STEP, rec->user, rec->node, more);
        break;
    }
    case P9_Ttmpfile:
        rec = p9s_rec(t, m->newfid);
        rec->more = more_new(NULL, 0);
        if (rec->more) {
            rec->more->open = true;
            rec->more->flags = m->flags & ~(uint32_t)P9_EXCL;
        }
        break;
    default:
        break;
    }
}

/* ---- making again ---- */

static int rpc(struct p9s_tree *t, struct pl_call *call, struct p9_msg *m, struct p9_answer *a)
{
    a->buf = NULL;
    return p9s_why(call, p9_rpc(t->conn, call, m, a, NULL, 0));
}

/* What an object that is not where it was looks like; that it is gone, to who has it. */
static int stale(int r)
{
    return r == -ENOENT || r == -ENOTDIR ? -ESTALE : r;
}

void p9s_fid_clear(struct p9s_tree *t, uint32_t fid)
{
    struct p9_msg m = {.type = P9_Tclunk, .fid = fid};
    struct p9_answer a = {0};
    p9_rpc(t->conn, NULL, &m, &a, NULL, 0);
    p9_answer_free(&a);
}

static int remake_attach(struct p9s_tree *t, struct pl_call *call, uint32_t fid,
                         const struct p9s_rec *rec)
{
    struct p9_answer a;
    struct p9_msg m = p9s_attach_msg(t, fid, rec->more->name, rec->more->n_uname);
    int r = rpc(t, call, &m, &a);
    if (r == 0 && rec->node && !p9s_is(rec->node, &a.r.qid)) {
        p9s_fid_clear(t, fid);
        r = -ESTALE;
    }
    p9_answer_free(&a);
    return r;
}

static int find_by_key(struct p9s_tree *t, struct pl_call *call, uint32_t fid,
                       const struct p9s_user *user, const struct p9s_node *node,
                       struct p9s_key *key)
{
    struct p9_answer a;
    struct p9_msg m = {
        .type = P9_Tfind, .fid = user->root, .newfid = fid, .count = key->len, .data = key->bytes};
    int r = p9s_ensure_fid(t, call, user->root);
    if (r < 0)
        return r;
    r = rpc(t, call, &m, &a);
    if (r == 0 && !p9s_same(node, &a.r.attr)) {
        p9s_fid_clear(t, fid);
        r = -ESTALE;
    }
    p9_answer_free(&a);
    return r;
}

bool p9s_fid_is_there(struct p9s_tree *t, uint32_t fid)
{
    struct p9s_rec *rec = p9s_rec(t, fid);
    return atomic_load(&rec->gen) == t->again->gen;
}

/* True if what the fid has led to is the node. A qid does not tell the birth of it. */
static int check(struct p9s_tree *t, struct pl_call *call, uint32_t fid,
                 const struct p9s_node *node)
{
    struct p9_answer a;
    struct p9_attr attr;
    struct p9_msg m = p9s_attr_msg(t, fid);
    int r = rpc(t, call, &m, &a);
    if (r == 0) {
        p9s_attr_told(t, &a.r, &attr);
        r = p9s_same(node, &attr) ? 0 : -ESTALE;
    }
    p9_answer_free(&a);
    return r;
}

static int walk_way(struct p9s_tree *t, struct pl_call *call, uint32_t fid,
                    const struct p9s_node *node, const struct p9s_way *w)
{
    uint32_t from = w->fid;
    bool there = false;
    size_t left = w->n;
    int r = p9s_ensure_fid(t, call, from);
    do {
        struct p9_msg m = p9s_walk_msg(from, fid, NULL);
        struct p9_answer a = {0};
        while (left > 0 && m.nwname < LIMIT_WALK)
            m.wname[m.nwname++] = p9_str(w->names[--left]);
        if (r == 0)
            r = rpc(t, call, &m, &a);
        if (r == 0 && a.r.nwqid != m.nwname)
            r = -ENOENT;
        else
            there |= r == 0 || r == -EINTR || r == -ETIMEDOUT;
        p9_answer_free(&a);
        from = fid;
    } while (r == 0 && left > 0);
    if (r == 0 && w->n > 0)
        r = check(t, call, fid, node);
    if (r < 0 && there)
        p9s_fid_clear(t, fid);
    return stale(r);
}

static int remake_object(struct p9s_tree *t, struct pl_call *call, uint32_t fid,
                         const struct p9s_user *user, struct p9s_node *node)
{
    struct p9s_key *key = atomic_load(&node->key);
    struct p9s_way w;
    int r = -ESTALE;
    if (key)
        r = find_by_key(t, call, fid, user, node, key);
    if (r == 0 || r == -ECONNABORTED || r == -EINTR || r == -ETIMEDOUT)
        return r;
    r = p9s_way(t, node, user, p9s_fid_is_there, &w);
    if (r == 0) {
        r = walk_way(t, call, fid, node, &w);
        p9s_way_free(&w);
    }
    return r;
}

/* An entry of a directory, by its name only: what an op has just come upon or made. */
static int remake_entry(struct p9s_tree *t, struct pl_call *call, uint32_t fid,
                        const struct p9s_rec *rec)
{
    struct p9_answer a;
    struct p9_msg m = p9s_walk_msg(fid, fid, rec->more->name);
    int r = remake_object(t, call, fid, rec->user, rec->node);
    if (r < 0)
        return r;
    r = rpc(t, call, &m, &a);
    if (r == 0 && a.r.nwqid != 1)
        r = -ENOENT;
    if (r == 0 && rec->more->known &&
        (a.r.wqid[0].path != rec->more->qid.path ||
         (a.r.wqid[0].type & P9_QTDIR) != (rec->more->qid.type & P9_QTDIR)))
        r = -ESTALE;
    p9_answer_free(&a);
    if (r < 0)
        p9s_fid_clear(t, fid);
    return stale(r);
}

int p9s_gone_with_it(struct p9s_file *f)
{
    /* a stream; a document that was being written: what had been written is not in the new one */
    if (f->file.stream || (f->file.direct && atomic_load(&f->dirty)))
        atomic_store(&f->lost, -EIO);
    return atomic_load(&f->lost);
}

struct p9_msg p9s_reopen_msg(const struct p9s_tree *t, uint32_t fid, const struct p9s_more *more)
{
    if (t->dialect != P9_L)
        return (struct p9_msg){.type = P9_Topen, .fid = fid, .omode = (uint8_t)more->flags};
    return (struct p9_msg){.type = P9_Tlopen, .fid = fid, .flags = more->flags};
}

static int reopen(struct p9s_tree *t, struct pl_call *call, uint32_t fid,
                  const struct p9s_more *more)
{
    struct p9_answer a;
    struct p9_msg m = p9s_reopen_msg(t, fid, more);
    int r = rpc(t, call, &m, &a);
    p9_answer_free(&a);
    if (r == 0 && more->file)
        r = p9s_relock(t, call, more->file);
    if (r < 0)
        p9s_fid_clear(t, fid);
    return stale(r);
}

static int remake_as(struct p9s_tree *t, struct pl_call *call, uint32_t fid,
                     const struct p9s_rec *rec)
{
    struct p9s_more *more = rec->more;
    int r = more && more->name ? remake_entry(t, call, fid, rec)
                               : remake_object(t, call, fid, rec->user, rec->node);
    if (r == 0 && more && more->open)
        r = reopen(t, call, fid, more);
    return r;
}

/* Who opened a file may have lost the right to since, or never had it (who creates has what the
 * mode denies). It is not asked again, where we are all users: then we open it ourselves. */
static int remake_file(struct p9s_tree *t, struct pl_call *call, uint32_t fid, struct p9s_rec *rec,
                       struct p9s_file *f)
{
    const struct p9s_user *user = rec->user;
    int r = remake_as(t, call, fid, rec);
    if (r != -EACCES || !t->many || user == &t->main)
        return r;
    rec->user = &t->main;
    if (remake_as(t, call, fid, rec) < 0) {
        rec->user = user;
        return r;
    }
    atomic_store(&f->user, &t->main); /* what is asked of the user's rights goes another way */
    return 0;
}

static int remake(struct p9s_tree *t, struct pl_call *call, uint32_t fid, struct p9s_rec *rec)
{
    struct p9s_more *more = rec->more;
    struct p9s_file *f = more ? more->file : NULL;
    int r = f ? p9s_gone_with_it(f) : 0;
    if (r < 0)
        return r;
    switch (rec->how) {
    case P9S_ATTACH:
        return remake_attach(t, call, fid, rec);
    case P9S_OBJECT:
        return f ? remake_file(t, call, fid, rec, f) : remake_as(t, call, fid, rec);
    default:
        return -ERESTART;
    }
}

int p9s_ensure_fid(struct p9s_tree *t, struct pl_call *call, uint32_t fid)
{
    if (fid == P9_NOFID)
        return 0;
    struct p9s_again *a = t->again;
    struct p9s_rec *rec = p9s_rec(t, fid);
    int r = 0;
    if (!rec || atomic_load(&rec->gen) == a->gen)
        return 0;
    if ((r = p9s_block(a, call)) < 0)
        return r;
    pthread_mutex_lock(&a->mutex);
    while (rec->busy && !(r = pl_call_over(call)))
        p9s_wait_cond(a, call, 0);
    bool ours = r == 0 && atomic_load(&rec->gen) != a->gen;
    rec->busy |= ours;
    pthread_mutex_unlock(&a->mutex);
    pl_call_unblock(call);
    if (!ours)
        return r;
    r = remake(t, call, fid, rec);
    pthread_mutex_lock(&a->mutex);
    if (r == 0)
        atomic_store(&rec->gen, a->gen);
    rec->busy = false;
    pthread_cond_broadcast(&a->cond);
    pthread_mutex_unlock(&a->mutex);
    return r;
}

int p9s_ensure(struct p9s_tree *t, struct pl_call *call, const struct p9_msg *m)
{
    uint32_t fids[3];
    int r = 0;
    for (int i = 0, n = p9s_names(m, fids); r == 0 && i < n; i++)
        r = p9s_ensure_fid(t, call, fids[i]);
    return r;
}

bool p9s_there(struct p9s_tree *t, const struct p9_msg *m)
{
    uint32_t fids[3];
    for (int i = 0, n = p9s_names(m, fids); i < n; i++) {
        struct p9s_rec *rec = p9s_rec(t, fids[i]);
        if (!rec || atomic_load(&rec->gen) != t->again->gen)
            return false;
    }
    return true;
}

/* ---- at a new connection ---- */

int p9s_remake_all(struct p9s_tree *t, struct pl_call *call, struct pl_err *err)
{
    const char *peer = p9_conn_peer(t->conn);
    int r = p9s_ensure_fid(t, call, t->main.root);
    if (r == -ESTALE)
        return pl_fail(err, r, "%s: serves something else than the server before it", peer);
    if (r < 0)
        return pl_fail(err, r, "%s: does not let us in again: %s", peer, strerror(-r));
    pthread_mutex_lock(&t->mutex);
    struct p9s_user *u = t->users; /* new ones come in front, and none goes */
    pthread_mutex_unlock(&t->mutex);
    for (; u && r != -ECONNABORTED; u = u->next)
        r = p9s_ensure_fid(t, call, u->root);
    if (r != -ECONNABORTED)
        r = p9s_reopen_all(t, call);
    return r == -ECONNABORTED || r == -EINTR ? r : 0;
}
