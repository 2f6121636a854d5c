/* SPDX-License-Identifier: MIT */
#include "base/limits.h"
#include "cmd/cmd.h"
#include "cmd/spec.h"
#include "cmd/util.h"
#include <string.h>

static void overview(void)
{
    puts("usage: plenum SUBCOMMAND ...\n\n"
         "User-level file systems and ducts: mounts, serves and joins trees of files.\n");
    for (size_t i = 0; cmd_table[i]; i++)
        printf("  %-9s %s\n", cmd_table[i]->name, cmd_table[i]->summary);
    puts("\nplenum help SUBCOMMAND, plenum help spec, addr, access and limits say more.\n"
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

static void access_help(void)
{
    puts(
        "An access file (--access of plenum serve, duct and ssh) says who may attach what, how,\n"
        "and as whom. The first line that fits decides; if none does, the attach is refused.\n\n"
        "  WHO            PATH       ro|rw  AS\n"
        "  cert:laptop    /home/ann  rw     ann\n"
        "  key:backup     /          ro     caller+root\n"
        "  uid:www-data   /srv       rw     caller\n"
        "  ssh            /          rw     map:/etc/plenum/ids\n\n"
        "WHO   what the channel proved: cert:NAME or key:NAME (tls!, see plenum help key), "
        "uid:USER (a\n"
        "      unix socket), ssh; with * and ? a pattern, * alone is everybody\n"
        "PATH  what may be attached, with all beneath it; / is the whole export\n"
        "AS    USER: everything happens as that user; caller: as the user that the client says, "
        "but\n"
        "      root is nobody; caller+root: root too; map:FILE: by a map of ids, of lines\n\n"
        "  uid SERVER:CLIENT[:COUNT]   as in uid 100000:0:65536\n"
        "  gid SERVER:CLIENT[:COUNT]\n"
        "  passwd FILE, group FILE     the clients' /etc/passwd and /etc/group: by name\n"
        "  squash                      root of the clients is nobody\n"
        "  as USER                     everybody is USER\n\n"
        "The same with '=' and commas in the SPEC map(...). Only a server that is root can act as\n"
        "others. docs/access.md says all of it.");
}

static void limits_help(void)
{
    puts("What others may make of us is limited:\n");
#define X(name, value, unit, what)                                                                 \
    printf("  %-15s %11lld %-14s %s\n", #name, value##LL, unit, what);
    LIMITS(X)
#undef X
}

static int run(const struct cmd *self, int argc, char **argv)
{
    while (cmd_opt(self, argc, argv, "", NULL) != -1)
        ;
    if (argc - optind > 1)
        cmd_usage(self, "one subcommand, or spec, addr, access or limits");
    const char *what = argv[optind];
    if (optind == argc) {
        overview();
    } else if (!strcmp(what, "spec")) {
        spec_help(stdout);
    } else if (!strcmp(what, "addr")) {
        addr_help();
    } else if (!strcmp(what, "access")) {
        access_help();
    } else if (!strcmp(what, "limits")) {
        limits_help();
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
    .args = "[SUBCOMMAND | spec | addr | access | limits]",
    .summary =
        "Says how to use the program, a subcommand, SPECs, addresses, access files or limits",
    .example = "  plenum help mount\n",
    .run = run,
};
