/* SPDX-License-Identifier: MIT */
/* The content of one file, several blocks under way at once. */
#ifndef CMD_COPYDATA_H
#define CMD_COPYDATA_H

#include "cmd/copy.h"

/* Copies what is in `in` to the empty file `out`, holes as holes. 0, or a negative errno;
 * *ret_reading says which side failed. */
int copy_data(struct copier *c, struct pl_file *in, const struct pl_attr *attr, struct pl_file *out,
              bool *ret_reading);

#endif
