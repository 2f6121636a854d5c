/* SPDX-License-Identifier: MIT */
/*
 * The 9P door: a server that is killed at each stage of each operation that changes something, and
 * its successor, which is sent the same again. The model is the host's own directory: each is done
 * once, whatever others do meanwhile.
 */
#include "p9_once_fixture.h"
#include <linux/falloc.h>
#include <sys/xattr.h>

enum { BASE = 8192 };

/* ---- deeds ---- */

/* Something that is to be done once. `fids` makes the fids that the message names; `stir`, what
 * another does when it has been done, and the answer has been lost. */
struct deed {
    const char *name;
    void (*before)(void);
    void (*fids)(struct raw *c);
    struct p9_msg m;
    void (*stir)(void);
    void (*check)(struct raw *c);
    int lost; /* what is answered when it was done and the fid cannot be made anew; 0: nothing */
};

/* ---- names ---- */

static void check_dir(struct raw *c)
{
    struct stat st;
    assert_int_equal(lstat(host("new"), &st), 0);
    assert_int_equal(st.st_ino, c->r.qid.path & 0xffffffffffff);
    assert_true(S_ISDIR(st.st_mode));
}

static void check_symlink(struct raw *c)
{
    char target[100] = "";
    assert_int_equal(readlink(host("new"), target, 99), 6);
    assert_string_equal(target, "target");
    assert_int_equal(c->r.qid.type, P9_QTSYMLINK);
}

static void check_node(struct raw *c)
{
    struct stat st;
    assert_int_equal(lstat(host("new"), &st), 0);
    assert_true(S_ISFIFO(st.st_mode));
}

static void check_link(struct raw *c)
{
    struct stat st;
    assert_int_equal(stat(host("new"), &st), 0);
    assert_int_equal(st.st_nlink, 2);
}

static void check_gone(struct raw *c)
{
    assert_int_equal(access(host("f"), F_OK), -1);
}

/* Another makes a file of the name that was taken away. */
static void put_new(void)
{
    put("f", "of another");
}

static void check_new(struct raw *c)
{
    assert_content("f", "of another");
}

static void check_moved(struct raw *c)
{
    assert_content("to", "base");
}

static void fid_move(struct raw *c)
{
    if (raw_walk(c, 0, 1, "f") < 0)
        assert_int_equal(raw_walk(c, 0, 1, "to"), 0); /* as a key would find it */
}

static void two_files(void)
{
    put("f", "base");
    put("to", "other");
}

static void check_swapped(struct raw *c)
{
    assert_content("to", "base");
    assert_content("f", "other");
}

/* ---- opening ---- */

/* The fid is the new file, open for writing. */
static void check_created(struct raw *c)
{
    assert_int_equal(RPC(c, .type = P9_Twrite, .fid = 1, .data = (void *)"written", .count = 7), 0);
    assert_content("new", "written");
}

static void stir_created(void)
{
    assert_int_equal(chmod(host("new"), 0400), 0); /* the answer is lost, the file is not */
}

static void check_truncated(struct raw *c)
{
    assert_int_equal(
        RPC(c, .type = P9_Twrite, .fid = 1, .offset = 2, .data = (void *)"xx", .count = 2), 0);
    assert_content("f", "otxxrs"); /* what another wrote since is there */
}

static void stir_truncated(void)
{
    put("f", "others");
}

/* ---- bytes ---- */

static void stir_append(void)
{
    append("f", "tail");
}

static void check_append(struct raw *c)
{
    assert_int_equal(c->r.count, 5);
    assert_content("f", "basehellotail");
}

static void blocks(void)
{
    static char a[3 * BASE + 1];
    memset(a, 'a', BASE);
    memset(a + BASE, 'b', BASE);
    memset(a + 2 * BASE, 'c', BASE);
    put("f", a);
}

static void fid_write(struct raw *c)
{
    fid_file(c);
    assert_int_equal(RPC(c, .type = P9_Tlopen, .fid = 1, .flags = P9_RDWR), 0);
}

static void check_collapsed(struct raw *c)
{
    struct stat st;
    char b;
    int fd = open(host("f"), O_RDONLY);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 2 * BASE);
    assert_int_equal(pread(fd, &b, 1, 0), 1);
    assert_int_equal(b, 'b');
    close(fd);
}

static void check_size(struct raw *c)
{
    struct stat st;
    assert_int_equal(stat(host("f"), &st), 0);
    assert_int_equal(st.st_size, 2);
}

static void fid_copy(struct raw *c)
{
    fid_write(c);
    assert_int_equal(raw_walk(c, 0, 2, "to"), 0);
    assert_int_equal(RPC(c, .type = P9_Tlopen, .fid = 2, .flags = P9_RDWR), 0);
}

