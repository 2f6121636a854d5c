/* SPDX-License-Identifier: MIT */
/*
 * fsx: random operations on a few files, compared with a shadow copy in memory.
 *
 * The model: objects with their bytes, a few names that lead to them, a few open handles. Every
 * operation is done to the target and to the model; results, sizes, link counts and bytes must
 * agree. After a mismatch the last operations are printed, with the seed that repeats them.
 *
 * What a target does not support (-EOPNOTSUPP at the first try) is left out and said at the end.
 */
#include "fsx.h"
#include "test/conform/box.h"
#include "test/conform/conform.h"

#include <assert.h>
#include <getopt.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAMES   4
#define OBJECTS (NAMES + HANDLES + 1)
#define TAIL    40 /* operations shown after a mismatch */

struct object {
    bool used;
    size_t size;
    unsigned nlink;
    unsigned char *byte; /* max_size of them; zero from size on */
};

struct handle {
    struct object *of; /* NULL: closed */
    int flags;
};

static struct object object[OBJECTS];
static struct object *named[NAMES];
static struct handle handle[HANDLES];
static const char *const name_of[NAMES] = {"alpha", "beta", "gamma", "delta"};
static const struct target *target;
static unsigned char *buf;

static uint64_t seed = 0, state;
static long ops = 20000, step;
static size_t max_size = 300000;
static bool lacks_mode[256], lacks_copy, lacks_seek, lacks_exchange, lacks_map, lacks_orphans,
    verbose_ops;

static char log_line[TAIL][160];
static long logged;

/* ---- saying ---------------------------------------------------------------------------------- */

static void say_op(const char *fmt, ...) PL_PRINTF(1, 2);
static void say_op(const char *fmt, ...)
{
    char *line = log_line[logged++ % TAIL];
    int n = snprintf(line, 160, "%6ld  ", step);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line + n, 160 - (size_t)n, fmt, ap);
    va_end(ap);
    if (verbose_ops)
        puts(line);
}

static _Noreturn void mismatch(const char *fmt, ...) PL_PRINTF(1, 2);
static _Noreturn void mismatch(const char *fmt, ...)
{
    va_list ap;
    for (long i = logged > TAIL ? logged - TAIL : 0; i < logged && !verbose_ops; i++)
        puts(log_line[i % TAIL]);
    printf("MISMATCH after %ld operations (--seed %llu --size %zu): ", step,
           (unsigned long long)seed, max_size);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
    _exit(1);
}

static void expect(const char *what, int64_t got, int64_t want)
{
    if (got != want)
        mismatch("%s: %lld, should be %lld", what, (long long)got, (long long)want);
}

static size_t rnd_below(size_t n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return n ? (size_t)((state >> 11) % n) : 0;
}

/* Often small, often at page bounds, sometimes anything. */
static size_t rnd_length(size_t max)
{
    size_t n = rnd_below(4) ? rnd_below(9000) : rnd_below(max + 1);
    if (rnd_below(4) == 0)
        n = (n + 4095) / 4096 * 4096;
    return n < max ? n : max;
}

static size_t rnd_offset(size_t size)
{
    size_t off = rnd_below(5) ? rnd_below(size + 1) : rnd_below(max_size);
    if (rnd_below(4) == 0)
        off = off / 4096 * 4096;
    return off < max_size ? off : max_size;
}

/* ---- the model ------------------------------------------------------------------------------- */

static struct object *object_new(void)
{
    for (int i = 0; i < OBJECTS; i++)
        if (!object[i].used) {
            unsigned char *byte = object[i].byte;
            memset(byte, 0, max_size);
            object[i] = (struct object){.used = true, .nlink = 1, .byte = byte};
            return &object[i];
        }
    abort();
}

static void object_check(struct object *o)
{
    bool held = o->nlink;
    for (int h = 0; h < HANDLES; h++)
        held |= handle[h].of == o;
    o->used = held;
}

static void resize(struct object *o, size_t size)
{
    if (size < o->size)
        memset(o->byte + size, 0, o->size - size);
    o->size = size;
}

static void unname(int i)
{
    struct object *o = named[i];
    named[i] = NULL;
    if (o) {
        o->nlink--;
        object_check(o);
    }
}

static int any_open(void)
{
    int h = (int)rnd_below(HANDLES);
    for (int i = 0; i < HANDLES; i++)
        if (handle[(h + i) % HANDLES].of)
            return (h + i) % HANDLES;
    return -1;
}

