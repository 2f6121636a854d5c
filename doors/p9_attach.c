/* SPDX-License-Identifier: MIT */
/* Who a peer acts as, and where in which tree it starts. */
#include "doors/p9_door.h"
#include <errno.h>
#include <grp.h>
#include <plenum/sources.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NOBODY = 65534, GROUPS_MAX = 65536 };

/* The entry of the user of that name, or when it is NULL of that number; 0 or -ENOENT, -ENOMEM.
 * *buf holds its strings. */
static int user_entry(const char *name, uid_t uid, struct passwd *pw, char **buf)
{
    struct passwd *found = NULL;
    *buf = NULL;
    for (size_t size = 1024; size <= 1 << 20; size *= 4) {
        free(*buf);
        if (!(*buf = malloc(size)))
            return -ENOMEM;
        int r = name ? getpwnam_r(name, pw, *buf, size, &found)
                     : getpwuid_r(uid, pw, *buf, size, &found);
        if (r != ERANGE)
            break;
    }
    return found ? 0 : -ENOENT;
}

static int own_groups(struct p9d_attach *at)
{
    int n = getgroups(0, NULL);
    gid_t *g = n > 0 ? malloc((size_t)n * sizeof(*g)) : NULL;
    if (n > 0 && !g)
        return -ENOMEM;
    n = n > 0 ? getgroups(n, g) : 0;
    at->groups = g;
    at->ngroups = n > 0 ? (uint32_t)n : 0;
    return 0;
}

static int groups_of_user(struct p9d_attach *at)
{
    struct passwd pw;
    char *buf;
    int r = user_entry(NULL, at->uid, &pw, &buf);
    if (r == 0) {
        int n = 32;
        gid_t *g = NULL, *more;
        for (;;) {
            more = realloc(g, (size_t)n * sizeof(*g));
            if (!more) {
                r = -ENOMEM;
                break;
            }
            g = more;
            int had = n;
            if (getgrouplist(pw.pw_name, at->gid, g, &n) >= 0)
                break;
            n = n > had ? n : had * 2;
            if (n > GROUPS_MAX) {
                n = 0;
                break;
            }
        }
        if (r == 0) {
            at->groups = g;
            at->ngroups = (uint32_t)n;
        } else {
            free(g);
        }
    }
    free(buf);
    return r == -ENOENT ? 0 : r; /* a user that nobody here knows is in no group */
}

/* Once an attach, and only when somebody asks: it may go to a directory server. */
static int load(struct p9d_attach *at)
{
    int r = 0;
    pthread_mutex_lock(&at->mutex);
    if (!at->loaded) {
        r = geteuid() != 0 ? own_groups(at) : groups_of_user(at);
        at->loaded = r == 0;
    }
    pthread_mutex_unlock(&at->mutex);
    return r;
}

static int load_groups(struct pl_call *call)
{
    struct p9d_attach *at = call->door;
    int r = load(at);
    if (r == 0) {
        call->cred.groups = at->groups;
        call->cred.ngroups = at->ngroups;
    }
    return r;
}

void p9d_act_as(struct pl_call *call, struct p9d_attach *at)
{
    call->cred.uid = at->uid;
    call->cred.gid = at->gid;
    call->cred.ngroups = 0;
    call->load_groups = load_groups;
    call->door = at;
    call->pid = 0;
    call->umask = 0;
}

void p9d_act_to_create(struct p9d_op *op)
{
    struct p9d_attach *at = op->fid->at;
    gid_t gid = op->in->gid;
    if (at->map && gid != (gid_t)-1 && !pl_map_group(at->map, gid, &gid))
        gid = (gid_t)-1;
    if (p9d_own(op) && op->in->type != P9_Tsymlink)
        op->call->umask = op->in->mode >> P9_UMASK_SHIFT & 0777;
    bool any = at->any_gid && (gid != 0 || at->root_gid);
    bool may = gid != (gid_t)-1 && (any || gid == at->gid);
    if (!may && gid != (gid_t)-1 && load(at) == 0)
        for (uint32_t i = 0; i < at->ngroups && !may; i++)
            may = at->groups[i] == gid;
    /* A client also sends the group of a directory whose files inherit it: who is not in that group
     * gets it from the directory, not from us. */
    if (may)
        op->call->cred.gid = gid;
}

void p9d_attach_unref(struct p9d_attach *at)
{
    if (!at || atomic_fetch_sub_explicit(&at->refs, 1, memory_order_acq_rel) != 1)
        return;
    pl_node_unref(at->root);
    pl_tree_unref(at->tree);
    pl_map_unref(at->map);
    pthread_mutex_destroy(&at->mutex);
    free(at->groups);
    free(at);
}