static void check_copied(struct raw *c)
{
    assert_int_equal(c->r.length, 4);
    assert_content("to", "baser");
}

/* ---- extended attributes ---- */

static void fid_xattr(struct raw *c)
{
    fid_file(c);
    assert_int_equal(RPC(c, .type = P9_Txattrcreate, .fid = 1, .name = p9_str("user.a"), .size = 5,
                         .flags = XATTR_CREATE),
                     0);
    assert_int_equal(RPC(c, .type = P9_Twrite, .fid = 1, .data = (void *)"value", .count = 5), 0);
}

static void check_xattr(struct raw *c)
{
    char v[10];
    assert_int_equal(getxattr(host("f"), "user.a", v, sizeof(v)), 5);
    assert_memory_equal(v, "value", 5);
    assert_int_equal(RPC(c, .type = P9_Tclunk, .fid = 1), -EBADF);
}

static void with_xattr(void)
{
    file();
    assert_int_equal(setxattr(host("f"), "user.a", "x", 1, 0), 0);
}

static void fid_noxattr(struct raw *c)
{
    fid_file(c);
    assert_int_equal(
        RPC(c, .type = P9_Txattrcreate, .fid = 1, .name = p9_str("user.a"), .flags = XATTR_REPLACE),
        0);
}

static void check_noxattr(struct raw *c)
{
    char v[10];
    assert_int_equal(getxattr(host("f"), "user.a", v, sizeof(v)), -1);
}

static void fid_removed(struct raw *c)
{
    (void)raw_walk(c, 0, 1, "f"); /* which may fail */
}

static const struct deed deeds[] = {
    {"mkdir", NULL, NULL, {.type = P9_Tmkdir, .name = S("new"), .mode = 0755}, NULL, check_dir},
    {"symlink",
     NULL,
     NULL,
     {.type = P9_Tsymlink, .name = S("new"), .target = S("target")},
     NULL,
     check_symlink},
    {"mknod",
     NULL,
     NULL,
     {.type = P9_Tmknod, .name = S("new"), .mode = S_IFIFO | 0600},
     NULL,
     check_node},
    {"link", file, fid_file, {.type = P9_Tlink, .fid = 1, .name = S("new")}, NULL, check_link},
    {"unlinkat", file, NULL, {.type = P9_Tunlinkat, .name = S("f")}, NULL, check_gone},
    {"unlinkat, and made anew",
     file,
     NULL,
     {.type = P9_Tunlinkat, .name = S("f")},
     put_new,
     check_new},
    {"remove", file, fid_removed, {.type = P9_Tremove, .fid = 1}, NULL, check_gone, -EREMOTEIO},
    {"renameat",
     file,
     NULL,
     {.type = P9_Trenameat, .name = S("f"), .name2 = S("to")},
     NULL,
     check_moved},
    {"renameat, and made anew",
     two_files,
     NULL,
     {.type = P9_Trenameat, .name = S("f"), .name2 = S("to")},
     put_new,
     check_moved},
    {"rename", file, fid_move, {.type = P9_Trename, .fid = 1, .name = S("to")}, NULL, check_moved},
    {"exchange",
     two_files,
     NULL,
     {.type = P9_Trename2, .name = S("f"), .name2 = S("to"), .flags = RENAME_EXCHANGE},
     NULL,
     check_swapped},
    {"create",
     NULL,
     fid_dir,
     {.type = P9_Tlcreate, .fid = 1, .name = S("new"), .flags = P9_RDWR, .mode = 0644},
     NULL,
     check_created},
    {"create exclusively",
     NULL,
     fid_dir,
     {.type = P9_Tlcreate, .fid = 1, .name = S("new"), .flags = P9_RDWR | P9_EXCL, .mode = 0200},
     stir_created,
     check_created},
    {"truncate",
     file,
     fid_file,
     {.type = P9_Tlopen, .fid = 1, .flags = P9_RDWR | P9_TRUNC},
     stir_truncated,
     check_truncated},
    {"append",
     file,
     fid_append,
     {.type = P9_Twrite2, .fid = 1, .count = 5, .data = (void *)"hello"},
     stir_append,
     check_append},
    {"collapse",
     blocks,
     fid_write,
     {.type = P9_Tfallocate, .fid = 1, .mode = FALLOC_FL_COLLAPSE_RANGE, .length = BASE},
     NULL,
     check_collapsed},
    {"setattr",
     file,
     fid_file,
     {.type = P9_Tsetattr, .fid = 1, .set = {.valid = P9_SETATTR_SIZE, .size = 2}},
     NULL,
     check_size},
    {"copy",
     two_files,
     fid_copy,
     {.type = P9_Tcopy, .fid = 1, .fid2 = 2, .length = 4},
     NULL,
     check_copied},
    {"setxattr", file, fid_xattr, {.type = P9_Tclunk, .fid = 1}, NULL, check_xattr},
    {"removexattr", with_xattr, fid_noxattr, {.type = P9_Tclunk, .fid = 1}, NULL, check_noxattr},
};

