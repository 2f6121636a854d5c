/* SPDX-License-Identifier: MIT */
/* Made trees: the hierarchy, and what programs call to build it. See sources/made.h for locks. */
#include "sources/made.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- nodes ---- */

/* A number for that name which nobody has, between those that are counted and those of entries.
 * With the lock held. */
static uint64_t new_number(struct pl_made *m, const struct made_node *dir, const char *name)
{
    const uint64_t bit = UINT64_C(1) << 61;
    uint64_t h = made_entry_ino(dir, name), ino;
    struct made_node *there;
    do {
        ino = (h++ & (bit - 1)) | bit;
        HASH_FIND(hh, m->numbers, &ino, sizeof(ino), there);
    } while (there);
    return ino;
}

struct made_node *made_node_new(struct pl_made *m, struct made_node *dir, enum made_kind kind,
                                const char *name, uint32_t mode)
{
    struct made_node *n = calloc(1, sizeof(*n));
    if (!n || !(n->name = strdup(name))) {
        free(n);
        return NULL;
    }
    pl_node_init(&n->node, &m->tree, mode);
    n->kind = kind;
    n->fd = -1;
    n->attr = (struct pl_attr){.nlink = S_ISDIR(mode) ? 2 : 1,
                               .mode = mode,
                               .uid = geteuid(),
                               .gid = getegid(),
                               .blksize = 4096};
    pl_attr_touch(&n->attr, PL_SET_ATIME_NOW | PL_SET_MTIME_NOW);
    n->attr.btime = n->attr.ctime;
    if (kind == MADE_ENTRY) {
        n->attr.ino = made_entry_ino(dir, name);
    } else {
        n->attr.ino = dir ? new_number(m, dir, name) : ++m->next_ino;
        HASH_ADD(hh, m->numbers, attr.ino, sizeof(n->attr.ino), n);
    }
    return n;
}

/* It has lost its name, or never got it. With the lock held. */
static void lose_number(struct pl_made *m, struct made_node *n)
{
    if (n->hh.tbl)
        HASH_DELETE(hh, m->numbers, n);
    n->hh.tbl = NULL;
    n->attr.ino = ++m->next_ino;
}

static void node_free(struct made_node *n)
{
    if (n->stream)
        made_stream_unref(n->stream);
    if (n->range)
        made_range_unref(n->range);
    if (n->fd >= 0)
        close(n->fd);
    made_text_done(&n->text);
    free(n->name);
    free(n);
}

static void made_release(struct pl_tree *tree, struct pl_node *node)
{
    struct pl_made *m = made_of(tree);
    struct made_node *n = made_node_of(node);
    if (n->kind == MADE_ENTRY) {
        struct made_node *store = n->parent;
        pthread_mutex_lock(&m->lock);
        struct name *e = names_find(&store->dir, n->name);
        if (e && e->value == n)
            names_del(&store->dir, e);
        pthread_mutex_unlock(&m->lock);
        pl_node_unref(&store->node);
    }
    node_free(n);
}

struct pl_attr made_attr(struct made_node *n)
{
    struct pl_made *m = made_of(n->node.tree);
    pthread_mutex_lock(&m->lock);
    struct pl_attr attr = n->attr;
    pthread_mutex_unlock(&m->lock);
    attr.version = 0; /* the program may change the content unseen */
    attr.blocks = (attr.size + 511) / 512;
    return attr;
}

int made_may(struct pl_call *call, struct made_node *n, int mask)
{
    struct pl_attr attr = made_attr(n);
    return pl_may(call, &attr, mask);
}

/* The name is copied, as it may change meanwhile. */
int made_request(struct made_node *n, struct pl_call *call, struct pl_made_req *req,
                 char name[PL_NAME_MAX + 1])
{
    struct pl_made *m = made_of(n->node.tree);
    pthread_mutex_lock(&m->lock);
    bool gone = n->gone || (n->kind == MADE_ENTRY && n->parent->gone);
    strcpy(name, n->name);
    pthread_mutex_unlock(&m->lock);
    *req = (struct pl_made_req){call, name, n->arg};
    return gone ? -ENOENT : 0;
}

