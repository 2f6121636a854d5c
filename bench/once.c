/* SPDX-License-Identifier: MIT */
/*
 * What it costs that an operation is remembered: round trips of Tsetattr over a unix socket, with
 * and without an op, in turns, both processes on one processor. usage: once [ROUNDS]; prints
 * "op_us without with ratio" (microseconds, medians) and "op_ns" (the median of the differences).
 */
#include "doors/p9.h"
#include "floor.h"
#include "p9/conn.h"
#include <fcntl.h>
#include <plenum/sources.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { TRIPS = 100, MAX = 4001 };

static char state[] = "/tmp/plenum-bench-XXXXXX";

/* A tree in memory, so that the deed costs little; its memory in a file, as of one that lasts. */
static void serve(int fd)
{
    struct pl_err e;
    struct pl_tree *mem;
    struct p9_door *door;
    struct p9_conn *conn;
    struct p9_crew *crew = p9_crew_new(8);
    int dir = open(state, O_RDONLY | O_DIRECTORY);
    if (pl_mem_new(0, &mem, &e) < 0)
        errx(1, "server");
    mem->flags |= PL_TREE_LASTING;
    if (p9_door_new(&(struct p9_export){"", mem}, 1, crew, NULL, &door) < 0 ||
        p9_door_remember(door, dir, "bench") < 0)
        errx(1, "server");
    struct chan chan = {
        .in = fd, .out = fd, .role = CHAN_ACCEPTED, .uid = getuid(), .peer = "bench"};
    if (p9_door_conn(door, &chan, false, NULL, NULL, &conn, &e) < 0)
        errx(1, "%s", e.text);
    p9_conn_wait(conn, &e);
}

static void rpc(struct p9_conn *conn, struct p9_msg m)
{
    struct p9_answer a;
    struct pl_call call;
    pl_call_init_self(&call);
    int r = p9_rpc(conn, &call, &m, &a, NULL, 0);
    if (r < 0)
        errx(1, "%s: %s", p9_type_name(m.type), strerror(-r));
    p9_answer_free(&a);
    pl_call_done(&call);
}

static double trips(struct p9_conn *conn, uint64_t *op)
{
    struct p9_msg m = {.type = P9_Tsetattr, .set = {.valid = P9_SETATTR_MODE, .mode = 0755}};
    double start = now();
    for (int i = 0; i < TRIPS; i++) {
        m.op = op ? ++*op : 0;
        rpc(conn, m);
    }
    return (now() - start) / TRIPS * 1e6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    int n = argc > 1 ? atoi(argv[1]) : 1001;
    static double without[MAX], with[MAX], more[MAX];
    struct p9_conn *conn;
    struct pl_call call;
    struct pl_err e;
    uint64_t op = 0;
    pid_t pid;
    n = n < 1 ? 1 : n > MAX ? MAX : n;
    signal(SIGPIPE, SIG_IGN);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    sched_setaffinity(0, sizeof(one), &one);
    if (!mkdtemp(state))
        err(1, "%s", state);
    int fd = peer(serve, &pid);
    struct chan chan = {.in = fd, .out = fd, .role = CHAN_DIALED, .uid = getuid(), .peer = "bench"};
    pl_call_init_self(&call);
    if (p9_conn_new(&chan, &(struct p9_conn_opts){.crew = p9_crew_new(2), .use = true}, &conn, &e) <
            0 ||
        p9_use(conn, &call, &e) < 0)
        errx(1, "%s", e.text);
    rpc(conn, (struct p9_msg){.type = P9_Tsession, .id = {1, 2}});
    rpc(conn, (struct p9_msg){.type = P9_Tattach, .afid = P9_NOFID, .n_uname = getuid()});
    for (int i = 0; i < n; i++) {
        without[i] = trips(conn, NULL);
        with[i] = trips(conn, &op);
        more[i] = with[i] - without[i];
    }
    p9_conn_free(conn);
    waitpid(pid, NULL, 0);
    char rm[100];
    snprintf(rm, sizeof(rm), "rm -rf %s", state);
    if (system(rm) != 0)
        warnx("%s is left", state);
    qsort(without, (size_t)n, sizeof(*without), by_value);
    qsort(with, (size_t)n, sizeof(*with), by_value);
    qsort(more, (size_t)n, sizeof(*more), by_value);
    double a = without[n / 2], b = with[n / 2];
    printf("op_us %.3f %.3f %.3f\n", a, b, b / a);
    printf("op_ns %.0f\n", more[n / 2] * 1e3);
}
