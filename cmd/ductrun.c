/* SPDX-License-Identifier: MIT */
#include "cmd/ductrun.h"
#include "base/confine.h"
#include "base/futex.h"
#include "base/limits.h"
#include "base/text.h"
#include "cmd/far.h"
#include "cmd/holder.h"
#include "cmd/linkpage.h"
#include "cmd/listening.h"
#include "cmd/loss.h"
#include "cmd/returns.h"
#include "cmd/ring.h"
#include "cmd/serving.h"
#include "cmd/util.h"
#include "doors/p9_access.h"
#include "keeper/keeper.h"
#include "keeper/registry.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define GOODBYE_NS 3000000000ll /* so long may a peer take to acknowledge our end */

struct state {
    struct duct *d;
    struct keeper_mount mounts[DUCT_MAX];
    struct pl_tree *trees[DUCT_MAX]; /* mounted here, with the trace layer */
    struct ring rings[DUCT_MAX];
    struct pl_tree *exports[DUCT_MAX];
    struct p9_door *door;
    struct far *far;          /* who dialed, or has an ssh; else NULL */
    struct p9_conn *accepted; /* ... and this is the connection */
    struct returns *returns;  /* who is called: over what its link may come back; or NULL */
    struct linkopt linkopt;   /* as it turned out */
    bool use;                 /* there is a using half */
    struct p9_access *access;
    struct stats *stats;
    struct stats own_stats;
    struct reg_page *page; /* without mounts */
    struct loss loss;
    char peer[128], text[1024];
    /* How the connection ended; `over` is set when the rest is. */
    int error;
    char sentence[400];
    atomic_bool over;
    int event_fd;
    pthread_mutex_t lock;  /* guards the rest, between stop and finish */
    pthread_cond_t change; /* of waiting, finished */
    bool stopping, waiting, finished;
    bool visited;       /* who called only wanted our files, and has gone again */
    atomic_size_t left; /* mounts whose kernel's end is not closed yet */
};

static struct p9_conn *conn_of(struct state *s)
{
    return s->far ? far_conn(s->far) : s->accepted;
}

/* ---- what becomes of the link ---- */

static void changed(void *arg, const char *down)
{
    struct state *s = arg;
    char prefix[32];
    snprintf(prefix, sizeof(prefix), "plenum: %s", s->d->cmd->name);
    if (s->page)
        linkpage_changed(s->page, prefix, s->peer, down);
    for (size_t i = 0; i < s->d->nmounts; i++)
        linkpage_changed(s->mounts[i].page, i ? NULL : prefix, s->peer, down);
}

static void wake(const struct state *s)
{
    if (s->event_fd >= 0 && write(s->event_fd, &(uint64_t){1}, 8) < 0)
        abort(); /* it only fails when it is not an eventfd */
}

static void lost(void *arg, const char *sentence)
{
    struct state *s = arg;
    char text[640];
    if (sentence != s->sentence)
        snprintf(s->sentence, sizeof(s->sentence), "%s", sentence);
    snprintf(text, sizeof(text), "link to %s lost: %s", s->peer, s->sentence);
    atomic_store(&s->over, true); /* first: what the loss sets going looks at it */
    loss_tell(&s->loss, text);
    wake(s);
}

static void conn_over(void *arg, int error, const char *sentence)
{
    struct state *s = arg;
    s->error = error;
    snprintf(s->sentence, sizeof(s->sentence), "%s",
             error && sentence ? far_reason(sentence) : "the other end closed it");
    if (s->far)
        far_over(s->far, error, sentence);
    else if (error == -ENOLINK && s->d->listen)
        wake(s); /* of somebody else's: the next one is waited for */
    else
        lost(s, s->sentence);
}

static void note_link(struct state *s, const struct p9_conn *conn)
{
    const char *id = p9_conn_link(conn);
    if (s->page)
        linkpage_up(s->page, &s->linkopt, id);
    for (size_t i = 0; i < s->d->nmounts; i++)
        linkpage_up(s->mounts[i].page, &s->linkopt, id);
}

static void ready(void *arg, const struct far *far, struct p9_conn *conn)
{
    note_link(arg, conn);
}

/* ---- the connection ---- */

