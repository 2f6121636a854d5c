/* SPDX-License-Identifier: MIT */
/* Connections for programs that use files without a mount (plenum/client.h); doors/api.c has the
 * name spaces. */
#include "channel/channel.h"
#include "cmd/spec.h"
#include "sources/p9.h"
#include <errno.h>
#include <plenum/client.h>
#include <stdlib.h>

struct pl_channel {
    struct chan chan;
};

int pl_dial(const char *addr, struct pl_channel **ret, struct pl_err *err)
{
    struct pl_channel *c = calloc(1, sizeof(*c));
    if (!c)
        return pl_fail(err, -ENOMEM, "%.100s: out of memory", addr);
    int r = chan_dial(addr, &c->chan, err);
    if (r < 0)
        free(c);
    else
        *ret = c;
    return r;
}

const char *pl_channel_note(const struct pl_channel *chan)
{
    return chan->chan.note;
}

void pl_hangup(struct pl_channel *chan)
{
    if (!chan)
        return;
    chan_close(&chan->chan);
    free(chan);
}

int pl_fsmount(struct pl_channel *chan, const char *aname, struct pl_tree **ret, struct pl_err *err)
{
    struct p9_conn_opts opts = {.crew = spec_crew(), .use = true};
    struct pl_p9_opts how = {.aname = aname, .own = true, .near = PL_P9_NEAR};
    struct p9_conn *conn;
    struct pl_call call;
    int r = opts.crew ? p9_conn_new(&chan->chan, &opts, &conn, err)
                      : pl_fail(err, -ENOMEM, "%s: out of memory", chan->chan.peer);
    if (r < 0) {
        pl_hangup(chan);
        return r;
    }
    free(chan);
    pl_call_init_self(&call);
    r = p9_use(conn, &call, err);
    if (r == 0)
        r = pl_p9_open(conn, &how, ret, err);
    pl_call_done(&call);
    if (r < 0)
        p9_conn_free(conn);
    return r;
}
