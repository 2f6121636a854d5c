/* SPDX-License-Identifier: MIT */
/* The operations as system calls in a directory, memory mappings among them. */
#include "fsx.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int dir = -1, fds[HANDLES];

static int64_t result(int64_t r)
{
    return r < 0 ? -errno : r;
}

int path_target_open(const char *path, struct pl_err *err)
{
    dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return dir < 0 ? pl_fail(err, -errno, "%s: %s", path, strerror(errno)) : 0;
}

void path_target_close(void)
{
    close(dir);
}

static int path_open(int h, const char *name, int flags)
{
    fds[h] = openat(dir, name, flags | O_CLOEXEC, 0644);
    return (int)result(fds[h] < 0 ? -1 : 0);
}

static int path_close(int h)
{
    return (int)result(close(fds[h]));
}

static ssize_t path_read(int h, void *buf, size_t n, uint64_t off)
{
    return result(pread(fds[h], buf, n, (off_t)off));
}

static ssize_t path_write(int h, const void *buf, size_t n, uint64_t off)
{
    return result(pwrite(fds[h], buf, n, (off_t)off));
}

static int path_truncate(int h, const char *name, uint64_t size)
{
    if (!name)
        return (int)result(ftruncate(fds[h], (off_t)size));
    char at[64]; /* there is no truncateat(2) */
    snprintf(at, sizeof(at), "/proc/self/fd/%d/%.16s", dir, name);
    return (int)result(truncate(at, (off_t)size));
}

static int path_fallocate(int h, int mode, uint64_t off, uint64_t len)
{
    return (int)result(fallocate(fds[h], mode, (off_t)off, (off_t)len));
}

static ssize_t path_copy(int in, uint64_t off_in, int out, uint64_t off_out, size_t n)
{
    off64_t a = (off64_t)off_in, b = (off64_t)off_out;
    return result(copy_file_range(fds[in], &a, fds[out], &b, n, 0));
}

static int64_t path_seek(int h, uint64_t off, int whence)
{
    return result(lseek(fds[h], (off_t)off, whence));
}

static int path_sync(int h, bool data_only)
{
    return (int)result(data_only ? fdatasync(fds[h]) : fsync(fds[h]));
}

static int path_stat(int h, const char *name, uint64_t *size, uint64_t *nlink)
{
    struct stat st;
    int r = name ? fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) : fstat(fds[h], &st);
    if (r < 0)
        return -errno;
    *size = (uint64_t)st.st_size;
    *nlink = st.st_nlink;
    return 0;
}

static int path_rename(const char *from, const char *to, unsigned flags)
{
    return (int)result(renameat2(dir, from, dir, to, flags));
}

static int path_link(const char *from, const char *to)
{
    return (int)result(linkat(dir, from, dir, to, 0));
}

static int path_remove(const char *name)
{
    return (int)result(unlinkat(dir, name, 0));
}

/* The mapping covers whole pages; what lies past the end of the file in the last must be zero. */
static int path_map(int h, bool store, void *buf, size_t n, uint64_t off)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), skip = off % page;
    struct stat st;
    if (fstat(fds[h], &st) < 0)
        return -errno;
    char *p = mmap(NULL, skip + n, PROT_READ | (store ? PROT_WRITE : 0), MAP_SHARED, fds[h],
                   (off_t)(off - skip));
    if (p == MAP_FAILED)
        return -errno;
    int r = 0;
    if (store)
        memcpy(p + skip, buf, n);
    else
        memcpy(buf, p + skip, n);
    size_t used = (size_t)st.st_size - (size_t)(off - skip); /* of the mapping lies in the file */
    for (size_t i = used; i < (skip + n + page - 1) / page * page && i / page == used / page; i++)
        if (p[i])
            r = -EDOM; /* said as "the page has bytes past the end" */
    if (store && off % 3 == 0 && msync(p, skip + n, MS_SYNC) < 0)
        r = -errno;
    munmap(p, skip + n);
    return r;
}

static int path_forget(int h)
{
    if (fdatasync(fds[h]) < 0)
        return -errno;
    return -posix_fadvise(fds[h], 0, 0, POSIX_FADV_DONTNEED);
}

const struct target path_target = {
    path_open,      path_close, path_read,   path_write, path_truncate,
    path_fallocate, path_copy,  path_seek,   path_sync,  path_stat,
    path_rename,    path_link,  path_remove, path_map,   path_forget,
};
