/* SPDX-License-Identifier: MIT */
/* Watching what others do to the tree: what is covered, and the thread. See host_watch.h. */
#include "sources/host_watch.h"
#include "base/cred.h"
#include "base/thread.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ROUND_SHIFT 2 /* above the flags in host_node.watched: of which round they are */
#define ROUNDS      63
#define BUFFER      65536

static struct host_watch *active(struct host *h)
{
    struct host_watch *w = atomic_load_explicit(&h->watch, memory_order_acquire);
    return w && atomic_load_explicit(&w->on, memory_order_acquire) ? w : NULL;
}

bool host_watching(struct host *h)
{
    return active(h);
}

uint64_t host_watch_seq(struct host *h)
{
    struct host_watch *w = active(h);
    return w ? atomic_load(&w->seq) : 0;
}

/* ---- what is covered ------------------------------------------------------------------------- */

static unsigned flags_of(const struct host_watch *w, const struct host_node *n)
{
    unsigned f = atomic_load_explicit(&n->watched, memory_order_acquire);
    return f >> ROUND_SHIFT == w->round ? f & ((1u << ROUND_SHIFT) - 1) : 0;
}

static void set_flag(const struct host_watch *w, struct host_node *n, unsigned flag, bool on)
{
    unsigned char was = atomic_load_explicit(&n->watched, memory_order_relaxed), is;
    do {
        unsigned f = was >> ROUND_SHIFT == w->round ? was & ((1u << ROUND_SHIFT) - 1) : 0;
        f = on ? f | flag : f & ~flag;
        is = (unsigned char)(w->round << ROUND_SHIFT | f);
        if (is == was)
            return;
    } while (!atomic_compare_exchange_weak(&n->watched, &was, is));
}

/* Can events of the node be known for its? */
static bool tellable(const struct host_watch *w, const struct host_node *n)
{
    return n->mount->tells && (!w->kind->by_handle || (n->handle_len && n->mount->inos));
}

void host_watch_found(struct host *h, struct host_node *n, struct host_node *dir)
{
    struct host_watch *w = active(h);
    if (w)
        set_flag(w, n, HOST_NAMED, dir && (flags_of(w, dir) & HOST_MARKED) && tellable(w, n));
}

bool host_told(struct host_node *n, const struct statx *stx)
{
    struct host *h = host_of(n->h.node.tree);
    struct host_watch *w = active(h);
    unsigned f = w ? flags_of(w, n) : 0;
    if (n == h->root)
        return f & HOST_MARKED;
    if (S_ISDIR(stx->stx_mode) || stx->stx_nlink != 1)
        return f == (HOST_MARKED | HOST_NAMED);
    return f & HOST_NAMED;
}

/* A mark could not be set, or a count that was told has changed: the thread says so. Call with the
 * lock, which keeps the descriptor from being closed. */
static void say(struct host_watch *w)
{
    uint64_t one = 1;
    if (w->fd >= 0 && atomic_load(&w->missed) && !atomic_exchange(&w->words, true))
        (void)!write(w->wake, &one, sizeof(one));
}

bool host_watch_cover(struct host *h, struct host_node *n, int fd, const struct statx *stx)
{
    struct host_watch *w = active(h);
    bool dir = S_ISDIR(n->h.node.fmt);
    if (!w || (!dir && stx->stx_nlink == 1) || (flags_of(w, n) & HOST_MARKED))
        return false;
    cred_reset(); /* a user's right to read it is not asked for */
    pthread_mutex_lock(&w->lock);
    int r = w->fd < 0 || !tellable(w, n) ? -EOPNOTSUPP
            : w->marks >= w->most        ? -ENOSPC
                                         : w->kind->mark(w, n, fd);
    if (r == 0 && !(flags_of(w, n) & HOST_MARKED)) { /* nobody was faster */
        w->marks++;
        w->dirs += dir;
        set_flag(w, n, HOST_MARKED, true);
    } else if (r < 0) {
        atomic_fetch_add(&w->missed, 1);
        say(w);
    }
    pthread_mutex_unlock(&w->lock);
    return r == 0;
}

void host_watch_forget(struct host *h, struct host_node *n)
{
    struct host_watch *w = active(h);
    bool marked = w && (flags_of(w, n) & HOST_MARKED);
    if (!marked && (!w || !atomic_load_explicit(&w->missed, memory_order_relaxed)))
        return;
    if (marked) {
        cred_reset();
        w->kind->unmark(w, n);
    }
    pthread_mutex_lock(&w->lock);
    if (marked && w->fd >= 0) {
        w->marks--;
        w->dirs -= S_ISDIR(n->h.node.fmt);
    }
    say(w);
    pthread_mutex_unlock(&w->lock);
}

