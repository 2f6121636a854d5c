/* SPDX-License-Identifier: MIT */
/*
 * What no record says any more is found again.
 */
#include "replica_fixture.h"

/* Carries them out, as of the source as it is now; their objects' numbers are not known. */
static void apply(struct drill *x, const struct journal_record *from, size_t n)
{
    struct journal_record recs[8];
    memcpy(recs, from, n * sizeof(*recs));
    for (size_t i = 0; i < n; i++)
        recs[i].seq = i + 1;
    assert_int_equal(replica_apply(&x->r, recs, n, false), 0);
}

static void compare(struct drill *x)
{
    assert_int_equal(replica_compare(&x->r, x->notes.applied), 0);
}

static void link_to(struct drill *x, const char *path)
{
    assert_int_equal(symlink("to/there", in(x->src, path)), 0);
}

/* A directory with another in it, at both. */
static void begin_with_dirs(struct drill *x)
{
    mkdir(in(x->src, "/d"), 0755);
    mkdir(in(x->src, "/d/sub"), 0755);
    link_to(x, "/d/sub/old");
    begin(x);
    compare(x);
}

static void a_gap_is_not_carried_out(void **state)
{
    struct drill *x = make();
    const struct journal_record recs[] = {{.path = "/s", .path2 = ""},
                                          {.path = "", .path2 = "", .gap = true},
                                          {.path = "/d", .path2 = ""}};
    begin_with_dirs(x);
    assert_true(x->notes.whole);
    link_to(x, "/s");
    apply(x, recs, 3);
    stop(x);
    begin(x); /* the journal need not have it any more */
    assert_false(x->notes.whole);
    compare(x);
    assert_true(x->notes.whole);
    stop(x);
    end(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gap_is_not_carried_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
