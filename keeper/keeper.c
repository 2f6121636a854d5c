/* SPDX-License-Identifier: MIT */
/*
 * The keeper's own process: one thread, one poll, no timeout unless it is ending something.
 *
 * It waits for: signals (signalfd, SIGCHLD among them), the server's messages, and, while starting,
 * the user's process going away. Nothing that could wait for a server is done here: unmounting in
 * an orderly way, which writes back, is the work of a forked child (the ender).
 *
 * A request that was read and not answered holds its caller in D state for as long as anybody has
 * /dev/fuse open. So when the server dies, closing our copies comes first, before all else.
 */
#include "keeper/keeper.h"
#include "base/log.h"
#include "base/notify.h"
#include "keeper/wire.h"
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE                                                                                   \
    10000 /* ms that unmounting, and then the server, get to end; then it is forced                \
           */

enum phase { STARTING, UP, ENDING };

struct keeper {
    const struct keeper_job *job;
    struct kept *m;
    size_t n;
    enum phase phase;
    int user;    /* to the user's process, or -1: in the foreground, or it was told */
    int sock;    /* to the server */
    int signals; /* signalfd */
    pid_t server, ender;
    bool ready;  /* prepare has succeeded */
    bool done;   /* finish has returned */
    bool left;   /* of background: log, do not print */
    bool asked;  /* a signal asked for the end: what fails from then on is no failure */
    bool forced; /* the server was killed by us */
    bool failed; /* text says why */
    bool stop_sent;
    int64_t deadline; /* ms, CLOCK_MONOTONIC; 0: none */
    char text[FDPASS_DATA];
};

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

static void state(struct keeper *k, const char *word)
{
    for (size_t i = 0; i < k->n; i++)
        reg_set_state(k->m[i].page, word);
    notify_state(word, k->n ? k->job->mounts[0].spec : k->job->kind);
}

/* The first failure is the one to tell. */
static void note_failure(struct keeper *k, const char *text)
{
    if (k->failed || k->asked)
        return;
    k->failed = true;
    snprintf(k->text, sizeof(k->text), "%s", text && *text ? text : "failed without saying why");
}

static void close_fuse(struct kept *m)
{
    if (m->fd >= 0)
        close(m->fd);
    m->fd = -1;
}

/* Mount i is no longer served: sees to it that it is away. Does not wait for anybody. */
static void take_away(struct keeper *k, size_t i)
{
    struct kept *m = &k->m[i];
    close_fuse(m);
    if (m->mounted && mount_present(m->dev))
        mount_end_dev(m->path, m->dev, true, NULL);
    m->mounted = false;
}

/* All at once, the descriptors first. */
static void take_all_away(struct keeper *k)
{
    for (size_t i = 0; i < k->n; i++)
        close_fuse(&k->m[i]);
    for (size_t i = k->n; i-- > 0;)
        take_away(k, i);
}

static void send_stop(struct keeper *k)
{
    if (!k->stop_sent && k->ready)
        wire_say(k->sock, MSG_STOP, 0, 0, NULL);
    k->stop_sent = true;
    if (!k->ready && k->server > 0) /* it is still dialing or the like */
        kill(k->server, SIGTERM);
    k->deadline = now_ms() + PATIENCE;
}

static void force(struct keeper *k)
{
    k->forced = true;
    k->deadline = 0;
    if (k->server > 0)
        kill(k->server, SIGKILL);
    take_all_away(k);
}

/* Something failed: the mounts go at once, the server is told to end. */
static void fail(struct keeper *k, const char *text)
{
    note_failure(k, text);
    if (k->phase == ENDING && !k->ender && k->stop_sent)
        return;
    k->phase = ENDING;
    state(k, "ending");
    take_all_away(k);
    send_stop(k);
}

