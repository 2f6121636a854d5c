/* SPDX-License-Identifier: MIT */
/* The 9P door in 9P2000 and 9P2000.u, by a client that says exactly what the test says. */
#include "p9_door_fixture.h"
#include <grp.h>
#include <pwd.h>

static void dial_old(struct world *w, struct raw *c, const char *version)
{
    dial(w, c);
    raw_version(c, version);
    assert_int_equal(RPC(c, .type = P9_Tattach, .fid = 0, .afid = P9_NOFID, .uname = p9_str("root"),
                         .n_uname = P9_NONUNAME),
                     0);
    assert_int_equal(c->r.qid.type, P9_QTDIR);
}

/* Tests that are the same in both: cmocka's initial state is of no use, as the fixture has it. */
#define BOTH(name)                                                                                 \
    static void name##_in(struct world *w, const char *version);                                   \
    static void name(void **state)                                                                 \
    {                                                                                              \
        name##_in(*state, P9_VERSION);                                                             \
    }                                                                                              \
    static void name##_u(void **state)                                                             \
    {                                                                                              \
        name##_in(*state, P9_VERSION_U);                                                           \
    }                                                                                              \
    static void name##_in(struct world *w, const char *version)

static int stat_of(struct raw *c, uint32_t fid)
{
    return RPC(c, .type = P9_Tstat, .fid = fid);
}

static int wstat(struct raw *c, uint32_t fid, struct p9_stat st)
{
    return RPC(c, .type = P9_Twstat, .fid = fid, .stat = st);
}

static int create(struct raw *c, uint32_t dir, uint32_t newfid, const char *name, uint32_t perm,
                  uint8_t omode, const char *extension)
{
    assert_int_equal(raw_walk(c, dir, newfid, ""), 0);
    return RPC(c, .type = P9_Tcreate, .fid = newfid, .name = p9_str(name), .mode = perm,
               .omode = omode, .extension = p9_str(extension));
}

static void clunk(struct raw *c, uint32_t fid)
{
    assert_int_equal(RPC(c, .type = P9_Tclunk, .fid = fid), 0);
}

static void make_symlink(struct world *w, const char *name, const char *target)
{
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_make make = {.mode = S_IFLNK | 0777, .target = target};
    assert_int_equal(pl_make(&w->tree->tree, &call, w->root, name, &make, &node, &attr), 0);
    pl_node_unref(node);
}

/* ---- attaching, and what a dialect has not ---- */

BOTH(attaching)
{
    struct raw c;
    dial_old(w, &c, version);
    assert_true(
        RPC(&c, .type = P9_Tauth, .afid = 9, .uname = p9_str("root"), .n_uname = P9_NONUNAME) < 0);
    assert_string_equal(c.r.ename.s, "authentication not required");
    assert_int_equal(RPC(&c, .type = P9_Tattach, .fid = 1, .afid = P9_NOFID,
                         .uname = p9_str("root"), .aname = p9_str("none"), .n_uname = P9_NONUNAME),
                     -ENOENT);
    assert_string_equal(c.r.ename.s, "file does not exist");
    assert_int_equal(stat_of(&c, 7), -EBADF);
    raw_close(&c);
}

/* ---- stat ---- */

