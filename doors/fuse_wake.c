/* SPDX-License-Identifier: MIT */
/*
 * What a predecessor has left: nodes and open files that sleep in the ledger until they are needed,
 * and how they are found again.
 *
 * A node is found by its key; in the directory where it was last found, which is woken first, by
 * its inode number; or by an open file that a kept descriptor makes again. Whatever is found counts
 * only if it has that number and type: an object that is gone is never taken for another. An open
 * file is made again by the descriptor that was kept, else its node is opened anew.
 *
 * All this is asked in our own name: permission was judged when the kernel was told.
 */
#include "doors/fuse_door.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define DEPTH_MAX 64 /* directories, each without a key, that are woken for one another */

static bool is_it(const struct fuse_dormant *d, const struct pl_attr *attr)
{
    return attr->ino == d->n.ino && (attr->mode & S_IFMT) == (d->n.mode & S_IFMT);
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static struct pl_node *by_key(struct fuse_sess *s, struct pl_call *call,
                              const struct fuse_dormant *d)
{
    struct pl_node *node;
    struct pl_attr attr;
    size_t len = atomic_load_explicit(&d->n.keylen, memory_order_relaxed);
    if (len == 0 || len > PL_KEY_MAX || pl_find(s->tree, call, d->n.key, len, &node, &attr) < 0)
        return NULL;
    if (is_it(d, &attr))
        return node;
    pl_node_unref(node);
    return NULL;
}

static struct pl_node *by_file(struct fuse_sess *s, struct pl_call *call,
                               const struct fuse_dormant *d)
{
    struct ledger_file copy;
    struct pl_attr attr;
    uint32_t cursor = 0;
    uint64_t fh;
    while ((fh = fuse_files_next(s->files, &cursor, &copy))) {
        struct fuse_file *f;
        if (copy.nodeid != d->nodeid || atomic_load(&copy.kept) <= 0 ||
            !(f = fuse_files_get(s->files, fh)))
            continue;
        if (pl_getattr(s->tree, call, f->file->node, f->file, &attr) == 0 && is_it(d, &attr))
            return pl_node_ref(f->file->node);
    }
    return NULL;
}

/* Looks for an inode number among entries; where an entry has none, for the name. */
struct hunt {
    uint64_t ino;
    uint32_t name_hash;
    char name[PL_NAME_MAX + 1];
};

static int look(void *arg, const struct pl_dirent *ent)
{
    struct hunt *h = arg;
    if (!strcmp(ent->name, ".") || !strcmp(ent->name, "..") || strlen(ent->name) > PL_NAME_MAX)
        return 0;
    if (ent->ino ? ent->ino != h->ino : ledger_hash(ent->name) != h->name_hash)
        return 0;
    strcpy(h->name, ent->name);
    return 1;
}

static struct pl_node *in_dir(struct fuse_sess *s, struct pl_call *call, struct pl_node *dir,
                              const struct fuse_dormant *d)
{
    struct hunt h = {.ino = d->n.ino, .name_hash = d->n.name_hash};
    struct pl_node *node = NULL;
    struct pl_attr attr;
    struct pl_file *file;
    if (!S_ISDIR(dir->fmt) || pl_open(s->tree, call, dir, O_RDONLY | O_DIRECTORY, &file) < 0)
        return NULL;
    int r = pl_readdir(s->tree, call, file, 0, look, &h);
    pl_close(s->tree, call, file);
    if (r < 0 || !*h.name || pl_lookup(s->tree, call, dir, h.name, &node, &attr) < 0)
        return NULL;
    if (is_it(d, &attr))
        return node;
    pl_node_unref(node);
    return NULL;
}

static struct pl_node *wake_node(void *arg, const struct fuse_dormant *d, unsigned depth)
{
    struct fuse_sess *s = arg;
    struct pl_call call;
    pl_call_init_self(&call);
    call.own = true;
    struct pl_node *node = by_key(s, &call, d);
    if (!node && d->n.parent && depth < DEPTH_MAX) {
        struct pl_node *dir = fuse_nodes_get_at(s->nodes, d->n.parent, depth + 1);
        if (dir) {
            node = in_dir(s, &call, dir, d);
            pl_node_unref(dir);
        }
    }
    if (!node) /* last: not every source knows what a descriptor was kept for without its node */
        node = by_file(s, &call, d);
    pl_call_done(&call);
    return node;
}

static struct pl_node *orphan(void *arg, uint64_t nodeid)
{
    struct fuse_sess *s = arg;
    struct ledger_file copy;
    uint32_t cursor = 0;
    uint64_t fh;
    while ((fh = fuse_files_next(s->files, &cursor, &copy))) {
        struct fuse_file *f = copy.nodeid == nodeid ? fuse_files_get(s->files, fh) : NULL;
        if (f)
            return pl_node_ref(f->file->node);
    }
    return NULL;
}

static int key(void *arg, struct pl_node *node, uint8_t key[PL_KEY_MAX])
{
    struct fuse_sess *s = arg;
    struct pl_call call;
    pl_call_init_self(&call);
    call.own = true;
    int n = pl_key(s->tree, &call, node, key);
    pl_call_done(&call);
    return n;
}

const struct fuse_nodes_ops fuse_nodes_ops = {wake_node, orphan, key};

/* ---- open files ------------------------------------------------------------------------------ */

static bool is_of(struct fuse_sess *s, struct pl_call *call, struct pl_file *file, uint64_t nodeid)
{
    struct pl_attr attr;
    struct fuse_dormant d;
    if (!fuse_nodes_entry(s->nodes, nodeid, &d))
        return nodeid > UINT32_MAX; /* the ledger had no room for it */
    return pl_getattr(s->tree, call, file->node, file, &attr) == 0 && is_it(&d, &attr);
}

/* By what was kept, which needs no name any more. The node may be the one that sleeps. */
static struct pl_file *by_kept(struct fuse_sess *s, struct pl_call *call,
                               const struct ledger_file *f)
{
    struct pl_file *file;
    struct pl_node *node = fuse_nodes_peek(s->nodes, f->nodeid);
    int r = pl_resume(s->tree, call, node, (int)f->flags, f->kept, &file);
    pl_node_unref(node);
    if (r < 0)
        return NULL;
    if (!node && !is_of(s, call, file, f->nodeid)) {
        pl_close(s->tree, call, file);
        return NULL;
    }
    if (!node)
        fuse_nodes_woken(s->nodes, f->nodeid, file->node);
    return file;
}

struct pl_file *fuse_wake_file_of(void *arg, uint64_t fh, const struct ledger_file *f)
{
    struct fuse_sess *s = arg;
    struct pl_file *file = NULL;
    struct pl_call call;
    pl_call_init(&call, f->uid, f->gid);
    call.own = true;
    if (f->kept > 0 && !(file = by_kept(s, &call, f)))
        fuse_files_unkept(s->files, fh);    /* the node, when it is woken, must not wait for us */
    if (!file && f->nodeid <= UINT32_MAX) { /* else it would be looked for by this very file */
        struct pl_node *node = fuse_nodes_get(s->nodes, f->nodeid);
        if (node && pl_resume(s->tree, &call, node, (int)f->flags, 0, &file) < 0)
            file = NULL;
        pl_node_unref(node);
    }
    pl_call_done(&call);
    return file;
}

/* ---- carrying on ----------------------------------------------------------------------------- */

/* Who polls was promised a word by a server that is gone: it had better ask again. */
static void wake_pollers(struct fuse_sess *s)
{
    struct ledger_file f;
    uint32_t cursor = 0;
    while (fuse_files_next(s->files, &cursor, &f)) {
        if (!f.kh)
            continue;
        struct fuse_notify_poll_out out = {f.kh};
        struct fuse_out_header h = {sizeof(h) + sizeof(out), FUSE_NOTIFY_POLL, 0};
        struct iovec iov[2] = {{&h, sizeof(h)}, {&out, sizeof(out)}};
        s->notify(s, iov, 2);
    }
}

int fuse_carry_on(struct fuse_sess *s)
{
    struct ledger_head *head = s->ledger->head;
    s->minor = head->minor;
    s->flags = head->flags;
    /* What a dead server had in hand is not in hand any more. */
    atomic_store(&s->stats->waiting, 0);
    fuse_bytes_carry_on(s);
    fuse_locks_again(s);
    ledger_point(s->ledger, LEDGER_AT_resume);
    wake_pollers(s);
    struct fuse_out_header h = {sizeof(h), FUSE_NOTIFY_RESEND, 0};
    struct iovec iov = {&h, sizeof(h)};
    int r = s->notify(s, &iov, 1);
    ledger_point(s->ledger, LEDGER_AT_resent);
    return r;
}
