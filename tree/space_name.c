/* SPDX-License-Identifier: MIT */
/* Making and removing names in a space. Each op holds the directory, looks, and does it in the one
 * layer that takes it; what has to be copied up first is, with nothing held, and then it begins
 * again. */
#include "tree/space.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define TRIES 16

bool space_is_ours(const struct space *s, const char *name)
{
    return space_is_hidden(name) || (s->flags & PL_SPACE_DOTS && !strcmp(name, "..."));
}

/* ---- a directory to be changed ---- */

int space_side(struct space *s, struct pl_call *call, struct snode *dir, const char *name,
               struct space_side *side)
{
    *side = (struct space_side){.dir = dir, .name = name};
    int r = space_dir(s, call, dir, &side->st);
    if (r < 0)
        return r;
    side->bound = space_spot(side->st->spot, name);
    r = space_find(s, call, dir, side->st, name, 0, &side->f);
    side->there = r == 0;
    if (r == -ENOENT)
        r = 0;
    if (r < 0)
        space_side_done(side);
    return r;
}

void space_side_done(struct space_side *side)
{
    if (side->there)
        space_found_done(&side->f);
    space_stack_unref(side->st);
    side->st = NULL;
    side->there = false;
}

int space_may_add(struct space *s, struct pl_call *call, const struct space_side *side)
{
    if (side->st->point->top < 0 || (side->st->n == 0 && !side->st->spot->here))
        return -EROFS;
    if (side->dir->gone)
        return -ENOENT;
    return space_may(s, call, side->st, W_OK | X_OK);
}

int space_may_take(struct space *s, struct pl_call *call, const struct space_side *side)
{
    struct pl_attr attr;
    if (side->st->point->top < 0)
        return -EROFS;
    int r = space_may(s, call, side->st, W_OK | X_OK);
    if (r == 0)
        r = space_getattr(&s->tree, call, &side->dir->node, NULL, &attr);
    uid_t uid = call->cred.uid;
    const struct space_stack *st = side->st;
    const struct space_found *f = &side->f;
    bool dir_mine = st->n && space_is_mine(s, call, st->point, st->e[0].k);
    bool sticks = r == 0 && attr.mode & S_ISVTX && uid && uid != attr.uid && !dir_mine;
    bool mine = uid == f->attr.uid || (f->n && space_is_mine(s, call, f->point, f->e[0].k));
    return sticks && !mine ? -EPERM : r;
}

static int any_name(void *arg, const char *name)
{
    return -ENOTEMPTY;
}

int space_is_empty(struct space *s, struct pl_call *call, const struct space_found *f)
{
    struct space_found dup;
    space_found_dup(&dup, f);
    struct space_stack *st = space_stack_new(&dup);
    if (!st) {
        space_found_done(&dup);
        return -ENOMEM;
    }
    struct space_as as = space_self(s, call);
    int r = space_each_name(s, call, st, any_name, NULL);
    space_back(call, &as);
    space_stack_unref(st);
    return r;
}

int space_is_behind(struct space *s, struct pl_call *call, const struct space_side *side, int w)
{
    struct space_found f;
    if (side->st->n == 0 || side->st->e[side->st->n - 1].k <= w)
        return 0;
    struct space_as as = space_self(s, call);
    int r = space_find(s, call, side->dir, side->st, side->name, w + 1, &f);
    space_back(call, &as);
    if (r == 0)
        space_found_done(&f);
    return r == 0 ? 1 : r == -ENOENT ? 0 : r;
}

void space_forget(struct space *s, struct space_side *side)
{
    struct snode *n = space_node_at(s, side->dir, side->name, &side->f);
    if (!n)
        return;
    space_lost(s, n, side->dir, side->name);
    if (n->node.fmt != S_IFDIR && !space_in_place(side->f.point, side->f.e[0].k))
        atomic_fetch_add(&n->hidden, 1);
    pl_node_unref(&n->node);
}

