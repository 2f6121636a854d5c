/* SPDX-License-Identifier: MIT */
/*
 * Devices and mounts beneath the root.
 *
 * Slots make inode numbers unique in the tree: the root's device has slot 0 and keeps its numbers,
 * another device gets a slot from a hash of its number, so that it mostly has the same one in the
 * next run. The table of slots is filled without locks and never shrinks.
 */
#include "base/cred.h"
#include "sources/host.h"

#include <stdlib.h>
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
        if (was == 0 && atomic_compare_exchange_strong(&h->slots[1 + i], &was, dev + 1))
            return 1 + i;
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

static uint64_t fsid_of(int fd)
{
    struct statfs st;
    if (fstatfs(fd, &st) < 0)
        return 0;
    uint64_t id = (uint32_t)st.f_fsid.__val[0] | (uint64_t)(uint32_t)st.f_fsid.__val[1] << 32;
    return id ? mix64(id ^ (uint64_t)st.f_type << 1) : 0;
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
