/* SPDX-License-Identifier: MIT */
/*
 * Content travels in blocks, of which the checksums of what the replica has are noted: of a changed
 * file only blocks that differ are sent, and of a write that was recorded only its bytes.
 *
 * What is overwritten in a file that was there before is what we left there: that is looked at when
 * the file has been opened (size, times), and then either nobody else can open it (a lease), or
 * each block is read before it is written. Before a block is written it is noted as being anything.
 */
#include "sync/replica_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define BLOCK    (64u << 10)
#define BLOCK_HI (1u << 20)
#define LARGE    (1ull << 30) /* from here on blocks are large */

#define RACY_NS 20000000ll /* clocks of file systems tick so coarsely */

struct content {
    struct replica *r;
    struct pair *p;
    struct pl_file *in, *out;
    size_t block;
    uint64_t size, old_size; /* of the source; of the replica, by now */
    size_t noted;            /* blocks of which something is noted, */
    uint64_t was;            /* of a file of this size */
    bool trusted;            /* what is noted of blocks is so, as nobody has changed the file */
    bool any;                /* nothing can be said of what is in the replica's blocks */
    bool held;               /* nobody else has it open in the replica, or can open it */
    uint64_t sought;         /* from here on there is data in the source from `data` */
    uint64_t data, hole;     /* to `hole` only */
    char *buf, *other;       /* a block of the source, of the replica */
    size_t lo, hi;           /* blocks whose checksum is another now */
    uint64_t sent;
};

static size_t block_of(uint64_t size)
{
    return size < LARGE ? BLOCK : BLOCK_HI;
}

static size_t blocks_in(uint64_t size, size_t block)
{
    return (size_t)((size + block - 1) / block);
}

static bool zeros(const char *buf, size_t n)
{
    return n == 0 || (buf[0] == 0 && !memcmp(buf, buf + 1, n - 1));
}

static uint64_t checksum(const char *buf, size_t n)
{
    uint64_t h = XXH3_64bits_withSeed(buf, n, n);
    return zeros(buf, n) ? 0 : h > NOTE_UNKNOWN ? h : NOTE_UNKNOWN + 1;
}

static int read_all(struct pl_tree *t, struct pl_call *c, struct pl_file *f, char *buf, size_t n,
                    uint64_t off)
{
    size_t done = 0;
    while (done < n) {
        ssize_t r = pl_read(t, c, f, buf + done, n - done, off + done);
        if (r < 0)
            return (int)r;
        if (r == 0)
            break;
        done += (size_t)r;
    }
    memset(buf + done, 0, n - done); /* it became shorter: that is told of in its turn */
    return 0;
}

static int send_bytes(struct content *c, const char *buf, size_t n, uint64_t off)
{
    c->sent += n;
    atomic_fetch_add(&c->r->count->bytes, n);
    while (n && !c->r->dry) {
        ssize_t w = pl_write(c->r->dst, c->r->call, c->out, buf, n, off);
        if (w <= 0)
            return w < 0 ? (int)w : -EIO;
        buf += w;
        off += (uint64_t)w;
        n -= (size_t)w;
    }
    c->old_size = off > c->old_size ? off : c->old_size;
    return 0;
}

/* The block of the source: its length and checksum; what is in a hole is not read. */
static int load_block(struct content *c, size_t b, size_t *ret_n, uint64_t *ret_hash)
{
    uint64_t off = (uint64_t)b * c->block;
    *ret_n = c->size - off < c->block ? (size_t)(c->size - off) : c->block;
    if (off < c->sought || off >= c->hole) {
        c->sought = off;
        int64_t data = pl_seek(c->r->src, c->r->call, c->in, off, SEEK_DATA);
        int64_t hole =
            data < 0 ? data : pl_seek(c->r->src, c->r->call, c->in, (uint64_t)data, SEEK_HOLE);
        c->data = data >= 0 ? (uint64_t)data : data == -ENXIO ? UINT64_MAX : off;
        c->hole = data == -ENXIO ? UINT64_MAX : hole > 0 ? (uint64_t)hole : UINT64_MAX;
    }
    if (c->data != UINT64_MAX && c->data < off + *ret_n) {
        int r = read_all(c->r->src, c->r->call, c->in, c->buf, *ret_n, off);
        *ret_hash = checksum(c->buf, *ret_n);
        return r;
    }
    memset(c->buf, 0, *ret_n);
    *ret_hash = 0;
    return 0;
}

