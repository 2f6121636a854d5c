/* SPDX-License-Identifier: MIT */
/*
 * setfsuid, setfsgid, setgroups and capset act on one thread when called raw; glibc's wrappers of
 * setgroups and the like would change all threads. `me` is what this thread is known to be; it is
 * per thread because the kernel's state is.
 *
 * setfsuid() away from 0 takes the file capabilities out of the effective set, but leaves others
 * that matter to files (CAP_SYS_ADMIN for trusted.*, CAP_SYS_RESOURCE for quotas, CAP_SETFCAP), so
 * the effective set is cut to what switching itself needs, and allocating locked memory.
 */
#include "base/cred.h"

#include <assert.h>
#include <errno.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ALL    UINT32_MAX
#define NEED   (1u << CAP_SETUID | 1u << CAP_SETGID)
#define SWITCH (NEED | 1u << CAP_IPC_LOCK) /* what a switched thread keeps */

#define KEPT 64 /* lists of more groups are set anew each time */

/* The process as it was at the first call, before any thread was switched. */
static struct {
    pthread_once_t once;
    bool able;
    gid_t gid;
    int ngroups;
    gid_t *groups;
    _Atomic uint64_t effective, permitted, inheritable;
} own = {.once = PTHREAD_ONCE_INIT};

static _Thread_local struct {
    bool known;  /* the fields to `groups` are the kernel's state */
    bool cut;    /* the effective capabilities are cut */
    bool main;   /* the main thread */
    uid_t uid;   /* fsuid */
    gid_t gid;   /* fsgid */
    int ngroups; /* -1: not known */
    gid_t groups[KEPT];
    bool fs_asked, fs_own; /* unshare(CLONE_FS) was tried; worked */
    bool masked;           /* `mask` is this thread's umask, by cred_umask */
    mode_t mask, old_mask;
} me;

/* Some thread was switched. Those that it starts then begin as what it was, and do not know it. */
static atomic_bool used;

/* Where unshare is forbidden, the umask is the process's, and one op at a time has it. */
static pthread_mutex_t shared_umask = PTHREAD_MUTEX_INITIALIZER;

/* Sets the effective capabilities: the process's own, of those only that are in `keep`. */
static int set_caps(uint32_t keep)
{
    struct __user_cap_header_struct hdr = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct cap[2], now[2];
    uint64_t effective = own.effective, permitted = own.permitted, inheritable = own.inheritable;
    for (int i = 0; i < 2; i++) {
        cap[i].effective = (uint32_t)(effective >> (32 * i));
        cap[i].permitted = (uint32_t)(permitted >> (32 * i));
        cap[i].inheritable = (uint32_t)(inheritable >> (32 * i));
    }
    cap[0].effective &= keep;
    if (keep != ALL)
        cap[1].effective = 0;
    if (syscall(SYS_capset, &hdr, cap) == 0)
        return 0;
    /* The process has given some up since, or is just about to: do without them. */
    if (errno != EPERM || syscall(SYS_capget, &hdr, now) < 0)
        return -errno;
    for (int i = 0; i < 2; i++) {
        cap[i].permitted = now[i].permitted;
        cap[i].effective &= now[i].permitted;
        cap[i].inheritable = now[i].inheritable;
    }
    return syscall(SYS_capset, &hdr, cap) < 0 ? -errno : 0;
}

bool cred_effective(int cap)
{
    struct __user_cap_header_struct hdr = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct now[2];
    return syscall(SYS_capget, &hdr, now) == 0 && now[cap / 32].effective >> (cap % 32) & 1;
}

static void load_own(void)
{
    struct __user_cap_header_struct hdr = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct cap[2];
    if (geteuid() != 0 || syscall(SYS_capget, &hdr, cap) < 0 || (cap[0].effective & NEED) != NEED)
        return;
    own.effective = cap[0].effective | (uint64_t)cap[1].effective << 32;
    own.permitted = cap[0].permitted | (uint64_t)cap[1].permitted << 32;
    own.inheritable = cap[0].inheritable | (uint64_t)cap[1].inheritable << 32;
    int n = getgroups(0, NULL);
    own.groups = n > 0 ? malloc((size_t)n * sizeof(*own.groups)) : NULL;
    own.ngroups = own.groups ? getgroups(n, own.groups) : 0;
    if (own.ngroups < 0)
        own.ngroups = 0;
    own.gid = getegid();
    own.able = true;
}

