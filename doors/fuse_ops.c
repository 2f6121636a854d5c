/* SPDX-License-Identifier: MIT */
/* The session of the FUSE door, the dispatcher, and the operations on attributes. */
#include "base/cred.h"
#include "doors/fuse_door.h"
#include "fuse/features.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECOND 1000000000ll

/* ---- the session ----------------------------------------------------------------------------- */

void fuse_opts_init(struct fuse_opts *opts)
{
    *opts = (struct fuse_opts){.entry_timeout = -1, .attr_timeout = -1, .negative_timeout = -1};
}

/* How long the kernel may believe: never what changes by itself, long what only we change. */
static int64_t default_timeout(const struct pl_tree *tree)
{
    if (tree->flags & PL_TREE_GENERATED)
        return 0;
    return tree->flags & PL_TREE_PRIVATE ? 3600 * SECOND : SECOND;
}

#define TOLD_TIMEOUT (60 * SECOND)

static struct fuse_valid valid(int64_t timeout, int64_t otherwise)
{
    timeout = timeout < 0 ? otherwise : timeout;
    return (struct fuse_valid){(uint64_t)(timeout / SECOND), (uint32_t)(timeout % SECOND)};
}

static void set_timeouts(struct fuse_sess *s)
{
    const int64_t given[FUSE_BELIEFS] = {
        [FUSE_OF_ENTRY] = s->opts.entry_timeout,
        [FUSE_OF_ATTR] = s->opts.attr_timeout,
        [FUSE_OF_NEGATIVE] = s->opts.negative_timeout,
    };
    for (int i = 0; i < FUSE_BELIEFS; i++) {
        s->asked[i] = valid(given[i], default_timeout(s->tree));
        s->long_lived[i] = valid(given[i], TOLD_TIMEOUT);
    }
    struct fuse_valid attr = s->asked[FUSE_OF_ATTR];
    s->cache_dirs = (attr.sec || attr.nsec) && !(s->tree->flags & PL_TREE_GENERATED);
}

static uint32_t bounded(uint32_t v, uint32_t otherwise, uint32_t least, uint32_t most)
{
    v = v ? v : otherwise;
    return v < least ? least : v > most ? most : v;
}

/* Takes over the root. */
static int make_tables(struct fuse_sess *s, struct pl_node *root, const struct pl_attr *attr)
{
    s->ledger = s->opts.ledger;
    if (!s->ledger && ledger_new(&s->own, 0, false) == 0)
        s->ledger = &s->own;
    if (!s->ledger) {
        pl_node_unref(root);
        return -ENOMEM;
    }
    if (s->ledger->head->agreed) /* before anything of it is used */
        atomic_fetch_add(&s->ledger->head->epoch, 1);
    s->nodes = fuse_nodes_new(s->ledger, root, attr, &fuse_nodes_ops, s);
    s->files = s->nodes ? fuse_files_new(s->ledger, fuse_wake_file_of, s) : NULL;
    if (s->files) {
        fuse_bytes_init(s);
        pthread_mutex_init(&s->poll_lock, NULL);
        pthread_mutex_init(&s->lock_lock, NULL);
        pthread_mutex_init(&s->slot_lock, NULL);
        fuse_journal_open(s);
        return 0;
    }
    if (s->nodes)
        fuse_nodes_free(s->nodes);
    if (s->ledger == &s->own)
        ledger_unmap(&s->own);
    return -ENOMEM;
}

int fuse_sess_init(struct fuse_sess *s, struct pl_tree *tree, const char *aname,
                   const struct fuse_opts *opts, struct stats *stats, struct pl_err *err)
{
    memset(s, 0, sizeof(*s));
    s->tree = tree;
    s->stats = stats;
    if (opts)
        s->opts = *opts;
    else
        fuse_opts_init(&s->opts);
    const char *why = s->opts.opens == FUSE_OFF ? fuse_noopen_refusal(tree->flags, &s->opts) : NULL;
    if (why)
        return pl_fail(err, -EINVAL, "-o noopen: %s", why);
    if (s->opts.ledger && atomic_load(&s->opts.ledger->head->agreed))
        s->opts.max_write = s->opts.ledger->head->max_write; /* what was agreed holds */
    s->opts.max_write = bounded(s->opts.max_write, 1 << 20, 1 << 12, 1 << 20);
    s->opts.threads = bounded(s->opts.threads, 16, 1, 256);
    set_timeouts(s);

    struct pl_call call;
    struct pl_node *root;
    struct pl_attr attr;
    pl_call_init_self(&call);
    int r = pl_attach(tree, &call, aname ? aname : "", &root, &attr);
    pl_call_done(&call);
    if (r < 0)
        return pl_fail(err, r, "%s: %s", aname && *aname ? aname : "/", strerror(-r));
    /* A predecessor may have agreed to what we would not ask for. */
    if (!(s->noopen = fuse_noopen_new(tree)))
        pl_node_unref(root);
    else if (make_tables(s, root, &attr) == 0)
        return 0;
    fuse_noopen_free(s->noopen);
    return pl_fail(err, -ENOMEM, "out of memory");
}

