/* SPDX-License-Identifier: MIT */
/* The FUSE door's operations on names and directories. */
#include "doors/fuse_door.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* ---- does this process want attributes? ------------------------------------------------------ */
/*
 * A listing with attributes spares whoever stats the files a round trip for each, and costs whoever
 * wants only names (find without -size, ls without -l) a lookup for each. Nothing tells what the
 * kernel has used; but if attributes are missing, it asks. So a process that lists directory upon
 * directory is put to the test with a small one: its entries come without attributes. If no file
 * of it is looked up before the process lists the next one, it gets names only from then on; at
 * the first lookup of a file it gets all, for good. Directories come with attributes always, since
 * who walks a tree looks them up.
 *
 * The state is a word by process: its id above, how many listings it began (or NAMES, ALL) below.
 * It is only a guess at what is cheaper, so races and collisions do no harm.
 */
enum { TEST = 2, TESTED = 3, NAMES = 4, ALL = 5 };
#define TEST_ENTRIES 40

static _Atomic uint64_t *lister(struct fuse_req *r)
{
    return &r->s->lister[r->m.h.pid % FUSE_LISTERS];
}

static unsigned lister_state(struct fuse_req *r)
{
    uint64_t word = atomic_load_explicit(lister(r), memory_order_relaxed);
    return word >> 32 == r->m.h.pid ? (unsigned)word : 0;
}

static void set_lister(struct fuse_req *r, unsigned state)
{
    uint64_t word = (uint64_t)r->m.h.pid << 32 | state;
    atomic_store_explicit(lister(r), word, memory_order_relaxed);
}

static void wants_attributes(struct fuse_req *r)
{
    unsigned state = lister_state(r);
    if (state == TESTED || state == NAMES)
        set_lister(r, ALL);
}

/* A process reads `bytes` of entries, from the start of a directory or not: names only? */
static bool names_only(struct fuse_req *r, bool start, size_t bytes)
{
    unsigned state = lister_state(r);
    if (!start || state == ALL)
        return state == NAMES || state == TESTED;
    if (state < TEST)
        state++;
    else if (state != TEST)
        state = NAMES;
    else if (bytes <= TEST_ENTRIES * (sizeof(struct fuse_entry_out) + 48))
        state = TESTED;
    set_lister(r, state);
    return state >= TESTED;
}

/* ---- names ----------------------------------------------------------------------------------- */

static int reply_negative(struct fuse_req *r)
{
    bool watched = r->s->told && fuse_nodes_watched(r->s->nodes, r->m.h.nodeid);
    struct fuse_valid v = fuse_valid(r, FUSE_OF_NEGATIVE, watched);
    if (!v.sec && !v.nsec)
        return -ENOENT;
    struct fuse_entry_out out = {.entry_valid = v.sec, .entry_valid_nsec = v.nsec};
    fuse_reply(r, &out, sizeof(out));
    return 0;
}

/* "." and ".." are asked by name only when a file handle (NFS, open_by_handle_at) is resolved. */
static int lookup(struct fuse_req *r, struct pl_node **ret, struct pl_attr *attr)
{
    const char *name = r->m.name;
    bool self = !strcmp(name, ".");
    /* Of the root, which may be within the tree, ".." is itself. */
    if (self || (r->m.h.nodeid == FUSE_ROOT_ID && !strcmp(name, ".."))) {
        int error = pl_getattr(r->s->tree, &r->call, r->node, NULL, attr);
        if (error == 0)
            *ret = pl_node_ref(r->node);
        return error;
    }
    return pl_lookup(r->s->tree, &r->call, r->node, name, ret, attr);
}

int fuse_op_lookup(struct fuse_req *r)
{
    struct pl_node *node;
    struct pl_attr attr;
    int error = lookup(r, &node, &attr);
    if (error == -ENOENT)
        return reply_negative(r);
    if (error < 0)
        return error;
    if (node->fmt != S_IFDIR)
        wants_attributes(r);
    return fuse_reply_entry(r, node, &attr, r->m.name);
}

static int make(struct fuse_req *r, const struct pl_make *m)
{
    struct pl_node *node;
    struct pl_attr attr;
    int error = pl_make(r->s->tree, &r->call, r->node, r->m.name, m, &node, &attr);
    return error < 0 ? error : fuse_reply_entry(r, node, &attr, r->m.name);
}

int fuse_op_mknod(struct fuse_req *r)
{
    const struct fuse_mknod_in *in = &r->m.a.mknod;
    r->call.umask = in->umask & 0777;
    struct pl_make m = {
        .mode = in->mode,
        .rdev_major = (in->rdev & 0xfff00) >> 8,
        .rdev_minor = (in->rdev & 0xff) | (in->rdev >> 12 & 0xfff00),
    };
    return make(r, &m);
}