void space_note(struct space *s, struct pl_call *call, struct space_side *side,
                _Atomic uint64_t *ino, _Atomic uint32_t *born)
{
    struct snode *n = side->there ? space_node_at(s, side->dir, side->name, &side->f) : NULL;
    atomic_store(born, side->there && side->f.n ? pl_birth(side->f.attr.btime) : 0);
    atomic_store(ino, n ? n->ino : side->there ? space_found_number(s, call, &side->f) : 0);
    pl_node_unref(n ? &n->node : NULL);
}

/* ---- new names ---- */

/* A new name in the top. `st`: the directory's stack, with an entry there. */
struct fresh {
    struct space_bind *b;
    struct pl_node *in; /* the directory there */
    const char *name;
    enum space_there state; /* what is under the name there */
    char temp[64];          /* it is made under this name first; "": not */
};

/* Looks at the top before something is made there. `is_dir`: what was hidden must stay so. */
static int begin(struct space *s, struct pl_call *call, const struct space_side *side, bool is_dir,
                 bool look, struct fresh *n)
{
    struct space_point *p = side->st->point;
    struct pl_node *there;
    struct pl_attr attr;
    *n = (struct fresh){.b = p->layer[p->top].bind, .name = side->name};
    n->in = space_entry(side->st, p->top);
    if (side->st->n == 1 && !look)
        return 0; /* nothing can be hidden here: it is enough if what is in the way says so */
    int r = space_look(s, call, n->b->tree, n->in, side->name, &there, &attr);
    if (r < 0)
        return r;
    if (r == SPACE_THERE) {
        pl_node_unref(there);
        return -EEXIST;
    }
    n->state = (enum space_there)r;
    if (n->state == SPACE_WHITE || (n->state == SPACE_COVERED && is_dir))
        space_temp_name(s, n->temp);
    return 0;
}

/* What was made under a hidden name gets its own; what hid the name goes. */
static int finish(struct space *s, struct pl_call *call, const struct fresh *n, bool is_dir,
                  struct pl_node *made)
{
    int r = 0;
    struct space_as as = space_self(s, call);
    if (n->temp[0] && is_dir)
        r = space_note_opaque(call, n->b, made);
    if (r == 0 && n->temp[0] && n->state == SPACE_WHITE && is_dir) {
        r = pl_rename(n->b->tree, call, n->in, n->temp, n->in, n->name, RENAME_EXCHANGE);
        if (r == -EINVAL)
            r = pl_remove(n->b->tree, call, n->in, n->name, 0);
        else if (r == 0)
            r = pl_remove(n->b->tree, call, n->in, n->temp, 0) < 0 ? 0 : 1;
        r = r == 0 ? pl_rename(n->b->tree, call, n->in, n->temp, n->in, n->name, 0) : r;
        r = r == 1 ? 0 : r;
    } else if (r == 0 && n->temp[0]) {
        r = pl_rename(n->b->tree, call, n->in, n->temp, n->in, n->name, 0);
    }
    if (r < 0 && n->temp[0])
        pl_remove(n->b->tree, call, n->in, n->temp, is_dir ? AT_REMOVEDIR : 0);
    if (r == 0 && n->state == SPACE_COVERED)
        space_uncover(call, n->b, n->in, n->name);
    space_back(call, &as);
    return r;
}

/* The node of what was made in the top. Takes `lower` over. */
static int made_node(struct space *s, struct pl_call *call, const struct space_side *side,
                     struct pl_node *lower, struct pl_attr *attr, struct snode **ret)
{
    struct space_point *p = side->st->point;
    struct space_found f = {.table = space_table_ref(side->st->table),
                            .point = p,
                            .n = 1,
                            .fmt = lower->fmt,
                            .again = true,
                            .attr = *attr};
    f.e[0] = (struct space_entry){p->top, lower};
    int r = space_node(s, call, side->name ? side->dir : NULL, side->name, &f, ret);
    if (r == 0) {
        struct space_stack *st = space_stack(s, *ret);
        space_attr(s, call, *ret, st, attr);
        space_stack_unref(st);
    }
    return r;
}

