/* SPDX-License-Identifier: MIT */
/*
 * In the file: 'B' (the number that records begin behind, and the sessions), then 'R' records. The
 * file is written anew, with what is alive, when most of it is not.
 */
#include "sync/journal.h"
#include "base/cursor.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLACK (1u << 20) /* bytes of dead records that the file may have in any case */
#define FIXED 64         /* about what a record has besides its paths */

static uint64_t cost(const struct journal_record *r)
{
    return FIXED + strlen(r->path) + strlen(r->path2);
}

static void release(struct journal_record *r)
{
    free(r->path);
    free(r->path2);
}

/* ---- bytes ---- */

static void heard(struct journal *j, uint64_t id, uint64_t seq)
{
    size_t i = 0;
    while (i < j->nsessions && j->sessions[i].id != id)
        i++;
    if (i == j->nsessions)
        i = j->nsessions < JOURNAL_SESSIONS ? j->nsessions++ : JOURNAL_SESSIONS - 1;
    memmove(&j->sessions[1], &j->sessions[0], i * sizeof(*j->sessions));
    j->sessions[0] = (struct journal_session){id, seq};
}

static int write_record(struct synclog *log, const struct journal_record *r, uint64_t session,
                        uint64_t cseq)
{
    size_t n1 = strlen(r->path), n2 = strlen(r->path2), n = 1 + 7 * 8 + 1 + 4 + n1 + 4 + n2;
    uint8_t *buf = malloc(n);
    if (!buf)
        return -ENOMEM;
    struct cursor c = cursor_at(buf, n);
    const uint64_t words[] = {r->seq, session, cseq, r->ino, r->off, r->len, (uint64_t)r->time};
    cursor_put(&c, 1, 'R');
    for (size_t i = 0; i < 7; i++)
        cursor_put(&c, 8, words[i]);
    cursor_put(&c, 1, r->gap);
    cursor_put(&c, 4, n1);
    cursor_put_bytes(&c, r->path, n1);
    cursor_put(&c, 4, n2);
    cursor_put_bytes(&c, r->path2, n2);
    int e = synclog_append(log, buf, n);
    free(buf);
    return e;
}

static int write_base(struct synclog *log, const struct journal *j, uint64_t base)
{
    uint8_t buf[1 + 8 + 1 + JOURNAL_SESSIONS * 16];
    struct cursor c = cursor_at(buf, sizeof(buf));
    cursor_put(&c, 1, 'B');
    cursor_put(&c, 8, base);
    cursor_put(&c, 1, j->nsessions);
    for (size_t i = j->nsessions; i-- > 0;) {
        cursor_put(&c, 8, j->sessions[i].id);
        cursor_put(&c, 8, j->sessions[i].seq);
    }
    return synclog_append(log, buf, (size_t)(c.p - buf));
}

static char *take_string(struct cursor *c)
{
    size_t n = (size_t)cursor_get(c, 4);
    uint8_t *p = cursor_take(c, n);
    return p && !memchr(p, 0, n) ? strndup((char *)p, n) : NULL;
}

static bool push(struct journal *j, const struct journal_record *r)
{
    if (j->n == j->room) {
        size_t room = j->room ? 2 * j->room : 256;
        struct journal_record *v = reallocarray(j->v, room, sizeof(*v));
        if (!v)
            return false;
        j->v = v;
        j->room = room;
    }
    j->v[j->n++] = *r;
    j->bytes += cost(r);
    j->last = r->seq;
    return true;
}

static int load(void *arg, uint8_t *p, size_t n)
{
    struct journal *j = arg;
    struct cursor c = cursor_at(p, n);
    uint64_t kind = cursor_get(&c, 1), words[7];
    if (kind == 'B') {
        j->last = cursor_get(&c, 8);
        uint64_t sessions = cursor_get(&c, 1);
        for (uint64_t i = 0; i < sessions && !c.bad; i++) {
            uint64_t id = cursor_get(&c, 8);
            heard(j, id, cursor_get(&c, 8));
        }
        return c.bad ? -EBADMSG : 0;
    }
    for (size_t i = 0; i < 7; i++)
        words[i] = cursor_get(&c, 8);
    struct journal_record r = {.seq = words[0],
                               .ino = words[3],
                               .off = words[4],
                               .len = words[5],
                               .time = (int64_t)words[6],
                               .gap = cursor_get(&c, 1)};
    r.path = take_string(&c);
    r.path2 = r.path ? take_string(&c) : NULL;
    if (kind != 'R' || c.bad || !r.path2 || r.seq <= j->last || !push(j, &r)) {
        release(&r);
        return c.bad || kind != 'R' ? -EBADMSG : -ENOMEM;
    }
    if (words[1])
        heard(j, words[1], words[2]);
    return 0;
}

/* ---- the file ---- */

static int fill(void *arg, struct synclog *to)
{
    struct journal *j = arg;
    size_t i = j->first;
    int r = write_base(to, j, i < j->n ? j->v[i].seq - 1 : j->last);
    for (; r == 0 && i < j->n; i++)
        r = write_record(to, &j->v[i], 0, 0);
    return r;
}

static int rewrite(struct journal *j)
{
    memmove(j->v, j->v + j->first, (j->n - j->first) * sizeof(*j->v));
    j->n -= j->first;
    j->first = 0;
    return synclog_replace(&j->log, fill, j);
}

