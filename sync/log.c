/* SPDX-License-Identifier: MIT */
#include "sync/log.h"
#include "base/cursor.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#define HEAD 12 /* length, checksum of length and bytes */

static uint64_t checksum(const void *rec, size_t n)
{
    return XXH3_64bits_withSeed(rec, n, n);
}

static int replay(struct synclog *log, int (*each)(void *, uint8_t *, size_t), void *arg)
{
    uint8_t head[HEAD], *buf = malloc(SYNCLOG_RECORD);
    int r = buf ? 0 : -ENOMEM;
    while (r == 0 && pread(log->fd, head, HEAD, (off_t)log->size) == HEAD) {
        struct cursor c = cursor_at(head, HEAD);
        size_t n = (size_t)cursor_get(&c, 4);
        uint64_t sum = cursor_get(&c, 8);
        if (n == 0 || n > SYNCLOG_RECORD ||
            pread(log->fd, buf, n, (off_t)log->size + HEAD) != (ssize_t)n ||
            checksum(buf, n) != sum)
            break;
        r = each(arg, buf, n);
        log->size += HEAD + n;
    }
    free(buf);
    if (r == 0 && ftruncate(log->fd, (off_t)log->size) < 0)
        r = -errno;
    return r;
}

int synclog_open(struct synclog *log, const char *path, int (*each)(void *, uint8_t *, size_t),
                 void *arg, struct pl_err *err)
{
    *log = (struct synclog){.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
    if (log->fd < 0)
        return pl_fail(err, -errno, "%s: %s", path, strerror(errno));
    log->path = strdup(path);
    int r = log->path ? replay(log, each, arg) : -ENOMEM;
    if (r < 0) {
        synclog_close(log);
        return pl_fail(err, r, "%s: %s", path, strerror(-r));
    }
    return 0;
}

void synclog_close(struct synclog *log)
{
    if (log->fd >= 0)
        close(log->fd);
    log->fd = -1;
    free(log->path);
    log->path = NULL;
}

int synclog_append(struct synclog *log, const void *rec, size_t n)
{
    uint8_t head[HEAD];
    struct cursor c = cursor_at(head, HEAD);
    cursor_put(&c, 4, n);
    cursor_put(&c, 8, checksum(rec, n));
    struct iovec iov[2] = {{head, HEAD}, {(void *)rec, n}};
    if (log->failed)
        return log->failed;
    if (n == 0 || n > SYNCLOG_RECORD)
        return -EINVAL;
    ssize_t w = pwritev(log->fd, iov, 2, (off_t)log->size);
    if (w == (ssize_t)(HEAD + n)) {
        log->size += HEAD + n;
        return 0;
    }
    /* What is half there is no record, and the next one goes over it. */
    return w < 0 ? -errno : -ENOSPC;
}

int synclog_sync(struct synclog *log)
{
    /* After a failure nobody knows what is on the disk. */
    if (!log->failed && fdatasync(log->fd) < 0)
        log->failed = -errno;
    return log->failed;
}

static int sync_directory(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int r = fd < 0 || fsync(fd) < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    free(dir);
    return r;
}

int synclog_replace(struct synclog *log, int (*fill)(void *, struct synclog *), void *arg)
{
    struct synclog to = {.fd = -1};
    if (asprintf(&to.path, "%s.new", log->path) < 0)
        return -ENOMEM;
    to.fd = open(to.path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int r = to.fd < 0 ? -errno : fill(arg, &to);
    if (r == 0)
        r = synclog_sync(&to);
    if (r == 0 && rename(to.path, log->path) < 0)
        r = -errno;
    if (r == 0) {
        int old = log->fd;
        log->fd = to.fd;
        log->size = to.size;
        log->failed = 0;
        to.fd = old;
        r = sync_directory(log->path);
    } else {
        unlink(to.path);
    }
    synclog_close(&to);
    return r;
}
