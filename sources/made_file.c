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
#include "base/log.h"
#include "base/text.h"
#include "sources/made.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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

static bool is_doc(const struct made_node *n)
{
    return n->kind == MADE_DOC || n->kind == MADE_ENTRY;
}

/* A sealed copy of a fixed text, which all who have the file open share; -1: there is none. */
static int fixed_fd(struct made_node *n)
{
    struct pl_made *m = made_of(n->node.tree);
    pthread_mutex_lock(&m->lock);
    if (n->users++ == 0) {
        int fd = memfd_create("plenum", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd >= 0 && (write(fd, n->text.buf, n->text.n) != (ssize_t)n->text.n ||
                        fcntl(fd, F_ADD_SEALS,
                              F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)) {
            close(fd);
            fd = -1;
        }
        n->fd = fd;
    }
    int fd = n->fd;
    pthread_mutex_unlock(&m->lock);
    return fd;
}

static void fixed_done(struct made_node *n)
{
    struct pl_made *m = made_of(n->node.tree);
    pthread_mutex_lock(&m->lock);
    int fd = --n->users == 0 ? n->fd : -1;
    if (n->users == 0)
        n->fd = -1;
    pthread_mutex_unlock(&m->lock);
    if (fd >= 0)
        close(fd);
}

/* It is to be committed; so that a successor knows too, its file says so. */
void made_soil(struct made_file *f)
{
    f->dirty = true;
    made_body_soil(&f->body);
}

static void free_file(struct pl_made *m, struct made_file *f)
{
    made_list_done(&f->list);
    made_body_done(m, &f->body);
    made_range_unref(f->range);
    pthread_cond_destroy(&f->cond);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

int made_file_new(struct made_node *n, struct pl_text *text, int flags, struct pl_file **ret)
{
    struct pl_made *m = made_of(n->node.tree);
    struct made_file *f = calloc(1, sizeof(*f));
    bool in_file = n->kind == MADE_DOC || n->kind == MADE_ENTRY || n->kind == MADE_FILE;
    char name[MADE_KEPT_NAME] = "";
    if (in_file && m->kept)
        made_kept_name(n, name);
    int r = f ? made_body_init(m, &f->body, text, in_file, name) : -ENOMEM;
    if (r < 0) {
        made_text_done(text);
        free(f);
        return r;
    }
    if (f->body.fd >= 0 && flags & O_APPEND) /* doors may write by themselves */
        fcntl(f->body.fd, F_SETFL, O_APPEND);
    pthread_mutex_init(&f->lock, NULL);
    pl_cond_init(&f->cond);
    f->file.fd = n->kind == MADE_FIXED ? fixed_fd(n) : f->body.fd;
    f->file.direct = n->kind != MADE_FIXED;
    f->file.stream = n->kind == MADE_STREAM || n->kind == MADE_CTL;
    if (m->kept && f->body.fd >= 0)
        f->file.kept = f->body.fd; /* the kernel may be writing to it still */
    r = n->kind == MADE_CTL && m->kept ? made_ctl_new(n, f) : 0;
    if (r < 0) {
        free_file(m, f);
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
    if (is_doc(n))
        return 0;
    return acc == O_RDONLY && !(flags & O_TRUNC) ? 0 : -EACCES;
}

/* What an open begins with: what a commit refused, if that is kept, else what the program says. */
static int content(struct made_node *n, struct pl_call *call, struct pl_text *out)
{
    struct pl_made *m = made_of(n->node.tree);
    int r = 0;
    pthread_mutex_lock(&m->lock);
    bool refused = is_doc(n) && n->refused, pending = n->pending;
    if (refused)
        r = pl_text_put(out, n->text.buf, n->text.n);
    pthread_mutex_unlock(&m->lock);
    if (!refused && ((is_doc(n) && !pending) || n->kind == MADE_FILE))
        r = made_fill(n, call, out);
    return r < 0 ? r : refused;
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
    struct made_range *range = NULL;
    struct pl_text text = {0};
    bool trunc = is_doc(n) && flags & O_TRUNC;
    int r = 0;
    pthread_mutex_lock(&made_of(tree)->lock);
    if (n->gone && n->kind != MADE_FIXED && n->kind != MADE_DIR)
        r = -ENOENT;
    pthread_mutex_unlock(&made_of(tree)->lock);
    if (r == 0 && n->kind == MADE_RANGED)
        r = made_range_open(n, call, &range);
    else if (r == 0 && !trunc)
        r = content(n, call, &text);
    bool again = r > 0 && (flags & O_ACCMODE) != O_RDONLY; /* to be committed again */
    if (r >= 0)
        r = made_file_new(n, &text, flags, ret);
    if (r < 0) {
        made_text_done(&text);
        made_range_unref(range);
        return r;
    }
    struct made_file *f = made_file_of(*ret);
    if (trunc || again)
        made_soil(f);
    f->range = range;
    if (range)
        f->file.fd = made_range_fd(range);
    return 0;
}

/* The last commit of the file failed, and nobody will ask for another through it. */
static void refused(struct made_node *n, struct made_file *f)
{
    struct pl_made *m = made_of(n->node.tree);
    struct made_node *unpinned = NULL;
    struct pl_text text = {0};
    char name[4 * PL_NAME_MAX + 1];
    bool keep = m->keep_failed && made_body_copy(&f->body, &text) == 0;
    pthread_mutex_lock(&m->lock);
    bool gone = n->gone || (n->kind == MADE_ENTRY && n->parent->gone);
    if (keep && !gone) {
        made_text_done(&n->text);
        n->text = text;
        text = (struct pl_text){0};
        n->refused = true;
        n->attr.size = n->kind == MADE_ENTRY ? n->text.n : 0;
        unpinned = n->kind == MADE_ENTRY ? made_pin(n) : NULL;
        f->creator = false; /* it is still there */
    }
    text_escape(name, sizeof(name), n->name, strlen(n->name));
    pthread_mutex_unlock(&m->lock);
    if (!gone)
        log_say(true,
                keep ? "%s: what was written was refused; it is kept for the next who writes to it"
                     : "%s: what was written was refused and is lost",
                name);
    made_text_done(&text);
    pl_node_unref(unpinned ? &unpinned->node : NULL);
}

int made_close(struct pl_tree *tree, struct pl_call *call, struct pl_file *file)
{
    struct made_file *f = made_file_of(file);
    struct made_node *n = made_node_of(file->node);
    if (n->kind == MADE_STREAM)
        made_stream_leave(n->stream, &f->reader);
    if (n->kind == MADE_FIXED)
        fixed_done(n);
    if (f->refused)
        refused(n, f);
    if (f->creator) { /* what was never put is not there */
        pthread_mutex_lock(&made_of(tree)->lock);
        n->pending = false;
        pthread_mutex_unlock(&made_of(tree)->lock);
    }
    if (f->file.kept > 0 && f->file.kept != f->body.fd)
        close(f->file.kept);
    free_file(made_of(tree), f);
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

/* Gives all of it to the program. Held. */
static int take_all(struct made_node *n, struct pl_call *call, struct made_file *f)
{
    struct pl_text copy = {0};
    if (f->body.fd < 0)
        return made_take(n, call, &f->body.text);
    int r = made_body_copy(&f->body, &copy); /* it may change under the program's eyes else */
    if (r == 0)
        r = made_take(n, call, &copy);
    made_text_done(&copy);
    return r;
}

static int commit(struct made_node *n, struct pl_call *call, struct made_file *f)
{
    if ((n->kind != MADE_CTL && !is_doc(n)) || (f->file.flags & O_ACCMODE) == O_RDONLY)
        return 0;
    int r = hold(f, call);
    if (r < 0)
        return r;
    if (f->broken) { /* it may have been run: nobody knows */
        r = -EIO;
        f->broken = false;
    } else if (f->dirty || made_body_changed(&f->body)) {
        r = n->kind == MADE_CTL ? made_ctl_begin(f) : 0;
        if (r == 0 && !unlinked(n))
            r = take_all(n, call, f);
        f->dirty = r < 0;
        f->refused = r < 0 && is_doc(n);
        if (n->kind == MADE_CTL) { /* a command that failed is not run again */
            f->dirty = false;
            made_body_resize(made_of(n->node.tree), &f->body, 0);
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
    if (node->kind == MADE_RANGED)
        return made_range_read(node, call, f->range, buf, n, off);
    int r = hold(f, call);
    if (r < 0)
        return r;
    const struct made_body fixed = {.text = node->text, .fd = -1};
    ssize_t got = made_body_read(node->kind == MADE_FIXED ? &fixed : &f->body, buf, n, off);
    unhold(f);
    return got;
}

/*
 * The text's length before something is appended is noted, and if it was noted already (this write
 * was begun by a server that died), all behind it is that write's, which is done anew: a door has
 * only to ask again with the same intent. (The kernel sends one write to a file at a time.)
 */
static int note_append(struct pl_made *m, struct pl_call *call, struct made_file *f)
{
    if (!call->intent)
        return 0;
    uint64_t before = atomic_load(&call->intent->size1), size = made_body_size(&f->body);
    if (before && before - 1 <= size)
        return before - 1 < size ? made_body_resize(m, &f->body, before - 1) : 0;
    atomic_store(&call->intent->size1, size + 1);
    return 0;
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
        r = note_append(made_of(tree), call, f);
        off = made_body_size(&f->body);
    }
    if (r == 0 && (n > max || off > max - n))
        r = -EFBIG;
    if (r == 0 && node->kind == MADE_CTL)
        r = made_ctl_note(f, buf, n);
    if (r == 0)
        r = made_body_write(made_of(tree), &f->body, buf, n, off);
    if (r == 0)
        f->dirty = true;
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
    struct made_file *f = file ? made_file_of(file) : NULL;
    if (f && f->range)
        attr->size = made_range_size(f->range);
    if (f && (n->kind == MADE_FILE || is_doc(n))) {
        int r = hold(f, call);
        if (r < 0)
            return r;
        attr->size = made_body_size(&f->body);
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
    if (!is_doc(n))
        return -EACCES;
    if (size > MADE_TEXT_MAX)
        return -EFBIG;
    struct pl_text own = {0};
    int r = f ? hold(f, call) : size ? content(n, call, &own) : 0;
    if (r < 0) {
        made_text_done(&own);
        return r;
    }
    if (f) {
        r = made_body_resize(made_of(n->node.tree), &f->body, (size_t)size);
        f->dirty = f->dirty || r == 0;
        unhold(f);
    } else {
        r = made_text_resize(&own, (size_t)size);
        if (r == 0)
            r = made_take(n, call, &own);
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
