/* SPDX-License-Identifier: MIT */
/*
 * Names: the table of one directory. Finds by name in constant time, and gives each entry a
 * position for readdir that stays its own while others come and go: positions grow and are never
 * used twice, so who goes on from `pos + 1` meets each entry that stays exactly once.
 * Not locked. A zeroed struct is empty.
 */
#ifndef BASE_NAMES_H
#define BASE_NAMES_H

#include <stddef.h>
#include <stdint.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

struct name {
    void *value;
    uint64_t pos;
    UT_hash_handle hh;
    char text[];
};

struct name_slot;

struct names {
    struct name *hash;
    struct name_slot *slots; /* sorted by position; removed ones are squeezed out now and then */
    size_t first, nslots, room;
    uint64_t next; /* the last position given */
};

struct name *names_find(const struct names *t, const char *text);
/* `text` must not be there. NULL: out of memory. */
struct name *names_add(struct names *t, const char *text, void *value);
void names_del(struct names *t, struct name *name);
/* The entry with the least position >= pos, or NULL. Positions start at 1. */
struct name *names_from(const struct names *t, uint64_t pos);
size_t names_count(const struct names *t);

#endif
