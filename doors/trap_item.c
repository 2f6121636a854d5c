/* SPDX-License-Identifier: MIT */
/*
 * Items and places: see trap_priv.h.
 *
 * A directory of a tree is in a program a directory of tmpfs that has lost its name: read(2) of it
 * is EISDIR, lseek(2) keeps the position of the listing, and nobody can put anything into it. A
 * state is a memory file that can neither be read nor written. inotify tells when the inode goes
 * (a directory), or when the one descriptor by which it is open is closed for good (the others).
 */
#include "base/cred.h"
#include "doors/preload/shared.h"
#include "doors/trap_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- places ---- */

struct place *place_new(struct trap *t, struct trap_view *view, const struct top *top,
                        struct pl_node *node, const char *path)
{
    struct place *p = calloc(1, sizeof(*p));
    if (!p || !(p->path = strdup(path))) {
        free(p);
        return NULL;
    }
    atomic_init(&p->refs, 1);
    p->view = trap_view_ref(view);
    p->top = top;
    p->node = node ? pl_node_ref(node) : NULL;
    pthread_mutex_lock(&t->lock);
    p->next = &t->places;
    p->prev = t->places.prev;
    p->prev->next = p->next->prev = p;
    pthread_mutex_unlock(&t->lock);
    return p;
}

struct place *place_ref(struct place *p)
{
    if (p)
        atomic_fetch_add(&p->refs, 1);
    return p;
}

void place_unref(struct trap *t, struct place *p)
{
    if (!p || atomic_fetch_sub(&p->refs, 1) > 1)
        return;
    pthread_mutex_lock(&t->lock);
    p->prev->next = p->next;
    p->next->prev = p->prev;
    pthread_mutex_unlock(&t->lock);
    pl_node_unref(p->node);
    trap_view_unref(p->view);
    free(p->path);
    free(p);
}

bool place_path(struct trap *t, struct place *p, char path[PATH_MAX])
{
    pthread_mutex_lock(&t->lock);
    memcpy(path, p->path, strlen(p->path) + 1);
    bool is = !p->gone;
    pthread_mutex_unlock(&t->lock);
    return is;
}

void places_gone(struct trap *t, const char *path)
{
    pthread_mutex_lock(&t->lock);
    for (struct place *p = t->places.next; p != &t->places; p = p->next)
        p->gone |= p->top && strcmp(p->path, path) == 0;
    pthread_mutex_unlock(&t->lock);
}

static bool moved(struct place *p, const char *from, const char *to)
{
    size_t n = strlen(from);
    char *path;
    if (strncmp(p->path, from, n) != 0 || (p->path[n] && p->path[n] != '/') ||
        strlen(to) + strlen(p->path + n) >= PATH_MAX ||
        asprintf(&path, "%s%s", to, p->path + n) < 0)
        return false;
    free(p->path);
    p->path = path;
    return true;
}

void places_moved(struct trap *t, const char *from, const char *to, bool exchanged)
{
    pthread_mutex_lock(&t->lock);
    for (struct place *p = t->places.next; p != &t->places; p = p->next)
        if (p->top && (moved(p, from, to) || (exchanged && moved(p, to, from))))
            preload_moved(p->view->preload);
    pthread_mutex_unlock(&t->lock);
}

/* ---- items ---- */

static int id_of(int fd, struct item_id *ret)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    *ret = (struct item_id){st.st_dev, st.st_ino};
    return 0;
}

static void item_free(struct trap *t, struct item *it)
{
    struct pl_call call;
    pl_call_init_self(&call);
    if (it->file)
        pl_close(it->tree, &call, it->file);
    pl_call_done(&call);
    place_unref(t, it->place);
    place_unref(t, it->root);
    trap_view_unref(it->view);
    if (it->fd >= 0)
        close(it->fd);
    pthread_mutex_destroy(&it->lock);
    free(it);
}

void item_put(struct trap *t, struct item *it)
{
    if (it && atomic_fetch_sub(&it->refs, 1) == 1)
        item_free(t, it);
}

/* The preload finds by it what a descriptor is of. */
static void note_item(struct trap *t, const struct item *it)
{
    char path[PATH_MAX] = "";
    if (!it->view || !it->view->preload || it->kind == ITEM_BODY || it->root)
        return;
    if (it->place && (!it->place->top || !S_ISDIR(it->place->node->fmt)))
        return;
    if (it->place)
        place_path(t, it->place, path);
    preload_note_place(it->view->preload, it->id.dev, it->id.ino, path);
}

/* Called with t->lock; the item may be out of it. */
static void out_of_table(struct trap *t, struct item *it)
{
    if (!it->listed)
        return;
    HASH_DELETE(hh, t->items, it);
    it->listed = false;
    if (it->kind != ITEM_STATE)
        atomic_fetch_sub(&t->nitems, 1);
}

