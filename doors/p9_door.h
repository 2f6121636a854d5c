/* SPDX-License-Identifier: MIT */
/*
 * What the files of the 9P door share: the door, a session (what one connection has open), its
 * fids, and the request being served.
 *
 * Locks. `session.mutex` guards the table of fids, the names by which fids were reached, the owners
 * that hold locks through them, and the sums. It is held for a few instructions only, never while
 * an op of a tree runs. A fid is counted: whoever found it in the table keeps it (and the file that
 * it has open) until it is done, whatever a Tclunk does meanwhile.
 *
 * Order. A client may send requests that depend on one another without waiting: Twalk to a new fid,
 * then Tlopen of it. The engine starts a request only after earlier ones that make, open or free a
 * fid that it names; nothing here breaks if it did not, but for such a client.
 */
#ifndef DOORS_P9_DOOR_H
#define DOORS_P9_DOOR_H

#include "base/limits.h"
#include "base/people.h"
#include "doors/p9.h"
#include <pthread.h>
#include <stdatomic.h>

struct once; /* doors/p9_once.h */
struct once_client;
struct once_slot;

struct p9_door {
    struct p9_crew *crew;
    struct once *once;
    struct stats *stats;
    struct p9_link_opts link;
    uint64_t seed[2];   /* of the hashes of lock owners and fids */
    atomic_uint nfids;  /* of all sessions */
    p9_admit_fn *admit; /* or NULL */
    void *admit_arg;
    uid_t euid;
    atomic_uint_fast64_t sessions_made;
    struct people *people;
    pthread_mutex_t mutex; /* guards `sessions` and their links, and `special` */
    struct p9d_session *sessions;
    struct p9d_special *special; /* p9_special.c */
    size_t nexports;
    struct p9_export exports[];
};

/* What Tattach sets up; shared by all fids that were walked from it. */
struct p9d_attach {
    atomic_uint refs;
    struct pl_tree *tree;
    struct pl_node *root;
    struct p9_qid root_qid;
    bool beneath;       /* root is not the tree's own: ".." must be kept beneath it */
    bool any_gid;       /* the gid of a creating message is taken as it is */
    bool root_gid;      /* even if it is 0 */
    struct pl_map *map; /* by which it is the client's; or NULL */
    uid_t uid;
    gid_t gid;
    pthread_mutex_t mutex; /* guards the loading of groups */
    bool loaded;
    uint32_t ngroups;
    gid_t *groups;
};

/* A fid that is an extended attribute. */
struct p9d_xattr {
    bool write;
    pthread_mutex_t mutex; /* guards `filled` and, when written, the bytes */
    size_t size, filled;
    int flags;
    char name[LIMIT_NAME + 1];
    char value[];
};

/* An open directory that is read in an older dialect: where the next Tread goes on. */
struct p9d_stream {
    pthread_mutex_t mutex;
    uint64_t off; /* as the client counts, in bytes */
    uint64_t pos; /* as the tree does */
};

struct p9d_owner { /* who holds locks through a fid */
    struct p9d_owner *next;
    uint64_t owner;
    bool flock;
};

struct p9d_fid {
    atomic_uint refs;
    uint32_t num;
    struct p9d_fid *next; /* in its chain of session.fids */
    struct p9d_session *session;
    struct p9d_attach *at;
    struct pl_node *node;
    _Atomic(struct pl_file *) file; /* set once, by Tlopen; what made it open has it from birth */
    _Atomic(struct p9d_xattr *) xattr; /* set once, by Txattrcreate; or from birth */
    _Atomic uint64_t listed;           /* where its last Rlist ended */
    /* How it was reached, for Tremove and Trename, which do not say: guarded by session.mutex.
     * NULL for the root and for what was reached by "..". */
    struct pl_node *parent;
    char *name;
    /* What has the name, when that is a symlink which was followed to `node` (9P2000 has none).
     * Set at birth. */
    struct pl_node *link;
    /* In the older dialects, set before `file`: */
    struct p9d_stream *stream; /* of a directory */
    bool rclose;               /* opened with ORCLOSE */
    bool special;              /* counted by p9d_special_open */
    struct p9d_owner *owners;  /* guarded by session.mutex */
};

struct p9d_fids { /* by their numbers: guarded by session.mutex */
    struct p9d_fid **chains;
    uint32_t nchains, n; /* nchains: 0 or a power of 2 */
};

