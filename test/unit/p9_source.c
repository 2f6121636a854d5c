/* SPDX-License-Identifier: MIT */
/*
 * The 9P source: over our own server with and without our own messages, and over servers that lie.
 * What a tree must do is the conformance suite's; here is what 9P makes difficult.
 */
#include "../raw9p.h"
#include "sources/p9.h"
#include <plenum/made.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/xattr.h>

static struct pl_call call; /* our own */

/* ---- a connection ---- */

static struct p9_conn *use(struct p9_crew *crew, int fd)
{
    struct chan chan = {fd, fd, CHAN_DIALED, 0, (uid_t)-1, "server"};
    struct p9_conn_opts opts = {.crew = crew, .use = true};
    struct p9_conn *conn;
    struct pl_err err = {0};
    assert_int_equal(p9_conn_new(&chan, &opts, &conn, &err), 0);
    if (p9_use(conn, &call, &err) < 0)
        fail_msg("%s", err.text);
    return conn;
}

/* ---- our own server, perhaps without our own messages ---- */

/* Passes bytes on, but answers an offer of our own version itself, as a server that does not know
 * it. */
struct relay {
    int client, server;
    pthread_t thread;
};

static bool get(int fd, void *buf, size_t n)
{
    for (size_t have = 0; have < n;) {
        ssize_t r = read(fd, (char *)buf + have, n - have);
        if (r <= 0)
            return false;
        have += (size_t)r;
    }
    return true;
}

static void put(int fd, const void *buf, size_t n)
{
    while (n) {
        ssize_t w = send(fd, buf, n, MSG_NOSIGNAL);
        if (w <= 0)
            return;
        buf = (const char *)buf + w;
        n -= (size_t)w;
    }
}

static uint32_t size_of(const uint8_t *head)
{
    return head[0] | (uint32_t)head[1] << 8 | (uint32_t)head[2] << 16 | (uint32_t)head[3] << 24;
}

static void *relay(void *arg)
{
    struct relay *r = arg;
    static const uint8_t no[] = {20, 0, 0, 0,   101, 255, 255, 0,   0,   1,
                                 0,  7, 0, 'u', 'n', 'k', 'n', 'o', 'w', 'n'};
    uint8_t *buf = malloc(1 << 21);
    if (get(r->client, buf, 4) && get(r->client, buf + 4, size_of(buf) - 4)) {
        if (size_of(buf) == 13 + strlen(P9_VERSION_OWN))
            put(r->client, no, sizeof(no));
        else
            put(r->server, buf, size_of(buf));
    }
    struct pollfd p[2] = {{r->client, POLLIN, 0}, {r->server, POLLIN, 0}};
    for (bool on = true; on;) {
        poll(p, 2, -1);
        for (int i = 0; i < 2 && on; i++) {
            if (!p[i].revents)
                continue;
            ssize_t n = read(p[i].fd, buf, 1 << 20);
            on = n > 0;
            if (on)
                put(p[!i].fd, buf, (size_t)n);
        }
    }
    shutdown(r->client, SHUT_RDWR);
    shutdown(r->server, SHUT_RDWR);
    free(buf);
    return NULL;
}

struct world {
    struct counting *tree;
    struct pl_node *root; /* of the tree served */
    struct p9_crew *crew;
    struct p9_door *door;
    struct p9_conn *conn[8];
    struct relay relay[8];
    unsigned n;
    bool plain;
    struct pl_tree *far; /* the first client's tree */
    struct pl_node *top;
};

static struct pl_tree *dial(struct world *w)
{
    int fds[2], more[2];
    struct pl_tree *t;
    struct pl_err err = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct chan chan = {fds[0], fds[0], CHAN_ACCEPTED, 0, geteuid(), "client"};
    assert_int_equal(p9_door_conn(w->door, &chan, false, NULL, NULL, &w->conn[w->n], &err), 0);
    int fd = fds[1];
    if (w->plain) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, more), 0);
        w->relay[w->n] = (struct relay){more[0], fds[1]};
        pthread_create(&w->relay[w->n].thread, NULL, relay, &w->relay[w->n]);
        fd = more[1];
    }
    w->n++;
    struct p9_conn *conn = use(w->crew, fd);
    assert_int_equal(p9_extended(conn), !w->plain);
    assert_int_equal(pl_p9_open(conn, true, "", NULL, &t, &err), 0);
    return t;
}

static int setup_as(void **state, bool plain)
{
    struct world *w = calloc(1, sizeof(*w));
    struct pl_tree *mem;
    struct pl_attr attr;
    w->plain = plain;
    pl_call_init_self(&call);
    assert_int_equal(pl_mem_new(256 << 20, &mem, NULL), 0);
    w->tree = counting_new(mem);
    assert_int_equal(pl_attach(&w->tree->tree, &call, "", &w->root, &attr), 0);
    w->crew = p9_crew_new(4);
    struct p9_export e = {"", &w->tree->tree};
    assert_int_equal(p9_door_new(&e, 1, w->crew, NULL, &w->door), 0);
    w->far = dial(w);
    assert_int_equal(pl_attach(w->far, &call, "", &w->top, &attr), 0);
    *state = w;
    return 0;
}

static int setup_own(void **state)
{
    return setup_as(state, false);
}

static int setup_plain(void **state)
{
    return setup_as(state, true);
}

static int teardown(void **state)
{
    struct world *w = *state;
    pl_node_unref(w->top);
    pl_tree_unref(w->far);
    for (unsigned i = 0; i < w->n; i++) {
        if (w->plain) {
            pthread_join(w->relay[i].thread, NULL);
            close(w->relay[i].client);
            close(w->relay[i].server);
        }
        p9_conn_wait(w->conn[i], NULL);
        p9_conn_free(w->conn[i]);
    }
    p9_door_free(w->door);
    p9_crew_free(w->crew);
    assert_int_equal(atomic_load(&w->tree->files), 0);
    pl_node_unref(w->root);
    assert_int_equal(atomic_load(&w->tree->tree.refs), 1);
    pl_tree_unref(&w->tree->tree);
    pl_call_done(&call);
    free(w);
    return 0;
}

