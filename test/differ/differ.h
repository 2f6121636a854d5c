/* SPDX-License-Identifier: MIT */
/*
 * differ runs one random sequence of system calls in two directories, one on a native file system
 * and one on a mount of ours, in lockstep, and compares every result.
 *
 * gen.c makes the sequence from a seed alone, without looking at results, so that any part of it
 * can be run again. work.c does one operation in a worker process, one for each side and identity,
 * which is chrooted into its directory and answers with a text: results, the state of what the
 * operation named, which times moved. differ.c hands out the operations, compares the texts,
 * and shrinks a sequence that ends in a difference. accept.c names the differences that are known
 * and why they are right.
 */
#ifndef DIFFER_H
#define DIFFER_H

#include "state.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define SLOTS    4 /* descriptors that a worker holds */
#define PATHLEN  600
#define TEXT_MAX (4u << 20)

/* clang-format off */
#define KINDS(X)                                                                                   \
    X(open) X(close) X(dup) X(setfl) X(read) X(pread) X(write) X(pwrite) X(lseek) X(ftruncate)     \
    X(truncate) X(fallocate) X(copy) X(mkdir) X(rmdir) X(unlink) X(rename) X(link) X(linkfd)       \
    X(symlink) X(mknod) X(chmod) X(fchmod) X(chown) X(fchown) X(utimens) X(futimens) X(access)     \
    X(setxattr) X(getxattr) X(listxattr) X(removexattr) X(lock) X(getlock) X(flock) X(mmap)        \
    X(fsync) X(fstat) X(stat) X(statx) X(readlink) X(getdents) X(chdir) X(statfs) X(walk)

enum kind {
#define X(name) K_##name,
    KINDS(X)
#undef X
    K_COUNT
};
/* clang-format on */

struct op {
    enum kind kind;
    int who;     /* of the profile's identities */
    bool quiet;  /* no stats before it, which would make the kernel forget what it believes */
    int fd, fd2; /* slots; which slot an open fills */
    int at, at2; /* slots of directories that the paths start at, or -1: the working directory */
    int flags;   /* of the call */
    int how;     /* which of several forms of the call */
    uint32_t mode;
    int64_t off, len, off2;
    uid_t uid;
    gid_t gid;
    int64_t sec[2];
    int64_t nsec[2];
    uint32_t seed; /* of data that is written */
    char p1[PATHLEN], p2[PATHLEN], name[300] /* of an xattr */;
};

struct identity {
    const char *what;
    uid_t uid;
    gid_t gid;
    int ngroups;
    gid_t groups[3];
    mode_t umask;
};
#define IDENTITIES 6
extern const char *const kind_names[];

/* What the two sides can have in common. */
struct profile {
    const char *name;
    bool acl; /* POSIX ACLs on both */
    enum dirs dirs;
    bool zero_range; /* the native side has FALLOC_FL_ZERO_RANGE */
    bool mem;        /* a file system of our own: what fallocate(2) allots is no hole, for one */
    bool remote; /* 9P: writes are those of who opened; setting an empty xattr over one cannot be
                    said */
    bool
        cached; /* the kernel writes back: it keeps times itself, and seeks no holes in its cache */
    bool trap;  /* the trap door: see accept.c */
    bool view;  /* the mount door: "..." is its own, as the trap's */
    bool nolinks; /* no second names: an index of them counts in the top alone */
    bool merged;  /* a union: whiteouts are its own, and a copy gets a new time of change */
    const struct identity *who;
    uid_t ids[3]; /* users and groups to change to */
};

struct gen {
    bool early; /* something that later ones can work on */
    bool maps;  /* mappings; otherwise the search for holes: see gen.c */
    bool locks; /* locks of processes; otherwise files open only for reading */
};
void gen_op(struct op *op, uint64_t *rng, const struct profile *p, const struct gen *gen);
void gen_print(const struct op *op, const struct profile *p, FILE *to);
/* What a worker and its master both see. */
struct shared {
    struct op op;
    pid_t pids[16]; /* of the workers of this side */
    char text[TEXT_MAX];
};
/* Does operations, a byte on `in` for each, answered by one on `out`. Never returns. */
void work(const char *root, const struct identity *me, const struct profile *p, struct shared *sh,
          int in, int out);
/* Empties the directory and gives it the state that every run starts from. */
void work_reset(const char *root);
/* Whether they differ only in which times moved. */
bool only_times(const char *native, const char *mount);
/* Whether the difference is one that is known and right. */
bool accepted(const struct profile *p, const struct op *op, const char *native, const char *mount);

#endif