/* ---- all of them at all stages ---- */

static void come_back(struct raw *c, const struct deed *d, const char *crash)
{
    server_start(crash);
    meet(c, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    if (d->fids)
        d->fids(c);
}

static bool possible(const struct deed *d)
{
    if (d->m.type != P9_Tfallocate)
        return true;
    int fd = open(host("f"), O_RDWR);
    bool can = fallocate(fd, (int)d->m.mode, 0, BASE) == 0;
    close(fd);
    d->before();
    return can;
}

/* Is it done when the server was killed there? */
static bool is_done(const char *point)
{
    return !strcmp(point, "deed") || !strcmp(point, "answered");
}

/* As before each deed; its message. False: it cannot be done here. */
static bool prepare(const struct deed *d, struct p9_msg *ret)
{
    *ret = d->m;
    ret->op = 1;
    ret->gid = getegid();
    clean();
    if (d->before)
        d->before();
    return possible(d);
}

/* `then`: where the second server dies, too; NULL: it does not. */
static void one(const struct deed *d, const char *point, const char *then)
{
    struct raw c;
    struct p9_msg m;
    char crash[32];
    bool done = is_done(point), answered = !strcmp(point, "answered");
    if (!prepare(d, &m))
        return;
    at(crash, point);
    server_start(crash);
    meet(&c, ME, P9_SESSION_REMEMBERS);
    if (d->fids)
        d->fids(&c);
    assert_int_equal(ask(&c, m), DEAD);
    server_wait();
    raw_close(&c);
    if (then) {
        at(crash, then);
        come_back(&c, d, crash);
        int r = ask(&c, m);
        if (r == DEAD) {
            done |= is_done(then);
            answered |= !strcmp(then, "answered");
            server_wait();
        } else { /* it did not come to that point */
            done = true;
            answered = r == 0;
            server_kill();
        }
        raw_close(&c);
    }
    tick();
    if (done && d->stir)
        d->stir();
    come_back(&c, d, NULL);
    int r = ask(&c, m);
    if (r && (!done || answered || r != d->lost))
        fail_msg("%s, killed at %s and %s: %s", d->name, point, then ? then : "-",
                 r == DEAD ? "dead" : strerror(-r));
    if (!done && d->stir)
        d->stir();
    if (r == 0)
        d->check(&c);
    server_kill();
    raw_close(&c);
}

static void killed(void **state)
{
    static const char *const points[] = {"known", "begun", "deed", "answered"};
    static const char *const thens[] = {NULL, "redo", "deed", "answered"};
    for (size_t i = 0; i < sizeof(deeds) / sizeof(*deeds); i++)
        for (int p = 0; p < 4; p++)
            for (int t = 0; t < 4; t++)
                one(&deeds[i], points[p], thens[t]);
}

/* ---- while the server lives, and after ---- */

static void same(const struct raw *c, const struct p9_msg *first)
{
    assert_int_equal(c->r.type, first->type);
    assert_memory_equal(&c->r.qid, &first->qid, sizeof(first->qid));
    assert_int_equal(c->r.iounit, first->iounit);
    assert_int_equal(c->r.count, first->count);
    assert_int_equal(c->r.length, first->length);
}

/* The same answer, on the same connection, on another, and from a server that follows. */
static void lived(void **state)
{
    for (size_t i = 0; i < sizeof(deeds) / sizeof(*deeds); i++) {
        const struct deed *d = &deeds[i];
        struct p9_msg m, first;
        struct raw a, b;
        if (!prepare(d, &m))
            continue;
        server_start(NULL);
        meet(&a, ME, P9_SESSION_REMEMBERS);
        if (d->fids)
            d->fids(&a);
        assert_int_equal(ask(&a, m), 0);
        first = a.r;
        if (d->stir)
            d->stir();
        assert_int_equal(ask(&a, m), 0);
        same(&a, &first);
        meet(&b, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
        if (d->fids)
            d->fids(&b);
        assert_int_equal(ask(&b, m), 0);
        same(&b, &first);
        raw_close(&a);
        raw_close(&b);
        server_kill();
        come_back(&b, d, NULL);
        assert_int_equal(ask(&b, m), 0);
        same(&b, &first);
        d->check(&b);
        raw_close(&b);
        server_kill();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(killed, once_setup, once_teardown),
        cmocka_unit_test_setup_teardown(lived, once_setup, once_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
