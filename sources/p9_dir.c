/* SPDX-License-Identifier: MIT */
/*
 * Reading directories through the 9P source. One answer holds far more entries than who reads takes
 * at a time, so the last is kept with the open directory, and read on from where it was left.
 *
 * Where attributes are wanted, one of us is asked for them along with the names (Tlist); when the
 * first answer was not all, a few more are asked for at once, each to go on where the one before
 * ended. What comes so makes nodes that have no fid: they get one when they need it (p9s_fid).
 *
 * `mutex` guards the rest.
 */
#include "base/cursor.h"
#include "sources/p9_again.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ASK = 64 << 10, ASK_LIST = 192 << 10, AHEAD = 4 };

struct p9s_dir {
    struct p9s_aside aside;
    pthread_mutex_t mutex;
    uint64_t next;           /* the position of the entry at `at` */
    size_t at, len;          /* what is unread in buf */
    uint8_t *buf;            /* in `answer` */
    bool lists, ended;       /* buf has entries of Rlist; nothing follows it */
    struct p9_answer answer; /* the last */
    unsigned first, under_way;
    struct p9_pending *pending[AHEAD]; /* of Tlist, in order */
    uint64_t clock[AHEAD], since;      /* the tree's when that was asked, and what is in buf */
};

/* What was read, and is being read, is not wanted: the next entry is the one at `off`. */
static void restart(struct p9s_tree *t, struct p9s_dir *d, uint64_t off)
{
    for (; d->under_way; d->under_way--, d->first = (d->first + 1) % AHEAD)
        p9s_try_abandon(t, d->pending[d->first]);
    p9_answer_free(&d->answer);
    d->at = d->len = 0;
    d->next = off;
    d->lists = d->ended = false;
}

void p9s_dir_free(struct p9s_tree *t, struct p9s_dir *dir)
{
    if (!dir)
        return;
    p9s_aside_del(t, &dir->aside);
    restart(t, dir, 0);
    pthread_mutex_destroy(&dir->mutex);
    free(dir);
}

/* The connection is over: what was under way is asked for again, from the next entry on. */
static void let_go(struct p9s_tree *t, struct p9s_aside *aside)
{
    struct p9s_dir *d = (struct p9s_dir *)aside;
    if (pthread_mutex_trylock(&d->mutex) != 0)
        return;
    if (d->under_way)
        restart(t, d, d->next);
    pthread_mutex_unlock(&d->mutex);
}

static struct p9s_dir *dir_of(struct p9s_tree *t, struct p9s_file *f)
{
    pthread_mutex_lock(&t->mutex);
    struct p9s_dir *d = f->dir;
    pthread_mutex_unlock(&t->mutex);
    if (d || !(d = calloc(1, sizeof(*d))))
        return d;
    pthread_mutex_init(&d->mutex, NULL);
    p9s_aside_add(t, &d->aside, let_go);
    pthread_mutex_lock(&t->mutex);
    struct p9s_dir *other = f->dir;
    if (!other)
        f->dir = d;
    pthread_mutex_unlock(&t->mutex);
    if (other)
        p9s_dir_free(t, d);
    return other ? other : d;
}

/* ---- asking ---- */

static uint32_t most(const struct p9s_tree *t, uint32_t n)
{
    return t->chunk < n ? t->chunk : n;
}

/* Asks for what follows all that is under way, if that goes without waiting. */
static bool go_on(struct p9s_tree *t, struct p9s_file *f, struct p9s_dir *d)
{
    unsigned i = (d->first + d->under_way) % AHEAD;
    struct p9_msg m = {
        .type = P9_Tlist, .fid = f->fid, .offset = P9_LIST_ON, .count = most(t, ASK_LIST)};
    d->clock[i] = atomic_load(&t->clock);
    if (p9s_try(t, &m, &d->pending[i]) < 0)
        return false;
    d->under_way++;
    return true;
}

/* The first answer that is under way. */
static int take_first(struct p9s_tree *t, struct pl_call *call, struct p9s_dir *d)
{
    unsigned i = d->first;
    int r = p9s_try_wait(t, call, d->pending[i], &d->mutex);
    if (r < 0)
        return r;
    if (d->under_way == 0 || d->first != i)
        return P9S_LOST; /* it was let go of meanwhile */
    d->since = d->clock[i];
    d->first = (i + 1) % AHEAD;
    d->under_way--;
    return p9s_try_finish(t, d->pending[i], &d->answer);
}

/* The next answer of a listing. */
static int list_some(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f,
                     struct p9s_dir *d)
{
    int r = P9S_LOST;
    if (d->lists) /* the directory is larger than an answer: the next ones are wanted too */
        while (d->under_way < AHEAD && go_on(t, f, d))
            ;
    if (d->under_way)
        r = take_first(t, call, d);
    if (r != P9S_LOST)
        return r;
    struct p9_msg m = {
        .type = P9_Tlist, .fid = f->fid, .offset = d->next, .count = most(t, ASK_LIST)};
    restart(t, d, d->next);
    d->since = atomic_load(&t->clock);
    return p9s_ask(t, call, &m, &d->answer);
}

