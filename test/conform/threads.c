/* SPDX-License-Identifier: MIT */
/* Many threads in one directory: whatever the order, some things are always true. */
#include "conform.h"

#include <linux/fs.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 150 };

struct work {
    struct pl_node *d, *e;
    struct pl_file *o;
    pthread_barrier_t barrier;
    atomic_int number, won, stop;
};

static void together(thread_fn *fn, struct work *w)
{
    struct thread *th[THREADS];
    pthread_barrier_init(&w->barrier, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        th[i] = thread_begin(fn, w);
    for (int i = 0; i < THREADS; i++)
        thread_join(th[i]);
    pthread_barrier_destroy(&w->barrier);
}

/* All try the same at once; exactly one may have it. */
static void contest(struct work *w, int r, int lost)
{
    ONE_OF(r, 0, lost);
    if (r == 0)
        atomic_fetch_add(&w->won, 1);
    if (pthread_barrier_wait(&w->barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
        IS(atomic_exchange(&w->won, 0), 1);
    pthread_barrier_wait(&w->barrier);
}

static void one_makes_it(void *arg)
{
    struct work *w = arg;
    for (int i = 0; i < ROUNDS; i++) {
        char name[32];
        snprintf(name, sizeof(name), "f%d", i);
        contest(w, t_create(w->d, name, O_CREAT | O_EXCL | O_RDWR, 0644), -EEXIST);
        contest(w, t_make(w->e, name, S_IFDIR | 0755), -EEXIST);
        contest(w, t_remove(w->d, name, 0), -ENOENT);
        contest(w, t_remove(w->e, name, AT_REMOVEDIR), -ENOENT);
    }
}

CASE(threads, exactly_one_wins)
{
    struct work w = {.d = mk_dir(top, "d"), .e = mk_dir(top, "e")};
    together(one_makes_it, &w);
    struct entries l = entries_of(w.d);
    IS(l.n, 0);
    entries_free(&l);
}

static void one_moves_it(void *arg)
{
    struct work *w = arg;
    int self = atomic_fetch_add(&w->number, 1);
    char mine[32];
    for (int i = 0; i < ROUNDS; i++) {
        if (pthread_barrier_wait(&w->barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
            OK(t_create(w->d, "f", O_CREAT | O_EXCL | O_RDWR, 0644));
        pthread_barrier_wait(&w->barrier);
        snprintf(mine, sizeof(mine), "to%d", self);
        contest(w, t_rename(w->d, "f", w->e, mine, 0), -ENOENT);
        int r = t_remove(w->e, mine, 0);
        ONE_OF(r, 0, -ENOENT);
    }
}

CASE(threads, one_renames_it_away)
{
    struct work w = {.d = mk_dir(top, "d"), .e = mk_dir(top, "e")};
    together(one_moves_it, &w);
    struct entries l = entries_of(w.e);
    IS(l.n, 0);
    entries_free(&l);
}

/* Without a lock, appends of several do not overwrite each other. */
static void append_records(void *arg)
{
    struct work *w = arg;
    int self = atomic_fetch_add(&w->number, 1);
    struct pl_file *o = open_(w->d, O_WRONLY | O_APPEND);
    for (int i = 0; i < ROUNDS; i++) {
        char rec[17];
        snprintf(rec, sizeof(rec), "%03d:%011d\n", self, i);
        write_(o, rec, 16, 0);
    }
}

CASE(threads, appends)
{
    struct work w = {.d = mk_file(top, "f")};
    together(append_records, &w);
    struct pl_file *o = open_(w.d, O_RDONLY);
    int next[THREADS] = {0};
    IS(fattr(o).size, 16 * THREADS * ROUNDS);
    for (int i = 0; i < THREADS * ROUNDS; i++) {
        char rec[17] = "";
        int who, n;
        IS(pl_read(tree, me, o, rec, 16, (uint64_t)i * 16), 16);
        if (sscanf(rec, "%d:%d\n", &who, &n) != 2 || who < 0 || who >= THREADS)
            FAIL("record %d is torn: %.16s", i, rec);
        IS(n, next[who]++); /* each one's in its order */
    }
}

/* A name that is replaced again and again is never missing. */
static void replace_and_look(void *arg)
{
    struct work *w = arg;
    int self = atomic_fetch_add(&w->number, 1);
    char mine[32];
    snprintf(mine, sizeof(mine), "new%d", self);
    for (int i = 0; i < ROUNDS; i++) {
        if (self < THREADS / 2) {
            OK(t_create(w->d, mine, O_CREAT | O_EXCL | O_RDWR, 0644));
            OK(t_rename(w->d, mine, w->d, "f", 0));
        } else {
            for (int k = 0; k < 3; k++)
                OK(t_lookup(w->d, "f"));
        }
    }
}

CASE(threads, replaced_but_never_missing)
{
    struct work w = {.d = mk_dir(top, "d")};
    mk_file(w.d, "f");
    together(replace_and_look, &w);
    struct entries l = entries_of(w.d);
    IS(l.n, 1);
    entries_free(&l);
}

/* Any op on few names: every error is one that the order of events can explain. */
static void anything(void *arg)
{
    struct work *w = arg;
    unsigned seed = 1000 + (unsigned)atomic_fetch_add(&w->number, 1);
    for (int i = 0; i < ROUNDS * 4; i++) {
        char a[16], b[16];
        struct pl_node *d = rnd(&seed, 2) ? w->d : w->e, *e = rnd(&seed, 2) ? w->d : w->e;
        snprintf(a, sizeof(a), "n%u", rnd(&seed, 6));
        snprintf(b, sizeof(b), "n%u", rnd(&seed, 6));
        switch (rnd(&seed, 8)) {
        case 0:
            ONE_OF(t_create(d, a, O_CREAT | O_RDWR, 0644), 0, -EISDIR, -ELOOP, -ENOENT);
            break;
        case 1:
            ONE_OF(t_make(d, a, S_IFDIR | 0755), 0, -EEXIST, -ENOENT); /* made and gone again */
            break;
        case 2:
            ONE_OF(t_remove(d, a, 0), 0, -ENOENT, -EISDIR);
            break;
        case 3:
            ONE_OF(t_remove(d, a, AT_REMOVEDIR), 0, -ENOENT, -ENOTDIR, -ENOTEMPTY);
            break;
        case 4:
            ONE_OF(t_rename(d, a, e, b, 0), 0, -ENOENT, -EISDIR, -ENOTDIR, -ENOTEMPTY, -EEXIST);
            break;
        case 5:
            ONE_OF(t_symlink(d, a, b), 0, -EEXIST, -ENOENT);
            break;
        case 6: {
            struct pl_node *n;
            struct pl_attr at;
            int r = pl_lookup(tree, me, d, a, &n, &at);
            ONE_OF(r, 0, -ENOENT);
            if (r < 0)
                break;
            if (!S_ISDIR(n->fmt))
                ONE_OF(t_link(n, e, b), 0, -EEXIST, -ENOENT);
            ONE_OF(t_chmod(n, 0755), 0, -EOPNOTSUPP, -ENOENT, -ESTALE);
            pl_node_unref(n);
            break;
        }
        case 7: {
            struct entries l = entries_of(d);
            for (size_t k = 0; k < l.n; k++) /* perhaps twice, when it went and came meanwhile */
                TRUE(l.ent[k].name[0] == 'n' && strlen(l.ent[k].name) == 2);
            entries_free(&l);
        }
        }
    }
}

/* What is left is consistent: every listed name is found, with the right type and links. */
static void consistent(struct pl_node *d)
{
    struct entries l = entries_of(d);
    for (size_t i = 0; i < l.n; i++) {
        struct pl_node *n = look(d, l.ent[i].name);
        struct pl_attr a = attr(n);
        IS(l.ent[i].type, (a.mode & S_IFMT) >> 12);
        TRUE(a.nlink >= 1);
        TRUE(same(look(d, l.ent[i].name), n));
        if (S_ISDIR(n->fmt))
            TRUE(same(look(n, ".."), d));
    }
    entries_free(&l);
}

/* An object has as many links as names: nobody else gives names here. */
static void names_and_links(struct pl_node *d, struct pl_node *e)
{
    struct entries l[2] = {entries_of(d), entries_of(e)};
    struct pl_node *dir[2] = {d, e};
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < l[k].n; i++) {
            struct pl_attr a = attr(look(dir[k], l[k].ent[i].name));
            uint64_t names = 0;
            for (int m = 0; m < 2; m++)
                for (size_t j = 0; j < l[m].n; j++)
                    names += attr(look(dir[m], l[m].ent[j].name)).ino == a.ino;
            if (!S_ISDIR(a.mode))
                IS(names, a.nlink);
        }
    }
    entries_free(&l[0]);
    entries_free(&l[1]);
}

CASE(threads, anything_at_once)
{
    struct work w = {.d = mk_dir(top, "d"), .e = mk_dir(top, "e")};
    together(anything, &w);
    consistent(w.d);
    consistent(w.e);
    names_and_links(w.d, w.e);
}

/* Entries that nobody touches are in every reading, once, while others come and go. */
static void churn_and_read(void *arg)
{
    struct work *w = arg;
    int self = atomic_fetch_add(&w->number, 1);
    unsigned seed = 77 + (unsigned)self;
    for (int i = 0; i < ROUNDS / 5; i++) {
        if (self < THREADS / 2) {
            for (int k = 0; k < 30; k++) {
                char name[32];
                snprintf(name, sizeof(name), "churn%d-%u", self, rnd(&seed, 20));
                if (t_create(w->d, name, O_CREAT | O_EXCL | O_RDWR, 0644) == -EEXIST)
                    rm(w->d, name);
            }
            continue;
        }
        struct pl_file *o = open_(w->d, O_RDONLY | O_DIRECTORY);
        struct entries l = entries_read(o, 0, 1 + rnd(&seed, 50), 0);
        int stable = 0;
        for (size_t k = 0; k < l.n; k++)
            stable += !strncmp(l.ent[k].name, "stable", 6);
        IS(stable, 200);
        entries_free(&l);
        close_(o);
    }
}

CASE(threads, reading_while_others_change)
{
    struct work w = {.d = mk_dir(top, "d")};
    for (int i = 0; i < 200; i++) {
        char name[32];
        snprintf(name, sizeof(name), "stable%d", i);
        OK(t_make(w.d, name, S_IFREG | 0644));
    }
    together(churn_and_read, &w);
}

/* Each writes its own stripes of one file. */
static void write_stripes(void *arg)
{
    struct work *w = arg;
    int self = atomic_fetch_add(&w->number, 1);
    char buf[1000];
    memset(buf, 'A' + self, sizeof(buf));
    for (int i = 0; i < ROUNDS; i++)
        write_(w->o, buf, sizeof(buf), (uint64_t)(i * THREADS + self) * sizeof(buf));
}

CASE(threads, stripes)
{
    struct work w = {.o = mk_open(top, "f", O_RDWR, 0644)};
    char buf[1000];
    together(write_stripes, &w);
    IS(fattr(w.o).size, ROUNDS * THREADS * 1000);
    for (int i = 0; i < ROUNDS * THREADS; i++) {
        memset(buf, 'A' + i % THREADS, sizeof(buf));
        holds(w.o, (uint64_t)i * sizeof(buf), buf, sizeof(buf));
    }
}

/* The last reference of one thread against the lookup of another: one node per object, always. */
static void look_and_forget(void *arg)
{
    struct work *w = arg;
    for (int i = 0; i < ROUNDS * 5; i++) {
        struct pl_node *n, *m;
        struct pl_attr a, b;
        OK(pl_lookup(tree, me, w->d, "f", &n, &a));
        OK(pl_lookup(tree, me, w->d, "g", &m, &b));
        TRUE(n == m);
        IS(a.ino, b.ino);
        pl_node_unref(n);
        pl_node_unref(m);
    }
}

CASE(threads, nodes_come_and_go)
{
    struct work w = {.d = mk_dir(top, "d")};
    struct pl_node *f = mk_file(w.d, "f");
    NEED(link, t_link(f, w.d, "g"));
    drop(f);
    together(look_and_forget, &w);
}

/* Open, unlink, use: everybody's own file under one name. */
static void open_and_unlink(void *arg)
{
    struct work *w = arg;
    int self = atomic_fetch_add(&w->number, 1);
    char text[32];
    for (int i = 0; i < ROUNDS; i++) {
        struct pl_node *n;
        struct pl_file *o;
        struct pl_attr a;
        int r = pl_create(tree, me, w->d, "f", O_RDWR | O_CREAT | O_EXCL, 0644, &n, &a, &o);
        ONE_OF(r, 0, -EEXIST);
        if (r < 0)
            continue;
        rm(w->d, "f");
        snprintf(text, sizeof(text), "%d of %d", i, self);
        write_(o, text, strlen(text), 0);
        reads(o, text);
        pl_close(tree, me, o);
        pl_node_unref(n);
    }
}

CASE(threads, open_and_unlink)
{
    struct work w = {.d = mk_dir(top, "d")};
    together(open_and_unlink, &w);
    absent(w.d, "f");
}
