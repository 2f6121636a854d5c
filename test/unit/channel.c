/* SPDX-License-Identifier: MIT */
/* Channels: how addresses are written, and each kind dialed and listened on for real. */
#include "channel/channel.h"
#include "channel/addr.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define NOBODY 65534

static char dir[64]; /* of this run; removed at the end */

static const char *at(const char *name)
{
    static char buf[4][256];
    static int i;
    i = (i + 1) % 4;
    snprintf(buf[i], sizeof(buf[i]), "unix!%s/%s", dir, name);
    return buf[i];
}

static const char *path(const char *name)
{
    return at(name) + strlen("unix!");
}

static void want_error(int rc, const struct pl_err *err, int code, const char *words)
{
    if (rc != code || !strstr(err->text, words))
        print_error("got %d \"%s\", want %d \"%s\"\n", rc, err->text, code, words);
    assert_int_equal(rc, code);
    assert_int_equal(err->code, code);
    assert_non_null(strstr(err->text, words));
}

/* One line through the channel's two descriptors, both ways: they are joined, and are the right
 * way round. */
static void talk(struct chan *a, struct chan *b)
{
    char buf[8];
    assert_int_equal(write(a->out, "ping", 4), 4);
    assert_int_equal(read(b->in, buf, 8), 4);
    assert_memory_equal(buf, "ping", 4);
    assert_int_equal(write(b->out, "pong", 4), 4);
    assert_int_equal(read(a->in, buf, 8), 4);
    assert_memory_equal(buf, "pong", 4);
    assert_true(fcntl(a->in, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(b->in, F_GETFD) & FD_CLOEXEC);
    assert_false(fcntl(a->in, F_GETFL) & O_NONBLOCK);
    assert_false(fcntl(b->in, F_GETFL) & O_NONBLOCK);
}

/* Dials `addr`, accepts at `l`, and leaves both ends. */
static void join(struct chan_listener *l, const char *addr, struct chan *a, struct chan *b)
{
    struct pl_err err = {0};
    int rc = chan_dial(addr, a, &err);
    if (rc < 0)
        print_error("%s\n", err.text);
    assert_int_equal(rc, 0);
    struct pollfd p = {.fd = chan_listener_fd(l), .events = POLLIN};
    assert_int_equal(poll(&p, 1, -1), 1);
    assert_int_equal(chan_accept(l, b, &err), 0);
    assert_int_equal(a->role, CHAN_DIALED);
    assert_int_equal(b->role, CHAN_ACCEPTED);
    talk(a, b);
}

static void forms(void **state)
{
    static const struct {
        const char *text;
        enum addr_kind kind;
        const char *host, *port, *rest;
        int n, m;
    } good[] = {
        {"tcp!h!17", ADDR_TCP, "h", "17"},
        {"tcp!h", ADDR_TCP, "h", "564"},
        {"tcp!*!1127", ADDR_TCP, "*", "1127"},
        {"tcp!*", ADDR_TCP, "*", "564"},
        {"tcp!::1!80", ADDR_TCP, "::1", "80"},
        {"tcp!::1", ADDR_TCP, "::1", "564"},
        {"tcp![::1]!80", ADDR_TCP, "::1", "80"},
        {"tcp!fe80::1%eth0!9", ADDR_TCP, "fe80::1%eth0", "9"},
        {"tcp!h!ssh", ADDR_TCP, "h", "ssh"},
        {"tcp!h!0", ADDR_TCP, "h", "0"},
        {"tls!h!17", ADDR_TLS, "h", "17"},
        {"tls!h", ADDR_TLS, "h", "564"},
        {"tls://[::1]:17", ADDR_TLS, "::1", "17"},
        {"tcp!h!65535", ADDR_TCP, "h", "65535"},
        {"tcp://h:17", ADDR_TCP, "h", "17"},
        {"/dev/tcp/h/17", ADDR_TCP, "h", "17"},
        {"/dev/tcp/::1/9pfs", ADDR_TCP, "::1", "9pfs"},
        {"tcp://h:17/", ADDR_TCP, "h", "17"},
        {"tcp://h", ADDR_TCP, "h", "564"},
        {"tcp://[::1]:17", ADDR_TCP, "::1", "17"},
        {"tcp://[::1]", ADDR_TCP, "::1", "564"},
        {"tcp://*:1", ADDR_TCP, "*", "1"},
        {"unix!/a/b", ADDR_UNIX, NULL, NULL, "/a/b"},
        {"unix!a!b", ADDR_UNIX, NULL, NULL, "a!b"},
        {"unix:a:b", ADDR_UNIX, NULL, NULL, "a:b"},
        {"unix:///run/x", ADDR_UNIX, NULL, NULL, "/run/x"},
        {"exec!ssh h 'a!b'", ADDR_EXEC, NULL, NULL, "ssh h 'a!b'"},
        {"exec:true", ADDR_EXEC, NULL, NULL, "true"},
        {"stdio", ADDR_STDIO},
        {"fd!3,4", ADDR_FD, NULL, NULL, NULL, 3, 4},
        {"fd!7", ADDR_FD, NULL, NULL, NULL, 7, 7},
        {"fd:0,1", ADDR_FD, NULL, NULL, NULL, 0, 1},
        {"vsock!3!9", ADDR_VSOCK, NULL, NULL, NULL, 3, 9},
        {"vsock!host", ADDR_VSOCK, NULL, NULL, NULL, 2, 564},
        {"vsock!local!1", ADDR_VSOCK, NULL, NULL, NULL, 1, 1},
        {"vsock://*:5", ADDR_VSOCK, NULL, NULL, NULL, -1, 5},
        {"vsock://4294967294:4294967294", ADDR_VSOCK, NULL, NULL, NULL, -2, -2},
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        struct addr a;
        struct pl_err err = {0};
        int rc = addr_parse(good[i].text, &a, &err);
        if (rc < 0 || a.kind != good[i].kind)
            print_error("%s: %s\n", good[i].text, err.text);
        assert_int_equal(rc, 0);
        assert_int_equal(a.kind, good[i].kind);
        assert_true(chan_is_addr(good[i].text));
        assert_int_equal(chan_check(good[i].text, &err), 0);
        bool lost = a.kind == ADDR_STDIO || a.kind == ADDR_FD;
        bool relative = a.kind == ADDR_UNIX && *a.rest != '/';
        assert_int_equal(chan_again(good[i].text), !lost && !relative);
        if (good[i].host) {
            assert_string_equal(a.host, good[i].host);
            assert_string_equal(a.port, good[i].port);
        }
        if (good[i].rest)
            assert_string_equal(a.rest, good[i].rest);
        if (a.kind == ADDR_FD) {
            assert_int_equal(a.in, good[i].n);
            assert_int_equal(a.out, good[i].m);
        }
        if (a.kind == ADDR_VSOCK) {
            assert_int_equal(a.cid, (unsigned)good[i].n);
            assert_int_equal(a.vport, (unsigned)good[i].m);
        }
    }
}

static void bad_forms(void **state)
{
    static const struct {
        const char *text, *words;
        bool addr; /* one of the forms, though wrong */
    } bad[] = {
        {"", "not an address"},
        {"/srv", "not an address (want tcp!HOST!PORT, tls!HOST!PORT, unix!PATH, vsock!CID!PORT, "
                 "exec!COMMAND, "
                 "stdio or fd!IN,OUT)"},
        {"tcp", "not an address"},
        {"tcp:h:1", "not an address"},
        {"udp!h!1", "not an address"},
        {"stdio!", "not an address"},
        {"tcp!", "no host", true},
        {"tcp!!5", "no host", true},
        {"tcp://:5", "no host", true},
        {"/dev/tcp/h", "want /dev/tcp/HOST/PORT", true},
        {"/dev/tcp//1", "want /dev/tcp/HOST/PORT", true},
        {"/dev/tcp/h/", "want /dev/tcp/HOST/PORT", true},
        {"/dev/tcp/h/1/2", "want /dev/tcp/HOST/PORT", true},
        {"/dev/tcp/h/70000", "bad port", true},
        {"tcp!h!", "no port behind the last !", true},
        {"tcp://h:", "no port behind the last :", true},
        {"tcp!h!65536", "bad port 65536 (want 1 to 65535)", true},
        {"tcp!h!-1", "bad port", true},
        {"tcp!h!99999999999999999999", "bad port", true},
        {"tcp!h!0123456789012345678901234567890123", "bad port", true},
        {"tcp!h!5!6", "bad host", true},
        {"tcp://::1", "in brackets", true},
        {"tcp://[::1", "bracket", true},
        {"tcp://[::1]5", "behind the bracket", true},
        {"tcp://[::1]:", "no port", true},
        {"unix!", "no path", true},
        {"unix:", "no path", true},
        {"vsock!x!1", "bad CID x", true},
        {"vsock!1!x", "bad port x", true},
        {"vsock!4294967295!1", "bad CID", true},
        {"exec!", "no command", true},
        {"exec:  ", "no command", true},
        {"fd!", "bad descriptors", true},
        {"fd!3,", "bad descriptors", true},
        {"fd!3,4,5", "bad descriptors", true},
        {"fd!-1,4", "bad descriptors", true},
        {"fd!33333333333333333333,4", "bad descriptors", true},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct chan c;
        struct pl_err err = {0};
        int rc = chan_dial(bad[i].text, &c, &err);
        want_error(rc, &err, -EINVAL, bad[i].words);
        assert_int_equal(c.in, -1);
        assert_int_equal(chan_is_addr(bad[i].text), bad[i].addr);
        want_error(chan_check(bad[i].text, &err), &err, -EINVAL, bad[i].words);
    }
    char text[400] = "unix!/";
    memset(text + 6, 'x', 107);
    struct addr a;
    struct pl_err err = {0};
    want_error(addr_parse(text, &a, &err), &err, -ENAMETOOLONG, "108 bytes and sockets take 107");
    text[5 + 107] = 0;
    assert_int_equal(addr_parse(text, &a, &err), 0);
    memset(text, 'h', sizeof(text) - 1);
    memcpy(text, "tcp!", 4);
    want_error(addr_parse(text, &a, &err), &err, -EINVAL, "too long");
}

static void tcp(void **state)
{
    static const struct {
        const char *listen, *dial;
    } pairs[] = {
        {"tcp!127.0.0.1!0", "127.0.0.1"}, {"tcp!localhost!0", "localhost"}, {"tcp!::1!0", "::1"}};
    for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); i++) {
        struct chan_listener *l;
        struct pl_err err = {0};
        struct chan a, b;
        char addr[128], peer[64];
        int rc = chan_listen(pairs[i].listen, NULL, &l, &err);
        if (i == 2 && (rc == -EADDRNOTAVAIL || rc == -EAFNOSUPPORT)) {
            print_message("no IPv6 loopback here: %s\n", err.text);
            continue;
        }
        assert_int_equal(rc, 0);
        assert_null(chan_listener_note(l));
        const char *port = strrchr(chan_listener_name(l), '!') + 1;
        assert_int_not_equal(atoi(port), 0);
        snprintf(addr, sizeof(addr), "tcp!%s!%s", pairs[i].dial, port);
        join(l, addr, &a, &b);
        assert_null(a.note);
        assert_int_equal(a.uid, (uid_t)-1);
        snprintf(peer, sizeof(peer), "tcp!%s!%s", i == 2 ? "::1" : "127.0.0.1", port);
        if (i != 1)
            assert_string_equal(a.peer, peer);
        assert_int_equal(strncmp(b.peer, "tcp!", 4), 0);
        int on = 0;
        socklen_t size = sizeof(on);
        assert_int_equal(getsockopt(b.in, IPPROTO_TCP, TCP_NODELAY, &on, &size), 0);
        assert_int_equal(on, 1);
        assert_int_equal(chan_close(&a), 0);
        assert_int_equal(chan_close(&a), 0);
        char c;
        assert_int_equal(read(b.in, &c, 1), 0);
        chan_close(&b);

        struct chan_listener *l2;
        want_error(chan_listen(addr, NULL, &l2, &err), &err, -EADDRINUSE, "is in use");
        chan_listener_free(l);
        want_error(chan_dial(addr, &a, &err), &err, -ECONNREFUSED, "connection refused");
    }
}

