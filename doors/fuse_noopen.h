/* SPDX-License-Identifier: MIT */
/*
 * The mode of a mount in which opens never leave the kernel (fuse_opts.opens is FUSE_OFF): it is on
 * when FUSE_NO_OPEN_SUPPORT was agreed, and holds for the whole mount and all its servers. The
 * kernel then says no handle; fuse_req_file() gives the file that fuse_noopen_begin() found.
 */
#ifndef DOORS_FUSE_NOOPEN_H
#define DOORS_FUSE_NOOPEN_H

#include "doors/fuse.h"
#include "fuse/proto.h"

struct fuse_noopen;
struct fuse_req;

/* Why the tree cannot be mounted so, with these options: a clause, or NULL when it can. */
const char *fuse_noopen_refusal(const struct pl_tree *tree, const struct fuse_opts *opts);
/* What the kernel must offer; where it does not, opens go to the server as ever. */
uint64_t fuse_noopen_needs(const struct pl_tree *tree);

/* NULL: no memory. Free it when no request runs any more. */
struct fuse_noopen *fuse_noopen_new(struct pl_tree *tree);
void fuse_noopen_free(struct fuse_noopen *no);

/* Before the handler of a request: 0; 1: it is answered, and has no handler; or the negative errno
 * (FUSE_NEVER) to answer with. After it, in any case: the end. */
int fuse_noopen_begin(struct fuse_req *r);
void fuse_noopen_end(struct fuse_req *r);
/* Answers CREATE and TMPFILE; takes over the file. The entry's lookup is counted. */
int fuse_noopen_created(struct fuse_req *r, struct pl_file *file,
                        const struct fuse_entry_out *entry);

#endif
