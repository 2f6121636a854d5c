/* SPDX-License-Identifier: MIT */
/* Keys of the mem source: run[8] ino[8], good as long as the tree. */
#include "sources/mem.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

int mem_key(struct pl_tree *tree, struct pl_call *call, struct pl_node *node,
            uint8_t key[PL_KEY_MAX])
{
    memcpy(key, &mem_of(tree)->run, 8);
    memcpy(key + 8, &node_of(node)->h.id.lo, 8);
    return 16;
}

/* Could the caller walk to the node from where he is? With mem.names held. */
static bool within_reach(struct mem *m, struct pl_call *call, struct node *n)
{
    struct node *from = call->beneath ? node_of(call->beneath) : m->root;
    while (n && n != from) {
        struct node *up = n->h.node.fmt == S_IFDIR ? n->parent : n->home;
        n = up != n && up && may(call, up, X_OK) == 0 ? up : NULL;
    }
    return n;
}

int mem_find(struct pl_tree *tree, struct pl_call *call, const uint8_t *key, size_t len,
             struct pl_node **ret, struct pl_attr *attr)
{
    struct mem *m = mem_of(tree);
    struct pl_id id = {0};
    if (len != 16 || memcmp(key, &m->run, 8))
        return -ESTALE;
    memcpy(&id.lo, key + 8, 8);
    struct pl_hnode *h = pl_nodes_get(m->nodes, id);
    if (!h)
        return -ESTALE;
    pthread_rwlock_rdlock(&m->names);
    bool found = call->own || within_reach(m, call, node_of(&h->node));
    pthread_rwlock_unlock(&m->names);
    if (!found) {
        pl_node_unref(&h->node);
        return -ESTALE;
    }
    *ret = &h->node;
    *attr = attr_of(node_of(&h->node));
    return 0;
}
