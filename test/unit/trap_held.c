/* SPDX-License-Identifier: MIT */
/* The trap door when a tree does not answer: others are served, and who is killed is let go. */
#include "test/unit/trap_fixture.h"

#include <plenum/call.h>
#include <signal.h>

/* ---- a tree in which a look-up takes for ever ---- */

enum { HELD = 20 };

static struct {
    atomic_int n, cancelled;
    atomic_int pid[HELD];
    bool told; /* it says that it is about to wait */
} held;

static int before(struct pl_tree *t, struct pl_call *call, const struct pl_event *ev)
{
    if (ev->op != PL_OP_lookup)
        return 0;
    int r = 0, i = atomic_fetch_add(&held.n, 1);
    if (i < HELD)
        atomic_store(&held.pid[i], call->pid);
    if (held.told)
        r = pl_call_sleep(call, INT64_MAX / 4);
    while (!held.told && (r = pl_call_over(call)) == 0)
        usleep(1000);
    atomic_fetch_add(&held.cancelled, 1);
    return r;
}

static const struct pl_ops held_ops = {.name = "held", .before = before};

static struct trap_view *held_view(void)
{
    struct pl_tree *mem, *tree = calloc(1, sizeof(*tree));
    assert_non_null(tree);
    assert_int_equal(pl_mem_new(0, &mem, NULL), 0);
    pl_tree_init(tree, &held_ops, mem);
    return new_view(in_base("held"), tree);
}

/* ---- the program ---- */

/* As many children as there may be, each in a call that does not come back; then a call that has
 * nothing to do with it, before and after they were killed. */
static void hang(int children)
{
    char path[PATH_MAX];
    struct stat st;
    pid_t pid[HELD];
    int status, killed = 0;
    snprintf(path, sizeof(path), "%s/x", getenv("HELD"));
    for (int i = 0; i < children; i++)
        if ((pid[i] = fork()) == 0)
            _exit(stat(path, &st) < 0);
    if (children == HELD)
        R(stat("/", &st));
    for (int i = 0; i < children; i++)
        killed += waitpid(pid[i], &status, 0) == pid[i] && WIFSIGNALED(status);
    R(stat("/", &st));
    printf("%d\n", killed);
}

static void hang_two(const char *dir)
{
    hang(2);
}

static void hang_all(const char *dir)
{
    hang(HELD);
}

static const struct program programs[] = {
    {"hang_two", hang_two, false},
    {"hang_all", hang_all, false},
    {NULL, NULL, false},
};

/* ---- the tests ---- */

static void hold(const char *name, int children, unsigned threads, bool told)
{
    struct trap_view *v = held_view();
    struct trap_opts opts = {.threads = threads};
    struct trap *t;
    struct pl_err err;
    char *argv[] = {self, "case", (char *)name, base, NULL}, want[100];
    atomic_store(&held.n, 0);
    atomic_store(&held.cancelled, 0);
    held.told = told;
    setenv("HELD", in_base("held"), 1);
    int old = redirect(in_base("out"));
    int r = trap_start(v, &opts, argv, &t, &err);
    dup2(old, 1);
    close(old);
    if (r == -ENOSYS || r == -EBUSY)
        exit(77);
    assert_int_equal(r, 0);
    while (atomic_load(&held.n) < children)
        usleep(1000);
    for (int i = 0; i < children; i++)
        assert_int_equal(kill(atomic_load(&held.pid[i]), SIGKILL), 0);
    assert_int_equal(end(t), 0);
    assert_int_equal(atomic_load(&held.cancelled), children);
    snprintf(want, sizeof(want), "%sstat(\"/\", &st): 0\n%d\n",
             children == HELD ? "stat(\"/\", &st): 0\n" : "", children);
    char *text = text_of(in_base("out"));
    assert_string_equal(text, want);
    free(text);
    trap_view_unref(v);
}

/* All the threads that there may be are held up: they come back when their callers are killed. */
static void test_killed(void **state)
{
    hold("hang_two", 2, 2, true);
    hold("hang_two", 2, 2, false);
}

/* There are more threads: others are served meanwhile, whether the tree says that it waits or not.
 */
static void test_others(void **state)
{
    hold("hang_all", HELD, 0, true);
    hold("hang_all", HELD, 0, false);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "case") == 0)
        return program(programs, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_others),
    };
    fixture_start();
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    if (r == 0)
        fixture_end();
    return r;
}
