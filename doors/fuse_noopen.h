/* SPDX-License-Identifier: MIT */
/*
 * Opens that never leave the kernel: of directories wherever the tree and the kernel allow it, of
 * files too when fuse_opts.opens is FUSE_OFF. What was agreed (FUSE_NO_OPENDIR_SUPPORT,
 * FUSE_NO_OPEN_SUPPORT) holds for the whole mount and all its servers. The kernel then says 0 for a
 * handle; fuse_req_file() gives the file that fuse_noopen_begin() found.
 */
#ifndef DOORS_FUSE_NOOPEN_H
#define DOORS_FUSE_NOOPEN_H

#include "doors/fuse.h"
#include "fuse/proto.h"

struct fuse_noopen;
struct fuse_req;

/* Why a tree of these flags cannot be mounted so (opts->opens is FUSE_OFF): a clause, or NULL. */
const char *fuse_noopen_refusal(uint32_t tree_flags, const struct fuse_opts *opts);
/* Which opens are to stay in the kernel: of FUSE_NO_OPEN_SUPPORT, FUSE_NO_OPENDIR_SUPPORT. */
uint64_t fuse_noopen_wants(uint32_t tree_flags, const struct fuse_opts *opts);
/* Of these, what a kernel can that offers so much. */
uint64_t fuse_noopen_agrees(uint32_t tree_flags, uint64_t offered, uint64_t wants);

/* NULL: no memory. Free it when no request runs any more. */
struct fuse_noopen *fuse_noopen_new(struct pl_tree *tree);
void fuse_noopen_free(struct fuse_noopen *no);

/* Before the handler of a request: 0; 1: it is answered, and has no handler; or the negative errno
 * (FUSE_NEVER) to answer with. After it, in any case: the end. */
int fuse_noopen_begin(struct fuse_req *r);
void fuse_noopen_end(struct fuse_req *r);
/* Before a reply: what was written is closed by the time that its writer hears of it. */
void fuse_noopen_wrote(struct fuse_req *r);
/* Answers CREATE and TMPFILE; takes over the file. The entry's lookup is counted. */
int fuse_noopen_created(struct fuse_req *r, struct pl_file *file,
                        const struct fuse_entry_out *entry);

#endif
