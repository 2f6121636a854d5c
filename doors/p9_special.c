/* SPDX-License-Identifier: MIT */
/*
 * Files that are append-only or of exclusive use: Plan 9's file servers keep that with the file,
 * Linux's file systems cannot. So the door remembers it, for all its clients of the older dialects,
 * until it ends: mail boxes and lock files made so work among them as they do there.
 *
 * door->mutex guards the table. A file in it has its node kept, which is one for each object.
 */
#include "doors/p9_door.h"
#include <errno.h>
#include <stdlib.h>
#include <uthash.h>

struct p9d_special {
    UT_hash_handle hh;
    struct pl_node *node;
    uint32_t dm;
    unsigned opens;
};

static struct p9d_special *find(struct p9_door *door, struct pl_node *node)
{
    struct p9d_special *s;
    HASH_FIND_PTR(door->special, &node, s);
    return s;
}

uint32_t p9d_special(struct p9_door *door, struct pl_node *node)
{
    pthread_mutex_lock(&door->mutex);
    struct p9d_special *s = find(door, node);
    uint32_t dm = s ? s->dm : 0;
    pthread_mutex_unlock(&door->mutex);
    return dm;
}

/* With the lock: takes it out if it is not worth remembering any more. */
static struct p9d_special *drop(struct p9_door *door, struct p9d_special *s)
{
    if (!s || s->dm || s->opens)
        return NULL;
    HASH_DEL(door->special, s);
    return s;
}

static void dropped(struct p9d_special *s)
{
    if (s)
        pl_node_unref(s->node);
    free(s);
}

int p9d_special_set(struct p9_door *door, struct pl_node *node, uint32_t dm)
{
    int r = 0;
    struct p9d_special *add = dm ? calloc(1, sizeof(*add)) : NULL, *old = NULL;
    pthread_mutex_lock(&door->mutex);
    struct p9d_special *s = find(door, node);
    if (s) {
        s->dm = dm;
        old = drop(door, s);
    } else if (dm && !add) {
        r = -ENOMEM;
    } else if (dm && HASH_COUNT(door->special) >= LIMIT_SPECIAL) {
        r = -ENOSPC;
    } else if (dm) {
        add->node = pl_node_ref(node);
        add->dm = dm;
        HASH_ADD_PTR(door->special, node, add);
        add = NULL;
    }
    pthread_mutex_unlock(&door->mutex);
    free(add);
    dropped(old);
    return r;
}

int p9d_special_open(struct p9d_fid *fid)
{
    struct p9_door *door = fid->session->door;
    int r = 0;
    pthread_mutex_lock(&door->mutex);
    struct p9d_special *s = find(door, fid->node);
    if (s && (s->dm & P9_DMEXCL) && s->opens)
        r = -EAGAIN;
    if (s && r == 0) {
        s->opens++;
        fid->special = true;
    }
    pthread_mutex_unlock(&door->mutex);
    return r;
}

void p9d_special_close(struct p9d_fid *fid)
{
    struct p9_door *door = fid->session->door;
    pthread_mutex_lock(&door->mutex);
    struct p9d_special *s = find(door, fid->node);
    if (s && s->opens)
        s->opens--;
    s = drop(door, s);
    fid->special = false;
    pthread_mutex_unlock(&door->mutex);
    dropped(s);
}

void p9d_special_free(struct p9_door *door)
{
    struct p9d_special *s, *next;
    HASH_ITER (hh, door->special, s, next) {
        HASH_DEL(door->special, s);
        dropped(s);
    }
}
