/* SPDX-License-Identifier: MIT */
/* The 9P door: connections, and the table of requests. The design is in p9_door.h. */
#include "doors/p9_door.h"
#include "doors/p9_once.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <utlist.h>

/* ---- requests ---- */

enum kind { USE, MAKE, CHANGE /* opens it, or puts another in its place */, FREE };

/* Which fids a request names, in order. */
struct row {
    int (*run)(struct p9d_op *op);
    uint8_t n;
    struct {
        uint8_t kind;
        uint16_t off;
    } fid[2];
};

#define AT(kind, member)                                                                           \
    {                                                                                              \
        kind, offsetof(struct p9_msg, member)                                                      \
    }
#define ONE(name, kind, member)                                                                    \
    {                                                                                              \
        p9d_##name, 1,                                                                             \
        {                                                                                          \
            AT(kind, member)                                                                       \
        }                                                                                          \
    }
#define TWO(name, k1, m1, k2, m2)                                                                  \
    {                                                                                              \
        p9d_##name, 2,                                                                             \
        {                                                                                          \
            AT(k1, m1), AT(k2, m2)                                                                 \
        }                                                                                          \
    }

static const struct row rows[256] = {
    [P9_Tattach] = ONE(attach, MAKE, fid),
    [P9_Twalk] = TWO(walk, USE, fid, MAKE, newfid),
    [P9_Tlookup] = TWO(lookup, USE, dfid, MAKE, newfid),
    [P9_Tclunk] = ONE(clunk, FREE, fid),
    [P9_Tremove] = ONE(remove, FREE, fid),
    [P9_Tgetattr] = ONE(getattr, USE, fid),
    [P9_Tsetattr] = ONE(setattr, USE, fid),
    [P9_Treadlink] = ONE(readlink, USE, fid),
    [P9_Tstatfs] = ONE(statfs, USE, fid),
    [P9_Tmkdir] = ONE(mkdir, USE, dfid),
    [P9_Tsymlink] = ONE(symlink, USE, dfid),
    [P9_Tmknod] = ONE(mknod, USE, dfid),
    [P9_Tlink] = TWO(link, USE, dfid, USE, fid),
    [P9_Trename] = TWO(rename, USE, fid, USE, dfid),
    [P9_Trenameat] = TWO(renameat, USE, dfid, USE, newdfid),
    [P9_Trename2] = TWO(rename2, USE, dfid, USE, newdfid),
    [P9_Tunlinkat] = ONE(unlinkat, USE, dfid),
    [P9_Topen] = ONE(open, CHANGE, fid),
    [P9_Tcreate] = ONE(create, CHANGE, fid),
    [P9_Tstat] = ONE(stat, USE, fid),
    [P9_Twstat] = ONE(wstat, USE, fid),
    [P9_Tlopen] = ONE(lopen, CHANGE, fid),
    [P9_Tlcreate] = ONE(lcreate, CHANGE, fid),
    [P9_Ttmpfile] = TWO(tmpfile, USE, dfid, MAKE, newfid),
    [P9_Tread] = ONE(read, USE, fid),
    [P9_Twrite] = ONE(write, USE, fid),
    [P9_Tfsync] = ONE(fsync, USE, fid),
    [P9_Treaddir] = ONE(readdir, USE, fid),
    [P9_Tlist] = ONE(list, USE, fid),
    [P9_Txattrwalk] = TWO(xattrwalk, USE, fid, MAKE, newfid),
    [P9_Txattrcreate] = ONE(xattrcreate, CHANGE, fid),
    [P9_Tlock] = ONE(lock, USE, fid),
    [P9_Tgetlock] = ONE(getlock, USE, fid),
    [P9_Tfallocate] = ONE(fallocate, USE, fid),
    [P9_Tseek] = ONE(seek, USE, fid),
    [P9_Tcopy] = TWO(copy, USE, fid, USE, fid2),
    [P9_Taccess] = ONE(access, USE, fid),
    [P9_Tflushfile] = ONE(flushfile, USE, fid),
    [P9_Tsyncfs] = ONE(syncfs, USE, fid),
    [P9_Tioctl] = ONE(ioctl, USE, fid),
    [P9_Tsession] = {p9d_session, 0, {{0}}},
    [P9_Twrite2] = ONE(write2, USE, fid),
    [P9_Tkey] = ONE(key, USE, fid),
    [P9_Tfind] = TWO(find, USE, fid, MAKE, newfid),
    [P9_Tlend] = ONE(lend, USE, fid),
};

