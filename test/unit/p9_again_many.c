/* SPDX-License-Identifier: MIT */
/*
 * A thousand breaks anywhere, under several threads that change things. Each knows what its
 * directory must hold, and a layer at the server counts what was done: whatever was asked for once
 * was done once.
 */
#include "p9_again_fixture.h"

enum { THREADS = 4, BREAKS = 1000 };

/* ---- what the server has done ---- */

struct tally {
    struct pl_tree tree;
    atomic_uint done[PL_OP_COUNT];
};

static void tally_after(struct pl_tree *t, struct pl_call *c, const struct pl_event *ev,
                        int64_t result)
{
    if (result >= 0)
        atomic_fetch_add(&((struct tally *)t)->done[ev->op], 1);
}

static const struct pl_ops tally_ops = {.name = "tally", .after = tally_after};

/* ---- what was asked of it ---- */

static atomic_uint asked[PL_OP_COUNT];
static atomic_uint in_doubt;

struct worker {
    struct broken *w;
    unsigned id, rounds;
    uint64_t log; /* its size */
    struct pl_call call;
    struct pl_node *dir;
    struct pl_file *logfile, *data;
    pthread_t thread;
};

static bool enough(struct broken *w)
{
    pthread_mutex_lock(&w->mutex);
    bool is = w->cuts >= BREAKS;
    pthread_mutex_unlock(&w->mutex);
    return is;
}

/* What was done, or (at a server that forgets) may have been: whether it was is then looked up in
 * the tree that is served. */
static bool happened(struct worker *k, enum pl_op op, int r, const char *name, bool there)
{
    struct pl_node *node, *dir;
    struct pl_attr attr;
    char own[16];
    if (r == -EREMOTEIO && !k->w->remembers) {
        atomic_fetch_add(&in_doubt, 1);
        snprintf(own, sizeof(own), "t%u", k->id);
        assert_int_equal(pl_lookup(k->w->mem, &k->call, k->w->root, own, &dir, &attr), 0);
        r = pl_lookup(k->w->mem, &k->call, dir, name, &node, &attr);
        if (r == 0)
            pl_node_unref(node);
        pl_node_unref(dir);
        if ((r == 0) != there)
            return false;
    } else if (r < 0) {
        fail_msg("%s %s: %d", pl_op_name(op), name, r);
    }
    atomic_fetch_add(&asked[op], 1);
    return true;
}

static void makes_and_removes(struct worker *k)
{
    struct pl_tree *t = k->w->far;
    struct pl_node *node = NULL;
    struct pl_attr attr;
    struct pl_make make = {.mode = S_IFDIR | 0700};
    char name[32];
    snprintf(name, sizeof(name), "d%u", k->rounds);
    int r = pl_make(t, &k->call, k->dir, name, &make, &node, &attr);
    if (r == 0)
        pl_node_unref(node);
    if (!happened(k, PL_OP_make, r, name, true))
        return;
    r = pl_remove(t, &k->call, k->dir, name, AT_REMOVEDIR);
    happened(k, PL_OP_remove, r, name, false);
}

static void creates_and_renames(struct worker *k)
{
    struct pl_tree *t = k->w->far;
    struct pl_node *node;
    struct pl_file *f;
    struct pl_attr attr;
    char a[32], b[32], c[32], buf[32];
    snprintf(a, sizeof(a), "a%u", k->rounds);
    snprintf(b, sizeof(b), "b%u", k->rounds);
    snprintf(c, sizeof(c), "c%u", k->rounds);
    int r = pl_create(t, &k->call, k->dir, a, O_RDWR | O_EXCL, 0600, &node, &attr, &f);
    if (r == -EREMOTEIO && !k->w->remembers)
        return;
    assert_int_equal(r, 0);
    assert_int_equal(pl_write(t, &k->call, f, a, sizeof(a), 0), sizeof(a));
    r = pl_rename(t, &k->call, k->dir, a, k->dir, b, 0);
    bool moved = happened(k, PL_OP_rename, r, b, true);
    r = pl_link(t, &k->call, node, k->dir, c, &attr);
    bool linked = r != -ESTALE && happened(k, PL_OP_link, r, c, true);
    assert_int_equal(pl_read(t, &k->call, f, buf, sizeof(buf), 0), sizeof(buf));
    assert_string_equal(buf, a);
    pl_close(t, &k->call, f);
    pl_node_unref(node);
    if (moved)
        happened(k, PL_OP_remove, pl_remove(t, &k->call, k->dir, b, 0), b, false);
    if (linked)
        happened(k, PL_OP_remove, pl_remove(t, &k->call, k->dir, c, 0), c, false);
}

