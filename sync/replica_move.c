/* SPDX-License-Identifier: MIT */
/* Removing, moving, and what is in the way. */
#include "sync/replica_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define SMALL (64u << 10) /* not worth a place in limbo: it is sent again */

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
    if (!t || r->dry || !S_ISREG(gone->fmt) || !replica_same_state(gone, was) ||
        !notes_path(t, path, sizeof(path)) || replica_dst_find(r, path, &node, &a) < 0)
        return;
    if (a.ino == was->ino)
        replica_renamed(r, t, node);
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

/* What is noted, with nothing noted in it any more (`empty`). What is not as noted stays. 1: it is
 * gone. Not in the frame of the next, of which there is one for each directory of a deep tree. */
__attribute__((noinline)) static int reap_one(struct replica *r, struct note *n, bool empty)
{
    struct pair p = {.note = n};
    struct pl_node *dir;
    char path[PATH_SIZE];
    if (!notes_path(n, path, sizeof(path)))
        return 0;
    p.path = path;
    int is = replica_dst_find(r, path, &p.dst, &p.dattr);
    if (is == -ENOENT) {
        notes_del(r->notes, n);
        return 1;
    }
    if (is < 0)
        return is;
    int same = replica_as_noted(r, &p);
    pl_node_unref(p.dst);
    if (same == 0) {
        same = replica_diverged(r, path, n, "changed at the replica, and removed at the source");
        if (same == ANEW)
            notes_del(r->notes, n);
        if (same != GO)
            return same < 0 ? same : same == ANEW;
    }
    if (same < 0 || !empty)
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

/* Likewise, and all beneath it before. */
static int reap(struct replica *r, struct note *n, int depth)
{
    struct note *c, *next;
    bool empty = true;
    HASH_ITER (hh, n->children, c, next) {
        int one = depth < MAX_DEPTH ? reap(r, c, depth + 1) : 0;
        if (one < 0)
            return one;
        empty = empty && one;
    }
    return reap_one(r, n, empty);
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
            uint32_t id = n->id;
            e = replica_entry(r, path);
            /* What was not found in it was not looked for while it was away. */
            n = r->notes->by_id[id];
            if (n && !replica_in_limbo(n))
                replica_list_beneath(r, n);
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
    e = over ? replica_as_noted(r, &p) : 0;
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
                    replica_same_state(n, &attr);
        e = over ? -EINVAL : pl_rename(r->dst, r->call, a, x, b, y, RENAME_NOREPLACE);
        if (e == -EINVAL) { /* also a tree that does not know how not to replace */
            e = may_replace(r, b, to, over);
            e = e < 0 ? e : pl_rename(r->dst, r->call, a, x, b, y, 0);
        }
        if (same && e == 0)
            replica_renamed(r, n, node);
        if (node)
            pl_node_unref(node);
    }
    pl_node_unref(a);
    replica_spot_clear(&r->p->ddir);
    return e;
}

/* Is it this move that the record is of? */
static bool is_recorded(const struct replica *r, const char *from, const char *to)
{
    const struct journal_record *rec = r->p->rec;
    return rec && !strcmp(rec->path, from) && !strcmp(rec->path2, to);
}

/* Of a directory that moves: what was not found in it, and beneath, is looked for again. If it was
 * not its own record that said so, others that are to come have names of the place where it was: of
 * those everything beneath is looked at. */
static void look_again(struct replica *r, struct note *top, bool all)
{
    /* The top itself in any case: its number may have been another directory's before. */
    for (struct note *at = top; at; at = notes_next_beneath(at, top))
        if (S_ISDIR(at->fmt) && (all || at == top || (at->flags & NOTE_DEEP)))
            replica_list(r, at);
}

/* Something in this directory was not found, by which it may only be known that it has moved. */
void replica_look_later(struct replica *r, struct note *dir)
{
    if (dir->flags & NOTE_DEEP)
        return;
    dir->flags |= NOTE_DEEP;
    notes_put(r->notes, dir);
}

void replica_list_beneath(struct replica *r, struct note *top)
{
    for (struct note *at = top; at; at = notes_next_beneath(at, top)) {
        if (!S_ISDIR(at->fmt))
            continue;
        replica_look_later(r, at);
        replica_list(r, at);
    }
}

/* The same of something noted; nothing may be in its way but what is noted too. */
int replica_move(struct replica *r, struct note *n, const char *from, const char *to,
                 struct note *dir)
{
    struct note *over = notes_child(dir, replica_last_name(to));
    bool recorded = is_recorded(r, from, to);
    /* It may have that name too, of which the directory has moved in the source. */
    if (!recorded)
        replica_look_later(r, n->parent);
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
    look_again(r, n, !recorded);
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
    e = notes_move(r->notes, n, dir, replica_last_name(to));
    /* The record may be another's, by which nobody would look into it. */
    replica_list_beneath(r, n);
    return e;
}

/* Moves what is in the way aside: it may turn up elsewhere in the source. */
static int to_limbo(struct replica *r, struct note *n, const char *path)
{
    char name[64], to[80];
    snprintf(name, sizeof(name), LIMBO "%u", n->id);
    snprintf(to, sizeof(to), "/%s", name);
    int e = replica_move(r, n, path, to, r->notes->root);
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
    int v = replica_look(r, &p);
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
