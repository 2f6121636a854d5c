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
 * A file that may be another one for the next open (of a union, copied up) is not passed: while it
 * is open, the mappings of that next one would be this one's, and written to it.
 *
 * The same is done with files opened with O_APPEND or O_DIRECT: the kernel opens the backing file
 * with the flags of that moment, and they stay when fcntl(2) takes them away from the open file; a
 * program that then writes somewhere (xz), or less than a block (dd), would meet them still.
 *
 * A backing id has the rights of the thread that asked for it, and all that is written through it
 * is written with those: in the opener's name, so that quotas and reserved blocks hold for him. An
 * id got in root's name is not kept for others.
 *
 * What an open for reading costs beside its two messages is the source's open and the loan of an
 * id. So the last open file of an inode is kept for a second, with its id, in case the same user
 * opens it again (headers of a compile, a shell's scripts). Not one open for writing: a program
 * that was just written could not be run; and not for long: what others remove would keep its
 * space.
 *
 * Locks: bytes.lock guards the table of inodes that have open files, or one kept.
 */
#include "base/cred.h"
#include "doors/fuse_door.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <uthash.h>
#include <utlist.h>

/* An inode with open files. */
struct carried {
    uint64_t nodeid;
    uint32_t passed, plain; /* open files answered with FOPEN_PASSTHROUGH; others */
    int32_t backing;        /* the id that the passed ones use */
    dev_t dev;              /* of the file that it stands for */
    ino_t ino;
    struct fuse_file kept; /* .file NULL: none; then it is in the list */
    int64_t since;         /* when it was put there */
    struct carried *prev, *next;
    UT_hash_handle hh;
};

#define KEPT_MAX  256
#define KEPT_TIME 1000000000     /* ns */
#define SWEPT     (4 * KEPT_MAX) /* ids among which a predecessor's are looked for */

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
        return s->cache_dirs && !file->direct ? FOPEN_CACHE_DIR | keep : 0;
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

/* What is to be let go of without the lock. */
struct dropped {
    int32_t id;
    struct pl_file *file;
};

static void let_go(struct fuse_sess *s, struct dropped d)
{
    struct pl_call call;
    if (d.id > 0) {
        cred_raise();
        s->backing_close(s, d.id);
        cred_lower();
    }
    if (!d.file)
        return;
    pl_call_init(&call, 0, 0);
    pl_close(s->tree, &call, d.file);
    pl_call_done(&call);
}

/* With the lock held: drops the entry if nothing is open any more. */
static struct dropped put(struct fuse_sess *s, struct carried *c)
{
    int32_t id = c->passed ? 0 : c->backing;
    if (c->passed || c->kept.file)
        return (struct dropped){0, NULL};
    c->backing = 0;
    if (!c->plain) {
        HASH_DELETE(hh, s->bytes.table, c);
        free(c);
    }
    return (struct dropped){id, NULL};
}

/* The file that is kept is not any more; the entry stays. With the lock held. */
static struct pl_file *take_kept(struct fuse_sess *s, struct carried *c)
{
    struct pl_file *file = c->kept.file;
    c->kept.file = NULL;
    DL_DELETE(s->bytes.kept, c);
    s->bytes.nkept--;
    return file;
}

/* Likewise, and the entry goes too if nothing is open. */
static struct dropped drop_kept(struct fuse_sess *s, struct carried *c)
{
    struct pl_file *file = take_kept(s, c);
    struct dropped d = put(s, c);
    d.file = file;
    return d;
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

/* Joins what is there, or begins it with the id `fresh` (0: there is none, negative: there will be
 * none). -EAGAIN: nothing is there, and an id is needed first. With the lock held. */
static int join(struct fuse_sess *s, struct carried *c, const struct stat *st, bool native,
                int32_t fresh, struct fuse_way *ret)
{
    if (!c->backing && !c->plain && st && !fresh)
        return -EAGAIN;
    if (!c->backing && (c->plain || fresh <= 0)) {
        c->plain++;
        ret->how = FUSE_PLAIN;
        return 0;
    }
    if (!c->backing) {
        c->backing = fresh;
        c->dev = st->st_dev;
        c->ino = st->st_ino;
    }
    c->passed++;
    ret->backing = c->backing;
    ret->how = native && st && st->st_dev == c->dev && st->st_ino == c->ino ? FUSE_PASSED
                                                                            : FUSE_PASSED_BY_NAME;
    return 0;
}

/* Another open has come than the one that the file was kept for. Its id goes on if it stands for
 * the same file, in the same name. With the lock held. */
static struct dropped other_than_kept(struct fuse_sess *s, struct carried *c, const struct stat *st,
                                      uint32_t uid)
{
    struct dropped d = {0, NULL};
    if (!c->kept.file)
        return d;
    d.file = take_kept(s, c);
    if (!c->passed && (!st || st->st_dev != c->dev || st->st_ino != c->ino || c->kept.uid != uid)) {
        d.id = c->backing;
        c->backing = 0;
    }
    return d;
}

/* Whether the kernel may move the bytes of this open without our seeing them, for good. */
static bool native(const struct pl_file *file)
{
    return !(file->flags & (O_APPEND | O_DIRECT));
}

/* Chooses the way of a regular file. */
static int choose(struct fuse_req *r, const struct pl_file *file, uint64_t nodeid,
                  struct fuse_way *ret)
{
    struct fuse_sess *s = r->s;
    struct stat st, *there = NULL;
    int32_t fresh = 0;
    int error, fd = file->stream || file->moves ? -1 : pl_file_fd(s->tree, (struct pl_file *)file);
    if (fd >= 0 && !atomic_load_explicit(&s->bytes.denied, memory_order_relaxed) &&
        fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        there = &st;
    do {
        struct dropped d = {0, NULL};
        pthread_mutex_lock(&s->bytes.lock);
        struct carried *c = get(s, nodeid);
        error = -ENOMEM;
        if (c) {
            d = other_than_kept(s, c, there, r->call.cred.uid);
            error = join(s, c, there, native(file), fresh, ret);
            if (error < 0)
                put(s, c);
        }
        pthread_mutex_unlock(&s->bytes.lock);
        let_go(s, d);
    } while (error == -EAGAIN && (fresh = lend(s, fd)));
    if (error < 0 || ret->backing != fresh) /* another open was faster */
        let_go(s, (struct dropped){fresh, NULL});
    return error;
}

/* The flags of a file that is passed, and what is known from now on. */
static void passed(struct fuse_sess *s, uint64_t nodeid, struct fuse_way *way)
{
    way->flags = FOPEN_PASSTHROUGH;
    if (way->how == FUSE_PASSED_BY_NAME) {
        way->flags |= FOPEN_DIRECT_IO;
    } else {
        stats_add(&s->stats->passed, 1);
        if (!atomic_exchange_explicit(&s->bytes.some, true, memory_order_relaxed))
            say(s, "by the kernel (passthrough)");
    }
    fuse_nodes_unsure(s->nodes, nodeid);
}

static bool may_map(uint32_t flags)
{
    return (flags & O_ACCMODE) == O_RDWR;
}

int fuse_bytes_open(struct fuse_req *r, struct pl_file *file, uint64_t nodeid, struct fuse_way *ret)
{
    struct fuse_sess *s = r->s;
    struct fuse_opened o = fuse_nodes_opened(s->nodes, nodeid);
    *ret = (struct fuse_way){.how = file->node->fmt == S_IFDIR ? FUSE_NO_BYTES : FUSE_PLAIN};
    if (s->bytes.on && ret->how == FUSE_PLAIN) {
        int error = choose(r, file, nodeid, ret);
        if (error < 0)
            return error;
    }
    if (ret->how < FUSE_PASSED)
        ret->flags = by_messages(s, file, o.same);
    else
        passed(s, nodeid, ret);
    if (ret->how >= FUSE_PASSED && may_map(file->flags) && fuse_nodes_mapped(s->nodes, nodeid, 1))
        fuse_told_attr(s, nodeid);
    if (ret->how != FUSE_NO_BYTES && !needs_flush(s, file, o.locked))
        ret->flags |= FOPEN_NOFLUSH;
    return 0;
}

/* ---- a file that is kept --------------------------------------------------------------------- */

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* With the lock held. The kernel must be checking permissions: nobody else does then. */
static bool is_for(const struct fuse_req *r, const struct carried *c, uint32_t flags)
{
    const struct pl_cred *who = &r->call.cred;
    return c->kept.file->flags == flags && c->kept.uid == who->uid && c->kept.gid == who->gid &&
           (who->uid == 0 || r->s->opts.kernel_checks);
}

struct pl_file *fuse_bytes_again(struct fuse_req *r, uint32_t flags, struct fuse_way *ret)
{
    struct fuse_sess *s = r->s;
    struct pl_file *file = NULL;
    uint64_t nodeid = r->m.h.nodeid;
    struct carried *c;
    if (!atomic_load_explicit(&s->bytes.nkept, memory_order_relaxed))
        return NULL;
    pthread_mutex_lock(&s->bytes.lock);
    HASH_FIND(hh, s->bytes.table, &nodeid, sizeof(nodeid), c);
    if (c && c->kept.file && is_for(r, c, flags) && pl_file_fd(s->tree, c->kept.file) >= 0) {
        file = take_kept(s, c);
        c->passed++;
        *ret = (struct fuse_way){.how = FUSE_PASSED, .backing = c->backing};
    }
    pthread_mutex_unlock(&s->bytes.lock);
    if (!file)
        return NULL;
    struct fuse_opened o = fuse_nodes_opened(s->nodes, nodeid);
    passed(s, nodeid, ret);
    if (!needs_flush(s, file, o.locked))
        ret->flags |= FOPEN_NOFLUSH;
    return file;
}

static bool worth_keeping(struct fuse_sess *s, const struct carried *c, const struct fuse_file *f)
{
    return f->how == FUSE_PASSED && !c->passed && !c->kept.file && !f->locked && !f->poll &&
           !f->file->direct && (f->file->flags & (O_ACCMODE | O_TRUNC)) == O_RDONLY &&
           pl_file_fd(s->tree, f->file) >= 0;
}

void fuse_bytes_close(struct fuse_req *r, const struct fuse_file *f, bool released)
{
    struct fuse_sess *s = r->s;
    struct carried *c = NULL;
    struct dropped d = {0, f->file};
    if (f->how >= FUSE_PASSED && may_map(f->flags))
        fuse_nodes_mapped(s->nodes, f->nodeid, -1);
    pthread_mutex_lock(&s->bytes.lock);
    if (s->bytes.on && f->how != FUSE_NO_BYTES)
        HASH_FIND(hh, s->bytes.table, &f->nodeid, sizeof(f->nodeid), c);
    if (c && f->how == FUSE_PLAIN)
        c->plain--;
    else if (c)
        c->passed--;
    if (c && released && f->file && worth_keeping(s, c, f)) {
        c->kept = *f;
        c->since = now();
        DL_APPEND(s->bytes.kept, c);
        d.file = NULL;
        if (++s->bytes.nkept > KEPT_MAX)
            d = drop_kept(s, s->bytes.kept);
    } else if (c) {
        d.id = put(s, c).id;
    }
    pthread_mutex_unlock(&s->bytes.lock);
    if (d.file && d.file == f->file) { /* in the name of whoever let go of it */
        pl_close(s->tree, &r->call, d.file);
        d.file = NULL;
    }
    let_go(s, d);
}

void fuse_bytes_forget(struct fuse_sess *s, uint64_t nodeid)
{
    struct carried *c;
    struct dropped d = {0, NULL};
    if (!atomic_load_explicit(&s->bytes.nkept, memory_order_relaxed))
        return;
    pthread_mutex_lock(&s->bytes.lock);
    HASH_FIND(hh, s->bytes.table, &nodeid, sizeof(nodeid), c);
    if (c && c->kept.file)
        d = drop_kept(s, c);
    pthread_mutex_unlock(&s->bytes.lock);
    let_go(s, d);
}

bool fuse_bytes_tidy(struct fuse_sess *s)
{
    bool more;
    if (!atomic_load_explicit(&s->bytes.nkept, memory_order_relaxed))
        return false;
    int64_t old = now() - KEPT_TIME;
    do {
        struct dropped d = {0, NULL};
        pthread_mutex_lock(&s->bytes.lock);
        more = s->bytes.kept && s->bytes.kept->since <= old;
        if (more)
            d = drop_kept(s, s->bytes.kept);
        pthread_mutex_unlock(&s->bytes.lock);
        let_go(s, d);
    } while (more);
    return atomic_load_explicit(&s->bytes.nkept, memory_order_relaxed);
}

/* ---- what a predecessor left ----------------------------------------------------------------- */

/* An id that files of the predecessor use goes on; which file of ours has the same bytes is not
 * known, so that what is opened beside them goes by messages. */
static void carry_on(struct fuse_sess *s, const struct ledger_file *f)
{
    uint32_t state = atomic_load(&f->state);
    if (!state || (state & LEDGER_DIR))
        return;
    if ((state & LEDGER_PASSED) && may_map(f->flags))
        fuse_nodes_mapped(s->nodes, f->nodeid, 1);
    pthread_mutex_lock(&s->bytes.lock);
    struct carried *c = get(s, f->nodeid);
    if (c && (state & LEDGER_PASSED)) {
        c->passed++;
        c->backing = f->backing;
    } else if (c) {
        c->plain++;
    }
    pthread_mutex_unlock(&s->bytes.lock);
}

static bool used(struct fuse_sess *s, int32_t id)
{
    pthread_mutex_lock(&s->bytes.lock);
    struct carried *c = s->bytes.table;
    while (c && c->backing != id)
        c = c->hh.next;
    pthread_mutex_unlock(&s->bytes.lock);
    return c;
}

/* The ids of files that the predecessor only kept are nobody's; the kernel counts ids upwards. */
static void sweep(struct fuse_sess *s)
{
    int fd = memfd_create("plenum", MFD_CLOEXEC);
    int32_t last = fd >= 0 ? lend(s, fd) : -1;
    for (int32_t id = last; id > 0 && id > last - SWEPT; id--)
        if (!used(s, id))
            let_go(s, (struct dropped){id, NULL});
    if (fd >= 0)
        close(fd);
}

void fuse_bytes_carry_on(struct fuse_sess *s)
{
    struct ledger_file f;
    uint32_t cursor = 0;
    fuse_bytes_agreed(s);
    if (!s->bytes.on)
        return;
    while (fuse_files_next(s->files, &cursor, &f))
        carry_on(s, &f);
    sweep(s);
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
        let_go(s, (struct dropped){0, c->kept.file});
        free(c);
    }
    pthread_mutex_destroy(&s->bytes.lock);
}
