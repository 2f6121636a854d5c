/* SPDX-License-Identifier: MIT */
/*
 * Listings. The names of all layers are read when a listing begins, and given in the order of a
 * hash of the name, which is also the position: so a listing goes on where it was in any later one,
 * of another open or another server, and meets each name that stays exactly once.
 */
#include "tree/space.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

struct name {
    uint64_t pos, ino;
    uint32_t type;
    int layer;     /* where it is from; -1: a binding */
    bool again;    /* it is in a layer behind too */
    uint32_t next; /* in the chain, +1 */
    uint32_t text; /* in `texts` */
};

struct space_list {
    struct name *name;
    size_t n, room;
    char *texts;
    size_t used, size;
    uint32_t *chain; /* by the position, a power of two */
    size_t mask;
};

void space_list_free(struct space_list *l)
{
    if (!l)
        return;
    free(l->name);
    free(l->texts);
    free(l->chain);
    free(l);
}

/* Positions 1 and 2 are those after "." and "..". */
static uint64_t pos_of(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 0x100000001b3u;
    h ^= h >> 29;
    return (h & (((uint64_t)1 << 62) - 1)) | 1024;
}

static struct name *find(const struct space_list *l, const char *text, uint64_t pos)
{
    if (!l->chain)
        return NULL;
    for (uint32_t i = l->chain[pos >> 10 & l->mask]; i; i = l->name[i - 1].next)
        if (l->name[i - 1].pos == pos && !strcmp(l->texts + l->name[i - 1].text, text))
            return &l->name[i - 1];
    return NULL;
}

static bool grow(struct space_list *l)
{
    size_t room = l->room ? l->room * 2 : 64;
    struct name *name = realloc(l->name, room * sizeof(*name));
    if (!name)
        return false;
    l->name = name;
    uint32_t *chain = calloc(room, sizeof(*chain));
    if (!chain)
        return false;
    free(l->chain);
    l->chain = chain;
    l->room = room;
    l->mask = room - 1;
    for (size_t i = 0; i < l->n; i++) {
        uint32_t *to = &chain[name[i].pos >> 10 & l->mask];
        name[i].next = *to;
        *to = (uint32_t)i + 1;
    }
    return true;
}

static struct name *add(struct space_list *l, const char *text, uint64_t pos)
{
    size_t len = strlen(text) + 1;
    if (l->n == l->room && !grow(l))
        return NULL;
    if (l->used + len > l->size) {
        size_t size = (l->used + len) * 2 + 1024;
        char *more = realloc(l->texts, size);
        if (!more || size > UINT32_MAX)
            return NULL;
        l->texts = more;
        l->size = size;
    }
    uint32_t *to = &l->chain[pos >> 10 & l->mask];
    struct name *e = &l->name[l->n++];
    *e = (struct name){.pos = pos, .next = *to, .text = (uint32_t)l->used};
    *to = (uint32_t)l->n;
    memcpy(l->texts + l->used, text, len);
    l->used += len;
    return e;
}

/* ---- reading the layers ---- */

struct reading {
    struct space_list *l, *hidden; /* the names seen; those that `.wh.` hides from layers behind */
    struct space_list *fresh;      /* what this layer hides: counts for the next ones only */
    int layer;
    bool opaque, failed;
};

static int take(void *arg, const struct pl_dirent *ent)
{
    struct reading *r = arg;
    const char *name = ent->name;
    if (!strcmp(name, ".") || !strcmp(name, ".."))
        return 0;
    if (space_is_hidden(name)) {
        const char *of = name + sizeof(SPACE_HIDDEN) - 1;
        r->opaque |= !strcmp(name, SPACE_OPAQUE);
        if (*of && *of != '.' && !find(r->fresh, of, pos_of(of)))
            r->failed = !add(r->fresh, of, pos_of(of));
        return r->failed;
    }
    uint64_t pos = pos_of(name);
    struct name *e = find(r->l, name, pos);
    if (e) {
        e->again |= e->layer != r->layer;
        return 0;
    }
    if (find(r->hidden, name, pos))
        return 0;
    e = add(r->l, name, pos);
    if (!e) {
        r->failed = true;
        return 1;
    }
    e->ino = ent->ino;
    e->type = ent->type;
    e->layer = r->layer;
    return 0;
}

/* Entries of the layer that have to be looked at: devices may be whiteouts, and files, where the
 * directory says so. A whiteout stays in the
 * list, without a type, to hide what is behind. */
