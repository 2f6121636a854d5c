/* SPDX-License-Identifier: MIT */
#include "keeper/fusermount.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAME    "fusermount3"
#define COMM_FD 3 /* in the helper */

/* Where it is installed when PATH has been cut short. */
static const char *const places[] = {NAME, "/usr/bin/" NAME, "/bin/" NAME, "/usr/local/bin/" NAME};

static int spawn(char *const argv[], char *const env[], int comm, int errors, pid_t *ret)
{
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t attr;
    sigset_t none, def;
    int rc = -ENOMEM;
    sigemptyset(&none);
    sigemptyset(&def);
    sigaddset(&def, SIGPIPE);
    sigaddset(&def, SIGCHLD);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigdefault(&attr, &def);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawn_file_actions_init(&fa);
    if (posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDWR, 0) == 0 &&
        posix_spawn_file_actions_adddup2(&fa, 0, 1) == 0 &&
        posix_spawn_file_actions_adddup2(&fa, errors, 2) == 0 &&
        (comm < 0 || posix_spawn_file_actions_adddup2(&fa, comm, COMM_FD) == 0)) {
        rc = -ENOENT;
        for (size_t i = 0; rc == -ENOENT && i < sizeof(places) / sizeof(*places); i++)
            rc = -posix_spawnp(ret, places[i], &fa, &attr, argv, env);
    }
    posix_spawn_file_actions_destroy(&fa);
    posix_spawnattr_destroy(&attr);
    return rc;
}

/* Above what `spawn` puts at 0 to 3. */
static int high(int fd)
{
    int up = fcntl(fd, F_DUPFD_CLOEXEC, 10);
    int rc = up < 0 ? -errno : up;
    close(fd);
    return rc;
}

static char **environment(void)
{
    static char comm[] = "_FUSE_COMMFD=3";
    extern char **environ;
    size_t n = 0, out = 0;
    while (environ && environ[n])
        n++;
    char **env = calloc(n + 3, sizeof(*env));
    if (!env)
        return NULL;
    /* its words are compared below */
    for (size_t i = 0; i < n; i++)
        if (strncmp(environ[i], "_FUSE_COMMFD=", 13) != 0 && strncmp(environ[i], "LC_ALL=", 7) != 0)
            env[out++] = environ[i];
    env[out++] = (char *)"LC_ALL=C";
    env[out] = comm;
    return env;
}

static size_t read_all(int fd, char *buf, size_t size)
{
    size_t n = 0;
    char rest[256];
    for (;;) {
        bool full = n + 1 >= size;
        ssize_t got = full ? read(fd, rest, sizeof(rest)) : read(fd, buf + n, size - 1 - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        if (!full)
            n += (size_t)got;
    }
    buf[n] = 0;
    return n;
}

/* Runs it; 0 with its exit status and what it said on standard error, or a negative errno. */
static int run(char *const argv[], int comm, int *status, char *said, size_t size)
{
    int pipefd[2];
    pid_t pid;
    char **env = environment();
    if (!env)
        return -ENOMEM;
    if (pipe2(pipefd, O_CLOEXEC) < 0) {
        free(env);
        return -errno;
    }
    int errors = high(pipefd[1]);
    int rc = errors < 0 ? errors : spawn(argv, env, comm, errors, &pid);
    if (errors >= 0)
        close(errors);
    free(env);
    if (rc == 0) {
        read_all(pipefd[0], said, size);
        pid_t got;
        while ((got = waitpid(pid, status, 0)) < 0 && errno == EINTR)
            ;
        if (got < 0)
            *status = -1; /* somebody else reaped it */
        /* one line, without its own name in front */
        said[strcspn(said, "\n")] = 0;
        char *colon = strstr(said, NAME ": ");
        if (colon == said)
            memmove(said, said + strlen(NAME ": "), strlen(said + strlen(NAME ": ")) + 1);
    }
    close(pipefd[0]);
    return rc;
}

/* The descriptor that the helper has sent, or a negative errno. */
static int receive(int sock)
{
    char byte;
    struct iovec iov = {&byte, 1};
    union {
        struct cmsghdr head;
        char buf[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = &control,
                        .msg_controllen = sizeof(control)};
    ssize_t n;
    while ((n = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC | MSG_DONTWAIT)) < 0 && errno == EINTR)
        ;
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&mh) : NULL;
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
        c->cmsg_len != CMSG_LEN(sizeof(int)))
        return -EPROTO;
    int fd;
    memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

