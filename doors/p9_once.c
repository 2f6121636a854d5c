/* SPDX-License-Identifier: MIT */
/* Clients that are remembered, and the way of an operation: see p9_once.h. */
#include "doors/p9_once.h"
#include "doors/redo.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* For the compiler: what is before is in memory before what follows. */
#define ORDER()   atomic_signal_fence(memory_order_seq_cst)
#define SET(p, v) atomic_store_explicit(p, v, memory_order_release)
#define GET(p)    atomic_load_explicit(p, memory_order_acquire)

/* A server that is killed loses its connections a little before it loses what it knew of their
 * clients: who comes from it is given that time. */
#define DYING_NS    5000000
#define DYING_TRIES 200

static uint64_t now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* ---- the memory of a door ---- */

static void set_crash(struct once *once)
{
    static const char *const names[] = {"",
#define X(name) "op-" #name,
                                        ONCE_POINTS(X)
#undef X
    };
    const char *text = getenv("PLENUM_CRASH"), *colon = text ? strchr(text, ':') : NULL;
    for (unsigned i = 1; colon && i < ONCE_POINT_COUNT; i++)
        if (strlen(names[i]) == (size_t)(colon - text) &&
            !strncmp(names[i], text, (size_t)(colon - text)))
            once->crash_point = i;
    if (once->crash_point)
        once->crash_count = (unsigned)strtoul(colon + 1, NULL, 10);
}

void once_point_slow(struct once *once)
{
    if (atomic_fetch_sub(&once->crash_count, 1) == 1)
        kill(getpid(), SIGKILL);
}

int once_new(struct once **ret)
{
    struct once *once = calloc(1, sizeof(*once));
    if (!once)
        return -ENOMEM;
    pthread_mutex_init(&once->mutex, NULL);
    pl_cond_init(&once->left);
    for (size_t i = 0; i < sizeof(once->appends) / sizeof(*once->appends); i++)
        pthread_mutex_init(&once->appends[i], NULL);
    pthread_mutex_init(&once->judging, NULL);
    once->store.dir = -1;
    set_crash(once);
    *ret = once;
    return 0;
}

static void client_free(struct once *once, struct once_client *c, bool forget)
{
    HASH_DEL(once->clients, c);
    once_file_close(&once->store, c->file, c->fd, forget);
    pthread_mutex_destroy(&c->mutex);
    pthread_cond_destroy(&c->over);
    free(c);
}

void once_free(struct once *once)
{
    struct once_client *c, *next;
    if (!once)
        return;
    HASH_ITER (hh, once->clients, c, next)
        client_free(once, c, false);
    once_store_close(&once->store);
    for (size_t i = 0; i < sizeof(once->appends) / sizeof(*once->appends); i++)
        pthread_mutex_destroy(&once->appends[i]);
    pthread_mutex_destroy(&once->judging);
    pthread_mutex_destroy(&once->mutex);
    pthread_cond_destroy(&once->left);
    free(once);
}

int p9_door_remember(struct p9_door *door, int dir, const char *what)
{
    for (size_t i = 0; i < door->nexports; i++)
        if (!(door->exports[i].tree->flags & PL_TREE_LASTING))
            return -ENOTSUP;
    return once_store_open(&door->once->store, dir, what);
}

/* ---- clients: all with once.mutex ---- */

/* Has it asked for anything? Who may not attach cannot. */
static bool is_idle(const struct once_client *c)
{
    return GET(&c->file->head.newest) == 0;
}

/* Private memories that nobody uses: those that are too old and, with `one`, the oldest, or one
 * without any operation. */
static void drop_private(struct once *once, bool one)
{
    struct once_client *c, *next, *oldest = NULL;
    int64_t old = time(NULL) - LIMIT_SESSION_KEPT;
    HASH_ITER (hh, once->clients, c, next) {
        if (c->session || c->waiting)
            continue;
        if (c->left < old)
            client_free(once, c, true);
        else if (!oldest || (is_idle(c) && !is_idle(oldest)) ||
                 (is_idle(c) == is_idle(oldest) && c->left < oldest->left))
            oldest = c;
    }
    if (one && oldest && HASH_COUNT(once->clients) >= LIMIT_SESSIONS)
        client_free(once, oldest, true);
}

