/* SPDX-License-Identifier: MIT */
/* What a space promises to tell of, and what it tells when its trees tell it something. */
#include "space_fixture.h"
#include <poll.h>

/* ---- trees that can be watched: a layer over memory; the test is who changes things ---- */

struct telling {
    struct pl_tree tree; /* first */
    struct pl_watcher *watcher;
    bool told, refuse;
};

static struct telling *of(struct pl_tree *t)
{
    return (struct telling *)t;
}

static void do_done(struct pl_tree *t) {}

static int do_lookup(struct pl_tree *t, struct pl_call *call, struct pl_node *dir, const char *name,
                     struct pl_node **ret, struct pl_attr *attr)
{
    int r = pl_lookup(t->lower, call, dir, name, ret, attr);
    if (r == 0)
        attr->told = of(t)->told && of(t)->watcher;
    return r;
}

static int do_getattr(struct pl_tree *t, struct pl_call *call, struct pl_node *n, struct pl_file *f,
                      struct pl_attr *attr)
{
    int r = pl_getattr(t->lower, call, n, f, attr);
    attr->told = of(t)->told && of(t)->watcher;
    return r;
}

static int do_watch(struct pl_tree *t, struct pl_watcher *w, char how[64])
{
    strcpy(how, of(t)->refuse ? "not today" : "by the test");
    if (w && of(t)->refuse)
        return -EPERM;
    assert_true(!w != !of(t)->watcher);
    of(t)->watcher = w;
    return 0;
}

static const struct pl_ops ops = {.name = "telling",
                                  .done = do_done,
                                  .lookup = do_lookup,
                                  .getattr = do_getattr,
                                  .watch = do_watch};

static struct pl_tree *telling(void)
{
    struct pl_tree *m;
    struct telling *t = calloc(1, sizeof(*t));
    assert_int_equal(pl_mem_new(0, &m, &err), 0);
    pl_tree_init(&t->tree, &ops, m);
    t->tree.flags &= ~(uint32_t)PL_TREE_PRIVATE;
    t->told = true;
    return &t->tree;
}

/* ---- a watcher of the space that notes what it is told ---- */

static struct notes {
    struct pl_watcher w; /* first */
    pthread_mutex_t lock;
    struct {
        struct pl_node *node; /* only compared */
        uint32_t what;        /* 0: renamed */
        char name[40];
    } note[256];
    size_t n;
    char lost[100], how[64];
} told = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void note(struct pl_node *node, uint32_t what, const char *name)
{
    pthread_mutex_lock(&told.lock);
    if (told.n < 256) {
        told.note[told.n].node = node;
        told.note[told.n].what = what;
        snprintf(told.note[told.n++].name, sizeof(told.note[0].name), "%s", name);
    }
    pthread_mutex_unlock(&told.lock);
}

static void on_changed(struct pl_watcher *w, struct pl_node *node, uint64_t ino, uint32_t what)
{
    assert_true(ino && what);
    note(node, what, "");
}

static void on_renamed(struct pl_watcher *w, struct pl_node *dir, uint64_t ino, const char *name)
{
    assert_true(ino && dir->fmt == S_IFDIR);
    note(dir, 0, name);
}

static void on_lost(struct pl_watcher *w, const char *sentence)
{
    strcpy(told.lost, sentence);
}

static void on_how(struct pl_watcher *w, const char *words)
{
    strcpy(told.how, words);
}

static bool noted(const struct pl_node *node, uint32_t what, const char *name)
{
    bool found = false;
    pthread_mutex_lock(&told.lock);
    for (size_t i = 0; i < told.n; i++)
        found |= told.note[i].node == node &&
                 (what ? (told.note[i].what & what) == what
                       : !told.note[i].what && !strcmp(told.note[i].name, name));
    pthread_mutex_unlock(&told.lock);
    return found;
}