void item_leaves(struct trap *t, struct item *it)
{
    HASH_DELETE(hh_wd, t->items_wd, it);
    out_of_table(t, it);
}

/* Enters the item of the inode that `fd` has open, which `mask` will tell the end of. */
int item_add(struct trap *t, struct item *it, int fd, uint32_t mask)
{
    char path[40];
    int r = id_of(fd, &it->id);
    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    note_item(t, it);
    pthread_mutex_lock(&t->lock);
    it->wd = inotify_add_watch(t->inotify, path, mask); /* -1: it stays until the end */
    struct item *old;
    HASH_FIND(hh, t->items, &it->id, sizeof(it->id), old);
    if (old) /* the number is used again, and the end of the other has not been read yet */
        out_of_table(t, old);
    HASH_ADD(hh, t->items, id, sizeof(it->id), it);
    it->listed = true;
    if (it->kind != ITEM_STATE)
        atomic_fetch_add(&t->nitems, 1);
    if (it->wd >= 0)
        HASH_ADD(hh_wd, t->items_wd, wd, sizeof(it->wd), it);
    pthread_mutex_unlock(&t->lock);
    return 0;
}

struct item *item_new(enum item_kind kind, struct trap_view *view, struct place *place)
{
    struct item *it = calloc(1, sizeof(*it));
    if (!it)
        return NULL;
    atomic_init(&it->refs, 1);
    it->kind = kind;
    it->view = trap_view_ref(view);
    it->place = place_ref(place);
    it->tree = place && place->top ? place->top->tree : NULL;
    it->fd = it->wd = -1;
    pthread_mutex_init(&it->lock, NULL);
    return it;
}

static int reopen(int fd, int flags)
{
    char path[40];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int r = open(path, flags | O_CLOEXEC);
    return r < 0 ? -errno : r;
}

