/* SPDX-License-Identifier: MIT */
/*
 * What outlives this process. Where pl_keep() was called, these are recorded, each with what it
 * takes to find it again:
 *
 *   root     the descriptor of the tree's directory, which may be renamed, or lie beneath our mount
 *   lock     a descriptor that holds the POSIX locks of an owner (host_lock.c)
 *   unnamed  a descriptor of a node that has lost its last name while others refer to it (which
 *            is kept open without a record, too: nothing else would find the node)
 *   devices  which slots devices have: inode numbers are made of them
 *
 * Nothing else is: nodes are found by their keys, open files by pl_file.kept.
 *
 * What is taken over is known at once, by its identity, and stays so until somebody has asked for
 * it (a claim): from then on it lives as any node does. A door that is told to forget a node which
 * it has not asked for yet ought to find it first, so that it is let go of.
 *
 * A record without a name is made before the name is taken away, so that no instant is without:
 * whoever finds one whose node has a name, drops it.
 */
#include "base/cred.h"
#include "sources/host.h"

#include <errno.h>
#include <plenum/keep.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEPT_ROOT = 'R', KEPT_UNNAMED = 'U', KEPT_DEVICES = 'D' };

/* Of the root and of what is without a name. */
struct kept_node {
    uint8_t kind, pad[7];
    struct host_kept_id id;
};
_Static_assert(sizeof(struct host_devices) <= PL_KEEP_DATA, "devices fit a record");

static struct kept_node kept_node(uint8_t kind, const struct host_node *n)
{
    return (struct kept_node){.kind = kind, .id = host_kept_id(n)};
}

struct host_kept_id host_kept_id(const struct host_node *n)
{
    return (struct host_kept_id){n->h.id.hi, n->h.id.lo, n->btime};
}

static bool is_id(struct host_kept_id id, const struct statx *stx)
{
    struct pl_id now = host_id(stx);
    return id.dev == now.hi && id.ino == now.lo && id.btime == host_btime(stx);
}

static uint8_t kind_of(const struct pl_kept *k)
{
    return k->n ? k->data[0] : 0;
}

/* The next record of that kind after number k->record. */
static bool next_of(struct pl_keep *keep, uint8_t kind, struct pl_kept *k)
{
    while (pl_keep_next(keep, k->record, k))
        if (kind_of(k) == kind)
            return true;
    return false;
}

/* ---- the root ---- */

int host_kept_root(struct pl_keep *keep)
{
    struct pl_kept k = {0};
    struct kept_node is;
    struct statx stx;
    while (next_of(keep, KEPT_ROOT, &k)) {
        if (k.n != sizeof(is) || k.fd < 0)
            continue;
        memcpy(&is, k.data, sizeof(is));
        if (host_statx(k.fd, &stx) == 0 && S_ISDIR(stx.stx_mode) && is_id(is.id, &stx))
            return fcntl(k.fd, F_DUPFD_CLOEXEC, 0);
    }
    return -1;
}

static void keep_root(struct host *h)
{
    struct pl_kept k = {0};
    struct kept_node is = kept_node(KEPT_ROOT, h->root);
    bool was = next_of(h->keep, KEPT_ROOT, &k); /* it will serve the next as well */
    h->root_fd = was ? k.fd : -1;
    h->root_record = was ? k.record : pl_keep_add(h->keep, h->root->fd, &is, sizeof(is));
}

/* ---- devices ---- */

void host_keep_device(struct host *h, unsigned slot, dev_t dev)
{
    if (!h->keep)
        return;
    pthread_mutex_lock(&h->mounts_lock);
    struct host_devices *d = &h->devices;
    if (d->n == HOST_DEVICES) {
        *d = (struct host_devices){0};
        h->devices_record = 0;
    }
    d->kind = KEPT_DEVICES;
    d->slot[d->n] = (uint16_t)slot;
    d->dev[d->n++] = dev;
    uint32_t record = pl_keep_add(h->keep, -1, d, sizeof(*d));
    if (record) { /* else the hash will mostly do */
        pl_keep_del(h->keep, h->devices_record);
        h->devices_record = record;
    }
    pthread_mutex_unlock(&h->mounts_lock);
}

static void take_devices(struct host *h)
{
    struct pl_kept k = {0};
    while (next_of(h->keep, KEPT_DEVICES, &k)) {
        struct host_devices d;
        if (k.n != sizeof(d))
            continue;
        memcpy(&d, k.data, sizeof(d));
        d.n = d.n < HOST_DEVICES ? d.n : HOST_DEVICES;
        for (unsigned i = 0; i < d.n; i++)
            if (d.slot[i] > 0 && d.slot[i] < HOST_SLOTS)
                atomic_store(&h->slots[d.slot[i]], d.dev[i] + 1);
        h->devices = d;
        h->devices_record = k.record;
    }
}

/* ---- claims ---- */

void host_claim(struct host *h, struct host_node *n)
{
    pthread_mutex_lock(&h->cache);
    struct host_node **more = NULL;
    if (!n->claimed && (more = realloc(h->claims, (h->nclaims + 1) * sizeof(*more)))) {
        h->claims = more;
        h->claims[h->nclaims++] = n;
        n->claimed = true;
    }
    pthread_mutex_unlock(&h->cache);
    if (!more)
        pl_node_unref(&n->h.node);
}