/* ---- helpers ---- */

static struct pl_file *create(struct pl_tree *t, struct pl_node *dir, const char *name, int flags,
                              struct pl_node **ret)
{
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *file;
    assert_int_equal(pl_create(t, &call, dir, name, flags, 0644, &node, &attr, &file), 0);
    if (ret)
        *ret = node;
    else
        pl_node_unref(node);
    return file;
}

static struct pl_node *look(struct pl_tree *t, struct pl_node *dir, const char *name)
{
    struct pl_node *node;
    struct pl_attr attr;
    assert_int_equal(pl_lookup(t, &call, dir, name, &node, &attr), 0);
    return node;
}

static void *pattern(size_t n, unsigned seed)
{
    uint32_t *p = malloc(n + 4);
    for (size_t i = 0; i < n / 4 + 1; i++)
        p[i] = (uint32_t)i * 2654435761u + seed;
    return p;
}

/* ---- the tests ---- */

static void large_reads_and_writes(void **state)
{
    struct world *w = *state;
    static const size_t sizes[] = {1, 4095, 65536, (1 << 20) - 25, 1 << 20, (5 << 20) + 7};
    struct pl_file *f = create(w->far, w->top, "big", O_RDWR, NULL);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        size_t n = sizes[i];
        void *out = pattern(n, (unsigned)i), *in = malloc(n + 100);
        assert_int_equal(pl_write(w->far, &call, f, out, n, 123), n);
        struct pl_setattr set = {.valid = PL_SET_SIZE, .size = n + 123};
        struct pl_attr attr;
        assert_int_equal(pl_setattr(w->far, &call, f->node, f, &set, &attr), 0);
        assert_int_equal(attr.size, n + 123);
        assert_int_equal(pl_read(w->far, &call, f, in, n + 100, 123), n);
        assert_memory_equal(in, out, n);
        assert_int_equal(pl_read(w->far, &call, f, in, 10, n + 123), 0);
        free(out);
        free(in);
    }
    pl_close(w->far, &call, f);
}

static void appending(void **state)
{
    struct world *w = *state;
    size_t n = 3 << 20;
    void *out = pattern(n, 9), *in = malloc(n);
    struct pl_file *f = create(w->far, w->top, "log", O_RDWR | O_APPEND, NULL);
    assert_int_equal(pl_write(w->far, &call, f, "head", 4, 0), 4);
    assert_int_equal(pl_write(w->far, &call, f, out, n, 0), n);
    assert_int_equal(pl_read(w->far, &call, f, in, n, 4), n);
    assert_memory_equal(in, out, n);
    pl_close(w->far, &call, f);
    free(out);
    free(in);
}

static void one_node_an_object(void **state)
{
    struct world *w = *state;
    struct pl_node *node, *again, *dir;
    struct pl_attr attr;
    pl_close(w->far, &call, create(w->far, w->top, "a", O_RDWR, &node));
    assert_int_equal(pl_link(w->far, &call, node, w->top, "b", &attr), 0);
    assert_int_equal(attr.nlink, 2);
    again = look(w->far, w->top, "b");
    assert_ptr_equal(node, again);
    pl_node_unref(again);
    /* the first name may go, the node stays good */
    assert_int_equal(pl_remove(w->far, &call, w->top, "a", 0), 0);
    assert_int_equal(pl_getattr(w->far, &call, node, NULL, &attr), 0);
    assert_int_equal(attr.nlink, 1);
    struct pl_make make = {.mode = S_IFDIR | 0755};
    assert_int_equal(pl_make(w->far, &call, w->top, "d", &make, &dir, &attr), 0);
    again = look(w->far, dir, "..");
    assert_ptr_equal(again, w->top);
    pl_node_unref(again);
    pl_node_unref(dir);
    pl_node_unref(node);
}

/* A file that took another's place is another node, though the inode's number be the same. */
static void replaced_files(void **state)
{
    struct world *w = *state;
    struct pl_node *old, *new;
    struct pl_attr attr;
    struct pl_file *f = create(w->far, w->top, "doc", O_RDWR, &old);
    assert_int_equal(pl_write(w->far, &call, f, "old", 3, 0), 3);
    pl_close(w->far, &call, create(w->far, w->top, "doc~", O_RDWR, NULL));
    assert_int_equal(pl_rename(w->far, &call, w->top, "doc~", w->top, "doc", 0), 0);
    new = look(w->far, w->top, "doc");
    assert_ptr_not_equal(new, old);
    char buf[8];
    assert_int_equal(pl_read(w->far, &call, f, buf, 8, 0), 3); /* unlinked, but open */
    assert_int_equal(pl_getattr(w->far, &call, old, f, &attr), 0);
    assert_int_equal(attr.nlink, 0);
    pl_close(w->far, &call, f);
    pl_node_unref(old);
    pl_node_unref(new);
}

struct listing {
    int n, stop_after;
    uint64_t next;
    bool seen[2000];
};

static int list(void *arg, const struct pl_dirent *ent)
{
    struct listing *l = arg;
    if (l->n == l->stop_after)
        return 1;
    l->n++;
    l->next = ent->next;
    int i;
    if (sscanf(ent->name, "f%d", &i) == 1) {
        assert_false(l->seen[i]);
        l->seen[i] = true;
    }
    return 0;
}