bool cred_able(void)
{
    pthread_once(&own.once, load_own);
    return own.able;
}

void cred_limit(uint64_t caps)
{
    if (!cred_able())
        return;
    own.effective &= caps;
    own.permitted &= caps;
    own.inheritable = 0;
}

static int set_groups(const gid_t *groups, size_t n)
{
    if (me.ngroups >= 0 && (size_t)me.ngroups == n &&
        (n == 0 || !memcmp(me.groups, groups, n * sizeof(*groups))))
        return 0;
    if (syscall(SYS_setgroups, n, groups) < 0)
        return -errno;
    me.ngroups = n <= KEPT ? (int)n : -1;
    if (n && n <= KEPT)
        memcpy(me.groups, groups, n * sizeof(*groups));
    return 0;
}

/* setfsuid and setfsgid do not report failure; asking for -1 tells what holds. */
static int set_ids(uid_t uid, gid_t gid)
{
    if (!me.known || me.gid != gid) {
        setfsgid(gid);
        if ((gid_t)setfsgid((gid_t)-1) != gid)
            return -EPERM;
        me.gid = gid;
    }
    if (!me.known || me.uid != uid) {
        setfsuid(uid);
        if ((uid_t)setfsuid((uid_t)-1) != uid)
            return -EPERM;
        me.uid = uid;
    }
    return 0;
}

/* All of it, from whatever state: a thread's first time, or after a failure. */
static void start(void)
{
    me.main = gettid() == getpid();
    set_caps(ALL);
    me.known = false;
    me.ngroups = -1;
    int r = set_ids(0, own.gid);
    assert(r == 0);
    (void)r;
    set_caps(ALL);
    me.cut = false;
    set_groups(own.groups, (size_t)own.ngroups);
    me.known = true;
}

int cred_set(uid_t uid, gid_t gid, const gid_t *groups, size_t n)
{
    if (!cred_able())
        return 0;
    if (!me.known)
        start();
    if (uid && !atomic_load_explicit(&used, memory_order_relaxed))
        atomic_store(&used, true);
    /* Root passes every check by its capabilities, whatever its groups. */
    int r = uid ? set_groups(groups, n) : 0;
    if (r == 0)
        r = set_ids(uid, gid);
    if (r == 0 && me.cut != (uid != 0)) {
        r = set_caps(uid ? SWITCH : ALL);
        me.cut = uid != 0;
    }
    if (r < 0)
        start();
    return r;
}

void cred_reset(void)
{
    if (me.known ? me.uid == 0 && me.gid == own.gid && !me.cut : !atomic_load(&used))
        return;
    if (!me.known || cred_set(0, own.gid, NULL, 0) < 0)
        start();
}

void cred_raise(void)
{
    if (me.known && me.cut)
        set_caps(SWITCH | 1u << CAP_SYS_ADMIN | 1u << CAP_FSETID);
}

void cred_lower(void)
{
    if (me.known && me.cut)
        set_caps(SWITCH);
}

void cred_umask(mode_t mask)
{
    if (!me.fs_asked) {
        me.main = gettid() == getpid();
        me.fs_asked = true;
        me.fs_own = unshare(CLONE_FS) == 0;
    }
    if (me.masked && me.mask == mask)
        return;
    if (!me.fs_own && !me.masked)
        pthread_mutex_lock(&shared_umask);
    mode_t old = umask(mask);
    if (!me.masked)
        me.old_mask = old;
    me.mask = mask;
    me.masked = true;
}

void cred_end(void)
{
    if (me.masked && (me.main || !me.fs_own)) {
        umask(me.old_mask);
        me.masked = false;
        if (!me.fs_own)
            pthread_mutex_unlock(&shared_umask);
    }
    if (me.main && me.known && cred_able()) {
        cred_reset();
        set_groups(own.groups, (size_t)own.ngroups);
    }
}
