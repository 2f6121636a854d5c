/* SPDX-License-Identifier: MIT */
#include "layers/service_wire.h"
#include "base/text.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define HELLO "plenum-service"

static const char *const wants[] = {"-", "ack", "ask"};
static const char *const extra[] = {"lost", "on", "off"};

const char *service_op_name(int op)
{
    return op < 0             ? "?"
           : op < PL_OP_COUNT ? pl_op_name((enum pl_op)op)
           : op < SERVICE_OPS ? extra[op - PL_OP_COUNT]
                              : "?";
}

static int op_find(const char *name)
{
    for (int i = 0; i < 3; i++)
        if (!strcmp(extra[i], name))
            return PL_OP_COUNT + i;
    return pl_op_find(name);
}

/* ---- out ---- */

static void put_string(FILE *f, const char *key, const char *s)
{
    if (!s)
        return;
    fprintf(f, " %s=", key);
    for (; *s; s++) {
        if (*s > ' ' && *s < 0x7f && *s != '%')
            putc(*s, f);
        else
            fprintf(f, "%%%02X", (unsigned char)*s);
    }
}

static void put_number(FILE *f, const char *key, uint64_t n)
{
    if (n)
        fprintf(f, " %s=%" PRIu64, key, n);
}

static void put_result(FILE *f, int64_t r)
{
    char name[16];
    if (r < 0)
        fprintf(f, " %s", text_errno_name(name, (int)-r));
    else
        fprintf(f, " %" PRId64, r);
}

static void put_hello(FILE *f, const struct service_msg *m)
{
    fprintf(f, HELLO " %u", m->version);
    put_string(f, "name", m->service);
    if (m->session)
        fprintf(f, " session=%" PRIx64, m->session);
    put_string(f, "tree", m->tree);
    put_string(f, "no", m->no);
    if (m->keeps)
        fprintf(f, " keeps=1");
    put_number(f, "after", m->seq);
    for (size_t i = 0; i < m->npids; i++)
        put_number(f, "pid", (uint64_t)m->pids[i]);
}

static void put_event(FILE *f, const struct service_msg *m)
{
    fprintf(f, "%" PRIu64 " %s %s", m->seq, service_op_name(m->op), wants[m->want]);
    put_result(f, m->result);
    put_string(f, "path", m->path);
    put_string(f, "path2", m->path2);
    put_string(f, "name", m->name);
    put_number(f, "ino", m->ino);
    put_number(f, "off", m->off);
    put_number(f, "len", m->len);
    put_number(f, "flags", m->flags);
    put_number(f, "pid", (uint64_t)m->pid);
    fprintf(f, " uid=%u gid=%u", m->uid, m->gid);
    if (m->data)
        fprintf(f, " data=%zu", m->ndata);
}

char *service_encode(const struct service_msg *m, size_t *ret_n)
{
    static const char *const words[] = {
        [SERVICE_BYE] = "bye",       [SERVICE_REFUSE] = "refuse", [SERVICE_ACCEPT] = "accept",
        [SERVICE_ANSWER] = "answer", [SERVICE_KEPT] = "kept",     [SERVICE_ON] = "on",
        [SERVICE_OFF] = "off"};
    char *buf = NULL;
    FILE *f = open_memstream(&buf, ret_n);
    if (!f)
        return NULL;
    if (m->kind == SERVICE_HELLO)
        put_hello(f, m);
    else if (m->kind == SERVICE_EVENT)
        put_event(f, m);
    else
        fputs(words[m->kind], f);
    if (m->kind == SERVICE_ANSWER || m->kind == SERVICE_KEPT)
        fprintf(f, " %" PRIu64, m->seq);
    if (m->kind == SERVICE_ANSWER || m->kind == SERVICE_REFUSE)
        put_result(f, m->result);
    putc('\n', f);
    if (m->kind == SERVICE_EVENT && m->data)
        fwrite(m->data, 1, m->ndata, f);
    if (fclose(f) != 0) {
        free(buf);
        return NULL;
    }
    return buf;
}

