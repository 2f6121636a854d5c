/* SPDX-License-Identifier: MIT */
/*
 * Descriptors that a server lends to who is on the same machine (Tlend): what comes through them,
 * to whom they are not lent, and peers that lend what they should not. Whether bytes came by
 * messages is seen in the server's counters.
 */
#include "../raw9p.h"
#include "base/stats.h"
#include "sources/p9.h"
#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>

enum { MUCH = 100000 };

struct world {
    char dir[32];
    struct pl_tree *tree;
    struct p9_crew *crew;
    struct p9_door *door;
    struct stats stats;
    struct p9_conn *conn[4];
    unsigned n;
    uid_t server, client; /* who the two think the other is */
    bool again;
    struct pl_tree *far;
    struct pl_node *top;
    int fds; /* open before */
};

static struct pl_call call;

static int open_fds(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static struct p9_conn *dial(struct world *w, struct pl_call *c)
{
    int fds[2];
    struct p9_conn *conn;
    struct pl_err err = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct chan here = {
        .in = fds[0], .out = fds[0], .role = CHAN_ACCEPTED, .uid = w->client, .peer = "client"};
    struct chan there = {
        .in = fds[1], .out = fds[1], .role = CHAN_DIALED, .uid = w->server, .peer = "server"};
    assert_int_equal(p9_door_conn(w->door, &here, false, NULL, NULL, &w->conn[w->n++], &err), 0);
    struct p9_conn_opts opts = {.crew = w->crew, .use = true};
    assert_int_equal(p9_conn_new(&there, &opts, &conn, &err), 0);
    assert_int_equal(p9_use(conn, c, &err), 0);
    return conn;
}

static int again(void *arg, struct pl_call *c, struct p9_conn *old, struct p9_conn **ret,
                 struct pl_err *err)
{
    struct world *w = arg;
    if (w->n == sizeof(w->conn) / sizeof(*w->conn))
        return pl_fail(err, -ECONNREFUSED, "enough");
    *ret = dial(w, c);
    return 0;
}

/* Over `layer`, which takes over the tree of a directory; NULL: over that itself. */
static struct world *begin(struct pl_tree *(*layer)(struct pl_tree *), uid_t server, uid_t client,
                           bool lives_on)
{
    struct world *w = calloc(1, sizeof(*w));
    struct pl_err err = {0};
    struct pl_attr attr;
    pl_call_init_self(&call);
    w->fds = open_fds();
    strcpy(w->dir, "/tmp/lent.XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    assert_int_equal(pl_host_open(w->dir, &w->tree, &err), 0);
    if (layer)
        w->tree = layer(w->tree);
    w->crew = p9_crew_new(4);
    w->server = server;
    w->client = client;
    struct p9_export e = {"", w->tree};
    assert_int_equal(p9_door_new(&e, 1, w->crew, &w->stats, &w->door), 0);
    struct pl_p9_opts opts = {
        .own = true, .again = lives_on ? again : NULL, .again_arg = w, .sync = true};
    assert_int_equal(pl_p9_open(dial(w, &call), &opts, &w->far, &err), 0);
    assert_int_equal(pl_attach(w->far, &call, "", &w->top, &attr), 0);
    return w;
}

static struct world *begin_own(void)
{
    return begin(NULL, geteuid(), geteuid(), false);
}

static int drop(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static void end(struct world *w)
{
    pl_node_unref(w->top);
    pl_tree_unref(w->far);
    for (unsigned i = 0; i < w->n; i++) {
        p9_conn_wait(w->conn[i], NULL);
        p9_conn_free(w->conn[i]);
    }
    p9_door_free(w->door);
    p9_crew_free(w->crew);
    pl_tree_unref(w->tree);
    assert_int_equal(open_fds(), w->fds);
    nftw(w->dir, drop, 8, FTW_DEPTH | FTW_PHYS);
    pl_call_done(&call);
    free(w);
}

/* ---- files ---- */

static char *pattern(size_t n)
{
    char *p = malloc(n);
    for (size_t i = 0; i < n; i++)
        p[i] = (char)(i * 31 + i / 256);
    return p;
}

static void path_of(struct world *w, char *buf, const char *name)
{
    sprintf(buf, "%s/%s", w->dir, name);
}

/* A file of MUCH bytes, made behind the server's back. */
static void put(struct world *w, const char *name)
{
    char path[100], *text = pattern(MUCH);
    path_of(w, path, name);
    FILE *f = fopen(path, "w");
    assert_int_equal(fwrite(text, 1, MUCH, f), MUCH);
    assert_int_equal(fclose(f), 0);
    free(text);
}

static struct pl_file *open_file(struct world *w, const char *name, int flags)
{
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *f;
    assert_int_equal(pl_lookup(w->far, &call, w->top, name, &node, &attr), 0);
    assert_int_equal(pl_open(w->far, &call, node, flags, &f), 0);
    pl_node_unref(node);
    return f;
}

/* Reads it all; how many bytes the server was asked for. */
static uint64_t read_all(struct world *w, struct pl_file *f)
{
    char *text = pattern(MUCH), *buf = malloc(MUCH);
    uint64_t before = atomic_load(&w->stats.bytes_read);
    assert_int_equal(pl_read(w->far, &call, f, buf, MUCH, 0), MUCH);
    assert_memory_equal(buf, text, MUCH);
    free(text);
    free(buf);
    return atomic_load(&w->stats.bytes_read) - before;
}

static uint64_t write_all(struct world *w, struct pl_file *f)
{
    char *text = pattern(MUCH);
    uint64_t before = atomic_load(&w->stats.bytes_written);
    assert_int_equal(pl_write(w->far, &call, f, text, MUCH, 0), MUCH);
    free(text);
    return atomic_load(&w->stats.bytes_written) - before;
}

/* ---- what is lent ---- */

static void bytes(void **state)
{
    struct world *w = begin_own();
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *f;
    assert_int_equal(pl_create(w->far, &call, w->top, "f", O_RDWR, 0644, &node, &attr, &f), 0);
    assert_int_equal(write_all(w, f), 0);
    assert_int_equal(read_all(w, f), 0);
    assert_int_equal(pl_getattr(w->far, &call, node, f, &attr), 0);
    assert_int_equal(attr.size, MUCH);
    struct pl_setattr set = {.valid = PL_SET_SIZE,
                             .size = 10}; /* by the server, and seen at once */
    char buf[20];
    assert_int_equal(pl_setattr(w->far, &call, node, f, &set, &attr), 0);
    assert_int_equal(pl_read(w->far, &call, f, buf, sizeof(buf), 0), 10);
    assert_int_equal(pl_read(w->far, &call, f, buf, sizeof(buf), 10), 0);
    assert_int_equal(pl_fsync(w->far, &call, f, false), 0);
    pl_close(w->far, &call, f);
    assert_int_equal(atomic_load(&w->stats.bytes_read), 0);
    pl_node_unref(node);
    end(w);
}

/* Who reads a few bytes once does not pay for the asking. */
static void second_use(void **state)
{
    struct world *w = begin_own();
    char buf[10];
    put(w, "f");
    struct pl_file *f = open_file(w, "f", O_RDONLY);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pl_read(w->far, &call, f, buf, sizeof(buf), 0), sizeof(buf));
    assert_int_equal(atomic_load(&w->stats.bytes_read), sizeof(buf));
    pl_close(w->far, &call, f);
    end(w);
}

/* What is appended, the server remembers. */
static void appending(void **state)
{
    struct world *w = begin_own();
    struct pl_attr attr;
    put(w, "f");
    struct pl_file *f = open_file(w, "f", O_RDWR | O_APPEND);
    assert_int_equal(read_all(w, f), 0);
    assert_int_equal(write_all(w, f), MUCH);
    assert_int_equal(pl_getattr(w->far, &call, f->node, f, &attr), 0);
    assert_int_equal(attr.size, 2 * MUCH);
    pl_close(w->far, &call, f);
    end(w);
}

static void many(void **state)
{
    struct world *w = begin_own();
    struct pl_file *f[LIMIT_LENT + 2];
    put(w, "f");
    for (int i = 0; i < LIMIT_LENT + 2; i++) {
        f[i] = open_file(w, "f", O_RDONLY);
        assert_int_equal(read_all(w, f[i]), i < LIMIT_LENT ? 0 : MUCH);
    }
    pl_close(w->far, &call, f[0]);
    f[0] = open_file(w, "f", O_RDONLY);
    assert_int_equal(read_all(w, f[0]), 0);
    for (int i = 0; i < LIMIT_LENT + 2; i++)
        pl_close(w->far, &call, f[i]);
    end(w);
}

/* ---- what is not ---- */

static struct pl_tree *counted(struct pl_tree *lower)
{
    return &counting_new(lower)->tree;
}

static struct pl_tree *mapped(struct pl_tree *lower)
{
    struct pl_map *map;
    struct pl_err err;
    assert_int_equal(pl_map_parse("uid=0:0:65536,gid=0:0:65536", &map, &err), 0);
    return pl_map_new(map, lower);
}

static void refused(void **state)
{
    uid_t me = geteuid(), other = me + 1;
    const struct {
        struct pl_tree *(*layer)(struct pl_tree *);
        uid_t server, client;
    } cases[] = {{pl_ro_new, me, me},
                 {mapped, me, me},
                 {counted, me, me},
                 {NULL, other, me},
                 {NULL, me, (uid_t)-1}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct world *w = begin(cases[i].layer, cases[i].server, cases[i].client, false);
        put(w, "f");
        struct pl_file *f = open_file(w, "f", O_RDONLY);
        for (int k = 0; k < 3; k++)
            assert_int_equal(read_all(w, f), MUCH);
        pl_close(w->far, &call, f);
        end(w);
    }
}

/* A tree that lends nothing is not asked for ever. */
static void asked_no_more(void **state)
{
    struct world *w = begin(counted, geteuid(), geteuid(), false);
    put(w, "f");
    uint64_t errors = 0;
    for (int i = 0; i < 30; i++) {
        struct pl_file *f = open_file(w, "f", O_RDONLY);
        assert_int_equal(read_all(w, f), MUCH);
        pl_close(w->far, &call, f);
    }
    errors = atomic_load(&w->stats.errors);
    assert_true(errors > 0 && errors < 30);
    end(w);
}

/* ---- the end of a server ---- */

static void server_gone(void **state)
{
    struct world *w = begin_own();
    struct pl_attr attr;
    put(w, "f");
    struct pl_file *f = open_file(w, "f", O_RDONLY);
    assert_int_equal(read_all(w, f), 0);
    p9_conn_abort(w->conn[0]);
    p9_conn_wait(w->conn[0], NULL);
    assert_int_equal(read_all(w, f), 0);
    assert_int_equal(pl_getattr(w->far, &call, f->node, f, &attr), -ECONNABORTED);
    pl_close(w->far, &call, f);
    end(w);
}

/* The next one may be another. */
static void next_server(void **state)
{
    struct world *w = begin(NULL, geteuid(), geteuid(), true);
    struct pl_attr attr;
    put(w, "f");
    struct pl_file *f = open_file(w, "f", O_RDONLY);
    assert_int_equal(read_all(w, f), 0);
    p9_conn_abort(w->conn[0]);
    p9_conn_wait(w->conn[0], NULL);
    assert_int_equal(pl_getattr(w->far, &call, f->node, f, &attr), 0);
    assert_int_equal(w->n, 2);
    assert_int_equal(read_all(w, f), MUCH);
    struct pl_file *g = open_file(w, "f", O_RDONLY);
    assert_int_equal(read_all(w, g), 0);
    pl_close(w->far, &call, f);
    pl_close(w->far, &call, g);
    end(w);
}

/* ---- by hand ---- */

/* The next message, and what came along with it: a descriptor or -1. */
static int raw_borrow(struct raw *c, struct p9_msg m)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } u;
    struct iovec iov = {c->buf, P9_HDRSZ};
    struct msghdr h = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u)};
    int fd = -1;
    raw_send(c, m);
    assert_int_equal(recvmsg(c->fd, &h, MSG_WAITALL | MSG_CMSG_CLOEXEC), P9_HDRSZ);
    assert_int_equal(c->buf[4], P9_Rlend);
    if (CMSG_FIRSTHDR(&h))
        memcpy(&fd, CMSG_DATA(&u.head), sizeof(fd));
    return fd;
}

