/* SPDX-License-Identifier: MIT */
#include "box.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int64_t box_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* By descriptors, since what is to go may be deeper than any path; not into other mounts. */
static void remove_all(int at, const char *name, dev_t dev)
{
    struct stat st;
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (d && fstat(fd, &st) == 0 && st.st_dev == dev)
        for (struct dirent *e; (e = readdir(d));) {
            if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
                continue;
            if (e->d_type == DT_DIR)
                remove_all(fd, e->d_name, dev);
            else
                unlinkat(fd, e->d_name, 0);
        }
    if (d)
        closedir(d);
    unlinkat(at, name, AT_REMOVEDIR);
}

/* The innermost mount beneath `dir`: false if there is none. Asks nobody who may hang. */
static bool mounted_beneath(const char *dir, char at[4096])
{
    char line[8192], path[4096];
    size_t n = strlen(dir);
    FILE *f = fopen("/proc/self/mountinfo", "re");
    at[0] = 0;
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "%*s %*s %*s %*s %4095s", path) == 1 && !strncmp(path, dir, n) &&
            path[n] == '/')
            strcpy(at, path);
    if (f)
        fclose(f);
    return at[0];
}

static void clean(const char *scratch)
{
    char at[4096];
    struct stat st;
    for (int tries = 0; tries < 16 && mounted_beneath(scratch, at); tries++) {
        umount2(at, MNT_FORCE); /* aborts the connection of a dead or hanging server */
        umount2(at, MNT_DETACH);
    }
    if (stat(scratch, &st) == 0)
        remove_all(AT_FDCWD, scratch, st.st_dev);
}

static size_t drain(int fd, char *text, size_t n, size_t size)
{
    ssize_t got = n + 1 < size ? read(fd, text + n, size - 1 - n) : 0;
    n += got > 0 ? (size_t)got : 0;
    text[n] = 0;
    return n;
}

/* Until the process itself ends; others that it started may have the pipe open for longer. */
static int wait_for(pid_t pid, int fd, int seconds, char *text, size_t size)
{
    int64_t until = box_ms() + seconds * 1000LL;
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), status = -1;
    struct pollfd p[2] = {{pidfd, POLLIN, 0}, {fd, POLLIN, 0}};
    size_t n = 0;
    text[0] = 0;
    for (int64_t left; pidfd >= 0 && (left = until - box_ms()) > 0;) {
        if (poll(p, 2, (int)left) <= 0)
            continue;
        if (p[1].revents & POLLIN)
            n = drain(fd, text, n, size);
        else if (p[1].revents)
            p[1].fd = -1;
        if (!(p[0].revents & POLLIN) || waitpid(pid, &status, 0) != pid)
            continue;
        if (p[1].fd >= 0 && poll(p + 1, 1, 0) > 0 && p[1].revents & POLLIN)
            drain(fd, text, n, size);
        break;
    }
    close(pidfd);
    return status;
}

int box_run(const char *dir, int seconds, void (*fn)(void *arg, const char *scratch, int fd),
            void *arg, char *text, size_t size)
{
    char scratch[4096];
    int fds[2];
    snprintf(scratch, sizeof(scratch), "%.4000s/conform.XXXXXX", dir);
    if (!mkdtemp(scratch) || pipe2(fds, O_CLOEXEC) < 0) {
        snprintf(text, size, "%.900s: %s", scratch, strerror(errno));
        return -1;
    }
    if (geteuid() == 0) /* other users act in there too, and some file systems walk for each */
        chmod(scratch, 0755);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fds[0]);
        fn(arg, scratch, fds[1]);
        exit(0);
    }
    close(fds[1]);
    int status = -1;
    if (pid > 0) {
        setpgid(pid, pid);
        status = wait_for(pid, fds[0], seconds, text, size);
        kill(-pid, SIGKILL); /* the group: its servers too, if any are left */
    }
    clean(scratch);
    if (pid > 0 && status == -1) {
        waitpid(pid, NULL, 0);
        clean(scratch);
    }
    close(fds[0]);
    if (status == -1 && !text[0])
        snprintf(text, size, pid < 0 ? "no process" : "hangs: killed after %d s", seconds);
    return status;
}
