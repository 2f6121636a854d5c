/* SPDX-License-Identifier: MIT */
/*
 * Channels to a command's stdin and stdout.
 *
 * Two pipes and not one socket pair: the command can then close either direction by itself, and can
 * open /dev/stdin. posix_spawn and not fork: the caller may have threads.
 */
#include "base/confine.h"
#include "base/text.h"
#include "channel/addr.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIPE_BYTES (256 * 1024) /* some messages of usual size; the kernel allots as it is used */
#define STOP       1000         /* ms that one gets after SIGTERM of which nothing is wanted */
#define PATIENCE   5000         /* ms that a command gets to end by itself, then after SIGTERM */

extern char **environ;

/* Both ends close-on-exec and above stderr, so that dup2 to 0 and 1 in the child never overlaps. */
static int pipe_high(int fd[2])
{
    if (pipe2(fd, O_CLOEXEC) < 0)
        return -errno;
    for (int i = 0; i < 2; i++) {
        if (fd[i] > 2)
            continue;
        int up = fcntl(fd[i], F_DUPFD_CLOEXEC, 3);
        if (up < 0) {
            int rc = -errno;
            close(fd[0]);
            close(fd[1]);
            return rc;
        }
        close(fd[i]);
        fd[i] = up;
    }
    fcntl(fd[1], F_SETPIPE_SZ, PIPE_BYTES);
    return 0;
}

/* Our environment with PLENUM_CHANNEL=accepted: what runs there was called by us. The service
 * manager is told of us, and not of that. */
static char **child_env(void)
{
    size_t n = 0, out = 0;
    while (environ && environ[n])
        n++;
    char **env = calloc(n + 2, sizeof(*env));
    if (!env)
        return NULL;
    for (size_t i = 0; i < n; i++)
        if (strncmp(environ[i], "PLENUM_CHANNEL=", 15) != 0 &&
            strncmp(environ[i], "PLENUM_WHO=", 11) != 0 &&
            strncmp(environ[i], "NOTIFY_SOCKET=", 14) != 0)
            env[out++] = environ[i];
    env[out] = (char *)"PLENUM_CHANNEL=accepted";
    return env;
}

static int spawn(char *const argv[], bool patient, int in, int out, pid_t *ret)
{
    confine_need(CONFINE_COMMANDS);
    /* What this program ignores or blocks is not the command's business. */
    static const int reset[] = {SIGPIPE, SIGINT, SIGQUIT, SIGHUP, SIGTERM, SIGCHLD, SIGTSTP};
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t attr;
    sigset_t def, blocked;
    int rc = -ENOMEM;
    char **env = child_env();
    if (!env)
        return rc;
    sigemptyset(&blocked);
    if (patient)
        sigaddset(&blocked, SIGINT);
    sigemptyset(&def);
    for (size_t i = 0; i < sizeof(reset) / sizeof(*reset); i++)
        sigaddset(&def, reset[i]);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigdefault(&attr, &def);
    posix_spawnattr_setsigmask(&attr, &blocked);
    posix_spawn_file_actions_init(&fa);
    if (posix_spawn_file_actions_adddup2(&fa, in, 0) == 0 &&
        posix_spawn_file_actions_adddup2(&fa, out, 1) == 0)
        rc = -posix_spawnp(ret, argv[0], &fa, &attr, argv, env);
    posix_spawn_file_actions_destroy(&fa);
    posix_spawnattr_destroy(&attr);
    free(env);
    return rc;
}

/* `name` is for people. */
static int start(char *const argv[], const char *name, bool patient, struct chan *ret,
                 struct pl_err *err)
{
    int to[2] = {-1, -1}, from[2] = {-1, -1};
    memset(ret, 0, sizeof(*ret));
    ret->in = ret->out = -1;
    int rc = pipe_high(to);
    if (rc == 0) {
        rc = pipe_high(from);
        if (rc == 0) {
            rc = spawn(argv, patient, to[0], from[1], &ret->child);
            close(from[1]);
            if (rc < 0)
                close(from[0]);
        }
        close(to[0]);
        if (rc < 0)
            close(to[1]);
    }
    if (rc == -ENOENT)
        return pl_fail(err, rc, "%s: no such program (install it, or give its path)", argv[0]);
    if (rc < 0)
        return pl_fail(err, rc, "%s: cannot run it: %s", argv[0], strerror(-rc));
    ret->in = from[0];
    ret->out = to[1];
    ret->role = CHAN_DIALED;
    ret->uid = (uid_t)-1;
    text_escape(ret->peer, sizeof(ret->peer), name, strlen(name));
    return 0;
}

int addr_exec(const char *command, struct chan *ret, struct pl_err *err)
{
    char *argv[] = {(char *)"/bin/sh", (char *)"-c", (char *)command, NULL};
    char name[160];
    snprintf(name, sizeof(name), "exec!%s", command);
    return start(argv, name, false, ret, err);
}

int chan_exec(char *const argv[], bool patient, struct chan *ret, struct pl_err *err)
{
    char name[160] = "exec!";
    for (size_t i = 0; argv[i] && strlen(name) + 2 < sizeof(name); i++)
        snprintf(name + strlen(name), sizeof(name) - strlen(name), "%s%s", i ? " " : "", argv[i]);
    return start(argv, name, patient, ret, err);
}

/* Waits `ms` (-1: for ever) for the child to end; true if there is nothing left to wait for. */
static bool wait_child(int pidfd, pid_t pid, int ms, int *status)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    pid_t got;
    int n;
    while ((n = poll(&p, 1, pidfd >= 0 || ms < 0 ? ms : 20)) < 0 && errno == EINTR)
        ;
    while ((got = waitpid(pid, status, n == 0 ? WNOHANG : 0)) == 0 && pidfd < 0 && ms > 0) {
        poll(NULL, 0, 20); /* no pidfd: out of descriptors */
        ms -= 20;
    }
    if (got == 0)
        return false;
    if (got < 0)
        *status = 0; /* SIGCHLD is ignored, or somebody else reaped it */
    return true;
}

void chan_forget(struct chan *chan)
{
    if (chan->io)
        (chan->io->forget ? chan->io->forget : chan->io->close)(chan);
    chan->io = NULL;
    chan->child = 0;
    chan_close(chan);
}

static int close_all(struct chan *chan, bool stop)
{
    int status = 0, grace = stop ? STOP : PATIENCE;
    if (chan->io)
        chan->io->close(chan);
    chan->io = NULL;
    if (chan->out >= 0 && chan->out != chan->in)
        close(chan->out);
    if (chan->in >= 0)
        close(chan->in);
    chan->in = chan->out = -1;
    if (chan->also > 0)
        close(chan->also);
    chan->also = 0;
    if (chan->child > 0) {
        int pidfd = pidfd_open(chan->child, 0);
        if (stop || !wait_child(pidfd, chan->child, PATIENCE, &status)) {
            kill(chan->child, SIGTERM);
            if (!wait_child(pidfd, chan->child, grace, &status)) {
                kill(chan->child, SIGKILL);
                wait_child(pidfd, chan->child, -1, &status);
            }
        }
        if (pidfd >= 0)
            close(pidfd);
        chan->child = 0;
    }
    return status;
}

int chan_close(struct chan *chan)
{
    return close_all(chan, false);
}

int chan_stop(struct chan *chan)
{
    return close_all(chan, true);
}
