/* SPDX-License-Identifier: MIT */
/* The 9P source: attaching, the users of a tree, and its table. The design is in p9_tree.h. */
#include "base/futex.h"
#include "base/text.h"
#include "sources/p9_again.h"
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* ---- users ---- */

struct p9_msg p9s_attach_msg(struct p9s_tree *t, uint32_t fid, const char *uname, uint32_t n_uname)
{
    return (struct p9_msg){.type = P9_Tattach,
                           .fid = fid,
                           .afid = P9_NOFID,
                           .uname = p9_str(uname),
                           .aname = p9_str(t->aname),
                           .n_uname = n_uname};
}

int p9s_attach(struct p9s_tree *t, struct pl_call *call, const char *uname, uint32_t n_uname,
               uint32_t *ret_fid, struct p9_qid *qid)
{
    struct p9_answer a;
    int r = p9s_new_fid(t, ret_fid);
    if (r < 0)
        return r;
    struct p9_msg m = p9s_attach_msg(t, *ret_fid, uname, n_uname);
    r = p9s_ask(t, call, &m, &a);
    if (r == 0)
        *qid = a.r.qid;
    else
        p9s_drop_fid(t, *ret_fid, r);
    p9_answer_free(&a);
    return r;
}

/* Servers that know users by name get one where there is one. */
static char *name_of(uid_t uid)
{
    char buf[4096];
    struct passwd pw, *found = NULL;
    if (getpwuid_r(uid, &pw, buf, sizeof(buf), &found) != 0 || !found)
        return strdup("");
    return strdup(pw.pw_name);
}

static const struct p9s_user *find_user(struct p9s_tree *t, uid_t uid)
{
    const struct p9s_user *u;
    pthread_mutex_lock(&t->mutex);
    for (u = t->users; u && u->uid != uid; u = u->next)
        ;
    pthread_mutex_unlock(&t->mutex);
    return u;
}

static int add_user(struct p9s_tree *t, struct pl_call *call, uid_t uid,
                    const struct p9s_user **ret)
{
    struct p9s_user *u = calloc(1, sizeof(*u)), *other;
    char *name = name_of(uid);
    struct p9_qid qid;
    int r = u && name ? p9s_attach(t, call, name, uid, &u->root, &qid) : -ENOMEM;
    free(name);
    if (r == 0 && !p9s_is(t->root, &qid)) { /* this user starts elsewhere: not our tree */
        p9s_clunk(t, u->root);
        r = -EACCES;
    }
    if (r < 0) {
        free(u);
        return r == -EPERM || r == -ENOENT ? -EACCES : r;
    }
    u->uid = uid;
    p9s_rec_user(t, u->root, u, t->root);
    pthread_mutex_lock(&t->mutex);
    for (other = t->users; other && other->uid != uid; other = other->next)
        ;
    bool full = !other && t->nusers >= LIMIT_USERS;
    if (!other && !full) {
        u->next = t->users;
        t->users = u;
        t->nusers++;
    }
    pthread_mutex_unlock(&t->mutex);
    if (other || full) { /* two threads came for the same user, or there are too many */
        p9s_clunk(t, u->root);
        free(u);
        u = other;
    }
    *ret = u;
    return full ? -EUSERS : 0;
}

int p9s_user(struct p9s_tree *t, struct pl_call *call, const struct p9s_user **ret)
{
    *ret = &t->main;
    if (!t->many || call->cred.uid == t->main.uid || (*ret = find_user(t, call->cred.uid)))
        return 0;
    return add_user(t, call, call->cred.uid, ret);
}

/* ---- the table ---- */

static void done(struct pl_tree *tree)
{
    struct p9s_tree *t = p9s_of(tree);
    p9s_again_stop(t);
    if (t->root) {
        p9s_clunk(t, t->main.root);
        pl_node_unref(&t->root->h.node);
    }
    while (t->users) {
        struct p9s_user *u = t->users;
        t->users = u->next;
        p9s_clunk(t, u->root);
        free(u);
    }
    if (t->own) {
        struct pl_call call;
        pl_call_init_self(&call);
        call.deadline = mono_now() + LIMIT_GOODBYE * 1000000000ll; /* it may never answer */
        if (p9_conn_down(t->conn) == 0)
            p9_use_end(t->conn, &call);
        pl_call_done(&call);
        p9_conn_free(t->conn);
    }
    if (t->ended)
        t->ended(t->ended_arg);
    pl_nodes_free(t->nodes);
    p9s_again_free(t->again);
    p9_fids_unref(t->fids);
    people_free(t->people);
    pthread_mutex_destroy(&t->mutex);
    pthread_mutex_destroy(&t->aside_mutex);
    pthread_cond_destroy(&t->appended);
    free(t->places.chain);
    free(t->aname);
}

