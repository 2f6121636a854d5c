/* SPDX-License-Identifier: MIT */
/*
 * A link with a round trip: passes TCP connections on, each byte late by a fixed time in each
 * direction, and limits nothing else: whatever is on its way is kept, up to 256 MiB each way.
 * usage: relay DELAY_MS PORT TARGET_PORT [WINDOW]
 * Listens on 127.0.0.1:PORT ("up" is printed when it does) and connects to 127.0.0.1:TARGET_PORT.
 * WINDOW, in bytes: no more than these are under way in each direction for one round trip, as a
 * single TCP stream over a real link has it, whose window is bounded (Linux: 6 MiB by default).
 */
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 256 << 10, DEEP = 256 << 20 };

struct chunk {
    struct chunk *next;
    int64_t due; /* when it may go out */
    size_t n;    /* 0: the end */
    char data[CHUNK];
};

/* One direction of a connection. */
struct pipe {
    int from, to;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    struct chunk *head, **tail, *spare;
    size_t kept; /* under way, acknowledgements included */
    struct ack {
        int64_t at;
        size_t n;
    } * acks;
    size_t first_ack, nacks;
    struct pair *pair;
};

struct pair {
    struct pipe way[2];
    int users;
    pthread_mutex_t mutex;
};

static int64_t delay;
static size_t window = DEEP;

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_until(int64_t at)
{
    struct timespec t = {at / 1000000000, at % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0)
        ;
}

static void leave(struct pair *p)
{
    pthread_mutex_lock(&p->mutex);
    int left = --p->users;
    pthread_mutex_unlock(&p->mutex);
    if (left)
        return;
    close(p->way[0].from);
    close(p->way[1].from);
    for (int i = 0; i < 2; i++) {
        for (struct chunk *c = p->way[i].spare, *next; c; c = next) {
            next = c->next;
            free(c);
        }
        free(p->way[i].acks);
    }
    free(p);
}

/* What has gone out longer ago than an acknowledgement takes to come back is not under way. Returns
 * when the next will be so. Lock held. */
enum { ACKS = 4096 };
static int64_t take_acks(struct pipe *p)
{
    int64_t t = now();
    while (p->nacks && p->acks[p->first_ack].at <= t) {
        p->kept -= p->acks[p->first_ack].n;
        p->first_ack = (p->first_ack + 1) % ACKS;
        p->nacks--;
    }
    return p->nacks ? p->acks[p->first_ack].at : 0;
}

static struct chunk *room(struct pipe *p)
{
    pthread_mutex_lock(&p->mutex);
    for (;;) {
        int64_t next = take_acks(p);
        if (p->kept < window)
            break;
        if (next) {
            pthread_mutex_unlock(&p->mutex);
            sleep_until(next);
            pthread_mutex_lock(&p->mutex);
        } else {
            pthread_cond_wait(&p->cond, &p->mutex);
        }
    }
    struct chunk *c = p->spare;
    if (c)
        p->spare = c->next;
    pthread_mutex_unlock(&p->mutex);
    if (!c && !(c = malloc(sizeof(*c))))
        err(1, "malloc");
    return c;
}

static void *take_in(void *arg)
{
    struct pipe *p = arg;
    ssize_t n;
    do {
        struct chunk *c = room(p);
        n = read(p->from, c->data, CHUNK);
        c->n = n > 0 ? (size_t)n : 0;
        c->due = now() + delay;
        c->next = NULL;
        pthread_mutex_lock(&p->mutex);
        p->kept += c->n;
        *p->tail = c;
        p->tail = &c->next;
        pthread_cond_broadcast(&p->cond);
        pthread_mutex_unlock(&p->mutex);
    } while (n > 0);
    leave(p->pair);
    return NULL;
}

static void sent(struct pipe *p, struct chunk *c)
{
    pthread_mutex_lock(&p->mutex);
    if (window == DEEP || p->nacks == ACKS) {
        p->kept -= c->n;
    } else {
        p->acks[(p->first_ack + p->nacks) % ACKS] = (struct ack){now() + delay, c->n};
        p->nacks++;
    }
    c->next = p->spare;
    p->spare = c;
    pthread_cond_broadcast(&p->cond);
    pthread_mutex_unlock(&p->mutex);
}

static void *give_out(void *arg)
{
    struct pipe *p = arg;
    for (size_t n = 1; n > 0;) {
        pthread_mutex_lock(&p->mutex);
        while (!p->head)
            pthread_cond_wait(&p->cond, &p->mutex);
        struct chunk *c = p->head;
        p->head = c->next;
        if (!p->head)
            p->tail = &p->head;
        pthread_mutex_unlock(&p->mutex);
        sleep_until(c->due);
        n = c->n;
        for (size_t done = 0; done < n;) {
            ssize_t w = send(p->to, c->data + done, n - done, MSG_NOSIGNAL);
            if (w <= 0) {
                shutdown(p->from, SHUT_RD); /* nobody wants any more */
                break;
            }
            done += (size_t)w;
        }
        if (n == 0)
            shutdown(p->to, SHUT_WR);
        sent(p, c);
    }
    leave(p->pair);
    return NULL;
}

static void start(void *(*run)(void *), void *arg)
{
    pthread_t t;
    if (pthread_create(&t, NULL, run, arg) != 0)
        errx(1, "no thread");
    pthread_detach(t);
}

static void serve(int in, int target)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)target),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int out = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (connect(out, (struct sockaddr *)&a, sizeof(a)) < 0) {
        warn("port %d", target);
        close(out);
        close(in);
        return;
    }
    setsockopt(in, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(out, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    struct pair *p = calloc(1, sizeof(*p));
    if (!p)
        err(1, "malloc");
    p->users = 4;
    pthread_mutex_init(&p->mutex, NULL);
    for (int i = 0; i < 2; i++) {
        struct pipe *w = &p->way[i];
        *w = (struct pipe){.from = i ? out : in, .to = i ? in : out, .tail = &w->head, .pair = p};
        if (!(w->acks = calloc(ACKS, sizeof(*w->acks))))
            err(1, "malloc");
        pthread_mutex_init(&w->mutex, NULL);
        pthread_cond_init(&w->cond, NULL);
    }
    for (int i = 0; i < 2; i++) {
        start(take_in, &p->way[i]);
        start(give_out, &p->way[i]);
    }
}

int main(int argc, char **argv)
{
    if (argc < 4)
        errx(2, "usage: relay DELAY_MS PORT TARGET_PORT [WINDOW]");
    delay = atoi(argv[1]) * 1000000LL;
    if (argc > 4)
        window = strtoull(argv[4], NULL, 0);
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)atoi(argv[2])),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, in;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(s, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(s, 64) < 0)
        err(1, "port %s", argv[2]);
    puts("up");
    fflush(stdout);
    while ((in = accept4(s, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        serve(in, atoi(argv[3]));
    err(1, "accept");
}
