/* SPDX-License-Identifier: MIT */
/* `lock` guards the door's state, as far as it is the control's, and the count of connections. A
 * request is answered under it. */
#include "cmd/viewctl.h"
#include "cmd/viewlink.h"
#include "cmd/viewspace.h"
#include "layers/trace.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CONNECTIONS = 64, PATIENCE = 10 /* seconds for a request to come */ };

struct viewctl {
    struct viewctl_setup set;
    pthread_t thread;
    int wake; /* eventfd: the end */
    pthread_mutex_t lock;
    pthread_cond_t idle;
    unsigned connections;
    int null, trace; /* /dev/null; where traces go */
    _Atomic bool tracing, debug;
};

struct connection {
    struct viewctl *ctl;
    int sock;
};

/* ---- what is asked for ---- */

static void set_trace(struct viewctl *c, const struct view *view, int err)
{
    bool on = view->trace || view->debug > 1;
    if (on || view->debug)
        dup3(err >= 0 ? err : c->null, c->trace, O_CLOEXEC);
    else
        dup3(c->null, c->trace, O_CLOEXEC);
    atomic_store(&c->tracing, on);
    atomic_store(&c->debug, view->debug > 0);
}

/* A line of a trace. Whoever does not read them loses some: nobody waits for it. */
static void tell(struct viewctl *c, const char *what, const char *text)
{
    struct pollfd p = {.fd = c->trace, .events = POLLOUT};
    if (poll(&p, 1, 0) == 1 && p.revents == POLLOUT)
        dprintf(c->trace, "%s%s\n", what, text);
}

static void say(struct viewctl *c, const char *what, const char *object)
{
    if (atomic_load(&c->debug))
        tell(c, what, object);
}

static void show_table(struct viewctl *c, const struct view *view)
{
    char *text = view_text(view);
    if (text && c->set.page)
        reg_set_table(c->set.page, text);
    free(text);
}

static const struct view_top *top_of(const struct view *view, const char *path)
{
    for (size_t i = 0; i < view->ntops; i++)
        if (!strcmp(view->tops[i].path, path))
            return &view->tops[i];
    return NULL;
}

/* For the option debug: what is in `a`, and not in `b`. */
static void say_tops(struct viewctl *c, const char *what, const struct view *a,
                     const struct view *b)
{
    for (size_t i = 0; i < a->ntops; i++)
        if (!top_of(b, a->tops[i].path))
            say(c, what, a->tops[i].path);
}

/* What went well: told, and shown. */
static void changed(struct viewctl *c, const struct view *was, const struct view *view, int err)
{
    if (view->trace != was->trace || view->debug != was->debug)
        set_trace(c, view, err);
    say_tops(c, "vpath: over others now: ", view, was);
    say_tops(c, "vpath: itself again: ", was, view);
    show_table(c, view);
}

static int change(struct viewctl *c, const struct viewlink *q, struct pl_err *err)
{
    const struct viewctl_door *d = c->set.door;
    pid_t pid = (pid_t)q->value;
    struct view *was, *view;
    if (q->n < 1)
        return pl_fail(err, -EINVAL, "a request without words");
    int r = d->view_of(d->arg, pid, &was);
    if (r < 0)
        return pl_fail(err, r, "process %d: is not in this view", pid);
    r = view_change(was, q->words[0], (const char *const *)q->words + 1, q->n - 1, viewspace_look,
                    NULL, &view, err);
    if (r == 0 && view->ntops && !strcmp(view->tops[0].path, "/") && !strcmp(d->name, "mount")) {
        r = pl_fail(err, -EINVAL, "/: the root directory cannot be a mount's");
        view_unref(view);
    } else if (r == 0) {
        r = viewspace_check(view, err);
        r = r < 0 ? r : d->apply(d->arg, pid, was, view, err);
        if (r == 0)
            changed(c, was, view, q->err);
        view_unref(view);
    }
    view_unref(was);
    return r;
}

static char **words_of(struct viewctl *c, pid_t pid, size_t *ret_n, struct pl_err *err)
{
    struct view *view;
    int r = c->set.door->view_of(c->set.door->arg, pid, &view);
    if (r < 0) {
        pl_fail(err, r, "process %d: is not in this view", pid);
        return NULL;
    }
    char **words = view_words(view, ret_n);
    if (!words)
        pl_fail(err, -ENOMEM, "out of memory");
    view_unref(view);
    return words;
}

/* The answer to one request, sent. */
static int answer(struct viewctl *c, int sock, const struct viewlink *q)
{
    struct viewlink a = {.op = VIEWLINK_ANSWER, .err = -1};
    struct pl_err err = {0};
    char where[PATH_MAX], *one[] = {where};
    char **words = NULL;
    const struct viewctl_door *d = c->set.door;
    pthread_mutex_lock(&c->lock);
    switch (q->op) {
    case VIEWLINK_CHANGE:
        a.value = change(c, q, &err);
        break;
    case VIEWLINK_WORDS:
        a.words = words = words_of(c, (pid_t)q->value, &a.n, &err);
        a.value = words ? 0 : err.code;
        break;
    case VIEWLINK_WHERE:
        a.value = q->n == 1 ? d->where(d->arg, (pid_t)q->value, q->words[0], where, &err)
                            : pl_fail(&err, -EINVAL, "a request without a path");
        a.words = a.value == 0 ? one : NULL;
        a.n = 1;
        break;
    case VIEWLINK_ABOUT:
        snprintf(where, sizeof(where), "%s", d->name);
        a.words = one;
        a.n = 1;
        a.index = c->set.depth;
        break;
    default:
        a.value = pl_fail(&err, -EOPNOTSUPP, "the view's server is another version of plenum");
    }
    pthread_mutex_unlock(&c->lock);
    if (a.value < 0)
        snprintf(a.text, sizeof(a.text), "%s", err.text);
    int r = viewlink_send(sock, &a);
    free(words);
    return r;
}

