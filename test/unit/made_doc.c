/* SPDX-License-Identifier: MIT */
/* Documents whose bytes are moved by others: descriptors, commits that fail, ranges, limits. */
#include "made_fixture.h"

#include "base/limits.h"
#include "sources/made.h"
#include <sys/mman.h>
#include <sys/stat.h>

/* As an ordinary user the tree has no file system in memory: no descriptors, all else the same. */
static int setup_plain(void **state)
{
    int r = setup(state);
    if (r == 0)
        m->memory = -1;
    return r;
}

static bool native(void)
{
    return m->memory != -1 && geteuid() == 0;
}

/* What the kernel does with the descriptor of an open file. */
static void write_native(struct pl_file *f, const char *s, off_t off)
{
    int fd = pl_file_fd(t, f);
    if (native())
        assert_true(fd >= 0);
    if (fd >= 0)
        assert_int_equal(pwrite(fd, s, strlen(s), off), strlen(s));
    else
        put(f, s, (uint64_t)off);
}

static void test_native_writes(void **state)
{
    struct pl_file *f, *g;
    struct doc d = {.text = "one two"};
    assert_int_equal(pl_made_doc(m, "doc", doc_fill, doc_commit, &d), 0);
    start();
    assert_int_equal(open_at("doc", O_RDWR, &f), 0);
    assert_int_equal(open_at("doc", O_RDWR, &g), 0);
    assert_int_equal(shut(g), 0);
    assert_int_equal(d.commits, 0); /* nothing was written */
    write_native(f, "ONE", 0);
    assert_string_equal(all(f), "ONE two");
    assert_string_equal(cat("doc"), "one two"); /* a copy each */
    assert_int_equal(pl_getattr(t, c, f->node, f, &at), 0);
    assert_int_equal(at.size, 7);
    assert_int_equal(pl_fsync(t, c, f, true), 0);
    assert_string_equal(d.text, "ONE two");
    assert_int_equal(pl_fsync(t, c, f, true), 0);
    assert_int_equal(d.commits, 1);
    write_native(f, "ONE", 0); /* the same again is a write too */
    assert_int_equal(pl_flush(t, c, f, 1), 0);
    assert_int_equal(d.commits, 2);
    put(f, "!", 7);
    write_native(f, "?", 8);
    assert_int_equal(shut(f), 0);
    assert_string_equal(d.text, "ONE two!?");
    assert_int_equal(d.commits, 3);
    /* what appends appends, whoever writes */
    assert_int_equal(open_at("doc", O_WRONLY | O_APPEND, &f), 0);
    if (native())
        write_native(f, "+", 0);
    else
        put(f, "+", 0);
    put(f, "+", 0);
    assert_int_equal(shut(f), 0);
    assert_string_equal(d.text, "ONE two!?++");
}

static void test_mapping(void **state)
{
    struct pl_file *f;
    struct doc d = {.text = "mapped"};
    assert_int_equal(pl_made_doc(m, "doc", doc_fill, doc_commit, &d), 0);
    start();
    if (!native())
        skip();
    assert_int_equal(open_at("doc", O_RDWR, &f), 0);
    char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, pl_file_fd(t, f), 0);
    assert_true(p != MAP_FAILED);
    assert_int_equal(pl_flush(t, c, f, 1), 0);
    assert_int_equal(d.commits, 0);
    p[0] = 'M'; /* leaves no trace in the times */
    assert_int_equal(shut(f), 0);
    assert_string_equal(d.text, "Mapped");
    munmap(p, 4096);
}

static void test_lost(void **state)
{
    struct pl_file *f;
    struct doc d = {.text = "old", .error = -EIO};
    assert_int_equal(pl_made_doc(m, "doc", doc_fill, doc_commit, &d), 0);
    start();
    assert_int_equal(open_at("doc", O_RDWR | O_TRUNC, &f), 0);
    write_native(f, "new", 0);
    assert_int_equal(pl_flush(t, c, f, 1), -EIO);
    assert_string_equal(all(f), "new"); /* as long as it is open */
    assert_int_equal(shut(f), -EIO);
    d.error = 0;
    assert_string_equal(cat("doc"), "old");
}

