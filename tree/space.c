/* SPDX-License-Identifier: MIT */
/* Spaces: making them, and changing their bindings. See space.h. */
#include "tree/space.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

static void space_done(struct pl_tree *tree)
{
    struct space *s = space_of(tree);
    space_watch_free(s);
    pl_node_unref(s->root ? &s->root->node : NULL);
    space_table_unref(atomic_load(&s->table));
    free((void *)s->slot);
    free((void *)s->self.groups);
    pthread_cond_destroy(&s->freed);
    pthread_mutex_destroy(&s->holds);
    pthread_mutex_destroy(&s->names);
    pthread_mutex_destroy(&s->setting);
}

static int space_root(SPACE_T, struct pl_node **ret)
{
    *ret = pl_node_ref(&space_of(tree)->root->node);
    return 0;
}

/* What the first tree keeps; the others do without. */
static void space_keep(struct pl_tree *tree, struct pl_keep *keep)
{
    const struct space_table *t = atomic_load(&space_of(tree)->table);
    if (t->root->point->n)
        pl_keep(space_tree(t->root->point, 0), keep);
}

static const struct pl_ops space_ops = {
    .name = "space",
    .done = space_done,
    .root = space_root,
    .release = space_release,
    .lookup = space_lookup,
    .getattr = space_getattr,
    .setattr = space_setattr,
    .access = space_access,
    .readlink = space_readlink,
    .make = space_make,
    .link = space_link,
    .remove = space_remove,
    .rename = space_rename,
    .open = space_open,
    .create = space_create,
    .tmpfile = space_tmpfile,
    .close = space_close,
    .flush = space_flush,
    .read = space_read,
    .write = space_write,
    .readdir = space_readdir,
    .seek = space_seek,
    .fsync = space_fsync,
    .fallocate = space_fallocate,
    .copy = space_copy,
    .getxattr = space_getxattr,
    .setxattr = space_setxattr,
    .removexattr = space_removexattr,
    .listxattr = space_listxattr,
    .lock = space_lock,
    .getlock = space_getlock,
    .poll = space_poll,
    .ioctl = space_ioctl,
    .statfs = space_statfs,
    .syncfs = space_syncfs,
    .keep = space_keep,
    .resume = space_resume,
    .watch = space_watch,
};

/* ---- setting up ---- */

/* Who this process is: copies are made in his name. */
static int own_cred(struct space *s)
{
    int n = getgroups(0, NULL);
    gid_t *g = n > 0 ? malloc((size_t)n * sizeof(*g)) : NULL;
    if (n > 0 && !g)
        return -ENOMEM;
    n = n > 0 ? getgroups(n, g) : 0;
    s->self = (struct pl_cred){
        .uid = geteuid(), .gid = getegid(), .ngroups = n < 0 ? 0 : (uint32_t)n, .groups = g};
    return 0;
}

/* What a door may know beforehand: what is true of all trees, or of any. Where one has no xattrs,
 * or no ACLs, it says so itself. */
static uint32_t flags_of(const struct space_table *t)
{
    const uint32_t all =
        PL_TREE_PRIVATE | PL_TREE_LASTING | PL_TREE_STATELESS | PL_TREE_STATELESS_SELF;
    const uint32_t any = PL_TREE_GENERATED | PL_TREE_REMOTE | PL_TREE_POSIX_ACL | PL_TREE_XATTR;
    uint32_t flags = all | PL_TREE_LOCKS;
    for (size_t i = 0; i < t->n; i++) {
        uint32_t of = t->bind[i]->tree->flags;
        flags = (flags & ~(all & ~of)) | (of & any);
    }
    return t->n ? flags : PL_TREE_LOCKS;
}

