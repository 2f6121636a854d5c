/* SPDX-License-Identifier: MIT */
#include "base/names.h"
#include <stdlib.h>
#include <string.h>

struct name_slot {
    uint64_t pos;
    struct name *name; /* NULL: removed */
};

/* The first slot whose position is >= pos. */
static size_t lower(const struct names *t, uint64_t pos)
{
    size_t lo = t->first, hi = t->nslots;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (t->slots[mid].pos < pos)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct name *names_find(const struct names *t, const char *text)
{
    struct name *name;
    HASH_FIND_STR(t->hash, text, name);
    return name;
}

struct name *names_add(struct names *t, const char *text, void *value)
{
    size_t len = strlen(text);
    if (t->nslots == t->room) {
        size_t room = t->room ? t->room * 2 : 8;
        struct name_slot *slots = realloc(t->slots, room * sizeof(*slots));
        if (!slots)
            return NULL;
        t->slots = slots;
        t->room = room;
    }
    struct name *name = malloc(sizeof(*name) + len + 1);
    if (!name)
        return NULL;
    memcpy(name->text, text, len + 1);
    name->value = value;
    HASH_ADD_KEYPTR(hh, t->hash, name->text, len, name);
    if (!name->hh.tbl) {
        free(name);
        return NULL;
    }
    name->pos = ++t->next;
    t->slots[t->nslots++] = (struct name_slot){name->pos, name};
    return name;
}

void names_del(struct names *t, struct name *name)
{
    t->slots[lower(t, name->pos)].name = NULL;
    HASH_DEL(t->hash, name);
    free(name);
    while (t->first < t->nslots && !t->slots[t->first].name)
        t->first++;
    size_t live = names_count(t), kept = 0;
    if (live == 0) {
        free(t->slots);
        t->slots = NULL;
        t->nslots = t->room = t->first = 0;
    } else if (t->nslots > 2 * live + 8) {
        for (size_t i = t->first; i < t->nslots; i++)
            if (t->slots[i].name)
                t->slots[kept++] = t->slots[i];
        t->nslots = kept;
        t->first = 0;
    }
}

struct name *names_from(const struct names *t, uint64_t pos)
{
    for (size_t i = lower(t, pos); i < t->nslots; i++)
        if (t->slots[i].name)
            return t->slots[i].name;
    return NULL;
}

size_t names_count(const struct names *t)
{
    return HASH_COUNT(t->hash);
}
