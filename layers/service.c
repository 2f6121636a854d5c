/* SPDX-License-Identifier: MIT */
#include "layers/service.h"
#include "layers/places.h"
#include "layers/service_link.h"
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>

#define BIT(op) ((uint64_t)1 << (op))

struct service {
    struct pl_tree tree;
    struct service_attrs attrs;
    struct service_link *link;
    struct places *places;
    struct pl_leaver leaver;
};

/* What is said of an op: its paths, and what it is about. */
struct about {
    char path[PLACES_PATH], path2[PLACES_PATH];
    struct place_found what;
};

/* ---- paths ---- */

static void find_about(struct service *s, const struct pl_event *ev, struct about *a)
{
    struct place_found dir;
    *a->path2 = 0;
    switch (ev->op) {
    case PL_OP_attach:
        strcpy(a->path, "/");
        a->what = (struct place_found){.fmt = S_IFDIR};
        return;
    case PL_OP_lookup:
    case PL_OP_make:
    case PL_OP_create:
    case PL_OP_remove:
        places_path(s->places, ev->node, ev->name, a->path, &a->what);
        break;
    case PL_OP_rename:
        places_path(s->places, ev->node, ev->name, a->path, &a->what);
        places_path(s->places, ev->node2, ev->name2, a->path2, &dir);
        break;
    case PL_OP_link:
        places_path(s->places, ev->node, NULL, a->path, &a->what);
        places_path(s->places, ev->node2, ev->name, a->path2, &dir);
        break;
    case PL_OP_find:
    case PL_OP_tmpfile:
        *a->path = 0;
        a->what = (struct place_found){0};
        break;
    case PL_OP_copy:
        places_path(s->places, ev->file->node, NULL, a->path, &a->what);
        break;
    default:
        places_path(s->places, ev->node, NULL, a->path, &a->what);
    }
    if (ev->op == PL_OP_make)
        a->what.fmt = ev->flags & S_IFMT;
    if (ev->op == PL_OP_create || ev->op == PL_OP_tmpfile)
        a->what.fmt = S_IFREG;
}

/* What an op that was done tells of names. */
static void learn(struct service *s, const struct pl_event *ev)
{
    uint64_t ino = ev->attr ? ev->attr->ino : 0;
    switch (ev->op) {
    case PL_OP_attach:
        places_root(s->places, *ev->found);
        break;
    case PL_OP_lookup:
    case PL_OP_make:
    case PL_OP_create:
        places_found(s->places, ev->node, ev->name, *ev->found, ino);
        break;
    case PL_OP_tmpfile:
    case PL_OP_find:
        places_known(s->places, *ev->found, ino);
        break;
    case PL_OP_link:
        places_found(s->places, ev->node2, ev->name, ev->node, ino);
        break;
    case PL_OP_getattr:
    case PL_OP_setattr:
        places_known(s->places, ev->node, ino);
        break;
    case PL_OP_remove:
        places_removed(s->places, ev->node, ev->name);
        break;
    case PL_OP_rename:
        places_renamed(s->places, ev->node, ev->name, ev->node2, ev->name2,
                       ev->flags & RENAME_EXCHANGE);
        break;
    default:
        break;
    }
}

static void left(struct pl_leaver *l, struct pl_node *node)
{
    struct service *s = (struct service *)((char *)l - offsetof(struct service, leaver));
    places_left(s->places, node);
}

/* A listing that gives nodes away is a lookup of each. */
struct listing {
    struct service *s;
    struct pl_node *dir;
    pl_fill_fn *fill;
    void *arg;
};

static int fill(void *arg, const struct pl_dirent *ent)
{
    struct listing *l = arg;
    int r = l->fill(l->arg, ent);
    if (r == 0 && ent->node && strcmp(ent->name, ".") && strcmp(ent->name, ".."))
        places_found(l->s->places, l->dir, ent->name, ent->node, ent->attr->ino);
    return r;
}

static int service_readdir(struct pl_tree *t, struct pl_call *c, struct pl_file *dir, uint64_t off,
                           pl_fill_fn *fn, void *arg)
{
    struct listing l = {(struct service *)t, dir->node, fn, arg};
    return pl_readdir(t->lower, c, dir, off, fill, &l);
}

/* ---- which ops ---- */

static bool matches(const char *pattern, const char *path)
{
    const char *base = strrchr(path, '/');
    if (!*path)
        return true; /* not known: better told once too often */
    if (strchr(pattern, '/'))
        return fnmatch(pattern, path, FNM_PATHNAME | FNM_LEADING_DIR) == 0;
    return fnmatch(pattern, base ? base + 1 : path, 0) == 0;
}

static bool writing(const struct pl_event *ev)
{
    if (ev->op == PL_OP_open || ev->op == PL_OP_create || ev->op == PL_OP_close)
        return (ev->flags & O_ACCMODE) != O_RDONLY;
    return !ev->file || (ev->file->flags & O_ACCMODE) != O_RDONLY;
}

static bool wanted(struct service *s, struct pl_call *c, const struct pl_event *ev)
{
    return (s->attrs.calls & BIT(ev->op)) && !(s->attrs.write && !writing(ev)) &&
           !service_link_off(s->link) && !service_link_self(s->link, c->pid);
}

static bool concerns(const struct service *s, const struct pl_event *ev, const struct about *a)
{
    if (s->attrs.regular && a->what.fmt && a->what.fmt != S_IFREG)
        return false;
    return !*s->attrs.match || matches(s->attrs.match, a->path) ||
           (*a->path2 && matches(s->attrs.match, a->path2));
}

