/* SPDX-License-Identifier: MIT */
#include "cmd/viewspace.h"
#include "channel/channel.h"
#include "cmd/servicedial.h"
#include "layers/version.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <plenum/sources.h>
#include <plenum/space.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int viewspace_check(const struct view *view, struct pl_err *err)
{
    struct pl_err why;
    for (size_t i = 0; i < view->nservices; i++) {
        const struct view_service *s = &view->services[i];
        if (*s->addr && chan_check(s->addr, &why) < 0)
            return pl_fail(err, -EINVAL, "/#fs/%s: %s", s->name, why.text);
    }
    return 0;
}

struct viewkept *viewspace_keep(void)
{
    void *p = mmap(NULL, sizeof(struct viewkept), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

int viewspace_publish(struct viewkept *kept, const struct view *view)
{
    char *text = view_text(view);
    uint32_t next = 1 - atomic_load(&kept->which);
    if (!text)
        return -ENOMEM;
    size_t n = strlen(text) + 1;
    if (n <= VIEW_TEXT) {
        memcpy(kept->text[next], text, n);
        atomic_store(&kept->which, next);
    }
    free(text);
    return n <= VIEW_TEXT ? 0 : -E2BIG;
}

/* ---- what the space is made of ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

const char **viewspace_tops(const struct viewspace *s, const struct view *view)
{
    size_t n = 0, kept = 0;
    const char **top = calloc(view->ntops + s->nbinds + 1, sizeof(*top));
    if (!top)
        return NULL;
    for (size_t i = 0; i < view->ntops; i++)
        top[n++] = view->tops[i].path;
    for (size_t i = 0; i < s->nbinds; i++)
        top[n++] = s->binds[i].dir;
    qsort(top, n, sizeof(*top), by_text);
    /* parents come first; between one and what is beneath it others may stand ("/a-b") */
    for (size_t i = 0; i < n; i++) {
        bool inner = false;
        for (size_t k = 0; k < kept && !inner; k++)
            inner = view_beneath(top[i], top[k], NULL);
        if (!inner)
            top[kept++] = top[i];
    }
    top[kept] = NULL;
    return top;
}

int viewspace_slot(struct viewspace *s, const char *top)
{
    uint32_t n = atomic_load(&s->kept->nslots);
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(s->kept->slot[i], top))
            return (int)i;
    if (n == VIEW_SLOTS)
        return -E2BIG;
    strcpy(s->kept->slot[n], top);
    atomic_store(&s->kept->nslots, n + 1);
    return (int)n;
}

/* Bindings, and the memory of their paths. */
struct table {
    struct pl_binding *b;
    size_t n, room;
    bool failed; /* no memory */
};

/* At "/SLOT" + at. */
static void add(struct table *t, int slot, const char *at, struct pl_tree *tree, const char *sub,
                uint32_t how)
{
    if (t->n == t->room) {
        size_t room = t->room ? 2 * t->room : 16;
        struct pl_binding *more = reallocarray(t->b, room, sizeof(*more));
        t->failed = t->failed || !more;
        if (!more)
            return;
        t->b = more;
        t->room = room;
    }
    struct pl_binding *b = &t->b[t->n];
    char *path, *copy = strdup(sub);
    char number[16] = "";
    if (slot >= 0)
        snprintf(number, sizeof(number), "/%d", slot);
    if (!copy || asprintf(&path, "%s%s", number, slot >= 0 && !strcmp(at, "/") ? "" : at) < 0) {
        free(copy);
        t->failed = true;
        return;
    }
    *b = (struct pl_binding){.path = path, .tree = tree, .sub = copy, .how = how};
    t->n++;
}

static void table_free(struct table *t)
{
    for (size_t i = 0; i < t->n; i++) {
        free((char *)t->b[i].path);
        free((char *)t->b[i].sub);
    }
    free(t->b);
}

/* What is at `top` and beneath it: the host's directory, or what is bound there; what is bound
 * beneath; then what all that is over. */
static int add_top(struct viewspace *s, struct view *view, const char *top, int slot,
                   struct table *t);

/* The outermost directory on a service that `path` is in, beneath `top`, or with `self` that is it;
 * NULL. */
