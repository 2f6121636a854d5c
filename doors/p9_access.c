/* SPDX-License-Identifier: MIT */
/*
 * Rules, and the views of the exports that they give: each is made when it is first asked for, and
 * lives as long as its rules. `lock` guards the rules, which a reload replaces, and their views.
 */
#include "doors/p9_access.h"
#include "base/confine.h"
#include "base/limits.h"
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <plenum/sources.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct view {
    struct view *next;
    struct pl_tree *of, *tree;
};

struct rule {
    char *who;
    char *path; /* without slashes at either end, one between names */
    bool ro;
    enum p9_as as;
    uid_t uid;
    struct pl_map *map;
    struct view *views;
};

struct rules {
    size_t n;
    struct rule *at;
};

struct p9_access {
    pthread_mutex_t lock;
    char *path;
    struct rules rules;
};

static void rules_done(struct rules *rules)
{
    for (struct rule *r = rules->at; r < rules->at + rules->n; r++) {
        while (r->views) {
            struct view *v = r->views;
            r->views = v->next;
            pl_tree_unref(v->tree);
            pl_tree_unref(v->of);
            free(v);
        }
        pl_map_unref(r->map);
        free(r->who);
        free(r->path);
    }
    free(rules->at);
    *rules = (struct rules){0};
}

/* ---- parsing ---- */

