/* SPDX-License-Identifier: MIT */
#include "doors/preload/look.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define CALL(p, nr, a, b, c, d, e)                                                                 \
    (p)->call((nr), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

/* Where a path begins and what it comes to. */
struct way {
    char full[PRELOAD_PATH]; /* canonical, if there is no link on it */
    struct view_found found;
    bool native; /* in no tree; the call is made as it was */
    bool up;     /* ".." was on it */
    /* The directory, the first bytes of the path, was lent: it is number k of its stack. */
    int fd; /* -1: none */
    uint32_t k;
    size_t base;
};

/* What was found in a tree. */
struct seen {
    char path[PRELOAD_PATH]; /* physical */
    struct stat st;
    uint32_t k; /* in which directory of the stack */
    int at;     /* for calls: `name` in this */
    const char *name;
};

static long look(const struct preload *p, const char *path, struct stat *st)
{
    return CALL(p, SYS_newfstatat, AT_FDCWD, path, st, AT_SYMLINK_NOFOLLOW, 0);
}

/* ---- where a path begins ---- */

static bool is_trap_dev(const struct preload *p, uint64_t dev)
{
    return dev == p->block->dev[0] || dev == p->block->dev[1];
}

/* The path of what is at e, if that is the object of `st`: its length, or PRELOAD_TRAP. */
static long read_place(const struct preload_place *e, const atomic_uint *moves,
                       const struct stat *st, char path[PRELOAD_PATH], uint32_t *k)
{
    unsigned seq = atomic_load_explicit(&e->seq, memory_order_acquire);
    bool is = !(seq & 1) && e->dev == st->st_dev && e->ino == st->st_ino &&
              e->moves == atomic_load_explicit(moves, memory_order_acquire);
    uint32_t n = is ? e->length : 0;
    is = is && n < PRELOAD_PATH;
    if (is)
        memcpy(path, e->path, n);
    *k = e->k;
    path[is ? n : 0] = 0;
    atomic_thread_fence(memory_order_acquire);
    if (!is || atomic_load_explicit(&e->seq, memory_order_relaxed) != seq)
        return PRELOAD_TRAP;
    return (long)n;
}

/* The path of what the trap's descriptor stands for. */
static long place_of(const struct preload *p, const struct stat *st, char path[PRELOAD_PATH])
{
    const struct preload_place *e = &p->block->place[st->st_ino % PRELOAD_PLACES];
    uint32_t none;
    return read_place(e, &p->block->moves, st, path, &none);
}

/* The path of a physical directory that may be lent. */
static long lent_at(const struct preload *p, const struct stat *st, char path[PRELOAD_PATH],
                    uint32_t *k)
{
    uint32_t i = preload_slot(preload_hash_ino(st->st_dev, st->st_ino), PRELOAD_PLACES);
    long n = PRELOAD_TRAP;
    for (uint32_t end = i + PRELOAD_WAYS; n < 0 && i < end; i++)
        n = read_place(&p->block->lent[i], &p->block->renames, st, path, k);
    return n;
}

/* Is it a directory of a tree that was lent? One of a view of before, perhaps. */
static bool is_lent(int fd, const struct stat *st)
{
    return S_ISDIR(st->st_mode) && syscall(SYS_fcntl, fd, F_GETSIG) == PRELOAD_TAG;
}

/* The kernel's working directory, or what its descriptor is of. */
static long kernel_base(const struct preload *p, int dirfd, char path[PRELOAD_PATH])
{
    char name[32] = "/proc/self/fd/", digits[12];
    size_t n = strlen(name), k = 0;
    long r;
    if (dirfd == AT_FDCWD) {
        r = CALL(p, SYS_getcwd, path, PRELOAD_PATH, 0, 0, 0) - 1;
    } else {
        for (unsigned v = (unsigned)dirfd; v || !k; v /= 10)
            digits[k++] = (char)('0' + v % 10);
        while (k)
            name[n++] = digits[--k];
        name[n] = 0;
        r = CALL(p, SYS_readlinkat, AT_FDCWD, name, path, PRELOAD_PATH - 1, 0);
    }
    if (r <= 0 || r >= PRELOAD_PATH || path[0] != '/')
        return PRELOAD_TRAP;
    path[r] = 0;
    return r == 1 ? 0 : r; /* names are put behind a '/' */
}

/* What comes before a relative path: its length in w->full; 0: "/". */
static long base_of(const struct preload *p, int dirfd, struct way *w, bool *native)
{
    struct stat st;
    int fd = dirfd == AT_FDCWD ? p->block->state_fd : dirfd;
    if (fd < 0 || (fd == p->block->state_fd && dirfd != AT_FDCWD) ||
        CALL(p, SYS_fstat, fd, &st, 0, 0, 0) < 0)
        return PRELOAD_TRAP;
    bool ours = dirfd == AT_FDCWD || is_trap_dev(p, st.st_dev);
    if (!ours && is_lent(dirfd, &st)) {
        long n = lent_at(p, &st, w->full, &w->k);
        w->fd = dirfd;
        w->base = n > 0 ? (size_t)n : 0;
        return n > 0 ? n : PRELOAD_TRAP;
    }
    long n = ours ? place_of(p, &st, w->full) : 0;
    *native = !ours || (n == 0 && dirfd == AT_FDCWD);
    return *native ? kernel_base(p, dirfd, w->full) : n > 0 ? n : PRELOAD_TRAP;
}

/* ---- letters ---- */

static size_t parent_of(const char *full, size_t n)
{
    while (n && full[n - 1] != '/')
        n--;
    return n ? n - 1 : 0;
}

static uint32_t dots_of(const char *name, size_t len)
{
    uint32_t n = 0;
    while (n < len && name[n] == '.')
        n++;
    return n == len && n <= 3 ? n : 0;
}

/* Up from the first `n` bytes, where no tree is: that is right by the letters if no link is on the
 * whole way, which is found out later. PRELOAD_TRAP: it is in a tree. */
static long go_up(const struct preload *p, struct way *w, size_t n)
{
    w->full[n] = 0;
    w->up = true;
    return n && view_pack_find(&p->pack, w->full, &w->found) ? PRELOAD_TRAP
                                                             : (long)parent_of(w->full, n);
}

/* Puts the names of `path` behind the first `n` bytes; false: it is for the trap. */
static bool add_names(const struct preload *p, struct way *w, size_t n, const char *path)
{
    while (*path) {
        while (*path == '/')
            path++;
        size_t len = 0;
        while (path[len] && path[len] != '/')
            len++;
        uint32_t dots = dots_of(path, len);
        /* At the end it means a directory; "..." is a view's own. */
        if (!len || dots == 3 || (dots && path[len] != '/') || n + len + 2 > PRELOAD_PATH)
            return false;
        if (dots == 2) {
            long up = go_up(p, w, n);
            if (up < 0)
                return false;
            n = (size_t)up;
        } else if (!dots) {
            w->full[n++] = '/';
            memcpy(w->full + n, path, len);
            n += len;
        }
        path += len;
    }
    w->full[n] = 0;
    return n > 0;
}

static bool begins(const char *path, const char *with)
{
    while (*with)
        if (*path++ != *with++)
            return false;
    return true;
}

/* True: it is in w; false: for the trap. */
static bool find_way(const struct preload *p, int dirfd, const char *path, struct way *w)
{
    bool native = true;
    long n = 0;
    w->up = false;
    w->fd = -1;
    if (!p->block || !path || !*path || (path[0] == '.' && !path[1]) ||
        atomic_load_explicit(&p->block->stale, memory_order_acquire))
        return false;
    if (*path != '/')
        n = base_of(p, dirfd, w, &native);
    if (n < 0 || !add_names(p, w, (size_t)n, path))
        return false;
    w->native = !view_pack_find(&p->pack, w->full, &w->found);
    if (w->native)
        return native && !begins(w->full, "/proc/") && strcmp(w->full, "/proc") != 0;
    return !w->up && !(w->found.flags & VIEW_PACK_ASK);
}

/* ---- in no tree ---- */

/* With no link on the way the kernel finds what the trap would. */
static long open_straight(const struct preload *p, int dirfd, const char *path, uint64_t flags,
                          mode_t mode)
{
    struct open_how how = {.flags = flags, .mode = mode, .resolve = RESOLVE_NO_SYMLINKS};
    long r = CALL(p, SYS_openat2, dirfd, path, &how, sizeof(how), 0);
    switch (r) {
    case -ELOOP:
    case -EXDEV:
    case -EAGAIN:
    case -EINVAL:
    case -ENOSYS:
    case -EMFILE:
    case -ENFILE:
    case -ENOMEM:
    case -EFAULT:
    case -EINTR:
        return PRELOAD_TRAP;
    default:
        return r;
    }
}

/* Only a name for what is there, or what the call fails with. */
static long named(const struct preload *p, int dirfd, const char *path, bool follow)
{
    return open_straight(p, dirfd, path, O_PATH | O_CLOEXEC | (follow ? 0u : O_NOFOLLOW), 0);
}

/* A call whose first argument is a descriptor, about what the path names. */
static long about(const struct preload *p, int dirfd, const char *path, bool follow, long nr,
                  const void *a, uint64_t b, uint64_t c, void *d)
{
    long fd = named(p, dirfd, path, follow);
    if (fd < 0)
        return fd;
    long r = CALL(p, nr, fd, a, b, c, d);
    syscall(SYS_close, (int)fd);
    return r;
}

/* ---- in a tree ---- */

static bool read_dir(const struct preload_dir *d, const char *path, size_t n,
                     struct preload_front front[PRELOAD_FRONT], uint32_t *ret_n)
{
    unsigned seq = atomic_load_explicit(&d->seq, memory_order_acquire);
    bool is = seq && !(seq & 1) && memcmp(d->path, path, n) == 0 && !d->path[n] &&
              d->n <= PRELOAD_FRONT + 1;
    if (is) {
        *ret_n = d->n;
        for (uint32_t i = 0; i + 1 < d->n && i < PRELOAD_FRONT; i++)
            front[i] = d->front[i];
    }
    atomic_thread_fence(memory_order_acquire);
    return is && atomic_load_explicit(&d->seq, memory_order_relaxed) == seq;
}

/* What the directory, the first `n` bytes of the path, is made of. */
static bool find_dir(const struct preload *p, const char *path, size_t n,
                     struct preload_front front[PRELOAD_FRONT], uint32_t *ret_n)
{
    uint32_t i = preload_slot(preload_hash(path, (uint32_t)n), PRELOAD_DIRS);
    bool is = false;
    for (uint32_t end = i + PRELOAD_WAYS; !is && i < end; i++)
        is = read_dir(&p->block->dir[i], path, n, front, ret_n);
    return is;
}

/* The physical path number i; its length, 0: too long. */
static size_t physical(const struct view_found *f, uint32_t i, char ret[PRELOAD_PATH])
{
    size_t a = strlen(f->dirs[i]), b = strlen(f->rest[i]);
    if (a + b >= PRELOAD_PATH)
        return 0;
    memcpy(ret, f->dirs[i], a);
    memcpy(ret + a, f->rest[i], b + 1);
    return a + b;
}

/* Is the directory in front still as it was noted? `path` is cut for the question. */
static bool is_same(const struct preload *p, char *path, const struct preload_front *f)
{
    struct stat st;
    char was = path[f->length];
    path[f->length] = 0;
    long r = look(p, path, &st);
    path[f->length] = was;
    return r == 0 && st.st_dev == f->dev && st.st_ino == f->ino && st.st_ctim.tv_sec == f->sec &&
           (uint32_t)st.st_ctim.tv_nsec == f->nsec;
}

/* Is a name of these bits in the directory, which is as it was noted? */
static bool may_have(const struct preload_front *f, const char *name)
{
    uint64_t bits[2] = {0, 0};
    preload_name_bits(name, (uint32_t)strlen(name), bits);
    return !(bits[0] & ~f->names[0]) && !(bits[1] & ~f->names[1]);
}

/* Of what was lent the kernel has to go the rest only. */
static void call_by(const struct way *w, struct seen *s)
{
    bool rest = w->fd >= 0 && w->k == s->k && strlen(w->full) > w->base;
    s->at = rest ? w->fd : AT_FDCWD;
    s->name = rest ? w->full + w->base + 1 : s->path;
}

/* What the name stands for that begins behind the first `n` bytes of the path. */
static long see_name(const struct preload *p, const struct way *w, size_t n, struct seen *s)
{
    const struct view_found *f = &w->found;
    const char *full = w->full;
    struct preload_front front[PRELOAD_FRONT];
    uint32_t count;
    if (begins(full + n + 1, ".wh.") || !find_dir(p, full, n, front, &count) || count != f->n)
        return PRELOAD_TRAP;
    for (s->k = 0; s->k < f->n; s->k++) {
        bool last = s->k + 1 == f->n;
        size_t size = physical(f, s->k, s->path), dir = size - (strlen(full) - n);
        if (!size || (!last && (front[s->k].length > dir || !is_same(p, s->path, &front[s->k]))))
            return PRELOAD_TRAP;
        if (!last && (front[s->k].length < dir || !may_have(&front[s->k], full + n + 1)))
            continue;
        call_by(w, s);
        long r = CALL(p, SYS_newfstatat, s->at, s->name, &s->st, AT_SYMLINK_NOFOLLOW, 0);
        if (r == -ENOENT)
            continue;
        bool white = S_ISCHR(s->st.st_mode) && s->st.st_rdev == 0;
        /* How many names it has in the view, and which file it is, only the trap knows. */
        bool links = !S_ISDIR(s->st.st_mode) && s->st.st_nlink > 1;
        return r < 0 || white || links ? PRELOAD_TRAP : 0;
    }
    return -ENOENT;
}

/* What the path stands for in its tree. Where its directory is not known, and is known not to be
 * there, it is not there. */
static long see(const struct preload *p, struct way *w, struct seen *s)
{
    size_t n = parent_of(w->full, strlen(w->full));
    long r = see_name(p, w, n, s);
    for (int tries = 0; r == PRELOAD_TRAP && tries < 3; tries++) {
        w->full[n] = 0;
        n = parent_of(w->full, n);
        if (!n || !view_pack_find(&p->pack, w->full, &w->found))
            break;
        if (see_name(p, w, n, s) == -ENOENT)
            return -ENOENT;
    }
    return r;
}

static bool may_follow(const struct seen *s, bool follow)
{
    return !(follow && S_ISLNK(s->st.st_mode));
}

/* What the directory, all of `full`, is made of, if that is one alone; PRELOAD_TRAP. */
static long see_only(const struct preload *p, const struct way *w, struct seen *ret)
{
    const struct view_found *f = &w->found;
    const char *full = w->full;
    struct preload_front front[PRELOAD_FRONT];
    uint32_t count, there = 0;
    if (!find_dir(p, full, strlen(full), front, &count) || count != f->n)
        return PRELOAD_TRAP;
    for (uint32_t k = 0; k < f->n; k++) {
        struct seen s = {.k = k};
        size_t size = physical(f, k, s.path);
        bool last = k + 1 == f->n;
        if (!size || (!last && (front[k].length > size || !is_same(p, s.path, &front[k]))))
            return PRELOAD_TRAP;
        if (!last && front[k].length < size)
            continue;
        call_by(w, &s);
        long r = CALL(p, SYS_newfstatat, s.at, s.name, &s.st, AT_SYMLINK_NOFOLLOW, 0);
        if (r < 0 && r != -ENOENT)
            return PRELOAD_TRAP;
        if (r == 0 && S_ISDIR(s.st.st_mode) && there++ == 0)
            *ret = s;
    }
    if (there == 1 && ret->at == AT_FDCWD)
        ret->name = ret->path;
    return there == 1 ? 0 : PRELOAD_TRAP;
}

/* ---- the calls ---- */

#define LOOKS (O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_LARGEFILE)

static long open_marked(const struct preload *p, const struct seen *s, int flags)
{
    long fd = open_straight(p, s->at, s->name, (unsigned)flags | O_NOFOLLOW, 0);
    if (fd < 0)
        return PRELOAD_TRAP;
    syscall(SYS_fcntl, (int)fd, F_SETSIG, PRELOAD_TAG);
    return fd;
}

/* The physical directory, if it is the only one, and a descriptor of it leads back here. */
static long lend(const struct preload *p, const struct way *w, int flags)
{
    struct seen s;
    char back[PRELOAD_PATH];
    uint32_t k;
    if (!p->block->lends || see_only(p, w, &s) < 0 || lent_at(p, &s.st, back, &k) <= 0 ||
        k != s.k || strcmp(back, w->full) != 0)
        return PRELOAD_TRAP;
    return open_marked(p, &s, flags | O_DIRECTORY);
}

long preload_open(const struct preload *p, int dirfd, const char *path, int flags, mode_t mode)
{
    struct way w;
    struct seen s;
    long fd;
    if (!find_way(p, dirfd, path, &w))
        return PRELOAD_TRAP;
    if (w.native)
        return open_straight(p, dirfd, path, (unsigned)flags,
                             flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? mode & 07777 : 0);
    if (flags & ~(LOOKS | O_DIRECTORY))
        return PRELOAD_TRAP;
    if (flags & O_DIRECTORY && (fd = lend(p, &w, flags)) >= 0)
        return fd;
    long r = see(p, &w, &s);
    if (r < 0)
        return r;
    if (S_ISDIR(s.st.st_mode) && !(flags & O_DIRECTORY))
        return lend(p, &w, flags);
    return S_ISREG(s.st.st_mode) && !(flags & O_DIRECTORY) ? open_marked(p, &s, flags)
                                                           : PRELOAD_TRAP;
}

/* No descriptor of the trap; `ret` is what it is, with the number 0 if that is not to be known. */
static bool is_kernels(const struct preload *p, int fd, struct stat *ret)
{
    ret->st_ino = 0;
    if (!p->block || fd < 0 || fd == p->block->state_fd ||
        atomic_load_explicit(&p->block->stale, memory_order_acquire) ||
        CALL(p, SYS_fstat, fd, ret, 0, 0, 0) < 0) {
        ret->st_ino = 0;
        return false;
    }
    return !is_trap_dev(p, ret->st_dev);
}

/* Of a directory of a tree, what its path says; unless that has become something else, or nothing.
 */
static long stat_place(const struct preload *p, const struct stat *fd, struct stat *st)
{
    struct way w = {.fd = -1};
    struct seen s;
    long n = place_of(p, fd, w.full);
    if (n <= 0 || !view_pack_find(&p->pack, w.full, &w.found) || w.found.flags & VIEW_PACK_ASK ||
        see(p, &w, &s) != 0 || !S_ISDIR(s.st.st_mode))
        return PRELOAD_TRAP;
    *st = s.st;
    return 0;
}

/* The descriptor itself is meant. */
static bool is_empty(int dirfd, const char *path, int flags)
{
    return dirfd >= 0 && flags & AT_EMPTY_PATH && path && !*path;
}

/* What is asked of a name, as by fstatat(2). */
static bool asks(const struct preload *p, int dirfd, const char *path, int flags, struct way *w)
{
    return !(flags & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT)) && find_way(p, dirfd, path, w);
}

