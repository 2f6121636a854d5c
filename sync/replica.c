/* SPDX-License-Identifier: MIT */
/* Which objects: what records and listings say, and in what order it is done. */
#include "sync/replica_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SYNC_AT 1024 /* in a comparison, so many objects are synced together */

static bool is_there(const struct note *dir)
{
    return dir && S_ISDIR(dir->fmt) && !dir->is_doomed;
}

/* The directory of the path, made if need be, with those that it is in: NULL if it cannot be. From
 * the top, so that nothing is called within itself for each directory of a deep path. */
static int parent_of(struct replica *r, const char *path, struct note **ret)
{
    size_t n = (size_t)(strrchr(path, '/') - path);
    char *up = n ? strndup(path, n) : strdup("/");
    int e = up ? 0 : -ENOMEM;
    *ret = up ? notes_find(r->notes, up) : NULL;
    /* The source's directory was the last that was looked in. */
    bool another = *ret && (*ret)->parent && r->p->sdir.node && (*ret)->ino != r->p->sdir.ino;
    for (char *end = up;
         e == 0 && n && (another || !is_there(*ret)) && (end = strchr(end + 1, '/'));) {
        *end = 0;
        if (!is_there(notes_find(r->notes, up)))
            e = replica_entry(r, up);
        *end = '/';
    }
    if (e == 0 && n && (another || !is_there(notes_find(r->notes, up))))
        e = replica_entry(r, up);
    *ret = e == 0 ? notes_find(r->notes, up) : NULL;
    if (*ret && !S_ISDIR((*ret)->fmt))
        *ret = NULL;
    free(up);
    return e < 0 ? e : 0;
}

/* From another name of the replica, as long as one that is noted is there. 0, SKIP or an error. */
static int bring(struct replica *r, struct pair *p, struct note *dir)
{
    char from[PATH_SIZE];
    bool still;
    struct note *m, *other;
    int e = ANEW;
    while (e == ANEW && (m = replica_elsewhere(r, p, from, &still))) {
        other = notes_child(dir, replica_last_name(p->path));
        bool over = !still && !S_ISDIR(p->sattr.mode);
        e = other ? replica_clear_way(r, other, p->path, over) : GO;
        if (e != GO)
            return e;
        e = replica_bring(r, p, dir, m, from, still);
    }
    return e < 0 ? e : 0;
}

/* An object of the source, of which another or none is noted at its path. */
static int place(struct replica *r, struct pair *p, struct note *dir)
{
    int e = bring(r, p, dir);
    struct note *n = e == GO ? notes_child(dir, replica_last_name(p->path)) : NULL;
    if (n && n->ino == p->sattr.ino && n->fmt == (p->sattr.mode & S_IFMT)) {
        p->note = n;
        e = replica_update(r, p, dir);
        return e == ANEW ? replica_make_new(r, p, dir) : e;
    }
    /* It could not be brought: what it was to replace is in the way after all. */
    if (n)
        e = replica_clear_way(r, n, p->path, false);
    return e == SKIP ? 0
           : e < 0   ? replica_trouble(r, p->path, NULL, e)
                     : replica_make_new(r, p, dir);
}

/* What was removed or renamed just before the replica failed may be back. It may be another's too.
 */
static void back_again(struct replica *r, const char *path)
{
    struct pl_node *node;
    struct pl_attr attr;
    if (replica_dst_find(r, path, &node, &attr) < 0)
        return;
    pl_node_unref(node);
    replica_tell(r, REPLICA_DIVERGED, path, "not in the source, and still or again at the replica");
}

/* Nothing is at the path in the source: removed, unless it is the directory that went, with it. */
static void gone(struct replica *r, const char *path, struct note *n)
{
    char up[PATH_SIZE];
    const struct spot *s = &r->p->sdir;
    struct note *dir = n ? n->parent : NULL;
    snprintf(up, sizeof(up), "%s", path);
    for (char *slash; !dir && (slash = strrchr(up, '/'));) {
        *slash = 0;
        dir = notes_find(r->notes, *up ? up : "/");
    }
    if (!dir || !path[1])
        return;
    if (!n && r->p->unsure)
        back_again(r, path);
    bool here = s->node && (s->ino == dir->ino || !dir->parent) &&
                strlen(up) <= strlen(path); /* it is there, and the same */
    if (here)
        replica_touch(r, dir); /* its time is another, even if nothing is to be done in it */
    if (n && here)
        replica_doom(r, n);
    else if (!here || !n)
        replica_look_later(r, dir);
}

