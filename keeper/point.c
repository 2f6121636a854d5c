/* SPDX-License-Identifier: MIT */
/*
 * Mount points: what stands there, and taking it away.
 *
 * An O_PATH descriptor of a directory asks no file system anything about that directory, and
 * /proc/self tells its path and the number of the mount it is in: that is how even the root of a
 * hung mount can be looked at. The descriptor keeps a mount busy, so it is closed before anything
 * is taken away.
 */
#include "keeper/fusermount.h"
#include "keeper/mount.h"
#include "keeper/mountinfo.h"
#include "keeper/registry.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define TYPE     "fuse.plenum"
#define PROBE_MS 2000 /* so long may a file system of the network take to answer */

/* See mount_abort_keep. */
static struct kept_abort {
    dev_t dev;
    int fd;
} * kept;
static size_t nkept;
static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;

/* What stands at a path. */
struct point {
    char path[PATH_MAX];
    bool mounted; /* something is mounted exactly there; then: */
    dev_t dev;
    char type[64];
    char source[1024];
    int id; /* of the mount that the directory is in */
};

static int fill_point(void *arg, const struct mountinfo *m)
{
    struct point *p = arg;
    if (m->id != p->id)
        return 0;
    p->mounted = strcmp(m->point, p->path) == 0;
    p->dev = m->dev;
    snprintf(p->type, sizeof(p->type), "%s", m->type);
    snprintf(p->source, sizeof(p->source), "%s", m->source);
    return 1;
}

static int mount_id(int fd)
{
    char name[64], line[128];
    int id = -1;
    snprintf(name, sizeof(name), "/proc/self/fdinfo/%d", fd);
    FILE *f = fopen(name, "re");
    if (!f)
        return -errno;
    while (id < 0 && fgets(line, sizeof(line), f))
        if (sscanf(line, "mnt_id: %d", &id) == 1)
            break;
    fclose(f);
    return id < 0 ? -ENOENT : id;
}

/* The descriptor's path; -ENOENT when it has none (removed, or not in this namespace). */
static int path_of(int fd, char *ret)
{
    char name[64];
    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(name, ret, PATH_MAX);
    if (n < 0)
        return -errno;
    if (n >= PATH_MAX)
        return -ENAMETOOLONG;
    ret[n] = 0;
    return ret[0] == '/' ? 0 : -ENOENT;
}

static int no_such(const char *dir, int rc, struct pl_err *err)
{
    switch (rc) {
    case -ENOENT:
        return pl_fail(err, rc, "%s: no such directory", *dir ? dir : "''");
    case -ENOTDIR:
        return pl_fail(err, rc, "%s: not a directory", dir);
    case -EACCES:
        return pl_fail(err, rc, "%s: not permitted to reach it", dir);
    case -ENOTCONN:
    case -ECONNABORTED:
        return pl_fail(err, rc, "%s: lies in a dead mount (clear that first: umount -l)", dir);
    default:
        return pl_fail(err, rc, "%s: cannot look at it: %s", dir, strerror(-rc));
    }
}

/* Opens O_PATH and finds what stands there: the descriptor or a negative errno with the sentence.
 */
static int look(const char *dir, struct point *p, struct pl_err *err)
{
    memset(p, 0, sizeof(*p));
    int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && *dir)
        return pl_fail(err, -ENOENT, "%s: no such directory (make it with mkdir)", dir);
    if (fd < 0)
        return no_such(dir, -errno, err);
    int rc = path_of(fd, p->path);
    if (rc == 0) {
        p->id = mount_id(fd);
        rc = p->id < 0 ? p->id : mountinfo_each(fill_point, p);
    }
    if (rc < 0) {
        close(fd);
        return pl_fail(err, rc, "%s: cannot look at the mounts: %s (is /proc mounted?)", dir,
                       strerror(-rc));
    }
    return fd;
}

int mount_path(const char *dir, char *ret_path, struct pl_err *err)
{
    int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return no_such(dir, -errno, err);
    int rc = path_of(fd, ret_path);
    close(fd);
    return rc < 0 ? no_such(dir, rc, err) : 0;
}

