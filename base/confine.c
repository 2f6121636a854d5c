/* SPDX-License-Identifier: MIT */
/*
 * Capabilities, the bounding set and the flusher's flag belong to threads, and no system call
 * changes them in another one. So each thread is sent a signal, whose handler does it; what /proc
 * says of a thread tells whether it has. One that was started meanwhile has the rights of the
 * thread that started it, which may have been the old ones: the walk is repeated until there is
 * nobody left who could start one.
 */
#include "base/confine.h"
#include "base/cred.h"
#include "base/filter.h"
#include "base/futex.h"
#include "base/memory.h"
#include "base/paths.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#define PATIENCE  500000000 /* ns that the threads get */
#define LOOK      2000000   /* ns from one walk to the next, unless all have answered before */
#define BIT(name) (UINT64_C(1) << (name))

static atomic_uint needs;
static _Atomic uint64_t keep; /* what the handler leaves */
static atomic_uint answers;   /* of handlers */
static atomic_bool flusher;   /* this process serves mounts */
static atomic_int paths = -1; /* the rules that threads keep to, or -1 */

void confine_need(unsigned what)
{
    atomic_fetch_or(&needs, what);
}

uint64_t confine_keep(unsigned what, uint64_t have)
{
    uint64_t may = 0;
    if (what & CONFINE_NOTHING)
        return have;
    if (what & CONFINE_FILES)
        may |= BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_DAC_READ_SEARCH) | BIT(CAP_FOWNER) |
               BIT(CAP_FSETID) | BIT(CAP_LINUX_IMMUTABLE) | BIT(CAP_MKNOD) | BIT(CAP_SETFCAP) |
               BIT(CAP_SETGID) | BIT(CAP_SETUID) | BIT(CAP_SYS_RESOURCE);
    if (what & CONFINE_READS)
        may |= BIT(CAP_DAC_OVERRIDE) | BIT(CAP_DAC_READ_SEARCH) | BIT(CAP_FOWNER) |
               BIT(CAP_SETGID) | BIT(CAP_SETUID);
    if (what & CONFINE_ADMIN)
        may |= BIT(CAP_SYS_ADMIN);
    return have & may;
}

/* ---- one thread; signal-safe ---- */

static int caps_get(struct __user_cap_data_struct cap[2])
{
    struct __user_cap_header_struct hdr = {.version = _LINUX_CAPABILITY_VERSION_3};
    return syscall(SYS_capget, &hdr, cap) < 0 ? -errno : 0;
}

static void caps_set(const struct __user_cap_data_struct cap[2])
{
    struct __user_cap_header_struct hdr = {.version = _LINUX_CAPABILITY_VERSION_3};
    syscall(SYS_capset, &hdr, cap);
}

/* The thread may be acting for a user, with few capabilities in effect: what is permitted is put in
 * effect for what needs it, and then what was, as far as it is kept. */
static void confine_thread(void)
{
    struct __user_cap_data_struct cap[2], all[2];
    uint64_t left = atomic_load(&keep);
    if (caps_get(cap) < 0)
        return;
    memcpy(all, cap, sizeof(all));
    all[0].effective = cap[0].permitted;
    all[1].effective = cap[1].permitted;
    caps_set(all);
    if (atomic_load(&flusher))
        memory_flusher();
    for (unsigned long c = 0; c < 64; c++)
        if (!(left >> c & 1) && prctl(PR_CAPBSET_DROP, c, 0, 0, 0) < 0 && errno != EPERM)
            break; /* EINVAL: the kernel knows no more */
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (int i = 0; i < 2; i++) {
        uint32_t word = (uint32_t)(left >> (32 * i));
        cap[i].permitted &= word;
        cap[i].effective &= word;
        cap[i].inheritable = 0;
    }
    caps_set(cap);
    int rules = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? atomic_load(&paths) : -1;
    if (rules >= 0)
        paths_keep(rules);
}

static void on_signal(int sig)
{
    int error = errno;
    confine_thread();
    atomic_fetch_add(&answers, 1);
    futex_wake(&answers);
    errno = error;
}

/* ---- all threads ---- */

