/* SPDX-License-Identifier: MIT */
/* What a tree over 9P has at its server, and has again at the next; and how it waits for that. */
#include "p9_again_fixture.h"

static struct kind ours = {.remembers = true}, stock = {.plain = true};
static struct kind real = {.remembers = true, .real = true};
static struct kind u = {.plain = true, .version = P9_VERSION_U};
static struct kind base = {.plain = true, .version = P9_VERSION};

static struct pl_node *mkdir_in(struct pl_tree *t, struct pl_node *dir, const char *name)
{
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_make make = {.mode = S_IFDIR | 0755};
    assert_int_equal(pl_make(t, &call, dir, name, &make, &node, &attr), 0);
    return node;
}

/* ---- nodes ---- */

/* 40 directories deep: more names than one walk takes; and nothing above is asked for by itself. */
static void deep(void **state)
{
    struct broken *w = new_of(state);
    struct pl_node *at = pl_node_ref(w->top), *next;
    struct pl_attr attr;
    char name[8];
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof(name), "d%d", i);
        next = mkdir_in(w->far, at, name);
        pl_node_unref(at);
        at = next;
    }
    pl_close(w->far, &call, create(w->far, at, "leaf", O_RDWR, &next));
    pl_node_unref(at); /* the leaf alone is held */
    for (int i = 0; i < 3; i++) {
        cut_now(w);
        assert_int_equal(pl_getattr(w->far, &call, next, NULL, &attr), 0);
    }
    pl_node_unref(next);
    broken_free(w);
}

/* What this tree renames is found again, and so is what is beneath it. */
static void renamed(void **state)
{
    struct broken *w = new_of(state);
    struct pl_attr attr;
    struct pl_node *a = mkdir_in(w->far, w->top, "a"), *b = mkdir_in(w->far, a, "b"), *leaf;
    struct pl_node *c = mkdir_in(w->far, w->top, "c");
    pl_close(w->far, &call, create(w->far, b, "leaf", O_RDWR, &leaf));
    assert_int_equal(pl_rename(w->far, &call, a, "b", c, "b2", 0), 0);
    cut_now(w);
    assert_int_equal(pl_getattr(w->far, &call, leaf, NULL, &attr), 0);
    /* the other way round: what was above is beneath */
    assert_int_equal(pl_rename(w->far, &call, w->top, "a", b, "a2", 0), 0);
    cut_now(w);
    assert_int_equal(pl_getattr(w->far, &call, a, NULL, &attr), 0);
    assert_int_equal(pl_getattr(w->far, &call, b, NULL, &attr), 0);
    pl_node_unref(leaf);
    pl_node_unref(a);
    pl_node_unref(b);
    pl_node_unref(c);
    broken_free(w);
}

/* What others rename is stale until it is looked up anew, unless it has a key; what took its place
 * is another. */
static void renamed_by_others(void **state)
{
    struct broken *w = new_of(state);
    struct pl_attr attr;
    struct pl_node *a, *again;
    pl_close(w->far, &call, create(w->far, w->top, "a", O_RDWR, &a));
    cut_now(w);
    assert_int_equal(pl_rename(w->mem, &call, w->root, "a", w->root, "b", 0), 0);
    assert_int_equal(pl_getattr(w->far, &call, a, NULL, &attr), w->real ? 0 : -ESTALE);
    again = look(w->far, w->top, "b");
    assert_ptr_equal(again, a);
    assert_int_equal(pl_getattr(w->far, &call, a, NULL, &attr), 0);
    pl_node_unref(again);
    cut_now(w);
    assert_int_equal(pl_remove(w->mem, &call, w->root, "b", 0), 0);
    pl_close(w->mem, &call, create(w->mem, w->root, "b", O_RDWR, NULL));
    assert_int_equal(pl_getattr(w->far, &call, a, NULL, &attr), -ESTALE);
    pl_node_unref(a);
    broken_free(w);
}

