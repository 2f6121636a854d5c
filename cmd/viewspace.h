/* SPDX-License-Identifier: MIT */
/*
 * The space of a view: what its table says, and what --bind put into it, as bindings.
 *
 * Each outermost directory that is not the host's own has a *slot*, a number; in the space it is at
 * "/NUMBER". A slot keeps its number as long as the view lives, whatever else changes. What a
 * successor of the server must know is in memory that is shared by all of them (struct viewkept).
 *
 * Not locked: the caller's thread alone.
 */
#ifndef CMD_VIEWSPACE_H
#define CMD_VIEWSPACE_H

#include "cmd/spec.h"
#include "view/view.h"
#include <pthread.h>

enum {
    VIEW_SLOTS = 4096,    /* over the life of a view */
    VIEW_MADE = 4096,     /* directories made for tops that were not there */
    VIEW_TEXT = 16 << 20, /* bytes of a text form */
    VIEW_BINDS = 256,     /* --bind options */
};

struct viewkept {
    _Atomic uint32_t which; /* of the texts is valid */
    _Atomic uint32_t nslots, nmade;
    char text[2][VIEW_TEXT];
    char slot[VIEW_SLOTS][VIEW_PATH];
    char made[VIEW_MADE][VIEW_PATH];
};

/* --bind SPEC DIR. */
struct viewbind {
    char *dir;         /* absolute, clean */
    struct spec *spec; /* NULL: a file of the host, `sub` */
    char *sub;
    struct pl_tree *tree; /* while it is open */
};

struct viewserved;

struct viewspace {
    struct viewkept *kept;
    struct viewbind *binds;
    size_t nbinds;
    struct pl_tree *host, *space;
    struct pl_tree *tree; /* what doors serve: versions chosen in the space */
    struct view *view; /* what the space is made of; who reads it beside the caller's thread holds
                          the lock, under which it is replaced */
    pthread_mutex_t lock;
    _Atomic bool versions;     /* the view has some */
    struct viewserved *served; /* trees of directories on services, with their connections */
};

/* Have the services of `view` addresses that can be right? 0, or -EINVAL with a sentence. */
int viewspace_check(const struct view *view, struct pl_err *err);

/* Shared memory for a view. NULL with errno. */
struct viewkept *viewspace_keep(void);
/* `view` is the one that holds from now on, also for successors. -E2BIG. */
int viewspace_publish(struct viewkept *kept, const struct view *view);

/* Opens the trees and makes the space of the view that was published last. A negative errno with a
 * sentence; to be closed in any case. */
int viewspace_open(struct viewspace *s, const struct spec_watch *watch, struct pl_err *err);
void viewspace_close(struct viewspace *s);

/* The outermost directories of a view, NULL-terminated, one allocation (the strings are the view's
 * and the binds'). NULL: no memory. */
const char **viewspace_tops(const struct viewspace *s, const struct view *view);
/* The number of `top`'s slot, a new one if it has none; -E2BIG. */
int viewspace_slot(struct viewspace *s, const char *top);
/* Makes the space that of `view`: takes its own reference. The old one stays if that fails. */
int viewspace_set(struct viewspace *s, struct view *view, struct pl_err *err);

/* The tree of one outermost directory by itself, as the space of `view` has it; for doors that need
 * no slots. s->host and the binds' trees must be open. */
int viewspace_top(struct viewspace *s, struct view *view, const char *top, struct pl_tree **ret,
                  struct pl_err *err);

/* After all tops of a view were made so: services that it has no more are hung up. */
void viewspace_settle(struct viewspace *s);

/* A view_look_fn, of the host: what is beneath /proc is another thing for each process, and left.
 */
int viewspace_look(void *arg, char path[VIEW_PATH]);

/* Makes what is missing of the directory `top` on the host, if anything is, noted so that
 * viewspace_clear() can remove it. -errno with a sentence. */
int viewspace_make(struct viewkept *kept, const char *top, struct pl_err *err);
/* Removes what was made, as far as it is empty. */
void viewspace_clear(struct viewkept *kept);

/* The physical path of `path` (absolute, clean), into PATH_MAX bytes: of a file of another tree
 * than the host's "SPEC:/path". -ENOENT and others, with a sentence. */
int viewspace_where(struct viewspace *s, const char *path, char *ret, struct pl_err *err);
/* The same in `view`, which need not be that of the space (there need be none). */
int viewspace_where_in(struct viewspace *s, struct view *view, const char *path, char *ret,
                       struct pl_err *err);

#endif