/* Has the thread still what it ought not to have? Not when it is gone. */
static bool unconfined(int tasks, const char *tid)
{
    char path[64], text[4096];
    snprintf(path, sizeof(path), "%.20s/status", tid);
    int fd = openat(tasks, path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return false;
    text[n] = 0;
    const char *caps = strstr(text, "\nCapPrm:"), *privs = strstr(text, "\nNoNewPrivs:");
    return caps && privs &&
           ((strtoull(caps + 8, NULL, 16) & ~atomic_load(&keep)) || atoi(privs + 12) != 1);
}

/* The number of threads, as the links of their directory. */
static unsigned count(int tasks)
{
    struct stat st;
    return fstat(tasks, &st) < 0 || st.st_nlink < 2 ? 0 : (unsigned)st.st_nlink - 2;
}

/* Sends the signal to every thread that needs it; how many there are. *whole: the listing was not
 * cut short, as it may be when a thread ends. */
static unsigned ask_all(bool *whole)
{
    unsigned asked = 0, seen = 0;
    DIR *d = opendir("/proc/self/task");
    *whole = true;
    if (!d) /* no /proc: only this thread can be sure of itself */
        return 0;
    unsigned before = count(dirfd(d));
    for (struct dirent *de; (de = readdir(d));) {
        pid_t tid = atoi(de->d_name);
        if (tid <= 0)
            continue;
        seen++;
        if (!unconfined(dirfd(d), de->d_name))
            continue;
        asked++;
        syscall(SYS_tgkill, getpid(), tid, CONFINE_SIGNAL);
    }
    *whole = seen >= before;
    closedir(d);
    return asked;
}

static void wait_for_answers(unsigned since, unsigned asked)
{
    int64_t end = mono_now() + LOOK;
    unsigned now = since;
    while (now - since < asked && mono_now() < end) {
        futex_wait(&answers, now, end);
        now = atomic_load(&answers);
    }
}

static int confine_threads(void)
{
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    int64_t end = mono_now() + PATIENCE;
    sigfillset(&act.sa_mask);
    /* For good: a thread that was asked twice may take the second one at any time. */
    if (sigaction(CONFINE_SIGNAL, &act, NULL) < 0)
        return -errno;
    confine_thread();
    /* Walks in a row that found nothing to do. A thread that was asked in the walk before may have
     * started another before it heeded the first: so one more. */
    unsigned clean = 0;
    while (clean < 2 && mono_now() < end) {
        bool whole;
        unsigned since = atomic_load(&answers), asked = ask_all(&whole);
        clean = asked || !whole ? 0 : clean + 1;
        wait_for_answers(since, asked);
    }
    return clean < 2 ? -EBUSY : 0;
}

/* ---- the process ---- */

static bool first_line_has(const char *path, const char *text)
{
    char line[128] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, line, sizeof(line) - 1);
    close(fd);
    return n > 0 && strstr(line, text);
}

/* Not in a user namespace: all numbers are mapped to themselves. */
static bool initial_namespace(void)
{
    return first_line_has("/proc/self/uid_map", "0          0 4294967295");
}

/* Does /proc show only one's own processes? Then it takes a capability to see the supplementary
 * groups of a caller. */
static bool processes_hidden(void)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t room = 0;
    bool hidden = false;
    while (f && getline(&line, &room, f) > 0) {
        char point[16];
        if (sscanf(line, "%*s %*s %*s %*s %15s", point) == 1 && !strcmp(point, "/proc"))
            hidden = strstr(line, "hidepid=") && !strstr(line, "hidepid=off");
    }
    free(line);
    if (f)
        fclose(f);
    return hidden;
}

/* Which paths an exporter is held to. */
static enum confine_paths hold(unsigned what, uint64_t left)
{
    bool handles = what & (CONFINE_FILES | CONFINE_READS) && left & BIT(CAP_DAC_READ_SEARCH);
    if (what & CONFINE_COMMANDS || (handles && what & CONFINE_FILES))
        return CONFINED_NOT;
    atomic_store(&paths, paths_rules(handles));
    if (atomic_load(&paths) < 0)
        return CONFINED_NOT;
    return handles ? CONFINED_CHANGES : CONFINED_ALL;
}

static int confine(bool by_cap, enum confine_paths *ret_paths)
{
    struct __user_cap_data_struct cap[2];
    unsigned what = atomic_load(&needs);
    if (caps_get(cap) < 0)
        return 0;
    uint64_t have = cap[0].permitted | (uint64_t)cap[1].permitted << 32;
    if (what & CONFINE_ADMIN && !initial_namespace())
        what &= ~(unsigned)CONFINE_ADMIN;
    uint64_t left = confine_keep(what, have);
    if (what & (CONFINE_FILES | CONFINE_READS) && processes_hidden())
        left |= have & BIT(CAP_SYS_PTRACE);
    if (by_cap)
        left |= BIT(CAP_IPC_LOCK);
    if (what & CONFINE_NOTHING) {
        if (atomic_load(&flusher))
            memory_flusher();
        return 0;
    }
    if (ret_paths)
        *ret_paths = hold(what, left);
    atomic_store(&keep, left);
    int r = confine_threads();
    cred_limit(left); /* not before: each thread needs SETPCAP once more */
    /* The kernel may have no filters. */
    filter_load(what & CONFINE_READS && !(what & (CONFINE_FILES | CONFINE_COMMANDS)));
    return r;
}

int confine_server(void)
{
    atomic_store(&flusher, true);
    return confine(memory_lock() == MEMORY_BY_CAP, NULL);
}

int confine_exporter(enum confine_paths *ret)
{
    *ret = CONFINED_NOT;
    return confine(false, ret);
}
