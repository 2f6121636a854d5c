/* SPDX-License-Identifier: MIT */
/*
 * The server is a process of its own, and is killed again and again while it is used; another takes
 * its place, or one of two of the same files.
 *
 * A process without threads, made first of all, starts and kills the servers.
 */
#include "base/futex.h"
#include "p9_again_fixture.h"
#include <plenum/sources.h>
#include <sys/un.h>
#include <sys/wait.h>

enum { KILLS = 50, THREADS = 2 };

/* ---- the servers ---- */

static char dir[] = "/tmp/p9-again-kill-XXXXXX";
static int spawner;

static void address(char buf[128], int which)
{
    snprintf(buf, 128, "unix!%s/socket%d", dir, which);
}

static _Noreturn void serve(int which)
{
    char addr[128], files[128];
    struct chan_listener *l;
    struct pl_tree *tree;
    struct p9_door *door;
    struct pl_err err = {0};
    struct p9_crew *crew = p9_crew_new(8);
    address(addr, which);
    snprintf(files, sizeof(files), "%s/files", dir);
    int r = pl_host_open(files, &tree, &err);
    struct p9_export e = {"", tree};
    if (r == 0)
        r = p9_door_new(&e, 1, crew, NULL, &door);
    if (r == 0)
        r = p9_door_remember(door, open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), "files");
    if (r == 0)
        r = chan_listen(addr, NULL, &l, &err);
    if (r < 0) {
        fprintf(stderr, "server: %s (%d)\n", err.text, r);
        _exit(1);
    }
    for (;;) {
        struct chan chan;
        struct p9_conn *conn;
        if (chan_accept(l, &chan, &err) == 0 &&
            p9_door_conn(door, &chan, false, NULL, NULL, &conn, &err) < 0)
            chan_close(&chan);
    }
}

/* Commands: '0' and '1' start that server, 'k' and 'l' kill it. */
static _Noreturn void spawn(int fd)
{
    pid_t pids[2] = {0};
    char c;
    while (read(fd, &c, 1) == 1) {
        int i = c == '1' || c == 'l';
        if (c == '0' || c == '1') {
            pids[i] = fork();
            if (pids[i] == 0) {
                close(fd);
                serve(i);
            }
        } else {
            kill(pids[i], SIGKILL);
            waitpid(pids[i], NULL, 0);
            pids[i] = 0;
        }
        if (write(fd, &c, 1) != 1)
            break;
    }
    for (int i = 0; i < 2; i++)
        if (pids[i] > 0)
            kill(pids[i], SIGKILL);
    _exit(0);
}

static void command(char c)
{
    char back;
    assert_int_equal(write(spawner, &c, 1), 1);
    assert_int_equal(read(spawner, &back, 1), 1);
}

/* ---- the client ---- */

struct client {
    struct p9_crew *crew;
    int servers;     /* how many there are to try */
    atomic_int next; /* which comes next */
    struct pl_tree *tree;
    struct pl_node *top;
    atomic_uint rounds, doubts;
    atomic_bool stop;
};

static int dial_any(struct client *c, struct pl_call *k, struct p9_conn **ret, struct pl_err *err)
{
    for (int r;;) {
        char addr[128];
        struct chan chan;
        struct p9_conn_opts opts = {.crew = c->crew, .use = true};
        address(addr, atomic_load(&c->next));
        atomic_store(&c->next, (atomic_load(&c->next) + 1) % c->servers);
        if (chan_dial(addr, &chan, err) == 0) {
            if (p9_conn_new(&chan, &opts, ret, err) < 0)
                chan_close(&chan);
            else if (p9_use(*ret, k, err) == 0)
                return 0;
            else
                p9_conn_free(*ret);
        }
        if ((r = pl_call_sleep(k, 5000000)) < 0)
            return r;
    }
}

static int again(void *arg, struct pl_call *k, struct p9_conn *old, struct p9_conn **ret,
                 struct pl_err *err)
{
    return dial_any(arg, k, ret, err);
}

static void client_open(struct client *c, int servers)
{
    struct p9_conn *conn;
    struct pl_attr attr;
    struct pl_err err = {0};
    *c = (struct client){.crew = p9_crew_new(4), .servers = servers};
    assert_int_equal(dial_any(c, &call, &conn, &err), 0);
    struct pl_p9_opts opts = {.own = true, .again = again, .again_arg = c};
    assert_int_equal(pl_p9_open(conn, &opts, &c->tree, &err), 0);
    assert_int_equal(pl_attach(c->tree, &call, "", &c->top, &attr), 0);
}

static void client_close(struct client *c)
{
    pl_node_unref(c->top);
    pl_tree_unref(c->tree);
    p9_crew_free(c->crew);
}

