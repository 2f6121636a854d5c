/* SPDX-License-Identifier: MIT */
/*
 * The keys of tls!: who we are, and whom we trust, on the model of ssh.
 *
 *   id.pem    our private key and certificate (and, if an authority signed it, those between)
 *   trusted   whose certificates we know: lines NAME sha256:HEX, the fingerprint of the certificate
 *   psk       pre-shared keys: lines NAME IDENTITY HEX; NAME is ours, IDENTITY goes over the wire
 *   ca.pem    authorities whose signatures we believe; need not be there
 *
 * in $PLENUM_KEYS, else for root in /etc/plenum/tls, else in $XDG_CONFIG_HOME/plenum/tls or
 * ~/.config/plenum/tls. `#` begins a comment. A file of ours that others may write to, and a secret
 * one that others may read, is refused. They are read anew for every handshake, and replaced as a
 * whole. `plenum key` writes them; anybody may.
 *
 * A name is what we call a peer: of a server, the HOST or HOST!PORT under which it is dialed.
 */
#ifndef CHANNEL_KEYS_H
#define CHANNEL_KEYS_H

#include <plenum/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KEYS_NAME    80
#define KEYS_PRINT   32 /* bytes of a fingerprint */
#define KEYS_PSK_MIN 16
#define KEYS_PSK_MAX 64

struct keys_trust {
    char name[KEYS_NAME + 1];
    uint8_t print[KEYS_PRINT];
};
struct keys_psk {
    char name[KEYS_NAME + 1], id[KEYS_NAME + 1];
    uint8_t key[KEYS_PSK_MAX];
    size_t nkey;
};

/* Letters, digits and . _ - + @ : ! % only, 1 to KEYS_NAME of them; not beginning with '-'. So a
 * name is safe in a file, in a shell's line but for '!', and on a terminal. */
bool keys_name_ok(const char *name, size_t n);

/* "sha256:HEX", or HEX with colons as openssl prints it. */
bool keys_print_parse(const char *text, uint8_t ret[KEYS_PRINT]);
#define KEYS_PRINT_TEXT (7 + 2 * KEYS_PRINT + 1)
const char *keys_print_text(const uint8_t print[KEYS_PRINT], char ret[KEYS_PRINT_TEXT]);

/* One line (without newline, and changed): 1; 0: it is empty or a comment; -EINVAL. */
int keys_trust_line(char *line, struct keys_trust *ret);
int keys_psk_line(char *line, struct keys_psk *ret);

/* The path of `file` ("id.pem") in our directory, into a buffer of PATH_MAX. */
int keys_path(const char *file, char *ret, struct pl_err *err);
/* They can still be read when this process is confined (base/confine.h): for handshakes to come. */
void keys_needed(void);

/* A whole file into memory with a NUL behind it, to be freed: its size, -ENOENT (no sentence), or
 * negative with the sentence when it is not as it must be. `secret`: readable for nobody else. */
int keys_read(const char *file, bool secret, char **ret, struct pl_err *err);
/* Replaces it at once, durably, mode 0600; makes the directory (0700) if it is not there. */
int keys_write(const char *file, const char *text, size_t n, struct pl_err *err);
/* Holds others of us off until the descriptor is closed, for reading, changing and writing. */
int keys_lock(struct pl_err *err);

/* All entries, to be freed; *ret_n may be 0. */
int keys_trusted(struct keys_trust **ret, size_t *ret_n, struct pl_err *err);
int keys_psks(struct keys_psk **ret, size_t *ret_n, struct pl_err *err);

#endif
