/* SPDX-License-Identifier: MIT */
/*
 * The 9P source: over our own server with and without our own messages, and over servers that lie.
 * What a tree must do is the conformance suite's; here is what 9P makes difficult.
 */
#include "p9_source_fixture.h"

static void large_reads_and_writes(void **state)
{
    struct world *w = *state;
    static const size_t sizes[] = {1, 4095, 65536, (1 << 20) - 25, 1 << 20, (5 << 20) + 7};
    struct pl_file *f = create(w->far, w->top, "big", O_RDWR, NULL);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        size_t n = sizes[i];
        void *out = pattern(n, (unsigned)i), *in = malloc(n + 100);
        assert_int_equal(pl_write(w->far, &call, f, out, n, 123), n);
        struct pl_setattr set = {.valid = PL_SET_SIZE, .size = n + 123};
        struct pl_attr attr;
        assert_int_equal(pl_setattr(w->far, &call, f->node, f, &set, &attr), 0);
        assert_int_equal(attr.size, n + 123);
        assert_int_equal(pl_read(w->far, &call, f, in, n + 100, 123), n);
        assert_memory_equal(in, out, n);
        assert_int_equal(pl_read(w->far, &call, f, in, 10, n + 123), 0);
        free(out);
        free(in);
    }
    pl_close(w->far, &call, f);
}

static void appending(void **state)
{
    struct world *w = *state;
    size_t n = 3 << 20;
    void *out = pattern(n, 9), *in = malloc(n);
    struct pl_file *f = create(w->far, w->top, "log", O_RDWR | O_APPEND, NULL);
    assert_int_equal(pl_write(w->far, &call, f, "head", 4, 0), 4);
    assert_int_equal(pl_write(w->far, &call, f, out, n, 0), n);
    assert_int_equal(pl_read(w->far, &call, f, in, n, 4), n);
    assert_memory_equal(in, out, n);
    pl_close(w->far, &call, f);
    free(out);
    free(in);
}

static void one_node_an_object(void **state)
{
    struct world *w = *state;
    struct pl_node *node, *again, *dir;
    struct pl_attr attr;
    pl_close(w->far, &call, create(w->far, w->top, "a", O_RDWR, &node));
    assert_int_equal(pl_link(w->far, &call, node, w->top, "b", &attr), 0);
    assert_int_equal(attr.nlink, 2);
    again = look(w->far, w->top, "b");
    assert_ptr_equal(node, again);
    pl_node_unref(again);
    /* the first name may go, the node stays good */
    assert_int_equal(pl_remove(w->far, &call, w->top, "a", 0), 0);
    assert_int_equal(pl_getattr(w->far, &call, node, NULL, &attr), 0);
    assert_int_equal(attr.nlink, 1);
    struct pl_make make = {.mode = S_IFDIR | 0755};
    assert_int_equal(pl_make(w->far, &call, w->top, "d", &make, &dir, &attr), 0);
    again = look(w->far, dir, "..");
    assert_ptr_equal(again, w->top);
    pl_node_unref(again);
    pl_node_unref(dir);
    pl_node_unref(node);
}

/* A file that took another's place is another node, though the inode's number be the same. */
static void replaced_files(void **state)
{
    struct world *w = *state;
    struct pl_node *old, *new;
    struct pl_attr attr;
    struct pl_file *f = create(w->far, w->top, "doc", O_RDWR, &old);
    assert_int_equal(pl_write(w->far, &call, f, "old", 3, 0), 3);
    pl_close(w->far, &call, create(w->far, w->top, "doc~", O_RDWR, NULL));
    assert_int_equal(pl_rename(w->far, &call, w->top, "doc~", w->top, "doc", 0), 0);
    new = look(w->far, w->top, "doc");
    assert_ptr_not_equal(new, old);
    char buf[8];
    assert_int_equal(pl_read(w->far, &call, f, buf, 8, 0), 3); /* unlinked, but open */
    assert_int_equal(pl_getattr(w->far, &call, old, f, &attr), 0);
    assert_int_equal(attr.nlink, 0);
    pl_close(w->far, &call, f);
    pl_node_unref(old);
    pl_node_unref(new);
}

struct listing {
    int n, stop_after;
    uint64_t next;
    bool seen[2000];
};

static int list(void *arg, const struct pl_dirent *ent)
{
    struct listing *l = arg;
    if (l->n == l->stop_after)
        return 1;
    l->n++;
    l->next = ent->next;
    int i;
    if (sscanf(ent->name, "f%d", &i) == 1) {
        assert_false(l->seen[i]);
        l->seen[i] = true;
    }
    return 0;
}

