/* SPDX-License-Identifier: MIT */
/*
 * Open files of a space: each is one of a lower tree, and its descriptor is lent. What was opened
 * for reading before its object was copied up is read from the copy then: a door's cache is of the
 * object, not of the open. Who reads by the descriptor goes on with the lower one's bytes, as in
 * overlayfs.
 *
 * Locks are kept by the node, for they must outlive a copying-up, where that may come; else by the
 * tree, so that others who use it see them.
 */
#include "tree/space.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

int space_opened(struct space *s, struct pl_call *call, struct space_stack *st, struct pl_tree *in,
                 struct pl_file *lower, struct pl_file **ret)
{
    struct sfile *f = calloc(1, sizeof(*f));
    if (!f) {
        if (lower)
            pl_close(in, call, lower);
        return -ENOMEM;
    }
    atomic_fetch_add(&st->refs, 1);
    f->stack = st;
    f->tree = in;
    f->lower = lower;
    f->file.fd = lower ? pl_file_fd(in, lower) : -1;
    f->file.kept = lower ? lower->kept : 0;
    f->below = st->n && st->point->top >= 0 &&
               (!space_in_place(st->point, st->e[0].k) || (lower && lower->node != st->e[0].node));
    f->file.moves = f->below || (lower && lower->moves);
    f->file.direct = lower && lower->direct;
    f->file.stream = lower && lower->stream;
    pthread_mutex_init(&f->mutex, NULL);
    *ret = &f->file;
    return 0;
}

static int open_front(struct space *s, struct pl_call *call, struct space_stack *st, int flags,
                      struct pl_file **ret)
{
    struct pl_tree *in = NULL;
    struct pl_file *lower = NULL;
    if (st->n) {
        bool own = call->own;
        in = space_tree(st->point, st->e[0].k);
        call->own = own && space_in_place(st->point, st->e[0].k); /* no touch of what is behind */
        int r = pl_open(in, call, st->e[0].node, flags, &lower);
        call->own = own;
        if (r < 0)
            return r;
    }
    return space_opened(s, call, st, in, lower, ret);
}

/* To read what lies in a layer behind: who may read the file in front may read that. */
static int open_hollow(struct space *s, struct pl_call *call, struct snode *n,
                       struct space_stack *st, int flags, struct pl_file **ret)
{
    struct pl_tree *in;
    struct pl_node *node;
    struct pl_file *lower = NULL;
    int r = space_may(s, call, st, R_OK);
    if (r < 0)
        return r;
    struct space_as as = space_self(s, call);
    r = space_content(s, call, n, &in, &node);
    if (r == 0) {
        r = pl_open(in, call, node, flags, &lower);
        pl_node_unref(node);
    }
    space_back(call, &as);
    return r < 0 ? r : space_opened(s, call, st, in, lower, ret);
}

int space_open(SPACE_T, struct pl_node *node, int flags, struct pl_file **ret)
{
    struct space *s = space_of(tree);
    struct snode *n = snode_of(node);
    struct space_stack *st;
    int acc = flags & O_ACCMODE, r = 0;
    if (node->fmt == S_IFDIR) {
        r = space_dir(s, call, n, &st);
    } else {
        st = space_stack(s, n);
        bool writes = acc != O_RDONLY || flags & O_TRUNC;
        if (writes && st->point->top < 0) {
            r = -EROFS;
        } else if (writes && (n->hollow || !space_in_place(st->point, st->e[0].k))) {
            r = space_may(s, call, st, (acc != O_WRONLY ? R_OK : 0) | W_OK);
            if (r == 0)
                r = space_up(s, call, n, !(flags & O_TRUNC));
            space_stack_unref(st);
            st = space_stack(s, n);
        }
        if (r < 0)
            space_stack_unref(st);
    }
    if (r < 0)
        return r;
    r = n->hollow ? open_hollow(s, call, n, st, flags, ret) : open_front(s, call, st, flags, ret);
    space_stack_unref(st);
    return r;
}

/* The lower file that a predecessor kept open, as an object of the top that has no name any more.
 */
static int resume_nameless(struct space *s, struct pl_call *call, int flags, int kept,
                           struct pl_file **ret)
{
    struct space_stack *root = space_stack(s, s->root);
    struct space_point *p = root->point;
    int k = p->top < 0 ? 0 : p->top;
    struct pl_file *lower;
    struct snode *n;
    struct pl_attr attr;
    int r = p->n ? pl_resume(space_tree(p, k), call, NULL, flags, kept, &lower) : -ESTALE;
    if (r == 0)
        r = pl_getattr(space_tree(p, k), call, lower->node, lower, &attr);
    if (r < 0) {
        space_stack_unref(root);
        return r;
    }
    struct space_found f = {.table = space_table_ref(root->table),
                            .point = p,
                            .n = 1,
                            .fmt = lower->node->fmt,
                            .again = true,
                            .attr = attr};
    f.e[0] = (struct space_entry){k, pl_node_ref(lower->node)};
    r = f.fmt == S_IFREG ? space_node(s, call, NULL, NULL, &f, &n) : -ESTALE;
    if (r == 0) {
        struct space_stack *st = space_stack(s, n);
        r = space_opened(s, call, st, space_tree(p, k), lower, ret);
        space_stack_unref(st);
        if (r == 0)
            (*ret)->node = &n->node;
        else
            pl_node_unref(&n->node);
    } else {
        pl_close(space_tree(p, k), call, lower);
    }
    space_stack_unref(root);
    return r;
}