/* ---- in ---- */

static bool number(const char *s, int base, uint64_t max, uint64_t *ret)
{
    char *end;
    if (!s || !strchr("0123456789abcdefABCDEF", *s) || !*s)
        return false;
    errno = 0;
    *ret = strtoull(s, &end, base);
    return !*end && !errno && *ret <= max;
}

static bool result(const char *s, int64_t *ret)
{
    uint64_t n;
    if (!s)
        return false;
    if (*s != 'E') {
        bool ok = number(s, 10, INT64_MAX, &n);
        *ret = (int64_t)n;
        return ok;
    }
    int e = text_errno(s);
    if (e < 0 && number(s + 1, 10, 4095, &n) && n)
        e = (int)n;
    *ret = -e;
    return e > 0;
}

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Takes the escapes out, in place; false: a wrong one, or a NUL. */
static bool string(char *s, const char **ret)
{
    char *to = s;
    *ret = s;
    for (; *s; s++) {
        int hi = *s == '%' ? digit(s[1]) : 0, lo = *s == '%' && hi >= 0 ? digit(s[2]) : 0;
        if (hi < 0 || lo < 0)
            return false;
        if (*s == '%') {
            *to++ = (char)(hi << 4 | lo);
            if (hi + lo == 0)
                return false;
            s += 2;
        } else {
            *to++ = *s;
        }
    }
    *to = 0;
    return true;
}

/* One KEY=VALUE of a greeting; keys that are unknown, or of events, are for later versions. */
static bool hello_pair(struct service_msg *m, const char *key, char *value)
{
    uint64_t n = 0;
    if (!strcmp(key, "name"))
        return string(value, &m->service);
    if (!strcmp(key, "tree"))
        return string(value, &m->tree);
    if (!strcmp(key, "no"))
        return string(value, &m->no);
    if (!strcmp(key, "session"))
        return number(value, 16, UINT64_MAX, &m->session);
    if (!strcmp(key, "after"))
        return number(value, 10, UINT64_MAX, &m->seq);
    bool keeps = !strcmp(key, "keeps"), pid = !strcmp(key, "pid");
    if ((keeps || pid) && !number(value, 10, INT32_MAX, &n))
        return false;
    m->keeps |= keeps && n;
    if (pid && n && m->npids < SERVICE_PIDS)
        m->pids[m->npids++] = (pid_t)n;
    return true;
}

/* Likewise of an event. */
static bool event_pair(struct service_msg *m, const char *key, char *value)
{
    uint64_t n = 0;
    const struct {
        const char *key;
        const char **to;
    } strings[] = {{"path", &m->path}, {"path2", &m->path2}, {"name", &m->name}};
    const struct {
        const char *key;
        uint64_t *to;
    } numbers[] = {{"ino", &m->ino}, {"off", &m->off}, {"len", &m->len}, {"flags", &m->flags}};
    for (size_t i = 0; i < 3; i++)
        if (!strcmp(key, strings[i].key))
            return string(value, strings[i].to);
    for (size_t i = 0; i < 4; i++)
        if (!strcmp(key, numbers[i].key))
            return number(value, 10, UINT64_MAX, numbers[i].to);
    bool pid = !strcmp(key, "pid"), uid = !strcmp(key, "uid"), gid = !strcmp(key, "gid");
    if ((pid || uid || gid) && !number(value, 10, pid ? INT32_MAX : UINT32_MAX, &n))
        return false;
    m->pid = pid ? (pid_t)n : m->pid;
    m->uid = uid ? (uid_t)n : m->uid;
    m->gid = gid ? (gid_t)n : m->gid;
    return true;
}

static bool pairs(struct service_msg *m, char *rest)
{
    char *word;
    while ((word = strsep(&rest, " "))) {
        char *eq = strchr(word, '=');
        if (!eq)
            return false;
        *eq = 0;
        if (!(m->kind == SERVICE_HELLO ? hello_pair : event_pair)(m, word, eq + 1))
            return false;
    }
    return true;
}

