/* SPDX-License-Identifier: MIT */
/*
 * What others change in the trees of a space is passed on, as what it is in the space.
 *
 * Each source among the trees has one *ear*. What it hears of a lower node concerns the nodes that
 * have it in their stack (space_seen). A name is news unless a layer in front hides it; a directory
 * whose stack may be another now is looked for again, for the kernel need not ask for it
 * (look_again), and so are those known below it.
 *
 * What may be promised (pl_attr.told). A name in a directory depends on the directory's parts, and
 * on those that are not there: so a stack has a bit for each layer, set if that layer's part, or
 * its absence, and all above it, is told of. A file needs the bits up to its layer, a directory
 * (and with it the names that are not there) all. No bit are given to layers of which one directory
 * can be seen at two places: a change through the one is not told to the other (apart).
 *
 * What the space's own callers do is not told, but for one thing that nobody expects of it: copying
 * up changes attributes. A thread says that, since those who serve requests may not (see
 * pl_watcher).
 *
 * Locks: `setting` for the ears; `telling`, in which watchers are called one at a time, and trees
 * too; `lock` for the list of what was copied up, inside nothing else.
 */
#include "tree/space.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PLACES = 64, /* of one lower node at once: more than there are bindings is not to be expected */
    DEPTH = 64,  /* of directories whose parts have changed, below one another */
};

struct ear {
    struct pl_watcher w; /* first */
    struct space_watch *of;
    struct pl_tree *tree; /* a reference; the one that answers pl_watch() */
    struct ear *next;
    bool on, used;
    char how[64]; /* guarded by `telling` */
};

struct raised {
    struct raised *next;
    struct snode *node; /* a reference */
};

struct space_watch {
    struct space *s;
    struct pl_watcher *to;
    pthread_mutex_t telling;
    struct ear *ears; /* written with `setting` and `telling` held */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    pthread_t thread;
    struct raised *raised; /* the newest first */
    atomic_bool on, over;
};

static struct space_watch *active(struct space *s)
{
    struct space_watch *w = atomic_load_explicit(&s->watch, memory_order_acquire);
    return w && atomic_load_explicit(&w->on, memory_order_acquire) ? w : NULL;
}

/* ---- what may be promised -------------------------------------------------------------------- */

bool space_hears(const struct space_bind *b, const struct pl_attr *attr)
{
    return atomic_load_explicit(&b->heard, memory_order_relaxed) &&
           (attr->told || b->tree->flags & PL_TREE_PRIVATE);
}

/* Layers 0 to n-1. */
static bool covers(uint32_t told, int n)
{
    uint32_t all = n < 32 ? (UINT32_C(1) << n) - 1 : UINT32_MAX;
    return (told & all) == all;
}

/* The names before it where it was found: up to layer k. */
static bool name_told(struct space *s, struct snode *n, const struct space_stack *st, int k)
{
    pthread_mutex_lock(&s->names);
    const struct space_stack *up = n->parent ? n->parent->stack : NULL;
    bool told = up && up->point == st->point && covers(atomic_load(&up->told), k + 1);
    pthread_mutex_unlock(&s->names);
    return told;
}

bool space_told(struct space *s, struct snode *n, const struct space_stack *st,
                const struct pl_attr *attr)
{
    struct space_point *p = st->point;
    if (!active(s))
        return false;
    if (st->n && !space_hears(p->layer[st->e[0].k].bind, attr))
        return false;
    if (n->node.fmt == S_IFDIR)
        return covers(atomic_load(&st->told), p->n);
    /* What becomes of its other names, and how many are only behind, is noted elsewhere. */
    if (S_ISREG(attr->mode) && attr->nlink != 1 && p->n > 1)
        return false;
    return name_told(s, n, st, st->e[0].k);
}

/* ---- telling: with `telling` held ------------------------------------------------------------ */

static void tell_changed(struct space_watch *w, struct snode *n, uint32_t what)
{
    w->to->changed(w->to, &n->node, n->ino, what);
}

static void tell_name(struct space_watch *w, struct snode *dir, const char *name)
{
    w->to->renamed(w->to, &dir->node, dir->ino, name);
}

