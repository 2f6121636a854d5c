/* SPDX-License-Identifier: MIT */
#include "base/memory.h"
#include "base/cred.h"
#include <linux/capability.h>
#include <malloc.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

/* Of what is locked malloc cannot give anything back: each arena stays as large as it ever was. So
 * there are few; by default there would be one for each thread. */
static void few_arenas(void)
{
#ifdef M_ARENA_MAX
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    mallopt(M_ARENA_MAX, n > 1 ? 2 * (int)n : 2);
#endif
}

enum memory_lock memory_lock(void)
{
    struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
    bool lifted = setrlimit(RLIMIT_MEMLOCK, &all) == 0;
    if (!lifted && !cred_effective(CAP_IPC_LOCK) /* the limit does not hold then */)
        return MEMORY_FREE;
    if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
        return MEMORY_FREE;
    few_arenas();
    return lifted ? MEMORY_LOCKED : MEMORY_BY_CAP;
}

void memory_flusher(void)
{
    prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}
