/* SPDX-License-Identifier: MIT */
/*
 * The map layer: callers are others beneath it, and owners are others above (base/idmap.h).
 *
 * While an op runs below, its call has the server's ids. `before` puts them in and `after` takes
 * them out again; what the call had is kept in a frame, which hangs on the call where the door's
 * own stands else. Groups are mapped when somebody asks for them.
 *
 * What has no place in the map behaves as on Linux's idmapped mounts: it is shown as nobody's
 * (65534); who is not in the map acts as nobody and makes nothing (EOVERFLOW); an object of
 * nobody's is not changed through the map (EACCES, EPERM, and EOVERFLOW for attributes), nor is
 * anything given to who is not in it (EOVERFLOW; in an ACL EINVAL).
 */
#include "base/idmap.h"
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <plenum/sources.h>
#include <stdlib.h>
#include <string.h>

struct pl_map {
    atomic_uint refs;
    struct idmap ids;
};

struct map_tree {
    struct pl_tree tree;
    struct pl_map *map;
    bool owners; /* only they: the callers are the server's already */
};

/* A call on its way below: what it had above. */
struct frame {
    const struct pl_event *ev; /* whose `before` made it; NULL: map_resume */
    const struct idmap *ids;
    struct pl_cred cred;
    int (*load_groups)(struct pl_call *);
    void *door;
    bool groups_loaded;
    gid_t *groups; /* mapped */
};

static const struct idmap *ids_of(struct pl_tree *t)
{
    return &((struct map_tree *)t)->map->ids;
}

/* ---- callers ---- */

static gid_t lower_gid(const struct idmap *ids, gid_t gid)
{
    uint32_t lower;
    idmap_down(&ids->gid, gid, &lower);
    return ids->squash && gid == 0 ? IDMAP_NOBODY : lower;
}

/* Asks who knows them above, and maps what comes. */
static int load_mapped(struct pl_call *c)
{
    struct frame *f = c->door;
    struct pl_cred below = c->cred;
    uint32_t n = 0;
    c->door = f->door;
    c->load_groups = f->load_groups;
    c->cred = f->cred;
    bool ask = !f->groups_loaded && f->load_groups;
    int r = ask ? f->load_groups(c) : 0;
    f->cred = c->cred;
    f->door = c->door;
    f->groups_loaded = f->groups_loaded || (ask && r == 0);
    c->door = f;
    c->load_groups = load_mapped;
    c->cred = below;
    f->groups = r == 0 && f->cred.ngroups ? calloc(f->cred.ngroups, sizeof(gid_t)) : NULL;
    if (r < 0 || (!f->groups && f->cred.ngroups))
        return r < 0 ? r : -ENOMEM;
    for (uint32_t i = 0; i < f->cred.ngroups; i++) {
        uint32_t lower;
        gid_t gid = f->cred.groups[i];
        if (idmap_down(&f->ids->gid, gid, &lower) && !(f->ids->squash && gid == 0))
            f->groups[n++] = lower;
    }
    c->cred.groups = f->groups;
    c->cred.ngroups = n;
    return 0;
}

static int enter(struct pl_tree *t, struct pl_call *c, const struct pl_event *ev)
{
    const struct idmap *ids = ids_of(t);
    struct frame *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    *f = (struct frame){.ev = ev,
                        .ids = ids,
                        .cred = c->cred,
                        .load_groups = c->load_groups,
                        .door = c->door,
                        .groups_loaded = c->groups_loaded};
    c->cred = (struct pl_cred){.gid = lower_gid(ids, f->cred.gid)};
    idmap_down(&ids->uid, f->cred.uid, &c->cred.uid);
    if (ids->squash && f->cred.uid == 0)
        c->cred.uid = IDMAP_NOBODY;
    if (ids->one)
        c->cred = (struct pl_cred){ids->as_uid, ids->as_gid, ids->as_ngroups, ids->as_groups};
    c->door = f;
    c->load_groups = load_mapped;
    c->groups_loaded = ids->one;
    return 0;
}

static void leave(struct pl_call *c)
{
    struct frame *f = c->door;
    c->cred = f->cred;
    c->load_groups = f->load_groups;
    c->door = f->door;
    c->groups_loaded = f->groups_loaded;
    free(f->groups);
    free(f);
}

/* ---- what may not be done ---- */

static void up(const struct idmap *ids, struct pl_attr *attr)
{
    idmap_up(&ids->uid, attr->uid, &attr->uid);
    idmap_up(&ids->gid, attr->gid, &attr->gid);
}

