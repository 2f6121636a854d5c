/* SPDX-License-Identifier: MIT */
/*
 * A request that a dead server had begun: was it done?
 *
 * By the evidence of doors/redo.h. The kernel holds the directories and objects locked until it is
 * answered, so that nobody else can have changed them through this mount.
 *
 * A source that notes nothing (made, p9) leaves weaker evidence: what was to vanish is not there,
 * what was to be made is there and as young as the request. It is used only where the source has
 * never been seen to note (head->notes), for else "nothing noted" means "not done".
 *
 * Where a request was done, it is answered as the dead server would have; what it opened is opened
 * in our own name, since the caller's permission was judged by what was there before.
 */
#include "doors/fuse_door.h"
#include "doors/redo.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

static bool notes(struct fuse_req *r, uint32_t what)
{
    return atomic_load(&r->s->ledger->head->notes) & what;
}

static int ok(struct fuse_req *r)
{
    fuse_reply(r, NULL, 0);
    return 0;
}

static struct redo evidence(const struct fuse_req *r)
{
    return (struct redo){
        .tree = r->s->tree, .intent = &r->slot->intent, .began = r->slot->began, .uid = r->m.h.uid};
}

/* What `name` in the request's directory stands for now; `node` may be NULL. */
static int there(struct fuse_req *r, const char *name, struct pl_node **node, struct pl_attr *attr)
{
    struct redo e = evidence(r);
    return redo_there(&e, r->node, name, node, attr);
}

static bool ours(const struct fuse_req *r, const struct pl_attr *attr, uint32_t type)
{
    struct redo e = evidence(r);
    return redo_ours(&e, attr, type);
}

/* ---- names ----------------------------------------------------------------------------------- */

static int redo_remove(struct fuse_req *r, fuse_handler *handler)
{
    struct redo e = evidence(r);
    uint64_t ino = atomic_load(&r->slot->intent.ino);
    if (redo_removed(&e, r->node, r->m.name)) {
        fuse_removed(r);
        return ok(r);
    }
    int error = handler(r);
    return error == -ENOENT && !ino && !notes(r, LEDGER_NOTES_REMOVE) ? ok(r) : error;
}

static int redo_rename(struct fuse_req *r, fuse_handler *handler)
{
    struct pl_node *newdir = fuse_nodes_get(r->s->nodes, r->m.a.rename.newdir);
    struct redo e = evidence(r);
    bool is_done =
        newdir && redo_renamed(&e, r->node, r->m.name, newdir, r->m.name2, r->m.a.rename.flags);
    pl_node_unref(newdir);
    if (is_done) {
        fuse_renamed(r);
        return ok(r);
    }
    bool noted = atomic_load(&r->slot->intent.ino) || notes(r, LEDGER_NOTES_RENAME);
    int error = handler(r);
    return error == -ENOENT && !noted ? ok(r) : error;
}

static int redo_make(struct fuse_req *r, fuse_handler *handler, uint32_t type)
{
    struct pl_node *node;
    struct pl_attr attr;
    int error = handler(r);
    if (error != -EEXIST || there(r, r->m.name, &node, &attr) < 0)
        return error;
    struct redo e = evidence(r);
    if (ours(r, &attr, type) && (type != S_IFLNK || redo_same_target(&e, node, r->m.name2)))
        return fuse_reply_entry(r, node, &attr, r->m.name);
    pl_node_unref(node);
    return error;
}

