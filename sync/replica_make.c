/* SPDX-License-Identifier: MIT */
/* One object: has the replica diverged, what is in the way, making it, moving it. */
#include "sync/replica_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SMALL (64u << 10)      /* not worth a place in limbo: it is sent again */
#define LIMBO ".plenum-limbo-" /* in the root: what is in the way, until it is known why */
/* ---- divergence ---- */

/* Size and times, where they can be had. */
static bool same_state(const struct note *n, const struct pl_attr *a)
{
    return a->size == n->o->dst.size && replica_ns(&a->mtime) == n->o->dst.mtime &&
           (!n->o->dst.ctime || replica_ns(&a->ctime) == n->o->dst.ctime);
}

/* Does the replica's object look as it was noted? 1 yes, 0 no, or an error. */
static int as_noted(struct replica *r, struct pair *p)
{
    struct note *n = p->note;
    const struct pl_attr *a = &p->dattr;
    bool mode = S_ISLNK(n->fmt) || (a->mode & 07777) == n->o->dst_mode;
    uint64_t extra;
    if ((a->mode & S_IFMT) != n->fmt)
        return 0;
    p->untrusted |= (n->o->flags & NOTE_BUSY) != 0;
    if (!p->untrusted && n->parent && !(mode && a->uid == n->o->dst_uid && a->gid == n->o->dst_gid))
        return 0;
    if (S_ISREG(n->fmt)) {
        p->touched = !same_state(n, a);
        return p->untrusted || p->touched || r->check ? replica_same(r, p) : 1;
    }
    if (S_ISDIR(n->fmt) || p->untrusted)
        return 1;
    int e = replica_extra(r, r->dst, p->dst, a, &extra);
    return e < 0 ? e : extra == n->o->extra;
}

/* We have renamed or linked it, by which its ctime is another; it was as noted just before. */
static void renamed(struct replica *r, struct note *n, struct pl_node *node)
{
    struct pl_attr a;
    if (S_ISREG(n->fmt) && !(n->o->flags & NOTE_BUSY) &&
        pl_getattr(r->dst, r->call, node, NULL, &a) == 0 && a.size == n->o->dst.size &&
        replica_ns(&a.mtime) == n->o->dst.mtime)
        n->o->dst.ctime = replica_ns(&a.ctime);
}

/* Puts the replica's own version under another name. */
static int put_aside(struct replica *r, const char *path)
{
    struct pl_node *dir;
    char date[32], name[PL_NAME_MAX + 1];
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(date, sizeof(date), "%Y%m%dT%H%M%SZ", &tm);
    int e = replica_dst_dir(r, path, &dir);
    for (int i = 0; e == 0 && i < 1000; i++) {
        snprintf(name, sizeof(name), "%.200s.kept-%s%s%.0d", replica_last_name(path), date,
                 i ? "-" : "", i);
        e = r->dry ? 0
                   : pl_rename(r->dst, r->call, dir, replica_last_name(path), dir, name,
                               RENAME_NOREPLACE);
        if (e != -EEXIST)
            break;
        e = 0;
    }
    replica_spot_clear(&r->p->ddir);
    if (e == 0)
        replica_tell(r, REPLICA_KEPT, path, name);
    return e;
}

/* Somebody else changed what is at the path: what is to be done, or an error. */
static int diverged(struct replica *r, const char *path, struct note *n, const char *how)
{
    if (r->resolve == REPLICA_FAIL) {
        replica_tell(r, REPLICA_DIVERGED, path, how);
        if (n && !(n->flags & NOTE_DIVERGED)) {
            n->flags |= NOTE_DIVERGED;
            notes_put(r->notes, n);
        }
        return SKIP;
    }
    if (r->resolve == REPLICA_KEEP) {
        int e = put_aside(r, path);
        return e < 0 ? e : ANEW;
    }
    return GO;
}

