/* SPDX-License-Identifier: MIT */
/*
 * What vpath says to the server of a view, and hears. A connection is SOCK_SEQPACKET of
 * base/fdpass.h; a request is one message, and so is its answer. What is long travels in a memory
 * file (a body): words, each with a NUL.
 */
#ifndef CMD_VIEWLINK_H
#define CMD_VIEWLINK_H

#include <plenum/error.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum viewlink_op {
    /* In all of them `value` is the process that was named, 0: none. */
    VIEWLINK_CHANGE = 1, /* body: the cwd, then the pairs; its standard error comes along */
    VIEWLINK_WORDS,      /* the view's words */
    VIEWLINK_WHERE,      /* body: an absolute path; the answer's body: the physical one */
    VIEWLINK_ABOUT,      /* the answer's body: the door; index: how deep it is nested */
    VIEWLINK_ANSWER,     /* value: 0 or a negative errno; data: the sentence */
};

enum { VIEWLINK_BODY = 16 << 20 /* bytes at most */ };

/* A message, taken apart. The words are one allocation (free(words)). */
struct viewlink {
    uint32_t op, index;
    int64_t value;
    char text[512];
    char **words; /* NULL-terminated */
    size_t n;
    int err; /* the sender's standard error, or -1 */
};

/* Sends; `words` may be NULL, `err` -1. 0 or a negative errno. */
int viewlink_send(int sock, const struct viewlink *m);
/* Receives: 1; 0, the other end is gone; a negative errno. */
int viewlink_recv(int sock, struct viewlink *ret);
void viewlink_done(struct viewlink *m); /* frees the words and closes `err` */

/* Where the server of a view meets others: by the number of the mount namespace of process `pid`
 * (0: this one): one that is never used anew; before Linux 6.10 its inode number, which is, so that
 * a view that is just ending may be met by another namespace. -ENOENT, -EACCES. */
int viewlink_namespace(pid_t pid, uint64_t *ret);
int viewlink_namespace_fd(int fd, uint64_t *ret); /* of an open /proc/PID/ns/mnt */
void viewlink_name(uint64_t ns, char ret[32]);

/* ... and by the process id of a supervisor (the trap door). */
void viewlink_trap_name(pid_t supervisor, char ret[32]);

/* Its parent, or 0. */
pid_t viewlink_parent(pid_t pid);

/* A connection to the view that this process is in, or that `pid` (not 0) is in. -ENOENT: it is in
 * none (or of another user); -EACCES: not permitted to look. */
int viewlink_dial(pid_t pid);
/* Asks and waits for the answer, a minute at most: its value, with the sentence if negative;
 * -ECONNRESET, -ETIMEDOUT with one too. `ret` is to be done in any case. */
int viewlink_ask(int sock, const struct viewlink *request, struct viewlink *ret,
                 struct pl_err *err);

#endif
