/* SPDX-License-Identifier: MIT */
/* The program anew, in the place of a nursery: both sides of the exec. The keeper's part, who
 * decides when, is control.c. Inside keeper/. */
#ifndef KEEPER_UPGRADE_H
#define KEEPER_UPGRADE_H

#include "keeper/wire.h"

/* Notes which program this is and where it was started. In the user's process, before the fork. */
void upgrade_note(const struct keeper_job *job);
/* In a child of the nursery: runs the program anew with the job's arguments, with `sock` to the
 * keeper and, unless it is a trial, with all descriptors that the ledgers claim. Does not return:
 * what fails is said over `sock`. */
_Noreturn void upgrade_exec(const struct keeper_job *job, int sock, bool trial);
/* In the program that was run so (PLENUM_NURSERY says that it was): takes over ledgers and pages,
 * says whether it is ready, and becomes the nursery. As long as the keeper has not told it where
 * the mounts are (MSG_PLACE) nothing is its business, and it ends when the keeper lets it go: so
 * does a trial. In any other program it just returns. */
void upgrade_adopt(const struct keeper_job *job, struct kept *mounts);

#endif
