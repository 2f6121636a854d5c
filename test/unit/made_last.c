/* SPDX-License-Identifier: MIT */
/* Made trees whose server is killed: the same numbers, and what is open goes on or says why not. */
#include "made_fixture.h"
/* after it */
#include "lasting_fixture.h"
#include <sys/syscall.h>

#define KEYS 2000

static struct pl_stream *stream;
static struct state { /* outside of the program, as far as it can tell */
    char runs[256];
    int fills, first;
    _Atomic int running;
} * state;

static int run(const struct pl_made_req *req, const char *text, size_t n)
{
    strcat(strcat(state->runs, text), ";");
    atomic_store(&state->running, 1);
    while (!strcmp(text, "for ever"))
        pause();
    return strcmp(text, "bad") ? 0 : -EINVAL;
}

static int gen(const struct pl_made_req *req, struct pl_text *out)
{
    return pl_text_add(out, "text %d of %u\n", ++state->fills, req->call->cred.uid);
}

/* The same keys in another order each time, and some of them new. */
static int list(const struct pl_made_req *req, int (*add)(void *, const char *name), void *arg)
{
    char name[32];
    for (int i = 0; i < KEYS; i++) {
        snprintf(name, sizeof(name), "e%d", (i * 7 + state->first) % KEYS);
        if (add(arg, name) < 0)
            return -ENOMEM;
    }
    snprintf(name, sizeof(name), "new%d", state->first++);
    return add(arg, name) < 0 || add(arg, name) < 0 ? -ENOMEM : 0;
}

static int get(const struct pl_made_req *req, struct pl_text *out)
{
    return pl_text_add(out, "%s", req->name);
}

static int put_(const struct pl_made_req *req, const char *text, size_t n)
{
    return 0;
}

/* What a program does before pl_main(). */
static void program(void)
{
    static const struct pl_made_store store = {list, get, put_, NULL, NULL};
    m = pl_made_new();
    pl_made_ctl(m, "ctl", run, NULL);
    pl_made_file(m, "dir/gen", gen, NULL);
    pl_made_text(m, "dir/sub/text", "fixed\n");
    pl_made_doc(m, "dir/doc", gen, run, NULL);
    pl_made_docs(m, "kv", &store);
    stream = pl_made_stream(m, "events", 100);
    t = pl_made_tree(m);
    MUST(t && t->flags & PL_TREE_LASTING);
}

static void open_tree(void)
{
    pl_call_init_self(c);
    c->own = true;
    program();
    pl_keep(t, keep);
    MUST(pl_attach(t, c, "", &root, &at) == 0);
}

static struct pl_node *at_path(const char *path)
{
    struct pl_node *n;
    MUST(pl_attach(t, c, path, &n, &at) == 0);
    return n;
}

static struct pl_file *opened(const char *path, int flags)
{
    struct pl_file *f;
    MUST(pl_open(t, c, at_path(path), flags, &f) == 0);
    return f;
}

static struct pl_file *resumed(const char *path, int flags, int kept)
{
    struct pl_file *f;
    struct pl_node *n = at_path(path);
    MUST(pl_resume(t, c, n, flags, kept, &f) == 0);
    MUST(f->node == n && f->tree == t && f->flags == (uint32_t)flags);
    return f;
}

static ssize_t writes(struct pl_file *f, const char *text)
{
    return pl_write(t, c, f, text, strlen(text), 0);
}

static bool reads(struct pl_file *f, const char *text)
{
    char buf[100];
    ssize_t n = pl_read(t, c, f, buf, sizeof(buf), 0);
    return n == (ssize_t)strlen(text) && !memcmp(buf, text, (size_t)n);
}

static int begin(void **unused)
{
    lasting_begin();
    state = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return state == MAP_FAILED;
}

static int end(void **unused)
{
    munmap(state, sizeof(*state));
    lasting_end();
    return 0;
}

/* ---- numbers ---- */

static const char *const paths[] = {"",        "ctl",          "dir",     "dir/gen",
                                    "dir/sub", "dir/sub/text", "dir/doc", "events",
                                    "kv",      "kv/e5",        "kv/e6"};
#define PATHS (sizeof(paths) / sizeof(*paths))

static void numbers_first(void)
{
    open_tree();
    pl_made_text(m, "before", "x"); /* whatever else there is */
    for (size_t i = PATHS; i-- > 0;) {
        at_path(paths[i]);
        shared->n[i] = at.ino;
        for (size_t j = i + 1; j < PATHS; j++)
            MUST(shared->n[j] != at.ino);
    }
}

static int same(void *arg, const struct pl_dirent *e)
{
    struct pl_node *n;
    if (strcmp(e->name, ".") && strcmp(e->name, "..")) {
        MUST(pl_lookup(t, c, arg, e->name, &n, &at) == 0 && at.ino == e->ino);
        pl_node_unref(n);
    }
    return 0;
}

