/* SPDX-License-Identifier: MIT */
/* How the FUSE door chooses the way of bytes: its side of the kernel's rule, with a kernel that
 * only counts. */
#include "doors/fuse_door.h"
#include <errno.h>
#include <fcntl.h>
#include <plenum/plenum.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/plenum-unit.XXXXXX";
static struct pl_tree *tree;
static struct fuse_sess s;
static struct stats stats;
static struct fuse_req req;

/* The kernel: gives the ids from 1 on, or an error. */
static int asked, lent, answer;
static bool out[1000];
static void (*meanwhile)(void);

static int32_t backing_open(struct fuse_sess *sess, int fd)
{
    void (*f)(void) = meanwhile;
    assert_true(fcntl(fd, F_GETFD) >= 0);
    int id = ++asked;
    meanwhile = NULL;
    if (f)
        f();
    if (answer < 0)
        return answer;
    lent++;
    out[id] = true;
    return id;
}

static void backing_close(struct fuse_sess *sess, int32_t id)
{
    assert_true(out[id]);
    out[id] = false;
    lent--;
}

static int doubts;

static int notify(struct fuse_sess *sess, const struct iovec *iov, int n)
{
    doubts++;
    return 0;
}

static void begin(struct pl_tree *t, uint64_t flags)
{
    struct fuse_opts opts;
    struct pl_err err;
    tree = t;
    asked = lent = answer = 0;
    memset(out, 0, sizeof(out));
    fuse_opts_init(&opts);
    opts.kernel_checks = true;
    memset(&stats, 0, sizeof(stats));
    assert_int_equal(fuse_sess_init(&s, t, "", &opts, &stats, &err), 0);
    s.backing_open = backing_open;
    s.backing_close = backing_close;
    s.notify = notify;
    doubts = 0;
    s.flags = flags;
    fuse_bytes_agreed(&s);
    memset(&req, 0, sizeof(req));
    req.s = &s;
    pl_call_init_self(&req.call);
}

static void end(void)
{
    pl_call_done(&req.call);
    fuse_sess_done(&s);
    pl_tree_unref(tree);
}

static int setup(void **state)
{
    struct pl_tree *t;
    struct pl_err err;
    strcpy(dir + strlen(dir) - 6, "XXXXXX");
    if (!mkdtemp(dir) || pl_host_open(dir, &t, &err) < 0)
        return -1;
    begin(t, FUSE_PASSTHROUGH);
    return 0;
}

static int teardown(void **state)
{
    char cmd[100];
    end();
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
    return system(cmd);
}

/* The nodeid of a file beneath the root, made if need be. */
static uint64_t known(const char *name)
{
    struct pl_node *root = fuse_nodes_get(s.nodes, FUSE_ROOT_ID), *n;
    struct pl_attr a;
    struct pl_make mk = {.mode = S_IFREG | 0644};
    uint64_t generation;
    bool sure;
    int r = pl_lookup(tree, &req.call, root, name, &n, &a);
    if (r == -ENOENT)
        r = pl_make(tree, &req.call, root, name, &mk, &n, &a);
    assert_int_equal(r, 0);
    pl_node_unref(root);
    struct fuse_found found = {.node = n, .attr = &a, .dir = FUSE_ROOT_ID, .name = name};
    return fuse_nodes_learn(s.nodes, &found, &generation, &sure, NULL);
}

struct opened {
    uint64_t nodeid;
    struct fuse_file f;
    struct fuse_way way;
};

static struct opened opened(uint64_t nodeid, int flags)
{
    struct opened o = {.nodeid = nodeid};
    struct pl_node *n = fuse_nodes_get(s.nodes, nodeid);
    req.m.h.nodeid = nodeid;
    o.f.file = fuse_bytes_again(&req, (uint32_t)flags, &o.way);
    if (!o.f.file) {
        assert_int_equal(pl_open(tree, &req.call, n, flags, &o.f.file), 0);
        assert_int_equal(fuse_bytes_open(&req, o.f.file, nodeid, &o.way), 0);
    }
    pl_node_unref(n);
    o.f.how = (uint8_t)o.way.how;
    o.f.flags = o.f.file->flags;
    o.f.nodeid = nodeid;
    o.f.uid = req.call.cred.uid;
    o.f.gid = req.call.cred.gid;
    return o;
}

static void closed(const struct opened *o)
{
    fuse_bytes_close(&req, &o->f, true);
}

static void is(const struct opened *o, enum fuse_how how, uint32_t flags, int32_t backing)
{
    assert_int_equal(o->way.how, how);
    assert_int_equal(o->way.flags & (FOPEN_PASSTHROUGH | FOPEN_DIRECT_IO | FOPEN_KEEP_CACHE),
                     flags);
    assert_int_equal(o->way.backing, backing);
}

