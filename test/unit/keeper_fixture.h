/* SPDX-License-Identifier: MIT */
/* What stands in for the door in the tests of the keeper, and how jobs are run and looked at. */
#ifndef UNIT_KEEPER_FIXTURE_H
#define UNIT_KEEPER_FIXTURE_H

#include "base/confine.h"
#include "keeper/keeper.h"
#include "sanitizer.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define NOBODY 65534
#define STAGE  "PLENUM_TEST_STAGE"

static const char *stage; /* root, userns, user */
static char base[64];     /* a directory of this stage */
static int log_fd = -1;   /* what syslog got */

/* ---- what the server processes tell, and their job ---- */

struct note {
    _Atomic int prepared, finished, stopped, up, hanging;
    _Atomic int answers_hang;  /* "hang" is answered after all */
    _Atomic int fail_prepare;  /* so many of the next ones do */
    _Atomic int die;           /* the signal of who looks up "die" */
    _Atomic int claimed, lost; /* descriptors of the first server: kept, and not */
    _Atomic int wrong;         /* a later one has not found them so */
};
static struct note *note; /* shared memory */

enum how {
    PLAIN,
    PREPARE_FAILS,
    PREPARE_CRASHES,
    PREPARE_BLOCKS,
    PREPARE_BREAKS_SECOND, /* the second directory goes away before it is mounted */
    NOTHING,
    FINISH_FAILS,
    FINISH_HANGS,
    FINISH_WAITS, /* for stop */
    TAKES_STDIN,
    LASTS,
    LASTS_NOT, /* though the job might */
};

struct work {
    enum how how;
    const char *second;
};

static struct keeper_mount mounts[2];

static inline bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

/* The first server opens two files and claims one; the next ones must find just that. Both are far
 * up, where no other descriptor comes to be. */
static inline void prepare_lasting(void)
{
    int far = 900, one = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (!atomic_load(&note->claimed)) {
        atomic_store(&note->claimed, fcntl(one, F_DUPFD_CLOEXEC, far));
        atomic_store(&note->lost, fcntl(one, F_DUPFD_CLOEXEC, far));
        pl_keep_add(mounts[0].ledger.keep, note->claimed, "x", 1);
    } else if (!is_open(note->claimed) || is_open(note->lost)) {
        atomic_store(&note->wrong, 1);
    }
    close(one);
}

static inline int prepare(void *arg, bool *lasts, struct pl_err *err)
{
    struct work *w = arg;
    atomic_fetch_add(&note->prepared, 1);
    if (atomic_load(&note->fail_prepare) > 0) {
        atomic_fetch_sub(&note->fail_prepare, 1);
        return pl_fail(err, -EIO, "the tree cannot be opened");
    }
    if (w->how == LASTS)
        prepare_lasting();
    *lasts = w->how == LASTS;
    switch (w->how) {
    case PREPARE_FAILS:
        return pl_fail(err, -ECONNREFUSED, "tcp!nowhere!1: connection refused (start it)");
    case PREPARE_CRASHES:
        signal(SIGABRT, SIG_DFL);
        abort();
    case PREPARE_BLOCKS:
        for (;;)
            pause();
    case PREPARE_BREAKS_SECOND:
        return rmdir(w->second) < 0 ? -errno : 0;
    case TAKES_STDIN:
        return close(0) < 0 ? -errno : 0;
    case NOTHING:
        return 1;
    default:
        return 0;
    }
}

static inline int finish(void *arg, struct pl_err *err)
{
    struct work *w = arg;
    atomic_fetch_add(&note->finished, 1);
    if (w->how == FINISH_FAILS)
        return pl_fail(err, -EIO, "peer: said no goodbye");
    while (w->how == FINISH_HANGS || (w->how == FINISH_WAITS && !atomic_load(&note->stopped)))
        usleep(1000);
    return 0;
}

static inline void stop(void *arg)
{
    atomic_fetch_add(&note->stopped, 1);
}

/* ---- the door: "f" has a line, reading "hang" never ends, looking up "quit" loses the link ----
 */

enum { ROOT = 1, F, HANG, D };

/* Of the thread that serves. */
static _Thread_local struct stats *counted;
static _Thread_local struct ledger *ledger; /* or NULL */