int space_resume(SPACE_T, struct pl_node *node, int flags, int kept, struct pl_file **ret)
{
    struct space *s = space_of(tree);
    int r;
    if (!node) {
        r = resume_nameless(s, call, flags, kept, ret);
    } else {
        struct space_stack *st = space_stack(s, snode_of(node));
        struct pl_tree *in = st->n ? space_tree(st->point, st->e[0].k) : NULL;
        struct pl_file *lower = NULL;
        struct pl_node *front = in ? pl_node_ref(st->e[0].node) : NULL;
        r = 0;
        if (in && snode_of(node)->hollow) {
            pl_node_unref(front);
            struct space_as as = space_self(s, call);
            r = space_content(s, call, snode_of(node), &in, &front);
            space_back(call, &as);
        }
        if (in && r == 0) {
            r = pl_resume(in, call, front, flags, kept, &lower);
            if (r == -ESTALE && kept > 0) /* it was open before it was copied up */
                r = pl_resume(in, call, front, flags, 0, &lower);
        } else if (kept > 0) {
            close(kept);
        }
        if (r == 0)
            r = space_opened(s, call, st, in, lower, ret);
        if (r == 0)
            (*ret)->node = pl_node_ref(node);
        pl_node_unref(front);
        space_stack_unref(st);
    }
    if (r == 0) {
        (*ret)->tree = tree;
        (*ret)->flags = (uint32_t)flags;
    }
    return r;
}

int space_close(SPACE_T, struct pl_file *file)
{
    struct space *s = space_of(tree);
    struct sfile *f = sfile_of(file);
    struct snode *n = snode_of(file->node);
    pthread_mutex_lock(&s->names);
    struct pl_locks *locks = n->locks;
    pthread_mutex_unlock(&s->names);
    if (locks)
        pl_locks_undo(locks, call, &f->owners);
    int r = f->lower ? pl_close(f->tree, call, f->lower) : 0;
    if (f->copy)
        pl_close(f->copy_tree, call, f->copy);
    space_list_free(f->list);
    space_stack_unref(f->stack);
    pthread_mutex_destroy(&f->mutex);
    free(f);
    return r;
}

/* ---- bytes ---- */

/* Opens the copy of what was opened before it was copied up, as the owner: who has it open may. */
static int open_copy(struct space *s, struct pl_call *call, struct sfile *f)
{
    struct pl_file *copy;
    int r = 0;
    pthread_mutex_lock(&f->mutex);
    if (!f->copy) {
        struct space_stack *st = space_stack(s, snode_of(f->file.node));
        struct space_as as = space_self(s, call);
        f->copy_tree = space_tree(st->point, st->e[0].k);
        call->own = true;
        r = pl_open(f->copy_tree, call, st->e[0].node, O_RDONLY, &copy);
        if (r == 0)
            f->copy = copy;
        space_back(call, &as);
        space_stack_unref(st);
    }
    pthread_mutex_unlock(&f->mutex);
    return r;
}

/* The lower file that has the bytes now. */
static int bytes_of(struct space *s, struct pl_call *call, struct sfile *f, struct pl_tree **tree,
                    struct pl_file **ret)
{
    *tree = f->tree;
    *ret = f->lower;
    if (!f->below || !snode_of(f->file.node)->raised)
        return f->lower ? 0 : -EINVAL;
    int r = f->copy ? 0 : open_copy(s, call, f);
    *tree = f->copy_tree;
    *ret = f->copy;
    return r;
}

ssize_t space_read(SPACE_T, struct pl_file *file, void *buf, size_t n, uint64_t off)
{
    struct pl_tree *in;
    struct pl_file *lower;
    int r = bytes_of(space_of(tree), call, sfile_of(file), &in, &lower);
    return r < 0 ? r : pl_read(in, call, lower, buf, n, off);
}

ssize_t space_write(SPACE_T, struct pl_file *file, const void *buf, size_t n, uint64_t off)
{
    return pl_write(sfile_of(file)->tree, call, sfile_of(file)->lower, buf, n, off);
}

int64_t space_seek(SPACE_T, struct pl_file *file, uint64_t off, int whence)
{
    struct pl_tree *in;
    struct pl_file *lower;
    int r = bytes_of(space_of(tree), call, sfile_of(file), &in, &lower);
    return r < 0 ? r : pl_seek(in, call, lower, off, whence);
}

