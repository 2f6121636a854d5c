/* SPDX-License-Identifier: MIT */
/* Made trees through the gate, as a door would use them. */
#include "made_fixture.h"

/* ---- generated and fixed files ---- */

static int count(const struct pl_made_req *req, struct pl_text *out)
{
    return pl_text_add(out, "%s %d\n", req->name, ++*(int *)req->arg);
}

static int broken(const struct pl_made_req *req, struct pl_text *out)
{
    pl_text_add(out, "half");
    return -EIO;
}

static void test_files(void **state)
{
    struct pl_file *f, *g;
    int n = 0;
    assert_int_equal(pl_made_file(m, "a/b/count", count, &n), 0);
    assert_int_equal(pl_made_text(m, "fixed", "fixed\n"), 0);
    assert_int_equal(pl_made_file(m, "broken", broken, NULL), 0);
    assert_int_equal(pl_made_dir(m, "a"), 0);
    start();
    assert_string_equal(cat("a/b/count"), "count 1\n");
    assert_int_equal(open_at("a/b/count", O_RDONLY, &f), 0);
    assert_int_equal(at.size, 0); /* not known before */
    assert_int_equal(open_at("a/b/count", O_RDONLY, &g), 0);
    assert_true(f->direct && !f->stream);
    assert_int_equal(pl_getattr(t, c, f->node, f, &at), 0);
    assert_int_equal(at.size, 8);
    assert_string_equal(all(g), "count 3\n");
    assert_string_equal(all(f), "count 2\n"); /* what it was at open */
    shut(f);
    shut(g);
    assert_string_equal(cat("fixed"), "fixed\n");
    assert_int_equal(open_at("fixed", O_RDONLY, &f), 0);
    assert_int_equal(at.size, 6);
    shut(f);
    assert_int_equal(open_at("broken", O_RDONLY, &f), -EIO);
    assert_int_equal(open_at("fixed", O_RDWR, &f), -EACCES); /* root too */
    assert_int_equal(open_at("fixed", O_RDONLY | O_TRUNC, &f), -EACCES);
    assert_int_equal(pl_remove(t, c, root, "fixed", 0), -EPERM);
    assert_int_equal(create(root, "new", O_WRONLY, &f), -EPERM);
    assert_int_equal(create(root, "fixed", O_RDONLY, &f), 0); /* it is there */
    shut(f);
    assert_int_equal(create(root, "fixed", O_RDONLY | O_EXCL, &f), -EEXIST);
}

