/* SPDX-License-Identifier: MIT */
/* The caller's credentials, where this process may take them on. */
#include "base/cred.h"
#include "sources/host.h"

int host_act(struct host *h, struct pl_call *call)
{
    if (!h->acts)
        return 0;
    const struct pl_cred *c = &call->cred;
    if (c->uid == 0)
        return cred_set(0, c->gid, NULL, 0);
    /* When the door cannot tell the groups there are none: that may refuse, never grant. */
    if (pl_call_groups(call) < 0)
        return cred_set(c->uid, c->gid, NULL, 0);
    return cred_set(c->uid, c->gid, c->groups, c->ngroups);
}

int host_act_create(struct host *h, struct pl_call *call)
{
    int r = host_act(h, call);
    if (r == 0)
        cred_umask(call->umask & 0777);
    return r;
}

void host_end(void)
{
    cred_end();
}
