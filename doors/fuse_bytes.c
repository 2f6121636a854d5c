/* SPDX-License-Identifier: MIT */
/*
 * How the bytes of an open file travel: by the kernel itself (passthrough), through its page cache
 * by messages, or by messages alone.
 *
 * The kernel wants one way for all open files of an inode: while one is passed, every further open
 * must be answered as passed too, with the same backing id; while one is not, none may be. (One
 * that is direct counts too: the kernel caches it as soon as somebody maps it, and does not say
 * so.) What breaks this rule is an EIO to the user. So an open joins what is there, and where it is
 * not the same bytes, or may not be moved unseen, it is passed in name only: FOPEN_DIRECT_IO beside
 * FOPEN_PASSTHROUGH has its reads and writes come as messages, and only its mappings are the
 * backing file's.
 *
 * The same is done with files opened with O_APPEND or O_DIRECT: the kernel opens the backing file
 * with the flags of that moment, and they stay when fcntl(2) takes them away from the open file; a
 * program that then writes somewhere (xz), or less than a block (dd), would meet them still.
 *
 * A backing id has the rights of the thread that asked for it, and all that is written through it
 * is written with those: in the opener's name, so that quotas and reserved blocks hold for him. An
 * id got in root's name is not kept for others.
 *
 * Locks: bytes.lock guards the table of inodes that have open files.
 */
#include "base/cred.h"
#include "doors/fuse_door.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

/* An inode with open files. */
struct carried {
    uint64_t nodeid;
    uint32_t passed, plain; /* open files answered with FOPEN_PASSTHROUGH; others */
    int32_t backing;        /* the id that the passed ones use */
    dev_t dev;              /* of the file that it stands for */
    ino_t ino;
    UT_hash_handle hh;
};

/* ---- what is agreed -------------------------------------------------------------------------- */

static void say(struct fuse_sess *s, const char *how)
{
    pthread_mutex_lock(&s->bytes.lock);
    snprintf(s->stats->bytes, sizeof(s->stats->bytes), "%s", how);
    pthread_mutex_unlock(&s->bytes.lock);
}

/* Why this mount is not to pass anything, or NULL. */
static const char *unwanted(const struct fuse_sess *s)
{
    if (s->opts.passthrough == FUSE_OFF)
        return "by messages: as asked for (nopassthrough)";
    if (s->opts.direct_io)
        return "by messages: as asked for (direct_io)";
    if (s->opts.writeback) /* the kernel would turn it off without a word */
        return "by messages: the kernel gathers writes (writeback)";
    if (s->opts.opens == FUSE_OFF)
        return "by messages: opens do not leave the kernel";
    return NULL;
}

uint64_t fuse_bytes_wanted(const struct fuse_sess *s)
{
    return unwanted(s) ? 0 : FUSE_PASSTHROUGH;
}

/* Whether the tree lies in a file system that itself stands on another. */
static bool stacked(struct fuse_sess *s)
{
    struct pl_call call;
    struct statfs st = {0};
    struct pl_node *root = fuse_nodes_get(s->nodes, FUSE_ROOT_ID);
    pl_call_init(&call, 0, 0);
    int error = root ? pl_statfs(s->tree, &call, root, &st) : -ESTALE;
    pl_call_done(&call);
    pl_node_unref(root);
    return error == 0 && (st.f_type == OVERLAYFS_SUPER_MAGIC || st.f_type == ECRYPTFS_SUPER_MAGIC ||
                          st.f_type == FUSE_SUPER_MAGIC);
}

uint32_t fuse_bytes_agreed(struct fuse_sess *s)
{
    const char *why = unwanted(s);
    s->bytes.on = s->flags & FUSE_PASSTHROUGH;
    if (!s->bytes.on) {
        say(s, why ? why : "by messages: this kernel has no passthrough (Linux 6.9 has)");
        return 0;
    }
    say(s, "by messages so far: no file has been opened that the kernel can move");
    /* Each level on which a file system may stand takes one away from what may stand on this mount,
     * and two are all there are: so an overlay above it is possible only where none is below. */
    return stacked(s) ? 2 : 1;
}

