/* SPDX-License-Identifier: MIT */
/*
 * The trace layer: a line for each op as it ends:
 *
 *     12:00:01.234567 pid 4242 uid 1000 lookup dir 2 "notes" = 0
 *     12:00:01.234601 pid 4242 uid 1000 read node 17 off 0 len 4096 = 512
 *
 * Objects are named by a short hash of the node, stable for the life of the node.
 */
#include "layers/trace.h"
#include "base/text.h"
#include <errno.h>
#include <plenum/sources.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct trace_tree {
    struct pl_tree tree;
    struct trace_sink sink;
};

struct line {
    char text[2048];
    size_t len;
};

PL_PRINTF(2, 3) static void add(struct line *l, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(l->text + l->len, sizeof(l->text) - l->len, fmt, ap);
    va_end(ap);
    l->len += n > 0 ? (size_t)n : 0;
    if (l->len >= sizeof(l->text))
        l->len = sizeof(l->text) - 1;
}

static void add_node(struct line *l, const char *what, const struct pl_node *node)
{
    if (node)
        add(l, " %s %06x", what, (unsigned)((uintptr_t)node * 0x9e3779b97f4a7c15u >> 40));
}

static void add_name(struct line *l, const char *name)
{
    char safe[1100];
    if (name)
        add(l, " \"%s\"", text_escape(safe, sizeof(safe), name, PL_NAME_MAX + 1));
}

static void after(struct pl_tree *t, struct pl_call *c, const struct pl_event *ev, int64_t result)
{
    struct trace_tree *tr = (struct trace_tree *)t;
    struct line l = {.len = 0};
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &tm);
    l.len = strftime(l.text, sizeof(l.text), "%H:%M:%S", &tm);
    add(&l, ".%06ld pid %d uid %u %s", now.tv_nsec / 1000, (int)c->pid, c->cred.uid,
        pl_op_name(ev->op));
    add_node(&l, ev->node && S_ISDIR(ev->node->fmt) ? "dir" : "node", ev->node);
    add_name(&l, ev->name);
    add_node(&l, "to", ev->node2);
    add_name(&l, ev->name2);
    if (ev->off || ev->len)
        add(&l, " off %llu len %llu", (unsigned long long)ev->off, (unsigned long long)ev->len);
    if (ev->flags)
        add(&l, " flags %#x", ev->flags);
    if (result < 0)
        add(&l, " = %s (%s)", strerrorname_np((int)-result) ?: "?",
            strerrordesc_np((int)-result) ?: "?");
    else
        add(&l, " = %lld", (long long)result);
    tr->sink.line(tr->sink.arg, l.text);
}

static bool watching(struct pl_tree *t)
{
    struct trace_tree *tr = (struct trace_tree *)t;
    return !tr->sink.active || tr->sink.active(tr->sink.arg);
}

static void trace_done(struct pl_tree *t)
{
    struct trace_tree *tr = (struct trace_tree *)t;
    if (tr->sink.done)
        tr->sink.done(tr->sink.arg);
}

static const struct pl_ops trace_ops = {
    .name = "trace",
    .after = after,
    .watching = watching,
    .done = trace_done,
};

struct pl_tree *trace_new_sink(const struct trace_sink *sink, struct pl_tree *lower)
{
    struct trace_tree *l = lower ? calloc(1, sizeof(*l)) : NULL;
    if (!l) {
        pl_tree_unref(lower);
        return NULL;
    }
    pl_tree_init(&l->tree, &trace_ops, lower);
    l->sink = *sink;
    return &l->tree;
}

static void to_stream(void *arg, const char *line)
{
    fprintf(arg, "%s\n", line);
    fflush(arg);
}

struct pl_tree *pl_trace_new(FILE *out, struct pl_tree *lower)
{
    return trace_new_sink(&(struct trace_sink){.line = to_stream, .arg = out}, lower);
}
