/* SPDX-License-Identifier: MIT */
/* Bindings at paths: what is shown there, where changes go, and how the table is changed. */
#include "space_fixture.h"

static int setup(void **state)
{
    trees_open();
    put(up, "f", "up");
    mkdirs(up, "a");
    put(up, "a/x", "up");
    mkdirs(up, "a/sub");
    put(up, "a/sub/s", "up");
    put(low, "x", "low");
    put(low, "y", "low");
    mkdirs(low, "sub");
    put(low, "sub/t", "low");
    put(low2, "y", "low2");
    put(low2, "z", "low2");
    mkdirs(low2, "deep");
    put(low2, "deep/w", "low2");
    return 0;
}

static int teardown(void **state)
{
    trees_close();
    return 0;
}

static int make_space(const struct pl_binding *b, size_t n, uint32_t flags)
{
    pl_tree_unref(u);
    u = NULL;
    return pl_space_new(b, n, flags, &u, &err);
}

#define SPACE(flags, ...)                                                                          \
    make_space((struct pl_binding[]){__VA_ARGS__},                                                 \
               sizeof((struct pl_binding[]){__VA_ARGS__}) / sizeof(struct pl_binding), flags)

static void replace_before_after(void **state)
{
    assert_int_equal(SPACE(0, {"/", up, "/", PL_BIND_CREATE}, {"/a", low, "/", PL_BIND_REPLACE}),
                     0);
    assert_string_equal(list(u, "a"), "sub x y");
    has(u, "a/x", "low");
    assert_string_equal(list(u, ""), "a f");
    assert_int_equal(SPACE(0, {"/", up, "/", PL_BIND_CREATE}, {"/a", low, "/", PL_BIND_AFTER},
                           {"/a", low2, "/", PL_BIND_AFTER}),
                     0);
    assert_string_equal(list(u, "a"), "deep sub x y z");
    has(u, "a/x", "up");
    has(u, "a/y", "low");
    assert_string_equal(list(u, "a/sub"), "s t");
    assert_int_equal(SPACE(0, {"/", up, "/", PL_BIND_CREATE}, {"/a", low, "/", PL_BIND_BEFORE}), 0);
    has(u, "a/x", "low");
    assert_string_equal(list(u, "a/sub"), "s t");
}

/* The create-here of the tree above takes what is behind it; a tree in front of it is changed in
 * place. */
static void where_changes_go(void **state)
{
    assert_int_equal(SPACE(0, {"/", up, "/", PL_BIND_CREATE}, {"/a", low2, "/", PL_BIND_BEFORE},
                           {"/a", low, "/", PL_BIND_AFTER}),
                     0);
    put(u, "a/new", "new");
    has(up, "a/new", "new");
    assert_int_equal(try_write(u, "a/x", "UP", 0), 0);
    has(up, "a/x", "UP");
    assert_int_equal(try_write(u, "a/z", "changed", O_TRUNC), 0);
    has(low2, "z", "changed");
    assert_int_equal(try_write(u, "a/sub/t", "LOW", 0), 0);
    has(up, "a/sub/t", "LOW");
    has(low, "sub/t", "low");
    assert_int_equal(rm(u, "a/z", 0), 0);
    assert_false(is_there(low2, "z"));
}

static void no_create_here(void **state)
{
    assert_int_equal(SPACE(0, {"/", up, "/", PL_BIND_CREATE}, {"/a", low, "/", PL_BIND_REPLACE},
                           {"/a", low2, "/", PL_BIND_AFTER}),
                     0);
    assert_int_equal(try_write(u, "a/x", "no", 0), -EROFS);
    assert_int_equal(try_write(u, "a/new", "no", 0), -EROFS);
    /* one tree alone is what it is */
    assert_int_equal(SPACE(0, {"/", up, "/", PL_BIND_CREATE}, {"/a", low, "/", PL_BIND_REPLACE}),
                     0);
    put(u, "a/new", "new");
    has(low, "new", "new");
}

