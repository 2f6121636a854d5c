/* SPDX-License-Identifier: MIT */
/* Keys: durable names of nodes, and the nodes again. */
#include "conform.h"

struct key {
    uint8_t byte[PL_KEY_MAX];
    size_t n;
};

static struct key key_of(struct pl_node *node)
{
    struct key k;
    k.n = (size_t)NEED(key, pl_key(tree, me, node, k.byte));
    TRUE(k.n > 0 && k.n <= PL_KEY_MAX);
    return k;
}

static int find(const struct key *k, struct pl_node **ret)
{
    struct pl_attr a;
    int r = pl_find(tree, me, k->byte, k->n, ret, &a);
    if (r == 0)
        IS(a.ino, attr(keep(*ret)).ino);
    return r;
}

CASE(keys, find_the_node)
{
    struct pl_node *n,
        *node[] = {top, mk_dir(top, "d"), mk_file(top, "f"), mk_symlink(top, "l", "x")};
    struct key k[4];
    for (int i = 0; i < 4; i++)
        k[i] = key_of(node[i]);
    for (int i = 0; i < 4; i++) {
        OK(find(&k[i], &n));
        TRUE(same(n, node[i]));
        for (int j = 0; j < i; j++)
            TRUE(k[i].n != k[j].n || memcmp(k[i].byte, k[j].byte, k[i].n));
    }
}

CASE(keys, stay_the_same)
{
    struct pl_node *f = mk_file(top, "f"), *n;
    struct key k = key_of(f), l;
    OK(t_chmod(f, 0600));
    OK(t_rename(top, "f", top, "g", 0));
    l = key_of(look(top, "g"));
    if (l.n != k.n || memcmp(k.byte, l.byte, k.n))
        SKIP(key_moved, "the key changes with the name");
    OK(t_rename(top, "g", mk_dir(top, "d"), "h", 0));
    OK(find(&k, &n));
    TRUE(same(n, f));
}

/* Moved, and then forgotten. */
CASE(keys, of_what_was_moved)
{
    struct pl_node *a = mk_dir(top, "a"), *b = mk_dir(top, "b"), *f = mk_text(a, "f", "text"), *n;
    struct key k = key_of(f);
    OK(t_rename(a, "f", b, "g", 0));
    drop(f);
    drop(b);
    int r = find(&k, &n);
    if (r == -ESTALE)
        SKIP(key_moved, "find: -ESTALE");
    OK(r);
    reads(open_(n, O_RDONLY), "text");
}

CASE(keys, one_per_object)
{
    struct pl_node *f = mk_file(top, "f");
    struct key k = key_of(f), l;
    NEED(link, t_link(f, top, "g"));
    l = key_of(look(top, "g"));
    IS(l.n, k.n);
    IS(memcmp(k.byte, l.byte, k.n), 0);
}

/* With nobody holding the node, in the middle of a tree. */
CASE(keys, find_what_nobody_holds)
{
    struct pl_node *a = mk_dir(top, "a"), *b = mk_dir(a, "b"), *f = mk_text(b, "f", "text"), *n;
    uint64_t ino = attr(f).ino;
    struct key k = key_of(f), kb = key_of(b);
    drop(f);
    drop(b);
    drop(a);
    OK(find(&k, &n));
    IS(attr(n).ino, ino);
    reads(open_(n, O_RDONLY), "text");
    OK(find(&kb, &n));
    content(n, "f", "text");
    TRUE(same(look(n, ".."), look(top, "a")));
}

CASE(keys, of_what_is_gone)
{
    struct pl_node *f = mk_file(top, "f"), *d = mk_dir(top, "d"), *n;
    struct key k = key_of(f), kd = key_of(d);
    rm(top, "f");
    rmdir_(top, "d");
    drop(f);
    drop(d);
    IS(find(&k, &n), -ESTALE);
    IS(find(&kd, &n), -ESTALE);
    mk_file(top, "f"); /* perhaps with the same number */
    IS(find(&k, &n), -ESTALE);
}

CASE(keys, of_nonsense)
{
    struct pl_node *n;
    struct key k = key_of(mk_file(top, "f"));
    unsigned seed = 99;
    for (int i = 0; i < 300; i++) {
        struct key bad = k;
        if (i < 64)
            bad.n = (size_t)i + 1; /* cut or grown */
        else
            bad.byte[rnd(&seed, (unsigned)k.n)] ^= (uint8_t)(1 + rnd(&seed, 255));
        if (i < 64 && bad.n > k.n)
            memset(bad.byte + k.n, i, bad.n - k.n);
        int r = find(&bad, &n); /* whatever it is, it is not a crash or another's file outside */
        if (r < 0)
            ONE_OF(r, -ESTALE, -EINVAL, -ENOENT, -EPERM, -EACCES);
    }
    struct key none = {.n = 0};
    TRUE(find(&none, &n) < 0);
}

CASE(keys, at_another_client)
{
    struct pl_node *f = mk_text(mk_dir(top, "d"), "f", "text"), *n;
    struct key k = key_of(f);
    struct view *v = view_open();
    IN (v) {
        NEED(key, find(&k, &n));
        reads(open_(n, O_RDONLY), "text");
        view_close(v);
    }
}
