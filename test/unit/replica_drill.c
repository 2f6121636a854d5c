/* SPDX-License-Identifier: MIT */
/*
 * Two directories of the disk, of which one is kept like the other: while somebody else changes the
 * replica too, with the replicator killed before and after each of its operations, and with a
 * replica that forgets what was not synced.
 */
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
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PATHS 1024
#define TOKEN 16
#define SOME  5 /* of what needs a copy of the replica only each so-many-th point is done */

/* ---- the hook: a layer over the replica that is asked before and after each operation ---- */

struct drill;
struct hook {
    struct pl_tree tree;
    struct drill *x;
};

struct drill {
    char dir[64], src[80], dst[80], file[80], was[80];
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
    /* somebody else */
    unsigned rnd, chance;
    enum pl_op last;
    unsigned tokens, held, made;
    bool dead[4096];
};

static unsigned rnd(struct drill *x, unsigned below)
{
    x->rnd = x->rnd * 1103515245 + 12345;
    return (x->rnd >> 12) % below;
}

static void somebody_else(struct drill *x);

/* What the parent is to know of it goes along. */
static void die(struct drill *x)
{
    FILE *f = fopen(x->was, "w");
    fprintf(f, "%d %lu", x->synced, x->log);
    fclose(f);
    _exit(9);
}

static int before(struct pl_tree *t, struct pl_call *c, const struct pl_event *ev)
{
    struct drill *x = ((struct hook *)t)->x;
    x->ops++;
    if (x->at == x->ops && !x->done)
        die(x);
    x->synced |= ev->op == PL_OP_fsync || ev->op == PL_OP_syncfs;
    /* Between a look and what is done upon it there is nobody, nor between that and the next look:
     * that is as much as can be had without a lease. */
    bool change = (pl_op_modifies(ev->op) || ev->op == PL_OP_close) && ev->op != PL_OP_create;
    bool after_rename = x->last == PL_OP_rename || x->last == PL_OP_link;
    if (x->chance && !change && !after_rename && rnd(x, x->chance) == 0)
        somebody_else(x);
    x->last = ev->op;
    return 0;
}

static void after(struct pl_tree *t, struct pl_call *c, const struct pl_event *ev, int64_t result)
{
    struct drill *x = ((struct hook *)t)->x;
    x->log = x->notes.log.size;
    if (x->at == x->ops && x->done)
        die(x);
}

static const struct pl_ops hook_ops = {
    .name = "hook", .before = before, .after = after, .by_fd = true};

/* ---- fixture ---- */

static void tell(void *arg, enum replica_kind kind, const char *path, const char *detail)
{
    static const char letters[] = "MRLWXDKC";
    struct drill *x = arg;
    size_t n = strlen(x->told);
    if (kind == REPLICA_DIVERGED || kind == REPLICA_CANNOT || kind == REPLICA_KEPT)
        snprintf(x->told + n, sizeof(x->told) - n, "%c%s ", letters[kind], path);
}

static void begin(struct drill *x)
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
    x->ops = x->at = 0;
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

static void stop(struct drill *x)
{
    replica_close(&x->r);
    notes_close(&x->notes);
    pl_tree_unref(x->s);
    pl_tree_unref(x->d);
    pl_call_done(&x->call);
}

static void run(const char *format, ...)
{
    char *command;
    va_list ap;
    va_start(ap, format);
    assert_true(vasprintf(&command, format, ap) > 0);
    va_end(ap);
    assert_int_equal(system(command), 0);
    free(command);
}