/* Holds the directory, which has an entry in its top then, and looks for the name. */
static int enter_side(struct space *s, struct pl_call *call, struct snode *dir, const char *name,
                      bool excl, struct space_side *side)
{
    for (int tries = 0; tries < TRIES; tries++) {
        int r = space_hold(s, call, &dir->held);
        if (r < 0)
            return r;
        r = space_side(s, call, dir, name, side);
        if (r < 0) {
            space_let(s, &dir->held);
            return r;
        }
        if (side->there && !excl)
            return 0;
        r = side->there ? -EEXIST : space_may_add(s, call, side);
        if (r == 0 && space_entry(side->st, side->st->point->top))
            return 0;
        space_side_done(side);
        space_let(s, &dir->held);
        if (r == 0)
            r = space_up_dir(s, call, dir);
        if (r < 0)
            return r;
    }
    return -ESTALE;
}

static void leave_side(struct space *s, struct space_side *side)
{
    space_let(s, &side->dir->held);
    space_side_done(side);
}

int space_make(SPACE_T, struct pl_node *dir, const char *name, const struct pl_make *make,
               struct pl_node **ret, struct pl_attr *attr)
{
    struct space *s = space_of(tree);
    bool is_dir = S_ISDIR(make->mode), look = false;
    struct space_side side;
    struct fresh n;
    struct pl_node *lower;
    struct snode *node;
    if (space_is_ours(s, name))
        return -EINVAL;
    if (S_ISCHR(make->mode) && !make->rdev_major && !make->rdev_minor)
        return -EPERM; /* it would hide its own name */
    int r = enter_side(s, call, snode_of(dir), name, true, &side);
    if (r < 0)
        return r;
    do {
        r = begin(s, call, &side, is_dir, look, &n);
        if (r == 0)
            r = pl_make(n.b->tree, call, n.in, n.temp[0] ? n.temp : name, make, &lower, attr);
    } while (r == -EEXIST && side.st->n == 1 && !look && (look = true));
    if (r == 0 && (r = finish(s, call, &n, is_dir, lower)) < 0)
        pl_node_unref(lower);
    if (r == 0)
        r = made_node(s, call, &side, lower, attr, &node);
    leave_side(s, &side);
    if (r == 0)
        *ret = &node->node;
    return r;
}

/* ---- files ---- */

static int open_there(struct space *s, struct pl_call *call, struct space_side *side, int flags,
                      struct pl_node **ret, struct pl_attr *attr, struct pl_file **ret_file)
{
    struct snode *n;
    int r = space_child(s, call, side->dir, side->st, side->name, &n, attr);
    leave_side(s, side);
    if (r < 0)
        return r;
    if (n->node.fmt == S_IFREG)
        r = space_open(&s->tree, call, &n->node, flags, ret_file);
    else
        r = n->node.fmt == S_IFDIR ? -EISDIR : n->node.fmt == S_IFLNK ? -ELOOP : -ENXIO;
    if (r == 0)
        r = space_getattr(&s->tree, call, &n->node, NULL, attr);
    if (r < 0)
        pl_node_unref(&n->node);
    else
        *ret = &n->node;
    return r;
}

/* The open file and its node, of what was made in the top; takes both lower ones over. */
static int made_file(struct space *s, struct pl_call *call, const struct space_side *side,
                     struct pl_node *lower, struct pl_file *file, struct pl_node **ret,
                     struct pl_attr *attr, struct pl_file **ret_file)
{
    struct pl_tree *in = space_tree(side->st->point, side->st->point->top);
    struct snode *n;
    int r = made_node(s, call, side, lower, attr, &n);
    if (r < 0) {
        pl_close(in, call, file);
        return r;
    }
    struct space_stack *st = space_stack(s, n);
    r = space_opened(s, call, st, in, file, ret_file);
    space_stack_unref(st);
    if (r < 0)
        pl_node_unref(&n->node);
    else
        *ret = &n->node;
    return r;
}

