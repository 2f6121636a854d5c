/* SPDX-License-Identifier: MIT */
#include "cmd/spec.h"
#include "base/text.h"
#include "cmd/far.h"
#include "cmd/servicedial.h"
#include "cmd/util.h"
#include "sources/host.h"
#include <errno.h>
#include <limits.h>
#include <plenum/app.h>
#include <plenum/sources.h>
#include <plenum/space.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SPEC_DEPTH 64
#define SPEC_ADDRS 16

struct spec_kind;
struct spec {
    const struct spec_kind *kind;
    char *text;                  /* canonical */
    char *rest;                  /* a source's text behind the colon, or a path */
    char *addrs[SPEC_ADDRS + 1]; /* 9p and exec; NULL-terminated */
    size_t naddrs;
    char *aname; /* 9p */
    char *uname, *version;
    bool sync;
    int64_t number; /* mem's size, delay's ns */
    int op, error;  /* fault */
    uint64_t skip, count;
    struct pl_map *map;
    uint32_t flags;                /* union: enum pl_space_flags */
    bool ro;                       /* union */
    struct service_attrs *service; /* its name is in rest, its address the first */
    struct spec *lower;            /* a layer's */
    struct spec *next;             /* of the trees of a union: the one behind */
};

struct opening {
    const struct spec_watch *watch;
    struct spec_far *far;
    bool reads; /* an ro layer is above */
};

struct spec_kind {
    const char *name, *form, *what, *example;
    bool layer, many; /* many: over several trees, with commas between them */
    /* Takes `text`: what stands behind the colon, or between the parentheses. A layer leaves the
     * lower tree's SPEC in *ret_lower (a pointer into text). */
    int (*parse)(struct spec *s, char *text, char **ret_lower, struct pl_err *err);
    int (*open)(const struct spec *s, const struct opening *o, struct pl_tree **ret,
                struct pl_err *err);
    struct pl_tree *(*over)(const struct spec *s, struct pl_tree *lower);
};

static int no_memory(struct pl_err *err)
{
    return pl_fail(err, -ENOMEM, "out of memory");
}

/* ---- connections ---- */

/* One crew for all: it is kept until the process ends, since trees may come and go. */
static struct p9_crew *crew;
static void crew_make(void)
{
    crew = p9_crew_new(0);
}

struct p9_crew *spec_crew(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, crew_make);
    return crew;
}

static const char *user_of(const struct spec *s, char buf[256])
{
    return s->uname ? s->uname : util_user(buf, 256);
}

/* The tree at the other end of what `how` says; how->own is taken over. */
static int open_far(const struct spec *s, const char *aname, struct far_how *how,
                    const struct opening *o, struct pl_tree **ret, struct pl_err *err)
{
    const struct spec_watch *w = o->watch;
    struct far_peer peer;
    struct far *far;
    struct p9_conn *conn;
    char user[256];
    how->version = s->version;
    how->opts = (struct linkopt){0}; /* for nobody who would know of it */
    if (w) {
        how->opts = w->link;
        how->lost = w->lost;
        how->changed = w->changed;
        how->ready = w->ready;
        how->left = w->left;
        how->arg = w->arg;
    }
    if (far_new(how, &far) < 0) {
        free(how->own);
        return no_memory(err);
    }
    int r = far_dial(far, &peer, &conn, err);
    if (r == 0) {
        struct pl_call call;
        struct pl_p9_opts p9 = {.aname = aname, .uname = user_of(s, user), .sync = s->sync};
        pl_call_init_self(&call);
        r = far_use(far, conn, &call, err);
        if (r == 0)
            r = far_tree(far, conn, &p9, ret, err);
        pl_call_done(&call);
        if (r < 0)
            p9_conn_free(conn);
    }
    if (r < 0) {
        far_free(far);
        return r;
    }
    if (o->far) {
        *o->far = (struct spec_far){.far = far, .note = peer.note};
        snprintf(o->far->peer, sizeof(o->far->peer), "%s", peer.name);
    }
    return 0;
}

/* ---- sources ---- */

