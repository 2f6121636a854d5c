/* SPDX-License-Identifier: MIT */
/*
 * The keeper answers for a mount that has no server any more, as long as something else is mounted
 * below it: so that what is nested can be reached, listed and unmounted, innermost first.
 *
 * The directories on the way to what is nested (and the mount points themselves) have their true
 * attributes, as the kernel was last told (the ledger knows them); each shows only what leads on.
 * All else is -ENOTCONN, as of any FUSE mount whose server is gone. A name on the way whose object
 * the ledger does not know (it found no room there, or the file has several names) is -ENOMEM: the
 * one error at which the kernel does not take apart what is mounted below.
 */
#ifndef KEEPER_NESTED_H
#define KEEPER_NESTED_H

#include <stdbool.h>

struct kept;

/* Begins, if anything is mounted below `m`, its connection lives and there is a ledger. */
bool nested_begin(struct kept *m);
/* What is mounted has changed: false if nothing is below any more. */
bool nested_refresh(struct kept *m);
/* Answers what waits. Does not block. */
void nested_answer(struct kept *m);
void nested_end(struct kept *m);

#endif
