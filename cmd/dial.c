/* SPDX-License-Identifier: MIT */
#include "cmd/cmd.h"
#include "cmd/listening.h"

static int run(const struct cmd *self, int argc, char **argv)
{
    struct chan chan;
    struct pl_err err;
    while (cmd_opt(self, argc, argv, "+", NULL) != -1)
        ;
    if (argc - optind < 2)
        cmd_usage(self, "an address and a command are needed");
    listening_check(self, argv[optind]);
    if (chan_dial(argv[optind], &chan, &err) < 0)
        return cmd_error(self, &err);
    listening_note(self, chan.peer, chan.note);
    return listening_exec(self, &chan, argv + optind + 1);
}

const struct cmd cmd_dial = {
    .name = "dial",
    .args = "ADDR CMD ARG...",
    .summary = "Runs CMD with a connection to ADDR as its standard input and output",
    .help =
        "The exit status is that of CMD. CMD finds PLENUM_CHANNEL=dialed and PLENUM_PEER in its\n"
        "environment. ADDR: see plenum help addr.\n",
    .example = "  plenum dial 'tcp!host1!1127' duct /usr/inferno /n/bar\n",
    .run = run,
};
