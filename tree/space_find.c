/* SPDX-License-Identifier: MIT */
/* Looking for names in the layers of a directory: see space.h. */
#include "tree/space.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool space_is_hidden(const char *name)
{
    return !strncmp(name, SPACE_HIDDEN, sizeof(SPACE_HIDDEN) - 1);
}

bool space_is_white(const struct pl_attr *attr)
{
    return S_ISCHR(attr->mode) && attr->rdev_major == 0 && attr->rdev_minor == 0;
}

/* Is there `.wh.NAME`? 1, 0 or an error. */
int space_covered(struct pl_call *call, struct pl_tree *tree, struct pl_node *dir, const char *name)
{
    char white[PL_NAME_MAX + 8];
    struct pl_node *n;
    struct pl_attr attr;
    snprintf(white, sizeof(white), SPACE_HIDDEN "%s", name);
    if (strlen(white) > PL_NAME_MAX)
        return 0;
    int r = pl_lookup(tree, call, dir, white, &n, &attr);
    if (r == 0)
        pl_node_unref(n);
    return r == 0 ? 1 : r == -ENOENT || r == -ESTALE ? 0 : r;
}

int space_look(struct space *s, struct pl_call *call, struct pl_tree *tree, struct pl_node *dir,
               const char *name, struct pl_node **ret, struct pl_attr *attr)
{
    struct space_as as = space_self(s, call);
    int r = pl_lookup(tree, call, dir, name, ret, attr);
    if (r == 0 && space_is_whiteout(call, tree, dir, *ret, attr)) {
        pl_node_unref(*ret);
        r = SPACE_WHITE;
    } else if (r == 0) {
        r = SPACE_THERE;
    } else if (r == -ENOENT) {
        r = space_covered(call, tree, dir, name);
        r = r > 0 ? SPACE_COVERED : r;
    }
    space_back(call, &as);
    return r;
}

/* ---- through the layers ---- */

/* What is found in one directory of several; the caller's call acts as the owner but in the first
 * layer, whose right to be searched is the right to search the whole. */
struct search {
    struct space *s;
    struct pl_call *call;
    struct snode *dir;
    const struct space_stack *st;
    const char *name;
    int passed; /* entries of st whose `.wh.NAME` has been looked for */
};

static int find_trees(struct search *q, int from, struct space_found *f);

/* Has an entry of the stack from q->passed on, before i, a `.wh.NAME`? */
static int covered_before(struct search *q, int from, int i)
{
    int r = 0;
    struct space_as as = space_self(q->s, q->call);
    for (; r == 0 && q->passed < i; q->passed++) {
        const struct space_entry *e = &q->st->e[q->passed];
        if (e->k >= from)
            r = space_covered(q->call, space_tree(q->st->point, e->k), e->node, q->name);
    }
    space_back(q->call, &as);
    return r;
}

/* Adds what another place has in the layers from `from` on: the redirect of a directory, or of a
 * file without content. */