void fuse_sess_done(struct fuse_sess *s)
{
    struct fuse_file f;
    uint32_t cursor = 0;
    struct pl_call call;
    pl_call_init_self(&call);
    while (fuse_files_pop(s->files, &cursor, &f)) {
        pl_close(s->tree, &call, f.file);
        fuse_poll_free(f.poll);
    }
    pl_call_done(&call);
    fuse_noopen_free(s->noopen);
    fuse_files_free(s->files);
    fuse_bytes_done(s);
    fuse_nodes_free(s->nodes);
    if (s->ledger == &s->own)
        ledger_unmap(&s->own);
    pthread_mutex_destroy(&s->poll_lock);
    pthread_mutex_destroy(&s->lock_lock);
    pthread_mutex_destroy(&s->slot_lock);
}

uint64_t fuse_wants(uint32_t tree, const struct fuse_opts *opts)
{
    uint64_t want = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_EXPORT_SUPPORT | FUSE_BIG_WRITES |
                    FUSE_DONT_MASK | FUSE_HAS_IOCTL_DIR | FUSE_AUTO_INVAL_DATA | FUSE_ASYNC_DIO |
                    FUSE_PARALLEL_DIROPS | FUSE_ABORT_ERROR | FUSE_MAX_PAGES | FUSE_SETXATTR_EXT |
                    FUSE_INIT_EXT | FUSE_HANDLE_KILLPRIV | FUSE_HANDLE_KILLPRIV_V2 |
                    FUSE_DIRECT_IO_ALLOW_MMAP | FUSE_HAS_EXPIRE_ONLY;
    want |= fuse_noopen_wants(tree, opts);
    /* No FLUSH would tell when locks are to go: the kernel keeps them itself, and it truncates. */
    if (want & FUSE_NO_OPEN_SUPPORT)
        want &= ~(uint64_t)FUSE_ATOMIC_O_TRUNC;
    else if (tree & PL_TREE_LOCKS)
        want |= FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS;
    if (tree & PL_TREE_POSIX_ACL)
        want |= FUSE_POSIX_ACL;
    if (!(tree & PL_TREE_GENERATED))
        want |= FUSE_CACHE_SYMLINKS;
    /* Far away, attributes that nobody asked for may cost a round trip for each entry. */
    if (!(tree & PL_TREE_REMOTE) || (tree & PL_TREE_PLUS))
        want |= FUSE_DO_READDIRPLUS;
    if (opts->writeback)
        want |= FUSE_WRITEBACK_CACHE;
    if (opts->uring)
        want |= FUSE_OVER_IO_URING;
    if (opts->passthrough != FUSE_OFF)
        want |= FUSE_PASSTHROUGH;
    return want;
}

