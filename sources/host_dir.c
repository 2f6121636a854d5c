/* SPDX-License-Identifier: MIT */
/*
 * Open directories. The kernel's position cookies are ours; a buffer of entries is kept with the
 * position at which it goes on, so that a client that reads on gets the next entry of it. The mutex
 * guards all of struct host_dir and the descriptor's offset.
 *
 * A descriptor from before a restart (host_resume) is as good as any: a position is the kernel's
 * cookie, to which it is moved before anything is read.
 */
#include "sources/host.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BUFFER 32768
/* Cookies that a position cannot hold (0, or past 2^63: some network file systems) are kept in a
 * list, and positions from here on are places in it, in the order of the directory: who goes on in
 * the middle, after a restart, has to read all to make it again. */
#define ODD_BASE 0x7ffffe0000000000u
#define ODD_MAX  (1u << 24)

struct host_dir {
    pthread_mutex_t mutex;
    size_t at, len; /* entries in buf that are not given yet: [at, len) */
    uint64_t next;  /* the position of the one at `at` */
    int64_t *odd;
    size_t nodd;
    bool whole;   /* `odd` has all up to here: we began at the start */
    bool fresh;   /* at its start, nothing read */
    bool pointed; /* `points` is known: */
    char *points; /* names that are mount points, as host_points_in() tells; or NULL */
    char buf[] __attribute__((aligned(8)));
};

struct entry { /* struct linux_dirent64 */
    uint64_t ino;
    int64_t off;
    uint16_t len;
    uint8_t type;
    char name[];
};

int host_dir_new(struct host_file *f)
{
    f->dir = malloc(sizeof(*f->dir) + BUFFER);
    if (!f->dir)
        return -ENOMEM;
    *f->dir = (struct host_dir){.fresh = lseek(f->fd, 0, SEEK_CUR) == 0};
    pthread_mutex_init(&f->dir->mutex, NULL);
    return 0;
}

void host_dir_free(struct host_file *f)
{
    pthread_mutex_destroy(&f->dir->mutex);
    free(f->dir->odd);
    free(f->dir->points);
    free(f->dir);
}

static int64_t cookie_of(const struct host_dir *d, uint64_t pos)
{
    return pos >= ODD_BASE && pos - ODD_BASE < d->nodd ? d->odd[pos - ODD_BASE] : (int64_t)pos;
}

/* The position for a cookie, or 0 when out of memory. */
static uint64_t pos_of(struct host_dir *d, int64_t cookie)
{
    if (cookie > 0)
        return (uint64_t)cookie;
    for (size_t i = d->nodd; i-- > 0;)
        if (d->odd[i] == cookie)
            return ODD_BASE + i;
    int64_t *more = realloc(d->odd, (d->nodd + 1) * sizeof(*more));
    if (!more)
        return 0;
    d->odd = more;
    d->odd[d->nodd] = cookie;
    return ODD_BASE + d->nodd++;
}

/* The number as a lookup of the entry would tell it, as far as that is known without one. */
static uint64_t ino_of(struct host *h, const struct host_dir *d, struct host_node *dir,
                       const struct entry *e)
{
    for (const char *p = d->points; p && *p; p += strlen(p) + 1)
        if (!strcmp(p, e->name))
            return 0; /* the number here is that of the directory which the mount covers */
    if (strcmp(e->name, "..") != 0)
        return host_ino(dir->slot, e->ino);
    if (dir == h->root)
        return host_ino(0, dir->h.id.lo);
    struct host_node *up = host_parent(h, dir);
    uint64_t ino = up ? host_ino(up->slot, up->h.id.lo) : 0;
    if (up)
        pl_node_unref(&up->h.node);
    return ino;
}

/* Fills the buffer. 0 at the end (a directory that was removed is an empty one). */
static int read_on(struct host_dir *d, int fd)
{
    long n = syscall(SYS_getdents64, fd, d->buf, BUFFER);
    if (n < 0 && errno != ENOENT)
        return -errno;
    d->at = 0;
    d->len = n < 0 ? 0 : (size_t)n;
    return d->len > 0;
}

static struct entry *entry(struct host_dir *d)
{
    return (struct entry *)(d->buf + d->at);
}

/* Makes the list of odd cookies anew. The buffer is lost, and the offset. */
static int find_odd(struct host_dir *d, int fd)
{
    int r = lseek(fd, 0, SEEK_SET) < 0 ? -errno : 1;
    d->nodd = 0;
    d->whole = true;
    while (r > 0 && (r = read_on(d, fd)) > 0)
        for (; r > 0 && d->at < d->len; d->at += entry(d)->len)
            r = pos_of(d, entry(d)->off) ? r : -ENOMEM;
    d->at = d->len = 0;
    return r;
}

/* After the buffer was filled: whether the list is needed to go on. */
static bool meets_odd(struct host_dir *d)
{
    bool odd = false;
    for (; !d->whole && d->at < d->len; d->at += entry(d)->len)
        odd |= entry(d)->off <= 0;
    d->at = 0;
    return odd;
}

/* Goes to `off`, unless the buffer is there. */
static int go_to(struct host_dir *d, int fd, uint64_t off)
{
    d->whole |= off == 0;
    if (off == d->next && (off != 0 || d->fresh)) {
        d->fresh = false;
        return 0;
    }
    if (d->fresh) {
        /* It was never read, and is not read from its start. ext4, if the first position that it
         * is read at is the end, believes later that nothing comes after position 0 either: so it
         * is read at the start once. */
        int r = read_on(d, fd);
        if (r < 0)
            return r;
    }
    d->fresh = false;
    if (!d->whole && off >= ODD_BASE && off < ODD_BASE + ODD_MAX) {
        int r = find_odd(d, fd);
        if (r < 0)
            return r;
    }
    d->at = d->len = 0;
    if (lseek(fd, cookie_of(d, off), SEEK_SET) < 0)
        return -errno;
    d->next = off;
    return 0;
}

static int fill_from(struct host *h, struct pl_file *file, pl_fill_fn *fill, void *arg)
{
    struct host_dir *d = file_of(file)->dir;
    for (;;) {
        if (d->at == d->len) {
            int r = read_on(d, file_of(file)->fd);
            if (r <= 0)
                return r;
            if (meets_odd(d)) {
                r = find_odd(d, file_of(file)->fd);
                if (r == 0 && lseek(file_of(file)->fd, cookie_of(d, d->next), SEEK_SET) < 0)
                    r = -errno;
                if (r < 0)
                    return r;
                continue;
            }
        }
        struct entry *e = entry(d);
        struct pl_dirent ent = {
            .ino = ino_of(h, d, node_of(file->node), e),
            .next = pos_of(d, e->off),
            .type = e->type,
            .name = e->name,
        };
        if (ent.next == 0)
            return -ENOMEM;
        if (fill(arg, &ent))
            return 0;
        d->at += e->len;
        d->next = ent.next;
    }
}

int host_readdir(HOST_T, struct pl_file *dir, uint64_t off, pl_fill_fn *fill, void *arg)
{
    struct host_dir *d = file_of(dir)->dir;
    pthread_mutex_lock(&d->mutex);
    int r = go_to(d, file_of(dir)->fd, off);
    if (r == 0 && (off == 0 || !d->pointed)) {
        free(d->points);
        d->pointed = true;
        d->points = host_points_in(host_of(tree), file_of(dir)->fd);
    }
    if (r == 0)
        r = fill_from(host_of(tree), dir, fill, arg);
    pthread_mutex_unlock(&d->mutex);
    return r;
}
