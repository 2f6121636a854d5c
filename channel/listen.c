/* SPDX-License-Identifier: MIT */
/*
 * Listening. A listener has up to LISTEN_MAX sockets (IPv4 and IPv6, or all addresses of a name),
 * all non-blocking and in one epoll, which is what chan_listener_fd shows. Nothing in it changes
 * after chan_listen, so that any number of threads may accept.
 */
#include "base/text.h"
#include "channel/addr.h"
#include "channel/tls.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_MAX 8
#define BACKLOG    128

struct chan_listener {
    enum addr_kind kind;
    int epoll;
    int fd[LISTEN_MAX];
    int nfd;
    const char *note;
    char name[512];        /* escaped */
    struct tls_pool *pool; /* tls: handshakes under way */
    /* unix */
    bool anyone;
    uid_t *allow;
    size_t nallow;
    int dir; /* of the socket, so that it can be unlinked wherever we are then; or -1 */
    char base[108];
    dev_t dev;
    ino_t ino;
};

static int add(struct chan_listener *l, int fd)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
    if (listen(fd, BACKLOG) < 0 || epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &ev) < 0)
        return -errno;
    l->fd[l->nfd++] = fd;
    return 0;
}

/* A bound and listening socket added to `l`; 0 or a negative errno. */
static int bind_to(struct chan_listener *l, const struct sockaddr *sa, unsigned len)
{
    static const int on = 1;
    int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (sa->sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    if (sa->sa_family != AF_VSOCK)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    int rc = bind(fd, sa, len) < 0 ? -errno : add(l, fd);
    if (rc < 0)
        close(fd);
    return rc;
}

static void unbind(struct chan_listener *l)
{
    while (l->nfd)
        close(l->fd[--l->nfd]); /* leaves the epoll by itself */
}

static int cannot(const char *text, const char *port, int rc, struct pl_err *err)
{
    switch (rc) {
    case -EADDRINUSE:
        return pl_fail(err, rc,
                       "%s: port %s is in use (stop what listens there, or choose "
                       "another)",
                       text, port);
    case -EACCES:
        return pl_fail(err, rc,
                       "%s: not permitted to listen on port %s (below 1024 only root may: "
                       "choose a higher one)",
                       text, port);
    case -EADDRNOTAVAIL:
        return pl_fail(err, rc, "%s: not an address of this machine (* listens everywhere)", text);
    case -EAFNOSUPPORT:
        return pl_fail(err, rc, "%s: this system has no such sockets", text);
    default:
        return pl_fail(err, rc, "%s: cannot listen: %s", text, strerror(-rc));
    }
}

static in_port_t *port_of(struct sockaddr *sa)
{
    return sa->sa_family == AF_INET6 ? &((struct sockaddr_in6 *)sa)->sin6_port
                                     : &((struct sockaddr_in *)sa)->sin_port;
}

/* Binds every address of the list to one port. With port 0 the first socket chooses it, and if a
 * later one cannot have it, -EADDRINUSE: the caller tries again. */
static int bind_all(struct chan_listener *l, struct addrinfo *list, bool everywhere, unsigned *port)
{
    int rc = 0;
    for (struct addrinfo *ai = list; ai && l->nfd < LISTEN_MAX; ai = ai->ai_next) {
        if (*port)
            *port_of(ai->ai_addr) = htons((uint16_t)*port);
        rc = bind_to(l, ai->ai_addr, ai->ai_addrlen);
        if (everywhere && (rc == -EAFNOSUPPORT || rc == -EADDRNOTAVAIL))
            continue; /* a system without IPv6, or without IPv4 */
        if (rc < 0)
            return rc;
        struct sockaddr_storage got;
        socklen_t size = sizeof(got);
        if (getsockname(l->fd[l->nfd - 1], (struct sockaddr *)&got, &size) < 0)
            return -errno;
        *port = ntohs(*port_of((struct sockaddr *)&got));
        if (l->kind == ADDR_TCP && !addr_is_loopback((struct sockaddr *)&got))
            l->note = addr_note_tcp;
    }
    return l->nfd ? 0 : rc;
}

static int listen_tcp(const char *text, const struct addr *a, struct chan_listener *l,
                      struct pl_err *err)
{
    bool everywhere = strcmp(a->host, "*") == 0;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    int rc = getaddrinfo(everywhere ? NULL : a->host, a->port, &hints, &list);
    if (rc)
        return addr_unresolved(text, a, rc, err);
    unsigned port = 0, wanted = ntohs(*port_of(list->ai_addr));
    for (int tries = 0; tries < 16; tries++) {
        port = wanted;
        for (struct addrinfo *ai = list; ai; ai = ai->ai_next)
            *port_of(ai->ai_addr) = htons((uint16_t)wanted);
        rc = bind_all(l, list, everywhere, &port);
        if (rc == 0 || rc != -EADDRINUSE || wanted)
            break;
        unbind(l);
    }
    freeaddrinfo(list);
    if (rc < 0)
        return cannot(text, a->port, rc, err);
    char raw[512];
    snprintf(raw, sizeof(raw), "%s!%s!%u", a->kind == ADDR_TLS ? "tls" : "tcp", a->host, port);
    text_escape(l->name, sizeof(l->name), raw, sizeof(raw));
    return 0;
}

static int listen_tls(const char *text, const struct addr *a, const struct chan_listen_opts *opts,
                      struct chan_listener *l, struct pl_err *err)
{
    struct pl_err why;
    int r = tls_pool_new(l->epoll, opts ? opts->hello_ms : 0, &l->pool, &why);
    return r < 0 ? pl_fail(err, r, "%s: %s", text, why.text) : listen_tcp(text, a, l, err);
}

static int listen_vsock(const char *text, const struct addr *a, struct chan_listener *l,
                        struct pl_err *err)
{
    struct sockaddr_vm vm = {.svm_family = AF_VSOCK,
                             .svm_cid = a->cid,
                             .svm_port = a->vport ? a->vport : VMADDR_PORT_ANY};
    socklen_t size = sizeof(vm);
    int rc = bind_to(l, (struct sockaddr *)&vm, sizeof(vm));
    if (rc == -EAFNOSUPPORT)
        return pl_fail(err, rc, "%s: no vsock here (load the module: modprobe vsock)", text);
    if (rc == 0 && getsockname(l->fd[0], (struct sockaddr *)&vm, &size) < 0)
        rc = -errno;
    if (rc < 0)
        return cannot(text, a->port, rc, err);
    snprintf(l->name, sizeof(l->name), "vsock!%s!%u", a->host, vm.svm_port);
    return 0;
}

/* What stands at the path: 0 if nothing does (any more), else a negative errno and sentence. */
static int clear_path(const char *text, const char *path, const struct sockaddr_un *un,
                      unsigned len, struct pl_err *err)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : cannot(text, "", -errno, err);
    if (!S_ISSOCK(st.st_mode))
        return pl_fail(err, -EEXIST, "%s: something that is not a socket is in the way", text);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return cannot(text, "", -errno, err);
    int rc = connect(fd, (const struct sockaddr *)un, len) < 0 ? -errno : 0;
    close(fd);
    if (rc == -ECONNREFUSED && unlink(path) < 0 && errno != ENOENT)
        return pl_fail(err, -errno, "%s: an old socket is in the way and cannot be removed: %s",
                       text, strerror(errno));
    if (rc == 0 || rc == -EAGAIN || rc == -EPROTOTYPE)
        return pl_fail(err, -EADDRINUSE, "%s: a server listens there already", text);
    if (rc != -ECONNREFUSED && rc != -ENOENT)
        return pl_fail(err, rc, "%s: another's socket is in the way: %s", text, strerror(-rc));
    return 0;
}

