/* SPDX-License-Identifier: MIT */
/* The 9P door, by a client that says exactly what the test says. */
#include "../raw9p.h"
#include <dirent.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/xattr.h>

/* One server over a counting tree over a tree in memory; clients come and go. */
struct world {
    struct p9_crew *crew;
    struct p9_door *door;
    struct counting *tree;
    struct pl_node *root;
    struct p9_conn *conn[64];
    unsigned nconns;
    struct stats stats;
};

static struct pl_call call; /* our own, for looking at the tree without the wire */

static void dial(struct world *w, struct raw *c)
{
    int fds[2];
    struct pl_err err = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct chan chan = {fds[0], fds[0], CHAN_ACCEPTED, 0, geteuid(), "client"};
    assert_true(w->nconns < 64);
    assert_int_equal(p9_door_conn(w->door, &chan, false, NULL, NULL, &w->conn[w->nconns++], &err),
                     0);
    raw_init(c, fds[1]);
}

static void dial_as(struct world *w, struct raw *c, const char *version)
{
    dial(w, c);
    raw_version(c, version);
    assert_int_equal(raw_attach(c, 0, ""), 0);
}

static void dial_plain(struct world *w, struct raw *c)
{
    dial_as(w, c, P9_VERSION_L);
}

/* The last client is gone: waits until its session is. */
static void hang_up(struct world *w, struct raw *c)
{
    struct pl_err err;
    raw_close(c);
    p9_conn_wait(w->conn[w->nconns - 1], &err);
}

static void put_file(struct world *w, const char *name, const char *text)
{
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *file;
    assert_int_equal(pl_create(&w->tree->tree, &call, w->root, name, O_WRONLY | O_TRUNC, 0644,
                               &node, &attr, &file),
                     0);
    assert_int_equal(pl_write(&w->tree->tree, &call, file, text, strlen(text), 0), strlen(text));
    pl_close(&w->tree->tree, &call, file);
    pl_node_unref(node);
}

static void put_dir(struct world *w, const char *name)
{
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_make make = {.mode = S_IFDIR | 0755};
    assert_int_equal(pl_make(&w->tree->tree, &call, w->root, name, &make, &node, &attr), 0);
    pl_node_unref(node);
}

static int there(struct world *w, const char *name)
{
    struct pl_node *node;
    struct pl_attr attr;
    int r = pl_lookup(&w->tree->tree, &call, w->root, name, &node, &attr);
    if (r == 0)
        pl_node_unref(node);
    return r;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct pl_tree *mem;
    struct pl_attr attr;
    assert_int_equal(pl_mem_new(64 << 20, &mem, NULL), 0);
    w->tree = counting_new(mem);
    pl_call_init_self(&call);
    assert_int_equal(pl_attach(&w->tree->tree, &call, "", &w->root, &attr), 0);
    put_dir(w, "dir");
    put_file(w, "file", "hello, world\n");
    w->crew = p9_crew_new(4);
    assert_non_null(w->crew);
    struct p9_export exports[] = {{"", &w->tree->tree}, {"named", &w->tree->tree}};
    assert_int_equal(p9_door_new(exports, 2, w->crew, &w->stats, &w->door), 0);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    for (unsigned i = 0; i < w->nconns; i++)
        p9_conn_free(w->conn[i]);
    p9_door_free(w->door);
    p9_crew_free(w->crew);
    assert_int_equal(atomic_load(&w->tree->files), 0);
    assert_int_equal(atomic_load(&w->stats.waiting), 0);
    pl_node_unref(w->root);
    assert_int_equal(atomic_load(&w->tree->tree.refs), 1);
    pl_tree_unref(&w->tree->tree);
    pl_call_done(&call);
    free(w);
    return 0;
}

#define WORLD                                                                                      \
    struct world *w = *state;                                                                      \
    struct raw c;                                                                                  \
    dial_plain(w, &c)

/* ---- starting ---- */

