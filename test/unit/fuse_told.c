/* SPDX-License-Identifier: MIT */
/* The FUSE door over a tree that tells of changes: what the kernel is told, and for how long it may
 * believe. */
#include "fuse_kernel.h"

/* A layer over mem that can be watched; the test is who changes things behind its back. */
struct telling {
    struct pl_tree tree; /* first */
    struct pl_watcher *watcher;
    bool told, refuse;
    const char *change_during; /* a lookup of this name is overtaken by a change of the result */
};

static struct telling *of(struct pl_tree *t)
{
    return (struct telling *)t;
}

static void done(struct pl_tree *t) {}

static int do_lookup(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, const char *name,
                     struct pl_node **ret, struct pl_attr *attr)
{
    int r = pl_lookup(t->lower, c, dir, name, ret, attr);
    if (r == 0)
        attr->told = of(t)->told;
    if (r == 0 && of(t)->change_during && !strcmp(name, of(t)->change_during))
        of(t)->watcher->changed(of(t)->watcher, *ret, attr->ino, PL_CHANGED_ATTR);
    return r;
}

static int do_getattr(struct pl_tree *t, struct pl_call *c, struct pl_node *n, struct pl_file *f,
                      struct pl_attr *attr)
{
    int r = pl_getattr(t->lower, c, n, f, attr);
    attr->told = of(t)->told;
    return r;
}

static int do_watch(struct pl_tree *t, struct pl_watcher *w, char how[64])
{
    if (w && of(t)->refuse) {
        strcpy(how, "not today");
        return -EPERM;
    }
    strcpy(how, "by the test");
    of(t)->watcher = w;
    return 0;
}

static const struct pl_ops ops = {
    .name = "telling", .done = done, .lookup = do_lookup, .getattr = do_getattr, .watch = do_watch};

static struct pl_tree *telling(bool refuse)
{
    struct telling *t = calloc(1, sizeof(*t));
    pl_tree_init(&t->tree, &ops, mem());
    t->tree.flags &= ~(uint32_t)PL_TREE_PRIVATE;
    t->told = true;
    t->refuse = refuse;
    return &t->tree;
}

static int begin(void **state)
{
    struct kernel *k = kernel_over(telling(false), NULL);
    while (!k->up) /* then it is watched */
        poll(NULL, 0, 1);
    *state = k;
    return 0;
}

static int end(void **state)
{
    struct kernel *k = *state;
    struct pl_tree *t = k->tree;
    assert_int_equal(kernel_end(k), 0);
    assert_null(of(t)->watcher);
    pl_tree_unref(t);
    return 0;
}

struct object {
    struct pl_node *node;
    uint64_t ino;
};

/* The node of a path, as the tree has it. */
static struct object node(struct kernel *k, const char *path)
{
    struct pl_call call;
    struct pl_node *n;
    struct pl_attr attr;
    pl_call_init_self(&call);
    assert_int_equal(pl_attach(k->tree, &call, path, &n, &attr), 0);
    pl_call_done(&call);
    pl_node_unref(n); /* mem's nodes are the storage */
    return (struct object){n, attr.ino};
}

#define NOTED(k, type) ((const struct type *)(const void *)(k)->noted)

/* The next notification is to be of this inode. */
static void await_inode(struct kernel *k, uint64_t id, bool data)
{
    assert_int_equal(await_note(k), FUSE_NOTIFY_INVAL_INODE);
    assert_int_equal(NOTED(k, fuse_notify_inval_inode_out)->ino, id);
    assert_int_equal(NOTED(k, fuse_notify_inval_inode_out)->off, data ? 0 : -1);
}

static void await_entry(struct kernel *k, uint64_t dir, const char *name)
{
    assert_int_equal(await_note(k), FUSE_NOTIFY_INVAL_ENTRY);
    const struct fuse_notify_inval_entry_out *e = NOTED(k, fuse_notify_inval_entry_out);
    assert_int_equal(e->parent, dir);
    assert_int_equal(e->flags, FUSE_EXPIRE_ONLY); /* what is mounted there stays */
    assert_int_equal(e->namelen, strlen(name));
    assert_string_equal(k->noted + sizeof(*e), name);
}