static const char *service_dir(const struct view *view, const char *path, const char *top,
                               bool self)
{
    const char *found = NULL;
    for (size_t i = 0; i < view->nputs; i++) {
        const char *dir = view->puts[i].dir, *rest;
        if (view_beneath(path, dir, NULL) && view_beneath(dir, top, &rest) && (self || *rest) &&
            (!found || strlen(dir) < strlen(found)))
            found = dir;
    }
    return found;
}

/* ---- services ---- */

/* The tree of a directory on services: its space, with a layer for each of them. */
struct viewserved {
    struct viewserved *next;
    char dir[VIEW_PATH];
    char *key; /* what it was made from; another one is another tree */
    struct pl_tree *tree;
    bool used; /* by the view that is being made */
};

static const struct view_service *on_dir(const struct view *view, const char *dir, size_t put)
{
    if (strcmp(view->puts[put].dir, dir) != 0)
        return NULL;
    for (size_t i = 0; i < view->nservices; i++)
        if (!strcmp(view->services[i].name, view->puts[put].name) && *view->services[i].addr)
            return &view->services[i];
    return NULL;
}

/* All that the tree depends on. NULL: no memory. */
static char *served_key(const struct view *view, const char *dir, const struct table *t)
{
    char *key = NULL;
    size_t size;
    FILE *out = open_memstream(&key, &size);
    if (out)
        fprintf(out, "%d\n", view->classic);
    for (size_t i = 0; out && i < view->nputs; i++) {
        const struct view_service *v = on_dir(view, dir, i);
        if (v)
            fprintf(out, "%s\n%s\n%s\n", v->name, v->addr, v->attrs);
    }
    for (size_t i = 0; out && i < t->n; i++)
        fprintf(out, "%s\n%p\n%s\n%u\n", t->b[i].path, (void *)t->b[i].tree, t->b[i].sub,
                t->b[i].how);
    for (size_t i = 0; out && i < view->nvmaps; i++)
        fprintf(out, "%s\n%s\n", view->vmaps[i].name, view->vmaps[i].versions);
    return !out || fclose(out) != 0 ? NULL : key;
}

/* What the table has at `dir`, for those who replicate it: "" if it is not one directory of the
 * host.
 */
static void tree_of(const struct viewspace *s, const struct table *t, char spec[PATH_MAX + 8])
{
    char real[PATH_MAX];
    bool one = t->n == 1 && t->b[0].tree == s->host && realpath(t->b[0].sub, real);
    snprintf(spec, PATH_MAX + 8, "%s%s", one ? "host:" : "", one ? real : "");
}

/* The layers of the services that `dir` is on, over `tree`, which is taken over. NULL: no memory.
 */
static struct pl_tree *over_services(const struct view *view, const char *dir, const char *spec,
                                     struct pl_tree *tree)
{
    for (size_t i = 0; tree && i < view->nputs; i++) {
        const struct view_service *v = on_dir(view, dir, i);
        struct service_dialer dialer;
        struct service_attrs attrs;
        if (!v || service_attrs_parse(v->attrs, &attrs, NULL) < 0)
            continue;
        if (servicedial_new(v->name, v->addr, &dialer) < 0) {
            pl_tree_unref(tree);
            return NULL;
        }
        tree = service_new(v->name, spec, &attrs, &dialer, tree);
    }
    return tree;
}

static void switch_services(const struct view *view, const char *dir, struct pl_tree *tree)
{
    for (size_t i = view->nputs; i-- > 0;) { /* the last one is outermost */
        const struct view_service *v = on_dir(view, dir, i);
        if (!v)
            continue;
        service_switch(tree, v->on);
        tree = tree->lower;
    }
}

static void served_free(struct viewserved *d)
{
    pl_tree_unref(d->tree);
    free(d->key);
    free(d);
}

/* Those that no view uses any more are hung up. */
static void served_clean(struct viewspace *s, bool all)
{
    for (struct viewserved **at = &s->served; *at;) {
        struct viewserved *d = *at;
        if (d->used && !all) {
            d->used = false;
            at = &d->next;
            continue;
        }
        *at = d->next;
        served_free(d);
    }
}

static struct pl_tree *space_of(struct viewspace *s, struct view *view, const char *top,
                                struct table *t, struct pl_err *err);

