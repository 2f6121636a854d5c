/* SPDX-License-Identifier: MIT */
/*
 * 9P over a unix socket against its physical floors, in the same run, between two processes:
 *   rtt     Tgetattr round trips, on one processor,
 *                                        against a bare ping-pong of messages of the same lengths
 *   read    1 MiB reads of a memory file against copying the same bytes through such a socket
 *   write   1 MiB writes of it           with 1 MiB buffers
 * each with a file of 64 MiB, which no cache near the core holds, and with one of 1 MiB, which
 * does; and with one of 1 MiB of a host directory (on tmpfs), whose descriptor the server lends.
 * The rounds alternate, and the medians of each are compared. usage: wire [ROUNDS]; prints
 * "name floor ours ratio" lines (microseconds, MiB/s).
 */
#include "served.h"
#include "sources/p9.h"
#include <errno.h>
#include <fcntl.h>
#include <plenum/sources.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

static int file_mib;         /* 64 or 1: how many MiB of content go round */
static const char *host_dir; /* what is served; NULL: memory */

enum { MIB = 1 << 20, TRIPS = 20000, STREAM = 256, T_LEN = 19, R_LEN = 160, MAX = 51 };

/* A buffer whose pages are there: untouched ones would all be the one zero page. */
static char *fresh(size_t n)
{
    char *buf = malloc(n);
    memset(buf, 'x', n);
    return buf;
}

static void pong(int fd)
{
    char t[T_LEN], r[R_LEN] = {0};
    for (;;) {
        if (read(fd, t, sizeof(t)) != sizeof(t) || write(fd, r, sizeof(r)) != sizeof(r))
            return;
    }
}

static void source(int fd)
{
    char *buf = fresh((size_t)file_mib * MIB);
    for (int i = 0; i < STREAM; i++)
        all(fd, buf + (size_t)(i % file_mib) * MIB, MIB, 0);
    all(fd, buf, 1, 1);
}

static void sink(int fd)
{
    char *buf = fresh((size_t)file_mib * MIB);
    for (int i = 0; i < STREAM; i++)
        all(fd, buf + (size_t)(i % file_mib) * MIB, MIB, 1);
    all(fd, buf, 1, 0);
}

static double floor_rtt(void)
{
    pid_t pid;
    char t[T_LEN] = {0}, r[R_LEN];
    int fd = peer(pong, &pid);
    double start = now();
    for (int i = 0; i < TRIPS; i++) {
        all(fd, t, sizeof(t), 0);
        all(fd, r, sizeof(r), 1);
    }
    double us = (now() - start) / TRIPS * 1e6;
    close(fd);
    waitpid(pid, NULL, 0);
    return us;
}

static double floor_copy(void (*fn)(int))
{
    pid_t pid;
    char *buf = fresh(MIB);
    int fd = peer(fn, &pid);
    double start = now();
    for (int i = 0; i < STREAM; i++)
        all(fd, buf, MIB, fn == source);
    all(fd, buf, 1, fn == sink);
    double rate = STREAM / (now() - start);
    close(fd);
    waitpid(pid, NULL, 0);
    free(buf);
    return rate;
}

/* The server process: a tree behind the 9P door. */
static void serve(int fd)
{
    struct pl_err e;
    struct pl_tree *tree;
    if ((host_dir ? pl_host_open(host_dir, &tree, &e) : pl_mem_new(0, &tree, &e)) < 0)
        errx(1, "server");
    serve_tree(fd, tree, -1);
}

struct client {
    pid_t pid;
    struct pl_tree *tree;
    struct p9_crew *crew;
    struct pl_call call;
    struct pl_node *root, *file_node;
    struct pl_file *file;
};