static void notes(void **state)
{
    struct kernel *k = *state;
    struct pl_watcher *w = of(k->tree)->watcher;
    mkdir_(k, 1, "d");
    uint64_t d = lookup(k, 1, "d"), fh, f = create(k, d, "f", O_RDWR, &fh);
    struct object dir = node(k, "d"), file = node(k, "d/f");
    w->changed(w, file.node, file.ino, PL_CHANGED_ATTR);
    await_inode(k, f, false);
    w->changed(w, file.node, file.ino, PL_CHANGED_ATTR | PL_CHANGED_DATA);
    await_inode(k, f, true);
    w->renamed(w, dir.node, dir.ino, "f");
    await_entry(k, d, "f");
    await_entry(k, d, "f"); /* once more: it may have been asked for just then */
    w->renamed(w, dir.node, dir.ino, "never seen");
    await_entry(k, d, "never seen");
    await_entry(k, d, "never seen");
    assert_int_equal(k->stats.invalidated, 6);
    /* of what the kernel does not know it is not told */
    uint64_t g = create(k, 1, "g", O_RDWR, &fh);
    struct object unknown = node(k, "g");
    assert_int_equal(release(k, FUSE_RELEASE, g, fh), 0);
    forget(k, g, 1);
    assert_true(gone(k, g));
    w->changed(w, unknown.node, unknown.ino, PL_CHANGED_ATTR);
    w->renamed(w, unknown.node, unknown.ino, "x");
    assert_true(silent(k));
    assert_int_equal(k->stats.invalidated, 6);
}

static void timeouts(void **state)
{
    struct kernel *k = *state;
    const struct fuse_entry_out *e = REPLY(k, fuse_entry_out);
    struct telling *t = of(k->tree);
    mkdir_(k, 1, "d");
    uint64_t d = lookup(k, 1, "d");
    assert_int_equal(e->entry_valid, 60);
    assert_int_equal(e->attr_valid, 60);
    assert_int_equal(getattr(k, d), 0);
    assert_int_equal(REPLY(k, fuse_attr_out)->attr_valid, 60);
    /* a name that is not there is as good as its directory */
    assert_int_equal(lookup(k, d, "none"), 0);
    assert_int_equal(e->entry_valid, 60);
    t->told = false;
    lookup(k, 1, "d");
    assert_int_equal(e->entry_valid, 1);
    assert_int_equal(e->attr_valid, 1);
    assert_int_equal(lookup(k, d, "none"), 0);
    assert_int_equal(e->entry_valid, 1);
    t->told = true;
    assert_int_equal(getattr(k, d), 0);
    assert_int_equal(lookup(k, d, "none"), 0);
    assert_int_equal(e->entry_valid, 60);
}

/* While the kernel waits for the root's first attributes it must not be told that they changed: it
 * would drop them, and let no ordinary user through the root that has no permissions yet. */
static void first_of_the_root(void **state)
{
    struct kernel *k = *state;
    struct object root = node(k, "");
    struct pl_watcher *w = of(k->tree)->watcher;
    assert_int_equal(getattr(k, 1), 0);
    assert_int_equal(REPLY(k, fuse_attr_out)->attr_valid, 0); /* so nothing is missed */
    w->changed(w, root.node, root.ino, PL_CHANGED_ATTR);
    assert_true(silent(k));
    assert_int_equal(lookup(k, 1, "none"), 0);
    assert_int_equal(getattr(k, 1), 0);
    assert_int_equal(REPLY(k, fuse_attr_out)->attr_valid, 60);
    w->changed(w, root.node, root.ino, PL_CHANGED_ATTR);
    await_inode(k, 1, false);
}

/* The change is told before the kernel knows what it is about: the reply is not to be believed. */
static void overtaken(void **state)
{
    struct kernel *k = *state;
    mkdir_(k, 1, "d");
    struct fuse_entry_out e = *REPLY(k, fuse_entry_out);
    forget(k, e.nodeid, 1);
    assert_true(gone(k, e.nodeid));
    of(k->tree)->change_during = "d";
    lookup(k, 1, "d");
    e = *REPLY(k, fuse_entry_out);
    assert_int_equal(e.entry_valid | e.entry_valid_nsec, 0);
    assert_int_equal(e.attr_valid | e.attr_valid_nsec, 0);
    of(k->tree)->change_during = NULL;
    lookup(k, 1, "d");
    assert_int_equal(REPLY(k, fuse_entry_out)->attr_valid, 60);
}

