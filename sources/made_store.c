/* SPDX-License-Identifier: MIT */
/*
 * Directories of documents: what is there is the program's to say, at each lookup and listing. A
 * node exists for an entry as long as somebody refers to it; store->dir finds it again.
 *
 * An entry is what its name says: the number that stat(2) tells is made of the name, so that it is
 * the same however often the node comes and goes (a 9P client without a cache lets go of it between
 * stat and open, and cp(1) then compares the two).
 *
 * An entry that was created is `pending`, and seen by all, until its first flush puts it: a put
 * with no content, which the program might not like, is made only for a file that is left empty.
 */
#include "sources/made.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ENTRY_MODE (S_IFREG | 0644)

static bool is_gone(struct pl_made *m, struct made_node *store)
{
    pthread_mutex_lock(&m->lock);
    bool gone = store->gone;
    pthread_mutex_unlock(&m->lock);
    return gone;
}

/* Of 62 bits. */
static uint64_t hash_name(uint64_t seed, const char *name)
{
    uint64_t h = 0xcbf29ce484222325u ^ seed;
    for (const unsigned char *p = (const unsigned char *)name; *p; p++)
        h = (h ^ *p) * 0x100000001b3u;
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15u;
    return (h ^ h >> 29) >> 2;
}

/* The number of the entry of that name; all others stay below. */
uint64_t made_entry_ino(const struct made_node *store, const char *name)
{
    return hash_name(store->attr.ino, name) | UINT64_C(1) << 62;
}

/* The live node of that name with a reference added, or NULL. With the lock held. */
static struct made_node *live(struct made_node *store, const char *name)
{
    struct name *e = names_find(&store->dir, name);
    struct made_node *n = e ? e->value : NULL;
    return n && pl_node_tryref(&n->node) ? n : NULL;
}

/* The node of that name, made if need be, with a reference. With the lock held. */
static int get_node(struct pl_made *m, struct made_node *store, const char *name,
                    struct made_node **ret)
{
    struct made_node *n = live(store, name);
    if (!n) {
        struct name *e = names_find(&store->dir, name); /* of one that is being released */
        n = made_node_new(m, store, MADE_ENTRY, name, ENTRY_MODE);
        if (!n || !(e ? e : (e = names_add(&store->dir, name, n)))) {
            if (n)
                free(n->name);
            free(n);
            return -ENOMEM;
        }
        e->value = n;
        n->parent = store;
        pl_node_ref(&store->node);
        n->fill = store->store.get;
        n->take = store->store.put;
        n->arg = store->store.arg;
    }
    *ret = n;
    return 0;
}

/* Remembers the node if there is something to remember. With the lock held; the caller unrefs what
 * is returned (or NULL) after it. */
struct made_node *made_pin(struct made_node *n)
{
    bool same = n->attr.mode == ENTRY_MODE && n->attr.uid == geteuid() && n->attr.gid == getegid();
    bool pin = (!same || n->refused) && !n->gone, was = n->pinned;
    n->pinned = pin;
    if (pin && !was)
        pl_node_ref(&n->node);
    return was && !pin ? n : NULL;
}

/* The program says that there is no such entry: what we remembered of it is void. */
static void forget(struct pl_made *m, struct made_node *store, const char *name)
{
    pthread_mutex_lock(&m->lock);
    struct made_node *n = live(store, name);
    bool drop = n && n->pinned && !n->pending;
    if (drop)
        n->pinned = false;
    pthread_mutex_unlock(&m->lock);
    if (drop)
        pl_node_unref(&n->node);
    pl_node_unref(n ? &n->node : NULL);
}

void made_store_unpin(struct pl_made *m, struct made_node *store)
{
    uint64_t at = 0;
    for (struct name *e; (e = names_from(&store->dir, at));) {
        struct made_node *n = e->value;
        at = e->pos + 1;
        if (!n->pinned)
            continue;
        n->pinned = false;
        pthread_mutex_unlock(&m->lock);
        pl_node_unref(&n->node);
        pthread_mutex_lock(&m->lock);
    }
}

