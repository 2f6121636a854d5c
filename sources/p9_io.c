/* SPDX-License-Identifier: MIT */
/* Bytes through the 9P source: what is larger than a message goes as several, a few under way. */
#include "sources/p9_tree.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { WINDOW = 4, CHUNK = 512 << 10 };

/* A long read or write: requests of one chunk each, finished in the order of their start. When the
 * connection is lost amid them, all are waited for, and what was not answered is asked for again at
 * the next, one after the other. */
struct run {
    struct p9s_tree *t;
    struct pl_call *call;
    uint32_t fid;
    bool write, once;
    uint8_t *buf;
    uint64_t off;
    size_t n, sent, done;
    unsigned window, first, under_way;
    struct part {
        struct p9_msg m;
        struct p9s_sent s;
        struct p9_answer a;
        bool waited;
    } part[WINDOW];
    bool end; /* a short answer or an error: the rest does not count */
    int error;
};

static void run_start(struct run *x)
{
    struct part *p = &x->part[(x->first + x->under_way) % WINDOW];
    size_t chunk = x->t->chunk < CHUNK ? x->t->chunk : CHUNK;
    size_t n = x->n - x->sent < chunk ? x->n - x->sent : chunk;
    p->m = (struct p9_msg){.type = x->write ? P9_Twrite : P9_Tread,
                           .fid = x->fid,
                           .offset = x->off + x->sent,
                           .count = (uint32_t)n,
                           .data = x->write ? x->buf + x->sent : NULL};
    p->s = (struct p9s_sent){.m = &p->m,
                             .into = x->write ? NULL : x->buf + x->sent,
                             .size = x->write ? 0 : n,
                             .once = x->once};
    p->waited = false;
    p9s_send(x->t, x->call, &p->s);
    x->sent += n;
    x->under_way++;
}

static void run_wait(struct run *x, unsigned i)
{
    struct part *p = &x->part[(x->first + i) % WINDOW];
    if (!p->waited)
        p9s_wait(x->t, x->call, &p->s, &p->a);
    p->waited = true;
}

static void run_finish(struct run *x)
{
    struct part *p = &x->part[x->first];
    run_wait(x, 0);
    int r = p->s.r;
    if (r == P9S_LOST) {
        for (unsigned i = 1; i < x->under_way; i++)
            run_wait(x, i);
        r = x->end ? -ECONNABORTED : p9s_send_again(x->t, x->call, &p->s, &p->a);
    } else {
        r = p9s_why(x->call, r);
    }
    x->first = (x->first + 1) % WINDOW;
    x->under_way--;
    if (!x->end) {
        if (r == 0 && p->a.r.count > p->m.count)
            r = -EIO;
        if (r < 0)
            x->error = r;
        else
            x->done += p->a.r.count;
        x->end = r < 0 || p->a.r.count < p->m.count;
    }
    p9_answer_free(&p->a);
}

static void run(struct run *x)
{
    do {
        while (!x->end && x->sent < x->n && x->under_way < x->window) {
            run_start(x);
            if (!x->part[(x->first + x->under_way - 1) % WINDOW].s.pending)
                break; /* not before it is known why */
        }
        if (x->under_way)
            run_finish(x);
        /* a peer that is not one of us may serve a stream without a word: full answers first */
        if (!x->end && x->window == 1 && !x->write)
            x->window = WINDOW;
    } while (x->under_way || (!x->end && x->sent < x->n));
}

ssize_t p9s_read(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, void *buf,
                 size_t n, uint64_t off)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_file *f = (struct p9s_file *)file;
    ssize_t r = n ? p9s_settle(t, call, (struct p9s_node *)file->node) : 0;
    if (r < 0 || n == 0)
        return r;
    r = p9s_lent_read(t, call, f, buf, n, off);
    if (r != P9S_NOT_LENT)
        return r;
    r = p9s_ahead_read(t, call, f, buf, n, off);
    if (r < 0 || (size_t)r == n)
        return r;
    struct run x = {.t = t,
                    .call = call,
                    .fid = f->fid,
                    .buf = (uint8_t *)buf + r,
                    .off = off + (size_t)r,
                    .n = file->stream && n > t->chunk ? t->chunk : n - (size_t)r,
                    .once = file->stream,
                    .window = t->ext ? WINDOW : 1};
    run(&x);
    return x.error ? x.error : r + (ssize_t)x.done; /* fewer would mean the end of the file */
}

/* The older dialects have no appending: the offset is found, and nobody here appends meanwhile. A
 * server of 9P2000.u that was told at open may write at the end all the same, and twice if it is
 * asked twice. */
static ssize_t old_write(struct pl_tree *tree, struct pl_call *call, struct pl_file *file,
                         const void *buf, size_t n, uint64_t off)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_file *f = (struct p9s_file *)file;
    bool append = file->flags & O_APPEND;
    struct run x = {.t = t,
                    .call = call,
                    .fid = f->fid,
                    .write = true,
                    .buf = (uint8_t *)buf,
                    .off = off,
                    .n = n,
                    .once = append && t->dialect == P9_U,
                    .window = file->stream || append ? 1 : WINDOW};
    atomic_store(&f->dirty, true);
    int r = append ? p9s_append_begin(t, call, file, &x.off) : 0;
    if (r < 0)
        return r;
    run(&x);
    if (append)
        p9s_append_end(t);
    if (x.done && (file->flags & O_DSYNC)) /* which O_SYNC has in it */
        r = p9s_old_fsync(tree, call, file, false);
    return r < 0 ? r : x.done ? (ssize_t)x.done : x.error;
}

