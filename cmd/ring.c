/* SPDX-License-Identifier: MIT */
#include "cmd/ring.h"
#include "layers/trace.h"

void ring_init(struct ring *ring, struct reg_page *page)
{
    ring->page = page;
}

static bool active(void *arg)
{
    struct ring *ring = arg;
    return reg_traced(ring->page);
}

static void line(void *arg, const char *text)
{
    struct ring *ring = arg;
    reg_trace(ring->page, "%s", text);
}

struct pl_tree *ring_over(struct ring *ring, struct pl_tree *lower)
{
    return trace_new_sink(&(struct trace_sink){.active = active, .line = line, .arg = ring}, lower);
}
