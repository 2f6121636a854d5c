/* SPDX-License-Identifier: MIT */
/*
 * Directory streams. The C library's read their entries by calls of its own, which the trap would
 * see; so opendir(3) and fdopendir(3) make streams of this kind, and the other functions of the
 * family know them from the C library's by their first words.
 *
 * A directory of a view that is made of one physical directory is read from that at once, when the
 * first entry is asked for; `d_off` and telldir(3) then count bytes of what was read. All others
 * are read as the C library does it, piece by piece: those of the kernel past the trap, those of
 * several directories by the trap. The descriptor is in any case what the program got when it
 * opened the directory. rewinddir(3) looks anew which of these it is.
 */
#include "doors/preload/lib.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ROOM = 32768, MOST = 1 << 26 };

struct stream {
    const void *mark, *self;
    pthread_mutex_t lock;
    int fd;
    bool begun, whole, native; /* whole: it is all in buf; native: the kernel lists it */
    size_t at, end, size;      /* in buf */
    long place;                /* of the next entry, if not whole */
    char *buf;
};

static const char mark;

static struct stream *ours(DIR *d)
{
    struct stream *s = (struct stream *)d;
    return s && s->mark == &mark && s->self == s ? s : NULL;
}

static DIR *stream_new(int fd)
{
    struct stream *s = calloc(1, sizeof(*s));
    char *buf = s ? malloc(ROOM) : NULL;
    if (!buf) {
        free(s);
        errno = ENOMEM;
        return NULL;
    }
    *s = (struct stream){.mark = &mark, .self = s, .fd = fd, .size = ROOM, .buf = buf};
    pthread_mutex_init(&s->lock, NULL);
    return (DIR *)s;
}

/* ---- reading ---- */

static bool read_whole(struct stream *s, const struct preload_where *where)
{
    long n;
    while ((n = preload_list(&here, where, s->buf, s->size)) == -E2BIG && s->size < MOST) {
        char *more = realloc(s->buf, s->size * 2);
        if (!more)
            return false;
        s->buf = more;
        s->size *= 2;
    }
    if (n < 0)
        return false;
    s->at = 0;
    s->end = (size_t)n;
    return true;
}

/* Where the entries come from, from the beginning or a place on. */
static void begin(struct stream *s)
{
    struct preload_where where;
    long how = preload_listing(&here, s->fd, &where);
    s->begun = true;
    s->native = how == 0;
    s->whole = how == 1 && s->place == 0 && lseek(s->fd, 0, SEEK_CUR) == 0 && read_whole(s, &where);
}

/* More entries: their bytes, 0 at the end, or a negative errno. */
static long fill(struct stream *s)
{
    if (!s->begun)
        begin(s);
    else if (s->whole)
        return 0;
    if (s->whole)
        return (long)s->end;
    long n = s->native ? here.call(SYS_getdents64, s->fd, (long)s->buf, (long)s->size, 0, 0)
                       : syscall(SYS_getdents64, s->fd, s->buf, s->size);
    if (n < 0 && !s->native)
        n = -errno;
    s->at = 0;
    s->end = n > 0 ? (size_t)n : 0;
    return n == -ENOENT ? 0 : n; /* it was removed */
}

/* The next entry; NULL: the end (0) or an error (its number) in *ret_error. */
static struct dirent *next_entry(struct stream *s, int *ret_error)
{
    int was = errno;
    long n = s->at < s->end ? 1 : fill(s);
    *ret_error = n < 0 ? (int)-n : 0;
    errno = was;
    if (n <= 0)
        return NULL;
    struct dirent *e = (struct dirent *)(s->buf + s->at);
    if (e->d_reclen < offsetof(struct dirent, d_name) || e->d_reclen > s->end - s->at)
        return NULL; /* of a place that was none */
    s->at += e->d_reclen;
    s->place = e->d_off;
    return e;
}

static struct dirent *stream_read(struct stream *s)
{
    int error;
    pthread_mutex_lock(&s->lock);
    struct dirent *e = next_entry(s, &error);
    pthread_mutex_unlock(&s->lock);
    if (error)
        errno = error;
    return e;
}

static int stream_read_r(struct stream *s, struct dirent *entry, struct dirent **result)
{
    int error;
    pthread_mutex_lock(&s->lock);
    struct dirent *e = next_entry(s, &error);
    if (e)
        memcpy(entry, e, e->d_reclen < sizeof(*entry) ? e->d_reclen : sizeof(*entry));
    pthread_mutex_unlock(&s->lock);
    *result = e ? entry : NULL;
    return error;
}

static void stream_seek(struct stream *s, long place)
{
    pthread_mutex_lock(&s->lock);
    if (s->whole) {
        s->at = place >= 0 && (size_t)place < s->end && place % 8 == 0 ? (size_t)place : s->end;
    } else {
        lseek(s->fd, place, SEEK_SET);
        s->at = s->end = 0;
    }
    s->place = place;
    pthread_mutex_unlock(&s->lock);
}

