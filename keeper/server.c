/* SPDX-License-Identifier: MIT */
/*
 * The server process. Its main thread goes through the job: prepare, serve in a thread each,
 * finish. A second thread takes the keeper's commands all the while, and notices when the keeper
 * is gone.
 *
 * `lock` guards go, prepared, stopping and each mount's fd, dev and gone. Commands that arrive
 * before `go` was seen by the main thread (the mounts) are complete by then.
 */
#include "base/confine.h"
#include "base/log.h"
#include "base/own.h"
#include "keeper/wire.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PATIENCE 2 /* seconds that the job gets to end when the keeper is gone */

struct server {
    const struct keeper_job *job;
    struct kept *mounts;
    int sock;
    pthread_mutex_t lock;
    pthread_cond_t change;
    bool prepared, go, stopping, orphan;
};

struct serving {
    struct server *s;
    size_t i;
    pthread_t thread;
};

void wire_say(int sock, uint32_t type, size_t index, int64_t value, const char *text)
{
    struct fdpass m = {.type = type, .index = (uint32_t)index, .value = value};
    if (text) {
        m.len = strlen(text) < sizeof(m.data) ? strlen(text) : sizeof(m.data) - 1;
        memcpy(m.data, text, m.len);
    }
    fdpass_send(sock, &m);
}

void wire_leave(void)
{
    setsid();
    if (chdir("/") < 0)
        _exit(1);
}

void wire_null_stdio(bool all)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0)
        return;
    dup2(null, 0);
    dup2(null, 1);
    if (all)
        dup2(null, 2);
    if (null > 2)
        close(null);
}

static void leave(struct server *s)
{
    wire_leave();
    fflush(NULL);
    wire_null_stdio(true);
    log_background();
    wire_say(s->sock, MSG_LEFT, 0, 0, NULL);
}

static void take_mount(struct server *s, struct fdpass *m)
{
    if (m->index >= s->job->nmounts || m->nfd != 1) {
        fdpass_drop(m);
        return;
    }
    struct kept *k = &s->mounts[m->index];
    pthread_mutex_lock(&s->lock);
    k->fd = m->fd[0];
    k->dev = (dev_t)m->value;
    pthread_mutex_unlock(&s->lock);
    /* Before anything is served: a walk over the host must not step into it. Without memory for
     * that it would be unsafe to go on. */
    if (own_mount_add(k->dev) < 0)
        _exit(1);
    mount_abort_keep(k->dev); /* later this process may not look for it */
}

static void stop(struct server *s)
{
    pthread_mutex_lock(&s->lock);
    bool call = s->prepared && !s->stopping;
    s->stopping = true;
    pthread_cond_broadcast(&s->change);
    pthread_mutex_unlock(&s->lock);
    if (call && s->job->stop)
        s->job->stop(s->job->arg);
}

/* The keeper is gone. If there is a nursery, it takes the mounts away and says so; else nobody may
 * be left who may unmount, for a confined server may not: it ends the connections, so that
 * everything waiting gets an error; what is left in place is dead, and cleared by the next mount
 * there. */
static void orphaned(struct server *s)
{
    bool left = false, nursery = false;
    pthread_mutex_lock(&s->lock);
    s->orphan = true;
    bool prepared = s->prepared;
    pthread_mutex_unlock(&s->lock);
    for (size_t i = s->job->nmounts; i-- > 0;) {
        struct kept *k = &s->mounts[i];
        pthread_mutex_lock(&s->lock);
        dev_t dev = k->gone ? 0 : k->dev;
        pthread_mutex_unlock(&s->lock);
        nursery = atomic_load(&k->page->nursery) > 0;
        if (dev && nursery)
            mount_abort(dev);
        else if (dev && mount_end_dev(k->path, dev, true, NULL) < 0)
            left = true;
    }
    if (!nursery)
        log_say(true, "%s: the keeper was killed: %s", s->job->prefix,
                left ? "the mounts are dead (plenum umount DIR, or a new mount there, clears one)"
                     : "the mounts are taken away");
    if (prepared) {
        stop(s);
        sleep(PATIENCE);
    }
    _exit(1); /* readers of the registry clear what is left there */
}