#define STANDARD                                                                                   \
    .name = "p9", .done = done, .root = p9s_root, .release = p9s_release, .lookup = p9s_lookup,    \
    .getattr = p9s_getattr, .setattr = p9s_setattr, .readlink = p9s_readlink, .make = p9s_make,    \
    .link = p9s_link, .remove = p9s_remove, .rename = p9s_rename, .open = p9s_open,                \
    .create = p9s_create, .close = p9s_close, .flush = p9s_flush, .read = p9s_read,                \
    .write = p9s_write, .readdir = p9s_readdir, .fsync = p9s_fsync, .getxattr = p9s_getxattr,      \
    .setxattr = p9s_setxattr, .removexattr = p9s_removexattr, .listxattr = p9s_listxattr,          \
    .lock = p9s_lock, .getlock = p9s_getlock, .statfs = p9s_statfs

static const struct pl_ops plain_ops = {STANDARD, .syncfs = p9s_syncfs};
/* 9P2000.u and 9P2000: no locks, no extended attributes, no statfs. */
static const struct pl_ops old_ops = {
    .name = "p9",
    .done = done,
    .root = p9s_root,
    .release = p9s_release,
    .lookup = p9s_lookup,
    .getattr = p9s_getattr,
    .setattr = p9s_setattr,
    .readlink = p9s_old_readlink,
    .make = p9s_old_make,
    .link = p9s_old_link,
    .remove = p9s_remove,
    .rename = p9s_rename,
    .open = p9s_open,
    .create = p9s_create,
    .close = p9s_close,
    .flush = p9s_flush,
    .read = p9s_read,
    .write = p9s_write,
    .readdir = p9s_old_readdir,
    .fsync = p9s_old_fsync,
};
static const struct pl_ops own_ops = {
    STANDARD,           .access = p9s_access,       .tmpfile = p9s_tmpfile,
    .seek = p9s_seek,   .fallocate = p9s_fallocate, .copy = p9s_copy,
    .ioctl = p9s_ioctl, .syncfs = p9s_syncfs,
};

/* ---- opening ---- */

static int fail_attach(struct p9s_tree *t, int r, struct pl_err *err)
{
    const char *peer = p9_conn_peer(t->conn), *aname = *t->aname ? t->aname : "/";
    switch (r) {
    case -ENOENT:
        return pl_fail(err, r, "%s: exports nothing named \"%s\" (another aname= is needed)", peer,
                       aname);
    case -EPERM:
    case -EACCES:
        return pl_fail(err, r, "%s: refuses to let this user in at \"%s\" (%s)%s", peer, aname,
                       strerror(-r), *t->aname ? "" : "; or it wants an aname=");
    case -ECONNABORTED:
        return pl_fail(err, r, "%s: the connection was lost while attaching", peer);
    default:
        return pl_fail(err, r, "%s: cannot attach at \"%s\": %s", peer, aname, strerror(-r));
    }
}

/* Asks for the attributes of the root, again if that took so long that a near peer may only have
 * been busy; *trip: the quickest. */
static int ask_root(struct p9s_tree *t, struct pl_call *call, int64_t near, struct p9_attr *in,
                    int64_t *trip)
{
    int r = 0;
    *trip = INT64_MAX;
    for (int i = 0; r == 0 && (i == 0 || (i < 4 && *trip >= near && *trip / 20 < near)); i++) {
        int64_t start = mono_now();
        r = p9s_ask_attr(t, call, t->main.root, in);
        int64_t took = mono_now() - start;
        *trip = took < *trip ? took : *trip;
    }
    return r;
}

