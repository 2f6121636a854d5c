/* SPDX-License-Identifier: MIT */
/* Ten thousand connections and a hundred thousand fids on one server, and what they cost. */
#include "../raw9p.h"
#include "doors/p9.h"
#include "sanitizer.h"
#include <malloc.h>
#include <plenum/sources.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

enum { CONNS = 10000, FIDS = 10 /* of each */, CONN_BYTES = 4096, FID_BYTES = 512 };

/* The clients are a process of their own: one may not have so many descriptors for both ends. At
 * each stage it writes a byte and waits for one. */
static void stage(int in, int out)
{
    char c = 0;
    assert_int_equal(write(out, &c, 1), 1);
    assert_int_equal(read(in, &c, 1), 1);
}

static socklen_t addr_len;

static int dial(const struct sockaddr_un *sa)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0 && connect(fd, (const struct sockaddr *)sa, addr_len) == 0);
    return fd;
}

static void clients(const struct sockaddr_un *sa, int in, int out)
{
    static int fds[CONNS];
    struct raw c; /* one buffer for all */
    raw_init(&c, -1);
    for (int i = 0; i < CONNS; i++) {
        fds[i] = c.fd = dial(sa);
        raw_version(&c, P9_VERSION_L);
        assert_int_equal(raw_attach(&c, 0, ""), 0);
        if (i == 0)
            stage(in, out);
    }
    stage(in, out);
    for (int i = 0; i < CONNS; i++) {
        c.fd = fds[i];
        for (uint32_t f = 1; f <= FIDS; f++)
            assert_int_equal(raw_walk(&c, 0, f, ""), 0);
    }
    stage(in, out);
    for (int i = 0; i < CONNS; i += 100) { /* they are still served */
        c.fd = fds[i];
        assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = FIDS, .mask = 1), 0);
    }
    exit(0);
}

static size_t used(void)
{
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}

static struct p9_conn *take(struct p9_door *door, int listener)
{
    struct p9_conn *conn;
    struct pl_err err;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd >= 0);
    struct chan chan = {
        .in = fd, .out = fd, .role = CHAN_ACCEPTED, .uid = (uid_t)-1, .peer = "scale"};
    if (p9_door_conn(door, &chan, false, NULL, NULL, &conn, &err) < 0)
        fail_msg("%s", err.text);
    return conn;
}

/* What a stage of the clients has cost. */
static size_t next(int in, int out)
{
    static size_t before;
    char c;
    assert_int_equal(read(in, &c, 1), 1);
    size_t now = used(), cost = now - before;
    before = now;
    assert_int_equal(write(out, &c, 1), 1);
    return cost;
}

static void serve(int listener, int in, int out)
{
    static struct p9_conn *conns[CONNS];
    struct pl_tree *mem;
    struct p9_door *door;
    struct p9_crew *crew = p9_crew_new(0);
    assert_int_equal(pl_mem_new(1 << 20, &mem, NULL), 0);
    struct p9_export all = {"", mem};
    assert_int_equal(p9_door_new(&all, 1, crew, NULL, &door), 0);
    conns[0] = take(door, listener);
    next(in, out); /* what is there once for all */
    for (int i = 1; i < CONNS; i++)
        conns[i] = take(door, listener);
    size_t each = next(in, out) / CONNS, fid = next(in, out) / (CONNS * FIDS);
    print_message("%zu bytes for a connection with its attach, %zu for a fid\n", each, fid);
#if !ADDRESS_SANITIZER && !THREAD_SANITIZER
    assert_in_range(each, 1, CONN_BYTES);
    assert_in_range(fid, 1, FID_BYTES);
#endif
    for (int i = 0; i < CONNS; i++) {
        assert_int_equal(p9_conn_wait(conns[i], NULL), 0);
        p9_conn_free(conns[i]);
    }
    p9_door_free(door);
    p9_crew_free(crew);
    pl_tree_unref(mem);
}

static void test_scale(void **state)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct rlimit lim;
    int up[2], down[2], status;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &lim), 0);
    lim.rlim_cur = lim.rlim_max;
    if (lim.rlim_max < CONNS + 100 || setrlimit(RLIMIT_NOFILE, &lim) < 0)
        skip();
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t len = sizeof(sa.sun_family); /* a name of its own, given by the kernel */
    assert_int_equal(bind(listener, (struct sockaddr *)&sa, len), 0);
    len = sizeof(sa);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&sa, &len), 0);
    assert_int_equal(listen(listener, 128) | pipe(up) | pipe(down), 0);
    pid_t child = fork();
    if (child == 0) {
        addr_len = len;
        clients(&sa, down[0], up[1]);
    }
    close(up[1]);
    serve(listener, up[0], down[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close(listener);
    close(up[0]), close(down[0]), close(down[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_scale)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
