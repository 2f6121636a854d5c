/* SPDX-License-Identifier: MIT */
/*
 * Files named KIND-PID-N. Their life:
 *
 *  create (O_EXCL), lock, still linked?, size, fill, magic    the order in which a file is made
 *  open, lock without waiting: got it?, unlink                how a reader finds and clears a wreck
 *
 * Only who holds the lock unlinks, and a creator that finds its file unlinked (a reader got the
 * lock between its open and its flock) begins again. A crash at any point leaves a file that can be
 * locked. A file without magic is being made by somebody who holds its lock.
 */
#include "keeper/registry.h"
#include "base/confine.h"
#include "base/futex.h"
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAGIC   0x706c6e72
#define VERSION 4
#define PLACES  3
#define CONTROL 32 /* sizeof(reg_page.control) */

struct reg_entry {
    int fd, dir; /* -1: a private page */
    char name[64];
    struct reg_page *page;
};

/* This user's number outside of a user namespace, if we are in one. */
static unsigned outer_uid(void)
{
    unsigned uid = geteuid(), in, out, n;
    FILE *f = fopen("/proc/self/uid_map", "re");
    if (!f)
        return uid;
    while (fscanf(f, "%u %u %u", &in, &out, &n) == 3)
        if (uid >= in && uid - in < n) {
            uid = out + (uid - in);
            break;
        }
    fclose(f);
    return uid;
}

/* The i-th place for the directory; false if there is none. */
static bool place(int i, char path[PATH_MAX])
{
    const char *run = getenv("XDG_RUNTIME_DIR");
    int n = -1;
    if (i == 0 && geteuid() == 0)
        n = snprintf(path, PATH_MAX, "/run/plenum");
    else if (i == 1 && run && *run == '/')
        n = snprintf(path, PATH_MAX, "%s/plenum", run);
    else if (i == 2)
        n = snprintf(path, PATH_MAX, "/tmp/plenum-%u", outer_uid());
    return n > 0 && n < PATH_MAX;
}

/* Opens the directory if it is ours alone; with `make`, makes it. */
static int open_private(int at, const char *path, bool make)
{
    struct stat st;
    if (make && mkdirat(at, path, 0700) < 0 && errno != EEXIST)
        return -errno;
    int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0 || st.st_uid != geteuid() || (st.st_mode & 077) != 0) {
        close(fd);
        return -EPERM;
    }
    return fd;
}

/* Opens the i-th directory if it is ours alone; with `make`, makes it. -ENOENT if there is none. */
static int open_place(int i, bool make)
{
    char path[PATH_MAX];
    return place(i, path) ? open_private(AT_FDCWD, path, make) : -ENOENT;
}

int reg_dir(const char *name)
{
    int r = -ENOENT;
    for (int i = 0; i < PLACES; i++) {
        int dir = open_place(i, true);
        if (dir < 0) {
            r = dir == -ENOENT ? r : dir;
            continue;
        }
        int fd = open_private(dir, name, true);
        close(dir);
        if (fd >= 0)
            return fd;
        r = fd;
    }
    return r;
}