/* `*` is IPv4 and IPv6 on one port, and says what TCP is. */
static void tcp_everywhere(void **state)
{
    struct chan_listener *l;
    struct pl_err err = {0};
    struct chan a, b;
    char addr[128];
    assert_int_equal(chan_listen("tcp!*!0", NULL, &l, &err), 0);
    assert_non_null(strstr(chan_listener_note(l), "neither encrypted nor authenticated"));
    const char *port = strrchr(chan_listener_name(l), '!') + 1;
    snprintf(addr, sizeof(addr), "tcp!127.0.0.1!%s", port);
    join(l, addr, &a, &b);
    chan_close(&a);
    chan_close(&b);
    snprintf(addr, sizeof(addr), "tcp://[::1]:%s", port);
    int s = socket(AF_INET6, SOCK_STREAM, 0);
    if (s >= 0) {
        join(l, addr, &a, &b);
        assert_int_equal(strncmp(b.peer, "tcp!::1!", 8), 0);
        chan_close(&a);
        chan_close(&b);
        close(s);
    }
    chan_listener_free(l);
}

static void tcp_errors(void **state)
{
    struct chan_listener *l;
    struct chan c;
    struct pl_err err = {0};
    want_error(chan_dial("tcp!*!1", &c, &err), &err, -EINVAL, "cannot dial everywhere");
    want_error(chan_dial("tcp!127.0.0.1!0", &c, &err), &err, -EINVAL, "port 0");
    want_error(chan_dial("tcp!127.0.0.1!no-such-service", &c, &err), &err, -EINVAL, "no such port");
    want_error(chan_dial("tcp!a..b!5", &c, &err), &err, -ENOENT, "no such host");
    want_error(chan_listen("tcp!192.0.2.1!0", NULL, &l, &err), &err, -EADDRNOTAVAIL,
               "not an address of this machine");
    want_error(chan_listen("exec!cat", NULL, &l, &err), &err, -EINVAL, "cannot be listened on");
    want_error(chan_listen("stdio", NULL, &l, &err), &err, -EINVAL, "cannot be listened on");
}

