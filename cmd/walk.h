/* SPDX-License-Identifier: MIT */
/* A tree used from within the program, and paths in it: what ls, cat, get and the like share. */
#ifndef CMD_WALK_H
#define CMD_WALK_H

#include "cmd/cmd.h"
#include <plenum/tree.h>
#include <pthread.h>

struct walk {
    const struct cmd *cmd;
    struct pl_tree *tree;
    struct pl_node *root;
    struct pl_call call; /* of the main thread */
    unsigned depth;      /* of walk_down */
    bool failed;         /* something went wrong and has been told; the rest went on */
};

/* Opens the SPEC: EXIT_OK, or the exit status with the sentence printed. From here on SIGINT and
 * SIGTERM cancel what is under way; a second one ends the program at once. */
int walk_open(struct walk *w, const struct cmd *cmd, const char *spec);
/* The same around a tree that is there; takes over the reference. */
int walk_start(struct walk *w, const struct cmd *cmd, struct pl_tree *tree);
/* Releases; the exit status: EXIT_FAILED if something failed. */
int walk_close(struct walk *w);
/* True when a signal asked for an end. */
bool walk_interrupted(void);
/* Calls of further threads are cancelled too between these. */
void walk_call_begin(struct pl_call *call);
void walk_call_end(struct pl_call *call);

/* The node at `path` beneath the root ("", "/" and "." the root; ".." never leads out). Symlinks on
 * the way are followed within the tree; the last one if `follow`. */
int walk_path(struct walk *w, const char *path, bool follow, struct pl_node **ret,
              struct pl_attr *attr);
/* The directory of the last name, and that name (a pointer into `path`, of *len bytes). -EINVAL for
 * a path without a last name ("/", "a/.."). */
int walk_parent(struct walk *w, const char *path, struct pl_node **ret, char name[256]);

/* The names in a directory without "." and "..": a packed list. */
struct walk_entry {
    char *name;
    uint32_t type; /* DT_* */
    uint64_t ino;
};
struct walk_list {
    struct walk_entry *v;
    size_t n, room;
};
int walk_list(struct walk *w, struct pl_node *dir, struct walk_list *ret);
/* Around what goes down into a directory by recursion: false, having said so, if it is too deep
 * (the stack is finite, and a peer's tree need not be). */
bool walk_down(struct walk *w, const char *path);
void walk_up(struct walk *w);
void walk_list_sort(struct walk_list *list);
void walk_list_free(struct walk_list *list);

/* "plenum: CMD: PATH: what the errno says", and remembers that something failed. */
void walk_fail(struct walk *w, const char *path, int error);
/* The same with a sentence of our own. */
void walk_say(struct walk *w, const char *path, const char *sentence);
/* a/b joined; to be freed. Ends the program when out of memory. */
char *walk_join(const char *dir, const char *name);

/* A name as it may be printed: raw unless standard output is a terminal. `buf` of 1100 bytes. */
const char *walk_show(char *buf, size_t size, const char *name);

#endif