/* Whom the client says it acts for; nobody if it does not say. */
static uid_t claimed(const struct p9_msg *in, uid_t otherwise)
{
    struct passwd pw;
    char *buf = NULL;
    uid_t uid = otherwise;
    if (in->n_uname != P9_NONUNAME)
        uid = in->n_uname;
    else if (otherwise == (uid_t)-1)
        uid = in->uname.len && user_entry(in->uname.s, 0, &pw, &buf) == 0 ? pw.pw_uid : NOBODY;
    free(buf);
    return uid;
}

static bool stranger(const struct p9d_session *s)
{
    return !strncmp(s->who, "cert:", 5) || !strncmp(s->who, "key:", 4);
}

/* The user of a Tattach, by the rules of doors/p9.h. */
static int who(struct p9d_session *s, const struct p9_msg *in, const struct p9_admitted *as,
               struct p9d_attach *at)
{
    uid_t peer = s->peer, self = s->door->euid;
    struct passwd pw;
    char *buf = NULL;
    if (self != 0) {
        at->uid = self;
        at->gid = getegid();
        return 0;
    }
    bool bound = peer != (uid_t)-1 && peer != 0;
    uid_t says = claimed(in, bound ? peer : (uid_t)-1);
    bool known = as->as == P9_AS_USER || (as->as == P9_AS_CLAIMED && stranger(s));
    if (bound && says != peer && !known)
        return -EPERM;
    at->any_gid = !bound && !known;
    at->root_gid = as->as == P9_AS_CLAIMED || as->as == P9_AS_ROOT || peer == 0;
    at->uid = says;
    if (known)
        at->uid = as->as == P9_AS_USER ? as->uid : NOBODY;
    else if (as->as == P9_AS_CALLER && says == 0 && peer != 0)
        at->uid = NOBODY;
    else if (as->as == P9_AS_MAP)
        pl_map_user(as->map, says, &at->uid);
    at->gid = NOBODY;
    int r = user_entry(NULL, at->uid, &pw, &buf);
    if (r == 0)
        at->gid = pw.pw_gid;
    free(buf);
    return r == -ENOENT ? 0 : r;
}

static const struct p9_export *find_export(struct p9_door *door, const char *aname,
                                           const char **path)
{
    const struct p9_export *all = NULL;
    *path = "";
    for (size_t i = 0; i < door->nexports; i++) {
        const struct p9_export *e = &door->exports[i];
        if (!strcmp(e->aname, aname))
            return e;
        if (!*e->aname)
            all = e;
    }
    *path = aname;
    return all;
}

/* Finds the export and asks whether this client may have it, and how. */
static int admit(struct p9d_op *op, const char **path, struct p9_admitted *ret)
{
    struct p9d_session *s = op->session;
    const char *aname = op->in->aname.len ? op->in->aname.s : "";
    const struct p9_export *e = find_export(s->door, aname, path);
    if (!e)
        return s->door->admit ? -EACCES : -ENOENT;
    *ret = (struct p9_admitted){.as = P9_AS_CLAIMED};
    if (!s->door->admit) {
        ret->tree = pl_tree_ref(e->tree);
        return 0;
    }
    struct p9_asking asking = {.who = s->who, .uid = s->peer, .aname = e->aname, .name = *path};
    return s->door->admit(s->door->admit_arg, &asking, e->tree, ret);
}

/* "No authentication needed" is an error; ENOENT is the one that all clients take as such. */
int p9d_auth(struct p9d_op *op)
{
    const char *path;
    struct p9_admitted a;
    if (!op->session->door->admit)
        return -ENOENT;
    int r = admit(op, &path, &a);
    if (r < 0)
        return r;
    pl_tree_unref(a.tree);
    pl_map_unref(a.map);
    return -ENOENT;
}

int p9d_attach(struct p9d_op *op)
{
    const char *path;
    struct p9_admitted a;
    int r = admit(op, &path, &a);
    if (r < 0)
        return r;
    struct p9d_attach *at = calloc(1, sizeof(*at));
    if (!at) {
        pl_tree_unref(a.tree);
        pl_map_unref(a.map);
        return -ENOMEM;
    }
    atomic_init(&at->refs, 1);
    pthread_mutex_init(&at->mutex, NULL);
    at->tree = a.tree;
    at->map = a.map;
    r = who(op->session, op->in, &a, at);
    if (r == 0) {
        struct pl_attr attr;
        p9d_act_as(op->call, at);
        r = pl_attach(at->tree, op->call, path, &at->root, &attr);
        if (r == 0) {
            at->beneath = path[strspn(path, "/")] != 0;
            op->out->qid = at->root_qid = p9d_qid(&attr);
            if (p9d_own(op) && (at->tree->flags & PL_TREE_GENERATED))
                op->out->qid.type |= P9_QTDIRECT;
            op->made = p9d_fid_new(op->session, at, at->root, NULL, NULL);
            r = op->made ? 0 : -ENOMEM;
        }
    }
    p9d_attach_unref(at);
    return r;
}
