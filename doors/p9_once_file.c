/* SPDX-License-Identifier: MIT */
/*
 * The files in which the 9P door remembers operations: see p9_once.h.
 *
 * Their life: opened or made, locked without waiting, still linked?, checked; then used, or begun
 * anew. Only who holds the lock unlinks or changes one. A crash at any point leaves a file that can
 * be locked and is either whole or recognised as not.
 */
#include "doors/p9_once.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAGIC   0x706c6f70
#define VERSION 4

_Static_assert(sizeof(struct once_slot) <= 128, "two cache lines");

/* ---- sums ---- */

static uint64_t sum(uint64_t h, const void *data, size_t n)
{
    const uint8_t *p = data;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        h = (h ^ v) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    for (; n; n--, p++)
        h = (h ^ *p) * 0x100000001b3u;
    return h;
}

uint64_t once_name_hash(const char *name)
{
    return sum(0xcbf29ce484222325u, name, strlen(name));
}

uint64_t once_sum_asked(const struct once_slot *s)
{
    uint64_t v[] = {s->op, s->type, s->hash, s->began, s->from, s->name};
    return sum(1, v, sizeof(v));
}

uint64_t once_sum_answered(const struct once_slot *s)
{
    uint64_t v[] = {s->asked,
                    s->qid_type,
                    (uint32_t)s->error,
                    (uint64_t)s->qid_version << 32 | s->iounit,
                    s->qid_path,
                    s->count,
                    s->to};
    return sum(2, v, sizeof(v));
}

static uint64_t sum_head(const struct once_head *h)
{
    return sum(3, &h->version,
               offsetof(struct once_head, sum) - offsetof(struct once_head, version));
}

/* ---- one file ---- */

static void file_name(char ret[33], const uint64_t id[2])
{
    snprintf(ret, 33, "%016" PRIx64 "%016" PRIx64, id[0], id[1]);
}

bool once_slot_ok(const struct once_slot *s, unsigned i)
{
    uint32_t state = atomic_load(&s->state);
    if (state == ONCE_FREE)
        return true;
    if (state > ONCE_CALLED_OFF || s->op == 0 || s->op % LIMIT_SESSION_OPS != i ||
        s->asked != once_sum_asked(s))
        return false;
    return state != ONCE_DONE ||
           (s->answered == once_sum_answered(s) && s->error <= 0 && s->error >= -4095);
}

static bool file_ok(const struct once_store *st, const struct once_file *f, const uint64_t id[2])
{
    const struct once_head *h = &f->head;
    if (atomic_load(&h->magic) != MAGIC || h->version != VERSION || h->what != st->what ||
        memcmp(h->boot, st->boot, sizeof(h->boot)) || memcmp(h->id, id, sizeof(h->id)) ||
        h->who[sizeof(h->who) - 1] || h->sum != sum_head(h))
        return false;
    for (unsigned i = 0; i < LIMIT_SESSION_OPS; i++)
        if (!once_slot_ok(&f->slot[i], i))
            return false;
    return true;
}

static void file_init(const struct once_store *st, struct once_file *f, const uint64_t id[2],
                      const char *who)
{
    struct once_head *h = &f->head;
    h->version = VERSION;
    h->what = st->what;
    memcpy(h->boot, st->boot, sizeof(h->boot));
    memcpy(h->id, id, sizeof(h->id));
    snprintf(h->who, sizeof(h->who), "%s", who);
    h->sum = sum_head(h);
    atomic_store(&h->magic, MAGIC);
}

static struct once_file *map(int fd)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *p = mmap(NULL, sizeof(struct once_file), PROT_READ | PROT_WRITE, flags, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

struct once_file *once_file_private(struct once_store *st, const uint64_t id[2], const char *who)
{
    struct once_file *f = map(-1);
    if (f)
        file_init(st, f, id, who);
    return f;
}

/* Opens and locks: a descriptor, -EBUSY, or another negative errno. */
static int take(int dir, const char *name, int flags)
{
    for (int tries = 0; tries < 100; tries++) {
        struct stat st;
        int fd = openat(dir, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | flags, 0600);
        if (fd < 0)
            return -errno;
        int r = flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &st) < 0 ? -errno : 0;
        if (r == 0 && (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 077))
            r = -EPERM;
        if (r == 0 && st.st_nlink > 0)
            return fd;
        close(fd);
        if (r < 0)
            return r == -EWOULDBLOCK ? -EBUSY : r;
    }
    return -EAGAIN;
}

