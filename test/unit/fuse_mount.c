/* SPDX-License-Identifier: MIT */
/* The FUSE door under a real kernel: a server process, mounts in temporary directories, and this
 * process as the client. Skipped where mount(2) is not permitted. Whatever happens, the mount is
 * taken away: at the end of each test, and by an alarm if one hangs. */
#include "abort_file.h"
#include "doors/fuse.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <plenum/plenum.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#define LIMIT 60 /* seconds until the alarm takes a hanging mount away */

/* What the server process and we share. */
struct shared {
    struct stats stats;
    atomic_bool up;
};

struct mnt {
    char dir[40], data[40]; /* the mount point, and the host directory behind it */
    int abort;              /* of fusectl */
    pid_t server;
    struct shared *sh;
};

static struct mnt now; /* the one mount there is, for the alarm */

static void abort_mount(void)
{
    ssize_t n = write(now.abort, "1", 1);
    (void)n;
}

static void hangs(int sig)
{
    static const char text[] = "the mount hangs: aborted\n";
    ssize_t n = write(2, text, sizeof(text) - 1);
    (void)n;
    abort_mount();
    umount2(now.dir, MNT_DETACH);
    if (now.server > 0)
        kill(now.server, SIGKILL);
    _exit(1);
}

static void is_up(void *arg)
{
    ((struct shared *)arg)->up = true;
}

typedef struct pl_tree *make_fn(struct mnt *m);