static void look_again(struct space_watch *w, struct pl_call *call, struct snode *n, int depth);

struct names {
    struct space_watch *w;
    struct pl_call *call;
    struct snode *dir;
    int depth;
};

static int one_name(void *arg, const char *name)
{
    struct names *l = arg;
    struct snode *in = space_known(l->w->s, l->dir, name);
    if (in)
        look_again(l->w, l->call, in, l->depth + 1);
    pl_node_unref(in ? &in->node : NULL);
    tell_name(l->w, l->dir, name);
    return 0;
}

static bool same_parts(const struct space_stack *a, const struct space_stack *b)
{
    bool same = a->n == b->n && a->point == b->point;
    for (int i = 0; same && i < a->n; i++)
        same = a->e[i].k == b->e[i].k && a->e[i].node == b->e[i].node;
    return same;
}

/* Finds the node by its place again, which gives it the stack that it has now; false: something
 * else is there. */
static bool find_again(struct space *s, struct pl_call *call, struct snode *n)
{
    struct snode *up, *now;
    struct space_stack *st;
    struct pl_attr attr;
    char name[PL_NAME_MAX + 1];
    if (n->gone || !space_place(s, n, &up, name))
        return false;
    bool still = space_dir(s, call, up, &st) == 0;
    if (still) {
        still = space_child(s, call, up, st, name, &now, &attr) == 0;
        space_stack_unref(st);
    }
    if (still) {
        still = now == n;
        pl_node_unref(&now->node);
    }
    pl_node_unref(&up->node);
    return still;
}

/* A directory may be made of other parts now: then all its names may be others. */
static void look_again(struct space_watch *w, struct pl_call *call, struct snode *n, int depth)
{
    struct space *s = w->s;
    struct names names = {w, call, n, depth};
    if (depth > DEPTH) {
        w->to->lost(w->to, "directories more than 64 deep have other parts");
        return;
    }
    struct space_stack *was = space_stack(s, n), *is = NULL;
    if (find_again(s, call, n))
        is = space_stack(s, n);
    if (is && !same_parts(was, is)) {
        space_each_name(s, call, was, one_name, &names);
        space_each_name(s, call, is, one_name, &names);
        tell_changed(w, n, PL_CHANGED_ATTR | PL_CHANGED_DATA);
    }
    space_stack_unref(was);
    space_stack_unref(is);
}

static int entry_of(const struct space_stack *st, const struct pl_node *lower)
{
    int i = 0;
    while (i < st->n && st->e[i].node != lower)
        i++;
    return i;
}

/* ---- what the ears hear ---------------------------------------------------------------------- */

/* `lower` has changed, which is in the node's stack. */
static void part_changed(struct space_watch *w, struct pl_call *call, struct snode *n,
                         const struct pl_node *lower, uint32_t what)
{
    struct space_stack *st = space_stack(w->s, n);
    int i = entry_of(st, lower);
    bool dir = n->node.fmt == S_IFDIR;
    if (dir && !(what & PL_CHANGED_DATA) && st->point->n > 1)
        look_again(w, call, n, 0); /* it may be opaque now, or lead elsewhere */
    if (i == 0)
        tell_changed(w, n, what);
    else if (i < st->n && what & PL_CHANGED_DATA) /* it shows the other's attributes */
        tell_changed(w, n, PL_CHANGED_DATA);
    space_stack_unref(st);
}

/* Does an entry of the stack before i have what hides `name`? A directory does not hide one. */
static bool hidden(struct space *s, struct pl_call *call, const struct space_stack *st, int i,
                   const char *name)
{
    bool hides = false;
    for (int j = 0; j < i && !hides; j++) {
        struct pl_node *n;
        struct pl_attr attr;
        int r =
            space_look(s, call, space_tree(st->point, st->e[j].k), st->e[j].node, name, &n, &attr);
        hides = r == SPACE_WHITE || r == SPACE_COVERED || (r == SPACE_THERE && !S_ISDIR(attr.mode));
        if (r == SPACE_THERE)
            pl_node_unref(n);
    }
    return hides;
}

