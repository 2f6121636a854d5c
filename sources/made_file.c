/* SPDX-License-Identifier: MIT */
/*
 * Open files of made trees.
 *
 * Each open has a text of its own: filled at open, changed by writes, given to the program by flush
 * (close(2)) or fsync if anything was written since the last time. So a reader never sees half of
 * what an editor saves, and of two writers the last to close wins, with all of its text. What was
 * not flushed is dropped at close: the door of a client that died closes without a flush, and half
 * a command must not be run.
 *
 * A control file collects what is written, wherever; each flush with something new is a command.
 */
#include "sources/made.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the holder of an open file ---- */

static void wake(void *arg)
{
    struct made_file *f = arg;
    pthread_mutex_lock(&f->lock);
    pthread_cond_broadcast(&f->cond);
    pthread_mutex_unlock(&f->lock);
}

/* Waits for whoever is at work on the file, perhaps in a commit function. */
static int hold_busy(struct made_file *f, struct pl_call *call)
{
    int r = pl_call_block(call, wake, f);
    if (r < 0)
        return r;
    pthread_mutex_lock(&f->lock);
    while (f->busy && !(r = pl_call_over(call)))
        pl_call_wait(call, &f->cond, &f->lock);
    if (r == 0)
        f->busy = true;
    pthread_mutex_unlock(&f->lock);
    pl_call_unblock(call);
    return r;
}

static int hold(struct made_file *f, struct pl_call *call)
{
    pthread_mutex_lock(&f->lock);
    bool busy = f->busy;
    f->busy = true;
    pthread_mutex_unlock(&f->lock);
    return busy ? hold_busy(f, call) : 0;
}

static void unhold(struct made_file *f)
{
    pthread_mutex_lock(&f->lock);
    f->busy = false;
    pthread_cond_signal(&f->cond);
    pthread_mutex_unlock(&f->lock);
}

/* ---- open and close ---- */

