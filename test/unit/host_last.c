/* SPDX-License-Identifier: MIT */
/* What a host tree finds again when its server was killed: nodes by their keys, open files by their
 * descriptors, locks, files without a name; and what it notes for those who must know. */
#include "host_fixture.h"
/* after it */
#include "lasting_fixture.h"

#include "sources/host.h"
#include <grp.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/mount.h>

#define END PL_OFF_MAX

/* Each server opens the tree anew. */
static void tree_open(void)
{
    struct pl_err err;
    pl_call_init_self(c);
    c->own = true;
    MUST(host_open_kept(real, HOST_CHANGES, keep, &t, &err) == 0);
    pl_keep(t, keep);
    MUST(t->flags & PL_TREE_LASTING);
    MUST(pl_attach(t, c, "", &root, &at) == 0);
}

static struct pl_node *known(const char *path)
{
    struct pl_node *n;
    MUST(pl_attach(t, c, path, &n, &at) == 0);
    return n;
}

static struct pl_node *note(int i, const char *path)
{
    struct pl_node *n = known(path);
    struct kept_key *k = &shared->key[i];
    k->len = pl_key(t, c, n, k->key);
    MUST(k->len > 0);
    k->ino = at.ino;
    return n;
}

static int find_it(int i, struct pl_node **n)
{
    return pl_find(t, c, shared->key[i].key, (size_t)shared->key[i].len, n, &at);
}

static struct pl_node *found(int i)
{
    struct pl_node *n;
    MUST(find_it(i, &n) == 0);
    MUST(at.ino == shared->key[i].ino);
    return n;
}

static struct pl_file *opened(struct pl_node *n, int flags)
{
    struct pl_file *f;
    MUST(pl_open(t, c, n, flags, &f) == 0);
    MUST(f->kept > 0);
    return f;
}

static struct pl_file *resumed(struct pl_node *n, int flags, int kept)
{
    struct pl_file *f;
    MUST(pl_resume(t, c, n, flags, kept, &f) == 0);
    MUST(f->kept == kept && f->node && (!n || f->node == n) && f->flags == (uint32_t)flags);
    return f;
}

static bool reads(struct pl_file *f, const char *text)
{
    char buf[100];
    ssize_t n = pl_read(t, c, f, buf, sizeof(buf), 0);
    return n == (ssize_t)strlen(text) && !memcmp(buf, text, (size_t)n);
}

static bool writes(struct pl_file *f, const char *text)
{
    return pl_write(t, c, f, text, strlen(text), 0) == (ssize_t)strlen(text);
}

static int begin(void **state)
{
    setup(state);
    shut(); /* it has made the directories; the trees are the servers' */
    pl_call_done(c);
    lasting_begin();
    return 0;
}

static int end(void **state)
{
    char cmd[400];
    lasting_end();
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", top);
    return system(cmd);
}

/* ---- nodes and files ---- */

static void files_first(void)
{
    tree_open();
    note(0, "a");
    note(1, "a/b");
    struct pl_file *f = opened(note(2, "a/b/f"), O_RDWR);
    note(3, "a/b/link");
    note(4, "a/b/fifo");
    note(5, "");
    struct pl_file *g = opened(known("a/b/f"), O_WRONLY | O_APPEND);
    MUST(writes(f, "one"));
    MUST(writes(g, "two"));
    shared->kept[0] = f->kept;
    shared->kept[1] = g->kept;
    MUST(f->kept == f->fd);
}