static inline void attr_of(uint64_t node, struct fuse_attr *a)
{
    memset(a, 0, sizeof(*a));
    a->ino = node;
    a->nlink = 1;
    a->mode = node == ROOT ? S_IFDIR | 0755 : node == D ? S_IFDIR | 0711 : S_IFREG | 0644;
    a->size = node == F ? 6 : node == HANG ? 1000 : 0;
    a->uid = geteuid();
}

static inline void answer(int fd, uint64_t unique, int error, const void *data, size_t n)
{
    char buf[4096];
    struct fuse_out_header h = {(uint32_t)(sizeof(h) + n), error, unique};
    memcpy(buf, &h, sizeof(h));
    if (n)
        memcpy(buf + sizeof(h), data, n);
    atomic_fetch_sub(&counted->waiting, 1);
    if (ledger)
        atomic_fetch_add(&ledger->head->answered, 1);
    if (write(fd, buf, sizeof(h) + n) < 0 && errno != ENOENT && errno != ENODEV)
        perror("answer");
}

static inline void do_init(int fd, const struct fuse_in_header *in)
{
    const struct fuse_init_in *q = (const void *)(in + 1);
    struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION,
                                .minor = FUSE_KERNEL_MINOR_VERSION,
                                .max_readahead = q->max_readahead,
                                .max_write = 4096};
    if (ledger) {
        ledger->node[ROOT].ino = ROOT;
        ledger->node[ROOT].mode = S_IFDIR | 0755;
        ledger->node[ROOT].uid = geteuid();
        ledger->head->max_write = 4096;
        ledger->head->flags = 1ull << 39; /* FUSE_HAS_RESEND */
        atomic_store(&ledger->head->agreed, 1);
    }
    answer(fd, in->unique, 0, &out, sizeof(out));
}

/* As a door does that tells the kernel of a node. */
static inline void tell(uint64_t id, const char *name, struct fuse_entry_out *out)
{
    out->generation = 7;
    if (!ledger)
        return;
    struct ledger_node *n = &ledger->node[id];
    n->ino = out->attr.ino;
    n->generation = 7;
    n->mode = out->attr.mode;
    n->uid = out->attr.uid;
    n->gid = out->attr.gid;
    n->parent = ROOT;
    n->name_hash = ledger_hash(name);
    if (ledger->head->nodes_used < D)
        ledger->head->nodes_used = D;
    atomic_fetch_add(&n->nlookup, 1);
}

/* 0, or 1 when the link is lost. */
static inline int do_lookup(int fd, const struct fuse_in_header *in)
{
    const char *name = (const char *)(in + 1);
    struct fuse_entry_out out = {0};
    out.nodeid = strcmp(name, "f") == 0      ? F
                 : strcmp(name, "hang") == 0 ? HANG
                 : strcmp(name, "d") == 0    ? D
                                             : 0;
    attr_of(out.nodeid, &out.attr);
    if (strcmp(name, "quit") == 0)
        return 1;
    if (strcmp(name, "die") == 0 && atomic_load(&note->die)) {
        signal(atomic_load(&note->die), SIG_DFL); /* not cmocka's */
        kill(getpid(), atomic_load(&note->die));
        for (;;) /* another thread may be the one that it comes to */
            pause();
    }
    if (strcmp(name, "spin") == 0 && atomic_load(&note->prepared) == 1)
        for (atomic_fetch_add(&note->hanging, 1);;)
            pause();
    if (out.nodeid)
        tell(out.nodeid, name, &out);
    answer(fd, in->unique, out.nodeid ? 0 : -ENOENT, &out, out.nodeid ? sizeof(out) : 0);
    return 0;
}

