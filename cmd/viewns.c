/* SPDX-License-Identifier: MIT */
#include "cmd/viewns.h"
#include "cmd/viewlink.h"
#include "view/call.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define ARCH AUDIT_ARCH_RISCV64
#elif defined(__i386__)
#define ARCH AUDIT_ARCH_I386
#elif defined(__arm__)
#define ARCH AUDIT_ARCH_ARM
#elif defined(__powerpc64__)
#define ARCH AUDIT_ARCH_PPC64LE
#elif defined(__s390x__)
#define ARCH AUDIT_ARCH_S390X
#else
#error "which machine is this for seccomp?"
#endif

/* ---- entering ---- */

static int put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = write(fd, text, strlen(text)) < 0 ? -errno : 0;
    close(fd);
    return r;
}

/* Everybody is who he was; who has other ids than the own is nobody in there. */
static int map_self(uid_t uid, gid_t gid)
{
    char text[64];
    int r = put("/proc/self/setgroups", "deny");
    if (r < 0 && r != -ENOENT)
        return r;
    snprintf(text, sizeof(text), "%u %u 1", uid, uid);
    r = put("/proc/self/uid_map", text);
    snprintf(text, sizeof(text), "%u %u 1", gid, gid);
    return r < 0 ? r : put("/proc/self/gid_map", text);
}

int viewns_enter(bool *ret_user, struct pl_err *err)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();
    *ret_user = false;
    if (unshare(CLONE_NEWNS) < 0) {
        *ret_user = true;
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
            return pl_fail(err, -errno, "namespaces: cannot be made: %s%s", strerror(errno),
                           errno == EPERM ? " (not permitted on this machine)" : "");
        int r = map_self(uid, gid);
        if (r < 0)
            return pl_fail(err, r, "namespaces: ids cannot be mapped: %s", strerror(-r));
    }
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return pl_fail(err, -errno, "namespaces: mounts cannot be made private: %s",
                       strerror(errno));
    return 0;
}

int viewns_possible(struct pl_err *err)
{
    int out[2], status;
    bool user;
    if (pipe2(out, O_CLOEXEC) < 0)
        return pl_fail(err, -errno, "no pipe: %s", strerror(errno));
    pid_t pid = fork();
    if (pid == 0) {
        struct pl_err why = {0};
        int r = viewns_enter(&user, &why), fd;
        if (r == 0 && (fd = open("/dev/fuse", O_RDWR | O_CLOEXEC)) < 0)
            r = pl_fail(&why, -errno, "/dev/fuse: %s%s", strerror(errno),
                        errno == EACCES ? " (root may open it to all: chmod 666 /dev/fuse)" : "");
        if (write(out[1], why.text, strlen(why.text)) < 0)
            r = -EIO;
        _exit(-r);
    }
    close(out[1]);
    char text[sizeof(err->text)];
    ssize_t n = pid < 0 ? -1 : read(out[0], text, sizeof(text) - 1);
    close(out[0]);
    text[n < 0 ? 0 : n] = 0;
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFEXITED(status))
        return pl_fail(err, -EAGAIN, "a child could not try");
    return WEXITSTATUS(status) ? pl_fail(err, -WEXITSTATUS(status), "%s", text) : 0;
}

/* ---- the filter ---- */

int viewns_filter(void)
{
    const uint32_t low = (uint32_t)VIEW_CALL_FLAGS, high = VIEW_CALL_FLAGS >> 32;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    const unsigned at = offsetof(struct seccomp_data, args[3]), at_high = at + 4;
#else
    const unsigned at_high = offsetof(struct seccomp_data, args[3]), at = at_high + 4;
#endif
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 0, 7),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mount, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, low, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at_high),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, high, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {.len = sizeof(code) / sizeof(*code), .filter = code};
    long fd =
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog);
    return fd < 0 ? -errno : (int)fd;
}

/* ---- mounts ---- */

int viewns_mount(const char *place, const struct viewns_mount *m, size_t n, struct pl_err *err)
{
    /* A top may cover the place itself. */
    int dir = open(place, O_PATH | O_DIRECTORY | O_CLOEXEC), r = 0;
    if (dir < 0)
        return pl_fail(err, -errno, "%s: %s", place, strerror(errno));
    for (size_t i = 0; r == 0 && i < n; i++) {
        char from[64];
        snprintf(from, sizeof(from), "/proc/self/fd/%d/%d", dir, m[i].slot);
        if (mount(from, m[i].top, NULL, MS_BIND, NULL) < 0)
            r = pl_fail(err, -errno, "%s: cannot be mounted on: %s", m[i].top, strerror(errno));
    }
    close(dir);
    return r;
}

