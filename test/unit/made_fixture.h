/* SPDX-License-Identifier: MIT */
/* What the tests of made trees share: a tree, and files as a door would use them. */
#ifndef UNIT_MADE_FIXTURE_H
#define UNIT_MADE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <plenum/made.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct pl_made *m;
static struct pl_tree *t;
static struct pl_node *root;
static struct pl_call call, *c = &call;
static struct pl_attr at;

static inline void start(void)
{
    t = pl_made_tree(m);
    assert_non_null(t);
    assert_true(t->flags & PL_TREE_GENERATED);
    assert_int_equal(pl_attach(t, c, "", &root, &at), 0);
}

static inline int setup(void **state)
{
    pl_call_init_self(c);
    m = pl_made_new();
    return m ? 0 : -1;
}

static inline int teardown(void **state)
{
    pl_node_unref(root);
    root = NULL;
    pl_tree_unref(t);
    t = NULL;
    pl_call_done(c);
    return 0;
}

static inline int open_at(const char *path, int flags, struct pl_file **f)
{
    struct pl_node *n;
    int r = pl_attach(t, c, path, &n, &at);
    if (r == 0) {
        r = pl_open(t, c, n, flags, f);
        pl_node_unref(n);
    }
    return r;
}

static inline int create(struct pl_node *dir, const char *name, int flags, struct pl_file **f)
{
    struct pl_node *n;
    int r = pl_create(t, c, dir, name, flags | O_CREAT, 0644, &n, &at, f);
    if (r == 0)
        pl_node_unref(n);
    return r;
}

/* What close(2) does. */
static inline int shut(struct pl_file *f)
{
    int r = pl_flush(t, c, f, 1);
    pl_close(t, c, f);
    return r;
}

static inline void put(struct pl_file *f, const char *s, uint64_t off)
{
    assert_int_equal(pl_write(t, c, f, s, strlen(s), off), strlen(s));
}

static inline const char *all(struct pl_file *f)
{
    static char buf[4096];
    ssize_t n = pl_read(t, c, f, buf, sizeof(buf) - 1, 0);
    assert_true(n >= 0);
    buf[n] = 0;
    return buf;
}

static inline const char *cat(const char *path)
{
    struct pl_file *f;
    if (open_at(path, O_RDONLY, &f) < 0)
        return NULL;
    const char *s = all(f);
    assert_int_equal(shut(f), 0);
    return s;
}

/* ---- a document ---- */

struct doc {
    char text[128];
    int fills, commits, error;
};

static inline int doc_fill(const struct pl_made_req *req, struct pl_text *out)
{
    struct doc *d = req->arg;
    d->fills++;
    return pl_text_put(out, d->text, strlen(d->text));
}

static inline int doc_commit(const struct pl_made_req *req, const char *text, size_t n)
{
    struct doc *d = req->arg;
    d->commits++;
    assert_int_equal(text[n], 0);
    if (!d->error)
        snprintf(d->text, sizeof(d->text), "%s", text);
    return d->error;
}

/* ---- a reader in a thread of its own ---- */

static inline void *read_one(void *arg)
{
    static char buf[64];
    struct pl_file *f = arg;
    ssize_t n = pl_read(t, c, f, buf, sizeof(buf) - 1, 0);
    if (n < 0)
        return (void *)(intptr_t)n;
    buf[n] = 0;
    return buf;
}

/* Says when the reader is about to wait. */
static sem_t waits;

static inline void on_block(struct pl_call *call_)
{
    sem_post(&waits);
}

#endif
