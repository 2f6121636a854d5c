/* SPDX-License-Identifier: MIT */
/*
 * Renaming in a space. All that moves is in the top first: a file is copied up, and of a directory
 * with parts behind its own part moves, with a redirect that says where the rest is; where the top
 * cannot note that, all of it is copied up. A whiteout stays where something behind would show.
 */
#include "tree/space.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define TRIES 16

/* What is to be done, with nothing held, before it is tried again. */
enum need { NEED_NOTHING, NEED_OLDDIR, NEED_NEWDIR, NEED_OLD, NEED_NEW };

struct renaming {
    struct space *s;
    struct pl_call *call;
    struct space_side from, to;
    unsigned flags;
    enum need need;
};

static bool exchange(const struct renaming *r)
{
    return r->flags & RENAME_EXCHANGE;
}

/* ---- may it be done? ---- */

/* The node of a directory that was found, if it is known, is `n` or above it. */
static bool holds(struct space *s, struct space_side *side, struct snode *n)
{
    if (!side->there || side->f.fmt != S_IFDIR)
        return false;
    struct snode *dir = space_node_at(s, side->dir, side->name, &side->f);
    bool is = dir && space_is_under(s, n, dir);
    pl_node_unref(dir ? &dir->node : NULL);
    return is;
}

static int may_write(struct renaming *r, const struct space_found *f)
{
    if (space_is_mine(r->s, r->call, f->point, f->e[0].k))
        return f->attr.mode & S_IWUSR ? 0 : -EACCES;
    int e = pl_access(space_tree(f->point, f->e[0].k), r->call, f->e[0].node, W_OK);
    return e == -EROFS ? pl_may(r->call, &f->attr, W_OK) : e;
}

static int may_move(struct renaming *r, struct space_side *side, const struct snode *to)
{
    int e = space_may_take(r->s, r->call, side);
    if (e == 0 && side->f.fmt == S_IFDIR && side->dir != to && r->call->cred.uid != 0)
        e = may_write(r, &side->f); /* its ".." changes */
    return e;
}

static int may_rename(struct renaming *r)
{
    struct space_side *from = &r->from, *to = &r->to;
    bool dir = from->f.fmt == S_IFDIR, to_dir = to->there && to->f.fmt == S_IFDIR;
    if (holds(r->s, from, to->dir))
        return -EINVAL;
    if (holds(r->s, to, from->dir))
        return exchange(r) ? -EINVAL : -ENOTEMPTY;
    int e = may_move(r, from, to->dir);
    if (e == 0)
        e = !to->there    ? space_may_add(r->s, r->call, to)
            : exchange(r) ? may_move(r, to, from->dir)
                          : space_may_take(r->s, r->call, to);
    if (e < 0 || !to->there || exchange(r))
        return e;
    if (dir != to_dir)
        return dir ? -ENOTDIR : -EISDIR;
    return to_dir ? space_is_empty(r->s, r->call, &to->f) : 0;
}

/* ---- is all in the top? ---- */

/* Of a directory with parts behind: is it noted where they are? */
static bool has_redirect(struct renaming *r, const struct space_side *side, int top)
{
    struct space_marks m;
    struct space_as as = space_self(r->s, r->call);
    r->call->own = true;
    int e = space_marks(r->call, space_tree(side->st->point, top), side->f.e[0].node, &m);
    space_back(r->call, &as);
    return e == 0 && m.redirect[0] == '/';
}

static int is_ready(struct renaming *r, struct space_side *side, enum need dir, enum need object)
{
    int top = side->st->point->top, k = side->there ? side->f.e[0].k : top;
    if (k < top)
        return -EXDEV; /* in front of the top: it would have to leave its tree */
    if (!space_entry(side->st, top))
        r->need = dir;
    else if (k != top || side->f.indexed || (side->there && side->f.hollow) ||
             (side->there && side->f.n > 1 && !has_redirect(r, side, top)))
        r->need = object;
    return 0;
}