long preload_stat(const struct preload *p, int dirfd, const char *path, struct stat *st, int flags)
{
    struct way w;
    struct seen s;
    bool follow = !(flags & AT_SYMLINK_NOFOLLOW);
    if (is_empty(dirfd, path, flags))
        return preload_fstat(p, dirfd, st);
    if (!asks(p, dirfd, path, flags, &w))
        return PRELOAD_TRAP;
    if (w.native)
        return about(p, dirfd, path, follow, SYS_fstat, st, 0, 0, NULL);
    long r = see(p, &w, &s);
    if (r == 0 && !may_follow(&s, follow))
        return PRELOAD_TRAP;
    if (r == 0)
        *st = s.st;
    return r;
}

long preload_statx(const struct preload *p, int dirfd, const char *path, int flags, unsigned mask,
                   struct statx *sx)
{
    struct way w;
    struct seen s;
    bool follow = !(flags & AT_SYMLINK_NOFOLLOW);
    if (is_empty(dirfd, path, flags))
        return is_kernels(p, dirfd, &s.st) ? CALL(p, SYS_statx, dirfd, "", flags, mask, sx)
                                           : PRELOAD_TRAP;
    if (!asks(p, dirfd, path, flags, &w))
        return PRELOAD_TRAP;
    if (w.native)
        return about(p, dirfd, path, follow, SYS_statx, "", (uint64_t)flags | AT_EMPTY_PATH, mask,
                     sx);
    long r = see(p, &w, &s);
    if (r == 0 && !may_follow(&s, follow))
        return PRELOAD_TRAP;
    if (r == 0)
        r = CALL(p, SYS_statx, s.at, s.name, AT_SYMLINK_NOFOLLOW, mask, sx);
    return r == -ENOENT || r == 0 ? r : PRELOAD_TRAP;
}

