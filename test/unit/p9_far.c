/* SPDX-License-Identifier: MIT */
/* What the 9P source does before it is asked, and after it has answered: docs/far.md. */
#include "p9_source_fixture.h"
#include <fcntl.h>

/* Waits until `n` of the ops that are held have begun. */
static void wait_begun(struct counting *c, int n)
{
    pthread_mutex_lock(&c->mutex);
    while (atomic_load(&c->reads) < n)
        pthread_cond_wait(&c->cond, &c->mutex);
    pthread_mutex_unlock(&c->mutex);
}

static void hold(struct counting *c, enum pl_op what)
{
    c->what = what;
    atomic_store(&c->reads, 0);
    atomic_store(&c->hold, true);
}

static void release(struct counting *c)
{
    atomic_store(&c->hold, false);
    counting_wake(c);
}

/* ---- writing behind ---- */

static void behind(void **state)
{
    struct world *w = *state;
    struct pl_node *node;
    struct pl_file *f = create(w->far, w->top, "f", O_RDWR | O_CREAT | O_EXCL, &node);
    struct pl_attr attr;
    char *text = pattern(1 << 20, 1), *back = malloc(1 << 20);
    hold(w->tree, PL_OP_write);
    for (int i = 0; i < 4; i++) /* all of them return while the server has done none */
        assert_int_equal(pl_write(w->far, &call, f, text + (i << 18), 1 << 18, (uint64_t)i << 18),
                         1 << 18);
    wait_begun(w->tree, 2);
    release(w->tree);
    assert_int_equal(pl_getattr(w->far, &call, node, f, &attr), 0); /* waits for them */
    assert_int_equal(attr.size, 1 << 20);
    assert_int_equal(pl_read(w->far, &call, f, back, 1 << 20, 0), 1 << 20);
    assert_memory_equal(text, back, 1 << 20);
    assert_int_equal(pl_fsync(w->far, &call, f, false), 0);
    pl_close(w->far, &call, f);
    pl_node_unref(node);
    free(text);
    free(back);
}

/* The later of two writes of the same bytes stays, and a truncation is not overtaken. */
static void behind_in_order(void **state)
{
    struct world *w = *state;
    struct pl_node *node;
    struct pl_file *f = create(w->far, w->top, "f", O_RDWR | O_CREAT | O_EXCL, &node);
    struct pl_setattr set = {.valid = PL_SET_SIZE, .size = 1};
    struct pl_attr attr;
    char text[8] = "", got[8] = "";
    for (int i = 0; i < 200; i++) {
        snprintf(text, sizeof(text), "%03d", i);
        assert_int_equal(pl_write(w->far, &call, f, text, 3, 0), 3);
        assert_int_equal(pl_write(w->far, &call, f, "x", 1, 2), 1);
    }
    assert_int_equal(pl_setattr(w->far, &call, node, f, &set, &attr), 0);
    assert_int_equal(attr.size, 1);
    assert_int_equal(pl_write(w->far, &call, f, "yz", 2, 1), 2);
    assert_int_equal(pl_read(w->far, &call, f, got, sizeof(got), 0), 3);
    assert_string_equal(got, "1yz");
    pl_close(w->far, &call, f);
    pl_node_unref(node);
}

/* An error is told once through each open file, by what comes first of write, fsync and flush. */
static void behind_errors(void **state)
{
    struct world *w = *state;
    struct pl_node *node;
    struct pl_file *f = create(w->far, w->top, "f", O_RDWR | O_CREAT | O_EXCL, &node), *g;
    assert_int_equal(pl_open(w->far, &call, node, O_RDWR, &g), 0);
    w->tree->what = PL_OP_write;
    atomic_store(&w->tree->error, -ENOSPC);
    assert_int_equal(pl_write(w->far, &call, f, "text", 4, 0), 4);
    assert_int_equal(pl_fsync(w->far, &call, f, false), -ENOSPC);
    atomic_store(&w->tree->error, 0);
    assert_int_equal(pl_fsync(w->far, &call, f, false), 0);
    assert_int_equal(pl_flush(w->far, &call, f, 0), 0);
    assert_int_equal(pl_flush(w->far, &call, g, 0), -ENOSPC); /* open when it happened */
    assert_int_equal(pl_fsync(w->far, &call, g, false), 0);
    assert_int_equal(pl_write(w->far, &call, f, "text", 4, 0), 4);
    assert_int_equal(pl_flush(w->far, &call, f, 0), 0);
    pl_close(w->far, &call, g);
    pl_close(w->far, &call, f);
    pl_node_unref(node);
}