void host_claim_over(struct host *h, struct host_node *n)
{
    bool was = false;
    pthread_mutex_lock(&h->cache);
    for (size_t i = 0; n->claimed && i < h->nclaims; i++) {
        if (h->claims[i] == n) {
            h->claims[i] = h->claims[--h->nclaims];
            n->claimed = false;
            was = true;
        }
    }
    pthread_mutex_unlock(&h->cache);
    if (was)
        pl_node_unref(&n->h.node);
}

void host_keep_done(struct host *h)
{
    pl_keep_del(h->keep, h->root_record);
    if (h->root_fd >= 0)
        close(h->root_fd);
    for (;;) {
        pthread_mutex_lock(&h->cache);
        struct host_node *n = h->nclaims ? h->claims[--h->nclaims] : NULL;
        if (n)
            n->claimed = false;
        pthread_mutex_unlock(&h->cache);
        if (!n)
            break;
        pl_node_unref(&n->h.node);
    }
    free(h->claims);
    h->claims = NULL;
}

/* ---- nodes without a name ---- */

void host_leaving(struct host *h, struct host_node *n)
{
    if (!n)
        return;
    struct kept_node is = kept_node(KEPT_UNNAMED, n);
    pthread_mutex_lock(&h->cache);
    n->leaving++;
    if (!n->pinned) {
        n->record = pl_keep_add(h->keep, n->fd, &is, sizeof(is));
        n->pinned = true;
        n->users++;
        h->nfds--; /* it is none of those that can be closed */
    }
    pthread_mutex_unlock(&h->cache);
}

void host_left(struct host *h, struct host_node *n)
{
    struct statx stx;
    if (!n)
        return;
    bool named = statx(n->fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_NLINK, &stx) == 0 &&
                 stx.stx_nlink > 0;
    pthread_mutex_lock(&h->cache);
    if (--n->leaving == 0 && named && n->pinned) {
        pl_keep_del(h->keep, n->record);
        n->record = 0;
        n->pinned = false;
        n->users--; /* not the last: the caller has one */
        h->nfds++;
    }
    pthread_mutex_unlock(&h->cache);
}

void host_named(struct host *h, struct host_node *n)
{
    pthread_mutex_lock(&h->cache);
    bool was = n->pinned;
    pthread_mutex_unlock(&h->cache);
    if (was) {
        host_leaving(h, n);
        host_left(h, n);
    }
}

/* The node is without a name, and the record's descriptor becomes its own. */
static int take_unnamed(struct host *h, const struct pl_kept *k)
{
    struct kept_node is;
    struct host_node *n;
    struct pl_attr attr;
    if (k->n != sizeof(is))
        return -EINVAL;
    memcpy(&is, k->data, sizeof(is));
    int r = host_kept_node(h, k->fd, is.id, &n, &attr);
    if (r < 0)
        return r;
    pthread_mutex_lock(&h->cache);
    bool mine = attr.nlink == 0 && n->fd < 0;
    if (mine) {
        n->fd = k->fd;
        n->users = 1;
        n->record = k->record;
        n->pinned = true;
    }
    pthread_mutex_unlock(&h->cache);
    if (mine)
        host_claim(h, n);
    else
        pl_node_unref(&n->h.node);
    return mine ? 0 : -ESTALE;
}

/* ---- the next in line ---- */

int host_open_node(struct host *h, int fd, struct host_node **ret, struct pl_attr *attr)
{
    char rel[4096];
    struct host_node *named;
    struct pl_attr unused;
    int r = host_adopt(h, NULL, NULL, fd, false, true, ret, attr);
    if (r < 0 || (*ret)->handle_len)
        return r;
    /* No handle: to find it again without this descriptor takes its name. */
    struct host_node *up = host_parent(h, *ret);
    if (up)
        pl_node_unref(&up->h.node);
    else if (*ret != h->root && host_beneath(h, fd, rel, sizeof(rel)) &&
             host_walk(h, rel, &named, &unused) == 0)
        pl_node_unref(&named->h.node);
    return 0;
}

int host_kept_node(struct host *h, int fd, struct host_kept_id id, struct host_node **ret,
                   struct pl_attr *attr)
{
    struct statx stx;
    int r = fd < 0 ? -ESTALE : host_statx(fd, &stx);
    if (r == 0 && !is_id(id, &stx))
        r = -ESTALE;
    return r < 0 ? r : host_open_node(h, fd, ret, attr);
}

void host_keep(struct pl_tree *tree, struct pl_keep *keep)
{
    struct host *h = host_of(tree);
    struct pl_kept k = {0};
    if (!keep)
        return;
    cred_reset();
    h->keep = keep;
    take_devices(h); /* first: the numbers of all that follows depend on them */
    keep_root(h);
    while (pl_keep_next(keep, k.record, &k)) {
        int r = 0;
        if (kind_of(&k) == KEPT_UNNAMED)
            r = take_unnamed(h, &k);
        else if (kind_of(&k) == HOST_KEPT_LOCK)
            r = host_lock_take(h, &k);
        if (r < 0) {
            pl_keep_del(keep, k.record);
            if (k.fd >= 0)
                close(k.fd);
        }
    }
    host_end();
}
