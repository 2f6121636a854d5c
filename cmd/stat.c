/* SPDX-License-Identifier: MIT */
#include "cmd/attr.h"
#include "cmd/walk.h"
#include <stdlib.h>
#include <string.h>

enum { OPT_JSON = 256 };
static const struct option longs[] = {{"json", no_argument, NULL, OPT_JSON}, {NULL, 0, NULL, 0}};

static void show(const char *path, const struct pl_attr *a, const char *target)
{
    char mode[11], user[64], group[64], safe[4 * PL_PATH_MAX + 1], t[40];
    printf("  File: %s", walk_show(safe, sizeof(safe), path));
    if (target)
        printf(" -> %s", walk_show(safe, sizeof(safe), target));
    printf("\n  Type: %s\n  Size: %llu (%llu blocks of 512)\n", attr_type(a->mode),
           (unsigned long long)a->size, (unsigned long long)a->blocks);
    printf(" Inode: %llu, links: %llu", (unsigned long long)a->ino, (unsigned long long)a->nlink);
    if (S_ISCHR(a->mode) || S_ISBLK(a->mode))
        printf(", device: %u,%u", a->rdev_major, a->rdev_minor);
    printf("\n  Mode: %04o/%s, uid: %u/%s, gid: %u/%s\n", a->mode & 07777, attr_mode(mode, a->mode),
           a->uid, attr_user(user, a->uid), a->gid, attr_group(group, a->gid));
    printf("Access: %s\n", attr_time(t, &a->atime));
    printf("Modify: %s\n", attr_time(t, &a->mtime));
    printf("Change: %s\n", attr_time(t, &a->ctime));
    printf(" Birth: %s\n", attr_time(t, &a->btime));
}

static void one(struct walk *w, const char *path, bool follow, struct json_object *json)
{
    struct pl_node *node;
    struct pl_attr attr;
    char target[PL_PATH_MAX + 1];
    int n = -1, r = walk_path(w, path, follow, &node, &attr);
    if (r < 0) {
        walk_fail(w, path, r);
        return;
    }
    if (S_ISLNK(node->fmt))
        n = pl_readlink(w->tree, &w->call, node, target, PL_PATH_MAX);
    if (n >= 0)
        target[n] = 0;
    if (json)
        json_object_array_add(json, attr_json(path, &attr, n >= 0 ? target : NULL));
    else
        show(path, &attr, n >= 0 ? target : NULL);
    pl_node_unref(node);
}

static int run(const struct cmd *self, int argc, char **argv)
{
    struct walk w;
    bool json = false, follow = false;
    int o;
    while ((o = cmd_opt(self, argc, argv, "L", longs)) != -1) {
        json = json || o == OPT_JSON;
        follow = follow || o == 'L';
    }
    if (optind == argc)
        cmd_usage(self, "a SPEC is needed");
    int status = walk_open(&w, self, argv[optind++]);
    if (status)
        return status;
    struct json_object *array = json ? json_object_new_array() : NULL;
    if (optind == argc)
        one(&w, "/", follow, array);
    for (; optind < argc && !walk_interrupted(); optind++)
        one(&w, argv[optind], follow, array);
    if (array)
        attr_print_json(array);
    status = cmd_flush(self);
    return walk_close(&w) | status;
}

const struct cmd cmd_stat = {
    .name = "stat",
    .args = "[-L] [--json] SPEC [PATH...]",
    .summary = "Shows the attributes of files of a tree that is not mounted",
    .help = "  -L      follows a symlink\n"
            "  --json  one array with an object for each file\n",
    .example = "  plenum stat --json /srv notes.txt\n",
    .run = run,
};
