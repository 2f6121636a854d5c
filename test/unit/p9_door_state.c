/* SPDX-License-Identifier: MIT */
/* The 9P door: what is kept for a client (attributes on their way, locks), what it may ask beyond
 * the standard, and what is left when it dies. */
#include "doors/p9_door.h"
#include "p9_door_fixture.h"

/* ---- extended attributes ---- */

static int set_xattr(struct raw *c, uint32_t from, const char *name, const void *v, uint32_t n,
                     uint64_t size, uint32_t flags)
{
    assert_int_equal(raw_walk(c, from, 50, ""), 0);
    int r = RPC(c, .type = P9_Txattrcreate, .fid = 50, .name = p9_str(name), .size = size,
                .flags = flags);
    if (r == 0 && n) {
        r = RPC(c, .type = P9_Twrite, .fid = 50, .count = n, .data = (void *)v);
        if (r == 0)
            assert_int_equal(c->r.count, n);
    }
    int r2 = RPC(c, .type = P9_Tclunk, .fid = 50);
    assert_int_equal(RPC(c, .type = P9_Tclunk, .fid = 50), -EBADF); /* whatever the answer */
    return r < 0 ? r : r2;
}

static void xattrs(void **state)
{
    WORLD;
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(
        RPC(&c, .type = P9_Txattrwalk, .fid = 1, .newfid = 2, .name = p9_str("user.a")), -ENODATA);
    assert_int_equal(set_xattr(&c, 1, "user.a", "value", 5, 5, 0), 0);
    assert_int_equal(set_xattr(&c, 1, "user.a", "value", 5, 5, XATTR_CREATE), -EEXIST);
    assert_int_equal(set_xattr(&c, 1, "user.b", "value", 4, 5, 0), -EINVAL); /* too little */
    assert_int_equal(set_xattr(&c, 1, "user.b", "value", 5, 4, 0), -ENOSPC); /* too much */
    assert_int_equal(set_xattr(&c, 1, "user.b", NULL, 0, 65537, 0), -E2BIG);
    assert_int_equal(set_xattr(&c, 1, "user.b", NULL, 0, 1, 0x80), -EINVAL);
    assert_int_equal(set_xattr(&c, 1, "", NULL, 0, 0, 0), -ERANGE);
    assert_int_equal(
        RPC(&c, .type = P9_Txattrwalk, .fid = 1, .newfid = 2, .name = p9_str("user.a")), 0);
    assert_int_equal(c.r.size, 5);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 2, .offset = 2, .count = 100), 0);
    assert_int_equal(c.r.count, 3);
    assert_memory_equal(c.r.data, "lue", 3);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 2, .offset = 99, .count = 100), 0);
    assert_int_equal(c.r.count, 0);
    /* it is a value, not a file */
    assert_int_equal(RPC(&c, .type = P9_Twrite, .fid = 2, .count = 1, .data = (void *)"x"), -EBADF);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 2), -EBADF);
    assert_int_equal(raw_walk(&c, 2, 3, ""), -EBADF);
    assert_int_equal(RPC(&c, .type = P9_Tremove, .fid = 2), -EBADF);
    assert_int_equal(there(w, "file"), 0);
    assert_int_equal(RPC(&c, .type = P9_Txattrwalk, .fid = 1, .newfid = 2), 0); /* the list */
    assert_int_equal(c.r.size, 7);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 2, .count = 100), 0);
    assert_memory_equal(c.r.data, "user.a\0", 7);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 2), 0);
    assert_int_equal(set_xattr(&c, 1, "user.a", NULL, 0, 0, XATTR_REPLACE), 0); /* removed */
    assert_int_equal(set_xattr(&c, 1, "user.a", NULL, 0, 0, XATTR_REPLACE), -ENODATA);
    assert_int_equal(set_xattr(&c, 1, "user.e", NULL, 0, 0, 0), 0); /* empty, and there */
    assert_int_equal(
        RPC(&c, .type = P9_Txattrwalk, .fid = 1, .newfid = 2, .name = p9_str("user.e")), 0);
    assert_int_equal(c.r.size, 0);
    /* in order, and once */
    assert_int_equal(raw_walk(&c, 1, 3, ""), 0);
    assert_int_equal(
        RPC(&c, .type = P9_Txattrcreate, .fid = 3, .name = p9_str("user.c"), .size = 4), 0);
    assert_int_equal(
        RPC(&c, .type = P9_Twrite, .fid = 3, .offset = 2, .count = 2, .data = (void *)"cd"),
        -EINVAL);
    assert_int_equal(RPC(&c, .type = P9_Twrite, .fid = 3, .count = 2, .data = (void *)"ab"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 3, .count = 2), -EBADF);
    assert_int_equal(
        RPC(&c, .type = P9_Twrite, .fid = 3, .offset = 2, .count = 2, .data = (void *)"cd"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 3), 0);
    raw_close(&c);
}

