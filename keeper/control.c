/* SPDX-License-Identifier: MIT */
/*
 * `plenum upgrade`: the running program is replaced by the installed one, under load.
 *
 *  TRIAL     the program is run as it will be, beside the server: does it understand the command
 *            line, the ledger, and this keeper? It is killed when it has said so.
 *  STOPPING  the server is stopped (SIGSTOP), so that it opens nothing any more.
 *  WAITING   the nursery forks; the child has all descriptors and execs the program, which becomes
 *            the new nursery. If it is not ready in time, the server goes on (SIGCONT).
 *  TAKING    the server is killed, and the new nursery makes the next one. If that one ends before
 *            it answers, the old nursery, which still has everything, makes another; else it is
 *            killed.
 *
 * The pause for callers is that from STOPPING to the new server's first word. What they ask
 * meanwhile waits in the kernel.
 */
#include "base/futex.h"
#include "base/log.h"
#include "keeper/state.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRIAL_MS 10000
#define PAUSE_MS 5000 /* from STOPPING: longer than that nobody shall wait for a new program */
#define TAKE_MS  30000

static void close_it(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

bool control_busy(const struct keeper *k)
{
    return k->up.step != IDLE;
}

bool control_taking(const struct keeper *k)
{
    return k->up.step == TAKING;
}

void control_open(struct keeper *k)
{
    int fd = k->job->argc ? reg_listen(k->m[0].entry) : -1;
    k->up.listener = fd < 0 ? -1 : fd;
}

/* The new program is not needed, or not any more. */
static void drop_new(struct keeper *k)
{
    if (k->up.pid > 0) /* first: the end of its socket would mean that we are dead */
        kill(k->up.pid, SIGKILL);
    close_it(&k->up.nurse);
}

void control_dismiss(struct keeper *k)
{
    drop_new(k);
    if (k->up.old_pid > 0)
        kill(k->up.old_pid, SIGKILL);
    k->up.step = IDLE;
    k->up.until = 0;
}

void control_close(struct keeper *k)
{
    close_it(&k->up.listener);
    close_it(&k->up.client);
}

static void reply(struct keeper *k, int status, const char *text)
{
    if (k->up.client >= 0)
        wire_say(k->up.client, MSG_RESULT, 0, status, text);
    close_it(&k->up.client);
}

/* It comes to nothing: the old server goes on, or the next one does. */
static void undo(struct keeper *k, const char *text)
{
    struct upgrade *u = &k->up;
    drop_new(k);
    if (u->step == STOPPING || u->step == WAITING)
        life_signal(k, SIGCONT);
    u->step = IDLE;
    u->until = 0;
    reply(k, 1, text);
}

/* Has the nursery run the program. */
static void run(struct keeper *k, bool trial)
{
    struct upgrade *u = &k->up;
    int pair[2];
    int rc = fdpass_pair(pair);
    if (rc < 0) {
        undo(k, "no socket");
        return;
    }
    u->nurse = pair[0];
    u->pid = 0;
    fcntl(u->nurse, F_SETFL, O_NONBLOCK);
    struct fdpass adopt = {.type = MSG_ADOPT, .value = WIRE_VERSION, .index = (uint32_t)k->n};
    adopt.len = (size_t)snprintf(adopt.data, sizeof(adopt.data), "%s", k->job->kind);
    rc = fdpass_send(u->nurse, &adopt);
    for (size_t i = 0; rc == 0 && i < k->n; i++) {
        struct fdpass heir = {.type = MSG_HEIR, .index = (uint32_t)i, .nfd = 3};
        const char *name;
        heir.fd[0] = k->m[i].ledger->fd;
        rc = reg_fds(k->m[i].entry, &heir.fd[1], &heir.fd[2], &name) ? 0 : -ENOENT;
        heir.len = (size_t)snprintf(heir.data, sizeof(heir.data), "%s", name);
        if (rc == 0)
            rc = fdpass_send(u->nurse, &heir);
    }
    struct fdpass m = {.type = MSG_UPGRADE, .value = trial, .nfd = 1, .fd = {pair[1]}};
    if (rc == 0)
        rc = fdpass_send(k->life.nurse, &m);
    close(pair[1]);
    if (rc < 0)
        undo(k, strerror(-rc));
}

void control_upgraded(struct keeper *k, pid_t pid)
{
    struct upgrade *u = &k->up;
    if (u->step != TRIAL && u->step != WAITING) { /* given up meanwhile */
        if (pid > 0) {
            u->pid = pid;
            kill(pid, SIGKILL);
        }
        return;
    }
    if (pid < 0) {
        undo(k, "no process for the new program");
        return;
    }
    u->pid = pid;
}

static const char *cannot(const struct keeper *k)
{
    if (!k->life.lasts || k->life.nurse < 0)
        return "it ends with its server, so it cannot be upgraded (unmount it and mount it again)";
    if (k->phase != UP || k->server <= 0 || k->life.retry_at || k->life.hung || k->life.stopped)
        return "its server is not well (see plenum status)";
    return NULL;
}

static void begin(struct keeper *k)
{
    const char *why = cannot(k);
    if (why) {
        reply(k, 1, why);
        return;
    }
    k->up.step = TRIAL;
    k->up.until = mono_ms() + TRIAL_MS;
    run(k, true);
}

void control_stopped(struct keeper *k)
{
    if (k->up.step != STOPPING)
        return;
    k->up.step = WAITING;
    run(k, false);
}

/* The new nursery has everything: on with it. */
static void take(struct keeper *k)
{
    struct upgrade *u = &k->up;
    u->step = TAKING;
    u->until = mono_ms() + TAKE_MS;
    for (size_t i = 0; i < k->n; i++)
        if (!k->m[i].gone)
            wire_say(u->nurse, MSG_PLACE, i, (int64_t)k->m[i].dev, NULL);
    if (k->left)
        wire_say(u->nurse, MSG_LEAVE, 0, 0, NULL);
    life_not_ready(k, "upgraded");
    life_signal(k, SIGKILL);
}

static void on_ready(struct keeper *k, const struct fdpass *m)
{
    struct upgrade *u = &k->up;
    if (m->value < 0) {
        undo(k, m->data);
    } else if (u->step == TRIAL) {
        drop_new(k);
        u->step = STOPPING;
        u->stopped_at = mono_ms();
        u->until = u->stopped_at + PAUSE_MS;
        life_signal(k, SIGSTOP);
    } else if (u->step == WAITING && u->pid > 0) {
        take(k);
    } else {
        undo(k, "the new program was killed (the old one goes on)");
    }
}

static void on_new(struct keeper *k, void *arg, short events)
{
    struct upgrade *u = &k->up;
    struct fdpass m;
    if (u->nurse < 0 || u->step == TAKING)
        return;
    int rc = fdpass_recv(u->nurse, &m);
    if (rc > 0 && m.type == MSG_READY)
        on_ready(k, &m);
    else if (rc != -EAGAIN)
        undo(k, "the new program ended without a word: it does not know how to take over "
                "(the old one goes on)");
}

/* Each change of nurseries: the one in use and the one beside it. */
static void swap(struct keeper *k)
{
    struct life *l = &k->life;
    struct upgrade *u = &k->up;
    u->old_nurse = l->nurse;
    u->old_pid = l->nursery;
    l->nurse = u->nurse;
    l->nursery = u->pid;
    u->nurse = -1;
    u->pid = 0;
    for (size_t i = 0; i < k->n; i++)
        atomic_store(&k->m[i].page->nursery, l->nursery);
}

void control_died(struct keeper *k)
{
    struct upgrade *u = &k->up;
    if (u->step == IDLE)
        return;
    if (u->step != TAKING) {
        undo(k, "its server died meanwhile, and the old program goes on (try again)");
    } else if (u->old_pid == 0) {
        swap(k);
    } else { /* the new one's server has failed */
        u->nurse = k->life.nurse;
        u->pid = k->life.nursery;
        k->life.nurse = u->old_nurse;
        k->life.nursery = u->old_pid;
        u->old_nurse = -1;
        u->old_pid = 0;
        for (size_t i = 0; i < k->n; i++)
            atomic_store(&k->m[i].page->nursery, k->life.nursery);
        undo(k, "the new program's server did not come up (the old one goes on)");
    }
}

void control_up(struct keeper *k)
{
    struct upgrade *u = &k->up;
    char text[200];
    if (u->step != TAKING || u->old_pid == 0)
        return;
    kill(u->old_pid, SIGKILL);
    close_it(&u->old_nurse);
    u->step = IDLE;
    u->until = 0;
    snprintf(text, sizeof(text), "served by process %d of the installed program, after %lld ms",
             k->server, (long long)(mono_ms() - u->stopped_at));
    reply(k, 0, text);
}

void control_reap(struct keeper *k)
{
    struct upgrade *u = &k->up;
    int status;
    if (u->old_pid > 0 && waitpid(u->old_pid, &status, WNOHANG) == u->old_pid) {
        close_it(&u->old_nurse);
        u->old_pid = 0;
    }
    if (u->pid > 0 && waitpid(u->pid, &status, WNOHANG) == u->pid) {
        u->pid = 0;
        if (u->step == TRIAL || u->step == WAITING)
            on_new(k, NULL, 0); /* what it said last */
    }
}

static void on_client(struct keeper *k, void *arg, short events)
{
    struct upgrade *u = &k->up;
    struct fdpass m;
    if (u->client < 0)
        return;
    int rc = fdpass_recv(u->client, &m);
    if (rc == -EAGAIN)
        return;
    if (rc > 0 && m.type == MSG_UPGRADE && u->step == IDLE) {
        u->wanted = true; /* when what is left of the last one has ended */
        return;
    }
    if (rc > 0)
        fdpass_drop(&m);
    u->wanted = false;
    close_it(&u->client); /* it lost patience; what was begun is done all the same */
}

static void on_listener(struct keeper *k, void *arg, short events)
{
    struct ucred who;
    socklen_t size = sizeof(who);
    int fd =
        k->up.listener < 0 ? -1 : accept4(k->up.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0 ||
        (who.uid != geteuid() && who.uid != 0)) {
        close(fd);
    } else if (k->up.client >= 0) {
        wire_say(fd, MSG_RESULT, 0, 1, "an upgrade is going on");
        close(fd);
    } else {
        k->up.client = fd;
    }
}

void control_waits(struct keeper *k, struct waits *w)
{
    struct upgrade *u = &k->up;
    wait_for(w, u->listener, POLLIN, on_listener, NULL);
    wait_for(w, u->client, POLLIN, on_client, NULL);
    if ((u->step == TRIAL || u->step == WAITING) && u->pid > 0)
        wait_for(w, u->nurse, POLLIN, on_new, NULL);
    wait_until(w, u->until);
}

void control_tick(struct keeper *k)
{
    struct upgrade *u = &k->up;
    if (u->wanted && u->step == IDLE && !u->pid && !u->old_pid) {
        u->wanted = false;
        begin(k);
    }
    if (u->step == IDLE || !u->until || mono_ms() < u->until)
        return;
    if (u->step == TAKING)
        life_signal(k, SIGKILL); /* control_died() goes back */
    else
        undo(k, "the new program did not get ready in time (the old one goes on)");
    u->until = 0;
}
