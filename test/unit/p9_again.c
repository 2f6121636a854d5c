/* SPDX-License-Identifier: MIT */
/* A tree over 9P outlives its connection: each request, broken off at each point. */
#include "p9_again_fixture.h"

static struct kind ours = {.remembers = true}, forgetful = {0}, stock = {.plain = true};
static struct kind real = {.remembers = true, .real = true};

/* A request that must be done once and has gone out, at a server that cannot know whether it came
 * further than that. */
static int once(struct broken *w)
{
    return w->remembers ? 0 : -EREMOTEIO;
}

/* ---- what changes nothing ---- */

static void looking(void **state)
{
    struct broken *w = new_of(state);
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *f = create(w->far, w->top, "a", O_RDWR, &node);
    assert_int_equal(pl_write(w->far, &call, f, "hello", 5, 0), 5);
    for (enum when when = BEFORE; when < WHENS; when++) {
        cut_at(w, P9_Tgetattr, 0, when);
        assert_int_equal(pl_getattr(w->far, &call, node, NULL, &attr), 0);
        assert_int_equal(attr.size, 5);
        cut_at(w, P9_Tgetattr, 0, when);
        assert_int_equal(pl_getattr(w->far, &call, node, f, &attr), 0);
        char buf[8];
        cut_at(w, P9_Tread, 0, when);
        assert_int_equal(pl_read(w->far, &call, f, buf, 8, 0), 5);
        assert_memory_equal(buf, "hello", 5);
        cut_at(w, P9_Tfsync, 0, when);
        assert_int_equal(pl_fsync(w->far, &call, f, false), 0);
        cut_at(w, w->plain ? P9_Twalk : P9_Tlookup, 0, when);
        struct pl_node *same = look(w->far, w->top, "a");
        assert_ptr_equal(same, node);
        pl_node_unref(same);
        struct statfs st = {0};
        cut_at(w, P9_Tstatfs, 0, when);
        assert_int_equal(pl_statfs(w->far, &call, node, &st), 0);
        assert_int_equal(w->when, NEVER);
    }
    assert_true(w->downs >= 15);
    pl_close(w->far, &call, f);
    pl_node_unref(node);
    broken_free(w);
}

/* ---- what changes something ---- */

static void making(void **state)
{
    struct broken *w = new_of(state);
    static const struct {
        uint8_t type;
        uint32_t mode;
    } makes[] = {
        {P9_Tmkdir, S_IFDIR | 0755}, {P9_Tsymlink, S_IFLNK | 0777}, {P9_Tmknod, S_IFIFO | 0644}};
    for (unsigned i = 0; i < 3; i++) {
        for (enum when when = BEFORE; when < WHENS; when++) {
            struct pl_node *node;
            struct pl_attr attr;
            struct pl_make make = {.mode = makes[i].mode, .target = "x"};
            char name[32];
            snprintf(name, sizeof(name), "%u-%u", i, when);
            cut_at(w, makes[i].type, 0, when);
            int r = pl_make(w->far, &call, w->top, name, &make, &node, &attr);
            assert_int_equal(r, once(w));
            if (r == 0) {
                assert_int_equal(attr.mode & S_IFMT, makes[i].mode & S_IFMT);
                pl_node_unref(node);
            }
            int flags = S_ISDIR(makes[i].mode) ? AT_REMOVEDIR : 0;
            if (r == 0 || pl_lookup(w->mem, &call, w->root, name, &node, &attr) == 0) {
                if (r < 0)
                    pl_node_unref(node);
                cut_at(w, P9_Tunlinkat, 0, when);
                r = pl_remove(w->far, &call, w->top, name, flags);
                assert_int_equal(r, once(w));
                assert_int_equal(w->when, NEVER);
            }
        }
    }
    broken_free(w);
}