BOTH(stats)
{
    struct raw c;
    struct passwd *pw = getpwuid(geteuid());
    struct group *gr = getgrgid(getegid());
    dial_old(w, &c, version);
    assert_int_equal(stat_of(&c, 0), 0);
    assert_string_equal(c.r.stat.name.s, "/");
    assert_int_equal(c.r.stat.mode & ~0777u, P9_DMDIR);
    assert_int_equal(c.r.stat.qid.type, P9_QTDIR);
    assert_int_equal(c.r.stat.length, 0);
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(c.r.wqid[0].type, P9_QTFILE);
    uint64_t path = c.r.wqid[0].path;
    assert_int_equal(stat_of(&c, 1), 0);
    assert_string_equal(c.r.stat.name.s, "file");
    assert_int_equal(c.r.stat.mode, 0644);
    assert_int_equal(c.r.stat.length, 13);
    assert_int_equal(c.r.stat.qid.path, path);
    if (pw)
        assert_string_equal(c.r.stat.uid.s, pw->pw_name);
    if (gr)
        assert_string_equal(c.r.stat.gid.s, gr->gr_name);
    assert_int_equal(c.r.stat.muid.len, 0);
    if (c.dialect == P9_U) {
        assert_int_equal(c.r.stat.n_uid, geteuid());
        assert_int_equal(c.r.stat.n_gid, getegid());
        assert_int_equal(c.r.stat.extension.len, 0);
    }
    /* a walk that goes nowhere keeps the name; ".." finds the directory's again */
    assert_int_equal(raw_walk(&c, 1, 2, ""), 0);
    assert_int_equal(stat_of(&c, 2), 0);
    assert_string_equal(c.r.stat.name.s, "file");
    assert_int_equal(create(&c, 0, 3, "dir2", P9_DMDIR | 0755, P9_OREAD, ""), 0);
    assert_int_equal(RPC(&c, .type = P9_Tcreate, .fid = 3, .name = p9_str("sub"), .mode = 0644),
                     -EINVAL); /* it is open */
    clunk(&c, 3);
    assert_int_equal(raw_walk(&c, 0, 3, "dir2"), 0);
    assert_int_equal(create(&c, 3, 5, "sub", P9_DMDIR | 0755, P9_OREAD, ""), 0);
    assert_int_equal(raw_walk(&c, 5, 6, ".."), 0);
    assert_int_equal(stat_of(&c, 6), 0);
    assert_string_equal(c.r.stat.name.s, "dir2");
    raw_close(&c);
}

/* A user without a name goes by the number. */
BOTH(people)
{
    struct raw c;
    struct pl_node *node;
    struct pl_attr attr;
    if (geteuid() != 0)
        skip();
    assert_int_equal(pl_lookup(&w->tree->tree, &call, w->root, "file", &node, &attr), 0);
    struct pl_setattr set = {.valid = PL_SET_UID | PL_SET_GID, .uid = 54321, .gid = 54322};
    assert_int_equal(pl_setattr(&w->tree->tree, &call, node, NULL, &set, &attr), 0);
    pl_node_unref(node);
    dial_old(w, &c, version);
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(stat_of(&c, 1), 0);
    assert_string_equal(c.r.stat.uid.s, "54321");
    assert_string_equal(c.r.stat.gid.s, "54322");
    struct p9_stat st = P9_STAT_SAME;
    st.gid = p9_str("root");
    assert_int_equal(wstat(&c, 1, st), 0);
    assert_int_equal(stat_of(&c, 1), 0);
    assert_string_equal(c.r.stat.gid.s, "root");
    st.gid = p9_str("no such group");
    assert_int_equal(wstat(&c, 1, st), -EINVAL);
    st = P9_STAT_SAME;
    st.uid = p9_str("root");
    assert_int_equal(wstat(&c, 1, st), c.dialect == P9_U ? 0 : -EPERM);
    raw_close(&c);
}

/* ---- open ---- */

BOTH(opening)
{
    struct raw c;
    dial_old(w, &c, version);
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .count = 10), -EBADF);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 1, .omode = 0x08), -EINVAL);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 1, .omode = P9_OREAD), 0);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 1, .omode = P9_OREAD), -EINVAL);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .count = 100), 0);
    assert_int_equal(c.r.count, 13);
    assert_memory_equal(c.r.data, "hello, world\n", 13);
    assert_int_equal(RPC(&c, .type = P9_Twrite, .fid = 1, .count = 1, .data = (void *)"x"), -EBADF);
    clunk(&c, 1);
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 1, .omode = P9_OEXEC), -EACCES);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 1, .omode = P9_OWRITE | P9_OTRUNC), 0);
    assert_int_equal(RPC(&c, .type = P9_Twrite, .fid = 1, .count = 2, .data = (void *)"ab"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .count = 100), -EBADF);
    assert_int_equal(stat_of(&c, 1), 0);
    assert_int_equal(c.r.stat.length, 2);
    /* directories are read, no more */
    assert_int_equal(raw_walk(&c, 0, 2, "dir"), 0);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 2, .omode = P9_OWRITE), -EISDIR);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 2, .omode = P9_OTRUNC), -EISDIR);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 2, .omode = P9_ORCLOSE), -EISDIR);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 2, .omode = P9_OREAD), 0);
    assert_int_equal(c.r.qid.type, P9_QTDIR);
    raw_close(&c);
}