static void *commands(void *arg)
{
    struct server *s = arg;
    struct fdpass m;
    while (fdpass_recv(s->sock, &m) > 0) {
        switch (m.type) {
        case MSG_MOUNT:
            take_mount(s, &m);
            break;
        case MSG_GO:
            pthread_mutex_lock(&s->lock);
            s->go = true;
            pthread_cond_broadcast(&s->change);
            pthread_mutex_unlock(&s->lock);
            break;
        case MSG_LEAVE:
            leave(s);
            break;
        case MSG_STOP:
            stop(s);
            break;
        default:
            fdpass_drop(&m);
        }
    }
    orphaned(s);
    return NULL;
}

static void up(void *arg)
{
    struct serving *v = arg;
    wire_say(v->s->sock, MSG_UP, v->i, 0, NULL);
}

static void *serve(void *arg)
{
    struct serving *v = arg;
    struct server *s = v->s;
    struct kept *k = &s->mounts[v->i];
    struct pl_err err = {0};
    s->job->mounts[v->i].dev = k->dev;
    int rc = s->job->serve(s->job->arg, v->i, k->fd, &k->page->stats, up, v, &err);
    pthread_mutex_lock(&s->lock);
    k->gone = true;
    pthread_mutex_unlock(&s->lock);
    close(k->fd);
    if (rc == 0) /* else it may still be in place, and nobody answers there any more */
        own_mount_del(k->dev);
    wire_say(s->sock, MSG_GONE, v->i, rc, err.text);
    return NULL;
}

/* Waits for the mounts; false if there will be none. */
static bool wait_go(struct server *s)
{
    pthread_mutex_lock(&s->lock);
    while (!s->go && !s->stopping)
        pthread_cond_wait(&s->change, &s->lock);
    bool go = s->go;
    pthread_mutex_unlock(&s->lock);
    return go;
}

static void serve_all(struct server *s)
{
    struct serving *v = calloc(s->job->nmounts, sizeof(*v));
    size_t n = 0;
    if (confine_server() < 0)
        log_say(false, "%s: a thread keeps the rights that the server was started with",
                s->job->prefix);
    for (; v && n < s->job->nmounts; n++) {
        v[n].s = s;
        v[n].i = n;
        if (s->mounts[n].fd < 0) /* gone before this server began */
            continue;
        if (pthread_create(&v[n].thread, NULL, serve, &v[n]) != 0)
            break;
    }
    for (size_t i = n; i < s->job->nmounts; i++) {
        if (s->mounts[i].fd < 0)
            continue;
        close(s->mounts[i].fd);
        wire_say(s->sock, MSG_GONE, i, -EAGAIN, "no memory for a thread");
    }
    for (size_t i = 0; i < n; i++)
        if (s->mounts[i].fd >= 0)
            pthread_join(v[i].thread, NULL);
    free(v);
}

static void start_commands(struct server *s)
{
    pthread_t thread;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attr, commands, s) != 0)
        _exit(1);
    pthread_attr_destroy(&attr);
}

void server_signals(const sigset_t *mask)
{
    signal(SIGINT, SIG_IGN); /* Ctrl-C reaches the keeper, which decides */
    signal(SIGHUP, SIG_IGN);
    signal(SIGTERM, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_SETMASK, mask, NULL);
}

_Noreturn void server_run(const struct keeper_job *job, struct kept *mounts, int sock)
{
    struct server s = {.job = job, .mounts = mounts, .sock = sock};
    struct pl_err err = {0};
    prctl(PR_SET_NAME, "plenum-server");
    for (size_t i = 0; i < job->nmounts; i++)
        atomic_store(&mounts[i].page->server, getpid());
    pthread_mutex_init(&s.lock, NULL);
    pthread_cond_init(&s.change, NULL);
    start_commands(&s);

    bool lasts = false;
    int rc = job->prepare(job->arg, &lasts, &err);
    pthread_mutex_lock(&s.lock);
    s.prepared = rc >= 0;
    pthread_mutex_unlock(&s.lock);
    wire_say(sock, MSG_READY, lasts, rc, err.text);
    if (rc < 0)
        exit(1);
    if (rc == 0 && job->nmounts && wait_go(&s))
        serve_all(&s);
    err.text[0] = 0;
    rc = job->finish ? job->finish(job->arg, &err) : 0;
    pthread_mutex_lock(&s.lock);
    bool orphan = s.orphan;
    pthread_mutex_unlock(&s.lock);
    wire_say(sock, MSG_DONE, 0, rc, err.text);
    if (orphan)
        for (size_t i = 0; i < job->nmounts; i++)
            reg_del(mounts[i].entry);
    exit(rc < 0 || orphan);
}
