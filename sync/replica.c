/* SPDX-License-Identifier: MIT */
#include "sync/replica_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LIMBO     ".plenum-limbo-" /* in the root: what is in the way, until it is known why */
#define SMALL     (64u << 10)      /* not worth a place in limbo: it is sent again */
#define MAX_DEPTH 2048

typedef unsigned long long ull;

static int entry(struct replica *r, const char *path, int depth);

bool replica_minor(int e)
{
    static const int minor[] = {EACCES, EPERM, EOPNOTSUPP, EINVAL, ENAMETOOLONG, ELOOP,     EEXIST,
                                EISDIR, ENXIO, ENOTDIR,    EMLINK, EFBIG,        ENOTEMPTY, EILSEQ,
                                E2BIG,  EXDEV, ETXTBSY,    EBUSY,  EOVERFLOW,    ENODEV};
    for (size_t i = 0; i < sizeof(minor) / sizeof(*minor); i++)
        if (e == -minor[i])
            return true;
    return false;
}

void replica_tell(struct replica *r, enum replica_kind kind, const char *path, const char *detail)
{
    atomic_fetch_add(&r->count->n[kind], 1);
    if (r->tell)
        r->tell(r->arg, kind, path, detail);
}

/* ---- finding ---- */

static void spot_clear(struct spot *s)
{
    if (s->node)
        pl_node_unref(s->node);
    free(s->path);
    *s = (struct spot){0};
}

/* The directory of a path, by the way of the one used last. */
static int spot_dir(struct replica *r, struct pl_tree *t, struct spot *s, const char *path,
                    struct pl_node **ret)
{
    size_t n = (size_t)(strrchr(path, '/') - path);
    struct pl_attr attr;
    if (!s->node || strlen(s->path) != n || memcmp(s->path, path, n) != 0) {
        spot_clear(s);
        s->path = strndup(path, n);
        int e = s->path ? pl_attach(t, r->call, s->path, &s->node, &attr) : -ENOMEM;
        if (e < 0) {
            s->node = NULL;
            spot_clear(s);
            return e == -ENOTDIR ? -ENOENT : e;
        }
        if (!S_ISDIR(attr.mode)) {
            spot_clear(s);
            return -ENOENT;
        }
        s->ino = attr.ino;
    }
    *ret = s->node;
    return 0;
}

static const char *last_name(const char *path)
{
    return strrchr(path, '/') + 1;
}

static int find(struct replica *r, struct pl_tree *t, struct spot *s, const char *path,
                struct pl_node **ret, struct pl_attr *attr)
{
    struct pl_node *dir;
    if (!path[1])
        return pl_attach(t, r->call, "", ret, attr);
    int e = spot_dir(r, t, s, path, &dir);
    return e < 0 ? e : pl_lookup(t, r->call, dir, last_name(path), ret, attr);
}

static int src_find(struct replica *r, const char *path, struct pl_node **ret, struct pl_attr *attr)
{
    return find(r, r->src, &r->p->sdir, path, ret, attr);
}

static int dst_find(struct replica *r, const char *path, struct pl_node **ret, struct pl_attr *attr)
{
    return find(r, r->dst, &r->p->ddir, path, ret, attr);
}

static int dst_dir(struct replica *r, const char *path, struct pl_node **ret)
{
    return spot_dir(r, r->dst, &r->p->ddir, path, ret);
}

/* Is there nothing at the path in the source? What cannot be seen is not therefore gone. */
static bool src_gone(struct replica *r, const char *path)
{
    struct pl_node *node;
    struct pl_attr attr;
    int e = src_find(r, path, &node, &attr);
    if (e == 0)
        pl_node_unref(node);
    return e == -ENOENT || e == -ENOTDIR;
}

/* The number of what is at the path in the source; 0: nothing that can be seen. */
static uint64_t src_ino(struct replica *r, const char *path)
{
    struct pl_node *node;
    struct pl_attr attr;
    if (src_find(r, path, &node, &attr) < 0)
        return 0;
    pl_node_unref(node);
    return attr.ino;
}

