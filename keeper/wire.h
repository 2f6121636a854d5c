/* SPDX-License-Identifier: MIT */
/* What the keeper, its nursery and its server say to each other, as base/fdpass messages. Inside
 * keeper/. */
#ifndef KEEPER_WIRE_H
#define KEEPER_WIRE_H

#include "base/fdpass.h"
#include "keeper/keeper.h"
#include "keeper/stand_in.h"
#include <limits.h>
#include <signal.h>

/* Counts what is changed here: a keeper lets in only a nursery that speaks as it does. */
#define WIRE_VERSION 1

enum {
    /* server to keeper */
    MSG_READY = 1, /* prepare returned value; index: 1 if it lasts; data: its sentence */
    MSG_UP,        /* mount index has answered INIT, or what came after it */
    MSG_GONE,      /* serve of mount index returned value; data: its sentence */
    MSG_DONE,      /* finish returned value; data: its sentence; exit follows */
    MSG_LEFT,      /* the terminal is left (the nursery says it too) */
    /* keeper to server */
    MSG_MOUNT, /* mount index: its /dev/fuse descriptor, value: its device number */
    MSG_GO,    /* all mounts were sent: serve */
    MSG_LEAVE, /* leave the terminal (to the nursery too) */
    MSG_STOP,  /* end soon */
    /* keeper to the user's process, and to `plenum upgrade` */
    MSG_RESULT, /* exit status value; data: the sentence, if any */
    /* keeper to nursery */
    MSG_START,   /* make a server; its end of the pair */
    MSG_PLACE,   /* mount index has device number value, 0: it is gone */
    MSG_UPGRADE, /* run the program anew, as a nursery; its end of the pair. value: 1, only a trial.
                    From `plenum upgrade`: do that */
    /* nursery to keeper */
    MSG_STARTED,  /* the server's process id, or a negative errno */
    MSG_UPGRADED, /* the new nursery's, likewise */
    /* keeper to the new nursery, which answers MSG_READY */
    MSG_ADOPT, /* value: WIRE_VERSION, index: how many mounts, data: the kind of job */
    MSG_HEIR,  /* mount index: its ledger, registry file and that one's directory; data: its name */
};

struct kept {
    char path[PATH_MAX];
    struct reg_entry *entry;
    struct reg_page *page;
    struct ledger *ledger; /* NULL: not shared */
    dev_t dev;
    int fd;       /* /dev/fuse while mounted and not gone, or -1 */
    bool mounted; /* made, and not yet known to be gone */
    bool up;      /* the server that is there now serves it */
    bool gone;    /* it is served no more */
    /* the keeper's alone */
    struct stand_in in;
    bool over;     /* the kernel has closed the connection: unmounted, or aborted */
    uint64_t seen; /* stats.requests at the last look */
    int64_t slow;  /* ms for which it took none, though some waited */
};

/* Sends a message without descriptors; failures show elsewhere (the other end is gone). */
void wire_say(int sock, uint32_t type, size_t index, int64_t value, const char *text);

/* setsid and cwd /. */
void wire_leave(void);
/* Standard descriptors to /dev/null (0 and 1 only, unless `all`). */
void wire_null_stdio(bool all);

/* The server process: never returns. `sock` is its end of the pair. */
_Noreturn void server_run(const struct keeper_job *job, struct kept *mounts, int sock);
/* What its signals are to be, whoever makes it; the mask is what the user's process had. */
void server_signals(const sigset_t *mask);

/* The nursery process: never returns. `sock` is its end of the pair. */
_Noreturn void nursery_run(const struct keeper_job *job, struct kept *mounts, int sock,
                           const sigset_t *mask);

#endif