struct p9d_session {
    struct p9_door *door;
    struct p9d_session *prev, *next;
    uint64_t id;
    uid_t peer;
    void (*over)(void *arg, int error, const char *sentence);
    void *over_arg;
    char who[96];               /* what the channel proved: see struct chan */
    struct p9_conn *conn;       /* set by Tsession, as is what follows: guarded by once.mutex */
    struct once_client *client; /* whose operations these are; NULL: they are not remembered */
    bool introduced;            /* Tsession came, as was answered: */
    bool introducing;           /* ... or it is being looked for */
    uint64_t intro_id[2];
    uint32_t intro_flags;
    bool goodbye; /* Tend came */

    pthread_mutex_t mutex;
    struct p9d_fids fids;
    unsigned lock_waits;
    size_t xattr_bytes, owners;
};

/* A request being served. */
struct p9d_op {
    struct p9d_session *session;
    struct p9_req *req;
    const struct p9_msg *in;
    struct p9_msg *out;
    struct pl_call *call;
    struct p9d_fid *fid, *fid2; /* the fids that it names, in the order of the table in p9.c */
    uint32_t newfid;            /* the number of the fid that it makes, or P9_NOFID */
    struct p9d_fid *made;       /* set by the handler: what newfid becomes */
    struct once_slot *slot;     /* where it is remembered, or NULL */
};

/* ---- p9.c ---- */
/* Finds the fids that the request names: those that must exist do, those that must not do not. */
int p9d_find_fids(struct p9d_op *op);
/* Runs its handler, and enters the fid that it made. */
int p9d_deed(struct p9d_op *op);
/* Both. */
int p9d_plain(struct p9d_op *op);
/* Enters op->made in place of op->fid. */
int p9d_put_made(struct p9d_op *op);

/* ---- p9_fid.c ---- */
/* The fid of that number with a reference, or NULL. */
struct p9d_fid *p9d_fid_get(struct p9d_session *s, uint32_t num);
/* The same, and the number is free again. */
struct p9d_fid *p9d_fid_take(struct p9d_session *s, uint32_t num);
/* Enters `fid` (whose reference it takes over, also on error) as `num`, in place of `old` or of
 * nothing (NULL): -EBADF when something else is there, -EMFILE. */
int p9d_fid_put(struct p9d_session *s, uint32_t num, struct p9d_fid *old, struct p9d_fid *fid);
/* A new fid of `at` with references of its own, or NULL. parent and name may be NULL. */
struct p9d_fid *p9d_fid_new(struct p9d_session *s, struct p9d_attach *at, struct pl_node *node,
                            struct pl_node *parent, const char *name);
/* Another fid for the same node, reached the same way. */
struct p9d_fid *p9d_fid_clone(struct p9d_fid *fid);
void p9d_fid_unref(struct p9d_fid *fid);
/* Frees every fid. No request runs. */
void p9d_drop_all(struct p9d_session *s);
struct pl_file *p9d_file(struct p9d_fid *fid); /* NULL when not open */
struct p9d_xattr *p9d_xattr(struct p9d_fid *fid);

/* ---- p9_attach.c ---- */
void p9d_attach_unref(struct p9d_attach *at);
/* Makes `call` act for the attached user. */
void p9d_act_as(struct pl_call *call, struct p9d_attach *at);
/* For what the message creates: with its group, if the user may, and its umask. */
void p9d_act_to_create(struct p9d_op *op);
int p9d_attach(struct p9d_op *op);
int p9d_auth(struct p9d_op *op); /* always fails */

/* ---- p9_walk.c, p9_name.c, p9_file.c, p9_dir.c, p9_xattr.c, p9_lock.c, p9_own.c, p9_key.c,
 * p9_once.c, p9_old.c, p9_stat.c ----
 * Handlers: fill op->out and return 0, or a negative errno. */
/* clang-format off */
#define P9D_HANDLERS(X)                                                                            \
    X(walk) X(lookup) X(getattr) X(setattr) X(readlink) X(statfs) X(mkdir) X(symlink) X(mknod)     \
    X(link) X(rename) X(renameat) X(rename2) X(unlinkat) X(remove) X(lopen) X(lcreate)             \
    X(tmpfile) X(read) X(write) X(fsync) X(clunk) X(readdir) X(xattrwalk) X(xattrcreate) X(lock)   \
    X(getlock) X(list) X(fallocate) X(seek) X(copy) X(access) X(flushfile) X(syncfs) X(ioctl)      \
    X(session) X(write2) X(key) X(find) X(open) X(create) X(stat) X(wstat) X(lend)
/* clang-format on */
#define X(name) int p9d_##name(struct p9d_op *op);
P9D_HANDLERS(X)
#undef X

