/* SPDX-License-Identifier: MIT */
/*
 * Reading directories through the 9P source. One answer holds far more entries than who reads takes
 * at a time, so the last is kept with the open directory, and read on from where it was left.
 * `mutex` guards the rest.
 */
#include "base/cursor.h"
#include "sources/p9_tree.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ASK = 64 << 10 };

struct p9s_dir {
    pthread_mutex_t mutex;
    uint64_t next;  /* the position of the entry at `at` */
    size_t at, len; /* what is unread in buf */
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
        f->dir->next = 0;
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

/* The next entry, not yet taken: the bytes it has, or -EIO for one that cannot be. */
static int parse(struct p9s_dir *d, char name[LIMIT_NAME + 1], struct pl_dirent *ent)
{
    struct cursor c = cursor_at(d->buf + d->at, d->len - d->at);
    uint8_t qtype = (uint8_t)cursor_get(&c, 1);
    cursor_get(&c, 4);
    ent->ino = cursor_get(&c, 8);
    ent->next = cursor_get(&c, 8);
    ent->type = (uint32_t)cursor_get(&c, 1);
    size_t len = cursor_get(&c, 2);
    const uint8_t *s = cursor_take(&c, len);
    if (c.bad || len == 0 || len > LIMIT_NAME || memchr(s, '/', len) || memchr(s, 0, len))
        return -EIO;
    if (ent->next == 0 || ent->next > PL_OFF_MAX || ent->next == d->next)
        return -EIO; /* would be read for ever */
    memcpy(name, s, len);
    name[len] = 0;
    ent->name = name;
    if (ent->type > DT_WHT)
        ent->type = DT_UNKNOWN;
    if (ent->type == DT_UNKNOWN && (qtype & P9_QTDIR))
        ent->type = DT_DIR;
    return (int)(d->len - d->at - cursor_left(&c));
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
    if (off == 0 || off != d->next) /* rewound, or somewhere else */
        d->at = d->len = 0, d->next = off;
    for (;;) {
        char name[LIMIT_NAME + 1];
        struct pl_dirent ent;
        if (d->at == d->len) {
            r = read_some(t, call, f, d, d->next);
            if (r <= 0)
                break;
        }
        r = parse(d, name, &ent);
        if (r < 0 || fill(arg, &ent))
            break;
        d->at += (size_t)r;
        d->next = ent.next;
    }
    pthread_mutex_unlock(&d->mutex);
    return r < 0 ? r : 0;
}