static void long_directories(void **state)
{
    struct world *w = *state;
    struct pl_file *dir;
    char name[200];
    for (int i = 0; i < 1500; i++) {
        snprintf(name, sizeof(name), "f%d-%0150d", i, i);
        pl_close(&w->tree->tree, &call, create(&w->tree->tree, w->root, name, O_RDWR, NULL));
    }
    assert_int_equal(pl_open(w->far, &call, w->top, O_RDONLY | O_DIRECTORY, &dir), 0);
    for (int batch = 1; batch < 4000; batch = batch * 7 + 1) {
        struct listing *l = calloc(1, sizeof(*l));
        for (;;) {
            int before = l->n;
            l->stop_after = before + batch;
            assert_int_equal(pl_readdir(w->far, &call, dir, l->next, list, l), 0);
            if (l->n == before)
                break;
        }
        assert_int_equal(l->n, 1502);
        free(l);
    }
    pl_close(w->far, &call, dir);
}

static void attributes_of_attributes(void **state)
{
    struct world *w = *state;
    struct pl_node *node;
    char buf[65536];
    void *big = pattern(65536, 3);
    pl_close(w->far, &call, create(w->far, w->top, "x", O_RDWR, &node));
    assert_int_equal(pl_getxattr(w->far, &call, node, "user.a", NULL, 0), -ENODATA);
    assert_int_equal(pl_setxattr(w->far, &call, node, "user.a", "val", 3, XATTR_REPLACE), -ENODATA);
    assert_int_equal(pl_setxattr(w->far, &call, node, "user.a", "val", 3, XATTR_CREATE), 0);
    assert_int_equal(pl_setxattr(w->far, &call, node, "user.a", "val", 3, XATTR_CREATE), -EEXIST);
    assert_int_equal(pl_getxattr(w->far, &call, node, "user.a", NULL, 0), 3);
    assert_int_equal(pl_getxattr(w->far, &call, node, "user.a", buf, 2), -ERANGE);
    assert_int_equal(pl_getxattr(w->far, &call, node, "user.a", buf, 100), 3);
    assert_memory_equal(buf, "val", 3);
    /* empty, with the flag that means removal on the wire */
    assert_int_equal(pl_setxattr(w->far, &call, node, "user.a", "", 0, XATTR_REPLACE), 0);
    assert_int_equal(pl_getxattr(w->far, &call, node, "user.a", buf, 100), 0);
    assert_int_equal(pl_setxattr(w->far, &call, node, "user.b", "", 0, XATTR_REPLACE), -ENODATA);
    assert_int_equal(pl_setxattr(w->far, &call, node, "user.big", big, 65536, 0), 0);
    assert_int_equal(pl_getxattr(w->far, &call, node, "user.big", buf, 65536), 65536);
    assert_memory_equal(buf, big, 65536);
    assert_int_equal(pl_listxattr(w->far, &call, node, NULL, 0), 16);
    assert_int_equal(pl_listxattr(w->far, &call, node, buf, 100), 16);
    assert_int_equal(pl_removexattr(w->far, &call, node, "user.big"), 0);
    assert_int_equal(pl_removexattr(w->far, &call, node, "user.big"), -ENODATA);
    assert_int_equal(pl_listxattr(w->far, &call, node, buf, 100), 7);
    pl_node_unref(node);
    free(big);
}

struct locker {
    struct world *w;
    struct pl_tree *t;
    struct pl_file *f;
    struct pl_call call;
    int result;
};

static void *wait_lock(void *arg)
{
    struct locker *l = arg;
    struct pl_lock lock = {.type = F_WRLCK, .wait = true, .owner = 2, .end = PL_OFF_MAX};
    l->result = pl_lock(l->t, &l->call, l->f, &lock);
    return NULL;
}

static void locking(void **state)
{
    struct world *w = *state;
    struct pl_tree *other = dial(w);
    struct pl_node *top, *node, *near;
    struct pl_attr attr;
    struct pl_file *f, *g;
    f = create(w->far, w->top, "l", O_RDWR, &near);
    assert_int_equal(pl_attach(other, &call, "", &top, &attr), 0);
    node = look(other, top, "l");
    assert_int_equal(pl_open(other, &call, node, O_RDWR, &g), 0);
    struct pl_lock a = {.type = F_WRLCK, .owner = 1, .end = PL_OFF_MAX, .pid = 77};
    struct pl_lock b = {.type = F_WRLCK, .owner = 1, .start = 5, .end = 9};
    assert_int_equal(pl_lock(w->far, &call, f, &a), 0);
    assert_int_equal(pl_lock(w->far, &call, f, &b), 0); /* its own */
    assert_int_equal(pl_lock(other, &call, g, &b), -EAGAIN);
    b.owner = 2;
    assert_int_equal(pl_lock(w->far, &call, f, &b), -EAGAIN);
    assert_int_equal(pl_getlock(w->far, &call, f, &b), 0);
    assert_int_equal(b.type, F_WRLCK);
    if (!w->plain)
        assert_int_equal(b.pid, 77);

    /* one that waits can be cancelled ... */
    struct locker l = {.w = w, .t = other, .f = g};
    pthread_t th;
    pl_call_init(&l.call, geteuid(), getegid());
    pthread_create(&th, NULL, wait_lock, &l);
    pl_call_cancel(&l.call);
    pthread_join(th, NULL);
    assert_int_equal(l.result, -EINTR);
    pl_call_done(&l.call);
    /* ... and gets it when it is free: here because flush drops it */
    pl_call_init(&l.call, geteuid(), getegid());
    pthread_create(&th, NULL, wait_lock, &l);
    assert_int_equal(pl_flush(w->far, &call, f, 1), 0);
    pthread_join(th, NULL);
    assert_int_equal(l.result, 0);
    pl_call_done(&l.call);
    assert_int_equal(pl_lock(w->far, &call, f, &a), -EAGAIN);
    /* the other's open file takes it along; a flock that is free after close is free */
    struct pl_lock fl = {.type = F_WRLCK, .flock = true, .owner = 3, .end = PL_OFF_MAX};
    assert_int_equal(pl_flush(other, &call, g, 2), 0);
    assert_int_equal(pl_lock(other, &call, g, &fl), 0);
    assert_int_equal(pl_close(other, &call, g), 0);
    assert_int_equal(pl_lock(w->far, &call, f, &fl), 0);
    assert_int_equal(pl_lock(w->far, &call, f, &a), w->plain ? -EAGAIN : 0);
    pl_close(w->far, &call, f);
    pl_node_unref(node);
    pl_node_unref(near);
    pl_node_unref(top);
    pl_tree_unref(other);
}