int space_fsync(SPACE_T, struct pl_file *file, bool data_only)
{
    struct sfile *f = sfile_of(file);
    /* What was opened before it was copied up: the copy is what there is to write. */
    if (file->node->fmt == S_IFDIR) {
        struct space_stack *st = space_stack(space_of(tree), snode_of(file->node));
        struct pl_node *top = st->point->top < 0 ? NULL : space_entry(st, st->point->top);
        struct pl_file *lower;
        int r = 0;
        if (top && f->lower && top != f->lower->node) {
            struct pl_tree *in = space_tree(st->point, st->point->top);
            struct space_as as = space_self(space_of(tree), call);
            r = pl_open(in, call, top, O_RDONLY | O_DIRECTORY, &lower);
            if (r == 0) {
                r = pl_fsync(in, call, lower, data_only);
                pl_close(in, call, lower);
            }
            space_back(call, &as);
            space_stack_unref(st);
            return r;
        }
        space_stack_unref(st);
    }
    return f->lower ? pl_fsync(f->tree, call, f->lower, data_only) : 0;
}

int space_fallocate(SPACE_T, struct pl_file *file, int mode, uint64_t off, uint64_t len)
{
    return pl_fallocate(sfile_of(file)->tree, call, sfile_of(file)->lower, mode, off, len);
}

ssize_t space_copy(SPACE_T, struct pl_file *in, uint64_t off_in, struct pl_file *out,
                   uint64_t off_out, size_t n)
{
    enum { SIZE = 256 << 10 };
    struct sfile *to = sfile_of(out);
    struct pl_tree *from;
    struct pl_file *lower;
    ssize_t r = bytes_of(space_of(tree), call, sfile_of(in), &from, &lower);
    if (r < 0)
        return r;
    if (from == to->tree)
        return pl_copy(to->tree, call, lower, off_in, to->lower, off_out, n);
    char *buf = malloc(SIZE);
    size_t done = 0;
    r = buf ? 0 : -ENOMEM;
    while (buf && done < n && (done == 0 || pl_call_over(call) == 0)) {
        size_t want = n - done < SIZE ? n - done : SIZE;
        r = pl_read(from, call, lower, buf, want, off_in + done);
        ssize_t got = r;
        if (r > 0)
            r = pl_write(to->tree, call, to->lower, buf, (size_t)r, off_out + done);
        if (r <= 0)
            break;
        done += (size_t)r;
        if (r < got)
            break;
    }
    free(buf);
    return done ? (ssize_t)done : r;
}

int space_poll(SPACE_T, struct pl_file *file, struct pl_poller *poller)
{
    struct sfile *f = sfile_of(file);
    return f->lower ? pl_poll(f->tree, call, f->lower, poller) : POLLIN | POLLRDNORM;
}

int space_ioctl(SPACE_T, struct pl_file *file, unsigned cmd, void *buf, size_t in_size,
                size_t out_size)
{
    struct sfile *f = sfile_of(file);
    if (!f->lower)
        return -ENOTTY;
    if (in_size && !space_in_place(f->stack->point, f->stack->e[0].k))
        return -EROFS; /* a change, of what must not be changed there */
    return pl_ioctl(f->tree, call, f->lower, cmd, buf, in_size, out_size);
}

/* ---- locks ---- */

/* The node's own table; NULL: the tree keeps them. -ENOMEM. */
static int locks_of(struct space *s, const struct sfile *f, struct pl_locks **ret)
{
    struct snode *n = snode_of(f->file.node);
    *ret = NULL;
    if (!n->rises && f->lower && pl_tree_has(f->tree, PL_OP_lock))
        return 0;
    pthread_mutex_lock(&s->names);
    if (!n->locks && (n->locks = calloc(1, sizeof(*n->locks))))
        pl_locks_init(n->locks);
    *ret = n->locks;
    pthread_mutex_unlock(&s->names);
    return *ret ? 0 : -ENOMEM;
}

int space_lock(SPACE_T, struct pl_file *file, const struct pl_lock *lock)
{
    struct sfile *f = sfile_of(file);
    struct pl_locks *own;
    int r = locks_of(space_of(tree), f, &own);
    if (r < 0)
        return r;
    return own ? pl_locks_set_by(own, call, &f->owners, lock)
               : pl_lock(f->tree, call, f->lower, lock);
}

int space_getlock(SPACE_T, struct pl_file *file, struct pl_lock *lock)
{
    struct sfile *f = sfile_of(file);
    struct pl_locks *own;
    int r = locks_of(space_of(tree), f, &own);
    if (r < 0)
        return r;
    return own ? pl_locks_get(own, lock) : pl_getlock(f->tree, call, f->lower, lock);
}

int space_flush(SPACE_T, struct pl_file *file, uint64_t owner)
{
    struct space *s = space_of(tree);
    struct sfile *f = sfile_of(file);
    struct snode *n = snode_of(file->node);
    const struct pl_lock un = {.type = F_UNLCK, .owner = owner, .end = PL_OFF_MAX};
    pthread_mutex_lock(&s->names);
    struct pl_locks *locks = n->locks;
    pthread_mutex_unlock(&s->names);
    if (locks)
        pl_locks_set_by(locks, call, &f->owners, &un);
    return f->lower ? pl_flush(f->tree, call, f->lower, owner) : 0;
}
