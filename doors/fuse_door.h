/* SPDX-License-Identifier: MIT */
/*
 * Inside the FUSE door: the session (what was agreed with the kernel and what it knows of us), a
 * request, and the help that handlers share. Transports (fuse_dev.c) hand requests to
 * fuse_handle() and carry the replies; they know no operation but INIT and INTERRUPT.
 */
#ifndef DOORS_FUSE_DOOR_H
#define DOORS_FUSE_DOOR_H

#include "doors/fuse.h"
#include "doors/fuse_noopen.h"
#include "doors/fuse_table.h"
#include "fuse/msg.h"
#include <sys/uio.h>

#define FUSE_STACK (512 << 10) /* bytes, of a thread here */

/* A handler's result that makes the kernel stop asking: sent as ENOSYS, which no tree can send. */
#define FUSE_NEVER (-4000)

#define FUSE_LISTERS 64 /* processes that are remembered */

struct fuse_valid { /* a timeout as the protocol has it */
    uint64_t sec;
    uint32_t nsec;
};

struct carried;

/* What the kernel may believe for how long. */
enum fuse_belief { FUSE_OF_ENTRY, FUSE_OF_ATTR, FUSE_OF_NEGATIVE, FUSE_BELIEFS };

struct fuse_told;

struct fuse_sess {
    struct pl_tree *tree;
    struct ledger *ledger; /* opts.ledger, or our own */
    struct ledger own;
    struct fuse_nodes *nodes;
    struct fuse_files *files;
    struct stats *stats;
    struct fuse_opts opts;                      /* as given, defaults filled in */
    struct fuse_valid asked[FUSE_BELIEFS];      /* of what nobody tells us when it changes */
    struct fuse_valid long_lived[FUSE_BELIEFS]; /* of what somebody tells */
    struct fuse_told *told;                     /* NULL: the tree is not watched */
    bool cache_dirs;
    struct fuse_noopen *noopen;
    /* Agreed by INIT. */
    uint32_t minor;
    uint64_t flags;
    pthread_mutex_t poll_lock; /* guards fuse_file.poll */
    pthread_mutex_t lock_lock; /* guards the locks in the ledger */
    uint32_t nlocks;           /* records in use */
    pthread_mutex_t slot_lock; /* guards whose a slot of the ledger is: see fuse_journal.c */
    uint8_t slot_owner[LEDGER_SLOTS];
    /* The transport's: sends a notification. Any thread. */
    int (*notify)(struct fuse_sess *s, const struct iovec *iov, int n);
    /* The transport's: hands the kernel the file that fd has open, with the rights of this thread:
     * an id > 0, or -ENOTTY where there is no such thing; and takes it back. Any thread. */
    int32_t (*backing_open)(struct fuse_sess *s, int fd);
    void (*backing_close)(struct fuse_sess *s, int32_t id);
    void *transport;
    /* How bytes travel: fuse_bytes.c. */
    struct {
        bool on;                  /* the kernel takes descriptors */
        atomic_bool denied, some; /* it has refused for good; it has taken one */
        pthread_mutex_t lock;
        struct carried *table; /* inodes with open files */
        struct carried *kept;  /* those of them that only keep one, the oldest first */
        atomic_uint nkept;
    } bytes;
    /* Who lists directories, and whether for names only; see fuse_ops_dir.c. */
    _Atomic uint64_t lister[FUSE_LISTERS];
};