static void words(struct host_watch *w, char how[64])
{
    unsigned known = atomic_load(&w->h->dirs);
    pthread_mutex_lock(&w->lock);
    unsigned without = known > w->dirs ? known - w->dirs : 0;
    pthread_mutex_unlock(&w->lock);
    if (!atomic_load(&w->missed))
        without = 0;
    if (without)
        snprintf(how, 64, "%s: %u of %u directories are not watched", w->kind->name, without,
                 known);
    else
        snprintf(how, 64, "%s", w->kind->name);
}

/* ---- telling --------------------------------------------------------------------------------- */

static uint64_t ino_of(const struct host_node *n)
{
    return host_ino(n->slot, n->h.id.lo);
}

/* A directory that had many events is told of once. */
static void flush(struct host_watch *w)
{
    struct host_node *dir = w->dir;
    w->dir = NULL;
    if (!dir)
        return;
    w->to->changed(w->to, &dir->h.node, ino_of(dir), PL_CHANGED_ATTR | PL_CHANGED_DATA);
    pl_node_unref(&dir->h.node);
}

void watch_tell(struct host_watch *w, struct host_node *dir, const char *name,
                struct host_node *node, unsigned what)
{
    if (dir && (what & (WATCH_CAME | WATCH_WENT))) {
        w->to->renamed(w->to, &dir->h.node, ino_of(dir), name);
        if (w->dir != dir) {
            flush(w);
            pl_node_ref(&dir->h.node);
            w->dir = dir;
        }
    }
    if (!node)
        return;
    /* It may be elsewhere now, where nobody watches; where it went we see if that is watched. */
    if (what & WATCH_WENT)
        set_flag(w, node, HOST_NAMED, false);
    if ((what & WATCH_CAME) && dir && !(flags_of(w, node) & HOST_NAMED))
        host_moved(w->h, node, dir, name);
    if (node == w->dir)
        return;
    uint32_t changed = PL_CHANGED_ATTR | (what & WATCH_DATA ? PL_CHANGED_DATA : 0);
    w->to->changed(w->to, &node->h.node, ino_of(node), changed);
}

void watch_lost(struct host_watch *w)
{
    char text[80];
    snprintf(text, sizeof(text), "%s: more changes at once than the kernel keeps", w->kind->name);
    flush(w);
    w->to->lost(w->to, text);
}

/* ---- mounts ---------------------------------------------------------------------------------- */

static bool listed(const char *list, const char *s)
{
    for (const char *p = list; p && *p; p += strlen(p) + 1)
        if (!strcmp(p, s))
            return true;
    return false;
}

/* Something was mounted on, or unmounted from, a path beneath the root. */
static void tell_point(struct host_watch *w, const char *path)
{
    char up[4096];
    struct host_node *dir;
    struct pl_attr attr;
    snprintf(up, sizeof(up), "%s", path);
    char *slash = strrchr(up, '/');
    const char *name = slash ? slash + 1 : path;
    up[slash ? slash - up : 0] = '\0';
    if (host_walk(w->h, up, &dir, &attr) < 0)
        return;
    watch_tell(w, dir, name, NULL, WATCH_CAME);
    pl_node_unref(&dir->h.node);
}

/* No queue tells of mounts: compares the lists. */
static void mounts_changed(struct host_watch *w)
{
    char *old = w->points;
    w->points = host_points(w->h);
    for (const char *p = old; p && *p; p += strlen(p) + 1)
        if (!listed(w->points, p))
            tell_point(w, p);
    for (const char *p = w->points; p && *p; p += strlen(p) + 1)
        if (!listed(old, p))
            tell_point(w, p);
    flush(w);
    free(old);
}

/* ---- the thread ------------------------------------------------------------------------------ */

/* Sleeps until something happens: no timer runs when nothing does. */
static void *take(void *arg)
{
    struct host_watch *w = arg;
    char *buf = malloc(BUFFER);
    struct pollfd p[3] = {{.fd = w->fd, .events = POLLIN},
                          {.fd = w->wake, .events = POLLIN},
                          {.fd = w->mountinfo, .events = POLLPRI}};
    while (buf && !atomic_load(&w->over)) {
        uint64_t count;
        poll(p, 3, -1);
        (void)!read(w->wake, &count, sizeof(count));
        if (atomic_load(&w->over))
            break;
        if (atomic_exchange(&w->words, false) && w->to->how) {
            char how[64];
            words(w, how);
            w->to->how(w->to, how);
        }
        if (p[2].revents & (POLLPRI | POLLERR))
            mounts_changed(w);
        poll(&p[1], 1, w->kind->settle_ms);
        while (!atomic_load(&w->over) && w->kind->read(w, buf, BUFFER))
            ;
        flush(w);
        poll(&p[1], 1, WATCH_PAUSE_MS);
    }
    free(buf);
    return NULL;
}

