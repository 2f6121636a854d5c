/* SPDX-License-Identifier: MIT */
/*
 * The protocol of services (docs/services.md): lines of words, in both directions. One codec for
 * both sides; all that comes in passes service_decode(), which checks every bound.
 */
#ifndef LAYERS_SERVICE_WIRE_H
#define LAYERS_SERVICE_WIRE_H

#include <plenum/tree.h>
#include <stdio.h>

#define SERVICE_VERSION  1
#define SERVICE_LINE_MAX 65536           /* bytes of a line with its newline */
#define SERVICE_DATA_MAX (16u << 20)     /* bytes behind one */
#define SERVICE_OP_LOST  PL_OP_COUNT     /* "lost": `len` operations went by untold */
#define SERVICE_OP_ON    PL_OP_COUNT + 1 /* the service was switched */
#define SERVICE_OP_OFF   PL_OP_COUNT + 2
#define SERVICE_OPS      PL_OP_COUNT + 3
#define SERVICE_PIDS     8

enum service_kind {
    /* either side: the first line */
    SERVICE_HELLO,
    /* the tree's side */
    SERVICE_EVENT,
    SERVICE_BYE,
    /* the server's side */
    SERVICE_ANSWER, /* to event `seq`: `result` */
    SERVICE_KEPT,   /* all events up to `seq` need not be sent again */
    SERVICE_REFUSE, /* what modifies the tree fails with `result` from now on */
    SERVICE_ACCEPT, /* no more */
    SERVICE_ON,
    SERVICE_OFF,
};

enum service_want {
    SERVICE_TELL, /* done, and no answer is waited for */
    SERVICE_ACK,  /* done; the caller waits for the answer */
    SERVICE_ASK,  /* not done yet; the answer decides */
};

/* What does not apply is 0 or NULL. */
struct service_msg {
    enum service_kind kind;
    uint64_t seq;   /* of an event: 1, 2, ...; of the server's hello: the last it has kept */
    int64_t result; /* of an event, of an answer: 0 or a count, or a negative errno */
    /* an event */
    int op; /* enum pl_op or SERVICE_OP_*; -1: one that this version does not know */
    enum service_want want;
    pid_t pid;
    uid_t uid;
    gid_t gid;
    uint64_t ino, off, len, flags;
    const char *path, *path2; /* from the root of the tree, "/a/b"; "": not known */
    const char *name;         /* of an xattr, of what a symlink leads to */
    const void *data;
    size_t ndata;
    /* a hello */
    unsigned version;
    const char *service; /* whose it is; the server's: "" */
    const char *tree;    /* what it is a layer over, a SPEC; "": that is not said */
    const char *no;      /* the server's: why it does not serve this tree; "": it does */
    uint64_t session;
    bool keeps; /* the server says what it has kept */
    pid_t pids[SERVICE_PIDS];
    size_t npids;
};

/* The message as bytes, to be freed; NULL: out of memory. */
char *service_encode(const struct service_msg *msg, size_t *ret_n);

/* The first message in the `n` bytes at `buf`: how many bytes it takes; 0: it is not whole yet;
 * -EPROTO: it is none (also: too long). Strings and data point into buf, which is changed. */
ssize_t service_decode(char *buf, size_t n, struct service_msg *ret);

const char *service_op_name(int op);

#endif