static int redo_link(struct fuse_req *r, fuse_handler *handler)
{
    struct pl_node *node, *from;
    struct pl_attr attr;
    int error = handler(r);
    if (error != -EEXIST || there(r, r->m.name, &node, &attr) < 0)
        return error;
    from = fuse_nodes_get(r->s->nodes, r->m.a.link.oldnodeid);
    pl_node_unref(from);
    if (from == node) /* one object has one node as long as somebody holds it */
        return fuse_reply_entry(r, node, &attr, r->m.name);
    pl_node_unref(node);
    return error;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int redo_create(struct fuse_req *r, fuse_handler *handler)
{
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *file;
    struct pl_call call;
    int error = handler(r);
    /* The mode of the new file may forbid the caller to open it once more. */
    if ((error != -EEXIST && error != -EACCES) || there(r, r->m.name, &node, &attr) < 0)
        return error;
    pl_call_init_self(&call);
    int opened = -EACCES;
    if (ours(r, &attr, S_IFREG))
        opened = pl_open(r->s->tree, &call, node, fuse_open_flags(r, r->m.a.create.flags), &file);
    pl_call_done(&call);
    if (opened == 0)
        return fuse_reply_created(r, node, &attr, file);
    pl_node_unref(node);
    return error;
}

static int redo_open(struct fuse_req *r, fuse_handler *handler)
{
    struct redo e = evidence(r);
    if ((r->m.a.open.flags & O_TRUNC) && redo_truncated(&e, r->node))
        r->m.a.open.flags &= ~(uint32_t)O_TRUNC;
    return handler(r);
}

/* What the dead server had opened for this request, the kernel does not know of. */
static void drop_opened(struct fuse_req *r)
{
    uint64_t unique = r->m.h.unique & ~FUSE_UNIQUE_RESEND, fh;
    uint32_t cursor = 0;
    struct ledger_file f;
    while ((fh = fuse_files_next(r->s->files, &cursor, &f)))
        if (f.opener == unique)
            fuse_close(r, fh, false);
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static size_t written(struct fuse_req *r, uint64_t at)
{
    struct redo e = evidence(r);
    return redo_written(&e, r->node, at, r->m.data, r->m.size);
}

static bool changed(struct fuse_req *r)
{
    struct redo e = evidence(r);
    struct pl_call call;
    struct pl_attr attr;
    pl_call_init_self(&call);
    int error = pl_getattr(r->s->tree, &call, r->node, NULL, &attr);
    pl_call_done(&call);
    return error == 0 && redo_since(&e, attr.mtime);
}

static int redo_write(struct fuse_req *r, fuse_handler *handler)
{
    uint64_t size1 = atomic_load(&r->slot->intent.size1);
    struct pl_file *file = fuse_req_file(r, r->m.a.write.fh);
    size_t n = 0;
    if (!file || !(file->flags & O_APPEND))
        return handler(r);
    if (size1)
        n = written(r, size1 - 1);
    else if (!notes(r, LEDGER_NOTES_SIZE) && changed(r))
        n = written(r, r->m.a.write.offset); /* where the kernel believed the end to be */
    if (n == 0)
        return handler(r);
    struct fuse_write_out out = {(uint32_t)n, 0};
    if (n < r->m.size) { /* the rest; if that fails, it was a short write */
        ssize_t more = pl_write(r->s->tree, &r->call, file, (const char *)r->m.data + n,
                                r->m.size - n, r->m.a.write.offset + n);
        out.size += more > 0 ? (uint32_t)more : 0;
    }
    if (r->m.a.write.write_flags & FUSE_WRITE_KILL_SUIDGID)
        fuse_kill_priv(r, file, false);
    fuse_reply(r, &out, sizeof(out));
    return 0;
}

/* ---- extended attributes --------------------------------------------------------------------- */

/* The door itself has noted whether there was such an attribute: if that has changed, it was done.
 */
static int redo_xattr(struct fuse_req *r, fuse_handler *handler)
{
    uint32_t was = atomic_load(&r->slot->xattr);
    int error = handler(r);
    bool is_done =
        (error == -EEXIST && was == LEDGER_ABSENT) || (error == -ENODATA && was == LEDGER_THERE);
    return is_done ? ok(r) : error;
}

/* ---- all ------------------------------------------------------------------------------------- */

static int judge(struct fuse_req *r, fuse_handler *handler)
{
    int error;
    switch (r->m.h.opcode) {
    case FUSE_UNLINK:
    case FUSE_RMDIR:
        return redo_remove(r, handler);
    case FUSE_RENAME:
    case FUSE_RENAME2:
        return redo_rename(r, handler);
    case FUSE_MKDIR:
        return redo_make(r, handler, S_IFDIR);
    case FUSE_SYMLINK:
        return redo_make(r, handler, S_IFLNK);
    case FUSE_MKNOD:
        return redo_make(r, handler, r->m.a.mknod.mode & S_IFMT);
    case FUSE_LINK:
        return redo_link(r, handler);
    case FUSE_CREATE:
        return redo_create(r, handler);
    case FUSE_OPEN:
        return redo_open(r, handler);
    case FUSE_WRITE:
        return redo_write(r, handler);
    case FUSE_SETXATTR:
    case FUSE_REMOVEXATTR:
        return redo_xattr(r, handler);
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
        error = handler(r);
        return error == -EBADF ? ok(r) : error; /* closed already */
    default:
        return handler(r);
    }
}

int fuse_redo(struct fuse_req *r, fuse_handler *handler)
{
    uint64_t learned = atomic_load(&r->slot->learned);
    if (r->m.h.opcode == FUSE_OPEN || r->m.h.opcode == FUSE_OPENDIR ||
        r->m.h.opcode == FUSE_CREATE || r->m.h.opcode == FUSE_TMPFILE)
        drop_opened(r);
    int error = judge(r, handler);
    /* Counted for a reply that was never sent, and it is another node now. */
    if (learned && learned != atomic_load(&r->slot->learned))
        fuse_nodes_forget(r->s->nodes, learned, 1);
    return error;
}
