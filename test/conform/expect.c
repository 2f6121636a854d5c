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
    {"union(*", F_key, "a name that could be copied up is no part of the trees' keys"},
    {"white(*", F_key, "a name that could be copied up is no part of the trees' keys"},
    {"space(*", F_key, "a name that could be copied up is no part of the trees' keys"},
    {"version(union(*", F_key, "a name that could be copied up is no part of the trees' keys"},
    {"*union(*", F_parent_nlink, "as in overlayfs, a merged directory's link count is 1"},
    {"*white(*", F_parent_nlink, "as in overlayfs, a merged directory's link count is 1"},
    {"*space(*", F_whiteout, "whiteouts are the space's to make"},
    {"*union(*", F_whiteout, "whiteouts are the space's to make"},
    {"*white(*", F_whiteout, "whiteouts are the space's to make"},
#define OLD(f, why)                                                                                \
    {                                                                                              \
        "*p9[ub]*(*", F_##f, why                                                                   \
    }
    OLD(key_moved, "9P carries no keys"),
    OLD(locks, "the older dialects have none"),
    OLD(flock, "the older dialects have none"),
    OLD(xattr, "the older dialects have none"),
    OLD(acl, "the older dialects have none"),
    OLD(tmpfile, "the older dialects have none"),
    OLD(fallocate, "the older dialects have none"),
    OLD(punch, "the older dialects have none"),
    OLD(zero, "the older dialects have none"),
    OLD(shift, "the older dialects have none"),
    OLD(holes, "the older dialects have none"),
    OLD(direct, "the older dialects have none"),
    OLD(btime, "the older dialects have none"),
    OLD(version, "the older dialects have none"),
    OLD(exchange, "the older dialects have none"),
    OLD(whiteout, "the older dialects have none"),
    OLD(noreplace, "9P2000.u replaces, and 9P2000 never does anything else"),
#undef OLD
    {"*p9base*(*", F_device, "9P2000 has none"},
    {"*p9base*(*", F_parent_nlink, "9P2000 has no link counts"},
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

/* What cannot hold in an older dialect, whatever the two ends do: cases, and why. */
static const struct {
    const char *shape, *why, *cases[24];
} old[] = {
    {"*p9[ub]*(*",
     "renames are within a directory only (EXDEV)",
     {"attrs.numbers", "deep.three_hundred_levels", "dirs.in_a_removed_one", "names.of_255_bytes",
      "perms.changes_to_a_directory", "perms.moving_a_directory", "rename.to_a_new_name",
      "rename.symlinks_are_not_followed", "rename.into_its_own_descendant",
      "rename.over_its_own_ancestor", "rename.to_another_name_of_it",
      "rename.of_one_of_several_names", "rename.moves_a_directory", "rename.above_nodes_in_use",
      "rename.of_an_open_file", "threads.one_renames_it_away", "threads.anything_at_once"}},
    {"*p9[ub]*(*",
     "whole seconds from 1970 on, and no time of change",
     {"attrs.several_at_once", "times.to_the_nanosecond", "times.one_alone", "times.now",
      "times.long_ago_and_far_ahead", "times.of_an_open_file", "times.of_a_file",
      "times.of_a_file_linked", "times.of_directories", "times.of_directories_left_alone",
      "times.of_replaced_files"}},
    {"*p9[ub]*(*", "no statfs", {"statfs.of_every_type", "statfs.of_an_unlinked_node"}},
    {"*p9[ub]*(*",
     "a request has no group, and no time is the server's",
     {"perms.new_files_belong_to_the_caller", "perms.times"}},
    {"*p9u*(*", "a symlink's target stands where link counts do", {"links.of_a_symlink"}},
    {"*p9base*(*",
     "no symlinks",
     {"attrs.attach",
      "attrs.readdir_numbers",
      "attrs.truncate_what_has_no_size",
      "attrs.symlink",
      "dirs.mkdir_over_something",
      "dirs.remove_errors",
      "dirs.types",
      "files.create_exclusive",
      "files.create_over_what_is_no_file",
      "files.open_what_cannot_be",
      "keys.find_the_node",
      "names.of_every_byte",
      "names.in_what_is_no_directory",
      "rename.file_over_directory",
      "rename.directory_over_file",
      "symlinks.targets",
      "symlinks.of_every_length",
      "symlinks.of_4095_bytes",
      "symlinks.errors",
      "symlinks.read_in_part",
      "symlinks.read_what_is_none",
      "symlinks.are_not_followed",
      "symlinks.out_of_the_tree"}},
    {"*p9base*(*", "no symlinks", {"rename.noreplace", "perms.umask"}},
    {"*p9base*(*",
     "no links, and no link counts",
     {"attrs.every_way_the_same", "attrs.of_an_unlinked_open_file", "attrs.of_an_unlinked_node",
      "links.one_object", "links.found_again", "links.errors", "links.of_a_symlink",
      "links.of_a_fifo", "links.of_what_has_no_name", "links.replaced_but_open", "links.a_thousand",
      "threads.nodes_come_and_go"}},
    {"*p9base*(*",
     "no special files",
     {"rename.special_files", "special.fifo_and_socket", "special.devices",
      "special.devices_are_not_for_all", "special.opening_does_not_wait"}},
    {"*p9base*(*",
     "a rename never replaces",
     {"rename.file_over_file", "rename.directory_over_directory", "rename.over_save",
      "threads.replaced_but_never_missing"}},
    {"*p9base*(*",
     "no user can be given, no set-id bits",
     {"attrs.chmod_every_bit",
      "attrs.chown",
      "perms.owner_and_others",
      "perms.groups",
      "perms.root_may",
      "perms.search",
      "perms.search_by_group",
      "perms.exists_before_denied",
      "perms.sticky",
      "perms.sticky_exchange",
      "perms.setgid_directory",
      "perms.setgid_directory_of_members",
      "perms.chmod",
      "perms.setgid_by_a_member",
      "perms.chown",
      "perms.chgrp_by_the_owner",
      "perms.chown_clears_setuid",
      "perms.write_clears_setuid",
      "perms.truncate",
      "perms.once_opened",
      "perms.link",
      "perms.many_groups",
      "perms.parallel_callers"}},
    {"version(*",
     "what a directory is seen as is for a look-up to say: a listing does not know",
     {"dirs.types", "threads.anything_at_once"}},
    {"fuse(*p9[ub]*(*",
     "no keys, and renames are within a directory only",
     {"keys.of_what_was_moved", "keys.of_what_is_gone"}},
    {"fuse(*p9[ub]*(*", "no versions of attributes", {"attrs.version"}},
    {"*p9base*(*", "clients that append at once overwrite one another", {"clients.many"}},
};

const char *why_not_here(const char *shape, const char *name)
{
    for (size_t i = 0; i < sizeof(old) / sizeof(*old); i++)
        for (size_t k = 0; k < 24 && old[i].cases[k]; k++)
            if (!strcmp(old[i].cases[k], name) && !fnmatch(old[i].shape, shape, 0))
                return old[i].why;
    return NULL;
}

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