static void test_joined(void **state)
{
    uint64_t f = known("f"), g = known("g");
    struct opened a = opened(f, O_RDWR), b = opened(f, O_RDONLY), other = opened(g, O_RDONLY);
    struct opened c = opened(f, O_RDWR | O_APPEND), d = opened(f, O_RDWR | O_DIRECT);
    is(&a, FUSE_PASSED, FOPEN_PASSTHROUGH, 1);
    is(&b, FUSE_PASSED, FOPEN_PASSTHROUGH, 1);
    is(&other, FUSE_PASSED, FOPEN_PASSTHROUGH, 2);
    is(&c, FUSE_PASSED_BY_NAME, FOPEN_PASSTHROUGH | FOPEN_DIRECT_IO, 1);
    is(&d, FUSE_PASSED_BY_NAME, FOPEN_PASSTHROUGH | FOPEN_DIRECT_IO, 1);
    assert_int_equal(a.way.flags & FOPEN_NOFLUSH, 0);
    assert_int_not_equal(b.way.flags & FOPEN_NOFLUSH, 0);
    assert_int_equal(asked, 2);
    assert_int_equal(stats.passed, 3);
    assert_string_equal(stats.bytes, "by the kernel (passthrough)");
    closed(&a);
    closed(&b);
    closed(&c);
    assert_int_equal(lent, 2);
    closed(&d); /* the last, and not one to keep */
    assert_int_equal(lent, 1);
    closed(&other);
}

static bool told(uint64_t nodeid)
{
    struct pl_attr a = {.ino = nodeid, .mode = S_IFREG};
    return fuse_nodes_told(s.nodes, nodeid, &a);
}

/* While a passed file may be mapped, no attributes are to be believed. */
static void test_mapped(void **state)
{
    uint64_t f = known("f");
    struct opened a = opened(f, O_RDONLY);
    assert_true(told(f));
    assert_int_equal(doubts, 0);
    struct opened b = opened(f, O_RDWR), c = opened(f, O_RDWR | O_APPEND);
    assert_int_equal(doubts, 1);
    assert_false(told(f));
    closed(&b);
    closed(&a);
    assert_false(told(f));
    closed(&c);
    assert_true(told(f));
}

static void test_by_messages_first(void **state)
{
    uint64_t f = known("f");
    atomic_store(&s.bytes.denied, true); /* for once */
    struct opened a = opened(f, O_RDWR);
    is(&a, FUSE_PLAIN, 0, 0);
    atomic_store(&s.bytes.denied, false);
    struct opened b = opened(f, O_RDWR);
    is(&b, FUSE_PLAIN, FOPEN_KEEP_CACHE, 0); /* joined */
    closed(&a);
    struct opened c = opened(f, O_RDWR);
    is(&c, FUSE_PLAIN, FOPEN_KEEP_CACHE, 0);
    closed(&b);
    closed(&c);
    assert_int_equal(asked, 0);
    struct opened d = opened(f, O_RDWR);
    is(&d, FUSE_PASSED, FOPEN_PASSTHROUGH, 1);
    atomic_store(&s.bytes.denied, true);
    struct opened e = opened(f, O_RDWR); /* not to be moved unseen now */
    is(&e, FUSE_PASSED_BY_NAME, FOPEN_PASSTHROUGH | FOPEN_DIRECT_IO, 1);
    closed(&d);
    closed(&e);
    assert_int_equal(lent, 0);
    /* what was written meanwhile did not go through the kernel's cache */
    struct opened g = opened(f, O_RDWR);
    is(&g, FUSE_PLAIN, 0, 0);
    closed(&g);
}

static void test_refused(void **state)
{
    uint64_t f = known("f");
    answer = -ELOOP;
    for (int i = 0; i < 2; i++) {
        struct opened a = opened(f, O_RDONLY);
        is(&a, FUSE_PLAIN, i ? FOPEN_KEEP_CACHE : 0, 0);
        closed(&a);
    }
    assert_int_equal(asked, 2); /* another file may lie elsewhere */
    assert_non_null(strstr(stats.bytes, "by messages: too many file systems"));
    answer = -EPERM;
    for (int i = 0; i < 2; i++) {
        struct opened a = opened(f, O_RDONLY);
        is(&a, FUSE_PLAIN, FOPEN_KEEP_CACHE, 0);
        closed(&a);
    }
    assert_int_equal(asked, 3); /* never again */
    assert_non_null(strstr(stats.bytes, "by messages: passthrough takes root's rights"));
    assert_int_equal(stats.passed, 0);
}

static struct opened faster;

static void open_faster(void)
{
    faster = opened(known("f"), O_RDWR);
}

static void test_race(void **state)
{
    uint64_t f = known("f");
    meanwhile = open_faster;
    struct opened a = opened(f, O_RDWR);
    is(&a, FUSE_PASSED, FOPEN_PASSTHROUGH, 2);
    is(&faster, FUSE_PASSED, FOPEN_PASSTHROUGH, 2);
    assert_int_equal(lent, 1); /* the slower one's id was given back */
    closed(&faster);
    closed(&a);
    assert_int_equal(lent, 0);
}