/* Two directories that others have moved each into the other's place, seen at different times. */
static void rings(void **state)
{
    struct broken *w = new_of(state);
    struct pl_node *a = mkdir_in(w->far, w->top, "a"), *b = mkdir_in(w->far, a, "b"), *n;
    struct pl_attr attr;
    struct pl_node *ra = look(w->mem, w->root, "a");
    assert_int_equal(pl_rename(w->mem, &call, ra, "b", w->root, "b", 0), 0);
    struct pl_node *rb = look(w->mem, w->root, "b");
    assert_int_equal(pl_rename(w->mem, &call, w->root, "a", rb, "a", 0), 0);
    n = look(w->far, b, "a"); /* a is known to be in b now, which is known to be in a */
    assert_ptr_equal(n, a);
    pl_node_unref(n);
    cut_now(w);
    assert_int_equal(pl_getattr(w->far, &call, a, NULL, &attr), -ESTALE);
    n = look(w->far, w->top, "b");
    assert_ptr_equal(n, b);
    pl_node_unref(n);
    cut_now(w);
    assert_int_equal(pl_getattr(w->far, &call, a, NULL, &attr), 0);
    pl_node_unref(ra);
    pl_node_unref(rb);
    pl_node_unref(a);
    pl_node_unref(b);
    broken_free(w);
}

/* Whatever is known, only what is used costs a message at another server. */
static void lazily(void **state)
{
    struct broken *w = new_of(state);
    enum { N = 2000 };
    struct pl_node **node = calloc(N, sizeof(struct pl_node *));
    struct pl_attr attr;
    char name[16];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        pl_close(w->mem, &call, create(w->mem, w->root, name, O_RDWR, NULL));
        node[i] = look(w->far, w->top, name);
    }
    cut_now(w);
    assert_int_equal(pl_getattr(w->far, &call, node[N / 2], NULL, &attr), 0);
    assert_true(atomic_load(&w->line->requests) < 10);
    for (int i = 0; i < N; i++) {
        assert_int_equal(pl_getattr(w->far, &call, node[i], NULL, &attr), 0);
        pl_node_unref(node[i]);
    }
    assert_true(atomic_load(&w->line->requests) < 5 * N);
    free(node);
    broken_free(w);
}

/* ---- open files ---- */

static void many_files(void **state)
{
    struct broken *w = new_of(state);
    enum { N = 300 };
    struct pl_file *f[N];
    char name[16], buf[16];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "f%03d", i);
        f[i] = create(w->far, w->top, name, O_RDWR, NULL);
        assert_int_equal(pl_write(w->far, &call, f[i], name, 4, 0), 4);
    }
    for (int round = 0; round < 3; round++) {
        cut_now(w);
        for (int i = round; i < N; i += 3) { /* some are closed while there is no server */
            snprintf(name, sizeof(name), "f%03d", i);
            assert_int_equal(pl_read(w->far, &call, f[i], buf, 16, 0), 4);
            assert_memory_equal(buf, name, 4);
            pl_close(w->far, &call, f[i]);
        }
    }
    broken_free(w);
}

static void unlinked(void **state)
{
    struct broken *w = new_of(state);
    struct pl_attr attr;
    char buf[8];
    struct pl_file *f = create(w->far, w->top, "a", O_RDWR, NULL), *g;
    g = create(w->far, w->top, "b", O_RDWR, NULL);
    assert_int_equal(pl_remove(w->far, &call, w->top, "a", 0), 0);
    cut_now(w);
    assert_int_equal(pl_read(w->far, &call, f, buf, 8, 0), -ESTALE);
    assert_int_equal(pl_write(w->far, &call, f, buf, 8, 0), -ESTALE);
    assert_int_equal(pl_getattr(w->far, &call, f->node, f, &attr), -ESTALE);
    assert_int_equal(pl_read(w->far, &call, g, buf, 8, 0), 0);
    pl_close(w->far, &call, f);
    pl_close(w->far, &call, g);
    broken_free(w);
}

