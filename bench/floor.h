/* SPDX-License-Identifier: MIT */
/* What the benchmarks of the wire measure their floors with. */
#ifndef BENCH_FLOOR_H
#define BENCH_FLOOR_H

#include <err.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Reads (`in`) or writes all of it. */
static __attribute__((unused)) void all(int fd, char *buf, size_t n, int in)
{
    while (n) {
        ssize_t r = in ? read(fd, buf, n) : write(fd, buf, n);
        if (r <= 0)
            err(1, "socket");
        buf += r;
        n -= (size_t)r;
    }
}

/* A child that runs fn on the other end of a socket pair. */
static int peer(void (*fn)(int), pid_t *pid)
{
    int sv[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
        err(1, "socketpair");
    *pid = fork();
    if (*pid == 0) {
        close(sv[0]);
        fn(sv[1]);
        _exit(0);
    }
    close(sv[1]);
    return sv[0];
}

#endif