static void attaching(void **state)
{
    struct world *w = *state;
    struct raw c;
    dial(w, &c);
    raw_version(&c, P9_VERSION_L);
    assert_int_equal(RPC(&c, .type = P9_Tauth, .afid = 9, .n_uname = 0), -ENOENT);
    assert_int_equal(raw_attach(&c, 0, "no/such"), -ENOENT);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 0, .mask = P9_GETATTR_ALL), -EBADF);
    assert_int_equal(raw_attach(&c, 0, "named"), 0);
    assert_int_equal(c.r.qid.type, P9_QTDIR);
    uint64_t root = c.r.qid.path;
    assert_int_equal(raw_attach(&c, 0, ""), -EBADF); /* in use */
    assert_int_equal(raw_attach(&c, 1, ""), 0);
    assert_int_equal(c.r.qid.path, root);
    assert_int_equal(raw_attach(&c, 2, "/dir"), 0);
    assert_int_not_equal(c.r.qid.path, root);
    assert_int_equal(raw_attach(&c, 3, "../x"), -EINVAL);
    assert_int_equal(raw_attach(&c, P9_NOFID, ""), -EBADF);
    /* ".." of an attach beneath stays there */
    uint64_t dir = 0;
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 2, .mask = P9_GETATTR_ALL), 0);
    dir = c.r.attr.qid.path;
    assert_int_equal(raw_walk(&c, 2, 4, "../.."), 0);
    assert_int_equal(c.r.nwqid, 2);
    assert_int_equal(c.r.wqid[1].path, dir);
    raw_close(&c);
}

static void a_directory_moved_out_leads_nowhere(void **state)
{
    struct world *w = *state;
    struct raw c;
    dial(w, &c);
    raw_version(&c, P9_VERSION_L);
    assert_int_equal(raw_attach(&c, 0, ""), 0);
    assert_int_equal(RPC(&c, .type = P9_Tmkdir, .dfid = 0, .name = p9_str("jail"), .mode = 0755,
                         .gid = getegid()),
                     0);
    assert_int_equal(raw_attach(&c, 1, "jail"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tmkdir, .dfid = 1, .name = p9_str("sub"), .mode = 0755,
                         .gid = getegid()),
                     0);
    assert_int_equal(raw_walk(&c, 1, 2, "sub"), 0);
    assert_int_equal(raw_walk(&c, 2, 3, ".."), 0);
    assert_int_equal(RPC(&c, .type = P9_Trenameat, .dfid = 1, .name = p9_str("sub"), .newdfid = 0,
                         .name2 = p9_str("free")),
                     0);
    assert_int_equal(raw_walk(&c, 2, 4, ".."), -EACCES);
    raw_close(&c);
}

static void unknown_requests(void **state)
{
    WORLD;
    static const uint8_t odd[] = {98, 112, 124, 126, 222, 228, 0x7e};
    for (size_t i = 0; i < sizeof(odd); i++) {
        uint8_t m[11] = {11, 0, 0, 0, odd[i], 7, 0};
        raw_bytes(&c, m, sizeof(m));
        assert_int_equal(raw_recv(&c), -EOPNOTSUPP);
        assert_int_equal(c.r.tag, 7);
    }
    /* our own are nobody's business who did not agree on them */
    assert_int_equal(RPC(&c, .type = P9_Tlookup, .dfid = 0, .newfid = 1, .name = p9_str("file")),
                     -EOPNOTSUPP);
    raw_close(&c);
}

/* ---- walking ---- */

