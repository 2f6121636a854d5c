/* SPDX-License-Identifier: MIT */
/*
 * What it costs that an operation is remembered: round trips of Tsetattr over a unix socket, with
 * and without an op, in turns, both processes on one processor. usage: once [ROUNDS]; prints
 * "op_us without with ratio" (microseconds, medians) and "op_ns" (the median of the differences).
 */
#include "served.h"
#include <fcntl.h>
#include <plenum/sources.h>
#include <signal.h>
#include <stdio.h>
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
    if (pl_mem_new(0, &mem, &e) < 0)
        errx(1, "server");
    mem->flags |= PL_TREE_LASTING;
    serve_tree(fd, mem, open(state, O_RDONLY | O_DIRECTORY));
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

int main(int argc, char **argv)
{
    int n = argc > 1 ? atoi(argv[1]) : 1001;
    static double without[MAX], with[MAX], more[MAX];
    struct pl_call call;
    uint64_t op = 0;
    pid_t pid;
    n = n < 1 ? 1 : n > MAX ? MAX : n;
    signal(SIGPIPE, SIG_IGN);
    one_processor();
    if (!mkdtemp(state))
        err(1, "%s", state);
    int fd = peer(serve, &pid);
    struct p9_conn *conn = use_server(fd, p9_crew_new(2), &call);
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
    double a = median(without, n), b = median(with, n);
    printf("op_us %.3f %.3f %.3f\n", a, b, b / a);
    printf("op_ns %.0f\n", median(more, n) * 1e3);
}
