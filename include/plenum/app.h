/* SPDX-License-Identifier: MIT */
/*
 * Doors for programs of your own.
 *
 *     int main(int argc, char **argv) { return pl_main(argc, argv, my_tree()); }
 *
 * makes a program with this command line:
 *     PROG [-f] [-o OPT,...] DIR   mounts the tree (returns when the mount works; -f: stays)
 *     PROG --serve ADDR...         exports it over 9P; --access FILE says who may attach what
 *     PROG --stdio                 speaks 9P on its standard input and output
 *     PROG --help
 *
 * Mounted, the tree's functions run in a process that has given up its capabilities, set-user-ID
 * programs and system calls such as mount(2), even if root started it (plenum-mount(1), Rights); a
 * tree that needs them is mounted with -o noconfine.
 */
#ifndef PLENUM_APP_H
#define PLENUM_APP_H

#include <plenum/tree.h>

/* Runs the program as above over `tree` (takes over the reference; NULL: says "out of memory").
 * Returns the exit status: 0 done, 1 failed, 2 wrong usage. Blocks until the work is done. */
PL_API int pl_main(int argc, char **argv, struct pl_tree *tree);

/* The tree that a SPEC names ("host:/srv", "ro(mem:)", "9p:unix!/run/x"; plenum-spec(7)).
 * May block (dialing). 0, or a negative errno and the sentence in `err`. */
PL_API int pl_tree_open(const char *spec, struct pl_tree **ret, struct pl_err *err);

/* The version of the library: "0.1.0". */
PL_API const char *pl_version(void);

#endif
