/* SPDX-License-Identifier: MIT */
/* Nodes of the host source: their identity, their descriptors, and how these are got again. */
#include "base/cred.h"
#include "base/own.h"
#include "sources/host.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* ---- what the kernel tells ---- */

int host_statx(int fd, struct statx *stx)
{
    unsigned want = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID;
    return statx(fd, "", AT_EMPTY_PATH, want, stx) < 0 ? -errno : 0;
}

static struct timespec time_of(struct statx_timestamp t)
{
    return (struct timespec){t.tv_sec, t.tv_nsec};
}

int64_t host_btime(const struct statx *stx)
{
    if (!(stx->stx_mask & STATX_BTIME))
        return 0;
    return (int64_t)((uint64_t)stx->stx_btime.tv_sec * 1000000000u + stx->stx_btime.tv_nsec);
}

void host_attr(struct host_node *n, const struct statx *stx, struct pl_attr *attr)
{
    *attr = (struct pl_attr){
        .ino = host_ino(n->slot, stx->stx_ino),
        .size = stx->stx_size,
        .blocks = stx->stx_blocks,
        .nlink = stx->stx_nlink,
        .mode = stx->stx_mode,
        .uid = stx->stx_uid,
        .gid = stx->stx_gid,
        .rdev_major = stx->stx_rdev_major,
        .rdev_minor = stx->stx_rdev_minor,
        .blksize = stx->stx_blksize,
        .atime = time_of(stx->stx_atime),
        .mtime = time_of(stx->stx_mtime),
        .ctime = time_of(stx->stx_ctime),
        .told = host_told(n, stx),
    };
    if (stx->stx_mask & STATX_BTIME)
        attr->btime = time_of(stx->stx_btime);
    /* Every change of content or attributes moves ctime, within the grain of its clock. */
    attr->version = (uint64_t)stx->stx_ctime.tv_sec * 1000000000u + stx->stx_ctime.tv_nsec;
    attr->version += attr->version == 0;
}

struct pl_id host_id(const struct statx *stx)
{
    return (struct pl_id){makedev(stx->stx_dev_major, stx->stx_dev_minor), stx->stx_ino};
}

static bool same_id(struct pl_id a, struct pl_id b)
{
    return a.hi == b.hi && a.lo == b.lo;
}

bool host_handle(int fd, struct host_handle *hd)
{
    union {
        struct file_handle fh;
        char room[sizeof(struct file_handle) + HOST_HANDLE];
    } u;
    int mount;
    /* One that need not open again will do to tell objects apart, where there is no other. */
    enum { HANDLE_FID = 0x200 };
    u.fh.handle_bytes = HOST_HANDLE;
    if (name_to_handle_at(fd, "", &u.fh, &mount, AT_EMPTY_PATH) < 0 &&
        (errno != EOPNOTSUPP ||
         name_to_handle_at(fd, "", &u.fh, &mount, AT_EMPTY_PATH | HANDLE_FID) < 0))
        return false;
    hd->bytes = u.fh.handle_bytes;
    hd->type = u.fh.handle_type;
    memcpy(hd->data, u.fh.f_handle, hd->bytes);
    return true;
}

bool host_same_handle(const struct host_node *n, int type, const void *data, unsigned bytes)
{
    return n->handle_len == bytes && n->handle_type == type && !memcmp(n->handle, data, bytes);
}

