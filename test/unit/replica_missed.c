/* SPDX-License-Identifier: MIT */
/*
 * What no record says any more: names whose directory had another name when they were told of, and
 * moved on before they were looked for; a gap; one object that became two. Each is found again,
 * whenever the replicator is killed.
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

static void move(struct drill *x, const char *from, const char *to)
{
    assert_int_equal(rename(in(x->src, from), in(x->src, to)), 0);
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

/* ---- listing what has moved ---- */

static void there_and_back(void **state)
{
    struct drill *x = make();
    const struct journal_record recs[] = {{.path = "/d", .path2 = "/e"},
                                          {.path = "/e/sub/s", .path2 = ""},
                                          {.path = "/e", .path2 = "/d"}};
    begin_with_dirs(x);
    link_to(x, "/d/sub/s");
    apply(x, recs, 3);
    same(x, "there and back");
    stop(x);
    end(x);
}

static void moves_on(struct drill *x, const struct pl_event *ev)
{
    if (ev->op != PL_OP_rename)
        return;
    x->meanwhile = NULL;
    move(x, "/f", "/g");
}

/* Its directory is gone again when it is to be listed, and so is the replicator then. */
static void moved_before_it_was_listed(void **state)
{
    struct drill *x = make();
    const struct journal_record recs[] = {{.path = "/d", .path2 = "/e"},
                                          {.path = "/e/sub/s", .path2 = ""},
                                          {.path = "/e", .path2 = "/f"}};
    begin_with_dirs(x);
    move(x, "/d", "/f");
    link_to(x, "/f/sub/s");
    x->meanwhile = moves_on;
    apply(x, recs, 3);
    assert_null(x->meanwhile);
    stop(x);
    begin(x);
    apply(x, &(struct journal_record){.path = "/f", .path2 = "/g"}, 1);
    same(x, "moved before it was listed");
    stop(x);
    end(x);
}

static void moves_away(struct drill *x, const struct pl_event *ev)
{
    if (ev->op != PL_OP_lookup || strcmp(ev->name, "d") != 0)
        return;
    x->meanwhile = NULL;
    move(x, "/d", "/m");
}

/* A comparison that finds a directory, and cannot list it, as it has moved. */
static void moved_while_it_was_compared(void **state)
{
    struct drill *x = make();
    begin_with_dirs(x);
    link_to(x, "/d/sub/s");
    x->meanwhile = moves_away;
    compare(x);
    assert_null(x->meanwhile);
    apply(x, &(struct journal_record){.path = "/d", .path2 = "/m"}, 1);
    same(x, "moved while it was compared");
    stop(x);
    end(x);
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

/* What can only be missing at the replica is not taken for gone from the source. */
static void not_made_is_told(void **state)
{
    struct drill *x = make();
    begin_with_dirs(x);
    remove_all(in(x->dst, "/d"));
    link_to(x, "/d/s");
    apply(x, &(struct journal_record){.path = "/d/s", .path2 = ""}, 1);
    assert_non_null(strstr(x->told, "C/d/s "));
    stop(x);
    end(x);
}

/* What a comparison has seen that failed is not seen by the next one. */
static void compared_again(void **state)
{
    struct drill *x = make();
    begin_with_dirs(x);
    link_to(x, "/z");
    x->fail = x->ops + 8;
    assert_int_equal(replica_compare(&x->r, 0), -EIO);
    x->fail = 0;
    assert_int_equal(unlink(in(x->src, "/d/sub/old")), 0);
    replica_close(&x->r);
    assert_int_equal(replica_open(&x->r), 0);
    compare(x);
    same(x, "compared again");
    stop(x);
    end(x);
}

/* ---- killed ---- */

struct story {
    const char *name;
    void (*first)(struct drill *x);  /* what the killed one saw, */
    void (*second)(struct drill *x); /* and what happened until the next */
    struct journal_record recs[8];
    size_t n, later; /* of them, for the killed one; for the next */
};

static void moved_twice(struct drill *x)
{
    move(x, "/d", "/f");
    link_to(x, "/f/sub/s");
}

static void new_in_moved(struct drill *x)
{
    filled(x->src, "/d/a", 1, 3000);
    move(x, "/d", "/e");
}

static void linked(struct drill *x)
{
    assert_int_equal(link(in(x->src, "/e/a"), in(x->src, "/b")), 0);
}

static void renamed(struct drill *x)
{
    move(x, "/e/a", "/b");
}

static const struct story stories[] = {
    {"moved twice",
     moved_twice,
     NULL,
     {{.path = "/d", .path2 = "/e"},
      {.path = "/e/sub/s", .path2 = ""},
      {.path = "/e", .path2 = "/f"}},
     3,
     3},
    {"linked",
     new_in_moved,
     linked,
     {{.path = "/d", .path2 = "/e"}, {.path = "/e/a", .path2 = "/b"}},
     1,
     2},
    {"renamed",
     new_in_moved,
     renamed,
     {{.path = "/d", .path2 = "/e"}, {.path = "/e/a", .path2 = "/b"}},
     1,
     2},
};

/* Killed at its n-th operation; false: it came to its end. */
static bool tell_until(const struct story *s, unsigned n, bool done)
{
    struct drill *x = make();
    char when[64];
    int status;
    begin_with_dirs(x);
    stop(x);
    s->first(x);
    pid_t pid = fork();
    if (pid == 0) {
        begin(x);
        x->ops = 0;
        x->at = n;
        x->done = done;
        apply(x, s->recs, s->n);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 9));
    if (s->second)
        s->second(x);
    begin(x);
    apply(x, s->recs, s->later);
    snprintf(when, sizeof(when), "%s, killed %s %u", s->name, done ? "after" : "before", n);
    if (*x->told)
        fail_msg("%s: told %s", when, x->told);
    same(x, when);
    stop(x);
    end(x);
    return WEXITSTATUS(status) != 0;
}