static inline int serve(void *arg, size_t i, int fd, struct stats *stats, void (*up)(void *),
                        void *up_arg, struct pl_err *err)
{
    static _Thread_local _Alignas(8) char buf[FUSE_MIN_READ_BUFFER + 4096];
    struct fuse_in_header *in = (void *)buf;
    struct fuse_attr_out attr = {0};
    struct fuse_open_out open_out = {.open_flags = FOPEN_DIRECT_IO};
    counted = stats;
    ledger = mounts[i].ledger.head ? &mounts[i].ledger : NULL;
    if (ledger && ledger->head->agreed) { /* a successor */
        struct fuse_out_header resend = {sizeof(resend), 7, 0};
        if (write(fd, &resend, sizeof(resend)) < 0 && errno != ENODEV)
            return pl_fail(err, -errno, "resend: %s", strerror(errno));
        up(up_arg);
    }
    for (;;) {
        ssize_t n = read(fd, buf, sizeof(buf));
        if (n < 0 && errno == ENODEV)
            return 0;
        if (n < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN))
            continue;
        if (n < 0)
            return pl_fail(err, -errno, "/dev/fuse: %s", strerror(errno));
        stats_add(&stats->requests, 1);
        atomic_fetch_add(&stats->waiting, 1);
        switch (in->opcode) {
        case FUSE_INIT:
            do_init(fd, in);
            atomic_fetch_add(&note->up, 1);
            up(up_arg);
            break;
        case FUSE_LOOKUP:
            if (do_lookup(fd, in))
                return pl_fail(err, -ECONNABORTED, "link to peer lost: it went away");
            break;
        case FUSE_GETATTR:
            attr_of(in->nodeid, &attr.attr);
            answer(fd, in->unique, 0, &attr, sizeof(attr));
            break;
        case FUSE_OPEN:
        case FUSE_OPENDIR:
            answer(fd, in->unique, 0, &open_out, sizeof(open_out));
            break;
        case FUSE_READ:
            if (in->nodeid == F)
                answer(fd, in->unique, 0, "hello\n", 6);
            else if (atomic_load(&note->answers_hang))
                answer(fd, in->unique, 0, "!", 1); /* which is all that the reader takes */
            else
                atomic_fetch_add(&note->hanging, 1);
            break;
        case FUSE_STATFS: {
            struct fuse_statfs_out statfs_out = {.st = {.bsize = 4096}};
            answer(fd, in->unique, 0, &statfs_out, sizeof(statfs_out));
            break;
        }
        case FUSE_READDIR:
        case FUSE_RELEASE:
        case FUSE_RELEASEDIR:
        case FUSE_FLUSH:
        case FUSE_DESTROY:
            answer(fd, in->unique, 0, NULL, 0);
            break;
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
            atomic_fetch_sub(&stats->waiting, 1);
            break;
        default:
            answer(fd, in->unique, -ENOSYS, NULL, 0);
        }
    }
}

/* ---- running it ---- */

static struct work work;
static char dirs[2][128];
static int said_fd = -1; /* standard error of the user's process */

static inline struct keeper_job job_of(size_t n, bool foreground, enum how how)
{
#if THREAD_SANITIZER /* its thread cannot be told to give anything up */
    confine_need(CONFINE_NOTHING);
#endif
    memset(note, 0, sizeof(*note));
    work = (struct work){how, dirs[1]};
    for (size_t i = 0; i < 2; i++) {
        snprintf(dirs[i], sizeof(dirs[i]), "%s/m%zu", base, i);
        mkdir(dirs[i], 0755);
        mounts[i] = (struct keeper_mount){.dir = dirs[i], .spec = i ? "mem:" : "ro(a b,c\\d)"};
        mount_opts_init(&mounts[i].opts);
    }
    return (struct keeper_job){.kind = "mount",
                               .prefix = "plenum: mount",
                               .nmounts = n,
                               .mounts = mounts,
                               .foreground = foreground,
                               .lasts = how == LASTS || how == LASTS_NOT,
                               .arg = &work,
                               .prepare = prepare,
                               .serve = serve,
                               .finish = finish,
                               .stop = stop};
}

/* The user's process, with `in` as its standard input if that is not -1. */
static inline pid_t start(const struct keeper_job *job, int in)
{
    int fd[2];
    if (said_fd >= 0)
        close(said_fd);
    assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
    said_fd = fd[0];
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(fd[1], 2);
        close(fd[0]);
        close(fd[1]);
        if (in >= 0) {
            dup2(in, 0);
            close(in);
        }
        _exit(keeper_run(job));
    }
    close(fd[1]);
    return pid;
}

