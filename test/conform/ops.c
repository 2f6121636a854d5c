/* SPDX-License-Identifier: MIT */
/* The ops of the tree in the name of `me`, shortened for cases. */
#include "conform.h"

#include <assert.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- raw results ----------------------------------------------------------------------------- */

static int make_(struct pl_node *dir, const char *name, const struct pl_make *m,
                 struct pl_node **ret)
{
    struct pl_node *node;
    struct pl_attr a;
    int r = pl_make(tree, me, dir, name, m, &node, &a);
    if (r < 0)
        return r;
    if (node->fmt != (a.mode & S_IFMT))
        FAIL("%s: the node says type %o, its attributes %o", name, node->fmt, a.mode & S_IFMT);
    if (ret)
        *ret = node;
    else
        pl_node_unref(node);
    return 0;
}

int t_make(struct pl_node *dir, const char *name, uint32_t mode)
{
    return make_(dir, name, &(struct pl_make){.mode = mode}, NULL);
}

int t_mknod(struct pl_node *dir, const char *name, uint32_t mode, unsigned major, unsigned minor)
{
    return make_(dir, name, &(struct pl_make){mode, major, minor, NULL}, NULL);
}

int t_symlink(struct pl_node *dir, const char *name, const char *target)
{
    return make_(dir, name, &(struct pl_make){.mode = S_IFLNK | 0777, .target = target}, NULL);
}

int t_create(struct pl_node *dir, const char *name, int flags, mode_t mode)
{
    struct pl_node *node;
    struct pl_file *file;
    struct pl_attr a;
    int r = pl_create(tree, me, dir, name, flags, mode, &node, &a, &file);
    if (r < 0)
        return r;
    pl_flush(tree, me, file, 0);
    pl_close(tree, me, file);
    pl_node_unref(node);
    return 0;
}

int t_lookup(struct pl_node *dir, const char *name)
{
    struct pl_node *node;
    struct pl_attr a;
    int r = pl_lookup(tree, me, dir, name, &node, &a);
    if (r == 0)
        pl_node_unref(node);
    return r;
}

int t_open(struct pl_node *node, int flags)
{
    struct pl_file *file;
    int r = pl_open(tree, me, node, flags, &file);
    if (r < 0)
        return r;
    pl_flush(tree, me, file, 0);
    pl_close(tree, me, file);
    return 0;
}

int t_link(struct pl_node *node, struct pl_node *dir, const char *name)
{
    struct pl_attr a;
    return pl_link(tree, me, node, dir, name, &a);
}

int t_remove(struct pl_node *dir, const char *name, int flags)
{
    return pl_remove(tree, me, dir, name, flags);
}

int t_rename(struct pl_node *od, const char *on, struct pl_node *nd, const char *nn, unsigned fl)
{
    return pl_rename(tree, me, od, on, nd, nn, fl);
}

int t_chmod(struct pl_node *node, uint32_t mode)
{
    struct pl_attr a;
    return pl_setattr(tree, me, node, NULL, &(struct pl_setattr){PL_SET_MODE, .mode = mode}, &a);
}

int t_chown(struct pl_node *node, int64_t uid, int64_t gid)
{
    struct pl_attr a;
    struct pl_setattr s = {.uid = (uint32_t)uid, .gid = (uint32_t)gid};
    s.valid = (uid < 0 ? 0 : PL_SET_UID) | (gid < 0 ? 0 : PL_SET_GID);
    return pl_setattr(tree, me, node, NULL, &s, &a);
}

int t_truncate(struct pl_node *node, uint64_t size)
{
    struct pl_attr a;
    return pl_setattr(tree, me, node, NULL, &(struct pl_setattr){PL_SET_SIZE, .size = size}, &a);
}

int t_utimens(struct pl_node *node, int64_t atime, int64_t mtime)
{
    struct pl_attr a;
    struct pl_setattr s = {PL_SET_ATIME | PL_SET_MTIME, .atime = {atime, 0}, .mtime = {mtime, 0}};
    return pl_setattr(tree, me, node, NULL, &s, &a);
}

int t_access(struct pl_node *node, int mask)
{
    return pl_access(tree, me, node, mask);
}

/* ---- what must work -------------------------------------------------------------------------- */

struct pl_file *mk_open(struct pl_node *dir, const char *name, int flags, mode_t mode)
{
    struct pl_node *node;
    struct pl_file *file;
    struct pl_attr a;
    OK(pl_create(tree, me, dir, name, flags | O_CREAT, mode, &node, &a, &file));
    TRUE(file->node == node);
    TRUE(S_ISREG(a.mode));
    pl_node_unref(node); /* the file holds it */
    return keep_file(file);
}

struct pl_node *mk_file(struct pl_node *dir, const char *name)
{
    return mk_text(dir, name, "");
}

struct pl_node *mk_text(struct pl_node *dir, const char *name, const char *text)
{
    struct pl_file *f = mk_open(dir, name, O_WRONLY | O_EXCL, 0644);
    struct pl_node *node = keep(pl_node_ref(f->node));
    if (*text)
        say(f, 0, text);
    close_(f);
    return node;
}

struct pl_node *mk_mode(struct pl_node *dir, const char *name, uint32_t mode)
{
    struct pl_node *node;
    OK(make_(dir, name, &(struct pl_make){.mode = mode}, &node));
    return keep(node);
}

struct pl_node *mk_dir(struct pl_node *dir, const char *name)
{
    return mk_mode(dir, name, S_IFDIR | 0755);
}

struct pl_node *mk_symlink(struct pl_node *dir, const char *name, const char *target)
{
    struct pl_node *node;
    OK(make_(dir, name, &(struct pl_make){.mode = S_IFLNK | 0777, .target = target}, &node));
    return keep(node);
}

