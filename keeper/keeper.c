/* SPDX-License-Identifier: MIT */
/*
 * The keeper's own process: one thread, one poll, no timeout unless something is due: an end, the
 * next try of a server, the next look at one that may hang.
 *
 * It waits for: signals (signalfd, SIGCHLD among them), the messages of the server and of the
 * nursery, and, while starting, the user's process going away; while no server reads, the devices.
 * Nothing that could wait for a server is done here: unmounting in an orderly way, which writes
 * back, is the work of a forked child (the ender).
 *
 * A request that was read and not answered holds its caller in D state for as long as anybody has
 * /dev/fuse open. So when the server dies and there is no next one, closing our copies comes first,
 * before all else.
 */
#include "keeper/keeper.h"
#include "base/futex.h"
#include "base/log.h"
#include "base/notify.h"
#include "keeper/nested.h"
#include "keeper/state.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE                                                                                   \
    10000 /* ms that unmounting, and then the server, get to end; then it is forced                \
           */

void wait_for(struct waits *w, int fd, short events, wait_fn *fn, void *arg)
{
    if (fd < 0)
        return;
    if (w->n == w->room) {
        size_t room = w->room ? 2 * w->room : 16;
        struct pollfd *p = realloc(w->p, room * sizeof(*p));
        w->p = p ? p : w->p;
        struct waiter *waiter = p ? realloc(w->waiter, room * sizeof(*waiter)) : NULL;
        w->waiter = waiter ? waiter : w->waiter;
        if (!p || !waiter)
            abort(); /* a keeper that does not hear is worse than none: the server takes over */
        w->room = room;
    }
    w->p[w->n] = (struct pollfd){.fd = fd, .events = events};
    w->waiter[w->n++] = (struct waiter){fn, arg};
}

void wait_until(struct waits *w, int64_t at)
{
    if (at && at < w->until)
        w->until = at;
}

void keeper_state(struct keeper *k, const char *word)
{
    for (size_t i = 0; i < k->n; i++)
        if (!k->m[i].gone || k->phase != UP)
            reg_set_state(k->m[i].page, word);
    notify_state(word, k->n ? k->job->mounts[0].spec : k->job->kind);
}

void keeper_note(struct keeper *k, const char *text)
{
    if (k->failed || k->asked)
        return;
    k->failed = true;
    snprintf(k->text, sizeof(k->text), "%s", text && *text ? text : "failed without saying why");
}

static void close_fuse(struct kept *m)
{
    nested_end(m);
    stand_in_close(m);
    if (m->fd >= 0)
        close(m->fd);
    m->fd = -1;
}

void keeper_take_away(struct keeper *k, size_t i)
{
    struct kept *m = &k->m[i];
    close_fuse(m);
    if (m->mounted && mount_present(m->dev))
        mount_end_dev(m->path, m->dev, true, NULL);
    if (m->mounted && k->life.nurse >= 0)
        wire_say(k->life.nurse, MSG_PLACE, i, 0, NULL);
    m->mounted = false;
}

/* All at once, the descriptors first. */
static void take_all_away(struct keeper *k)
{
    if (k->server == 0 && !k->life.begun)
        life_dismiss(k); /* it shares the table of a dead server */
    for (size_t i = 0; i < k->n; i++)
        close_fuse(&k->m[i]);
    for (size_t i = k->n; i-- > 0;)
        keeper_take_away(k, i);
}

static void send_stop(struct keeper *k)
{
    if (!k->stop_sent && k->ready)
        wire_say(k->sock, MSG_STOP, 0, 0, NULL);
    k->stop_sent = true;
    if (!k->ready && k->server > 0) /* it is still dialing or the like */
        kill(k->server, SIGTERM);
    k->deadline = mono_ms() + PATIENCE;
}

static void force(struct keeper *k)
{
    k->forced = true;
    k->deadline = 0;
    if (k->server > 0)
        kill(k->server, SIGKILL);
    take_all_away(k);
}

void keeper_fail(struct keeper *k, const char *text)
{
    keeper_note(k, text);
    if (k->phase == ENDING && !k->ender && k->stop_sent)
        return;
    k->phase = ENDING;
    keeper_state(k, "ending");
    take_all_away(k);
    send_stop(k);
}

