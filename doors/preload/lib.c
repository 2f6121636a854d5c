/* SPDX-License-Identifier: MIT */
/*
 * The preload: what a dynamically linked program calls instead of the C library's functions of
 * these names. What doors/preload/look.h does not answer is a system call from here, which the trap
 * sees. It lives inside strangers: it allocates nothing but what those functions do, and writes to
 * nothing but its own `here`, once, before the program begins.
 */
#include "doors/preload/lib.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct preload here;

#if defined(__x86_64__)
static const unsigned char code[] = {
    0xf3, 0x0f, 0x1e, 0xfa, /* endbr64 */
    0x48, 0x89, 0xf8,       /* mov rax, rdi */
    0x48, 0x89, 0xf7,       /* mov rdi, rsi */
    0x48, 0x89, 0xd6,       /* mov rsi, rdx */
    0x48, 0x89, 0xca,       /* mov rdx, rcx */
    0x4d, 0x89, 0xc2,       /* mov r10, r8 */
    0x4d, 0x89, 0xc8,       /* mov r8, r9 */
    0x0f, 0x05,             /* syscall */
    0xc3,                   /* ret */
};
#elif defined(__aarch64__)
static const uint32_t code[] = {
    0xaa0003e8, /* mov x8, x0 */
    0xaa0103e0, /* mov x0, x1 */
    0xaa0203e1, /* mov x1, x2 */
    0xaa0303e2, /* mov x2, x3 */
    0xaa0403e3, /* mov x3, x4 */
    0xaa0503e4, /* mov x4, x5 */
    0xd4000001, /* svc 0 */
    0xd65f03c0, /* ret */
};
#else
static const unsigned char code[] = {0}; /* all is for the trap */
#endif

/* The page of code at the address that the filter knows. If something is there already, all is for
 * the trap. By system calls: a sanitizer in the program would take offence at the address. */
static bool make_page(uintptr_t at)
{
    if (sizeof(code) < 8)
        return false;
    long r = syscall(SYS_mmap, at, PRELOAD_PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (r == -1)
        return false;
    if ((uintptr_t)r == at) {
        void *page = (void *)at;
        memcpy(page, code, sizeof(code));
        __builtin___clear_cache(page, (char *)page + sizeof(code));
        if (syscall(SYS_mprotect, at, PRELOAD_PAGE, PROT_READ | PROT_EXEC) == 0)
            return true;
    }
    syscall(SYS_munmap, r, PRELOAD_PAGE);
    return false;
}

__attribute__((constructor)) static void preload_begin(void)
{
    int was = errno;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, PRELOAD_NAME, O_RDONLY | O_CLOEXEC);
    void *mem = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(*here.block), PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (mem != MAP_FAILED) {
        const struct preload_block *b = mem;
        if (b->magic == PRELOAD_MAGIC && b->pack_size <= PRELOAD_PACK &&
            view_pack_open(b->pack, b->pack_size, &here.pack) == 0 && make_page(b->pass)) {
            memcpy(&here.call, &b->pass, sizeof(here.call));
            here.block = b;
        } else {
            munmap(mem, sizeof(*here.block));
        }
    }
    errno = was;
}

/* ---- opening ---- */

/* In the trap it may wait for long: where a thread may be cancelled, as in the C library. */
static int open_trapped(int dirfd, const char *path, int flags, mode_t mode)
{
    int was;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &was);
    int r = (int)syscall(SYS_openat, dirfd, path, flags, mode);
    pthread_setcanceltype(was, NULL);
    return r;
}

int open_any(int dirfd, const char *path, int flags, mode_t mode)
{
    pthread_testcancel();
    long r = preload_open(&here, dirfd, path, flags, mode);
    return r == PRELOAD_TRAP ? open_trapped(dirfd, path, flags, mode) : (int)told(r);
}

#define MODE(mode, flags)                                                                          \
    mode_t mode = 0;                                                                               \
    if ((flags) & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) {                                        \
        va_list ap;                                                                                \
        va_start(ap, flags);                                                                       \
        mode = va_arg(ap, mode_t);                                                                 \
        va_end(ap);                                                                                \
    }

#define OPEN(fn, name)                                                                             \
    int fn(const char *path, int flags, ...) AS (name);                                            \
    int fn(const char *path, int flags, ...)                                                       \
    {                                                                                              \
        MODE(mode, flags)                                                                          \
        return open_any(AT_FDCWD, path, flags, mode);                                              \
    }
OPEN(here_open, "open")
OPEN(here_open64, "open64")

#define OPENAT(fn, name)                                                                           \
    int fn(int dirfd, const char *path, int flags, ...) AS (name);                                 \
    int fn(int dirfd, const char *path, int flags, ...)                                            \
    {                                                                                              \
        MODE(mode, flags)                                                                          \
        return open_any(dirfd, path, flags, mode);                                                 \
    }
