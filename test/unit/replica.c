/* SPDX-License-Identifier: MIT */
/* One tree in memory made like another, and what is told of it. */
#include "sync/replica.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <plenum/sources.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct fix {
    struct pl_call call;
    struct pl_tree *src, *dst;
    struct notes notes;
    struct replica r;
    struct replica_count count;
    char dir[64], file[96];
    uint64_t seq;
    char told[4096];
};

static void tell(void *arg, enum replica_kind kind, const char *path, const char *detail)
{
    static const char letters[] = "MRLWXDKC";
    struct fix *x = arg;
    size_t n = strlen(x->told);
    snprintf(x->told + n, sizeof(x->told) - n, "%c%s ", letters[kind], path);
}

static void begin(struct fix *x)
{
    struct pl_err err;
    assert_int_equal(notes_open(&x->notes, x->file, false, &err), 0);
    x->r = (struct replica){.src = x->src,
                            .dst = x->dst,
                            .call = &x->call,
                            .notes = &x->notes,
                            .tell = tell,
                            .arg = x,
                            .count = &x->count};
    assert_int_equal(replica_open(&x->r), 0);
}

static void stop(struct fix *x)
{
    replica_close(&x->r);
    notes_close(&x->notes);
}

static void make(struct fix *x)
{
    memset(x, 0, sizeof(*x));
    strcpy(x->dir, "/tmp/plenum-replica.XXXXXX");
    assert_non_null(mkdtemp(x->dir));
    snprintf(x->file, sizeof(x->file), "%s/notes", x->dir);
    pl_call_init_self(&x->call);
    assert_int_equal(pl_mem_new(0, &x->src, NULL), 0);
    assert_int_equal(pl_mem_new(0, &x->dst, NULL), 0);
    begin(x);
}

static void end(struct fix *x)
{
    stop(x);
    pl_tree_unref(x->src);
    pl_tree_unref(x->dst);
    pl_call_done(&x->call);
    unlink(x->file);
    rmdir(x->dir);
}

static struct pl_node *at(struct fix *x, struct pl_tree *t, const char *path)
{
    struct pl_node *n;
    struct pl_attr a;
    return pl_attach(t, &x->call, path, &n, &a) == 0 ? n : NULL;
}

static uint64_t ino(struct fix *x, struct pl_tree *t, const char *path)
{
    struct pl_node *n;
    struct pl_attr a;
    if (pl_attach(t, &x->call, path, &n, &a) < 0)
        return 0;
    pl_node_unref(n);
    return a.ino;
}

static struct pl_node *parent(struct fix *x, struct pl_tree *t, const char *path)
{
    char up[256];
    snprintf(up, sizeof(up), "%.*s", (int)(strrchr(path, '/') - path), path);
    return at(x, t, up);
}

static void put(struct fix *x, struct pl_tree *t, const char *path, const void *data, size_t n,
                uint64_t off)
{
    struct pl_node *dir = parent(x, t, path), *node;
    struct pl_attr a;
    struct pl_file *f;
    assert_int_equal(
        pl_create(t, &x->call, dir, strrchr(path, '/') + 1, O_RDWR, 0640, &node, &a, &f), 0);
    assert_int_equal(pl_write(t, &x->call, f, data, n, off), n);
    pl_close(t, &x->call, f);
    pl_node_unref(node);
    pl_node_unref(dir);
}

static void mkdir_at(struct fix *x, struct pl_tree *t, const char *path)
{
    struct pl_node *dir = parent(x, t, path), *node;
    struct pl_attr a;
    struct pl_make mk = {.mode = S_IFDIR | 0750};
    assert_int_equal(pl_make(t, &x->call, dir, strrchr(path, '/') + 1, &mk, &node, &a), 0);
    pl_node_unref(node);
    pl_node_unref(dir);
}

static void rm(struct fix *x, struct pl_tree *t, const char *path)
{
    struct pl_node *dir = parent(x, t, path), *n = at(x, t, path);
    assert_int_equal(
        pl_remove(t, &x->call, dir, strrchr(path, '/') + 1, S_ISDIR(n->fmt) ? AT_REMOVEDIR : 0), 0);
    pl_node_unref(n);
    pl_node_unref(dir);
}

