/* SPDX-License-Identifier: MIT */
/* Where objects are in both trees, and what is noted of them for later. */
#include "sync/replica_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SYNC_EACH 64 /* so many are synced with the whole file system, where that is possible */

int64_t replica_ns(const struct timespec *t)
{
    return t->tv_sec * 1000000000ll + t->tv_nsec;
}

bool replica_minor(int e)
{
    static const int minor[] = {EACCES, EPERM, EOPNOTSUPP, EINVAL, ENAMETOOLONG, ELOOP,     EEXIST,
                                EISDIR, ENXIO, ENOTDIR,    EMLINK, EFBIG,        ENOTEMPTY, EILSEQ,
                                E2BIG,  EXDEV, ETXTBSY,    EBUSY,  EOVERFLOW,    ENODEV};
    for (size_t i = 0; i < sizeof(minor) / sizeof(*minor); i++)
        if (e == -minor[i])
            return true;
    return false;
}

void replica_tell(struct replica *r, enum replica_kind kind, const char *path, const char *detail)
{
    atomic_fetch_add(&r->count->n[kind], 1);
    if (r->tell)
        r->tell(r->arg, kind, path, detail);
}

/* ---- finding ---- */

void replica_spot_clear(struct spot *s)
{
    if (s->node)
        pl_node_unref(s->node);
    free(s->path);
    *s = (struct spot){0};
}

/* The directory of a path, by the way of the one used last. */
static int spot_dir(struct replica *r, struct pl_tree *t, struct spot *s, const char *path,
                    struct pl_node **ret)
{
    size_t n = (size_t)(strrchr(path, '/') - path);
    struct pl_attr attr;
    if (!s->node || strlen(s->path) != n || memcmp(s->path, path, n) != 0) {
        replica_spot_clear(s);
        s->path = strndup(path, n);
        int e = s->path ? pl_attach(t, r->call, s->path, &s->node, &attr) : -ENOMEM;
        if (e < 0) {
            s->node = NULL;
            replica_spot_clear(s);
            return e == -ENOTDIR ? -ENOENT : e;
        }
        if (!S_ISDIR(attr.mode)) {
            replica_spot_clear(s);
            return -ENOENT;
        }
        s->ino = attr.ino;
    }
    *ret = s->node;
    return 0;
}

const char *replica_last_name(const char *path)
{
    return strrchr(path, '/') + 1;
}

static int find(struct replica *r, struct pl_tree *t, struct spot *s, const char *path,
                struct pl_node **ret, struct pl_attr *attr)
{
    struct pl_node *dir;
    if (!path[1])
        return pl_attach(t, r->call, "", ret, attr);
    int e = spot_dir(r, t, s, path, &dir);
    return e < 0 ? e : pl_lookup(t, r->call, dir, replica_last_name(path), ret, attr);
}

int replica_src_find(struct replica *r, const char *path, struct pl_node **ret,
                     struct pl_attr *attr)
{
    return find(r, r->src, &r->p->sdir, path, ret, attr);
}

int replica_dst_find(struct replica *r, const char *path, struct pl_node **ret,
                     struct pl_attr *attr)
{
    return find(r, r->dst, &r->p->ddir, path, ret, attr);
}

int replica_dst_dir(struct replica *r, const char *path, struct pl_node **ret)
{
    return spot_dir(r, r->dst, &r->p->ddir, path, ret);
}

int replica_dst_gone(struct replica *r, const struct pair *p, int e)
{
    struct pl_node *node;
    struct pl_attr attr;
    if (e != -ENOENT && e != -ESTALE)
        return e;
    replica_spot_clear(&r->p->ddir);
    int is = replica_dst_find(r, p->path, &node, &attr);
    if (is == -ENOENT)
        return FOREIGN;
    if (is < 0)
        return is;
    pl_node_unref(node);
    return attr.ino == p->dattr.ino ? e : FOREIGN;
}

/* Is there nothing at the path in the source? What cannot be seen is not therefore gone. */
bool replica_src_gone(struct replica *r, const char *path)
{
    struct pl_node *node;
    struct pl_attr attr;
    int e = replica_src_find(r, path, &node, &attr);
    if (e == 0)
        pl_node_unref(node);
    return e == -ENOENT || e == -ENOTDIR;
}

