/* SPDX-License-Identifier: MIT */
/*
 * Copying up. An object is made whole without a name, or under a hidden one, and then gets its name
 * at once: whoever looks sees the old one or the new. All is done as the owner of the space.
 */
#include "base/cred.h"
#include "tree/space.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A copy on its way into layer `b`, in the directory `dir` there. */
struct copy {
    struct space *s;
    struct pl_call *call;
    struct space_bind *b;           /* where to */
    struct pl_tree *from, *in_tree; /* where what is copied is, and its content */
    struct pl_node *lower, *node;   /* what is copied; the copy */
    struct pl_file *in, *out;       /* NULL: it has no content */
    struct pl_attr attr;            /* the lower one's */
    char temp[64];                  /* its hidden name; "": it has none */
    bool content;
};

/* ---- content ---- */

enum { CHUNK = 1 << 20, AT_ONCE = 16 << 20 };

/* By the kernel: bytes copied, or -EXDEV: not in this way. */
static ssize_t by_kernel(const struct copy *c, int in, int out, uint64_t off, size_t n)
{
    off64_t at = (off64_t)off, to = at;
    cred_reset(); /* the descriptors are ours */
    ssize_t r = copy_file_range(in, &at, out, &to, n < AT_ONCE ? n : AT_ONCE, 0);
    if (r < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EIO || errno == EFBIG))
        return -errno;
    return r <= 0 ? -EXDEV : r;
}

static ssize_t by_hand(const struct copy *c, char *buf, uint64_t off, size_t n)
{
    ssize_t got = pl_read(c->in_tree, c->call, c->in, buf, n < CHUNK ? n : CHUNK, off);
    for (ssize_t done = 0; got > 0 && done < got;) {
        ssize_t w = pl_write(c->b->tree, c->call, c->out, buf + done, (size_t)(got - done),
                             off + (uint64_t)done);
        if (w <= 0)
            return w < 0 ? w : -EIO;
        done += w;
    }
    return got;
}

static int copy_range(const struct copy *c, char *buf, uint64_t off, uint64_t end)
{
    int in = pl_file_fd(c->in_tree, c->in), out = pl_file_fd(c->b->tree, c->out);
    bool same = c->in_tree == c->b->tree && pl_tree_has(c->in_tree, PL_OP_copy);
    ssize_t r = 0;
    while (off < end && (r = pl_call_over(c->call)) == 0) {
        size_t n = end - off < AT_ONCE ? (size_t)(end - off) : AT_ONCE;
        r = -EXDEV;
        if (in >= 0 && out >= 0)
            r = by_kernel(c, in, out, off, n);
        else if (same)
            r = pl_copy(c->in_tree, c->call, c->in, off, c->out, off, n);
        if (r == -EXDEV || r == -EOPNOTSUPP || r == -EINVAL) {
            in = -1;
            same = false;
            r = by_hand(c, buf, off, n);
        }
        if (r <= 0)
            break; /* 0: it has become shorter */
        off += (uint64_t)r;
    }
    return r < 0 ? (int)r : 0;
}

/* All that is no hole, then the size. */
static int copy_content(const struct copy *c)
{
    uint64_t off = 0, size = c->attr.size;
    char *buf = malloc(CHUNK);
    int r = buf ? 0 : -ENOMEM;
    while (r == 0 && off < size) {
        int64_t data = pl_seek(c->in_tree, c->call, c->in, off, SEEK_DATA);
        if (data == -ENXIO)
            break;
        int64_t hole =
            data < 0 ? data : pl_seek(c->in_tree, c->call, c->in, (uint64_t)data, SEEK_HOLE);
        if (data < 0 || hole < 0) { /* it cannot tell */
            data = (int64_t)off;
            hole = (int64_t)size;
        }
        if ((uint64_t)data >= size)
            break;
        off = (uint64_t)hole < size ? (uint64_t)hole : size;
        r = copy_range(c, buf, (uint64_t)data, off);
    }
    free(buf);
    const struct pl_setattr set = {.valid = PL_SET_SIZE, .size = size};
    struct pl_attr attr;
    if (r == 0)
        r = pl_setattr(c->b->tree, c->call, c->node, c->out, &set, &attr);
    return r == 0 ? pl_fsync(c->b->tree, c->call, c->out, true) : r;
}

