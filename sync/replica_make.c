/* SPDX-License-Identifier: MIT */
/* One object: making it, bringing it from elsewhere, making it like the source. */
#include "sync/replica_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

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
    e = same == 0  ? replica_diverged(r, p->path, NULL, "is there already, and is not the same")
        : same < 0 ? same
                   : GO;
    if (e == GO && same == 0 && !S_ISREG(p->sattr.mode))
        e = replica_put_aside(r, p->path) < 0 ? SKIP : ANEW;
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
        e = replica_diverged(r, p->path, p->note, "changed at the replica while it was written");
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
    /* What is in a directory may have come with it, from elsewhere: it is listed, also by who comes
     * after us. */
    p->note->flags = NOTE_NEW | (S_ISDIR(p->sattr.mode) ? NOTE_DEEP : 0);
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
    p->note->flags &= NOTE_DEEP;
    notes_put(r->notes, p->note);
    if (S_ISDIR(p->sattr.mode))
        replica_list(r, p->note);
    if (!taken)
        replica_tell(r, REPLICA_MAKES, p->path, "");
    return fill(r, p, dir);
}

/* The note of the object under another name, and whether that is still its name in the source. */
struct note *replica_elsewhere(struct replica *r, const struct pair *p, char from[PATH_SIZE],
                               bool *still)
{
    struct note *m = notes_object(r->notes, p->sattr.ino), *at = notes_find(r->notes, p->path);
    /* What a predecessor was about to make may be there: replica_look() finds out. (Of a directory
     * nobody could say whose it is.) */
    while (m && (m == at || m->fmt != (p->sattr.mode & S_IFMT) ||
                 ((m->flags & NOTE_NEW) && S_ISDIR(m->fmt)) || !notes_path(m, from, PATH_SIZE)))
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
                replica_same_state(m, &old->dattr);
    to.note = twin = notes_link(r->notes, dir, replica_last_name(path), m);
    if (!twin)
        return -ENOMEM;
    twin->flags = NOTE_NEW;
    notes_put(r->notes, twin);
    replica_touch(r, dir);
    if (!r->dry)
        e = pl_link(r->dst, r->call, old->dst, d, replica_last_name(path), &old->dattr);
    if (e == -EEXIST && replica_dst_find(r, path, &to.dst, &to.dattr) == 0) {
        e = replica_just_made(r, &to) ? 0 : e;
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
        replica_renamed(r, m, old->dst);
    twin->flags = 0;
    notes_put(r->notes, twin);
    return 0;
}

/* The object is noted as `m` at `from`: moved here, or linked. 1: it is at p->path now;
 * ANEW: it is not there, and its note gone. */
int replica_bring(struct replica *r, struct pair *p, struct note *dir, struct note *m,
                  const char *from, bool still)
{
    struct pair old = {.path = from, .note = m, .src = p->src, .sattr = p->sattr};
    struct note *up = m->parent;
    int v = replica_look(r, &old);
    if (v == ANEW) { /* it may still have that name in the source */
        replica_look_later(r, up);
        replica_list(r, up);
    }
    if (v != GO)
        return v == SKIP ? 0 : v;
    if (m->flags & NOTE_NEW) { /* it is ours; what is in it, and its attributes, are to be made */
        m->flags &= ~(uint32_t)NOTE_NEW;
        m->o->flags |= NOTE_BUSY;
        notes_put(r->notes, m);
    }
    int e = still ? link_noted(r, &old, p->path, dir) : replica_move(r, m, from, p->path, dir);
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
    e = p->untrusted && !p->ours
            ? replica_diverged(r, p->path, p->note, "is not what it was made as")
            : GO;
    if (e == ANEW)
        notes_del(r->notes, p->note);
    if (e == GO)
        e = replica_clear_way(r, p->note, p->path, false);
    return e == GO ? ANEW : e;
}

/* Another name of the source's object that has not the replica's object at p->path (looked at), but
 * another: its path. *ret_noted: it has, and only the notes say otherwise. */
static struct note *apart_from(struct replica *r, const struct pair *p, char path[PATH_SIZE],
                               bool *ret_noted)
{
    const struct note *n = p->note;
    struct pl_node *node;
    struct pl_attr a;
    for (struct note *t = notes_object(r->notes, n->ino); t; t = t->twin) {
        if (t == n || t->fmt != n->fmt || (t->flags & NOTE_NEW) || replica_in_limbo(t) ||
            (t->o == n->o && !r->p->comparing) || !notes_path(t, path, PATH_SIZE) ||
            replica_src_ino(r, path) != n->ino || replica_dst_find(r, path, &node, &a) < 0)
            continue;
        pl_node_unref(node);
        *ret_noted = a.ino == p->dattr.ino;
        /* Whatever numbers say: as many names as are noted are one object. */
        return t->o == n->o && (*ret_noted || p->dattr.nlink >= n->o->names) ? NULL : t;
    }
    return NULL;
}

/* A name in limbo that is free. */
static void free_limbo(const struct replica *r, const struct note *n, char path[64])
{
    for (unsigned i = 0; i == 0 || notes_child(r->notes->root, path + 1); i++)
        snprintf(path, 64, "/" LIMBO "link-%u-%u", n->id, i);
}

/* One object of the source that became two: what is at p->path (looked at) gives way to a link to
 * the other, once there is that link, in limbo. GO (also if there is nothing to do, or it cannot be
 * done): on with what is at p->path now; or as replica_look(). */
static int join(struct replica *r, struct pair *p, struct note *dir)
{
    char path[PATH_SIZE], limbo[64];
    bool noted = false;
    struct note *t = p->sattr.nlink > 1 && S_ISREG(p->note->fmt) && !r->p->no_links
                         ? apart_from(r, p, path, &noted)
                         : NULL;
    struct pair old = {.path = path, .note = t, .src = p->src, .sattr = p->sattr};
    if (t && r->dry)
        replica_tell(r, REPLICA_LINKS, path, p->path);
    if (!t || r->dry)
        return GO;
    if (!noted) {
        int v = replica_look(r, &old);
        if (v != GO)
            return v < 0 ? v : GO;
        free_limbo(r, p->note, limbo);
        int e = link_noted(r, &old, limbo, r->notes->root);
        pl_node_unref(old.dst);
        r->p->no_links |= e == -EPERM || e == -EOPNOTSUPP || e == -EXDEV;
        if (e != 0)
            return e < 0 && !replica_minor(e) && e != -ENOENT ? e : GO;
        struct note *l = notes_child(r->notes->root, limbo + 1);
        v = replica_clear_way(r, p->note, p->path, true);
        e = v == GO ? replica_move(r, l, limbo, p->path, dir) : v;
        if (e != 0) {
            replica_doom(r, l);
            p->note = notes_child(dir, replica_last_name(p->path));
            return e;
        }
        replica_tell(r, REPLICA_LINKS, path, p->path);
    }
    pl_node_unref(p->dst);
    p->dst = NULL;
    if (noted) { /* then it is found to be there */
        notes_del(r->notes, p->note);
        return ANEW;
    }
    p->untrusted = p->touched = p->ours = false;
    p->note = notes_child(dir, replica_last_name(p->path));
    return replica_look(r, p);
}

int replica_update(struct replica *r, struct pair *p, struct note *dir)
{
    bool same = unchanged(r, p);
    p->note->is_doomed = false;
    if (same && !r->p->comparing)
        return 0;
    uint32_t id = p->note->id;
    int v = p->path[1] ? replica_look(r, p) : replica_dst_find(r, "/", &p->dst, &p->dattr);
    if (v == GO && p->dst && p->path[1])
        v = join(r, p, dir);
    if (v == ANEW)
        return ANEW;
    struct written *w;
    HASH_FIND(hh, r->p->written, &p->sattr.ino, sizeof(p->sattr.ino), w);
    if (w && v == SKIP && p->note) { /* left alone, and told */
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
    return same && id == p->note->id && !p->untrusted && !p->touched ? 0 : fill(r, p, dir);
}
