/* SPDX-License-Identifier: MIT */
/* Both ends of a 9P connection over a socket, for the benchmarks of the wire. */
#ifndef BENCH_SERVED_H
#define BENCH_SERVED_H

#include "doors/p9.h"
#include "floor.h"
#include "p9/conn.h"
#include <sched.h>
#include <stdlib.h>

/* Serves it until the other end is gone. `state`: a directory in which operations are remembered,
 * or -1. */
static inline void serve_tree(int fd, struct pl_tree *tree, int state)
{
    struct pl_err e;
    struct p9_door *door;
    struct p9_conn *conn;
    struct p9_crew *crew = p9_crew_new(8);
    struct chan chan = {
        .in = fd, .out = fd, .role = CHAN_ACCEPTED, .uid = getuid(), .peer = "bench"};
    if (p9_door_new(&(struct p9_export){"", tree}, 1, crew, NULL, &door) < 0 ||
        (state >= 0 && p9_door_remember(door, state, "bench") < 0))
        errx(1, "server");
    if (p9_door_conn(door, &chan, false, NULL, NULL, &conn, &e) < 0)
        errx(1, "%s", e.text);
    p9_conn_wait(conn, &e);
}

static inline struct p9_conn *use_server(int fd, struct p9_crew *crew, struct pl_call *call)
{
    struct pl_err e;
    struct p9_conn *conn;
    struct chan chan = {.in = fd, .out = fd, .role = CHAN_DIALED, .uid = getuid(), .peer = "bench"};
    pl_call_init_self(call);
    if (p9_conn_new(&chan, &(struct p9_conn_opts){.crew = crew, .use = true}, &conn, &e) < 0 ||
        p9_use(conn, call, &e) < 0)
        errx(1, "%s", e.text);
    return conn;
}

/* This process and its children; returns what was allowed before. */
static inline cpu_set_t one_processor(void)
{
    cpu_set_t all, one;
    sched_getaffinity(0, sizeof(all), &all);
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    sched_setaffinity(0, sizeof(one), &one);
    return all;
}

static inline int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof(*v), by_value);
    return v[n / 2];
}

#endif
