/* SPDX-License-Identifier: MIT */
/* A plenum on another host, started over ssh, as a channel. */
#ifndef CMD_SSHLINK_H
#define CMD_SSHLINK_H

#include "channel/channel.h"

struct sshlink {
    const char *host;          /* [USER@]HOST */
    const char *remote_plenum; /* the program there; NULL: the one in PATH or /usr/local/bin */
    char *const *ssh_options;  /* more arguments for ssh, NULL-terminated; or NULL */
    char *const *args;         /* the remote plenum's arguments, NULL-terminated */
    bool patient;              /* ssh ignores SIGINT: the caller ends it in good order */
};

/* Starts ssh (or what PLENUM_SSH names) and waits until the far plenum speaks: it is told by
 * `--marker TOKEN` behind its subcommand to print TOKEN first, so that what the far shell's
 * start-up files print is passed over. The channel's child is ssh. */
int sshlink_start(const struct sshlink *link, struct chan *ret, struct pl_err *err);

#endif
