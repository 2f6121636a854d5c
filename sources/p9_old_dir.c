/* SPDX-License-Identifier: MIT */
/*
 * Reading directories through the 9P source where they are files full of stats, which can only be
 * read on from where the last read ended. What has been read is kept with the open directory, so
 * that a position in it stays what it was; a position is a place in these bytes. Going back to the
 * beginning reads it anew. At another connection the peer, too, begins at the beginning: then what
 * has been kept is known by name, and passed over. `mutex` guards the rest.
 */
#include "base/cursor.h"
#include "sources/p9_again.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

enum { ASK = 64 << 10, HEAD = 8 + 1 + 1, DOTS = 2 /* positions before the first byte */ };

struct known {
    UT_hash_handle hh;
    char name[];
};

struct p9s_old_dir {
    pthread_mutex_t mutex;
    uint64_t off;        /* at the peer */
    uint32_t gen;        /* ... over this connection */
    struct known *known; /* what was kept before it: not to be kept again */
    bool end;
    uint64_t last;    /* a position that was told to be good */
    size_t len, room; /* entries: number[8] type[1] length[1] and the name with NUL */
    uint8_t *buf;
};

static void forget_known(struct p9s_old_dir *d)
{
    struct known *k, *next;
    HASH_ITER (hh, d->known, k, next) {
        HASH_DEL(d->known, k);
        free(k);
    }
}

void p9s_old_dir_free(struct p9s_old_dir *d)
{
    if (!d)
        return;
    forget_known(d);
    pthread_mutex_destroy(&d->mutex);
    free(d->buf);
    free(d);
}

static struct p9s_old_dir *dir_of(struct p9s_tree *t, struct p9s_file *f)
{
    pthread_mutex_lock(&t->mutex);
    if (!f->old_dir && (f->old_dir = calloc(1, sizeof(*f->old_dir))))
        pthread_mutex_init(&f->old_dir->mutex, NULL);
    struct p9s_old_dir *d = f->old_dir;
    pthread_mutex_unlock(&t->mutex);
    return d;
}

static uint8_t type_of(const struct p9s_tree *t, const struct p9_stat *st)
{
    if (st->mode & P9_DMDIR)
        return DT_DIR;
    if (t->dialect == P9_BASE)
        return DT_REG;
    return st->mode & P9_DMSYMLINK     ? DT_LNK
           : st->mode & P9_DMNAMEDPIPE ? DT_FIFO
           : st->mode & P9_DMSOCKET    ? DT_SOCK
           : st->mode & P9_DMDEVICE    ? DT_UNKNOWN
                                       : DT_REG;
}

static int keep(struct p9s_tree *t, struct p9s_old_dir *d, const struct p9_stat *st)
{
    size_t n = HEAD + (size_t)st->name.len + 1;
    struct known *known;
    if (st->name.len == 0 || memchr(st->name.s, '/', st->name.len))
        return -EIO;
    if (!strcmp(st->name.s, ".") || !strcmp(st->name.s, ".."))
        return 0; /* these we have ourselves */
    HASH_FIND(hh, d->known, st->name.s, st->name.len, known);
    if (known)
        return 0;
    if (d->len + n > LIMIT_DIRECTORY)
        return -EOVERFLOW;
    if (d->len + n > d->room) {
        size_t room = d->room ? 2 * d->room : ASK;
        uint8_t *more = realloc(d->buf, room);
        if (!more)
            return -ENOMEM;
        d->buf = more;
        d->room = room;
    }
    struct cursor c = cursor_at(d->buf + d->len, n);
    cursor_put(&c, 8, st->qid.path);
    cursor_put(&c, 1, type_of(t, st));
    cursor_put(&c, 1, st->name.len);
    cursor_put_bytes(&c, st->name.s, (size_t)st->name.len + 1);
    d->len += n;
    return 0;
}

/* From the beginning, but for what is kept. */
static int anew(struct p9s_old_dir *d, uint32_t gen)
{
    forget_known(d);
    for (size_t at = 0; at < d->len;) {
        size_t n = d->buf[at + 9];
        struct known *k = malloc(sizeof(*k) + n);
        if (!k)
            return -ENOMEM;
        memcpy(k->name, d->buf + at + HEAD, n);
        HASH_ADD_KEYPTR(hh, d->known, k->name, n, k);
        at += HEAD + n + 1;
    }
    d->off = 0;
    d->gen = gen;
    return 0;
}