/* \040 and the like in place. */
static void unescape(char *word)
{
    char *to = word;
    for (const char *from = word; *from; to++) {
        if (*from == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] >= '0' && from[2] <= '7' &&
            from[3] >= '0' && from[3] <= '7' && memcmp(from + 1, "000", 3)) {
            *to = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = 0;
}

/* Slashes where they mean something only; in memory. */
static char *normal(const char *path)
{
    char *text = malloc(strlen(path) + 1), *to = text;
    while (text && *(path += strspn(path, "/"))) {
        size_t n = strcspn(path, "/");
        if (to != text)
            *to++ = '/';
        to = mempcpy(to, path, n);
        path += n;
    }
    if (text)
        *to = 0;
    return text;
}

static int user(const char *text, bool files, uid_t *ret)
{
    size_t digits = strspn(text, "0123456789");
    if (digits && !text[digits]) {
        errno = 0;
        unsigned long n = strtoul(text, NULL, 10);
        *ret = (uid_t)n;
        return !errno && n < UINT32_MAX ? 0 : -EINVAL;
    }
    struct passwd *pw = files ? getpwnam(text) : NULL;
    if (pw)
        *ret = pw->pw_uid;
    return pw ? 0 : -ENOENT;
}

static int parse_who(struct rule *rule, const char *word, bool files, struct pl_err *err)
{
    uid_t uid;
    if (!strncmp(word, "uid:", 4) && !strpbrk(word, "*?[")) {
        if (user(word + 4, files, &uid) < 0)
            return pl_fail(err, -EINVAL, "%s: no such user", word);
        return asprintf(&rule->who, "uid:%u", uid) < 0 ? -ENOMEM : 0;
    }
    if (strncmp(word, "cert:", 5) && strncmp(word, "key:", 4) && strncmp(word, "uid:", 4) &&
        strcmp(word, "ssh") && strcmp(word, "*"))
        return pl_fail(err, -EINVAL, "%s: not somebody (cert:NAME, key:NAME, uid:USER, ssh or *)",
                       word);
    rule->who = strdup(word);
    return rule->who ? 0 : -ENOMEM;
}

static int parse_map(struct rule *rule, const char *file, bool files, struct pl_err *err)
{
    char *items;
    if (*file != '/' || strchr(file, ',') || !files)
        return pl_fail(err, -EINVAL, "map:%s: the whole path of a file is needed, without commas",
                       file);
    if (asprintf(&items, "file=%s", file) < 0)
        return -ENOMEM;
    int r = pl_map_parse(items, &rule->map, err);
    free(items);
    confine_parent(file, CONFINE_READ); /* it may be another file when it is read again */
    rule->as = P9_AS_MAP;
    return r;
}

static int parse_as(struct rule *rule, const char *word, bool files, struct pl_err *err)
{
    if (!strcmp(word, "caller"))
        rule->as = P9_AS_CALLER;
    else if (!strcmp(word, "caller+root"))
        rule->as = P9_AS_ROOT;
    else if (!strncmp(word, "map:", 4))
        return parse_map(rule, word + 4, files, err);
    else if (user(word, files, &rule->uid) < 0)
        return pl_fail(err, -EINVAL,
                       "%s: no such user (a user, caller, caller+root or map:FILE is needed)",
                       word);
    else if (geteuid() != 0 && rule->uid != geteuid())
        return pl_fail(err, -EPERM,
                       "%s: only root can act as another user (run the server as root, "
                       "or say %u)",
                       word, geteuid());
    else
        rule->as = P9_AS_USER;
    return 0;
}

static int parse_rule(char *line, bool files, struct rule *rule, struct pl_err *err)
{
    char *word[4], *rest = line, *more;
    int n = 0;
    while (n < 4 && (word[n] = strtok_r(rest, " \t\r", &rest)))
        unescape(word[n++]);
    more = strtok_r(rest, " \t\r", &rest);
    if (n < 4 || more)
        return pl_fail(err, -EINVAL, "%s words (WHO PATH ro|rw AS)", more ? "too many" : "too few");
    rule->ro = !strcmp(word[2], "ro");
    if (!rule->ro && strcmp(word[2], "rw"))
        return pl_fail(err, -EINVAL, "%s: neither ro nor rw", word[2]);
    if (*word[1] != '/')
        return pl_fail(err, -EINVAL, "%s: not a path (/ is the whole export)", word[1]);
    rule->path = normal(word[1]);
    int r = rule->path ? parse_who(rule, word[0], files, err) : -ENOMEM;
    return r < 0 ? r : parse_as(rule, word[3], files, err);
}

static int parse(char *text, const char *path, bool files, struct rules *ret, struct pl_err *err)
{
    size_t number = 0;
    *ret = (struct rules){0};
    for (char *line; (line = strsep(&text, "\n"));) {
        struct pl_err why = {.code = 0};
        number++;
        line[strcspn(line, "#")] = 0;
        if (!line[strspn(line, " \t\r")])
            continue;
        if (ret->n % 64 == 0) {
            struct rule *more = reallocarray(ret->at, ret->n + 64, sizeof(*more));
            if (!more) {
                rules_done(ret);
                return pl_fail(err, -ENOMEM, "out of memory");
            }
            ret->at = more;
        }
        int r = ret->n == LIMIT_ACCESS_RULES
                    ? pl_fail(&why, -E2BIG, "more than %d rules", LIMIT_ACCESS_RULES)
                    : 0;
        if (r == 0) {
            ret->at[ret->n] = (struct rule){0};
            r = parse_rule(line, files, &ret->at[ret->n++], &why);
        }
        if (r < 0) {
            rules_done(ret);
            return pl_fail(err, r, "%s: line %zu: %s", path, number,
                           why.code ? why.text : strerror(-r));
        }
    }
    return 0;
}

/* Who could write to the file could let anybody in. */
static int read_file(const char *path, char **ret, struct pl_err *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), r = 0;
    if (fd < 0 || fstat(fd, &st) < 0)
        r = pl_fail(err, -errno, "%s: %s (an access file is wanted: plenum help access)", path,
                    strerror(errno));
    else if (!S_ISREG(st.st_mode) || st.st_size > LIMIT_KEY_FILE)
        r = pl_fail(err, -EINVAL, "%s: not a file, or longer than %d bytes", path, LIMIT_KEY_FILE);
    else if ((st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 022))
        r = pl_fail(err, -EACCES,
                    "%s: others may write to it (it must belong to the server's user or root: look "
                    "at it, chown it, and chmod go-w it)",
                    path);
    char *text = r == 0 ? malloc((size_t)st.st_size + 1) : NULL;
    ssize_t n = text ? read(fd, text, (size_t)st.st_size) : 0;
    if (r == 0 && (!text || n < 0))
        r = pl_fail(err, text ? -errno : -ENOMEM, "%s: cannot be read", path);
    if (fd >= 0)
        close(fd);
    if (r < 0) {
        free(text);
        return r;
    }
    text[n] = 0;
    *ret = text;
    return strlen(text) == (size_t)n
               ? 0
               : (free(text), pl_fail(err, -EINVAL, "%s: not a text file", path));
}