static int path_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    if (!*text)
        return pl_fail(err, -EINVAL, "host: a directory is missing (as in host:/srv)");
    char *abs = util_absolute(text);
    if (!abs)
        return pl_fail(err, -EINVAL, "%s: no such user or no memory", text);
    /* A path that is there is shown as it really is; one that is not fails when it is opened. */
    s->rest = realpath(abs, NULL);
    if (!s->rest)
        s->rest = abs;
    else
        free(abs);
    return asprintf(&s->text, "host:%s", s->rest) < 0 ? no_memory(err) : 0;
}

static int dir_open(const struct spec *s, const struct opening *o, struct pl_tree **ret,
                    struct pl_err *err)
{
    return host_open_kept(s->rest, o->reads ? HOST_READS : HOST_CHANGES,
                          o->watch ? o->watch->keep : NULL, ret, err);
}

static int mem_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    s->number = *text ? text_size(text) : 0;
    if (s->number < 0 || (*text && s->number == 0))
        return pl_fail(err, -EINVAL, "mem:%s: not a size (as in mem:64M, or mem: alone)", text);
    return asprintf(&s->text, "mem:%s", text) < 0 ? no_memory(err) : 0;
}

static int mem_open(const struct spec *s, const struct opening *o, struct pl_tree **ret,
                    struct pl_err *err)
{
    return pl_mem_new((uint64_t)s->number, ret, err);
}

/* What may stand behind an address, which may have commas in it itself. */
static const char *const marks[] = {",or=", ",aname=", ",uname=", ",version=", ",sync"};
enum { MARK_OR, MARK_ANAME, MARK_UNAME, MARK_VERSION, MARK_SYNC, MARKS };

/* The first of them in the text: it is cut off there, and what is behind it returned; or NULL. */
static char *cut_mark(char *text, int *which)
{
    char *first = NULL;
    for (int i = 0; i < MARKS; i++) {
        char *found = strstr(text, marks[i]);
        if (found && (!first || found < first)) {
            first = found;
            *which = i;
        }
    }
    if (!first)
        return NULL;
    *first = 0;
    return first + strlen(marks[*which]);
}

static int add_addr(struct spec *s, const char *addr, struct pl_err *err)
{
    if (!chan_is_addr(addr))
        return pl_fail(err, -EINVAL,
                       "9p:%s: not an address (as in 9p:tcp!host!564, 9p:unix!/run/x; see plenum "
                       "help addr)",
                       addr);
    int r = chan_check(addr, err);
    if (r < 0)
        return r;
    if (s->naddrs == SPEC_ADDRS)
        return pl_fail(err, -EINVAL, "%s: more than %d addresses", s->text, SPEC_ADDRS);
    s->addrs[s->naddrs] = strdup(addr);
    return s->addrs[s->naddrs++] ? 0 : no_memory(err);
}

static int check_version(const struct spec *s, struct pl_err *err)
{
    static const char *const known[] = {P9_VERSION, P9_VERSION_U, P9_VERSION_L};
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (!strcasecmp(s->version, known[i]))
            return 0;
    return pl_fail(err, -EINVAL, "version=%s: no such dialect (9p2000, 9p2000.u, 9p2000.L)",
                   s->version);
}

static int p9_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    if (asprintf(&s->text, "9p:%s", text) < 0)
        return no_memory(err);
    int which = MARK_OR, r = 0;
    for (char *next = text; r == 0 && next; text = next) {
        int is = which;
        next = cut_mark(text, &which);
        if (is == MARK_OR) {
            r = add_addr(s, text, err);
            continue;
        }
        if (is == MARK_SYNC) {
            s->sync = true;
            if (*text)
                r = pl_fail(err, -EINVAL, "9p:...,sync%s: sync takes no value", text);
            continue;
        }
        char **to = is == MARK_ANAME ? &s->aname : is == MARK_UNAME ? &s->uname : &s->version;
        free(*to);
        *to = strdup(text);
        r = *to ? 0 : no_memory(err);
    }
    return r == 0 && s->version ? check_version(s, err) : r;
}

