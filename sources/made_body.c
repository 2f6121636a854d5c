/* SPDX-License-Identifier: MIT */
/*
 * The content of an open document: in memory, or in a file of a file system in memory, whose
 * descriptor a door may hand to the kernel. The tree has such a file system for itself (a tmpfs
 * that is mounted nowhere), so that all its documents together are bounded even if the kernel
 * writes them without asking. Where making one is not permitted the kernel could not be given the
 * descriptor either: plain memory does then, and we count.
 *
 * What the kernel writes is seen by the time of modification, which we set to a mark that no clock
 * shows; and what a program changed through a mapping, which leaves the time as it is, by a digest.
 */
#include "base/confine.h"
#include "base/limits.h"
#include "sources/made.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct timespec mark[2] = {{.tv_nsec = UTIME_OMIT}, {1, 1}};

/* ---- the file system ------------------------------------------------------------------------- */

static int make_memory(void)
{
    char size[24];
    int fs = fsopen("tmpfs", FSOPEN_CLOEXEC), fd = -1;
    if (fs < 0)
        return -1;
    snprintf(size, sizeof(size), "%d", LIMIT_DOCUMENTS);
    if (fsconfig(fs, FSCONFIG_SET_STRING, "size", size, 0) == 0 &&
        fsconfig(fs, FSCONFIG_SET_STRING, "mode", "0700", 0) == 0 &&
        fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        fd = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    close(fs);
    return fd;
}

static int memory(struct pl_made *m)
{
    if (m->memory == MADE_UNTRIED && (m->memory = make_memory()) >= 0)
        confine_need(CONFINE_ADMIN); /* to lend its files to the kernel */
    return m->memory;
}

void made_memory_start(struct pl_made *m)
{
    pthread_mutex_lock(&m->lock);
    memory(m);
    pthread_mutex_unlock(&m->lock);
}

int made_memory_file(struct pl_made *m, const char *name)
{
    pthread_mutex_lock(&m->lock);
    int dir = memory(m);
    pthread_mutex_unlock(&m->lock);
    if (dir < 0 || !*name)
        return dir < 0 ? -1 : openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    int fd = openat(dir, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        unlinkat(dir, name, 0);
    return fd;
}

/* ---- counting -------------------------------------------------------------------------------- */

/* The body is to hold n bytes. 0 or -ENOSPC. */
static int hold_bytes(struct pl_made *m, struct made_body *b, uint64_t n)
{
    int64_t more = (int64_t)n - (int64_t)b->counted, held = atomic_fetch_add(&m->held, more) + more;
    if (more <= 0 || held <= LIMIT_DOCUMENTS) {
        b->counted = n;
        return 0;
    }
    atomic_fetch_sub(&m->held, more);
    return -ENOSPC;
}

/* ---- bodies ---------------------------------------------------------------------------------- */

static uint64_t digest(const struct pl_text *t)
{
    uint64_t h = t->n;
    size_t i = 0;
    for (uint64_t word; i + 8 <= t->n; i += 8) {
        memcpy(&word, t->buf + i, 8);
        h = (h ^ word) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    for (; i < t->n; i++)
        h = (h ^ (unsigned char)t->buf[i]) * 0x100000001b3u;
    return h;
}

static int write_all(int fd, const char *p, size_t n, uint64_t off)
{
    while (n) {
        ssize_t w = pwrite(fd, p, n, (off_t)off);
        if (w < 0 && errno != EINTR)
            return -errno;
        if (w > 0) {
            p += w;
            n -= (size_t)w;
            off += (uint64_t)w;
        }
    }
    return 0;
}

int made_body_init(struct pl_made *m, struct made_body *b, struct pl_text *text, bool in_file,
                   const char *name)
{
    b->text = *text;
    *text = (struct pl_text){0};
    b->fd = in_file ? made_memory_file(m, name) : -1;
    if (b->fd < 0) {
        int r = hold_bytes(m, b, b->text.n);
        if (r < 0)
            made_text_done(&b->text);
        return r;
    }
    b->digest = digest(&b->text);
    int r = write_all(b->fd, b->text.buf, b->text.n, 0);
    if (r == 0 && futimens(b->fd, mark) < 0)
        r = -errno;
    made_text_done(&b->text);
    if (r < 0) {
        close(b->fd);
        b->fd = -1;
    }
    return r;
}

void made_body_done(struct pl_made *m, struct made_body *b)
{
    if (b->fd >= 0)
        close(b->fd);
    else
        hold_bytes(m, b, 0);
    b->fd = -1;
    made_text_done(&b->text);
}

uint64_t made_body_size(const struct made_body *b)
{
    struct stat st;
    if (b->fd < 0)
        return b->text.n;
    return fstat(b->fd, &st) < 0 ? 0 : (uint64_t)st.st_size;
}

ssize_t made_body_read(const struct made_body *b, void *buf, size_t n, uint64_t off)
{
    if (b->fd >= 0) {
        ssize_t r = pread(b->fd, buf, n, (off_t)off);
        return r < 0 ? -errno : r;
    }
    size_t left = off < b->text.n ? b->text.n - (size_t)off : 0;
    n = n < left ? n : left;
    if (n)
        memcpy(buf, b->text.buf + off, n);
    return (ssize_t)n;
}

int made_body_resize(struct pl_made *m, struct made_body *b, size_t n)
{
    if (b->fd >= 0)
        return ftruncate(b->fd, (off_t)n) < 0 ? -errno : 0;
    size_t was = b->text.n;
    int r = hold_bytes(m, b, n);
    if (r == 0 && (r = made_text_resize(&b->text, n)) < 0)
        hold_bytes(m, b, was);
    return r;
}

int made_body_write(struct pl_made *m, struct made_body *b, const void *buf, size_t n, uint64_t off)
{
    if (b->fd >= 0)
        return write_all(b->fd, buf, n, off);
    int r = off + n > b->text.n ? made_body_resize(m, b, (size_t)off + n) : 0;
    if (r == 0)
        memcpy(b->text.buf + off, buf, n);
    return r;
}

/* Reads it all into `out` (which is empty). */
static int read_all(const struct made_body *b, struct pl_text *out)
{
    uint64_t size = made_body_size(b);
    int r = size > MADE_TEXT_MAX ? -EFBIG : made_text_resize(out, (size_t)size);
    for (size_t at = 0; r == 0 && at < out->n;) {
        ssize_t n = made_body_read(b, out->buf + at, out->n - at, at);
        if (n < 0)
            r = (int)n;
        else if (n == 0)
            out->n = at; /* cut meanwhile */
        else
            at += (size_t)n;
    }
    return r;
}

bool made_body_changed(const struct made_body *b)
{
    struct stat st;
    struct pl_text now = {0};
    if (b->fd < 0)
        return false;
    if (fstat(b->fd, &st) < 0 || st.st_mtim.tv_sec != mark[1].tv_sec ||
        st.st_mtim.tv_nsec != mark[1].tv_nsec)
        return true;
    bool changed = read_all(b, &now) < 0 || digest(&now) != b->digest;
    made_text_done(&now);
    return changed;
}

void made_body_soil(struct made_body *b)
{
    if (b->fd >= 0)
        futimens(b->fd, NULL);
}

/* Whether it was changed through a mapping only, nobody knows any more: it counts as changed. */
void made_body_resume(struct pl_made *m, struct made_body *b, int fd)
{
    made_body_done(m, b);
    b->fd = fd;
    b->digest = 0;
}

int made_body_copy(struct made_body *b, struct pl_text *out)
{
    /* First the mark: what is written from now on is a change again. */
    if (b->fd >= 0 && futimens(b->fd, mark) < 0)
        return -errno;
    int r = read_all(b, out);
    if (r == 0)
        b->digest = digest(out);
    return r;
}
