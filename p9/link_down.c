/* SPDX-License-Identifier: MIT */
/*
 * The life of a link: how it begins, breaks, comes back, and ends.
 *
 * A break is seen by whoever is inside, who tells link_task. When nobody is inside any more the
 * channel is closed: at the end that was called by the task, which then puts a channel in its place
 * as soon as one has come (link_return); at the end that dialed by a thread, as closing may wait
 * for a child, and which then dials until it has another.
 */
#include "base/backoff.h"
#include "p9/link_priv.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

enum { MS = 1000000 };
static const int64_t MOST_PATIENCE = LIMIT_HELLO * 1000000000LL;
static const char unsent[] = "the other end says that it has taken in what was never sent";

/* ---- the beginning ---- */

int link_new(struct p9_conn *c)
{
    const struct p9_link_opts *o = &c->opts.link;
    bool dialed = c->chan.role == CHAN_DIALED && o->redial;
    bool called = c->chan.role == CHAN_ACCEPTED && o->links;
    if (!o->linger || (!dialed && !called))
        return 0;
    struct link *l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    pthread_mutex_init(&l->lock, NULL);
    l->conn = c;
    l->dialed = dialed;
    l->open = true;
    l->cancel = -1;
    l->linger = o->linger;
    l->state = dialed ? LINK_ASKS : LINK_LISTENS;
    if (dialed) {
        struct agree a = {.kind = AGREE_NEW, .linger = link_seconds(o->linger)};
        l->head_len = (uint32_t)agree_encode(&a, P9_Tversion, c->opts.msize, l->head);
    } else {
        crew_clock(c->crew, c, mono_now() + LIMIT_HELLO * 1000000000LL);
    }
    c->link = l;
    return 0;
}

/* ---- the end ---- */

bool link_may_end(const struct p9_conn *c)
{
    return c->said_end && c->npending == 0 && (!c->serve_ext || c->serve_done);
}

void link_over(struct p9_conn *c, const char *what)
{
    if (link_may_end(c)) /* all that it was wanted for yet was to say so */
        conn_end(c);
    else
        conn_lost(c, -ECONNRESET, "the link was lost: %s; then %s", c->link->why, what);
}

void link_finish(struct p9_conn *c)
{
    struct link *l = c->link;
    if (!l) {
        wire_cut(&c->wire);
        return;
    }
    pthread_mutex_lock(&l->lock);
    if (l->state == LINK_UP && !l->writes && !l->frame_left && l->head_at == l->head_len) {
        struct frame f = {.kind = FRAME_BYE, .acked = l->taken};
        frame_encode(&f, l->head);
        struct iovec iov = {l->head, FRAME_HEAD};
        wire_write(&c->wire, &iov, 1, NULL); /* who cannot be told finds out */
    }
    if (l->open && l->state != LINK_DOWN)
        wire_cut(&c->wire);
    if (l->cancel >= 0)
        eventfd_write(l->cancel, 1);
    l->state = LINK_OVER;
    pthread_mutex_unlock(&l->lock);
}

bool link_amid(struct p9_conn *c)
{
    struct link *l = c->link;
    if (!l)
        return false;
    pthread_mutex_lock(&l->lock);
    bool amid = l->state == LINK_UP && (l->writes || l->frame_left || l->head_at < l->head_len);
    pthread_mutex_unlock(&l->lock);
    return amid;
}

bool link_busy(const struct p9_conn *c)
{
    return c->link && (c->link->thread || c->link->stepping);
}

void link_final(struct p9_conn *c)
{
    struct link *l = c->link;
    if (l) {
        links_del(l);
        if (l->has_next)
            chan_close(&l->next);
        l->has_next = false;
    }
    if (!l || l->open) {
        pthread_mutex_lock(&c->lock);
        crew_unwatch(c->crew, c, c->wire.in);
        conn_unlock(c);
        wire_done(&c->wire);
        chan_close(&c->wire.chan);
    }
    if (l)
        l->open = false;
}