/* What fids hold of values has a limit. */
static void xattr_memory(void **state)
{
    WORLD;
    uint32_t fid = 100;
    int r = 0;
    while (r == 0 && fid < 1000) {
        assert_int_equal(raw_walk(&c, 0, fid, ""), 0);
        r = RPC(&c, .type = P9_Txattrcreate, .fid = fid++, .name = p9_str("user.big"),
                .size = 65536);
    }
    assert_int_equal(r, -ENOMEM);
    assert_int_equal(fid - 101, LIMIT_XATTR_BYTES / 65536);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 100), -EINVAL);
    assert_int_equal(
        RPC(&c, .type = P9_Txattrcreate, .fid = fid - 1, .name = p9_str("user.big"), .size = 65536),
        0);
    raw_close(&c);
}

/* ---- fids ---- */

static uint32_t fids_until_full(struct raw *c, uint32_t from)
{
    int r;
    while ((r = raw_walk(c, 0, from, "")) == 0)
        from++;
    assert_int_equal(r, -EMFILE);
    return from;
}

/* Others have nearly all there are: of what is left one client may have as many as are free still.
 */
static void fids_of_all(void **state)
{
    WORLD;
    struct raw d;
    dial_plain(w, &d);
    unsigned others = LIMIT_FIDS_ALL - 40 - atomic_load(&w->door->nfids);
    atomic_fetch_add(&w->door->nfids, others); /* as if they had */
    uint32_t one = fids_until_full(&c, 1), two = fids_until_full(&d, 1);
    assert_int_equal(one, 21); /* 0 to 20, and as many are free */
    assert_int_equal(two, 11);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 20), 0);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 19), 0);
    assert_int_equal(raw_walk(&c, 0, 20, ""), -EMFILE); /* it still has more than are free */
    assert_int_equal(raw_walk(&d, 0, 11, ""), 0);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 18), 0);
    raw_close(&c);
    p9_conn_wait(w->conn[0], NULL); /* what it had is free */
    assert_int_equal(fids_until_full(&d, 12), 21);
    atomic_fetch_sub(&w->door->nfids, others);
    assert_int_equal(raw_walk(&d, 0, 100, ""), 0);
    raw_close(&d);
}

/* ---- locks ---- */

static int lock(struct raw *c, uint32_t fid, uint8_t type, uint32_t flags, uint32_t pid,
                const char *id)
{
    struct p9_lock l = {.type = type,
                        .flags = flags,
                        .start = 10,
                        .length = 5,
                        .proc_id = pid,
                        .client_id = p9_str(id)};
    if (type == P9_LOCK_UN)
        l.start = l.length = 0;
    int r = RPC(c, .type = P9_Tlock, .fid = fid, .lock = l);
    return r < 0 ? r : c->r.status;
}