static void mv(struct fix *x, const char *from, const char *to, unsigned flags)
{
    struct pl_node *a = parent(x, x->src, from), *b = parent(x, x->src, to);
    assert_int_equal(
        pl_rename(x->src, &x->call, a, strrchr(from, '/') + 1, b, strrchr(to, '/') + 1, flags), 0);
    pl_node_unref(a);
    pl_node_unref(b);
}

/* The content of a file, "-" if there is none. */
static const char *get(struct fix *x, struct pl_tree *t, const char *path)
{
    static char buf[64];
    struct pl_node *n = at(x, t, path);
    struct pl_file *f;
    if (!n)
        return "-";
    assert_int_equal(pl_open(t, &x->call, n, O_RDONLY, &f), 0);
    ssize_t r = pl_read(t, &x->call, f, buf, sizeof(buf) - 1, 0);
    buf[r < 0 ? 0 : r] = 0;
    pl_close(t, &x->call, f);
    pl_node_unref(n);
    return buf;
}

static const char *compare(struct fix *x)
{
    *x->told = 0;
    assert_int_equal(replica_compare(&x->r, x->seq), 0);
    return x->told;
}

/* Carries out one record. */
static const char *apply(struct fix *x, const char *path, const char *path2, uint64_t off,
                         uint64_t len)
{
    struct journal_record rec = {
        .seq = ++x->seq, .off = off, .len = len, .path = (char *)path, .path2 = (char *)path2};
    rec.ino = ino(x, x->src, path);
    *x->told = 0;
    assert_int_equal(replica_apply(&x->r, &rec, 1, false), 0);
    return x->told;
}

static void all_of_it(void **state)
{
    struct fix x;
    make(&x);
    mkdir_at(&x, x.src, "/d");
    put(&x, x.src, "/d/f", "hello", 5, 0);
    put(&x, x.src, "/g", "x", 1, 0);
    assert_string_equal(compare(&x), "M/d M/d/f W/d/f M/g W/g ");
    assert_string_equal(get(&x, x.dst, "/d/f"), "hello");
    assert_string_equal(compare(&x), "");
    rm(&x, x.src, "/g");
    put(&x, x.src, "/d/f", "J", 1, 0);
    assert_string_equal(compare(&x), "W/d/f X/g ");
    assert_string_equal(get(&x, x.dst, "/d/f"), "Jello");
    stop(&x); /* all of this is in the notes */
    begin(&x);
    assert_string_equal(compare(&x), "");
    end(&x);
}

static void only_what_differs(void **state)
{
    struct fix x;
    size_t n = 4 << 20;
    char *big = calloc(1, n);
    make(&x);
    for (size_t i = 0; i < n; i++)
        big[i] = (char)(i * 7 + i / 251);
    put(&x, x.src, "/big", big, n, 0);
    compare(&x);
    assert_int_equal(atomic_load(&x.count.bytes), n);
    put(&x, x.src, "/big", "changed", 7, 1 << 20);
    compare(&x); /* nobody said where: the block */
    assert_int_equal(atomic_load(&x.count.bytes), n + (64 << 10));
    put(&x, x.src, "/big", "again", 5, 2 << 20);
    apply(&x, "/big", "", 2 << 20, 5);
    assert_int_equal(atomic_load(&x.count.bytes), n + (64 << 10) + 5);
    mv(&x, "/big", "/large", 0);
    assert_string_equal(apply(&x, "/big", "/large", 0, 0), "R/big ");
    assert_int_equal(atomic_load(&x.count.bytes), n + (64 << 10) + 5);
    /* A file with a hole is one there. */
    struct pl_node *node;
    struct pl_attr a;
    put(&x, x.src, "/holes", "end", 3, 1ull << 33);
    assert_string_equal(apply(&x, "/holes", "", 1ull << 33, 3), "M/holes W/holes ");
    assert_int_equal(pl_attach(x.dst, &x.call, "holes", &node, &a), 0);
    assert_int_equal(a.size, (1ull << 33) + 3);
    assert_true(a.blocks < 8192);
    pl_node_unref(node);
    free(big);
    end(&x);
}

