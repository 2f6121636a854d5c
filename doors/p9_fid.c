/* SPDX-License-Identifier: MIT */
/* The fids of a session and the turns of requests at them: see p9_door.h. */
#include "doors/p9_door.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* ---- fids ---- */

struct p9d_fid *p9d_fid_new(struct p9d_session *s, struct p9d_attach *at, struct pl_node *node,
                            struct pl_node *parent, const char *name)
{
    struct p9d_fid *fid = calloc(1, sizeof(*fid));
    if (!fid)
        return NULL;
    if (parent && name && !(fid->name = strdup(name))) {
        free(fid);
        return NULL;
    }
    atomic_init(&fid->refs, 1);
    fid->session = s;
    fid->at = at;
    atomic_fetch_add(&at->refs, 1);
    fid->node = pl_node_ref(node);
    fid->parent = fid->name ? pl_node_ref(parent) : NULL;
    return fid;
}

struct p9d_fid *p9d_fid_clone(struct p9d_fid *fid)
{
    char name[LIMIT_NAME + 1];
    struct pl_node *parent = NULL;
    pthread_mutex_lock(&fid->session->mutex);
    if (fid->name) {
        strcpy(name, fid->name);
        parent = pl_node_ref(fid->parent);
    }
    pthread_mutex_unlock(&fid->session->mutex);
    struct p9d_fid *copy =
        p9d_fid_new(fid->session, fid->at, fid->node, parent, parent ? name : NULL);
    pl_node_unref(parent);
    return copy;
}

struct pl_file *p9d_file(struct p9d_fid *fid)
{
    return atomic_load_explicit(&fid->file, memory_order_acquire);
}

struct p9d_xattr *p9d_xattr(struct p9d_fid *fid)
{
    return atomic_load_explicit(&fid->xattr, memory_order_acquire);
}

static void fid_free(struct p9d_fid *fid)
{
    struct p9d_attach *at = fid->at;
    struct pl_file *file = p9d_file(fid);
    if (file) {
        struct pl_call call;
        pl_call_init(&call, 0, 0);
        p9d_act_as(&call, at);
        p9d_unlock_all(&call, fid, file);
        pl_close(at->tree, &call, file);
        pl_call_done(&call);
    }
    if (p9d_xattr(fid))
        p9d_xattr_free(fid->session, p9d_xattr(fid));
    pl_node_unref(fid->node);
    pl_node_unref(fid->parent);
    p9d_attach_unref(at);
    free(fid->name);
    free(fid);
}

void p9d_fid_unref(struct p9d_fid *fid)
{
    if (fid && atomic_fetch_sub_explicit(&fid->refs, 1, memory_order_acq_rel) == 1)
        fid_free(fid);
}

static struct p9d_fid *fid_ref(struct p9d_fid *fid)
{
    if (fid)
        atomic_fetch_add_explicit(&fid->refs, 1, memory_order_relaxed);
    return fid;
}

void p9d_drop_all(struct p9d_session *s)
{
    for (;;) {
        pthread_mutex_lock(&s->mutex);
        struct p9d_slot *slot = s->slots;
        if (slot)
            HASH_DEL(s->slots, slot);
        pthread_mutex_unlock(&s->mutex);
        if (!slot)
            return;
        assert(slot->turn == slot->next);
        p9d_fid_unref(slot->fid);
        free(slot);
    }
}

/* ---- turns ---- */

void p9d_claim(struct p9d_op *op, enum p9d_kind kind, uint32_t num)
{
    assert(op->nclaims < P9D_CLAIMS);
    op->claim[op->nclaims++] = (struct p9d_claim){.kind = kind, .num = num};
}

static struct p9d_slot *slot_new(struct p9d_session *s, uint32_t num)
{
    struct p9d_slot *slot = HASH_COUNT(s->slots) < LIMIT_FIDS ? calloc(1, sizeof(*slot)) : NULL;
    if (slot) {
        slot->num = num;
        HASH_ADD(hh, s->slots, num, sizeof(slot->num), slot);
    }
    return slot;
}