ssize_t p9s_write(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, const void *buf,
                  size_t n, uint64_t off)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_file *f = (struct p9s_file *)file;
    bool ordered = file->stream || (file->flags & O_APPEND);
    if (n == 0)
        return 0;
    if (t->dialect != P9_L)
        return old_write(tree, call, file, buf, n, off);
    atomic_store(&f->dirty, true);
    p9s_touch(t, file->node);
    ssize_t r = p9s_lent_write(t, call, f, buf, n, off);
    if (r != P9S_NOT_LENT) {
        p9s_touch(t, file->node);
        return r;
    }
    r = p9s_behind_write(t, call, f, buf, n, off);
    if (r < 0 || (size_t)r == n)
        return r;
    struct run x = {.t = t,
                    .call = call,
                    .fid = f->fid,
                    .write = true,
                    .once = ordered,
                    .buf = (uint8_t *)buf + r,
                    .off = off + (size_t)r,
                    .n = n - (size_t)r,
                    .window = ordered ? 1 : WINDOW};
    run(&x);
    p9s_touch(t, file->node);
    r += (ssize_t)x.done;
    return r ? r : x.error;
}

int p9s_fsync(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, bool data_only)
{
    struct p9s_tree *t = p9s_of(tree);
    struct p9s_file *f = (struct p9s_file *)file;
    struct p9_msg m = {.type = P9_Tfsync, .fid = f->fid, .datasync = data_only};
    /* Then the flush to come has nothing to add, but of a document, which is taken at its close. */
    bool dirty = !p9s_is_document(t, file) && atomic_exchange(&f->dirty, false);
    int r = p9s_behind_then(t, call, f, &m);
    if (r < 0 && dirty)
        atomic_store(&f->dirty, true);
    return r;
}

/* ---- our own requests ---- */

int64_t p9s_seek(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, uint64_t off,
                 int whence)
{
    struct p9_msg m = {.type = P9_Tseek,
                       .fid = ((struct p9s_file *)file)->fid,
                       .offset = off,
                       .whence = (uint32_t)whence};
    struct p9_answer a;
    int64_t r = p9s_settle(p9s_of(tree), call, (struct p9s_node *)file->node);
    if (r < 0)
        return r;
    r = p9s_ask(p9s_of(tree), call, &m, &a);
    if (r == 0)
        r = a.r.offset > PL_OFF_MAX || a.r.offset < off ? -EIO : (int64_t)a.r.offset;
    p9_answer_free(&a);
    return r;
}

int p9s_fallocate(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, int mode,
                  uint64_t off, uint64_t len)
{
    struct p9s_file *f = (struct p9s_file *)file;
    struct p9_msg m = {
        .type = P9_Tfallocate, .fid = f->fid, .mode = (uint32_t)mode, .offset = off, .length = len};
    int r = p9s_settle(p9s_of(tree), call, (struct p9s_node *)file->node);
    atomic_store(&f->dirty, true);
    p9s_touch(p9s_of(tree), file->node);
    if (r == 0)
        r = p9s_tell(p9s_of(tree), call, &m);
    p9s_touch(p9s_of(tree), file->node);
    return r;
}

ssize_t p9s_copy(struct pl_tree *tree, struct pl_call *call, struct pl_file *in, uint64_t off_in,
                 struct pl_file *out, uint64_t off_out, size_t n)
{
    struct p9s_file *to = (struct p9s_file *)out;
    struct p9_msg m = {.type = P9_Tcopy,
                       .fid = ((struct p9s_file *)in)->fid,
                       .offset = off_in,
                       .fid2 = to->fid,
                       .offset2 = off_out,
                       .length = n};
    struct p9_answer a = {0};
    ssize_t r = p9s_settle(p9s_of(tree), call, (struct p9s_node *)in->node);
    if (r == 0)
        r = p9s_settle(p9s_of(tree), call, (struct p9s_node *)out->node);
    atomic_store(&to->dirty, true);
    p9s_touch(p9s_of(tree), out->node);
    if (r == 0)
        r = p9s_ask(p9s_of(tree), call, &m, &a);
    p9s_touch(p9s_of(tree), out->node);
    if (r == 0)
        r = a.r.length > n ? -EIO : (ssize_t)a.r.length;
    p9_answer_free(&a);
    return r;
}

int p9s_ioctl(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, unsigned cmd,
              void *buf, size_t in_size, size_t out_size)
{
    if (in_size > LIMIT_IOCTL || out_size > LIMIT_IOCTL)
        return -EINVAL;
    struct p9_msg m = {.type = P9_Tioctl,
                       .fid = ((struct p9s_file *)file)->fid,
                       .cmd = cmd,
                       .out_size = (uint32_t)out_size,
                       .count = (uint32_t)in_size,
                       .data = buf};
    struct p9_answer a = {0};
    int r = p9s_settle(p9s_of(tree), call, (struct p9s_node *)file->node);
    p9s_touch(p9s_of(tree), file->node);
    if (r == 0)
        r = p9s_ask(p9s_of(tree), call, &m, &a);
    p9s_touch(p9s_of(tree), file->node);
    if (r == 0 && (a.r.count > out_size || (int32_t)a.r.result < 0))
        r = -EIO;
    if (r == 0) {
        if (a.r.count)
            memcpy(buf, a.r.data, a.r.count);
        r = (int32_t)a.r.result;
    }
    p9_answer_free(&a);
    return r;
}
