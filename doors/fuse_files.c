/* SPDX-License-Identifier: MIT */
/*
 * Open files by handle: the index and, above it, the generation.
 *
 * The first LEDGER_FILES lie in the ledger; further ones are our own, and end with us: their
 * handles have the topmost bit and our number, so that a successor does not take them for its own.
 *
 * `lock` guards the table; what an entry points to is the requests', which the kernel lets go of
 * (RELEASE) only after all that uses it.
 */
#include "doors/fuse_table.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FILES_MAX (1u << 20)
#define OURS      (1ull << 63)

struct fuse_files {
    pthread_mutex_t lock;
    pthread_cond_t woken;
    struct ledger *l;
    struct fuse_file *file;   /* [FILES_MAX] */
    uint32_t free, free_more; /* the first free entry in the ledger, and beyond; 0: none */
    uint32_t used_more;       /* beyond: ever used */
    fuse_wake_file *wake;
    void *arg;
};

static bool inside(uint32_t i)
{
    return i < LEDGER_FILES;
}

static void put_free(struct fuse_files *tab, uint32_t i)
{
    uint32_t *list = inside(i) ? &tab->free : &tab->free_more;
    tab->file[i].next_free = *list;
    *list = i;
}

struct fuse_files *fuse_files_new(struct ledger *ledger, fuse_wake_file *wake, void *arg)
{
    struct fuse_files *tab = calloc(1, sizeof(*tab));
    if (!tab)
        return NULL;
    tab->file = mmap(NULL, FILES_MAX * sizeof(*tab->file), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (tab->file == MAP_FAILED) {
        free(tab);
        return NULL;
    }
    pthread_mutex_init(&tab->lock, NULL);
    pthread_cond_init(&tab->woken, NULL);
    tab->l = ledger;
    tab->wake = wake;
    tab->arg = arg;
    tab->used_more = LEDGER_FILES;
    uint32_t used = atomic_load(&ledger->head->files_used);
    for (uint32_t i = used < LEDGER_FILES ? used : LEDGER_FILES - 1; i > 0; i--) {
        const struct ledger_file *e = &ledger->file[i];
        uint32_t state = atomic_load(&e->state);
        tab->file[i] = (struct fuse_file){.used = state,
                                          .how = state & LEDGER_DIR      ? FUSE_NO_BYTES
                                                 : state & LEDGER_PASSED ? FUSE_PASSED_BY_NAME
                                                                         : FUSE_PLAIN,
                                          .locked = true, /* perhaps */
                                          .flags = e->flags,
                                          .nodeid = e->nodeid};
        if (!state)
            put_free(tab, i);
    }
    return tab;
}

void fuse_files_free(struct fuse_files *tab)
{
    munmap(tab->file, FILES_MAX * sizeof(*tab->file));
    pthread_cond_destroy(&tab->woken);
    pthread_mutex_destroy(&tab->lock);
    free(tab);
}

static uint64_t handle(const struct fuse_files *tab, uint32_t i)
{
    if (inside(i))
        return (uint64_t)(tab->l->file[i].generation & 0x7fffffff) << 32 | i;
    uint64_t epoch = atomic_load(&tab->l->head->epoch) & 0x7fff;
    return OURS | epoch << 48 | (uint64_t)(tab->file[i].generation & 0xffff) << 32 | i;
}

/* The next entry that is free; 0: none. */
static uint32_t take(struct fuse_files *tab)
{
    uint32_t i, used = atomic_load(&tab->l->head->files_used);
    if ((i = tab->free)) {
        tab->free = tab->file[i].next_free;
    } else if (used + 1 < LEDGER_FILES) {
        i = used + 1;
        atomic_store(&tab->l->head->files_used, i);
    } else if ((i = tab->free_more)) {
        tab->free_more = tab->file[i].next_free;
    } else if (tab->used_more < FILES_MAX) {
        i = tab->used_more++;
    }
    return i;
}

uint64_t fuse_files_add(struct fuse_files *tab, struct pl_file *file, const struct ledger_file *as,
                        enum fuse_how how)
{
    uint64_t fh = 0;
    pthread_mutex_lock(&tab->lock);
    uint32_t i = take(tab);
    if (i) {
        struct fuse_file *f = &tab->file[i];
        *f = (struct fuse_file){.file = file,
                                .generation = f->generation + 1,
                                .used = true,
                                .how = how,
                                .flags = file->flags,
                                .uid = as->uid,
                                .gid = as->gid,
                                .nodeid = as->nodeid};
        if (inside(i)) {
            struct ledger_file *e = &tab->l->file[i];
            e->nodeid = as->nodeid;
            e->opener = as->opener;
            atomic_store(&e->kh, 0);
            e->generation++;
            e->flags = file->flags;
            atomic_store(&e->kept, file->kept);
            e->backing = as->backing;
            e->uid = as->uid;
            e->gid = as->gid;
            atomic_store(&e->state, LEDGER_OPEN | atomic_load(&as->state));
        }
        fh = handle(tab, i);
    }
    pthread_mutex_unlock(&tab->lock);
    return fh;
}

/* The index of the handle, 0: there is none. */
static uint32_t find(struct fuse_files *tab, uint64_t fh)
{
    uint32_t i = (uint32_t)fh;
    return i && i < FILES_MAX && tab->file[i].used && handle(tab, i) == fh ? i : 0;
}

static uint32_t find_open(struct fuse_files *tab, uint64_t fh)
{
    uint32_t i = find(tab, fh);
    return i && !tab->file[i].closing ? i : 0;
}

/* Wakes the entry. Called with the lock, which is let go of meanwhile. */
static void wake(struct fuse_files *tab, uint64_t fh, uint32_t i)
{
    struct fuse_file *f = &tab->file[i];
    struct ledger_file *e = &tab->l->file[i], copy = *e;
    f->waking = true;
    pthread_mutex_unlock(&tab->lock);
    struct pl_file *file = tab->wake(tab->arg, fh, &copy);
    pthread_mutex_lock(&tab->lock);
    f->file = file;
    f->waking = false;
    /* What was kept is the source's, which has closed it if it could not use it. */
    atomic_store(&e->kept, file ? file->kept : 0);
    pthread_cond_broadcast(&tab->woken);
}

struct fuse_file *fuse_files_get(struct fuse_files *tab, uint64_t fh)
{
    pthread_mutex_lock(&tab->lock);
    uint32_t i;
    while ((i = find_open(tab, fh)) && !tab->file[i].file) {
        if (tab->file[i].waking) {
            pthread_cond_wait(&tab->woken, &tab->lock);
            continue;
        }
        wake(tab, fh, i);
        if (!tab->file[i].file) {
            i = 0;
            break;
        }
    }
    pthread_mutex_unlock(&tab->lock);
    return i ? &tab->file[i] : NULL;
}

void fuse_files_unkept(struct fuse_files *tab, uint64_t fh)
{
    pthread_mutex_lock(&tab->lock);
    uint32_t i = find(tab, fh);
    if (i && inside(i))
        atomic_store(&tab->l->file[i].kept, 0);
    pthread_mutex_unlock(&tab->lock);
}

bool fuse_files_del(struct fuse_files *tab, uint64_t fh, struct fuse_file *ret)
{
    pthread_mutex_lock(&tab->lock);
    uint32_t i = find_open(tab, fh);
    bool sleeps = i && inside(i) && !tab->file[i].file && atomic_load(&tab->l->file[i].kept) > 0;
    pthread_mutex_unlock(&tab->lock);
    if (sleeps)
        fuse_files_get(tab, fh);
    pthread_mutex_lock(&tab->lock);
    i = find_open(tab, fh);
    if (i) {
        *ret = tab->file[i];
        tab->file[i].closing = true;
        tab->file[i].file = NULL;
        tab->file[i].poll = NULL;
        /* Before it is closed: else a successor might find something else under that number. */
        if (inside(i))
            atomic_store(&tab->l->file[i].kept, 0);
    }
    pthread_mutex_unlock(&tab->lock);
    return i;
}

void fuse_files_drop(struct fuse_files *tab, uint64_t fh)
{
    pthread_mutex_lock(&tab->lock);
    uint32_t i = find(tab, fh);
    if (i) {
        tab->file[i] = (struct fuse_file){.generation = tab->file[i].generation};
        if (inside(i))
            atomic_store(&tab->l->file[i].state, 0);
        put_free(tab, i);
    }
    pthread_mutex_unlock(&tab->lock);
}

bool fuse_files_pop(struct fuse_files *tab, uint32_t *cursor, struct fuse_file *ret)
{
    while (++*cursor < tab->used_more) {
        struct fuse_file *f = &tab->file[*cursor];
        if (!f->used)
            continue;
        *ret = *f;
        *f = (struct fuse_file){.generation = f->generation};
        if (inside(*cursor)) {
            struct ledger_file *e = &tab->l->file[*cursor];
            int kept = atomic_exchange(&e->kept, 0);
            if (!ret->file && kept > 0)
                close(kept);
            atomic_store(&e->state, 0);
        }
        if (ret->file)
            return true;
    }
    return false;
}

uint64_t fuse_files_next(struct fuse_files *tab, uint32_t *cursor, struct ledger_file *ret)
{
    uint64_t fh = 0;
    uint32_t used = atomic_load(&tab->l->head->files_used);
    pthread_mutex_lock(&tab->lock);
    while (!fh && ++*cursor < LEDGER_FILES && *cursor <= used) {
        *ret = tab->l->file[*cursor];
        if (tab->file[*cursor].used)
            fh = handle(tab, *cursor);
    }
    pthread_mutex_unlock(&tab->lock);
    return fh;
}

void fuse_files_polled(struct fuse_files *tab, uint64_t fh, uint64_t kh)
{
    pthread_mutex_lock(&tab->lock);
    uint32_t i = find(tab, fh);
    if (i && inside(i))
        atomic_store(&tab->l->file[i].kh, kh);
    pthread_mutex_unlock(&tab->lock);
}
