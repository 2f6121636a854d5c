/* SPDX-License-Identifier: MIT */
/*
 * Messages by table. Each row of p9/table.h becomes an array of fields; one loop each encodes,
 * decodes, measures and prints. All bytes go through the cursor.
 */
#include "p9/msg.h"
#include "base/cursor.h"
#include "base/text.h"
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

enum kind {
    END,
    INT1,
    INT2,
    INT4,
    INT8,
    FID4,
    MAYBE4,
    OPID,
    QIDS1,
    WQIDS,
    STRING, /* from here on: decoded, they refer to the message's bytes */
    NAMESTR,
    WNAMES,
    STATS,
    BYTES
};

enum { IN_L = 1 << P9_L, IN_U = 1 << P9_U, IN_BASE = 1 << P9_BASE, IN_ALL = IN_L | IN_U | IN_BASE };

struct field {
    uint8_t kind, in; /* the dialects that have it */
    uint16_t off;     /* in struct OF */
    const char *name;
};

/* The size is checked, so that a row cannot name a member of another width. */
#define FIELD_IN(in, kind, m, size)                                                                \
    {                                                                                              \
        kind + 0 * sizeof(char[sizeof(((struct OF *)0)->m) == (size) ? 1 : -1]), in,               \
            offsetof(struct OF, m), #m                                                             \
    }
#define FIELD(kind, m, size) FIELD_IN(IN_ALL, kind, m, size)
#define U1(m)                FIELD(INT1, m, 1)
#define U2(m)                FIELD(INT2, m, 2)
#define U4(m)                FIELD(INT4, m, 4)
#define U8(m)                FIELD(INT8, m, 8)
#define FID(m)               FIELD(FID4, m, 4)
#define OPT4(m)              FIELD(MAYBE4, m, 4)
#define OP(m)                FIELD_IN(IN_L, OPID, m, 8)
#define EXT4(m)              FIELD_IN(IN_L | IN_U, INT4, m, 4)
#define U_U4(m)              FIELD_IN(IN_U, INT4, m, 4)
#define STR(m)               FIELD(STRING, m, sizeof(struct p9_str))
#define U_STR(m)             FIELD_IN(IN_U, STRING, m, sizeof(struct p9_str))
#define NAME(m)              FIELD(NAMESTR, m, sizeof(struct p9_str))
#define QID(m)               FIELD(QIDS1, m, sizeof(struct p9_qid))
#define NAMES(m)             FIELD(WNAMES, m, sizeof(struct p9_str) * LIMIT_WALK)
#define QIDS(m)              FIELD(WQIDS, m, sizeof(struct p9_qid) * LIMIT_WALK)
#define STAT(m)              FIELD(STATS, m, sizeof(struct p9_stat))
#define DATA(m)              FIELD(BYTES, m, 4)

#define OF p9_stat
static const struct field stat_fields[] = {P9_STAT_FIELDS, {.kind = END}};
#undef OF

#define OF p9_msg
#define M(num, name, ...)                                                                          \
    static const struct field fields_##name[] = {__VA_ARGS__ __VA_OPT__(, ){.kind = END}};
P9_MESSAGES(M)
#undef M

#undef OF

static const struct row {
    const char *name;
    const struct field *fields;
    uint8_t in, n; /* fields, with END */
} rows[256] = {
#define ROW(name, in)                                                                              \
    {                                                                                              \
#name, fields_##name, in, sizeof(fields_##name) / sizeof(struct field)                     \
    }
#define M(num, name, ...) [num] = ROW(name, IN_ALL),
    P9_COMMON_MESSAGES(M)
#undef M
#define M(num, name, ...) [num] = ROW(name, IN_L),
        P9_L_MESSAGES(M) P9_OWN_MESSAGES(M)
#undef M
#define M(num, name, ...) [num] = ROW(name, IN_U | IN_BASE),
            P9_OLD_MESSAGES(M)
#undef M
};

/* The fields of a message in its dialect, or NULL when that has no such message. */
static const struct field *fields_of(const struct p9_msg *msg)
{
    const struct row *row = &rows[msg->type];
    return row->in >> msg->dialect & 1 ? row->fields : NULL;
}

/* The next field from `f` on that the dialect has; at the end NULL. */
static const struct field *field_in(const struct field *f, unsigned dialect)
{
    while (f->kind != END && !(f->in >> dialect & 1))
        f++;
    return f->kind == END ? NULL : f;
}

