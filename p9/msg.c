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
    STRING,
    NAMESTR,
    QIDS1,
    WNAMES,
    WQIDS,
    BYTES
};

struct field {
    uint8_t kind;
    uint16_t off;
    const char *name;
};

/* The size is checked, so that a row cannot name a member of another width. */
#define FIELD(kind, m, size)                                                                       \
    {                                                                                              \
        kind + 0 * sizeof(char[sizeof(((struct p9_msg *)0)->m) == (size) ? 1 : -1]),               \
            offsetof(struct p9_msg, m), #m                                                         \
    }
#define U1(m)    FIELD(INT1, m, 1)
#define U2(m)    FIELD(INT2, m, 2)
#define U4(m)    FIELD(INT4, m, 4)
#define U8(m)    FIELD(INT8, m, 8)
#define FID(m)   FIELD(FID4, m, 4)
#define OPT4(m)  FIELD(MAYBE4, m, 4)
#define OP(m)    FIELD(OPID, m, 8)
#define STR(m)   FIELD(STRING, m, sizeof(struct p9_str))
#define NAME(m)  FIELD(NAMESTR, m, sizeof(struct p9_str))
#define QID(m)   FIELD(QIDS1, m, sizeof(struct p9_qid))
#define NAMES(m) FIELD(WNAMES, m, sizeof(struct p9_str) * LIMIT_WALK)
#define QIDS(m)  FIELD(WQIDS, m, sizeof(struct p9_qid) * LIMIT_WALK)
#define DATA(m)  FIELD(BYTES, m, 4)

#define M(num, name, ...)                                                                          \
    static const struct field fields_##name[] = {__VA_ARGS__ __VA_OPT__(, ){.kind = END}};
P9_MESSAGES(M)
#undef M

static const struct row {
    const char *name;
    const struct field *fields;
} rows[256] = {
#define M(num, name, ...) [num] = {#name, fields_##name},
    P9_MESSAGES(M)
#undef M
};

const char *p9_type_name(uint8_t type)
{
    return rows[type].name;
}

struct p9_str p9_str(const char *s)
{
    size_t n = s ? strlen(s) : 0;
    return (struct p9_str){(uint16_t)(n > UINT16_MAX ? UINT16_MAX : n), s};
}

