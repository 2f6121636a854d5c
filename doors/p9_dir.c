/* SPDX-License-Identifier: MIT */
/* Reading directories. */
#include "base/cursor.h"
#include "doors/p9_door.h"
#include <dirent.h>
#include <errno.h>
#include <string.h>

size_t p9d_payload(struct p9d_op *op, uint32_t count)
{
    size_t max = p9_req_payload_max(op->req), n = count < max ? count : max;
    op->out->data = p9_req_payload(op->req, n);
    return n;
}

/* Entries on their way into the answer. One whose number the directory does not tell is entered
 * with path 0, and looked up when the directory has been read: not while it is. */
struct fill {
    uint8_t *buf;
    size_t used, room;
    uint64_t next; /* the position after the last entry taken */
    bool unknown, too_small;
    const struct p9_qid *up; /* what ".." of the attached root is: itself */
};

static int fill(void *arg, const struct pl_dirent *ent)
{
    struct fill *f = arg;
    struct p9_dirent e = {
        .qid = {.type = ent->type == DT_DIR   ? P9_QTDIR
                        : ent->type == DT_LNK ? P9_QTSYMLINK
                                              : P9_QTFILE,
                .path = ent->type == DT_UNKNOWN ? 0 : ent->ino},
        .offset = ent->next,
        .type = (uint8_t)ent->type,
        .name = p9_str(ent->name),
    };
    if (f->up && !strcmp(ent->name, ".."))
        e.qid = *f->up;
    int n = p9_dirent_put(f->buf + f->used, f->room - f->used, &e);
    if (n < 0)
        return 0; /* a name that cannot be said in 9P */
    if (n == 0) {
        f->too_small = f->used == 0;
        return 1;
    }
    f->unknown |= e.qid.path == 0;
    f->used += (size_t)n;
    f->next = ent->next;
    return 0;
}

enum { ENTRY = 13 + 8 + 1 + 2 }; /* qid, offset, type, the name's length */

/* Looks the name up that an entry has; true unless there is no such file any more. */
static bool complete(struct p9d_op *op, uint8_t *entry, size_t len)
{
    struct p9d_fid *dir = op->fid;
    struct pl_node *node;
    struct pl_attr attr;
    char name[LIMIT_NAME + 1];
    memcpy(name, entry + ENTRY, len);
    name[len] = 0;
    int r;
    if (!strcmp(name, ".")) {
        r = pl_getattr(dir->at->tree, op->call, dir->node, p9d_file(dir), &attr);
    } else {
        r = pl_lookup(dir->at->tree, op->call, dir->node, name, &node, &attr);
        if (r == 0)
            pl_node_unref(node);
    }
    if (r < 0)
        return false;
    struct p9_qid q = p9d_qid(&attr);
    struct cursor c = cursor_at(entry, ENTRY);
    cursor_put(&c, 1, q.type);
    cursor_put(&c, 4, q.version);
    cursor_put(&c, 8, q.path);
    entry[13 + 8] = (uint8_t)IFTODT(attr.mode);
    return true;
}

static void complete_all(struct p9d_op *op, struct fill *f)
{
    static const uint8_t none[8];
    size_t kept = 0;
    for (size_t at = 0, n; at < f->used; at += n) {
        uint8_t *e = f->buf + at;
        size_t len = e[ENTRY - 2] | (size_t)e[ENTRY - 1] << 8;
        n = ENTRY + len;
        if (memcmp(e + 5, none, sizeof(none)) || complete(op, e, len)) {
            memmove(f->buf + kept, e, n);
            kept += n;
        }
    }
    f->used = kept;
}

/* The open directory that is read, and room for its entries in the answer: *ret_room bytes. */
static int begin(struct p9d_op *op, struct pl_file **ret, uint8_t **ret_buf, size_t *ret_room)
{
    *ret = p9d_file(op->fid);
    if (!*ret || p9d_xattr(op->fid))
        return -EBADF;
    if (!S_ISDIR(op->fid->node->fmt))
        return -ENOTDIR;
    *ret_room = p9d_payload(op, op->in->count);
    *ret_buf = op->out->data;
    return *ret_buf ? 0 : -ENOMEM;
}