long preload_fstat(const struct preload *p, int fd, struct stat *st)
{
    struct stat found;
    if (is_kernels(p, fd, &found)) {
        *st = found;
        return 0;
    }
    return found.st_ino ? stat_place(p, &found, st) : PRELOAD_TRAP;
}

long preload_access(const struct preload *p, int dirfd, const char *path, int mode, int flags)
{
    struct way w;
    struct seen s;
    if (flags || mode & ~(R_OK | X_OK) || !find_way(p, dirfd, path, &w))
        return PRELOAD_TRAP;
    if (w.native) {
        long r =
            about(p, dirfd, path, true, SYS_faccessat2, "", (uint64_t)mode, AT_EMPTY_PATH, NULL);
        return r == 0 || r == -ENOENT || r == -ENOTDIR ? r : PRELOAD_TRAP;
    }
    long r = see(p, &w, &s);
    if (r < 0)
        return r;
    if (!may_follow(&s, true))
        return PRELOAD_TRAP;
    return CALL(p, SYS_faccessat2, s.at, s.name, mode, 0, 0) == 0 ? 0 : PRELOAD_TRAP;
}

/* The kernel says ENOENT of a descriptor that is of no link. */
static long read_named(const struct preload *p, int dirfd, const char *path, char *buf, size_t size)
{
    long fd = named(p, dirfd, path, false);
    if (fd < 0)
        return fd;
    long r = CALL(p, SYS_readlinkat, fd, "", buf, size, 0);
    syscall(SYS_close, (int)fd);
    return r == -ENOENT ? -EINVAL : r;
}

