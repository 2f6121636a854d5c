/* SPDX-License-Identifier: MIT */
/*
 * A file of records that is only ever appended to, each with its length and checksum, so that what
 * a crash left half written is seen, and cut off, when it is opened again.
 *
 * A record is in the file when synclog_append() returns: it outlives this process. It outlives the
 * machine's power when synclog_sync() has returned. One thread at a time.
 */
#ifndef SYNC_LOG_H
#define SYNC_LOG_H

#include <plenum/error.h>
#include <stddef.h>
#include <stdint.h>

#define SYNCLOG_RECORD (1u << 20) /* bytes of one at most */

struct synclog {
    int fd;
    uint64_t size;
    char *path;
    int failed; /* a write has failed: nothing is appended any more */
};

/* Opens or makes the file (mode 0600) and gives each whole record to `each`, in order; behind the
 * last one the file is cut. What `each` returns, if not 0, is the result. */
int synclog_open(struct synclog *log, const char *path,
                 int (*each)(void *arg, uint8_t *rec, size_t n), void *arg, struct pl_err *err);
void synclog_close(struct synclog *log);
int synclog_append(struct synclog *log, const void *rec, size_t n);
int synclog_sync(struct synclog *log);
/* Puts another file, to which `fill` appends, in the place of this one; this one stands until that
 * is whole and on the disk. */
int synclog_replace(struct synclog *log, int (*fill)(void *arg, struct synclog *to), void *arg);

#endif