static void long_directories(void **state)
{
    struct world *w = *state;
    struct pl_file *dir;
    char name[200];
    for (int i = 0; i < 1500; i++) {
        snprintf(name, sizeof(name), "f%d-%0150d", i, i);
        pl_close(&w->tree->tree, &call, create(&w->tree->tree, w->root, name, O_RDWR, NULL));
    }
    assert_int_equal(pl_open(w->far, &call, w->top, O_RDONLY | O_DIRECTORY, &dir), 0);
    for (int batch = 1; batch < 4000; batch = batch * 7 + 1) {
        struct listing *l = calloc(1, sizeof(*l));
        for (;;) {
            int before = l->n;
            l->stop_after = before + batch;
            assert_int_equal(pl_readdir(w->far, &call, dir, l->next, list, l), 0);
            if (l->n == before)
                break;
        }
        assert_int_equal(l->n, 1502);
        free(l);
    }
    pl_close(w->far, &call, dir);
}

static void attributes_of_attributes(void **state)
{
    struct world *w = *state;
    struct pl_node *node;
    char buf[65536];
    void *big = pattern(65536, 3);
    pl_close(w->far, &call, create(w->far, w->top, "x", O_RDWR, &node));
    assert_int_equal(pl_getxattr(w->far, &call, node, "user.a", NULL, 0), -ENODATA);
    assert_int_equal(pl_setxattr(w->far, &call, node, "user.a", "val", 3, XATTR_REPLACE), -ENODATA);
    assert_int_equal(pl_setxattr(w->far, &call, node, "user.a", "val", 3, XATTR_CREATE), 0);
    assert_int_equal(pl_setxattr(w->far, &call, node, "user.a", "val", 3, XATTR_CREATE), -EEXIST);
    assert_int_equal(pl_getxattr(w->far, &call, node, "user.a", NULL, 0), 3);
    assert_int_equal(pl_getxattr(w->far, &call, node, "user.a", buf, 2), -ERANGE);
    assert_int_equal(pl_getxattr(w->far, &call, node, "user.a", buf, 100), 3);
    assert_memory_equal(buf, "val", 3);
    /* empty, with the flag that means removal on the wire */
    assert_int_equal(pl_setxattr(w->far, &call, node, "user.a", "", 0, XATTR_REPLACE), 0);
    assert_int_equal(pl_getxattr(w->far, &call, node, "user.a", buf, 100), 0);
    assert_int_equal(pl_setxattr(w->far, &call, node, "user.b", "", 0, XATTR_REPLACE), -ENODATA);
    assert_int_equal(pl_setxattr(w->far, &call, node, "user.big", big, 65536, 0), 0);
    assert_int_equal(pl_getxattr(w->far, &call, node, "user.big", buf, 65536), 65536);
    assert_memory_equal(buf, big, 65536);
    assert_int_equal(pl_listxattr(w->far, &call, node, NULL, 0), 16);
    assert_int_equal(pl_listxattr(w->far, &call, node, buf, 100), 16);
    assert_int_equal(pl_removexattr(w->far, &call, node, "user.big"), 0);
    assert_int_equal(pl_removexattr(w->far, &call, node, "user.big"), -ENODATA);
    assert_int_equal(pl_listxattr(w->far, &call, node, buf, 100), 7);
    pl_node_unref(node);
    free(big);
}

struct locker {
    struct world *w;
    struct pl_tree *t;
    struct pl_file *f;
    struct pl_call call;
    int result;
};

static void *wait_lock(void *arg)
{
    struct locker *l = arg;
    struct pl_lock lock = {.type = F_WRLCK, .wait = true, .owner = 2, .end = PL_OFF_MAX};
    l->result = pl_lock(l->t, &l->call, l->f, &lock);
    return NULL;
}

