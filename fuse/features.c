/* SPDX-License-Identifier: MIT */
#include "fuse/features.h"
#include "fuse/proto.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const fuse_feature_name[] = {
#define X(bit, name, lower, since) #lower,
    FUSE_FEATURES(X)
#undef X
        NULL};
const uint64_t fuse_feature_bit[] = {
#define X(bit, name, lower, since) 1ull << (bit),
    FUSE_FEATURES(X)
#undef X
};
static const uint32_t feature_since[] = {
#define X(bit, name, lower, since) since,
    FUSE_FEATURES(X)
#undef X
};

uint64_t fuse_features_after(uint32_t minor)
{
    uint64_t mask = 0;
    for (size_t i = 0; fuse_feature_name[i]; i++)
        if (feature_since[i] > minor)
            mask |= fuse_feature_bit[i];
    return mask;
}

static int one(const char *name, uint64_t *mask, uint32_t *minor)
{
    for (size_t i = 0; fuse_feature_name[i]; i++) {
        if (!strcmp(fuse_feature_name[i], name)) {
            *mask |= fuse_feature_bit[i];
            return 0;
        }
    }
    char *end;
    if (strncmp(name, "minor", 5) != 0 || name[5] < '1' || name[5] > '9')
        return -EINVAL;
    unsigned long n = strtoul(name + 5, &end, 10);
    if (*end || n > 1000)
        return -EINVAL;
    *minor = (uint32_t)n;
    return 0;
}

int fuse_features_parse(const char *text, uint64_t *ret_mask, uint32_t *ret_minor, char bad[64])
{
    uint64_t mask = 0;
    uint32_t minor = 0;
    for (;;) {
        size_t n = strcspn(text, ":");
        snprintf(bad, 64, "%.*s", (int)(n < 63 ? n : 63), text);
        if (n > 63 || one(bad, &mask, &minor) < 0)
            return -EINVAL;
        if (!text[n])
            break;
        text += n + 1;
    }
    *ret_mask = mask;
    *ret_minor = minor;
    return 0;
}