/* In a child: unmounts in an orderly way, what is busy by force. */
static _Noreturn void ender_run(struct keeper *k)
{
    /* our copies would keep a dead server's callers waiting */
    for (size_t i = 0; i < k->n; i++)
        close_fuse(&k->m[i]);
    close(k->sock);
    if (k->user >= 0)
        close(k->user);
    for (size_t i = k->n; i-- > 0;) {
        struct kept *m = &k->m[i];
        if (m->mounted && mount_end_dev(m->path, m->dev, false, NULL) < 0 && mount_present(m->dev))
            mount_end_dev(m->path, m->dev, true, NULL);
    }
    _exit(0);
}

/* The end was asked for. */
static void begin_end(struct keeper *k)
{
    bool any = false;
    k->asked = true;
    k->phase = ENDING;
    state(k, "ending");
    for (size_t i = 0; i < k->n; i++)
        any = any || k->m[i].mounted;
    if (!any) {
        send_stop(k);
        return;
    }
    k->ender = fork();
    if (k->ender == 0)
        ender_run(k);
    k->deadline = now_ms() + PATIENCE;
    if (k->ender < 0) { /* no memory: without the orderly part */
        k->ender = 0;
        take_all_away(k);
        send_stop(k);
    }
}

static void on_ask(struct keeper *k)
{
    if (k->asked)
        force(k);
    else if (k->phase == ENDING)
        k->asked = true; /* a failure is being cleaned up already */
    else
        begin_end(k);
}

/* ---- starting ---- */

static int check_mounts(struct keeper *k, struct pl_err *err)
{
    for (size_t i = 0; i < k->n; i++) {
        const struct keeper_mount *m = &k->job->mounts[i];
        int rc = mount_check(m->dir, m->opts.nonempty, k->m[i].path, err);
        if (rc < 0)
            return rc;
        for (size_t j = 0; j < i; j++) {
            const char *a = k->m[j].path, *b = k->m[i].path;
            size_t na = strlen(a), nb = strlen(b), n = na < nb ? na : nb;
            const char *longer = na < nb ? b : a;
            if (strncmp(a, b, n) == 0 && (longer[n] == 0 || longer[n] == '/' || n == 1))
                return pl_fail(err, -EINVAL,
                               "%s: is to be mounted together with %s (neither may "
                               "lie in the other)",
                               b, a);
        }
    }
    return 0;
}

static int register_all(struct keeper *k, struct pl_err *err)
{
    for (size_t i = 0; i < k->n; i++) {
        struct keeper_mount *m = &k->job->mounts[i];
        if (reg_add(k->job->kind, k->m[i].path, m->spec, &k->m[i].entry, &k->m[i].page) == -ENOMEM)
            return pl_fail(err, -ENOMEM, "out of memory");
        atomic_store(&k->m[i].page->keeper, getpid());
        m->page = k->m[i].page;
    }
    return 0;
}

/* The descriptors that this process was started with, but for the standard ones; -1 ends them. */
static int *inherited(void)
{
    DIR *d = opendir("/proc/self/fd");
    size_t n = 0, room = 64;
    int *list = malloc(room * sizeof(*list));
    for (struct dirent *de; d && list && (de = readdir(d));) {
        int fd = atoi(de->d_name);
        if (fd <= 2 || fd == dirfd(d))
            continue;
        if (n + 2 > room) {
            int *more = realloc(list, 2 * room * sizeof(*list));
            if (!more)
                break;
            list = more;
            room *= 2;
        }
        list[n++] = fd;
    }
    if (d)
        closedir(d);
    if (list)
        list[n] = -1;
    return list;
}

