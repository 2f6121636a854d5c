/* SPDX-License-Identifier: MIT */
/* The registry, in a directory of its own: as root under a /run that only this test sees. */
#include "keeper/registry.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char runtime[64]; /* our XDG_RUNTIME_DIR */
static char where[128];  /* where entries land */

static int count_files(const char *dir)
{
    DIR *d = opendir(dir);
    int n = 0;
    if (!d)
        return -1;
    for (struct dirent *de; (de = readdir(d));)
        n += de->d_name[0] != '.';
    closedir(d);
    return n;
}

static int count(void *arg, struct reg_page *page)
{
    ++*(int *)arg;
    return 0;
}

static int live(void)
{
    int n = 0;
    assert_int_equal(reg_each(count, &n), 0);
    return n;
}

static void entry(void **state)
{
    struct reg_entry *a, *b;
    struct reg_page *pa, *pb;
    assert_int_equal(live(), 0);
    assert_int_equal(reg_add("mount", "/a", "ro(mem:)", &a, &pa), 0);
    assert_int_equal(reg_add("serve", NULL, "host:/srv", &b, &pb), 0);
    assert_int_equal(live(), 2);
    assert_int_equal(count_files(where), 2);

    struct stat st;
    assert_int_equal(stat(where, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);

    reg_set_state(pa, "up");
    reg_set_peer(pa, "tcp!127.0.0.1!564");
    stats_add(&pa->stats.requests, 7);
    atomic_store(&pa->server, 42);
    struct reg_page *p = reg_find("/a");
    assert_non_null(p);
    assert_ptr_not_equal(p, pa);
    assert_string_equal(p->kind, "mount");
    assert_string_equal(p->dir, "/a");
    assert_string_equal(p->spec, "ro(mem:)");
    assert_string_equal(p->state, "up");
    assert_string_equal(p->peer, "tcp!127.0.0.1!564");
    assert_int_equal(p->stats.requests, 7);
    assert_int_equal(p->server, 42);
    assert_true(p->started > 1700000000);
    reg_del(a);
    assert_int_equal(p->stats.requests, 7); /* what was found stays readable */
    reg_put(p);
    assert_null(reg_find("/a"));
    assert_int_equal(live(), 1);
    reg_del(b);
    reg_del(NULL);
    assert_int_equal(count_files(where), 0);
}

/* Strings of any length are cut and end. */
static void long_strings(void **state)
{
    char big[8192];
    struct reg_entry *e;
    struct reg_page *p;
    memset(big, 'x', sizeof(big));
    big[sizeof(big) - 1] = 0;
    assert_int_equal(reg_add("mount", big, big, &e, &p), 0);
    reg_set_peer(p, big);
    reg_set_state(p, big);
    assert_int_equal(strlen(p->dir), sizeof(p->dir) - 1);
    assert_int_equal(strlen(p->spec), sizeof(p->spec) - 1);
    assert_int_equal(strlen(p->peer), sizeof(p->peer) - 1);
    assert_int_equal(strlen(p->state), sizeof(p->state) - 1);
    assert_int_equal(live(), 1);
    reg_del(e);
}

/* Adds an entry in a child, tells when it is there, and waits. */
static pid_t holder(int *ret_fd, bool fork_again)
{
    int fd[2];
    assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct reg_entry *e;
        struct reg_page *p;
        alarm(60);
        if (reg_add("mount", "/held", "mem:", &e, &p) < 0)
            _exit(1);
        pid_t second = fork_again ? fork() : getpid();
        if (second && write(fd[1], &second, sizeof(second)) != sizeof(second))
            _exit(1);
        for (;;)
            pause();
    }
    close(fd[1]);
    *ret_fd = fd[0];
    return pid;
}

/* A keeper that was killed leaves a wreck, which the next reader removes; but not while its server
 * still lives. */
static void wreck(void **state)
{
    int fd;
    pid_t second, pid = holder(&fd, false);
    assert_int_equal(read(fd, &second, sizeof(second)), sizeof(second));
    assert_int_equal(live(), 1);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(count_files(where), 1);
    assert_int_equal(live(), 0);
    assert_int_equal(count_files(where), 0);
    close(fd);

    pid = holder(&fd, true);
    assert_int_equal(read(fd, &second, sizeof(second)), sizeof(second));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(live(), 1);
    kill(second, SIGKILL);
    /* not our child: the end of the pipe, which it held too, says that it is gone */
    assert_int_equal(read(fd, &second, 1), 0);
    assert_int_equal(live(), 0);
    assert_int_equal(count_files(where), 0);
    close(fd);
}