void keeper_let_go(struct keeper *k)
{
    /* our copies would keep a dead server's callers waiting */
    for (size_t i = 0; i < k->n; i++)
        close_fuse(&k->m[i]);
    int fds[] = {k->sock,        k->user,      k->signals,  k->life.nurse,
                 k->up.listener, k->up.client, k->up.nurse, k->up.old_nurse};
    for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* In a child: unmounts in an orderly way, what is busy by force. */
static _Noreturn void ender_run(struct keeper *k)
{
    keeper_let_go(k);
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
    keeper_state(k, "ending");
    for (size_t i = 0; i < k->n; i++)
        any = any || k->m[i].mounted;
    if (k->server == 0 && !k->life.begun) { /* between two tries */
        take_all_away(k);
        return;
    }
    if (!any) {
        send_stop(k);
        return;
    }
    k->ender = fork();
    if (k->ender == 0)
        ender_run(k);
    k->deadline = mono_ms() + PATIENCE;
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

void keeper_send_mounts(struct keeper *k)
{
    for (size_t i = 0; i < k->n; i++) {
        if (k->m[i].fd < 0)
            continue;
        struct fdpass m = {.type = MSG_MOUNT,
                           .index = (uint32_t)i,
                           .value = (int64_t)k->m[i].dev,
                           .nfd = 1,
                           .fd = {k->m[i].fd}};
        fdpass_send(k->sock, &m);
    }
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
    keeper_state(k, "up");
    k->phase = UP;
    if (k->life.lasts)
        control_open(k);
    if (k->user < 0)
        return;
    /* The others first: when the user's process returns, nobody holds the terminal any more. */
    life_leave(k);
}

void keeper_left(struct keeper *k)
{
    wire_leave();
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

/* The first server can go on: mounts. */
static void on_first_ready(struct keeper *k, const struct fdpass *m)
{
    struct pl_err err = {0};
    life_ready(k, m->index == 1 && m->value == 0);
    if (k->phase == ENDING) {
        k->stop_sent = false;
        send_stop(k);
    } else if (m->value > 0) {
        for (size_t i = 0; i < k->n; i++) {
            k->m[i].gone = true;
            memset(k->m[i].page->dir, 0, sizeof(k->m[i].page->dir));
        }
        now_up(k);
    } else if (start_mounts(k, &err) < 0) {
        keeper_fail(k, err.text);
    } else {
        for (size_t i = 0; i < k->n; i++)
            wire_say(k->life.nurse, MSG_PLACE, i, (int64_t)k->m[i].dev, NULL);
        keeper_send_mounts(k);
        wire_say(k->sock, MSG_GO, 0, 0, NULL);
        look_whether_up(k);
    }
}

static void on_ready(struct keeper *k, const struct fdpass *m)
{
    bool first = !k->ready && k->phase == STARTING;
    if (m->value < 0) {
        if (k->phase == UP)
            life_not_ready(k, m->data);
        else
            keeper_note(k, m->data);
        return; /* it exits now */
    }
    k->ready = true;
    if (first || k->phase == ENDING)
        on_first_ready(k, m);
    else
        life_next_ready(k, m->index == 1);
}

/* ---- running ---- */

static void on_gone(struct keeper *k, struct kept *mount, const struct fdpass *m)
{
    if (m->value < 0 && life_serve_failed(k, mount, m->data))
        return;
    /* An ordinary user's force is two steps, of which the server sees the second alone. */
    bool taken = m->value == -ENOTCONN && mount->mounted && !mount_present(mount->dev);
    mount->gone = true;
    keeper_take_away(k, m->index);
    if ((m->value == 0 || taken) && k->phase == UP)
        reg_set_state(mount->page, REG_UNMOUNTED);
    else if (m->value < 0)
        keeper_fail(k, m->data);
    look_whether_up(k);
}

static void on_message(struct keeper *k, struct fdpass *m)
{
    struct kept *mount = m->index < k->n ? &k->m[m->index] : NULL;
    switch (m->type) {
    case MSG_READY:
        on_ready(k, m);
        break;
    case MSG_UP:
        if (mount)
            life_up(k, mount);
        look_whether_up(k);
        break;
    case MSG_GONE:
        if (mount)
            on_gone(k, mount, m);
        break;
    case MSG_DONE:
        k->done = true;
        if (m->value < 0)
            keeper_note(k, m->data);
        break;
    case MSG_LEFT:
        life_left(k, false);
        break;
    default:
        fdpass_drop(m);
    }
}

/* All that the server has sent. */
static void drain(struct keeper *k, void *arg, short events)
{
    struct fdpass m;
    int rc = -EAGAIN;
    while (k->sock >= 0 && (rc = fdpass_recv(k->sock, &m)) > 0)
        on_message(k, &m);
    if (k->sock >= 0 && rc != -EAGAIN) { /* the other end is closed */
        close(k->sock);
        k->sock = -1;
    }
}

static bool describe(const struct keeper *k, int status, char *text, size_t size)
{
    if (k->forced)
        snprintf(text, size, "the server did not end by itself and was killed");
    else if (WIFSIGNALED(status))
        snprintf(text, size, "the server was killed by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else if (!k->done || WEXITSTATUS(status))
        snprintf(text, size, "the server ended unexpectedly with status %d", WEXITSTATUS(status));
    else
        return false;
    return true;
}

static void server_ended(struct keeper *k, int status)
{
    char text[200];
    k->server = 0;
    drain(k, NULL, 0);
    if (k->sock >= 0)
        close(k->sock);
    k->sock = -1;
    for (size_t i = 0; i < k->n; i++)
        atomic_store(&k->m[i].page->server, 0);
    bool failed = describe(k, status, text, sizeof(text));
    if (failed && life_next(k, status, text))
        return;
    k->deadline = 0;
    if (k->phase == UP && k->life.lasts && life_over(k))
        failed = false; /* nobody needed it any more */
    if (failed && k->phase == UP)
        life_give_up(k, text);
    else
        take_all_away(k); /* frees every waiting caller */
    if (failed)
        keeper_note(k, text);
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

void keeper_reap(struct keeper *k)
{
    int status;
    if (k->ender > 0 && waitpid(k->ender, &status, WNOHANG) == k->ender)
        ender_ended(k);
    life_reap(k);
    control_reap(k);
    if (k->server > 0 && waitpid(k->server, &status, WNOHANG) == k->server)
        server_ended(k, status);
}

static void on_signals(struct keeper *k, void *arg, short events)
{
    struct signalfd_siginfo si;
    while (read(k->signals, &si, sizeof(si)) == sizeof(si))
        if (si.ssi_signo != SIGCHLD)
            on_ask(k);
    keeper_reap(k);
}

static void on_user(struct keeper *k, void *arg, short events)
{
    if (k->user >= 0 && k->phase != ENDING)
        on_ask(k);
}

static void on_deadline(struct keeper *k)
{
    bool asked = k->asked;
    k->asked = false; /* that it had to be killed is worth a word */
    keeper_note(k, "the server did not end within 10 seconds and was killed");
    k->asked = asked;
    force(k);
}

void keeper_expect_end(struct keeper *k)
{
    if (!k->deadline)
        k->deadline = mono_ms() + PATIENCE;
}

static void one_turn(struct keeper *k, struct waits *w)
{
    w->n = 0;
    w->until = INT64_MAX;
    wait_for(w, k->signals, POLLIN, on_signals, NULL);
    wait_for(w, k->sock, POLLIN, drain, NULL);
    /* only its going away is of interest */
    wait_for(w, k->phase != ENDING ? k->user : -1, POLLIN, on_user, NULL);
    life_waits(k, w);
    control_waits(k, w);
    wait_until(w, k->deadline);
    int64_t left = w->until == INT64_MAX ? -1 : w->until - mono_ms();
    int n = poll(w->p, w->n, left < -1 ? 0 : left > INT_MAX ? INT_MAX : (int)left);
    if (n < 0 && errno != EINTR && errno != EAGAIN)
        assert(!"poll of our own descriptors");
    for (size_t i = 0; n > 0 && i < w->n; i++)
        if (w->p[i].revents)
            w->waiter[i].fn(k, w->waiter[i].arg, w->p[i].revents);
    life_tick(k);
    control_tick(k);
    if (k->deadline && mono_ms() >= k->deadline)
        on_deadline(k);
}

static void loop(struct keeper *k)
{
    struct waits w = {0};
    while (life_has(k) || k->ender > 0)
        one_turn(k, &w);
    free(w.p);
    free(w.waiter);
}

int keeper_keep(struct keeper *k, const int *given)
{
    struct pl_err err = {0};
    sigset_t mask, old;
    struct sigaction hangup;
    signal(SIGCHLD, SIG_DFL); /* ignored, the children could not be waited for */
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&mask);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGTERM);
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN) /* as by nohup */
        sigaddset(&mask, SIGHUP);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, &old);
    k->signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    prctl(PR_SET_NAME, "plenum-keeper");

    int rc = k->signals < 0 ? pl_fail(&err, -errno, "no signalfd: %s", strerror(errno))
                            : start_check(k, &err);
    if (rc == 0)
        rc = start_register(k, &err);
    if (rc == 0)
        rc = life_first(k, given, &old, &err);
    if (rc < 0)
        keeper_note(k, err.text);
    else
        loop(k);
    control_close(k);
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
