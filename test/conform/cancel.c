/* SPDX-License-Identifier: MIT */
/* Cancellation and deadlines: an op that waits ends when its call does. */
#include "conform.h"

#include <stdlib.h>

struct waiter {
    struct pl_file *o;
    struct pl_call call;
    bool flock;
    int r;
};

static void wait_for_lock(void *arg)
{
    struct waiter *w = arg;
    struct pl_lock l = {
        .type = F_WRLCK, .flock = w->flock, .wait = true, .owner = 2, .end = PL_OFF_MAX};
    w->r = pl_lock(tree, &w->call, w->o, &l);
}

static int t_lock(struct pl_file *o, uint64_t owner, int type, bool flock)
{
    struct pl_lock l = {.type = type, .flock = flock, .owner = owner, .end = PL_OFF_MAX};
    return pl_lock(tree, me, o, &l);
}

static void cancel_a_lock(bool flock, int delay)
{
    need_flag(PL_TREE_LOCKS, F_locks);
    struct pl_file *a = mk_open(top, "f", O_RDWR, 0644), *b = open_(a->node, O_RDWR);
    struct waiter w = {.o = b, .flock = flock, .r = 1};
    if (flock)
        NEED(flock, t_lock(a, 1, F_WRLCK, true));
    else
        NEED(locks, t_lock(a, 1, F_WRLCK, false));
    pl_call_init_self(&w.call);
    struct thread *th = thread_begin(wait_for_lock, &w);
    for (int i = 0; i < delay; i++)
        tick();
    pl_call_cancel(&w.call);
    thread_join(th);
    IS(w.r, -EINTR);
    pl_call_done(&w.call);
    OK(t_lock(a, 1, F_UNLCK, flock));
    OK(t_lock(a, 3, F_WRLCK, flock)); /* what was cancelled did not take it */
    OK(t_lock(a, 3, F_UNLCK, flock));
    OK(t_lock(b, 2, F_WRLCK, flock)); /* and can have it now */
    OK(t_lock(b, 2, F_UNLCK, flock));
}

CASE(cancel, posix_lock)
{
    cancel_a_lock(false, 3);
}

CASE(cancel, whole_file_lock)
{
    cancel_a_lock(true, 3);
}

CASE(cancel, at_any_moment)
{
    need_flag(PL_TREE_LOCKS, F_locks);
    struct pl_file *a = mk_open(top, "f", O_RDWR, 0644), *b = open_(a->node, O_RDWR);
    unsigned seed = 17;
    NEED(locks, t_lock(a, 1, F_WRLCK, false));
    for (int i = 0; i < 100; i++) {
        struct waiter w = {.o = b, .r = 1};
        pl_call_init_self(&w.call);
        struct thread *th = thread_begin(wait_for_lock, &w);
        nanosleep(&(struct timespec){0, rnd(&seed, 300000)}, NULL);
        pl_call_cancel(&w.call);
        pl_call_cancel(&w.call); /* twice is once */
        thread_join(th);
        IS(w.r, -EINTR);
        pl_call_done(&w.call);
    }
    OK(t_lock(a, 1, F_UNLCK, false));
    OK(t_lock(a, 3, F_WRLCK, false));
}

/* Cancelled as the lock comes free: either it has the lock or it does not. */
CASE(cancel, as_it_succeeds)
{
    need_flag(PL_TREE_LOCKS, F_locks);
    struct pl_file *a = mk_open(top, "f", O_RDWR, 0644), *b = open_(a->node, O_RDWR);
    unsigned seed = 23;
    for (int i = 0; i < 100; i++) {
        struct waiter w = {.o = b, .r = 1};
        NEED(locks, t_lock(a, 1, F_WRLCK, false));
        pl_call_init_self(&w.call);
        struct thread *th = thread_begin(wait_for_lock, &w);
        nanosleep(&(struct timespec){0, rnd(&seed, 200000)}, NULL);
        OK(t_lock(a, 1, F_UNLCK, false));
        pl_call_cancel(&w.call);
        thread_join(th);
        pl_call_done(&w.call);
        ONE_OF(w.r, 0, -EINTR);
        IS(t_lock(a, 1, F_WRLCK, false), w.r == 0 ? -EAGAIN : 0);
        OK(t_lock(w.r == 0 ? b : a, w.r == 0 ? 2 : 1, F_UNLCK, false));
    }
}

CASE(cancel, before_it_begins)
{
    need_flag(PL_TREE_LOCKS, F_locks);
    struct pl_file *a = mk_open(top, "f", O_RDWR, 0644), *b = open_(a->node, O_RDWR);
    struct waiter w = {.o = b, .r = 1};
    NEED(locks, t_lock(a, 1, F_WRLCK, false));
    pl_call_init_self(&w.call);
    pl_call_cancel(&w.call);
    wait_for_lock(&w);
    IS(w.r, -EINTR);
    pl_call_done(&w.call);
}

static int64_t in_ms(int64_t ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec + ms * 1000000;
}

CASE(cancel, by_the_deadline)
{
    need_flag(PL_TREE_LOCKS, F_locks);
    struct pl_file *a = mk_open(top, "f", O_RDWR, 0644), *b = open_(a->node, O_RDWR);
    struct waiter w = {.o = b, .r = 1};
    NEED(locks, t_lock(a, 1, F_WRLCK, false));
    pl_call_init_self(&w.call);
    w.call.deadline = in_ms(30);
    wait_for_lock(&w);
    IS(w.r, -ETIMEDOUT);
    pl_call_done(&w.call);
    OK(t_lock(a, 1, F_UNLCK, false));
    OK(t_lock(a, 3, F_WRLCK, false));
}

/* A layer that waits, over the stack: the op is not done. */
struct slow {
    struct pl_tree *tree;
    struct pl_call call;
    int r;
};

static void make_slowly(void *arg)
{
    struct slow *s = arg;
    struct pl_node *n;
    struct pl_attr a;
    s->r = pl_make(s->tree, &s->call, top, "d", &(struct pl_make){.mode = S_IFDIR | 0755}, &n, &a);
}

CASE(cancel, a_delay)
{
    struct slow s = {.tree = pl_delay_new(3600 * 1000000000LL, pl_tree_ref(tree)), .r = 1};
    TRUE(s.tree);
    pl_call_init_self(&s.call);
    struct thread *th = thread_begin(make_slowly, &s);
    tick();
    pl_call_cancel(&s.call);
    thread_join(th);
    IS(s.r, -EINTR);
    pl_call_done(&s.call);
    pl_tree_unref(s.tree);
    absent(top, "d");
}

/* What does not wait may ignore a cancelled call, but must not be left half done. */
CASE(cancel, what_does_not_wait)
{
    struct pl_call call;
    struct pl_node *n;
    struct pl_attr a;
    pl_call_init_self(&call);
    pl_call_cancel(&call);
    for (int i = 0; i < 50; i++) {
        int r = pl_make(tree, &call, top, "d", &(struct pl_make){.mode = S_IFDIR | 0755}, &n, &a);
        ONE_OF(r, 0, -EINTR);
        if (r == 0)
            pl_node_unref(n);
        r = t_remove(top, "d", AT_REMOVEDIR);
        ONE_OF(r, 0, -ENOENT); /* -EINTR may have come too late to stop it */
    }
    pl_call_done(&call);
    mk_text(top, "f", "still works");
    content(top, "f", "still works");
}
