/* SPDX-License-Identifier: MIT */
/* Locks of the host source: owners, other processes of the machine, waiting and its end. */
#include "host_fixture.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/file.h>

#define END PL_OFF_MAX

static struct pl_node *n;
static struct pl_file *f, *g;

static int begin(void **state)
{
    setup(state);
    put(host("f"), "0123456789");
    n = node("f");
    assert_int_equal(pl_open(t, c, n, O_RDWR, &f), 0);
    assert_int_equal(pl_open(t, c, n, O_RDWR, &g), 0);
    return 0;
}

static int end(void **state)
{
    if (f)
        pl_close(t, c, f);
    if (g)
        pl_close(t, c, g);
    pl_node_unref(n);
    return teardown(state);
}

static int set(struct pl_file *file, uint64_t owner, int type, uint64_t from, uint64_t to)
{
    struct pl_lock l = {
        .type = type, .owner = owner, .start = from, .end = to, .pid = (uint32_t)owner * 100};
    return pl_lock(t, c, file, &l);
}

/* The lock in the way, as "W 3-5 200" */
static const char *test(struct pl_file *file, uint64_t owner, int type, uint64_t from, uint64_t to)
{
    static char s[80];
    struct pl_lock l = {.type = type, .owner = owner, .start = from, .end = to};
    assert_int_equal(pl_getlock(t, c, file, &l), 0);
    if (l.type == F_UNLCK)
        return "free";
    snprintf(s, sizeof(s), "%c %d-%d %u", l.type == F_WRLCK ? 'W' : 'R', (int)l.start,
             l.end == END ? -1 : (int)l.end, l.pid);
    return s;
}

static void owners(void **state)
{
    int before = fds();
    assert_int_equal(set(f, 1, F_WRLCK, 0, 9), 0);
    /* the same owner by another open file: no conflict; another by the same file: conflict */
    assert_int_equal(set(g, 1, F_WRLCK, 5, 20), 0);
    assert_int_equal(set(f, 2, F_RDLCK, 3, 3), -EAGAIN);
    assert_string_equal(test(g, 1, F_WRLCK, 0, END), "free");
    assert_string_equal(test(f, 2, F_RDLCK, 3, 3), "W 0-20 100");
    assert_int_equal(set(f, 1, F_RDLCK, 0, 9), 0);
    assert_int_equal(set(g, 2, F_RDLCK, 3, 3), 0);
    assert_string_equal(test(f, 1, F_WRLCK, 0, END), "R 3-3 200");
    assert_string_equal(test(f, 1, F_RDLCK, 0, END), "free");
    /* pieces */
    assert_int_equal(set(f, 1, F_UNLCK, 4, 15), 0);
    assert_int_equal(set(g, 2, F_WRLCK, 4, 15), 0);
    assert_int_equal(set(g, 2, F_WRLCK, 15, 16), -EAGAIN);
    assert_int_equal(set(f, 2, F_WRLCK, 1000, END), 0);
    assert_string_equal(test(f, 3, F_WRLCK, 500, 2000), "W 1000--1 200");
    assert_true(fds() <= before + 2);
    /* nothing held, no descriptor */
    assert_int_equal(set(f, 1, F_UNLCK, 0, 3), 0);
    assert_int_equal(set(f, 1, F_UNLCK, 16, 20), 0);
    assert_int_equal(fds(), before + 1);
    assert_int_equal(pl_flush(t, c, f, 2), 0);
    assert_int_equal(fds(), before);
    assert_string_equal(test(f, 3, F_WRLCK, 0, END), "free");
    assert_int_equal(set(f, 3, F_UNLCK, 0, END), 0);
    struct pl_file *r;
    assert_int_equal(pl_open(t, c, n, O_RDONLY, &r), 0);
    assert_int_equal(set(r, 1, F_WRLCK, 0, 0), -EBADF);
    assert_int_equal(set(r, 1, F_RDLCK, 0, 0), 0);
    /* the same owner goes on with a file that may write */
    assert_int_equal(set(f, 1, F_WRLCK, 0, 0), 0);
    assert_int_equal(set(g, 2, F_RDLCK, 0, 0), -EAGAIN);
    /* its close of any of them ends its locks on the node */
    assert_int_equal(pl_close(t, c, r), 0);
    assert_int_equal(set(g, 2, F_WRLCK, 0, 0), 0);
}

