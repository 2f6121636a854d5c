/* SPDX-License-Identifier: MIT */
/*
 * Content travels in blocks, of which the checksums of what the replica has are noted: of a changed
 * file only blocks that differ are sent, and of a write that was recorded only its bytes.
 */
#include "sync/replica_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define BLOCK    (64u << 10)
#define BLOCK_HI (1u << 20)
#define LARGE    (1ull << 30) /* from here on blocks are large */
#define UNKNOWN  1            /* checksum of a block of which only a part was sent */
#define RACY_NS  20000000ll   /* clocks of file systems tick so coarsely */

struct content {
    struct replica *r;
    struct pair *p;
    struct pl_file *in, *out;
    size_t block;
    uint64_t size, old_size; /* of the source; of the replica */
    size_t old_blocks;       /* of which checksums are noted and to be trusted */
    uint64_t sought;         /* from here on there is data in the source from `data` */
    uint64_t data, hole;     /* to `hole` only */
    char *buf, *other;
    size_t lo, hi; /* blocks whose checksum is another now */
    uint64_t sent;
};

static int64_t ns(const struct timespec *t)
{
    return t->tv_sec * 1000000000ll + t->tv_nsec;
}

static size_t block_of(uint64_t size)
{
    return size < LARGE ? BLOCK : BLOCK_HI;
}

static size_t blocks_in(uint64_t size, size_t block)
{
    return (size_t)((size + block - 1) / block);
}

static uint64_t checksum(const char *buf, size_t n)
{
    bool zero = n == 0 || (buf[0] == 0 && !memcmp(buf, buf + 1, n - 1));
    uint64_t h = XXH3_64bits_withSeed(buf, n, n);
    return zero ? 0 : h > UNKNOWN ? h : UNKNOWN + 1;
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
    c->p->note->hash[b] = h;
    c->lo = b < c->lo ? b : c->lo;
    c->hi = b + 1 > c->hi ? b + 1 : c->hi;
}

/* Does the replica have this block? 1, 0, or an error. */
static int has_block(struct content *c, size_t b, size_t n, uint64_t h)
{
    uint64_t off = (uint64_t)b * c->block;
    if (off + n > c->old_size)
        return h == 0 && off >= c->old_size; /* a hole that it gets by being made longer */
    if (b < c->old_blocks)
        return c->p->note->hash[b] == h;
    if (c->p->fresh && !c->p->untrusted)
        return 0;
    int r = read_all(c->r->dst, c->r->call, c->out, c->other, n, off);
    return r < 0 ? r : !memcmp(c->buf, c->other, n);
}

static int whole(struct content *c)
{
    size_t n, blocks = blocks_in(c->size, c->block);
    uint64_t h;
    for (size_t b = 0; b < blocks; b++) {
        int r = pl_call_over(c->r->call);
        if (r == 0)
            r = load_block(c, b, &n, &h);
        int has = r < 0 ? r : has_block(c, b, n, h);
        if (has == 0)
            has = send_bytes(c, c->buf, n, (uint64_t)b * c->block);
        if (has < 0)
            return has;
        set_hash(c, b, h);
    }
    return 0;
}

static int part(struct content *c, uint64_t from, uint64_t to)
{
    uint64_t h;
    to = to < c->size ? to : c->size;
    for (size_t b = (size_t)(from / c->block); from < to; b++) {
        uint64_t off = (uint64_t)b * c->block;
        size_t n;
        int r = load_block(c, b, &n, &h);
        uint64_t end = off + n < to ? off + n : to;
        bool has = (h == 0 && off >= c->old_size) ||
                   (b < c->old_blocks && off + n <= c->old_size && c->p->note->hash[b] == h);
        if (r == 0 && !has)
            r = send_bytes(c, c->buf + (from - off), (size_t)(end - from), from);
        if (r < 0)
            return r;
        /* What else is in the block may be newer than what the replica has of it. */
        set_hash(c, b, has || (from == off && end == off + n) ? h : UNKNOWN);
        from = off + n;
    }
    return 0;
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
    uint64_t was = c->p->note->src.size;
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

static int move_content(struct content *c)
{
    struct note *note = c->p->note;
    struct written *w;
    HASH_FIND(hh, c->r->p->written, &note->ino, sizeof(note->ino), w);
    bool known = !c->p->fresh && !c->p->untrusted && block_of(note->src.size) == c->block;
    size_t blocks = blocks_in(c->size, c->block);
    c->old_blocks = known ? note->nhash : 0;
    int r = notes_blocks(note, blocks);
    if (c->old_blocks > blocks)
        c->old_blocks = blocks;
    if (r == 0 && c->old_size > c->size)
        r = resize(c, c->size);
    if (r == 0)
        r = known && w && w->n && !c->r->check && !(note->flags & NOTE_LOST) ? parts(c, w)
                                                                             : whole(c);
    if (r == 0 && c->old_size < c->size)
        r = resize(c, c->size);
    return r;
}

/* Without write permission a file of ours is opened by giving it. */
static int open_out(struct replica *r, struct pair *p, int flags, struct pl_file **ret)
{
    int e = pl_open(r->dst, r->call, p->dst, flags, ret);
    if (e != -EACCES || r->dry)
        return e;
    struct pl_setattr set = {.valid = PL_SET_MODE, .mode = 0600};
    e = pl_setattr(r->dst, r->call, p->dst, NULL, &set, &p->dattr);
    p->note->mode = 0600;
    return e < 0 ? e : pl_open(r->dst, r->call, p->dst, flags, ret);
}

static int open_both(struct content *c, int flags)
{
    struct replica *r = c->r;
    struct pair *p = c->p;
    int e = pl_open(r->src, r->call, p->src, O_RDONLY, &c->in);
    if (e < 0)
        return replica_minor(e) || e == -ENOENT ? -EACCES : e;
    e = p->dst ? open_out(r, p, flags, &c->out) : 0;
    if (e < 0)
        pl_close(r->src, r->call, c->in);
    return e;
}

static int close_both(struct content *c, int e)
{
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
                                                 : p->note->dst.size,
                          .block = block_of(p->sattr.size),
                          .lo = SIZE_MAX};
    c->buf = malloc(c->block);
    c->other = malloc(c->block);
    int e = c->buf && c->other ? open_both(c, flags) : -ENOMEM;
    if (e < 0) {
        free(c->buf);
        free(c->other);
    }
    return e;
}

