/* SPDX-License-Identifier: MIT */
#include "cmd/ring.h"
#include "layers/trace.h"

void ring_init(struct ring *ring)
{
    atomic_init(&ring->page, NULL);
}

void ring_attach(struct ring *ring, struct reg_page *page)
{
    atomic_store_explicit(&ring->page, page, memory_order_release);
}

static bool active(void *arg)
{
    struct ring *ring = arg;
    struct reg_page *page = atomic_load_explicit(&ring->page, memory_order_acquire);
    return page && reg_traced(page);
}

static void line(void *arg, const char *text)
{
    struct ring *ring = arg;
    reg_trace(atomic_load_explicit(&ring->page, memory_order_acquire), "%s", text);
}

struct pl_tree *ring_over(struct ring *ring, struct pl_tree *lower)
{
    return trace_new_sink(&(struct trace_sink){.active = active, .line = line, .arg = ring}, lower);
}
