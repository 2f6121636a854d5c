/* SPDX-License-Identifier: MIT */
#include "base/cred.h"
#include "base/futex.h"
#include "base/limits.h"
#include "base/text.h"
#include "channel/addr.h"
#include "channel/tls.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define CONNECT_MS 30000
#define BACKLOG_MS 20 /* from one look for room in it to the next */

const char addr_note_tcp[] =
    "neither encrypted nor authenticated (use tls! or ssh, or only a network that you trust)";

bool addr_is_loopback(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)sa)->sin_addr.s_addr) >> 24 == 127;
    if (sa->sa_family == AF_INET6) {
        const struct in6_addr *a = &((const struct sockaddr_in6 *)sa)->sin6_addr;
        return IN6_IS_ADDR_LOOPBACK(a) || (IN6_IS_ADDR_V4MAPPED(a) && a->s6_addr[12] == 127);
    }
    return true;
}

void addr_name(char dst[128], enum addr_kind kind, const struct sockaddr *sa, unsigned len)
{
    const char *name = kind == ADDR_TLS ? "tls" : "tcp";
    char host[NI_MAXHOST], port[NI_MAXSERV], raw[NI_MAXHOST + NI_MAXSERV + 8];
    if (sa->sa_family == AF_VSOCK) {
        const struct sockaddr_vm *vm = (const struct sockaddr_vm *)sa;
        snprintf(raw, sizeof(raw), "vsock!%u!%u", vm->svm_cid, vm->svm_port);
    } else if (getnameinfo(sa, len, host, sizeof(host), port, sizeof(port),
                           NI_NUMERICHOST | NI_NUMERICSERV) == 0) {
        snprintf(raw, sizeof(raw), "%s!%s!%s", name, host, port);
    } else {
        snprintf(raw, sizeof(raw), "%s", name);
    }
    text_escape(dst, 128, raw, sizeof(raw));
}

void addr_tune_tcp(int fd)
{
    /* A minute of silence, then four probes: the same two minutes that unacknowledged data gets. */
    static const int on = 1, idle = 60, interval = 15, probes = 4, timeout = 120000;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
}

void addr_is_uid(struct chan *chan, uid_t uid)
{
    chan->uid = uid;
    snprintf(chan->who, sizeof(chan->who), "uid:%u", uid);
}

unsigned addr_unix(const char *path, struct sockaddr_un *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->sun_family = AF_UNIX;
    snprintf(ret->sun_path, sizeof(ret->sun_path), "%s", path);
    return (unsigned)(offsetof(struct sockaddr_un, sun_path) + strlen(ret->sun_path) + 1);
}

int addr_unresolved(const char *text, const struct addr *a, int gai, struct pl_err *err)
{
    switch (gai) {
    case EAI_NONAME:
    case EAI_ADDRFAMILY:
    case EAI_NODATA:
        return pl_fail(err, -ENOENT, "%s: no such host: %s (check the name)", text, a->host);
    case EAI_SERVICE:
        return pl_fail(err, -EINVAL,
                       "%s: no such port: %s (want 1 to 65535, or a name out of "
                       "/etc/services)",
                       text, a->port);
    case EAI_AGAIN:
        return pl_fail(err, -EAGAIN, "%s: the name %s cannot be looked up now (is the network up?)",
                       text, a->host);
    case EAI_SYSTEM:
        return pl_fail(err, errno ? -errno : -EIO, "%s: cannot look up %s: %s", text, a->host,
                       strerror(errno));
    case EAI_CANCELED:
        return pl_fail(err, -ECANCELED, "%s: given up", text);
    default:
        return pl_fail(err, -EIO, "%s: cannot look up %s: %s", text, a->host, gai_strerror(gai));
    }
}

/* Milliseconds that are left until `end`; never negative. */
static int left_ms(int64_t end)
{
    int64_t left = (end - mono_now()) / 1000000;
    return left > 0 ? (int)left : 0;
}

/* Waits until the socket is connected or has failed, or the time is over, or it is given up. */
static int await_connected(int fd, int cancel)
{
    struct pollfd p[2] = {{.fd = fd, .events = POLLOUT}, {.fd = cancel, .events = POLLIN}};
    int64_t end = mono_now() + CONNECT_MS * INT64_C(1000000);
    int n, error;
    socklen_t size = sizeof(error);
    while ((n = poll(p, 2, left_ms(end))) < 0 && errno == EINTR)
        ;
    if (n < 0)
        return -errno;
    if (n == 0)
        return -ETIMEDOUT;
    if (p[1].revents)
        return -ECANCELED;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? -error : -errno;
}

/* A unix socket connects at once or has no room in its backlog, of which poll does not tell. */
static int await_room(int fd, const struct sockaddr_un *un, unsigned len, int cancel)
{
    struct pollfd p = {.fd = cancel, .events = POLLIN};
    int64_t end = mono_now() + CONNECT_MS * INT64_C(1000000);
    while (connect(fd, (const struct sockaddr *)un, len) < 0) {
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        if (!left_ms(end))
            return -EAGAIN;
        if (errno == EAGAIN && poll(&p, 1, BACKLOG_MS) > 0)
            return -ECANCELED;
    }
    return 0;
}