/* The path that the parts behind have below the point: "/a/b", built from its end. */
static int path_behind(struct space *s, struct pl_call *call, struct snode *n,
                       char path[PL_PATH_MAX + 1], char **ret)
{
    char *at = path + PL_PATH_MAX, name[PL_NAME_MAX + 1];
    struct snode *up;
    struct space_marks m;
    *at = 0;
    pl_node_ref(&n->node);
    for (bool whole = false; !whole && space_place(s, n, &up, name);) {
        struct space_stack *st = space_stack(s, n), *above = space_stack(s, up);
        struct pl_node *top = space_entry(st, st->point->top);
        const char *part = name;
        whole = above->point != st->point;
        if (!whole && top &&
            space_marks(call, space_tree(st->point, st->point->top), top, &m) == 0 &&
            m.redirect[0]) {
            part = m.redirect;
            whole = *part == '/';
            part += whole;
        } else if (whole) {
            part = NULL;
        }
        space_stack_unref(st);
        space_stack_unref(above);
        pl_node_unref(&n->node);
        n = up;
        size_t len = part ? strlen(part) : 0;
        if (len + 1 > (size_t)(at - path)) {
            pl_node_unref(&n->node);
            return -ENAMETOOLONG;
        }
        if (part) {
            memcpy(at - len, part, len);
            at -= len + 1;
            *at = '/';
        }
    }
    pl_node_unref(&n->node);
    *ret = at;
    return 0;
}

/* A directory is made ready to move: as the owner of the space, with nothing held. */
static int raise_dir(struct space *s, struct pl_call *call, struct snode *n)
{
    char path[PL_PATH_MAX + 1], *at;
    int r = space_up_dir(s, call, n);
    struct space_stack *st = space_stack(s, n);
    if (r == 0 && st->n > 1) {
        struct space_bind *b = st->point->layer[st->point->top].bind;
        r = path_behind(s, call, n, path, &at);
        if (r == 0)
            r = space_note_redirect(call, b, space_entry(st, st->point->top), at);
        if (r == -EOPNOTSUPP || r == -EPERM || r == -ENAMETOOLONG || r == -ENOSPC || r == -E2BIG)
            r = space_up_all(s, call, n);
    }
    space_stack_unref(st);
    return r;
}

static int raise_object(struct renaming *r, struct snode *dir, const char *name)
{
    struct space_stack *st;
    struct snode *n;
    struct pl_attr attr;
    int e = space_dir(r->s, r->call, dir, &st);
    if (e < 0)
        return e;
    e = space_child(r->s, r->call, dir, st, name, &n, &attr);
    space_stack_unref(st);
    if (e < 0)
        return e == -ENOENT ? 0 : e; /* seen when it is tried again */
    struct space_as as = space_self(r->s, r->call);
    e = n->node.fmt == S_IFDIR ? raise_dir(r->s, r->call, n) : space_up(r->s, r->call, n, true);
    if (e == 0 && n->node.fmt != S_IFDIR)
        e = space_up_name(r->s, r->call, dir, name);
    space_back(r->call, &as);
    pl_node_unref(&n->node);
    return e;
}

/* ---- doing it ---- */

/* What moves must hide what the new place has behind it, and must not lose what shows that its
 * number is another's. As the owner. */
static int prepare(struct renaming *r, struct space_side *side, struct space_side *to)
{
    struct space_point *p = to->st->point;
    struct space_bind *b = p->layer[p->top].bind;
    struct pl_node *mine = side->f.e[0].node, *in = space_entry(to->st, p->top);
    bool more = to->st->e[to->st->n - 1].k > p->top;
    int e = 0;
    if (mine->fmt == S_IFDIR && more && side->f.n == 1)
        e = space_note_opaque(r->call, b, mine);
    if (e == -EACCES || e == -EPERM) /* another's, on which no mark can be: is there something? */
        e = space_is_behind(r->s, r->call, to, p->top) == 0 ? 0 : e;
    if (e == 0 && p->n > 1 && space_origin(r->call, b->tree, mine))
        space_note_impure(r->call, b, in);
    return e;
}

