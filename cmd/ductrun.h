/* SPDX-License-Identifier: MIT */
/*
 * One channel, any number of exports and mounts: what `plenum duct` and `plenum ssh` do.
 *
 * With mounts it is a keeper's job whose server process owns the channel; without, this process
 * serves by itself. Each direction ends by itself: ours when our last mount is gone, the peer's
 * when the peer says so; when both have ended the status is 0. A link that breaks is waited for, in
 * both directions (docs/links.md); one that is lost for good takes the mounts away.
 */
#ifndef CMD_DUCTRUN_H
#define CMD_DUCTRUN_H

#include "channel/channel.h"
#include "cmd/cmd.h"
#include "cmd/mountopt.h"
#include "cmd/spec.h"
#include "cmd/sshlink.h"
#include <stdatomic.h>

#define DUCT_MAX 64

struct duct_export {
    const char *aname;
    struct spec *spec;
};
struct duct_mount {
    const char *aname; /* what the peer calls it */
    const char *dir;
};

struct duct {
    const struct cmd *cmd;
    /* The channel: an address to dial or to accept one connection at, else one that is there. */
    const char *dial, *listen;
    struct chan chan;
    const struct sshlink *ssh; /* what made it, with `token`: it is dialed again; or NULL */
    atomic_bool *redialed;     /* by the serving process: the first ssh is of no use any more */
    const char *token;         /* of this end, if `remote`, or of the far one */
    size_t nexports, nmounts;
    struct duct_export exports[DUCT_MAX];
    struct duct_mount mounts[DUCT_MAX];
    struct mountopt opts;
    const char *access; /* the access file, or NULL */
    bool quiet;         /* no announcements */
    bool remote;        /* the far end of `plenum ssh`: the near end tells of a lost link, and may
                           come back over another ssh */
};

/* The exit status; what went wrong has been printed. Frees the exports' specs. */
int duct_run(struct duct *d);

#endif