static void walking(void **state)
{
    WORLD;
    assert_int_equal(raw_walk(&c, 0, 1, "none/at/all"), -ENOENT);
    assert_int_equal(raw_walk(&c, 0, 1, "dir/none/x"), 0); /* partly */
    assert_int_equal(c.r.nwqid, 1);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 1), -EBADF); /* and no fid */
    assert_int_equal(raw_walk(&c, 0, 1, "file/x"), 0);
    assert_int_equal(c.r.nwqid, 1);
    assert_int_equal(raw_walk(&c, 0, 1, "dir"), 0);
    assert_int_equal(c.r.wqid[0].type, P9_QTDIR);
    uint64_t dir = c.r.wqid[0].path;
    assert_int_equal(raw_walk(&c, 0, 1, "file"), -EBADF); /* in use */
    assert_int_equal(raw_walk(&c, 1, 2, ""), 0);          /* a clone */
    assert_int_equal(c.r.nwqid, 0);
    assert_int_equal(raw_walk(&c, 2, 2, "../file"), 0); /* in place */
    assert_int_equal(c.r.nwqid, 2);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 2, .mask = P9_GETATTR_ALL), 0);
    assert_true(S_ISREG(c.r.attr.mode));
    assert_int_equal(raw_walk(&c, 2, 2, "x"), -ENOTDIR);
    assert_int_equal(raw_walk(&c, 1, 1, "none"), -ENOENT); /* and stays where it was */
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 1, .mask = P9_GETATTR_ALL), 0);
    assert_int_equal(c.r.attr.qid.path, dir);
    assert_int_equal(raw_walk(&c, 0, 3, "../../dir"), 0); /* not above the root */
    assert_int_equal(c.r.wqid[2].path, dir);
    assert_int_equal(raw_walk(&c, 0, 4, "./dir/."), 0); /* as diodls does */
    assert_int_equal(c.r.nwqid, 3);
    assert_int_equal(c.r.wqid[1].path, dir);
    assert_int_equal(c.r.wqid[2].path, dir);
    assert_int_equal(raw_walk(&c, 4, 5, "."), 0);
    assert_int_equal(raw_walk(&c, 0, 6, "file/."), 0); /* not a directory */
    assert_int_equal(c.r.nwqid, 1);
    assert_int_equal(RPC(&c, .type = P9_Tremove, .fid = 5),
                     0); /* what it is called is still known */
    assert_int_equal(there(w, "dir"), -ENOENT);
    assert_int_equal(raw_walk(&c, 0, 0, ""), 0);
    assert_int_equal(raw_walk(&c, 77, 78, ""), -EBADF);
    assert_int_equal(raw_walk(&c, 0, P9_NOFID, ""), -EBADF);
    raw_close(&c);
}

static void bad_names(void **state)
{
    WORLD;
    static const char *bad[] = {"", "a/b", "/", "dir/", "."};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct p9_str s = p9_str(bad[i]);
        int want = *bad[i] ? -EINVAL : -ENOENT;
        struct p9_msg m = {.type = P9_Twalk, .fid = 0, .newfid = 5, .nwname = 1};
        m.wname[0] = s;
        if (strcmp(bad[i], "."))
            assert_int_equal(raw_rpc(&c, m), want);
        assert_int_equal(RPC(&c, .type = P9_Tmkdir, .dfid = 0, .name = s, .mode = 0755), want);
        assert_int_equal(RPC(&c, .type = P9_Tunlinkat, .dfid = 0, .name = s), want);
        assert_int_equal(RPC(&c, .type = P9_Trenameat, .dfid = 0, .name = p9_str("file"),
                             .newdfid = 0, .name2 = s),
                         want);
        assert_int_equal(RPC(&c, .type = P9_Tlcreate, .fid = 0, .name = s, .flags = P9_RDWR), want);
    }
    assert_int_equal(RPC(&c, .type = P9_Tmkdir, .dfid = 0, .name = p9_str("..")), -EINVAL);
    assert_int_equal(there(w, "file"), 0);
    raw_close(&c);
}

static void walk_from_an_open_fid(void **state)
{
    WORLD;
    assert_int_equal(raw_walk(&c, 0, 1, "dir"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1, .flags = P9_DIRECTORY), 0);
    assert_int_equal(raw_walk(&c, 1, 2, ""), 0);
    assert_int_equal(raw_walk(&c, 1, 3, "../file"), 0);
    /* the clone is not open */
    assert_int_equal(RPC(&c, .type = P9_Treaddir, .fid = 2, .count = 4096), -EBADF);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1), -EINVAL); /* twice */
    raw_close(&c);
}