/* ORCLOSE: the file goes with its fid, whether that is clunked or the client dies. */
BOTH(remove_on_close)
{
    struct raw c;
    dial_old(w, &c, version);
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 1, .omode = P9_OREAD | P9_ORCLOSE), 0);
    assert_int_equal(there(w, "file"), 0);
    clunk(&c, 1);
    assert_int_equal(there(w, "file"), -ENOENT);
    assert_int_equal(create(&c, 0, 1, "tmp", 0600, P9_ORDWR | P9_ORCLOSE, ""), 0);
    assert_int_equal(there(w, "tmp"), 0);
    hang_up(w, &c);
    assert_int_equal(there(w, "tmp"), -ENOENT);
    put_file(w, "file", "");
}

/* ---- create ---- */

BOTH(creating)
{
    struct raw c;
    dial_old(w, &c, version);
    assert_int_equal(create(&c, 0, 1, "new", 0666, P9_ORDWR, ""), 0);
    assert_int_equal(c.r.qid.type, P9_QTFILE);
    assert_int_equal(RPC(&c, .type = P9_Twrite, .fid = 1, .count = 2, .data = (void *)"ab"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .count = 100), 0);
    assert_int_equal(c.r.count, 2);
    assert_int_equal(stat_of(&c, 1), 0);
    assert_string_equal(c.r.stat.name.s, "new");
    /* no permission that the directory has not; Linux's own dialect takes the mode as it is */
    assert_int_equal(c.r.stat.mode, c.dialect == P9_U ? 0666 : 0644);
    assert_int_equal(create(&c, 0, 2, "new", 0666, P9_ORDWR, ""), -EEXIST);
    assert_string_equal(c.r.ename.s, "file already exists");
    assert_int_equal(create(&c, 0, 3, "..", 0666, P9_ORDWR, ""), -EINVAL);
    assert_int_equal(create(&c, 0, 4, "a/b", 0666, P9_ORDWR, ""), -EINVAL);
    assert_int_equal(create(&c, 0, 5, "newdir", P9_DMDIR | 0777, P9_OREAD, ""), 0);
    assert_int_equal(c.r.qid.type, P9_QTDIR);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 5, .count = 8192), 0); /* it is open */
    assert_int_equal(c.r.count, 0);
    assert_int_equal(create(&c, 0, 6, "newdir2", P9_DMDIR | 0777, P9_OWRITE, ""), -EISDIR);
    assert_int_equal(there(w, "newdir2"), -ENOENT);
    assert_int_equal(create(&c, 0, 7, "link", P9_DMSYMLINK | 0777, 0, "file"),
                     c.dialect == P9_U ? 0 : -EPERM);
    assert_int_equal(RPC(&c, .type = P9_Tremove, .fid = 1), 0);
    assert_int_equal(there(w, "new"), -ENOENT);
    assert_int_equal(RPC(&c, .type = P9_Tremove, .fid = 0), -EBUSY);
    assert_int_equal(stat_of(&c, 0), -EBADF); /* it is gone whatever the answer */
    raw_close(&c);
}

static void special_files(void **state)
{
    struct world *w = *state;
    struct raw c;
    dial_old(w, &c, P9_VERSION_U);
    assert_int_equal(create(&c, 0, 1, "link", P9_DMSYMLINK | 0777, 0, "dir/x"), 0);
    assert_int_equal(c.r.qid.type, P9_QTSYMLINK);
    assert_int_equal(stat_of(&c, 1), 0);
    assert_int_equal(c.r.stat.mode, P9_DMSYMLINK | 0777);
    assert_string_equal(c.r.stat.extension.s, "dir/x");
    assert_int_equal(c.r.stat.length, 5);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 1), -ELOOP);
    assert_int_equal(create(&c, 0, 2, "fifo", P9_DMNAMEDPIPE | 0600, 0, ""), 0);
    assert_int_equal(stat_of(&c, 2), 0);
    assert_int_equal(c.r.stat.mode, P9_DMNAMEDPIPE | 0600);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 2), -ENXIO);
    assert_int_equal(create(&c, 0, 3, "sock", P9_DMSOCKET | 0600, 0, ""), 0);
    if (geteuid() == 0) {
        assert_int_equal(create(&c, 0, 4, "dev", P9_DMDEVICE | 0600, 0, "c 1 3"), 0);
        assert_int_equal(stat_of(&c, 4), 0);
        assert_string_equal(c.r.stat.extension.s, "c 1 3");
        assert_int_equal(c.r.stat.mode, P9_DMDEVICE | 0600);
    }
    assert_int_equal(create(&c, 0, 5, "bad", P9_DMDEVICE | 0600, 0, "x 1 3"), -EINVAL);
    /* a link names the fid of what it links to */
    assert_int_equal(raw_walk(&c, 0, 100, "file"), 0);
    assert_int_equal(create(&c, 0, 6, "hard", P9_DMLINK, 0, "100\n"), 0);
    assert_int_equal(stat_of(&c, 6), 0);
    assert_string_equal(c.r.stat.extension.s, "HARDLINKCOUNT 2");
    assert_string_equal(c.r.stat.name.s, "hard");
    assert_int_equal(create(&c, 0, 7, "hard2", P9_DMLINK, 0, "999"), -EBADF);
    assert_int_equal(create(&c, 0, 8, "hard2", P9_DMLINK, 0, "x"), -EINVAL);
    assert_int_equal(create(&c, 0, 9, "suid", P9_DMSETUID | 0755, P9_OWRITE, ""), 0);
    assert_int_equal(stat_of(&c, 9), 0);
    assert_int_equal(c.r.stat.mode, P9_DMSETUID | 0755);
    raw_close(&c);
}

