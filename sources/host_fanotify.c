/* SPDX-License-Identifier: MIT */
/*
 * Watching by fanotify. Events carry the file handles of the directory and of the file, and who
 * caused them: what this process did itself is passed over. (Writes that the kernel passes through
 * for a client are the client's, and are told.)
 *
 * From a handle the node is found by the inode number that is in it (host_mount.inos says where),
 * and is the right one if it has this very handle: nothing is asked of the file system.
 */
#include "base/cred.h"
#include "sources/host_watch.h"

#include <errno.h>
#include <string.h>
#include <sys/fanotify.h>
#include <unistd.h>

#define NAMES    (FAN_CREATE | FAN_DELETE | FAN_MOVED_FROM | FAN_MOVED_TO)
#define CONTENTS (FAN_ATTRIB | FAN_MODIFY)

/* A limited queue: when nobody takes what is in it, the kernel's memory must not fill up with it.
 * But marks as many as there are directories, where that is allowed. */
static int fan_open(struct host_watch *w)
{
    const unsigned base =
        FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_FID | FAN_REPORT_DFID_NAME;
    static const unsigned more[] = {FAN_REPORT_TARGET_FID | FAN_UNLIMITED_MARKS,
                                    FAN_REPORT_TARGET_FID, FAN_UNLIMITED_MARKS, 0};
    int fd = -1;
    for (size_t i = 0; fd < 0 && i < sizeof(more) / sizeof(*more); i++)
        fd = fanotify_init(base | more[i], O_RDONLY | O_CLOEXEC | O_LARGEFILE);
    return fd < 0 ? -errno : fd;
}

/* Marks and unmarks alike, what `fd` (O_PATH perhaps) has open. */
static int mark_fd(struct host_watch *w, const struct host_node *n, int fd, unsigned how)
{
    bool dir = S_ISDIR(n->h.node.fmt);
    uint64_t mask = CONTENTS | (dir ? NAMES | FAN_ONDIR | FAN_EVENT_ON_CHILD : 0);
    int r = dir ? fanotify_mark(w->fd, how, mask, fd, ".")
                : fanotify_mark(w->fd, how, mask, AT_FDCWD, host_proc(fd).path);
    return r < 0 ? -errno : 0;
}

static int fan_mark(struct host_watch *w, struct host_node *n, int fd)
{
    return mark_fd(w, n, fd, FAN_MARK_ADD);
}

/* The node is being released and may have no descriptor: then its handle, or its name in the parent
 * to which it still holds a reference, gives one. If neither does, the mark stays for as long as
 * the object does; its events find no node. */
static void fan_unmark(struct host_watch *w, struct host_node *n)
{
    struct statx stx;
    struct host_node *up = n->parent;
    int fd = n->fd;
    if (fd < 0 && host_by_handle(n)) {
        fd = host_open_handle(n->mount, n->handle_type, n->handle, n->handle_len, O_PATH);
    } else if (fd < 0 && up && n->name) {
        int at = host_fd(w->h, up);
        bool crossed;
        fd = at < 0 ? at : host_open_child(at, n->name, &crossed);
        if (at >= 0)
            host_fd_done(w->h, up);
        struct host_handle hd;
        if (fd >= 0 &&
            (host_statx(fd, &stx) < 0 || host_id(&stx).lo != n->h.id.lo || !host_handle(fd, &hd) ||
             !host_same_handle(n, hd.type, hd.data, hd.bytes))) {
            close(fd);
            fd = -1;
        }
    }
    pthread_mutex_lock(&w->lock);
    if (fd >= 0 && w->fd >= 0)
        mark_fd(w, n, fd, FAN_MARK_REMOVE);
    pthread_mutex_unlock(&w->lock);
    if (fd >= 0 && fd != n->fd)
        close(fd);
}

/* ---- events ---------------------------------------------------------------------------------- */

/* The devices and places of inode numbers of a file system, as its mounts have learned them. */
static bool places(struct host *h, const int fsid[2], dev_t *dev, uint32_t *inos)
{
    bool found = false;
    pthread_mutex_lock(&h->mounts_lock);
    for (struct host_mount *m = h->mounts; m; m = m->next) {
        if (memcmp(m->fsid_raw, fsid, sizeof(m->fsid_raw)) != 0 || (found && m->dev != *dev))
            continue;
        *dev = m->dev;
        *inos = (found ? *inos : UINT32_MAX) & atomic_load(&m->inos);
        found = true;
    }
    pthread_mutex_unlock(&h->mounts_lock);
    return found;
}

