/* SPDX-License-Identifier: MIT */
/*
 * One identity on one side. It changes to its user for the call itself and is root for looking at
 * what came of it, so that every difference is seen whoever may see it.
 */
#include "differ.h"
#include "state.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

static const struct identity *me;
static const struct profile *profile;
static struct shared *shared;
static int slots[SLOTS];
static int proc_fd; /* /proc/self/fd, which is not in the chroot */
static struct out out;
static sigjmp_buf trap;

/* The profile's one identity: an ordinary user has no other, nor root to look with. */
static bool ordinary(void)
{
    return getuid() != 0;
}

static void become(uid_t uid)
{
    if (me->uid && !ordinary() && seteuid(uid) < 0)
        abort();
}

static int at(int slot)
{
    return slot < 0 ? AT_FDCWD : slots[slot];
}

/* Says how a call ended; whether it worked. */
static bool result(long r)
{
    int error = errno;
    become(0);
    if (r >= 0)
        put(&out, "r=%ld", r);
    else
        put(&out, "%s", strerrorname_np(error));
    return r >= 0;
}

static void fill(const struct op *op, unsigned char *buf, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf[i] = (unsigned char)(op->seed + i * 7 + (i >> 8));
}

static void put_bytes(const unsigned char *buf, size_t n)
{
    put(&out, " #%08x", hash(buf, n));
    for (size_t i = 0; i < n && i < 8; i++)
        put(&out, " %02x", buf[i]);
}

/* ---- calls on descriptors -------------------------------------------------------------------- */

static unsigned char bytes[1 << 18];

static void keep(int slot, int fd)
{
    if (slots[slot] >= 0)
        close(slots[slot]);
    slots[slot] = fd;
}

static void do_open(const struct op *op)
{
    int fd = openat(at(op->at), op->p1, op->flags, op->mode & 07777);
    if (result(fd < 0 ? -1 : 0)) {
        keep(op->fd, fd);
        /* What a tree opens for the caller it opens as it likes. */
        unsigned unlike = O_LARGEFILE | (profile->trap ? (unsigned)O_NOFOLLOW : 0);
        if (profile->trap && op->flags & O_PATH) /* which cannot be handed over */
            unlike = ~0u;
        put(&out, " fl=%o", (unsigned)fcntl(fd, F_GETFL) & ~unlike);
    }
}

static void do_close(const struct op *op)
{
    result(close(slots[op->fd]));
    slots[op->fd] = -1;
}

static void do_dup(const struct op *op)
{
    int fd = fcntl(slots[op->fd], F_DUPFD_CLOEXEC, 0);
    if (result(fd < 0 ? -1 : 0))
        keep(op->fd2, fd);
}

static void do_setfl(const struct op *op)
{
    result(fcntl(slots[op->fd], F_SETFL, op->flags));
}

static void do_read(const struct op *op)
{
    ssize_t n = op->kind == K_read ? read(slots[op->fd], bytes, (size_t)op->len)
                                   : pread(slots[op->fd], bytes, (size_t)op->len, op->off);
    if (result(n))
        put_bytes(bytes, (size_t)n);
}

static void do_write(const struct op *op)
{
    size_t n = (size_t)op->len % 100000;
    fill(op, bytes, n);
    result(op->kind == K_write ? write(slots[op->fd], bytes, n)
                               : pwrite(slots[op->fd], bytes, n, op->off));
    struct stat st; /* an offset in a directory is the file system's own */
    if (fstat(slots[op->fd], &st) == 0 && S_ISREG(st.st_mode))
        put(&out, " at=%ld", (long)lseek(slots[op->fd], 0, SEEK_CUR));
}

static void do_lseek(const struct op *op)
{
    struct stat st;
    int whence = op->flags;
    /* What an offset in a directory means is the file system's own. */
    if (fstat(slots[op->fd], &st) == 0 && S_ISDIR(st.st_mode)) {
        result(lseek(slots[op->fd], 0, SEEK_SET));
        return;
    }
    /* What is a hole may be judged differently; where the file is at then shall not be. */
    off_t was = lseek(slots[op->fd], 0, SEEK_CUR);
    result(lseek(slots[op->fd], op->off, whence));
    if (whence == SEEK_DATA || whence == SEEK_HOLE)
        lseek(slots[op->fd], was, SEEK_SET);
}

static void do_fallocate(const struct op *op)
{
    result(fallocate(slots[op->fd], op->flags, op->off, op->len));
}

