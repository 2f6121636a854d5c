/* SPDX-License-Identifier: MIT */
/*
 * The program: one table of subcommands, one file each.
 *
 * What subcommands share: options, errors (one line each) and exit statuses live here; paths in a
 * tree in walk.h; SPECs in spec.h; mounting and serving in mounter.h and serving.h.
 */
#ifndef CMD_CMD_H
#define CMD_CMD_H

#include <getopt.h>
#include <plenum/error.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdnoreturn.h>

struct cmd {
    const char *name;
    const char *args;    /* what follows the name, e.g. "[-f] SPEC DIR" */
    const char *summary; /* one line */
    const char *help;    /* the options, one a line, and the text beneath them */
    const char *example; /* working, one or more lines */
    int (*run)(const struct cmd *self, int argc, char **argv); /* the exit status */
};

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* The table, in the order of `plenum help`; NULL-terminated. */
extern const struct cmd *const cmd_table[];
const struct cmd *cmd_find(const char *name); /* or NULL */
/* "plenum: PLACENAME: no such subcommand (did you mean ...)"; returns EXIT_USAGE. */
int cmd_unknown(const char *place, const char *name);

/* The next option as getopt_long gives it, -1 at the end; --help and -h print the help and exit 0,
 * unknown ones end the program with a hint and status 2. */
int cmd_opt(const struct cmd *cmd, int argc, char **argv, const char *shorts,
            const struct option *longs);
void cmd_help(const struct cmd *cmd, FILE *out);

/* The whole program under the name of a helper of mount(8); the exit status is mount(8)'s. */
int mount8_main(int argc, char **argv);

/* "plenum: NAME: text (see plenum NAME --help)", exit status 2. */
noreturn void cmd_usage(const struct cmd *cmd, const char *fmt, ...) PL_PRINTF(2, 3);
/* "plenum: NAME: text"; returns EXIT_FAILED. */
int cmd_fail(const struct cmd *cmd, const char *fmt, ...) PL_PRINTF(2, 3);
/* The same with a sentence that is ready. */
int cmd_error(const struct cmd *cmd, const struct pl_err *err);
/* The same for wrong usage: returns EXIT_USAGE. */
int cmd_wrong(const struct cmd *cmd, const struct pl_err *err);

/* Flushes standard output: EXIT_OK, or EXIT_FAILED with a sentence (quietly if its reader left). */
int cmd_flush(const struct cmd *cmd);

#endif