/* Mounts what `make` makes (in the server process): false if this is not permitted here. */
static bool mounted(make_fn *make, const struct fuse_opts *opts)
{
    struct mnt *m = &now;
    char o[128];
    struct stat st, here, outside;
    memset(m, 0, sizeof(*m));
    m->abort = -1;
    strcpy(m->dir, "/tmp/plenum-fuse.XXXXXX");
    strcpy(m->data, "/tmp/plenum-data.XXXXXX");
    assert_non_null(mkdtemp(m->dir));
    assert_non_null(mkdtemp(m->data));
    assert_int_equal(chmod(m->data, 0755), 0);
    assert_int_equal(stat(m->dir, &outside), 0);
    m->sh = mmap(NULL, sizeof(*m->sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(m->sh != MAP_FAILED);
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    snprintf(o, sizeof(o),
             "fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other,default_permissions", fd,
             (int)getuid(), (int)getgid());
    if (fd < 0 || mount("plenum-test", m->dir, "fuse.plenum", 0, o) < 0) {
        rmdir(m->dir);
        rmdir(m->data);
        close(fd);
        return false;
    }
    signal(SIGALRM, hangs);
    alarm(LIMIT);
    m->server = fork();
    if (m->server == 0) {
        struct pl_err err = {0};
        struct pl_tree *t = make(m);
        alarm(0);
        int r = t ? fuse_serve(fd, t, "", opts, &m->sh->stats, is_up, m->sh, &err) : -ENOMEM;
        pl_tree_unref(t);
        exit(-r); /* with exit handlers: LeakSanitizer's */
    }
    close(fd);
    assert_int_equal(stat(m->dir, &st), 0); /* answered by the server */
    m->abort = abort_file(st.st_dev);
    assert_true(m->abort >= 0);
    assert_int_equal(chdir(m->dir), 0);
    /* what follows must not happen anywhere else */
    assert_int_equal(stat(".", &here), 0);
    assert_int_equal(here.st_dev, st.st_dev);
    assert_true(st.st_dev != outside.st_dev);
    return true;
}

/* Takes the mount away; the server's exit status. */
static int unmounted(void)
{
    struct mnt *m = &now;
    int status = 0;
    assert_int_equal(chdir("/"), 0);
    umount2(m->dir, MNT_DETACH);
    assert_int_equal(waitpid(m->server, &status, 0), m->server);
    m->server = 0;
    close(m->abort);
    alarm(0);
    rmdir(m->dir);
    char cmd[64];
    snprintf(cmd, sizeof(cmd), "rm -rf %s", m->data);
    assert_int_equal(system(cmd), 0);
    assert_int_equal(m->sh->stats.waiting, 0);
    munmap(m->sh, sizeof(*m->sh));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* After a test, also one that failed with the mount there. */
static int clean(void **state)
{
    if (!now.server)
        return 0;
    abort_mount();
    unmounted();
    return -1;
}

static struct pl_tree *mem(struct mnt *m)
{
    struct pl_tree *t;
    return pl_mem_new(0, &t, NULL) < 0 ? NULL : t;
}

static struct pl_tree *host(struct mnt *m)
{
    struct pl_tree *t;
    return pl_host_open(m->data, &t, NULL) < 0 ? NULL : t;
}

/* Runs `fn` in a process of its own; its exit status. */
static pid_t start(int (*fn)(void))
{
    pid_t p = fork();
    if (p == 0) {
        signal(SIGALRM, SIG_DFL);
        _exit(fn());
    }
    assert_true(p > 0);
    return p;
}

static int finish(pid_t p)
{
    int status;
    assert_int_equal(waitpid(p, &status, 0), p);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void wait_for_waiting(int64_t n)
{
    while (atomic_load(&now.sh->stats.waiting) < n)
        usleep(1000);
}

static int make_file(const char *name, const char *text)
{
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    return fd;
}

static void expect(int fd, const char *text)
{
    char buf[256];
    ssize_t n = pread(fd, buf, sizeof(buf), 0);
    assert_int_equal(n, strlen(text));
    assert_memory_equal(buf, text, strlen(text));
}

/* ---- what programs do ------------------------------------------------------------------------ */

static void files(void)
{
    struct stat a, b;
    int fd = make_file("a", "hello");
    assert_int_equal(fstat(fd, &a), 0);
    assert_int_equal(a.st_size, 5);
    /* one object, two names */
    assert_int_equal(mkdir("d", 0755), 0);
    assert_int_equal(link("a", "d/b"), 0);
    assert_int_equal(stat("d/b", &b), 0);
    assert_int_equal(a.st_ino, b.st_ino);
    assert_int_equal(b.st_nlink, 2);
    assert_int_equal(pwrite(fd, "J", 1, 0), 1);
    int other = open("d/b", O_RDONLY | O_CLOEXEC);
    expect(other, "Jello");
    /* gone, but open */
    assert_int_equal(unlink("a"), 0);
    assert_int_equal(unlink("d/b"), 0);
    assert_int_equal(fstat(fd, &b), 0);
    assert_int_equal(b.st_nlink, 0);
    assert_int_equal(pwrite(fd, "y!", 2, 4), 2);
    expect(other, "Jelly!");
    assert_int_equal(ftruncate(fd, 4), 0);
    expect(other, "Jell");
    assert_int_equal(access("a", F_OK), -1);
    close(other);
    close(fd);
    /* mapped */
    fd = make_file("m", "0123456789");
    assert_int_equal(ftruncate(fd, 10000), 0);
    char *p = mmap(NULL, 10000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(p != MAP_FAILED);
    assert_memory_equal(p, "0123456789\0", 11);
    memcpy(p + 5000, "mapped", 6);
    assert_int_equal(msync(p, 10000, MS_SYNC), 0);
    char buf[6];
    assert_int_equal(pread(fd, buf, 6, 5000), 6);
    assert_memory_equal(buf, "mapped", 6);
    munmap(p, 10000);
    close(fd);
}

static void names(void)
{
    char buf[64];
    close(make_file("one", "1"));
    close(make_file("two", "2"));
    assert_int_equal(renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_NOREPLACE), -1);
    assert_int_equal(errno, EEXIST);
    assert_int_equal(renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_EXCHANGE), 0);
    int fd = open("one", O_RDONLY | O_CLOEXEC);
    expect(fd, "2");
    close(fd);
    assert_int_equal(symlink("one", "s"), 0);
    assert_int_equal(readlink("s", buf, sizeof(buf)), 3);
    fd = open("s", O_RDONLY | O_CLOEXEC);
    expect(fd, "2");
    close(fd);
    assert_int_equal(rename("one", "two"), 0);
    fd = open("two", O_RDONLY | O_CLOEXEC);
    expect(fd, "2");
    close(fd);
    assert_int_equal(mknod("fifo", S_IFIFO | 0600, 0), 0);
    assert_int_equal(access("none", F_OK), -1);
    close(make_file("none", "")); /* a negative entry gives way */
    assert_int_equal(access("none", F_OK), 0);
    char name[256];
    memset(name, 'n', 255);
    name[255] = 0;
    close(make_file(name, ""));
    assert_int_equal(unlink(name), 0);
    umask(027);
    close(open("masked", O_CREAT | O_WRONLY, 0666));
    umask(022);
    struct stat st;
    assert_int_equal(stat("masked", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    struct statx sx;
    assert_int_equal(statx(AT_FDCWD, "masked", 0, STATX_BTIME | STATX_BASIC_STATS, &sx), 0);
    assert_true(sx.stx_mask & STATX_BTIME);
}

static void contents(void)
{
    enum { N = 3 << 20 };
    char *data = malloc(N), *got = malloc(N);
    for (size_t i = 0; i < N; i++)
        data[i] = (char)(i * 31 + i / 4093);
    int fd = open("big", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    assert_int_equal(write(fd, data, N), N);
    assert_int_equal(pread(fd, got, N, 0), N);
    assert_memory_equal(got, data, N);
    close(fd);
    fd = open("big", O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd >= 0) {
        char *page = aligned_alloc(4096, 1 << 20);
        assert_int_equal(pread(fd, page, 1 << 20, 1 << 20), 1 << 20);
        assert_memory_equal(page, data + (1 << 20), 1 << 20);
        free(page);
        close(fd);
    }
    fd = open("big", O_RDWR | O_CLOEXEC);
    loff_t from = 5, to = 0;
    int copy = open("copy", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    ssize_t n = copy_file_range(fd, &from, copy, &to, 1 << 20, 0);
    assert_true(n > 0);
    assert_int_equal(pread(copy, got, (size_t)n, 0), n);
    assert_memory_equal(got, data + 5, (size_t)n);
    assert_int_equal(lseek(fd, 100, SEEK_HOLE), N);
    assert_int_equal(ftruncate(copy, 5ll << 30), 0);
    assert_int_equal(pwrite(copy, "end", 3, (5ll << 30) - 3), 3);
    assert_int_equal(pread(copy, got, 10, (5ll << 30) - 3), 3);
    assert_memory_equal(got, "end", 3);
    assert_int_equal(fsync(copy), 0);
    assert_int_equal(lseek(copy, 0, SEEK_END), 5ll << 30);
    close(copy);
    close(fd);
    /* appending */
    fd = open("log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    int fd2 = open("log", O_WRONLY | O_APPEND | O_CLOEXEC);
    for (int i = 0; i < 10; i++)
        assert_int_equal(write(i % 2 ? fd : fd2, "line\n", 5), 5);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 50);
    close(fd);
    close(fd2);
    free(data);
    free(got);
}

static void extras(void)
{
    char buf[100];
    int fd = make_file("x", "x");
    assert_int_equal(fsetxattr(fd, "user.color", "blue", 4, 0), 0);
    assert_int_equal(getxattr("x", "user.color", buf, sizeof(buf)), 4);
    assert_int_equal(getxattr("x", "user.color", buf, 2), -1);
    assert_int_equal(errno, ERANGE);
    assert_int_equal(listxattr("x", NULL, 0), 11);
    assert_int_equal(removexattr("x", "user.color"), 0);
    struct timespec t[2] = {{1, 2}, {3, 4}};
    struct stat st;
    assert_int_equal(futimens(fd, t), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_atim.tv_nsec, 2);
    assert_int_equal(st.st_mtim.tv_nsec, 4);
    int tmp = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (tmp >= 0) {
        char proc[40];
        assert_int_equal(write(tmp, "tmp", 3), 3);
        snprintf(proc, sizeof(proc), "/proc/self/fd/%d", tmp);
        assert_int_equal(linkat(AT_FDCWD, proc, AT_FDCWD, "named", AT_SYMLINK_FOLLOW), 0);
        int named = open("named", O_RDONLY | O_CLOEXEC);
        expect(named, "tmp");
        close(named);
        close(tmp);
    }
    /* found again by its handle, as an NFS server does */
    union {
        struct file_handle h;
        char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } u = {.h.handle_bytes = MAX_HANDLE_SZ};
    int id, dir = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(name_to_handle_at(AT_FDCWD, "x", &u.h, &id, 0), 0);
    int again = open_by_handle_at(dir, &u.h, O_RDONLY);
    if (again >= 0) {
        expect(again, "x");
        close(again);
    }
    close(dir);
    close(fd);
}

static void everyday(make_fn *make)
{
    if (!mounted(make, NULL))
        skip();
    files();
    names();
    contents();
    extras();
    assert_int_equal(unmounted(), 0);
}

static void over_mem(void **state)
{
    everyday(mem);
}

static void over_host(void **state)
{
    everyday(host);
}

static void writeback(void **state)
{
    struct fuse_opts opts;
    fuse_opts_init(&opts);
    opts.writeback = true;
    if (!mounted(mem, &opts))
        skip();
    files();
    contents();
    assert_int_equal(unmounted(), 0);
}

/* ---- directories ----------------------------------------------------------------------------- */

static void ten_thousand(void **state)
{
    enum { N = 10000 };
    static unsigned char seen[N];
    struct fuse_opts opts;
    fuse_opts_init(&opts);
    opts.entry_timeout = opts.attr_timeout = 0; /* so that listings and lookups are asked for */
    if (!mounted(mem, &opts))
        skip();
    for (int i = 0; i < N; i++) {
        char name[16];
        snprintf(name, sizeof(name), "file%d", i);
        int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        assert_true(fd >= 0);
        close(fd);
    }
    for (int round = 0; round < 2; round++) { /* names only, then with attributes */
        DIR *d = opendir(".");
        struct dirent *e;
        struct stat st;
        memset(seen, 0, sizeof(seen));
        int i, n = 0;
        while ((e = readdir(d))) {
            n++;
            if (sscanf(e->d_name, "file%d", &i) != 1)
                continue;
            assert_true(i >= 0 && i < N);
            seen[i]++;
            assert_int_equal(e->d_type, DT_REG);
            if (round) {
                assert_int_equal(fstatat(dirfd(d), e->d_name, &st, 0), 0);
                assert_int_equal(st.st_ino, e->d_ino);
            }
            if (i % 10 == 7) /* what is removed while it is listed disturbs nobody */
                assert_int_equal(round ? unlink(e->d_name) : 0, 0);
        }
        closedir(d);
        assert_int_equal(n, N + 2);
        for (i = 0; i < N; i++)
            assert_int_equal(seen[i], 1);
    }
    assert_int_equal(unmounted(), 0);
}

/* ---- waiting --------------------------------------------------------------------------------- */

static void nothing(int sig) {}

static int lock_waits(void)
{
    int fd = open("l", O_RDWR | O_CLOEXEC);
    struct flock fl = {.l_type = F_WRLCK};
    return fcntl(fd, F_SETLKW, &fl) == 0 ? 0 : errno;
}

static int try_lock(void)
{
    int fd = open("l", O_RDWR | O_CLOEXEC);
    struct flock fl = {.l_type = F_WRLCK};
    return fcntl(fd, F_SETLK, &fl) == 0 ? 0 : errno;
}

static int try_flock(void)
{
    int fd = open("l", O_RDONLY | O_CLOEXEC);
    return flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
}

static void locks(make_fn *make)
{
    if (!mounted(make, NULL))
        skip();
    int fd = make_file("l", "");
    struct flock fl = {.l_type = F_WRLCK};
    assert_int_equal(fcntl(fd, F_SETLK, &fl), 0);
    assert_int_equal(finish(start(try_lock)), EAGAIN);
    struct sigaction sa = {.sa_handler = nothing};
    sigaction(SIGUSR1, &sa, NULL);
    pid_t p = start(lock_waits);
    wait_for_waiting(1);
    int status; /* a signal interrupts it, perhaps not the first, which may come too early */
    while (kill(p, SIGUSR1) == 0 && waitpid(p, &status, WNOHANG) == 0)
        usleep(1000);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == EINTR);
    p = start(lock_waits);
    wait_for_waiting(1);
    kill(p, SIGKILL); /* and so does the end */
    assert_int_equal(finish(p), 1000 + SIGKILL);
    p = start(lock_waits);
    wait_for_waiting(1);
    fl.l_type = F_UNLCK;
    assert_int_equal(fcntl(fd, F_SETLK, &fl), 0);
    assert_int_equal(finish(p), 0);
    /* closing any descriptor of the file drops the process's locks */
    fl.l_type = F_WRLCK;
    assert_int_equal(fcntl(fd, F_SETLK, &fl), 0);
    close(open("l", O_RDONLY));
    assert_int_equal(finish(start(try_lock)), 0);

    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(finish(start(try_flock)), EAGAIN);
    close(fd);
    assert_int_equal(finish(start(try_flock)), 0);
    assert_int_equal(unmounted(), 0);
}

static void locks_mem(void **state)
{
    locks(mem);
}

static void locks_host(void **state)
{
    locks(host);
}

static struct pl_stream *stream;

static int say(const struct pl_made_req *req, const char *text, size_t n)
{
    return pl_stream_send(stream, text, n);
}

static struct pl_tree *talking(struct mnt *m)
{
    struct pl_made *made = pl_made_new();
    stream = pl_made_stream(made, "events", 4096);
    pl_made_ctl(made, "say", say, NULL);
    return pl_made_tree(made);
}

static int read_event(void)
{
    char buf[100];
    int fd = open("events", O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, buf, sizeof(buf));
    return n < 0 ? errno : n == 5 && !memcmp(buf, "hello", 5) ? 0 : 1;
}

static int poll_event(void)
{
    struct pollfd p = {.fd = open("events", O_RDONLY | O_NONBLOCK | O_CLOEXEC), .events = POLLIN};
    char buf[100];
    if (poll(&p, 1, 0) != 0 || read(p.fd, buf, sizeof(buf)) != -1 || errno != EAGAIN)
        return 100;
    for (int i = 0; i < 20; i++) {
        int w = open("say", O_WRONLY | O_CLOEXEC);
        pid_t speaker = fork();
        if (speaker == 0) { /* perhaps before, perhaps while we wait */
            usleep(i * 300);
            _exit(write(w, "hello", 5) == 5 && close(w) == 0 ? 0 : 1);
        }
        close(w);
        if (poll(&p, 1, -1) != 1 || !(p.revents & POLLIN) || read(p.fd, buf, 100) != 5)
            return 101;
        if (finish(speaker) != 0)
            return 102;
    }
    return 0;
}

static void streams(void **state)
{
    if (!mounted(talking, NULL))
        skip();
    pid_t p = start(read_event);
    wait_for_waiting(1);
    kill(p, SIGKILL);
    assert_int_equal(finish(p), 1000 + SIGKILL);
    p = start(read_event);
    wait_for_waiting(1);
    int w = open("say", O_WRONLY | O_CLOEXEC);
    assert_int_equal(write(w, "hello", 5), 5);
    assert_int_equal(close(w), 0);
    assert_int_equal(finish(p), 0);
    assert_int_equal(finish(start(poll_event)), 0);
    assert_int_equal(unmounted(), 0);
}

/* ---- many -------------------------------------------------------------------------------- */

static int busy(void)
{
    char name[64], text[64], got[64];
    for (int i = 0; i < 150; i++) {
        snprintf(name, sizeof(name), "busy.%d.%d", (int)getpid(), i % 7);
        snprintf(text, sizeof(text), "%d %d", (int)getpid(), i);
        int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
            return 1;
        ssize_t n = pread(fd, got, sizeof(got), 0);
        if (n != (ssize_t)strlen(text) || memcmp(text, got, (size_t)n))
            return 2;
        close(fd);
        char to[80];
        snprintf(to, sizeof(to), "%s.new", name);
        if (rename(name, to) < 0 || (i % 3 == 0 && unlink(to) < 0))
            return 3;
        DIR *d = opendir(".");
        while (d && readdir(d))
            ;
        if (!d || closedir(d) < 0)
            return 4;
    }
    return 0;
}

static void crowd(make_fn *make)
{
    pid_t p[6];
    if (!mounted(make, NULL))
        skip();
    for (int i = 0; i < 6; i++)
        p[i] = start(busy);
    for (int i = 0; i < 6; i++)
        assert_int_equal(finish(p[i]), 0);
    assert_int_equal(unmounted(), 0);
}

static void crowd_mem(void **state)
{
    crowd(mem);
}

static void crowd_host(void **state)
{
    crowd(host);
}

/* ---- others ------------------------------------------------------------------------------ */

static int as_other(void)
{
    gid_t group = 7008;
    struct stat st;
    if (setgroups(1, &group) < 0 || setgid(7001) < 0 || setuid(7001) < 0)
        return 100;
    if (open("private", O_RDONLY) >= 0 || errno != EACCES)
        return 1;
    if (open("dir/new", O_CREAT | O_WRONLY, 0644) >= 0 || errno != EACCES)
        return 2;
    int fd = open("shared/new", O_CREAT | O_WRONLY | O_CLOEXEC, 0644); /* by its group */
    if (fd < 0 || fstat(fd, &st) < 0 || st.st_uid != 7001)
        return 3;
    fd = open("suid", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "x", 1) != 1 || fstat(fd, &st) < 0 || (st.st_mode & 06000))
        return 4;
    if (chmod("suid", 0777) == 0 || errno != EPERM)
        return 5;
    return 0;
}

static void other_user(make_fn *make)
{
    if (getuid() != 0 || !mounted(make, NULL))
        skip();
    assert_int_equal(chmod(".", 0755), 0);
    close(open("private", O_CREAT | O_WRONLY, 0600));
    assert_int_equal(mkdir("dir", 0755), 0);
    assert_int_equal(mkdir("shared", 0770), 0);
    assert_int_equal(chmod("shared", 0770), 0);
    assert_int_equal(chown("shared", 0, 7008), 0);
    close(open("suid", O_CREAT | O_WRONLY, 0666));
    assert_int_equal(chmod("suid", 06777), 0);
    assert_int_equal(finish(start(as_other)), 0);
    struct stat st;
    assert_int_equal(stat("suid", &st), 0);
    assert_int_equal(st.st_mode & 07777, 0777);
    assert_int_equal(unmounted(), 0);
}

static void other_user_mem(void **state)
{
    other_user(mem);
}

static void other_user_host(void **state)
{
    other_user(host);
}

/* ---- ends -------------------------------------------------------------------------------- */

static void busy_end(void **state)
{
    if (!mounted(mem, NULL))
        skip();
    int fd = make_file("f", "still there");
    pid_t waiting;
    struct flock fl = {.l_type = F_WRLCK};
    make_file("l", "");
    assert_int_equal(fcntl(open("l", O_RDWR), F_SETLK, &fl), 0);
    waiting = start(lock_waits);
    wait_for_waiting(1);
    assert_int_equal(chdir("/"), 0);
    assert_int_equal(umount2(now.dir, 0), -1);
    assert_int_equal(errno, EBUSY);
    assert_int_equal(umount2(now.dir, MNT_DETACH), 0);
    expect(fd, "still there");
    abort_mount(); /* frees those that wait */
    assert_true(finish(waiting) != 0);
    assert_int_equal(pwrite(fd, "x", 1, 0), -1);
    assert_int_equal(errno, ENOTCONN);
    close(fd);
    assert_int_equal(unmounted(), ENOTCONN); /* what fuse_serve said */
}

#define T(f) cmocka_unit_test_teardown(f, clean)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(over_mem),   T(over_host),      T(writeback),       T(ten_thousand),
        T(locks_mem),  T(locks_host),     T(streams),         T(crowd_mem),
        T(crowd_host), T(other_user_mem), T(other_user_host), T(busy_end),
    };
    if (getuid() != 0 || access("/dev/fuse", R_OK | W_OK) < 0)
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