/* Runs `fn` in a child as another user; its exit status. */
static int as_nobody(int (*fn)(void))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(60);
        if (setgid(NOBODY) < 0 || setuid(NOBODY) < 0)
            _exit(99);
        _exit(fn());
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int listen_low(void)
{
    struct chan_listener *l;
    struct pl_err err = {0};
    int rc = chan_listen("tcp!127.0.0.1!9", NULL, &l, &err);
    return rc == -EACCES && strstr(err.text, "below 1024 only root may") ? 0 : 1;
}

static void tcp_low_port(void **state)
{
    int first = 1024;
    FILE *f = fopen("/proc/sys/net/ipv4/ip_unprivileged_port_start", "re");
    if (f && fscanf(f, "%d", &first) != 1)
        first = 1024;
    if (f)
        fclose(f);
    if (geteuid() != 0 || first <= 9) {
        print_message("skipped: needs root, and ports that users may not have\n");
        skip();
    }
    assert_int_equal(as_nobody(listen_low), 0);
}

static void unix_socket(void **state)
{
    struct chan_listener *l, *l2;
    struct pl_err err = {0};
    struct chan a, b;
    struct stat st;
    want_error(chan_dial(at("s"), &a, &err), &err, -ENOENT, "no such socket");
    mode_t old = umask(0);
    assert_int_equal(chan_listen(at("s"), NULL, &l, &err), 0);
    umask(old);
    assert_int_equal(stat(path("s"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_string_equal(chan_listener_name(l), at("s"));
    assert_null(chan_listener_note(l));
    join(l, at("s"), &a, &b);
    assert_int_equal(a.uid, geteuid());
    assert_int_equal(b.uid, geteuid());
    assert_string_equal(a.peer, at("s"));
    chan_close(&a);
    chan_close(&b);
    want_error(chan_listen(at("s"), NULL, &l2, &err), &err, -EADDRINUSE, "listens there already");
    /* the check made a connection of its own: the listener outlives it */
    assert_int_equal(chan_accept(l, &b, &err), 0);
    chan_close(&b);
    join(l, at("s"), &a, &b);
    chan_close(&a);
    chan_close(&b);
    chan_listener_free(l);
    assert_int_equal(stat(path("s"), &st), -1);
}

/* What a killed server leaves is replaced; anything else in the way is not. */
static void unix_in_the_way(void **state)
{
    struct sockaddr_un un;
    struct chan_listener *l;
    struct pl_err err = {0};
    struct chan a, b;
    struct stat st;
    unsigned len = addr_unix(path("stale"), &un);
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(s, (struct sockaddr *)&un, len), 0);
    assert_int_equal(listen(s, 1), 0);
    close(s);
    want_error(chan_dial(at("stale"), &a, &err), &err, -ECONNREFUSED, "nobody listens");
    assert_int_equal(chan_listen(at("stale"), NULL, &l, &err), 0);
    join(l, at("stale"), &a, &b);
    chan_close(&a);
    chan_close(&b);
    /* somebody replaced it: then it is not ours to unlink */
    unlink(path("stale"));
    int fd = open(path("stale"), O_CREAT | O_WRONLY, 0600);
    close(fd);
    chan_listener_free(l);
    assert_int_equal(stat(path("stale"), &st), 0);
    want_error(chan_listen(at("stale"), NULL, &l, &err), &err, -EEXIST, "not a socket");
    assert_int_equal(stat(path("stale"), &st), 0);
    unlink(path("stale"));
    want_error(chan_listen(at("no/s"), NULL, &l, &err), &err, -ENOENT, "no such directory");
}

static int dial_s(void)
{
    struct chan c;
    struct pl_err err = {0};
    int rc = chan_dial(at("a"), &c, &err);
    if (rc == -EACCES)
        return strstr(err.text, "not permitted") ? 13 : 1;
    char ch;
    return rc < 0 ? 1 : read(c.in, &ch, 1) == 1 ? 0 : 2;
}

/* Accepts one in a child, tells the result through the exit status. */
static pid_t accept_one(struct chan_listener *l)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid)
        return pid;
    alarm(60);
    struct chan c;
    struct pl_err err = {0};
    int rc = chan_accept(l, &c, &err);
    if (rc == -EACCES)
        _exit(strstr(err.text, "turned away uid 65534") && c.in == -1 ? 13 : 1);
    if (rc < 0 || c.uid != NOBODY || write(c.out, "x", 1) != 1)
        _exit(1);
    _exit(0);
}

