/* SPDX-License-Identifier: MIT */
/* What a kernel may offer at INIT, by name: for tests that take some of it away. */
#ifndef FUSE_FEATURES_H
#define FUSE_FEATURES_H

#include <stddef.h>
#include <stdint.h>

/* The names ("posix_acl"), ended by NULL, and the bits, in the same order. */
extern const char *const fuse_feature_name[];
extern const uint64_t fuse_feature_bit[];

/* All that came after the protocol's minor version. */
uint64_t fuse_features_after(uint32_t minor);

/* Takes "NAME[:NAME...]" apart, where NAME is a feature or minorN: the features into *ret_mask, N
 * into *ret_minor (0: none given). 0, or -EINVAL with the name that is none in `bad`. */
int fuse_features_parse(const char *text, uint64_t *ret_mask, uint32_t *ret_minor, char bad[64]);

#endif