/* Another process of the machine, with the kernel's own locks: it takes the command "type from len"
 * and answers with the errno. */
static pid_t other;
static int to[2], from[2];

static void other_starts(void)
{
    assert_int_equal(pipe2(to, O_CLOEXEC), 0);
    assert_int_equal(pipe2(from, O_CLOEXEC), 0);
    char path[4096];
    snprintf(path, sizeof(path), "%s", host("f"));
    other = fork();
    if (other)
        return;
    struct flock fl;
    int fd = open(path, O_RDWR);
    close(to[1]);
    while (read(to[0], &fl, sizeof(fl)) == sizeof(fl)) {
        int e = fcntl(fd, fl.l_pid ? F_GETLK : F_SETLK, &fl) < 0 ? errno : 0;
        fl.l_pid = e;
        if (write(from[1], &fl, sizeof(fl)) < 0)
            break;
    }
    _exit(0);
}

static int other_does(short type, off_t start, off_t len)
{
    struct flock fl = {.l_type = type, .l_start = start, .l_len = len};
    assert_int_equal(write(to[1], &fl, sizeof(fl)), sizeof(fl));
    assert_int_equal(read(from[0], &fl, sizeof(fl)), sizeof(fl));
    return fl.l_pid;
}

static void other_ends(void)
{
    close(to[0]);
    close(to[1]);
    close(from[0]);
    close(from[1]);
    assert_int_equal(waitpid(other, NULL, 0), other);
}

static void processes(void **state)
{
    char want[40];
    other_starts();
    assert_int_equal(set(f, 1, F_WRLCK, 0, 4), 0);
    assert_int_equal(other_does(F_WRLCK, 4, 1), EAGAIN);
    assert_int_equal(other_does(F_WRLCK, 5, 1), 0);
    assert_int_equal(set(g, 2, F_RDLCK, 5, 5), -EAGAIN);
    snprintf(want, sizeof(want), "W 5-5 %d", (int)other);
    assert_string_equal(test(g, 2, F_RDLCK, 5, 8), want);
    assert_int_equal(other_does(F_UNLCK, 0, 0), 0);
    assert_int_equal(pl_flush(t, c, f, 1), 0);
    assert_int_equal(other_does(F_WRLCK, 0, 0), 0);
    other_ends();
}

/* ---- waiting ---- */

struct waiter {
    struct pl_call call;
    struct pl_lock lock;
    struct pl_file *file;
    atomic_bool blocks, over;
    int result;
    pthread_t thread;
};

static void blocks(struct pl_call *of)
{
    ((struct waiter *)of->door)->blocks = true;
}

static void *waits(void *arg)
{
    struct waiter *w = arg;
    w->result = pl_lock(t, &w->call, w->file, &w->lock);
    w->over = true;
    return NULL;
}

static void start(struct waiter *w, struct pl_file *file, struct pl_lock l)
{
    memset(w, 0, sizeof(*w));
    pl_call_init_self(&w->call);
    w->call.load_groups = NULL;
    w->call.door = w;
    w->call.blocks = blocks;
    w->file = file;
    w->lock = l;
    assert_int_equal(pthread_create(&w->thread, NULL, waits, w), 0);
    while (!w->blocks)
        sched_yield();
    assert_false(w->over);
}

static int ended(struct waiter *w)
{
    assert_int_equal(pthread_join(w->thread, NULL), 0);
    pl_call_done(&w->call);
    return w->result;
}

