/* SPDX-License-Identifier: MIT */
/*
 * Two directories of the disk, of which one is kept like the other: through a layer that can kill
 * the replicator at each operation, let it fail, and let something happen in between.
 */
#ifndef UNIT_REPLICA_FIXTURE_H
#define UNIT_REPLICA_FIXTURE_H

#include "sync/replica.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <plenum/sources.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PATHS 1024

/* ---- the hook: a layer over the replica that is asked before and after each operation ---- */

struct drill;
struct hook {
    struct pl_tree tree;
    struct drill *x;
};

struct drill {
    char dir[64], src[80], dst[80], file[80];
    struct pl_call call;
    struct pl_tree *s, *d;
    struct notes notes;
    struct replica r;
    struct replica_count count;
    uint64_t seq;
    char told[8192];
    /* killing */
    unsigned ops, at; /* the n-th operation of the replica is the last */
    bool done, synced;
    uint64_t log; /* bytes of notes after the last operation */
    void (*meanwhile)(struct drill *x, const struct pl_event *ev); /* before each operation */
    unsigned rnd;
    unsigned fail; /* the n-th operation and all that follow fail, as if the replica had gone; */
    bool answers;  /* that one is done, and only its answer lost */
};

static inline unsigned rnd(struct drill *x, unsigned below)
{
    x->rnd = x->rnd * 1103515245 + 12345;
    return (x->rnd >> 12) % below;
}

static inline int before(struct pl_tree *t, struct pl_call *c, const struct pl_event *ev)
{
    struct drill *x = ((struct hook *)t)->x;
    x->ops++;
    if (x->at == x->ops && !x->done)
        _exit(9);
    x->synced |= ev->op == PL_OP_fsync || ev->op == PL_OP_syncfs;
    if (x->meanwhile)
        x->meanwhile(x, ev);
    if (x->fail && (x->ops > x->fail || (x->ops == x->fail && !x->answers)))
        return -EIO;
    return 0;
}

static inline void after(struct pl_tree *t, struct pl_call *c, const struct pl_event *ev,
                         int64_t result)
{
    struct drill *x = ((struct hook *)t)->x;
    x->log = x->notes.log.size;
    if (x->at == x->ops && x->done)
        _exit(9);
    if (x->fail == x->ops && x->answers && ev->told)
        *ev->told = -EIO;
}

static const struct pl_ops hook_ops = {
    .name = "hook", .before = before, .after = after, .by_fd = true};

/* ---- fixture ---- */

static inline void tell(void *arg, enum replica_kind kind, const char *path, const char *detail)
{
    static const char letters[] = "MRLWXDKC";
    struct drill *x = arg;
    size_t n = strlen(x->told);
    if (kind == REPLICA_DIVERGED || kind == REPLICA_CANNOT || kind == REPLICA_KEPT)
        snprintf(x->told + n, sizeof(x->told) - n, "%c%s %s; ", letters[kind], path, detail);
}

static inline void begin(struct drill *x)
{
    struct pl_err err;
    struct pl_tree *host;
    struct hook *h = calloc(1, sizeof(*h));
    pl_call_init_self(&x->call);
    assert_int_equal(pl_host_open(x->src, &x->s, &err), 0);
    assert_int_equal(pl_host_open(x->dst, &host, &err), 0);
    pl_tree_init(&h->tree, &hook_ops, host);
    h->x = x;
    x->d = &h->tree;
    x->ops = x->at = x->fail = 0;
    x->synced = false;
    assert_int_equal(notes_open(&x->notes, x->file, false, &err), 0);
    x->r = (struct replica){.src = x->s,
                            .dst = x->d,
                            .call = &x->call,
                            .notes = &x->notes,
                            .tell = tell,
                            .arg = x,
                            .resolve = x->r.resolve,
                            .count = &x->count};
    assert_int_equal(replica_open(&x->r), 0);
}

static inline void stop(struct drill *x)
{
    replica_close(&x->r);
    notes_close(&x->notes);
    pl_tree_unref(x->s);
    pl_tree_unref(x->d);
    pl_call_done(&x->call);
}

static inline void run(const char *format, ...)
{
    char *command;
    va_list ap;
    va_start(ap, format);
    assert_true(vasprintf(&command, format, ap) > 0);
    va_end(ap);
    assert_int_equal(system(command), 0);
    free(command);
}