static void add_id(struct ids *ids, const struct note *n)
{
    if (ids->n && ids->v[ids->n - 1] == n->id)
        return;
    if (ids->n == ids->room) {
        size_t room = ids->room ? 2 * ids->room : 64;
        uint32_t *v = reallocarray(ids->v, room, sizeof(*v));
        if (!v)
            return; /* a comparison of the whole puts it right */
        ids->v = v;
        ids->room = room;
    }
    ids->v[ids->n++] = n->id;
}

/* Its times are not the source's any more, by our doing: so it is noted until they are. */
static void touch(struct replica *r, struct note *dir)
{
    add_id(&r->p->touched, dir);
    if (!(dir->flags & NOTE_LOST)) {
        dir->flags |= NOTE_LOST;
        notes_put(r->notes, dir);
    }
}

static void doom(struct replica *r, struct note *n)
{
    if (!n->is_doomed)
        add_id(&r->p->doomed, n);
    n->is_doomed = true;
}

/* An object that cannot be made so: told, noted, and the rest goes on. */
static int trouble(struct replica *r, const char *path, struct note *n, int e)
{
    if (e == -ENOENT)
        return 0; /* it has gone meanwhile, which is told of in its turn */
    if (!replica_minor(e))
        return e;
    replica_tell(r, REPLICA_CANNOT, path, strerror(-e));
    if (n) {
        n->flags |= NOTE_BAD;
        notes_put(r->notes, n);
    }
    return 0;
}

/* ---- divergence ---- */

static int64_t ns(const struct timespec *t)
{
    return t->tv_sec * 1000000000ll + t->tv_nsec;
}

/* Does the replica's object look as it was noted? 1 yes, 0 no, or an error. */
static int as_noted(struct replica *r, struct pair *p)
{
    struct note *n = p->note;
    uint64_t extra;
    if ((p->dattr.mode & S_IFMT) != n->fmt)
        return 0;
    if (n->flags & NOTE_BUSY) {
        p->untrusted = true;
        return 1;
    }
    if (S_ISREG(n->fmt)) {
        if (p->dattr.size == n->dst.size && ns(&p->dattr.mtime) == n->dst.mtime)
            return 1;
        return replica_same(r, p);
    }
    if (S_ISDIR(n->fmt))
        return 1;
    int e = replica_extra(r, r->dst, p->dst, &p->dattr, &extra);
    return e < 0 ? e : extra == n->extra;
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
    int e = dst_dir(r, path, &dir);
    for (int i = 0; e == 0 && i < 1000; i++) {
        snprintf(name, sizeof(name), "%.200s.kept-%s%s%.0d", last_name(path), date, i ? "-" : "",
                 i);
        e = r->dry ? 0
                   : pl_rename(r->dst, r->call, dir, last_name(path), dir, name, RENAME_NOREPLACE);
        if (e != -EEXIST)
            break;
        e = 0;
    }
    spot_clear(&r->p->ddir);
    if (e == 0)
        replica_tell(r, REPLICA_KEPT, path, name);
    return e;
}

enum verdict { GO, SKIP, ANEW };

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

/* Looks at the replica's object of a note: fills p->dst, p->dattr with a reference, unless ANEW
 * (there is none, and the note is gone). */
