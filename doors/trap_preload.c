/* SPDX-License-Identifier: MIT */
/*
 * What the trap does for the preload: the table of a view; and directories that it has lent
 * (doors/preload/shared.h): physical ones of a view, open in a program, marked as what came from a
 * tree. In calls that come here such a descriptor stands for the directory of the view in which it
 * is; where the kernel would list it, it becomes an item's.
 *
 * What leads back is the path at which the directory is now, in the view of the caller; or in one
 * that it had before, for what is open stays what it is.
 */
#include "doors/preload/shared.h"
#include "doors/trap_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

int trap_view_preload(struct trap_view *view, const void *pack, size_t size)
{
    struct preload_table *t;
    int r = preload_table_new(pack, size, &t);
    if (r < 0)
        return r;
    size_t n = 0;
    const char *top;
    for (uint32_t i = 0; r == 0 && (top = preload_top(t, i)); i++) {
        r = view_top_at(view, top, false) ? 0 : -EINVAL;
        n += view_top_at(view, top, true) != NULL;
    }
    if (r == 0 && n != view->n)
        r = -EINVAL;
    if (r < 0)
        preload_table_free(t);
    else
        view->preload = t;
    return r;
}

/* The place in `view` of the physical directory at `there`; NULL. */
static struct place *place_in(struct tcall *c, struct trap_view *view, const char *there)
{
    char path[PATH_MAX];
    struct place *place = NULL;
    struct tcall as = *c; /* whatever the caller may search by now, and its root */
    struct target *t = malloc(sizeof(*t));
    as.view = view;
    as.state = NULL;
    pl_call_init_self(&as.call);
    for (unsigned i = 0; t && !place && preload_seen_at(view->preload, there, i, path, PATH_MAX);
         i++) {
        if (walk_text(&as, AT_FDCWD, path, 0, t) == 0 && t->top && t->node && S_ISDIR(t->node->fmt))
            place = target_place(&as, t);
        target_done(t);
    }
    pl_call_done(&as.call);
    free(t);
    return place;
}

static struct trap_view *former(struct trap *t, size_t i)
{
    pthread_mutex_lock(&t->who_lock);
    struct trap_view *v = i < t->nformer ? t->former[t->nformer - 1 - i] : NULL;
    pthread_mutex_unlock(&t->who_lock);
    return v;
}

struct item *lent_item(struct tcall *c, int fd, int *broken)
{
    char link[40], there[PATH_MAX];
    struct stat st;
    if (!c->view || fcntl(fd, F_GETSIG) != PRELOAD_TAG || fstat(fd, &st) < 0 ||
        !S_ISDIR(st.st_mode))
        return NULL;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = st.st_nlink ? readlink(link, there, sizeof(there) - 1) : -1;
    there[n < 0 ? 0 : n] = 0;
    struct place *place = n > 0 ? place_in(c, c->view, there) : NULL;
    struct trap_view *v;
    for (size_t i = 0; n > 0 && !place && (v = former(c->t, i)); i++)
        place = place_in(c, v, there);
    struct item *it = place ? item_new(ITEM_NODE, place->view, place) : NULL;
    place_unref(c->t, place);
    if (it)
        it->lent = true;
    else
        *broken = -ENOENT;
    return it;
}

static bool is_cloexec(struct tcall *c, int at)
{
    char path[48], line[256] = "";
    unsigned flags = 0;
    snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", c->w->tid, at);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
    const char *s = n > 0 ? strstr(line, "flags:") : NULL;
    if (fd >= 0)
        close(fd);
    return s && sscanf(s + 6, "%o", &flags) == 1 && flags & O_CLOEXEC;
}

/* In place of the caller's descriptor number `at`. */
static int put_fd(struct tcall *c, int fd, int at)
{
    struct seccomp_notif_addfd a = {.id = c->n->id,
                                    .flags = SECCOMP_ADDFD_FLAG_SETFD,
                                    .srcfd = (uint32_t)fd,
                                    .newfd = (uint32_t)at,
                                    .newfd_flags = is_cloexec(c, at) ? O_CLOEXEC : 0};
    return ioctl(c->t->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a) < 0 ? -errno : 0;
}

int lent_take(struct tcall *c, int at, struct item **it, int *fd)
{
    struct place *place = (*it)->place;
    struct pl_call self; /* it is open: nobody is asked again */
    struct pl_file *file;
    int made;
    pl_call_init_self(&self);
    int r = pl_open(place->top->tree, &self, place->node, O_RDONLY | O_DIRECTORY, &file);
    pl_call_done(&self);
    if (r == 0)
        r = item_node(c->t, place, file, fcntl(*fd, F_GETFL), &made);
    if (r < 0)
        return r;
    lseek(made, lseek(*fd, 0, SEEK_CUR), SEEK_SET);
    struct item *is = item_find(c->t, made);
    r = put_fd(c, made, at);
    close(*fd);
    item_put(c->t, *it);
    *fd = made;
    *it = is;
    return r;
}

void lent_former(struct trap *t, struct trap_view *view)
{
    if (!view->preload)
        return;
    preload_stale(view->preload);
    pthread_mutex_lock(&t->who_lock);
    bool has = t->nformer == TRAP_FORMER;
    for (size_t i = 0; i < t->nformer; i++)
        has |= t->former[i] == view;
    if (!has)
        t->former[t->nformer++] = trap_view_ref(view);
    pthread_mutex_unlock(&t->who_lock);
}

void lent_done(struct trap *t)
{
    for (size_t i = 0; i < t->nformer; i++)
        trap_view_unref(t->former[i]);
}
