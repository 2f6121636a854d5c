/* SPDX-License-Identifier: MIT */
/*
 * The link: what is below 9P between two of us, and outlives the channel that it runs over.
 *
 * Frames. Once both ends have agreed on a link, all bytes of 9P travel in frames, in both
 * directions: head[12] = size[3] kind[1] acked[8], then `size` bytes. `acked` is how many bytes of
 * 9P the sender has taken in since the link was made; size at most LIMIT_LINK_FRAME. Kinds: 0 data;
 * 1 nothing but the head; 2 ping (answered by a 1 at once); 3 goodbye (the sender closes, and the
 * link is not to be found again). What was sent and is not acked is kept, at most LIMIT_LINK_KEPT
 * bytes of it: then who writes waits, as for a full socket. Who has taken in a quarter of that
 * since its last frame says so with a 1, and so does who has been quiet for a second: an idle link
 * keeps nothing and holds no memory for it.
 *
 * Agreeing. The end that dialed speaks first, in what every 9P server understands:
 *
 *     Tversion tag NOTAG, msize, version "plenum.link new LINGER" | "plenum.link ID TAKEN"
 *     Rversion                    "plenum.link ID 0 LINGER"       | "plenum.link ID TAKEN"
 *
 * LINGER is in seconds, ID 32 hexadecimal digits out of the called end's getrandom(2), TAKEN the
 * bytes of 9P that the sender has taken in. Any other version in the answer (a plain server says
 * "unknown") means: no link, and 9P goes on over the bare channel. "plenum.link gone" means: this
 * session is not known any more; the connection is lost. The frames begin right behind these two
 * messages, with what the other end has not taken in. A called end that gets another message first
 * talks to a plain client. Only channels of known roles (dialed, accepted) begin so.
 *
 * Breaking. A channel that ends or fails, or says nothing for `keepalive` although it was asked
 * (ping), is closed and the link is *down*; the connection above is not lost. The end that dialed
 * dials again (opts->redial, with backoff from 50 ms to 10 s and jitter) for `linger`; the end that
 * was called waits for as long as was agreed (the less of both). When that is over, or the far end
 * says "gone", or goodbye, or what comes is no frame, the connection is lost in the ordinary way.
 * A second channel for a link that still has one (the called end has not noticed the break)
 * replaces it.
 *
 * While the link is down nothing moves, but callers are not stuck: one that is cancelled returns
 * -EINTR at once; after `soft` without a link all that wait, and whoever comes until it is up
 * again, get -ETIMEDOUT at once. What such a caller asked may still happen when the link is up
 * again; the answer is dropped.
 *
 * Who may come back: only a channel that proves the same (chan.who) as the first.
 *
 * On the wire this stands between the descriptors and the engine (p9/wire.c): the reader and the
 * writer work as ever, with no thread between. A thread of the link's own exists only while it is
 * down at the end that dials.
 *
 * A called end with `links` speaks only after the other has: when that is a foreign server which
 * dialed us and waits to be asked, LIMIT_HELLO passes first.
 */
#ifndef P9_LINK_H
#define P9_LINK_H

#include "channel/channel.h"
#include <stdbool.h>
#include <stdint.h>

#define P9_LINK_VERSION "plenum.link"
#define P9_LINK_ID      32 /* digits */

/* What both ends have set; all times in ns. */
struct p9_link_opts {
    int64_t linger;    /* so long a link that is down is waited for; 0: no link, bare 9P */
    int64_t keepalive; /* silence after which the far end is asked, and the same once more until it
                          is given up; 0: never. Without a link the question is a Tflush of a tag
                          that is not in use, which every 9P server answers */
    int64_t soft;      /* 0: hard, callers wait as long as the link lingers */

    /* The end that dials: another channel to the same far end, which asks there for the link `id`.
     * Blocks; runs in the link's thread; `cancel` (an eventfd) becomes readable when nobody wants
     * it any more. A failure is tried again, but for -ENOLINK: the link is given up at once (there
     * is another server to go to). NULL: cannot dial again, so no link. */
    int (*redial)(void *arg, const char *id, int cancel, struct chan *ret, struct pl_err *err);
    /* The end that is called: where links are found again; NULL: none are agreed to. */
    struct p9_links *links;
    /* Either end, may be NULL: the link went down (with the sentence), or is up again (NULL). In
     * some engine thread, one at a time. */
    void (*changed)(void *arg, const char *down);
    void *arg; /* of redial and changed */
};

/* The links of a process that is called: shared by all its connections. Thread-safe. */
struct p9_links *p9_links_new(int64_t linger_max, unsigned max /* 0: LIMIT_LINKS */);
void p9_links_free(struct p9_links *links); /* after its connections are freed */

/* A channel was accepted that may be the return of a link of `links` or something new: reads the
 * first message without making anyone else wait for it (the engine does, in p9_conn_new). When it
 * turns out to be a return, the new connection gives its channel to the old one and is over, with
 * error 0; with -ENOLINK if the link is not known (which is said to the other end). So whoever
 * accepts need not know of links at all: it makes a connection of every channel, with the same
 * opts.link.links. */

/* For who follows a process that was killed and had the link `id`: tells the called end, over a
 * channel of its own that proves the same, that nobody will come back for it. 1 when it does not
 * know the link (any more), and all is dropped that was open there; 0 when it was told: it is to be
 * told again over another channel, until it is 1; or -errno. The channel stays the caller's to
 * close. Blocks, for LIMIT_HELLO at most. */
int p9_link_forget(struct chan *chan, const char *id);

#endif
