/* SPDX-License-Identifier: MIT */
#include "cmd/cmd.h"
#include <plenum/app.h>

static int run(const struct cmd *self, int argc, char **argv)
{
    while (cmd_opt(self, argc, argv, "", NULL) != -1)
        ;
    if (optind < argc)
        cmd_usage(self, "%s: no arguments are taken", argv[optind]);
    printf("plenum %s\n", pl_version());
    return cmd_flush(self);
}

const struct cmd cmd_version = {
    .name = "version",
    .args = "",
    .summary = "Prints the version",
    .example = "  plenum version\n",
    .run = run,
};
