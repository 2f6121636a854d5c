/* SPDX-License-Identifier: MIT */
/*
 * The transport over io_uring, beside /dev/fuse: requests arrive in memory that the kernel writes
 * and replies leave by the same system call that fetches the next. FORGET and INTERRUPT, and all
 * that comes before the rings are up, still go through the device, and so do notifications.
 *
 * What it costs: requests in flight when the server is killed are not sent again by the kernel, so
 * that a mount with it ends with its server.
 */
#ifndef DOORS_FUSE_URING_H
#define DOORS_FUSE_URING_H

#include "doors/fuse_door.h"

struct fuse_uring;

/* Can it be used here? 0, or a negative errno and a sentence that says what to do. */
int fuse_uring_check(struct pl_err *err);
/* Starts the rings of a session that agreed on FUSE_OVER_IO_URING: a thread for each possible
 * processor, more where ops wait. `bufsize`: bytes of the largest request or reply. NULL: out of
 * memory or descriptors (errno). */
struct fuse_uring *fuse_uring_start(struct fuse_sess *s, int fd, size_t bufsize);
/* Cancels the request of that unique: false if it is not here. */
bool fuse_uring_cancel(struct fuse_uring *u, uint64_t unique);
/* The kernel's side is gone: cancels all, joins the threads and frees. NULL is fine. */
void fuse_uring_end(struct fuse_uring *u);

#endif