static void files_then(void)
{
    char to[20];
    struct pl_file *f, *g;
    tree_open();
    f = resumed(found(2), O_RDWR, shared->kept[0]);
    MUST(f->fd == f->kept);
    g = resumed(NULL, O_WRONLY | O_APPEND, shared->kept[1]);
    MUST(g->node == f->node);
    MUST(writes(g, "three"));
    MUST(reads(f, "onetwothree"));
    for (int i = 0; i < 2; i++) /* directories, and as parents of what is found */
        MUST(S_ISDIR(found(i)->fmt));
    MUST(pl_readlink(t, c, found(3), to, sizeof(to)) == 3 && !memcmp(to, "f/g", 3));
    MUST(S_ISFIFO(found(4)->fmt));
    MUST(found(5) == root);
    struct pl_node *up;
    MUST(pl_lookup(t, c, f->node, "..", &up, &at) == -ENOTDIR);
    MUST(pl_lookup(t, c, found(1), "..", &up, &at) == 0 && at.ino == shared->key[0].ino);
    /* not what was open; not what it seems */
    MUST(pl_resume(t, c, found(1), O_RDONLY, dup(shared->kept[0]), &f) == -ESTALE);
    MUST(pl_resume(t, c, NULL, O_RDONLY, 0, &f) == -ESTALE);
    MUST(pl_resume(t, c, NULL, O_RDONLY, dup(ready[0]), &f) == -ESTALE);
    /* without a descriptor it is opened anew, and never emptied */
    struct pl_node *n = found(2);
    MUST(pl_resume(t, c, n, O_RDWR | O_TRUNC, 0, &f) == 0);
    MUST(reads(f, "onetwothree"));
    pl_close(t, c, f);
    pl_node_unref(n);
}

static void files(void **state)
{
    assert_int_equal(mkdir(host("a"), 0755), 0);
    assert_int_equal(mkdir(host("a/b"), 0755), 0);
    assert_int_equal(symlink("f/g", host("a/b/link")), 0);
    assert_int_equal(mkfifo(host("a/b/fifo"), 0600), 0);
    put(host("a/b/f"), "");
    server(files_first);
    server(files_then);
}

/* ---- renamed meanwhile ---- */

static void renamed_first(void)
{
    tree_open();
    note(0, "a/b");
    note(1, "a/b/f");
    note(2, "c");
    struct pl_node *a = known("a"), *b = known("a/b"), *cc = known("c");
    MUST(pl_rename(t, c, b, "f", cc, "g", 0) == 0);
    MUST(pl_rename(t, c, a, "b", cc, "bb", 0) == 0);
}

struct looking {
    uint64_t ino;
    char name[256];
};

static int look(void *arg, const struct pl_dirent *e)
{
    struct looking *l = arg;
    if (e->ino == l->ino)
        strcpy(l->name, e->name);
    return 0;
}

/* As a door does whose key has gone stale. */
static void search(struct pl_node *dir, int i)
{
    struct looking l = {.ino = shared->key[i].ino};
    struct pl_node *n;
    struct pl_file *f = opened(dir, O_RDONLY | O_DIRECTORY);
    MUST(pl_readdir(t, c, f, 0, look, &l) == 0);
    MUST(*l.name && pl_lookup(t, c, dir, l.name, &n, &at) == 0 && at.ino == l.ino);
    pl_close(t, c, f);
}

static void renamed_then(void)
{
    struct pl_node *n;
    tree_open();
    struct pl_node *cc = found(2);
    for (int i = 0; i < 2; i++) {
        if (shared->key[i].key[0] == 'N') {
            MUST(find_it(i, &n) == -ESTALE);
            search(cc, i);
        } else {
            found(i);
        }
    }
}

static void renamed(void **state)
{
    assert_int_equal(mkdir(host("a"), 0755), 0);
    assert_int_equal(mkdir(host("a/b"), 0755), 0);
    assert_int_equal(mkdir(host("c"), 0755), 0);
    put(host("a/b/f"), "x");
    server(renamed_first);
    server(renamed_then);
}

static void sees_a(void)
{
    tree_open();
    known("a");
    shared->n[0] = (uint64_t)count_records();
}

/* The directory that was served goes on being served, wherever it is now. */
static void moved_root(void **state)
{
    char away[400];
    put(host("a"), "x");
    snprintf(away, sizeof(away), "%s/away", top);
    server(sees_a);
    assert_int_equal(rename(real, away), 0);
    server(sees_a);
    assert_int_equal(mkdir(real, 0755), 0);
    server(sees_a);
    server(sees_a);
    assert_int_equal(shared->n[0], 1);
}

