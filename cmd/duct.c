/* SPDX-License-Identifier: MIT */
#include "cmd/cmd.h"
#include "cmd/ductrun.h"
#include "cmd/listening.h"
#include "cmd/util.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --export, --mount, --marker and --remote are for the far end of `plenum ssh`, which has names for
 * several trees; they are not in the help. */
enum { OPT_EXPORT = 256, OPT_MOUNT, OPT_MARKER, OPT_REMOTE, OPT_ACCESS };
static const struct option longs[] = {{"dial", required_argument, NULL, 'd'},
                                      {"listen", required_argument, NULL, 'l'},
                                      {"exec", required_argument, NULL, 'e'},
                                      {"quiet", no_argument, NULL, 'q'},
                                      {"access", required_argument, NULL, OPT_ACCESS},
                                      {"export", required_argument, NULL, OPT_EXPORT},
                                      {"mount", required_argument, NULL, OPT_MOUNT},
                                      {"marker", required_argument, NULL, OPT_MARKER},
                                      {"remote", no_argument, NULL, OPT_REMOTE},
                                      {NULL, 0, NULL, 0}};

/* The exit status of a bad SPEC, or 0. */
static int add_export(struct duct *d, const char *aname, const char *text)
{
    struct pl_err err;
    if (d->nexports == DUCT_MAX)
        cmd_usage(d->cmd, "more than %d exports", DUCT_MAX);
    struct duct_export *e = &d->exports[d->nexports];
    if (spec_parse(text, &e->spec, &err) < 0)
        return cmd_wrong(d->cmd, &err);
    e->aname = aname;
    d->nexports++;
    return EXIT_OK;
}

static void add_mount(struct duct *d, const char *aname, const char *dir)
{
    if (d->nmounts == DUCT_MAX)
        cmd_usage(d->cmd, "more than %d mounts", DUCT_MAX);
    d->mounts[d->nmounts++] = (struct duct_mount){.aname = aname, .dir = dir};
}

/* Cuts "NAME<c>REST"; usage error without the separator. */
static char *cut(struct duct *d, char *text, char c)
{
    char *at = strchr(text, c);
    if (!at)
        cmd_usage(d->cmd, "%s: a '%c' is missing", text, c);
    *at = 0;
    return at + 1;
}

static void once(struct duct *d, const char **where, const char *value)
{
    if (d->dial || d->listen)
        cmd_usage(d->cmd, "only one of -d, -l and -e can be given");
    *where = value;
}

static int options(struct duct *d, int argc, char **argv)
{
    static char command[16384];
    struct pl_err err;
    int o, status = EXIT_OK;
    char *rest;
    while ((o = cmd_opt(d->cmd, argc, argv, "d:l:e:qo:", longs)) != -1) {
        switch (o) {
        case 'd':
            listening_check(d->cmd, optarg);
            once(d, &d->dial, optarg);
            break;
        case 'l':
            listening_check(d->cmd, optarg);
            once(d, &d->listen, optarg);
            break;
        case 'e':
            if ((size_t)snprintf(command, sizeof(command), "exec!%s", optarg) >= sizeof(command))
                cmd_usage(d->cmd, "-e: the command is longer than %zu bytes", sizeof(command));
            once(d, &d->dial, command);
            break;
        case 'q':
            d->quiet = true;
            break;
        case 'o':
            if (mountopt_parse(&d->opts, optarg, &err) < 0)
                return cmd_wrong(d->cmd, &err);
            break;
        case OPT_ACCESS:
            d->access = util_absolute(optarg); /* for as long as the program runs */
            break;
        case OPT_EXPORT:
            rest = cut(d, optarg, '=');
            status = add_export(d, optarg, rest);
            if (status)
                return status;
            break;
        case OPT_MOUNT:
            rest = cut(d, optarg, ':');
            add_mount(d, optarg, rest);
            break;
        case OPT_MARKER:
            d->token = optarg;
            break;
        case OPT_REMOTE:
            d->remote = d->quiet = true;
            break;
        }
    }
    if (d->token) {
        printf("%s\n", d->token);
        fflush(stdout);
    }
    return EXIT_OK;
}

static int run(const struct cmd *self, int argc, char **argv)
{
    struct duct *d = calloc(1, sizeof(*d));
    if (!d)
        return cmd_fail(self, "out of memory");
    d->cmd = self;
    mountopt_init(&d->opts);
    int status = options(d, argc, argv), n = argc - optind;
    bool named = d->nexports || d->nmounts;
    if (status == EXIT_OK && n != (named ? 0 : 2))
        cmd_usage(self, "EXPORT and DIR are needed ('-' leaves one out)");
    if (status == EXIT_OK && n == 2 && strcmp(argv[optind], "-"))
        status = add_export(d, "", argv[optind]);
    if (status == EXIT_OK && n == 2 && strcmp(argv[optind + 1], "-"))
        add_mount(d, "", argv[optind + 1]);
    if (status == EXIT_OK && !d->nexports && !d->nmounts)
        cmd_usage(self, "nothing to do: EXPORT and DIR are both '-'");
    if (status == EXIT_OK && !d->dial && !d->listen && isatty(0))
        cmd_usage(self, "standard input is a terminal: the other end is named by -d, -l or -e, or "
                        "by plenum dial and listen");
    if (!d->dial && !d->listen)
        d->dial = "stdio";
    if (status == EXIT_OK)
        status = duct_run(d);
    free(d);
    return status;
}

const struct cmd cmd_duct = {
    .name = "duct",
    .args = "[-d ADDR | -l ADDR | -e CMD] [--access FILE] [-q] [-o OPT,...] EXPORT DIR",
    .summary = "Exports a tree and mounts the peer's, both over one channel",
    .help =
        "  -d, --dial ADDR    the channel is a connection to ADDR\n"
        "  -l, --listen ADDR  ... the first one that arrives at ADDR\n"
        "  -e, --exec CMD     ... the standard input and output of CMD, run by sh\n"
        "                     (none of them: our own standard input and output)\n"
        "      --access FILE  what the other end may attach of EXPORT, and as whom (plenum help\n"
        "                     access)\n"
        "  -q, --quiet        does not say what is exported and mounted\n"
        "  -o OPT,...         mount options, as of plenum mount\n\n"
        "EXPORT is a SPEC (plenum help spec), DIR the mount point; '-' leaves a half out. It\n"
        "runs until both directions have ended: ours by plenum umount DIR, the other by its own\n"
        "side. A link that breaks is waited for (-o linger=), if we dialed it or listen for it; "
        "when\n"
        "it is lost, DIR is unmounted and the exit status is 1.\n",
    .example = "  plenum listen 'tcp!*!1127' duct /usr/glenda /n/foo         (on host1)\n"
               "  plenum dial 'tcp!host1!1127' duct /usr/inferno /n/bar      (on the other)\n",
    .run = run,
};
