/* SPDX-License-Identifier: MIT */
/* Sockets with names, watches, mount(2), and the calls that only tell us something. */
#include "doors/trap_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- sockets ---- */

/* The path in a unix socket's address: 0; TRAP_NATIVE: there is none. */
static int unix_path(struct tcall *c, uint64_t addr, uint64_t len, char path[PATH_MAX])
{
    struct sockaddr_un un = {0};
    if (len <= offsetof(struct sockaddr_un, sun_path) || len > sizeof(un))
        return TRAP_NATIVE;
    int r = peek(c, addr, &un, len);
    if (r < 0)
        return r == -EFAULT ? TRAP_NATIVE : r;
    if (un.sun_family != AF_UNIX || !un.sun_path[0])
        return TRAP_NATIVE;
    snprintf(path, PATH_MAX, "%.*s", (int)(len - offsetof(struct sockaddr_un, sun_path)),
             un.sun_path);
    return 0;
}

/* The address of a host path, by the directory's descriptor where it is too long: *dir is to be
 * closed. */
static int unix_addr(const char *path, struct sockaddr_un *un, int *dir)
{
    *un = (struct sockaddr_un){.sun_family = AF_UNIX};
    *dir = -1;
    if (strlen(path) < sizeof(un->sun_path)) {
        strcpy(un->sun_path, path);
        return 0;
    }
    char parent[PATH_MAX];
    const char *name = strrchr(path, '/');
    snprintf(parent, sizeof(parent), "%.*s", (int)(name - path), path);
    *dir = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*dir < 0)
        return -errno;
    int n = snprintf(un->sun_path, sizeof(un->sun_path), "/proc/self/fd/%d%s", *dir, name);
    return n < (int)sizeof(un->sun_path) ? 0 : -ENAMETOOLONG;
}

/* What is done to the caller's socket, with the address of the path. */
typedef int64_t sock_fn(struct tcall *c, int sock, const struct sockaddr_un *un);

static int64_t with_socket(struct tcall *c, const char *path, sock_fn *fn)
{
    struct sockaddr_un un;
    int dir, sock = who_fd(c->w, ARG(0));
    if (sock < 0)
        return sock;
    struct waiting w; /* for room in a queue */
    as_caller(c);
    int64_t r = unix_addr(path, &un, &dir);
    wait_begin(c, &w);
    if (r == 0)
        r = fn(c, sock, &un);
    wait_end(&w);
    as_self();
    if (dir >= 0)
        close(dir);
    close(sock);
    return r;
}

static int64_t do_connect(struct tcall *c, int sock, const struct sockaddr_un *un)
{
    return connect(sock, (const struct sockaddr *)un, sizeof(*un)) < 0 ? -errno : 0;
}

static int64_t do_bind(struct tcall *c, int sock, const struct sockaddr_un *un)
{
    return bind(sock, (const struct sockaddr *)un, sizeof(*un)) < 0 ? -errno : 0;
}

static int64_t do_send(struct tcall *c, int sock, const struct sockaddr_un *un)
{
    size_t n = ADDR(2);
    char *buf = n > 1 << 24 ? NULL : malloc(n + 1);
    if (!buf)
        return n > 1 << 24 ? -EMSGSIZE : -ENOMEM;
    int64_t r = n ? peek(c, ADDR(1), buf, n) : 0;
    if (r == 0) {
        r = sendto(sock, buf, n, ARG(3), (const struct sockaddr *)un, sizeof(*un));
        r = r < 0 ? -errno : r;
    }
    free(buf);
    return r;
}

static int64_t to_path(struct tcall *c, uint64_t addr, uint64_t len, sock_fn *fn)
{
    struct target t = {.top = NULL};
    char path[PATH_MAX];
    int64_t r = unix_path(c, addr, len, path);
    if (r == 0)
        r = walk_text(c, AT_FDCWD, path, WALK_FOLLOW, &t);
    if (r == 0 && t.native)
        r = TRAP_NATIVE;
    else if (r == 0 && (r = target_host(c, &t, path)) == 0)
        r = with_socket(c, path, fn);
    else if (r == -EXDEV)
        r = -ECONNREFUSED; /* nothing on this machine listens there */
    target_done(&t);
    return r;
}

int64_t call_connect(struct tcall *c)
{
    return to_path(c, ADDR(1), ADDR(2), do_connect);
}

int64_t call_sendto(struct tcall *c)
{
    return to_path(c, ADDR(4), ADDR(5), do_send);
}

int64_t call_bind(struct tcall *c)
{
    struct target t = {.top = NULL};
    char path[PATH_MAX];
    int64_t r = unix_path(c, ADDR(1), ADDR(2), path);
    if (r == 0)
        r = walk_text(c, AT_FDCWD, path, WALK_PARENT, &t);
    if (r == 0 && t.native)
        r = TRAP_NATIVE;
    else if (r == 0 && (r = host_room(c, &t, path)) == 0)
        r = with_socket(c, path, do_bind);
    target_done(&t);
    return r == -EEXIST ? -EADDRINUSE : r;
}