/* The kernel will not have this file. */
static void refused(struct fuse_sess *s, int error)
{
    if (error == -EPERM) {
        if (atomic_exchange(&s->bytes.denied, true))
            return;
        say(s, "by messages: passthrough takes root's rights outside user namespaces");
    } else if (!atomic_load(&s->bytes.some)) {
        char why[sizeof(s->stats->bytes)];
        if (error == -ELOOP)
            snprintf(why, sizeof(why), "by messages: too many file systems stand on one another");
        else
            snprintf(why, sizeof(why), "by messages: passthrough: %s", strerror(-error));
        say(s, why);
    }
}

/* ---- open files ------------------------------------------------------------------------------ */

/* Must the kernel tell us of each close(2)? That costs a round trip as long as the open itself. A
 * file open for reading has no errors to report; what is left are the POSIX locks of the process
 * that closes it. So it is asked for only where such locks have been seen. What this gives up: a
 * read lock set through a file that was open before the first lock of all goes with the last close
 * of that file, if processes share it, and not with the first. */
static bool needs_flush(const struct fuse_sess *s, const struct pl_file *file, bool locked)
{
    return (file->flags & O_ACCMODE) != O_RDONLY || ((s->flags & FUSE_POSIX_LOCKS) && locked);
}

/* The kernel cuts a write that goes through its cache at the bounds of pages. Where the file has
 * other writers than this kernel, what each appends in one write must arrive in one piece. */
static bool appends_whole(const struct fuse_sess *s, const struct pl_file *file)
{
    return (file->flags & (O_ACCMODE | O_APPEND)) == (O_WRONLY | O_APPEND) &&
           !(s->tree->flags & PL_TREE_PRIVATE);
}

/* How the kernel is to treat a file whose bytes come as messages. */
static uint32_t by_messages(const struct fuse_sess *s, const struct pl_file *file, bool same)
{
    uint32_t keep = same && !(s->tree->flags & PL_TREE_GENERATED) ? FOPEN_KEEP_CACHE : 0;
    if (file->node->fmt == S_IFDIR)
        return s->cache_dirs ? FOPEN_CACHE_DIR | keep : 0;
    if (file->stream)
        return FOPEN_STREAM | FOPEN_NONSEEKABLE | FOPEN_DIRECT_IO;
    if (file->direct || appends_whole(s, file))
        return FOPEN_DIRECT_IO;
    if (s->opts.direct_io)
        return FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
    return keep;
}

/* The inode's entry, made if need be; NULL: out of memory. With the lock held. */
static struct carried *get(struct fuse_sess *s, uint64_t nodeid)
{
    struct carried *c;
    HASH_FIND(hh, s->bytes.table, &nodeid, sizeof(nodeid), c);
    if (!c && (c = calloc(1, sizeof(*c)))) {
        c->nodeid = nodeid;
        HASH_ADD(hh, s->bytes.table, nodeid, sizeof(nodeid), c);
    }
    return c;
}

/* With the lock held: drops the entry if nothing is open any more; the id that is to be given back
 * then, or 0. */
static int32_t put(struct fuse_sess *s, struct carried *c)
{
    int32_t id = c->passed ? 0 : c->backing;
    if (c->passed)
        return 0;
    c->backing = 0;
    if (id)
        fuse_nodes_backing(s->nodes, c->nodeid, 0);
    if (!c->plain) {
        HASH_DELETE(hh, s->bytes.table, c);
        free(c);
    }
    return id;
}

static void give_back(struct fuse_sess *s, int32_t id)
{
    if (id <= 0)
        return;
    cred_raise();
    s->backing_close(s, id);
    cred_lower();
}

/* A new id for the file that `fd` has open; negative: not possible. */
static int32_t lend(struct fuse_sess *s, int fd)
{
    cred_raise();
    int32_t id = s->backing_open(s, fd);
    cred_lower();
    if (id < 0)
        refused(s, id);
    return id;
}

/* Whether the kernel may move the bytes of this open without our seeing them. */
static bool may_pass(const struct fuse_sess *s, const struct pl_file *file, int fd)
{
    return fd >= 0 && !file->stream && !(file->flags & (O_APPEND | O_DIRECT));
}

/* Joins what is there, or begins it with the id `fresh` (0: there is none, so by messages).
 * -EAGAIN: nothing is there, and an id is needed first. With the lock held. */