/* The tree of `dir`, which is on services: the one that there is, or a new one. */
static int served(struct viewspace *s, struct view *view, const char *dir, struct pl_tree **ret)
{
    struct table t = {0};
    struct viewserved *d = s->served;
    char spec[PATH_MAX + 8];
    int r = add_top(s, view, dir, -1, &t);
    char *key = r < 0 ? NULL : served_key(view, dir, &t);
    tree_of(s, &t, spec);
    while (key && d && (strcmp(d->dir, dir) != 0 || strcmp(d->key, key) != 0))
        d = d->next;
    if (key && !d && (d = calloc(1, sizeof(*d)))) {
        d->tree = over_services(view, dir, spec, space_of(s, view, dir, &t, NULL));
        strcpy(d->dir, dir);
        d->key = key;
        key = NULL;
        d->next = s->served;
        s->served = d;
    }
    table_free(&t);
    free(key);
    if (!d || !d->tree)
        return r < 0 ? r : -ENOMEM;
    d->used = true;
    switch_services(view, dir, d->tree);
    *ret = d->tree;
    return 0;
}

/* The next directories on services beneath `top`: each is a tree of its own. */
static int add_served(struct viewspace *s, struct view *view, const char *top, int slot, bool self,
                      struct table *t)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < view->nputs; i++) {
        const char *dir = view->puts[i].dir, *rest;
        const char *outer = service_dir(view, dir, top, self);
        bool before = false;
        for (size_t k = 0; k < i; k++)
            before |= !strcmp(view->puts[k].dir, dir);
        if (!outer || strcmp(outer, dir) != 0 || before || !view_beneath(dir, top, &rest))
            continue;
        struct pl_tree *tree;
        r = served(s, view, dir, &tree);
        if (r == 0)
            add(t, slot, *rest ? rest : "/", tree, "/", PL_BIND_REPLACE | PL_BIND_CREATE);
    }
    return r;
}

/* (slot -1: for a tree by itself, which is beneath the services of `top`.) */
static int add_top(struct viewspace *s, struct view *view, const char *top, int slot,
                   struct table *t)
{
    struct pl_binding *b;
    size_t n;
    bool self = slot >= 0;
    if (self && service_dir(view, top, top, true))
        return add_served(s, view, top, slot, true, t);
    if (view_bindings(view, top, s->host, &b, &n) < 0)
        return -ENOMEM;
    add(t, slot, "/", b[0].tree, b[0].sub, b[0].how);
    for (size_t i = 0; i < s->nbinds; i++) {
        const struct viewbind *bind = &s->binds[i];
        const char *rest;
        if (view_beneath(bind->dir, top, &rest) && !service_dir(view, bind->dir, top, false))
            add(t, slot, *rest ? rest : "/", bind->tree ? bind->tree : s->host,
                bind->spec ? "/" : bind->sub, PL_BIND_REPLACE | PL_BIND_CREATE);
    }
    for (size_t i = 1; i < n; i++) {
        char path[2 * VIEW_PATH];
        snprintf(path, sizeof(path), "%s%s", top[1] ? top : "", b[i].path);
        if (!strcmp(b[i].path, "/") || !service_dir(view, path, top, false))
            add(t, slot, b[i].path, b[i].tree, b[i].sub, b[i].how);
    }
    free(b);
    int r = add_served(s, view, top, slot, false, t);
    return t->failed ? -ENOMEM : r;
}

static int table_of(struct viewspace *s, struct view *view, struct table *t)
{
    const char **top = viewspace_tops(s, view);
    int r = top ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && top[i]; i++) {
        int slot = viewspace_slot(s, top[i]);
        r = slot < 0 ? slot : add_top(s, view, top[i], slot, t);
    }
    free(top);
    return r;
}

static uint32_t space_flags(const struct view *view)
{
    return PL_SPACE_DOTS | (view->classic ? PL_SPACE_CLASSIC : 0u);
}

int viewspace_set(struct viewspace *s, struct view *view, struct pl_err *err)
{
    struct table t = {0};
    int r = table_of(s, view, &t);
    if (r < 0)
        pl_fail(err, r, r == -E2BIG ? "more than %d tops in the life of a view" : "out of memory",
                VIEW_SLOTS);
    else if (s->space)
        r = pl_space_set(s->space, t.b, t.n, err);
    else
        r = pl_space_new(t.b, t.n, space_flags(view), &s->space, err);
    table_free(&t);
    if (r < 0)
        return r;
    pl_space_set_flags(s->space, space_flags(view));
    served_clean(s, false);
    pthread_mutex_lock(&s->lock);
    struct view *was = s->view;
    s->view = view_ref(view);
    atomic_store(&s->versions, view->nvmaps > 0);
    pthread_mutex_unlock(&s->lock);
    view_unref(was);
    return 0;
}

