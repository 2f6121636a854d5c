/* SPDX-License-Identifier: MIT */
/*
 * A cursor over bytes: little-endian integers in and out, bounds checked, with a sticky error. What
 * is read past the end is 0, what is written past it is dropped; look at `bad` once, at the end.
 */
#ifndef BASE_CURSOR_H
#define BASE_CURSOR_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct cursor {
    uint8_t *p, *end;
    bool bad;
};

static inline struct cursor cursor_at(void *buf, size_t n)
{
    return (struct cursor){buf, n ? (uint8_t *)buf + n : buf, false}; /* no bytes may be nowhere */
}

static inline size_t cursor_left(const struct cursor *c)
{
    return (size_t)(c->end - c->p);
}

/* The next n bytes, or NULL (and bad) when there are fewer. */
static inline uint8_t *cursor_take(struct cursor *c, size_t n)
{
    if (c->bad || n > cursor_left(c)) {
        c->bad = true;
        return NULL;
    }
    uint8_t *p = c->p;
    c->p += n;
    return p;
}

/* `n` is at most 8 and a constant: compilers make one load of it, or one store. */
static inline uint64_t cursor_get(struct cursor *c, unsigned n)
{
    const uint8_t *p = cursor_take(c, n);
    uint64_t v = 0;
    if (p)
        memcpy(&v, p, n);
    return le64toh(v);
}

static inline void cursor_put(struct cursor *c, unsigned n, uint64_t v)
{
    uint8_t *p = cursor_take(c, n);
    v = htole64(v);
    if (p)
        memcpy(p, &v, n);
}

static inline void cursor_put_bytes(struct cursor *c, const void *src, size_t n)
{
    uint8_t *p = cursor_take(c, n);
    if (p && n)
        memcpy(p, src, n);
}

#endif