static void make(struct drill *x)
{
    memset(x, 0, sizeof(*x));
    /* In memory, where that is: what is killed needs no disk. */
    strcpy(x->dir, "/dev/shm/plenum-replicas.XXXXXX");
    if (!mkdtemp(x->dir)) {
        strcpy(x->dir, "/tmp/plenum-replicas.XXXXXX");
        assert_non_null(mkdtemp(x->dir));
    }
    snprintf(x->src, sizeof(x->src), "%s/src", x->dir);
    snprintf(x->dst, sizeof(x->dst), "%s/dst", x->dir);
    snprintf(x->file, sizeof(x->file), "%s/notes", x->dir);
    snprintf(x->was, sizeof(x->was), "%s/was", x->dir);
    assert_int_equal(mkdir(x->src, 0755), 0);
    assert_int_equal(mkdir(x->dst, 0755), 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    return remove(path);
}

static void remove_all(const char *path)
{
    assert_int_equal(nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static void end(struct drill *x)
{
    remove_all(x->dir);
}

/* ---- files ---- */

static const char *in(const char *top, const char *path)
{
    static char buf[4][512];
    static unsigned i;
    i = (i + 1) % 4;
    snprintf(buf[i], sizeof(buf[i]), "%s%s", top, path);
    return buf[i];
}

static char *load(const char *file, size_t *n)
{
    struct stat st;
    int fd = open(file, O_RDONLY | O_NONBLOCK);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    char *buf = calloc(1, (size_t)st.st_size + 1);
    *n = (size_t)read(fd, buf, (size_t)st.st_size);
    close(fd);
    return buf;
}

static void put(const char *top, const char *path, const char *data, size_t n, uint64_t off)
{
    int fd = open(in(top, path), O_WRONLY | O_CREAT, 0640);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, n, (off_t)off), n);
    close(fd);
}

static void filled(const char *top, const char *path, unsigned seed, size_t n)
{
    char *buf = malloc(n + 1);
    for (size_t i = 0; i < n; i++)
        buf[i] = (char)((i * 2654435761u + seed) >> 11);
    put(top, path, buf, n, 0);
    free(buf);
}

/* All paths beneath, as "/a/b". */
static size_t list(const char *top, const char *at, char (*v)[256], size_t n)
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
static bool reported(struct drill *x, const char *path)
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

static bool same_file(struct drill *x, const char *path)
{
    struct stat a, b;
    char ta[64] = {0}, tb[64] = {0};
    if (lstat(in(x->src, path), &a) < 0 || lstat(in(x->dst, path), &b) < 0)
        return false;
    if (a.st_mode != b.st_mode || (!*x->told && a.st_nlink != b.st_nlink))
        return false;
    if (S_ISLNK(a.st_mode))
        return readlink(in(x->src, path), ta, 63) == readlink(in(x->dst, path), tb, 63) &&
               !strcmp(ta, tb);
    if (a.st_mtim.tv_sec != b.st_mtim.tv_sec || a.st_mtim.tv_nsec != b.st_mtim.tv_nsec)
        return false;
    if (!S_ISREG(a.st_mode))
        return true;
    size_t na, nb;
    char *da = load(in(x->src, path), &na), *db = load(in(x->dst, path), &nb);
    bool same = na == nb && !memcmp(da, db, na);
    free(da);
    free(db);
    return same;
}

/* Everything is the same, except what is told of. */
static void same(struct drill *x, const char *when)
{
    static char a[PATHS][256], b[PATHS][256];
    struct stat st;
    size_t na = list(x->src, "", a, 0), nb = list(x->dst, "", b, 0);
    for (size_t i = 0; i < na; i++)
        if (!same_file(x, a[i]) && !reported(x, a[i]))
            fail_msg("%s: %s is not the same; told: %s", when, a[i], x->told);
    for (size_t i = 0; i < nb; i++)
        if (lstat(in(x->src, b[i]), &st) < 0 && !*x->told)
            fail_msg("%s: %s is too much", when, b[i]);
}

/* ---- killed anywhere ---- */

static void first_state(struct drill *x)
{
    mkdir(in(x->src, "/a"), 0750);
    mkdir(in(x->src, "/a/b"), 0755);
    filled(x->src, "/a/b/f", 1, 150000);
    filled(x->src, "/a/g", 2, 70000);
    filled(x->src, "/over", 3, 200);
    filled(x->src, "/cut", 4, 140000);
    filled(x->src, "/gone", 5, 1000);
    filled(x->src, "/grow", 6, 1000);
    assert_int_equal(link(in(x->src, "/grow"), in(x->src, "/a/twin")), 0);
    assert_int_equal(symlink("to/there", in(x->src, "/s")), 0);
    mkdir(in(x->src, "/p"), 0755);
    mkdir(in(x->src, "/q"), 0755);
    filled(x->src, "/p/1", 7, 100);
    filled(x->src, "/q/2", 8, 90000);
}

static const struct journal_record changes[] = {
    {.path = "/a", .path2 = "/c"},
    {.path = "/c/b/f", .path2 = "", .off = 70000, .len = 10},
    {.path = "/c/b/f", .path2 = "/over"},
    {.path = "/cut", .path2 = "", .off = 66000, .len = JOURNAL_END(66000)},
    {.path = "/gone", .path2 = ""},
    {.path = "/grow", .path2 = "", .off = 1000, .len = 80000},
    {.path = "/new", .path2 = ""},
    {.path = "/new/n", .path2 = "", .off = 0, .len = 100000},
    {.path = "/s", .path2 = ""},
    {.path = "/p", .path2 = "/q"},
    {.path = "/q/1", .path2 = ""},
    {.path = "/grow", .path2 = "/link"},
};

static void second_state(struct drill *x)
{
    assert_int_equal(rename(in(x->src, "/a"), in(x->src, "/c")), 0);
    put(x->src, "/c/b/f", "0123456789", 10, 70000);
    assert_int_equal(rename(in(x->src, "/c/b/f"), in(x->src, "/over")), 0);
    assert_int_equal(truncate(in(x->src, "/cut"), 66000), 0);
    unlink(in(x->src, "/gone"));
    filled(x->src, "/grow", 6, 81000);
    mkdir(in(x->src, "/new"), 0700);
    filled(x->src, "/new/n", 9, 100000);
    unlink(in(x->src, "/s"));
    assert_int_equal(symlink("elsewhere", in(x->src, "/s")), 0);
    assert_int_equal(rename(in(x->src, "/p"), in(x->src, "/t")), 0);
    assert_int_equal(rename(in(x->src, "/q"), in(x->src, "/p")), 0);
    assert_int_equal(rename(in(x->src, "/t"), in(x->src, "/q")), 0);
    chmod(in(x->src, "/q/1"), 0400);
    assert_int_equal(link(in(x->src, "/grow"), in(x->src, "/link")), 0);
}

static void carry_out(struct drill *x)
{
    struct journal_record recs[sizeof(changes) / sizeof(*changes)];
    struct stat st;
    size_t n = sizeof(recs) / sizeof(*recs);
    memcpy(recs, changes, sizeof(recs));
    for (size_t i = 0; i < n; i++) {
        recs[i].seq = i + 1;
        recs[i].ino = lstat(in(x->src, *recs[i].path2 ? recs[i].path2 : recs[i].path), &st) < 0
                          ? 0
                          : st.st_ino;
    }
    /* A path of its time, which is another by now. */
    recs[1].ino = lstat(in(x->src, "/over"), &st) < 0 ? 0 : st.st_ino;
    assert_int_equal(replica_apply(&x->r, recs, n, false), 0);
}

/* Where the record behind `at` in the log begins. */
static uint64_t log_next(struct drill *x, uint64_t at)
{
    uint8_t head[4];
    int fd = open(x->file, O_RDONLY);
    assert_true(fd >= 0 && pread(fd, head, 4, (off_t)at) == 4);
    close(fd);
    return at + 12 + (uint64_t)(head[0] | head[1] << 8 | head[2] << 16);
}

/* One run, killed at its n-th operation: false, it came to its end. `keep`: with a copy of the
 * replica as it was before. */
static bool killed(struct drill *x, unsigned at, bool done, bool keep)
{
    int status, synced = 0;
    make(x);
    first_state(x);
    begin(x);
    assert_int_equal(replica_compare(&x->r, 0), 0);
    stop(x);
    second_state(x);
    if (keep)
        run("cp -a %s %s.was", x->dst, x->dst);
    pid_t pid = fork();
    if (pid == 0) {
        begin(x);
        x->log = x->notes.log.size;
        x->ops = 0;
        x->at = at;
        x->done = done;
        carry_out(x);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    FILE *f = fopen(x->was, "r");
    assert_true(!f || fscanf(f, "%d %lu", &synced, &x->log) == 2);
    if (f)
        fclose(f);
    x->synced = synced;
    return WEXITSTATUS(status) != 0;
}

static void recovered(struct drill *x, const char *when, bool tells)
{
    *x->told = 0;
    begin(x);
    carry_out(x);
    if (!tells && *x->told)
        fail_msg("%s: %s", when, x->told);
    same(x, when);
    stop(x);
}

/* Killed before the n-th operation, with the notes as they were after the one before it, and after
 * each record since. */
static unsigned with_fewer_notes(struct drill *x, unsigned n)
{
    struct stat st;
    char when[64];
    unsigned cuts = 0;
    assert_int_equal(stat(x->file, &st), 0);
    run("cp -a %s %s.k && cp %s %s.k", x->dst, x->dst, x->file, x->file);
    for (uint64_t cut = x->log, log = x->log; cut < (uint64_t)st.st_size; cuts++) {
        assert_int_equal(truncate(x->file, (off_t)cut), 0);
        snprintf(when, sizeof(when), "before operation %u, with %lu bytes of notes", n, cut);
        recovered(x, when, false);
        remove_all(x->dst);
        run("cp -a %s.k %s && cp %s.k %s", x->dst, x->dst, x->file, x->file);
        cut = log_next(x, cut);
        x->log = log;
    }
    return cuts;
}

/* Before each operation of the replica, with all that was noted since the one before it, and, of
 * some, with less of that: what is between is there too. */
static void killed_at_every_point(void **state)
{
    struct drill x;
    unsigned n = 1, cuts = 0;
    char when[64];
    for (; killed(&x, n, false, false); n++) {
        if (n % SOME == 0)
            cuts += with_fewer_notes(&x, n);
        snprintf(when, sizeof(when), "killed before operation %u", n);
        recovered(&x, when, false);
        end(&x);
    }
    recovered(&x, "not killed", false);
    end(&x);
    assert_true(n > 60 && cuts > 10);
}

/* What was not synced is forgotten by the replica, though not by the notes. Nothing is lost: what
 * cannot be explained is told of. */
static void forgotten(void **state)
{
    struct drill x;
    unsigned n = 1, some = 0;
    char when[64];
    for (; killed(&x, n, true, true); n += SOME) {
        if (!x.synced) {
            remove_all(x.dst);
            assert_int_equal(rename(in(x.dst, ".was"), x.dst), 0);
            some++;
        }
        snprintf(when, sizeof(when), "forgotten after operation %u", n);
        recovered(&x, when, true);
        end(&x);
    }
    recovered(&x, "not killed", false);
    end(&x);
    assert_true(some > 10);
}

/* ---- somebody else ---- */

/* Which tokens are in the replica; false: it cannot be said, as a file is held. */
static bool find_tokens(struct drill *x, bool *there)
{
    static char v[PATHS][256];
    size_t n = list(x->dst, "", v, 0);
    memset(there, 0, x->tokens);
    for (size_t i = 0; i < n; i++) {
        struct stat st;
        size_t size;
        unsigned k;
        if (lstat(in(x->dst, v[i]), &st) < 0 || !S_ISREG(st.st_mode))
            continue;
        int fd = open(in(x->dst, v[i]), O_RDONLY | O_NONBLOCK);
        if (fd < 0)
            return false;
        close(fd);
        char *data = load(in(x->dst, v[i]), &size), *p = data;
        while (size >= TOKEN && (p = memmem(p, size - (size_t)(p - data), "<foreign", 8))) {
            if (sscanf(p, "<foreign%06u>", &k) == 1 && k < x->tokens)
                there[k] = true;
            p++;
        }
        free(data);
    }
    return true;
}

static void all_there(struct drill *x, const char *when)
{
    static bool there[4096];
    assert_true(find_tokens(x, there));
    for (unsigned i = 0; i < x->tokens; i++)
        if (!there[i] && !x->dead[i])
            fail_msg("%s: the foreign change %u is lost; told: %s", when, i, x->told);
}

static bool change_file(struct drill *x, const char *path, const char *token)
{
    struct stat st;
    struct timespec times[2];
    unsigned how = rnd(x, 4);
    if (how == 3) { /* another in its place */
        put(x->dst, "/other", token, TOKEN, 0);
        return rename(in(x->dst, "/other"), in(x->dst, path)) == 0;
    }
    int fd = open(in(x->dst, path), O_WRONLY | O_NONBLOCK);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    /* Within its size, at its end; the time is put back. */
    off_t slots = st.st_size / TOKEN, at = st.st_size;
    if (how < 2 && slots > 0)
        at = (off_t)rnd(x, (unsigned)slots) * TOKEN;
    assert_int_equal(pwrite(fd, token, TOKEN, at), TOKEN);
    times[0] = st.st_atim;
    times[1] = st.st_mtim;
    if (how == 0)
        futimens(fd, times);
    close(fd);
    return true;
}

static void somebody_else(struct drill *x)
{
    static char v[PATHS][256];
    static bool was[4096], is[4096];
    char token[TOKEN + 1], name[16];
    struct stat st;
    size_t n = list(x->dst, "", v, 0);
    if (x->tokens == 4000)
        return;
    snprintf(token, sizeof(token), "<foreign%06u>\n", x->tokens);
    if (!find_tokens(x, was)) {
        x->held++;
        return;
    }
    if (n == 0 || rnd(x, 6) == 0) {
        snprintf(name, sizeof(name), "/f%u", rnd(x, 12));
        if (lstat(in(x->dst, name), &st) == 0)
            return;
        put(x->dst, name, token, TOKEN, 0);
    } else {
        const char *path = v[rnd(x, (unsigned)n)];
        if (lstat(in(x->dst, path), &st) < 0 || !S_ISREG(st.st_mode) ||
            !change_file(x, path, token))
            return;
    }
    x->made++;
    x->tokens++;
    find_tokens(x, is);
    for (unsigned i = 0; i + 1 < x->tokens; i++) /* what he overwrote himself */
        x->dead[i] |= was[i] && !is[i];
}

/* One change of the source, and what is recorded of it. */
static struct journal_record change_source(struct drill *x, char path[2][32])
{
    struct stat st;
    const char *dirs[] = {"", "/d", "/e"};
    struct journal_record rec = {.seq = ++x->seq, .path = path[0], .path2 = path[1]};
    snprintf(path[0], 32, "%s/f%u", dirs[rnd(x, 3)], rnd(x, 6));
    *path[1] = 0;
    bool is = lstat(in(x->src, path[0]), &st) == 0;
    rec.ino = is ? st.st_ino : 0;
    switch (is ? rnd(x, 8) : 9) {
    case 0:
        unlink(in(x->src, path[0]));
        break;
    case 1:
        snprintf(path[1], 32, "%s/f%u", dirs[rnd(x, 3)], rnd(x, 6));
        rename(in(x->src, path[0]), in(x->src, path[1]));
        break;
    case 2:
        rec.off = rnd(x, (unsigned)st.st_size + 1);
        rec.len = JOURNAL_END(rec.off);
        assert_int_equal(truncate(in(x->src, path[0]), (off_t)rec.off), 0);
        break;
    case 3:
        snprintf(path[1], 32, "%s/l%u", dirs[rnd(x, 3)], rnd(x, 6));
        if (link(in(x->src, path[0]), in(x->src, path[1])) < 0)
            *path[1] = 0;
        break;
    case 9:
        filled(x->src, path[0], x->rnd, rnd(x, 5) ? 10 + rnd(x, 3000) : 200000);
        assert_int_equal(lstat(in(x->src, path[0]), &st), 0);
        rec.ino = st.st_ino;
        rec.len = (uint64_t)st.st_size;
        break;
    default:
        rec.off = rnd(x, (unsigned)st.st_size + 1);
        rec.len = 1 + rnd(x, 500);
        char *buf = malloc(rec.len);
        memset(buf, 'a' + (int)rnd(x, 26), rec.len);
        put(x->src, path[0], buf, rec.len, rec.off);
        free(buf);
    }
    return rec;
}

/* Whatever somebody else writes into the replica is there at the end, as long as he did not write
 * over it himself: it is told of and left alone, or kept under another name. */
static void nothing_foreign_is_lost(void **state)
{
    unsigned made = 0, held = 0;
    for (unsigned seed = 1; seed <= 20; seed++) {
        struct drill x;
        char when[64], path[8][2][32];
        struct journal_record recs[8];
        make(&x);
        x.rnd = seed * 7919;
        x.r.resolve = seed % 2 ? REPLICA_FAIL : REPLICA_KEEP;
        mkdir(in(x.src, "/d"), 0755);
        mkdir(in(x.src, "/e"), 0755);
        begin(&x);
        for (unsigned round = 0; round < 12; round++) {
            size_t n = 1 + rnd(&x, 8);
            for (size_t i = 0; i < n; i++)
                recs[i] = change_source(&x, path[i]);
            x.chance = round < 2 ? 0 : 12;
            *x.told = 0;
            int e = rnd(&x, 5) ? replica_apply(&x.r, recs, n, false)
                               : replica_compare(&x.r, recs[n - 1].seq);
            x.chance = 0;
            assert_int_equal(e, 0);
            snprintf(when, sizeof(when), "seed %u, round %u", seed, round);
            all_there(&x, when);
            if (round % 4 == 3) {
                stop(&x);
                begin(&x);
            }
        }
        made += x.made;
        held += x.held;
        stop(&x);
        end(&x);
    }
    assert_true(made > 100 && held > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_foreign_is_lost),
        cmocka_unit_test(killed_at_every_point),
        cmocka_unit_test(forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
