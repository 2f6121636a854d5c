/* SPDX-License-Identifier: MIT */
#include "cmd/ring.h"
#include "layers/trace.h"
#include <string.h>
#include <time.h>

void ring_init(struct ring *ring)
{
    pthread_mutex_init(&ring->lock, NULL);
    atomic_init(&ring->page, NULL);
}

void ring_attach(struct ring *ring, struct reg_page *page)
{
    atomic_store(&ring->page, page);
}

static bool active(void *arg)
{
    struct ring *ring = arg;
    struct reg_page *page = atomic_load_explicit(&ring->page, memory_order_acquire);
    int64_t until = page ? atomic_load_explicit(&page->trace_until, memory_order_relaxed) : 0;
    if (!until)
        return false;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec < until;
}

/* The head moves after the bytes are there, so that a reader never sees half a line. */
static void line(void *arg, const char *text)
{
    struct ring *ring = arg;
    struct reg_page *page = atomic_load(&ring->page);
    size_t n = strlen(text);
    if (n + 1 >= REG_TRACE_SIZE)
        return;
    pthread_mutex_lock(&ring->lock);
    uint64_t head = atomic_load_explicit(&page->trace_head, memory_order_relaxed);
    for (size_t i = 0; i <= n; i++)
        page->trace[(head + i) % REG_TRACE_SIZE] = i < n ? text[i] : '\n';
    atomic_store_explicit(&page->trace_head, head + n + 1, memory_order_release);
    pthread_mutex_unlock(&ring->lock);
}

struct pl_tree *ring_over(struct ring *ring, struct pl_tree *lower)
{
    return trace_new_sink(&(struct trace_sink){.active = active, .line = line, .arg = ring}, lower);
}
