/* SPDX-License-Identifier: MIT */
/*
 * What the kernel knows of us: nodes by nodeid, open files by handle. Both are indices into the
 * tables of the ledger (fuse/ledger.h), never addresses; what stands here beside the ledger is
 * pointers. What a predecessor has entered is *dormant*: known, but without a pointer. It is woken
 * when it is first needed, by the functions that the tables are made with.
 */
#ifndef DOORS_FUSE_TABLE_H
#define DOORS_FUSE_TABLE_H

#include "fuse/ledger.h"
#include <plenum/tree.h>

/* ---- nodes ---- */
struct fuse_nodes;

/* A node that sleeps: a copy of its entry. */
struct fuse_dormant {
    uint64_t nodeid;
    struct ledger_node n;
};
struct fuse_nodes_ops {
    /* The node again, with a reference; NULL: it is gone. `depth`: to be handed on to
     * fuse_nodes_get_at() for what this needs. Called without locks, by several threads perhaps. */
    struct pl_node *(*wake)(void *arg, const struct fuse_dormant *d, unsigned depth);
    /* A node of which a predecessor's private table knew, with a reference, or NULL. */
    struct pl_node *(*orphan)(void *arg, uint64_t nodeid);
    /* Its key and the length; 0 or less: it has none. */
    int (*key)(void *arg, struct pl_node *node, uint8_t key[PL_KEY_MAX]);
};

/* A table over `ledger`, which lives longer, whose nodeid 1 is `root` (takes over the reference,
 * also when it fails). NULL: no memory. */
struct fuse_nodes *fuse_nodes_new(struct ledger *ledger, struct pl_node *root,
                                  const struct pl_attr *attr, const struct fuse_nodes_ops *ops,
                                  void *arg);
/* Drops every reference that is left. */
void fuse_nodes_free(struct fuse_nodes *tab);

/* The node with a reference added, or NULL if the kernel should not know that nodeid, or what it
 * stood for is gone. */
struct pl_node *fuse_nodes_get(struct fuse_nodes *tab, uint64_t nodeid);
struct pl_node *fuse_nodes_get_at(struct fuse_nodes *tab, uint64_t nodeid, unsigned depth);
/* The same, but NULL if it sleeps. */
struct pl_node *fuse_nodes_peek(struct fuse_nodes *tab, uint64_t nodeid);
/* A copy of the entry: false if there is none. */
bool fuse_nodes_entry(struct fuse_nodes *tab, uint64_t nodeid, struct fuse_dormant *ret);
/* `node` turned out to be the dormant `nodeid` (no matter if it was woken meanwhile). The reference
 * stays the caller's. */
void fuse_nodes_woken(struct fuse_nodes *tab, uint64_t nodeid, struct pl_node *node);

/* A node that the kernel is about to be told of. */
struct fuse_found {
    struct pl_node *node;
    const struct pl_attr *attr;
    uint64_t dir;     /* nodeid of the directory where it is, 0: unknown */
    const char *name; /* there */
};
/* Counts one lookup (takes over the reference): its nodeid, new or the one it had. 0: no memory,
 * nothing counted. `sure`: as of fuse_nodes_told(). `note`, if not NULL, gets the nodeid right
 * after it was counted; if it has that nodeid already, a predecessor has counted it. */
uint64_t fuse_nodes_learn(struct fuse_nodes *tab, const struct fuse_found *f,
                          uint64_t *ret_generation, bool *ret_sure, _Atomic uint64_t *note);
/* If the node (the reference stays the caller's) is one that sleeps, it is awake now. */
void fuse_nodes_meet(struct fuse_nodes *tab, struct pl_node *node, const struct pl_attr *attr);
/* Takes back `n` lookups; at zero the node is dropped (true), and its nodeid used again with
 * another generation. */
bool fuse_nodes_forget(struct fuse_nodes *tab, uint64_t nodeid, uint64_t n);
/* The object of this inode number is now found as `name` in `dir`, or has lost a name. */
void fuse_nodes_moved(struct fuse_nodes *tab, uint64_t ino, uint64_t dir, const char *name);
void fuse_nodes_nameless(struct fuse_nodes *tab, uint64_t ino);

/* A digest of what tells that an object's content changed. Never 0. */
uint32_t fuse_stamp(const struct pl_attr *attr);
/* The kernel is told these attributes; true: it may believe them for a while. */
bool fuse_nodes_told(struct fuse_nodes *tab, uint64_t nodeid, const struct pl_attr *attr);
/* The node is being opened. */
struct fuse_opened {
    bool same;   /* the kernel was told no other attributes than at the last open, so that what it
                    has cached is as good as the attributes it believes */
    bool locked; /* POSIX locks have been set on it */
};
struct fuse_opened fuse_nodes_opened(struct fuse_nodes *tab, uint64_t nodeid);
/* The content is going to change without the kernel's cache: the next open is not the `same`. */
void fuse_nodes_unsure(struct fuse_nodes *tab, uint64_t nodeid);
/* So many more open files may change the node through mappings without a word. True: they are the
 * first, and what the kernel was told is in doubt. */