static void by_hand(void **state)
{
    struct world *w = begin_own();
    int fds[2];
    struct raw c;
    struct pl_err err;
    char buf[4];
    put(w, "f");
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct chan here = {
        .in = fds[0], .out = fds[0], .role = CHAN_ACCEPTED, .uid = geteuid(), .peer = "raw"};
    assert_int_equal(p9_door_conn(w->door, &here, false, NULL, NULL, &w->conn[w->n++], &err), 0);
    raw_init(&c, fds[1]);
    raw_version(&c, P9_VERSION_OWN);
    assert_int_equal(raw_attach(&c, 0, ""), 0);
    assert_int_equal(raw_walk(&c, 0, 1, "f"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlend, .fid = 1), -EBADF); /* not open */
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1), 0);
    int fd = raw_borrow(&c, (struct p9_msg){.type = P9_Tlend, .fid = 1});
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 1), 0); /* and it stays */
    assert_int_equal(pread(fd, buf, sizeof(buf), 0), sizeof(buf));
    close(fd);
    assert_int_equal(raw_walk(&c, 0, 2, ""), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 2, .flags = P9_DIRECTORY), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlend, .fid = 2), -EPERM);
    raw_close(&c);
    end(w);
}

/* A client that asks and goes away, or never looks, leaves nothing behind. */
static void never_taken(void **state)
{
    struct world *w = begin_own();
    int fds[2];
    struct raw c;
    struct pl_err err;
    put(w, "f");
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct chan here = {
        .in = fds[0], .out = fds[0], .role = CHAN_ACCEPTED, .uid = geteuid(), .peer = "raw"};
    assert_int_equal(p9_door_conn(w->door, &here, false, NULL, NULL, &w->conn[w->n++], &err), 0);
    raw_init(&c, fds[1]);
    raw_version(&c, P9_VERSION_OWN);
    assert_int_equal(raw_attach(&c, 0, ""), 0);
    assert_int_equal(raw_walk(&c, 0, 1, "f"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1), 0);
    for (int i = 0; i < 400; i++)
        raw_send(&c, (struct p9_msg){.type = P9_Tlend, .fid = 1});
    raw_close(&c);
    p9_conn_wait(w->conn[w->n - 1], NULL);
    end(w); /* counts */
}

