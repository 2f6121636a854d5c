/* SPDX-License-Identifier: MIT */
/*
 * Inside the link (p9/link.h is its manual).
 *
 *   frame.c      what is on the wire: heads of frames, and the messages that agree on a link
 *   kept.c       the bytes that were sent and are not acknowledged
 *   link.c       reading and writing through a link that is up, or not agreed on yet
 *   link_down.c  breaking, dialing again, coming back; the end of a link
 *   links.c      the links of a process that is called, by their names
 *   link_time.c  what happens when nothing happens: keepalive, acknowledging, giving up
 *
 * Locks. link->lock guards all of struct link but what is said to be the reader's or the writer's;
 * it comes after conn->lock, and is never held during I/O. `inside` counts the threads that use the
 * channel: it is closed when the link is down and nobody is inside, and another is put in its place
 * with both locks held. links->lock comes before conn->lock.
 *
 * Who finds out that the channel is broken cuts it, so that all who are inside come out, and leaves
 * the rest to a worker (link_task), who is the only one at a time. The engine is told by
 * conn->down, under conn->lock: then there is no reader and no writer until it is up again.
 */
#ifndef P9_LINK_PRIV_H
#define P9_LINK_PRIV_H

#include "p9/priv.h"

/* ---- frame.c ---- */

#define FRAME_HEAD 12
#define FRAME_MAX  524288 /* we send no larger one, so that what is asked is soon answered */
_Static_assert(FRAME_MAX <= LIMIT_LINK_FRAME, "what we send is what we take");
enum frame_kind { FRAME_DATA, FRAME_ACK, FRAME_PING, FRAME_BYE };
struct frame {
    enum frame_kind kind;
    uint32_t size;
    uint64_t acked;
};
void frame_encode(const struct frame *f, uint8_t head[FRAME_HEAD]);
/* -EPROTO when it makes no sense. */
int frame_decode(const uint8_t head[FRAME_HEAD], struct frame *ret);

#define AGREE_MAX 128 /* bytes of a message */
enum agree_kind { AGREE_NO /* something else */, AGREE_NEW, AGREE_LINK, AGREE_GONE };
struct agree {
    enum agree_kind kind;
    char id[P9_LINK_ID + 1];
    uint64_t taken, linger; /* linger in s; UINT64_MAX: not said */
};
/* A whole message of `size` bytes, T or R. Never fails: what it is not is AGREE_NO. */
void agree_decode(const uint8_t *msg, size_t size, struct agree *ret);
/* Its size. */
size_t agree_encode(const struct agree *a, uint8_t type, uint32_t msize, uint8_t buf[AGREE_MAX]);

/* ---- kept.c ---- */

struct piece {
    struct piece *next;
    uint64_t at; /* where in the stream it begins */
    uint32_t used;
    uint8_t data[];
};
struct kept {
    struct piece *first, *last, *hint;
    uint64_t start, end; /* of the stream */
};
/* Copies at most `max` bytes behind the end, from `skip` on; less when there is no memory. */
size_t kept_add(struct kept *k, struct p9_crew *crew, const struct iovec *iov, int n, size_t skip,
                size_t max);
/* Where `len` bytes from `from` on are, all or as many as `max` parts hold: their number. */
int kept_find(struct kept *k, uint64_t from, size_t len, struct iovec *iov, int max);
/* What is before `to` is not needed any more. One piece stays. */
void kept_drop(struct kept *k, struct p9_crew *crew, uint64_t to);
/* Frees what holds nothing. */
void kept_trim(struct kept *k, struct p9_crew *crew);
void kept_free(struct kept *k, struct p9_crew *crew);

/* ---- link.c ---- */

enum link_state {
    LINK_PLAIN,   /* there is none: 9P goes over the bare channel */
    LINK_ASKS,    /* we dialed, and have asked */
    LINK_LISTENS, /* we were called; the first message decides */
    LINK_MOVES,   /* it was that of a link which comes back: the channel goes to it */
    LINK_UP,
    LINK_DOWN,
    LINK_OVER,
};

struct link {
    struct p9_conn *conn;
    pthread_mutex_t lock;
    _Atomic enum link_state state; /* changed with the lock held */
    bool dialed;
    bool open;       /* conn->wire has a channel that is not closed */
    unsigned inside; /* threads that use it */
    char why[160];   /* it broke */
    char last[160];  /* why it is not up again yet; the thread's */
    int64_t linger;  /* as agreed */

    /* out: all but `kept` is the writer's while it is inside */
    struct kept kept;
    uint64_t acked; /* the other end has taken in; kept.start follows as soon as it is sent */
    uint64_t sent;  /* of what is kept, over this channel */
    uint64_t tried; /* no channel was ever given more: the other end cannot have taken it */
    uint64_t told;  /* what we have said that we took in */
    uint8_t head[AGREE_MAX];
    uint32_t head_at, head_len; /* of what goes out before more of a frame */
    uint32_t frame_left;        /* of the frame that is being written */
    bool writes;                /* the writer is inside */
    bool stalled;               /* it waits for an acknowledgement */
    bool ack, pong, ping;       /* to be said */

    /* in: the reader's */
    uint8_t *in;
    uint32_t in_at, in_end;
    uint32_t in_left; /* of the frame that is being read */
    uint64_t taken;   /* with the lock held */
    bool bye;         /* goodbye was said */

    /* time (link_time.c) */
    int64_t heard, asked, hello_at; /* asked 0: the far end was not asked since it was heard */
    atomic_bool stirred;            /* a look is due soon */
    bool moved, half;               /* something moved since the last one; half a message came */
    bool any;                       /* a frame has come: the other end knows of the link */

    /* down; these with conn->lock held */
    int64_t backoff; /* ns */
    int cancel;      /* of redial; -1: it does not run */
    bool thread, stepping, again;
    bool told_down; /* opts->changed was */
    bool has_next;  /* a channel that came for it */
    struct chan next;
    uint64_t next_taken;

    /* in the links of its process, guarded by their lock */
    struct p9_links *links;
    UT_hash_handle hh;
    char id[P9_LINK_ID + 1]; /* set before conn->linked is */
};

/* With the lock held: the channel is of no use any more. */
void link_broke(struct link *l, const char *fmt, ...) PL_PRINTF(2, 3);
/* One goes in, without the lock from then on, and comes out with it. */
void link_enter(struct link *l);
void link_leave(struct link *l);
/* Forgets what was under way over the last channel. With the lock held, nobody inside. */
void link_reset(struct link *l);
void link_acked(struct link *l);
static inline uint64_t link_seconds(int64_t ns)
{
    return (uint64_t)(ns + 999999999) / 1000000000;
}

/* ---- links.c ---- */

/* Enters it under a new name: -ENOSPC when there are too many. */
int links_add(struct p9_links *links, struct link *l);
void links_del(struct link *l);
/* The connection of that link, if it was made by the same `who`; it does not go away before
 * links_put. */
struct p9_conn *links_get(struct p9_links *links, const char *id, const char *who);
void links_put(struct p9_conn *c);
int64_t links_linger(const struct p9_links *links);

/* ---- link_down.c ---- */

/* A channel has come for the link: takes it over, or closes it if it is too late. */
void link_return(struct p9_conn *c, struct chan *chan, uint64_t taken);

#endif