static void *converse(void *arg)
{
    struct connection *con = arg;
    struct viewctl *c = con->ctl;
    struct timeval t = {.tv_sec = PATIENCE};
    struct viewlink q;
    setsockopt(con->sock, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
    setsockopt(con->sock, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
    while (viewlink_recv(con->sock, &q) > 0) {
        int r = answer(c, con->sock, &q);
        viewlink_done(&q);
        if (r < 0)
            break;
    }
    close(con->sock);
    free(con);
    pthread_mutex_lock(&c->lock);
    c->connections--;
    pthread_cond_broadcast(&c->idle);
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

/* A thread for `sock`, which is taken over. */
static void serve(struct viewctl *c, int sock)
{
    pthread_t thread;
    pthread_attr_t attr;
    struct connection *con = malloc(sizeof(*con));
    pthread_mutex_lock(&c->lock);
    bool room = con && c->connections < CONNECTIONS;
    c->connections += room;
    pthread_mutex_unlock(&c->lock);
    if (!room) {
        free(con);
        close(sock);
        return;
    }
    *con = (struct connection){c, sock};
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attr, converse, con) != 0) {
        pthread_mutex_lock(&c->lock);
        c->connections--;
        pthread_mutex_unlock(&c->lock);
        free(con);
        close(sock);
    }
    pthread_attr_destroy(&attr);
}

/* ---- who asks ---- */

int viewctl_line(struct viewctl *c, pid_t pid)
{
    char name[32];
    uint64_t ns;
    int pair[2];
    int r = viewlink_namespace(pid, &ns);
    if (r < 0)
        return r;
    if (ns != c->set.ns) {
        viewlink_name(ns, name);
        return reg_meet_dial(name);
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    serve(c, pair[0]);
    return pair[1];
}

static void take_notice(struct viewctl *c)
{
    struct seccomp_notif n = {0};
    if (ioctl(c->set.notices, SECCOMP_IOCTL_NOTIF_RECV, &n) < 0)
        return; /* the caller was killed meanwhile */
    int fd = viewctl_line(c, (pid_t)n.pid);
    struct seccomp_notif_addfd add = {.id = n.id,
                                      .flags = SECCOMP_ADDFD_FLAG_SEND,
                                      .srcfd = (uint32_t)fd,
                                      .newfd_flags = O_CLOEXEC};
    if (fd < 0 || ioctl(c->set.notices, SECCOMP_IOCTL_NOTIF_ADDFD, &add) < 0) {
        struct seccomp_notif_resp resp = {.id = n.id, .error = fd < 0 ? fd : -EMFILE};
        ioctl(c->set.notices, SECCOMP_IOCTL_NOTIF_SEND, &resp);
    }
    if (fd >= 0)
        close(fd);
}

static void *control(void *arg)
{
    struct viewctl *c = arg;
    struct pollfd p[3] = {{.fd = c->wake, .events = POLLIN},
                          {.fd = c->set.meet, .events = POLLIN},
                          {.fd = c->set.notices, .events = POLLIN}};
    for (;;) {
        if (poll(p, 3, -1) < 0 && errno != EINTR)
            return NULL;
        if (p[0].revents)
            return NULL;
        if (p[1].revents) {
            int sock = accept4(c->set.meet, NULL, NULL, SOCK_CLOEXEC);
            if (sock >= 0)
                serve(c, sock);
        }
        if (p[2].revents & POLLIN)
            take_notice(c);
        else if (p[2].revents) /* nobody has the filter any more */
            p[2].fd = -1;
    }
}

static void close_all(struct viewctl *c)
{
    int fds[] = {c->wake, c->null, c->trace};
    for (int i = 0; i < 3; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(c);
}

int viewctl_new(const struct viewctl_setup *setup, struct viewctl **ret)
{
    struct viewctl *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->set = *setup;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->idle, NULL);
    c->null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    c->trace = open("/dev/null", O_WRONLY | O_CLOEXEC);
    struct view *view;
    if (setup->door->view_of(setup->door->arg, 0, &view) == 0) {
        set_trace(c, view, setup->err);
        show_table(c, view);
        view_unref(view);
    }
    c->wake = eventfd(0, EFD_CLOEXEC);
    int r = c->wake < 0 || c->null < 0 || c->trace < 0
                ? -EMFILE
                : -pthread_create(&c->thread, NULL, control, c);
    if (r < 0) {
        close_all(c);
        return r;
    }
    *ret = c;
    return 0;
}

void viewctl_free(struct viewctl *c)
{
    if (!c)
        return;
    eventfd_write(c->wake, 1);
    pthread_join(c->thread, NULL);
    pthread_mutex_lock(&c->lock);
    while (c->connections) /* each ends soon: see PATIENCE */
        pthread_cond_wait(&c->idle, &c->lock);
    pthread_mutex_unlock(&c->lock);
    close_all(c);
}

/* ---- the trace ---- */

static bool active(void *arg)
{
    struct viewctl *c = arg;
    return atomic_load_explicit(&c->tracing, memory_order_relaxed) ||
           (c->set.page && reg_traced(c->set.page));
}

static void line(void *arg, const char *text)
{
    struct viewctl *c = arg;
    if (c->set.page)
        reg_trace(c->set.page, "%s", text);
    if (atomic_load(&c->tracing))
        tell(c, "", text);
}

struct pl_tree *viewctl_trace(struct viewctl *c, struct pl_tree *lower)
{
    return trace_new_sink(&(struct trace_sink){.active = active, .line = line, .arg = c}, lower);
}