static bool is_fuse(const char *type)
{
    return strncmp(type, "fuse.", 5) == 0 || strcmp(type, "fuse") == 0;
}

int mount_dev(const char *dir, dev_t *ret)
{
    struct point p;
    int fd = look(dir, &p, NULL);
    if (fd < 0)
        return fd;
    close(fd);
    if (!p.mounted || !is_fuse(p.type))
        return -ENOENT;
    *ret = p.dev;
    return 0;
}

static int same_dev(void *arg, const struct mountinfo *m)
{
    return m->dev == *(dev_t *)arg;
}

bool mount_present(dev_t dev)
{
    return mountinfo_each(same_dev, &dev) != 0; /* unreadable: suppose that it is */
}

/* The inode number of a process's mount namespace; 0: not to be seen. */
static ino_t namespace_of(const char *pid)
{
    char name[NAME_MAX + 16];
    struct stat st;
    snprintf(name, sizeof(name), "/proc/%s/ns/mnt", pid);
    return stat(name, &st) < 0 ? 0 : st.st_ino;
}

pid_t mount_elsewhere(dev_t dev)
{
    enum { SEEN = 64 }; /* namespaces beyond these are looked at once a process */
    ino_t seen[SEEN] = {namespace_of("self")};
    size_t n = 1;
    pid_t found = 0;
    DIR *proc = opendir("/proc");
    for (struct dirent *de; proc && !found && (de = readdir(proc));) {
        pid_t pid = (pid_t)strtol(de->d_name, NULL, 10);
        ino_t ns = pid > 0 ? namespace_of(de->d_name) : 0;
        bool known = !ns;
        for (size_t i = 0; i < n && !known; i++)
            known = seen[i] == ns;
        if (known)
            continue;
        if (mountinfo_of(de->d_name, same_dev, &dev) > 0)
            found = pid;
        if (n < SEEN)
            seen[n++] = ns;
    }
    if (proc)
        closedir(proc);
    return found;
}

/* ---- is it fit? ---- */

/* 0 if there is nothing in it, else -ENOTEMPTY or another errno. */
static int is_empty(const char *path)
{
    DIR *d = opendir(path);
    int rc = 0;
    if (!d)
        return -errno;
    errno = 0;
    for (struct dirent *de; rc == 0 && (de = readdir(d));)
        if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0)
            rc = -ENOTEMPTY;
    if (rc == 0 && errno)
        rc = -errno;
    closedir(d);
    return rc;
}

/* Does what may hang, in a process that we can leave behind: statfs, and with `empty` is_empty.
 * Its result, or -ETIMEDOUT. */
static int probe(const char *path, bool empty)
{
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0) {
        struct statfs sf;
        int rc = statfs(path, &sf) < 0 ? -errno : empty ? is_empty(path) : 0;
        _exit(rc < -254 ? 255 : -rc);
    }
    int fd = pidfd_open(pid, 0), status, n = 1;
    struct pollfd pf = {.fd = fd, .events = POLLIN};
    if (fd >= 0)
        while ((n = poll(&pf, 1, PROBE_MS)) < 0 && errno == EINTR)
            ;
    if (n == 0)
        kill(pid, SIGKILL); /* a request that was not read yet can be killed */
    if (n == 0)
        n = poll(&pf, 1, PROBE_MS / 10);
    if (fd >= 0)
        close(fd);
    if (n == 0)
        return -ETIMEDOUT;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -ETIMEDOUT;
    return WIFEXITED(status) ? -WEXITSTATUS(status) : -ETIMEDOUT;
}

static bool dead(int rc)
{
    return rc == -ENOTCONN || rc == -ECONNABORTED;
}

/* One of ours is there: a sentence, or 0 when it was a wreck and is gone. */
static int ours(const struct point *p, struct pl_err *err)
{
    struct reg_page *page = reg_find(p->path);
    reg_put(page);
    int rc = page ? 0 : probe(p->path, false);
    if (dead(rc))
        return mount_end_dev(p->path, p->dev, true, err);
    if (rc == -ETIMEDOUT)
        return pl_fail(err, -EBUSY,
                       "%s: already a plenum mount of %s, which does not answer (plenum umount -f "
                       "%s)",
                       p->path, p->source, p->path);
    return pl_fail(err, -EBUSY, "%s: already a plenum mount of %s (plenum umount %s)", p->path,
                   p->source, p->path);
}