static void locks(void **state)
{
    WORLD;
    struct raw d;
    dial_plain(w, &d);
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(lock(&c, 1, P9_LOCK_RD, 0, 1, "c"), -EBADF);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1, .flags = P9_RDWR), 0);
    assert_int_equal(raw_walk(&d, 0, 1, "file"), 0);
    assert_int_equal(RPC(&d, .type = P9_Tlopen, .fid = 1, .flags = P9_RDWR), 0);
    assert_int_equal(lock(&c, 1, P9_LOCK_WR, 0, 1, "host"), P9_LOCK_SUCCESS);
    assert_int_equal(lock(&c, 1, P9_LOCK_WR, 0, 2, "host"), P9_LOCK_BLOCKED); /* another process */
    assert_int_equal(lock(&c, 1, P9_LOCK_WR, 0, 1, "tsoh"), P9_LOCK_BLOCKED); /* another client */
    assert_int_equal(lock(&d, 1, P9_LOCK_WR, 0, 1, "host"), P9_LOCK_BLOCKED); /* another link */
    assert_int_equal(lock(&c, 1, P9_LOCK_RD, 0, 1, "host"), P9_LOCK_SUCCESS);
    assert_int_equal(lock(&d, 1, P9_LOCK_RD, 0, 1, "host"), P9_LOCK_SUCCESS);
    assert_int_equal(lock(&d, 1, P9_LOCK_UN, 0, 1, "host"), P9_LOCK_SUCCESS);
    assert_int_equal(lock(&c, 1, 9, 0, 1, "host"), -EINVAL);
    struct p9_lock q = {.type = P9_LOCK_WR, .proc_id = 7, .client_id = p9_str("who")};
    assert_int_equal(RPC(&d, .type = P9_Tgetlock, .fid = 1, .lock = q), 0);
    assert_int_equal(d.r.lock.type, P9_LOCK_RD);
    assert_int_equal(d.r.lock.start, 10);
    assert_int_equal(d.r.lock.length, 5);
    assert_int_equal(d.r.lock.proc_id, 1);
    assert_string_equal(d.r.lock.client_id.s, "who");
    /* closing drops it, whoever else has the file open */
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 1), 0);
    assert_int_equal(RPC(&d, .type = P9_Tgetlock, .fid = 1, .lock = q), 0);
    assert_int_equal(d.r.lock.type, P9_LOCK_UN);
    raw_close(&c);
    raw_close(&d);
}

/* One that blocks is given the lock when it is free, or told to ask again. */
static void blocking_locks(void **state)
{
    WORLD;
    struct raw d;
    dial_plain(w, &d);
    for (int i = 0; i < 2; i++) {
        struct raw *x = i ? &d : &c;
        assert_int_equal(raw_walk(x, 0, 1, "file"), 0);
        assert_int_equal(RPC(x, .type = P9_Tlopen, .fid = 1, .flags = P9_RDWR), 0);
    }
    struct p9_lock l = {
        .type = P9_LOCK_WR, .flags = P9_LOCK_BLOCK, .proc_id = 1, .client_id = p9_str("x")};
    assert_int_equal(lock(&c, 1, P9_LOCK_WR, 0, 1, "host"), P9_LOCK_SUCCESS);
    assert_int_equal(RPC(&d, .type = P9_Tlock, .fid = 1, .lock = l), 0);
    assert_int_equal(d.r.status, P9_LOCK_BLOCKED);
    raw_send(&d, (struct p9_msg){.type = P9_Tlock, .fid = 1, .lock = l});
    /* the connection goes on meanwhile */
    raw_send(&d, (struct p9_msg){.type = P9_Tgetattr, .fid = 1, .mask = P9_GETATTR_ALL});
    assert_int_equal(raw_recv(&d), 0);
    assert_int_equal(d.r.type, P9_Rgetattr);
    hang_up(w, &d); /* its waiting lock goes with it; then the other way round */
    struct raw e;
    dial_plain(w, &e);
    assert_int_equal(raw_walk(&e, 0, 1, "file"), 0);
    assert_int_equal(RPC(&e, .type = P9_Tlopen, .fid = 1, .flags = P9_RDWR), 0);
    raw_close(&c); /* dies with the lock */
    int status = P9_LOCK_BLOCKED;
    while (status == P9_LOCK_BLOCKED) {
        assert_int_equal(RPC(&e, .type = P9_Tlock, .fid = 1, .lock = l), 0);
        status = e.r.status;
    }
    assert_int_equal(status, P9_LOCK_SUCCESS);
    raw_close(&e);
}