/* Reads on where the last read over this connection has ended. */
static int read_on(struct p9s_tree *t, struct pl_call *call, struct p9s_old_dir *d,
                   struct p9_msg *m, struct p9_answer *a)
{
    int r;
    do {
        struct p9s_sent s = {.m = m};
        a->buf = NULL;
        r = p9s_pin(t, call);
        if (r < 0)
            return r;
        uint32_t gen = p9s_generation(t);
        if (gen != d->gen)
            r = anew(d, gen);
        m->offset = d->off;
        if (r == 0) {
            p9s_send(t, call, &s);
            r = p9s_wait(t, call, &s, a);
        }
        p9s_unpin(t);
    } while (r == P9S_LOST);
    return r;
}

/* Asks for more: 1, 0 at the end. */
static int read_more(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f,
                     struct p9s_old_dir *d)
{
    uint32_t n = t->chunk < ASK ? t->chunk : ASK;
    struct p9_msg m = {.type = P9_Tread, .fid = f->fid, .count = n};
    struct p9_answer a;
    if (d->end)
        return 0;
    int r = read_on(t, call, d, &m, &a);
    if (r == 0 && a.r.count > n)
        r = -EIO;
    uint32_t got = r == 0 ? a.r.count : 0;
    for (uint32_t at = 0; r == 0 && at < got;) {
        struct p9_stat st;
        int used = p9_stat_get(t->dialect, (char *)a.r.data + at, got - at, &st);
        at += used > 0 ? (uint32_t)used : 0;
        r = used > 0 ? keep(t, d, &st) : -EIO;
    }
    p9_answer_free(&a);
    if (r < 0)
        return r;
    d->off += got;
    d->end = got == 0;
    return got != 0;
}

/* Whether a position is the beginning of an entry, or the end: it may be anybody's guess. */
static bool good(const struct p9s_old_dir *d, uint64_t pos)
{
    if (pos <= DOTS || pos == d->last)
        return true;
    size_t at = 0;
    while (at < d->len && at < pos - DOTS)
        at += HEAD + (size_t)d->buf[at + 9] + 1;
    return at == pos - DOTS;
}

static int fill_dots(struct p9s_old_dir *d, const struct pl_file *file, uint64_t *pos,
                     pl_fill_fn *fill, void *arg)
{
    static const char *const names[DOTS] = {".", ".."};
    for (; *pos < DOTS; ++*pos) {
        struct pl_dirent ent = {.name = names[*pos], .next = *pos + 1, .type = DT_DIR};
        if (*pos == 0)
            ent.ino = ((struct p9s_node *)file->node)->h.id.lo;
        if (fill(arg, &ent))
            return 1;
    }
    return 0;
}

static int fill_kept(struct p9s_old_dir *d, uint64_t *pos, pl_fill_fn *fill, void *arg)
{
    while (*pos - DOTS < d->len) {
        uint8_t *e = d->buf + (*pos - DOTS);
        struct cursor c = cursor_at(e, HEAD);
        struct pl_dirent ent = {.ino = cursor_get(&c, 8),
                                .type = (uint32_t)cursor_get(&c, 1),
                                .name = (const char *)e + HEAD,
                                .next = *pos + HEAD + (uint64_t)e[9] + 1};
        if (fill(arg, &ent))
            return 1;
        *pos = ent.next;
    }
    return 0;
}

int p9s_old_readdir(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, uint64_t off,
                    pl_fill_fn *fill, void *arg)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_file *f = (struct p9s_file *)file;
    struct p9s_old_dir *d = dir_of(t, f);
    uint64_t pos = off;
    if (!d)
        return -ENOMEM;
    pthread_mutex_lock(&d->mutex);
    if (off == 0) {
        forget_known(d);
        d->off = d->len = 0;
        d->end = false;
    }
    int r = good(d, off) ? 0 : -EINVAL;
    if (r == 0)
        r = fill_dots(d, file, &pos, fill, arg);
    while (r == 0 && !fill_kept(d, &pos, fill, arg)) {
        r = read_more(t, call, f, d);
        if (r <= 0)
            break;
        r = 0;
    }
    d->last = pos;
    pthread_mutex_unlock(&d->mutex);
    return r < 0 ? r : 0;
}
