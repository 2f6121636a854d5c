/* SPDX-License-Identifier: MIT */
/* A replica that somebody else changes too, at any time. */
#include "replica_fixture.h"

#define TOKEN 16

static struct {
    unsigned chance; /* of one in so many operations he changes something */
    enum pl_op last;
    unsigned tokens, held, made;
    bool dead[4096];
} his;

/* Which tokens are in the replica; false: it cannot be said, as a file is held. */
static bool find_tokens(struct drill *x, bool *there)
{
    static char v[PATHS][256];
    size_t n = list(x->dst, "", v, 0);
    memset(there, 0, his.tokens);
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
            if (sscanf(p, "<foreign%06u>", &k) == 1 && k < his.tokens)
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
    for (unsigned i = 0; i < his.tokens; i++)
        if (!there[i] && !his.dead[i])
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

static void change_something(struct drill *x)
{
    static char v[PATHS][256];
    static bool was[4096], is[4096];
    char token[TOKEN + 1], name[16];
    struct stat st;
    size_t n = list(x->dst, "", v, 0);
    if (his.tokens == 4000)
        return;
    snprintf(token, sizeof(token), "<foreign%06u>\n", his.tokens);
    if (!find_tokens(x, was)) {
        his.held++;
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
    his.made++;
    his.tokens++;
    find_tokens(x, is);
    for (unsigned i = 0; i + 1 < his.tokens; i++) /* what he overwrote himself */
        his.dead[i] |= was[i] && !is[i];
}

/* Between a look and what is done upon it there is nobody, nor between that and the next look: that
 * is as much as can be had without a lease. */
static void somebody_else(struct drill *x, const struct pl_event *ev)
{
    bool change = (pl_op_modifies(ev->op) || ev->op == PL_OP_close) && ev->op != PL_OP_create;
    bool after_rename = his.last == PL_OP_rename || his.last == PL_OP_link;
    if (his.chance && !change && !after_rename && rnd(x, his.chance) == 0)
        change_something(x);
    his.last = ev->op;
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
        struct drill *x = make();
        char when[64], path[8][2][32];
        struct journal_record recs[8];
        memset(&his, 0, sizeof(his));
        x->meanwhile = somebody_else;
        x->rnd = seed * 7919;
        x->r.resolve = seed % 2 ? REPLICA_FAIL : REPLICA_KEEP;
        mkdir(in(x->src, "/d"), 0755);
        mkdir(in(x->src, "/e"), 0755);
        begin(x);
        for (unsigned round = 0; round < 12; round++) {
            size_t n = 1 + rnd(x, 8);
            for (size_t i = 0; i < n; i++)
                recs[i] = change_source(x, path[i]);
            his.chance = round < 2 ? 0 : 12;
            *x->told = 0;
            int e = rnd(x, 5) ? replica_apply(&x->r, recs, n, false)
                              : replica_compare(&x->r, recs[n - 1].seq);
            his.chance = 0;
            assert_int_equal(e, 0);
            snprintf(when, sizeof(when), "seed %u, round %u", seed, round);
            all_there(x, when);
            if (round % 4 == 3) {
                stop(x);
                begin(x);
            }
        }
        made += his.made;
        held += his.held;
        stop(x);
        end(x);
    }
    assert_true(made > 100 && held > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_foreign_is_lost)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
