/* SPDX-License-Identifier: MIT */
/* How the service layer reaches its server: an address of channel/, dialed as often as it takes. */
#ifndef CMD_SERVICEDIAL_H
#define CMD_SERVICEDIAL_H

#include "channel/channel.h"
#include "layers/service.h"

/* For service `name` at `addr`. Says on standard error (or to the log) when the server goes and
 * comes. -ENOMEM. */
int servicedial_new(const char *name, const char *addr, struct service_dialer *ret);

/* Plain descriptors of the channel, which is theirs from now on: where it is more than descriptors
 * (tls!) a thread carries the bytes. Closing them is its end. -errno. */
int servicedial_plain(struct chan *chan, int *ret_in, int *ret_out);

#endif