/* Asks for entries from d->next: their bytes, 0 at the end. */
static int read_some(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f,
                     struct p9s_dir *d)
{
    int r;
    uint64_t off = d->next;
    bool list = d->lists || (t->ext && call->plus);
    p9_answer_free(&d->answer);
    d->at = d->len = 0;
    if (list) {
        r = list_some(t, call, f, d);
    } else {
        struct p9_msg m = {
            .type = P9_Treaddir, .fid = f->fid, .offset = off, .count = most(t, ASK)};
        r = p9s_ask(t, call, &m, &d->answer);
    }
    if (r == 0 && d->answer.r.count > most(t, list ? ASK_LIST : ASK))
        r = -EIO;
    if (r < 0) {
        restart(t, d, off);
        return r;
    }
    d->lists = list;
    d->buf = d->answer.r.data;
    d->len = d->answer.r.count;
    return (int)d->len;
}

/* ---- entries ---- */

#define ENTRY_MAX (P9_ENTRY_SIZE + LIMIT_NAME)

/* The next entry, not yet taken: the bytes it has, or -EIO for one that cannot be. It may be asked
 * for again, so a copy of it is decoded, which holds the name. */
static int parse(const struct p9s_dir *d, char copy[ENTRY_MAX], struct p9_entry *e)
{
    size_t n = d->len - d->at;
    n = n < ENTRY_MAX ? n : ENTRY_MAX;
    memcpy(copy, d->buf + d->at, n);
    int r;
    if (d->lists) {
        r = p9_entry_get(copy, n, e);
    } else {
        struct p9_dirent plain;
        r = p9_dirent_get(copy, n, &plain);
        *e = (struct p9_entry){
            .attr.qid = plain.qid, .offset = plain.offset, .type = plain.type, .name = plain.name};
    }
    if (r <= 0 || memchr(e->name.s, '/', e->name.len) || (e->name.len == 0 && !d->lists))
        return -EIO;
    if (e->name.len && (e->offset == 0 || e->offset > PL_OFF_MAX || e->offset == d->next))
        return -EIO; /* would be read for ever */
    return r;
}

/* The entry's node, if it comes with attributes: not if we have changed the directory, or it, since
 * that was asked. */
static int node_of(struct p9s_tree *t, struct p9s_file *f, const struct p9_entry *e,
                   struct pl_dirent *ent, struct pl_attr *attr)
{
    struct p9s_node *dir = (struct p9s_node *)f->file.node;
    uint64_t since = f->dir->since;
    if (!e->attr.valid || !strcmp(ent->name, ".") || !strcmp(ent->name, "..") ||
        !p9s_untouched(t, dir, since))
        return 0;
    int r = p9s_node(t, f->user, P9_NOFID, &e->attr, dir, ent->name, &ent->node, attr);
    if (r < 0)
        return r;
    ent->type = IFTODT(attr->mode);
    struct p9s_node *node = (struct p9s_node *)ent->node;
    if (p9s_untouched(t, node, since) && p9s_settled(node)) {
        p9s_note_xattrs(t, node, &e->attr, since);
        ent->attr = attr;
    } else {
        pl_node_unref(ent->node);
        ent->node = NULL;
    }
    return 0;
}

/* Hands the entry over, with node and attributes if it has them: what fill says. */
static int give(struct p9s_tree *t, struct p9s_file *f, const struct p9_entry *e, pl_fill_fn *fill,
                void *arg)
{
    struct pl_dirent ent = {
        .name = e->name.s, .ino = e->attr.qid.path, .next = e->offset, .type = e->type};
    struct pl_attr attr;
    if (ent.type > DT_WHT)
        ent.type = DT_UNKNOWN;
    if (ent.type == DT_UNKNOWN && (e->attr.qid.type & P9_QTDIR))
        ent.type = DT_DIR;
    int r = node_of(t, f, e, &ent, &attr);
    if (r == 0)
        r = fill(arg, &ent) ? 1 : 0;
    pl_node_unref(ent.node);
    return r;
}

int p9s_readdir(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, uint64_t off,
                pl_fill_fn *fill, void *arg)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_file *f = (struct p9s_file *)file;
    struct p9s_dir *d = dir_of(t, f);
    int r = 0;
    if (!d)
        return -ENOMEM;
    pthread_mutex_lock(&d->mutex);
    if (off == 0 || off != d->next) /* rewound, or somewhere else */
        restart(t, d, off);
    while (r == 0) {
        char copy[ENTRY_MAX];
        struct p9_entry e;
        if (d->at == d->len) {
            r = d->ended ? 0 : read_some(t, call, f, d);
            if (r <= 0)
                break;
        }
        int n = parse(d, copy, &e);
        if (n > 0 && e.name.len == 0) {
            d->ended = true;
            d->at = d->len;
            r = 0;
            continue;
        }
        r = n < 0 ? n : give(t, f, &e, fill, arg);
        if (r != 0)
            break;
        d->at += (size_t)n;
        d->next = e.offset;
    }
    pthread_mutex_unlock(&d->mutex);
    return r < 0 ? r : 0;
}
