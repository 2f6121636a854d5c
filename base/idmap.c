/* SPDX-License-Identifier: MIT */
#include "base/idmap.h"
#include "base/confine.h"
#include "base/limits.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

enum { DEPTH = 4 }; /* of files that name files */

/* What is being put together. */
struct build {
    struct idmap *map;
    struct list {
        struct idmap_range *at;
        size_t n;
    } range[2], name[2]; /* uid, gid: as they were given, by number and by name */
    bool some[2];        /* an item of this sort was there */
    bool files;
    struct pl_err *err;
};

/* ---- items ---- */

static bool number(const char **text, uint32_t *ret)
{
    char *end;
    if (**text < '0' || **text > '9')
        return false;
    errno = 0;
    unsigned long v = strtoul(*text, &end, 10);
    *ret = (uint32_t)v;
    *text = end;
    return !errno && v < UINT32_MAX;
}

/* SERVER:CLIENT[:COUNT], none of whose ids is (uid_t)-1. */
static bool parse_range(const char *text, struct idmap_range *r)
{
    r->count = 1;
    if (!number(&text, &r->server) || *text++ != ':' || !number(&text, &r->client))
        return false;
    if (*text == ':' && (text++, !number(&text, &r->count)))
        return false;
    return !*text && r->count && r->count <= UINT32_MAX - r->server &&
           r->count <= UINT32_MAX - r->client;
}

static int add(struct build *b, struct list *l, struct idmap_range r)
{
    if (l->n == LIMIT_MAP)
        return pl_fail(b->err, -E2BIG, "more than %d entries in a map of ids", LIMIT_MAP);
    if (l->n % 64 == 0) {
        struct idmap_range *more = reallocarray(l->at, l->n + 64, sizeof(r));
        if (!more)
            return pl_fail(b->err, -ENOMEM, "out of memory");
        l->at = more;
    }
    l->at[l->n++] = r;
    return 0;
}

static int item_range(struct build *b, int sort, const char *value)
{
    struct idmap_range r;
    b->some[sort] = true;
    if (!value || !parse_range(value, &r))
        return pl_fail(b->err, -EINVAL,
                       "%s %s: not a range of ids (SERVER:CLIENT:COUNT, as in 100000:0:65536)",
                       sort ? "gid" : "uid", value ? value : "");
    return add(b, &b->range[sort], r);
}

/* Names of the clients that are names here too. */
static int item_names(struct build *b, int sort, const char *path)
{
    FILE *f = path ? fopen(path, "re") : NULL;
    int r = 0;
    if (!f)
        return pl_fail(b->err, path ? -errno : -EINVAL, "%s: %s",
                       path   ? path
                       : sort ? "group"
                              : "passwd",
                       path ? strerror(errno) : "a file is missing (passwd FILE)");
    b->some[sort] = true;
    confine_path(path, CONFINE_READ);
    while (r == 0) {
        struct passwd *pw = sort ? NULL : fgetpwent(f), *own = pw ? getpwnam(pw->pw_name) : NULL;
        struct group *gr = sort ? fgetgrent(f) : NULL, *gown = gr ? getgrnam(gr->gr_name) : NULL;
        if (!pw && !gr)
            break;
        if (own)
            r = add(b, &b->name[0], (struct idmap_range){own->pw_uid, pw->pw_uid, 1});
        if (gown)
            r = add(b, &b->name[1], (struct idmap_range){gown->gr_gid, gr->gr_gid, 1});
    }
    fclose(f);
    return r;
}

int idmap_user(const char *text, uid_t *ret, gid_t *ret_gid, gid_t **ret_groups, uint32_t *ret_n,
               struct pl_err *err)
{
    const char *digits = text;
    uint32_t id;
    int n = 64;
    bool numeric = number(&digits, &id) && !*digits;
    struct passwd *pw = numeric ? getpwuid(id) : getpwnam(text);
    if (!pw && !numeric)
        return pl_fail(err, -ENOENT, "%s: no such user", text);
    *ret = pw ? pw->pw_uid : id;
    *ret_gid = pw ? pw->pw_gid : IDMAP_NOBODY;
    *ret_groups = NULL;
    *ret_n = 0;
    if (!pw) /* in no group */
        return 0;
    for (int had = 0; had < n; had = n) {
        gid_t *more = reallocarray(*ret_groups, (size_t)n, sizeof(gid_t));
        if (!more) {
            free(*ret_groups);
            return pl_fail(err, -ENOMEM, "out of memory");
        }
        *ret_groups = more;
        had = n;
        if (getgrouplist(pw->pw_name, pw->pw_gid, more, &n) >= 0)
            break;
    }
    *ret_n = (uint32_t)n;
    return 0;
}

static int item_as(struct build *b, const char *user)
{
    struct idmap *m = b->map;
    if (!user || m->one)
        return pl_fail(b->err, -EINVAL, "as %s: one user is needed", user ? user : "");
    int r = idmap_user(user, &m->as_uid, &m->as_gid, &m->as_groups, &m->as_ngroups, b->err);
    m->one = r == 0;
    return r;
}