/* Is it what we were about to make when we ended? */
static bool just_made(struct replica *r, const struct pair *p)
{
    char path[PATH_SIZE];
    struct pl_node *node;
    struct pl_attr a;
    uint64_t extra;
    struct note *n = p->note, *t = notes_object(r->notes, n->ino);
    if ((p->dattr.mode & S_IFMT) != n->fmt)
        return false;
    if (n->o->names > 1) { /* a link: to what is at another name */
        while (t && (t->o != n->o || (t->flags & NOTE_NEW)))
            t = t->twin;
        if (!t || !notes_path(t, path, sizeof(path)) || replica_dst_find(r, path, &node, &a) < 0)
            return false;
        pl_node_unref(node);
        return a.ino == p->dattr.ino;
    }
    return S_ISREG(n->fmt) ? p->dattr.size == 0
           : S_ISDIR(n->fmt)
               ? true /* then what is in it is looked at by itself */
               : replica_extra(r, r->dst, p->dst, &p->dattr, &extra) == 0 && extra == n->o->extra;
}

/* Looks at the replica's object of a note: fills p->dst, p->dattr with a reference, unless ANEW
 * (there is none, and the note is gone). */
static int look(struct replica *r, struct pair *p)
{
    int e = replica_dst_find(r, p->path, &p->dst, &p->dattr);
    if (e == -ENOENT && r->p->moved) {
        p->dst = NULL;
        return GO;
    }
    if (e == -ENOENT) {
        p->dst = NULL;
        e = r->resolve == REPLICA_FAIL && !(p->note->flags & (NOTE_NEW | NOTE_MAYBE))
                ? diverged(r, p->path, p->note, "removed at the replica")
                : ANEW;
        if (e == ANEW)
            notes_del(r->notes, p->note);
        return e;
    }
    if (e < 0)
        return e;
    int same = as_noted(r, p);
    if (same >= 0 && (p->note->flags & NOTE_NEW) && !just_made(r, p))
        same = ANEW; /* replica_make_new() finds out whether it is the same as the source's */
    else if (same == 0)
        same = diverged(r, p->path, p->note, "changed at the replica");
    else if (same > 0)
        return GO;
    if (same == GO)
        p->untrusted = p->ours = true;
    /* Of another type: it cannot be changed into the source's. */
    if (same == GO && (p->dattr.mode & S_IFMT) != p->note->fmt)
        same = put_aside(r, p->path) < 0 ? SKIP : ANEW;
    if (same == ANEW)
        notes_del(r->notes, p->note);
    if (same != GO) {
        pl_node_unref(p->dst);
        p->dst = NULL;
    }
    return same;
}

/* ---- removing ---- */

/* Of a file of which one name was removed, when it was as noted: its ctime is another. */
static void names_left(struct replica *r, const struct note *gone, const struct pl_attr *was)
{
    char path[PATH_SIZE];
    struct pl_node *node;
    struct pl_attr a;
    struct note *t = notes_object(r->notes, gone->ino);
    while (t && (t == gone || t->o != gone->o))
        t = t->twin;
    if (!t || r->dry || !S_ISREG(gone->fmt) || !same_state(gone, was) ||
        !notes_path(t, path, sizeof(path)) || replica_dst_find(r, path, &node, &a) < 0)
        return;
    if (a.ino == was->ino)
        renamed(r, t, node);
    notes_put(r->notes, t);
    pl_node_unref(node);
}

/* About to be removed: not to be missed, if we end here. */
static void going(struct replica *r, struct note *n)
{
    n->flags |= NOTE_MAYBE;
    notes_put(r->notes, n);
    replica_touch(r, n->parent);
}

/* What is noted, all beneath it included. What is not as noted stays, and what it is in. 1: it is
 * gone. */