/* In memory that children share, so that their parent knows how far they came. */
static inline struct drill *make(void)
{
    struct drill *x =
        mmap(NULL, sizeof(*x), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(x != MAP_FAILED);
    /* In memory, where that is: what is killed needs no disk. */
    strcpy(x->dir, "/dev/shm/plenum-replicas.XXXXXX");
    if (!mkdtemp(x->dir)) {
        strcpy(x->dir, "/tmp/plenum-replicas.XXXXXX");
        assert_non_null(mkdtemp(x->dir));
    }
    snprintf(x->src, sizeof(x->src), "%s/src", x->dir);
    snprintf(x->dst, sizeof(x->dst), "%s/dst", x->dir);
    snprintf(x->file, sizeof(x->file), "%s/notes", x->dir);
    assert_int_equal(mkdir(x->src, 0755), 0);
    assert_int_equal(mkdir(x->dst, 0755), 0);
    return x;
}

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    return remove(path);
}

static inline void remove_all(const char *path)
{
    assert_int_equal(nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static inline void end(struct drill *x)
{
    remove_all(x->dir);
    munmap(x, sizeof(*x));
}

/* ---- files ---- */

static inline const char *in(const char *top, const char *path)
{
    static char buf[4][512];
    static unsigned i;
    i = (i + 1) % 4;
    snprintf(buf[i], sizeof(buf[i]), "%s%s", top, path);
    return buf[i];
}

static inline char *load(const char *file, size_t *n)
{
    struct stat st;
    int fd = open(file, O_RDONLY | O_NONBLOCK);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    char *buf = calloc(1, (size_t)st.st_size + 1);
    *n = (size_t)read(fd, buf, (size_t)st.st_size);
    close(fd);
    return buf;
}

static inline void put(const char *top, const char *path, const char *data, size_t n, uint64_t off)
{
    int fd = open(in(top, path), O_WRONLY | O_CREAT, 0640);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, n, (off_t)off), n);
    close(fd);
}

static inline void filled(const char *top, const char *path, unsigned seed, size_t n)
{
    char *buf = malloc(n + 1);
    for (size_t i = 0; i < n; i++)
        buf[i] = (char)((i * 2654435761u + seed) >> 11);
    put(top, path, buf, n, 0);
    free(buf);
}

/* All paths beneath, as "/a/b". */
static inline size_t list(const char *top, const char *at, char (*v)[256], size_t n)
{
    DIR *d = opendir(in(top, at));
    struct dirent *e;
    while (d && (e = readdir(d)) && n < PATHS) {
        char sub[256];
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        snprintf(sub, sizeof(sub), "%.120s/%.120s", at, e->d_name);
        strcpy(v[n++], sub);
        if (e->d_type == DT_DIR)
            n = list(top, sub, v, n);
    }
    if (d)
        closedir(d);
    return n;
}

/* Is it told of, or what it is in? */
static inline bool reported(struct drill *x, const char *path)
{
    char word[260];
    for (const char *slash = path; slash; slash = strchr(slash + 1, '/')) {
        const char *next = strchr(slash + 1, '/');
        size_t n = next ? (size_t)(next - path) : strlen(path);
        snprintf(word, sizeof(word), "D%.*s ", (int)n, path);
        if (strstr(x->told, word))
            return true;
    }
    return false;
}

/* What is not the same; NULL: nothing. */
static inline const char *differs(struct drill *x, const char *path)
{
    struct stat a, b;
    char ta[64] = {0}, tb[64] = {0};
    if (lstat(in(x->src, path), &a) < 0 || lstat(in(x->dst, path), &b) < 0)
        return "is missing";
    if (a.st_mode != b.st_mode)
        return "has another mode";
    if (!*x->told && S_ISREG(a.st_mode) && a.st_nlink != b.st_nlink)
        return "has other names";
    if (S_ISLNK(a.st_mode))
        return readlink(in(x->src, path), ta, 63) == readlink(in(x->dst, path), tb, 63) &&
                       !strcmp(ta, tb)
                   ? NULL
                   : "leads elsewhere";
    if (a.st_mtim.tv_sec != b.st_mtim.tv_sec || a.st_mtim.tv_nsec != b.st_mtim.tv_nsec)
        return "has another time";
    if (!S_ISREG(a.st_mode))
        return NULL;
    size_t na, nb;
    char *da = load(in(x->src, path), &na), *db = load(in(x->dst, path), &nb);
    bool same = na == nb && !memcmp(da, db, na);
    free(da);
    free(db);
    return same ? NULL : "has another content";
}

/* Everything is the same, except what is told of. */
static inline void same(struct drill *x, const char *when)
{
    static char a[PATHS][256], b[PATHS][256];
    const char *why;
    struct stat st;
    size_t na = list(x->src, "", a, 0), nb = list(x->dst, "", b, 0);
    for (size_t i = 0; i < nb; i++)
        if (lstat(in(x->src, b[i]), &st) < 0 && !*x->told)
            fail_msg("%s: %s is too much", when, b[i]);
    for (size_t i = 0; i < na; i++)
        if ((why = differs(x, a[i])) && !reported(x, a[i]))
            fail_msg("%s: %s %s; told: %s", when, a[i], why, x->told);
}

#endif
