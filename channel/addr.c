/* SPDX-License-Identifier: MIT */
#include "channel/addr.h"
#include "channel/keys.h"
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

struct form {
    const char *name; /* tcp: then `name!rest` */
    const char *url;  /* what begins the URL form, or NULL */
    const char *usage;
    enum addr_kind kind;
    /* `url`: the rest is in URL form. */
    int (*parse)(const char *text, const char *rest, bool url, struct addr *ret,
                 struct pl_err *err);
};

/* A decimal number that fills the whole string; false if it is not one or above max. */
static bool number(const char *s, unsigned long max, unsigned *ret)
{
    size_t n = strspn(s, "0123456789");
    if (n == 0 || n > 10 || s[n])
        return false;
    unsigned long v = strtoul(s, NULL, 10);
    if (v > max)
        return false;
    *ret = (unsigned)v;
    return true;
}

/* Cuts `rest` into host and port: HOST!PORT with the last `!`, or the URL's HOST:PORT with the last
 * colon outside brackets. Brackets come off. *port is "" when it was left out. */
static int split(const char *text, const char *rest, bool url, char *host, size_t hsize, char *port,
                 size_t psize, struct pl_err *err)
{
    size_t len = strlen(rest);
    if (url && len && rest[len - 1] == '/')
        len--; /* tcp://host:564/ */
    const char *end = rest + len, *hend = end, *p = end;
    if (*rest == '[') {
        const char *close = memchr(rest, ']', len);
        if (!close)
            return pl_fail(err, -EINVAL, "%s: a bracket without its end ([::1])", text);
        if (close + 1 < end && close[1] != (url ? ':' : '!'))
            return pl_fail(err, -EINVAL, "%s: text behind the bracket (want %s)", text,
                           url ? "tcp://[::1]:564" : "tcp!::1!564");
        p = close + 1 < end ? close + 2 : end;
        rest++;
        hend = close;
    } else {
        const char *sep = memrchr(rest, url ? ':' : '!', len);
        if (sep && url && memchr(rest, ':', (size_t)(sep - rest)))
            return pl_fail(err, -EINVAL, "%s: put the IPv6 address in brackets (tcp://[::1]:564)",
                           text);
        if (sep) {
            hend = sep;
            p = sep + 1;
        }
    }
    if (p == end && p > hend && p[-1] == (url ? ':' : '!'))
        return pl_fail(err, -EINVAL, "%s: no port behind the last %c (leave both out for %s)", text,
                       p[-1], ADDR_PORT);
    size_t hlen = (size_t)(hend - rest), plen = (size_t)(end - p);
    if (hlen == 0)
        return pl_fail(err, -EINVAL, "%s: no host (* listens everywhere)", text);
    if (hlen >= hsize)
        return pl_fail(err, -EINVAL, "%.100s...: the host name is too long", text);
    if (plen >= psize)
        return pl_fail(err, -EINVAL, "%s: bad port (want 1 to 65535)", text);
    memcpy(host, rest, hlen);
    host[hlen] = 0;
    memcpy(port, p, plen);
    port[plen] = 0;
    return 0;
}

static int parse_tcp(const char *text, const char *rest, bool url, struct addr *ret,
                     struct pl_err *err)
{
    int rc =
        split(text, rest, url, ret->host, sizeof(ret->host), ret->port, sizeof(ret->port), err);
    if (rc < 0)
        return rc;
    if (!*ret->port)
        strcpy(ret->port, ADDR_PORT);
    unsigned n;
    if (strspn(ret->port, "0123456789+-") == strlen(ret->port) && !number(ret->port, 65535, &n))
        return pl_fail(err, -EINVAL, "%s: bad port %s (want 1 to 65535)", text, ret->port);
    if (strpbrk(ret->host, "!/ \t\n"))
        return pl_fail(err, -EINVAL, "%s: bad host (want %.3s!HOST!PORT)", text, text);
    return 0;
}

/* HOST/PORT, as shells have it. */
static int parse_dev(const char *text, const char *rest, bool url, struct addr *ret,
                     struct pl_err *err)
{
    char same[sizeof(ret->host) + sizeof(ret->port)];
    const char *slash = strchr(rest, '/');
    if (!slash || slash == rest || !slash[1] || strpbrk(slash + 1, "/") ||
        strpbrk(rest, "! \t\n") || strlen(rest) >= sizeof(same))
        return pl_fail(err, -EINVAL, "%.200s: no host and port (want /dev/tcp/HOST/PORT)", text);
    strcpy(same, rest)[slash - rest] = '!';
    return parse_tcp(text, same, false, ret, err);
}

static int parse_unix(const char *text, const char *rest, bool url, struct addr *ret,
                      struct pl_err *err)
{
    size_t max = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
    if (url && strncmp(rest, "///", 3) == 0)
        rest += 2; /* unix:///run/x */
    if (!*rest)
        return pl_fail(err, -EINVAL, "%s: no path (want unix!PATH)", text);
    if (strlen(rest) > max)
        return pl_fail(
            err, -ENAMETOOLONG,
            "%.100s...: the path has %zu bytes and sockets take %zu (choose a shorter one, or "
            "cd there and give a relative one)",
            text, strlen(rest), max);
    ret->rest = rest;
    return 0;
}