/* Orders to the keeper of a mount, and another process that takes its entry over. */
static void orders(void **state)
{
    struct reg_entry *e, *heir;
    struct reg_page *p, *same;
    const char *name;
    int fd, dir;
    assert_int_equal(reg_add("mount", "/a", "mem:", &e, &p), 0);
    assert_int_equal(reg_dial("/a"), -ENOENT); /* it takes none yet */
    int l = reg_listen(e);
    assert_true(l >= 0);
    assert_int_equal(count_files(where), 2);
    assert_int_equal(live(), 1);
    int c = reg_dial("/a");
    assert_true(c >= 0);
    int s = accept4(l, NULL, NULL, SOCK_CLOEXEC);
    assert_true(s >= 0);
    assert_int_equal(send(c, "x", 1, 0), 1);
    char x;
    assert_int_equal(recv(s, &x, 1, 0), 1);
    assert_int_equal(reg_dial("/b"), -ENOENT);
    close(c);
    close(s);

    assert_true(reg_fds(e, &fd, &dir, &name));
    assert_int_equal(reg_adopt(fcntl(fd, F_DUPFD_CLOEXEC, 3), fcntl(dir, F_DUPFD_CLOEXEC, 3), name,
                               &heir, &same),
                     0);
    assert_string_equal(same->dir, "/a");
    reg_set_state(same, "up");
    assert_string_equal(p->state, "up");
    same->version++; /* of a program that is not ours */
    struct reg_entry *none;
    struct reg_page *nothing;
    assert_int_equal(reg_adopt(fcntl(fd, F_DUPFD_CLOEXEC, 3), fcntl(dir, F_DUPFD_CLOEXEC, 3), name,
                               &none, &nothing),
                     -EPROTO);
    same->version--;
    close(l);
    assert_int_equal(reg_dial("/a"), -ENOENT); /* its keeper is gone */
    reg_del(heir);
    assert_int_equal(count_files(where), 0);
    reg_del(e);
    assert_int_equal(live(), 0);
}

/* What else may lie there: a file half made and abandoned goes; one that somebody holds stays and
 * is not shown; what is not ours by name is left alone. */
static void leftovers(void **state)
{
    char path[256];
    struct stat st;
    struct reg_entry *e;
    struct reg_page *p;
    assert_int_equal(reg_add("mount", "/x", "mem:", &e, &p), 0);
    snprintf(path, sizeof(path), "%s/mount-1-0", where);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(live(), 1);
    assert_int_equal(stat(path, &st), -1);
    atomic_store(&p->magic, 0); /* being made */
    assert_int_equal(live(), 0);
    assert_int_equal(count_files(where), 1);
    reg_del(e);
    snprintf(path, sizeof(path), "%s/README", where);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(live(), 0);
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof(path), "%s/mount-fifo", where);
    assert_int_equal(mkfifo(path, 0600), 0); /* must not block */
    assert_int_equal(live(), 0);
    assert_int_equal(unlink(path), 0);
}

/* Readers that clear wrecks all the time never take a file from under its maker. */
static void race(void **state)
{
    pid_t reader[2];
    for (int i = 0; i < 2; i++) {
        reader[i] = fork();
        assert_true(reader[i] >= 0);
        if (reader[i] == 0) {
            alarm(60);
            for (int n = 0;; n = 0)
                reg_each(count, &n);
        }
    }
    for (int i = 0; i < 500; i++) {
        struct reg_entry *e;
        struct reg_page *p;
        assert_int_equal(reg_add("duct", "/r", "mem:", &e, &p), 0);
        assert_int_equal(live(), 1);
        reg_del(e);
    }
    for (int i = 0; i < 2; i++) {
        kill(reader[i], SIGKILL);
        waitpid(reader[i], NULL, 0);
    }
    assert_int_equal(count_files(where), 0);
}