static int own_path(struct chan_listener *l, const char *path)
{
    char dir[PATH_MAX], base[PATH_MAX];
    struct stat st;
    snprintf(dir, sizeof(dir), "%s", path);
    snprintf(base, sizeof(base), "%s", path);
    snprintf(l->base, sizeof(l->base), "%s", basename(base));
    l->dir = open(dirname(dir), O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (l->dir < 0 || fstatat(l->dir, l->base, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    l->dev = st.st_dev;
    l->ino = st.st_ino;
    return 0;
}

static int copy_allow(struct chan_listener *l, const struct chan_listen_opts *opts)
{
    static const struct chan_listen_opts none;
    if (!opts)
        opts = &none;
    l->anyone = opts->anyone;
    l->nallow = opts->nallow ? opts->nallow : 2;
    l->allow = malloc(l->nallow * sizeof(*l->allow));
    if (!l->allow)
        return -ENOMEM;
    if (opts->nallow)
        memcpy(l->allow, opts->allow, l->nallow * sizeof(*l->allow));
    else
        l->allow[0] = geteuid(), l->allow[1] = 0;
    return 0;
}

static bool strangers(const struct chan_listener *l)
{
    for (size_t i = 0; i < l->nallow; i++)
        if (l->allow[i] != 0 && l->allow[i] != geteuid())
            return true;
    return l->anyone;
}

static int listen_unix(const char *text, const struct addr *a, struct chan_listener *l,
                       struct pl_err *err)
{
    struct sockaddr_un un;
    unsigned len = addr_unix(a->rest, &un);
    char raw[160];
    snprintf(raw, sizeof(raw), "unix!%s", a->rest);
    text_escape(l->name, sizeof(l->name), raw, sizeof(raw));
    int rc = clear_path(text, a->rest, &un, len, err);
    if (rc < 0)
        return rc;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return cannot(text, "", -errno, err);
    /* On Linux the mode of the socket is the mode that bind gives the file: never open too wide. */
    if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&un, len) < 0) {
        rc = -errno;
        close(fd);
        if (rc == -ENOENT || rc == -ENOTDIR)
            return pl_fail(err, rc, "%s: no such directory (make it with mkdir)", text);
        if (rc == -EACCES || rc == -EROFS)
            return pl_fail(err, rc, "%s: not permitted to make a socket there: %s", text,
                           strerror(-rc));
        if (rc == -EADDRINUSE)
            return pl_fail(err, rc, "%s: another server began to listen there just now", text);
        return cannot(text, "", rc, err);
    }
    rc = own_path(l, a->rest);
    if (rc == 0)
        rc = add(l, fd);
    if (rc == 0 && strangers(l) && fchmodat(l->dir, l->base, 0666, 0) < 0)
        rc = -errno;
    if (rc < 0 && l->nfd == 0)
        close(fd);
    return rc < 0 ? cannot(text, "", rc, err) : 0;
}

int chan_listen(const char *text, const struct chan_listen_opts *opts, struct chan_listener **ret,
                struct pl_err *err)
{
    struct addr a;
    int rc = addr_parse(text, &a, err);
    if (rc < 0)
        return rc;
    if (a.kind != ADDR_TCP && a.kind != ADDR_TLS && a.kind != ADDR_UNIX && a.kind != ADDR_VSOCK)
        return pl_fail(err, -EINVAL, "%s: cannot be listened on (tcp, tls, unix and vsock can)",
                       text);
    struct chan_listener *l = calloc(1, sizeof(*l));
    if (!l)
        return pl_fail(err, -ENOMEM, "%s: out of memory", text);
    l->kind = a.kind;
    l->dir = -1;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    rc = l->epoll < 0 ? -errno : copy_allow(l, opts);
    if (rc < 0)
        pl_fail(err, rc, "%s: cannot listen: %s", text, strerror(-rc));
    else if (a.kind == ADDR_TCP)
        rc = listen_tcp(text, &a, l, err);
    else if (a.kind == ADDR_TLS)
        rc = listen_tls(text, &a, opts, l, err);
    else if (a.kind == ADDR_UNIX)
        rc = listen_unix(text, &a, l, err);
    else
        rc = listen_vsock(text, &a, l, err);
    if (rc < 0) {
        chan_listener_free(l);
        return rc;
    }
    *ret = l;
    return 0;
}

int chan_listener_fd(const struct chan_listener *l)
{
    return l->epoll;
}

const char *chan_listener_name(const struct chan_listener *l)
{
    return l->name;
}

const char *chan_listener_note(const struct chan_listener *l)
{
    return l->note;
}

static bool allowed(const struct chan_listener *l, uid_t uid)
{
    for (size_t i = 0; i < l->nallow; i++)
        if (l->allow[i] == uid)
            return true;
    return l->anyone;
}

static int greet(const struct chan_listener *l, int fd, const struct sockaddr *sa, unsigned len,
                 struct chan *ret, struct pl_err *err)
{
    ret->in = ret->out = fd;
    ret->role = CHAN_ACCEPTED;
    if (l->kind == ADDR_TCP || l->kind == ADDR_TLS)
        addr_tune_tcp(fd);
    if (l->kind != ADDR_UNIX) {
        addr_name(ret->peer, l->kind, sa, len);
        return 0;
    }
    struct ucred cred;
    socklen_t size = sizeof(cred);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
        return pl_fail(err, -errno, "%s: cannot tell who connected: %s", l->name, strerror(errno));
    addr_is_uid(ret, cred.uid);
    snprintf(ret->peer, sizeof(ret->peer), "unix!uid=%u,pid=%d", cred.uid, cred.pid);
    if (!allowed(l, cred.uid))
        return pl_fail(err, -EACCES, "%s: turned away uid %u, which is not allowed in", l->name,
                       cred.uid);
    return 0;
}

static bool listening(const struct chan_listener *l, int fd)
{
    for (int i = 0; i < l->nfd; i++)
        if (l->fd[i] == fd)
            return true;
    return false;
}

static void nobody(struct chan *chan)
{
    memset(chan, 0, sizeof(*chan));
    chan->in = chan->out = -1;
    chan->uid = (uid_t)-1;
}

int chan_accept(struct chan_listener *l, struct chan *ret, struct pl_err *err)
{
    nobody(ret);
    for (;;) {
        struct epoll_event ev;
        if (l->pool)
            tls_pool_gate(l->pool, l->fd, l->nfd);
        int n = epoll_wait(l->epoll, &ev, 1, -1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return pl_fail(err, -errno, "%s: cannot wait: %s", l->name, strerror(errno));
        if (l->pool && !listening(l, ev.data.fd))
            return tls_pool_event(l->pool, ev.data.fd, ret, err);
        struct sockaddr_storage ss;
        socklen_t len = sizeof(ss);
        int fd = accept4(ev.data.fd, (struct sockaddr *)&ss, &len, SOCK_CLOEXEC);
        if (fd < 0) {
            /* Taken by another thread, or gone, or an error of its network: none of ours. */
            static const int fatal[] = {EMFILE, ENFILE, ENOBUFS, ENOMEM, EBADF, EINVAL, EPERM};
            for (size_t i = 0; i < sizeof(fatal) / sizeof(*fatal); i++)
                if (errno == fatal[i])
                    return pl_fail(err, -errno, "%s: cannot accept: %s", l->name, strerror(errno));
            continue;
        }
        int rc = greet(l, fd, (struct sockaddr *)&ss, len, ret, err);
        if (rc < 0) {
            close(fd);
            ret->in = ret->out = -1;
        } else if (l->pool) {
            rc = tls_pool_add(l->pool, fd, ret->peer, err);
            nobody(ret);
            rc = rc < 0 ? rc : -EAGAIN;
        }
        return rc;
    }
}

void chan_listener_free(struct chan_listener *l)
{
    struct stat st;
    if (!l)
        return;
    if (l->dir >= 0) {
        if (fstatat(l->dir, l->base, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_dev == l->dev &&
            st.st_ino == l->ino)
            unlinkat(l->dir, l->base, 0);
        close(l->dir);
    }
    tls_pool_free(l->pool);
    unbind(l);
    if (l->epoll >= 0)
        close(l->epoll);
    free(l->allow);
    free(l);
}