/* ---- versions ---- */

static bool has_versions(void *arg)
{
    struct viewspace *s = arg;
    return atomic_load_explicit(&s->versions, memory_order_relaxed);
}

static const char *last_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The n-th word of a list, less the words there are: true if it was among them. */
static bool nth(const char *list, size_t *n, char *ret)
{
    for (;; list++) {
        size_t len = strcspn(list, ",");
        if ((*n)-- == 0) {
            memcpy(ret, list, len);
            ret[len] = 0;
            return true;
        }
        list += len;
        if (!*list)
            return false;
    }
}

/* What has versions: `dir` of `tree`. */
struct asked {
    struct viewspace *s; /* NULL: */
    const char *top;     /* ... the root of `tree` */
    struct pl_tree *tree;
    struct pl_call *call;
    struct pl_node *dir;
};

/* Is it the directory of `path` in the view? */
static bool is_parent(const struct asked *a, const struct view *view, const char *path)
{
    char at[VIEW_PATH + 16] = "";
    const char **top = a->s ? viewspace_tops(a->s, view) : NULL, *rest = NULL;
    struct pl_node *node = NULL;
    struct pl_attr attr;
    size_t i = 0;
    bool in = !a->s && view_beneath(path, a->top, &rest);
    while (top && top[i] && !view_beneath(path, top[i], &rest))
        i++;
    if (top && top[i]) {
        snprintf(at, sizeof(at), "%d", viewspace_slot(a->s, top[i]));
        in = true;
    }
    if (in && *rest) {
        size_t n = strlen(at);
        snprintf(at + n, sizeof(at) - n, "%.*s", (int)(strrchr(rest, '/') - rest), rest);
        if (pl_attach(a->tree, a->call, at, &node, &attr) < 0)
            node = NULL;
    }
    free(top);
    pl_node_unref(node);
    return node && node == a->dir;
}

/* Of the path, then of the name, then of any. */
static bool choose(const struct asked *a, const struct view *view, const char *name, size_t n,
                   char *ret)
{
    bool found = false;
    for (int rank = 0; !found && rank < 3; rank++)
        for (size_t i = 0; !found && i < view->nvmaps; i++) {
            const struct view_vmap *m = &view->vmaps[i];
            bool path = strchr(m->name, '/');
            if ((rank == 0 && path && !strcmp(last_name(m->name), name) &&
                 is_parent(a, view, m->name)) ||
                (rank == 1 && !path && !strcmp(m->name, name)) || (rank == 2 && !*m->name))
                found = nth(m->versions, &n, ret);
        }
    return found;
}

static bool choose_version(void *arg, struct pl_tree *lower, struct pl_call *call,
                           struct pl_node *dir, const char *name, size_t n, char *ret)
{
    struct viewspace *s = arg;
    const struct asked a = {s, NULL, lower, call, dir};
    pthread_mutex_lock(&s->lock);
    struct view *view = view_ref(s->view);
    pthread_mutex_unlock(&s->lock);
    bool found = choose(&a, view, name, n, ret);
    view_unref(view);
    return found;
}

/* ---- one top by itself ---- */

struct one {
    struct view *view;
    char top[VIEW_PATH];
};

static bool one_active(void *arg)
{
    const struct one *o = arg;
    return o->view->nvmaps;
}

static bool one_choose(void *arg, struct pl_tree *lower, struct pl_call *call, struct pl_node *dir,
                       const char *name, size_t n, char *ret)
{
    const struct one *o = arg;
    const struct asked a = {NULL, o->top, lower, call, dir};
    return choose(&a, o->view, name, n, ret);
}

static void one_done(void *arg)
{
    struct one *o = arg;
    view_unref(o->view);
    free(o);
}

/* NULL, with the sentence. */
static struct pl_tree *space_of(struct viewspace *s, struct view *view, const char *top,
                                struct table *t, struct pl_err *err)
{
    struct pl_tree *space, *tree;
    struct one *o = malloc(sizeof(*o));
    int r = o ? pl_space_new(t->b, t->n, space_flags(view), &space, err)
              : pl_fail(err, -ENOMEM, "out of memory");
    if (r < 0) {
        free(o);
        return NULL;
    }
    o->view = view_ref(view);
    strcpy(o->top, top);
    tree = version_new(&(struct version_chooser){one_active, one_choose, one_done, o}, space);
    if (!tree) {
        one_done(o);
        pl_fail(err, -ENOMEM, "out of memory");
    }
    return tree;
}

