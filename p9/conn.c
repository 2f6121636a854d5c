/* SPDX-License-Identifier: MIT */
/*
 * The life of a connection.
 *
 * It is LIVE until it ends well or is lost; then the link is cut, callers get -ECONNABORTED, calls
 * that are being served are cancelled. When the last of them is done and nobody reads or writes any
 * more, a worker resets the handler, closes the channel and tells `over`.
 */
#include "p9/priv.h"
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void finish(struct p9_conn *c, int error, char *sentence)
{
    if (c->state != LIVE) {
        free(sentence);
        return;
    }
    c->state = ENDED;
    c->error = error;
    c->sentence = sentence;
    link_finish(c);
    if (c->role != ROLE_HELD) {
        c->role = ROLE_NONE;
        read_drop(c);
    }
    use_fail_all(c);
    serve_cancel_all(c);
    if (c->ending && !c->resetting) {
        struct req *req = c->ending;
        c->ending = NULL;
        serve_drop(c, req);
    }
    out_push(c); /* drops what is queued */
    conn_settle(c);
}

void conn_lost(struct p9_conn *c, int error, const char *fmt, ...)
{
    char *sentence = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&sentence, fmt, ap) < 0)
        sentence = NULL;
    va_end(ap);
    assert(error < 0);
    finish(c, error, sentence);
}

void conn_end(struct p9_conn *c)
{
    finish(c, 0, NULL);
}

bool conn_both_done(const struct p9_conn *c)
{
    return c->serve_ext && c->serve_done && c->use == USE_DONE;
}

void conn_maybe_end(struct p9_conn *c)
{
    if (c->state != LIVE || !out_idle(c))
        return;
    if (conn_both_done(c) || (c->at_eof && !c->nserving))
        conn_end(c);
}

void conn_eof(struct p9_conn *c, int error, bool partial)
{
    bool uses = c->use == USE_HELLO || c->use == USE_OPEN || c->use == USE_ENDING;
    bool ours = c->serve_ext || c->use_ext;
    if (!error && !partial && (conn_both_done(c) || (link_there(c) && link_may_end(c))))
        conn_end(c);
    else if (partial && !c->rd.any && !error)
        read_garbage(c);
    else if (error)
        conn_lost(c, -ECONNRESET, "the link was lost: %s", strerror(-error));
    else if (partial)
        conn_lost(c, -ECONNRESET, "the link was lost: it ended amid a message");
    else if (c->use == USE_HELLO && !c->rd.any)
        conn_lost(c, -ECONNRESET, "the other end closed the connection without a word of 9P");
    else if (ours || uses || c->nlinked || c->ending)
        conn_lost(c, -ECONNRESET, "the link was lost: the other end closed it");
    else {
        /* All is answered; but the last answer may be in the writer's hands yet. */
        c->at_eof = true;
        conn_maybe_end(c);
    }
}

void conn_settle(struct p9_conn *c)
{
    if (c->state != ENDED || c->finalising || c->role == ROLE_HELD || c->writing || c->nserving ||
        c->resetting || c->out_head || link_busy(c))
        return;
    c->finalising = true;
    crew_submit(c->crew, &c->final_task);
}

static void final_task(struct p9_conn *c, struct task *task)
{
    if (c->session && c->opts.handler && c->opts.handler->reset)
        c->opts.handler->reset(c->opts.handler_arg);
    crew_active(c->crew, c, false);
    link_final(c);
    if (c->opts.over)
        c->opts.over(c->opts.over_arg, c->error, c->sentence ? c->sentence : "");
    pthread_mutex_lock(&c->lock);
    c->session = false;
    c->state = OVER;
    pthread_cond_broadcast(&c->cond);
    conn_unlock(c);
}

static void task_init(struct p9_conn *c, struct task *t,
                      void (*run)(struct p9_conn *, struct task *))
{
    *t = (struct task){.run = run, .conn = c};
}

/* What can fail. */
static int begin(struct p9_conn *c)
{
    int r = 0;
    c->poke = c->opts.use ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
    if (c->opts.use && c->poke < 0)
        return -errno;
    r = wire_init(&c->wire, &c->chan, true, c->poke);
    if (r == 0)
        r = crew_add(c->crew, c, c->wire.in);
    if (r == 0) {
        r = link_new(c);
        if (r < 0) {
            crew_unwatch(c->crew, c, c->wire.in);
            crew_del(c->crew, c);
        }
    }
    if (r < 0) {
        wire_done(&c->wire);
        if (c->poke >= 0)
            close(c->poke);
    }
    return r;
}

