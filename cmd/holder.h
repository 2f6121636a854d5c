/* SPDX-License-Identifier: MIT */
/*
 * The far end of an ssh, found again when ssh has died.
 *
 *     near:  ssh HOST plenum duct --marker TOKEN ...      the first ssh: this process over there
 *            ssh HOST plenum relink --marker NEW TOKEN    a later one, when the first is no more
 *
 * The process that was started first is a *holder*: it listens at a meeting point named after its
 * token (keeper/registry.h: mode 0600 in a directory of this user's alone). `plenum relink`
 * connects there, passes its standard input and output, which are the new ssh's channel, and stays
 * until the holder uses them no more: then it ends, and its ssh with it. When nobody listens, it
 * answers in the holder's place that the link is gone (p9/link.h).
 *
 * The token is no secret (it stands in command lines): what comes by the meeting point has been
 * checked to be of this user or root, and a link is only found again by its ID, which stands in the
 * first message on the channel.
 */
#ifndef CMD_HOLDER_H
#define CMD_HOLDER_H

#include "channel/channel.h"

struct holder;

int holder_new(const char *token, struct holder **ret);
void holder_free(struct holder *h); /* NULL is fine */
/* To be polled for POLLIN. */
int holder_fd(const struct holder *h);
/* Takes one channel: 0, -EAGAIN when there is none after all, else -errno with a sentence. Waits
 * for who has connected for a second at most. */
int holder_accept(struct holder *h, struct chan *ret, struct pl_err *err);

/* `plenum relink`: the exit status. */
int holder_relink(const char *token);

#endif
