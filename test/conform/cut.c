/* SPDX-License-Identifier: MIT */
/*
 * A client whose connection breaks again and again while it is used: a layer over its tree breaks
 * it off before one op of a few, whatever other threads have under way. The server remembers what
 * it has done; in the older dialects it cannot, and the connection is only broken off when nothing
 * is under way.
 *
 * What no connection survives is spared: a file that has lost its name, or was given another by
 * another client, is not found again. Once there may be one there are no more breaks.
 */
#include "stack.h"

#include "sources/p9.h"
#include <stdlib.h>

#define ONE_IN 6

struct line { /* outlives the layer: the tree beneath goes after it */
    struct line *next;
    struct level *level;
    pthread_mutex_t mutex; /* guards the rest */
    struct p9_conn *conn;  /* NULL while there is none */
    unsigned seed, under_way;
};

struct cut {
    struct pl_tree tree;
    struct line *line;
};

static struct line *lines;
static atomic_uint clients;
static atomic_bool fragile;

static void maybe_break(struct line *c)
{
    pthread_mutex_lock(&c->mutex);
    bool now = rand_r(&c->seed) / 7 % ONE_IN == 0;
    if (c->level->kind != S_CUT && c->under_way)
        now = false;
    c->under_way++;
    if (now && c->conn && !atomic_load(&fragile))
        p9_conn_abort(c->conn);
    pthread_mutex_unlock(&c->mutex);
}

static int before(struct pl_tree *t, struct pl_call *call, const struct pl_event *ev)
{
    struct line *c = ((struct cut *)t)->line;
    maybe_break(c);
    if (ev->op == PL_OP_remove || ev->op == PL_OP_tmpfile || ev->op == PL_OP_rename)
        atomic_store(&fragile, true);
    return 0;
}

static void after(struct pl_tree *t, struct pl_call *call, const struct pl_event *ev,
                  int64_t result)
{
    struct line *c = ((struct cut *)t)->line;
    pthread_mutex_lock(&c->mutex);
    c->under_way--;
    pthread_mutex_unlock(&c->mutex);
}

static void done(struct pl_tree *t) {}

static const struct pl_ops ops = {.name = "cut", .before = before, .after = after, .done = done};

static int again(void *arg, struct pl_call *call, struct p9_conn *old, struct p9_conn **ret,
                 struct pl_err *err)
{
    struct line *c = arg;
    pthread_mutex_lock(&c->mutex);
    c->conn = NULL;
    pthread_mutex_unlock(&c->mutex);
    int r = level_connect(c->level, call, ret, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&c->mutex);
    c->conn = *ret;
    pthread_mutex_unlock(&c->mutex);
    return 0;
}

bool level_is_cut(const struct level *l)
{
    return l->kind == S_CUT || l->kind == S_CUT_P9U || l->kind == S_CUT_P9BASE;
}

int level_cut(struct level *l, struct pl_tree **ret, struct pl_err *err)
{
    struct cut *cut = calloc(1, sizeof(*cut));
    struct line *c = calloc(1, sizeof(*c));
    struct pl_tree *far;
    struct p9_conn *conn;
    if (!cut || !c)
        return pl_fail(err, -ENOMEM, "out of memory");
    c->next = lines;
    lines = c;
    c->level = l;
    c->seed = 1 + atomic_fetch_add(&clients, 1);
    if (c->seed > 1) /* what one renames, the other does not hear of */
        atomic_store(&fragile, true);
    pthread_mutex_init(&c->mutex, NULL);
    int r = level_connect(l, me, &conn, err);
    if (r == 0) {
        c->conn = conn;
        struct pl_p9_opts opts = {.uname = "root", .own = true, .again = again, .again_arg = c};
        r = pl_p9_open(conn, &opts, &far, err);
    }
    if (r < 0) {
        free(cut);
        return r;
    }
    cut->line = c;
    pl_tree_init(&cut->tree, &ops, far);
    *ret = &cut->tree;
    return 0;
}

void level_cut_free(void)
{
    while (lines) {
        struct line *c = lines;
        lines = c->next;
        pthread_mutex_destroy(&c->mutex);
        free(c);
    }
}
