/* SPDX-License-Identifier: MIT */
#include "view/priv.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int view_new(struct view **ret)
{
    *ret = calloc(1, sizeof(**ret));
    if (!*ret)
        return -ENOMEM;
    atomic_init(&(*ret)->refs, 1);
    return 0;
}

struct view *view_ref(struct view *view)
{
    atomic_fetch_add(&view->refs, 1);
    return view;
}

void view_unref(struct view *view)
{
    if (!view || atomic_fetch_sub(&view->refs, 1) > 1)
        return;
    for (size_t i = 0; i < view->nmaps; i++) {
        free(view->maps[i].top);
        free(view->maps[i].lower);
    }
    for (size_t i = 0; i < view->nservices; i++) {
        struct view_service *s = &view->services[i];
        free(s->name);
        free(s->addr);
        free(s->attrs);
    }
    for (size_t i = 0; i < view->nputs; i++) {
        free(view->puts[i].dir);
        free(view->puts[i].name);
    }
    for (size_t i = 0; i < view->nvmaps; i++) {
        free(view->vmaps[i].name);
        free(view->vmaps[i].versions);
    }
    free(view->maps);
    free(view->services);
    free(view->puts);
    free(view->vmaps);
    free(view->tops);
    free(view);
}

void *view_grow(void *array_of, size_t *n, size_t size)
{
    void **array = array_of;
    char *more = reallocarray(*array, *n + 1, size);
    if (!more)
        return NULL;
    *array = more;
    memset(more + *n * size, 0, size);
    return more + (*n)++ * size;
}

/* *to becomes a copy; false: no memory. */
static bool dup_to(char **to, const char *from)
{
    *to = strdup(from);
    return *to;
}

static bool copy_parts(struct view *v, const struct view *from)
{
    for (size_t i = 0; i < from->nmaps; i++) {
        struct view_map *m = view_grow(&v->maps, &v->nmaps, sizeof(*m));
        if (!m || !dup_to(&m->top, from->maps[i].top) || !dup_to(&m->lower, from->maps[i].lower))
            return false;
    }
    for (size_t i = 0; i < from->nservices; i++) {
        const struct view_service *f = &from->services[i];
        struct view_service *s = view_grow(&v->services, &v->nservices, sizeof(*s));
        if (!s || !dup_to(&s->name, f->name) || !dup_to(&s->addr, f->addr) ||
            !dup_to(&s->attrs, f->attrs))
            return false;
        s->on = f->on;
    }
    for (size_t i = 0; i < from->nputs; i++) {
        struct view_put *p = view_grow(&v->puts, &v->nputs, sizeof(*p));
        if (!p || !dup_to(&p->dir, from->puts[i].dir) || !dup_to(&p->name, from->puts[i].name))
            return false;
    }
    for (size_t i = 0; i < from->nvmaps; i++) {
        struct view_vmap *m = view_grow(&v->vmaps, &v->nvmaps, sizeof(*m));
        if (!m || !dup_to(&m->name, from->vmaps[i].name) ||
            !dup_to(&m->versions, from->vmaps[i].versions))
            return false;
    }
    return true;
}

struct view *view_copy(const struct view *from)
{
    struct view *v;
    if (view_new(&v) < 0)
        return NULL;
    v->debug = from->debug;
    v->trace = from->trace;
    v->classic = from->classic;
    if (copy_parts(v, from))
        return v;
    view_unref(v);
    return NULL;
}

int view_clean(const char *cwd, const char *path, char ret[VIEW_PATH])
{
    const char *parts[] = {*path == '/' ? "" : cwd, path};
    size_t n = 0;
    if (!*path || (*path != '/' && *cwd != '/'))
        return -EINVAL;
    for (int i = 0; i < 2; i++) {
        for (const char *p = parts[i]; *p;) {
            size_t len = strcspn(p, "/");
            if (len == 2 && p[0] == '.' && p[1] == '.') {
                while (n && ret[--n] != '/')
                    ;
            } else if (len && !(len == 1 && *p == '.')) {
                if (n + 1 + len >= VIEW_PATH)
                    return -ENAMETOOLONG;
                ret[n++] = '/';
                memcpy(ret + n, p, len);
                n += len;
            }
            p += len + (p[len] == '/');
        }
    }
    if (!n)
        ret[n++] = '/';
    ret[n] = 0;
    return 0;
}

bool view_beneath(const char *path, const char *dir, const char **ret_rest)
{
    size_t n = strlen(dir);
    n -= n == 1; /* "/": all paths go on with their own */
    if (strncmp(path, dir, n) != 0 || (path[n] && path[n] != '/'))
        return false;
    if (ret_rest)
        *ret_rest = n == 0 && !path[1] ? "" : path + n;
    return true;
}

const struct view_top *view_top(const struct view *view, const char *path)
{
    for (size_t i = 0; i < view->ntops; i++)
        if (!strcmp(view->tops[i].path, path))
            return &view->tops[i];
    return NULL;
}

const struct view_top *view_outermost(const struct view *view, const char *path)
{
    for (size_t i = 0; i < view->ntops; i++) /* parents come first */
        if (view_beneath(path, view->tops[i].path, NULL))
            return &view->tops[i];
    return NULL;
}

static const struct view_service *named(const struct view *view, const char *name)
{
    for (size_t i = 0; i < view->nservices; i++)
        if (!strcmp(view->services[i].name, name))
            return &view->services[i];
    return NULL;
}

/* Was this put's service, for this path, met at a put before it? */
static bool met(const struct view *view, const char *path, size_t put)
{
    for (size_t i = 0; i < put; i++)
        if (!strcmp(view->puts[i].name, view->puts[put].name) &&
            view_beneath(path, view->puts[i].dir, NULL))
            return true;
    return false;
}

const struct view_service *view_service_at(const struct view *view, const char *path, size_t i)
{
    for (size_t k = 0; k < view->nputs; k++)
        if (view_beneath(path, view->puts[k].dir, NULL) && !met(view, path, k) && i-- == 0)
            return named(view, view->puts[k].name);
    return NULL;
}

const char *view_versions(const struct view *view, const char *path, size_t i)
{
    const char *slash = strrchr(path, '/'), *wanted[] = {path, slash ? slash + 1 : path, ""};
    for (size_t w = slash ? 0 : 1; w < 3; w++)
        for (size_t k = 0; k < view->nvmaps; k++)
            if (!strcmp(view->vmaps[k].name, wanted[w]) && i-- == 0)
                return view->vmaps[k].versions;
    return NULL;
}
