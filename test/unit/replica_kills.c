/* SPDX-License-Identifier: MIT */
/*
 * A source that goes on changing while its replicator is killed and its replica fails, again and
 * again, at any operation. If nobody else is there nothing may be told, and all be the same at the
 * end; if somebody is, what he has made stays.
 */
#include "replica_fixture.h"

#define SEEDS 16
#define LIVES 25 /* of replicators, for each seed */
#define WAITS 1000
#define BATCH 8

/* What is shared with the replicator's process: the records, and how far the source is. */
static struct world {
    struct {
        uint64_t ino, off, len;
        char path[2][64];
    } v[WAITS];
    unsigned n, chance;
    unsigned names, his;
} * world;

static struct drill *drill;

static uint64_t ino_at(struct drill *x, const char *path)
{
    struct stat st;
    return lstat(in(x->src, path), &st) < 0 ? 0 : st.st_ino;
}

static void record(struct drill *x, const char *path, const char *path2, uint64_t ino, uint64_t off,
                   uint64_t len)
{
    world->v[world->n].ino = ino;
    world->v[world->n].off = off;
    world->v[world->n].len = len;
    snprintf(world->v[world->n].path[0], 64, "%s", path);
    snprintf(world->v[world->n].path[1], 64, "%s", path2);
    world->n++;
}

/* A new name in some directory. */
static void some_name(struct drill *x, char (*v)[256], size_t n, char letter, char to[64])
{
    struct stat st;
    const char *dir = "";
    for (unsigned i = 0; n && i < 3; i++) {
        const char *d = v[rnd(x, (unsigned)n)];
        if (strlen(d) < 30 && lstat(in(x->src, d), &st) == 0 && S_ISDIR(st.st_mode))
            dir = d;
    }
    snprintf(to, 64, "%.40s/%c%u", dir, letter, world->names++);
}

static void write_some(struct drill *x, const char *path, const struct stat *st)
{
    static char buf[9000];
    uint64_t off = rnd(x, 2) ? (uint64_t)st->st_size : rnd(x, 300000);
    size_t n = 1 + rnd(x, sizeof(buf) - 1);
    memset(buf, (int)('a' + rnd(x, 26)), n);
    put(x->src, path, buf, n, off);
    record(x, path, "", st->st_ino, off, n);
}

static void change_file(struct drill *x, const char *path, const struct stat *st, char (*v)[256],
                        size_t n)
{
    static const mode_t modes[] = {0600, 0644, 0755, 0400};
    char to[64];
    const char *other = v[rnd(x, (unsigned)n)];
    struct stat there;
    uint64_t size;
    switch (rnd(x, 12)) {
    case 0:
        assert_int_equal(unlink(in(x->src, path)), 0);
        record(x, path, "", st->st_ino, 0, 0);
        break;
    case 1:
    case 2:
        some_name(x, v, n, 'r', to);
        assert_int_equal(rename(in(x->src, path), in(x->src, to)), 0);
        record(x, path, to, st->st_ino, 0, 0);
        break;
    case 3: /* over another */
        if (lstat(in(x->src, other), &there) == 0 && S_ISREG(there.st_mode) &&
            there.st_ino != st->st_ino) {
            assert_int_equal(rename(in(x->src, path), in(x->src, other)), 0);
            record(x, path, other, st->st_ino, 0, 0);
        }
        break;
    case 4:
    case 5:
        some_name(x, v, n, 'l', to);
        assert_int_equal(link(in(x->src, path), in(x->src, to)), 0);
        record(x, path, to, st->st_ino, 0, 0);
        break;
    case 6:
    case 7:
        chmod(in(x->src, path), modes[rnd(x, 4)]);
        record(x, path, "", st->st_ino, 0, 0);
        break;
    case 8:
        size = rnd(x, 100000);
        assert_int_equal(truncate(in(x->src, path), (off_t)size), 0);
        record(x, path, "", st->st_ino, size, JOURNAL_END(size));
        break;
    default:
        write_some(x, path, st);
    }
}

/* One change of the source, and its record. */
static void change(struct drill *x)
{
    static char v[PATHS][256];
    struct stat st;
    char to[64];
    size_t n = list(x->src, "", v, 0);
    const char *path = n ? v[rnd(x, (unsigned)n)] : "";
    unsigned what = n < 4 ? rnd(x, 2) : n > 30 ? 9 : rnd(x, 10);
    if (world->n + 2 > WAITS)
        return;
    if (what == 0) {
        some_name(x, v, n, 'd', to);
        assert_int_equal(mkdir(in(x->src, to), 0755), 0);
        record(x, to, "", ino_at(x, to), 0, 0);
    } else if (what == 1) {
        some_name(x, v, n, 'f', to);
        put(x->src, to, "", 0, 0);
        record(x, to, "", ino_at(x, to), 0, 0);
        size_t size = rnd(x, 3) ? rnd(x, 6000) : 200000;
        filled(x->src, to, x->rnd, size);
        record(x, to, "", ino_at(x, to), 0, size);
    } else if (what == 2) {
        some_name(x, v, n, 's', to);
        assert_int_equal(symlink(to, in(x->src, to)), 0);
        record(x, to, "", ino_at(x, to), 0, 0);
    } else if (lstat(in(x->src, path), &st) == 0 && S_ISREG(st.st_mode)) {
        change_file(x, path, &st, v, n);
    } else if (!S_ISDIR(st.st_mode)) {
        assert_int_equal(unlink(in(x->src, path)), 0);
        record(x, path, "", st.st_ino, 0, 0);
    } else if (rnd(x, 2)) { /* also to where it, or another, has been before */
        snprintf(to, sizeof(to), "/m%u", rnd(x, 2) ? world->names++ : rnd(x, world->names));
        if (lstat(in(x->src, to), &st) < 0) {
            st.st_ino = ino_at(x, path);
            assert_int_equal(rename(in(x->src, path), in(x->src, to)), 0);
            record(x, path, to, st.st_ino, 0, 0);
        }
    } else if (rmdir(in(x->src, path)) == 0) {
        record(x, path, "", st.st_ino, 0, 0);
    }
}

