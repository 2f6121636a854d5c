/* SPDX-License-Identifier: MIT */
/* The far end of a 9P connection as a tree. */
#ifndef SOURCES_P9_H
#define SOURCES_P9_H

#include "p9/conn.h"
#include <plenum/tree.h>

/* Attaches at `aname` as `uname` over a connection whose using half is ready (p9_use). The tree does
 * not own the connection unless `own`: then its end says goodbye (p9_use_end) and frees it. Several
 * trees may share one connection. */
int pl_p9_open(struct p9_conn *conn, bool own, const char *aname, const char *uname,
               struct pl_tree **ret, struct pl_err *err);

#endif