static int create_once(struct space *s, struct pl_call *call, struct snode *dir, const char *name,
                       int flags, mode_t mode, struct pl_node **ret, struct pl_attr *attr,
                       struct pl_file **ret_file)
{
    struct space_side side;
    struct fresh n;
    struct pl_node *lower;
    struct pl_file *file;
    bool look = false;
    int r = enter_side(s, call, dir, name, flags & O_EXCL, &side);
    if (r < 0)
        return r;
    if (side.there)
        return open_there(s, call, &side, flags, ret, attr, ret_file);
    do {
        r = begin(s, call, &side, false, look, &n);
        if (r == 0)
            r = pl_create(n.b->tree, call, n.in, n.temp[0] ? n.temp : name, flags | O_EXCL, mode,
                          &lower, attr, &file);
    } while (r == -EEXIST && side.st->n == 1 && !look && (look = true));
    if (r == 0 && (r = finish(s, call, &n, false, lower)) < 0) {
        pl_close(n.b->tree, call, file);
        pl_node_unref(lower);
    }
    if (r == 0)
        r = made_file(s, call, &side, lower, file, ret, attr, ret_file);
    leave_side(s, &side);
    return r;
}

int space_create(SPACE_T, struct pl_node *dir, const char *name, int flags, mode_t mode,
                 struct pl_node **ret, struct pl_attr *attr, struct pl_file **ret_file)
{
    struct space *s = space_of(tree);
    if (space_is_ours(s, name))
        return -EINVAL;
    int r = -EEXIST; /* or -ENOENT: it came, or went, between two looks */
    for (int tries = 0; tries < TRIES && (r == -EEXIST || r == -ENOENT); tries++) {
        r = create_once(s, call, snode_of(dir), name, flags, mode, ret, attr, ret_file);
        if (flags & O_EXCL || (r == -ENOENT && snode_of(dir)->gone))
            break;
    }
    return r;
}

int space_tmpfile(SPACE_T, struct pl_node *dir, int flags, mode_t mode, struct pl_node **ret,
                  struct pl_attr *attr, struct pl_file **ret_file)
{
    struct space *s = space_of(tree);
    struct space_side side = {.dir = snode_of(dir)};
    struct pl_node *lower;
    struct pl_file *file;
    int r = space_dir(s, call, side.dir, &side.st);
    if (r < 0)
        return r;
    r = space_may_add(s, call, &side);
    if (r == 0)
        r = space_up_dir(s, call, side.dir);
    space_stack_unref(side.st);
    if (r < 0)
        return r;
    side.st = space_stack(s, side.dir);
    int top = side.st->point->top;
    r = pl_tmpfile(space_tree(side.st->point, top), call, space_entry(side.st, top), flags, mode,
                   &lower, attr, &file);
    if (r == 0)
        r = made_file(s, call, &side, lower, file, ret, attr, ret_file);
    space_stack_unref(side.st);
    return r;
}

/* ---- links ---- */

/* With the directory held, and the object in the top. */
static int link_in(struct space *s, struct pl_call *call, struct snode *n,
                   const struct space_side *side, struct pl_attr *attr)
{
    struct space_point *p = side->st->point;
    struct space_stack *st = space_stack(s, n);
    struct fresh to;
    bool look = false;
    int r = space_tree(st->point, st->e[0].k) == space_tree(p, p->top) ? 0 : -EXDEV;
    if (r == 0) {
        do {
            r = begin(s, call, side, false, look, &to);
            if (r == 0)
                r = pl_link(to.b->tree, call, st->e[0].node, to.in, to.temp[0] ? to.temp : to.name,
                            attr);
        } while (r == -EEXIST && side->st->n == 1 && !look && (look = true));
    }
    if (r == 0)
        r = finish(s, call, &to, false, st->e[0].node);
    if (r == 0 && n->ino != space_number(st->point, st->e[0].k, attr->ino)) {
        struct space_as as = space_self(s, call);
        space_note_impure(call, to.b, to.in);
        space_back(call, &as);
    }
    if (r == 0) {
        space_attr(s, call, n, st, attr);
        space_moved(s, n, side->dir, side->name);
    }
    space_stack_unref(st);
    return r;
}

/* Names of one file are in one tree: where it is, or would be copied up to. */
static int may_link(struct space *s, struct snode *n, const struct space_point *to)
{
    struct space_stack *st = space_stack(s, n);
    const struct space_point *p = st->point;
    int k = st->n && space_in_place(p, st->e[0].k) ? st->e[0].k : p->top;
    int r = k < 0 ? -EROFS : space_tree(p, k) == space_tree(to, to->top) ? 0 : -EXDEV;
    space_stack_unref(st);
    return r;
}