static void client_open(struct client *c)
{
    struct pl_err e;
    struct pl_attr attr;
    int fd = peer(serve, &c->pid);
    c->crew = p9_crew_new(2);
    struct p9_conn *conn = use_server(fd, c->crew, &c->call);
    if (pl_p9_open(conn, &(struct pl_p9_opts){.uname = "root", .own = true, .near = PL_P9_NEAR},
                   &c->tree, &e) < 0)
        errx(1, "%s", e.text);
    if (pl_attach(c->tree, &c->call, "", &c->root, &attr) < 0 ||
        pl_create(c->tree, &c->call, c->root, "f", O_RDWR, 0644, &c->file_node, &attr, &c->file) <
            0)
        errx(1, "create");
}

static void client_close(struct client *c)
{
    pl_close(c->tree, &c->call, c->file);
    pl_node_unref(c->file_node);
    pl_node_unref(c->root);
    pl_tree_unref(c->tree);
    p9_crew_free(c->crew);
    pl_call_done(&c->call);
    waitpid(c->pid, NULL, 0);
}

static double our_rtt(void)
{
    struct client c;
    struct pl_attr attr;
    client_open(&c);
    double start = now();
    for (int i = 0; i < TRIPS; i++)
        if (pl_getattr(c.tree, &c.call, c.root, NULL, &attr) < 0)
            errx(1, "getattr");
    double us = (now() - start) / TRIPS * 1e6;
    client_close(&c);
    return us;
}

static void our_copy(double *write_rate, double *read_rate)
{
    struct client c;
    char *buf = fresh(MIB);
    client_open(&c);
    for (int i = 0; i < file_mib; i++)
        pl_write(c.tree, &c.call, c.file, buf, MIB, (uint64_t)i * MIB);
    double start = now();
    for (int i = 0; i < STREAM; i++)
        if (pl_write(c.tree, &c.call, c.file, buf, MIB, (uint64_t)(i % file_mib) * MIB) != MIB)
            errx(1, "write");
    *write_rate = STREAM / (now() - start);
    start = now();
    for (int i = 0; i < STREAM; i++)
        if (pl_read(c.tree, &c.call, c.file, buf, MIB, (uint64_t)(i % file_mib) * MIB) != MIB)
            errx(1, "read");
    *read_rate = STREAM / (now() - start);
    client_close(&c);
    free(buf);
}

/* Prints "name floor ours ratio" of the medians. */
static void report(const char *name, double *floor, double *ours, int n)
{
    double a = median(floor, n), b = median(ours, n);
    printf("%s %.2f %.2f %.2f\n", name, a, b, b / a);
}

static void copies(int n, const char *read_name, const char *write_name)
{
    double in[MAX], out[MAX], r[MAX], w[MAX];
    for (int i = 0; i < n; i++) {
        in[i] = floor_copy(source);
        out[i] = floor_copy(sink);
        our_copy(&w[i], &r[i]);
    }
    report(read_name, in, r, n);
    report(write_name, out, w, n);
}

int main(int argc, char **argv)
{
    int n = argc > 1 ? atoi(argv[1]) : 5;
    double bare[MAX], ours[MAX];
    signal(SIGPIPE, SIG_IGN);
    n = n < 1 ? 1 : n > MAX ? MAX : n;
    cpu_set_t all = one_processor();
    for (int i = 0; i < n; i++) {
        bare[i] = floor_rtt();
        ours[i] = our_rtt();
    }
    sched_setaffinity(0, sizeof(all), &all);
    report("rtt_us", bare, ours, n);
    file_mib = 64;
    copies(n, "read_mibs", "write_mibs");
    file_mib = 1;
    copies(n, "read_hot_mibs", "write_hot_mibs");
    char dir[] = "/dev/shm/plenum-wire.XXXXXX", file[sizeof(dir) + 2];
    if (!(host_dir = mkdtemp(dir)))
        err(1, "%s", dir);
    copies(n, "read_lent_mibs", "write_lent_mibs");
    snprintf(file, sizeof(file), "%s/f", dir);
    unlink(file);
    rmdir(dir);
}