/* ---- directories ---- */

#define ENTRIES 3000

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

static void directory_first(void)
{
    int left = 700;
    tree_open();
    struct pl_file *f = opened(note(0, "d"), O_RDONLY | O_DIRECTORY);
    MUST(pl_readdir(t, c, f, 0, take, &left) == 0 && left == 0);
    shared->kept[0] = f->kept;
}

static void directory_on(void)
{
    int left = 700;
    tree_open();
    struct pl_file *f = resumed(found(0), O_RDONLY | O_DIRECTORY, shared->kept[0]);
    MUST(pl_readdir(t, c, f, shared->pos, take, &left) == 0);
    shared->n[0] += left > 0;
}

static void directory_again(void)
{
    int left = ENTRIES + 2;
    tree_open();
    struct pl_file *f = resumed(found(0), O_RDONLY | O_DIRECTORY, shared->kept[0]);
    memset(shared->seen, 0, sizeof(shared->seen));
    MUST(pl_readdir(t, c, f, 0, take, &left) == 0);
}

static void directory(void **state)
{
    char name[32];
    assert_int_equal(mkdir(host("d"), 0755), 0);
    for (int i = 0; i < ENTRIES; i++) {
        snprintf(name, sizeof(name), "d/e%d", i);
        put(host(name), "");
    }
    server(directory_first);
    while (!shared->n[0]) {
        char before[sizeof(shared->seen)];
        memcpy(before, shared->seen, sizeof(before));
        server(directory_on);
        assert_memory_not_equal(before, shared->seen, sizeof(before));
    }
    for (int i = 0; i < ENTRIES; i++)
        assert_int_equal(shared->seen[i], 1);
    server(directory_again); /* and from its start */
    for (int i = 0; i < ENTRIES; i++)
        assert_int_equal(shared->seen[i], 1);
}

static int compare(void *arg, const struct pl_dirent *e)
{
    struct pl_node *n;
    if (!strcmp(e->name, ".") || !strcmp(e->name, "..") || e->ino == 0)
        return 0;
    MUST(pl_lookup(t, c, arg, e->name, &n, &at) == 0);
    MUST(at.ino == e->ino);
    pl_node_unref(n);
    shared->n[1]++;
    return 0;
}

static void numbers_agree(void)
{
    tree_open();
    struct pl_node *d = known("d");
    struct pl_file *f = opened(d, O_RDONLY | O_DIRECTORY);
    MUST(pl_readdir(t, c, f, 0, compare, d) == 0);
    if (at.ino >> 63)
        shared->n[2] = at.ino;
    pl_close(t, c, f);
}

static void numbers(void **state)
{
    assert_int_equal(mkdir(host("d"), 0755), 0);
    assert_int_equal(mkdir(host("d/dir"), 0755), 0);
    assert_int_equal(mkfifo(host("d/fifo"), 0755), 0);
    assert_int_equal(symlink("x", host("d/link")), 0);
    put(host("d/f"), "x");
    server(numbers_agree);
    assert_int_equal(shared->n[1], 4);
}

/* ---- other devices ---- */

static void device_first(void)
{
    tree_open();
    note(0, "m/f");
    note(1, "m");
    MUST(shared->key[0].ino >> 63);
    struct pl_file *f = opened(root, O_RDONLY | O_DIRECTORY);
    MUST(pl_readdir(t, c, f, 0, compare, root) == 0);
}

static void device_then(void)
{
    tree_open();
    found(0);
    found(1);
}

