/* SPDX-License-Identifier: MIT */
/*
 * A list of what is denied, not of what is allowed: programs of their own bring any code, and what
 * a tree starts later (ssh, a command) lives under the filter too. What the list is for: a server
 * that was taken over is to find no way from the files it serves to the rest of the machine.
 *
 * Calls are named by text, so that one that this machine or this libseccomp does not know is just
 * not in the filter.
 */
#include "base/filter.h"
#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__SANITIZE_ADDRESS__)
#define LEAKS_ARE_LOOKED_FOR 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LEAKS_ARE_LOOKED_FOR 1
#endif
#endif

static const char *const denied[] = {
    /* mounts and roots: the keeper makes and ends the mounts */
    "mount", "umount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount", "fspick",
    "move_mount", "open_tree", "open_tree_attr", "mount_setattr",
    /* other namespaces; making one is denied below */
    "setns",
/* other processes' memory and descriptors */
#ifndef LEAKS_ARE_LOOKED_FOR /* the sanitizer's own way to do that */
    "ptrace",
#endif
    "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
    /* code in the kernel, or another kernel */
    "init_module", "finit_module", "delete_module", "create_module", "kexec_load",
    "kexec_file_load", "bpf", "perf_event_open", "userfaultfd",
    /* the machine */
    "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "syslog", "iopl", "ioperm",
    "vhangup", "nfsservctl", "lookup_dcookie", "uselib", "modify_ldt", "vm86", "vm86old",
    "sethostname", "setdomainname",
    /* its clock */
    "settimeofday", "clock_settime", "clock_settime64", "clock_adjtime", "clock_adjtime64",
    "adjtimex", "stime",
    /* keys that the kernel holds for users */
    "add_key", "request_key", "keyctl"};

/* What landlock does not see (base/paths.c), for who only reads. */
static const char *const attributes[] = {
    "chmod",       "fchmod",       "fchmodat",     "fchmodat2",     "chown",       "chown32",
    "fchown",      "fchown32",     "lchown",       "lchown32",      "fchownat",    "utime",
    "utimes",      "futimesat",    "setxattr",     "lsetxattr",     "fsetxattr",   "setxattrat",
    "removexattr", "lremovexattr", "fremovexattr", "removexattrat", "file_setattr"};

static int deny(scmp_filter_ctx f, const char *const names[], size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int nr = seccomp_syscall_resolve_name(names[i]);
        int r = nr == __NR_SCMP_ERROR ? 0 : seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), nr, 0);
        if (r < 0 && r != -EDOM) /* not a call of one of the architectures */
            return r;
    }
    return 0;
}

/* Times may be set to now (the files of --state are), flags of files (FS_IOC_SETFLAGS, with any
 * size, and FS_IOC_FSSETXATTR) may not. */
static int deny_attributes(scmp_filter_ctx f)
{
    static const char *const times[] = {"utimensat", "utimensat_time64"};
    static const struct {
        uint32_t mask, value;
    } ioctls[] = {{0xc000ffff, 0x40006602}, {0xc000ffff, 0x40005820}};
    int r = deny(f, attributes, sizeof(attributes) / sizeof(*attributes));
    for (size_t i = 0; r == 0 && i < 2; i++) {
        int nr = seccomp_syscall_resolve_name(times[i]);
        if (nr != __NR_SCMP_ERROR)
            r = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), nr, 1, SCMP_A2(SCMP_CMP_NE, 0));
        r = r == -EDOM ? 0 : r;
    }
    for (size_t i = 0; r == 0 && i < sizeof(ioctls) / sizeof(*ioctls); i++)
        r = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
                             SCMP_A1(SCMP_CMP_MASKED_EQ, ioctls[i].mask, ioctls[i].value));
    return r;
}

/* A namespace of one's own is full of rights. unshare(CLONE_FS) gives a thread its own umask
 * (base/cred.c). The flags of clone3 lie in memory, where a filter cannot look; without it the C
 * library uses clone. */
static int deny_namespaces(scmp_filter_ctx f)
{
    static const uint64_t flags[] = {CLONE_NEWNS,  CLONE_NEWUTS, CLONE_NEWIPC,   CLONE_NEWUSER,
                                     CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP};
    int r = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(unshare), 1,
                             SCMP_A0(SCMP_CMP_NE, CLONE_FS));
    for (size_t i = 0; r == 0 && i < sizeof(flags) / sizeof(*flags); i++)
        r = seccomp_rule_add(f, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, flags[i], flags[i]));
    if (r == 0)
        r = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    return r;
}

/* The other ways into the same kernel, with numbers of their own. */
static int add_architectures(scmp_filter_ctx f)
{
    static const struct {
        uint32_t native, other[2];
    } table[] = {{SCMP_ARCH_X86_64, {SCMP_ARCH_X86, SCMP_ARCH_X32}},
                 {SCMP_ARCH_AARCH64, {SCMP_ARCH_ARM, 0}}};
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
        if (table[i].native != seccomp_arch_native())
            continue;
        for (size_t j = 0; j < 2 && table[i].other[j]; j++) {
            int r = seccomp_arch_add(f, table[i].other[j]);
            if (r < 0)
                return r;
        }
    }
    return seccomp_attr_set(f, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(EPERM));
}

int filter_load(bool no_attributes)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
    if (!f)
        return -ENOMEM;
    int r = add_architectures(f);
    if (r == 0)
        r = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
    /* Older kernels slow a filtered process down against what untrusted code in it could do. */
    if (r == 0 && seccomp_api_get() >= 4)
        r = seccomp_attr_set(f, SCMP_FLTATR_CTL_SSB, 1);
    if (r == 0)
        r = deny(f, denied, sizeof(denied) / sizeof(*denied));
    if (r == 0 && no_attributes)
        r = deny_attributes(f);
    if (r == 0)
        r = deny_namespaces(f);
    if (r == 0)
        r = seccomp_load(f);
    seccomp_release(f);
    return r < 0 ? r : 0;
}