static struct reg_page *map(int fd)
{
    int flags = fd < 0 ? MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
    void *p = mmap(NULL, sizeof(struct reg_page), PROT_READ | PROT_WRITE, flags, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* A new file, locked and still in place, in the directory: its descriptor or a negative errno. */
static int make_file(int dir, const char *kind, char name[64])
{
    static unsigned counter;
    for (int tries = 0; tries < 1000; tries++) {
        snprintf(name, 64, "%.7s-%d-%u", kind, getpid(), counter++);
        int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0 && errno == EEXIST)
            continue; /* of an earlier process with this number */
        if (fd < 0)
            return -errno;
        struct stat st;
        int rc;
        while ((rc = flock(fd, LOCK_EX)) < 0 && errno == EINTR)
            ;
        if (rc < 0 || fstat(fd, &st) < 0) {
            rc = -errno;
            unlinkat(dir, name, 0);
            close(fd);
            return rc;
        }
        if (st.st_nlink > 0)
            return fd;
        close(fd);
    }
    return -EAGAIN;
}

static int make_in(int dir, const char *kind, struct reg_entry *e)
{
    int fd = make_file(dir, kind, e->name);
    if (fd < 0)
        return fd;
    int rc = 0;
    if (ftruncate(fd, sizeof(struct reg_page)) < 0)
        rc = -errno;
    /* a full disk must be noticed now, not as SIGBUS when a counter goes up: all but the trace */
    else if ((rc = -posix_fallocate(fd, 0, offsetof(struct reg_page, trace))) == 0) {
        e->page = map(fd);
        if (!e->page)
            rc = -errno;
    }
    if (rc < 0) {
        unlinkat(dir, e->name, 0);
        close(fd);
        return rc;
    }
    e->fd = fd;
    e->dir = dir;
    return 0;
}

static void copy(char *dst, size_t size, const char *src)
{
    size_t n = strnlen(src, size - 1);
    memcpy(dst, src, n);
    memset(dst + n, 0, size - n);
}

int reg_add(const char *kind, const char *dir, const char *spec, struct reg_entry **ret,
            struct reg_page **page)
{
    struct reg_entry *e = calloc(1, sizeof(*e));
    int rc = -ENOENT;
    *ret = NULL;
    *page = NULL;
    if (!e)
        return -ENOMEM;
    e->fd = e->dir = -1;
    for (int i = 0; i < PLACES && !e->page; i++) {
        int d = open_place(i, true);
        if (d < 0) {
            rc = d == -ENOENT ? rc : d;
            continue;
        }
        rc = make_in(d, kind, e);
        if (rc < 0)
            close(d);
        else
            confine_path_of(d, CONFINE_REMOVE);
    }
    if (!e->page)
        e->page = map(-1);
    if (!e->page) {
        free(e);
        return -ENOMEM;
    }
    struct reg_page *p = e->page;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    p->version = VERSION;
    p->started = now.tv_sec;
    copy(p->kind, sizeof(p->kind), kind);
    copy(p->dir, sizeof(p->dir), dir ? dir : "");
    copy(p->spec, sizeof(p->spec), spec ? spec : "");
    copy(p->state, sizeof(p->state), "starting");
    atomic_store(&p->magic, MAGIC);
    *ret = e;
    *page = p;
    return e->fd < 0 ? rc : 0;
}

static void control_name(char ret[CONTROL], const char *name)
{
    snprintf(ret, CONTROL, "ctl-%.*s", CONTROL - 5, name);
}

static void unlink_control(int dir, const char *name)
{
    char control[CONTROL];
    control_name(control, name);
    unlinkat(dir, control, 0);
}

void reg_del(struct reg_entry *e)
{
    if (!e)
        return;
    if (e->fd >= 0) {
        unlink_control(e->dir, e->name);
        unlinkat(e->dir, e->name, 0);
        close(e->dir);
        close(e->fd);
    }
    munmap(e->page, sizeof(*e->page));
    free(e);
}

void reg_set_state(struct reg_page *page, const char *state)
{
    copy(page->state, sizeof(page->state), state);
}

void reg_set_peer(struct reg_page *page, const char *peer)
{
    copy(page->peer, sizeof(page->peer), peer);
}

void reg_set_table(struct reg_page *page, const char *table)
{
    copy(page->view.table, sizeof(page->view.table), table);
}

void reg_link_changed(struct reg_page *page, const char *down)
{
    struct reg_link *l = &page->link;
    struct timespec now;
    if (!down) {
        atomic_store(&l->down, 0);
        return;
    }
    copy(l->why, sizeof(l->why), down);
    if (atomic_load(&l->down))
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    atomic_store(&l->since, now.tv_sec);
    atomic_fetch_add(&l->breaks, 1);
    atomic_store(&l->down, 1);
}

/* Maps the entry if it lives, removes it if it is a wreck. */
static struct reg_page *open_entry(int dir, const char *name)
{
    struct stat st;
    struct reg_page *p = NULL;
    int fd = openat(dir, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid())
        goto out;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        if (fstat(fd, &st) == 0 && st.st_nlink > 0) {
            unlink_control(dir, name);
            unlinkat(dir, name, 0);
        }
        goto out;
    }
    if (errno != EWOULDBLOCK || st.st_size != sizeof(struct reg_page))
        goto out; /* being made, or of another version */
    p = map(fd);
    if (p && (atomic_load(&p->magic) != MAGIC || p->version != VERSION)) {
        munmap(p, sizeof(*p));
        p = NULL;
    }
out:
    close(fd);
    return p;
}