/* All at once, and answered in order. */
static void without_waiting(void **state)
{
    WORLD;
    for (int i = 0; i < 50; i++) {
        struct p9_msg walk = {.type = P9_Twalk, .fid = 0, .newfid = 1, .nwname = 1};
        walk.wname[0] = p9_str("file");
        raw_send(&c, walk);
        raw_send(&c, (struct p9_msg){.type = P9_Tlopen, .fid = 1});
        raw_send(&c, (struct p9_msg){.type = P9_Tread, .fid = 1, .count = 100});
        raw_send(&c, (struct p9_msg){.type = P9_Tclunk, .fid = 1});
        for (int k = 0; k < 4; k++)
            assert_int_equal(raw_recv(&c), 0);
    }
    raw_close(&c);
}

/* ---- files ---- */

static void reading_and_writing(void **state)
{
    WORLD;
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .count = 100), -EBADF); /* not open */
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1, .flags = 3), -EINVAL);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1, .flags = P9_RDWR | P9_LARGEFILE), 0);
    assert_int_equal(c.r.iounit, 0);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .offset = 7, .count = 100), 0);
    assert_int_equal(c.r.count, 6);
    assert_memory_equal(c.r.data, "world\n", 6);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .count = UINT32_MAX),
                     0); /* less is given */
    assert_int_equal(c.r.count, 13);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .offset = 1u << 30, .count = 1), 0);
    assert_int_equal(c.r.count, 0);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .offset = UINT64_MAX, .count = 10),
                     -EINVAL);
    assert_int_equal(
        RPC(&c, .type = P9_Twrite, .fid = 1, .offset = 0, .count = 5, .data = (void *)"HELLO"), 0);
    assert_int_equal(c.r.count, 5);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .count = 5), 0);
    assert_memory_equal(c.r.data, "HELLO", 5);
    assert_int_equal(RPC(&c, .type = P9_Tfsync, .fid = 1), 0);
    assert_int_equal(RPC(&c, .type = P9_Tfsync, .fid = 1, .datasync = 1), 0);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 1), 0);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 1), -EBADF);

    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1, .flags = P9_WRONLY | P9_APPEND), 0);
    assert_int_equal(RPC(&c, .type = P9_Twrite, .fid = 1, .count = 1, .data = (void *)"!"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .count = 1), -EBADF);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 1, .mask = P9_GETATTR_ALL), 0);
    assert_int_equal(c.r.attr.size, 14);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 1), 0);

    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1, .flags = P9_WRONLY | P9_TRUNC), 0);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 1, .mask = P9_GETATTR_ALL), 0);
    assert_int_equal(c.r.attr.size, 0);
    raw_close(&c);
}

static void opening(void **state)
{
    WORLD;
    assert_int_equal(raw_walk(&c, 0, 1, "dir"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1, .flags = P9_RDWR), -EISDIR);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1, .flags = 0), 0);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .count = 10), -EISDIR);
    assert_int_equal(raw_walk(&c, 0, 2, "file"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 2, .flags = P9_DIRECTORY), -ENOTDIR);
    assert_int_equal(RPC(&c, .type = P9_Tsymlink, .dfid = 0, .name = p9_str("sym"),
                         .target = p9_str("/etc/passwd"), .gid = getegid()),
                     0);
    assert_int_equal(c.r.qid.type, P9_QTSYMLINK);
    assert_int_equal(raw_walk(&c, 0, 3, "sym"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 3, .flags = 0), -ELOOP);
    assert_int_equal(RPC(&c, .type = P9_Treadlink, .fid = 3), 0);
    assert_string_equal(c.r.target.s, "/etc/passwd");
    assert_int_equal(RPC(&c, .type = P9_Treadlink, .fid = 2), -EINVAL);
    assert_int_equal(RPC(&c, .type = P9_Tmknod, .dfid = 0, .name = p9_str("fifo"),
                         .mode = S_IFIFO | 0644, .gid = getegid()),
                     0);
    assert_int_equal(raw_walk(&c, 0, 4, "fifo"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 4, .flags = P9_RDWR), -ENXIO);
    raw_close(&c);
}