static void note_content(struct made_node *n, size_t size, bool written)
{
    struct pl_made *m = made_of(n->node.tree);
    pthread_mutex_lock(&m->lock);
    if (n->kind == MADE_ENTRY)
        n->attr.size = size;
    if (written || n->kind == MADE_FILE)
        pl_attr_touch(&n->attr, PL_SET_MTIME_NOW);
    if (written)
        n->pending = false;
    struct made_node *unpinned = NULL;
    if (written && n->refused) { /* this is newer */
        made_text_done(&n->text);
        n->refused = false;
        unpinned = n->kind == MADE_ENTRY ? made_pin(n) : NULL;
    }
    pthread_mutex_unlock(&m->lock);
    pl_node_unref(unpinned ? &unpinned->node : NULL);
}

int made_fill(struct made_node *n, struct pl_call *call, struct pl_text *out)
{
    struct pl_made_req req;
    char name[PL_NAME_MAX + 1];
    int r = made_request(n, call, &req, name);
    if (r == 0)
        r = n->fill(&req, out);
    if (r >= 0)
        r = out->error;
    if (r == 0)
        note_content(n, out->n, false);
    return r;
}

int made_take(struct made_node *n, struct pl_call *call, struct pl_text *text)
{
    struct pl_made_req req;
    char name[PL_NAME_MAX + 1];
    const char *str = made_text_str(text);
    int r = str ? made_request(n, call, &req, name) : -ENOMEM;
    if (r == 0)
        r = n->take(&req, str, text->n);
    if (r >= 0)
        note_content(n, text->n, true);
    return r < 0 ? r : 0;
}

/* ---- ops ---- */

static int made_root(struct pl_tree *tree, struct pl_call *call, struct pl_node **ret)
{
    struct pl_made *m = made_of(tree);
    int r = m->work ? made_work_start(m) : 0;
    if (r == 0)
        *ret = pl_node_ref(&m->root->node);
    return r;
}

static int made_lookup(struct pl_tree *tree, struct pl_call *call, struct pl_node *dir,
                       const char *name, struct pl_node **ret, struct pl_attr *attr)
{
    struct pl_made *m = made_of(tree);
    struct made_node *d = made_node_of(dir), *n = NULL;
    int r = made_may(call, d, X_OK);
    if (r < 0)
        return r;
    if (d->kind == MADE_STORE && strcmp(name, "..")) {
        r = made_store_lookup(m, call, d, name, &n);
        if (r < 0)
            return r;
    } else {
        pthread_mutex_lock(&m->lock);
        struct name *e = strcmp(name, "..") ? names_find(&d->dir, name) : NULL;
        n = e ? e->value : strcmp(name, "..") ? NULL : d->parent;
        if (n)
            pl_node_ref(&n->node);
        pthread_mutex_unlock(&m->lock);
    }
    if (!n)
        return -ENOENT;
    *ret = &n->node;
    *attr = made_attr(n);
    return 0;
}

