/* SPDX-License-Identifier: MIT */
/* What the keeper and its server say to each other, as base/fdpass messages. Inside keeper/. */
#ifndef KEEPER_WIRE_H
#define KEEPER_WIRE_H

#include "base/fdpass.h"
#include "keeper/keeper.h"
#include <limits.h>

enum {
    /* server to keeper */
    MSG_READY = 1, /* prepare returned value; data: its sentence */
    MSG_UP,        /* mount index has answered INIT */
    MSG_GONE,      /* serve of mount index returned value; data: its sentence */
    MSG_DONE,      /* finish returned value; data: its sentence; exit follows */
    MSG_LEFT,      /* the terminal is left */
    /* keeper to server */
    MSG_MOUNT, /* mount index: its /dev/fuse descriptor, value: its device number */
    MSG_GO,    /* all mounts were sent: serve */
    MSG_LEAVE, /* leave the terminal */
    MSG_STOP,  /* end soon */
    /* keeper to the user's process */
    MSG_RESULT, /* exit status value; data: the sentence, if any */
};

struct kept {
    char path[PATH_MAX];
    struct reg_entry *entry;
    struct reg_page *page;
    dev_t dev;
    int fd;       /* /dev/fuse while mounted and not gone, or -1 */
    bool mounted; /* made, and not yet known to be gone */
    bool up, gone;
};

/* Sends a message without descriptors; failures show elsewhere (the other end is gone). */
void wire_say(int sock, uint32_t type, size_t index, int64_t value, const char *text);

/* setsid, cwd /, standard descriptors to /dev/null (0 and 1 only, unless `all`). */
void wire_null_stdio(bool all);

/* The server process: never returns. `sock` is its end of the pair. */
_Noreturn void server_run(const struct keeper_job *job, struct kept *mounts, int sock);

#endif