#define CHANGED(n)       noted(n, PL_CHANGED_ATTR, "")
#define CONTENT(n)       noted(n, PL_CHANGED_DATA, "")
#define RENAMED(d, name) noted(d, 0, name)

static void clear(void)
{
    pthread_mutex_lock(&told.lock);
    told.n = 0;
    pthread_mutex_unlock(&told.lock);
}

/* ---- changes behind the space's back ---- */

/* The tree tells that the object at the path has changed. */
static void changes(struct pl_tree *t, const char *path, uint32_t what)
{
    struct pl_node *n = must(t, path);
    of(t)->watcher->changed(of(t)->watcher, n, at.ino, what);
    pl_node_unref(n);
}

/* ... that a name may stand for something else, and the directory has changed with it. */
static void renames(struct pl_tree *t, const char *path)
{
    const char *name;
    struct pl_node *dir = parent(t, path, &name);
    of(t)->watcher->renamed(of(t)->watcher, dir, at.ino, name);
    of(t)->watcher->changed(of(t)->watcher, dir, at.ino, PL_CHANGED_ATTR | PL_CHANGED_DATA);
    pl_node_unref(dir);
}

/* Something new is there. */
static void comes(struct pl_tree *t, const char *path, bool is_dir)
{
    if (is_dir)
        mkdirs(t, path);
    else
        put(t, path, path);
    renames(t, path);
}

static char how[64];

static int setup(void **state)
{
    kind = MEM;
    pl_call_init_self(c);
    up = telling();
    low = telling();
    low2 = telling();
    put(up, "f", "up");
    put(low, "f", "low");
    put(low, "g", "low");
    mkdirs(up, "d");
    put(up, "d/u", "up");
    mkdirs(low, "d");
    put(low, "d/l", "low");
    told.n = 0;
    told.w = (struct pl_watcher){on_changed, on_renamed, on_lost, on_how};
    open_union(0);
    return 0;
}

static int teardown(void **state)
{
    if (u)
        pl_watch(u, NULL, how);
    assert_null(of(up)->watcher);
    assert_null(of(low)->watcher);
    assert_null(of(low2)->watcher);
    trees_close();
    return 0;
}

static void watch(void)
{
    assert_int_equal(pl_watch(u, &told.w, how), 0);
}

/* ---- what is promised ---- */

static bool is_told(const char *path)
{
    return attr_of(u, path).told;
}

static void promises(void **state)
{
    assert_false(is_told("f"));
    watch();
    assert_string_equal(how, "by the test");
    assert_true(is_told("") && is_told("f") && is_told("g") && is_told("d") && is_told("d/l"));
    struct pl_node *g = must(u, "g");
    assert_int_equal(pl_getattr(u, c, g, NULL, &at), 0);
    assert_true(at.told);
    of(low)->told = false; /* what is in the top alone depends on nothing behind it */
    assert_true(is_told("f") && is_told("d/u"));
    assert_false(is_told("g") || is_told("d") || is_told("d/l"));
    of(low)->told = true;
    assert_true(is_told("g") && is_told("d"));
    of(up)->told = false; /* it may hide everything */
    assert_false(is_told("f") || is_told("d") || is_told("d/l") || is_told("d/u"));
    of(up)->told = true;
    assert_true(is_told("d/l"));
    assert_int_equal(pl_watch(u, NULL, how), 0);
    assert_false(is_told("f") || is_told("d"));
    pl_node_unref(g);
}

/* Names of one file are counted elsewhere, too. */
static void not_of_links(void **state)
{
    assert_int_equal(ln(low, "g", "g2"), 0);
    watch();
    assert_false(is_told("g"));
    assert_true(is_told("f"));
}

static void who_cannot(void **state)
{
    struct telling *t = of(low);
    t->refuse = true;
    watch();
    assert_string_equal(how, "by the test; 1 of the trees cannot");
    assert_true(is_told("f"));
    assert_false(is_told("g") || is_told("d"));
    assert_int_equal(pl_watch(u, &told.w, how), -EBUSY);
    pl_watch(u, NULL, how);
    of(up)->refuse = true;
    assert_int_equal(pl_watch(u, &told.w, how), -EOPNOTSUPP);
    assert_string_equal(how, "not today");
    assert_false(is_told("f"));
}