static int look(struct replica *r, struct pair *p)
{
    int e = dst_find(r, p->path, &p->dst, &p->dattr);
    if (e == -ENOENT && r->p->moved) {
        p->dst = NULL;
        return GO;
    }
    if (e == -ENOENT) {
        p->dst = NULL;
        e = r->resolve == REPLICA_FAIL && !(p->note->flags & NOTE_BUSY)
                ? diverged(r, p->path, p->note, "removed at the replica")
                : ANEW;
        if (e == ANEW)
            notes_del(r->notes, p->note);
        return e;
    }
    if (e < 0)
        return e;
    int same = as_noted(r, p);
    if ((p->note->flags & NOTE_NEW) && !(S_ISREG(p->dattr.mode) && p->dattr.size == 0))
        same = ANEW; /* it may be ours, and it may not: make_new() finds out */
    else if (same == 0)
        same = diverged(r, p->path, p->note, "changed at the replica");
    else if (same > 0)
        return GO;
    if (same == GO)
        p->untrusted = true;
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
    int is = dst_find(r, path, &p.dst, &p.dattr);
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
    is = r->dry ? 0 : dst_dir(r, path, &dir);
    if (is == 0 && !r->dry)
        is = pl_remove(r->dst, r->call, dir, last_name(path), S_ISDIR(n->fmt) ? AT_REMOVEDIR : 0);
    if (S_ISDIR(n->fmt))
        spot_clear(&r->p->ddir);
    if (is == -ENOTEMPTY || is == -EEXIST) {
        replica_tell(r, REPLICA_DIVERGED, path, "has files of somebody else in it");
        return 0;
    }
    if (is < 0 && is != -ENOENT)
        return trouble(r, path, n, is);
    if (strncmp(path + 1, LIMBO, strlen(LIMBO)) != 0)
        replica_tell(r, REPLICA_REMOVES, path, "");
    touch(r, n->parent);
    notes_del(r->notes, n);
    return 1;
}

static bool in_limbo(const struct note *n)
{
    return n->parent && !n->parent->parent && !strncmp(n->name, LIMBO, strlen(LIMBO));
}

/* `more`: records are waiting, which may say where what is in limbo belongs. */
static int reap_all(struct replica *r, bool more)
{
    char path[PATH_SIZE];
    size_t kept = 0;
    int e = 0;
    spot_clear(&r->p->sdir);
    for (size_t i = 0; e >= 0 && i < r->p->doomed.n; i++) {
        struct note *n = r->notes->by_id[r->p->doomed.v[i]];
        if (!n || !n->is_doomed || !notes_path(n, path, sizeof(path)))
            continue;
        if (more && in_limbo(n)) {
            r->p->doomed.v[kept++] = n->id;
            continue;
        }
        n->is_doomed = false;
        /* It is there again, or was never gone. */
        if (!src_gone(r, path)) {
            e = entry(r, path, 0);
            continue;
        }
        e = reap(r, n, 0);
    }
    r->p->doomed.n = e < 0 ? 0 : kept;
    return e < 0 ? e : 0;
}

/* ---- making ---- */

static int rename_at(struct replica *r, const char *from, const char *to, unsigned flags)
{
    struct pl_node *a, *b;
    int e = dst_dir(r, from, &a);
    if (e < 0)
        return e;
    pl_node_ref(a);
    e = dst_dir(r, to, &b);
    if (e == 0 && !r->dry)
        e = pl_rename(r->dst, r->call, a, last_name(from), b, last_name(to), flags);
    pl_node_unref(a);
    spot_clear(&r->p->ddir);
    return e;
}