static void do_copy(const struct op *op)
{
    off_t from = op->off, to = op->off2;
    bool own = op->how == 0;
    ssize_t n = copy_file_range(slots[op->fd], own ? &from : NULL, slots[op->fd2], own ? &to : NULL,
                                (size_t)op->len, 0);
    result(n);
}

static int flock_type(const struct op *op, struct flock *fl)
{
    struct stat st; /* where a directory is and how long is the file system's own */
    bool dir = fstat(slots[op->fd], &st) == 0 && S_ISDIR(st.st_mode);
    *fl = (struct flock){.l_type = (short)op->flags,
                         .l_whence = (short)(dir ? SEEK_SET : op->mode),
                         .l_start = op->off,
                         .l_len = op->len};
    return op->how;
}

static void do_lock(const struct op *op)
{
    struct flock fl;
    int ofd = flock_type(op, &fl);
    result(fcntl(slots[op->fd], ofd ? F_OFD_SETLK : F_SETLK, &fl));
}

static void do_getlock(const struct op *op)
{
    struct flock fl;
    int ofd = flock_type(op, &fl);
    if (!result(fcntl(slots[op->fd], ofd ? F_OFD_GETLK : F_GETLK, &fl)))
        return;
    if (fl.l_type == F_UNLCK) {
        put(&out, " free");
        return;
    }
    int who = IDENTITIES;
    while (--who >= 0 && shared->pids[who] != fl.l_pid)
        ;
    put(&out, " type=%d whence=%d %ld+%ld by %s", fl.l_type, fl.l_whence, (long)fl.l_start,
        (long)fl.l_len,
        who >= 0         ? profile->who[who].what
        : fl.l_pid == -1 ? "an open file"
                         : "somebody");
}

static void on_sigbus(int sig)
{
    siglongjmp(trap, 1);
}

static void do_mmap(const struct op *op)
{
    size_t len = (size_t)op->len;
    unsigned char *p = mmap(NULL, len, (int)op->mode, op->flags, slots[op->fd], op->off);
    if (!result(p == MAP_FAILED ? -1 : 0))
        return;
    struct stat st;
    if (fstat(slots[op->fd], &st) < 0)
        st.st_size = 0;
    /* What is put after the end of the file, in its last page, may or may not come to light. */
    bool write = (op->mode & PROT_WRITE) && op->off2 < op->len && op->off + op->off2 < st.st_size;
    static volatile uint32_t sum, n;
    static volatile bool wrote;
    sum = n = 0;
    wrote = false;
    if (sigsetjmp(trap, 1) == 0) {
        if (write) {
            p[op->off2] = (unsigned char)op->seed;
            wrote = true;
        }
        for (; n < len; n = n + 1)
            sum = sum * 31 + p[n];
    }
    put(&out, " n=%u sum=%08x %s", n, sum, wrote ? "wrote" : "");
    if (op->how)
        put(&out, " msync=%d", msync(p, len, op->how == 1 ? MS_SYNC : MS_ASYNC));
    munmap(p, len);
}

static void do_getdents(const struct op *op)
{
    become(0);
    lseek(slots[op->fd], 0, SEEK_SET);
    become(me->uid);
    put_names(&out, slots[op->fd]);
    become(0);
}

static void do_fd(const struct op *op)
{
    int fd = slots[op->fd];
    struct stat st;
    long r = -1;
    struct timespec ts[2] = {{op->sec[0], op->nsec[0]}, {op->sec[1], op->nsec[1]}};
    switch (op->kind) {
    case K_ftruncate:
        r = ftruncate(fd, op->off);
        break;
    case K_fchmod:
        r = fchmod(fd, op->mode);
        break;
    case K_fchown:
        r = fchown(fd, op->uid, op->gid);
        break;
    case K_futimens:
        r = futimens(fd, op->how ? NULL : ts);
        break;
    case K_flock:
        r = flock(fd, op->flags | LOCK_NB);
        break;
    case K_fsync:
        r = op->how ? fsync(fd) : fdatasync(fd);
        break;
    case K_fstat:
        r = fstat(fd, &st);
        break;
    default:
        abort();
    }
    result(r);
}

/* ---- calls on names -------------------------------------------------------------------------- */