static void creating(void **state)
{
    WORLD;
    assert_int_equal(raw_walk(&c, 0, 1, "dir"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlcreate, .fid = 1, .name = p9_str("new"),
                         .flags = P9_RDWR | P9_CREATE | P9_EXCL, .mode = S_IFREG | 0640,
                         .gid = getegid()),
                     0);
    assert_int_equal(c.r.qid.type, P9_QTFILE);
    /* the fid is the file now, and open */
    assert_int_equal(RPC(&c, .type = P9_Twrite, .fid = 1, .count = 3, .data = (void *)"abc"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 1, .mask = P9_GETATTR_ALL), 0);
    assert_int_equal(c.r.attr.mode, S_IFREG | 0640);
    assert_int_equal(c.r.attr.size, 3);
    assert_int_equal(raw_walk(&c, 1, 2, ".."), -ENOTDIR);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 1), 0);
    assert_int_equal(raw_walk(&c, 0, 1, "dir"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlcreate, .fid = 1, .name = p9_str("new"),
                         .flags = P9_RDWR | P9_EXCL, .mode = 0644, .gid = getegid()),
                     -EEXIST);
    /* it failed, and the fid is still the directory */
    assert_int_equal(raw_walk(&c, 1, 2, "new"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlcreate, .fid = 1, .name = p9_str("new"), .flags = 0,
                         .mode = 0644, .gid = getegid()),
                     0);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .count = 10), 0);
    assert_int_equal(c.r.count, 3);
    raw_close(&c);
}

static void unlinked_but_open(void **state)
{
    WORLD;
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1, .flags = P9_RDWR), 0);
    assert_int_equal(RPC(&c, .type = P9_Tunlinkat, .dfid = 0, .name = p9_str("file")), 0);
    assert_int_equal(there(w, "file"), -ENOENT);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .count = 5), 0);
    assert_memory_equal(c.r.data, "hello", 5);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 1, .mask = P9_GETATTR_ALL), 0);
    assert_int_equal(c.r.attr.nlink, 0);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 1), 0);
    raw_close(&c);
}

/* A clunk does not wait for a read that does, and does not take the file from under it. */
static void clunk_during_a_read(void **state)
{
    WORLD;
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1), 0);
    atomic_store(&w->tree->hold, true);
    uint16_t tag = raw_send(&c, (struct p9_msg){.type = P9_Tread, .fid = 1, .count = 5});
    counting_wait_read(w->tree);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 1), 0);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 1), -EBADF);
    assert_int_equal(atomic_load(&w->tree->files), 1);
    counting_release(w->tree);
    assert_int_equal(raw_recv(&c), 0);
    assert_int_equal(c.r.tag, tag);
    assert_memory_equal(c.r.data, "hello", 5);
    raw_close(&c);
}

static void flush_cancels(void **state)
{
    WORLD;
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1), 0);
    atomic_store(&w->tree->hold, true);
    uint16_t tag = raw_send(&c, (struct p9_msg){.type = P9_Tread, .fid = 1, .count = 5});
    counting_wait_read(w->tree);
    raw_send(&c, (struct p9_msg){.type = P9_Tflush, .oldtag = tag});
    int r = raw_recv(&c);
    if (c.r.tag == tag) { /* it may be answered, before the Rflush */
        assert_int_equal(r, -EINTR);
        r = raw_recv(&c);
    }
    assert_int_equal(r, 0);
    assert_int_equal(c.r.type, P9_Rflush);
    counting_release(w->tree);
    raw_close(&c);
}