int fuse_op_mkdir(struct fuse_req *r)
{
    const struct fuse_mkdir_in *in = &r->m.a.mkdir;
    r->call.umask = in->umask & 0777;
    return make(r, &(struct pl_make){.mode = S_IFDIR | (in->mode & 07777)});
}

int fuse_op_symlink(struct fuse_req *r)
{
    return make(r, &(struct pl_make){.mode = S_IFLNK | 0777, .target = r->m.name2});
}

int fuse_op_link(struct fuse_req *r)
{
    struct pl_attr attr;
    struct pl_node *node = fuse_nodes_get(r->s->nodes, r->m.a.link.oldnodeid);
    if (!node)
        return -ESTALE;
    int error = pl_link(r->s->tree, &r->call, node, r->node, r->m.name, &attr);
    if (error == 0)
        return fuse_reply_entry(r, node, &attr, r->m.name);
    pl_node_unref(node);
    return error;
}

void fuse_removed(struct fuse_req *r)
{
    uint64_t ino = r->journal ? atomic_load(&r->slot->intent.ino) : 0;
    if (ino)
        fuse_nodes_nameless(r->s->nodes, ino);
}

/* What is about to lose its name may sleep: once it has none, nobody could wake it any more. So it
 * is woken now, and its source sees to it that it stays. The reference, or NULL. */
static struct pl_node *wake_victim(struct fuse_req *r, struct pl_node *dir, const char *name)
{
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_call call;
    if (!fuse_lasts(r->s) || atomic_load(&r->s->ledger->head->epoch) == 0)
        return NULL;
    pl_call_init_self(&call);
    int error = pl_lookup(r->s->tree, &call, dir, name, &node, &attr);
    pl_call_done(&call);
    if (error < 0)
        return NULL;
    fuse_nodes_meet(r->s->nodes, node, &attr);
    return node;
}

static int remove_name(struct fuse_req *r, int flags)
{
    struct pl_node *victim = wake_victim(r, r->node, r->m.name);
    int error = pl_remove(r->s->tree, &r->call, r->node, r->m.name, flags);
    pl_node_unref(victim);
    fuse_journal_deed(r);
    if (error == 0)
        fuse_removed(r);
    return fuse_done(r, error);
}

int fuse_op_unlink(struct fuse_req *r)
{
    return remove_name(r, 0);
}

int fuse_op_rmdir(struct fuse_req *r)
{
    return remove_name(r, AT_REMOVEDIR);
}

/* What moved: of a source that does not note it, whatever has the new name now. */
static uint64_t moved_ino(struct fuse_req *r)
{
    uint64_t ino = atomic_load(&r->slot->intent.ino);
    struct pl_node *newdir = ino ? NULL : fuse_nodes_get(r->s->nodes, r->m.a.rename.newdir), *node;
    struct pl_attr attr;
    if (newdir && pl_lookup(r->s->tree, &r->call, newdir, r->m.name2, &node, &attr) == 0) {
        ino = attr.ino;
        pl_node_unref(node);
    }
    pl_node_unref(newdir);
    return ino;
}

void fuse_renamed(struct fuse_req *r)
{
    if (!r->journal)
        return;
    uint64_t ino = moved_ino(r), ino2 = atomic_load(&r->slot->intent.ino2);
    if (ino)
        fuse_nodes_moved(r->s->nodes, ino, r->m.a.rename.newdir, r->m.name2);
    if (ino2 && (r->m.a.rename.flags & RENAME_EXCHANGE))
        fuse_nodes_moved(r->s->nodes, ino2, r->m.h.nodeid, r->m.name);
    else if (ino2 && ino2 != ino)
        fuse_nodes_nameless(r->s->nodes, ino2);
}

int fuse_op_rename(struct fuse_req *r)
{
    const struct fuse_rename_in *in = &r->m.a.rename;
    struct pl_node *newdir = fuse_nodes_get(r->s->nodes, in->newdir);
    if (!newdir)
        return -ESTALE;
    struct pl_node *victim = wake_victim(r, newdir, r->m.name2);
    int error = pl_rename(r->s->tree, &r->call, r->node, r->m.name, newdir, r->m.name2, in->flags);
    pl_node_unref(victim);
    pl_node_unref(newdir);
    fuse_journal_deed(r);
    if (error == 0)
        fuse_renamed(r);
    return fuse_done(r, error);
}

int fuse_op_opendir(struct fuse_req *r)
{
    struct pl_file *file;
    int error = pl_open(r->s->tree, &r->call, r->node, O_RDONLY | O_DIRECTORY, &file);
    return error < 0 ? error : fuse_reply_open(r, file, r->m.h.nodeid, NULL);
}

