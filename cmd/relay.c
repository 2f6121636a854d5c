/* SPDX-License-Identifier: MIT */
#include "cmd/relay.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Copies what is there; false at the end of the pipe. */
static bool copy(int from, int to)
{
    char buf[4096];
    ssize_t n;
    while ((n = read(from, buf, sizeof(buf))) > 0)
        if (to >= 0 && write(to, buf, (size_t)n) < 0)
            to = -1; /* nobody is there to read it */
    return n < 0 && (errno == EAGAIN || errno == EINTR);
}

static void *run(void *arg)
{
    struct relay *r = arg;
    for (;;) {
        struct pollfd fds[2] = {{.fd = r->from, .events = POLLIN},
                                {.fd = r->event, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (!copy(r->from, r->to) || fds[1].revents)
            return NULL;
    }
}

/* Detached, with the descriptor as its only state. */
static void *drop(void *arg)
{
    int from = (int)(intptr_t)arg;
    struct pollfd fd = {.fd = from, .events = POLLIN};
    while (copy(from, -1))
        poll(&fd, 1, -1);
    close(from);
    return NULL;
}

void relay_start(struct relay *r)
{
    int fds[2];
    *r = (struct relay){.from = -1, .to = -1, .event = -1};
    if (pipe2(fds, O_CLOEXEC) < 0)
        return;
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    r->from = fds[0];
    r->to = fcntl(2, F_DUPFD_CLOEXEC, 3);
    r->event = eventfd(0, EFD_CLOEXEC);
    r->up = r->to >= 0 && r->event >= 0 && pthread_create(&r->thread, NULL, run, r) == 0;
    if (r->up)
        dup2(fds[1], 2);
    close(fds[1]);
}

void relay_stop(struct relay *r, bool go_on)
{
    if (r->up) {
        dup2(r->to, 2);
        if (write(r->event, &(uint64_t){1}, 8) == 8)
            pthread_join(r->thread, NULL);
    }
    pthread_t thread;
    if (r->up && go_on && pthread_create(&thread, NULL, drop, (void *)(intptr_t)r->from) == 0)
        pthread_detach(thread);
    else if (r->from >= 0)
        close(r->from);
    if (r->to >= 0)
        close(r->to);
    if (r->event >= 0)
        close(r->event);
    r->up = false;
}