static void renaming(void **state)
{
    struct broken *w = new_of(state);
    for (enum when when = BEFORE; when < WHENS; when++) {
        struct pl_node *node, *other;
        struct pl_attr attr;
        pl_close(w->far, &call, create(w->far, w->top, "from", O_RDWR, &node));
        cut_at(w, P9_Trenameat, 0, when);
        int r = pl_rename(w->far, &call, w->top, "from", w->top, "to", 0);
        assert_int_equal(r, once(w));
        if (r == 0) { /* the node is known by its new name */
            cut_now(w);
            assert_int_equal(pl_getattr(w->far, &call, node, NULL, &attr), 0);
            cut_at(w, P9_Tlink, 0, when);
            assert_int_equal(pl_link(w->far, &call, node, w->top, "link", &attr), once(w));
            assert_int_equal(attr.nlink, 2);
            other = look(w->far, w->top, "link");
            assert_ptr_equal(other, node);
            pl_node_unref(other);
            assert_int_equal(pl_remove(w->far, &call, w->top, "link", 0), 0);
        }
        pl_node_unref(node);
        pl_remove(w->mem, &call, w->root, "from", 0);
        pl_remove(w->mem, &call, w->root, "to", 0);
    }
    broken_free(w);
}

static void creating(void **state)
{
    struct broken *w = new_of(state);
    for (int flags = O_RDWR; flags <= (O_RDWR | O_EXCL); flags += O_EXCL) {
        for (enum when when = BEFORE; when < WHENS; when++) {
            for (unsigned at = 0; at < 3; at++) {
                static const uint8_t types[] = {P9_Twalk, P9_Tlcreate, P9_Tgetattr};
                struct pl_node *node;
                struct pl_attr attr;
                struct pl_file *f;
                char name[32], buf[8];
                snprintf(name, sizeof(name), "%o-%u-%u", flags, when, at);
                cut_at(w, types[at], 0, when);
                int r = pl_create(w->far, &call, w->top, name, flags, 0600, &node, &attr, &f);
                /* all are under way at once, but to a stock server */
                if (flags & O_EXCL && !w->remembers && (at == 1 || !w->plain) && r < 0)
                    assert_int_equal(r, -EREMOTEIO);
                else
                    assert_int_equal(r, 0);
                assert_int_equal(w->when, NEVER);
                if (r < 0)
                    continue;
                assert_int_equal(attr.mode, S_IFREG | 0600);
                assert_int_equal(pl_write(w->far, &call, f, "bytes", 5, 0), 5);
                cut_now(w);
                assert_int_equal(pl_read(w->far, &call, f, buf, 8, 0), 5);
                assert_memory_equal(buf, "bytes", 5);
                pl_close(w->far, &call, f);
                pl_node_unref(node);
            }
        }
    }
    broken_free(w);
}

static void opening(void **state)
{
    struct broken *w = new_of(state);
    struct pl_node *node;
    struct pl_file *f = create(w->far, w->top, "a", O_RDWR, &node), *g;
    assert_int_equal(pl_write(w->far, &call, f, "hello", 5, 0), 5);
    for (enum when when = BEFORE; when < WHENS; when++) {
        for (unsigned at = 0; at < 2; at++) {
            char buf[8];
            cut_at(w, at ? P9_Tlopen : P9_Twalk, 0, when);
            assert_int_equal(pl_open(w->far, &call, node, O_RDWR, &g), 0);
            assert_int_equal(w->when, NEVER);
            assert_int_equal(pl_read(w->far, &call, g, buf, 8, 0), 5);
            cut_now(w);
            assert_int_equal(pl_read(w->far, &call, g, buf, 8, 0), 5);
            pl_close(w->far, &call, g);
        }
    }
    /* truncating once: what is written after it stays */
    for (enum when when = BEFORE; when < WHENS; when++) {
        struct pl_attr attr;
        cut_at(w, P9_Tlopen, 0, when);
        assert_int_equal(pl_open(w->far, &call, node, O_RDWR | O_TRUNC, &g), 0);
        assert_int_equal(pl_getattr(w->far, &call, node, NULL, &attr), 0);
        assert_int_equal(attr.size, 0);
        assert_int_equal(pl_write(w->far, &call, g, "hello", 5, 0), 5);
        cut_now(w);
        assert_int_equal(pl_getattr(w->far, &call, node, g, &attr), 0);
        assert_int_equal(attr.size, 5);
        pl_close(w->far, &call, g);
    }
    pl_close(w->far, &call, f);
    pl_node_unref(node);
    broken_free(w);
}