int fuse_sess_agree(struct fuse_sess *s, const struct fuse_init_in *in, struct fuse_init_out *out)
{
    memset(out, 0, sizeof(*out));
    out->major = FUSE_MAJOR;
    out->minor = FUSE_MINOR;
    if (in->major > FUSE_MAJOR)
        return 0;
    s->minor = in->minor < FUSE_MINOR ? in->minor : FUSE_MINOR;
    if (s->opts.mask_minor && s->minor > s->opts.mask_minor)
        s->minor = s->opts.mask_minor;
    if (in->major < FUSE_MAJOR || s->minor < FUSE_MINOR_MIN)
        return -EPROTO;
    uint64_t offered = in->flags;
    if (in->flags & FUSE_INIT_EXT)
        offered |= (uint64_t)in->flags2 << 32;
    offered &= ~(s->opts.mask | fuse_features_after(s->minor));
    if (!(offered & FUSE_INIT_EXT))
        offered &= UINT32_MAX;
    uint64_t noopen = fuse_noopen_wants(s->tree->flags, &s->opts);
    if (!fuse_noopen_agrees(s->tree->flags, offered, noopen))
        s->opts.opens = FUSE_ON;
    out->minor = s->minor;
    s->flags = offered & (fuse_wants(s->tree->flags, &s->opts) |
                          (fuse_lasts(s) ? (uint64_t)FUSE_HAS_RESEND : 0));
    /* Who writes natively writes as us: it is for the kernel to clear set-user-ID bits before. */
    if (!fuse_bytes_wanted(s) || !(s->flags & FUSE_HANDLE_KILLPRIV_V2))
        s->flags &= ~(uint64_t)FUSE_PASSTHROUGH;
    out->max_stack_depth = fuse_bytes_agreed(s);
    /* The older way has the tree know by itself whose writes clear set-user-ID bits: it does,
     * unless the kernel writes back in the name of others. */
    if ((s->flags & FUSE_HANDLE_KILLPRIV_V2) || s->opts.writeback)
        s->flags &= ~(uint64_t)FUSE_HANDLE_KILLPRIV;
    if (!(s->flags & FUSE_HAS_EXPIRE_ONLY)) { /* names cannot be told: see fuse_told.c */
        s->long_lived[FUSE_OF_ENTRY] = s->asked[FUSE_OF_ENTRY];
        s->long_lived[FUSE_OF_NEGATIVE] = s->asked[FUSE_OF_NEGATIVE];
    }
    out->max_readahead = UINT32_MAX; /* what the mount says, which may have been raised since */
    out->flags = (uint32_t)s->flags;
    out->flags2 = (uint32_t)(s->flags >> 32);
    out->max_background = 64;
    out->congestion_threshold = 48;
    out->max_write = s->opts.max_write;
    out->time_gran = 1;
    out->max_pages = (uint16_t)((s->opts.max_write + 4095) / 4096);
    s->ledger->head->minor = s->minor;
    s->ledger->head->flags = s->flags;
    s->ledger->head->max_write = s->opts.max_write;
    return 1;
}

/* ---- replies --------------------------------------------------------------------------------- */

static int send_noted(struct fuse_req *r, const struct iovec *iov, int n)
{
    fuse_journal_note(r, iov, n);
    return fuse_journal_sent(r, r->send(r, iov, n));
}

int fuse_reply2(struct fuse_req *r, const void *a, size_t asize, const void *b, size_t bsize)
{
    fuse_noopen_wrote(r);
    struct fuse_out_header h = {(uint32_t)(sizeof(h) + asize + bsize), 0, r->m.h.unique};
    struct iovec iov[3] = {{&h, sizeof(h)}, {(void *)a, asize}, {(void *)b, bsize}};
    return send_noted(r, iov, bsize ? 3 : asize ? 2 : 1);
}

int fuse_reply(struct fuse_req *r, const void *data, size_t size)
{
    return fuse_reply2(r, data, size, NULL, 0);
}

static void reply_error(struct fuse_req *r, int error)
{
    if (error == FUSE_NEVER)
        error = -ENOSYS;
    else if (error == -ENOSYS) /* the kernel would remember it for the whole mount */
        error = -EOPNOTSUPP;
    else if (error < -511) /* not for user space; the kernel would refuse the reply */
        error = -EIO;
    if (error != -ENOENT && error != -ENODATA && error != -ENOSYS)
        stats_add(&r->s->stats->errors, 1);
    struct fuse_out_header h = {sizeof(h), error, r->m.h.unique};
    struct iovec iov = {&h, sizeof(h)};
    send_noted(r, &iov, 1);
}