/* Of a directory that moves: what was not found in it, and beneath, is looked for again. */
static void look_again(struct replica *r, struct note *top)
{
    struct note *at = top;
    while (at) {
        /* The top itself in any case: its number may have been another directory's before. */
        if (S_ISDIR(at->fmt) && (at == top || (at->flags & NOTE_DEEP)))
            add_id(&r->p->deep, at);
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
static void look_later(struct replica *r, struct note *dir)
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
    struct note *over = notes_child(dir, last_name(to));
    notes_intend(r->notes, n, dir, last_name(to));
    int e = rename_at(r, from, to, over ? 0 : RENAME_NOREPLACE);
    if (e == -EINVAL && !over) /* a tree that does not know how not to replace */
        e = rename_at(r, from, to, 0);
    if (e < 0)
        return e;
    r->p->moved |= r->dry;
    touch(r, n->parent);
    touch(r, dir);
    if (over)
        notes_del(r->notes, over);
    n->is_doomed = false;
    look_again(r, n);
    return notes_move(r->notes, n, dir, last_name(to));
}

/* A move of which the result was never heard. */
static int finish_intent(struct replica *r)
{
    char from[PATH_SIZE], to[PATH_SIZE];
    struct note *n = r->notes->intent.note, *dir = r->notes->intent.dir;
    struct pl_node *node;
    struct pl_attr attr;
    if (!n || r->dry || !notes_path(n, from, sizeof(from)) || !notes_path(dir, to, sizeof(to)))
        return 0;
    size_t len = strlen(to) > 1 ? strlen(to) : 0;
    snprintf(to + len, sizeof(to) - len, "/%s", r->notes->intent.name);
    int e = dst_find(r, from, &node, &attr);
    if (e == 0)
        pl_node_unref(node);
    if (e != -ENOENT)
        return e;
    e = dst_find(r, to, &node, &attr);
    if (e < 0)
        return e == -ENOENT ? 0 : e;
    pl_node_unref(node);
    struct note *over = notes_child(dir, last_name(to));
    if (over)
        notes_del(r->notes, over);
    return notes_move(r->notes, n, dir, last_name(to));
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
    doom(r, n);
    return e;
}

/* Frees the path, where another object is noted. `over`: what comes replaces a file by itself. GO,
 * SKIP or an error. */
static int clear_way(struct replica *r, struct note *n, const char *path, bool over)
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
    int e = over || r->dry ? 0 : dst_dir(r, path, &dir);
    if (e == 0 && !over && !r->dry)
        e = pl_remove(r->dst, r->call, dir, last_name(path), 0);
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
    return pl_make(r->dst, r->call, dir, last_name(p->path), &mk, &p->dst, &p->dattr);
}

static int make_file(struct replica *r, struct pair *p, struct pl_node *dir)
{
    struct pl_file *f;
    int e = pl_create(r->dst, r->call, dir, last_name(p->path), O_RDWR | O_CREAT | O_EXCL, 0600,
                      &p->dst, &p->dattr, &f);
    if (e == 0)
        pl_close(r->dst, r->call, f);
    return e;
}

/* Something is there that was never noted: taken over if it is the same. GO, SKIP, ANEW, an error.
 */
static int take_over(struct replica *r, struct pair *p)
{
    uint64_t a, b;
    int e = dst_find(r, p->path, &p->dst, &p->dattr), same = 0;
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
    int e = dst_dir(r, p->path, &dir);
    return e < 0 ? e : S_ISREG(p->sattr.mode) ? make_file(r, p, dir) : make_special(r, p, dir);
}

static int try_dry(struct replica *r, struct pair *p)
{
    int e = dst_find(r, p->path, &p->dst, &p->dattr);
    if (e == 0)
        pl_node_unref(p->dst);
    p->dst = NULL;
    return e == 0 ? -EEXIST : e == -ENOENT ? 0 : e;
}

/* Makes the object of the source at p->path, where nothing is noted. */
static int make_new(struct replica *r, struct pair *p, struct note *dir)
{
    bool taken = false;
    p->fresh = true;
    p->note = notes_add(r->notes, dir, last_name(p->path), p->sattr.ino, p->sattr.mode);
    if (!p->note)
        return -ENOMEM;
    p->note->flags = NOTE_BUSY | NOTE_NEW;
    notes_put(r->notes, p->note);
    int e = r->dry ? try_dry(r, p) : make_at(r, p);
    r->p->moved |= r->dry;
    if (e == -EEXIST) {
        e = take_over(r, p);
        taken = e == GO;
        if (e == ANEW)
            e = make_at(r, p);
        p->fresh = true;
    }
    if (e < 0 || e == SKIP) {
        notes_del(r->notes, p->note);
        return e < 0 ? trouble(r, p->path, NULL, e) : 0;
    }
    /* What is in a directory may have come with it, from elsewhere. */
    p->note->flags = NOTE_BUSY | (S_ISDIR(p->sattr.mode) ? NOTE_DEEP : 0);
    notes_put(r->notes, p->note);
    touch(r, dir);
    if (S_ISDIR(p->sattr.mode))
        add_id(&r->p->deep, p->note);
    if (!taken)
        replica_tell(r, REPLICA_MAKES, p->path, "");
    e = replica_fill(r, p);
    return e < 0 ? trouble(r, p->path, p->note, e) : 0;
}