static int redirected(struct search *q, const char *to, int from, struct space_found *f)
{
    struct space_found more = {.n = 0};
    struct search next = *q;
    char name[PL_NAME_MAX + 1];
    struct space_stack *at = NULL;
    struct snode *root = NULL;
    int r = 0;
    next.passed = 0;
    next.name = name;
    f->told &= (UINT32_C(2) << (from - 1)) - 1; /* nobody tells of the way there */
    f->version = 0;
    if (*to == '/' && !q->dir)
        return 0; /* the space is not made yet: only checked */
    if (*to == '/') {
        root = q->dir; /* that of the point */
        pl_node_ref(&root->node);
        for (struct snode *up; space_place(q->s, root, &up, name);) {
            struct space_stack *st = space_stack(q->s, up);
            struct snode *other = st->point == q->st->point ? root : up;
            root = other == root ? up : root;
            space_stack_unref(st);
            pl_node_unref(&other->node);
            if (other == up)
                break;
        }
        next.st = at = space_stack(q->s, root);
    }
    while (r == 0) {
        to += strspn(to, "/");
        size_t n = strcspn(to, "/");
        if (n == 0 || n > PL_NAME_MAX)
            break;
        memcpy(name, to, n);
        name[n] = 0;
        to += n;
        more = (struct space_found){.table = space_table_ref(q->st->table), .point = q->st->point};
        next.passed = 0;
        r = find_trees(&next, from, &more);
        bool last = to[strspn(to, "/")] == 0;
        if (r < 0 || more.fmt != S_IFDIR || last)
            break;
        struct space_stack *deeper = space_stack_new(&more);
        more = (struct space_found){.n = 0};
        r = deeper ? 0 : -ENOMEM;
        space_stack_unref(at);
        next.st = at = deeper;
    }
    if (r == 0 && more.fmt == f->fmt)
        for (int i = 0; i < more.n && f->n < PL_SPACE_STACK; i++) {
            pl_node_ref(more.e[i].node);
            f->e[f->n++] = more.e[i];
        }
    if (more.table)
        space_found_done(&more);
    space_stack_unref(at);
    pl_node_unref(root ? &root->node : NULL);
    return r == -ENOENT ? 0 : r;
}

/* A directory of layer k was found, and there are layers behind it: 1, nothing behind it counts
 * (or all of it has been added). */
static int marks_of(struct search *q, int k, struct pl_node *node, struct space_found *f)
{
    struct space_marks m;
    struct space_as as = space_self(q->s, q->call);
    q->call->own = space_in_place(q->st->point, k);
    int r = space_marks(q->call, space_tree(q->st->point, k), node, &m);
    q->call->own = false;
    bool over = m.opaque || m.redirect[0];
    if (r == 0 && !m.opaque &&
        m.redirect[0]) /* whoever may search it may not search where it was */
        r = redirected(q, m.redirect, k + 1, f);
    space_back(q->call, &as);
    return r < 0 ? r : over;
}

/* A file with several names, found behind: it may have been copied up by another of them. */
static void copied(struct search *q, struct space_found *f)
{
    struct space_point *p = q->st->point;
    int k = f->e[0].k;
    struct pl_node *copy;
    struct pl_attr attr;
    if (p->top < 0 || space_in_place(p, k))
        return;
    uint64_t ino = space_number(p, k, f->attr.ino);
    if (space_index_find(q->s, q->call, p, ino, &copy, &attr) < 0) {
        f->hidden = space_index_gone(q->s, q->call, p, ino);
        return;
    }
    pl_node_unref(f->e[0].node);
    f->e[0] = (struct space_entry){p->top, copy};
    f->attr = attr;
    f->hollow = false;
    f->indexed = true;
    f->under = k;
}

static bool is_white(struct search *q, struct pl_tree *tree, struct pl_node *dir, struct pl_node *n,
                     const struct pl_attr *attr)
{
    if (!S_ISREG(attr->mode) || attr->size)
        return space_is_white(attr);
    struct space_as as = space_self(q->s, q->call);
    bool white = space_is_whiteout(q->call, tree, dir, n, attr);
    space_back(q->call, &as);
    return white;
}

static bool is_hollow(struct search *q, struct pl_tree *tree, struct pl_node *n)
{
    struct space_as as = space_self(q->s, q->call);
    bool hollow = space_is_hollow(q->call, tree, n);
    space_back(q->call, &as);
    return hollow;
}

