/* SPDX-License-Identifier: MIT */
/*
 * Acting for others: the credentials with which the kernel judges the file accesses of a thread.
 *
 * Switching costs system calls, so a worker thread keeps what it was switched to until somebody
 * asks for something else. Code that runs in such a thread and wants the process's own rights says
 * cred_reset() first (which is free when nothing is switched), and so does a thread that such a
 * thread may have started: it begins as what that one was. The main thread is never left
 * switched: cred_end() brings it back.
 */
#ifndef BASE_CRED_H
#define BASE_CRED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* True when this process may act for any user: it is root, and may set users and groups. */
bool cred_able(void);

/* From now on this thread's file accesses are those of uid:gid with these supplementary groups and,
 * unless uid is 0, without capabilities. Other threads are not affected. 0, or -EPERM when the
 * kernel does not allow it (a uid that is not mapped): the thread has its own rights then. */
int cred_set(uid_t uid, gid_t gid, const gid_t *groups, size_t n);
/* Back to the process's own. */
void cred_reset(void);

/* Between these two, this thread has CAP_SYS_ADMIN and CAP_FSETID again if the process has them; in
 * all else it acts as it was switched to. */
void cred_raise(void);
void cred_lower(void);

/* From now on this thread creates with this umask; other threads are not affected (where unshare(2)
 * is forbidden, they are, until cred_end). */
void cred_umask(mode_t mask);

/* The process has given up all capabilities but these (bit n: capability n), in all threads: one
 * that comes back to the process's own does not try to take others, which costs it time. */
void cred_limit(uint64_t caps);

/* Does this thread have capability `cap` in effect? */
bool cred_effective(int cap);

/* The op that called cred_set or cred_umask is over. */
void cred_end(void);

#endif
