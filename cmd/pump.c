/* SPDX-License-Identifier: MIT */
#include "cmd/pump.h"
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* One direction: what was read and is not written yet. */
struct flow {
    char buf[65536];
    size_t at, end;
    bool over; /* no more comes */
};

struct pump {
    struct chan *chan;
    int fd;
    struct flow in, out; /* to the command, from it */
    bool lost;           /* the link */
};

static bool empty(const struct flow *f)
{
    return f->at == f->end;
}

/* The result of an attempt: true if something has happened. */
static bool took(struct flow *f, ssize_t n)
{
    if (n > 0) {
        f->at = 0;
        f->end = (size_t)n;
    } else if (n != -EAGAIN) {
        f->over = true;
    }
    return n != -EAGAIN;
}

static bool read_chan(struct pump *p)
{
    struct iovec iov = {p->in.buf, sizeof(p->in.buf)};
    if (p->in.over || !empty(&p->in))
        return false;
    ssize_t n = p->chan->io->read(p->chan, &iov, 1);
    bool moved = took(&p->in, n);
    p->lost = p->lost || (n < 0 && moved);
    if (p->in.over)
        shutdown(p->fd, SHUT_WR);
    return moved;
}

static bool write_chan(struct pump *p)
{
    struct iovec iov = {p->out.buf + p->out.at, p->out.end - p->out.at};
    if (empty(&p->out))
        return false;
    ssize_t n = p->chan->io->write(p->chan, &iov, 1);
    if (n > 0)
        p->out.at += (size_t)n;
    p->lost = p->lost || (n < 0 && n != -EAGAIN);
    return n > 0;
}

static bool read_command(struct pump *p)
{
    if (p->out.over || !empty(&p->out))
        return false;
    ssize_t n = recv(p->fd, p->out.buf, sizeof(p->out.buf), MSG_DONTWAIT);
    return took(&p->out, n < 0 ? -errno : n);
}

/* A command that does not want to read any more may still write. */
static bool write_command(struct pump *p)
{
    if (empty(&p->in))
        return false;
    ssize_t n =
        send(p->fd, p->in.buf + p->in.at, p->in.end - p->in.at, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN)
        return false;
    p->in.at = n < 0 ? p->in.end : p->in.at + (size_t)n;
    return true;
}

static void sleep_until_ready(struct pump *p)
{
    struct pollfd fds[2] = {{.fd = p->chan->in}, {.fd = p->fd}};
    if (empty(&p->in) && !p->in.over)
        fds[0].events |= POLLIN;
    if (!empty(&p->out))
        fds[0].events |= POLLOUT;
    if (empty(&p->out) && !p->out.over)
        fds[1].events |= POLLIN;
    if (!empty(&p->in))
        fds[1].events |= POLLOUT;
    if (!fds[0].events) /* else a socket that is closed would wake us again and again */
        fds[0].fd = -1;
    poll(fds, 2, -1);
}

void pump_run(struct chan *chan, int fd)
{
    static struct pump p;
    p = (struct pump){.chan = chan, .fd = fd};
    while (!p.lost && !(p.out.over && empty(&p.out))) {
        bool moved = read_chan(&p);
        moved |= write_command(&p);
        moved |= read_command(&p);
        moved |= write_chan(&p);
        if (!moved && !p.lost)
            sleep_until_ready(&p);
    }
    chan_close(chan);
    close(fd);
}
