/* SPDX-License-Identifier: MIT */
#include "cmd/local.h"
#include "cmd/copy.h"
#include <errno.h>
#include <plenum/sources.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The tree of the directory that `path` is in, and its last name. */
static int around(struct local *l, const struct cmd *cmd, const char *path)
{
    struct pl_err err;
    size_t n = strlen(path);
    l->name = copy_last_name(path);
    while (n && path[n - 1] == '/')
        n--;
    while (l->name && n && path[n - 1] != '/')
        n--;
    char *dir = !l->name ? strdup(path) : n ? strndup(path, n) : strdup(".");
    int r = dir ? pl_host_open(dir, &l->tree, &err) : -ENOMEM;
    free(dir);
    return r < 0 ? cmd_error(cmd, &err) : EXIT_OK;
}

int local_target(struct local *l, const struct cmd *cmd, const char *path, bool several)
{
    struct stat st;
    struct pl_err err;
    *l = (struct local){0};
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return pl_host_open(path, &l->tree, &err) < 0 ? cmd_error(cmd, &err) : EXIT_OK;
    if (several)
        return cmd_fail(cmd, "%s: not a directory (several files need one to be copied into)",
                        path);
    if (!*path)
        return cmd_fail(cmd, "an empty name to copy to");
    return around(l, cmd, path);
}

int local_source(struct local *l, const struct cmd *cmd, const char *path)
{
    struct stat st;
    *l = (struct local){0};
    if (lstat(path, &st) < 0)
        return cmd_fail(cmd, "%s: %s", path, strerror(errno));
    return around(l, cmd, path);
}

void local_free(struct local *l)
{
    free(l->name);
    l->name = NULL;
}