static void set_hash(struct content *c, size_t b, uint64_t h)
{
    c->p->note->o->hash[b] = h;
    c->lo = b < c->lo ? b : c->lo;
    c->hi = b + 1 > c->hi ? b + 1 : c->hi;
}

/* ---- the replica's blocks ---- */

/* What the replica has of the block, with zeros behind its end. */
static int load_theirs(struct content *c, size_t b, size_t n)
{
    uint64_t off = (uint64_t)b * c->block;
    if (off >= c->old_size || !c->out) {
        memset(c->other, 0, n);
        return 0;
    }
    return read_all(c->r->dst, c->r->call, c->out, c->other, n, off);
}

/* Is what was read of the replica's block what we left there, also just now, so that it may be
 * overwritten? Where nothing is noted, zeros are nothing of anybody. */
static bool is_ours(const struct content *c, size_t b, size_t n)
{
    uint64_t off = (uint64_t)b * c->block, left = off < c->was ? c->was - off : 0;
    size_t had = left < n ? (size_t)left : n; /* bytes that the checksum is of */
    if (c->any || c->p->ours || !c->out)
        return true;
    if (b >= c->p->note->o->nhash)
        return zeros(c->other, n);
    uint64_t h = c->p->note->o->hash[b];
    return h == NOTE_UNKNOWN || checksum(c->other, n) == h ||
           (checksum(c->other, had) == h && zeros(c->other + had, n - had));
}

/* The lease lasts, unless somebody has waited for the file for too long. */
static bool still_held(struct content *c)
{
    c->held = c->held && fcntl(pl_file_fd(c->r->dst, c->out), F_GETLEASE) == F_WRLCK;
    return c->held;
}

static int write_range(struct content *c, size_t b, size_t from, size_t to, uint64_t hash)
{
    uint64_t off = (uint64_t)b * c->block;
    notes_unknown(c->r->notes, c->p->note->o, b, 1);
    int r = c->r->notes->error;
    if (r == 0)
        r = send_bytes(c, c->buf + from, to - from, off + from);
    if (r == 0)
        set_hash(c, b, hash);
    return r;
}

/* The whole block as in the source, which is in c->buf. 0, FOREIGN or an error. */
static int put_block(struct content *c, size_t b, size_t n, uint64_t h)
{
    uint64_t off = (uint64_t)b * c->block;
    bool full = off + n <= c->old_size;
    if (c->trusted && full && b < c->noted && c->p->note->o->hash[b] == h)
        return 0;
    if (off < c->old_size && !(c->trusted && still_held(c)) && c->out) {
        int r = load_theirs(c, b, n);
        if (r < 0)
            return r;
        if (!memcmp(c->buf, c->other, n)) { /* if it is short, it gets zeros by being made longer */
            set_hash(c, b, h);
            return 0;
        }
        if (!is_ours(c, b, n))
            return FOREIGN;
    }
    if (h == 0 && off >= c->old_size) { /* a hole */
        set_hash(c, b, 0);
        return 0;
    }
    return write_range(c, b, 0, n, h);
}

/* Of the block what is from `from` to `to` in it. What else is in it in the replica may be older
 * than the source's: its checksum is of both. */
static int put_part(struct content *c, size_t b, size_t n, uint64_t h, size_t from, size_t to)
{
    uint64_t off = (uint64_t)b * c->block;
    if (b < c->noted && off + n <= c->old_size && c->p->note->o->hash[b] == h)
        return 0;
    int r = load_theirs(c, b, n);
    if (r < 0)
        return r;
    if (!is_ours(c, b, n))
        return FOREIGN;
    bool has = off + to <= c->old_size && !memcmp(c->buf + from, c->other + from, to - from);
    memcpy(c->other + from, c->buf + from, to - from);
    h = checksum(c->other, n);
    if (!has)
        return write_range(c, b, from, to, h);
    set_hash(c, b, h);
    return 0;
}

/* ---- content ---- */

static int whole(struct content *c)
{
    size_t n, blocks = blocks_in(c->size, c->block);
    uint64_t h;
    int r = 0;
    for (size_t b = 0; r == 0 && b < blocks; b++) {
        r = pl_call_over(c->r->call);
        if (r == 0)
            r = load_block(c, b, &n, &h);
        if (r == 0)
            r = put_block(c, b, n, h);
    }
    return r;
}