/* ---- attributes ---- */

#define ACL  "system.posix_acl_access"
#define CAPS "security.capability"

static int copy_xattr(const struct copy *c, const char *name, char *buf)
{
    if (space_own_xattr(name))
        return 0;
    ssize_t n = pl_getxattr(c->from, c->call, c->lower, name, buf, PL_XATTR_MAX);
    if (n < 0)
        return n == -ENODATA || n == -EACCES || n == -EPERM || n == -EOPNOTSUPP ? 0 : (int)n;
    int r = pl_setxattr(c->b->tree, c->call, c->node, name, buf, (size_t)n, 0);
    if (r == -EOPNOTSUPP && !strcmp(name, ACL))
        return r; /* without it, whom it keeps out would be let in */
    /* What only root may set, or the top has no room for in kind. */
    return r == -EPERM || r == -EOPNOTSUPP || r == -EACCES ? 0 : r;
}

static int copy_xattrs(const struct copy *c)
{
    if (!(c->from->flags & PL_TREE_XATTR))
        return 0;
    if (!(c->b->tree->flags & PL_TREE_XATTR))
        return pl_getxattr(c->from, c->call, c->lower, ACL, NULL, 0) > 0 ? -EOPNOTSUPP : 0;
    ssize_t n = pl_listxattr(c->from, c->call, c->lower, NULL, 0);
    if (n <= 0)
        return n == -EOPNOTSUPP ? 0 : (int)n;
    char *list = malloc(PL_XATTR_MAX * 2);
    if (!list)
        return -ENOMEM;
    n = pl_listxattr(c->from, c->call, c->lower, list, PL_XATTR_MAX);
    int r = n < 0 ? (int)n : 0;
    for (char *p = list; r == 0 && p < list + n; p += strlen(p) + 1)
        r = copy_xattr(c, p, list + PL_XATTR_MAX);
    free(list);
    return r;
}

/* Who may not give files away keeps them: *kept. */
static int copy_owner(const struct copy *c, bool *kept)
{
    const struct pl_setattr set = {
        .valid = PL_SET_UID | PL_SET_GID, .uid = c->attr.uid, .gid = c->attr.gid};
    struct pl_attr attr;
    int r = pl_setattr(c->b->tree, c->call, c->node, c->out, &set, &attr);
    *kept = r == -EPERM || r == -EOPNOTSUPP;
    return *kept ? 0 : r;
}

/* What was kept does not run as its owner. */
static int copy_mode(const struct copy *c, bool kept)
{
    const struct pl_setattr set = {.valid = PL_SET_MODE,
                                   .mode = c->attr.mode & (kept ? 01777 : 07777)};
    struct pl_attr attr;
    if (S_ISLNK(c->attr.mode))
        return 0;
    return pl_setattr(c->b->tree, c->call, c->node, c->out, &set, &attr);
}

static int set_times(struct pl_call *call, struct pl_tree *tree, struct pl_node *node,
                     struct pl_file *file, const struct pl_attr *as)
{
    const struct pl_setattr set = {
        .valid = PL_SET_ATIME | PL_SET_MTIME, .atime = as->atime, .mtime = as->mtime};
    struct pl_attr attr;
    int r = pl_setattr(tree, call, node, file, &set, &attr);
    return r == -EPERM || r == -EOPNOTSUPP ? 0 : r;
}

/* The owner first, for that takes capabilities away; the mode after the ACL, which changes it. */
static int copy_attrs(const struct copy *c, uint64_t ino)
{
    bool kept;
    int r = copy_owner(c, &kept);
    if (r == 0)
        r = copy_xattrs(c);
    if (r == 0)
        space_note_origin(c->call, c->b, c->node, ino);
    if (r == 0)
        r = copy_mode(c, kept);
    struct pl_attr as = c->attr;
    if (S_ISREG(as.mode) && as.size && !c->content) /* it is being cut: that is a change of it */
        clock_gettime(CLOCK_REALTIME_COARSE, &as.mtime);
    return r == 0 ? set_times(c->call, c->b->tree, c->node, c->out, &as) : r;
}

