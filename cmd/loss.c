/* SPDX-License-Identifier: MIT */
#include "cmd/loss.h"
#include "base/log.h"
#include "keeper/mount.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int loss_init(struct loss *l, size_t n)
{
    *l = (struct loss){.n = n};
    pthread_mutex_init(&l->lock, NULL);
    l->mounts = calloc(n ? n : 1, sizeof(*l->mounts));
    return l->mounts ? 0 : -ENOMEM;
}

static void *abort_all(void *arg)
{
    struct loss *l = arg;
    pthread_mutex_lock(&l->lock);
    for (size_t i = 0; i < l->n; i++)
        if (l->mounts[i].dev && mount_abort(l->mounts[i].dev) < 0 &&
            mount_end_dev(l->mounts[i].dir, l->mounts[i].dev, true, NULL) < 0) {
            /* Not permitted here: the keeper takes them away when this process ends. */
            log_say(true, "plenum: %s", l->sentence);
            _exit(1);
        }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

void loss_tell(struct loss *l, const char *sentence)
{
    pthread_mutex_lock(&l->lock);
    if (!l->lost && !l->ending) {
        l->lost = true;
        snprintf(l->sentence, sizeof(l->sentence), "%s", sentence);
        /* Without a thread the keeper is left: it sees this process fail. */
        l->thread_up = l->n && pthread_create(&l->thread, NULL, abort_all, l) == 0;
        if (l->n && !l->thread_up)
            abort();
    }
    pthread_mutex_unlock(&l->lock);
}

static int told(struct loss *l, struct pl_err *err)
{
    return pl_fail(err, -ECONNABORTED, "%s", l->sentence);
}

int loss_begin(struct loss *l, size_t i, const char *dir, dev_t dev, struct pl_err *err)
{
    int r = 0;
    pthread_mutex_lock(&l->lock);
    if (l->lost)
        r = told(l, err);
    else
        l->mounts[i] = (struct loss_mount){.dir = dir, .dev = dev};
    pthread_mutex_unlock(&l->lock);
    return r;
}

int loss_end(struct loss *l, size_t i, int result, struct pl_err *err)
{
    pthread_mutex_lock(&l->lock);
    l->mounts[i].dev = 0;
    if (l->lost)
        result = told(l, err);
    pthread_mutex_unlock(&l->lock);
    return result;
}

void loss_ending(struct loss *l)
{
    pthread_mutex_lock(&l->lock);
    l->ending = true;
    pthread_mutex_unlock(&l->lock);
}

int loss_result(struct loss *l, struct pl_err *err)
{
    pthread_mutex_lock(&l->lock);
    l->ending = true;
    bool up = l->thread_up;
    l->thread_up = false;
    pthread_mutex_unlock(&l->lock);
    if (up)
        pthread_join(l->thread, NULL);
    return l->lost ? told(l, err) : 0;
}

void loss_done(struct loss *l)
{
    free(l->mounts);
    pthread_mutex_destroy(&l->lock);
}
