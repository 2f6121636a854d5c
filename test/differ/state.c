/* SPDX-License-Identifier: MIT */
#include "state.h"
#include "differ.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

void put(struct out *o, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(o->text + o->n, o->size - o->n, fmt, ap);
    va_end(ap);
    if (n > 0)
        o->n = o->n + (uint32_t)n < o->size ? o->n + (uint32_t)n : o->size - 1;
}

uint32_t hash(const void *p, size_t n)
{
    const unsigned char *c = p;
    uint32_t h = 2166136261u;
    while (n--)
        h = (h ^ *c++) * 16777619u;
    return h;
}

void parent_of(const char *path, char *ret)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n && path[n - 1] != '/')
        n--;
    while (n > 1 && path[n - 1] == '/')
        n--;
    if (n == 0) {
        strcpy(ret, ".");
    } else {
        memcpy(ret, path, n);
        ret[n] = 0;
    }
}

/* ---- stat ------------------------------------------------------------------------------------ */

void state_get(struct state *s, int at, const char *path, int flags, bool now)
{
    s->asked = true;
    flags |= now ? AT_STATX_FORCE_SYNC : 0;
    s->error = statx(at, path, flags, STATX_BASIC_STATS, &s->sx) < 0 ? errno : 0;
}

static const char *type_of(unsigned mode)
{
    return S_ISREG(mode)    ? "reg"
           : S_ISDIR(mode)  ? "dir"
           : S_ISLNK(mode)  ? "lnk"
           : S_ISFIFO(mode) ? "fifo"
           : S_ISSOCK(mode) ? "sock"
           : S_ISCHR(mode)  ? "chr"
           : S_ISBLK(mode)  ? "blk"
                            : "?";
}

/* A time that somebody set is exact; of others only whether it moved can be compared. */
static void put_time(struct out *o, char which, const struct statx_timestamp *t,
                     const struct statx_timestamp *before)
{
    int64_t off = t->tv_sec - time(NULL);
    if (off < -86400 || off > 86400)
        put(o, " %c@%lld.%09u", which, (long long)t->tv_sec, t->tv_nsec);
    else if (before && (t->tv_sec != before->tv_sec || t->tv_nsec != before->tv_nsec))
        put(o, " %c*", which);
    else
        put(o, before ? " %c=" : " %c", which);
}

void put_state(struct out *o, const struct state *s, const struct state *before, bool atime,
               enum dirs dirs)
{
    const struct statx *x = &s->sx, *b = before && before->error == 0 ? &before->sx : NULL;
    if (s->error) {
        put(o, "%s", strerrorname_np(s->error));
        return;
    }
    if (b && b->stx_ino != x->stx_ino)
        b = NULL;
    put(o, "%s %04o", type_of(x->stx_mode), x->stx_mode & 07777u);
    if (dirs != DIRS_NEITHER || !S_ISDIR(x->stx_mode))
        put(o, " n%u", x->stx_nlink);
    put(o, " u%u g%u", x->stx_uid, x->stx_gid);
    if (dirs == DIRS_ALL || !S_ISDIR(x->stx_mode))
        put(o, " s%llu", (unsigned long long)x->stx_size);
    if (S_ISCHR(x->stx_mode) || S_ISBLK(x->stx_mode))
        put(o, " %u:%u", x->stx_rdev_major, x->stx_rdev_minor);
    /* What goes through a fifo or a device is the kernel's own; FUSE is not told of the time. */
    if (!S_ISREG(x->stx_mode) && !S_ISDIR(x->stx_mode) && !S_ISLNK(x->stx_mode))
        return;
    put_time(o, 'm', &x->stx_mtime, b ? &b->stx_mtime : NULL);
    if (b)
        put_time(o, 'c', &x->stx_ctime, &b->stx_ctime);
    if (atime)
        put_time(o, 'a', &x->stx_atime, NULL);
}