static void do_linkfd(const struct op *op)
{
    char number[16];
    int fd = slots[op->fd];
    snprintf(number, sizeof(number), "%d", fd < 0 ? 999 : fd);
    if (op->seed & 1)
        result(linkat(fd, "", at(op->at2), op->p2, AT_EMPTY_PATH));
    else
        result(linkat(proc_fd, number, at(op->at2), op->p2, AT_SYMLINK_FOLLOW));
}

static void do_readlink(const struct op *op)
{
    char buf[PATHLEN] = "";
    size_t size = op->seed % 5 ? sizeof(buf) - 1 : op->seed % 3;
    if (result(readlinkat(at(op->at), op->p1, buf, size)))
        put(&out, " '%s'", buf);
}

static void do_statfs(const struct op *op)
{
    struct statfs st;
    if (result(statfs(op->p1, &st)))
        put(&out, " names %ld", (long)st.f_namelen);
}

static void do_access(const struct op *op)
{
    result(syscall(SYS_faccessat2, at(op->at), op->p1, (int)op->mode, op->flags));
}

static void do_chdir(const struct op *op)
{
    result(op->how == 0 ? chdir(op->p1) : op->how == 1 ? fchdir(slots[op->fd]) : chdir("/"));
}

static void do_path(const struct op *op)
{
    struct timespec ts[2] = {{op->sec[0], op->nsec[0]}, {op->sec[1], op->nsec[1]}};
    dev_t dev = op->how ? makedev(1, 3) : makedev(250, 77);
    struct stat st;
    struct statx sx;
    int d = at(op->at), d2 = at(op->at2);
    long r = -1;
    if (S_ISBLK(op->mode))
        dev = makedev(250, 77);
    switch (op->kind) {
    case K_truncate:
        r = truncate(op->p1, op->off);
        break;
    case K_mkdir:
        r = mkdirat(d, op->p1, op->mode);
        break;
    case K_rmdir:
        r = unlinkat(d, op->p1, AT_REMOVEDIR);
        break;
    case K_unlink:
        r = unlinkat(d, op->p1, op->flags);
        break;
    case K_rename:
        r = syscall(SYS_renameat2, d, op->p1, d2, op->p2, op->flags);
        break;
    case K_link:
        r = linkat(d, op->p1, d2, op->p2, op->flags);
        break;
    case K_symlink:
        r = symlinkat(op->name, d, op->p1);
        break;
    case K_mknod:
        r = mknodat(d, op->p1, op->mode, dev);
        break;
    case K_chmod:
        r = syscall(SYS_fchmodat2, d, op->p1, op->mode, op->flags);
        break;
    case K_chown:
        r = fchownat(d, op->p1, op->uid, op->gid, op->flags);
        break;
    case K_utimens:
        r = syscall(SYS_utimensat, d, op->p1, op->how ? NULL : ts, op->flags);
        break;
    case K_stat:
        r = fstatat(d, op->p1, &st, op->flags);
        break;
    case K_statx:
        r = statx(d, op->p1, op->flags, STATX_ALL, &sx);
        break;
    default:
        abort();
    }
    if (result(r) && op->kind == K_statx)
        put(&out, " btime %d", !!(sx.stx_mask & STATX_BTIME));
}

/* ---- extended attributes --------------------------------------------------------------------- */

/* xattr calls take a path only: from the working directory. */
static ssize_t xattr(const struct op *op, void *buf, size_t size)
{
    const char *p = op->p1, *name = op->name;
    int fd = slots[op->fd], how = op->how, fl = op->flags;
    switch (op->kind) {
    case K_setxattr:
        return how == 0   ? setxattr(p, name, buf, size, fl)
               : how == 1 ? lsetxattr(p, name, buf, size, fl)
                          : fsetxattr(fd, name, buf, size, fl);
    case K_getxattr:
        return how == 0   ? getxattr(p, name, buf, size)
               : how == 1 ? lgetxattr(p, name, buf, size)
                          : fgetxattr(fd, name, buf, size);
    case K_listxattr:
        return how == 0   ? listxattr(p, buf, size)
               : how == 1 ? llistxattr(p, buf, size)
                          : flistxattr(fd, buf, size);
    default:
        return how == 0   ? removexattr(p, name)
               : how == 1 ? lremovexattr(p, name)
                          : fremovexattr(fd, name);
    }
}

static size_t xattr_value(const struct op *op, unsigned char *buf)
{
    size_t n = (size_t)op->len;
    if (strstr(op->name, "posix_acl"))
        return acl_value(op->mode, buf);
    if (!strcmp(op->name, "security.capability")) {
        static const uint32_t caps[] = {0x02000001, 0x400, 0, 0, 0};
        memcpy(buf, caps, sizeof(caps));
        return sizeof(caps);
    }
    fill(op, buf, n);
    return n;
}