/* Makes the replica at `path` what the source is there now. */
int replica_entry(struct replica *r, const char *path)
{
    struct pair p = {.path = path};
    struct note *n = notes_find(r->notes, path), *dir = NULL;
    if (strlen(path) >= PATH_SIZE)
        return 0;
    int e = replica_src_find(r, path, &p.src, &p.sattr);
    if (e == -ENOENT || e == -ENOTDIR) {
        gone(r, path, n);
        return 0;
    }
    if (e < 0)
        return replica_trouble(r, path, n, e);
    atomic_fetch_add(&r->count->files, 1);
    if (r->seen && path[1]) {
        atomic_fetch_add(r->seen, S_ISREG(p.sattr.mode) ? p.sattr.size : 0);
        atomic_fetch_add(r->seen_files, 1);
    }
    if (path[1])
        e = parent_of(r, path, &dir);
    n = notes_find(r->notes, path); /* the parent may have come with it, from elsewhere */
    if (e == 0 && (dir || !path[1])) {
        if (n && !n->parent)
            notes_ino(r->notes, n, p.sattr.ino);
        if (n && n->ino == p.sattr.ino && n->fmt == (p.sattr.mode & S_IFMT)) {
            p.note = n;
            e = replica_update(r, &p, dir);
            e = e == ANEW ? place(r, &p, dir) : e;
        } else {
            e = place(r, &p, dir);
        }
    }
    pl_node_unref(p.src);
    if (p.dst)
        pl_node_unref(p.dst);
    if ((n = notes_find(r->notes, path)))
        n->generation = r->p->generation;
    return e;
}

/* Directories in which we made and removed get the source's times again. */
static int settle(struct replica *r)
{
    char path[PATH_SIZE];
    int e = 0;
    for (size_t i = 0; e == 0 && i < r->p->touched.n && !r->dry; i++) {
        struct note *n = r->notes->by_id[r->p->touched.v[i]];
        struct pair p = {.path = path, .note = n};
        p.untrusted = n && (n->o->flags & NOTE_BUSY);
        if (!n || !notes_path(n, path, sizeof(path)))
            continue;
        if (n->is_doomed || replica_src_find(r, path, &p.src, &p.sattr) < 0) {
            n->o->flags |= NOTE_LOST; /* it gets them where it turns up */
            notes_put(r->notes, n);
            continue;
        }
        e = replica_dst_find(r, path, &p.dst, &p.dattr);
        if (e == 0 && S_ISDIR(p.sattr.mode) && S_ISDIR(p.dattr.mode))
            e = replica_fill(r, &p);
        pl_node_unref(p.src);
        if (p.dst)
            pl_node_unref(p.dst);
        e = e < 0 ? replica_trouble(r, path, n, e) : 0;
    }
    r->p->touched.n = 0;
    return e;
}

/* ---- records ---- */

static void note_written(struct replica *r, const struct journal_record *rec)
{
    struct written *w;
    uint64_t from = rec->off, to = rec->off + rec->len;
    HASH_FIND(hh, r->p->written, &rec->ino, sizeof(rec->ino), w);
    if (!w) {
        w = calloc(1, sizeof(*w));
        if (!w)
            return; /* then the whole file is compared */
        w->ino = rec->ino;
        HASH_ADD(hh, r->p->written, ino, sizeof(w->ino), w);
        if (!w->hh.tbl) {
            free(w);
            return;
        }
    }
    if (rec->len == 0)
        return;
    for (size_t i = 0; i < w->n; i++) {
        if (from <= w->range[i].to && to >= w->range[i].from) {
            w->range[i].from = from < w->range[i].from ? from : w->range[i].from;
            w->range[i].to = to > w->range[i].to ? to : w->range[i].to;
            return;
        }
    }
    size_t at = w->n < RANGES ? w->n++ : RANGES - 1;
    bool new = at == w->n - 1 && w->range[at].to == 0;
    w->range[at].from = new || from < w->range[at].from ? from : w->range[at].from;
    w->range[at].to = to > w->range[at].to ? to : w->range[at].to;
}

