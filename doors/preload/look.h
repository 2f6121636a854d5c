/* SPDX-License-Identifier: MIT */
/*
 * What the preload answers by itself. Every function returns what the call would: a result, or a
 * negative errno; PRELOAD_TRAP: it is for the trap. Nothing is allocated, locked, or remembered;
 * all is safe in a signal handler, in any thread, and in a child of vfork(2). About 3 KiB of stack.
 */
#ifndef DOORS_PRELOAD_LOOK_H
#define DOORS_PRELOAD_LOOK_H

#include "doors/preload/shared.h"
#include "view/pack.h"
#include <sys/stat.h>
#include <sys/types.h>

#define PRELOAD_TRAP (-4100L)

struct preload {
    const struct preload_block *block;
    struct view_pack pack;
    /* Makes a call that is not trapped: its result or a negative errno. */
    long (*call)(long nr, long a, long b, long c, long d, long e);
};

long preload_open(const struct preload *p, int dirfd, const char *path, int flags, mode_t mode);
/* `flags` as those of fstatat(2). */
long preload_stat(const struct preload *p, int dirfd, const char *path, struct stat *st, int flags);
long preload_statx(const struct preload *p, int dirfd, const char *path, int flags, unsigned mask,
                   struct statx *sx);
long preload_fstat(const struct preload *p, int fd, struct stat *st);
long preload_access(const struct preload *p, int dirfd, const char *path, int mode, int flags);
long preload_readlink(const struct preload *p, int dirfd, const char *path, char *buf, size_t size);

/* How the directory that `fd` has open is listed. 0: the kernel lists it; 1: it is what is at
 * `ret->path` alone, which preload_list() reads; -ENOTDIR; PRELOAD_TRAP. */
struct preload_where {
    char path[PRELOAD_PATH];
    int fd;         /* that it is already open as, at the beginning, and stays; -1 */
    uint64_t above; /* d_ino of ".." */
};
long preload_listing(const struct preload *p, int fd, struct preload_where *ret);
/* All of it, as getdents64(2) has it, but that d_off counts bytes of the result, whose size it
 * returns; -E2BIG: more than `size`, buf (8-byte aligned) is not to be used; PRELOAD_TRAP. */
long preload_list(const struct preload *p, const struct preload_where *where, char *buf,
                  size_t size);
/* The canonical path; an error as that of realpath(3). */
long preload_realpath(const struct preload *p, const char *path, char ret[PRELOAD_PATH]);

#endif