/* ---- the copy ---- */

/* An empty one, without a name if that can be. Only its owner may use it yet. */
static int begin_file(struct copy *c, struct pl_node *dir)
{
    struct pl_attr attr;
    int r = pl_tmpfile(c->b->tree, c->call, dir, O_RDWR, 0600, &c->node, &attr, &c->out);
    if (r != -EOPNOTSUPP && r != -EISDIR && r != -EINVAL && r != -ENOENT && r != -EPERM)
        return r;
    space_temp_name(c->s, c->temp);
    return pl_create(c->b->tree, c->call, dir, c->temp, O_RDWR | O_EXCL, 0600, &c->node, &attr,
                     &c->out);
}

static int begin_other(struct copy *c, struct pl_node *dir)
{
    char target[PL_PATH_MAX + 1];
    struct pl_attr attr;
    struct pl_make make = {.mode = (c->attr.mode & S_IFMT) | 0700,
                           .rdev_major = c->attr.rdev_major,
                           .rdev_minor = c->attr.rdev_minor};
    if (S_ISLNK(c->attr.mode)) {
        int n = pl_readlink(c->from, c->call, c->lower, target, PL_PATH_MAX);
        if (n < 0)
            return n;
        target[n] = 0;
        make.target = target;
    }
    space_temp_name(c->s, c->temp);
    return pl_make(c->b->tree, c->call, dir, c->temp, &make, &c->node, &attr);
}

static int open_content(struct copy *c, struct snode *n)
{
    struct pl_node *node = c->lower;
    int r = 0;
    c->in_tree = c->from;
    if (n->hollow)
        r = space_content(c->s, c->call, n, &c->in_tree, &node);
    if (r < 0)
        return r;
    r = pl_open(c->in_tree, c->call, node, O_RDONLY | O_NOATIME, &c->in);
    if (r == -EPERM || r == -EINVAL)
        r = pl_open(c->in_tree, c->call, node, O_RDONLY, &c->in);
    if (n->hollow)
        pl_node_unref(node);
    return r;
}

static int fill_file(struct copy *c, struct snode *n)
{
    if (!c->content || c->attr.size == 0)
        return 0;
    int r = open_content(c, n);
    return r == 0 ? copy_content(c) : r;
}

/* Closes what is open; a copy that did not succeed leaves nothing behind. */
static void end_copy(struct copy *c, struct pl_node *dir, int r)
{
    struct pl_call last; /* the caller's may be over */
    pl_call_init_self(&last);
    if (c->in)
        pl_close(c->in_tree, &last, c->in);
    if (c->out)
        pl_close(c->b->tree, &last, c->out);
    c->in = c->out = NULL;
    if (r < 0 && c->node) {
        if (c->temp[0])
            pl_remove(c->b->tree, &last, dir, c->temp, c->node->fmt == S_IFDIR ? AT_REMOVEDIR : 0);
        pl_node_unref(c->node);
        c->node = NULL;
    }
    pl_call_done(&last);
}

/* What lies in a directory that its owner must not write can be changed, and so is copied into one
 * of the same mode: an owner who is not root may write there for that moment, but where that would
 * take set-group-ID away. *back: as it was. */