static int reap(struct replica *r, struct note *n, int depth)
{
    struct note *c, *next;
    struct pair p = {.note = n};
    struct pl_node *dir;
    char path[PATH_SIZE];
    int e = 1;
    if (!notes_path(n, path, sizeof(path)) || depth > MAX_DEPTH)
        return 0;
    p.path = path;
    HASH_ITER (hh, n->children, c, next) {
        int one = reap(r, c, depth + 1);
        if (one < 0)
            return one;
        e = e && one;
    }
    int is = replica_dst_find(r, path, &p.dst, &p.dattr);
    if (is == -ENOENT) {
        notes_del(r->notes, n);
        return 1;
    }
    if (is < 0)
        return is;
    int same = as_noted(r, &p);
    pl_node_unref(p.dst);
    if (same == 0) {
        same = diverged(r, path, n, "changed at the replica, and removed at the source");
        if (same == ANEW)
            notes_del(r->notes, n);
        if (same != GO)
            return same < 0 ? same : same == ANEW;
    }
    if (same < 0 || !e)
        return same < 0 ? same : 0;
    is = r->dry ? 0 : replica_dst_dir(r, path, &dir);
    if (is == 0)
        going(r, n);
    if (is == 0 && !r->dry)
        is = pl_remove(r->dst, r->call, dir, replica_last_name(path),
                       S_ISDIR(n->fmt) ? AT_REMOVEDIR : 0);
    if (S_ISDIR(n->fmt))
        replica_spot_clear(&r->p->ddir);
    if (is == -ENOTEMPTY || is == -EEXIST) {
        replica_tell(r, REPLICA_DIVERGED, path, "has files of somebody else in it");
        return 0;
    }
    if (is < 0 && is != -ENOENT)
        return replica_trouble(r, path, n, is);
    names_left(r, n, &p.dattr);
    if (strncmp(path + 1, LIMBO, strlen(LIMBO)) != 0)
        replica_tell(r, REPLICA_REMOVES, path, "");
    notes_del(r->notes, n);
    return 1;
}

bool replica_in_limbo(const struct note *n)
{
    return n->parent && !n->parent->parent && !strncmp(n->name, LIMBO, strlen(LIMBO));
}

/* `more`: records are waiting, which may say where what is in limbo belongs. */
int replica_reap_all(struct replica *r, bool more)
{
    char path[PATH_SIZE];
    size_t kept = 0;
    int e = 0;
    replica_spot_clear(&r->p->sdir);
    for (size_t i = 0; e >= 0 && i < r->p->doomed.n; i++) {
        struct note *n = r->notes->by_id[r->p->doomed.v[i]];
        if (!n || !n->is_doomed || !notes_path(n, path, sizeof(path)))
            continue;
        if (more && replica_in_limbo(n)) {
            r->p->doomed.v[kept++] = n->id;
            continue;
        }
        n->is_doomed = false;
        /* It is there again, or was never gone. */
        if (!replica_src_gone(r, path)) {
            e = replica_entry(r, path, 0);
            continue;
        }
        e = reap(r, n, 0);
    }
    r->p->doomed.n = e < 0 ? 0 : kept;
    return e < 0 ? e : 0;
}

/* ---- making ---- */

/* What is replaced is still as it was noted: looked at just before. Without a note there is
 * nothing. 0, -EBUSY, or an error. */
static int may_replace(struct replica *r, struct pl_node *dir, const char *path, struct note *over)
{
    struct pair p = {.path = path, .note = over};
    int e = pl_lookup(r->dst, r->call, dir, replica_last_name(path), &p.dst, &p.dattr);
    if (e < 0)
        return e == -ENOENT ? 0 : e;
    e = over ? as_noted(r, &p) : 0;
    pl_node_unref(p.dst);
    return e < 0 ? e : e ? 0 : -EBUSY;
}

/* Of what is noted as `n`. `over`: what is noted at `to`, or NULL. */
static int rename_at(struct replica *r, struct note *n, const char *from, const char *to,
                     struct note *over)
{
    struct pl_node *a, *b, *node = NULL;
    struct pl_attr attr;
    const char *x = replica_last_name(from), *y = replica_last_name(to);
    int e = replica_dst_dir(r, from, &a);
    if (e < 0)
        return e;
    pl_node_ref(a);
    e = replica_dst_dir(r, to, &b);
    if (e == 0 && !r->dry) {
        bool same = S_ISREG(n->fmt) && pl_lookup(r->dst, r->call, a, x, &node, &attr) == 0 &&
                    same_state(n, &attr);
        e = over ? -EINVAL : pl_rename(r->dst, r->call, a, x, b, y, RENAME_NOREPLACE);
        if (e == -EINVAL) { /* also a tree that does not know how not to replace */
            e = may_replace(r, b, to, over);
            e = e < 0 ? e : pl_rename(r->dst, r->call, a, x, b, y, 0);
        }
        if (same && e == 0)
            renamed(r, n, node);
        if (node)
            pl_node_unref(node);
    }
    pl_node_unref(a);
    replica_spot_clear(&r->p->ddir);
    return e;
}