/* ---- reading directories --------------------------------------------------------------------- */

struct listing {
    struct fuse_req *r;
    char *buf;
    size_t used, size, head; /* head: bytes before each entry, for its attributes */
};

static int fill(void *arg, const struct pl_dirent *ent)
{
    struct listing *l = arg;
    size_t len = strlen(ent->name);
    size_t need = FUSE_PAD(l->head + sizeof(struct fuse_dirent) + len);
    if (need > l->size - l->used)
        return 1;
    struct fuse_dirent d = {
        .ino = ent->ino ? ent->ino : UINT32_MAX, /* unknown, but 0 means a deleted entry */
        .off = ent->next,
        .namelen = (uint32_t)len,
        .type = ent->type,
    };
    char *p = l->buf + l->used;
    memset(p, 0, l->head);
    if (l->head && ent->node && strcmp(ent->name, ".") && strcmp(ent->name, "..")) {
        struct fuse_entry_out out = {0};
        if (fuse_entry(l->r, pl_node_ref(ent->node), ent->attr, ent->name, &out) == 0)
            memcpy(p, &out, sizeof(out));
    }
    memcpy(p + l->head, &d, sizeof(d));
    memcpy(p + l->head + sizeof(d), ent->name, len);
    memset(p + l->head + sizeof(d) + len, 0, need - l->head - sizeof(d) - len);
    l->used += need;
    return 0;
}

static int list(struct fuse_req *r, struct listing *l)
{
    const struct fuse_read_in *in = &r->m.a.read;
    struct pl_file *file = fuse_req_file(r, in->fh);
    if (!file)
        return -EBADF;
    if (in->size > r->bufsize)
        return -EINVAL;
    r->buf_used = true;
    l->buf = r->buf;
    l->size = in->size;
    return pl_readdir(r->s->tree, &r->call, file, in->offset, fill, l);
}

int fuse_op_readdir(struct fuse_req *r)
{
    struct listing l = {0};
    int error = list(r, &l);
    if (error < 0)
        return error;
    fuse_reply(r, l.buf, l.used);
    return 0;
}

/* Looks up one entry of a listing and puts its attributes before it; an entry without them (it is
 * gone, it is "." or "..") the kernel just lists. */
static void add_attributes(struct fuse_req *r, char *p, struct fuse_dirent *d)
{
    char name[PL_NAME_MAX + 1];
    struct fuse_entry_out out = {0};
    struct pl_node *node;
    struct pl_attr attr;
    if (d->namelen > PL_NAME_MAX)
        return;
    memcpy(name, p + sizeof(out) + sizeof(*d), d->namelen);
    name[d->namelen] = 0;
    if (!strcmp(name, ".") || !strcmp(name, ".."))
        return;
    if (pl_lookup(r->s->tree, &r->call, r->node, name, &node, &attr) < 0 ||
        fuse_entry(r, node, &attr, name, &out) < 0)
        return;
    d->ino = attr.ino;
    d->type = attr.mode >> 12 & 15;
    memcpy(p, &out, sizeof(out));
    memcpy(p + sizeof(out), d, sizeof(*d));
}

/* The kernel has not got the listing: it does not know what is in it. */
static void forget_listed(struct fuse_req *r, const struct listing *l)
{
    struct fuse_dirent d;
    for (size_t at = 0; at < l->used; at += FUSE_PAD(l->head + sizeof(d) + d.namelen)) {
        struct fuse_entry_out out;
        memcpy(&d, l->buf + at + l->head, sizeof(d));
        memcpy(&out, l->buf + at, sizeof(out));
        if (out.nodeid)
            fuse_nodes_forget(r->s->nodes, out.nodeid, 1);
    }
}

int fuse_op_readdirplus(struct fuse_req *r)
{
    struct listing l = {.r = r, .head = sizeof(struct fuse_entry_out)};
    bool plus = r->s->tree->flags & PL_TREE_PLUS;
    r->call.plus = plus;
    int error = list(r, &l);
    if (error < 0) {
        forget_listed(r, &l);
        return error;
    }
    /* All that is in the buffer fits: what is looked up now reaches the kernel, or nothing does. */
    struct fuse_dirent d;
    bool names = !plus && names_only(r, r->m.a.read.offset == 0, l.used);
    for (size_t at = 0; !plus && at < l.used && pl_call_over(&r->call) == 0;
         at += FUSE_PAD(l.head + sizeof(d) + d.namelen)) {
        memcpy(&d, l.buf + at + l.head, sizeof(d));
        if (!names || d.type == DT_DIR)
            add_attributes(r, l.buf + at, &d);
    }
    if (fuse_reply(r, l.buf, l.used) < 0)
        forget_listed(r, &l);
    return 0;
}
