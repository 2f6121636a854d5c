/* SPDX-License-Identifier: MIT */
#include "cmd/count.h"
#include <errno.h>
#include <plenum/call.h>
#include <time.h>

#define MAX_DEPTH 2048 /* as walk_down's */

static bool stopped(struct count *c)
{
    return atomic_load(&c->stopped) || walk_interrupted();
}

static void add(struct count *c, const struct pl_attr *a)
{
    uint64_t held = a->blocks * 512, bytes = S_ISREG(a->mode) ? a->size : 0;
    /* Holes are not copied, and another name of a file is a link. */
    bytes = held && held < bytes ? held : bytes;
    atomic_fetch_add(&c->progress->total_bytes, a->nlink > 1 ? bytes / a->nlink : bytes);
    atomic_fetch_add(&c->progress->total_files, 1);
}

/* What cannot be looked at is told by the copying. */
static void below(struct count *c, struct pl_node *dir, unsigned depth)
{
    struct walk *w = &c->walk;
    struct walk_list names;
    if (depth > MAX_DEPTH || walk_list(w, dir, &names) < 0)
        return;
    for (size_t i = 0; i < names.n && !stopped(c); i++) {
        struct pl_node *node;
        struct pl_attr a;
        if (pl_lookup(w->tree, &w->call, dir, names.v[i].name, &node, &a) < 0)
            continue;
        if (S_ISDIR(node->fmt))
            below(c, node, depth + 1);
        else
            add(c, &a);
        pl_node_unref(node);
    }
    walk_list_free(&names);
}

/* What is quick needs no totals, and should not pay for them. */
static bool takes_long(struct count *c)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += PROGRESS_NS;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    int r;
    while ((r = sem_clockwait(&c->stop, CLOCK_MONOTONIC, &t)) < 0 && errno == EINTR)
        ;
    return r < 0;
}

static void *run(void *arg)
{
    struct count *c = arg;
    if (!takes_long(c))
        return NULL;
    for (size_t i = 0; i < c->n && !stopped(c); i++) {
        struct pl_node *node;
        struct pl_attr a;
        if (walk_path(&c->walk, c->paths[i], false, &node, &a) < 0)
            continue;
        if (S_ISDIR(node->fmt))
            below(c, node, 0);
        else
            add(c, &a);
        pl_node_unref(node);
    }
    if (!stopped(c))
        atomic_store(&c->progress->counted, true);
    return NULL;
}

void count_start(struct count *c, const struct walk *src, char *const *paths, size_t n,
                 struct progress *progress)
{
    *c = (struct count){.walk = {.cmd = src->cmd, .tree = src->tree, .root = src->root},
                        .paths = paths,
                        .n = n,
                        .progress = progress};
    if (!progress->wanted)
        return;
    atomic_store(&progress->counted, false);
    sem_init(&c->stop, 0, 0);
    pl_call_init_self(&c->walk.call);
    walk_call_begin(&c->walk.call);
    c->up = pthread_create(&c->thread, NULL, run, c) == 0;
    if (!c->up)
        walk_call_end(&c->walk.call);
}

void count_stop(struct count *c)
{
    if (!c->up)
        return;
    atomic_store(&c->stopped, true);
    sem_post(&c->stop);
    pl_call_cancel(&c->walk.call);
    pthread_join(c->thread, NULL);
    walk_call_end(&c->walk.call);
    pl_call_done(&c->walk.call);
    sem_destroy(&c->stop);
}
