/* SPDX-License-Identifier: MIT */
#include "view/pack.h"
#include "view/priv.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Indices of numbers: of the head, and of one top. */
enum { MAGIC, VERSION, SIZE, OPTIONS, COMMON, NTOPS, NWORDS, HEAD };
enum { PATH, LENGTH, DIRS, NDIRS, FLAGS, PARENT, TOP };
enum { PACK_MAGIC = 0x70617476, PACK_VERSION = 1, PACK_MAX = 16 << 20 };

/* ---- writing ---- */

/* A path of the packed form, from a top or a foreign one. */
struct entry {
    const char *path;
    const struct view_top *top; /* NULL: foreign alone */
    uint32_t flags;
};

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->path, ((const struct entry *)b)->path);
}

/* Sorted, each path once; NULL: no memory. */
static struct entry *entries(const struct view *v, const char *const *foreign, size_t nforeign,
                             size_t *ret_n)
{
    size_t n = 0, kept = 0;
    struct entry *e = calloc(v->ntops + nforeign + 1, sizeof(*e));
    if (!e)
        return NULL;
    for (size_t i = 0; i < v->ntops; i++)
        e[n++] = (struct entry){v->tops[i].path, &v->tops[i],
                                view_service_at(v, v->tops[i].path, 0) ? VIEW_PACK_ASK : 0};
    for (size_t i = 0; i < nforeign; i++)
        e[n++] = (struct entry){foreign[i], NULL, VIEW_PACK_ASK};
    qsort(e, n, sizeof(*e), by_path);
    for (size_t i = 0; i < n; i++) {
        if (!kept || strcmp(e[kept - 1].path, e[i].path) != 0) {
            e[kept++] = e[i];
            continue;
        }
        e[kept - 1].top = e[kept - 1].top ? e[kept - 1].top : e[i].top;
        e[kept - 1].flags |= e[i].flags;
    }
    *ret_n = kept;
    return e;
}

static uint32_t parent(const struct entry *e, size_t i)
{
    for (size_t k = i; k-- > 0;)
        if (view_beneath(e[i].path, e[k].path, NULL))
            return (uint32_t)k + 1;
    return 0;
}

static uint32_t common(const struct entry *e, size_t n)
{
    size_t len = n ? strlen(e[0].path) : 0;
    for (size_t i = 1; i < n; i++) {
        size_t k = 0;
        while (k < len && e[i].path[k] == e[0].path[k])
            k++;
        len = k;
    }
    return (uint32_t)len;
}

static uint32_t options(const struct view *v)
{
    return (v->trace ? VIEW_PACK_TRACE : 0u) | (v->classic ? VIEW_PACK_CLASSIC : 0u) |
           (v->nvmaps ? VIEW_PACK_VERSIONS : 0u) | v->debug << VIEW_PACK_DEBUG;
}

static uint32_t put_string(char *mem, size_t *at, const char *text)
{
    size_t off = *at;
    strcpy(mem + off, text);
    *at += strlen(text) + 1;
    return (uint32_t)off;
}

static void write_all(const struct view *v, const struct entry *e, size_t n, size_t words,
                      size_t size, char *mem)
{
    uint32_t *w = (uint32_t *)(void *)mem, *word = w + HEAD + n * TOP, nword = 0;
    const uint32_t head[HEAD] = {PACK_MAGIC,   PACK_VERSION, (uint32_t)size, options(v),
                                 common(e, n), (uint32_t)n,  (uint32_t)words};
    size_t at = (HEAD + n * TOP + words) * sizeof(uint32_t);
    memcpy(w, head, sizeof(head));
    for (size_t i = 0; i < n; i++) {
        uint32_t *top = w + HEAD + i * TOP, nlower = e[i].top ? (uint32_t)e[i].top->n - 1 : 0;
        top[PATH] = put_string(mem, &at, e[i].path);
        top[LENGTH] = (uint32_t)strlen(e[i].path);
        top[DIRS] = nword;
        top[NDIRS] = nlower;
        top[FLAGS] = e[i].flags;
        top[PARENT] = parent(e, i);
        for (uint32_t k = 0; k < nlower; k++)
            word[nword++] = put_string(mem, &at, e[i].top->dirs[k + 1]);
    }
}

int view_pack(const struct view *view, const char *const *foreign, size_t nforeign, void **ret,
              size_t *ret_size)
{
    size_t n, words = 0, bytes = 0;
    struct entry *e = entries(view, foreign, nforeign, &n);
    if (!e)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        bytes += strlen(e[i].path) + 1;
        for (size_t k = 1; e[i].top && k < e[i].top->n; k++, words++)
            bytes += strlen(e[i].top->dirs[k]) + 1;
    }
    size_t size = ((HEAD + n * TOP + words) * sizeof(uint32_t) + bytes + 3) & ~(size_t)3;
    char *mem = size <= PACK_MAX ? calloc(1, size) : NULL;
    if (mem)
        write_all(view, e, n, words, size, mem);
    free(e);
    *ret = mem;
    *ret_size = size;
    return mem ? 0 : size > PACK_MAX ? -E2BIG : -ENOMEM;
}

/* ---- reading ---- */

static const uint32_t *top_at(const struct view_pack *p, uint32_t i)
{
    return p->at + HEAD + (size_t)i * TOP;
}

static const char *text_at(const struct view_pack *p, uint32_t off)
{
    return (const char *)p->at + off;
}

static const char *word_at(const struct view_pack *p, uint32_t i)
{
    return text_at(p, p->at[HEAD + (size_t)p->at[NTOPS] * TOP + i]);
}

