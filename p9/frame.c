/* SPDX-License-Identifier: MIT */
/* What a link puts on the wire: the heads of its frames, and the messages that agree on it. Both
 * come from a peer of whom nothing is known. */
#include "p9/link_priv.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void frame_encode(const struct frame *f, uint8_t head[FRAME_HEAD])
{
    for (int i = 0; i < 3; i++)
        head[i] = (uint8_t)(f->size >> (8 * i));
    head[3] = (uint8_t)f->kind;
    for (int i = 0; i < 8; i++)
        head[4 + i] = (uint8_t)(f->acked >> (8 * i));
}

int frame_decode(const uint8_t head[FRAME_HEAD], struct frame *ret)
{
    *ret = (struct frame){.kind = head[3], .size = head[0] | head[1] << 8 | head[2] << 16};
    for (int i = 0; i < 8; i++)
        ret->acked |= (uint64_t)head[4 + i] << (8 * i);
    if (head[3] > FRAME_BYE || ret->size > LIMIT_LINK_FRAME)
        return -EPROTO;
    return (ret->kind == FRAME_DATA) == (ret->size > 0) ? 0 : -EPROTO;
}

/* ---- agreeing ---- */

/* The next word, which one blank or the end follows; false at the end. */
static bool word(const char **s, char *buf, size_t size)
{
    size_t n = strcspn(*s, " ");
    if (n == 0 || n >= size)
        return false;
    memcpy(buf, *s, n);
    buf[n] = 0;
    *s += n;
    if (**s == ' ' && (*s)[1])
        ++*s;
    return true;
}

static bool number(const char **s, uint64_t *ret)
{
    char buf[21];
    if (!word(s, buf, sizeof(buf)) || (buf[0] == '0' && buf[1]))
        return false;
    *ret = 0;
    for (const char *p = buf; *p; p++)
        if (*p < '0' || *p > '9' || __builtin_mul_overflow(*ret, 10, ret) ||
            __builtin_add_overflow(*ret, (uint64_t)(*p - '0'), ret))
            return false;
    return true;
}

static bool parse(const char *s, bool answer, struct agree *a)
{
    char buf[P9_LINK_ID + 1];
    if (!word(&s, buf, sizeof(buf)) || strcmp(buf, P9_LINK_VERSION) || !word(&s, buf, sizeof(buf)))
        return false;
    if (!strcmp(buf, "gone")) {
        a->kind = AGREE_GONE;
        return answer && !*s;
    }
    if (!strcmp(buf, "new")) {
        a->kind = AGREE_NEW;
        return !answer && number(&s, &a->linger) && !*s;
    }
    a->kind = AGREE_LINK;
    if (strspn(buf, "0123456789abcdef") != P9_LINK_ID || !number(&s, &a->taken))
        return false;
    memcpy(a->id, buf, sizeof(a->id));
    if (*s && (!answer || a->taken != 0 || !number(&s, &a->linger)))
        return false;
    return !*s;
}

void agree_decode(const uint8_t *msg, size_t size, struct agree *ret)
{
    uint8_t copy[AGREE_MAX + 1];
    struct p9_msg m;
    *ret = (struct agree){.kind = AGREE_NO, .linger = UINT64_MAX};
    if (size > AGREE_MAX)
        return;
    memcpy(copy, msg, size); /* the decoder ends its strings */
    if (p9_decode(copy, size, &m) < 0 || (m.type != P9_Tversion && m.type != P9_Rversion) ||
        m.tag != P9_NOTAG || strlen(m.version.s) != m.version.len ||
        !parse(m.version.s, m.type == P9_Rversion, ret))
        *ret = (struct agree){.kind = AGREE_NO, .linger = UINT64_MAX};
}

size_t agree_encode(const struct agree *a, uint8_t type, uint32_t msize, uint8_t buf[AGREE_MAX])
{
    char text[AGREE_MAX];
    if (a->kind == AGREE_NEW)
        snprintf(text, sizeof(text), P9_LINK_VERSION " new %" PRIu64, a->linger);
    else if (a->kind == AGREE_GONE)
        snprintf(text, sizeof(text), P9_LINK_VERSION " gone");
    else if (a->linger == UINT64_MAX)
        snprintf(text, sizeof(text), P9_LINK_VERSION " %s %" PRIu64, a->id, a->taken);
    else
        snprintf(text, sizeof(text), P9_LINK_VERSION " %s 0 %" PRIu64, a->id, a->linger);
    struct p9_msg m = {.type = type, .tag = P9_NOTAG, .msize = msize, .version = p9_str(text)};
    return (size_t)p9_encode(&m, buf, AGREE_MAX);
}