static bool writes(int h)
{
    return (handle[h].flags & O_ACCMODE) != O_RDONLY;
}

/* ---- operations on content ------------------------------------------------------------------- */

static void compare(int h, size_t off, size_t n, const char *how)
{
    struct object *o = handle[h].of;
    for (size_t i = 0; i < n; i++)
        if (buf[i] != o->byte[off + i])
            mismatch("%s of handle %d: byte %zu (%#zx) is %02x, should be %02x", how, h, off + i,
                     off + i, buf[i], o->byte[off + i]);
}

static void op_read(int h, size_t off, size_t n)
{
    struct object *o = handle[h].of;
    size_t want = off >= o->size ? 0 : o->size - off < n ? o->size - off : n;
    say_op("read %d at %zu, %zu bytes", h, off, n);
    memset(buf, 0x55, n);
    expect("read", target->read(h, buf, n, off), (int64_t)want);
    compare(h, off, want, "read");
}

/* Bytes that tell which step wrote them. */
static void fill(size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf[i] = (unsigned char)((unsigned long)step * 31 + i % 251 + 1);
}

static void op_write(int h)
{
    struct object *o = handle[h].of;
    bool append = handle[h].flags & O_APPEND;
    size_t off = append ? o->size : rnd_offset(o->size), n = rnd_length(max_size - off);
    say_op("write %d at %zu, %zu bytes%s", h, off, n, append ? ", appending" : "");
    fill(n);
    expect("write", target->write(h, buf, n, append ? rnd_below(1000) : off),
           writes(h) ? (int64_t)n : -EBADF);
    if (!writes(h) || n == 0)
        return;
    if (off + n > o->size)
        resize(o, off + n);
    memcpy(o->byte + off, buf, n);
}

static void op_truncate(int h)
{
    int i = (int)rnd_below(NAMES);
    bool by_name = named[i] && (!writes(h) || rnd_below(2));
    struct object *o = by_name ? named[i] : handle[h].of;
    size_t size = rnd_below(6) ? rnd_offset(o->size) : 0;
    if (!by_name && !writes(h))
        return;
    say_op("truncate %s%.0d from %zu to %zu", by_name ? name_of[i] : "handle ", by_name ? 0 : h,
           o->size, size);
    expect("truncate", target->truncate(h, by_name ? name_of[i] : NULL, size), 0);
    resize(o, size);
}