static void killed(void **state)
{
    for (size_t i = 0; i < sizeof(stories) / sizeof(*stories); i++) {
        unsigned n = 1;
        while (tell_until(&stories[i], n, true) && tell_until(&stories[i], n, false))
            n++;
        assert_true(n > 4);
    }
}

/* ---- one object that became two ---- */

static void begin_with_links(struct drill *x)
{
    filled(x->src, "/a", 1, 100000);
    assert_int_equal(link(in(x->src, "/a"), in(x->src, "/b")), 0);
    assert_int_equal(link(in(x->src, "/a"), in(x->src, "/c")), 0);
    begin(x);
    compare(x);
    same(x, "linked");
}

/* Noted as an object of its own. */
static void note_apart(struct drill *x, const char *path)
{
    struct note *n = notes_find(&x->notes, path);
    uint64_t ino = n->ino;
    notes_del(&x->notes, n);
    n = notes_add(&x->notes, x->notes.root, path + 1, ino, S_IFREG);
    assert_non_null(n);
    n->o->flags = NOTE_BUSY;
    notes_put(&x->notes, n);
}

static void copy_of_its_own(struct drill *x, const char *path)
{
    run("cp -p %s%s %s.own && mv %s.own %s%s", x->dst, path, x->dst, x->dst, x->dst, path);
}

static void joined(struct drill *x, const char *when)
{
    stop(x);
    begin(x);
    compare(x);
    same(x, when);
    assert_string_equal(x->told, "");
    stop(x);
    begin(x);
    uint64_t links = x->count.n[REPLICA_LINKS];
    compare(x);
    assert_int_equal(x->count.n[REPLICA_LINKS], links); /* that is all */
    same(x, when);
    stop(x);
    end(x);
}

static void two_objects_are_joined(void **state)
{
    static const char *const paths[] = {"/a", "/b", "/c"};
    for (size_t i = 0; i < 3; i++) {
        struct drill *x = make();
        begin_with_links(x);
        copy_of_its_own(x, paths[i]);
        joined(x, "two at the replica");
        x = make();
        begin_with_links(x);
        copy_of_its_own(x, paths[i]);
        note_apart(x, paths[i]);
        joined(x, "two at the replica, and noted so");
        x = make();
        begin_with_links(x);
        note_apart(x, paths[i]);
        joined(x, "noted as two");
    }
}

/* What somebody else has made of one of them is not given away. */
static void his_own_is_kept(void **state)
{
    struct drill *x = make();
    size_t n;
    begin_with_links(x);
    copy_of_its_own(x, "/b");
    put(x->dst, "/b", "his", 3, 0);
    compare(x);
    assert_non_null(strstr(x->told, "D/b changed"));
    char *data = load(in(x->dst, "/b"), &n);
    assert_memory_equal(data, "his", 3);
    free(data);
    stop(x);
    end(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_back),
        cmocka_unit_test(moved_before_it_was_listed),
        cmocka_unit_test(moved_while_it_was_compared),
        cmocka_unit_test(a_gap_is_not_carried_out),
        cmocka_unit_test(not_made_is_told),
        cmocka_unit_test(compared_again),
        cmocka_unit_test(killed),
        cmocka_unit_test(two_objects_are_joined),
        cmocka_unit_test(his_own_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
