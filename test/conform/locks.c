/* SPDX-License-Identifier: MIT */
/* Advisory locks: byte ranges of owners, and whole files. */
#include "conform.h"

static struct pl_node *lockable(void)
{
    need_flag(PL_TREE_LOCKS, F_locks);
    return mk_text(top, "f", "text");
}

/* Open for owner `owner`; POSIX locks of owners on one file that have one open file each. */
static int t_lock(struct pl_file *o, uint64_t owner, int type, uint64_t start, uint64_t end)
{
    struct pl_lock l = {.type = type, .owner = owner, .start = start, .end = end, .pid = 100};
    return pl_lock(tree, me, o, &l);
}

static int t_flock(struct pl_file *o, uint64_t owner, int type)
{
    struct pl_lock l = {.type = type, .flock = true, .owner = owner, .end = PL_OFF_MAX};
    return pl_lock(tree, me, o, &l);
}

/* What is in the way of a lock of that type: the result is its type; start and end are compared. */
static void in_the_way(struct pl_file *o, uint64_t owner, int type, uint64_t start, uint64_t end,
                       int want_type, uint64_t want_start, uint64_t want_end)
{
    struct pl_lock l = {.type = type, .owner = owner, .start = start, .end = end};
    OK(pl_getlock(tree, me, o, &l));
    IS(l.type, want_type);
    if (want_type != F_UNLCK) {
        IS(l.start, want_start);
        IS(l.end, want_end);
    }
}

CASE(locks, readers_and_writers)
{
    struct pl_node *f = lockable();
    struct pl_file *a = open_(f, O_RDWR), *b = open_(f, O_RDWR);
    NEED(locks, t_lock(a, 1, F_RDLCK, 0, 9));
    OK(t_lock(b, 2, F_RDLCK, 5, 14));
    IS(t_lock(b, 2, F_WRLCK, 0, 4), -EAGAIN);
    IS(t_lock(a, 1, F_WRLCK, 9, 20), -EAGAIN);
    OK(t_lock(b, 2, F_WRLCK, 10, 14));
    IS(t_lock(a, 1, F_RDLCK, 14, 14), -EAGAIN);
    OK(t_lock(a, 1, F_RDLCK, 15, 15));
    OK(t_lock(b, 2, F_UNLCK, 0, PL_OFF_MAX));
    OK(t_lock(a, 1, F_WRLCK, 0, PL_OFF_MAX));
    IS(t_lock(b, 2, F_RDLCK, 1ull << 40, 1ull << 41), -EAGAIN);
}

CASE(locks, what_is_in_the_way)
{
    struct pl_node *f = lockable();
    struct pl_file *a = open_(f, O_RDWR), *b = open_(f, O_RDWR);
    in_the_way(b, 2, F_WRLCK, 0, PL_OFF_MAX, F_UNLCK, 0, 0);
    NEED(locks, t_lock(a, 1, F_WRLCK, 10, 19));
    in_the_way(b, 2, F_RDLCK, 0, PL_OFF_MAX, F_WRLCK, 10, 19);
    in_the_way(b, 2, F_RDLCK, 19, 19, F_WRLCK, 10, 19);
    in_the_way(b, 2, F_WRLCK, 20, 30, F_UNLCK, 0, 0);
    in_the_way(b, 2, F_WRLCK, 0, 9, F_UNLCK, 0, 0);
    in_the_way(a, 1, F_WRLCK, 0, PL_OFF_MAX, F_UNLCK, 0, 0); /* not one's own */
    OK(t_lock(a, 1, F_RDLCK, 10, 19));
    in_the_way(b, 2, F_RDLCK, 0, PL_OFF_MAX, F_UNLCK, 0, 0);
    in_the_way(b, 2, F_WRLCK, 0, PL_OFF_MAX, F_RDLCK, 10, 19);
}

CASE(locks, to_the_end_of_the_file)
{
    struct pl_node *f = lockable();
    struct pl_file *a = open_(f, O_RDWR), *b = open_(f, O_RDWR);
    NEED(locks, t_lock(a, 1, F_WRLCK, 100, PL_OFF_MAX));
    in_the_way(b, 2, F_RDLCK, 0, PL_OFF_MAX, F_WRLCK, 100, PL_OFF_MAX);
    OK(t_truncate(f, 1 << 20));
    IS(t_lock(b, 2, F_RDLCK, 1 << 21, 1 << 21), -EAGAIN);
    OK(t_lock(a, 1, F_UNLCK, 200, PL_OFF_MAX));
    in_the_way(b, 2, F_RDLCK, 0, PL_OFF_MAX, F_WRLCK, 100, 199);
}