static int ended(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static void unix_allow_list(void **state)
{
    uid_t nobody = NOBODY, some[] = {0, 12345};
    struct pl_err err = {0};
    struct chan_listener *l;
    struct stat st;
    if (geteuid() != 0) {
        print_message("skipped: needs root to be another user\n");
        skip();
    }
    /* by default the file's mode keeps others out */
    assert_int_equal(chan_listen(at("a"), NULL, &l, &err), 0);
    assert_int_equal(as_nobody(dial_s), 13);
    /* and were it open, the check would */
    assert_int_equal(chmod(path("a"), 0666), 0);
    pid_t pid = accept_one(l);
    assert_int_equal(as_nobody(dial_s), 2);
    assert_int_equal(ended(pid), 13);
    chan_listener_free(l);

    struct chan_listen_opts opts = {.allow = some, .nallow = 2};
    assert_int_equal(chan_listen(at("a"), &opts, &l, &err), 0);
    assert_int_equal(stat(path("a"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0666);
    pid = accept_one(l);
    assert_int_equal(as_nobody(dial_s), 2);
    assert_int_equal(ended(pid), 13);
    chan_listener_free(l);

    opts = (struct chan_listen_opts){.allow = &nobody, .nallow = 1};
    assert_int_equal(chan_listen(at("a"), &opts, &l, &err), 0);
    pid = accept_one(l);
    assert_int_equal(as_nobody(dial_s), 0);
    assert_int_equal(ended(pid), 0);
    chan_listener_free(l);

    opts = (struct chan_listen_opts){.anyone = true};
    assert_int_equal(chan_listen(at("a"), &opts, &l, &err), 0);
    pid = accept_one(l);
    assert_int_equal(as_nobody(dial_s), 0);
    assert_int_equal(ended(pid), 0);
    chan_listener_free(l);
}

/* A socket that has no room for more, and one of the many that nobody answers for. */
static void given_up(void **state)
{
    struct chan chan, waiting[64];
    struct pl_err err = {0};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int cancel = eventfd(1, EFD_CLOEXEC), quiet = eventfd(0, EFD_CLOEXEC), n = 0;
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(un.sun_path, sizeof(un.sun_path), "%s", path("full"));
    assert_int_equal(bind(s, (struct sockaddr *)&un, sizeof(un)), 0);
    assert_int_equal(listen(s, 0), 0);
    /* What has room is connected, whatever `cancel` says; then it counts. */
    int r = 0;
    while (n < 64 && (r = chan_dial_until(at("full"), cancel, &waiting[n], &err)) == 0)
        n++;
    assert_true(n > 0 && n < 64);
    want_error(r, &err, -ECANCELED, "given up");
    while (n)
        chan_close(&waiting[--n]);
    close(s);
    assert_int_equal(unlink(path("full")), 0);
    want_error(chan_dial_until("tcp!localhost!1", cancel, &chan, &err), &err, -ECANCELED,
               "given up");
    /* A name is looked up by somebody else then, with the same answers. */
    r = chan_dial_until("tcp!no.such.host.invalid!1", quiet, &chan, &err);
    assert_true(r == -ENOENT || r == -EAGAIN); /* with or without a network */
    assert_non_null(strstr(err.text, "no.such.host.invalid"));
    close(cancel);
    close(quiet);
}

static void exec_command(void **state)
{
    struct chan c;
    struct pl_err err = {0};
    char buf[64] = "";
    assert_int_equal(chan_dial("exec!echo $PLENUM_CHANNEL; cat", &c, &err), 0);
    assert_int_equal(c.role, CHAN_DIALED);
    assert_string_equal(c.peer, "exec!echo $PLENUM_CHANNEL; cat");
    assert_int_equal(read(c.in, buf, sizeof(buf)), 9);
    assert_memory_equal(buf, "accepted\n", 9);
    assert_int_equal(write(c.out, "x", 1), 1);
    assert_int_equal(read(c.in, buf, sizeof(buf)), 1);
    pid_t child = c.child;
    assert_int_equal(chan_close(&c), 0);
    assert_int_equal(kill(child, 0), -1); /* reaped */
    assert_int_equal(chan_close(&c), 0);

    assert_int_equal(chan_dial("exec!exit 3", &c, &err), 0);
    assert_int_equal(read(c.in, buf, sizeof(buf)), 0);
    int status = chan_close(&c);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 3);

    /* one that does not heed the end of its stdin */
    assert_int_equal(chan_dial("exec!exec sleep 1000", &c, &err), 0);
    status = chan_close(&c);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGTERM);
}

/* The command gets fresh signals: neither blocked nor ignored. */
static void exec_program(void **state)
{
    struct chan c;
    struct pl_err err = {0};
    char buf[4096] = "";
    sigset_t block, old;
    sigemptyset(&block);
    sigaddset(&block, SIGTERM);
    sigprocmask(SIG_BLOCK, &block, &old);
    void (*pipe_was)(int) = signal(SIGPIPE, SIG_IGN);
    char *argv[] = {(char *)"sh", (char *)"-c", (char *)"grep -E 'Sig(Blk|Ign)' /proc/self/status",
                    NULL};
    assert_int_equal(chan_exec(argv, false, &c, &err), 0);
    size_t n = 0;
    for (ssize_t got; (got = read(c.in, buf + n, sizeof(buf) - 1 - n)) > 0;)
        n += (size_t)got;
    assert_int_equal(chan_close(&c), 0);
    sigprocmask(SIG_SETMASK, &old, NULL);
    signal(SIGPIPE, pipe_was);
    assert_non_null(strstr(buf, "SigBlk:\t0000000000000000\n"));
    uint64_t ignored = strtoull(strstr(buf, "SigIgn:") + 8, NULL, 16);
    assert_int_equal(ignored & (1u << (SIGPIPE - 1)), 0);

    char *none[] = {(char *)"no-such-program-here", NULL};
    want_error(chan_exec(none, false, &c, &err), &err, -ENOENT,
               "no-such-program-here: no such program");
    assert_int_equal(c.in, -1);
}

/* In a child whose stdin and stdout are pipes; `how` is its PLENUM_CHANNEL. */
static int stdio_child(const char *how, enum chan_role role)
{
    struct chan c;
    struct pl_err err = {0};
    struct stat st;
    if (how)
        setenv("PLENUM_CHANNEL", how, 1);
    else
        unsetenv("PLENUM_CHANNEL");
    if (chan_dial("stdio", &c, &err) < 0 || c.role != role || c.in <= 2 || c.out <= 2 ||
        strcmp(c.peer, "stdio") != 0)
        return 1;
    printf("this must not enter the channel\n");
    fflush(stdout);
    char ch;
    if (read(0, &ch, 1) != 0 || fstat(1, &st) < 0 || !S_ISCHR(st.st_mode))
        return 2;
    if (read(c.in, &ch, 1) != 1 || ch != 'q' || write(c.out, "a", 1) != 1)
        return 3;
    chan_close(&c);
    return 0;
}

static void stdio_channel(void **state)
{
    static const struct {
        const char *how;
        enum chan_role role;
    } t[] = {{NULL, CHAN_GIVEN},
             {"dialed", CHAN_DIALED},
             {"accepted", CHAN_ACCEPTED},
             {"nonsense", CHAN_GIVEN}};
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        int to[2], from[2];
        assert_int_equal(pipe(to), 0);
        assert_int_equal(pipe(from), 0);
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            dup2(to[0], 0);
            dup2(from[1], 1);
            close(to[0]), close(to[1]), close(from[0]), close(from[1]);
            _exit(stdio_child(t[i].how, t[i].role));
        }
        close(to[0]), close(from[1]);
        char buf[16];
        assert_int_equal(write(to[1], "q", 1), 1);
        assert_int_equal(read(from[0], buf, sizeof(buf)), 1);
        assert_int_equal(buf[0], 'a');
        assert_int_equal(read(from[0], buf, sizeof(buf)), 0); /* closed everywhere */
        assert_int_equal(ended(pid), 0);
        close(to[1]), close(from[0]);
    }
}