/* A directory that others could have put there is not used; a mount goes on with a private page. */
static void not_private(void **state)
{
    struct reg_entry *e;
    struct reg_page *p;
    struct stat st;
    if (geteuid() == 0) /* leave only the second place */
        assert_int_equal(mount(NULL, "/run", NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
    char path[128], tmp[64], kept[80];
    bool had_tmp;
    snprintf(path, sizeof(path), "%s/plenum", runtime);
    snprintf(tmp, sizeof(tmp), "/tmp/plenum-%u", geteuid());
    snprintf(kept, sizeof(kept), "%s.test-%d", tmp, getpid());

    /* with /run not writable, entries land in the runtime directory */
    assert_int_equal(reg_add("mount", "/p", "mem:", &e, &p), 0);
    assert_int_equal(count_files(path), 1);
    assert_int_equal(live(), 1);
    reg_del(e);

    had_tmp = geteuid() != 0 && rename(tmp, kept) == 0;
    assert_int_equal(chmod(path, 0755), 0);
    assert_int_equal(symlink("/etc", tmp), 0);
    int rc = reg_add("mount", "/p", "mem:", &e, &p);
    unlink(tmp);
    assert_true(rc == -EPERM || rc == -ELOOP || rc == -ENOTDIR);
    assert_non_null(p);
    assert_string_equal(p->dir, "/p");
    stats_add(&p->stats.requests, 1);
    assert_int_equal(p->stats.requests, 1);
    assert_int_equal(live(), 0);
    reg_del(e);
    assert_int_equal(chmod(path, 0700), 0);

    /* neither place: the last one */
    unsetenv("XDG_RUNTIME_DIR");
    assert_int_equal(reg_add("mount", "/p", "mem:", &e, &p), 0);
    assert_int_equal(lstat(tmp, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(live(), 1);
    reg_del(e);
    rmdir(tmp);
    if (had_tmp)
        assert_int_equal(rename(kept, tmp), 0);
    setenv("XDG_RUNTIME_DIR", runtime, 1);
    if (geteuid() == 0)
        assert_int_equal(mount(NULL, "/run", NULL, MS_REMOUNT, NULL), 0);
}

#define THREADS 4
#define LINES   20000

static void *write_lines(void *arg)
{
    struct reg_page *p = arg;
    static _Atomic int number;
    int me = atomic_fetch_add(&number, 1) % THREADS;
    for (int i = 0; i < LINES; i++)
        reg_trace(p, "thread %d line %d %.*s", me, i, i % 64,
                  "................................................................");
    return NULL;
}

/* In a process of its own: reads until the last line came; every line must be whole, and each
 * thread's in order, with gaps only when the reader was told of them. */
static int read_lines(struct reg_page *p, int ready)
{
    uint64_t pos = atomic_load(&p->trace_head);
    int next[THREADS] = {0};
    char buf[8192];
    bool lost = false;
    reg_trace_ask(p, INT64_C(60000000000));
    if (write(ready, "r", 1) != 1)
        return 1;
    for (;;) {
        size_t n = reg_trace_read(p, &pos, buf, sizeof(buf), &lost);
        if (n == 0)
            sched_yield();
        for (char *s = buf; s < buf + n;) {
            char *end = memchr(s, '\n', (size_t)(buf + n - s));
            int t, line, dots = 0, used = 0;
            if (!end)
                return 2;
            *end = 0;
            if (strcmp(s, "end") == 0)
                return 0;
            if (sscanf(s, "thread %d line %d %n", &t, &line, &used) != 2 || t < 0 || t >= THREADS)
                return 3;
            for (char *c = s + used; *c == '.'; c++)
                dots++;
            if (dots != line % 64 || s + used + dots != end)
                return 4;
            if (line < next[t] || (!lost && line != next[t]))
                return 5;
            next[t] = line + 1;
            s = end + 1;
        }
    }
}

static void trace(void **state)
{
    struct reg_entry *e;
    struct reg_page *p;
    pthread_t thread[THREADS];
    int fd[2], status;
    char c;
    assert_int_equal(reg_add("mount", "/t", "mem:", &e, &p), 0);
    reg_trace(p, "nobody listens");
    assert_int_equal(p->trace_head, 0);
    assert_false(reg_traced(p));

    assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(60);
        struct reg_page *q = reg_find("/t");
        _exit(q ? read_lines(q, fd[1]) : 9);
    }
    close(fd[1]);
    assert_int_equal(read(fd[0], &c, 1), 1);
    assert_true(reg_traced(p));
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, write_lines, p), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    reg_trace(p, "end");
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    close(fd[0]);
    reg_del(e);
}

/* A reader that was away for more than the ring is told, and goes on at a whole line. */
static void trace_lost(void **state)
{
    struct reg_entry *e;
    struct reg_page *p;
    char buf[REG_LINE_MAX], big[2 * REG_LINE_MAX];
    uint64_t pos = 0;
    bool lost = false;
    assert_int_equal(reg_add("mount", "/t", "mem:", &e, &p), 0);
    assert_int_equal(reg_trace_read(p, &pos, buf, sizeof(buf), &lost), 0);
    reg_trace_ask(p, INT64_C(60000000000));
    reg_trace(p, "one\nline");
    size_t n = reg_trace_read(p, &pos, buf, sizeof(buf), &lost);
    assert_int_equal(n, 9);
    assert_memory_equal(buf, "one line\n", 9);
    assert_false(lost);

    memset(big, 'y', sizeof(big));
    big[sizeof(big) - 1] = 0;
    reg_trace(p, "%s", big);
    assert_int_equal(reg_trace_read(p, &pos, buf, sizeof(buf), &lost), REG_LINE_MAX);
    assert_int_equal(buf[REG_LINE_MAX - 1], '\n');

    for (int i = 0; i < 60000; i++)
        reg_trace(p, "a line of thirty characters %05d", i);
    n = reg_trace_read(p, &pos, buf, sizeof(buf), &lost);
    assert_true(lost);
    assert_true(n > 0);
    assert_memory_equal(buf, "a line of thirty", 16);
    int last = -1;
    do {
        for (char *s = buf; s < buf + n; s += 34)
            assert_int_equal(sscanf(s, "a line of thirty characters %d", &last), 1);
    } while ((n = reg_trace_read(p, &pos, buf, sizeof(buf), &lost)) > 0);
    assert_int_equal(last, 59999);

    atomic_store(&p->trace_until, 1); /* long ago */
    reg_trace(p, "nobody listens any more");
    assert_int_equal(p->trace_until, 0);
    assert_int_equal(reg_trace_read(p, &pos, buf, sizeof(buf), &lost), 0);
    reg_del(e);
}

static int set_up(void **state)
{
    strcpy(runtime, "/tmp/plenum-registry-XXXXXX");
    if (!mkdtemp(runtime))
        return -1;
    setenv("XDG_RUNTIME_DIR", runtime, 1);
    if (geteuid() != 0) {
        snprintf(where, sizeof(where), "%s/plenum", runtime);
        return 0;
    }
    strcpy(where, "/run/plenum");
    return unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
                   mount("tmpfs", "/run", "tmpfs", 0, "mode=0755") < 0 ||
                   mount("tmpfs", "/tmp", "tmpfs", 0, "mode=1777") < 0 || mkdir(runtime, 0700) < 0
               ? -1
               : 0;
}

static void meetings(void **state)
{
    struct ucred cred;
    socklen_t size = sizeof(cred);
    assert_int_equal(reg_meet_dial("one"), -ENOENT);
    struct reg_meeting one, two, three, none;
    assert_int_equal(reg_meet("one", &one), 0);
    assert_int_equal(reg_meet("two", &two), 0);
    int s = reg_meet_dial("one");
    assert_true(s >= 0);
    assert_int_equal(getsockopt(s, SOL_SOCKET, SO_PEERCRED, &cred, &size), 0);
    assert_int_equal(cred.pid, getpid());
    close(s);
    assert_int_equal(reg_meet("a/b", &none), -EINVAL);
    assert_int_equal(live(), 0); /* they are no entries */
    /* A listener that was killed leaves its name, which the next one clears; those who live stay.
     */
    close(one.fd);
    close(one.dir);
    assert_int_equal(reg_meet_dial("one"), -ENOENT);
    assert_int_equal(reg_meet("three", &three), 0);
    s = reg_meet_dial("two");
    assert_true(s >= 0);
    close(s);
    /* Another takes a name over while its owner ends. */
    struct reg_meeting again;
    assert_int_equal(reg_meet("two", &again), 0);
    reg_meet_end("two", &two);
    s = reg_meet_dial("two");
    assert_true(s >= 0);
    close(s);
    /* One with more callers than it takes up holds up nobody. */
    int waiting[64], n = 0;
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof(un.sun_path), "/proc/self/fd/%d/meet-three", three.dir);
    while (n < 64 && (waiting[n] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0)) >= 0 &&
           connect(waiting[n], (struct sockaddr *)&un, sizeof(un)) == 0)
        n++;
    assert_true(n > 0 && n < 64);
    struct reg_meeting four;
    assert_int_equal(reg_meet("four", &four), 0);
    reg_meet_end("four", &four);
    while (n >= 0)
        close(waiting[n--]);
    reg_meet_end("two", &again);
    reg_meet_end("three", &three);
    reg_meet_end("none", &none); /* it is none */
    assert_int_equal(reg_meet_dial("two"), -ENOENT);
    assert_int_equal(count_files(where) > 0 ? count_files(where) : 0, 0);
}

static void links(void **state)
{
    struct reg_entry *e;
    struct reg_page *p;
    assert_int_equal(reg_add("mount", "/l", "9p:tcp!a", &e, &p), 0);
    reg_link_changed(p, "it was cut");
    assert_int_equal(p->link.down, 1);
    assert_int_equal(p->link.breaks, 1);
    assert_string_equal(p->link.why, "it was cut");
    assert_true(p->link.since > 0);
    reg_link_changed(p, NULL);
    assert_int_equal(p->link.down, 0);
    assert_int_equal(p->link.breaks, 1);
    reg_del(e);
}

static int tear_down(void **state)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/plenum", runtime);
    rmdir(path);
    rmdir(runtime);
    if (geteuid() == 0) {
        umount2("/tmp", MNT_DETACH);
        rmdir(runtime);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entry),     cmocka_unit_test(long_strings), cmocka_unit_test(wreck),
        cmocka_unit_test(leftovers), cmocka_unit_test(race),         cmocka_unit_test(not_private),
        cmocka_unit_test(trace),     cmocka_unit_test(trace_lost),   cmocka_unit_test(orders),
        cmocka_unit_test(meetings),  cmocka_unit_test(links),
    };
    alarm(100);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
