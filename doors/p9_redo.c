/* SPDX-License-Identifier: MIT */
/*
 * An operation that comes again.
 *
 * What a dead server had begun is judged by the evidence of doors/redo.h. Other than a kernel a
 * client cannot keep others away from what it asked to change: so an object counts as made by a
 * dead server only if nothing had its name just before, if it is no younger than that server, and
 * no other operation that is remembered has made it; and a name is not taken as removed by us if
 * another has been told that he did. Another that was over before this one was begun is neither:
 * numbers of objects are given out again at once, and the dates of files are too coarse to tell one
 * object of a number from the next. Where all that cannot tell, the answer is -EREMOTEIO.
 *
 * What sets a state is done again: attributes, ranges of bytes, an extended attribute. Whoever has
 * changed the same meanwhile did it at the same time as a request that was not answered.
 *
 * What was done is answered as before; what it opened is opened in our own name, since the caller's
 * permission was judged by what was there before.
 */
#include "doors/p9_once.h"
#include "doors/redo.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#define PROMPT                                                                                     \
    2000000000ull              /* ns: an object that is so much younger than the beginning of the  \
                                  op that would have made it, another may have made */
#define SEARCH_MAX (16u << 20) /* bytes appended since: among more ours are not looked for */

static const char *text(const struct p9_str *s)
{
    return s->len ? s->s : "";
}

static struct redo evidence(const struct p9d_op *op)
{
    return (struct redo){.tree = op->fid->at->tree,
                         .intent = &op->slot->intent,
                         .began = op->slot->began,
                         .uid = op->call->cred.uid};
}

static bool notes(const struct p9d_op *op)
{
    return op->fid->at->tree->flags & PL_TREE_NOTES;
}

/* It was not done. */
static int carry_out(struct p9d_op *op)
{
    p9d_once_begun(op);
    return p9d_deed(op);
}

/* ---- what makes an object ---- */

enum verdict { NOT_DONE, IS_DONE, UNKNOWN };

/* Nothing had the name just before the deed: so what has it now came then or later. */
static bool was_free(const struct p9d_op *op)
{
    return atomic_load(&op->slot->intent.ino) == PL_NOTHING;
}