static void test_kept(void **state)
{
    uint64_t f = known("f");
    struct opened a = opened(f, O_RDONLY);
    struct pl_file *file = a.f.file;
    closed(&a);
    assert_int_equal(lent, 1);
    a = opened(f, O_RDONLY);
    assert_ptr_equal(a.f.file, file);
    is(&a, FUSE_PASSED, FOPEN_PASSTHROUGH, 1);
    assert_int_not_equal(a.way.flags & FOPEN_NOFLUSH, 0);
    closed(&a);
    /* who opens otherwise has the id, not the file */
    struct opened b = opened(f, O_RDWR);
    assert_ptr_not_equal(b.f.file, file);
    is(&b, FUSE_PASSED, FOPEN_PASSTHROUGH, 1);
    closed(&b);
    assert_int_equal(lent, 0);
    /* another user has neither */
    a = opened(f, O_RDONLY);
    closed(&a);
    req.call.cred.uid++;
    req.m.h.nodeid = f;
    assert_null(fuse_bytes_again(&req, O_RDONLY, &a.way));
    req.call.cred.uid--;
    req.call.cred.gid++;
    assert_null(fuse_bytes_again(&req, O_RDONLY, &a.way));
    req.call.cred.gid--;
    /* locks that were set later have each close tell */
    fuse_nodes_lock(s.nodes, f);
    s.flags |= FUSE_POSIX_LOCKS;
    a = opened(f, O_RDONLY);
    assert_int_equal(a.way.flags & FOPEN_NOFLUSH, 0);
    a.f.locked = true;
    closed(&a);
    assert_int_equal(lent, 0);
    s.flags &= ~(uint64_t)FUSE_POSIX_LOCKS;
    /* forgotten, undone, or old */
    a = opened(f, O_RDONLY);
    closed(&a);
    fuse_bytes_forget(&s, f);
    assert_int_equal(lent, 0);
    a = opened(f, O_RDONLY);
    fuse_bytes_close(&req, &a.f, false);
    assert_int_equal(lent, 0);
    a = opened(f, O_RDONLY);
    closed(&a);
    while (fuse_bytes_tidy(&s))
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    assert_int_equal(lent, 0);
    assert_false(fuse_bytes_tidy(&s));
}

static void test_kept_at_most(void **state)
{
    char name[20];
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        struct opened a = opened(known(name), O_RDONLY);
        closed(&a);
    }
    assert_true(lent <= 256);
    struct opened last = opened(known("f299"), O_RDONLY);
    assert_int_equal(last.way.backing, 300);
    closed(&last);
}

static int doc_fill(const struct pl_made_req *r, struct pl_text *to)
{
    return pl_text_add(to, "text");
}

static int doc_take(const struct pl_made_req *r, const char *text, size_t n)
{
    return 0;
}

static void test_documents(void **state)
{
    struct pl_made *m = pl_made_new();
    end();
    pl_made_doc(m, "doc", doc_fill, doc_take, NULL);
    pl_made_text(m, "text", "text");
    begin(pl_made_tree(m), FUSE_PASSTHROUGH);
    uint64_t doc = known("doc"), text = known("text");
    struct opened a = opened(doc, O_RDONLY);
    if (a.f.file->fd < 0) {
        closed(&a);
        skip(); /* not root */
    }
    struct opened b = opened(doc, O_RDWR); /* has a copy of its own, which the kernel cannot have */
    is(&a, FUSE_PASSED, FOPEN_PASSTHROUGH, 1);
    is(&b, FUSE_PASSED_BY_NAME, FOPEN_PASSTHROUGH | FOPEN_DIRECT_IO, 1);
    closed(&b);
    closed(&a);
    assert_int_equal(lent, 0); /* nothing to keep: the next is another */
    a = opened(text, O_RDONLY);
    b = opened(text, O_RDONLY);
    is(&a, FUSE_PASSED, FOPEN_PASSTHROUGH, 2);
    is(&b, FUSE_PASSED, FOPEN_PASSTHROUGH, 2);
    closed(&b);
    closed(&a);
}

static void test_not_agreed(void **state)
{
    pl_tree_ref(tree);
    struct pl_tree *t = tree;
    end();
    begin(t, 0);
    assert_non_null(strstr(stats.bytes, "by messages: this kernel has no passthrough"));
    assert_int_equal(fuse_bytes_wanted(&s), FUSE_PASSTHROUGH);
    struct opened a = opened(known("f"), O_RDWR);
    is(&a, FUSE_PLAIN, 0, 0);
    closed(&a);
    assert_int_equal(asked, 0);
    s.opts.opens = FUSE_OFF;
    assert_int_equal(fuse_bytes_wanted(&s), 0);
    s.opts.writeback = true;
    s.opts.opens = FUSE_AUTO;
    assert_int_equal(fuse_bytes_wanted(&s), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(joined), TEST(mapped),       TEST(by_messages_first), TEST(refused),    TEST(race),
        TEST(kept),   TEST(kept_at_most), TEST(documents),         TEST(not_agreed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