/* ---- our own requests ---- */

static void own_requests(void **state)
{
    struct world *w = *state;
    struct raw c;
    dial_as(w, &c, P9_VERSION_OWN);
    assert_int_equal(RPC(&c, .type = P9_Tlookup, .dfid = 0, .newfid = 1, .name = p9_str("file")),
                     0);
    assert_int_equal(c.r.attr.size, 13);
    assert_int_equal(
        RPC(&c, .type = P9_Tlookup, .dfid = 0, .newfid = P9_NOFID, .name = p9_str("dir")), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlookup, .dfid = 0, .newfid = 1, .name = p9_str("dir")),
                     -EBADF);
    assert_int_equal(RPC(&c, .type = P9_Tlookup, .dfid = 0, .newfid = 2, .name = p9_str("none")),
                     -ENOENT);
    assert_int_equal(RPC(&c, .type = P9_Tlookup, .dfid = 1, .newfid = 2, .name = p9_str("x")),
                     -ENOTDIR);
    assert_int_equal(RPC(&c, .type = P9_Taccess, .fid = 1, .mask = R_OK | W_OK), 0);
    assert_int_equal(RPC(&c, .type = P9_Taccess, .fid = 1, .mask = 8), -EINVAL);
    assert_int_equal(RPC(&c, .type = P9_Tseek, .fid = 1, .whence = SEEK_HOLE), -EBADF);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1, .flags = P9_RDWR), 0);
    assert_int_equal(RPC(&c, .type = P9_Tseek, .fid = 1, .whence = SEEK_HOLE), 0);
    assert_int_equal(c.r.offset, 13);
    assert_int_equal(RPC(&c, .type = P9_Tseek, .fid = 1, .whence = SEEK_SET), -EINVAL);
    assert_int_equal(RPC(&c, .type = P9_Tfallocate, .fid = 1, .offset = 0, .length = 100), 0);
    assert_int_equal(RPC(&c, .type = P9_Ttmpfile, .dfid = 0, .newfid = 3, .flags = P9_RDWR,
                         .mode = 0600, .gid = getegid()),
                     0);
    assert_int_equal(
        RPC(&c, .type = P9_Tcopy, .fid = 1, .offset = 0, .fid2 = 3, .offset2 = 0, .length = 13), 0);
    assert_int_equal(c.r.length, 13);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 3, .count = 100), 0);
    assert_memory_equal(c.r.data, "hello, world\n", 13);
    assert_int_equal(RPC(&c, .type = P9_Tlink, .dfid = 0, .fid = 3, .name = p9_str("tmp")), 0);
    assert_int_equal(RPC(&c, .type = P9_Trename2, .dfid = 0, .name = p9_str("tmp"), .newdfid = 0,
                         .name2 = p9_str("file"), .flags = 1 /* NOREPLACE */),
                     -EEXIST);
    assert_int_equal(RPC(&c, .type = P9_Trename2, .dfid = 0, .name = p9_str("tmp"), .newdfid = 0,
                         .name2 = p9_str("file"), .flags = 2 /* EXCHANGE */),
                     0);
    assert_int_equal(RPC(&c, .type = P9_Tflushfile, .fid = 3, .owner = 5), 0);
    assert_int_equal(RPC(&c, .type = P9_Tsyncfs, .fid = 0), 0);
    assert_int_equal(RPC(&c, .type = P9_Tioctl, .fid = 1, .cmd = 0x1234, .out_size = 8, .count = 0),
                     -ENOTTY);
    assert_int_equal(RPC(&c, .type = P9_Tioctl, .fid = 1, .cmd = 1, .out_size = LIMIT_IOCTL + 1),
                     -EINVAL);
    raw_close(&c);
}

