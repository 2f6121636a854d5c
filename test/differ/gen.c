/* SPDX-License-Identifier: MIT */
/* Random operations, over few enough names that they meet each other. */
#include "differ.h"
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define N(a)       (sizeof(a) / sizeof(*(a)))
#define ONE_OF(a)  ((a)[below(rng, N(a))])
#define IN(per100) (below(rng, 100) < (per100))

const char *const kind_names[] = {
#define X(name) #name,
    KINDS(X)
#undef X
};

static uint64_t next(uint64_t *rng)
{
    uint64_t x = *rng += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static uint32_t below(uint64_t *rng, uint64_t n)
{
    return (uint32_t)(next(rng) % n);
}

/* ---- names ----------------------------------------------------------------------------------- */

/* What a name mostly is, so that more calls succeed than by mere chance; it may be anything. */
enum sort { DIR, FILES, LINK, NODE, ANY };

static void component(uint64_t *rng, char *to, enum sort sort)
{
    static const char *const names[] = {"a", "b", "c", "d", "f", "g", "h", "i", "s", "t", "n", "o"};
    static const char *const odd[] = {".", "..", "", "\xff\n\x01", "l255", "l256", "..."};
    static const struct {
        int first, count;
    } sorts[] = {{0, 4}, {4, 4}, {8, 2}, {10, 2}, {0, 12}};
    if (IN (15))
        sort = ANY;
    const char *s = names[sorts[sort].first + (int)below(rng, (uint64_t)sorts[sort].count)];
    if (IN (5))
        s = ONE_OF(odd);
    if (s[0] == 'l' && s[1]) {
        size_t n = (size_t)(s[3] - '0') + 250;
        memset(to, 'L', n);
        to[n] = 0;
    } else {
        strcpy(to, s);
    }
}

static void path(uint64_t *rng, char *to, enum sort last)
{
    uint32_t r = below(rng, 100), depth = r < 60 ? 1 : r < 90 ? 2 : 3;
    char *p = to;
    *p = 0;
    if (IN (1))
        return;
    if (IN (4))
        *p++ = '/';
    for (uint32_t i = 0; i < depth && p - to < 300; i++) {
        component(rng, p, i + 1 < depth ? DIR : last);
        p += strlen(p);
        if (i + 1 < depth || IN (3))
            *p++ = '/';
    }
    *p = 0;
}

static void paths(uint64_t *rng, struct op *op)
{
    static const enum sort any[] = {DIR, FILES, FILES, LINK, NODE, ANY};
    static const enum sort made[K_COUNT] = {
        [K_mkdir] = DIR,      [K_rmdir] = DIR,     [K_symlink] = LINK, [K_mknod] = NODE,
        [K_truncate] = FILES, [K_readlink] = LINK, [K_open] = FILES,   [K_chdir] = DIR,
    };
    enum sort from = made[op->kind], to;
    bool fixed = from != DIR || op->kind == K_mkdir || op->kind == K_rmdir || op->kind == K_chdir;
    if (!fixed)
        from = ONE_OF(any);
    if (op->kind == K_open && op->flags & O_DIRECTORY)
        from = DIR;
    to = IN (75) ? from : ONE_OF(any);
    if (op->kind == K_linkfd)
        to = FILES;
    path(rng, op->p1, from);
    path(rng, op->p2, to);
}

/* ---- arguments ------------------------------------------------------------------------------- */

static int64_t offset(uint64_t *rng)
{
    static const int64_t ends[] = {0, 1, 4095, 4096, 4097, 8192, 65536, 131072};
    uint32_t r = below(rng, 100);
    if (r < 40)
        return ONE_OF(ends);
    if (r < 96)
        return below(rng, 70000);
    return r < 98 ? -1 : 5000000000 + below(rng, 10000);
}

static int64_t length(uint64_t *rng)
{
    static const int64_t ends[] = {0, 1, 100, 4096, 8192};
    return IN (40) ? ONE_OF(ends) : below(rng, IN (10) ? 200000 : 9000);
}

static uint32_t mode(uint64_t *rng, bool dir)
{
    static const uint32_t files[] = {0644,  0666,  0600,  0777, 0755, 0,    0400, 04755,
                                     02755, 06777, 02644, 0222, 0640, 0660, 01777};
    static const uint32_t dirs[] = {0777,  0777,  0755, 01777, 0700, 02777,
                                    02775, 03777, 0,    0711,  0733};
    return dir ? ONE_OF(dirs) : ONE_OF(files);
}

static void times(uint64_t *rng, struct op *op)
{
    static const int64_t secs[] = {0, 1, 123456789, 2147483647, 2147483648, 4294967297, -5};
    static const int64_t nsecs[] = {0, 1, 999999999, 123456789, UTIME_NOW, UTIME_OMIT, 1000000000};
    for (int i = 0; i < 2; i++) {
        op->sec[i] = ONE_OF(secs);
        op->nsec[i] = IN (50) ? 7 : ONE_OF(nsecs);
    }
    op->how = IN (15); /* times NULL */
}

static void open_args(uint64_t *rng, struct op *op)
{
    static const int acc[] = {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR};
    static const struct {
        int flag, percent;
    } more[] = {{O_CREAT, 60},    {O_EXCL, 6},     {O_TRUNC, 12}, {O_APPEND, 12},
                {O_DIRECTORY, 4}, {O_NOFOLLOW, 6}, {O_PATH, 3},   {O_SYNC, 4},
                {O_NOATIME, 3},   {O_DSYNC, 4},    {O_TMPFILE, 5}};
    op->flags = ONE_OF(acc) | O_NONBLOCK | O_CLOEXEC; /* nothing shall wait for a fifo */
    for (size_t i = 0; i < N(more); i++)
        if (IN ((unsigned)more[i].percent))
            op->flags |= more[i].flag;
    if (IN (15))
        op->flags = O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC;
    op->mode = mode(rng, false);
}

static void xattr_args(uint64_t *rng, struct op *op, const struct profile *p)
{
    static const char *const names[] = {"user.a",
                                        "user.b",
                                        "user.a",
                                        "trusted.x",
                                        "security.foo",
                                        "security.capability",
                                        "user.",
                                        "bogus.x",
                                        "nodot",
                                        "system.posix_acl_access",
                                        "system.posix_acl_default",
                                        "system.bogus",
                                        ""};
    static const int flags[] = {0, 0, 0, XATTR_CREATE, XATTR_REPLACE, 4};
    static const int64_t sizes[] = {0, 1, 10, 100, 1000};
    do {
        strcpy(op->name, ONE_OF(names));
        /* What is written back late takes away the capabilities that were set meanwhile. */
    } while ((!p->acl && strstr(op->name, "posix_acl")) ||
             (p->cached && !strcmp(op->name, "security.capability")));
    if (IN (2)) {
        size_t n = IN (50) ? 255 : 256;
        memset(op->name, 'x', n);
        memcpy(op->name, "user.", 5);
        op->name[n] = 0;
    }
    op->flags = ONE_OF(flags);
    op->len = ONE_OF(sizes);
    op->how = (int)below(rng, 3); /* by path, by path without following, by descriptor */
    op->mode = below(rng, 6);     /* which ACL */
}

static void lock_args(uint64_t *rng, struct op *op)
{
    static const int types[] = {F_RDLCK, F_WRLCK, F_UNLCK, F_WRLCK};
    static const int64_t starts[] = {0, 0, 10, 20, 30, 4096, INT64_MAX - 5, -3};
    static const int64_t lens[] = {0, 0, 5, 10, 20, 100, -5};
    op->flags = ONE_OF(types);
    op->off = ONE_OF(starts);
    op->len = ONE_OF(lens);
    op->mode = IN (85) ? SEEK_SET : IN (50) ? SEEK_CUR : SEEK_END;
    op->how = IN (30); /* OFD */
}

/* Collapsing and inserting of ranges is nothing that the kernel's FUSE can pass on; and where
 * zeroing is not to be had, it takes capabilities away before it asks. */
static void fallocate_args(uint64_t *rng, struct op *op, const struct profile *p)
{
    static const int modes[] = {0,
                                FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_ZERO_RANGE,
                                FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_PUNCH_HOLE};
    do {
        op->flags = ONE_OF(modes);
    } while (op->flags & FALLOC_FL_ZERO_RANGE && !p->zero_range);
}

static void mmap_args(uint64_t *rng, struct op *op)
{
    op->off = below(rng, 3) * 4096;
    op->len = 1 + below(rng, 9000);
    op->flags = IN (70) ? MAP_SHARED : MAP_PRIVATE;
    op->mode = IN (70) ? PROT_READ | PROT_WRITE : PROT_READ;
    op->how = (int)below(rng, 3); /* no msync, MS_SYNC, MS_ASYNC */
    op->off2 = below(rng, 9000);  /* where it is changed */
}

static void more_args(struct op *op, uint64_t *rng, const struct profile *p)
{
    const uid_t ids[] = {0, p->ids[0], 65534, p->ids[1], (uid_t)-1, (uid_t)-1};
    const gid_t gids[] = {0, p->ids[0], 65534, p->ids[1], p->ids[2], (gid_t)-1};
    static const char *const targets[] = {"a",    "b/c", "..", "s",    "t",  "f",
                                          "/a/f", ".",   "a/", "../f", "g/", "nowhere"};
    static const unsigned renames[] = {0, 0, 0, 0, 1, 2, 4, 5, 3, 8, 6};
    static const uint32_t types[] = {S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFREG, 0, S_IFDIR};
    static const int whences[] = {SEEK_SET, SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE, 9};
    static const int access_flags[] = {0, 0, AT_EACCESS, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, 1};
    static const int nofollow[] = {
        0, 0, 0, AT_SYMLINK_NOFOLLOW, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH};
    static const int links[] = {0, 0, 0, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH};
    static const int flocks[] = {LOCK_SH, LOCK_EX, LOCK_UN};
    switch (op->kind) {
    case K_open:
        open_args(rng, op);
        if (p->trap) /* such descriptors cannot be handed over: others are given */
            op->flags &= ~O_PATH;
        break;
    case K_setfl:
        op->flags = O_NONBLOCK | (IN (50) ? O_APPEND : 0);
        break;
    case K_lseek:
        op->flags = ONE_OF(whences);
        break;
    case K_fallocate:
        fallocate_args(rng, op, p);
        break;
    case K_mkdir:
        op->mode = mode(rng, true);
        break;
    case K_chmod:
    case K_fchmod:
        op->mode = mode(rng, IN (50));
        op->flags = IN (90) ? 0 : AT_SYMLINK_NOFOLLOW;
        break;
    case K_unlink:
        op->flags = IN (4) ? AT_REMOVEDIR : IN (1) ? 1 : 0;
        break;
    case K_rename:
        op->flags = (int)ONE_OF(renames);
        if (p->merged) /* whiteouts are the union's to make */
            op->flags &= ~RENAME_WHITEOUT;
        break;
    case K_link:
        op->flags = ONE_OF(links);
        break;
    case K_symlink:
        strcpy(op->name, ONE_OF(targets));
        if (IN (2))
            *op->name = 0;
        break;
    case K_mknod:
        op->mode = ONE_OF(types) | mode(rng, false);
        op->how = IN (50); /* which device */
        break;
    case K_chown:
    case K_fchown:
        op->uid = ONE_OF(ids);
        op->gid = ONE_OF(gids);
        /* A chown that changes neither reaches a FUSE server as a SETATTR of nothing, as other
         * things do: it cannot tell that ctime is to move and set-user-ID bits to go. */
        if (op->uid == (uid_t)-1 && op->gid == (gid_t)-1)
            op->gid = p->ids[0];
        op->flags = ONE_OF(nofollow);
        break;
    case K_utimens:
    case K_futimens:
        times(rng, op);
        op->flags = ONE_OF(nofollow);
        break;
    case K_access:
        op->mode = below(rng, 9);
        op->flags = ONE_OF(access_flags);
        break;
    case K_setxattr:
    case K_getxattr:
    case K_listxattr:
    case K_removexattr:
        xattr_args(rng, op, p);
        break;
    case K_lock:
    case K_getlock:
        lock_args(rng, op);
        break;
    case K_flock:
        op->flags = ONE_OF(flocks);
        break;
    case K_mmap:
        mmap_args(rng, op);
        break;
    case K_fsync:
        op->how = IN (50);
        break;
    case K_stat:
    case K_statx:
        op->flags = ONE_OF(nofollow);
        break;
    case K_chdir:
        op->how = (int)below(rng, 4); /* by path, by descriptor, to the root */
        break;
    default:
        break;
    }
}

static enum kind any_kind(uint64_t *rng)
{
    static const uint8_t weights[K_COUNT] = {
        [K_open] = 60,     [K_close] = 4,     [K_dup] = 2,       [K_setfl] = 2,
        [K_read] = 8,      [K_pread] = 10,    [K_write] = 14,    [K_pwrite] = 14,
        [K_lseek] = 10,    [K_ftruncate] = 8, [K_truncate] = 8,  [K_fallocate] = 8,
        [K_copy] = 6,      [K_mkdir] = 24,    [K_rmdir] = 7,     [K_unlink] = 13,
        [K_rename] = 18,   [K_link] = 10,     [K_linkfd] = 6,    [K_symlink] = 10,
        [K_mknod] = 8,     [K_chmod] = 14,    [K_fchmod] = 5,    [K_chown] = 14,
        [K_fchown] = 5,    [K_utimens] = 10,  [K_futimens] = 4,  [K_access] = 8,
        [K_setxattr] = 14, [K_getxattr] = 8,  [K_listxattr] = 6, [K_removexattr] = 5,
        [K_lock] = 14,     [K_getlock] = 6,   [K_flock] = 8,     [K_mmap] = 8,
        [K_fsync] = 3,     [K_fstat] = 5,     [K_stat] = 6,      [K_statx] = 4,
        [K_readlink] = 5,  [K_getdents] = 6,  [K_chdir] = 4,     [K_statfs] = 1,
        [K_walk] = 1,
    };
    uint32_t sum = 0, at;
    for (int k = 0; k < K_COUNT; k++)
        sum += weights[k];
    at = below(rng, sum);
    int k = 0;
    for (; at >= weights[k]; k++)
        at -= weights[k];
    return (enum kind)k;
}

/* "..." is a view's own name: what lies behind. */
static void without_dots(char *path)
{
    for (char *s = path; (s = strstr(s, "...")); s += 3)
        s[1] = 't';
}

void gen_op(struct op *op, uint64_t *rng, const struct profile *p, const struct gen *gen)
{
    memset(op, 0, sizeof(*op));
    op->kind = gen->early ? (IN (70) ? K_open : K_mkdir) : any_kind(rng);
    op->who = IN (25) ? 0 : (int)below(rng, (uint64_t)IDENTITIES);
    op->quiet = IN (25);
    op->fd = (int)below(rng, SLOTS);
    op->fd2 = (int)below(rng, SLOTS);
    op->at = IN (92) ? -1 : (int)below(rng, SLOTS);
    op->at2 = IN (92) ? -1 : (int)below(rng, SLOTS);
    op->off = offset(rng);
    op->off2 = offset(rng);
    op->len = length(rng);
    op->seed = (uint32_t)next(rng);
    more_args(op, rng, p);
    paths(rng, op);
    if (p->view && op->kind != K_mkdir && op->kind != K_access)
        op->mode &= ~06000u; /* an ordinary user's server cannot keep them, as a mapping does */
    if (p->trap || p->view) {
        without_dots(op->p1);
        without_dots(op->p2);
        if (op->kind == K_rename) /* whiteouts are the space's */
            op->flags &= ~RENAME_WHITEOUT;
    }
    if (gen->early && op->kind == K_open)
        op->flags |= O_CREAT;
    if (op->kind == K_walk)
        op->who = 0;
    if (p->nolinks && (op->kind == K_link || op->kind == K_linkfd))
        op->kind = K_stat;
    /* On tmpfs a hole that is looked at through a mapping is one no more: either mappings or the
     * search for holes. */
    if (op->kind == K_mmap && !gen->maps)
        op->kind = K_pread;
    if (op->kind == K_lseek && gen->maps && (op->flags == SEEK_DATA || op->flags == SEEK_HOLE))
        op->flags = SEEK_SET;
    /* What fallocate(2) has allotted is a hole until it is read, or read ahead: by how much is
     * another matter where the bytes come by messages. */
    if (op->kind == K_fallocate && (p->mem || p->merged) && !gen->maps)
        op->flags = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (op->kind == K_setxattr && p->remote && op->flags == XATTR_REPLACE) {
        op->len += op->len == 0;
        op->mode %= 5;
    }
    bool modes = op->kind == K_open || op->kind == K_chmod || op->kind == K_fchmod;
    if ((modes || op->kind == K_mknod) && p->remote && gen->maps)
        op->mode &= ~(uint32_t)(S_ISUID | S_ISGID);
    /* The FUSE door is not told of the close of a file that was open only for reading before the
     * first lock: it costs a round trip each. So locks outlast it. */
    if ((op->kind == K_lock || op->kind == K_getlock) && !gen->locks)
        op->how = 1;
    if (op->kind == K_open && gen->locks && (op->flags & O_ACCMODE) == O_RDONLY &&
        !(op->flags & O_DIRECTORY))
        op->flags |= O_RDWR;
}

/* ---- printing -------------------------------------------------------------------------------- */

static void quote(FILE *to, const char *s)
{
    size_t n = strlen(s);
    putc('"', to);
    for (const unsigned char *c = (const unsigned char *)s; *c; c++) {
        if (n > 60 && *c == 'L' && c[1] == 'L' && c[2] == 'L')
            continue;
        if (*c < ' ' || *c > '~')
            fprintf(to, "\\x%02x", *c);
        else
            putc(*c, to);
    }
    fprintf(to, n > 60 ? "\"(%zu)" : "\"", n);
}

void gen_print(const struct op *op, const struct profile *p, FILE *to)
{
    fprintf(to, "%-9s %-11s ", p->who[op->who].what, kind_names[op->kind]);
    if (op->at >= 0)
        fprintf(to, "[%d]", op->at);
    quote(to, op->p1);
    putc(' ', to);
    if (op->at2 >= 0)
        fprintf(to, "[%d]", op->at2);
    quote(to, op->p2);
    if (*op->name) {
        fputs(" name=", to);
        quote(to, op->name);
    }
    fprintf(to, " fd=%d,%d flags=0%o/0x%x how=%d mode=0%o off=%lld,%lld len=%lld", op->fd, op->fd2,
            (unsigned)op->flags, (unsigned)op->flags, op->how, op->mode, (long long)op->off,
            (long long)op->off2, (long long)op->len);
    if (op->kind == K_chown || op->kind == K_fchown)
        fprintf(to, " ids=%d,%d", (int)op->uid, (int)op->gid);
    if (op->kind == K_utimens || op->kind == K_futimens)
        fprintf(to, " times=%lld.%lld,%lld.%lld", (long long)op->sec[0], (long long)op->nsec[0],
                (long long)op->sec[1], (long long)op->nsec[1]);
    fputs(op->quiet ? " quiet\n" : "\n", to);
}
