/* SPDX-License-Identifier: MIT */
#include "base/text.h"
#include "cmd/attr.h"
#include "cmd/walk.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_JSON = 256 };
static const struct option longs[] = {{"json", no_argument, NULL, OPT_JSON}, {NULL, 0, NULL, 0}};

struct ls {
    struct walk w;
    bool full, all, recurse, titles;
    bool printed;
    struct json_object *json; /* the array, or NULL */
};

static const char *target_of(struct ls *ls, struct pl_node *node, char buf[PL_PATH_MAX + 1])
{
    if (!S_ISLNK(node->fmt))
        return NULL;
    int n = pl_readlink(ls->w.tree, &ls->w.call, node, buf, PL_PATH_MAX);
    buf[n < 0 ? 0 : n] = 0;
    return n < 0 ? NULL : buf;
}

static void show(struct ls *ls, const char *path, const char *name, struct pl_node *node,
                 const struct pl_attr *a)
{
    char target_buf[PL_PATH_MAX + 1], safe[4 * PL_PATH_MAX + 1];
    const char *target = ls->full || ls->json ? target_of(ls, node, target_buf) : NULL;
    if (ls->json) {
        json_object_array_add(ls->json, attr_json(path, a, target));
        return;
    }
    char mode[11], user[64], group[64], size[32], when[40];
    struct tm tm;
    localtime_r(&a->mtime.tv_sec, &tm);
    strftime(when, sizeof(when), "%Y-%m-%d %H:%M", &tm);
    if (S_ISCHR(a->mode) || S_ISBLK(a->mode))
        snprintf(size, sizeof(size), "%u, %u", a->rdev_major, a->rdev_minor);
    else
        snprintf(size, sizeof(size), "%llu", (unsigned long long)a->size);
    printf("%s %3llu %-8s %-8s %10s %s %s", attr_mode(mode, a->mode), (unsigned long long)a->nlink,
           attr_user(user, a->uid), attr_group(group, a->gid), size, when,
           walk_show(safe, sizeof(safe), name));
    if (target)
        printf(" -> %s", walk_show(safe, sizeof(safe), target));
    putchar('\n');
}

static void entry(struct ls *ls, struct pl_node *dir, const char *path, const char *name)
{
    struct pl_node *node;
    struct pl_attr attr;
    int r = pl_lookup(ls->w.tree, &ls->w.call, dir, name, &node, &attr);
    if (r < 0) {
        walk_fail(&ls->w, path, r);
        return;
    }
    show(ls, path, name, node, &attr);
    pl_node_unref(node);
}

static void list(struct ls *ls, struct pl_node *dir, const char *path);

static void below(struct ls *ls, struct pl_node *dir, const char *path,
                  const struct walk_list *names)
{
    for (size_t i = 0; i < names->n && !walk_interrupted(); i++) {
        const struct walk_entry *e = &names->v[i];
        struct pl_node *node;
        struct pl_attr attr;
        if ((e->type != DT_DIR && e->type != DT_UNKNOWN) || (*e->name == '.' && !ls->all))
            continue;
        char *sub = walk_join(path, e->name);
        int r = pl_lookup(ls->w.tree, &ls->w.call, dir, e->name, &node, &attr);
        if (r < 0) {
            walk_fail(&ls->w, sub, r);
        } else {
            if (S_ISDIR(node->fmt))
                list(ls, node, sub);
            pl_node_unref(node);
        }
        free(sub);
    }
}

static void list(struct ls *ls, struct pl_node *dir, const char *path)
{
    struct walk_list names;
    char safe[4 * PL_NAME_MAX + 1];
    int r = walk_list(&ls->w, dir, &names);
    if (r < 0) {
        walk_fail(&ls->w, path, r);
        return;
    }
    walk_list_sort(&names);
    if (ls->titles && !ls->json) {
        char *title = malloc(4 * strlen(path) + 1);
        if (title)
            printf("%s%s:\n", ls->printed ? "\n" : "",
                   walk_show(title, 4 * strlen(path) + 1, path));
        free(title);
    }
    ls->printed = true;
    for (size_t i = 0; i < names.n && !walk_interrupted(); i++) {
        const char *name = names.v[i].name;
        if (*name == '.' && !ls->all)
            continue;
        if (!ls->full && !ls->json) {
            puts(walk_show(safe, sizeof(safe), name));
            continue;
        }
        char *sub = walk_join(path, name);
        entry(ls, dir, sub, name);
        free(sub);
    }
    if (ls->recurse && walk_down(&ls->w, path)) {
        below(ls, dir, path, &names);
        walk_up(&ls->w);
    }
    walk_list_free(&names);
}

static void one(struct ls *ls, const char *path)
{
    struct pl_node *node;
    struct pl_attr attr;
    char *safe = malloc(4 * strlen(path) + 1);
    /* As ls(1): with -l a symlink itself, else what it leads to. */
    int r = walk_path(&ls->w, path, !ls->full, &node, &attr);
    if (r < 0) {
        walk_fail(&ls->w, path, r);
    } else {
        if (S_ISDIR(node->fmt))
            list(ls, node, path);
        else if (ls->full || ls->json)
            show(ls, path, path, node, &attr);
        else if (safe)
            puts(walk_show(safe, 4 * strlen(path) + 1, path));
        pl_node_unref(node);
    }
    free(safe);
}

static int run(const struct cmd *self, int argc, char **argv)
{
    struct ls ls = {0};
    bool json = false;
    int o;
    while ((o = cmd_opt(self, argc, argv, "laR", longs)) != -1) {
        ls.full = ls.full || o == 'l';
        ls.all = ls.all || o == 'a';
        ls.recurse = ls.recurse || o == 'R';
        json = json || o == OPT_JSON;
    }
    if (optind == argc)
        cmd_usage(self, "a SPEC is needed");
    int status = walk_open(&ls.w, self, argv[optind++]);
    if (status)
        return status;
    ls.json = json ? json_object_new_array() : NULL;
    ls.titles = ls.recurse || argc - optind > 1;
    if (optind == argc)
        one(&ls, "/");
    for (; optind < argc && !walk_interrupted(); optind++)
        one(&ls, argv[optind]);
    if (ls.json)
        attr_print_json(ls.json);
    status = cmd_flush(self);
    return walk_close(&ls.w) | status;
}

const struct cmd cmd_ls = {
    .name = "ls",
    .args = "[-l] [-a] [-R] [--json] SPEC [PATH...]",
    .summary = "Lists directories of a tree that is not mounted",
    .help = "  -l      with mode, links, owner, group, size and time\n"
            "  -a      names that begin with '.' too\n"
            "  -R      and all below\n"
            "  --json  one array with an object for each file\n\n"
            "Without PATH: the root of the tree.\n",
    .example = "  plenum ls -l '9p:tcp!host1!564' /src\n",
    .run = run,
};