static bool hello(struct service_msg *m, char *rest)
{
    uint64_t version;
    char *v = strsep(&rest, " ");
    m->kind = SERVICE_HELLO;
    m->service = m->tree = m->no = "";
    if (!number(v, 10, UINT32_MAX, &version))
        return false;
    m->version = (unsigned)version;
    return pairs(m, rest);
}

static bool event(struct service_msg *m, char *first, char *rest)
{
    char *op = strsep(&rest, " "), *want = strsep(&rest, " "), *res = strsep(&rest, " ");
    m->kind = SERVICE_EVENT;
    m->path = m->path2 = "";
    if (!number(first, 10, UINT64_MAX, &m->seq) || !want || !result(res, &m->result))
        return false;
    m->op = op_find(op);
    for (int i = SERVICE_TELL; i <= SERVICE_ASK; i++)
        if (!strcmp(want, wants[i]))
            m->want = (enum service_want)i;
    return !strcmp(want, wants[m->want]) && pairs(m, rest);
}

static bool other(struct service_msg *m, const char *word, char *rest)
{
    char *a = strsep(&rest, " "), *b = strsep(&rest, " ");
    static const struct {
        const char *word;
        enum service_kind kind;
        bool seq, result;
    } table[] = {{"answer", SERVICE_ANSWER, true, true},  {"kept", SERVICE_KEPT, true, false},
                 {"refuse", SERVICE_REFUSE, false, true}, {"accept", SERVICE_ACCEPT, false, false},
                 {"on", SERVICE_ON, false, false},        {"off", SERVICE_OFF, false, false},
                 {"bye", SERVICE_BYE, false, false}};
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
        if (strcmp(word, table[i].word))
            continue;
        m->kind = table[i].kind;
        if (table[i].seq && !number(a, 10, UINT64_MAX, &m->seq))
            return false;
        if (table[i].result && !result(table[i].seq ? b : a, &m->result))
            return false;
        return !rest && (b != NULL) == (table[i].seq && table[i].result) &&
               (a != NULL) == (table[i].seq || table[i].result) &&
               (m->kind != SERVICE_REFUSE || m->result < 0);
    }
    return false;
}

/* How many bytes stand behind the line, whose last word says so; -1: too many. */
static int64_t data_behind(const char *line, size_t n)
{
    const char *space = memrchr(line, ' ', n);
    uint64_t len;
    char digits[24];
    if (!space || *line < '0' || *line > '9' || strncmp(space, " data=", 6))
        return 0;
    size_t k = n - (size_t)(space + 6 - line);
    if (k == 0 || k >= sizeof(digits))
        return -1;
    memcpy(digits, space + 6, k);
    digits[k] = 0;
    return number(digits, 10, SERVICE_DATA_MAX, &len) ? (int64_t)len : -1;
}

ssize_t service_decode(char *buf, size_t n, struct service_msg *m)
{
    char *nl = memchr(buf, '\n', n < SERVICE_LINE_MAX ? n : SERVICE_LINE_MAX);
    if (!nl)
        return n < SERVICE_LINE_MAX ? 0 : -EPROTO;
    size_t line = (size_t)(nl - buf);
    int64_t behind = data_behind(buf, line);
    if (behind < 0 || memchr(buf, 0, line))
        return -EPROTO;
    if (n - line - 1 < (size_t)behind)
        return 0;
    *nl = 0;
    memset(m, 0, sizeof(*m));
    char *rest = buf, *first = strsep(&rest, " ");
    bool is_event = *first >= '0' && *first <= '9';
    bool ok = is_event                ? event(m, first, rest)
              : !strcmp(first, HELLO) ? hello(m, rest)
                                      : other(m, first, rest);
    if (ok && is_event && behind) {
        m->data = nl + 1;
        m->ndata = (size_t)behind;
    }
    return ok ? (ssize_t)(line + 1 + (size_t)behind) : -EPROTO;
}