/* Of a directory that moves: what was not found in it, and beneath, is looked for again. If it was
 * not its own record that said so, others that are to come have names of the place where it was: of
 * those everything beneath is looked at. */
static void look_again(struct replica *r, struct note *top, const char *from, const char *to)
{
    const struct journal_record *rec = r->p->rec;
    bool all = !rec || strcmp(rec->path, from) != 0 || strcmp(rec->path2, to) != 0;
    struct note *at = top;
    while (at) {
        /* The top itself in any case: its number may have been another directory's before. */
        if (S_ISDIR(at->fmt) && (all || at == top || (at->flags & NOTE_DEEP)))
            replica_add_id(&r->p->deep, at);
        if (at->children) {
            at = at->children;
            continue;
        }
        while (at != top && !at->hh.next)
            at = at->parent;
        at = at == top ? NULL : at->hh.next;
    }
}

/* Something in this directory was not found, by which it may only be known that it has moved. */
void replica_look_later(struct replica *r, struct note *dir)
{
    if (dir->flags & NOTE_DEEP)
        return;
    dir->flags |= NOTE_DEEP;
    notes_put(r->notes, dir);
}

/* The same of something noted; nothing may be in its way but what is noted too. */
static int move_noted(struct replica *r, struct note *n, const char *from, const char *to,
                      struct note *dir)
{
    struct note *over = notes_child(dir, replica_last_name(to));
    replica_touch(r, n->parent);
    replica_touch(r, dir);
    notes_intend(r->notes, n, dir, replica_last_name(to));
    int e = rename_at(r, n, from, to, over);
    if (e < 0)
        return e;
    r->p->moved |= r->dry;
    if (over)
        notes_del(r->notes, over);
    n->is_doomed = false;
    look_again(r, n, from, to);
    return notes_move(r->notes, n, dir, replica_last_name(to));
}

/* A move of which the result was never heard. */
int replica_finish_intent(struct replica *r)
{
    char from[PATH_SIZE], to[PATH_SIZE];
    struct note *n = r->notes->intent.note, *dir = r->notes->intent.dir;
    struct pl_node *node;
    struct pl_attr attr;
    if (!n || r->dry || !notes_path(n, from, sizeof(from)) || !notes_path(dir, to, sizeof(to)))
        return 0;
    size_t len = strlen(to) > 1 ? strlen(to) : 0;
    snprintf(to + len, sizeof(to) - len, "/%s", r->notes->intent.name);
    int e = replica_dst_find(r, from, &node, &attr);
    if (e == 0)
        pl_node_unref(node);
    if (e != -ENOENT)
        return e;
    e = replica_dst_find(r, to, &node, &attr);
    if (e < 0)
        return e == -ENOENT ? 0 : e;
    pl_node_unref(node);
    struct note *over = notes_child(dir, replica_last_name(to));
    if (over)
        notes_del(r->notes, over);
    return notes_move(r->notes, n, dir, replica_last_name(to));
}

/* Moves what is in the way aside: it may turn up elsewhere in the source. */
static int to_limbo(struct replica *r, struct note *n, const char *path)
{
    char name[64], to[80];
    snprintf(name, sizeof(name), LIMBO "%u", n->id);
    snprintf(to, sizeof(to), "/%s", name);
    int e = move_noted(r, n, path, to, r->notes->root);
    if (e < 0)
        return e;
    replica_doom(r, n);
    return e;
}

/* Frees the path, where another object is noted. `over`: what comes replaces a file by itself. GO,
 * SKIP or an error. */