/* The note of the object under another name, and whether that is still its name in the source. */
static struct note *elsewhere(struct replica *r, const struct pair *p, char from[PATH_SIZE],
                              bool *still)
{
    struct note *m = notes_object(r->notes, p->sattr.ino), *at = notes_find(r->notes, p->path);
    while (m && (m == at || m->fmt != (p->sattr.mode & S_IFMT) || (m->flags & NOTE_NEW) ||
                 !notes_path(m, from, PATH_SIZE)))
        m = m->twin;
    *still = m && src_ino(r, from) == p->sattr.ino;
    return m && *still && S_ISDIR(m->fmt) ? NULL : m;
}

/* The object is noted as `m` at `from`: moved here, or linked. 1: it is at p->path now. */
static int bring(struct replica *r, struct pair *p, struct note *dir, struct note *m,
                 const char *from, bool still)
{
    struct pl_node *d;
    struct pair old = {.path = from, .note = m};
    int v = look(r, &old);
    if (v != GO)
        return v < 0 ? v : 0;
    int e = !still ? move_noted(r, m, from, p->path, dir) : r->dry ? 0 : dst_dir(r, p->path, &d);
    if (still && e == 0 && !r->dry)
        e = pl_link(r->dst, r->call, old.dst, d, last_name(p->path), &old.dattr);
    pl_node_unref(old.dst);
    if (e < 0)
        return replica_minor(e) || e == -ENOENT ? 0 : e; /* a copy of its own, then */
    replica_tell(r, still ? REPLICA_LINKS : REPLICA_RENAMES, from, p->path);
    touch(r, dir);
    if (!still)
        return 1;
    struct note *twin = notes_add(r->notes, dir, last_name(p->path), m->ino, m->fmt);
    if (!twin || notes_blocks(twin, m->nhash) < 0)
        return -ENOMEM;
    if (m->nhash)
        memcpy(twin->hash, m->hash, m->nhash * sizeof(*m->hash));
    twin->flags = m->flags;
    twin->mode = m->mode;
    twin->uid = m->uid;
    twin->gid = m->gid;
    twin->extra = m->extra;
    twin->src = m->src;
    twin->dst = m->dst;
    notes_put(r->notes, twin);
    notes_put_blocks(r->notes, twin, 0, twin->nhash);
    return 1;
}

/* The other names of a file share what was done to it. */
static void share(struct replica *r, const struct note *n)
{
    for (struct note *t = S_ISDIR(n->fmt) ? NULL : notes_object(r->notes, n->ino); t; t = t->twin) {
        if (t == n || t->fmt != n->fmt || notes_blocks(t, n->nhash) < 0)
            continue;
        if (n->nhash)
            memcpy(t->hash, n->hash, n->nhash * sizeof(*n->hash));
        t->mode = n->mode;
        t->uid = n->uid;
        t->gid = n->gid;
        t->extra = n->extra;
        t->flags = n->flags;
        t->src = n->src;
        t->dst = n->dst;
        notes_put(r->notes, t);
        notes_put_blocks(r->notes, t, 0, t->nhash);
    }
}

static bool unchanged(const struct replica *r, const struct pair *p)
{
    const struct note *n = p->note;
    const struct pl_attr *a = &p->sattr;
    struct written *w;
    HASH_FIND(hh, r->p->written, &n->ino, sizeof(n->ino), w);
    return !n->flags && !w && !r->check && n->src.size == a->size &&
           n->src.mtime == ns(&a->mtime) && n->src.ctime == ns(&a->ctime);
}

