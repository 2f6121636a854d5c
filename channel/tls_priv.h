/* SPDX-License-Identifier: MIT */
/* Inside tls.c and tls_hello.c. */
#ifndef CHANNEL_TLS_PRIV_H
#define CHANNEL_TLS_PRIV_H

#include "channel/tls.h"
#include <pthread.h>

struct tls {
    SSL *ssl;
    pthread_mutex_t lock; /* guards the SSL and all that follows but `more` */
    int fd;
    bool more; /* the reader's: bytes are off the socket that it has not got */
    bool held; /* a byte was taken that was not counted yet */
    bool broken, eof;
    int error; /* negative errno, once broken, or of the socket */
    uint8_t *in;
    size_t in_at, in_end;
    uint8_t *out;
    size_t out_at, out_end, out_room;

    /* the handshake's: one thread at a time */
    struct tls_ctx *ctx;
    bool server, fetch, shook, agreed, content;
    unsigned offers;         /* pre-shared keys that a client has offered */
    const char *host, *port; /* what was dialed; the caller's */
    char peer[128], who[96];
    char psk[KEYS_NAME + 1]; /* the name of the pre-shared key that was offered or found; or "" */
    struct pl_err why;       /* why the peer was not believed; code 0: it was */
};

/* A BIO over it, or NULL. */
BIO *tls_bio(struct tls *t);
/* What is in `out` goes to the socket: 0 when all is gone, -EAGAIN, or the error. */
int tls_flush(struct tls *t);

#endif
