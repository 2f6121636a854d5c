/* SPDX-License-Identifier: MIT */
#include "base/service_attrs.h"
#include "base/text.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BIT(op)  ((uint64_t)1 << (op))
#define QUEUE    (1u << 20)
#define QUEUE_LO (4u << 10)
#define TIMEOUT  30000000000ll
#define BATCH    2000000ll

bool service_name_ok(const char *name)
{
    size_t n = strlen(name);
    return n && n < SERVICE_NAME && *name != '.' && *name != '-' &&
           n == strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* %XX in place; false when it is not two digits, or a NUL. */
static bool unescape(char *s)
{
    char *to = s;
    for (; *s; s++) {
        if (*s == '%') {
            int hi = hex(s[1]), lo = hi < 0 ? -1 : hex(s[2]);
            if (lo < 0 || hi + lo == 0)
                return false;
            *to++ = (char)(hi << 4 | lo);
            s += 2;
        } else {
            *to++ = *s;
        }
    }
    *to = 0;
    return true;
}

/* The calls that a service is told of when it does not say. */
static uint64_t all_calls(void)
{
    uint64_t set = BIT(PL_OP_open) | BIT(PL_OP_close);
    for (int op = 0; op < PL_OP_COUNT; op++)
        if (pl_op_modifies((enum pl_op)op))
            set |= BIT(op);
    return set;
}

static int ops(char *list, uint64_t *ret, struct pl_err *err)
{
    char *name;
    for (*ret = 0; (name = strsep(&list, ",+"));) {
        int op = pl_op_find(name);
        if (op < 0)
            return pl_fail(err, -EINVAL, "%.100s: no such call (open, close, write, rename, ...)",
                           name);
        *ret |= BIT(op);
    }
    return 0;
}

static int bad(const char *attr, const char *value, const char *want, struct pl_err *err)
{
    return pl_fail(err, -EINVAL, "%.40s=%.100s: %s", attr, value, want);
}

static int valued(struct service_attrs *a, const char *attr, char *value, struct pl_err *err)
{
    if (!strcmp(attr, "call"))
        return ops(value, &a->calls, err);
    if (!strcmp(attr, "ack"))
        return ops(value, &a->acks, err);
    if (!strcmp(attr, "match")) {
        if (!*value || strlen(value) >= sizeof(a->match))
            return bad(attr, value, "not a pattern of 1 to 255 bytes", err);
        strcpy(a->match, value);
        return 0;
    }
    if (!strcmp(attr, "lost")) {
        static const char *const names[] = {"", "error", "ignore", "hold"};
        for (int i = SERVICE_LOST_ERROR; i <= SERVICE_LOST_HOLD; i++)
            if (!strcmp(value, names[i]))
                a->lost = (enum service_lost)i;
        return a->lost ? 0 : bad(attr, value, "error, ignore or hold", err);
    }
    if (!strcmp(attr, "queue")) {
        int64_t n = text_size(value);
        a->queue = (uint64_t)n;
        return n >= QUEUE_LO && n <= 1ll << 32 ? 0 : bad(attr, value, "not 4k to 4G", err);
    }
    int64_t *time = !strcmp(attr, "timeout") ? &a->timeout : !strcmp(attr, "batch") ? &a->batch : 0;
    if (!time)
        return pl_fail(err, -EINVAL, "%.100s: no such attribute of a service", attr);
    *time = text_duration(value);
    return *time >= 0 ? 0 : bad(attr, value, "not a time (as in 30s)", err);
}

static int attribute(struct service_attrs *a, char *text, struct pl_err *err)
{
    struct {
        const char *name;
        bool *flag, value;
    } flags[] = {{"monitor", &a->monitor, true}, {"regular", &a->regular, true},
                 {"write", &a->write, true},     {"data", &a->data, true},
                 {"on", &a->off, false},         {"off", &a->off, true}};
    if (!unescape(text))
        return pl_fail(err, -EINVAL, "%.100s: %% wants two hexadecimal digits", text);
    for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
        if (!strcmp(text, flags[i].name)) {
            *flags[i].flag = flags[i].value;
            return 0;
        }
    }
    char *value = strchr(text, '=');
    if (!value)
        return pl_fail(err, -EINVAL,
                       "%.100s: no such attribute of a service (monitor, regular, write, data, on, "
                       "off, call=, ack=, match=, lost=, queue=, timeout=, batch=)",
                       text);
    *value++ = 0;
    return valued(a, text, value, err);
}

int service_attrs_parse(const char *text, struct service_attrs *ret, struct pl_err *err)
{
    *ret = (struct service_attrs){
        .calls = all_calls(), .queue = QUEUE, .timeout = TIMEOUT, .batch = BATCH};
    char *copy = strdup(text), *rest = copy, *one;
    int r = copy ? 0 : pl_fail(err, -ENOMEM, "out of memory");
    while (r == 0 && (one = strsep(&rest, "/")))
        if (*one)
            r = attribute(ret, one, err);
    free(copy);
    if (r == 0 && !ret->lost)
        ret->lost = ret->monitor && !ret->acks ? SERVICE_LOST_IGNORE : SERVICE_LOST_ERROR;
    ret->calls |= ret->acks;
    return r;
}
