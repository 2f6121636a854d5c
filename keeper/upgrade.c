/* SPDX-License-Identifier: MIT */
#include "keeper/upgrade.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define VARIABLE "PLENUM_NURSERY"

static char program[PATH_MAX], directory[PATH_MAX];

/* ---- before the exec ---- */

/* Is that the file that this process runs? */
static bool is_us(const char *path)
{
    struct stat a, b;
    return stat(path, &a) == 0 && stat("/proc/self/exe", &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

/* By the name it was called, so that a link that will point to a new version is followed then. */
static bool find_called(const char *name)
{
    char path[PATH_MAX];
    if (strchr(name, '/')) {
        int n = snprintf(path, sizeof(path), "%s%s%s", *name == '/' ? "" : directory,
                         *name == '/' ? "" : "/", name);
        if (n >= (int)sizeof(path) || !is_us(path))
            return false;
        strcpy(program, path);
        return true;
    }
    const char *dirs = getenv("PATH");
    for (const char *d = dirs; d; d = strchr(d, ':') ? strchr(d, ':') + 1 : NULL) {
        int n = snprintf(path, sizeof(path), "%.*s/%s", (int)strcspn(d, ":"), d, name);
        if (*d == '/' && n < (int)sizeof(path) && is_us(path)) {
            strcpy(program, path);
            return true;
        }
    }
    return false;
}

void upgrade_note(const struct keeper_job *job)
{
    if (!getcwd(directory, sizeof(directory)))
        *directory = 0;
    if (job->argc && find_called(job->argv[0]))
        return;
    static const char gone[] = " (deleted)"; /* replaced already */
    ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
    program[n < 0 ? 0 : n] = 0;
    char *end = strstr(program, gone);
    if (end && end[sizeof(gone) - 1] == 0)
        *end = 0;
}

static void keep_over_exec(void *arg, int fd)
{
    fcntl(fd, F_SETFD, 0);
}

static _Noreturn void refuse(int sock, int rc, const char *fmt, const char *what)
{
    char text[512];
    snprintf(text, sizeof(text), fmt, what, strerror(-rc));
    wire_say(sock, MSG_READY, 0, rc, text);
    _exit(1);
}

_Noreturn void upgrade_exec(const struct keeper_job *job, int sock, bool trial)
{
    char value[32];
    if (!trial)
        for (size_t i = 0; i < job->nmounts; i++)
            ledger_claims(&job->mounts[i].ledger, keep_over_exec, NULL);
    fcntl(sock, F_SETFD, 0);
    snprintf(value, sizeof(value), "%d", sock);
    setenv(VARIABLE, value, 1);
    signal(SIGINT, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    /* where its relative paths mean what they did */
    if (*directory && chdir(directory) < 0)
        refuse(sock, -errno, "%s: the directory where it was started: %s", directory);
    execv(program, job->argv);
    refuse(sock, -errno, "%s: cannot be run: %s", program);
}

/* ---- after it ---- */

/* The page of the running mount instead of a new one, and its ledger. */
static int inherit(const struct keeper_job *job, struct kept *mounts, struct fdpass *m,
                   struct pl_err *err)
{
    struct keeper_mount *mount = &job->mounts[m->index];
    struct kept *k = &mounts[m->index];
    int rc = ledger_map(&mount->ledger, m->fd[0]);
    if (rc < 0) {
        fdpass_drop(m);
        return pl_fail(err, rc,
                       "the running mount's ledger is of another version: it cannot be taken over "
                       "(unmount it and mount it again)");
    }
    k->ledger = &mount->ledger;
    rc = reg_adopt(m->fd[1], m->fd[2], m->data, &k->entry, &k->page);
    if (rc < 0)
        return pl_fail(err, rc,
                       "the registry is of another version (unmount it and mount it again)");
    mount->page = k->page;
    snprintf(k->path, sizeof(k->path), "%s", k->page->dir);
    char now[PATH_MAX] = "";
    mount_path(mount->dir, now, NULL);
    if (strcmp(now, k->path) != 0)
        return pl_fail(err, -EINVAL, "%s: the command line means another directory now: %s",
                       k->path, *now ? now : mount->dir);
    if (strncmp(mount->spec, k->page->spec, sizeof(k->page->spec) - 1) != 0)
        return pl_fail(err, -EINVAL, "%s: the command line means another tree now: %.200s", k->path,
                       mount->spec);
    return 0;
}

static int greet(const struct keeper_job *job, int sock, struct pl_err *err)
{
    struct fdpass m;
    int rc = fdpass_recv(sock, &m);
    if (rc <= 0 || m.type != MSG_ADOPT)
        return pl_fail(err, -EPROTO, "the keeper says something else than expected");
    if (m.value != WIRE_VERSION)
        return pl_fail(err, -EPROTO,
                       "the running keeper is of another version (unmount it and mount it again)");
    if (m.index != job->nmounts || strcmp(m.data, job->kind) != 0 || !job->lasts)
        return pl_fail(err, -EINVAL, "the command line means another job now");
    return 0;
}

static int adopt(const struct keeper_job *job, struct kept *mounts, int sock, struct pl_err *err)
{
    struct fdpass m;
    int rc = greet(job, sock, err);
    for (size_t i = 0; rc == 0 && i < job->nmounts; i++) {
        rc = fdpass_recv(sock, &m);
        if (rc > 0 && m.type == MSG_HEIR && m.index < job->nmounts && m.nfd == 3)
            rc = inherit(job, mounts, &m, err);
        else
            rc = pl_fail(err, -EPROTO, "the keeper says something else than expected");
    }
    return rc;
}

static void close_on_exec(void *arg, int fd)
{
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

void upgrade_adopt(const struct keeper_job *job, struct kept *mounts)
{
    const char *value = getenv(VARIABLE);
    struct pl_err err = {0};
    sigset_t mask;
    int sock = value ? atoi(value) : -1, type;
    socklen_t size = sizeof(type);
    if (!value)
        return;
    unsetenv(VARIABLE);
    if (getsockopt(sock, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_SEQPACKET)
        return; /* nothing of ours: somebody's own variable */
    fcntl(sock, F_SETFD, FD_CLOEXEC);
    int rc = adopt(job, mounts, sock, &err);
    for (size_t i = 0; rc == 0 && i < job->nmounts; i++)
        ledger_claims(&job->mounts[i].ledger, close_on_exec, NULL);
    wire_say(sock, MSG_READY, 0, rc, err.text);
    if (rc < 0)
        _exit(1);
    upgrade_note(job);
    sigprocmask(SIG_SETMASK, NULL, &mask);
    nursery_run(job, mounts, sock, &mask);
}

/* ---- the one who asks ---- */

int keeper_upgrade(const char *dir, char text[200], struct pl_err *err)
{
    struct fdpass m = {.type = MSG_UPGRADE};
    int sock = reg_dial(dir);
    if (sock == -ENOENT)
        return pl_fail(
            err, sock,
            "%s: no mount of this user's that can be upgraded (plenum status shows them)", dir);
    int rc = sock < 0 ? sock : fdpass_send(sock, &m);
    rc = rc < 0 ? rc : fdpass_recv(sock, &m);
    if (sock >= 0)
        close(sock);
    if (rc < 0)
        return pl_fail(err, rc, "%s: its keeper does not answer: %s", dir, strerror(-rc));
    if (rc == 0 || m.type != MSG_RESULT)
        return pl_fail(err, -EPIPE, "%s: ended meanwhile", dir);
    if (m.value)
        return pl_fail(err, -EAGAIN, "%s: %s", dir, m.data);
    snprintf(text, 200, "%.199s", m.data);
    return 0;
}
