/* SPDX-License-Identifier: MIT */
/*
 * The nursery: makes the servers of a mount that outlives them, one after the other.
 *
 * It was forked before anything was opened, and has done nothing since but sleep in a poll: so each
 * server starts from the same memory. A server shares its table of descriptors with it (clone(2)
 * with CLONE_FILES), so that what is open stays open, under the same number, when the server is
 * killed. Before the next one is made, all is closed that was not there before the first
 * (`base`) and that nobody claims in a ledger.
 *
 * So nothing may stay open here beyond `base` but `pidfd`, and nothing may be called that keeps a
 * descriptor of its own.
 *
 * It ends when the keeper is gone, after it has taken the mounts away. (A keeper that needs no
 * nursery any more kills it.)
 */
#include "base/log.h"
#include "keeper/upgrade.h"
#include "keeper/wire.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif

#define ASIDE    256  /* descriptors below this may be put aside */
#define PATIENCE 5000 /* ms that a server without keeper gets to end */

struct fds {
    int *list;
    size_t n, room;
    bool short_of; /* memory: then nothing is closed */
};

struct nursery {
    const struct keeper_job *job;
    struct kept *mounts;
    int sock, pidfd; /* pidfd: the server's, -1: none */
    pid_t server;
    struct fds base, aside; /* aside: to be closed when the next server has begun */
    const sigset_t *mask;
};

static void add(void *arg, int fd)
{
    struct fds *f = arg;
    if (f->n == f->room) {
        size_t room = f->room ? 2 * f->room : 64;
        int *more = realloc(f->list, room * sizeof(*f->list));
        f->short_of = f->short_of || !more;
        if (!more)
            return;
        f->list = more;
        f->room = room;
    }
    f->list[f->n++] = fd;
}

/* What is open now, but for what an upgrade has brought with it for its server. */
static void note_base(struct nursery *n)
{
    struct fds claimed = {0};
    DIR *d = opendir("/proc/self/fd");
    for (size_t i = 0; i < n->job->nmounts; i++)
        ledger_claims(&n->job->mounts[i].ledger, add, &claimed);
    if (!d)
        n->base.short_of = true;
    for (struct dirent *de; d && (de = readdir(d));) {
        int fd = atoi(de->d_name);
        bool ours = *de->d_name != '.' && fd != dirfd(d);
        for (size_t i = 0; ours && i < claimed.n; i++)
            ours = claimed.list[i] != fd;
        if (ours)
            add(&n->base, fd);
    }
    if (d)
        closedir(d);
    free(claimed.list);
}

static int order(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return x < y ? -1 : x > y;
}

/* To close what watches files takes the kernel some milliseconds. Such descriptors hold nothing
 * that the next server could stumble over, so it need not wait for that: they are put aside. */
static bool put_aside(struct nursery *n, unsigned fd)
{
    struct stat st;
    if (fstat((int)fd, &st) < 0 || (st.st_mode & S_IFMT) != 0)
        return false;
    add(&n->aside, (int)fd);
    return true;
}

/* Closes the descriptors from `next` to before `end`. */
static void close_between(struct nursery *n, unsigned next, unsigned end)
{
    for (unsigned fd = next; fd < end && fd < ASIDE; fd++) {
        if (!put_aside(n, fd))
            continue;
        if (fd > next)
            close_range(next, fd - 1, 0);
        next = fd + 1;
    }
    if (next < end)
        close_range(next, end - 1, 0);
}

static void close_aside(struct nursery *n)
{
    for (size_t i = 0; i < n->aside.n; i++)
        close(n->aside.list[i]);
    n->aside.n = 0;
}

/* Closes what the dead server has left open and nobody claims. */
static void clean(struct nursery *n)
{
    struct fds keep = {0};
    if (n->pidfd >= 0)
        close(n->pidfd);
    n->pidfd = -1;
    for (size_t i = 0; i < n->base.n; i++)
        add(&keep, n->base.list[i]);
    for (size_t i = 0; i < n->job->nmounts; i++)
        ledger_claims(&n->job->mounts[i].ledger, add, &keep);
    if (!keep.short_of && !n->base.short_of && keep.n) {
        qsort(keep.list, keep.n, sizeof(*keep.list), order);
        unsigned next = 0;
        for (size_t i = 0; i < keep.n; i++) {
            unsigned fd = (unsigned)keep.list[i];
            close_between(n, next, fd);
            next = fd + 1 > next ? fd + 1 : next;
        }
        close_between(n, next, ~0u);
    }
    free(keep.list);
}