/* File systems whose other end may be gone. */
static bool remote(const char *type)
{
    static const char *const types[] = {"nfs",  "nfs4", "9p",     "cifs",  "smb3", "smbfs",
                                        "ceph", "afs",  "lustre", "ncpfs", "coda", "autofs"};
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++)
        if (strcmp(type, types[i]) == 0)
            return true;
    return is_fuse(type);
}

/* May an ordinary user mount there? fusermount3's own rules. */
static int permitted(int fd, const char *path, struct pl_err *err)
{
    struct stat st;
    if (geteuid() == 0)
        return 0;
    if (fstat(fd, &st) < 0)
        return no_such(path, -errno, err);
    if (((st.st_mode & S_ISVTX) && st.st_uid != geteuid()) ||
        (faccessat(fd, "", W_OK, AT_EMPTY_PATH | AT_EACCESS) < 0 && errno == EACCES))
        return pl_fail(
            err, -EACCES,
            "%s: not permitted to mount on it (the directory must be yours and writable)", path);
    return 0;
}

static int check(const struct point *p, int fd, bool nonempty, struct pl_err *err)
{
    bool risky = p->mounted && remote(p->type);
    int rc = risky ? probe(p->path, !nonempty) : nonempty ? 0 : is_empty(p->path);
    if (dead(rc) || rc == -ESTALE || rc == -ETIMEDOUT)
        return pl_fail(err, -EBUSY, "%s: a dead mount (%s) is in the way (clear it: umount -l %s)",
                       p->path, p->type, p->path);
    if (rc == -ENOTEMPTY)
        return pl_fail(err, rc, "%s: not empty (mount over it with -o nonempty)", p->path);
    if (rc < 0 && !(rc == -EACCES && geteuid() != 0)) /* unreadable: permitted() says it better */
        return no_such(p->path, rc, err);
    int may = risky ? 0 : permitted(fd, p->path, err);
    if (may == 0 && rc < 0)
        return pl_fail(
            err, rc, "%s: not permitted to read it, so it may not be empty (-o nonempty)", p->path);
    return may;
}

int mount_check(const char *dir, bool nonempty, char *ret_path, struct pl_err *err)
{
    for (int tries = 0;; tries++) {
        struct point p;
        int fd = look(dir, &p, err), rc;
        if (fd < 0)
            return fd;
        if (p.mounted && strcmp(p.type, TYPE) == 0 && tries < 16) {
            close(fd);
            rc = ours(&p, err);
            if (rc < 0)
                return rc;
            continue;
        }
        rc = check(&p, fd, nonempty, err);
        close(fd);
        if (rc == 0)
            strcpy(ret_path, p.path);
        return rc;
    }
}

/* ---- taking away ---- */

