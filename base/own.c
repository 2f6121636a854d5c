/* SPDX-License-Identifier: MIT */
/* `mutex` guards all; a process serves a handful of mounts, so a list will do. */
#include "base/own.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct entry {
    struct entry *next;
    dev_t dev;
} * head;

int own_mount_add(dev_t dev)
{
    struct entry *e = malloc(sizeof(*e));
    if (!e)
        return -ENOMEM;
    e->dev = dev;
    pthread_mutex_lock(&mutex);
    e->next = head;
    head = e;
    pthread_mutex_unlock(&mutex);
    return 0;
}

void own_mount_del(dev_t dev)
{
    struct entry *gone = NULL;
    pthread_mutex_lock(&mutex);
    for (struct entry **p = &head; *p; p = &(*p)->next) {
        if ((*p)->dev == dev) {
            gone = *p;
            *p = gone->next;
            break;
        }
    }
    pthread_mutex_unlock(&mutex);
    free(gone);
}

bool own_mount_has(dev_t dev)
{
    bool has = false;
    pthread_mutex_lock(&mutex);
    for (struct entry *e = head; e && !has; e = e->next)
        has = e->dev == dev;
    pthread_mutex_unlock(&mutex);
    return has;
}
