/* SPDX-License-Identifier: MIT */
/* The 9P door, by a client that says exactly what the test says: names, files, attributes. */
#include "p9_door_fixture.h"

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

/* Fids and tags are used again as soon as the client may, or before it has heard that it may. */
static void reused_at_once(void **state)
{
    WORLD;
    struct p9_msg walk = {.type = P9_Twalk, .fid = 0, .newfid = 1, .nwname = 1};
    walk.wname[0] = p9_str("file");
    for (int i = 0; i < 100; i++) {
        raw_send(&c, walk);
        raw_send(&c, (struct p9_msg){.type = P9_Tclunk, .fid = 1});
    }
    for (int i = 0; i < 200; i++)
        assert_int_equal(raw_recv(&c), 0);
    for (int i = 0; i < 100; i++) {
        c.tag = 7;
        assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 0, .mask = P9_GETATTR_ALL), 0);
    }
    raw_close(&c);
}

static void walks_of_sixteen(void **state)
{
    WORLD;
    struct p9_msg walk = {.type = P9_Twalk, .fid = 0, .newfid = 1, .nwname = 16};
    for (int i = 0; i < 16; i++)
        walk.wname[i] = p9_str(i % 2 ? ".." : "dir");
    assert_int_equal(raw_rpc(&c, walk), 0);
    assert_int_equal(c.r.nwqid, 16);
    walk.newfid = 2;
    walk.wname[15] = p9_str("none"); /* all but the last */
    assert_int_equal(raw_rpc(&c, walk), 0);
    assert_int_equal(c.r.nwqid, 15);
    assert_int_equal(RPC(&c, .type = P9_Tclunk, .fid = 2), -EBADF);
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
        TEST(reused_at_once),
        TEST(walks_of_sixteen),
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
