/* SPDX-License-Identifier: MIT */
/*
 * What a space notes in the trees: whiteouts, opaque and moved directories, origins. In overlayfs's
 * form where the tree can hold it: character devices 0/0, and the xattrs trusted.overlay.* (or
 * user.overlay.*, where the owner is not root); else by hidden names. All is done as the owner.
 */
#include "tree/space.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRUSTED "trusted.overlay."
#define USER    "user.overlay."

#define ESCAPE                                                                                     \
    "overlay." /* after the prefix: another's mark, of a space or overlayfs above this             \
                */

/* How long the prefix of overlayfs's marks is; 0: it is none. */
static size_t prefix(const char *name)
{
    return !strncmp(name, TRUSTED, sizeof(TRUSTED) - 1) ? sizeof(TRUSTED) - 1
           : !strncmp(name, USER, sizeof(USER) - 1)     ? sizeof(USER) - 1
                                                        : 0;
}

static bool is_escaped(const char *name, size_t skip)
{
    return !strncmp(name + skip, ESCAPE, sizeof(ESCAPE) - 1);
}

bool space_own_xattr(const char *name)
{
    size_t skip = prefix(name);
    return skip ? !is_escaped(name, skip)
                : !strncmp(name, "user.plenum.", 12) || !strcmp(name, SPACE_TRUSTED_ORIGIN);
}

int space_xattr_in(const char *name, char below[PL_NAME_MAX + 1], const char **ret)
{
    size_t skip = prefix(name);
    *ret = skip ? below : name;
    if (!skip)
        return space_own_xattr(name) ? -ENODATA : 0;
    int n = snprintf(below, PL_NAME_MAX + 1, "%.*s" ESCAPE "%s", (int)skip, name, name + skip);
    return n > PL_NAME_MAX ? -ENODATA : 0;
}

bool space_xattr_out(char *name)
{
    size_t skip = prefix(name);
    if (space_own_xattr(name))
        return false;
    if (skip)
        memmove(name + skip, name + skip + sizeof(ESCAPE) - 1,
                strlen(name + skip + sizeof(ESCAPE) - 1) + 1);
    return true;
}

/* ---- reading ---- */

/* The value of a mark, as a string; its length, or 0. */
static size_t mark(struct pl_call *call, struct pl_tree *tree, struct pl_node *node,
                   const char *name, char *buf, size_t size)
{
    ssize_t n = pl_getxattr(tree, call, node, name, buf, size - 1);
    n = n > 0 ? n : 0;
    buf[n] = 0;
    return (size_t)n;
}

static void read_mark(struct pl_call *call, struct pl_tree *tree, struct pl_node *node,
                      const char *name, struct space_marks *m)
{
    char value[32];
    size_t skip = prefix(name);
    if (skip && !strcmp(name + skip, "opaque"))
        m->opaque |= mark(call, tree, node, name, value, sizeof(value)) && value[0] == 'y';
    else if (skip && !strcmp(name + skip, "redirect"))
        mark(call, tree, node, name, m->redirect, sizeof(m->redirect));
    else if (!strcmp(name, SPACE_IMPURE))
        m->impure = true;
    else if (!strcmp(name, SPACE_ORIGIN) && mark(call, tree, node, name, value, sizeof(value)))
        m->origin = strtoull(value, NULL, 16);
}

int space_marks(struct pl_call *call, struct pl_tree *tree, struct pl_node *node,
                struct space_marks *m)
{
    char some[1024], *list = some, *more = NULL;
    *m = (struct space_marks){.opaque = false};
    ssize_t n =
        tree->flags & PL_TREE_XATTR ? pl_listxattr(tree, call, node, some, sizeof(some)) : 0;
    if (n == -ERANGE && (list = more = malloc(PL_XATTR_MAX)))
        n = pl_listxattr(tree, call, node, more, PL_XATTR_MAX);
    for (char *p = list; n > 0 && p < list + n; p += strlen(p) + 1)
        read_mark(call, tree, node, p, m);
    free(more);
    struct pl_node *opq;
    struct pl_attr attr;
    if (node->fmt == S_IFDIR && !m->opaque &&
        pl_lookup(tree, call, node, SPACE_OPAQUE, &opq, &attr) == 0) {
        pl_node_unref(opq);
        m->opaque = true;
    }
    return n == -EINTR || n == -ETIMEDOUT ? (int)n : 0;
}