static void paths_that_are_not_there(void **state)
{
    assert_int_equal(
        SPACE(0, {"/", up, "/", PL_BIND_CREATE}, {"/p/q/r", low, "/", PL_BIND_REPLACE}), 0);
    assert_string_equal(list(u, ""), "a f p");
    assert_string_equal(list(u, "p"), "q");
    has(u, "p/q/r/x", "low");
    assert_int_equal(attr_of(u, "p").mode, S_IFDIR | 0555);
    assert_int_equal(try_write(u, "p/new", "", 0), -EROFS);
    assert_int_equal(rm(u, "p/q/r", AT_REMOVEDIR), -EBUSY);
    assert_int_equal(rm(u, "p", AT_REMOVEDIR), -EBUSY);
    assert_int_equal(mv(u, "p", "pp", 0), -EBUSY);
    assert_int_equal(mv(u, "a", "p", RENAME_EXCHANGE), -EBUSY);
    assert_int_equal(mk(u, "p", S_IFDIR | 0755), -EEXIST);
    assert_int_equal(SPACE(0, {"/only", low, "/sub", PL_BIND_REPLACE}), 0);
    assert_string_equal(list(u, ""), "only");
    has(u, "only/t", "low");
    assert_int_equal(try_write(u, "new", "", 0), -EROFS);
}

static void a_top_that_is_not_there(void **state)
{
    assert_int_equal(SPACE(0, {"/", up, "/", PL_BIND_CREATE},
                           {"/v", up, "/v", PL_BIND_REPLACE | PL_BIND_CREATE},
                           {"/v", low, "/", PL_BIND_AFTER}),
                     0);
    assert_string_equal(list(u, "v"), "sub x y");
    assert_false(is_there(up, "v"));
    put(u, "v/sub/new", "new");
    has(up, "v/sub/new", "new");
    assert_string_equal(list(u, "v/sub"), "new t");
    assert_int_equal(SPACE(0, {"/w", up, "/w/w", PL_BIND_CREATE}), 0);
    assert_string_equal(list(u, "w"), "");
    put(u, "w/first", "new");
    has(up, "w/w/first", "new");
}

static void a_file_over_a_file(void **state)
{
    assert_int_equal(SPACE(0, {"/", up, "/", PL_BIND_CREATE}, {"/f", low, "/x", PL_BIND_REPLACE}),
                     0);
    has(u, "f", "low");
    assert_int_equal(rm(u, "f", 0), -EBUSY);
    put(u, "f", "changed");
    has(low, "x", "changed");
    has(up, "f", "up");
}

/* As between mounts; and nothing is copied up for what cannot be. */
static void across_bindings(void **state)
{
    assert_int_equal(SPACE(0, {"/", up, "/", PL_BIND_CREATE},
                           {"/v", low, "/sub", PL_BIND_REPLACE | PL_BIND_CREATE},
                           {"/v", low2, "/", PL_BIND_AFTER}),
                     0);
    static const char *const from[] = {"v/z", "v/t", "f"}, *const to[] = {"a/new", "new", "v/new"};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ln(u, from[i], to[i]), -EXDEV);
        assert_int_equal(mv(u, from[i], to[i], 0), -EXDEV);
        assert_false(is_there(u, to[i]));
    }
    assert_false(is_there(low, "sub/z"));
    assert_int_equal(mv(u, "v/deep", "a/deep", 0), -EXDEV);
    assert_int_equal(mv(u, "v/z", "f", RENAME_EXCHANGE), -EXDEV);
    assert_int_equal(mv(u, "a", "v", 0), -EBUSY);
    assert_int_equal(mv(u, "v", "a/v", 0), -EBUSY);
    assert_int_equal(mv(u, "a", "v", RENAME_EXCHANGE), -EBUSY);
    assert_int_equal(rm(u, "v", AT_REMOVEDIR), -EBUSY);
    assert_int_equal(rm(u, "v", 0), -EBUSY);
    assert_int_equal(ln(u, "f", "v"), -EEXIST);
    assert_int_equal(mk(u, "v", S_IFDIR | 0755), -EEXIST);
    assert_int_equal(ln(u, "v/z", "v/z2"), 0);
    has(low, "sub/z2", "low2");
}

/* A over B at /A, B itself at /B: a file of B is one thing there and another here. */
static void two_views_of_one_file(void **state)
{
    assert_int_equal(SPACE(PL_SPACE_DOTS, {"/", low, "/", PL_BIND_CREATE},
                           {"/A", up, "/", PL_BIND_REPLACE | PL_BIND_CREATE},
                           {"/A", low, "/", PL_BIND_AFTER}, {"/A", low2, "/", PL_BIND_AFTER}),
                     0);
    assert_true(attr_of(u, "A/x").ino != attr_of(u, "x").ino || kind == HOST);
    put(u, "A/y", "mine");
    has(u, "y", "low");
    has(u, "A/y", "mine");
    has(u, "A/.../y", "low");
    has(u, "A/.../.../y", "low2");
    assert_false(is_there(u, "A/.../.../..."));
    assert_false(is_there(u, "..."));
    assert_string_equal(list(u, "A/..."), "deep sub x y z");
    assert_string_equal(list(u, "A/sub/..."), "t");
    assert_int_equal(try_write(u, "A/.../y", "no", 0), -EROFS);
    assert_int_equal(try_write(u, "A/...", "no", 0), -EINVAL);
    put(u, "y", "changed");
    has(u, "A/.../y", "changed");
}