static void waiting(void **state)
{
    struct waiter w;
    struct pl_lock l = {.type = F_WRLCK, .owner = 2, .end = END, .wait = true};
    /* released by another owner */
    assert_int_equal(set(f, 1, F_WRLCK, 0, 9), 0);
    start(&w, g, l);
    assert_int_equal(set(f, 1, F_UNLCK, 0, 9), 0);
    assert_int_equal(ended(&w), 0);
    assert_int_equal(set(f, 1, F_RDLCK, 0, 0), -EAGAIN);
    assert_int_equal(pl_flush(t, c, g, 2), 0);
    /* cancelled */
    assert_int_equal(set(f, 1, F_WRLCK, 0, 9), 0);
    start(&w, g, l);
    pl_call_cancel(&w.call);
    assert_int_equal(ended(&w), -EINTR);
    /* the owner's file is closed meanwhile */
    start(&w, g, l);
    pl_close(t, c, f);
    f = NULL;
    assert_int_equal(ended(&w), 0);
    assert_int_equal(pl_flush(t, c, g, 2), 0);
    /* released by another process */
    other_starts();
    assert_int_equal(other_does(F_WRLCK, 0, 1), 0);
    start(&w, g, l);
    assert_int_equal(other_does(F_UNLCK, 0, 1), 0);
    assert_int_equal(ended(&w), 0);
    other_ends();
    /* past the deadline */
    pl_call_init_self(&w.call);
    w.call.deadline = 1;
    l.owner = 3;
    assert_int_equal(pl_lock(t, &w.call, g, &l), -ETIMEDOUT);
    pl_call_done(&w.call);
}

static void flocks(void **state)
{
    struct waiter w;
    struct pl_lock x = {.type = F_WRLCK, .flock = true, .end = END};
    struct pl_lock s = {.type = F_RDLCK, .flock = true, .end = END};
    struct pl_lock u = {.type = F_UNLCK, .flock = true, .end = END};
    int fd = open(host("f"), O_RDWR | O_CLOEXEC);
    assert_int_equal(pl_lock(t, c, f, &x), 0);
    assert_int_equal(pl_lock(t, c, g, &s), -EAGAIN);
    assert_int_equal(flock(fd, LOCK_SH | LOCK_NB), -1);
    /* the two kinds do not see each other */
    assert_int_equal(set(g, 1, F_WRLCK, 0, END), 0);
    assert_int_equal(pl_lock(t, c, f, &s), 0);
    assert_int_equal(flock(fd, LOCK_SH | LOCK_NB), 0);
    close(fd);
    s.wait = x.wait = true;
    start(&w, g, x);
    assert_int_equal(pl_lock(t, c, f, &u), 0);
    assert_int_equal(ended(&w), 0);
    /* gone with the file */
    start(&w, f, s);
    assert_int_equal(pl_close(t, c, g), 0);
    g = NULL;
    assert_int_equal(ended(&w), 0);
}

/* Many threads count in the file, each as an owner of its own, under the lock. */
#define THREADS 6
#define ROUNDS  200

static atomic_int inside;

static void *counts(void *arg)
{
    struct pl_call mine;
    pl_call_init(&mine, geteuid(), getegid());
    struct pl_lock l = {.owner = (uint64_t)(uintptr_t)arg + 10, .end = END, .wait = true};
    long bad = 0;
    for (int i = 0; i < ROUNDS; i++) {
        int value;
        l.type = F_WRLCK;
        bad += pl_lock(t, &mine, f, &l) != 0;
        bad += atomic_fetch_add(&inside, 1) != 0;
        bad += pl_read(t, &mine, f, &value, sizeof(value), 0) != sizeof(value);
        value++;
        bad += pl_write(t, &mine, f, &value, sizeof(value), 0) != sizeof(value);
        atomic_fetch_sub(&inside, 1);
        l.type = F_UNLCK;
        bad += pl_lock(t, &mine, f, &l) != 0;
    }
    pl_call_done(&mine);
    return (void *)bad;
}

static void counting(void **state)
{
    pthread_t thread[THREADS];
    int value = 0, before = fds();
    assert_int_equal(pl_write(t, c, f, &value, sizeof(value), 0), sizeof(value));
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, counts, (void *)i), 0);
    for (int i = 0; i < THREADS; i++) {
        void *bad;
        assert_int_equal(pthread_join(thread[i], &bad), 0);
        assert_null(bad);
    }
    assert_int_equal(pl_read(t, c, f, &value, sizeof(value), 0), sizeof(value));
    assert_int_equal(value, THREADS * ROUNDS);
    assert_int_equal(fds(), before);
}

static int group(void)
{
#define T(x) cmocka_unit_test_setup_teardown(x, begin, end)
    const struct CMUnitTest tests[] = {T(owners), T(processes), T(waiting), T(flocks), T(counting)};
    return cmocka_run_group_tests_name("host_lock", tests, NULL, NULL);
}

int main(void)
{
    return run_variants(group);
}