bool fuse_nodes_mapped(struct fuse_nodes *tab, uint64_t nodeid, int more);
/* A POSIX lock is about to be set on the node. */
void fuse_nodes_lock(struct fuse_nodes *tab, uint64_t nodeid);

/* The nodeid of a node with this inode number, 0: the kernel does not know it. */
uint64_t fuse_nodes_id(struct fuse_nodes *tab, const struct pl_node *node, uint64_t ino);
/* The kernel will be told of changes of the names in this directory, or not: as last said. */
void fuse_nodes_set_watched(struct fuse_nodes *tab, uint64_t nodeid, bool watched);
bool fuse_nodes_watched(struct fuse_nodes *tab, uint64_t nodeid);
/* Once: what was told last of this directory says that there are other names in it, though its time
 * of modification is the same. */
bool fuse_nodes_stale(struct fuse_nodes *tab, uint64_t nodeid);
/* The next nodeid after this one (0: the first); 0: there are no more. */
uint64_t fuse_nodes_next(struct fuse_nodes *tab, uint64_t nodeid);

/* ---- open files ---- */
struct fuse_files;

struct fuse_poll; /* of fuse_ops_misc.c: the kernel waits for this file to become ready */

/* How the bytes of an open file travel: see fuse_bytes.c. */
enum fuse_how {
    FUSE_NO_BYTES,       /* a directory */
    FUSE_PLAIN,          /* the kernel was not told FOPEN_PASSTHROUGH */
    FUSE_PASSED,         /* it was, and moves the bytes */
    FUSE_PASSED_BY_NAME, /* it was, and FOPEN_DIRECT_IO */
};

struct fuse_file {
    struct pl_file *file; /* NULL: it sleeps, or the entry is free */
    struct fuse_poll *poll;
    uint32_t generation, next_free; /* the former of entries that are not in the ledger */
    bool used, waking, closing;
    bool locked;              /* locks were set through it */
    uint8_t how;              /* of enum fuse_how */
    uint32_t flags, uid, gid; /* pl_file's; who opened it */
    uint64_t nodeid;
};

/* The open file again: `f` is a copy of its entry, whose `kept` is the callee's from here on.
 * Called without locks, once at a time for each. NULL: it is gone. */
typedef struct pl_file *fuse_wake_file(void *arg, uint64_t fh, const struct ledger_file *f);

struct fuse_files *fuse_files_new(struct ledger *ledger, fuse_wake_file *wake, void *arg);
/* The table only: the files must have been taken out before. */
void fuse_files_free(struct fuse_files *tab);
/* A handle for the file, opened as `as` says (nodeid, opener, uid, gid, backing and, of state, what
 * is beside LEDGER_OPEN) and `how`; 0 when out of memory. Handles are never 0. */
uint64_t fuse_files_add(struct fuse_files *tab, struct pl_file *file, const struct ledger_file *as,
                        enum fuse_how how);
/* The entry, woken, which stays where it is until it is taken out; NULL: no such handle. */
struct fuse_file *fuse_files_get(struct fuse_files *tab, uint64_t fh);
/* What was kept for a file that is being woken was of no use, and is closed. */
void fuse_files_unkept(struct fuse_files *tab, uint64_t fh);
/* The file is to be closed: takes its pointers out into `ret`, and a successor will not find it
 * open any more. What sleeps is woken first if something was kept for it; else its file is NULL.
 * The handle stays taken until fuse_files_drop(). False: there is none. */
bool fuse_files_del(struct fuse_files *tab, uint64_t fh, struct fuse_file *ret);
void fuse_files_drop(struct fuse_files *tab, uint64_t fh);
/* Takes out the next entry that does not sleep, `cursor` starting at 0, and forgets those that do:
 * false when there is none left. For the end: no other thread is there. */
bool fuse_files_pop(struct fuse_files *tab, uint32_t *cursor, struct fuse_file *ret);
/* The next handle in the ledger after `cursor` (starting at 0), and a copy of its entry. */
uint64_t fuse_files_next(struct fuse_files *tab, uint32_t *cursor, struct ledger_file *ret);
/* The kernel wants to be woken by this name. */
void fuse_files_polled(struct fuse_files *tab, uint64_t fh, uint64_t kh);

#endif