static bool our_name(const char *name)
{
    return strncmp(name, "mount-", 6) == 0 || strncmp(name, "duct-", 5) == 0 ||
           strncmp(name, "serve-", 6) == 0 || strncmp(name, "view-", 5) == 0;
}

/* Two of the places may be one directory. */
static bool seen(const struct stat *st, struct stat *before, int *n)
{
    for (int i = 0; i < *n; i++)
        if (before[i].st_dev == st->st_dev && before[i].st_ino == st->st_ino)
            return true;
    before[(*n)++] = *st;
    return false;
}

int reg_each(int (*fn)(void *arg, struct reg_page *page), void *arg)
{
    struct stat before[PLACES], st;
    int nbefore = 0, rc = 0;
    for (int i = 0; i < PLACES && rc == 0; i++) {
        int fd = open_place(i, false);
        if (fd < 0)
            continue;
        DIR *d = fstat(fd, &st) < 0 || seen(&st, before, &nbefore) ? NULL : fdopendir(fd);
        if (!d) {
            close(fd);
            continue;
        }
        for (struct dirent *de; rc == 0 && (de = readdir(d));) {
            struct reg_page *p = our_name(de->d_name) ? open_entry(fd, de->d_name) : NULL;
            if (!p)
                continue;
            rc = fn(arg, p);
            munmap(p, sizeof(*p));
        }
        closedir(d);
    }
    return rc;
}

struct finding {
    const char *dir;
    struct reg_page *best;
};

static int find_one(void *arg, struct reg_page *page)
{
    struct finding *f = arg;
    if (strncmp(page->dir, f->dir, sizeof(page->dir)) != 0 ||
        (f->best && f->best->started > page->started))
        return 0;
    /* a second mapping of the same page, which reg_each will not unmap */
    void *p = mremap(page, 0, sizeof(*page), MREMAP_MAYMOVE);
    if (p == MAP_FAILED)
        return 0;
    reg_put(f->best);
    f->best = p;
    return 0;
}

struct reg_page *reg_find(const char *dir)
{
    struct finding f = {.dir = dir};
    reg_each(find_one, &f);
    return f.best;
}

void reg_put(struct reg_page *page)
{
    if (page)
        munmap(page, sizeof(*page));
}

/* ---- taking over, and orders ---- */

int reg_adopt(int fd, int dir, const char *name, struct reg_entry **ret, struct reg_page **page)
{
    struct reg_entry *e = calloc(1, sizeof(*e));
    struct stat st;
    int rc = e ? -EPROTO : -ENOMEM;
    if (e && fstat(fd, &st) == 0 && st.st_size == sizeof(struct reg_page) && (e->page = map(fd)) &&
        atomic_load(&e->page->magic) == MAGIC && e->page->version == VERSION) {
        e->fd = fd;
        e->dir = dir;
        snprintf(e->name, sizeof(e->name), "%s", name);
        *ret = e;
        *page = e->page;
        return 0;
    }
    if (e && e->page)
        munmap(e->page, sizeof(*e->page));
    free(e);
    close(fd);
    close(dir);
    return rc;
}

bool reg_fds(const struct reg_entry *e, int *fd, int *dir, const char **name)
{
    *fd = e->fd;
    *dir = e->dir;
    *name = e->name;
    return e->fd >= 0;
}

/* The address of a socket in an open directory, whose own path may be longer than an address. */
static struct sockaddr_un address(int dir, const char *name)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof(un.sun_path), "/proc/self/fd/%d/%.64s", dir, name);
    return un;
}

static int new_socket(bool block)
{
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | (block ? 0 : SOCK_NONBLOCK), 0);
    return s < 0 ? -errno : s;
}

int reg_listen(struct reg_entry *e)
{
    char name[CONTROL];
    if (e->fd < 0)
        return -ENOENT;
    int s = new_socket(false);
    if (s < 0)
        return s;
    control_name(name, e->name);
    struct sockaddr_un un = address(e->dir, name);
    if (bind(s, (struct sockaddr *)&un, sizeof(un)) < 0 || fchmodat(e->dir, name, 0600, 0) < 0 ||
        listen(s, 4) < 0) {
        int rc = -errno;
        close(s);
        return rc;
    }
    copy(e->page->control, sizeof(e->page->control), name);
    return s;
}

