/* SPDX-License-Identifier: MIT */
/* Certificates: making ours, and what others' say. */
#ifndef CHANNEL_CERT_H
#define CHANNEL_CERT_H

#include "channel/keys.h"
#include <openssl/x509.h>
#include <time.h>

/* A new Ed25519 key and a certificate that it signs itself, for `name`, without an end, as PEM in
 * memory to be freed with OPENSSL_clear_free. */
int cert_make(const char *name, char **ret, size_t *ret_n, struct pl_err *err);

/* Reads PEM: the first certificate in it, to be freed with X509_free; NULL: there is none. */
X509 *cert_parse(const char *pem, size_t n);
/* As PEM in memory to be freed with OPENSSL_free; NULL: no memory. */
char *cert_text(X509 *cert, size_t *ret_n);

void cert_print(X509 *cert, uint8_t ret[KEYS_PRINT]);
/* Its subject's common name, if that can be one of ours (keys_name_ok); else "" and false. */
bool cert_name(X509 *cert, char ret[KEYS_NAME + 1]);

enum cert_time { CERT_VALID, CERT_EARLY, CERT_EXPIRED };
/* `when` gets the day that decides it, as 2026-11-21. */
enum cert_time cert_when(X509 *cert, char when[16]);

/* What OpenSSL last complained of, for people; clears its queue. */
const char *cert_reason(void);

#endif