int replica_clear_way(struct replica *r, struct note *n, const char *path, bool over)
{
    struct pair p = {.path = path, .note = n};
    struct pl_node *dir;
    int v = look(r, &p);
    if (v == ANEW)
        return GO;
    if (v != GO)
        return v;
    pl_node_unref(p.dst);
    bool small = !S_ISDIR(n->fmt) && p.dattr.size <= SMALL;
    if (!small)
        return to_limbo(r, n, path);
    int e = over || r->dry ? 0 : replica_dst_dir(r, path, &dir);
    if (e == 0 && !over)
        going(r, n);
    if (e == 0 && !over && !r->dry)
        e = pl_remove(r->dst, r->call, dir, replica_last_name(path), 0);
    if (e < 0 && e != -ENOENT)
        return e;
    if (!over)
        notes_del(r->notes, n);
    return GO;
}

static int make_special(struct replica *r, struct pair *p, struct pl_node *dir)
{
    char target[PL_PATH_MAX + 1];
    struct pl_make mk = {.mode = p->sattr.mode,
                         .rdev_major = p->sattr.rdev_major,
                         .rdev_minor = p->sattr.rdev_minor};
    if (S_ISDIR(mk.mode))
        mk.mode = S_IFDIR | 0700;
    if (S_ISLNK(mk.mode)) {
        int n = pl_readlink(r->src, r->call, p->src, target, PL_PATH_MAX);
        if (n < 0)
            return n;
        target[n] = 0;
        mk.target = target;
    }
    return pl_make(r->dst, r->call, dir, replica_last_name(p->path), &mk, &p->dst, &p->dattr);
}

static int make_file(struct replica *r, struct pair *p, struct pl_node *dir)
{
    struct pl_file *f;
    int e = pl_create(r->dst, r->call, dir, replica_last_name(p->path), O_RDWR | O_CREAT | O_EXCL,
                      0600, &p->dst, &p->dattr, &f);
    if (e == 0)
        pl_close(r->dst, r->call, f);
    return e;
}

/* Something is there that was never noted: taken over if it is the same. GO, SKIP, ANEW, an error.
 */
static int take_over(struct replica *r, struct pair *p)
{
    uint64_t a, b;
    int e = replica_dst_find(r, p->path, &p->dst, &p->dattr), same = 0;
    if (e < 0)
        return e == -ENOENT ? ANEW : e;
    if ((p->dattr.mode & S_IFMT) == (p->sattr.mode & S_IFMT)) {
        if (S_ISDIR(p->sattr.mode)) {
            same = 1;
        } else if (S_ISREG(p->sattr.mode)) {
            same = replica_equal(r, p);
        } else {
            e = replica_extra(r, r->src, p->src, &p->sattr, &a);
            e = e < 0 ? e : replica_extra(r, r->dst, p->dst, &p->dattr, &b);
            same = e < 0 ? e : a == b;
        }
    }
    e = same == 0  ? diverged(r, p->path, NULL, "is there already, and is not the same")
        : same < 0 ? same
                   : GO;
    if (e == GO && same == 0 && !S_ISREG(p->sattr.mode))
        e = put_aside(r, p->path) < 0 ? SKIP : ANEW;
    p->untrusted = p->fresh = e == GO;
    p->ours = e == GO && same == 0;
    if (e != GO) {
        pl_node_unref(p->dst);
        p->dst = NULL;
    }
    return e;
}

static int make_at(struct replica *r, struct pair *p)
{
    struct pl_node *dir;
    if (r->dry)
        return 0;
    int e = replica_dst_dir(r, p->path, &dir);
    return e < 0 ? e : S_ISREG(p->sattr.mode) ? make_file(r, p, dir) : make_special(r, p, dir);
}

static int try_dry(struct replica *r, struct pair *p)
{
    int e = replica_dst_find(r, p->path, &p->dst, &p->dattr);
    if (e == 0)
        pl_node_unref(p->dst);
    p->dst = NULL;
    return e == 0 ? -EEXIST : e == -ENOENT ? 0 : e;
}

