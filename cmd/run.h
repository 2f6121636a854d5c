/* SPDX-License-Identifier: MIT */
/* plenum run, as its doors see it. */
#ifndef CMD_RUN_H
#define CMD_RUN_H

#include "cmd/cmd.h"
#include "cmd/viewspace.h"

enum { RUN_DEPTH = 8 /* views in views */ };

struct run {
    const struct cmd *cmd;
    struct view *view; /* its tops are no files, and not "/" where the door could not do that */
    struct viewbind *binds;
    size_t nbinds;
    char **argv;      /* the program and its arguments, NULL-terminated */
    const char *cwd;  /* absolute */
    const char *opts; /* of -o, for the door mount; NULL: none were given */
    unsigned depth;   /* of the new view: 1 in no other */
    bool trapped;     /* this process is in a view of the door trap */
    bool verbose;
    bool preload; /* with the door trap: what can be is found in the programs themselves */
};

/* Becomes the program, in the view: returns only when something failed, with the exit status after
 * the sentence was printed. */
int run_mount(const struct run *run);

/* The same, but the program is a child of a supervisor: passes its status on. */
int run_trap(const struct run *run);
/* The library that programs load for the door preload, into PATH_MAX bytes: -ENOENT with a sentence
 * that says where it was looked for. */
int run_preload(char *path, struct pl_err *err);

/* What run_mount ends with: this process becomes the program. Returns 127 (there is none) or 126.
 */
int run_exec(const struct run *run);
/* That the program could not be run, for `error`: the same. */
int run_failed(const struct run *run, int error);

#endif