static void test_kept(void **state)
{
    struct pl_file *f;
    struct doc d = {.text = "old", .error = -EIO};
    pl_made_keep_failed(m, true);
    assert_int_equal(pl_made_doc(m, "doc", doc_fill, doc_commit, &d), 0);
    start();
    assert_int_equal(open_at("doc", O_RDWR | O_TRUNC, &f), 0);
    write_native(f, "new", 0);
    assert_int_equal(shut(f), -EIO);
    assert_string_equal(cat("doc"), "new");
    d.error = 0;
    assert_int_equal(open_at("doc", O_RDWR, &f), 0);
    assert_int_equal(shut(f), 0); /* nothing but opened and closed */
    assert_string_equal(d.text, "new");
    strcpy(d.text, "newest");
    assert_string_equal(cat("doc"), "newest"); /* the program's again */
    /* another commit makes it void */
    d.error = -EIO;
    assert_int_equal(open_at("doc", O_RDWR | O_TRUNC, &f), 0);
    assert_int_equal(shut(f), -EIO);
    assert_string_equal(cat("doc"), "");
    d.error = 0;
    assert_int_equal(open_at("doc", O_RDWR | O_TRUNC, &f), 0);
    put(f, "x", 0);
    assert_int_equal(shut(f), 0);
    strcpy(d.text, "y");
    assert_string_equal(cat("doc"), "y");
    /* a client that died has no say */
    assert_int_equal(open_at("doc", O_RDWR, &f), 0);
    write_native(f, "half", 0);
    pl_close(t, c, f);
    assert_string_equal(cat("doc"), "y");
    /* and truncate(2) is a commit like others */
    d.error = -EIO;
    struct pl_setattr size = {.valid = PL_SET_SIZE, .size = 1};
    struct pl_node *n;
    assert_int_equal(open_at("doc", O_RDWR, &f), 0);
    put(f, "kept", 0);
    assert_int_equal(shut(f), -EIO);
    d.error = 0;
    assert_int_equal(pl_attach(t, c, "doc", &n, &at), 0);
    assert_int_equal(pl_setattr(t, c, n, NULL, &size, &at), 0);
    pl_node_unref(n);
    assert_string_equal(d.text, "k");
}

/* ---- a store ---- */

static struct {
    char text[64];
    int error;
    bool there;
} one;

static int one_list(const struct pl_made_req *req, int (*add)(void *, const char *), void *arg)
{
    return one.there ? add(arg, "one") : 0;
}

static int one_get(const struct pl_made_req *req, struct pl_text *out)
{
    return one.there && !strcmp(req->name, "one") ? pl_text_add(out, "%s", one.text) : -ENOENT;
}

static int one_put(const struct pl_made_req *req, const char *text, size_t n)
{
    if (one.error || strcmp(req->name, "one"))
        return one.error ? one.error : -EINVAL;
    snprintf(one.text, sizeof(one.text), "%s", text);
    one.there = true;
    return 0;
}

static int one_del(const struct pl_made_req *req)
{
    bool there = one.there;
    one.there = false;
    return there ? 0 : -ENOENT;
}

static const struct pl_made_store one_store = {one_list, one_get, one_put, one_del, NULL};