static int look_at(struct space *s, struct pl_call *call, const struct space_stack *st,
                   struct space_list *l, size_t from, int k)
{
    struct pl_tree *in = space_tree(st->point, k);
    struct pl_node *dir = space_entry(st, k);
    bool whites = l->n > from && space_has_whites(call, in, dir);
    for (size_t i = from; i < l->n; i++) {
        struct pl_node *n;
        struct pl_attr attr;
        uint32_t type = l->name[i].type;
        if (type != DT_CHR && type != DT_UNKNOWN && !(whites && type == DT_REG))
            continue;
        int r = pl_lookup(in, call, dir, l->texts + l->name[i].text, &n, &attr);
        if (r < 0 && r != -ENOENT && r != -EACCES)
            return r;
        if (r == -EACCES && type == DT_CHR) /* read, and not searched: such a device hides */
            l->name[i].type = DT_WHT;
        if (r == 0) {
            bool white = space_is_whiteout(call, in, dir, n, &attr);
            l->name[i].type = white ? DT_WHT : IFTODT(attr.mode);
            pl_node_unref(n);
        }
    }
    return 0;
}

static int read_layer(struct space *s, struct pl_call *call, const struct space_stack *st,
                      struct pl_file *front, int i, struct reading *rd)
{
    struct pl_tree *in = space_tree(st->point, st->e[i].k);
    struct pl_file *f = front;
    size_t from = rd->l->n;
    bool own = call->own;
    call->own = space_in_place(st->point, st->e[i].k);
    int r = f ? 0 : pl_open(in, call, st->e[i].node, O_RDONLY | O_DIRECTORY, &f);
    call->own = own;
    if (r < 0)
        return i && (r == -ENOENT || r == -ESTALE) ? 0 : r;
    rd->layer = st->e[i].k;
    r = pl_readdir(in, call, f, 0, take, rd);
    if (!front)
        pl_close(in, call, f);
    if (r == 0 && rd->failed)
        r = -ENOMEM;
    return r < 0 ? r : look_at(s, call, st, rd->l, from, st->e[i].k);
}

/* The names of a stack's directories, bindings not yet. As the owner. `front`: the first one's open
 * file, or NULL. */
static int read_layers(struct space *s, struct pl_call *call, const struct space_stack *st,
                       struct pl_file *front, struct space_list *l)
{
    struct space_list hidden = {0}, fresh = {0};
    struct reading rd = {.l = l, .hidden = &hidden, .fresh = &fresh};
    int r = 0;
    for (int i = 0; i < st->n && r == 0; i++) {
        r = read_layer(s, call, st, i ? NULL : front, i, &rd);
        for (size_t j = 0; r == 0 && j < fresh.n; j++) {
            const char *text = fresh.texts + fresh.name[j].text;
            if (!find(&hidden, text, fresh.name[j].pos) && !add(&hidden, text, fresh.name[j].pos))
                r = -ENOMEM;
        }
        fresh.n = fresh.used = 0;
        if (fresh.chain)
            memset(fresh.chain, 0, fresh.room * sizeof(*fresh.chain));
    }
    free(hidden.name);
    free(hidden.texts);
    free(hidden.chain);
    free(fresh.name);
    free(fresh.texts);
    free(fresh.chain);
    return r;
}

int space_each_name(struct space *s, struct pl_call *call, const struct space_stack *st,
                    int (*fn)(void *arg, const char *name), void *arg)
{
    struct space_list *l = calloc(1, sizeof(*l));
    int r = l ? read_layers(s, call, st, NULL, l) : -ENOMEM;
    for (struct space_spot *c = st->spot ? st->spot->child : NULL; r == 0 && c; c = c->next)
        r = fn(arg, c->name);
    for (size_t i = 0; r == 0 && i < l->n; i++)
        if (l->name[i].type != DT_WHT &&
            !(st->spot && space_spot(st->spot, l->texts + l->name[i].text)))
            r = fn(arg, l->texts + l->name[i].text);
    space_list_free(l);
    return r;
}

/* ---- numbers ---- */

/* The number and type of a name, by looking it up. */
static void ask(struct space *s, struct pl_call *call, struct snode *dir,
                const struct space_stack *st, struct name *e, const char *text)
{
    struct snode *n;
    struct pl_attr attr;
    e->ino = 0;
    if (space_child(s, call, dir, st, text, &n, &attr) < 0)
        return;
    e->ino = n->ino;
    e->type = IFTODT(n->node.fmt);
    pl_node_unref(&n->node);
}

static int by_pos(const void *a, const void *b)
{
    const struct name *x = a, *y = b;
    return x->pos < y->pos ? -1 : x->pos > y->pos;
}

/* What is in the top may have its number from below: if it is below too, or the directory is said
 * to have such things; of what is neither file nor directory only root can have that noted. */