/* The entry and its content; -ENOENT. A pending one has none yet. */
static int get_entry(struct pl_made *m, struct pl_call *call, struct made_node *store,
                     const char *name, struct pl_text *text, struct made_node **ret)
{
    struct pl_made_req req = {call, name, store->store.arg};
    pthread_mutex_lock(&m->lock);
    struct made_node *n = live(store, name);
    bool pending = n && n->pending, gone = store->gone;
    pthread_mutex_unlock(&m->lock);
    int r = gone ? -ENOENT : 0;
    if (r == 0 && !pending) {
        pl_node_unref(n ? &n->node : NULL);
        n = NULL;
        r = store->store.get(&req, text);
        if (r >= 0)
            r = text->error;
        if (r == -ENOENT)
            forget(m, store, name);
        if (r == 0) {
            pthread_mutex_lock(&m->lock);
            r = get_node(m, store, name, &n);
            if (r == 0)
                n->attr.size = text->n;
            pthread_mutex_unlock(&m->lock);
        }
    }
    if (r == 0)
        *ret = n;
    else
        pl_node_unref(n ? &n->node : NULL);
    return r;
}

int made_store_lookup(struct pl_made *m, struct pl_call *call, struct made_node *store,
                      const char *name, struct made_node **ret)
{
    struct pl_text text = {0};
    int r = get_entry(m, call, store, name, &text, ret);
    made_text_done(&text);
    return r;
}

/* ---- listing ---- */

void made_list_done(struct made_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->item[i].name);
    free(l->item);
    *l = (struct made_list){0};
}

const struct made_item *made_list_from(const struct made_list *l, uint64_t pos)
{
    size_t lo = 0, hi = l->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (l->item[mid].pos < pos)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < l->n ? &l->item[lo] : NULL;
}

static int by_position(const void *a, const void *b)
{
    const struct made_item *x = a, *y = b;
    return x->pos != y->pos ? (x->pos > y->pos) - (x->pos < y->pos) : strcmp(x->name, y->name);
}

/* Sorts, and takes out what was named twice. */
static void list_sort(struct made_list *l)
{
    size_t n = 0;
    if (l->n)
        qsort(l->item, l->n, sizeof(*l->item), by_position);
    for (size_t i = 0; i < l->n; i++) {
        struct made_item *last = n ? &l->item[n - 1] : NULL, *item = &l->item[i];
        if (last && !strcmp(last->name, item->name)) {
            free(item->name);
            continue;
        }
        if (last && item->pos <= last->pos)
            item->pos = last->pos + 1;
        l->item[n++] = *item;
    }
    l->n = n;
}