static void cancelling(void **state)
{
    struct world *w = *state;
    struct locker l = {.w = w};
    struct pl_file *f = create(w->far, w->top, "slow", O_RDWR, NULL);
    char buf[4];
    assert_int_equal(pl_write(w->far, &call, f, "slow", 4, 0), 4);
    atomic_store(&w->tree->hold, true);
    pl_call_init(&l.call, geteuid(), getegid());
    pl_call_cancel(&l.call);
    assert_int_equal(pl_read(w->far, &l.call, f, buf, 4, 0), -EINTR);
    pl_call_done(&l.call);
    counting_release(w->tree);
    assert_int_equal(pl_read(w->far, &call, f, buf, 4, 0), 4);
    pl_close(w->far, &call, f);
}

/* As root: each caller is itself on the other side. */
static void each_user_is_itself(void **state)
{
    struct world *w = *state;
    struct pl_node *pub, *sub, *node, *mine;
    struct pl_attr attr;
    struct pl_file *f;
    struct pl_call other;
    if (geteuid() != 0)
        skip();
    pl_call_init(&other, 1234, 777);
    struct pl_make make = {.mode = S_IFDIR | 0777};
    assert_int_equal(pl_make(w->far, &call, w->top, "pub", &make, &pub, &attr), 0);
    make.mode = S_IFDIR | 0777;
    assert_int_equal(pl_make(w->far, &call, pub, "sub", &make, &sub, &attr), 0);
    /* a node that only root has looked up */
    other.umask = 027;
    assert_int_equal(pl_create(w->far, &other, sub, "mine", O_RDWR, 0666, &mine, &attr, &f), 0);
    assert_int_equal(attr.uid, 1234);
    assert_int_equal(attr.gid, 777);
    assert_int_equal(attr.mode & 07777, 0640);
    pl_close(w->far, &other, f);
    make = (struct pl_make){.mode = S_IFDIR | 0700};
    assert_int_equal(pl_make(w->far, &other, sub, "d", &make, &node, &attr), 0);
    assert_int_equal(attr.uid, 1234);
    assert_int_equal(attr.gid, 777);
    pl_node_unref(node);
    make = (struct pl_make){.mode = S_IFLNK | 0777, .target = "x"};
    assert_int_equal(pl_make(w->far, &other, sub, "s", &make, &node, &attr), 0);
    assert_int_equal(attr.uid, 1234);
    pl_node_unref(node);
    make = (struct pl_make){.mode = S_IFIFO | 0600};
    assert_int_equal(pl_make(w->far, &other, sub, "p", &make, &node, &attr), 0);
    assert_int_equal(attr.uid, 1234);
    pl_node_unref(node);
    /* what it may not, it may not */
    struct pl_node *secret;
    struct pl_file *g = create(w->far, w->top, "secret", O_RDWR, &secret);
    struct pl_setattr set = {.valid = PL_SET_MODE, .mode = 0600};
    assert_int_equal(pl_setattr(w->far, &call, secret, NULL, &set, &attr), 0);
    assert_int_equal(pl_open(w->far, &other, secret, O_RDONLY, &f), -EACCES);
    assert_int_equal(pl_setattr(w->far, &other, secret, NULL, &set, &attr), -EPERM);
    assert_int_equal(pl_access(w->far, &other, secret, R_OK), -EACCES);
    /* and what is its own, root may */
    assert_int_equal(pl_open(w->far, &call, mine, O_RDWR, &f), 0);
    pl_close(w->far, &call, f);
    /* a name that others changed meanwhile: told, and found again by looking */
    assert_int_equal(pl_rename(&w->tree->tree, &call, w->root, "secret", w->root, "public", 0), 0);
    struct pl_call third;
    pl_call_init(&third, 4321, 4321);
    assert_int_equal(pl_open(w->far, &third, secret, O_RDONLY, &f), -ESTALE);
    assert_int_equal(pl_lookup(w->far, &third, w->top, "public", &node, &attr), 0);
    assert_ptr_equal(node, secret);
    assert_int_equal(pl_open(w->far, &third, secret, O_RDONLY, &f), -EACCES);
    pl_node_unref(node);
    pl_close(w->far, &call, g);
    pl_call_done(&third);
    pl_call_done(&other);
    pl_node_unref(mine);
    pl_node_unref(secret);
    pl_node_unref(sub);
    pl_node_unref(pub);
}

/* Deeper than one Twalk can say. */
static void deep_for_another_user(void **state)
{
    struct world *w = *state;
    struct pl_node *node = pl_node_ref(w->top), *chain[60];
    struct pl_attr attr;
    if (geteuid() != 0) {
        pl_node_unref(node);
        skip();
    }
    for (int i = 0; i < 60; i++) {
        struct pl_make make = {.mode = S_IFDIR | 0755};
        chain[i] = node;
        assert_int_equal(pl_make(w->far, &call, chain[i], "d", &make, &node, &attr), 0);
    }
    struct pl_call other;
    struct pl_file *dir;
    pl_call_init(&other, 1234, 777);
    assert_int_equal(pl_open(w->far, &other, node, O_RDONLY | O_DIRECTORY, &dir), 0);
    pl_close(w->far, &other, dir);
    pl_call_done(&other);
    pl_node_unref(node);
    for (int i = 0; i < 60; i++)
        pl_node_unref(chain[i]);
}

/* The server dies under a client that has all sorts of things open: everything says so, and all of
 * it can be let go. */