/* Memory is changed by nobody else. */
static void private_trees(void **state)
{
    struct pl_tree *m;
    assert_int_equal(pl_mem_new(0, &m, &err), 0);
    put(m, "m", "");
    pl_tree_unref(u);
    assert_int_equal(pl_union_new((struct pl_tree *[]){low, m}, 2, true, 0, &u, &err), 0);
    pl_tree_unref(m);
    watch();
    assert_string_equal(how, "by the test");
    assert_true(is_told("m") && is_told("f") && is_told(""));
}

/* A change through the one place would not be told to the other. */
static void seen_twice(void **state)
{
    pl_tree_unref(u);
    const struct pl_binding b[] = {{"/", up, "/", PL_BIND_CREATE},
                                   {"/", low, "/", PL_BIND_AFTER},
                                   {"/x", low, "/d", PL_BIND_REPLACE}};
    assert_int_equal(pl_space_new(b, 3, 0, &u, &err), 0);
    watch();
    assert_true(is_told("f"));
    assert_false(is_told("g") || is_told("x/l"));
    /* but where it is anyway it is once */
    const struct pl_binding once[] = {{"/", up, "/", PL_BIND_CREATE},
                                      {"/", low, "/", PL_BIND_AFTER},
                                      {"/d", low, "/d", PL_BIND_REPLACE}};
    assert_int_equal(pl_space_set(u, once, 3, &err), 0);
    assert_true(is_told("f") && is_told("g") && is_told("d/l"));
}

static void other_tables(void **state)
{
    watch();
    assert_true(of(low)->watcher && !of(low2)->watcher);
    put(low2, "n", "");
    const struct pl_binding b[] = {{"/", up, "/", PL_BIND_CREATE}, {"/", low2, "/", PL_BIND_AFTER}};
    assert_int_equal(pl_space_set(u, b, 2, &err), 0);
    assert_true(!of(low)->watcher && of(low2)->watcher);
    assert_true(is_told("n") && is_told("f"));
    struct pl_node *n = must(u, "n");
    changes(low2, "n", PL_CHANGED_ATTR);
    assert_true(CHANGED(n));
    pl_node_unref(n);
}

/* What may be cached of a listing: of a tree behind that nobody watches, the version tells. */
static void versions(void **state)
{
    uint64_t v = attr_of(u, "d").version;
    assert_int_not_equal(v, 0);
    struct timespec was = at.mtime;
    put(low, "d/new", "");
    assert_int_not_equal(attr_of(u, "d").version, v);
    assert_int_equal(at.mtime.tv_nsec, was.tv_nsec); /* the first one's, as ever */
    v = at.version;
    put(low, "g", "more");
    assert_int_equal(attr_of(u, "d").version, v);
    struct pl_node *d = must(u, "d");
    assert_int_equal(pl_getattr(u, c, d, NULL, &at), 0);
    assert_int_equal(at.version, v); /* the same, whoever asks */
    pl_node_unref(d);
    watch();
    assert_int_equal(attr_of(u, "d").version, 0); /* it is told */
}

static void stateless(void **state)
{
    assert_true(u->flags & PL_TREE_STATELESS);
    low->flags &= ~(uint32_t)PL_TREE_STATELESS;
    open_union(0);
    assert_false(u->flags & PL_TREE_STATELESS);
}

/* ---- what is told ---- */