/* As the kernel's new_encode_dev(). */
static uint32_t encode_dev(uint32_t major, uint32_t minor)
{
    return (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
}

static void fill_attr(struct fuse_attr *out, const struct pl_attr *a)
{
    *out = (struct fuse_attr){
        .ino = a->ino,
        .size = a->size,
        .blocks = a->blocks,
        .atime = (uint64_t)a->atime.tv_sec,
        .mtime = (uint64_t)a->mtime.tv_sec,
        .ctime = (uint64_t)a->ctime.tv_sec,
        .atimensec = (uint32_t)a->atime.tv_nsec,
        .mtimensec = (uint32_t)a->mtime.tv_nsec,
        .ctimensec = (uint32_t)a->ctime.tv_nsec,
        .mode = a->mode,
        .nlink = (uint32_t)a->nlink,
        .uid = a->uid,
        .gid = a->gid,
        .rdev = encode_dev(a->rdev_major, a->rdev_minor),
        .blksize = a->blksize ? a->blksize : 4096,
    };
}

struct fuse_valid fuse_valid(struct fuse_req *r, enum fuse_belief what, bool told)
{
    struct fuse_sess *s = r->s;
    if (!s->told)
        return s->asked[what];
    if (fuse_told_seq(s) != r->told_seq)
        return (struct fuse_valid){0, 0};
    return told && !fuse_told_in_doubt(s) ? s->long_lived[what] : s->asked[what];
}

int fuse_entry(struct fuse_req *r, struct pl_node *node, const struct pl_attr *attr,
               const char *name, struct fuse_entry_out *out)
{
    struct fuse_sess *s = r->s;
    struct fuse_found f = {node, attr, r->m.h.nodeid, name};
    uint64_t generation;
    bool sure;
    fuse_journal_deed(r);
    uint64_t id =
        fuse_nodes_learn(s->nodes, &f, &generation, &sure, r->journal ? &r->slot->learned : NULL);
    if (!id)
        return -ENOMEM;
    /* From here on changes are passed on to the kernel; those before are noticed by fuse_valid().
     */
    struct fuse_valid ev = fuse_valid(r, FUSE_OF_ENTRY, attr->told);
    struct fuse_valid av =
        sure ? fuse_valid(r, FUSE_OF_ATTR, attr->told) : (struct fuse_valid){0, 0};
    if (S_ISDIR(attr->mode))
        fuse_told_dir(s, id, attr);
    out->nodeid = id;
    out->generation = generation;
    out->entry_valid = ev.sec;
    out->entry_valid_nsec = ev.nsec;
    out->attr_valid = av.sec;
    out->attr_valid_nsec = av.nsec;
    fill_attr(&out->attr, attr);
    return 0;
}

int fuse_reply_entry(struct fuse_req *r, struct pl_node *node, const struct pl_attr *attr,
                     const char *name)
{
    struct fuse_entry_out out;
    int error = fuse_entry(r, node, attr, name, &out);
    if (error < 0)
        return error;
    if (fuse_reply(r, &out, sizeof(out)) < 0)
        fuse_nodes_forget(r->s->nodes, out.nodeid, 1);
    return 0;
}

/* The kernel is about to be told these attributes of the request's node: for how long they hold. */
static struct fuse_valid telling(struct fuse_req *r, const struct pl_attr *attr)
{
    bool sure = fuse_nodes_told(r->s->nodes, r->m.h.nodeid, attr);
    if (S_ISDIR(attr->mode))
        fuse_told_dir(r->s, r->m.h.nodeid, attr);
    sure &= !attr->guess;
    sure &= r->m.h.nodeid != FUSE_ROOT_ID || fuse_told_is_entered(r->s);
    return sure ? fuse_valid(r, FUSE_OF_ATTR, attr->told) : (struct fuse_valid){0, 0};
}

int fuse_reply_attr(struct fuse_req *r, const struct pl_attr *attr)
{
    struct fuse_valid v = telling(r, attr);
    struct fuse_attr_out out = {v.sec, v.nsec, 0, {0}};
    fill_attr(&out.attr, attr);
    fuse_reply(r, &out, sizeof(out));
    return 0;
}

/* What /proc says of a thread. */
static int read_status(pid_t pid, char *text, size_t size)
{
    char path[40];
    if (!pid)
        return -ESRCH;
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) { /* perhaps hidden from whom this thread acted for before */
        cred_reset();
        fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, text, size - 1);
    close(fd);
    if (n < 0)
        return -EIO;
    text[n] = 0;
    return 0;
}

/* ---- attributes ------------------------------------------------------------------------------ */

int fuse_op_getattr(struct fuse_req *r)
{
    struct pl_file *file = NULL;
    struct pl_attr attr;
    if ((r->m.a.getattr.flags & FUSE_GETATTR_FH) && r->node->fmt == S_IFREG)
        file = fuse_req_file(r, r->m.a.getattr.fh);
    int error = pl_getattr(r->s->tree, &r->call, r->node, file, &attr);
    return error < 0 ? error : fuse_reply_attr(r, &attr);
}

static struct fuse_sx_time sx_time(struct timespec t)
{
    return (struct fuse_sx_time){t.tv_sec, (uint32_t)t.tv_nsec, 0};
}