/* The entry of `dir` at position pos or after, named in `name`; false: no more. */
static bool entry_at(struct made_node *d, struct made_file *f, uint64_t pos, struct pl_dirent *ent,
                     char name[PL_NAME_MAX + 1])
{
    struct pl_made *m = made_of(d->node.tree);
    bool store = d->kind == MADE_STORE;
    pthread_mutex_lock(&m->lock);
    struct name *e = NULL;
    const struct made_item *item = NULL;
    if (pos < 2) {
        struct made_node *n = pos && d->parent ? d->parent : d;
        *ent = (struct pl_dirent){n->attr.ino, pos + 1, DT_DIR, name};
        strcpy(name, pos ? ".." : ".");
    } else if (store && (item = made_list_from(&f->list, pos))) {
        struct name *known = names_find(&d->dir, item->name);
        struct made_node *n = known ? known->value : NULL;
        *ent = (struct pl_dirent){n ? n->attr.ino : made_entry_ino(d, item->name), item->pos + 1,
                                  DT_REG, name};
        strcpy(name, item->name);
    } else if (!store && (e = names_from(&d->dir, pos - 1))) {
        struct made_node *n = e->value;
        *ent = (struct pl_dirent){n->attr.ino, e->pos + 2, IFTODT(n->node.fmt), name};
        strcpy(name, e->text);
    }
    pthread_mutex_unlock(&m->lock);
    return pos < 2 || e || item;
}

static int made_readdir(struct pl_tree *tree, struct pl_call *call, struct pl_file *dir,
                        uint64_t off, pl_fill_fn *fill, void *arg)
{
    struct made_node *d = made_node_of(dir->node);
    struct made_file *f = made_file_of(dir);
    struct pl_dirent ent;
    char name[PL_NAME_MAX + 1];
    if (d->kind == MADE_STORE && (off == 0 || !f->list.read)) {
        struct made_list list = {0};
        int r = made_store_list(call, d, &list);
        if (r < 0)
            return r;
        pthread_mutex_lock(&made_of(tree)->lock);
        struct made_list was = f->list;
        f->list = list;
        pthread_mutex_unlock(&made_of(tree)->lock);
        made_list_done(&was);
    }
    for (; entry_at(d, f, off, &ent, name) && fill(arg, &ent) == 0; off = ent.next)
        ;
    return 0;
}

/* Frees a directory's nodes, and those below, without recursion: `parent` links what is to do. */
static void take_away(struct pl_made *m, struct made_node *top)
{
    struct made_node *todo = top;
    top->parent = NULL;
    while (todo) {
        struct made_node *n = todo;
        struct name *e = n->kind == MADE_DIR ? names_from(&n->dir, 0) : NULL;
        if (!n->gone && n->kind != MADE_ENTRY)
            lose_number(m, n);
        n->gone = true;
        n->attr.nlink = 0;
        if (e) {
            struct made_node *child = e->value;
            names_del(&n->dir, e);
            child->parent = n; /* it is, but now to come back to */
            todo = child;
        } else {
            if (n->kind == MADE_STORE)
                made_store_unpin(m, n);
            todo = n->parent;
            n->parent = NULL;
            pthread_mutex_unlock(&m->lock);
            pl_node_unref(&n->node);
            pthread_mutex_lock(&m->lock);
        }
    }
}

static void made_done(struct pl_tree *tree)
{
    struct pl_made *m = made_of(tree);
    made_work_end(m);
    if (m->root) {
        pthread_mutex_lock(&m->lock);
        take_away(m, m->root);
        pthread_mutex_unlock(&m->lock);
    }
    made_streams_free(m);
    if (m->memory >= 0)
        close(m->memory);
    pthread_cond_destroy(&m->over_cond);
    pthread_mutex_destroy(&m->lock);
}

static const struct pl_ops made_ops = {
    .name = "made",
    .done = made_done,
    .root = made_root,
    .release = made_release,
    .lookup = made_lookup,
    .getattr = made_getattr,
    .setattr = made_setattr,
    .make = made_make,
    .remove = made_remove,
    .rename = made_rename,
    .open = made_open,
    .create = made_create,
    .close = made_close,
    .flush = made_flush,
    .read = made_read,
    .write = made_write,
    .readdir = made_readdir,
    .fsync = made_fsync,
    .poll = made_poll,
    .getxattr = made_getxattr,
    .listxattr = made_listxattr,
    .keep = made_keep,
    .resume = made_resume,
};

/* ---- building ---- */