static void a_server_that_dies(void **state)
{
    struct world *w = *state;
    struct pl_node *node, *n2;
    struct pl_attr attr;
    char buf[8];
    struct pl_file *f = create(w->far, w->top, "f", O_RDWR, &node), *dir;
    assert_int_equal(pl_open(w->far, &call, w->top, O_RDONLY | O_DIRECTORY, &dir), 0);
    p9_conn_abort(w->conn[0]);
    assert_int_equal(pl_read(w->far, &call, f, buf, 8, 0), -ECONNABORTED);
    assert_int_equal(pl_write(w->far, &call, f, buf, 8, 0), -ECONNABORTED);
    assert_int_equal(pl_getattr(w->far, &call, node, NULL, &attr), -ECONNABORTED);
    assert_int_equal(pl_lookup(w->far, &call, w->top, "f", &n2, &attr), -ECONNABORTED);
    assert_int_equal(pl_open(w->far, &call, node, O_RDONLY, &f), -ECONNABORTED);
    assert_int_equal(pl_fsync(w->far, &call, dir, false), -ECONNABORTED);
    pl_close(w->far, &call, dir);
    pl_close(w->far, &call, f);
    pl_node_unref(node);
}

/* ---- servers that lie ---- */

/* Answers by a function; the root is 1, "f" is 2, "d" is 3. */
struct liar {
    int fd;
    pthread_t thread;
    int lie;              /* which */
    bool no_at;           /* knows no *at requests */
    atomic_bool moved;    /* somebody renamed "f": what fids of it there are lead nowhere */
    int removes, renames; /* Tremove and Trename seen */
    int sets;             /* Tsetattr of "f" */
    uint32_t nfids;       /* that it has open */
};

enum {
    HONEST,
    LIE_MODE,    /* the mode says directory, the qid file */
    LIE_TYPE,    /* no type at all */
    LIE_SIZE,    /* past 2^63 */
    LIE_STALE,   /* attributes of another object */
    LIE_CHANGED, /* was a file, is a directory */
    LIE_COUNT,   /* more bytes than asked */
    LIE_WROTE,   /* wrote more than it got */
    LIE_XATTR,   /* an attribute of 4 GiB */
    LIE_LIST,    /* a list of names without an end */
    LIE_NAME,    /* an entry "../x" */
    LIE_EMPTY,   /* an entry "" */
    LIE_LOOP,    /* an entry whose next position is its own */
    LIE_CUT,     /* half an entry */
    LIE_WALK,    /* more qids than names */
    LIE_CREATE,  /* what was made is another object */
    LIE_OPEN,    /* what was opened is another object */
    LIE_LINK,    /* a symlink to nothing */
    LIES
};

static struct p9_qid qid_of(uint64_t path)
{
    return (struct p9_qid){.type = path == 2 || path > 3 ? P9_QTFILE : P9_QTDIR, .path = path};
}

/* Which object a fid is: fids are remembered in a small table. */
static uint8_t objects[4096];

static void entry(struct p9_msg *out, uint8_t *buf, const char *name, uint64_t next)
{
    struct p9_dirent e = {.qid = qid_of(2), .offset = next, .type = 8, .name = p9_str("name")};
    int n = p9_dirent_put(buf + out->count, 1000, &e);
    assert_true(n > 0);
    memcpy(buf + out->count + 24, name, strlen(name)); /* four bytes, whatever they are */
    out->count += (uint32_t)n;
    out->data = buf;
}

static void lie_attr(struct liar *l, uint8_t object, struct p9_attr *a)
{
    *a =
        (struct p9_attr){.valid = P9_GETATTR_BASIC, .qid = qid_of(object), .nlink = 1, .size = 100};
    a->mode = a->qid.type & P9_QTDIR ? S_IFDIR | 0755 : S_IFREG | 0644;
    if (object != 2)
        return;
    if (l->lie == LIE_LINK) {
        a->mode = S_IFLNK | 0777;
        a->qid.type = P9_QTSYMLINK;
    }
    if (l->lie == LIE_MODE)
        a->mode = S_IFDIR | 0755;
    if (l->lie == LIE_TYPE)
        a->mode = 0644;
    if (l->lie == LIE_SIZE)
        a->size = UINT64_MAX - 5;
}

/* The lies that are told only once a file has been found. */
static void lie_later(struct liar *l, struct p9_attr *a)
{
    if (l->lie == LIE_STALE)
        a->qid.path = 9;
    if (l->lie == LIE_CHANGED) {
        a->qid.type = P9_QTDIR;
        a->mode = S_IFDIR | 0755;
    }
}