static struct space *space_alloc(uint32_t flags, bool ro)
{
    struct space *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->mask = 255;
    s->slot = (struct space_key **)calloc(s->mask + 1, sizeof(*s->slot));
    if (!s->slot || own_cred(s) < 0) {
        free((void *)s->slot);
        free(s);
        return NULL;
    }
    pl_tree_init(&s->tree, &space_ops, NULL);
    pthread_mutex_init(&s->names, NULL);
    pthread_mutex_init(&s->holds, NULL);
    pthread_mutex_init(&s->setting, NULL);
    pl_cond_init(&s->freed);
    clock_gettime(CLOCK_REALTIME, &s->born);
    s->flags = flags;
    s->ro = ro;
    uint64_t start = 0; /* of names that are not another run's */
    if (getrandom(&start, sizeof(start), GRND_NONBLOCK) < 0)
        start = (uint64_t)s->born.tv_nsec;
    s->next_temp = start;
    return s;
}

/* With `setting` held: from now on these are the bindings. */
static int set_table(struct space *s, const struct pl_binding *b, size_t n, struct pl_err *err)
{
    struct space_table *old = atomic_load(&s->table), *t;
    struct pl_call call;
    int r = space_table_new(s, b, n, old, &t, err);
    if (r < 0)
        return r;
    pl_call_init_self(&call);
    r = space_check(s, &call, t, err);
    pl_call_done(&call);
    if (r < 0) {
        space_table_unref(t);
        return r;
    }
    pthread_mutex_lock(&s->names);
    atomic_store(&s->table, t);
    pthread_mutex_unlock(&s->names);
    space_watch_table(s, old, t);
    space_table_unref(old);
    if (s->tree.flags != flags_of(t))
        s->tree.flags = flags_of(t);
    return 0;
}

static int find_root(struct space *s, struct pl_err *err)
{
    struct pl_call call;
    struct space_found f;
    pl_call_init_self(&call);
    int r = space_root_find(s, &call, atomic_load(&s->table), &f);
    if (r == 0)
        r = space_node(s, &call, NULL, NULL, &f, &s->root);
    pl_call_done(&call);
    return r < 0 ? pl_fail(err, r, "/: cannot be bound: %s", strerror(-r)) : 0;
}

static int space_new(const struct pl_binding *b, size_t n, uint32_t flags, bool ro,
                     struct pl_tree **ret, struct pl_err *err)
{
    if (flags & ~(uint32_t)(PL_SPACE_CLASSIC | PL_SPACE_DOTS))
        return pl_fail(err, -EINVAL, "flags 0x%x: not known (PL_SPACE_CLASSIC, PL_SPACE_DOTS)",
                       flags);
    struct space *s = space_alloc(flags, ro);
    if (!s)
        return pl_fail(err, -ENOMEM, "out of memory");
    int r = set_table(s, b, n, err);
    if (r == 0)
        r = find_root(s, err);
    if (r < 0)
        pl_tree_unref(&s->tree);
    else
        *ret = &s->tree;
    return r;
}

int pl_space_new(const struct pl_binding *bindings, size_t n, uint32_t flags, struct pl_tree **ret,
                 struct pl_err *err)
{
    return space_new(bindings, n, flags, false, ret, err);
}

int pl_union_new(struct pl_tree *const *trees, size_t n, bool writable, uint32_t flags,
                 struct pl_tree **ret, struct pl_err *err)
{
    struct pl_binding b[PL_SPACE_STACK];
    if (n == 0 || n > PL_SPACE_STACK)
        return pl_fail(err, n ? -E2BIG : -EINVAL,
                       "a union of %zu trees (1 to %d: one of them may be a union)", n,
                       PL_SPACE_STACK);
    for (size_t i = 0; i < n; i++)
        b[i] = (struct pl_binding){.path = "/",
                                   .tree = trees[i],
                                   .sub = "/",
                                   .how = i          ? PL_BIND_AFTER
                                          : writable ? PL_BIND_CREATE
                                                     : 0};
    return space_new(b, n, flags, !writable, ret, err);
}

/* ---- changing it ---- */

/* The space that a tree is, below layers; or NULL. */
static struct space *as_space(struct pl_tree *t)
{
    while (t && t->lower)
        t = t->lower;
    return t && t->ops == &space_ops ? space_of(t) : NULL;
}