static void free_file(struct made_file *f)
{
    made_list_done(&f->list);
    made_text_done(&f->text);
    pthread_cond_destroy(&f->cond);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

int made_file_new(struct made_node *n, struct pl_text *text, struct pl_file **ret)
{
    struct made_file *f = calloc(1, sizeof(*f));
    if (!f) {
        made_text_done(text);
        return -ENOMEM;
    }
    pthread_mutex_init(&f->lock, NULL);
    pl_cond_init(&f->cond);
    f->text = *text;
    f->file.fd = -1;
    f->file.direct = n->kind != MADE_FIXED;
    f->file.stream = n->kind == MADE_STREAM || n->kind == MADE_CTL;
    int r = n->kind == MADE_CTL && made_of(n->node.tree)->kept ? made_ctl_new(n, f) : 0;
    if (r < 0) {
        free_file(f);
        return r;
    }
    if (n->kind == MADE_STREAM)
        made_stream_join(n->stream, &f->reader);
    *ret = &f->file;
    return 0;
}

/* What kind of open a node allows at all, even to root. */
static int open_ok(struct made_node *n, int flags)
{
    int acc = flags & O_ACCMODE;
    if (n->kind == MADE_CTL)
        return acc == O_WRONLY ? 0 : -EACCES;
    if (n->kind == MADE_DOC || n->kind == MADE_ENTRY)
        return 0;
    return acc == O_RDONLY && !(flags & O_TRUNC) ? 0 : -EACCES;
}

int made_open(struct pl_tree *tree, struct pl_call *call, struct pl_node *node, int flags,
              struct pl_file **ret)
{
    struct made_node *n = made_node_of(node);
    struct pl_attr attr = made_attr(n);
    int r = open_ok(n, flags);
    if (r == 0)
        r = pl_may_open(call, &attr, flags);
    return r < 0 ? r : made_open_judged(tree, call, node, flags, ret);
}

int made_open_judged(struct pl_tree *tree, struct pl_call *call, struct pl_node *node, int flags,
                     struct pl_file **ret)
{
    struct made_node *n = made_node_of(node);
    struct pl_text text = {0};
    bool trunc = flags & O_TRUNC, doc = n->kind == MADE_DOC || n->kind == MADE_ENTRY;
    int r = 0;
    pthread_mutex_lock(&made_of(tree)->lock);
    bool pending = n->pending;
    if (n->gone && n->kind != MADE_FIXED && n->kind != MADE_DIR)
        r = -ENOENT;
    pthread_mutex_unlock(&made_of(tree)->lock);
    if (r == 0 && ((doc && !trunc && !pending) || n->kind == MADE_FILE))
        r = made_fill(n, call, &text);
    if (r < 0) {
        made_text_done(&text);
        return r;
    }
    r = made_file_new(n, &text, ret);
    if (r == 0)
        made_file_of(*ret)->dirty = doc && trunc;
    return r;
}

int made_close(struct pl_tree *tree, struct pl_call *call, struct pl_file *file)
{
    struct made_file *f = made_file_of(file);
    struct made_node *n = made_node_of(file->node);
    if (n->kind == MADE_STREAM)
        made_stream_leave(n->stream, &f->reader);
    if (f->creator) { /* what was never put is not there */
        pthread_mutex_lock(&made_of(tree)->lock);
        n->pending = false;
        pthread_mutex_unlock(&made_of(tree)->lock);
    }
    if (f->file.kept > 0)
        close(f->file.kept);
    free_file(f);
    return 0;
}

/* ---- commit ---- */

static bool unlinked(struct made_node *n)
{
    struct pl_made *m = made_of(n->node.tree);
    pthread_mutex_lock(&m->lock);
    bool gone = n->kind == MADE_ENTRY && n->gone;
    pthread_mutex_unlock(&m->lock);
    return gone;
}

static int commit(struct made_node *n, struct pl_call *call, struct made_file *f)
{
    if (n->kind != MADE_CTL && n->kind != MADE_DOC && n->kind != MADE_ENTRY)
        return 0;
    int r = hold(f, call);
    if (r < 0)
        return r;
    if (f->broken) { /* it may have been run: nobody knows */
        r = -EIO;
        f->broken = false;
    } else if (f->dirty) {
        r = n->kind == MADE_CTL ? made_ctl_begin(f) : 0;
        if (r == 0 && !unlinked(n))
            r = made_take(n, call, &f->text);
        f->dirty = r < 0;
        if (n->kind == MADE_CTL) { /* a command that failed is not run again */
            f->dirty = false;
            f->text.n = 0;
            made_ctl_end(f);
        }
    }
    unhold(f);
    return r;
}

int made_flush(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, uint64_t owner)
{
    return commit(made_node_of(file->node), call, made_file_of(file));
}

int made_fsync(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, bool data_only)
{
    return commit(made_node_of(file->node), call, made_file_of(file));
}

/* ---- content ---- */

ssize_t made_read(struct pl_tree *tree, struct pl_call *call, struct pl_file *file, void *buf,
                  size_t n, uint64_t off)
{
    struct made_node *node = made_node_of(file->node);
    struct made_file *f = made_file_of(file);
    if (node->kind == MADE_STREAM)
        return made_stream_read(node->stream, call, &f->reader, !(file->flags & O_NONBLOCK), buf,
                                n);
    int r = hold(f, call);
    if (r < 0)
        return r;
    struct pl_text *text = node->kind == MADE_FIXED ? &node->text : &f->text;
    size_t left = off < text->n ? text->n - (size_t)off : 0;
    n = n < left ? n : left;
    if (n)
        memcpy(buf, text->buf + off, n);
    unhold(f);
    return (ssize_t)n;
}

/*
 * The text's length before something is appended is noted, and if it was noted already (this write
 * was begun by a server that died), all behind it is that write's, which is done anew: a door has
 * only to ask again with the same intent. (The kernel sends one write to a file at a time.)
 */
static void note_append(struct pl_call *call, struct made_file *f)
{
    if (!call->intent)
        return;
    uint64_t before = atomic_load(&call->intent->size1);
    if (before && before - 1 <= f->text.n)
        f->text.n = before - 1;
    else
        atomic_store(&call->intent->size1, f->text.n + 1);
}

ssize_t made_write(struct pl_tree *tree, struct pl_call *call, struct pl_file *file,
                   const void *buf, size_t n, uint64_t off)
{
    struct made_node *node = made_node_of(file->node);
    struct made_file *f = made_file_of(file);
    int r = hold(f, call);
    if (r < 0 || n == 0) {
        if (r == 0)
            unhold(f);
        return r;
    }
    size_t max = node->kind == MADE_CTL ? MADE_CTL_MAX : MADE_TEXT_MAX;
    if (node->kind == MADE_CTL || file->flags & O_APPEND) {
        note_append(call, f);
        off = f->text.n;
    }
    if (n > max || off > max - n)
        r = -EFBIG;
    if (r == 0 && node->kind == MADE_CTL)
        r = made_ctl_note(f, buf, n);
    if (r == 0 && off + n > f->text.n)
        r = made_text_resize(&f->text, (size_t)off + n);
    if (r == 0) {
        memcpy(f->text.buf + off, buf, n);
        f->dirty = true;
    }
    unhold(f);
    return r < 0 ? r : (ssize_t)n;
}

int made_poll(struct pl_tree *tree, struct pl_call *call, struct pl_file *file,
              struct pl_poller *poller)
{
    struct made_node *n = made_node_of(file->node);
    if (n->kind == MADE_STREAM)
        return made_stream_poll(n->stream, &made_file_of(file)->reader, poller);
    return POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM;
}

/* ---- attributes ---- */

int made_getattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                 struct pl_file *file, struct pl_attr *attr)
{
    struct made_node *n = made_node_of(node);
    *attr = made_attr(n);
    if (file && (n->kind == MADE_FILE || n->kind == MADE_DOC || n->kind == MADE_ENTRY)) {
        struct made_file *f = made_file_of(file);
        int r = hold(f, call);
        if (r < 0)
            return r;
        attr->size = f->text.n;
        attr->blocks = (attr->size + 511) / 512;
        unhold(f);
    }
    return 0;
}

