/* SPDX-License-Identifier: MIT */
/*
 * What the files of the 9P source share.
 *
 * A node is known by its qid's path, its type and (where the peer tells) its birth time, so that a
 * reused inode number is a new node. It holds a fid, got by whoever found it first; one that was
 * found in a listing has none until it is needed, and is then walked to.
 *
 * Users. 9P binds a user to each attach. When we are root and nobody said as whom to attach, every
 * uid that calls gets an attach of its own, as in v9fs with access=user: what the peer checks, it
 * checks against the caller, and what is made belongs to the caller. A fid belongs to one user; a
 * user who comes upon a node that only others have looked up (the kernel's name cache does that)
 * walks to it from the root by the names under which it was last seen, and -ESTALE tells the kernel
 * to look those up again. Ops that need no permission of the caller (getattr, readlink, statfs) use
 * any fid of the node. Not root: everything happens as the one user.
 *
 * Servers by path. Some (diod) keep a path for each fid, which a rename leaves behind: then a fid
 * leads nowhere, or to another object. Attributes are checked to be of the node that was meant; the
 * answer to both is -ESTALE, upon which the kernel looks the name up again, and the fid that this
 * brings replaces the one that has gone stale. An open file whose fid was left behind still has its
 * bytes; its attributes are asked for, and set, through the node's fid.
 *
 * A tree that outlives its connection: p9_again.h.
 *
 * Locks. `tree.mutex` guards the list of users, and of every node the list of fids beyond the
 * first, its place and its held locks. No rpc happens under it. A fid that is in a node stays good
 * until the node is released, so it may be used without the lock.
 */
#ifndef SOURCES_P9_TREE_H
#define SOURCES_P9_TREE_H

#include "base/limits.h"
#include "base/people.h"
#include "sources/p9.h"
#include <errno.h>
#include <pthread.h>

#define P9S_BELIEF 1000000000ll /* ns that what was told in passing may be believed */

struct p9s_user {
    struct p9s_user *next;
    uid_t uid;
    uint32_t root; /* the fid of its attach */
};

/* Nodes by place: p9_place.c. */
struct p9s_places {
    struct p9s_node **chain;
    size_t size, count;
};

struct p9s_aside;

struct p9s_tree {
    struct pl_tree tree;
    struct p9_conn *conn;    /* with `again`: only with a pin */
    struct p9s_again *again; /* NULL: the tree is as dead as its connection */
    struct p9_fids *fids;
    void (*ended)(void *arg); /* pl_p9_opts.done, or NULL */
    void *ended_arg;
    bool own; /* the connection is ours to end */
    bool ext; /* the peer is one of us */
    enum p9_dialect dialect;
    struct people *people; /* of the older dialects, which have names */
    bool many;             /* an attach for each user */
    uint32_t chunk;        /* bytes of one read or write */
    char *aname;
    pthread_mutex_t aside_mutex; /* guards asides; taken before any other */
    struct p9s_aside *asides;
    atomic_uint fidless;          /* nodes without a fid */
    atomic_size_t ahead, behind;  /* bytes of all files: LIMIT_AHEAD, LIMIT_BEHIND */
    bool sync;                    /* nothing is read ahead or written behind */
    _Atomic uint64_t clock, lost; /* counts changes of ours; the last of a node that was released */
    uint64_t tag;                 /* tells our lock owners from those of other clients */
    struct pl_nodes *nodes;
    struct p9s_node *root;
    struct p9s_user main;
    pthread_mutex_t mutex;
    pthread_cond_t appended; /* of `appending`: somebody appends in an older dialect */
    bool appending;
    struct p9s_user *users; /* beyond main */
    unsigned nusers;
    struct p9s_places places;
    atomic_bool no_keys;       /* the peer's tree has none */
    atomic_bool borrows;       /* descriptors may be asked for */
    atomic_uint lent, refused; /* how many there are; how often there was none, since there was */
};

struct p9s_fid {
    struct p9s_fid *next;
    const struct p9s_user *user; /* NULL: retired, and only kept because an op may still use it */
    _Atomic uint32_t fid;
};