/* The file as it was found, mapped, if it can be used; else it is made empty, with all its blocks:
 * a full disk must be noticed now, not as SIGBUS when something is noted. */
static int fill(struct once_store *st, int fd, const uint64_t id[2], const char *who,
                struct once_file **ret)
{
    struct stat s;
    struct once_file *f = NULL;
    if (fstat(fd, &s) == 0 && s.st_size == sizeof(*f) && (f = map(fd)) && file_ok(st, f, id)) {
        if (strcmp(f->head.who, who)) {
            munmap(f, sizeof(*f));
            return -EACCES;
        }
        *ret = f;
        return 1;
    }
    if (f)
        munmap(f, sizeof(*f));
    if (ftruncate(fd, 0) < 0)
        return -errno;
    int r = -posix_fallocate(fd, 0, sizeof(*f));
    if (r < 0)
        return r;
    if (!(f = map(fd)))
        return -errno;
    file_init(st, f, id, who);
    *ret = f;
    return 0;
}

int once_file_open(struct once_store *st, const uint64_t id[2], const char *who,
                   struct once_file **ret, int *ret_fd)
{
    char name[33];
    file_name(name, id);
    int fd = take(st->dir, name, O_CREAT);
    if (fd < 0)
        return fd == -EPERM ? -EIO : fd;
    int r = fill(st, fd, id, who, ret);
    if (r < 0) {
        if (r != -EACCES)
            unlinkat(st->dir, name, 0);
        close(fd);
        return r == -EACCES ? -EPERM : r;
    }
    atomic_store(&(*ret)->head.connected, 1);
    futimens(fd, NULL);
    *ret_fd = fd;
    return r;
}

void once_file_close(struct once_store *st, struct once_file *f, int fd, bool forget)
{
    char name[33];
    if (fd >= 0 && forget) {
        file_name(name, f->head.id);
        unlinkat(st->dir, name, 0);
    } else if (fd >= 0) {
        atomic_store(&f->head.connected, 0);
        futimens(fd, NULL);
    }
    munmap(f, sizeof(*f));
    if (fd >= 0)
        close(fd);
}

/* ---- all of them ---- */

/* The files of a directory, in no order. */
static DIR *listing(int dir)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (fd >= 0 && !d)
        close(fd);
    return d;
}

static bool is_hex(const char *s, size_t n)
{
    return strlen(s) == n && strspn(s, "0123456789abcdef") == n;
}

/* The server that had it is dead: only from now on is the client without a connection. */
static bool orphan(int fd)
{
    struct once_head h;
    uint32_t none = 0;
    if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || atomic_load(&h.connected) != 1)
        return false;
    if (pwrite(fd, &none, sizeof(none), offsetof(struct once_head, connected)) < 0)
        return false;
    futimens(fd, NULL);
    return true;
}

/* Removes it, if it is nobody's and older than `before`: true if it is gone. `all`: also one whose
 * server has died. */
static bool drop(int dir, const char *name, int64_t before, bool all)
{
    struct stat st;
    int fd = take(dir, name, 0);
    if (fd < 0)
        return false;
    bool gone = (all || !orphan(fd)) && fstat(fd, &st) == 0 && st.st_mtim.tv_sec < before &&
                unlinkat(dir, name, 0) == 0;
    close(fd);
    return gone;
}

struct aged {
    bool used; /* it has an operation; looked up only when that matters */
    int64_t at;
    char name[33];
};

static int by_age(const void *a, const void *b)
{
    const struct aged *x = a, *y = b;
    if (x->used != y->used)
        return x->used ? 1 : -1;
    return x->at < y->at ? -1 : x->at > y->at;
}

static bool is_used(int dir, const char *name)
{
    struct once_head h;
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    bool used = fd >= 0 && pread(fd, &h, sizeof(h), 0) == sizeof(h) && atomic_load(&h.newest);
    if (fd >= 0)
        close(fd);
    return used;
}

