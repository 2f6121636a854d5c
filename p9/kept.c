/* SPDX-License-Identifier: MIT */
/* What was sent over a link and is not acknowledged: a chain of pieces of one size, in order. */
#include "p9/link_priv.h"
#include <string.h>

enum {
    PIECE = 16640 /* one of the sizes that a crew pools */,
    ROOM = PIECE - sizeof(struct piece)
};

static bool grow(struct kept *k, struct p9_crew *crew)
{
    struct piece *p = crew_buf(crew, PIECE);
    if (!p)
        return false;
    p->next = NULL;
    p->at = k->end;
    p->used = 0;
    if (k->last)
        k->last->next = p;
    else
        k->first = p;
    k->last = p;
    return true;
}

size_t kept_add(struct kept *k, struct p9_crew *crew, const struct iovec *iov, int n, size_t skip,
                size_t max)
{
    size_t done = 0;
    for (int i = 0; i < n && done < max; i++) {
        size_t len = iov[i].iov_len;
        if (skip >= len) {
            skip -= len;
            continue;
        }
        const uint8_t *from = (const uint8_t *)iov[i].iov_base + skip;
        len = len - skip < max - done ? len - skip : max - done;
        skip = 0;
        while (len) {
            if ((!k->last || k->last->used == ROOM) && !grow(k, crew))
                return done;
            size_t part = ROOM - k->last->used < len ? ROOM - k->last->used : len;
            memcpy(k->last->data + k->last->used, from, part);
            k->last->used += (uint32_t)part;
            k->end += part;
            from += part;
            len -= part;
            done += part;
        }
    }
    return done;
}

int kept_find(struct kept *k, uint64_t from, size_t len, struct iovec *iov, int max)
{
    struct piece *p = k->hint && k->hint->at <= from ? k->hint : k->first;
    int n = 0;
    while (p && p->at + p->used <= from)
        p = p->next;
    if (p)
        k->hint = p;
    for (; p && len && n < max; p = p->next) {
        size_t skip = (size_t)(from - p->at), part = p->used - skip < len ? p->used - skip : len;
        iov[n++] = (struct iovec){p->data + skip, part};
        from += part;
        len -= part;
    }
    return n;
}

void kept_drop(struct kept *k, struct p9_crew *crew, uint64_t to)
{
    k->start = to;
    while (k->first && k->first != k->last && k->first->at + k->first->used <= to) {
        struct piece *p = k->first;
        k->first = p->next;
        if (k->hint == p)
            k->hint = NULL;
        crew_buf_free(crew, p, PIECE);
    }
    if (k->first && k->start == k->end) { /* the last is used anew */
        k->first->at = k->end;
        k->first->used = 0;
        k->hint = NULL;
    }
}

void kept_trim(struct kept *k, struct p9_crew *crew)
{
    if (k->start == k->end)
        kept_free(k, crew);
}

void kept_free(struct kept *k, struct p9_crew *crew)
{
    while (k->first) {
        struct piece *p = k->first;
        k->first = p->next;
        crew_buf_free(crew, p, PIECE);
    }
    k->last = k->hint = NULL;
}
