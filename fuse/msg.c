/* SPDX-License-Identifier: MIT */
#include "fuse/msg.h"
#include <assert.h>
#include <errno.h>
#include <string.h>

enum { N, D };

static const struct op {
    const char *name;
    uint8_t least, full; /* bytes of arguments: at least, and as we declare them */
    uint8_t strings, tail;
} ops[FUSE_OPCODE_END] = {
#define X(num, name, arg, size, strings, tail)                                                     \
    [num] = {#name, size, sizeof(struct fuse_##arg##_in), strings, tail},
    FUSE_OPS(X)
#undef X
};

/* What the kernel declares; a hole or a lost field would show here. */
static_assert(sizeof(struct fuse_in_header) == 40, "in_header");
static_assert(sizeof(struct fuse_out_header) == 16, "out_header");
static_assert(sizeof(struct fuse_init_in) == 64 && sizeof(struct fuse_init_out) == 64, "init");
static_assert(sizeof(struct fuse_attr) == 88, "attr");
static_assert(sizeof(struct fuse_entry_out) == 128, "entry");
static_assert(sizeof(struct fuse_attr_out) == 104, "attr_out");
static_assert(sizeof(struct fuse_statx_out) == 288, "statx_out");
static_assert(sizeof(struct fuse_setattr_in) == 88, "setattr");
static_assert(sizeof(struct fuse_statfs_out) == 80, "statfs");
static_assert(sizeof(struct fuse_lk_in) == 48, "lk");
static_assert(sizeof(struct fuse_dirent) == 24, "dirent");

const char *fuse_op_name(uint32_t opcode)
{
    return opcode < FUSE_OPCODE_END && ops[opcode].name ? ops[opcode].name : "?";
}

/* The bytes of a request that are not yet taken. */
struct rest {
    const char *p;
    size_t n;
};

static const char *take(struct rest *r, size_t n)
{
    if (n > r->n)
        return NULL;
    const char *p = r->p;
    r->p += n;
    r->n -= n;
    return p;
}

/* A NUL-terminated string of at least one byte, or NULL. */
static const char *take_string(struct rest *r)
{
    const char *end = r->n ? memchr(r->p, 0, r->n) : NULL;
    return end && end > r->p ? take(r, (size_t)(end - r->p) + 1) : NULL;
}

/* How many bytes the arguments of this request have. */
static size_t arg_size(const struct op *op, uint32_t opcode, bool setxattr_ext, size_t n)
{
    if (opcode == FUSE_SETXATTR)
        return setxattr_ext ? op->full : op->least;
    if (opcode == FUSE_INIT)
        return n < op->full ? op->least : op->full;
    return op->least;
}

/* How many bytes of data the arguments announce. */
static uint64_t data_size(const struct fuse_msg *msg, size_t n)
{
    switch (msg->h.opcode) {
    case FUSE_WRITE:
        return msg->a.write.size;
    case FUSE_SETXATTR:
        return msg->a.setxattr.size;
    case FUSE_IOCTL:
        return msg->a.ioctl.in_size;
    case FUSE_BATCH_FORGET:
        return (uint64_t)msg->a.batch_forget.count * sizeof(struct fuse_forget_one);
    default:
        return n;
    }
}

int fuse_msg_decode(const void *buf, size_t len, bool setxattr_ext, struct fuse_msg *msg)
{
    memset(msg, 0, sizeof(*msg));
    struct rest r = {buf, len};
    const char *p = take(&r, sizeof(msg->h));
    if (!p)
        return -EINVAL;
    memcpy(&msg->h, p, sizeof(msg->h));
    if (msg->h.len != len || (size_t)msg->h.extlen * 8 > r.n)
        return -EINVAL;
    r.n -= (size_t)msg->h.extlen * 8; /* extensions: we have asked for none */

    uint32_t opcode = msg->h.opcode;
    if (opcode >= FUSE_OPCODE_END || !ops[opcode].name)
        return -ENOSYS;
    const struct op *op = &ops[opcode];
    size_t size = arg_size(op, opcode, setxattr_ext, r.n);
    p = take(&r, size);
    if (!p)
        return -EINVAL;
    memcpy(&msg->a, p, size);
    if (op->strings > 0 && !(msg->name = take_string(&r)))
        return -EINVAL;
    if (op->strings > 1 && !(msg->name2 = take_string(&r)))
        return -EINVAL;
    if (op->tail == D) {
        uint64_t n = data_size(msg, r.n);
        if (n > r.n)
            return -EINVAL;
        msg->size = (size_t)n;
        msg->data = take(&r, msg->size);
    }
    return 0;
}