static void numbers_then(void)
{
    open_tree();
    for (size_t i = 0; i < PATHS; i++) {
        struct pl_node *n = at_path(paths[i]);
        MUST(shared->n[i] == at.ino);
        if (S_ISDIR(n->fmt))
            MUST(pl_readdir(t, c, opened(paths[i], O_RDONLY | O_DIRECTORY), 0, same, n) == 0);
    }
    /* one that takes a name over has its number; the other, still open, has it no more */
    struct pl_file *f = opened("ctl", O_WRONLY);
    MUST(pl_made_remove(m, "ctl") == 0 && pl_made_text(m, "ctl", "text") == 0);
    at_path("ctl");
    MUST(at.ino == shared->n[1]);
    MUST(pl_getattr(t, c, f->node, f, &at) == 0 && at.ino != shared->n[1]);
}

static void numbers(void **unused)
{
    server(numbers_first);
    server(numbers_then);
}

static void is_private(void **unused)
{
    m = pl_made_new();
    pl_made_private(m);
    t = pl_made_tree(m);
    assert_int_equal(t->flags & PL_TREE_LASTING, 0);
    pl_tree_unref(t);
    pl_made_private(NULL);
}

/* ---- commands ---- */

static void half_a_command(void)
{
    struct pl_intent intent = {0};
    open_tree();
    struct pl_file *f = opened("ctl", O_WRONLY);
    MUST(writes(f, "dim ") == 4);
    c->intent = &intent;
    MUST(writes(f, "3") == 1 && intent.size1 == 5);
    shared->kept[0] = f->kept;
}

/* The last write is asked again, with what was noted. */
static void the_other_half(void)
{
    struct pl_intent intent = {.size1 = 5};
    open_tree();
    struct pl_file *f = resumed("ctl", O_WRONLY, shared->kept[0]);
    MUST(f->kept == shared->kept[0]);
    c->intent = &intent;
    MUST(writes(f, "3") == 1);
    c->intent = NULL;
    MUST(writes(f, "0") == 1);
    MUST(pl_flush(t, c, f, 1) == 0);
    MUST(!strcmp(state->runs, "dim 30;"));
    MUST(pl_flush(t, c, f, 1) == 0 && !strcmp(state->runs, "dim 30;"));
    MUST(writes(f, "bad") == 3 && pl_flush(t, c, f, 1) == -EINVAL);
}

/* The door may have to find the node by the file. */
static void nothing_left(void)
{
    struct pl_file *f;
    open_tree();
    MUST(pl_resume(t, c, NULL, O_WRONLY, shared->kept[0], &f) == 0);
    MUST(f->node == at_path("ctl") && f->kept == shared->kept[0]);
    MUST(pl_flush(t, c, f, 1) == 0 && !strcmp(state->runs, "dim 30;bad;"));
    pl_close(t, c, f);
    shared->kept[0] = 0;
}

static void command_kept(void **unused)
{
    server(half_a_command);
    server(the_other_half);
    server(nothing_left);
    assert_true(strangers <= 1); /* the tree's memory; the command's went with it */
}

static void never_ends(void)
{
    open_tree();
    struct pl_file *f = opened("ctl", O_WRONLY);
    shared->kept[0] = f->kept;
    MUST(writes(f, "for ever") == 8);
    pl_flush(t, c, f, 1);
}

static void says_so(void)
{
    open_tree();
    struct pl_file *f = resumed("ctl", O_WRONLY, shared->kept[0]);
    MUST(pl_flush(t, c, f, 1) == -EIO && pl_flush(t, c, f, 1) == 0);
    MUST(writes(f, "next") == 4 && pl_flush(t, c, f, 1) == 0);
    MUST(!strcmp(state->runs, "for ever;next;"));
}

static void command_broken(void **unused)
{
    pid_t pid = server_start(never_ends);
    while (!atomic_load(&state->running))
        usleep(100);
    server_kill(pid);
    server(says_so);
}

/* ---- what is generated ---- */

static void files_first(void)
{
    open_tree();
    MUST(reads(opened("dir/gen", O_RDONLY), "text 1 of 0\n") || geteuid());
    struct pl_file *e = opened("events", O_RDONLY);
    MUST(pl_stream_send(stream, "one\n", 4) == 0);
    MUST(reads(e, "one\n"));
    MUST(pl_stream_send(stream, "two\n", 4) == 0);
}