long preload_readlink(const struct preload *p, int dirfd, const char *path, char *buf, size_t size)
{
    struct way w;
    struct seen s;
    if (!size || size > 1 << 30 || !find_way(p, dirfd, path, &w))
        return PRELOAD_TRAP;
    if (w.native)
        return read_named(p, dirfd, path, buf, size);
    long r = see(p, &w, &s);
    if (r < 0)
        return r;
    if (!S_ISLNK(s.st.st_mode))
        return -EINVAL;
    r = CALL(p, SYS_readlinkat, s.at, s.name, buf, size, 0);
    return r < 0 ? PRELOAD_TRAP : r;
}

long preload_realpath(const struct preload *p, const char *path, char ret[PRELOAD_PATH])
{
    struct way w;
    struct seen s;
    if (!find_way(p, AT_FDCWD, path, &w))
        return PRELOAD_TRAP;
    if (w.native) {
        long fd = named(p, AT_FDCWD, path, true);
        if (fd < 0)
            return fd;
        syscall(SYS_close, (int)fd);
    } else {
        struct way here = w; /* it may be cut */
        long r = see(p, &here, &s);
        if (r < 0 || !may_follow(&s, true))
            return r < 0 ? r : PRELOAD_TRAP;
    }
    memcpy(ret, w.full, strlen(w.full) + 1);
    return 0;
}