/* ---- watches ---- */

int64_t call_inotify_add_watch(struct tcall *c)
{
    struct target t;
    char path[PATH_MAX];
    int64_t r = walk(c, AT_FDCWD, ADDR(1), ADDR(2) & IN_DONT_FOLLOW ? 0 : WALK_FOLLOW, &t);
    if (r == 0 && t.native) {
        r = TRAP_NATIVE;
    } else if (r == 0 && (r = target_host(c, &t, path)) == 0) {
        int fd = who_fd(c->w, ARG(0));
        as_caller(c);
        r = fd < 0 ? fd : inotify_add_watch(fd, path, (uint32_t)ADDR(2));
        r = r == -1 ? -errno : r;
        as_self();
        if (fd >= 0)
            close(fd);
    }
    target_done(&t);
    return r == -EXDEV ? -EOPNOTSUPP : r;
}

/* What cannot be had of a tree: the kernel's, or refused. */
static int64_t host_only(struct tcall *c, int dirfd, uint64_t addr, int error)
{
    struct target t;
    if (!addr)
        return TRAP_NATIVE;
    int64_t r = walk(c, dirfd, addr, WALK_FOLLOW | WALK_EMPTY, &t);
    if (r == 0)
        r = t.native ? TRAP_NATIVE : error;
    target_done(&t);
    return r;
}

int64_t call_fanotify_mark(struct tcall *c)
{
    return host_only(c, ARG(3), ADDR(4), -EOPNOTSUPP);
}

int64_t call_name_to_handle_at(struct tcall *c)
{
    return host_only(c, ARG(0), ADDR(1), -EOPNOTSUPP);
}

/* ---- mount(2), which carries vpath's requests ---- */

static char *string_at(struct tcall *c, uint64_t addr, size_t size)
{
    char *s = malloc(size);
    if (s && (!addr || peek_string(c, addr, s, size) < 0))
        s[0] = 0;
    return s;
}

int64_t call_mount(struct tcall *c)
{
    const size_t size = 65536;
    if (!c->t->opts.mount)
        return TRAP_NATIVE;
    char *s[4];
    int64_t r = 0;
    for (int i = 0; i < 4; i++) {
        s[i] = string_at(c, ADDR(i < 3 ? i : 4), size);
        r = s[i] ? r : -ENOMEM;
    }
    if (r == 0 && !still_there(c))
        r = -ESRCH;
    if (r == 0)
        r = c->t->opts.mount(c->t->opts.mount_arg, c->t, c->w->tgid, s[0], s[1], s[2], s[3]);
    for (int i = 0; i < 4; i++)
        free(s[i]);
    if (r > 0) { /* a descriptor */
        int fd = (int)r;
        r = give_fd(c, fd, true);
        close(fd);
    }
    return r == -ENOSYS ? TRAP_NATIVE : r;
}

/* ---- what the caller becomes ---- */

int64_t call_umask(struct tcall *c)
{
    who_umask(c->t, c->w->tgid, (mode_t)ADDR(0) & 0777);
    return TRAP_NATIVE;
}

/* Others than these in the same process are told by calls of their own. */
static int64_t changes(struct tcall *c)
{
    atomic_store(&c->w->stale, true);
    return TRAP_NATIVE;
}

/* The state can only be replaced below the limit of descriptors, which may be raised for the moment
 * but not above the hard one: that stays high enough. */
static int64_t limit(struct tcall *c, pid_t pid, uint64_t addr, uint64_t old_addr)
{
    struct rlimit lim, old;
    int r = addr ? peek(c, addr, &lim, sizeof(lim)) : TRAP_NATIVE;
    if (r == 0 && (lim.rlim_cur > lim.rlim_max || lim.rlim_max > (rlim_t)c->t->state_fd))
        r = TRAP_NATIVE;
    if (r != 0)
        return r;
    lim.rlim_max = (rlim_t)c->t->state_fd + 1;
    as_caller(c);
    r = prlimit(pid ? pid : c->w->tgid, RLIMIT_NOFILE, &lim, &old) < 0 ? -errno : 0;
    as_self();
    return r == 0 && old_addr ? poke(c, old_addr, &old, sizeof(old)) : r;
}

int64_t call_setrlimit(struct tcall *c)
{
    return limit(c, 0, ADDR(1), 0);
}

int64_t call_prlimit64(struct tcall *c)
{
    return limit(c, ARG(0), ADDR(2), ADDR(3));
}

/* A process is made: its view is up to date (see renew()), and is inherited. */
static int64_t inherits(struct tcall *c)
{
    return TRAP_NATIVE;
}

CALL(setuid, changes(c))
CALL(setgid, changes(c))
CALL(setreuid, changes(c))
CALL(setregid, changes(c))
CALL(setresuid, changes(c))
CALL(setresgid, changes(c))
CALL(setgroups, changes(c))
CALL(setfsuid, changes(c))
CALL(setfsgid, changes(c))
CALL(clone, inherits(c))
CALL(clone3, inherits(c))
CALL(fork, inherits(c))
CALL(vfork, inherits(c))
