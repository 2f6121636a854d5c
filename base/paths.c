/* SPDX-License-Identifier: MIT */
/*
 * Landlock by its system calls: the constants are those of the kernel's ABI, which grew; what this
 * kernel does not know is left out.
 */
#include "base/paths.h"
#include "base/confine.h"
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    EXECUTE = 1 << 0,
    WRITE_FILE = 1 << 1,
    READ_FILE = 1 << 2,
    READ_DIR = 1 << 3,
    REMOVE_FILE = 1 << 5,
    DIRECTORIES = 0x1ff0, /* what removes and makes in them */
    REFER = 1 << 13,      /* from the second version on; the third, the fifth */
    TRUNCATE = 1 << 14,
    IOCTL_DEV = 1 << 15,
    FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV,
    READS = EXECUTE | READ_FILE | READ_DIR,
    RULE_PATH_BENEATH = 1,
    CREATE_VERSION = 1,
};

struct rule {
    struct rule *next;
    unsigned what;
    char path[];
};
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct rule *rules; /* guarded by mutex */

int confine_path(const char *path, unsigned what)
{
    size_t n = strlen(path) + 1;
    pthread_mutex_lock(&mutex);
    struct rule *r = rules;
    while (r && (r->what != what || strcmp(r->path, path) != 0))
        r = r->next;
    bool known = r;
    if (!known && (r = malloc(sizeof(*r) + n))) {
        r->what = what;
        memcpy(r->path, path, n);
        r->next = rules;
        rules = r;
    }
    pthread_mutex_unlock(&mutex);
    return r ? 0 : -ENOMEM;
}

int confine_path_of(int fd, unsigned what)
{
    char link[32], path[PATH_MAX];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    if (n < 0)
        return -errno;
    path[n] = 0;
    return confine_path(path, what);
}

int confine_parent(const char *path, unsigned what)
{
    char *copy = strdup(path);
    int r = copy ? confine_path(dirname(copy), what) : -ENOMEM;
    free(copy);
    return r;
}

static uint64_t handled(long version)
{
    uint64_t all = 0x1fff;
    if (version >= 2)
        all |= REFER;
    if (version >= 3)
        all |= TRUNCATE;
    if (version >= 5)
        all |= IOCTL_DEV;
    return all;
}

static void add(int fd, const char *path, unsigned what, uint64_t all)
{
    struct {
        uint64_t access;
        int32_t parent;
    } __attribute__((packed)) attr = {0};
    struct stat st;
    if (what & CONFINE_READ)
        attr.access |= READ_FILE | READ_DIR;
    if (what & CONFINE_CHANGE)
        attr.access |= WRITE_FILE | TRUNCATE | REFER | DIRECTORIES;
    if (what & CONFINE_REMOVE)
        attr.access |= REMOVE_FILE;
    if (what & CONFINE_LOAD)
        attr.access |= READ_FILE | READ_DIR | EXECUTE;
    attr.parent = open(path, O_PATH | O_CLOEXEC);
    if (attr.parent < 0)
        return; /* what is not there cannot be opened */
    attr.access &= all;
    if (fstat(attr.parent, &st) == 0 && !S_ISDIR(st.st_mode))
        attr.access &= FILES;
    if (attr.access)
        syscall(SYS_landlock_add_rule, fd, RULE_PATH_BENEATH, &attr, 0);
    close(attr.parent);
}

/* What the C library needs to tell users and hosts, and a process to look at itself. */
static const struct {
    const char *path;
    unsigned what;
} always[] = {{"/etc/passwd", CONFINE_READ},
              {"/etc/group", CONFINE_READ},
              {"/etc/nsswitch.conf", CONFINE_READ},
              {"/etc/hosts", CONFINE_READ},
              {"/etc/host.conf", CONFINE_READ},
              {"/etc/resolv.conf", CONFINE_READ},
              {"/etc/services", CONFINE_READ},
              {"/etc/gai.conf", CONFINE_READ},
              {"/etc/ld.so.cache", CONFINE_READ},
              {"/etc/localtime", CONFINE_READ},
              {"/usr/share/zoneinfo", CONFINE_READ},
              {"/var/lib/sss", CONFINE_READ},
              {"/lib", CONFINE_LOAD},
              {"/lib64", CONFINE_LOAD},
              {"/usr/lib", CONFINE_LOAD},
              {"/proc", CONFINE_READ},
              {"/dev/urandom", CONFINE_READ},
              {"/dev/null", CONFINE_READ | CONFINE_CHANGE}};

int paths_rules(bool changes)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, CREATE_VERSION);
    if (version < 0)
        return -errno;
    uint64_t all = handled(version) & ~(uint64_t)(changes ? READS : 0);
    int fd = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof(all), 0);
    if (fd < 0)
        return -errno;
    for (size_t i = 0; i < sizeof(always) / sizeof(*always); i++)
        add(fd, always[i].path, always[i].what, all);
    pthread_mutex_lock(&mutex);
    for (struct rule *r = rules; r; r = r->next)
        add(fd, r->path, r->what, all);
    pthread_mutex_unlock(&mutex);
    return fd;
}

void paths_keep(int fd)
{
    syscall(SYS_landlock_restrict_self, fd, 0);
}
