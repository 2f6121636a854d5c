/* SPDX-License-Identifier: MIT */
/*
 * The channel of a connection. Nothing here is guarded by a lock: one thread reads (the reader),
 * one writes (conn->writing), and any may cut.
 *
 * Inherited descriptors are never made O_NONBLOCK, as other processes may share them. Sockets have
 * MSG_DONTWAIT; pipes have RWF_NOWAIT; FIFOs and terminals are opened anew through /proc with
 * O_NONBLOCK, which is a file description of our own. Where even that fails, a poll says that there
 * is room, and then no more than PIPE_BUF bytes are written.
 *
 * A channel with an `io` of its own (TLS) is read and written by that, whatever its descriptors
 * are. Those are only polled, and only when the io had nothing: it may hold bytes of which no poll
 * tells. It is cut by the eventfd, so that its goodbye can still be said when it is closed.
 */
#include "p9/priv.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_unix(int fd)
{
    int domain = 0;
    socklen_t len = sizeof(domain);
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
}

static bool is_socket(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

int wire_init(struct wire *w, const struct chan *chan, bool timed, int poke)
{
    *w = (struct wire){.chan = *chan,
                       .in = chan->in,
                       .out = chan->out,
                       .out_nonblock = -1,
                       .cut = -1,
                       .poke = poke};
    if (!chan->io) {
        w->in_sock = is_socket(w->in);
        w->out_sock = w->out == w->in ? w->in_sock : is_socket(w->out);
        w->lends = w->out == w->in && w->in_sock && is_unix(w->in);
    }
    if (!w->in_sock || !w->out_sock) {
        w->cut = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (w->cut < 0)
            return -errno;
    }
    if (w->in_sock && timed) {
        struct timeval t = {.tv_usec = WIRE_DWELL * 1000};
        socklen_t len = sizeof(w->old_timeout);
        w->timed = getsockopt(w->in, SOL_SOCKET, SO_RCVTIMEO, &w->old_timeout, &len) == 0 &&
                   setsockopt(w->in, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)) == 0;
    }
    return 0;
}

void wire_done(struct wire *w)
{
    if (w->timed) /* others may have the socket too */
        setsockopt(w->in, SOL_SOCKET, SO_RCVTIMEO, &w->old_timeout, sizeof(w->old_timeout));
    if (w->out_nonblock >= 0)
        close(w->out_nonblock);
    if (w->cut >= 0)
        close(w->cut);
    while (w->nlent)
        close(w->lent[--w->nlent]);
    w->out_nonblock = w->cut = -1;
    w->timed = false;
}

/* 1: ready (or broken), 0: not within the time. -ECONNABORTED: cut. -EINTR: poked. */
static int ready(const struct wire *w, int fd, short events, int timeout)
{
    struct pollfd p[3] = {{.fd = fd, .events = events},
                          {.fd = w->cut, .events = POLLIN},
                          {.fd = timeout ? w->poke : -1, .events = POLLIN}};
    int n;
    do
        n = poll(p, 3, timeout);
    while (n < 0 && errno == EINTR);
    if (p[1].revents)
        return -ECONNABORTED;
    if (p[0].revents)
        return 1;
    return n < 0 ? -errno : p[2].revents ? -EINTR : 0;
}

union lend_room {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int))];
};

/* Some bytes, and the descriptors that come along. */
static ssize_t receive(struct wire *w, const struct iovec *iov, int n, int flags)
{
    union lend_room room;
    struct msghdr m = {.msg_iov = (struct iovec *)iov,
                       .msg_iovlen = (size_t)n,
                       .msg_control = &room,
                       .msg_controllen = CMSG_LEN(sizeof(int))}; /* the kernel drops all but one */
    ssize_t r = recvmsg(w->in, &m, flags | MSG_CMSG_CLOEXEC);
    struct cmsghdr *h = r < 0 ? NULL : CMSG_FIRSTHDR(&m);
    if (!h || h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS ||
        h->cmsg_len != CMSG_LEN(sizeof(int)))
        return r;
    int fd;
    memcpy(&fd, CMSG_DATA(h), sizeof(fd));
    if (w->nlent < sizeof(w->lent) / sizeof(*w->lent))
        w->lent[w->nlent++] = fd;
    else /* of which no answer told */
        close(fd);
    return r;
}

int wire_borrow(struct wire *w)
{
    if (!w->nlent)
        return -1;
    int fd = w->lent[0];
    memmove(w->lent, w->lent + 1, --w->nlent * sizeof(*w->lent));
    return fd;
}

static ssize_t read_socket(struct wire *w, const struct iovec *iov, int n, int timeout)
{
    struct msghdr m = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n};
    bool kernel_waits = timeout < 0 || (w->timed && timeout == WIRE_DWELL);
    for (;;) {
        int flags = kernel_waits ? 0 : MSG_DONTWAIT;
        ssize_t r = w->borrows ? receive(w, iov, n, flags)
                    : n == 1   ? recv(w->in, iov->iov_base, iov->iov_len, flags)
                               : recvmsg(w->in, &m, flags);
        if (r >= 0)
            return r;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -errno;
        if (timeout == 0 || (kernel_waits && timeout > 0))
            return -EAGAIN;
        int p = ready(w, w->in, POLLIN, timeout);
        if (p <= 0)
            return p < 0 ? p : -EAGAIN;
        kernel_waits = false;
    }
}

