/* SPDX-License-Identifier: MIT */
/* As root the host source acts with the caller's credentials; as anybody else, as itself. */
#include "host_fixture.h"

#include "base/cred.h"

#include <grp.h>
#include <pthread.h>
#include <sys/fsuid.h>
#include <sys/xattr.h>

static struct pl_call nobody, root_call, member;
static const gid_t groups[] = {4321, 1234, 99};

static int group_setup(void **state)
{
    setup(state);
    pl_call_init(&nobody, 65534, 65534);
    pl_call_init(&root_call, 0, 0);
    pl_call_init(&member, 65533, 65533);
    member.cred.groups = groups;
    member.cred.ngroups = 3;
    return 0;
}

static int group_teardown(void **state)
{
    pl_call_done(&nobody);
    pl_call_done(&root_call);
    pl_call_done(&member);
    return teardown(state);
}

static struct pl_node *file(const char *name, uid_t uid, gid_t gid, mode_t mode)
{
    put(host(name), "content");
    assert_int_equal(chown(host(name), uid, gid), 0);
    assert_int_equal(chmod(host(name), mode), 0);
    return node(name);
}

static int opens(struct pl_call *who, struct pl_node *n, int flags)
{
    struct pl_file *f;
    int r = pl_open(t, who, n, flags, &f);
    if (r == 0)
        pl_close(t, who, f);
    return r;
}

static void permission(void **state)
{
    struct pl_node *own = file("own", 65534, 65534, 0600), *grp = file("grp", 0, 1234, 0640),
                   *none = file("none", 0, 0, 0600), *n;
    assert_int_equal(opens(&nobody, own, O_RDWR), 0);
    assert_int_equal(opens(&nobody, none, O_RDONLY), -EACCES);
    assert_int_equal(opens(&nobody, grp, O_RDONLY), -EACCES);
    assert_int_equal(opens(&member, grp, O_RDONLY), 0);
    assert_int_equal(opens(&member, grp, O_RDWR), -EACCES);
    assert_int_equal(opens(&member, own, O_RDONLY), -EACCES);
    assert_int_equal(opens(&root_call, own, O_RDWR), 0);
    assert_int_equal(opens(&root_call, none, O_RDWR), 0);
    assert_int_equal(pl_access(t, &nobody, none, R_OK), -EACCES);
    assert_int_equal(pl_access(t, &member, grp, R_OK), 0);
    struct pl_setattr set = {.valid = PL_SET_MODE, .mode = 0644};
    assert_int_equal(pl_setattr(t, &nobody, none, NULL, &set, &at), -EPERM);
    assert_int_equal(pl_setattr(t, &nobody, own, NULL, &set, &at), 0);
    set = (struct pl_setattr){.valid = PL_SET_UID, .uid = 0};
    assert_int_equal(pl_setattr(t, &nobody, own, NULL, &set, &at), -EPERM);
    /* directories are searched with the caller's rights */
    assert_int_equal(mkdir(host("closed"), 0700), 0);
    put(host("closed/f"), "");
    struct pl_node *d = node("closed");
    assert_int_equal(pl_lookup(t, &nobody, d, "f", &n, &at), -EACCES);
    assert_int_equal(pl_remove(t, &nobody, root, "own", 0), -EACCES);
    assert_int_equal(pl_rename(t, &nobody, root, "own", root, "x", 0), -EACCES);
    pl_node_unref(d);
    pl_node_unref(own);
    pl_node_unref(grp);
    pl_node_unref(none);
}