/* One entry of the stack: 1, the search is over. */
static int find_in(struct search *q, int from, int i, struct space_found *f)
{
    const struct space_entry *e = &q->st->e[i];
    struct pl_tree *tree = space_tree(q->st->point, e->k);
    struct pl_node *n;
    struct pl_attr attr;
    int r;
    if (i == 0) {
        r = pl_lookup(tree, q->call, e->node, q->name, &n, &attr);
    } else {
        struct space_as as = space_self(q->s, q->call);
        r = pl_lookup(tree, q->call, e->node, q->name, &n, &attr);
        space_back(q->call, &as);
    }
    if (r == -ESTALE && q->st->n > 1)
        f->told &= ~(UINT32_C(1) << e->k);
    if (r == -ENOENT || (r == -ESTALE && q->st->n > 1))
        return 0;
    if (r < 0)
        return r;
    r = is_white(q, tree, e->node, n, &attr) ? 1 : covered_before(q, from, i);
    if (r == 0 && f->n && attr.mode && !S_ISDIR(attr.mode))
        r = 1;
    if (r != 0) {
        pl_node_unref(n);
        return r;
    }
    f->e[f->n++] = (struct space_entry){e->k, n};
    if (!space_hears(q->st->point->layer[e->k].bind, &attr))
        f->told &= ~(UINT32_C(1) << e->k);
    if (f->n > 1)
        f->version = space_mixed(f->version, &attr);
    if (f->n == 1) {
        f->attr = attr;
        f->fmt = attr.mode & S_IFMT;
    }
    if (f->fmt == S_IFREG && e->k + 1 < q->st->point->n && attr.size)
        f->hollow = is_hollow(q, tree, n);
    if (f->fmt == S_IFREG && from == 0 && attr.nlink > 1)
        copied(q, f);
    if (f->fmt != S_IFDIR)
        return 1;
    /* Its redirect may lead to where layers behind have something, though they have nothing here.
     */
    return e->k + 1 < q->st->point->n ? marks_of(q, e->k, n, f) : 0;
}

/* Adds to f what the trees of the stack have, layers `from` and after. -ENOENT if it is nothing. */
static int find_trees(struct search *q, int from, struct space_found *f)
{
    int r = 0;
    for (int i = 0; i < q->st->n && r == 0; i++)
        if (q->st->e[i].k >= from)
            r = find_in(q, from, i, f);
    if (r >= 0 && f->n == 0)
        r = -ENOENT;
    if (r < 0)
        space_found_done(f);
    return r < 0 ? r : 0;
}

/* ---- the content of hollow files ---- */

/* From layer k's file on: the next one behind that its redirect, or its name, leads to. */
static int next_behind(struct search *q, int k, struct pl_node *node, struct space_found *f)
{
    struct space_marks *m = malloc(sizeof(*m));
    int r = m ? space_marks(q->call, space_tree(q->st->point, k), node, m) : -ENOMEM;
    *f = (struct space_found){
        .table = space_table_ref(q->st->table), .point = q->st->point, .fmt = S_IFREG};
    if (r == 0 && m->redirect[0]) {
        r = redirected(q, m->redirect, k + 1, f);
        r = r == 0 && f->n == 0 ? -ENOENT : r;
    } else if (r == 0) {
        r = find_trees(q, k + 1, f);
    }
    free(m);
    if (r == 0 && f->fmt == S_IFREG)
        return 0;
    space_found_done(f);
    return r < 0 && r != -ENOENT ? r : -EIO;
}

int space_content(struct space *s, struct pl_call *call, struct snode *n, struct pl_tree **ret_tree,
                  struct pl_node **ret)
{
    char name[PL_NAME_MAX + 1];
    struct space_stack *st, *mine = space_stack(s, n);
    struct search q = {.s = s, .call = call, .name = name};
    struct space_found f;
    int r = space_place(s, n, &q.dir, name) ? space_dir(s, call, q.dir, &st) : -EIO,
        k = mine->e[0].k;
    if (r < 0) {
        pl_node_unref(q.dir ? &q.dir->node : NULL);
        space_stack_unref(mine);
        return r;
    }
    struct pl_node *node = pl_node_ref(mine->e[0].node);
    q.st = st;
    bool hollow = true;
    while (r == 0 && hollow) {
        q.passed = 0;
        r = next_behind(&q, k, node, &f);
        pl_node_unref(node);
        if (r < 0)
            break;
        k = f.e[0].k;
        node = pl_node_ref(f.e[0].node);
        hollow = space_is_hollow(call, space_tree(st->point, k), node);
        space_found_done(&f);
    }
    *ret_tree = space_tree(st->point, k);
    *ret = r == 0 ? node : NULL;
    space_stack_unref(st);
    space_stack_unref(mine);
    pl_node_unref(&q.dir->node);
    return r;
}

