/* SPDX-License-Identifier: MIT */
/*
 * Sentences of a program that may have nobody at the terminal any more: to standard error, or, once
 * log_background() was called, to syslog. For programs and the keeper's process; libraries do not
 * say anything.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <plenum/error.h>
#include <stdbool.h>

void log_background(void);
/* One sentence without newline; `failure` chooses syslog's level (error, else info). Nothing
 * is escaped here: what a peer controls comes out of pl_fail or text_escape. */
void log_say(bool failure, const char *fmt, ...) PL_PRINTF(2, 3);

#endif