/* What of the flags of Tlopen and Tlcreate a tree is told. */
int p9d_open_flags(uint32_t wire);
/* Tlopen with other flags than it says. */
int p9d_open_fid(struct p9d_op *op, struct pl_call *call, uint32_t flags);
/* op->made becomes the open file, and the answer says so: takes over `node` and `file`. */
int p9d_made_open(struct p9d_op *op, struct pl_node *node, struct pl_node *parent, const char *name,
                  struct pl_file *file, const struct pl_attr *attr);

/* Notes in an answer, for one of us, that the node has no extended attributes. */
void p9d_say_xattrs(struct p9d_op *op, struct pl_node *node, struct p9_attr *out);
struct p9_qid p9d_qid(const struct pl_attr *attr);
void p9d_fill_attr(struct p9_attr *out, const struct pl_attr *attr);
/* 0, or why that name cannot be one of a directory's entries. */
int p9d_name_ok(const char *name);
/* The directory of the fid, and no attribute: 0 or -ENOTDIR, -EBADF. */
int p9d_dir_ok(const struct p9d_fid *fid);
/* Changes the attributes of a fid's file, as clients mean it. `implied`: members of enum pl_set
 * that some clients send with a size only because a truncation brings them about. */
int p9d_set_attr(struct p9d_op *op, struct pl_setattr *set, uint32_t implied);
/* True when the peer agreed on our own messages. */
bool p9d_own(const struct p9d_op *op);

/* Directory (with a reference) and name of what the fid is; -ESTALE when that is not known, -EBUSY
 * for the root. */
int p9d_find_name(struct pl_call *call, struct p9d_fid *fid, struct pl_node **ret_parent,
                  char name[LIMIT_NAME + 1]);
/* From now on the fid is known to be reached so. */
void p9d_set_name(struct p9d_fid *fid, struct pl_node *parent, const char *name);
/* Takes away the name by which the fid was reached. */
int p9d_remove_fid(struct pl_call *call, struct p9d_fid *fid);
/* What the symlink `link`, found in `dir`, leads to: never out of what is attached. */
int p9d_follow(struct p9d_op *op, struct pl_node *dir, struct pl_node *link, struct pl_node **ret,
               struct pl_attr *attr);

static inline enum p9_dialect p9d_dialect(const struct p9d_op *op)
{
    return (enum p9_dialect)op->in->dialect;
}
/* What the strings of a stat point into. */
struct p9d_stat_text {
    char name[LIMIT_NAME + 1], uid[PEOPLE_NAME], gid[PEOPLE_NAME], extension[PL_PATH_MAX + 1];
};
/* The stat of an object with these attributes. node NULL: no more is known of it. */
int p9d_fill_stat(struct p9d_op *op, struct pl_node *node, const struct pl_attr *a,
                  const char *name, struct p9d_stat_text *text, struct p9_stat *out);
/* Tread of a directory in the older dialects. */
int p9d_read_stats(struct p9d_op *op);

/* ---- p9_special.c: files that Plan 9 has and Linux has not: append-only, exclusive use ----
 * Known for as long as the server runs, to clients of the older dialects. */
uint32_t p9d_special(struct p9_door *door, struct pl_node *node); /* of P9_DMAPPEND, P9_DMEXCL */
/* -ENOSPC at the limit. */
int p9d_special_set(struct p9_door *door, struct pl_node *node, uint32_t dm);
/* The fid is about to be open, or is not any more; -EAGAIN: an exclusive file that is open. */
int p9d_special_open(struct p9d_fid *fid);
void p9d_special_close(struct p9d_fid *fid);
void p9d_special_free(struct p9_door *door);

/* Room for an answer of at most `count` bytes of data in op->out->data (NULL: no memory); how many
 * it may be. */
size_t p9d_payload(struct p9d_op *op, uint32_t count);

ssize_t p9d_xattr_read(struct p9d_op *op, struct p9d_xattr *x);
ssize_t p9d_xattr_write(struct p9d_op *op, struct p9d_xattr *x);
/* A written attribute is committed when its fid is clunked. */
int p9d_xattr_commit(struct p9d_op *op, struct p9d_fid *fid, struct p9d_xattr *x);
void p9d_xattr_free(struct p9d_session *s, struct p9d_xattr *x);

/* The number by which the tree knows an owner of ours: (connection, client_id, proc_id). */
uint64_t p9d_lock_owner(struct p9d_session *s, const void *id, size_t n, uint32_t proc_id);
/* Drops all locks that were taken through the fid. */
void p9d_unlock_all(struct pl_call *call, struct p9d_fid *fid, struct pl_file *file);
/* The owner has let go of all that it locked through the fid. */
void p9d_lock_forget(struct p9d_fid *fid, uint64_t owner, bool flock);

#endif
