/* SPDX-License-Identifier: MIT */
#include "cmd/cmd.h"
#include "cmd/util.h"
#include "keeper/registry.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <time.h>
#include <unistd.h>

#define LOOK_MS  50            /* so often is the ring looked at */
#define AHEAD_NS 2000000000ll /* the server goes on writing for so long without us */

struct tracing {
    const struct cmd *self;
    const char *dir;
    bool found;
    int status;
};

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* Prints what came since `at`; the new position. */
static uint64_t drain(struct reg_page *page, uint64_t at)
{
    uint64_t head = atomic_load_explicit(&page->trace_head, memory_order_acquire);
    static char copy[REG_TRACE_SIZE];
    size_t n = (size_t)(head - at);
    if (head - at <= REG_TRACE_SIZE)
        for (size_t i = 0; i < n; i++)
            copy[i] = page->trace[(at + i) % REG_TRACE_SIZE];
    /* What was overwritten meanwhile is not to be trusted. */
    uint64_t after = atomic_load_explicit(&page->trace_head, memory_order_acquire);
    if (head - at > REG_TRACE_SIZE || after - at > REG_TRACE_SIZE - 4096) {
        fprintf(stderr, "plenum: trace: %llu bytes of lines were lost (too many at once)\n",
                (unsigned long long)(after - at));
        return after;
    }
    fwrite(copy, 1, n, stdout);
    return head;
}

static int follow(void *arg, struct reg_page *page)
{
    struct tracing *t = arg;
    if (strcmp(page->dir, t->dir))
        return 0;
    t->found = true;
    int fd = pidfd_open(atomic_load(&page->server), 0);
    uint64_t at = atomic_load_explicit(&page->trace_head, memory_order_acquire);
    bool gone = fd < 0;
    while (!gone && !ferror(stdout)) {
        atomic_store_explicit(&page->trace_until, now() + AHEAD_NS, memory_order_relaxed);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        gone = poll(&p, 1, LOOK_MS) > 0;
        at = drain(page, at);
        if (fflush(stdout) != 0)
            break;
    }
    if (fd >= 0)
        close(fd);
    t->status = cmd_flush(t->self);
    return 1;
}

static int run(const struct cmd *self, int argc, char **argv)
{
    while (cmd_opt(self, argc, argv, "", NULL) != -1)
        ;
    if (argc - optind != 1)
        cmd_usage(self, "one directory is needed");
    char *dir = util_mountpoint(argv[optind]);
    if (!dir)
        return cmd_fail(self, "%s: %s", argv[optind], strerror(errno));
    struct tracing t = {.self = self, .dir = dir};
    reg_each(follow, &t);
    if (!t.found)
        t.status = cmd_fail(self, "%s: no mount of this user's (plenum status shows them all)",
                            dir);
    free(dir);
    return t.status;
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