/* `name` in `lower`, which is a part of the directory, may stand for something else. */
static void part_renamed(struct space_watch *w, struct pl_call *call, struct snode *dir,
                         const struct pl_node *lower, const char *name)
{
    struct space *s = w->s;
    size_t skip = sizeof(SPACE_HIDDEN) - 1;
    if (!strcmp(name, SPACE_OPAQUE)) {
        look_again(w, call, dir, 0);
        return;
    }
    if (space_is_hidden(name) && (!name[skip] || name[skip] == '.'))
        return;
    if (space_is_hidden(name)) /* it hides, or did */
        name += skip;
    struct space_stack *st = space_stack(s, dir);
    if (!hidden(s, call, st, entry_of(st, lower), name)) {
        struct snode *in = space_known(s, dir, name);
        if (in)
            look_again(w, call, in, 0);
        pl_node_unref(in ? &in->node : NULL);
        tell_name(w, dir, name);
    }
    space_stack_unref(st);
}

/* With each node that has the lower one in its stack. */
static void each_place(struct ear *e, struct pl_node *lower, const char *name, uint32_t what)
{
    struct space_watch *w = e->of;
    struct snode *n[PLACES];
    struct pl_call call;
    size_t count = space_seen(w->s, lower, n, PLACES);
    if (!count)
        return;
    pl_call_init_self(&call);
    pthread_mutex_lock(&w->telling);
    for (size_t i = 0; i < count; i++) {
        if (name)
            part_renamed(w, &call, n[i], lower, name);
        else
            part_changed(w, &call, n[i], lower, what);
    }
    if (count == PLACES)
        w->to->lost(w->to, "one object is at more places of the space than are looked at");
    pthread_mutex_unlock(&w->telling);
    pl_call_done(&call);
    while (count)
        pl_node_unref(&n[--count]->node);
}

static void changed(struct pl_watcher *e, struct pl_node *node, uint64_t ino, uint32_t what)
{
    each_place((struct ear *)e, node, NULL, what);
}

static void renamed(struct pl_watcher *e, struct pl_node *dir, uint64_t ino, const char *name)
{
    each_place((struct ear *)e, dir, name, 0);
}

static void lost(struct pl_watcher *e, const char *sentence)
{
    struct space_watch *w = ((struct ear *)e)->of;
    pthread_mutex_lock(&w->telling);
    w->to->lost(w->to, sentence);
    pthread_mutex_unlock(&w->telling);
}

/* The words of the tree that has most to say, and how many cannot tell. With `telling` held. */
static void words(const struct space_watch *w, char how[64])
{
    const char *best = NULL;
    unsigned deaf = 0;
    for (const struct ear *e = w->ears; e; e = e->next) {
        if (!e->on)
            deaf++;
        else if (!best || (strchr(e->how, ':') && !strchr(best, ':')))
            best = e->how;
    }
    if (deaf)
        snprintf(how, 64, "%.28s; %u of the trees cannot", best ? best : "", deaf);
    else
        snprintf(how, 64, "%s", best ? best : "");
}

static void how_now(struct pl_watcher *watcher, const char *text)
{
    struct ear *e = (struct ear *)watcher;
    struct space_watch *w = e->of;
    char how[64];
    pthread_mutex_lock(&w->telling);
    snprintf(e->how, sizeof(e->how), "%s", text);
    words(w, how);
    if (w->to->how)
        w->to->how(w->to, how);
    pthread_mutex_unlock(&w->telling);
}

/* ---- what was copied up ---------------------------------------------------------------------- */