static void where_things_are(void **state)
{
    char path[256];
    struct pl_tree *in;
    assert_int_equal(SPACE(PL_SPACE_DOTS, {"/", up, "/", PL_BIND_CREATE},
                           {"/a/m", low2, "/deep", PL_BIND_CREATE},
                           {"/a/m", low, "/sub", PL_BIND_AFTER}, {"/p/q", low, "/", 0}),
                     0);
    const struct {
        const char *path, *is;
        struct pl_tree *in;
    } t[] = {{"f", "/f", up},
             {"a/sub/s", "/a/sub/s", up},
             {"a/m/w", "/deep/w", low2},
             {"a/m/t", "/sub/t", low},
             {"a/m", "/deep", low2},
             {"", "/", up},
             {"p/q/sub/t", "/sub/t", low},
             {"a/m/.../t", "/sub/t", low}};
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        struct pl_node *n = must(u, t[i].path);
        assert_int_equal(pl_space_where(u, c, n, &in, path, sizeof(path)), 0);
        assert_string_equal(path, t[i].is);
        assert_ptr_equal(in, t[i].in);
        assert_int_equal(pl_space_where(u, c, n, &in, path, strlen(t[i].is)), -ERANGE);
        pl_node_unref(n);
    }
    struct pl_node *n = must(u, "p");
    assert_int_equal(pl_space_where(u, c, n, &in, path, sizeof(path)), -EXDEV);
    pl_node_unref(n);
}

static int count(void *arg, const struct pl_binding *b)
{
    ++*(int *)arg;
    return 0;
}

/* What is open, or held, goes on; what is looked up is found by the new table, also from a node
 * that was known before. */
static void changed_while_in_use(void **state)
{
    char buf[256];
    int n = 0;
    assert_int_equal(SPACE(0, {"/", up, "/", PL_BIND_CREATE}, {"/a", low, "/", PL_BIND_REPLACE}),
                     0);
    struct pl_node *a = must(u, "a"), *x = must(u, "a/x"), *again;
    struct pl_file *f;
    assert_int_equal(pl_open(u, c, x, O_RDONLY, &f), 0);
    const struct pl_binding b = {"/a", low2, "/", PL_BIND_BEFORE};
    assert_int_equal(pl_space_bind(u, &b, &err), 0);
    assert_string_equal(list(u, "a"), "deep sub x y z");
    assert_int_equal(pl_lookup(u, c, a, "z", &again, &at), 0);
    pl_node_unref(again);
    assert_int_equal(pl_space_each(u, count, &n), 0);
    assert_int_equal(n, 3);
    assert_int_equal(pl_space_unbind(u, "/a", low, &err), 0);
    assert_int_equal(pl_lookup(u, c, a, "x", &again, &at), 0); /* up's now */
    pl_node_unref(again);
    assert_int_equal(pl_space_unbind(u, "/a", NULL, &err), 0);
    assert_int_equal(pl_space_unbind(u, "/a", NULL, &err), -ENOENT);
    has(u, "a/x", "up");
    assert_string_equal(text_of(u, f, buf), "low");
    pl_close(u, c, f);
    assert_int_equal(pl_space_set(u, (struct pl_binding[]){{"/", low2, "/", 0}}, 1, &err), 0);
    assert_string_equal(list(u, ""), "deep y z");
    assert_int_equal(pl_lookup(u, c, a, "nothing", &again, &at), -ENOENT);
    pl_node_unref(x);
    pl_node_unref(a);
}

/* What is wrong: the errno, the object that the sentence names, and a word of what to do. */
static void says(int r, int want, const char *object, const char *remedy)
{
    assert_int_equal(r, want);
    if (strncmp(err.text, object, strlen(object)) != 0 || !strstr(err.text, remedy))
        fail_msg("%s: neither about %s nor \"%s\"", err.text, object, remedy);
}