static void files_then(void)
{
    open_tree();
    /* It is not asked again whether he may. */
    struct pl_setattr set = {.valid = PL_SET_MODE, .mode = 0};
    MUST(pl_setattr(t, c, at_path("dir/gen"), NULL, &set, &at) == 0);
    c->cred.uid = c->cred.gid = 4321;
    struct pl_file *f;
    MUST(pl_open(t, c, at_path("dir/gen"), O_RDONLY, &f) == -EACCES);
    MUST(reads(resumed("dir/gen", O_RDONLY, 0), "text 2 of 4321\n"));
    MUST(reads(resumed("dir/sub/text", O_RDONLY, 0), "fixed\n"));
    MUST(pl_resume(t, c, NULL, O_RDONLY, 0, &f) == -ESTALE);
    /* whatever descriptor comes with it is not ours to keep */
    int fd = dup(ready[0]);
    resumed("dir/sub/text", O_RDONLY, fd);
    MUST(fcntl(fd, F_GETFD) < 0);

    struct pl_file *e = resumed("events", O_RDONLY | O_NONBLOCK, 0);
    MUST(reads(e, "(lost ?)\n"));
    MUST(pl_stream_send(stream, "three\n", 6) == 0);
    MUST(reads(e, "three\n"));
    e = resumed("events", O_RDONLY | O_NONBLOCK, 0);
    for (int i = 0; i < 30; i++) /* more than it holds */
        MUST(pl_stream_send(stream, "rec.\n", 5) == 0);
    char buf[9];
    MUST(pl_read(t, c, e, buf, 9, 0) == 9 && !memcmp(buf, "(lost ?)\n", 9));
    MUST(pl_read(t, c, e, buf, 5, 0) == 5 && !memcmp(buf, "rec.\n", 5));
}

static void files(void **unused)
{
    server(files_first);
    server(files_then);
}

/* ---- documents ---- */

static void docs_first(void)
{
    open_tree();
    const char *const path[] = {"dir/doc", "kv/e7", "dir/gen"};
    for (int i = 0; i < 3; i++) {
        struct pl_file *f = opened(path[i], i < 2 ? O_RDWR | O_APPEND : O_RDONLY);
        if (i < 2)
            MUST(writes(f, " and more") == 9);
        at_path(path[i]);
        shared->kept[i] = f->kept > 0 ? f->kept : 0;
        shared->n[i] = at.ino;
    }
}

/* The door has descriptors, and no nodes yet. */
static void docs_then(void)
{
    struct pl_file *f[3];
    open_tree();
    for (int i = 0; i < 3; i++) {
        MUST(pl_resume(t, c, NULL, i < 2 ? O_RDWR | O_APPEND : O_RDONLY, shared->kept[i], &f[i]) ==
             0);
        MUST(pl_getattr(t, c, f[i]->node, f[i], &at) == 0 && at.ino == shared->n[i]);
    }
    MUST(f[1]->node == at_path("kv/e7"));
    MUST(reads(f[1], "e7 and more"));
    MUST(pl_flush(t, c, f[0], 1) == 0 && strstr(state->runs, " and more;"));
    MUST(pl_flush(t, c, f[1], 1) == 0);
    struct pl_file *none;
    int fd = memfd_create("made.1234.0.0", 0);
    MUST(pl_resume(t, c, NULL, O_RDONLY, fd, &none) == -ESTALE && close(fd) < 0);
    fd = memfd_create("made.1.1234567.0", 0);
    MUST(pl_resume(t, c, NULL, O_RDONLY, fd, &none) == -ESTALE && close(fd) < 0);
}

static void documents(void **unused)
{
    server(docs_first);
    if (!shared->kept[0]) /* no such memory to be had */
        skip();
    server(docs_then);
}

/* ---- listings ---- */

static int take(void *arg, const struct pl_dirent *e)
{
    int *left = arg;
    if (*left == 0)
        return 1;
    --*left;
    if (*e->name == 'e')
        shared->seen[atoi(e->name + 1)]++;
    shared->pos = e->next;
    return 0;
}

static void list_first(void)
{
    int left = 300;
    open_tree();
    MUST(pl_readdir(t, c, opened("kv", O_RDONLY | O_DIRECTORY), 0, take, &left) == 0);
    MUST(left == 0);
}

static void list_on(void)
{
    int left = 300;
    open_tree();
    struct pl_file *f = resumed("kv", O_RDONLY | O_DIRECTORY, 0);
    MUST(pl_readdir(t, c, f, shared->pos, take, &left) == 0);
    shared->n[0] += left > 0;
}

static void listing(void **unused)
{
    server(list_first);
    while (!shared->n[0])
        server(list_on);
    assert_true(state->first > 4);
    for (int i = 0; i < KEYS; i++)
        assert_int_equal(shared->seen[i], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(numbers, begin, end),
        cmocka_unit_test(is_private),
        cmocka_unit_test_setup_teardown(command_kept, begin, end),
        cmocka_unit_test_setup_teardown(command_broken, begin, end),
        cmocka_unit_test_setup_teardown(files, begin, end),
        cmocka_unit_test_setup_teardown(documents, begin, end),
        cmocka_unit_test_setup_teardown(listing, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