static int p9_open(const struct spec *s, const struct opening *o, struct pl_tree **ret,
                   struct pl_err *err)
{
    int r = open_far(s, s->aname, &(struct far_how){.addrs = s->addrs}, o, ret, err);
    bool again = true;
    for (size_t i = 0; i < s->naddrs; i++)
        again = again && chan_again(s->addrs[i]);
    if (r == 0 && again)
        (*ret)->flags |= PL_TREE_LASTING;
    return r;
}

static int exec_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    if (!*text)
        return pl_fail(err, -EINVAL, "exec: a command is missing (as in exec:diod -f ...)");
    if (asprintf(&s->text, "exec:%s", text) < 0 || asprintf(&s->addrs[0], "exec!%s", text) < 0)
        return no_memory(err);
    s->naddrs = 1;
    return 0;
}

static int ssh_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    /* An IPv6 address stands in brackets, as with scp. */
    char *from = *text == '[' ? strchr(text, ']') : strstr(text, "@[") ? strchr(text, ']') : text;
    char *colon = from ? strchr(from, ':') : NULL;
    if (!colon || colon == text)
        return pl_fail(err, -EINVAL,
                       "ssh:%s: a host and a directory are needed (as in ssh:host:/srv)", text);
    if (*text == '-')
        return pl_fail(err, -EINVAL, "ssh:%s: a host's name does not begin with '-'", text);
    if (asprintf(&s->text, "ssh:%s", text) < 0)
        return no_memory(err);
    *colon = 0;
    s->rest = strdup(text);
    s->uname = NULL;
    s->aname = strdup(colon[1] ? colon + 1 : ".");
    return s->rest && s->aname ? 0 : no_memory(err);
}

/* The far end is asked for again as long as the tree is there: it keeps how that is done. */
struct ssh_way {
    struct sshlink link;
    char *args[7];
    char dir[PATH_MAX + 8], host[];
};

static int ssh_open(const struct spec *s, const struct opening *o, struct pl_tree **ret,
                    struct pl_err *err)
{
    size_t n = strlen(s->rest) + 1;
    struct ssh_way *way = calloc(1, sizeof(*way) + n);
    if (!way)
        return no_memory(err);
    memcpy(way->host, s->rest, n);
    /* "host:" keeps a directory with a strange name from being taken for another kind of SPEC. */
    if ((size_t)snprintf(way->dir, sizeof(way->dir), "host:%s", s->aname) >= sizeof(way->dir)) {
        free(way);
        return pl_fail(err, -ENAMETOOLONG, "%s: the path is too long", s->text);
    }
    char *args[] = {"serve", "--remote", "--quiet", "--", way->dir, "stdio", NULL};
    memcpy(way->args, args, sizeof(args));
    way->link = (struct sshlink){.host = way->host, .args = way->args};
    int r = open_far(s, "", &(struct far_how){.ssh = &way->link, .own = way}, o, ret, err);
    if (r == 0) /* a directory over there, whoever serves it */
        (*ret)->flags |= PL_TREE_LASTING;
    return r;
}

/* ---- layers ---- */

static int plain_parse(struct spec *s, char *text, char **lower, struct pl_err *err)
{
    *lower = text;
    return asprintf(&s->text, "%s(", s->kind->name) < 0 ? no_memory(err) : 0;
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
    return asprintf(&s->text, "delay(%s,", time) < 0 ? no_memory(err) : 0;
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
    return asprintf(&s->text, "fault(%s,%s,%s%s", op, error, skip, count) < 0 ? no_memory(err) : 0;
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
    int r = out ? 0 : no_memory(err);
    while (r == 0 && is_map_item(text) && (item = argument(&text)))
        r = map_item(out, item, err);
    if (!out || fclose(out) != 0)
        r = no_memory(err);
    if (r == 0 && !size)
        r = pl_fail(err, -EINVAL,
                    "map(%s): a map of ids is needed (as in map(uid=100000:0:65536,/srv), "
                    "map(file=/etc/plenum/ids,/srv))",
                    text);
    *lower = text;
    if (r == 0 && asprintf(&s->text, "map(%s", items) < 0)
        r = no_memory(err);
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
        return no_memory(err);
    size_t n = strcspn(attrs, "/");
    s->rest = strndup(attrs, n);
    s->service = calloc(1, sizeof(*s->service));
    s->addrs[0] = strdup(addr);
    s->naddrs = 1;
    *lower = text;
    if (!s->rest || !s->service || !s->addrs[0])
        return no_memory(err);
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
    return service_new(s->rest, s->service, &dialer, lower);
}