static int parse_lines(struct build *b, char *text, const char *path, int depth);

static int item_file(struct build *b, const char *path, int depth)
{
    struct stat st;
    if (!path)
        return pl_fail(b->err, -EINVAL, "file: a path is missing");
    if (depth == DEPTH)
        return pl_fail(b->err, -ELOOP, "%s: more than %d files of maps that name one another", path,
                       DEPTH);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    confine_path(path, CONFINE_READ); /* an access file's maps are read again */
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > LIMIT_MAP_FILE) {
        int r = fd < 0 ? -errno : -EINVAL;
        if (fd >= 0)
            close(fd);
        return pl_fail(b->err, r, "%s: %s", path,
                       r == -EINVAL ? "not a file that can be a map of ids" : strerror(-r));
    }
    char *text = malloc((size_t)st.st_size + 1);
    ssize_t n = text ? pread(fd, text, (size_t)st.st_size, 0) : -1;
    close(fd);
    if (n >= 0)
        text[n] = 0;
    int r = n < 0 ? pl_fail(b->err, -EIO, "%s: cannot be read", path)
                  : parse_lines(b, text, path, depth + 1);
    free(text);
    return r;
}

static int item(struct build *b, const char *key, const char *value, int depth)
{
    if (!strcmp(key, "uid") || !strcmp(key, "gid"))
        return item_range(b, *key == 'g', value);
    if (!strcmp(key, "squash") && !value) {
        b->map->squash = true;
        return 0;
    }
    if (b->files && (!strcmp(key, "passwd") || !strcmp(key, "group")))
        return item_names(b, *key == 'g', value);
    if (b->files && !strcmp(key, "file"))
        return item_file(b, value, depth);
    if (b->files && !strcmp(key, "as"))
        return item_as(b, value);
    return pl_fail(b->err, -EINVAL,
                   "%s: not part of a map of ids (uid, gid, passwd, group, file, squash, as)", key);
}

static int parse_lines(struct build *b, char *text, const char *path, int depth)
{
    size_t number = 0;
    for (char *line; (line = strsep(&text, "\n"));) {
        struct pl_err why, *err = b->err;
        number++;
        line[strcspn(line, "#")] = 0;
        char *rest = line, *key = strtok_r(rest, " \t\r", &rest),
             *value = key ? strtok_r(rest, " \t\r", &rest) : NULL;
        if (!key)
            continue;
        b->err = &why;
        int r = strtok_r(rest, " \t\r", &rest) ? pl_fail(&why, -EINVAL, "%s: too many words", key)
                                               : item(b, key, value, depth);
        b->err = err;
        if (r < 0)
            return pl_fail(err, r, "%s: line %zu: %s", path, number, why.text);
    }
    return 0;
}

/* ---- tables ---- */

static int by_server(const void *a, const void *b)
{
    uint32_t x = ((const struct idmap_range *)a)->server,
             y = ((const struct idmap_range *)b)->server;
    return x < y ? -1 : x > y;
}

static int by_client(const void *a, const void *b)
{
    uint32_t x = ((const struct idmap_range *)a)->client,
             y = ((const struct idmap_range *)b)->client;
    return x < y ? -1 : x > y;
}

/* Where in a sorted table an id is, or -1. */
static ssize_t find(const struct idmap_range *t, size_t n, bool client, uint32_t id)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        uint32_t first = client ? t[mid].client : t[mid].server;
        if (id < first)
            high = mid;
        else if (id - first >= t[mid].count)
            low = mid + 1;
        else
            return (ssize_t)mid;
    }
    return -1;
}

/* Two that overlap: the index of the second, or 0. */
static size_t clash(const struct idmap_range *t, size_t n, bool client)
{
    for (size_t i = 1; i < n; i++) {
        uint32_t first = client ? t[i].client : t[i].server,
                 before = client ? t[i - 1].client : t[i - 1].server;
        if (first - before < t[i - 1].count)
            return i;
    }
    return 0;
}

static int sort_table(const struct idmap_range *from, size_t n, struct idmap_table *t)
{
    t->by_server = calloc(n + 1, sizeof(*from));
    t->by_client = calloc(n + 1, sizeof(*from));
    if (!t->by_server || !t->by_client)
        return -ENOMEM;
    if (n) {
        memcpy(t->by_server, from, n * sizeof(*from));
        memcpy(t->by_client, from, n * sizeof(*from));
        qsort(t->by_server, n, sizeof(*from), by_server);
        qsort(t->by_client, n, sizeof(*from), by_client);
    }
    t->n = n;
    return 0;
}

static void table_done(struct idmap_table *t)
{
    free(t->by_server);
    free(t->by_client);
    *t = (struct idmap_table){0};
}

struct taken {
    uint32_t id;
    UT_hash_handle hh;
};