int space_link(SPACE_T, struct pl_node *node, struct pl_node *dir, const char *name,
               struct pl_attr *attr)
{
    struct space *s = space_of(tree);
    struct space_side side;
    if (space_is_ours(s, name))
        return -EINVAL;
    int r = enter_side(s, call, snode_of(dir), name, true, &side);
    if (r < 0)
        return r;
    r = may_link(s, snode_of(node), side.st->point);
    leave_side(s, &side);
    if (r == 0)
        r = space_up(s, call, snode_of(node), true);
    if (r == 0)
        r = enter_side(s, call, snode_of(dir), name, true, &side);
    if (r < 0)
        return r;
    r = link_in(s, call, snode_of(node), &side, attr);
    leave_side(s, &side);
    return r;
}

/* ---- removing ---- */

/* Takes the name out of layer w, where it is, or hides it there. With the directory held. */
static int take_out(struct space *s, struct pl_call *call, struct space_side *side, int w,
                    int flags)
{
    struct space_found *f = &side->f;
    struct space_bind *b = side->st->point->layer[w].bind;
    struct pl_node *in = space_entry(side->st, w);
    struct pl_node *mine = f->e[0].k == w && !f->indexed ? f->e[0].node : NULL;
    bool classic = s->flags & PL_SPACE_CLASSIC;
    int behind = classic ? 0 : mine ? space_is_behind(s, call, side, w) : 1, r = behind;
    if (r < 0)
        return r;
    r = 0;
    if (mine && f->fmt == S_IFDIR && !classic) {
        struct space_as as = space_self(s, call);
        if (f->n > 1) /* it stays empty, if that is all that comes to pass */
            r = space_note_opaque(call, b, mine);
        if (r == 0)
            r = space_sweep(s, call, b, mine);
        space_back(call, &as);
    }
    if (r < 0)
        return r;
    return behind ? space_whiteout(s, call, b, in, side->name, mine ? f->fmt : 0)
                  : pl_remove(b->tree, call, in, side->name, flags);
}

/* With the directory held. 1: its directory has to be copied up first. */
static int remove_held(struct space *s, struct pl_call *call, struct space_side *side, int flags)
{
    struct space_found *f = &side->f;
    bool is_dir = f->fmt == S_IFDIR, classic = s->flags & PL_SPACE_CLASSIC;
    int r = space_may_take(s, call, side);
    if (r < 0)
        return r;
    if (is_dir != (flags == AT_REMOVEDIR))
        return is_dir ? -EISDIR : -ENOTDIR;
    int top = side->st->point->top, k = f->indexed ? f->under : f->e[0].k,
        w = space_in_place(f->point, k) ? k : top;
    if (classic && w != k)
        return -EROFS;
    if (is_dir && !classic && (r = space_is_empty(s, call, f)) < 0)
        return r;
    if (!space_entry(side->st, w))
        return 1;
    struct pl_intent *intent = call->intent;
    if (intent)
        space_note(s, call, side, &intent->ino, &intent->born);
    call->intent = NULL;
    r = take_out(s, call, side, w, flags);
    call->intent = intent;
    if (r == 0) {
        space_index_dropped(s, call, f);
        space_forget(s, side);
    }
    return r;
}

int space_remove(SPACE_T, struct pl_node *dir, const char *name, int flags)
{
    struct space *s = space_of(tree);
    struct snode *d = snode_of(dir);
    int r = 1;
    if (space_is_ours(s, name))
        return space_is_hidden(name) ? -ENOENT : -EBUSY;
    for (int tries = 0; r == 1 && tries < TRIES; tries++) {
        struct space_side side;
        if ((r = space_hold(s, call, &d->held)) < 0)
            return r;
        r = space_side(s, call, d, name, &side);
        if (r == 0) {
            r = side.bound ? -EBUSY : side.there ? remove_held(s, call, &side, flags) : -ENOENT;
            space_side_done(&side);
        }
        space_let(s, &d->held);
        if (r == 1 && (r = space_up_dir(s, call, d)) == 0)
            r = 1;
    }
    return r == 1 ? -ESTALE : r;
}
