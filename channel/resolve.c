/* SPDX-License-Identifier: MIT */
/*
 * Names are looked up by the C library, which can take half a minute over it and cannot be told to
 * stop. Who may want to stop has it done in a thread that is left behind: the last of the two to
 * have done with the question frees it.
 */
#include "channel/addr.h"
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct question {
    atomic_int users;
    char host[sizeof(((struct addr *)0)->host)], port[sizeof(((struct addr *)0)->port)];
    struct addrinfo hints, *list;
    int result, error; /* error: errno with EAI_SYSTEM */
    int done;          /* an eventfd */
};

static void leave(struct question *q)
{
    if (atomic_fetch_sub(&q->users, 1) > 1)
        return;
    if (q->list)
        freeaddrinfo(q->list);
    close(q->done);
    free(q);
}

static void *ask(void *arg)
{
    struct question *q = arg;
    q->result = getaddrinfo(q->host, q->port, &q->hints, &q->list);
    q->error = errno;
    if (q->result)
        q->list = NULL;
    if (write(q->done, &(uint64_t){1}, 8) < 0)
        abort(); /* it only fails when it is not an eventfd */
    leave(q);
    return NULL;
}

static struct question *question(const char *host, const char *port, const struct addrinfo *hints)
{
    struct question *q = calloc(1, sizeof(*q));
    if (!q)
        return NULL;
    strncpy(q->host, host, sizeof(q->host) - 1);
    strncpy(q->port, port, sizeof(q->port) - 1);
    q->hints = *hints;
    q->users = 2;
    q->done = eventfd(0, EFD_CLOEXEC);
    if (q->done < 0) {
        free(q);
        return NULL;
    }
    return q;
}

int addr_resolve(const char *host, const char *port, const struct addrinfo *hints, int cancel,
                 struct addrinfo **ret)
{
    pthread_t thread;
    if (cancel < 0)
        return getaddrinfo(host, port, hints, ret);
    struct question *q = question(host, port, hints);
    if (!q)
        return EAI_MEMORY;
    if (pthread_create(&thread, NULL, ask, q) != 0) {
        q->users = 1;
        leave(q);
        return EAI_MEMORY;
    }
    pthread_detach(thread);
    struct pollfd p[2] = {{.fd = q->done, .events = POLLIN}, {.fd = cancel, .events = POLLIN}};
    while (poll(p, 2, -1) < 0 && errno == EINTR)
        ;
    int rc = EAI_CANCELED;
    uint64_t n;
    if (p[0].revents && read(q->done, &n, sizeof(n)) == sizeof(n)) {
        rc = q->result;
        errno = q->error;
        *ret = q->list;
        q->list = NULL;
    }
    leave(q);
    return rc;
}
