/* SPDX-License-Identifier: MIT */
/*
 * What the kernel knows of us: nodes by nodeid, open files by handle. Both are indices into tables,
 * never addresses, so that a successor can rebuild them (index, generation, lookup count, key).
 */
#ifndef DOORS_FUSE_TABLE_H
#define DOORS_FUSE_TABLE_H

#include <plenum/tree.h>

/* ---- nodes ---- */
struct fuse_nodes;

/* A table whose nodeid 1 is `root` (takes over the reference, also when it fails). NULL: no memory.
 */
struct fuse_nodes *fuse_nodes_new(struct pl_node *root);
/* Drops every reference that is left. */
void fuse_nodes_free(struct fuse_nodes *tab);

/* The node with a reference added, or NULL if the kernel should not know that nodeid. */
struct pl_node *fuse_nodes_get(struct fuse_nodes *tab, uint64_t nodeid);
/* Counts one lookup of `node` (takes over the reference), whose attributes with this stamp the
 * kernel is about to be told: its nodeid, new or the one it had. 0: no memory, nothing counted.
 * `sure`: as of fuse_nodes_told(). */
uint64_t fuse_nodes_learn(struct fuse_nodes *tab, struct pl_node *node, uint32_t stamp,
                          uint64_t *ret_generation, bool *ret_sure);
/* Takes back `n` lookups; at zero the node is dropped (true), and its nodeid used again with
 * another generation. */
bool fuse_nodes_forget(struct fuse_nodes *tab, uint64_t nodeid, uint64_t n);

/* A digest of what tells that an object's content changed. Never 0. */
uint32_t fuse_stamp(const struct pl_attr *attr);
/* The kernel is told attributes with this stamp; true: it may believe them for a while. */
bool fuse_nodes_told(struct fuse_nodes *tab, uint64_t nodeid, uint32_t stamp);
/* The node is being opened. */
struct fuse_opened {
    bool same;   /* the kernel was told no other attributes than at the last open, so that what it
                    has cached is as good as the attributes it believes */
    bool locked; /* POSIX locks have been set on it */
};
struct fuse_opened fuse_nodes_opened(struct fuse_nodes *tab, uint64_t nodeid);
/* The content is going to change without the kernel's cache: the next open is not the `same`. */
void fuse_nodes_unsure(struct fuse_nodes *tab, uint64_t nodeid);
/* The id of the descriptor through which the kernel moves the node's bytes, 0: none. */
void fuse_nodes_backing(struct fuse_nodes *tab, uint64_t nodeid, int32_t id);
/* So many more open files may change the node through mappings without a word. True: they are the
 * first, and what the kernel was told is in doubt. */
bool fuse_nodes_mapped(struct fuse_nodes *tab, uint64_t nodeid, int more);
/* A POSIX lock is about to be set on the node. */
void fuse_nodes_lock(struct fuse_nodes *tab, uint64_t nodeid);

/* ---- open files ---- */
struct fuse_files;

struct fuse_poll; /* of fuse_ops_misc.c: the kernel waits for this file to become ready */

/* How the bytes of an open file travel: see fuse_bytes.c. */
enum fuse_how {
    FUSE_PLAIN,          /* the kernel was not told FOPEN_PASSTHROUGH */
    FUSE_PASSED,         /* it was, and moves the bytes */
    FUSE_PASSED_BY_NAME, /* it was, and FOPEN_DIRECT_IO */
};

struct fuse_file {
    struct pl_file *file;
    struct fuse_poll *poll;
    uint32_t generation, next_free;
    enum fuse_how how;
    bool locked;       /* locks were set through it */
    uint32_t uid, gid; /* who opened it */
};

struct fuse_files *fuse_files_new(void);
/* The table only: the files must have been taken out before. */
void fuse_files_free(struct fuse_files *tab);
/* A handle for the file; 0 when out of memory. Handles are never 0. */
uint64_t fuse_files_add(struct fuse_files *tab, struct pl_file *file, enum fuse_how how,
                        const struct pl_cred *opener);
/* The entry, which stays where it is until it is taken out; NULL: no such handle. */
struct fuse_file *fuse_files_get(struct fuse_files *tab, uint64_t fh);
/* Takes the entry out into `ret`: false if there is none. */
bool fuse_files_del(struct fuse_files *tab, uint64_t fh, struct fuse_file *ret);
/* Takes out the next entry, `cursor` starting at 0: false when there is none left. */
bool fuse_files_pop(struct fuse_files *tab, uint32_t *cursor, struct fuse_file *ret);

#endif
