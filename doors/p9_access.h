/* SPDX-License-Identifier: MIT */
/*
 * The access file: who may attach what, how, and as whom (docs/access.md). Lines of
 *
 *     WHO  PATH  ro|rw  AS
 *
 * of which the first that fits decides; if none does the answer is EACCES. `#` begins a comment; a
 * space or `#` in a word is written \040 or \043, as in fstab(5).
 *
 *   WHO   what the channel proved: cert:NAME, key:NAME, uid:N or uid:USER, ssh; with * and ? in it
 *         a pattern; * alone is everybody, also one of whom nothing is known
 *   PATH  what may be attached, with all beneath it: / is the whole export
 *   AS    USER or its number: everything happens as that user of the server
 *         caller: as the user that the client says, but never as root, unless a unix socket proved
 * it caller+root: the same, and root is root map:FILE: as the user that this map of ids says
 * (base/idmap.h)
 *
 * Only a server that is root can act as others. Thread-safe.
 */
#ifndef DOORS_P9_ACCESS_H
#define DOORS_P9_ACCESS_H

#include "doors/p9.h"

struct p9_access;
/* Reads and checks the file. The sentence names the line. */
int p9_access_open(const char *path, struct p9_access **ret, struct pl_err *err);
/* Reads it again, for attaches from now on. When it is not right everything stays as it was. */
int p9_access_reload(struct p9_access *access, struct pl_err *err);
void p9_access_free(struct p9_access *access); /* after the door */

/* For p9_door_admit, with the access file as `arg`. */
int p9_access_admit(void *arg, const struct p9_asking *asking, struct pl_tree *tree,
                    struct p9_admitted *ret);

/* The same from text, which is changed; `path` is for sentences. Without `files` users are numbers
 * and there are no maps: nothing outside the text is looked at (for fuzzing). */
int p9_access_parse(char *text, const char *path, bool files, struct p9_access **ret,
                    struct pl_err *err);

#endif