static void answer(struct liar *l, struct p9_msg *in, struct p9_msg *out, uint8_t *buf)
{
    static int gets;
    int err = 0;
    uint8_t object;
    if (atomic_exchange(&l->moved, false))
        for (int i = 0; i < 4096; i++)
            objects[i] |= objects[i] == 2 ? 0x80 : 0;
    object = objects[in->fid % 4096];
    *out = (struct p9_msg){.type = (uint8_t)(in->type + 1), .tag = in->tag};
    switch (in->type) {
    case P9_Tversion:
        out->msize = in->msize < 8192 ? in->msize : 8192;
        out->version = p9_str(in->version.len == strlen(P9_VERSION_L) ? P9_VERSION_L : "unknown");
        gets = 0;
        break;
    case P9_Tattach:
        objects[in->fid % 4096] = 1;
        out->qid = qid_of(1);
        l->nfids++;
        break;
    case P9_Twalk:
        if (in->nwname) {
            object = in->wname[0].s[0] == 'd' ? 3 : 2;
            if (in->wname[0].s[0] == 'n')
                err = ENOENT;
            out->nwqid = 1;
            out->wqid[0] = qid_of(object);
            if (l->lie == LIE_WALK)
                out->nwqid = 5;
        }
        if (!err) {
            objects[in->newfid % 4096] = object;
            l->nfids++;
        }
        break;
    case P9_Tgetattr:
        err = object & 0x80 ? ENOENT : 0;
        lie_attr(l, object, &out->attr);
        if (object == 2 && gets++ > 0)
            lie_later(l, &out->attr);
        break;
    case P9_Tsetattr:
        err = object & 0x80 ? ENOENT : 0;
        l->sets += !err;
        break;
    case P9_Tlopen:
        out->qid = qid_of(l->lie == LIE_OPEN && object == 2 ? 7 : object);
        break;
    case P9_Tlcreate:
        objects[in->fid % 4096] = 2;
        out->qid = qid_of(l->lie == LIE_CREATE ? 7 : 2);
        break;
    case P9_Tread:
        out->count = in->count + (l->lie == LIE_COUNT);
        memset(buf, 'x', out->count);
        if (out->count && l->lie != LIE_LIST) /* so that it may be a list of names */
            buf[out->count - 1] = 0;
        out->data = buf;
        break;
    case P9_Twrite:
        out->count = in->count + (l->lie == LIE_WROTE);
        break;
    case P9_Txattrwalk:
        out->size = l->lie == LIE_XATTR ? 1ull << 32 : 8;
        objects[in->newfid % 4096] = 2;
        l->nfids++;
        break;
    case P9_Treaddir:
        if (in->offset)
            break;
        entry(out, buf, "okay", 1);
        if (l->lie == LIE_NAME)
            entry(out, buf, "../x", 2);
        if (l->lie == LIE_LOOP)
            entry(out, buf, "loop", 1);
        if (l->lie == LIE_EMPTY) {
            entry(out, buf, "name", 2);
            buf[out->count - 6] = 0;
            out->count -= 4;
        }
        if (l->lie == LIE_CUT) {
            entry(out, buf, "half", 2);
            out->count -= 3;
        }
        break;
    case P9_Treadlink:
        out->target = p9_str("");
        break;
    case P9_Tunlinkat:
    case P9_Trenameat:
        err = l->no_at ? EOPNOTSUPP : 0;
        break;
    case P9_Tremove:
        l->removes++;
        l->nfids--;
        break;
    case P9_Trename:
        l->renames++;
        break;
    case P9_Tclunk:
        l->nfids--;
        break;
    case P9_Tflush:
    case P9_Txattrcreate:
    case P9_Tfsync:
        break;
    default:
        err = EOPNOTSUPP;
    }
    if (err)
        *out = (struct p9_msg){.type = P9_Rlerror, .tag = in->tag, .ecode = (uint32_t)err};
}

static void *lying(void *arg)
{
    struct liar *l = arg;
    uint8_t *buf = malloc(1 << 16), *data = malloc(1 << 17), *enc = malloc(1 << 17);
    struct p9_msg in, out;
    while (get(l->fd, buf, 4) && get(l->fd, buf + 4, size_of(buf) - 4)) {
        assert_int_equal(p9_decode(buf, size_of(buf), &in), 0);
        answer(l, &in, &out, data);
        int n = p9_encode(&out, enc, 1 << 17);
        assert_true(n > 0);
        put(l->fd, enc, (size_t)n);
    }
    free(buf);
    free(data);
    free(enc);
    return NULL;
}

static int stop_early(void *arg, const struct pl_dirent *ent)
{
    assert_string_equal(ent->name, "okay");
    return 0;
}

/* Does everything to a server that tells one lie; each thing works, or fails with EIO, ESTALE or
 * the loss of the connection. */
static void sane(int64_t r)
{
    if (r < 0 && r != -EIO && r != -ESTALE && r != -EPROTO && r != -ECONNABORTED)
        fail_msg("unexpected result %lld", (long long)r);
}

static int64_t try_all(struct pl_tree *t, struct pl_node *top)
{
    struct pl_node *node, *made;
    struct pl_attr attr;
    struct pl_file *file;
    char buf[64];
    int64_t bad = 0, r = pl_lookup(t, &call, top, "f", &node, &attr);
#define TRY(e)                                                                                     \
    do {                                                                                           \
        r = (e);                                                                                   \
        sane(r);                                                                                   \
        if (r < 0)                                                                                 \
            bad = r;                                                                               \
    } while (0)
    TRY(r);
    if (r == 0) {
        TRY(pl_getattr(t, &call, node, NULL, &attr));
        if (node->fmt == S_IFREG) {
            TRY(pl_open(t, &call, node, O_RDWR, &file));
            if (r == 0) {
                TRY(pl_read(t, &call, file, buf, sizeof(buf), 0));
                TRY(pl_write(t, &call, file, buf, sizeof(buf), 0));
                pl_close(t, &call, file);
            }
        } else if (node->fmt == S_IFLNK) {
            TRY(pl_readlink(t, &call, node, buf, sizeof(buf)));
        }
        TRY(pl_getxattr(t, &call, node, "user.x", buf, sizeof(buf)));
        TRY(pl_listxattr(t, &call, node, buf, sizeof(buf)));
        pl_node_unref(node);
    }
    r = pl_create(t, &call, top, "f2", O_RDWR, 0644, &made, &attr, &file);
    TRY(r);
    if (r == 0) {
        pl_close(t, &call, file);
        pl_node_unref(made);
    }
    r = pl_open(t, &call, top, O_RDONLY | O_DIRECTORY, &file);
    TRY(r);
    if (r == 0) {
        TRY(pl_readdir(t, &call, file, 0, stop_early, NULL));
        pl_close(t, &call, file);
    }
    return bad;
}

static struct pl_tree *dial_liar(struct liar *l, struct p9_crew *crew)
{
    int fds[2];
    struct pl_tree *t;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    l->fd = fds[0];
    pthread_create(&l->thread, NULL, lying, l);
    assert_int_equal(pl_p9_open(use(crew, fds[1]), true, "", NULL, &t, NULL), 0);
    return t;
}

