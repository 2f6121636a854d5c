/* SPDX-License-Identifier: MIT */
/* What the tests of the 9P door share: a server over a counting tree, and its clients. */
#ifndef UNIT_P9_DOOR_FIXTURE_H
#define UNIT_P9_DOOR_FIXTURE_H

#include "../raw9p.h"
#include <dirent.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/xattr.h>

/* One server over a counting tree over a tree in memory; clients come and go. */
struct world {
    struct p9_crew *crew;
    struct p9_door *door;
    struct counting *tree;
    struct pl_node *root;
    struct p9_conn *conn[64];
    unsigned nconns;
    struct stats stats;
};

static struct pl_call call; /* our own, for looking at the tree without the wire */

static inline void dial(struct world *w, struct raw *c)
{
    int fds[2];
    struct pl_err err = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct chan chan = {
        .in = fds[0], .out = fds[0], .role = CHAN_ACCEPTED, .uid = geteuid(), .peer = "client"};
    assert_true(w->nconns < 64);
    assert_int_equal(p9_door_conn(w->door, &chan, false, NULL, NULL, &w->conn[w->nconns++], &err),
                     0);
    raw_init(c, fds[1]);
}

static inline void dial_as(struct world *w, struct raw *c, const char *version)
{
    dial(w, c);
    raw_version(c, version);
    assert_int_equal(raw_attach(c, 0, ""), 0);
}

static inline void dial_plain(struct world *w, struct raw *c)
{
    dial_as(w, c, P9_VERSION_L);
}

/* The last client is gone: waits until its session is. */
static inline void hang_up(struct world *w, struct raw *c)
{
    struct pl_err err;
    raw_close(c);
    p9_conn_wait(w->conn[w->nconns - 1], &err);
}

static inline void put_file(struct world *w, const char *name, const char *text)
{
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *file;
    assert_int_equal(pl_create(&w->tree->tree, &call, w->root, name, O_WRONLY | O_TRUNC, 0644,
                               &node, &attr, &file),
                     0);
    assert_int_equal(pl_write(&w->tree->tree, &call, file, text, strlen(text), 0), strlen(text));
    pl_close(&w->tree->tree, &call, file);
    pl_node_unref(node);
}

static inline void put_dir(struct world *w, const char *name)
{
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_make make = {.mode = S_IFDIR | 0755};
    assert_int_equal(pl_make(&w->tree->tree, &call, w->root, name, &make, &node, &attr), 0);
    pl_node_unref(node);
}

static inline int there(struct world *w, const char *name)
{
    struct pl_node *node;
    struct pl_attr attr;
    int r = pl_lookup(&w->tree->tree, &call, w->root, name, &node, &attr);
    if (r == 0)
        pl_node_unref(node);
    return r;
}

static inline int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct pl_tree *mem;
    struct pl_attr attr;
    assert_int_equal(pl_mem_new(64 << 20, &mem, NULL), 0);
    w->tree = counting_new(mem);
    pl_call_init_self(&call);
    assert_int_equal(pl_attach(&w->tree->tree, &call, "", &w->root, &attr), 0);
    put_dir(w, "dir");
    put_file(w, "file", "hello, world\n");
    w->crew = p9_crew_new(4);
    assert_non_null(w->crew);
    struct p9_export exports[] = {{"", &w->tree->tree}, {"named", &w->tree->tree}};
    assert_int_equal(p9_door_new(exports, 2, w->crew, &w->stats, &w->door), 0);
    *state = w;
    return 0;
}

static inline int teardown(void **state)
{
    struct world *w = *state;
    for (unsigned i = 0; i < w->nconns; i++)
        p9_conn_free(w->conn[i]);
    p9_door_free(w->door);
    p9_crew_free(w->crew);
    assert_int_equal(atomic_load(&w->tree->files), 0);
    assert_int_equal(atomic_load(&w->stats.waiting), 0);
    pl_node_unref(w->root);
    assert_int_equal(atomic_load(&w->tree->tree.refs), 1);
    pl_tree_unref(&w->tree->tree);
    pl_call_done(&call);
    free(w);
    return 0;
}

#define WORLD                                                                                      \
    struct world *w = *state;                                                                      \
    struct raw c;                                                                                  \
    dial_plain(w, &c)

#endif