static void locking(void **state)
{
    struct world *w = *state;
    struct pl_tree *other = dial(w);
    struct pl_node *top, *node, *near;
    struct pl_attr attr;
    struct pl_file *f, *g;
    f = create(w->far, w->top, "l", O_RDWR, &near);
    assert_int_equal(pl_attach(other, &call, "", &top, &attr), 0);
    node = look(other, top, "l");
    assert_int_equal(pl_open(other, &call, node, O_RDWR, &g), 0);
    struct pl_lock a = {.type = F_WRLCK, .owner = 1, .end = PL_OFF_MAX, .pid = 77};
    struct pl_lock b = {.type = F_WRLCK, .owner = 1, .start = 5, .end = 9};
    assert_int_equal(pl_lock(w->far, &call, f, &a), 0);
    assert_int_equal(pl_lock(w->far, &call, f, &b), 0); /* its own */
    assert_int_equal(pl_lock(other, &call, g, &b), -EAGAIN);
    b.owner = 2;
    assert_int_equal(pl_lock(w->far, &call, f, &b), -EAGAIN);
    assert_int_equal(pl_getlock(w->far, &call, f, &b), 0);
    assert_int_equal(b.type, F_WRLCK);
    if (!w->plain)
        assert_int_equal(b.pid, 77);

    /* one that waits can be cancelled ... */
    struct locker l = {.w = w, .t = other, .f = g};
    pthread_t th;
    pl_call_init(&l.call, geteuid(), getegid());
    pthread_create(&th, NULL, wait_lock, &l);
    pl_call_cancel(&l.call);
    pthread_join(th, NULL);
    assert_int_equal(l.result, -EINTR);
    pl_call_done(&l.call);
    /* ... and gets it when it is free: here because flush drops it */
    pl_call_init(&l.call, geteuid(), getegid());
    pthread_create(&th, NULL, wait_lock, &l);
    assert_int_equal(pl_flush(w->far, &call, f, 1), 0);
    pthread_join(th, NULL);
    assert_int_equal(l.result, 0);
    pl_call_done(&l.call);
    assert_int_equal(pl_lock(w->far, &call, f, &a), -EAGAIN);
    /* the other's open file takes it along; a flock that is free after close is free */
    struct pl_lock fl = {.type = F_WRLCK, .flock = true, .owner = 3, .end = PL_OFF_MAX};
    assert_int_equal(pl_flush(other, &call, g, 2), 0);
    assert_int_equal(pl_lock(other, &call, g, &fl), 0);
    assert_int_equal(pl_close(other, &call, g), 0);
    assert_int_equal(pl_lock(w->far, &call, f, &fl), 0);
    assert_int_equal(pl_lock(w->far, &call, f, &a), w->plain ? -EAGAIN : 0);
    pl_close(w->far, &call, f);
    pl_node_unref(node);
    pl_node_unref(near);
    pl_node_unref(top);
    pl_tree_unref(other);
}

static void cancelling(void **state)
{
    struct world *w = *state;
    struct locker l = {.w = w};
    struct pl_file *f = create(w->far, w->top, "slow", O_RDWR, NULL);
    char buf[4];
    assert_int_equal(pl_write(w->far, &call, f, "slow", 4, 0), 4);
    atomic_store(&w->tree->hold, true);
    pl_call_init(&l.call, geteuid(), getegid());
    pl_call_cancel(&l.call);
    assert_int_equal(pl_read(w->far, &l.call, f, buf, 4, 0), -EINTR);
    pl_call_done(&l.call);
    counting_release(w->tree);
    assert_int_equal(pl_read(w->far, &call, f, buf, 4, 0), 4);
    pl_close(w->far, &call, f);
}

/* As root: each caller is itself on the other side. */
static void each_user_is_itself(void **state)
{
    struct world *w = *state;
    struct pl_node *pub, *sub, *node, *mine;
    struct pl_attr attr;
    struct pl_file *f;
    struct pl_call other;
    if (geteuid() != 0)
        skip();
    pl_call_init(&other, 1234, 777);
    struct pl_make make = {.mode = S_IFDIR | 0777};
    assert_int_equal(pl_make(w->far, &call, w->top, "pub", &make, &pub, &attr), 0);
    make.mode = S_IFDIR | 0777;
    assert_int_equal(pl_make(w->far, &call, pub, "sub", &make, &sub, &attr), 0);
    /* a node that only root has looked up */
    other.umask = 027;
    assert_int_equal(pl_create(w->far, &other, sub, "mine", O_RDWR, 0666, &mine, &attr, &f), 0);
    assert_int_equal(attr.uid, 1234);
    assert_int_equal(attr.gid, 777);
    assert_int_equal(attr.mode & 07777, 0640);
    pl_close(w->far, &other, f);
    make = (struct pl_make){.mode = S_IFDIR | 0700};
    assert_int_equal(pl_make(w->far, &other, sub, "d", &make, &node, &attr), 0);
    assert_int_equal(attr.uid, 1234);
    assert_int_equal(attr.gid, 777);
    pl_node_unref(node);
    make = (struct pl_make){.mode = S_IFLNK | 0777, .target = "x"};
    assert_int_equal(pl_make(w->far, &other, sub, "s", &make, &node, &attr), 0);
    assert_int_equal(attr.uid, 1234);
    pl_node_unref(node);
    make = (struct pl_make){.mode = S_IFIFO | 0600};
    assert_int_equal(pl_make(w->far, &other, sub, "p", &make, &node, &attr), 0);
    assert_int_equal(attr.uid, 1234);
    pl_node_unref(node);
    /* what it may not, it may not */
    struct pl_node *secret;
    struct pl_file *g = create(w->far, w->top, "secret", O_RDWR, &secret);
    struct pl_setattr set = {.valid = PL_SET_MODE, .mode = 0600};
    assert_int_equal(pl_setattr(w->far, &call, secret, NULL, &set, &attr), 0);
    assert_int_equal(pl_open(w->far, &other, secret, O_RDONLY, &f), -EACCES);
    assert_int_equal(pl_setattr(w->far, &other, secret, NULL, &set, &attr), -EPERM);
    assert_int_equal(pl_access(w->far, &other, secret, R_OK), -EACCES);
    /* and what is its own, root may */
    assert_int_equal(pl_open(w->far, &call, mine, O_RDWR, &f), 0);
    pl_close(w->far, &call, f);
    /* a name that others changed meanwhile: told, and found again by looking */
    assert_int_equal(pl_rename(&w->tree->tree, &call, w->root, "secret", w->root, "public", 0), 0);
    struct pl_call third;
    pl_call_init(&third, 4321, 4321);
    assert_int_equal(pl_open(w->far, &third, secret, O_RDONLY, &f), -ESTALE);
    assert_int_equal(pl_lookup(w->far, &third, w->top, "public", &node, &attr), 0);
    assert_ptr_equal(node, secret);
    assert_int_equal(pl_open(w->far, &third, secret, O_RDONLY, &f), -EACCES);
    pl_node_unref(node);
    pl_close(w->far, &call, g);
    pl_call_done(&third);
    pl_call_done(&other);
    pl_node_unref(mine);
    pl_node_unref(secret);
    pl_node_unref(sub);
    pl_node_unref(pub);
}

