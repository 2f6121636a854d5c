/* SPDX-License-Identifier: MIT */
/* The far end of a 9P connection as a tree. */
#ifndef SOURCES_P9_H
#define SOURCES_P9_H

#include "p9/conn.h"
#include <plenum/tree.h>

/* Attaches at `aname` over a connection whose using half is ready (p9_use). `uname` NULL or our
 * own: as this user, and if we are root as each caller (an attach for every uid that calls). The
 * name of another: everything happens as that user. The tree does not own the connection unless
 * `own`: then its end says goodbye (p9_use_end) and frees it. When this fails the connection
 * remains the caller's. Several trees may share one connection. */
int pl_p9_open(struct p9_conn *conn, bool own, const char *aname, const char *uname,
               struct pl_tree **ret, struct pl_err *err);

/* Dials ADDR and attaches there: the tree owns all that it takes. Blocks. The tree is
 * PL_TREE_LASTING if ADDR can be dialed again (whoever calls pl_p9_open() knows that for itself):
 * its inode numbers are the far side's, open files are opened again, locks are the door's to set
 * again, and there are no keys, so that nodes are found by their parent and number. */
int pl_p9_dial(const char *addr, const char *aname, struct pl_tree **ret, struct pl_err *err);

#endif
