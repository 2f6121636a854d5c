/* SPDX-License-Identifier: MIT */
/* A tree over 9P2000.u and over 9P2000 outlives its connection, too: what these do in their own
 * ways. The rest is in p9_again_state.c. */
#include "p9_again_fixture.h"
#include <limits.h>

static struct kind u = {.plain = true, .version = P9_VERSION_U};
static struct kind base = {.plain = true, .version = P9_VERSION};

/* What has gone out, and is done otherwise the second time, is in doubt. */
enum { DOUBT = -EREMOTEIO };

static bool there(struct broken *w, const char *name)
{
    struct pl_node *node;
    struct pl_attr attr;
    int r = pl_lookup(w->mem, &call, w->root, name, &node, &attr);
    if (r == 0)
        pl_node_unref(node);
    return r == 0;
}

static bool is_over(struct broken *w)
{
    pthread_mutex_lock(&w->mutex);
    bool over = w->when == NEVER;
    pthread_mutex_unlock(&w->mutex);
    return over;
}

/* ---- what changes nothing ---- */

static void looking(void **state)
{
    struct broken *w = new_of(state);
    static const uint8_t types[] = {P9_Twalk, P9_Tstat, P9_Topen, P9_Tread};
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *f;
    char buf[8];
    f = create(w->mem, w->root, "f", O_RDWR, NULL);
    assert_int_equal(pl_write(w->mem, &call, f, "content", 7, 0), 7);
    pl_close(w->mem, &call, f);
    for (unsigned i = 0; i < sizeof(types); i++) {
        for (enum when when = BEFORE; when < WHENS; when++) {
            cut_at(w, types[i], 0, when);
            assert_int_equal(pl_lookup(w->far, &call, w->top, "f", &node, &attr), 0);
            assert_int_equal(attr.size, 7);
            assert_int_equal(pl_open(w->far, &call, node, O_RDONLY, &f), 0);
            assert_int_equal(pl_read(w->far, &call, f, buf, sizeof(buf), 0), 7);
            assert_memory_equal(buf, "content", 7);
            pl_close(w->far, &call, f);
            pl_node_unref(node);
            assert_true(is_over(w));
        }
    }
    broken_free(w);
}

/* ---- names ---- */

static int make(struct broken *w, const char *name, uint32_t mode, const char *target)
{
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_make make = {.mode = mode, .target = target};
    int r = pl_make(w->far, &call, w->top, name, &make, &node, &attr);
    if (r == 0)
        pl_node_unref(node);
    return r;
}

static void making(void **state)
{
    struct broken *w = new_of(state);
    bool more = strcmp(w->version, P9_VERSION);
    for (enum when when = BEFORE; when < WHENS; when++) {
        char name[32];
        for (int i = 0; i < (more ? 3 : 1); i++) {
            static const uint32_t modes[] = {S_IFDIR | 0755, S_IFLNK | 0777, S_IFIFO | 0644};
            snprintf(name, sizeof(name), "%d-%u", i, when);
            cut_at(w, P9_Tcreate, 0, when);
            assert_int_equal(make(w, name, modes[i], "target"), DOUBT);
            assert_true(is_over(w));
            assert_true(when == MIDDLE || there(w, name) == (when == AFTER));
        }
        snprintf(name, sizeof(name), "f-%u", when);
        struct pl_node *node;
        struct pl_attr attr;
        struct pl_file *f;
        cut_at(w, P9_Tcreate, 0, when);
        assert_int_equal(
            pl_create(w->far, &call, w->top, name, O_RDWR | O_EXCL, 0600, &node, &attr, &f), DOUBT);
        cut_at(w, P9_Tremove, 0, when);
        if (there(w, name)) {
            assert_int_equal(pl_remove(w->far, &call, w->top, name, 0), DOUBT);
            assert_true(is_over(w));
            assert_true(when == MIDDLE || there(w, name) == (when == BEFORE));
        }
        calm(w);
    }
    broken_free(w);
}