static void test_kept_entry(void **state)
{
    struct pl_file *f;
    memset(&one, 0, sizeof(one));
    pl_made_keep_failed(m, true);
    assert_int_equal(pl_made_docs(m, "", &one_store), 0);
    start();
    one.error = -EDQUOT;
    assert_int_equal(create(root, "one", O_WRONLY, &f), 0);
    write_native(f, "text", 0);
    assert_int_equal(shut(f), -EDQUOT);
    assert_string_equal(cat("one"), "text"); /* though it was never put */
    assert_int_equal(at.size, 4);
    one.error = 0;
    assert_int_equal(open_at("one", O_RDWR, &f), 0);
    assert_int_equal(shut(f), 0);
    assert_string_equal(one.text, "text");
    one.error = -EDQUOT;
    assert_int_equal(open_at("one", O_RDWR, &f), 0);
    write_native(f, "TEXT", 0);
    assert_int_equal(shut(f), -EDQUOT);
    assert_int_equal(pl_remove(t, c, root, "one", 0), 0); /* with what was kept */
    assert_null(cat("one"));
    pl_made_keep_failed(m, false);
    assert_int_equal(create(root, "one", O_WRONLY, &f), 0);
    assert_int_equal(shut(f), -EDQUOT);
    assert_null(cat("one"));
}

/* ---- fixed texts and limits ---- */

static void test_sealed(void **state)
{
    struct pl_file *f, *g;
    assert_int_equal(pl_made_text(m, "fixed", "fixed\n"), 0);
    start();
    assert_int_equal(open_at("fixed", O_RDONLY, &f), 0);
    assert_int_equal(open_at("fixed", O_RDONLY, &g), 0);
    int fd = pl_file_fd(t, f);
    assert_true(fd >= 0);
    assert_int_equal(fd, pl_file_fd(t, g)); /* one for all: the kernel takes no second */
    assert_int_equal(pwrite(fd, "x", 1, 0), -1);
    assert_int_equal(ftruncate(fd, 0), -1);
    shut(f);
    char buf[8];
    assert_int_equal(pread(fd, buf, 8, 0), 6);
    shut(g);
    assert_int_equal(fcntl(fd, F_GETFD),
                     -1); /* not a descriptor for each text that was ever read */
}

static void test_limit(void **state)
{
    struct pl_file *f, *g;
    struct doc d = {.text = ""};
    struct pl_setattr size = {.valid = PL_SET_SIZE};
    assert_int_equal(pl_made_doc(m, "doc", doc_fill, doc_commit, &d), 0);
    start();
    assert_int_equal(open_at("doc", O_RDWR, &f), 0);
    int fd = pl_file_fd(t, f);
    if (fd >= 0) { /* the file system's, which holes cost nothing */
        assert_int_equal(fallocate(fd, 0, 0, LIMIT_DOCUMENTS + 1l), -1);
        assert_int_equal(errno, ENOSPC);
        assert_int_equal(ftruncate(fd, LIMIT_DOCUMENTS + 4096l), 0);
        assert_int_equal(pl_flush(t, c, f, 1), -EFBIG); /* nor may a hole be committed */
        pl_close(t, c, f);
        return;
    }
    atomic_fetch_add(&m->held, LIMIT_DOCUMENTS - 8); /* others' */
    size.size = 8;
    assert_int_equal(pl_setattr(t, c, f->node, f, &size, &at), 0);
    assert_int_equal(open_at("doc", O_RDWR, &g), 0);
    assert_int_equal(pl_write(t, c, g, "x", 1, 0), -ENOSPC);
    pl_close(t, c, f);
    assert_int_equal(pl_write(t, c, g, "x", 1, 0), 1);
    assert_int_equal(shut(g), 0);
    assert_string_equal(d.text, "x");
    assert_int_equal(atomic_load(&m->held), LIMIT_DOCUMENTS - 8);
}

/* ---- ranges ---- */

struct big {
    int64_t size;
    int asked, error;
};

static int64_t big_size(const struct pl_made_req *req)
{
    return ((struct big *)req->arg)->size;
}

static char big_byte(uint64_t off)
{
    return (char)(off * 7 + off / 4096);
}

static ssize_t big_read(const struct pl_made_req *req, void *buf, size_t n, uint64_t off)
{
    struct big *b = req->arg;
    b->asked++;
    if (b->error)
        return b->error;
    n = n < 50000 ? n : 50000; /* fewer than asked */
    for (size_t i = 0; i < n; i++)
        ((char *)buf)[i] = big_byte(off + i);
    return (ssize_t)n;
}