struct p9s_node {
    struct pl_hnode h;       /* id.lo: qid.path */
    struct p9s_fid first;    /* `user` never changes; `next` are the fids of other users */
    atomic_bool stale;       /* a fid led nowhere: see p9s_stale */
    struct p9s_node *parent; /* where and under which name it was last seen, if users are many, */
    char *name;              /* or the tree lives on, or it has no fid; NULL: not known */
    struct p9s_node *next_place; /* in tree.places */
    atomic_bool locked;          /* somebody has set a lock on it */
    struct p9s_held *held;       /* p9_relock.c */
    _Atomic(struct p9s_key *) key;
    _Atomic int64_t no_xattrs;           /* it has none, which may be believed until then */
    _Atomic uint64_t change;             /* tree.clock at our own last change of it */
    _Atomic uint64_t size;               /* as last told: a hint how far to read ahead */
    _Atomic(struct p9s_behind *) behind; /* NULL: nothing was ever written behind */
};

/* The object's durable name, asked for when it is first opened, in a tree that lives on. */
struct p9s_key {
    uint32_t len;
    uint8_t bytes[PL_KEY_MAX];
};

enum { P9S_NOT_LENT = -4097 /* no errno */, P9S_NOT_ASKED };

struct p9s_dir;     /* what was read ahead of an open directory */
struct p9s_old_dir; /* the same in an older dialect */

struct p9s_file {
    struct pl_file file;
    _Atomic(const struct p9s_user *) user;
    uint32_t fid;
    atomic_bool dirty;  /* written to, and neither flushed nor synced since */
    atomic_bool locked; /* flock(2) was called: the close must be waited for */
    struct p9s_dir *dir;
    _Atomic(struct p9s_ahead *) ahead; /* what was read ahead; NULL: nothing ever */
    unsigned heard;                    /* of the errors of what was written behind */
    bool created;                      /* by this open */
    atomic_int lent;                   /* p9_lent.c: a descriptor, or one of the two below */
    atomic_bool used;                  /* read or written before */
    uint32_t lent_by;                  /* the generation; set before `lent` by who asks */
    struct pl_attr *made; /* one that was made by this open: how it is, for all we know; or NULL */

    /* In a tree that lives on; guarded by again.mutex. */
    struct p9s_file *next, *prev;
    struct p9s_node *node; /* file.node, which is not set yet when others find it in the list */
    unsigned refs;         /* the file's own, and of who makes its fid again */
    _Atomic int lost;      /* a negative errno: what was open cannot be had again */
    struct p9s_old_dir *old_dir;
};

static inline struct p9s_tree *p9s_of(struct pl_tree *t)
{
    return (struct p9s_tree *)t;
}

/* One that is taken at its close: made by the server of what was written. */
static inline bool p9s_is_document(const struct p9s_tree *t, const struct pl_file *file)
{
    return t->tree.flags & PL_TREE_GENERATED || file->direct;
}

/* ---- p9.c ---- */
/* The attach that the call's user acts through, made on first use. */
int p9s_user(struct p9s_tree *t, struct pl_call *call, const struct p9s_user **ret);
int p9s_attach(struct p9s_tree *t, struct pl_call *call, const char *uname, uint32_t n_uname,
               uint32_t *ret_fid, struct p9_qid *qid);
/* The same with a number that is there. */
struct p9_msg p9s_attach_msg(struct p9s_tree *t, uint32_t fid, const char *uname, uint32_t n_uname);

/* ---- p9_rpc.c: one request, several at once ---- */
/* Sends and waits. `a` is to be freed whatever is returned. */
int p9s_ask(struct p9s_tree *t, struct pl_call *call, struct p9_msg *m, struct p9_answer *a);
/* The same when the answer has nothing in it. */
int p9s_tell(struct p9s_tree *t, struct pl_call *call, struct p9_msg *m);

/* One of several that are under way. What is asked (and the message itself) must stay until it is
 * finished. */
