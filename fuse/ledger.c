/* SPDX-License-Identifier: MIT */
/* The memory of the ledger: one file, the tables one after the other, each on a page of its own. */
#include "fuse/ledger.h"
#include "base/keep.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC 0x706c6c65u /* "pl" */
#define PAGE  4096

_Static_assert(sizeof(struct ledger_node) == 104, "ledger_node has no holes");
_Static_assert(sizeof(struct ledger_slot) == 256, "slots share no cache line");
_Static_assert(sizeof(struct ledger_head) <= PAGE, "the head is one page");

static size_t paged(size_t n)
{
    return (n + PAGE - 1) & ~(size_t)(PAGE - 1);
}

struct layout {
    size_t node, bucket, file, slot, lock, keep, size;
};

static struct layout layout(uint32_t nnodes)
{
    struct layout l;
    l.node = PAGE;
    l.bucket = l.node + paged((nnodes + 1ul) * sizeof(struct ledger_node));
    l.file = l.bucket + paged(nnodes * sizeof(uint32_t));
    l.slot = l.file + paged(LEDGER_FILES * sizeof(struct ledger_file));
    l.lock = l.slot + paged(LEDGER_SLOTS * sizeof(struct ledger_slot));
    l.keep = l.lock + paged(LEDGER_LOCKS * sizeof(struct ledger_lock));
    l.size = l.keep + paged(keep_size(LEDGER_RECORDS));
    return l;
}

/* The tables in the mapping at `base`. */
static void found(struct ledger *l, char *base, uint32_t nnodes)
{
    struct layout at = layout(nnodes);
    l->head = (struct ledger_head *)base;
    l->node = (struct ledger_node *)(base + at.node);
    l->bucket = (_Atomic uint32_t *)(base + at.bucket);
    l->file = (struct ledger_file *)(base + at.file);
    l->slot = (struct ledger_slot *)(base + at.slot);
    l->lock = (struct ledger_lock *)(base + at.lock);
    l->keep = keep_over(base + at.keep, LEDGER_RECORDS);
    l->size = at.size;
}

static unsigned point_of(const char *name, size_t n)
{
    for (unsigned i = 1; i < LEDGER_POINT_COUNT; i++)
        if (strlen(ledger_point_name(i)) == n && !strncmp(ledger_point_name(i), name, n))
            return i;
    return LEDGER_NOWHERE;
}

static void set_crash(struct ledger_head *h)
{
    const char *text = getenv("PLENUM_CRASH"), *colon = text ? strchr(text, ':') : NULL;
    if (!colon)
        return;
    atomic_store(&h->crash_count, (uint32_t)strtoul(colon + 1, NULL, 10));
    atomic_store(&h->crash_point, point_of(text, (size_t)(colon - text)));
}

static char *map(int fd, size_t size)
{
    int how = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    char *base = mmap(NULL, size, PROT_READ | PROT_WRITE, how | MAP_NORESERVE, fd, 0);
    return base == MAP_FAILED ? NULL : base;
}

int ledger_new(struct ledger *l, uint32_t nnodes, bool shared)
{
    nnodes = nnodes ? nnodes : LEDGER_NODES;
    size_t size = layout(nnodes).size;
    int fd = shared ? memfd_create("plenum-ledger", MFD_CLOEXEC) : -1;
    if (shared && (fd < 0 || ftruncate(fd, (off_t)size) < 0)) {
        int r = -errno;
        if (fd >= 0)
            close(fd);
        return r;
    }
    char *base = map(fd, size);
    if (!base) {
        if (fd >= 0)
            close(fd);
        return -ENOMEM;
    }
    *l = (struct ledger){.fd = fd};
    found(l, base, nnodes);
    l->head->version = LEDGER_VERSION;
    l->head->nnodes = nnodes;
    set_crash(l->head);
    atomic_store(&l->head->magic, MAGIC);
    return 0;
}

int ledger_map(struct ledger *l, int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size < PAGE)
        return -EPROTO;
    struct ledger_head *h = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    if (h == MAP_FAILED)
        return -errno;
    bool ours = atomic_load(&h->magic) == MAGIC && h->version == LEDGER_VERSION;
    uint32_t nnodes = h->nnodes;
    munmap(h, PAGE);
    if (!ours || layout(nnodes).size != (size_t)st.st_size)
        return -EPROTO;
    char *base = map(fd, (size_t)st.st_size);
    if (!base)
        return -ENOMEM;
    *l = (struct ledger){.fd = fd};
    found(l, base, nnodes);
    return 0;
}

void ledger_unmap(struct ledger *l)
{
    munmap(l->head, l->size);
    if (l->fd >= 0)
        close(l->fd);
    *l = (struct ledger){.fd = -1};
}

void ledger_claims(const struct ledger *l, void (*fn)(void *arg, int fd), void *arg)
{
    uint32_t used = atomic_load(&l->head->files_used);
    struct pl_kept kept = {0};
    for (uint32_t i = 1; i < LEDGER_FILES && i <= used; i++)
        if (atomic_load(&l->file[i].state) && l->file[i].kept > 0)
            fn(arg, l->file[i].kept);
    while (pl_keep_next(l->keep, kept.record, &kept))
        if (kept.fd > 0)
            fn(arg, kept.fd);
}

void ledger_blame(struct ledger *l)
{
    uint32_t used = atomic_load(&l->head->slots_used);
    for (uint32_t i = 0; i < LEDGER_SLOTS && i < used; i++) {
        struct ledger_slot *s = &l->slot[i];
        uint32_t state = atomic_load(&s->state);
        if ((state == LEDGER_TAKEN || state == LEDGER_BEGUN) && !atomic_load(&s->waits))
            atomic_fetch_add(&s->tries, 1);
    }
}

uint32_t ledger_hash(const char *name)
{
    uint32_t h = 2166136261u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 16777619u;
    return h;
}

const char *ledger_point_name(unsigned point)
{
    static const char *const names[] = {"nowhere",
#define X(name) #name,
                                        LEDGER_POINTS(X)
#undef X
    };
    return point < LEDGER_POINT_COUNT ? names[point] : "?";
}

void ledger_point_slow(struct ledger *l, unsigned point)
{
    if (point == LEDGER_NOWHERE || atomic_fetch_sub(&l->head->crash_count, 1) != 1)
        return;
    atomic_store(&l->head->crash_point, LEDGER_NOWHERE);
    kill(getpid(), SIGKILL);
}