/* The object is noted at its path. */
static int update(struct replica *r, struct pair *p, struct note *dir)
{
    bool same = unchanged(r, p);
    p->note->is_doomed = false;
    if (same && !r->p->comparing)
        return 0;
    int v = p->path[1] ? look(r, p) : dst_find(r, "/", &p->dst, &p->dattr);
    if (v == ANEW)
        return make_new(r, p, dir);
    struct written *w;
    HASH_FIND(hh, r->p->written, &p->sattr.ino, sizeof(p->sattr.ino), w);
    if (w && v == SKIP)
        w->done = true; /* left alone, and told */
    if (v != GO)
        return v == SKIP ? 0 : trouble(r, p->path, p->note, v);
    if (same && !p->untrusted)
        return 0;
    v = replica_fill(r, p);
    if (v == 0)
        share(r, p->note);
    return v < 0 ? trouble(r, p->path, p->note, v) : 0;
}

static int parent_of(struct replica *r, const char *path, int depth, struct note **ret)
{
    char up[PATH_SIZE];
    size_t n = (size_t)(strrchr(path, '/') - path);
    if (n >= sizeof(up))
        return -ENAMETOOLONG;
    snprintf(up, sizeof(up), "%.*s", n ? (int)n : 1, path);
    *ret = notes_find(r->notes, up);
    /* The source's directory was the last that was looked in. */
    bool another = *ret && (*ret)->parent && r->p->sdir.node && (*ret)->ino != r->p->sdir.ino;
    if (!*ret || !S_ISDIR((*ret)->fmt) || (*ret)->is_doomed || another) {
        int e = depth < MAX_DEPTH ? entry(r, up, depth + 1) : -ENAMETOOLONG;
        if (e < 0)
            return e;
        *ret = notes_find(r->notes, up);
    }
    if (*ret && !S_ISDIR((*ret)->fmt))
        *ret = NULL;
    return 0;
}

/* An object of the source, of which another or none is noted at its path. */
static int place(struct replica *r, struct pair *p, struct note *dir, struct note *other)
{
    char from[PATH_SIZE];
    bool still;
    struct note *m = elsewhere(r, p, from, &still);
    int e = GO;
    if (other)
        e = clear_way(r, other, p->path, m && !still && !S_ISDIR(p->sattr.mode));
    if (e == SKIP)
        return 0;
    if (e == GO && m)
        e = bring(r, p, dir, m, from, still);
    if (e < 0)
        return trouble(r, p->path, NULL, e);
    struct note *n = notes_child(dir, last_name(p->path));
    if (n && n->ino == p->sattr.ino) {
        p->note = n;
        return update(r, p, dir);
    }
    /* It could not be brought: what it was to replace is in the way after all. */
    e = n ? clear_way(r, n, p->path, false) : GO;
    return e == SKIP ? 0 : e < 0 ? trouble(r, p->path, NULL, e) : make_new(r, p, dir);
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
    bool here = s->node && (s->ino == dir->ino || !dir->parent) &&
                strlen(up) <= strlen(path); /* it is there, and the same */
    if (here)
        touch(r, dir); /* its time is another, even if nothing is to be done in it */
    if (n && here)
        doom(r, n);
    else if (!here || !n)
        look_later(r, dir);
}