/* False when somebody has the id already, or there is no memory. */
static bool take(struct taken **set, struct taken *place, uint32_t id)
{
    struct taken *other;
    HASH_FIND_INT(*set, &id, other);
    if (other)
        return false;
    place->id = id;
    HASH_ADD_INT(*set, id, place);
    return place->hh.tbl;
}

/* Names give way to numbers, and to names before them, at either end: into `all`, behind what is
 * there. */
static int add_names(const struct list *names, const struct idmap_table *ranges, struct list *all)
{
    struct taken *servers = NULL, *clients = NULL,
                 *places = calloc(names->n + 1, 2 * sizeof(*places));
    if (!places)
        return -ENOMEM;
    for (size_t i = 0; i < names->n; i++) {
        struct idmap_range r = names->at[i];
        if (find(ranges->by_server, ranges->n, false, r.server) < 0 &&
            find(ranges->by_client, ranges->n, true, r.client) < 0 &&
            take(&servers, &places[2 * i], r.server)) {
            if (take(&clients, &places[2 * i + 1], r.client))
                all->at[all->n++] = r;
            else
                HASH_DEL(servers, &places[2 * i]);
        }
    }
    HASH_CLEAR(hh, servers);
    HASH_CLEAR(hh, clients);
    free(places);
    return 0;
}

static int finish_sort(struct build *b, int sort, struct idmap_table *t)
{
    /* Keeps a table that maps nobody from being one that maps nothing. */
    static const struct idmap_range none = {UINT32_MAX, UINT32_MAX, 1};
    const struct list *ranges = &b->range[sort], *names = &b->name[sort];
    struct list all = {calloc(ranges->n + names->n + 1, sizeof(none)), 0};
    const struct idmap_range *in;
    size_t at = 0;
    if (!b->some[sort]) {
        free(all.at);
        return 0;
    }
    int r = all.at ? sort_table(ranges->at, ranges->n, t) : -ENOMEM;
    in = t->by_server;
    if (r == 0 && !(at = clash(in, t->n, false)))
        at = clash(in = t->by_client, t->n, true);
    if (at)
        r = pl_fail(b->err, -EINVAL, "%s: an id would be two (look at %u:%u and %u:%u)",
                    sort ? "gid" : "uid", in[at - 1].server, in[at - 1].client, in[at].server,
                    in[at].client);
    if (r == 0) {
        if (ranges->n)
            memcpy(all.at, ranges->at, ranges->n * sizeof(none));
        all.n = ranges->n;
        r = add_names(names, t, &all);
        if (r == 0 && !all.n)
            all.at[all.n++] = none;
        table_done(t);
        if (r == 0)
            r = sort_table(all.at, all.n, t);
    }
    free(all.at);
    return r;
}

static int finish(struct build *b, int r, struct idmap *ret)
{
    if (r == 0)
        r = finish_sort(b, 0, &ret->uid);
    if (r == 0)
        r = finish_sort(b, 1, &ret->gid);
    if (r == -ENOMEM)
        pl_fail(b->err, r, "out of memory");
    for (int i = 0; i < 2; i++) {
        free(b->range[i].at);
        free(b->name[i].at);
    }
    if (r < 0)
        idmap_done(ret);
    return r;
}

int idmap_parse_text(char *text, const char *path, bool files, struct idmap *ret,
                     struct pl_err *err)
{
    struct build b = {.map = ret, .files = files, .err = err};
    *ret = (struct idmap){0};
    return finish(&b, parse_lines(&b, text, path, 0), ret);
}

int idmap_parse(char *items, struct idmap *ret, struct pl_err *err)
{
    struct build b = {.map = ret, .files = true, .err = err};
    int r = 0;
    *ret = (struct idmap){0};
    for (char *key; r == 0 && (key = strsep(&items, ","));) {
        char *value = strchr(key, '=');
        if (value)
            *value++ = 0;
        r = item(&b, key, value && *value ? value : NULL, 0);
    }
    return finish(&b, r, ret);
}

void idmap_done(struct idmap *m)
{
    table_done(&m->uid);
    table_done(&m->gid);
    free(m->as_groups);
    *m = (struct idmap){0};
}

/* ---- use ---- */

bool idmap_down(const struct idmap_table *t, uint32_t client, uint32_t *ret)
{
    ssize_t at = t->n ? find(t->by_client, t->n, true, client) : 0;
    *ret = !t->n    ? client
           : at < 0 ? IDMAP_NOBODY
                    : t->by_client[at].server + (client - t->by_client[at].client);
    return at >= 0 && client != UINT32_MAX;
}

bool idmap_up(const struct idmap_table *t, uint32_t server, uint32_t *ret)
{
    ssize_t at = t->n ? find(t->by_server, t->n, false, server) : 0;
    *ret = !t->n    ? server
           : at < 0 ? IDMAP_NOBODY
                    : t->by_server[at].client + (server - t->by_server[at].server);
    return at >= 0 && server != UINT32_MAX;
}
