/* SPDX-License-Identifier: MIT */
/*
 * The engine alone against its floors, between two processes over a unix socket pair, with a
 * handler that does nothing but answer: round trips, reads and writes as in wire.c, which has a
 * door and a tree besides. The rounds alternate; the medians are compared.
 *
 * usage: pingpong [ROUNDS]; prints "name floor ours ratio" lines (microseconds, MiB/s).
 */
#include "floor.h"
#include "p9/conn.h"
#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, TRIPS = 20000, STREAM = 256, T_LEN = 19, R_LEN = 160, MAX_ROUNDS = 99 };

static char big[MIB];

/* ---- the floors ---- */

static void bare_pong(int fd)
{
    char buf[R_LEN] = "";
    while (recv(fd, buf, T_LEN, MSG_WAITALL) == T_LEN)
        all(fd, buf, R_LEN, 0);
}

static double bare_rtt(void)
{
    pid_t pid;
    char buf[R_LEN] = "";
    int fd = peer(bare_pong, &pid);
    double start = now();
    for (int i = 0; i < TRIPS; i++) {
        all(fd, buf, T_LEN, 0);
        all(fd, buf, R_LEN, 1);
    }
    double t = (now() - start) / TRIPS * 1e6;
    close(fd);
    waitpid(pid, NULL, 0);
    return t;
}

static void bare_source(int fd)
{
    for (int i = 0; i < STREAM; i++)
        all(fd, big, MIB, 0);
}

static double bare_stream(void)
{
    pid_t pid;
    int fd = peer(bare_source, &pid);
    double start = now();
    for (int i = 0; i < STREAM; i++)
        all(fd, big, MIB, 1);
    double t = STREAM / (now() - start);
    close(fd);
    waitpid(pid, NULL, 0);
    return t;
}

/* ---- ours ---- */

static void handle(void *arg, struct p9_req *req)
{
    req->out.type = req->in.type + 1;
    switch (req->in.type) {
    case P9_Tgetattr:
        break;
    case P9_Tread:
        req->out.data = p9_req_payload(req, req->in.count);
        req->out.count = req->in.count;
        break;
    case P9_Twrite:
        req->out.count = req->in.count;
        break;
    default:
        p9_req_error(req, -EOPNOTSUPP);
    }
}

static struct p9_conn *conn(int fd, struct p9_crew *crew, const struct p9_handler *h)
{
    struct chan ch = {.in = fd, .out = fd, .role = h ? CHAN_ACCEPTED : CHAN_DIALED};
    struct p9_conn_opts o = {.crew = crew, .handler = h, .use = !h};
    struct p9_conn *c;
    struct pl_err e;
    strcpy(ch.peer, "bench");
    if (p9_conn_new(&ch, &o, &c, &e) < 0)
        errx(1, "%s", e.text);
    return c;
}

static void serve(int fd)
{
    static const struct p9_handler h = {.handle = handle};
    struct p9_crew *crew = p9_crew_new(0);
    struct p9_conn *c = conn(fd, crew, &h);
    p9_conn_wait(c, NULL);
    p9_conn_free(c);
    p9_crew_free(crew);
}

static double ours(uint8_t type)
{
    pid_t pid;
    int fd = peer(serve, &pid), n = type == P9_Tgetattr ? TRIPS : STREAM;
    struct p9_crew *crew = p9_crew_new(0);
    struct p9_conn *c = conn(fd, crew, NULL);
    struct pl_err e;
    if (p9_use(c, NULL, &e) < 0)
        errx(1, "%s", e.text);
    uint32_t count = MIB - P9_IOHDRSZ;
    double start = now();
    for (int i = 0; i < n; i++) {
        struct p9_msg t = {.type = type, .count = count, .data = big, .mask = P9_GETATTR_BASIC};
        struct p9_answer a;
        if (p9_rpc(c, NULL, &t, &a, big, sizeof(big)) < 0)
            errx(1, "rpc");
        p9_answer_free(&a);
    }
    double t = now() - start;
    p9_use_end(c, NULL);
    p9_conn_free(c);
    p9_crew_free(crew);
    waitpid(pid, NULL, 0);
    return type == P9_Tgetattr ? t / n * 1e6 : (double)n * count / MIB / t;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof(*v), by_size);
    return v[n / 2];
}

int main(int argc, char **argv)
{
    static double floor_v[3][MAX_ROUNDS], our_v[3][MAX_ROUNDS];
    static const char *names[] = {"rtt", "read", "write"};
    static const uint8_t types[] = {P9_Tgetattr, P9_Tread, P9_Twrite};
    int rounds = argc > 1 ? atoi(argv[1]) : 5;
    if (rounds < 1 || rounds > MAX_ROUNDS)
        errx(2, "usage: pingpong [ROUNDS]");
    signal(SIGPIPE, SIG_IGN);
    memset(big, 'x', sizeof(big));
    for (int i = 0; i < rounds; i++) {
        for (int k = 0; k < 3; k++) {
            floor_v[k][i] = k ? bare_stream() : bare_rtt();
            our_v[k][i] = ours(types[k]);
        }
    }
    for (int k = 0; k < 3; k++) {
        double f = median(floor_v[k], rounds), o = median(our_v[k], rounds);
        printf("%-6s %9.2f %9.2f %6.2f\n", names[k], f, o, o / f);
    }
    return 0;
}
