/* SPDX-License-Identifier: MIT */
/*
 * What the table of a view (doors/preload/table.h) knows by the letters, found as programs under
 * the preload find it: two system calls, where the tree needs a walk. What it does not know, or is
 * not to answer, goes to the tree.
 */
#include "doors/preload/look.h"
#include "doors/trap_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* The rights that count are those that this thread has taken on, not those it began with. */
static long make_call(long nr, long a, long b, long c, long d, long e)
{
    long r = syscall(nr, a, b, c, nr == SYS_faccessat2 ? d | AT_EACCESS : d, e);
    return r < 0 ? -errno : r;
}

/* As the caller from here on. */
static bool begin(struct tcall *c, struct preload *p)
{
    p->call = make_call;
    return preload_table_reader(c->view->preload, p) && as_caller(c) == 0;
}

static int end(long r)
{
    as_self();
    return r == PRELOAD_TRAP ? LOOK_WALK : (int)r;
}

int look_stat(struct tcall *c, const char *path, unsigned flags, struct stat *st)
{
    struct preload p;
    if (!begin(c, &p))
        return end(PRELOAD_TRAP);
    return end(preload_stat(&p, AT_FDCWD, path, st, flags & WALK_FOLLOW ? 0 : AT_SYMLINK_NOFOLLOW));
}

int look_statx(struct tcall *c, const char *path, unsigned flags, unsigned mask, struct statx *sx)
{
    struct preload p;
    if (!begin(c, &p))
        return end(PRELOAD_TRAP);
    return end(
        preload_statx(&p, AT_FDCWD, path, flags & WALK_FOLLOW ? 0 : AT_SYMLINK_NOFOLLOW, mask, sx));
}

int look_access(struct tcall *c, const char *path, int mode)
{
    struct preload p;
    if (!begin(c, &p))
        return end(PRELOAD_TRAP);
    return end(preload_access(&p, AT_FDCWD, path, mode, 0));
}

int look_readlink(struct tcall *c, const char *path, char *buf, size_t size)
{
    struct preload p;
    if (!begin(c, &p))
        return end(PRELOAD_TRAP);
    return end(preload_readlink(&p, AT_FDCWD, path, buf, size));
}

int look_open(struct tcall *c, const char *path, int flags)
{
    struct preload p;
    if (flags & (O_ACCMODE | O_CREAT | O_PATH | O_DIRECTORY) || !begin(c, &p))
        return end(PRELOAD_TRAP);
    int fd = end(preload_open(&p, AT_FDCWD, path, flags | O_CLOEXEC | O_NOCTTY, 0));
    if (fd >= 0)
        known_path(c, fd, path);
    return fd;
}