/* One of overlayfs's marks, with either prefix: its length, cut to `size`; -1: it is not there. */
static ssize_t overlay_mark(struct pl_call *call, struct pl_tree *tree, struct pl_node *node,
                            const char *name, char *buf, size_t size)
{
    static const char *const prefixes[] = {TRUSTED, USER};
    ssize_t r = -1;
    for (int i = 0; i < 2 && r < 0; i++) {
        char whole[64];
        snprintf(whole, sizeof(whole), "%s%s", prefixes[i], name);
        r = pl_getxattr(tree, call, node, whole, buf, size);
    }
    return r < 0 ? -1 : r;
}

/* Has it the mark? Most have no xattrs at all, which one question tells. */
static bool has_mark(struct pl_call *call, struct pl_tree *tree, struct pl_node *node,
                     const char *name)
{
    char some[512];
    if (!(tree->flags & PL_TREE_XATTR))
        return false;
    ssize_t n = pl_listxattr(tree, call, node, some, sizeof(some));
    if (n == -ERANGE)
        return overlay_mark(call, tree, node, name, NULL, 0) >= 0;
    for (char *p = some; n > 0 && p < some + n; p += strlen(p) + 1)
        if (prefix(p) && !strcmp(p + prefix(p), name))
            return true;
    return false;
}

bool space_is_whiteout(struct pl_call *call, struct pl_tree *tree, struct pl_node *dir,
                       struct pl_node *node, const struct pl_attr *attr)
{
    if (space_is_white(attr))
        return true;
    return S_ISREG(attr->mode) && attr->size == 0 && has_mark(call, tree, node, "whiteout") &&
           space_has_whites(call, tree, dir);
}

bool space_has_whites(struct pl_call *call, struct pl_tree *tree, struct pl_node *dir)
{
    char value[32];
    return tree->flags & PL_TREE_XATTR &&
           overlay_mark(call, tree, dir, "opaque", value, sizeof(value)) > 0 && value[0] == 'x';
}

bool space_is_hollow(struct pl_call *call, struct pl_tree *tree, struct pl_node *node)
{
    return has_mark(call, tree, node, "metacopy");
}

int space_note_filled(struct pl_call *call, struct pl_tree *tree, struct pl_node *node)
{
    int r = pl_removexattr(tree, call, node, TRUSTED "metacopy");
    if (r == -ENODATA || r == -EPERM || r == -EOPNOTSUPP)
        r = pl_removexattr(tree, call, node, USER "metacopy");
    return r == -ENODATA ? 0 : r;
}

/* Only files and directories may have user.* xattrs; of others it can be noted by root alone. */
static const char *origin_name(const struct pl_node *node)
{
    return node->fmt == S_IFREG || node->fmt == S_IFDIR ? SPACE_ORIGIN : SPACE_TRUSTED_ORIGIN;
}

uint64_t space_origin(struct pl_call *call, struct pl_tree *tree, struct pl_node *node)
{
    char value[32];
    if (!(tree->flags & PL_TREE_XATTR))
        return 0;
    bool own = call->own;
    call->own = true;
    size_t n = mark(call, tree, node, origin_name(node), value, sizeof(value));
    call->own = own;
    return n ? strtoull(value, NULL, 16) : 0;
}

/* ---- writing ---- */

int space_put(struct pl_call *call, struct pl_tree *tree, struct pl_node *node, const char *name,
              const char *value)
{
    if (!(tree->flags & PL_TREE_XATTR))
        return -EOPNOTSUPP;
    bool own = call->own;
    call->own = true;
    int r = pl_setxattr(tree, call, node, name, value, strlen(value), 0);
    call->own = own;
    return r;
}

void space_note_origin(struct pl_call *call, struct space_bind *b, struct pl_node *node,
                       uint64_t ino)
{
    char value[32];
    snprintf(value, sizeof(value), "%llx", (unsigned long long)ino);
    space_put(call, b->tree, node, origin_name(node), value);
}

void space_note_impure(struct pl_call *call, struct space_bind *b, struct pl_node *dir)
{
    char value[8];
    if (!mark(call, b->tree, dir, SPACE_IMPURE, value, sizeof(value)))
        space_put(call, b->tree, dir, SPACE_IMPURE, "y");
}