/* A memory file that can neither be read nor written. */
static int sealed_file(void)
{
    int fd = memfd_create("plenum-view", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int r = fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0
                ? -errno
                : reopen(fd, O_WRONLY);
    close(fd);
    return r;
}

/* What the program may see of them again by F_GETFL. */
#define DIR_FLAGS (O_DIRECTORY | O_NONBLOCK | O_APPEND | O_NOFOLLOW | O_SYNC | O_DSYNC)

/* An empty directory without a name. */
static int nameless_dir(struct trap *t, int flags)
{
    char name[40];
    snprintf(name, sizeof(name), ".plenum.%d.%u", getpid(), atomic_fetch_add(&t->serial, 1));
    if (mkdirat(t->scratch, name, 0700) < 0)
        return -errno;
    int fd = openat(t->scratch, name, O_RDONLY | O_CLOEXEC | (flags & DIR_FLAGS));
    int r = fd < 0 ? -errno : fd;
    unlinkat(t->scratch, name, AT_REMOVEDIR);
    return r;
}

static int item_with(struct trap *t, struct item *it, int fd, int *ret_fd)
{
    int r = !it ? -ENOMEM : fd < 0 ? fd : item_add(t, it, fd, IN_DELETE_SELF);
    if (r < 0 && it)
        item_free(t, it);
    if (r < 0 && fd >= 0)
        close(fd);
    if (r == 0)
        *ret_fd = fd;
    return r;
}

int item_state(struct trap *t, struct trap_view *view, struct place *place, struct place *root,
               int *ret_fd)
{
    cred_reset();
    struct item *it = item_new(ITEM_STATE, view, place);
    if (it)
        it->root = place_ref(root);
    return item_with(t, it, sealed_file(), ret_fd);
}

int item_node(struct trap *t, struct place *place, struct pl_file *file, int flags, int *ret_fd)
{
    cred_reset();
    struct item *it = item_new(ITEM_NODE, place->view, place);
    if (it)
        it->file = file; /* without memory it is lost; the little that it matters then */
    if (it)
        it->named_only = !file;
    return item_with(t, it, S_ISDIR(place->node->fmt) ? nameless_dir(t, flags) : sealed_file(),
                     ret_fd);
}

int item_copy(struct trap *t, struct place *place, int fd)
{
    struct item *it = item_new(ITEM_NODE, place->view, place);
    int r = it ? item_add(t, it, fd, IN_DELETE_SELF) : -ENOMEM;
    if (r < 0 && it)
        item_free(t, it);
    return r;
}

struct item *item_by_id(struct trap *t, const struct item_id *id)
{
    struct item *it;
    pthread_mutex_lock(&t->lock);
    HASH_FIND(hh, t->items, id, sizeof(*id), it);
    if (it)
        atomic_fetch_add(&it->refs, 1);
    pthread_mutex_unlock(&t->lock);
    return it;
}

struct item *item_find(struct trap *t, int fd)
{
    struct item_id id;
    if (id_of(fd, &id) < 0 || (id.dev != t->scratch_dev && id.dev != t->memfd_dev))
        return NULL;
    return item_by_id(t, &id);
}

struct item *item_at(struct tcall *c, int fd)
{
    struct item *it = item_find(c->t, fd);
    return it ? it : lent_item(c, fd, &c->broken);
}

struct item *item_of(struct tcall *c, int fd, int *ret_fd)
{
    if (ret_fd)
        *ret_fd = -1;
    if (fd != c->t->state_fd && !c->t->opts.pass_from && !atomic_load(&c->t->nitems))
        return NULL;
    int copy = who_fd(c->w, fd);
    if (copy == -EMFILE || copy == -ENFILE) {
        who_spare(c->t);
        copy = who_fd(c->w, fd);
    }
    if (copy == -EMFILE || copy == -ENFILE)
        c->broken = -ENFILE; /* not to be taken for the kernel's */
    if (copy < 0)
        return NULL;
    struct item *it = item_at(c, copy);
    if (it && ret_fd)
        *ret_fd = copy;
    else
        close(copy);
    return it;
}

/* ---- the end of items ---- */

/* With a reference; unless it is a body, out of the tables, whose reference that is. */
static struct item *closed(struct trap *t, int wd)
{
    struct item *it;
    pthread_mutex_lock(&t->lock);
    HASH_FIND(hh_wd, t->items_wd, &wd, sizeof(wd), it);
    if (it && it->kind != ITEM_BODY)
        item_leaves(t, it);
    pthread_mutex_unlock(&t->lock);
    return it;
}

void items_closed(struct trap *t)
{
    char buf[8192] __attribute__((aligned(8)));
    ssize_t n;
    pthread_mutex_lock(&t->closed_lock);
    while ((n = read(t->inotify, buf, sizeof(buf))) > 0) {
        for (char *p = buf; p < buf + n;) {
            struct inotify_event *ev = (struct inotify_event *)p;
            p += sizeof(*ev) + ev->len;
            struct item *it = ev->mask & IN_IGNORED ? NULL : closed(t, ev->wd);
            if (it && (it->kind != ITEM_BODY || body_closed(t, it)))
                item_put(t, it);
        }
    }
    pthread_mutex_unlock(&t->closed_lock);
}

/* ---- files handed out ---- */

static size_t hash_path(const char *path)
{
    return preload_hash(path, (uint32_t)strlen(path)) % TRAP_KNOWN;
}

static struct known *slot_of(struct trap *t, const struct item_id *id)
{
    return &t->known[(id->ino * 0x9e3779b97f4a7c15u ^ id->dev) >> 16 & (TRAP_KNOWN - 1)];
}

static bool is_known(const struct known *k, const struct item_id *id)
{
    return k->place && k->id.dev == id->dev && k->id.ino == id->ino;
}

static void set_known(struct trap *t, struct known *k, const struct item_id *id,
                      struct place *place)
{
    pthread_mutex_lock(&t->lock);
    struct place *old = k->place;
    k->place = place;
    k->id = *id;
    t->known_at[hash_path(place->path)] = (uint16_t)(k - t->known);
    pthread_mutex_unlock(&t->lock);
    place_unref(t, old);
}

void known_add(struct tcall *c, int fd, const struct target *target)
{
    struct trap *t = c->t;
    struct item_id id;
    if (id_of(fd, &id) < 0)
        return;
    struct known *k = slot_of(t, &id);
    pthread_mutex_lock(&t->lock);
    bool is = is_known(k, &id) && k->place->node == target->node &&
              strcmp(k->place->path, target->path) == 0;
    pthread_mutex_unlock(&t->lock);
    struct place *place = is ? NULL : target_place(c, target);
    if (place)
        set_known(t, k, &id, place);
}

void known_path(struct tcall *c, int fd, const char *path)
{
    struct trap *t = c->t;
    struct item_id id;
    if (id_of(fd, &id) < 0)
        return;
    struct known *k = slot_of(t, &id);
    pthread_mutex_lock(&t->lock);
    bool is = is_known(k, &id) && k->place->view == c->view && strcmp(k->place->path, path) == 0;
    pthread_mutex_unlock(&t->lock);
    const struct top *top = is ? NULL : view_top_at(c->view, path, false);
    struct place *place = top ? place_new(t, c->view, top, NULL, path) : NULL;
    if (place)
        set_known(t, k, &id, place);
}

void known_node(struct trap *t, const struct target *target)
{
    pthread_mutex_lock(&t->lock);
    struct place *p = t->known[t->known_at[hash_path(target->path)]].place;
    if (p && !p->node && p->top == target->top && strcmp(p->path, target->path) == 0)
        p->node = pl_node_ref(target->node);
    pthread_mutex_unlock(&t->lock);
}

void known_forget(struct trap *t, const struct trap_view *view)
{
    for (size_t i = 0; i < TRAP_KNOWN; i++) {
        pthread_mutex_lock(&t->lock);
        struct place *p = t->known[i].place;
        if (p && p->view == view)
            t->known[i].place = NULL;
        else
            p = NULL;
        pthread_mutex_unlock(&t->lock);
        place_unref(t, p);
    }
}

bool known_find(struct trap *t, const struct stat *st, char path[PATH_MAX], struct place **place)
{
    struct item_id id = {st->st_dev, st->st_ino};
    pthread_mutex_lock(&t->lock);
    struct known *k = slot_of(t, &id);
    bool is = is_known(k, &id) && (k->place->node || !place);
    if (is)
        memcpy(path, k->place->path, strlen(k->place->path) + 1);
    if (is && place)
        *place = place_ref(k->place);
    pthread_mutex_unlock(&t->lock);
    return is;
}

/* Is the file that `fd` has open what the view has at `path` now? */
static bool is_at(struct tcall *c, int fd, const struct stat *st, const char *path,
                  struct target *t)
{
    char host[PATH_MAX];
    struct stat found;
    bool is = walk_view(c, path, t) == 0 && t->top && t->node &&
              node_host(c, t->top, t->node, host) == 0 && lstat(host, &found) == 0 &&
              found.st_dev == st->st_dev && found.st_ino == st->st_ino;
    if (is) /* also for when it will have been copied up */
        known_add(c, fd, t);
    target_done(t);
    return is;
}

bool known_back(struct tcall *c, int fd, const struct stat *st, char path[PATH_MAX],
                struct place **place)
{
    char link[40], there[PATH_MAX];
    struct target *t = malloc(sizeof(*t));
    bool is = t && known_find(c->t, st, path, NULL) && is_at(c, fd, st, path, t);
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = t && !is ? readlink(link, there, sizeof(there) - 1) : -1;
    there[n < 0 ? 0 : n] = 0;
    for (unsigned i = 0;
         n > 0 && !is && preload_seen_at(c->view->preload, there, i, path, PATH_MAX); i++)
        is = is_at(c, fd, st, path, t);
    free(t);
    return is && known_find(c->t, st, path, place);
}

/* ---- all of them ---- */

static int open_scratch(void)
{
    const char *const places[] = {getenv("XDG_RUNTIME_DIR"), "/dev/shm", getenv("TMPDIR"), "/tmp"};
    for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
        int fd = places[i] ? open(places[i], O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
        if (fd >= 0 && faccessat(fd, ".", W_OK | X_OK, AT_EACCESS) == 0)
            return fd;
        if (fd >= 0)
            close(fd);
    }
    return -EACCES;
}

int items_init(struct trap *t, struct pl_err *err)
{
    struct item_id id = {0};
    t->places.next = t->places.prev = &t->places;
    t->scratch = open_scratch();
    if (t->scratch < 0)
        return pl_fail(err, -EACCES,
                       "/dev/shm: nothing can be made there, nor in /tmp (set TMPDIR)");
    t->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (t->inotify < 0)
        return pl_fail(err, -errno, "inotify: %s (raise fs.inotify.max_user_instances)",
                       strerror(errno));
    int fd = nameless_dir(t, 0);
    int r = fd < 0 ? fd : id_of(fd, &id);
    t->scratch_dev = id.dev;
    if (fd >= 0)
        close(fd);
    fd = r < 0 ? -1 : sealed_file();
    if (r == 0 && (r = fd < 0 ? fd : id_of(fd, &id)) == 0)
        t->memfd_dev = id.dev;
    if (fd >= 0)
        close(fd);
    return r < 0 ? pl_fail(err, r, "scratch files cannot be made: %s", strerror(-r)) : 0;
}

void items_done(struct trap *t)
{
    if (t->inotify >= 0)
        items_closed(t);
    struct item *it, *next;
    HASH_CLEAR(hh_wd, t->items_wd);
    HASH_ITER (hh, t->items, it, next) {
        HASH_DEL(t->items, it);
        item_put(t, it);
    }
    for (size_t i = 0; i < TRAP_KNOWN; i++)
        place_unref(t, t->known[i].place);
    if (t->scratch >= 0)
        close(t->scratch);
    if (t->inotify >= 0)
        close(t->inotify);
}