/* A predecessor that had met other devices before had given them other slots. */
static void devices(void **state)
{
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        skip();
    assert_int_equal(mkdir(host("m"), 0755), 0);
    if (mount("t", host("m"), "tmpfs", 0, NULL) < 0)
        skip();
    put(host("m/f"), "x");
    struct stat st;
    assert_int_equal(stat(host("m/f"), &st), 0);
    server(device_first);
    assert_int_equal(count_records(), 2); /* the root and the device */
    server(device_then);
    assert_int_equal(count_records(), 2);
    server(device_then);

    uint16_t slot = shared->key[0].ino >> 48 & 0x7fff;
    struct host_devices d = {
        .kind = 'D', .n = 2, .slot = {slot, slot % 32767 + 1}, .dev = {12345, st.st_dev}};
    struct pl_kept k = {0};
    while (pl_keep_next(keep, k.record, &k))
        pl_keep_del(keep, k.record);
    pl_keep_add(keep, -1, &d, sizeof(d));
    server(device_first);
    assert_int_equal(shared->key[0].ino, 1ull << 63 | (uint64_t)d.slot[1] << 48 | st.st_ino);
    umount(host("m"));
}

/* ---- locks ---- */

static int set(struct pl_file *f, uint64_t owner, int type, uint64_t from, uint64_t to)
{
    struct pl_lock l = {
        .type = type, .owner = owner, .start = from, .end = to, .pid = (uint32_t)owner * 100};
    return pl_lock(t, c, f, &l);
}

static bool in_the_way(struct pl_file *f, uint64_t owner, int type, uint64_t from, uint64_t to,
                       uint64_t at_start, uint32_t pid)
{
    struct pl_lock l = {.type = type, .owner = owner, .start = from, .end = to};
    MUST(pl_getlock(t, c, f, &l) == 0);
    return l.type != F_UNLCK && l.start == at_start && l.pid == pid;
}

static void locks_first(void)
{
    struct pl_lock whole = {.type = F_WRLCK, .flock = true, .owner = 99};
    tree_open();
    struct pl_file *f = opened(note(0, "f"), O_RDWR), *g = opened(note(1, "g"), O_RDONLY);
    MUST(set(f, 7, F_WRLCK, 0, 9) == 0);
    MUST(set(f, 7, F_RDLCK, 100, END) == 0);
    MUST(set(f, 8, F_RDLCK, 50, 59) == 0);
    MUST(pl_lock(t, c, g, &whole) == 0);
    shared->kept[0] = f->kept;
    shared->kept[1] = g->kept;
}

/* Another process, from before: it must not get in until it is let. */
static void witness(void)
{
    int f = -1, g = -1;
    struct flock fl = {.l_type = F_WRLCK, .l_len = 10};
    while (atomic_load(&shared->go) == 0)
        usleep(100);
    MUST((f = open(host("f"), O_RDWR)) >= 0 && (g = open(host("g"), O_RDONLY)) >= 0);
    while (atomic_load(&shared->go) != 3) {
        bool got = fcntl(f, F_SETLK, &fl) == 0 || flock(g, LOCK_EX | LOCK_NB) == 0;
        if (got && atomic_load(&shared->go) == 1)
            atomic_store(&shared->got, 1);
        usleep(50);
    }
    MUST(fcntl(f, F_SETLK, &fl) == 0 && flock(g, LOCK_EX | LOCK_NB) == 0);
    fl.l_start = 100;
    fl.l_len = 0;
    MUST(fcntl(f, F_SETLK, &fl) == 0);
    _exit(0);
}

static void locks_on(void)
{
    tree_open();
    struct pl_file *f = resumed(found(0), O_RDWR, shared->kept[0]);
    resumed(found(1), O_RDONLY, shared->kept[1]);
    MUST(in_the_way(f, 9, F_WRLCK, 5, 5, 0, 700));
    MUST(in_the_way(f, 9, F_WRLCK, 1000, END, 100, 700));
    MUST(in_the_way(f, 7, F_WRLCK, 40, END, 50, 800));
    MUST(set(f, 9, F_WRLCK, 5, 5) == -EAGAIN);
    MUST(set(f, 7, F_WRLCK, 5, 20) == 0); /* the same owner as before */
    MUST(set(f, 7, F_UNLCK, 10, 20) == 0);
    MUST(set(f, 9, F_WRLCK, 10, 20) == 0);
    MUST(set(f, 9, F_UNLCK, 10, 20) == 0);
}

