/* SPDX-License-Identifier: MIT */
/*
 * Inside the FUSE door: the session (what was agreed with the kernel and what it knows of us), a
 * request, and the help that handlers share. Transports (fuse_dev.c) hand requests to
 * fuse_handle() and carry the replies; they know no operation but INIT and INTERRUPT.
 */
#ifndef DOORS_FUSE_DOOR_H
#define DOORS_FUSE_DOOR_H

#include "doors/fuse.h"
#include "doors/fuse_table.h"
#include "fuse/msg.h"
#include <sys/uio.h>

/* A handler's result that makes the kernel stop asking: sent as ENOSYS, which no tree can send. */
#define FUSE_NEVER (-4000)

#define FUSE_LISTERS 64 /* processes that are remembered */

struct fuse_valid { /* a timeout as the protocol has it */
    uint64_t sec;
    uint32_t nsec;
};

struct carried;

struct fuse_sess {
    struct pl_tree *tree;
    struct fuse_nodes *nodes;
    struct fuse_files *files;
    struct stats *stats;
    struct fuse_opts opts; /* as given, defaults filled in */
    struct fuse_valid entry, attr, negative;
    bool cache_dirs;
    /* Agreed by INIT. */
    uint32_t minor;
    uint64_t flags;
    pthread_mutex_t poll_lock; /* guards fuse_file.poll */
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
    struct pl_node *node; /* of m.h.nodeid, held during the op; NULL for ops without one */
    char *buf;            /* for replies: page-aligned, at least as large as the kernel may ask */
    size_t bufsize;
    bool buf_used; /* the reply, or the request, is in it: the transport may not take it back */
    bool crowded;  /* the transport has no thread left to put in the place of one that waits */
    /* The transport's: sends the reply, which begins with its header: 0 or a negative errno when
     * it did not reach the kernel. */
    int (*send)(struct fuse_req *r, const struct iovec *iov, int n);
};

/* Sets up a session over the sub-tree `aname`. 0, or a negative errno and sentence. */
int fuse_sess_init(struct fuse_sess *s, struct pl_tree *tree, const char *aname,
                   const struct fuse_opts *opts, struct stats *stats, struct pl_err *err);
/* Closes all files and drops all nodes. No request may be running. */
void fuse_sess_done(struct fuse_sess *s);
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

/* Fills an entry and counts the lookup; takes over the reference. 0 or -ENOMEM. */
int fuse_entry(struct fuse_req *r, struct pl_node *node, const struct pl_attr *attr,
               struct fuse_entry_out *out);
/* fuse_entry() and the reply. */
int fuse_reply_entry(struct fuse_req *r, struct pl_node *node, const struct pl_attr *attr);
int fuse_reply_attr(struct fuse_req *r, const struct pl_attr *attr);
/* Takes over the file: gives it a handle and answers; with `entry` (lookup counted) before. */
int fuse_reply_open(struct fuse_req *r, struct pl_file *file, uint64_t nodeid,
                    const struct fuse_entry_out *entry);
/* The kernel is to ask for the attributes anew, and what it has of a content that changed goes. */
void fuse_doubt(struct fuse_sess *s, uint64_t nodeid);
/* Clears suid, and sgid as the kernel would (or always), of a file that an unprivileged process
 * wrote, if the tree has not done it. */
void fuse_kill_priv(struct fuse_req *r, struct pl_file *file, bool sgid_always);

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
void fuse_bytes_close(struct fuse_req *r, uint64_t nodeid, const struct fuse_file *f,
                      bool released);
/* The kernel has forgotten the node. */
void fuse_bytes_forget(struct fuse_sess *s, uint64_t nodeid);
/* Closes what was kept long enough; true: call it again within a second. Cheap when nothing is. */
bool fuse_bytes_tidy(struct fuse_sess *s);

static inline struct pl_file *fuse_req_file(struct fuse_req *r, uint64_t fh)
{
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

#endif