static void ownership(void **state)
{
    struct pl_node *n;
    struct pl_file *f;
    assert_int_equal(chmod(real, 0777), 0);
    nobody.umask = 022;
    assert_int_equal(pl_create(t, &nobody, root, "f", O_RDWR, 0666, &n, &at, &f), 0);
    assert_int_equal(at.uid, 65534);
    assert_int_equal(at.gid, 65534);
    assert_int_equal(at.mode & 07777, 0644);
    pl_close(t, &nobody, f);
    pl_node_unref(n);
    struct pl_make mk = {.mode = S_IFDIR | 0777};
    assert_int_equal(pl_make(t, &member, root, "d", &mk, &n, &at), 0);
    assert_int_equal(at.uid, 65533);
    assert_int_equal(at.mode & 07777, 0777);
    pl_node_unref(n);
    mk = (struct pl_make){.mode = S_IFCHR | 0600, .rdev_major = 1, .rdev_minor = 3};
    assert_int_equal(pl_make(t, &nobody, root, "null", &mk, &n, &at), -EPERM);
    root_call.cred.gid = 77;
    assert_int_equal(pl_create(t, &root_call, root, "r", O_RDWR, 0666, &n, &at, &f), 0);
    root_call.cred.gid = 0;
    assert_int_equal(at.uid, 0);
    assert_int_equal(at.gid, 77);
    pl_close(t, &root_call, f);
    pl_node_unref(n);
    /* a test's main thread is never left as another */
    assert_int_equal(setfsuid((uid_t)-1), 0);
    assert_int_equal(setfsgid((gid_t)-1), getegid());
    put(host("by-root"), "");
    mode_t mask = umask(022);
    umask(mask);
    assert_int_equal(mask & 0777, 022);
}

/* Writing by others than root takes set-user-ID away; capabilities are really gone. */
static void capabilities(void **state)
{
    struct pl_node *n = file("suid", 0, 0, 04777);
    struct pl_file *f;
    struct stat st;
    assert_int_equal(pl_open(t, &nobody, n, O_WRONLY, &f), 0);
    assert_int_equal(pl_write(t, &root_call, f, "x", 1, 0), 1);
    assert_int_equal(stat(host("suid"), &st), 0);
    assert_true(st.st_mode & S_ISUID);
    assert_int_equal(pl_write(t, &nobody, f, "x", 1, 0), 1);
    assert_int_equal(stat(host("suid"), &st), 0);
    assert_false(st.st_mode & S_ISUID);
    pl_close(t, &nobody, f);
    assert_int_equal(pl_setxattr(t, &nobody, n, "trusted.x", "1", 1, 0), -EPERM);
    assert_int_equal(pl_setxattr(t, &nobody, n, "security.x", "1", 1, 0), -EPERM);
    assert_int_equal(pl_setxattr(t, &root_call, n, "trusted.x", "1", 1, 0), 0);
    char list[100];
    ssize_t len = pl_listxattr(t, &nobody, n, list, sizeof(list));
    assert_true(len >= 0 && !memmem(list, (size_t)len, "trusted.", 8));
    pl_node_unref(n);
}

/* A program that may be run but not read can be opened to be run. */
static void executing(void **state)
{
    const int exec = 0x20; /* FMODE_EXEC, as FUSE passes it on */
    struct pl_node *x = file("x", 0, 0, 0711), *r = file("r", 0, 0, 0700);
    assert_int_equal(opens(&nobody, x, O_RDONLY), -EACCES);
    assert_int_equal(opens(&nobody, x, O_RDONLY | exec), 0);
    assert_int_equal(opens(&nobody, x, O_RDWR | exec), -EACCES);
    assert_int_equal(opens(&nobody, r, O_RDONLY | exec), -EACCES);
    pl_node_unref(x);
    pl_node_unref(r);
}

static void *own_again(void *arg)
{
    long bad = 0;
    cred_reset();
    bad += setfsuid((uid_t)-1) != 0;
    bad += access("/proc/1/environ", R_OK) != 0;
    return (void *)bad;
}

/* In a worker thread credentials stay until others are asked for; those of other threads do not
 * change, and what needs privileges (finding a node again) still works. A thread that it starts
 * begins with them too, and has the process's own when it says so. */
