/* SPDX-License-Identifier: MIT */
/* The ledger's memory: it maps again as it was, refuses what is not one, and its records last. */
#include "fuse/ledger.h"
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
/* after the standard headers, as it asks */
#include <cmocka.h>

static void maps_again(void **state)
{
    struct ledger a, b;
    assert_int_equal(ledger_new(&a, 1000, true), 0);
    a.node[999].ino = 77;
    a.slot[LEDGER_SLOTS - 1].opcode = 5;
    uint32_t r = pl_keep_add(a.keep, 9, "hello", 5);
    assert_int_not_equal(r, 0);
    int fd = dup(a.fd);
    ledger_unmap(&a);
    assert_int_equal(ledger_map(&b, fd), 0);
    assert_int_equal(b.node[999].ino, 77);
    assert_int_equal(b.slot[LEDGER_SLOTS - 1].opcode, 5);
    struct pl_kept k;
    assert_true(pl_keep_next(b.keep, 0, &k));
    assert_int_equal(k.record, r);
    assert_int_equal(k.fd, 9);
    assert_memory_equal(k.data, "hello", 5);
    pl_keep_del(b.keep, r);
    assert_false(pl_keep_next(b.keep, 0, &k));
    ledger_unmap(&b);
}

static void refuses(void **state)
{
    struct ledger l;
    int fd = memfd_create("x", MFD_CLOEXEC);
    assert_int_equal(ledger_map(&l, fd), -EPROTO);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    assert_int_equal(ledger_map(&l, fd), -EPROTO);
    close(fd);
    struct ledger old;
    assert_int_equal(ledger_new(&old, 10, true), 0);
    old.head->version++;
    assert_int_equal(ledger_map(&l, old.fd), -EPROTO);
    old.head->version--;
    old.head->nnodes = 1 << 20;
    assert_int_equal(ledger_map(&l, old.fd), -EPROTO);
    ledger_unmap(&old);
}

static void collect(void *arg, int fd)
{
    *(uint64_t *)arg |= 1ull << fd;
}

static void claims(void **state)
{
    struct ledger l;
    uint64_t fds = 0;
    assert_int_equal(ledger_new(&l, 10, false), 0);
    l.file[3] = (struct ledger_file){.kept = 11, .state = LEDGER_OPEN};
    l.file[4] = (struct ledger_file){.kept = 12};
    l.head->files_used = 4;
    pl_keep_add(l.keep, 13, NULL, 0);
    pl_keep_add(l.keep, -1, NULL, 0);
    ledger_claims(&l, collect, &fds);
    assert_int_equal(fds, 1ull << 11 | 1ull << 13);
    ledger_unmap(&l);
}

static void records_fill_up(void **state)
{
    struct ledger l;
    assert_int_equal(ledger_new(&l, 10, false), 0);
    for (int i = 0; i < LEDGER_RECORDS; i++)
        assert_int_not_equal(pl_keep_add(l.keep, -1, &i, sizeof(i)), 0);
    assert_int_equal(pl_keep_add(l.keep, -1, "", 0), 0);
    pl_keep_del(l.keep, 17);
    assert_int_equal(pl_keep_add(l.keep, -1, "", 0), 17);
    char big[PL_KEEP_DATA + 1] = {0};
    pl_keep_del(l.keep, 17);
    assert_int_equal(pl_keep_add(l.keep, -1, big, sizeof(big)), 0);
    assert_int_equal(pl_keep_add(NULL, -1, big, 1), 0);
    ledger_unmap(&l);
}