int reg_dial(const char *dir)
{
    struct reg_page *page = reg_find(dir);
    int rc = -ENOENT;
    for (int i = 0; page && *page->control && rc == -ENOENT && i < PLACES; i++) {
        int d = open_place(i, false);
        if (d < 0)
            continue;
        struct sockaddr_un un = address(d, page->control);
        int s = new_socket(true);
        if (s >= 0 && connect(s, (struct sockaddr *)&un, sizeof(un)) < 0) {
            rc = errno == ECONNREFUSED ? -ENOENT : -errno;
            close(s);
        } else {
            rc = s;
        }
        close(d);
    }
    reg_put(page);
    return rc;
}

/* ---- meeting points ---- */

/* $XDG_RUNTIME_DIR goes with the user's last login session, and those who meet shall outlive it. */
static const int lasting_first[PLACES] = {0, 2, 1};

/* It gets its name when it listens: before, it looks like a wreck. */
static int bind_at(int dir, const char *name)
{
    char made[32];
    snprintf(made, sizeof(made), "new-%d", gettid());
    struct sockaddr_un un = address(dir, made);
    int s = new_socket(false);
    if (s < 0)
        return s;
    unlinkat(dir, made, 0);
    if (bind(s, (struct sockaddr *)&un, sizeof(un)) == 0 && fchmodat(dir, made, 0600, 0) == 0 &&
        listen(s, 16) == 0 && renameat(dir, made, dir, name) == 0)
        return s;
    int rc = -errno;
    unlinkat(dir, made, 0);
    close(s);
    return rc;
}

static int connect_at(int dir, const char *name, bool block)
{
    struct sockaddr_un un = address(dir, name);
    int s = new_socket(block);
    if (s >= 0 && connect(s, (struct sockaddr *)&un, sizeof(un)) < 0) {
        int rc = errno == ECONNREFUSED ? -ENOENT : -errno;
        close(s);
        return rc;
    }
    return s;
}

/* What a killed listener left: nobody answers there. */
static void clear_meetings(int dir)
{
    int copy_fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = copy_fd < 0 ? NULL : fdopendir(copy_fd);
    for (struct dirent *de; d && (de = readdir(d));) {
        if (strncmp(de->d_name, "meet-", 5) != 0)
            continue;
        int s = connect_at(dir, de->d_name, false); /* one that is busy is there */
        if (s == -ENOENT)
            unlinkat(dir, de->d_name, 0);
        else if (s >= 0)
            close(s);
    }
    if (d)
        closedir(d);
}

static bool meeting_name(char ret[80], const char *name)
{
    return !strchr(name, '/') && snprintf(ret, 80, "meet-%s", name) < 64;
}

/* Names come and go one at a time: one may be wanted anew while its last owner ends (a view is met
 * by the number of its namespace, which the kernel gives away again), and nobody takes away
 * another's. */
static void lock_meetings(int dir, int how)
{
    while (flock(dir, how) < 0 && errno == EINTR)
        ;
}

int reg_meet(const char *name, struct reg_meeting *ret)
{
    char file[80];
    struct stat st;
    int rc = -ENOENT;
    ret->fd = -1;
    if (!meeting_name(file, name))
        return -EINVAL;
    for (int i = 0; i < PLACES && rc < 0; i++) {
        int d = open_place(lasting_first[i], true);
        if (d < 0) {
            rc = d == -ENOENT ? rc : d;
            continue;
        }
        lock_meetings(d, LOCK_EX);
        clear_meetings(d);
        rc = bind_at(d, file);
        if (rc >= 0 && fstatat(d, file, &st, AT_SYMLINK_NOFOLLOW) == 0)
            *ret = (struct reg_meeting){.fd = rc, .dir = d, .ino = st.st_ino};
        lock_meetings(d, LOCK_UN);
        if (rc < 0) {
            close(d);
            continue;
        }
        confine_path_of(d, CONFINE_REMOVE);
    }
    return rc < 0 ? rc : 0;
}