static bool partial(const struct idmap *ids)
{
    return ids->uid.n || ids->gid.n;
}

static bool owned(const struct idmap *ids, const struct pl_attr *attr)
{
    uint32_t id;
    return idmap_up(&ids->uid, attr->uid, &id) && idmap_up(&ids->gid, attr->gid, &id);
}

/* `no` when the node is owned by somebody who is not in the map. */
static int check_owner(struct pl_tree *t, struct pl_call *c, struct pl_node *node, int no)
{
    struct pl_attr attr;
    if (!partial(ids_of(t)))
        return 0;
    int r = pl_getattr(t->lower, c, node, NULL, &attr);
    return r < 0 ? r : owned(ids_of(t), &attr) ? 0 : no;
}

/* The same for the entry of that name; one that is not there is for the op to tell. */
static int check_entry(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, const char *name)
{
    struct pl_node *node;
    struct pl_attr attr;
    if (!partial(ids_of(t)) || pl_lookup(t->lower, c, dir, name, &node, &attr) < 0)
        return 0;
    pl_node_unref(node);
    return owned(ids_of(t), &attr) ? 0 : -EPERM;
}

/* The caller makes a name in `dir`, or with `object` something new, which would be its own. */
static int check_maker(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, bool object)
{
    const struct idmap *ids = ids_of(t);
    uint32_t id;
    int r = check_owner(t, c, dir, -EACCES);
    if (r < 0 || ids->one)
        return r;
    if (ids->squash && c->cred.uid == IDMAP_NOBODY) /* who root is made to be */
        return 0;
    return idmap_up(&ids->uid, c->cred.uid, &id) &&
                   (!object || idmap_up(&ids->gid, c->cred.gid, &id))
               ? 0
               : -EOVERFLOW;
}

static bool is_acl(const char *name)
{
    return !strcmp(name, "system.posix_acl_access") || !strcmp(name, "system.posix_acl_default");
}

static int check(struct pl_tree *t, struct pl_call *c, const struct pl_event *ev)
{
    int r = 0;
    switch (ev->op) {
    case PL_OP_open:
        return (ev->flags & O_ACCMODE) != O_RDONLY || (ev->flags & O_TRUNC)
                   ? check_owner(t, c, ev->node, -EACCES)
                   : 0;
    case PL_OP_setattr: /* truncate(2) asks for write permission before anything else */
        return ev->flags & PL_SET_SIZE && !ev->file ? check_owner(t, c, ev->node, -EACCES) : 0;
    case PL_OP_access:
        return ev->flags & W_OK ? check_owner(t, c, ev->node, -EACCES) : 0;
    case PL_OP_make:
    case PL_OP_tmpfile:
        return check_maker(t, c, ev->node, true);
    case PL_OP_link:
        r = check_maker(t, c, ev->node2, false);
        return r < 0 ? r : check_owner(t, c, ev->node, -EPERM);
    case PL_OP_remove:
        r = check_owner(t, c, ev->node, -EACCES);
        return r < 0 ? r : check_entry(t, c, ev->node, ev->name);
    case PL_OP_rename:
        r = check_owner(t, c, ev->node, -EACCES);
        if (r == 0)
            r = check_maker(t, c, ev->node2, false);
        if (r == 0)
            r = check_entry(t, c, ev->node, ev->name);
        return r < 0 ? r : check_entry(t, c, ev->node2, ev->name2);
    case PL_OP_setxattr:
    case PL_OP_removexattr:
        return check_owner(t, c, ev->node, -EPERM);
    default:
        return 0;
    }
}

static int before(struct pl_tree *t, struct pl_call *c, const struct pl_event *ev)
{
    if (((struct map_tree *)t)->owners)
        return check(t, c, ev);
    int r = enter(t, c, ev);
    if (r == 0 && (r = check(t, c, ev)) < 0)
        leave(c);
    return r;
}

/* An op that `before` has refused has no frame any more. */
static void after(struct pl_tree *t, struct pl_call *c, const struct pl_event *ev, int64_t result)
{
    struct frame *f = c->load_groups == load_mapped ? c->door : NULL;
    if (f && f->ev == ev)
        leave(c);
}

/* ---- owners ---- */

static int map_lookup(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, const char *name,
                      struct pl_node **ret, struct pl_attr *attr)
{
    int r = pl_lookup(t->lower, c, dir, name, ret, attr);
    if (r == 0)
        up(ids_of(t), attr);
    return r;
}

