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
    bool silent; /* nobody is asked for a password, and ssh says nothing: it runs in our place */
    int cancel;  /* given up (-ECANCELED) when this becomes readable; 0: never */
    /* ... and (-ETIMEDOUT) when the far plenum has not spoken for so long, in ns; 0: never. ssh
     * itself waits for ever for who falls silent while it logs in. */
    int64_t patience;
};
#define SSHLINK_TOKEN 48

/* Starts ssh (or what PLENUM_SSH names) and waits until the far plenum speaks: it is told by
 * `--marker TOKEN` behind its subcommand to print TOKEN first, so that what the far shell's
 * start-up files print is passed over. The channel's child is ssh. */
int sshlink_start(const struct sshlink *link, struct chan *ret, struct pl_err *err);
/* The same; `token` was chosen by sshlink_token(), so that the far end is known by it later. */
int sshlink_token(char ret[SSHLINK_TOKEN], struct pl_err *err);
int sshlink_start_as(const struct sshlink *link, const char *token, struct chan *ret,
                     struct pl_err *err);
/* Another channel to the far plenum that was started with `token` and waits there (`plenum relink`,
 * cmd/holder.h), by an ssh that asks nobody for anything. */
int sshlink_back(const struct sshlink *link, const char *token, int cancel, struct chan *ret,
                 struct pl_err *err);

#endif
