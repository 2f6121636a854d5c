/* SPDX-License-Identifier: MIT */
/*
 * A replicator that is killed before and after each of its operations, and a replica that forgets
 * what was not synced.
 */
#include "replica_fixture.h"

#define SOME 5 /* of what needs a copy of the replica only each so-many-th point is done */

static void first_state(struct drill *x)
{
    mkdir(in(x->src, "/a"), 0750);
    mkdir(in(x->src, "/a/b"), 0755);
    filled(x->src, "/a/b/f", 1, 150000);
    filled(x->src, "/a/g", 2, 70000);
    filled(x->src, "/over", 3, 200);
    filled(x->src, "/cut", 4, 140000);
    filled(x->src, "/gone", 5, 1000);
    filled(x->src, "/grow", 6, 1000);
    assert_int_equal(link(in(x->src, "/grow"), in(x->src, "/a/twin")), 0);
    assert_int_equal(symlink("to/there", in(x->src, "/s")), 0);
    mkdir(in(x->src, "/p"), 0755);
    mkdir(in(x->src, "/q"), 0755);
    filled(x->src, "/p/1", 7, 100);
    filled(x->src, "/q/2", 8, 90000);
}

static const struct journal_record changes[] = {
    {.path = "/a", .path2 = "/c"},
    {.path = "/c/b/f", .path2 = "", .off = 70000, .len = 10},
    {.path = "/c/b/f", .path2 = "/over"},
    {.path = "/cut", .path2 = "", .off = 66000, .len = JOURNAL_END(66000)},
    {.path = "/gone", .path2 = ""},
    {.path = "/grow", .path2 = "", .off = 1000, .len = 80000},
    {.path = "/new", .path2 = ""},
    {.path = "/new/n", .path2 = "", .off = 0, .len = 100000},
    {.path = "/s", .path2 = ""},
    {.path = "/p", .path2 = "/q"},
    {.path = "/q/1", .path2 = ""},
    {.path = "/grow", .path2 = "/link"},
};

static void second_state(struct drill *x)
{
    assert_int_equal(rename(in(x->src, "/a"), in(x->src, "/c")), 0);
    put(x->src, "/c/b/f", "0123456789", 10, 70000);
    assert_int_equal(rename(in(x->src, "/c/b/f"), in(x->src, "/over")), 0);
    assert_int_equal(truncate(in(x->src, "/cut"), 66000), 0);
    unlink(in(x->src, "/gone"));
    filled(x->src, "/grow", 6, 81000);
    mkdir(in(x->src, "/new"), 0700);
    filled(x->src, "/new/n", 9, 100000);
    unlink(in(x->src, "/s"));
    assert_int_equal(symlink("elsewhere", in(x->src, "/s")), 0);
    assert_int_equal(rename(in(x->src, "/p"), in(x->src, "/t")), 0);
    assert_int_equal(rename(in(x->src, "/q"), in(x->src, "/p")), 0);
    assert_int_equal(rename(in(x->src, "/t"), in(x->src, "/q")), 0);
    chmod(in(x->src, "/q/1"), 0400);
    assert_int_equal(link(in(x->src, "/grow"), in(x->src, "/link")), 0);
}

static void carry_out(struct drill *x)
{
    struct journal_record recs[sizeof(changes) / sizeof(*changes)];
    struct stat st;
    size_t n = sizeof(recs) / sizeof(*recs);
    memcpy(recs, changes, sizeof(recs));
    for (size_t i = 0; i < n; i++) {
        recs[i].seq = i + 1;
        recs[i].ino = lstat(in(x->src, *recs[i].path2 ? recs[i].path2 : recs[i].path), &st) < 0
                          ? 0
                          : st.st_ino;
    }
    /* A path of its time, which is another by now. */
    recs[1].ino = lstat(in(x->src, "/over"), &st) < 0 ? 0 : st.st_ino;
    assert_int_equal(replica_apply(&x->r, recs, n, false), 0);
}

/* Where the record behind `at` in the log begins. */
static uint64_t log_next(struct drill *x, uint64_t at)
{
    uint8_t head[4];
    int fd = open(x->file, O_RDONLY);
    assert_true(fd >= 0 && pread(fd, head, 4, (off_t)at) == 4);
    close(fd);
    return at + 12 + (uint64_t)(head[0] | head[1] << 8 | head[2] << 16);
}

/* One run, killed at its n-th operation: false, it came to its end. `keep`: with a copy of the
 * replica as it was before. */
static bool killed(struct drill *x, unsigned at, bool done, bool keep)
{
    int status;
    first_state(x);
    begin(x);
    assert_int_equal(replica_compare(&x->r, 0), 0);
    stop(x);
    second_state(x);
    if (keep)
        run("cp -a %s %s.was", x->dst, x->dst);
    pid_t pid = fork();
    if (pid == 0) {
        begin(x);
        x->log = x->notes.log.size;
        x->ops = 0;
        x->at = at;
        x->done = done;
        carry_out(x);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 9));
    return WEXITSTATUS(status) != 0;
}

static void recovered(struct drill *x, const char *when, bool tells)
{
    *x->told = 0;
    begin(x);
    carry_out(x);
    if (!tells && *x->told)
        fail_msg("%s: %s", when, x->told);
    same(x, when);
    stop(x);
}

/* Killed before the n-th operation, with the notes as they were after the one before it, and after
 * each record since. */
static unsigned with_fewer_notes(struct drill *x, unsigned n)
{
    struct stat st;
    char when[96];
    unsigned cuts = 0;
    assert_int_equal(stat(x->file, &st), 0);
    run("cp -a %s %s.k && cp %s %s.k", x->dst, x->dst, x->file, x->file);
    for (uint64_t cut = x->log, log = x->log; cut < (uint64_t)st.st_size; cuts++) {
        assert_int_equal(truncate(x->file, (off_t)cut), 0);
        snprintf(when, sizeof(when), "before operation %u, with %lu bytes of notes", n, cut);
        recovered(x, when, false);
        remove_all(x->dst);
        run("cp -a %s.k %s && cp %s.k %s", x->dst, x->dst, x->file, x->file);
        cut = log_next(x, cut);
        x->log = log;
    }
    return cuts;
}

/* Before each operation of the replica, with all that was noted since the one before it, and, of
 * some, with less of that: what is between is there too. */
static void killed_at_every_point(void **state)
{
    struct drill *x;
    unsigned n = 1, cuts = 0;
    char when[96];
    for (; killed(x = make(), n, false, false); n++) {
        if (n % SOME == 0)
            cuts += with_fewer_notes(x, n);
        snprintf(when, sizeof(when), "killed before operation %u", n);
        recovered(x, when, false);
        end(x);
    }
    recovered(x, "not killed", false);
    end(x);
    assert_true(n > 60 && cuts > 10);
}

/* What was not synced is forgotten by the replica, though not by the notes. Nothing is lost: what
 * cannot be explained is told of. */
static void forgotten(void **state)
{
    struct drill *x;
    unsigned n = 1, some = 0;
    char when[96];
    for (; killed(x = make(), n, true, true); n += SOME) {
        if (!x->synced) {
            remove_all(x->dst);
            assert_int_equal(rename(in(x->dst, ".was"), x->dst), 0);
            some++;
        }
        snprintf(when, sizeof(when), "forgotten after operation %u", n);
        recovered(x, when, true);
        end(x);
    }
    recovered(x, "not killed", false);
    end(x);
    assert_true(some > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_at_every_point),
        cmocka_unit_test(forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