/* truncate(2): of an open file it is a change like a write; else one of its own. */
static int set_size(struct made_node *n, struct pl_call *call, struct made_file *f, uint64_t size)
{
    if (n->kind == MADE_CTL)
        return 0; /* as the O_TRUNC of a shell's ">" */
    if (n->kind != MADE_DOC && n->kind != MADE_ENTRY)
        return -EACCES;
    if (size > MADE_TEXT_MAX)
        return -EFBIG;
    struct pl_text own = {0}, *text = f ? &f->text : &own;
    int r = f ? hold(f, call) : size ? made_fill(n, call, &own) : 0;
    if (r == 0) {
        r = made_text_resize(text, (size_t)size);
        if (r == 0 && f)
            f->dirty = true;
        else if (r == 0)
            r = made_take(n, call, &own);
        if (f)
            unhold(f);
    }
    made_text_done(&own);
    return r;
}

int made_setattr(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
                 struct pl_file *file, const struct pl_setattr *set, struct pl_attr *attr)
{
    struct pl_made *m = made_of(tree);
    struct made_node *n = made_node_of(node);
    struct pl_setattr rest = *set;
    bool writable = file && (file->flags & O_ACCMODE) != O_RDONLY;
    struct pl_attr was = made_attr(n);
    int r = pl_may_set(call, &was, set, writable);
    if (r == 0 && set->valid & PL_SET_SIZE)
        r = set_size(n, call, file ? made_file_of(file) : NULL, set->size);
    if (r < 0)
        return r;
    rest.valid &= ~(uint32_t)PL_SET_SIZE;
    pthread_mutex_lock(&m->lock);
    pl_attr_set(&n->attr, call, &rest);
    struct made_node *unpinned = n->kind == MADE_ENTRY ? made_pin(n) : NULL;
    pthread_mutex_unlock(&m->lock);
    pl_node_unref(unpinned ? &unpinned->node : NULL);
    return made_getattr(tree, call, node, file, attr);
}
