/* SPDX-License-Identifier: MIT */
/*
 * What each stack may lack. What is not in this list must be there: a case that skips for want of
 * it is a failure, so that no feature is ever lost in silence. Adding a line here is a decision;
 * its reason stands beside it.
 */
#include "conform.h"
#include "fuse/proto.h"

#include <fnmatch.h>
#include <sys/vfs.h>

const char *const feature_name[F_COUNT] = {
#define X(name, what) #name,
    FEATURES(X)
#undef X
};
const char *const feature_what[F_COUNT] = {
#define X(name, what) what,
    FEATURES(X)
#undef X
};

static const struct {
    const char *shape;
    enum feature f;
    const char *why;
} lacks[] = {
    {"*mem*", F_direct, "there is no disk to be direct to"},
    {"*mem*", F_shift, "nobody collapses ranges of memory"},
    {"*mem*", F_acl, "mem knows no ACLs"},
    {"*mem*", F_version, "optional in the contract"},
    {"*host*", F_key_moved, "what a handle opens must be found beneath the root, by its directory"},
    {"*p9*(*", F_groups, "9P names the caller by uid alone: whose groups count is the server's"},
    {"p9*(*", F_key, "9P carries no keys"},
    {"fuse*(*", F_key_moved, "the kernel's handles do not outlive its cache: names are the keys"},
    {"*fuse*(*", F_shift, "the kernel's FUSE client does not pass them on"},
    {"*host*", F_version, "host file systems do not tell their change counters"},
};

/* What cannot hold on a kernel without the feature, whatever the server does. */
static const struct {
    uint64_t feature;
    const char *name, *why;
} cannot[] = {
    {FUSE_DONT_MASK, "xattrs.default_acl", "the kernel has applied the umask before it asks"},
    {FUSE_POSIX_ACL, "xattrs.acl_is_obeyed",
     "what only the ACL allows, the kernel forbids by mode"},
};

const char *why_not(uint64_t lacking, const char *name)
{
    for (size_t i = 0; i < sizeof(cannot) / sizeof(*cannot); i++)
        if ((lacking & cannot[i].feature) && !strcmp(cannot[i].name, name))
            return cannot[i].why;
    return NULL;
}

#define EXT4_MAGIC  0xef53
#define TMPFS_MAGIC 0x01021994

/* What a directory's own file system cannot. */
static bool below_lacks(const char *dir, enum feature f)
{
    struct statfs st;
    if (statfs(dir, &st) < 0)
        return false;
    if (st.f_type == TMPFS_MAGIC)
        return f == F_shift || f == F_zero;
    if (st.f_type == EXT4_MAGIC)
        return f == F_xattr_big;
    /* Others (overlayfs, xfs, btrfs, ...): what differs among them. */
    return f == F_shift || f == F_direct || f == F_xattr_big || f == F_acl || f == F_tmpfile ||
           f == F_whiteout || f == F_parent_nlink || f == F_btime || f == F_exchange;
}

bool may_lack(const char *shape, const char *dir, bool root, enum feature f)
{
    if (!root &&
        (f == F_root || f == F_device || f == F_trusted || f == F_whiteout || f == F_key_moved))
        return true;
    if (strstr(shape, "host") && below_lacks(dir, f))
        return true;
    for (size_t i = 0; i < sizeof(lacks) / sizeof(*lacks); i++)
        if (lacks[i].f == f && !fnmatch(lacks[i].shape, shape, 0))
            return true;
    return false;
}