static int map_getattr(struct pl_tree *t, struct pl_call *c, struct pl_node *node,
                       struct pl_file *file, struct pl_attr *attr)
{
    int r = pl_getattr(t->lower, c, node, file, attr);
    if (r == 0)
        up(ids_of(t), attr);
    return r;
}

/* notify_change() of Linux: no id that is not in the map, neither new nor, where it would stay,
 * old. */
static int map_setattr(struct pl_tree *t, struct pl_call *c, struct pl_node *node,
                       struct pl_file *file, const struct pl_setattr *set, struct pl_attr *attr)
{
    const struct idmap *ids = ids_of(t);
    struct pl_setattr below = *set;
    uint32_t id;
    if ((set->valid & PL_SET_UID) && !idmap_down(&ids->uid, set->uid, &below.uid))
        return -EOVERFLOW;
    if ((set->valid & PL_SET_GID) && !idmap_down(&ids->gid, set->gid, &below.gid))
        return -EOVERFLOW;
    int r = partial(ids) ? pl_getattr(t->lower, c, node, file, attr) : 0;
    if (r == 0 && partial(ids) &&
        ((!(set->valid & PL_SET_UID) && !idmap_up(&ids->uid, attr->uid, &id)) ||
         (!(set->valid & PL_SET_GID) && !idmap_up(&ids->gid, attr->gid, &id))))
        r = -EOVERFLOW;
    if (r == 0)
        r = pl_setattr(t->lower, c, node, file, &below, attr);
    if (r == 0)
        up(ids, attr);
    return r;
}

static int map_make(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, const char *name,
                    const struct pl_make *make, struct pl_node **ret, struct pl_attr *attr)
{
    int r = pl_make(t->lower, c, dir, name, make, ret, attr);
    if (r == 0)
        up(ids_of(t), attr);
    return r;
}

static int map_link(struct pl_tree *t, struct pl_call *c, struct pl_node *node, struct pl_node *dir,
                    const char *name, struct pl_attr *attr)
{
    int r = pl_link(t->lower, c, node, dir, name, attr);
    if (r == 0)
        up(ids_of(t), attr);
    return r;
}

/* What is there already is opened, whoever asks. */
static int map_create(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, const char *name,
                      int flags, mode_t mode, struct pl_node **ret, struct pl_attr *attr,
                      struct pl_file **ret_file)
{
    int r = pl_lookup(t->lower, c, dir, name, ret, attr);
    if (r == 0) {
        pl_node_unref(*ret);
        r = !owned(ids_of(t), attr) && ((flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC)) &&
                    !(flags & O_EXCL)
                ? -EACCES
                : 0;
    } else if (r == -ENOENT) {
        r = check_maker(t, c, dir, true);
    }
    if (r == 0)
        r = pl_create(t->lower, c, dir, name, flags, mode, ret, attr, ret_file);
    if (r == 0)
        up(ids_of(t), attr);
    return r;
}

static int map_tmpfile(struct pl_tree *t, struct pl_call *c, struct pl_node *dir, int flags,
                       mode_t mode, struct pl_node **ret, struct pl_attr *attr,
                       struct pl_file **ret_file)
{
    int r = pl_tmpfile(t->lower, c, dir, flags, mode, ret, attr, ret_file);
    if (r == 0)
        up(ids_of(t), attr);
    return r;
}

static int map_find(struct pl_tree *t, struct pl_call *c, const uint8_t *key, size_t len,
                    struct pl_node **ret, struct pl_attr *attr)
{
    int r = pl_find(t->lower, c, key, len, ret, attr);
    if (r == 0)
        up(ids_of(t), attr);
    return r;
}

/* Outside the watched ops. */
static int map_resume(struct pl_tree *t, struct pl_call *c, struct pl_node *node, int flags,
                      int kept, struct pl_file **ret)
{
    bool owners = ((struct map_tree *)t)->owners;
    int r = owners ? 0 : enter(t, c, NULL);
    if (r < 0)
        return r;
    r = pl_resume(t->lower, c, node, flags, kept, ret);
    if (!owners)
        leave(c);
    return r;
}

/* ---- ACLs: version[4], then tag[2] perm[2] id[4] each ---- */