static int start_server(struct keeper *k, const int *given, const sigset_t *old_mask,
                        struct pl_err *err)
{
    int pair[2];
    int rc = fdpass_pair(pair);
    if (rc < 0)
        return pl_fail(err, rc, "no socket: %s", strerror(-rc));
    fflush(NULL);
    k->server = fork();
    if (k->server < 0) {
        rc = -errno;
        close(pair[0]);
        close(pair[1]);
        k->server = 0;
        return pl_fail(err, rc, "cannot start the server process: %s", strerror(-rc));
    }
    if (k->server == 0) {
        close(pair[0]);
        close(k->signals);
        if (k->user >= 0)
            close(k->user);
        signal(SIGINT, SIG_IGN); /* Ctrl-C reaches the keeper, which decides */
        signal(SIGHUP, SIG_IGN);
        signal(SIGTERM, SIG_DFL);
        signal(SIGPIPE, SIG_IGN);
        sigprocmask(SIG_SETMASK, old_mask, NULL);
        server_run(k->job, k->m, pair[1]);
    }
    close(pair[1]);
    k->sock = pair[0];
    fcntl(k->sock, F_SETFL, O_NONBLOCK); /* so that it can be drained */
    for (size_t i = 0; i < k->n; i++)
        atomic_store(&k->m[i].page->server, k->server);
    /* the ends of channels are the server's now */
    for (; given && *given >= 0; given++)
        close(*given);
    wire_null_stdio(false);
    return 0;
}

/* The kernel reads 128 KiB ahead by itself, which is one request: with more it asks for the next
 * while the last is used. Only root may set it, and without it everything works. */
static void read_ahead(dev_t dev)
{
    char path[64];
    snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(dev), minor(dev));
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (write(fd, "4096", 4) < 0)
        errno = 0;
    close(fd);
}

static int make_mounts(struct keeper *k, struct pl_err *err)
{
    for (size_t i = 0; i < k->n; i++) {
        struct kept *m = &k->m[i];
        struct mount_opts opts = k->job->mounts[i].opts;
        if (!opts.source)
            opts.source = k->job->mounts[i].spec;
        int rc = mount_fuse(m->path, &opts, &m->fd, err);
        if (rc == 0) {
            rc = mount_dev(m->path, &m->dev);
            if (rc < 0)
                pl_fail(err, rc, "%s: went away as soon as it was mounted", m->path);
        }
        if (rc < 0)
            return rc;
        m->mounted = true;
        read_ahead(m->dev);
    }
    return 0;
}

static void hand_over(struct keeper *k)
{
    for (size_t i = 0; i < k->n; i++) {
        struct fdpass m = {.type = MSG_MOUNT,
                           .index = (uint32_t)i,
                           .value = (int64_t)k->m[i].dev,
                           .nfd = 1,
                           .fd = {k->m[i].fd}};
        fdpass_send(k->sock, &m);
    }
    wire_say(k->sock, MSG_GO, 0, 0, NULL);
}

static void tell_user(struct keeper *k, int status, const char *text)
{
    if (k->user < 0)
        return;
    wire_say(k->user, MSG_RESULT, 0, status, text);
    close(k->user);
    k->user = -1;
}

/* Every mount has answered (or is gone again). */
static void now_up(struct keeper *k)
{
    if (k->phase != STARTING)
        return;
    k->phase = UP;
    state(k, "up");
    if (k->user < 0)
        return;
    /* The server first: when the user's process returns, nobody holds the terminal any more. */
    wire_say(k->sock, MSG_LEAVE, 0, 0, NULL);
}

static void now_left(struct keeper *k)
{
    setsid();
    if (chdir("/") < 0)
        note_failure(k, "/: cannot be entered");
    fflush(NULL);
    wire_null_stdio(true);
    log_background();
    k->left = true;
    tell_user(k, 0, NULL);
}

static void look_whether_up(struct keeper *k)
{
    for (size_t i = 0; i < k->n; i++)
        if (!k->m[i].up && !k->m[i].gone)
            return;
    now_up(k);
}