/* A lock of flock does not see one of fcntl; Tflushfile drops the owner's. */
static void own_locks(void **state)
{
    struct world *w = *state;
    struct raw c, d;
    dial_as(w, &c, P9_VERSION_OWN);
    dial_as(w, &d, P9_VERSION_OWN);
    for (int i = 0; i < 2; i++) {
        struct raw *x = i ? &d : &c;
        assert_int_equal(raw_walk(x, 0, 1, "file"), 0);
        assert_int_equal(RPC(x, .type = P9_Tlopen, .fid = 1, .flags = P9_RDWR), 0);
    }
    assert_int_equal(lock(&c, 1, P9_LOCK_WR, 0, 1, "0000000000000abc"), P9_LOCK_SUCCESS);
    assert_int_equal(lock(&c, 1, P9_LOCK_WR, 0, 2, "0000000000000abc"), P9_LOCK_SUCCESS);
    assert_int_equal(lock(&d, 1, P9_LOCK_WR, 0, 1, "0000000000000abc"), P9_LOCK_BLOCKED);
    assert_int_equal(lock(&d, 1, P9_LOCK_WR, P9_LOCK_FLOCK, 1, "0000000000000abc"),
                     P9_LOCK_SUCCESS);
    assert_int_equal(RPC(&c, .type = P9_Tflushfile, .fid = 1, .owner = 0xabc), 0);
    assert_int_equal(lock(&d, 1, P9_LOCK_WR, 0, 1, "0000000000000abc"), P9_LOCK_SUCCESS);
    raw_close(&c);
    raw_close(&d);
}

/* ---- dying ---- */

/* A client that opens all sorts of things, and stops after `steps` of them. */
static void busy_client(struct raw *c, int steps)
{
    int n = 0;
#define STEP(...)                                                                                  \
    do {                                                                                           \
        if (n++ == steps)                                                                          \
            return;                                                                                \
        __VA_ARGS__;                                                                               \
    } while (0)
    STEP(raw_version(c, P9_VERSION_OWN));
    STEP(assert_int_equal(raw_attach(c, 0, ""), 0));
    STEP(assert_int_equal(raw_walk(c, 0, 1, "file"), 0));
    STEP(assert_int_equal(RPC(c, .type = P9_Tlopen, .fid = 1, .flags = P9_RDWR), 0));
    STEP(assert_int_equal(lock(c, 1, P9_LOCK_WR, 0, 1, "1"), P9_LOCK_SUCCESS));
    STEP(assert_int_equal(raw_walk(c, 0, 2, "dir"), 0));
    STEP(assert_int_equal(RPC(c, .type = P9_Tlcreate, .fid = 2, .name = p9_str("x"),
                              .flags = P9_RDWR, .mode = 0644, .gid = getegid()),
                          0));
    STEP(assert_int_equal(raw_walk(c, 1, 3, ""), 0));
    STEP(assert_int_equal(
        RPC(c, .type = P9_Txattrcreate, .fid = 3, .name = p9_str("user.never"), .size = 3), 0));
    STEP(assert_int_equal(RPC(c, .type = P9_Twrite, .fid = 3, .count = 3, .data = (void *)"abc"),
                          0));
    STEP(assert_int_equal(RPC(c, .type = P9_Ttmpfile, .dfid = 0, .newfid = 4, .flags = P9_RDWR,
                              .mode = 0600, .gid = getegid()),
                          0));
    STEP(assert_int_equal(raw_walk(c, 0, 5, ""), 0));
    STEP(assert_int_equal(RPC(c, .type = P9_Tlopen, .fid = 5, .flags = P9_DIRECTORY), 0));
    STEP(raw_send(c, (struct p9_msg){.type = P9_Tread, .fid = 1, .count = 5}));
    STEP(raw_bytes(c, "\x30\x00\x00\x00\x76\x01", 6)); /* half a Twrite */
#undef STEP
}