/* An empty directory that is replaced may have whiteouts in it. */
static int clear_target(struct renaming *r)
{
    struct space_side *to = &r->to;
    struct space_point *p = to->st->point;
    if (!to->there || to->f.fmt != S_IFDIR || to->f.e[0].k != p->top)
        return 0;
    int e = 0;
    if (to->f.n > 1)
        e = space_note_opaque(r->call, p->layer[p->top].bind, to->f.e[0].node);
    return e == 0 ? space_sweep(r->s, r->call, p->layer[p->top].bind, to->f.e[0].node) : e;
}

/* The old name is to be hidden: by the rename itself, or before it. */
static int leave_white(struct renaming *r, struct space_bind *b, struct pl_node *in,
                       struct pl_node *out)
{
    const char *old = r->from.name, *new = r->to.name;
    int e = -EINVAL;
    if (!atomic_load(&b->no_char))
        e = pl_rename(b->tree, r->call, in, old, out, new, RENAME_WHITEOUT);
    if (e != -EINVAL && e != -EPERM && e != -EOPNOTSUPP)
        return e;
    e = space_cover(r->call, b, in, old);
    return e == 0 ? pl_rename(b->tree, r->call, in, old, out, new, 0) : e;
}

/* With all in the top. As the owner. */
static int move(struct renaming *r, bool behind)
{
    struct space_side *from = &r->from, *to = &r->to;
    struct space_bind *b = from->st->point->layer[from->st->point->top].bind;
    struct pl_node *in = space_entry(from->st, from->st->point->top), *there;
    struct pl_node *out = space_entry(to->st, to->st->point->top);
    bool is_dir = from->f.fmt == S_IFDIR;
    struct pl_attr attr;
    if (exchange(r))
        return pl_rename(b->tree, r->call, in, from->name, out, to->name, RENAME_EXCHANGE);
    int state = space_look(r->s, r->call, b->tree, out, to->name, &there, &attr);
    if (state < 0)
        return state;
    if (state == SPACE_THERE)
        pl_node_unref(there);
    int e;
    if (state == SPACE_WHITE && is_dir) {
        e = pl_rename(b->tree, r->call, in, from->name, out, to->name, RENAME_EXCHANGE);
        if (e == 0 && !behind)
            pl_remove(b->tree, r->call, in, from->name, 0);
        if (e != -EINVAL)
            return e;
        e = pl_remove(b->tree, r->call, out, to->name, 0);
        if (e < 0)
            return e;
    }
    unsigned flags = state == SPACE_THERE || state == SPACE_WHITE ? 0 : r->flags & RENAME_NOREPLACE;
    e = behind ? leave_white(r, b, in, out)
               : pl_rename(b->tree, r->call, in, from->name, out, to->name, flags);
    if (e == 0 && state == SPACE_COVERED)
        space_uncover(r->call, b, out, to->name);
    return e;
}

/* Nodes learn where they are. */
static void tell_nodes(struct renaming *r)
{
    struct space_side *from = &r->from, *to = &r->to;
    struct space *s = r->s;
    struct snode *n = space_node_at(s, from->dir, from->name, &from->f);
    struct snode *was = to->there ? space_node_at(s, to->dir, to->name, &to->f) : NULL;
    if (was && !exchange(r))
        space_forget(s, to);
    if (n)
        space_moved(s, n, to->dir, to->name);
    if (was && exchange(r))
        space_moved(s, was, from->dir, from->name);
    pl_node_unref(n ? &n->node : NULL);
    pl_node_unref(was ? &was->node : NULL);
}

static void note_intent(struct renaming *r)
{
    struct pl_intent *is = r->call->intent;
    space_note(r->s, r->call, &r->to, &is->ino2, &is->born2);
    space_note(r->s, r->call, &r->from, &is->ino, &is->born);
}

static int same_object(const struct renaming *r)
{
    return r->to.there && r->from.f.e[0].node == r->to.f.e[0].node;
}