/* A clean path at that offset, which ends within `size`. */
static bool path_ok(const char *mem, size_t size, size_t least, uint32_t off)
{
    return off >= least && off < size && mem[off] == '/' && memchr(mem + off, 0, size - off);
}

/* The top is whole, and its place in the order is right. */
static bool top_ok(const struct view_pack *p, size_t least, uint32_t i)
{
    const uint32_t *t = top_at(p, i);
    const char *mem = (const char *)p->at;
    if (!path_ok(mem, p->size, least, t[PATH]) || strlen(mem + t[PATH]) != t[LENGTH] ||
        t[NDIRS] > VIEW_CHAIN || t[DIRS] > p->at[NWORDS] || t[NDIRS] > p->at[NWORDS] - t[DIRS] ||
        t[LENGTH] < p->at[COMMON] || t[PARENT] > i)
        return false;
    for (uint32_t k = 0; k < t[NDIRS]; k++)
        if (!path_ok(mem, p->size, least, p->at[HEAD + (size_t)p->at[NTOPS] * TOP + t[DIRS] + k]))
            return false;
    const char *path = mem + t[PATH];
    if (i && strcmp(text_at(p, top_at(p, i - 1)[PATH]), path) >= 0)
        return false;
    return memcmp(path, text_at(p, top_at(p, 0)[PATH]), p->at[COMMON]) == 0 &&
           (!t[PARENT] || view_beneath(path, text_at(p, top_at(p, t[PARENT] - 1)[PATH]), NULL));
}

int view_pack_open(const void *mem, size_t size, struct view_pack *ret)
{
    struct view_pack p = {mem, (uint32_t)size};
    if (size < HEAD * sizeof(uint32_t) || size > PACK_MAX || (uintptr_t)mem % sizeof(uint32_t))
        return -EINVAL;
    const uint32_t *w = p.at;
    size_t most = size / sizeof(uint32_t) - HEAD;
    if (w[MAGIC] != PACK_MAGIC || w[VERSION] != PACK_VERSION || w[SIZE] != size ||
        w[NTOPS] > most / TOP || w[NWORDS] > most - (size_t)w[NTOPS] * TOP ||
        (!w[NTOPS] && w[COMMON]))
        return -EINVAL;
    size_t least = (HEAD + (size_t)w[NTOPS] * TOP + w[NWORDS]) * sizeof(uint32_t);
    for (uint32_t i = 0; i < w[NTOPS]; i++)
        if (!top_ok(&p, least, i))
            return -EINVAL;
    *ret = p;
    return 0;
}

/* The top whose path is the first `n` bytes of `path`, plus one; 0: none. */
static uint32_t find(const struct view_pack *p, const char *path, size_t n)
{
    uint32_t low = 0, high = p->at[NTOPS];
    while (low < high) {
        uint32_t mid = low + (high - low) / 2, len = top_at(p, mid)[LENGTH];
        int c = memcmp(text_at(p, top_at(p, mid)[PATH]), path, len < n ? len : n);
        if (c == 0 && len == n)
            return mid + 1;
        if (c < 0 || (c == 0 && len < n))
            low = mid + 1;
        else
            high = mid;
    }
    return 0;
}

/* The deepest top that `path` is in, plus one; 0: none. */
static uint32_t deepest(const struct view_pack *p, const char *path)
{
    uint32_t found = 0;
    size_t n = strlen(path);
    if (!p->at[NTOPS] || n < p->at[COMMON] ||
        memcmp(path, text_at(p, top_at(p, 0)[PATH]), p->at[COMMON]) != 0)
        return 0;
    for (;;) {
        found = find(p, path, n);
        if (found || n == 1)
            return found;
        while (n > 1 && path[n - 1] != '/')
            n--;
        n -= n > 1; /* the '/' too, but the first */
    }
}

/* Adds what top number `i` is over. */
static void add_dirs(const struct view_pack *p, uint32_t i, const char *path,
                     struct view_found *ret)
{
    const uint32_t *t = top_at(p, i);
    const char *rest = path + (t[LENGTH] == 1 ? 0 : t[LENGTH]);
    if (!rest[0] || (rest[0] == '/' && !rest[1]))
        rest = "";
    ret->flags |= t[FLAGS];
    for (uint32_t k = 0; k < t[NDIRS] && ret->n < PL_SPACE_STACK; k++) {
        const char *dir = word_at(p, t[DIRS] + k);
        ret->dirs[ret->n] = *rest && !dir[1] ? "" : dir; /* "/" and "/x" are "/x" */
        ret->rest[ret->n++] = rest;
    }
}

bool view_pack_find(const struct view_pack *pack, const char *path, struct view_found *ret)
{
    uint32_t top = deepest(pack, path), way[VIEW_CHAIN * 2], n = 0;
    if (!top)
        return false;
    ret->flags = 0;
    ret->n = 1;
    ret->dirs[0] = path;
    ret->rest[0] = "";
    for (uint32_t t = top; t; t = top_at(pack, t - 1)[PARENT]) {
        if (n == sizeof(way) / sizeof(*way)) { /* nested deeper than is kept here */
            ret->flags |= VIEW_PACK_ASK;
            break;
        }
        way[n++] = t - 1;
    }
    while (n)
        add_dirs(pack, way[--n], path, ret);
    return true;
}

uint32_t view_pack_options(const struct view_pack *pack)
{
    return pack->at[OPTIONS];
}

const char *view_pack_top(const struct view_pack *pack, uint32_t i)
{
    return i < pack->at[NTOPS] ? text_at(pack, top_at(pack, i)[PATH]) : NULL;
}
