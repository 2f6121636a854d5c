/* SPDX-License-Identifier: MIT */
/*
 * A lost link takes the mounts that stand on it away.
 *
 * The engine tells of the loss in one of its threads, which must not wait; the FUSE connections
 * are aborted in a thread of its own. Each serve loop then ends, and its result is the loss's
 * sentence, with which the keeper takes the mounts away and ends.
 */
#ifndef CMD_LOSS_H
#define CMD_LOSS_H

#include <plenum/error.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

struct loss_mount {
    const char *dir;
    dev_t dev; /* of the FUSE mount; 0 while it is not served */
};

struct loss {
    pthread_mutex_t lock; /* guards all below */
    struct loss_mount *mounts;
    size_t n;
    bool lost, ending, thread_up;
    char sentence[400];
    pthread_t thread;
};
int loss_init(struct loss *l, size_t n);
/* The link is lost (ignored when we are ending anyway). Any thread; does not wait. */
void loss_tell(struct loss *l, const char *sentence);
/* Mount i, device `dev` at `dir` (absolute, outlives it), is served now, and no more: begin returns
 * the loss if it has happened; end turns the serve loop's result into the loss's if there was one.
 */
int loss_begin(struct loss *l, size_t i, const char *dir, dev_t dev, struct pl_err *err);
int loss_end(struct loss *l, size_t i, int result, struct pl_err *err);
/* From here on the link's end is no loss. */
void loss_ending(struct loss *l);
/* 0, or the loss with its sentence; joins the thread. After it only free is left. */
int loss_result(struct loss *l, struct pl_err *err);
void loss_done(struct loss *l);

#endif
