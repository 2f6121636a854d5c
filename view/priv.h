/* SPDX-License-Identifier: MIT */
/* Between the files of view/. */
#ifndef VIEW_PRIV_H
#define VIEW_PRIV_H

#include "view/view.h"

/* A copy that may still be changed, without tops. NULL: no memory. */
struct view *view_copy(const struct view *from);

/* Follows the chains: makes view->tops. -ELOOP, -E2BIG, -ENOMEM, with a sentence. */
int view_flatten(struct view *view, struct pl_err *err);

/* The top whose path is `path`, or NULL. */
const struct view_top *view_top(const struct view *view, const char *path);

/* `array` of *n elements of `size` bytes with one more, zeroed, at the end: its address, or NULL.
 */
void *view_grow(void *array_of, size_t *n, size_t size);

#endif
