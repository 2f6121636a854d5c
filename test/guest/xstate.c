/* SPDX-License-Identifier: MIT */
/*
 * Preloaded into linux.uml by test/guest/run. User-mode Linux 6.1 sets the floating point registers
 * of its processes from a buffer that ends with AVX-512; a host whose processor has more (AMX)
 * refuses what is not the whole state (EFAULT). This makes it whole: what the guest does not know
 * of stays in its initial state.
 */
#include <cpuid.h>
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

enum { XSTATE_BV = 512, XSTATE_MAX = 65536, FIRST = 2, LAST = 62 };

static long (*next)(int, ...);

/* The components that lie within the first `len` bytes. */
static uint64_t known(size_t len)
{
    uint64_t mask = 3;
    for (int i = FIRST; i <= LAST; i++) {
        unsigned size, offset, c, d;
        if (__get_cpuid_count(0xd, i, &size, &offset, &c, &d) && size && !(c & 1) &&
            (size_t)offset + size <= len)
            mask |= UINT64_C(1) << i;
    }
    return mask;
}

static long set_xstate(long pid, const struct iovec *given)
{
    static _Alignas(64) uint8_t buf[XSTATE_MAX];
    static size_t whole;
    static uint64_t mask;
    struct iovec all = {buf, sizeof(buf)};
    uint64_t bv;
    if (!whole) {
        if (next(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &all) < 0)
            return -1;
        whole = all.iov_len;
        mask = known(given->iov_len);
        memset(buf, 0, sizeof(buf));
    }
    if (given->iov_len >= whole || given->iov_len < XSTATE_BV + sizeof(bv))
        return next(PTRACE_SETREGSET, pid, NT_X86_XSTATE, given);
    memcpy(buf, given->iov_base, given->iov_len);
    memcpy(&bv, buf + XSTATE_BV, sizeof(bv));
    bv &= mask;
    memcpy(buf + XSTATE_BV, &bv, sizeof(bv));
    all.iov_len = whole;
    return next(PTRACE_SETREGSET, pid, NT_X86_XSTATE, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list ap;
    va_start(ap, request);
    long pid = va_arg(ap, int);
    void *addr = va_arg(ap, void *), *data = va_arg(ap, void *);
    va_end(ap);
    if (!next)
        next = (long (*)(int, ...))dlsym(RTLD_NEXT, "ptrace");
    if (request == PTRACE_SETREGSET && (uintptr_t)addr == NT_X86_XSTATE)
        return set_xstate(pid, data);
    return next(request, pid, addr, data);
}
