/* SPDX-License-Identifier: MIT */
/* Is what is at the replica as it was left, and what is to be done if it is not. */
#include "sync/replica_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

bool replica_same_state(const struct note *n, const struct pl_attr *a)
{
    return a->size == n->o->dst.size && replica_ns(&a->mtime) == n->o->dst.mtime &&
           (!n->o->dst.ctime || replica_ns(&a->ctime) == n->o->dst.ctime);
}

int replica_as_noted(struct replica *r, struct pair *p)
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
        p->touched = !replica_same_state(n, a);
        return p->untrusted || p->touched || r->check ? replica_same(r, p) : 1;
    }
    if (S_ISDIR(n->fmt) || p->untrusted)
        return 1;
    int e = replica_extra(r, r->dst, p->dst, a, &extra);
    return e < 0 ? e : extra == n->o->extra;
}

void replica_renamed(struct replica *r, struct note *n, struct pl_node *node)
{
    struct pl_attr a;
    if (S_ISREG(n->fmt) && !(n->o->flags & NOTE_BUSY) &&
        pl_getattr(r->dst, r->call, node, NULL, &a) == 0 && a.size == n->o->dst.size &&
        replica_ns(&a.mtime) == n->o->dst.mtime)
        n->o->dst.ctime = replica_ns(&a.ctime);
}

int replica_put_aside(struct replica *r, const char *path)
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

int replica_diverged(struct replica *r, const char *path, struct note *n, const char *how)
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
        int e = replica_put_aside(r, path);
        return e < 0 ? e : ANEW;
    }
    return GO;
}

bool replica_just_made(struct replica *r, const struct pair *p)
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

int replica_look(struct replica *r, struct pair *p)
{
    int e = replica_dst_find(r, p->path, &p->dst, &p->dattr);
    if (e == -ENOENT && r->p->moved) {
        p->dst = NULL;
        return GO;
    }
    if (e == -ENOENT) {
        p->dst = NULL;
        e = r->resolve == REPLICA_FAIL && !(p->note->flags & (NOTE_NEW | NOTE_MAYBE))
                ? replica_diverged(r, p->path, p->note, "removed at the replica")
                : ANEW;
        if (e == ANEW)
            notes_del(r->notes, p->note);
        return e;
    }
    if (e < 0)
        return e;
    int same = replica_as_noted(r, p);
    if (same >= 0 && (p->note->flags & NOTE_NEW) && !replica_just_made(r, p))
        same = ANEW; /* replica_make_new() finds out whether it is the same as the source's */
    else if (same == 0)
        same = replica_diverged(r, p->path, p->note, "changed at the replica");
    else if (same > 0)
        return GO;
    if (same == GO)
        p->untrusted = p->ours = true;
    /* Of another type: it cannot be changed into the source's. */
    if (same == GO && (p->dattr.mode & S_IFMT) != p->note->fmt)
        same = replica_put_aside(r, p->path) < 0 ? SKIP : ANEW;
    if (same == ANEW)
        notes_del(r->notes, p->note);
    if (same != GO) {
        pl_node_unref(p->dst);
        p->dst = NULL;
    }
    return same;
}