static void writing(void **state)
{
    struct broken *w = new_of(state);
    enum { BIG = 3 << 20 };
    uint8_t *data = pattern(BIG, 7), *back = malloc(BIG);
    struct pl_file *f = create(w->far, w->top, "big", O_RDWR, NULL);
    for (enum when when = BEFORE; when < WHENS; when++) {
        for (unsigned skip = 0; skip < 6; skip++) {
            memset(back, 0, BIG);
            data[skip]++;
            cut_at(w, P9_Twrite, skip, when);
            assert_int_equal(pl_write(w->far, &call, f, data, BIG, 0), BIG);
            cut_at(w, P9_Tread, skip, when);
            assert_int_equal(pl_read(w->far, &call, f, back, BIG, 0), BIG);
            assert_memory_equal(data, back, BIG);
        }
        struct pl_setattr set = {.valid = PL_SET_MODE | PL_SET_SIZE, .mode = 0640, .size = 100};
        struct pl_attr attr;
        cut_at(w, P9_Tsetattr, 0, when);
        assert_int_equal(pl_setattr(w->far, &call, f->node, f, &set, &attr), 0);
        assert_int_equal(attr.size, 100);
        assert_int_equal(attr.mode & 07777, 0640);
    }
    pl_close(w->far, &call, f);
    free(data);
    free(back);
    broken_free(w);
}

static void appending(void **state)
{
    struct broken *w = new_of(state);
    struct pl_attr attr;
    uint64_t size = 0;
    struct pl_file *f = create(w->far, w->top, "log", O_RDWR | O_APPEND, NULL);
    for (enum when when = BEFORE; when < WHENS; when++) {
        cut_at(w, w->remembers ? P9_Twrite2 : P9_Twrite, 0, when);
        ssize_t r = pl_write(w->far, &call, f, "line\n", 5, 0);
        assert_int_equal(r, once(w) ? once(w) : 5);
        assert_int_equal(w->when, NEVER);
        assert_int_equal(pl_getattr(w->far, &call, f->node, f, &attr), 0);
        if (r < 0 && attr.size == size) /* it was not done after all */
            continue;
        size += 5;
        assert_int_equal(attr.size, size);
    }
    pl_close(w->far, &call, f);
    broken_free(w);
}

static void xattrs(void **state)
{
    struct broken *w = new_of(state);
    struct pl_node *node;
    char buf[8];
    pl_close(w->far, &call, create(w->far, w->top, "x", O_RDWR, &node));
    static const uint8_t sets[] = {P9_Twalk, P9_Txattrcreate, P9_Twrite, P9_Tclunk};
    static const uint8_t gets[] = {P9_Txattrwalk, P9_Tread};
    for (enum when when = BEFORE; when < WHENS; when++) {
        for (unsigned at = 0; at < 4; at++) {
            cut_at(w, sets[at], 0, when);
            int r = pl_setxattr(w->far, &call, node, "user.a", "val", 3, XATTR_CREATE);
            assert_int_equal(r, at == 3 ? once(w) : 0);
            assert_int_equal(w->when, NEVER);
            if (r == 0) {
                cut_at(w, gets[at % 2], 0, when);
                assert_int_equal(pl_getxattr(w->far, &call, node, "user.a", buf, 8), 3);
                assert_memory_equal(buf, "val", 3);
            }
            cut_at(w, P9_Tclunk, 0, when);
            assert_int_equal(pl_setxattr(w->far, &call, node, "user.a", "other", 5, 0), 0);
            assert_int_equal(pl_removexattr(w->far, &call, node, "user.a"), 0);
        }
    }
    pl_node_unref(node);
    broken_free(w);
}

#define EACH(test)                                                                                 \
    {#test " (remembers)", test, NULL, NULL, &ours}, {#test " (real)", test, NULL, NULL, &real},   \
        {#test " (forgets)", test, NULL, NULL, &forgetful},                                        \
    {                                                                                              \
#test " (stock)", test, NULL, NULL, &stock                                                 \
    }

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        EACH(looking), EACH(making),  EACH(renaming),  EACH(creating),
        EACH(opening), EACH(writing), EACH(appending), EACH(xattrs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
