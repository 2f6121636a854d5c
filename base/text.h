/* SPDX-License-Identifier: MIT */
/* Text for people: what a peer controls is escaped before it reaches a terminal. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* Copies at most `n` bytes of `src` (stopping at a NUL) into `dst` of `size` bytes, with a NUL.
 * Control characters, DEL, backslashes that would be ambiguous, and bytes that are not valid UTF-8
 * become \ooo; C1 controls and bidirectional overrides too. Returns dst. Cut, never overflowing. */
char *text_escape(char *dst, size_t size, const char *src, size_t n);

/* "1.5 MiB" into a buffer of 16 bytes; returns it. */
char *text_bytes(char dst[16], uint64_t n);

/* "20ms", "1.5s", "100us", "3m", "2h", "1d", plain seconds without a unit: nanoseconds, or -1. */
int64_t text_duration(const char *s);

/* The other way round, to two places of the largest unit: "1.5s", "10m", "1d"; returns dst. */
char *text_time(char dst[24], int64_t ns);

/* "64k", "1M", "2GiB", plain bytes: the number, or -1. */
int64_t text_size(const char *s);

/* "ENOENT": the errno of that name (positive), or -1. */
int text_errno(const char *name);

/* The other way round; numbers without a name as "E123". A constant, or into buf; returns it. */
const char *text_errno_name(char buf[16], int error);

#endif