int fuse_op_statx(struct fuse_req *r)
{
    struct pl_file *file = NULL;
    struct pl_attr a;
    if ((r->m.a.statx.flags & FUSE_GETATTR_FH) && r->node->fmt == S_IFREG)
        file = fuse_req_file(r, r->m.a.statx.fh);
    int error = pl_getattr(r->s->tree, &r->call, r->node, file, &a);
    if (error < 0)
        return error;
    bool born = a.btime.tv_sec || a.btime.tv_nsec;
    struct fuse_valid v = telling(r, &a);
    struct fuse_statx_out out = {
        .attr_valid = v.sec,
        .attr_valid_nsec = v.nsec,
        .stat = {.mask = STATX_BASIC_STATS | (born ? STATX_BTIME : 0),
                 .blksize = a.blksize ? a.blksize : 4096,
                 .nlink = (uint32_t)a.nlink,
                 .uid = a.uid,
                 .gid = a.gid,
                 .mode = (uint16_t)a.mode,
                 .ino = a.ino,
                 .size = a.size,
                 .blocks = a.blocks,
                 .atime = sx_time(a.atime),
                 .btime = sx_time(a.btime),
                 .ctime = sx_time(a.ctime),
                 .mtime = sx_time(a.mtime),
                 .rdev_major = a.rdev_major,
                 .rdev_minor = a.rdev_minor},
    };
    fuse_reply(r, &out, sizeof(out));
    return 0;
}

/* The kernel sets ATIME beside ATIME_NOW; ours stands alone. */
static void map_setattr(const struct fuse_setattr_in *in, struct pl_setattr *set)
{
    static const struct {
        uint32_t theirs, ours;
    } map[] = {{FATTR_MODE, PL_SET_MODE},  {FATTR_UID, PL_SET_UID},     {FATTR_GID, PL_SET_GID},
               {FATTR_SIZE, PL_SET_SIZE},  {FATTR_ATIME, PL_SET_ATIME}, {FATTR_MTIME, PL_SET_MTIME},
               {FATTR_CTIME, PL_SET_CTIME}};
    *set = (struct pl_setattr){
        .mode = in->mode,
        .uid = in->uid,
        .gid = in->gid,
        .size = in->size,
        .atime = {(time_t)in->atime, in->atimensec},
        .mtime = {(time_t)in->mtime, in->mtimensec},
        .ctime = {(time_t)in->ctime, in->ctimensec},
    };
    for (size_t i = 0; i < sizeof(map) / sizeof(*map); i++)
        if (in->valid & map[i].theirs)
            set->valid |= map[i].ours;
    if (in->valid & FATTR_ATIME_NOW)
        set->valid = (set->valid & ~(uint32_t)PL_SET_ATIME) | PL_SET_ATIME_NOW;
    if (in->valid & FATTR_MTIME_NOW)
        set->valid = (set->valid & ~(uint32_t)PL_SET_MTIME) | PL_SET_MTIME_NOW;
}

void fuse_kill_priv(struct fuse_req *r, struct pl_file *file, bool sgid_always)
{
    struct pl_attr a;
    struct pl_call call; /* a writer who is not the owner may not chmod, so it is not in his name */
    pl_call_init(&call, 0, 0);
    if (pl_getattr(r->s->tree, &call, r->node, file, &a) == 0) {
        uint32_t kill = 0;
        if (S_ISREG(a.mode) && !sgid_always)
            kill = a.mode & S_ISUID;
        if (sgid_always || (S_ISREG(a.mode) && (a.mode & S_IXGRP)))
            kill |= a.mode & S_ISGID;
        struct pl_setattr set = {.valid = PL_SET_MODE, .mode = a.mode & 07777 & ~kill};
        /* The kernel believes that a write does not change the mode. */
        if (kill && pl_setattr(r->s->tree, &call, r->node, file, &set, &a) == 0)
            fuse_told_attr(r->s, r->m.h.nodeid);
    }
    pl_call_done(&call);
}

#define TIMES (PL_SET_ATIME | PL_SET_ATIME_NOW | PL_SET_MTIME | PL_SET_CTIME)

/* A kernel that writes back keeps the times of what has changed itself and hands them on later, in
 * the name of whoever is there, who may not set them. It says so by nothing: but who is not allowed
 * to set times does not get past a kernel that checks permissions, and whoever wrote or truncates
 * moves them anyhow. True when they were taken out of `set` into `times`. */
