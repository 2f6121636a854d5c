/* SPDX-License-Identifier: MIT */
/*
 * The ledger of a mount: what the kernel has been told, in memory that outlives the server.
 *
 * The kernel never repeats itself: whoever takes over must know what was negotiated, which node
 * each nodeid stands for, which files are open, and what became of each request in flight. All that
 * is in one memory file (memfd), sparse and of fixed size, mapped shared by the keeper, which reads
 * it when there is no successor, and by the server, for which it *is* the table: nothing is written
 * twice, and a successor has nothing to build before it answers. What a server needs beside it
 * (pointers) is its own and made when it is needed.
 *
 * Everything in it is written by plain stores in an order that makes sense at every instant: an
 * entry becomes valid by its last store (`nlookup`, `state`), so that a reader after a SIGKILL sees
 * either all of it or none. Nothing in it is trusted for an index or a length that was not checked.
 *
 * Without a keeper (tests, a tree that cannot last) the ledger is private memory of the same form.
 */
#ifndef FUSE_LEDGER_H
#define FUSE_LEDGER_H

#include <plenum/call.h>
#include <plenum/keep.h>
#include <plenum/tree.h>
#include <stdatomic.h>
#include <stdint.h>

#define LEDGER_VERSION 3          /* of the layout: a successor of another version is refused */
#define LEDGER_NODES   (1u << 24) /* nodes at most, unless the mount says otherwise */
#define LEDGER_FILES   (1u << 16) /* open files; further ones are not kept */
#define LEDGER_SLOTS   4096       /* requests in flight */
#define LEDGER_RECORDS 4096       /* of pl_keep */
#define LEDGER_REPLY   180        /* bytes of a reply that is remembered */

/* What INIT agreed and what has happened since. */
struct ledger_head {
    _Atomic uint32_t magic; /* set last */
    uint32_t version;
    uint32_t nnodes; /* the capacity */
    uint32_t minor;
    uint64_t flags;
    uint32_t max_write, mask_used;
    _Atomic uint32_t agreed;   /* 1: INIT was answered, all above is valid */
    _Atomic uint32_t epoch;    /* how many servers have taken over */
    _Atomic uint32_t overflow; /* nodes that found no room: they are lost with the server */
    _Atomic uint32_t nodes_used, files_used, slots_used; /* entries ever used: the rest is zero */
    _Atomic uint32_t notes; /* of LEDGER_NOTES_*: the source has been seen to note intents */
    _Atomic uint32_t crash_point, crash_count; /* tests: see ledger_point() */
    /* Written with each request: a cache line of its own. */
    _Atomic uint64_t answered __attribute__((aligned(64))); /* a server that adds to it has made
                                                               progress */
    /* Of the nodes, guarded by their server's lock; see ledger_nodes.c. */
    _Atomic uint32_t free __attribute__((aligned(64))); /* the first entry not in use, 0: none */
    _Atomic uint32_t nodes_known, nbuckets;
    _Atomic uint32_t moving, splitting; /* what was being done, for whoever must end it */
};
enum {
    LEDGER_NOTES_REMOVE = 1,
    LEDGER_NOTES_RENAME = 2,
    LEDGER_NOTES_SIZE = 4, /* of appending writes */
};

/* Entry i is nodeid i. Valid while nlookup > 0 (of the root: always). A node of a predecessor is
 * found again from it when it is first needed: by its key, else by its parent and inode number. */
struct ledger_node {
    uint64_t ino;               /* pl_attr.ino */
    _Atomic uint32_t nlookup;   /* stays at UINT32_MAX once it gets there */
    uint32_t generation;        /* counts the uses of the entry */
    uint32_t uid, gid;          /* as last told, as mode: what the keeper answers with */
    _Atomic uint32_t parent;    /* nodeid of the directory where it was last found, 0: unknown */
    _Atomic uint32_t name_hash; /* of its name there: ledger_hash() */
    _Atomic uint32_t next;      /* in its bucket's chain, or in the list of free entries */
    uint16_t mode;
    _Atomic uint8_t flags;
    _Atomic uint8_t keylen;  /* 0: it has none. Set after the key */
    uint8_t key[PL_KEY_MAX]; /* pl_key()'s */
};
enum {
    LEDGER_LOCKED = 1,   /* POSIX locks have been set */
    LEDGER_NAMELESS = 2, /* a name of it was removed, perhaps the last: its source may keep
                            something for it, until it is found and let go of */
    LEDGER_ENTERED = 4   /* the root: see fuse_told_entered() */
};

/* An open file. Its handle is its index and, above it, its generation. */
struct ledger_file {
    uint64_t nodeid;
    uint64_t opener;     /* unique of the request that opened it: if that comes again and no slot
                            has its reply, this entry is dropped */
    _Atomic uint64_t kh; /* whom the kernel wants woken when it is ready, 0: nobody */
    uint32_t generation;
    uint32_t flags;         /* pl_file.flags */
    _Atomic int32_t kept;   /* pl_file.kept */
    int32_t backing;        /* id of a passthrough descriptor that it uses, 0: none */
    uint32_t uid, gid;      /* of the opener */
    _Atomic uint32_t state; /* of LEDGER_*, 0: free. Set last */
    uint32_t pad;
};
enum {
    LEDGER_OPEN = 1,
    LEDGER_DIR = 2,
    LEDGER_PASSED = 4, /* the kernel was told FOPEN_PASSTHROUGH */
    LEDGER_CACHED = 8, /* it was told neither that nor FOPEN_DIRECT_IO */
    LEDGER_STREAM = 16,
};