enum { STEPS = 15 };

static void dying_leaves_nothing(void **state)
{
    struct world *w = *state;
    for (int steps = 0; steps <= STEPS; steps++) {
        struct raw c;
        struct pl_node *node;
        struct pl_attr attr;
        unsigned refs = atomic_load(&w->root->refs);
        dial(w, &c);
        atomic_store(&w->tree->hold, true); /* the read is under way when the client dies */
        busy_client(&c, steps);
        hang_up(w, &c);
        counting_release(w->tree);
        assert_int_equal(atomic_load(&w->tree->files), 0);
        assert_int_equal(atomic_load(&w->root->refs), refs);
        assert_int_equal(pl_lookup(&w->tree->tree, &call, w->root, "file", &node, &attr), 0);
        struct pl_file *file;
        assert_int_equal(pl_open(&w->tree->tree, &call, node, O_RDWR, &file), 0);
        struct pl_lock l = {.type = F_WRLCK, .owner = 99, .end = PL_OFF_MAX};
        assert_int_equal(pl_getlock(&w->tree->tree, &call, file, &l), 0);
        assert_int_equal(l.type, F_UNLCK);
        assert_int_equal(pl_getxattr(&w->tree->tree, &call, node, "user.never", NULL, 0), -ENODATA);
        pl_close(&w->tree->tree, &call, file);
        pl_node_unref(node);
    }
}

/* A new Tversion is a new life on the same connection. */
static void version_resets(void **state)
{
    struct world *w = *state;
    struct raw c;
    dial(w, &c);
    busy_client(&c, 13);
    assert_int_equal(atomic_load(&w->tree->files), 4);
    raw_version(&c, P9_VERSION_L);
    assert_int_equal(atomic_load(&w->tree->files), 0);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 0), -EBADF);
    assert_int_equal(raw_attach(&c, 0, ""), 0);
    raw_close(&c);
}

/* Many clients hammer one server; what one does the others see. */
struct hammer {
    struct world *w;
    struct raw c;
    int id;
};

static void *hammer(void *arg)
{
    struct hammer *h = arg;
    char name[32];
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "h%d-%d", h->id, i % 10);
        assert_int_equal(raw_walk(&h->c, 0, 1, "dir"), 0);
        assert_int_equal(RPC(&h->c, .type = P9_Tlcreate, .fid = 1, .name = p9_str(name),
                             .flags = P9_RDWR | P9_TRUNC, .mode = 0644, .gid = getegid()),
                         0);
        assert_int_equal(
            RPC(&h->c, .type = P9_Twrite, .fid = 1, .count = (uint32_t)strlen(name), .data = name),
            0);
        assert_int_equal(RPC(&h->c, .type = P9_Tread, .fid = 1, .count = 100), 0);
        assert_memory_equal(h->c.r.data, name, strlen(name));
        assert_int_equal(RPC(&h->c, .type = P9_Tclunk, .fid = 1), 0);
        if (i % 3 == 0) {
            assert_int_equal(raw_walk(&h->c, 0, 1, "dir"), 0);
            assert_int_equal(RPC(&h->c, .type = P9_Tunlinkat, .dfid = 1, .name = p9_str(name)), 0);
            assert_int_equal(RPC(&h->c, .type = P9_Tclunk, .fid = 1), 0);
        }
    }
    return NULL;
}