static int part(struct content *c, uint64_t from, uint64_t to)
{
    uint64_t h;
    int r = 0;
    to = to < c->size ? to : c->size;
    for (size_t b = (size_t)(from / c->block); r == 0 && from < to; b++) {
        uint64_t off = (uint64_t)b * c->block;
        size_t n;
        r = load_block(c, b, &n, &h);
        uint64_t end = off + n < to ? off + n : to;
        if (r == 0)
            r = from == off && end == off + n
                    ? put_block(c, b, n, h)
                    : put_part(c, b, n, h, (size_t)(from - off), (size_t)(end - off));
        from = off + n;
    }
    return r;
}

static int resize(struct content *c, uint64_t size)
{
    struct pl_setattr set = {.valid = PL_SET_SIZE, .size = size};
    c->old_size = size;
    if (c->r->dry)
        return 0;
    return pl_setattr(c->r->dst, c->r->call, c->p->dst, c->out, &set, &c->p->dattr);
}

/* Only what was written, where that is known to be all. */
static int parts(struct content *c, const struct written *w)
{
    uint64_t was = c->p->note->o->src.size;
    int r = 0;
    for (size_t i = 0; r == 0 && i < w->n; i++)
        r = part(c, w->range[i].from, w->range[i].to);
    /* What the file grew by without being written, and the block in which it ends. */
    if (r == 0 && was != c->size) {
        uint64_t least = was < c->size ? was : c->size;
        r = part(c, least - least % c->block, c->size);
    }
    return r;
}

/* 0, FOREIGN or an error. */
static int move_content(struct content *c)
{
    struct note *note = c->p->note;
    struct written *w;
    HASH_FIND(hh, c->r->p->written, &note->ino, sizeof(note->ino), w);
    size_t blocks = blocks_in(c->size, c->block);
    if (block_of(note->o->src.size) != c->block && note->o->nhash) {
        c->any = true; /* what is noted is of other blocks, of which nobody knows any more */
        notes_unknown(c->r->notes, note->o, 0, blocks > note->o->nhash ? blocks : note->o->nhash);
    }
    c->trusted = !c->p->fresh && !c->p->untrusted && !c->any;
    c->noted = note->o->nhash < blocks ? note->o->nhash : blocks;
    int r = notes_blocks(note->o, blocks);
    if (r == 0 && c->old_size > c->size) {
        size_t first = (size_t)(c->size / c->block), had = blocks_in(c->old_size, c->block);
        notes_unknown(c->r->notes, note->o, first, had - first);
        notes_blocks(note->o, blocks);
        r = resize(c, c->size);
    }
    if (r == 0)
        r = c->trusted && w && w->n && !c->r->check && !(note->o->flags & NOTE_LOST) ? parts(c, w)
                                                                                     : whole(c);
    if (r == 0 && c->old_size < c->size)
        r = resize(c, c->size);
    return r;
}

/* ---- opening ---- */

/* Without write permission a file of ours is opened by giving it. */
static int open_out(struct replica *r, struct pair *p, int flags, struct pl_file **ret)
{
    int e = pl_open(r->dst, r->call, p->dst, flags, ret);
    if (e != -EACCES || r->dry)
        return e;
    struct pl_setattr set = {.valid = PL_SET_MODE, .mode = 0600};
    e = pl_setattr(r->dst, r->call, p->dst, NULL, &set, &p->dattr);
    p->note->o->mode = 0600;
    return e < 0 ? e : pl_open(r->dst, r->call, p->dst, flags, ret);
}

static int open_both(struct content *c, int flags)
{
    struct replica *r = c->r;
    struct pair *p = c->p;
    int e = p->src ? pl_open(r->src, r->call, p->src, O_RDONLY, &c->in) : 0;
    if (e < 0)
        return replica_minor(e) || e == -ENOENT ? -EACCES : e;
    e = p->dst ? open_out(r, p, flags, &c->out) : 0;
    if (e < 0 && c->in)
        pl_close(r->src, r->call, c->in);
    return p->dst ? replica_dst_gone(r, p, e) : e;
}