static void *get_attr(void *arg)
{
    void **a = arg;
    struct pl_attr attr;
    return (void *)(intptr_t)pl_getattr(a[0], a[1], a[2], NULL, &attr);
}

/* Who waits for what others have written can be interrupted, and does no harm to it. */
/* A flush is asked only after a write that no fsync has followed. */
static void flush_when_due(void **state)
{
    struct world *w = *state;
    struct pl_node *node;
    struct pl_file *f = create(w->far, w->top, "f", O_RDWR | O_CREAT | O_TRUNC, &node);
    w->tree->what = PL_OP_flush;
    atomic_store(&w->tree->error, -EDQUOT); /* of one that reaches the server */
    assert_int_equal(pl_flush(w->far, &call, f, 0), 0);
    assert_int_equal(pl_write(w->far, &call, f, "text", 4, 0), 4);
    assert_int_equal(pl_fsync(w->far, &call, f, true), 0);
    assert_int_equal(pl_flush(w->far, &call, f, 0), 0);
    assert_int_equal(pl_write(w->far, &call, f, "text", 4, 0), 4);
    assert_int_equal(pl_flush(w->far, &call, f, 0), -EDQUOT);
    w->tree->what = PL_OP_fsync;
    assert_int_equal(pl_write(w->far, &call, f, "text", 4, 0), 4);
    assert_int_equal(pl_fsync(w->far, &call, f, false), -EDQUOT);
    w->tree->what = PL_OP_flush; /* the fsync that failed was none */
    assert_int_equal(pl_flush(w->far, &call, f, 0), -EDQUOT);
    atomic_store(&w->tree->error, 0);
    pl_close(w->far, &call, f);
    pl_node_unref(node);
}

static void behind_interrupted(void **state)
{
    struct world *w = *state;
    struct pl_node *node;
    struct pl_file *f = create(w->far, w->top, "f", O_RDWR | O_CREAT | O_EXCL, &node);
    struct pl_call other;
    pthread_t thread;
    void *r;
    char got[4];
    hold(w->tree, PL_OP_write);
    assert_int_equal(pl_write(w->far, &call, f, "text", 4, 0), 4);
    wait_begun(w->tree, 1);
    pl_call_init_self(&other);
    void *args[] = {w->far, &other, node};
    pthread_create(&thread, NULL, get_attr, args);
    pl_call_cancel(&other);
    pthread_join(thread, &r);
    assert_int_equal((intptr_t)r, -EINTR);
    pl_call_done(&other);
    release(w->tree);
    assert_int_equal(pl_read(w->far, &call, f, got, 4, 0), 4);
    assert_memory_equal(got, "text", 4);
    pl_close(w->far, &call, f);
    pl_node_unref(node);
}

/* No more than the limit is on its way: the next write waits. */
static void behind_bounded(void **state)
{
    struct world *w = *state;
    struct pl_file *f = create(w->far, w->top, "f", O_RDWR | O_CREAT | O_EXCL, NULL);
    char *text = pattern(1 << 20, 7);
    struct pl_call brief;
    hold(w->tree, PL_OP_write);
    for (int i = 0; i < LIMIT_BEHIND >> 20; i++)
        assert_int_equal(pl_write(w->far, &call, f, text, 1 << 20, (uint64_t)i << 20), 1 << 20);
    pl_call_init_self(&brief);
    brief.deadline = 1; /* long ago */
    assert_int_equal(pl_write(w->far, &brief, f, text, 1 << 20, LIMIT_BEHIND), -ETIMEDOUT);
    pl_call_done(&brief);
    release(w->tree);
    assert_int_equal(pl_flush(w->far, &call, f, 0), 0);
    pl_close(w->far, &call, f);
    free(text);
}

static void *release_soon(void *arg)
{
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL); /* so that others are tempted */
    release(arg);
    return NULL;
}