static void changes_below(void **state)
{
    watch();
    struct pl_node *g = must(u, "g"), *f = must(u, "f"), *d = must(u, "d"), *root = must(u, "");
    changes(low, "g", PL_CHANGED_ATTR | PL_CHANGED_DATA);
    assert_true(CHANGED(g) && CONTENT(g));
    clear();
    changes(low, "f", PL_CHANGED_DATA); /* hidden */
    assert_int_equal(told.n, 0);
    changes(up, "f", PL_CHANGED_DATA);
    assert_true(CONTENT(f));
    clear();
    changes(low, "d", PL_CHANGED_ATTR); /* a merged directory shows the first one's attributes */
    assert_int_equal(told.n, 0);
    changes(up, "d", PL_CHANGED_ATTR);
    assert_true(CHANGED(d));
    assert_false(CHANGED(root));
    strcpy(told.lost, "");
    of(low)->watcher->lost(of(low)->watcher, "a storm");
    assert_string_equal(told.lost, "a storm");
    of(low)->watcher->how(of(low)->watcher, "by the test: half of it");
    assert_string_equal(told.how, "by the test: half of it");
    pl_node_unref(g);
    pl_node_unref(f);
    pl_node_unref(d);
    pl_node_unref(root);
}

static void names_below(void **state)
{
    watch();
    struct pl_node *root = must(u, ""), *d = must(u, "d");
    comes(low, "new", false);
    assert_true(RENAMED(root, "new") && CONTENT(root));
    clear();
    comes(low, "d/deep", false);
    assert_true(RENAMED(d, "deep") && CONTENT(d));
    assert_false(CHANGED(d)); /* its time is the first one's */
    clear();
    assert_int_equal(rm(low, "f", 0), 0);
    renames(low, "f");
    assert_false(RENAMED(root, "f")); /* the top has it */
    comes(low, "d/u", false);
    assert_false(RENAMED(d, "u"));
    clear();
    assert_int_equal(rm(up, "f", 0), 0);
    renames(up, "f");
    assert_true(RENAMED(root, "f"));
    clear();
    comes(up, ".wh.g", false); /* hides it */
    assert_true(RENAMED(root, "g"));
    assert_false(is_there(u, "g"));
    clear();
    renames(low, "g");
    assert_false(RENAMED(root, "g"));
    comes(up, ".wh..t.1", false);
    assert_false(RENAMED(root, ".wh..t.1"));
    pl_node_unref(root);
    pl_node_unref(d);
}

/* The kernel keeps names of directories that it knows, and does not ask for these again. */
static void directories_below(void **state)
{
    mkdirs(up, "e");
    mkdirs(up, "e/in");
    mkdirs(low, "away");
    mkdirs(low, "away/in");
    put(low, "away/in/z", "");
    watch();
    struct pl_node *e = must(u, "e"), *in = must(u, "e/in"), *z;
    assert_int_equal(pl_lookup(u, c, in, "z", &z, &at), -ENOENT);
    assert_int_equal(mv(low, "away", "e", 0), 0);
    renames(low, "away");
    renames(low, "e");
    assert_true(RENAMED(e, "in") && RENAMED(in, "z") && CONTENT(in));
    assert_int_equal(pl_lookup(u, c, in, "z", &z, &at), 0);
    assert_true(at.told);
    pl_node_unref(z);
    clear();
    assert_int_equal(mv(low, "e", "away", 0), 0);
    renames(low, "e");
    assert_true(RENAMED(e, "in") && RENAMED(in, "z"));
    assert_int_equal(pl_lookup(u, c, in, "z", &z, &at), -ENOENT);
    pl_node_unref(e);
    pl_node_unref(in);
}