/* As fork(2), but the child is the keeper's, and the clone's `flags` are the caller's. It is told
 * its thread's number where glibc looks for it, if the kernel says where that is. */
static pid_t child_of_keeper(unsigned long flags, int *ret_pidfd)
{
    int *tid = NULL;
    flags |= CLONE_PARENT | SIGCHLD;
    if (prctl(PR_GET_TID_ADDRESS, &tid) == 0 && tid)
        flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
    /* the fourth and the fifth argument have changed places on some machines; the other one means
     * nothing without CLONE_SETTLS */
    return (pid_t)syscall(SYS_clone, flags, 0, ret_pidfd, tid, tid);
}

static void start(struct nursery *n, struct fdpass *m)
{
    if (m->nfd != 1) {
        fdpass_drop(m);
        return;
    }
    pid_t pid = child_of_keeper(CLONE_FILES | CLONE_PIDFD, &n->pidfd);
    if (pid == 0) {
        free(n->base.list);
        server_signals(n->mask);
        server_run(n->job, n->mounts, m->fd[0]);
    }
    if (pid < 0) {
        n->pidfd = -1;
        wire_say(n->sock, MSG_STARTED, 0, -errno, NULL);
        fdpass_drop(m);
        return;
    }
    n->server = pid;
    wire_say(n->sock, MSG_STARTED, 0, pid, NULL);
}

static void upgrade(struct nursery *n, struct fdpass *m)
{
    if (m->nfd != 1) {
        fdpass_drop(m);
        return;
    }
    pid_t pid = child_of_keeper(0, NULL);
    if (pid == 0) {
        server_signals(n->mask);
        upgrade_exec(n->job, m->fd[0], m->value != 0);
    }
    wire_say(n->sock, MSG_UPGRADED, 0, pid < 0 ? -errno : pid, NULL);
    fdpass_drop(m);
}

static bool server_gone(const struct nursery *n, int timeout_ms)
{
    struct pollfd p = {.fd = n->pidfd, .events = POLLIN};
    return n->pidfd < 0 || poll(&p, 1, timeout_ms) > 0;
}

/* The keeper is gone: the mounts are taken away here, since a server may be dead, stopped, or not
 * allowed to. One that is well ends in good order meanwhile. */
static _Noreturn void orphaned(struct nursery *n)
{
    bool any = false;
    for (size_t i = n->job->nmounts; i-- > 0;) {
        any = any || n->mounts[i].dev;
        if (n->mounts[i].dev)
            mount_end_dev(n->mounts[i].path, n->mounts[i].dev, true, NULL);
    }
    if (any)
        log_say(true, "%s: the keeper was killed: the mounts are taken away", n->job->prefix);
    if (!server_gone(n, PATIENCE))
        pidfd_send_signal(n->pidfd, SIGKILL, NULL, 0);
    _exit(1);
}

static void leave(struct nursery *n)
{
    wire_leave();
    log_background();
    wire_say(n->sock, MSG_LEFT, 0, 0, NULL);
}

static void on_message(struct nursery *n, struct fdpass *m)
{
    switch (m->type) {
    case MSG_START:
        start(n, m);
        break;
    case MSG_PLACE:
        if (m->index < n->job->nmounts)
            n->mounts[m->index].dev = (dev_t)m->value;
        break;
    case MSG_LEAVE:
        leave(n);
        break;
    case MSG_UPGRADE:
        upgrade(n, m);
        break;
    default:
        fdpass_drop(m);
    }
}

_Noreturn void nursery_run(const struct keeper_job *job, struct kept *mounts, int sock,
                           const sigset_t *mask)
{
    struct nursery n = {.job = job, .mounts = mounts, .sock = sock, .pidfd = -1, .mask = mask};
    struct rlimit limit;
    struct fdpass m;
    prctl(PR_SET_NAME, "plenum-nursery");
    /* The table that a server has filled is this process's too: with a lower limit, nothing could
     * be received when it is dead. */
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    note_base(&n);
    for (;;) {
        struct pollfd p = {.fd = sock, .events = POLLIN};
        if (poll(&p, 1, -1) < 0)
            continue;
        /* first of all: a full table has no room for what is to be received */
        if (n.pidfd >= 0 && server_gone(&n, 0))
            clean(&n);
        int rc = fdpass_recv(sock, &m);
        if (rc == 0)
            orphaned(&n);
        if (rc > 0)
            on_message(&n, &m);
        close_aside(&n);
    }
}