struct p9s_sent {
    struct p9_msg *m;
    void *into;
    size_t size;
    bool once;             /* not to be done twice, although others of its type may be */
    struct p9s_node *keep; /* its fid must be there before the request, which takes its name away */
    /* May be NULL: called when it is done, before another connection can come. */
    void (*done)(struct p9s_tree *t, struct p9s_sent *s, const struct p9_answer *a);
    bool maybe; /* it may have been carried out at a server that was lost */
    struct p9_pending *pending;
    int r;
};
/* Sends without waiting. An error is kept for p9s_wait. */
void p9s_send(struct p9s_tree *t, struct pl_call *call, struct p9s_sent *s);
/* Waits for the answer. P9S_LOST: the connection is over, and the request is to be given to
 * p9s_send_again, once all others have been waited for. */
int p9s_wait(struct p9s_tree *t, struct pl_call *call, struct p9s_sent *s, struct p9_answer *a);
/* Sends at the next connection, and waits. Those before it, on which it depends, come first. */
int p9s_send_again(struct p9s_tree *t, struct pl_call *call, struct p9s_sent *s,
                   struct p9_answer *a);
enum { P9S_LOST = -4096 };

enum { P9S_BATCH = 5 };
struct p9s_batch {
    unsigned n;
    struct p9s_sent sent[P9S_BATCH];
    int r[P9S_BATCH];
    struct p9_answer a[P9S_BATCH];
};
/* Sends without waiting, as long as all before went out. The message must stay until the end. */
void p9s_start(struct p9s_tree *t, struct pl_call *call, struct p9s_batch *b, struct p9_msg *m,
               void *into, size_t size);
/* Sends, before a name is taken away, what gets a fid to the node that has it, if it has none yet
 * and so could not be found any more; only one of us keeps the order. And when all has been
 * answered, of the first n that were sent. */
void p9s_hold(struct p9s_tree *t, struct pl_call *call, struct p9s_batch *b, struct p9_msg *m,
              struct p9s_node *dir, uint32_t dfid, const char *name);
void p9s_held(struct p9s_tree *t, const struct p9s_user *user, struct p9s_batch *b, unsigned n);
/* Waits for all; the first error or 0. The answers are to be freed by p9s_batch_free. */
int p9s_finish(struct p9s_tree *t, struct pl_call *call, struct p9s_batch *b);
void p9s_batch_free(struct p9s_batch *b);
/* A Tread whose bytes come straight to `into`, or another request with a buffer. */
int p9s_ask_into(struct p9s_tree *t, struct pl_call *call, struct p9s_sent *s, struct p9_answer *a);

/* A request that is sent aside, by who does not wait for it: without waiting for anything, -EAGAIN
 * when that is not possible now. It pins its connection until it is finished or abandoned. wait:
 * until finish would not wait (it lets go of the mutex meanwhile), or the call is over. finish may
 * be P9S_LOST: it may be asked again, in the ordinary way, once nothing that one has sent aside is
 * under way. */
int p9s_try(struct p9s_tree *t, struct p9_msg *m, struct p9_pending **ret);
bool p9s_try_ready(struct p9s_tree *t, struct p9_pending *p);
int p9s_try_wait(struct p9s_tree *t, struct pl_call *call, struct p9_pending *p,
                 pthread_mutex_t *mutex);
int p9s_try_finish(struct p9s_tree *t, struct p9_pending *p, struct p9_answer *a);
void p9s_try_abandon(struct p9s_tree *t, struct p9_pending *p);
/* Who has sent aside and may be away for long: when the connection is over, let_go finishes or
 * abandons what is under way. It does not wait for a mutex that somebody may hold who waits for a
 * server: it is called again. */
struct p9s_aside {
    struct p9s_aside *next, *prev;
    void (*let_go)(struct p9s_tree *t, struct p9s_aside *a);
};
void p9s_aside_add(struct p9s_tree *t, struct p9s_aside *a,
                   void (*let_go)(struct p9s_tree *, struct p9s_aside *));
