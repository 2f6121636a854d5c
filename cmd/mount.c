/* SPDX-License-Identifier: MIT */
#include "cmd/cmd.h"
#include "cmd/mounter.h"

static int run(const struct cmd *self, int argc, char **argv)
{
    struct mounter m = {.prefix = "plenum: mount"};
    struct pl_err err;
    mountopt_init(&m.opts);
    int o;
    while ((o = cmd_opt(self, argc, argv, "fo:", NULL)) != -1) {
        if (o == 'f')
            m.foreground = true;
        else if (mountopt_parse(&m.opts, optarg, &err) < 0)
            return cmd_wrong(self, &err);
    }
    if (argc - optind != 2)
        cmd_usage(self, "a SPEC and a directory are needed");
    m.dir = argv[optind + 1];
    if (spec_parse(argv[optind], &m.spec, &err) < 0)
        return cmd_wrong(self, &err);
    m.text = spec_text(m.spec);
    int status = mounter_run(&m);
    spec_free(m.spec);
    return status;
}

const struct cmd cmd_mount = {
    .name = "mount",
    .args = "[-f] [-o OPT,...] SPEC DIR",
    .summary = "Mounts the tree that SPEC names on the directory DIR",
    .help = "  -f          stays in the foreground; else returns when the mount works\n"
            "  -o OPT,...  mount options:\n\n" MOUNTOPT_HELP
            "\nSPEC: see plenum help spec. Ended by plenum umount DIR.\n",
    .example = "  plenum mount -o ro /usr/share /mnt\n"
               "  plenum mount '9p:tcp!host1!564' /mnt\n",
    .run = run,
};
