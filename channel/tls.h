/* SPDX-License-Identifier: MIT */
/*
 * TLS 1.3 over a connected socket, authenticated at both ends: by certificates, or by a pre-shared
 * key (channel/keys.h). No other version, no resumption, no early data. Inside channel/, and for
 * `plenum key`.
 *
 * Whom we believe. A peer's certificate is good when its fingerprint is in `trusted`, under the
 * name that was dialed (a client's: under any name), or when that name is not there and an
 * authority of ca.pem has signed it for the host that was dialed (a client's: for its common
 * name). Always only within its time. A pre-shared key is offered where one has the name that was
 * dialed, and accepted under the name that is also its identity.
 *
 * In TLS 1.3 the client is done before the server has looked at its certificate, so a refusal would
 * come with its first read. Two of us agree by ALPN ("plenum") that the server says when it is
 * content, by a KeyUpdate, and that the client waits for that: then it is the dial that fails.
 */
#ifndef CHANNEL_TLS_H
#define CHANNEL_TLS_H

#include "channel/channel.h"
#include "channel/keys.h"
#include <openssl/ssl.h>

/* What all handshakes of one role share: our own certificate, made anew when the file changes. Any
 * number of threads. */
struct tls_ctx;
/* Fails with the sentence when there is nothing by which we could show who we are. */
int tls_ctx_new(bool server, struct tls_ctx **ret, struct pl_err *err);
void tls_ctx_free(struct tls_ctx *ctx);

struct tls;
/* A handshake over the socket `fd`, which remains the caller's and may be blocking. `peer` is the
 * name for sentences; `host` and `port`: what was dialed, NULL at a server. */
int tls_new(struct tls_ctx *ctx, int fd, const char *peer, const char *host, const char *port,
            struct tls **ret, struct pl_err *err);
void tls_free(struct tls *tls);
/* Goes on with it as far as that does not block: 0 when it is done, -EAGAIN when poll is to wait
 * for tls_events(), else it has failed. */
int tls_step(struct tls *tls, struct pl_err *err);
short tls_events(const struct tls *tls);
/* The handshake is done: the channel's bytes pass through it from now on, `who` is set, and the
 * channel owns it. */
void tls_into(struct tls *tls, struct chan *chan);

/* Goes through a whole handshake as the client, for at most `ms`, or until `cancel` (or -1) becomes
 * readable. */
int tls_connect(int fd, const char *peer, const char *host, const char *port, int ms, int cancel,
                struct tls **ret, struct pl_err *err);
/* The certificate that the server at HOST shows, trusted or not, for a person to look at: nothing
 * is sent but the beginning of a handshake. To be freed with X509_free. */
int tls_fetch(int fd, const char *peer, const char *host, int ms, X509 **ret, struct pl_err *err);

/* Our own certificate: -ENOENT with the sentence when there is none. */
int tls_own(X509 **ret, struct pl_err *err);

/* ---- handshakes at a listener: many at once, each for a limited time ---- */

struct tls_pool;
/* Its descriptors are put into `epoll`. `ms`: what a handshake may take, 0: LIMIT_HELLO. */
int tls_pool_new(int epoll, int ms, struct tls_pool **ret, struct pl_err *err);
void tls_pool_free(struct tls_pool *pool);
/* Before each wait: the listening sockets `fds` are not looked at while LIMIT_HANDSHAKES are under
 * way and the oldest of them has not had a second yet. */
void tls_pool_gate(struct tls_pool *pool, const int *fds, int n);
/* Begins one; takes the socket over. */
int tls_pool_add(struct tls_pool *pool, int fd, const char *peer, struct pl_err *err);
/* The epoll told of descriptor `fd`. 0: *ret is a channel; -EAGAIN: nothing has come of it yet;
 * -EACCES and the like: one has failed, with the sentence. */
int tls_pool_event(struct tls_pool *pool, int fd, struct chan *ret, struct pl_err *err);

#endif