int journal_open(struct journal *j, const char *path, uint64_t bound, struct pl_err *err)
{
    *j = (struct journal){.bound = bound};
    int r = synclog_open(&j->log, path, load, j, err);
    if (r == 0 && j->log.size == 0)
        r = write_base(&j->log, j, 0);
    if (r < 0) {
        journal_close(j);
        return pl_fail(err, r, "%s: %s", path, strerror(-r));
    }
    return 0;
}

void journal_close(struct journal *j)
{
    for (size_t i = j->first; i < j->n; i++)
        release(&j->v[i]);
    free(j->v);
    synclog_close(&j->log);
    *j = (struct journal){.log.fd = -1};
}

int journal_sync(struct journal *j)
{
    return synclog_sync(&j->log);
}

static int by_seq(const void *a, const void *b)
{
    uint64_t x = ((const struct journal_record *)a)->seq,
             y = ((const struct journal_record *)b)->seq;
    return x < y ? -1 : x > y;
}

/* Of one object together, the earlier first. */
static int by_object(const void *a, const void *b)
{
    const struct journal_record *x = a, *y = b;
    int d = strcmp(x->path, y->path);
    d = d ? d : strcmp(x->path2, y->path2);
    d = d ? d : x->ino < y->ino ? -1 : x->ino > y->ino;
    d = d ? d : (x->len > 0) - (y->len > 0);
    return d ? d : by_seq(a, b);
}

static bool same_object(const struct journal_record *a, const struct journal_record *b)
{
    return a->ino == b->ino && !strcmp(a->path, b->path) && !strcmp(a->path2, b->path2) &&
           !a->len == !b->len && a->gap == b->gap;
}

/* Records of one object become one, with the last one's number and all that was written between. */
static void merge(struct journal *j)
{
    struct journal_record *v = j->v + j->first;
    size_t n = j->n - j->first, out = 0;
    qsort(v, n, sizeof(*v), by_object);
    j->bytes = 0;
    for (size_t i = 0; i < n; i++) {
        struct journal_record *p = out ? &v[out - 1] : NULL;
        if (p && same_object(p, &v[i])) {
            uint64_t e1 = p->off + p->len, e2 = v[i].off + v[i].len;
            p->off = p->off < v[i].off ? p->off : v[i].off;
            p->len = p->len ? (e1 > e2 ? e1 : e2) - p->off : 0;
            p->seq = v[i].seq;
            release(&v[i]);
        } else {
            v[out++] = v[i];
        }
    }
    for (size_t i = 0; i < out; i++)
        j->bytes += cost(&v[i]);
    j->n = j->first + out;
    qsort(v, out, sizeof(*v), by_seq);
}

static int overflow(struct journal *j, bool *ret_gap)
{
    struct journal_record gap = {
        .seq = j->last + 1, .path = strdup(""), .path2 = strdup(""), .gap = true};
    if (!gap.path || !gap.path2) {
        release(&gap);
        return -ENOMEM;
    }
    gap.time = j->first < j->n ? j->v[j->first].time : 0;
    for (size_t i = j->first; i < j->n; i++)
        release(&j->v[i]);
    j->n = j->first = 0;
    j->bytes = 0;
    *ret_gap = true;
    return push(j, &gap) ? 0 : -ENOMEM;
}

int journal_add(struct journal *j, struct journal_record *rec, uint64_t session, uint64_t cseq,
                bool *ret_gap)
{
    struct journal_record mine = *rec;
    int r = 0;
    *ret_gap = false;
    mine.path = rec->path ? rec->path : (char *)"";
    mine.path2 = rec->path2 ? rec->path2 : (char *)"";
    if (j->bytes + cost(&mine) > j->bound) {
        merge(j);
        if (j->bytes > j->bound / 2)
            r = overflow(j, ret_gap);
        if (r == 0)
            r = rewrite(j);
        if (r < 0)
            return r;
    }
    mine.seq = rec->seq = j->last + 1;
    mine.path = strdup(mine.path);
    mine.path2 = strdup(mine.path2);
    r = mine.path && mine.path2 ? write_record(&j->log, &mine, session, cseq) : -ENOMEM;
    if (r == 0 && !push(j, &mine))
        r = -ENOMEM;
    if (r < 0) {
        release(&mine);
        return r;
    }
    if (session)
        heard(j, session, cseq);
    return 0;
}

int journal_trim(struct journal *j, uint64_t seq)
{
    while (j->first < j->n && j->v[j->first].seq <= seq) {
        j->bytes -= cost(&j->v[j->first]);
        release(&j->v[j->first++]);
    }
    if (j->log.size > SLACK && j->log.size / 2 > j->bytes)
        return rewrite(j);
    if (j->first > 1024 && j->first > j->n / 2) {
        memmove(j->v, j->v + j->first, (j->n - j->first) * sizeof(*j->v));
        j->n -= j->first;
        j->first = 0;
    }
    return 0;
}

const struct journal_record *journal_after(const struct journal *j, uint64_t seq, size_t *ret_n)
{
    size_t lo = j->first, hi = j->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (j->v[mid].seq <= seq)
            lo = mid + 1;
        else
            hi = mid;
    }
    *ret_n = j->n - lo;
    return *ret_n ? &j->v[lo] : NULL;
}

bool journal_heard(const struct journal *j, uint64_t session, uint64_t *ret_seq)
{
    for (size_t i = 0; i < j->nsessions; i++) {
        if (j->sessions[i].id == session) {
            *ret_seq = j->sessions[i].seq;
            return true;
        }
    }
    return false;
}