/* What we wrote just now, beyond what was noted, is not somebody else's. */
static void twice_in_a_new_block(void **state)
{
    struct fix x;
    static char old[100000];
    make(&x);
    memset(old, 'o', sizeof(old));
    put(&x, x.src, "/f", old, sizeof(old), 0);
    compare(&x);
    put(&x, x.src, "/f", "first", 5, 140000);
    put(&x, x.src, "/f", "second", 6, 150000);
    uint64_t number = ino(&x, x.src, "/f");
    struct journal_record recs[] = {
        {.seq = 1, .ino = number, .off = 140000, .len = 5, .path = "/f", .path2 = ""},
        {.seq = 2, .ino = number, .off = 150000, .len = 6, .path = "/f", .path2 = ""},
    };
    x.seq = 2;
    *x.told = 0;
    assert_int_equal(replica_apply(&x.r, recs, 2, false), 0);
    assert_string_equal(x.told, "W/f ");
    x.r.check = true;
    assert_string_equal(compare(&x), "");
    end(&x);
}

static void renames_are_renames(void **state)
{
    struct fix x;
    make(&x);
    mkdir_at(&x, x.src, "/a");
    mkdir_at(&x, x.src, "/a/b");
    put(&x, x.src, "/a/b/f", "one", 3, 0);
    put(&x, x.src, "/a/g", "two", 3, 0);
    compare(&x);
    uint64_t f = ino(&x, x.dst, "/a/b/f");
    mv(&x, "/a", "/c", 0);
    assert_string_equal(apply(&x, "/a", "/c", 0, 0), "R/a ");
    assert_int_equal(ino(&x, x.dst, "/c/b/f"), f);
    mv(&x, "/c/b/f", "/c/g", 0); /* over another */
    assert_string_equal(apply(&x, "/c/b/f", "/c/g", 0, 0), "R/c/b/f ");
    assert_int_equal(ino(&x, x.dst, "/c/g"), f);
    /* A chain of which only the end can be seen, told in the order in which it was made. */
    mv(&x, "/c/g", "/h", 0);
    mv(&x, "/h", "/i", 0);
    struct journal_record recs[] = {{.seq = 10, .path = (char *)"/c/g", .path2 = (char *)"/h"},
                                    {.seq = 11, .path = (char *)"/h", .path2 = (char *)"/i"}};
    *x.told = 0;
    assert_int_equal(replica_apply(&x.r, recs, 2, false), 0);
    assert_string_equal(x.told, "R/c/g ");
    assert_int_equal(ino(&x, x.dst, "/i"), f);
    assert_int_equal(ino(&x, x.dst, "/h"), 0);
    /* Two directories change places. */
    mkdir_at(&x, x.src, "/p");
    mkdir_at(&x, x.src, "/q");
    put(&x, x.src, "/p/1", "p", 1, 0);
    put(&x, x.src, "/q/2", "q", 1, 0);
    compare(&x);
    f = ino(&x, x.dst, "/p/1");
    mv(&x, "/p", "/q", RENAME_EXCHANGE);
    x.seq = 20;
    apply(&x, "/p", "/q", 0, 0);
    assert_int_equal(ino(&x, x.dst, "/q/1"), f);
    assert_string_equal(get(&x, x.dst, "/p/2"), "q");
    assert_int_equal(atomic_load(&x.count.n[REPLICA_REMOVES]), 0);
    /* A comparison of the whole knows it too. */
    mv(&x, "/q", "/z", 0);
    assert_string_equal(compare(&x), "R/q ");
    assert_int_equal(ino(&x, x.dst, "/z/1"), f);
    end(&x);
}

static void links_are_links(void **state)
{
    struct fix x;
    struct pl_attr a;
    make(&x);
    put(&x, x.src, "/a", "one", 3, 0);
    struct pl_node *n = at(&x, x.src, "/a"), *root = at(&x, x.src, "/");
    assert_int_equal(pl_link(x.src, &x.call, n, root, "b", &a), 0);
    compare(&x);
    assert_int_equal(ino(&x, x.dst, "/a"), ino(&x, x.dst, "/b"));
    put(&x, x.src, "/b", "ONE", 3, 0);
    apply(&x, "/b", "", 0, 3);
    assert_string_equal(get(&x, x.dst, "/a"), "ONE");
    assert_string_equal(compare(&x), ""); /* no divergence of /a */
    rm(&x, x.src, "/a");
    assert_string_equal(apply(&x, "/a", "", 0, 0), "X/a ");
    assert_string_equal(get(&x, x.dst, "/b"), "ONE");
    pl_node_unref(n);
    pl_node_unref(root);
    end(&x);
}