static void many_clients(void **state)
{
    struct world *w = *state;
    struct hammer h[6];
    pthread_t th[6];
    for (int i = 0; i < 6; i++) {
        h[i] = (struct hammer){.w = w, .id = i};
        dial_plain(w, &h[i].c);
    }
    for (int i = 0; i < 6; i++)
        assert_int_equal(pthread_create(&th[i], NULL, hammer, &h[i]), 0);
    for (int i = 0; i < 6; i++)
        pthread_join(th[i], NULL);
    assert_int_equal(raw_walk(&h[0].c, 0, 1, "dir/h5-1"), 0);
    assert_int_equal(h[0].c.r.nwqid, 2);
    for (int i = 0; i < 6; i++)
        raw_close(&h[i].c);
}

/* ---- users ---- */

static void other_users(void **state)
{
    WORLD;
    if (geteuid() != 0) {
        raw_close(&c);
        skip();
    }
    struct p9_msg at = {.type = P9_Tattach, .fid = 1, .afid = P9_NOFID, .n_uname = 1234};
    assert_int_equal(raw_rpc(&c, at), 0);
    assert_int_equal(RPC(&c, .type = P9_Tmkdir, .dfid = 1, .name = p9_str("theirs"), .mode = 0755),
                     -EACCES);
    struct p9_setattr set = {.valid = P9_SETATTR_MODE, .mode = 0777};
    assert_int_equal(RPC(&c, .type = P9_Tsetattr, .fid = 0, .set = set), 0);
    assert_int_equal(
        RPC(&c, .type = P9_Tmkdir, .dfid = 1, .name = p9_str("theirs"), .mode = 0755, .gid = 777),
        0);
    assert_int_equal(raw_walk(&c, 0, 2, "theirs"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 2, .mask = P9_GETATTR_ALL), 0);
    assert_int_equal(c.r.attr.uid, 1234);
    assert_int_equal(c.r.attr.gid, 777);
    /* by name, and by a name that nobody has */
    at = (struct p9_msg){.type = P9_Tattach,
                         .fid = 3,
                         .afid = P9_NOFID,
                         .uname = p9_str("no such user"),
                         .n_uname = P9_NONUNAME};
    assert_int_equal(raw_rpc(&c, at), 0);
    assert_int_equal(RPC(&c, .type = P9_Tmkdir, .dfid = 3, .name = p9_str("nobody's"), .mode = 0755,
                         .gid = UINT32_MAX),
                     0);
    assert_int_equal(raw_walk(&c, 0, 4, "nobody's"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 4, .mask = P9_GETATTR_ALL), 0);
    assert_int_equal(c.r.attr.uid, 65534);
    raw_close(&c);

    /* whom a channel has proved to be somebody may be nobody else, nor take any group */
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct chan chan = {
        .in = fds[0], .out = fds[0], .role = CHAN_ACCEPTED, .uid = 1234, .peer = "client"};
    assert_int_equal(p9_door_conn(w->door, &chan, false, NULL, NULL, &w->conn[w->nconns++], NULL),
                     0);
    raw_init(&c, fds[1]);
    raw_version(&c, P9_VERSION_L);
    at = (struct p9_msg){.type = P9_Tattach, .fid = 0, .afid = P9_NOFID, .n_uname = 0};
    assert_int_equal(raw_rpc(&c, at), -EPERM);
    at.n_uname = P9_NONUNAME;
    assert_int_equal(raw_rpc(&c, at), 0);
    assert_int_equal(
        RPC(&c, .type = P9_Tmkdir, .dfid = 0, .name = p9_str("own"), .mode = 02755, .gid = 0), 0);
    assert_int_equal(raw_walk(&c, 0, 1, "own"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 1, .mask = P9_GETATTR_ALL), 0);
    assert_int_equal(c.r.attr.uid, 1234);
    assert_int_not_equal(c.r.attr.gid, 0);
    raw_close(&c);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(xattrs),         TEST(xattr_memory), TEST(fids_of_all), TEST(locks),
        TEST(blocking_locks), TEST(own_requests), TEST(own_locks),   TEST(dying_leaves_nothing),
        TEST(version_resets), TEST(many_clients), TEST(other_users),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
