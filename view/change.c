/* SPDX-License-Identifier: MIT */
/* Pairs of words, each a change of a view that is not yet made. */
#include "base/limits.h"
#include "base/service_attrs.h"
#include "view/priv.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* One change to `v`, and what the caller of view_change gave. */
struct change {
    struct view *v;
    const char *cwd;
    view_look_fn *look;
    void *arg;
    struct pl_err *err;
};

static int no_memory(const struct change *c)
{
    return pl_fail(c->err, -ENOMEM, "out of memory");
}

/* *at becomes a copy of `text`. */
static int set(const struct change *c, char **at, const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        return no_memory(c);
    free(*at);
    *at = copy;
    return 0;
}

static int clean(const struct change *c, const char *word, char ret[VIEW_PATH])
{
    int r = view_clean(c->cwd, word, ret);
    if (r < 0)
        return pl_fail(c->err, r, "%s: %s", *word ? word : "\"\"",
                       r == -EINVAL ? "not a path" : "the path is too long");
    if (!strncmp(ret, "/#", 2))
        return pl_fail(c->err, -EINVAL, "%s: no path begins with /#", word);
    for (const char *p = ret; (p = strstr(p, "/...")); p += 4)
        if (!p[4] || p[4] == '/')
            return pl_fail(c->err, -EINVAL,
                           "%s: \"...\" stands for a lower view, and cannot be in a pair", word);
    return 0;
}

/* A clean path at which a directory may be, without symbolic links. */
static int clean_dir(const struct change *c, const char *word, char ret[VIEW_PATH])
{
    int r = clean(c, word, ret);
    if (r == 0 && c->look && c->look(c->arg, ret) == -ENOTDIR)
        return pl_fail(c->err, -ENOTDIR, "%s: is not a directory (a view is made of directories)",
                       ret);
    return r;
}

/* ---- maps ---- */

/* Element i of n, of `size` bytes, goes; what it holds has been freed. */
static void cut(void *array, size_t *n, size_t size, size_t i)
{
    char *at = (char *)array + i * size;
    memmove(at, at + size, (--*n - i) * size);
}

static void cut_put(struct view *v, size_t i)
{
    free(v->puts[i].dir);
    free(v->puts[i].name);
    cut(v->puts, &v->nputs, sizeof(*v->puts), i);
}

static int map(const struct change *c, const char *a, const char *b)
{
    char top[VIEW_PATH], lower[VIEW_PATH];
    struct view *v = c->v;
    int r = clean_dir(c, a, top);
    r = r < 0 ? r : clean_dir(c, b, lower);
    if (r < 0)
        return r;
    if (!strcmp(lower, top))
        return pl_fail(c->err, -ELOOP, "%s: cannot be over itself (name another directory)", top);
    for (size_t i = 0; i < v->nmaps; i++)
        if (!strcmp(v->maps[i].top, top))
            return set(c, &v->maps[i].lower, lower);
    struct view_map *m = view_grow(&v->maps, &v->nmaps, sizeof(*m));
    if (!m)
        return no_memory(c);
    r = set(c, &m->top, top);
    return r < 0 ? r : set(c, &m->lower, lower);
}

static int unmap(const struct change *c, const char *a)
{
    char top[VIEW_PATH], real[VIEW_PATH];
    struct view *v = c->v;
    bool found = false;
    int r = clean(c, a, top);
    if (r < 0)
        return r;
    strcpy(real, top);
    if (c->look)
        c->look(c->arg, real);
    for (size_t i = v->nmaps; i-- > 0;)
        if (!strcmp(v->maps[i].top, top) || !strcmp(v->maps[i].top, real)) {
            free(v->maps[i].top);
            free(v->maps[i].lower);
            cut(v->maps, &v->nmaps, sizeof(*v->maps), i);
            found = true;
        }
    for (size_t i = v->nputs; i-- > 0;)
        if (!strcmp(v->puts[i].dir, top) || !strcmp(v->puts[i].dir, real)) {
            cut_put(v, i);
            found = true;
        }
    if (!found)
        return pl_fail(c->err, -ENOENT, "%s: is over nothing and on no service", top);
    return 0;
}

