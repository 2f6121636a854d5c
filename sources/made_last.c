/* SPDX-License-Identifier: MIT */
/*
 * Made trees when their server dies: the program makes the same files again, with the same numbers,
 * and open files are opened again. Only a control file has something of its own to keep: what was
 * written and not yet run. It is in a memory file that outlives the process, behind a head that
 * says which file it is of, and whether the command is being run: whoever finds it so cannot know
 * how far it got.
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
    made_of(tree)->kept = keep;
}

/* ---- control files ---- */

struct head {
    char magic[7];
    uint8_t runs;
    uint64_t ino;
};
static const char magic[] = "ctl 1\n";
#define TEXT (off_t)sizeof(struct head) /* where it begins */

int made_ctl_new(struct made_node *n, struct made_file *f)
{
    struct head h = {.ino = made_attr(n).ino};
    memcpy(h.magic, magic, sizeof(h.magic));
    int fd = memfd_create("plenum-command", MFD_CLOEXEC);
    if (fd >= 0 && pwrite(fd, &h, sizeof(h), 0) != sizeof(h)) {
        close(fd);
        return -ENOSPC;
    }
    f->file.kept = fd < 0 ? 0 : fd;
    return fd < 0 ? -errno : 0;
}

int made_ctl_note(struct made_file *f, const void *buf, size_t n)
{
    if (f->file.kept <= 0)
        return 0;
    ssize_t w = pwrite(f->file.kept, buf, n, TEXT + (off_t)f->text.n);
    if (w == (ssize_t)n)
        return 0;
    w = w < 0 ? -errno : -ENOSPC;
    (void)!ftruncate(f->file.kept, TEXT + (off_t)f->text.n);
    return (int)w;
}

static int set_runs(int fd, uint8_t runs)
{
    return pwrite(fd, &runs, 1, offsetof(struct head, runs)) < 0 ? -errno : 0;
}

int made_ctl_begin(struct made_file *f)
{
    return f->file.kept > 0 ? set_runs(f->file.kept, 1) : 0;
}

void made_ctl_end(struct made_file *f)
{
    if (f->file.kept <= 0)
        return;
    (void)!ftruncate(f->file.kept, TEXT);
    set_runs(f->file.kept, 0);
}

/* True if fd is such a file. */
static bool get_head(int fd, struct head *ret)
{
    return fd > 0 && pread(fd, ret, sizeof(*ret), 0) == sizeof(*ret) &&
           !memcmp(ret->magic, magic, sizeof(ret->magic));
}

/* What the predecessor's file had. */
static int ctl_take(struct made_file *f, int fd, const struct head *h)
{
    off_t size = lseek(fd, 0, SEEK_END);
    size_t n = size > TEXT ? (size_t)(size - TEXT) : 0;
    if (size < 0 || n > MADE_CTL_MAX)
        return -ESTALE;
    f->broken = h->runs;
    if (f->broken) {
        made_ctl_end(f);
        return 0;
    }
    int r = made_text_resize(&f->text, n);
    if (r == 0 && n && pread(fd, f->text.buf, n, TEXT) != (ssize_t)n)
        r = -EIO;
    f->dirty = n;
    return r;
}

/* ---- the op ---- */

/* The node of that number, with a reference, or NULL. */
static struct made_node *by_number(struct pl_made *m, uint64_t ino)
{
    struct made_node *n;
    pthread_mutex_lock(&m->lock);
    HASH_FIND(hh, m->numbers, &ino, sizeof(ino), n);
    if (n)
        pl_node_ref(&n->node);
    pthread_mutex_unlock(&m->lock);
    return n;
}

int made_resume(struct pl_tree *tree, struct pl_call *call, struct pl_node *node, int flags,
                int kept, struct pl_file **ret)
{
    struct head h = {0};
    bool ctl = get_head(kept, &h);
    struct made_node *n = node  ? made_node_of(pl_node_ref(node))
                          : ctl ? by_number(made_of(tree), h.ino)
                                : NULL;
    int r = n ? made_open_judged(tree, call, &n->node, flags, ret) : -ESTALE;
    if (r < 0) {
        pl_node_unref(n ? &n->node : NULL);
        if (kept > 0)
            close(kept);
        return r;
    }
    struct made_file *f = made_file_of(*ret);
    f->file.tree = tree;
    f->file.node = &n->node;
    f->file.flags = (uint32_t)flags;
    if (n->kind == MADE_STREAM)
        made_stream_resumed(n->stream, &f->reader);
    if (n->kind == MADE_CTL && ctl && h.ino == made_attr(n).ino) {
        int own = f->file.kept;
        f->file.kept = kept;
        kept = own;
        r = ctl_take(f, f->file.kept, &h);
    }
    if (kept > 0)
        close(kept);
    if (r < 0)
        pl_close(tree, call, &f->file);
    return r;
}
