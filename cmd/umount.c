/* SPDX-License-Identifier: MIT */
#include "cmd/cmd.h"
#include "cmd/util.h"
#include "keeper/mount.h"
#include "keeper/registry.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#define PATIENCE_MS 5000 /* -f: so long may a server take before it is killed */
#define LOOK_MS     20   /* ... and how often a duct is looked at meanwhile */
#define AWHILE_MS   250  /* so long a server usually takes at most */

/* The processes behind a mount, held by descriptors so that a pid used anew is never meant. */
struct behind {
    bool duct;
    struct reg_page *page; /* or NULL */
    struct pollfd fds[3];  /* keeper, server, nursery; fd -1: none, or gone */
};

#define BEHIND 3

/* Holds those that are there now; a server may have followed the one of the last look. */
static void hold(struct behind *b)
{
    pid_t pids[BEHIND] = {atomic_load(&b->page->keeper), atomic_load(&b->page->server),
                          atomic_load(&b->page->nursery)};
    for (int i = 0; i < BEHIND; i++) {
        if (b->fds[i].fd >= 0)
            close(b->fds[i].fd);
        b->fds[i].fd = pids[i] > 0 ? pidfd_open(pids[i], 0) : -1;
    }
}

static void look(struct behind *b, const char *dir)
{
    b->page = reg_find(dir);
    if (!b->page)
        return;
    b->duct = !strcmp(b->page->kind, "duct");
    hold(b);
}

static bool any(const struct behind *b)
{
    return b->fds[0].fd >= 0 || b->fds[1].fd >= 0 || b->fds[2].fd >= 0;
}

/* Waits until all are gone: true, or false when the time is over. */
static bool gone(struct behind *b, int timeout_ms)
{
    while (any(b)) {
        int n = poll(b->fds, BEHIND, timeout_ms);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        for (int i = 0; i < BEHIND; i++) {
            if (b->fds[i].fd >= 0 && b->fds[i].revents) {
                close(b->fds[i].fd);
                b->fds[i].fd = -1;
            }
        }
    }
    return true;
}

/* The same for a duct, of which it is enough that this direction has ended. */
static bool ended(struct behind *b, int timeout_ms)
{
    for (; timeout_ms > 0; timeout_ms -= LOOK_MS) {
        if (gone(b, LOOK_MS))
            return true;
        char state[sizeof(b->page->state)];
        memcpy(state, b->page->state, sizeof(state));
        if (!strcmp(state, REG_UNMOUNTED))
            return true;
    }
    return false;
}

static void kill_held(struct behind *b, int i)
{
    if (b->fds[i].fd >= 0)
        pidfd_send_signal(b->fds[i].fd, SIGKILL, NULL, 0);
}

/* Whatever does not end is killed: the server first, so that the keeper can clean up; then all. */
static void wait_forced(struct behind *b)
{
    if (b->duct ? ended(b, PATIENCE_MS) : gone(b, PATIENCE_MS))
        return;
    kill_held(b, 1);
    if (gone(b, PATIENCE_MS))
        return;
    if (b->page)
        hold(b);
    for (int i = 0; i < BEHIND; i++)
        kill_held(b, i);
    gone(b, PATIENCE_MS);
}

/* Waits for the end of what was unmounted here, unless it is to serve another namespace, which may
 * be for ever. */
static void wait_end(const char *dir, dev_t dev, struct behind *b)
{
    pid_t pid = 0;
    while (!gone(b, AWHILE_MS) && !(dev && (pid = mount_elsewhere(dev))))
        ;
    if (pid)
        util_say("%s: not mounted here any more, but where process %d is, in another mount "
                 "namespace: its server goes on for that (plenum umount -f %s ends it)",
                 dir, (int)pid, dir);
}

/* Unmounts, and waits: the exit status. */
static int end(const struct cmd *self, const char *dir, bool force, struct behind *b)
{
    struct pl_err err;
    dev_t dev = 0;
    mount_dev(dir, &dev);
    /* The mount may be gone and a server that hangs still there: an unmount was given up. */
    bool left = !b->duct && any(b);
    int r = mount_end(dir, force, &err);
    if (r == -EINVAL && left && !force)
        return cmd_fail(
            self,
            "%s: not mounted any more, but its processes have not ended (plenum umount -f %s)", dir,
            dir);
    if (r < 0 && !(r == -EINVAL && left))
        return cmd_error(self, &err);
    if (force)
        wait_forced(b);
    else if (!b->duct) /* its other direction may go on for long; these have nothing else to do */
        wait_end(dir, dev, b);
    return EXIT_OK;
}

static int run(const struct cmd *self, int argc, char **argv)
{
    bool force = false;
    struct pl_err err;
    while (cmd_opt(self, argc, argv, "f", NULL) != -1)
        force = true;
    if (argc - optind != 1)
        cmd_usage(self, "one directory is needed");
    char dir[PATH_MAX];
    if (mount_path(argv[optind], dir, &err) < 0)
        return cmd_error(self, &err);
    struct behind b = {.fds = {{.fd = -1, .events = POLLIN},
                               {.fd = -1, .events = POLLIN},
                               {.fd = -1, .events = POLLIN}}};
    look(&b, dir);
    int status = end(self, dir, force, &b);
    reg_put(b.page);
    return status;
}

const struct cmd cmd_umount = {
    .name = "umount",
    .args = "[-f] DIR",
    .summary = "Unmounts DIR and waits until the processes behind it are gone",
    .help = "  -f   also when the server or the peer is dead or hangs, and with open files;\n"
            "       what has not ended by itself after 5 seconds is killed: it takes 15 at most\n\n"
            "A duct whose other direction is still in use goes on with that one, and what is\n"
            "mounted in another mount namespace too (unshare -m, a container, plenum run) is\n"
            "served there: then it says so and does not wait.\n",
    .example = "  plenum umount /mnt\n",
    .run = run,
};
