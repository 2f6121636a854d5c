/* SPDX-License-Identifier: MIT */
/* What a successor of a FUSE door's server finds: nodes that sleep, a ledger that is full, requests
 * that come while they are in hand, those that kill, locks, and who polls. */
#include "fuse_line.h"

static void host_sh(const char *fmt)
{
    char cmd[512], all[600];
    snprintf(cmd, sizeof(cmd), fmt, line.dir, line.dir, line.dir, line.dir);
    snprintf(all, sizeof(all), "set -e; %s", cmd);
    assert_int_equal(system(all), 0);
}

static struct ledger_node *entry(uint64_t id)
{
    struct ledger_node *n = ledger_node(&line.ledger, id);
    assert_non_null(n);
    return n;
}

/* As if the source had no keys. */
static void no_keys(void)
{
    for (uint32_t i = 1; i <= line.ledger.head->nodes_used; i++)
        atomic_store(&line.ledger.node[i].keylen, 0);
}

/* ---- nodes that sleep ------------------------------------------------------------------------ */

/* A node deep below is found by its parents, wherever they have been moved through the mount. */
static void found(bool keys)
{
    struct kernel *k = line_begin("/dev/shm", 0);
    uint64_t a = mkdir_(k, 1, "a"), b = mkdir_(k, a, "b"), c = mkdir_(k, b, "c"), fh;
    uint64_t f = create(k, c, "f", O_RDWR, &fh), g = create(k, c, "g", O_RDWR, &fh);
    struct fuse_rename_in in = {1, 0, 0};
    assert_int_equal(ask3(k, FUSE_RENAME2, a, ARG(in), STR("b"), STR("moved")), 0);
    in.newdir = c;
    assert_int_equal(ask3(k, FUSE_RENAME2, c, ARG(in), STR("g"), STR("h")), 0);
    in.flags = RENAME_EXCHANGE;
    assert_int_equal(ask3(k, FUSE_RENAME2, c, ARG(in), STR("f"), STR("h")), 0);
    assert_true(entry(f)->keylen > 0);
    for (int round = 0; round < 3; round++) {
        if (!keys)
            no_keys();
        line_kill(k);
        if (round == 1) { /* asked by name first, it is the same node */
            assert_int_equal(lookup(k, c, "h"), f);
            assert_int_equal(lookup(k, 1, "moved"), b);
            assert_int_equal(lookup(k, c, ".."), b);
        }
        assert_int_equal(getattr(k, f), 0);
        assert_int_equal(REPLY(k, fuse_attr_out)->attr.ino, entry(f)->ino);
        assert_int_equal(getattr(k, g), 0);
        assert_int_equal(REPLY(k, fuse_attr_out)->attr.ino, entry(g)->ino);
        assert_int_equal(getattr(k, a), 0);
    }
    line_end(k);
}

static void found_by_key(void **state)
{
    found(true);
}

static void found_by_parent(void **state)
{
    found(false);
}

/* What somebody else has taken away meanwhile is gone, and what has its name now is another. */
static void gone_meanwhile(void **state)
{
    struct kernel *k = line_begin("/dev/shm", 0);
    uint64_t fh, f = create(k, 1, "f", O_RDWR, &fh), d = mkdir_(k, 1, "d"), e = mkdir_(k, d, "e");
    assert_int_equal(release(k, FUSE_RELEASE, f, fh), 0);
    kill(line.server, SIGKILL);
    assert_true(server_died(true));
    host_sh("rm %s/f; touch %s/g %s/f; rm -r %s/d");
    successor(k);
    assert_int_equal(getattr(k, f), -ESTALE);
    assert_int_equal(getattr(k, e), -ESTALE);
    assert_true(lookup(k, 1, "f") != f);
    assert_int_equal(getattr(k, f), -ESTALE);
    forget(k, f, 1);
    forget(k, d, 1);
    forget(k, e, 1);
    line_end(k);
}

/* Many ask for one node at once, and it is found once. */
static void asked_by_many(void **state)
{
    struct kernel *k = line_begin("/dev/shm", 0);
    uint64_t d = mkdir_(k, 1, "d"), fh, f = create(k, d, "f", O_RDWR, &fh), got;
    struct fuse_getattr_in in = {0};
    struct fuse_read_in rd = {.fh = fh, .size = 10};
    assert_int_equal(write_(k, f, fh, "hello", 0), 5);
    for (int round = 0; round < 20; round++) {
        line_kill(k);
        for (int i = 0; i < 24; i++)
            if (i % 2)
                post(k, FUSE_GETATTR, f, ARG(in), NONE, NONE);
            else
                post(k, FUSE_READ, f, ARG(rd), NONE, NONE);
        for (int i = 0; i < 24; i++)
            assert_int_equal(take(k, &got), 0);
    }
    assert_int_equal(release(k, FUSE_RELEASE, f, fh), 0);
    line_end(k);
}

/* What finds no room is known as long as the server lives, or it is open; no successor takes it for
 * another. Half of the room is for directories. */
