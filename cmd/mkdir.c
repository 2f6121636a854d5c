/* SPDX-License-Identifier: MIT */
#include "cmd/walk.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int make(struct walk *w, const char *path)
{
    struct pl_node *dir, *node;
    struct pl_attr attr;
    char name[PL_NAME_MAX + 1];
    struct pl_make how = {.mode = S_IFDIR | 0777};
    int r = walk_parent(w, path, &dir, name);
    if (r < 0)
        return r == -EINVAL ? -EEXIST : r; /* "/", "." and ".." are there */
    r = pl_make(w->tree, &w->call, dir, name, &how, &node, &attr);
    pl_node_unref(dir);
    if (r == 0)
        pl_node_unref(node);
    return r;
}

/* Each directory on the way that is not there. */
static int make_all(struct walk *w, char *path)
{
    struct pl_node *node;
    int r = 0;
    for (char *p = path; r == 0 && *p;) {
        p += strspn(p, "/");
        p += strcspn(p, "/");
        char c = *p;
        *p = 0;
        r = make(w, path);
        if (r == -EEXIST)
            r = walk_path(w, path, true, &node, NULL);
        else
            node = NULL;
        if (r == 0 && node) {
            r = S_ISDIR(node->fmt) ? 0 : -ENOTDIR;
            pl_node_unref(node);
        }
        *p = c;
    }
    return r;
}

static int run(const struct cmd *self, int argc, char **argv)
{
    struct walk w;
    bool parents = false;
    while (cmd_opt(self, argc, argv, "p", NULL) != -1)
        parents = true;
    if (argc - optind < 2)
        cmd_usage(self, "a SPEC and a path are needed");
    int status = walk_open(&w, self, argv[optind++]);
    if (status)
        return status;
    mode_t mask = umask(0);
    umask(mask);
    w.call.umask = mask;
    for (; optind < argc && !walk_interrupted(); optind++) {
        int r = parents ? make_all(&w, argv[optind]) : make(&w, argv[optind]);
        if (r < 0)
            walk_fail(&w, argv[optind], r);
    }
    return walk_close(&w);
}

const struct cmd cmd_mkdir = {
    .name = "mkdir",
    .args = "[-p] SPEC PATH...",
    .summary = "Makes directories in a tree that is not mounted",
    .help = "  -p   with those above it; one that is there is no error\n",
    .example = "  plenum mkdir -p '9p:tcp!host1!564' /a/b/c\n",
    .run = run,
};