static void do_xattr(const struct op *op)
{
    static const size_t sizes[] = {65536, 65536, 65536, 0, 1, 10};
    bool set = op->kind == K_setxattr;
    size_t size = set ? xattr_value(op, bytes) : sizes[op->seed % 6];
    ssize_t r = xattr(op, bytes, size);
    bool list = op->kind == K_listxattr;
    if (result(r) && r > 0 && size && !set) {
        if (list)
            put_sorted(&out, (char *)bytes, (size_t)r);
        else
            put_bytes(bytes, (size_t)r);
    }
}

/* ---- one operation --------------------------------------------------------------------------- */

static void do_walk(const struct op *op)
{
    /* In a process of its own: closing what it opened would drop the locks of this one. */
    uint32_t *length = &out.n;
    pid_t pid = fork();
    if (pid == 0) {
        if (chdir("/") == 0)
            put_tree(&out, ".", profile->dirs);
        memcpy(shared->text + TEXT_MAX - sizeof(uint32_t), length, sizeof(uint32_t));
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    memcpy(length, shared->text + TEXT_MAX - sizeof(uint32_t), sizeof(uint32_t));
}

enum { FD = 1, FD2 = 2, P1 = 4, P2 = 8 };

static const struct doer {
    void (*run)(const struct op *);
    int uses;
} doers[K_COUNT] = {
    [K_open] = {do_open, FD | P1},
    [K_close] = {do_close, FD},
    [K_dup] = {do_dup, FD | FD2},
    [K_setfl] = {do_setfl, FD},
    [K_read] = {do_read, FD},
    [K_pread] = {do_read, FD},
    [K_write] = {do_write, FD},
    [K_pwrite] = {do_write, FD},
    [K_lseek] = {do_lseek, FD},
    [K_ftruncate] = {do_fd, FD},
    [K_truncate] = {do_path, P1},
    [K_fallocate] = {do_fallocate, FD},
    [K_copy] = {do_copy, FD | FD2},
    [K_mkdir] = {do_path, P1},
    [K_rmdir] = {do_path, P1},
    [K_unlink] = {do_path, P1},
    [K_rename] = {do_path, P1 | P2},
    [K_link] = {do_path, P1 | P2},
    [K_linkfd] = {do_linkfd, FD | P2},
    [K_symlink] = {do_path, P1},
    [K_mknod] = {do_path, P1},
    [K_chmod] = {do_path, P1},
    [K_fchmod] = {do_fd, FD},
    [K_chown] = {do_path, P1},
    [K_fchown] = {do_fd, FD},
    [K_utimens] = {do_path, P1},
    [K_futimens] = {do_fd, FD},
    [K_access] = {do_access, P1},
    [K_setxattr] = {do_xattr, FD | P1},
    [K_getxattr] = {do_xattr, FD | P1},
    [K_listxattr] = {do_xattr, FD | P1},
    [K_removexattr] = {do_xattr, FD | P1},
    [K_lock] = {do_lock, FD},
    [K_getlock] = {do_getlock, FD},
    [K_flock] = {do_fd, FD},
    [K_mmap] = {do_mmap, FD},
    [K_fsync] = {do_fd, FD},
    [K_fstat] = {do_fd, FD},
    [K_stat] = {do_path, P1},
    [K_statx] = {do_path, P1},
    [K_readlink] = {do_readlink, P1},
    [K_getdents] = {do_getdents, FD},
    [K_chdir] = {do_chdir, P1},
    [K_statfs] = {do_statfs, P1},
    [K_walk] = {do_walk, 0},
};

/* What is looked at before and after. */
enum { S_FD, S_FD2, S_LINK1, S_AT1, S_DIR1, S_LINK2, S_DIR2, SEEN };
static const char *const seen_names[SEEN] = {"fd",   "fd2", "p1",  "p1 followed",
                                             "dir1", "p2",  "dir2"};

static void look(const struct op *op, int uses, struct state *s, bool now)
{
    char parent[PATHLEN];
    if (uses & FD)
        state_get(&s[S_FD], slots[op->fd], "", AT_EMPTY_PATH, now);
    if (uses & FD2)
        state_get(&s[S_FD2], slots[op->fd2], "", AT_EMPTY_PATH, now);
    if (uses & P1) {
        state_get(&s[S_LINK1], at(op->at), op->p1, AT_SYMLINK_NOFOLLOW, now);
        state_get(&s[S_AT1], at(op->at), op->p1, 0, now);
        parent_of(op->p1, parent);
        state_get(&s[S_DIR1], at(op->at), parent, 0, now);
    }
    if (uses & P2) {
        state_get(&s[S_LINK2], at(op->at2), op->p2, AT_SYMLINK_NOFOLLOW, now);
        parent_of(op->p2, parent);
        state_get(&s[S_DIR2], at(op->at2), parent, 0, now);
    }
}

/* The kernel gives a directory that loses or gets an entry the time of the entry, which is as
 * coarse as its tick. */
static void next_tick(void)
{
    struct timespec before, now;
    clock_gettime(CLOCK_REALTIME, &before); /* which no date is ahead of */
    do {
        usleep(200);
        clock_gettime(CLOCK_REALTIME_COARSE, &now);
    } while (now.tv_sec < before.tv_sec ||
             (now.tv_sec == before.tv_sec && now.tv_nsec <= before.tv_nsec));
}

static void one(const struct op *op)
{
    struct state before[SEEN] = {0}, after[SEEN] = {0};
    int uses = doers[op->kind].uses;
    bool compare = !op->quiet && op->kind != K_walk;
    if (compare)
        look(op, uses, before, true);
    if (compare && (uses & P2 || op->kind == K_unlink || op->kind == K_rmdir))
        next_tick();
    become(me->uid);
    errno = 0;
    bool utimens = op->kind == K_utimens || op->kind == K_futimens;
    doers[op->kind].run(op);
    become(0);
    bool atime = utimens && out.text[0] == 'r' && (op->how || op->nsec[0] != UTIME_OMIT);
    look(op, uses, after, false);
    for (int i = 0; i < SEEN; i++) {
        if (!after[i].asked)
            continue;
        put(&out, "\n    %s: ", seen_names[i]);
        bool this_atime = atime && (i == S_FD                         ? op->kind == K_futimens
                                    : op->flags & AT_SYMLINK_NOFOLLOW ? i == S_LINK1
                                                                      : i == S_AT1);
        put_state(&out, &after[i], compare ? &before[i] : NULL, this_atime, profile->dirs);
    }
}

static bool put_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return ok;
}