static struct host_node *known(struct host *h, dev_t dev, uint64_t ino, const struct file_handle *f)
{
    struct host_node *n = (struct host_node *)pl_nodes_get(h->nodes, (struct pl_id){dev, ino});
    if (n && !host_same_handle(n, f->handle_type, f->f_handle, f->handle_bytes)) {
        pl_node_unref(&n->h.node);
        n = NULL;
    }
    return n;
}

/* The node of a handle in an event, with a reference, or NULL. */
static struct host_node *node_of_fid(struct host *h, const struct fanotify_event_info_fid *info)
{
    const struct file_handle *f = (const struct file_handle *)info->handle;
    struct host_node *n = NULL;
    dev_t dev = 0;
    uint32_t inos = 0;
    if (!places(h, info->fsid.val, &dev, &inos))
        return NULL;
    for (unsigned i = 0; !n && i < 32 && i * 4 + 4 <= f->handle_bytes; i++) {
        uint32_t low, high = 0;
        if (!(inos & 1u << i))
            continue;
        memcpy(&low, f->f_handle + i * 4, sizeof(low));
        if (i * 4 + 8 <= f->handle_bytes)
            memcpy(&high, f->f_handle + i * 4 + 4, sizeof(high));
        n = known(h, dev, low, f);
        if (!n && high)
            n = known(h, dev, low | (uint64_t)high << 32, f);
    }
    return n;
}

static void tell(struct host_watch *w, const struct fanotify_event_metadata *m)
{
    const char *at = (const char *)m + m->metadata_len, *end = (const char *)m + m->event_len;
    const struct fanotify_event_info_fid *dir = NULL, *object = NULL;
    for (const struct fanotify_event_info_header *i; at < end; at += i->len) {
        i = (const struct fanotify_event_info_header *)at;
        if (i->info_type == FAN_EVENT_INFO_TYPE_DFID_NAME)
            dir = (const struct fanotify_event_info_fid *)at;
        else if (i->info_type == FAN_EVENT_INFO_TYPE_FID)
            object = (const struct fanotify_event_info_fid *)at;
        if (i->len < sizeof(*i))
            break;
    }
    struct host_node *d = dir ? node_of_fid(w->h, dir) : NULL;
    struct host_node *n = object ? node_of_fid(w->h, object) : NULL;
    const char *name = "";
    if (dir) {
        const struct file_handle *f = (const struct file_handle *)dir->handle;
        name = (const char *)f->f_handle + f->handle_bytes;
    }
    if (!strcmp(name, ".") && d && !n) { /* the directory itself */
        n = d;
        d = NULL;
    }
    unsigned what = WATCH_ATTR; /* whatever it was, ctime has changed */
    what |= m->mask & FAN_MODIFY ? WATCH_DATA : 0;
    what |= m->mask & (FAN_CREATE | FAN_MOVED_TO) ? WATCH_CAME : 0;
    what |= m->mask & (FAN_DELETE | FAN_MOVED_FROM) ? WATCH_WENT : 0;
    watch_tell(w, d, name, n, what);
    if (d)
        pl_node_unref(&d->h.node);
    if (n)
        pl_node_unref(&n->h.node);
}

/* Two handles (MAX_HANDLE_SZ is 128), a name and what goes with them. */
#define EVENT_MAX 1024

static bool fan_read(struct host_watch *w, char *buf, size_t size)
{
    ssize_t n = read(w->fd, buf, size);
    if (n <= 0)
        return false;
    atomic_fetch_add(&w->seq, 1);
    const pid_t self = getpid();
    /* Events follow one another at any multiple of four bytes; they are looked at where they are
     * aligned. */
    _Alignas(8) char event[EVENT_MAX];
    struct fanotify_event_metadata *m = (struct fanotify_event_metadata *)event;
    for (char *at = buf; (size_t)(buf + n - at) >= sizeof(*m); at += m->event_len) {
        memcpy(m, at, sizeof(*m));
        if (m->event_len < sizeof(*m) || m->event_len > buf + n - at)
            break;
        if (m->fd >= 0)
            close(m->fd);
        if ((m->mask & FAN_Q_OVERFLOW) || m->event_len > sizeof(event)) {
            watch_lost(w);
        } else if (m->pid != self) {
            memcpy(event, at, m->event_len);
            tell(w, m);
        }
    }
    return true;
}

const struct watch_kind watch_fanotify = {
    .name = "fanotify",
    .open = fan_open,
    .mark = fan_mark,
    .unmark = fan_unmark,
    .read = fan_read,
    .by_handle = true,
};
