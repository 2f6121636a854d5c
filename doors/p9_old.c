/* SPDX-License-Identifier: MIT */
/*
 * The older dialects: opening, creating, and directories as files full of stats; as Plan 9's manual
 * has it (open(5), read(5)), and in 9P2000.u what Linux's client makes of it. What else there is of
 * them is in p9_stat.c, and in p9_walk.c for symlinks.
 */
#include "base/cursor.h"
#include "doors/p9_door.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- opening ---- */

/* The flags of open(2), or -EINVAL. */
static int open_flags(const struct p9d_op *op)
{
    static const int access[] = {O_RDONLY, O_WRONLY, O_RDWR, O_RDONLY};
    uint8_t m = op->in->omode, known = 3 | P9_OTRUNC | P9_OCEXEC | P9_ORCLOSE;
    if (p9d_dialect(op) == P9_U)
        known |= P9_OAPPEND;
    if (m & ~known)
        return -EINVAL;
    return access[m & 3] | (m & P9_OTRUNC ? O_TRUNC : 0) | (m & P9_OAPPEND ? O_APPEND : 0);
}

/* It is illegal to write a directory, truncate it, or attempt to remove it on close. */
static int dir_flags(uint8_t omode)
{
    if (omode & ~P9_OCEXEC)
        return -EISDIR;
    return O_RDONLY | O_DIRECTORY;
}

static int may_remove(struct p9d_op *op, struct p9d_fid *fid)
{
    char name[LIMIT_NAME + 1];
    struct pl_node *parent;
    int r = p9d_find_name(op->call, fid, &parent, name);
    if (r == 0) {
        r = pl_access(fid->at->tree, op->call, parent, W_OK | X_OK);
        pl_node_unref(parent);
    }
    return r;
}

static int may_open(struct p9d_op *op, struct p9d_fid *fid, uint32_t dm)
{
    int r = 0;
    if ((op->in->omode & 3) == P9_OEXEC)
        r = pl_access(fid->at->tree, op->call, fid->node, X_OK);
    if (r == 0 && (op->in->omode & P9_ORCLOSE))
        r = may_remove(op, fid);
    if (r == 0 && (op->in->omode & P9_OTRUNC) && (dm & P9_DMAPPEND))
        r = pl_access(fid->at->tree, op->call, fid->node, W_OK);
    return r;
}

static int new_stream(struct p9d_fid *fid)
{
    if (!S_ISDIR(fid->node->fmt) || fid->stream)
        return 0;
    if (!(fid->stream = calloc(1, sizeof(*fid->stream))))
        return -ENOMEM;
    pthread_mutex_init(&fid->stream->mutex, NULL);
    return 0;
}

int p9d_open(struct p9d_op *op)
{
    struct p9d_fid *fid = op->fid;
    struct pl_tree *tree = fid->at->tree;
    struct pl_file *file;
    struct pl_attr attr;
    if (p9d_file(fid))
        return -EINVAL;
    if (S_ISLNK(fid->node->fmt))
        return p9d_dialect(op) == P9_BASE ? -ENOENT : -ELOOP;
    if (!S_ISREG(fid->node->fmt) && !S_ISDIR(fid->node->fmt))
        return -ENXIO; /* devices and the like open at the client, if anywhere */
    uint32_t dm = p9d_special(op->session->door, fid->node);
    int flags = S_ISDIR(fid->node->fmt) ? dir_flags(op->in->omode) : open_flags(op);
    int r = flags < 0 ? flags : may_open(op, fid, dm);
    if (r == 0)
        r = new_stream(fid);
    if (r == 0)
        r = p9d_special_open(fid);
    if (r < 0)
        return r;
    if (dm & P9_DMAPPEND) /* then OTRUNC is no error, and does nothing */
        flags = (flags & ~O_TRUNC) | O_APPEND;
    r = pl_open(tree, op->call, fid->node, flags, &file);
    if (r == 0 && (r = pl_getattr(tree, op->call, fid->node, file, &attr)) < 0)
        pl_close(tree, op->call, file);
    if (r < 0) {
        if (fid->special)
            p9d_special_close(fid);
        return r;
    }
    op->out->qid = p9d_qid(&attr);
    op->out->qid.type |= (uint8_t)(dm >> 24);
    fid->rclose = op->in->omode & P9_ORCLOSE;
    atomic_store_explicit(&fid->file, file, memory_order_release);
    return 0;
}

