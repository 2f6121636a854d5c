/* SPDX-License-Identifier: MIT */
/* What `plenum status` and the log say of a link. */
#ifndef CMD_LINKPAGE_H
#define CMD_LINKPAGE_H

#include "cmd/mountopt.h"
#include "keeper/registry.h"

/* The other end is there, and this is what will be done when it is not. `id`: of the link that both
 * ends have agreed on, or "". */
void linkpage_up(struct reg_page *page, const struct linkopt *opts, const char *id);
/* It went down (why), still is for another reason, or is up again (NULL): for status and, unless
 * prefix is NULL, the log. */
void linkpage_changed(struct reg_page *page, const char *prefix, const char *peer,
                      const char *down);

#endif