/* The number of what is at the path in the source; 0: nothing that can be seen. */
uint64_t replica_src_ino(struct replica *r, const char *path)
{
    struct pl_node *node;
    struct pl_attr attr;
    if (replica_src_find(r, path, &node, &attr) < 0)
        return 0;
    pl_node_unref(node);
    return attr.ino;
}

void replica_add_id(struct ids *ids, const struct note *n)
{
    if (ids->n && ids->v[ids->n - 1] == n->id)
        return;
    if (ids->n == ids->room) {
        size_t room = ids->room ? 2 * ids->room : 64;
        uint32_t *v = reallocarray(ids->v, room, sizeof(*v));
        if (!v)
            return; /* a comparison of the whole puts it right */
        ids->v = v;
        ids->room = room;
    }
    ids->v[ids->n++] = n->id;
}

/* Its times are not the source's any more, by our doing: so it is noted until they are. */
void replica_touch(struct replica *r, struct note *dir)
{
    replica_add_id(&r->p->touched, dir);
    if (!(dir->o->flags & NOTE_LOST)) {
        dir->o->flags |= NOTE_LOST;
        notes_put(r->notes, dir);
    }
}

void replica_list(struct replica *r, struct note *dir)
{
    if (!dir->to_list)
        replica_add_id(&r->p->deep, dir);
    dir->to_list = true;
}

void replica_doom(struct replica *r, struct note *n)
{
    if (!n->is_doomed)
        replica_add_id(&r->p->doomed, n);
    n->is_doomed = true;
}

/* An object that cannot be made so: told, noted, and the rest goes on. */
int replica_trouble(struct replica *r, const char *path, struct note *n, int e)
{
    if (e == -ENOENT) { /* gone meanwhile, which is told of in its turn? Or is it the replica's? */
        replica_spot_clear(&r->p->sdir);
        if (replica_src_gone(r, path))
            return 0;
    } else if (!replica_minor(e)) {
        return e;
    }
    replica_tell(r, REPLICA_CANNOT, path, strerror(-e));
    if (n) {
        n->o->flags |= NOTE_BAD;
        notes_put(r->notes, n);
    }
    return 0;
}

/* ---- on the disk ---- */

static int sync_one(struct replica *r, const struct note *n)
{
    char path[PATH_SIZE];
    struct pl_node *node;
    struct pl_attr attr;
    struct pl_file *f;
    bool dir = S_ISDIR(n->fmt);
    if (!(dir || S_ISREG(n->fmt)) || !notes_path(n, path, sizeof(path)))
        return 0; /* others have nothing but their name */
    int e = replica_dst_find(r, path, &node, &attr);
    if (e < 0)
        return e;
    e = pl_open(r->dst, r->call, node, O_RDONLY | (dir ? O_DIRECTORY : 0), &f);
    if (e == -EACCES && !dir)
        e = pl_open(r->dst, r->call, node, O_WRONLY, &f);
    if (e == 0) {
        e = pl_fsync(r->dst, r->call, f, false);
        pl_close(r->dst, r->call, f);
    }
    pl_node_unref(node);
    return e;
}

int replica_sync(struct replica *r)
{
    /* Of a peer only one of ours is known to do more than to say yes. */
    bool can = r->p->local || (r->dst->flags & PL_TREE_PLUS);
    bool each = !can || r->p->dirty.n < SYNC_EACH;
    int e = 0;
    if (!r->no_sync && !each)
        e = pl_syncfs(r->dst, r->call, r->p->droot);
    if (e == -EOPNOTSUPP || e == -ENOSYS) {
        each = true;
        e = 0;
    }
    for (size_t i = 0; i < r->p->dirty.n && !r->no_sync && each && e == 0; i++) {
        const struct note *n = r->notes->by_id[r->p->dirty.v[i]];
        e = n ? sync_one(r, n) : 0;
        e = e == -ESTALE ? sync_one(r, n) : e; /* somebody has put another in its place */
        /* It has gone, or there is no such thing in this tree. */
        e = replica_minor(e) || e == -ENOENT || e == -ENOSYS ? 0 : e;
    }
    if (e < 0)
        return e;
    r->p->dirty.n = 0;
    notes_safe(r->notes);
    return 0;
}