/* Append-only and exclusive files, among the clients of one server. */
BOTH(append_and_exclusive)
{
    struct raw c, d;
    dial_old(w, &c, version);
    dial_old(w, &d, version);
    assert_int_equal(create(&c, 0, 1, "log", P9_DMAPPEND | 0644, P9_OWRITE, ""), 0);
    assert_int_equal(c.r.qid.type, P9_QTAPPEND);
    for (int i = 0; i < 2; i++)
        assert_int_equal(RPC(&c, .type = P9_Twrite, .fid = 1, .count = 2, .data = (void *)"ab"), 0);
    assert_int_equal(raw_walk(&d, 0, 1, "log"), 0);
    assert_int_equal(RPC(&d, .type = P9_Topen, .fid = 1, .omode = P9_OWRITE | P9_OTRUNC), 0);
    assert_int_equal(RPC(&d, .type = P9_Twrite, .fid = 1, .count = 1, .data = (void *)"c"), 0);
    assert_int_equal(stat_of(&d, 1), 0);
    assert_int_equal(d.r.stat.length, 5);
    assert_int_equal(d.r.stat.mode, P9_DMAPPEND | 0644);
    assert_int_equal(create(&c, 0, 2, "L.box", P9_DMEXCL | 0644, P9_OWRITE, ""), 0);
    assert_int_equal(raw_walk(&d, 0, 2, "L.box"), 0);
    assert_int_equal(RPC(&d, .type = P9_Topen, .fid = 2, .omode = P9_OREAD), -EAGAIN);
    clunk(&c, 2);
    assert_int_equal(RPC(&d, .type = P9_Topen, .fid = 2, .omode = P9_OREAD), 0);
    assert_int_equal(raw_walk(&c, 0, 2, "L.box"), 0);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 2, .omode = P9_OREAD), -EAGAIN);
    raw_close(&d); /* a client that dies lets go */
    hang_up(w, &d);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 2, .omode = P9_OREAD), 0);
    /* and it can be undone */
    struct p9_stat st = P9_STAT_SAME;
    st.mode = 0600;
    assert_int_equal(wstat(&c, 2, st), 0);
    assert_int_equal(raw_walk(&c, 0, 3, "L.box"), 0);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 3, .omode = P9_OREAD), 0);
    raw_close(&c);
}

/* ---- wstat ---- */

