/* SPDX-License-Identifier: MIT */
#include "cmd/walk.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static void remove_tree(struct walk *w, struct pl_node *dir, const char *name, const char *path);

static void empty(struct walk *w, struct pl_node *dir, const char *path)
{
    struct walk_list names;
    if (!walk_down(w, path))
        return;
    int r = walk_list(w, dir, &names);
    if (r < 0)
        walk_fail(w, path, r);
    for (size_t i = 0; i < names.n && !walk_interrupted(); i++) {
        char *sub = walk_join(path, names.v[i].name);
        remove_tree(w, dir, names.v[i].name, sub);
        free(sub);
    }
    walk_list_free(&names);
    walk_up(w);
}

static void remove_tree(struct walk *w, struct pl_node *dir, const char *name, const char *path)
{
    /* Tried as a file first: it saves a look at each. */
    int r = pl_remove(w->tree, &w->call, dir, name, 0);
    if (r == -EISDIR || r == -EPERM || r == -ENOTEMPTY) { /* NFS-Ganesha tries both */
        struct pl_node *node;
        struct pl_attr attr;
        int look = pl_lookup(w->tree, &w->call, dir, name, &node, &attr);
        if (look == 0 && S_ISDIR(node->fmt)) {
            empty(w, node, path);
            r = pl_remove(w->tree, &w->call, dir, name, AT_REMOVEDIR);
        }
        if (look == 0)
            pl_node_unref(node);
    }
    if (r < 0 && !(r == -ENOTEMPTY && w->failed)) /* told of what was left in it */
        walk_fail(w, path, r);
}

/* What is wrong, or 0; what is wrong below has been told. */
static int one(struct walk *w, const char *path, bool recurse)
{
    struct pl_node *dir, *node;
    char name[PL_NAME_MAX + 1];
    int r = walk_parent(w, path, &dir, name);
    if (r < 0)
        return r;
    if (recurse) {
        r = pl_lookup(w->tree, &w->call, dir, name, &node, &(struct pl_attr){0});
        if (r == 0) {
            pl_node_unref(node);
            remove_tree(w, dir, name, path);
        }
    } else {
        r = pl_remove(w->tree, &w->call, dir, name, 0);
    }
    pl_node_unref(dir);
    return r;
}

static int run(const struct cmd *self, int argc, char **argv)
{
    struct walk w;
    bool recurse = false, force = false;
    int o;
    while ((o = cmd_opt(self, argc, argv, "rf", NULL)) != -1) {
        recurse = recurse || o == 'r';
        force = force || o == 'f';
    }
    if (argc - optind < 2)
        cmd_usage(self, "a SPEC and a path are needed");
    int status = walk_open(&w, self, argv[optind++]);
    if (status)
        return status;
    for (; optind < argc && !walk_interrupted(); optind++) {
        int r = one(&w, argv[optind], recurse);
        if (r == -EISDIR) {
            walk_say(&w, argv[optind], "is a directory (-r removes it with all in it)");
        } else if (r == -EINVAL) {
            walk_say(&w, argv[optind], "has no name of its own (the root, \".\" and \"..\" stay)");
        } else if (r < 0 && !(force && r == -ENOENT)) {
            walk_fail(&w, argv[optind], r);
        }
    }
    return walk_close(&w);
}

const struct cmd cmd_rm = {
    .name = "rm",
    .args = "[-r] [-f] SPEC PATH...",
    .summary = "Removes files from a tree that is not mounted",
    .help = "  -r   directories too, with all in them\n"
            "  -f   what is not there is no error\n",
    .example = "  plenum rm -r '9p:tcp!host1!564' /old\n",
    .run = run,
};
