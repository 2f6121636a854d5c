/* SPDX-License-Identifier: MIT */
/* Carries bytes between a channel that is not a mere descriptor (TLS) and a command. */
#ifndef CMD_PUMP_H
#define CMD_PUMP_H

#include "channel/channel.h"

/* Until the command has let go of its end of the socket pair whose other end `fd` is, or the link
 * is lost. An end of the channel's input is passed on; the command may go on writing. Closes both.
 */
void pump_run(struct chan *chan, int fd);

#endif
