/* SPDX-License-Identifier: MIT */
#include "cmd/listening.h"
#include "cmd/pump.h"
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

size_t listening_users(const struct cmd *cmd, const char *text, uid_t *ret, size_t n, size_t max)
{
    char *copy = strdup(text), *rest = copy, *name;
    while (copy && (name = strsep(&rest, ","))) {
        char *end;
        unsigned long id = strtoul(name, &end, 10);
        struct passwd *pw = *name && *end ? getpwnam(name) : NULL;
        if (!*name || (*end && !pw) || id >= (uid_t)-1 || n == max)
            cmd_usage(cmd, "%s: no such user, or too many", *name ? name : text);
        ret[n++] = *end ? pw->pw_uid : (uid_t)id;
    }
    free(copy);
    return n;
}

void listening_check_users(const struct cmd *cmd, const char *addr)
{
    if (strncmp(addr, "unix", 4))
        cmd_usage(cmd, "%s: -a is for unix sockets: nobody else says who connects", addr);
}

void listening_note(const struct cmd *cmd, const char *name, const char *note)
{
    if (note)
        fprintf(stderr, "plenum: %s: %s: %s\n", cmd->name, name, note);
}

void listening_check(const struct cmd *cmd, const char *addr)
{
    struct pl_err err;
    if (chan_check(addr, &err) < 0)
        exit(cmd_wrong(cmd, &err));
}

/* The command in our place. */
static int become(const struct cmd *cmd, const char *peer, int in_fd, int out_fd, char **argv)
{
    /* Out of the way first: one of them may be 0 or 1 itself. */
    int in = fcntl(in_fd, F_DUPFD_CLOEXEC, 3), out = fcntl(out_fd, F_DUPFD_CLOEXEC, 3);
    if (in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0)
        return cmd_fail(cmd, "%s: %s", peer, strerror(errno));
    signal(SIGPIPE, SIG_DFL);
    execvp(argv[0], argv);
    int e = errno;
    if (e == ENOENT && (!strcmp(argv[0], "duct") || !strcmp(argv[0], "plenum")))
        execv("/proc/self/exe", argv);
    cmd_fail(cmd, "%s: %s", argv[0], e == ENOENT ? "no such command" : strerror(e));
    return e == ENOENT ? 127 : 126;
}

/* The command beside us. */
static int carry(const struct cmd *cmd, struct chan *chan, char **argv)
{
    int fds[2], status = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return cmd_fail(cmd, "%s: %s", chan->peer, strerror(errno));
    fflush(NULL);
    signal(SIGCHLD, SIG_DFL);
    pid_t us = getpid(), pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM); /* who ends us means the command */
        if (getppid() != us)
            _exit(126);
        _exit(become(cmd, chan->peer, fds[1], fds[1], argv));
    }
    close(fds[1]);
    if (pid < 0) {
        close(fds[0]);
        chan_close(chan);
        return cmd_fail(cmd, "%s: cannot start a process: %s", chan->peer, strerror(errno));
    }
    pump_run(chan, fds[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int listening_exec(const struct cmd *cmd, struct chan *chan, char **argv)
{
    setenv("PLENUM_CHANNEL", chan->role == CHAN_ACCEPTED ? "accepted" : "dialed", 1);
    setenv("PLENUM_PEER", chan->peer, 1);
    setenv("PLENUM_WHO", chan->who, 1);
    return chan->io ? carry(cmd, chan, argv) : become(cmd, chan->peer, chan->in, chan->out, argv);
}
