/* SPDX-License-Identifier: MIT */
/* Several clients on one tree: what one does, the others see; what one leaves, is cleaned up. */
#include "conform.h"

CASE(clients, see_each_other)
{
    struct view *v = view_open();
    struct pl_node *d = mk_dir(top, "d");
    mk_text(d, "f", "one");
    IN (v) {
        struct pl_node *e = look(top, "d");
        content(e, "f", "one");
        mk_text(e, "g", "two");
        rm(e, "f");
        OK(t_rename(e, "g", e, "h", 0));
    }
    absent(d, "f");
    absent(d, "g");
    content(d, "h", "two");
    struct entries l = entries_of(d);
    IS(l.n, 1);
    entries_free(&l);
}

/* What one has written is there for others at the latest when it says so. */
static void say_it(struct pl_file *file, const char *text)
{
    say(file, 0, text);
    OK(pl_flush(tree, me, file, 0));
}

CASE(clients, content)
{
    struct view *v = view_open();
    struct pl_file *a = mk_open(top, "f", O_RDWR, 0644), *b = NULL;
    char text[32];
    IN (v) {
        b = open_(look(top, "f"), O_RDWR);
    }
    for (int i = 0; i < 50; i++) {
        snprintf(text, sizeof(text), "%d%*s", i, i % 7, "");
        OK(t_truncate(a->node, 0));
        say_it(a, text);
        IN (v) {
            reads(b, text);
            say_it(b, "B");
        }
        holds(a, 0, "B", 1);
    }
}

CASE(clients, unlinked_by_the_other)
{
    struct view *v = view_open();
    struct pl_file *a = mk_open(top, "f", O_RDWR, 0644);
    say(a, 0, "text");
    IN (v) {
        rm(top, "f");
        mk_text(top, "f", "other");
    }
    reads(a, "text");
    say(a, 4, "!");
    reads(a, "text!");
    content(top, "f", "other");
}

CASE(clients, renamed_by_the_other)
{
    struct view *v = view_open();
    struct pl_node *a = mk_dir(top, "a"), *b = mk_dir(a, "b");
    mk_text(b, "f", "text");
    IN (v) {
        OK(t_rename(top, "a", top, "z", 0));
        mk_dir(look(top, "z"), "new");
    }
    content(b, "f", "text"); /* nodes, not paths */
    mk_text(b, "g", "more");
    IN (v) {
        content(look(look(top, "z"), "b"), "g", "more");
    }
    absent(top, "a");
    OK(t_lookup(a, "new"));
}

static int lock_for(struct pl_file *o, uint64_t owner, int type)
{
    struct pl_lock l = {.type = type, .owner = owner, .end = 9, .pid = 1};
    return pl_lock(tree, me, o, &l);
}

/* The same owner number at two clients is two owners, but for a tree in one process. */
CASE(clients, locks)
{
    need_flag(PL_TREE_LOCKS, F_locks);
    struct view *v = view_open();
    struct pl_file *a = mk_open(top, "f", O_RDWR, 0644);
    NEED(locks, lock_for(a, 1, F_WRLCK));
    IN (v) {
        struct pl_file *b = open_(look(top, "f"), O_RDWR);
        IS(lock_for(b, 2, F_WRLCK), -EAGAIN);
    }
    OK(lock_for(a, 1, F_UNLCK));
    IN (v) {
        struct pl_file *b = open_(look(top, "f"), O_RDWR);
        OK(lock_for(b, 2, F_WRLCK));
    }
    IS(lock_for(a, 1, F_RDLCK), -EAGAIN);
}

/* A client that goes away leaves no locks, no open files, nothing. */
CASE(clients, one_goes_away)
{
    need_flag(PL_TREE_LOCKS, F_locks);
    struct pl_file *a = mk_open(top, "f", O_RDWR, 0644);
    for (int i = 0; i < 5; i++) {
        struct view *v = view_open();
        IN (v) {
            struct pl_file *b = open_(look(top, "f"), O_RDWR);
            NEED(locks, lock_for(b, 2, F_WRLCK));
            say(b, 0, "left");
            keep(pl_node_ref(top));
            struct pl_file *d = open_(top, O_RDONLY | O_DIRECTORY);
            struct entries l = entries_read(d, 0, 1, 1);
            entries_free(&l);
        }
        IS(lock_for(a, 1, F_WRLCK), -EAGAIN);
        view_close(v);
        struct pl_lock l = {.type = F_WRLCK, .wait = true, .owner = 1, .end = 9};
        OK(pl_lock(tree, me, a, &l)); /* at once, or a moment later */
        OK(lock_for(a, 1, F_UNLCK));
        reads(a, "left");
    }
}

/* ---- many at once ---------------------------------------------------------------------------- */

enum { CLIENTS = 6 };

struct load {
    struct view *v;
    int number;
};

static void work(void *arg)
{
    struct load *w = arg;
    char name[32], text[64];
    IN (w->v) {
        struct pl_node *d = look(top, "d");
        for (int i = 0; i < 60; i++) {
            snprintf(name, sizeof(name), "c%d-%d", w->number, i);
            snprintf(text, sizeof(text), "client %d, file %d", w->number, i);
            mk_text(d, name, text);
            content(d, name, text);
            if (i % 3 == 0)
                rm(d, name);
            struct pl_file *o = open_(look(d, "log"), O_WRONLY | O_APPEND);
            write_(o, "0123456789abcde\n", 16, 0);
            close_(o);
        }
    }
}

CASE(clients, many)
{
    struct load load[CLIENTS];
    struct thread *th[CLIENTS];
    struct pl_node *d = mk_dir(top, "d"), *log = mk_file(d, "log");
    for (int i = 0; i < CLIENTS; i++) {
        load[i] = (struct load){view_open(), i};
        th[i] = thread_begin(work, &load[i]);
    }
    for (int i = 0; i < CLIENTS; i++)
        thread_join(th[i]);
    struct entries l = entries_of(d);
    IS(l.n, CLIENTS * 40 + 1);
    entries_free(&l);
    IS(attr(log).size, CLIENTS * 60 * 16);
    for (int i = 0; i < CLIENTS; i++)
        view_close(load[i].v);
}