int viewspace_top(struct viewspace *s, struct view *view, const char *top, struct pl_tree **ret,
                  struct pl_err *err)
{
    struct table t = {0};
    int r;
    if (service_dir(view, top, top, true)) {
        r = served(s, view, top, ret);
        if (r == 0)
            pl_tree_ref(*ret);
        return r < 0 ? pl_fail(err, r, "%s: its services cannot be reached", top) : 0;
    }
    r = add_top(s, view, top, -1, &t);
    *ret = r < 0 ? NULL : space_of(s, view, top, &t, err);
    table_free(&t);
    return r < 0 ? pl_fail(err, r, "out of memory") : *ret ? 0 : -EINVAL;
}

void viewspace_settle(struct viewspace *s)
{
    served_clean(s, false);
}

/* The view as the text says that is valid. */
static int published(const struct viewkept *kept, struct view **ret, struct pl_err *err)
{
    const char *text = kept->text[atomic_load(&kept->which)];
    struct view *empty = NULL;
    size_t n;
    char **words = view_split(text, strlen(text), &n);
    int r = !words || view_new(&empty) < 0
                ? pl_fail(err, -ENOMEM, "out of memory")
                : view_change(empty, "/", (const char *const *)words, n, NULL, NULL, ret, err);
    view_unref(empty);
    free(words);
    return r;
}

int viewspace_open(struct viewspace *s, const struct spec_watch *watch, struct pl_err *err)
{
    struct view *view;
    pthread_mutex_init(&s->lock, NULL);
    int r = pl_host_open("/", &s->host, err);
    for (size_t i = 0; r == 0 && i < s->nbinds; i++)
        if (s->binds[i].spec)
            r = spec_open(s->binds[i].spec, watch, NULL, &s->binds[i].tree, err);
    r = r < 0 ? r : published(s->kept, &view, err);
    if (r < 0)
        return r;
    r = viewspace_set(s, view, err);
    view_unref(view);
    if (r < 0)
        return r;
    const struct version_chooser by = {has_versions, choose_version, NULL, s};
    s->tree = version_new(&by, pl_tree_ref(s->space));
    return s->tree ? 0 : pl_fail(err, -ENOMEM, "out of memory");
}

void viewspace_close(struct viewspace *s)
{
    served_clean(s, true);
    pl_tree_unref(s->tree);
    pl_tree_unref(s->space);
    pl_tree_unref(s->host);
    for (size_t i = 0; i < s->nbinds; i++) {
        pl_tree_unref(s->binds[i].tree);
        s->binds[i].tree = NULL;
    }
    view_unref(s->view);
    s->tree = s->space = s->host = NULL;
    s->view = NULL;
}

/* ---- tops that are not there ---- */

int viewspace_look(void *arg, char path[VIEW_PATH])
{
    char head[VIEW_PATH], real[PATH_MAX], found[VIEW_PATH];
    size_t n = strlen(path);
    struct stat st;
    if (view_beneath(path, "/proc", NULL))
        return 0;
    for (;;) { /* the longest part that is there */
        memcpy(head, path, n);
        head[n] = 0;
        if (realpath(n ? head : "/", real))
            break;
        if (errno != ENOENT && errno != ENOTDIR)
            return errno == EACCES ? -EACCES : 0;
        while (n > 0 && path[--n] != '/')
            ;
    }
    if (stat(real, &st) < 0)
        return 0;
    if (!S_ISDIR(st.st_mode))
        return -ENOTDIR;
    int r = path[n] ? -ENOENT : faccessat(AT_FDCWD, real, X_OK, AT_EACCESS) < 0 ? -EACCES : 0;
    int len = snprintf(found, sizeof(found), "%s%s", strcmp(real, "/") ? real : "", path + n);
    if (len > 0 && (size_t)len < sizeof(found))
        strcpy(path, found);
    return r;
}

