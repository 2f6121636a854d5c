/* SPDX-License-Identifier: MIT */
/* Tells the service manager that started us how it goes, as sd_notify(3) does. */
#ifndef BASE_NOTIFY_H
#define BASE_NOTIFY_H

#include <plenum/error.h>

/* Sends one message of "VARIABLE=value" lines to the socket that NOTIFY_SOCKET names: a path, or
 * "@NAME" in the abstract namespace. 0 when there is none, 1 when it was sent, or a negative errno.
 * Does not wait for the manager. */
int notify_say(const char *fmt, ...) PL_PRINTF(1, 2);

/* The state of a mount has changed: "up" is told as READY=1 with this process as MAINPID, "ending"
 * as STOPPING=1; `what` ("host:/srv on /mnt") goes into STATUS=. */
void notify_state(const char *state, const char *what);

#endif