static int start_thread(struct host_watch *w)
{
    cred_reset(); /* the thread starts with what this one has */
    return thread_start(&w->thread, 0, take, w);
}

/* ---- on and off ------------------------------------------------------------------------------ */

/* The last of it; nobody takes events any more. Nodes keep flags of a round that is over. */
static void close_queue(struct host_watch *w)
{
    atomic_store(&w->on, false);
    pthread_mutex_lock(&w->lock);
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
    w->dirs = w->marks = 0;
    free(w->by_wd);
    w->by_wd = NULL;
    w->nwd = 0;
    if (w->wake >= 0)
        close(w->wake);
    w->wake = -1;
    pthread_mutex_unlock(&w->lock);
    if (w->mountinfo >= 0)
        close(w->mountinfo);
    w->mountinfo = -1;
    free(w->points);
    w->points = NULL;
}

/* Tests choose: PLENUM_WATCH=fanotify or inotify, and with ",N" so many marks at most. */
static bool chosen(struct host_watch *w, const struct watch_kind *kind)
{
    const char *s = secure_getenv("PLENUM_WATCH");
    w->most = UINT32_MAX;
    if (!s)
        return true;
    size_t n = strcspn(s, ",");
    if (s[n])
        w->most = (unsigned)strtoul(s + n + 1, NULL, 10);
    return n == strlen(kind->name) && !strncmp(s, kind->name, n);
}

/* One way of watching, tried on the root. */
static int try(struct host_watch *w, const struct watch_kind *kind)
{
    struct statx stx;
    struct host_node *root = w->h->root;
    if (!chosen(w, kind))
        return -EOPNOTSUPP;
    w->kind = kind;
    w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->mountinfo = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    int fd = w->wake < 0 ? -errno : kind->open(w), r = fd;
    if (fd >= 0) {
        pthread_mutex_lock(&w->lock);
        w->fd = fd;
        pthread_mutex_unlock(&w->lock);
        atomic_store(&w->on, true);
        r = host_statx(root->fd, &stx); /* the root's descriptor is always in use */
        if (r == 0 && !host_watch_cover(w->h, root, root->fd, &stx))
            r = -EOPNOTSUPP;
    }
    if (r < 0)
        close_queue(w);
    return r < 0 ? r : 0;
}

static int start(struct host_watch *w, struct pl_watcher *to, char how[64])
{
    if (!w->h->root->mount->tells) {
        strcpy(how, "others may change it where this machine does not see it");
        return -EOPNOTSUPP;
    }
    w->to = to;
    w->round = w->round % ROUNDS + 1;
    atomic_store(&w->over, false);
    atomic_store(&w->words, false);
    atomic_store(&w->missed, 0);
    int r = try(w, &watch_fanotify);
    if (r < 0)
        r = try(w, &watch_inotify);
    atomic_store(&w->missed, 0);
    if (r == 0) {
        w->points = host_points(w->h);
        if ((r = start_thread(w)) < 0)
            close_queue(w);
    }
    if (r == 0)
        words(w, how);
    else
        snprintf(how, 64, "no watch: %s", strerror(-r));
    return r;
}

static void stop(struct host_watch *w)
{
    uint64_t one = 1;
    atomic_store(&w->over, true);
    (void)!write(w->wake, &one, sizeof(one));
    pthread_join(w->thread, NULL);
    flush(w);
    close_queue(w);
}

int host_watch(struct pl_tree *tree, struct pl_watcher *to, char how[64])
{
    struct host *h = host_of(tree);
    struct host_watch *w = atomic_load(&h->watch);
    if (!to) {
        if (w && atomic_load(&w->on))
            stop(w);
        return 0;
    }
    if (w && atomic_load(&w->on)) {
        strcpy(how, "another door watches it");
        return -EBUSY;
    }
    if (!w) {
        w = calloc(1, sizeof(*w));
        if (!w) {
            strcpy(how, "out of memory");
            return -ENOMEM;
        }
        w->h = h;
        w->fd = w->wake = w->mountinfo = -1;
        pthread_mutex_init(&w->lock, NULL);
        atomic_store(&h->watch, w); /* it stays until the tree goes: ops may look at it */
    }
    return start(w, to, how);
}

void host_watch_free(struct host *h)
{
    struct host_watch *w = atomic_load(&h->watch);
    if (!w)
        return;
    assert(!atomic_load(&w->on));
    atomic_store(&h->watch, NULL);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