static uint64_t get_int(const struct p9_msg *msg, const struct field *f)
{
    const void *at = (const char *)msg + f->off;
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

static void set_int(struct p9_msg *msg, const struct field *f, uint64_t v)
{
    void *at = (char *)msg + f->off;
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

static const struct p9_str *str_of(const struct p9_msg *msg, const struct field *f)
{
    return (const void *)((const char *)msg + f->off);
}

enum { QID_SIZE = 13 };

/* ---- encoding ---- */

size_t p9_encode_size(const struct p9_msg *msg)
{
    size_t n = P9_HDRSZ;
    if (!rows[msg->type].name)
        return 0;
    for (const struct field *f = rows[msg->type].fields; f->kind != END; f++) {
        switch (f->kind) {
        case STRING:
        case NAMESTR:
            n += 2 + (size_t)str_of(msg, f)->len;
            break;
        case QIDS1:
            n += QID_SIZE;
            break;
        case WNAMES:
            n += 2;
            for (int i = 0; i < msg->nwname && i < LIMIT_WALK; i++)
                n += 2 + (size_t)msg->wname[i].len;
            break;
        case WQIDS:
            n += 2 + (size_t)msg->nwqid * QID_SIZE;
            break;
        case BYTES:
            n += 4 + (size_t)msg->count;
            break;
        case OPID:
            n += msg->op ? 8 : 0;
            break;
        default:
            n += int_size(f->kind);
        }
    }
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

static int put_field(struct cursor *c, const struct p9_msg *msg, const struct field *f)
{
    int r = 0;
    switch (f->kind) {
    case STRING:
    case NAMESTR:
        return put_str(c, str_of(msg, f), f->kind == NAMESTR);
    case QIDS1:
        put_qid(c, (const void *)((const char *)msg + f->off));
        return 0;
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
    case BYTES:
        cursor_put(c, 4, msg->count);
        return 0;
    case OPID:
        if (msg->op == 0)
            return 0;
        /* fall through */
    default:
        cursor_put(c, int_size(f->kind), get_int(msg, f));
        return 0;
    }
}

bool p9_has_data(uint8_t type)
{
    const struct field *f = rows[type].fields;
    if (!f)
        return false;
    while (f->kind != END && f->kind != BYTES)
        f++;
    return f->kind == BYTES;
}

int p9_encode_head(const struct p9_msg *msg, void *buf, size_t size)
{
    struct cursor c = cursor_at(buf, size);
    if (!rows[msg->type].name)
        return -EINVAL;
    cursor_put(&c, 4, 0);
    cursor_put(&c, 1, msg->type);
    cursor_put(&c, 2, msg->tag);
    for (const struct field *f = rows[msg->type].fields; f->kind != END; f++) {
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
    memmove(s - 1, s, len);
    s[len - 1] = 0;
    *ret = (struct p9_str){(uint16_t)len, (char *)s - 1};
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

static int get_field(struct cursor *c, const struct field *f, const struct apart *apart,
                     struct p9_msg *msg)
{
    int r = 0;
    switch (f->kind) {
    case STRING:
    case NAMESTR:
        return get_str(c, (struct p9_str *)str_of(msg, f), f->kind == NAMESTR);
    case QIDS1:
        get_qid(c, (void *)((char *)msg + f->off));
        return 0;
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
        set_int(msg, f, cursor_get(c, int_size(f->kind)));
        return 0;
    }
}

static int decode(struct cursor c, size_t n, const struct apart *apart, struct p9_msg *msg)
{
    memset(msg, 0, sizeof(*msg));
    size_t size = cursor_get(&c, 4);
    msg->type = (uint8_t)cursor_get(&c, 1);
    msg->tag = (uint16_t)cursor_get(&c, 2);
    if (c.bad || size != n)
        return -EPROTO;
    if (!rows[msg->type].name)
        return -EOPNOTSUPP;
    if (apart && !p9_has_data(msg->type))
        return -EPROTO;
    for (const struct field *f = rows[msg->type].fields; f->kind != END; f++) {
        int r = get_field(&c, f, apart, msg);
        if (r < 0)
            return r;
    }
    return c.bad || cursor_left(&c) ? -EPROTO : 0;
}

int p9_decode(void *buf, size_t n, struct p9_msg *msg)
{
    return decode(cursor_at(buf, n), n, NULL, msg);
}

int p9_decode_split(void *head, size_t nhead, void *data, size_t ndata, struct p9_msg *msg)
{
    struct apart apart = {data, ndata};
    return decode(cursor_at(head, nhead), nhead + ndata, &apart, msg);
}

bool p9_names_fid(const struct p9_msg *msg, uint32_t fid)
{
    for (const struct field *f = rows[msg->type].fields; f && f->kind != END; f++)
        if (f->kind == FID4 && get_int(msg, f) == fid)
            return true;
    return false;
}

bool p9_has_refs(uint8_t type)
{
    for (const struct field *f = rows[type].fields; f && f->kind != END; f++)
        if (f->kind == STRING || f->kind == NAMESTR || f->kind == WNAMES || f->kind == BYTES)
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

static void say_field(struct out *o, const struct p9_msg *msg, const struct field *f)
{
    const char *dot = strrchr(f->name, '.');
    say(o, " %s ", dot ? dot + 1 : f->name);
    switch (f->kind) {
    case STRING:
    case NAMESTR:
        say_str(o, str_of(msg, f));
        break;
    case QIDS1:
        say_qid(o, (const void *)((const char *)msg + f->off));
        break;
    case WNAMES:
        for (int i = 0; i < msg->nwname && i < LIMIT_WALK; i++) {
            say(o, "%s", i ? "/" : "");
            say_str(o, &msg->wname[i]);
        }
        break;
    case WQIDS:
        say(o, "%d", msg->nwqid);
        for (int i = 0; i < msg->nwqid && i < LIMIT_WALK; i++) {
            say(o, " ");
            say_qid(o, &msg->wqid[i]);
        }
        break;
    default: {
        uint64_t v = get_int(msg, f);
        if (f->kind == FID4 && v == P9_NOFID)
            say(o, "-");
        else
            say(o, "%" PRIu64, v);
    }
    }
}

char *p9_print(const struct p9_msg *msg, char *buf, size_t size)
{
    struct out o = {buf, buf + size};
    if (size == 0)
        return buf;
    *buf = 0;
    if (!rows[msg->type].name) {
        say(&o, "type %u tag %u", msg->type, msg->tag);
        return buf;
    }
    say(&o, "%s tag %u", rows[msg->type].name, msg->tag);
    for (const struct field *f = rows[msg->type].fields; f->kind != END; f++)
        if (f->kind != OPID || msg->op)
            say_field(&o, msg, f);
    return buf;
}

/* ---- directory entries ---- */

int p9_dirent_put(void *buf, size_t room, const struct p9_dirent *ent)
{
    struct cursor c = cursor_at(buf, room);
    put_qid(&c, &ent->qid);
    cursor_put(&c, 8, ent->offset);
    cursor_put(&c, 1, ent->type);
    int r = put_str(&c, &ent->name, true);
    if (r < 0)
        return r;
    return c.bad ? 0 : (int)(room - cursor_left(&c));
}

int p9_dirent_get(void *buf, size_t n, struct p9_dirent *ent)
{
    struct cursor c = cursor_at(buf, n);
    if (n == 0)
        return 0;
    get_qid(&c, &ent->qid);
    ent->offset = cursor_get(&c, 8);
    ent->type = (uint8_t)cursor_get(&c, 1);
    int r = get_str(&c, &ent->name, true);
    return r < 0 ? r : (int)(n - cursor_left(&c));
}

/* The attributes as Rgetattr has them. */
int p9_entry_put(void *buf, size_t room, const struct p9_entry *ent)
{
    struct cursor c = cursor_at(buf, room);
    struct p9_msg m;
    m.attr = ent->attr;
    for (const struct field *f = rows[P9_Rgetattr].fields; f->kind != END; f++)
        put_field(&c, &m, f);
    cursor_put(&c, 8, ent->offset);
    cursor_put(&c, 1, ent->type);
    int r = put_str(&c, &ent->name, true);
    if (r < 0)
        return r;
    return c.bad ? 0 : (int)(room - cursor_left(&c));
}

int p9_entry_get(void *buf, size_t n, struct p9_entry *ent)
{
    struct cursor c = cursor_at(buf, n);
    struct p9_msg m;
    if (n == 0)
        return 0;
    for (const struct field *f = rows[P9_Rgetattr].fields; f->kind != END; f++)
        get_field(&c, f, NULL, &m);
    ent->attr = m.attr;
    ent->offset = cursor_get(&c, 8);
    ent->type = (uint8_t)cursor_get(&c, 1);
    int r = get_str(&c, &ent->name, true);
    return r < 0 ? r : (int)(n - cursor_left(&c));
}