void p9s_aside_del(struct p9s_tree *t, struct p9s_aside *a);
void p9s_aside_let_go(struct p9s_tree *t);

/* An op whose answer did not come: was that its deadline? */
static inline int p9s_why(struct pl_call *call, int r)
{
    return r == -EINTR && pl_call_over(call) == -ETIMEDOUT ? -ETIMEDOUT : r;
}

/* A new number for a fid, or -ENFILE. */
int p9s_new_fid(struct p9s_tree *t, uint32_t *ret);
/* It did not come to be, `r` being why; or perhaps it did, when that was not learned. */
void p9s_drop_fid(struct p9s_tree *t, uint32_t fid, int r);
/* Clunks it without waiting for the answer (or for a server, if there is none). */
void p9s_clunk(struct p9s_tree *t, uint32_t fid);
/* The same, waiting for the answer. */
void p9s_clunk_now(struct p9s_tree *t, struct pl_call *call, uint32_t fid);
/* It is not there any more. */
void p9s_put_fid(struct p9s_tree *t, uint32_t fid);
/* Sends a Twalk: -ENOENT when it got only part of the way. `a` is to be freed. */
int p9s_walk(struct p9s_tree *t, struct pl_call *call, struct p9_msg *m, struct p9_answer *a);
struct p9_msg p9s_walk_msg(uint32_t fid, uint32_t newfid, const char *name);

/* ---- p9_place.c ---- */
/* It was seen there. Does nothing where nobody would want to know; dir and name may be NULL. */
void p9s_place_set(struct p9s_tree *t, struct p9s_node *node, struct p9s_node *dir,
                   const char *name);
/* We have renamed, or removed, what is seen there. */
void p9s_place_moved(struct p9s_tree *t, struct p9s_node *olddir, const char *oldname,
                     struct p9s_node *newdir, const char *newname, bool exchange);
/* What is seen there has no fid. */
bool p9s_place_fidless(struct p9s_tree *t, struct p9s_node *dir, const char *name);
void p9s_place_gone(struct p9s_tree *t, struct p9s_node *dir, const char *name);
/* The node that was last seen there, with a reference, or NULL. */
struct p9s_node *p9s_place_node(struct p9s_tree *t, struct p9s_node *dir, const char *name);
/* It is released: its directory, whose reference is the caller's now, or NULL. */
struct p9s_node *p9s_place_leave(struct p9s_tree *t, struct p9s_node *node);

/* The way down to a node from one of which the user has a (good) fid. */
struct p9s_way {
    uint32_t fid;
    struct p9s_node *base; /* whose fid it is; a reference */
    size_t n;
    char **names; /* in order from the node up */
};
/* -ESTALE when it is not known. `good` is asked with tree.mutex held; NULL: every fid is. */
int p9s_way(struct p9s_tree *t, struct p9s_node *node, const struct p9s_user *user,
            bool (*good)(struct p9s_tree *t, uint32_t fid), struct p9s_way *ret);
void p9s_way_free(struct p9s_way *w);

/* ---- p9_node.c ---- */
/* The user's fid if it has one. tree.mutex is held, or it is the first's. */
struct p9s_fid *p9s_fid_of(struct p9s_node *node, const struct p9s_user *user);
/* Whether these are the attributes of the node's object. */
bool p9s_same(const struct p9s_node *node, const struct p9_attr *in);
/* Checks what the peer says of an object and translates it: -EIO when it cannot be. */
int p9s_attr(const struct p9_attr *in, struct pl_attr *out);
/* The node with these attributes; `fid` is the user's and is taken over (also on error). P9_NOFID:
 * it is to be walked to when a fid is needed. dir and name: where it was found, or NULL. */
int p9s_node(struct p9s_tree *t, const struct p9s_user *user, uint32_t fid,
             const struct p9_attr *in, struct p9s_node *dir, const char *name, struct pl_node **ret,
             struct pl_attr *attr);
/* The user's fid of the node. */
int p9s_fid(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node,
            const struct p9s_user *user, uint32_t *ret);
