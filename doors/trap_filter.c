/* SPDX-License-Identifier: MIT */
/*
 * The filter: which calls come to the supervisor, and what keeps the state's descriptor where it
 * is.
 *
 * libseccomp makes the program for it; it is installed by hand, because this libseccomp does not
 * know of SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, and because what the preload does itself is let
 * through by the address of the calling instruction, which libseccomp cannot express.
 */
#include "doors/trap_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define FD(i)   SCMP_CMP32(i, SCMP_CMP_EQ, (uint32_t)fd)
#define EBADF_A SCMP_ACT_ERRNO(EBADF)

/* What could close, replace, copy or read the state, by the argument that is a descriptor. */
static const struct guarded {
    const char *name;
    unsigned arg;
} guarded[] = {
    {"close", 0},
    {"dup", 0},
    {"dup2", 0},
    {"dup2", 1},
    {"dup3", 0},
    {"dup3", 1},
    {"fcntl", 0},
    {"ioctl", 0},
    {"read", 0},
    {"pread64", 0},
    {"readv", 0},
    {"preadv", 0},
    {"preadv2", 0},
    {"write", 0},
    {"pwrite64", 0},
    {"writev", 0},
    {"pwritev", 0},
    {"pwritev2", 0},
    {"lseek", 0},
    {"ftruncate", 0},
    {"fallocate", 0},
    {"flock", 0},
    {"fsync", 0},
    {"fdatasync", 0},
    {"pidfd_getfd", 1},
    {"sendfile", 0},
    {"sendfile", 1},
    {"splice", 0},
    {"splice", 2},
    {"tee", 0},
    {"tee", 1},
    {"vmsplice", 0},
    {"copy_file_range", 0},
    {"copy_file_range", 2},
    {"fstatfs", 0},
};

static int guard(scmp_filter_ctx f, int fd)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof(guarded) / sizeof(*guarded); i++) {
        int nr = seccomp_syscall_resolve_name(guarded[i].name);
        bool trapped = false;
        for (const int *p = trap_numbers(); *p >= 0; p++)
            trapped |= *p == nr;
        struct scmp_arg_cmp is = FD(guarded[i].arg);
        if (nr >= 0 && !trapped)
            r = seccomp_rule_add_array(f, EBADF_A, nr, 1, &is);
    }
    if (r == 0) /* mmap of it; nothing else has a descriptor in that place */
        r = seccomp_rule_add(f, EBADF_A, SCMP_SYS(mmap), 1, FD(4));
#ifdef __NR_close_range
    if (r == 0) /* callers fall back to what closes one by one */
        r = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(close_range), 2,
                             SCMP_CMP32(0, SCMP_CMP_LE, (uint32_t)fd),
                             SCMP_CMP32(1, SCMP_CMP_GE, (uint32_t)fd));
#endif
    return r;
}

/* Other ways to files: refused, so that programs use those that are seen. */
static int refuse(scmp_filter_ctx f)
{
    /* io_uring's three; getdents of old; the calls by descriptor and path that are newer than this
     * door: setxattrat ... removexattrat, file_getattr, file_setattr */
    static const int numbers[] = {425, 426, 427, 463, 464, 465, 466, 468, 469};
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof(numbers) / sizeof(*numbers); i++)
        r = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), numbers[i], 0);
    static const char *const names[] = {"getdents", "uselib"};
    for (size_t i = 0; r == 0 && i < sizeof(names) / sizeof(*names); i++) {
        int nr = seccomp_syscall_resolve_name(names[i]);
        if (nr >= 0)
            r = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), nr, 0);
    }
    /* A process that may not be looked into cannot be served: it is told that it has hidden. */
    if (r == 0)
        r = seccomp_rule_add(f, SCMP_ACT_ERRNO(0), SCMP_SYS(prctl), 2,
                             SCMP_A0(SCMP_CMP_EQ, PR_SET_DUMPABLE), SCMP_A1(SCMP_CMP_EQ, 0));
    return r;
}

static int trap(scmp_filter_ctx f)
{
    int r = 0;
    for (const int *nr = trap_numbers(); r == 0 && *nr >= 0; nr++) {
        if (*nr == SCMP_SYS(sendto)) /* without an address it is a plain write */
            r = seccomp_rule_add(f, SCMP_ACT_NOTIFY, *nr, 1, SCMP_A4(SCMP_CMP_NE, 0));
        else if (*nr == SCMP_SYS(setrlimit))
            r = seccomp_rule_add(f, SCMP_ACT_NOTIFY, *nr, 1, SCMP_A0(SCMP_CMP_EQ, RLIMIT_NOFILE));
        else if (*nr == SCMP_SYS(prlimit64))
            r = seccomp_rule_add(f, SCMP_ACT_NOTIFY, *nr, 2, SCMP_A1(SCMP_CMP_EQ, RLIMIT_NOFILE),
                                 SCMP_A2(SCMP_CMP_NE, 0));
        else
            r = seccomp_rule_add(f, SCMP_ACT_NOTIFY, *nr, 0);
    }
    return r;
}

/* The program as the kernel takes it; `*ret` is to be freed. The number of instructions. */
static int compile(scmp_filter_ctx f, uintptr_t from, uintptr_t to, struct sock_filter **ret)
{
    int fd = memfd_create("filter", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = seccomp_export_bpf(f, fd);
    off_t size = lseek(fd, 0, SEEK_END);
    struct sock_filter *p = NULL;
    /* If the upper half of the address and the lower half in [from, to) are the preload's, and the
     * call is one of these: allow. */
    const struct sock_filter let[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)((uint64_t)from >> 32), 0, 15),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)from, 0, 13),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)to, 12, 0),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, seccomp_arch_native(), 0, 10),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_newfstatat, 7, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fstat, 6, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 5, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_statx, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_readlinkat, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_faccessat2, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getdents64, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getcwd, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    size_t extra = from < to ? sizeof(let) : 0;
    if (r == 0)
        r = (p = malloc(extra + (size_t)size)) ? 0 : -ENOMEM;
    if (r == 0) {
        memcpy(p, let, extra);
        ssize_t n = pread(fd, (char *)p + extra, (size_t)size, 0);
        r = n == size ? (int)((extra + (size_t)n) / sizeof(*p)) : -EIO;
    }
    close(fd);
    *ret = p;
    if (r < 0)
        free(p);
    return r;
}

int trap_filter_install(struct sock_filter *p, int n)
{
    struct sock_fprog prog = {.len = (unsigned short)n, .filter = p};
    unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    long fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                      flags | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &prog);
    if (fd < 0 && errno == EINVAL) /* older than 5.19: a signal may make a call happen twice */
        fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
    return fd < 0 ? -errno : (int)fd;
}

int trap_filter_new(int state_fd, uintptr_t pass_from, uintptr_t pass_to, struct sock_filter **ret)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
    if (!f)
        return -ENOMEM;
    /* Calls by another architecture's numbers: of 32-bit programs, and x32. */
    int r = seccomp_attr_set(f, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS));
    seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree of numbers, not a list */
    if (r == 0)
        r = guard(f, state_fd);
    if (r == 0)
        r = refuse(f);
    if (r == 0)
        r = trap(f);
    r = r < 0 ? r : compile(f, pass_from, pass_to, ret);
    seccomp_release(f);
    return r;
}