/* ---- lists ----------------------------------------------------------------------------------- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void put_sorted(struct out *o, const char *names, size_t n)
{
    const char *list[1024];
    size_t count = 0;
    for (const char *p = names; p < names + n && count < 1024; p += strlen(p) + 1)
        list[count++] = p;
    qsort(list, count, sizeof(*list), by_text);
    for (size_t i = 0; i < count; i++)
        put(o, " %s", list[i]);
}

/* The entries of an open directory: type, inode, name; NULL with errno. To be freed. */
struct entry {
    uint64_t ino;
    unsigned char type;
    char name[256];
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static struct entry *entries(int dir, size_t *ret)
{
    static struct {
        uint64_t ino, off;
        unsigned short len;
        unsigned char type;
        char name[];
    } * d;
    char buf[4096] __attribute__((aligned(8)));
    struct entry *list = NULL;
    size_t count = 0;
    long n;
    while ((n = syscall(SYS_getdents64, dir, buf, sizeof(buf))) > 0)
        for (char *p = buf; p < buf + n; p += d->len) {
            d = (void *)p;
            list = realloc(list, (count + 1) * sizeof(*list));
            list[count].ino = d->ino;
            list[count].type = d->type;
            strcpy(list[count++].name, d->name);
        }
    if (n < 0) {
        free(list);
        return NULL;
    }
    list = list ? list : malloc(1);
    qsort(list, count, sizeof(*list), by_name);
    *ret = count;
    return list;
}

void put_names(struct out *o, int dir)
{
    size_t n = 0;
    struct entry *list = entries(dir, &n);
    if (!list) {
        put(o, "%s", strerrorname_np(errno));
        return;
    }
    put(o, "r=0");
    for (size_t i = 0; i < n; i++)
        put(o, " %s(%d)", list[i].name, list[i].type);
    free(list);
}

/* ---- a whole tree ---------------------------------------------------------------------------- */

static struct {
    uint64_t ino;
    uint32_t id;
} known[4096];
static uint32_t known_count;

/* The same number for the same object. */
static uint32_t id_of(uint64_t ino)
{
    for (uint32_t i = 0; i < known_count; i++)
        if (known[i].ino == ino)
            return known[i].id;
    if (known_count < 4096) {
        known[known_count].ino = ino;
        known[known_count].id = known_count;
        known_count++;
    }
    return known_count - 1;
}

static void put_xattrs(struct out *o, int fd)
{
    static char names[65536], value[65536];
    char path[64], *list[1024];
    size_t count = 0;
    snprintf(path, sizeof(path), "%d", fd);
    ssize_t n = flistxattr(fd, names, sizeof(names));
    for (char *p = names; p < names + n && count < 1024; p += strlen(p) + 1)
        list[count++] = p;
    qsort(list, count, sizeof(*list), by_text);
    for (size_t i = 0; i < count; i++) {
        ssize_t size = fgetxattr(fd, list[i], value, sizeof(value));
        put(o, " %s=%zd#%08x", list[i], size, size > 0 ? hash(value, (size_t)size) : 0);
    }
    if (n < 0)
        put(o, " xattrs %s", strerrorname_np(errno));
}

static void put_content(struct out *o, int fd, uint64_t size)
{
    static char buf[1 << 18];
    ssize_t n = pread(fd, buf, sizeof(buf), 0);
    put(o, " %zd#%08x", n, n > 0 ? hash(buf, (size_t)n) : 0);
    if (size > sizeof(buf)) {
        n = pread(fd, buf, 65536, (off_t)(size - 65536));
        put(o, " %zd#%08x", n, n > 0 ? hash(buf, (size_t)n) : 0);
    }
}

static void put_object(struct out *o, int dir, const char *name, const struct statx *x)
{
    char target[PATHLEN];
    if (S_ISLNK(x->stx_mode)) {
        ssize_t n = readlinkat(dir, name, target, sizeof(target));
        put(o, " -> %.*s", n < 0 ? 0 : (int)n, target);
    }
    if (!S_ISREG(x->stx_mode) && !S_ISDIR(x->stx_mode))
        return;
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        put(o, " open %s", strerrorname_np(errno));
        return;
    }
    put_xattrs(o, fd);
    if (S_ISREG(x->stx_mode))
        put_content(o, fd, x->stx_size);
    close(fd);
}