static int let_in(struct copy *c, struct pl_node *dir, struct pl_setattr *back)
{
    struct pl_attr attr;
    *back = (struct pl_setattr){.valid = 0};
    if (c->s->self.uid == 0)
        return 0;
    int r = space_hold(c->s, c->call, &c->s->opening);
    if (r < 0)
        return r;
    const uint32_t need = S_IWUSR | S_IXUSR;
    if (pl_getattr(c->b->tree, c->call, dir, NULL, &attr) < 0 || attr.uid != c->s->self.uid ||
        (attr.mode & need) == need || (attr.mode & S_ISGID && !pl_in_group(c->call, attr.gid)))
        return 0;
    const struct pl_setattr set = {.valid = PL_SET_MODE, .mode = attr.mode | need};
    *back = (struct pl_setattr){.valid = PL_SET_MODE, .mode = attr.mode};
    if (pl_setattr(c->b->tree, c->call, dir, NULL, &set, &attr) < 0)
        back->valid = 0;
    return 0;
}

static void let_out(struct copy *c, struct pl_node *dir, const struct pl_setattr *back)
{
    struct pl_attr attr;
    if (c->s->self.uid == 0)
        return;
    if (back->valid)
        pl_setattr(c->b->tree, c->call, dir, NULL, back, &attr);
    space_let(c->s, &c->s->opening);
}

static int begin_copy(struct copy *c, struct pl_node *dir)
{
    struct pl_setattr back;
    int r = let_in(c, dir, &back);
    if (r < 0)
        return r;
    r = S_ISREG(c->attr.mode) ? begin_file(c, dir) : begin_other(c, dir);
    let_out(c, dir, &back);
    return r;
}

/* Makes the copy whole, in `dir`, still without its name. */
static int make_copy(struct copy *c, struct pl_node *dir, struct snode *n)
{
    int r = pl_getattr(c->from, c->call, c->lower, NULL, &c->attr);
    if (r < 0)
        return r;
    struct pl_attr up; /* a hidden name is no change of the directory */
    r = pl_getattr(c->b->tree, c->call, dir, NULL, &up);
    if (r == 0)
        r = begin_copy(c, dir);
    if (r == 0 && c->temp[0])
        set_times(c->call, c->b->tree, dir, NULL, &up);
    if (r == 0 && c->out)
        r = fill_file(c, n);
    if (r == 0)
        r = copy_attrs(c, n->ino);
    if (r < 0)
        end_copy(c, dir, r);
    return r;
}

/* Gives it its name; the directory's times stay, for nothing in it has changed. */
static int name_copy(struct copy *c, struct pl_node *dir, const char *name)
{
    struct pl_attr up, attr;
    struct pl_setattr back;
    int r = pl_getattr(c->b->tree, c->call, dir, NULL, &up);
    if (r == 0)
        r = let_in(c, dir, &back);
    if (r < 0)
        return r;
    if (!c->temp[0]) {
        r = pl_link(c->b->tree, c->call, c->node, dir, name, &attr);
    } else {
        r = pl_rename(c->b->tree, c->call, dir, c->temp, dir, name, RENAME_NOREPLACE);
        if (r == -EINVAL) /* it does not know that; we hold the directory */
            r = pl_rename(c->b->tree, c->call, dir, c->temp, dir, name, 0);
    }
    let_out(c, dir, &back);
    if (r == 0)
        set_times(c->call, c->b->tree, dir, NULL, &up);
    return r;
}

/* ---- files ---- */

/* A directory in the top for a copy: the node's own if it has one, or one above. `parent` NULL: not
 * where the node's name would be. */
static int find_dir(struct space *s, struct pl_call *call, struct snode *n, struct snode **ret,
                    char name[PL_NAME_MAX + 1], bool *named)
{
    struct snode *dir, *up;
    char skip[PL_NAME_MAX + 1];
    if (!space_place(s, n, &dir, name))
        return -ESTALE;
    *named = !n->gone;
    int r;
    while ((r = space_up_dir(s, call, dir)) == -ENOENT && space_place(s, dir, &up, skip)) {
        pl_node_unref(&dir->node);
        dir = up;
        *named = false;
    }
    if (r < 0)
        pl_node_unref(&dir->node);
    else
        *ret = dir;
    return r;
}