static void divergence_is_not_overwritten(void **state)
{
    struct fix x;
    make(&x);
    mkdir_at(&x, x.src, "/d");
    put(&x, x.src, "/d/a", "one", 3, 0);
    put(&x, x.src, "/b", "two", 3, 0);
    put(&x, x.src, "/c", "three", 5, 0);
    put(&x, x.dst, "/c", "mine!", 5, 0); /* there before us */
    assert_string_equal(compare(&x), "M/d M/d/a W/d/a M/b W/b D/c ");
    put(&x, x.dst, "/b", "his", 3, 0);
    put(&x, x.dst, "/d/new", "his", 3, 0);
    put(&x, x.src, "/b", "TWO", 3, 0);
    assert_string_equal(apply(&x, "/b", "", 0, 3), "D/b ");
    assert_string_equal(get(&x, x.dst, "/b"), "his");
    rm(&x, x.src, "/b");
    assert_string_equal(apply(&x, "/b", "", 0, 0), "D/b ");
    rm(&x, x.src, "/d/a");
    rm(&x, x.src, "/d");
    assert_string_equal(apply(&x, "/d", "", 0, 0), "X/d/a D/d ");
    assert_string_equal(get(&x, x.dst, "/d/new"), "his");
    x.r.resolve = REPLICA_KEEP;
    assert_string_equal(compare(&x), "K/c M/c W/c D/d K/b ");
    assert_string_equal(get(&x, x.dst, "/c"), "three");
    assert_string_equal(get(&x, x.dst, "/b"), "-"); /* its name is another */
    put(&x, x.dst, "/c", "his", 3, 0);
    x.r.resolve = REPLICA_OURS;
    assert_string_equal(compare(&x), "W/c D/d ");
    assert_string_equal(get(&x, x.dst, "/c"), "three");
    end(&x);
}

static void dry_changes_nothing(void **state)
{
    struct fix x;
    make(&x);
    mkdir_at(&x, x.src, "/d");
    put(&x, x.src, "/d/f", "one", 3, 0);
    put(&x, x.src, "/g", "two", 3, 0);
    compare(&x);
    mv(&x, "/d", "/e", 0);
    put(&x, x.src, "/e/n", "new", 3, 0);
    put(&x, x.src, "/g", "TWO", 3, 0);
    stop(&x);
    struct pl_err err;
    assert_int_equal(notes_open(&x.notes, x.file, true, &err), 0);
    x.r.dry = true;
    assert_int_equal(replica_open(&x.r), 0);
    assert_string_equal(compare(&x), "W/g R/d M/e/n W/e/n ");
    assert_string_equal(get(&x, x.dst, "/g"), "two");
    assert_string_equal(get(&x, x.dst, "/d/f"), "one");
    stop(&x);
    begin(&x);
    assert_string_equal(compare(&x), "W/g R/d M/e/n W/e/n ");
    assert_string_equal(get(&x, x.dst, "/e/n"), "new");
    end(&x);
}

/* The replica fails at its n-th operation, for every n, as if it or the way to it had died; then it
 * is carried out again by a successor that knows only the notes. */
static void killed_anywhere(void **state)
{
    for (unsigned n = 0;; n++) {
        struct fix x;
        make(&x);
        struct pl_tree *dst = x.dst;
        mkdir_at(&x, x.src, "/a");
        put(&x, x.src, "/a/f", "one", 3, 0);
        put(&x, x.src, "/g", "two", 3, 0);
        compare(&x);
        mv(&x, "/a", "/b", 0);
        put(&x, x.src, "/b/f", "ONE", 3, 0);
        mv(&x, "/b/f", "/g", 0);
        put(&x, x.src, "/b/h", "three", 5, 0);
        stop(&x);
        x.dst = pl_fault_new(PL_OP_COUNT, -EIO, n, UINT64_MAX, pl_tree_ref(dst));
        struct pl_err err;
        assert_int_equal(notes_open(&x.notes, x.file, false, &err), 0);
        x.r.dst = x.dst;
        int r = replica_open(&x.r);
        if (r == 0) {
            r = replica_compare(&x.r, 1);
            replica_close(&x.r);
        }
        notes_close(&x.notes);
        pl_tree_unref(x.dst);
        x.dst = dst;
        begin(&x);
        compare(&x);
        assert_null(strchr(x.told, 'D'));
        assert_string_equal(get(&x, x.dst, "/g"), "ONE");
        assert_string_equal(get(&x, x.dst, "/b/h"), "three");
        assert_string_equal(get(&x, x.dst, "/b/f"), "-");
        assert_string_equal(get(&x, x.dst, "/a"), "-");
        end(&x);
        if (r == 0) {
            assert_true(n > 20);
            break;
        }
    }
}

