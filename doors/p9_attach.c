/* SPDX-License-Identifier: MIT */
/* Who a peer acts as, and where in which tree it starts. */
#include "doors/p9_door.h"
#include <errno.h>
#include <grp.h>
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
    if (p9d_own(op) && op->in->type != P9_Tsymlink)
        op->call->umask = op->in->mode >> P9_UMASK_SHIFT & 0777;
    bool may = gid != (gid_t)-1 && (at->any_gid || gid == at->gid);
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
    pthread_mutex_destroy(&at->mutex);
    free(at->groups);
    free(at);
}

/* The user of a Tattach, by the rule of doors/p9.h. */
static int who(struct p9d_session *s, const struct p9_msg *in, struct p9d_attach *at)
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
    at->any_gid = !bound;
    at->gid = NOBODY;
    if (in->n_uname != P9_NONUNAME)
        at->uid = in->n_uname;
    else if (bound)
        at->uid = peer;
    else if (in->uname.len && user_entry(in->uname.s, 0, &pw, &buf) == 0)
        at->uid = pw.pw_uid;
    else
        at->uid = NOBODY;
    free(buf);
    if (bound && at->uid != peer)
        return -EPERM;
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

int p9d_attach(struct p9d_op *op)
{
    const char *path;
    const struct p9_export *e =
        find_export(op->session->door, op->in->aname.len ? op->in->aname.s : "", &path);
    if (!e)
        return -ENOENT;
    struct p9d_attach *at = calloc(1, sizeof(*at));
    if (!at)
        return -ENOMEM;
    atomic_init(&at->refs, 1);
    pthread_mutex_init(&at->mutex, NULL);
    int r = who(op->session, op->in, at);
    if (r == 0) {
        struct pl_attr attr;
        at->tree = pl_tree_ref(e->tree);
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