static ssize_t read_io(struct wire *w, const struct iovec *iov, int n, int timeout)
{
    for (;;) {
        ssize_t r = w->chan.io->read(&w->chan, iov, n);
        w->dry = r <= 0;
        if (r != -EAGAIN || timeout == 0)
            return r;
        int p = ready(w, w->in, POLLIN, timeout);
        if (p <= 0)
            return p < 0 ? p : -EAGAIN;
    }
}

ssize_t wire_read(struct wire *w, const struct iovec *iov, int n, int timeout)
{
    if (w->chan.io)
        return read_io(w, iov, n, timeout);
    if (w->in_sock)
        return read_socket(w, iov, n, timeout);
    int p = ready(w, w->in, POLLIN, timeout);
    if (p <= 0)
        return p < 0 ? p : -EAGAIN;
    ssize_t r;
    do
        r = readv(w->in, iov, n);
    while (r < 0 && errno == EINTR);
    if (r < 0 && errno == EIO && isatty(w->in)) /* the other side of a pty is gone */
        return 0;
    return r < 0 ? -errno : r;
}

bool wire_pending(const struct wire *w)
{
    return w->chan.io && !w->dry && w->chan.io->pending(&w->chan);
}

/* A library cannot ignore SIGPIPE for its process: holds it off, and takes away what it caused. */
static ssize_t without_sigpipe(struct wire *w, const struct iovec *iov, int n,
                               ssize_t (*op)(struct wire *, const struct iovec *, int))
{
    sigset_t pipe, old, was;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, &old);
    sigpending(&was);
    ssize_t r = op(w, iov, n);
    if (r == -EPIPE && !sigismember(&was, SIGPIPE)) {
        struct timespec none = {0};
        sigtimedwait(&pipe, NULL, &none);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r;
}

static ssize_t write_careful(struct wire *w, const struct iovec *iov, int n)
{
    int p = ready(w, w->out, POLLOUT, 0);
    if (p <= 0)
        return p < 0 ? p : -EAGAIN;
    size_t len = iov->iov_len < PIPE_BUF ? iov->iov_len : PIPE_BUF;
    ssize_t r = write(w->out, iov->iov_base, len);
    return r < 0 ? -errno : r;
}

static ssize_t write_plain(struct wire *w, const struct iovec *iov, int n)
{
    ssize_t r;
    if (!w->no_nowait) {
        r = pwritev2(w->out, iov, n, -1, RWF_NOWAIT);
        if (r >= 0 || errno != EOPNOTSUPP)
            return r < 0 ? -errno : r;
        char path[32];
        snprintf(path, sizeof(path), "/proc/self/fd/%d", w->out);
        w->no_nowait = true;
        w->out_nonblock = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    }
    if (w->out_nonblock < 0)
        return write_careful(w, iov, n);
    r = writev(w->out_nonblock, iov, n);
    return r < 0 ? -errno : r;
}

/* The kernel bounds how many descriptors of a user are in sockets at once, all together. */
static ssize_t send_lending(struct wire *w, const struct iovec *iov, int n, int lend)
{
    union lend_room room = {.head = {.cmsg_level = SOL_SOCKET,
                                     .cmsg_type = SCM_RIGHTS,
                                     .cmsg_len = CMSG_LEN(sizeof(lend))}};
    struct msghdr m = {.msg_iov = (struct iovec *)iov,
                       .msg_iovlen = (size_t)n,
                       .msg_control = &room,
                       .msg_controllen = sizeof(room)};
    memcpy(CMSG_DATA(&room.head), &lend, sizeof(lend));
    ssize_t r = sendmsg(w->out, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (r < 0 && errno == ETOOMANYREFS) {
        m.msg_control = NULL;
        m.msg_controllen = 0;
        r = sendmsg(w->out, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    return r < 0 ? -errno : r;
}

ssize_t wire_write(struct wire *w, const struct iovec *iov, int n, const int *lend)
{
    struct msghdr m = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n};
    ssize_t r;
    do {
        if (lend && w->lends)
            r = send_lending(w, iov, n, *lend);
        else if (w->chan.io)
            r = w->chan.io->write(&w->chan, iov, n);
        else if (!w->out_sock)
            r = without_sigpipe(w, iov, n, write_plain);
        else if ((r = n == 1
                          ? send(w->out, iov->iov_base, iov->iov_len, MSG_DONTWAIT | MSG_NOSIGNAL)
                          : sendmsg(w->out, &m, MSG_DONTWAIT | MSG_NOSIGNAL)) < 0)
            r = -errno;
    } while (r == -EINTR);
    return r;
}

int wire_wait(struct wire *w, bool in, bool poke, int timeout)
{
    struct pollfd p[4] = {{.fd = w->out, .events = POLLOUT},
                          {.fd = in ? w->in : -1, .events = POLLIN},
                          {.fd = w->cut, .events = POLLIN},
                          {.fd = poke ? w->poke : -1, .events = POLLIN}};
    if (in && wire_pending(w))
        return WIRE_IN;
    if (poll(p, 4, timeout) < 0)
        return 0;
    return (p[0].revents || p[2].revents ? WIRE_OUT : 0) | (p[1].revents ? WIRE_IN : 0) |
           (p[3].revents ? WIRE_POKED : 0);
}

void wire_cut(struct wire *w)
{
    if (w->in_sock)
        shutdown(w->in, SHUT_RDWR);
    if (w->out_sock && w->out != w->in)
        shutdown(w->out, SHUT_RDWR);
    if (w->cut >= 0)
        eventfd_write(w->cut, 1);
}