CASE(locks, split)
{
    struct pl_node *f = lockable();
    struct pl_file *a = open_(f, O_RDWR), *b = open_(f, O_RDWR);
    NEED(locks, t_lock(a, 1, F_WRLCK, 0, 99));
    OK(t_lock(a, 1, F_UNLCK, 40, 59));
    in_the_way(b, 2, F_WRLCK, 0, 50, F_WRLCK, 0, 39);
    in_the_way(b, 2, F_WRLCK, 50, 99, F_WRLCK, 60, 99);
    in_the_way(b, 2, F_WRLCK, 40, 59, F_UNLCK, 0, 0);
    OK(t_lock(a, 1, F_RDLCK, 70, 79)); /* a downgrade in the middle */
    in_the_way(b, 2, F_RDLCK, 60, 79, F_WRLCK, 60, 69);
    in_the_way(b, 2, F_RDLCK, 70, 90, F_WRLCK, 80, 99);
    in_the_way(b, 2, F_WRLCK, 70, 79, F_RDLCK, 70, 79);
}

CASE(locks, merge)
{
    struct pl_node *f = lockable();
    struct pl_file *a = open_(f, O_RDWR), *b = open_(f, O_RDWR);
    NEED(locks, t_lock(a, 1, F_WRLCK, 0, 9));
    OK(t_lock(a, 1, F_WRLCK, 20, 29));
    in_the_way(b, 2, F_WRLCK, 0, 5, F_WRLCK, 0, 9);
    OK(t_lock(a, 1, F_WRLCK, 10, 19));
    in_the_way(b, 2, F_WRLCK, 0, 5, F_WRLCK, 0, 29);
    OK(t_lock(a, 1, F_WRLCK, 25, 49)); /* overlapping */
    in_the_way(b, 2, F_WRLCK, 0, 5, F_WRLCK, 0, 49);
    OK(t_lock(a, 1, F_RDLCK, 0, 49));
    in_the_way(b, 2, F_WRLCK, 0, 99, F_RDLCK, 0, 49);
    OK(t_lock(a, 1, F_UNLCK, 0, 49));
    in_the_way(b, 2, F_WRLCK, 0, 99, F_UNLCK, 0, 0);
}

CASE(locks, upgrade)
{
    struct pl_node *f = lockable();
    struct pl_file *a = open_(f, O_RDWR), *b = open_(f, O_RDWR);
    NEED(locks, t_lock(a, 1, F_RDLCK, 0, 9));
    OK(t_lock(b, 2, F_RDLCK, 0, 9));
    IS(t_lock(a, 1, F_WRLCK, 0, 9), -EAGAIN);
    in_the_way(b, 2, F_WRLCK, 0, 9, F_RDLCK, 0, 9); /* what failed took nothing away */
    OK(t_lock(b, 2, F_UNLCK, 0, 9));
    OK(t_lock(a, 1, F_WRLCK, 0, 9));
    in_the_way(b, 2, F_RDLCK, 0, 9, F_WRLCK, 0, 9);
}

/* Against a table of bytes: which owner has which type where. */
CASE(locks, against_a_model)
{
    enum { BYTES = 24 };
    struct pl_node *f = lockable();
    struct pl_file *o[3] = {open_(f, O_RDWR), open_(f, O_RDWR), open_(f, O_RDWR)};
    unsigned char has[3][BYTES] = {{0}}; /* 0 nothing, 1 read, 2 write */
    unsigned seed = 42;
    NEED(locks, t_lock(o[0], 1, F_UNLCK, 0, 0));
    for (int i = 0; i < 1500; i++) {
        unsigned w = rnd(&seed, 3), s = rnd(&seed, BYTES), e = s + rnd(&seed, BYTES - s);
        unsigned char want = (unsigned char)rnd(&seed, 3);
        bool free = true;
        for (unsigned k = 0; k < 3; k++)
            for (unsigned b = s; b <= e && k != w; b++)
                free &= !want || !has[k][b] || (want == 1 && has[k][b] == 1);
        static const int type[] = {F_UNLCK, F_RDLCK, F_WRLCK};
        int r = t_lock(o[w], w + 1, type[want], s, e);
        if (r != (free ? 0 : -EAGAIN))
            FAIL("step %d: owner %u, type %u, %u-%u: %d", i, w + 1, want, s, e, r);
        if (free)
            memset(&has[w][s], want, e - s + 1);
    }
}