static void locks_last(void)
{
    tree_open();
    struct pl_node *n = found(0), *m = found(1);
    struct pl_file *f = resumed(n, O_RDWR, shared->kept[0]);
    struct pl_file *g = resumed(m, O_RDONLY, shared->kept[1]);
    pl_node_unref(n);
    pl_node_unref(m);
    atomic_store(&shared->go, 2);
    MUST(pl_flush(t, c, f, 8) == 0);
    MUST(in_the_way(f, 9, F_WRLCK, 5, 5, 0, 700));
    MUST(pl_close(t, c, f) == 0); /* a client that died says no flush */
    MUST(pl_close(t, c, g) == 0);
    shared->kept[0] = shared->kept[1] = 0;
    MUST(count_records() == 1);
}

static void locks(void **state)
{
    int status;
    put(host("f"), "0123456789");
    put(host("g"), "x");
    pid_t other = fork();
    if (other == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        witness();
    }
    server(locks_first);
    assert_int_equal(count_records(), 3); /* of two owners, and the root */
    atomic_store(&shared->go, 1);
    for (int i = 0; i < 5; i++)
        server(locks_on);
    server(locks_last);
    assert_int_equal(atomic_load(&shared->got), 0);
    atomic_store(&shared->go, 3);
    assert_int_equal(waitpid(other, &status, 0), other);
    assert_int_equal(status, 0);
}

static void nobody_asks(void)
{
    tree_open();
    MUST(count_records() == 3);
    pl_node_unref(root);
    pl_tree_unref(t);
    MUST(count_records() == 0);
}

/* Nobody knows the node any more: its locks go with it. */
static void forgotten(void)
{
    tree_open();
    pl_node_unref(found(0));
    MUST(count_records() == 1);
}

static void locks_end(void **state)
{
    put(host("f"), "0123456789");
    put(host("g"), "x");
    for (int i = 0; i < 2; i++) {
        server(locks_first);
        shared->kept[0] = shared->kept[1] = 0;
        server(i ? forgotten : nobody_asks);
        int fd = open(host("f"), O_RDWR);
        struct flock fl = {.l_type = F_WRLCK};
        assert_int_equal(fcntl(fd, F_SETLK, &fl), 0);
        close(fd);
        server(tree_open);
        assert_int_equal(count_records(), 1);
    }
}

/* ---- without a name ---- */

static void unnamed_first(void)
{
    struct pl_node *n;
    struct pl_file *f;
    tree_open();
    note(0, "f");
    note(1, "link");
    note(2, "dir");
    note(3, "over");
    note(4, "dir2");
    MUST(pl_remove(t, c, root, "f", 0) == 0);
    MUST(pl_remove(t, c, root, "link", 0) == 0);
    MUST(pl_remove(t, c, root, "dir", AT_REMOVEDIR) == 0);
    MUST(pl_rename(t, c, root, "new", root, "over", 0) == 0);
    MUST(pl_rename(t, c, root, "newdir", root, "dir2", 0) == 0);
    MUST(count_records() == 1 + 5);
    /* and what does not lose its last name */
    known("two");
    known("full");
    MUST(pl_remove(t, c, root, "two", 0) == 0);
    MUST(pl_remove(t, c, root, "full", AT_REMOVEDIR) == -ENOTEMPTY);
    MUST(pl_rename(t, c, root, "too", root, "full", 0) == -EISDIR);
    MUST(pl_rename(t, c, root, "too", root, "too", 0) == 0);
    MUST(pl_rename(t, c, root, "full", root, "too", RENAME_EXCHANGE) == 0);
    MUST(count_records() == 1 + 5);
    int r = pl_tmpfile(t, c, root, O_RDWR, 0644, &n, &at, &f);
    shared->n[0] = r == 0;
    if (r == 0) {
        MUST(writes(f, "no name"));
        shared->key[5].len = pl_key(t, c, n, shared->key[5].key);
        shared->key[5].ino = at.ino;
        shared->kept[0] = f->kept;
        MUST(pl_tmpfile(t, c, root, O_RDWR, 0644, &n, &at, &f) == 0);
        MUST(count_records() == 1 + 5 + 2);
        MUST(pl_link(t, c, n, root, "named", &at) == 0);
        MUST(count_records() == 1 + 5 + 1);
    }
}