#define FOR_FIELDS(f, fields, dialect)                                                             \
    for (const struct field *f = field_in(fields, dialect); f; f = field_in(f + 1, dialect))

const char *p9_type_name(uint8_t type)
{
    return rows[type].name;
}

struct p9_str p9_str(const char *s)
{
    size_t n = s ? strlen(s) : 0;
    return (struct p9_str){(uint16_t)(n > UINT16_MAX ? UINT16_MAX : n), s};
}

/* Called for each field of each message, where a call costs more than what it does. */
#define HOT static inline __attribute__((always_inline))

/* `base`: what the field is a member of, a message or a stat. */
HOT uint64_t get_int(const void *base, const struct field *f)
{
    const void *at = (const char *)base + f->off;
    switch (f->kind) {
    case INT1:
        return *(const uint8_t *)at;
    case INT2:
        return *(const uint16_t *)at;
    case INT8:
    case OPID:
        return *(const uint64_t *)at;
    default:
        return *(const uint32_t *)at;
    }
}

HOT void set_int(void *base, const struct field *f, uint64_t v)
{
    void *at = (char *)base + f->off;
    switch (f->kind) {
    case INT1:
        *(uint8_t *)at = (uint8_t)v;
        break;
    case INT2:
        *(uint16_t *)at = (uint16_t)v;
        break;
    case INT8:
    case OPID:
        *(uint64_t *)at = v;
        break;
    default:
        *(uint32_t *)at = (uint32_t)v;
    }
}

static unsigned int_size(uint8_t kind)
{
    return kind == INT1 ? 1 : kind == INT2 ? 2 : kind == INT8 || kind == OPID ? 8 : 4;
}

static const struct p9_str *str_of(const void *base, const struct field *f)
{
    return (const void *)((const char *)base + f->off);
}

static const void *member_of(const void *base, const struct field *f)
{
    return (const char *)base + f->off;
}

enum { QID_SIZE = 13 };

/* ---- encoding ---- */

/* Of a field with a fixed place in a message or a stat. */
HOT size_t plain_size(const void *base, const struct field *f)
{
    switch (f->kind) {
    case STRING:
    case NAMESTR:
        return 2 + (size_t)str_of(base, f)->len;
    case QIDS1:
        return QID_SIZE;
    default:
        return int_size(f->kind);
    }
}

/* With its own size[2]. */
static size_t stat_size(const struct p9_stat *st, unsigned dialect)
{
    size_t n = 2;
    FOR_FIELDS(f, stat_fields, dialect)
    n += plain_size(st, f);
    return n;
}

HOT size_t field_size(const struct p9_msg *msg, const struct field *f)
{
    size_t n = 2;
    switch (f->kind) {
    case WNAMES:
        for (int i = 0; i < msg->nwname && i < LIMIT_WALK; i++)
            n += 2 + (size_t)msg->wname[i].len;
        return n;
    case WQIDS:
        return n + (size_t)msg->nwqid * QID_SIZE;
    case STATS:
        return n + stat_size(member_of(msg, f), msg->dialect);
    case BYTES:
        return 4 + (size_t)msg->count;
    case OPID:
        return msg->op ? 8 : 0;
    default:
        return plain_size(msg, f);
    }
}

size_t p9_encode_size(const struct p9_msg *msg)
{
    const struct field *fields = fields_of(msg);
    size_t n = P9_HDRSZ;
    if (!fields)
        return 0;
    FOR_FIELDS(f, fields, msg->dialect)
    n += field_size(msg, f);
    return n;
}

static int check_str(const char *s, size_t len, bool name)
{
    if (len > (size_t)(name ? LIMIT_NAME : LIMIT_STRING))
        return -ENAMETOOLONG;
    return len && memchr(s, 0, len) ? -EINVAL : 0;
}

static int put_str(struct cursor *c, const struct p9_str *s, bool name)
{
    int r = check_str(s->s, s->len, name);
    cursor_put(c, 2, s->len);
    cursor_put_bytes(c, s->s, s->len);
    return r;
}

static void put_qid(struct cursor *c, const struct p9_qid *q)
{
    cursor_put(c, 1, q->type);
    cursor_put(c, 4, q->version);
    cursor_put(c, 8, q->path);
}