static int join(struct fuse_sess *s, struct carried *c, const struct stat *st, bool native,
                int32_t fresh, struct fuse_way *ret)
{
    if (!c->passed && !c->plain && st && !fresh)
        return -EAGAIN;
    if (!c->passed && (c->plain || fresh <= 0)) {
        c->plain++;
        ret->how = FUSE_PLAIN;
        return 0;
    }
    if (!c->passed) {
        c->backing = fresh;
        c->dev = st->st_dev;
        c->ino = st->st_ino;
        fuse_nodes_backing(s->nodes, c->nodeid, fresh);
    }
    c->passed++;
    ret->how = FUSE_PASSED;
    ret->backing = c->backing;
    if (!native || !st || st->st_dev != c->dev || st->st_ino != c->ino)
        ret->flags = FOPEN_DIRECT_IO;
    return 0;
}

/* Chooses the way of a regular file. */
static int choose(struct fuse_sess *s, const struct pl_file *file, int fd, uint64_t nodeid,
                  struct fuse_way *ret)
{
    struct stat st, *there = NULL;
    int32_t fresh = 0;
    int error;
    if (fd >= 0 && !file->stream && !atomic_load_explicit(&s->bytes.denied, memory_order_relaxed) &&
        fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        there = &st;
    do {
        pthread_mutex_lock(&s->bytes.lock);
        struct carried *c = get(s, nodeid);
        error = c ? join(s, c, there, may_pass(s, file, fd), fresh, ret) : -ENOMEM;
        if (error < 0 && c)
            put(s, c);
        pthread_mutex_unlock(&s->bytes.lock);
    } while (error == -EAGAIN && (fresh = lend(s, fd)));
    if (error < 0 || ret->backing != fresh) /* another open was faster */
        give_back(s, fresh);
    return error;
}

int fuse_bytes_open(struct fuse_req *r, struct pl_file *file, uint64_t nodeid, struct fuse_way *ret)
{
    struct fuse_sess *s = r->s;
    struct fuse_opened o = fuse_nodes_opened(s->nodes, nodeid);
    *ret = (struct fuse_way){.how = FUSE_PLAIN};
    if (s->bytes.on && file->node->fmt == S_IFREG) {
        int error = choose(s, file, pl_file_fd(s->tree, file), nodeid, ret);
        if (error < 0)
            return error;
    }
    if (ret->how == FUSE_PASSED) {
        ret->flags |= FOPEN_PASSTHROUGH;
        if (!(ret->flags & FOPEN_DIRECT_IO)) {
            stats_add(&s->stats->passed, 1);
            if (!atomic_exchange_explicit(&s->bytes.some, true, memory_order_relaxed))
                say(s, "by the kernel (passthrough)");
        }
        fuse_nodes_unsure(s->nodes, nodeid);
    } else {
        ret->flags = by_messages(s, file, o.same);
    }
    if (file->node->fmt == S_IFREG && !needs_flush(s, file, o.locked))
        ret->flags |= FOPEN_NOFLUSH;
    return 0;
}

void fuse_bytes_close(struct fuse_sess *s, uint64_t nodeid, enum fuse_how how)
{
    struct carried *c;
    int32_t id = 0;
    if (!s->bytes.on)
        return;
    pthread_mutex_lock(&s->bytes.lock);
    HASH_FIND(hh, s->bytes.table, &nodeid, sizeof(nodeid), c);
    if (c) {
        if (how == FUSE_PASSED)
            c->passed--;
        else
            c->plain--;
        id = put(s, c);
    }
    pthread_mutex_unlock(&s->bytes.lock);
    give_back(s, id);
}

/* ---- the table ------------------------------------------------------------------------------- */

void fuse_bytes_init(struct fuse_sess *s)
{
    pthread_mutex_init(&s->bytes.lock, NULL);
}

/* The kernel lets go of the ids with the connection. */
void fuse_bytes_done(struct fuse_sess *s)
{
    struct carried *c, *next;
    HASH_ITER (hh, s->bytes.table, c, next) {
        HASH_DELETE(hh, s->bytes.table, c);
        free(c);
    }
    pthread_mutex_destroy(&s->bytes.lock);
}