static void op_fallocate(int h)
{
    static const int modes[] = {0,
                                FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                FALLOC_FL_ZERO_RANGE,
                                FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
    struct object *o = handle[h].of;
    int mode = modes[rnd_below(6)];
    size_t off = rnd_offset(o->size), len = rnd_length(max_size - off);
    if (!writes(h) || len == 0 || lacks_mode[mode])
        return;
    say_op("fallocate %d mode %x at %zu, %zu bytes", h, mode, off, len);
    int r = target->fallocate(h, mode, off, len);
    if (r == -EOPNOTSUPP) {
        lacks_mode[mode] = true;
        return;
    }
    expect("fallocate", r, 0);
    if (!(mode & FALLOC_FL_KEEP_SIZE) && off + len > o->size)
        resize(o, off + len);
    if (mode & ~FALLOC_FL_KEEP_SIZE && off < o->size)
        memset(o->byte + off, 0, o->size - off < len ? o->size - off : len);
}

static void op_copy(int in)
{
    int out = any_open();
    struct object *a = handle[in].of, *b = handle[out].of;
    size_t from = rnd_offset(a->size), to = rnd_offset(b->size);
    size_t room = max_size - (from > to ? from : to), n = rnd_length(room);
    if (!writes(out) || handle[out].flags & O_APPEND || lacks_copy || n == 0)
        return;
    size_t want = from >= a->size ? 0 : a->size - from < n ? a->size - from : n, done = 0;
    bool overlap = a == b && from < to + want && to < from + want;
    say_op("copy %d at %zu to %d at %zu, %zu bytes", in, from, out, to, n);
    if (overlap) {
        expect("overlapping copy", target->copy(in, from, out, to, n), -EINVAL);
        return;
    }
    while (done < want) {
        int64_t r = target->copy(in, from + done, out, to + done, n - done);
        if (r == -EOPNOTSUPP || r == -EXDEV) {
            lacks_copy = true;
            return;
        }
        if (r <= 0 || (size_t)r > want - done)
            mismatch("copy: %lld, %zu bytes are left", (long long)r, want - done);
        if (to + done + (size_t)r > b->size)
            resize(b, to + done + (size_t)r);
        memmove(b->byte + to + done, a->byte + from + done, (size_t)r);
        done += (size_t)r;
    }
    if (!want)
        expect("copy past the end", target->copy(in, from, out, to, n), 0);
}

/* What is said to be a hole must be zero; whether a hole is known is the target's business. */
static void op_seek(int h)
{
    struct object *o = handle[h].of;
    size_t off = rnd_below(o->size + 10);
    say_op("seek %d at %zu of %zu", h, off, o->size);
    int64_t data = target->seek(h, off, SEEK_DATA), hole = target->seek(h, off, SEEK_HOLE);
    if (data == -EOPNOTSUPP || data == -EINVAL) {
        lacks_seek = true;
        return;
    }
    if (off >= o->size) {
        expect("SEEK_DATA past the end", data, -ENXIO);
        expect("SEEK_HOLE past the end", hole, -ENXIO);
        return;
    }
    size_t end = data == -ENXIO ? o->size : (size_t)data;
    if ((data < 0 && data != -ENXIO) || end < off || end > o->size)
        mismatch("SEEK_DATA: %lld", (long long)data);
    for (size_t i = off; i < end; i++)
        if (o->byte[i])
            mismatch("SEEK_DATA: %lld, but byte %zu is no hole", (long long)data, i);
    if (hole < (int64_t)off || hole > (int64_t)o->size)
        mismatch("SEEK_HOLE: %lld", (long long)hole);
    if ((size_t)hole < o->size && o->byte[hole])
        mismatch("SEEK_HOLE: %lld, but there is data", (long long)hole);
}

static void op_map(int h)
{
    struct object *o = handle[h].of;
    size_t off = rnd_below(o->size), n = rnd_length(o->size - off);
    bool store = rnd_below(2);
    if (!target->map || lacks_map || n == 0 || (handle[h].flags & O_ACCMODE) == O_WRONLY)
        return;
    store &= (handle[h].flags & O_ACCMODE) == O_RDWR;
    say_op("map %d at %zu, %s %zu bytes", h, off, store ? "store" : "load", n);
    if (store)
        fill(n);
    else
        memset(buf, 0x55, n);
    int r = target->map(h, store, buf, n, off);
    if (r == -EDOM)
        mismatch("the page has bytes past the end of the file");
    expect("map", r, 0);
    if (store)
        memcpy(o->byte + off, buf, n);
    else
        compare(h, off, n, "mapping");
}

/* ---- operations on handles and names --------------------------------------------------------- */

static void op_close(int h)
{
    struct object *o = handle[h].of;
    say_op("close %d", h);
    handle[h].of = NULL;
    expect("close", target->close(h), 0);
    object_check(o);
}

static void op_open(void)
{
    static const int modes[] = {O_RDWR, O_RDWR, O_RDWR, O_RDONLY, O_RDWR | O_APPEND};
    int h = (int)rnd_below(HANDLES), i = (int)rnd_below(NAMES);
    int flags = modes[rnd_below(5)];
    if (handle[h].of)
        op_close(h);
    if (rnd_below(8) == 0 && (flags & O_ACCMODE) != O_RDONLY)
        flags |= O_TRUNC;
    if (rnd_below(2))
        flags |= O_CREAT | (rnd_below(4) ? 0 : O_EXCL);
    say_op("open %d: %s%s%s%s%s%s", h, name_of[i], flags & O_RDWR ? " rw" : " r",
           flags & O_APPEND ? " append" : "", flags & O_TRUNC ? " trunc" : "",
           flags & O_CREAT ? " creat" : "", flags & O_EXCL ? " excl" : "");
    int want = 0;
    if (!named[i] && !(flags & O_CREAT))
        want = -ENOENT;
    if (named[i] && flags & O_EXCL)
        want = -EEXIST;
    expect("open", target->open(h, name_of[i], flags), want);
    if (want)
        return;
    if (!named[i])
        named[i] = object_new();
    handle[h] = (struct handle){named[i], flags};
    if (flags & O_TRUNC)
        resize(named[i], 0);
}

/* Some file systems have nothing to say of an open file that lost its name. */
static bool would_orphan(int i)
{
    for (int h = 0; h < HANDLES; h++)
        if (named[i] && handle[h].of == named[i] && lacks_orphans)
            return true;
    return false;
}

static void op_rename(void)
{
    int a = (int)rnd_below(NAMES), b = (int)rnd_below(NAMES);
    unsigned flags = rnd_below(4) || lacks_exchange ? 0 : RENAME_EXCHANGE;
    if (would_orphan(b))
        return;
    say_op("rename %s to %s%s", name_of[a], name_of[b], flags ? ", exchanging" : "");
    int r = target->rename(name_of[a], name_of[b], flags);
    int want = !named[a] || (flags && !named[b]) ? -ENOENT : 0;
    if (flags && (r == -EOPNOTSUPP || r == -EINVAL)) {
        lacks_exchange = true;
        return;
    }
    expect("rename", r, want);
    if (r || named[a] == named[b])
        return;
    struct object *moved = named[a], *other = named[b];
    if (flags) {
        named[a] = other;
    } else {
        unname(b);
        named[a] = NULL;
    }
    named[b] = moved;
}

static void op_link(void)
{
    int a = (int)rnd_below(NAMES), b = (int)rnd_below(NAMES);
    say_op("link %s to %s", name_of[a], name_of[b]);
    expect("link", target->link(name_of[a], name_of[b]),
           !named[a]  ? -ENOENT
           : named[b] ? -EEXIST
                      : 0);
    if (!named[a] || named[b])
        return;
    named[b] = named[a];
    named[a]->nlink++;
}

static void op_remove(void)
{
    int i = (int)rnd_below(NAMES);
    if (would_orphan(i))
        return;
    say_op("unlink %s", name_of[i]);
    expect("unlink", target->remove(name_of[i]), named[i] ? 0 : -ENOENT);
    unname(i);
}

static void check_stat(int h, const char *name, const struct object *o)
{
    uint64_t size, nlink;
    int r = target->stat(h, name, &size, &nlink);
    if (name && !o) {
        expect(name, r, -ENOENT);
        return;
    }
    expect("stat", r, 0);
    if (size != o->size || nlink != o->nlink)
        mismatch("%s%.0d: size %llu, %llu links; should be %zu, %u", name ? name : "handle ",
                 name ? 0 : h, (unsigned long long)size, (unsigned long long)nlink, o->size,
                 o->nlink);
}

static void op_check_all(void)
{
    say_op("check all");
    for (int i = 0; i < NAMES; i++)
        check_stat(-1, name_of[i], named[i]);
    for (int h = 0; h < HANDLES; h++)
        if (handle[h].of) {
            check_stat(h, NULL, handle[h].of);
            op_read(h, 0, handle[h].of->size + 10);
        }
}

static void op_any(void)
{
    int h = any_open(), what = (int)rnd_below(100);
    if (h < 0 || what < 6)
        op_open();
    else if (what < 30)
        op_read(h, rnd_offset(handle[h].of->size), rnd_length(max_size));
    else if (what < 55)
        op_write(h);
    else if (what < 62)
        op_truncate(h);
    else if (what < 69)
        op_fallocate(h);
    else if (what < 74)
        op_copy(h);
    else if (what < 78 && !lacks_seek)
        op_seek(h);
    else if (what < 86 && handle[h].of->size)
        op_map(h);
    else if (what < 88)
        expect("sync", target->sync(h, rnd_below(2)), 0);
    else if (what < 90)
        check_stat(h, NULL, handle[h].of);
    else if (what < 93)
        op_rename();
    else if (what < 95)
        op_link();
    else if (what < 97)
        op_remove();
    else if (what < 98 && target->forget)
        expect("forget", target->forget(h), 0);
    else
        op_check_all();
}

/* ---- the program ----------------------------------------------------------------------------- */

static void play(void)
{
    state = (seed + 1) * 0x9e3779b97f4a7c15u;
    buf = malloc(max_size + 4096);
    assert(buf);
    for (int i = 0; i < OBJECTS; i++) {
        object[i].byte = malloc(max_size);
        assert(object[i].byte);
    }
    for (int i = 0; i < NAMES; i++)
        target->remove(name_of[i]); /* of an earlier run in the same place */
    for (step = 1; step <= ops; step++)
        op_any();
    op_check_all();
    for (int h = 0; h < HANDLES; h++)
        if (handle[h].of)
            op_close(h);
    for (int i = 0; i < NAMES; i++)
        if (named[i])
            expect("unlink at the end", target->remove(name_of[i]), 0);
    for (int i = 0; i < OBJECTS; i++)
        free(object[i].byte);
    free(buf);
    printf("%ld operations agree (--seed %llu)%s%s%s", ops, (unsigned long long)seed,
           lacks_copy ? "; no copy" : "", lacks_seek ? "; no seek" : "",
           lacks_exchange ? "; no exchange" : "");
    for (int m = 0; m < 256; m++)
        if (lacks_mode[m])
            printf("; no fallocate mode %x", (unsigned)m);
    putchar('\n');
}

static bool by_path; /* through system calls on the stack's mount point */

static _Noreturn void give_up(const char *what, const struct pl_err *err)
{
    printf("fsx: %s%s\n", what, err->text);
    exit(1);
}

static void in_the_box(void *arg, const char *scratch, int fd)
{
    struct pl_err err = {0};
    if (tree_target_open(arg, scratch, &err) < 0)
        give_up("", &err);
    target = by_path ? &path_target : &tree_target;
    if (by_path && !stack_path())
        pl_fail(&err, -EINVAL, "%s: not a directory or a mount", (const char *)arg);
    if (err.code || (by_path && path_target_open(stack_path(), &err) < 0))
        give_up("", &err);
    play();
    if (by_path)
        path_target_close();
    if (tree_target_close(&err) < 0)
        give_up("after all: ", &err);
}

static int run_stack(char *stack)
{
    char dir[4000], text[1000];
    int status =
        box_run(stack_dir(stack, dir, sizeof(dir)), 3600, in_the_box, stack, text, sizeof(text));
    if (status == -1 || WIFSIGNALED(status)) {
        printf("fsx: %s (--seed %llu)\n", status == -1 ? text : strsignal(WTERMSIG(status)),
               (unsigned long long)seed);
        return 1;
    }
    return WEXITSTATUS(status) ? 1 : 0;
}

static int run_path(const char *dir)
{
    struct pl_err err;
    target = &path_target;
    if (path_target_open(dir, &err) < 0) {
        fprintf(stderr, "fsx: %s\n", err.text);
        return 1;
    }
    play();
    path_target_close();
    return 0;
}

static bool without(char *list)
{
    static const struct {
        const char *what;
        bool *lacks;
    } all[] = {{"map", &lacks_map},
               {"seek", &lacks_seek},
               {"copy", &lacks_copy},
               {"orphans", &lacks_orphans}};
    for (char *save, *w = strtok_r(list, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
        size_t i = 0;
        while (i < sizeof(all) / sizeof(*all) && strcmp(w, all[i].what))
            i++;
        if (i == sizeof(all) / sizeof(*all))
            return false;
        *all[i].lacks = true;
    }
    return true;
}

static int usage(void)
{
    fprintf(stderr,
            "usage: fsx [--seed N] [--ops N] [--size BYTES] [--without WHAT,...] [-v]\n"
            "           STACK | --path DIR|STACK\n"
            "  STACK as in conform (mem, 'fuse(p9(mem))'); with --path system calls are\n"
            "  used, on a directory or where the stack is mounted, and memory mappings too\n"
            "  WHAT the file system is known not to do right: map, seek (data and holes),\n"
            "  copy, orphans (open files whose names are gone)\n"
            "  example: fsx --ops 5000 --path 'fuse(mem)'\n");
    return 2;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"seed", required_argument, NULL, 's'},    {"ops", required_argument, NULL, 'o'},
        {"size", required_argument, NULL, 'z'},    {"path", required_argument, NULL, 'p'},
        {"without", required_argument, NULL, 'w'}, {0}};
    const char *path = NULL;
    seed = (uint64_t)time(NULL) * 1000 + (uint64_t)getpid() % 1000;
    for (int c; (c = getopt_long(argc, argv, "v", longs, NULL)) != -1;) {
        if (c == 's')
            seed = strtoull(optarg, NULL, 0);
        else if (c == 'o')
            ops = atol(optarg);
        else if (c == 'z')
            max_size = (size_t)atol(optarg);
        else if (c == 'p')
            path = optarg;
        else if (c == 'w' && without(optarg))
            continue;
        else if (c == 'v')
            verbose_ops = true;
        else
            return usage();
    }
    if (max_size < 10000 || ops < 1 || optind + !path != argc)
        return usage();
    printf("seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    by_path = path && strcspn(path, ":(") < strcspn(path, "/");
    return path && !by_path ? run_path(path) : run_stack(path ? (char *)path : argv[optind]);
}
