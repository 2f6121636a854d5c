/* SPDX-License-Identifier: MIT */
/* The table behind plenum/keep.h: records in memory that outlives the process. */
#ifndef BASE_KEEP_H
#define BASE_KEEP_H

#include <plenum/keep.h>

/* Bytes that a table of `n` records takes. */
size_t keep_size(unsigned n);
/* The table in `mem` (8-byte aligned, zeroed when new, else as a predecessor left it), which must
 * be keep_size(n) bytes. It needs no end. */
struct pl_keep *keep_over(void *mem, unsigned n);
#endif
