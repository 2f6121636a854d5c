/* SPDX-License-Identifier: MIT */
/* The kinds of layers over other SPECs. */
#include "base/text.h"
#include "cmd/servicedial.h"
#include "cmd/spec_priv.h"
#include "cmd/util.h"
#include <errno.h>
#include <plenum/sources.h>
#include <plenum/space.h>
#include <stdlib.h>
#include <string.h>

static int plain_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    *lower = text;
    return asprintf(&s->text, "%s(", s->kind->name) < 0 ? spec_no_memory(err) : 0;
}

/* The argument before the next comma, which is cut; NULL when there is none. */
static char *argument(char **text)
{
    char *arg = *text, *comma = strchr(arg, ',');
    if (!comma)
        return NULL;
    *comma = 0;
    *text = comma + 1;
    return arg;
}

static int delay_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    char *time = argument(&text);
    s->number = time ? text_duration(time) : -1;
    if (s->number < 0)
        return pl_fail(err, -EINVAL,
                       "delay(%s): a time and a SPEC are needed (as in delay(20ms,/srv))",
                       time ? time : text);
    *lower = text;
    return asprintf(&s->text, "delay(%s,", time) < 0 ? spec_no_memory(err) : 0;
}

static int fault_op(struct spec *s, const char *name, struct pl_err *err)
{
    const char *names[PL_OP_COUNT + 2];
    for (int i = 0; i < PL_OP_COUNT; i++)
        names[i] = pl_op_name((enum pl_op)i);
    names[PL_OP_COUNT] = "any";
    names[PL_OP_COUNT + 1] = NULL;
    s->op = !strcmp(name, "any") ? PL_OP_COUNT : pl_op_find(name);
    if (s->op >= 0)
        return 0;
    const char *near = util_closest(name, names);
    return pl_fail(err, -EINVAL, "fault(%s,...): no such operation%s%s (any, %s, %s, %s, ...)",
                   name, near ? ", did you mean " : "", near ? near : "", "lookup", "open",
                   "write");
}

/* "skip=3" or "count=1" at the head of *text is taken off: 1, 0 when it is neither. */
static int fault_number(struct spec *s, char **text, struct pl_err *err)
{
    uint64_t *to = !strncmp(*text, "skip=", 5)    ? &s->skip
                   : !strncmp(*text, "count=", 6) ? &s->count
                                                  : NULL;
    if (!to)
        return 0;
    char *arg = argument(text), *end = NULL;
    char *digits = arg ? strchr(arg, '=') + 1 : NULL;
    errno = 0;
    if (digits && *digits >= '0' && *digits <= '9')
        *to = strtoull(digits, &end, 10);
    if (!end || *end || errno)
        return pl_fail(err, -EINVAL, "fault: %s: not a number and a SPEC behind it",
                       arg ? arg : *text);
    return 1;
}

static int fault_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    char *op = argument(&text), *error = op ? argument(&text) : NULL;
    if (!error)
        return pl_fail(err, -EINVAL,
                       "fault(%s): an operation, an error and a SPEC are needed (as in "
                       "fault(write,ENOSPC,skip=3,/srv))",
                       op ? op : text);
    int r = fault_op(s, op, err);
    if (r < 0)
        return r;
    s->error = text_errno(error);
    if (s->error < 0)
        return pl_fail(err, -EINVAL,
                       "fault(%s,%s,...): not the name of an error (as in ENOSPC, EIO)", op, error);
    s->count = UINT64_MAX;
    while ((r = fault_number(s, &text, err)) > 0)
        ;
    if (r < 0)
        return r;
    char skip[32] = "", count[32] = "";
    if (s->skip)
        snprintf(skip, sizeof(skip), "skip=%llu,", (unsigned long long)s->skip);
    if (s->count != UINT64_MAX)
        snprintf(count, sizeof(count), "count=%llu,", (unsigned long long)s->count);
    *lower = text;
    return asprintf(&s->text, "fault(%s,%s,%s%s", op, error, skip, count) < 0 ? spec_no_memory(err)
                                                                              : 0;
}