/* This tree changes the node; called before and after it does. What the peer has said of it, asked
 * when the tree's clock was `since`, tells only if it was untouched. */
void p9s_touch(struct p9s_tree *t, struct pl_node *node);
bool p9s_untouched(struct p9s_tree *t, const struct p9s_node *node, uint64_t since);
/* The node's attributes were asked for when the clock was `since`: asks for them again if it is a
 * file whose content this tree has changed, or has changes of on their way. On error the node is
 * given back. */
int p9s_freshen(struct p9s_tree *t, struct pl_call *call, struct pl_node **ret, uint64_t since,
                struct pl_attr *attr);
/* Believes for a while what was said of its extended attributes. */
void p9s_note_xattrs(struct p9s_tree *t, struct p9s_node *node, const struct p9_attr *in,
                     uint64_t since);
/* A fid of the node, for what needs no permission of the caller. */
int p9s_any_fid(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node, uint32_t *ret);
/* The caller's fid of the node. */
int p9s_my_fid(struct p9s_tree *t, struct pl_call *call, struct pl_node *node, uint32_t *ret);
/* What the peer has said of the node's object: -ESTALE if it is of another. */
int p9s_take_attr(struct p9s_node *node, const struct p9_attr *in, struct pl_attr *attr);
/* Asks for the attributes through `fid` and checks that it is still that node: -ESTALE if not. */
int p9s_getattr_fid(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node, uint32_t fid,
                    struct pl_attr *attr);
/* True when the server knows files by path and the open file's leads elsewhere by now. */
bool p9s_left_behind(struct p9s_tree *t, struct pl_call *call, struct p9s_file *file,
                     struct pl_attr *attr);
/* The result of an op on the node itself through a fid of it: that there is no such file means,
 * from a server by path, that its fid has gone stale. */
int p9s_stale(struct p9s_tree *t, struct p9s_node *node, int r);
/* After a rename: a node that is known gets its new name; of a peer that is not one of us also a
 * fid by it. */
void p9s_refresh(struct p9s_tree *t, struct pl_call *call, struct pl_node *dir, const char *name);
/* Whether that is worth a round trip: it is where fids are found by name. */
bool p9s_renames(struct p9s_tree *t);
/* True if the qid is that of the node's object. */
bool p9s_is(const struct p9s_node *node, const struct p9_qid *qid);

/* The mode by which the call makes something in `dir`, as the wire has it: umask and all. */
int p9s_mode(struct p9s_tree *t, struct pl_call *call, struct pl_node *dir, uint32_t mode,
             uint32_t *ret);

/* ---- p9_ahead.c, p9_behind.c ---- */
/* As much of the read, from its start, as was read ahead (and reads on ahead); 0: nothing was. */
ssize_t p9s_ahead_read(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f, void *buf,
                       size_t n, uint64_t off);
void p9s_ahead_free(struct p9s_tree *t, struct p9s_ahead *a);
/* Writes behind as much as may be, from the start; 0: the caller is to write it, and wait. An error
 * is of a write before it, or -EINTR. */
ssize_t p9s_behind_write(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f,
                         const void *buf, size_t n, uint64_t off);
/* Waits until all that was written behind has arrived; not how it went, but -EINTR, -ETIMEDOUT. */
int p9s_settle(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node);
bool p9s_settled(struct p9s_node *node);
/* The same of all that was written behind to any file by now: where it is not known to which. */
int p9s_settle_tree(struct p9s_tree *t, struct pl_call *call);
/* `size`, or that with what is on its way. */
uint64_t p9s_behind_size(struct p9s_node *node, uint64_t size);
/* The file is open from now on; and an error of a write that it has not heard of yet. */
void p9s_behind_open(struct p9s_file *f, struct p9s_node *node);
int p9s_behind_tell(struct p9s_file *f);
/* Sends `m`, which is about the open file and to be carried out behind all that was written, and
 * waits for that and for its answer; an error of a write goes before its own. */
int p9s_behind_then(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f, struct p9_msg *m);
/* The open file has just made the node. Until it is closed, its owner's attributes may be set
 * behind: says what they come to. -EAGAIN: that cannot be told for certain, or sent now. */