BOTH(changing)
{
    struct raw c;
    struct p9_stat st = P9_STAT_SAME;
    dial_old(w, &c, version);
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(wstat(&c, 1, st), 0); /* a commit */
    assert_int_equal(raw_walk(&c, 0, 2, "dir"), 0);
    assert_int_equal(wstat(&c, 2, st), 0);
    st.mode = 0600;
    st.mtime = 1000;
    st.atime = 2000;
    st.length = 5;
    assert_int_equal(wstat(&c, 1, st), 0);
    assert_int_equal(stat_of(&c, 1), 0);
    assert_int_equal(c.r.stat.mode, 0600);
    assert_int_equal(c.r.stat.mtime, 1000);
    assert_int_equal(c.r.stat.atime, 2000);
    assert_int_equal(c.r.stat.length, 5);
    /* a stat may be given back whole, with something changed in it */
    st = c.r.stat;
    st.mode = 0640;
    assert_int_equal(wstat(&c, 1, st), 0);
    /* what cannot be changed */
    st = P9_STAT_SAME;
    st.mode = P9_DMDIR | 0755;
    assert_int_equal(wstat(&c, 1, st), -EPERM);
    st = P9_STAT_SAME;
    st.qid = (struct p9_qid){0, 0, 12345};
    assert_int_equal(wstat(&c, 1, st), -EPERM);
    st = P9_STAT_SAME;
    st.muid = p9_str("root"); /* as Linux's client has it in a rename */
    assert_int_equal(wstat(&c, 1, st), 0);
    st = P9_STAT_SAME;
    st.dev = 5;
    assert_int_equal(wstat(&c, 1, st), -EPERM);
    st = P9_STAT_SAME;
    st.length = 5;
    assert_int_equal(wstat(&c, 2, st), -EISDIR);
    raw_close(&c);
}

BOTH(renaming)
{
    struct raw c;
    struct p9_stat st = P9_STAT_SAME;
    dial_old(w, &c, version);
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    st.name = p9_str("other");
    assert_int_equal(wstat(&c, 1, st), 0);
    assert_int_equal(there(w, "file"), -ENOENT);
    assert_int_equal(there(w, "other"), 0);
    assert_int_equal(stat_of(&c, 1), 0);
    assert_string_equal(c.r.stat.name.s, "other");
    assert_int_equal(wstat(&c, 1, st), 0); /* it is its name */
    st.name = p9_str("a/b");
    assert_int_equal(wstat(&c, 1, st), -EINVAL);
    st.name = p9_str("..");
    assert_int_equal(wstat(&c, 1, st), -EINVAL);
    st.name = p9_str("name");
    assert_int_equal(wstat(&c, 0, st), -EPERM);
    /* on another file: never in 9P2000, as rename(2) in 9P2000.u */
    put_file(w, "victim", "v");
    st.name = p9_str("victim");
    assert_int_equal(wstat(&c, 1, st), c.dialect == P9_U ? 0 : -EEXIST);
    assert_int_equal(there(w, "other"), c.dialect == P9_U ? -ENOENT : 0);
    /* all or nothing: what cannot be changed keeps the name too */
    st = P9_STAT_SAME;
    st.name = p9_str("third");
    st.length = (uint64_t)1 << 63;
    assert_true(wstat(&c, 1, st) < 0);
    assert_int_equal(there(w, "third"), -ENOENT);
    st.length = 3;
    assert_int_equal(wstat(&c, 1, st), 0);
    assert_int_equal(there(w, "third"), 0);
    /* and what would be lost for good is not begun */
    put_file(w, "fourth", "f");
    st.name = p9_str("fourth");
    assert_int_equal(wstat(&c, 1, st), -EEXIST);
    raw_close(&c);
}

/* ---- directories ---- */

enum { MANY = 300 };

static void name_nr(char *buf, int i)
{
    sprintf(buf, "file %d%.*s", i, i % 40, "........................................");
}

/* Reads all of a directory in counts of `count`: how many entries. */
static int list(struct raw *c, uint32_t fid, uint32_t count, bool *seen)
{
    uint64_t off = 0;
    int n = 0;
    for (;;) {
        assert_int_equal(RPC(c, .type = P9_Tread, .fid = fid, .offset = off, .count = count), 0);
        assert_true(c->r.count <= count);
        uint32_t got = c->r.count;
        if (got == 0)
            return n;
        for (uint32_t at = 0; at < got;) {
            struct p9_stat st;
            char name[300];
            int used = p9_stat_get(c->dialect, (char *)c->r.data + at, got - at, &st);
            assert_true(used > 0); /* whole entries only */
            at += (uint32_t)used;
            assert_string_not_equal(st.name.s, ".");
            assert_string_not_equal(st.name.s, "..");
            int i = -1;
            sscanf(st.name.s, "file %d", &i);
            assert_in_range(i, 0, MANY - 1);
            name_nr(name, i);
            assert_string_equal(st.name.s, name);
            assert_false(seen[i]);
            seen[i] = true;
            assert_int_equal(st.mode, 0644);
            assert_int_equal(st.length, i);
            n++;
        }
        off += got;
    }
}

