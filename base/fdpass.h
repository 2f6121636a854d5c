/* SPDX-License-Identifier: MIT */
/*
 * Small messages with descriptors, between two processes of ours that share a unix SOCK_SEQPACKET
 * pair. One message is one packet: it comes whole or not at all.
 */
#ifndef BASE_FDPASS_H
#define BASE_FDPASS_H

#include <stddef.h>
#include <stdint.h>

#define FDPASS_FDS  8
#define FDPASS_DATA 1024

struct fdpass {
    uint32_t type; /* what it means is the caller's business, as with index and value */
    uint32_t index;
    int64_t value;
    int nfd;
    int fd[FDPASS_FDS]; /* sending: stay the sender's; received: close-on-exec, the receiver's */
    size_t len;
    char data[FDPASS_DATA]; /* received: followed by a NUL when it is shorter than the array */
};

/* A pair of connected sockets, close-on-exec. 0 or a negative errno. */
int fdpass_pair(int ret[2]);

/* Sends one message; 0, or a negative errno (-EPIPE: the other end is gone; no SIGPIPE). Blocks
 * when the socket's buffer is full. Messages of several threads do not mix. */
int fdpass_send(int sock, const struct fdpass *msg);

/* Receives one: 1, or 0 when the other end is gone, or a negative errno: -EPROTO for what is no
 * message of ours (its descriptors are closed), -EAGAIN on a non-blocking socket without one. */
int fdpass_recv(int sock, struct fdpass *ret);

/* Closes what came with a message. */
void fdpass_drop(struct fdpass *msg);

#endif
