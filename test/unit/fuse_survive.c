/* SPDX-License-Identifier: MIT */
/*
 * Under a real kernel: servers of one mount are killed one after the other at random instants while
 * programs work on it, each of which knows what must hold. Nothing fails, nothing is done twice.
 * The servers are clones of this process and share its table of descriptors; this process never
 * touches the mount.
 */
#include "abort_file.h"
#include "doors/fuse.h"
#include "each_fd.h"
#include "fuse/proto.h"
#include <errno.h>
#include <fcntl.h>
#include <plenum/plenum.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define LIMIT 100 /* seconds until the alarm takes a hanging mount away */

static struct {
    char dir[40], data[40];
    int fuse, abort;
    pid_t server;
    struct ledger ledger;
    struct stats *stats;
    bool ours[4096], claimed[4096];
    atomic_bool *over;
    unsigned deaths;
} now;

static void hangs(int sig)
{
    static const char text[] = "the mount hangs: aborted\n";
    ssize_t n = write(2, text, sizeof(text) - 1);
    n = write(now.abort, "1", 1);
    (void)n;
    umount2(now.dir, MNT_DETACH);
    if (now.server > 0)
        kill(now.server, SIGKILL);
    _exit(1);
}

/* ---- servers --------------------------------------------------------------------------------- */

static void is_ours(int fd)
{
    now.ours[fd] = true;
}

static void is_claimed(void *arg, int fd)
{
    now.claimed[fd] = true;
}

static unsigned strangers;

static void sweep_fd(int fd)
{
    if (!now.ours[fd] && !now.claimed[fd]) {
        close(fd);
        strangers++;
    }
}

static void sweep(void)
{
    memset(now.claimed, 0, sizeof(now.claimed));
    ledger_claims(&now.ledger, is_claimed, NULL);
    strangers = 0;
    each_fd(sweep_fd);
}

static void server_main(void)
{
    struct pl_err err = {0};
    struct pl_tree *t;
    struct fuse_opts opts;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGALRM, SIG_DFL);
    if (pl_host_open(now.data, &t, &err) < 0)
        _exit(99);
    pl_keep(t, now.ledger.keep);
    fuse_opts_init(&opts);
    opts.kernel_checks = true;
    opts.ledger = &now.ledger;
    int r = fuse_serve(now.fuse, t, "", &opts, now.stats, NULL, NULL, &err);
    if (r < 0)
        fprintf(stderr, "server: %s\n", err.text);
    pl_tree_unref(t);
    exit(-r); /* with exit handlers: LeakSanitizer's */
}

static void server_start(void)
{
    fflush(NULL);
    now.server = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
    assert_true(now.server >= 0);
    if (now.server == 0)
        server_main();
}

/* ---- programs: each in a directory of its own; the line of the first surprise is its status ----
 */

#define MUST(x)                                                                                    \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #x, strerror(errno));  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static bool over(void)
{
    return atomic_load(now.over);
}

/* Names come and go; each must be as it was left. */
static void names(void)
{
    enum { N = 24 };
    int kind[N] = {0}; /* 0 nothing, 1 file, 2 directory, 3 symlink */
    char name[16], to[16];
    struct stat st;
    srand(1);
    while (!over()) {
        int i = rand() % N, j = rand() % N;
        snprintf(name, sizeof(name), "n%d", i);
        snprintf(to, sizeof(to), "n%d", j);
        int what = rand() % 8;
        if (what < 5 && !kind[i]) {
            if (what < 2)
                MUST(mkdir(name, 0755) == 0);
            else if (what == 2)
                MUST(symlink("where", name) == 0);
            else {
                int fd = open(name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0400);
                MUST(fd >= 0);
                MUST(write(fd, name, 3) == 3);
                MUST(close(fd) == 0);
            }
            kind[i] = what < 2 ? 2 : what == 2 ? 3 : 1;
        } else if (what == 5 && kind[i] && !kind[j]) {
            MUST(rename(name, to) == 0);
            kind[j] = kind[i];
            kind[i] = 0;
        } else if (what == 6 && kind[i] == 1 && !kind[j]) {
            MUST(link(name, to) == 0);
            kind[j] = 1;
        } else if (what == 7 && kind[i]) {
            MUST((kind[i] == 2 ? rmdir(name) : unlink(name)) == 0);
            kind[i] = 0;
        } else if (kind[i] && kind[j] && i != j) {
            MUST(renameat2(AT_FDCWD, name, AT_FDCWD, to, RENAME_EXCHANGE) == 0);
            int k = kind[i];
            kind[i] = kind[j];
            kind[j] = k;
        }
        int r = lstat(name, &st);
        MUST(kind[i] ? r == 0 : r < 0 && errno == ENOENT);
        static const mode_t fmt[] = {0, S_IFREG, S_IFDIR, S_IFLNK};
        MUST(!kind[i] || (st.st_mode & S_IFMT) == fmt[kind[i]]);
    }
}