/* A write that the server does not do before a while after `soon` is started. */
static void write_late(struct world *w, struct pl_file *f, pthread_t *soon)
{
    hold(w->tree, PL_OP_write);
    assert_int_equal(pl_write(w->far, &call, f, "text", 4, 0), 4);
    wait_begun(w->tree, 1);
    pthread_create(soon, NULL, release_soon, w->tree);
}

/* What empties a file by any of its names comes behind the writes that were before it. */
static void behind_truncated(void **state)
{
    struct world *w = *state;
    struct pl_node *node, *same;
    struct pl_file *f = create(w->far, w->top, "f", O_RDWR | O_CREAT | O_EXCL, &node), *g;
    struct pl_attr attr;
    pthread_t soon;
    assert_int_equal(pl_link(w->far, &call, node, w->top, "g", &attr), 0);
    write_late(w, f, &soon);
    g = create(w->far, w->top, "g", O_RDWR | O_CREAT | O_TRUNC, &same);
    pthread_join(soon, NULL);
    assert_ptr_equal(node, same);
    assert_int_equal(pl_fsync(w->far, &call, f, false), 0);
    assert_int_equal(pl_getattr(w->far, &call, node, NULL, &attr), 0);
    assert_int_equal(attr.size, 0);
    pl_close(w->far, &call, g);
    write_late(w, f, &soon);
    assert_int_equal(pl_open(w->far, &call, node, O_WRONLY | O_TRUNC, &g), 0);
    pthread_join(soon, NULL);
    assert_int_equal(pl_fsync(w->far, &call, f, false), 0);
    assert_int_equal(pl_getattr(w->far, &call, node, NULL, &attr), 0);
    assert_int_equal(attr.size, 0);
    pl_close(w->far, &call, g);
    pl_close(w->far, &call, f);
    pl_node_unref(same);
    pl_node_unref(node);
}

/* What is told of a file by its name is as it was left, and syncfs has all of it there. */
static void behind_by_name(void **state)
{
    struct world *w = *state;
    struct pl_node *node, *same, *near = NULL;
    struct pl_file *f = create(w->far, w->top, "f", O_RDWR | O_CREAT | O_EXCL, &node), *g;
    struct pl_attr attr;
    pthread_t soon;
    write_late(w, f, &soon);
    assert_int_equal(pl_lookup(w->far, &call, w->top, "f", &same, &attr), 0);
    pthread_join(soon, NULL);
    assert_int_equal(attr.size, 4);
    assert_false(attr.blocks == 0);
    pl_node_unref(same);
    write_late(w, f, &soon);
    g = create(w->far, w->top, "f", O_RDWR | O_CREAT, &same);
    pthread_join(soon, NULL);
    pl_close(w->far, &call, g);
    pl_node_unref(same);
    write_late(w, f, &soon);
    assert_int_equal(pl_write(w->far, &call, f, "more", 4, 4), 4);
    assert_int_equal(pl_syncfs(w->far, &call, w->top), 0);
    assert_int_equal(pl_lookup(&w->tree->tree, &call, w->root, "f", &near, &attr), 0);
    assert_int_equal(attr.size, 8);
    pthread_join(soon, NULL);
    pl_node_unref(near);
    pl_close(w->far, &call, f);
    pl_node_unref(node);
}

/* Where the way is short each write is done when it returns. */
static void near_and_far(void **state)
{
    struct world *w = *state;
    for (int is_near = 0; is_near < 2; is_near++) {
        struct pl_node *top;
        struct pl_attr attr;
        w->near = is_near ? INT64_MAX : 1;
        struct pl_tree *t = dial(w);
        assert_int_equal(pl_attach(t, &call, "", &top, &attr), 0);
        struct pl_file *f = create(t, top, is_near ? "n" : "f", O_RDWR | O_CREAT | O_EXCL, NULL);
        w->tree->what = PL_OP_write;
        atomic_store(&w->tree->error, -ENOSPC);
        assert_int_equal(pl_write(t, &call, f, "text", 4, 0), is_near ? -ENOSPC : 4);
        assert_int_equal(pl_fsync(t, &call, f, false), is_near ? 0 : -ENOSPC);
        atomic_store(&w->tree->error, 0);
        pl_close(t, &call, f);
        pl_node_unref(top);
        pl_tree_unref(t);
    }
}