/* Content and attributes; what somebody else changes meanwhile is a divergence too. */
static int fill(struct replica *r, struct pair *p, struct note *dir)
{
    int e = replica_fill(r, p);
    if (e == FOREIGN) {
        e = diverged(r, p->path, p->note, "changed at the replica while it was written");
        if (e == SKIP)
            return 0;
        if (e == ANEW) {
            notes_del(r->notes, p->note);
            pl_node_unref(p->dst);
            p->dst = NULL;
            return replica_make_new(r, p, dir);
        }
        p->ours = p->untrusted = true;
        e = e < 0 ? e : replica_fill(r, p);
        e = e == FOREIGN ? -EBUSY : e;
    }
    return e < 0 ? replica_trouble(r, p->path, p->note, e) : 0;
}

/* Makes the object of the source at p->path, where nothing is noted. */
int replica_make_new(struct replica *r, struct pair *p, struct note *dir)
{
    uint64_t extra = 0;
    bool taken = false, special = !S_ISREG(p->sattr.mode) && !S_ISDIR(p->sattr.mode);
    p->fresh = true;
    p->untrusted = p->touched = p->ours = false;
    int e = special ? replica_extra(r, r->src, p->src, &p->sattr, &extra) : 0;
    if (e < 0)
        return replica_trouble(r, p->path, NULL, e);
    p->note = notes_add(r->notes, dir, replica_last_name(p->path), p->sattr.ino, p->sattr.mode);
    if (!p->note)
        return -ENOMEM;
    p->note->flags = NOTE_NEW;
    p->note->o->flags = NOTE_BUSY;
    p->note->o->extra = extra;
    notes_put(r->notes, p->note);
    replica_touch(r, dir);
    e = r->dry ? try_dry(r, p) : make_at(r, p);
    r->p->moved |= r->dry;
    if (e == -EEXIST) {
        e = take_over(r, p);
        taken = e == GO;
        if (e == ANEW)
            e = make_at(r, p);
        p->fresh = true;
    }
    if (e < 0 && !replica_minor(e) && e != -ENOENT)
        return e; /* the answer may be lost, and the object be there */
    if (e < 0 || e == SKIP) {
        notes_del(r->notes, p->note);
        return e < 0 ? replica_trouble(r, p->path, NULL, e) : 0;
    }
    /* What is in a directory may have come with it, from elsewhere. */
    p->note->flags = S_ISDIR(p->sattr.mode) ? NOTE_DEEP : 0;
    notes_put(r->notes, p->note);
    if (S_ISDIR(p->sattr.mode))
        replica_add_id(&r->p->deep, p->note);
    if (!taken)
        replica_tell(r, REPLICA_MAKES, p->path, "");
    return fill(r, p, dir);
}

/* The note of the object under another name, and whether that is still its name in the source. */
struct note *replica_elsewhere(struct replica *r, const struct pair *p, char from[PATH_SIZE],
                               bool *still)
{
    struct note *m = notes_object(r->notes, p->sattr.ino), *at = notes_find(r->notes, p->path);
    while (m && (m == at || m->fmt != (p->sattr.mode & S_IFMT) || (m->flags & NOTE_NEW) ||
                 !notes_path(m, from, PATH_SIZE)))
        m = m->twin;
    *still = m && replica_src_ino(r, from) == p->sattr.ino;
    return m && *still && S_ISDIR(m->fmt) ? NULL : m;
}

/* Another name of what is at m's, which is looked at. 0, FOREIGN or an error. */
static int link_noted(struct replica *r, struct pair *old, const char *path, struct note *dir)
{
    struct note *m = old->note, *twin;
    struct pl_node *d;
    struct pair to = {.path = path};
    int e = r->dry ? 0 : replica_dst_dir(r, path, &d);
    if (e < 0)
        return e;
    bool same = !r->dry && pl_getattr(r->dst, r->call, old->dst, NULL, &old->dattr) == 0 &&
                same_state(m, &old->dattr);
    to.note = twin = notes_link(r->notes, dir, replica_last_name(path), m);
    if (!twin)
        return -ENOMEM;
    twin->flags = NOTE_NEW;
    notes_put(r->notes, twin);
    replica_touch(r, dir);
    if (!r->dry)
        e = pl_link(r->dst, r->call, old->dst, d, replica_last_name(path), &old->dattr);
    if (e == -EEXIST && replica_dst_find(r, path, &to.dst, &to.dattr) == 0) {
        e = just_made(r, &to) ? 0 : e;
        pl_node_unref(to.dst);
    }
    e = replica_dst_gone(r, old, e);
    if (e < 0 && !replica_minor(e) && e != -ENOENT)
        return e; /* the answer may be lost, and the name be there */
    if (e != 0) {
        notes_del(r->notes, twin);
        return e;
    }
    if (same)
        renamed(r, m, old->dst);
    twin->flags = 0;
    notes_put(r->notes, twin);
    return 0;
}

