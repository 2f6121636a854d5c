/* SPDX-License-Identifier: MIT */
#include "keeper/stand_in.h"
#include "fuse/msg.h"
#include "keeper/wire.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define DEV_IOC_CLONE 0x8004e500u
#define BUFFER        ((1u << 20) + 4096) /* of the largest request, unless the mount says more */
#define MOST          (16u << 20)
#define BATCH         256     /* requests in a row, so that other mounts get their turn */
#define FORGOT_MAX    1000000 /* beyond, nodes are kept until the mount ends */

struct forgot {
    uint64_t nodeid, nlookup;
};

int stand_in_open(struct kept *m)
{
    if (m->in.fd >= 0 || m->fd < 0)
        return m->in.fd;
    int fd = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    uint32_t of = (uint32_t)m->fd;
    if (fd >= 0 && ioctl(fd, DEV_IOC_CLONE, &of) < 0) {
        close(fd);
        fd = -1;
    }
    m->in.fd = fd;
    return fd;
}

void stand_in_close(struct kept *m)
{
    if (m->in.fd >= 0)
        close(m->in.fd);
    free(m->in.forgot);
    m->in = (struct stand_in){.fd = -1};
}

/* One buffer for all mounts: what is in it is dealt with before the next is read. */
static void *buffer(const struct kept *m, size_t *size)
{
    static void *buf;
    static size_t have;
    size_t want = m->ledger ? (size_t)m->ledger->head->max_write + 4096 : 0;
    want = want < BUFFER ? BUFFER : want > MOST ? MOST : want;
    if (want > have) {
        void *p = mmap(NULL, want, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return NULL;
        if (buf)
            munmap(buf, have);
        buf = p;
        have = want;
    }
    *size = have;
    return buf;
}

int stand_in_read(struct kept *m, void **ret)
{
    size_t size;
    *ret = buffer(m, &size);
    if (!*ret)
        return -ENOMEM;
    for (;;) {
        ssize_t n = read(m->in.fd, *ret, size);
        if (n >= 0)
            return (int)n;
        if (errno == EAGAIN)
            return 0;
        if (errno != EINTR && errno != ENOENT) /* ENOENT: taken back while it was read */
            return -errno;
    }
}

/* Tries the clone, then the server's descriptor. */
void stand_in_answer(struct kept *m, uint64_t unique, int error, const void *data, size_t n)
{
    struct fuse_out_header h = {(uint32_t)(sizeof(h) + n), error, unique};
    struct iovec iov[2] = {{&h, sizeof(h)}, {(void *)data, n}};
    if (writev(m->in.fd, iov, n ? 2 : 1) < 0 && errno == ENOENT && m->fd >= 0 &&
        writev(m->fd, iov, n ? 2 : 1) < 0)
        errno = 0; /* answered meanwhile, or asked again: then its INTERRUPT comes again too */
}

int stand_in_resend(struct kept *m)
{
    struct fuse_out_header h = {sizeof(h), FUSE_NOTIFY_RESEND, 0};
    int fd = m->in.fd >= 0 ? m->in.fd : m->fd;
    return write(fd, &h, sizeof(h)) < 0 ? -errno : 0;
}

static void note(struct stand_in *in, uint64_t nodeid, uint64_t nlookup)
{
    if (in->nforgot == in->room) {
        size_t room = in->room ? 2 * in->room : 256;
        struct forgot *more =
            room > FORGOT_MAX ? NULL : realloc(in->forgot, room * sizeof(*in->forgot));
        if (!more)
            return;
        in->forgot = more;
        in->room = room;
    }
    in->forgot[in->nforgot++] = (struct forgot){nodeid, nlookup};
}

static void note_batch(struct stand_in *in, const struct fuse_msg *msg)
{
    struct fuse_forget_one one;
    for (size_t at = 0; at + sizeof(one) <= msg->size; at += sizeof(one)) {
        memcpy(&one, (const char *)msg->data + at, sizeof(one));
        note(in, one.nodeid, one.nlookup);
    }
}

/* ---- who is to be let go --------------------------------------------------------------------- */

/* What somebody sends who wants a program to end. */
#define ENDING(n) (1ull << ((n)-1))
static const uint64_t endings = ENDING(SIGHUP) | ENDING(SIGINT) | ENDING(SIGQUIT) |
                                ENDING(SIGABRT) | ENDING(SIGKILL) | ENDING(SIGTERM);

static uint64_t signals(const char *status, const char *label)
{
    const char *p = strstr(status, label);
    return p ? strtoull(p + strlen(label), NULL, 16) : 0;
}

static bool task_ends(const char *pid, const char *tid)
{
    char path[600], status[4096];
    snprintf(path, sizeof(path), "/proc/%s/task/%s/status", pid, tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, status, sizeof(status) - 1);
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return false;
    status[n] = 0;
    uint64_t pending = signals(status, "\nSigPnd:") | signals(status, "\nShdPnd:");
    return pending & ~signals(status, "\nSigBlk:") & endings;
}

static bool any_task(const char *path, bool (*of)(const char *, const char *), const char *pid)
{
    DIR *d = opendir(path);
    bool found = false;
    for (struct dirent *e; d && !found && (e = readdir(d));)
        if (isdigit((unsigned char)e->d_name[0]))
            found = of(pid ? pid : e->d_name, e->d_name);
    if (d)
        closedir(d);
    return found;
}

static bool process_ends(const char *pid, const char *same)
{
    char path[600];
    snprintf(path, sizeof(path), "/proc/%s/task", pid);
    return any_task(path, task_ends, pid);
}

void stand_in_look(struct kept *m)
{
    struct stand_in *in = &m->in;
    if (!in->nheld || !any_task("/proc", process_ends, NULL))
        return;
    for (size_t i = 0; i < in->nheld; i++)
        stand_in_answer(m, in->held[i], -EINTR, NULL, 0);
    in->nheld = 0;
}

static void hold(struct kept *m, uint64_t unique)
{
    struct stand_in *in = &m->in;
    if (in->nheld == sizeof(in->held) / sizeof(*in->held))
        stand_in_answer(m, unique, -EINTR, NULL, 0);
    else
        in->held[in->nheld++] = unique;
}

void stand_in_soft(struct kept *m)
{
    m->in.soft = true;
    stand_in_resend(m);
}

/* Somebody waits for the answer, and nothing is lost to the next server if it is not asked. */
static bool may_fail(const struct fuse_msg *msg)
{
    return msg->h.opcode != FUSE_RELEASE && msg->h.opcode != FUSE_RELEASEDIR;
}

void stand_in_let_go(struct kept *m)
{
    bool ext = m->ledger && (m->ledger->head->flags & FUSE_SETXATTR_EXT);
    struct fuse_msg msg;
    void *buf;
    int n;
    for (int i = 0; i < BATCH && (n = stand_in_read(m, &buf)) > 0; i++) {
        bool good = fuse_msg_decode(buf, (size_t)n, ext, &msg) == 0;
        if (good && msg.h.opcode == FUSE_INTERRUPT)
            hold(m, msg.a.interrupt.unique);
        else if (good && msg.h.opcode == FUSE_FORGET)
            note(&m->in, msg.h.nodeid, msg.a.forget.nlookup);
        else if (good && msg.h.opcode == FUSE_BATCH_FORGET)
            note_batch(&m->in, &msg);
        else if (good && m->in.soft && may_fail(&msg))
            stand_in_answer(m, msg.h.unique, -ETIMEDOUT, NULL, 0);
        else
            m->in.swallowed = true;
    }
    stand_in_look(m);
}

void stand_in_end(struct kept *m)
{
    m->in.soft = false;
    if (!m->in.swallowed && !m->in.nheld)
        return;
    m->in.swallowed = false;
    m->in.nheld = 0; /* what comes again is asked to be interrupted again */
    stand_in_resend(m);
}

void stand_in_settle(struct kept *m)
{
    struct stand_in *in = &m->in;
    for (size_t i = 0; m->ledger && i < in->nforgot; i++)
        ledger_forget(m->ledger, in->forgot[i].nodeid, in->forgot[i].nlookup);
    in->nforgot = 0;
    in->nheld = 0;
    in->swallowed = in->soft = false;
}