static bool own_times(struct fuse_req *r, const struct pl_file *file, struct pl_setattr *set,
                      struct pl_setattr *times)
{
    bool written = file && (file->flags & O_ACCMODE) != O_RDONLY;
    if (!(r->s->flags & FUSE_WRITEBACK_CACHE) || !(set->valid & PL_SET_MTIME) ||
        !(written || (set->valid & PL_SET_SIZE) || r->s->opts.kernel_checks))
        return false;
    *times = *set;
    times->valid &= TIMES;
    set->valid &= ~(uint32_t)TIMES;
    return true;
}

/* The times are set to now, which writers may who are not the owner; but a kernel that writes back
 * does not say so of mtime. Then it is said now. */
static bool is_touch(struct fuse_req *r, struct pl_setattr *set)
{
    if (!(r->s->flags & FUSE_WRITEBACK_CACHE) || !(set->valid & PL_SET_ATIME_NOW) ||
        !(set->valid & PL_SET_MTIME))
        return false;
    set->valid = (set->valid & ~(uint32_t)PL_SET_MTIME) | PL_SET_MTIME_NOW;
    return true;
}

/* A kernel without HANDLE_KILLPRIV_V2 takes the suid and sgid bits of what is written to off by a
 * plain change of the mode, in the name of the writer, who need not be the owner. One that checks
 * permissions would not let him ask for it; one that does not is believed if he may write. */
static bool is_kill(struct fuse_req *r, const struct fuse_setattr_in *in)
{
    struct pl_attr a;
    struct pl_call call;
    if ((r->s->flags & FUSE_HANDLE_KILLPRIV_V2) ||
        (in->valid & ~(uint32_t)FATTR_CTIME) != FATTR_MODE)
        return false;
    pl_call_init(&call, 0, 0);
    int error = pl_getattr(r->s->tree, &call, r->node, NULL, &a);
    pl_call_done(&call);
    uint32_t gone = (a.mode ^ in->mode) & 07777;
    return error == 0 && S_ISREG(a.mode) && (a.mode & gone) == gone &&
           !(gone & ~(uint32_t)(S_ISUID | S_ISGID)) &&
           (r->s->opts.kernel_checks || pl_access(r->s->tree, &r->call, r->node, W_OK) == 0);
}

/* Whether the caller may leave these bits alone. */
static bool may_fsetid(const struct fuse_req *r)
{
    char text[8192];
    const char *p =
        read_status(r->call.pid, text, sizeof(text)) == 0 ? strstr(text, "\nCapEff:") : NULL;
    if (!p)
        return r->m.h.uid == 0;
    return strtoull(p + strlen("\nCapEff:"), NULL, 16) >> CAP_FSETID & 1;
}

/* And one that has it, and moves bytes by itself, says so by a change of nothing before it writes;
 * also when only file capabilities are to go. */
static bool kills(const struct fuse_req *r, const struct fuse_setattr_in *in)
{
    return in->valid & FATTR_KILL_SUIDGID ||
           (!(in->valid & ~(uint32_t)(FATTR_FH | FATTR_CTIME)) && r->node->fmt == S_IFREG &&
            (r->s->flags & FUSE_HANDLE_KILLPRIV_V2) && !may_fsetid(r));
}

/* In our own name. */
static int set_by_us(struct fuse_req *r, struct pl_file *file, const struct pl_setattr *set,
                     struct pl_attr *attr)
{
    struct pl_call call;
    pl_call_init(&call, 0, 0);
    int error = pl_setattr(r->s->tree, &call, r->node, file, set, attr);
    pl_call_done(&call);
    return error;
}

int fuse_op_setattr(struct fuse_req *r)
{
    const struct fuse_setattr_in *in = &r->m.a.setattr;
    struct pl_file *file = NULL;
    struct pl_setattr set, times;
    struct pl_attr attr;
    map_setattr(in, &set);
    if ((in->valid & FATTR_FH) && !(file = fuse_req_file(r, in->fh)))
        return -EBADF;
    bool apart = own_times(r, file, &set, &times);
    int error = set.valid ? pl_setattr(r->s->tree, &r->call, r->node, file, &set, &attr) : 0;
    if (error == -EPERM && is_touch(r, &set))
        error = pl_setattr(r->s->tree, &r->call, r->node, file, &set, &attr);
    if (error == -EPERM && is_kill(r, in))
        error = set_by_us(r, file, &set, &attr);
    if (error == 0 && apart)
        error = set_by_us(r, file, &times, &attr);
    if (error < 0)
        return error;
    bool known = set.valid || apart;
    bool kill = kills(r, in) && !(known && !(attr.mode & (S_ISUID | S_ISGID)));
    if (kill)
        fuse_kill_priv(r, file, false);
    if (!known || kill)
        error = pl_getattr(r->s->tree, &r->call, r->node, file, &attr);
    return error < 0 ? error : fuse_reply_attr(r, &attr);
}