/* A directory is read on, each entry once, whenever the line breaks. */
static void directories(void **state)
{
    struct broken *w = new_of(state);
    struct names l = {0};
    struct pl_file *dir;
    add_entries(w);
    assert_int_equal(pl_open(w->far, &call, w->top, O_RDONLY | O_DIRECTORY, &dir), 0);
    for (enum when when = BEFORE;; when = when == AFTER ? BEFORE : when + 1) {
        unsigned before = l.n;
        l.stop = l.n + 50;
        cut_at(w, P9_Treaddir, 0, when);
        assert_int_equal(pl_readdir(w->far, &call, dir, l.next, take, &l), 0);
        if (l.n == before)
            break;
    }
    assert_int_equal(l.n, ENTRIES + 2);
    assert_true(w->downs >= 2);
    pl_close(w->far, &call, dir);
    broken_free(w);
}

/* Positions that are others at each server. */
struct shifted {
    struct pl_tree tree;
    atomic_uint shift;
};

struct shifting {
    pl_fill_fn *fill;
    void *arg;
    unsigned shift;
};

static int shift_fill(void *arg, const struct pl_dirent *ent)
{
    struct shifting *s = arg;
    struct pl_dirent e = *ent;
    e.next += s->shift;
    return s->fill(s->arg, &e);
}

static int shift_readdir(struct pl_tree *tree, struct pl_call *c, struct pl_file *dir, uint64_t off,
                         pl_fill_fn *fill, void *arg)
{
    struct shifting s = {fill, arg, atomic_load(&((struct shifted *)tree)->shift)};
    if (off && off <= s.shift)
        return -EINVAL;
    return pl_readdir(tree->lower, c, dir, off ? off - s.shift : 0, shift_fill, &s);
}

static const struct pl_ops shift_ops = {.name = "shift", .readdir = shift_readdir};

static void directories_elsewhere(void **state)
{
    struct pl_tree *mem;
    struct shifted *s = calloc(1, sizeof(*s));
    assert_int_equal(pl_mem_new(256 << 20, &mem, NULL), 0);
    pl_tree_init(&s->tree, &shift_ops, mem);
    struct broken *w = broken_over(&s->tree, *state, 0);
    struct names *l = calloc(1, sizeof(*l));
    struct pl_file *dir;
    add_entries(w);
    assert_int_equal(pl_open(w->far, &call, w->top, O_RDONLY | O_DIRECTORY, &dir), 0);
    for (unsigned i = 0;; i++) {
        unsigned before = l->n;
        l->stop = l->n + 90;
        if (i % 2) { /* before the next is asked for, or while it is */
            cut_now(w);
            atomic_store(&s->shift, 5000000 + i * 1000);
        } else {
            cut_at(w, P9_Treaddir, 0, BEFORE);
        }
        assert_int_equal(pl_readdir(w->far, &call, dir, l->next, take, l), 0);
        if (l->n == before)
            break;
    }
    assert_int_equal(l->n, 1002); /* each once */
    pl_close(w->far, &call, dir);
    free(l);
    broken_free(w);
}

/* ---- locks ---- */

static int lock_as(struct pl_tree *t, struct pl_file *f, uint64_t owner, int type, uint64_t start,
                   uint64_t end)
{
    struct pl_lock l = {.type = type, .owner = owner, .start = start, .end = end, .pid = 1};
    return pl_lock(t, &call, f, &l);
}

static int flock_as(struct pl_tree *t, struct pl_file *f, uint64_t owner, int type)
{
    struct pl_lock l = {.type = type, .owner = owner, .flock = true, .end = PL_OFF_MAX};
    return pl_lock(t, &call, f, &l);
}