/* ---- creating ---- */

/* What was made; its references are put into op->made. */
struct made {
    struct pl_node *node;
    struct pl_file *file; /* or NULL */
    struct pl_attr attr;
};

/* The mode of what is made in a directory: in 9P2000 it gets no permission that the directory has
 * not, in 9P2000.u what was asked for. */
static int mode_of(struct p9d_op *op, uint32_t *ret)
{
    uint32_t dm = op->in->mode, mode = dm & 0777, rw = dm & P9_DMDIR ? 0777 : 0666;
    struct pl_attr dir;
    if (p9d_dialect(op) == P9_U) {
        mode |= (dm & P9_DMSETUID ? S_ISUID : 0) | (dm & P9_DMSETGID ? S_ISGID : 0) |
                (dm & P9_DMSETVTX ? S_ISVTX : 0);
    } else {
        int r = pl_getattr(op->fid->at->tree, op->call, op->fid->node, NULL, &dir);
        if (r < 0)
            return r;
        mode &= ~rw | (dir.mode & rw);
    }
    *ret = mode;
    return 0;
}

static int make_dir(struct p9d_op *op, const char *name, uint32_t mode, struct made *m)
{
    struct p9d_fid *dir = op->fid;
    struct pl_make make = {.mode = S_IFDIR | mode};
    int flags = dir_flags(op->in->omode);
    if (flags < 0)
        return flags;
    int r = pl_make(dir->at->tree, op->call, dir->node, name, &make, &m->node, &m->attr);
    if (r == 0 && (r = pl_open(dir->at->tree, op->call, m->node, flags, &m->file)) < 0)
        pl_node_unref(m->node);
    return r;
}

static int make_file(struct p9d_op *op, const char *name, uint32_t mode, struct made *m)
{
    struct p9d_fid *dir = op->fid;
    int flags = open_flags(op);
    if (flags < 0)
        return flags;
    if (op->in->mode & P9_DMAPPEND)
        flags |= O_APPEND;
    return pl_create(dir->at->tree, op->call, dir->node, name, flags | O_EXCL, mode, &m->node,
                     &m->attr, &m->file);
}

/* 9P2000.u: a hard link to the file of another fid, whose number is the extension. */
static int make_link(struct p9d_op *op, const char *name, struct made *m)
{
    struct p9d_fid *dir = op->fid;
    char *end;
    const char *text = op->in->extension.len ? op->in->extension.s : "";
    unsigned long num = strtoul(text, &end, 10);
    if (end == text || (*end && *end != '\n') || num >= P9_NOFID)
        return -EINVAL;
    struct p9d_fid *to = p9d_fid_get(op->session, (uint32_t)num);
    int r = !to ? -EBADF : to->at->tree != dir->at->tree ? -EXDEV : 0;
    if (r == 0)
        r = pl_link(dir->at->tree, op->call, to->node, dir->node, name, &m->attr);
    if (r == 0)
        m->node = pl_node_ref(to->node);
    p9d_fid_unref(to);
    return r;
}

/* 9P2000.u: symlinks, devices and the rest, which are made and not opened. */
static int make_special(struct p9d_op *op, const char *name, uint32_t mode, struct made *m)
{
    struct p9d_fid *dir = op->fid;
    const char *text = op->in->extension.len ? op->in->extension.s : "";
    struct pl_make make = {0};
    char kind;
    if (op->in->mode & P9_DMLINK)
        return make_link(op, name, m);
    if (op->in->mode & P9_DMSYMLINK) {
        make.mode = S_IFLNK | 0777;
        make.target = text;
        if (!*text)
            return -ENOENT;
    } else if (op->in->mode & P9_DMNAMEDPIPE) {
        make.mode = S_IFIFO | mode;
    } else if (op->in->mode & P9_DMSOCKET) {
        make.mode = S_IFSOCK | mode;
    } else if (sscanf(text, "%c %u %u", &kind, &make.rdev_major, &make.rdev_minor) == 3 &&
               (kind == 'b' || kind == 'c')) {
        make.mode = (kind == 'b' ? S_IFBLK : S_IFCHR) | mode;
    } else {
        return -EINVAL;
    }
    return pl_make(dir->at->tree, op->call, dir->node, name, &make, &m->node, &m->attr);
}