static int content(struct replica *r, struct pair *p)
{
    struct content c;
    struct note *note = p->note;
    char text[64];
    if (!r->dry && (note->flags & (NOTE_BUSY | NOTE_NEW)) != NOTE_BUSY) {
        note->flags = (note->flags & ~(uint32_t)NOTE_NEW) | NOTE_BUSY;
        notes_put(r->notes, note);
    }
    int e = content_init(&c, r, p, r->dry ? O_RDONLY : O_RDWR);
    if (e < 0)
        return e;
    e = close_both(&c, move_content(&c));
    if (e == 0 && c.lo < c.hi)
        notes_put_blocks(r->notes, note, c.lo, c.hi - c.lo);
    if (c.sent) {
        snprintf(text, sizeof(text), "%llu bytes", (unsigned long long)c.sent);
        replica_tell(r, REPLICA_WRITES, p->path, text);
    }
    return e;
}

/* ---- comparing ---- */

int replica_equal(struct replica *r, struct pair *p)
{
    struct content c;
    if (p->sattr.size != p->dattr.size)
        return 0;
    int e = content_init(&c, r, p, O_RDONLY);
    int same = 1;
    if (e < 0)
        return e;
    for (uint64_t off = 0; e == 0 && same && off < c.size; off += c.block) {
        size_t n = c.size - off < c.block ? (size_t)(c.size - off) : c.block;
        e = read_all(r->src, r->call, c.in, c.buf, n, off);
        if (e == 0)
            e = read_all(r->dst, r->call, c.out, c.other, n, off);
        same = !memcmp(c.buf, c.other, n);
    }
    e = close_both(&c, e);
    return e < 0 ? e : same;
}

int replica_same(struct replica *r, struct pair *p)
{
    const struct note *note = p->note;
    size_t block = block_of(note->src.size);
    struct pl_file *f;
    if (p->dattr.size != note->dst.size || blocks_in(note->dst.size, block) != note->nhash)
        return 0;
    char *buf = malloc(block);
    int e = buf ? pl_open(r->dst, r->call, p->dst, O_RDONLY, &f) : -ENOMEM;
    int same = 1;
    if (e == 0) {
        for (size_t b = 0; e == 0 && same && b < note->nhash; b++) {
            uint64_t off = (uint64_t)b * block, left = note->dst.size - off;
            size_t n = left < block ? (size_t)left : block;
            e = read_all(r->dst, r->call, f, buf, n, off);
            same = note->hash[b] == UNKNOWN || checksum(buf, n) == note->hash[b];
        }
        pl_close(r->dst, r->call, f);
    }
    free(buf);
    return e < 0 ? e : same;
}

int replica_extra(struct replica *r, struct pl_tree *tree, struct pl_node *node,
                  const struct pl_attr *attr, uint64_t *ret)
{
    char target[PL_PATH_MAX];
    *ret = (uint64_t)attr->rdev_major << 32 | attr->rdev_minor;
    if (!S_ISLNK(attr->mode))
        return 0;
    int n = pl_readlink(tree, r->call, node, target, sizeof(target));
    if (n < 0)
        return n;
    *ret = XXH3_64bits(target, (size_t)n);
    return 0;
}

/* ---- attributes ---- */