static void full(void **state)
{
    enum { N = 30, ROOM = 3 };
    struct kernel *k = line_begin("/dev/shm", 8);
    uint64_t id[N], fh[N];
    char name[16];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        id[i] = create(k, 1, name, O_RDWR, &fh[i]);
        for (int j = 0; j < i; j++)
            assert_true(id[i] != id[j]);
    }
    assert_int_equal(line.ledger.head->overflow, N - ROOM);
    uint64_t d = mkdir_(k, 1, "d");
    assert_int_equal(line.ledger.head->overflow, N - ROOM);
    for (int i = 0; i < N; i++)
        assert_int_equal(getattr(k, id[i]), 0);
    line_kill(k);
    assert_int_equal(getattr(k, d), 0);
    for (int i = 0; i < N; i++) {
        assert_int_equal(getattr(k, id[i]), 0); /* by the open file */
        assert_int_equal(write_(k, id[i], fh[i], "text", 0), 4);
        snprintf(name, sizeof(name), "f%d", i);
        uint64_t again = lookup(k, 1, name);
        for (int j = 0; j < N; j++)
            assert_true(again != id[j] || (i == j && i < ROOM));
        assert_int_equal(release(k, FUSE_RELEASE, id[i], fh[i]), 0);
        assert_int_equal(getattr(k, id[i]), i < ROOM ? 0 : -ESTALE);
        forget(k, id[i], 1); /* the kernel pays its debts, also the old ones */
        assert_int_equal(getattr(k, again), 0);
    }
    line_end(k);
}

/* ---- requests -------------------------------------------------------------------------------- */

static void send_again(struct kernel *k, uint64_t unique)
{
    for (int i = 0; i < line.nflight; i++)
        if (line.flight[i].unique == unique)
            send_flight(k, &line.flight[i], true);
}

/* The kernel was told to ask again while the server was at it: one answer, under the newer name. */
static void in_hand(void **state)
{
    struct kernel *k = line_begin("/dev/shm", 0);
    uint64_t fh, fh2, f = create(k, 1, "f", O_RDWR, &fh), got;
    assert_int_equal(open_(k, FUSE_OPEN, f, O_RDWR, &fh2), 0);
    assert_int_equal(setlk(k, FUSE_SETLK, f, fh, 1, F_WRLCK), 0);
    struct fuse_lk_in in = {.fh = fh2, .owner = 2, .lk = {0, 99, F_WRLCK, 7}};
    uint64_t waiting = post(k, FUSE_SETLKW, f, ARG(in), NONE, NONE);
    while (k->stats.waiting < 1) /* it is in hand */
        usleep(1000);
    for (int i = 0; i < 3; i++) {
        send_again(k, waiting);
        assert_int_equal(getattr(k, f), 0); /* which was taken after it */
    }
    struct fuse_lk_in un = {.fh = fh, .owner = 1, .lk = {0, 99, F_UNLCK, 42}};
    uint64_t unlock = post(k, FUSE_SETLK, f, ARG(un), NONE, NONE), first;
    assert_int_equal(take(k, &first), 0);
    assert_int_equal(take(k, &got), 0);
    assert_true((first == waiting && got == unlock) || (first == unlock && got == waiting));
    assert_int_equal(release(k, FUSE_RELEASE, f, fh), 0);
    assert_int_equal(release(k, FUSE_RELEASE, f, fh2), 0);
    line_end(k);
}

/* One that comes again after its server died can be interrupted. */
static void interrupted(void **state)
{
    struct kernel *k = line_begin("/dev/shm", 0);
    uint64_t fh, fh2, f = create(k, 1, "f", O_RDWR, &fh), got;
    assert_int_equal(open_(k, FUSE_OPEN, f, O_RDWR, &fh2), 0);
    assert_int_equal(setlk(k, FUSE_SETLK, f, fh, 1, F_WRLCK), 0);
    struct fuse_lk_in in = {.fh = fh2, .owner = 2, .lk = {0, 99, F_WRLCK, 7}};
    uint64_t waiting = post(k, FUSE_SETLKW, f, ARG(in), NONE, NONE);
    while (k->stats.waiting < 1)
        usleep(1000);
    for (int i = 0; i < LEDGER_TRIES + 1; i++) { /* that it waits is no fault of it */
        ledger_blame(&line.ledger);
        line_kill(k);
        while (k->stats.waiting < 1)
            usleep(1000);
        assert_int_equal(getattr(k, f), 0);
    }
    struct fuse_interrupt_in stop = {waiting | FUSE_UNIQUE_RESEND};
    struct fuse_in_header h = {.len = sizeof(h) + sizeof(stop),
                               .opcode = FUSE_INTERRUPT,
                               .unique = stop.unique | FUSE_INT_REQ_BIT};
    struct iovec iov[2] = {{&h, sizeof(h)}, {&stop, sizeof(stop)}};
    assert_int_equal(writev(k->fd, iov, 2), h.len);
    assert_int_equal(take(k, &got), -EINTR);
    assert_int_equal(got, waiting);
    line_end(k);
}