static int make_any(struct p9d_op *op, const char *name, struct made *m)
{
    const uint32_t special = P9_DMSYMLINK | P9_DMLINK | P9_DMDEVICE | P9_DMNAMEDPIPE | P9_DMSOCKET;
    uint32_t mode, dm = op->in->mode;
    uint32_t known = P9_DMDIR | P9_DMAPPEND | P9_DMEXCL | P9_DMTMP | 0777;
    if (p9d_dialect(op) == P9_U)
        known |= special | P9_DMSETUID | P9_DMSETGID | P9_DMSETVTX | 07000;
    if (dm & ~known)
        return dm & special ? -EPERM : -EINVAL;
    int r = mode_of(op, &mode);
    if (r < 0)
        return r;
    if (dm & P9_DMDIR)
        return make_dir(op, name, mode, m);
    if (dm & special)
        return make_special(op, name, mode, m);
    return make_file(op, name, mode, m);
}

/* The fid becomes what was made. */
static int become(struct p9d_op *op, const char *name, const struct made *m)
{
    struct p9d_attach *at = op->fid->at;
    uint32_t dm = op->in->mode & (P9_DMAPPEND | P9_DMEXCL);
    struct p9d_fid *fid = p9d_fid_new(op->session, at, m->node, op->fid->node, name);
    int r = fid ? new_stream(fid) : -ENOMEM;
    if (r == 0 && m->file && dm && S_ISREG(m->node->fmt)) {
        r = p9d_special_set(op->session->door, m->node, dm);
        if (r == 0)
            r = p9d_special_open(fid);
    }
    if (r < 0) {
        if (m->file)
            pl_close(at->tree, op->call, m->file);
        p9d_fid_unref(fid);
        return r;
    }
    fid->rclose = m->file && (op->in->omode & P9_ORCLOSE);
    atomic_store_explicit(&fid->file, m->file, memory_order_release);
    op->made = fid;
    op->out->qid = p9d_qid(&m->attr);
    op->out->qid.type |= (uint8_t)(dm >> 24);
    return 0;
}

int p9d_create(struct p9d_op *op)
{
    const char *name = op->in->name.len ? op->in->name.s : "";
    struct made m = {0};
    int r = p9d_dir_ok(op->fid);
    if (r == 0)
        r = p9d_name_ok(name);
    if (r == 0 && p9d_file(op->fid))
        r = -EINVAL;
    if (r == 0)
        r = make_any(op, name, &m);
    if (r < 0)
        return r;
    r = become(op, name, &m);
    pl_node_unref(m.node);
    return r;
}

/* ---- directories ---- */

/* Names taken out of a directory, to be looked up when it has been read: not while it is. Each is
 * its position[8], number[8], type[1], length[1], and the name with NUL. */
struct names {
    uint8_t buf[4096];
    size_t used;
    uint64_t next; /* the position behind the last that was seen */
    bool any;      /* some entry was seen */
};
enum { NAME_HEAD = 8 + 8 + 1 + 1 };

static int take_name(void *arg, const struct pl_dirent *ent)
{
    struct names *l = arg;
    size_t n = strlen(ent->name);
    if (n > LIMIT_NAME || !strcmp(ent->name, ".") || !strcmp(ent->name, "..")) {
        l->any = true;
        l->next = ent->next;
        return 0;
    }
    struct cursor c = cursor_at(l->buf + l->used, sizeof(l->buf) - l->used);
    cursor_put(&c, 8, ent->next);
    cursor_put(&c, 8, ent->ino);
    cursor_put(&c, 1, ent->type);
    cursor_put(&c, 1, n);
    cursor_put_bytes(&c, ent->name, n + 1);
    if (c.bad)
        return 1;
    l->used += NAME_HEAD + n + 1;
    l->any = true;
    l->next = ent->next;
    return 0;
}

/* What an entry of the directory is; of one that may not be looked up only what the directory
 * says. -ENOENT: it is gone. */