/* Each name with its value, to be given to `each`; trees without xattrs have none. */
static void each_xattr(struct pl_tree *t, struct pl_call *c, struct pl_node *node,
                       void (*each)(void *, const char *, const char *, size_t), void *arg)
{
    ssize_t n = pl_listxattr(t, c, node, NULL, 0);
    char *names = n > 0 ? malloc((size_t)n) : NULL, *value = names ? malloc(PL_XATTR_MAX) : NULL;
    n = value ? pl_listxattr(t, c, node, names, (size_t)n) : -1;
    for (char *p = names; n > 0 && p < names + n; p += strlen(p) + 1) {
        ssize_t len = pl_getxattr(t, c, node, p, value, PL_XATTR_MAX);
        if (len >= 0)
            each(arg, p, value, (size_t)len);
    }
    free(names);
    free(value);
}

static void digest_one(void *arg, const char *name, const char *value, size_t n)
{
    uint64_t h = XXH3_64bits(name, strlen(name));
    *(uint64_t *)arg ^= XXH3_64bits_withSeed(value, n, h);
}

struct target {
    struct replica *r;
    struct pl_node *from, *to;
};

/* Where the replica does not take one (another kind of tree, no right) it is left out, as cp -a. */
static void set_one(void *arg, const char *name, const char *value, size_t n)
{
    struct target *t = arg;
    pl_setxattr(t->r->dst, t->r->call, t->to, name, value, n, 0);
}

static void drop_one(void *arg, const char *name, const char *value, size_t n)
{
    struct target *t = arg;
    if (pl_getxattr(t->r->src, t->r->call, t->from, name, NULL, 0) == -ENODATA)
        pl_removexattr(t->r->dst, t->r->call, t->to, name);
}

static void xattrs(struct replica *r, struct pair *p)
{
    struct target t = {r, p->src, p->dst};
    uint64_t digest = 0;
    each_xattr(r->src, r->call, p->src, digest_one, &digest);
    if (!p->fresh && !p->untrusted && digest == p->note->extra)
        return;
    each_xattr(r->src, r->call, p->src, set_one, &t);
    if (!p->fresh)
        each_xattr(r->dst, r->call, p->dst, drop_one, &t);
    p->note->extra = digest;
}

static int set_attrs(struct replica *r, struct pair *p, uint32_t valid)
{
    const struct pl_attr *a = &p->sattr;
    struct pl_setattr set = {.valid = valid,
                             .mode = a->mode & 07777,
                             .uid = a->uid,
                             .gid = a->gid,
                             .atime = a->atime,
                             .mtime = a->mtime};
    int e = pl_setattr(r->dst, r->call, p->dst, NULL, &set, &p->dattr);
    if (e == -EPERM && (valid & (PL_SET_UID | PL_SET_GID))) {
        r->p->no_owners = true; /* as cp -a: where permitted */
        set.valid &= ~(uint32_t)(PL_SET_UID | PL_SET_GID);
        e = pl_setattr(r->dst, r->call, p->dst, NULL, &set, &p->dattr);
    }
    return e == -EOPNOTSUPP && S_ISLNK(a->mode) ? 0 : e;
}

static int attributes(struct replica *r, struct pair *p)
{
    struct note *n = p->note;
    const struct pl_attr *a = &p->sattr;
    bool link = S_ISLNK(a->mode), all = p->fresh || p->untrusted;
    uint32_t valid = PL_SET_ATIME | PL_SET_MTIME;
    int e = 0;
    if (link || !(S_ISREG(a->mode) || S_ISDIR(a->mode)))
        e = replica_extra(r, r->src, p->src, a, &n->extra);
    else if (!r->dry)
        xattrs(r, p);
    if (geteuid() == 0 && !r->p->no_owners && (all || n->uid != a->uid || n->gid != a->gid))
        valid |= PL_SET_UID | PL_SET_GID;
    if (!link && (all || n->mode != (a->mode & 07777) || (valid & PL_SET_UID)))
        valid |= PL_SET_MODE;
    if (e == 0 && !r->dry)
        e = set_attrs(r, p, valid);
    n->mode = a->mode & 07777;
    n->uid = a->uid;
    n->gid = a->gid;
    return e;
}

int replica_fill(struct replica *r, struct pair *p)
{
    struct note *n = p->note;
    struct note_state state = {p->sattr.size, ns(&p->sattr.mtime), ns(&p->sattr.ctime)};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct written *w = NULL;
    HASH_FIND(hh, r->p->written, &n->ino, sizeof(n->ino), w);
    if (w)
        w->done = true;
    bool changed = (n->flags & NOTE_LOST) || p->fresh || p->untrusted || r->check ||
                   state.size != n->src.size || state.mtime != n->src.mtime || (w && w->n) ||
                   (r->p->comparing && ((n->flags & NOTE_RACY) || state.ctime != n->src.ctime));
    int e = S_ISREG(p->sattr.mode) && changed ? content(r, p) : 0;
    if (e == 0)
        e = attributes(r, p);
    if (e < 0)
        return e;
    n->src = state;
    n->dst = (struct note_state){p->dattr.size, ns(&p->dattr.mtime), 0};
    n->flags = (n->flags & NOTE_DEEP) | (ns(&now) - state.ctime < RACY_NS ? NOTE_RACY : 0);
    notes_put(r->notes, n);
    return 0;
}
