/* SPDX-License-Identifier: MIT */
/*
 * Waiting in a caller's name: for the other end of a FIFO, or room in a socket's queue. While its
 * call is here, the caller can only be killed; signals that it would handle are seen in /proc.
 */
#include "doors/trap_priv.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void nothing(int sig) {}

void wait_init(void)
{
    struct sigaction sa = {.sa_handler = nothing}, old;
    if (sigaction(SIGRTMAX, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
        sigaction(SIGRTMAX, &sa, NULL); /* without SA_RESTART */
}

void wait_begin(struct tcall *c, struct waiting *w)
{
    struct trap *t = c->t;
    *w = (struct waiting){.c = c, .thread = pthread_self()};
    pthread_mutex_lock(&t->wait_lock);
    w->next = t->waiting;
    w->at = &t->waiting;
    if (w->next)
        w->next->at = &w->next;
    t->waiting = w;
    pthread_mutex_unlock(&t->wait_lock);
    if (write(t->stop[1], "w", 1) < 0)
        return; /* so full of these that it will look */
}

void wait_end(struct waiting *w)
{
    struct trap *t = w->c->t;
    pthread_mutex_lock(&t->wait_lock);
    *w->at = w->next;
    if (w->next)
        w->next->at = w->at;
    pthread_mutex_unlock(&t->wait_lock);
}

static uint64_t mask_of(const char *status, const char *name)
{
    const char *s = strstr(status, name);
    return s ? strtoull(s + strlen(name), NULL, 16) : 0;
}

static bool has_signal(pid_t tid)
{
    char path[40], buf[4096];
    snprintf(path, sizeof(path), "/proc/%d/status", tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
    if (fd >= 0)
        close(fd);
    buf[n > 0 ? n : 0] = 0;
    return (mask_of(buf, "\nSigPnd:") | mask_of(buf, "\nShdPnd:")) &
           ~(mask_of(buf, "\nSigBlk:") | mask_of(buf, "\nSigIgn:"));
}

bool wait_look(struct trap *t)
{
    pthread_mutex_lock(&t->wait_lock);
    for (struct waiting *w = t->waiting; w; w = w->next)
        if (!still_there(w->c) || has_signal((pid_t)w->c->n->pid))
            pthread_kill(w->thread, SIGRTMAX);
    bool any = t->waiting != NULL;
    pthread_mutex_unlock(&t->wait_lock);
    return any;
}