/* The file that aborts the connection, open for writing, or a negative errno. */
static int open_abort(dev_t dev)
{
    char name[64];
    unsigned number = minor(dev) | major(dev) << 20; /* as fusectl prints it */
    snprintf(name, sizeof(name), "/sys/fs/fuse/connections/%u/abort", number);
    int fd = open(name, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 || errno != ENOENT)
        return fd < 0 ? -errno : fd;
    /* fusectl is not mounted (or not here): a mount of it that is nowhere to be seen */
    int fs = fsopen("fusectl", FSOPEN_CLOEXEC), mnt = -1;
    if (fs >= 0 && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        mnt = fsmount(fs, FSMOUNT_CLOEXEC, 0);
    int rc = mnt < 0 ? -errno : 0;
    if (mnt >= 0) {
        snprintf(name, sizeof(name), "%u/abort", number);
        fd = openat(mnt, name, O_WRONLY | O_CLOEXEC);
        rc = fd < 0 ? -errno : fd;
        close(mnt);
    }
    if (fs >= 0)
        close(fs);
    return rc;
}

void mount_abort_keep(dev_t dev)
{
    int fd = open_abort(dev);
    if (fd < 0)
        return;
    pthread_mutex_lock(&kept_lock);
    struct kept_abort *more = realloc(kept, (nkept + 1) * sizeof(*kept));
    if (more) {
        kept = more;
        kept[nkept++] = (struct kept_abort){dev, fd};
    } else {
        close(fd);
    }
    pthread_mutex_unlock(&kept_lock);
}

/* A duplicate of what was kept, or -ENOENT. */
static int kept_fd(dev_t dev)
{
    int fd = -1;
    pthread_mutex_lock(&kept_lock);
    for (size_t i = 0; i < nkept && fd < 0; i++)
        if (kept[i].dev == dev)
            fd = fcntl(kept[i].fd, F_DUPFD_CLOEXEC, 0);
    pthread_mutex_unlock(&kept_lock);
    return fd < 0 ? -ENOENT : fd;
}

/* The connection's, whatever has its number when it is written to. */
static int abort_fd(dev_t dev)
{
    int fd = kept_fd(dev);
    return fd >= 0 ? fd : open_abort(dev);
}

static int abort_now(int fd)
{
    if (fd < 0)
        return fd;
    int rc = write(fd, "1", 1) == 1 ? 0 : -errno;
    close(fd);
    return rc;
}

int mount_abort(dev_t dev)
{
    return abort_now(abort_fd(dev));
}

/* umount2, then what an ordinary user may do instead. *ret_ended: the connection has ended too. */
static int take_away(const char *path, bool force, bool *ret_ended, struct pl_err *err)
{
    /* MNT_FORCE aborts the connection even where fusectl cannot be reached */
    int flags = UMOUNT_NOFOLLOW | (force ? MNT_FORCE | MNT_DETACH : 0);
    int rc = umount2(path, flags) < 0 ? -errno : 0;
    *ret_ended = rc == 0;
    if (rc == -EPERM && geteuid() != 0)
        rc = fusermount_end(path, force, err);
    else if (rc == -EPERM)
        pl_fail(err, rc, "%s: not permitted to unmount it (another user namespace mounted it?)",
                path);
    else if (rc < 0)
        pl_fail(err, rc, "%s: cannot unmount it: %s", path, strerror(-rc));
    if (rc == -EBUSY)
        return pl_fail(err, rc,
                       "%s: busy: a process works in it (end it, fuser -vm shows which, or force: "
                       "plenum umount -f)",
                       path);
    return rc;
}

int mount_end_dev(const char *path, dev_t dev, bool force, struct pl_err *err)
{
    struct point p;
    dev_t now = dev;
    /* While it is mounted: the next mount that anybody makes may get its number. */
    int aborts = force ? abort_fd(dev) : -1;
    int fd = look(path, &p, err), rc = fd;
    if (fd >= 0) {
        close(fd);
        if (!p.mounted || p.dev != dev || strcmp(p.path, path) != 0)
            rc = pl_fail(err, -ENOENT, "%s: no longer mounted there", path);
    }
    if (rc < 0) {
        if (aborts >= 0)
            close(aborts);
        return rc;
    }
    bool ended;
    rc = take_away(path, force, &ended, err);
    /* Only now: at the end of the connection the keeper takes the mount away too, and ours would be
     * the second, of what lies below. And only if it has not ended: a server would read of the
     * abort, not of the unmount. */
    if (!ended)
        abort_now(aborts);
    else if (aborts >= 0)
        close(aborts);
    /* whoever was faster: it is gone */
    if (rc < 0 && (mount_dev(path, &now) == -ENOENT || now != dev))
        return 0;
    return rc;
}

int mount_end(const char *dir, bool force, struct pl_err *err)
{
    struct point p;
    int fd = look(dir, &p, err);
    if (fd < 0)
        return fd;
    close(fd);
    if (!p.mounted || strcmp(p.type, TYPE) != 0)
        return pl_fail(err, -EINVAL, "%s: not a plenum mount (plenum status shows them)", p.path);
    return mount_end_dev(p.path, p.dev, force, err);
}