struct pl_made *pl_made_new(void)
{
    struct pl_made *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    pl_tree_init(&m->tree, &made_ops, NULL);
    m->tree.flags = PL_TREE_GENERATED | PL_TREE_LASTING;
    m->memory = MADE_UNTRIED;
    pthread_mutex_init(&m->lock, NULL);
    pl_cond_init(&m->over_cond);
    m->root = made_node_new(m, NULL, MADE_DIR, "", S_IFDIR | 0755);
    if (!m->root) {
        pl_tree_unref(&m->tree);
        return NULL;
    }
    m->root->parent = m->root;
    return m;
}

void pl_made_private(struct pl_made *m)
{
    if (m)
        m->tree.flags &= ~(uint32_t)PL_TREE_LASTING;
}

struct pl_tree *pl_made_tree(struct pl_made *m)
{
    if (!m)
        return NULL;
    if (m->failed) {
        pl_tree_unref(&m->tree);
        return NULL;
    }
    return &m->tree;
}

/* The next name of a path into `name`; its length, 0 at the end, -EINVAL. */
static int next_name(const char **path, char name[PL_NAME_MAX + 1])
{
    size_t n = strcspn(*path, "/");
    if (n > PL_NAME_MAX || (n == 0 && **path))
        return -EINVAL;
    memcpy(name, *path, n);
    name[n] = 0;
    *path += n;
    if (**path == '/' && !*++*path)
        return -EINVAL; /* "a/" */
    return !strcmp(name, ".") || !strcmp(name, "..") ? -EINVAL : (int)n;
}

/* Enters a new node; missing directories are made. `proto` says what it is to be. */
static int add_locked(struct pl_made *m, const char *path, const struct made_node *proto,
                      uint32_t mode)
{
    char name[PL_NAME_MAX + 1];
    struct made_node *dir = m->root;
    for (;;) {
        int r = next_name(&path, name);
        if (r <= 0)
            return -EINVAL;
        if (dir->kind != MADE_DIR)
            return -EINVAL;
        bool last = !*path;
        struct name *e = names_find(&dir->dir, name);
        if (e && last) {
            struct made_node *there = e->value;
            return proto->kind == MADE_DIR && there->kind == MADE_DIR ? 0 : -EEXIST;
        }
        if (!e) {
            struct made_node *n = made_node_new(m, dir, last ? proto->kind : MADE_DIR, name,
                                                last ? mode : S_IFDIR | 0755);
            if (!n || !(e = names_add(&dir->dir, name, n))) {
                if (n) {
                    lose_number(m, n);
                    node_free(n);
                }
                return -ENOMEM;
            }
            n->parent = dir;
            dir->attr.nlink += S_ISDIR(n->attr.mode) != 0;
            pl_attr_touch(&dir->attr, PL_SET_MTIME_NOW);
            if (last) {
                n->fill = proto->fill;
                n->take = proto->take;
                n->arg = proto->arg;
                n->text = proto->text;
                n->attr.size = proto->text.n;
                n->store = proto->store;
                n->stream = proto->stream;
                n->size = proto->size;
                n->read = proto->read;
                return 0;
            }
        }
        dir = e->value;
    }
}

/* Remembers the first failure for pl_made_tree(). */
static int remember(struct pl_made *m, int r)
{
    if (r < 0 && m) {
        pthread_mutex_lock(&m->lock);
        if (!m->failed)
            m->failed = r;
        pthread_mutex_unlock(&m->lock);
    }
    return r;
}

static int add(struct pl_made *m, const char *path, const struct made_node *proto, uint32_t mode)
{
    if (!m)
        return -ENOMEM;
    pthread_mutex_lock(&m->lock);
    int r = add_locked(m, path, proto, mode);
    pthread_mutex_unlock(&m->lock);
    return remember(m, r);
}

int pl_made_dir(struct pl_made *m, const char *path)
{
    return add(m, path, &(struct made_node){.kind = MADE_DIR}, S_IFDIR | 0755);
}