/* The process dies at the third passing of the point, and its successor goes on. */
static void dies_at_a_point(void **state)
{
    struct ledger l;
    setenv("PLENUM_CRASH", "done:3", 1);
    assert_int_equal(ledger_new(&l, 10, true), 0);
    unsetenv("PLENUM_CRASH");
    for (int run = 0; run < 2; run++) {
        int status;
        pid_t pid = fork();
        if (pid == 0) {
            for (int i = 0; i < 5; i++) {
                ledger_point(&l, LEDGER_AT_begun);
                ledger_point(&l, LEDGER_AT_done);
                atomic_fetch_add(&l.head->answered, 1);
            }
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(WIFSIGNALED(status) ? WTERMSIG(status) : 0, run == 0 ? SIGKILL : 0);
        assert_int_equal(l.head->answered, run == 0 ? 2 : 7);
    }
    ledger_unmap(&l);
}

/* ---- nodes ----------------------------------------------------------------------------------- */

/* Inode numbers with many collisions, some of which stand for several nodes. */
static uint64_t ino_of(unsigned n)
{
    return n % 50 == 0 ? 7 : n / 2;
}

/* Every node is found by its number, every other entry is free, and there are no others. */
static void consistent(struct ledger *l)
{
    uint32_t used = l->head->nodes_used, known = 0, free = 0;
    for (uint32_t i = 1; i <= used; i++) {
        if (!l->node[i].nlookup)
            continue;
        uint32_t at = 0, steps = 0;
        while ((at = ledger_node_find(l, l->node[i].ino, at)) != i)
            assert_true(at && steps++ <= used);
        known++;
    }
    for (uint32_t i = l->head->free; i; i = l->node[i].next) {
        assert_true(i <= used && !l->node[i].nlookup);
        assert_true(free++ <= used);
    }
    assert_int_equal(known + free, used);
}

static void nodes(void **state)
{
    struct ledger l;
    struct ledger_node n = {0};
    assert_int_equal(ledger_new(&l, 1000, false), 0);
    uint32_t id[1000];
    for (unsigned i = 0; i < 1000; i++) {
        n.ino = ino_of(i);
        assert_int_not_equal(id[i] = ledger_node_add(&l, &n), 0);
        assert_int_equal(l.node[id[i]].generation, 1);
    }
    consistent(&l);
    assert_int_equal(ledger_node_add(&l, &n), 0); /* full */
    for (unsigned i = 0; i < 1000; i += 3)
        ledger_node_del(&l, id[i]);
    consistent(&l);
    assert_null(ledger_node(&l, id[3]));
    assert_non_null(ledger_node(&l, id[1]));
    n.ino = 123456;
    uint32_t again = ledger_node_add(&l, &n);
    assert_int_equal(l.node[again].generation, 2);
    assert_int_equal(ledger_node_find(&l, 123456, 0), again);
    assert_int_equal(ledger_node_find(&l, 123457, 0), 0);
    l.node[again].nlookup = 5;
    ledger_forget(&l, again, 3);
    assert_int_equal(l.node[again].nlookup, 2);
    ledger_forget(&l, again, 3);
    assert_int_equal(l.node[again].nlookup, 0);
    assert_int_equal(ledger_node_find(&l, 123456, 0), 0);
    consistent(&l);
    ledger_unmap(&l);
}

/* Enters and takes out nodes until it is killed. */
static void churn(struct ledger *l, unsigned seed)
{
    struct ledger_node n = {0};
    ledger_mend(l);
    for (;;) {
        uint32_t i = (uint32_t)rand_r(&seed) % l->head->nnodes + 1;
        n.ino = ino_of((unsigned)rand_r(&seed) % 20000);
        if (i <= l->head->nodes_used && l->node[i].nlookup)
            ledger_node_del(l, i);
        else
            ledger_node_add(l, &n);
    }
}

/* Whoever is killed in the middle of it leaves what the next can mend. */
static void nodes_of_the_killed(void **state)
{
    struct ledger l;
    unsigned seed = 1;
    for (int run = 0; run < 300; run++) {
        if (run % 30 == 0) /* a young table divides its buckets all the time */
            assert_int_equal(ledger_new(&l, run % 60 ? 20000 : 300, true), 0);
        pid_t pid = fork();
        if (pid == 0)
            churn(&l, (unsigned)run);
        usleep((useconds_t)(rand_r(&seed) % 1500));
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        ledger_mend(&l);
        consistent(&l);
        if (run % 30 == 29)
            ledger_unmap(&l);
    }
}

/* Only a server's own fault is held against what it had in hand, and not what merely waits. */
static void blames(void **state)
{
    struct ledger l;
    assert_int_equal(ledger_new(&l, 10, false), 0);
    l.head->slots_used = 4;
    l.slot[0] = (struct ledger_slot){.unique = 2, .state = LEDGER_BEGUN};
    l.slot[1] = (struct ledger_slot){.unique = 4, .state = LEDGER_TAKEN, .waits = 1};
    l.slot[2] = (struct ledger_slot){.unique = 6, .state = LEDGER_DONE};
    ledger_blame(&l);
    assert_int_equal(l.slot[0].tries, 1);
    assert_int_equal(l.slot[1].tries, 0);
    assert_int_equal(l.slot[2].tries, 0);
    assert_int_equal(l.slot[3].tries, 0);
    ledger_unmap(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_again),
        cmocka_unit_test(refuses),
        cmocka_unit_test(claims),
        cmocka_unit_test(records_fill_up),
        cmocka_unit_test(dies_at_a_point),
        cmocka_unit_test(nodes),
        cmocka_unit_test(nodes_of_the_killed),
        cmocka_unit_test(blames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