/* ---- servers that lend what they should not ---- */

/* Answers with `nlent` descriptors of `fd`. */
static void lend(int sock, struct p9_msg m, int fd, int nlent)
{
    uint8_t buf[300];
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(8 * sizeof(int))];
    } u = {.head = {.cmsg_level = SOL_SOCKET,
                    .cmsg_type = SCM_RIGHTS,
                    .cmsg_len = CMSG_LEN((size_t)nlent * sizeof(int))}};
    for (int i = 0; i < nlent; i++)
        memcpy(CMSG_DATA(&u.head) + (size_t)i * sizeof(int), &fd, sizeof(fd));
    int n = p9_encode(&m, buf, sizeof(buf));
    assert_true(n > 0);
    struct iovec iov = {buf, (size_t)n};
    struct msghdr h = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = nlent ? &u : NULL,
                       .msg_controllen = nlent ? CMSG_SPACE((size_t)nlent * sizeof(int)) : 0};
    assert_int_equal(sendmsg(sock, &h, MSG_NOSIGNAL), n);
}

struct liar {
    int sock, with; /* descriptors with each Rlend */
    int unasked;    /* with each other answer */
};

static void *liar(void *arg)
{
    struct liar *l = arg;
    struct raw c;
    raw_init(&c, l->sock);
    for (;;) {
        struct pollfd p = {c.fd, POLLIN, 0};
        char one;
        poll(&p, 1, -1);
        if (recv(c.fd, &one, 1, MSG_PEEK) <= 0)
            break;
        raw_next(&c);
        struct p9_msg r = {.type = (uint8_t)(c.r.type + 1), .tag = c.r.tag};
        r.msize = c.r.msize;
        r.version = c.r.version;
        if (c.r.type == P9_Tclunk)
            r = (struct p9_msg){.type = P9_Rlerror, .tag = c.r.tag, .ecode = EIO};
        if (c.r.type % 2 == 0)
            lend(c.fd, r, STDIN_FILENO, c.r.type == P9_Tlend ? l->with : l->unasked);
    }
    raw_close(&c);
    return NULL;
}