static void marks(void **state)
{
    watch();
    struct pl_node *d = must(u, "d"), *l, *lower = must(up, "d");
    comes(up, "d/.wh..opq", false);
    assert_true(RENAMED(d, "l"));
    assert_int_equal(pl_lookup(u, c, d, "l", &l, &at), -ENOENT);
    assert_int_equal(rm(up, "d/.wh..opq", 0), 0);
    clear();
    renames(up, "d/.wh..opq");
    assert_true(RENAMED(d, "l"));
    assert_int_equal(pl_lookup(u, c, d, "l", &l, &at), 0);
    pl_node_unref(l);
    clear();
    assert_int_equal(pl_setxattr(up, c, lower, "user.overlay.opaque", "y", 1, 0), 0);
    changes(up, "d", PL_CHANGED_ATTR);
    assert_true(RENAMED(d, "l"));
    assert_int_equal(pl_lookup(u, c, d, "l", &l, &at), -ENOENT);
    pl_node_unref(lower);
    pl_node_unref(d);
}

/* Nobody expects other attributes from opening a file. */
static void copied_up(void **state)
{
    watch();
    mkdirs(low, "only");
    put(low, "only/file", "x");
    struct pl_node *n = must(u, "only/file"), *dir = must(u, "only");
    struct pl_file *f;
    assert_int_equal(pl_open(u, c, n, O_RDWR, &f), 0);
    for (int i = 0; i < 2000 && !(CHANGED(n) && CHANGED(dir)); i++)
        poll(NULL, 0, 10);
    assert_true(CHANGED(n) && CHANGED(dir));
    pl_close(u, c, f);
    /* what is in it now is told of, where it is now */
    assert_true(is_told("only") && is_told("only/file"));
    clear();
    changes(up, "only/file", PL_CHANGED_DATA);
    assert_true(CONTENT(n));
    clear();
    changes(low, "only/file", PL_CHANGED_DATA);
    assert_int_equal(told.n, 0);
    comes(low, "only/other", false);
    assert_true(RENAMED(dir, "other"));
    pl_node_unref(n);
    pl_node_unref(dir);
}

/* ---- all at once ---- */

static struct pl_node *both; /* "d" in the space */
static atomic_bool over;

static void *works(void *arg)
{
    struct pl_call mine;
    pl_call_init_self(&mine);
    for (unsigned i = 0; !over; i++) {
        char name[16];
        struct pl_node *n;
        struct pl_file *f;
        struct pl_attr attr;
        snprintf(name, sizeof(name), "n%u", i % 5);
        if (pl_lookup(u, &mine, both, name, &n, &attr) == 0) {
            if (n->fmt == S_IFREG && i % 3 == 0 && pl_open(u, &mine, n, O_RDWR, &f) == 0)
                pl_close(u, &mine, f);
            pl_node_unref(n);
        }
        if (i % 7 == 0)
            pl_remove(u, &mine, both, name, 0);
        pl_getattr(u, &mine, both, NULL, &attr);
    }
    pl_call_done(&mine);
    return NULL;
}

static void while_it_is_used(void **state)
{
    pthread_t t[2];
    watch();
    both = must(u, "d");
    over = false;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&t[i], NULL, works, NULL), 0);
    for (int i = 0; i < 300; i++) {
        char path[16];
        snprintf(path, sizeof(path), "d/n%d", i % 5);
        comes(low, path, false);
        if (i % 10 == 0) {
            assert_int_equal(mv(low, "d", "e", 0), 0);
            renames(low, "d");
            assert_int_equal(mv(low, "e", "d", 0), 0);
            renames(low, "d");
        }
        clear();
    }
    over = true;
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    /* nothing is believed that is not so */
    has(u, "d/l", "low");
    pl_node_unref(must(u, "d"));
    struct pl_node *l;
    assert_int_equal(pl_lookup(u, c, both, "l", &l, &at), 0);
    assert_true(at.told);
    pl_node_unref(l);
    pl_node_unref(both);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(promises),      TEST(not_of_links),     TEST(who_cannot),        TEST(private_trees),
        TEST(seen_twice),    TEST(other_tables),     TEST(versions),          TEST(stateless),
        TEST(changes_below), TEST(names_below),      TEST(directories_below), TEST(marks),
        TEST(copied_up),     TEST(while_it_is_used),
    };
    return cmocka_run_group_tests_name("what a space tells", tests, NULL, NULL);
}