static void fd_channel(void **state)
{
    struct chan c;
    struct pl_err err = {0};
    char addr[64];
    int a[2], b[2];
    assert_int_equal(pipe(a), 0);
    assert_int_equal(pipe2(b, O_NONBLOCK), 0);
    snprintf(addr, sizeof(addr), "fd!%d,%d", a[0], b[1]);
    assert_int_equal(chan_dial(addr, &c, &err), 0);
    assert_int_equal(c.role, CHAN_GIVEN);
    assert_int_equal(c.in, a[0]);
    assert_int_equal(c.out, b[1]);
    assert_true(fcntl(c.in, F_GETFD) & FD_CLOEXEC);
    assert_false(fcntl(c.out, F_GETFL) & O_NONBLOCK);
    chan_close(&c);
    snprintf(addr, sizeof(addr), "fd!%d,%d", a[1], b[0]);
    want_error(chan_dial(addr, &c, &err), &err, -EBADF, "not open for reading");
    snprintf(addr, sizeof(addr), "fd!%d,%d", b[0], b[0]);
    want_error(chan_dial(addr, &c, &err), &err, -EBADF, "not open for writing");
    snprintf(addr, sizeof(addr), "fd!%d,%d", a[0], b[1]);
    want_error(chan_dial(addr, &c, &err), &err, -EBADF, "not open");
    close(a[1]), close(b[0]);

    int s[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
    snprintf(addr, sizeof(addr), "fd!%d", s[0]);
    struct chan other = {.in = s[1], .out = s[1]};
    fcntl(s[1], F_SETFD, FD_CLOEXEC);
    assert_int_equal(chan_dial(addr, &c, &err), 0);
    talk(&c, &other);
    chan_close(&c);
    chan_close(&other);

    int tty = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (tty >= 0) {
        snprintf(addr, sizeof(addr), "fd!%d", tty);
        want_error(chan_dial(addr, &c, &err), &err, -EINVAL, "a terminal is no channel");
        close(tty);
    }
}

static void vsock(void **state)
{
    struct chan_listener *l;
    struct pl_err err = {0};
    struct chan a, b, c;
    char addr[64];
    int rc = chan_listen("vsock!*!0", NULL, &l, &err);
    if (rc == -EAFNOSUPPORT) {
        assert_non_null(strstr(err.text, "no vsock here"));
        print_message("skipped: %s\n", err.text);
        skip();
    }
    assert_int_equal(rc, 0);
    snprintf(addr, sizeof(addr), "vsock!local!%s", strrchr(chan_listener_name(l), '!') + 1);
    rc = chan_dial(addr, &a, &err);
    if (rc == -ENODEV || rc == -ENETUNREACH || rc == -ETIMEDOUT) {
        print_message("skipped: %s\n", err.text);
        chan_listener_free(l);
        skip();
    }
    chan_close(&a);
    assert_int_equal(chan_accept(l, &c, &err), 0);
    chan_close(&c);
    join(l, addr, &a, &b);
    assert_int_equal(strncmp(a.peer, "vsock!1!", 8), 0);
    assert_int_equal(strncmp(b.peer, "vsock!1!", 8), 0);
    chan_close(&a);
    chan_close(&b);
    chan_listener_free(l);
    want_error(chan_dial(addr, &a, &err), &err, -ECONNREFUSED, "connection refused");
    want_error(chan_dial("vsock!*!1", &a, &err), &err, -EINVAL, "cannot dial everywhere");
}

/* A listener without descriptors left says so and goes on when there are some again. */
static void accept_without_descriptors(void **state)
{
    struct chan_listener *l;
    struct pl_err err = {0};
    struct chan a, b;
    int hoard[64], n = 0;
    struct rlimit old, few;
    getrlimit(RLIMIT_NOFILE, &old);
    few = (struct rlimit){.rlim_cur = 64, .rlim_max = old.rlim_max};
    assert_int_equal(chan_listen(at("m"), NULL, &l, &err), 0);
    assert_int_equal(chan_dial(at("m"), &a, &err), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    while (n < 64 && (hoard[n] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
        n++;
    int rc = chan_accept(l, &b, &err);
    while (n)
        close(hoard[--n]);
    setrlimit(RLIMIT_NOFILE, &old);
    want_error(rc, &err, -EMFILE, "cannot accept");
    assert_int_equal(chan_accept(l, &b, &err), 0);
    talk(&a, &b);
    chan_close(&a);
    chan_close(&b);
    chan_listener_free(l);
}

static int make_dir(void **state)
{
    strcpy(dir, "/tmp/plenum-channel-XXXXXX");
    return mkdtemp(dir) && chmod(dir, 0755) == 0 ? 0 : -1;
}

static int remove_dir(void **state)
{
    return rmdir(dir); /* fails if a test left something */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms),
        cmocka_unit_test(bad_forms),
        cmocka_unit_test(tcp),
        cmocka_unit_test(tcp_everywhere),
        cmocka_unit_test(tcp_errors),
        cmocka_unit_test(tcp_low_port),
        cmocka_unit_test(unix_socket),
        cmocka_unit_test(unix_in_the_way),
        cmocka_unit_test(unix_allow_list),
        cmocka_unit_test(given_up),
        cmocka_unit_test(exec_command),
        cmocka_unit_test(exec_program),
        cmocka_unit_test(stdio_channel),
        cmocka_unit_test(fd_channel),
        cmocka_unit_test(vsock),
        cmocka_unit_test(accept_without_descriptors),
    };
    alarm(100);
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