/* ---- listings ---- */

/* The number of the directory above, as it is seen; 0. */
static uint64_t number_above(const struct preload *p, char *full)
{
    struct view_found f;
    struct stat st;
    char path[PRELOAD_PATH];
    size_t n = parent_of(full, strlen(full));
    full[n] = 0;
    if (!n || !view_pack_find(&p->pack, full, &f))
        return look(p, n ? full : "/", &st) == 0 ? st.st_ino : 0;
    for (uint32_t k = 0; k < f.n; k++)
        if (physical(&f, k, path) && look(p, path, &st) == 0 && S_ISDIR(st.st_mode))
            return st.st_ino;
    return 0;
}

long preload_listing(const struct preload *p, int fd, struct preload_where *ret)
{
    struct stat st;
    struct seen s;
    struct way w = {.fd = -1};
    bool lent = is_kernels(p, fd, &st);
    if (!st.st_ino)
        return PRELOAD_TRAP;
    if (lent && !is_lent(fd, &st))
        return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
    if ((lent ? lent_at(p, &st, w.full, &w.k) : place_of(p, &st, w.full)) <= 0 ||
        !view_pack_find(&p->pack, w.full, &w.found) || w.found.flags & VIEW_PACK_ASK ||
        see_only(p, &w, &s) < 0)
        return PRELOAD_TRAP;
    if (lent && (s.st.st_dev != st.st_dev || s.st.st_ino != st.st_ino))
        return PRELOAD_TRAP;
    ret->fd = lent ? fd : -1;
    memcpy(ret->path, s.path, sizeof(ret->path));
    ret->above = number_above(p, w.full);
    return 1;
}