int p9_conn_new(struct chan *chan, const struct p9_conn_opts *opts, struct p9_conn **ret,
                struct pl_err *err)
{
    assert(opts->crew);
    struct p9_conn *c = calloc(1, sizeof(*c));
    if (c && !(c->fids = p9_fids_new())) {
        free(c);
        c = NULL;
    }
    if (!c)
        return pl_fail(err, -ENOMEM, "%s: out of memory", chan->peer);
    c->chan = *chan;
    c->opts = *opts;
    c->crew = opts->crew;
    if (c->opts.msize == 0 || c->opts.msize > LIMIT_MSIZE_MAX)
        c->opts.msize = LIMIT_MSIZE_MAX;
    if (c->opts.msize < LIMIT_MSIZE_MIN)
        c->opts.msize = LIMIT_MSIZE_MIN;
    c->out_tail = &c->out_head;
    c->room_tail = &c->room;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->cond, NULL);
    task_init(c, &c->read_task, read_task);
    task_init(c, &c->flush_task, out_flush);
    task_init(c, &c->cancel_task, serve_cancel_task);
    task_init(c, &c->reset_task, hello_reset_task);
    task_init(c, &c->final_task, final_task);
    task_init(c, &c->link_task, link_task);
    task_init(c, &c->look_task, link_look);
    int r = begin(c);
    if (r < 0) {
        pthread_mutex_destroy(&c->lock);
        pthread_cond_destroy(&c->cond);
        p9_fids_unref(c->fids);
        free(c);
        return pl_fail(err, r, "%s: %s", chan->peer, strerror(-r));
    }
    *ret = c;
    pthread_mutex_lock(&c->lock);
    out_push(c); /* what the link begins with */
    if (opts->handler && chan->role == CHAN_ACCEPTED)
        conn_due(c, DUE_HELLO, due_for(LIMIT_HELLO, 0));
    if (opts->handler && !opts->use && chan->role == CHAN_DIALED)
        role_offer(c); /* a worker listens for silence */
    else
        role_check(c);
    conn_unlock(c);
    return 0;
}

/* A goodbye cannot be said amid a frame, and without it the other end lingers: the writer gets a
 * moment to come to the frame's end. Gives the lock up meanwhile. */
static void await_frame(struct p9_conn *c)
{
    for (int i = 0; i < 50 && c->state == LIVE && link_amid(c); i++) {
        conn_unlock(c);
        usleep(2000);
        pthread_mutex_lock(&c->lock);
    }
}

static void break_off(struct p9_conn *c)
{
    conn_lost(c, -ECONNABORTED, "the connection was broken off");
}

void p9_conn_abort(struct p9_conn *c)
{
    pthread_mutex_lock(&c->lock);
    await_frame(c);
    break_off(c);
    conn_unlock(c);
}

void p9_conn_drop(struct p9_conn *c)
{
    pthread_mutex_lock(&c->lock);
    break_off(c);
    conn_unlock(c);
}

bool p9_conn_over(struct p9_conn *c)
{
    pthread_mutex_lock(&c->lock);
    bool over = c->state != LIVE;
    conn_unlock(c);
    return over;
}

bool p9_conn_served(struct p9_conn *c)
{
    pthread_mutex_lock(&c->lock);
    bool served = c->serve_done;
    conn_unlock(c);
    return served;
}

static void wake_waiter(void *arg)
{
    struct p9_conn *c = arg;
    pthread_mutex_lock(&c->lock);
    pthread_cond_broadcast(&c->cond);
    conn_unlock(c);
}

int p9_conn_watch(struct p9_conn *c, struct pl_call *call, int *error, struct pl_err *err)
{
    int r = pl_call_block(call, wake_waiter, c);
    if (r < 0)
        return r;
    pthread_mutex_lock(&c->lock);
    use_enter(c);
    while (c->state != OVER && !(r = pl_call_over(call)))
        conn_wait(c);
    use_leave(c);
    bool over = c->state == OVER;
    conn_unlock(c);
    pl_call_unblock(call);
    if (over)
        *error = p9_conn_wait(c, err);
    return over ? 0 : r;
}

int p9_conn_wait(struct p9_conn *c, struct pl_err *err)
{
    pthread_mutex_lock(&c->lock);
    while (c->state != OVER)
        conn_wait(c);
    int r = c->error;
    if (r < 0)
        pl_fail(err, r, "%s: %s", c->chan.peer, c->sentence ? c->sentence : strerror(-r));
    conn_unlock(c);
    return r;
}

void p9_conn_free(struct p9_conn *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    break_off(c);
    while (c->state != OVER || c->users)
        conn_wait(c);
    conn_unlock(c);
    crew_del(c->crew, c);
    assert(!c->rd.buf && !c->out_head && !c->npending);
    serve_purge_spares(c);
    link_free(c);
    if (c->poke >= 0)
        close(c->poke);
    free(c->tags);
    free(c->free_tags);
    p9_fids_unref(c->fids);
    free(c->sentence);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->cond);
    free(c);
}

const char *p9_conn_peer(const struct p9_conn *c)
{
    return c->chan.peer;
}