/* ---- options ---- */

static int option(const struct change *c, const char *text)
{
    struct view *v = c->v;
    if (!strncmp(text, "debug=", 6) && text[6] >= '0' && text[6] <= '9' && !text[7])
        v->debug = (unsigned)(text[6] - '0');
    else if (!strcmp(text, "trace") || !strcmp(text, "notrace"))
        v->trace = *text == 't';
    else if (!strcmp(text, "del=classic") || !strcmp(text, "del=whiteout"))
        v->classic = text[4] == 'c';
    else
        return pl_fail(c->err, -EINVAL,
                       "/#option/%s: no such option (debug=0 to debug=9, trace, notrace, "
                       "del=classic, del=whiteout)",
                       text);
    return 0;
}

/* ---- services ---- */

static bool name_ok(const char *name)
{
    return service_name_ok(name) && strcmp(name, "fs") != 0 && strcmp(name, "option") != 0 &&
           strcmp(name, "vmap") != 0 && strcmp(name, "escaped") != 0;
}

static struct view_service *service(struct view *v, const char *name)
{
    for (size_t i = 0; i < v->nservices; i++)
        if (!strcmp(v->services[i].name, name))
            return &v->services[i];
    return NULL;
}

static void drop_service(struct view *v, struct view_service *s)
{
    for (size_t i = v->nputs; i-- > 0;)
        if (!strcmp(v->puts[i].name, s->name))
            cut_put(v, i);
    free(s->name);
    free(s->addr);
    free(s->attrs);
    cut(v->services, &v->nservices, sizeof(*s), (size_t)(s - v->services));
}

/* The attributes of "/#fs/NAME/ATTR/ATTR...": on and off are for here, the rest is checked. */
static int define(const struct change *c, struct view_service *s, const char *name,
                  const char *addr, const char *text)
{
    char attrs[VIEW_PATH], *end = attrs;
    struct service_attrs parsed;
    struct pl_err why;
    bool on = true;
    while (*text) {
        size_t n = strcspn(text, "/");
        if ((n == 2 && !strncmp(text, "on", 2)) || (n == 3 && !strncmp(text, "off", 3))) {
            on = n == 2;
        } else if (n) {
            if (end > attrs)
                *end++ = '/';
            end = mempcpy(end, text, n);
        }
        text += n + (text[n] == '/');
    }
    *end = 0;
    int r = service_attrs_parse(attrs, &parsed, &why);
    if (r < 0)
        return pl_fail(c->err, r, "/#fs/%s: %s", name, why.text);
    r = s->name ? 0 : set(c, &s->name, name);
    r = r < 0 ? r : set(c, &s->addr, addr);
    s->on = on;
    return r < 0 ? r : set(c, &s->attrs, attrs);
}

static int fs(const struct change *c, const char *addr, const char *text)
{
    char name[VIEW_PATH];
    size_t n = strcspn(text, "/");
    const char *attrs = text + n + (text[n] == '/');
    memcpy(name, text, n);
    name[n] = 0;
    if (!name_ok(name))
        return pl_fail(c->err, -EINVAL, "/#fs/%s: not a name for a service", text);
    struct view_service *s = service(c->v, name);
    bool bare = !strcmp(addr, "-");
    if (bare && (!strcmp(attrs, "on") || !strcmp(attrs, "off") || !strcmp(attrs, "-"))) {
        if (!s)
            return pl_fail(c->err, -ENOENT, "/#fs/%s: no such service", name);
        if (*attrs == '-')
            drop_service(c->v, s);
        else
            s->on = attrs[1] == 'n';
        return 0;
    }
    s = s ? s : view_grow(&c->v->services, &c->v->nservices, sizeof(*s));
    return s ? define(c, s, name, bare ? "" : addr, attrs) : no_memory(c);
}