HOT int put_plain(struct cursor *c, const void *base, const struct field *f)
{
    switch (f->kind) {
    case STRING:
    case NAMESTR:
        return put_str(c, str_of(base, f), f->kind == NAMESTR);
    case QIDS1:
        put_qid(c, member_of(base, f));
        return 0;
    case INT1:
        cursor_put(c, 1, get_int(base, f));
        return 0;
    case INT2:
        cursor_put(c, 2, get_int(base, f));
        return 0;
    case INT8:
    case OPID:
        cursor_put(c, 8, get_int(base, f));
        return 0;
    default:
        cursor_put(c, 4, get_int(base, f));
        return 0;
    }
}

/* -EMSGSIZE: more than its size[2] can say (`spare`: with what else that has to count). */
static int put_stat(struct cursor *c, const struct p9_stat *st, unsigned dialect, size_t spare)
{
    size_t n = stat_size(st, dialect);
    int r = n + spare > UINT16_MAX ? -EMSGSIZE : 0;
    cursor_put(c, 2, n - 2);
    for (const struct field *f = field_in(stat_fields, dialect); f && r == 0;
         f = field_in(f + 1, dialect))
        r = put_plain(c, st, f);
    return r;
}

HOT int put_field(struct cursor *c, const struct p9_msg *msg, const struct field *f)
{
    int r = 0;
    switch (f->kind) {
    case WNAMES:
        if (msg->nwname > LIMIT_WALK)
            return -EINVAL;
        cursor_put(c, 2, msg->nwname);
        for (int i = 0; i < msg->nwname && r == 0; i++)
            r = put_str(c, &msg->wname[i], true);
        return r;
    case WQIDS:
        if (msg->nwqid > LIMIT_WALK)
            return -EINVAL;
        cursor_put(c, 2, msg->nwqid);
        for (int i = 0; i < msg->nwqid; i++)
            put_qid(c, &msg->wqid[i]);
        return 0;
    case STATS:
        cursor_put(c, 2, stat_size(member_of(msg, f), msg->dialect));
        return put_stat(c, member_of(msg, f), msg->dialect, 2);
    case BYTES:
        cursor_put(c, 4, msg->count);
        return 0;
    case OPID:
        return msg->op ? put_plain(c, msg, f) : 0;
    default:
        return put_plain(c, msg, f);
    }
}

bool p9_has_data(uint8_t type)
{
    const struct row *row = &rows[type];
    return row->n > 1 && row->fields[row->n - 2].kind == BYTES; /* only ever last */
}

int p9_encode_head(const struct p9_msg *msg, void *buf, size_t size)
{
    struct cursor c = cursor_at(buf, size);
    const struct field *fields = fields_of(msg);
    if (!fields)
        return -EOPNOTSUPP;
    cursor_put(&c, 4, 0);
    cursor_put(&c, 1, msg->type);
    cursor_put(&c, 2, msg->tag);
    FOR_FIELDS(f, fields, msg->dialect)
    {
        int r = put_field(&c, msg, f);
        if (r < 0)
            return r;
    }
    size_t n = size - cursor_left(&c), total = n + (p9_has_data(msg->type) ? msg->count : 0);
    if (c.bad || total > INT32_MAX)
        return -EMSGSIZE;
    c = cursor_at(buf, 4);
    cursor_put(&c, 4, total);
    return (int)n;
}

int p9_encode(const struct p9_msg *msg, void *buf, size_t size)
{
    int n = p9_encode_head(msg, buf, size);
    if (n < 0 || !p9_has_data(msg->type))
        return n;
    struct cursor c = cursor_at((uint8_t *)buf + n, size - (size_t)n);
    cursor_put_bytes(&c, msg->data, msg->count);
    return c.bad ? -EMSGSIZE : n + (int)msg->count;
}

/* ---- decoding ---- */

/* The string moves one byte down, over its length, so that there is room for a NUL behind it. */
static int get_str(struct cursor *c, struct p9_str *ret, bool name)
{
    size_t len = cursor_get(c, 2);
    uint8_t *s = cursor_take(c, len);
    if (!s)
        return -EPROTO;
    int r = check_str((char *)s, len, name);
    if (r < 0)
        return r;
    s--;
    memmove(s, s + 1, len);
    s[len] = 0;
    *ret = (struct p9_str){(uint16_t)len, (char *)s};
    return 0;
}