/* The object is noted as `m` at `from`: moved here, or linked. 1: it is at p->path now;
 * ANEW: it is not there, and its note gone. */
int replica_bring(struct replica *r, struct pair *p, struct note *dir, struct note *m,
                  const char *from, bool still)
{
    struct pair old = {.path = from, .note = m};
    int v = look(r, &old);
    if (v != GO)
        return v == SKIP ? 0 : v;
    int e = still ? link_noted(r, &old, p->path, dir) : move_noted(r, m, from, p->path, dir);
    if (old.dst)
        pl_node_unref(old.dst);
    if (e != 0) /* a copy of its own, then */
        return replica_minor(e) || e == -ENOENT || e == FOREIGN ? 0 : e;
    replica_tell(r, still ? REPLICA_LINKS : REPLICA_RENAMES, from, p->path);
    return 1;
}

static bool unchanged(const struct replica *r, const struct pair *p)
{
    const struct note *n = p->note;
    const struct pl_attr *a = &p->sattr;
    struct written *w;
    HASH_FIND(hh, r->p->written, &n->ino, sizeof(n->ino), w);
    return !n->flags && !n->o->flags && !w && !r->check && n->o->src.size == a->size &&
           n->o->src.mtime == replica_ns(&a->mtime) && n->o->src.ctime == replica_ns(&a->ctime);
}

/* A link or device that is another, with the number that one had which has gone, cannot be changed
 * into it: GO (it is the same), SKIP, ANEW or an error. */
static int another_special(struct replica *r, struct pair *p)
{
    uint64_t is, has = p->note->o->extra;
    int e = replica_extra(r, r->src, p->src, &p->sattr, &is);
    if (e == 0 && p->untrusted && p->dst)
        e = replica_extra(r, r->dst, p->dst, &p->dattr, &has);
    if (e < 0 || is == has)
        return e < 0 ? e : GO;
    if (p->dst)
        pl_node_unref(p->dst);
    p->dst = NULL;
    e = p->untrusted && !p->ours ? diverged(r, p->path, p->note, "is not what it was made as") : GO;
    if (e == ANEW)
        notes_del(r->notes, p->note);
    if (e == GO)
        e = replica_clear_way(r, p->note, p->path, false);
    return e == GO ? ANEW : e;
}

int replica_update(struct replica *r, struct pair *p, struct note *dir)
{
    bool same = unchanged(r, p);
    p->note->is_doomed = false;
    if (same && !r->p->comparing)
        return 0;
    int v = p->path[1] ? look(r, p) : replica_dst_find(r, "/", &p->dst, &p->dattr);
    if (v == ANEW)
        return ANEW;
    struct written *w;
    HASH_FIND(hh, r->p->written, &p->sattr.ino, sizeof(p->sattr.ino), w);
    if (w && v == SKIP) { /* left alone, and told */
        w->done = true;
        w->object = p->note->o->id;
    }
    if (v != GO)
        return v == SKIP ? 0 : replica_trouble(r, p->path, p->note, v);
    if (!S_ISREG(p->note->fmt) && !S_ISDIR(p->note->fmt)) {
        v = another_special(r, p);
        if (v != GO)
            return v == ANEW ? ANEW : v < 0 ? replica_trouble(r, p->path, NULL, v) : 0;
    }
    return same && !p->untrusted && !p->touched ? 0 : fill(r, p, dir);
}
