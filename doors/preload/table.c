/* SPDX-License-Identifier: MIT */
#include "doors/preload/table.h"
#include "doors/preload/look.h"
#include "doors/preload/shared.h"
#include "view/pack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum {
    CLEANS = 1024,          /* directories that were looked through and remembered */
    SCAN = 4096,            /* names in one that is */
    SETTLED = 20 * 1000000, /* ns: the times of files are no finer than the kernel's tick */
};

/* A directory of a tree behind, and where it is seen since it was renamed. */
struct moved {
    struct moved *next;
    char from[PRELOAD_PATH], to[PRELOAD_PATH];
};

struct preload_table {
    struct preload_block *block;
    struct view_pack pack;
    int fd;
    pthread_mutex_t lock; /* who writes to the block; clean, moved */
    struct preload_front clean[CLEANS];
    struct moved *moved;
    uint32_t next; /* that is overwritten */
};

static int seal(struct preload_table *t)
{
    char path[40];
    int fd = memfd_create("plenum-preload", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int r = ftruncate(fd, sizeof(*t->block)) < 0 ? -errno : 0;
    void *mem = r < 0 ? MAP_FAILED
                      : mmap(NULL, sizeof(*t->block), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mem != MAP_FAILED)
        t->block = mem;
    if (r == 0 && (mem == MAP_FAILED ||
                   fcntl(fd, F_ADD_SEALS,
                         F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE) < 0))
        r = -errno;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (r == 0 && (t->fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        r = -errno;
    close(fd);
    return r;
}

/* Is all of it of the kind that can be found by the letters? */
static bool is_plain(const struct view_pack *pack)
{
    struct view_found f;
    const char *top;
    if (view_pack_options(pack) & (VIEW_PACK_TRACE | VIEW_PACK_VERSIONS))
        return false;
    for (uint32_t i = 0; (top = view_pack_top(pack, i)); i++) {
        if (!view_pack_find(pack, top, &f) || !top[1])
            return false;
        for (uint32_t k = 0; k < i && f.flags & VIEW_PACK_ASK; k++)
            if (view_beneath(top, view_pack_top(pack, k), NULL))
                return false;
    }
    return true;
}

/* Is one of the directories that `f` is made of in one of those of `g`? */
static bool overlap(const struct view_found *f, const struct view_found *g, bool same)
{
    for (uint32_t i = 0; i < f->n; i++)
        for (uint32_t k = 0; k < g->n; k++)
            if (!(same && i == k) && view_beneath(f->dirs[i], g->dirs[k], NULL))
                return true;
    return false;
}

static bool may_lend(const struct view_pack *pack)
{
    struct view_found f, g;
    const char *a, *b;
    for (uint32_t i = 0; (a = view_pack_top(pack, i)); i++)
        for (uint32_t k = 0; (b = view_pack_top(pack, k)); k++)
            if (!view_pack_find(pack, a, &f) || !view_pack_find(pack, b, &g) ||
                overlap(&f, &g, i == k))
                return false;
    return true;
}

int preload_table_new(const void *pack, size_t size, struct preload_table **ret)
{
    struct preload_table *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    t->fd = -1;
    pthread_mutex_init(&t->lock, NULL);
    int r = size > PRELOAD_PACK ? -E2BIG : seal(t);
    if (r == 0) {
        memcpy(t->block->pack, pack, size);
        t->block->pack_size = (uint32_t)size;
        t->block->magic = PRELOAD_MAGIC;
        r = view_pack_open(t->block->pack, size, &t->pack);
    }
    if (r == 0 && !is_plain(&t->pack))
        r = -EINVAL;
    if (r == 0)
        t->block->lends = may_lend(&t->pack);
    if (r < 0)
        preload_table_free(t);
    else
        *ret = t;
    return r;
}

void preload_table_free(struct preload_table *t)
{
    if (!t)
        return;
    preload_stale(t); /* who still has it */
    if (t->block)
        munmap(t->block, sizeof(*t->block));
    if (t->fd >= 0)
        close(t->fd);
    pthread_mutex_destroy(&t->lock);
    for (struct moved *m = t->moved, *next; m; m = next) {
        next = m->next;
        free(m);
    }
    free(t);
}

int preload_table_fd(struct preload_table *t, int state_fd, uintptr_t pass, const uint64_t dev[2])
{
    if (!t || !pass || atomic_load(&t->block->stale))
        return -ENOENT;
    pthread_mutex_lock(&t->lock);
    t->block->state_fd = state_fd;
    t->block->pass = pass;
    memcpy(t->block->dev, dev, sizeof(t->block->dev));
    pthread_mutex_unlock(&t->lock);
    return t->fd;
}

bool preload_table_reader(const struct preload_table *t, struct preload *ret)
{
    if (!t || atomic_load(&t->block->stale))
        return false;
    ret->block = t->block;
    ret->pack = t->pack;
    return true;
}

const char *preload_top(const struct preload_table *t, uint32_t i)
{
    return view_pack_top(&t->pack, i);
}

void preload_stale(struct preload_table *t)
{
    if (t && t->block)
        atomic_store(&t->block->stale, 1);
}

/* ---- entries ---- */

static void begin(atomic_uint *seq)
{
    atomic_store_explicit(seq, atomic_load_explicit(seq, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}

static void end(atomic_uint *seq)
{
    atomic_store_explicit(seq, atomic_load_explicit(seq, memory_order_relaxed) + 1,
                          memory_order_release);
}

/* t->lock is held. */
static void put_place(struct preload_place *p, uint64_t dev, uint64_t ino, uint32_t moves,
                      uint32_t k, const char *path)
{
    size_t n = strlen(path) + 1;
    begin(&p->seq);
    p->dev = dev;
    p->ino = ino;
    p->moves = moves;
    p->k = k;
    p->length = (uint32_t)n - 1;
    memcpy(p->path, path, n);
    end(&p->seq);
}

void preload_note_place(struct preload_table *t, uint64_t dev, uint64_t ino, const char *path)
{
    if (!t || strlen(path) >= PRELOAD_PATH)
        return;
    pthread_mutex_lock(&t->lock);
    put_place(&t->block->place[ino % PRELOAD_PLACES], dev, ino, atomic_load(&t->block->moves), 0,
              path);
    pthread_mutex_unlock(&t->lock);
}

void preload_moved(struct preload_table *t)
{
    if (t)
        atomic_fetch_add(&t->block->moves, 1);
}

/* ---- directories ---- */

static struct preload_front front_of(const struct stat *st, size_t length)
{
    return (struct preload_front){.dev = st->st_dev,
                                  .ino = st->st_ino,
                                  .sec = st->st_ctim.tv_sec,
                                  .nsec = (uint32_t)st->st_ctim.tv_nsec,
                                  .length = (uint32_t)length};
}

static bool same(const struct preload_front *a, const struct preload_front *b)
{
    return a->dev == b->dev && a->ino == b->ino && a->sec == b->sec && a->nsec == b->nsec;
}

/* Could it change without that its times show it? */
static bool settled(const struct preload_front *f)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t sec = now.tv_sec - f->sec;
    return sec > 1 || sec * 1000000000 + now.tv_nsec - (int64_t)f->nsec > SETTLED;
}

static bool is_ours(const char *name)
{
    return strncmp(name, ".wh.", 4) == 0 && strcmp(name, ".wh..index") != 0;
}

static bool has_mark(const char *path, const char *mark)
{
    char name[64];
    snprintf(name, sizeof(name), "trusted.overlay.%s", mark);
    if (lgetxattr(path, name, NULL, 0) >= 0)
        return true;
    snprintf(name, sizeof(name), "user.overlay.%s", mark);
    return lgetxattr(path, name, NULL, 0) >= 0;
}

/* A file whose content is in a tree behind. */
static bool is_hollow(const char *dir, const struct dirent *e)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
    return n >= PATH_MAX || (e->d_type != DT_DIR && has_mark(path, "metacopy"));
}

/* No mark in it, and none on it; and the names in it. */
static bool look_through(const char *path, uint64_t names[2])
{
    if (has_mark(path, "opaque") || has_mark(path, "redirect"))
        return false;
    bool impure = has_mark(path, "impure"); /* there are copies in it */
    DIR *d = opendir(path);
    unsigned n = 0;
    bool ok = d;
    for (struct dirent *e; ok && (e = readdir(d));) {
        ok = !is_ours(e->d_name) && ++n < SCAN && !(impure && is_hollow(path, e));
        preload_name_bits(e->d_name, (uint32_t)strlen(e->d_name), names);
    }
    if (d)
        closedir(d);
    return ok;
}

static bool is_clean(struct preload_table *t, const char *path, struct preload_front *f)
{
    struct preload_front *memo = &t->clean[(f->ino ^ f->dev) % CLEANS];
    pthread_mutex_lock(&t->lock);
    bool known = same(memo, f);
    if (known)
        memcpy(f->names, memo->names, sizeof(f->names));
    pthread_mutex_unlock(&t->lock);
    if (known)
        return true;
    if (!settled(f) || !look_through(path, f->names))
        return false;
    pthread_mutex_lock(&t->lock);
    *memo = *f;
    pthread_mutex_unlock(&t->lock);
    return true;
}

/* No link on the way to it; it need not be there. */
static bool is_straight(const char *path)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC | O_NOFOLLOW,
                           .resolve = RESOLVE_NO_SYMLINKS};
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
    if (fd >= 0)
        close(fd);
    return fd >= 0 || errno == ENOENT;
}

/* The deepest directory of `path` from its first `root` bytes on that is there, and all of them
 * clean. */
static bool make_front(struct preload_table *t, char *path, size_t root, struct preload_front *ret)
{
    bool any = false, ok = is_straight(path);
    size_t n = root, size = strlen(path);
    while (ok && n <= size) {
        char was = path[n];
        struct stat st;
        path[n] = 0;
        int r = lstat(path, &st);
        if (r < 0 && errno == ENOENT && any) {
            path[n] = was;
            return true;
        }
        ok = r == 0 && S_ISDIR(st.st_mode);
        if (ok) {
            *ret = front_of(&st, n);
            any = true;
            ok = is_clean(t, path, ret) && settled(ret);
        }
        path[n] = was;
        do
            n++;
        while (n < size && path[n] != '/');
    }
    return ok;
}

/* Is the entry of that path, and still right? */
static bool is_noted(struct preload_table *t, const struct preload_dir *d, const char *path,
                     const struct view_found *f)
{
    char at[2 * PRELOAD_PATH];
    bool is = strcmp(d->path, path) == 0 && d->n == f->n;
    for (uint32_t i = 0; is && i + 1 < f->n; i++) {
        struct stat st;
        int n = snprintf(at, sizeof(at), "%s%s", f->dirs[i], f->rest[i]);
        is = n < PRELOAD_PATH && d->front[i].length <= (uint32_t)n;
        if (is) {
            at[d->front[i].length] = 0;
            is = lstat(at, &st) == 0;
        }
        if (is) {
            struct preload_front now = front_of(&st, 0);
            is = same(&now, &d->front[i]);
        }
    }
    return is;
}

static bool make_dir(struct preload_table *t, const struct view_found *f, struct preload_dir *ret)
{
    char at[2 * PRELOAD_PATH];
    ret->n = f->n;
    for (uint32_t i = 0; i < f->n; i++) {
        int n = snprintf(at, sizeof(at), "%s%s", f->dirs[i], f->rest[i]);
        /* of the first, the top and what follows are one */
        size_t rest = strlen(f->rest[f->n > 1 && i == 0 ? 1 : i]);
        if (n >= PRELOAD_PATH - NAME_MAX - 1)
            return false;
        if (i + 1 == f->n ? !is_straight(at) : !make_front(t, at, (size_t)n - rest, &ret->front[i]))
            return false;
    }
    return true;
}

/* The one directory that `path` is made of may be lent, if there is only one. t->lock is held. */
static void note_lent(struct preload_table *t, const struct preload_dir *d,
                      const struct view_found *f, uint32_t renames)
{
    char at[2 * PRELOAD_PATH];
    struct stat st, one = {0};
    uint32_t there = 0, k = 0;
    for (uint32_t i = 0; t->block->lends && i < f->n; i++) {
        int n = snprintf(at, sizeof(at), "%s%s", f->dirs[i], f->rest[i]);
        bool front = i + 1 < f->n;
        if (front && d->front[i].length < (uint32_t)n)
            continue;
        bool is = lstat(at, &st) == 0 && S_ISDIR(st.st_mode);
        there += is;
        if (is) {
            one = st;
            k = i;
        }
    }
    uint32_t hash = preload_hash_ino(one.st_dev, one.st_ino);
    struct preload_place *first = &t->block->lent[preload_slot(hash, PRELOAD_PLACES)];
    struct preload_place *p = first + t->next++ % PRELOAD_WAYS;
    for (uint32_t i = PRELOAD_WAYS; i--;)
        if (!first[i].seq)
            p = &first[i];
    for (uint32_t i = 0; i < PRELOAD_WAYS; i++)
        if (first[i].dev == one.st_dev && first[i].ino == one.st_ino)
            p = &first[i];
    if (there == 1 && !(p->dev == one.st_dev && p->ino == one.st_ino && p->moves == renames &&
                        p->k == k && strcmp(p->path, d->path) == 0))
        put_place(p, one.st_dev, one.st_ino, renames, k, d->path);
}

/* The entry of that path, or one for it. t->lock is held. */
static struct preload_dir *dir_at(struct preload_table *t, const char *path, size_t n)
{
    struct preload_dir *first =
        &t->block->dir[preload_slot(preload_hash(path, (uint32_t)n), PRELOAD_DIRS)];
    struct preload_dir *d = first + t->next++ % PRELOAD_WAYS;
    for (uint32_t i = PRELOAD_WAYS; i--;)
        if (!first[i].seq)
            d = &first[i];
    for (uint32_t i = 0; i < PRELOAD_WAYS; i++)
        if (strcmp(first[i].path, path) == 0)
            d = &first[i];
    return d;
}

void preload_note_dir(struct preload_table *t, const char *path, size_t n)
{
    struct preload_dir made = {0};
    struct view_found f;
    if (!t || !n || n >= PRELOAD_PATH || atomic_load(&t->block->stale))
        return;
    memcpy(made.path, path, n);
    if (!view_pack_find(&t->pack, made.path, &f) || f.flags & VIEW_PACK_ASK ||
        f.n > PRELOAD_FRONT + 1)
        return;
    uint32_t renames = atomic_load(&t->block->renames);
    pthread_mutex_lock(&t->lock);
    struct preload_dir *d = dir_at(t, made.path, n);
    bool noted = is_noted(t, d, made.path, &f);
    if (noted)
        note_lent(t, d, &f, renames);
    pthread_mutex_unlock(&t->lock);
    if (noted || !make_dir(t, &f, &made))
        return;
    pthread_mutex_lock(&t->lock);
    d = dir_at(t, made.path, n);
    begin(&d->seq);
    d->n = made.n;
    memcpy(d->front, made.front, sizeof(d->front));
    memcpy(d->path, made.path, sizeof(d->path));
    end(&d->seq);
    note_lent(t, d, &f, renames);
    pthread_mutex_unlock(&t->lock);
}

/* ---- renaming ---- */

/* The deepest directory that was renamed and has `path` in it, and what follows. t->lock is held.
 */
static struct moved *moved_above(struct preload_table *t, const char *path, const char **ret_rest)
{
    const char *rest;
    struct moved *is = NULL;
    for (struct moved *m = t->moved; m; m = m->next) {
        if (view_beneath(path, m->from, &rest) && (!is || rest > *ret_rest)) {
            is = m;
            *ret_rest = rest;
        }
    }
    return is;
}

/* The part at `phys`, if it is there, is seen at `to`. t->lock is held. */
static void put_moved(struct preload_table *t, const char *phys, const char *to)
{
    struct stat st;
    struct moved *m;
    if (strlen(phys) >= PRELOAD_PATH || lstat(phys, &st) < 0 || !S_ISDIR(st.st_mode) ||
        !(m = calloc(1, sizeof(*m))))
        return;
    strcpy(m->from, phys);
    strcpy(m->to, to); /* it is shorter, as whoever calls has seen */
    m->next = t->moved;
    t->moved = m;
}

/* The parts of what was at `from` that have stayed: where it is by the letters, and in what was
 * renamed before. t->lock is held. */
static void parts_moved(struct preload_table *t, const char *from, const char *to)
{
    struct view_found f;
    struct moved *before = t->moved;
    const char *rest, *none;
    char at[2 * PRELOAD_PATH];
    for (uint32_t i = 1; view_pack_find(&t->pack, from, &f) && i < f.n; i++) {
        snprintf(at, sizeof(at), "%s%s", f.dirs[i], f.rest[i]);
        if (!moved_above(t, at, &none))
            put_moved(t, at, to);
    }
    for (struct moved *m = before; m; m = m->next) {
        if (!view_beneath(from, m->to, &rest) || !*rest)
            continue;
        snprintf(at, sizeof(at), "%s%s", m->from, rest);
        if (moved_above(t, at, &none) == m)
            put_moved(t, at, to);
    }
}

/* What was renamed before, in what was renamed now. */
static bool follow(struct moved *m, const char *from, const char *to)
{
    char made[2 * PRELOAD_PATH];
    const char *rest;
    if (!view_beneath(m->to, from, &rest))
        return false;
    snprintf(made, sizeof(made), "%s%s", to, rest);
    if (strlen(made) < PRELOAD_PATH)
        strcpy(m->to, made);
    return true;
}

void preload_renamed(struct preload_table *t, const char *from, const char *to, bool exchanged)
{
    if (!t || strlen(from) >= PRELOAD_PATH || strlen(to) >= PRELOAD_PATH)
        return;
    pthread_mutex_lock(&t->lock);
    struct moved *before = t->moved;
    parts_moved(t, from, to);
    if (exchanged)
        parts_moved(t, to, from);
    for (struct moved *m = before; m; m = m->next)
        if (!follow(m, from, to) && exchanged)
            follow(m, to, from);
    atomic_fetch_add(&t->block->renames, 1);
    pthread_mutex_unlock(&t->lock);
}

/* Where what is in a directory that was renamed is seen. False: it is in none. */
static bool moved_to(struct preload_table *t, const char *path, char *ret, size_t size)
{
    const char *rest;
    pthread_mutex_lock(&t->lock);
    struct moved *m = moved_above(t, path, &rest);
    if (m && (size_t)snprintf(ret, size, "%s%s", m->to, rest) >= size)
        *ret = 0;
    pthread_mutex_unlock(&t->lock);
    return m;
}

/* ---- back ---- */

bool preload_seen_at(struct preload_table *t, const char *path, unsigned i, char *ret, size_t size)
{
    struct view_found f;
    const char *top, *rest;
    if (t && moved_to(t, path, ret, size))
        return i == 0 && *ret;
    for (uint32_t k = 0; t && (top = view_pack_top(&t->pack, k)); k++) {
        if (!view_pack_find(&t->pack, top, &f))
            continue;
        for (uint32_t n = 0; n < f.n; n++)
            if (view_beneath(path, f.dirs[n], &rest) && i-- == 0)
                return (size_t)snprintf(ret, size, "%s%s", top, rest) < size;
    }
    return false;
}