/* Whatever kills each server that takes it is given up, and the mount lives on. */
static void killers(void **state)
{
    struct kernel *k = line_begin("/dev/shm", 0);
    struct fuse_mkdir_in in = {0755, 022};
    line.always = LEDGER_AT_begun;
    arm(line.always, 1);
    assert_int_equal(ask(k, FUSE_MKDIR, 1, ARG(in), STR("d")), -EIO);
    assert_int_equal(line.deaths, LEDGER_TRIES);
    line.always = 0;
    arm(LEDGER_NOWHERE, 0);
    mkdir_(k, 1, "d");
    line_end(k);
}

/* ---- locks and polls ------------------------------------------------------------------------- */

static int lock_range(struct kernel *k, uint64_t f, uint64_t fh, uint64_t owner, uint32_t type,
                      uint64_t start, uint64_t end)
{
    struct fuse_lk_in in = {.fh = fh, .owner = owner, .lk = {start, end, type, 42}};
    return ask(k, FUSE_SETLK, f, ARG(in), NONE);
}

static unsigned records(void)
{
    unsigned n = 0;
    for (int i = 0; i < LEDGER_LOCKS; i++)
        n += line.ledger.lock[i].fh != 0;
    return n;
}

/* Ranges are cut and joined as fcntl(2) does, and are the same for every server. */
static void ranges(void **state)
{
    struct kernel *k = line_begin("/dev/shm", 0);
    uint64_t a, b, f = create(k, 1, "f", O_RDWR, &a);
    assert_int_equal(open_(k, FUSE_OPEN, f, O_RDWR, &b), 0);
    assert_int_equal(lock_range(k, f, a, 1, F_WRLCK, 0, 99), 0);
    assert_int_equal(lock_range(k, f, a, 1, F_UNLCK, 10, 19), 0);
    assert_int_equal(lock_range(k, f, b, 1, F_RDLCK, 50, 59), 0); /* the same owner */
    assert_int_equal(lock_range(k, f, b, 2, F_WRLCK, 200, INT64_MAX), 0);
    assert_int_equal(records(), 5);
    for (int round = 0; round < 2; round++) {
        line_kill(k);
        assert_int_equal(lock_range(k, f, b, 3, F_RDLCK, 5, 5), -EAGAIN);
        assert_int_equal(lock_range(k, f, b, 3, F_WRLCK, 10, 19), 0);
        assert_int_equal(lock_range(k, f, b, 3, F_UNLCK, 10, 19), 0);
        assert_int_equal(lock_range(k, f, b, 3, F_RDLCK, 55, 55), 0);
        assert_int_equal(lock_range(k, f, b, 3, F_UNLCK, 55, 55), 0);
        assert_int_equal(lock_range(k, f, b, 3, F_WRLCK, 55, 55), -EAGAIN);
        assert_int_equal(lock_range(k, f, b, 3, F_RDLCK, 99, 99), -EAGAIN);
        assert_int_equal(lock_range(k, f, b, 3, F_RDLCK, 1000, 1000), -EAGAIN);
        assert_int_equal(records(), 5);
    }
    struct fuse_flush_in flush = {.fh = a, .lock_owner = 1};
    assert_int_equal(ask(k, FUSE_FLUSH, f, ARG(flush), NONE), 0);
    assert_int_equal(records(), 1);
    assert_int_equal(release(k, FUSE_RELEASE, f, b), 0);
    assert_int_equal(records(), 0);
    line_kill(k);
    assert_int_equal(lock_range(k, f, a, 3, F_WRLCK, 0, INT64_MAX), 0);
    line_end(k);
}

static void late(void **state)
{
    struct kernel *k = line_begin("/dev/shm", 0);
    late_release(k);
    line_end(k);
}

static struct pl_tree *with_stream(void)
{
    struct pl_made *m = pl_made_new();
    pl_made_stream(m, "events", 4096);
    return pl_made_tree(m);
}

static void pollers(void **state)
{
    line_make = with_stream;
    struct kernel *k = line_begin("/dev/shm", 0);
    uint64_t fh, f = lookup(k, 1, "events");
    assert_int_equal(open_(k, FUSE_OPEN, f, O_RDONLY, &fh), 0);
    struct fuse_poll_in p = {fh, 4242, FUSE_POLL_SCHEDULE_NOTIFY, POLLIN};
    assert_int_equal(ask(k, FUSE_POLL, f, ARG(p), NONE), 0);
    line_kill(k);
    assert_int_equal(line.polled, 4242);
    assert_int_equal(ask(k, FUSE_POLL, f, ARG(p), NONE), 0);
    assert_int_equal(release(k, FUSE_RELEASE, f, fh), 0);
    line.polled = 0;
    line_kill(k);
    assert_int_equal(line.polled, 0);
    line_end(k);
    line_make = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(found_by_key),   cmocka_unit_test(found_by_parent),
        cmocka_unit_test(gone_meanwhile), cmocka_unit_test(asked_by_many),
        cmocka_unit_test(full),           cmocka_unit_test(in_hand),
        cmocka_unit_test(interrupted),    cmocka_unit_test(killers),
        cmocka_unit_test(ranges),         cmocka_unit_test(late),
        cmocka_unit_test(pollers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
