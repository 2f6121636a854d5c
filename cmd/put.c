/* SPDX-License-Identifier: MIT */
#include "cmd/copy.h"
#include "cmd/local.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct target {
    struct pl_node *dir;
    char name[PL_NAME_MAX + 1]; /* "": into the directory */
};

/* `path` is a directory to copy into, or the new name of the only source. */
static int find_target(struct walk *w, const char *path, bool several, struct target *t)
{
    struct pl_node *node;
    t->name[0] = 0;
    int r = walk_path(w, path, true, &node, NULL);
    if (r == 0 && S_ISDIR(node->fmt)) {
        t->dir = node;
        return 0;
    }
    if (r == 0)
        pl_node_unref(node);
    if ((r < 0 && r != -ENOENT) || several)
        return r < 0 ? r : -ENOTDIR;
    return walk_parent(w, path, &t->dir, t->name);
}

static int one(const struct cmd *self, struct walk *dst, const struct target *t, const char *local,
               const char *path, struct progress *progress)
{
    struct walk src;
    struct copier c;
    struct local from;
    int status = local_source(&from, self, local);
    if (status == EXIT_OK)
        status = walk_start(&src, self, from.tree);
    if (status == EXIT_OK) {
        const char *name = *t->name ? t->name : from.name;
        char *show = walk_join(path, *t->name || !name ? "" : name);
        if (*t->name || !name)
            show[strlen(path)] = 0;
        char *source = from.name ? from.name : "";
        copy_begin(&c, &src, dst, &source, 1, progress);
        copy_path(&c, source, t->dir, name, show);
        copy_end(&c);
        free(show);
        status = walk_close(&src);
    }
    local_free(&from);
    return status;
}

static int run(const struct cmd *self, int argc, char **argv)
{
    struct walk dst;
    struct target t;
    while (cmd_opt(self, argc, argv, "", NULL) != -1)
        ;
    int n = argc - optind - 1;
    if (n < 1)
        cmd_usage(self, "a SPEC and a file to copy are needed");
    int status = walk_open(&dst, self, argv[optind++]);
    if (status)
        return status;
    const char *path = n > 1 ? argv[argc - 1] : "/";
    int files = n > 1 ? n - 1 : 1;
    int r = find_target(&dst, path, files > 1, &t);
    if (r < 0) {
        walk_fail(&dst, path, r);
        return walk_close(&dst);
    }
    struct progress progress;
    progress_start(&progress);
    for (int i = 0; i < files && !walk_interrupted(); i++)
        status |= one(self, &dst, &t, argv[optind + i], path, &progress);
    progress_stop(&progress);
    pl_node_unref(t.dir);
    status |= walk_close(&dst);
    return walk_interrupted() ? cmd_fail(self, "interrupted") : status;
}

const struct cmd cmd_put = {
    .name = "put",
    .args = "SPEC LOCAL... [PATH]",
    .summary = "Copies files and directories into a tree that is not mounted",
    .help =
        "Directories are copied with all in them; modes, times, symlinks, holes, hard links and\n"
        "extended attributes are kept where the tree takes them. PATH is a directory to copy\n"
        "into, or the new name of one LOCAL; with one LOCAL and no PATH it goes into the root.\n"
        "A file is renamed into place when it is whole. Errors are told, the rest goes on, and\n"
        "the exit status is 1.\n",
    .example = "  plenum put '9p:tcp!host1!564' ./notes ./plan.txt /inbox\n",
    .run = run,
};