static int missing(const char *dir, struct pl_err *err)
{
    return pl_fail(err, -ENOENT,
                   "%s: " NAME " is missing, and without it only root may mount (apt-get install "
                   "fuse3, or try unshare -Urm)",
                   dir);
}

static int refused(const char *dir, const char *said, struct pl_err *err)
{
    if (strstr(said, "user_allow_other"))
        return pl_fail(
            err, -EPERM,
            "%s: allow_other is not permitted to users (add the line user_allow_other to "
            "/etc/fuse.conf, or leave the option out)",
            dir);
    if (strstr(said, "no write access") || strstr(said, "not owned by user"))
        return pl_fail(
            err, -EACCES,
            "%s: not permitted to mount on it (the directory must be yours and writable)", dir);
    if (strstr(said, "too many FUSE"))
        return pl_fail(err, -EUSERS, "%s: too many FUSE mounts (raise mount_max in /etc/fuse.conf)",
                       dir);
    if (strstr(said, "device not found") || strstr(said, "unknown device"))
        return pl_fail(err, -ENODEV,
                       "/dev/fuse: there is none (load the fuse module: modprobe fuse)");
    if (strstr(said, "/dev/fuse: Permission denied"))
        return pl_fail(err, -EACCES, FUSE_DENIED);
    return pl_fail(err, -EPERM, "%s: " NAME " cannot mount: %s", dir,
                   *said ? said : "it does not say why (is it set-user-id root?)");
}

int fusermount_mount(const char *dir, const char *options, int *ret_fd, struct pl_err *err)
{
    char *argv[] = {(char *)NAME, (char *)"-o", (char *)options, (char *)"--", (char *)dir, NULL};
    int pair[2], status = 0;
    char said[300] = "";
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return pl_fail(err, -errno, "%s: no sockets: %s", dir, strerror(errno));
    int comm = high(pair[1]);
    int rc = comm < 0 ? comm : run(argv, comm, &status, said, sizeof(said));
    if (comm >= 0)
        close(comm);
    int fd = rc == 0 ? receive(pair[0]) : -1;
    close(pair[0]);
    if (rc == -ENOENT)
        return missing(dir, err);
    if (rc < 0)
        return pl_fail(err, rc, "%s: cannot run " NAME ": %s", dir, strerror(-rc));
    if (fd < 0)
        return refused(dir, said, err);
    *ret_fd = fd;
    return 0;
}

int fusermount_end(const char *dir, bool lazy, struct pl_err *err)
{
    char *argv[] = {(char *)NAME,
                    (char *)"-u",
                    (char *)(lazy ? "-z" : "--"),
                    (char *)(lazy ? "--" : dir),
                    (char *)(lazy ? dir : NULL),
                    NULL};
    int status = 0;
    char said[300] = "";
    int rc = run(argv, -1, &status, said, sizeof(said));
    if (rc == -ENOENT)
        return missing(dir, err);
    if (rc < 0)
        return pl_fail(err, rc, "%s: cannot run " NAME ": %s", dir, strerror(-rc));
    if (status == 0)
        return 0;
    if (strstr(said, "busy"))
        return pl_fail(err, -EBUSY, "%s: busy", dir);
    return pl_fail(err, -EPERM, "%s: not permitted to unmount it (%s)", dir,
                   *said && !strstr(said, " not found in ")
                       ? said
                       : "only root and the user who mounted it may");
}