void space_raised(struct space *s, struct snode *n)
{
    struct space_watch *w = active(s);
    struct raised *r = w ? malloc(sizeof(*r)) : NULL;
    if (!r)
        return;
    r->node = n;
    pl_node_ref(&n->node);
    pthread_mutex_lock(&w->lock);
    r->next = w->raised;
    w->raised = r;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static void tell_raised(struct space_watch *w, struct raised *list, bool say)
{
    struct pl_call call;
    pl_call_init_self(&call);
    while (list) {
        struct raised *r = list;
        list = r->next;
        if (say) {
            pthread_mutex_lock(&w->telling);
            if (r->node->node.fmt == S_IFDIR)
                find_again(w->s, &call, r->node); /* its new part is to be told of too */
            tell_changed(w, r->node, PL_CHANGED_ATTR);
            pthread_mutex_unlock(&w->telling);
        }
        pl_node_unref(&r->node->node);
        free(r);
    }
    pl_call_done(&call);
}

static void *run(void *arg)
{
    struct space_watch *w = arg;
    pthread_mutex_lock(&w->lock);
    while (!w->over) {
        struct raised *list = w->raised;
        if (!list) {
            pthread_cond_wait(&w->cond, &w->lock);
            continue;
        }
        w->raised = NULL;
        pthread_mutex_unlock(&w->lock);
        tell_raised(w, list, true);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* ---- the ears: with `setting` held ----------------------------------------------------------- */

/* The tree that would answer pl_watch(). */
static struct pl_tree *teller(struct pl_tree *t)
{
    while (!t->ops->watch && t->lower)
        t = t->lower;
    return t;
}

/* Is `path` at or beneath `top`? *rest is what follows: "" or "/a". Both are clean. */
static bool beneath(const char *path, const char *top, const char **rest)
{
    size_t n = top[1] ? strlen(top) : 0;
    *rest = path + n;
    return !strncmp(path, top, n) && (!path[n] || path[n] == '/');
}

/* Two bindings show one directory at two places. */
static bool twice(const struct space_bind *a, const struct space_bind *b)
{
    const struct space_bind *in = a, *out = b;
    const char *rest, *way;
    if (teller(a->tree) != teller(b->tree))
        return false;
    if (!beneath(in->sub, out->sub, &rest)) {
        in = b;
        out = a;
        if (!beneath(in->sub, out->sub, &rest))
            return false;
    }
    /* It is where it would be anyway, and nothing else is. */
    bool replaced = (in->how & 3) == PL_BIND_REPLACE && *rest && strcmp(rest, "/") != 0;
    return !(replaced && beneath(in->path, out->path, &way) && !strcmp(way, rest));
}

static bool apart(const struct space_table *t, const struct space_bind *b)
{
    bool is = true;
    for (size_t i = 0; i < t->n && is; i++)
        is = t->bind[i] == b || !twice(t->bind[i], b);
    return is;
}

static struct ear *ear_of(struct space_watch *w, struct pl_tree *tree)
{
    struct ear *e = w->ears;
    while (e && e->tree != tree)
        e = e->next;
    return e;
}

static struct ear *ear_new(struct space_watch *w, struct pl_tree *tree)
{
    struct ear *e = calloc(1, sizeof(*e));
    char how[64] = "";
    if (!e)
        return NULL;
    e->w = (struct pl_watcher){changed, renamed, lost, how_now};
    e->of = w;
    e->tree = pl_tree_ref(tree);
    e->on = pl_watch(tree, &e->w, how) == 0;
    pthread_mutex_lock(&w->telling);
    if (!*e->how) /* else it has said something newer */
        snprintf(e->how, sizeof(e->how), "%s", how);
    e->next = w->ears;
    w->ears = e;
    pthread_mutex_unlock(&w->telling);
    return e;
}

/* Ends those that no binding uses; `all` of them. */
static void ears_close(struct space_watch *w, bool all)
{
    char how[64];
    for (struct ear **at = &w->ears; *at;) {
        struct ear *e = *at;
        if (e->used && !all) {
            at = &e->next;
            continue;
        }
        if (e->on)
            pl_watch(e->tree, NULL, how);
        pthread_mutex_lock(&w->telling);
        *at = e->next;
        pthread_mutex_unlock(&w->telling);
        pl_tree_unref(e->tree);
        free(e);
    }
}

/* An ear for each source; what stands on a space after the rest, for it may have the same ones. */
static void ears_open(struct space_watch *w, struct space_table *t)
{
    for (struct ear *e = w->ears; e; e = e->next)
        e->used = false;
    for (int last = 0; last < 2; last++) {
        for (size_t i = 0; i < t->n; i++) {
            struct space_bind *b = t->bind[i];
            struct pl_tree *tree = teller(b->tree);
            if ((tree->ops == w->s->tree.ops) != last)
                continue;
            bool alone = b->tree->flags & PL_TREE_PRIVATE; /* there is nobody to tell of */
            struct ear *e = alone ? NULL : ear_of(w, tree);
            e = e || alone ? e : ear_new(w, tree);
            if (e)
                e->used = true;
            atomic_store(&b->heard, (alone || (e && e->on)) && apart(t, b));
        }
    }
}

void space_watch_table(struct space *s, struct space_table *old, struct space_table *now)
{
    struct space_watch *w = active(s);
    if (!w)
        return;
    for (size_t i = 0; old && i < old->n; i++)
        atomic_store(&old->bind[i]->heard, false);
    ears_open(w, now);
    ears_close(w, false);
}

/* ---- on and off ------------------------------------------------------------------------------ */

/* What was found before somebody watched is not told of. */
static void find_root(struct space *s, struct space_table *t)
{
    struct pl_call call;
    struct space_found f;
    pl_call_init_self(&call);
    for (bool set = false; !set;) {
        uint64_t before = atomic_load(&s->changes);
        if (space_root_find(s, &call, t, &f) < 0)
            break;
        struct space_stack *st = space_stack_new(&f);
        set = !st || space_stack_set(s, s->root, st, before);
        if (!st)
            space_found_done(&f);
    }
    pl_call_done(&call);
}

static int start_thread(struct space_watch *w)
{
    sigset_t all, old;
    sigfillset(&all); /* signals are for the main thread */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(&w->thread, NULL, run, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -error;
}

static void stop(struct space_watch *w)
{
    struct space_table *t = atomic_load(&w->s->table);
    atomic_store(&w->on, false);
    for (size_t i = 0; i < t->n; i++)
        atomic_store(&t->bind[i]->heard, false);
    ears_close(w, true);
    pthread_mutex_lock(&w->lock);
    w->over = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    tell_raised(w, w->raised, false);
    w->raised = NULL;
}

static int start(struct space_watch *w, struct pl_watcher *to, char how[64])
{
    struct space_table *t = atomic_load(&w->s->table);
    w->to = to;
    w->over = false;
    int r = start_thread(w);
    if (r < 0) {
        snprintf(how, 64, "no thread for it: %.40s", strerror(-r));
        return r;
    }
    atomic_store(&w->on, true);
    ears_open(w, t);
    bool any = false;
    for (struct ear *e = w->ears; e; e = e->next)
        any |= e->on;
    if (!any) {
        snprintf(how, 64, "%s", w->ears ? w->ears->how : "cannot tell of changes");
        stop(w);
        return -EOPNOTSUPP;
    }
    find_root(w->s, t);
    pthread_mutex_lock(&w->telling);
    words(w, how);
    pthread_mutex_unlock(&w->telling);
    return 0;
}

static struct space_watch *watch_new(struct space *s)
{
    struct space_watch *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    w->s = s;
    pthread_mutex_init(&w->telling, NULL);
    pthread_mutex_init(&w->lock, NULL);
    pl_cond_init(&w->cond);
    return w;
}

int space_watch(struct pl_tree *tree, struct pl_watcher *to, char how[64])
{
    struct space *s = space_of(tree);
    int r = 0;
    pthread_mutex_lock(&s->setting);
    struct space_watch *w = atomic_load(&s->watch);
    bool on = w && atomic_load(&w->on);
    if (!to) {
        if (on)
            stop(w);
    } else if (on) {
        strcpy(how, "another door watches it");
        r = -EBUSY;
    } else if (!w && !(w = watch_new(s))) {
        strcpy(how, "out of memory");
        r = -ENOMEM;
    } else {
        atomic_store(&s->watch, w); /* it stays until the tree goes: ops may look at it */
        r = start(w, to, how);
    }
    pthread_mutex_unlock(&s->setting);
    return r;
}

void space_watch_free(struct space *s)
{
    struct space_watch *w = atomic_load(&s->watch);
    if (!w)
        return;
    pthread_cond_destroy(&w->cond);
    pthread_mutex_destroy(&w->lock);
    pthread_mutex_destroy(&w->telling);
    free(w);
}