/* ---- names ---- */

static void removing(void **state)
{
    WORLD;
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tremove, .fid = 1), 0);
    assert_int_equal(there(w, "file"), -ENOENT);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 1), -EBADF); /* released */

    put_file(w, "dir2", "x");
    assert_int_equal(
        RPC(&c, .type = P9_Tunlinkat, .dfid = 0, .name = p9_str("dir2"), .flags = P9_AT_REMOVEDIR),
        -ENOTDIR);
    assert_int_equal(RPC(&c, .type = P9_Tunlinkat, .dfid = 0, .name = p9_str("dir2"), .flags = 1),
                     -EINVAL);
    assert_int_equal(RPC(&c, .type = P9_Tunlinkat, .dfid = 0, .name = p9_str("dir")), -EISDIR);

    /* the fid goes even when the file does not */
    assert_int_equal(raw_walk(&c, 0, 1, "dir"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tmkdir, .dfid = 1, .name = p9_str("sub"), .mode = 0755,
                         .gid = getegid()),
                     0);
    assert_int_equal(RPC(&c, .type = P9_Tremove, .fid = 1), -ENOTEMPTY);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 1), -EBADF);
    assert_int_equal(RPC(&c, .type = P9_Tremove, .fid = 0), -EBUSY); /* the root */
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 0), -EBADF);

    /* reached by "..": its name is looked for */
    assert_int_equal(raw_attach(&c, 0, ""), 0);
    assert_int_equal(raw_walk(&c, 0, 1, "dir/sub/.."), 0);
    assert_int_equal(
        RPC(&c, .type = P9_Tunlinkat, .dfid = 1, .name = p9_str("sub"), .flags = P9_AT_REMOVEDIR),
        0);
    assert_int_equal(RPC(&c, .type = P9_Tremove, .fid = 1), 0);
    assert_int_equal(there(w, "dir"), -ENOENT);
    raw_close(&c);
}

/* The name by which a fid was walked may mean another file by now. */
static void removing_what_was_renamed(void **state)
{
    WORLD;
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(pl_rename(&w->tree->tree, &call, w->root, "file", w->root, "moved", 0), 0);
    put_file(w, "file", "another");
    assert_int_equal(RPC(&c, .type = P9_Tremove, .fid = 1), -ESTALE);
    assert_int_equal(there(w, "file"), 0);
    assert_int_equal(there(w, "moved"), 0);
    assert_int_equal(raw_walk(&c, 0, 1, "dir"), 0); /* a directory is found again */
    assert_int_equal(pl_rename(&w->tree->tree, &call, w->root, "dir", w->root, "rid", 0), 0);
    assert_int_equal(RPC(&c, .type = P9_Tremove, .fid = 1), 0);
    assert_int_equal(there(w, "rid"), -ENOENT);
    raw_close(&c);
}

static void renaming(void **state)
{
    WORLD;
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(raw_walk(&c, 0, 2, "dir"), 0);
    assert_int_equal(RPC(&c, .type = P9_Trename, .fid = 1, .dfid = 2, .name = p9_str("a")), 0);
    assert_int_equal(there(w, "file"), -ENOENT);
    assert_int_equal(RPC(&c, .type = P9_Trename, .fid = 1, .dfid = 0, .name = p9_str("b")), 0);
    assert_int_equal(there(w, "b"), 0);
    assert_int_equal(RPC(&c, .type = P9_Trenameat, .dfid = 0, .name = p9_str("b"), .newdfid = 2,
                         .name2 = p9_str("c")),
                     0);
    assert_int_equal(RPC(&c, .type = P9_Trenameat, .dfid = 0, .name = p9_str("b"), .newdfid = 2,
                         .name2 = p9_str("c")),
                     -ENOENT);
    /* the fid is still the file */
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 1, .mask = P9_GETATTR_ALL), 0);
    assert_int_equal(c.r.attr.size, 13);
    assert_int_equal(RPC(&c, .type = P9_Tlink, .dfid = 0, .fid = 1, .name = p9_str("d")), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlink, .dfid = 0, .fid = 1, .name = p9_str("d")), -EEXIST);
    assert_int_equal(RPC(&c, .type = P9_Tlink, .dfid = 0, .fid = 2, .name = p9_str("e")), -EPERM);
    assert_int_equal(RPC(&c, .type = P9_Tlink, .dfid = 1, .fid = 1, .name = p9_str("e")), -ENOTDIR);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 1, .mask = P9_GETATTR_ALL), 0);
    assert_int_equal(c.r.attr.nlink, 2);
    assert_int_equal(RPC(&c, .type = P9_Trename, .fid = 0, .dfid = 2, .name = p9_str("x")), -EBUSY);
    raw_close(&c);
}