void p9s_behind_made(struct p9s_tree *t, struct p9s_file *f, struct p9s_node *node,
                     const struct pl_attr *attr);
int p9s_behind_set(struct p9s_tree *t, struct pl_call *call, struct p9s_node *node,
                   const struct pl_setattr *set, const struct p9_setattr *wire,
                   struct pl_attr *attr);
/* How they are now: set in the ordinary way. */
void p9s_behind_known(struct p9s_tree *t, struct p9s_node *node, const struct pl_attr *attr);
/* Settles; the open file may be freed. */
void p9s_behind_close(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f);
void p9s_behind_free(struct p9s_tree *t, struct p9s_node *node);

/* ---- p9_lent.c ---- */
/* Through a descriptor that the server has lent; P9S_NOT_LENT: there is none, it is to be asked. */
ssize_t p9s_lent_read(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f, void *buf,
                      size_t n, uint64_t off);
ssize_t p9s_lent_write(struct p9s_tree *t, struct pl_call *call, struct p9s_file *f,
                       const void *buf, size_t n, uint64_t off);
void p9s_lent_close(struct p9s_tree *t, struct p9s_file *f);

/* ---- p9_locks.c, p9_open.c ---- */
struct p9s_owner {
    char text[64];
};
struct p9_lock p9s_wire_lock(const struct p9s_tree *t, const struct pl_lock *lock,
                             struct p9s_owner *buf);
void p9s_file_unref(struct p9s_tree *t, struct p9s_file *f);
/* ---- p9_old.c, p9_old_dir.c: what differs in the older dialects ---- */
/* Asks for the attributes of what the fid is, in the peer's dialect: the request, what its answer
 * tells (good as long as that is), and both. */
struct p9_msg p9s_attr_msg(const struct p9s_tree *t, uint32_t fid);
void p9s_attr_told(struct p9s_tree *t, const struct p9_msg *answer, struct p9_attr *ret);
int p9s_ask_attr(struct p9s_tree *t, struct pl_call *call, uint32_t fid, struct p9_attr *ret);
uint32_t p9s_wire_flags(int flags); /* of open(2), as Tlopen has them */
/* Tlopen or Topen of a fid that was cloned for it; Tcreate, which the older dialects have. */
struct p9_msg p9s_open_msg(const struct p9s_tree *t, uint32_t fid, int flags);
struct p9_msg p9s_create_msg(const struct p9s_tree *t, uint32_t fid, const char *name, int flags,
                             uint32_t mode);
/* 0: nothing of that name is there; -EEXIST. */
int p9s_old_there(struct p9s_tree *t, struct pl_call *call, struct pl_node *dir, const char *name);
int p9s_old_set(struct p9s_tree *t, struct pl_call *call, uint32_t fid,
                const struct pl_setattr *set);
struct p9_msg p9s_rename_msg(uint32_t fid, const struct p9_str *name);
int p9s_append_begin(struct p9s_tree *t, struct pl_call *call, struct pl_file *file, uint64_t *off);
void p9s_append_end(struct p9s_tree *t);
void p9s_old_dir_free(struct p9s_old_dir *dir);
int p9s_old_readlink(struct pl_tree *, struct pl_call *, struct pl_node *, char *, size_t);
int p9s_old_make(struct pl_tree *, struct pl_call *, struct pl_node *, const char *,
                 const struct pl_make *, struct pl_node **, struct pl_attr *);
int p9s_old_link(struct pl_tree *, struct pl_call *, struct pl_node *, struct pl_node *,
                 const char *, struct pl_attr *);
int p9s_old_readdir(struct pl_tree *, struct pl_call *, struct pl_file *, uint64_t, pl_fill_fn *,
                    void *);
int p9s_old_fsync(struct pl_tree *, struct pl_call *, struct pl_file *, bool);

