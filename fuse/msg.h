/* SPDX-License-Identifier: MIT */
/* The decoder of FUSE requests: bytes in, a checked struct out. It keeps nothing and never fails
 * but by its result, whatever the bytes are. */
#ifndef FUSE_MSG_H
#define FUSE_MSG_H

#include "fuse/proto.h"
#include <stdbool.h>
#include <stddef.h>

struct fuse_msg {
    struct fuse_in_header h;
    union { /* a copy; what the request was too short for is 0 (INIT before 7.36) */
        struct fuse_none_in none;
        struct fuse_forget_in forget;
        struct fuse_batch_forget_in batch_forget;
        struct fuse_getattr_in getattr;
        struct fuse_statx_in statx;
        struct fuse_setattr_in setattr;
        struct fuse_mknod_in mknod;
        struct fuse_mkdir_in mkdir;
        struct fuse_rename_in rename;
        struct fuse_link_in link;
        struct fuse_open_in open;
        struct fuse_create_in create;
        struct fuse_release_in release;
        struct fuse_flush_in flush;
        struct fuse_read_in read;
        struct fuse_write_in write;
        struct fuse_copy_in copy;
        struct fuse_fsync_in fsync;
        struct fuse_setxattr_in setxattr;
        struct fuse_getxattr_in getxattr;
        struct fuse_lk_in lk;
        struct fuse_access_in access;
        struct fuse_interrupt_in interrupt;
        struct fuse_ioctl_in ioctl;
        struct fuse_poll_in poll;
        struct fuse_fallocate_in fallocate;
        struct fuse_lseek_in lseek;
        struct fuse_init_in init;
    } a;
    /* Into the request buffer. The names are NUL-terminated and not empty; `data` is as long as the
     * arguments say (the value of SETXATTR, WRITE's bytes, IOCTL's input, the array of
     * BATCH_FORGET). */
    const char *name, *name2;
    const void *data;
    size_t size;
};

/* Decodes the `len` bytes of one request. `setxattr_ext`: FUSE_SETXATTR_EXT was negotiated.
 * 0; -ENOSYS: an opcode that we do not implement (the header is valid); -EINVAL: malformed, and if
 * the header is valid it is in `msg` (else its unique is 0 and there is nobody to answer). */
int fuse_msg_decode(const void *buf, size_t len, bool setxattr_ext, struct fuse_msg *msg);

/* "LOOKUP", or "?" */
const char *fuse_op_name(uint32_t opcode);

#endif
