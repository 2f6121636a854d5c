/* SPDX-License-Identifier: MIT */
/*
 * The preload: the memory that the supervisor writes and programs only read, one piece for each
 * view.
 *
 * A program gets it by opening PRELOAD_NAME, which the trap answers. What is in it are hints: who
 * finds nothing, or anything unusual, makes the call from an ordinary address, and the trap does
 * it. Entries are written under a sequence number (odd: being written), and overwrite each other.
 *
 * A directory of the view that is one physical directory, and nothing else, is *lent*: a program
 * that opens it gets a descriptor of that, marked by PRELOAD_TAG, and this process gets no call.
 * Names in it are looked for in the view, here and by the trap (doors/trap_preload.c).
 */
#ifndef DOORS_PRELOAD_SHARED_H
#define DOORS_PRELOAD_SHARED_H

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#define PRELOAD_NAME "/proc/plenum/view"
#define PRELOAD_TAG  64 /* F_SETSIG of a file of a tree that is handed out, as the trap's */

enum {
    PRELOAD_MAGIC = 0x706c7064,
    PRELOAD_PATH = 512, /* bytes of a path that is looked at here, with its NUL */
    PRELOAD_FRONT = 4,  /* directories in front of the last, at most */
    PRELOAD_PLACES = 2048,
    PRELOAD_DIRS = 4096,
    PRELOAD_WAYS = 4,       /* entries of lent, and of dir, at which one thing may be */
    PRELOAD_PACK = 1 << 16, /* bytes of the packed view, at most */
    PRELOAD_PAGE = 4096,    /* of code, at `pass` */
};

/* What a descriptor stands for: one of the trap, a directory of a tree or the state; or a physical
 * directory that is lent. */
struct preload_place {
    atomic_uint seq;
    uint32_t moves; /* as the block's `moves`, or of what is lent `renames`, when it was written */
    uint64_t dev, ino;
    uint32_t k;      /* of what is lent: number in the stack */
    uint32_t length; /* of the path; 0, of a state: the kernel's working directory */
    char path[PRELOAD_PATH];
};

/* A physical directory in front, at the path whose first `length` bytes are of it: as long as it
 * looks so, nothing in it hides what is behind. If it is shorter than the path that was asked for,
 * there is no such directory. */
struct preload_front {
    uint64_t dev, ino;
    int64_t sec; /* st_ctim */
    uint32_t nsec, length;
    uint64_t names[2]; /* the bits of all names in it */
};

/* A directory of the view: it is at this path, and what it is made of is found by the letters. */
struct preload_dir {
    atomic_uint seq;
    uint32_t n; /* directories that it may be made of */
    struct preload_front front[PRELOAD_FRONT];
    char path[PRELOAD_PATH];
};

struct preload_block {
    uint32_t magic;
    atomic_uint stale; /* somebody got another view: nothing here counts any more */
    atomic_uint moves; /* directories that have been renamed, with places in them */
    int32_t state_fd;
    uint64_t pass;       /* calls of code in this page are not trapped */
    uint64_t dev[2];     /* where the trap's descriptors are */
    atomic_uint renames; /* of directories */
    uint32_t lends;      /* no physical directory is seen at two places: they may be lent */
    uint32_t pack_size, pad;
    uint32_t pack[PRELOAD_PACK / sizeof(uint32_t)];
    struct preload_place place[PRELOAD_PLACES], lent[PRELOAD_PLACES];
    struct preload_dir dir[PRELOAD_DIRS];
};

/* Eight bytes at a time: it is made with every call. */
static inline uint32_t preload_hash(const char *path, uint32_t n)
{
    uint64_t h = n, word;
    for (; n > 8; n -= 8, path += 8) {
        memcpy(&word, path, 8);
        h = (h ^ word) * 0x9e3779b97f4a7c15u;
        h ^= h >> 32;
    }
    word = 0;
    memcpy(&word, path, n);
    h = (h ^ word) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32);
}

/* The two bits of a name. */
static inline void preload_name_bits(const char *name, uint32_t n, uint64_t bits[2])
{
    uint32_t h = preload_hash(name, n);
    bits[h >> 6 & 1] |= (uint64_t)1 << (h & 63);
    bits[h >> 13 & 1] |= (uint64_t)1 << (h >> 7 & 63);
}

static inline uint32_t preload_hash_ino(uint64_t dev, uint64_t ino)
{
    return (uint32_t)(((dev << 44) ^ ino) * 0x9e3779b97f4a7c15u >> 32);
}

/* The first of the ways, of `n` entries. */
static inline uint32_t preload_slot(uint32_t hash, uint32_t n)
{
    return hash % (n / PRELOAD_WAYS) * PRELOAD_WAYS;
}

#endif
