/* SPDX-License-Identifier: MIT */
/* The 9P door: what a server's successor remembers, and who is told what when two want the same. */
#include "p9_once_fixture.h"

/* An error is an answer, too. */
static void errors(void **state)
{
    struct raw c;
    struct p9_msg m = {.type = P9_Tmkdir, .name = S("f"), .mode = 0755, .gid = getegid(), .op = 1};
    clean();
    file();
    server_start("op-answered:1");
    meet(&c, ME, P9_SESSION_REMEMBERS);
    assert_int_equal(ask(&c, m), DEAD);
    server_wait();
    raw_close(&c);
    assert_int_equal(unlink(host("f")), 0);
    server_start(NULL);
    meet(&c, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    assert_int_equal(ask(&c, m), -EEXIST);
    assert_int_equal(access(host("f"), F_OK), -1);
    m.mode = 0700;
    assert_int_equal(ask(&c, m), -EPROTO);
    raw_close(&c);
    server_kill();
}

/* ---- two who want the same ---- */

static const struct p9_msg take = {.type = P9_Tlcreate,
                                   .fid = 1,
                                   .name = S("lock"),
                                   .flags = P9_RDWR | P9_EXCL,
                                   .mode = 0644,
                                   .op = 1};

/* The server is killed with A's request in hand, at `point`; then B asks for the same. */
static int a_dies(const char *point, struct raw *b, const struct p9_msg *m)
{
    struct raw a;
    char crash[32];
    at(crash, point);
    clean();
    file();
    server_start(crash);
    meet(&a, ME, P9_SESSION_REMEMBERS);
    fid_dir(&a);
    assert_int_equal(ask(&a, *m), DEAD);
    raw_close(&a);
    server_wait();
    tick();
    server_start(NULL);
    meet(b, OTHER, P9_SESSION_REMEMBERS);
    tick();
    fid_dir(b);
    int r = ask(b, *m);
    raw_close(b);
    return r;
}

static int a_comes_back(const struct p9_msg *m)
{
    struct raw a;
    meet(&a, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    fid_dir(&a);
    int r = ask(&a, *m);
    raw_close(&a);
    server_kill();
    return r;
}

/* A file that is made exclusively has one maker, a name is taken away by one. */
static void one_winner(void **state)
{
    static const struct p9_msg drop = {.type = P9_Tunlinkat, .name = S("f"), .op = 1};
    static const struct p9_msg dir = {.type = P9_Tmkdir, .name = S("d"), .mode = 0755, .op = 1};
    struct raw b;
    assert_int_equal(a_dies("begun", &b, &take), 0);
    assert_int_equal(a_comes_back(&take), -EEXIST);
    assert_int_equal(a_dies("deed", &b, &take), -EEXIST);
    assert_int_equal(a_comes_back(&take), 0);
    assert_int_equal(a_dies("begun", &b, &dir), 0);
    assert_int_equal(a_comes_back(&dir), -EEXIST);
    assert_int_equal(a_dies("deed", &b, &dir), -EEXIST);
    assert_int_equal(a_comes_back(&dir), 0);
    assert_int_equal(a_dies("begun", &b, &drop), 0);
    assert_int_equal(a_comes_back(&drop), -ENOENT);
    assert_int_equal(a_dies("deed", &b, &drop), -ENOENT);
    assert_int_equal(a_comes_back(&drop), 0);
}

/* Both had asked when the server was killed: the first that comes back has made it. */
static void both_in_hand(void **state)
{
    struct raw a, b;
    clean();
    server_start(NULL);
    meet(&a, ME, P9_SESSION_REMEMBERS);
    meet(&b, OTHER, P9_SESSION_REMEMBERS);
    raw_close(&a);
    raw_close(&b);
    server_kill();
    /* the one that does it, and the one that has only begun */
    server_start("op-deed:1");
    meet(&a, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    fid_dir(&a);
    assert_int_equal(ask(&a, take), DEAD);
    raw_close(&a);
    server_wait();
    server_start("op-begun:1");
    meet(&b, OTHER, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    fid_dir(&b);
    assert_int_equal(ask(&b, take), DEAD);
    raw_close(&b);
    server_wait();
    tick();
    server_start(NULL);
    meet(&a, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    fid_dir(&a);
    assert_int_equal(ask(&a, take), 0);
    raw_close(&a);
    meet(&b, OTHER, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    fid_dir(&b);
    assert_int_equal(ask(&b, take), -EEXIST);
    raw_close(&b);
    server_kill();
}

/* ---- appending, with others who do ---- */

static const struct p9_msg hello = {
    .type = P9_Twrite2, .fid = 1, .count = 5, .data = (void *)"hello", .op = 1};

/* Killed with the append in hand, before or after it; meanwhile `text` is appended by another. */
static int append_after(const char *point, const char *text)
{
    struct raw c;
    char crash[32];
    at(crash, point);
    clean();
    file();
    server_start(crash);
    meet(&c, ME, P9_SESSION_REMEMBERS);
    fid_append(&c);
    assert_int_equal(ask(&c, hello), DEAD);
    raw_close(&c);
    server_wait();
    append("f", text);
    server_start(NULL);
    meet(&c, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    fid_append(&c);
    int r = ask(&c, hello);
    assert_int_equal(ask(&c, hello), r);
    raw_close(&c);
    server_kill();
    return r;
}

static void appended(void **state)
{
    assert_int_equal(append_after("deed", "hello"), 0);
    assert_content("f", "basehellohello");
    assert_int_equal(append_after("begun", "hello"), 0);
    assert_content("f", "basehellohello");
    assert_int_equal(append_after("begun", "other"), 0);
    assert_content("f", "baseotherhello");
}

/* Two clients append the same at the same place: whose it is cannot be told. */
static void appended_by_both(void **state)
{
    struct raw a, b;
    clean();
    file();
    server_start("op-deed:1");
    meet(&a, ME, P9_SESSION_REMEMBERS);
    fid_append(&a);
    assert_int_equal(ask(&a, hello), DEAD);
    raw_close(&a);
    server_wait();
    assert_int_equal(truncate(host("f"), 4), 0); /* as if it had not been done */
    server_start(NULL);
    meet(&b, OTHER, P9_SESSION_REMEMBERS);
    fid_append(&b);
    assert_int_equal(ask(&b, hello), 0);
    meet(&a, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    fid_append(&a);
    assert_int_equal(ask(&a, hello), -EREMOTEIO);
    assert_int_equal(ask(&b, hello), 0);
    assert_content("f", "basehello");
    raw_close(&a);
    raw_close(&b);
    server_kill();
}

/* ---- memories ---- */

static int count_files(void)
{
    char path[400];
    struct dirent *e;
    int n = 0;
    snprintf(path, sizeof(path), "%s/state", place);
    DIR *d = opendir(path);
    while ((e = readdir(d)))
        if (e->d_name[0] != '.') {
            char sub[700];
            struct dirent *f;
            snprintf(sub, sizeof(sub), "%s/%s", path, e->d_name);
            DIR *s = opendir(sub);
            while ((f = readdir(s)))
                n += f->d_name[0] != '.';
            closedir(s);
        }
    closedir(d);
    return n;
}

/* The path of the only memory. */
static void memory(char ret[800])
{
    char path[400], sub[700] = "";
    struct dirent *e;
    snprintf(path, sizeof(path), "%s/state", place);
    for (int i = 0; i < 2; i++) {
        DIR *d = opendir(i ? sub : path);
        assert_non_null(d);
        while ((e = readdir(d)) && e->d_name[0] == '.')
            ;
        assert_non_null(e);
        if (i)
            snprintf(ret, 800, "%s/%s", sub, e->d_name);
        else
            snprintf(sub, sizeof(sub), "%s/%s", path, e->d_name);
        closedir(d);
    }
}

static void limited(void **state)
{
    struct raw c;
    clean();
    server_start(NULL);
    for (uint64_t i = 1; i <= LIMIT_SESSIONS + 30; i++) {
        meet(&c, i, P9_SESSION_REMEMBERS);
        raw_close(&c);
    }
    assert_int_equal(count_files(), LIMIT_SESSIONS);
    meet(&c, LIMIT_SESSIONS + 30, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    assert_int_equal(RPC(&c, .type = P9_Tend), 0);
    raw_close(&c);
    assert_int_equal(count_files(), LIMIT_SESSIONS - 1);
    server_kill();
}

/* Those who come in masses and do nothing do not drive out one who has. */
static void driven_out(void **state)
{
    struct raw c;
    struct p9_msg m = {.type = P9_Tmkdir, .name = S("d"), .mode = 0755, .gid = getegid(), .op = 1};
    clean();
    server_start(NULL);
    meet(&c, ME, P9_SESSION_REMEMBERS);
    assert_int_equal(ask(&c, m), 0);
    raw_close(&c);
    for (uint64_t i = 1000; i < 1010 + LIMIT_SESSIONS; i++) {
        meet(&c, i, P9_SESSION_REMEMBERS);
        raw_close(&c);
    }
    meet(&c, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    assert_int_equal(ask(&c, m), 0);
    raw_close(&c);
    server_kill();
}

/* What is too old is removed when a server begins; not what a server had that was killed. */
static void old(void **state)
{
    struct raw c, d;
    char path[800];
    struct timespec t[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    clean();
    server_start(NULL);
    meet(&c, ME, P9_SESSION_REMEMBERS);
    memory(path);
    assert_int_equal(utimensat(AT_FDCWD, path, t, 0), 0);
    server_kill(); /* while it is connected, for long */
    raw_close(&c);
    server_start(NULL);
    meet(&c, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    meet(&d, OTHER, P9_SESSION_REMEMBERS);
    assert_int_equal(RPC(&d, .type = P9_Tend), 0);
    raw_version(&c, P9_VERSION_OWN); /* it lets go */
    server_kill();
    raw_close(&c);
    raw_close(&d);
    assert_int_equal(utimensat(AT_FDCWD, path, t, 0), 0);
    server_start(NULL);
    meet(&c, ME, P9_SESSION_REMEMBERS);
    raw_close(&c);
    server_kill();
}

/* Another server of the same tree does not share a client's memory with the first. */
static void two_servers(void **state)
{
    struct raw a, b;
    struct p9_msg m = {.type = P9_Tmkdir, .name = S("d"), .mode = 0755, .gid = getegid(), .op = 1};
    clean();
    server_start(NULL);
    pid_t first = server;
    int at_first = listener;
    meet(&a, ME, P9_SESSION_REMEMBERS);
    listener = new_listener();
    server_start(NULL);
    meet(&b, ME, P9_SESSION_REMEMBERS);
    assert_int_equal(ask(&a, m), 0);
    assert_int_equal(ask(&b, m), -EEXIST);
    assert_int_equal(ask(&b, m), -EEXIST);
    assert_int_equal(ask(&a, m), 0);
    server_kill();
    raw_close(&b);
    server_start(NULL); /* what it remembered was its own */
    meet(&b, OTHER, P9_SESSION_REMEMBERS);
    raw_close(&a);
    raw_close(&b);
    server_kill();
    close(listener);
    listener = at_first;
    server = first;
    server_kill();
    server_start(NULL);
    meet(&a, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    assert_int_equal(ask(&a, m), 0);
    raw_close(&a);
    server_kill();
}

/* A server is asked something by a client that comes once: it is up, and keeps nothing of that. */
static void see_up(void)
{
    struct raw c;
    meet(&c, OTHER, P9_SESSION_REMEMBERS);
    assert_int_equal(RPC(&c, .type = P9_Tend), 0);
    raw_close(&c);
}

/* What remembers nothing yet is not swept away from under it by another server that starts. */
static void started_later(void **state)
{
    struct raw a;
    struct p9_msg m = {.type = P9_Tmkdir, .name = S("d"), .mode = 0755, .gid = getegid(), .op = 1};
    clean();
    server_start(NULL);
    see_up();
    pid_t first = server;
    int at_first = listener;
    listener = new_listener();
    server_start(NULL);
    see_up();
    pid_t second = server;
    int at_second = listener;
    listener = at_first;
    meet(&a, ME, P9_SESSION_REMEMBERS);
    assert_int_equal(ask(&a, m), 0);
    server = first;
    server_kill();
    raw_close(&a);
    close(at_first);
    listener = at_second;
    server = second;
    meet(&a, ME, P9_SESSION_REMEMBERS | P9_SESSION_KNOWN);
    assert_int_equal(ask(&a, m), 0);
    raw_close(&a);
    server_kill();
}

/* Whatever is in a file: it is recognised, or it is as it was. */
static void damaged(void **state)
{
    unsigned seed = 1, known = 0;
    struct raw c;
    char path[800];
    for (int i = 0; i < 150; i++) {
        struct stat st;
        clean();
        file();
        server_start(i % 3 ? "op-deed:2" : "op-begun:2");
        meet(&c, ME, P9_SESSION_REMEMBERS);
        struct p9_msg m = {
            .type = P9_Tmkdir, .name = S("d"), .mode = 0755, .gid = getegid(), .op = 1};
        struct p9_msg un = {.type = P9_Tunlinkat, .name = S("f"), .op = 2};
        assert_int_equal(ask(&c, m), 0);
        assert_int_equal(ask(&c, un), DEAD);
        server_wait();
        raw_close(&c);
        memory(path);
        int fd = open(path, O_RDWR);
        assert_true(fd >= 0 && fstat(fd, &st) == 0);
        if (i % 10 == 0) {
            assert_int_equal(ftruncate(fd, rand_r(&seed) % (2 * st.st_size)), 0);
        } else {
            for (int k = 0; k < 1 + i % 4; k++) { /* mostly where something is */
                uint8_t b = (uint8_t)rand_r(&seed);
                assert_int_equal(pwrite(fd, &b, 1, rand_r(&seed) % (i % 2 ? 600 : st.st_size)), 1);
            }
        }
        close(fd);
        server_start(NULL);
        int flags = meet_flags(&c, ME);
        int r = ask(&c, m);
        assert_int_equal(r, flags & P9_SESSION_KNOWN ? 0 : -EEXIST);
        assert_true(ask(&c, un) != DEAD);
        known += (flags & P9_SESSION_KNOWN) != 0;
        raw_close(&c);
        server_kill();
    }
    assert_in_range(known, 1, 140);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, once_setup, once_teardown)
    const struct CMUnitTest tests[] = {
        T(errors),           T(one_winner),    T(both_in_hand), T(appended),
        T(appended_by_both), T(limited),       T(driven_out),   T(old),
        T(two_servers),      T(started_later), T(damaged)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