/* A link names a fid in a text, which is one of those that must be there. */
static void linking(void **state)
{
    struct broken *w = new_of(state);
    struct pl_node *node;
    struct pl_attr attr;
    if (!strcmp(w->version, P9_VERSION)) {
        broken_free(w);
        skip();
    }
    pl_close(w->far, &call, create(w->far, w->top, "f", O_RDWR, &node));
    cut_now(w);
    assert_int_equal(pl_link(w->far, &call, node, w->top, "l", &attr), 0);
    assert_true(there(w, "l"));
    for (enum when when = BEFORE; when < WHENS; when++) { /* amid it, between walk and create */
        char name[16];
        snprintf(name, sizeof(name), "l%u", when);
        cut_at(w, P9_Twalk, 1, when);
        assert_int_equal(pl_link(w->far, &call, node, w->top, name, &attr), 0);
        assert_true(there(w, name));
        assert_true(is_over(w));
    }
    pl_node_unref(node);
    broken_free(w);
}

static void renaming(void **state)
{
    struct broken *w = new_of(state);
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *f = create(w->far, w->top, "a", O_RDWR, &node);
    assert_int_equal(pl_rename(w->far, &call, w->top, "a", w->top, "b", 0), 0);
    cut_now(w);
    assert_int_equal(pl_write(w->far, &call, f, "1", 1, 0), 1);
    assert_int_equal(pl_getattr(w->far, &call, node, NULL, &attr), 0);
    for (enum when when = BEFORE; when < WHENS; when++) {
        cut_at(w, P9_Twstat, 0, when);
        assert_int_equal(pl_rename(w->far, &call, w->top, "b", w->top, "c", 0), DOUBT);
        assert_true(is_over(w));
        assert_int_equal(there(w, "b") + there(w, "c"), 1);
        /* done or not, it is found */
        assert_int_equal(pl_getattr(w->far, &call, node, NULL, &attr), 0);
        if (there(w, "c"))
            assert_int_equal(pl_rename(w->far, &call, w->top, "c", w->top, "b", 0), 0);
    }
    pl_close(w->far, &call, f);
    pl_node_unref(node);
    broken_free(w);
}

/* ---- attributes and bytes ---- */

static void writing(void **state)
{
    struct broken *w = new_of(state);
    bool knows_append = strcmp(w->version, P9_VERSION);
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *f = create(w->far, w->top, "f", O_RDWR, &node), *log;
    uint64_t size = 0;
    assert_int_equal(pl_open(w->far, &call, node, O_WRONLY | O_APPEND, &log), 0);
    for (enum when when = BEFORE; when < WHENS; when++) {
        struct pl_setattr cut = {.valid = PL_SET_SIZE, .size = 3};
        struct pl_setattr mode = {.valid = PL_SET_MODE, .mode = 0600 + when};
        char buf[8];
        cut_at(w, P9_Twrite, 0, when);
        assert_int_equal(pl_write(w->far, &call, f, "written", 7, 0), 7);
        assert_int_equal(pl_read(w->far, &call, f, buf, 8, 0), 7);
        assert_true(is_over(w));
        cut_at(w, P9_Twstat, 0, when);
        assert_int_equal(pl_setattr(w->far, &call, node, f, &cut, &attr), 0);
        assert_int_equal(attr.size, 3);
        cut_at(w, P9_Twstat, 0, when);
        assert_int_equal(pl_setattr(w->far, &call, node, NULL, &mode, &attr), 0);
        assert_int_equal(attr.mode & 0777, 0600 + when);
        cut_at(w, P9_Twstat, 0, when);
        assert_int_equal(pl_fsync(w->far, &call, f, false), 0);
        assert_true(is_over(w));
        /* at the end: twice in the same place, unless the server has its own idea of the end */
        cut_at(w, P9_Twrite, 0, when);
        assert_int_equal(pl_write(w->far, &call, log, "end", 3, 0), knows_append ? DOUBT : 3);
        assert_true(is_over(w));
        assert_int_equal(pl_getattr(w->far, &call, node, f, &attr), 0);
        size = attr.size;
        assert_true(size == 6 || (knows_append && when != AFTER && size == 3));
    }
    pl_close(w->far, &call, log);
    pl_close(w->far, &call, f);
    pl_node_unref(node);
    broken_free(w);
}

