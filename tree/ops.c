/* SPDX-License-Identifier: MIT */
/* The names and properties of the ops, from the table in plenum/tree.h. */
#include <plenum/tree.h>
#include <string.h>

static const struct {
    const char *name;
    int flags;
} table[PL_OP_COUNT] = {
#define X(name, flags) [PL_OP_##name] = {#name, flags},
    PL_OPS(X)
#undef X
};

const char *pl_op_name(enum pl_op op)
{
    return op < PL_OP_COUNT ? table[op].name : "?";
}

int pl_op_find(const char *name)
{
    for (int i = 0; i < PL_OP_COUNT; i++)
        if (!strcmp(table[i].name, name))
            return i;
    return -1;
}

bool pl_op_modifies(enum pl_op op)
{
    return op < PL_OP_COUNT && (table[op].flags & PL_OP_M);
}