int pl_space_set(struct pl_tree *space, const struct pl_binding *bindings, size_t n,
                 struct pl_err *err)
{
    struct space *s = as_space(space);
    if (!s)
        return pl_fail(err, -EINVAL, "%s: not a space (pl_space_new makes one)", space->ops->name);
    pthread_mutex_lock(&s->setting);
    int r = set_table(s, bindings, n, err);
    pthread_mutex_unlock(&s->setting);
    return r;
}

int pl_space_set_flags(struct pl_tree *space, uint32_t flags)
{
    struct space *s = as_space(space);
    if (!s || flags & ~(uint32_t)(PL_SPACE_CLASSIC | PL_SPACE_DOTS))
        return -EINVAL;
    atomic_store(&s->flags, flags);
    return 0;
}

static struct pl_binding public_of(const struct space_bind *b)
{
    return (struct pl_binding){.path = b->path, .tree = b->tree, .sub = b->sub, .how = b->how};
}

int pl_space_bind(struct pl_tree *space, const struct pl_binding *binding, struct pl_err *err)
{
    struct space *s = as_space(space);
    if (!s)
        return pl_fail(err, -EINVAL, "%s: not a space (pl_space_new makes one)", space->ops->name);
    pthread_mutex_lock(&s->setting);
    struct space_table *t = atomic_load(&s->table);
    struct pl_binding *b = calloc(t->n + 1, sizeof(*b));
    int r = b ? 0 : pl_fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; b && i < t->n; i++)
        b[i] = public_of(t->bind[i]);
    if (r == 0) {
        b[t->n] = *binding;
        r = set_table(s, b, t->n + 1, err);
    }
    pthread_mutex_unlock(&s->setting);
    free(b);
    return r;
}

int pl_space_unbind(struct pl_tree *space, const char *path, struct pl_tree *tree,
                    struct pl_err *err)
{
    struct space *s = as_space(space);
    if (!s)
        return pl_fail(err, -EINVAL, "%s: not a space (pl_space_new makes one)", space->ops->name);
    pthread_mutex_lock(&s->setting);
    struct space_table *t = atomic_load(&s->table);
    struct pl_binding *b = calloc(t->n + 1, sizeof(*b));
    size_t n = 0, last = t->n;
    for (size_t i = 0; b && i < t->n; i++)
        if (!strcmp(t->bind[i]->path, path) && (!tree || t->bind[i]->tree == tree))
            last = i;
    for (size_t i = 0; b && i < t->n; i++)
        if (tree ? i != last : strcmp(t->bind[i]->path, path) != 0)
            b[n++] = public_of(t->bind[i]);
    int r = !b ? pl_fail(err, -ENOMEM, "out of memory")
            : last == t->n
                ? pl_fail(err, -ENOENT, "%s: nothing is bound there (pl_space_each lists what is)",
                          path)
                : set_table(s, b, n, err);
    pthread_mutex_unlock(&s->setting);
    free(b);
    return r;
}

int pl_space_each(struct pl_tree *space, int (*each)(void *arg, const struct pl_binding *),
                  void *arg)
{
    struct space *s = as_space(space);
    if (!s)
        return -EINVAL;
    pthread_mutex_lock(&s->names);
    struct space_table *t = space_table_ref(atomic_load(&s->table));
    pthread_mutex_unlock(&s->names);
    int r = 0;
    for (size_t i = 0; i < t->n && r == 0; i++) {
        struct pl_binding b = public_of(t->bind[i]);
        r = each(arg, &b);
    }
    space_table_unref(t);
    return r;
}

/* ---- where ---- */

/* Puts "/part" in front of what is at *at. */
static bool prepend(char *buf, char **at, const char *part)
{
    size_t len = strlen(part);
    if (len + 1 > (size_t)(*at - buf))
        return false;
    *at -= len;
    memcpy(*at, part, len);
    *--*at = '/';
    return true;
}