int pl_made_file(struct pl_made *m, const char *path, pl_fill *fill, void *arg)
{
    return add(m, path, &(struct made_node){.kind = MADE_FILE, .fill = fill, .arg = arg},
               S_IFREG | 0444);
}

int pl_made_text(struct pl_made *m, const char *path, const char *text)
{
    struct made_node proto = {.kind = MADE_FIXED};
    int r = remember(m, pl_text_put(&proto.text, text, strlen(text)));
    if (r == 0)
        r = add(m, path, &proto, S_IFREG | 0444);
    if (r < 0)
        made_text_done(&proto.text);
    return r;
}

int pl_made_ctl(struct pl_made *m, const char *path, pl_take *take, void *arg)
{
    return add(m, path, &(struct made_node){.kind = MADE_CTL, .take = take, .arg = arg},
               S_IFREG | 0200);
}

int pl_made_doc(struct pl_made *m, const char *path, pl_fill *fill, pl_take *commit, void *arg)
{
    return add(m, path,
               &(struct made_node){.kind = MADE_DOC, .fill = fill, .take = commit, .arg = arg},
               S_IFREG | 0644);
}

int pl_made_docs(struct pl_made *m, const char *path, const struct pl_made_store *store)
{
    if (m && !*path) { /* the root itself, while there is nothing in it */
        pthread_mutex_lock(&m->lock);
        int r = m->root->kind == MADE_DIR && !names_count(&m->root->dir) ? 0 : -EEXIST;
        if (r == 0) {
            m->root->kind = MADE_STORE;
            m->root->store = *store;
        }
        pthread_mutex_unlock(&m->lock);
        return remember(m, r);
    }
    return add(m, path, &(struct made_node){.kind = MADE_STORE, .store = *store}, S_IFDIR | 0755);
}

int pl_made_ranged(struct pl_made *m, const char *path, pl_size *size, pl_range *read, void *arg)
{
    if (m) /* for the progress; before anybody uses it, or somebody has done so already */
        m->tree.flags |= PL_TREE_XATTR;
    return add(m, path,
               &(struct made_node){.kind = MADE_RANGED, .size = size, .read = read, .arg = arg},
               S_IFREG | 0444);
}

void pl_made_keep_failed(struct pl_made *m, bool keep)
{
    if (m)
        m->keep_failed = keep;
}

struct pl_stream *pl_made_stream(struct pl_made *m, const char *path, size_t backlog)
{
    struct pl_stream *s = m ? made_stream_new(m, backlog) : NULL;
    if (!s) {
        remember(m, -ENOMEM);
        return NULL;
    }
    if (add(m, path, &(struct made_node){.kind = MADE_STREAM, .stream = s}, S_IFREG | 0444) < 0) {
        made_stream_unref(s); /* the node's reference */
        pl_stream_end(s);
        return NULL;
    }
    return s;
}

int pl_made_remove(struct pl_made *m, const char *path)
{
    char name[PL_NAME_MAX + 1];
    int r;
    if (!m)
        return -ENOMEM;
    pthread_mutex_lock(&m->lock);
    struct made_node *dir = m->root, *n = NULL;
    struct name *e = NULL;
    for (;;) {
        r = next_name(&path, name);
        if (r <= 0) {
            r = -EINVAL;
            break;
        }
        e = dir->kind == MADE_DIR ? names_find(&dir->dir, name) : NULL;
        n = e ? e->value : NULL;
        r = n ? 0 : -ENOENT;
        if (r < 0 || !*path)
            break;
        dir = n;
    }
    if (r == 0) {
        names_del(&dir->dir, e);
        dir->attr.nlink -= S_ISDIR(n->attr.mode) != 0;
        pl_attr_touch(&dir->attr, PL_SET_MTIME_NOW);
        take_away(m, n);
    }
    pthread_mutex_unlock(&m->lock);
    return r;
}