static bool modifies(const struct pl_event *ev)
{
    if (ev->op == PL_OP_open)
        return (ev->flags & O_ACCMODE) != O_RDONLY || (ev->flags & O_TRUNC);
    return pl_op_modifies(ev->op);
}

/* ---- telling ---- */

static int tell(struct service *s, struct pl_call *c, const struct pl_event *ev,
                const struct about *a, enum service_want want, int64_t result)
{
    struct service_msg m = {
        .op = (int)ev->op,
        .want = want,
        .result = result,
        .pid = c->pid,
        .uid = c->cred.uid,
        .gid = c->cred.gid,
        .ino = a->what.ino,
        .off = ev->off,
        .len = ev->len,
        .flags = ev->flags,
        .path = a->path,
        .path2 = *a->path2 ? a->path2 : NULL,
    };
    if (!m.ino && result == 0 && ev->attr && want != SERVICE_ASK)
        m.ino = ev->attr->ino;
    if (ev->op == PL_OP_make)
        m.name = ev->name2;
    else if (ev->op == PL_OP_setxattr || ev->op == PL_OP_getxattr || ev->op == PL_OP_removexattr)
        m.name = ev->name;
    if (ev->file && (ev->op == PL_OP_write || ev->op == PL_OP_read))
        m.flags = ev->file->flags; /* O_APPEND: `off` is not where it went */
    if (s->attrs.data && ev->data && result >= 0) {
        m.data = ev->data;
        m.ndata = ev->op == PL_OP_write && want != SERVICE_ASK ? (size_t)result : ev->len;
        if (m.ndata > SERVICE_DATA_MAX)
            m.data = NULL;
    }
    return service_link_tell(s->link, c, &m);
}

static int before(struct pl_tree *t, struct pl_call *c, const struct pl_event *ev)
{
    struct service *s = (struct service *)t;
    struct about a;
    if (!wanted(s, c, ev))
        return 0;
    find_about(s, ev, &a);
    if (!concerns(s, ev, &a))
        return 0;
    int r = service_link_admit(s->link, c, modifies(ev));
    /* close and flush are done all the same, and nobody could be told before */
    if (r < 0 && s->attrs.monitor && (ev->op == PL_OP_close || ev->op == PL_OP_flush))
        return 0;
    return r < 0 || s->attrs.monitor ? r : tell(s, c, ev, &a, SERVICE_ASK, 0);
}

static void after(struct pl_tree *t, struct pl_call *c, const struct pl_event *ev, int64_t result)
{
    struct service *s = (struct service *)t;
    struct about a;
    bool told = s->attrs.monitor && wanted(s, c, ev);
    if (told) {
        find_about(s, ev, &a);
        told = concerns(s, ev, &a);
    }
    if (result >= 0)
        learn(s, ev);
    if (!told)
        return;
    bool ack = result >= 0 && (s->attrs.acks & BIT(ev->op));
    int r = tell(s, c, ev, &a, ack ? SERVICE_ACK : SERVICE_TELL, result);
    /* Who is interrupted while it waits has done it nevertheless. */
    if (ev->told && r < 0 && r != -EINTR && r != -ETIMEDOUT)
        *ev->told = r;
}

static void done(struct pl_tree *t)
{
    struct service *s = (struct service *)t;
    pl_leaver_del(t, &s->leaver);
    service_link_free(s->link);
    places_free(s->places);
}

#define OPS                                                                                        \
    .name = "service", .before = before, .after = after, .readdir = service_readdir, .done = done

static const struct pl_ops ops = {OPS};
static const struct pl_ops ops_by_fd = {OPS, .by_fd = true};

struct pl_tree *service_new(const char *name, const char *spec, const struct service_attrs *attrs,
                            const struct service_dialer *dialer, struct pl_tree *lower)
{
    const uint64_t bytes = BIT(PL_OP_read) | BIT(PL_OP_write) | BIT(PL_OP_copy) |
                           BIT(PL_OP_fallocate) | BIT(PL_OP_seek);
    struct service *s = lower ? calloc(1, sizeof(*s)) : NULL;
    if (s) {
        pl_tree_init(&s->tree, attrs->calls & bytes ? &ops : &ops_by_fd, lower);
        s->attrs = *attrs;
        s->places = places_new();
        s->link = s->places ? service_link_new(name, spec, attrs, dialer) : NULL;
    }
    if (!s || !s->link) {
        if ((!s || !s->places) && dialer->done)
            dialer->done(dialer->arg);
        places_free(s ? s->places : NULL);
        free(s);
        pl_tree_unref(lower);
        return NULL;
    }
    /* Opens that only the kernel knows of could not be told. */
    if (attrs->calls & (BIT(PL_OP_open) | BIT(PL_OP_close) | BIT(PL_OP_flush) | BIT(PL_OP_read)))
        s->tree.flags &= ~(uint32_t)(PL_TREE_STATELESS | PL_TREE_STATELESS_SELF);
    s->leaver.left = left;
    pl_leaver_add(&s->tree, &s->leaver);
    return &s->tree;
}

void service_switch(struct pl_tree *tree, bool on)
{
    service_link_switch(((struct service *)tree)->link, on);
}

int service_drain(struct pl_tree *tree, struct pl_call *call)
{
    return service_link_drain(((struct service *)tree)->link, call);
}
