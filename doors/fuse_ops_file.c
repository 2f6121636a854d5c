/* SPDX-License-Identifier: MIT */
/* The FUSE door's operations on open files. */
#include "doors/fuse_door.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>

/* What of open(2)'s flags a tree is told; the rest is the kernel's own business. */
#define OPEN_FLAGS                                                                                 \
    (O_ACCMODE | O_APPEND | O_TRUNC | O_NONBLOCK | O_DSYNC | O_SYNC | O_DIRECT | O_NOATIME |       \
     OPEN_EXEC)
/* The kernel opens a program to run it: the right to execute is enough. */
#define OPEN_EXEC 0x20

int fuse_open_flags(struct fuse_req *r, uint32_t flags)
{
    int f = (int)(flags & OPEN_FLAGS);
    if (r->s->flags & FUSE_WRITEBACK_CACHE) {
        /* The kernel reads pages to write parts of them, and appends by itself. */
        if ((f & O_ACCMODE) == O_WRONLY)
            f = (f & ~O_ACCMODE) | O_RDWR;
        f &= ~O_APPEND;
    }
    return f;
}

/* ---- opening --------------------------------------------------------------------------------- */

int fuse_close(struct fuse_req *r, uint64_t fh, bool released)
{
    struct fuse_sess *s = r->s;
    struct fuse_file f;
    if (!fuse_files_del(s->files, fh, &f))
        return -EBADF;
    fuse_bytes_close(r, &f, released);
    fuse_poll_free(f.poll);
    fuse_locks_end(s, 0, fh, 0);
    ledger_point(s->ledger, LEDGER_AT_release);
    fuse_files_drop(s->files, fh);
    return 0;
}

static uint32_t opened_as(const struct pl_file *file, const struct fuse_way *way)
{
    return (way->how == FUSE_NO_BYTES ? LEDGER_DIR : 0) | (file->stream ? LEDGER_STREAM : 0) |
           (way->how >= FUSE_PASSED        ? LEDGER_PASSED
            : way->flags & FOPEN_DIRECT_IO ? 0
                                           : LEDGER_CACHED);
}

/* Takes over the file, for which the way was chosen. */
static int reply_open(struct fuse_req *r, struct pl_file *file, const struct fuse_way *way,
                      uint64_t nodeid, const struct fuse_entry_out *entry)
{
    struct fuse_open_out out = {.open_flags = way->flags, .backing_id = way->backing};
    struct ledger_file as = {.nodeid = nodeid,
                             .opener = r->m.h.unique & ~FUSE_UNIQUE_RESEND,
                             .uid = r->m.h.uid,
                             .gid = r->m.h.gid,
                             .backing = way->backing,
                             .state = opened_as(file, way)};
    int sent = -ENOMEM;
    out.fh = fuse_files_add(r->s->files, file, &as, way->how);
    if (out.fh)
        sent = entry ? fuse_reply2(r, entry, sizeof(*entry), &out, sizeof(out))
                     : fuse_reply(r, &out, sizeof(out));
    if (sent == 0)
        return 0;
    /* The kernel knows neither the file nor the entry. */
    struct fuse_file gone = {
        .file = file, .how = (uint8_t)way->how, .flags = file->flags, .nodeid = nodeid};
    if (fuse_close(r, out.fh, false) < 0)
        fuse_bytes_close(r, &gone, false);
    if (entry)
        fuse_nodes_forget(r->s->nodes, entry->nodeid, 1);
    return out.fh ? 0 : -ENOMEM;
}

int fuse_reply_open(struct fuse_req *r, struct pl_file *file, uint64_t nodeid,
                    const struct fuse_entry_out *entry)
{
    struct fuse_way way;
    fuse_journal_deed(r);
    if (fuse_noopen_on(r->s))
        return fuse_noopen_created(r, file, entry);
    int error = fuse_bytes_open(r, file, nodeid, &way);
    if (error == 0)
        return reply_open(r, file, &way, nodeid, entry);
    pl_close(r->s->tree, &r->call, file);
    if (entry)
        fuse_nodes_forget(r->s->nodes, entry->nodeid, 1);
    return error;
}