CASE(locks, one_owner_never_conflicts)
{
    struct pl_node *f = lockable();
    struct pl_file *a = open_(f, O_RDWR);
    NEED(locks, t_lock(a, 1, F_WRLCK, 0, 9));
    OK(t_lock(a, 1, F_RDLCK, 5, 20));
    OK(t_lock(a, 1, F_WRLCK, 0, PL_OFF_MAX));
}

CASE(locks, errors)
{
    struct pl_node *f = lockable();
    struct pl_file *r = open_(f, O_RDONLY), *w = open_(f, O_WRONLY);
    NEED(locks, t_lock(r, 1, F_RDLCK, 0, 9));
    IS(t_lock(r, 1, F_WRLCK, 0, 9), -EBADF);
    IS(t_lock(w, 1, F_RDLCK, 0, 9), -EBADF);
    IS(t_lock(r, 1, 77, 0, 9), -EINVAL);
    IS(t_lock(r, 1, F_RDLCK, 9, 8), -EINVAL);
}

/* close(2), for one owner. */
CASE(locks, flush_drops_them)
{
    struct pl_node *f = lockable();
    struct pl_file *a = open_(f, O_RDWR), *b = open_(f, O_RDWR);
    NEED(locks, t_lock(a, 1, F_WRLCK, 0, 9));
    OK(t_lock(a, 1, F_WRLCK, 100, 109));
    IS(t_lock(b, 2, F_WRLCK, 5, 5), -EAGAIN);
    OK(pl_flush(tree, me, a, 1));
    OK(t_lock(b, 2, F_WRLCK, 0, PL_OFF_MAX));
}

CASE(locks, flush_of_another_owner)
{
    struct pl_node *f = lockable();
    struct pl_file *a = open_(f, O_RDWR), *b = open_(f, O_RDWR);
    NEED(locks, t_lock(a, 1, F_WRLCK, 0, 9));
    OK(pl_flush(tree, me, b, 2));
    IS(t_lock(b, 2, F_WRLCK, 5, 5), -EAGAIN);
}

CASE(locks, close_leaves_nothing)
{
    struct pl_node *f = lockable();
    struct pl_file *a = open_(f, O_RDWR), *b = open_(f, O_RDWR), *c = open_(f, O_RDWR);
    NEED(locks, t_lock(a, 1, F_WRLCK, 0, 9));
    NEED(flock, t_flock(c, 77, F_WRLCK));
    OK(pl_flush(tree, me, a, 1));
    close_(a);
    close_(c);
    OK(t_lock(b, 2, F_WRLCK, 0, PL_OFF_MAX));
    /* Waits: a kernel may tell its server of the last close when it likes, but tells it. */
    struct pl_lock l = {
        .type = F_WRLCK, .flock = true, .wait = true, .owner = 78, .end = PL_OFF_MAX};
    OK(pl_lock(tree, me, b, &l));
}

/* A client's close, for which nobody waits, may come after its flush and its next lock. */
CASE(locks, a_late_close_drops_no_new_lock)
{
    struct pl_node *f = lockable();
    struct pl_file *a = open_(f, O_RDWR), *next = open_(f, O_RDWR), *b = open_(f, O_RDWR);
    NEED(locks, t_lock(a, 1, F_WRLCK, 0, PL_OFF_MAX));
    OK(pl_flush(tree, me, a, 1));
    OK(t_lock(next, 1, F_WRLCK, 0, PL_OFF_MAX));
    close_(a);
    IS(t_lock(b, 2, F_WRLCK, 0, 0), -EAGAIN);
    close_(next);
    OK(t_lock(b, 2, F_WRLCK, 0, 0));
}

CASE(locks, of_two_names)
{
    struct pl_node *f = lockable();
    NEED(link, t_link(f, top, "g"));
    struct pl_file *a = open_(f, O_RDWR), *b = open_(look(top, "g"), O_RDWR);
    NEED(locks, t_lock(a, 1, F_WRLCK, 0, 9));
    IS(t_lock(b, 2, F_WRLCK, 0, 9), -EAGAIN);
    rm(top, "f");
    rm(top, "g");
    IS(t_lock(b, 2, F_WRLCK, 0, 9), -EAGAIN);
    OK(t_lock(a, 1, F_UNLCK, 0, 9));
    OK(t_lock(b, 2, F_WRLCK, 0, 9));
}

