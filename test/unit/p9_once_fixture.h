/* SPDX-License-Identifier: MIT */
/* For tests of operations that are done once: a 9P server of a host directory, in a process of its
 * own that can be killed, and followed by another; the test is its clients. */
#ifndef UNIT_P9_ONCE_FIXTURE_H
#define UNIT_P9_ONCE_FIXTURE_H

#include "../raw9p.h"
#include <dirent.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

enum { DEAD = 1 }; /* instead of an answer */

static char top[] = "/tmp/plenum-once-XXXXXX", place[64];
static int listener = -1; /* of the server that is started next, or met */
static pid_t server;

/* ---- the host's side ---- */

static inline const char *host(const char *name)
{
    static char path[4][400];
    static unsigned i;
    i = (i + 1) % 4;
    snprintf(path[i], sizeof(path[i]), "%s/tree/%s", place, name);
    return path[i];
}

static inline void write_at(const char *name, const char *text, int flags)
{
    int fd = open(host(name), O_WRONLY | O_CREAT | flags, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static inline void put(const char *name, const char *text)
{
    write_at(name, text, O_TRUNC);
}

static inline void append(const char *name, const char *text)
{
    write_at(name, text, O_APPEND);
}

static inline void assert_content(const char *name, const char *text)
{
    char buf[4096] = "";
    int fd = open(host(name), O_RDONLY);
    if (fd < 0)
        fail_msg("%s: %s", name, strerror(errno));
    assert_true(read(fd, buf, sizeof(buf) - 1) >= 0);
    close(fd);
    assert_string_equal(buf, text);
}

static inline int remove_one(const char *path, const struct stat *st, int how, struct FTW *f)
{
    return f->level ? remove(path) : 0;
}

/* Empties what is served, and what is remembered. */
static inline void clean(void)
{
    nftw(host(""), remove_one, 8, FTW_DEPTH | FTW_PHYS);
    char state[100];
    snprintf(state, sizeof(state), "%s/state", place);
    nftw(state, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Waits until whatever is made now is dated later than all that was done before, and told apart
 * from it: files are dated by a clock that goes by ticks, which come late on a busy machine, and
 * their dates may be a tick ahead of it. */
static inline void tick(void)
{
    struct timespec before, t, grain;
    clock_getres(CLOCK_REALTIME_COARSE, &grain);
    clock_gettime(CLOCK_REALTIME, &before);
    int64_t end = before.tv_sec * 1000000000LL + before.tv_nsec + 2 * grain.tv_nsec;
    do {
        usleep(500);
        clock_gettime(CLOCK_REALTIME_COARSE, &t);
    } while (t.tv_sec * 1000000000LL + t.tv_nsec <= end);
}

/* ---- the server ---- */

static inline void serve_forever(const char *what)
{
    struct pl_tree *tree;
    struct pl_err err;
    struct p9_door *door;
    struct p9_crew *crew = p9_crew_new(4);
    char state[100];
    snprintf(state, sizeof(state), "%s/state", place);
    int dir = open(state, O_RDONLY | O_DIRECTORY);
    if (dir < 0 || !crew || pl_host_open(host(""), &tree, &err) < 0)
        _exit(1);
    struct p9_export export = {"", tree};
    if (p9_door_new(&export, 1, crew, NULL, &door) < 0 || p9_door_remember(door, dir, what) < 0)
        _exit(1);
    for (;;) {
        struct p9_conn *conn;
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        struct chan chan = {
            .in = fd, .out = fd, .role = CHAN_ACCEPTED, .uid = geteuid(), .peer = "client"};
        if (fd < 0 || p9_door_conn(door, &chan, false, NULL, NULL, &conn, &err) < 0)
            _exit(1);
    }
}

/* `crash`: as PLENUM_CRASH, or NULL. */
static inline void server_start(const char *crash)
{
    fflush(NULL);
    server = fork();
    assert_true(server >= 0);
    if (server > 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (crash)
        setenv("PLENUM_CRASH", crash, 1);
    serve_forever("test");
}

static inline void server_wait(void)
{
    int status;
    assert_int_equal(waitpid(server, &status, 0), server);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    server = 0;
}

static inline void server_kill(void)
{
    kill(server, SIGKILL);
    server_wait();
}

/* ---- clients ---- */

/* A client that is to be judged by what it is told. */
static inline int meet_flags(struct raw *c, uint64_t id)
{
    struct sockaddr_un addr;
    socklen_t len = sizeof(addr);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&addr, &len), 0);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, len), 0);
    raw_init(c, fd);
    raw_version(c, P9_VERSION_OWN);
    assert_int_equal(RPC(c, .type = P9_Tsession, .id = {id, ~id}), 0);
    int flags = (int)c->r.flags;
    assert_int_equal(raw_attach(c, 0, ""), 0);
    return flags;
}

static inline void meet(struct raw *c, uint64_t id, int flags)
{
    assert_int_equal(meet_flags(c, id), flags);
}

/* The answer as of raw_rpc(), or DEAD. */
static inline int ask(struct raw *c, struct p9_msg m)
{
    char b;
    raw_send(c, m);
    for (;;) {
        struct pollfd p = {c->fd, POLLIN, 0};
        assert_int_equal(poll(&p, 1, 20000), 1);
        if (recv(c->fd, &b, 1, MSG_PEEK) <= 0)
            return DEAD;
        raw_next(c);
        if (c->r.type % 2)
            return c->r.type == P9_Rlerror ? -(int)c->r.ecode : 0;
        struct p9_msg r = {.type = (uint8_t)(c->r.type + 1), .tag = c->r.tag};
        uint8_t out[100];
        r.msize = c->r.msize;
        r.version = c->r.version;
        int n = p9_encode(&r, out, sizeof(out));
        if (send(c->fd, out, (size_t)n, MSG_NOSIGNAL) < 0)
            return DEAD;
    }
}

/* ---- what tests share ---- */

enum { ME = 77, OTHER = 78 };

/* clang-format off */
#define S(s) {sizeof(s) - 1, s}
/* clang-format on */

static inline void file(void)
{
    put("f", "base");
}

static inline void fid_file(struct raw *c)
{
    assert_int_equal(raw_walk(c, 0, 1, "f"), 0);
}

static inline void fid_dir(struct raw *c)
{
    assert_int_equal(raw_walk(c, 0, 1, ""), 0);
}

static inline void fid_append(struct raw *c)
{
    fid_file(c);
    assert_int_equal(RPC(c, .type = P9_Tlopen, .fid = 1, .flags = P9_WRONLY | P9_APPEND), 0);
}

static inline void at(char crash[32], const char *point)
{
    snprintf(crash, 32, "op-%s:1", point);
}

/* ---- */

static inline int new_listener(void)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(sa_family_t)), 0);
    assert_int_equal(listen(fd, 64), 0);
    return fd;
}

static inline int once_setup(void **state)
{
    char path[100];
    strcpy(place, top);
    if (!mkdtemp(place))
        return -1;
    snprintf(path, sizeof(path), "%s/state", place);
    mkdir(host(""), 0755);
    mkdir(path, 0700);
    listener = new_listener();
    return 0;
}

static inline int once_teardown(void **state)
{
    if (server > 0) {
        kill(server, SIGKILL);
        waitpid(server, NULL, 0);
        server = 0;
    }
    close(listener);
    nftw(place, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return rmdir(place);
}

#endif
