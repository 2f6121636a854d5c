/* SPDX-License-Identifier: MIT */
/*
 * The packed form of a view: one piece of memory without pointers, for a sealed memory file that a
 * process inherits and reads where it is mapped. Finding in it allocates nothing, calls nothing of
 * libc but memcmp and strlen, and is safe in a signal handler.
 *
 * All numbers are uint32_t of this machine, 4-byte aligned:
 *     magic, version, size, options, common, ntops, nwords;
 *     ntops times: path, length, dirs (index of the first in words), n, flags, parent;
 *     nwords times: a string; then the strings, each with a NUL. A string is an offset from the
 * start. `parent` is the nearest top above plus one, 0: none. `common` is how many bytes all tops
 * begin with.
 */
#ifndef VIEW_PACK_H
#define VIEW_PACK_H

#include "view/view.h"

enum view_pack_option {
    VIEW_PACK_TRACE = 1 << 0,
    VIEW_PACK_CLASSIC = 1 << 1,
    VIEW_PACK_VERSIONS = 1 << 2, /* there are vmaps: a path that is one is not for here */
    VIEW_PACK_DEBUG = 8,         /* the level, in the bits from this one on */
};

enum view_pack_flag {
    VIEW_PACK_ASK = 1 << 0, /* not for here: a service is on it, or it is of another tree */
};

struct view_pack {
    const uint32_t *at; /* NULL: none */
    uint32_t size;
};

/* A path that the view has: what it may be, in order. */
struct view_found {
    uint32_t flags; /* of all tops that it is in */
    uint32_t n;     /* where to look: at dirs[i] followed by rest[i] ("", "/...") */
    const char *dirs[PL_SPACE_STACK]; /* the first is the path as it was given */
    const char *rest[PL_SPACE_STACK]; /* end with the path */
};

/* Packs `view`; `foreign` are `nforeign` clean paths more that get VIEW_PACK_ASK (what is bound
 * from other trees). To be freed. -ENOMEM, -E2BIG (over 16 MiB). */
int view_pack(const struct view *view, const char *const *foreign, size_t nforeign, void **ret,
              size_t *ret_size);

/* Is `mem` (4-byte aligned) a packed view? All of it is checked; what cannot change afterwards is
 * safe to read by the functions below. -EINVAL. */
int view_pack_open(const void *mem, size_t size, struct view_pack *ret);

/* What `path` (absolute, clean) is in the view. False: it is in no top, and is native. */
bool view_pack_find(const struct view_pack *pack, const char *path, struct view_found *ret);

uint32_t view_pack_options(const struct view_pack *pack);
/* Top number i's path, or NULL at the end. */
const char *view_pack_top(const struct view_pack *pack, uint32_t i);

#endif