static int parse_vsock(const char *text, const char *rest, bool url, struct addr *ret,
                       struct pl_err *err)
{
    int rc =
        split(text, rest, url, ret->host, sizeof(ret->host), ret->port, sizeof(ret->port), err);
    if (rc < 0)
        return rc;
    if (strcmp(ret->host, "*") == 0)
        ret->cid = VMADDR_CID_ANY;
    else if (strcmp(ret->host, "host") == 0)
        ret->cid = VMADDR_CID_HOST;
    else if (strcmp(ret->host, "local") == 0)
        ret->cid = VMADDR_CID_LOCAL;
    else if (!number(ret->host, 0xfffffffe, &ret->cid))
        return pl_fail(err, -EINVAL, "%s: bad CID %s (want a number, host, local or *)", text,
                       ret->host);
    if (!number(*ret->port ? ret->port : ADDR_PORT, 0xfffffffe, &ret->vport))
        return pl_fail(err, -EINVAL, "%s: bad port %s (want a number)", text, ret->port);
    return 0;
}

static int parse_exec(const char *text, const char *rest, bool url, struct addr *ret,
                      struct pl_err *err)
{
    if (rest[strspn(rest, " \t\n")] == 0)
        return pl_fail(err, -EINVAL, "%s: no command (want exec!COMMAND)", text);
    ret->rest = rest;
    return 0;
}

static int parse_fd(const char *text, const char *rest, bool url, struct addr *ret,
                    struct pl_err *err)
{
    char in[16] = "", out[16] = "";
    unsigned i, o;
    const char *comma = strchrnul(rest, ',');
    size_t n = (size_t)(comma - rest);
    if (n < sizeof(in))
        memcpy(in, rest, n);
    if (!*comma)
        memcpy(out, in, sizeof(out));
    else if (strlen(comma + 1) < sizeof(out))
        strcpy(out, comma + 1);
    if (!number(in, 0x7fffffff, &i) || !number(out, 0x7fffffff, &o))
        return pl_fail(err, -EINVAL, "%s: bad descriptors (want fd!IN,OUT, as fd!3,4)", text);
    ret->in = (int)i;
    ret->out = (int)o;
    return 0;
}

static int parse_stdio(const char *text, const char *rest, bool url, struct addr *ret,
                       struct pl_err *err)
{
    return *rest ? pl_fail(err, -EINVAL, "%s: stdio takes nothing behind it", text) : 0;
}

static const struct form forms[] = {
    {"tcp", "tcp://", "tcp!HOST!PORT", ADDR_TCP, parse_tcp},
    {"tls", "tls://", "tls!HOST!PORT", ADDR_TLS, parse_tcp},
    {"unix", "unix:", "unix!PATH", ADDR_UNIX, parse_unix},
    {"vsock", "vsock://", "vsock!CID!PORT", ADDR_VSOCK, parse_vsock},
    {"exec", "exec:", "exec!COMMAND", ADDR_EXEC, parse_exec},
    {"stdio", NULL, "stdio", ADDR_STDIO, parse_stdio},
    {"fd", "fd:", "fd!IN,OUT", ADDR_FD, parse_fd},
    {"tcp", "/dev/tcp/", NULL, ADDR_TCP, parse_dev},
};
#define NFORMS (sizeof(forms) / sizeof(*forms))
#define NSAID  (NFORMS - 1) /* those that errors name */

static const struct form *find(const char *text, const char **rest, bool *url)
{
    for (const struct form *f = forms; f < forms + NFORMS; f++) {
        size_t n = strlen(f->name);
        *url = false;
        *rest = text + n;
        if (f->kind == ADDR_STDIO) {
            if (strcmp(text, f->name) == 0)
                return f;
            continue;
        }
        if (strncmp(text, f->name, n) == 0 && text[n] == '!') {
            *rest = text + n + 1;
            return f;
        }
        n = strlen(f->url);
        if (strncmp(text, f->url, n) == 0) {
            *url = true;
            *rest = text + n;
            return f;
        }
    }
    return NULL;
}

bool chan_is_addr(const char *addr)
{
    const char *rest;
    bool url;
    return find(addr, &rest, &url) != NULL;
}

int addr_parse(const char *text, struct addr *ret, struct pl_err *err)
{
    const char *rest;
    bool url;
    memset(ret, 0, sizeof(*ret));
    ret->in = ret->out = -1;
    const struct form *f = find(text, &rest, &url);
    if (!f) {
        char list[160] = "";
        for (size_t i = 0; i < NSAID; i++)
            snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s",
                     i == 0          ? ""
                     : i + 1 < NSAID ? ", "
                                     : " or ",
                     forms[i].usage);
        return pl_fail(err, -EINVAL, "%.200s: not an address (want %s)", text, list);
    }
    ret->kind = f->kind;
    return f->parse(text, rest, url, ret, err);
}

int chan_check(const char *addr, struct pl_err *err)
{
    struct addr a;
    int rc = addr_parse(addr, &a, err);
    if (rc == 0 && a.kind == ADDR_TLS) /* it is about to be used, now or when another is away */
        keys_needed();
    return rc == -ENAMETOOLONG ? 0 : rc; /* well-formed, and will fail */
}

bool chan_again(const char *addr)
{
    struct addr a;
    if (addr_parse(addr, &a, NULL) < 0 || a.kind == ADDR_STDIO || a.kind == ADDR_FD)
        return false;
    return a.kind != ADDR_UNIX || *a.rest == '/';
}

bool chan_far(const char *addr)
{
    struct addr a;
    return addr_parse(addr, &a, NULL) == 0 && a.kind != ADDR_UNIX && a.kind != ADDR_EXEC &&
           a.kind != ADDR_STDIO && a.kind != ADDR_FD;
}