static void goes_on(struct drill *x, const struct pl_event *ev)
{
    if (world->chance && rnd(x, world->chance) == 0)
        change(x);
}

/* A batch of what is waiting. 1: there was none. */
static int carry_out(struct drill *x)
{
    struct journal_record recs[BATCH] = {{0}};
    uint64_t from = x->notes.applied;
    size_t n = 0;
    for (; n < BATCH && from + n < world->n; n++) {
        recs[n].seq = from + n + 1;
        recs[n].ino = world->v[from + n].ino;
        recs[n].off = world->v[from + n].off;
        recs[n].len = world->v[from + n].len;
        recs[n].path = world->v[from + n].path[0];
        recs[n].path2 = world->v[from + n].path[1];
    }
    if (rnd(x, 20) == 0)
        return replica_compare(&x->r, world->n);
    return n ? replica_apply(&x->r, recs, n, from + n < world->n) : 1;
}

/* One replicator's life: exit status 0 or 9. */
static void live(struct drill *x, bool last)
{
    unsigned how = rnd(x, 4), after = 1 + rnd(x, 120);
    begin(x);
    x->ops = 0;
    x->answers = x->done = rnd(x, 2);
    if (!last && how < 2)
        x->at = after;
    else if (!last && how == 2)
        x->fail = after;
    world->chance = last || rnd(x, 2) ? 0 : 30;
    for (unsigned i = 0; i < 8 || last; i++) {
        int e = carry_out(x);
        if (e > 0)
            break;
        if (e < 0) { /* the replica is back; what has not failed does not fail */
            if (!x->fail || x->ops < x->fail)
                fail_msg("%s", strerror(-e));
            replica_close(&x->r);
            x->fail = 0;
            assert_int_equal(replica_open(&x->r), 0);
        }
    }
    stop(x);
    _exit(0);
}

/* One source with its replicators, one after the other. How many were killed. */
static unsigned drill_of(unsigned seed, void (*between)(struct drill *x), bool tells)
{
    char when[64];
    unsigned killed = 0;
    memset(world, 0, sizeof(*world));
    drill = make();
    drill->rnd = seed * 7919;
    drill->meanwhile = goes_on;
    for (unsigned i = 0; i <= LIVES; i++) {
        int status;
        for (unsigned k = rnd(drill, 8); k > 0 && i < LIVES; k--)
            change(drill);
        if (between)
            between(drill);
        pid_t pid = fork();
        if (pid == 0)
            live(drill, i == LIVES);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        snprintf(when, sizeof(when), "seed %u, life %u", seed, i);
        if (!WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 9))
            fail_msg("%s: failed", when);
        killed += WEXITSTATUS(status) == 9;
        if (*drill->told && !tells)
            fail_msg("%s: told %s", when, drill->told);
    }
    if (!tells)
        same(drill, when);
    return killed;
}

static void nothing_is_told(void **state)
{
    const char *only = getenv("SEED");
    unsigned killed = 0;
    for (unsigned seed = only ? (unsigned)atoi(only) : 1; seed <= SEEDS || only; seed++) {
        killed += drill_of(seed, NULL, false);
        end(drill);
        if (only)
            return;
    }
    assert_true(killed > SEEDS);
}

/* Somebody else puts files into the replica, at names that the source may come to have too. */
static void his_file(struct drill *x)
{
    static char v[PATHS][256];
    char to[64], text[32];
    struct stat st;
    size_t n = list(x->dst, "", v, 0);
    some_name(x, v, n, "fldsr"[rnd(x, 5)], to);
    world->names -= rnd(x, 2);
    const char *dir = n ? v[rnd(x, (unsigned)n)] : "";
    snprintf(text, sizeof(text), "/%s", strrchr(to, '/') + 1);
    if (lstat(in(x->dst, dir), &st) < 0 || !S_ISDIR(st.st_mode) || strlen(dir) > 30)
        dir = "";
    snprintf(to, sizeof(to), "%.40s%.20s", dir, text);
    if (lstat(in(x->dst, to), &st) == 0)
        return;
    snprintf(text, sizeof(text), "<foreign%06u>\n", world->his++);
    put(x->dst, to, text, strlen(text), 0);
}

static void his_files_stay(void **state)
{
    unsigned made = 0, told = 0;
    for (unsigned seed = 1; seed <= SEEDS / 2; seed++) {
        static char v[PATHS][256];
        static bool there[LIVES + 1];
        unsigned k;
        drill_of(seed, his_file, true);
        memset(there, 0, sizeof(there));
        size_t n = list(drill->dst, "", v, 0), size;
        for (size_t i = 0; i < n; i++) {
            struct stat st;
            if (lstat(in(drill->dst, v[i]), &st) < 0 || !S_ISREG(st.st_mode))
                continue;
            char *data = load(in(drill->dst, v[i]), &size);
            if (size == 16 && sscanf(data, "<foreign%06u>", &k) == 1 && k < world->his)
                there[k] = true;
            free(data);
        }
        for (k = 0; k < world->his; k++)
            if (!there[k])
                fail_msg("seed %u: his file %u is lost; told: %s", seed, k, drill->told);
        made += world->his;
        told += *drill->told != 0;
        end(drill);
    }
    assert_true(made > 60 && told > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_is_told),
                                       cmocka_unit_test(his_files_stay)};
    world = mmap(NULL, sizeof(*world), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return world == MAP_FAILED ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
