/* SPDX-License-Identifier: MIT */
/*
 * Bodies: the content of a file whose tree has no descriptor for it (a far one, memory, generated),
 * in a memory file that the program gets instead. It is read as a whole when it is opened. One that
 * is open for writing is shared by all who open the file meanwhile, and written to the tree
 * whenever one of them has closed it, if it has changed.
 */
#include "doors/trap_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHUNK (256 << 10)

/* All that the file has into `fd`. */
static int fill_body(struct tcall *c, struct pl_tree *tree, struct pl_file *file, int fd)
{
    char *buf = malloc(CHUNK);
    uint64_t off = 0;
    ssize_t n = buf ? 1 : -ENOMEM;
    while (n > 0 && (n = pl_read(tree, &c->call, file, buf, CHUNK, off)) > 0) {
        if (pwrite(fd, buf, (size_t)n, (off_t)off) != n)
            n = -ENOSPC;
        else
            off += (uint64_t)n;
    }
    free(buf);
    return n < 0 ? (int)n : 0;
}

static int again(int fd, int flags)
{
    char path[40];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int how = flags & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_TRUNC | O_NOATIME);
    int r = open(path, how | O_CLOEXEC);
    return r < 0 ? -errno : r;
}

/* The body that the file has already, since somebody writes it. Called with t->lock. */
static struct item *body_of(struct trap *t, const struct pl_node *node)
{
    for (struct item *it = t->items; it && atomic_load(&t->nbodies); it = it->hh.next)
        if (it->kind == ITEM_BODY && it->place->node == node)
            return it;
    return NULL;
}

static int64_t stamp(int fd)
{
    struct stat st;
    return fstat(fd, &st) < 0 ? 0 : st.st_mtim.tv_sec * 1000000000LL + st.st_mtim.tv_nsec;
}

/* What is written back goes to places, not to the end. */
static int without_append(struct tcall *c, const struct target *t, struct pl_file **file)
{
    struct pl_file *other;
    if (!((*file)->flags & O_APPEND))
        return 0;
    int r = pl_open(t->top->tree, &c->call, t->node, O_WRONLY, &other);
    if (r < 0)
        return r;
    pl_close(t->top->tree, &c->call, *file);
    *file = other;
    return 0;
}

/* Makes `content` the file's body for all who open it. Takes `file` over if it works. */
static int new_body(struct tcall *c, const struct target *t, struct place *place,
                    struct pl_file **file, int content)
{
    int r = without_append(c, t, file);
    struct item *it = r < 0 ? NULL : item_new(ITEM_BODY, c->view, place);
    if (!it)
        return r < 0 ? r : -ENOMEM;
    it->fd = again(content, O_RDONLY);
    it->stamp = stamp(content);
    it->file = *file;
    atomic_fetch_add(&c->t->nbodies, 1);
    r = it->fd < 0 ? it->fd : item_add(c->t, it, content, IN_CLOSE_WRITE);
    if (r < 0) {
        atomic_fetch_sub(&c->t->nbodies, 1);
        it->file = NULL;
        item_put(c->t, it);
        return r;
    }
    *file = NULL; /* from here on the item may be gone at any time */
    return 0;
}

/* A file opened for writing alone cannot be read: what there is comes by another open. */
static int read_in(struct tcall *c, const struct target *t, int flags, int fd)
{
    struct pl_file *in;
    if (flags & O_TRUNC && (flags & O_ACCMODE) != O_RDONLY)
        return 0;
    int r = pl_open(t->top->tree, &c->call, t->node, O_RDONLY, &in);
    if (r < 0)
        return r;
    r = fill_body(c, t->top->tree, in, fd);
    pl_close(t->top->tree, &c->call, in);
    return r;
}

static int join_body(struct tcall *c, const struct target *t, int flags)
{
    items_closed(c->t); /* what was closed just now is to be seen */
    pthread_mutex_lock(&c->t->lock);
    struct item *it = body_of(c->t, t->node);
    int fd = it ? again(it->fd, flags) : -ENOENT;
    pthread_mutex_unlock(&c->t->lock);
    return fd;
}

/* The content, and a descriptor of it as it was asked for. */
static int make_body(struct tcall *c, const struct target *t, struct pl_file **file, int flags)
{
    struct place *place = target_place(c, t);
    int content = memfd_create("plenum-file", MFD_CLOEXEC);
    int r = !place ? -ENOMEM : content < 0 ? -errno : read_in(c, t, flags, content);
    int fd = r < 0 ? r : again(content, flags & ~O_TRUNC);
    r = fd;
    if (fd >= 0 && (flags & O_ACCMODE) != O_RDONLY)
        r = new_body(c, t, place, file, content);
    else if (fd >= 0)
        r = item_copy(c->t, place, content);
    if (r < 0 && fd >= 0)
        close(fd);
    if (content >= 0)
        close(content);
    place_unref(c->t, place);
    return r < 0 ? r : fd;
}

int open_body(struct tcall *c, const struct target *t, struct pl_file *file, int flags, int *ret_fd)
{
    int fd = atomic_load(&c->t->nbodies) ? join_body(c, t, flags) : -ENOENT;
    if (fd == -ENOENT)
        fd = make_body(c, t, &file, flags);
    if (file)
        pl_close(t->top->tree, &c->call, file);
    *ret_fd = fd;
    return fd < 0 ? fd : 0;
}

void body_stat(struct trap *t, struct pl_node *node, struct stat *st)
{
    struct stat now;
    items_closed(t);
    pthread_mutex_lock(&t->lock);
    struct item *it = body_of(t, node);
    if (it && fstat(it->fd, &now) == 0 && stamp(it->fd) != atomic_load(&it->stamp)) {
        st->st_size = now.st_size;
        st->st_blocks = now.st_blocks;
        st->st_mtim = now.st_mtim;
    }
    pthread_mutex_unlock(&t->lock);
}

/* Is it open for writing still? A lease is only given to one who reads alone. */
static bool is_written(int fd)
{
    if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
        return errno == EAGAIN;
    fcntl(fd, F_SETLEASE, F_UNLCK);
    return false;
}

void body_sync(struct item *it)
{
    struct pl_call call;
    struct pl_attr attr;
    char *buf = malloc(CHUNK);
    off_t off = 0;
    ssize_t n = 0;
    struct pl_setattr set = {.valid = PL_SET_SIZE};
    pl_call_init_self(&call);
    pthread_mutex_lock(&it->lock);
    int64_t now = stamp(it->fd);
    if (buf && now != atomic_load(&it->stamp)) {
        atomic_store(&it->stamp, now);
        while ((n = pread(it->fd, buf, CHUNK, off)) > 0) {
            ssize_t w = pl_write(it->tree, &call, it->file, buf, (size_t)n, (uint64_t)off);
            if (w <= 0)
                break;
            off += w;
        }
        set.size = (uint64_t)off;
        pl_setattr(it->tree, &call, it->place->node, it->file, &set, &attr);
        pl_flush(it->tree, &call, it->file, 0);
    }
    pthread_mutex_unlock(&it->lock);
    pl_call_done(&call);
    free(buf);
}

bool body_closed(struct trap *t, struct item *it)
{
    body_sync(it);
    pthread_mutex_lock(&t->lock);
    bool last = !is_written(it->fd);
    if (last) {
        item_leaves(t, it);
        atomic_fetch_sub(&t->nbodies, 1);
        inotify_rm_watch(t->inotify, it->wd);
    }
    pthread_mutex_unlock(&t->lock);
    return last;
}