static void making(void **state)
{
    WORLD;
    gid_t gid = geteuid() == 0 ? 4321 : getegid();
    assert_int_equal(
        RPC(&c, .type = P9_Tmkdir, .dfid = 0, .name = p9_str("m"), .mode = 02775, .gid = gid), 0);
    assert_int_equal(c.r.qid.type, P9_QTDIR);
    assert_int_equal(raw_walk(&c, 0, 1, "m"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 1, .mask = P9_GETATTR_ALL), 0);
    assert_int_equal(c.r.attr.gid, gid);
    assert_int_equal(c.r.attr.uid, geteuid());
    assert_int_equal(RPC(&c, .type = P9_Tmkdir, .dfid = 0, .name = p9_str("m"), .mode = 0755),
                     -EEXIST);
    assert_int_equal(
        RPC(&c, .type = P9_Tmknod, .dfid = 0, .name = p9_str("k"), .mode = S_IFDIR | 0755), -EPERM);
    assert_int_equal(RPC(&c, .type = P9_Tmknod, .dfid = 0, .name = p9_str("k"), .mode = 0600), 0);
    assert_int_equal(raw_walk(&c, 0, 2, "k"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 2, .mask = P9_GETATTR_ALL), 0);
    assert_int_equal(c.r.attr.mode, S_IFREG | 0600);
    assert_int_equal(
        RPC(&c, .type = P9_Tsymlink, .dfid = 0, .name = p9_str("s"), .target = p9_str("")),
        -ENOENT);
    raw_close(&c);
}

/* ---- attributes ---- */

static void attributes(void **state)
{
    WORLD;
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    uint32_t version = c.r.wqid[0].version;
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 1, .mask = P9_GETATTR_ALL), 0);
    assert_int_equal(c.r.attr.valid & P9_GETATTR_BASIC, P9_GETATTR_BASIC);
    assert_int_equal(c.r.attr.valid & P9_GETATTR_GEN, 0);
    assert_int_equal(c.r.attr.qid.version, version);
    struct p9_setattr set = {.valid = P9_SETATTR_MODE | P9_SETATTR_SIZE | P9_SETATTR_ATIME |
                                      P9_SETATTR_ATIME_SET | P9_SETATTR_MTIME,
                             .mode = S_IFDIR | 0600, /* the type is not ours to change */
                             .size = 3,
                             .atime_sec = 1000,
                             .atime_nsec = 7,
                             .mtime_sec = 5 /* not looked at */};
    assert_int_equal(RPC(&c, .type = P9_Tsetattr, .fid = 1, .set = set), 0);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 1, .mask = P9_GETATTR_ALL), 0);
    assert_int_equal(c.r.attr.mode, S_IFREG | 0600);
    assert_int_equal(c.r.attr.size, 3);
    assert_int_equal(c.r.attr.atime_sec, 1000);
    assert_int_equal(c.r.attr.atime_nsec, 7);
    assert_true(c.r.attr.mtime_sec > 1000000000);
    assert_int_not_equal(c.r.attr.qid.version, version);
    set = (struct p9_setattr){.valid = P9_SETATTR_MTIME | P9_SETATTR_MTIME_SET,
                              .mtime_nsec = (1u << 30) - 1 /* UTIME_NOW */};
    assert_int_equal(RPC(&c, .type = P9_Tsetattr, .fid = 1, .set = set), -EINVAL);
    set = (struct p9_setattr){.valid = 0x400};
    assert_int_equal(RPC(&c, .type = P9_Tsetattr, .fid = 1, .set = set), -EINVAL);
    set = (struct p9_setattr){.valid = P9_SETATTR_SIZE, .size = UINT64_MAX};
    assert_int_equal(RPC(&c, .type = P9_Tsetattr, .fid = 1, .set = set), -EFBIG);
    /* truncating through a fid that is open for reading */
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1), 0);
    set = (struct p9_setattr){.valid = P9_SETATTR_SIZE, .size = 1};
    assert_int_equal(RPC(&c, .type = P9_Tsetattr, .fid = 1, .set = set), 0);
    assert_int_equal(RPC(&c, .type = P9_Tstatfs, .fid = 1), 0);
    assert_int_equal(c.r.statfs.namelen, 255);
    raw_close(&c);
}