/* ---- the ops: p9_node.c, p9_change.c, p9_io.c, p9_dir.c, p9_xattrs.c, p9_locks.c ---- */
int p9s_root(struct pl_tree *, struct pl_call *, struct pl_node **);
void p9s_release(struct pl_tree *, struct pl_node *);
int p9s_lookup(struct pl_tree *, struct pl_call *, struct pl_node *, const char *,
               struct pl_node **, struct pl_attr *);
int p9s_getattr(struct pl_tree *, struct pl_call *, struct pl_node *, struct pl_file *,
                struct pl_attr *);
int p9s_setattr(struct pl_tree *, struct pl_call *, struct pl_node *, struct pl_file *,
                const struct pl_setattr *, struct pl_attr *);
int p9s_access(struct pl_tree *, struct pl_call *, struct pl_node *, int);
int p9s_readlink(struct pl_tree *, struct pl_call *, struct pl_node *, char *, size_t);
int p9s_statfs(struct pl_tree *, struct pl_call *, struct pl_node *, struct statfs *);
int p9s_syncfs(struct pl_tree *, struct pl_call *, struct pl_node *);
int p9s_make(struct pl_tree *, struct pl_call *, struct pl_node *, const char *,
             const struct pl_make *, struct pl_node **, struct pl_attr *);
int p9s_link(struct pl_tree *, struct pl_call *, struct pl_node *, struct pl_node *, const char *,
             struct pl_attr *);
int p9s_remove(struct pl_tree *, struct pl_call *, struct pl_node *, const char *, int);
int p9s_rename(struct pl_tree *, struct pl_call *, struct pl_node *, const char *, struct pl_node *,
               const char *, unsigned);
int p9s_open(struct pl_tree *, struct pl_call *, struct pl_node *, int, struct pl_file **);
int p9s_create(struct pl_tree *, struct pl_call *, struct pl_node *, const char *, int, mode_t,
               struct pl_node **, struct pl_attr *, struct pl_file **);
int p9s_tmpfile(struct pl_tree *, struct pl_call *, struct pl_node *, int, mode_t,
                struct pl_node **, struct pl_attr *, struct pl_file **);
int p9s_close(struct pl_tree *, struct pl_call *, struct pl_file *);
int p9s_flush(struct pl_tree *, struct pl_call *, struct pl_file *, uint64_t);
ssize_t p9s_read(struct pl_tree *, struct pl_call *, struct pl_file *, void *, size_t, uint64_t);
ssize_t p9s_write(struct pl_tree *, struct pl_call *, struct pl_file *, const void *, size_t,
                  uint64_t);
int p9s_readdir(struct pl_tree *, struct pl_call *, struct pl_file *, uint64_t, pl_fill_fn *,
                void *);
void p9s_dir_free(struct p9s_tree *t, struct p9s_dir *dir);
int64_t p9s_seek(struct pl_tree *, struct pl_call *, struct pl_file *, uint64_t, int);
int p9s_fsync(struct pl_tree *, struct pl_call *, struct pl_file *, bool);
int p9s_fallocate(struct pl_tree *, struct pl_call *, struct pl_file *, int, uint64_t, uint64_t);
ssize_t p9s_copy(struct pl_tree *, struct pl_call *, struct pl_file *, uint64_t, struct pl_file *,
                 uint64_t, size_t);
int p9s_ioctl(struct pl_tree *, struct pl_call *, struct pl_file *, unsigned, void *, size_t,
              size_t);
ssize_t p9s_getxattr(struct pl_tree *, struct pl_call *, struct pl_node *, const char *, void *,
                     size_t);
int p9s_setxattr(struct pl_tree *, struct pl_call *, struct pl_node *, const char *, const void *,
                 size_t, int);
int p9s_removexattr(struct pl_tree *, struct pl_call *, struct pl_node *, const char *);
ssize_t p9s_listxattr(struct pl_tree *, struct pl_call *, struct pl_node *, char *, size_t);
int p9s_lock(struct pl_tree *, struct pl_call *, struct pl_file *, const struct pl_lock *);
int p9s_getlock(struct pl_tree *, struct pl_call *, struct pl_file *, struct pl_lock *);

#endif
