/* SPDX-License-Identifier: MIT */
/* Requests of the 9P source: one, or several under way at once. */
#include "sources/p9_tree.h"

int p9s_ask(struct p9s_tree *t, struct pl_call *call, struct p9_msg *m, struct p9_answer *a)
{
    a->buf = NULL;
    return p9s_why(call, p9_rpc(t->conn, call, m, a, NULL, 0));
}

int p9s_tell(struct p9s_tree *t, struct pl_call *call, struct p9_msg *m)
{
    struct p9_answer a;
    int r = p9s_ask(t, call, m, &a);
    p9_answer_free(&a);
    return r;
}

void p9s_start(struct p9s_tree *t, struct pl_call *call, struct p9s_batch *b, struct p9_msg *m,
               void *into, size_t size)
{
    unsigned i = b->n++;
    b->a[i].buf = NULL;
    b->pending[i] = NULL;
    b->r[i] = i > 0 && !b->pending[i - 1]
                  ? b->r[i - 1]
                  : p9_rpc_start(t->conn, call, m, into, size, &b->pending[i]);
    if (b->r[i] < 0)
        b->pending[i] = NULL;
}

int p9s_finish(struct p9s_tree *t, struct pl_call *call, struct p9s_batch *b)
{
    int first = 0;
    for (unsigned i = 0; i < b->n; i++) {
        if (b->pending[i])
            b->r[i] = p9s_why(call, p9_rpc_finish(t->conn, call, b->pending[i], &b->a[i]));
        if (b->r[i] < 0 && first == 0)
            first = b->r[i];
    }
    return first;
}

void p9s_batch_free(struct p9s_batch *b)
{
    for (unsigned i = 0; i < b->n; i++)
        p9_answer_free(&b->a[i]);
}

int p9s_new_fid(struct p9s_tree *t, uint32_t *ret)
{
    *ret = p9_fid_get(t->conn);
    return *ret == P9_NOFID ? -ENFILE : 0;
}

void p9s_drop_fid(struct p9s_tree *t, uint32_t fid, int r)
{
    /* An answer that was not waited for, or not understood, leaves open whether there is a fid:
     * clunking one that is not does no harm. */
    if (r == -EINTR || r == -ETIMEDOUT || r == -EPROTO || r >= 0)
        p9_clunk_later(t->conn, fid);
    else
        p9_fid_put(t->conn, fid);
}

struct p9_msg p9s_walk_msg(uint32_t fid, uint32_t newfid, const char *name)
{
    struct p9_msg m = {.type = P9_Twalk, .fid = fid, .newfid = newfid};
    if (name) {
        m.nwname = 1;
        m.wname[0] = p9_str(name);
    }
    return m;
}

int p9s_walk(struct p9s_tree *t, struct pl_call *call, struct p9_msg *m, struct p9_answer *a)
{
    int r = p9s_ask(t, call, m, a);
    if (r == 0 && a->r.nwqid != m->nwname)
        r = a->r.nwqid < m->nwname ? -ENOENT : -EPROTO;
    return r;
}