static uint32_t fid_at(const struct p9_msg *in, uint16_t off)
{
    uint32_t num;
    memcpy(&num, (const char *)in + off, sizeof(num));
    return num;
}

static int find_fids(struct p9d_op *op)
{
    const struct p9_msg *in = op->in;
    const struct row *row = &rows[in->type];
    struct p9d_session *s = op->session;
    for (unsigned i = 0; i < row->n; i++) {
        uint32_t num = fid_at(in, row->fid[i].off);
        struct p9d_fid **fid = i ? &op->fid2 : &op->fid;
        switch (row->fid[i].kind) {
        case MAKE:
            if (in->type == P9_Tlookup && num == P9_NOFID)
                continue; /* a lookup may do without a fid of what it finds */
            op->newfid = num;
            if (num == P9_NOFID)
                return -EBADF;
            if (in->type == P9_Twalk && num == in->fid)
                continue; /* the fid moves */
            if ((*fid = p9d_fid_get(s, num)))
                return -EBADF;
            continue;
        case CHANGE:
            op->newfid = num;
            break;
        case FREE:
            if (!(*fid = p9d_fid_take(s, num)))
                return -EBADF;
            continue;
        }
        if (!(*fid = p9d_fid_get(s, num)))
            return -EBADF;
    }
    return 0;
}

int p9d_find_fids(struct p9d_op *op)
{
    int r = find_fids(op);
    if (r == 0 && op->fid)
        p9d_act_as(op->call, op->fid->at);
    return r;
}

int p9d_put_made(struct p9d_op *op)
{
    bool moves = op->fid && op->fid->num == op->newfid;
    return p9d_fid_put(op->session, op->newfid, moves ? op->fid : NULL, op->made);
}

int p9d_deed(struct p9d_op *op)
{
    int r = rows[op->in->type].run(op);
    return r == 0 && op->made ? p9d_put_made(op) : r;
}

int p9d_plain(struct p9d_op *op)
{
    int r = p9d_find_fids(op);
    return r < 0 ? r : p9d_deed(op);
}

static int serve(struct p9d_op *op)
{
    const struct row *row = &rows[op->in->type];
    if (op->in->type == P9_Tauth)
        return p9d_auth(op);
    if (!row->run)
        return -EOPNOTSUPP;
    int r = op->in->op ? p9d_once(op) : p9d_plain(op);
    p9d_fid_unref(op->fid);
    p9d_fid_unref(op->fid2);
    return r;
}

static void handle(void *arg, struct p9_req *req)
{
    struct p9d_op op = {.session = arg,
                        .req = req,
                        .in = &req->in,
                        .out = &req->out,
                        .call = &req->call,
                        .newfid = P9_NOFID};
    req->out.type = (uint8_t)(req->in.type + 1);
    int r = serve(&op);
    if (r < 0)
        p9_req_error(req, r);
    if (r < 0 && req->in.type == P9_Tauth)
        req->out.ename = p9_str("authentication not required");
}

bool p9d_own(const struct p9d_op *op)
{
    return p9_req_extended(op->req);
}

/* ---- sessions ---- */