/* Attaches as the main user and makes the root node. */
static int open_root(struct p9s_tree *t, struct pl_call *call, const struct pl_p9_opts *opts)
{
    const char *uname = opts->uname;
    char *own = name_of(t->main.uid);
    struct p9_qid qid;
    if (!own)
        return -ENOMEM;
    char number[16];
    snprintf(number, sizeof(number), "%u", t->main.uid);
    bool other = uname && strcmp(uname, own) && strcmp(uname, number);
    t->many = t->main.uid == 0 && !other;
    int r = p9s_attach(t, call, other ? uname : own, other ? P9_NONUNAME : t->main.uid,
                       &t->main.root, &qid);
    free(own);
    if (r < 0)
        return r;
    if (t->ext && (qid.type & P9_QTDIRECT))
        t->tree.flags |= PL_TREE_GENERATED;
    struct p9_attr in;
    struct pl_attr attr;
    struct pl_node *node = NULL;
    int64_t trip;
    r = ask_root(t, call, opts->near, &in, &trip);
    t->sync |= trip < opts->near;
    if (r == 0)
        r = p9s_node(t, &t->main, t->main.root, &in, NULL, NULL, &node, &attr);
    else
        p9s_clunk(t, t->main.root);
    t->root = (struct p9s_node *)node;
    if (t->again && node)
        p9s_rec_user(t, t->main.root, &t->main, t->root);
    return r;
}

/* A peer that knows no ACLs does not know this attribute; one that does says that there is none. */
static bool has_acls(struct p9s_tree *t, struct pl_call *call)
{
    ssize_t n = p9s_getxattr(&t->tree, call, &t->root->h.node, "system.posix_acl_access", NULL, 0);
    return n >= 0 || n == -ENODATA;
}

int pl_p9_open(struct p9_conn *conn, const struct pl_p9_opts *opts, struct pl_tree **ret,
               struct pl_err *err)
{
    struct p9s_tree *t = calloc(1, sizeof(*t));
    struct pl_call call;
    bool old = p9_dialect(conn) != P9_L, again = opts->again;
    if (t) {
        t->aname = strdup(opts->aname ? opts->aname : "");
        t->nodes = pl_nodes_new();
        t->people = people_new();
        t->dialect = p9_dialect(conn);
        t->again = again ? p9s_again_new(opts) : NULL;
    }
    if (!t || !t->aname || !t->nodes || !t->people || (again && !t->again)) {
        if (t) {
            free(t->aname);
            pl_nodes_free(t->nodes);
            people_free(t->people);
            p9s_again_free(t->again);
        }
        free(t);
        return pl_fail(err, -ENOMEM, "%s: out of memory", p9_conn_peer(conn));
    }
    t->conn = conn;
    t->fids = p9_fids_ref(p9_conn_fids(conn));
    t->ext = p9_extended(conn);
    t->chunk = p9_msize(conn) - P9_IOHDRSZ;
    t->main.uid = geteuid();
    if (getrandom(&t->tag, sizeof(t->tag), GRND_NONBLOCK) != sizeof(t->tag))
        t->tag = (uint64_t)getpid() << 32 ^ (uint64_t)(uintptr_t)t;
    pthread_mutex_init(&t->mutex, NULL);
    pthread_mutex_init(&t->aside_mutex, NULL);
    pl_cond_init(&t->appended);
    t->sync = opts->sync || old;
    atomic_init(&t->borrows, !old && p9_borrows(conn));
    pl_tree_init(&t->tree, old ? &old_ops : t->ext ? &own_ops : &plain_ops, NULL);
    t->tree.flags =
        PL_TREE_REMOTE | (old ? 0 : PL_TREE_LOCKS | PL_TREE_XATTR) | (t->ext ? PL_TREE_PLUS : 0);

    pl_call_init_self(&call);
    int r = open_root(t, &call, opts);
    if (r == 0 && !old && has_acls(t, &call))
        t->tree.flags |= PL_TREE_POSIX_ACL;
    t->own = opts->own; /* before there is a thread that may have to know it */
    if (r == 0 && t->again)
        r = p9s_again_start(t);
    pl_call_done(&call);
    if (r < 0) {
        t->own = false;
        fail_attach(t, r, err);
        pl_tree_unref(&t->tree); /* the connection stays the caller's */
        return r;
    }
    t->ended = opts->done;
    t->ended_arg = opts->again_arg;
    *ret = &t->tree;
    return 0;
}
