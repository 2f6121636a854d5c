/* SPDX-License-Identifier: MIT */
#include "keeper/nested.h"
#include "fuse/msg.h"
#include "keeper/mountinfo.h"
#include "keeper/wire.h"
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define WAYS_MAX 4096 /* objects on the way; mounts beyond are not led to */
#define BATCH    256

/* An object that leads to something mounted, or is where that is mounted. Entry 0 is the root, each
 * parent stands before its children. */
struct way {
    uint32_t nodeid; /* 0: the ledger does not know it */
    size_t parent;
    char *name;
};

struct nested {
    struct way *way;
    size_t n, room;
    bool any; /* something is mounted below */
};

static void clear(struct nested *t)
{
    for (size_t i = 0; i < t->n; i++)
        free(t->way[i].name);
    free(t->way);
    *t = (struct nested){0};
}

/* The node that the kernel knows as `name` in `dir`. */
static uint32_t find_node(const struct ledger *l, uint32_t dir, const char *name)
{
    uint32_t hash = ledger_hash(name), found = 0;
    uint32_t used = atomic_load(&l->head->nodes_used);
    used = used < l->head->nnodes ? used : l->head->nnodes;
    for (uint32_t i = FUSE_ROOT_ID + 1; dir && i <= used; i++) {
        const struct ledger_node *n = ledger_node(l, i);
        if (!n || atomic_load(&n->parent) != dir || atomic_load(&n->name_hash) != hash)
            continue;
        if (found)
            return 0; /* two names with one hash */
        found = i;
    }
    return found;
}

/* The child `name` of way `dir`, added if it is new; -1: no room. */
static ssize_t step(struct kept *m, struct nested *t, size_t dir, const char *name)
{
    for (size_t i = dir + 1; i < t->n; i++)
        if (t->way[i].parent == dir && strcmp(t->way[i].name, name) == 0)
            return (ssize_t)i;
    if (t->n == t->room) {
        size_t room = t->room ? 2 * t->room : 64;
        struct way *more = room > WAYS_MAX ? NULL : realloc(t->way, room * sizeof(*more));
        if (!more)
            return -1;
        t->way = more;
        t->room = room;
    }
    struct way w = {.parent = dir, .name = strdup(name)};
    if (!w.name)
        return -1;
    w.nodeid = t->n == 0 ? FUSE_ROOT_ID : find_node(m->ledger, t->way[dir].nodeid, name);
    t->way[t->n] = w;
    return (ssize_t)t->n++;
}

struct gathering {
    struct kept *m;
    struct nested *t;
};

static int gather(void *arg, const struct mountinfo *info)
{
    struct gathering *g = arg;
    size_t len = strlen(g->m->path);
    if (strncmp(info->point, g->m->path, len) != 0 || info->point[len] != '/')
        return 0;
    g->t->any = true;
    char *copy = strdup(info->point + len), *rest = copy, *name;
    ssize_t at = 0;
    while (at >= 0 && (name = strsep(&rest, "/")))
        if (*name)
            at = step(g->m, g->t, (size_t)at, name);
    free(copy);
    return 0;
}

bool nested_refresh(struct kept *m)
{
    struct nested *t = m->in.nested;
    clear(t);
    if (step(m, t, 0, "") < 0)
        return true;
    mountinfo_each(gather, &(struct gathering){m, t});
    return t->any;
}

bool nested_begin(struct kept *m)
{
    struct pollfd p = {.fd = m->fd, .events = POLLIN};
    if (!m->ledger || !atomic_load(&m->ledger->head->agreed) || m->fd < 0 ||
        (poll(&p, 1, 0) > 0 && (p.revents & (POLLERR | POLLHUP))) ||
        !(m->in.nested = calloc(1, sizeof(*m->in.nested))))
        return false;
    if (!nested_refresh(m) || stand_in_open(m) < 0) {
        nested_end(m);
        return false;
    }
    stand_in_resend(m); /* what the dead server has left unanswered */
    return true;
}

void nested_end(struct kept *m)
{
    if (m->in.nested)
        clear(m->in.nested);
    free(m->in.nested);
    m->in.nested = NULL;
}

/* ---- answers ---- */

static const struct way *way_of(const struct nested *t, uint64_t nodeid)
{
    for (size_t i = 0; nodeid && i < t->n; i++)
        if (t->way[i].nodeid == nodeid)
            return &t->way[i];
    return NULL;
}

static void attr_of(const struct kept *m, uint32_t nodeid, struct fuse_attr *ret)
{
    const struct ledger_node *n = &m->ledger->node[nodeid];
    *ret = (struct fuse_attr){.ino = n->ino,
                              .mode = n->mode,
                              .uid = n->uid,
                              .gid = n->gid,
                              .nlink = S_ISDIR(n->mode) ? 2 : 1,
                              .blksize = 4096};
}

static int do_lookup(struct kept *m, const struct way *dir, const struct fuse_msg *msg,
                     struct fuse_entry_out *out)
{
    const struct nested *t = m->in.nested;
    for (size_t i = 1; i < t->n; i++) {
        const struct way *w = &t->way[i];
        if (&t->way[w->parent] != dir || strcmp(w->name, msg->name) != 0)
            continue;
        if (!w->nodeid)
            return -ENOMEM;
        out->nodeid = w->nodeid;
        out->generation = m->ledger->node[w->nodeid].generation;
        out->entry_valid = out->attr_valid = 1;
        attr_of(m, w->nodeid, &out->attr);
        return 0;
    }
    return -ENOTCONN;
}