static void on_ready(struct keeper *k, const struct fdpass *m)
{
    struct pl_err err = {0};
    if (m->value < 0) {
        note_failure(k, m->data); /* it exits now */
        return;
    }
    k->ready = true;
    if (k->phase == ENDING) {
        k->stop_sent = false;
        send_stop(k);
    } else if (m->value > 0) {
        for (size_t i = 0; i < k->n; i++) {
            k->m[i].gone = true;
            memset(k->m[i].page->dir, 0, sizeof(k->m[i].page->dir));
        }
        now_up(k);
    } else if (make_mounts(k, &err) < 0) {
        fail(k, err.text);
    } else {
        hand_over(k);
        look_whether_up(k);
    }
}

/* ---- running ---- */

static void on_message(struct keeper *k, struct fdpass *m)
{
    struct kept *mount = m->index < k->n ? &k->m[m->index] : NULL;
    switch (m->type) {
    case MSG_READY:
        on_ready(k, m);
        break;
    case MSG_UP:
        if (mount)
            mount->up = true;
        look_whether_up(k);
        break;
    case MSG_GONE:
        if (!mount)
            break;
        mount->gone = true;
        take_away(k, m->index);
        if (m->value == 0 && k->phase == UP)
            reg_set_state(mount->page, REG_UNMOUNTED);
        if (m->value < 0)
            fail(k, m->data);
        look_whether_up(k);
        break;
    case MSG_DONE:
        k->done = true;
        if (m->value < 0)
            note_failure(k, m->data);
        break;
    case MSG_LEFT:
        now_left(k);
        break;
    default:
        fdpass_drop(m);
    }
}

/* All that has come; false when the other end is closed. */
static bool drain(struct keeper *k)
{
    struct fdpass m;
    int rc;
    while ((rc = fdpass_recv(k->sock, &m)) > 0)
        on_message(k, &m);
    return rc == -EAGAIN;
}

static void server_ended(struct keeper *k, int status)
{
    char text[200];
    k->server = 0;
    k->deadline = 0;
    for (size_t i = 0; i < k->n; i++)
        close_fuse(&k->m[i]); /* frees every waiting caller, before anything else */
    drain(k);
    take_all_away(k);
    for (size_t i = 0; i < k->n; i++)
        atomic_store(&k->m[i].page->server, 0);
    if (k->forced)
        snprintf(text, sizeof(text), "the server did not end by itself and was killed");
    else if (WIFSIGNALED(status))
        snprintf(text, sizeof(text), "the server was killed by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else if (!k->done || WEXITSTATUS(status))
        snprintf(text, sizeof(text), "the server ended unexpectedly with status %d",
                 WEXITSTATUS(status));
    else
        return;
    note_failure(k, text);
}

static void ender_ended(struct keeper *k)
{
    k->ender = 0;
    for (size_t i = 0; i < k->n; i++) {
        struct kept *m = &k->m[i];
        if (m->mounted && mount_present(m->dev))
            mount_end_dev(m->path, m->dev, true, NULL);
        close_fuse(m);
        m->mounted = false;
    }
    send_stop(k);
}

static void reap(struct keeper *k)
{
    int status;
    if (k->ender > 0 && waitpid(k->ender, &status, WNOHANG) == k->ender)
        ender_ended(k);
    if (k->server > 0 && waitpid(k->server, &status, WNOHANG) == k->server)
        server_ended(k, status);
}

static void on_signals(struct keeper *k)
{
    struct signalfd_siginfo si;
    while (read(k->signals, &si, sizeof(si)) == sizeof(si))
        if (si.ssi_signo != SIGCHLD)
            on_ask(k);
    reap(k);
}

static void on_deadline(struct keeper *k)
{
    bool asked = k->asked;
    k->asked = false; /* that it had to be killed is worth a word */
    note_failure(k, "the server did not end within 10 seconds and was killed");
    k->asked = asked;
    force(k);
}

static void loop(struct keeper *k)
{
    bool open = true;
    while (k->server > 0 || k->ender > 0) {
        int64_t left = k->deadline ? k->deadline - now_ms() : -1;
        struct pollfd p[3] = {
            {.fd = k->signals, .events = POLLIN},
            {.fd = open ? k->sock : -1, .events = POLLIN},
            /* only its going away is of interest */
            {.fd = k->phase != ENDING ? k->user : -1, .events = POLLIN},
        };
        if (k->deadline && left <= 0) {
            on_deadline(k);
            continue;
        }
        if (poll(p, 3, (int)left) < 0 && errno != EINTR && errno != EAGAIN)
            assert(!"poll of our own descriptors");
        if (p[0].revents)
            on_signals(k);
        if (p[1].revents && open)
            open = drain(k);
        if (p[2].revents && k->user >= 0 && k->phase != ENDING)
            on_ask(k);
    }
}

/* In the keeper's process: the whole job; its exit status. */
static int keep(struct keeper *k, const int *given)
{
    struct pl_err err = {0};
    sigset_t mask, old;
    signal(SIGCHLD, SIG_DFL); /* ignored, the children could not be waited for */
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&mask);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGHUP);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, &old);
    k->signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    prctl(PR_SET_NAME, "plenum-keeper");

    int rc = k->signals < 0 ? pl_fail(&err, -errno, "no signalfd: %s", strerror(errno))
                            : check_mounts(k, &err);
    if (rc == 0)
        rc = register_all(k, &err);
    if (rc == 0)
        rc = start_server(k, given, &old, &err);
    if (rc < 0)
        note_failure(k, err.text);
    else
        loop(k);
    for (size_t i = 0; i < k->n; i++)
        reg_del(k->m[i].entry);
    if (k->sock >= 0)
        close(k->sock);
    if (k->signals >= 0)
        close(k->signals);
    if (k->failed && k->user < 0)
        log_say(true, "%s: %s", k->job->prefix, k->text);
    tell_user(k, k->failed, k->failed ? k->text : NULL);
    sigprocmask(SIG_SETMASK, &old, NULL);
    return k->failed;
}