/* Our stdio may be a connection that listen or dial has made, and named. */
static void note_peer(struct state *s, const char *name, const char *note)
{
    const char *dial = s->d->dial;
    const char *given = dial && !strcmp(dial, "stdio") ? getenv("PLENUM_PEER") : NULL;
    listening_note(s->d->cmd, name, note);
    if (given && *given)
        text_escape(s->peer, sizeof(s->peer), given, strlen(given));
    else
        snprintf(s->peer, sizeof(s->peer), "%s", name);
}

/* With a serving half if anything is exported and a using half if s->use. */
static int connect_halves(void *arg, struct chan *chan, const struct p9_link_opts *link,
                          struct p9_conn **ret, struct pl_err *err)
{
    struct state *s = arg;
    struct duct *d = s->d;
    struct p9_crew *crew = spec_crew();
    if (!crew)
        return pl_fail(err, -ENOMEM, "out of memory");
    if (!*s->peer)
        note_peer(s, chan->peer, chan->note);
    s->use = d->nmounts || chan->role != CHAN_ACCEPTED;
    /* Without a link the engine gives the peer a moment to speak first: it may be a plain client.
     */
    if (!d->nmounts && chan->role == CHAN_DIALED && !link->redial)
        chan->role = CHAN_GIVEN;
    if (!d->nexports) {
        struct p9_conn_opts opts = {.crew = crew,
                                    .use = s->use,
                                    .stats = s->stats,
                                    .link = *link,
                                    .over = conn_over,
                                    .over_arg = s};
        return p9_conn_new(chan, &opts, ret, err);
    }
    if (!s->door) {
        struct p9_export exports[DUCT_MAX];
        for (size_t i = 0; i < d->nexports; i++)
            exports[i] = (struct p9_export){.aname = d->exports[i].aname, .tree = s->exports[i]};
        int r = p9_door_new(exports, d->nexports, crew, s->stats, &s->door);
        if (r < 0)
            return pl_fail(err, r, "%s", strerror(-r));
        if (s->access)
            p9_door_admit(s->door, p9_access_admit, s->access);
        serving_remember(s->door, NULL, s->text); /* as far as it can be */
    }
    p9_door_link(s->door, link);
    return p9_door_conn(s->door, chan, s->use, conn_over, s, ret, err);
}

static int accept_one(struct state *s, struct chan_listener *listener, struct pl_err *err)
{
    int r;
    listening_note(s->d->cmd, chan_listener_name(listener), chan_listener_note(listener));
    if (!s->d->quiet)
        util_say("listening on %s", chan_listener_name(listener));
    while ((r = chan_accept(listener, &s->d->chan, err)) == -EACCES || r == -ECONNABORTED ||
           r == -EAGAIN)
        if (r != -EAGAIN)
            cmd_error(s->d->cmd, err);
    return r;
}

/* We are called: over `chan`, and, if there is a link, perhaps over others later. */
static int be_called(struct state *s, struct chan *chan, struct pl_err *err)
{
    struct linkopt o = s->d->opts.link;
    if (o.linger < 0)
        o.linger = s->d->remote ? LIMIT_LINGER * INT64_C(1000000000) : LINKOPT_CALLED;
    o.keepalive = o.keepalive < 0 ? LINKOPT_KEEPALIVE : o.keepalive;
    s->linkopt = o;
    struct p9_link_opts link = {.linger = o.linger,
                                .keepalive = o.keepalive,
                                .soft = o.soft,
                                .links = s->returns ? returns_links(s->returns) : NULL,
                                .changed = changed,
                                .arg = s};
    if (!link.links)
        link.linger = 0;
    return connect_halves(s, chan, &link, &s->accepted, err);
}

static int called_at(struct state *s, struct pl_err *err)
{
    struct chan_listener *listener;
    int r = chan_listen(s->d->listen, &(struct chan_listen_opts){0}, &listener, err);
    if (r < 0)
        return r;
    r = accept_one(s, listener, err);
    if (r < 0 || s->d->opts.link.linger == 0) {
        chan_listener_free(listener);
    } else {
        r = returns_new(listener, NULL, &s->returns);
        if (r < 0)
            return pl_fail(err, r, "out of memory");
    }
    return r < 0 ? r : be_called(s, &s->d->chan, err);
}