/* The caller may write but not read, and the kernel is to write back, for which it reads pages: it
 * sees to it that the caller does not get to see them. So once he was let in, in our own name. */
static int open_write_only(struct fuse_req *r, int flags, int wider, struct pl_file **ret)
{
    struct pl_file *both;
    struct pl_call call;
    int error = pl_open(r->s->tree, &r->call, r->node, flags, ret);
    if (error < 0)
        return error;
    pl_call_init_self(&call);
    if (pl_open(r->s->tree, &call, r->node, wider & ~O_TRUNC, &both) == 0) {
        pl_close(r->s->tree, &r->call, *ret);
        *ret = both;
    }
    pl_call_done(&call);
    return 0;
}

int fuse_op_open(struct fuse_req *r)
{
    const struct fuse_open_in *in = &r->m.a.open;
    struct fuse_way way;
    int flags = fuse_open_flags(r, in->flags);
    struct pl_file *file = fuse_bytes_again(r, (uint32_t)flags, &way);
    if (file) {
        fuse_journal_deed(r);
        return reply_open(r, file, &way, r->m.h.nodeid, NULL);
    }
    int error = pl_open(r->s->tree, &r->call, r->node, flags, &file);
    if (error == -EACCES && flags != (int)(in->flags & OPEN_FLAGS))
        error = open_write_only(r, (int)(in->flags & OPEN_FLAGS), flags, &file);
    if (error < 0)
        return error;
    if ((in->flags & O_TRUNC) && (in->open_flags & FUSE_OPEN_KILL_SUIDGID))
        fuse_kill_priv(r, file, false);
    return fuse_reply_open(r, file, r->m.h.nodeid, NULL);
}

int fuse_reply_created(struct fuse_req *r, struct pl_node *node, const struct pl_attr *attr,
                       struct pl_file *file)
{
    struct fuse_entry_out entry;
    const char *name = r->m.h.opcode == FUSE_CREATE ? r->m.name : NULL;
    int error = fuse_entry(r, node, attr, name, &entry);
    if (error == 0)
        return fuse_reply_open(r, file, entry.nodeid, &entry);
    pl_close(r->s->tree, &r->call, file);
    return error;
}

int fuse_op_create(struct fuse_req *r)
{
    const struct fuse_create_in *in = &r->m.a.create;
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *file;
    r->call.umask = in->umask & 0777;
    int flags = fuse_open_flags(r, in->flags) | (int)(in->flags & O_EXCL) | O_CREAT;
    int error = pl_create(r->s->tree, &r->call, r->node, r->m.name, flags, in->mode & 07777, &node,
                          &attr, &file);
    return error < 0 ? error : fuse_reply_created(r, node, &attr, file);
}

int fuse_op_tmpfile(struct fuse_req *r)
{
    const struct fuse_create_in *in = &r->m.a.create;
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *file;
    if (!pl_tree_has(r->s->tree, PL_OP_tmpfile))
        return FUSE_NEVER;
    r->call.umask = in->umask & 0777;
    int flags = fuse_open_flags(r, in->flags) | (int)(in->flags & O_EXCL);
    int error =
        pl_tmpfile(r->s->tree, &r->call, r->node, flags, in->mode & 07777, &node, &attr, &file);
    return error < 0 ? error : fuse_reply_created(r, node, &attr, file);
}

/* ---- bytes ----------------------------------------------------------------------------------- */

/* Reads of a stream wait: into memory of their own, so that the transport has its buffer back. */
static int read_stream(struct fuse_req *r, struct pl_file *file)
{
    const struct fuse_read_in *in = &r->m.a.read;
    if ((in->flags & O_NONBLOCK) || r->crowded) {
        int ready = pl_poll(r->s->tree, &r->call, file, NULL);
        if (ready < 0 || !(ready & (POLLIN | POLLHUP | POLLERR)))
            return ready < 0 ? ready : -EAGAIN;
    }
    char *buf = malloc(in->size ? in->size : 1);
    if (!buf)
        return -ENOMEM;
    ssize_t n = pl_read(r->s->tree, &r->call, file, buf, in->size, in->offset);
    if (n >= 0) {
        stats_add(&r->s->stats->bytes_read, (uint64_t)n);
        fuse_reply(r, buf, (size_t)n);
    }
    free(buf);
    return n < 0 ? (int)n : 0;
}

