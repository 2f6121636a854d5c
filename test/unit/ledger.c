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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_again),      cmocka_unit_test(refuses),
        cmocka_unit_test(claims),          cmocka_unit_test(records_fill_up),
        cmocka_unit_test(dies_at_a_point),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
