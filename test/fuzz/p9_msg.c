/* SPDX-License-Identifier: MIT */
/* The 9P decoder, and what its users may rely on when it says 0. The first byte of the input: 1
 * sets the size field right, so that the rest is reached; 2 takes the rest as directory entries; 4
 * cuts the payload off to a buffer of its own; 8 and 16 say in which dialect (8: 9P2000.u, 16:
 * 9P2000), and of an older one the entries are stats. */
#include "p9/msg.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void string(const uint8_t *buf, size_t n, const struct p9_str *s, size_t limit)
{
    const uint8_t *p = (const uint8_t *)s->s;
    if (!p)
        check(s->len == 0);
    else
        check(s->len <= limit && p >= buf && (size_t)(p - buf) + s->len < n && p[s->len] == 0 &&
              strlen(s->s) == s->len);
}

static void stat_strings(const uint8_t *buf, size_t n, const struct p9_stat *st)
{
    string(buf, n, &st->name, LIMIT_NAME);
    string(buf, n, &st->uid, LIMIT_STRING);
    string(buf, n, &st->gid, LIMIT_STRING);
    string(buf, n, &st->muid, LIMIT_STRING);
    string(buf, n, &st->extension, LIMIT_STRING);
}

static void strings(const uint8_t *buf, size_t n, const struct p9_msg *m)
{
    string(buf, n, &m->name, LIMIT_NAME);
    string(buf, n, &m->name2, LIMIT_NAME);
    string(buf, n, &m->target, LIMIT_STRING);
    string(buf, n, &m->uname, LIMIT_STRING);
    string(buf, n, &m->aname, LIMIT_STRING);
    string(buf, n, &m->version, LIMIT_STRING);
    if (m->type == P9_Tlock || m->type == P9_Tgetlock || m->type == P9_Rgetlock)
        string(buf, n, &m->lock.client_id, LIMIT_STRING);
    string(buf, n, &m->ename, LIMIT_STRING);
    string(buf, n, &m->extension, LIMIT_STRING);
    if (m->type == P9_Rstat || m->type == P9_Twstat)
        stat_strings(buf, n, &m->stat);
    check(m->nwname <= LIMIT_WALK && m->nwqid <= LIMIT_WALK);
    for (int i = 0; i < m->nwname; i++)
        string(buf, n, &m->wname[i], LIMIT_NAME);
}

/* What was decoded encodes to what was there (save for what old peers leave out). */
static void message(enum p9_dialect dialect, uint8_t *buf, size_t n)
{
    struct p9_msg m;
    char text[512];
    uint8_t *orig = malloc(n ? n : 1), *again = malloc(n + 4);
    memcpy(orig, buf, n);
    int r = p9_decode_as(dialect, buf, n, &m);
    if (r == 0) {
        if (m.type == P9_Rerror)
            check(p9_error_number(&m.ename) > 0);
        strings(buf, n, &m);
        check(strlen(p9_print(&m, text, sizeof(text))) < sizeof(text));
        int len = p9_encode(&m, again, n + 4);
        bool old = m.type == P9_Tfsync && n == P9_HDRSZ + 4;
        check(len == (int)n + (old ? 4 : 0) && p9_encode_size(&m) == (size_t)len);
        bool zero = m.type == P9_Rstat && !orig[P9_HDRSZ] && !orig[P9_HDRSZ + 1];
        if (zero)
            memcpy(orig + P9_HDRSZ, again + P9_HDRSZ, 2);
        check(old || !memcmp(orig, again, n));
    }
    free(orig);
    free(again);
}

static void apart(uint8_t *buf, size_t n)
{
    struct p9_msg m;
    size_t head = n < P9_RREADHDR ? n : P9_RREADHDR;
    uint8_t *h = malloc(head ? head : 1), *d = malloc(n - head ? n - head : 1);
    memcpy(h, buf, head);
    memcpy(d, buf + head, n - head);
    if (p9_decode_split(h, head, d, n - head, &m) == 0)
        check(m.data == d && m.count == n - head);
    free(h);
    free(d);
}

static void entries(uint8_t *buf, size_t n)
{
    struct p9_dirent e;
    int r;
    for (size_t at = 0; (r = p9_dirent_get(buf + at, n - at, &e)) > 0; at += (size_t)r) {
        check((size_t)r <= n - at);
        string(buf, n, &e.name, LIMIT_NAME);
    }
}

static void stats(enum p9_dialect dialect, uint8_t *buf, size_t n)
{
    uint8_t *orig = malloc(n ? n : 1), *again = malloc(n + 1);
    struct p9_stat st;
    int r;
    memcpy(orig, buf, n);
    for (size_t at = 0; (r = p9_stat_get(dialect, buf + at, n - at, &st)) > 0; at += (size_t)r) {
        check((size_t)r <= n - at);
        stat_strings(buf, n, &st);
        check(p9_stat_put(dialect, again, n, &st) == r && !memcmp(orig + at, again, (size_t)r));
    }
    free(orig);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    size_t n = size - 1;
    uint8_t *buf = malloc(n ? n : 1);
    memcpy(buf, data + 1, n);
    for (size_t i = 0; (data[0] & 1) && i < 4 && n >= 4; i++)
        buf[i] = (uint8_t)(n >> (8 * i));
    enum p9_dialect dialect = data[0] & 8 ? P9_U : data[0] & 16 ? P9_BASE : P9_L;
    if ((data[0] & 2) && dialect != P9_L)
        stats(dialect, buf, n);
    else if (data[0] & 2)
        entries(buf, n);
    else if (data[0] & 4)
        apart(buf, n);
    else
        message(dialect, buf, n);
    free(buf);
    return 0;
}