static int put(const struct change *c, const char *a, const char *name)
{
    char dir[VIEW_PATH];
    struct view *v = c->v;
    if (!service(v, name))
        return pl_fail(c->err, -EINVAL, "/#%s: no such service (define it: vpath ADDR /#fs/%s/...)",
                       name, name);
    if (!strcmp(a, "-"))
        return pl_fail(c->err, -EINVAL, "/#%s: which directory? (vpath DIR /#%s)", name, name);
    int r = clean_dir(c, a, dir);
    if (r < 0)
        return r;
    for (size_t i = 0; i < v->nputs; i++)
        if (!strcmp(v->puts[i].dir, dir) && !strcmp(v->puts[i].name, name))
            return 0;
    struct view_put *p = view_grow(&v->puts, &v->nputs, sizeof(*p));
    if (!p)
        return no_memory(c);
    r = set(c, &p->dir, dir);
    return r < 0 ? r : set(c, &p->name, name);
}

/* ---- versions ---- */

static int versions_ok(const struct change *c, const char *list)
{
    size_t n = 1;
    for (const char *p = list;; p++) {
        size_t len = strcspn(p, ",");
        if (!len || len > LIMIT_NAME || memchr(p, '/', len) || (p[0] == '.' && len == 1) ||
            (p[0] == '.' && p[1] == '.' && len == 2))
            return pl_fail(c->err, -EINVAL, "/#vmap/%s: not a list of versions (V1,V2...)", list);
        p += len;
        if (!*p)
            break;
        n++;
    }
    if (n > VIEW_VERSIONS)
        return pl_fail(c->err, -E2BIG, "/#vmap/%s: more than %d versions", list, VIEW_VERSIONS);
    return 0;
}

static int vmap(const struct change *c, const char *a, const char *list)
{
    char name[VIEW_PATH] = "";
    struct view *v = c->v;
    size_t i = 0;
    int r = 0;
    if (strchr(a, '/'))
        r = clean(c, a, name);
    else if (strlen(a) > LIMIT_NAME || !*a || !strcmp(a, ".") || !strcmp(a, ".."))
        r = pl_fail(c->err, -EINVAL, "%s: not a file's name", a);
    else if (strcmp(a, "-") != 0)
        strcpy(name, a);
    r = r < 0 || !list ? r : versions_ok(c, list);
    if (r < 0)
        return r;
    while (i < v->nvmaps && strcmp(v->vmaps[i].name, name) != 0)
        i++;
    struct view_vmap *m = i < v->nvmaps ? &v->vmaps[i] : NULL;
    if (!list) {
        if (!m)
            return pl_fail(c->err, -ENOENT, "%s: no version was chosen for it", a);
        free(m->name);
        free(m->versions);
        cut(v->vmaps, &v->nvmaps, sizeof(*m), i);
        return 0;
    }
    m = m ? m : view_grow(&v->vmaps, &v->nvmaps, sizeof(*m));
    if (!m)
        return no_memory(c);
    r = m->name ? 0 : set(c, &m->name, name);
    return r < 0 ? r : set(c, &m->versions, list);
}

/* ---- pairs ---- */

static int clear(struct change *c)
{
    view_unref(c->v);
    c->v = NULL;
    return view_new(&c->v) < 0 ? no_memory(c) : 0;
}

static int hash_pair(const struct change *c, const char *a, const char *b)
{
    bool bare = !strcmp(a, "-");
    if (!strncmp(b, "/#option/", 9) && bare)
        return option(c, b + 9);
    if (!strncmp(b, "/#option/", 9))
        return pl_fail(c->err, -EINVAL, "%s: options are for the whole view (vpath - %s)", b, b);
    if (!strncmp(b, "/#fs/", 5))
        return fs(c, a, b + 5);
    if (!strcmp(b, "/#vmap"))
        return vmap(c, a, NULL);
    if (!strncmp(b, "/#vmap/", 7))
        return vmap(c, a, b + 7);
    return put(c, a, b + 2);
}

