/* SPDX-License-Identifier: MIT */
/* The fids of a session: see p9_door.h. */
#include "doors/p9_door.h"
#include <errno.h>
#include <malloc.h>
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
    if (copy && copy->name && fid->link)
        copy->link = pl_node_ref(fid->link);
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
        if (fid->rclose)
            p9d_remove_fid(&call, fid);
        pl_call_done(&call);
    }
    if (fid->special)
        p9d_special_close(fid);
    if (fid->stream)
        pthread_mutex_destroy(&fid->stream->mutex);
    free(fid->stream);
    if (p9d_xattr(fid))
        p9d_xattr_free(fid->session, p9d_xattr(fid));
    pl_node_unref(fid->node);
    pl_node_unref(fid->parent);
    pl_node_unref(fid->link);
    p9d_attach_unref(at);
    free(fid->name);
    free(fid);
}

void p9d_fid_unref(struct p9d_fid *fid)
{
    if (fid && atomic_fetch_sub_explicit(&fid->refs, 1, memory_order_acq_rel) == 1)
        fid_free(fid);
}

/* ---- the table ---- */

/* Chains, as many as there are fids or up to twice that. A chain costs a fid one pointer: a client
 * may have a million of them. */
enum { FIRST_CHAINS = 16, MANY_CHAINS = 65536 };

/* The client chooses the numbers, but not which of them meet in the table. */
static struct p9d_fid **chain_of(const struct p9d_session *s, uint32_t num)
{
    uint32_t hash = (uint32_t)((num + 1) * (s->door->seed[0] | 1) >> 32);
    return &s->fids.chains[hash & (s->fids.nchains - 1)];
}

static struct p9d_fid *find(struct p9d_session *s, uint32_t num)
{
    struct p9d_fid *fid = s->fids.n ? *chain_of(s, num) : NULL;
    while (fid && fid->num != num)
        fid = fid->next;
    return fid;
}

/* Doubles the table when it is full. -ENOMEM: there is none. One that cannot grow only gets slow.
 */
static int room_in_table(struct p9d_session *s)
{
    struct p9d_fids *t = &s->fids;
    if (t->n < t->nchains)
        return 0;
    struct p9d_fids old = *t;
    uint32_t nchains = old.nchains ? 2 * old.nchains : FIRST_CHAINS;
    struct p9d_fid **chains = calloc(nchains, sizeof(struct p9d_fid *));
    if (!chains)
        return old.nchains ? 0 : -ENOMEM;
    t->chains = chains;
    t->nchains = nchains;
    for (uint32_t i = 0; i < old.nchains; i++)
        for (struct p9d_fid *fid = old.chains[i], *next; fid; fid = next) {
            next = fid->next;
            struct p9d_fid **chain = chain_of(s, fid->num);
            fid->next = *chain;
            *chain = fid;
        }
    free(old.chains);
    return 0;
}

static void into_table(struct p9d_session *s, struct p9d_fid *fid)
{
    struct p9d_fid **chain = chain_of(s, fid->num);
    fid->next = *chain;
    *chain = fid;
    s->fids.n++;
    atomic_fetch_add_explicit(&s->door->nfids, 1, memory_order_relaxed);
}

static void out_of_table(struct p9d_session *s, struct p9d_fid *fid)
{
    struct p9d_fid **at = chain_of(s, fid->num);
    while (*at != fid)
        at = &(*at)->next;
    *at = fid->next;
    s->fids.n--;
    atomic_fetch_sub_explicit(&s->door->nfids, 1, memory_order_relaxed);
}

/* A session may have as many as are free of those that all may have: whoever comes last has as many
 * as the greediest. */
static bool table_full(struct p9d_session *s)
{
    unsigned all = atomic_load_explicit(&s->door->nfids, memory_order_relaxed);
    unsigned own = s->fids.n;
    return own >= LIMIT_FIDS || all >= LIMIT_FIDS_ALL || own >= LIMIT_FIDS_ALL - all;
}

struct p9d_fid *p9d_fid_get(struct p9d_session *s, uint32_t num)
{
    pthread_mutex_lock(&s->mutex);
    struct p9d_fid *fid = find(s, num);
    if (fid)
        atomic_fetch_add_explicit(&fid->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&s->mutex);
    return fid;
}

struct p9d_fid *p9d_fid_take(struct p9d_session *s, uint32_t num)
{
    pthread_mutex_lock(&s->mutex);
    struct p9d_fid *fid = find(s, num);
    if (fid)
        out_of_table(s, fid);
    pthread_mutex_unlock(&s->mutex);
    return fid;
}

int p9d_fid_put(struct p9d_session *s, uint32_t num, struct p9d_fid *old, struct p9d_fid *fid)
{
    int r = 0;
    fid->num = num;
    pthread_mutex_lock(&s->mutex);
    if (find(s, num) != old)
        r = -EBADF;
    else if (!old)
        r = table_full(s) ? -EMFILE : room_in_table(s);
    if (r == 0 && old)
        out_of_table(s, old);
    if (r == 0)
        into_table(s, fid);
    pthread_mutex_unlock(&s->mutex);
    p9d_fid_unref(r == 0 ? old : fid);
    return r;
}

void p9d_drop_all(struct p9d_session *s)
{
    struct p9d_fids *t = &s->fids;
    for (uint32_t i = 0; i < t->nchains; i++)
        for (;;) {
            pthread_mutex_lock(&s->mutex);
            struct p9d_fid *fid = t->chains[i];
            if (fid)
                out_of_table(s, fid);
            pthread_mutex_unlock(&s->mutex);
            if (!fid)
                break;
            p9d_fid_unref(fid);
        }
    bool many = t->nchains >= MANY_CHAINS;
    free(t->chains);
    *t = (struct p9d_fids){.chains = NULL};
#ifdef __GLIBC__
    if (many) /* what a greedy client had goes back to the system, not only to us */
        malloc_trim(0);
#else
    (void)many;
#endif
}
