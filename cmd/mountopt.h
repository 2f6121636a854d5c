/* SPDX-License-Identifier: MIT */
/* -o OPT,...: what `plenum mount`, `plenum duct` and pl_main take. */
#ifndef CMD_MOUNTOPT_H
#define CMD_MOUNTOPT_H

#include "doors/fuse.h"
#include "keeper/mount.h"

/* What is done about a link that breaks (docs/links.md); times in ns. */
struct linkopt {
    int64_t linger;    /* so long one that is down is waited for; 0: none; -1: not said */
    int64_t keepalive; /* silence after which the far end is asked; 0: never; -1: not said */
    int64_t soft;      /* without a link callers wait so long; 0: as long as it lingers */
};
#define LINKOPT_LINGER    86400000000000 /* who dials, if it is not said: 1d */
#define LINKOPT_CALLED    600000000000   /* who is called: 10m */
#define LINKOPT_KEEPALIVE 15000000000
#define LINKOPT_SOFT      60000000000
void linkopt_init(struct linkopt *o);

struct mountopt {
    struct mount_opts mount;
    struct fuse_opts fuse;
    unsigned nodes; /* in the ledger at most, 0: as many as there may be */
    unsigned hang;  /* seconds, 0: a server that hangs is left alone */
    struct linkopt link;
    bool confine; /* the server gives up what it has no use for (base/confine.h) */
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
    "  linger=T                              a link that is down is waited for so long (1d; 0: "   \
    "it\n"                                                                                         \
    "                                        ends with its first break); see docs/links.md\n"      \
    "  soft=SECONDS                          without a link callers wait so long, then get\n"      \
    "                                        ETIMEDOUT until it is back (60)\n"                    \
    "  hard                                  ... they wait as long as it lingers\n"                \
    "  keepalive=SECONDS                     after so much silence the other end is asked, and\n"  \
    "                                        given up after as much again (15; 0: never)\n"        \
    "  noconfine                             the server keeps all rights that it was started "     \
    "with\n"                                                                                       \
    "  uring                                 requests over io_uring; the mount ends with its "     \
    "server\n"                                                                                     \
    "  threads=N max_write=SIZE              at most N at once (16); bytes a write (1M)\n"

#endif