/* True when the text begins with part of a map, not with a SPEC. */
static bool is_map_item(const char *text)
{
    static const char *const keys[] = {
        "uid=", "gid=", "passwd=", "group=", "file=", "as=", "squash,"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
        if (!strncmp(text, keys[i], strlen(keys[i])))
            return true;
    return false;
}

/* An item with a path is written with the whole path. */
static int map_item(FILE *out, const char *item, struct pl_err *err)
{
    const char *value = strchr(item, '=');
    bool path = value && strncmp(item, "uid=", 4) && strncmp(item, "gid=", 4) &&
                strncmp(item, "as=", 3) && value[1];
    char *abs = path ? util_absolute(value + 1) : NULL;
    if (path && !abs)
        return pl_fail(err, -EINVAL, "%s: no such user or no memory", item);
    if (path)
        fprintf(out, "%.*s%s,", (int)(value + 1 - item), item, abs);
    else
        fprintf(out, "%s,", item);
    free(abs);
    return 0;
}

static int map_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    char *items = NULL, *item;
    size_t size;
    FILE *out = open_memstream(&items, &size);
    int r = out ? 0 : spec_no_memory(err);
    while (r == 0 && is_map_item(text) && (item = argument(&text)))
        r = map_item(out, item, err);
    if (!out || fclose(out) != 0)
        r = spec_no_memory(err);
    if (r == 0 && !size)
        r = pl_fail(err, -EINVAL,
                    "map(%s): a map of ids is needed (as in map(uid=100000:0:65536,/srv), "
                    "map(file=/etc/plenum/ids,/srv))",
                    text);
    *lower = text;
    if (r == 0 && asprintf(&s->text, "map(%s", items) < 0)
        r = spec_no_memory(err);
    if (r == 0) {
        items[size - 1] = 0; /* the last comma */
        r = pl_map_parse(items, &s->map, err);
    }
    free(items);
    return r;
}

static struct pl_tree *map_over(const struct spec *s, struct pl_tree *lower)
{
    return pl_map_new(pl_map_ref(s->map), lower);
}

static int service_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    char *attrs = argument(&text), *addr = attrs ? argument(&text) : NULL;
    if (!addr)
        return pl_fail(err, -EINVAL,
                       "service(%s): NAME/ATTRIBUTES, an address and a SPEC are needed (as in "
                       "service(log/monitor/call=open+close,unix!/run/log,/srv))",
                       attrs ? attrs : text);
    if (asprintf(&s->text, "service(%s,%s,", attrs, addr) < 0)
        return spec_no_memory(err);
    size_t n = strcspn(attrs, "/");
    s->rest = strndup(attrs, n);
    s->service = calloc(1, sizeof(*s->service));
    s->addrs[0] = strdup(addr);
    s->naddrs = 1;
    *lower = text;
    if (!s->rest || !s->service || !s->addrs[0])
        return spec_no_memory(err);
    if (!service_name_ok(s->rest))
        return pl_fail(err, -EINVAL, "service(%s,...): not a name (letters, digits, '_.-')",
                       s->rest);
    int r = service_attrs_parse(attrs + n, s->service, err);
    return r < 0 ? r : chan_check(addr, err);
}

static struct pl_tree *service_over(const struct spec *s, struct pl_tree *lower)
{
    struct service_dialer dialer;
    if (servicedial_new(s->rest, s->addrs[0], &dialer) < 0) {
        pl_tree_unref(lower);
        return NULL;
    }
    return service_new(s->rest, spec_text(s->lower), s->service, &dialer, lower);
}

static struct pl_tree *null_over(const struct spec *s, struct pl_tree *lower)
{
    return pl_null_new(lower);
}

static struct pl_tree *mine_over(const struct spec *s, struct pl_tree *lower)
{
    return pl_mine_new(lower);
}

static struct pl_tree *ro_over(const struct spec *s, struct pl_tree *lower)
{
    return pl_ro_new(lower);
}

static struct pl_tree *trace_over(const struct spec *s, struct pl_tree *lower)
{
    return pl_trace_new(stderr, lower);
}

static struct pl_tree *delay_over(const struct spec *s, struct pl_tree *lower)
{
    return pl_delay_new(s->number, lower);
}

static struct pl_tree *fault_over(const struct spec *s, struct pl_tree *lower)
{
    return pl_fault_new((enum pl_op)s->op, -s->error, s->skip, s->count, lower);
}