int fuse_op_access(struct fuse_req *r)
{
    int error = pl_access(r->s->tree, &r->call, r->node, (int)(r->m.a.access.mask & 7));
    if (error < 0)
        return error;
    fuse_reply(r, NULL, 0);
    return 0;
}

int fuse_op_readlink(struct fuse_req *r)
{
    char target[PL_PATH_MAX + 1];
    int n = pl_readlink(r->s->tree, &r->call, r->node, target, PL_PATH_MAX);
    if (n < 0)
        return n;
    fuse_reply(r, target, (size_t)n);
    return 0;
}

int fuse_op_statfs(struct fuse_req *r)
{
    struct statfs st;
    int error = pl_statfs(r->s->tree, &r->call, r->node, &st);
    if (error < 0)
        return error;
    struct fuse_statfs_out out = {
        .blocks = st.f_blocks,
        .bfree = st.f_bfree,
        .bavail = st.f_bavail,
        .files = st.f_files,
        .ffree = st.f_ffree,
        .bsize = (uint32_t)st.f_bsize,
        .namelen = (uint32_t)st.f_namelen,
        .frsize = (uint32_t)(st.f_frsize ? st.f_frsize : st.f_bsize),
    };
    fuse_reply(r, &out, sizeof(out));
    return 0;
}

int fuse_op_syncfs(struct fuse_req *r)
{
    int error = pl_syncfs(r->s->tree, &r->call, r->node);
    if (error < 0)
        return error;
    fuse_reply(r, NULL, 0);
    return 0;
}

/* ---- the dispatcher -------------------------------------------------------------------------- */

static int op_destroy(struct fuse_req *r)
{
    fuse_reply(r, NULL, 0);
    return 0;
}

static fuse_handler *const handlers[FUSE_OPCODE_END] = {
    [FUSE_LOOKUP] = fuse_op_lookup,
    [FUSE_GETATTR] = fuse_op_getattr,
    [FUSE_SETATTR] = fuse_op_setattr,
    [FUSE_READLINK] = fuse_op_readlink,
    [FUSE_SYMLINK] = fuse_op_symlink,
    [FUSE_MKNOD] = fuse_op_mknod,
    [FUSE_MKDIR] = fuse_op_mkdir,
    [FUSE_UNLINK] = fuse_op_unlink,
    [FUSE_RMDIR] = fuse_op_rmdir,
    [FUSE_RENAME] = fuse_op_rename,
    [FUSE_LINK] = fuse_op_link,
    [FUSE_OPEN] = fuse_op_open,
    [FUSE_READ] = fuse_op_read,
    [FUSE_WRITE] = fuse_op_write,
    [FUSE_STATFS] = fuse_op_statfs,
    [FUSE_RELEASE] = fuse_op_release,
    [FUSE_FSYNC] = fuse_op_fsync,
    [FUSE_SETXATTR] = fuse_op_setxattr,
    [FUSE_GETXATTR] = fuse_op_getxattr,
    [FUSE_LISTXATTR] = fuse_op_listxattr,
    [FUSE_REMOVEXATTR] = fuse_op_removexattr,
    [FUSE_FLUSH] = fuse_op_flush,
    [FUSE_OPENDIR] = fuse_op_opendir,
    [FUSE_READDIR] = fuse_op_readdir,
    [FUSE_RELEASEDIR] = fuse_op_release,
    [FUSE_FSYNCDIR] = fuse_op_fsync,
    [FUSE_GETLK] = fuse_op_getlk,
    [FUSE_SETLK] = fuse_op_setlk,
    [FUSE_SETLKW] = fuse_op_setlk,
    [FUSE_ACCESS] = fuse_op_access,
    [FUSE_CREATE] = fuse_op_create,
    [FUSE_DESTROY] = op_destroy,
    [FUSE_IOCTL] = fuse_op_ioctl,
    [FUSE_POLL] = fuse_op_poll,
    [FUSE_FALLOCATE] = fuse_op_fallocate,
    [FUSE_READDIRPLUS] = fuse_op_readdirplus,
    [FUSE_RENAME2] = fuse_op_rename,
    [FUSE_LSEEK] = fuse_op_lseek,
    [FUSE_COPY_FILE_RANGE] = fuse_op_copy,
    [FUSE_SYNCFS] = fuse_op_syncfs,
    [FUSE_TMPFILE] = fuse_op_tmpfile,
    [FUSE_STATX] = fuse_op_statx,
    [FUSE_COPY_FILE_RANGE_64] = fuse_op_copy,
};