int host_open_handle(struct host_mount *m, int type, const uint8_t *data, unsigned n, int flags)
{
    union {
        struct file_handle fh;
        char room[sizeof(struct file_handle) + HOST_HANDLE];
    } u;
    if (m->fd < 0 || n > HOST_HANDLE)
        return -EOPNOTSUPP;
    u.fh.handle_bytes = n;
    u.fh.handle_type = type;
    memcpy(u.fh.f_handle, data, n);
    int fd = open_by_handle_at(m->fd, &u.fh, flags | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

int host_open_child(int dirfd, const char *name, bool *crossed)
{
    struct open_how how = {
        .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
    };
    int fd;
    *crossed = false;
    do
        fd = (int)syscall(SYS_openat2, dirfd, name, &how, sizeof(how));
    while (fd < 0 && (errno == EAGAIN || errno == EINTR));
    if (fd >= 0 || errno != EXDEV)
        return fd < 0 ? -errno : fd;

    /* A mount: see whose it is before anything asks its server for more than it has cached. */
    how.resolve &= ~(uint64_t)RESOLVE_NO_XDEV;
    do
        fd = (int)syscall(SYS_openat2, dirfd, name, &how, sizeof(how));
    while (fd < 0 && (errno == EAGAIN || errno == EINTR));
    if (fd < 0)
        return -errno;
    struct statx stx;
    int flags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT;
    int r = statx(fd, "", flags, STATX_INO, &stx) < 0 ? -errno : 0;
    if (r == 0 && own_mount_has(makedev(stx.stx_dev_major, stx.stx_dev_minor)))
        r = -ELOOP;
    if (r < 0) {
        close(fd);
        return r;
    }
    *crossed = true;
    return fd;
}

/* ---- descriptors ---- */

static void idle_add(struct host *h, struct host_node *n)
{
    struct host_link *l = &n->link;
    l->next = h->idle.next;
    l->prev = &h->idle;
    l->next->prev = l->prev->next = l;
}

static void idle_del(struct host_node *n)
{
    struct host_link *l = &n->link;
    l->prev->next = l->next;
    l->next->prev = l->prev;
    l->prev = l->next = NULL;
}

/* Takes the least used idle descriptor out; call with `cache` held. -1: none. */
static int idle_pop(struct host *h)
{
    if (h->idle.prev == &h->idle)
        return -1;
    char *last = (char *)h->idle.prev;
    struct host_node *n = (struct host_node *)(last - offsetof(struct host_node, link));
    idle_del(n);
    int fd = n->fd;
    n->fd = -1;
    h->nfds--;
    return fd;
}

/* Closes what is beyond the bound. */
static void trim(struct host *h, unsigned max)
{
    int fd;
    do {
        pthread_mutex_lock(&h->cache);
        fd = h->nfds > max ? idle_pop(h) : -1;
        pthread_mutex_unlock(&h->cache);
        if (fd >= 0)
            close(fd);
    } while (fd >= 0);
}

void host_fds_drop(struct host *h)
{
    trim(h, 0);
}

/* The use of the descriptor that is there, or -1. Call with `cache` held. */
static int use(struct host_node *n)
{
    if (n->fd >= 0 && n->users++ == 0)
        idle_del(n);
    return n->fd;
}

/* `fd` becomes the node's, unless it has one by now; in any case one is in use then. */
static int install(struct host *h, struct host_node *n, int fd)
{
    pthread_mutex_lock(&h->cache);
    int have = use(n);
    if (have < 0) {
        n->fd = fd;
        n->users = 1;
        h->nfds++;
    }
    bool full = h->nfds > h->max_fds;
    pthread_mutex_unlock(&h->cache);
    if (have >= 0)
        close(fd);
    if (full)
        trim(h, h->max_fds);
    return have >= 0 ? have : fd;
}

void host_fd_done(struct host *h, struct host_node *n)
{
    pthread_mutex_lock(&h->cache);
    assert(n->users > 0);
    if (--n->users == 0)
        idle_add(h, n);
    bool full = h->nfds > h->max_fds;
    pthread_mutex_unlock(&h->cache);
    if (full)
        trim(h, h->max_fds);
}

void host_file_add(struct host *h, struct host_node *n, struct host_file *f)
{
    pthread_mutex_lock(&h->cache);
    f->prev = NULL;
    f->next = n->files;
    if (f->next)
        f->next->prev = f;
    n->files = f;
    pthread_mutex_unlock(&h->cache);
}

void host_file_del(struct host *h, struct host_node *n, struct host_file *f)
{
    pthread_mutex_lock(&h->cache);
    if (f->next)
        f->next->prev = f->prev;
    if (f->prev)
        f->prev->next = f->next;
    else
        n->files = f->next;
    pthread_mutex_unlock(&h->cache);
}

int host_statx_open(struct host *h, struct host_node *n, struct statx *stx)
{
    int r = -EAGAIN;
    if (n->mount->close_tells) /* a server far away may let us wait, and others with us */
        return r;
    pthread_mutex_lock(&h->cache);
    if (n->fd < 0 && n->files)
        r = host_statx(n->files->fd, stx);
    pthread_mutex_unlock(&h->cache);
    return r;
}

/* A descriptor in use without asking for names: the one there, by an open file, by the handle.
 * -EAGAIN: only by name. */
static int fd_direct(struct host *h, struct host_node *n)
{
    pthread_mutex_lock(&h->cache);
    int have = use(n), fd = -EAGAIN;
    if (have < 0 && n->files) {
        fd = open(host_proc(n->files->fd).path, O_PATH | O_CLOEXEC);
        fd = fd < 0 ? -errno : fd;
    }
    pthread_mutex_unlock(&h->cache);
    if (have >= 0)
        return have;
    if (fd == -EAGAIN && host_by_handle(n)) {
        cred_reset();
        fd = host_open_handle(n->mount, n->handle_type, n->handle, n->handle_len, O_PATH);
    }
    return fd < 0 ? fd : install(h, n, fd);
}

/* ---- finding again by name ---- */

/* One step of the way down: a node and the name it had in its parent. */
struct step {
    struct host_node *node;
    char name[PL_NAME_MAX + 1];
};

bool host_is(const struct host_node *n, int fd)
{
    struct statx stx;
    if (host_statx(fd, &stx) < 0)
        return false;
    return same_id(host_id(&stx), n->h.id) && (stx.stx_mode & S_IFMT) == n->h.node.fmt &&
           host_btime(&stx) == n->btime;
}

/* Looks through a directory for the object of this identity, whatever its name. */
int host_search(int dirfd, struct pl_id id, char name[PL_NAME_MAX + 1])
{
    int fd = open(host_proc(dirfd).path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            close(fd);
        return -ESTALE;
    }
    int found = -ESTALE;
    struct dirent *e;
    while (found < 0 && (e = readdir(d))) {
        struct statx stx;
        bool crossed;
        if (e->d_ino != id.lo || !strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        int child = host_open_child(dirfd, e->d_name, &crossed);
        if (child >= 0 && host_statx(child, &stx) == 0 && same_id(host_id(&stx), id)) {
            found = child;
            snprintf(name, PL_NAME_MAX + 1, "%s", e->d_name);
        } else if (child >= 0) {
            close(child);
        }
    }
    closedir(d);
    return found;
}

/* Opens the step below `dir`, whose descriptor is in use. */
static int step_down(struct host *h, struct host_node *dir, int dirfd, struct step *s)
{
    bool crossed;
    int fd = host_open_child(dirfd, s->name, &crossed);
    if (fd >= 0 && host_is(s->node, fd))
        return install(h, s->node, fd);
    if (fd >= 0)
        close(fd);
    else if (fd != -ENOENT && fd != -ELOOP && fd != -ENOTDIR)
        return fd; /* -EACCES, -EMFILE: it may be there */
    fd = host_search(dirfd, s->node->h.id, s->name);
    if (fd >= 0 && !host_is(s->node, fd)) {
        close(fd);
        fd = -ESTALE;
    }
    if (fd < 0)
        return fd;
    host_moved(h, s->node, dir, s->name);
    return install(h, s->node, fd);
}

/* The step from a node to its parent, both with references: false when the parent is not known. */
static bool step_up(struct host *h, struct host_node *n, struct step *s, struct host_node **parent)
{
    pthread_mutex_lock(&h->names);
    *parent = n->name ? n->parent : NULL;
    if (*parent) {
        pl_node_ref(&(*parent)->h.node);
        snprintf(s->name, sizeof(s->name), "%s", n->name);
    }
    pthread_mutex_unlock(&h->names);
    s->node = n;
    return *parent;
}

static int fd_by_name(struct host *h, struct host_node *n)
{
    struct step *way = NULL;
    size_t depth = 0, room = 0;
    struct host_node *at = n;
    int fd = -EAGAIN;
    cred_reset();
    pl_node_ref(&n->h.node);
    while (fd == -EAGAIN) {
        if (depth == room) {
            struct step *more = realloc(way, (room = room * 2 + 8) * sizeof(*way));
            if (!more) {
                fd = -ENOMEM;
                break;
            }
            way = more;
        }
        struct host_node *parent;
        if (!step_up(h, at, &way[depth], &parent)) {
            fd = -ESTALE;
            break;
        }
        depth++;
        at = parent;
        fd = fd_direct(h, at);
    }
    /* `at` is in use if fd is one; way[0..depth) leads from n up to it. */
    while (depth > 0) {
        struct step *s = &way[--depth];
        if (fd >= 0) {
            int next = step_down(h, at, fd, s);
            host_fd_done(h, at);
            fd = next;
        }
        pl_node_unref(&at->h.node);
        at = s->node;
    }
    pl_node_unref(&at->h.node);
    free(way);
    return fd;
}

int host_fd(struct host *h, struct host_node *n)
{
    for (bool again = false;; again = true) {
        int fd = fd_direct(h, n);
        if (fd == -EAGAIN)
            fd = fd_by_name(h, n);
        if (fd != -EMFILE || again)
            return fd;
        host_fds_drop(h);
    }
}

/* ---- parents ---- */

/* Sets the parent and, for what is found by name, the name. Returns the parent that lost its
 * reference, to be unref'd without locks. Call with `names` held. */
static struct host_node *set_parent(struct host_node *n, struct host_node *dir, char *name)
{
    struct host_node *old = n->parent;
    n->parent = dir;
    if (dir)
        pl_node_ref(&dir->h.node);
    free(n->name);
    n->name = name;
    return old;
}

void host_moved(struct host *h, struct host_node *n, struct host_node *dir, const char *name)
{
    if (n == h->root || n == dir)
        return;
    host_watch_found(h, n, dir);
    if (host_by_handle(n) && atomic_load_explicit(&n->parent, memory_order_relaxed) == dir)
        return;
    struct host_node *old = NULL, *cut = NULL;
    pthread_mutex_lock(&h->names);
    if (n->parent != dir || (n->name && strcmp(n->name, name))) {
        char *copy = host_by_handle(n) ? NULL : strdup(name);
        if (copy || host_by_handle(n)) {
            /* Directories that others moved about may seem to be beneath each other: what is known
             * of the lower one's way up is outdated then. */
            for (struct host_node *p = dir; p && S_ISDIR(n->h.node.fmt); p = p->parent) {
                if (p->parent == n) {
                    cut = set_parent(p, NULL, NULL);
                    break;
                }
            }
            old = set_parent(n, dir, copy);
        }
    }
    pthread_mutex_unlock(&h->names);
    if (old)
        pl_node_unref(&old->h.node);
    if (cut)
        pl_node_unref(&cut->h.node);
}

struct host_node *host_parent(struct host *h, struct host_node *n)
{
    pthread_mutex_lock(&h->names);
    struct host_node *p = n->parent;
    if (p)
        pl_node_ref(&p->h.node);
    pthread_mutex_unlock(&h->names);
    return p;
}

/* ---- identity ---- */

/* How long after its birth an object may still meet another of the same number and birth time: a
 * few ticks of the clock that file systems use. */
#define GRAIN_NS 100000000

static bool is_young(int64_t btime)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return btime + GRAIN_NS > now.tv_sec * 1000000000LL + now.tv_nsec;
}

/*
 * `n` has the device and number of what `fd` has open. The number of a removed object may be given
 * to a new one, but not while a descriptor holds the old one; a later birth time tells them apart,
 * and where that is too coarse the generation in the file handle does.
 */
static bool same_object(struct host *h, struct host_node *n, int fd, const struct statx *stx)
{
    if ((stx->stx_mode & S_IFMT) != n->h.node.fmt || host_btime(stx) != n->btime)
        return false;
    if ((n->btime && !atomic_load_explicit(&n->young, memory_order_relaxed)) || !n->handle_len)
        return true;
    pthread_mutex_lock(&h->cache);
    bool held = n->fd >= 0 || n->files;
    pthread_mutex_unlock(&h->cache);
    struct host_handle hd;
    if (held || !host_handle(fd, &hd))
        return true;
    if (!host_same_handle(n, hd.type, hd.data, hd.bytes))
        return false;
    if (n->btime && !is_young(n->btime)) /* it has outlived the doubt */
        atomic_store_explicit(&n->young, false, memory_order_relaxed);
    return true;
}

/* Where the inode number stands in file handles of this file system, by what all have in common. */
static void learn_inos(struct host_mount *m, const struct host_handle *hd, uint64_t ino)
{
    uint32_t words = 0;
    for (unsigned i = 0; i < 32 && i * 4 + 4 <= hd->bytes; i++) {
        uint32_t word;
        memcpy(&word, hd->data + i * 4, sizeof(word));
        words |= (uint32_t)(word == (uint32_t)ino) << i;
    }
    atomic_fetch_and_explicit(&m->inos, words, memory_order_relaxed);
}

static struct host_node *new_node(struct host *h, struct host_node *dir, const char *name, int fd,
                                  bool crossed, const struct statx *stx)
{
    struct host_mount *m =
        dir && !crossed ? host_mount_ref(h, dir->mount) : host_mount_of(h, fd, stx);
    if (!m)
        return NULL;
    struct host_handle hd = {0};
    /* One that opens nothing is of use to events; the root's may be needed later. */
    bool want = m->fd >= 0 || host_watching(h) || !dir;
    if (!want || !host_handle(fd, &hd) || hd.bytes > UINT8_MAX)
        hd.bytes = 0;
    struct host_node *n = calloc(1, sizeof(*n) + hd.bytes);
    bool named = name && (!hd.bytes || m->fd < 0);
    char *copy = named ? strdup(name) : NULL;
    if (!n || (named && !copy)) {
        host_mount_unref(h, m);
        free(n);
        return NULL;
    }
    pl_node_init(&n->h.node, &h->tree, stx->stx_mode);
    n->h.id = host_id(stx);
    n->mount = m;
    n->parent = dir;
    if (dir)
        pl_node_ref(&dir->h.node);
    n->name = copy;
    n->btime = host_btime(stx);
    n->young = is_young(n->btime);
    n->fd = -1;
    n->slot = (uint16_t)host_slot(h, n->h.id.hi);
    n->handle_type = hd.type;
    n->handle_len = (uint8_t)hd.bytes;
    memcpy(n->handle, hd.data, hd.bytes);
    if (hd.bytes)
        learn_inos(m, &hd, stx->stx_ino);
    return n;
}

static void free_node(struct host *h, struct host_node *n)
{
    host_mount_unref(h, n->mount);
    free(n->name);
    free(n);
}

struct host_node *host_known(struct host *h, int fd, const struct statx *stx)
{
    struct host_node *n = (struct host_node *)pl_nodes_get(h->nodes, host_id(stx));
    if (n && !same_object(h, n, fd, stx)) {
        pl_nodes_del(h->nodes, &n->h);
        pl_node_unref(&n->h.node);
        n = NULL;
    }
    return n;
}

int host_adopt(struct host *h, struct host_node *dir, const char *name, int fd, bool keep,
               bool crossed, struct host_node **ret, struct pl_attr *attr)
{
    struct statx stx;
    struct host_node *n = NULL, *fresh = NULL;
    uint64_t seq = host_watch_seq(h);
    int r = host_statx(fd, &stx);
    while (r == 0 && !n) {
        n = host_known(h, fd, &stx);
        if (n && dir && name && !crossed)
            host_moved(h, n, dir, name);
        if (n)
            break;
        if (!fresh)
            fresh = new_node(h, dir, name, fd, crossed, &stx);
        if (!fresh) {
            r = -ENOMEM;
            break;
        }
        n = (struct host_node *)pl_nodes_put(h->nodes, &fresh->h);
        if (n != fresh) { /* another thread was faster, or it is outdated: look again */
            pl_node_unref(&n->h.node);
            n = NULL;
        } else if (S_ISDIR(stx.stx_mode)) {
            atomic_fetch_add(&h->dirs, 1);
        }
    }
    if (fresh && n != fresh) {
        if (dir)
            pl_node_unref(&dir->h.node);
        free_node(h, fresh);
    }
    if (r == 0) {
        if (!dir || crossed || n == fresh) /* else host_moved() has said so */
            host_watch_found(h, n, crossed ? NULL : dir);
        if (host_watch_cover(h, n, fd, &stx) || (n == fresh && host_watch_seq(h) != seq))
            r = host_statx(fd, &stx);
        if (r == 0)
            host_attr(n, &stx, attr);
        else
            pl_node_unref(&n->h.node);
    }
    if (r == 0 && keep) {
        install(h, n, fd);
        host_fd_done(h, n);
    } else if (keep) {
        close(fd);
    }
    if (r == 0)
        *ret = n;
    return r;
}

/* Frees the node, then those above it that only it kept: in a loop, for trees may be deep. */
void host_release(struct pl_tree *tree, struct pl_node *node)
{
    struct host *h = host_of(tree);
    struct host_node *n = node_of(node);
    while (n) {
        struct host_node *parent = n->parent;
        pl_nodes_del(h->nodes, &n->h);
        pthread_mutex_lock(&h->cache);
        int fd = n->fd;
        assert(!n->files && !n->claimed && (n->users == n->pinned || n == h->root));
        if (fd >= 0) {
            h->nfds -= !n->pinned;
            if (n->link.next)
                idle_del(n);
        }
        pthread_mutex_unlock(&h->cache);
        if (S_ISDIR(n->h.node.fmt))
            atomic_fetch_sub(&h->dirs, 1);
        pl_keep_del(h->keep, n->record);
        n->fd = fd; /* nobody else sees it any more */
        host_watch_forget(h, n);
        if (fd >= 0)
            close(fd);
        if (n->owners)
            host_unlock_all(h, n);
        free_node(h, n);
        n = parent && atomic_fetch_sub(&parent->h.node.refs, 1) == 1 ? parent : NULL;
    }
}