static void liars(void **state)
{
    for (int lie = HONEST; lie < LIES; lie++) {
        struct liar l = {.lie = lie};
        struct p9_crew *crew = p9_crew_new(2);
        struct pl_node *top;
        struct pl_attr attr;
        pl_call_init_self(&call);
        struct pl_tree *t = dial_liar(&l, crew);
        assert_int_equal(pl_attach(t, &call, "", &top, &attr), 0);
        int64_t bad = try_all(t, top);
        if ((lie == HONEST) != (bad == 0))
            fail_msg("lie %d: %lld", lie, (long long)bad);
        pl_node_unref(top);
        pl_tree_unref(t);
        pthread_join(l.thread, NULL);
        close(l.fd);
        p9_crew_free(crew);
        pl_call_done(&call);
    }
}

/* A server without the *at requests; and no fid is left when the tree goes. */
static void old_servers(void **state)
{
    struct liar l = {.no_at = true};
    struct p9_crew *crew = p9_crew_new(2);
    struct pl_node *top;
    struct pl_attr attr;
    pl_call_init_self(&call);
    struct pl_tree *t = dial_liar(&l, crew);
    assert_int_equal(pl_attach(t, &call, "", &top, &attr), 0);
    assert_int_equal(pl_remove(t, &call, top, "f", 0), 0);
    assert_int_equal(pl_remove(t, &call, top, "f", AT_REMOVEDIR), -ENOTDIR);
    assert_int_equal(pl_remove(t, &call, top, "d", 0), -EISDIR);
    assert_int_equal(pl_remove(t, &call, top, "none", 0), -ENOENT);
    assert_int_equal(pl_rename(t, &call, top, "f", top, "g", 0), 0);
    assert_int_equal(pl_rename(t, &call, top, "f", top, "g", 1), -EINVAL);
    pl_node_unref(top);
    pl_tree_unref(t);
    pthread_join(l.thread, NULL);
    assert_int_equal(l.removes, 1);
    assert_int_equal(l.renames, 1);
    close(l.fd);
    p9_crew_free(crew);
    pl_call_done(&call);
}

/* ---- dialing ---- */

struct host {
    struct chan_listener *listener;
    struct p9_door *door;
    struct p9_conn *conn;
};

static void *host(void *arg)
{
    struct host *h = arg;
    struct chan chan;
    assert_int_equal(chan_accept(h->listener, &chan, NULL), 0);
    assert_int_equal(p9_door_conn(h->door, &chan, false, NULL, NULL, &h->conn, NULL), 0);
    p9_conn_wait(h->conn, NULL);
    p9_conn_free(h->conn);
    return NULL;
}

static int dial_host(struct host *h, const char *addr, const char *aname, struct pl_err *err)
{
    pthread_t th;
    struct pl_tree *t = NULL;
    struct pl_node *top;
    struct pl_attr attr;
    pthread_create(&th, NULL, host, h);
    int r = pl_p9_dial(addr, aname, &t, err);
    if (r == 0) {
        assert_int_equal(pl_attach(t, &call, "", &top, &attr), 0);
        pl_node_unref(top);
        pl_tree_unref(t);
    }
    pthread_join(th, NULL);
    return r;
}

static void dialing(void **state)
{
    char dir[] = "/tmp/p9_source.XXXXXX", addr[64];
    struct pl_err err = {0};
    struct pl_tree *mem, *t;
    struct host h;
    struct p9_crew *crew = p9_crew_new(4);
    pl_call_init_self(&call);
    assert_non_null(mkdtemp(dir));
    snprintf(addr, sizeof(addr), "unix!%s/socket", dir);
    assert_int_equal(pl_p9_dial(addr, "", &t, &err), -ENOENT);
    assert_non_null(strstr(err.text, dir));
    assert_int_equal(chan_listen(addr, NULL, &h.listener, &err), 0);
    assert_int_equal(pl_mem_new(1 << 20, &mem, NULL), 0);
    struct p9_export e = {"here", mem};
    assert_int_equal(p9_door_new(&e, 1, crew, NULL, &h.door), 0);
    assert_int_equal(dial_host(&h, addr, "here", &err), 0);
    assert_int_equal(dial_host(&h, addr, "there", &err), -ENOENT);
    assert_non_null(strstr(err.text, "\"there\""));
    assert_true(pl_p9_dial("exec!echo this is a web server, not a file server", "", &t, &err) < 0);
    assert_true(*err.text);
    assert_true(pl_p9_dial("exec!true", "", &t, &err) < 0);
    p9_door_free(h.door);
    p9_crew_free(crew);
    pl_tree_unref(mem);
    chan_listener_free(h.listener);
    assert_int_equal(rmdir(dir), 0);
    pl_call_done(&call);
}

/* ---- a tree that is made up ---- */

static int tell_time(const struct pl_made_req *req, struct pl_text *out)
{
    return pl_text_add(out, "it is late\n");
}

static int committed; /* how often */
static char commit_text[64];

static int fill(const struct pl_made_req *req, struct pl_text *out)
{
    return pl_text_add(out, "%s", commit_text);
}

static int commit(const struct pl_made_req *req, const char *text, size_t n)
{
    committed++;
    if (!strcmp(text, "bad"))
        return -EDOM;
    snprintf(commit_text, sizeof(commit_text), "%s", text);
    return 0;
}