static int close_both(struct content *c, int e)
{
    if (c->in)
        pl_close(c->r->src, c->r->call, c->in);
    if (c->out) {
        int f = pl_flush(c->r->dst, c->r->call, c->out, 0);
        pl_close(c->r->dst, c->r->call, c->out);
        e = e ? e : f;
    }
    free(c->buf);
    free(c->other);
    return e;
}

static int content_init(struct content *c, struct replica *r, struct pair *p, int flags)
{
    *c = (struct content){.r = r,
                          .p = p,
                          .size = p->sattr.size,
                          .old_size = p->dst     ? p->dattr.size
                                      : p->fresh ? 0
                                                 : p->note->o->dst.size,
                          .block = block_of(p->sattr.size),
                          .was = p->note->o->dst.size,
                          .noted = p->note->o->nhash,
                          .lo = SIZE_MAX};
    c->buf = malloc(BLOCK_HI);
    c->other = malloc(BLOCK_HI);
    int e = c->buf && c->other ? open_both(c, flags) : -ENOMEM;
    if (e != 0) {
        free(c->buf);
        free(c->other);
    }
    return e;
}

/* Keeps everybody else from opening the file, if nobody has it open: a file of this machine. */
static void hold(struct content *c)
{
    int fd = c->out && !c->r->dry ? pl_file_fd(c->r->dst, c->out) : -1;
    /* Who wants it waits, and we are told by a signal that is ignored. */
    c->held = fd >= 0 && fcntl(fd, F_SETSIG, SIGURG) == 0 && fcntl(fd, F_SETLEASE, F_WRLCK) == 0;
    c->r->p->local |= fd >= 0;
}

/* Is it as it was when it was looked at (p->dattr)? 0, FOREIGN or an error. */
static int as_seen(struct replica *r, struct pair *p, struct pl_file *f)
{
    struct pl_attr now;
    const struct pl_attr *a = &p->dattr;
    int e = pl_getattr(r->dst, r->call, p->dst, f, &now);
    if (e < 0)
        return replica_dst_gone(r, p, e);
    bool same = now.size == a->size && replica_ns(&now.mtime) == replica_ns(&a->mtime) &&
                replica_ns(&now.ctime) == replica_ns(&a->ctime);
    return same ? 0 : FOREIGN;
}

/* With `c` open if it is held, so that attributes can be set before anybody sees the file. */
static int content(struct replica *r, struct pair *p, struct content *c)
{
    char text[64];
    struct note *note = p->note;
    replica_busy(r, note);
    int e = content_init(c, r, p, r->dry ? O_RDONLY : O_RDWR);
    if (e != 0)
        return e;
    hold(c);
    /* Not of a new one of another machine, where that would be one more round trip. */
    bool new = p->fresh && !p->untrusted;
    if (!r->dry && !p->ours && !p->dattr.guess && !(new &&pl_file_fd(r->dst, c->out) < 0))
        e = as_seen(r, p, c->out);
    if (e == 0)
        e = move_content(c);
    if (e == 0 && c->held)
        e = pl_flush(r->dst, r->call, c->out, 0);
    else
        e = close_both(c, e), c->held = false;
    if (c->lo < c->hi)
        notes_put_blocks(r->notes, note->o, c->lo, c->hi - c->lo);
    if (c->sent) {
        snprintf(text, sizeof(text), "%llu bytes", (unsigned long long)c->sent);
        replica_tell(r, REPLICA_WRITES, p->path, text);
    }
    return e;
}

/* ---- comparing ---- */

/* The replica's block, in c->other, has been found to be as the source's was: ours from now on. */
static int accepted(struct content *c, size_t b, size_t n)
{
    struct note *note = c->p->note;
    if (b >= note->o->nhash && notes_blocks(note->o, b + 1) < 0)
        return -ENOMEM;
    note->o->hash[b] = checksum(c->other, n);
    return 1;
}

int replica_equal(struct replica *r, struct pair *p)
{
    struct content c;
    if (p->sattr.size != p->dattr.size)
        return 0;
    int e = content_init(&c, r, p, O_RDONLY);
    int same = 1;
    if (e != 0)
        return e < 0 ? e : 0;
    for (uint64_t off = 0; e == 0 && same && off < c.size; off += c.block) {
        size_t n = c.size - off < c.block ? (size_t)(c.size - off) : c.block;
        e = read_all(r->src, r->call, c.in, c.buf, n, off);
        if (e == 0)
            e = read_all(r->dst, r->call, c.out, c.other, n, off);
        same = !memcmp(c.buf, c.other, n);
        if (e == 0 && same && accepted(&c, (size_t)(off / c.block), n) < 0)
            e = -ENOMEM;
    }
    e = close_both(&c, e);
    p->note->o->dst.size = p->dattr.size;
    p->note->o->src.size = p->sattr.size;
    return e < 0 ? e : same;
}