static struct pl_tree *null_over(const struct spec *s, struct pl_tree *lower)
{
    return pl_null_new(lower);
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
               ? no_memory(err)
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

/* ---- the table ---- */

static const struct spec_kind kinds[] = {
    {"host", "host:DIR", "a directory of this host; a path alone means the same",
     "plenum mount host:/srv /mnt", false, false, path_parse, dir_open, NULL},
    {"mem", "mem:[SIZE]", "an empty tree in memory, of at most SIZE bytes of content",
     "plenum mount mem:64M /mnt", false, false, mem_parse, mem_open, NULL},
    {"9p", "9p:ADDR[,or=ADDR]...[,aname=NAME][,sync]",
     "what a 9P server at ADDR serves; or, while it is away, the next that is there (sync: nothing "
     "is read ahead or written behind)",
     "plenum mount '9p:tcp!host1!564' /mnt", false, false, p9_parse, p9_open, NULL},
    {"ssh", "ssh:[USER@]HOST:DIR", "a directory of another host where plenum is installed",
     "plenum mount ssh:host1:/srv /mnt", false, false, ssh_parse, ssh_open, NULL},
    {"exec", "exec:COMMAND", "what a command serves that speaks 9P on its stdin and stdout",
     "plenum mount 'exec:plenum serve /srv stdio' /mnt", false, false, exec_parse, p9_open, NULL},
    {"ro", "ro(SPEC)", "read-only: what would modify the tree fails with EROFS",
     "plenum serve 'ro(/srv)' 'tcp!*!564'", true, false, plain_parse, NULL, ro_over},
    {"null", "null(SPEC)", "passes everything through", "plenum mount 'null(/srv)' /mnt", true,
     false, plain_parse, NULL, null_over},
    {"trace", "trace(SPEC)", "writes a line for each operation on standard error",
     "plenum mount -f 'trace(/srv)' /mnt", true, false, plain_parse, NULL, trace_over},
    {"map", "map(MAP,SPEC)", "callers and owners are others, by a map of ids (plenum help access)",
     "plenum mount 'map(uid=100000:0:65536,/srv)' /mnt", true, false, map_parse, NULL, map_over},
    {"delay", "delay(TIME,SPEC)", "each operation takes TIME longer",
     "plenum mount 'delay(20ms,/srv)' /mnt", true, false, delay_parse, NULL, delay_over},
    {.name = "union",
     .form = "union([OPTION,]SPEC,SPEC,...)",
     .what = "several trees as one, the first in front: it takes all changes (options: ro; "
             "del=classic: what is removed shows again what is behind it)",
     .example = "plenum mount 'union(/srv/mine,/srv/all)' /mnt",
     .layer = true,
     .many = true,
     .parse = union_parse,
     .open = union_open},
    {"fault", "fault(OP,ERROR[,skip=N][,count=N],SPEC)",
     "operation OP (or any) fails with ERROR, after skip, count times",
     "plenum mount 'fault(write,ENOSPC,skip=3,/srv)' /mnt", true, false, fault_parse, NULL,
     fault_over},
    {"service", "service(NAME[/ATTR]...,ADDR,SPEC)",
     "a server at ADDR watches or answers for the tree (docs/services.md)",
     "plenum mount 'service(log/monitor/call=open+close,unix!/run/log,/srv)' /mnt", true, false,
     service_parse, NULL, service_over},
};
#define KINDS (sizeof(kinds) / sizeof(*kinds))

static const struct spec_kind *kind_find(const char *name, bool layer)
{
    for (size_t i = 0; i < KINDS; i++)
        if (kinds[i].layer == layer && !strcmp(kinds[i].name, name))
            return &kinds[i];
    return NULL;
}

static int unknown(const char *name, bool layer, const char *text, struct pl_err *err)
{
    const char *names[KINDS + 1];
    size_t n = 0;
    for (size_t i = 0; i < KINDS; i++)
        if (kinds[i].layer == layer)
            names[n++] = kinds[i].name;
    names[n] = NULL;
    const char *near = util_closest(name, names);
    return pl_fail(err, -EINVAL,
                   "%.200s: no such kind of %s: \"%s\"%s%s%s (see plenum help spec; a directory of "
                   "that name: ./%.100s)",
                   text, layer ? "layer" : "tree", name, near ? ", did you mean \"" : "",
                   near ? near : "", near ? "\"?" : "", text);
}

void spec_free(struct spec *s)
{
    while (s) {
        struct spec *lower = s->lower;
        spec_free(s->next);
        free(s->text);
        free(s->rest);
        for (size_t i = 0; i < s->naddrs; i++)
            free(s->addrs[i]);
        free(s->aname);
        free(s->version);
        free(s->uname);
        pl_map_unref(s->map);
        free(s->service);
        free(s);
        s = lower;
    }
}

const char *spec_text(const struct spec *s)
{
    return s->text;
}

/* The length of the kind's name if text begins with one and `end`, else 0. */
static size_t kind_name(const char *text, char end)
{
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-_");
    return n && n < 32 && text[n] == end ? n : 0;
}

static int parse(const char *text, int depth, struct spec **ret, struct pl_err *err);

static int bare_addr(const char *text, struct pl_err *err)
{
    return pl_fail(err, -EINVAL,
                   "%.200s: an address, not a tree (the tree served there: 9p:%.200s)", text, text);
}

/* The comma that ends the first SPEC of several, or NULL: not in parentheses. */
static char *spec_end(char *text)
{
    int depth = 0;
    for (; *text; text++) {
        depth += (*text == '(') - (*text == ')');
        if (*text == ',' && depth <= 0)
            return text;
    }
    return NULL;
}

/* Parses the trees of a union and completes its text with them. */
static int parse_many(struct spec *s, char *text, int depth, struct pl_err *err)
{
    struct spec **to = &s->lower;
    for (char *end; text; text = end ? end + 1 : NULL, to = &(*to)->next) {
        if ((end = spec_end(text)))
            *end = 0;
        if (!*text)
            return pl_fail(err, -EINVAL, "%s(): a SPEC is missing in it (as in %s)", s->kind->name,
                           s->kind->form);
        int r = parse(text, depth + 1, to, err);
        if (r < 0)
            return r;
        char *whole;
        if (asprintf(&whole, "%s%s%s", s->text, (*to)->text, end ? "," : ")") < 0)
            return no_memory(err);
        free(s->text);
        s->text = whole;
    }
    return 0;
}

/* Parses the tree under a layer and completes the layer's text with it. */
static int parse_lower(struct spec *s, const char *lower, int depth, struct pl_err *err)
{
    if (!*lower)
        return pl_fail(err, -EINVAL, "%s(): a SPEC is missing in it (as in %s)", s->kind->name,
                       s->kind->form);
    int r = parse(lower, depth + 1, &s->lower, err);
    if (r < 0)
        return r;
    char *whole;
    if (asprintf(&whole, "%s%s)", s->text, s->lower->text) < 0)
        return no_memory(err);
    free(s->text);
    s->text = whole;
    return 0;
}

/* What is between the first parenthesis and the last is the layer's: a path in it may have any
 * character, parentheses and commas too. */
static int parse_as(const char *text, size_t name_len, bool layer, int depth, struct spec *s,
                    struct pl_err *err)
{
    char name[32];
    snprintf(name, sizeof(name), "%.*s", (int)name_len, text);
    s->kind = kind_find(name, layer);
    if (!s->kind && !layer && chan_is_addr(text))
        return bare_addr(text, err);
    if (!s->kind)
        return unknown(name, layer, text, err);
    char *inner = strdup(text + name_len + 1), *lower = NULL;
    if (!inner)
        return no_memory(err);
    size_t n = strlen(inner);
    int r = 0;
    if (layer && (!n || inner[n - 1] != ')'))
        r = pl_fail(err, -EINVAL, "%s: the ')' that ends %s( is missing", text, name);
    else if (layer)
        inner[n - 1] = 0;
    if (r == 0)
        r = s->kind->parse(s, inner, &lower, err);
    if (r == 0 && layer)
        r = s->kind->many ? parse_many(s, lower, depth, err) : parse_lower(s, lower, depth, err);
    free(inner);
    return r;
}

static int parse(const char *text, int depth, struct spec **ret, struct pl_err *err)
{
    if (!*text)
        return pl_fail(err, -EINVAL, "an empty SPEC (a path, or KIND:...; see plenum help spec)");
    if (depth > SPEC_DEPTH)
        return pl_fail(err, -EINVAL, "%.100s: more than %d layers", text, SPEC_DEPTH);
    struct spec *s = calloc(1, sizeof(*s));
    if (!s)
        return no_memory(err);
    size_t source = kind_name(text, ':'), layer = kind_name(text, '('), n = strlen(text);
    int r;
    if (layer) {
        r = parse_as(text, layer, true, depth, s, err);
    } else if (source) {
        r = parse_as(text, source, false, depth, s, err);
    } else if (!strchr("/.~", *text) && strchr(text, ':')) {
        r = pl_fail(err, -EINVAL,
                    "%.200s: not a SPEC (a path, or KIND:...; a directory of that name: ./%.100s)",
                    text, text);
    } else {
        char *copy = strdup(text);
        s->kind = kind_find("host", false);
        r = copy ? path_parse(s, copy, NULL, err) : no_memory(err);
        if (r == 0 && chan_is_addr(text) && access(s->rest, F_OK) < 0)
            r = bare_addr(text, err);
        /* The usual cause of a path that is not there and ends so. */
        if (r == 0 && depth && n && text[n - 1] == ')' && !strchr(text, '(') &&
            access(s->rest, F_OK) < 0)
            r = pl_fail(err, -EINVAL, "%s: a ')' too many", text);
        free(copy);
    }
    if (r < 0)
        spec_free(s);
    else
        *ret = s;
    return r;
}

int spec_parse(const char *text, struct spec **ret, struct pl_err *err)
{
    return parse(text, 0, ret, err);
}

static int open_kind(const struct spec *s, struct opening o, struct pl_tree **ret,
                     struct pl_err *err)
{
    struct pl_tree *lower, *tree;
    if (!s->kind->over)
        return s->kind->open(s, &o, ret, err);
    o.reads = o.reads || s->kind->over == ro_over;
    int r = open_kind(s->lower, o, &lower, err);
    if (r < 0)
        return r;
    tree = s->kind->over(s, lower); /* takes lower over */
    if (!tree)
        return no_memory(err);
    *ret = tree;
    return 0;
}

int spec_open(const struct spec *s, const struct spec_watch *watch, struct spec_far *far,
              struct pl_tree **ret, struct pl_err *err)
{
    if (far)
        *far = (struct spec_far){.peer = ""};
    return open_kind(s, (struct opening){.watch = watch, .far = far}, ret, err);
}

int pl_tree_open(const char *text, struct pl_tree **ret, struct pl_err *err)
{
    struct spec *s;
    int r = spec_parse(text, &s, err);
    if (r < 0)
        return r;
    r = spec_open(s, NULL, NULL, ret, err);
    spec_free(s);
    return r;
}

void spec_help(FILE *out)
{
    fputs("A SPEC names a tree: a path (a directory of this host), or one of these.\n", out);
    for (int layer = 0; layer < 2; layer++) {
        fputs(layer ? "\nLayers, over another SPEC:\n" : "\nSources:\n", out);
        for (size_t i = 0; i < KINDS; i++)
            if (kinds[i].layer == layer)
                fprintf(out, "  %-28s%s%s\n  %-28s %s\n", kinds[i].form,
                        strlen(kinds[i].form) > 28 ? "\n                               " : " ",
                        kinds[i].what, "", kinds[i].example);
    }
    fputs("\nA path begins with '/', '.' or '~', or has no ':' in it. The SPEC in a layer goes up "
          "to\n"
          "the last ')', so a path in it may have any character.\n",
          out);
}