/* In a user namespace he may change his root, and then has no capability any more. */
static bool start_ordinary(const char *root)
{
    struct __user_cap_header_struct hdr = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0};
    char uid[64], gid[64];
    snprintf(uid, sizeof(uid), "%u %u 1", getuid(), getuid());
    snprintf(gid, sizeof(gid), "%u %u 1", getgid(), getgid());
    return unshare(CLONE_NEWUSER) == 0 && put_file("/proc/self/setgroups", "deny") &&
           put_file("/proc/self/uid_map", uid) && put_file("/proc/self/gid_map", gid) &&
           chroot(root) == 0 && chdir("/") == 0 && syscall(SYS_capset, &hdr, none) == 0;
}

static bool start_as(const char *root)
{
    return chroot(root) == 0 && chdir("/") == 0 &&
           setgroups((size_t)me->ngroups, me->groups) == 0 &&
           setresgid(me->gid, me->gid, me->gid) == 0 && setresuid(me->uid, me->uid, 0) == 0;
}

static void start(const char *root)
{
    struct rlimit no_core = {0, 0};
    struct sigaction bus = {.sa_handler = on_sigbus, .sa_flags = SA_NODEFER};
    setrlimit(RLIMIT_CORE, &no_core);
    sigaction(SIGBUS, &bus, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    for (int i = 0; i < SLOTS; i++)
        slots[i] = -1;
    proc_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    umask(me->umask);
    if (proc_fd < 0 || !(ordinary() ? start_ordinary(root) : start_as(root))) {
        perror(root);
        _exit(1);
    }
}

void work(const char *root, const struct identity *who, const struct profile *p, struct shared *sh,
          int in, int to)
{
    char go;
    me = who;
    profile = p;
    shared = sh;
    start(root);
    become(0);
    while (read(in, &go, 1) == 1) {
        out = (struct out){.text = sh->text, .size = TEXT_MAX - 8};
        one(&sh->op);
        out.text[out.n] = 0;
        if (write(to, &go, 1) != 1)
            break;
    }
    _exit(0);
}