/* Connects, for at most CONNECT_MS: a connected, blocking socket or a negative errno. */
static int connect_to(const struct sockaddr *sa, unsigned len, int cancel)
{
    int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), rc = 0;
    if (fd < 0)
        return -errno;
    if (sa->sa_family == AF_UNIX)
        rc = await_room(fd, (const struct sockaddr_un *)sa, len, cancel);
    else if (connect(fd, sa, len) < 0)
        rc = errno == EINPROGRESS || errno == EINTR ? await_connected(fd, cancel) : -errno;
    if (rc == 0 && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) < 0)
        rc = -errno;
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return fd;
}

static int refused(const char *text, int rc, struct pl_err *err)
{
    switch (rc) {
    case -ECONNREFUSED:
        return pl_fail(err, rc, "%s: connection refused (does a server listen there?)", text);
    case -ECANCELED:
        return pl_fail(err, rc, "%s: given up", text);
    case -ETIMEDOUT:
        return pl_fail(err, rc, "%s: no answer (is the host up, does a firewall let us in?)", text);
    case -EAGAIN:
        return pl_fail(err, rc, "%s: the server is too busy to take the connection", text);
    case -EAFNOSUPPORT:
        return pl_fail(err, rc, "%s: this system has no such sockets", text);
    default:
        return pl_fail(err, rc, "%s: cannot connect: %s", text, strerror(-rc));
    }
}

static void connected(struct chan *ret, int fd)
{
    ret->in = ret->out = fd;
    ret->role = CHAN_DIALED;
}

static int dial_tcp(const char *text, const struct addr *a, struct chan *ret, struct pl_err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *list;
    if (strcmp(a->host, "*") == 0)
        return pl_fail(err, -EINVAL, "%s: cannot dial everywhere (name a host)", text);
    if (strspn(a->port, "0") == strlen(a->port))
        return pl_fail(err, -EINVAL, "%s: cannot dial port 0 (want 1 to 65535)", text);
    int rc = addr_resolve(a->host, a->port, &hints, a->cancel, &list);
    if (rc == EAI_NONAME || rc == EAI_ADDRFAMILY) { /* loopback only: ADDRCONFIG hides ::1 */
        hints.ai_flags = 0;
        rc = addr_resolve(a->host, a->port, &hints, a->cancel, &list);
    }
    if (rc)
        return addr_unresolved(text, a, rc, err);
    int fd = -ENOENT;
    for (struct addrinfo *ai = list; ai; ai = ai->ai_next) {
        fd = connect_to(ai->ai_addr, ai->ai_addrlen, a->cancel);
        if (fd == -ECANCELED)
            break;
        if (fd < 0)
            continue;
        connected(ret, fd);
        addr_tune_tcp(fd);
        addr_name(ret->peer, a->kind, ai->ai_addr, ai->ai_addrlen);
        if (a->kind == ADDR_TCP && !addr_is_loopback(ai->ai_addr))
            ret->note = addr_note_tcp;
        break;
    }
    freeaddrinfo(list);
    return fd < 0 ? refused(text, fd, err) : 0;
}

/* The name in sentences is the address as it was given: that is what the keys are listed under. */
static int dial_tls(const char *text, const struct addr *a, struct chan *ret, struct pl_err *err)
{
    struct tls *tls;
    char name[128];
    int r = dial_tcp(text, a, ret, err);
    if (r < 0)
        return r;
    text_escape(name, sizeof(name), text, strlen(text));
    r = tls_connect(ret->in, name, a->host, a->port, LIMIT_HELLO * 1000, a->cancel, &tls, err);
    if (r < 0) {
        chan_close(ret);
        return r;
    }
    tls_into(tls, ret);
    return 0;
}

static int dial_unix(const char *text, const struct addr *a, struct chan *ret, struct pl_err *err)
{
    struct sockaddr_un un;
    unsigned len = addr_unix(a->rest, &un);
    int fd = connect_to((struct sockaddr *)&un, len, a->cancel);
    if (fd == -ENOENT)
        return pl_fail(err, fd, "%s: no such socket (is the server running?)", text);
    if (fd == -ECONNREFUSED)
        return pl_fail(err, fd, "%s: nobody listens there any more (start the server)", text);
    if (fd == -EACCES)
        return pl_fail(err, fd, "%s: not permitted (the server's user must allow this one)", text);
    if (fd == -EPROTOTYPE)
        return pl_fail(err, fd, "%s: not a stream socket", text);
    if (fd < 0)
        return refused(text, fd, err);
    struct ucred cred;
    socklen_t size = sizeof(cred);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0)
        addr_is_uid(ret, cred.uid);
    connected(ret, fd);
    char raw[128];
    snprintf(raw, sizeof(raw), "unix!%s", a->rest);
    text_escape(ret->peer, sizeof(ret->peer), raw, sizeof(raw));
    return 0;
}

