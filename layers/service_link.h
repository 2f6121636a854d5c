/* SPDX-License-Identifier: MIT */
/*
 * The connection of a service: a bounded queue of what is to be told, those who wait for answers,
 * and one thread that dials, writes, reads, and dials again.
 *
 * A record is kept until it is written, until it is answered if somebody waits for that, and until
 * it is kept if the server said that it keeps: what a server that died may have missed is sent
 * again in order.
 */
#ifndef LAYERS_SERVICE_LINK_H
#define LAYERS_SERVICE_LINK_H

#include "layers/service.h"
#include "layers/service_wire.h"

struct service_link;
struct service_link *service_link_new(const char *name, const char *spec,
                                      const struct service_attrs *attrs,
                                      const struct service_dialer *dialer);
/* Says what is left to say, and goodbye: dials for that too, for as long as an operation would
 * wait, or, with lost=ignore and a server that is away, a moment. How much could not be said goes
 * to the dialer's `changed`. */
void service_link_free(struct service_link *l);

bool service_link_off(struct service_link *l);
void service_link_switch(struct service_link *l, bool on);
/* Is it one of the server's own threads that calls? Those are never told of, nor made to wait. */
bool service_link_self(struct service_link *l, pid_t pid);

/* May an operation begin? Waits for room and, with lost=hold, for the server. 0; the errno with
 * which the server refuses what modifies; -EIO; -EINTR or -ETIMEDOUT of the call. */
int service_link_admit(struct service_link *l, struct pl_call *call, bool modifies);
/* Tells `msg` (kind, seq are filled in). Unless msg->want is SERVICE_TELL, waits for the answer and
 * returns it: 0, the server's errno, -EIO where there is none to be had, -EINTR when the call was
 * cancelled. */
int service_link_tell(struct service_link *l, struct pl_call *call, struct service_msg *msg);
int service_link_drain(struct service_link *l, struct pl_call *call);

#endif