static int pair(struct change *c, const char *a, const char *b)
{
    const struct view *v = c->v;
    if (strlen(a) >= VIEW_PATH || strlen(b) >= VIEW_PATH)
        return pl_fail(c->err, -ENAMETOOLONG, "a word of more than %d bytes", VIEW_PATH - 1);
    if (!strncmp(a, "/#", 2))
        return pl_fail(c->err, -EINVAL, "%s: stands second in a pair (vpath - %s)", a, a);
    if (v->nmaps + v->nservices + v->nputs + v->nvmaps >= VIEW_PAIRS && strcmp(b, "-") != 0)
        return pl_fail(c->err, -E2BIG, "more than %d pairs in a view", VIEW_PAIRS);
    if (!strncmp(b, "/#", 2))
        return hash_pair(c, a, b);
    if (!strcmp(a, "-") && !strcmp(b, "-"))
        return clear(c);
    if (!strcmp(a, "-"))
        return pl_fail(c->err, -EINVAL, "- %s: which directory is to be over it?", b);
    return !strcmp(b, "-") ? unmap(c, a) : map(c, a, b);
}

/* The bytes that %XX stands for; false: something else follows a %, or it is a NUL. */
static bool unescape(const char *from, char to[VIEW_PATH])
{
    static const char hex[] = "0123456789ABCDEF";
    size_t n = 0;
    for (; *from && n < VIEW_PATH - 1; from++) {
        if (*from != '%') {
            to[n++] = *from;
            continue;
        }
        const char *high = from[1] ? strchr(hex, from[1]) : NULL,
                   *low = high && from[2] ? strchr(hex, from[2]) : NULL;
        if (!low || (high == hex && low == hex))
            return false;
        to[n++] = (char)((high - hex) << 4 | (low - hex));
        from += 2;
    }
    to[n] = 0;
    return !*from;
}

static int pairs(struct change *c, const char *const *words, size_t n)
{
    bool escaped = false;
    int r = 0;
    for (size_t i = 0; r == 0 && i < n; i += 2) {
        char a[VIEW_PATH], b[VIEW_PATH];
        if (!strcmp(words[i], "-") && !strcmp(words[i + 1], "/#escaped"))
            escaped = true;
        else if (!escaped)
            r = pair(c, words[i], words[i + 1]);
        else if (unescape(words[i], a) && unescape(words[i + 1], b))
            r = pair(c, a, b);
        else
            r = pl_fail(c->err, -EINVAL, "%s %s: behind /#escaped, a %% begins two digits",
                        words[i], words[i + 1]);
    }
    return r;
}

static bool has_map(const struct view *v, const struct view_map *m)
{
    for (size_t i = 0; i < v->nmaps; i++)
        if (!strcmp(v->maps[i].top, m->top) && !strcmp(v->maps[i].lower, m->lower))
            return true;
    return false;
}

/* What a directory is newly over is there, or in the view: somebody may have mistyped it. */
static int all_there(const struct change *c, const struct view *from)
{
    char path[VIEW_PATH];
    for (size_t i = 0; c->look && i < c->v->nmaps; i++) {
        const struct view_map *m = &c->v->maps[i];
        if (has_map(from, m) || view_outermost(c->v, m->lower))
            continue;
        int r = c->look(c->arg, strcpy(path, m->lower));
        if (r == -ENOENT)
            return pl_fail(c->err, r, "%s: no such directory (%s would be over nothing)", m->lower,
                           m->top);
        if (r == -EACCES)
            return pl_fail(c->err, r,
                           "%s: permission denied (%s can only be over what its user may read)",
                           m->lower, m->top);
    }
    return 0;
}

int view_change(const struct view *from, const char *cwd, const char *const *words, size_t n,
                view_look_fn *look, void *arg, struct view **ret, struct pl_err *err)
{
    struct change c = {.cwd = cwd, .look = look, .arg = arg, .err = err};
    if (n % 2)
        return pl_fail(err, -EINVAL, "%s: what goes with it? (words come in pairs)", words[n - 1]);
    c.v = view_copy(from);
    if (!c.v)
        return no_memory(&c);
    int r = pairs(&c, words, n);
    r = r < 0 ? r : view_flatten(c.v, err);
    r = r < 0 ? r : all_there(&c, from);
    if (r < 0) {
        view_unref(c.v);
        return r;
    }
    *ret = c.v;
    return 0;
}