/* Names and ages of all files in the directory; to be freed. */
static struct aged *all_of(int dir, size_t *ret)
{
    struct aged *all = NULL;
    size_t n = 0, room = 0;
    struct dirent *e;
    struct stat st;
    DIR *d = listing(dir);
    while (d && (e = readdir(d))) {
        if (!is_hex(e->d_name, 32) || fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        if (n == room) {
            struct aged *more = realloc(all, (room = room ? 2 * room : 64) * sizeof(*all));
            if (!more)
                break;
            all = more;
        }
        all[n].used = true;
        all[n].at = st.st_mtim.tv_sec;
        memcpy(all[n++].name, e->d_name, 33);
    }
    if (d)
        closedir(d);
    *ret = n;
    return all;
}

/* `first`: looks at all, for those whose server has died. */
static void prune(int dir, unsigned max, bool first)
{
    size_t n;
    struct aged *all = all_of(dir, &n);
    int64_t old = time(NULL) - LIMIT_SESSION_KEPT;
    size_t excess = n > max ? n - max : 0;
    for (size_t i = 0; i < n && excess; i++)
        all[i].used = is_used(dir, all[i].name);
    if (excess)
        qsort(all, n, sizeof(*all), by_age);
    for (size_t i = 0; i < n; i++) {
        if (excess && drop(dir, all[i].name, INT64_MAX, true))
            excess--;
        else if (first || all[i].at < old)
            drop(dir, all[i].name, old, false);
    }
    free(all);
}

void once_store_prune(struct once_store *st, unsigned max)
{
    prune(st->dir, max, false);
}

/* Read, not mapped: their servers may be at work, or begin them anew. */
void once_store_each(struct once_store *st, void (*fn)(void *arg, const struct once_file *),
                     void *arg)
{
    struct once_file *f = malloc(sizeof(*f));
    struct dirent *e;
    DIR *d = f ? listing(st->dir) : NULL;
    while (d && (e = readdir(d))) {
        int fd = -1;
        if (is_hex(e->d_name, 32))
            fd = openat(st->dir, e->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0 && pread(fd, f, sizeof(*f), 0) == sizeof(*f) &&
            atomic_load(&f->head.magic) == MAGIC && f->head.sum == sum_head(&f->head))
            fn(arg, f);
        if (fd >= 0)
            close(fd);
    }
    if (d)
        closedir(d);
    free(f);
}

/* What other servers have left behind for too long, if they are not run again. */
static void sweep(int parent)
{
    struct dirent *e;
    struct stat st;
    DIR *d = listing(parent);
    while (d && (e = readdir(d))) {
        if (!is_hex(e->d_name, 16))
            continue;
        int dir = openat(parent, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir < 0)
            continue;
        prune(dir, LIMIT_SESSIONS, true);
        /* No server has it, and it is not another that has the name by now; if it is empty. */
        if (flock(dir, LOCK_EX | LOCK_NB) == 0 && fstat(dir, &st) == 0 && st.st_nlink > 0)
            unlinkat(parent, e->d_name, AT_REMOVEDIR);
        close(dir);
    }
    if (d)
        closedir(d);
}

/* In which boot of the machine this is: a file that is older may tell of what was never written. */
static int this_boot(char boot[40])
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    memset(boot, 0, 40);
    ssize_t n = fd < 0 ? -1 : read(fd, boot, 36);
    if (fd >= 0)
        close(fd);
    return n == 36 ? 0 : -EOPNOTSUPP;
}

/* A descriptor of the directory, made if it is not there; its shared lock keeps another server,
 * which sweeps, from taking it away while it is empty. */
static int hold_dir(int parent, const char *name)
{
    for (int tries = 0; tries < 100; tries++) {
        struct stat s;
        if (mkdirat(parent, name, 0700) < 0 && errno != EEXIST)
            return -errno;
        int dir = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int r = dir < 0 || flock(dir, LOCK_SH) < 0 || fstat(dir, &s) < 0 ? -errno : 0;
        if (r == 0 && (s.st_uid != geteuid() || s.st_mode & 077))
            r = -EPERM;
        if (r == 0 && s.st_nlink > 0)
            return dir;
        if (dir >= 0)
            close(dir);
        if (r < 0 && r != -ENOENT)
            return r;
    }
    return -EAGAIN;
}

int once_store_open(struct once_store *st, int parent, const char *what)
{
    char name[17];
    int r = this_boot(st->boot);
    st->dir = -1;
    if (r < 0)
        return r;
    st->what = once_name_hash(what);
    sweep(parent);
    snprintf(name, sizeof(name), "%016" PRIx64, st->what);
    r = hold_dir(parent, name);
    if (r < 0)
        return r;
    st->dir = r;
    return 0;
}

void once_store_close(struct once_store *st)
{
    if (st->dir >= 0)
        close(st->dir);
    st->dir = -1;
}