/* ---- bindings ---- */

/* Adds what layer k of the spot's own point is. */
static int add_layer(struct space *s, struct pl_call *call, struct space_point *p, int k,
                     struct space_found *f)
{
    struct pl_node *n;
    struct pl_attr attr;
    int r = space_layer_root(s, call, p, k, false, &n, &attr);
    if (r < 0)
        return r == -ENOENT || r == -ENOTDIR ? 0 : r;
    if (f->n && (f->fmt != S_IFDIR || !S_ISDIR(attr.mode))) {
        pl_node_unref(n);
        return 0;
    }
    f->e[f->n++] = (struct space_entry){k, n};
    if (space_hears(p->layer[k].bind, &attr))
        f->told |= UINT32_C(1) << k;
    if (f->n == 1) {
        f->attr = attr;
        f->fmt = attr.mode & S_IFMT;
    }
    return 0;
}

static void no_tree_has(struct space *s, struct space_found *f)
{
    f->fmt = S_IFDIR;
    space_spot_attr(s, f->point, f->spot, &f->attr);
}

/* The directory (or file) at a spot; `f` has what the trees have there. */
static int at_spot(struct space *s, struct pl_call *call, struct space_spot *sp,
                   struct space_found *f)
{
    struct space_found had = *f;
    struct space_point *p = sp->point;
    int r = 0;
    f->spot = sp;
    if (!sp->here) {
        if (f->n == 0 || f->fmt != S_IFDIR) {
            while (f->n)
                pl_node_unref(f->e[--f->n].node);
            no_tree_has(s, f);
        }
        return 0;
    }
    f->point = p;
    f->n = 0;
    f->fmt = 0;
    f->version = 0;
    f->told = 0; /* of its own layers those that are there; of the others what there was */
    for (int k = 0, i = 0; k < p->n && r == 0; k++) {
        int of = k - p->above; /* the layer of the point above that it is */
        if (p->layer[k].own) {
            r = add_layer(s, call, p, k, f);
            continue;
        }
        f->told |= had.told >> of & 1 ? UINT32_C(1) << k : 0;
        while (i < had.n && had.e[i].k < of)
            i++;
        if (i == had.n || had.e[i].k != of || (f->n && (f->fmt != S_IFDIR || had.fmt != S_IFDIR)))
            continue;
        if (f->n == 0) {
            f->attr = had.attr;
            f->fmt = had.fmt;
        }
        f->e[f->n++] = (struct space_entry){k, pl_node_ref(had.e[i].node)};
    }
    while (had.n)
        pl_node_unref(had.e[--had.n].node);
    if (r < 0)
        space_found_done(f);
    else if (f->n == 0)
        no_tree_has(s, f);
    return r;
}

/* The root of the space, or what is at the spot without anything above. */
int space_root_find(struct space *s, struct pl_call *call, struct space_table *t,
                    struct space_found *f)
{
    *f = (struct space_found){.table = space_table_ref(t), .point = t->root->point};
    int r = at_spot(s, call, t->root, f);
    if (r == 0 && f->fmt != S_IFDIR) {
        space_found_done(f);
        return -ENOTDIR;
    }
    return r;
}

/* The bindings of one point: directories, but for a file that is alone. */
static int check_point(struct space *s, struct pl_call *call, struct space_spot *sp,
                       struct pl_err *err)
{
    struct space_point *p = sp->point;
    int r = 0;
    for (int k = 0; sp->here && k < p->n && r == 0; k++) {
        const struct space_bind *b = p->layer[k].bind;
        struct pl_node *n;
        struct pl_attr attr;
        if (!p->layer[k].own)
            continue;
        r = space_layer_root(s, call, p, k, false, &n, &attr);
        if (r == -ENOENT) {
            r = 0;
        } else if (r < 0) {
            r = pl_fail(err, r, "%s: %s cannot be bound there: %s", b->path, b->sub, strerror(-r));
        } else {
            if (n->fmt != S_IFDIR && (p->n > 1 || sp->child || !sp->parent))
                r = pl_fail(err, -ENOTDIR,
                            "%s: %s is no directory (a file may be bound alone, at a path with "
                            "nothing below)",
                            b->path, b->sub);
            pl_node_unref(n);
        }
    }
    return r;
}