static void locks(void **state)
{
    struct broken *w = new_of(state);
    struct pl_file *f = create(w->far, w->top, "l", O_RDWR, NULL);
    struct pl_node *node = look(w->mem, w->root, "l");
    struct pl_file *other;
    assert_int_equal(pl_open(w->mem, &call, node, O_RDWR, &other), 0);
    for (enum when when = BEFORE; when < WHENS; when++) {
        cut_at(w, P9_Tlock, 0, when);
        assert_int_equal(lock_as(w->far, f, 1, F_WRLCK, 10, 99), 0);
        assert_int_equal(w->when, NEVER);
        assert_int_equal(lock_as(w->far, f, 1, F_UNLCK, 40, 59), 0);
        assert_int_equal(lock_as(w->far, f, 1, F_RDLCK, 90, 120), 0);
        assert_int_equal(lock_as(w->far, f, 2, F_WRLCK, 200, 300), 0);
        if (!w->plain) /* there, the two kinds are one */
            assert_int_equal(flock_as(w->far, f, 3, F_WRLCK), 0);
        cut_now(w);
        assert_int_equal(pl_fsync(w->far, &call, f, true), 0); /* when all is there again */
        assert_int_equal(lock_as(w->mem, other, 77, F_RDLCK, 10, 10), -EAGAIN);
        assert_int_equal(lock_as(w->mem, other, 77, F_RDLCK, 39, 39), -EAGAIN);
        assert_int_equal(lock_as(w->mem, other, 77, F_WRLCK, 40, 59), 0);
        assert_int_equal(lock_as(w->mem, other, 77, F_RDLCK, 60, 60), -EAGAIN);
        assert_int_equal(lock_as(w->mem, other, 77, F_RDLCK, 89, 89), -EAGAIN);
        assert_int_equal(lock_as(w->mem, other, 77, F_RDLCK, 90, 120), 0);
        assert_int_equal(lock_as(w->mem, other, 77, F_WRLCK, 90, 120), -EAGAIN);
        assert_int_equal(lock_as(w->mem, other, 77, F_WRLCK, 121, 199), 0);
        assert_int_equal(lock_as(w->mem, other, 77, F_WRLCK, 300, 300), -EAGAIN);
        assert_int_equal(lock_as(w->mem, other, 77, F_UNLCK, 0, PL_OFF_MAX), 0);
        if (!w->plain)
            assert_int_equal(flock_as(w->mem, other, 77, F_RDLCK), -EAGAIN);
        assert_int_equal(lock_as(w->far, f, 1, F_UNLCK, 0, PL_OFF_MAX), 0);
        assert_int_equal(lock_as(w->far, f, 2, F_UNLCK, 0, PL_OFF_MAX), 0);
        assert_int_equal(flock_as(w->far, f, 3, F_UNLCK), 0);
        cut_now(w);
        assert_int_equal(pl_fsync(w->far, &call, f, true), 0);
        assert_int_equal(lock_as(w->mem, other, 77, F_WRLCK, 0, PL_OFF_MAX), 0);
        assert_int_equal(lock_as(w->mem, other, 77, F_UNLCK, 0, PL_OFF_MAX), 0);
    }
    pl_close(w->mem, &call, other);
    pl_node_unref(node);
    pl_close(w->far, &call, f);
    broken_free(w);
}

static void lost_locks(void **state)
{
    struct broken *w = new_of(state);
    char buf[8];
    struct pl_file *f = create(w->far, w->top, "l", O_RDWR, NULL), *g;
    struct pl_node *node = look(w->mem, w->root, "l");
    struct pl_file *other;
    assert_int_equal(pl_open(w->mem, &call, node, O_RDWR, &other), 0);
    assert_int_equal(pl_open(w->far, &call, f->node, O_RDWR, &g), 0);
    assert_int_equal(lock_as(w->far, f, 1, F_WRLCK, 0, 9), 0);
    refuse(w, true);
    cut_now(w);
    line_join(w->line);
    p9_conn_wait(w->line->conn, NULL); /* the server has let go of it */
    assert_int_equal(lock_as(w->mem, other, 77, F_WRLCK, 0, 9), 0);
    refuse(w, false);
    assert_int_equal(pl_read(w->far, &call, g, buf, 8, 0), 0);
    assert_int_equal(pl_read(w->far, &call, f, buf, 8, 0), -EIO);
    assert_int_equal(pl_write(w->far, &call, f, buf, 8, 0), -EIO);
    assert_int_equal(lock_as(w->mem, other, 77, F_UNLCK, 0, 9), 0);
    cut_now(w); /* and it does not come back */
    assert_int_equal(pl_write(w->far, &call, f, buf, 8, 0), -EIO);
    assert_int_equal(pl_write(w->far, &call, g, "12345678", 8, 0), 8);
    pl_close(w->far, &call, f);
    pl_close(w->far, &call, g);
    pl_close(w->mem, &call, other);
    pl_node_unref(node);
    broken_free(w);
}

/* ---- files that cannot be had again ---- */