/* ---- directories ---- */

static void directories(void **state)
{
    WORLD;
    char name[32];
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof(name), "entry-%03d", i);
        put_file(w, name, "");
    }
    assert_int_equal(RPC(&c, .type = P9_Treaddir, .fid = 0, .count = 4096), -EBADF);
    assert_int_equal(raw_walk(&c, 0, 1, ""), 0);
    assert_int_equal(RPC(&c, .type = P9_Tlopen, .fid = 1, .flags = P9_DIRECTORY), 0);
    assert_int_equal(RPC(&c, .type = P9_Treaddir, .fid = 1, .count = 20), -EINVAL);
    static const uint32_t counts[] = {60, 100, 777, 65536, UINT32_MAX};
    for (size_t k = 0; k < sizeof(counts) / sizeof(*counts); k++) {
        uint64_t off = 0;
        int seen = 0, dots = 0;
        for (;;) {
            assert_int_equal(
                RPC(&c, .type = P9_Treaddir, .fid = 1, .offset = off, .count = counts[k]), 0);
            uint8_t *at = c.r.data;
            size_t left = c.r.count;
            assert_true(left <= counts[k]);
            if (!left)
                break;
            while (left) {
                struct p9_dirent e;
                int n = p9_dirent_get(at, left, &e);
                assert_true(n > 0);
                at += n;
                left -= (size_t)n;
                off = e.offset;
                seen++;
                assert_true(e.qid.path != 0);
                if (*e.name.s == '.') {
                    dots++;
                    assert_int_equal(e.type, DT_DIR);
                    assert_int_equal(e.qid.type, P9_QTDIR);
                }
            }
        }
        assert_int_equal(dots, 2);
        assert_int_equal(seen, 304);
    }
    raw_close(&c);
}

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
    struct chan chan = {fds[0], fds[0], CHAN_ACCEPTED, 0, 1234, "client"};
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
        TEST(attaching),
        TEST(a_directory_moved_out_leads_nowhere),
        TEST(unknown_requests),
        TEST(walking),
        TEST(bad_names),
        TEST(walk_from_an_open_fid),
        TEST(without_waiting),
        TEST(reading_and_writing),
        TEST(opening),
        TEST(creating),
        TEST(unlinked_but_open),
        TEST(clunk_during_a_read),
        TEST(flush_cancels),
        TEST(removing),
        TEST(removing_what_was_renamed),
        TEST(renaming),
        TEST(making),
        TEST(attributes),
        TEST(directories),
        TEST(xattrs),
        TEST(xattr_memory),
        TEST(locks),
        TEST(blocking_locks),
        TEST(own_requests),
        TEST(own_locks),
        TEST(dying_leaves_nothing),
        TEST(version_resets),
        TEST(many_clients),
        TEST(other_users),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