/* O_TRUNC is said once, and not when the file is opened again. */
static void truncating(void **state)
{
    struct broken *w = new_of(state);
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *f;
    pl_close(w->far, &call, create(w->far, w->top, "f", O_RDWR, &node));
    for (enum when when = BEFORE; when < WHENS; when++) {
        cut_at(w, P9_Topen, 0, when);
        assert_int_equal(pl_open(w->far, &call, node, O_RDWR | O_TRUNC, &f), 0);
        assert_int_equal(pl_write(w->far, &call, f, "kept", 4, 0), 4);
        cut_now(w);
        assert_int_equal(pl_getattr(w->far, &call, node, f, &attr), 0);
        assert_int_equal(attr.size, 4);
        pl_close(w->far, &call, f);
    }
    pl_node_unref(node);
    broken_free(w);
}

/* ---- directories ---- */

/* Each entry once, although the next server begins anew; and what was removed meanwhile, even the
 * last that was read, loses none of the others. */
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
        cut_at(w, P9_Tread, 0, when);
        assert_int_equal(pl_readdir(w->far, &call, dir, l.next, take, &l), 0);
        if (before == 0) {
            char name[200];
            int gone = 0;
            while (!l.seen[gone])
                gone++;
            snprintf(name, sizeof(name), "e%d-%0180d", gone, gone);
            assert_int_equal(pl_remove(w->mem, &call, w->root, name, 0), 0);
        }
        if (l.n == before)
            break;
    }
    for (int i = 0; i < ENTRIES; i++)
        assert_true(l.seen[i]);
    assert_int_equal(l.n, ENTRIES + 2);
    assert_true(w->downs >= 2);
    calm(w);
    l = (struct names){.stop = UINT_MAX}; /* from the beginning, as it is now */
    add_entry(w, ENTRIES);
    assert_int_equal(pl_readdir(w->far, &call, dir, 0, take, &l), 0);
    assert_int_equal(l.n, ENTRIES + 2);
    pl_close(w->far, &call, dir);
    broken_free(w);
}

/* A server that speaks another dialect is not what we had. */
static void other_dialect(void **state)
{
    struct broken *w = new_of(state);
    struct pl_attr attr;
    const char *version = w->version;
    refuse(w, true);
    cut_now(w);
    pthread_mutex_lock(&w->mutex);
    while (!w->waiting)
        pthread_cond_wait(&w->cond, &w->mutex);
    w->version = strcmp(version, P9_VERSION) ? P9_VERSION : P9_VERSION_U;
    pthread_mutex_unlock(&w->mutex);
    refuse(w, false);
    pthread_mutex_lock(&w->mutex);
    while (!strstr(w->said, "another dialect"))
        pthread_cond_wait(&w->cond, &w->mutex);
    w->version = version;
    pthread_mutex_unlock(&w->mutex);
    assert_int_equal(pl_getattr(w->far, &call, w->top, NULL, &attr), 0);
    broken_free(w);
}

#define BOTH(test)                                                                                 \
    {#test " (9P2000.u)", test, NULL, NULL, &u},                                                   \
    {                                                                                              \
#test " (9P2000)", test, NULL, NULL, &base                                                 \
    }

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        BOTH(looking), BOTH(making),     BOTH(linking),     BOTH(renaming),
        BOTH(writing), BOTH(truncating), BOTH(directories), BOTH(other_dialect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