static void put_below(struct out *o, int dir, const char *path, enum dirs dirs)
{
    size_t n = 0;
    struct entry *list = entries(dir, &n);
    if (!list)
        put(o, "\n%s: getdents %s", path, strerrorname_np(errno));
    for (size_t i = 0; list && i < n; i++) {
        struct entry *e = &list[i];
        struct state s;
        char sub[4096];
        if (!strcmp(e->name, ".") || !strcmp(e->name, ".."))
            continue;
        snprintf(sub, sizeof(sub), "%s/%s", path, e->name);
        put(o, "\n%s: ", sub);
        state_get(&s, dir, e->name, AT_SYMLINK_NOFOLLOW, false);
        put_state(o, &s, NULL, false, dirs);
        if (s.error)
            continue;
        put(o, " i%u", id_of(s.sx.stx_ino));
        if (e->ino != s.sx.stx_ino)
            put(o, " d_ino %llu, not %llu", (unsigned long long)e->ino,
                (unsigned long long)s.sx.stx_ino);
        if (e->type != IFTODT(s.sx.stx_mode))
            put(o, " d_type %d", e->type);
        put_object(o, dir, e->name, &s.sx);
        if (S_ISDIR(s.sx.stx_mode)) {
            int fd = openat(dir, e->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (fd >= 0)
                put_below(o, fd, sub, dirs);
            close(fd);
        }
    }
    free(list);
}

void put_tree(struct out *o, const char *path, enum dirs dirs)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct state s;
    known_count = 0;
    state_get(&s, fd, "", AT_EMPTY_PATH, false);
    put_state(o, &s, NULL, false, dirs);
    put_xattrs(o, fd);
    put_below(o, fd, path, dirs);
    close(fd);
}

/* ---- resetting ------------------------------------------------------------------------------- */

static void empty(int dir)
{
    size_t n = 0;
    struct entry *list = entries(dir, &n);
    for (size_t i = 0; list && i < n; i++) {
        if (!strcmp(list[i].name, ".") || !strcmp(list[i].name, ".."))
            continue;
        if (unlinkat(dir, list[i].name, 0) == 0)
            continue;
        int fd = openat(dir, list[i].name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0) {
            empty(fd);
            close(fd);
        }
        unlinkat(dir, list[i].name, AT_REMOVEDIR);
    }
    free(list);
}

void work_reset(const char *root)
{
    char names[65536];
    int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        perror(root);
        exit(1);
    }
    empty(fd);
    ssize_t n = flistxattr(fd, names, sizeof(names));
    for (char *p = names; p < names + n; p += strlen(p) + 1)
        fremovexattr(fd, p);
    if (fchown(fd, 0, 0) < 0 || fchmod(fd, 0777) < 0)
        perror(root);
    close(fd);
}

/* ---- ACLs ------------------------------------------------------------------------------------ */

/* As <linux/posix_acl_xattr.h> lays them out; the last ones are wrong. */
size_t acl_value(uint32_t which, unsigned char *buf)
{
    enum { USER_OBJ = 1, USER = 2, GROUP_OBJ = 4, GROUP = 8, MASK = 16, OTHER = 32 };
    struct {
        uint16_t tag, perm;
        uint32_t id;
    } acls[][6] = {
        {{USER_OBJ, 7, ~0u}, {GROUP_OBJ, 5, ~0u}, {OTHER, 0, ~0u}},
        {{USER_OBJ, 6, ~0u}, {USER, 6, 1000}, {GROUP_OBJ, 4, ~0u}, {MASK, 6, ~0u}, {OTHER, 4, ~0u}},
        {{USER_OBJ, 7, ~0u},
         {USER, 7, 2000},
         {GROUP_OBJ, 7, ~0u},
         {GROUP, 5, 1000},
         {MASK, 5, ~0u},
         {OTHER, 5, ~0u}},
        {{USER_OBJ, 7, ~0u},
         {GROUP_OBJ, 0, ~0u},
         {GROUP, 7, 3000},
         {MASK, 7, ~0u},
         {OTHER, 0, ~0u}},
        {{USER_OBJ, 7, ~0u}, {USER, 6, 1000}, {GROUP_OBJ, 4, ~0u}}, /* neither mask nor other */
    };
    static const size_t counts[] = {3, 5, 6, 5, 3};
    uint32_t version = 2;
    if (which == 5)
        return 0;
    memcpy(buf, &version, 4);
    memcpy(buf + 4, acls[which], counts[which] * 8);
    return 4 + counts[which] * 8;
}
