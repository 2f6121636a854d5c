/* SPDX-License-Identifier: MIT */
#include "cmd/servicedial.h"
#include "base/confine.h"
#include "base/log.h"
#include "base/thread.h"
#include "cmd/pump.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct dialer {
    struct chan chan; /* of exec!: its child is to be waited for */
    char name[SERVICE_NAME];
    char addr[];
};

struct carried {
    struct chan chan;
    int fd;
};

static void *carry(void *arg)
{
    struct carried *c = arg;
    pump_run(&c->chan, c->fd);
    free(c);
    return NULL;
}

int servicedial_plain(struct chan *chan, int *ret_in, int *ret_out)
{
    int pair[2];
    pthread_t thread;
    if (!chan->io) {
        *ret_in = chan->in;
        *ret_out = chan->out;
        return 0;
    }
    struct carried *c = malloc(sizeof(*c));
    if (!c || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        free(c);
        chan_close(chan);
        return -ENOMEM;
    }
    *c = (struct carried){.chan = *chan, .fd = pair[1]};
    int r = thread_start(&thread, 0, carry, c);
    if (r < 0) {
        close(pair[0]);
        close(pair[1]);
        chan_close(chan);
        free(c);
        return r;
    }
    pthread_detach(thread);
    *chan = (struct chan){.in = -1, .out = -1};
    *ret_in = *ret_out = pair[0];
    return 0;
}

static int dial(void *arg, int cancel, int *ret_in, int *ret_out, pid_t *ret_pid,
                struct pl_err *err)
{
    struct dialer *d = arg;
    struct ucred cred;
    socklen_t n = sizeof(cred);
    int r = chan_dial_until(d->addr, cancel, &d->chan, err);
    if (r < 0)
        return r;
    if (d->chan.child)
        *ret_pid = d->chan.child;
    else if (d->chan.uid != (uid_t)-1 &&
             getsockopt(d->chan.in, SOL_SOCKET, SO_PEERCRED, &cred, &n) == 0)
        *ret_pid = cred.pid;
    r = servicedial_plain(&d->chan, ret_in, ret_out);
    return r < 0 ? pl_fail(err, r, "%s: %s", d->addr, strerror(-r)) : 0;
}

/* The descriptors are closed already. */
static void hung_up(void *arg)
{
    struct dialer *d = arg;
    d->chan.in = d->chan.out = -1;
    chan_close(&d->chan);
}

static void changed(void *arg, const char *sentence)
{
    struct dialer *d = arg;
    if (sentence)
        log_say(true, "plenum: service %s: %s", d->name, sentence);
}

int servicedial_new(const char *name, const char *addr, struct service_dialer *ret)
{
    size_t n = strlen(addr) + 1;
    struct dialer *d = calloc(1, sizeof(*d) + n);
    if (!d)
        return -ENOMEM;
    snprintf(d->name, sizeof(d->name), "%s", name);
    memcpy(d->addr, addr, n);
    if (!strncmp(addr, "exec", 4))
        confine_need(CONFINE_COMMANDS); /* it is started anew when it has ended */
    *ret = (struct service_dialer){
        .dial = dial, .hung_up = hung_up, .changed = changed, .done = free, .arg = d};
    return 0;
}
