/* SPDX-License-Identifier: MIT */
/*
 * One channel, any number of exports and mounts: what `plenum duct` and `plenum ssh` do.
 *
 * With mounts it is a keeper's job whose server process owns the channel; without, this process
 * serves by itself. Each direction ends by itself: ours when our last mount is gone, the peer's
 * when the peer says so; when both have ended the status is 0. A lost link takes the mounts away.
 */
#ifndef CMD_DUCTRUN_H
#define CMD_DUCTRUN_H

#include "channel/channel.h"
#include "cmd/cmd.h"
#include "cmd/mountopt.h"
#include "cmd/spec.h"

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
    size_t nexports, nmounts;
    struct duct_export exports[DUCT_MAX];
    struct duct_mount mounts[DUCT_MAX];
    struct mountopt opts;
    const char *access; /* the access file, or NULL */
    bool quiet;         /* no announcements */
    bool remote;        /* the far end of `plenum ssh`: the near end tells of a lost link */
};

/* The exit status; what went wrong has been printed. Frees the exports' specs. */
int duct_run(struct duct *d);

#endif