/* fcntl(2) took O_DIRECT away: less than a block may be read. */
static ssize_t read_plain(struct fuse_req *r, struct pl_file *file)
{
    struct pl_tree *tree = r->s->tree;
    struct pl_file *plain;
    struct pl_call call;
    pl_call_init_self(&call);
    ssize_t n = pl_open(tree, &call, file->node, O_RDONLY, &plain);
    if (n == 0) {
        n = pl_read(tree, &call, plain, r->buf, r->m.a.read.size, r->m.a.read.offset);
        pl_close(tree, &call, plain);
    }
    pl_call_done(&call);
    return n;
}

int fuse_op_read(struct fuse_req *r)
{
    const struct fuse_read_in *in = &r->m.a.read;
    struct pl_file *file = fuse_req_file(r, in->fh);
    if (!file)
        return -EBADF;
    if (in->size > r->bufsize)
        return -EINVAL;
    if (file->stream)
        return read_stream(r, file);
    r->buf_used = true;
    ssize_t n = file->flags & ~in->flags & O_DIRECT
                    ? read_plain(r, file)
                    : pl_read(r->s->tree, &r->call, file, r->buf, in->size, in->offset);
    if (n < 0)
        return (int)n;
    stats_add(&r->s->stats->bytes_read, (uint64_t)n);
    fuse_reply(r, r->buf, (size_t)n);
    return 0;
}

/* As far as the reply can tell: the old one has 32 bits. */
static uint64_t copy_len(const struct fuse_req *r)
{
    uint64_t most = r->m.h.opcode == FUSE_COPY_FILE_RANGE_64 ? 1ull << 40 : 0x7ffff000;
    return r->m.a.copy.len < most ? r->m.a.copy.len : most;
}

/* A file was opened to append, but this does not: pages that were changed through a mapping, which
 * the kernel writes back by any file of the node that may write, or fcntl(2) took O_APPEND away; or
 * it took O_DIRECT away, to write less than a block. It goes to its place by a file without these
 * flags; in our own name, for the caller is whoever happens to write back, and may not open it
 * again. */
static bool needs_plain(const struct fuse_write_in *in, const struct pl_file *file)
{
    uint32_t now = in->write_flags & FUSE_WRITE_CACHE ? 0 : in->flags;
    return file->flags & ~now & (O_APPEND | O_DIRECT);
}

static ssize_t in_place(struct fuse_req *r, struct pl_file *file, struct pl_file *from)
{
    struct pl_tree *tree = r->s->tree;
    struct pl_file *plain;
    struct pl_call call;
    pl_call_init_self(&call);
    ssize_t n = pl_open(tree, &call, file->node, O_WRONLY, &plain);
    if (n == 0) {
        const struct fuse_copy_in *copy = &r->m.a.copy;
        n = from ? pl_copy(tree, &call, from, copy->off_in, plain, copy->off_out, copy_len(r))
                 : pl_write(tree, &call, plain, r->m.data, r->m.size, r->m.a.write.offset);
        int e = pl_flush(tree, &call, plain, 0);
        pl_close(tree, &call, plain);
        n = e < 0 ? e : n;
    }
    pl_call_done(&call);
    return n;
}

int fuse_op_write(struct fuse_req *r)
{
    const struct fuse_write_in *in = &r->m.a.write;
    struct pl_file *file = fuse_req_file(r, in->fh);
    if (!file)
        return -EBADF;
    ssize_t n = needs_plain(in, file)
                    ? in_place(r, file, NULL)
                    : pl_write(r->s->tree, &r->call, file, r->m.data, r->m.size, in->offset);
    if (n < 0)
        return (int)n;
    if (in->write_flags & FUSE_WRITE_KILL_SUIDGID)
        fuse_kill_priv(r, file, false);
    stats_add(&r->s->stats->bytes_written, (uint64_t)n);
    struct fuse_write_out out = {(uint32_t)n, 0};
    fuse_reply(r, &out, sizeof(out));
    return 0;
}