void link_free(struct p9_conn *c)
{
    struct link *l = c->link;
    if (!l)
        return;
    kept_free(&l->kept, c->crew);
    free(l->in);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

/* ---- up again ---- */

/* Another channel takes the place of the last, over which the far end has said that it took in
 * `taken`. With conn->lock, while the link is down and nobody inside. `answer` goes out first. */
static int install(struct p9_conn *c, struct chan *chan, uint64_t taken, bool answer)
{
    struct link *l = c->link;
    int r = wire_init(&c->wire, chan, true, c->poke);
    if (r < 0)
        return r;
    pthread_mutex_lock(&l->lock);
    if (taken < l->acked || taken > l->tried) {
        pthread_mutex_unlock(&l->lock);
        wire_done(&c->wire);
        return -EPROTO;
    }
    link_reset(l);
    l->acked = l->sent = taken;
    link_acked(l);
    if (answer) {
        struct agree a = {.kind = AGREE_LINK, .taken = l->taken, .linger = UINT64_MAX};
        memcpy(a.id, l->id, sizeof(a.id));
        l->head_len = (uint32_t)agree_encode(&a, P9_Rversion, c->opts.msize, l->head);
    }
    l->open = true;
    l->stirred = true;
    l->state = LINK_UP;
    pthread_mutex_unlock(&l->lock);
    crew_watch(c->crew, c, c->wire.in);
    c->down = c->down_soft = c->hup = false;
    c->armed = ARMED_NOT;
    crew_clock(c->crew, c, mono_now() + LINK_QUIET);
    role_check(c);
    out_push(c);
    return 0;
}

/* ---- dialing again ---- */

static int exchange(struct wire *w, uint8_t *buf, size_t n, bool out, int64_t until)
{
    while (n) {
        struct iovec iov = {buf, n};
        int64_t ms = (until - mono_now()) / MS;
        if (ms <= 0)
            return -ETIMEDOUT;
        ssize_t r = out ? wire_write(w, &iov, 1, NULL) : wire_read(w, &iov, 1, (int)ms);
        if (out && r == -EAGAIN) {
            if (wire_wait(w, false, true, (int)ms) & WIRE_POKED)
                return -EINTR;
            continue;
        }
        if (r <= 0)
            return r == 0 ? -ECONNRESET : r == -EAGAIN ? -ETIMEDOUT : (int)r;
        buf += r;
        n -= (size_t)r;
    }
    return 0;
}

/* Asks over a new channel for our link, for `patience` ns: 0 and what the far end has taken in;
 * -ENOLINK: it does not know it. */
static int ask_again(struct link *l, struct chan *chan, int cancel, int64_t patience,
                     uint64_t *taken)
{
    struct agree a = {.kind = AGREE_LINK, .taken = l->taken, .linger = UINT64_MAX};
    int64_t until = mono_now() + patience;
    uint8_t buf[AGREE_MAX];
    struct wire w;
    memcpy(a.id, l->id, sizeof(a.id));
    int r = wire_init(&w, chan, false, cancel);
    if (r < 0)
        return r;
    size_t n = agree_encode(&a, P9_Tversion, l->conn->opts.msize, buf);
    r = exchange(&w, buf, n, true, until);
    if (r == 0)
        r = exchange(&w, buf, 4, false, until);
    if (r == 0) {
        n = buf[0] | buf[1] << 8 | buf[2] << 16 | (size_t)buf[3] << 24;
        r = n < P9_HDRSZ || n > sizeof(buf) ? -ENOLINK : exchange(&w, buf + 4, n - 4, false, until);
    }
    *chan = w.chan; /* its io may have changed it */
    wire_done(&w);
    if (r < 0)
        return r;
    agree_decode(buf, n, &a);
    *taken = a.taken;
    bool ours = a.kind == AGREE_LINK && a.linger == UINT64_MAX && !memcmp(a.id, l->id, P9_LINK_ID);
    return ours && buf[4] == P9_Rversion ? 0 : -ENOLINK;
}

/* Waits before the next try. False when nobody wants it any more. */
static bool back_off(struct link *l)
{
    struct pollfd p = {.fd = l->cancel, .events = POLLIN};
    return poll(&p, 1, (int)(backoff_jitter(l->backoff) / MS)) <= 0;
}

/* A new channel may have gone silent as the last one did, and is given up as soon; but each that
 * did not answer in time gets the next one more of it, as an ssh may take long to log in. */
static int64_t first_patience(const struct p9_conn *c)
{
    int64_t keepalive = c->opts.link.keepalive, least = LIMIT_RETURN * 1000000000LL;
    if (!keepalive || keepalive >= MOST_PATIENCE / 2)
        return MOST_PATIENCE;
    return 2 * keepalive > least ? 2 * keepalive : least;
}

/* One try. Gives conn->lock up meanwhile. 0: it is up; -ENOLINK: it will never be. */
static int try(struct p9_conn *c, struct link *l, int64_t *patience)
{
    struct pl_err err = {.text = ""};
    struct chan chan;
    uint64_t taken = 0;
    conn_unlock(c);
    int r =
        back_off(l) ? c->opts.link.redial(c->opts.link.arg, l->id, l->cancel, &chan, &err) : -EINTR;
    bool have = r == 0;
    if (have && (r = ask_again(l, &chan, l->cancel, *patience, &taken)) == -ETIMEDOUT)
        *patience = *patience < MOST_PATIENCE / 2 ? 2 * *patience : MOST_PATIENCE;
    if (have && r == -ENOLINK)
        pl_fail(&err, r, "the other end does not know it any more");
    pthread_mutex_lock(&c->lock);
    if (r == 0)
        r = c->state == LIVE ? install(c, &chan, taken, false) : -EINTR;
    if (have && r == -EPROTO)
        r = pl_fail(&err, -ENOLINK, "%s", unsent);
    if (r < 0 && have) {
        conn_unlock(c);
        chan_stop(&chan);
        pthread_mutex_lock(&c->lock);
    }
    if (r < 0)
        snprintf(l->last, sizeof(l->last), "%.150s", err.text[0] ? err.text : strerror(-r));
    return r;
}

static void *redial_thread(void *arg)
{
    struct p9_conn *c = arg;
    struct link *l = c->link;
    pthread_setname_np(pthread_self(), "p9-redial");
    chan_stop(&c->wire.chan); /* an ssh may not know yet, and would be waited for */
    pthread_mutex_lock(&c->lock);
    int r = -EAGAIN;
    int64_t patience = first_patience(c);
    while (c->state == LIVE && (r = try(c, l, &patience)) < 0) {
        if (r == -ENOLINK)
            link_over(c, l->last);
        l->backoff = backoff_next(l->backoff);
    }
    pthread_mutex_lock(&l->lock);
    close(l->cancel);
    l->cancel = -1;
    pthread_mutex_unlock(&l->lock);
    l->thread = false;
    crew_submit(c->crew, &c->link_task);
    conn_settle(c);
    conn_unlock(c);
    return NULL;
}

static void start_thread(struct p9_conn *c, struct link *l)
{
    pthread_t t;
    int cancel = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_lock(&l->lock);
    l->cancel = cancel;
    pthread_mutex_unlock(&l->lock);
    l->thread = l->cancel >= 0 && crew_thread(&t, redial_thread, c) == 0;
    if (l->thread) {
        pthread_detach(t);
        return;
    }
    if (cancel >= 0)
        close(cancel);
    l->cancel = -1;
    l->open = true; /* it is still to be closed */
    conn_lost(c, -EAGAIN, "the link was lost (%s), and there is no thread to mend it", l->why);
}

/* ---- the task ---- */

static void go_down(struct p9_conn *c)
{
    c->down = true;
    c->down_since = mono_now();
    if (c->role == ROLE_ARMED || c->role == ROLE_OFFERED)
        c->role = ROLE_NONE;
    crew_unwatch(c->crew, c, c->wire.in);
    c->armed = ARMED_NOT;
    pthread_cond_broadcast(&c->cond);
    use_wake_all(c); /* who was cancelled does not wait for Rflush */
    crew_clock(c->crew, c, c->down_since + 1);
}

static void close_channel(struct p9_conn *c, struct link *l)
{
    wire_done(&c->wire);
    l->open = false;
    if (l->dialed) {
        start_thread(c, l);
        return;
    }
    conn_unlock(c);
    chan_close(&c->wire.chan);
    pthread_mutex_lock(&c->lock);
}

static void take_next(struct p9_conn *c, struct link *l)
{
    struct chan chan = l->next;
    l->has_next = false;
    int r = install(c, &chan, l->next_taken, true);
    if (r == 0)
        return;
    if (r == -EPROTO)
        link_over(c, unsent);
    conn_unlock(c);
    chan_close(&chan); /* else it is dialed again */
    pthread_mutex_lock(&c->lock);
}

static void tell(struct p9_conn *c, struct link *l)
{
    void (*changed)(void *, const char *) = c->opts.link.changed;
    char why[sizeof(l->why)];
    while (changed && c->state == LIVE && l->told_down != c->down) {
        bool down = l->told_down = c->down;
        pthread_mutex_lock(&l->lock);
        memcpy(why, l->why, sizeof(why));
        pthread_mutex_unlock(&l->lock);
        conn_unlock(c);
        changed(c->opts.link.arg, down ? why : NULL);
        pthread_mutex_lock(&c->lock);
    }
}

void link_note(struct p9_conn *c)
{
    if (c->link->state != LINK_DOWN || c->down || c->state != LIVE)
        return;
    if (conn_both_done(c)) /* if the other end comes back, then only to hear that it is gone */
        conn_end(c);
    else
        go_down(c);
}

static void step(struct p9_conn *c, struct link *l)
{
    link_note(c);
    tell(c, l);
    pthread_mutex_lock(&l->lock);
    bool down = l->state == LINK_DOWN, empty = !l->inside;
    pthread_mutex_unlock(&l->lock);
    /* The thread that brought the channel up may not have ended yet: it calls us again. */
    if (down && empty && l->open && !l->thread && c->state == LIVE)
        close_channel(c, l);
    if (c->state == LIVE && c->down && !l->open && l->has_next)
        take_next(c, l);
    tell(c, l);
}

void link_task(struct p9_conn *c, struct task *task)
{
    struct link *l = c->link;
    pthread_mutex_lock(&c->lock);
    l->again = true;
    if (!l->stepping) {
        l->stepping = true;
        while (l->again) {
            l->again = false;
            step(c, l);
        }
        l->stepping = false;
        conn_settle(c);
    }
    conn_unlock(c);
}

/* ---- coming back, at the end that was called ---- */

void link_return(struct p9_conn *c, struct chan *chan, uint64_t taken)
{
    struct link *l = c->link;
    struct chan old = *chan;
    bool late;
    pthread_mutex_lock(&c->lock);
    late = c->state != LIVE;
    if (!late) {
        bool had = l->has_next;
        struct chan next = l->next;
        l->next = *chan;
        l->next_taken = taken;
        l->has_next = true;
        old = next;
        late = had;
        pthread_mutex_lock(&l->lock);
        link_broke(l, "the other end came back over another channel");
        pthread_mutex_unlock(&l->lock);
        crew_submit(c->crew, &c->link_task);
    }
    conn_unlock(c);
    if (late)
        chan_close(&old);
}

/* "gone", to who asks for what is not here. The channel's buffers are empty: it is sent at once, or
 * never. */
static void refuse(struct p9_conn *c)
{
    struct agree a = {.kind = AGREE_GONE};
    uint8_t buf[AGREE_MAX];
    struct iovec iov = {buf, agree_encode(&a, P9_Rversion, c->opts.msize, buf)};
    wire_write(&c->wire, &iov, 1, NULL);
}

void link_move(struct p9_conn *c)
{
    struct link *l = c->link;
    struct p9_conn *old = NULL;
    if (l->state != LINK_MOVES)
        return;
    conn_unlock(c);
    if (l->in_at == l->in_end) /* who is not answered yet has nothing else to say */
        old = links_get(c->opts.link.links, l->id, c->chan.who);
    pthread_mutex_lock(&c->lock);
    if (!old)
        refuse(c);
    struct chan chan = c->wire.chan;
    if (old && c->state == LIVE) {
        crew_unwatch(c->crew, c, c->wire.in);
        wire_done(&c->wire);
        l->open = false;
    }
    bool give = old && !l->open;
    if (old)
        conn_end(c);
    else
        conn_lost(c, -ENOLINK, "it asked for a link that is not known here");
    conn_unlock(c);
    if (give)
        link_return(old, &chan, l->next_taken);
    if (old)
        links_put(old);
    pthread_mutex_lock(&c->lock);
}

/* ---- for those outside ---- */

/* Who says that it had what was never sent is not believed, and the link is lost. */
int p9_link_forget(struct chan *chan, const char *id)
{
    struct agree a = {.kind = AGREE_LINK, .taken = UINT64_MAX, .linger = UINT64_MAX};
    int64_t until = mono_now() + LIMIT_HELLO * 1000000000LL;
    uint8_t buf[AGREE_MAX];
    struct wire w;
    snprintf(a.id, sizeof(a.id), "%s", id);
    int r = wire_init(&w, chan, false, -1);
    if (r < 0)
        return r;
    size_t n = agree_encode(&a, P9_Tversion, LIMIT_MSIZE_MAX, buf);
    r = exchange(&w, buf, n, true, until);
    if (r == 0)
        r = exchange(&w, buf, 4, false, until);
    n = buf[0] | buf[1] << 8 | buf[2] << 16 | (size_t)buf[3] << 24;
    if (r == 0)
        r = n < P9_HDRSZ || n > sizeof(buf) ? -EPROTO : exchange(&w, buf + 4, n - 4, false, until);
    *chan = w.chan; /* its io may have changed it */
    wire_done(&w);
    if (r == -ECONNRESET || r == -EPIPE)
        return 0; /* it closed, having heard us */
    if (r < 0)
        return r;
    agree_decode(buf, n, &a);
    return a.kind == AGREE_LINK ? 0 : 1;
}

const char *p9_conn_link(const struct p9_conn *c)
{
    return atomic_load(&c->linked) ? c->link->id : "";
}

int64_t p9_conn_down(struct p9_conn *c)
{
    pthread_mutex_lock(&c->lock);
    int64_t ns = c->down && c->state == LIVE ? mono_now() - c->down_since : 0;
    conn_unlock(c);
    return ns;
}

void p9_conn_break(struct p9_conn *c)
{
    struct link *l = c->link;
    pthread_mutex_lock(&c->lock);
    if (l && l->state != LINK_PLAIN) {
        pthread_mutex_lock(&l->lock);
        if (l->state == LINK_UP)
            link_broke(l, "it was broken on purpose");
        else if (l->state != LINK_DOWN && l->state != LINK_OVER)
            wire_cut(&c->wire);
        pthread_mutex_unlock(&l->lock);
    } else if (c->state == LIVE) {
        wire_cut(&c->wire);
    }
    conn_unlock(c);
}
