/* SPDX-License-Identifier: MIT */
#include "cmd/returns.h"
#include "base/limits.h"
#include "cmd/holder.h"
#include "cmd/spec.h"
#include "p9/conn.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RETRY_MS 100 /* out of descriptors: so long until the next try to accept */

struct returns {
    struct chan_listener *listener;
    struct holder *holder;
    struct p9_links *links;
    int stop; /* an eventfd */
    bool started;
    pthread_t thread;
    /* The thread's: those who came last. */
    struct p9_conn *visitors[LIMIT_VISITORS];
    size_t next;
};

int returns_new(struct chan_listener *listener, struct holder *holder, struct returns **ret)
{
    struct returns *r = calloc(1, sizeof(*r));
    if (!r) {
        chan_listener_free(listener);
        holder_free(holder);
        return -ENOMEM;
    }
    r->listener = listener;
    r->holder = holder;
    r->stop = eventfd(0, EFD_CLOEXEC);
    r->links = p9_links_new(LIMIT_LINGER * INT64_C(1000000000), 1);
    if (r->stop < 0 || !r->links) {
        returns_free(r);
        return -ENOMEM;
    }
    *ret = r;
    return 0;
}

struct chan_listener *returns_listener(struct returns *r)
{
    return r->listener;
}

struct p9_links *returns_links(struct returns *r)
{
    return r->links;
}

/* Makes a connection of the channel, which is over at once when it is the return. The oldest of
 * LIMIT_VISITORS others makes room for it. */
static void visit(struct returns *r, struct chan *chan)
{
    struct p9_conn_opts opts = {
        .crew = spec_crew(),
        .link = {.linger = LIMIT_LINGER * INT64_C(1000000000), .links = r->links}};
    struct p9_conn **place = &r->visitors[r->next++ % LIMIT_VISITORS];
    if (*place)
        p9_conn_free(*place);
    *place = NULL;
    if (p9_conn_new(chan, &opts, place, NULL) < 0) {
        chan_close(chan);
        *place = NULL;
    }
}

static void *run(void *arg)
{
    struct returns *r = arg;
    int from = r->listener ? chan_listener_fd(r->listener) : holder_fd(r->holder);
    bool wait = false;
    for (;;) {
        struct pollfd p[2] = {{.fd = r->stop, .events = POLLIN},
                              {.fd = wait ? -1 : from, .events = POLLIN}};
        if (poll(p, 2, wait ? RETRY_MS : -1) < 0 && errno != EINTR)
            return NULL;
        wait = false;
        if (p[0].revents)
            return NULL;
        if (!p[1].revents)
            continue;
        struct chan chan;
        struct pl_err err;
        int rc = r->listener ? chan_accept(r->listener, &chan, &err)
                             : holder_accept(r->holder, &chan, &err);
        if (rc == 0)
            visit(r, &chan);
        wait = rc < 0 && rc != -EACCES && rc != -EAGAIN && rc != -EINTR && rc != -ECONNABORTED;
    }
}

int returns_start(struct returns *r, struct pl_err *err)
{
    int error = pthread_create(&r->thread, NULL, run, r);
    r->started = error == 0;
    return error ? pl_fail(err, -error, "no memory for a thread") : 0;
}

void returns_stop(struct returns *r)
{
    if (!r || !r->started)
        return;
    if (write(r->stop, &(uint64_t){1}, 8) < 0)
        abort(); /* it only fails when it is not an eventfd */
    pthread_join(r->thread, NULL);
    r->started = false;
    uint64_t n;
    if (read(r->stop, &n, sizeof(n)) < 0)
        abort();
    for (size_t i = 0; i < LIMIT_VISITORS; i++) {
        if (r->visitors[i])
            p9_conn_free(r->visitors[i]);
        r->visitors[i] = NULL;
    }
}

void returns_free(struct returns *r)
{
    if (!r)
        return;
    returns_stop(r);
    if (r->links)
        p9_links_free(r->links);
    if (r->stop >= 0)
        close(r->stop);
    if (r->listener)
        chan_listener_free(r->listener);
    holder_free(r->holder);
    free(r);
}