/* Who called wanted a link that a process before this one had: the next one is let in. True if
 * there is another connection, or *r says why there is not. */
static bool called_again(struct state *s, int *r, struct pl_err *err)
{
    if (!s->returns || !s->d->listen || !s->accepted || p9_conn_wait(s->accepted, NULL) != -ENOLINK)
        return false;
    p9_conn_free(s->accepted);
    s->accepted = NULL;
    s->error = 0;
    *s->peer = 0;
    *r = accept_one(s, returns_listener(s->returns), err);
    if (*r == 0)
        *r = be_called(s, &s->d->chan, err);
    return true;
}

static int called_by_ssh(struct state *s, struct pl_err *err)
{
    struct chan chan;
    int r = chan_dial("stdio", &chan, err);
    if (r == 0 && s->d->token) {
        struct holder *holder;
        r = holder_new(s->d->token, &holder);
        if (r == 0)
            r = returns_new(NULL, holder, &s->returns);
        if (r < 0) {
            chan_close(&chan);
            return pl_fail(err, r, "no place for a socket: %s", strerror(-r));
        }
    }
    if (r < 0)
        return r;
    chan.role = CHAN_ACCEPTED; /* the near end speaks first */
    snprintf(chan.who, sizeof(chan.who), "ssh");
    return be_called(s, &chan, err);
}

static int call(struct state *s, struct pl_err *err)
{
    struct duct *d = s->d;
    char *addrs[2] = {(char *)d->dial, NULL};
    struct p9_conn *conn;
    struct far_how how = {.addrs = d->dial ? addrs : NULL,
                          .ssh = d->ssh,
                          .redialed = d->redialed,
                          .opts = d->opts.link,
                          .shared = true,
                          .connect = connect_halves,
                          .lost = lost,
                          .changed = changed,
                          .ready = ready,
                          .arg = s};
    if (far_new(&how, &s->far) < 0)
        return pl_fail(err, -ENOMEM, "out of memory");
    s->linkopt = *far_linkopt(s->far);
    return d->dial ? far_dial(s->far, NULL, &conn, err)
                   : far_take(s->far, &d->chan, d->token, &conn, err);
}

static int connect_both(struct state *s, struct pl_err *err)
{
    s->stats = s->d->nmounts ? &s->mounts[0].page->stats : s->stats;
    return s->d->remote ? called_by_ssh(s, err) : s->d->listen ? called_at(s, err) : call(s, err);
}

