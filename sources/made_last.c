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
 *
 * A door may know the descriptor before it knows the node, which has no key: so the name that such
 * a file has for /proc says whose it is, "made.NUMBER.STORE'S NUMBER.".
 */
#include "sources/made.h"
#include <errno.h>
#include <fcntl.h>
#include <plenum/keep.h>
#include <stdatomic.h>
#include <stdio.h>
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

/* ---- whose file it is ---- */

void made_kept_name(struct made_node *n, char name[MADE_KEPT_NAME])
{
    static atomic_uint count;
    struct made_node *store = n->kind == MADE_ENTRY ? n->parent : NULL;
    snprintf(name, MADE_KEPT_NAME, "made.%llx.%llx.%x", (unsigned long long)made_attr(n).ino,
             store ? (unsigned long long)made_attr(store).ino : 0, atomic_fetch_add(&count, 1));
}

/* The node of that number that is no entry, with a reference, or NULL. */
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

static struct made_node *by_entry(struct pl_made *m, struct pl_call *call, uint64_t of,
                                  uint64_t ino)
{
    struct made_list list = {0};
    struct made_node *store = by_number(m, of), *n = NULL;
    if (store && store->kind == MADE_STORE && made_store_list(call, store, &list) == 0)
        for (size_t i = 0; i < list.n && !n; i++)
            if (made_entry_ino(store, list.item[i].name) == ino &&
                made_store_lookup(m, call, store, list.item[i].name, &n) < 0)
                n = NULL;
    made_list_done(&list);
    pl_node_unref(store ? &store->node : NULL);
    return n;
}

/* The node whose file this was, with a reference, or NULL. */
static struct made_node *by_kept(struct pl_made *m, struct pl_call *call, int fd)
{
    char proc[40], path[256];
    unsigned long long ino, store;
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
    ssize_t n = fd > 0 ? readlink(proc, path, sizeof(path) - 1) : 0;
    path[n > 0 ? n : 0] = 0;
    if (sscanf(path, "/made.%llx.%llx.", &ino, &store) < 2 &&
        sscanf(path, "/memfd:made.%llx.%llx.", &ino, &store) < 2)
        return NULL;
    return store ? by_entry(m, call, store, ino) : by_number(m, ino);
}

/* ---- control files ---- */

int made_ctl_new(struct made_node *n, struct made_file *f)
{
    char name[MADE_KEPT_NAME];
    made_kept_name(n, name);
    int fd = memfd_create(name, MFD_CLOEXEC);
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
    struct pl_made *m = made_of(tree);
    struct made_node *n = node ? made_node_of(pl_node_ref(node)) : by_kept(m, call, kept);
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
    bool text = n->kind == MADE_DOC || n->kind == MADE_ENTRY || n->kind == MADE_FILE;
    if (text && kept > 0) {
        made_body_resume(m, &f->body, kept);
        f->file.fd = f->file.kept = kept;
        kept = 0;
    } else if (n->kind == MADE_CTL && kept > 0) {
        int own = f->file.kept;
        f->file.kept = kept;
        kept = own;
        r = ctl_take(f, f->file.kept);
    } else if (n->kind == MADE_STREAM) {
        made_stream_resumed(n->stream, &f->reader);
    }
    if (kept > 0)
        close(kept);
    if (r < 0)
        pl_close(tree, call, &f->file);
    return r;
}