BOTH(listing)
{
    struct raw c;
    char name[300], text[MANY + 1] = "";
    for (int i = 0; i < MANY; i++) {
        name_nr(name, i);
        put_file(w, name, text);
        strcat(text, "x");
    }
    struct pl_node *dir_node;
    struct pl_attr attr;
    assert_int_equal(pl_remove(&w->tree->tree, &call, w->root, "file", 0), 0);
    assert_int_equal(pl_remove(&w->tree->tree, &call, w->root, "dir", AT_REMOVEDIR), 0);
    assert_int_equal(pl_attach(&w->tree->tree, &call, "", &dir_node, &attr), 0);
    pl_node_unref(dir_node);
    dial_old(w, &c, version);
    assert_int_equal(raw_walk(&c, 0, 1, ""), 0);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 1, .omode = P9_OREAD), 0);
    static const uint32_t counts[] = {60000, 8192, 4097, 1000, 333, 211, 200};
    for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
        bool seen[MANY] = {false};
        assert_int_equal(list(&c, 1, counts[i], seen), MANY);
    }
    /* only on from where it stopped, or again */
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .offset = 0, .count = 500), 0);
    uint32_t got = c.r.count;
    assert_true(got > 0);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .offset = got + 1, .count = 500), -ESPIPE);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .offset = got, .count = 500), 0);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .offset = got, .count = 500), -ESPIPE);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .offset = 0, .count = 500), 0);
    got = c.r.count; /* where no entry fits there is none, and the next read goes on */
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .offset = got, .count = 10), 0);
    assert_int_equal(c.r.count, 0);
    assert_int_equal(RPC(&c, .type = P9_Tread, .fid = 1, .offset = got, .count = 500), 0);
    assert_true(c.r.count > 0);
    raw_close(&c);
}

/* ---- symlinks where there are none ---- */

static int read_at(struct raw *c, const char *path, char *buf)
{
    int r = raw_walk(c, 0, 50, path);
    uint16_t n = c->r.nwqid;
    int names = 1;
    for (const char *p = path; *p; p++)
        names += *p == '/';
    if (r == 0 && n < names)
        return -ENOENT;
    if (r == 0 && (r = RPC(c, .type = P9_Topen, .fid = 50, .omode = P9_OREAD)) == 0 &&
        (r = RPC(c, .type = P9_Tread, .fid = 50, .count = 100)) == 0) {
        memcpy(buf, c->r.data, c->r.count);
        buf[c->r.count] = 0;
    }
    if (RPC(c, .type = P9_Tclunk, .fid = 50) < 0)
        assert_true(r < 0);
    return r;
}

