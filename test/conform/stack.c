/* SPDX-License-Identifier: MIT */
/*
 * How the tree under test is built from STACK: the only file here that names concrete sources,
 * layers and doors.
 *
 * A stack is a chain of levels, outermost first. It is built from the inside out, but a fuse level
 * forks before anything inside it exists: what is inside lives in the server's process, which
 * has no threads yet when it is made. So at most one p9 level's threads are in any process before
 * a fork, namely none.
 */
#include "stack.h"
#include "layers/version.h"

#include <assert.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const kind_name[] = {
    [S_MEM] = "mem",         [S_HOST] = "host",
    [S_NULL] = "null",       [S_TRACE] = "trace",
    [S_DELAY] = "delay",     [S_MAP] = "map",
    [S_UNION] = "union",     [S_WHITE] = "white",
    [S_SPACE] = "space",     [S_VERSION] = "version",
    [S_P9] = "p9",           [S_CUT] = "p9-cut",
    [S_P9U] = "p9u",         [S_P9BASE] = "p9base",
    [S_CUT_P9U] = "p9u-cut", [S_CUT_P9BASE] = "p9base-cut",
    [S_FUSE] = "fuse",       [S_NOOPEN] = "fuse-noopen",
};

static struct level *stack; /* the one that stack_open() built */

static bool is_mount(const struct level *l)
{
    return l->kind == S_FUSE || l->kind == S_NOOPEN;
}

static bool is_served(const struct level *l)
{
    return l->kind >= S_P9 && l->kind <= S_CUT_P9BASE;
}

static bool is_union(const struct level *l)
{
    return l->kind == S_UNION || l->kind == S_WHITE || l->kind == S_SPACE;
}

static void level_free(struct level *l)
{
    while (l) {
        struct level *inner = l->inner;
        level_free(l->behind);
        free(l);
        l = inner;
    }
}

static int parse(const char *s, const char *end, struct level **ret, struct pl_err *err);

/* "STACK,STACK": the comma that counts is in no parentheses. */
static int parse_two(const char *s, const char *end, struct level *l, struct pl_err *err)
{
    int depth = 0;
    const char *comma = s;
    for (; comma < end && (*comma != ',' || depth); comma++)
        depth += (*comma == '(') - (*comma == ')');
    if (comma == end)
        return pl_fail(err, -EINVAL, "%s needs two stacks", kind_name[l->kind]);
    int r = parse(s, comma, &l->inner, err);
    return r < 0 ? r : parse(comma + 1, end, &l->behind, err);
}

/* Parses "kind", "kind:REST", "kind(STACK)" or "kind(STACK,STACK)" from [s, end). */
static int parse(const char *s, const char *end, struct level **ret, struct pl_err *err)
{
    size_t n = strcspn(s, ":(");
    if (s + n > end)
        n = (size_t)(end - s);
    struct level *l = calloc(1, sizeof(*l));
    if (!l)
        return pl_fail(err, -ENOMEM, "out of memory");
    for (l->kind = 0; l->kind < S_COUNT; l->kind++)
        if (strlen(kind_name[l->kind]) == n && !strncmp(s, kind_name[l->kind], n))
            break;
    int r = 0;
    if (l->kind == S_COUNT)
        r = pl_fail(err, -EINVAL, "%.*s: not a kind of stack", (int)n, s);
    else if (l->kind == S_HOST && (s + n == end || s[n] != ':' || s + n + 1 == end))
        r = pl_fail(err, -EINVAL, "host: needs a directory (host:/tmp)");
    else if (l->kind == S_HOST)
        snprintf(l->dir, sizeof(l->dir), "%.*s", (int)(end - s - (ssize_t)n - 1), s + n + 1);
    else if (l->kind == S_MEM && s + n != end)
        r = pl_fail(err, -EINVAL, "mem takes nothing after it");
    else if (l->kind > S_HOST && (s + n == end || s[n] != '(' || end[-1] != ')'))
        r = pl_fail(err, -EINVAL, "%s needs a stack (%s(mem))", kind_name[l->kind],
                    kind_name[l->kind]);
    else if (is_union(l))
        r = parse_two(s + n + 1, end - 1, l, err);
    else if (l->kind > S_HOST)
        r = parse(s + n + 1, end - 1, &l->inner, err);
    if (r < 0)
        level_free(l);
    else
        *ret = l;
    return r;
}

int stack_shape(const char *spec, char *buf, size_t size, struct pl_err *err)
{
    struct level *l, *i;
    size_t depth = 0, n = 0;
    int r = parse(spec, spec + strlen(spec), &l, err);
    if (r < 0)
        return r;
    buf[0] = 0;
    for (i = l; i && n < size; i = i->inner, depth++)
        n += (size_t)snprintf(buf + n, size - n, "%s%s", depth ? "(" : "", kind_name[i->kind]);
    while (depth-- > 1 && n + 1 < size)
        n += (size_t)snprintf(buf + n, size - n, ")");
    level_free(l);
    return 0;
}

const char *stack_dir(const char *spec, char *buf, size_t size)
{
    struct level *l, *i;
    struct pl_err err;
    snprintf(buf, size, "/tmp");
    if (parse(spec, spec + strlen(spec), &l, &err) < 0)
        return buf;
    for (i = l; i; i = i->inner)
        if (i->kind == S_HOST)
            snprintf(buf, size, "%s", i->dir);
    level_free(l);
    return buf;
}

/* ---- building -------------------------------------------------------------------------------- */