/* Makes the replica at `path` what the source is there now. */
static int entry(struct replica *r, const char *path, int depth)
{
    struct pair p = {.path = path};
    struct note *n = notes_find(r->notes, path), *dir = NULL;
    if (strlen(path) >= PATH_SIZE)
        return 0;
    int e = src_find(r, path, &p.src, &p.sattr);
    if (e == -ENOENT || e == -ENOTDIR) {
        gone(r, path, n);
        return 0;
    }
    if (e < 0)
        return trouble(r, path, n, e);
    atomic_fetch_add(&r->count->files, 1);
    if (r->seen && path[1]) {
        atomic_fetch_add(r->seen, S_ISREG(p.sattr.mode) ? p.sattr.size : 0);
        atomic_fetch_add(r->seen_files, 1);
    }
    if (path[1])
        e = parent_of(r, path, depth, &dir);
    n = notes_find(r->notes, path); /* the parent may have come with it, from elsewhere */
    if (e == 0 && (dir || !path[1])) {
        if (n && !n->parent)
            notes_ino(r->notes, n, p.sattr.ino);
        if (n && n->ino == p.sattr.ino && n->fmt == (p.sattr.mode & S_IFMT)) {
            p.note = n;
            e = update(r, &p, dir);
        } else {
            e = place(r, &p, dir, n);
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
        if (!n || !notes_path(n, path, sizeof(path)))
            continue;
        if (n->is_doomed || src_find(r, path, &p.src, &p.sattr) < 0) {
            n->flags |= NOTE_LOST; /* it gets them where it turns up */
            notes_put(r->notes, n);
            continue;
        }
        e = dst_find(r, path, &p.dst, &p.dattr);
        if (e == 0 && S_ISDIR(p.sattr.mode) && S_ISDIR(p.dattr.mode))
            e = replica_fill(r, &p);
        pl_node_unref(p.src);
        if (p.dst)
            pl_node_unref(p.dst);
        e = e < 0 ? trouble(r, path, n, e) : 0;
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
    spot_clear(&r->p->sdir);
    spot_clear(&r->p->ddir);
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
    int e = src_find(r, path, &node, &attr);
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

/* Lists one directory: what is new, what is not there any more. */
static int list_again(struct replica *r, struct note *dir)
{
    char path[PATH_SIZE], sub[PATH_SIZE];
    struct names l;
    struct note *c, *next;
    if (!notes_path(dir, path, sizeof(path)))
        return 0;
    int e = list(r, path, &l);
    if (e == 0) {
        bool all = true;
        HASH_ITER (hh, dir->children, c, next) {
            size_t i = 0;
            while (i < l.n && strcmp(l.v[i], c->name) != 0)
                i++;
            if (i == l.n && !in_limbo(c)) {
                doom(r, c);
                all = false;
            }
        }
        if (all)
            listed(r, dir);
    }
    for (size_t i = 0; i < l.n; i++) {
        int len = snprintf(sub, sizeof(sub), "%s/%s", path[1] ? path : "", l.v[i]);
        if (e == 0)
            e = pl_call_over(r->call);
        if (e == 0 && len < (int)sizeof(sub))
            e = entry(r, sub, 0);
        free(l.v[i]);
    }
    free(l.v);
    return e < 0 ? trouble(r, path, NULL, e) : 0;
}

/* Directories that are new, or moved with something that was not found in them. */
static int deep(struct replica *r)
{
    int e = 0;
    for (size_t i = 0; e == 0 && i < r->p->deep.n && !r->p->comparing; i++) {
        struct note *n = r->notes->by_id[r->p->deep.v[i]];
        if (n && !n->is_doomed && !in_limbo(n))
            e = list_again(r, n);
    }
    r->p->deep.n = 0;
    return e;
}

/* ---- a batch ---- */

/* Something was done to the object, and it was not found at its path: it may have another that is
 * noted. If not, and it turns up, all of it is compared. */
static int elsewhere_done(struct replica *r, struct written *w)
{
    char path[PATH_SIZE];
    int e = 0;
    for (struct note *n = notes_object(r->notes, w->ino); n; n = n->twin) {
        if (notes_path(n, path, sizeof(path)) && src_ino(r, path) == w->ino) {
            e = entry(r, path, 0);
            break;
        }
    }
    for (struct note *n = w->done ? NULL : notes_object(r->notes, w->ino); n; n = n->twin) {
        n->flags |= NOTE_LOST;
        notes_put(r->notes, n);
    }
    return e;
}

static int end(struct replica *r, int e, bool more)
{
    struct written *w, *next;
    HASH_ITER (hh, r->p->written, w, next)
        if (e == 0 && !w->done)
            e = elsewhere_done(r, w);
    do { /* what was thought gone may be there, and bring others */
        if (e == 0)
            e = deep(r);
        if (e == 0)
            e = reap_all(r, more);
    } while (e == 0 && r->p->deep.n);
    if (e == 0)
        e = settle(r);
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
    return n && notes_path(n, path, sizeof(path)) ? entry(r, path, 0) : 0;
}

int replica_apply(struct replica *r, const struct journal_record *recs, size_t n, bool more)
{
    int e = 0;
    begin(r);
    for (size_t i = 0; i < n; i++)
        if (recs[i].ino)
            note_written(r, &recs[i]);
    for (size_t i = 0; e == 0 && i < n; i++) {
        const struct journal_record *rec = &recs[i];
        /* Of many writes to one file the first does it all. */
        if (i && !*rec->path2 && !strcmp(rec->path, recs[i - 1].path) && rec->len &&
            recs[i - 1].len)
            continue;
        e = pl_call_over(r->call);
        if (e == 0 && !*rec->path && !*rec->path2 && rec->ino)
            e = by_number(r, rec->ino);
        if (e == 0 && *rec->path2 == '/')
            e = entry(r, rec->path2, 0);
        if (e == 0 && *rec->path == '/')
            e = entry(r, rec->path, 0);
    }
    e = end(r, e, more);
    if (e == 0) {
        notes_applied(r->notes, recs[n - 1].seq, r->notes->whole);
        e = notes_sync(r->notes);
    }
    return e;
}

/* ---- all ---- */

static int walk(struct replica *r, const char *path, int depth)
{
    struct names l;
    int e = list(r, path, &l);
    struct note *n = notes_find(r->notes, path), *c, *next;
    if (e < 0) {
        /* What cannot be listed is not therefore gone. */
        if (n)
            HASH_ITER (hh, n->children, c, next)
                c->generation = r->p->generation;
        if (n)
            look_later(r, n);
        e = trouble(r, path, NULL, e);
    } else if (n) {
        listed(r, n); /* what is not found of it sets that again */
    }
    for (size_t i = 0; i < l.n; i++) {
        char sub[PATH_SIZE];
        int len = snprintf(sub, sizeof(sub), "%s/%s", path[1] ? path : "", l.v[i]);
        if (e == 0)
            e = pl_call_over(r->call);
        if (e == 0 && len < (int)sizeof(sub)) {
            e = entry(r, sub, 0);
            n = notes_find(r->notes, sub);
            if (e == 0 && n && S_ISDIR(n->fmt) && depth < MAX_DEPTH)
                e = walk(r, sub, depth + 1);
        }
        free(l.v[i]);
    }
    free(l.v);
    return e;
}

int replica_compare(struct replica *r, uint64_t seq)
{
    begin(r);
    r->p->doomed.n = 0;
    r->p->comparing = true;
    r->p->generation++;
    int e = entry(r, "/", 0);
    if (e == 0)
        e = walk(r, "/", 0);
    for (uint32_t i = 1; e == 0 && i < r->notes->nids; i++) {
        struct note *n = r->notes->by_id[i];
        if (n && n->generation != r->p->generation &&
            (n->parent->generation == r->p->generation || !n->parent->parent))
            doom(r, n);
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
    if (e == 0)
        e = finish_intent(r);
    for (uint32_t i = 0; e == 0 && i < r->notes->nids; i++) {
        struct note *n = r->notes->by_id[i];
        if (n && S_ISDIR(n->fmt) && (n->flags & NOTE_LOST))
            add_id(&r->p->touched, n);
        if (n && S_ISDIR(n->fmt) && (n->flags & NOTE_DEEP))
            add_id(&r->p->deep, n);
        if (n && in_limbo(n))
            doom(r, n);
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
    if (r->p->sroot)
        pl_node_unref(r->p->sroot);
    if (r->p->droot)
        pl_node_unref(r->p->droot);
    free(r->p);
    r->p = NULL;
}