struct odd {
    struct pl_tree tree;
    bool stream;
};

static int odd_open(struct pl_tree *t, struct pl_call *c, struct pl_node *node, int flags,
                    struct pl_file **ret)
{
    int r = pl_open(t->lower, c, node, flags, ret);
    if (r == 0) {
        (*ret)->direct = true;
        (*ret)->stream = ((struct odd *)t)->stream;
    }
    return r;
}

static const struct pl_ops odd_ops = {.name = "odd", .open = odd_open};

static void odd_files(void **state)
{
    for (int stream = 0; stream < 2; stream++) {
        struct pl_tree *mem;
        struct odd *o = calloc(1, sizeof(*o));
        assert_int_equal(pl_mem_new(256 << 20, &mem, NULL), 0);
        pl_tree_init(&o->tree, &odd_ops, mem);
        o->stream = stream;
        struct broken *w = broken_over(&o->tree, *state, 0);
        struct pl_node *node;
        struct pl_file *read_only, *written;
        char buf[8];
        struct pl_file *f = create(w->mem, w->root, "doc", O_RDWR, NULL);
        assert_int_equal(pl_write(w->mem, &call, f, "text", 4, 0), 4);
        pl_close(w->mem, &call, f);
        node = look(w->far, w->top, "doc");
        assert_int_equal(pl_open(w->far, &call, node, O_RDONLY, &read_only), 0);
        assert_int_equal(pl_open(w->far, &call, node, O_RDWR, &written), 0);
        assert_int_equal(pl_write(w->far, &call, written, "TEXT", 4, 0), 4);
        cut_now(w);
        assert_int_equal(pl_read(w->far, &call, read_only, buf, 8, 0), stream ? -EIO : 4);
        assert_int_equal(pl_write(w->far, &call, written, "MORE", 4, 4), -EIO);
        assert_int_equal(pl_close(w->far, &call, written), 0);
        pl_close(w->far, &call, read_only);
        assert_int_equal(pl_open(w->far, &call, node, O_RDWR, &written), 0);
        assert_int_equal(pl_write(w->far, &call, written, "MORE", 4, 4), 4);
        assert_int_equal(pl_flush(w->far, &call, written, 1), 0); /* committed: it may go */
        cut_now(w);
        assert_int_equal(pl_read(w->far, &call, written, buf, 8, 0), stream ? -EIO : 8);
        pl_close(w->far, &call, written);
        pl_node_unref(node);
        broken_free(w);
    }
}

/* ---- users ---- */

/* Each has an attach again, and what he opened although its mode would not let him now. */
static void users(void **state)
{
    if (geteuid() != 0)
        skip();
    struct broken *w = new_of(state);
    struct pl_call alice, bob;
    struct pl_node *node, *same;
    struct pl_attr attr;
    struct pl_file *f;
    char buf[8];
    struct pl_setattr open_to_all = {.valid = PL_SET_MODE, .mode = 0777};
    assert_int_equal(pl_setattr(w->mem, &call, w->root, NULL, &open_to_all, &attr), 0);
    pl_call_init(&alice, 1001, 1001);
    pl_call_init(&bob, 1002, 1002);
    assert_int_equal(
        pl_create(w->far, &alice, w->top, "a", O_RDWR | O_EXCL, 0400, &node, &attr, &f), 0);
    assert_int_equal(attr.uid, 1001);
    assert_int_equal(pl_write(w->far, &alice, f, "hers", 4, 0), 4);
    assert_int_equal(pl_lookup(w->far, &bob, w->top, "a", &same, &attr), 0);
    assert_ptr_equal(same, node);
    for (int i = 0; i < 3; i++) {
        struct pl_file *g;
        cut_now(w);
        assert_int_equal(pl_write(w->far, &alice, f, "hers", 4, 0), 4);
        assert_int_equal(pl_read(w->far, &alice, f, buf, 8, 0), 4);
        struct pl_setattr set = {.valid = PL_SET_MODE, .mode = 0600};
        assert_int_equal(pl_setattr(w->far, &bob, node, f, &set, &attr), -EPERM);
        assert_int_equal(pl_open(w->far, &bob, node, O_RDONLY, &g), -EACCES);
        assert_int_equal(pl_open(w->far, &alice, node, O_RDONLY, &g), 0);
        pl_close(w->far, &alice, g);
    }
    pl_close(w->far, &alice, f);
    pl_node_unref(node);
    pl_node_unref(same);
    pl_call_done(&alice);
    pl_call_done(&bob);
    broken_free(w);
}