struct pl_node *look(struct pl_node *dir, const char *name)
{
    struct pl_node *node;
    struct pl_attr a;
    int r = pl_lookup(tree, me, dir, name, &node, &a);
    if (r < 0)
        FAIL("lookup of %.64s: -%s", name, strerrorname_np(-r));
    return keep(node);
}

struct pl_attr attr(struct pl_node *node)
{
    struct pl_attr a;
    memset(&a, 0xee, sizeof(a));
    OK(pl_getattr(tree, me, node, NULL, &a));
    TRUE(a.ino != 0);
    IS(a.mode & S_IFMT, node->fmt);
    return a;
}

struct pl_attr fattr(struct pl_file *file)
{
    struct pl_attr a;
    OK(pl_getattr(tree, me, file->node, file, &a));
    return a;
}

struct pl_file *open_(struct pl_node *node, int flags)
{
    struct pl_file *file;
    OK(pl_open(tree, me, node, flags, &file));
    return keep_file(file);
}

void write_(struct pl_file *file, const void *buf, size_t n, uint64_t off)
{
    IS(pl_write(tree, me, file, buf, n, off), n);
}

void say(struct pl_file *file, uint64_t off, const char *text)
{
    write_(file, text, strlen(text), off);
}

void holds(struct pl_file *file, uint64_t off, const void *want, size_t n)
{
    char *buf = malloc(n ? n : 1);
    assert(buf);
    memset(buf, 0x55, n);
    IS(pl_read(tree, me, file, buf, n, off), n);
    for (size_t i = 0; i < n; i++)
        if (buf[i] != ((const char *)want)[i])
            FAIL("byte %llu is %02x, should be %02x", (unsigned long long)(off + i),
                 (unsigned char)buf[i], ((const unsigned char *)want)[i]);
    free(buf);
}

void zeroes(struct pl_file *file, uint64_t off, uint64_t n)
{
    static const char zero[65536];
    for (size_t part; n; n -= part, off += part) {
        part = n < sizeof(zero) ? n : sizeof(zero);
        holds(file, off, zero, part);
    }
}

void reads(struct pl_file *file, const char *text)
{
    char end;
    size_t n = strlen(text);
    IS(fattr(file).size, n);
    holds(file, 0, text, n);
    IS(pl_read(tree, me, file, &end, 1, n), 0);
}

void content(struct pl_node *dir, const char *name, const char *text)
{
    struct pl_node *node = look(dir, name);
    struct pl_file *f = open_(node, O_RDONLY);
    reads(f, text);
    close_(f);
    drop(node);
}

void absent(struct pl_node *dir, const char *name)
{
    int r = t_lookup(dir, name);
    if (r != -ENOENT)
        FAIL("%.64s is there (%d), should not", name, r);
}

void rm(struct pl_node *dir, const char *name)
{
    OK(pl_remove(tree, me, dir, name, 0));
}

void rmdir_(struct pl_node *dir, const char *name)
{
    OK(pl_remove(tree, me, dir, name, AT_REMOVEDIR));
}

bool same(struct pl_node *a, struct pl_node *b)
{
    bool ino = attr(a).ino == attr(b).ino;
    if (ino != (a == b))
        FAIL("%s numbers, but %s nodes", ino ? "equal" : "different", ino ? "two" : "the same");
    return ino;
}

/* ---- directories ----------------------------------------------------------------------------- */

struct taker {
    struct entries *l;
    size_t room; /* entries that this call may still take; dots count */
    uint64_t next;
    bool full;
};

static int take(void *arg, const struct pl_dirent *e)
{
    struct taker *t = arg;
    struct entries *l = t->l;
    if (!t->room) {
        t->full = true;
        return 1;
    }
    t->room--;
    if (!e->next || e->next > PL_OFF_MAX)
        FAIL("position %llu after %.64s", (unsigned long long)e->next, e->name);
    t->next = e->next;
    if (!(l->n & (l->n - 1))) {
        l->ent = realloc(l->ent, (l->n ? l->n * 2 : 1) * sizeof(*l->ent));
        assert(l->ent);
    }
    l->ent[l->n].name = strdup(e->name);
    l->ent[l->n].ino = e->ino;
    l->ent[l->n].next = e->next;
    l->ent[l->n++].type = e->type;
    return 0;
}

static bool is_dots(const char *name)
{
    return !strcmp(name, ".") || !strcmp(name, "..");
}

struct entries entries_read(struct pl_file *dir, uint64_t off, size_t batch, size_t max)
{
    struct entries l = {0};
    struct taker t = {.l = &l, .next = off};
    do {
        t.full = false;
        size_t left = max ? max - l.n : SIZE_MAX;
        t.room = batch && batch < left ? batch : left;
        OK(pl_readdir(tree, me, dir, t.next, take, &t));
    } while ((t.full || (batch && !t.room)) && (!max || l.n < max));
    return l;
}

static void drop_dots(struct entries *l)
{
    size_t n = 0;
    for (size_t i = 0; i < l->n; i++) {
        if (is_dots(l->ent[i].name))
            free(l->ent[i].name);
        else
            l->ent[n++] = l->ent[i];
    }
    l->n = n;
}

struct entries entries_of(struct pl_node *dir)
{
    struct pl_file *f = open_(dir, O_RDONLY | O_DIRECTORY);
    struct entries l = entries_read(f, 0, 0, 0);
    close_(f);
    drop_dots(&l);
    return l;
}

void entries_free(struct entries *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->ent[i].name);
    free(l->ent);
    *l = (struct entries){0};
}

size_t entries_count(const struct entries *l, const char *name)
{
    size_t n = 0;
    for (size_t i = 0; i < l->n; i++)
        n += !strcmp(l->ent[i].name, name);
    return n;
}