int p9d_readdir(struct p9d_op *op)
{
    struct p9d_fid *fid = op->fid;
    struct pl_file *file;
    struct fill f = {.next = op->in->offset};
    int r = begin(op, &file, &f.buf, &f.room);
    if (r < 0)
        return r;
    f.up = fid->node == fid->at->root ? &fid->at->root_qid : NULL;
    for (;;) {
        uint64_t from = f.next;
        r = pl_readdir(fid->at->tree, op->call, file, from, fill, &f);
        if (r < 0)
            return r;
        if (f.too_small)
            return -EINVAL; /* as getdents(2) */
        bool some = f.used > 0;
        if (f.unknown)
            complete_all(op, &f);
        /* an empty answer would mean the end: go on when all that was read has vanished */
        if (f.used > 0 || !some)
            break;
        f.unknown = false;
        if ((r = pl_call_over(op->call)) < 0)
            return r;
    }
    op->out->count = (uint32_t)f.used;
    return 0;
}

/* ---- with attributes ---- */

/* Entries on their way into the answer, without attributes but for those that came along. The names
 * are looked up when the directory has been read. `at` is where each begins. */
struct listing {
    struct p9d_op *op;
    uint8_t *buf;
    size_t used, room;
    uint64_t next;
    bool full, too_small;
};

static int list_fill(void *arg, const struct pl_dirent *ent)
{
    struct listing *l = arg;
    struct p9_entry e = {
        .attr.qid.path = ent->ino, .offset = ent->next, .type = (uint8_t)ent->type};
    e.name = p9_str(ent->name);
    if (ent->node) {
        p9d_fill_attr(&e.attr, ent->attr);
        p9d_say_xattrs(l->op, ent->node, &e.attr);
    }
    int n = p9_entry_put(l->buf + l->used, l->room - l->used, &e);
    if (n == 0) {
        l->full = true;
        l->too_small = l->used == 0;
        return 1;
    }
    if (n > 0) /* else a name that cannot be said in 9P */
        l->used += (size_t)n;
    l->next = ent->next;
    return 0;
}

/* Finds the attributes of a name; false when there is no such file any more. */
static bool look_up(struct p9d_op *op, const char *name, struct p9_entry *e)
{
    struct p9d_fid *dir = op->fid;
    struct p9d_attach *at = dir->at;
    struct pl_node *node = dir->node;
    struct pl_attr attr;
    int r;
    bool root = node == at->root && !strcmp(name, "..");
    if (root || !strcmp(name, ".")) {
        r = pl_getattr(at->tree, op->call, node, p9d_file(dir), &attr);
        pl_node_ref(node);
    } else {
        r = pl_lookup(at->tree, op->call, node, name, &node, &attr);
    }
    if (r == -ENOENT)
        return false;
    if (root && r == 0)
        attr.ino = at->root_qid.path;
    if (r < 0) { /* listed, but not for this user to look at */
        e->attr = (struct p9_attr){.qid.path = e->attr.qid.path};
        return true;
    }
    p9d_fill_attr(&e->attr, &attr);
    p9d_say_xattrs(op, node, &e->attr);
    e->type = (uint8_t)IFTODT(attr.mode);
    pl_node_unref(node);
    return true;
}

/* Completes the entries. Each is decoded where it is, and put behind those that are complete: it
 * takes no more room than it had. */
static int list_complete(struct p9d_op *op, struct listing *l)
{
    size_t kept = 0;
    for (size_t at = 0; at < l->used;) {
        struct p9_entry e;
        char name[LIMIT_NAME + 1];
        int n = p9_entry_get(l->buf + at, l->used - at, &e), r = pl_call_over(op->call);
        if (r < 0)
            return r;
        at += (size_t)n;
        memcpy(name, e.name.s, e.name.len + 1u);
        e.name.s = name;
        if (e.attr.valid || look_up(op, name, &e))
            kept += (size_t)p9_entry_put(l->buf + kept, l->room - kept, &e);
    }
    l->used = kept;
    return 0;
}

int p9d_list(struct p9d_op *op)
{
    struct p9d_fid *fid = op->fid;
    struct pl_file *file;
    struct listing l = {.op = op, .next = op->in->offset};
    int r = begin(op, &file, &l.buf, &l.room);
    if (r < 0)
        return r;
    if (l.next == P9_LIST_ON)
        l.next = atomic_load(&fid->listed);
    op->call->plus = true;
    for (bool some = true; some && l.used == 0;) { /* again if all have vanished */
        uint64_t from = l.next;
        l.full = false;
        r = pl_readdir(fid->at->tree, op->call, file, from, list_fill, &l);
        some = l.used > 0;
        if (r == 0 && l.too_small)
            r = -EINVAL;
        if (r == 0)
            r = list_complete(op, &l);
        if (r < 0)
            return r;
    }
    if (!l.full) {
        struct p9_entry end = {.offset = l.next};
        l.used += (size_t)p9_entry_put(l.buf + l.used, l.room - l.used, &end);
    }
    atomic_store(&fid->listed, l.next);
    op->out->count = (uint32_t)l.used;
    return 0;
}