static void symlinks(void **state)
{
    struct world *w = *state;
    struct raw c;
    char buf[200];
    make_symlink(w, "rel", "file");
    make_symlink(w, "abs", "/file"); /* the root is what is served */
    make_symlink(w, "up", "../../../file");
    make_symlink(w, "twice", "dir/../rel");
    make_symlink(w, "todir", "dir/");
    make_symlink(w, "dangling", "nowhere");
    make_symlink(w, "loop", "loop");
    make_symlink(w, "etc", "/etc");
    dial_old(w, &c, P9_VERSION);
    static const char *const good[] = {"rel", "abs", "up", "twice"};
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        assert_int_equal(read_at(&c, good[i], buf), 0);
        assert_string_equal(buf, "hello, world\n");
        assert_int_equal(raw_walk(&c, 0, 1, good[i]), 0);
        assert_int_equal(c.r.wqid[0].type, P9_QTFILE);
        assert_int_equal(stat_of(&c, 1), 0);
        assert_string_equal(c.r.stat.name.s, good[i]);
        assert_int_equal(c.r.stat.length, 13);
        clunk(&c, 1);
    }
    assert_int_equal(create(&c, 0, 1, "in", 0644, P9_OREAD, ""), 0);
    clunk(&c, 1);
    assert_int_equal(raw_walk(&c, 0, 1, "todir"), 0);
    assert_int_equal(c.r.wqid[0].type, P9_QTDIR);
    assert_int_equal(create(&c, 1, 2, "in", 0644, P9_OWRITE, ""), 0);
    assert_int_equal(RPC(&c, .type = P9_Twrite, .fid = 2, .count = 2, .data = (void *)"ab"), 0);
    clunk(&c, 2);
    assert_int_equal(read_at(&c, "todir/in", buf), 0);
    assert_int_equal(read_at(&c, "dir/in", buf), 0);
    assert_string_equal(buf, "ab");
    /* those that lead nowhere can be seen and removed; what is removed is always the link */
    static const char *const bad[] = {"dangling", "loop", "etc"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_int_equal(read_at(&c, bad[i], buf), -ENOENT);
        assert_int_equal(raw_walk(&c, 0, 3, bad[i]), 0);
        assert_int_equal(c.r.wqid[0].type, P9_QTFILE);
        assert_int_equal(stat_of(&c, 3), 0);
        assert_int_equal(c.r.stat.mode, 0);
        assert_int_equal(c.r.stat.length, 0);
        assert_int_equal(RPC(&c, .type = P9_Tremove, .fid = 3), 0);
        assert_int_equal(there(w, bad[i]), -ENOENT);
    }
    struct p9_stat st = P9_STAT_SAME;
    st.name = p9_str("moved");
    assert_int_equal(raw_walk(&c, 0, 3, "rel"), 0);
    assert_int_equal(wstat(&c, 3, st), 0);
    assert_int_equal(there(w, "rel"), -ENOENT);
    assert_int_equal(there(w, "file"), 0);
    assert_int_equal(raw_walk(&c, 3, 4, ""), 0); /* a clone knows it too */
    assert_int_equal(RPC(&c, .type = P9_Tremove, .fid = 4), 0);
    assert_int_equal(there(w, "moved"), -ENOENT);
    assert_int_equal(there(w, "file"), 0);
    assert_int_equal(RPC(&c, .type = P9_Tremove, .fid = 1), 0); /* of a directory too */
    assert_int_equal(there(w, "todir"), -ENOENT);
    assert_int_equal(there(w, "dir"), 0);
    /* in 9P2000.u they are the client's to follow */
    struct raw d;
    dial_old(w, &d, P9_VERSION_U);
    assert_int_equal(raw_walk(&d, 0, 1, "abs"), 0);
    assert_int_equal(d.r.wqid[0].type, P9_QTSYMLINK);
    assert_int_equal(stat_of(&d, 1), 0);
    assert_string_equal(d.r.stat.extension.s, "/file");
    raw_close(&d);
    raw_close(&c);
}

/* A flushed read is answered as Plan 9 says it, then the Rflush. */
BOTH(flushing)
{
    struct raw c;
    dial_old(w, &c, version);
    assert_int_equal(raw_walk(&c, 0, 1, "file"), 0);
    assert_int_equal(RPC(&c, .type = P9_Topen, .fid = 1, .omode = P9_OREAD), 0);
    atomic_store(&w->tree->hold, true);
    uint16_t tag = raw_send(&c, (struct p9_msg){.type = P9_Tread, .fid = 1, .count = 10});
    counting_wait_read(w->tree);
    uint16_t flush = raw_send(&c, (struct p9_msg){.type = P9_Tflush, .oldtag = tag});
    assert_int_equal(raw_recv(&c), -EINTR);
    assert_int_equal(c.r.tag, tag);
    assert_int_equal(raw_recv(&c), 0);
    assert_int_equal(c.r.tag, flush);
    counting_release(w->tree);
    raw_close(&c);
}

/* A session may change its dialect. */
static void another_dialect(void **state)
{
    struct world *w = *state;
    struct raw c;
    dial_old(w, &c, P9_VERSION);
    raw_version(&c, P9_VERSION_L);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 0, .mask = P9_GETATTR_ALL), -EBADF);
    assert_int_equal(raw_attach(&c, 0, ""), 0);
    assert_int_equal(RPC(&c, .type = P9_Tgetattr, .fid = 0, .mask = P9_GETATTR_ALL), 0);
    raw_version(&c, P9_VERSION_U);
    assert_int_equal(raw_attach(&c, 0, ""), 0);
    assert_int_equal(stat_of(&c, 0), 0);
    raw_close(&c);
}

#define T(f)      cmocka_unit_test_setup_teardown(f, setup, teardown)
#define T_BOTH(f) T(f), T(f##_u)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T_BOTH(attaching),       T_BOTH(stats),      T_BOTH(people),   T_BOTH(opening),
        T_BOTH(remove_on_close), T_BOTH(creating),   T(special_files), T_BOTH(append_and_exclusive),
        T_BOTH(changing),        T_BOTH(renaming),   T_BOTH(listing),  T(symlinks),
        T_BOTH(flushing),        T(another_dialect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