static void appends(struct worker *k)
{
    struct pl_tree *t = k->w->far;
    struct pl_attr attr;
    ssize_t r = pl_write(t, &k->call, k->logfile, "a line of the log\n", 18, 0);
    int r2 = pl_getattr(t, &k->call, k->logfile->node, k->logfile, &attr);
    assert_int_equal(r2, 0);
    if (r == -EREMOTEIO && !k->w->remembers) {
        assert_true(attr.size == k->log || attr.size == k->log + 18);
        k->log = attr.size;
        return;
    }
    assert_int_equal(r, 18);
    k->log += 18;
    assert_int_equal(attr.size, k->log);
}

static void writes(struct worker *k)
{
    struct pl_tree *t = k->w->far;
    enum { N = 600000 };
    uint8_t *out = pattern(N, k->rounds), *in = malloc(N);
    assert_int_equal(pl_write(t, &k->call, k->data, out, N, 0), N);
    assert_int_equal(pl_read(t, &k->call, k->data, in, N, 0), N);
    assert_memory_equal(in, out, N);
    free(out);
    free(in);
}

static void *work(void *arg)
{
    struct worker *k = arg;
    for (; !enough(k->w); k->rounds++) {
        makes_and_removes(k);
        creates_and_renames(k);
        appends(k);
        if (k->rounds % 8 == 0)
            writes(k);
    }
    return NULL;
}

/* ---- the tests ---- */

static void begin(struct worker *k, struct broken *w, unsigned id)
{
    struct pl_attr attr;
    struct pl_make make = {.mode = S_IFDIR | 0700};
    char name[16];
    *k = (struct worker){.w = w, .id = id};
    pl_call_init_self(&k->call);
    snprintf(name, sizeof(name), "t%u", id);
    assert_int_equal(pl_make(w->far, &call, w->top, name, &make, &k->dir, &attr), 0);
    k->logfile = create(w->far, k->dir, "log", O_RDWR | O_APPEND, NULL);
    k->data = create(w->far, k->dir, "data", O_RDWR, NULL);
}

static void end(struct worker *k)
{
    pl_close(k->w->far, &call, k->logfile);
    pl_close(k->w->far, &call, k->data);
    pl_node_unref(k->dir);
    pl_call_done(&k->call);
}

static void thousand(void **state)
{
    const struct kind *kind = *state;
    struct pl_tree *mem;
    struct worker k[THREADS];
    assert_int_equal(pl_mem_new(256 << 20, &mem, NULL), 0);
    struct tally *tally = calloc(1, sizeof(*tally));
    pl_tree_init(&tally->tree, &tally_ops, mem);
    struct broken *w = broken_over(&tally->tree, kind, 0);
    if (w->unreal) {
        broken_free(w);
        skip();
    }
    for (unsigned i = 0; i < THREADS; i++)
        begin(&k[i], w, i);
    for (unsigned i = 0; i < PL_OP_COUNT; i++) {
        atomic_store(&asked[i], 0);
        atomic_store(&tally->done[i], 0);
    }
    atomic_store(&in_doubt, 0);
    pthread_mutex_lock(&w->mutex);
    w->one_in = 40;
    pthread_mutex_unlock(&w->mutex);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_create(&k[i].thread, NULL, work, &k[i]);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(k[i].thread, NULL);
    calm(w);
    static const enum pl_op counted[] = {PL_OP_make, PL_OP_remove, PL_OP_rename, PL_OP_link};
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(atomic_load(&asked[counted[i]]), atomic_load(&tally->done[counted[i]]));
    assert_true(w->downs >= BREAKS / 4); /* several breaks may fall on one connection */
    if (kind->remembers)
        assert_int_equal(atomic_load(&in_doubt), 0);
    for (unsigned i = 0; i < THREADS; i++)
        end(&k[i]);
    broken_free(w);
}

static struct kind ours = {.remembers = true}, forgetful = {0}, stock = {.plain = true};
static struct kind real = {.remembers = true, .real = true};

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        {"thousand (remembers)", thousand, NULL, NULL, &ours},
        {"thousand (real)", thousand, NULL, NULL, &real},
        {"thousand (forgets)", thousand, NULL, NULL, &forgetful},
        {"thousand (stock)", thousand, NULL, NULL, &stock},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
