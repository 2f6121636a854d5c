/* SPDX-License-Identifier: MIT */
/*
 * What a peer has to do by a certain time: say Tversion, end the message that it began, take the
 * answers that it asked for. conn->due says when; the connection's look (crew_clock) sees to it.
 * While the link is down none of it can be done, and the time that is left begins anew.
 */
#include "p9/priv.h"
#include <errno.h>

int64_t due_second = 1000000000;

void conn_due(struct p9_conn *c, enum due what, int64_t ns)
{
    if (c->state != LIVE)
        return;
    c->due[what] = mono_now() + ns;
    crew_clock(c->crew, c, c->due[what]);
}

void conn_done(struct p9_conn *c, enum due what)
{
    c->due[what] = 0; /* a look that finds nothing due does no harm */
}

static void see_room(struct p9_conn *c)
{
    c->due[DUE_ROOM] = 0;
    if (c->role == ROLE_STOPPED && serve_full(c))
        role_stop(c);
    else
        role_check(c);
}

int64_t conn_look(struct p9_conn *c, int64_t now)
{
    static const char *const sentences[NDUES] = {
        [DUE_HELLO] = "the other end said nothing that makes sense for too long",
        [DUE_WHOLE] = "the other end began a message and did not end it in time",
        [DUE_TAKEN] = "the other end does not take its answers"};
    int64_t at = 0;
    for (int i = 0; i < NDUES && c->state == LIVE; i++) {
        if (c->due[i] && c->down)
            c->due[i] = now + due_for(LIMIT_STALLED, 0);
        if (c->due[i] && c->due[i] <= now && sentences[i])
            conn_lost(c, -ETIMEDOUT, "%s", sentences[i]);
        else if (c->due[i] && c->due[i] <= now)
            see_room(c);
        if (c->due[i] && (!at || c->due[i] < at))
            at = c->due[i];
    }
    return at;
}
