/* SPDX-License-Identifier: MIT */
/* Between the runner and what cases stand on. */
#ifndef CONFORM_ENV_H
#define CONFORM_ENV_H

#include "conform.h"

/* How the process of a case ends; any other status is a crash or a leak. */
enum { CASE_OK = 0, CASE_FAILED = 61, CASE_SKIPPED = 77 };

extern int verdict_fd; /* where the sentence of a failure or a skip goes */
extern bool verbose;

void let_all_go(void); /* drops whatever the case still holds */

#endif