static void number(struct space *s, struct pl_call *call, struct snode *dir,
                   const struct space_stack *st, struct space_list *l)
{
    int top = st->point->top;
    struct space_marks m = {.impure = false};
    struct pl_node *in = top < 0 ? NULL : space_entry(st, top);
    if (in && st->point->n > 1)
        space_marks(call, space_tree(st->point, top), in, &m);
    size_t to = 0;
    for (size_t i = 0; i < l->n; i++) {
        struct name *e = &l->name[i];
        const char *text = l->texts + e->text;
        if (e->type == DT_WHT && e->layer >= 0)
            continue;
        bool other = s->self.uid && st->point->n > 1 && e->type != DT_REG && e->type != DT_DIR;
        if (e->layer < 0 || (e->layer == top && (e->again || m.impure || other)))
            ask(s, call, dir, st, e, text);
        else if (e->ino)
            e->ino = space_number(st->point, e->layer, e->ino);
        l->name[to++] = *e;
    }
    l->n = to;
}

static int list_new(struct space *s, struct pl_call *call, struct snode *dir,
                    const struct space_stack *st, struct pl_file *front, struct space_list **ret)
{
    struct space_list *l = calloc(1, sizeof(*l));
    struct space_as as = space_self(s, call);
    int r = l ? read_layers(s, call, st, front, l) : -ENOMEM;
    for (struct space_spot *c = st->spot ? st->spot->child : NULL; r == 0 && c; c = c->next) {
        struct name *e = find(l, c->name, pos_of(c->name));
        if (!e && !(e = add(l, c->name, pos_of(c->name))))
            r = -ENOMEM;
        else
            e->layer = -1;
    }
    if (r == 0) {
        number(s, call, dir, st, l);
        if (l->n)
            qsort(l->name, l->n, sizeof(*l->name), by_pos);
    }
    space_back(call, &as);
    for (size_t i = 1; r == 0 && i < l->n; i++)
        if (l->name[i].pos <= l->name[i - 1].pos)
            l->name[i].pos = l->name[i - 1].pos + 1;
    if (r < 0)
        space_list_free(l);
    else
        *ret = l;
    return r;
}

/* ---- the op ---- */

static int dots(struct snode *n, struct space *s, uint64_t *off, pl_fill_fn *fill, void *arg)
{
    struct snode *up;
    char name[PL_NAME_MAX + 1];
    for (; *off < 2; ++*off) {
        struct pl_dirent ent = {.ino = n->ino, .next = *off + 1, .type = DT_DIR, .name = "."};
        if (*off == 1) {
            ent.name = "..";
            if (space_place(s, n, &up, name)) {
                ent.ino = up->ino;
                pl_node_unref(&up->node);
            }
        }
        if (fill(arg, &ent))
            return 1;
    }
    return 0;
}

static int list_from(struct space *s, struct sfile *f, uint64_t off, pl_fill_fn *fill, void *arg)
{
    struct space_list *l = f->list;
    if (dots(snode_of(f->file.node), s, &off, fill, arg))
        return 0;
    size_t at = 0, end = l->n;
    while (at < end) { /* the first that is past `off` */
        size_t mid = (at + end) / 2;
        if (l->name[mid].pos > off)
            end = mid;
        else
            at = mid + 1;
    }
    for (; at < l->n; at++) {
        struct name *e = &l->name[at];
        struct pl_dirent ent = {
            .ino = e->ino, .next = e->pos, .type = e->type, .name = l->texts + e->text};
        if (fill(arg, &ent))
            return 0;
    }
    return 0;
}

int space_readdir(SPACE_T, struct pl_file *dir, uint64_t off, pl_fill_fn *fill, void *arg)
{
    struct space *s = space_of(tree);
    struct sfile *f = sfile_of(dir);
    struct snode *n = snode_of(dir->node);
    int r = 0;
    pthread_mutex_lock(&f->mutex);
    if (off == 0 || !f->list) {
        struct space_stack *st;
        space_list_free(f->list);
        f->list = NULL;
        if (n->gone) {
            st = NULL;
            r = (f->list = calloc(1, sizeof(*f->list))) ? 0 : -ENOMEM;
        } else {
            r = space_dir(s, call, n, &st);
        }
        if (r == 0 && st) {
            bool front = f->lower && st->n && st->e[0].node == f->lower->node;
            r = list_new(s, call, n, st, front ? f->lower : NULL, &f->list);
            space_stack_unref(st);
        }
    }
    if (r == 0)
        r = list_from(s, f, off, fill, arg);
    pthread_mutex_unlock(&f->mutex);
    return r;
}
