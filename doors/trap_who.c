/* SPDX-License-Identifier: MIT */
/*
 * Who calls: its credentials, its memory, its descriptors.
 *
 * What is known of a thread is kept with a pidfd of it, so that a number that is used again is not
 * taken for it: every call begins by asking whether the thread is there, or by taking a copy of the
 * state's descriptor, which fails once it is gone.
 */
#include "base/cred.h"
#include "doors/trap_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

static void read_groups(struct who *w, const char *s)
{
    char *end;
    w->ngroups = 0;
    for (;; s = end) {
        unsigned long g = strtoul(s, &end, 10);
        if (end == s || w->ngroups == sizeof(w->groups) / sizeof(*w->groups))
            break;
        w->groups[w->ngroups++] = (gid_t)g;
        if (*end == '\n')
            break;
    }
}

/* From /proc/TID/status: of uids and gids those of file accesses, the fourth. */
static int read_status(struct who *w)
{
    char path[40], buf[4096];
    snprintf(path, sizeof(path), "/proc/%d/status", w->tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return -ESRCH;
    buf[n] = 0;
    unsigned uid = 0, gid = 0, mask = 0;
    const char *s;
    if ((s = strstr(buf, "\nTgid:")))
        w->tgid = atoi(s + 6);
    if ((s = strstr(buf, "\nUmask:")) && sscanf(s + 7, "%o", &mask) == 1)
        atomic_store(&w->umask, mask);
    if ((s = strstr(buf, "\nUid:")) && sscanf(s + 5, "%*u %*u %*u %u", &uid) == 1)
        w->uid = uid;
    if ((s = strstr(buf, "\nGid:")) && sscanf(s + 5, "%*u %*u %*u %u", &gid) == 1)
        w->gid = gid;
    if ((s = strstr(buf, "\nGroups:")))
        read_groups(w, s + 8);
    return 0;
}

static void who_free(struct who *w)
{
    if (w->pidfd >= 0)
        close(w->pidfd);
    free(w);
}

static int who_new(pid_t tid, struct who **ret)
{
    struct who *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->tid = tid;
    w->pidfd = (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD);
    w->exact = w->pidfd >= 0;
    int r = read_status(w);
    /* Before 6.9 there are pidfds of processes only: the number of another thread could then be
     * taken for this one's, with what the process has. */
    if (r == 0 && w->pidfd < 0 && errno == EINVAL)
        w->pidfd = (int)syscall(SYS_pidfd_open, w->tgid, 0);
    if (r == 0 && w->pidfd < 0)
        r = -errno;
    if (r < 0)
        who_free(w);
    else
        *ret = w;
    return r;
}

static void unlink_who(struct trap *t, struct who *w)
{
    HASH_DEL(t->whos, w);
    w->gone = true;
    if (w->refs == 0)
        who_free(w);
}

static void make_room(struct trap *t)
{
    struct who *w, *next, *oldest = NULL;
    if (HASH_COUNT(t->whos) < TRAP_WHOS)
        return;
    HASH_ITER (hh, t->whos, w, next)
        if (w->refs == 0 && (!oldest || w->used < oldest->used))
            oldest = w;
    if (oldest)
        unlink_who(t, oldest);
}

struct who *who_get(struct trap *t, pid_t tid)
{
    struct who *w, *made = NULL;
    pthread_mutex_lock(&t->who_lock);
    HASH_FIND_INT(t->whos, &tid, w);
    if (!w) {
        pthread_mutex_unlock(&t->who_lock);
        if (who_new(tid, &made) < 0)
            return NULL;
        pthread_mutex_lock(&t->who_lock);
        HASH_FIND_INT(t->whos, &tid, w);
        if (w) {
            who_free(made);
        } else {
            make_room(t);
            w = made;
            HASH_ADD_INT(t->whos, tid, w);
        }
    }
    w->refs++;
    w->used = ++t->clock;
    pthread_mutex_unlock(&t->who_lock);
    if (atomic_exchange(&w->stale, false))
        read_status(w);
    return w;
}

void who_put(struct trap *t, struct who *w)
{
    pthread_mutex_lock(&t->who_lock);
    if (--w->refs == 0 && w->gone)
        who_free(w);
    pthread_mutex_unlock(&t->who_lock);
}

void who_drop(struct trap *t, struct who *w)
{
    pthread_mutex_lock(&t->who_lock);
    if (!w->gone)
        unlink_who(t, w);
    pthread_mutex_unlock(&t->who_lock);
}

void who_umask(struct trap *t, pid_t tgid, mode_t mask)
{
    struct who *w, *next;
    pthread_mutex_lock(&t->who_lock);
    HASH_ITER (hh, t->whos, w, next)
        if (w->tgid == tgid)
            atomic_store(&w->umask, mask);
    pthread_mutex_unlock(&t->who_lock);
}

void who_spare(struct trap *t)
{
    struct who *w, *next;
    pthread_mutex_lock(&t->who_lock);
    HASH_ITER (hh, t->whos, w, next)
        if (w->refs == 0)
            unlink_who(t, w);
    pthread_mutex_unlock(&t->who_lock);
}

void who_done(struct trap *t)
{
    struct who *w, *next;
    HASH_ITER (hh, t->whos, w, next)
        unlink_who(t, w);
}

struct item *who_state(struct trap *t, struct who *w)
{
    struct pollfd p = {.fd = w->pidfd, .events = POLLIN};
    uint64_t states = atomic_load(&t->states);
    pthread_mutex_lock(&t->who_lock);
    bool known = w->states == states;
    struct item_id id = w->state;
    pthread_mutex_unlock(&t->who_lock);
    return known && poll(&p, 1, 0) == 0 ? item_by_id(t, &id) : NULL;
}

void who_note(struct trap *t, struct who *w, const struct item *state, uint64_t states)
{
    if (!w->exact)
        return;
    pthread_mutex_lock(&t->who_lock);
    w->state = state->id;
    w->states = states;
    pthread_mutex_unlock(&t->who_lock);
}

int who_fd(struct who *w, int fd)
{
    cred_reset();
    int r = (int)syscall(SYS_pidfd_getfd, w->pidfd, fd, 0);
    return r < 0 ? -errno : r;
}

/* ---- memory ---- */

bool still_there(struct tcall *c)
{
    return ioctl(c->t->listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &c->n->id) == 0;
}

static ssize_t peek_some(struct tcall *c, uint64_t addr, void *buf, size_t n)
{
    struct iovec here = {buf, n}, there = {(void *)(uintptr_t)addr, n};
    cred_reset(); /* a tree may have left this thread with the caller's rights */
    ssize_t r = process_vm_readv((pid_t)c->n->pid, &here, 1, &there, 1, 0);
    return r < 0 ? (errno == EPERM ? -EPERM : -EFAULT) : r;
}

int peek(struct tcall *c, uint64_t addr, void *buf, size_t n)
{
    ssize_t r = peek_some(c, addr, buf, n);
    if (r >= 0 && (size_t)r != n)
        r = -EFAULT;
    return !still_there(c) ? -ESRCH : r < 0 ? (int)r : 0;
}

/* A page at a time: what follows the string may not be mapped. */
int peek_string(struct tcall *c, uint64_t addr, char *buf, size_t size)
{
    size_t have = 0;
    int r = -ENAMETOOLONG;
    while (have < size) {
        size_t n = 4096 - (addr + have) % 4096;
        if (have == 0 && n > 256)
            n = 256; /* most are short */
        if (n > size - have)
            n = size - have;
        ssize_t got = peek_some(c, addr + have, buf + have, n);
        if (got <= 0) {
            r = got < 0 ? (int)got : -EFAULT;
            break;
        }
        char *end = memchr(buf + have, 0, (size_t)got);
        if (end) {
            r = (int)(end - buf);
            break;
        }
        have += (size_t)got;
    }
    return r;
}

bool peek_raw(struct tcall *c, uint64_t addr, void *buf, size_t n)
{
    return peek_some(c, addr, buf, n) == (ssize_t)n;
}

bool poke_raw(struct tcall *c, uint64_t addr, const void *buf, size_t n)
{
    struct iovec here = {(void *)(uintptr_t)buf, n}, there = {(void *)(uintptr_t)addr, n};
    cred_reset();
    return process_vm_writev((pid_t)c->n->pid, &here, 1, &there, 1, 0) == (ssize_t)n;
}

int poke(struct tcall *c, uint64_t addr, const void *buf, size_t n)
{
    if (!still_there(c))
        return -ESRCH;
    return poke_raw(c, addr, buf, n) ? 0 : -EFAULT;
}

/* ---- rights ---- */

int as_caller(struct tcall *c)
{
    cred_umask(atomic_load(&c->w->umask) & 0777);
    if (!cred_able())
        return 0;
    return cred_set(c->w->uid, c->w->gid, c->w->groups, c->w->ngroups);
}

void as_self(void)
{
    cred_reset();
    cred_end();
}