void reg_meet_end(const char *name, struct reg_meeting *m)
{
    char file[80];
    struct stat st;
    if (m->fd < 0)
        return;
    lock_meetings(m->dir, LOCK_EX);
    if (meeting_name(file, name) && fstatat(m->dir, file, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        st.st_ino == m->ino)
        unlinkat(m->dir, file, 0);
    lock_meetings(m->dir, LOCK_UN);
    close(m->fd);
    close(m->dir);
    m->fd = -1;
}

int reg_meet_dial(const char *name)
{
    char file[80];
    int rc = -ENOENT;
    if (!meeting_name(file, name))
        return -EINVAL;
    for (int i = 0; i < PLACES && rc < 0; i++) {
        int d = open_place(lasting_first[i], false);
        if (d < 0)
            continue;
        rc = connect_at(d, file, true);
        close(d);
    }
    return rc;
}

/* ---- the trace ---- */

/* Guards the ring's writers. One process writes to a page, so that the lock need not be in it: one
 * that dies while it writes leaves at worst half a line. */
static pthread_mutex_t trace_lock = PTHREAD_MUTEX_INITIALIZER;

bool reg_traced(struct reg_page *page)
{
    int64_t until = atomic_load_explicit(&page->trace_until, memory_order_relaxed);
    if (until == 0)
        return false;
    if (until > mono_now())
        return true;
    /* the tracer went away: back to the cheap answer */
    atomic_compare_exchange_strong(&page->trace_until, &until, 0);
    return false;
}

void reg_trace(struct reg_page *page, const char *fmt, ...)
{
    if (!reg_traced(page))
        return;
    char line[REG_LINE_MAX];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    size_t len = (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1;
    for (size_t i = 0; i < len; i++)
        if (line[i] == '\n')
            line[i] = ' '; /* one call is one line */
    line[len++] = '\n';
    pthread_mutex_lock(&trace_lock);
    uint64_t head = atomic_load_explicit(&page->trace_head, memory_order_relaxed);
    /* Released one by one: who reads one of these bytes also sees the head before them, and so can
     * tell that it was overtaken. */
    for (size_t i = 0; i < len; i++)
        atomic_store_explicit(&page->trace[(head + i) % REG_TRACE_SIZE], line[i],
                              memory_order_release);
    atomic_store_explicit(&page->trace_head, head + len, memory_order_release);
    pthread_mutex_unlock(&trace_lock);
}

void reg_trace_ask(struct reg_page *page, int64_t ns)
{
    int64_t want = mono_now() + ns;
    int64_t until = atomic_load(&page->trace_until);
    while (until < want && !atomic_compare_exchange_weak(&page->trace_until, &until, want))
        ;
}

size_t reg_trace_read(struct reg_page *page, uint64_t *pos, char *buf, size_t size, bool *lost)
{
    assert(size >= REG_LINE_MAX);
    /* A writer may be up to one line ahead of the head it has published: bytes that far behind the
     * head may already be overwritten. */
    const uint64_t safe = REG_TRACE_SIZE - REG_LINE_MAX;
    for (;;) {
        uint64_t head = atomic_load_explicit(&page->trace_head, memory_order_acquire);
        if (*pos > head)
            *pos = head;
        bool resync = head - *pos > safe;
        if (resync) {
            *lost = true;
            *pos = head - safe / 2;
        }
        size_t n = head - *pos < size ? (size_t)(head - *pos) : size;
        for (size_t i = 0; i < n; i++)
            buf[i] = atomic_load_explicit(&page->trace[(*pos + i) % REG_TRACE_SIZE],
                                          memory_order_acquire);
        if (atomic_load_explicit(&page->trace_head, memory_order_relaxed) - *pos > safe)
            continue; /* overtaken while copying */
        size_t skip = 0;
        if (resync) { /* in the middle of a line */
            char *nl = memchr(buf, '\n', n);
            skip = nl ? (size_t)(nl - buf) + 1 : n;
        }
        char *end = n > skip ? memrchr(buf + skip, '\n', n - skip) : NULL;
        size_t whole = end ? (size_t)(end - buf) + 1 - skip : 0;
        memmove(buf, buf + skip, whole);
        *pos += skip + whole;
        return whole;
    }
}
