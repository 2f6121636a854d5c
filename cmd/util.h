/* SPDX-License-Identifier: MIT */
/* Small things that the parts of cmd/ share (the part in the library included). */
#ifndef CMD_UTIL_H
#define CMD_UTIL_H

#include <plenum/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* The entry of the NULL-terminated list that `word` was probably meant to be, or NULL. */
const char *util_closest(const char *word, const char *const *list);

/* "~", "~/x", "~user/x" and relative paths made absolute (symlinks and ".." left as they are), in
 * memory to be freed; NULL: no memory, or an unknown user (errno ENOENT). */
char *util_absolute(const char *path);

/* Makes the soft limit of open descriptors the hard one. */
void util_many_descriptors(void);

/* The program's own command line, noted before getopt changes the order; main and pl_main do. */
void util_args_note(int argc, char **argv);
int util_args(char *const **ret_argv); /* how many; 0: not noted */

/* SIGPIPE is ignored from now on; main does that. */
void util_pipe_ignore(void);
/* SIGPIPE as it was then: before another program is begun. */
void util_pipe_signal(void);

/* One line on standard error, whatever is in it: safe for a terminal. */
void util_say(const char *fmt, ...) PL_PRINTF(1, 2);

/* This user's name for 9P. */
const char *util_user(char *buf, size_t size);

/* A descriptor that becomes readable (eventfd) when SIGINT, SIGTERM or SIGHUP came, whichever
 * thread took it; the signals do nothing else from then on. One that is ignored (nohup) stays so.
 * -1 with errno. */
int util_signals(void);

/* From now on SIGHUP makes this descriptor readable instead. -1 with errno. */
int util_hangups(void);

/* Reads descriptor `fd` until `token` and a newline after it have gone by, at most 64 KiB:
 * 0, -ECONNRESET at its end, -EPROTO when it did not come, -ECANCELED when `cancel` (or -1) became
 * readable, -ETIMEDOUT at mono_now() `until` (or 0), -errno. */
int util_await(int fd, const char *token, int cancel, int64_t until);

#endif
