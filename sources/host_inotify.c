/* SPDX-License-Identifier: MIT */
/*
 * Watching by inotify, where fanotify is not allowed or too old. Events name the watch and the name
 * in it, and not who caused them: what a name stands for is looked at, and of one that stands for
 * what we found there last there is nothing to say. Of changes of a file only its attributes are
 * told, for if they were our own, the content need not be read anew; whoever is told of a change
 * compares the time of modification.
 */
#include "base/cred.h"
#include "sources/host_watch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define NAMES    (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO)
#define CONTENTS (IN_ATTRIB | IN_MODIFY)

static int ino_open(struct host_watch *w)
{
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

static int ino_mark(struct host_watch *w, struct host_node *n, int fd)
{
    uint32_t mask = CONTENTS | (S_ISDIR(n->h.node.fmt) ? NAMES | IN_ONLYDIR : 0);
    int wd = inotify_add_watch(w->fd, host_proc(fd).path, mask);
    if (wd < 0)
        return -errno;
    if ((size_t)wd >= w->nwd) {
        size_t size = w->nwd ? w->nwd : 1024;
        while (size <= (size_t)wd)
            size *= 2;
        struct host_node **more = realloc(w->by_wd, size * sizeof(*more));
        if (!more) {
            inotify_rm_watch(w->fd, wd);
            return -ENOMEM;
        }
        memset(more + w->nwd, 0, (size - w->nwd) * sizeof(*more));
        w->by_wd = more;
        w->nwd = size;
    }
    w->by_wd[wd] = n;
    n->wd = wd;
    return 0;
}

static void ino_unmark(struct host_watch *w, struct host_node *n)
{
    pthread_mutex_lock(&w->lock);
    if (w->fd >= 0 && (size_t)n->wd < w->nwd && w->by_wd[n->wd] == n) {
        w->by_wd[n->wd] = NULL;
        inotify_rm_watch(w->fd, n->wd);
    }
    pthread_mutex_unlock(&w->lock);
}

/* The node of a watch, with a reference, or NULL. */
static struct host_node *node_of_wd(struct host_watch *w, int wd)
{
    pthread_mutex_lock(&w->lock);
    struct host_node *n = wd > 0 && (size_t)wd < w->nwd ? w->by_wd[wd] : NULL;
    if (n && !pl_node_tryref(&n->h.node))
        n = NULL;
    pthread_mutex_unlock(&w->lock);
    return n;
}

/* What a name stands for now: the known node, with a reference, or NULL. */
static struct host_node *node_at(struct host *h, struct host_node *dir, const char *name)
{
    struct statx stx;
    int fd = host_fd(h, dir);
    if (fd < 0)
        return NULL;
    int how = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
    int r = statx(fd, name, how, STATX_INO | STATX_TYPE, &stx);
    host_fd_done(h, dir);
    struct host_node *n = r < 0 ? NULL : (struct host_node *)pl_nodes_get(h->nodes, host_id(&stx));
    if (n && (stx.stx_mode & S_IFMT) != n->h.node.fmt) {
        pl_node_unref(&n->h.node);
        n = NULL;
    }
    return n;
}

/* It was found by this very name last. (Of a node with a handle the name is not kept.) */
static bool found_as(struct host *h, struct host_node *n, struct host_node *dir, const char *name)
{
    pthread_mutex_lock(&h->names);
    bool same = n->parent == dir && n->name && !strcmp(n->name, name);
    pthread_mutex_unlock(&h->names);
    return same;
}

static void tell_child(struct host_watch *w, struct host_node *dir, const struct inotify_event *e)
{
    struct host_node *n = node_at(w->h, dir, e->name);
    unsigned what = WATCH_ATTR;
    if (e->mask & (IN_DELETE | IN_MOVED_FROM))
        what |= n ? WATCH_CAME : WATCH_WENT;
    else if (e->mask & (IN_CREATE | IN_MOVED_TO))
        what |= WATCH_CAME;
    if ((what & WATCH_CAME) && n && found_as(w->h, n, dir, e->name))
        what = WATCH_ATTR;
    watch_tell(w, dir, e->name, n, what);
    if (n)
        pl_node_unref(&n->h.node);
}

static void tell(struct host_watch *w, const struct inotify_event *e)
{
    if (e->mask & IN_Q_OVERFLOW) {
        watch_lost(w);
        return;
    }
    struct host_node *n = node_of_wd(w, e->wd);
    if (!n)
        return;
    if (e->mask & IN_IGNORED) { /* it was deleted; the number may be given again */
        pthread_mutex_lock(&w->lock);
        if (w->by_wd[e->wd] == n)
            w->by_wd[e->wd] = NULL;
        pthread_mutex_unlock(&w->lock);
    } else if (e->len) {
        tell_child(w, n, e);
    } else {
        watch_tell(w, NULL, NULL, n, WATCH_ATTR);
    }
    pl_node_unref(&n->h.node);
}

static bool ino_read(struct host_watch *w, char *buf, size_t size)
{
    ssize_t n = read(w->fd, buf, size);
    if (n <= 0)
        return false;
    atomic_fetch_add(&w->seq, 1);
    const struct inotify_event *e;
    for (char *p = buf; p < buf + n; p += sizeof(*e) + e->len) {
        e = (const struct inotify_event *)p;
        tell(w, e);
    }
    return true;
}

const struct watch_kind watch_inotify = {
    .name = "inotify",
    .open = ino_open,
    .mark = ino_mark,
    .unmark = ino_unmark,
    .read = ino_read,
    .settle_ms = 2,
};