/* Options at the head: the text behind them is left in *lower. */
static int union_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    for (char *arg; !strncmp(text, "del=", 4) || !strncmp(text, "ro,", 3);) {
        if (!(arg = argument(&text)))
            return pl_fail(err, -EINVAL, "union(%s): a SPEC is missing in it", text);
        if (!strcmp(arg, "ro"))
            s->ro = true;
        else if (!strcmp(arg, "del=classic") || !strcmp(arg, "del=whiteout"))
            s->flags = strcmp(arg, "del=classic") ? 0 : PL_SPACE_CLASSIC;
        else
            return pl_fail(err, -EINVAL, "union(%s,...): del=whiteout or del=classic", arg);
    }
    size_t word = strspn(text, "abcdefghijklmnopqrstuvwxyz");
    if (word && text[word] == '=')
        return pl_fail(err, -EINVAL,
                       "union(%.*s...): no such option (ro, del=whiteout, del=classic; a directory "
                       "of such a name: ./%.*s...)",
                       (int)word + 1, text, (int)word + 1, text);
    *lower = text;
    return asprintf(&s->text, "union(%s%s", s->ro ? "ro," : "", s->flags ? "del=classic," : "") < 0
               ? spec_no_memory(err)
               : 0;
}

/* Opens all its trees. What is kept for a successor, and told of a link, is the first one's. */
static int union_open(const struct spec *s, const struct opening *o, struct pl_tree **ret,
                      struct pl_err *err)
{
    struct pl_tree *tree[PL_SPACE_STACK];
    size_t n = 0;
    int r = 0;
    for (const struct spec *l = s->lower; r == 0 && l; l = l->next, n += r == 0)
        r = n == PL_SPACE_STACK
                ? pl_fail(err, -E2BIG,
                          "%s: more than %d trees (make a union of some of them one of them)",
                          s->text, PL_SPACE_STACK)
                : spec_open(l, n ? NULL : o->watch, n ? NULL : o->far, &tree[n], err);
    if (r == 0)
        r = pl_union_new(tree, n, !s->ro, s->flags, ret, err);
    while (n)
        pl_tree_unref(tree[--n]);
    return r;
}

const struct spec_kind spec_layers[] = {
    {"ro", "ro(SPEC)", "read-only: what would modify the tree fails with EROFS",
     "plenum serve 'ro(/srv)' 'tcp!*!564'", plain_parse, NULL, ro_over, .reads = true},
    {"null", "null(SPEC)", "passes everything through", "plenum mount 'null(/srv)' /mnt",
     plain_parse, NULL, null_over},
    {"trace", "trace(SPEC)", "writes a line for each operation on standard error",
     "plenum mount -f 'trace(/srv)' /mnt", plain_parse, NULL, trace_over},
    {"map", "map(MAP,SPEC)", "callers and owners are others, by a map of ids (plenum help access)",
     "plenum mount 'map(uid=100000:0:65536,/srv)' /mnt", map_parse, NULL, map_over},
    {"mine", "mine(SPEC)", "everything is the server's user's, with the rights that he has",
     "plenum mount 'mine(union(/home/me/fix,/usr/src))' /mnt", plain_parse, NULL, mine_over},
    {"delay", "delay(TIME,SPEC)", "each operation takes TIME longer",
     "plenum mount 'delay(20ms,/srv)' /mnt", delay_parse, NULL, delay_over},
    {.name = "union",
     .form = "union([OPTION,]SPEC,SPEC,...)",
     .what = "several trees as one, the first in front: it takes all changes (options: ro; "
             "del=classic: what is removed shows again what is behind it)",
     .example = "plenum mount 'union(/srv/mine,/srv/all)' /mnt",
     .many = true,
     .parse = union_parse,
     .open = union_open},
    {"fault", "fault(OP,ERROR[,skip=N][,count=N],SPEC)",
     "operation OP (or any) fails with ERROR, after skip, count times",
     "plenum mount 'fault(write,ENOSPC,skip=3,/srv)' /mnt", fault_parse, NULL, fault_over},
    {"service", "service(NAME[/ATTR]...,ADDR,SPEC)",
     "a server at ADDR watches or answers for the tree (docs/services.md)",
     "plenum mount 'service(log/monitor/call=open+close,unix!/run/log,/srv)' /mnt", service_parse,
     NULL, service_over},
    {0},
};