static void get_qid(struct cursor *c, struct p9_qid *q)
{
    q->type = (uint8_t)cursor_get(c, 1);
    q->version = (uint32_t)cursor_get(c, 4);
    q->path = cursor_get(c, 8);
}

struct apart { /* DATA that is not in the same buffer */
    void *data;
    size_t n;
};

static int get_data(struct cursor *c, const struct apart *apart, struct p9_msg *msg)
{
    msg->count = (uint32_t)cursor_get(c, 4);
    if (c->bad || msg->count != (apart ? apart->n : cursor_left(c)))
        return -EPROTO;
    msg->data = apart ? apart->data : cursor_take(c, msg->count);
    return 0;
}

HOT int get_plain(struct cursor *c, void *base, const struct field *f)
{
    switch (f->kind) {
    case STRING:
    case NAMESTR:
        return get_str(c, (struct p9_str *)str_of(base, f), f->kind == NAMESTR);
    case QIDS1:
        get_qid(c, (struct p9_qid *)member_of(base, f));
        return 0;
    case INT1:
        set_int(base, f, cursor_get(c, 1));
        return 0;
    case INT2:
        set_int(base, f, cursor_get(c, 2));
        return 0;
    case INT8:
    case OPID:
        set_int(base, f, cursor_get(c, 8));
        return 0;
    default:
        set_int(base, f, cursor_get(c, 4));
        return 0;
    }
}

/* What the dialect lacks reads as "not said". */
static int leave_out(void *base, const struct field *f)
{
    if (f->kind == INT4)
        set_int(base, f, UINT32_MAX);
    return 0;
}

static int get_stat(struct cursor *c, struct p9_stat *st, unsigned dialect)
{
    size_t n = cursor_get(c, 2);
    uint8_t *p = cursor_take(c, n);
    int r = 0;
    memset(st, 0, sizeof(*st));
    if (!p)
        return -EPROTO;
    struct cursor in = cursor_at(p, n);
    for (const struct field *f = stat_fields; f->kind != END && r == 0; f++)
        r = f->in >> dialect & 1 ? get_plain(&in, st, f) : leave_out(st, f);
    return r < 0 ? r : in.bad || cursor_left(&in) ? -EPROTO : 0;
}

HOT int get_field(struct cursor *c, const struct field *f, const struct apart *apart,
                  struct p9_msg *msg)
{
    size_t said;
    int r = 0;
    switch (f->kind) {
    case WNAMES:
        msg->nwname = (uint16_t)cursor_get(c, 2);
        if (msg->nwname > LIMIT_WALK)
            return -EINVAL;
        for (int i = 0; i < msg->nwname && r == 0; i++)
            r = get_str(c, &msg->wname[i], true);
        return r;
    case WQIDS:
        msg->nwqid = (uint16_t)cursor_get(c, 2);
        if (msg->nwqid > LIMIT_WALK)
            return -EINVAL;
        for (int i = 0; i < msg->nwqid; i++)
            get_qid(c, &msg->wqid[i]);
        return 0;
    case STATS:
        said = cursor_get(c, 2);
        if (said != cursor_left(c) && (said || msg->type != P9_Rstat)) /* QEMU always says 0 */
            return -EPROTO;
        return get_stat(c, (struct p9_stat *)member_of(msg, f), msg->dialect);
    case BYTES:
        return get_data(c, apart, msg);
    case OPID:
        if (cursor_left(c) == 0)
            return 0;
        set_int(msg, f, cursor_get(c, 8));
        return msg->op ? 0 : -EPROTO; /* there is one way to say none */
    case MAYBE4:
        if (cursor_left(c) == 0)
            return 0;
        /* fall through */
    default:
        return get_plain(c, msg, f);
    }
}

static int decode(unsigned dialect, struct cursor c, size_t n, const struct apart *apart,
                  struct p9_msg *msg)
{
    memset(msg, 0, sizeof(*msg));
    size_t size = cursor_get(&c, 4);
    msg->type = (uint8_t)cursor_get(&c, 1);
    msg->tag = (uint16_t)cursor_get(&c, 2);
    msg->dialect = (uint8_t)dialect;
    const struct field *fields = fields_of(msg);
    if (c.bad || size != n)
        return -EPROTO;
    if (!fields)
        return -EOPNOTSUPP;
    if (apart && !p9_has_data(msg->type))
        return -EPROTO;
    for (const struct field *f = fields; f->kind != END; f++) {
        int r = f->in >> dialect & 1 ? get_field(&c, f, apart, msg) : leave_out(msg, f);
        if (r < 0)
            return r;
    }
    return c.bad || cursor_left(&c) ? -EPROTO : 0;
}

