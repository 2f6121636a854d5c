/* SPDX-License-Identifier: MIT */
/* -o OPT,...: what `plenum mount`, `plenum duct` and pl_main take. */
#ifndef CMD_MOUNTOPT_H
#define CMD_MOUNTOPT_H

#include "doors/fuse.h"
#include "keeper/mount.h"

struct mountopt {
    struct mount_opts mount;
    struct fuse_opts fuse;
    unsigned nodes; /* in the ledger at most, 0: as many as there may be */
    unsigned hang;  /* seconds, 0: a server that hangs is left alone */
    bool confine;   /* the server gives up what it has no use for (base/confine.h) */
};
void mountopt_init(struct mountopt *o);
/* Takes "ro,timeout=2s,..."; -EINVAL with a sentence. */
int mountopt_parse(struct mountopt *o, const char *text, struct pl_err *err);

/* The table for --help. */
#define MOUNTOPT_HELP                                                                              \
    "  ro noexec noatime suid dev nonempty   as in mount(8); suid and dev are off by default\n"    \
    "  allow_other                           other users may enter (root's default)\n"             \
    "  [no]default_permissions               the kernel checks modes (default), or not\n"          \
    "  timeout=T                             how long the kernel may keep what it knows:\n"        \
    "  entry_timeout= attr_timeout= negative_timeout=   ... each by itself (20ms, 1s, 5m)\n"       \
    "  [no]watch                             the kernel is told of changes by others, or asks\n"   \
    "  direct_io                             no content is cached in the kernel\n"                 \
    "  writeback                             the kernel gathers writes (one client only)\n"        \
    "  noopen                                opens never reach the server (many small files)\n"    \
    "  open                                  all reach it, those of directories too\n"             \
    "  [no]passthrough                       the kernel itself moves bytes of open files where "   \
    "it\n"                                                                                         \
    "                                        can (the default; see plenum status DIR), or not\n"   \
    "  hang=SECONDS                          a server that takes nothing for so long is "          \
    "replaced\n"                                                                                   \
    "                                        (30), if the mount outlives it; 0: never\n"           \
    "  nodes=N                               as many known files survive a server (16777216)\n"    \
    "  noconfine                             the server keeps all rights that it was started "     \
    "with\n"                                                                                       \
    "  uring                                 requests over io_uring; the mount ends with its "     \
    "server\n"                                                                                     \
    "  threads=N max_write=SIZE              at most N at once (16); bytes a write (1M)\n"

#endif
