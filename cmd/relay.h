/* SPDX-License-Identifier: MIT */
/*
 * What a command behind a mount (exec:, ssh:) prints on standard error.
 *
 * It inherits that, and a mount in the background would hold the terminal or pipe of who mounted
 * open by it for ever. So the command gets a pipe, which is copied to standard error until the
 * mount works, and emptied from then on.
 */
#ifndef CMD_RELAY_H
#define CMD_RELAY_H

#include <pthread.h>
#include <stdbool.h>

struct relay {
    int from, to, event; /* the pipe, the real standard error, ends the copying */
    pthread_t thread;
    bool up;
};
/* From here on standard error is the pipe. Without descriptors for it nothing happens. */
void relay_start(struct relay *r);
/* Standard error is itself again; what is in the pipe is copied first. `go_on`: the command lives
 * on, and what it prints is dropped from now on; else the pipe is closed. */
void relay_stop(struct relay *r, bool go_on);

#endif
