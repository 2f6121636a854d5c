/* SPDX-License-Identifier: MIT */
/*
 * Who was called by one caller, and waits for that one alone to come back: a duct.
 *
 * Channels that arrive are looked at by the engine (p9/link.h): the return of the link gives its
 * channel to the connection, and all others find nothing here, and are closed when they say
 * nothing that the engine has an answer to.
 */
#ifndef CMD_RETURNS_H
#define CMD_RETURNS_H

#include "channel/channel.h"
#include "p9/link.h"

struct holder;
struct returns;

/* Channels arrive at one of the two, which is taken over, also on error. -ENOMEM. */
int returns_new(struct chan_listener *listener, struct holder *holder, struct returns **ret);
/* NULL if it is a holder's. */
struct chan_listener *returns_listener(struct returns *r);
/* For the connection that is to be found again: its opts.link.links. */
struct p9_links *returns_links(struct returns *r);
/* From now on channels are accepted, in a thread. */
int returns_start(struct returns *r, struct pl_err *err);
/* Nothing is accepted any more, until it is started again. */
void returns_stop(struct returns *r); /* NULL is fine */
/* After the connection is freed. NULL is fine. */
void returns_free(struct returns *r);

#endif
