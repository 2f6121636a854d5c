/* SPDX-License-Identifier: MIT */
#include "cmd/cmd.h"
#include "cmd/listening.h"
#include "cmd/util.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define RETRY_MS 100

enum { OPT_ANYONE = 256 };
static const struct option longs[] = {{"once", no_argument, NULL, '1'},
                                      {"allow", required_argument, NULL, 'a'},
                                      {"anyone", no_argument, NULL, OPT_ANYONE},
                                      {NULL, 0, NULL, 0}};

/* The commands that run, to be ended with us. */
static pid_t *children;
static size_t nchildren, room;
static int child_fd = -1;

static void on_child(int sig)
{
    int saved = errno;
    if (write(child_fd, &(uint64_t){1}, 8) < 0)
        _exit(1);
    errno = saved;
}

static void reap(int flags)
{
    uint64_t n;
    if (read(child_fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
        return;
    for (size_t i = 0; i < nchildren;) {
        pid_t r = waitpid(children[i], NULL, flags);
        if (r == 0 || (r < 0 && errno == EINTR))
            i += r == 0;
        else
            children[i] = children[--nchildren];
    }
}

static void spawn(const struct cmd *self, struct chan *chan, char **argv)
{
    if (nchildren == room) {
        pid_t *more = reallocarray(children, room + 64, sizeof(*more));
        if (!more) {
            cmd_fail(self, "%s: out of memory", chan->peer);
            chan_close(chan);
            return;
        }
        children = more;
        room += 64;
    }
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        static const int back[] = {SIGINT, SIGTERM, SIGHUP, SIGCHLD};
        struct sigaction act;
        for (int i = 0; i < 4; i++)
            if (sigaction(back[i], NULL, &act) == 0 && act.sa_handler != SIG_IGN)
                signal(back[i], SIG_DFL);
        _exit(listening_exec(self, chan, argv));
    }
    if (pid < 0)
        cmd_fail(self, "%s: cannot start a process: %s", chan->peer, strerror(errno));
    else
        children[nchildren++] = pid;
    chan_forget(chan);
}

static int loop(const struct cmd *self, struct chan_listener *listener, char **argv)
{
    int stop_fd = util_signals();
    child_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (stop_fd < 0 || child_fd < 0)
        return cmd_fail(self, "%s", strerror(errno));
    struct sigaction act = {.sa_handler = on_child, .sa_flags = SA_RESTART | SA_NOCLDSTOP};
    sigemptyset(&act.sa_mask);
    sigaction(SIGCHLD, &act, NULL);
    bool wait = false;
    for (;;) {
        struct pollfd fds[3] = {{.fd = stop_fd, .events = POLLIN},
                                {.fd = child_fd, .events = POLLIN},
                                {.fd = wait ? -1 : chan_listener_fd(listener), .events = POLLIN}};
        if (poll(fds, 3, wait ? RETRY_MS : -1) < 0 && errno != EINTR)
            return cmd_fail(self, "%s", strerror(errno));
        wait = false;
        if (fds[0].revents)
            break;
        if (fds[1].revents)
            reap(WNOHANG);
        if (!fds[2].revents)
            continue;
        struct chan chan;
        struct pl_err err;
        int r = chan_accept(listener, &chan, &err);
        if (r == 0)
            spawn(self, &chan, argv);
        else if (r != -EAGAIN && r != -EINTR && r != -ECONNABORTED)
            cmd_error(self, &err);
        wait = r == -EMFILE || r == -ENFILE || r == -ENOBUFS || r == -ENOMEM;
    }
    for (size_t i = 0; i < nchildren; i++)
        kill(children[i], SIGTERM);
    reap(0);
    return EXIT_OK;
}

/* The command takes our place, so that its status is ours. */
static int once(const struct cmd *self, struct chan_listener *listener, char **argv)
{
    struct chan chan;
    struct pl_err err;
    int r;
    int stop_fd = util_signals(), fd = chan_listener_fd(listener);
    if (stop_fd < 0)
        return cmd_fail(self, "%s", strerror(errno));
    do {
        struct pollfd fds[2] = {{.fd = stop_fd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return cmd_fail(self, "%s", strerror(errno));
        if (fds[0].revents)
            return EXIT_OK;
        r = fds[1].revents ? chan_accept(listener, &chan, &err) : -EAGAIN;
        if (r == -EACCES)
            cmd_error(self, &err);
    } while (r == -EACCES || r == -ECONNABORTED || r == -EINTR || r == -EAGAIN);
    if (r < 0)
        return cmd_error(self, &err);
    chan_listener_free(listener);
    exit(listening_exec(self, &chan, argv));
}

static int run(const struct cmd *self, int argc, char **argv)
{
    struct chan_listen_opts opts = {0};
    struct chan_listener *listener;
    struct pl_err err;
    uid_t allow[64];
    bool one = false;
    int o;
    while ((o = cmd_opt(self, argc, argv, "+1a:", longs)) != -1) {
        if (o == '1')
            one = true;
        else if (o == OPT_ANYONE)
            opts.anyone = true;
        else
            opts.nallow = listening_users(self, optarg, allow, opts.nallow, 64);
    }
    opts.allow = allow;
    if (argc - optind < 2)
        cmd_usage(self, "an address and a command are needed");
    listening_check(self, argv[optind]);
    if (opts.nallow)
        listening_check_users(self, argv[optind]);
    if (chan_listen(argv[optind], &opts, &listener, &err) < 0)
        return cmd_error(self, &err);
    listening_note(self, chan_listener_name(listener), chan_listener_note(listener));
    util_say("listening on %s", chan_listener_name(listener));
    int status =
        one ? once(self, listener, argv + optind + 1) : loop(self, listener, argv + optind + 1);
    chan_listener_free(listener);
    free(children);
    return status;
}

const struct cmd cmd_listen = {
    .name = "listen",
    .args = "[-1] [-a USER,... | --anyone] ADDR CMD ARG...",
    .summary = "Runs CMD for each connection, which is its standard input and output",
    .help =
        "  -1, --once          runs CMD for the first connection only, and ends with its status\n"
        "  -a, --allow USER,...  who may connect to a unix socket (else this user and root)\n"
        "      --anyone        everybody may\n\n"
        "Ends on SIGINT or SIGTERM, and ends the commands that run then. CMD finds\n"
        "PLENUM_CHANNEL=accepted and PLENUM_PEER in its environment. ADDR: see plenum help addr.\n",
    .example = "  plenum listen 'tcp!*!1127' duct /usr/glenda /n/foo\n",
    .run = run,
};