static bool map_acl(const struct idmap *ids, uint8_t *acl, size_t n,
                    bool (*to)(const struct idmap_table *, uint32_t, uint32_t *))
{
    enum { USER = 2, GROUP = 8 };
    bool good = true;
    if (n < 4 || (n - 4) % 8)
        return false;
    for (uint8_t *e = acl + 4; e < acl + n; e += 8) {
        unsigned tag = e[0] | (unsigned)e[1] << 8;
        uint32_t id;
        if (tag != USER && tag != GROUP)
            continue;
        memcpy(&id, e + 4, 4);
        id = le32toh(id);
        good &= to(tag == USER ? &ids->uid : &ids->gid, id, &id);
        id = htole32(id);
        memcpy(e + 4, &id, 4);
    }
    return good;
}

static ssize_t map_getxattr(struct pl_tree *t, struct pl_call *c, struct pl_node *node,
                            const char *name, void *buf, size_t size)
{
    ssize_t r = pl_getxattr(t->lower, c, node, name, buf, size);
    if (r > 0 && size && is_acl(name))
        map_acl(ids_of(t), buf, (size_t)r, idmap_up);
    return r;
}

static int map_setxattr(struct pl_tree *t, struct pl_call *c, struct pl_node *node,
                        const char *name, const void *value, size_t size, int flags)
{
    if (!is_acl(name) || !partial(ids_of(t)) || !size)
        return pl_setxattr(t->lower, c, node, name, value, size, flags);
    uint8_t *copy = malloc(size);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, value, size);
    int r = map_acl(ids_of(t), copy, size, idmap_down)
                ? pl_setxattr(t->lower, c, node, name, copy, size, flags)
                : -EINVAL;
    free(copy);
    return r;
}

/* ---- the tree ---- */

static void map_done(struct pl_tree *t)
{
    pl_map_unref(((struct map_tree *)t)->map);
}

static const struct pl_ops map_ops = {
    .name = "map",
    .before = before,
    .after = after,
    .by_fd = true,
    .done = map_done,
    .lookup = map_lookup,
    .getattr = map_getattr,
    .setattr = map_setattr,
    .make = map_make,
    .link = map_link,
    .create = map_create,
    .tmpfile = map_tmpfile,
    .find = map_find,
    .getxattr = map_getxattr,
    .setxattr = map_setxattr,
    .resume = map_resume,
};

int pl_map_parse(const char *items, struct pl_map **ret, struct pl_err *err)
{
    struct pl_map *map = calloc(1, sizeof(*map));
    char *copy = strdup(items);
    int r =
        map && copy ? idmap_parse(copy, &map->ids, err) : pl_fail(err, -ENOMEM, "out of memory");
    free(copy);
    if (r < 0) {
        free(map);
        return r;
    }
    atomic_init(&map->refs, 1);
    *ret = map;
    return 0;
}

struct pl_map *pl_map_ref(struct pl_map *map)
{
    atomic_fetch_add(&map->refs, 1);
    return map;
}

void pl_map_unref(struct pl_map *map)
{
    if (!map || atomic_fetch_sub(&map->refs, 1) != 1)
        return;
    idmap_done(&map->ids);
    free(map);
}

struct pl_tree *pl_map_new(struct pl_map *map, struct pl_tree *lower)
{
    struct map_tree *l = lower ? calloc(1, sizeof(*l)) : NULL;
    if (!l) {
        pl_map_unref(map);
        pl_tree_unref(lower);
        return NULL;
    }
    pl_tree_init(&l->tree, &map_ops, lower);
    l->map = map;
    l->tree.flags &=
        ~(uint32_t)(PL_TREE_STATELESS | PL_TREE_STATELESS_SELF); /* uid 0 is somebody else below */
    return &l->tree;
}

struct pl_tree *pl_map_owners_new(struct pl_map *map, struct pl_tree *lower)
{
    struct pl_tree *tree = pl_map_new(map, lower);
    if (tree)
        ((struct map_tree *)tree)->owners = true;
    return tree;
}

bool pl_map_user(const struct pl_map *map, uid_t client, uid_t *ret)
{
    if (map->ids.one) {
        *ret = map->ids.as_uid;
        return true;
    }
    bool known = idmap_down(&map->ids.uid, client, ret);
    if (map->ids.squash && client == 0)
        *ret = IDMAP_NOBODY;
    return known;
}

bool pl_map_group(const struct pl_map *map, gid_t client, gid_t *ret)
{
    *ret = lower_gid(&map->ids, client);
    return *ret != IDMAP_NOBODY;
}