/* A request in flight. */
struct ledger_slot {
    _Atomic uint64_t unique; /* without the resend bit; 0: free */
    _Atomic uint32_t state;
    uint16_t opcode;
    _Atomic uint16_t waits;   /* it has said that it waits, perhaps for long */
    uint64_t began;           /* ns, just before the op: redo_now() */
    struct pl_intent intent;  /* noted by the source */
    _Atomic uint64_t learned; /* nodeid of which a lookup was counted for its reply, 0: none */
    _Atomic uint32_t xattr; /* what was there when the op was begun: LEDGER_ABSENT, LEDGER_THERE */
    _Atomic uint32_t tries; /* servers that died of a fault with it in hand: see ledger_blame() */
    uint32_t reply_len;
    uint8_t reply[LEDGER_REPLY]; /* from the header on; its unique is filled in anew */
};
enum {
    LEDGER_FREE,
    LEDGER_TAKEN, /* what may be done twice */
    LEDGER_BEGUN, /* what may not, or had better not */
    LEDGER_DONE,  /* the reply is noted */
};
enum { LEDGER_ABSENT = 1, LEDGER_THERE };
#define LEDGER_TRIES 3

/* A locked range (or whole file, flock) set through the mount: a successor sets it again, which
 * where the source holds it still is harmless. Bounded by LEDGER_LOCKS. */
#define LEDGER_LOCKS 4096
struct ledger_lock {
    _Atomic uint64_t fh; /* 0: free */
    uint64_t nodeid, owner, start, end;
    uint32_t type, flock, pid, pad;
};

/* A mapped ledger. */
struct ledger {
    struct ledger_head *head;
    struct ledger_node *node; /* [head->nnodes + 1], entry 0 is not used */
    _Atomic uint32_t *bucket; /* [head->nnodes] */
    struct ledger_file *file; /* [LEDGER_FILES], likewise */
    struct ledger_slot *slot; /* [LEDGER_SLOTS] */
    struct ledger_lock *lock; /* [LEDGER_LOCKS] */
    struct pl_keep *keep;     /* the tree's records */
    int fd;                   /* -1: private */
    size_t size;
};

/* A new ledger for `nnodes` nodes (0: LEDGER_NODES): a memfd (close-on-exec), or private memory.
 * 0, or a negative errno. Pages cost nothing until they are used. */
int ledger_new(struct ledger *ret, uint32_t nnodes, bool shared);
/* Maps the ledger in `fd` (taken over when it succeeds). -EPROTO: not one, or of another version.
 */
int ledger_map(struct ledger *ret, int fd);
void ledger_unmap(struct ledger *l); /* and closes fd */

/* Calls fn(arg, fd) for each descriptor that an open file or a record claims, in no order and
 * perhaps twice: a successor keeps these and closes what else it finds. */
void ledger_claims(const struct ledger *l, void (*fn)(void *arg, int fd), void *arg);

/* The keeper: the server died by its own fault, or hung. Whatever it had in hand is suspect; a
 * request that was LEDGER_TRIES times in a row is answered with -EIO. Not for a server that was
 * killed by somebody else: then a request that merely takes long would be blamed. */
void ledger_blame(struct ledger *l);

uint32_t ledger_hash(const char *name);

/* ---- nodes (ledger_nodes.c): the caller has a lock that guards them all ---- */
/* The entry of a nodeid that is in use, or NULL. */
static inline struct ledger_node *ledger_node(const struct ledger *l, uint64_t id)
{
    return id && id <= atomic_load_explicit(&l->head->nodes_used, memory_order_relaxed) &&
                   atomic_load_explicit(&l->node[id].nlookup, memory_order_relaxed)
               ? &l->node[id]
               : NULL;
}
/* The next nodeid after `after` (0: the first) whose object has this inode number; 0: none. */
uint32_t ledger_node_find(const struct ledger *l, uint64_t ino, uint32_t after);
/* Enters a node, `nlookup` and `generation` aside (it begins with one lookup): its nodeid, 0: the
 * table is full. */
uint32_t ledger_node_add(struct ledger *l, const struct ledger_node *node);
void ledger_node_del(struct ledger *l, uint32_t id);
/* A successor: ends what a predecessor was about when it was killed. */
void ledger_mend(struct ledger *l);
/* The keeper, while there is no server: the kernel takes back `n` lookups. */
void ledger_forget(struct ledger *l, uint64_t nodeid, uint64_t n);

/* Tests: dies by SIGKILL here when this point's turn has come (`PLENUM_CRASH=point:N` in the
 * environment of the first server: at the Nth passing of that point, counted over all successors,
 * once). Costs a load else. */
enum ledger_points { /* X-macro so that tests can go through all by name */
#define LEDGER_POINTS(X)                                                                           \
    X(taken)   /* read from the device, nothing begun */                                           \
    X(begun)   /* the slot says so, the op has not run */                                          \
    X(deed)    /* the op has returned, nothing is noted */                                         \
    X(tables)  /* nodes and files are entered, the reply is not noted */                           \
    X(done)    /* the reply is noted, not sent */                                                  \
    X(replied) /* sent, the slot still taken */                                                    \
    X(forget)  /* a FORGET was read and not counted */                                             \
    X(release) /* the file is closed, its entry still there */                                     \
    X(resume)  /* a successor, before it asks the kernel to send again */                          \
    X(resent)  /* ... and after */
#define X(name) LEDGER_AT_##name,
                     LEDGER_NOWHERE,
                     LEDGER_POINTS(X) LEDGER_POINT_COUNT
#undef X
};
const char *ledger_point_name(unsigned point);
void ledger_point_slow(struct ledger *l, unsigned point);
static inline void ledger_point(struct ledger *l, unsigned point)
{
    if (__builtin_expect(atomic_load_explicit(&l->head->crash_point, memory_order_relaxed) == point,
                         0))
        ledger_point_slow(l, point);
}

#endif