static int open_exports(struct state *s, struct pl_err *err)
{
    if (s->d->access) {
        int r = p9_access_open(s->d->access, &s->access, err);
        if (r < 0)
            return r;
    }
    for (size_t i = 0; i < s->d->nexports; i++) {
        struct spec_watch watch = {.link = s->d->opts.link};
        int r = spec_open(s->d->exports[i].spec, &watch, NULL, &s->exports[i], err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int use(struct state *s, struct pl_call *call, struct pl_err *err)
{
    return s->far ? far_use(s->far, conn_of(s), call, err) : p9_use(s->accepted, call, err);
}

static void announce_exports(const struct state *s)
{
    for (size_t i = 0; i < s->d->nexports && !s->d->quiet; i++)
        util_say("exporting %s to %s", spec_text(s->d->exports[i].spec), s->peer);
}

static int attach(struct state *s, struct pl_err *err)
{
    char user[256];
    util_user(user, sizeof(user));
    for (size_t i = 0; i < s->d->nmounts; i++) {
        struct pl_tree *tree;
        struct pl_p9_opts opts = {.aname = s->d->mounts[i].aname,
                                  .uname = user,
                                  .soft = s->linkopt.soft,
                                  .near = PL_P9_NEAR};
        int r = s->far ? far_tree(s->far, conn_of(s), &opts, &tree, err)
                       : pl_p9_open(s->accepted, &opts, &tree, err);
        if (r < 0)
            return r;
        reg_set_peer(s->mounts[i].page, s->peer);
        ring_init(&s->rings[i], s->mounts[i].page);
        s->trees[i] = ring_over(&s->rings[i], tree);
        if (!s->trees[i])
            return pl_fail(err, -ENOMEM, "out of memory");
    }
    return 0;
}

/* True if there were any. */
static bool drop_trees(struct state *s)
{
    bool any = false;
    for (size_t i = 0; i < s->d->nmounts; i++) {
        any = any || s->trees[i];
        pl_tree_unref(s->trees[i]);
        s->trees[i] = NULL;
    }
    return any;
}

static void release(struct state *s)
{
    drop_trees(s);
    returns_stop(s->returns);
    if (s->accepted)
        p9_conn_free(s->accepted);
    far_free(s->far);
    returns_free(s->returns);
    if (s->door)
        p9_door_free(s->door);
    p9_access_free(s->access);
    s->access = NULL;
    for (size_t i = 0; i < s->d->nexports; i++)
        pl_tree_unref(s->exports[i]);
    s->accepted = NULL;
    s->far = NULL;
    s->returns = NULL;
    s->door = NULL;
    loss_result(&s->loss, NULL); /* waits for its thread */
}

/* ---- with mounts: in the server process of a keeper ---- */

/* A client that serves nothing may be done, and gone, before it was asked what it has. */
static bool visited(struct state *s)
{
    struct p9_conn *conn = conn_of(s);
    return s->d->nexports && conn && p9_conn_over(conn) && p9_conn_served(conn);
}

static int prepare(void *arg, bool *lasts, struct pl_err *err)
{
    struct state *s = arg;
    struct pl_call call;
    util_many_descriptors();
    atomic_store(&s->left, s->d->nmounts);
    pl_call_init_self(&call);
    int r = open_exports(s, err);
    if (r == 0)
        r = connect_both(s, err);
    bool alone = false;
    if (r == 0) {
        /* A plain client has no serving half; one of ours that only uses refuses the attach. */
        while ((r = use(s, &call, err)) == -ENOLINK && called_again(s, &r, err) && r == 0)
            ;
        alone = r == -ENOTCONN;
        if (r == 0)
            r = attach(s, err);
        if (r == -EOPNOTSUPP && !atomic_load(&s->over)) {
            drop_trees(s);
            alone = p9_use_end(conn_of(s), &call) == 0;
        }
        alone = alone && s->d->nexports && !atomic_load(&s->over);
        s->visited = r < 0 && visited(s);
        alone = alone || s->visited;
        if (s->visited)
            drop_trees(s);
    }
    pl_call_done(&call);
    if (alone) {
        /* It may have what we export, and there is nothing to mount. */
        for (size_t i = 0; i < s->d->nmounts; i++)
            util_say("%s serves nothing: %s is not mounted", s->peer, s->d->mounts[i].dir);
        r = 1;
    }
    if (r == 0 && s->returns)
        r = returns_start(s->returns, err);
    if (r >= 0) {
        note_link(s, conn_of(s));
        announce_exports(s);
    } else {
        loss_ending(&s->loss);
        release(s);
    }
    return r;
}

struct up {
    struct state *s;
    size_t i;
    void (*up)(void *);
    void *arg;
};

static void now_up(void *arg)
{
    struct up *u = arg;
    if (!u->s->d->quiet)
        util_say("mounted %s at %s", u->s->peer, u->s->d->mounts[u->i].dir);
    u->up(u->arg);
}

/* Nobody asks for anything any more. If we serve nothing either, what is let go of now need not
 * wait for a link that is down. */
static void gone(void *arg)
{
    struct state *s = arg;
    if (atomic_fetch_sub(&s->left, 1) == 1 && s->far && !s->d->nexports)
        far_end(s->far);
}

static int serve(void *arg, size_t i, int fd, struct stats *stats, void (*up)(void *), void *up_arg,
                 struct pl_err *err)
{
    struct state *s = arg;
    struct up u = {.s = s, .i = i, .up = up, .arg = up_arg};
    int r = loss_begin(&s->loss, i, s->mounts[i].page->dir, s->mounts[i].dev, err);
    struct fuse_opts opts = s->d->opts.fuse;
    opts.gone = gone;
    opts.gone_arg = s;
    if (r == 0) {
        r = fuse_serve(fd, s->trees[i], "", &opts, stats, now_up, &u, err);
        /* One that could not begin, since the link ends: why is said a moment later. */
        if (r < 0 && p9_conn_over(conn_of(s)))
            p9_conn_wait(conn_of(s), NULL);
        r = loss_end(&s->loss, i, r, err);
    }
    return s->d->remote && atomic_load(&s->over) ? 0 : r;
}

/* Ends our direction: 0 when the peer has taken note. */
static int say_goodbye(struct state *s)
{
    struct pl_call call;
    pl_call_init_self(&call);
    call.deadline = mono_now() + GOODBYE_NS;
    int r = p9_use_end(conn_of(s), &call);
    pl_call_done(&call);
    return r;
}

/* Our direction has ended. If the link is down the other one may yet go on, when it is back and we
 * have said so; if there is no other, nothing is worth waiting for. False: give the link up. */
static bool wait_up(struct state *s)
{
    bool up;
    pthread_mutex_lock(&s->lock);
    while (!(up = p9_conn_down(conn_of(s)) == 0) && s->d->nexports && !s->stopping &&
           !atomic_load(&s->over)) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;
        pthread_cond_timedwait(&s->change, &s->lock, &until);
    }
    pthread_mutex_unlock(&s->lock);
    return up;
}

/* Waits for the end of the other direction, unless we are to stop: then the connection is over. */
static int wait_over(struct state *s, struct pl_err *err)
{
    pthread_mutex_lock(&s->lock);
    s->waiting = true;
    pthread_cond_broadcast(&s->change);
    if (s->stopping)
        p9_conn_abort(conn_of(s));
    pthread_mutex_unlock(&s->lock);
    int r = p9_conn_wait(conn_of(s), NULL);
    pthread_mutex_lock(&s->lock);
    s->waiting = false;
    bool asked = s->stopping || s->d->remote;
    pthread_mutex_unlock(&s->lock);
    asked = asked || s->visited;
    return r < 0 && !asked ? pl_fail(err, r, "link to %s lost: %s", s->peer, s->sentence) : 0;
}

static int finish(void *arg, struct pl_err *err)
{
    struct state *s = arg;
    bool used = drop_trees(s);
    int r = 0;
    /* A plain server knows of no second direction: with ours all is over. */
    bool wait = !used || p9_extended(conn_of(s));
    if (used && !atomic_load(&s->over) && (!wait_up(s) || say_goodbye(s) < 0)) {
        p9_conn_abort(conn_of(s)); /* a link that was lost keeps its own sentence */
        wait = true;
    }
    if (wait || atomic_load(&s->over))
        r = wait_over(s, err);
    loss_ending(&s->loss);
    pthread_mutex_lock(&s->lock);
    s->finished = true;
    pthread_cond_broadcast(&s->change);
    pthread_mutex_unlock(&s->lock);
    p9_conn_abort(conn_of(s));
    release(s);
    return r;
}

/* Our direction gets a moment to end well. A peer that says nothing any more answers no Tflush
 * either, and what waits for it would never return. */
static void stop(void *arg)
{
    struct state *s = arg;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += GOODBYE_NS / 1000000000;
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    loss_ending(&s->loss);
    pthread_cond_broadcast(&s->change);
    if (!s->finished && p9_conn_down(conn_of(s)))
        p9_conn_abort(conn_of(s)); /* nobody is there to end it well with */
    while (!s->waiting && !s->finished &&
           pthread_cond_timedwait(&s->change, &s->lock, &until) != ETIMEDOUT)
        ;
    if (!s->finished)
        p9_conn_abort(conn_of(s));
    pthread_mutex_unlock(&s->lock);
}

static int with_mounts(struct state *s)
{
    for (size_t i = 0; i < s->d->nmounts; i++)
        s->mounts[i] = (struct keeper_mount){
            .dir = s->d->mounts[i].dir, .spec = s->text, .opts = s->d->opts.mount};
    if (!s->d->opts.confine)
        confine_need(CONFINE_NOTHING);
    char prefix[32];
    snprintf(prefix, sizeof(prefix), "plenum: %s", s->d->cmd->name);
    struct keeper_job job = {
        .kind = "duct",
        .prefix = prefix,
        .nmounts = s->d->nmounts,
        .mounts = s->mounts,
        .foreground = true,
        .arg = s,
        .prepare = prepare,
        .serve = serve,
        .finish = finish,
        .stop = stop,
    };
    return keeper_run(&job);
}

/* ---- without mounts ---- */

/* Who is called cannot know what called it, and waits for a word before it uses anything: we say
 * it, and that we use nothing, unless the peer speaks first. */
static void *greet(void *arg)
{
    struct state *s = arg;
    struct pl_call call;
    pl_call_init_self(&call);
    if (use(s, &call, NULL) == 0)
        p9_use_end(conn_of(s), &call);
    pl_call_done(&call);
    return NULL;
}

static int serve_only(struct state *s, int signals)
{
    struct pl_err err = {0};
    pthread_t greeter;
    int r = open_exports(s, &err);
    if (r == 0)
        r = connect_both(s, &err);
    bool caller = r == 0 && s->use;
    if (r == 0 && caller && pthread_create(&greeter, NULL, greet, s) != 0)
        r = pl_fail(&err, -EAGAIN, "no memory for a thread");
    if (r == 0 && s->returns)
        r = returns_start(s->returns, &err);
    if (r < 0) {
        release(s);
        return cmd_error(s->d->cmd, &err);
    }
    note_link(s, conn_of(s));
    announce_exports(s);
    reg_set_peer(s->page, s->peer);
    reg_set_state(s->page, "up");
    bool stopped = false;
    uint64_t n;
    while (!stopped && !atomic_load(&s->over)) {
        struct pollfd fds[2] = {{.fd = signals, .events = POLLIN},
                                {.fd = s->event_fd, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            break;
        stopped = fds[0].revents;
        if (!stopped && fds[1].revents && !atomic_load(&s->over) &&
            read(s->event_fd, &n, sizeof(n)) > 0) {
            returns_stop(s->returns);
            if (called_again(s, &r, &err) && r < 0) {
                release(s);
                return cmd_error(s->d->cmd, &err);
            }
            if (s->returns && returns_start(s->returns, &err) < 0)
                break;
        }
    }
    int status = EXIT_OK;
    if (!stopped && s->error)
        status = s->d->remote ? EXIT_OK
                              : cmd_fail(s->d->cmd, "link to %s lost: %s", s->peer, s->sentence);
    loss_ending(&s->loss);
    p9_conn_abort(conn_of(s));
    if (caller)
        pthread_join(greeter, NULL);
    release(s);
    return status;
}

static int without_mounts(struct state *s)
{
    struct reg_entry *entry = NULL;
    struct reg_page *page = NULL;
    int signals = util_signals();
    s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (signals < 0 || s->event_fd < 0)
        return cmd_fail(s->d->cmd, "%s", strerror(errno));
    if (reg_add("duct", "", s->text, &entry, &page) < 0 && !page)
        return cmd_fail(s->d->cmd, "out of memory");
    atomic_store(&page->server, getpid());
    s->stats = &page->stats;
    s->page = page;
    int status = serve_only(s, signals);
    reg_del(entry);
    return status;
}

int duct_run(struct duct *d)
{
    if (d->remote) /* from an sshd that dies, which is no reason to end */
        signal(SIGHUP, SIG_IGN);
    struct state *s = calloc(1, sizeof(*s));
    if (!s || loss_init(&s->loss, d->nmounts) < 0) {
        free(s);
        return cmd_fail(d->cmd, "out of memory");
    }
    s->d = d;
    s->stats = &s->own_stats;
    s->event_fd = -1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->change, NULL);
    size_t used = (size_t)snprintf(s->text, sizeof(s->text), "duct(");
    for (size_t i = 0; i < d->nexports && used < sizeof(s->text); i++)
        used += (size_t)snprintf(s->text + used, sizeof(s->text) - used, "%s%s", i ? "," : "",
                                 spec_text(d->exports[i].spec));
    if (used < sizeof(s->text))
        snprintf(s->text + used, sizeof(s->text) - used, "%s)", d->nexports ? "" : "-");
    int status = d->nmounts ? with_mounts(s) : without_mounts(s);
    loss_done(&s->loss);
    for (size_t i = 0; i < d->nexports; i++)
        spec_free(d->exports[i].spec);
    free(s);
    return status;
}