/* With both directories held. r->need says what is missing. */
static int rename_held(struct renaming *r)
{
    struct space_side *from = &r->from, *to = &r->to;
    struct space_point *p = from->st->point, *q = to->st->point;
    if (from->bound || to->bound)
        return -EBUSY;
    if (!from->there || (exchange(r) && !to->there))
        return -ENOENT;
    if (to->there && r->flags & RENAME_NOREPLACE)
        return -EEXIST;
    if (same_object(r))
        return 0;
    int e = may_rename(r);
    if (e < 0)
        return e;
    if (p->layer[p->top].bind != q->layer[q->top].bind || (p != q && from->f.fmt == S_IFDIR))
        return -EXDEV;
    bool classic = r->s->flags & PL_SPACE_CLASSIC;
    if (classic &&
        (from->f.e[0].k != p->top || from->f.indexed || (exchange(r) && to->f.e[0].k != q->top)))
        return -EROFS; /* it would have to be hidden where it is */
    e = is_ready(r, from, NEED_OLDDIR, NEED_OLD);
    if (e == 0 && r->need == NEED_NOTHING && exchange(r))
        e = is_ready(r, to, NEED_NEWDIR, NEED_NEW);
    else if (e == 0 && r->need == NEED_NOTHING && !space_entry(to->st, q->top))
        r->need = NEED_NEWDIR;
    if (e == 0 && to->there && to->f.e[0].k < q->top)
        e = -EXDEV;
    if (e < 0 || r->need != NEED_NOTHING)
        return e;
    int behind = classic ? 0 : space_is_behind(r->s, r->call, from, p->top);
    if (behind < 0)
        return behind;
    if (r->call->intent)
        note_intent(r);
    struct space_as as = space_self(r->s, r->call);
    e = prepare(r, from, to);
    if (e == 0)
        e = exchange(r) ? prepare(r, to, from) : clear_target(r);
    if (e == 0)
        e = move(r, behind);
    space_back(r->call, &as);
    if (e == 0 && to->there && !exchange(r))
        space_index_dropped(r->s, r->call, &to->f);
    if (e == 0)
        tell_nodes(r);
    return e;
}

static int rename_once(struct renaming *r, struct snode *od, const char *on, struct snode *nd,
                       const char *nn)
{
    struct space *s = r->s;
    int e = od == nd ? 0 : space_hold(s, r->call, &s->moving);
    if (e < 0)
        return e;
    e = space_hold_both(s, r->call, od, nd);
    if (e == 0) {
        e = space_side(s, r->call, od, on, &r->from);
        if (e == 0) {
            e = space_side(s, r->call, nd, nn, &r->to);
            if (e == 0) {
                e = rename_held(r);
                space_side_done(&r->to);
            }
            space_side_done(&r->from);
        }
        space_let_both(s, od, nd);
    }
    if (od != nd)
        space_let(s, &s->moving);
    return e;
}

int space_rename(SPACE_T, struct pl_node *olddir, const char *oldname, struct pl_node *newdir,
                 const char *newname, unsigned flags)
{
    struct space *s = space_of(tree);
    struct snode *od = snode_of(olddir), *nd = snode_of(newdir);
    struct renaming r = {.s = s, .call = call, .flags = flags};
    if (flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE))
        return -EINVAL; /* whiteouts are ours to make */
    if (space_is_ours(s, oldname))
        return space_is_hidden(oldname) ? -ENOENT : -EBUSY;
    if (space_is_ours(s, newname))
        return -EINVAL;
    for (int tries = 0; tries < TRIES; tries++) {
        r.need = NEED_NOTHING;
        int e = rename_once(&r, od, oldname, nd, newname);
        if (e < 0 || r.need == NEED_NOTHING)
            return e;
        e = r.need == NEED_OLDDIR   ? space_up_dir(s, call, od)
            : r.need == NEED_NEWDIR ? space_up_dir(s, call, nd)
            : r.need == NEED_OLD    ? raise_object(&r, od, oldname)
                                    : raise_object(&r, nd, newname);
        if (e < 0)
            return e;
    }
    return -ESTALE;
}