static void unnamed_then(void)
{
    char to[20];
    int left = 10;
    tree_open();
    struct pl_file *f = opened(found(0), O_RDONLY), *d = opened(found(2), O_RDONLY | O_DIRECTORY);
    MUST(at.nlink == 0);
    MUST(reads(f, "content"));
    MUST(pl_readlink(t, c, found(1), to, sizeof(to)) == 6 && !memcmp(to, "target", 6));
    MUST(pl_readdir(t, c, d, 0, take, &left) == 0 && left >= 8);
    MUST(reads(opened(found(3), O_RDONLY), "over"));
    MUST(S_ISDIR(found(4)->fmt) && at.ino == shared->key[4].ino);
    if (shared->kept[0]) {
        f = resumed(NULL, O_RDWR, shared->kept[0]);
        struct pl_node *n = found(5);
        MUST(n == f->node && reads(f, "no name"));
        MUST(pl_close(t, c, f) == 0);
        shared->kept[0] = 0;
        MUST(reads(opened(n, O_RDONLY), "no name"));
    }
}

static void unnamed_last(void)
{
    tree_open();
    int n = count_records();
    MUST(n == 1 + 5 + (int)shared->n[0]);
    for (int i = 0; i < 5 + (int)shared->n[0]; i++) {
        pl_node_unref(found(i));
        MUST(count_records() == --n);
    }
}

static void unnamed(void **state)
{
    put(host("f"), "content");
    assert_int_equal(symlink("target", host("link")), 0);
    assert_int_equal(mkdir(host("dir"), 0755), 0);
    put(host("new"), "new");
    put(host("over"), "over");
    assert_int_equal(mkdir(host("newdir"), 0755), 0);
    assert_int_equal(mkdir(host("dir2"), 0755), 0);
    put(host("one"), "");
    assert_int_equal(link(host("one"), host("two")), 0);
    assert_int_equal(mkdir(host("full"), 0755), 0);
    put(host("full/x"), "");
    put(host("too"), "");
    server(unnamed_first);
    server(unnamed_then);
    server(unnamed_then);
    server(unnamed_last);
    server(tree_open);
    assert_int_equal(count_records(), 1);
    server(tree_open);
    assert_true(strangers <= 2); /* the root's, and one for handles: all else went with its node */
}

/* Where nothing is kept, nothing is held. */
static void not_kept(void **state)
{
    struct pl_err err;
    pl_call_init_self(c);
    assert_int_equal(pl_host_open(real, &t, &err), 0);
    assert_int_equal(pl_attach(t, c, "", &root, &at), 0);
    put(host("f"), "x");
    struct pl_node *n = node("f");
    int before = fds();
    assert_int_equal(pl_remove(t, c, root, "f", 0), 0);
    assert_int_equal(fds(), before);
    pl_node_unref(n);
    shut();
    pl_call_done(c);
}

/* ---- intents ---- */