/* Does the name in `dir` still stand for this lower object? */
static bool still_there(struct space *s, struct pl_call *call, struct snode *dir, const char *name,
                        const struct pl_node *lower)
{
    struct space_found f;
    struct space_stack *st = space_stack(s, dir);
    bool same = space_find(s, call, dir, st, name, 0, &f) == 0;
    if (same) {
        same = f.n && f.e[0].node == lower;
        space_found_done(&f);
    }
    space_stack_unref(st);
    return same;
}

/* The same, though the owner may not search `top`, the directory's part there. */
static bool still_named(struct copy *c, struct snode *dir, struct pl_node *top, const char *name,
                        const struct pl_node *lower)
{
    struct pl_setattr back;
    if (let_in(c, top, &back) < 0)
        return false;
    bool same = still_there(c->s, c->call, dir, name, lower);
    let_out(c, top, &back);
    return same;
}

/* With the node held. `st`: its stack. */
static int up_file(struct space *s, struct pl_call *call, struct snode *n,
                   const struct space_stack *st, bool content)
{
    struct space_point *p = st->point;
    struct copy c = {.s = s, .call = call, .b = p->layer[p->top].bind, .content = content};
    struct snode *dir = NULL;
    char name[PL_NAME_MAX + 1];
    bool named = false;
    c.from = space_tree(p, st->e[0].k);
    c.lower = st->e[0].node;
    int r = find_dir(s, call, n, &dir, name, &named);
    if (r < 0)
        return r;
    struct space_stack *dst = space_stack(s, dir);
    struct pl_node *top = space_entry(dst, dst->point->top);
    if (!top || dst->point->layer[dst->point->top].bind != c.b)
        r = -ESTALE; /* removed, or moved to where others are bound */
    if (r == 0)
        r = make_copy(&c, top, n);
    if (r == 0 && (r = space_hold(s, call, &dir->held)) == 0) {
        named = named && still_named(&c, dir, top, name, c.lower);
        /* Counted as if it had no name in the top yet: whoever is killed here leaves it so. Who has
         * it open may have lost the name by which he has found it, but not the others. */
        uint64_t left = c.attr.nlink > n->hidden ? c.attr.nlink - n->hidden : 0;
        bool index = c.attr.nlink > 1 && (named || left) &&
                     space_index_add(s, call, p, c.node, n->ino, left ? left : 1) == 0;
        if (named)
            r = name_copy(&c, top, name);
        if (r == 0 && index && named)
            space_index_less(s, call, p, c.node);
        space_let(s, &dir->held);
        if (r == 0 && !named && c.temp[0])
            pl_remove(c.b->tree, call, top, c.temp, 0);
    }
    end_copy(&c, top, r);
    if (r == 0)
        n->hollow = false;
    if (r == 0)
        r = space_stack_add(s, n, p->top, c.node);
    space_stack_unref(dst);
    pl_node_unref(&dir->node);
    return r;
}

/* ---- hollow files ---- */

/* Its content, into what is in place already: its mark goes when all is there. As the owner, with
 * the node held. */
static int fill(struct space *s, struct pl_call *call, struct snode *n,
                const struct space_stack *st, bool content)
{
    struct copy c = {.s = s, .call = call, .b = st->point->layer[st->e[0].k].bind};
    char caps[64];
    const struct pl_setattr none = {.valid = PL_SET_SIZE};
    c.from = c.b->tree;
    c.content = content;
    c.lower = st->e[0].node;
    c.node = pl_node_ref(c.lower);
    ssize_t ncaps = pl_getxattr(c.from, call, c.node, CAPS, caps, sizeof(caps));
    int r = pl_getattr(c.from, call, c.node, NULL, &c.attr);
    if (r == 0)
        r = pl_open(c.from, call, c.node, O_RDWR, &c.out);
    if (r == 0)
        r = content ? fill_file(&c, n) : pl_setattr(c.from, call, c.node, c.out, &none, &c.attr);
    if (r == 0 && content)
        r = set_times(call, c.from, c.node, c.out, &c.attr);
    if (r == 0 && content && c.attr.mode & (S_ISUID | S_ISGID)) /* writing may take them away */
        r = copy_mode(&c, false);
    if (r == 0 && content && ncaps > 0)
        r = pl_setxattr(c.from, call, c.node, CAPS, caps, (size_t)ncaps, 0);
    if (r == 0)
        r = space_note_filled(call, c.from, c.node);
    end_copy(&c, NULL, 0);
    pl_node_unref(c.node);
    if (r == 0) {
        n->hollow = false;
        n->raised = true;
    }
    return r;
}