/* Changes were lost: all that is known is told, and for a while nothing is believed for long. */
static void lost(void **state)
{
    struct kernel *k = *state;
    struct pl_watcher *w = of(k->tree)->watcher;
    mkdir_(k, 1, "d");
    uint64_t d = lookup(k, 1, "d");
    assert_string_equal(k->stats.told, "by the test");
    w->lost(w, "a test");
    assert_int_equal(await_note(k), FUSE_NOTIFY_INC_EPOCH);
    await_inode(k, 1, true);
    await_inode(k, d, true);
    assert_true(silent(k));
    assert_non_null(strstr(k->stats.told, "lost"));
    lookup(k, 1, "d");
    assert_int_equal(REPLY(k, fuse_entry_out)->entry_valid, 1);
    assert_int_equal(REPLY(k, fuse_entry_out)->attr_valid, 1);
    w->how(w, "by half the test");
    assert_non_null(strstr(k->stats.told, "by half the test"));
}

static void without(void **state)
{
    struct fuse_opts opts;
    fuse_opts_init(&opts);
    opts.watch = FUSE_OFF;
    struct pl_tree *t = telling(false);
    struct kernel *k = kernel_over(t, &opts);
    mkdir_(k, 1, "d");
    lookup(k, 1, "d");
    assert_int_equal(REPLY(k, fuse_entry_out)->attr_valid, 1);
    assert_null(of(t)->watcher);
    assert_string_equal(k->stats.told, "asked again after 1 s: -o nowatch");
    assert_int_equal(kernel_end(k), 0);
    pl_tree_unref(t);

    t = telling(true);
    k = kernel_over(t, NULL);
    mkdir_(k, 1, "d");
    lookup(k, 1, "d");
    assert_int_equal(REPLY(k, fuse_entry_out)->attr_valid, 1);
    assert_string_equal(k->stats.told, "asked again after 1 s: not today");
    assert_int_equal(kernel_end(k), 0);
    pl_tree_unref(t);

    fuse_opts_init(&opts);
    opts.attr_timeout = opts.entry_timeout = 5000000000; /* the user's word counts */
    t = telling(false);
    k = kernel_over(t, &opts);
    mkdir_(k, 1, "d");
    lookup(k, 1, "d");
    assert_int_equal(REPLY(k, fuse_entry_out)->attr_valid, 5);
    assert_int_equal(kernel_end(k), 0);
    pl_tree_unref(t);
}

/* A kernel that cannot expire entries is told attributes only. */
static void older(void **state)
{
    struct pl_tree *t = telling(false);
    struct kernel *k = kernel_start(t, NULL);
    struct fuse_init_in in = {7, 38, 1 << 20, OFFERED, 0, {0}};
    assert_int_equal(ask(k, FUSE_INIT, 0, ARG(in), NONE), 0);
    mkdir_(k, 1, "d");
    uint64_t d = lookup(k, 1, "d");
    assert_int_equal(REPLY(k, fuse_entry_out)->entry_valid, 1);
    assert_int_equal(REPLY(k, fuse_entry_out)->attr_valid, 60);
    struct pl_watcher *w = of(t)->watcher;
    struct object dir = node(k, "d");
    w->renamed(w, dir.node, dir.ino, "x");
    assert_true(silent(k));
    w->changed(w, dir.node, dir.ino, PL_CHANGED_ATTR);
    await_inode(k, d, false);
    assert_int_equal(kernel_end(k), 0);
    pl_tree_unref(t);
}

/* Of what comes through the mount the kernel does not expect an ioctl to change attributes. */
static void neighbours(void **state)
{
    struct kernel *k = *state;
    uint64_t fh, f = create(k, 1, "f", O_RDWR, &fh);
    struct fuse_setattr_in in = {.valid = FATTR_MODE, .mode = 06755};
    assert_int_equal(ask(k, FUSE_SETATTR, f, ARG(in), NONE), 0);
    int before = k->notes;
    struct fuse_write_in wr = {.fh = fh, .size = 1, .write_flags = FUSE_WRITE_KILL_SUIDGID};
    assert_int_equal(ask(k, FUSE_WRITE, f, ARG(wr), BYTES("x", 1)), 0);
    /* mem clears the bits itself when it is written to, and who was told of it is the kernel */
    assert_int_equal(getattr(k, f), 0);
    assert_int_equal(REPLY(k, fuse_attr_out)->attr.mode & 06000, 0);
    assert_true(k->notes > before);
}

int main(void)
{
    alarm(60);
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        T(notes),
        T(timeouts),
        T(first_of_the_root),
        T(overtaken),
        T(lost),
        cmocka_unit_test(without),
        cmocka_unit_test(older),
        T(neighbours),
    };
    return cmocka_run_group_tests_name("fuse_told", tests, NULL, NULL);
}