static int unmount(dev_t dev, const struct viewns_mount *m, size_t n, struct pl_err *err)
{
    for (size_t i = 0; i < n; i++) {
        struct stat st;
        if (stat(m[i].top, &st) < 0 || st.st_dev != dev)
            continue;
        if (umount2(m[i].top, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
            return pl_fail(err, -errno, "%s: cannot be unmounted: %s", m[i].top, strerror(errno));
    }
    return 0;
}

/* All processes for which `is` is true. */
static int each_process(bool (*is)(const void *what, pid_t pid), const void *what,
                        int (*each)(void *arg, pid_t pid), void *arg)
{
    DIR *d = opendir("/proc");
    int r = 0;
    for (struct dirent *de; d && r == 0 && (de = readdir(d));) {
        pid_t pid = isdigit((unsigned char)*de->d_name) ? atoi(de->d_name) : 0;
        if (pid > 0 && is(what, pid))
            r = each(arg, pid);
    }
    if (d)
        closedir(d);
    return r;
}

static bool is_in(const void *what, pid_t pid)
{
    uint64_t its;
    return viewlink_namespace(pid, &its) == 0 && its == *(const uint64_t *)what;
}

int viewns_each(uint64_t ns, int (*each)(void *arg, pid_t pid), void *arg)
{
    return each_process(is_in, &ns, each, arg);
}

static bool is_below(const void *what, pid_t pid)
{
    pid_t top = *(const pid_t *)what;
    while (pid > 1 && (pid = viewlink_parent(pid)) != top)
        ;
    return pid > 1;
}

int viewns_below(pid_t pid, int (*each)(void *arg, pid_t pid), void *arg)
{
    return each_process(is_below, &pid, each, arg);
}

/* Descriptors of a process's namespaces. */
struct spaces {
    uint64_t ns;
    int user, mnt; /* user -1: it is ours too */
};

static int open_ns(pid_t pid, const char *name)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
    return open(path, O_RDONLY | O_CLOEXEC);
}

static int take_spaces(void *arg, pid_t pid)
{
    struct spaces *s = arg;
    struct stat own, its;
    int mnt = open_ns(pid, "mnt"), user = open_ns(pid, "user");
    uint64_t ns;
    bool ok = mnt >= 0 && user >= 0 && viewlink_namespace_fd(mnt, &ns) == 0 && ns == s->ns &&
              fstat(user, &its) == 0 && stat("/proc/self/ns/user", &own) == 0;
    if (!ok || own.st_ino == its.st_ino) {
        if (user >= 0)
            close(user);
        user = -1;
    }
    if (!ok) {
        if (mnt >= 0)
            close(mnt);
        return 0;
    }
    s->mnt = mnt;
    s->user = user;
    return 1;
}

int viewns_change(uint64_t ns, const char *place, dev_t dev, const struct viewns_mount *m, size_t n,
                  bool make, struct pl_err *err)
{
    struct spaces s = {ns, -1, -1};
    int out[2], status;
    if (viewns_each(ns, take_spaces, &s) <= 0)
        return pl_fail(err, -ESRCH, "there is no process in the view that could be entered");
    int r = pipe2(out, O_CLOEXEC) < 0 ? -errno : 0;
    pid_t pid = r < 0 ? -1 : fork();
    if (pid == 0) {
        struct pl_err why = {0};
        if ((s.user >= 0 && setns(s.user, CLONE_NEWUSER) < 0) || setns(s.mnt, CLONE_NEWNS) < 0)
            r = pl_fail(&why, -errno, "the view's namespace cannot be entered: %s",
                        strerror(errno));
        else
            r = make ? viewns_mount(place, m, n, &why) : unmount(dev, m, n, &why);
        if (write(out[1], why.text, strlen(why.text)) < 0)
            r = -EIO;
        _exit(-r);
    }
    close(s.mnt);
    if (s.user >= 0)
        close(s.user);
    if (r < 0)
        return pl_fail(err, r, "no pipe: %s", strerror(-r));
    close(out[1]);
    char text[sizeof(err->text)];
    ssize_t got = pid < 0 ? -1 : read(out[0], text, sizeof(text) - 1);
    close(out[0]);
    text[got < 0 ? 0 : got] = 0;
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFEXITED(status))
        return pl_fail(err, -EAGAIN, "no process to mount with");
    return WEXITSTATUS(status) ? pl_fail(err, -WEXITSTATUS(status), "%s", text) : 0;
}