/* Where layer k has a directory that was moved in one before it; "": under its name. */
static int moved_from(struct space *s, struct pl_call *call, const struct space_stack *st, int k,
                      char ret[PL_PATH_MAX + 1])
{
    int r = 0;
    struct space_marks *m = st->n > 1 ? malloc(sizeof(*m)) : NULL;
    struct space_as as = space_self(s, call);
    *ret = 0;
    for (int i = 0; m && r == 0 && i < st->n && st->e[i].k < k; i++) {
        call->own = space_in_place(st->point, st->e[i].k);
        r = space_marks(call, space_tree(st->point, st->e[i].k), st->e[i].node, m);
        if (r == 0 && m->redirect[0])
            strcpy(ret, m->redirect);
    }
    space_back(call, &as);
    free(m);
    return st->n > 1 && !m ? -ENOMEM : r;
}

/* The directory of the stack's point above n, a reference for which n's is given. */
static struct snode *point_root(struct space *s, struct snode *n)
{
    struct space_stack *st = space_stack(s, n);
    struct snode *up;
    char name[PL_NAME_MAX + 1];
    while (!(st->spot && st->spot->here) && space_place(s, n, &up, name)) {
        struct space_stack *above = space_stack(s, up);
        pl_node_unref(&n->node);
        space_stack_unref(st);
        n = up;
        st = above;
    }
    space_stack_unref(st);
    return n;
}

/* The path in layer k's tree: names up to where the layer begins, then that. A directory that was
 * moved is elsewhere behind. */
static int where(struct space *s, struct pl_call *call, struct snode *n, char *buf, char **at,
                 struct pl_tree **ret_tree)
{
    struct space_stack *st = space_stack(s, n);
    int r = st->n ? 0 : -EXDEV, k = st->n ? st->e[0].k : 0;
    pl_node_ref(&n->node);
    while (r == 0) {
        struct space_layer *l = &st->point->layer[k];
        struct snode *up;
        char name[PL_NAME_MAX + 1], from[PL_PATH_MAX + 1];
        *ret_tree = l->bind->tree;
        if (st->spot && st->spot->here && l->own) {
            r = strcmp(l->bind->sub, "/") && !prepend(buf, at, l->bind->sub + 1) ? -ERANGE : 1;
            break;
        }
        if (n->gone || !space_place(s, n, &up, name)) {
            r = -ENOENT;
            break;
        }
        r = S_ISDIR(n->node.fmt) ? moved_from(s, call, st, k, from) : 0;
        if (r == 0 && S_ISDIR(n->node.fmt) && *from) {
            r = prepend(buf, at, from + (*from == '/')) ? 0 : -ERANGE;
            pl_node_unref(&n->node);
            n = *from == '/' ? point_root(s, up) : up;
            space_stack_unref(st);
            st = space_stack(s, n);
            continue;
        }
        struct space_stack *above = space_stack(s, up);
        if (above->point != st->point)
            k = st->spot && st->spot->here ? k - st->point->above : k + 1; /* of "..." */
        if (r == 0 && (strcmp(name, "...") || above->point == st->point))
            r = prepend(buf, at, name) ? 0 : -ERANGE;
        space_stack_unref(st);
        pl_node_unref(&n->node);
        st = above;
        n = up;
    }
    space_stack_unref(st);
    pl_node_unref(&n->node);
    return r < 0 ? r : 0;
}

int pl_space_where(struct pl_tree *space, struct pl_call *call, struct pl_node *node,
                   struct pl_tree **ret_tree, char *path, size_t size)
{
    struct space *s = as_space(space);
    char buf[PL_PATH_MAX + 1], *at = buf + PL_PATH_MAX;
    if (!s)
        return -EINVAL;
    if (snode_of(node)->hollow)
        return -EXDEV;
    *at = 0;
    int r = where(s, call, snode_of(node), buf, &at, ret_tree);
    if (r < 0)
        return r;
    if (!*at)
        *--at = '/';
    if (strlen(at) >= size)
        return -ERANGE;
    memcpy(path, at, strlen(at) + 1);
    return 0;
}
