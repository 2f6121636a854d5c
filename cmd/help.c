/* SPDX-License-Identifier: MIT */
#include "cmd/cmd.h"
#include "cmd/spec.h"
#include "cmd/util.h"
#include <string.h>

static void overview(void)
{
    puts("usage: plenum SUBCOMMAND ...\n\n"
         "User-level file systems and ducts: mounts, serves and joins trees of files.\n");
    for (size_t i = 0; cmd_table[i]; i++)
        printf("  %-8s %s\n", cmd_table[i]->name, cmd_table[i]->summary);
    puts("\nplenum help SUBCOMMAND, plenum help spec, plenum help addr say more.\n"
         "Example:\n  plenum mount /usr/share /mnt && ls /mnt; plenum umount /mnt");
}

static void addr_help(void)
{
    puts("An ADDR names the end of a channel:\n\n"
         "  tcp!HOST[!PORT]    tcp://HOST[:PORT]    TCP, IPv4 and IPv6; neither encrypted nor\n"
         "                                          authenticated: loopback, or a net you trust\n"
         "  tls!HOST[!PORT]    tls://HOST[:PORT]    TLS 1.3 over TCP, both ends known by their\n"
         "                                          certificates or a key: plenum help key\n"
         "  unix!PATH          unix:PATH            a unix socket; by default for this user and\n"
         "                                          root only\n"
         "  vsock!CID[!PORT]   vsock://CID[:PORT]   between a virtual machine and its host\n"
         "  exec!COMMAND       exec:COMMAND         the stdin and stdout of a command, run by sh\n"
         "  stdio                                   our own stdin and stdout\n"
         "  fd!IN,OUT                               descriptors that we were started with\n\n"
         "The port is 564 when it is left out, and a free one when it is 0. '*' as HOST listens\n"
         "everywhere. In a shell in which '!' means something, quote it or use the other form.");
}

static int run(const struct cmd *self, int argc, char **argv)
{
    while (cmd_opt(self, argc, argv, "", NULL) != -1)
        ;
    if (argc - optind > 1)
        cmd_usage(self, "one subcommand, or spec, or addr");
    const char *what = argv[optind];
    if (optind == argc) {
        overview();
    } else if (!strcmp(what, "spec")) {
        spec_help(stdout);
    } else if (!strcmp(what, "addr")) {
        addr_help();
    } else {
        const struct cmd *cmd = cmd_find(what);
        if (!cmd)
            return cmd_unknown("help: ", what);
        cmd_help(cmd, stdout);
    }
    return cmd_flush(self);
}

const struct cmd cmd_help_cmd = {
    .name = "help",
    .args = "[SUBCOMMAND | spec | addr]",
    .summary = "Says how to use the program, a subcommand, SPECs or addresses",
    .example = "  plenum help mount\n",
    .run = run,
};
