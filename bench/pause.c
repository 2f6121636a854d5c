/* SPDX-License-Identifier: MIT */
/*
 * How long a client waits while the server of its mount is replaced: a thread makes one call after
 * the other on FILE and keeps the longest since the mark. Commands come on standard input, each is
 * answered by a line:
 *   kill PID  marks, and kills that process with SIGKILL: "ok", or "no PID"
 *   mark      marks: "ok"
 *   report    once one more call has returned: "WAITED LONGEST CALLS ERRORS ERRNO": microseconds
 *             from the mark to the return of the call that found no server, the longest of those
 *             begun at most 1 ms after the mark; microseconds of the longest call of all that
 *             returned since the mark; how many did, how many failed, and the last one's error;
 *             "hung" when no call returns for 30 s
 *
 * usage: pause FILE read|stat     (4 KiB at offset 0 of a file opened once; or by its path)
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { HUNG_MS = 30000, DYING_US = 1000 };

static struct {
    const char *path;
    int fd; /* -1: stat */
    pthread_mutex_t lock;
    /* the lock guards these */
    double mark, longest;   /* of all calls */
    double waiting, waited; /* of those that the mark met: the longest, and its return */
    unsigned long calls, errors, all;
    int error;
} client = {.fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int call(void)
{
    char buf[4096];
    struct stat st;
    if (client.fd < 0)
        return stat(client.path, &st) < 0 ? errno : 0;
    ssize_t n = pread(client.fd, buf, sizeof(buf), 0);
    return n < 0 ? errno : n == sizeof(buf) ? 0 : EIO;
}

static void *loop(void *arg)
{
    for (;;) {
        double start = now();
        int error = call();
        double end = now();
        pthread_mutex_lock(&client.lock);
        client.calls++;
        client.all++;
        if (end - start > client.longest)
            client.longest = end - start;
        if (end - start > client.waiting && start < client.mark + DYING_US) {
            client.waiting = end - start;
            client.waited = end - client.mark;
        }
        if (error) {
            client.errors++;
            client.error = error;
        }
        pthread_mutex_unlock(&client.lock);
    }
    return arg;
}

static void mark(void)
{
    pthread_mutex_lock(&client.lock);
    client.longest = client.waiting = client.waited = 0;
    client.calls = client.errors = 0;
    client.error = 0;
    client.mark = now();
    pthread_mutex_unlock(&client.lock);
}

static unsigned long all_calls(void)
{
    pthread_mutex_lock(&client.lock);
    unsigned long n = client.all;
    pthread_mutex_unlock(&client.lock);
    return n;
}

static void report(void)
{
    unsigned long before = all_calls();
    for (int ms = 0; all_calls() == before; ms++) {
        if (ms == HUNG_MS) {
            puts("hung");
            return;
        }
        usleep(1000);
    }
    pthread_mutex_lock(&client.lock);
    printf("%.0f %.0f %lu %lu %d\n", client.waited, client.longest, client.calls, client.errors,
           client.error);
    pthread_mutex_unlock(&client.lock);
}

int main(int argc, char **argv)
{
    char line[64];
    int pid;
    pthread_t thread;
    if (argc != 3 || (strcmp(argv[2], "read") && strcmp(argv[2], "stat")))
        errx(2, "usage: pause FILE read|stat");
    client.path = argv[1];
    if (!strcmp(argv[2], "read")) {
        client.fd = open(client.path, O_RDONLY);
        if (client.fd < 0)
            err(1, "%s", client.path);
    }
    mark();
    if (pthread_create(&thread, NULL, loop, NULL))
        errx(1, "no thread");
    while (fgets(line, sizeof(line), stdin)) {
        if (sscanf(line, "kill %d", &pid) == 1) {
            mark();
            puts(pid > 1 && kill(pid, SIGKILL) == 0 ? "ok" : "no PID");
        } else if (!strcmp(line, "mark\n")) {
            mark();
            puts("ok");
        } else if (!strcmp(line, "report\n")) {
            report();
        } else {
            errx(2, "%s: no such command", line);
        }
        fflush(stdout);
    }
    _exit(0); /* the thread may be waiting for a server that does not answer */
}
