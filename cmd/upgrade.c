/* SPDX-License-Identifier: MIT */
#include "cmd/cmd.h"
#include "keeper/keeper.h"
#include "keeper/mount.h"
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/vfs.h>

static int run(const struct cmd *self, int argc, char **argv)
{
    struct pl_err err;
    struct statfs sf;
    char dir[PATH_MAX], text[200];
    while (cmd_opt(self, argc, argv, "", NULL) != -1)
        ;
    if (argc - optind != 1)
        cmd_usage(self, "one directory is needed");
    if (mount_path(argv[optind], dir, &err) < 0 || keeper_upgrade(dir, text, &err) < 0)
        return cmd_error(self, &err);
    if (statfs(dir, &sf) < 0) /* it is asked, whatever the kernel knows */
        return cmd_fail(self, "%s: %s, but does not answer: %s", dir, text, strerror(errno));
    printf("%s: %s\n", dir, text);
    return cmd_flush(self);
}

const struct cmd cmd_upgrade = {
    .name = "upgrade",
    .args = "DIR",
    .summary = "Replaces the server of what is mounted at DIR by the installed program",
    .help =
        "While it is in use: nobody sees an error, and what is open stays open. The program is\n"
        "run anew as it was called, from the file that is there now. If that one cannot take\n"
        "over, the old one goes on. Not for a mount that ends with its server (see plenum\n"
        "status --json, \"lasts\").\n",
    .example = "  plenum upgrade /mnt\n",
    .run = run,
};
