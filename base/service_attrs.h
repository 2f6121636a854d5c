/* SPDX-License-Identifier: MIT */
/*
 * The attributes of a service (docs/services.md): which operations of a tree an external server is
 * told of, which of them wait for it, and what is done when it is not there. One parser for all who
 * write them: SPECs, and n-DFS's /#fs/NAME/ATTR/... of vpath.
 */
#ifndef BASE_SERVICE_ATTRS_H
#define BASE_SERVICE_ATTRS_H

#include <plenum/tree.h>

enum service_lost {
    SERVICE_LOST_DEFAULT, /* as parsed without lost=; filled by service_attrs_parse() */
    SERVICE_LOST_ERROR,   /* operations fail: EIO */
    SERVICE_LOST_IGNORE,  /* they go on, and the server is told later how many it has missed */
    SERVICE_LOST_HOLD,    /* they wait until the server is back */
};

#define SERVICE_NAME 64 /* bytes of a name with its NUL: letters, digits, "_.-" */

struct service_attrs {
    bool monitor;         /* operations are done here and told; else the server decides first */
    bool regular, write;  /* of regular files, of files open for writing alone */
    bool data;            /* with the bytes of write and setxattr */
    bool off;             /* begins switched off */
    uint64_t calls, acks; /* bits of 1 << enum pl_op */
    char match[256];      /* a pattern of fnmatch(3); "": all paths */
    enum service_lost lost;
    uint64_t queue;  /* bytes told and not yet taken, at most */
    int64_t timeout; /* ns that an operation waits for an answer or for room */
    int64_t batch;   /* ns that what nobody waits for may wait for more */
};

/* Parses "monitor/regular/call=open,close/ack=write/..."; in lists '+' is a comma too, and %XX is a
 * byte anywhere. "" gives the defaults: call= what opens, closes or changes anything, ack= nothing,
 * lost=ignore of a monitor and error else, queue=1M, timeout=30s, batch=2ms. -EINVAL with the
 * sentence, which names the attribute. */
int service_attrs_parse(const char *text, struct service_attrs *ret, struct pl_err *err);
/* Is it a name? */
bool service_name_ok(const char *name);

#endif