OPENAT(here_openat, "openat")
OPENAT(here_openat64, "openat64")

#define CREAT(fn, name)                                                                            \
    int fn(const char *path, mode_t mode) AS (name);                                               \
    int fn(const char *path, mode_t mode)                                                          \
    {                                                                                              \
        return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);                       \
    }
CREAT(here_creat, "creat")
CREAT(here_creat64, "creat64")

/* Of programs that were compiled with checks. */
#define OPEN_2(fn, name)                                                                           \
    int fn(const char *path, int flags) AS (name);                                                 \
    int fn(const char *path, int flags)                                                            \
    {                                                                                              \
        return open_any(AT_FDCWD, path, flags, 0);                                                 \
    }
OPEN_2(here_open_2, "__open_2")
OPEN_2(here_open64_2, "__open64_2")

#define OPENAT_2(fn, name)                                                                         \
    int fn(int dirfd, const char *path, int flags) AS (name);                                      \
    int fn(int dirfd, const char *path, int flags)                                                 \
    {                                                                                              \
        return open_any(dirfd, path, flags, 0);                                                    \
    }
OPENAT_2(here_openat_2, "__openat_2")
OPENAT_2(here_openat64_2, "__openat64_2")

/* The flags of open(2) for a mode of fopen(3); -1: there is something rare in it. */
static int mode_flags(const char *mode)
{
    int flags = !mode          ? -1
                : *mode == 'r' ? O_RDONLY
                : *mode == 'w' ? O_WRONLY | O_CREAT | O_TRUNC
                : *mode == 'a' ? O_WRONLY | O_CREAT | O_APPEND
                               : -1;
    while (flags >= 0 && *++mode) {
        if (*mode == 'e')
            flags |= O_CLOEXEC;
        else if (*mode == 'x')
            flags |= O_EXCL;
        else if (*mode == '+')
            flags = (flags & ~O_ACCMODE) | O_RDWR;
        else if (*mode != 'b' && *mode != 'm')
            flags = -1;
    }
    return flags;
}

bool next_of(const char *name, void *ret)
{
    void *is = dlsym(RTLD_NEXT, name);
    memcpy(ret, &is, sizeof(is));
    if (!is)
        errno = ENOSYS;
    return is;
}

static FILE *fopen_any(const char *path, const char *mode)
{
    int flags = mode_flags(mode);
    long fd = flags < 0 ? PRELOAD_TRAP : preload_open(&here, AT_FDCWD, path, flags, 0666);
    FILE *(*next)(const char *, const char *);
    if (fd == PRELOAD_TRAP)
        return next_of("fopen", &next) ? next(path, mode) : NULL;
    FILE *f = told(fd) < 0 ? NULL : fdopen((int)fd, mode);
    if (!f && fd >= 0)
        close((int)fd);
    return f;
}

#define FOPEN(fn, name)                                                                            \
    FILE *fn(const char *path, const char *mode) AS (name);                                        \
    FILE *fn(const char *path, const char *mode)                                                   \
    {                                                                                              \
        return fopen_any(path, mode);                                                              \
    }
FOPEN(here_fopen, "fopen")
FOPEN(here_fopen64, "fopen64")

/* ---- looking ---- */

static int stat_any(int dirfd, const char *path, void *buf, int flags)
{
    long r = preload_stat(&here, dirfd, path, buf, flags);
    return r == PRELOAD_TRAP ? (int)syscall(SYS_newfstatat, dirfd, path, buf, flags) : (int)told(r);
}

static int fstat_any(int fd, void *buf)
{
    long r = preload_fstat(&here, fd, buf);
    return r == PRELOAD_TRAP ? (int)syscall(SYS_fstat, fd, buf) : (int)told(r);
}

/* Those of today; with the version come those of programs of before glibc 2.33. */
#define STAT(fn, name, old, flags)                                                                 \
    int fn(const char *path, void *buf) AS (name);                                                 \
    int fn(const char *path, void *buf)                                                            \
    {                                                                                              \
        return stat_any(AT_FDCWD, path, buf, flags);                                               \
    }                                                                                              \
    int fn##_old(int version, const char *path, void *buf) AS (old);                               \
    int fn##_old(int version, const char *path, void *buf)                                         \
    {                                                                                              \
        return version >> 1 ? (int)told(-EINVAL) : stat_any(AT_FDCWD, path, buf, flags);           \
    }