static void stream_rewind(struct stream *s)
{
    pthread_mutex_lock(&s->lock);
    lseek(s->fd, 0, SEEK_SET);
    s->at = s->end = 0;
    s->place = 0;
    s->begun = s->whole = false;
    pthread_mutex_unlock(&s->lock);
}

/* ---- the functions ---- */

typedef DIR *dir_of_fd(int fd);
typedef DIR *dir_of_path(const char *path);
typedef struct dirent *entry_of(DIR *d);
typedef int entry_r_of(DIR *d, struct dirent *entry, struct dirent **result);
typedef void rewind_of(DIR *d);
typedef void seek_of(DIR *d, long place);
typedef long tell_of(DIR *d);
typedef int number_of(DIR *d);

/* The C library's function of that name, found once. */
#define NEXT(name, type, fail)                                                                     \
    static _Atomic(type) found;                                                                    \
    type next = atomic_load_explicit(&found, memory_order_relaxed);                                \
    if (!next && next_of(name, &next))                                                             \
        atomic_store_explicit(&found, next, memory_order_relaxed);                                 \
    if (!next)                                                                                     \
    return fail

DIR *here_fdopendir(int fd) AS ("fdopendir");
DIR *here_fdopendir(int fd)
{
    struct stat st;
    if (!here.block) {
        NEXT("fdopendir", dir_of_fd *, NULL);
        return next(fd);
    }
    int flags = fcntl(fd, F_GETFL);
    long r = flags < 0 || flags & O_PATH ? -EBADF : here.call(SYS_fstat, fd, (long)&st, 0, 0, 0);
    if (r == 0 && !S_ISDIR(st.st_mode))
        r = -ENOTDIR;
    if (r == 0 && (flags & O_ACCMODE) == O_WRONLY)
        r = -EINVAL;
    return told(r) < 0 ? NULL : stream_new(fd);
}

DIR *here_opendir(const char *path) AS ("opendir");
DIR *here_opendir(const char *path)
{
    if (!here.block) {
        NEXT("opendir", dir_of_path *, NULL);
        return next(path);
    }
    int fd = open_any(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_DIRECTORY | O_CLOEXEC, 0);
    DIR *d = fd < 0 ? NULL : stream_new(fd);
    if (fd >= 0 && !d)
        close(fd);
    return d;
}

#define READDIR(fn, name)                                                                          \
    struct dirent *fn(DIR *d) AS (name);                                                           \
    struct dirent *fn(DIR *d)                                                                      \
    {                                                                                              \
        if (ours(d))                                                                               \
            return stream_read(ours(d));                                                           \
        NEXT(name, entry_of *, NULL);                                                              \
        return next(d);                                                                            \
    }
READDIR(here_readdir, "readdir")
READDIR(here_readdir64, "readdir64")

#define READDIR_R(fn, name)                                                                        \
    int fn(DIR *d, struct dirent *entry, struct dirent **result) AS (name);                        \
    int fn(DIR *d, struct dirent *entry, struct dirent **result)                                   \
    {                                                                                              \
        if (ours(d))                                                                               \
            return stream_read_r(ours(d), entry, result);                                          \
        NEXT(name, entry_r_of *, ENOSYS);                                                          \
        return next(d, entry, result);                                                             \
    }
READDIR_R(here_readdir_r, "readdir_r")
READDIR_R(here_readdir64_r, "readdir64_r")

void here_rewinddir(DIR *d) AS ("rewinddir");
void here_rewinddir(DIR *d)
{
    if (ours(d)) {
        stream_rewind(ours(d));
        return;
    }
    NEXT("rewinddir", rewind_of *, );
    next(d);
}

void here_seekdir(DIR *d, long place) AS ("seekdir");
void here_seekdir(DIR *d, long place)
{
    if (ours(d)) {
        stream_seek(ours(d), place);
        return;
    }
    NEXT("seekdir", seek_of *, );
    next(d, place);
}

long here_telldir(DIR *d) AS ("telldir");
long here_telldir(DIR *d)
{
    if (ours(d))
        return ours(d)->place;
    NEXT("telldir", tell_of *, -1);
    return next(d);
}

int here_dirfd(DIR *d) AS ("dirfd");
int here_dirfd(DIR *d)
{
    if (ours(d))
        return ours(d)->fd;
    NEXT("dirfd", number_of *, -1);
    return next(d);
}

int here_closedir(DIR *d) AS ("closedir");
int here_closedir(DIR *d)
{
    struct stream *s = ours(d);
    if (!s) {
        NEXT("closedir", number_of *, -1);
        return next(d);
    }
    int fd = s->fd;
    pthread_mutex_destroy(&s->lock);
    s->mark = NULL;
    free(s->buf);
    free(s);
    return close(fd);
}