static void *worker(void *arg)
{
    struct pl_node **n = arg;
    long bad = 0;
    bad += opens(&member, n[0], O_RDONLY) != 0;
    bad += setfsuid((uid_t)-1) != 65533;
    gid_t have[10];
    bad += getgroups(10, have) != 3 || have[0] == have[1];
    bad += opens(&nobody, n[0], O_RDONLY) != -EACCES;
    bad += setfsuid((uid_t)-1) != 65534;
    bad += getgroups(10, have) != 0;
    struct pl_attr a;
    for (int i = 0; i < 700; i++)
        bad += pl_getattr(t, &nobody, n[i], NULL, &a) != 0;
    bad += opens(&nobody, n[1], O_RDONLY) != -EACCES;
    bad += opens(&root_call, n[1], O_RDONLY) != 0;
    bad += opens(&nobody, n[1], O_RDONLY) != -EACCES;
    bad += opens(&nobody, n[0], O_RDONLY) != -EACCES;
    pthread_t heir;
    void *heir_bad;
    bad += pthread_create(&heir, NULL, own_again, NULL) != 0;
    bad += pthread_join(heir, &heir_bad) != 0 || heir_bad;
    bad += setfsuid((uid_t)-1) != 65534;
    bad += (intptr_t)own_again(NULL);
    return (void *)bad;
}

static void threads(void **state)
{
    static struct pl_node *n[700];
    char name[20];
    n[0] = file("grp", 0, 1234, 0640);
    for (int i = 1; i < 700; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        n[i] = file(name, 0, 0, 0600);
    }
    pthread_t one, two;
    void *bad;
    assert_int_equal(pthread_create(&one, NULL, worker, n), 0);
    assert_int_equal(pthread_create(&two, NULL, worker, n), 0);
    assert_int_equal(pthread_join(one, &bad), 0);
    assert_null(bad);
    assert_int_equal(pthread_join(two, &bad), 0);
    assert_null(bad);
    assert_int_equal(setfsuid((uid_t)-1), 0);
    for (int i = 0; i < 700; i++)
        pl_node_unref(n[i]);
}

/* As an ordinary user: as itself, whatever the call says. */
static void ordinary(void **state)
{
    assert_int_equal(chown(real, 65534, 65534), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        /* cred.c has seen this process as root: what a user sees needs a fresh one */
        execl("/proc/self/exe", "host_cred", "--as-user", real, NULL);
        _exit(99);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    struct stat st;
    assert_int_equal(stat(host("made"), &st), 0);
    assert_int_equal(st.st_uid, 65534);
    assert_int_equal(st.st_mode & 07777, 0640);
}

static int as_user(const char *dir)
{
    struct pl_err err;
    struct pl_node *n;
    struct pl_file *f;
    uint8_t key[PL_KEY_MAX];
    int e = 0;
    if (setgroups(0, NULL) < 0 || setgid(65534) < 0 || setuid(65534) < 0)
        return 1;
    if (pl_host_open(dir, &t, &err) < 0)
        return 2;
    pl_call_init(c, 0, 0); /* pretends to be root */
    c->umask = 027;
    if (pl_attach(t, c, "", &root, &at) < 0)
        return 3;
    e = pl_create(t, c, root, "made", O_RDWR, 0666, &n, &at, &f);
    if (e < 0 || pl_write(t, c, f, "x", 1, 0) != 1 || pl_close(t, c, f) < 0)
        return 4;
    int len = pl_key(t, c, n, key);
    if (len <= 0 || key[0] != 'N')
        return 5;
    pl_node_unref(n);
    if (pl_find(t, c, key, (size_t)len, &n, &at) < 0)
        return 6;
    struct pl_setattr set = {.valid = PL_SET_UID, .uid = 0};
    if (pl_setattr(t, c, n, NULL, &set, &at) != -EPERM)
        return 7;
    pl_node_unref(n);
    shut();
    if (pl_host_open("/root/none", &t, &err) != -EACCES || !strstr(err.text, "no permission"))
        return 8;
    return 0;
}

static int group(void)
{
#define T(x) cmocka_unit_test_setup_teardown(x, group_setup, group_teardown)
    const struct CMUnitTest tests[] = {T(permission), T(ownership), T(capabilities),
                                       T(executing),  T(threads),   T(ordinary)};
    return cmocka_run_group_tests_name("host_cred", tests, NULL, NULL);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "--as-user"))
        return as_user(argv[2]);
    if (geteuid() != 0 || !cred_able())
        return 77;
    umask(022);
    return run_variants(group);
}