int p9_decode_as(enum p9_dialect dialect, void *buf, size_t n, struct p9_msg *msg)
{
    return decode(dialect, cursor_at(buf, n), n, NULL, msg);
}

int p9_decode(void *buf, size_t n, struct p9_msg *msg)
{
    return p9_decode_as(P9_L, buf, n, msg);
}

int p9_decode_split(void *head, size_t nhead, void *data, size_t ndata, struct p9_msg *msg)
{
    struct apart apart = {data, ndata};
    return decode(P9_L, cursor_at(head, nhead), nhead + ndata, &apart, msg);
}

bool p9_names_fid(const struct p9_msg *msg, uint32_t fid)
{
    for (const struct field *f = rows[msg->type].fields; f && f->kind != END; f++)
        if (f->kind == FID4 && get_int(msg, f) == fid)
            return true;
    return false;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

static uint64_t mix_bytes(uint64_t h, const void *data, size_t n)
{
    uint64_t v;
    const char *p = data;
    h = mix(h, n);
    for (; n >= sizeof(v); n -= sizeof(v), p += sizeof(v)) {
        memcpy(&v, p, sizeof(v));
        h = mix(h, v);
    }
    v = 0;
    if (n)
        memcpy(&v, p, n);
    return mix(h, v);
}

enum { HASH_ENDS = 64 }; /* bytes at either end of DATA */

static uint64_t mix_field(uint64_t h, const struct p9_msg *msg, const struct field *f)
{
    switch (f->kind) {
    case STRING:
    case NAMESTR:
        return mix_bytes(h, str_of(msg, f)->s, str_of(msg, f)->len);
    case WNAMES:
        for (int i = 0; i < msg->nwname && i < LIMIT_WALK; i++)
            h = mix_bytes(h, msg->wname[i].s, msg->wname[i].len);
        return h;
    case BYTES:
        if (msg->count <= 2 * HASH_ENDS)
            return mix_bytes(h, msg->data, msg->count);
        h = mix_bytes(mix(h, msg->count), msg->data, HASH_ENDS);
        return mix_bytes(h, (const char *)msg->data + msg->count - HASH_ENDS, HASH_ENDS);
    case QIDS1:
    case WQIDS:
        return h; /* of answers only */
    default:
        return mix(h, get_int(msg, f));
    }
}

uint64_t p9_msg_hash(const struct p9_msg *msg)
{
    uint64_t h = msg->type;
    for (const struct field *f = rows[msg->type].fields; f && f->kind != END; f++)
        h = mix_field(h, msg, f);
    return h;
}

bool p9_has_refs(uint8_t type)
{
    for (const struct field *f = rows[type].fields; f && f->kind != END; f++)
        if (f->kind >= STRING)
            return true;
    return false;
}

/* ---- printing ---- */

struct out {
    char *p, *end;
};

static void say(struct out *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(struct out *o, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    size_t room = (size_t)(o->end - o->p);
    int n = vsnprintf(o->p, room, fmt, ap);
    va_end(ap);
    if (n > 0)
        o->p += (size_t)n < room ? (size_t)n : room ? room - 1 : 0;
}

static void say_str(struct out *o, const struct p9_str *s)
{
    text_escape(o->p, (size_t)(o->end - o->p), s->len ? s->s : "", s->len);
    o->p += strlen(o->p);
}

static void say_qid(struct out *o, const struct p9_qid *q)
{
    say(o, "%02x.%" PRIx32 ".%" PRIx64, q->type, q->version, q->path);
}

static void say_plain(struct out *o, const void *base, const struct field *f)
{
    const char *dot = strrchr(f->name, '.');
    say(o, " %s ", dot ? dot + 1 : f->name);
    if (f->kind == STRING || f->kind == NAMESTR) {
        say_str(o, str_of(base, f));
    } else if (f->kind == QIDS1) {
        say_qid(o, member_of(base, f));
    } else {
        uint64_t v = get_int(base, f);
        if (f->kind == FID4 && v == P9_NOFID)
            say(o, "-");
        else
            say(o, "%" PRIu64, v);
    }
}

static void say_field(struct out *o, const struct p9_msg *msg, const struct field *f)
{
    switch (f->kind) {
    case WNAMES:
        say(o, " %s ", f->name);
        for (int i = 0; i < msg->nwname && i < LIMIT_WALK; i++) {
            say(o, "%s", i ? "/" : "");
            say_str(o, &msg->wname[i]);
        }
        break;
    case WQIDS:
        say(o, " %s %d", f->name, msg->nwqid);
        for (int i = 0; i < msg->nwqid && i < LIMIT_WALK; i++) {
            say(o, " ");
            say_qid(o, &msg->wqid[i]);
        }
        break;
    case STATS:
        FOR_FIELDS(g, stat_fields, msg->dialect)
        say_plain(o, member_of(msg, f), g);
        break;
    default:
        say_plain(o, msg, f);
    }
}

char *p9_print(const struct p9_msg *msg, char *buf, size_t size)
{
    struct out o = {buf, buf + size};
    if (size == 0)
        return buf;
    *buf = 0;
    const struct field *fields = fields_of(msg);
    if (!fields) {
        say(&o, "type %u tag %u", msg->type, msg->tag);
        return buf;
    }
    say(&o, "%s tag %u", rows[msg->type].name, msg->tag);
    FOR_FIELDS(f, fields, msg->dialect)
    if (f->kind != OPID || msg->op)
        say_field(&o, msg, f);
    return buf;
}

/* ---- directory entries ---- */

/* How an entry was put, or taken: `r` an error, else the bytes of `n` that it needed. */
static int put_end(const struct cursor *c, size_t n, int r)
{
    return r < 0 ? r : c->bad ? 0 : (int)(n - cursor_left(c));
}

static int get_end(const struct cursor *c, size_t n, int r)
{
    return r < 0 ? r : (int)(n - cursor_left(c));
}

/* What the entries of Rreaddir and Rlist end with. */
static int put_tail(struct cursor *c, uint64_t offset, uint8_t type, const struct p9_str *name)
{
    cursor_put(c, 8, offset);
    cursor_put(c, 1, type);
    return put_str(c, name, true);
}

static int get_tail(struct cursor *c, uint64_t *offset, uint8_t *type, struct p9_str *name)
{
    *offset = cursor_get(c, 8);
    *type = (uint8_t)cursor_get(c, 1);
    return get_str(c, name, true);
}

int p9_dirent_put(void *buf, size_t room, const struct p9_dirent *ent)
{
    struct cursor c = cursor_at(buf, room);
    put_qid(&c, &ent->qid);
    return put_end(&c, room, put_tail(&c, ent->offset, ent->type, &ent->name));
}

int p9_dirent_get(void *buf, size_t n, struct p9_dirent *ent)
{
    struct cursor c = cursor_at(buf, n);
    if (n == 0)
        return 0;
    get_qid(&c, &ent->qid);
    return get_end(&c, n, get_tail(&c, &ent->offset, &ent->type, &ent->name));
}

int p9_stat_put(enum p9_dialect dialect, void *buf, size_t room, const struct p9_stat *st)
{
    struct cursor c = cursor_at(buf, room);
    return put_end(&c, room, put_stat(&c, st, dialect, 0));
}

int p9_stat_get(enum p9_dialect dialect, void *buf, size_t n, struct p9_stat *st)
{
    struct cursor c = cursor_at(buf, n);
    return n == 0 ? 0 : get_end(&c, n, get_stat(&c, st, dialect));
}

/* The attributes as Rgetattr has them. */
int p9_entry_put(void *buf, size_t room, const struct p9_entry *ent)
{
    struct cursor c = cursor_at(buf, room);
    struct p9_msg m = {.dialect = P9_L};
    m.attr = ent->attr;
    for (const struct field *f = rows[P9_Rgetattr].fields; f->kind != END; f++)
        put_field(&c, &m, f);
    return put_end(&c, room, put_tail(&c, ent->offset, ent->type, &ent->name));
}

int p9_entry_get(void *buf, size_t n, struct p9_entry *ent)
{
    struct cursor c = cursor_at(buf, n);
    struct p9_msg m = {.dialect = P9_L};
    if (n == 0)
        return 0;
    for (const struct field *f = rows[P9_Rgetattr].fields; f->kind != END; f++)
        get_field(&c, f, NULL, &m);
    ent->attr = m.attr;
    return get_end(&c, n, get_tail(&c, &ent->offset, &ent->type, &ent->name));
}
