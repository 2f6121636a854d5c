/* SPDX-License-Identifier: MIT */
/*
 * A request that a dead server had begun: was it done?
 *
 * The source notes, just before the deed, what is about to change (struct pl_intent): what has
 * changed since tells whether the deed was done. The kernel holds the directories and objects
 * locked until it is answered, so that nobody else can have changed them through this mount.
 *
 * A source that notes nothing (made, p9) leaves weaker evidence: what was to vanish is not there,
 * what was to be made is there and as young as the request. It is used only where the source has
 * never been seen to note (head->notes), for else "nothing noted" means "not done".
 *
 * Where a request was done, it is answered as the dead server would have; what it opened is opened
 * in our own name, since the caller's permission was judged by what was there before.
 */
#include "doors/fuse_door.h"
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

/* ---- evidence -------------------------------------------------------------------------------- */

/* What `name` in `dir` stands for now, asked in our own name; `node` may be NULL. */
static int there(struct fuse_req *r, struct pl_node *dir, const char *name, struct pl_node **node,
                 struct pl_attr *attr)
{
    struct pl_call call;
    struct pl_node *n;
    pl_call_init_self(&call);
    call.own = true;
    int error = pl_lookup(r->s->tree, &call, dir, name, &n, attr);
    pl_call_done(&call);
    if (error == 0 && node)
        *node = n;
    else if (error == 0)
        pl_node_unref(n);
    return error;
}

/* 0: there is nothing of that name, or it cannot be told what. */
static uint64_t ino_of(struct fuse_req *r, struct pl_node *dir, const char *name)
{
    struct pl_attr attr;
    return there(r, dir, name, NULL, &attr) == 0 ? attr.ino : 0;
}

/* Not before the request was begun, as far as clocks tell that go by ticks. */
static bool since(const struct fuse_req *r, struct timespec t)
{
    struct timespec grain;
    clock_getres(CLOCK_REALTIME_COARSE, &grain);
    uint64_t at = (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
    return at + (uint64_t)grain.tv_nsec >= r->slot->began;
}

/* Was it made for this request? */
static bool ours(const struct fuse_req *r, const struct pl_attr *a, uint32_t type)
{
    bool born = a->btime.tv_sec || a->btime.tv_nsec;
    return (a->mode & S_IFMT) == type && (a->uid == r->m.h.uid || a->uid == geteuid()) &&
           since(r, born ? a->btime : a->ctime);
}

/* ---- names ----------------------------------------------------------------------------------- */

static int redo_remove(struct fuse_req *r, fuse_handler *handler)
{
    uint64_t ino = atomic_load(&r->slot->intent.ino);
    struct pl_attr attr;
    if (ino) {
        int error = there(r, r->node, r->m.name, NULL, &attr);
        if (error == -ENOENT || (error == 0 && attr.ino != ino)) {
            fuse_removed(r);
            return ok(r);
        }
    }
    int error = handler(r);
    return error == -ENOENT && !ino && !notes(r, LEDGER_NOTES_REMOVE) ? ok(r) : error;
}

static bool renamed(struct fuse_req *r, struct pl_node *newdir)
{
    uint64_t ino = atomic_load(&r->slot->intent.ino), ino2 = atomic_load(&r->slot->intent.ino2);
    if (!ino)
        return false;
    uint64_t old = ino_of(r, r->node, r->m.name), new = ino_of(r, newdir, r->m.name2);
    if (r->m.a.rename.flags & RENAME_EXCHANGE)
        return ino != ino2 && new == ino &&old == ino2;
    return new == ino &&old != ino;
}

static int redo_rename(struct fuse_req *r, fuse_handler *handler)
{
    struct pl_node *newdir = fuse_nodes_get(r->s->nodes, r->m.a.rename.newdir);
    bool is_done = newdir && renamed(r, newdir);
    pl_node_unref(newdir);
    if (is_done) {
        fuse_renamed(r);
        return ok(r);
    }
    bool noted = atomic_load(&r->slot->intent.ino) || notes(r, LEDGER_NOTES_RENAME);
    int error = handler(r);
    return error == -ENOENT && !noted ? ok(r) : error;
}

static bool same_target(struct fuse_req *r, struct pl_node *node, struct pl_call *call)
{
    char target[PL_PATH_MAX + 1];
    int n = pl_readlink(r->s->tree, call, node, target, PL_PATH_MAX);
    return n >= 0 && (size_t)n == strlen(r->m.name2) && !memcmp(target, r->m.name2, (size_t)n);
}

static int redo_make(struct fuse_req *r, fuse_handler *handler, uint32_t type)
{
    struct pl_node *node;
    struct pl_attr attr;
    int error = handler(r);
    if (error != -EEXIST || there(r, r->node, r->m.name, &node, &attr) < 0)
        return error;
    struct pl_call call;
    pl_call_init_self(&call);
    bool made = ours(r, &attr, type) && (type != S_IFLNK || same_target(r, node, &call));
    pl_call_done(&call);
    if (made)
        return fuse_reply_entry(r, node, &attr, r->m.name);
    pl_node_unref(node);
    return error;
}

static int redo_link(struct fuse_req *r, fuse_handler *handler)
{
    struct pl_node *node, *from;
    struct pl_attr attr;
    int error = handler(r);
    if (error != -EEXIST || there(r, r->node, r->m.name, &node, &attr) < 0)
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
    if ((error != -EEXIST && error != -EACCES) || there(r, r->node, r->m.name, &node, &attr) < 0)
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

/* Truncating again would lose what others have written since. If the source had noted that it was
 * about to, a file of the size that it had then was not truncated, and one of another size was.
 * Where nothing is noted it is done (again): the caller does not have the file yet, and a write
 * that comes before his open is one that the open may cut off. */
static bool truncated(struct fuse_req *r)
{
    struct pl_attr attr;
    struct pl_call call;
    uint64_t size1 = atomic_load(&r->slot->intent.size1);
    pl_call_init_self(&call);
    int error = size1 ? pl_getattr(r->s->tree, &call, r->node, NULL, &attr) : -1;
    pl_call_done(&call);
    return error == 0 && attr.size != size1 - 1;
}

static int redo_open(struct fuse_req *r, fuse_handler *handler)
{
    if ((r->m.a.open.flags & O_TRUNC) && truncated(r))
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

/* How many bytes of the request are in the file at `at`: they may be all, a part (then the file
 * ends there), or none. In our own name: the file may be open for writing only. */
static size_t written(struct fuse_req *r, uint64_t at)
{
    struct pl_call call;
    struct pl_attr attr;
    struct pl_file *file;
    size_t n = 0;
    char *buf = malloc(r->m.size ? r->m.size : 1);
    pl_call_init_self(&call);
    call.own = true;
    if (buf && pl_getattr(r->s->tree, &call, r->node, NULL, &attr) == 0 && attr.size > at &&
        pl_open(r->s->tree, &call, r->node, O_RDONLY, &file) == 0) {
        ssize_t got = pl_read(r->s->tree, &call, file, buf, r->m.size, at);
        if (got > 0 && !memcmp(buf, r->m.data, (size_t)got))
            n = (size_t)got;
        pl_close(r->s->tree, &call, file);
    }
    pl_call_done(&call);
    free(buf);
    return n;
}

static bool changed(struct fuse_req *r)
{
    struct pl_call call;
    struct pl_attr attr;
    pl_call_init_self(&call);
    int error = pl_getattr(r->s->tree, &call, r->node, NULL, &attr);
    pl_call_done(&call);
    return error == 0 && since(r, attr.mtime);
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
