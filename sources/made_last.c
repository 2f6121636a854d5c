/* SPDX-License-Identifier: MIT */
/*
 * Made trees when their server dies: the program makes the same files again, with the same numbers,
 * and open files are opened again. A document that lives in a file goes on with it: the kernel may
 * have it as well. A control file keeps what was written and not yet run. It is in a memory file
 * that outlives the process, behind a byte that says whether the command is being run:
 *
 *     0 text      written so far
 *     R text      being run: whoever finds it so cannot know how far it got
 *
 * and empty when there is nothing.
 */
#include "sources/made.h"
#include <errno.h>
#include <fcntl.h>
#include <plenum/keep.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void made_keep(struct pl_tree *tree, struct pl_keep *keep)
{
    struct pl_made *m = made_of(tree);
    m->kept = keep;
    made_memory_start(m);
}

/* ---- control files ---- */

int made_ctl_new(struct made_file *f)
{
    int fd = memfd_create("plenum-command", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    f->file.kept = fd;
    return 0;
}

int made_ctl_note(struct made_file *f, const void *buf, size_t n)
{
    if (f->file.kept <= 0)
        return 0;
    ssize_t w = pwrite(f->file.kept, buf, n, 1 + (off_t)f->body.text.n);
    if (w == (ssize_t)n)
        return 0;
    w = w < 0 ? -errno : -ENOSPC;
    (void)!ftruncate(f->file.kept, 1 + (off_t)f->body.text.n);
    return (int)w;
}

int made_ctl_begin(struct made_file *f)
{
    return f->file.kept > 0 && pwrite(f->file.kept, "R", 1, 0) < 0 ? -errno : 0;
}

void made_ctl_end(struct made_file *f)
{
    if (f->file.kept > 0)
        (void)!ftruncate(f->file.kept, 0);
}

/* What the predecessor's file had. */
static int ctl_take(struct made_file *f, int fd)
{
    char state = 0;
    off_t size = lseek(fd, 0, SEEK_END);
    size_t n = size > 1 ? (size_t)size - 1 : 0;
    if (size < 0 || n > MADE_CTL_MAX)
        return -ESTALE;
    int r = made_text_resize(&f->body.text, n);
    if (r == 0 && size > 0 && pread(fd, &state, 1, 0) != 1)
        r = -EIO;
    if (r == 0 && n && pread(fd, f->body.text.buf, n, 1) != (ssize_t)n)
        r = -EIO;
    f->broken = state == 'R';
    f->dirty = n && !f->broken;
    if (r == 0 && f->broken) {
        f->body.text.n = 0;
        r = ftruncate(fd, 0) < 0 ? -errno : 0;
    }
    return r;
}

/* ---- the op ---- */

int made_resume(struct pl_tree *tree, struct pl_call *call, struct pl_node *node, int flags,
                int kept, struct pl_file **ret)
{
    struct made_node *n = node ? made_node_of(node) : NULL;
    int r = n ? made_open_judged(tree, call, node, flags, ret) : -ESTALE;
    struct made_file *f = r == 0 ? made_file_of(*ret) : NULL;
    if (r == 0) {
        f->file.tree = tree;
        f->file.node = node;
        f->file.flags = (uint32_t)flags;
    }
    bool text = r == 0 && (n->kind == MADE_DOC || n->kind == MADE_ENTRY || n->kind == MADE_FILE);
    if (text && kept > 0) {
        made_body_resume(made_of(tree), &f->body, kept);
        f->file.fd = f->file.kept = kept;
        kept = 0;
    } else if (r == 0 && n->kind == MADE_CTL && kept > 0) {
        r = ctl_take(f, kept);
        int own = f->file.kept;
        f->file.kept = kept;
        kept = own;
        if (r < 0)
            made_close(tree, call, &f->file);
    } else if (r == 0 && n->kind == MADE_STREAM) {
        made_stream_resumed(n->stream, &f->reader);
    }
    if (r == 0)
        pl_node_ref(node);
    if (kept > 0)
        close(kept);
    return r;
}