static void check_read(struct pl_file *f, uint64_t off, size_t n, size_t expect)
{
    char *buf = malloc(n);
    assert_int_equal(pl_read(t, c, f, buf, n, off), expect);
    for (size_t i = 0; i < expect; i++)
        assert_int_equal(buf[i], big_byte(off + i));
    free(buf);
}

static const char *progress(struct pl_file *f)
{
    static char text[64];
    ssize_t n = pl_getxattr(t, c, f->node, "user.plenum.progress", text, sizeof(text) - 1);
    assert_true(n > 0);
    text[n] = 0;
    return text;
}

static void test_ranges(void **state)
{
    struct pl_file *f, *g;
    struct big b = {.size = 300000};
    assert_int_equal(pl_made_ranged(m, "big", big_size, big_read, &b), 0);
    assert_int_equal(pl_made_text(m, "text", "x"), 0);
    start();
    assert_int_equal(open_at("big", O_RDWR, &f), -EACCES);
    assert_int_equal(open_at("big", O_RDONLY, &f), 0);
    assert_int_equal(pl_file_fd(t, f), -1); /* not complete */
    assert_int_equal(pl_getattr(t, c, f->node, f, &at), 0);
    assert_int_equal(at.size, 300000);
    check_read(f, 299990, 100, 10);
    check_read(f, 300000, 100, 0);
    check_read(f, 131000, 1000, 1000); /* over a block's end */
    if (native()) {
        assert_string_equal(progress(f), "300000/300000"); /* of so few blocks */
        int asked = b.asked;
        check_read(f, 0, 300000, 300000);
        assert_int_equal(b.asked, asked); /* not again */
        assert_int_equal(pl_file_fd(t, f), -1);
        assert_int_equal(open_at("big", O_RDONLY, &g), 0);
        assert_true(pl_file_fd(t, g) >= 0);
        char byte;
        assert_int_equal(pread(pl_file_fd(t, g), &byte, 1, 299999), 1);
        assert_int_equal(byte, big_byte(299999));
        shut(g);
    } else {
        check_read(f, 0, 300000, 300000);
        assert_string_equal(progress(f), "0/300000");
    }
    /* of another size it is another */
    b.size = 600000;
    assert_int_equal(open_at("big", O_RDONLY, &g), 0);
    assert_int_equal(pl_file_fd(t, g), -1);
    check_read(g, 0, 10, 10);
    assert_string_equal(progress(g), native() ? "131072/600000" : "0/600000");
    b.error = -EIO;
    char byte;
    assert_int_equal(pl_read(t, c, g, &byte, 1, 400000), -EIO);
    b.error = 0;
    check_read(g, 400000, 10, 10);
    check_read(f, 0, 300000, 300000); /* it goes on */
    shut(g);
    shut(f);
    b.size = -ESTALE;
    assert_int_equal(open_at("big", O_RDONLY, &f), -ESTALE);
    b.size = INT64_C(5) << 30; /* too big to be kept */
    assert_int_equal(open_at("big", O_RDONLY, &f), 0);
    check_read(f, (UINT64_C(5) << 30) - 5, 100, 5);
    shut(f);
    assert_int_equal(open_at("text", O_RDONLY, &f), 0);
    assert_int_equal(pl_getxattr(t, c, f->node, "user.plenum.progress", NULL, 0), -ENODATA);
    shut(f);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
#define PLAIN(name)                                                                                \
    {                                                                                              \
        "test_" #name " without memory", test_##name, setup_plain, teardown, NULL                  \
    }
    const struct CMUnitTest tests[] = {
        TEST(native_writes),  TEST(mapping),     TEST(lost),   TEST(kept),    TEST(kept_entry),
        TEST(sealed),         TEST(limit),       TEST(ranges), PLAIN(lost),   PLAIN(kept),
        PLAIN(native_writes), PLAIN(kept_entry), PLAIN(limit), PLAIN(ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