/* What opening decides, and what closing says, get across. */
static void made_up(void **state)
{
    struct pl_made *m = pl_made_new();
    struct pl_tree *made, *t;
    struct pl_node *top, *node;
    struct pl_attr attr;
    struct pl_file *f;
    struct p9_crew *crew = p9_crew_new(4);
    struct p9_door *door;
    struct p9_conn *conn;
    char buf[64];
    int fds[2];
    assert_int_equal(pl_made_file(m, "time", tell_time, NULL), 0);
    assert_int_equal(pl_made_doc(m, "doc", fill, commit, NULL), 0);
    struct pl_stream *stream = pl_made_stream(m, "events", 4096);
    assert_non_null(made = pl_made_tree(m));
    pl_call_init_self(&call);
    struct p9_export e = {"", made};
    assert_int_equal(p9_door_new(&e, 1, crew, NULL, &door), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct chan chan = {fds[0], fds[0], CHAN_ACCEPTED, 0, geteuid(), "client"};
    assert_int_equal(p9_door_conn(door, &chan, false, NULL, NULL, &conn, NULL), 0);
    assert_int_equal(pl_p9_open(use(crew, fds[1]), true, "", NULL, &t, NULL), 0);
    assert_int_equal(t->flags & PL_TREE_GENERATED, made->flags & PL_TREE_GENERATED);
    assert_int_equal(pl_attach(t, &call, "", &top, &attr), 0);

    node = look(t, top, "time");
    assert_int_equal(pl_open(t, &call, node, O_RDONLY, &f), 0);
    assert_true(f->direct);
    assert_int_equal(pl_read(t, &call, f, buf, sizeof(buf), 0), 11);
    pl_close(t, &call, f);
    pl_node_unref(node);

    node = look(t, top, "events");
    assert_int_equal(pl_open(t, &call, node, O_RDONLY, &f), 0);
    assert_true(f->stream);
    assert_int_equal(pl_stream_send(stream, "one", 3), 0);
    assert_int_equal(pl_read(t, &call, f, buf, sizeof(buf), 0), 3);
    struct pl_call late;
    pl_call_init_self(&late);
    late.deadline = 1; /* long past */
    assert_int_equal(pl_read(t, &late, f, buf, sizeof(buf), 3), -ETIMEDOUT);
    pl_call_done(&late);
    pl_close(t, &call, f);
    pl_node_unref(node);

    node = look(t, top, "doc");
    assert_int_equal(pl_open(t, &call, node, O_RDWR | O_TRUNC, &f), 0);
    assert_int_equal(pl_write(t, &call, f, "good", 4, 0), 4);
    assert_int_equal(pl_flush(t, &call, f, 1), 0);
    assert_int_equal(committed, 1);
    assert_int_equal(pl_flush(t, &call, f, 1), 0); /* nothing new */
    assert_int_equal(pl_write(t, &call, f, "bad", 4, 0), 4);
    assert_int_equal(pl_flush(t, &call, f, 1), -EDOM);
    pl_close(t, &call, f);
    pl_node_unref(node);
    pl_node_unref(top);
    pl_tree_unref(t);
    p9_conn_wait(conn, NULL);
    p9_conn_free(conn);
    assert_string_equal(commit_text, "good");
    p9_door_free(door);
    p9_crew_free(crew);
    pl_tree_unref(made);
    pl_call_done(&call);
}

/* A server whose fids are paths: a rename leaves them behind. */
static void servers_by_path(void **state)
{
    struct liar l = {0};
    struct p9_crew *crew = p9_crew_new(2);
    struct pl_node *top, *node, *again;
    struct pl_attr attr;
    pl_call_init_self(&call);
    struct pl_tree *t = dial_liar(&l, crew);
    assert_int_equal(pl_attach(t, &call, "", &top, &attr), 0);
    assert_int_equal(pl_lookup(t, &call, top, "f", &node, &attr), 0);
    /* ours: mended at once */
    atomic_store(&l.moved, true);
    assert_int_equal(pl_rename(t, &call, top, "f", top, "g", 0), 0);
    assert_int_equal(pl_getattr(t, &call, node, NULL, &attr), 0);
    /* while it is open, too */
    struct pl_file *file;
    struct pl_setattr set = {.valid = PL_SET_SIZE, .size = 5};
    assert_int_equal(pl_open(t, &call, node, O_RDWR, &file), 0);
    assert_int_equal(pl_setattr(t, &call, node, file, &set, &attr), 0);
    atomic_store(&l.moved, true);
    assert_int_equal(pl_rename(t, &call, top, "g", top, "f", 0), 0);
    assert_int_equal(pl_getattr(t, &call, node, file, &attr), 0);
    assert_int_equal(pl_setattr(t, &call, node, file, &set, &attr), 0);
    assert_int_equal(l.sets, 2);
    pl_close(t, &call, file);
    /* another's: told, and mended by looking the name up, the node staying what it is */
    atomic_store(&l.moved, true);
    assert_int_equal(pl_getattr(t, &call, node, NULL, &attr), -ESTALE);
    assert_int_equal(pl_lookup(t, &call, top, "g", &again, &attr), 0);
    assert_ptr_equal(again, node);
    assert_int_equal(pl_getattr(t, &call, node, NULL, &attr), 0);
    pl_node_unref(again);
    pl_node_unref(node);
    pl_node_unref(top);
    pl_tree_unref(t);
    pthread_join(l.thread, NULL);
    close(l.fd);
    p9_crew_free(crew);
    pl_call_done(&call);
}

int main(void)
{
#define BOTH(f)                                                                                    \
    cmocka_unit_test_setup_teardown(f, setup_own, teardown),                                       \
        cmocka_unit_test_setup_teardown(f, setup_plain, teardown)
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        BOTH(large_reads_and_writes),
        BOTH(appending),
        BOTH(one_node_an_object),
        BOTH(replaced_files),
        BOTH(long_directories),
        BOTH(attributes_of_attributes),
        BOTH(locking),
        BOTH(cancelling),
        BOTH(each_user_is_itself),
        BOTH(deep_for_another_user),
        BOTH(a_server_that_dies),
        cmocka_unit_test(liars),
        cmocka_unit_test(old_servers),
        cmocka_unit_test(servers_by_path),
        cmocka_unit_test(dialing),
        cmocka_unit_test(made_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
