/* SPDX-License-Identifier: MIT */
/* Addresses, taken apart: the only place that knows how they are written. Inside channel/. */
#ifndef CHANNEL_ADDR_H
#define CHANNEL_ADDR_H

#include "channel/channel.h"

#define ADDR_PORT "564" /* 9pfs */

enum addr_kind { ADDR_TCP, ADDR_TLS, ADDR_UNIX, ADDR_VSOCK, ADDR_EXEC, ADDR_STDIO, ADDR_FD };

struct addr {
    enum addr_kind kind;
    char host[256];      /* tcp, tls: "*" for everywhere, IPv6 without brackets */
    char port[32];       /* tcp, tls: a number or the name of a service */
    unsigned cid, vport; /* vsock: cid -1U (VMADDR_CID_ANY) for `*` */
    const char *rest;    /* unix: the path; exec: the command (points into the string parsed) */
    int in, out;         /* fd */
    int cancel;          /* dialing is given up when this becomes readable; -1: never */
};

/* 0, or -EINVAL (-ENAMETOOLONG for a unix path) with the sentence. */
int addr_parse(const char *text, struct addr *ret, struct pl_err *err);

/* Warnings, without the name that goes in front. */
extern const char addr_note_tcp[];

/* connect and accept share these (dial.c). */
struct sockaddr;
struct sockaddr_storage;
bool addr_is_loopback(const struct sockaddr *sa);
/* "tcp!10.0.0.2!564", escaped. */
void addr_name(char dst[128], enum addr_kind kind, const struct sockaddr *sa, unsigned len);
/* resolve.c: getaddrinfo that is given up (EAI_CANCELED) when `cancel` becomes readable. */
struct addrinfo;
int addr_resolve(const char *host, const char *port, const struct addrinfo *hints, int cancel,
                 struct addrinfo **ret);
/* The sentence for getaddrinfo's result `gai`; returns a negative errno. */
int addr_unresolved(const char *text, const struct addr *a, int gai, struct pl_err *err);
/* The kernel says that the peer is that user. */
void addr_is_uid(struct chan *chan, uid_t uid);
/* TCP_NODELAY, keepalive, user timeout. Failures do not matter. */
void addr_tune_tcp(int fd);
/* Fills sockaddr_un; the parser has checked the length. Returns its length. */
struct sockaddr_un;
unsigned addr_unix(const char *path, struct sockaddr_un *ret);
/* exec.c: sh -c command. */
int addr_exec(const char *command, struct chan *ret, struct pl_err *err);

#endif