/* Lines are appended, by several descriptors; each must be there once, in order. */
static void lines(void)
{
    char text[32], got[32];
    int fd[3];
    unsigned n = 0;
    for (int i = 0; i < 3; i++) {
        fd[i] = open("lines", O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0644);
        MUST(fd[i] >= 0);
    }
    for (; !over(); n++) {
        int len = snprintf(text, sizeof(text), "%u\n", n / 3); /* each three times */
        MUST(write(fd[n % 3], text, (size_t)len) == len);
    }
    FILE *f = fopen("lines", "r");
    MUST(f);
    for (unsigned i = 0; i < n; i++) {
        snprintf(text, sizeof(text), "%u\n", i / 3);
        MUST(fgets(got, sizeof(got), f));
        if (strcmp(got, text))
            fprintf(stderr, "line %u of %u: %s instead of %s", i, n, got, text);
        MUST(!strcmp(got, text));
    }
    MUST(!fgets(got, sizeof(got), f));
}

/* A file without a name, and one that is written anew each time. */
static void bytes(void)
{
    static unsigned char model[65536], got[65536];
    int fd = open("gone", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    MUST(fd >= 0 && unlink("gone") == 0);
    MUST(ftruncate(fd, sizeof(model)) == 0);
    srand(2);
    for (unsigned round = 0; !over(); round++) {
        size_t at = (size_t)rand() % 60000, n = (size_t)rand() % 5000 + 1;
        memset(model + at, (int)round, n);
        MUST(pwrite(fd, model + at, n, (off_t)at) == (ssize_t)n);
        if (round % 4 == 0) {
            MUST(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
            MUST(pread(fd, got, sizeof(got), 0) == sizeof(got));
            MUST(!memcmp(got, model, sizeof(got)));
        }
        char text[64], back[64];
        int len = snprintf(text, sizeof(text), "%0*u", (int)(round % 50) + 1, round);
        int w = open("anew", O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0644);
        MUST(w >= 0 && write(w, text, (size_t)len) == len);
        MUST(pread(w, back, sizeof(back), 0) == len && !memcmp(back, text, (size_t)len));
        MUST(close(w) == 0);
    }
}

/* A number in a file goes up under a lock; two do this. */
static void counted(void)
{
    struct flock fl = {.l_type = F_WRLCK}, un = {.l_type = F_UNLCK};
    unsigned mine = 0, n = 0, before;
    int fd = open("../counter", O_CREAT | O_RDWR | O_CLOEXEC, 0666);
    MUST(fd >= 0);
    for (; !over(); mine++) {
        MUST(fcntl(fd, F_SETLKW, &fl) == 0);
        before = n;
        MUST(pread(fd, &n, sizeof(n), 0) >= 0);
        MUST(n >= before);
        n++;
        MUST(pwrite(fd, &n, sizeof(n), 0) == sizeof(n));
        MUST(fcntl(fd, F_SETLK, &un) == 0);
    }
    int sum = open("sum", O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    MUST(write(sum, &mine, sizeof(mine)) == sizeof(mine));
}

/* Entries that neither come nor go are listed once each. */
static void listed(void)
{
    enum { N = 500 };
    char name[16];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "e%d", i);
        int fd = open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
        MUST(fd >= 0);
        close(fd);
    }
    for (int round = 0; !over(); round++) {
        unsigned char seen[N] = {0};
        struct stat st;
        DIR *d = opendir(".");
        MUST(d);
        int i;
        for (struct dirent *e; (e = readdir(d));) {
            if (sscanf(e->d_name, "e%d", &i) != 1)
                continue;
            MUST(i >= 0 && i < N && !seen[i]++);
            MUST(round % 2 || (fstatat(dirfd(d), e->d_name, &st, 0) == 0 && st.st_ino == e->d_ino));
        }
        closedir(d);
        MUST(mkdir("x", 0755) == 0 && rmdir("x") == 0); /* so that it is not all cached */
        for (i = 0; i < N; i++)
            MUST(seen[i] == 1);
    }
}

static void (*const programs[])(void) = {names, lines, bytes, counted, counted, listed};
#define PROGRAMS (sizeof(programs) / sizeof(*programs))

static pid_t program_start(size_t i)
{
    char dir[64];
    fflush(NULL);
    pid_t p = fork();
    assert_true(p >= 0);
    if (p > 0)
        return p;
    signal(SIGALRM, SIG_DFL);
    snprintf(dir, sizeof(dir), "%s/p%zu", now.dir, i);
    if (mkdir(dir, 0755) < 0 || chdir(dir) < 0) {
        perror(dir);
        exit(1);
    }
    programs[i]();
    exit(0);
}

/* ---- the test -------------------------------------------------------------------------------- */

/* The device of the mount, as mountinfo tells: to ask the mount itself would wait for a server. */
static dev_t device(void)
{
    char line[512], dir[256];
    unsigned major_, minor_, found = 0;
    FILE *f = fopen("/proc/self/mountinfo", "re");
    while (!found && fgets(line, sizeof(line), f))
        found = sscanf(line, "%*d %*d %u:%u %*s %255s", &major_, &minor_, dir) == 3 &&
                !strcmp(dir, now.dir);
    fclose(f);
    assert_true(found);
    return makedev(major_, minor_);
}

static bool mounted(void)
{
    char o[128];
    strcpy(now.dir, "/tmp/plenum-survive.XXXXXX");
    strcpy(now.data, "/dev/shm/plenum-data.XXXXXX");
    assert_non_null(mkdtemp(now.dir));
    assert_non_null(mkdtemp(now.data));
    now.fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    snprintf(o, sizeof(o),
             "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", now.fuse);
    if (now.fuse < 0 || mount("plenum-test", now.dir, "fuse.plenum", 0, o) < 0) {
        rmdir(now.dir);
        rmdir(now.data);
        return false;
    }
    now.stats = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    now.over = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    now.abort = abort_file(device());
    assert_true(now.abort >= 0);
    assert_int_equal(ledger_new(&now.ledger, 0, true), 0);
    signal(SIGALRM, hangs);
    alarm(LIMIT);
    each_fd(is_ours);
    return true;
}

static void sleep_for(long us)
{
    nanosleep(&(struct timespec){us / 1000000, us % 1000000 * 1000}, NULL);
}

static unsigned number(const char *path)
{
    char at[128];
    unsigned n = 0;
    snprintf(at, sizeof(at), "%s/%s", now.data, path);
    int fd = open(at, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, &n, sizeof(n)), sizeof(n));
    close(fd);
    return n;
}