static void test_paths(void **state)
{
    static const char *bad[] = {"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_int_equal(pl_made_text(m, bad[i], "x"), -EINVAL);
    assert_null(pl_made_tree(m)); /* which remembers, and frees all */
    assert_null(pl_made_tree(NULL));
    m = pl_made_new();
    assert_int_equal(pl_made_text(m, "f", "x"), 0);
    assert_int_equal(pl_made_text(m, "f", "x"), -EEXIST);
    assert_int_equal(pl_made_text(m, "f/g", "x"), -EINVAL);
    assert_null(pl_made_tree(m));
    m = pl_made_new();
    start();
}

/* ---- control files ---- */

struct heard {
    int times;
    char last[64];
};

static int hear(const struct pl_made_req *req, const char *text, size_t n)
{
    struct heard *h = req->arg;
    h->times++;
    assert_int_equal(text[n], 0);
    assert_true(n < sizeof(h->last));
    memcpy(h->last, text, n + 1);
    return strncmp(text, "bad", 3) ? 0 : -EBADMSG;
}

static void test_ctl(void **state)
{
    struct pl_file *f;
    struct heard h = {0};
    assert_int_equal(pl_made_ctl(m, "ctl", hear, &h), 0);
    start();
    assert_int_equal(open_at("ctl", O_RDONLY, &f), -EACCES);
    assert_int_equal(open_at("ctl", O_RDWR, &f), -EACCES);
    assert_int_equal(open_at("ctl", O_WRONLY | O_TRUNC, &f), 0);
    assert_int_equal(shut(f), 0);
    assert_int_equal(h.times, 0); /* nothing was written */
    assert_int_equal(open_at("ctl", O_WRONLY | O_TRUNC, &f), 0);
    put(f, "do ", 0);
    put(f, "it", 3);
    assert_int_equal(h.times, 0);
    assert_int_equal(pl_flush(t, c, f, 1), 0); /* a close of many */
    assert_int_equal(h.times, 1);
    assert_string_equal(h.last, "do it");
    assert_int_equal(shut(f), 0);
    assert_int_equal(h.times, 1); /* once */
    assert_int_equal(open_at("ctl", O_WRONLY, &f), 0);
    put(f, "bad", 0);
    assert_int_equal(pl_fsync(t, c, f, false), -EBADMSG);
    assert_int_equal(shut(f), 0); /* was told, not run again */
    assert_int_equal(h.times, 2);
    assert_int_equal(open_at("ctl", O_WRONLY, &f), 0);
    put(f, "half a comm", 0);
    pl_close(t, c, f); /* the client died */
    assert_int_equal(h.times, 2);
    char *big = calloc(1, (1 << 20) + 1);
    assert_int_equal(open_at("ctl", O_WRONLY, &f), 0);
    assert_int_equal(pl_write(t, c, f, big, (1 << 20) + 1, 0), -EFBIG);
    pl_close(t, c, f);
    free(big);
}

/* ---- documents ---- */

static void test_doc(void **state)
{
    struct pl_file *f, *g;
    struct doc d = {.text = "one two"};
    struct pl_setattr size = {.valid = PL_SET_SIZE, .size = 3};
    assert_int_equal(pl_made_doc(m, "doc", doc_fill, doc_commit, &d), 0);
    start();
    assert_string_equal(cat("doc"), "one two");
    assert_int_equal(d.commits, 0);
    /* a change in place; a reader meanwhile has what was there */
    assert_int_equal(open_at("doc", O_RDWR, &f), 0);
    put(f, "ONE", 0);
    assert_string_equal(all(f), "ONE two");
    assert_string_equal(cat("doc"), "one two");
    assert_int_equal(pl_fsync(t, c, f, false), 0);
    assert_string_equal(d.text, "ONE two");
    assert_int_equal(shut(f), 0);
    assert_int_equal(d.commits, 1); /* nothing was written since */
    /* O_TRUNC does not fill, and is a change by itself */
    d.fills = 0;
    assert_int_equal(open_at("doc", O_WRONLY | O_TRUNC, &f), 0);
    assert_int_equal(d.fills, 0);
    assert_int_equal(shut(f), 0);
    assert_string_equal(d.text, "");
    /* appending, two writers: the last to close wins */
    strcpy(d.text, "x");
    assert_int_equal(open_at("doc", O_WRONLY | O_APPEND, &f), 0);
    assert_int_equal(open_at("doc", O_WRONLY | O_APPEND, &g), 0);
    put(f, "f", 0);
    put(g, "g", 0);
    put(g, "g", 0);
    assert_int_equal(shut(f), 0);
    assert_int_equal(shut(g), 0);
    assert_string_equal(d.text, "xgg");
    /* an error is told, and the text kept for another try */
    d.error = -EBADMSG;
    assert_int_equal(open_at("doc", O_WRONLY | O_TRUNC, &f), 0);
    put(f, "new", 0);
    assert_int_equal(pl_fsync(t, c, f, false), -EBADMSG);
    d.error = 0;
    assert_int_equal(shut(f), 0);
    assert_string_equal(d.text, "new");
    /* truncate and ftruncate; a hole */
    strcpy(d.text, "1234567");
    assert_int_equal(open_at("doc", O_RDWR, &f), 0);
    assert_int_equal(pl_setattr(t, c, f->node, NULL, &size, &at), 0);
    assert_string_equal(d.text, "123");
    assert_string_equal(all(f), "1234567");
    size.size = 1;
    assert_int_equal(pl_setattr(t, c, f->node, f, &size, &at), 0);
    assert_int_equal(at.size, 1);
    put(f, "z", 3);
    char buf[8];
    assert_int_equal(pl_read(t, c, f, buf, 8, 0), 4);
    assert_memory_equal(buf, "1\0\0z", 4);
    assert_int_equal(pl_write(t, c, f, "x", 1, 1u << 30), -EFBIG);
    pl_close(t, c, f); /* no flush: dropped */
    assert_string_equal(d.text, "123");
}

static void test_remove(void **state)
{
    struct pl_file *f, *g;
    struct pl_node *n;
    struct doc d = {.text = "doc"};
    assert_int_equal(pl_made_doc(m, "a/b/doc", doc_fill, doc_commit, &d), 0);
    assert_int_equal(pl_made_text(m, "a/c", "text"), 0);
    start();
    assert_int_equal(open_at("a/b/doc", O_RDWR, &f), 0);
    assert_int_equal(open_at("a/c", O_RDONLY, &g), 0);
    assert_int_equal(pl_attach(t, c, "a/b", &n, &at), 0);
    assert_int_equal(pl_made_remove(m, "a/x"), -ENOENT);
    assert_int_equal(pl_made_remove(m, "a"), 0);
    assert_null(cat("a/c"));
    assert_string_equal(all(f), "doc");
    assert_string_equal(all(g), "text");
    put(f, "D", 0);
    assert_int_equal(shut(f), -ENOENT);
    assert_int_equal(d.commits, 0);
    shut(g);
    struct pl_node *up;
    assert_int_equal(pl_lookup(t, c, n, "..", &up, &at), -ENOENT);
    pl_node_unref(n);
    assert_int_equal(pl_made_text(m, "a/c", "again"), 0); /* while in use */
    assert_string_equal(cat("a/c"), "again");
    assert_int_equal(pl_getattr(t, c, root, NULL, &at), 0);
    assert_int_equal(at.nlink, 3);
}

/* ---- stores ---- */

struct kv {
    char key[8][64], value[8][64]; /* no key: free */
    int puts;
};

static int kv_at(struct kv *kv, const char *key)
{
    for (int i = 0; i < 8; i++)
        if (!strcmp(kv->key[i], key))
            return i;
    return -1;
}

static int kv_list(const struct pl_made_req *req, int (*add)(void *, const char *), void *arg)
{
    struct kv *kv = req->arg;
    for (int i = 0; i < 8; i++) {
        int r = *kv->key[i] ? add(arg, kv->key[i]) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

static int kv_get(const struct pl_made_req *req, struct pl_text *out)
{
    struct kv *kv = req->arg;
    int i = kv_at(kv, req->name);
    return i < 0 ? -ENOENT : pl_text_add(out, "%s", kv->value[i]);
}

static int kv_put(const struct pl_made_req *req, const char *text, size_t n)
{
    struct kv *kv = req->arg;
    int i = kv_at(kv, req->name);
    i = i < 0 ? kv_at(kv, "") : i;
    if (i < 0 || n > 63 || !strncmp(text, "bad", 3))
        return i < 0 ? -ENOSPC : -EBADMSG;
    strcpy(kv->key[i], req->name);
    strcpy(kv->value[i], text);
    kv->puts++;
    return 0;
}

static int kv_del(const struct pl_made_req *req)
{
    struct kv *kv = req->arg;
    int i = kv_at(kv, req->name);
    if (i < 0)
        return -ENOENT;
    *kv->key[i] = 0;
    return 0;
}

static const struct pl_made_store kv_store = {kv_list, kv_get, kv_put, kv_del, NULL};

static int join_names(void *arg, const struct pl_dirent *e)
{
    char *s = arg;
    strcat(s, e->name);
    strcat(s, " ");
    return 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in alphabetical order: a store lists them in one of its own. */
static const char *ls(struct pl_node *dir)
{
    static char s[1024];
    char all[1024] = "", *name[64];
    size_t n = 0;
    struct pl_file *f;
    assert_int_equal(pl_open(t, c, dir, O_RDONLY | O_DIRECTORY, &f), 0);
    assert_int_equal(pl_readdir(t, c, f, 0, join_names, all), 0);
    shut(f);
    for (char *p = strtok(all, " "); p; p = strtok(NULL, " "))
        name[n++] = p;
    qsort(name, n, sizeof(*name), by_text);
    *s = 0;
    for (size_t i = 0; i < n; i++)
        strcat(strcat(s, name[i]), " ");
    return s;
}

static void test_store(void **state)
{
    struct kv kv = {0};
    struct pl_made_store store = kv_store;
    struct pl_node *dir, *n;
    struct pl_file *f, *g;
    store.arg = &kv;
    assert_int_equal(pl_made_docs(m, "kv", &store), 0);
    start();
    assert_int_equal(pl_attach(t, c, "kv", &dir, &at), 0);
    assert_string_equal(ls(dir), ". .. ");
    /* created, seen, and put when closed: not before */
    assert_int_equal(create(dir, "a", O_WRONLY, &f), 0);
    assert_int_equal(create(dir, "a", O_WRONLY | O_EXCL, &g), -EEXIST);
    assert_string_equal(ls(dir), ". .. a ");
    put(f, "1", 0);
    assert_int_equal(kv.puts, 0);
    assert_int_equal(shut(f), 0);
    assert_int_equal(kv.puts, 1);
    assert_string_equal(cat("kv/a"), "1");
    assert_int_equal(pl_attach(t, c, "kv/a", &n, &at), 0);
    assert_int_equal(at.size, 1); /* known from the lookup */
    pl_node_unref(n);
    assert_int_equal(create(dir, "b", O_WRONLY, &f), 0); /* touch */
    assert_int_equal(shut(f), 0);
    assert_string_equal(kv.key[1], "b");
    /* what the program did by itself */
    strcpy(kv.key[2], "own");
    strcpy(kv.value[2], "its own");
    assert_string_equal(ls(dir), ". .. a b own ");
    assert_string_equal(cat("kv/own"), "its own");
    *kv.key[2] = 0;
    assert_null(cat("kv/own"));
    /* what is refused is not there */
    assert_int_equal(create(dir, "c", O_WRONLY, &f), 0);
    put(f, "bad", 0);
    assert_int_equal(shut(f), -EBADMSG);
    assert_null(cat("kv/c"));
    assert_string_equal(ls(dir), ". .. a b ");
    /* an editor's save: a new file, renamed over the old one, which somebody reads */
    assert_int_equal(open_at("kv/a", O_RDONLY, &g), 0);
    assert_int_equal(create(dir, "a.tmp", O_WRONLY | O_EXCL, &f), 0);
    put(f, "2", 0);
    assert_int_equal(shut(f), 0);
    assert_int_equal(pl_rename(t, c, dir, "a.tmp", dir, "a", RENAME_NOREPLACE), -EEXIST);
    assert_int_equal(pl_rename(t, c, dir, "a.tmp", dir, "a", 0), 0);
    assert_string_equal(cat("kv/a"), "2");
    assert_string_equal(all(g), "1");
    shut(g);
    assert_string_equal(ls(dir), ". .. a b ");
    assert_int_equal(pl_rename(t, c, dir, "nope", dir, "a", 0), -ENOENT);
    assert_int_equal(pl_rename(t, c, dir, "a", root, "a", 0), -EPERM);
    /* another way to save: the old one away, a new one in its place, at once */
    assert_int_equal(open_at("kv/a", O_RDONLY, &g), 0);
    assert_int_equal(pl_rename(t, c, dir, "a", dir, "a~", 0), 0);
    assert_int_equal(create(dir, "a", O_WRONLY | O_EXCL, &f), 0);
    uint64_t ino = at.ino;
    assert_int_equal(pl_getattr(t, c, g->node, NULL, &at), 0);
    assert_int_not_equal(at.ino, ino);
    put(f, "3", 0);
    assert_int_equal(shut(f), 0);
    shut(g);
    assert_string_equal(cat("kv/a"), "3");
    assert_string_equal(cat("kv/a~"), "2");
    /* renamed while it is being written */
    assert_int_equal(create(dir, "early", O_WRONLY, &f), 0);
    put(f, "e", 0);
    assert_int_equal(pl_rename(t, c, dir, "early", dir, "late", 0), 0);
    assert_int_equal(shut(f), 0);
    assert_string_equal(cat("kv/late"), "e");
    assert_null(cat("kv/early"));
    /* removed; the open file goes on, its content is nobody's */
    assert_int_equal(open_at("kv/late", O_RDWR, &f), 0);
    assert_int_equal(pl_remove(t, c, dir, "late", AT_REMOVEDIR), -ENOTDIR);
    assert_int_equal(pl_remove(t, c, dir, "late", 0), 0);
    assert_int_equal(pl_remove(t, c, dir, "late", 0), -ENOENT);
    put(f, "x", 0);
    assert_int_equal(shut(f), 0);
    assert_null(cat("kv/late"));
    assert_int_equal(create(dir, "never", O_WRONLY, &f), 0); /* not even put */
    assert_int_equal(pl_remove(t, c, dir, "never", 0), 0);
    assert_int_equal(shut(f), 0);
    assert_null(cat("kv/never"));
    struct pl_make mk = {.mode = S_IFDIR | 0755};
    assert_int_equal(pl_make(t, c, dir, "d", &mk, &n, &at), -EPERM);
    mk.mode = S_IFREG | 0644;
    assert_int_equal(pl_make(t, c, dir, "made", &mk, &n, &at), 0);
    pl_node_unref(n);
    assert_int_equal(pl_make(t, c, dir, "made", &mk, &n, &at), -EEXIST);
    assert_string_equal(cat("kv/made"), "");
    /* truncate(2); what an editor sets */
    struct pl_setattr set = {.valid = PL_SET_SIZE | PL_SET_MTIME_NOW};
    assert_int_equal(pl_attach(t, c, "kv/a", &n, &at), 0);
    assert_int_equal(pl_setattr(t, c, n, NULL, &set, &at), 0);
    assert_string_equal(cat("kv/a"), "");
    set = (struct pl_setattr){.valid = PL_SET_MODE, .mode = 0644};
    assert_int_equal(pl_setattr(t, c, n, NULL, &set, &at), 0);
    set.mode = 0600; /* and what does: remembered while it is there */
    assert_int_equal(pl_setattr(t, c, n, NULL, &set, &at), 0);
    pl_node_unref(n);
    assert_int_equal(pl_rename(t, c, dir, "a", dir, "b", 0), 0);
    assert_non_null(cat("kv/b"));
    assert_int_equal(open_at("kv/b", O_RDONLY, &f), 0);
    assert_int_equal(at.mode, S_IFREG | 0600);
    shut(f);
    *kv.key[kv_at(&kv, "b")] = 0; /* by the program */
    assert_null(cat("kv/b"));
    strcpy(kv.key[kv_at(&kv, "")], "b");
    assert_int_equal(open_at("kv/b", O_RDONLY, &f), 0);
    assert_int_equal(at.mode, S_IFREG | 0644);
    shut(f);
    assert_int_equal(pl_create(t, c, dir, "secret", O_WRONLY, 0600, &n, &at, &f), 0);
    assert_int_equal(at.mode, S_IFREG | 0600);
    pl_node_unref(n);
    assert_int_equal(shut(f), 0);
    assert_int_equal(open_at("kv/secret", O_RDONLY, &f), 0);
    assert_int_equal(at.mode, S_IFREG | 0600);
    shut(f);
    pl_node_unref(dir);
}

/* An entry's number stays the same though its node comes and goes; no two that are there share one.
 */
static void test_store_numbers(void **state)
{
    struct kv kv = {.key = {"k", "l"}, .value = {"v", "w"}};
    struct pl_made_store store = kv_store;
    struct pl_node *dir;
    struct pl_file *f;
    store.arg = &kv;
    assert_int_equal(pl_made_docs(m, "kv", &store), 0);
    start();
    assert_int_equal(pl_attach(t, c, "kv", &dir, &at), 0);
    assert_string_equal(cat("kv/l"), "w");
    uint64_t other = at.ino;
    assert_string_equal(cat("kv/k"), "v");
    uint64_t ino = at.ino;
    assert_int_not_equal(ino, other);
    assert_string_equal(cat("kv/k"), "v");
    assert_int_equal(at.ino, ino);
    assert_int_equal(open_at("kv/k", O_RDWR, &f), 0);
    assert_int_equal(pl_remove(t, c, dir, "k", 0), 0);
    assert_int_equal(pl_getattr(t, c, f->node, f, &at), 0);
    assert_int_not_equal(at.ino, ino);
    struct pl_file *g;
    assert_int_equal(create(dir, "k", O_WRONLY, &g), 0);
    assert_int_equal(at.ino, ino);
    shut(g);
    shut(f);
    assert_int_equal(pl_rename(t, c, dir, "l", dir, "k", 0), 0);
    assert_string_equal(cat("kv/k"), "w");
    assert_int_equal(at.ino, ino);
    pl_node_unref(dir);
}

static void test_root_store(void **state)
{
    struct kv kv = {.key = {"k"}, .value = {"v"}};
    struct pl_made_store store = kv_store;
    store.arg = &kv;
    assert_int_equal(pl_made_docs(m, "", &store), 0);
    start();
    assert_string_equal(ls(root), ". .. k ");
    assert_string_equal(cat("k"), "v");
}

/* A commit that takes its time: other ops on the file wait for it, and can be called off. */
static sem_t go;

static int slow_commit(const struct pl_made_req *req, const char *text, size_t n)
{
    sem_post(&waits);
    sem_wait(&go);
    return 0;
}

static void *flush_it(void *arg)
{
    struct pl_call own;
    pl_call_init_self(&own);
    intptr_t r = pl_flush(t, &own, arg, 1);
    pl_call_done(&own);
    return (void *)r;
}

static void test_slow_commit(void **state)
{
    struct pl_file *f;
    pthread_t th, reader;
    void *ret;
    struct doc d = {.text = "x"};
    assert_int_equal(pl_made_doc(m, "doc", doc_fill, slow_commit, &d), 0);
    start();
    sem_init(&waits, 0, 0);
    sem_init(&go, 0, 0);
    assert_int_equal(open_at("doc", O_RDWR, &f), 0);
    put(f, "y", 0);
    assert_int_equal(pthread_create(&th, NULL, flush_it, f), 0);
    sem_wait(&waits); /* it is in the commit */
    call.blocks = on_block;
    assert_int_equal(pthread_create(&reader, NULL, read_one, f), 0);
    sem_wait(&waits); /* the reader waits for it */
    pl_call_cancel(c);
    pthread_join(reader, &ret);
    assert_int_equal((intptr_t)ret, -EINTR);
    sem_post(&go);
    pthread_join(th, &ret);
    assert_int_equal((intptr_t)ret, 0);
    assert_string_equal(cat("doc"), "x");
    pl_close(t, c, f);
    sem_destroy(&waits);
    sem_destroy(&go);
}

/* ---- threads ---- */

static struct kv shared;
static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;

#define LOCKED(name, params, args)                                                                 \
    static int locked_##name params                                                                \
    {                                                                                              \
        pthread_mutex_lock(&shared_lock);                                                          \
        int r = kv_##name args;                                                                    \
        pthread_mutex_unlock(&shared_lock);                                                        \
        return r;                                                                                  \
    }
LOCKED(list, (const struct pl_made_req *q, int (*add)(void *, const char *), void *a), (q, add, a))
LOCKED(get, (const struct pl_made_req *q, struct pl_text *o), (q, o))
LOCKED(put, (const struct pl_made_req *q, const char *s, size_t n), (q, s, n))
LOCKED(del, (const struct pl_made_req *q), (q))

static void *stress(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    struct pl_call own;
    struct pl_stream *s = NULL;
    char a[8], b[8], path[16], buf[64];
    pl_call_init_self(&own);
    snprintf(path, sizeof(path), "dyn/%u", seed);
    for (int i = 0; i < 1500; i++) {
        struct pl_node *n, *dir;
        struct pl_file *f;
        struct pl_attr attr;
        snprintf(a, sizeof(a), "%d", rand_r(&seed) % 4);
        snprintf(b, sizeof(b), "%d", rand_r(&seed) % 4);
        assert_int_equal(pl_attach(t, &own, "kv", &dir, &attr), 0);
        switch (rand_r(&seed) % 5) {
        case 0:
            pl_remove(t, &own, dir, a, 0);
            break;
        case 1:
            pl_rename(t, &own, dir, a, dir, b, 0);
            break;
        case 2:
            if (pl_open(t, &own, dir, O_RDONLY | O_DIRECTORY, &f) == 0) {
                char names[1024] = "";
                assert_int_equal(pl_readdir(t, &own, f, 0, join_names, names), 0);
                pl_close(t, &own, f);
            }
            break;
        case 3: /* trees that change while in use */
            if (!s) {
                s = pl_made_stream(m, path, 30);
            } else {
                pl_stream_send(s, "hello\n", 6);
                if (pl_attach(t, &own, path, &n, &attr) == 0) {
                    if (pl_open(t, &own, n, O_RDONLY | O_NONBLOCK, &f) == 0) {
                        pl_stream_send(s, "hello\n", 6);
                        assert_int_equal(pl_read(t, &own, f, buf, 64, 0), 6);
                        pl_close(t, &own, f);
                    }
                    pl_node_unref(n);
                }
                pl_stream_end(s);
                s = NULL;
                assert_int_equal(pl_made_remove(m, path), 0);
            }
            break;
        default:
            if (pl_create(t, &own, dir, a, O_CREAT | O_RDWR, 0644, &n, &attr, &f) == 0) {
                pl_write(t, &own, f, a, 1, 0);
                pl_flush(t, &own, f, 1);
                pl_close(t, &own, f);
                pl_node_unref(n);
            }
        }
        pl_node_unref(dir);
    }
    if (s)
        pl_stream_end(s);
    pl_call_done(&own);
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t th[4];
    struct pl_made_store store = {locked_list, locked_get, locked_put, locked_del, &shared};
    assert_int_equal(pl_made_docs(m, "kv", &store), 0);
    start();
    for (uintptr_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&th[i], NULL, stress, (void *)(i + 1)), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(th[i], NULL);
}

static struct pl_made *worked;
static atomic_int rounds;

static void work(void *arg)
{
    while (pl_made_wait(worked, 100000) == 0)
        atomic_fetch_add((atomic_int *)arg, 1);
    atomic_store((atomic_int *)arg, -1);
}

static void test_work(void **state)
{
    struct pl_call self;
    struct pl_node *top;
    struct pl_attr attr;
    pl_call_init_self(&self);
    worked = pl_made_new();
    assert_int_equal(pl_made_work(worked, work, &rounds), 0);
    struct pl_tree *tree = pl_made_tree(worked);
    assert_int_equal(atomic_load(&rounds), 0);
    assert_int_equal(pl_attach(tree, &self, "", &top, &attr), 0);
    while (atomic_load(&rounds) < 3)
        sched_yield();
    pl_node_unref(top);
    pl_tree_unref(tree);
    assert_int_equal(atomic_load(&rounds), -1);
    pl_call_done(&self);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(files),       TEST(paths),   TEST(ctl),        TEST(doc),
        TEST(remove),      TEST(store),   TEST(root_store), TEST(store_numbers),
        TEST(slow_commit), TEST(threads), TEST(work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