/* ---- attributes ---- */

static void set_behind(void **state)
{
    struct world *w = *state;
    struct pl_node *node;
    struct pl_file *f = create(w->far, w->top, "f", O_RDWR | O_CREAT | O_EXCL, &node);
    struct pl_setattr set = {.valid = PL_SET_MODE | PL_SET_MTIME, .mode = 0600, .mtime = {77, 5}};
    struct pl_attr attr;
    assert_int_equal(pl_write(w->far, &call, f, "text", 4, 0), 4);
    hold(w->tree, PL_OP_setattr);
    assert_int_equal(pl_setattr(w->far, &call, node, NULL, &set, &attr), 0);
    assert_true(attr.guess);
    assert_int_equal(attr.mode, S_IFREG | 0600);
    assert_int_equal(attr.size, 4);
    assert_int_equal(attr.mtime.tv_sec, 77);
    wait_begun(w->tree, 1);
    release(w->tree);
    assert_int_equal(pl_flush(w->far, &call, f, 0), 0);
    assert_int_equal(pl_getattr(w->far, &call, node, NULL, &attr), 0);
    assert_false(attr.guess);
    assert_int_equal(attr.mode, S_IFREG | 0600);
    assert_int_equal(attr.mtime.tv_sec, 77); /* behind the write */

    atomic_store(&w->tree->error, -EPERM);
    assert_int_equal(pl_setattr(w->far, &call, node, NULL, &set, &attr), 0);
    assert_int_equal(pl_flush(w->far, &call, f, 0), -EPERM);
    assert_int_equal(pl_flush(w->far, &call, f, 0), 0);
    pl_close(w->far, &call, f);
    /* Nobody who made it has it open: it is waited for. */
    assert_int_equal(pl_setattr(w->far, &call, node, NULL, &set, &attr), -EPERM);
    atomic_store(&w->tree->error, 0);
    assert_int_equal(pl_setattr(w->far, &call, node, NULL, &set, &attr), 0);
    assert_false(attr.guess);
    pl_node_unref(node);
}

/* Times that are given behind a write through another open file stay. */
static void set_in_order(void **state)
{
    struct world *w = *state;
    struct pl_node *node;
    struct pl_file *f = create(w->far, w->top, "f", O_RDWR | O_CREAT | O_EXCL, &node), *g;
    struct pl_setattr set = {.valid = PL_SET_MTIME, .mtime = {77, 5}};
    struct pl_attr attr;
    pthread_t soon;
    assert_int_equal(pl_open(w->far, &call, node, O_RDWR, &g), 0);
    write_late(w, g, &soon);
    assert_int_equal(pl_setattr(w->far, &call, node, NULL, &set, &attr), 0);
    pthread_join(soon, NULL);
    assert_int_equal(pl_getattr(w->far, &call, node, NULL, &attr), 0);
    assert_int_equal(attr.mtime.tv_sec, 77);
    pl_close(w->far, &call, g);
    pl_close(w->far, &call, f);
    pl_node_unref(node);
}

/* ---- reading ahead ---- */

struct reading {
    struct pl_tree *tree;
    struct pl_file *file;
    char *buf;
    ssize_t n;
};

static void *read_start(void *arg)
{
    struct reading *r = arg;
    r->n = pl_read(r->tree, &call, r->file, r->buf, 128 << 10, 0);
    return NULL;
}