/* The spots in the directory of that stack, and below: nothing else may be where one leads on. */
static int check_below(struct space *s, struct pl_call *call, const struct space_stack *st,
                       struct pl_err *err)
{
    char path[SPACE_SAID];
    int r = 0;
    for (struct space_spot *sp = st->spot->child; sp && r == 0; sp = sp->next) {
        struct search q = {.s = s, .call = call, .dir = s->root, .st = st, .name = sp->name};
        struct space_found f = {.table = space_table_ref(st->table), .point = st->point};
        r = find_trees(&q, 0, &f);
        if (r == -ENOENT)
            f.table = space_table_ref(st->table);
        else if (r < 0)
            return pl_fail(err, r, "%s: cannot be looked up: %s", space_spot_path(sp, path),
                           strerror(-r));
        bool shown = !sp->here || sp->point->nabove;
        if (r == 0 && f.fmt != S_IFDIR && shown && (sp->child || sp->here)) {
            space_found_done(&f);
            return pl_fail(err, -ENOTDIR,
                           "%s: is no directory, and something is bound there or below (bind a "
                           "directory at it first)",
                           space_spot_path(sp, path));
        }
        r = check_point(s, call, sp, err);
        if (r < 0)
            space_found_done(&f);
        else
            r = at_spot(s, call, sp, &f);
        struct space_stack *in = r == 0 ? space_stack_new(&f) : NULL;
        if (r == 0)
            r = in ? check_below(s, call, in, err) : -ENOMEM;
        space_stack_unref(in);
    }
    return r;
}

int space_check(struct space *s, struct pl_call *call, struct space_table *t, struct pl_err *err)
{
    struct space_found f;
    int r = check_point(s, call, t->root, err);
    if (r == 0 && (r = space_root_find(s, call, t, &f)) < 0)
        r = pl_fail(err, r, "/: cannot be bound: %s", strerror(-r));
    if (r < 0)
        return r;
    struct space_stack *st = space_stack_new(&f);
    r = st ? check_below(s, call, st, err) : -ENOMEM;
    space_stack_unref(st);
    return r;
}

/* The next lower view of the directory: without the first layer of its bindings. */
static int find_behind(const struct space_stack *st, struct space_found *f)
{
    struct space_point *p = space_behind(st->point);
    if (!p)
        return -ENOENT;
    *f = (struct space_found){.table = space_table_ref(st->table),
                              .point = p,
                              .fmt = S_IFDIR,
                              .told = atomic_load(&st->told) >> 1};
    for (int i = 0; i < st->n; i++)
        if (st->e[i].k > 0)
            f->e[f->n++] = (struct space_entry){st->e[i].k - 1, pl_node_ref(st->e[i].node)};
    if (f->n == 0) {
        space_found_done(f);
        return -ENOENT;
    }
    return 0;
}

int space_find(struct space *s, struct pl_call *call, struct snode *dir,
               const struct space_stack *st, const char *name, int from, struct space_found *f)
{
    if (space_is_hidden(name))
        return -ENOENT;
    if (s->flags & PL_SPACE_DOTS && !strcmp(name, "...")) {
        int r = find_behind(st, f);
        if (r < 0)
            return r;
        r = pl_getattr(space_tree(f->point, f->e[0].k), call, f->e[0].node, NULL, &f->attr);
        if (r < 0)
            space_found_done(f);
        return r;
    }
    struct space_spot *sp = from ? NULL : space_spot(st->spot, name);
    struct search q = {.s = s, .call = call, .dir = dir, .st = st, .name = name};
    *f = (struct space_found){
        .table = space_table_ref(st->table), .point = st->point, .told = atomic_load(&st->told)};
    int r = find_trees(&q, from, f);
    if (!sp || (r < 0 && r != -ENOENT))
        return r;
    if (r < 0)
        f->table = space_table_ref(st->table);
    return at_spot(s, call, sp, f);
}

