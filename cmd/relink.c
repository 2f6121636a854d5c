/* SPDX-License-Identifier: MIT */
/* For the near end of an ssh, which runs it on the far host when its first ssh has died: not in the
 * help. */
#include "cmd/cmd.h"
#include "cmd/holder.h"
#include <signal.h>

enum { OPT_MARKER = 256 };
static const struct option longs[] = {{"marker", required_argument, NULL, OPT_MARKER},
                                      {NULL, 0, NULL, 0}};

static int run(const struct cmd *self, int argc, char **argv)
{
    const char *marker = NULL;
    while (cmd_opt(self, argc, argv, "", longs) != -1)
        marker = optarg;
    if (argc - optind != 1)
        cmd_usage(self, "the token of a plenum that waits here is needed");
    signal(SIGPIPE, SIG_IGN);
    if (marker) {
        printf("%s\n", marker);
        fflush(stdout);
    }
    return holder_relink(argv[optind]);
}

const struct cmd cmd_relink = {
    .name = "relink",
    .args = "TOKEN",
    .summary = "Passes its standard input and output to a plenum that an earlier ssh has started",
    .help = "Run by plenum itself over ssh, when an earlier ssh has died.\n",
    .example = "",
    .run = run,
};
