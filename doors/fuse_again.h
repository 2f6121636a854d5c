/* SPDX-License-Identifier: MIT */
/* Of the FUSE door's transport: which requests came again lately, and whether the kernel has their
 * answer. By the unique without the bit; the transport's lock guards it. */
#ifndef DOORS_FUSE_AGAIN_H
#define DOORS_FUSE_AGAIN_H

#include "fuse/proto.h"
#include <stdbool.h>

#define AGAIN 4096 /* more than there are workers */

struct fuse_again {
    struct came_again {
        uint64_t unique;
        bool sent;
    } of[AGAIN];
};

static inline struct came_again *again_of(struct fuse_again *a, uint64_t unique)
{
    return &a->of[unique / 2 % AGAIN]; /* the kernel counts by twos */
}

/* Has this one, which does not come again, been taken under a newer name? */
static inline bool again_is_old(struct fuse_again *a, uint64_t unique)
{
    return unique && again_of(a, unique)->unique == unique;
}

static inline bool again_is_sent(struct fuse_again *a, uint64_t unique)
{
    unique &= ~FUSE_UNIQUE_RESEND;
    return again_is_old(a, unique) && again_of(a, unique)->sent;
}

static inline void again_taken(struct fuse_again *a, uint64_t unique)
{
    unique &= ~FUSE_UNIQUE_RESEND;
    if (!again_is_old(a, unique))
        *again_of(a, unique) = (struct came_again){unique, false};
}

static inline void again_done(struct fuse_again *a, uint64_t unique, bool sent)
{
    unique &= ~FUSE_UNIQUE_RESEND;
    *again_of(a, unique) = (struct came_again){unique, sent};
}

#endif
