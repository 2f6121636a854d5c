/* SPDX-License-Identifier: MIT */
/*
 * What Linux's VFS does for every file system that keeps its own attributes: who may change what,
 * what a new object inherits, which bits a change clears. Facts: fs/attr.c, fs/inode.c, fs/namei.c,
 * fs/xattr.c. All work on plain values; the caller holds whatever lock guards them.
 */
#include <errno.h>
#include <fcntl.h>
#include <plenum/tree.h>
#include <string.h>

bool pl_in_group(struct pl_call *call, gid_t gid)
{
    if (call->cred.gid == gid)
        return true;
    pl_call_groups(call);
    for (uint32_t i = 0; i < call->cred.ngroups; i++)
        if (call->cred.groups[i] == gid)
            return true;
    return false;
}

int pl_may(struct pl_call *c, const struct pl_attr *attr, int mask)
{
    uint32_t mode = attr->mode;
    if (c->cred.uid == 0) {
        bool x = S_ISDIR(mode) || (mode & 0111);
        return (mask & X_OK) && !x ? -EACCES : 0;
    }
    if (c->cred.uid == attr->uid)
        mode >>= 6;
    else if (pl_in_group(c, attr->gid))
        mode >>= 3;
    return (mask & 7 & ~mode) ? -EACCES : 0;
}

static bool owns(struct pl_call *call, const struct pl_attr *attr)
{
    return call->cred.uid == 0 || call->cred.uid == attr->uid;
}

int pl_may_open(struct pl_call *call, const struct pl_attr *attr, int flags)
{
    int acc = flags & O_ACCMODE;
    int mask = (acc != O_WRONLY ? R_OK : 0) | (acc != O_RDONLY || flags & O_TRUNC ? W_OK : 0);
    int r = pl_may(call, attr, mask);
    return r == 0 && flags & O_NOATIME && !owns(call, attr) ? -EPERM : r;
}

int pl_may_set(struct pl_call *call, const struct pl_attr *attr, const struct pl_setattr *set,
               bool writable)
{
    uint32_t v = set->valid;
    if (v & PL_SET_UID && call->cred.uid != 0 && !(owns(call, attr) && set->uid == attr->uid))
        return -EPERM;
    if (v & PL_SET_GID && call->cred.uid != 0 &&
        !(owns(call, attr) && (set->gid == attr->gid || pl_in_group(call, set->gid))))
        return -EPERM;
    if (v & (PL_SET_MODE | PL_SET_ATIME | PL_SET_MTIME) && !owns(call, attr))
        return -EPERM;
    if (v & (PL_SET_ATIME_NOW | PL_SET_MTIME_NOW) && !owns(call, attr) && !writable) {
        int r = pl_may(call, attr, W_OK);
        if (r < 0)
            return r;
    }
    return v & PL_SET_SIZE && !writable ? pl_may(call, attr, W_OK) : 0;
}

int pl_may_remove(struct pl_call *call, const struct pl_attr *dir, const struct pl_attr *victim)
{
    int r = pl_may(call, dir, W_OK | X_OK);
    if (r < 0)
        return r;
    return dir->mode & S_ISVTX && !owns(call, victim) && !owns(call, dir) ? -EPERM : 0;
}

int pl_may_xattr(struct pl_call *call, const struct pl_attr *attr, const char *name, bool write)
{
    if (!strcmp(name, "user.") || !strcmp(name, "trusted.") || !strcmp(name, "security."))
        return -EINVAL;
    if (!strncmp(name, "user.", 5)) {
        if (!S_ISREG(attr->mode) && !S_ISDIR(attr->mode))
            return write ? -EPERM : -ENODATA;
        if (write && S_ISDIR(attr->mode) && attr->mode & S_ISVTX && !owns(call, attr))
            return -EPERM;
        return pl_may(call, attr, write ? W_OK : R_OK);
    }
    if (!strncmp(name, "trusted.", 8))
        return call->cred.uid == 0 ? 0 : write ? -EPERM : -ENODATA;
    if (!strncmp(name, "security.", 9))
        return write && call->cred.uid != 0 ? -EPERM : 0;
    return -EOPNOTSUPP;
}

void pl_attr_touch(struct pl_attr *attr, uint32_t times)
{
    clock_gettime(CLOCK_REALTIME, &attr->ctime);
    if (times & PL_SET_ATIME_NOW)
        attr->atime = attr->ctime;
    if (times & PL_SET_MTIME_NOW)
        attr->mtime = attr->ctime;
    attr->version++;
}

void pl_attr_init(struct pl_attr *attr, struct pl_call *call, const struct pl_attr *dir,
                  uint32_t mode)
{
    *attr = (struct pl_attr){.uid = call->cred.uid, .gid = call->cred.gid, .blksize = 4096};
    attr->nlink = S_ISDIR(mode) ? 2 : 1;
    attr->mode = S_ISLNK(mode) ? S_IFLNK | 0777 : mode & ~(call->umask & 0777);
    if (S_ISDIR(mode))
        attr->mode &= S_IFMT | S_ISVTX | 0777;
    if (dir && dir->mode & S_ISGID) {
        attr->gid = dir->gid;
        if (S_ISDIR(mode))
            attr->mode |= S_ISGID;
        else if ((mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && call->cred.uid != 0 &&
                 !pl_in_group(call, dir->gid))
            attr->mode &= ~(uint32_t)S_ISGID;
    }
    pl_attr_touch(attr, PL_SET_ATIME_NOW | PL_SET_MTIME_NOW);
    attr->btime = attr->ctime;
}

/* The bits that a change of content or owner takes away. Set-group-ID without the right to execute
 * (once: mandatory locking) stays for those who are in the group. */
static uint32_t drops(const struct pl_attr *attr, struct pl_call *call)
{
    bool sgid = attr->mode & S_IXGRP || (call->cred.uid != 0 && !pl_in_group(call, attr->gid));
    return S_ISUID | (sgid ? S_ISGID : 0);
}

void pl_attr_written(struct pl_attr *attr, struct pl_call *call)
{
    pl_attr_touch(attr, PL_SET_MTIME_NOW);
    if (S_ISREG(attr->mode) && call->cred.uid != 0)
        attr->mode &= ~drops(attr, call);
}

void pl_attr_set(struct pl_attr *attr, struct pl_call *call, const struct pl_setattr *set)
{
    uint32_t v = set->valid;
    if (v & (PL_SET_UID | PL_SET_GID) && !S_ISDIR(attr->mode))
        attr->mode &= ~drops(attr, call);
    if (v & PL_SET_UID)
        attr->uid = set->uid;
    if (v & PL_SET_GID)
        attr->gid = set->gid;
    if (v & PL_SET_SIZE) {
        attr->size = set->size;
        pl_attr_written(attr, call);
    }
    if (v & PL_SET_MODE) {
        attr->mode = (attr->mode & S_IFMT) | (set->mode & 07777);
        if (call->cred.uid != 0 && !pl_in_group(call, attr->gid))
            attr->mode &= ~(uint32_t)S_ISGID;
    }
    pl_attr_touch(attr, v);
    if (v & PL_SET_ATIME)
        attr->atime = set->atime;
    if (v & PL_SET_MTIME)
        attr->mtime = set->mtime;
}