/* What may be a mark is for the trap. */
static bool may_list(const struct dirent64 *e)
{
    return !begins(e->d_name, ".wh.") && e->d_type != DT_CHR && e->d_type != DT_UNKNOWN;
}

/* Of what was read, `n` bytes: places count bytes. */
static bool settle(char *buf, size_t n, uint64_t above)
{
    for (size_t at = 0; at < n;) {
        struct dirent64 *e = (struct dirent64 *)(buf + at);
        if (!may_list(e))
            return false;
        if (above && strcmp(e->d_name, "..") == 0)
            e->d_ino = above;
        at += e->d_reclen;
        e->d_off = (off64_t)at;
    }
    return true;
}

long preload_list(const struct preload *p, const struct preload_where *where, char *buf,
                  size_t size)
{
    size_t n = 0;
    long r = 1, fd = where->fd;
    if (fd < 0)
        fd = open_straight(p, AT_FDCWD, where->path,
                           O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW, 0);
    if (fd < 0)
        return PRELOAD_TRAP;
    while (r > 0 && size - n >= sizeof(struct dirent64)) {
        r = CALL(p, SYS_getdents64, fd, buf + n, size - n, 0, 0);
        n += r > 0 ? (size_t)r : 0;
    }
    if (where->fd < 0)
        syscall(SYS_close, (int)fd);
    else
        syscall(SYS_lseek, (int)fd, 0, SEEK_SET);
    if (r > 0)
        return -E2BIG;
    return r == 0 && settle(buf, n, where->above) ? (long)n : PRELOAD_TRAP;
}