/* The supplementary groups of the caller: only /proc knows them. */
static int load_groups(struct pl_call *call)
{
    char text[8192];
    int r = read_status(call->pid, text, sizeof(text));
    if (r < 0)
        return r;
    char *p = strstr(text, "\nGroups:");
    if (!p)
        return -EIO;
    p += strlen("\nGroups:");
    p[strcspn(p, "\n")] = 0;
    size_t room = strlen(p) / 2 + 1;
    gid_t *groups = malloc(room * sizeof(*groups));
    if (!groups)
        return -ENOMEM;
    uint32_t count = 0;
    for (char *end; count < room; p = end) {
        unsigned long g = strtoul(p, &end, 10);
        if (end == p)
            break;
        groups[count++] = (gid_t)g;
    }
    call->cred.groups = call->door = groups;
    call->cred.ngroups = count;
    return 0;
}

/* With the open files that requests without a handle need. */
static int run_handler(struct fuse_req *r, fuse_handler *handler)
{
    int error = fuse_noopen_begin(r);
    if (error == 0)
        error = r->redo ? fuse_redo(r, handler) : handler(r);
    fuse_noopen_end(r);
    return error;
}

static void forget(struct fuse_sess *s, uint64_t nodeid, uint64_t n)
{
    if (fuse_nodes_forget(s->nodes, nodeid, n))
        fuse_bytes_forget(s, nodeid);
}

static void batch_forget(struct fuse_req *r)
{
    const char *p = r->m.data;
    for (size_t i = 0; i < r->m.size; i += sizeof(struct fuse_forget_one)) {
        struct fuse_forget_one one;
        memcpy(&one, p + i, sizeof(one));
        forget(r->s, one.nodeid, one.nlookup);
    }
}

/* Requests that are not answered: true if it was one. */
static bool silent(struct fuse_req *r)
{
    switch (r->m.h.opcode) {
    case FUSE_FORGET:
        ledger_point(r->s->ledger, LEDGER_AT_forget);
        forget(r->s, r->m.h.nodeid, r->m.a.forget.nlookup);
        return true;
    case FUSE_BATCH_FORGET:
        ledger_point(r->s->ledger, LEDGER_AT_forget);
        batch_forget(r);
        return true;
    case FUSE_NOTIFY_REPLY: /* we ask for nothing */
        return true;
    default:
        return false;
    }
}

/* Runs the request: 0 when it has answered, or the error to answer with. */
static int dispatch(struct fuse_req *r)
{
    fuse_handler *handler = handlers[r->m.h.opcode];
    if (!handler)
        return FUSE_NEVER;
    int error = fuse_journal_begin(r);
    if (error)
        return error > 0 ? 0 : error;
    bool needed = r->m.h.opcode != FUSE_DESTROY && r->m.h.opcode != FUSE_RELEASE &&
                  r->m.h.opcode != FUSE_RELEASEDIR;
    r->node = r->m.h.opcode == FUSE_DESTROY ? NULL : fuse_nodes_get(r->s->nodes, r->m.h.nodeid);
    if (!r->node && needed)
        return -ESTALE;
    if (r->m.h.nodeid == FUSE_ROOT_ID)
        fuse_told_entered(r);
    return run_handler(r, handler);
}

void fuse_handle(struct fuse_req *r, int decoded)
{
    struct stats *st = r->s->stats;
    stats_add(&st->requests, 1);
    if (decoded == 0 && silent(r))
        return;
    atomic_fetch_add_explicit(&st->waiting, 1, memory_order_relaxed);
    r->node = NULL;
    r->told_seq = fuse_told_seq(r->s);
    r->call.load_groups = load_groups;
    int error = decoded == -ENOSYS ? FUSE_NEVER : decoded;
    r->journal = false;
    if (error == 0)
        error = dispatch(r);
    if (error < 0)
        reply_error(r, error);
    atomic_fetch_add_explicit(&r->s->ledger->head->answered, 1, memory_order_relaxed);
    pl_node_unref(r->node);
    free(r->call.door);
    atomic_fetch_sub_explicit(&st->waiting, 1, memory_order_relaxed);
}
