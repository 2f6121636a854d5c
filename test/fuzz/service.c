/* SPDX-License-Identifier: MIT */
/* The decoder of services' messages, both directions: what it takes is inside the input, and comes
 * out of the encoder and in again as the same. */
#include "layers/service_wire.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(const char *buf, size_t n, const char *s)
{
    if (s && *s && (s < buf || s >= buf + n || !memchr(s, 0, (size_t)(buf + n - s))))
        abort();
}

static bool same(const char *a, const char *b)
{
    return !strcmp(a ? a : "", b ? b : "");
}

static void round_trip(const struct service_msg *m)
{
    struct service_msg again;
    size_t n;
    if (m->kind == SERVICE_EVENT && m->op < 0)
        return; /* a name of a later version */
    char *text = service_encode(m, &n);
    if (service_decode(text, n, &again) != (ssize_t)n)
        abort();
    if (again.kind != m->kind || again.seq != m->seq || again.result != m->result ||
        again.op != m->op || again.want != m->want || again.off != m->off || again.len != m->len ||
        again.ino != m->ino || again.pid != m->pid || again.uid != m->uid || again.gid != m->gid ||
        again.flags != m->flags || again.session != m->session || again.keeps != m->keeps ||
        again.npids != m->npids || again.ndata != m->ndata || !same(again.service, m->service) ||
        !same(again.path, m->path) || !same(again.path2, m->path2) || !same(again.name, m->name) ||
        (m->ndata && memcmp(again.data, m->data, m->ndata) != 0))
        abort();
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct service_msg m;
    char *buf = malloc(size ? size : 1);
    size_t at = 0;
    memcpy(buf, data, size);
    while (at < size) {
        ssize_t n = service_decode(buf + at, size - at, &m);
        if (n <= 0)
            break;
        if ((size_t)n > size - at)
            abort();
        inside(buf + at, (size_t)n, m.path);
        inside(buf + at, (size_t)n, m.path2);
        inside(buf + at, (size_t)n, m.name);
        if (m.ndata &&
            ((const char *)m.data < buf + at || (const char *)m.data + m.ndata > buf + at + n))
            abort();
        /* escapes make lines longer: of those that were near the limit nothing is said */
        if (n < SERVICE_LINE_MAX / 4)
            round_trip(&m);
        at += (size_t)n;
    }
    free(buf);
    return 0;
}