static int up_hollow(struct space *s, struct pl_call *call, struct snode *n, bool content)
{
    int r = space_hold(s, call, &n->held);
    if (r < 0)
        return r;
    struct space_stack *st = space_stack(s, n);
    struct space_as as = space_self(s, call);
    if (n->hollow)
        r = fill(s, call, n, st, content);
    space_back(call, &as);
    space_stack_unref(st);
    space_let(s, &n->held);
    return r;
}

int space_up_name(struct space *s, struct pl_call *call, struct snode *dir, const char *name)
{
    struct space_found f;
    struct pl_attr up, attr;
    int r = space_up_dir(s, call, dir);
    if (r == 0)
        r = space_hold(s, call, &dir->held);
    if (r < 0)
        return r;
    struct space_stack *st = space_stack(s, dir);
    int top = st->point->top;
    struct pl_tree *in = space_tree(st->point, top);
    struct pl_node *to = space_entry(st, top);
    r = space_find(s, call, dir, st, name, 0, &f);
    if (r < 0)
        f.table = NULL;
    if (r == 0 && f.indexed) {
        r = pl_getattr(in, call, to, NULL, &up);
        if (r == 0)
            r = pl_link(in, call, f.e[0].node, to, name, &attr);
        if (r == 0) {
            set_times(call, in, to, NULL, &up);
            space_index_less(s, call, st->point, f.e[0].node);
        }
    }
    if (f.table)
        space_found_done(&f);
    space_stack_unref(st);
    space_let(s, &dir->held);
    return r == -ENOENT ? 0 : r; /* seen when it is looked for again */
}

int space_up(struct space *s, struct pl_call *call, struct snode *n, bool content)
{
    int r = -EEXIST;
    for (int tries = 0; r == -EEXIST && tries < 4; tries++) {
        struct space_stack *st = space_stack(s, n);
        bool there = st->n && space_in_place(st->point, st->e[0].k);
        bool can = st->point->top >= 0;
        space_stack_unref(st);
        if (there && n->hollow)
            return up_hollow(s, call, n, content);
        if (there || !can)
            return there ? 0 : -EROFS;
        if (n->node.fmt == S_IFDIR)
            return space_up_dir(s, call, n);
        r = space_hold(s, call, &n->held);
        if (r < 0)
            return r;
        st = space_stack(s, n);
        if (!space_in_place(st->point, st->e[0].k)) {
            struct space_as as = space_self(s, call);
            r = up_file(s, call, n, st, content);
            space_back(call, &as);
        }
        space_let(s, &n->held);
        space_stack_unref(st);
    }
    return r == -EEXIST ? -ESTALE : r; /* -EEXIST: somebody else was faster, in the tree itself */
}

/* ---- directories ---- */

/* The directory in the top: made as the first one merged. With the parent held. */
static int make_dir(struct space *s, struct pl_call *call, struct snode *n,
                    const struct space_stack *st, struct pl_node *in, const char *name,
                    struct pl_node **ret)
{
    struct space_point *p = st->point;
    struct copy c = {.s = s, .call = call, .b = p->layer[p->top].bind};
    int r;
    if (st->n) {
        c.from = space_tree(p, st->e[0].k);
        c.lower = st->e[0].node;
        r = make_copy(&c, in, n);
        if (r == 0)
            r = name_copy(&c, in, name);
        end_copy(&c, in, r);
        *ret = c.node;
        return r;
    }
    const struct pl_make make = {.mode = S_IFDIR | 0755};
    struct pl_attr attr;
    return pl_make(c.b->tree, call, in, name, &make, ret, &attr);
}

