/* SPDX-License-Identifier: MIT */
#include "cmd/copy.h"
#include "cmd/local.h"
#include <stdlib.h>

static int run(const struct cmd *self, int argc, char **argv)
{
    struct walk src, dst;
    while (cmd_opt(self, argc, argv, "", NULL) != -1)
        ;
    int n = argc - optind - 1;
    if (n < 1)
        cmd_usage(self, "a SPEC and a path are needed");
    const char *spec = argv[optind++], *local = n > 1 ? argv[argc - 1] : ".";
    size_t paths = n > 1 ? (size_t)n - 1 : 1;
    struct local to;
    int status = walk_open(&src, self, spec);
    if (status)
        return status;
    status = local_target(&to, self, local, paths > 1);
    if (status == EXIT_OK)
        status = walk_start(&dst, self, to.tree);
    if (status) {
        local_free(&to);
        walk_close(&src);
        return status;
    }
    struct copier c;
    struct progress progress;
    progress_start(&progress);
    copy_begin(&c, &src, &dst, argv + optind, paths, &progress);
    for (size_t i = 0; i < paths && !walk_interrupted(); i++) {
        char *last = copy_last_name(argv[optind + (int)i]);
        /* LOCAL is a new name, or a directory to copy into. */
        const char *name = to.name ? to.name : last;
        char *show = walk_join(local, name && !to.name ? name : "");
        copy_path(&c, argv[optind + (int)i], dst.root, name, to.name ? local : show);
        free(show);
        free(last);
    }
    copy_end(&c);
    progress_stop(&progress);
    local_free(&to);
    status = walk_close(&src) | walk_close(&dst);
    return walk_interrupted() ? cmd_fail(self, "interrupted") : status;
}

const struct cmd cmd_get = {
    .name = "get",
    .args = "SPEC PATH... [LOCAL]",
    .summary = "Copies files and directories out of a tree that is not mounted",
    .help =
        "Directories are copied with all in them; modes, times, symlinks, holes, hard links and\n"
        "extended attributes are kept. LOCAL is a directory to copy into (without it, the\n"
        "current one), or the new name of one PATH. A file is renamed into place when it is\n"
        "whole. Errors are told, the rest goes on, and the exit status is 1.\n",
    .example = "  plenum get ssh:host1:/home/me project/notes ./notes\n",
    .run = run,
};
