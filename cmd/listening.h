/* SPDX-License-Identifier: MIT */
/* What serve, duct, listen and dial share. */
#ifndef CMD_LISTENING_H
#define CMD_LISTENING_H

#include "channel/channel.h"
#include "cmd/cmd.h"

/* Adds users, by name or number and separated by commas, to the `n` that are there: how many it are
 * then; usage error if one is unknown. */
size_t listening_users(const struct cmd *cmd, const char *text, uid_t *ret, size_t n, size_t max);
/* Usage error unless the kernel tells who connects to this address. */
void listening_check_users(const struct cmd *cmd, const char *addr);
/* Prints what the user ought to know of an address ("NAME: NOTE"), if anything. */
void listening_note(const struct cmd *cmd, const char *name, const char *note);
/* Usage error unless it is an address. */
void listening_check(const struct cmd *cmd, const char *addr);
/* Becomes the command with the channel as its stdin and stdout; PLENUM_CHANNEL,
 * PLENUM_PEER and PLENUM_WHO tell it what it has got. `duct` and `plenum` are found also when they
 * are not installed. Returns only on failure: the exit status (127: there is no such command),
 * having printed why. Where the channel is more than a descriptor (tls!), the command is a child
 * instead, between which and the channel we carry the bytes: then its own status is returned in the
 * end. */
int listening_exec(const struct cmd *cmd, struct chan *chan, char **argv);

#endif