STAT(here_stat, "stat", "__xstat", 0)
STAT(here_stat64, "stat64", "__xstat64", 0)
STAT(here_lstat, "lstat", "__lxstat", AT_SYMLINK_NOFOLLOW)
STAT(here_lstat64, "lstat64", "__lxstat64", AT_SYMLINK_NOFOLLOW)

#define FSTAT(fn, name, old)                                                                       \
    int fn(int fd, void *buf) AS (name);                                                           \
    int fn(int fd, void *buf)                                                                      \
    {                                                                                              \
        return fstat_any(fd, buf);                                                                 \
    }                                                                                              \
    int fn##_old(int version, int fd, void *buf) AS (old);                                         \
    int fn##_old(int version, int fd, void *buf)                                                   \
    {                                                                                              \
        return version >> 1 ? (int)told(-EINVAL) : fstat_any(fd, buf);                             \
    }
FSTAT(here_fstat, "fstat", "__fxstat")
FSTAT(here_fstat64, "fstat64", "__fxstat64")

#define FSTATAT(fn, name, old)                                                                     \
    int fn(int dirfd, const char *path, void *buf, int flags) AS (name);                           \
    int fn(int dirfd, const char *path, void *buf, int flags)                                      \
    {                                                                                              \
        return stat_any(dirfd, path, buf, flags);                                                  \
    }                                                                                              \
    int fn##_old(int version, int dirfd, const char *path, void *buf, int flags) AS (old);         \
    int fn##_old(int version, int dirfd, const char *path, void *buf, int flags)                   \
    {                                                                                              \
        return version >> 1 ? (int)told(-EINVAL) : stat_any(dirfd, path, buf, flags);              \
    }
FSTATAT(here_fstatat, "fstatat", "__fxstatat")
FSTATAT(here_fstatat64, "fstatat64", "__fxstatat64")

int here_statx(int dirfd, const char *path, int flags, unsigned mask, void *buf) AS ("statx");
int here_statx(int dirfd, const char *path, int flags, unsigned mask, void *buf)
{
    long r = preload_statx(&here, dirfd, path, flags, mask, buf);
    return r == PRELOAD_TRAP ? (int)syscall(SYS_statx, dirfd, path, flags, mask, buf)
                             : (int)told(r);
}

/* ---- the rest ---- */

static int access_any(int dirfd, const char *path, int mode, int flags)
{
    long r = preload_access(&here, dirfd, path, mode, flags);
    if (r != PRELOAD_TRAP)
        return (int)told(r);
    return flags ? (int)syscall(SYS_faccessat2, dirfd, path, mode, flags)
                 : (int)syscall(SYS_faccessat, dirfd, path, mode);
}

int here_access(const char *path, int mode) AS ("access");
int here_access(const char *path, int mode)
{
    return access_any(AT_FDCWD, path, mode, 0);
}

int here_faccessat(int dirfd, const char *path, int mode, int flags) AS ("faccessat");
int here_faccessat(int dirfd, const char *path, int mode, int flags)
{
    return access_any(dirfd, path, mode, flags);
}

static ssize_t readlink_any(int dirfd, const char *path, char *buf, size_t size)
{
    long r = preload_readlink(&here, dirfd, path, buf, size);
    return r == PRELOAD_TRAP ? syscall(SYS_readlinkat, dirfd, path, buf, size) : told(r);
}

ssize_t here_readlink(const char *path, char *buf, size_t size) AS ("readlink");
ssize_t here_readlink(const char *path, char *buf, size_t size)
{
    return readlink_any(AT_FDCWD, path, buf, size);
}

ssize_t here_readlinkat(int dirfd, const char *path, char *buf, size_t size) AS ("readlinkat");
ssize_t here_readlinkat(int dirfd, const char *path, char *buf, size_t size)
{
    return readlink_any(dirfd, path, buf, size);
}

/* Memory for the result is asked for as the C library would: it is the caller's. */
static char *realpath_any(const char *path, char *buf)
{
    char full[PRELOAD_PATH];
    char *(*next)(const char *, char *);
    long r = preload_realpath(&here, path, full);
    if (r == PRELOAD_TRAP)
        return next_of("realpath", &next) ? next(path, buf) : NULL;
    if (told(r) < 0)
        return NULL;
    return buf ? strcpy(buf, full) : strdup(full);
}

char *here_realpath(const char *path, char *buf) AS ("realpath");
char *here_realpath(const char *path, char *buf)
{
    return realpath_any(path, buf);
}

char *here_realpath_chk(const char *path, char *buf, size_t size) AS ("__realpath_chk");
char *here_realpath_chk(const char *path, char *buf, size_t size)
{
    return realpath_any(path, buf);
}

char *here_canonicalize(const char *path) AS ("canonicalize_file_name");
char *here_canonicalize(const char *path)
{
    return realpath_any(path, NULL);
}