/* The memory of that client, found or made: 1 or 0, or a negative errno: -EBUSY when another server
 * has it, unless it is to be had `anyway`, then without what that one knows. */
static int client_new(struct once *once, const uint64_t id[2], const char *who, bool anyway,
                      struct once_client **ret)
{
    drop_private(once, true);
    if (HASH_COUNT(once->clients) >= LIMIT_SESSIONS)
        return -ENOSPC;
    struct once_client *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    int r = -EBUSY;
    c->fd = -1;
    if (once->store.dir >= 0) {
        r = once_file_open(&once->store, id, who, &c->file, &c->fd);
        if (r == 0)
            once_store_prune(&once->store, LIMIT_SESSIONS);
    }
    if (r < 0 && r != -EPERM && (r != -EBUSY || anyway || once->store.dir < 0))
        r = (c->file = once_file_private(&once->store, id, who)) ? 0 : -ENOMEM;
    if (r < 0) {
        free(c);
        return r;
    }
    memcpy(c->id, id, sizeof(c->id));
    c->had = now(CLOCK_REALTIME); /* which no date is ahead of */
    snprintf(c->who, sizeof(c->who), "%s", who);
    pthread_mutex_init(&c->mutex, NULL);
    pl_cond_init(&c->over);
    HASH_ADD(hh, once->clients, id, sizeof(c->id), c);
    *ret = c;
    return r;
}

/* Nobody is connected as this client, or comes for it. */
static void client_idle(struct once *once, struct once_client *c, bool forget)
{
    c->left = time(NULL);
    if (forget || c->fd >= 0)
        client_free(once, c, forget);
}

void p9d_once_leave(struct p9d_session *s, bool forget)
{
    struct once *once = s->door->once;
    pthread_mutex_lock(&once->mutex);
    struct once_client *c = s->client;
    s->client = NULL;
    s->introduced = false;
    if (c) {
        c->session = NULL;
        if (!c->waiting)
            client_idle(once, c, forget);
        pthread_cond_broadcast(&once->left);
    }
    pthread_mutex_unlock(&once->mutex);
}

static void wake(void *arg)
{
    struct once *once = arg;
    pthread_mutex_lock(&once->mutex);
    pthread_cond_broadcast(&once->left);
    pthread_mutex_unlock(&once->mutex);
}

/* With once.mutex, which is given up meanwhile: until `free` holds, or the call is over. */
static int await_left(struct once *once, struct pl_call *call, bool (*free)(const void *),
                      const void *arg)
{
    int r = 0;
    while (r == 0 && !free(arg)) { /* again, as it may not be so any more when we have the mutex */
        pthread_mutex_unlock(&once->mutex);
        r = pl_call_block(call, wake, once);
        pthread_mutex_lock(&once->mutex);
        if (r < 0)
            return r;
        while (!free(arg) && !(r = pl_call_over(call)))
            pl_call_wait(call, &once->left, &once->mutex);
        pthread_mutex_unlock(&once->mutex);
        pl_call_unblock(call);
        pthread_mutex_lock(&once->mutex);
    }
    return r;
}

struct taking {
    const struct once_client *c;
    unsigned claim;
};

static bool is_decided(const void *arg)
{
    const struct taking *x = arg;
    return !x->c->session || x->c->claims != x->claim;
}

/* Ends the connection that the client has, which it has left behind: waits until its requests are
 * over, and its fids and locks are gone. The last that comes gets the client. */
static int take_over(struct once *once, struct once_client *c, struct pl_call *call)
{
    struct taking x = {.c = c, .claim = ++c->claims};
    c->waiting++;
    pthread_cond_broadcast(&once->left);
    if (c->session)
        p9_conn_drop(c->session->conn); /* which is not freed before the session has left */
    int r = await_left(once, call, is_decided, &x);
    c->waiting--;
    if (r == 0 && c->claims != x.claim)
        r = -EBUSY; /* a connection that came later has it */
    if (r < 0 && !c->session && !c->waiting)
        client_idle(once, c, false);
    return r;
}

