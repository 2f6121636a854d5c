/* SPDX-License-Identifier: MIT */
/*
 * Devices and mounts beneath the root.
 *
 * Slots make inode numbers unique in the tree: the root's device has slot 0 and keeps its numbers,
 * another device gets a slot from a hash of its number, so that it mostly has the same one in the
 * next run, and always in a successor, which is told (host_last.c). The table of slots is filled
 * without locks and never shrinks.
 */
#include "base/cred.h"
#include "sources/host.h"

#include <errno.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

static uint64_t mix64(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

unsigned host_slot(struct host *h, dev_t dev)
{
    if (dev == h->root_dev)
        return 0;
    unsigned start = (unsigned)(mix64(dev) % (HOST_SLOTS - 1)), i = start;
    do {
        uint64_t was = atomic_load_explicit(&h->slots[1 + i], memory_order_relaxed);
        if (was == 0 && atomic_compare_exchange_strong(&h->slots[1 + i], &was, dev + 1)) {
            host_keep_device(h, 1 + i, dev);
            return 1 + i;
        }
        if (was == dev + 1)
            return 1 + i;
        i = (i + 1) % (HOST_SLOTS - 1);
    } while (i != start);
    return 1 + start; /* more than 32,767 devices: numbers may meet */
}

uint64_t host_ino(unsigned slot, uint64_t ino)
{
    const uint64_t other = 1ull << 63;
    if (slot == 0 && ino)
        return ino;
    if (ino < 1ull << 48)
        return other | (uint64_t)slot << 48 | ino;
    return other | mix64(ino ^ (uint64_t)slot << 32);
}

/* A descriptor that open_by_handle_at accepts, or -1 when handles cannot be opened here. */
static int handle_fd(struct host *h, int fd)
{
    struct host_handle hd;
    struct statx stx;
    if (h->nmounts >= HOST_MOUNTS || !host_handle(fd, &hd))
        return -1;
    /* Opening a device or FIFO that is bind-mounted on a file would do things to it. */
    if (host_statx(fd, &stx) < 0 || (!S_ISDIR(stx.stx_mode) && !S_ISREG(stx.stx_mode)))
        return -1;
    int mfd = open(host_proc(fd).path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (mfd < 0)
        return -1;
    struct host_mount m = {.fd = mfd};
    int again = host_open_handle(&m, hd.type, hd.data, hd.bytes, O_PATH);
    if (again < 0) {
        close(mfd);
        return -1;
    }
    close(again);
    return mfd;
}

/* Does close(2) tell of errors there that write(2) has not? It does where a server writes late. */
static bool close_tells(unsigned type)
{
    static const unsigned local[] = {EXT4_SUPER_MAGIC,  XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC,
                                     F2FS_SUPER_MAGIC,  TMPFS_MAGIC,     RAMFS_MAGIC,
                                     MSDOS_SUPER_MAGIC, HUGETLBFS_MAGIC};
    for (size_t i = 0; i < sizeof(local) / sizeof(*local); i++)
        if (type == local[i])
            return false;
    return true;
}

/* Does a descriptor of a regular file there do for others what it does for its opener? Not where a
 * server may refuse to them what it allows him, and they are not asked again; nor where files are
 * not bytes on a disk but generated (those file systems have no size). */
static bool lends(const struct statfs *st)
{
    static const unsigned far[] = {NFS_SUPER_MAGIC,  SMB_SUPER_MAGIC,  CIFS_SUPER_MAGIC,
                                   SMB2_SUPER_MAGIC, CEPH_SUPER_MAGIC, AFS_SUPER_MAGIC,
                                   AFS_FS_MAGIC,     CODA_SUPER_MAGIC, V9FS_MAGIC,
                                   FUSE_SUPER_MAGIC, EFIVARFS_MAGIC};
    if ((unsigned)st->f_type == TMPFS_MAGIC) /* may be without a limit */
        return true;
    for (size_t i = 0; i < sizeof(far) / sizeof(*far); i++)
        if ((unsigned)st->f_type == far[i])
            return false;
    return st->f_blocks > 0;
}

static uint64_t fsid_of(int fd)
{
    struct statfs st;
    if (fstatfs(fd, &st) < 0)
        return 0;
    uint64_t id = (uint32_t)st.f_fsid.__val[0] | (uint64_t)(uint32_t)st.f_fsid.__val[1] << 32;
    return id ? mix64(id ^ (uint64_t)st.f_type << 1) : 0;
}

static void raw_fsid(int fd, int id[2])
{
    struct statfs st = {0};
    if (fstatfs(fd, &st) == 0)
        memcpy(id, st.f_fsid.__val, 2 * sizeof(*id));
}

struct host_mount *host_mount_of(struct host *h, int fd, const struct statx *stx)
{
    uint64_t id = stx->stx_mask & STATX_MNT_ID ? stx->stx_mnt_id
                                               : makedev(stx->stx_dev_major, stx->stx_dev_minor);
    cred_reset();
    pthread_mutex_lock(&h->mounts_lock);
    struct host_mount *m = h->mounts;
    while (m && m->id != id)
        m = m->next;
    if (m) {
        m->refs++;
    } else if ((m = calloc(1, sizeof(*m)))) {
        m->id = id;
        m->refs = 1;
        m->fd = handle_fd(h, fd);
        struct statfs st;
        bool told = fstatfs(fd, &st) == 0;
        m->dev = makedev(stx->stx_dev_major, stx->stx_dev_minor);
        m->inos = UINT32_MAX;
        m->close_tells = !told || close_tells((unsigned)st.f_type);
        m->lends = told && lends(&st);
        m->tells = !m->close_tells; /* a server far away has other clients */
        raw_fsid(fd, m->fsid_raw);
        m->fsid = m->fd >= 0 ? fsid_of(m->fd) : 0;
        m->next = h->mounts;
        h->mounts = m;
        h->nmounts += m->fd >= 0;
    }
    pthread_mutex_unlock(&h->mounts_lock);
    return m;
}

struct host_mount *host_mount_ref(struct host *h, struct host_mount *m)
{
    pthread_mutex_lock(&h->mounts_lock);
    m->refs++;
    pthread_mutex_unlock(&h->mounts_lock);
    return m;
}

struct host_mount *host_mount_find(struct host *h, uint64_t fsid)
{
    pthread_mutex_lock(&h->mounts_lock);
    struct host_mount *m = h->mounts;
    while (m && (m->fd < 0 || m->fsid != fsid))
        m = m->next;
    if (m)
        m->refs++;
    pthread_mutex_unlock(&h->mounts_lock);
    return m;
}

void host_mount_unref(struct host *h, struct host_mount *m)
{
    int fd = -1;
    pthread_mutex_lock(&h->mounts_lock);
    if (--m->refs == 0) {
        struct host_mount **p = &h->mounts;
        while (*p != m)
            p = &(*p)->next;
        *p = m->next;
        fd = m->fd;
        h->nmounts -= fd >= 0;
        free(m);
    }
    pthread_mutex_unlock(&h->mounts_lock);
    if (fd >= 0)
        close(fd);
}

/* ---- mount points beneath the root ---- */

/* "\040" in mountinfo is a blank. */
static void unescape(char *s)
{
    char *p = s;
    for (; *s; p++) {
        bool octal = *s == '\\' && strspn(s + 1, "01234567") >= 3;
        *p = octal ? (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0')) : *s;
        s += octal ? 4 : 1;
    }
    *p = '\0';
}

int host_each_point(struct host *h, bool (*each)(void *arg, const char *rel), void *arg)
{
    char root[PATH_MAX], at[PATH_MAX], *line = NULL;
    size_t size = 0;
    FILE *f = fopen("/proc/self/mountinfo", "re");
    if (!f)
        return -errno;
    ssize_t n = readlink(host_proc(h->root->fd).path, root, sizeof(root));
    size_t skip = n <= 1 ? 0 : (size_t)n; /* "/" */
    while (n > 0 && getline(&line, &size, f) > 0) {
        if (sscanf(line, "%*s %*s %*s %*s %4095s", at) != 1)
            continue;
        unescape(at);
        if (strncmp(at, root, skip) == 0 && at[skip] == '/' && at[skip + 1] &&
            each(arg, at + skip + 1))
            break;
    }
    free(line);
    fclose(f);
    return 0;
}

/* A list of strings, each with its NUL. */
struct strings {
    char *s;
    size_t n;
};

static bool add_string(struct strings *l, const char *s)
{
    size_t n = strlen(s) + 1;
    char *more = realloc(l->s, l->n + n + 1);
    if (!more)
        return false;
    memcpy(more + l->n, s, n);
    l->s = more;
    l->n += n;
    l->s[l->n] = '\0';
    return true;
}

static bool add_point(void *arg, const char *rel)
{
    return !add_string(arg, rel);
}

char *host_points(struct host *h)
{
    struct strings l = {0};
    host_each_point(h, add_point, &l);
    return l.s;
}

/* Reads the list anew when the kernel says that mounts have changed. Call with `mounts_lock`. */
static void refresh_points(struct host *h)
{
    struct pollfd p = {.fd = h->mountinfo, .events = POLLPRI};
    if (h->mountinfo < 0)
        p.fd = h->mountinfo = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    else if (poll(&p, 1, 0) == 0)
        return;
    free(h->points);
    h->points = host_points(h);
}

char *host_points_in(struct host *h, int fd)
{
    char rel[PATH_MAX];
    struct strings l = {0};
    pthread_mutex_lock(&h->mounts_lock);
    refresh_points(h);
    bool any = h->points;
    pthread_mutex_unlock(&h->mounts_lock);
    if (!any || !host_beneath(h, fd, rel, sizeof(rel) - 1))
        return NULL;
    size_t n = strlen(rel);
    if (n)
        rel[n++] = '/';
    pthread_mutex_lock(&h->mounts_lock);
    for (const char *p = h->points; p && *p; p += strlen(p) + 1)
        if (strncmp(p, rel, n) == 0 && !strchr(p + n, '/'))
            add_string(&l, p + n);
    pthread_mutex_unlock(&h->mounts_lock);
    return l.s;
}