static int look(struct p9d_op *op, const char *name, uint64_t ino, uint8_t type,
                struct pl_node **ret, struct pl_attr *attr)
{
    struct p9d_fid *dir = op->fid;
    struct pl_node *to;
    struct pl_attr to_attr;
    *ret = NULL;
    int r = pl_lookup(dir->at->tree, op->call, dir->node, name, ret, attr);
    if (r == -EACCES) {
        *attr = (struct pl_attr){.ino = ino, .mode = DTTOIF(type == DT_LNK ? DT_REG : type)};
        return 0;
    }
    if (r == 0 && p9d_dialect(op) == P9_BASE && S_ISLNK(attr->mode) &&
        p9d_follow(op, dir->node, *ret, &to, &to_attr) == 0) {
        pl_node_unref(*ret);
        *ret = to;
        *attr = to_attr;
    }
    return r;
}

/* Where stats go, and how far they got. */
struct fill {
    uint8_t *buf;
    size_t used, room;
    bool full;
    uint64_t pos; /* behind the last entry that is in, or gone */
};

static int fill_from(struct p9d_op *op, const struct names *l, struct fill *f)
{
    struct p9d_stat_text *text = malloc(sizeof(*text));
    int r = text ? 0 : -ENOMEM;
    for (size_t at = 0; r == 0 && at < l->used && !f->full;) {
        struct cursor c = cursor_at((uint8_t *)l->buf + at, l->used - at);
        uint64_t next = cursor_get(&c, 8), ino = cursor_get(&c, 8);
        uint8_t type = (uint8_t)cursor_get(&c, 1), n = (uint8_t)cursor_get(&c, 1);
        const char *name = (const char *)cursor_take(&c, (size_t)n + 1);
        struct pl_node *node;
        struct pl_attr attr;
        struct p9_stat st;
        at += NAME_HEAD + (size_t)n + 1;
        r = look(op, name, ino, type, &node, &attr);
        if (r == 0)
            r = p9d_fill_stat(op, node, &attr, name, text, &st);
        pl_node_unref(node);
        if (r == 0)
            r = p9_stat_put(p9d_dialect(op), f->buf + f->used, f->room - f->used, &st);
        if (r == 0) {
            f->full = true;
            break;
        }
        if (r > 0)
            f->used += (size_t)r;
        else if (r != -ENOENT && r != -ENOTDIR && r != -ESTALE)
            break;
        r = 0; /* what is gone meanwhile is left out */
        f->pos = next;
    }
    free(text);
    return r;
}

static int read_on(struct p9d_op *op, struct fill *f)
{
    struct p9d_fid *dir = op->fid;
    struct names *l = malloc(sizeof(*l));
    int r = l ? 0 : -ENOMEM;
    while (r == 0 && !f->full) {
        l->used = 0;
        l->any = false;
        r = pl_readdir(dir->at->tree, op->call, p9d_file(dir), f->pos, take_name, l);
        if (r < 0 || !l->any)
            break;
        r = fill_from(op, l, f);
        if (r == 0 && !f->full) {
            f->pos = l->next;
            r = pl_call_over(op->call);
        }
    }
    free(l);
    return r;
}

/* read(5): whole entries, from the beginning or from where the last read of the fid ended. None
 * where not even one fits: Linux's client asks for what is left of its buffer until it gets 0. */
int p9d_read_stats(struct p9d_op *op)
{
    struct p9d_stream *s = op->fid->stream;
    struct fill f = {.room = p9d_payload(op, op->in->count)};
    f.buf = op->out->data;
    if (!f.buf || !s)
        return f.buf ? -EINVAL : -ENOMEM;
    pthread_mutex_lock(&s->mutex);
    int r = op->in->offset && op->in->offset != s->off ? -ESPIPE : 0;
    if (r == 0) {
        f.pos = op->in->offset ? s->pos : 0;
        r = read_on(op, &f);
    }
    if (f.used)
        r = 0; /* an error is told by the next read */
    if (r == 0) {
        s->off = op->in->offset + f.used;
        s->pos = f.pos;
        op->out->count = (uint32_t)f.used;
    }
    pthread_mutex_unlock(&s->mutex);
    return r;
}