static int find_client(struct p9d_op *op, struct once_client **ret)
{
    struct p9d_session *s = op->session;
    struct once *once = s->door->once;
    struct once_client *c;
    for (unsigned tries = 0;; tries++) {
        HASH_FIND(hh, once->clients, op->in->id, sizeof(op->in->id), c);
        if (c)
            break;
        int r = client_new(once, op->in->id, s->who, tries == DYING_TRIES, ret);
        if (r != -EBUSY)
            return r;
        pthread_mutex_unlock(&once->mutex);
        r = pl_call_sleep(op->call, DYING_NS);
        pthread_mutex_lock(&once->mutex);
        if (r < 0)
            return r;
    }
    if (strcmp(c->who, s->who))
        return -EPERM;
    int r = take_over(once, c, op->call);
    *ret = c;
    return r < 0 ? r : 1;
}

static bool is_answered(const void *arg)
{
    return !((const struct p9d_session *)arg)->introducing;
}

/* The first on its connection. */
static int introduce(struct p9d_op *op)
{
    struct p9d_session *s = op->session;
    struct once_client *c = NULL;
    s->introducing = true;
    int r = find_client(op, &c);
    s->introducing = false;
    pthread_cond_broadcast(&s->door->once->left);
    s->intro_flags = 0;
    if (r >= 0) {
        s->client = c;
        s->conn = op->req->conn;
        c->session = s;
        s->intro_flags = P9_SESSION_REMEMBERS | (r ? P9_SESSION_KNOWN : 0);
    }
    /* Without room it is as if nothing were remembered. */
    s->introduced = r >= 0 || r == -ENOSPC || r == -ENOMEM;
    memcpy(s->intro_id, op->in->id, sizeof(s->intro_id));
    return s->introduced ? 0 : r;
}

int p9d_session(struct p9d_op *op)
{
    struct p9d_session *s = op->session;
    struct once *once = s->door->once;
    if (!op->in->id[0] && !op->in->id[1])
        return -EINVAL;
    pthread_mutex_lock(&once->mutex);
    int r = await_left(once, op->call, is_answered, s);
    if (r == 0 && !s->introduced)
        r = introduce(op);
    else if (r == 0 && memcmp(s->intro_id, op->in->id, sizeof(s->intro_id)))
        r = -EPROTO;
    op->out->flags = s->intro_flags; /* the same for all that use the connection */
    pthread_mutex_unlock(&once->mutex);
    once_point(once, ONCE_AT_session);
    return r;
}

/* ---- operations ---- */

static void wake_over(void *arg)
{
    struct once_client *c = arg;
    pthread_mutex_lock(&c->mutex);
    pthread_cond_broadcast(&c->over);
    pthread_mutex_unlock(&c->mutex);
}

/* With client.mutex, which is given up meanwhile. The same message came before, and is being
 * carried out. */
static int await(struct once_client *c, unsigned i, struct pl_call *call)
{
    pthread_mutex_unlock(&c->mutex);
    int r = pl_call_block(call, wake_over, c);
    pthread_mutex_lock(&c->mutex);
    if (r < 0)
        return r;
    while (c->running[i] && !(r = pl_call_over(call)))
        pl_call_wait(call, &c->over, &c->mutex);
    pthread_mutex_unlock(&c->mutex);
    pl_call_unblock(call);
    pthread_mutex_lock(&c->mutex);
    return r;
}

static bool is_known(const struct once_slot *slot, uint64_t op)
{
    return slot->op == op && GET(&slot->state) != ONCE_FREE;
}

/* The slot of the operation, which is this request's until p9d_once_end(). What it was: of enum
 * once_state, or -EPROTO, -EINTR. */