static void refused(void **state)
{
    says(SPACE(0, {"a", up, "/", 0}), -EINVAL, "a: ", "absolute path");
    says(SPACE(0, {"/../a", up, "/", 0}), -EINVAL, "/../a: ", "absolute path");
    says(SPACE(0, {NULL, up, "/", 0}), -EINVAL, "(none): ", "absolute path");
    says(SPACE(0, {"/", up, "sub", 0}), -EINVAL, "sub: ", "absolute path");
    says(SPACE(0, {"/p", NULL, "/", 0}), -EINVAL, "/p: ", "PL_BIND_REPLACE");
    says(SPACE(0, {"/p", up, "/", 3}), -EINVAL, "/p: ", "PL_BIND_REPLACE");
    says(SPACE(0, {"/p", up, "/", 8}), -EINVAL, "/p: ", "PL_BIND_REPLACE");
    says(SPACE(0, {"/", up, "/f", 0}), -ENOTDIR, "/: /f ", "a file may be bound alone");
    says(SPACE(0, {"/p/q", up, "/f", 0}, {"/p/q/r", low, "/", 0}), -ENOTDIR, "/p/q: /f ",
         "a file may be bound alone");
    says(SPACE(0, {"/p", up, "/f", 0}, {"/p", low, "/", PL_BIND_AFTER}), -ENOTDIR, "/p: /f ",
         "a file may be bound alone");
    says(SPACE(0, {"/", up, "/", 0}, {"/f/below", low, "/", 0}), -ENOTDIR,
         "/f: ", "bind a directory");
    says(SPACE(0, {"/", up, "/", 0}, {"/a/x/below", low, "/", 0}), -ENOTDIR,
         "/a/x: ", "bind a directory");
    says(SPACE(0, {"/", up, "/", 0}, {"/a/x", low, "/", PL_BIND_BEFORE}), -ENOTDIR,
         "/a/x: ", "bind a directory");
    says(SPACE(8, {"/", up, "/", 0}), -EINVAL, "flags 0x8: ", "PL_SPACE_CLASSIC");
    const struct pl_binding one = {"/", up, "/", 0};
    says(pl_space_bind(up, &one, &err), -EINVAL, up->ops->name, "pl_space_new");
    says(pl_space_set(up, &one, 1, &err), -EINVAL, up->ops->name, "pl_space_new");
    says(pl_space_unbind(up, "/", NULL, &err), -EINVAL, up->ops->name, "pl_space_new");
    assert_int_equal(SPACE(0, {"/", up, "/", 0}), 0);
    says(pl_space_unbind(u, "/a", NULL, &err), -ENOENT, "/a: ", "pl_space_each");
    says(pl_union_new(&up, 0, true, 0, &u, &err), -EINVAL, "a union of 0 trees", "1 to 32");
    pl_tree_unref(u);
    struct pl_binding many[PL_SPACE_STACK + 1];
    for (size_t i = 0; i <= PL_SPACE_STACK; i++)
        many[i] = (struct pl_binding){"/", low, "/", PL_BIND_AFTER};
    says(pl_space_new(many, PL_SPACE_STACK + 1, 0, &u, &err), -E2BIG, "/: ", "make a union");
    for (size_t i = 0; i <= PL_SPACE_STACK; i++)
        many[i].path = "/p/q";
    says(pl_space_new(many, PL_SPACE_STACK + 1, 0, &u, &err), -E2BIG, "/p/q: ", "make a union");
    for (size_t i = 0; i <= PL_SPACE_STACK; i++)
        many[i].path = "/";
    assert_int_equal(pl_space_new(many, PL_SPACE_STACK, 0, &u, &err), 0);
    struct pl_tree *in;
    assert_int_equal(pl_union_new((struct pl_tree *[]){up, u}, 2, true, 0, &in, &err), 0);
    const struct pl_binding self = {"/x", in, "/", 0};
    says(pl_space_bind(u, &self, &err), -ELOOP, "/x: ", "bind the trees");
    pl_tree_unref(in);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(replace_before_after),
        TEST(where_changes_go),
        TEST(no_create_here),
        TEST(paths_that_are_not_there),
        TEST(a_top_that_is_not_there),
        TEST(a_file_over_a_file),
        TEST(across_bindings),
        TEST(two_views_of_one_file),
        TEST(where_things_are),
        TEST(changed_while_in_use),
        TEST(refused),
    };
    int failed = 0;
    for (kind = MEM; kind <= HOST; kind += HOST)
        failed += cmocka_run_group_tests_name(kind ? "bindings of host" : "bindings of memory",
                                              tests, NULL, NULL);
    return failed;
}