struct worker {
    struct client *c;
    unsigned id;
    pthread_t thread;
};

/* 0, or -EREMOTEIO, which is counted. */
static int told(struct client *c, int r)
{
    if (r == -EREMOTEIO)
        atomic_fetch_add(&c->doubts, 1);
    else
        assert_int_equal(r, 0);
    return r;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct client *c = w->c;
    struct pl_call k;
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *f, *g;
    char name[32], other[32], buf[32], back[32];
    pl_call_init_self(&k);
    snprintf(name, sizeof(name), "data%u", w->id);
    int r = pl_create(c->tree, &k, c->top, name, O_RDWR | O_TRUNC, 0600, &node, &attr, &f);
    assert_int_equal(r, 0);
    struct pl_lock lock = {.type = F_WRLCK, .owner = w->id + 1, .end = 9, .pid = 1};
    assert_int_equal(pl_lock(c->tree, &k, f, &lock), 0);
    for (unsigned i = 0; !atomic_load(&c->stop); i++) {
        int n = snprintf(buf, sizeof(buf), "round %u of %u", i, w->id);
        assert_int_equal(pl_write(c->tree, &k, f, buf, (size_t)n, i * 32), n);
        assert_int_equal(pl_read(c->tree, &k, f, back, (size_t)n, i * 32), n);
        assert_memory_equal(buf, back, (size_t)n);
        assert_int_equal(pl_getattr(c->tree, &k, node, f, &attr), 0);
        assert_int_equal(attr.size, i * 32 + (unsigned)n);
        snprintf(name, sizeof(name), "f%d-%u-%u", c->servers, w->id, i);
        snprintf(other, sizeof(other), "g%d-%u-%u", c->servers, w->id, i);
        struct pl_node *made;
        r = pl_create(c->tree, &k, c->top, name, O_RDWR | O_EXCL, 0600, &made, &attr, &g);
        if (told(c, r) == 0) {
            pl_close(c->tree, &k, g);
            pl_node_unref(made);
            r = told(c, pl_rename(c->tree, &k, c->top, name, c->top, other, 0));
            if (r == 0)
                told(c, pl_remove(c->tree, &k, c->top, other, 0));
        }
        atomic_fetch_add(&c->rounds, 1);
    }
    pl_close(c->tree, &k, f);
    pl_node_unref(node);
    pl_call_done(&k);
    return NULL;
}

static void wait_rounds(struct client *c, unsigned n)
{
    for (unsigned start = atomic_load(&c->rounds); atomic_load(&c->rounds) < start + n;)
        assert_int_equal(pl_call_sleep(&call, 1000000), 0);
}

static void run(int servers)
{
    struct client c;
    struct worker w[THREADS];
    command('0');
    if (servers == 2)
        command('1');
    client_open(&c, servers);
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (struct worker){.c = &c, .id = i};
        pthread_create(&w[i].thread, NULL, work, &w[i]);
    }
    for (unsigned i = 0; i < KILLS; i++) {
        wait_rounds(&c, 5);
        int victim = servers == 2 ? (atomic_load(&c.next) + 1) % 2 : 0; /* the one that is in use */
        command(victim ? 'l' : 'k');
        if (servers == 2)
            wait_rounds(&c, 5); /* at the other */
        command(victim ? '1' : '0');
    }
    wait_rounds(&c, 5);
    atomic_store(&c.stop, true);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(w[i].thread, NULL);
    print_message("%u rounds, %u in doubt\n", atomic_load(&c.rounds), atomic_load(&c.doubts));
    assert_int_equal(atomic_load(&c.doubts), 0);
    client_close(&c);
    command('k');
    if (servers == 2)
        command('l');
}

static void one(void **state)
{
    run(1);
}

static void two(void **state)
{
    run(2);
}

int main(void)
{
    int fds[2];
    char files[128], clean[160];
    signal(SIGPIPE, SIG_IGN);
    if (!mkdtemp(dir) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return 1;
    snprintf(files, sizeof(files), "%s/files", dir);
    if (mkdir(files, 0755) < 0)
        return 1;
    pid_t pid = fork();
    if (pid == 0) {
        close(fds[0]);
        spawn(fds[1]);
    }
    close(fds[1]);
    spawner = fds[0];
    pl_call_init_self(&call);
    const struct CMUnitTest tests[] = {cmocka_unit_test(one), cmocka_unit_test(two)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pl_call_done(&call);
    close(spawner);
    waitpid(pid, NULL, 0);
    snprintf(clean, sizeof(clean), "rm -rf %s", dir);
    return system(clean) || failed;
}