/* Has the dead server made what is there? */
static enum verdict made_by_us(struct p9d_op *op, const struct pl_attr *attr, uint32_t type)
{
    struct redo e = evidence(op);
    struct timespec t = attr->btime.tv_sec || attr->btime.tv_nsec ? attr->btime : attr->ctime;
    uint64_t at = (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
    if (!notes(op))
        return UNKNOWN;
    if (!was_free(op) || !redo_ours(&e, attr, type) ||
        at > op->session->client->had + redo_grain() || p9d_once_claimed(op, ONCE_MADE, attr->ino))
        return NOT_DONE;
    return at <= e.began + PROMPT ? IS_DONE : UNKNOWN;
}

/* What has the name now, with a reference, if the dead server has made it. */
static enum verdict find_made(struct p9d_op *op, uint32_t type, struct pl_node **node,
                              struct pl_attr *attr)
{
    struct redo e = evidence(op);
    int r = redo_there(&e, op->fid->node, text(&op->in->name), node, attr);
    if (r < 0)
        return r == -ENOENT ? NOT_DONE : UNKNOWN;
    enum verdict v = made_by_us(op, attr, type);
    if (v == IS_DONE && type == S_IFLNK && !redo_same_target(&e, *node, text(&op->in->target)))
        v = NOT_DONE;
    if (v != IS_DONE)
        pl_node_unref(*node);
    return v;
}

static int redo_make(struct p9d_op *op, uint32_t type)
{
    struct pl_node *node;
    struct pl_attr attr;
    switch (find_made(op, type, &node, &attr)) {
    case IS_DONE:
        op->out->qid = p9d_qid(&attr);
        pl_node_unref(node);
        return 0;
    case NOT_DONE:
        return carry_out(op);
    default:
        return -EREMOTEIO;
    }
}

static int redo_link(struct p9d_op *op)
{
    struct redo e = evidence(op);
    struct pl_node *node;
    struct pl_attr attr;
    if (redo_there(&e, op->fid->node, text(&op->in->name), &node, &attr) < 0)
        return carry_out(op);
    /* One object has one node as long as somebody holds it. */
    bool same = node == op->fid2->node && (was_free(op) || !notes(op));
    pl_node_unref(node);
    return same ? 0 : carry_out(op);
}

/* The new file, opened as it was for who made it; takes over the reference. */
static int open_made(struct p9d_op *op, struct pl_node *node)
{
    struct pl_tree *tree = op->fid->at->tree;
    struct pl_attr attr;
    struct pl_file *file;
    struct pl_call call;
    uint32_t drop = P9_EXCL | P9_TRUNC | P9_DIRECTORY;
    pl_call_init_self(&call);
    int r = pl_open(tree, &call, node, p9d_open_flags(op->in->flags & ~drop), &file);
    if (r == 0 && (r = pl_getattr(tree, &call, node, file, &attr)) < 0)
        pl_close(tree, &call, file);
    pl_call_done(&call);
    if (r < 0) {
        pl_node_unref(node);
        return -EREMOTEIO; /* it was made, and cannot be had */
    }
    r = p9d_made_open(op, node, op->fid->node, text(&op->in->name), file, &attr);
    return r < 0 ? r : p9d_put_made(op);
}

static int redo_create(struct p9d_op *op)
{
    struct pl_node *node;
    struct pl_attr attr;
    switch (find_made(op, S_IFREG, &node, &attr)) {
    case IS_DONE:
        return open_made(op, node);
    case UNKNOWN:
        if (op->in->flags & P9_EXCL)
            return -EREMOTEIO;
        /* fall through */
    default:
        return carry_out(op);
    }
}

/* ---- what takes names away ---- */

static int redo_unlink(struct p9d_op *op)
{
    struct redo e = evidence(op);
    uint64_t ino = atomic_load(&op->slot->intent.ino);
    if (!ino && !notes(op))
        return -EREMOTEIO;
    if (redo_removed(&e, op->fid->node, text(&op->in->name)) &&
        !p9d_once_claimed(op, ONCE_REMOVED, ino))
        return 0;
    return carry_out(op);
}

/* A fid can be made anew only of what is still there. */
static int redo_remove(struct p9d_op *op)
{
    uint64_t ino = atomic_load(&op->slot->intent.ino);
    struct pl_attr attr;
    if (!op->fid || (!ino && !notes(op)))
        return -EREMOTEIO;
    if (ino && (pl_getattr(op->fid->at->tree, op->call, op->fid->node, NULL, &attr) < 0 ||
                !redo_is(&(struct redo){.intent = &op->slot->intent}, &attr)))
        return -EREMOTEIO;
    int r = carry_out(op);
    return r == -ESTALE ? -EREMOTEIO : r;
}

static int redo_rename(struct p9d_op *op)
{
    struct redo e = evidence(op);
    unsigned flags = op->in->type == P9_Trename2 ? op->in->flags : 0;
    const char *from = text(&op->in->name), *to = text(&op->in->name2);
    uint64_t ino = atomic_load(&op->slot->intent.ino);
    if (redo_renamed(&e, op->fid->node, from, op->fid2->node, to, flags))
        return 0;
    if (ino ? redo_is_still(&e, op->fid->node, from) : notes(op))
        return carry_out(op);
    return -EREMOTEIO; /* moved, and moved on; or another has moved it */
}

static int redo_rename_fid(struct p9d_op *op)
{
    struct redo e = evidence(op);
    uint64_t ino = atomic_load(&op->slot->intent.ino);
    if (!ino && !notes(op))
        return -EREMOTEIO;
    if (ino && redo_is_still(&e, op->fid2->node, text(&op->in->name))) {
        p9d_set_name(op->fid, op->fid2->node, text(&op->in->name));
        return 0;
    }
    int r = carry_out(op);
    return r == -ESTALE ? -EREMOTEIO : r;
}

/* ---- bytes ---- */

static int redo_open(struct p9d_op *op)
{
    struct redo e = evidence(op);
    bool cut =
        (op->in->flags & P9_TRUNC) && !p9d_xattr(op->fid) && redo_truncated(&e, op->fid->node);
    if (!cut)
        return carry_out(op);
    return p9d_open_fid(op, op->call, op->in->flags & ~(uint32_t)P9_TRUNC);
}

/* Are our bytes somewhere in what has been appended since, or the beginning of them at its end? */
static bool appended_later(struct p9d_op *op, uint64_t at, uint64_t size)
{
    struct redo e = evidence(op);
    struct pl_call call;
    struct pl_file *file;
    size_t n = (size_t)(size - at), want = op->in->count;
    bool found = true;
    char *buf = malloc(n);
    pl_call_init_self(&call);
    if (buf && pl_open(e.tree, &call, op->fid->node, O_RDONLY, &file) == 0) {
        ssize_t got = pl_read(e.tree, &call, file, buf, n, at);
        pl_close(e.tree, &call, file);
        if (got >= 0)
            found = memmem(buf, (size_t)got, op->in->data, want);
    }
    pl_call_done(&call);
    free(buf);
    return found;
}

/* It was at `at` that our bytes were to be written, if nobody else came first. */
static int redo_append_at(struct p9d_op *op, struct pl_file *file, uint64_t at)
{
    struct redo e = evidence(op);
    int64_t size = redo_size(&e, op->fid->node);
    if (size == (int64_t)at)
        return carry_out(op);
    if (size < (int64_t)at || (uint64_t)size - at > SEARCH_MAX)
        return -EREMOTEIO; /* cut off since; or too much is new */
    size_t n = redo_written(&e, op->fid->node, at, op->in->data, op->in->count);
    if (n == op->in->count) { /* ours, unless another client may have put the same there */
        if (p9d_once_claimed(op, ONCE_APPENDED, at + 1))
            return -EREMOTEIO;
        op->out->count = (uint32_t)n;
        return 0;
    }
    if (n > 0) { /* a part, up to the end: the rest; if that fails, it was a short write */
        ssize_t more = pl_write(e.tree, op->call, file, (const char *)op->in->data + n,
                                op->in->count - n, at + n);
        op->out->count = (uint32_t)n + (more > 0 ? (uint32_t)more : 0);
        return 0;
    }
    return appended_later(op, at, (uint64_t)size) ? -EREMOTEIO : carry_out(op);
}

static int redo_append(struct p9d_op *op)
{
    struct pl_file *file = p9d_file(op->fid);
    uint64_t size1 = atomic_load(&op->slot->intent.size1);
    if (!file || p9d_xattr(op->fid))
        return -EBADF;
    if (!(file->flags & O_APPEND) || op->in->count == 0)
        return carry_out(op);
    if (!size1)
        return notes(op) ? carry_out(op) : -EREMOTEIO;
    return redo_append_at(op, file, size1 - 1);
}

/* Ranges that are taken out or put in: the size tells. */
static int redo_fallocate(struct p9d_op *op)
{
    struct redo e = evidence(op);
    uint64_t size1 = atomic_load(&op->slot->intent.size1), was = size1 - 1;
    int64_t size = size1 ? redo_size(&e, op->fid->node) : 0;
    if (size1 == 0 || size == (int64_t)was)
        return carry_out(op);
    uint64_t then =
        op->in->mode & FALLOC_FL_INSERT_RANGE ? was + op->in->length : was - op->in->length;
    return size >= 0 && (uint64_t)size == then ? 0 : -EREMOTEIO;
}

/* A written attribute: the door itself has noted whether there was such a one, where that matters;
 * if that has changed, it was done. */
static int redo_clunk(struct p9d_op *op)
{
    uint32_t was = atomic_load(&op->slot->xattr);
    struct p9d_xattr *x = p9d_xattr(op->fid);
    if (!was || !x || !x->write)
        return carry_out(op);
    bool done = p9d_xattr_there(op, op->fid, x) == (was == ONCE_THERE ? ONCE_ABSENT : ONCE_THERE);
    return done ? 0 : carry_out(op);
}

static int judge(struct p9d_op *op)
{
    switch (op->in->type) {
    case P9_Tmkdir:
        return redo_make(op, S_IFDIR);
    case P9_Tsymlink:
        return redo_make(op, S_IFLNK);
    case P9_Tmknod:
        return redo_make(op, op->in->mode & S_IFMT ? op->in->mode & S_IFMT : S_IFREG);
    case P9_Tlcreate:
        return redo_create(op);
    case P9_Tlink:
        return redo_link(op);
    case P9_Tunlinkat:
        return redo_unlink(op);
    case P9_Trenameat:
    case P9_Trename2:
        return redo_rename(op);
    case P9_Trename:
        return redo_rename_fid(op);
    case P9_Tlopen:
        return redo_open(op);
    case P9_Twrite2:
        return redo_append(op);
    case P9_Tfallocate:
        return redo_fallocate(op);
    case P9_Tclunk:
        return redo_clunk(op);
    default:
        return carry_out(op);
    }
}

int p9d_redo(struct p9d_op *op)
{
    int r = p9d_find_fids(op);
    if (op->in->type == P9_Tremove)
        return redo_remove(op);
    return r < 0 ? r : judge(op);
}

/* ---- what was done ---- */

/* The fid becomes the open file, if it is not. */
static int opened_again(struct p9d_op *op)
{
    struct pl_call call;
    int r = p9d_find_fids(op);
    if (r < 0 || p9d_file(op->fid))
        return r;
    pl_call_init_self(&call);
    r = p9d_open_fid(op, &call, op->in->flags & ~(uint32_t)(P9_TRUNC | P9_EXCL));
    pl_call_done(&call);
    return r;
}

static int created_again(struct p9d_op *op)
{
    struct redo e = {0};
    struct pl_node *node;
    struct pl_attr attr;
    int r = p9d_find_fids(op);
    if (r < 0 || p9d_file(op->fid))
        return r;
    if ((r = p9d_dir_ok(op->fid)) < 0)
        return r;
    e.tree = op->fid->at->tree;
    if (redo_there(&e, op->fid->node, text(&op->in->name), &node, &attr) < 0)
        return -EREMOTEIO; /* it has another name by now, or none */
    if (attr.ino != op->slot->qid_path || !S_ISREG(node->fmt)) {
        pl_node_unref(node);
        return -EREMOTEIO;
    }
    return open_made(op, node);
}

/* What the message does to fids, whatever came of it. */
static int fids_again(struct p9d_op *op)
{
    bool well = op->slot->error == 0;
    switch (op->in->type) {
    case P9_Tclunk:
    case P9_Tremove:
        op->fid = p9d_fid_take(op->session, op->in->fid);
        return 0;
    case P9_Tlopen:
        return well ? opened_again(op) : 0;
    case P9_Tlcreate:
        return well ? created_again(op) : 0;
    case P9_Trename:
        if (well && p9d_find_fids(op) == 0)
            p9d_set_name(op->fid, op->fid2->node, text(&op->in->name));
        return 0;
    default:
        return 0;
    }
}

int p9d_again(struct p9d_op *op)
{
    const struct once_slot *s = op->slot;
    struct p9_msg *out = op->out;
    int r = fids_again(op);
    if (r < 0)
        return r;
    if (s->error < 0)
        return s->error;
    out->qid = (struct p9_qid){s->qid_type, s->qid_version, s->qid_path};
    out->iounit = s->iounit;
    if (op->in->type == P9_Tcopy)
        out->length = s->count;
    else
        out->count = (uint32_t)s->count;
    return 0;
}
