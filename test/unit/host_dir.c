/* SPDX-License-Identifier: MIT */
/* Directories whose cookies no position can hold (0, or past 2^63), as some network file systems
 * have them: host_dir.c over a directory of our own making, read on after a restart too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define host_readdir  tested_readdir
#define host_dir_new  tested_new
#define host_dir_free tested_free
#include "sources/host.h"

static long fake_getdents(long nr, int fd, char *buf, int size);
static off_t fake_lseek(int fd, off_t off, int whence);
#define syscall               fake_getdents
#define lseek                 fake_lseek
#define host_points_in(h, fd) NULL
#include "../../sources/host_dir.c"
#undef syscall
#undef lseek

/* Entry i is named "i" and followed by the cookie: three kinds of them in turns. */
#define ENTRIES 90
static int64_t cookie[ENTRIES + 1];
static size_t place, seeks;

static long fake_getdents(long nr, int fd, char *buf, int size)
{
    char *p = buf;
    for (int i = 0; i < 10 && place < ENTRIES; i++, place++) {
        struct entry *e = (struct entry *)p;
        e->ino = place + 1;
        e->off = cookie[place + 1];
        e->type = DT_REG;
        e->len = 32;
        snprintf(e->name, 8, "%zu", place);
        p += e->len;
    }
    return p - buf;
}

static off_t fake_lseek(int fd, off_t off, int whence)
{
    if (whence == SEEK_CUR)
        return cookie[place];
    seeks++;
    for (place = off == 0 ? 0 : 1; place <= ENTRIES; place++)
        if (cookie[place] == off)
            return off;
    errno = EINVAL;
    return -1;
}

static int seen[ENTRIES], left;
static uint64_t pos;

static int take(void *arg, const struct pl_dirent *e)
{
    if (left == 0)
        return 1;
    left--;
    seen[atoi(e->name)]++;
    assert_true(e->next > 0 && e->next <= PL_OFF_MAX);
    pos = e->next;
    return 0;
}

/* In pieces of n; `restart`: each in another server, which has the same descriptor. */
static void list(int n, bool restart)
{
    struct host_node node = {0};
    struct host h = {.root = &node};
    struct host_file f = {.f = {.tree = &h.tree, .node = &node.h.node}};
    memset(seen, 0, sizeof(seen));
    place = 0;
    pos = 0;
    assert_int_equal(tested_new(&f), 0);
    do {
        left = n;
        assert_int_equal(tested_readdir(&h.tree, NULL, &f.f, pos, take, NULL), 0);
        if (restart) {
            tested_free(&f);
            assert_int_equal(tested_new(&f), 0);
        }
    } while (left == 0);
    tested_free(&f);
    for (int i = 0; i < ENTRIES; i++)
        assert_int_equal(seen[i], 1);
}

static void odd_cookies(void **state)
{
    for (int i = 1; i <= ENTRIES; i++)
        cookie[i] = i % 3 == 0 ? INT64_MIN + i : i % 3 == 1 ? i : -i;
    for (int n = 1; n < 100; n = n * 2 + 1) {
        seeks = 0;
        list(n, false);
        assert_int_equal(seeks, 0);
        list(n, true);
    }
}

static void common_cookies(void **state)
{
    for (int i = 1; i <= ENTRIES; i++)
        cookie[i] = i == ENTRIES ? INT64_MAX : i * 1000;
    list(7, false);
    list(7, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(odd_cookies),
        cmocka_unit_test(common_cookies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