static void ahead(void **state)
{
    enum { SIZE = 5 << 20, STEP = 128 << 10 };
    struct world *w = *state;
    struct pl_node *node;
    struct pl_file *f = create(&w->tree->tree, w->root, "f", O_RDWR | O_CREAT, NULL);
    char *text = pattern(SIZE, 3), *back = calloc(1, SIZE);
    assert_int_equal(pl_write(&w->tree->tree, &call, f, text, SIZE, 0), SIZE);
    node = look(w->far, w->top, "f");
    struct reading r = {.tree = w->far, .buf = back};
    assert_int_equal(pl_open(w->far, &call, node, O_RDWR, &r.file), 0);
    hold(w->tree, PL_OP_read);
    pthread_t thread;
    pthread_create(&thread, NULL, read_start, &r);
    wait_begun(w->tree, 3); /* it has asked for one */
    release(w->tree);
    pthread_join(thread, NULL);
    assert_int_equal(r.n, STEP);
    for (int at = STEP; at < SIZE; at += STEP) {
        if (at == 2 << 20) { /* what we write behind the reader is there when it comes */
            memset(text + (3 << 20), 'w', STEP);
            assert_int_equal(pl_write(w->far, &call, r.file, text + (3 << 20), STEP, 3 << 20),
                             STEP);
        }
        assert_int_equal(pl_read(w->far, &call, r.file, back + at, STEP, (uint64_t)at), STEP);
    }
    assert_memory_equal(text, back, SIZE);
    assert_int_equal(pl_read(w->far, &call, r.file, back, STEP, SIZE), 0);
    /* What was added by another is not behind an end that was read ahead. */
    assert_int_equal(pl_write(&w->tree->tree, &call, f, "more", 4, SIZE), 4);
    assert_int_equal(pl_read(w->far, &call, r.file, back, STEP, SIZE), 4);
    pl_close(w->far, &call, r.file);
    pl_close(&w->tree->tree, &call, f);
    pl_node_unref(node);
    free(text);
    free(back);
}

/* ---- listings ---- */

struct listed {
    int names, with;
    struct pl_node *one; /* of "f7" */
};

static int list_one(void *arg, const struct pl_dirent *ent)
{
    struct listed *l = arg;
    l->names++;
    assert_int_equal(!ent->node, !ent->attr);
    if (!ent->node)
        return 0;
    l->with++;
    assert_int_equal(ent->attr->ino, ent->ino);
    if (!strcmp(ent->name, "f7") && !l->one)
        l->one = pl_node_ref(ent->node);
    return 0;
}

static void listing(void **state)
{
    enum { COUNT = 3000 };
    struct world *w = *state;
    struct pl_file *dir;
    struct pl_attr attr;
    struct listed l = {0};
    for (int i = 0; i < COUNT; i++) {
        char name[16];
        snprintf(name, sizeof(name), "f%d", i);
        pl_close(&w->tree->tree, &call,
                 create(&w->tree->tree, w->root, name, O_RDWR | O_CREAT, NULL));
    }
    struct pl_call plus;
    pl_call_init_self(&plus);
    plus.plus = true;
    w->tree->what = PL_OP_read;
    assert_int_equal(pl_open(w->far, &call, w->top, O_RDONLY | O_DIRECTORY, &dir), 0);
    for (int again = 0; again < 2; again++) {
        l.names = l.with = 0;
        assert_int_equal(pl_readdir(w->far, &plus, dir, 0, list_one, &l), 0);
        assert_int_equal(l.names, COUNT + 2);
        assert_int_equal(l.with, w->plain ? 0 : COUNT);
    }
    if (!w->plain) {
        assert_non_null(l.one);
        assert_int_equal(pl_listxattr(w->far, &call, l.one, NULL, 0), 0);
        /* It has no fid yet: it is renamed, and then its name goes, and it is still there. */
        assert_int_equal(pl_rename(w->far, &call, w->top, "f7", w->top, "g7", 0), 0);
        assert_int_equal(pl_remove(w->far, &call, w->top, "g7", 0), 0);
        assert_int_equal(pl_getattr(w->far, &call, l.one, NULL, &attr), 0);
        assert_int_equal(attr.nlink, 0);
        pl_node_unref(l.one);
    }
    pl_call_done(&plus);
    pl_close(w->far, &call, dir);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        OWN_AND_PLAIN(behind),
        OWN_AND_PLAIN(behind_in_order),
        OWN_AND_PLAIN(behind_errors),
        cmocka_unit_test_setup_teardown(flush_when_due, setup_own, teardown),
        OWN_AND_PLAIN(behind_interrupted),
        OWN_AND_PLAIN(behind_bounded),
        cmocka_unit_test_setup_teardown(set_behind, setup_own, teardown),
        OWN_AND_PLAIN(ahead),
        OWN_AND_PLAIN(listing),
        OWN_AND_PLAIN(behind_truncated),
        OWN_AND_PLAIN(behind_by_name),
        OWN_AND_PLAIN(near_and_far),
        cmocka_unit_test_setup_teardown(set_in_order, setup_own, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