/* Likewise, and who carries it out again is the same, with all that it has in memory. */
static void failed_anywhere(void **state)
{
    for (unsigned n = 0;; n++) {
        struct fix x;
        make(&x);
        mkdir_at(&x, x.src, "/a");
        put(&x, x.src, "/a/f", "one", 3, 0);
        put(&x, x.src, "/g", "two", 3, 0);
        put(&x, x.src, "/h", "three", 5, 0);
        compare(&x);
        rm(&x, x.src, "/a/f");
        rm(&x, x.src, "/g");
        mv(&x, "/h", "/i", 0);
        const struct journal_record recs[] = {
            {.seq = 1, .path = "/a/f", .path2 = ""},
            {.seq = 2, .path = "/g", .path2 = ""},
            {.seq = 3, .path = "/h", .path2 = "/i"},
        };
        replica_close(&x.r);
        x.r.dst = pl_fault_new(PL_OP_COUNT, -EIO, n, UINT64_MAX, pl_tree_ref(x.dst));
        int r = replica_open(&x.r);
        if (r == 0) {
            r = replica_apply(&x.r, recs, 3, false);
            replica_close(&x.r);
        }
        pl_tree_unref(x.r.dst);
        x.r.dst = x.dst;
        *x.told = 0;
        assert_int_equal(replica_open(&x.r), 0);
        assert_int_equal(replica_apply(&x.r, recs, 3, false), 0);
        assert_null(strchr(x.told, 'D'));
        assert_string_equal(get(&x, x.dst, "/a/f"), "-");
        assert_string_equal(get(&x, x.dst, "/g"), "-");
        assert_string_equal(get(&x, x.dst, "/h"), "-");
        assert_string_equal(get(&x, x.dst, "/i"), "three");
        end(&x);
        if (r == 0) {
            assert_true(n > 10);
            break;
        }
    }
}

/* What failed amid one name of a file is carried out by another, when the source has changed anew.
 */
static void failed_with_two_names(void **state)
{
    static char old[100000];
    memset(old, 'o', sizeof(old));
    for (unsigned n = 0;; n++) {
        struct fix x;
        make(&x);
        put(&x, x.src, "/f", old, sizeof(old), 0);
        struct pl_node *f = at(&x, x.src, "/f"), *top = parent(&x, x.src, "/l");
        struct pl_attr a;
        assert_int_equal(pl_link(x.src, &x.call, f, top, "l", &a), 0);
        pl_node_unref(f);
        pl_node_unref(top);
        compare(&x);
        put(&x, x.src, "/f", "first", 5, 0);
        struct journal_record rec = {.seq = 1, .ino = a.ino, .len = 5, .path = "/f", .path2 = ""};
        stop(&x);
        struct pl_tree *dst = x.dst;
        struct pl_err err;
        x.dst = pl_fault_new(PL_OP_COUNT, -EIO, n, UINT64_MAX, pl_tree_ref(dst));
        assert_int_equal(notes_open(&x.notes, x.file, false, &err), 0);
        x.r.dst = x.dst;
        int r = replica_open(&x.r);
        if (r == 0) {
            r = replica_apply(&x.r, &rec, 1, false);
            replica_close(&x.r);
        }
        notes_close(&x.notes);
        pl_tree_unref(x.dst);
        x.dst = dst;
        put(&x, x.src, "/f", "SECOND", 6, 0);
        rec.path = "/l";
        rec.len = 6;
        begin(&x);
        *x.told = 0;
        assert_int_equal(replica_apply(&x.r, &rec, 1, false), 0);
        assert_null(strchr(x.told, 'D'));
        assert_memory_equal(get(&x, x.dst, "/f"), "SECONDo", 7);
        assert_memory_equal(get(&x, x.dst, "/l"), "SECONDo", 7);
        end(&x);
        if (r == 0) {
            assert_true(n > 5);
            break;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_of_it),
        cmocka_unit_test(only_what_differs),
        cmocka_unit_test(twice_in_a_new_block),
        cmocka_unit_test(renames_are_renames),
        cmocka_unit_test(links_are_links),
        cmocka_unit_test(divergence_is_not_overwritten),
        cmocka_unit_test(dry_changes_nothing),
        cmocka_unit_test(killed_anywhere),
        cmocka_unit_test(failed_anywhere),
        cmocka_unit_test(failed_with_two_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