/* ---- servers that will not do ---- */

static void wait_said(struct broken *w, const char *what)
{
    pthread_mutex_lock(&w->mutex);
    while (!strstr(w->said, what))
        pthread_cond_wait(&w->cond, &w->mutex);
    pthread_mutex_unlock(&w->mutex);
}

/* One that speaks less, one that serves something else; then the one that we had. */
static void wrong_servers(void **state)
{
    struct kind *k = *state;
    struct broken *w = new_of(state);
    struct pl_tree *mem;
    struct pl_attr attr;
    struct pl_node *a;
    pl_close(w->far, &call, create(w->far, w->top, "a", O_RDWR, &a));
    pthread_mutex_lock(&w->mutex);
    w->plain = true;
    pthread_mutex_unlock(&w->mutex);
    cut_now(w);
    if (!k->plain)
        wait_said(w, "plain 9P2000.L");
    pthread_mutex_lock(&w->mutex);
    w->plain = k->plain;
    pthread_mutex_unlock(&w->mutex);
    assert_int_equal(pl_getattr(w->far, &call, a, NULL, &attr), 0);

    struct odd *o = calloc(1, sizeof(*o)); /* any tree that is another */
    assert_int_equal(pl_host_open("/tmp", &mem, NULL), 0);
    pl_tree_init(&o->tree, &odd_ops, mem);
    struct broken *other = broken_over(&o->tree, k, 0);
    pthread_mutex_lock(&w->mutex);
    w->other = other;
    pthread_mutex_unlock(&w->mutex);
    cut_now(w);
    wait_said(w, "something else");
    pthread_mutex_lock(&w->mutex);
    w->other = NULL;
    pthread_mutex_unlock(&w->mutex);
    assert_int_equal(pl_getattr(w->far, &call, a, NULL, &attr), 0);
    pl_node_unref(a);
    broken_free(other);
    broken_free(w);
}

/* ---- waiting ---- */

struct asker {
    struct broken *w;
    struct pl_call call;
    struct pl_node *node;
    int result;
};

static void *ask(void *arg)
{
    struct asker *a = arg;
    struct pl_attr attr;
    a->result = pl_getattr(a->w->far, &a->call, a->node, NULL, &attr);
    return NULL;
}

static void wait_for_waiting(struct broken *w, unsigned n)
{
    pthread_mutex_lock(&w->mutex);
    while (w->waiting < n)
        pthread_cond_wait(&w->cond, &w->mutex);
    pthread_mutex_unlock(&w->mutex);
}

static void interrupted(void **state)
{
    struct broken *w = new_of(state);
    struct asker a = {.w = w, .node = w->top}, b = {.w = w, .node = w->top};
    pthread_t ta, tb;
    refuse(w, true);
    cut_now(w);
    wait_for_waiting(w, 1);
    pl_call_init_self(&a.call);
    pl_call_init_self(&b.call);
    pthread_create(&ta, NULL, ask, &a);
    pthread_create(&tb, NULL, ask, &b);
    pl_call_cancel(&a.call);
    pthread_join(ta, NULL);
    assert_int_equal(a.result, -EINTR);
    refuse(w, false);
    pthread_join(tb, NULL);
    assert_int_equal(b.result, 0);
    pl_call_done(&a.call);
    pl_call_done(&b.call);
    /* a deadline, too */
    refuse(w, true);
    cut_now(w);
    pl_call_init_self(&a.call);
    a.call.deadline = 1; /* long past */
    ask(&a);
    assert_int_equal(a.result, -ETIMEDOUT);
    pl_call_done(&a.call);
    broken_free(w); /* the end of a tree does not wait for a server */
}

