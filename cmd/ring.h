/* SPDX-License-Identifier: MIT */
/* The trace ring of a running mount (keeper/registry.h): its writing end is a layer that sleeps
 * until somebody runs `plenum trace`. */
#ifndef CMD_RING_H
#define CMD_RING_H

#include "keeper/registry.h"
#include <plenum/tree.h>

struct ring {
    struct reg_page *page;
};
/* `page` outlives the tree. */
void ring_init(struct ring *ring, struct reg_page *page);
/* The layer; takes over `lower`; NULL: no memory. `ring` outlives it. */
struct pl_tree *ring_over(struct ring *ring, struct pl_tree *lower);

#endif