static int dial_vsock(const char *text, const struct addr *a, struct chan *ret, struct pl_err *err)
{
    struct sockaddr_vm vm = {.svm_family = AF_VSOCK, .svm_cid = a->cid, .svm_port = a->vport};
    if (a->cid == VMADDR_CID_ANY)
        return pl_fail(err, -EINVAL, "%s: cannot dial everywhere (name a CID)", text);
    int fd = connect_to((struct sockaddr *)&vm, sizeof(vm), a->cancel);
    if (fd == -EAFNOSUPPORT)
        return pl_fail(err, fd, "%s: no vsock here (load the module: modprobe vsock)", text);
    if (fd == -ENODEV || fd == -ENETUNREACH)
        return pl_fail(err, fd,
                       "%s: no way to that CID (is the virtual machine running, with a "
                       "vsock device? for local: modprobe vsock_loopback)",
                       text);
    if (fd == -ECONNRESET) /* what vsock says for a port without a listener */
        fd = -ECONNREFUSED;
    if (fd < 0)
        return refused(text, fd, err);
    connected(ret, fd);
    addr_name(ret->peer, a->kind, (struct sockaddr *)&vm, sizeof(vm));
    return 0;
}

/* Takes descriptor `fd` over: what is 0 or 1 moves away and /dev/null takes its place. */
static int take(int fd)
{
    if (fd > 2) {
        int flags = fcntl(fd, F_GETFD);
        return flags < 0 || fcntl(fd, F_SETFD, flags | FD_CLOEXEC) < 0 ? -errno : fd;
    }
    int up = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (up < 0)
        return -errno;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int rc = null < 0 || dup2(null, fd) < 0 ? -errno : up;
    if (null >= 0 && null != fd)
        close(null);
    if (rc < 0)
        close(up);
    return rc;
}

static bool usable(int fd, bool out)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return false;
    int mode = flags & O_ACCMODE;
    return !(flags & O_PATH) && (mode == O_RDWR || mode == (out ? O_WRONLY : O_RDONLY));
}

static int dial_given(const char *text, const struct addr *a, int in, int out, struct chan *ret,
                      struct pl_err *err)
{
    if (!usable(in, false))
        return pl_fail(err, -EBADF, "%s: descriptor %d is not open for reading", text, in);
    if (!usable(out, true))
        return pl_fail(err, -EBADF, "%s: descriptor %d is not open for writing", text, out);
    if (in == 2 || out == 2)
        return pl_fail(err, -EINVAL, "%s: standard error is not for a channel", text);
    if (isatty(in) || isatty(out))
        return pl_fail(err, -EINVAL,
                       "%s: a terminal is no channel (run it behind plenum dial, "
                       "plenum listen or ssh)",
                       text);
    int fin = take(in), fout = in == out ? fin : fin < 0 ? fin : take(out);
    if (fin >= 0 && fout < 0)
        close(fin);
    if (fout < 0)
        return pl_fail(err, fout, "%s: cannot take descriptors over: %s", text, strerror(-fout));
    fcntl(fin, F_SETFL, fcntl(fin, F_GETFL) & ~O_NONBLOCK);
    fcntl(fout, F_SETFL, fcntl(fout, F_GETFL) & ~O_NONBLOCK);
    ret->in = fin;
    ret->out = fout;
    ret->role = CHAN_GIVEN;
    text_escape(ret->peer, sizeof(ret->peer), text, strlen(text));
    return 0;
}

static int dial_stdio(const char *text, const struct addr *a, struct chan *ret, struct pl_err *err)
{
    int rc = dial_given(text, a, 0, 1, ret, err);
    const char *how = getenv("PLENUM_CHANNEL");
    if (rc == 0 && how && strcmp(how, "dialed") == 0)
        ret->role = CHAN_DIALED;
    else if (rc == 0 && how && strcmp(how, "accepted") == 0)
        ret->role = CHAN_ACCEPTED;
    const char *who = getenv("PLENUM_WHO");
    if (rc == 0 && who)
        text_escape(ret->who, sizeof(ret->who), who, strlen(who));
    return rc;
}

int chan_dial(const char *text, struct chan *ret, struct pl_err *err)
{
    return chan_dial_until(text, -1, ret, err);
}

int chan_dial_until(const char *text, int cancel, struct chan *ret, struct pl_err *err)
{
    struct addr a;
    memset(ret, 0, sizeof(*ret));
    ret->in = ret->out = -1;
    ret->uid = (uid_t)-1;
    int rc = addr_parse(text, &a, err);
    if (rc < 0)
        return rc;
    a.cancel = cancel;
    cred_reset(); /* it is this process that dials, whoever its threads act for */
    switch (a.kind) {
    case ADDR_TCP:
        return dial_tcp(text, &a, ret, err);
    case ADDR_TLS:
        return dial_tls(text, &a, ret, err);
    case ADDR_UNIX:
        return dial_unix(text, &a, ret, err);
    case ADDR_VSOCK:
        return dial_vsock(text, &a, ret, err);
    case ADDR_EXEC:
        return addr_exec(a.rest, ret, err);
    case ADDR_STDIO:
        return dial_stdio(text, &a, ret, err);
    case ADDR_FD:
        return dial_given(text, &a, a.in, a.out, ret, err);
    }
    return -EINVAL;
}