static void intents_noted(void)
{
    struct pl_intent is = {0};
    tree_open();
    c->intent = &is;
    known("f");
    uint64_t ino = at.ino;
    uint32_t born = pl_birth(at.btime);
    MUST(pl_remove(t, c, root, "nothing", 0) == -ENOENT && is.ino == 0);
    MUST(pl_remove(t, c, root, "f", 0) == 0 && is.ino == ino && is.born == born);
    is.ino = 0;
    known("g");
    ino = at.ino;
    born = pl_birth(at.btime);
    known("h");
    uint64_t to = at.ino, to_born = pl_birth(at.btime);
    MUST(pl_rename(t, c, root, "g", root, "new", 0) == 0 && is.ino == ino && is.ino2 == 0);
    MUST(pl_rename(t, c, root, "new", root, "h", 0) == 0 && is.ino == ino && is.ino2 == to);
    MUST(is.born == born && is.born2 == to_born);
    MUST(pl_rename(t, c, root, "g", root, "h", 0) == -ENOENT && is.ino == 0 && is.ino2 == ino);
    struct pl_file *f = opened(known("h"), O_WRONLY);
    MUST(writes(f, "12345") && is.size1 == 0);
    f = opened(f->node, O_WRONLY | O_APPEND);
    MUST(writes(f, "67") && is.size1 == 6);
    MUST(writes(f, "8") && is.size1 == 8);
}

static void intents(void **state)
{
    put(host("f"), "");
    put(host("g"), "");
    put(host("h"), "h");
    server(intents_noted);
}

/* ---- killed anywhere ---- */

static void *busy(void *arg)
{
    struct pl_call own, *call_ = &own;
    char name[32];
    snprintf(name, sizeof(name), "t%d", (int)(intptr_t)arg);
    pl_call_init_self(&own);
    for (;;) {
        struct pl_node *n;
        struct pl_file *f;
        struct pl_attr attr;
        struct pl_lock l = {.type = F_WRLCK, .owner = 5, .end = END};
        int r = pl_create(t, call_, root, name, O_RDWR, 0644, &n, &attr, &f);
        MUST(r == 0);
        MUST(pl_lock(t, call_, f, &l) == 0);
        MUST(pl_remove(t, call_, root, name, 0) == 0);
        pl_close(t, call_, f);
        pl_node_unref(n);
    }
    return NULL;
}

static void work(void)
{
    pthread_t thread;
    tree_open();
    for (int i = 0; i < 3; i++)
        MUST(pthread_create(&thread, NULL, busy, (void *)(intptr_t)i) == 0);
}

static void clean_up(void)
{
    tree_open();
    pl_node_unref(root);
    pl_tree_unref(t);
    MUST(count_records() == 0);
}

static void killed(void **state)
{
    for (int i = 0; i < 40; i++) {
        pid_t pid = server_start(work);
        assert_true(server_ready(pid));
        usleep((useconds_t)(rand() % 3000));
        server_kill(pid);
        assert_true(count_records() <= 1 + 2 * 3 + 1);
        server(clean_up); /* no door asks for what was kept */
        assert_int_equal(strangers, 0);
    }
    server(tree_open);
    assert_true(strangers <= 2);
}

static int group(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files, begin, end),
        cmocka_unit_test_setup_teardown(renamed, begin, end),
        cmocka_unit_test_setup_teardown(moved_root, begin, end),
        cmocka_unit_test_setup_teardown(directory, begin, end),
        cmocka_unit_test_setup_teardown(numbers, begin, end),
        cmocka_unit_test_setup_teardown(locks, begin, end),
        cmocka_unit_test_setup_teardown(locks_end, begin, end),
        cmocka_unit_test_setup_teardown(unnamed, begin, end),
        cmocka_unit_test_setup_teardown(not_kept, begin, end),
        cmocka_unit_test_setup_teardown(intents, begin, end),
        cmocka_unit_test_setup_teardown(killed, begin, end),
        cmocka_unit_test_setup_teardown(devices, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* An ordinary user too. */
static int as_user(void)
{
    for (int i = 0; i < 2 && geteuid() == 0; i++) {
        where = i ? "/dev/shm" : "/tmp";
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            print_message("--- on %s, as a user\n", where);
            if (setgroups(0, NULL) < 0 || setgid(65534) < 0 || setuid(65534) < 0)
                exit(1);
            exit(group());
        }
        int status;
        if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
            return 1;
    }
    return 0;
}

int main(void)
{
    int bad = run_variants(group);
    return bad | as_user();
}
