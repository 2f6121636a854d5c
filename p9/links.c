/* SPDX-License-Identifier: MIT */
/* The links of a process that is called, by their names. A name is what lets a channel in to a
 * session, so it cannot be guessed, and is not enough by itself: see chan.who. */
#include "p9/link_priv.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct p9_links {
    pthread_mutex_t lock; /* before conn->lock */
    struct link *all;
    unsigned max;
    int64_t linger;
};

struct p9_links *p9_links_new(int64_t linger_max, unsigned max)
{
    struct p9_links *links = calloc(1, sizeof(*links));
    if (!links)
        return NULL;
    pthread_mutex_init(&links->lock, NULL);
    links->max = max && max < LIMIT_LINKS ? max : LIMIT_LINKS;
    links->linger = linger_max;
    return links;
}

void p9_links_free(struct p9_links *links)
{
    if (!links)
        return;
    pthread_mutex_destroy(&links->lock);
    free(links);
}

int64_t links_linger(const struct p9_links *links)
{
    return links->linger;
}

int links_add(struct p9_links *links, struct link *l)
{
    uint8_t random[P9_LINK_ID / 2];
    char id[P9_LINK_ID + 1];
    if (getrandom(random, sizeof(random), 0) != sizeof(random))
        return -EIO;
    for (size_t i = 0; i < sizeof(random); i++)
        snprintf(id + 2 * i, 3, "%02x", random[i]);
    pthread_mutex_lock(&links->lock);
    int r = HASH_COUNT(links->all) < links->max ? 0 : -ENOSPC;
    if (r == 0) {
        memcpy(l->id, id, sizeof(id));
        l->links = links;
        HASH_ADD_STR(links->all, id, l);
    }
    pthread_mutex_unlock(&links->lock);
    return r;
}

void links_del(struct link *l)
{
    struct p9_links *links = l->links;
    if (!links)
        return;
    pthread_mutex_lock(&links->lock);
    HASH_DELETE(hh, links->all, l);
    pthread_mutex_unlock(&links->lock);
    l->links = NULL;
}

struct p9_conn *links_get(struct p9_links *links, const char *id, const char *who)
{
    struct link *l;
    struct p9_conn *c = NULL;
    pthread_mutex_lock(&links->lock);
    HASH_FIND_STR(links->all, id, l);
    if (l && !strcmp(l->conn->chan.who, who)) {
        c = l->conn;
        pthread_mutex_lock(&c->lock);
        use_enter(c);
        conn_unlock(c);
    }
    pthread_mutex_unlock(&links->lock);
    return c;
}

void links_put(struct p9_conn *c)
{
    pthread_mutex_lock(&c->lock);
    use_leave(c);
    conn_unlock(c);
}