static void begin(struct replica *r)
{
    replica_spot_clear(&r->p->sdir);
    replica_spot_clear(&r->p->ddir);
}

/* ---- what is in a directory ---- */

struct names {
    char **v;
    size_t n, room;
    uint64_t next;
    size_t taken;
    int error;
};

static int take_name(void *arg, const struct pl_dirent *ent)
{
    struct names *l = arg;
    l->next = ent->next;
    l->taken++;
    if (!strcmp(ent->name, ".") || !strcmp(ent->name, ".."))
        return 0;
    if (l->n == l->room) {
        size_t room = l->room ? 2 * l->room : 64;
        char **v = reallocarray(l->v, room, sizeof(*v));
        if (!v) {
            l->error = -ENOMEM;
            return 1;
        }
        l->v = v;
        l->room = room;
    }
    l->v[l->n] = strdup(ent->name);
    l->error = l->v[l->n] ? l->error : -ENOMEM;
    l->n += l->v[l->n] != NULL;
    return l->error ? 1 : 0;
}

static int list(struct replica *r, const char *path, struct names *l)
{
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *f;
    *l = (struct names){0};
    int e = replica_src_find(r, path, &node, &attr);
    if (e < 0)
        return e;
    e = S_ISDIR(attr.mode) ? pl_open(r->src, r->call, node, O_RDONLY | O_DIRECTORY, &f) : -ENOENT;
    if (e == 0) {
        do {
            l->taken = 0;
            e = pl_readdir(r->src, r->call, f, l->next, take_name, l);
        } while (e == 0 && l->taken && !l->error);
        pl_close(r->src, r->call, f);
    }
    pl_node_unref(node);
    return e ? e : l->error;
}