static void liars(void **state)
{
    static const struct liar kinds[] = {{0, 1, 0}, {0, 0, 0}, {0, 8, 0}, {0, 0, 1}, {0, 1, 3}};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        int fds[2], before = open_fds();
        struct liar l = kinds[i];
        pthread_t thread;
        struct p9_conn *conn;
        struct pl_err err = {0};
        struct p9_crew *crew = p9_crew_new(2);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        l.sock = fds[1];
        pthread_create(&thread, NULL, liar, &l);
        struct chan chan = {
            .in = fds[0], .out = fds[0], .role = CHAN_DIALED, .uid = geteuid(), .peer = "liar"};
        struct p9_conn_opts opts = {.crew = crew, .use = true};
        assert_int_equal(p9_conn_new(&chan, &opts, &conn, &err), 0);
        assert_int_equal(p9_use(conn, NULL, &err), 0);
        assert_true(p9_borrows(conn));
        for (int k = 0; k < 20; k++) {
            struct p9_msg t = {.type = P9_Tlend, .fid = 1}, other = {.type = P9_Tclunk, .fid = 1};
            struct p9_answer a;
            assert_int_equal(p9_rpc(conn, NULL, &t, &a, NULL, 0), 0);
            assert_true(l.with || l.unasked || a.lent == -1);
            if (a.lent >= 0)
                assert_int_equal(close(a.lent), 0);
            p9_answer_free(&a);
            assert_int_equal(p9_rpc(conn, NULL, &other, &a, NULL, 0), -EIO);
        }
        p9_conn_free(conn);
        pthread_join(thread, NULL);
        p9_crew_free(crew);
        assert_int_equal(open_fds(), before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes),       cmocka_unit_test(second_use),
        cmocka_unit_test(appending),   cmocka_unit_test(many),
        cmocka_unit_test(refused),     cmocka_unit_test(asked_no_more),
        cmocka_unit_test(server_gone), cmocka_unit_test(next_server),
        cmocka_unit_test(by_hand),     cmocka_unit_test(never_taken),
        cmocka_unit_test(liars),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