static void soft(void **state)
{
    struct pl_tree *mem;
    assert_int_equal(pl_mem_new(256 << 20, &mem, NULL), 0);
    struct broken *w = broken_over(mem, *state, 1);
    struct pl_attr attr;
    refuse(w, true);
    cut_now(w);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pl_getattr(w->far, &call, w->top, NULL, &attr), -ETIMEDOUT);
    assert_true(strlen(w->said) > 0);
    refuse(w, false);
    pthread_mutex_lock(&w->mutex);
    while (w->down)
        pthread_cond_wait(&w->cond, &w->mutex);
    pthread_mutex_unlock(&w->mutex);
    assert_int_equal(pl_getattr(w->far, &call, w->top, NULL, &attr), 0);
    broken_free(w);
}

/* What was not sent is sent: it is not in doubt. */
static void never_sent(void **state)
{
    struct broken *w = new_of(state);
    for (int i = 0; i < 20; i++) {
        char name[16];
        snprintf(name, sizeof(name), "d%d", i);
        cut_now(w);
        pl_node_unref(mkdir_in(w->far, w->top, name));
    }
    broken_free(w);
}

static int gives_up(void *arg, struct pl_call *c, struct p9_conn *old, struct p9_conn **ret,
                    struct pl_err *err)
{
    return pl_fail(err, -ENOLINK, "nobody: there is no such server any more");
}

/* `again` fails for good: the tree is dead, and can be ended. */
static void given_up(void **state)
{
    struct broken *w = new_of(state);
    struct pl_tree *t;
    struct pl_node *top;
    struct pl_attr attr;
    struct pl_p9_opts opts = {.own = true, .again = gives_up, .again_arg = w, .changed = changed};
    pl_node_unref(w->top);
    pl_tree_unref(w->far);
    assert_int_equal(pl_p9_open(line_new(w, &call), &opts, &t, NULL), 0);
    assert_int_equal(pl_attach(t, &call, "", &top, &attr), 0);
    struct pl_file *f = create(t, top, "a", O_RDWR, NULL);
    cut_now(w);
    assert_int_equal(pl_getattr(t, &call, top, NULL, &attr), -ECONNABORTED);
    assert_int_equal(pl_fsync(t, &call, f, false), -ECONNABORTED);
    pl_close(t, &call, f);
    pl_node_unref(top);
    pl_tree_unref(t);
    opts.again = next_line;
    w->down = false; /* another tree */
    assert_int_equal(pl_p9_open(line_new(w, &call), &opts, &w->far, NULL), 0);
    assert_int_equal(pl_attach(w->far, &call, "", &w->top, &attr), 0);
    broken_free(w);
}

#define EACH(test)                                                                                 \
    {#test, test, NULL, NULL, &ours}, {#test " (real)", test, NULL, NULL, &real},                  \
    {                                                                                              \
#test " (stock)", test, NULL, NULL, &stock                                                 \
    }
/* ... and in the older dialects, where it is about what they have */
#define EACH_OLD(test)                                                                             \
    {#test " (9P2000.u)", test, NULL, NULL, &u},                                                   \
    {                                                                                              \
#test " (9P2000)", test, NULL, NULL, &base                                                 \
    }

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        EACH(deep),
        EACH(renamed),
        EACH(renamed_by_others),
        EACH(rings),
        EACH(lazily),
        EACH(many_files),
        EACH(unlinked),
        EACH(directories),
        EACH(directories_elsewhere),
        EACH(locks),
        EACH(lost_locks),
        EACH(interrupted),
        EACH(soft),
        EACH(never_sent),
        EACH(given_up),
        {"odd_files", odd_files, NULL, NULL, &ours},
        {"odd_files (real)", odd_files, NULL, NULL, &real},
        EACH(users),
        EACH(wrong_servers),
        EACH_OLD(deep),
        EACH_OLD(renamed_by_others),
        EACH_OLD(rings),
        EACH_OLD(lazily),
        EACH_OLD(many_files),
        EACH_OLD(unlinked),
        EACH_OLD(interrupted),
        EACH_OLD(soft),
        EACH_OLD(never_sent),
        EACH_OLD(given_up),
        EACH_OLD(wrong_servers),
        {"users (9P2000.u)", users, NULL, NULL, &u},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