static int up_in(struct space *s, struct pl_call *call, struct snode *n, struct snode *parent,
                 const char *name)
{
    int r = space_up_dir(s, call, parent);
    if (r == 0)
        r = space_hold(s, call, &parent->held);
    if (r < 0)
        return r;
    struct space_stack *st = space_stack(s, n), *up = space_stack(s, parent);
    int top = st->point->top;
    struct pl_node *in = space_entry(up, up->point->top), *made = NULL;
    struct copy c = {.s = s, .call = call, .b = st->point->layer[top].bind};
    if (up->point->layer[up->point->top].bind != st->point->layer[top].bind)
        r = -EROFS;
    else if (!in)
        r = -ENOENT; /* it was removed there meanwhile */
    else if (!space_entry(st, top))
        r = !st->n || still_named(&c, parent, in, name, st->e[0].node)
                ? make_dir(s, call, n, st, in, name, &made)
                : -ENOENT;
    if (r == 0 && made)
        r = space_stack_add(s, n, top, made);
    space_let(s, &parent->held);
    space_stack_unref(st);
    space_stack_unref(up);
    return r;
}

static int up_dir(struct space *s, struct pl_call *call, struct snode *n,
                  const struct space_stack *st)
{
    struct space_point *p = st->point;
    if (st->spot && st->spot->here && p->layer[p->top].own) {
        struct pl_node *made;
        struct pl_attr attr;
        int r = space_layer_root(s, call, p, p->top, true, &made, &attr);
        if (r == 0 && made->fmt != S_IFDIR) {
            pl_node_unref(made);
            r = -ENOTDIR;
        }
        return r < 0 ? r : space_stack_add(s, n, p->top, made);
    }
    if (st->n == 0 && !(st->spot && st->spot->here))
        return -EROFS; /* it only leads to a binding */
    struct snode *parent;
    char name[PL_NAME_MAX + 1];
    if (!space_place(s, n, &parent, name))
        return -ENOENT;
    int r = up_in(s, call, n, parent, name);
    pl_node_unref(&parent->node);
    return r;
}

int space_up_dir(struct space *s, struct pl_call *call, struct snode *n)
{
    int r = -EEXIST;
    for (int tries = 0; r == -EEXIST && tries < 4; tries++) {
        struct space_stack *st;
        if ((r = space_dir(s, call, n, &st)) < 0)
            return r;
        if (st->point->top < 0)
            r = -EROFS;
        else if (n->gone)
            r = -ENOENT;
        else if (!space_entry(st, st->point->top)) {
            struct space_as as = space_self(s, call);
            r = up_dir(s, call, n, st);
            space_back(call, &as);
        }
        space_stack_unref(st);
    }
    return r == -EEXIST ? -ESTALE : r;
}

/* ---- all below a directory ---- */

struct all {
    struct space *s;
    struct pl_call *call;
    struct snode *dir;
};

static int up_one(void *arg, const char *name)
{
    struct all *a = arg;
    struct space_stack *st = space_stack(a->s, a->dir);
    struct snode *n;
    struct pl_attr attr;
    int r = space_child(a->s, a->call, a->dir, st, name, &n, &attr);
    space_stack_unref(st);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    r = n->node.fmt == S_IFDIR ? space_up_all(a->s, a->call, n) : space_up(a->s, a->call, n, true);
    pl_node_unref(&n->node);
    return r;
}

int space_up_all(struct space *s, struct pl_call *call, struct snode *n)
{
    struct all a = {s, call, n};
    struct space_as as = space_self(s, call);
    int r = space_up_dir(s, call, n);
    struct space_stack *st = space_stack(s, n);
    if (r == 0)
        r = space_each_name(s, call, st, up_one, &a);
    space_stack_unref(st);
    st = space_stack(s, n);
    if (r == 0 && st->n > 1)
        r = space_note_opaque(call, st->point->layer[st->point->top].bind,
                              space_entry(st, st->point->top));
    space_stack_unref(st);
    space_back(call, &as);
    return r;
}
