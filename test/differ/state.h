/* SPDX-License-Identifier: MIT */
/* States of files as texts that two file systems agree on. */
#ifndef DIFFER_STATE_H
#define DIFFER_STATE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

struct out {
    char *text;
    uint32_t n, size;
};
__attribute__((format(printf, 2, 3))) void put(struct out *o, const char *fmt, ...);

/* What of directories can be compared: their sizes are the file system's own affair, and how many
 * directories are in one is not known where it is merged. */
enum dirs { DIRS_ALL, DIRS_LINKS, DIRS_NEITHER };

struct state {
    bool asked;
    int error;
    struct statx sx;
};
/* `now`: from the file system itself, so that its next change gets a time of its own. */
void state_get(struct state *s, int at, const char *path, int flags, bool now);
void put_state(struct out *o, const struct state *s, const struct state *before, bool atime,
               enum dirs dirs);
void put_names(struct out *o, int dir);                        /* what getdents gives */
void put_sorted(struct out *o, const char *names, size_t n);   /* each ended by NUL */
void put_tree(struct out *o, const char *dir, enum dirs dirs); /* all there is */
void parent_of(const char *path, char *ret);
uint32_t hash(const void *p, size_t n);
size_t acl_value(uint32_t which, unsigned char *buf);

#endif