static int enter(struct p9d_op *op, struct once_client *c, uint64_t hash)
{
    uint64_t num = op->in->op;
    unsigned i = num % LIMIT_SESSION_OPS;
    struct once_slot *slot = &c->file->slot[i];
    int r = 0;
    pthread_mutex_lock(&c->mutex);
    while (r == 0 && c->running[i] && slot->op == num && slot->hash == hash)
        r = await(c, i, op->call);
    bool known = is_known(slot, num);
    uint64_t newest = GET(&c->file->head.newest);
    if (r == 0 && c->running[i])
        r = -EPROTO;
    else if (r == 0 && known && (slot->hash != hash || slot->type != op->in->type))
        r = -EPROTO;
    else if (r == 0 && !known && newest >= LIMIT_SESSION_OPS && num <= newest - LIMIT_SESSION_OPS)
        r = -EPROTO; /* that long ago nothing is remembered */
    if (r == 0) {
        r = known ? (int)GET(&slot->state) : ONCE_FREE;
        if (!known) {
            SET(&slot->state, ONCE_FREE);
            ORDER();
            slot->op = num;
            slot->type = op->in->type;
            slot->hash = hash;
            slot->name = once_name_hash(op->in->name.len ? op->in->name.s : "");
        }
        c->running[i] = true;
        op->slot = slot;
    }
    pthread_mutex_unlock(&c->mutex);
    return r;
}

static void leave(struct once_client *c, struct once_slot *slot)
{
    _Atomic uint64_t *newest = &c->file->head.newest;
    pthread_mutex_lock(&c->mutex);
    if (GET(&slot->state) != ONCE_FREE && GET(newest) < slot->op)
        SET(newest, slot->op);
    c->running[slot - c->file->slot] = false;
    pthread_cond_broadcast(&c->over);
    pthread_mutex_unlock(&c->mutex);
}

void p9d_once_begun(struct p9d_op *op)
{
    struct once_slot *slot = op->slot;
    SET(&slot->state, ONCE_FREE);
    ORDER();
    slot->began = redo_now();
    slot->from = now(CLOCK_MONOTONIC);
    slot->asked = once_sum_asked(slot);
    SET(&slot->intent.ino, 0);
    SET(&slot->intent.ino2, 0);
    SET(&slot->intent.born, 0);
    SET(&slot->intent.born2, 0);
    SET(&slot->intent.size1, 0);
    SET(&slot->xattr, 0);
    ORDER();
    SET(&slot->state, ONCE_BEGUN);
    op->call->intent = &slot->intent;
    once_point(op->session->door->once, ONCE_AT_begun);
}

static void done(struct p9d_op *op, int error)
{
    struct once_slot *slot = op->slot;
    const struct p9_msg *out = op->out;
    slot->error = error;
    slot->qid_type = out->qid.type;
    slot->qid_version = out->qid.version;
    slot->qid_path = out->qid.path;
    slot->iounit = out->iounit;
    slot->count = op->in->type == P9_Tcopy ? out->length : out->count;
    slot->to = now(CLOCK_MONOTONIC);
    slot->answered = once_sum_answered(slot);
    ORDER();
    SET(&slot->state, ONCE_DONE);
    once_point(op->session->door->once, ONCE_AT_answered);
}

/* ---- claims ---- */

static bool makes(uint8_t type)
{
    return type == P9_Tlcreate || type == P9_Tmkdir || type == P9_Tsymlink || type == P9_Tmknod;
}

static bool removes(uint8_t type)
{
    return type == P9_Tunlinkat || type == P9_Tremove;
}

struct claim {
    const struct once_slot *by;
    enum once_claim what;
    uint64_t number, name;
    uint32_t count;
    bool found;
    const struct once *once;
};

/* It went well, and was not over at that time. */
static bool done_since(const struct once_slot *s, uint64_t then)
{
    return GET(&s->state) == ONCE_DONE && !s->error && s->to >= then;
}

static bool took_away(const struct claim *c, const struct once_slot *s, uint64_t since)
{
    return done_since(s, since) && removes(s->type) && s->name == c->name &&
           GET(&s->intent.ino) == c->number;
}

static bool appended(const struct claim *c, const struct once_slot *s)
{
    return done_since(s, c->by->from) && s->type == P9_Twrite2 &&
           GET(&s->intent.size1) == c->number && s->count == c->count;
}

static bool made(const struct claim *c, const struct once_slot *s)
{
    return done_since(s, c->by->from) && makes(s->type) && s->name == c->name &&
           s->qid_path == c->number;
}

