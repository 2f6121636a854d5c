/* SPDX-License-Identifier: MIT */
/*
 * Servers that follow one another, as keeper/keeper.h describes: each is a clone of this process
 * that shares its table of descriptors, is killed, and leaves in the table what it had open and in
 * shared memory what it recorded. What nobody claims is closed before the next.
 */
#ifndef UNIT_LASTING_FIXTURE_H
#define UNIT_LASTING_FIXTURE_H

#include "base/keep.h"
#include "each_fd.h"
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define RECORDS 256

/* What one server tells the next, and the ledger of a door would hold. */
struct kept_key {
    uint8_t key[64];
    int len;
    uint64_t ino;
};
static struct shared {
    struct kept_key key[16];
    int kept[16]; /* pl_file.kept; 0: none */
    uint64_t pos, n[16];
    char seen[4096]; /* of entries of a directory */
    _Atomic int go, got;
} * shared;
static struct pl_keep *keep;
static int ready[2];         /* a server says by a byte that it has done its part */
static char table_was[1024]; /* descriptors that are not a server's */

#define MUST(x) must((x), #x, __FILE__, __LINE__)
/* In a server an assertion of cmocka would not end the process. */
static inline void must(bool is, const char *what, const char *file, int line)
{
    if (is)
        return;
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    _exit(1);
}

static inline void note_fd(int fd)
{
    table_was[fd] = 1;
}

static int strangers;
static inline void sweep_fd(int fd)
{
    struct pl_kept k = {0};
    bool claimed = table_was[fd];
    for (int i = 0; i < 16; i++)
        claimed |= shared->kept[i] == fd;
    while (pl_keep_next(keep, k.record, &k))
        claimed |= k.fd == fd;
    if (!claimed) {
        strangers++;
        close(fd);
    }
}

static inline int count_records(void)
{
    struct pl_kept k = {0};
    int n = 0;
    while (pl_keep_next(keep, k.record, &k))
        n++;
    return n;
}

static inline void lasting_begin(void)
{
    size_t size = keep_size(RECORDS);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED && mem != MAP_FAILED && pipe(ready) == 0);
    keep = keep_over(mem, RECORDS);
    memset(table_was, 0, sizeof(table_was));
    each_fd(note_fd);
}

static inline void lasting_end(void)
{
    struct pl_kept k = {0};
    while (pl_keep_next(keep, k.record, &k))
        pl_keep_del(keep, k.record);
    memset(shared->kept, 0, sizeof(shared->kept));
    each_fd(sweep_fd);
    close(ready[0]);
    close(ready[1]);
    munmap(shared, sizeof(*shared));
    munmap(keep, keep_size(RECORDS));
}

/* Starts a server that runs fn and then waits for its end. */
static inline pid_t server_start(void (*fn)(void))
{
    fflush(NULL);
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        fn();
        must(write(ready[1], "", 1) == 1, "ready", __FILE__, __LINE__);
        for (;;)
            pause();
    }
    return pid;
}

/* Waits until it has done its part: true, or false when it has died. */
static inline bool server_ready(pid_t pid)
{
    struct pollfd p = {.fd = ready[0], .events = POLLIN};
    int status;
    char byte;
    while (poll(&p, 1, 50) == 0)
        if (waitpid(pid, &status, WNOHANG) == pid)
            return false;
    return read(ready[0], &byte, 1) == 1;
}

/* Kills it and leaves the table as its successor finds it. */
static inline void server_kill(pid_t pid)
{
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    strangers = 0;
    each_fd(sweep_fd);
}

static inline void server(void (*fn)(void))
{
    pid_t pid = server_start(fn);
    assert_true(server_ready(pid));
    server_kill(pid);
}

#endif