/* One of overlayfs's marks: with the prefix that the owner can set, which is what an overlayfs
 * that he mounts reads. */
static int put_overlay(struct pl_call *call, struct space_bind *b, struct pl_node *dir,
                       const char *name, const char *value)
{
    char whole[64];
    int r = -EPERM;
    if (!atomic_load(&b->no_trusted)) {
        snprintf(whole, sizeof(whole), TRUSTED "%s", name);
        r = space_put(call, b->tree, dir, whole, value);
    }
    if (r != -EPERM && r != -EOPNOTSUPP)
        return r;
    atomic_store(&b->no_trusted, true);
    snprintf(whole, sizeof(whole), USER "%s", name);
    return space_put(call, b->tree, dir, whole, value);
}

int space_note_opaque(struct pl_call *call, struct space_bind *b, struct pl_node *dir)
{
    const struct pl_make file = {.mode = S_IFREG};
    struct pl_node *n;
    struct pl_attr attr;
    /* What says that empty files in it may be whiteouts has to stay. */
    int r = space_has_whites(call, b->tree, dir) ? -EOPNOTSUPP
                                                 : put_overlay(call, b, dir, "opaque", "y");
    if (r != -EOPNOTSUPP && r != -EPERM)
        return r;
    r = pl_make(b->tree, call, dir, SPACE_OPAQUE, &file, &n, &attr);
    if (r == 0)
        pl_node_unref(n);
    return r == -EEXIST ? 0 : r;
}

int space_note_redirect(struct pl_call *call, struct space_bind *b, struct pl_node *dir,
                        const char *path)
{
    return put_overlay(call, b, dir, "redirect", path);
}

void space_temp_name(struct space *s, char name[64])
{
    snprintf(name, 64, SPACE_TEMP "%llx", (unsigned long long)atomic_fetch_add(&s->next_temp, 1));
}

/* ---- whiteouts ---- */

int space_cover(struct pl_call *call, struct space_bind *b, struct pl_node *dir, const char *name)
{
    const struct pl_make file = {.mode = S_IFREG};
    char white[PL_NAME_MAX + 8];
    struct pl_node *n;
    struct pl_attr attr;
    snprintf(white, sizeof(white), SPACE_HIDDEN "%s", name);
    if (strlen(white) > PL_NAME_MAX)
        return -ENAMETOOLONG;
    int r = pl_make(b->tree, call, dir, white, &file, &n, &attr);
    if (r == 0)
        pl_node_unref(n);
    return r == -EEXIST ? 0 : r;
}

static int make_white(struct pl_call *call, struct pl_tree *tree, struct pl_node *dir,
                      const char *name)
{
    const struct pl_make white = {.mode = S_IFCHR};
    struct pl_node *n;
    struct pl_attr attr;
    int r = pl_make(tree, call, dir, name, &white, &n, &attr);
    if (r == 0)
        pl_node_unref(n);
    return r;
}

static bool is_no(int r)
{
    return r == -EPERM || r == -EOPNOTSUPP || r == -EINVAL || r == -EACCES;
}

/* A directory, or anything else, has the name: in its place. 0, or it cannot be done in this form.
 */
static int replace_white(struct space *s, struct pl_call *call, struct space_bind *b,
                         struct pl_node *dir, const char *name, uint32_t there)
{
    char temp[64];
    bool is_dir = there == S_IFDIR;
    if (is_dir && atomic_load(&b->no_swap))
        return -EINVAL;
    space_temp_name(s, temp);
    int r = make_white(call, b->tree, dir, temp);
    if (r < 0)
        return r;
    r = pl_rename(b->tree, call, dir, temp, dir, name, is_dir ? RENAME_EXCHANGE : 0);
    if (r < 0 || is_dir) {
        int gone = pl_remove(b->tree, call, dir, temp, r == 0 ? AT_REMOVEDIR : 0);
        if (r == 0 && gone < 0) { /* as it was */
            pl_rename(b->tree, call, dir, temp, dir, name, RENAME_EXCHANGE);
            pl_remove(b->tree, call, dir, temp, 0);
            return gone;
        }
    }
    if (is_dir && r == -EINVAL)
        atomic_store(&b->no_swap, true);
    return r;
}