struct fuse_req {
    struct fuse_sess *s;
    struct fuse_msg m;
    struct pl_call call;
    struct pl_node *node;     /* of m.h.nodeid, held during the op; NULL for ops without one */
    struct pl_file *file[2];  /* without opens: of the node, and of a copy's target */
    struct cached *cached[2]; /* ... and their places in fuse_noopen.c */
    uint64_t told_seq;        /* as the op began: see fuse_valid() */
    char *buf; /* for replies: page-aligned, at least as large as the kernel may ask */
    size_t bufsize;
    bool buf_used; /* the reply, or the request, is in it: the transport may not take it back */
    bool crowded;  /* the transport has no thread left to put in the place of one that waits */
    /* The journal's; the transport sets `slot` to its worker's (NULL: none). */
    struct ledger_slot *slot;
    bool journal; /* the slot tells of this request, and gets its reply */
    bool redo;    /* a dead server had begun it */
    bool deed;    /* the op has returned */
    bool unsent;  /* the reply was not asked for; the request comes again */
    /* The transport's: sends the reply, which begins with its header (of which it fills in the
     * unique): 0 or a negative errno when it did not reach the kernel. */
    int (*send)(struct fuse_req *r, const struct iovec *iov, int n);
};

/* Sets up a session over the sub-tree `aname`. 0, or a negative errno and sentence. */
int fuse_sess_init(struct fuse_sess *s, struct pl_tree *tree, const char *aname,
                   const struct fuse_opts *opts, struct stats *stats, struct pl_err *err);
/* Closes all files and drops all nodes. No request may be running. */
void fuse_sess_done(struct fuse_sess *s);
/* Is there to be a successor? */
static inline bool fuse_lasts(const struct fuse_sess *s)
{
    return s->ledger->fd >= 0;
}
/* Instead of INIT, where a predecessor has served: 0, or a negative errno when the kernel cannot
 * ask again what that one left unanswered. (fuse_wake.c) */
int fuse_carry_on(struct fuse_sess *s);
/* Answers INIT: 1 agreed; 0 the kernel is newer and will ask again; -EPROTO it is too old. */
int fuse_sess_agree(struct fuse_sess *s, const struct fuse_init_in *in, struct fuse_init_out *out);

/* Runs a decoded request (`decoded`: fuse_msg_decode's result) and answers it. The transport has
 * set s, m, buf, bufsize, send, called pl_call_init, and set the call's `blocks`. */
void fuse_handle(struct fuse_req *r, int decoded);

/* ---- for handlers ---------------------------------------------------------------------------- */
/* A handler returns 0 when it has answered, or the negative errno (FUSE_NEVER) to answer with. */
typedef int fuse_handler(struct fuse_req *r);

/* Send the reply: 0, or a negative errno when the kernel did not get it (then what it would have
 * known must be undone). */
int fuse_reply(struct fuse_req *r, const void *data, size_t size);
int fuse_reply2(struct fuse_req *r, const void *a, size_t asize, const void *b, size_t bsize);
/* What an op without data has come to: answered, unless it is an error to answer with. */
static inline int fuse_done(struct fuse_req *r, int error)
{
    if (error < 0)
        return error;
    fuse_reply(r, NULL, 0);
    return 0;
}

/* Fills an entry and counts the lookup; takes over the reference. `name`: the entry's in the
 * directory r->node, or NULL. 0 or -ENOMEM. */
int fuse_entry(struct fuse_req *r, struct pl_node *node, const struct pl_attr *attr,
               const char *name, struct fuse_entry_out *out);
/* fuse_entry() and the reply. */
int fuse_reply_entry(struct fuse_req *r, struct pl_node *node, const struct pl_attr *attr,
                     const char *name);
int fuse_reply_attr(struct fuse_req *r, const struct pl_attr *attr);
/* Takes over the file: gives it a handle and answers; with `entry` (lookup counted) before. */
int fuse_reply_open(struct fuse_req *r, struct pl_file *file, uint64_t nodeid,
                    const struct fuse_entry_out *entry);
/* Answers CREATE and TMPFILE; takes over both. */
int fuse_reply_created(struct fuse_req *r, struct pl_node *node, const struct pl_attr *attr,
                       struct pl_file *file);
/* Closes the file and frees its handle; -EBADF: there is none. `released`: as of
 * fuse_bytes_close(). */