static void unmount(void)
{
    char cmd[128];
    int status;
    assert_int_equal(umount2(now.dir, 0), 0);
    assert_int_equal(waitpid(now.server, &status, 0), now.server);
    now.server = 0;
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    alarm(0);
    sweep();
    assert_int_equal(strangers, 0); /* it has left nothing open */
    close(now.abort);
    close(now.fuse);
    ledger_unmap(&now.ledger);
    rmdir(now.dir);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", now.data);
    assert_int_equal(system(cmd), 0);
}

/* The server dies, and another carries on: 1 if it had come to its own end. */
static int replace(void)
{
    int status, failed = 0;
    kill(now.server, SIGKILL);
    assert_int_equal(waitpid(now.server, &status, 0), now.server);
    if (!WIFSIGNALED(status)) {
        fprintf(stderr, "a server ended with %d\n", WEXITSTATUS(status));
        failed = 1;
    }
    sweep();
    server_start();
    return failed;
}

/* The kernel is told to ask again although the server lives: it has in hand what comes again, or
 * has just answered it. */
static int ask_again(void)
{
    struct fuse_out_header h = {sizeof(h), FUSE_NOTIFY_RESEND, 0};
    assert_int_equal(write(now.fuse, &h, sizeof(h)), sizeof(h));
    return 0;
}

static void disturbed(int (*disturb)(int i), int times)
{
    pid_t p[PROGRAMS];
    const char *text = getenv("PLENUM_KILLS");
    int failed = 0, status;
    times = text ? atoi(text) : times;
    if (!mounted())
        skip();
    server_start();
    for (size_t i = 0; i < PROGRAMS; i++)
        p[i] = program_start(i);
    srand(3);
    for (int i = 0; i < times; i++)
        failed += disturb(i);
    atomic_store(now.over, true);
    for (size_t i = 0; i < PROGRAMS; i++) {
        assert_int_equal(waitpid(p[i], &status, 0), p[i]);
        failed += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    }
    assert_int_equal(failed, 0);
    assert_int_equal(number("counter"), number("p3/sum") + number("p4/sum"));
    unmount();
}

static int kill_it(int i)
{
    sleep_for(rand() % 3 ? rand() % 3000 : rand() % 60000);
    return replace();
}

static int ask_and_kill(int i)
{
    sleep_for(rand() % 400);
    return i % 200 == 199 ? replace() : ask_again();
}

static void killed_at_random(void **state)
{
    disturbed(kill_it, 150);
}

static void asked_again(void **state)
{
    disturbed(ask_and_kill, 4000);
}

static int clean(void **state)
{
    if (!now.server)
        return 0;
    ssize_t n = write(now.abort, "1", 1);
    (void)n;
    umount2(now.dir, MNT_DETACH);
    kill(now.server, SIGKILL);
    waitpid(now.server, NULL, 0);
    rmdir(now.dir);
    char cmd[128];
    snprintf(cmd, sizeof(cmd), "rm -rf %s", now.data);
    n = system(cmd);
    return -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(killed_at_random, clean),
        cmocka_unit_test_teardown(asked_again, clean),
    };
    if (getuid() != 0 || access("/dev/fuse", R_OK | W_OK) < 0)
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