static int host_open(struct level *l, const char *scratch, struct pl_tree **ret, struct pl_err *err)
{
    static int hosts;
    snprintf(l->dir, sizeof(l->dir), "%.4000s/files%.0d", scratch, hosts++);
    if (mkdir(l->dir, 0755) < 0)
        return pl_fail(err, -errno, "%s: %m", l->dir);
    return pl_host_open(l->dir, ret, err);
}

/* There and back: all ids go round by a million, and the second layer undoes it. */
static struct pl_tree *map_twice(struct pl_tree *lower)
{
#define ROUND(x) x "id=0:1000000:4293967295," x "id=4293967295:0:1000000"
#define BACK(x)  x "id=1000000:0:4293967295," x "id=0:4293967295:1000000"
    static const char *const maps[] = {ROUND("u") "," ROUND("g"), BACK("u") "," BACK("g")};
    for (int i = 0; i < 2; i++) {
        struct pl_map *map;
        if (pl_map_parse(maps[i], &map, NULL) < 0) {
            pl_tree_unref(lower);
            return NULL;
        }
        lower = pl_map_new(map, lower);
    }
    return lower;
}

/* Names are looked at for versions, which none has. */
static bool versions_active(void *arg)
{
    return true;
}

static bool versions_choose(void *arg, struct pl_tree *lower, struct pl_call *call,
                            struct pl_node *dir, const char *name, size_t n, char *ret)
{
    strcpy(ret, n ? "no other" : "no version");
    return n < 2;
}

static int over(struct level *l, struct pl_tree *lower, struct pl_tree **ret, struct pl_err *err)
{
    if (l->kind == S_TRACE && !l->trace && !(l->trace = fopen("/dev/null", "we"))) {
        pl_tree_unref(lower);
        return pl_fail(err, -errno, "/dev/null: %m");
    }
    const struct version_chooser versions = {.active = versions_active, .choose = versions_choose};
    *ret = l->kind == S_TRACE     ? pl_trace_new(l->trace, lower)
           : l->kind == S_DELAY   ? pl_delay_new(20000, lower)
           : l->kind == S_MAP     ? map_twice(lower)
           : l->kind == S_VERSION ? version_new(&versions, lower)
                                  : pl_null_new(lower);
    return *ret ? 0 : pl_fail(err, -ENOMEM, "out of memory");
}

static int union_open(struct level *l, const char *scratch, struct pl_tree **ret,
                      struct pl_err *err)
{
    struct pl_tree *front, *behind;
    int r = level_open(l->inner, scratch, &front, err);
    if (r < 0)
        return r;
    r = level_open(l->behind, scratch, &behind, err);
    if (r < 0) {
        pl_tree_unref(front);
        return r;
    }
    return level_union(l, front, behind, ret, err);
}

int level_open(struct level *l, const char *scratch, struct pl_tree **ret, struct pl_err *err)
{
    int r;
    switch (l->kind) {
    case S_MEM:
        r = pl_mem_new(0, ret, err);
        break;
    case S_HOST:
        r = host_open(l, scratch, ret, err);
        break;
    case S_FUSE:
    case S_NOOPEN:
        r = level_mount(l, scratch, ret, err);
        break;
    case S_UNION:
    case S_WHITE:
    case S_SPACE:
        r = union_open(l, scratch, ret, err);
        break;
    default:
        r = level_open(l->inner, scratch, ret, err);
        if (r == 0 && is_served(l))
            r = level_serve(l, *ret, ret, err);
        else if (r == 0)
            r = over(l, *ret, ret, err);
    }
    l->tree = r == 0 ? *ret : NULL; /* a pointer to compare and derive from, not a reference */
    return r;
}

/* Another way in to the same files: a connection of its own, an open of its own. */
static int level_again(struct level *l, struct pl_tree **ret, struct pl_err *err)
{
    if (l->kind == S_MEM || is_union(l))
        *ret = pl_null_new(pl_tree_ref(l->tree));
    else if (l->kind == S_HOST || is_mount(l))
        return pl_host_open(l->dir, ret, err);
    else if (is_served(l))
        return level_dial(l, ret, err);
    else {
        int r = level_again(l->inner, ret, err);
        return r < 0 ? r : over(l, *ret, ret, err);
    }
    return *ret ? 0 : pl_fail(err, -ENOMEM, "out of memory");
}

int level_close(struct level *l, struct pl_err *err)
{
    int r = 0;
    if (is_mount(l))
        return level_unmount(l, err); /* what is inside closes in the server's process */
    if (is_served(l))
        r = level_unserve(l, err);
    if (l->trace)
        fclose(l->trace);
    int r2 = l->inner ? level_close(l->inner, err) : 0;
    int r3 = l->behind ? level_close(l->behind, err) : 0;
    return r < 0 ? r : r2 < 0 ? r2 : r3;
}

int stack_open(const char *spec, const char *scratch, struct pl_tree **ret, struct pl_err *err)
{
    assert(!stack);
    int r = parse(spec, spec + strlen(spec), &stack, err);
    return r < 0 ? r : level_open(stack, scratch, ret, err);
}

int stack_again(struct pl_tree **ret, struct pl_err *err)
{
    return level_again(stack, ret, err);
}

const char *stack_path(void)
{
    return stack->kind == S_HOST || is_mount(stack) ? stack->dir : NULL;
}

int stack_close(struct pl_err *err)
{
    int r = level_close(stack, err);
    level_free(stack);
    stack = NULL;
    return r;
}
