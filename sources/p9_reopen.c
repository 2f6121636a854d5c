/* SPDX-License-Identifier: MIT */
/*
 * Open files at a new connection: all at once, a window of them under way, each stage of all before
 * the next, so that a window takes two round trips. What does not go so simply (a way longer than
 * one walk, an object that is not where it was, a user who may not) is made by itself.
 *
 * Only the tree's thread is here, and nobody else uses the connection yet.
 */
#include "sources/p9_again.h"
#include <errno.h>
#include <stdlib.h>

enum { WINDOW = 32 };
_Static_assert(2 * WINDOW <= LIMIT_REQUESTS_USED, "two requests each under way");

struct reopening {
    struct p9s_file *f;
    struct p9s_rec *rec;
    struct p9_pending *find, *get, *open;
    bool walked;
    int r;
};

static void start(struct p9s_tree *t, struct pl_call *call, struct reopening *o, struct p9_msg *m,
                  struct p9_pending **ret)
{
    int r = p9_rpc_start(t->conn, call, m, NULL, 0, ret);
    if (r < 0) {
        *ret = NULL;
        o->r = r;
    }
}

static void finish(struct p9s_tree *t, struct pl_call *call, struct reopening *o,
                   struct p9_pending *p, struct p9_answer *a)
{
    a->buf = NULL;
    int r = p ? p9_rpc_finish(t->conn, call, p, a) : 0;
    if (r < 0 && o->r != -ECONNABORTED)
        o->r = r;
}

/* Stage one: a fid of the object. */
static void start_find(struct p9s_tree *t, struct pl_call *call, struct reopening *o)
{
    struct p9s_rec *rec = o->rec;
    struct p9s_key *key = rec->node ? atomic_load(&rec->node->key) : NULL;
    struct p9s_way w;
    if (rec->how != P9S_OBJECT || !rec->more || !rec->more->open || rec->more->name ||
        p9s_gone_with_it(o->f) || !p9s_fid_is_there(t, rec->user->root)) {
        o->r = -EAGAIN;
    } else if (key) {
        struct p9_msg m = {.type = P9_Tfind,
                           .fid = rec->user->root,
                           .newfid = o->f->fid,
                           .count = key->len,
                           .data = key->bytes};
        start(t, call, o, &m, &o->find);
    } else if ((o->r = p9s_way(t, rec->node, rec->user, p9s_fid_is_there, &w)) == 0) {
        struct p9_msg m = p9s_walk_msg(w.fid, o->f->fid, NULL);
        o->walked = true;
        if (w.n > LIMIT_WALK)
            o->r = -EAGAIN;
        for (size_t left = w.n; o->r == 0 && left > 0;)
            m.wname[m.nwname++] = p9_str(w.names[--left]);
        if (o->r == 0)
            start(t, call, o, &m, &o->find);
        p9s_way_free(&w);
    }
}

static void finish_find(struct p9s_tree *t, struct pl_call *call, struct reopening *o)
{
    struct p9_answer a;
    if (!o->find)
        return;
    finish(t, call, o, o->find, &a);
    if (o->r == 0 && !o->walked && !p9s_same(o->rec->node, &a.r.attr))
        o->r = -ESTALE;
    p9_answer_free(&a);
    /* how far a walk came is seen by what it led to */
}

/* Stage two: it is opened, and looked at. */
static void start_open(struct p9s_tree *t, struct pl_call *call, struct reopening *o)
{
    if (o->r < 0)
        return; /* and it may have nothing to be opened by */
    struct p9_msg get = p9s_attr_msg(t, o->f->fid);
    struct p9_msg open = p9s_reopen_msg(t, o->f->fid, o->rec->more);
    if (o->walked)
        start(t, call, o, &get, &o->get);
    if (o->r == 0)
        start(t, call, o, &open, &o->open);
}

static void finish_open(struct p9s_tree *t, struct pl_call *call, struct reopening *o)
{
    struct p9_answer a;
    struct p9_attr attr;
    finish(t, call, o, o->get, &a);
    if (o->r == 0 && o->get) {
        p9s_attr_told(t, &a.r, &attr);
        o->r = p9s_same(o->rec->node, &attr) ? 0 : -ESTALE;
    }
    p9_answer_free(&a);
    finish(t, call, o, o->open, &a);
    p9_answer_free(&a);
    if (o->r == 0)
        o->r = p9s_relock(t, call, o->f);
    if (o->r == 0)
        atomic_store(&o->rec->gen, t->again->gen);
    else if (o->find)
        p9s_fid_clear(t, o->f->fid);
}

static int reopen_some(struct p9s_tree *t, struct pl_call *call, struct p9s_file **files, size_t n)
{
    struct reopening o[WINDOW] = {0};
    int r = 0;
    for (size_t i = 0; i < n; i++) {
        o[i].f = files[i];
        o[i].rec = p9s_rec(t, files[i]->fid);
        start_find(t, call, &o[i]);
    }
    for (size_t i = 0; i < n; i++)
        finish_find(t, call, &o[i]);
    for (size_t i = 0; i < n; i++)
        start_open(t, call, &o[i]);
    for (size_t i = 0; i < n; i++)
        finish_open(t, call, &o[i]);
    for (size_t i = 0; i < n && r != -ECONNABORTED && r != -EINTR; i++)
        r = o[i].r < 0 ? p9s_ensure_fid(t, call, files[i]->fid) : 0;
    return r;
}

/* All open files, each with a reference and one on its node: their number. */
static size_t all_files(struct p9s_again *a, struct p9s_file ***ret)
{
    size_t n = 0;
    pthread_mutex_lock(&a->mutex);
    for (struct p9s_file *f = a->files; f; f = f->next)
        n++;
    *ret = n ? malloc(n * sizeof(**ret)) : NULL;
    n = 0;
    for (struct p9s_file *f = *ret ? a->files : NULL; f; f = f->next) {
        f->refs++;
        pl_node_ref(&f->node->h.node);
        (*ret)[n++] = f;
    }
    pthread_mutex_unlock(&a->mutex);
    return n; /* without memory: each when it is next used */
}

int p9s_reopen_all(struct p9s_tree *t, struct pl_call *call)
{
    struct p9s_file **files;
    size_t n = all_files(t->again, &files);
    int r = 0;
    for (size_t i = 0; i < n && r != -ECONNABORTED && r != -EINTR; i += WINDOW)
        r = reopen_some(t, call, files + i, n - i < WINDOW ? n - i : WINDOW);
    for (size_t i = 0; i < n; i++) {
        struct p9s_node *node = files[i]->node;
        p9s_file_unref(t, files[i]);
        pl_node_unref(&node->h.node);
    }
    free(files);
    return r;
}
