/* SPDX-License-Identifier: MIT */
/* The journal: a crash at every byte of its end, merging, its bound; and the step function. */
#include "sync/journal.h"
#include "sync/step.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64], file[96], copy[96];

static int setup(void **state)
{
    strcpy(dir, "/tmp/plenum-journal.XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(file, sizeof(file), "%s/journal", dir);
    snprintf(copy, sizeof(copy), "%s/copy", dir);
    return 0;
}

static int teardown(void **state)
{
    unlink(file);
    unlink(copy);
    return rmdir(dir);
}

static bool add(struct journal *j, const char *path, uint64_t ino, uint64_t off, uint64_t len)
{
    struct journal_record r = {
        .ino = ino, .off = off, .len = len, .path = (char *)path, .path2 = (char *)""};
    bool gap;
    assert_int_equal(journal_add(j, &r, 7, j->last + 1, &gap), 0);
    return gap;
}

static size_t alive(const struct journal *j)
{
    size_t n;
    journal_after(j, 0, &n);
    return n;
}

static void cut_anywhere(void **state)
{
    struct journal j;
    struct pl_err err;
    uint64_t ends[16];
    assert_int_equal(journal_open(&j, file, 1 << 20, &err), 0);
    for (int i = 0; i < 12; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/some/path-%d", i * i * i);
        add(&j, path, (uint64_t)i, 0, 1);
        ends[i] = j.log.size;
    }
    uint64_t size = j.log.size;
    journal_close(&j);
    char *bytes = malloc(size);
    int fd = open(file, O_RDONLY);
    assert_int_equal(read(fd, bytes, size), size);
    close(fd);
    for (int damage = 0; damage < 2; damage++) {
        for (uint64_t cut = 0; cut < size; cut++) {
            size_t whole = 0;
            fd = open(copy, O_RDWR | O_CREAT | O_TRUNC, 0600);
            assert_int_equal(write(fd, bytes, damage ? size : cut), damage ? size : cut);
            char other = (char)(bytes[cut] ^ 1);
            if (damage)
                assert_int_equal(pwrite(fd, &other, 1, (off_t)cut), 1);
            close(fd);
            while (whole < 12 && ends[whole] <= cut)
                whole++;
            int r = journal_open(&j, copy, 1 << 20, &err);
            assert_int_equal(r, 0);
            assert_int_equal(alive(&j), whole);
            size_t n;
            const struct journal_record *rec = journal_after(&j, 0, &n);
            for (size_t i = 0; i < n; i++) {
                assert_int_equal(rec[i].seq, i + 1);
                assert_int_equal(rec[i].ino, i);
            }
            /* It goes on behind the last whole one. */
            add(&j, "/next", 99, 0, 0);
            assert_int_equal(j.last, whole + 1);
            journal_close(&j);
            assert_int_equal(journal_open(&j, copy, 1 << 20, &err), 0);
            assert_int_equal(alive(&j), whole + 1);
            journal_close(&j);
        }
    }
    free(bytes);
}

static void trimmed_and_heard(void **state)
{
    struct journal j;
    struct pl_err err;
    uint64_t heard;
    assert_int_equal(journal_open(&j, file, 64 << 20, &err), 0);
    for (int i = 0; i < 30000; i++)
        add(&j, "/a/path/that/takes/some/room", (uint64_t)i + 1, 0, 1);
    assert_int_equal(journal_trim(&j, 29990), 0);
    assert_int_equal(alive(&j), 10);
    assert_true(j.log.size < 10000);
    journal_close(&j);
    assert_int_equal(journal_open(&j, file, 64 << 20, &err), 0);
    assert_int_equal(j.last, 30000);
    assert_int_equal(alive(&j), 10);
    assert_true(journal_heard(&j, 7, &heard));
    assert_int_equal(heard, 30000);
    assert_false(journal_heard(&j, 8, &heard));
    assert_int_equal(journal_trim(&j, 30000), 0);
    journal_close(&j);
}

static void merged_when_full(void **state)
{
    struct journal j;
    struct pl_err err;
    size_t n;
    assert_int_equal(journal_open(&j, file, 64 << 10, &err), 0);
    add(&j, "/once", 5, 0, 0);
    for (int i = 0; i < 5000; i++) /* two files, written in turns: never a gap */
        assert_false(add(&j, i % 2 ? "/odd" : "/even", (uint64_t)i % 2 + 1, (uint64_t)i * 10, 10));
    assert_true(j.log.size < 4 * (64 << 10));
    const struct journal_record *r = journal_after(&j, 0, &n);
    assert_int_equal(r[0].ino, 5);
    uint64_t from = UINT64_MAX, to = 0;
    for (size_t i = 0; i < n; i++) {
        assert_true(i == 0 || r[i].seq > r[i - 1].seq);
        if (r[i].ino == 2) {
            from = r[i].off < from ? r[i].off : from;
            to = r[i].off + r[i].len > to ? r[i].off + r[i].len : to;
        }
    }
    assert_int_equal(from, 10);
    assert_int_equal(to, 50000);
    bool gap = false;
    for (int i = 0; i < 5000 && !gap; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/f%d", i);
        gap = add(&j, path, (uint64_t)i + 10, 0, 1);
    }
    assert_true(gap);
    r = journal_after(&j, 0, &n);
    assert_true(r[0].gap);
    journal_close(&j);
    assert_int_equal(journal_open(&j, file, 64 << 10, &err), 0);
    assert_true(journal_after(&j, 0, &n)->gap);
    journal_close(&j);
}

/* ---- what comes next ---- */

#define N 3

struct world {
    struct step s;
    int64_t now;
    bool job[N]; /* the step wants it done */
    enum step_do what[N];
    uint64_t trimmed;
    int answers, errors, refused;
    struct {
        uint64_t conn, cseq, seq;
    } waits[4096];
    size_t nwaits;
};

static void todo(void *arg, const struct step_action *a)
{
    struct world *w = arg;
    switch (a->what) {
    case STEP_OPEN:
    case STEP_APPLY:
    case STEP_COMPARE:
        assert_false(w->job[a->replica]); /* one at a time */
        w->job[a->replica] = true;
        w->what[a->replica] = a->what;
        break;
    case STEP_ANSWER: {
        size_t i = 0, in = 0;
        while (i < w->nwaits && (w->waits[i].conn != a->conn || w->waits[i].cseq != a->cseq))
            i++;
        assert_true(i < w->nwaits); /* once, and to one who waits */
        for (size_t k = 0; k < N; k++) {
            bool is = !w->s.v[k].out && !w->s.v[k].behind;
            in += is;
            if (is && a->result == 0) /* who is in has it */
                assert_true(w->s.v[k].has >= w->waits[i].seq);
        }
        assert_int_equal(a->result, in >= w->s.least ? 0 : -EIO);
        w->waits[i] = w->waits[--w->nwaits];
        w->answers++;
        w->errors += a->result != 0;
        break;
    }
    case STEP_REFUSE:
    case STEP_ACCEPT:
        w->refused = a->what == STEP_REFUSE;
        break;
    case STEP_TRIM:
        for (size_t k = 0; k < N; k++)
            assert_true(w->s.v[k].has >= a->seq);
        assert_true(a->seq > w->trimmed);
        w->trimmed = a->seq;
        break;
    case STEP_WAKE:
        assert_true(a->time > w->now);
        break;
    }
}

static void happen(struct world *w, struct step_event ev)
{
    ev.now = w->now;
    assert_int_equal(step_event(&w->s, &ev, todo, w), 0);
}

static void finish(struct world *w, size_t k, bool well)
{
    enum step_do what = w->what[k];
    w->job[k] = false;
    happen(w, (struct step_event){.what = !well                ? STEP_FAILED
                                          : what == STEP_OPEN  ? STEP_REACHED
                                          : what == STEP_APPLY ? STEP_DONE
                                                               : STEP_SYNCED,
                                  .replica = k,
                                  .seq = w->s.last});
}

static void any_order(void **state)
{
    for (unsigned seed = 1; seed < 300; seed++) {
        struct world w = {.now = 1};
        uint64_t seq = 0, has[N] = {0};
        bool behind[N] = {true, false, true};
        srand(seed);
        step_init(&w.s, N, seed % (N + 1), 0, has, behind);
        happen(&w, (struct step_event){.what = STEP_TICK});
        for (int i = 0; i < 400; i++) {
            size_t k = (size_t)rand() % N;
            w.now += rand() % 100000000;
            int dice = rand() % 10;
            if (dice < 3) {
                struct step_event ev = {.what = STEP_RECORD, .seq = ++seq};
                if (rand() % 2) {
                    ev.conn = 1 + (uint64_t)rand() % 3;
                    ev.cseq = seq;
                    w.waits[w.nwaits].conn = ev.conn;
                    w.waits[w.nwaits].cseq = seq;
                    w.waits[w.nwaits++].seq = seq;
                }
                happen(&w, ev);
            } else if (dice == 3 && rand() % 5 == 0) {
                happen(&w, (struct step_event){.what = STEP_GAP, .seq = seq});
            } else if (dice == 4 && rand() % 5 == 0) {
                uint64_t conn = 1 + (uint64_t)rand() % 3;
                for (size_t j = 0; j < w.nwaits;)
                    if (w.waits[j].conn == conn)
                        w.waits[j] = w.waits[--w.nwaits];
                    else
                        j++;
                happen(&w, (struct step_event){.what = STEP_LEFT, .conn = conn});
            } else if (w.job[k]) {
                finish(&w, k, rand() % 4);
            } else {
                happen(&w, (struct step_event){.what = STEP_TICK});
            }
            assert_int_equal(w.s.nwaits, w.nwaits);
        }
        /* When nothing fails any more, all comes to rest with everybody having all. */
        for (int i = 0; i < 1000; i++) {
            w.now += 10000000000;
            happen(&w, (struct step_event){.what = STEP_TICK});
            for (size_t k = 0; k < N; k++)
                if (w.job[k])
                    finish(&w, k, true);
        }
        assert_int_equal(w.nwaits, 0);
        assert_false(w.refused);
        assert_true(w.trimmed == seq);
        for (size_t k = 0; k < N; k++) {
            assert_false(w.s.v[k].out || w.s.v[k].behind || w.job[k]);
            assert_int_equal(w.s.v[k].has, seq);
        }
        step_done(&w.s);
    }
}

static void one_out_does_not_stop_the_others(void **state)
{
    struct world w = {.now = 1};
    uint64_t has[N] = {0};
    bool behind[N] = {0};
    step_init(&w.s, N, 2, 0, has, behind);
    happen(&w, (struct step_event){.what = STEP_TICK});
    assert_int_equal(w.refused, 1); /* nobody is there yet */
    for (size_t k = 0; k < N; k++)
        finish(&w, k, true);
    assert_int_equal(w.refused, 0);
    w.waits[w.nwaits].conn = 1;
    w.waits[w.nwaits].cseq = 1;
    w.waits[w.nwaits++].seq = 1;
    happen(&w, (struct step_event){.what = STEP_RECORD, .seq = 1, .conn = 1, .cseq = 1});
    finish(&w, 0, true);
    assert_int_equal(w.answers, 0);
    finish(&w, 1, false);
    assert_int_equal(w.answers, 0); /* the third works at it */
    finish(&w, 2, true);
    assert_int_equal(w.answers, 1);
    assert_int_equal(w.errors, 0);
    assert_int_equal(w.trimmed, 0); /* the second lacks it */
    w.waits[w.nwaits].conn = 1;
    w.waits[w.nwaits].cseq = 2;
    w.waits[w.nwaits++].seq = 2;
    happen(&w, (struct step_event){.what = STEP_RECORD, .seq = 2, .conn = 1, .cseq = 2});
    finish(&w, 0, false); /* one is too few */
    assert_int_equal(w.errors, 1);
    assert_int_equal(w.refused, 1);
    finish(&w, 2, true);
    w.now += STEP_BACKOFF_LO; /* the two are tried again */
    happen(&w, (struct step_event){.what = STEP_TICK});
    assert_true(w.job[0] && w.job[1]);
    finish(&w, 0, true);
    assert_int_equal(w.refused, 0);
    step_done(&w.s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(cut_anywhere, setup, teardown),
        cmocka_unit_test_setup_teardown(trimmed_and_heard, setup, teardown),
        cmocka_unit_test_setup_teardown(merged_when_full, setup, teardown),
        cmocka_unit_test(any_order),
        cmocka_unit_test(one_out_does_not_stop_the_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
