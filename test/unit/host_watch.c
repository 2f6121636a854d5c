/* SPDX-License-Identifier: MIT */
/* What the host source tells of changes behind its back, by fanotify and by inotify. */
#include "host_fixture.h"
#include "sources/host.h"
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>

/* A watcher that notes what it is told. */
#define NOTES 4096
static struct told {
    struct pl_watcher w; /* first */
    pthread_mutex_t lock;
    struct {
        struct pl_node *node; /* not counted: only compared */
        uint32_t what;        /* 0: renamed */
        char name[40];
    } note[NOTES];
    size_t n;
    int lost;
    char how[64];
} told;
static char how[64];
static bool inotify;

static void add(struct told *w, struct pl_node *node, uint32_t what, const char *name)
{
    pthread_mutex_lock(&w->lock);
    if (w->n < NOTES) {
        w->note[w->n].node = node;
        w->note[w->n].what = what;
        snprintf(w->note[w->n].name, sizeof(w->note[0].name), "%s", name);
        w->n++;
    }
    pthread_mutex_unlock(&w->lock);
}

static void changed(struct pl_watcher *w, struct pl_node *node, uint64_t ino, uint32_t what)
{
    assert_int_not_equal(ino, 0);
    add((struct told *)w, node, what, "");
}

static void renamed(struct pl_watcher *w, struct pl_node *dir, uint64_t ino, const char *name)
{
    assert_int_not_equal(ino, 0);
    add((struct told *)w, dir, 0, name);
}

static void lost(struct pl_watcher *w, const char *sentence)
{
    assert_true(*sentence);
    pthread_mutex_lock(&told.lock);
    told.lost++;
    pthread_mutex_unlock(&told.lock);
}

static void says(struct pl_watcher *w, const char *words)
{
    pthread_mutex_lock(&told.lock);
    snprintf(told.how, sizeof(told.how), "%s", words);
    pthread_mutex_unlock(&told.lock);
}

static bool how_is(const char *text)
{
    pthread_mutex_lock(&told.lock);
    bool is = !strcmp(told.how, text);
    pthread_mutex_unlock(&told.lock);
    return is;
}

static bool seen(struct pl_node *node, uint32_t what, const char *name)
{
    bool found = false;
    pthread_mutex_lock(&told.lock);
    for (size_t i = 0; i < told.n; i++)
        found |= told.note[i].node == node &&
                 (what ? (told.note[i].what & what) == what : !strcmp(told.note[i].name, name)) &&
                 !what == !told.note[i].what;
    pthread_mutex_unlock(&told.lock);
    return found;
}

/* Waits, generously, until it is told. */
static void wait_note(struct pl_node *node, uint32_t what, const char *name)
{
    for (int i = 0; i < 2000; i++) {
        if (seen(node, what, name))
            return;
        poll(NULL, 0, 10);
    }
    fail_msg("not told: what %u, name '%s'", what, name);
}
#define WAIT_CHANGED(n) wait_note(n, PL_CHANGED_ATTR, "")
/* inotify does not know whether the change was our own, and leaves it to the time of writing */
#define WAIT_DATA(n)     wait_note(n, PL_CHANGED_ATTR | (inotify ? 0 : PL_CHANGED_DATA), "")
#define WAIT_NAME(d, nm) wait_note(d, 0, nm)

static void forget_notes(void)
{
    pthread_mutex_lock(&told.lock);
    told.n = 0;
    pthread_mutex_unlock(&told.lock);
}

/* Runs `command` in a process of its own with the tree's root as its directory. */
static void other(const char *command)
{
    char line[1024];
    snprintf(line, sizeof(line), "cd '%s' && { %s; }", real, command);
    assert_int_equal(system(line), 0);
}

/* What others did before this was told, if it had to be: they do one thing more. */
static void barrier(void)
{
    static int count;
    char name[40];
    snprintf(name, sizeof(name), "barrier%d", count++);
    put(host(name), "");
    other(inotify ? "touch ." : "true");
    char line[100];
    snprintf(line, sizeof(line), "mv %s b.%s", name, name);
    other(line);
    WAIT_NAME(root, name);
}

static void watch(void)
{
    told.n = 0;
    told.lost = 0;
    told.w = (struct pl_watcher){changed, renamed, lost, says};
    assert_int_equal(pl_watch(t, &told.w, how), 0);
}

static int begin(void **state)
{
    setenv("PLENUM_WATCH", inotify ? "inotify" : "fanotify", 1);
    setup(state);
    watch();
    assert_string_equal(how, inotify ? "inotify" : "fanotify");
    return 0;
}

