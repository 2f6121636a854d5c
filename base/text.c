/* SPDX-License-Identifier: MIT */
#include "base/text.h"
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The length of the valid UTF-8 sequence at s (at most n bytes) and its code point, or 0. */
static size_t utf8(const unsigned char *s, size_t n, uint32_t *cp)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len = s[0] < 0x80       ? 1
                 : s[0] >> 5 == 6  ? 2
                 : s[0] >> 4 == 14 ? 3
                 : s[0] >> 3 == 30 ? 4
                                   : 0;
    if (len == 0 || len > n)
        return 0;
    *cp = len == 1 ? s[0] : s[0] & (0x7f >> len);
    for (size_t i = 1; i < len; i++) {
        if (s[i] >> 6 != 2)
            return 0;
        *cp = *cp << 6 | (s[i] & 0x3f);
    }
    if (*cp < least[len] || *cp > 0x10ffff || (*cp >= 0xd800 && *cp <= 0xdfff))
        return 0;
    return len;
}

static bool harmless(uint32_t cp)
{
    if (cp < 0x20 || (cp >= 0x7f && cp < 0xa0))
        return false;
    /* what turns text around or hides in it */
    return !(cp >= 0x200b && cp <= 0x200f) && !(cp >= 0x2028 && cp <= 0x202e) &&
           !(cp >= 0x2060 && cp <= 0x206f) && cp != 0xfeff && cp != 0x61c;
}

char *text_escape(char *dst, size_t size, const char *src, size_t n)
{
    size_t out = 0, in = 0;
    n = strnlen(src, n);
    while (in < n) {
        uint32_t cp;
        const unsigned char *s = (const unsigned char *)src + in;
        size_t len = utf8(s, n - in, &cp);
        if (len && harmless(cp)) {
            if (out + len >= size)
                break;
            memcpy(dst + out, s, len);
            out += len;
            in += len;
            continue;
        }
        if (out + 4 >= size)
            break;
        snprintf(dst + out, 5, "\\%03o", *s);
        out += 4;
        in++;
    }
    if (size)
        dst[out] = 0;
    return dst;
}

char *text_bytes(char dst[16], uint64_t n)
{
    static const char *unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)n;
    int i = 0;
    while (v >= 1024 && i < 6) {
        v /= 1024;
        i++;
    }
    snprintf(dst, 16, i && v < 10 ? "%.1f %s" : "%.0f %s", v, unit[i]);
    return dst;
}

int64_t text_duration(const char *s)
{
    static const struct {
        const char *unit;
        double ns;
    } units[] = {{"", 1e9},   {"s", 1e9},    {"ms", 1e6},   {"us", 1e3},   {"ns", 1},
                 {"m", 60e9}, {"min", 60e9}, {"h", 3600e9}, {"d", 86400e9}};
    char *end;
    if (!(*s >= '0' && *s <= '9') && *s != '.')
        return -1;
    double v = strtod(s, &end);
    for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++)
        if (!strcmp(end, units[i].unit) && v * units[i].ns < 9e18)
            return (int64_t)(v * units[i].ns);
    return -1;
}

char *text_time(char dst[24], int64_t ns)
{
    static const struct {
        const char *unit;
        double ns;
    } units[] = {{"d", 86400e9}, {"h", 3600e9}, {"m", 60e9}, {"s", 1e9}, {"ms", 1e6}};
    size_t i = 0;
    while (i < 4 && (double)ns < units[i].ns)
        i++;
    snprintf(dst, 24, "%.3g%s", (double)ns / units[i].ns, units[i].unit);
    return dst;
}

int64_t text_size(const char *s)
{
    static const char units[] = "kmgtp";
    char *end;
    if (!(*s >= '0' && *s <= '9'))
        return -1;
    errno = 0;
    unsigned long long v = strtoull(s, &end, 10);
    if (errno)
        return -1;
    int shift = 0;
    if (*end) {
        const char *u = strchr(units, *end | 0x20);
        if (u) {
            shift = 10 * (int)(u - units + 1);
            end++;
        }
        if (strcmp(end, "") && strcmp(end, "iB") && strcmp(end, "B"))
            return -1;
    }
    return v >> (63 - shift) ? -1 : (int64_t)(v << shift);
}

#define ERRNOS 134

int text_errno(const char *name)
{
    for (int e = 1; e < ERRNOS; e++) {
        const char *n = strerrorname_np(e);
        if (n && !strcmp(n, name))
            return e;
    }
    return -1;
}

const char *text_errno_name(char buf[16], int error)
{
    const char *name = strerrorname_np(error);
    snprintf(buf, 16, "E%d", error);
    return name ? name : buf;
}