static void session_free(struct p9d_session *s)
{
    struct p9_door *door = s->door;
    p9d_drop_all(s);
    p9d_once_leave(s, false);
    pthread_mutex_lock(&door->mutex);
    DL_DELETE(door->sessions, s);
    pthread_mutex_unlock(&door->mutex);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

static void reset(void *arg)
{
    struct p9d_session *s = arg;
    p9d_drop_all(s);
    p9d_once_leave(s, s->goodbye);
    s->goodbye = false;
}

static void goodbye(void *arg)
{
    struct p9d_session *s = arg;
    s->goodbye = true;
}

static void over(void *arg, int error, const char *sentence)
{
    struct p9d_session *s = arg;
    void (*tell)(void *, int, const char *) = s->over;
    void *tell_arg = s->over_arg;
    session_free(s);
    if (tell)
        tell(tell_arg, error, sentence);
}

static const struct p9_handler handler = {.handle = handle, .reset = reset, .end = goodbye};

int p9_door_conn(struct p9_door *door, struct chan *chan, bool use,
                 void (*tell)(void *arg, int error, const char *sentence), void *tell_arg,
                 struct p9_conn **ret, struct pl_err *err)
{
    struct p9d_session *s = calloc(1, sizeof(*s));
    if (!s)
        return pl_fail(err, -ENOMEM, "%s: out of memory", chan->peer);
    pthread_mutex_init(&s->mutex, NULL);
    s->door = door;
    s->peer = chan->uid;
    if (*chan->who || chan->uid == (uid_t)-1)
        snprintf(s->who, sizeof(s->who), "%s", chan->who);
    else
        snprintf(s->who, sizeof(s->who), "uid:%u", chan->uid);
    s->over = tell;
    s->over_arg = tell_arg;
    s->id = atomic_fetch_add(&door->sessions_made, 1) + 1;
    pthread_mutex_lock(&door->mutex);
    DL_APPEND(door->sessions, s);
    pthread_mutex_unlock(&door->mutex);

    struct p9_conn_opts opts = {.crew = door->crew,
                                .handler = &handler,
                                .handler_arg = s,
                                .use = use,
                                .stats = door->stats,
                                .link = door->link,
                                .over = over,
                                .over_arg = s};
    int r = p9_conn_new(chan, &opts, ret, err);
    if (r < 0)
        session_free(s);
    return r;
}

/* ---- the door ---- */

int p9_door_new(const struct p9_export *exports, size_t n, struct p9_crew *crew,
                struct stats *stats, struct p9_door **ret)
{
    struct p9_door *door = calloc(1, sizeof(*door) + n * sizeof(*exports));
    if (!door)
        return -ENOMEM;
    pthread_mutex_init(&door->mutex, NULL);
    door->crew = crew;
    door->stats = stats;
    door->euid = geteuid();
    if (!(door->people = people_new())) {
        p9_door_free(door);
        return -ENOMEM;
    }
    if (getrandom(door->seed, sizeof(door->seed), GRND_NONBLOCK) != sizeof(door->seed))
        door->seed[0] = (uint64_t)(uintptr_t)door; /* too early after boot for anyone to care */
    int r = once_new(&door->once);
    if (r < 0) {
        p9_door_free(door);
        return r;
    }
    for (size_t i = 0; i < n; i++) {
        char *aname = strdup(exports[i].aname);
        if (!aname) {
            p9_door_free(door);
            return -ENOMEM;
        }
        door->exports[i] = (struct p9_export){aname, pl_tree_ref(exports[i].tree)};
        door->nexports++;
    }
    *ret = door;
    return 0;
}

void p9_door_link(struct p9_door *door, const struct p9_link_opts *link)
{
    door->link = *link;
}

void p9_door_admit(struct p9_door *door, p9_admit_fn *admit, void *arg)
{
    door->admit = admit;
    door->admit_arg = arg;
}

void p9_door_free(struct p9_door *door)
{
    if (!door)
        return;
    while (door->sessions)
        session_free(door->sessions);
    once_free(door->once);
    p9d_special_free(door);
    people_free(door->people);
    for (size_t i = 0; i < door->nexports; i++) {
        free((char *)door->exports[i].aname);
        pl_tree_unref(door->exports[i].tree);
    }
    pthread_mutex_destroy(&door->mutex);
    free(door);
}