static int end(void **state)
{
    assert_int_equal(pl_watch(t, NULL, how), 0);
    return teardown(state);
}

static void changes(void **state)
{
    put(host("f"), "1");
    assert_int_equal(mkdir(host("d"), 0755), 0);
    put(host("d/g"), "2");
    struct pl_node *f = node("f"), *d = node("d"), *g = node("d/g");
    assert_true(at.told);
    assert_int_equal(pl_getattr(t, c, f, NULL, &at), 0);
    assert_true(at.told);
    assert_int_equal(pl_getattr(t, c, d, NULL, &at), 0);
    assert_true(at.told);
    assert_int_equal(pl_getattr(t, c, root, NULL, &at), 0);
    assert_true(at.told);
    static const struct {
        const char *what;
        bool data;
    } of_f[] = {{"echo x >>f", true},
                {"chmod 600 f", false},
                {"touch -m -t 202001010000 f", false},
                {"chown 1:1 f", false},
                {"truncate -s 9 f", true}};
    for (size_t i = 0; i < sizeof(of_f) / sizeof(*of_f); i++) {
        forget_notes();
        other(of_f[i].what);
        if (of_f[i].data)
            WAIT_DATA(f);
        else
            WAIT_CHANGED(f);
    }
    forget_notes();
    other("chmod 700 d");
    WAIT_CHANGED(d);
    forget_notes();
    other("echo y >d/g; touch d/new; mkdir d/sub; rm d/new");
    WAIT_DATA(g);
    WAIT_NAME(d, "new");
    WAIT_NAME(d, "sub");
    wait_note(d, PL_CHANGED_ATTR | PL_CHANGED_DATA, "");
    pl_node_unref(f);
    pl_node_unref(d);
    pl_node_unref(g);
}

/* An editor's way to save, names that move, directories that move with what is in them. */
static void names(void **state)
{
    put(host("f"), "1");
    assert_int_equal(mkdir(host("d"), 0755), 0);
    put(host("d/g"), "2");
    struct pl_node *f = node("f"), *d = node("d"), *g = node("d/g");
    other("echo new >.f.tmp; mv .f.tmp f");
    WAIT_NAME(root, "f");
    WAIT_NAME(root, ".f.tmp");
    struct pl_node *f2 = node("f");
    assert_ptr_not_equal(f2, f);
    assert_true(at.told);
    pl_node_unref(f);
    forget_notes();
    other("rm f; echo again >f");
    WAIT_NAME(root, "f");
    pl_node_unref(f2);
    forget_notes();
    other("mv d e");
    WAIT_NAME(root, "d");
    WAIT_NAME(root, "e");
    forget_notes();
    other("echo 3 >>e/g");
    WAIT_DATA(g);
    pl_node_unref(node("e"));
    assert_true(at.told);
    pl_node_unref(d);
    pl_node_unref(g);
}

/* A file that leaves for where nobody watches is not told of any more; nor is it said to be. */
static void leaving(void **state)
{
    put(host("f"), "1");
    assert_int_equal(mkdir(host("unseen"), 0755), 0);
    struct pl_node *f = node("f");
    assert_true(at.told);
    other("mv f unseen/f");
    WAIT_NAME(root, "f");
    barrier();
    assert_int_equal(pl_getattr(t, c, f, NULL, &at), 0);
    if (!inotify)
        assert_false(at.told);
    struct pl_node *again = node("unseen/f");
    assert_ptr_equal(again, f);
    assert_true(at.told);
    pl_node_unref(again);
    pl_node_unref(f);
}

/* A file with several names is watched itself: the other name may be anywhere. */
static void links(void **state)
{
    char away[400];
    snprintf(away, sizeof(away), "%s/away", top);
    put(host("f"), "1");
    assert_int_equal(link(host("f"), away), 0);
    struct pl_node *f = node("f");
    assert_true(at.told);
    assert_int_equal(at.nlink, 2);
    other("echo x >>../away");
    WAIT_DATA(f);
    forget_notes();
    other("ln ../away ../away2");
    WAIT_CHANGED(f);
    /* our own link makes another name of a file that had one */
    put(host("g"), "2");
    assert_int_equal(mkdir(host("d"), 0755), 0);
    struct pl_node *g = node("g"), *d = node("d");
    assert_int_equal(pl_link(t, c, g, d, "g2", &at), 0);
    assert_true(at.told);
    struct pl_node *g2 = node("d/g2");
    assert_ptr_equal(g2, g);
    assert_true(at.told);
    pl_node_unref(g2);
    pl_node_unref(d);
    forget_notes();
    other("chmod 640 d/g2");
    WAIT_CHANGED(g);
    pl_node_unref(g);
    pl_node_unref(f);
    unlink(away);
}

