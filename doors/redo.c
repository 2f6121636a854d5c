/* SPDX-License-Identifier: MIT */
#include "doors/redo.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int redo_there(const struct redo *r, struct pl_node *dir, const char *name, struct pl_node **node,
               struct pl_attr *attr)
{
    struct pl_call call;
    struct pl_node *n;
    pl_call_init_self(&call);
    call.own = true;
    int error = pl_lookup(r->tree, &call, dir, name, &n, attr);
    pl_call_done(&call);
    if (error == 0 && node)
        *node = n;
    else if (error == 0)
        pl_node_unref(n);
    return error;
}

static uint64_t ns(struct timespec t)
{
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t redo_now(void)
{
    struct timespec coarse;
    clock_gettime(CLOCK_REALTIME_COARSE, &coarse);
    return ns(coarse);
}

uint64_t redo_grain(void)
{
    struct timespec grain;
    clock_getres(CLOCK_REALTIME_COARSE, &grain);
    return (uint64_t)grain.tv_nsec;
}

bool redo_since(const struct redo *r, struct timespec t)
{
    return ns(t) + redo_grain() >= r->began;
}

/* By number, and by birth where that is known. */
static bool same(const struct pl_attr *attr, uint64_t ino, uint32_t born)
{
    return attr->ino == ino && (!born || born == pl_birth(attr->btime));
}

bool redo_is(const struct redo *r, const struct pl_attr *attr)
{
    return same(attr, atomic_load(&r->intent->ino), atomic_load(&r->intent->born));
}

bool redo_is_still(const struct redo *r, struct pl_node *dir, const char *name)
{
    struct pl_attr attr;
    return redo_there(r, dir, name, NULL, &attr) == 0 && redo_is(r, &attr);
}

/* The same for the other one of an exchange. */
static bool is_second(const struct redo *r, struct pl_node *dir, const char *name)
{
    struct pl_attr attr;
    return redo_there(r, dir, name, NULL, &attr) == 0 &&
           same(&attr, atomic_load(&r->intent->ino2), atomic_load(&r->intent->born2));
}

bool redo_ours(const struct redo *r, const struct pl_attr *a, uint32_t type)
{
    bool born = a->btime.tv_sec || a->btime.tv_nsec;
    return (a->mode & S_IFMT) == type && (a->uid == r->uid || a->uid == geteuid()) &&
           redo_since(r, born ? a->btime : a->ctime);
}

bool redo_same_target(const struct redo *r, struct pl_node *node, const char *want)
{
    char target[PL_PATH_MAX + 1];
    struct pl_call call;
    pl_call_init_self(&call);
    int n = pl_readlink(r->tree, &call, node, target, PL_PATH_MAX);
    pl_call_done(&call);
    return n >= 0 && (size_t)n == strlen(want) && !memcmp(target, want, (size_t)n);
}

bool redo_removed(const struct redo *r, struct pl_node *dir, const char *name)
{
    struct pl_attr attr;
    if (!atomic_load(&r->intent->ino))
        return false;
    int error = redo_there(r, dir, name, NULL, &attr);
    return error == -ENOENT || (error == 0 && !redo_is(r, &attr));
}

bool redo_renamed(const struct redo *r, struct pl_node *olddir, const char *oldname,
                  struct pl_node *newdir, const char *newname, unsigned flags)
{
    uint64_t ino = atomic_load(&r->intent->ino), ino2 = atomic_load(&r->intent->ino2);
    if (!ino || !redo_is_still(r, newdir, newname))
        return false;
    if (flags & RENAME_EXCHANGE)
        return ino != ino2 && is_second(r, olddir, oldname);
    return !redo_is_still(r, olddir, oldname);
}

int64_t redo_size(const struct redo *r, struct pl_node *node)
{
    struct pl_call call;
    struct pl_attr attr;
    pl_call_init_self(&call);
    int error = pl_getattr(r->tree, &call, node, NULL, &attr);
    pl_call_done(&call);
    return error < 0 ? error : (int64_t)attr.size;
}

/* Truncating again would lose what others have written since. If the source had noted that it was
 * about to, a file of the size that it had then was not truncated, and one of another size was.
 * Where nothing is noted it is done (again): the caller does not have the file yet, and a write
 * that comes before his open is one that the open may cut off. */
bool redo_truncated(const struct redo *r, struct pl_node *node)
{
    uint64_t size1 = atomic_load(&r->intent->size1);
    int64_t size = size1 ? redo_size(r, node) : -1;
    return size >= 0 && (uint64_t)size != size1 - 1;
}

size_t redo_written(const struct redo *r, struct pl_node *node, uint64_t at, const void *data,
                    size_t size)
{
    struct pl_call call;
    struct pl_attr attr;
    struct pl_file *file;
    size_t n = 0;
    char *buf = malloc(size ? size : 1);
    pl_call_init_self(&call);
    call.own = true;
    if (buf && pl_getattr(r->tree, &call, node, NULL, &attr) == 0 && attr.size > at &&
        pl_open(r->tree, &call, node, O_RDONLY, &file) == 0) {
        ssize_t got = pl_read(r->tree, &call, file, buf, size, at);
        if (got > 0 && !memcmp(buf, data, (size_t)got))
            n = (size_t)got;
        pl_close(r->tree, &call, file);
    }
    pl_call_done(&call);
    free(buf);
    return n;
}