/* Nobody uses the slot and no fid is in it: it need not be. */
static void slot_tidy(struct p9d_session *s, struct p9d_slot *slot)
{
    if (!slot->fid && slot->turn == slot->next) {
        HASH_DEL(s->slots, slot);
        free(slot);
    }
}

/* The turn goes to the next in line. */
static void pass_on(struct p9d_session *s, struct p9d_claim *c)
{
    c->held = false;
    c->slot->turn++;
    if (c->slot->turn != c->slot->next)
        pthread_cond_broadcast(&s->turned);
    else
        slot_tidy(s, c->slot);
    c->slot = NULL;
}

/* Takes a turn at every fid that the op names, or none: a request that names a fid that neither is
 * nor is being made fails at once. */
static int take_turns(struct p9d_session *s, struct p9d_op *op)
{
    for (unsigned i = 0; i < op->nclaims; i++) {
        struct p9d_claim *c = &op->claim[i];
        if (c->kind == P9D_MAKE && c->num == P9_NOFID)
            return -EBADF;
        HASH_FIND(hh, s->slots, &c->num, sizeof(c->num), c->slot);
        if (!c->slot && c->kind != P9D_MAKE)
            return -EBADF;
    }
    for (unsigned i = 0; i < op->nclaims; i++) {
        struct p9d_claim *c = &op->claim[i];
        if (!c->slot && !(c->slot = slot_new(s, c->num)))
            return -EMFILE; /* at most one claim makes, and it is the last: no turn is lost */
    }
    for (unsigned i = 0; i < op->nclaims; i++)
        op->claim[i].turn = op->claim[i].slot->next++;
    return 0;
}

static void no_wake(void *arg) {}

/* Waits for earlier requests that make or change this fid. They can be cancelled; this wait cannot,
 * because the turn has to be passed on in order. */
static void wait_turn(struct p9d_session *s, struct p9d_op *op, struct p9d_claim *c)
{
    pthread_mutex_unlock(&s->mutex);
    pl_call_block(op->call, no_wake, NULL);
    pthread_mutex_lock(&s->mutex);
    while (c->slot->turn != c->turn)
        pthread_cond_wait(&s->turned, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
    pl_call_unblock(op->call);
    pthread_mutex_lock(&s->mutex);
}

int p9d_wait_turns(struct p9d_op *op)
{
    struct p9d_session *s = op->session;
    pthread_mutex_lock(&s->mutex);
    int r = take_turns(s, op);
    if (r < 0)
        op->nclaims = 0;
    for (unsigned i = 0; i < op->nclaims; i++) {
        struct p9d_claim *c = &op->claim[i];
        if (c->slot->turn != c->turn)
            wait_turn(s, op, c);
        if (c->kind == P9D_FREE) {
            c->fid = c->slot->fid;
            c->slot->fid = NULL;
        } else {
            c->fid = fid_ref(c->slot->fid);
        }
        if (!c->fid && c->kind != P9D_MAKE)
            r = -EBADF;
        if (c->kind == P9D_MAKE)
            c->held = true;
        else
            pass_on(s, c);
    }
    pthread_mutex_unlock(&s->mutex);
    return r;
}

void p9d_done(struct p9d_op *op)
{
    struct p9d_session *s = op->session;
    for (unsigned i = 0; i < op->nclaims; i++) {
        struct p9d_claim *c = &op->claim[i];
        struct p9d_fid *old = NULL;
        if (c->held) {
            pthread_mutex_lock(&s->mutex);
            if (op->made) {
                old = c->slot->fid;
                c->slot->fid = op->made;
                op->made = NULL;
            }
            pass_on(s, c);
            pthread_mutex_unlock(&s->mutex);
        }
        p9d_fid_unref(old);
        p9d_fid_unref(c->fid);
    }
    assert(!op->made);
}