static int add_name(void *arg, const char *name)
{
    struct made_list *l = arg;
    size_t n = strlen(name);
    if (n == 0 || n > PL_NAME_MAX || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
        return -EINVAL;
    if (l->n == l->room) {
        size_t room = l->room ? l->room * 2 : 16;
        struct made_item *more = realloc(l->item, room * sizeof(*more));
        if (!more)
            return -ENOMEM;
        l->item = more;
        l->room = room;
    }
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    l->item[l->n++] = (struct made_item){2 + hash_name(0, name), copy};
    return 0;
}

int made_store_list(struct pl_call *call, struct made_node *store, struct made_list *ret)
{
    struct pl_made *m = made_of(store->node.tree);
    struct pl_made_req req = {call, store->name, store->store.arg};
    struct made_list list = {.read = true};
    int r = is_gone(m, store) ? 0 : store->store.list(&req, add_name, &list);
    pthread_mutex_lock(&m->lock);
    uint64_t at = 0;
    for (struct name *e; r >= 0 && (e = names_from(&store->dir, at)); at = e->pos + 1) {
        struct made_node *n = e->value;
        if (n->pending && !n->gone)
            r = add_name(&list, e->text);
    }
    pthread_mutex_unlock(&m->lock);
    if (r < 0) {
        made_list_done(&list);
        return r;
    }
    list_sort(&list);
    *ret = list;
    return 0;
}

/* ---- changes ---- */

static int may_change(struct pl_call *call, struct made_node *dir)
{
    int r = made_may(call, dir, W_OK | X_OK);
    return r < 0 ? r : dir->kind == MADE_STORE ? 0 : -EPERM;
}

/* A new entry that nobody has put yet. */
static int new_entry(struct pl_made *m, struct pl_call *call, struct made_node *store,
                     const char *name, uint32_t mode, struct made_node **ret)
{
    struct pl_attr attr, up = made_attr(store);
    pl_attr_init(&attr, call, &up, S_IFREG | mode); /* may ask for groups: not with the lock */
    pthread_mutex_lock(&m->lock);
    int r = store->gone ? -ENOENT : get_node(m, store, name, ret);
    if (r == 0 && (*ret)->pending) { /* another was faster */
        r = -EEXIST;
    } else if (r == 0) {
        (*ret)->pending = true;
        attr.ino = (*ret)->attr.ino;
        (*ret)->attr = attr;
        made_pin(*ret);
        pl_attr_touch(&store->attr, PL_SET_MTIME_NOW);
    }
    struct made_node *drop = r == -EEXIST ? *ret : NULL;
    pthread_mutex_unlock(&m->lock);
    pl_node_unref(drop ? &drop->node : NULL);
    return r;
}

int made_create(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir, const char *name,
                int flags, mode_t mode, struct pl_node **ret, struct pl_attr *attr,
                struct pl_file **ret_file)
{
    struct pl_made *m = made_of(tree);
    struct made_node *d = made_node_of(dir), *n = NULL;
    struct pl_text text = {0};
    bool made = false;
    int r = made_may(call, d, X_OK);
    if (r == 0 && d->kind == MADE_STORE) {
        r = get_entry(m, call, d, name, &text, &n);
    } else if (r == 0) {
        pthread_mutex_lock(&m->lock);
        struct name *e = names_find(&d->dir, name);
        if (e)
            pl_node_ref(&(n = e->value)->node);
        pthread_mutex_unlock(&m->lock);
        r = n ? 0 : -ENOENT;
    }
    if (r == 0 && flags & O_EXCL)
        r = -EEXIST;
    if (r == 0 && S_ISDIR(n->node.fmt))
        r = -EISDIR;
    if (r == -ENOENT && (r = may_change(call, d)) == 0) {
        r = new_entry(m, call, d, name, mode & 07777, &n);
        made = r == 0;
        if (r == -EEXIST && !(flags & O_EXCL))
            r = get_entry(m, call, d, name, &text, &n);
    }
    made_text_done(&text);
    if (r == 0)
        r = made ? made_file_new(n, &text, flags, ret_file)
                 : made_open(tree, call, &n->node, flags, ret_file);
    if (r == 0 && made) {
        made_soil(made_file_of(*ret_file));
        made_file_of(*ret_file)->creator = true;
    }
    if (r < 0) {
        pl_node_unref(n ? &n->node : NULL);
        return r;
    }
    *ret = &n->node;
    *attr = made_attr(n);
    return 0;
}

int made_make(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir, const char *name,
              const struct pl_make *make, struct pl_node **ret, struct pl_attr *attr)
{
    struct pl_file *file;
    struct pl_text text = {0};
    if (!S_ISREG(make->mode))
        return -EPERM;
    int r = made_create(tree, call, dir, name, O_EXCL | O_WRONLY, make->mode, ret, attr, &file);
    if (r < 0)
        return r;
    file->node = *ret; /* for close; the reference stays the caller's */
    r = made_take(made_node_of(*ret), call, &text);
    made_text_done(&text);
    made_close(tree, call, file);
    if (r < 0)
        pl_node_unref(*ret);
    return r;
}

/* The entry has no name any more: whoever has it open goes on, for himself. With the lock held; the
 * caller unrefs what is returned after it. */
static struct made_node *detach(struct made_node *store, const char *name)
{
    struct name *e = names_find(&store->dir, name);
    if (!e)
        return NULL;
    struct made_node *n = e->value;
    n->gone = true;
    n->attr.nlink = 0;
    n->attr.ino = ++made_of(store->node.tree)->next_ino; /* the name's is its next owner's */
    n->pending = false;
    names_del(&store->dir, e);
    return made_pin(n);
}

static bool is_pending(struct pl_made *m, struct made_node *store, const char *name)
{
    pthread_mutex_lock(&m->lock);
    struct name *e = names_find(&store->dir, name);
    bool pending = e && ((struct made_node *)e->value)->pending;
    pthread_mutex_unlock(&m->lock);
    return pending;
}

int made_remove(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir, const char *name,
                int flags)
{
    struct pl_made *m = made_of(tree);
    struct made_node *d = made_node_of(dir);
    struct pl_made_req req = {call, name, d->store.arg};
    int r = may_change(call, d);
    if (r < 0)
        return r;
    if (!d->store.del)
        return -EPERM;
    if (flags & AT_REMOVEDIR)
        return -ENOTDIR;
    bool pending = is_pending(m, d, name);
    r = is_gone(m, d) ? -ENOENT : d->store.del(&req);
    if (r == -ENOENT && pending)
        r = 0;
    if (r < 0)
        return r;
    pthread_mutex_lock(&m->lock);
    struct made_node *unpinned = detach(d, name);
    pl_attr_touch(&d->attr, PL_SET_MTIME_NOW);
    pthread_mutex_unlock(&m->lock);
    pl_node_unref(unpinned ? &unpinned->node : NULL);
    return 0;
}

/* The node of `from` takes the name `to`; whose node that was loses it. With the lock held. */
static int move_node(struct made_node *store, const char *from, const char *to,
                     struct made_node **unpinned)
{
    char *name = strdup(to);
    struct name *e = names_find(&store->dir, from);
    *unpinned = detach(store, to);
    if (!e)
        free(name);
    if (!e || !name)
        return e ? -ENOMEM : 0;
    struct made_node *n = e->value;
    if (!names_add(&store->dir, to, n)) {
        free(name);
        return -ENOMEM;
    }
    names_del(&store->dir, e);
    free(n->name);
    n->name = name;
    n->attr.ino = made_entry_ino(store, name);
    return 0;
}

/* Within one store: put under the new name, delete the old. mv(1) copies where this is -EXDEV. */
int made_rename(struct pl_tree *tree, struct pl_call *call, struct pl_node *olddir,
                const char *oldname, struct pl_node *newdir, const char *newname, unsigned flags)
{
    struct pl_made *m = made_of(tree);
    struct made_node *d = made_node_of(olddir), *n = NULL, *there = NULL, *unpinned = NULL;
    struct pl_text text = {0};
    int r = may_change(call, d);
    if (r == 0)
        r = may_change(call, made_node_of(newdir));
    if (r < 0)
        return r;
    if (olddir != newdir)
        return -EXDEV;
    if (flags & ~(unsigned)RENAME_NOREPLACE)
        return -EINVAL;
    if (!d->store.del)
        return -EPERM;
    r = get_entry(m, call, d, oldname, &text, &n);
    if (r == 0 && flags & RENAME_NOREPLACE) {
        r = made_store_lookup(m, call, d, newname, &there);
        r = r == 0 ? -EEXIST : r == -ENOENT ? 0 : r;
    }
    if (r == 0 && strcmp(oldname, newname)) {
        struct pl_made_req put = {call, newname, d->store.arg}, del = {call, oldname, d->store.arg};
        const char *str = made_text_str(&text);
        bool pending = is_pending(m, d, oldname);
        if (!pending) { /* else only the name changes: its flush will put it there */
            r = str ? d->store.put(&put, str, text.n) : -ENOMEM;
            if (r >= 0)
                r = d->store.del(&del);
        }
        if (r >= 0) {
            pthread_mutex_lock(&m->lock);
            r = move_node(d, oldname, newname, &unpinned);
            pl_attr_touch(&d->attr, PL_SET_MTIME_NOW);
            pthread_mutex_unlock(&m->lock);
        }
    }
    made_text_done(&text);
    pl_node_unref(n ? &n->node : NULL);
    pl_node_unref(there ? &there->node : NULL);
    pl_node_unref(unpinned ? &unpinned->node : NULL);
    return r < 0 ? r : 0;
}