CASE(locks, whole_file)
{
    struct pl_node *f = lockable();
    struct pl_file *a = open_(f, O_RDONLY), *b = open_(f, O_RDWR), *c = open_(f, O_RDONLY);
    NEED(flock, t_flock(a, 11, F_RDLCK));
    OK(t_flock(b, 12, F_RDLCK));
    IS(t_flock(c, 13, F_WRLCK), -EAGAIN);
    OK(t_flock(a, 11, F_UNLCK));
    IS(t_flock(c, 13, F_WRLCK), -EAGAIN);
    OK(t_flock(b, 12, F_UNLCK));
    OK(t_flock(c, 13, F_WRLCK)); /* however it was opened */
    IS(t_flock(a, 11, F_RDLCK), -EAGAIN);
    OK(t_flock(c, 13, F_RDLCK));
    OK(t_flock(a, 11, F_RDLCK));
}

CASE(locks, two_kinds_do_not_meet)
{
    struct pl_node *f = lockable();
    struct pl_file *a = open_(f, O_RDWR), *b = open_(f, O_RDWR);
    NEED(flock, t_flock(a, 11, F_WRLCK));
    NEED(locks, t_lock(b, 2, F_WRLCK, 0, PL_OFF_MAX));
    IS(t_flock(b, 12, F_RDLCK), -EAGAIN);
    IS(t_lock(a, 1, F_RDLCK, 0, 0), -EAGAIN);
}

/* ---- waiting --------------------------------------------------------------------------------- */

struct waiter {
    struct pl_file *o;
    uint64_t owner;
    bool flock;
    int r;
    atomic_int done;
};

static void wait_for_lock(void *arg)
{
    struct waiter *w = arg;
    struct pl_lock l = {.type = F_WRLCK,
                        .flock = w->flock,
                        .wait = true,
                        .owner = w->owner,
                        .end = w->flock ? PL_OFF_MAX : 9};
    w->r = pl_lock(tree, me, w->o, &l);
    atomic_store(&w->done, 1);
}

static void wait_until_free(bool flock)
{
    struct pl_node *f = lockable();
    struct pl_file *a = open_(f, O_RDWR), *b = open_(f, O_RDWR);
    struct waiter w = {b, 2, flock, 1, 0};
    if (flock)
        NEED(flock, t_flock(a, 1, F_WRLCK));
    else
        NEED(locks, t_lock(a, 1, F_WRLCK, 0, 9));
    struct thread *th = thread_begin(wait_for_lock, &w);
    tick();
    tick();
    IS(atomic_load(&w.done), 0); /* cannot be: it is ours */
    OK(flock ? t_flock(a, 1, F_UNLCK) : t_lock(a, 1, F_UNLCK, 0, 9));
    thread_join(th);
    OK(w.r);
    IS(flock ? t_flock(a, 1, F_RDLCK) : t_lock(a, 1, F_RDLCK, 9, 9), -EAGAIN);
}

CASE(locks, wait)
{
    wait_until_free(false);
}

CASE(locks, wait_for_the_whole_file)
{
    wait_until_free(true);
}

CASE(locks, wait_for_a_close)
{
    struct pl_node *f = lockable();
    struct pl_file *a = open_(f, O_RDWR), *b = open_(f, O_RDWR);
    struct waiter w = {b, 2, false, 1, 0};
    NEED(locks, t_lock(a, 1, F_WRLCK, 0, 9));
    struct thread *th = thread_begin(wait_for_lock, &w);
    tick();
    OK(pl_flush(tree, me, a, 1));
    close_(a);
    thread_join(th);
    OK(w.r);
}

/* Many want one lock: one after the other has it. */
struct turns {
    struct pl_node *node;
    atomic_int inside, next_owner;
    int count; /* guarded by the lock under test */
};

static void take_turns(void *arg)
{
    struct turns *t = arg;
    struct pl_file *o = open_(t->node, O_RDWR);
    uint64_t owner = (uint64_t)atomic_fetch_add(&t->next_owner, 1);
    for (int i = 0; i < 50; i++) {
        struct pl_lock l = {.type = F_WRLCK, .wait = true, .owner = owner, .start = 3, .end = 5};
        NEED(locks, pl_lock(tree, me, o, &l));
        IS(atomic_fetch_add(&t->inside, 1), 0);
        IS(atomic_fetch_sub(&t->inside, 1), 1);
        OK(t_lock(o, owner, F_UNLCK, 0, PL_OFF_MAX));
        atomic_fetch_add(&t->next_owner, 0);
    }
}

CASE(locks, one_at_a_time)
{
    struct turns t = {.node = lockable()};
    struct thread *th[4];
    atomic_init(&t.next_owner, 1);
    for (int i = 0; i < 4; i++)
        th[i] = thread_begin(take_turns, &t);
    for (int i = 0; i < 4; i++)
        thread_join(th[i]);
}
