/* SPDX-License-Identifier: MIT */
#include "cmd/cmd.h"
#include "keeper/mount.h"
#include "keeper/registry.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#define LOOK_MS  50           /* so often is the ring looked at */
#define AHEAD_NS 2000000000ll /* the server goes on for so long without us */

static void follow(struct reg_page *page)
{
    static char buf[256 << 10];
    uint64_t pos = atomic_load(&page->trace_head);
    int fd = pidfd_open(atomic_load(&page->server), 0);
    bool gone = fd < 0, ok = true;
    while (!gone && ok) {
        size_t n;
        bool lost = false;
        reg_trace_ask(page, AHEAD_NS);
        gone = poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, LOOK_MS) > 0;
        while (ok && (n = reg_trace_read(page, &pos, buf, sizeof(buf), &lost)) > 0)
            ok = fwrite(buf, 1, n, stdout) == n;
        if (lost)
            fprintf(stderr, "plenum: trace: lines were lost (too many at once)\n");
        ok = ok && fflush(stdout) == 0;
    }
    if (fd >= 0)
        close(fd);
}

static int run(const struct cmd *self, int argc, char **argv)
{
    while (cmd_opt(self, argc, argv, "", NULL) != -1)
        ;
    if (argc - optind != 1)
        cmd_usage(self, "one directory is needed");
    char dir[PATH_MAX];
    struct pl_err err;
    if (mount_path(argv[optind], dir, &err) < 0)
        return cmd_error(self, &err);
    struct reg_page *page = reg_find(dir);
    int status = EXIT_OK;
    if (page)
        follow(page);
    else
        status = cmd_fail(self, "%s: no mount of this user's (plenum status shows them all)", dir);
    reg_put(page);
    return status ? status : cmd_flush(self);
}

const struct cmd cmd_trace = {
    .name = "trace",
    .args = "DIR",
    .summary = "Prints the operations of a mount as they happen",
    .help = "A line for each: time, process, user, operation, object and arguments, result. Ends\n"
            "on Ctrl-C or when the mount ends.\n",
    .example = "  plenum trace /mnt\n",
    .run = run,
};