int fuse_op_copy(struct fuse_req *r)
{
    const struct fuse_copy_in *in = &r->m.a.copy;
    struct pl_file *from = fuse_req_file(r, in->fh_in);
    struct pl_file *to = fuse_noopen_on(r->s) ? r->file[1] : fuse_req_file(r, in->fh_out);
    bool wide = r->m.h.opcode == FUSE_COPY_FILE_RANGE_64;
    if (!from || !to)
        return -EBADF;
    if (in->flags)
        return -EINVAL;
    ssize_t n = to->flags & O_APPEND /* no longer: the kernel does not copy to the end */
                    ? in_place(r, to, from)
                    : pl_copy(r->s->tree, &r->call, from, in->off_in, to, in->off_out, copy_len(r));
    if (n < 0)
        return (int)n;
    stats_add(&r->s->stats->bytes_written, (uint64_t)n);
    if (wide)
        fuse_reply(r, &(struct fuse_copy_out){(uint64_t)n}, sizeof(struct fuse_copy_out));
    else
        fuse_reply(r, &(struct fuse_write_out){(uint32_t)n, 0}, sizeof(struct fuse_write_out));
    return 0;
}

/* ---- the rest -------------------------------------------------------------------------------- */

int fuse_op_flush(struct fuse_req *r)
{
    if (!pl_tree_has(r->s->tree, PL_OP_flush) && !(r->s->flags & FUSE_POSIX_LOCKS))
        return FUSE_NEVER;
    struct pl_file *file = fuse_req_file(r, r->m.a.flush.fh);
    if (!file)
        return -EBADF;
    fuse_locks_end(r->s, r->m.h.nodeid, 0, r->m.a.flush.lock_owner); /* as unlocking */
    return fuse_done(r, pl_flush(r->s->tree, &r->call, file, r->m.a.flush.lock_owner));
}

int fuse_op_release(struct fuse_req *r)
{
    const struct fuse_release_in *in = &r->m.a.release;
    struct fuse_file *f;
    if ((in->release_flags & FUSE_RELEASE_FLOCK_UNLOCK) &&
        (f = fuse_files_get(r->s->files, in->fh))) {
        struct pl_lock lock = {.type = F_UNLCK, .flock = true, .owner = in->fh, .end = INT64_MAX};
        pl_lock(r->s->tree, &r->call, f->file, &lock);
    }
    return fuse_done(r, fuse_close(r, in->fh, true));
}

int fuse_op_fsync(struct fuse_req *r)
{
    if (!pl_tree_has(r->s->tree, PL_OP_fsync))
        return FUSE_NEVER;
    struct pl_file *file = fuse_req_file(r, r->m.a.fsync.fh);
    if (!file)
        return -EBADF;
    bool data_only = r->m.a.fsync.flags & FUSE_FSYNC_FDATASYNC;
    return fuse_done(r, pl_fsync(r->s->tree, &r->call, file, data_only));
}

int fuse_op_fallocate(struct fuse_req *r)
{
    const struct fuse_fallocate_in *in = &r->m.a.fallocate;
    if (!pl_tree_has(r->s->tree, PL_OP_fallocate))
        return FUSE_NEVER;
    struct pl_file *file = fuse_req_file(r, in->fh);
    if (!file)
        return -EBADF;
    return fuse_done(
        r, pl_fallocate(r->s->tree, &r->call, file, (int)in->mode, in->offset, in->length));
}

int fuse_op_lseek(struct fuse_req *r)
{
    const struct fuse_lseek_in *in = &r->m.a.lseek;
    struct pl_file *file = fuse_req_file(r, in->fh);
    if (!file)
        return -EBADF;
    int64_t off = pl_seek(r->s->tree, &r->call, file, in->offset, (int)in->whence);
    if (off < 0)
        return (int)off;
    struct fuse_lseek_out out = {(uint64_t)off};
    fuse_reply(r, &out, sizeof(out));
    return 0;
}