/* Is the replica's block what we left, or what the source has now? 1, 0 or an error. */
static int explained(struct content *c, size_t b, size_t n)
{
    uint64_t off = (uint64_t)b * c->block;
    const struct note_object *o = c->p->note->o;
    int e = load_theirs(c, b, n);
    if (e < 0)
        return e;
    if (is_ours(c, b, n)) {
        uint64_t h = b < o->nhash ? o->hash[b] : 0;
        if (h == NOTE_UNKNOWN || h == checksum(c->other, n))
            return 1;
        /* It was shorter: from now on it is of the size that the file has. */
    } else {
        if (!c->in || off >= c->size)
            return 0;
        e = read_all(c->r->src, c->r->call, c->in, c->buf, n, off);
        if (e < 0 || memcmp(c->buf, c->other, n) != 0)
            return e;
    }
    e = accepted(c, b, n);
    if (e > 0)
        notes_put_blocks(c->r->notes, c->p->note->o, b, 1);
    return e;
}

int replica_same(struct replica *r, struct pair *p)
{
    struct note *note = p->note;
    struct content c;
    uint64_t size = p->dattr.size;
    if (!(note->o->flags & NOTE_BUSY) && size != note->o->dst.size &&
        !(p->src && size == p->sattr.size))
        return 0;
    int e = content_init(&c, r, p, O_RDONLY), same = 1;
    if (e != 0)
        return e < 0 ? e : 0;
    c.block = block_of(note->o->src.size);
    for (uint64_t off = 0; same == 1 && off < size; off += c.block)
        same = explained(&c, (size_t)(off / c.block),
                         size - off < c.block ? (size_t)(size - off) : c.block);
    e = close_both(&c, 0);
    /* That took its time. */
    if (e == 0 && same == 1 && !r->dry)
        e = as_seen(r, p, NULL);
    if (e == 0 && same == 1)
        p->note->o->dst.size = size;
    return e < 0 ? e : e == FOREIGN ? 0 : same;
}

void replica_seen(struct pair *p)
{
    struct note *n = p->note;
    n->o->dst = (struct note_state){p->dattr.size, replica_ns(&p->dattr.mtime),
                                    replica_ns(&p->dattr.ctime)};
    n->o->dst_mode = p->dattr.mode & 07777;
    n->o->dst_uid = p->dattr.uid;
    n->o->dst_gid = p->dattr.gid;
}

int replica_fill(struct replica *r, struct pair *p)
{
    struct note *n = p->note;
    struct note_state state = {p->sattr.size, replica_ns(&p->sattr.mtime),
                               replica_ns(&p->sattr.ctime)};
    struct content c = {0};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct written *w = NULL;
    HASH_FIND(hh, r->p->written, &n->ino, sizeof(n->ino), w);
    if (w) {
        w->done = true;
        w->object = n->o->id;
    }
    bool changed =
        (n->o->flags & NOTE_LOST) || p->fresh || p->untrusted || r->check ||
        state.size != n->o->src.size || state.mtime != n->o->src.mtime || (w && w->n) ||
        (r->p->comparing && ((n->o->flags & NOTE_RACY) || state.ctime != n->o->src.ctime));
    changed = changed && S_ISREG(p->sattr.mode);
    int e = changed ? content(r, p, &c) : 0;
    if (e == 0)
        e = replica_attributes(r, p);
    if (c.held)
        e = close_both(&c, e);
    /* Somebody has cut it, or written behind its end. */
    if (e == 0 && changed && !r->dry && p->dattr.size != state.size)
        e = FOREIGN;
    if (e != 0)
        return e;
    n->o->src = state;
    if (!r->dry)
        replica_seen(p);
    n->flags &= NOTE_DEEP;
    n->o->flags = replica_ns(&now) - state.ctime < RACY_NS ? NOTE_RACY : 0;
    notes_put(r->notes, n);
    if (!r->dry)
        replica_add_id(&r->p->dirty, n);
    return 0;
}
