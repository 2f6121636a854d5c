/* SPDX-License-Identifier: MIT */
/* The trace layer with a sink of one's own: for the trace ring of a running mount. */
#ifndef LAYERS_TRACE_H
#define LAYERS_TRACE_H

#include <plenum/tree.h>

struct trace_sink {
    bool (*active)(void *arg); /* is anybody listening? asked once an op; NULL: yes */
    void (*line)(void *arg, const char *line); /* one line without newline, safe for a terminal */
    void (*done)(void *arg);                   /* the tree is freed; may be NULL */
    void *arg;
};
struct pl_tree *trace_new_sink(const struct trace_sink *sink, struct pl_tree *lower);

#endif