int viewspace_make(struct viewkept *kept, const char *top, struct pl_err *err)
{
    char path[VIEW_PATH];
    struct stat st;
    strcpy(path, top);
    if (stat(path, &st) == 0)
        return 0;
    for (char *p = path + 1;; p++) {
        char was = *p;
        if (was && was != '/')
            continue;
        *p = 0;
        int r = mkdir(path, 0777) < 0 ? -errno : 0;
        if (r == 0) {
            uint32_t n = atomic_load(&kept->nmade);
            if (n < VIEW_MADE) {
                strcpy(kept->made[n], path);
                atomic_store(&kept->nmade, n + 1);
            }
        } else if (stat(path, &st) < 0) {
            return pl_fail(err, r, "%s: cannot be made: %s (make it, or choose another place)", top,
                           strerror(-r));
        }
        if (!was)
            return 0;
        *p = was;
    }
}

void viewspace_clear(struct viewkept *kept)
{
    for (uint32_t i = atomic_load(&kept->nmade); i-- > 0;)
        rmdir(kept->made[i]);
}

/* ---- where ---- */

/* From `node` (taken over) down `path`, "" or "/a/b", without following symlinks. */
static int walk(struct pl_tree *tree, struct pl_call *call, struct pl_node *node, const char *path,
                struct pl_node **ret)
{
    while (*path == '/') {
        char name[VIEW_PATH];
        struct pl_attr attr;
        struct pl_node *next;
        size_t n = strcspn(++path, "/");
        memcpy(name, path, n);
        name[n] = 0;
        int r = pl_lookup(tree, call, node, name, &next, &attr);
        pl_node_unref(node);
        if (r < 0)
            return r;
        node = next;
        path += n;
    }
    *ret = node;
    return 0;
}

static const char *spec_of(const struct viewspace *s, const struct pl_tree *tree)
{
    for (size_t i = 0; i < s->nbinds; i++)
        if (s->binds[i].tree == tree)
            return spec_text(s->binds[i].spec);
    return "?";
}

/* At `way` in `tree`, which has the space `space` below. */
static int where_at(struct viewspace *s, struct pl_tree *tree, struct pl_tree *space,
                    const char *way, char *ret)
{
    char path[PATH_MAX];
    struct pl_node *root, *node;
    struct pl_attr attr;
    struct pl_call call;
    struct pl_tree *in;
    pl_call_init_self(&call);
    int r = pl_attach(tree, &call, "", &root, &attr);
    r = r < 0 ? r : walk(tree, &call, root, way, &node);
    if (r == 0) {
        r = pl_space_where(space, &call, node, &in, path, sizeof(path));
        pl_node_unref(node);
    }
    pl_call_done(&call);
    if (r < 0)
        return r;
    while (in != s->host && in->lower && !strcmp(in->ops->name, "service"))
        in = in->lower;
    if (in->lower && !strcmp(in->ops->name, "version")) /* a directory on services */
        return where_at(s, in, in->lower, strcmp(path, "/") ? path : "", ret);
    bool native = in == s->host;
    int n =
        snprintf(ret, PATH_MAX, "%s%s%s", native ? "" : spec_of(s, in), native ? "" : ":", path);
    return n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* `path` is `top` and `rest`. */
static int where_top(struct viewspace *s, struct view *view, const char *top, const char *rest,
                     char *ret)
{
    char way[VIEW_PATH + 16];
    struct pl_tree *tree;
    if (s->space) {
        snprintf(way, sizeof(way), "/%d%s", viewspace_slot(s, top), rest);
        return where_at(s, s->tree, s->space, way, ret);
    }
    int r = viewspace_top(s, view, top, &tree, NULL);
    if (r < 0)
        return r;
    r = where_at(s, tree, tree->lower, rest, ret);
    pl_tree_unref(tree);
    return r;
}

int viewspace_where_in(struct viewspace *s, struct view *view, const char *path, char *ret,
                       struct pl_err *err)
{
    const char **top = viewspace_tops(s, view), *rest = NULL;
    struct stat st;
    size_t i = 0;
    if (!top)
        return pl_fail(err, -ENOMEM, "out of memory");
    while (top[i] && !view_beneath(path, top[i], &rest))
        i++;
    int r = lstat(path, &st) < 0 ? -errno : 0;
    if (top[i])
        r = where_top(s, view, top[i], rest, ret);
    else if (r == 0)
        snprintf(ret, PATH_MAX, "%s", path);
    free(top);
    return r < 0 ? pl_fail(err, r, "%s: %s", path, strerror(-r)) : 0;
}

int viewspace_where(struct viewspace *s, const char *path, char *ret, struct pl_err *err)
{
    return viewspace_where_in(s, s->view, path, ret, err);
}