/* ---- the op ---- */

/* One try: 1 if something has changed meanwhile. */
static int find_dir(struct space *s, struct pl_call *call, struct snode *dir,
                    struct space_stack **ret)
{
    uint64_t before = atomic_load(&s->changes);
    struct space_stack *st = space_stack(s, dir), *up;
    struct space_table *now = atomic_load(&s->table);
    struct space_found f;
    struct snode *parent;
    char name[PL_NAME_MAX + 1];
    int r = 0;
    if (st->table == now && (st->n || !st->spot)) {
        *ret = st;
        return 0;
    }
    if (dir == s->root) {
        pthread_mutex_lock(&s->names);
        now = space_table_ref(s->table);
        pthread_mutex_unlock(&s->names);
        r = space_root_find(s, call, now, &f);
        space_table_unref(now);
    } else if (!space_place(s, dir, &parent, name)) {
        *ret = st;
        return 0;
    } else {
        r = space_dir(s, call, parent, &up);
        if (r == 0) {
            struct space_as as = space_self(s, call);
            r = space_find(s, call, parent, up, name, 0, &f);
            space_back(call, &as);
            space_stack_unref(up);
        }
        pl_node_unref(&parent->node);
    }
    if (r == 0 && f.fmt != S_IFDIR) {
        space_found_done(&f);
        r = -ENOENT;
    }
    if (r < 0) { /* it is not in the new table: it is what it was */
        *ret = st;
        return 0;
    }
    struct space_stack *fresh = space_stack_new(&f);
    if (!fresh) {
        space_found_done(&f);
        space_stack_unref(st);
        return -ENOMEM;
    }
    space_stack_unref(st);
    atomic_fetch_add(&fresh->refs, 1);
    *ret = fresh;
    if (space_stack_set(s, dir, fresh, before))
        return 0;
    space_stack_unref(fresh);
    return 1;
}

int space_dir(struct space *s, struct pl_call *call, struct snode *dir, struct space_stack **ret)
{
    int r;
    do
        r = find_dir(s, call, dir, ret);
    while (r > 0);
    return r;
}

static int lookup_up(struct space *s, struct pl_call *call, struct snode *n, struct pl_node **ret,
                     struct pl_attr *attr)
{
    struct snode *parent;
    char name[PL_NAME_MAX + 1];
    if (!space_place(s, n, &parent, name)) {
        parent = n;
        pl_node_ref(&n->node);
    }
    int r = space_getattr(&s->tree, call, &parent->node, NULL, attr);
    if (r < 0)
        pl_node_unref(&parent->node);
    else
        *ret = &parent->node;
    return r;
}

int space_lookup(SPACE_T, struct pl_node *dir, const char *name, struct pl_node **ret,
                 struct pl_attr *attr)
{
    struct space *s = space_of(tree);
    struct snode *d = snode_of(dir), *n;
    struct space_stack *st;
    if (!strcmp(name, ".."))
        return lookup_up(s, call, d, ret, attr);
    int r = space_dir(s, call, d, &st);
    if (r < 0)
        return r;
    r = space_child(s, call, d, st, name, &n, attr);
    space_stack_unref(st);
    if (r < 0)
        return r;
    st = space_stack(s, n);
    uint64_t ino = attr->ino, version = attr->version;
    space_attr(s, call, n, st, attr);
    if (st->n > 1 && !attr->told)
        attr->version = version ? version : space_version(s, call, st);
    if (st->n && ino && st->n == 1 && n->nkeys == 2) /* it may have been copied up since */
        r = space_getattr(tree, call, &n->node, NULL, attr);
    space_stack_unref(st);
    if (r < 0)
        pl_node_unref(&n->node);
    else
        *ret = &n->node;
    return r;
}
