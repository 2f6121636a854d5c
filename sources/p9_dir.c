/* SPDX-License-Identifier: MIT */
/*
 * Reading directories through the 9P source. One answer holds far more entries than who reads takes
 * at a time, so the last is kept with the open directory, and read on from where it was left.
 * `mutex` guards the rest.
 *
 * Positions are the server's, and another server may have others. So at a new connection it is seen
 * first whether the entry that was read last is where it was. If it is not, the directory is read
 * from its beginning to that entry. Only where that is gone altogether the old position is used.
 */
#include "base/cursor.h"
#include "sources/p9_again.h"
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ASK = 64 << 10 };

struct p9s_dir {
    pthread_mutex_t mutex;
    uint64_t asked;            /* the position that the reader was told last; usually: */
    uint64_t next;             /* the position of the entry at `at` */
    uint64_t prev;             /* ... and of the one before, which is `last` */
    uint32_t gen;              /* of the connection that they are from */
    char last[LIMIT_NAME + 1]; /* "": none */
    size_t at, len;            /* what is unread in buf */
    uint8_t buf[ASK];
};

void p9s_dir_free(struct p9s_dir *dir)
{
    if (dir)
        pthread_mutex_destroy(&dir->mutex);
    free(dir);
}

static struct p9s_dir *dir_of(struct p9s_tree *t, struct p9s_file *f)
{
    pthread_mutex_lock(&t->mutex);
    if (!f->dir && (f->dir = malloc(sizeof(*f->dir)))) {
        pthread_mutex_init(&f->dir->mutex, NULL);
        f->dir->next = f->dir->asked = 0;
        f->dir->last[0] = 0;
        f->dir->at = f->dir->len = 0;
    }
    struct p9s_dir *d = f->dir;
    pthread_mutex_unlock(&t->mutex);
    return d;
}

/* Asks for entries from `off`: their bytes, 0 at the end. */
static int read_some(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f,
                     struct p9s_dir *d, uint64_t off)
{
    uint32_t n = t->chunk < ASK ? t->chunk : ASK;
    struct p9_msg m = {.type = P9_Treaddir, .fid = f->fid, .offset = off, .count = n};
    struct p9_answer a;
    d->at = d->len = 0;
    int r = p9s_ask(t, call, &m, &a);
    if (r == 0 && a.r.count > n)
        r = -EIO;
    if (r == 0 && a.r.count) {
        memcpy(d->buf, a.r.data, a.r.count);
        d->len = a.r.count;
    }
    p9_answer_free(&a);
    d->next = off;
    return r < 0 ? r : (int)d->len;
}

/* An entry on the wire: qid, offset, type, and a name. */
#define DIRENT_MAX (13 + 8 + 1 + 2 + LIMIT_NAME)

/* The next entry, not yet taken: the bytes it has, or -EIO for one that cannot be. It may be asked
 * for again, so a copy of it is decoded, which holds the name. */
static int parse(struct p9s_dir *d, char copy[DIRENT_MAX], struct pl_dirent *ent)
{
    size_t n = d->len - d->at;
    struct p9_dirent e;
    n = n < DIRENT_MAX ? n : DIRENT_MAX;
    memcpy(copy, d->buf + d->at, n);
    int r = p9_dirent_get(copy, n, &e);
    if (r <= 0 || e.name.len == 0 || memchr(e.name.s, '/', e.name.len))
        return -EIO;
    if (e.offset == 0 || e.offset > PL_OFF_MAX || e.offset == d->next)
        return -EIO; /* would be read for ever */
    *ent =
        (struct pl_dirent){.name = e.name.s, .ino = e.qid.path, .next = e.offset, .type = e.type};
    if (ent->type > DT_WHT)
        ent->type = DT_UNKNOWN;
    if (ent->type == DT_UNKNOWN && (e.qid.type & P9_QTDIR))
        ent->type = DT_DIR;
    return r;
}

/* The entry before `d->at`, from now on. */
static void took(struct p9s_dir *d, int bytes, const struct pl_dirent *ent)
{
    snprintf(d->last, sizeof(d->last), "%s", ent->name);
    d->prev = d->next;
    d->next = ent->next;
    d->at += (size_t)bytes;
}

/* Reads on from `off` to behind the entry that was read last: 1 when it was found, at most `most`
 * entries on; 0; or an error. */
static int find_last(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f,
                     struct p9s_dir *d, uint64_t off, unsigned most)
{
    char last[LIMIT_NAME + 1], copy[DIRENT_MAX];
    uint64_t next = d->next, prev = d->prev;
    struct pl_dirent ent;
    int r = 0;
    strcpy(last, d->last);
    d->next = off;
    for (unsigned n = 0; n < most; n++) {
        if ((n == 0 || d->at == d->len) && (r = read_some(t, call, f, d, d->next)) <= 0)
            break;
        if ((r = parse(d, copy, &ent)) < 0)
            break;
        took(d, r, &ent);
        if (!strcmp(ent.name, last)) {
            d->next = ent.next;
            return 1;
        }
    }
    strcpy(d->last, last);
    d->next = next;
    d->prev = prev;
    d->at = d->len = 0;
    return r < 0 && r != -EINVAL ? r : 0; /* "no such position" */
}

/* At a new connection: the position from which to read on. */
static int find_place(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f,
                      struct p9s_dir *d)
{
    int r = 0;
    for (uint32_t gen; r >= 0 && (gen = p9s_generation(t)) != d->gen; d->gen = gen) {
        if (d->next == 0 || !d->last[0])
            continue;
        r = find_last(t, call, f, d, d->prev, 1);
        if (r == 0)
            r = find_last(t, call, f, d, 0, UINT_MAX);
    }
    return r < 0 ? r : 0;
}

int p9s_readdir(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, uint64_t off,
                pl_fill_fn *fill, void *arg)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_file *f = (struct p9s_file *)file;
    struct p9s_dir *d = dir_of(t, f);
    if (!d)
        return -ENOMEM;
    pthread_mutex_lock(&d->mutex);
    int r = 0;
    if (off == 0 || off != d->asked) { /* rewound, or somewhere else */
        d->at = d->len = 0, d->next = d->asked = off;
        d->last[0] = 0;
    }
    for (;;) {
        char copy[DIRENT_MAX];
        struct pl_dirent ent;
        if (d->at == d->len) {
            r = find_place(t, call, f, d);
            if (r == 0 && d->at == d->len)
                r = read_some(t, call, f, d, d->next);
            if ((r >= 0 || r == -EINVAL) && p9s_generation(t) != d->gen) { /* it may be another's answer */
                d->at = d->len = 0;
                continue;
            }
            if (r < 0 || d->at == d->len)
                break;
        }
        r = parse(d, copy, &ent);
        if (r < 0 || fill(arg, &ent))
            break;
        took(d, r, &ent);
        d->asked = d->next;
    }
    pthread_mutex_unlock(&d->mutex);
    return r < 0 ? r : 0;
}