static void listed(struct replica *r, struct note *dir)
{
    if (!(dir->flags & NOTE_DEEP))
        return;
    dir->flags &= ~(uint32_t)NOTE_DEEP;
    notes_put(r->notes, dir);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Lists one directory: what is new, what is not there any more. */
static int list_again(struct replica *r, struct note *dir)
{
    char path[PATH_SIZE], sub[PATH_SIZE];
    struct names l;
    struct note *c, *next;
    if (!notes_path(dir, path, sizeof(path)))
        return 0;
    int e = list(r, path, &l);
    replica_touch(r, dir);
    if (e == 0) {
        bool all = true;
        if (l.n)
            qsort(l.v, l.n, sizeof(*l.v), by_name);
        HASH_ITER (hh, dir->children, c, next) {
            bool is = l.n && bsearch(&c->name, l.v, l.n, sizeof(*l.v), by_name);
            if (!is && !replica_in_limbo(c)) {
                replica_doom(r, c);
                all = false;
            }
        }
        /* Noted only when it is done: who comes after us lists it too. */
        if (all)
            dir->flags &= ~(uint32_t)NOTE_DEEP;
    }
    uint32_t id = dir->id;
    for (size_t i = 0; i < l.n; i++) {
        int len = snprintf(sub, sizeof(sub), "%s/%s", path[1] ? path : "", l.v[i]);
        if (e == 0)
            e = pl_call_over(r->call);
        if (e == 0 && len < (int)sizeof(sub))
            e = replica_entry(r, sub);
        free(l.v[i]);
    }
    dir = r->notes->by_id[id];
    if (dir && e < 0)
        replica_look_later(r, dir);
    else if (dir && !(dir->flags & NOTE_DEEP))
        notes_put(r->notes, dir);
    free(l.v);
    return e < 0 ? replica_trouble(r, path, NULL, e) : 0;
}

/* Directories that are new, or moved with something that was not found in them. */
static int deep(struct replica *r)
{
    int e = 0;
    for (size_t i = 0; e == 0 && i < r->p->deep.n; i++) {
        struct note *n = r->notes->by_id[r->p->deep.v[i]];
        if (n)
            n->to_list = false;
        if (n && !n->is_doomed && !replica_in_limbo(n) && !r->p->comparing)
            e = list_again(r, n);
    }
    r->p->deep.n = 0;
    return e;
}

/* ---- a batch ---- */

/* Something was done to the object: what it has at the replica by other names (it was not found at
 * its path, or could not be linked). Of what is not at its name now, all is compared when it turns
 * up.
 */
static int elsewhere_done(struct replica *r, struct written *w)
{
    char path[PATH_SIZE];
    struct ids ids = {0};
    int e = 0;
    for (struct note *n = notes_object(r->notes, w->ino); n; n = n->twin)
        replica_add_id(&ids, n);
    for (size_t i = 0; e == 0 && i < ids.n; i++) {
        struct note *n = r->notes->by_id[ids.v[i]];
        if (!n || (w->done && n->o->id == w->object))
            continue;
        if (notes_path(n, path, sizeof(path)) && replica_src_ino(r, path) == w->ino) {
            e = replica_entry(r, path);
        } else {
            n->o->flags |= NOTE_LOST;
            notes_put(r->notes, n);
        }
    }
    free(ids.v);
    return e;
}

static int end(struct replica *r, int e, bool more)
{
    struct written *w, *next;
    HASH_ITER (hh, r->p->written, w, next)
        if (e == 0)
            e = elsewhere_done(r, w);
    do { /* what was thought gone may be there, and bring others */
        if (e == 0)
            e = deep(r);
        if (e == 0)
            e = replica_reap_all(r, more);
    } while (e == 0 && r->p->deep.n);
    if (e == 0)
        e = settle(r);
    if (e == 0)
        e = replica_sync(r);
    r->p->unsure = r->p->unsure && e < 0;
    HASH_ITER (hh, r->p->written, w, next) {
        HASH_DEL(r->p->written, w);
        free(w);
    }
    begin(r);
    return e ? e : r->notes->error;
}

/* An object of which the path was not known: where it is noted. */
static int by_number(struct replica *r, uint64_t ino)
{
    char path[PATH_SIZE];
    struct note *n = notes_object(r->notes, ino);
    return n && notes_path(n, path, sizeof(path)) ? replica_entry(r, path) : 0;
}

/* One of the names of a rename. A directory that is noted there already may have had other names in
 * between, of which the records say what is in it now. */
static int renamed(struct replica *r, const char *path)
{
    struct note *n = notes_find(r->notes, path);
    uint32_t id = n ? n->id : 0;
    uint64_t ino = n ? n->ino : 0;
    int e = replica_entry(r, path);
    n = notes_find(r->notes, path);
    if (e == 0 && n && id && n->id == id && n->ino == ino && S_ISDIR(n->fmt) && !n->is_doomed)
        replica_list_beneath(r, n);
    return e;
}

int replica_apply(struct replica *r, const struct journal_record *recs, size_t n, bool more)
{
    int e = 0;
    bool gap = false;
    begin(r);
    for (size_t i = 0; i < n; i++) {
        gap |= recs[i].gap;
        if (recs[i].ino)
            note_written(r, &recs[i]);
    }
    for (size_t i = 0; e == 0 && i < n; i++) {
        const struct journal_record *rec = &recs[i];
        /* Of many writes to one file the first does it all. */
        if (i && !*rec->path2 && !strcmp(rec->path, recs[i - 1].path) && rec->len &&
            recs[i - 1].len)
            continue;
        r->p->rec = rec;
        e = pl_call_over(r->call);
        if (e == 0 && !*rec->path && !*rec->path2 && rec->ino)
            e = by_number(r, rec->ino);
        if (e == 0 && *rec->path2 == '/')
            e = renamed(r, rec->path2);
        if (e == 0 && *rec->path == '/')
            e = *rec->path2 == '/' ? renamed(r, rec->path) : replica_entry(r, rec->path);
    }
    r->p->rec = NULL;
    e = end(r, e, more);
    if (e == 0) {
        /* Nobody hears of the gap again, and who comes after us has to compare all the same. */
        notes_applied(r->notes, recs[n - 1].seq, r->notes->whole && !gap);
        e = notes_sync(r->notes);
    }
    return e;
}

/* ---- all ---- */

static int walk(struct replica *r, const char *path, int depth)
{
    struct names l;
    int e = list(r, path, &l);
    struct note *n = notes_find(r->notes, path), *c;
    if (e < 0) {
        /* What cannot be listed is not therefore gone, and to be looked at where it turns up. */
        for (c = n; c; c = notes_next_beneath(c, n)) {
            c->generation = r->p->generation;
            if (S_ISDIR(c->fmt) && (c == n || e == -ENOENT))
                replica_look_later(r, c);
        }
        e = replica_trouble(r, path, NULL, e);
    } else if (n) {
        listed(r, n); /* what is not found of it sets that again */
    }
    for (size_t i = 0; i < l.n; i++) {
        char *sub = NULL; /* not in the frame: trees may be deep */
        int len = e ? 0 : asprintf(&sub, "%s/%s", path[1] ? path : "", l.v[i]);
        if (e == 0)
            e = len < 0 ? -ENOMEM : pl_call_over(r->call);
        if (e == 0 && len < PATH_SIZE) {
            e = replica_entry(r, sub);
            n = notes_find(r->notes, sub);
            if (e == 0 && n && S_ISDIR(n->fmt) && depth < MAX_DEPTH)
                e = walk(r, sub, depth + 1);
            if (e == 0 && r->p->dirty.n >= SYNC_AT)
                e = replica_sync(r);
        }
        free(len < 0 ? NULL : sub);
        free(l.v[i]);
    }
    free(l.v);
    return e;
}

int replica_compare(struct replica *r, uint64_t seq)
{
    begin(r);
    r->p->comparing = true;
    r->p->generation++;
    int e = replica_entry(r, "/");
    if (e == 0)
        e = walk(r, "/", 0);
    for (uint32_t i = 1; e == 0 && i < r->notes->nids; i++) {
        struct note *n = r->notes->by_id[i];
        if (n && n->generation != r->p->generation &&
            (n->parent->generation == r->p->generation || !n->parent->parent))
            replica_doom(r, n);
    }
    e = end(r, e, false);
    r->p->comparing = false;
    if (e == 0) {
        notes_applied(r->notes, seq > r->notes->applied ? seq : r->notes->applied, true);
        e = notes_sync(r->notes);
    }
    return e;
}

int replica_open(struct replica *r)
{
    struct pl_attr attr;
    r->p = calloc(1, sizeof(*r->p));
    int e = r->p ? pl_attach(r->src, r->call, "", &r->p->sroot, &attr) : -ENOMEM;
    if (e == 0)
        e = pl_attach(r->dst, r->call, "", &r->p->droot, &attr);
    for (uint32_t i = 0; e == 0 && i < r->notes->nids; i++) {
        struct note *n = r->notes->by_id[i];
        if (n) { /* of a batch, or a comparison, that failed: the lists are gone with it */
            n->is_doomed = n->to_list = false;
            n->generation = 0;
        }
    }
    if (e == 0) { /* a replica that is back, or a successor of ours */
        notes_doubt(r->notes);
        r->p->unsure = !r->dry;
    }
    if (e == 0)
        e = replica_finish_intent(r);
    for (uint32_t i = 0; e == 0 && i < r->notes->nids; i++) {
        struct note *n = r->notes->by_id[i];
        if (n && S_ISDIR(n->fmt) && (n->o->flags & NOTE_LOST))
            replica_add_id(&r->p->touched, n);
        if (n && S_ISDIR(n->fmt) && (n->flags & NOTE_DEEP))
            replica_list(r, n);
        if (n && replica_in_limbo(n))
            replica_doom(r, n);
    }
    if (e < 0)
        replica_close(r);
    return e;
}

void replica_close(struct replica *r)
{
    if (!r->p)
        return;
    begin(r);
    free(r->p->doomed.v);
    free(r->p->touched.v);
    free(r->p->deep.v);
    free(r->p->dirty.v);
    if (r->p->sroot)
        pl_node_unref(r->p->sroot);
    if (r->p->droot)
        pl_node_unref(r->p->droot);
    free(r->p);
    r->p = NULL;
}
