/* SPDX-License-Identifier: MIT */
/*
 * The differences that are known, each with its reason. What would leave the two sides in different
 * states cannot be accepted here: gen.c does not do it, and says why.
 */
#include "differ.h"
#include <string.h>

/* Whether the texts agree up to `what`. */
static bool same_up_to(const char *native, const char *mount, const char *what)
{
    const char *end = strstr(native, what);
    return end && !strncmp(native, mount, (size_t)(end - native));
}

bool only_times(const char *a, const char *b)
{
    for (; *a && *b; a++, b++)
        if (*a != *b && !(strchr("=*", *a) && strchr("=*", *b)))
            return false;
    return *a == *b;
}

/* Whether they differ only in that more changed on the mount than on the native side. */
static bool only_ctimes(const char *a, const char *b)
{
    bool same = true;
    for (const char *from = a; same && *a && *b; a++, b++)
        same = *a == *b || (*a == '=' && *b == '*' && a > from && a[-1] == 'c');
    return same && *a == *b;
}

bool accepted(const struct profile *p, const struct op *op, const char *native, const char *mount)
{
    /* The kernel's FUSE does not say that a lock is an open file's and not a process's: it gives
     * the process that set it, and so do we; and who asks by F_OFD_GETLK is told of none. */
    if (op->kind == K_getlock && (op->how ? same_up_to(native, mount, " by ")
                                          : same_up_to(native, mount, " by an open file")))
        return true;
    /* ext4 makes the whiteout before it knows whether the rename can be, and takes it away again;
     * the kernel's FUSE keeps the times of the directories when a rename fails. */
    if (op->kind == K_rename && op->flags & RENAME_WHITEOUT && *native == 'E' && *mount == 'E')
        return same_up_to(native, mount, "\n");
    /* truncate(2) to the size that the file has takes set-group-ID away, but tmpfs leaves ctime. */
    if (op->kind == K_truncate && p->mem && only_times(native, mount))
        return true;
    /* Which of several locks in the way is told is anybody's choice. */
    if (op->kind == K_getlock && (p->mem || p->merged) && strstr(native, " type=") &&
        strstr(mount, " type="))
        return true;
    /* Of two paths that are wrong, the first is told of; the kernel looks at both parents first. */
    if (p->trap &&
        (op->kind == K_rename || op->kind == K_link || op->kind == K_linkfd ||
         op->kind == K_rmdir) &&
        *native == 'E' && *mount == 'E')
        return only_times(native + strcspn(native, "\n"), mount + strcspn(mount, "\n"));
    /* A file without a name is linked where room was made for it, and that is seen if it fails. */
    if (p->trap && op->kind == K_linkfd && *native == 'E' && only_times(native, mount))
        return true;
    /* A directory is open as one of tmpfs, which says another reason why it cannot be read. */
    if (p->trap && (op->kind == K_read || op->kind == K_pread) && *native == 'E' && *mount == 'E')
        return true;
    /* Where a listing has ended, in a space of positions of its own, is no place for ext4 to read.
     */
    if (p->merged && op->kind == K_read && *native == 'E' && *mount == 'E')
        return true;
    /* What is copied up is another file below, which has just been changed. */
    if (p->merged && only_ctimes(native, mount))
        return true;
    /* A kernel that writes back has times of its own, as coarse as its tick. */
    if (p->cached && only_times(native, mount))
        return true;
    return false;
}
