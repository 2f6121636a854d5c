/* SPDX-License-Identifier: MIT */
/*
 * The names of users and groups and their numbers, as getpwnam(3) and getgrgid(3) know them, which
 * may go to a directory server: so what they said is remembered for a minute. Thread-safe.
 */
#ifndef BASE_PEOPLE_H
#define BASE_PEOPLE_H

#include <stdbool.h>
#include <stdint.h>

#define PEOPLE_NAME 256 /* bytes, with NUL; who has a longer name goes by the number */

struct people;
struct people *people_new(void); /* NULL: no memory */
void people_free(struct people *people);

/* The name of a user (or group), or its number in digits where it has none. */
void people_name(struct people *people, bool group, uint32_t id, char buf[PEOPLE_NAME]);
/* The number of that name, which may be digits: 0 or -ENOENT. */
int people_number(struct people *people, bool group, const char *name, uint32_t *ret);

#endif