/* With the client's lock, or of a copy; `running` NULL: none is being carried out. */
static bool has(const struct claim *c, const struct once_file *f, const bool *running, unsigned i)
{
    const struct once_slot *s = &f->slot[i];
    if (s == c->by || (running && running[i]))
        return false;
    if (c->what != ONCE_MADE)
        return c->what == ONCE_REMOVED ? took_away(c, s, c->by->from) : appended(c, s);
    if (!made(c, s))
        return false;
    /* What had the name and the number, and was taken away again, was another object. */
    for (unsigned k = 0; k < LIMIT_SESSION_OPS; k++)
        if (&f->slot[k] != c->by && !(running && running[k]) && took_away(c, &f->slot[k], s->to))
            return false;
    return true;
}

/* What is at it now may come to have it. (Who makes something now is too late.) */
static bool may_have(const struct claim *c, const struct once_slot *s)
{
    return s != c->by && s->name == c->name &&
           ((c->what == ONCE_REMOVED && removes(s->type)) ||
            (c->what == ONCE_APPENDED && s->type == P9_Twrite2));
}

static bool client_has(struct claim *claim, struct once_client *c, struct pl_call *call)
{
    bool found = false;
    pthread_mutex_lock(&c->mutex);
    for (unsigned i = 0; i < LIMIT_SESSION_OPS && !found; i++) {
        while (c->running[i] && may_have(claim, &c->file->slot[i]) && await(c, i, call) == 0)
            ;
        found = has(claim, c->file, c->running, i);
    }
    pthread_mutex_unlock(&c->mutex);
    return found;
}

/* Of a client that is not connected here. */
static void file_has(void *arg, const struct once_file *f)
{
    struct claim *claim = arg;
    struct once_client *c;
    HASH_FIND(hh, claim->once->clients, f->head.id, sizeof(f->head.id), c);
    for (unsigned i = 0; i < LIMIT_SESSION_OPS && !c; i++)
        claim->found |= once_slot_ok(&f->slot[i], i) && has(claim, f, NULL, i);
}

bool p9d_once_claimed(struct p9d_op *op, enum once_claim what, uint64_t number)
{
    struct once *once = op->session->door->once;
    struct claim claim = {.by = op->slot,
                          .what = what,
                          .number = number,
                          .name = op->slot->name,
                          .count = op->in->count,
                          .once = once};
    struct once_client *c, *next;
    bool found = false;
    pthread_mutex_lock(&once->mutex);
    HASH_ITER (hh, once->clients, c, next) {
        if (!found)
            found = client_has(&claim, c, op->call);
    }
    if (!found && once->store.dir >= 0)
        once_store_each(&once->store, file_has, &claim);
    pthread_mutex_unlock(&once->mutex);
    return found || claim.found;
}

/* ---- the way of an operation ---- */

/* Notes what came of what was begun. */
static int end(struct p9d_op *op, int r)
{
    once_point(op->session->door->once, ONCE_AT_deed);
    op->call->intent = NULL;
    if ((r == -EINTR || r == -ETIMEDOUT) && r == pl_call_over(op->call))
        SET(&op->slot->state, ONCE_CALLED_OFF);
    else if (r != -EREMOTEIO) /* which stays so, however often it is asked */
        done(op, r);
    return r;
}

static int anew(struct p9d_op *op)
{
    int r = p9d_find_fids(op);
    if (r < 0)
        return r; /* nothing was begun: a fid is missing */
    p9d_once_begun(op);
    return end(op, p9d_deed(op));
}

int p9d_once(struct p9d_op *op)
{
    struct p9d_session *s = op->session;
    struct once_client *c = s->client;
    if (!s->introduced)
        return -EPROTO;
    if (!c)
        return p9d_plain(op);
    int r = enter(op, c, p9_msg_hash(op->in));
    if (r < 0)
        return r;
    once_point(s->door->once, ONCE_AT_known);
    switch (r) {
    case ONCE_DONE:
        r = p9d_again(op);
        break;
    case ONCE_BEGUN:
        once_point(s->door->once, ONCE_AT_redo);
        pthread_mutex_lock(&s->door->once->judging);
        r = end(op, p9d_redo(op));
        pthread_mutex_unlock(&s->door->once->judging);
        break;
    default:
        r = anew(op);
    }
    leave(c, op->slot);
    return r;
}
