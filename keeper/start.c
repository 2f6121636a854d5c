/* SPDX-License-Identifier: MIT */
/* How a keeper comes to be: out of the user's process, with mount points checked, entries in the
 * registry and, when the server is ready, mounts. */
#include "base/log.h"
#include "keeper/state.h"
#include "keeper/upgrade.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

int start_check(struct keeper *k, struct pl_err *err)
{
    for (size_t i = 0; i < k->n; i++) {
        const struct keeper_mount *m = &k->job->mounts[i];
        int rc = 0;
        if (m->given)
            snprintf(k->m[i].path, sizeof(k->m[i].path), "%s", m->dir);
        else
            rc = mount_check(m->dir, m->opts.nonempty, k->m[i].path, err);
        if (rc < 0)
            return rc;
        for (size_t j = 0; j < i; j++) {
            const char *a = k->m[j].path, *b = k->m[i].path;
            size_t na = strlen(a), nb = strlen(b), n = na < nb ? na : nb;
            const char *longer = na < nb ? b : a;
            if (strncmp(a, b, n) == 0 && (longer[n] == 0 || longer[n] == '/' || n == 1))
                return pl_fail(err, -EINVAL,
                               "%s: is to be mounted together with %s (neither may "
                               "lie in the other)",
                               b, a);
        }
    }
    return 0;
}

int start_register(struct keeper *k, struct pl_err *err)
{
    for (size_t i = 0; i < k->n; i++) {
        struct keeper_mount *m = &k->job->mounts[i];
        if (reg_add(k->job->kind, k->m[i].path, m->spec, &k->m[i].entry, &k->m[i].page) == -ENOMEM)
            return pl_fail(err, -ENOMEM, "out of memory");
        atomic_store(&k->m[i].page->keeper, getpid());
        m->page = k->m[i].page;
        if (!k->job->lasts)
            continue;
        int rc = ledger_new(&m->ledger, m->nodes, true);
        if (rc < 0)
            return pl_fail(err, rc, "no memory for the ledger: %s", strerror(-rc));
        k->m[i].ledger = &m->ledger;
    }
    return 0;
}

/* The kernel reads 128 KiB ahead by itself, which is one request: with more it asks for the next
 * while the last is used. Only root may set it, and without it everything works. */
static void read_ahead(dev_t dev)
{
    char path[64];
    snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(dev), minor(dev));
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (write(fd, "4096", 4) < 0)
        errno = 0;
    close(fd);
}

int start_mounts(struct keeper *k, struct pl_err *err)
{
    for (size_t i = 0; i < k->n; i++) {
        struct kept *m = &k->m[i];
        const struct keeper_mount *job = &k->job->mounts[i];
        struct mount_opts opts = job->opts;
        if (job->given) {
            m->fd = job->fd;
            m->dev = job->dev;
            read_ahead(m->dev);
            continue;
        }
        if (!opts.source)
            opts.source = job->spec;
        int rc = mount_fuse(m->path, &opts, &m->fd, err);
        if (rc == 0) {
            rc = mount_dev(m->path, &m->dev);
            if (rc < 0)
                pl_fail(err, rc, "%s: went away as soon as it was mounted", m->path);
        }
        if (rc < 0)
            return rc;
        m->mounted = true;
        read_ahead(m->dev);
    }
    return 0;
}

static bool is_given(const struct keeper_job *job, int fd)
{
    for (size_t i = 0; i < job->nmounts; i++)
        if (job->mounts[i].given && job->mounts[i].fd == fd)
            return true;
    return false;
}

/* The descriptors that this process was started with, but for the standard ones and the keeper's;
 * -1 ends them. */
static int *inherited(const struct keeper_job *job)
{
    DIR *d = opendir("/proc/self/fd");
    size_t n = 0, room = 64;
    int *list = malloc(room * sizeof(*list));
    for (struct dirent *de; d && list && (de = readdir(d));) {
        int fd = atoi(de->d_name);
        if (fd <= 2 || fd == dirfd(d) || is_given(job, fd))
            continue;
        if (n + 2 > room) {
            int *more = realloc(list, 2 * room * sizeof(*list));
            if (!more)
                break;
            list = more;
            room *= 2;
        }
        list[n++] = fd;
    }
    if (d)
        closedir(d);
    if (list)
        list[n] = -1;
    return list;
}

/* In the user's process: waits for the keeper's word. */
static int wait_word(const struct keeper_job *job, int sock, pid_t keeper)
{
    struct fdpass m;
    int status;
    if (fdpass_recv(sock, &m) > 0 && m.type == MSG_RESULT) {
        if (m.len)
            log_say(true, "%s: %s", job->prefix, m.data);
        if (m.value) /* it is ending: leave nothing behind */
            waitpid(keeper, &status, 0);
        return (int)m.value;
    }
    log_say(true, "%s: the keeper ended unexpectedly", job->prefix);
    waitpid(keeper, &status, 0);
    return 1;
}

static int in_background(struct keeper *k)
{
    int *given = inherited(k->job), pair[2];
    int rc = fdpass_pair(pair);
    fflush(NULL);
    pid_t pid = rc < 0 ? -1 : fork();
    if (pid == 0) {
        close(pair[0]);
        k->user = pair[1];
        _exit(keeper_keep(k, given));
    }
    if (pid < 0) {
        log_say(true, "%s: cannot start the keeper: %s", k->job->prefix,
                strerror(rc < 0 ? -rc : errno));
        free(given);
        return 1;
    }
    close(pair[1]);
    rc = wait_word(k->job, pair[0], pid);
    close(pair[0]);
    free(given);
    return rc;
}

int keeper_run(const struct keeper_job *job)
{
    struct keeper k = {.job = job,
                       .n = job->nmounts,
                       .user = -1,
                       .sock = -1,
                       .signals = -1,
                       .life = {.nurse = -1, .mountinfo = -1},
                       .up = {.listener = -1, .client = -1, .nurse = -1, .old_nurse = -1}};
    k.m = calloc(k.n ? k.n : 1, sizeof(*k.m));
    if (!k.m) {
        log_say(true, "%s: out of memory", job->prefix);
        return 1;
    }
    for (size_t i = 0; i < k.n; i++) {
        k.m[i].fd = -1;
        k.m[i].in.fd = -1;
    }
    upgrade_adopt(job, k.m); /* does not return when this is a running mount's new nursery */
    upgrade_note(job);
    int status;
    if (job->foreground) {
        int *given = inherited(job);
        status = keeper_keep(&k, given);
        free(given);
    } else {
        status = in_background(&k);
    }
    free(k.m);
    return status;
}