/* Our own doings are not told. */
static void own(void **state)
{
    struct pl_node *n;
    struct pl_file *file;
    struct pl_setattr set = {.valid = PL_SET_MODE, .mode = 0600};
    assert_int_equal(pl_create(t, c, root, "f", O_RDWR, 0644, &n, &at, &file), 0);
    assert_true(at.told);
    barrier(); /* others may be told of it first: now it is over */
    forget_notes();
    assert_int_equal(pl_write(t, c, file, "abc", 3, 0), 3);
    assert_int_equal(pl_setattr(t, c, n, NULL, &set, &at), 0);
    assert_int_equal(pl_rename(t, c, root, "f", root, "g", 0), 0);
    barrier();
    if (!inotify) {
        assert_false(seen(n, PL_CHANGED_ATTR, ""));
        assert_false(seen(root, 0, "f"));
        assert_false(seen(root, 0, "g"));
    } else {
        assert_false(seen(n, PL_CHANGED_DATA, ""));
    }
    pl_close(t, c, file);
    pl_node_unref(n);
}

/* What is created through a tree that finds by name is mostly not told back by inotify either. */
static void own_names(void **state)
{
    if (!by_name)
        skip();
    struct pl_make m = {.mode = S_IFREG | 0644};
    struct pl_node *n[20];
    int back = 0;
    char name[] = "made-a";
    for (int i = 0; i < 20; i++) {
        name[5] = (char)('a' + i);
        assert_int_equal(pl_make(t, c, root, name, &m, &n[i], &at), 0);
    }
    barrier();
    for (int i = 0; i < 20; i++) {
        name[5] = (char)('a' + i);
        back += seen(root, 0, name);
        pl_node_unref(n[i]);
    }
    assert_in_range(back, 0, inotify ? 10 : 0);
}

static void many(void **state)
{
    other("for i in $(seq 300); do mkdir d$i; echo >d$i/f; done");
    struct pl_node *n[300];
    for (int i = 0; i < 300; i++) {
        char path[40];
        snprintf(path, sizeof(path), "d%d/f", i + 1);
        n[i] = node(path);
        assert_true(at.told);
    }
    assert_true(fds() < 1200);
    other("for i in $(seq 300); do echo x >>d$i/f; done");
    for (int i = 0; i < 300; i++)
        WAIT_DATA(n[i]);
    assert_int_equal(told.lost, 0);
    for (int i = 0; i < 300; i++)
        pl_node_unref(n[i]);
}

/* How many marks this process has. */
static int marks(void)
{
    char path[300], line[400];
    int count = 0;
    DIR *d = opendir("/proc/self/fdinfo");
    for (struct dirent *e; (e = readdir(d));) {
        snprintf(path, sizeof(path), "/proc/self/fdinfo/%s", e->d_name);
        FILE *f = fopen(path, "r");
        while (f && fgets(line, sizeof(line), f))
            count += !strncmp(line, "fanotify ino:", 13) || !strncmp(line, "inotify wd:", 11);
        if (f)
            fclose(f);
    }
    closedir(d);
    return count;
}

/* A mark goes with the node, and all go at the end. */
static void marks_go(void **state)
{
    assert_int_equal(mkdir(host("d"), 0755), 0);
    assert_int_equal(mkdir(host("d/e"), 0755), 0);
    assert_int_equal(marks(), 1);
    struct pl_node *e = node("d/e");
    assert_int_equal(marks(), 3);
    pl_node_unref(e);
    assert_int_equal(marks(), 1);
    e = node("d/e");
    other("mv d x");
    WAIT_NAME(root, "x");
    pl_node_unref(e);
    assert_int_equal(marks(), 1);
    int before = fds();
    assert_int_equal(pl_watch(t, NULL, how), 0);
    assert_int_equal(marks(), 0);
    assert_true(fds() < before);
    e = node("x");
    assert_false(at.told);
    pl_node_unref(e);
    watch();
    assert_int_equal(marks(), 1);
    e = node("x");
    assert_true(at.told);
    assert_int_equal(pl_watch(t, &told.w, how), -EBUSY);
    assert_true(*how);
    pl_node_unref(e);
}