/* In the user's process: waits for the keeper's word. */
static int wait_word(const struct keeper_job *job, int sock, pid_t keeper)
{
    struct fdpass m;
    int status;
    if (fdpass_recv(sock, &m) > 0 && m.type == MSG_RESULT) {
        if (m.len)
            log_say(true, "%s: %s", job->prefix, m.data);
        if (m.value) /* it is ending: leave nothing behind */
            waitpid(keeper, &status, 0);
        return (int)m.value;
    }
    log_say(true, "%s: the keeper ended unexpectedly", job->prefix);
    waitpid(keeper, &status, 0);
    return 1;
}

static int in_background(struct keeper *k)
{
    int *given = inherited(), pair[2];
    int rc = fdpass_pair(pair);
    fflush(NULL);
    pid_t pid = rc < 0 ? -1 : fork();
    if (pid == 0) {
        close(pair[0]);
        k->user = pair[1];
        _exit(keep(k, given));
    }
    if (pid < 0) {
        log_say(true, "%s: cannot start the keeper: %s", k->job->prefix,
                strerror(rc < 0 ? -rc : errno));
        free(given);
        return 1;
    }
    close(pair[1]);
    rc = wait_word(k->job, pair[0], pid);
    close(pair[0]);
    free(given);
    return rc;
}

int keeper_run(const struct keeper_job *job)
{
    struct keeper k = {.job = job, .n = job->nmounts, .user = -1, .sock = -1, .signals = -1};
    k.m = calloc(k.n ? k.n : 1, sizeof(*k.m));
    if (!k.m) {
        log_say(true, "%s: out of memory", job->prefix);
        return 1;
    }
    for (size_t i = 0; i < k.n; i++)
        k.m[i].fd = -1;
    int status;
    if (job->foreground) {
        int *given = inherited();
        status = keep(&k, given);
        free(given);
    } else {
        status = in_background(&k);
    }
    free(k.m);
    return status;
}