int fuse_close(struct fuse_req *r, uint64_t fh, bool released);
/* What of open(2)'s flags a tree is told. */
int fuse_open_flags(struct fuse_req *r, uint32_t flags);
/* A name was removed, or renamed, as the request's intent tells: what the ledger knows follows. */
void fuse_removed(struct fuse_req *r);
void fuse_renamed(struct fuse_req *r);
/* Clears suid, and sgid as the kernel would (or always), of a file that an unprivileged process
 * wrote, if the tree has not done it. */
void fuse_kill_priv(struct fuse_req *r, struct pl_file *file, bool sgid_always);

/* Do opens of files stay in the kernel? */
static inline bool fuse_noopen_on(const struct fuse_sess *s)
{
    return s->flags & FUSE_NO_OPEN_SUPPORT;
}

/* ---- how bytes travel (fuse_bytes.c) --------------------------------------------------------- */
void fuse_bytes_init(struct fuse_sess *s);
void fuse_bytes_done(struct fuse_sess *s);
/* What to ask of INIT; after it: the levels of stacked file systems that may lie below. */
uint64_t fuse_bytes_wanted(const struct fuse_sess *s);
uint32_t fuse_bytes_agreed(struct fuse_sess *s);

struct fuse_way {
    enum fuse_how how;
    uint32_t flags; /* FOPEN_* */
    int32_t backing;
};
/* Chooses the way for a file just opened, a directory included; 0, or -ENOMEM. Unless it fails, one
 * fuse_bytes_close() with the result's `how` goes with it. */
int fuse_bytes_open(struct fuse_req *r, struct pl_file *file, uint64_t nodeid,
                    struct fuse_way *ret);
/* The file of the request's node that was open with these flags a moment ago and can be so again,
 * its way chosen; NULL: there is none. */
struct pl_file *fuse_bytes_again(struct fuse_req *r, uint32_t flags, struct fuse_way *ret);
/* Closes the file, or keeps it for a while. `released`: the kernel has had it, and nothing is to be
 * undone. */
void fuse_bytes_close(struct fuse_req *r, const struct fuse_file *f, bool released);
/* The kernel has forgotten the node. */
void fuse_bytes_forget(struct fuse_sess *s, uint64_t nodeid);
/* What a predecessor's open files use. */
void fuse_bytes_carry_on(struct fuse_sess *s);
/* Closes what was kept long enough; true: call it again within a second. Cheap when nothing is. */
bool fuse_bytes_tidy(struct fuse_sess *s);
/* How long the kernel may believe what this reply says; `told`: pl_attr.told, or of a negative
 * entry whether its directory is watched. Not at all if something has changed behind the tree's
 * back since the op began: it may have been said already, before the kernel knew what we say now.*/
struct fuse_valid fuse_valid(struct fuse_req *r, enum fuse_belief what, bool told);

/* ---- fuse_told.c: the kernel is told what others change ---- */
/* Watches the tree unless told otherwise; sets stats->told. Before the first request is taken. */
void fuse_told_start(struct fuse_sess *s);
/* No notification is sent after it. Harmless when nothing was started. */
void fuse_told_stop(struct fuse_sess *s);
/* All that the kernel believes is in doubt: it is to ask again, and believes for a short while only
 * for some time. `sentence`: why, for status and the log. Not from a thread that serves requests.*/
void fuse_told_doubt(struct fuse_sess *s, const char *sentence);
uint64_t fuse_told_seq(struct fuse_sess *s);
bool fuse_told_in_doubt(struct fuse_sess *s);
/* The attributes of a node have changed by an op that the kernel does not expect it of. Does not
 * block: any thread. */
void fuse_told_attr(struct fuse_sess *s, uint64_t nodeid);
/* A request on the root. The kernel's root has no permissions until its first attributes have
 * come, and it drops those if it was told of a change while it waited for them: then nobody but a
 * privileged user could enter. So nothing is told of the root, and its attributes hold for no time,
 * until a request shows that somebody has gone through it. Any thread. */