struct listing {
    char buf[8192];
    size_t n, size, skip;
    uint64_t next;
    bool plus;
};

static void list_one(struct listing *l, uint64_t ino, uint32_t type, const char *name)
{
    struct fuse_dirent e = {
        .ino = ino, .off = ++l->next, .namelen = (uint32_t)strlen(name), .type = type};
    size_t head = l->plus ? sizeof(struct fuse_entry_out) : 0; /* zeros: look it up yourself */
    size_t n = head + FUSE_PAD(sizeof(e) + e.namelen);
    if (l->next <= l->skip)
        return;
    if (l->n + n > l->size) {
        l->size = l->n; /* full: no later, shorter one either */
        return;
    }
    memset(l->buf + l->n, 0, n);
    memcpy(l->buf + l->n + head, &e, sizeof(e));
    memcpy(l->buf + l->n + head + sizeof(e), name, e.namelen);
    l->n += n;
}

static void do_readdir(struct kept *m, const struct way *dir, const struct fuse_msg *msg)
{
    const struct nested *t = m->in.nested;
    static struct listing l;
    l.size = msg->a.read.size < sizeof(l.buf) ? msg->a.read.size : sizeof(l.buf);
    l.n = l.next = 0;
    l.skip = msg->a.read.offset;
    l.plus = msg->h.opcode == FUSE_READDIRPLUS;
    list_one(&l, m->ledger->node[dir->nodeid].ino, DT_DIR, ".");
    list_one(&l, m->ledger->node[t->way[dir->parent].nodeid].ino, DT_DIR, "..");
    for (size_t i = 1; i < t->n; i++)
        if (&t->way[t->way[i].parent] == dir && t->way[i].nodeid)
            list_one(&l, m->ledger->node[t->way[i].nodeid].ino,
                     (m->ledger->node[t->way[i].nodeid].mode & S_IFMT) >> 12, t->way[i].name);
    stand_in_answer(m, msg->h.unique, 0, l.buf, l.n);
}

/* What is asked of an object on the way. */
static void answer_way(struct kept *m, const struct way *w, const struct fuse_msg *msg)
{
    struct fuse_entry_out entry = {0};
    struct fuse_attr_out attr = {.attr_valid = 1};
    struct fuse_open_out open = {0};
    struct fuse_statfs_out statfs = {.bsize = 4096, .frsize = 4096, .namelen = 255};
    struct fuse_getxattr_out size = {0};
    uint64_t unique = msg->h.unique;
    int rc;
    switch (msg->h.opcode) {
    case FUSE_LOOKUP:
        rc = do_lookup(m, w, msg, &entry);
        stand_in_answer(m, unique, rc, &entry, rc ? 0 : sizeof(entry));
        break;
    case FUSE_GETATTR:
        attr_of(m, w->nodeid, &attr.attr);
        stand_in_answer(m, unique, 0, &attr, sizeof(attr));
        break;
    case FUSE_OPENDIR:
        stand_in_answer(m, unique, 0, &open, sizeof(open));
        break;
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        do_readdir(m, w, msg);
        break;
    case FUSE_STATFS:
        stand_in_answer(m, unique, 0, &statfs, sizeof(statfs));
        break;
    case FUSE_STATX: /* the kernel asks by GETATTR then, for good */
        stand_in_answer(m, unique, -ENOSYS, NULL, 0);
        break;
    case FUSE_GETXATTR:
        stand_in_answer(m, unique, -ENODATA, NULL, 0);
        break;
    case FUSE_LISTXATTR:
        stand_in_answer(m, unique, 0, &size, msg->a.getxattr.size ? 0 : sizeof(size));
        break;
    case FUSE_ACCESS: /* the kernel has judged by the mode */
        stand_in_answer(m, unique, 0, NULL, 0);
        break;
    default:
        stand_in_answer(m, unique, -ENOTCONN, NULL, 0);
    }
}

void nested_answer(struct kept *m)
{
    bool ext = m->ledger->head->flags & FUSE_SETXATTR_EXT;
    struct fuse_msg msg;
    void *buf;
    int n;
    for (int i = 0; i < BATCH && (n = stand_in_read(m, &buf)) > 0; i++) {
        int rc = fuse_msg_decode(buf, (size_t)n, ext, &msg);
        const struct way *w = rc == 0 ? way_of(m->in.nested, msg.h.nodeid) : NULL;
        switch (msg.h.opcode) {
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT: /* what it means was answered when it was read */
            break;
        case FUSE_RELEASE:
        case FUSE_RELEASEDIR:
        case FUSE_DESTROY:
            stand_in_answer(m, msg.h.unique, 0, NULL, 0);
            break;
        default:
            if (w)
                answer_way(m, w, &msg);
            else if (msg.h.unique)
                stand_in_answer(m, msg.h.unique, -ENOTCONN, NULL, 0);
        }
    }
}
