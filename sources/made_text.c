/* SPDX-License-Identifier: MIT */
#include "sources/made.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void made_text_done(struct pl_text *t)
{
    free(t->buf);
    *t = (struct pl_text){0};
}

/* Room for n bytes and a NUL. */
static int reserve(struct pl_text *t, size_t n)
{
    int r = 0;
    if (n > MADE_TEXT_MAX)
        r = -EFBIG;
    if (r == 0 && n >= t->room) {
        size_t room = t->room ? t->room : 256;
        while (room <= n)
            room *= 2;
        char *buf = realloc(t->buf, room);
        if (buf) {
            t->buf = buf;
            t->room = room;
        } else {
            r = -ENOMEM;
        }
    }
    if (r < 0 && !t->error)
        t->error = r;
    return r;
}

int made_text_resize(struct pl_text *t, size_t n)
{
    if (n > t->n) {
        int r = reserve(t, n);
        if (r < 0)
            return r;
        memset(t->buf + t->n, 0, n - t->n);
    }
    t->n = n;
    return 0;
}

const char *made_text_str(struct pl_text *t)
{
    if (reserve(t, t->n) < 0)
        return NULL;
    t->buf[t->n] = 0;
    return t->buf;
}

int pl_text_put(struct pl_text *t, const void *bytes, size_t n)
{
    if (n == 0)
        return 0;
    int r = reserve(t, n > MADE_TEXT_MAX ? n : t->n + n);
    if (r < 0)
        return r;
    memcpy(t->buf + t->n, bytes, n);
    t->n += n;
    return 0;
}

int pl_text_add(struct pl_text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    int r = n < 0 ? -EINVAL : reserve(t, t->n + (size_t)n);
    if (r < 0)
        return r;
    va_start(ap, fmt);
    vsnprintf(t->buf + t->n, (size_t)n + 1, fmt, ap);
    va_end(ap);
    t->n += (size_t)n;
    return 0;
}