/* Where no further mark can be had, what it would cover is not told, and status says so. */
static void limit(void **state)
{
    assert_int_equal(pl_watch(t, NULL, how), 0);
    setenv("PLENUM_WATCH", inotify ? "inotify,3" : "fanotify,3", 1);
    watch();
    for (int i = 0; i < 4; i++) {
        char name[] = "d0";
        name[1] += (char)i;
        assert_int_equal(mkdir(host(name), 0755), 0);
    }
    put(host("d3/f"), "");
    struct pl_node *n[4] = {node("d0"), node("d1"), NULL, NULL};
    assert_true(at.told);
    n[2] = node("d2");
    assert_false(at.told);
    n[3] = node("d3/f");
    assert_false(at.told);
    char text[64];
    snprintf(text, sizeof(text), "%s: 2 of 5 directories are not watched",
             inotify ? "inotify" : "fanotify");
    for (int i = 0; i < 2000 && !how_is(text); i++)
        poll(NULL, 0, 10);
    assert_true(how_is(text));
    pl_node_unref(n[0]); /* room for one */
    n[0] = node("d2");
    assert_true(at.told);
    for (int i = 0; i < 4; i++)
        pl_node_unref(n[i]);
    for (int i = 0; i < 2000 && !how_is(inotify ? "inotify" : "fanotify"); i++)
        poll(NULL, 0, 10);
    assert_true(how_is(inotify ? "inotify" : "fanotify"));
}

static void mounting(void **state)
{
    if (geteuid() != 0 || by_name)
        skip();
    assert_int_equal(mkdir(host("m"), 0755), 0);
    struct pl_node *m = node("m");
    barrier();
    forget_notes();
    assert_int_equal(mount("t", host("m"), "tmpfs", 0, NULL), 0);
    WAIT_NAME(root, "m");
    struct pl_node *over = node("m");
    assert_ptr_not_equal(over, m);
    assert_false(at.told); /* no event would tell that it is unmounted */
    put(host("m/f"), "");
    struct pl_node *f = node("m/f");
    assert_true(at.told);
    pl_node_unref(f);
    pl_node_unref(over);
    forget_notes();
    assert_int_equal(umount2(host("m"), MNT_DETACH), 0);
    WAIT_NAME(root, "m");
    pl_node_unref(m);
}

/* While others change everything all the time, nothing that is known is left behind. */
static void storm(void **state)
{
    assert_int_equal(mkdir(host("d"), 0755), 0);
    put(host("d/f"), "");
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 3000; i++) {
            int fd = open(host("d/f"), O_WRONLY | O_CREAT | O_APPEND, 0644);
            (void)!write(fd, "x", 1);
            close(fd);
            if (i % 7 == 0)
                rename(host("d/f"), host("d/g"));
            if (i % 11 == 0)
                rename(host("d/g"), host("d/f"));
        }
        _exit(0);
    }
    int status;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        struct pl_node *n;
        if (pl_attach(t, c, "d/f", &n, &at) == 0)
            pl_node_unref(n);
    }
    put(host("d/f"), "");
    struct pl_node *f = node("d/f");
    barrier();
    forget_notes();
    other("chmod 606 d/f");
    WAIT_CHANGED(f);
    assert_int_equal(told.lost, 0);
    pl_node_unref(f);
}

static void not_here(void **state)
{
    struct pl_tree *mem;
    assert_int_equal(pl_mem_new(0, &mem, NULL), 0);
    assert_int_equal(pl_watch(mem, &told.w, how), -EOPNOTSUPP);
    assert_true(*how);
    assert_int_equal(pl_watch(mem, NULL, how), -EOPNOTSUPP);
    pl_tree_unref(mem);
    struct pl_err err;
    assert_int_equal(pl_host_open("/proc/self", &mem, &err), 0);
    assert_int_equal(pl_watch(mem, &told.w, how), -EOPNOTSUPP);
    assert_non_null(strstr(how, "others"));
    pl_tree_unref(mem);
}

static int group(void)
{
    int bad = 0;
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        T(changes), T(names),    T(leaving), T(links),    T(own),   T(own_names),
        T(many),    T(marks_go), T(limit),   T(mounting), T(storm), T(not_here),
    };
    pthread_mutex_init(&told.lock, NULL);
    for (int i = 0; i < 2; i++) {
        inotify = i;
        print_message("--- %s\n", inotify ? "inotify" : "fanotify");
        bad += cmocka_run_group_tests_name("host_watch", tests, NULL, NULL);
    }
    return bad;
}

int main(void)
{
    return run_variants(group);
}