/* Waits for the process, which is ours or was left to us: its exit status, 128 + signal. */
static inline int ended(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static inline void want_said(const char *text)
{
    char buf[2048];
    size_t n = 0;
    /* to the end: nobody holds the terminal when the user's process has returned */
    for (ssize_t got; (got = read(said_fd, buf + n, sizeof(buf) - 1 - n)) > 0;)
        n += (size_t)got;
    buf[n] = 0;
    assert_string_equal(buf, text);
}

static inline void want_logged(const char *words)
{
    char buf[1024] = "";
    if (log_fd < 0)
        return;
    ssize_t n = recv(log_fd, buf, sizeof(buf) - 1, MSG_DONTWAIT);
    if (!words) {
        if (n >= 0)
            print_error("logged: %s\n", buf);
        assert_int_equal(n, -1);
        return;
    }
    assert_true(n > 0);
    if (!strstr(buf, words))
        print_error("logged: %s\n", buf);
    assert_non_null(strstr(buf, words));
}

static inline bool mounted(size_t i)
{
    dev_t dev;
    return mount_dev(dirs[i], &dev) == 0;
}

static inline int count_one(void *arg, struct reg_page *page)
{
    ++*(int *)arg;
    return 0;
}

static inline void want_nothing_left(void)
{
    int entries = 0;
    assert_int_equal(note->wrong, 0);
    /* No process; of one that was killed just now the keeper need not have waited for the end. */
    for (int i = 0; i < 500 && waitpid(-1, NULL, WNOHANG) >= 0; i++)
        usleep(10000);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    for (size_t i = 0; i < 2; i++) {
        assert_false(mounted(i));
        assert_true(rmdir(dirs[i]) == 0 || errno == ENOENT);
    }
    reg_each(count_one, &entries);
    assert_int_equal(entries, 0);
}

struct pids {
    pid_t keeper, server, nursery;
};

static inline struct pids pids_of(size_t i)
{
    struct reg_page *p = reg_find(dirs[i]);
    assert_non_null(p);
    struct pids pids = {atomic_load(&p->keeper), atomic_load(&p->server), atomic_load(&p->nursery)};
    reg_put(p);
    assert_true(pids.keeper > 0 && pids.server > 0);
    return pids;
}

static inline struct pids background_for(size_t n, enum how how, unsigned hang)
{
    struct keeper_job job = job_of(n, false, how);
    job.hang = hang;
    int status = ended(start(&job, -1));
    want_said("");
    assert_int_equal(status, 0);
    assert_int_equal(note->up, n);
    for (size_t i = 0; i < n; i++)
        assert_true(mounted(i));
    return pids_of(0);
}

/* A mount in the background that works. */
static inline struct pids background(size_t n, enum how how)
{
    return background_for(n, how, 0);
}

static inline const char *under(size_t i, const char *name)
{
    static char path[256];
    snprintf(path, sizeof(path), "%s/%s", dirs[i], name);
    return path;
}

static inline void want_works(size_t i)
{
    char buf[16];
    int fd = open(under(i, "f"), O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, buf, sizeof(buf)), 6);
    assert_memory_equal(buf, "hello\n", 6);
    close(fd);
}

/* What a line of /proc/PID/NAME that begins with `key` says. */
static inline void proc_line(pid_t pid, const char *name, const char *key, char *ret, size_t size)
{
    char path[64], line[4096];
    snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    *ret = 0;
    while (fgets(line, sizeof(line), f))
        if (strncmp(line, key, strlen(key)) == 0)
            snprintf(ret, size, "%.*s", (int)size - 1, line + strlen(key));
    fclose(f);
}

/* How many descriptors of the process are `target`. */
static inline int descriptors(pid_t pid, const char *target)
{
    char dir[64], path[400], link[PATH_MAX];
    int n = 0;
    snprintf(dir, sizeof(dir), "/proc/%d/fd", pid);
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *de; (de = readdir(d));) {
        snprintf(path, sizeof(path), "%s/%s", dir, de->d_name);
        ssize_t got = readlink(path, link, sizeof(link) - 1);
        if (got < 0)
            continue;
        link[got] = 0;
        n += strcmp(link, target) == 0;
    }
    closedir(d);
    return n;
}

static inline bool left_terminal(pid_t pid)
{
    for (int i = 0; i < 3; i++) {
        char path[64], link[64] = "";
        snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, i);
        if (readlink(path, link, sizeof(link) - 1) < 0 || strcmp(link, "/dev/null") != 0)
            return false;
    }
    return true;
}

/* A child that reads "hang": it is in the kernel, waiting for an answer, when this returns. */
static inline pid_t hanging_reader(size_t i)
{
    int before = atomic_load(&note->hanging);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char c;
        int fd = open(under(i, "hang"), O_RDONLY);
        _exit(fd < 0 ? 99 : read(fd, &c, 1) < 0 ? errno : 98);
    }
    while (atomic_load(&note->hanging) == before)
        usleep(1000);
    return pid;
}

#endif