static int new_access(const char *path, struct rules *rules, struct p9_access **ret,
                      struct pl_err *err)
{
    struct p9_access *a = calloc(1, sizeof(*a));
    if (!a || !(a->path = strdup(path))) {
        free(a);
        rules_done(rules);
        return pl_fail(err, -ENOMEM, "out of memory");
    }
    pthread_mutex_init(&a->lock, NULL);
    a->rules = *rules;
    *ret = a;
    return 0;
}

static int read_rules(const char *path, struct rules *ret, struct pl_err *err)
{
    char *text;
    int r = read_file(path, &text, err);
    if (r < 0)
        return r;
    r = parse(text, path, true, ret, err);
    free(text);
    return r;
}

int p9_access_parse(char *text, const char *path, bool files, struct p9_access **ret,
                    struct pl_err *err)
{
    struct rules rules;
    int r = parse(text, path, files, &rules, err);
    return r < 0 ? r : new_access(path, &rules, ret, err);
}

int p9_access_open(const char *path, struct p9_access **ret, struct pl_err *err)
{
    struct rules rules;
    int r = read_rules(path, &rules, err);
    return r < 0 ? r : new_access(path, &rules, ret, err);
}

int p9_access_reload(struct p9_access *a, struct pl_err *err)
{
    struct rules rules, old;
    int r = read_rules(a->path, &rules, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&a->lock);
    old = a->rules;
    a->rules = rules;
    pthread_mutex_unlock(&a->lock);
    rules_done(&old);
    return 0;
}

void p9_access_free(struct p9_access *a)
{
    if (!a)
        return;
    rules_done(&a->rules);
    pthread_mutex_destroy(&a->lock);
    free(a->path);
    free(a);
}

/* ---- deciding ---- */

static bool is_who(const struct rule *rule, const char *who)
{
    return strpbrk(rule->who, "*?[") ? fnmatch(rule->who, who, FNM_NOESCAPE) == 0
                                     : !strcmp(rule->who, who);
}

/* `path` is the rule's or beneath it. */
static bool is_beneath(const struct rule *rule, const char *path)
{
    size_t n = strlen(rule->path);
    return !n || (!strncmp(path, rule->path, n) && (!path[n] || path[n] == '/'));
}

static struct pl_tree *make_view(const struct rule *rule, struct pl_tree *of)
{
    struct pl_tree *tree = pl_tree_ref(of);
    if (rule->map)
        tree = pl_map_owners_new(pl_map_ref(rule->map), tree);
    return tree && rule->ro ? pl_ro_new(tree) : tree;
}

/* The tree as the rule shows it, with a reference; NULL: no memory. */
static struct pl_tree *view(struct rule *rule, struct pl_tree *of)
{
    if (!rule->ro && !rule->map)
        return pl_tree_ref(of);
    struct view *v = rule->views;
    while (v && v->of != of)
        v = v->next;
    if (!v) {
        v = calloc(1, sizeof(*v));
        if (!v || !(v->tree = make_view(rule, of))) {
            free(v);
            return NULL;
        }
        v->of = pl_tree_ref(of);
        v->next = rule->views;
        rule->views = v;
    }
    return pl_tree_ref(v->tree);
}

static int give(struct rule *rule, struct pl_tree *tree, struct p9_admitted *ret)
{
    ret->tree = view(rule, tree);
    if (!ret->tree)
        return -ENOMEM;
    ret->as = rule->as;
    ret->uid = rule->uid;
    ret->map = rule->map ? pl_map_ref(rule->map) : NULL;
    return 0;
}

int p9_access_admit(void *arg, const struct p9_asking *asking, struct pl_tree *tree,
                    struct p9_admitted *ret)
{
    struct p9_access *a = arg;
    char whole[2 * LIMIT_STRING + 2];
    snprintf(whole, sizeof(whole), "%s/%s", asking->aname, asking->name);
    char *path = normal(whole);
    int r = path ? -EACCES : -ENOMEM;
    pthread_mutex_lock(&a->lock);
    for (size_t i = 0; path && i < a->rules.n; i++) {
        struct rule *rule = &a->rules.at[i];
        if (is_who(rule, asking->who) && is_beneath(rule, path)) {
            r = give(rule, tree, ret);
            break;
        }
    }
    pthread_mutex_unlock(&a->lock);
    free(path);
    return r;
}