void fuse_told_entered(struct fuse_req *r);
bool fuse_told_is_entered(const struct fuse_sess *s);

/* The kernel was told of a directory: if its names are others, what it has cached of them goes.
 * (No page of a directory is locked while we are asked for it: any thread.) */
void fuse_told_dir(struct fuse_sess *s, uint64_t nodeid, const struct pl_attr *attr);

static inline struct pl_file *fuse_req_file(struct fuse_req *r, uint64_t fh)
{
    if (!fh)
        return r->file[0];
    struct fuse_file *f = fuse_files_get(r->s->files, fh);
    return f ? f->file : NULL;
}

/* The handlers, by file. */
fuse_handler fuse_op_getattr, fuse_op_statx, fuse_op_setattr, fuse_op_access, fuse_op_readlink,
    fuse_op_statfs, fuse_op_syncfs;                                         /* fuse_ops.c */
fuse_handler fuse_op_lookup, fuse_op_mknod, fuse_op_mkdir, fuse_op_symlink, /* fuse_ops_dir.c */
    fuse_op_link, fuse_op_unlink, fuse_op_rmdir, fuse_op_rename, fuse_op_opendir, fuse_op_readdir,
    fuse_op_readdirplus;
fuse_handler fuse_op_open, fuse_op_create, fuse_op_tmpfile, fuse_op_read, /* fuse_ops_file.c */
    fuse_op_write, fuse_op_flush, fuse_op_release, fuse_op_fsync, fuse_op_fallocate, fuse_op_lseek,
    fuse_op_copy;
fuse_handler fuse_op_getxattr, fuse_op_setxattr, fuse_op_listxattr, /* fuse_ops_misc.c */
    fuse_op_removexattr, fuse_op_getlk, fuse_op_setlk, fuse_op_ioctl, fuse_op_poll;
/* A file is gone: frees what polls it. */
void fuse_poll_free(struct fuse_poll *poll);

/* ---- what a successor needs ------------------------------------------------------------------ */
/* The tables' way to wake what a predecessor left. (fuse_wake.c) */
extern const struct fuse_nodes_ops fuse_nodes_ops;
fuse_wake_file fuse_wake_file_of;

/* The journal (fuse_journal.c). */
void fuse_journal_open(struct fuse_sess *s);
/* A slot for a worker, NULL: there is none left, or no need; and its end. */
struct ledger_slot *fuse_journal_slot(struct fuse_sess *s);
void fuse_journal_slot_done(struct fuse_sess *s, struct ledger_slot *slot);
/* All that was to be sent again has come. */
void fuse_journal_sweep(struct fuse_sess *s);
/* 0: to be run (r->redo: with care); 1: it has been answered; or the error to answer with. */
int fuse_journal_begin(struct fuse_req *r);
/* The op has returned. Called by whatever enters what came of it; at the latest by the reply. */
void fuse_journal_deed(struct fuse_req *r);
void fuse_journal_note(struct fuse_req *r, const struct iovec *iov, int n);
/* The reply was sent with this result: what the handler is to believe. */
int fuse_journal_sent(struct fuse_req *r, int sent);
/* The request is done. *mine: the worker's slot, which may have to stay with the request. */
void fuse_journal_end(struct fuse_req *r, struct ledger_slot **mine);

/* Runs a request that a dead server had begun, if it was not done. (fuse_redo.c) */
int fuse_redo(struct fuse_req *r, fuse_handler *handler);

/* Locks (fuse_locks.c): one was set or taken away; all of an open file are gone, or (fh 0) the
 * POSIX ones of an owner; all are set again. */
void fuse_locks_set(struct fuse_sess *s, uint64_t nodeid, uint64_t fh, const struct pl_lock *lock);
void fuse_locks_end(struct fuse_sess *s, uint64_t nodeid, uint64_t fh, uint64_t owner);
void fuse_locks_again(struct fuse_sess *s);

#endif