/* Deeper than one Twalk can say. */
static void deep_for_another_user(void **state)
{
    struct world *w = *state;
    struct pl_node *node = pl_node_ref(w->top), *chain[60];
    struct pl_attr attr;
    if (geteuid() != 0) {
        pl_node_unref(node);
        skip();
    }
    for (int i = 0; i < 60; i++) {
        struct pl_make make = {.mode = S_IFDIR | 0755};
        chain[i] = node;
        assert_int_equal(pl_make(w->far, &call, chain[i], "d", &make, &node, &attr), 0);
    }
    struct pl_call other;
    struct pl_file *dir;
    pl_call_init(&other, 1234, 777);
    assert_int_equal(pl_open(w->far, &other, node, O_RDONLY | O_DIRECTORY, &dir), 0);
    pl_close(w->far, &other, dir);
    pl_call_done(&other);
    pl_node_unref(node);
    for (int i = 0; i < 60; i++)
        pl_node_unref(chain[i]);
}

/* The server dies under a client that has all sorts of things open: everything says so, and all of
 * it can be let go. */
static void a_server_that_dies(void **state)
{
    struct world *w = *state;
    struct pl_node *node, *n2;
    struct pl_attr attr;
    char buf[8];
    struct pl_file *f = create(w->far, w->top, "f", O_RDWR, &node), *dir;
    assert_int_equal(pl_open(w->far, &call, w->top, O_RDONLY | O_DIRECTORY, &dir), 0);
    p9_conn_abort(w->conn[0]);
    assert_int_equal(pl_read(w->far, &call, f, buf, 8, 0), -ECONNABORTED);
    assert_int_equal(pl_write(w->far, &call, f, buf, 8, 0), -ECONNABORTED);
    assert_int_equal(pl_getattr(w->far, &call, node, NULL, &attr), -ECONNABORTED);
    assert_int_equal(pl_lookup(w->far, &call, w->top, "f", &n2, &attr), -ECONNABORTED);
    assert_int_equal(pl_open(w->far, &call, node, O_RDONLY, &f), -ECONNABORTED);
    assert_int_equal(pl_fsync(w->far, &call, dir, false), -ECONNABORTED);
    pl_close(w->far, &call, dir);
    pl_close(w->far, &call, f);
    pl_node_unref(node);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        OWN_AND_PLAIN(large_reads_and_writes),
        OWN_AND_PLAIN(appending),
        OWN_AND_PLAIN(one_node_an_object),
        OWN_AND_PLAIN(replaced_files),
        OWN_AND_PLAIN(long_directories),
        OWN_AND_PLAIN(attributes_of_attributes),
        OWN_AND_PLAIN(locking),
        OWN_AND_PLAIN(cancelling),
        OWN_AND_PLAIN(each_user_is_itself),
        OWN_AND_PLAIN(deep_for_another_user),
        OWN_AND_PLAIN(a_server_that_dies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