int space_whiteout(struct space *s, struct pl_call *call, struct space_bind *b, struct pl_node *dir,
                   const char *name, uint32_t there)
{
    struct space_as as = space_self(s, call);
    int r = -EPERM;
    if (!atomic_load(&b->no_char)) {
        r = there ? replace_white(s, call, b, dir, name, there)
                  : make_white(call, b->tree, dir, name);
        if (is_no(r) && there != S_IFDIR)
            atomic_store(&b->no_char, true);
    }
    if (is_no(r)) {
        r = space_cover(call, b, dir, name);
        if (r == 0 && there)
            r = pl_remove(b->tree, call, dir, name, there == S_IFDIR ? AT_REMOVEDIR : 0);
    }
    space_back(call, &as);
    return r;
}

void space_uncover(struct pl_call *call, struct space_bind *b, struct pl_node *dir,
                   const char *name)
{
    char white[PL_NAME_MAX + 8];
    snprintf(white, sizeof(white), SPACE_HIDDEN "%s", name);
    if (strlen(white) <= PL_NAME_MAX)
        pl_remove(b->tree, call, dir, white, 0);
}

/* ---- sweeping ---- */

struct sweep {
    char (*name)[PL_NAME_MAX + 1];
    size_t n, room;
    bool more, failed;
};

static int sweep_one(void *arg, const struct pl_dirent *ent)
{
    struct sweep *w = arg;
    if (!strcmp(ent->name, ".") || !strcmp(ent->name, ".."))
        return 0;
    if (w->n == w->room) {
        size_t room = w->room * 2 + 16;
        void *more = realloc(w->name, room * sizeof(*w->name));
        w->failed = !more;
        if (!more)
            return 1;
        w->name = more;
        w->room = room;
    }
    strcpy(w->name[w->n++], ent->name);
    return 0;
}

static int sweep_in(struct space_bind *b, struct pl_call *call, struct pl_node *dir, bool all);

/* Removes a name that nobody sees: a whiteout of any form, a mark, what was not finished (`all`).
 */
static int sweep_name(struct space_bind *b, struct pl_call *call, struct pl_node *dir,
                      const char *name, bool all)
{
    struct pl_node *n;
    struct pl_attr attr;
    int r = pl_lookup(b->tree, call, dir, name, &n, &attr);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    bool is_dir = n->fmt == S_IFDIR;
    if (!all && !space_is_hidden(name) && !space_is_whiteout(call, b->tree, dir, n, &attr))
        r = -ENOTEMPTY;
    else if (is_dir)
        r = sweep_in(b, call, n, true);
    pl_node_unref(n);
    return r < 0 ? r : pl_remove(b->tree, call, dir, name, is_dir ? AT_REMOVEDIR : 0);
}

static int sweep_in(struct space_bind *b, struct pl_call *call, struct pl_node *dir, bool all)
{
    struct sweep w = {0};
    struct pl_file *f;
    int r = pl_open(b->tree, call, dir, O_RDONLY | O_DIRECTORY, &f);
    if (r == 0) {
        r = pl_readdir(b->tree, call, f, 0, sweep_one, &w);
        pl_close(b->tree, call, f);
    }
    if (w.failed)
        r = -ENOMEM;
    for (size_t i = 0; r == 0 && i < w.n; i++)
        r = sweep_name(b, call, dir, w.name[i], all);
    free(w.name);
    return r;
}

int space_sweep(struct space *s, struct pl_call *call, struct space_bind *b, struct pl_node *dir)
{
    struct space_as as = space_self(s, call);
    struct pl_attr attr, now;
    int r = sweep_in(b, call, dir, false);
    /* An empty directory is removed whatever its mode: its owner, who is not root, sees to that. */
    if (r == -EACCES && s->self.uid && pl_getattr(b->tree, call, dir, NULL, &attr) == 0) {
        struct pl_setattr set = {.valid = PL_SET_MODE, .mode = attr.mode | S_IRWXU};
        if (pl_setattr(b->tree, call, dir, NULL, &set, &now) == 0)
            r = sweep_in(b, call, dir, false);
        set.mode = attr.mode;
        pl_setattr(b->tree, call, dir, NULL, &set, &now);
    }
    space_back(call, &as);
    return r;
}
